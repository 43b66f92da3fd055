/* attention_kernel.inc.h - blocked attention over vector.h, compiled once per instruction set.
 *
 * Everything is made of one small product that lives in registers,
 *
 *   C[r][lane] = beta C[r][lane] + sum_k A[k][r] B[k][lane],
 *
 * where A is read one number at a time (broadcast), B and C by vectors, and `lane` runs over a tile
 * of LANES queries or LANES keys. Two layouts feed it:
 *
 *   lanes  X^T in tiles, [tile][d][LANES], zero beyond the last row: B of one product, and, read
 *          across, A of another
 *   rows   X copied to rows of ld_rows(d) floats: A whose k runs over queries or keys
 *   panels X^T in panels of several tiles of products, [panel][d][PANEL or QUERY_BLOCK]: A, read across
 *
 * Forward, for a tile of queries and a block of keys:
 *   S^T[key][query] = K Q^T     m, l: running maximum and sum by lane    P^T = 2^(S^T - m)
 *   O^T[d][query] = 2^(m_old - m) O^T + V^T P^T
 * so the softmax works along lanes and no padding of d or of keys is ever multiplied.
 *
 * Backward, for a tile of keys and a block of queries (P recomputed from lse):
 *   S[query][key] = Q K^T     P = 2^(S - lse)     dP = dO V^T     dS = P (dP - e)
 *   dV^T[d][key] += dO^T P    dK^T[d][key] += Q^T dS    dQ^T[d][query] += K^T dS^T
 *
 * Scores are kept in units of log 2: q is multiplied by scale * log2(e) on the way in.
 * Work is cut into tasks by shape alone and every task writes its own memory; so bits do not depend
 * on the number of threads.
 */
#include <math.h>
#include <omp.h>
#include <stddef.h>

#include "autograd/cpu/attention_internal.h"
#include "autograd/cpu/vector.h"

#if defined(__AVX512F__)
enum { TILE_ROWS = 14, PANEL = TILE_ROWS }; /* of 32 registers, 28 hold C */
#elif defined(__AVX2__)
enum { TILE_ROWS = 6, PANEL = 2 * TILE_ROWS }; /* of 16 registers, 12 hold C */
#else
enum { TILE_ROWS = 4, PANEL = 2 * TILE_ROWS };
#endif

enum {
    LANES = 2 * VEC_N,
    KEY_BLOCK = 128,                           /* keys of one backward block, at most this of a forward one */
    QUERY_BLOCK = 64,                          /* queries of one backward block, whole tiles of lanes */
    WIDE_HEAD = 256,                           /* heads from this on are multiplied in parts of d */
    DEPTH_BLOCK = 4096 / LANES,                /* of d at a time: 16 KiB of one tile */
    PACKED_BYTES_MAX = 48 << 20                /* heads packed together take at most about this */
};

static const float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

static int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return div_up(a, b) * b; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Row length of the `rows` layout: for wide heads an odd number of cache lines, so that a column of
 * rows does not fall into few cache sets. */
static int64_t ld_rows(int64_t d)
{
    return d < 128 ? d : (d + 15) / 16 % 2 ? round_up(d, 16) : round_up(d, 16) + 16;
}

/* --- the product ----------------------------------------------------------------------------- */

/* How the product begins: from zero, from numbers by lane, from C, or from beta C. */
typedef struct product_start {
    bool add;
    const vec *from; /* by lane, where not added to C; NULL: 0 */
    const vec *beta; /* by lane; NULL: 1 */
} product_start;

VEC_INLINE void tile_start(const int rows, const int n_vec, vec acc[TILE_ROWS][2], const float *c,
                           product_start start)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++)
            acc[r][v] = start.from ? start.from[v] : vec_set(0.0f);
    if (!start.add)
        return;
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++)
            acc[r][v] = vec_load(c + r * LANES + v * VEC_N);
    if (start.beta) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < n_vec; v++)
                acc[r][v] = vec_mul(acc[r][v], start.beta[v]);
    }
}

VEC_INLINE void tile_multiply(const int rows, const int n_vec, vec acc[TILE_ROWS][2], const float *a,
                              int64_t ld_a, const float *b, int64_t n_k)
{
    for (int64_t k = 0; k < n_k; k++, a += ld_a, b += LANES) {
        vec bk[2];
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++)
            bk[v] = vec_load(b + v * VEC_N);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const vec ak = vec_set(a[r]);
#pragma GCC unroll 2
            for (int v = 0; v < n_vec; v++)
                acc[r][v] = vec_fma(ak, bk[v], acc[r][v]);
        }
    }
}

/* C [rows][LANES] in registers; top, when not NULL, is raised to the largest C of each lane. */
VEC_INLINE void product_tile(const int rows, const int n_vec, float *c, const float *a,
                             int64_t ld_a, const float *b, int64_t n_k, product_start start,
                             vec *top)
{
    vec acc[TILE_ROWS][2];

    tile_start(rows, n_vec, acc, c, start);
    tile_multiply(rows, n_vec, acc, a, ld_a, b, n_k);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++)
            vec_store(c + r * LANES + v * VEC_N, acc[r][v]);
    if (top) {
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int v = 0; v < n_vec; v++)
                top[v] = vec_max(acc[r][v], top[v]);
    }
}

/* X(1) to X(TILE_ROWS) */
#if defined(__AVX512F__)
#define EACH_TILE_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined(__AVX2__)
#define EACH_TILE_HEIGHT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define EACH_TILE_HEIGHT(X) X(1) X(2) X(3) X(4)
#endif

/* C [rows][LANES], any number of rows; n_vec (1 or 2) vectors of the lanes are in use. */
static void product(float *c, const float *a, int64_t ld_a, const float *b, int64_t n_k,
                    int64_t rows, int n_vec, product_start start, vec *top)
{
    const int64_t n_parts = div_up(rows, TILE_ROWS);

    for (int64_t part = 0; part < n_parts; part++) {
        const int64_t r = part * rows / n_parts;
        float *cr = c + r * LANES;
        const float *ar = a + r;

        switch ((int)((part + 1) * rows / n_parts - r)) {
#define PRODUCT_CASE(R)                                                                           \
    case R:                                                                                       \
        if (n_vec == 2)                                                                           \
            product_tile(R, 2, cr, ar, ld_a, b, n_k, start, top);                                 \
        else                                                                                      \
            product_tile(R, 1, cr, ar, ld_a, b, n_k, start, top);                                 \
        break;
            EACH_TILE_HEIGHT(PRODUCT_CASE)
#undef PRODUCT_CASE
        }
    }
}

/* --- layouts --------------------------------------------------------------------------------- */

/* One tile of lanes: dst [d][LANES] = scale * src [rows][d]^T, zero beyond `rows` <= LANES. */
static void pack_lanes(float *dst, const float *src, int64_t ld, int64_t rows, int64_t d,
                       float scale)
{
    if (rows < LANES)
        memset(dst, 0, (size_t)(d * LANES) * sizeof *dst);
    vec_transpose(dst, LANES, src, ld, rows, d);
    if (scale != 1.0f)
        for (int64_t i = 0; i < d * LANES; i += VEC_N)
            vec_store(dst + i, vec_mul(vec_load(dst + i), vec_set(scale)));
}

/* One panel: dst [d][PANEL] = src [rows][d]^T, rows <= PANEL; the rest is left as it is. Eight rows go
 * faster than fewer, so the last eight may go over what the first have written. */
static void pack_panel(float *dst, const float *src, int64_t ld, int64_t rows, int64_t d)
{
    if (rows < PANEL) {
        vec_transpose(dst, PANEL, src, ld, rows, d);
        return;
    }
    vec_transpose(dst, PANEL, src, ld, 8, d);
    if (PANEL > 8)
        vec_transpose(dst + PANEL - 8, PANEL, src + (PANEL - 8) * ld, ld, 8, d);
}

static void pack_rows(float *dst, const float *src, int64_t ld, int64_t rows, int64_t d)
{
    for (int64_t r = 0; r < rows; r++)
        memcpy(dst + r * ld_rows(d), src + r * ld, (size_t)d * sizeof *dst);
}

/* dst [rows][d] = (factor by lane) * tile [d][LANES]^T; the tile is changed. */
static void unpack_lanes(float *dst, int64_t ld, float *tile, int64_t rows, int64_t d,
                         const vec factor[2])
{
    for (int64_t i = 0; i < d; i++)
        for (int v = 0; v < 2; v++) {
            float *t = tile + i * LANES + v * VEC_N;
            vec_store(t, vec_mul(vec_load(t), factor[v]));
        }
    vec_transpose(dst, ld, tile, LANES, d, rows);
}

static float dot(const float *a, const float *b, int64_t n)
{
    vec sum = vec_set(0.0f);
    int64_t i = 0;

    for (; i + VEC_N <= n; i += VEC_N)
        sum = vec_fma(vec_load(a + i), vec_load(b + i), sum);
    if (i < n)
        sum = vec_fma(vec_load_n(a + i, n - i), vec_load_n(b + i, n - i), sum);
    return vec_sum(sum);
}

/* Scores of `rows` A rows against a tile of lanes, d in blocks so that the tile stays in cache.
 * a is [d][ld_a], read across. */
static void scores(float *s, const float *a, int64_t ld_a, const float *b, int64_t d, int64_t rows, int n_vec,
                   vec *top)
{
    for (int64_t d0 = 0; d0 < d; d0 += DEPTH_BLOCK)
        product(s, a + d0 * ld_a, ld_a, b + d0 * LANES, least(DEPTH_BLOCK, d - d0), rows, n_vec,
                (product_start){.add = d0 > 0}, d0 + DEPTH_BLOCK >= d ? top : NULL);
}

/* How many heads are packed at a time. */
static int64_t heads_at_once(const cpu_attention *a, int64_t head_floats, int n_threads)
{
    const int64_t fit = PACKED_BYTES_MAX / (head_floats * (int64_t)sizeof(float));
    return least(a->n * a->heads, most(fit, n_threads));
}

#include "autograd/cpu/attention_backward.inc.h"
#include "autograd/cpu/attention_forward.inc.h"

/* --- probabilities --------------------------------------------------------------------------- */

static void probabilities_row(float *p, const cpu_attention *a, const float *q, const float *k,
                              int64_t ld_k, int64_t query)
{
    const int64_t seen = a->causal ? least(a->tk, query + 1) : a->tk;
    float top = -INFINITY, sum = 0.0f;

    for (int64_t j = 0; j < seen; j++) {
        p[j] = dot(q, k + j * ld_k, a->d) * a->scale;
        top = p[j] > top || p[j] != p[j] ? p[j] : top;
    }
    for (int64_t j = 0; j < seen; j++) {
        p[j] = expf(p[j] - top);
        sum += p[j];
    }
    for (int64_t j = 0; j < seen; j++)
        p[j] /= sum;
    for (int64_t j = seen; j < a->tk; j++)
        p[j] = 0.0f;
}

static void probabilities(float *probs, const cpu_attention *a, const float *q, int64_t ld_q,
                          const float *k, int64_t ld_k, int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t i = 0; i < a->n * a->heads * a->tq; i++) {
        const int64_t query = i % a->tq, head = i / a->tq;
        const int64_t sample = head / a->heads, column = head % a->heads * a->d;
        probabilities_row(probs + i * a->tk, a, q + (sample * a->tq + query) * ld_q + column,
                          k + sample * a->tk * ld_k + column, ld_k, query);
    }
}

const cpu_attention_kernels VEC_NAME(cpu_attention) = {
    .forward_scratch = forward_scratch,
    .forward = forward,
    .backward_scratch = backward_scratch,
    .backward = backward,
    .probs = probabilities,
};
