/* gemm_kernel.inc.h - register tiles and packing, compiled once per instruction set.
 *
 * The accumulators of a tile are mr x 2 vectors: 6 x 2 of 16 registers (AVX2), 14 x 2 of 32
 * (AVX-512), 4 x 2 of 16 (portable, SSE2); the rest hold two vectors of B and one broadcast
 * element of A. The loops over the tile have constant bounds in every instance and are unrolled
 * whole, so the accumulators never leave their registers.
 */
#include <string.h>

#include "autograd/cpu/gemm_internal.h"
#include "autograd/cpu/transpose.inc.h"
#include "autograd/cpu/vector.h"

#if defined(__AVX512F__)
enum { GEMM_MR = 14, GEMM_COLUMN_PANELS = 10, GEMM_A_IN_L1 = 1 };
#elif defined(__AVX2__)
enum { GEMM_MR = 6, GEMM_COLUMN_PANELS = 20, GEMM_A_IN_L1 = 0 };
#else
enum { GEMM_MR = 4, GEMM_COLUMN_PANELS = 16, GEMM_A_IN_L1 = 0 };
#endif
enum {
    GEMM_NV = 2,
    GEMM_NR = GEMM_NV * VEC_N,
    GEMM_A_STEP = (GEMM_MR + VEC_N - 1) / VEC_N * VEC_N,
    GEMM_CHAIN = GEMM_MR > 8 /* a row of A is found from the one before: there are too few registers for offsets */
};

/* Hides where a pointer came from. Else the compiler keeps an offset for each of 14 rows of A, reads six of them
 * back from the stack in every step of k, and the loop is slower by 7 %. */
#if defined(__GNUC__)
#define TILE_OPAQUE(pointer) __asm__("" : "+r"(pointer))
#else
#define TILE_OPAQUE(pointer)
#endif

/* m, nv, panels and runs are constants in every instance; without runs, run and jump mean nothing. */
VEC_INLINE void tile_of(int m, int nv, bool panels, bool runs, int64_t n, int64_t k, const float *a,
                        int64_t lda, const float *b, float *const *c, uintptr_t to_old, float alpha,
                        float beta, const float *bias, gemm_ahead ahead, int64_t run, int64_t jump)
{
    const vec scale = vec_set(alpha), keep = vec_set(beta);
    vec acc[GEMM_MR][GEMM_NV];

#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++)
            acc[i][j] = vec_set(0.0f);
    for (int64_t l = 0; l < k; ahead.at += (uintptr_t)jump) {
        const int64_t end = runs && run < k - l ? l + run : k;
        for (; l < end; l++) {
            vec b_l[GEMM_NV];
            const float *row = a;
            __builtin_prefetch((const void *)ahead.at, 0, 2);
            ahead.at += (uintptr_t)ahead.step;
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++)
                b_l[j] = vec_load(b + j * VEC_N);
#pragma GCC unroll 16
            for (int i = 0; i < m; i++) {
                const vec a_il = vec_set(panels ? a[i] : row[(GEMM_CHAIN ? i % 2 : i) * lda]);
#pragma GCC unroll 2
                for (int j = 0; j < nv; j++)
                    acc[i][j] = vec_fma(a_il, b_l[j], acc[i][j]);
                if (!panels && GEMM_CHAIN && i % 2 && i + 1 < m) {
                    row += 2 * lda;
                    TILE_OPAQUE(row);
                }
            }
            b += GEMM_NR;
            a += panels ? lda : 1;
        }
        if (!runs)
            break;
    }
    if (n == nv * VEC_N) {
#pragma GCC unroll 16
        for (int i = 0; i < m; i++)
#pragma GCC unroll 2
            for (int j = 0; j < nv; j++) {
                vec v = vec_mul(acc[i][j], scale);
                if (beta != 0.0f)
                    v = vec_fma(vec_load((const float *)((uintptr_t)c[i] + to_old) + j * VEC_N), keep, v);
                if (bias)
                    v = vec_add(v, vec_load(bias + j * VEC_N));
                vec_store(c[i] + j * VEC_N, v);
            }
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int j = 0; j < nv; j++) {
            const int64_t left = n - j * VEC_N < VEC_N ? n - j * VEC_N : VEC_N;
            vec v = vec_mul(acc[i][j], scale);
            if (beta != 0.0f)
                v = vec_fma(vec_load_n((const float *)((uintptr_t)c[i] + to_old) + j * VEC_N, left), keep, v);
            if (bias)
                v = vec_add(v, vec_load_n(bias + j * VEC_N, left));
            vec_store_n(c[i] + j * VEC_N, v, left);
        }
}

#define TILE_INSTANCE(m, nv, panels) \
    tile_of(m, nv, panels, false, n, k, a, lda, b, c, to_old, alpha, beta, bias, ahead, k, 0)
#define TILE_CASE(rows, panels)                \
    case rows:                                 \
        if (n > VEC_N)                         \
            TILE_INSTANCE(rows, 2, panels);    \
        else                                   \
            TILE_INSTANCE(rows, 1, panels);    \
        break;

#if defined(__AVX512F__)
#define TILE_CASES(panels)                                                                \
    TILE_CASE(1, panels) TILE_CASE(2, panels) TILE_CASE(3, panels) TILE_CASE(4, panels)   \
    TILE_CASE(5, panels) TILE_CASE(6, panels) TILE_CASE(7, panels) TILE_CASE(8, panels)   \
    TILE_CASE(9, panels) TILE_CASE(10, panels) TILE_CASE(11, panels) TILE_CASE(12, panels) \
    TILE_CASE(13, panels) TILE_CASE(14, panels)
#elif defined(__AVX2__)
#define TILE_CASES(panels)                                                              \
    TILE_CASE(1, panels) TILE_CASE(2, panels) TILE_CASE(3, panels) TILE_CASE(4, panels) \
    TILE_CASE(5, panels) TILE_CASE(6, panels)
#else
#define TILE_CASES(panels) \
    TILE_CASE(1, panels) TILE_CASE(2, panels) TILE_CASE(3, panels) TILE_CASE(4, panels)
#endif

static void tile_rows(int m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                      float *const *c, uintptr_t to_old, float alpha, float beta,
                      const float *bias, gemm_ahead ahead)
{
    switch (m) {
        TILE_CASES(false)
    }
}

static void tile_panels(int m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                        float *const *c, uintptr_t to_old, float alpha, float beta,
                        const float *bias, gemm_ahead ahead)
{
    switch (m) {
        TILE_CASES(true)
    }
}

static void rows_and_runs(int64_t k, const float *a, int64_t lda, const float *b, float *const *c,
                          uintptr_t to_old, float alpha, float beta, const float *bias, gemm_ahead ahead,
                          int64_t run, int64_t jump)
{
    tile_of(GEMM_MR, GEMM_NV, false, true, GEMM_NR, k, a, lda, b, c, to_old, alpha, beta, bias, ahead, run, jump);
}

static void pack_b_panel(float *dst, const float *src, int64_t ld, int64_t k, int64_t n)
{
    if (n == GEMM_NR) {
        for (int64_t l = 0; l < k; l++)
            for (int j = 0; j < GEMM_NV; j++)
                vec_store(dst + l * GEMM_NR + j * VEC_N, vec_load(src + l * ld + j * VEC_N));
        return;
    }
    for (int64_t l = 0; l < k; l++) {
        for (int64_t j = 0; j < n; j++)
            dst[l * GEMM_NR + j] = src[l * ld + j];
        for (int64_t j = n; j < GEMM_NR; j++)
            dst[l * GEMM_NR + j] = 0.0f;
    }
}

static void pack_b_panel_transposed(float *dst, const float *src, int64_t ld, int64_t k, int64_t n)
{
    enum { K_STEP = 16 }; /* a cache line of each row */

    for (int64_t l = 0; l < k; l += K_STEP)
        for (int r = 0; r < GEMM_NR; r += VEC_N)
            for (int64_t s = l; s < l + K_STEP && s < k; s += VEC_N)
                transpose_block(dst + s * GEMM_NR + r, GEMM_NR, src + r * ld + s, ld, n - r,
                                k - s < VEC_N ? k - s : VEC_N);
}

static void pack_b(float *dst, const float *src, int64_t ld, bool transposed, int64_t k, int64_t n)
{
    for (int64_t j = 0; j < n; j += GEMM_NR, dst += k * GEMM_NR) {
        const int64_t width = n - j < GEMM_NR ? n - j : GEMM_NR;
        if (transposed)
            pack_b_panel_transposed(dst, src + j * ld, ld, k, width);
        else
            pack_b_panel(dst, src + j, ld, k, width);
    }
}

static void pack_a(float *dst, const float *src, int64_t ld, int64_t m, int64_t k)
{
    for (int64_t i = 0; i < m; i += GEMM_MR, dst += k * GEMM_A_STEP, src += GEMM_MR) {
        if (m - i >= GEMM_A_STEP) {
            for (int64_t l = 0; l < k; l++)
                for (int j = 0; j < GEMM_A_STEP; j += VEC_N)
                    vec_store(dst + l * GEMM_A_STEP + j, vec_load(src + l * ld + j));
            continue;
        }
        for (int64_t l = 0; l < k; l++)
            for (int64_t j = 0; j < m - i; j += VEC_N)
                vec_store(dst + l * GEMM_A_STEP + j,
                          vec_load_n(src + l * ld + j, m - i - j < VEC_N ? m - i - j : VEC_N));
    }
}

/* One to four rows of A against four rows of B at a time, summed along vectors. */
VEC_INLINE void dots_of(int m, int width, int64_t k, const float *a, int64_t lda, const float *b,
                        int64_t ldb, float *const *c, int64_t at, float alpha, float beta,
                        const float *bias)
{
    vec acc[4][4];
    int64_t l = 0;

#pragma GCC unroll 4
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++)
            acc[i][j] = vec_set(0.0f);
    for (; l + VEC_N <= k; l += VEC_N)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) {
            const vec b_j = vec_load(b + j * ldb + l);
#pragma GCC unroll 4
            for (int i = 0; i < m; i++)
                acc[i][j] = vec_fma(vec_load(a + i * lda + l), b_j, acc[i][j]);
        }
    if (l < k)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) {
            const vec b_j = vec_load_n(b + j * ldb + l, k - l);
#pragma GCC unroll 4
            for (int i = 0; i < m; i++)
                acc[i][j] = vec_fma(vec_load_n(a + i * lda + l, k - l), b_j, acc[i][j]);
        }
#pragma GCC unroll 4
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++) {
            float v = alpha * vec_sum(acc[i][j]);
            if (beta != 0.0f)
                v += beta * c[i][at + j];
            if (bias)
                v += bias[at + j];
            c[i][at + j] = v;
        }
}

#define DOTS_RUN(rows)                                                                            \
    for (; j + 4 <= n; j += 4)                                                                    \
        dots_of(rows, 4, k, a, lda, b + j * ldb, ldb, c, j, alpha, beta, bias);                   \
    for (; j < n; j++)                                                                            \
        dots_of(rows, 1, k, a, lda, b + j * ldb, ldb, c, j, alpha, beta, bias);                   \
    break;

static void dots(int m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, float *const *c, float alpha, float beta, const float *bias)
{
    int64_t j = 0;

    switch (m) {
    case 1: DOTS_RUN(1)
    case 2: DOTS_RUN(2)
    case 3: DOTS_RUN(3)
    case 4: DOTS_RUN(4)
    }
}

const gemm_kernels VEC_NAME(gemm_kernels) = {
#if defined(__AVX512F__)
    .name = "own avx512",
#elif defined(__AVX2__)
    .name = "own avx2",
#else
    .name = "own portable",
#endif
    .mr = GEMM_MR,
    .nr = GEMM_NR,
    .a_step = GEMM_A_STEP,
    .column_panels = GEMM_COLUMN_PANELS,
    .a_in_l1 = GEMM_A_IN_L1,
    .tile_rows = tile_rows,
    .tile_panels = tile_panels,
    .rows_and_runs = rows_and_runs,
    .pack_b = pack_b,
    .pack_a = pack_a,
    .dots = dots,
};
