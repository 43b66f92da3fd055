/* attention_forward_amx.c - the forward pass of attention on AMX tiles, bf16.
 *
 * For a strip of 32 queries and a block of keys:
 *   S = Q K^T     P = 2^(c S - m), rounded to bf16, written over S     l += sum of P by row
 *   O += P V                                                           c = |scale| log2(e)
 * S and O in f32; a negative scale turns the signs of Q. m is the maximum by row of the first block: any
 * number serves that keeps the sums finite and is not far above the scores, so later blocks are looked at
 * for a new maximum only when their sums have grown large; O and l are then multiplied by 2^(m_old - m).
 */
#include "autograd/cpu/attention_amx_internal.h"

enum {
    NARROW = 96,  /* largest head whose strips fit the first-level cache beside its keys */
    GROUP_MAX = 4 /* strips of a task of a wide head, which walk over the keys together */
};

static const float LARGE_SUM = 1e6f;

typedef struct strip {
    uint16_t *q;   /* [32][32 d_steps] */
    float *o;      /* [32][16 d_tiles] */
    float *top;    /* [32]: m, in units of log 2 */
    float *sum;    /* [32][16]: l by lane */
    int64_t first, rows;
} strip;

/* Keys of a block: few enough for the first-level cache, or many, so that O is seldom loaded and stored. */
static int64_t block_keys(const cpu_attention *a)
{
    return a->d <= NARROW ? 64 : 256;
}

static int64_t group_max(const cpu_attention *a)
{
    return a->d <= NARROW ? 1 : GROUP_MAX;
}

/* Floats from a row of S to the next; rows do not share places in the cache. */
static int64_t ld_s(const cpu_attention *a)
{
    return block_keys(a) + AMX_SIDE;
}

static int64_t block_bytes(const cpu_attention *a)
{
    return STRIP * ld_s(a) * 4;
}

static int64_t strip_bytes(const cpu_attention *a)
{
    return STRIP * (d_steps(a) * AMX_ROW_BYTES + d_tiles(a) * 64 + 64 + 4);
}

static int64_t thread_bytes(const cpu_attention *a)
{
    return GROUP_MAX * strip_bytes(a) + block_bytes(a);
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

/* --- scores to probabilities -------------------------------------------------------------------------- */

static void hide_keys(float *s, int64_t n_keys, int64_t seen)
{
    for (int64_t k = seen / KEY_GROUP * KEY_GROUP; k < n_keys; k += KEY_GROUP) {
        __mmask16 mask[2];
        seen_columns(mask, k, seen);
        for (int t = 0; t < 2; t++)
            _mm512_mask_storeu_ps(s + k + t * AMX_SIDE, (__mmask16)~mask[t], _mm512_set1_ps(-INFINITY));
    }
}

AMX_INLINE __m512 prob(const float *s, __m512 c, __m512 m)
{
    return amx_exp2(_mm512_fmsub_ps(_mm512_load_ps(s), c, m));
}

/* A row of 64 scores, m as it stands. False, and nothing changed, when the sums are too large. */
AMX_INLINE bool row_of_64(float *s, float top, float *sum, __m512 c)
{
    const __m512 m = _mm512_set1_ps(top);
    const __m512 p0 = prob(s, c, m), p1 = prob(s + 16, c, m);
    const __m512 p2 = prob(s + 32, c, m), p3 = prob(s + 48, c, m);
    const __m512 total = _mm512_add_ps(_mm512_add_ps(p0, p1), _mm512_add_ps(p2, p3));

    if (_mm512_cmp_ps_mask(total, _mm512_set1_ps(LARGE_SUM), _CMP_NLE_UQ))
        return false;
    _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), total));
    _mm512_store_si512(s, amx_round_pair(p0, p1));
    _mm512_store_si512((uint16_t *)s + 32, amx_round_pair(p2, p3));
    return true;
}

/* Any row, with a look at the maximum. Returns what O has to be multiplied by. */
static float row_with_maximum(float *s, float *top, float *sum, float c, int64_t n_keys)
{
    __m512 high = _mm512_load_ps(s), total = _mm512_setzero_ps(), m;
    float block_top, factor = 1.0f;

    for (int64_t k = AMX_SIDE; k < n_keys; k += AMX_SIDE)
        high = _mm512_max_ps(high, _mm512_load_ps(s + k));
    block_top = c * _mm512_reduce_max_ps(high);
    if (block_top > *top) {
        factor = _mm512_cvtss_f32(amx_exp2(_mm512_set1_ps(*top - block_top)));
        *top = block_top;
    }
    m = _mm512_set1_ps(*top);
    for (int64_t k = 0; k < n_keys; k += KEY_GROUP) {
        const __m512 p0 = prob(s + k, _mm512_set1_ps(c), m), p1 = prob(s + k + 16, _mm512_set1_ps(c), m);
        total = _mm512_add_ps(total, _mm512_add_ps(p0, p1));
        _mm512_store_si512((uint16_t *)s + k, amx_round_pair(p0, p1));
    }
    _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(sum), _mm512_set1_ps(factor), total));
    return factor;
}

static void scale_row(float *row, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i += AMX_SIDE)
        _mm512_store_ps(row + i, _mm512_mul_ps(_mm512_load_ps(row + i), _mm512_set1_ps(factor)));
}

/* --- a strip and a block of keys ------------------------------------------------------------------------ */

static int64_t last_query(const strip *t)
{
    return t->first + t->rows - 1;
}

/* S [32][n_keys] of keys k0.. to P; O is made ready for P V. */
static void strip_probs(strip *t, const cpu_attention *a, int64_t k0, int64_t n_keys, float *s)
{
    const float c = fabsf(a->scale) * LOG2_E;
    const int64_t ld_o = AMX_SIDE * d_tiles(a);

    for (int64_t i = 0; i < STRIP; i++, s += ld_s(a)) {
        const int64_t seen = seen_keys(a, least(t->first + i, last_query(t)), k0, n_keys);
        float *top = t->top + i, *sum = t->sum + i * AMX_SIDE;

        if (seen < n_keys)
            hide_keys(s, n_keys, seen);
        if (k0 == 0 || n_keys != 64 || !row_of_64(s, *top, sum, _mm512_set1_ps(c))) {
            const float factor = row_with_maximum(s, top, sum, c, n_keys);
            if (k0 > 0 && factor != 1.0f)
                scale_row(t->o + i * ld_o, ld_o, factor);
        }
    }
}

/* A strip against a block of keys from k0 on. */
static void strip_block(strip *t, const cpu_attention *a, const char *k, const char *v, int64_t k0,
                        float *s)
{
    const int64_t n_keys = round_up(seen_keys(a, last_query(t), k0, block_keys(a)), KEY_GROUP);
    const int64_t row = 4 * ld_s(a);
    const amx_tiles probs = {s, row, row * AMX_SIDE, AMX_ROW_BYTES};
    const amx_tiles keys = tiles_across(k, k0, a), values = tiles_down(v, k0, a);

    if (n_keys == 0)
        return;
    amx_product(s, ld_s(a), tiles_of_strip(t->q, a), &keys, 2, n_keys / AMX_SIDE, d_steps(a), false);
    strip_probs(t, a, k0, n_keys, s);
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
    float *s = (float *)mine;
    strip t[GROUP_MAX];

    for (int64_t i = 0; i < n; i++)
        begin_strip(&t[i], mine + block_bytes(a) + i * strip_bytes(a), a, io, head, first + i * STRIP);
    for (int64_t k0 = 0; k0 < a->tk; k0 += block_keys(a))
        for (int64_t i = 0; i < n; i++)
            strip_block(&t[i], a, k, v, k0, s);
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
