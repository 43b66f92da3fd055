/* transpose.inc.h - a square block of floats, one vector wide, transposed in registers.
 *
 * Private to autograd/cpu; included by files that are compiled once per instruction set.
 */
#ifndef AG_CPU_TRANSPOSE_INC_H
#define AG_CPU_TRANSPOSE_INC_H

#include "autograd/cpu/vector.h"

#if defined(__AVX512F__)

/* dst[c * ld_dst + r] = src[r * ld + c] for r < rows, c < cols, both <= 16; rows up to 16 are
 * filled with zeros. A whole cache line of every row is read at once: rows that are a power of two
 * apart share few places in the cache. */
VEC_INLINE void transpose_block(float *dst, int64_t ld_dst, const float *src, int64_t ld,
                                int64_t rows, int64_t cols)
{
    const __mmask16 mask = vec_first_(cols);
    __m512 a[16], b[16];

#pragma GCC unroll 16
    for (int r = 0; r < 16; r++)
        a[r] = r < rows ? _mm512_maskz_loadu_ps(mask, src + r * ld) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int r = 0; r < 16; r += 2) { /* pairs of rows */
        b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 16; r += 4) { /* fours of rows: a[r + q] holds columns q, q + 4, ... */
        a[r] = _mm512_shuffle_ps(b[r], b[r + 2], 0x44);
        a[r + 1] = _mm512_shuffle_ps(b[r], b[r + 2], 0xee);
        a[r + 2] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0x44);
        a[r + 3] = _mm512_shuffle_ps(b[r + 1], b[r + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) { /* sixteen rows of columns q, q + 4, q + 8, q + 12 */
        const __m512 even_low = _mm512_shuffle_f32x4(a[q], a[q + 4], 0x88);
        const __m512 odd_low = _mm512_shuffle_f32x4(a[q], a[q + 4], 0xdd);
        const __m512 even_high = _mm512_shuffle_f32x4(a[q + 8], a[q + 12], 0x88);
        const __m512 odd_high = _mm512_shuffle_f32x4(a[q + 8], a[q + 12], 0xdd);
        b[q] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
        b[q + 8] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
        b[q + 4] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
        b[q + 12] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
    }
    if (cols == 16) {
#pragma GCC unroll 16
        for (int c = 0; c < 16; c++)
            _mm512_storeu_ps(dst + c * ld_dst, b[c]);
        return;
    }
    for (int c = 0; c < cols; c++)
        _mm512_storeu_ps(dst + c * ld_dst, b[c]);
}

#elif defined(__AVX2__)

/* The same for 8 rows and 8 columns. */
VEC_INLINE void transpose_block(float *dst, int64_t ld_dst, const float *src, int64_t ld,
                                int64_t rows, int64_t cols)
{
    __m256 a[8], b[8];

#pragma GCC unroll 8
    for (int r = 0; r < 8; r++)
        a[r] = r >= rows   ? _mm256_setzero_ps()
               : cols == 8 ? _mm256_loadu_ps(src + r * ld)
                           : vec_load_n(src + r * ld, cols);
#pragma GCC unroll 4
    for (int r = 0; r < 8; r += 2) {
        b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
    }
#pragma GCC unroll 2
    for (int r = 0; r < 8; r += 4) {
        a[r] = _mm256_shuffle_ps(b[r], b[r + 2], 0x44);
        a[r + 1] = _mm256_shuffle_ps(b[r], b[r + 2], 0xee);
        a[r + 2] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0x44);
        a[r + 3] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) {
        b[q] = _mm256_permute2f128_ps(a[q], a[q + 4], 0x20);
        b[q + 4] = _mm256_permute2f128_ps(a[q], a[q + 4], 0x31);
    }
    if (cols == 8) {
#pragma GCC unroll 8
        for (int c = 0; c < 8; c++)
            _mm256_storeu_ps(dst + c * ld_dst, b[c]);
        return;
    }
    for (int c = 0; c < cols; c++)
        _mm256_storeu_ps(dst + c * ld_dst, b[c]);
}

#else

/* The same for 4 rows and 4 columns. */
VEC_INLINE void transpose_block(float *dst, int64_t ld_dst, const float *src, int64_t ld,
                                int64_t rows, int64_t cols)
{
    for (int64_t c = 0; c < cols; c++)
        for (int64_t r = 0; r < VEC_N; r++)
            dst[c * ld_dst + r] = r < rows ? src[r * ld + c] : 0.0f;
}

#endif

#endif /* AG_CPU_TRANSPOSE_INC_H */
