/* malloc_check.h - counts the calls of malloc and its kin in the program that includes this, once.
 */
#ifndef TESTS_MALLOC_CHECK_H
#define TESTS_MALLOC_CHECK_H

#include <stdatomic.h>
#include <stdbool.h>

#include "tests/check.h"

static atomic_bool counting;
static atomic_long n_calls;

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
#define COUNTS_MALLOC 1

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static void count(void)
{
    if (counting)
        n_calls++;
}

void *malloc(size_t size)
{
    count();
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    count();
    return __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    count();
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    count();
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    count();
    *out = __libc_memalign(alignment, size);
    return *out ? 0 : 12; /* ENOMEM */
}
#else
#define COUNTS_MALLOC 0
#endif

static inline void check_malloc_begin(void)
{
    n_calls = 0;
    counting = true;
}

/* Fails when there was a call since. Where they cannot be counted, says SKIP. */
static inline void check_malloc_end(const char *what)
{
    counting = false;
    if (getenv("AG_TEST_DEVICE") && strcmp(getenv("AG_TEST_DEVICE"), "cuda") == 0) {
        print_message("SKIP counting malloc: the device's libraries call it too\n");
        return;
    }
    if (n_calls)
        fail_msg("%s called malloc %ld times", what, (long)n_calls);
    if (!COUNTS_MALLOC)
        print_message("SKIP counting malloc: the sanitizer owns it\n");
}

#endif /* TESTS_MALLOC_CHECK_H */
