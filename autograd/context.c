/* context.c - the handle: errors, host memory, heaps, counters. */
#include "autograd/context.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/cpu/state.h"
#include "autograd/internal.h"

/* --- errors ---------------------------------------------------------------------------------- */

ag_status ag_fail(ag_ctx *ctx, ag_status status, const char *format, ...)
{
    va_list args;

    if (ctx->status != AG_OK)
        return status;
    ctx->status = status;
    va_start(args, format);
    vsnprintf(ctx->message, sizeof ctx->message, format, args);
    va_end(args);
    for (char *c = ctx->message; *c; c++)
        if (*c == '\n' || *c == '\r')
            *c = ' '; /* one line, whatever a file name or a library put in */
    return status;
}

ag_status ag_status_of(const ag_ctx *ctx)
{
    return ctx->status;
}

const char *ag_message(const ag_ctx *ctx)
{
    return ctx->message;
}

void ag_clear(ag_ctx *ctx)
{
    ctx->status = AG_OK;
    ctx->message[0] = '\0';
}

const char *ag_status_name(ag_status status)
{
    switch (status) {
    case AG_OK: return "ok";
    case AG_EINVAL: return "invalid argument";
    case AG_ESHAPE: return "shape mismatch";
    case AG_EDTYPE: return "wrong element type";
    case AG_ENOMEM: return "out of memory";
    case AG_EIO: return "input/output error";
    case AG_EDATA: return "bad data";
    case AG_EDEVICE: return "device error";
    case AG_ENUMERIC: return "not a finite number";
    case AG_EUNSUPPORTED: return "unsupported";
    case AG_ESTOPPED: return "stopped";
    }
    return "unknown";
}

/* --- host memory ----------------------------------------------------------------------------- */

bool ag_is_refused(ag_ctx *ctx)
{
    if (ctx->refuse_in < 0)
        return false;
    if (ctx->refuse_in > 0) {
        ctx->refuse_in--;
        return false;
    }
    if (!ctx->refuse_forever)
        ctx->refuse_in = -1;
    return true;
}

void ag_refuse_allocation(ag_ctx *ctx, int64_t n, bool forever)
{
    ctx->refuse_in = n;
    ctx->refuse_forever = forever;
}

void *ag_grow(ag_ctx *ctx, void *old, size_t count, size_t size, const char *what)
{
    size_t bytes;
    void *memory;

    if (__builtin_mul_overflow(count, size, &bytes) || bytes > (size_t)1 << 46) {
        ag_fail(ctx, AG_ENOMEM, "%s: %zu elements of %zu bytes are too many", what, count, size);
        return NULL;
    }
    memory = ag_is_refused(ctx) ? NULL : realloc(old, bytes ? bytes : 1);
    if (!memory)
        ag_fail(ctx, AG_ENOMEM, "%s: no memory for %zu bytes", what, bytes);
    return memory;
}

void *ag_new(ag_ctx *ctx, size_t count, size_t size, const char *what)
{
    void *memory = ag_grow(ctx, NULL, count, size, what);

    if (memory)
        memset(memory, 0, count * size);
    return memory;
}

char *ag_strdup(ag_ctx *ctx, const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *copy = ag_new(ctx, bytes, 1, "text");

    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

char *ag_printf(ag_ctx *ctx, const char *format, ...)
{
    va_list args;
    char *text;
    int n;

    va_start(args, format);
    n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0) {
        ag_fail(ctx, AG_EINVAL, "text that cannot be formatted: %s", format);
        return NULL;
    }
    text = ag_new(ctx, (size_t)n + 1, 1, "text");
    if (!text)
        return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}

void ag_delete(void *memory)
{
    free(memory);
}

/* Small records: classes of 64 << k bytes, cut from slabs that live as long as the context. */
enum { SLAB_BYTES = 1 << 16, SLAB_HEADER = 64 };

static int host_class(size_t bytes)
{
    int k = 0;

    while ((size_t)64 << k < bytes)
        k++;
    return k;
}

void *ag_host_take(ag_ctx *ctx, size_t bytes)
{
    const int k = host_class(bytes);
    const size_t size = (size_t)64 << k;
    void *memory;

    if (k >= AG_N_HOST_CLASSES || ag_is_refused(ctx)) {
        ag_fail(ctx, AG_ENOMEM, "no memory for a record of %zu bytes", bytes);
        return NULL;
    }
    if (!ctx->host_free[k]) {
        const size_t room = size > SLAB_BYTES ? size : SLAB_BYTES;
        char *slab = aligned_alloc(64, SLAB_HEADER + room);
        if (!slab) {
            ag_fail(ctx, AG_ENOMEM, "no memory for %zu bytes of records", room);
            return NULL;
        }
        *(void **)slab = ctx->host_slabs;
        ctx->host_slabs = slab;
        for (size_t at = 0; at + size <= room; at += size) {
            *(void **)(slab + SLAB_HEADER + at) = ctx->host_free[k];
            ctx->host_free[k] = slab + SLAB_HEADER + at;
        }
    }
    memory = ctx->host_free[k];
    ctx->host_free[k] = *(void **)memory;
    return memory;
}

void ag_host_give(ag_ctx *ctx, void *memory, size_t bytes)
{
    const int k = host_class(bytes);

    if (!memory)
        return;
    *(void **)memory = ctx->host_free[k];
    ctx->host_free[k] = memory;
}

/* --- the context ------------------------------------------------------------------------------ */

static int processors(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    return 1;
}

/* A word in the environment that nobody knows must not be passed over in silence. */
static void check_environment(ag_ctx *ctx)
{
    const char *most = getenv("AGEWRIGHT_MAX_ISA");
    cpu_isa isa;

    if (most && most[0] && !cpu_isa_parse(&isa, most))
        ag_fail(ctx, AG_EINVAL, "AGEWRIGHT_MAX_ISA=%s: wanted portable, avx2, avx512 or amx", most);
}

static bool open_cuda(ag_ctx *ctx)
{
    const ag_cuda_api *api = ag_cuda_built();

    if (!api) {
        ag_fail(ctx, AG_EDEVICE, "device cuda: this program was built without the CUDA toolkit; use --device cpu");
        return false;
    }
    ctx->bundle = ag_bundle_new();
    if (!ctx->bundle) {
        ag_fail(ctx, AG_ENOMEM, "no memory for the CUDA back end");
        return false;
    }
    ctx->cuda = api->open(ctx);
    if (ctx->cuda)
        ctx->cuda_api = api;
    return ctx->cuda != NULL;
}

/* On AG_META: what a back end would take beside tensors is known to a program that has one. */
static void foresee_cuda(ag_ctx *ctx)
{
    const ag_cuda_api *api = ag_cuda_built();

    ctx->foreseen = api ? api->foresee(ctx) : NULL;
    if (ctx->foreseen)
        ctx->cuda_api = api;
}

ag_ctx *ag_ctx_new(const ag_ctx_options *options)
{
    ag_ctx *ctx = calloc(1, sizeof *ctx);

    if (!ctx)
        return NULL;
    if (options)
        ctx->options = *options;
    if (ctx->options.n_threads <= 0)
        ctx->options.n_threads = processors();
    ctx->recording = true;
    ctx->refuse_in = -1;
    ctx->next_serial = ctx->next_node = ctx->next_pass = ctx->next_capture = 1;
    check_environment(ctx);
    if (ctx->options.device == AG_CUDA && !open_cuda(ctx))
        return ctx;
    for (int h = 0; h < AG_N_HEAPS; h++) {
        ctx->heap[h] = ag_heap_new(ctx);
        if (!ctx->heap[h]) {
            ag_fail(ctx, AG_ENOMEM, "no address space for tensor memory");
            return ctx;
        }
    }
    if (ctx->options.device == AG_META && ctx->options.stands_for == AG_CUDA)
        foresee_cuda(ctx);
    if (ag_ctx_target(ctx) == AG_CUDA)
        return ctx;
    ctx->cpu = cpu_state_new(ctx->options.n_threads); /* AG_META asks it what scratch a kernel would take */
    if (!ctx->cpu)
        ag_fail(ctx, AG_ENOMEM, "no memory for the CPU back end");
    return ctx;
}

void ag_ctx_free(ag_ctx *ctx)
{
    if (!ctx)
        return;
    ag_bundle_free(ctx);
    for (size_t i = 0; i < ctx->n_pool; i++)
        ag_release(ctx->pool[i]);
    for (int h = 0; h < AG_N_HEAPS; h++)
        ag_heap_free(ctx->heap[h]);
    cpu_state_free(ctx->cpu);
    if (ctx->cuda_api)
        ctx->cuda_api->close(ctx->cuda ? ctx->cuda : ctx->foreseen);
    free(ctx->pool);
    free(ctx->walk);
    for (void *slab = ctx->host_slabs; slab;) {
        void *next = *(void **)slab;
        free(slab);
        slab = next;
    }
    free(ctx);
}

ag_device ag_ctx_device(const ag_ctx *ctx)
{
    return ctx->options.device;
}

ag_device ag_ctx_target(const ag_ctx *ctx)
{
    return ctx->options.device == AG_META ? ctx->options.stands_for : ctx->options.device;
}

int ag_ctx_threads(const ag_ctx *ctx)
{
    return ctx->options.n_threads;
}

bool ag_ctx_allows_tf32(const ag_ctx *ctx)
{
    return ctx->options.allow_tf32;
}

bool ag_ctx_allows_any_order(const ag_ctx *ctx)
{
    return ctx->options.any_order;
}

struct cpu_state *ag_cpu(ag_ctx *ctx)
{
    return ctx->cpu;
}

struct ag_cuda *ag_cuda_of(ag_ctx *ctx)
{
    return ctx->cuda ? ctx->cuda : ctx->foreseen;
}

ag_status ag_check_recorded(ag_ctx *ctx, const char *what)
{
    if (ctx->is_recorded)
        ag_fail(ctx, AG_EUNSUPPORTED, "a step that is recorded %s", what);
    return ctx->status;
}

ag_status ag_wait(ag_ctx *ctx)
{
    ag_check_recorded(ctx, "waits for the device");
    return ag_bundle_run(ctx) == AG_OK && ctx->cuda ? ctx->cuda_api->wait(ctx->cuda) : ctx->status;
}

void ag_observe(ag_ctx *ctx, ag_observer observer, void *user)
{
    ctx->observer = observer;
    ctx->observer_user = user;
}

size_t ag_bytes_now(const ag_ctx *ctx, ag_lifetime lifetime)
{
    return ctx->now[lifetime];
}

size_t ag_bytes_peak(const ag_ctx *ctx, ag_lifetime lifetime)
{
    return ctx->peak[lifetime];
}

size_t ag_bytes_touched(const ag_ctx *ctx)
{
    size_t bytes = 0, arena = 0;

    for (int h = 0; h < AG_N_HEAPS; h++) {
        bytes += ctx->heap[h] ? ag_heap_touched_peak(ctx->heap[h]) : 0;
        arena += ctx->arena[h] ? ag_heap_touched_peak(ctx->arena[h]) : 0;
    }
    return bytes + (arena > ctx->arena_touched ? arena : ctx->arena_touched);
}

void ag_bytes_reset_peak(ag_ctx *ctx)
{
    for (int l = 0; l < AG_N_LIFETIMES; l++)
        ctx->peak[l] = ctx->now[l];
}

void ag_trim(ag_ctx *ctx)
{
    for (int h = 0; h < AG_N_HEAPS; h++) {
        ag_heap *const arena = ctx->in_arena ? ctx->heap[h] : ctx->arena[h];
        ag_heap *const heap = ctx->in_arena && ctx->arena[h] ? ctx->arena[h] : ctx->heap[h];
        if (heap)
            ag_heap_trim(heap);
        if (arena && arena != heap && ctx->n_graphs == 0)
            ag_heap_trim(arena);
    }
}
