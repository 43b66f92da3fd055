/* attention_backward.inc.h - the backward pass; a part of attention_kernel.inc.h, which see.
 *
 * Two ways to cut the work, by shape: many keys are cut into chunks, and each chunk walks over all
 * queries; few keys (one block) stay, and the queries are cut into chunks.
 */

/* One head, packed; queries in panels of QUERY_BLOCK. */
typedef struct head_pack {
    float *q_panels, *q_rows, *do_panels, *do_rows;
    float *k_lanes, *k_rows, *v_lanes; /* scale log2(e) K; K; V */
    float *minus_lse, *minus_e;        /* [Tq]: -lse in units of log 2, -<dO, O> */
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
    const int64_t tq = round_up(a->tq, QUERY_BLOCK), tk = round_up(a->tk, LANES);
    return 2 * tq * (a->d + ld_rows(a->d)) + tk * (2 * a->d + ld_rows(a->d)) + 2 * tq +
           backward_chunks(a) * tq * a->d;
}

static head_pack head_pack_at(float *base, const cpu_attention *a)
{
    const int64_t tq = round_up(a->tq, QUERY_BLOCK), tk = round_up(a->tk, LANES);
    head_pack h;

    h.q_panels = base;
    h.q_rows = h.q_panels + tq * a->d;
    h.do_panels = h.q_rows + tq * ld_rows(a->d);
    h.do_rows = h.do_panels + tq * a->d;
    h.k_lanes = h.do_rows + tq * ld_rows(a->d);
    h.v_lanes = h.k_lanes + tk * a->d;
    h.k_rows = h.v_lanes + tk * a->d;
    h.minus_lse = h.k_rows + tk * ld_rows(a->d);
    h.minus_e = h.minus_lse + tq;
    h.dq_lanes = h.minus_e + tq;
    return h;
}

static int64_t block_work_floats(void)
{
    return 2 * QUERY_BLOCK * LANES + QUERY_BLOCK * KEY_BLOCK;
}

static int64_t backward_thread_floats(const cpu_attention *a)
{
    return block_work_floats() + 2 * KEY_BLOCK * a->d;
}

static size_t backward_many_scratch(const cpu_attention *a, int n_threads)
{
    const int64_t head = backward_head_floats(a);
    return (size_t)(heads_at_once(a, head, n_threads) * head +
                    n_threads * backward_thread_floats(a)) * sizeof(float);
}

/* One tile of queries, from `first` on, to rows `at` on of the pack. */
static void pack_queries(const head_pack *h, int64_t at, const cpu_attention *a,
                         const cpu_attention_grad *io, int64_t head, int64_t first)
{
    const int64_t rows = least(LANES, a->tq - first), column = head % a->heads * a->d;
    const int64_t row0 = head / a->heads * a->tq + first;
    const float *q = io->q + row0 * io->ld_q + column;
    const float *dout = io->dout + row0 * io->ld_dout + column;
    const float *out = io->out + row0 * io->ld_out + column;
    const int64_t panel = at / QUERY_BLOCK * QUERY_BLOCK * a->d + at % QUERY_BLOCK;

    vec_transpose(h->q_panels + panel, QUERY_BLOCK, q, io->ld_q, rows, a->d);
    pack_rows(h->q_rows + at * ld_rows(a->d), q, io->ld_q, rows, a->d);
    vec_transpose(h->do_panels + panel, QUERY_BLOCK, dout, io->ld_dout, rows, a->d);
    pack_rows(h->do_rows + at * ld_rows(a->d), dout, io->ld_dout, rows, a->d);
    for (int64_t r = 0; r < rows; r++) {
        h->minus_lse[at + r] = io->lse[head * a->tq + first + r] * -LOG2_E;
        h->minus_e[at + r] = -dot(dout + r * io->ld_dout, out + r * io->ld_out, a->d);
    }
}

static void pack_keys(const head_pack *h, const cpu_attention *a, const cpu_attention_grad *io,
                      int64_t head, int64_t first)
{
    const int64_t rows = least(LANES, a->tk - first), column = head % a->heads * a->d;
    const int64_t row0 = head / a->heads * a->tk + first;
    const float *k = io->k + row0 * io->ld_k + column, *v = io->v + row0 * io->ld_v + column;

    pack_lanes(h->k_lanes + first * a->d, k, io->ld_k, rows, a->d, a->scale * LOG2_E);
    pack_rows(h->k_rows + first * ld_rows(a->d), k, io->ld_k, rows, a->d);
    pack_lanes(h->v_lanes + first * a->d, v, io->ld_v, rows, a->d, 1.0f);
}

/* P [rows][LANES] holds scores and becomes probabilities; dS holds dP and becomes dS. */
static void score_gradients(float *p, float *ds, const float *minus_lse, const float *minus_e, int64_t rows,
                            int n_vec)
{
    for (int64_t r = 0; r < rows; r++) {
        const vec lse_r = vec_set(minus_lse[r]), e_r = vec_set(minus_e[r]);
        for (int v = 0; v < n_vec; v++) {
            float *pv = p + r * LANES + v * VEC_N, *dsv = ds + r * LANES + v * VEC_N;
            const vec prob = vec_exp2(vec_add(vec_load(pv), lse_r));
            vec_store(pv, prob);
            vec_store(dsv, vec_mul(prob, vec_add(vec_load(dsv), e_r)));
        }
    }
}

/* What P and dS of some queries and a tile of keys are made of; pointers to the first of the queries. */
typedef struct tile_inputs {
    const float *q, *dout; /* in panels */
    const float *minus_lse, *minus_e;
    const float *k, *v;    /* [d][LANES] */
} tile_inputs;

VEC_INLINE void tile_start_by_row(const int rows, const int n_vec, vec acc[TILE_ROWS][2], const float *by_row)
{
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++)
            acc[r][v] = vec_set(by_row[r]);
}

/* P and dS [rows][LANES], each made in registers. */
VEC_INLINE void gradient_tile(const int rows, const int n_vec, float *p, float *ds, const tile_inputs *in,
                              int64_t row, int64_t d)
{
    vec acc[TILE_ROWS][2];

    tile_start_by_row(rows, n_vec, acc, in->minus_lse + row);
    tile_multiply(rows, n_vec, acc, in->q + row, QUERY_BLOCK, in->k, d);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++)
            vec_store(p + (row + r) * LANES + v * VEC_N, vec_exp2(acc[r][v]));
    tile_start_by_row(rows, n_vec, acc, in->minus_e + row);
    tile_multiply(rows, n_vec, acc, in->dout + row, QUERY_BLOCK, in->v, d);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < n_vec; v++) {
            const int64_t i = (row + r) * LANES + v * VEC_N;
            vec_store(ds + i, vec_mul(vec_load(p + i), acc[r][v]));
        }
}

/* P and dS of any number of queries of one panel. */
static void gradient_tiles(float *p, float *ds, const tile_inputs *in, int64_t d, int64_t rows, int n_vec)
{
    const int64_t n_parts = div_up(rows, TILE_ROWS);

    for (int64_t part = 0; part < n_parts; part++) {
        const int64_t r = part * rows / n_parts;

        switch ((int)((part + 1) * rows / n_parts - r)) {
#define GRADIENT_CASE(R)                                                                          \
    case R:                                                                                       \
        if (n_vec == 2)                                                                           \
            gradient_tile(R, 2, p, ds, in, r, d);                                                 \
        else                                                                                      \
            gradient_tile(R, 1, p, ds, in, r, d);                                                 \
        break;
            EACH_TILE_HEIGHT(GRADIENT_CASE)
#undef GRADIENT_CASE
        }
    }
}

static const product_start ADD = {.add = true};

/* What one thread works in. Queries of a block are rows of p and ds; dS^T is kept for a whole block
 * of keys, [query tile][KEY_BLOCK][LANES], because K dS wants a long sum. */
typedef struct block_work {
    float *p, *ds, *ds_t;
} block_work;

static block_work block_work_at(float *mine)
{
    return (block_work){mine, mine + QUERY_BLOCK * LANES, mine + 2 * QUERY_BLOCK * LANES};
}

/* One tile of keys, from k0 on, against one block of queries [q0, q0 + n_q), which are rows `at` on
 * of the pack: adds to dk, dv [d][LANES] and writes rows `ds_row` on of dS^T. */
static void backward_tile(const cpu_attention *a, const head_pack *h, int64_t at, int64_t q0,
                          int64_t n_q, int64_t k0, float *dk, float *dv, const block_work *w,
                          int64_t ds_row)
{
    const int64_t n_keys = least(LANES, a->tk - k0), d = a->d;
    const int n_vec = n_keys > VEC_N ? 2 : 1;
    const bool masked = a->causal && k0 + n_keys - 1 > q0;
    const tile_inputs in = {h->q_panels + at * d, h->do_panels + at * d, h->minus_lse + at, h->minus_e + at,
                            h->k_lanes + k0 * d, h->v_lanes + k0 * d};
    float *p = w->p, *ds = w->ds;

    if (d < WIDE_HEAD && !masked) {
        gradient_tiles(p, ds, &in, d, n_q, n_vec);
    } else {
        scores(p, in.q, QUERY_BLOCK, in.k, d, n_q, n_vec, NULL);
        scores(ds, in.dout, QUERY_BLOCK, in.v, d, n_q, n_vec, NULL);
        for (int64_t i = 0; masked && i < least(n_q, k0 + n_keys - q0); i++)
            for (int64_t j = most(0, q0 + i + 1 - k0); j < n_keys; j++)
                p[i * LANES + j] = -INFINITY;
        score_gradients(p, ds, in.minus_lse, in.minus_e, n_q, n_vec);
    }
    product(dv, h->do_rows + at * ld_rows(d), ld_rows(d), p, n_q, d, n_vec, ADD, NULL);
    product(dk, h->q_rows + at * ld_rows(d), ld_rows(d), ds, n_q, d, n_vec, ADD, NULL);
    for (int64_t i = 0; i < n_q; i += LANES)
        vec_transpose(w->ds_t + i * KEY_BLOCK + ds_row * LANES, LANES, ds + i * LANES, LANES,
                      least(LANES, n_q - i), n_keys);
}

/* One block of keys [k0, k1) against one block of queries: adds to dK^T, dV^T [key tile][d][LANES]
 * of these keys and to dQ^T of these queries. */
static void backward_block(const cpu_attention *a, const head_pack *h, int64_t at, int64_t q0,
                           int64_t n_q, int64_t k0, int64_t k1, float *dkt, float *dvt, float *dqt,
                           const block_work *w)
{
    const int64_t d = a->d, end = a->causal ? least(k1, q0 + n_q) : k1;

    if (n_q % LANES) /* lanes beyond the last query are multiplied, not used */
        memset(w->ds_t, 0, (size_t)(QUERY_BLOCK * KEY_BLOCK) * sizeof *w->ds_t);
    for (int64_t k = k0; k < end; k += LANES)
        backward_tile(a, h, at, q0, n_q, k, dkt + (k - k0) * d, dvt + (k - k0) * d, w, k - k0);
    for (int64_t i = 0; i < n_q; i += LANES)
        product(dqt + i * d, h->k_rows + k0 * ld_rows(d), ld_rows(d), w->ds_t + i * KEY_BLOCK,
                end - k0, d, n_q - i > VEC_N ? 2 : 1, ADD, NULL);
}

/* --- many keys -------------------------------------------------------------------------------- */

/* One chunk of keys [k0, k1) of a head: dk and dv of these keys, and the chunk's part of dQ^T. */
static void backward_task(const cpu_attention *a, const cpu_attention_grad *io, int64_t head,
                          const head_pack *h, float *dqt, int64_t k0, int64_t k1, float *mine)
{
    const int64_t d = a->d, column = head % a->heads * d;
    const block_work w = block_work_at(mine);
    float *dkt = mine + block_work_floats(), *dvt = dkt + KEY_BLOCK * d;
    const vec one[2] = {vec_set(1.0f), vec_set(1.0f)};
    const vec scale[2] = {vec_set(a->scale), vec_set(a->scale)};

    memset(dqt, 0, (size_t)(round_up(a->tq, LANES) * d) * sizeof *dqt);
    for (int64_t kb = k0; kb < k1; kb += KEY_BLOCK) {
        const int64_t end = least(k1, kb + KEY_BLOCK);

        memset(dkt, 0, (size_t)(2 * KEY_BLOCK * d) * sizeof *dkt);
        for (int64_t q0 = a->causal ? kb / QUERY_BLOCK * QUERY_BLOCK : 0; q0 < a->tq; q0 += QUERY_BLOCK)
            backward_block(a, h, q0, q0, least(QUERY_BLOCK, a->tq - q0), kb, end, dkt, dvt,
                           dqt + q0 * d, &w);
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

static void backward_many(const cpu_attention *a, const cpu_attention_grad *io, void *scratch,
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
            pack_queries(&h, i % q_tiles * LANES, a, io, head0 + i / q_tiles,
                         i % q_tiles * LANES);
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

/* --- few keys: one block, as in attention to a text ------------------------------------------- */

/* Queries are cut into chunks, each with its own sums for dk and dv, which are small; a block of
 * queries is packed where it is used and its dq is ready at once. */
static int64_t few_chunks(const cpu_attention *a)
{
    return least(div_up(32, a->n * a->heads), most(1, a->tq / 256));
}

static int64_t few_head_floats(const cpu_attention *a)
{
    const int64_t tk = round_up(a->tk, LANES);
    return tk * (2 * a->d + ld_rows(a->d)) + few_chunks(a) * 2 * tk * a->d;
}

static int64_t few_thread_floats(const cpu_attention *a)
{
    return block_work_floats() + QUERY_BLOCK * (3 * a->d + 2 * ld_rows(a->d) + 2);
}

static size_t backward_few_scratch(const cpu_attention *a, int n_threads)
{
    const int64_t head = few_head_floats(a);
    return (size_t)(heads_at_once(a, head, n_threads) * head + n_threads * few_thread_floats(a)) *
           sizeof(float);
}

/* The keys of a head, in the head's memory; its queries in the thread's. */
static head_pack few_pack_at(float *base, float *mine, const cpu_attention *a)
{
    const int64_t tk = round_up(a->tk, LANES);
    head_pack h;

    h.k_lanes = base;
    h.v_lanes = h.k_lanes + tk * a->d;
    h.k_rows = h.v_lanes + tk * a->d;
    h.q_panels = mine + block_work_floats();
    h.do_panels = h.q_panels + QUERY_BLOCK * a->d;
    h.dq_lanes = h.do_panels + QUERY_BLOCK * a->d;
    h.q_rows = h.dq_lanes + QUERY_BLOCK * a->d;
    h.do_rows = h.q_rows + QUERY_BLOCK * ld_rows(a->d);
    h.minus_lse = h.do_rows + QUERY_BLOCK * ld_rows(a->d);
    h.minus_e = h.minus_lse + QUERY_BLOCK;
    return h;
}

/* Queries [q0, q1) of a head: their dq, and their part of dK^T, dV^T [2][key tile][d][LANES]. */
static void few_task(const cpu_attention *a, const cpu_attention_grad *io, int64_t head,
                     const head_pack *h, float *part, int64_t q0, int64_t q1, float *mine)
{
    const int64_t d = a->d, tk = round_up(a->tk, LANES);
    const vec scale[2] = {vec_set(a->scale), vec_set(a->scale)};
    const block_work w = block_work_at(mine);

    memset(part, 0, (size_t)(2 * tk * d) * sizeof *part);
    for (int64_t q = q0; q < q1; q += QUERY_BLOCK) {
        const int64_t n_q = least(QUERY_BLOCK, q1 - q);

        for (int64_t i = 0; i < n_q; i += LANES)
            pack_queries(h, i, a, io, head, q + i);
        memset(h->dq_lanes, 0, (size_t)(QUERY_BLOCK * d) * sizeof *h->dq_lanes);
        backward_block(a, h, 0, q, n_q, 0, a->tk, part, part + tk * d, h->dq_lanes, &w);
        for (int64_t i = 0; i < n_q; i += LANES) {
            const int64_t row = head / a->heads * a->tq + q + i;
            unpack_lanes(io->dq + row * io->ld_dq + head % a->heads * d, io->ld_dq,
                         h->dq_lanes + i * d, least(LANES, n_q - i), d, scale);
        }
    }
}

/* dk and dv of one tile of keys: the chunks' parts added in order. */
static void few_finish(const cpu_attention *a, const cpu_attention_grad *io, int64_t head,
                       float *parts, int64_t first)
{
    const int64_t d = a->d, tk = round_up(a->tk, LANES), rows = least(LANES, a->tk - first);
    const int64_t row = head / a->heads * a->tk + first, column = head % a->heads * d;
    const vec one[2] = {vec_set(1.0f), vec_set(1.0f)};
    const vec scale[2] = {vec_set(a->scale), vec_set(a->scale)};
    float *dk = parts + first * d, *dv = dk + tk * d;

    for (int64_t c = 1; c < few_chunks(a); c++)
        for (int64_t i = 0; i < d * LANES; i += VEC_N) {
            const int64_t more = c * 2 * tk * d + i;
            vec_store(dk + i, vec_add(vec_load(dk + i), vec_load(dk + more)));
            vec_store(dv + i, vec_add(vec_load(dv + i), vec_load(dv + more)));
        }
    unpack_lanes(io->dk + row * io->ld_dk + column, io->ld_dk, dk, rows, d, scale);
    unpack_lanes(io->dv + row * io->ld_dv + column, io->ld_dv, dv, rows, d, one);
}

static void backward_few(const cpu_attention *a, const cpu_attention_grad *io, void *scratch,
                         int n_threads)
{
    const int64_t head_floats = few_head_floats(a), n_heads = a->n * a->heads;
    const int64_t wave = heads_at_once(a, head_floats, n_threads), chunks = few_chunks(a);
    const int64_t q_tiles = div_up(a->tq, LANES), k_tiles = div_up(a->tk, LANES);
    float *packed = scratch;

#pragma omp parallel num_threads(n_threads)
    for (int64_t head0 = 0; head0 < n_heads; head0 += wave) {
        const int64_t count = least(wave, n_heads - head0);
        float *mine = packed + wave * head_floats + omp_get_thread_num() * few_thread_floats(a);

#pragma omp for schedule(static)
        for (int64_t i = 0; i < count * k_tiles; i++) {
            const head_pack h = few_pack_at(packed + i / k_tiles * head_floats, mine, a);
            pack_keys(&h, a, io, head0 + i / k_tiles, i % k_tiles * LANES);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count * chunks; i++) {
            const head_pack h = few_pack_at(packed + i / chunks * head_floats, mine, a);
            const int64_t c = i % chunks;

            few_task(a, io, head0 + i / chunks, &h,
                     h.k_rows + k_tiles * LANES * (ld_rows(a->d) + c * 2 * a->d),
                     c * q_tiles / chunks * LANES,
                     least(a->tq, (c + 1) * q_tiles / chunks * LANES), mine);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count * k_tiles; i++) {
            const head_pack h = few_pack_at(packed + i / k_tiles * head_floats, mine, a);
            few_finish(a, io, head0 + i / k_tiles, h.k_rows + k_tiles * LANES * ld_rows(a->d),
                       i % k_tiles * LANES);
        }
    }
}

static size_t backward_scratch(const cpu_attention *a, int n_threads)
{
    return a->tk <= KEY_BLOCK ? backward_few_scratch(a, n_threads)
                              : backward_many_scratch(a, n_threads);
}

static void backward(const cpu_attention *a, const cpu_attention_grad *io, void *scratch,
                     int n_threads)
{
    if (a->tk <= KEY_BLOCK)
        backward_few(a, io, scratch, n_threads);
    else
        backward_many(a, io, scratch, n_threads);
}
