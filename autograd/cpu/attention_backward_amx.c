/* attention_backward_amx.c - the backward pass of attention on AMX tiles, bf16.
 *
 * For a block of queries and a block of keys, P computed again from lse:
 *   S = Q K^T     dP = dO V^T     P = 2^(c S - lse)     dS = P (dP - e)     e = <dO, O> by row
 *   dV^T += dO^T P     dK^T += Q^T dS     dQ += dS K
 * S, dP and the sums in f32; P and dS rounded to bf16. P and dS are stored as pairs of queries for the
 * second line; dS also as rows, over the keys of a whole pass, for the third.
 *
 * A task is a chunk of the keys of a head, which walks over all queries, or a chunk of queries, which walks
 * over all keys; there are more than one of at most one kind. Each adds into sums of its own, and these
 * are added in order: bits do not depend on the number of threads.
 *
 * Where one pass takes all keys, each block of queries is met once: its task packs it and writes its dQ, in
 * memory that stays in the second-level cache. Else queries are packed before, for all passes.
 */
#include "autograd/cpu/attention_amx_internal.h"

enum {
    QUERY_BLOCK = 256, /* queries between two additions to dK and dV */
    KEY_BLOCK = 64,    /* keys that S and dP of a strip are made for at a time */
    PASS = 256,        /* keys of one walk over the queries */
    CHUNKS = 16,       /* tasks to make of few heads */
    CHUNK_KEYS = 1024, /* and of how many keys or */
    CHUNK_QUERIES = 256,
    LD_S = KEY_BLOCK + AMX_SIDE,
    LD_PAIRS = 2 * KEY_BLOCK + AMX_DEPTH, /* numbers in a row of pairs */
    LD_ROWS = PASS + AMX_DEPTH
};

/* Queries of a head and their gradients from query `from` on, packed by strips of 32. */
typedef struct query_pack {
    int64_t from, rows;
    uint16_t *q, *dout;          /* [strip][32][32 d_steps] */
    char *q_down, *dout_down;    /* [strip][tile of d][1 KiB]: rows along d */
    float *lse, *e;              /* [rows]; lse in units of log 2, infinite beyond the queries */
    float *dq;                   /* [key chunk][rows][16 d_tiles] */
} query_pack;

/* Keys and values of a head, packed. */
typedef struct key_pack {
    char *k_across, *v_across, *k_down;
    float *dk, *dv;              /* [query chunk][block of keys][16 d_tiles][KEY_BLOCK] */
} key_pack;

typedef struct head_pack {
    query_pack queries; /* empty where tasks pack them */
    key_pack keys;
} head_pack;

/* What a thread works in. */
typedef struct work {
    float *s, *dp;               /* [32][LD_S] */
    uint16_t *p_pairs, *ds_pairs; /* [QUERY_BLOCK / 2][LD_PAIRS] */
    uint16_t *ds_rows;           /* [QUERY_BLOCK][LD_ROWS] */
    query_pack queries;          /* a block, where tasks pack them */
} work;

static int64_t key_chunks(const cpu_attention *a)
{
    return most(1, least(div_up(CHUNKS, a->n * a->heads), a->tk / CHUNK_KEYS));
}

static int64_t query_chunks(const cpu_attention *a)
{
    return key_chunks(a) > 1 ? 1 : most(1, least(div_up(CHUNKS, a->n * a->heads), a->tq / CHUNK_QUERIES));
}

static int64_t query_rows(const cpu_attention *a)
{
    return round_up(a->tq, STRIP);
}

static bool tasks_pack_queries(const cpu_attention *a)
{
    return a->tk <= PASS;
}

static int64_t dq_floats(const cpu_attention *a, const query_pack *q)
{
    return q->rows * d_tiles(a) * AMX_SIDE;
}

static int64_t dk_block_floats(const cpu_attention *a)
{
    return d_tiles(a) * AMX_SIDE * KEY_BLOCK;
}

static int64_t dk_floats(const cpu_attention *a)
{
    return div_up(a->tk, KEY_BLOCK) * dk_block_floats(a);
}

static int64_t strip_bytes(const cpu_attention *a)
{
    return STRIP * d_steps(a) * AMX_ROW_BYTES;
}

/* Lay `rows` queries out from `at` on; returns the end. */
static char *query_pack_at(query_pack *q, char *at, const cpu_attention *a, int64_t rows)
{
    const int64_t strips = rows / STRIP;

    q->from = 0, q->rows = rows;
    q->q = (uint16_t *)at, at += strips * strip_bytes(a);
    q->dout = (uint16_t *)at, at += strips * strip_bytes(a);
    q->q_down = at, at += down_bytes(a, rows);
    q->dout_down = at, at += down_bytes(a, rows);
    q->lse = (float *)at, at += rows * 4;
    q->e = (float *)at, at += rows * 4;
    q->dq = (float *)at, at += key_chunks(a) * dq_floats(a, q) * 4;
    return at;
}

/* Lay a head out from `base` on; returns its size in bytes. */
static int64_t head_pack_at(head_pack *h, char *base, const cpu_attention *a)
{
    char *at = query_pack_at(&h->queries, base, a, tasks_pack_queries(a) ? 0 : query_rows(a));
    key_pack *k = &h->keys;

    k->k_across = at, at += across_bytes(a, a->tk);
    k->v_across = at, at += across_bytes(a, a->tk);
    k->k_down = at, at += down_bytes(a, a->tk);
    k->dk = (float *)at, at += query_chunks(a) * dk_floats(a) * 4;
    k->dv = (float *)at, at += query_chunks(a) * dk_floats(a) * 4;
    return at - base;
}

static int64_t head_bytes(const cpu_attention *a)
{
    head_pack h;
    return head_pack_at(&h, NULL, a);
}

static int64_t work_at(work *w, char *base, const cpu_attention *a)
{
    char *at = base;

    w->s = (float *)at, at += STRIP * LD_S * 4;
    w->dp = (float *)at, at += STRIP * LD_S * 4;
    w->p_pairs = (uint16_t *)at, at += QUERY_BLOCK / 2 * LD_PAIRS * 2;
    w->ds_pairs = (uint16_t *)at, at += QUERY_BLOCK / 2 * LD_PAIRS * 2;
    w->ds_rows = (uint16_t *)at, at += QUERY_BLOCK * LD_ROWS * 2;
    at = query_pack_at(&w->queries, at, a, tasks_pack_queries(a) ? QUERY_BLOCK : 0);
    return at - base;
}

static int64_t work_bytes(const cpu_attention *a)
{
    work w;
    return work_at(&w, NULL, a);
}

size_t attention_amx_backward_scratch(const cpu_attention *a, int n_threads)
{
    return (size_t)(heads_at_once(a, head_bytes(a), n_threads) * head_bytes(a) +
                    n_threads * work_bytes(a));
}

/* --- packing -------------------------------------------------------------------------------------------- */

/* Rows along d from 32 rows of queries: A of a product over queries. */
static void pack_strip_down(char *dst, const uint16_t *src, int64_t ld, int64_t rows,
                            const cpu_attention *a)
{
    for (int64_t from = 0; from < a->d; from += AMX_SIDE, dst += AMX_TILE_BYTES) {
        const int64_t n = least(AMX_SIDE, a->d - from);
        __m512i r[AMX_SIDE];
        for (int64_t i = 0; i < AMX_SIDE; i++)
            r[i] = amx_pair_rows(load_part(src, ld, 2 * i, rows, from, n),
                                 load_part(src, ld, 2 * i + 1, rows, from, n));
        amx_transpose(r);
        amx_store_tile(dst, r);
    }
}

static float dot(const uint16_t *x, const uint16_t *y, int64_t n)
{
    __m512 sum = _mm512_setzero_ps();

    for (int64_t i = 0; i < n; i += AMX_SIDE)
        sum = _mm512_fmadd_ps(amx_widen(_mm512_castsi512_si256(amx_load_row(x + i, least(16, n - i)))),
                              amx_widen(_mm512_castsi512_si256(amx_load_row(y + i, least(16, n - i)))),
                              sum);
    return _mm512_reduce_add_ps(sum);
}

/* The strip from query `first` on. */
static void pack_queries(const query_pack *to, const cpu_attention *a, const cpu_attention_grad_bf16 *io,
                         int64_t head, int64_t first)
{
    const int64_t rows = least(STRIP, a->tq - first), column = head % a->heads * a->d;
    const int64_t row0 = head / a->heads * a->tq + first, at = first - to->from;
    const int64_t strip = at / STRIP * strip_bytes(a) / 2, down = down_bytes(a, at);
    const uint16_t *q = io->q + row0 * io->ld_q + column;
    const uint16_t *dout = io->dout + row0 * io->ld_dout + column;
    const uint16_t *out = io->out + row0 * io->ld_out + column;

    pack_strip(to->q + strip, q, io->ld_q, rows, 0, a);
    pack_strip(to->dout + strip, dout, io->ld_dout, rows, 0, a);
    pack_strip_down(to->q_down + down, q, io->ld_q, rows, a);
    pack_strip_down(to->dout_down + down, dout, io->ld_dout, rows, a);
    for (int64_t i = 0; i < STRIP; i++) {
        to->lse[at + i] = i < rows ? io->lse[head * a->tq + first + i] * LOG2_E : INFINITY;
        to->e[at + i] = i < rows ? dot(dout + i * io->ld_dout, out + i * io->ld_out, a->d) : 0.0f;
    }
}

static void pack_keys(const key_pack *to, const cpu_attention *a, const cpu_attention_grad_bf16 *io,
                      int64_t head, int64_t first)
{
    const int64_t rows = least(KEY_GROUP, a->tk - first), column = head % a->heads * a->d;
    const int64_t row0 = head / a->heads * a->tk + first;
    const uint16_t *k = io->k + row0 * io->ld_k + column, *v = io->v + row0 * io->ld_v + column;

    pack_across(to->k_across + across_bytes(a, first), k, io->ld_k, rows, a);
    pack_across(to->v_across + across_bytes(a, first), v, io->ld_v, rows, a);
    pack_down(to->k_down + down_bytes(a, first), k, io->ld_k, rows, a);
}

/* --- one block of queries and keys ------------------------------------------------------------------------ */

/* Where the results of two rows of queries go: pairs by key, rows by column. */
typedef struct row_pair {
    const float *s, *dp;   /* two rows of LD_S */
    float lse[2], e[2], c;
    uint16_t *p_pairs, *ds_pairs;
    uint16_t *ds_rows;     /* two rows of LD_ROWS */
} row_pair;

AMX_INLINE void store_pairs(uint16_t *dst, __m512i even, __m512i odd)
{
    _mm512_store_si512(dst, _mm512_unpacklo_epi16(even, odd));
    _mm512_store_si512(dst + AMX_DEPTH, _mm512_unpackhi_epi16(even, odd));
}

/* P and dS of two rows and 32 keys from k on; seen: the columns that are, by row and tile. */
AMX_INLINE void row_pair_group(const bool masked, const row_pair *r, int64_t k, __mmask16 seen[2][2])
{
    __m512i p[2], ds[2];

    for (int i = 0; i < 2; i++) {
        __m512 pt[2], dst[2];
        for (int t = 0; t < 2; t++) {
            const int64_t at = i * LD_S + k + t * AMX_SIDE;
            pt[t] = amx_exp2(_mm512_fmsub_ps(_mm512_load_ps(r->s + at), _mm512_set1_ps(r->c),
                                             _mm512_set1_ps(r->lse[i])));
            if (masked)
                pt[t] = _mm512_maskz_mov_ps(seen[i][t], pt[t]);
            dst[t] = _mm512_mul_ps(pt[t], _mm512_sub_ps(_mm512_load_ps(r->dp + at),
                                                        _mm512_set1_ps(r->e[i])));
            if (masked)
                dst[t] = _mm512_maskz_mov_ps(seen[i][t], dst[t]);
        }
        p[i] = amx_round_pair(pt[0], pt[1]);
        ds[i] = amx_round_pair(dst[0], dst[1]);
        _mm512_store_si512(r->ds_rows + i * LD_ROWS + k, ds[i]);
    }
    store_pairs(r->p_pairs + 2 * k, p[0], p[1]);
    store_pairs(r->ds_pairs + 2 * k, ds[0], ds[1]);
}

static void row_pair_plain(const row_pair *r, int64_t n_keys)
{
    for (int64_t k = 0; k < n_keys; k += KEY_GROUP)
        row_pair_group(false, r, k, NULL);
}

static void row_pair_masked(const row_pair *r, int64_t n_keys, int64_t seen0, int64_t seen1)
{
    for (int64_t k = 0; k < n_keys; k += KEY_GROUP) {
        __mmask16 seen[2][2];
        seen_columns(seen[0], k, seen0);
        seen_columns(seen[1], k, seen1);
        row_pair_group(true, r, k, seen);
    }
}

/* P and dS of a strip from query q0 on and keys k0.., which are row `row` on of the block's queries and
 * key `at` on of the pass. */
static void strip_gradients(const cpu_attention *a, const query_pack *q, const key_pack *kv, const work *w,
                            int64_t q0, int64_t row, int64_t k0, int64_t n_keys, int64_t at)
{
    const int64_t first = q0 - q->from, strip = first / STRIP * strip_bytes(a) / 2;
    const amx_tiles keys = tiles_across(kv->k_across, k0, a), values = tiles_across(kv->v_across, k0, a);

    amx_product(w->s, LD_S, tiles_of_strip(q->q + strip, a), &keys, 2, n_keys / AMX_SIDE, d_steps(a), false);
    amx_product(w->dp, LD_S, tiles_of_strip(q->dout + strip, a), &values, 2, n_keys / AMX_SIDE, d_steps(a),
                false);
    for (int64_t i = 0; i < STRIP; i += 2) {
        const row_pair r = {.s = w->s + i * LD_S,
                            .dp = w->dp + i * LD_S,
                            .lse = {q->lse[first + i], q->lse[first + i + 1]},
                            .e = {q->e[first + i], q->e[first + i + 1]},
                            .c = a->scale * LOG2_E,
                            .p_pairs = w->p_pairs + (row + i) / 2 * LD_PAIRS,
                            .ds_pairs = w->ds_pairs + (row + i) / 2 * LD_PAIRS,
                            .ds_rows = w->ds_rows + (row + i) * LD_ROWS + at};
        const int64_t seen0 = seen_keys(a, q0 + i, k0, n_keys), seen1 = seen_keys(a, q0 + i + 1, k0, n_keys);

        if (seen0 < n_keys)
            row_pair_masked(&r, n_keys, seen0, seen1);
        else
            row_pair_plain(&r, n_keys);
    }
}

/* Queries [q0, q0 + rows) against the keys [k0, k0 + n_keys) of a pass. */
static void query_block(const cpu_attention *a, const query_pack *q, const key_pack *kv, const work *w,
                        int64_t q0, int64_t rows, int64_t k0, int64_t n_keys, bool first, float *dq, float *dk,
                        float *dv)
{
    const int64_t n_d = d_tiles(a), steps = rows / STRIP, row = 2 * LD_PAIRS;
    const amx_tiles pairs_of_p = {w->p_pairs, row, AMX_ROW_BYTES, AMX_SIDE * row};
    const amx_tiles pairs_of_ds = {w->ds_pairs, row, AMX_ROW_BYTES, AMX_SIDE * row};
    const amx_tiles rows_of_ds = {w->ds_rows, 2 * LD_ROWS, AMX_SIDE * 2 * LD_ROWS, AMX_ROW_BYTES};
    const amx_tiles keys = tiles_down(kv->k_down, k0, a);

    for (int64_t at = 0; at < n_keys; at += KEY_BLOCK) {
        const int64_t n = least(KEY_BLOCK, n_keys - at), block = (k0 + at) / KEY_BLOCK;

        for (int64_t i = 0; i < rows; i += STRIP)
            strip_gradients(a, q, kv, w, q0 + i, i, k0 + at, n, at);
        amx_product(dv + block * dk_block_floats(a), KEY_BLOCK, tiles_down_rows(q->dout_down, q0 - q->from, a),
                    &pairs_of_p, n_d, n / AMX_SIDE, steps, true);
        amx_product(dk + block * dk_block_floats(a), KEY_BLOCK, tiles_down_rows(q->q_down, q0 - q->from, a),
                    &pairs_of_ds, n_d, n / AMX_SIDE, steps, true);
    }
    amx_product(dq, n_d * AMX_SIDE, rows_of_ds, &keys, rows / AMX_SIDE, n_d,
                n_keys / KEY_GROUP, !first);
}

/* --- tasks ---------------------------------------------------------------------------------------------- */

/* dst [rows][d] = scale times the parts added in order; part [rows][16 d_tiles]. */
static void finish_queries(const cpu_attention *a, const cpu_attention_grad_bf16 *io, int64_t head,
                           const query_pack *from, int64_t first)
{
    const int64_t width = d_tiles(a) * AMX_SIDE;

    for (int64_t q = first; q < least(first + STRIP, a->tq); q++) {
        uint16_t *dst = io->dq + (head / a->heads * a->tq + q) * io->ld_dq + head % a->heads * a->d;
        const float *part = from->dq + (q - from->from) * width;
        for (int64_t j = 0; j < a->d; j += AMX_SIDE) {
            __m512 sum = _mm512_load_ps(part + j);
            for (int64_t c = 1; c < key_chunks(a); c++)
                sum = _mm512_add_ps(sum, _mm512_load_ps(part + c * dq_floats(a, from) + j));
            amx_store_rounded(dst + j, _mm512_mul_ps(sum, _mm512_set1_ps(a->scale)), a->d - j);
        }
    }
}

/* Pack and finish a block of queries around its only pass. */
static void pack_block(query_pack *to, const cpu_attention *a, const cpu_attention_grad_bf16 *io, int64_t head,
                       int64_t q0, int64_t rows)
{
    to->from = q0;
    for (int64_t i = 0; i < rows; i += STRIP)
        pack_queries(to, a, io, head, q0 + i);
}

static void finish_block(const query_pack *from, const cpu_attention *a, const cpu_attention_grad_bf16 *io,
                         int64_t head, int64_t q0, int64_t rows)
{
    for (int64_t i = 0; i < rows; i += STRIP)
        finish_queries(a, io, head, from, q0 + i);
}

/* Chunk `kc` of the keys and chunk `qc` of the queries of a head. */
static void backward_task(const cpu_attention *a, const cpu_attention_grad_bf16 *io, int64_t head,
                          const head_pack *h, work *w, int64_t kc, int64_t qc)
{
    const bool packs = tasks_pack_queries(a);
    const query_pack *q = packs ? &w->queries : &h->queries;
    const int64_t passes = div_up(a->tk, PASS), blocks = div_up(a->tq, QUERY_BLOCK);
    const int64_t k_first = kc * passes / key_chunks(a) * PASS;
    const int64_t k_end = least(a->tk, (kc + 1) * passes / key_chunks(a) * PASS);
    const int64_t q_first = qc * blocks / query_chunks(a) * QUERY_BLOCK;
    const int64_t q_end = least(query_rows(a), (qc + 1) * blocks / query_chunks(a) * QUERY_BLOCK);
    float *dk = h->keys.dk + qc * dk_floats(a), *dv = h->keys.dv + qc * dk_floats(a);
    const size_t dk_bytes = (size_t)(div_up(k_end - k_first, KEY_BLOCK) * dk_block_floats(a)) * 4;

    memset(dk + k_first / KEY_BLOCK * dk_block_floats(a), 0, dk_bytes);
    memset(dv + k_first / KEY_BLOCK * dk_block_floats(a), 0, dk_bytes);
    for (int64_t k0 = k_first; k0 < k_end; k0 += PASS)
        for (int64_t q0 = q_first; q0 < q_end; q0 += QUERY_BLOCK) {
            const int64_t rows = least(QUERY_BLOCK, q_end - q0), last = least(a->tq, q0 + rows) - 1;
            const int64_t n_keys = round_up(seen_keys(a, last, k0, PASS), KEY_GROUP);
            float *dq;

            if (packs)
                pack_block(&w->queries, a, io, head, q0, rows);
            dq = q->dq + kc * dq_floats(a, q) + (q0 - q->from) * d_tiles(a) * AMX_SIDE;
            if (n_keys > 0)
                query_block(a, q, &h->keys, w, q0, rows, k0, n_keys, k0 == k_first, dq, dk, dv);
            else if (k0 == k_first)
                memset(dq, 0, (size_t)(rows * d_tiles(a) * AMX_SIDE) * sizeof *dq);
            if (packs)
                finish_block(q, a, io, head, q0, rows);
        }
}

/* 16 keys: dst [rows][d] = scale times the parts, turned; part [16 d_tiles][KEY_BLOCK] from its column on. */
static void finish_tile(uint16_t *dst, int64_t ld, const cpu_attention *a, const float *part,
                        int64_t rows, float scale)
{
    for (int64_t j = 0; j < a->d; j += AMX_SIDE) {
        __m512i r[AMX_SIDE];
        for (int64_t i = 0; i < AMX_SIDE; i++) {
            const float *at = part + (j + i) * KEY_BLOCK;
            __m512 sum = _mm512_load_ps(at);
            for (int64_t c = 1; c < query_chunks(a); c++)
                sum = _mm512_add_ps(sum, _mm512_load_ps(at + c * dk_floats(a)));
            r[i] = _mm512_castps_si512(_mm512_mul_ps(sum, _mm512_set1_ps(scale)));
        }
        amx_transpose(r);
        for (int64_t i = 0; i < rows; i++)
            amx_store_rounded(dst + i * ld + j, _mm512_castsi512_ps(r[i]), a->d - j);
    }
}

static void finish_keys(const cpu_attention *a, const cpu_attention_grad_bf16 *io, int64_t head,
                        const key_pack *from, int64_t first)
{
    for (int64_t k = first; k < least(first + KEY_GROUP, a->tk); k += AMX_SIDE) {
        const int64_t at = k / KEY_BLOCK * dk_block_floats(a) + k % KEY_BLOCK;
        const int64_t rows = least(AMX_SIDE, a->tk - k), column = head % a->heads * a->d;
        const int64_t row0 = head / a->heads * a->tk + k;

        finish_tile(io->dk + row0 * io->ld_dk + column, io->ld_dk, a, from->dk + at, rows, a->scale);
        finish_tile(io->dv + row0 * io->ld_dv + column, io->ld_dv, a, from->dv + at, rows, 1.0f);
    }
}

void attention_amx_backward(const cpu_attention *a, const cpu_attention_grad_bf16 *io, void *scratch,
                            int n_threads)
{
    const int64_t bytes = head_bytes(a), n_heads = a->n * a->heads;
    const int64_t wave = heads_at_once(a, bytes, n_threads);
    const int64_t strips = tasks_pack_queries(a) ? 0 : query_rows(a) / STRIP, groups = div_up(a->tk, KEY_GROUP);
    const int64_t parts = strips + groups, chunks = key_chunks(a) * query_chunks(a);
    char *packed = scratch;

#pragma omp parallel num_threads(n_threads)
    {
        head_pack h;
        work w;

        work_at(&w, packed + wave * bytes + omp_get_thread_num() * work_bytes(a), a);
        amx_begin();
        for (int64_t head0 = 0; head0 < n_heads; head0 += wave) {
            const int64_t count = least(wave, n_heads - head0);

#pragma omp for schedule(static)
            for (int64_t i = 0; i < count * parts; i++) {
                head_pack_at(&h, packed + i / parts * bytes, a);
                if (i % parts < strips)
                    pack_queries(&h.queries, a, io, head0 + i / parts, i % parts * STRIP);
                else
                    pack_keys(&h.keys, a, io, head0 + i / parts, (i % parts - strips) * KEY_GROUP);
            }
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < count * chunks; i++) {
                head_pack_at(&h, packed + i / chunks * bytes, a);
                backward_task(a, io, head0 + i / chunks, &h, &w, i % chunks / query_chunks(a),
                              i % chunks % query_chunks(a));
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < count * parts; i++) {
                head_pack_at(&h, packed + i / parts * bytes, a);
                if (i % parts < strips)
                    finish_queries(a, io, head0 + i / parts, &h.queries, i % parts * STRIP);
                else
                    finish_keys(a, io, head0 + i / parts, &h.keys, (i % parts - strips) * KEY_GROUP);
            }
        }
        amx_end();
    }
}
