/* attention_forward.inc.h - the forward pass; a part of attention_kernel.inc.h, which see.
 *
 * m need not be the running maximum: any number near it gives the same quotients. So a tile of queries keeps
 * its m, sums of products begin at -m, and become probabilities where they are summed, in registers; only when
 * a sum of probabilities has grown large are the scores of that block made again, and m raised.
 */

/* One tile of queries while the keys go by. */
typedef struct query_tile {
    float *qt, *ot; /* [d][LANES] */
    vec m[2], l[2]; /* what is subtracted from scores, a maximum of some keys so far; running sum */
    int64_t first, rows;
    int n_vec;
} query_tile;

/* Tiles of queries that share a walk over the keys: 512 queries. With fewer, wide heads wait for
 * memory: d 512 on AVX2 took 1.4 times as long with 32. Wide heads walk in shorter blocks, whose K and V
 * stay in the second-level cache while the tiles go by. */
enum { GROUP_MAX = 512 / LANES, WIDE_KEY_BLOCK = 64 };

/* Sums of probabilities above this raise m. */
static const float LARGE_SUM = 0x1p24f;

/* Whole panels. */
static int64_t forward_key_block(const cpu_attention *a)
{
    return (a->d < WIDE_HEAD ? KEY_BLOCK : WIDE_KEY_BLOCK) / PANEL * PANEL;
}

static int64_t forward_thread_floats(const cpu_attention *a)
{
    return GROUP_MAX * 2 * a->d * LANES + KEY_BLOCK * LANES;
}

/* Of one head: K in panels, then V in rows. */
static int64_t panels_floats(const cpu_attention *a)
{
    return round_up(round_up(a->tk, PANEL) * a->d, 16);
}

static int64_t forward_head_floats(const cpu_attention *a)
{
    return panels_floats(a) + round_up(a->tk * ld_rows(a->d), 16);
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

/* P^T of n_keys keys from those m that the tile has; false when a sum of them is too large for that. */
static bool probabilities_of(const query_tile *t, float *p, const float *kt, int64_t d, int64_t n_keys, vec l[2])
{
    const vec zero = vec_set(0.0f), minus_m[2] = {vec_sub(zero, t->m[0]), vec_sub(zero, t->m[1])};
    int64_t j = 0;

    l[0] = t->l[0], l[1] = t->l[1];
    for (; j + TILE_ROWS <= n_keys; j += TILE_ROWS) {
        const float *panel = kt + j / PANEL * PANEL * d + j % PANEL;
        vec acc[TILE_ROWS][2];

        tile_start(TILE_ROWS, 2, acc, NULL, (product_start){.from = minus_m});
        tile_multiply(TILE_ROWS, 2, acc, panel, PANEL, t->qt, d);
#pragma GCC unroll 16
        for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) {
                const vec prob = vec_exp2(acc[r][v]);
                l[v] = vec_add(l[v], prob);
                vec_store(p + (j + r) * LANES + v * VEC_N, prob);
            }
    }
    if (j < n_keys) {
        product(p + j * LANES, kt + j / PANEL * PANEL * d + j % PANEL, PANEL, t->qt, d, n_keys - j, 2,
                (product_start){.from = minus_m}, NULL);
        exponentials(p + j * LANES, n_keys - j, 2, (const vec[2]){zero, zero}, l);
    }
    return vec_sum(vec_add(l[0], l[1])) < LARGE_SUM;
}

/* Scores of n_keys keys, of which those that come too late are hidden; top is raised to their maxima. */
static void block_scores(const query_tile *t, float *s, const float *kt, int64_t d, int64_t k0, int64_t n_keys,
                         bool masked, vec top[2])
{
    for (int64_t j = 0; j < n_keys; j += PANEL)
        scores(s + j * LANES, kt + j * d, PANEL, t->qt, d, least(PANEL, n_keys - j), t->n_vec,
               masked ? NULL : top);
    if (masked) {
        hide_later_keys(s, k0, n_keys, t->first);
        for (int64_t j = 0; j < n_keys; j++)
            for (int v = 0; v < t->n_vec; v++)
                top[v] = vec_max(vec_load(s + j * LANES + v * VEC_N), top[v]);
    }
}

static void forward_block(query_tile *t, const cpu_attention *a, const float *kt, const float *vr,
                          int64_t k0, float *s)
{
    int64_t n_keys = least(forward_key_block(a), a->tk - k0);
    vec top[2] = {t->m[0], t->m[1]}, beta[2], l[2];
    product_start start = {.add = k0 > 0};
    const int64_t last = t->first + t->rows - 1;

    if (a->causal) {
        if (k0 > last)
            return;
        n_keys = least(n_keys, last + 1 - k0);
    }
    const bool masked = a->causal && k0 + n_keys - 1 > t->first;
    kt += k0 * a->d;
    if (k0 > 0 && !masked && t->n_vec == 2 && a->d < WIDE_HEAD &&
        probabilities_of(t, s, kt, a->d, n_keys, l)) {
        t->l[0] = l[0], t->l[1] = l[1];
    } else {
        block_scores(t, s, kt, a->d, k0, n_keys, masked, top);
        for (int v = 0; v < t->n_vec; v++) {
            beta[v] = vec_exp2(vec_sub(t->m[v], top[v]));
            t->m[v] = top[v];
            t->l[v] = k0 ? vec_mul(t->l[v], beta[v]) : vec_set(0.0f);
        }
        exponentials(s, n_keys, t->n_vec, t->m, t->l);
        start.beta = beta;
    }
    product(t->ot, vr + k0 * ld_rows(a->d), ld_rows(a->d), s, n_keys, a->d, t->n_vec, start, NULL);
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
    for (int64_t k0 = 0; k0 < a->tk; k0 += forward_key_block(a))
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
    const int64_t panels = div_up(a->tk, PANEL), query_tiles = div_up(a->tq, LANES);
    const int64_t group =
        most(1, least(GROUP_MAX, wave * query_tiles / (4 * (int64_t)n_threads)));
    const int64_t groups = div_up(query_tiles, group);
    float *packed = scratch;

#pragma omp parallel num_threads(n_threads)
    for (int64_t head0 = 0; head0 < n_heads; head0 += wave) {
        const int64_t count = least(wave, n_heads - head0);

#pragma omp for schedule(static)
        for (int64_t i = 0; i < count * panels; i++) {
            const int64_t head = head0 + i / panels, first = i % panels * PANEL;
            const int64_t rows = least(PANEL, a->tk - first);
            const int64_t row0 = head / a->heads * a->tk + first, column = head % a->heads * a->d;
            float *kt = packed + i / panels * head_floats;
            float *vr = kt + panels_floats(a);

            pack_panel(kt + first * a->d, io->k + row0 * io->ld_k + column, io->ld_k, rows, a->d);
            pack_rows(vr + first * ld_rows(a->d), io->v + row0 * io->ld_v + column, io->ld_v, rows,
                      a->d);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < count * groups; i++) {
            const float *kt = packed + i / groups * head_floats;
            const float *vr = kt + panels_floats(a);
            float *mine = packed + wave * head_floats +
                          omp_get_thread_num() * forward_thread_floats(a);
            const int64_t tile0 = i % groups * group;

            forward_task(a, io, head0 + i / groups, tile0, least(group, query_tiles - tile0), kt,
                         vr, mine);
        }
    }
}
