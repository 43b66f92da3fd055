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
enum { TILE_ROWS = 14 }; /* of 32 registers, 28 hold C */
#elif defined(__AVX2__)
enum { TILE_ROWS = 6 }; /* of 16 registers, 12 hold C */
#else
enum { TILE_ROWS = 4 };
#endif

enum {
    LANES = 2 * VEC_N,
    KEY_BLOCK = 128,                           /* keys between two looks at the maximum */
    KEY_TILES = KEY_BLOCK / LANES,
    QUERY_BLOCK_TILES = LANES >= 64 ? 1 : 64 / LANES, /* queries of one backward block: 64 */
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

/* How the product begins: from zero, from C, or from beta C. */
typedef struct product_start {
    bool add;
    const vec *beta; /* by lane; NULL: 1 */
} product_start;

/* C [rows][LANES] in registers; top, when not NULL, is raised to the largest C of each lane. */
VEC_INLINE void product_tile(const int rows, const int n_vec, float *c, const float *a,
                             int64_t ld_a, const float *b, int64_t n_k, product_start start,
                             vec *top)
{
    vec acc[TILE_ROWS][2];

#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++)
            acc[r][v] = vec_set(0.0f);
    if (start.add) {
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
            PRODUCT_CASE(1)
            PRODUCT_CASE(2)
            PRODUCT_CASE(3)
            PRODUCT_CASE(4)
#if defined(__AVX2__)
            PRODUCT_CASE(5)
            PRODUCT_CASE(6)
#endif
#if defined(__AVX512F__)
            PRODUCT_CASE(7)
            PRODUCT_CASE(8)
            PRODUCT_CASE(9)
            PRODUCT_CASE(10)
            PRODUCT_CASE(11)
            PRODUCT_CASE(12)
            PRODUCT_CASE(13)
            PRODUCT_CASE(14)
#endif
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
 * a is a tile of lanes read across (ld_a = LANES). */
static void scores(float *s, const float *a, const float *b, int64_t d, int64_t rows, int n_vec,
                   vec *top)
{
    for (int64_t d0 = 0; d0 < d; d0 += DEPTH_BLOCK)
        product(s, a + d0 * LANES, LANES, b + d0 * LANES, least(DEPTH_BLOCK, d - d0), rows, n_vec,
                (product_start){.add = d0 > 0}, d0 + DEPTH_BLOCK >= d ? top : NULL);
}

/* --- forward --------------------------------------------------------------------------------- */

/* One tile of queries while the keys go by. */
typedef struct query_tile {
    float *qt, *ot; /* [d][LANES] */
    vec m[2], l[2]; /* running maximum and sum */
    int64_t first, rows;
    int n_vec;
} query_tile;

enum { GROUP_MAX = 4 }; /* tiles of queries that share a walk over the keys */

static int64_t forward_thread_floats(const cpu_attention *a)
{
    return GROUP_MAX * 2 * a->d * LANES + KEY_BLOCK * LANES;
}

static int64_t forward_head_floats(const cpu_attention *a)
{
    return round_up(a->tk, LANES) * a->d + round_up(a->tk * ld_rows(a->d), 16);
}

/* How many heads are packed at a time. */
static int64_t heads_at_once(const cpu_attention *a, int64_t head_floats, int n_threads)
{
    const int64_t fit = PACKED_BYTES_MAX / (head_floats * (int64_t)sizeof(float));
    return least(a->n * a->heads, most(fit, n_threads));
}

static size_t forward_scratch(const cpu_attention *a, int n_threads)
{
    const int64_t head = forward_head_floats(a);
    return (size_t)(heads_at_once(a, head, n_threads) * head +
                    n_threads * forward_thread_floats(a)) * sizeof(float);
}

/* Hide keys first_key + j > query first_query + i: S^T [n_keys][LANES] becomes -infinity there. */
static void hide_later_keys(float *s, int64_t first_key, int64_t n_keys, int64_t first_query)
{
    for (int64_t j = most(0, first_query + 1 - first_key); j < n_keys; j++)
        for (int64_t i = 0; i < least(LANES, first_key + j - first_query); i++)
            s[j * LANES + i] = -INFINITY;
}

/* S^T -> 2^(S^T - m) in place, summed into l. */
static void exponentials(float *s, int64_t n_keys, int n_vec, const vec m[2], vec l[2])
{
    if (n_vec == 1) {
        for (int64_t j = 0; j < n_keys; j++) {
            const vec p = vec_exp2(vec_sub(vec_load(s + j * LANES), m[0]));
            l[0] = vec_add(l[0], p);
            vec_store(s + j * LANES, p);
        }
        return;
    }
    for (int64_t j = 0; j < n_keys; j++) {
        float *row = s + j * LANES;
        const vec p = vec_exp2(vec_sub(vec_load(row), m[0]));
        const vec p1 = vec_exp2(vec_sub(vec_load(row + VEC_N), m[1]));
        l[0] = vec_add(l[0], p);
        l[1] = vec_add(l[1], p1);
        vec_store(row, p);
        vec_store(row + VEC_N, p1);
    }
}

static void forward_block(query_tile *t, const cpu_attention *a, const float *kt, const float *vr,
                          int64_t k0, float *s)
{
    int64_t n_keys = least(KEY_BLOCK, a->tk - k0);
    vec top[2] = {t->m[0], t->m[1]}, beta[2];
    const int64_t last = t->first + t->rows - 1;

    if (a->causal) {
        if (k0 > last)
            return;
        n_keys = least(n_keys, last + 1 - k0);
    }
    const bool masked = a->causal && k0 + n_keys - 1 > t->first;
    for (int64_t j = 0; j < n_keys; j += LANES)
        scores(s + j * LANES, kt + (k0 + j) * a->d, t->qt, a->d, least(LANES, n_keys - j),
               t->n_vec, masked ? NULL : top);
    if (masked) {
        hide_later_keys(s, k0, n_keys, t->first);
        for (int64_t j = 0; j < n_keys; j++)
            for (int v = 0; v < t->n_vec; v++)
                top[v] = vec_max(vec_load(s + j * LANES + v * VEC_N), top[v]);
    }
    for (int v = 0; v < t->n_vec; v++) {
        beta[v] = vec_exp2(vec_sub(t->m[v], top[v]));
        t->m[v] = top[v];
        t->l[v] = k0 ? vec_mul(t->l[v], beta[v]) : vec_set(0.0f);
    }
    exponentials(s, n_keys, t->n_vec, t->m, t->l);
    product(t->ot, vr + k0 * ld_rows(a->d), ld_rows(a->d), s, n_keys, a->d, t->n_vec,
            (product_start){.add = k0 > 0, .beta = beta}, NULL);
}

/* Queries of one task of one head: `n_tiles` tiles from tile `tile0` on. */
static void forward_task(const cpu_attention *a, const cpu_attention_forward_args *io, int64_t head,
                         int64_t tile0, int64_t n_tiles, const float *kt, const float *vr,
                         float *mine)
{
    const int64_t sample = head / a->heads, column = head % a->heads * a->d;
    const float *q = io->q + sample * a->tq * io->ld_q + column;
    float *out = io->out + sample * a->tq * io->ld_out + column;
    float *s = mine + GROUP_MAX * 2 * a->d * LANES;
    query_tile tile[GROUP_MAX];

    for (int64_t i = 0; i < n_tiles; i++) {
        query_tile *t = &tile[i];
        t->qt = mine + i * 2 * a->d * LANES;
        t->ot = t->qt + a->d * LANES;
        t->first = (tile0 + i) * LANES;
        t->rows = least(LANES, a->tq - t->first);
        t->n_vec = t->rows > VEC_N ? 2 : 1;
        for (int v = 0; v < 2; v++) {
            t->m[v] = vec_set(-INFINITY);
            t->l[v] = vec_set(1.0f);
        }
        pack_lanes(t->qt, q + t->first * io->ld_q, io->ld_q, t->rows, a->d, a->scale * LOG2_E);
    }
    for (int64_t k0 = 0; k0 < a->tk; k0 += KEY_BLOCK)
        for (int64_t i = 0; i < n_tiles; i++)
            forward_block(&tile[i], a, kt, vr, k0, s);
    for (int64_t i = 0; i < n_tiles; i++) {
        query_tile *t = &tile[i];
        float m[LANES], l[LANES];
        vec inverse[2];

        for (int v = 0; v < 2; v++) {
            vec_store(m + v * VEC_N, t->m[v]);
            vec_store(l + v * VEC_N, t->l[v]);
            inverse[v] = vec_div(vec_set(1.0f), t->l[v]);
        }
        unpack_lanes(out + t->first * io->ld_out, io->ld_out, t->ot, t->rows, a->d, inverse);
        if (io->lse)
            for (int64_t r = 0; r < t->rows; r++)
                io->lse[head * a->tq + t->first + r] = m[r] * LN_2 + logf(l[r]);
    }
}

static void forward(const cpu_attention *a, const cpu_attention_forward_args *io, void *scratch,
                    int n_threads)
{
    const int64_t head_floats = forward_head_floats(a), n_heads = a->n * a->heads;
    const int64_t wave = heads_at_once(a, head_floats, n_threads);
    const int64_t key_tiles = div_up(a->tk, LANES), query_tiles = div_up(a->tq, LANES);
    const int64_t wide = a->d > 256 ? 2 : GROUP_MAX; /* the group's tiles stay in the L2 cache */
    const int64_t group =
        most(1, least(wide, wave * query_tiles / (4 * (int64_t)n_threads)));
    const int64_t groups = div_up(query_tiles, group);
    float *packed = scratch;

#pragma omp parallel num_threads(n_threads)
    for (int64_t head0 = 0; head0 < n_heads; head0 += wave) {
        const int64_t count = least(wave, n_heads - head0);

#pragma omp for schedule(static)
        for (int64_t i = 0; i < count * key_tiles; i++) {
            const int64_t head = head0 + i / key_tiles, first = i % key_tiles * LANES;
            const int64_t rows = least(LANES, a->tk - first);
            const int64_t row0 = head / a->heads * a->tk + first, column = head % a->heads * a->d;
            float *kt = packed + i / key_tiles * head_floats;
            float *vr = kt + round_up(a->tk, LANES) * a->d;

            pack_lanes(kt + first * a->d, io->k + row0 * io->ld_k + column, io->ld_k, rows, a->d,
                       1.0f);
            pack_rows(vr + first * ld_rows(a->d), io->v + row0 * io->ld_v + column, io->ld_v, rows,
                      a->d);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count * groups; i++) {
            const float *kt = packed + i / groups * head_floats;
            const float *vr = kt + round_up(a->tk, LANES) * a->d;
            float *mine = packed + wave * head_floats +
                          omp_get_thread_num() * forward_thread_floats(a);
            const int64_t tile0 = i % groups * group;

            forward_task(a, io, head0 + i / groups, tile0, least(group, query_tiles - tile0), kt,
                         vr, mine);
        }
    }
}

/* --- backward -------------------------------------------------------------------------------- */

/* One head, packed; e is <dO, O>, lse in units of log 2. */
typedef struct head_pack {
    float *q_lanes, *q_rows; /* scale log2(e) Q; Q */
    float *do_lanes, *do_rows;
    float *k_lanes, *k_rows, *v_lanes;
    float *lse, *e;   /* [Tq] */
    float *dq_lanes;  /* [chunk][Tq tiles][d][LANES]: what each chunk of keys adds to dQ^T */
} head_pack;

/* Keys are cut into chunks, each the work of one task, when there are few heads. */
static int64_t backward_chunks(const cpu_attention *a)
{
    const int64_t want = div_up(32, a->n * a->heads), can = most(1, a->tk / 1024);
    return least(want, can);
}

static int64_t backward_head_floats(const cpu_attention *a)
{
    const int64_t tq = round_up(a->tq, LANES), tk = round_up(a->tk, LANES);
    return 2 * tq * (a->d + ld_rows(a->d)) + tk * (2 * a->d + ld_rows(a->d)) + 2 * tq +
           backward_chunks(a) * tq * a->d;
}

static head_pack head_pack_at(float *base, const cpu_attention *a)
{
    const int64_t tq = round_up(a->tq, LANES), tk = round_up(a->tk, LANES);
    head_pack h;

    h.q_lanes = base;
    h.q_rows = h.q_lanes + tq * a->d;
    h.do_lanes = h.q_rows + tq * ld_rows(a->d);
    h.do_rows = h.do_lanes + tq * a->d;
    h.k_lanes = h.do_rows + tq * ld_rows(a->d);
    h.v_lanes = h.k_lanes + tk * a->d;
    h.k_rows = h.v_lanes + tk * a->d;
    h.lse = h.k_rows + tk * ld_rows(a->d);
    h.e = h.lse + tq;
    h.dq_lanes = h.e + tq;
    return h;
}

/* Sizes of the blocks: wide heads take half of each, so that a block pair stays in the L2 cache. */
static int64_t backward_key_tiles(const cpu_attention *a)
{
    return a->d > 256 ? most(1, KEY_TILES / 2) : KEY_TILES;
}
static int64_t backward_query_tiles(const cpu_attention *a)
{
    return a->d > 256 ? most(1, QUERY_BLOCK_TILES / 2) : QUERY_BLOCK_TILES;
}

static int64_t backward_thread_floats(const cpu_attention *a)
{
    const int64_t queries = QUERY_BLOCK_TILES * LANES;
    return 2 * queries * LANES + queries * KEY_BLOCK + 2 * KEY_BLOCK * a->d;
}

static size_t backward_scratch(const cpu_attention *a, int n_threads)
{
    const int64_t head = backward_head_floats(a);
    return (size_t)(heads_at_once(a, head, n_threads) * head +
                    n_threads * backward_thread_floats(a)) * sizeof(float);
}

static void pack_queries(const head_pack *h, const cpu_attention *a, const cpu_attention_grad *io,
                         int64_t head, int64_t first)
{
    const int64_t rows = least(LANES, a->tq - first), column = head % a->heads * a->d;
    const int64_t row0 = head / a->heads * a->tq + first;
    const float *q = io->q + row0 * io->ld_q + column;
    const float *dout = io->dout + row0 * io->ld_dout + column;
    const float *out = io->out + row0 * io->ld_out + column;

    pack_lanes(h->q_lanes + first * a->d, q, io->ld_q, rows, a->d, a->scale * LOG2_E);
    pack_rows(h->q_rows + first * ld_rows(a->d), q, io->ld_q, rows, a->d);
    pack_lanes(h->do_lanes + first * a->d, dout, io->ld_dout, rows, a->d, 1.0f);
    pack_rows(h->do_rows + first * ld_rows(a->d), dout, io->ld_dout, rows, a->d);
    for (int64_t r = 0; r < rows; r++) {
        h->lse[first + r] = io->lse[head * a->tq + first + r] * LOG2_E;
        h->e[first + r] = dot(dout + r * io->ld_dout, out + r * io->ld_out, a->d);
    }
}

static void pack_keys(const head_pack *h, const cpu_attention *a, const cpu_attention_grad *io,
                      int64_t head, int64_t first)
{
    const int64_t rows = least(LANES, a->tk - first), column = head % a->heads * a->d;
    const int64_t row0 = head / a->heads * a->tk + first;
    const float *k = io->k + row0 * io->ld_k + column, *v = io->v + row0 * io->ld_v + column;

    pack_lanes(h->k_lanes + first * a->d, k, io->ld_k, rows, a->d, 1.0f);
    pack_rows(h->k_rows + first * ld_rows(a->d), k, io->ld_k, rows, a->d);
    pack_lanes(h->v_lanes + first * a->d, v, io->ld_v, rows, a->d, 1.0f);
}

/* P [rows][LANES] holds scores and becomes probabilities; dS holds dP and becomes dS. */
static void score_gradients(float *p, float *ds, const float *lse, const float *e, int64_t rows,
                            int n_vec)
{
    for (int64_t r = 0; r < rows; r++) {
        const vec lse_r = vec_set(lse[r]), e_r = vec_set(e[r]);
        for (int v = 0; v < n_vec; v++) {
            float *pv = p + r * LANES + v * VEC_N, *dsv = ds + r * LANES + v * VEC_N;
            const vec prob = vec_exp2(vec_sub(vec_load(pv), lse_r));
            vec_store(pv, prob);
            vec_store(dsv, vec_mul(prob, vec_sub(vec_load(dsv), e_r)));
        }
    }
}

static const product_start ADD = {.add = true};

/* One tile of keys against one block of queries: adds to dk, dv [d][LANES] and writes dS^T
 * [query tile][key][LANES] with `ds_keys` keys a tile, from key `ds_row` on. */
static void backward_tile(const cpu_attention *a, const head_pack *h, int64_t q0, int64_t n_q,
                          int64_t k0, float *dk, float *dv, float *dst, int64_t ds_keys,
                          int64_t ds_row, float *p, float *ds)
{
    const int64_t n_keys = least(LANES, a->tk - k0), d = a->d;
    const int n_vec = n_keys > VEC_N ? 2 : 1;

    for (int64_t i = 0; i < n_q; i += LANES) {
        const int64_t rows = least(LANES, n_q - i);
        const float *q = h->q_lanes + (q0 + i) * d, *dout = h->do_lanes + (q0 + i) * d;
        scores(p + i * LANES, q, h->k_lanes + k0 * d, d, rows, n_vec, NULL);
        scores(ds + i * LANES, dout, h->v_lanes + k0 * d, d, rows, n_vec, NULL);
    }
    if (a->causal)
        for (int64_t i = 0; i < least(n_q, k0 + n_keys - q0); i++)
            for (int64_t j = most(0, q0 + i + 1 - k0); j < n_keys; j++)
                p[i * LANES + j] = -INFINITY;
    score_gradients(p, ds, h->lse + q0, h->e + q0, n_q, n_vec);
    product(dv, h->do_rows + q0 * ld_rows(d), ld_rows(d), p, n_q, d, n_vec, ADD, NULL);
    product(dk, h->q_rows + q0 * ld_rows(d), ld_rows(d), ds, n_q, d, n_vec, ADD, NULL);
    for (int64_t i = 0; i < n_q; i += LANES)
        vec_transpose(dst + i * ds_keys + ds_row * LANES, LANES, ds + i * LANES, LANES,
                      least(LANES, n_q - i), n_keys);
}

/* One block of keys [k0, k1) of a head against all queries. */
static void backward_keys(const cpu_attention *a, const head_pack *h, float *dqt, int64_t k0,
                          int64_t k1, float *mine)
{
    const int64_t d = a->d, block = backward_query_tiles(a) * LANES;
    const int64_t queries = QUERY_BLOCK_TILES * LANES;
    float *p = mine, *ds = p + queries * LANES, *dst = ds + queries * LANES;
    float *dkt = dst + queries * KEY_BLOCK, *dvt = dkt + KEY_BLOCK * d;

    memset(dkt, 0, (size_t)(2 * KEY_BLOCK * d) * sizeof *dkt);
    for (int64_t q0 = a->causal ? k0 / block * block : 0; q0 < a->tq; q0 += block) {
        const int64_t n_q = least(block, a->tq - q0);
        const int64_t end = a->causal ? least(k1, q0 + n_q) : k1;

        if (n_q % LANES)
            memset(dst, 0, (size_t)(queries * KEY_BLOCK) * sizeof *dst);
        for (int64_t k = k0; k < end; k += LANES)
            backward_tile(a, h, q0, n_q, k, dkt + (k - k0) * d, dvt + (k - k0) * d, dst, KEY_BLOCK,
                          k - k0, p, ds);
        for (int64_t i = 0; i < n_q; i += LANES)
            product(dqt + (q0 + i) * d, h->k_rows + k0 * ld_rows(d), ld_rows(d),
                    dst + i * KEY_BLOCK, end - k0, d, n_q - i > VEC_N ? 2 : 1, ADD, NULL);
    }
}

/* One chunk of keys [k0, k1) of a head: dk and dv of these keys, and the chunk's part of dQ^T. */
static void backward_task(const cpu_attention *a, const cpu_attention_grad *io, int64_t head,
                          const head_pack *h, float *dqt, int64_t k0, int64_t k1, float *mine)
{
    const int64_t d = a->d, block = backward_key_tiles(a) * LANES;
    const int64_t queries = QUERY_BLOCK_TILES * LANES, column = head % a->heads * d;
    float *dkt = mine + 2 * queries * LANES + queries * KEY_BLOCK, *dvt = dkt + KEY_BLOCK * d;
    const vec one[2] = {vec_set(1.0f), vec_set(1.0f)};
    const vec scale[2] = {vec_set(a->scale), vec_set(a->scale)};

    memset(dqt, 0, (size_t)(round_up(a->tq, LANES) * d) * sizeof *dqt);
    for (int64_t kb = k0; kb < k1; kb += block) {
        const int64_t end = least(k1, kb + block);

        backward_keys(a, h, dqt, kb, end, mine);
        for (int64_t k = kb; k < end; k += LANES) {
            const int64_t row = head / a->heads * a->tk + k, rows = least(LANES, end - k);
            unpack_lanes(io->dk + row * io->ld_dk + column, io->ld_dk, dkt + (k - kb) * d, rows, d,
                         scale);
            unpack_lanes(io->dv + row * io->ld_dv + column, io->ld_dv, dvt + (k - kb) * d, rows, d,
                         one);
        }
    }
}

/* dq of one tile of queries: the chunks' parts added in order. */
static void finish_queries(const cpu_attention *a, const cpu_attention_grad *io, int64_t head,
                           const head_pack *h, int64_t first)
{
    const int64_t part = round_up(a->tq, LANES) * a->d, chunks = backward_chunks(a);
    const int64_t row = head / a->heads * a->tq + first;
    const vec scale[2] = {vec_set(a->scale), vec_set(a->scale)};
    float *sum = h->dq_lanes + first * a->d;

    for (int64_t c = 1; c < chunks; c++)
        for (int64_t i = 0; i < a->d * LANES; i += VEC_N)
            vec_store(sum + i, vec_add(vec_load(sum + i), vec_load(sum + c * part + i)));
    unpack_lanes(io->dq + row * io->ld_dq + head % a->heads * a->d, io->ld_dq, sum,
                 least(LANES, a->tq - first), a->d, scale);
}

static void backward(const cpu_attention *a, const cpu_attention_grad *io, void *scratch,
                     int n_threads)
{
    const int64_t head_floats = backward_head_floats(a), n_heads = a->n * a->heads;
    const int64_t wave = heads_at_once(a, head_floats, n_threads), chunks = backward_chunks(a);
    const int64_t q_tiles = div_up(a->tq, LANES), k_tiles = div_up(a->tk, LANES);
    float *packed = scratch;

#pragma omp parallel num_threads(n_threads)
    for (int64_t head0 = 0; head0 < n_heads; head0 += wave) {
        const int64_t count = least(wave, n_heads - head0);

#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < count * q_tiles; i++) {
            const head_pack h = head_pack_at(packed + i / q_tiles * head_floats, a);
            pack_queries(&h, a, io, head0 + i / q_tiles, i % q_tiles * LANES);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count * k_tiles; i++) {
            const head_pack h = head_pack_at(packed + i / k_tiles * head_floats, a);
            pack_keys(&h, a, io, head0 + i / k_tiles, i % k_tiles * LANES);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count * chunks; i++) {
            const head_pack h = head_pack_at(packed + i / chunks * head_floats, a);
            const int64_t c = i % chunks;
            float *mine = packed + wave * head_floats +
                          omp_get_thread_num() * backward_thread_floats(a);
            const int64_t k0 = c * k_tiles / chunks * LANES;
            const int64_t k1 = least(a->tk, (c + 1) * k_tiles / chunks * LANES);

            backward_task(a, io, head0 + i / chunks, &h,
                          h.dq_lanes + c * round_up(a->tq, LANES) * a->d, k0, k1, mine);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count * q_tiles; i++) {
            const head_pack h = head_pack_at(packed + i / q_tiles * head_floats, a);
            finish_queries(a, io, head0 + i / q_tiles, &h, i % q_tiles * LANES);
        }
    }
}

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
