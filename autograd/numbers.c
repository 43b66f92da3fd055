/* numbers.c - see numbers.h. */
#include "autograd/numbers.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

bool ag_is_float(ag_dtype dtype)
{
    return dtype == AG_F32 || dtype == AG_F16 || dtype == AG_BF16 || dtype == AG_F64;
}

/* f16 eight at a time: a model of 2 GB is converted in the time it is read. */
#if defined(__x86_64__)
/* Every processor with AVX2 has these, and not every compiler can ask for F16C by name. */
__attribute__((target("avx,f16c"))) static int64_t wide_f16(float *to, const uint16_t *from, int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
    return i;
}

__attribute__((target("avx,f16c"))) static int64_t narrow_f16(uint16_t *to, const float *from, int64_t n)
{
    int64_t i = 0;

    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(to + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(from + i),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    return i;
}

static bool has_f16c(void)
{
    return __builtin_cpu_supports("avx2");
}
#else
static int64_t wide_f16(float *to, const uint16_t *from, int64_t n)
{
    (void)to, (void)from, (void)n;
    return 0;
}

static int64_t narrow_f16(uint16_t *to, const float *from, int64_t n)
{
    (void)to, (void)from, (void)n;
    return 0;
}

static bool has_f16c(void)
{
    return false;
}
#endif

void ag_widen(float *to, ag_dtype dtype, const void *from, int64_t n)
{
    const uint16_t *half = from;
    const double *wide = from;
    int64_t i = 0;

    switch (dtype) {
    case AG_F32:
        if (n > 0)
            memcpy(to, from, (size_t)n * sizeof *to);
        break;
    case AG_F16:
        if (has_f16c())
            i = wide_f16(to, half, n);
        for (; i < n; i++)
            to[i] = ag_f32_of_f16(half[i]);
        break;
    case AG_BF16:
        for (; i < n; i++)
            to[i] = ag_f32_of_bf16(half[i]);
        break;
    case AG_F64:
        for (; i < n; i++)
            to[i] = (float)wide[i];
        break;
    default: /* not ag_is_float() */
        break;
    }
}

void ag_narrow(void *to, ag_dtype dtype, const float *from, int64_t n)
{
    uint16_t *half = to;
    double *wide = to;
    int64_t i = 0;

    switch (dtype) {
    case AG_F32:
        if (n > 0)
            memcpy(to, from, (size_t)n * sizeof *from);
        break;
    case AG_F16:
        if (has_f16c())
            i = narrow_f16(half, from, n);
        for (; i < n; i++)
            half[i] = ag_f16_of_f32(from[i]);
        break;
    case AG_BF16:
        for (; i < n; i++)
            half[i] = ag_bf16_of_f32(from[i]);
        break;
    case AG_F64:
        for (; i < n; i++)
            wide[i] = from[i];
        break;
    default: /* not ag_is_float() */
        break;
    }
}
