/* vector.h - one vector type for the three instruction sets that kernels are compiled for.
 *
 * A kernel body (*_kernel.inc.h) is written once with the names below and compiled three times: in
 * name_avx512.c (16 floats), name_avx2.c (8 floats) and name.c (4 floats by the compiler's vector
 * extension: plain x86-64, or any other machine), and where bf16 matters a fourth time in name_amx.c
 * (as AVX-512, which there rounds to bf16 in one instruction). Which one is decided by the flags of the file.
 *
 * vec_max and vec_min return their second argument when either is NaN: with the data second and a
 * constant first, a NaN goes through.
 *
 * vec_stream stores past the caches, to an address of 64-byte alignment, where nobody reads soon;
 * after the last one vec_stream_end() makes it visible to other threads.
 *
 * Private to autograd/cpu.
 */
#ifndef AG_CPU_VECTOR_H
#define AG_CPU_VECTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define VEC_INLINE static inline __attribute__((always_inline, unused))
#define VEC_GLUE_(a, b) a##_##b
#define VEC_GLUE(a, b) VEC_GLUE_(a, b)

#if defined(__AVX512F__)

#if defined(__AVX512BF16__)
#define VEC_NAME(name) VEC_GLUE(name, amx)
#else
#define VEC_NAME(name) VEC_GLUE(name, avx512)
#endif
enum { VEC_N = 16 };
typedef __m512 vec;

VEC_INLINE vec vec_set(float a) { return _mm512_set1_ps(a); }
VEC_INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE void vec_store(float *p, vec a) { _mm512_storeu_ps(p, a); }
VEC_INLINE void vec_stream(float *p, vec a) { _mm512_stream_ps(p, a); }
VEC_INLINE void vec_stream_end(void) { _mm_sfence(); }
VEC_INLINE __mmask16 vec_first_(int64_t n) { return (__mmask16)((1u << n) - 1); }
VEC_INLINE vec vec_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(vec_first_(n), p);
}
VEC_INLINE vec vec_load_or(const float *p, int64_t n, float rest)
{
    return _mm512_mask_loadu_ps(vec_set(rest), vec_first_(n), p);
}
VEC_INLINE void vec_store_n(float *p, vec a, int64_t n)
{
    _mm512_mask_storeu_ps(p, vec_first_(n), a);
}
VEC_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
VEC_INLINE vec vec_sqrt(vec a) { return _mm512_sqrt_ps(a); }
VEC_INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
VEC_INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
VEC_INLINE vec vec_fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }
VEC_INLINE vec vec_abs(vec a) { return _mm512_abs_ps(a); }
VEC_INLINE vec vec_shift_exponent_(vec a)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 23));
}
VEC_INLINE vec vec_pick_negative(vec x, vec if_negative, vec otherwise)
{
    const __mmask16 m = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mask_blend_ps(m, otherwise, if_negative);
}

#elif defined(__AVX2__)

#define VEC_NAME(name) VEC_GLUE(name, avx2)
enum { VEC_N = 8 };
typedef __m256 vec;

VEC_INLINE vec vec_set(float a) { return _mm256_set1_ps(a); }
VEC_INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
VEC_INLINE void vec_store(float *p, vec a) { _mm256_storeu_ps(p, a); }
VEC_INLINE void vec_stream(float *p, vec a) { _mm256_stream_ps(p, a); }
VEC_INLINE void vec_stream_end(void) { _mm_sfence(); }
VEC_INLINE __m256i vec_first_(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
VEC_INLINE vec vec_load_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, vec_first_(n));
}
VEC_INLINE vec vec_load_or(const float *p, int64_t n, float rest)
{
    const __m256i first = vec_first_(n);
    return _mm256_blendv_ps(vec_set(rest), _mm256_maskload_ps(p, first),
                            _mm256_castsi256_ps(first));
}
VEC_INLINE void vec_store_n(float *p, vec a, int64_t n)
{
    _mm256_maskstore_ps(p, vec_first_(n), a);
}
VEC_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
VEC_INLINE vec vec_sqrt(vec a) { return _mm256_sqrt_ps(a); }
VEC_INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
VEC_INLINE vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
VEC_INLINE vec vec_fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
VEC_INLINE vec vec_abs(vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
VEC_INLINE vec vec_shift_exponent_(vec a)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 23));
}
VEC_INLINE vec vec_pick_negative(vec x, vec if_negative, vec otherwise)
{
    const vec m = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ);
    return _mm256_blendv_ps(otherwise, if_negative, m);
}

#else

#define VEC_NAME(name) VEC_GLUE(name, portable)
enum { VEC_N = 4 };
typedef float vec __attribute__((vector_size(16)));
typedef int32_t vec_int_ __attribute__((vector_size(16)));
typedef uint32_t vec_uint_ __attribute__((vector_size(16)));

VEC_INLINE vec vec_set(float a) { return (vec){a, a, a, a}; }
VEC_INLINE vec vec_load(const float *p)
{
    vec a;
    memcpy(&a, p, sizeof a);
    return a;
}
VEC_INLINE void vec_store(float *p, vec a) { memcpy(p, &a, sizeof a); }
VEC_INLINE void vec_stream(float *p, vec a) { vec_store(p, a); }
VEC_INLINE void vec_stream_end(void) {}
VEC_INLINE vec vec_load_or(const float *p, int64_t n, float rest)
{
    vec a = vec_set(rest);
    for (int64_t i = 0; i < n; i++)
        a[i] = p[i];
    return a;
}
VEC_INLINE vec vec_load_n(const float *p, int64_t n) { return vec_load_or(p, n, 0.0f); }
VEC_INLINE void vec_store_n(float *p, vec a, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        p[i] = a[i];
}
VEC_INLINE vec vec_add(vec a, vec b) { return a + b; }
VEC_INLINE vec vec_sub(vec a, vec b) { return a - b; }
VEC_INLINE vec vec_mul(vec a, vec b) { return a * b; }
VEC_INLINE vec vec_div(vec a, vec b) { return a / b; }
VEC_INLINE vec vec_sqrt(vec a)
{
#if defined(__SSE__)
    return (vec)__builtin_ia32_sqrtps(a);
#else
    return (vec){__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]),
                 __builtin_sqrtf(a[3])};
#endif
}
VEC_INLINE vec vec_choose_(vec_int_ mask, vec yes, vec no)
{
    return (vec)(((vec_int_)yes & mask) | ((vec_int_)no & ~mask));
}
VEC_INLINE vec vec_max(vec a, vec b) { return vec_choose_(a > b, a, b); }
VEC_INLINE vec vec_min(vec a, vec b) { return vec_choose_(a < b, a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return a * b + c; }
VEC_INLINE vec vec_fnma(vec a, vec b, vec c) { return c - a * b; }
VEC_INLINE vec vec_abs(vec a) { return (vec)((vec_int_)a & 0x7fffffff); }
VEC_INLINE vec vec_shift_exponent_(vec a)
{
    return (vec)((vec_uint_)a << 23);
}
VEC_INLINE vec vec_pick_negative(vec x, vec if_negative, vec otherwise)
{
    return vec_choose_(x < vec_set(0), if_negative, otherwise);
}

#endif

/* VEC_N bf16 numbers, or the first n of them and zeros; rounded to the nearest, ties to even, a NaN stays. */
#if defined(__AVX512F__)
VEC_INLINE vec vec_load_bf16_n(const uint16_t *p, int64_t n)
{
    const __m256i half = _mm256_maskz_loadu_epi16(vec_first_(n), p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
VEC_INLINE vec vec_load_bf16(const uint16_t *p) { return vec_load_bf16_n(p, VEC_N); }
VEC_INLINE void vec_store_bf16_n(uint16_t *p, vec a, int64_t n)
{
    const __m512i bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i rounded = _mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16),
                                                 _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), high,
                                                 _mm512_set1_epi32(0x40));
    _mm256_mask_storeu_epi16(p, vec_first_(n), _mm512_cvtepi32_epi16(rounded));
}
VEC_INLINE void vec_store_bf16(uint16_t *p, vec a) { vec_store_bf16_n(p, a, VEC_N); }
#elif defined(__AVX2__)
VEC_INLINE vec vec_load_bf16(const uint16_t *p)
{
    const __m128i half = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
VEC_INLINE void vec_store_bf16(uint16_t *p, vec a)
{
    const __m256i bits = _mm256_castps_si256(a), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i rounded = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(packed));
}
#else
VEC_INLINE vec vec_load_bf16(const uint16_t *p)
{
    return (vec)(vec_uint_){(uint32_t)p[0] << 16, (uint32_t)p[1] << 16, (uint32_t)p[2] << 16,
                            (uint32_t)p[3] << 16};
}
VEC_INLINE void vec_store_bf16(uint16_t *p, vec a)
{
    const vec_uint_ bits = (vec_uint_)a, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const vec_uint_ nan = (vec_uint_)(a != a);
    const vec_uint_ r = ((bits >> 16 | 0x40) & nan) | (rounded & ~nan);
    for (int i = 0; i < VEC_N; i++)
        p[i] = (uint16_t)r[i];
}
#endif
#if !defined(__AVX512F__)
VEC_INLINE vec vec_load_bf16_n(const uint16_t *p, int64_t n)
{
    uint16_t all[VEC_N] = {0};
    memcpy(all, p, (size_t)n * sizeof *p);
    return vec_load_bf16(all);
}
VEC_INLINE void vec_store_bf16_n(uint16_t *p, vec a, int64_t n)
{
    uint16_t all[VEC_N];
    vec_store_bf16(all, a);
    memcpy(p, all, (size_t)n * sizeof *p);
}
#endif

/* Fetch the line of element i, which may be beyond the end. For a tensor that is walked along once: what stands a
 * page beyond element i; the processor does not look that far ahead itself. */
VEC_INLINE void vec_fetch(const bool bf16, const void *x, int64_t i)
{
    __builtin_prefetch((const void *)((uintptr_t)x + (uintptr_t)i * (bf16 ? 2 : 4)));
}
VEC_INLINE void vec_fetch_ahead(const bool bf16, const void *x, int64_t i)
{
    vec_fetch(bf16, x, i + (bf16 ? 2048 : 1024));
}

/* The numbers of a tensor from element i on, n of them (more than VEC_N: VEC_N): bf16, or f32. */
VEC_INLINE vec vec_get(const bool bf16, const void *x, int64_t i, int64_t n)
{
    if (bf16)
        return n >= VEC_N ? vec_load_bf16((const uint16_t *)x + i)
                          : vec_load_bf16_n((const uint16_t *)x + i, n);
    return n >= VEC_N ? vec_load((const float *)x + i) : vec_load_n((const float *)x + i, n);
}
/* On AMX subnormal numbers become 0, as they count in its products. */
VEC_INLINE void vec_put(const bool bf16, void *y, int64_t i, int64_t n, vec a)
{
#if defined(__AVX512BF16__)
    if (bf16) {
        const __mmask16 first = n >= VEC_N ? (__mmask16)0xffff : vec_first_(n);
        _mm256_mask_storeu_epi16((uint16_t *)y + i, first, (__m256i)_mm512_cvtneps_pbh(a));
        return;
    }
#endif
    if (bf16 && n >= VEC_N)
        vec_store_bf16((uint16_t *)y + i, a);
    else if (bf16)
        vec_store_bf16_n((uint16_t *)y + i, a, n);
    else if (n >= VEC_N)
        vec_store((float *)y + i, a);
    else
        vec_store_n((float *)y + i, a, n);
}
/* Lanes from n on become `rest`. */
VEC_INLINE vec vec_fill_up(vec a, int64_t n, float rest)
{
    float lane[VEC_N];

    if (n >= VEC_N)
        return a;
    vec_store(lane, a);
    return vec_load_or(lane, n, rest);
}

/* The lanes added in a fixed order, by halves; and the largest lane (of numbers). */
#if defined(__AVX2__)
#if defined(__AVX512F__)
VEC_INLINE __m256 vec_low_(vec a) { return _mm512_castps512_ps256(a); }
VEC_INLINE __m256 vec_high_(vec a) { return _mm512_extractf32x8_ps(a, 1); }
VEC_INLINE __m256 vec_half_sum_(vec a) { return _mm256_add_ps(vec_low_(a), vec_high_(a)); }
VEC_INLINE __m256 vec_half_top_(vec a) { return _mm256_max_ps(vec_low_(a), vec_high_(a)); }
#else
VEC_INLINE __m256 vec_half_sum_(vec a) { return a; }
VEC_INLINE __m256 vec_half_top_(vec a) { return a; }
#endif
VEC_INLINE float vec_sum(vec a)
{
    const __m256 b = vec_half_sum_(a);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
VEC_INLINE float vec_top(vec a)
{
    const __m256 b = vec_half_top_(a);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
#else
VEC_INLINE float vec_sum(vec a) { return (a[0] + a[2]) + (a[1] + a[3]); }
VEC_INLINE float vec_top(vec a)
{
    const float b = a[0] > a[2] ? a[0] : a[2], c = a[1] > a[3] ? a[1] : a[3];
    return b > c ? b : c;
}
#endif

/* Adding 1.5 * 2^23 + 127 rounds to an integer and leaves it, plus the exponent's bias, in the low
 * bits; shifted by 23 these bits are 2^n, and 0 for n = -127. */
#define VEC_ROUNDER 12583039.0f

/* 2^t for any t: from about -127 down 0, from 128 up infinity or about 2^127. NaN stays. Relative error under 2e-7.
 * Polynomials: minimax of relative error (7.5e-8) of 2^f on [0, 1) and on [-1/2, 1/2]. */
VEC_INLINE vec vec_exp2(vec t)
{
#if defined(__AVX512F__)
    const vec f = _mm512_reduce_ps(t, 0x09); /* t - floor(t) */
    vec p = vec_fma(vec_set(1.877576695e-03f), f, vec_set(8.989339694e-03f));

    p = vec_fma(p, f, vec_set(5.582631752e-02f));
    p = vec_fma(p, f, vec_set(2.401536107e-01f));
    p = vec_fma(p, f, vec_set(6.931530833e-01f));
    p = vec_fma(p, f, vec_set(9.999999404e-01f));
    return _mm512_scalef_ps(p, t);
#else
    vec z, f, p;

    t = vec_min(vec_set(127.0f), vec_max(vec_set(-127.0f), t));
    z = vec_add(t, vec_set(VEC_ROUNDER));
    f = vec_sub(t, vec_sub(z, vec_set(VEC_ROUNDER)));
    p = vec_fma(vec_set(1.327647245e-03f), f, vec_set(9.675540961e-03f));
    p = vec_fma(p, f, vec_set(5.550713092e-02f));
    p = vec_fma(p, f, vec_set(2.402212024e-01f));
    p = vec_fma(p, f, vec_set(6.931469440e-01f));
    p = vec_fma(p, f, vec_set(1.000000119f));
    return vec_mul(p, vec_shift_exponent_(z));
#endif
}

/* e^r for |r| <= ln(2)/2; minimax as above. */
VEC_INLINE vec vec_exp_reduced_(vec r)
{
    vec p = vec_fma(vec_set(1.383684613e-03f), r, vec_set(8.374815798e-03f));

    p = vec_fma(p, r, vec_set(4.166822557e-02f));
    p = vec_fma(p, r, vec_set(1.666642017e-01f));
    p = vec_fma(p, r, vec_set(4.999999208e-01f));
    p = vec_fma(p, r, vec_set(1.0f));
    return vec_fma(p, r, vec_set(1.0f));
}

/* x - n ln 2 in two steps; the first constant has nine bits, so that n times it is exact. */
VEC_INLINE vec vec_minus_ln2_(vec x, vec n)
{
    return vec_fnma(n, vec_set(-2.12194440e-4f), vec_fnma(n, vec_set(0.693359375f), x));
}

/* e^x for x <= 88.3; larger arguments give e^88.3, those below -88 give 0. NaN stays. For use
 * inside sigmoids. */
VEC_INLINE vec vec_exp_bounded(vec x)
{
    vec z, r;

    x = vec_min(vec_set(88.3f), vec_max(vec_set(-88.02f), x));
    z = vec_fma(x, vec_set(1.44269504f), vec_set(VEC_ROUNDER));
    r = vec_minus_ln2_(x, vec_sub(z, vec_set(VEC_ROUNDER)));
    return vec_mul(vec_exp_reduced_(r), vec_shift_exponent_(z));
}

/* e^x over the whole range, with gradual underflow and infinity. Relative error under 2e-7. */
VEC_INLINE vec vec_exp(vec x)
{
    const vec rounder = vec_set(VEC_ROUNDER);
    vec n, r, half, rest;

    x = vec_min(vec_set(89.0f), vec_max(vec_set(-104.0f), x));
    n = vec_sub(vec_fma(x, vec_set(1.44269504f), rounder), rounder);
    r = vec_minus_ln2_(x, n);
    half = vec_fma(n, vec_set(0.5f), rounder);
    rest = vec_add(vec_sub(n, vec_sub(half, rounder)), rounder);
    return vec_mul(vec_mul(vec_exp_reduced_(r), vec_shift_exponent_(half)),
                   vec_shift_exponent_(rest));
}

/* Where `rough`, the result is good enough to be rounded to bf16: a relative error of 2e-4. It matters on
 * AVX-512, where a division takes as long as everything else of a sigmoid. */

/* e^x as vec_exp_bounded. Polynomial: minimax of relative error of 2^f on [0, 1). */
VEC_INLINE vec vec_exp_rough_(const bool rough, vec x)
{
#if defined(__AVX512F__)
    if (rough) {
        const vec t = vec_mul(vec_min(vec_set(88.3f), x), vec_set(1.44269504f));
        const vec f = _mm512_reduce_ps(t, 0x09); /* t - floor(t) */
        vec p = vec_fma(f, vec_set(7.802452264e-02f), vec_set(2.260671554e-01f));

        p = vec_fma(p, f, vec_set(6.958335405e-01f));
        p = vec_fma(p, f, vec_set(9.999252186e-01f));
        return _mm512_scalef_ps(p, t);
    }
#else
    (void)rough;
#endif
    return vec_exp_bounded(x);
}

/* 1 / x, 1 <= x < 2^127 */
VEC_INLINE vec vec_inverse_(const bool rough, vec x)
{
#if defined(__AVX512F__)
    const vec r = _mm512_rcp14_ps(x);
    return rough ? r : vec_fma(r, vec_fnma(x, r, vec_set(1.0f)), r);
#else
    (void)rough;
    return vec_div(vec_set(1.0f), x);
#endif
}

/* 1 / (1 + e^-x); *rest is 1 minus that without cancellation. */
VEC_INLINE vec vec_sigmoid_of(const bool rough, vec x, vec *rest)
{
    const vec e = vec_exp_rough_(rough, vec_sub(vec_set(0.0f), x));
    const vec s = vec_inverse_(rough, vec_add(vec_set(1.0f), e));

    *rest = vec_mul(e, s);
    return s;
}

VEC_INLINE vec vec_sigmoid_rest(vec x, vec *rest) { return vec_sigmoid_of(false, x, rest); }

VEC_INLINE vec vec_sigmoid(vec x)
{
    vec rest;
    return vec_sigmoid_rest(x, &rest);
}

VEC_INLINE vec vec_silu_of(const bool rough, vec x)
{
    vec rest;
    return vec_mul(x, vec_sigmoid_of(rough, x, &rest));
}

VEC_INLINE vec vec_silu(vec x) { return vec_silu_of(false, x); }

/* silu'(x) = s (1 + x (1 - s)) */
VEC_INLINE vec vec_silu_slope_of(const bool rough, vec x)
{
    vec rest;
    const vec s = vec_sigmoid_of(rough, x, &rest);
    return vec_mul(s, vec_fma(x, rest, vec_set(1.0f)));
}

VEC_INLINE vec vec_silu_slope(vec x) { return vec_silu_slope_of(false, x); }

/* Phi(x), the normal distribution function, and *density = phi(x). The tail is
 *   Phi(-|x|) = e^(-x^2/2) q(t), t = 1 / (1 + 0.26 |x|),
 * with q a minimax polynomial of relative error 5.4e-9 on |x| <= 14.5; so Phi of a large negative
 * x keeps its relative accuracy, up to the rounding of x^2/2. */
VEC_INLINE vec vec_normal_of(const bool rough, vec x, vec *density)
{
    const vec one = vec_set(1.0f), a = vec_abs(x);
    const vec t = vec_inverse_(rough, vec_fma(a, vec_set(0.26f), one));
    const vec e = vec_exp_rough_(rough, vec_mul(vec_mul(x, x), vec_set(-0.5f)));
    vec q;

    q = vec_fma(vec_set(3.3926320801e-02f), t, vec_set(-1.7051954680e-01f));
    q = vec_fma(q, t, vec_set(2.9098416489e-01f));
    q = vec_fma(q, t, vec_set(-2.0081393253e-01f));
    q = vec_fma(q, t, vec_set(2.0011986923e-01f));
    q = vec_fma(q, t, vec_set(3.1206287497e-02f));
    q = vec_fma(q, t, vec_set(1.0948205823e-01f));
    q = vec_fma(q, t, vec_set(1.0171532420e-01f));
    q = vec_fma(q, t, vec_set(1.0390662464e-01f));
    q = vec_fma(q, t, vec_set(-7.1674295169e-06f));
    q = vec_mul(q, e);
    *density = vec_mul(e, vec_set(0.39894228f));
    return vec_pick_negative(x, q, vec_sub(one, q));
}

VEC_INLINE vec vec_normal(vec x, vec *density) { return vec_normal_of(false, x, density); }

/* dst[c * ld_dst + r] = src[r * ld_src + c] for r < rows, c < cols. */
VEC_INLINE void vec_transpose_edge_(float *dst, int64_t ld_dst, const float *src, int64_t ld_src,
                                    int64_t rows, int64_t cols)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            dst[c * ld_dst + r] = src[r * ld_src + c];
}

#if defined(__AVX2__)

VEC_INLINE void vec_transpose_8x8_(float *dst, int64_t ld_dst, const float *src, int64_t ld_src)
{
    __m256 a[8], b[8];

    for (int i = 0; i < 4; i++) { /* rows i and i + 4 side by side, columns 0-3 and 4-7 */
        const float *low = src + i * ld_src, *high = src + (i + 4) * ld_src;
        a[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low)),
                                    _mm_loadu_ps(high), 1);
        a[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(low + 4)),
                                        _mm_loadu_ps(high + 4), 1);
    }
    for (int h = 0; h < 8; h += 4) {
        b[h] = _mm256_unpacklo_ps(a[h], a[h + 1]);
        b[h + 1] = _mm256_unpackhi_ps(a[h], a[h + 1]);
        b[h + 2] = _mm256_unpacklo_ps(a[h + 2], a[h + 3]);
        b[h + 3] = _mm256_unpackhi_ps(a[h + 2], a[h + 3]);
        _mm256_storeu_ps(dst + h * ld_dst, _mm256_shuffle_ps(b[h], b[h + 2], 0x44));
        _mm256_storeu_ps(dst + (h + 1) * ld_dst, _mm256_shuffle_ps(b[h], b[h + 2], 0xee));
        _mm256_storeu_ps(dst + (h + 2) * ld_dst, _mm256_shuffle_ps(b[h + 1], b[h + 3], 0x44));
        _mm256_storeu_ps(dst + (h + 3) * ld_dst, _mm256_shuffle_ps(b[h + 1], b[h + 3], 0xee));
    }
}

static inline __attribute__((unused)) void vec_transpose(float *dst, int64_t ld_dst,
                                                         const float *src, int64_t ld_src,
                                                         int64_t rows, int64_t cols)
{
    const int64_t rows8 = rows & ~(int64_t)7, cols8 = cols & ~(int64_t)7;

    for (int64_t c = 0; c < cols8; c += 8)
        for (int64_t r = 0; r < rows8; r += 8)
            vec_transpose_8x8_(dst + c * ld_dst + r, ld_dst, src + r * ld_src + c, ld_src);
    vec_transpose_edge_(dst + cols8 * ld_dst, ld_dst, src + cols8, ld_src, rows8, cols - cols8);
    vec_transpose_edge_(dst + rows8, ld_dst, src + rows8 * ld_src, ld_src, rows - rows8, cols);
}

#else

static inline __attribute__((unused)) void vec_transpose(float *dst, int64_t ld_dst,
                                                         const float *src, int64_t ld_src,
                                                         int64_t rows, int64_t cols)
{
    vec_transpose_edge_(dst, ld_dst, src, ld_src, rows, cols);
}

#endif

#endif /* AG_CPU_VECTOR_H */
