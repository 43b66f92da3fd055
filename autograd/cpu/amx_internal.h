/* amx_internal.h - products of bf16 matrices on the processor's tiles. For *_amx.c files only: these
 * are built with AMX and AVX512_BF16.
 *
 *   C[16 i + r][16 j + s] (+)= sum_k A[16 i + r][k] B[k][16 j + s]      A, B bf16; C f32
 *
 * A tile is 16 rows of 64 bytes. One step of k is 32 long:
 *   A tile, `rows`    row r holds A[r][0..32)
 *   B tile, `pairs`   row p holds B[2p][0], B[2p+1][0], B[2p][1], B[2p+1][1], ... for 16 columns
 * Every tile is always whole: what is beyond a matrix is stored as zeros.
 *
 * Rounding: sums are in f32 in the processor's own order, subnormal numbers count as 0.
 *
 * Source   Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
 */
#ifndef AG_CPU_AMX_INTERNAL_H
#define AG_CPU_AMX_INTERNAL_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define AMX_INLINE static inline __attribute__((always_inline, unused))

enum { AMX_SIDE = 16, AMX_DEPTH = 32, AMX_TILE_BYTES = 1024, AMX_ROW_BYTES = 64 };

/* Tile instructions do not tell the compiler which memory they touch. */
#define AMX_FENCE() __asm__ volatile("" ::: "memory")

/* The tile registers of the calling thread: eight of 16 rows of 64 bytes. amx_end() makes a later
 * switch of threads cheap again. */
AMX_INLINE void amx_begin(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        config.row_bytes[i] = AMX_ROW_BYTES;
        config.rows[i] = AMX_SIDE;
    }
    AMX_FENCE();
    _tile_loadconfig(&config);
}

AMX_INLINE void amx_end(void)
{
    _tile_release();
}

/* Where the tiles of an operand stand; strides in bytes. */
typedef struct amx_tiles {
    const void *data;
    int64_t row;  /* from a row of a tile to the next */
    int64_t side; /* from a tile to the next along M or N */
    int64_t step; /* from a tile to the next along k */
} amx_tiles;

/* m x n tiles of C, m and n 1 or 2, in registers over n_k steps. ld_c in bytes. */
AMX_INLINE void amx_block(const int m, const int n, float *c, int64_t ld_c, const amx_tiles *a,
                          const amx_tiles *b, int64_t n_k, bool add)
{
    char *c0 = (char *)c, *c1 = c0 + AMX_SIDE * ld_c;
    const char *a0 = a->data, *a1 = a0 + a->side, *b0 = b->data, *b1 = b0 + b->side;

    if (add) {
        _tile_loadd(0, c0, ld_c);
        if (n > 1)
            _tile_loadd(1, c0 + AMX_ROW_BYTES, ld_c);
        if (m > 1)
            _tile_loadd(2, c1, ld_c);
        if (m > 1 && n > 1)
            _tile_loadd(3, c1 + AMX_ROW_BYTES, ld_c);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < n_k; k++) {
        _tile_loadd(6, b0 + k * b->step, b->row);
        _tile_loadd(4, a0 + k * a->step, a->row);
        _tile_dpbf16ps(0, 4, 6);
        if (n > 1) {
            _tile_loadd(7, b1 + k * b->step, b->row);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (m > 1) {
            _tile_loadd(5, a1 + k * a->step, a->row);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (m > 1 && n > 1)
            _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c0, ld_c);
    if (n > 1)
        _tile_stored(1, c0 + AMX_ROW_BYTES, ld_c);
    if (m > 1)
        _tile_stored(2, c1, ld_c);
    if (m > 1 && n > 1)
        _tile_stored(3, c1 + AMX_ROW_BYTES, ld_c);
}

/* m x n tiles, any numbers. ld_c in floats. */
AMX_INLINE void amx_product(float *c, int64_t ld_c, amx_tiles a, const amx_tiles *b, int64_t m,
                            int64_t n, int64_t n_k, bool add)
{
    AMX_FENCE();
    for (int64_t i = 0; i < m; i += 2) {
        float *row = c + i * AMX_SIDE * ld_c;
        amx_tiles bj = *b;

        for (int64_t j = 0; j < n; j += 2) {
            float *at = row + j * AMX_SIDE;
            if (m - i > 1 && n - j > 1)
                amx_block(2, 2, at, 4 * ld_c, &a, &bj, n_k, add);
            else if (m - i > 1)
                amx_block(2, 1, at, 4 * ld_c, &a, &bj, n_k, add);
            else if (n - j > 1)
                amx_block(1, 2, at, 4 * ld_c, &a, &bj, n_k, add);
            else
                amx_block(1, 1, at, 4 * ld_c, &a, &bj, n_k, add);
            bj.data = (const char *)bj.data + 2 * b->side;
        }
        a.data = (const char *)a.data + 2 * a.side;
    }
    AMX_FENCE();
}

/* --- tiles from matrices ------------------------------------------------------------------------ */

/* 16 x 16 words of 32 bits; what was row r becomes column r. */
AMX_INLINE void amx_transpose(__m512i r[16])
{
    __m512i s[16];

    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int h = 0; h < 2; h++) {
            r[i + 2 * h] = _mm512_unpacklo_epi64(s[i + h], s[i + h + 2]);
            r[i + 2 * h + 1] = _mm512_unpackhi_epi64(s[i + h], s[i + h + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) {
            s[8 * h + i] = _mm512_shuffle_i32x4(r[8 * h + i], r[8 * h + i + 4], 0x88);
            s[8 * h + i + 4] = _mm512_shuffle_i32x4(r[8 * h + i], r[8 * h + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0xdd);
    }
}

AMX_INLINE void amx_store_tile(void *dst, const __m512i r[16])
{
    for (int i = 0; i < 16; i++)
        _mm512_store_si512((char *)dst + i * AMX_ROW_BYTES, r[i]);
}

/* n (1 to 32) numbers, zeros after them. */
AMX_INLINE __m512i amx_load_row(const uint16_t *src, int64_t n)
{
    return _mm512_maskz_loadu_epi16(n >= 32 ? 0xffffffffu : (1u << n) - 1, src);
}

/* The first 16 numbers of two rows as one row of pairs. */
AMX_INLINE __m512i amx_pair_rows(__m512i even, __m512i odd)
{
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(even));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* --- arithmetic on 16 floats ------------------------------------------------------------------------ */

/* 2^x, 0 far below the smallest number; NaN stays. Relative error 8e-5, for results that are rounded to
 * bf16. Polynomial: minimax of relative error of 2^f on [0, 1). */
AMX_INLINE __m512 amx_exp2(__m512 x)
{
    const __m512 f = _mm512_reduce_ps(x, 0x09); /* x - floor(x) */
    __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(7.802452264e-02f), _mm512_set1_ps(2.260671554e-01f));

    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.958335405e-01f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.999252186e-01f));
    return _mm512_scalef_ps(p, x);
}

AMX_INLINE __m512i amx_round_pair(__m512 low, __m512 high)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

AMX_INLINE __m256i amx_round(__m512 x)
{
    return (__m256i)_mm512_cvtneps_pbh(x);
}

/* The first n (1 or more; at most 16 are) of x. */
AMX_INLINE void amx_store_rounded(uint16_t *dst, __m512 x, int64_t n)
{
    const __mmask16 first = n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
    _mm256_mask_storeu_epi16(dst, first, amx_round(x));
}

AMX_INLINE __m512 amx_widen(__m256i x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

#endif /* AG_CPU_AMX_INTERNAL_H */
