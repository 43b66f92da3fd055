/* attention_forward_amx.c - the forward pass of attention on AMX tiles, bf16.
 *
 * For a strip of 32 queries and a group of 32 keys:
 *   S = Q K^T     P = 2^(c S - m), rounded to bf16     l += sum of P by row     c = |scale| log2(e)
 * and for a block of such groups:
 *   O += P V
 * S and O in f32; a negative scale turns the signs of Q. m is the maximum by row of the first group: any
 * number serves that keeps the sums finite and is not far above the scores. So only where a block's sums are
 * large is its maximum looked for, O and l multiplied by 2^(m_old - m), and the block begun again.
 */
#include "autograd/cpu/attention_amx_internal.h"

enum {
    NARROW = 96,  /* largest head whose strips fit the first-level cache beside its keys */
    GROUP_MAX = 4, /* strips of a task of a wide head, which walk over the keys together */
    LD_P = 256 + AMX_DEPTH
};

static const float LARGE_SUM = 1e6f;

typedef struct strip {
    uint16_t *q;   /* [32][32 d_steps] */
    float *o;      /* [32][16 d_tiles] */
    float *top;    /* [32]: m, in units of log 2 */
    float *sum;    /* [32][16]: l by lane */
    int64_t first, rows;
} strip;

/* What a thread works in. */
typedef struct work {
    float s[STRIP * KEY_GROUP], sum[STRIP * AMX_SIDE]; /* of a group of keys; l of a block, by lane */
    uint16_t p[STRIP * LD_P];                          /* of a block */
} work;

/* Keys of a block: few enough for the first-level cache, or many, so that O is seldom loaded and stored. */
static int64_t block_keys(const cpu_attention *a)
{
    return a->d <= NARROW ? 128 : 256;
}

static int64_t group_max(const cpu_attention *a)
{
    return a->d <= NARROW ? 1 : GROUP_MAX;
}

static int64_t strip_bytes(const cpu_attention *a)
{
    return STRIP * (d_steps(a) * AMX_ROW_BYTES + d_tiles(a) * 64 + 64 + 4);
}

static int64_t thread_bytes(const cpu_attention *a)
{
    return GROUP_MAX * strip_bytes(a) + (int64_t)sizeof(work);
}

static int64_t head_bytes(const cpu_attention *a)
{
    return across_bytes(a, a->tk) + down_bytes(a, a->tk);
}

size_t attention_amx_forward_scratch(const cpu_attention *a, int n_threads)
{
    return (size_t)(heads_at_once(a, head_bytes(a), n_threads) * head_bytes(a) +
                    n_threads * thread_bytes(a));
}

/* --- scores ---------------------------------------------------------------------------------------------- */

static int64_t last_query(const strip *t)
{
    return t->first + t->rows - 1;
}

/* Scores of keys that a query does not see become -infinity. k0: the group's first key. */
static void hide_keys(const strip *t, const cpu_attention *a, int64_t k0, float *s)
{
    if (seen_keys(a, t->first, k0, KEY_GROUP) == KEY_GROUP)
        return;
    for (int64_t i = 0; i < STRIP; i++) {
        __mmask16 mask[2];
        seen_columns(mask, 0, seen_keys(a, least(t->first + i, last_query(t)), k0, KEY_GROUP));
        for (int j = 0; j < 2; j++)
            _mm512_mask_store_ps(s + i * KEY_GROUP + j * AMX_SIDE, (__mmask16)~mask[j],
                                 _mm512_set1_ps(-INFINITY));
    }
}

/* S [32][32] of a strip and the group of keys from k0 on. */
static void scores(float *s, const strip *t, const cpu_attention *a, const char *k, int64_t k0)
{
    const amx_tiles keys = tiles_across(k, k0, a);

    amx_product(s, KEY_GROUP, tiles_of_strip(t->q, a), &keys, 2, 2, d_steps(a), false);
    hide_keys(t, a, k0, s);
}

/* --- probabilities ---------------------------------------------------------------------------------------- */

static void scale_row(float *row, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i += AMX_SIDE)
        _mm512_store_ps(row + i, _mm512_mul_ps(_mm512_load_ps(row + i), _mm512_set1_ps(factor)));
}

/* m becomes the maximum with keys [k0, k0 + n_keys); what was summed with the old one is multiplied. */
static void raise_tops(strip *t, const cpu_attention *a, const char *k, int64_t k0, int64_t n_keys, float *s)
{
    const float c = fabsf(a->scale) * LOG2_E;
    const int64_t ld_o = AMX_SIDE * d_tiles(a);
    float top[STRIP];

    memcpy(top, t->top, sizeof top);
    for (int64_t key = 0; key < n_keys; key += KEY_GROUP) {
        scores(s, t, a, k, k0 + key);
        for (int64_t i = 0; i < STRIP; i++) {
            const float *row = s + i * KEY_GROUP;
            const __m512 high = _mm512_max_ps(_mm512_load_ps(row), _mm512_load_ps(row + AMX_SIDE));
            top[i] = fmaxf(top[i], c * _mm512_reduce_max_ps(high));
        }
    }
    for (int64_t i = 0; i < STRIP; i++) {
        const float factor = _mm512_cvtss_f32(amx_exp2(_mm512_set1_ps(t->top[i] - top[i])));
        scale_row(t->sum + i * AMX_SIDE, AMX_SIDE, factor);
        if (k0 > 0)
            scale_row(t->o + i * ld_o, ld_o, factor);
        t->top[i] = top[i];
    }
}

AMX_INLINE __m512 prob(const float *s, __m512 c, __m512 m)
{
    return amx_exp2(_mm512_fmsub_ps(_mm512_load_ps(s), c, m));
}

/* P [32][32] of a group of keys from its S. */
static void group_probs(uint16_t *p, const float *s, const float *top, float *sum, __m512 c)
{
    for (int64_t i = 0; i < STRIP; i++, s += KEY_GROUP, sum += AMX_SIDE, p += LD_P) {
        const __m512 m = _mm512_set1_ps(top[i]), p0 = prob(s, c, m), p1 = prob(s + AMX_SIDE, c, m);

        _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), _mm512_add_ps(p0, p1)));
        _mm512_store_si512(p, amx_round_pair(p0, p1));
    }
}

/* P [32][n_keys] of keys from k0 on, and its sums. False where these are too large. */
static bool block_probs(const strip *t, const cpu_attention *a, const char *k, int64_t k0, int64_t n_keys, work *w)
{
    const __m512 c = _mm512_set1_ps(fabsf(a->scale) * LOG2_E);
    __mmask16 large = 0;

    for (int64_t i = 0; i < STRIP * AMX_SIDE; i += AMX_SIDE)
        _mm512_store_ps(w->sum + i, _mm512_setzero_ps());
    for (int64_t key = 0; key < n_keys; key += KEY_GROUP) {
        scores(w->s, t, a, k, k0 + key);
        group_probs(w->p + key, w->s, t->top, w->sum, c);
    }
    for (int64_t i = 0; i < STRIP * AMX_SIDE; i += AMX_SIDE)
        large |= _mm512_cmp_ps_mask(_mm512_load_ps(w->sum + i), _mm512_set1_ps(LARGE_SUM), _CMP_NLE_UQ);
    return !large;
}

/* A strip against a block of keys from k0 on. */
static void strip_block(strip *t, const cpu_attention *a, const char *k, const char *v, int64_t k0,
                        work *w)
{
    const int64_t n_keys = round_up(seen_keys(a, last_query(t), k0, block_keys(a)), KEY_GROUP);
    const amx_tiles probs = {w->p, 2 * LD_P, 2 * LD_P * AMX_SIDE, AMX_ROW_BYTES};
    const amx_tiles values = tiles_down(v, k0, a);

    if (n_keys == 0)
        return;
    if (k0 == 0)
        raise_tops(t, a, k, 0, KEY_GROUP, w->s);
    if (!block_probs(t, a, k, k0, n_keys, w)) {
        raise_tops(t, a, k, k0, n_keys, w->s);
        block_probs(t, a, k, k0, n_keys, w);
    }
    for (int64_t i = 0; i < STRIP * AMX_SIDE; i += AMX_SIDE)
        _mm512_store_ps(t->sum + i, _mm512_add_ps(_mm512_load_ps(t->sum + i), _mm512_load_ps(w->sum + i)));
    amx_product(t->o, AMX_SIDE * d_tiles(a), probs, &values, 2, d_tiles(a), n_keys / KEY_GROUP, k0 > 0);
}

/* --- tasks ---------------------------------------------------------------------------------------------- */

static void begin_strip(strip *t, char *memory, const cpu_attention *a,
                        const cpu_attention_forward_bf16_args *io, int64_t head, int64_t first)
{
    t->q = (uint16_t *)memory;
    t->o = (float *)(memory + STRIP * d_steps(a) * AMX_ROW_BYTES);
    t->sum = t->o + STRIP * d_tiles(a) * AMX_SIDE;
    t->top = t->sum + STRIP * AMX_SIDE;
    t->first = first;
    t->rows = least(STRIP, a->tq - first);
    pack_strip(t->q, io->q + (head / a->heads * a->tq + first) * io->ld_q + head % a->heads * a->d,
               io->ld_q, t->rows, a->scale < 0.0f ? 0x8000 : 0, a);
    for (int64_t i = 0; i < STRIP; i++)
        t->top[i] = -INFINITY;
    memset(t->sum, 0, STRIP * AMX_SIDE * sizeof *t->sum);
}

static void finish_strip(const strip *t, const cpu_attention *a,
                         const cpu_attention_forward_bf16_args *io, int64_t head)
{
    const int64_t row0 = head / a->heads * a->tq + t->first;

    for (int64_t i = 0; i < t->rows; i++) {
        const float sum = _mm512_reduce_add_ps(_mm512_load_ps(t->sum + i * AMX_SIDE));
        const float *o = t->o + i * AMX_SIDE * d_tiles(a);
        uint16_t *out = io->out + (row0 + i) * io->ld_out + head % a->heads * a->d;

        for (int64_t j = 0; j < a->d; j += AMX_SIDE)
            amx_store_rounded(out + j, _mm512_mul_ps(_mm512_load_ps(o + j), _mm512_set1_ps(1.0f / sum)),
                              a->d - j);
        if (io->lse)
            io->lse[head * a->tq + t->first + i] = t->top[i] * LN_2 + logf(sum);
    }
}

/* Strips of one task of one head: n of them from query `first` on. */
static void forward_task(const cpu_attention *a, const cpu_attention_forward_bf16_args *io,
                         int64_t head, int64_t first, int64_t n, const char *k, char *mine)
{
    const char *v = k + across_bytes(a, a->tk);
    work *w = (work *)mine;
    strip t[GROUP_MAX];

    for (int64_t i = 0; i < n; i++)
        begin_strip(&t[i], mine + sizeof(work) + i * strip_bytes(a), a, io, head, first + i * STRIP);
    for (int64_t k0 = 0; k0 < a->tk; k0 += block_keys(a))
        for (int64_t i = 0; i < n; i++)
            strip_block(&t[i], a, k, v, k0, w);
    for (int64_t i = 0; i < n; i++)
        finish_strip(&t[i], a, io, head);
}

void attention_amx_forward(const cpu_attention *a, const cpu_attention_forward_bf16_args *io,
                           void *scratch, int n_threads)
{
    const int64_t n_heads = a->n * a->heads, wave = heads_at_once(a, head_bytes(a), n_threads);
    const int64_t key_groups = div_up(a->tk, KEY_GROUP), strips = div_up(a->tq, STRIP);
    const int64_t group = most(1, least(group_max(a), wave * strips / (4 * (int64_t)n_threads)));
    const int64_t groups = div_up(strips, group);
    char *packed = scratch;

#pragma omp parallel num_threads(n_threads)
    {
        char *mine = packed + wave * head_bytes(a) + omp_get_thread_num() * thread_bytes(a);

        amx_begin();
        for (int64_t head0 = 0; head0 < n_heads; head0 += wave) {
            const int64_t count = least(wave, n_heads - head0);

#pragma omp for schedule(static)
            for (int64_t i = 0; i < count * key_groups; i++) {
                const int64_t head = head0 + i / key_groups, first = i % key_groups * KEY_GROUP;
                const int64_t rows = least(KEY_GROUP, a->tk - first);
                const int64_t row0 = head / a->heads * a->tk + first, column = head % a->heads * a->d;
                char *k = packed + i / key_groups * head_bytes(a), *v = k + across_bytes(a, a->tk);

                pack_across(k + across_bytes(a, first), io->k + row0 * io->ld_k + column, io->ld_k,
                            rows, a);
                pack_down(v + down_bytes(a, first), io->v + row0 * io->ld_v + column, io->ld_v, rows,
                          a);
            }
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < count * groups; i++)
                forward_task(a, io, head0 + i / groups, i % groups * group * STRIP,
                             least(group, strips - i % groups * group),
                             packed + i / groups * head_bytes(a), mine);
        }
        amx_end();
    }
}
