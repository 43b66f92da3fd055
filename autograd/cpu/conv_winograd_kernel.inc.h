/* conv_winograd_kernel.inc.h - the transforms of F(4x4,3x3) and F(2x2,3x3), compiled once per
 * instruction set.
 *
 * F(m,3) in one dimension is y = A^T [(G g) * (B^T d)] with the matrices of Toom-Cook for m + 1
 * points and infinity (Winograd 1980; Lavin & Gray 2015, arXiv:1509.09308; the construction as in
 * Barabasz et al. 2020, arXiv:1803.10986). In two dimensions each is applied to columns, then rows.
 *
 * F(4,3) uses 0, +-1/sqrt 2, +-sqrt 2: half the error of the usual 0, +-1, +-2, because the
 * points and their inverses have the same size. With a = 1/sqrt 2, b = sqrt 2 the polynomial of
 * all points is x^5 - 5/2 x^3 + x, and
 *
 *   B^T = | 1   0  -5/2   0   1  0 |   G = |   1     0     0  |   A^T = | 1  1   1   1    1   0 |
 *         | 0 -2a    -2   a   1  0 |       | -2/3 -2/3a -1/3  |         | 0  a  -a   b   -b   0 |
 *         | 0  2a    -2  -a   1  0 |       | -2/3  2/3a -1/3  |         | 0 1/2 1/2  2    2   0 |
 *         | 0 -b/2 -1/2   b   1  0 |       |  1/6  b/6   1/3  |         | 0 a/2 -a/2 2b  -2b  1 |
 *         | 0  b/2 -1/2  -b   1  0 |       |  1/6 -b/6   1/3  |
 *         | 0   1     0 -5/2  0  1 |       |   0     0     1  |
 *
 * F(2,3) uses 0, 1, -1 with the sign of the first point moved into B^T.
 */
#include <string.h>

#include "autograd/cpu/conv_internal.h"
#include "autograd/cpu/transpose.inc.h"
#include "autograd/cpu/vector.h"

enum {
    WINOGRAD_NR = 2 * VEC_N, /* the nr of gemm_kernel.inc.h */
    LINE = 16                /* floats in a cache line */
};

#define SQRT_HALF 0.70710678118654752f
#define SQRT_TWO 1.41421356237309505f

/* Fetches the line of p[i], which something is going to be stored to; it may lie beyond the array. */
VEC_INLINE void ask_for(const float *p, int64_t i)
{
    __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)i * sizeof *p), 1, 3);
}

/* side is a constant in every instance. n <= VEC_N values are loaded or stored. */

VEC_INLINE vec load_first(const float *p, int64_t n)
{
    return n >= VEC_N ? vec_load(p) : n > 0 ? vec_load_n(p, n) : vec_set(0.0f);
}

VEC_INLINE void store_first(float *p, vec v, int64_t n)
{
    if (n >= VEC_N)
        vec_store(p, v);
    else
        vec_store_n(p, v, n);
}

/* t = B^T d, both side + 2 long with a step */
VEC_INLINE void input_1d(int side, vec *t, int t_step, const vec *d, int d_step)
{
    const vec d0 = d[0], d1 = d[d_step], d2 = d[2 * d_step], d3 = d[3 * d_step];

    if (side == 2) {
        t[0] = vec_sub(d0, d2);
        t[t_step] = vec_add(d1, d2);
        t[2 * t_step] = vec_sub(d2, d1);
        t[3 * t_step] = vec_sub(d3, d1);
    } else {
        const vec d4 = d[4 * d_step], d5 = d[5 * d_step];
        const vec even_a = vec_fnma(vec_set(2.0f), d2, d4), odd_a = vec_fnma(vec_set(2.0f), d1, d3);
        const vec even_b = vec_fnma(vec_set(0.5f), d2, d4), odd_b = vec_fnma(vec_set(0.5f), d1, d3);
        t[0] = vec_fnma(vec_set(2.5f), d2, vec_add(d0, d4));
        t[t_step] = vec_fma(vec_set(SQRT_HALF), odd_a, even_a);
        t[2 * t_step] = vec_fnma(vec_set(SQRT_HALF), odd_a, even_a);
        t[3 * t_step] = vec_fma(vec_set(SQRT_TWO), odd_b, even_b);
        t[4 * t_step] = vec_fnma(vec_set(SQRT_TWO), odd_b, even_b);
        t[5 * t_step] = vec_fnma(vec_set(2.5f), d3, vec_add(d1, d5));
    }
}

/* t = G g, from 3 to side + 2 */
VEC_INLINE void weights_1d(int side, vec *t, int t_step, const vec *g, int g_step)
{
    const vec g0 = g[0], g1 = g[g_step], g2 = g[2 * g_step];

    t[0] = g0;
    if (side == 2) {
        const vec even = vec_mul(vec_set(0.5f), vec_add(g0, g2));
        t[t_step] = vec_fma(vec_set(0.5f), g1, even);
        t[2 * t_step] = vec_fnma(vec_set(0.5f), g1, even);
        t[3 * t_step] = g2;
    } else {
        const vec third = vec_mul(vec_set(1.0f / 3.0f), g2);
        const vec even_a = vec_fnma(vec_set(2.0f / 3.0f), g0, vec_sub(vec_set(0.0f), third));
        const vec even_b = vec_fma(vec_set(1.0f / 6.0f), g0, third);
        t[t_step] = vec_fnma(vec_set(SQRT_HALF * 2.0f / 3.0f), g1, even_a);
        t[2 * t_step] = vec_fma(vec_set(SQRT_HALF * 2.0f / 3.0f), g1, even_a);
        t[3 * t_step] = vec_fma(vec_set(SQRT_TWO / 6.0f), g1, even_b);
        t[4 * t_step] = vec_fnma(vec_set(SQRT_TWO / 6.0f), g1, even_b);
        t[5 * t_step] = g2;
    }
}

/* y = A^T m, from side + 2 to side */
VEC_INLINE void output_1d(int side, vec *y, int y_step, const vec *m, int m_step)
{
    const vec m0 = m[0], m1 = m[m_step], m2 = m[2 * m_step], m3 = m[3 * m_step];

    if (side == 2) {
        y[0] = vec_add(m0, vec_add(m1, m2));
        y[y_step] = vec_add(vec_sub(m1, m2), m3);
    } else {
        const vec m4 = m[4 * m_step], m5 = m[5 * m_step];
        const vec sum_a = vec_add(m1, m2), diff_a = vec_sub(m1, m2);
        const vec sum_b = vec_add(m3, m4), diff_b = vec_sub(m3, m4);
        y[0] = vec_add(m0, vec_add(sum_a, sum_b));
        y[y_step] = vec_fma(vec_set(SQRT_TWO), diff_b, vec_mul(vec_set(SQRT_HALF), diff_a));
        y[2 * y_step] = vec_fma(vec_set(2.0f), sum_b, vec_mul(vec_set(0.5f), sum_a));
        y[3 * y_step] = vec_fma(vec_set(2.0f * SQRT_TWO), diff_b,
                                vec_fma(vec_set(0.5f * SQRT_HALF), diff_a, m5));
    }
}

/* A vector of channels of one tile: product p at out[p * VEC_N * VEC_N]. */
VEC_INLINE void input_of_tile(int side, float *out, const float *const *in, int64_t c, int64_t n)
{
    enum { MOST = 6 };
    const int size = side + 2;
    vec columns[MOST * MOST], d[MOST], t[MOST];

#pragma GCC unroll 6
    for (int s = 0; s < size; s++) {
#pragma GCC unroll 6
        for (int r = 0; r < size; r++) {
            d[r] = load_first(in[r * size + s] + c, n - c);
            if (r < side && s < side) /* the others belong to other tiles too */
                __builtin_prefetch(in[r * size + s] + c + LINE);
        }
        input_1d(side, columns + s, MOST, d, 1);
    }
#pragma GCC unroll 6
    for (int r = 0; r < size; r++) {
        input_1d(side, t, 1, columns + r * MOST, 1);
#pragma GCC unroll 6
        for (int s = 0; s < size; s++)
            vec_store(out + (r * size + s) * VEC_N * VEC_N, t[s]);
    }
}

/* Tiles are transformed along channels and then lie along tiles, which is how the product wants them. The lines that
 * a later product's numbers are stored to are asked for: V comes from main memory, too. */
VEC_INLINE void input_of(int side, float *v, int64_t v_step, int64_t rows, const float *const *in,
                         int64_t n_tiles, int64_t n)
{
    enum { MOST = 36, AHEAD = 4 };
    const int n_products = (side + 2) * (side + 2);
    float block[MOST][VEC_N][VEC_N]; /* [product][tile][channel] */

    for (int64_t c = 0; c < n; c += VEC_N) {
        const int64_t cols = n - c < VEC_N ? n - c : VEC_N;
        for (int64_t t = 0; t < n_tiles; t++)
            input_of_tile(side, block[0][t], in + t * n_products, c, n);
        for (int p = 0; p < n_products; p++) {
            for (int64_t i = 0; i < VEC_N * rows; i += rows > LINE ? rows : LINE)
                ask_for(v, (p + AHEAD) * v_step + c * rows + i);
            transpose_block(v + p * v_step + c * rows, rows, block[p][0], VEC_N, n_tiles, cols);
        }
    }
}

/* g: 9 taps in the order of the correlation; u + p * u_step gets product p. U is larger than the first level: the
 * lines that the next channel will be stored to are asked for, or each store would wait for its own. */
VEC_INLINE void weights_transform(int side, float *u, int64_t u_step, const vec *g)
{
    enum { MOST = 6 };
    const int size = side + 2;
    vec columns[MOST * 3], t[MOST];

#pragma GCC unroll 3
    for (int s = 0; s < 3; s++)
        weights_1d(side, columns + s, 3, g + s, 3);
#pragma GCC unroll 6
    for (int r = 0; r < size; r++) {
        weights_1d(side, t, 1, columns + r * 3, 1);
#pragma GCC unroll 6
        for (int s = 0; s < size; s++) {
            vec_store(u + (r * size + s) * u_step, t[s]);
            ask_for(u, (r * size + s) * u_step + WINOGRAD_NR);
        }
    }
}

/* Weights whose input channels are contiguous (forward): blocks of vector x vector are transposed.
 * 9 x VEC_N rows advance together, which no hardware foresees, so the next cache line of each is
 * asked for, a few at a time. */
VEC_INLINE void weights_along_k(int side, float *u, int64_t u_step, const float *w,
                                const winograd_shape *s, int64_t rows, int64_t n_k)
{
    float block[9][VEC_N][VEC_N]; /* [tap][k][o] */

    for (int64_t k = 0; k < n_k; k += VEC_N) {
        const int64_t cols = n_k - k < VEC_N ? n_k - k : VEC_N;
        for (int tap = 0; tap < 9; tap++)
            transpose_block(block[tap][0], VEC_N, w + tap * s->tap_step + k, s->o_step, rows, cols);
        for (int64_t l = 0; l < cols; l++) {
            vec g[9];
#pragma GCC unroll 9
            for (int tap = 0; tap < 9; tap++) {
                g[tap] = vec_load(block[tap][l]);
                if (l < rows)
                    __builtin_prefetch(w + tap * s->tap_step + k + LINE + l * s->o_step);
            }
            weights_transform(side, u + (k + l) * WINOGRAD_NR, u_step, g);
        }
    }
}

/* Weights whose output channels are contiguous (backward by data, taps turned around): all panels
 * together, so that every short run of memory is read once. */
VEC_INLINE void weights_along_o(int side, float *u, int64_t u_step, const float *w,
                                const winograd_shape *s, int64_t n_out, int64_t n_k)
{
    enum { AHEAD = 6 };

    for (int64_t k = 0; k < n_k; k++, w += s->i_step, u += WINOGRAD_NR)
        for (int64_t o = 0; o < n_out || o % WINOGRAD_NR; o += VEC_N) {
            vec g[9];
            if (k + AHEAD < n_k && o % LINE == 0 && o < n_out)
                for (int tap = 0; tap < 9; tap++)
                    __builtin_prefetch(w + AHEAD * s->i_step + tap * s->tap_step + o);
#pragma GCC unroll 9
            for (int tap = 0; tap < 9; tap++)
                g[tap] = load_first(w + (8 - tap) * s->tap_step + o, n_out - o);
            weights_transform(side, u + o / WINOGRAD_NR * n_k * WINOGRAD_NR + o % WINOGRAD_NR,
                              u_step, g);
        }
}

VEC_INLINE void weights_of(int side, float *u, int64_t u_step, const float *w,
                           const winograd_shape *s, int64_t n_out, int64_t n_k)
{
    if (s->backward) {
        weights_along_o(side, u, u_step, w, s, n_out, n_k);
        return;
    }
    for (int64_t o = 0; o < n_out || o % WINOGRAD_NR; o += VEC_N) {
        const int64_t rows = n_out - o < 0 ? 0 : n_out - o < VEC_N ? n_out - o : VEC_N;
        weights_along_k(side, u + o / WINOGRAD_NR * n_k * WINOGRAD_NR + o % WINOGRAD_NR, u_step,
                        w + o * s->o_step, s, rows, n_k);
    }
}

/* A cache line of channels at a time, so that what goes past the caches goes in whole lines. */
VEC_INLINE void output_of(int side, float *const *out, uintptr_t to_plus, const float *m, int64_t m_step,
                          const float *bias, int64_t n, bool past_caches)
{
    enum { MOST = 6, VECTORS = LINE / VEC_N };
    const int size = side + 2;
    vec columns[VECTORS][4 * MOST], d[MOST], y[VECTORS][4];

    for (int64_t c = 0; c < n; c += LINE) {
#pragma GCC unroll 4
        for (int h = 0; h < VECTORS; h++)
#pragma GCC unroll 6
            for (int s = 0; s < size; s++) {
#pragma GCC unroll 6
                for (int r = 0; r < size; r++)
                    d[r] = vec_load(m + (r * size + s) * m_step + c + h * VEC_N);
                output_1d(side, columns[h] + s, MOST, d, 1);
            }
#pragma GCC unroll 4
        for (int r = 0; r < side; r++) {
#pragma GCC unroll 4
            for (int h = 0; h < VECTORS; h++) {
                const int64_t at = c + h * VEC_N;
                const vec b = bias ? load_first(bias + at, n - at) : vec_set(0.0f);
                output_1d(side, y[h], 1, columns[h] + r * MOST, 1);
#pragma GCC unroll 4
                for (int s = 0; s < side; s++)
                    y[h][s] = vec_add(y[h][s], b);
            }
#pragma GCC unroll 4
            for (int s = 0; s < side; s++) {
                float *pixel = out[r * side + s];
#pragma GCC unroll 4
                for (int h = 0; h < VECTORS; h++) {
                    const int64_t at = c + h * VEC_N;
                    if (pixel && to_plus)
                        y[h][s] = vec_add(y[h][s], load_first((const float *)((uintptr_t)pixel + to_plus) + at,
                                                              n - at));
                    if (pixel && past_caches)
                        vec_stream(pixel + at, y[h][s]);
                    else if (pixel && at < n)
                        store_first(pixel + at, y[h][s], n - at);
                }
            }
        }
    }
    if (past_caches)
        vec_stream_end();
}

#define WINOGRAD_INSTANCE(side)                                                                \
    static void input_##side(float *v, int64_t v_step, int64_t rows, const float *const *in,   \
                             int64_t n_tiles, int64_t n)                                       \
    {                                                                                          \
        input_of(side, v, v_step, rows, in, n_tiles, n);                                       \
    }                                                                                          \
    static void weights_##side(float *u, int64_t u_step, const float *w,                       \
                               const winograd_shape *s, int64_t n_out, int64_t n_k)            \
    {                                                                                          \
        weights_of(side, u, u_step, w, s, n_out, n_k);                                         \
    }                                                                                          \
    static void output_##side(float *const *out, uintptr_t to_plus, const float *m,            \
                              int64_t m_step, const float *bias, int64_t n, bool past_caches)  \
    {                                                                                          \
        output_of(side, out, to_plus, m, m_step, bias, n, past_caches);                        \
    }                                                                                          \
    const winograd_kernels VEC_NAME(winograd##side) = {                                        \
        .input = input_##side, .weights = weights_##side, .output = output_##side}

WINOGRAD_INSTANCE(4);
WINOGRAD_INSTANCE(2);
