/* cpu_check.h - what the tests of autograd/cpu share: numbers, comparison, the instruction sets.
 *
 * check_each_isa() runs a test once per instruction set of this machine, portable first.
 */
#ifndef TESTS_CPU_CHECK_H
#define TESTS_CPU_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/cpu/isa.h"

/* xorshift64*, in [-1, 1). */
static inline double check_number(uint64_t *seed)
{
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    return (double)((*seed * 2685821657736338717u) >> 11) / 4503599627370496.0 - 1.0;
}

/* n floats on the heap, exactly as many as asked for, so that the sanitizer sees an overrun. */
static inline float *check_floats(int64_t n)
{
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = NAN;
    return x;
}

static inline float *check_random(int64_t n, uint64_t *seed, double center, double width)
{
    float *x = check_floats(n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(center + width * check_number(seed));
    return x;
}

static inline double *check_doubles(const float *x, int64_t n)
{
    double *y = calloc((size_t)(n ? n : 1), sizeof *y);
    assert_non_null(y);
    for (int64_t i = 0; x && i < n; i++)
        y[i] = x[i];
    return y;
}

/* 64-byte aligned scratch full of NaN bytes: nothing may rely on zeros. */
static inline void *check_scratch(size_t bytes)
{
    const size_t rounded = (bytes + 63) / 64 * 64 + 64;
    void *p = aligned_alloc(64, rounded);
    assert_non_null(p);
    memset(p, 0xff, rounded);
    return p;
}

/* |got - want| <= tolerance * (1 + max |want|) everywhere. */
static inline void check_near(const char *what, int isa, const float *got, const double *want,
                              int64_t n, double tolerance)
{
    double size = 1.0;

    for (int64_t i = 0; i < n; i++)
        if (fabs(want[i]) > size)
            size = fabs(want[i]);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= tolerance * size))
            fail_msg("%s (isa %d): [%lld] is %.9g, want %.9g (within %.3g)", what, isa,
                     (long long)i, (double)got[i], want[i], tolerance * size);
}

static inline void check_same(const char *what, int isa, const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a))
            fail_msg("%s (isa %d): [%lld] is %.9g and %.9g", what, isa, (long long)i, (double)a[i],
                     (double)b[i]);
}

static inline void check_each_isa(void (*test)(int isa))
{
    for (int isa = CPU_ISA_PORTABLE; isa <= (int)cpu_isa_here(); isa++)
        test(isa);
}

#endif /* TESTS_CPU_CHECK_H */
