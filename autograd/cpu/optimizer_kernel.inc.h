/* optimizer_kernel.inc.h - steps of the optimizers over a piece, compiled once per instruction set.
 *
 * Each rule is one function for one vector of elements, given how many of them there are. Inside a
 * piece that number is a constant, so that the question whether the vector is whole costs nothing.
 */
#include <math.h>

#include "autograd/cpu/optimizer_internal.h"
#include "autograd/cpu/vector.h"

VEC_INLINE vec take(const float *x, int64_t n)
{
    return n >= VEC_N ? vec_load(x) : vec_load_n(x, n);
}

VEC_INLINE void put(float *x, vec a, int64_t n)
{
    if (n >= VEC_N)
        vec_store(x, a);
    else
        vec_store_n(x, a, n);
}

/* CALL for every vector of n elements; it sees i, its first element, and left, its length. */
#define EACH_VECTOR(CALL)                                                                         \
    do {                                                                                          \
        int64_t i = 0;                                                                            \
        for (; i + VEC_N <= n; i += VEC_N) {                                                      \
            enum { left = VEC_N };                                                                \
            CALL;                                                                                 \
        }                                                                                         \
        if (i < n) {                                                                              \
            const int64_t left = n - i;                                                           \
            CALL;                                                                                 \
        }                                                                                         \
    } while (0)

/* keep a + rest b */
VEC_INLINE vec mix(float keep, vec a, float rest, vec b)
{
    return vec_fma(vec_set(rest), b, vec_mul(vec_set(keep), a));
}

/* beta v + rest g^2 */
VEC_INLINE vec mix_square(float beta, vec v, float rest, vec g)
{
    return vec_fma(vec_mul(vec_set(rest), g), g, vec_mul(vec_set(beta), v));
}

/* --- AdamW ------------------------------------------------------------------------------------ */

VEC_INLINE void adamw_at(float *p, float *m, float *v, const float *g, int64_t n,
                         const cpu_adamw_factors *f)
{
    const bool near_end = f->rest1 >= 0.5f; /* lerp from the other end, as PyTorch */
    const vec gi = vec_mul(vec_set(f->grad_scale), take(g, n)), m0 = take(m, n);
    const vec to_g = vec_sub(gi, m0);
    const vec mi = near_end ? vec_fnma(vec_set(f->beta1), to_g, gi)
                            : vec_fma(vec_set(f->rest1), to_g, m0);
    const vec vi = mix_square(f->beta2, take(v, n), f->rest2, gi);
    const vec below = vec_fma(vec_sqrt(vi), vec_set(f->over_root2), vec_set(f->eps));

    put(m, mi, n);
    put(v, vi, n);
    put(p, vec_fnma(vec_set(f->step), vec_div(mi, below), vec_mul(vec_set(f->decay), take(p, n))),
        n);
}

static void adamw(float *p, float *m, float *v, const float *g, int64_t n,
                  const cpu_adamw_factors *f)
{
    EACH_VECTOR(adamw_at(p + i, m + i, v + i, g + i, left, f));
}

/* --- AdamW in bytes --------------------------------------------------------------------------- */

VEC_INLINE void adamw8bit_at(float *p, float *m, float *v, const float *g, int64_t n,
                             const cpu_adamw_factors *f)
{
    const vec gi = vec_mul(vec_set(f->grad_scale), take(g, n));
    const vec mi = mix(f->beta1, take(m, n), f->rest1, gi);
    const vec vi = mix_square(f->beta2, take(v, n), f->rest2, gi);
    const vec moved = vec_fnma(vec_set(f->step),
                               vec_div(mi, vec_add(vec_sqrt(vi), vec_set(f->eps))), take(p, n));

    put(m, mi, n);
    put(v, vi, n);
    put(p, vec_mul(vec_set(f->decay), moved), n);
}

/* Divide by the largest magnitude, which is returned. */
static float normalize(float *x, int64_t n)
{
    vec top = vec_set(0.0f), over;
    float largest;

    EACH_VECTOR(top = vec_max(top, vec_abs(take(x + i, left))));
    largest = vec_top(top);
    over = vec_set(largest > 0.0f ? largest : 1.0f);
    EACH_VECTOR(put(x + i, vec_div(take(x + i, left), over), left));
    return largest;
}

/* How many codes lie below the nearest one to x in 0..1. */
static inline int code_of(float x, const cpu_code_book *book)
{
    uint32_t bits;
    int cell, code;

    memcpy(&bits, &x, sizeof bits);
    cell = (int)(bits >> 16) - CPU_CODE_BASE;
    code = book->code[cell < 0 ? 0 : cell];
    return code + (x > book->above[code]);
}

/* 1 is the one magnitude of m that has no negative. */
static inline uint8_t signed_code(float x, const cpu_code_book *book)
{
    const int code = code_of(fabsf(x), book);

    return (uint8_t)(x < 0.0f ? CPU_CODE_ZERO - (code < 127 ? code : 127) : CPU_CODE_ZERO + code);
}

/* Values of 16 codes, and codes of 16 values in -1..1: twice as fast as one by one, which 8 with AVX2's
 * slower gathers are not. */
#if defined(__AVX512F__)

VEC_INLINE vec decode_at(const uint8_t *code, const cpu_code_book *book)
{
    const __m512i i = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)code));

    return _mm512_i32gather_ps(i, book->value, 4);
}

VEC_INLINE void encode_at(uint8_t *out, vec x, const cpu_code_book *book, bool with_sign)
{
    const vec size = vec_abs(x);
    const __m512i bits = _mm512_srli_epi32(_mm512_castps_si512(size), 16);
    const __m512i cell = _mm512_max_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(CPU_CODE_BASE)),
                                          _mm512_setzero_si512());
    __m512i code = _mm512_and_si512(_mm512_i32gather_epi32(cell, book->code, 1), _mm512_set1_epi32(255));
    const __mmask16 is_above =
        _mm512_cmp_ps_mask(size, _mm512_i32gather_ps(code, book->above, 4), _CMP_GT_OQ);

    code = _mm512_mask_add_epi32(code, is_above, code, _mm512_set1_epi32(1));
    if (with_sign) {
        const __m512i zero = _mm512_set1_epi32(CPU_CODE_ZERO);
        const __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
        code = _mm512_mask_sub_epi32(_mm512_add_epi32(zero, code), below, zero,
                                     _mm512_min_epi32(code, zero));
    }
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(code));
}

#endif

static void decode(float *x, const uint8_t *code, int64_t n, const cpu_code_book *book, float largest)
{
    int64_t i = 0;

#if defined(__AVX512F__)
    for (; i + VEC_N <= n; i += VEC_N)
        vec_store(x + i, vec_mul(decode_at(code + i, book), vec_set(largest)));
#endif
    for (; i < n; i++)
        x[i] = book->value[code[i]] * largest;
}

static void encode(uint8_t *code, const float *x, int64_t n, const cpu_code_book *book, bool with_sign)
{
    int64_t i = 0;

#if defined(__AVX512F__)
    for (; i + VEC_N <= n; i += VEC_N)
        encode_at(code + i, vec_load(x + i), book, with_sign);
#endif
    for (; i < n; i++)
        code[i] = with_sign ? signed_code(x[i], book) : (uint8_t)code_of(x[i], book);
}

static void adamw8bit(float *p, uint8_t *m, float *m_max, uint8_t *v, float *v_max, const float *g,
                      int64_t n, const cpu_adamw_factors *f, const cpu_code_books *books)
{
    float mf[CPU_ADAMW8BIT_BLOCK], vf[CPU_ADAMW8BIT_BLOCK];

    decode(mf, m, n, &books->m, *m_max);
    decode(vf, v, n, &books->v, *v_max);
    EACH_VECTOR(adamw8bit_at(p + i, mf + i, vf + i, g + i, left, f));
    *m_max = normalize(mf, n);
    *v_max = normalize(vf, n);
    encode(m, mf, n, &books->m, true);
    encode(v, vf, n, &books->v, false);
}

/* --- SGD -------------------------------------------------------------------------------------- */

VEC_INLINE void sgd_at(float *p, float *buffer, const float *g, int64_t n, const cpu_sgd_factors *f)
{
    const vec p0 = take(p, n);
    const vec d = vec_fma(vec_set(f->decay), p0, vec_mul(vec_set(f->grad_scale), take(g, n)));
    vec step = d;

    if (buffer) {
        const vec b = mix(f->momentum, take(buffer, n), f->into_buffer, d);
        put(buffer, b, n);
        step = mix(f->of_gradient, d, f->of_buffer, b);
    }
    put(p, vec_fnma(vec_set(f->lr), step, p0), n);
}

static void sgd(float *p, float *buffer, const float *g, int64_t n, const cpu_sgd_factors *f)
{
    if (buffer)
        EACH_VECTOR(sgd_at(p + i, buffer + i, g + i, left, f));
    else
        EACH_VECTOR(sgd_at(p + i, NULL, g + i, left, f));
}

/* --- Lion ------------------------------------------------------------------------------------- */

VEC_INLINE void lion_at(float *p, float *m, const float *g, int64_t n, const cpu_lion_factors *f)
{
    const vec zero = vec_set(0.0f), lr = vec_set(f->lr);
    const vec gi = vec_mul(vec_set(f->grad_scale), take(g, n)), m0 = take(m, n);
    const vec c = mix(f->beta1, m0, f->rest1, gi);
    const vec step = vec_pick_negative(c, vec_sub(zero, lr),
                                       vec_pick_negative(vec_sub(zero, c), lr, zero));

    put(m, mix(f->beta2, m0, f->rest2, gi), n);
    put(p, vec_sub(vec_mul(vec_set(f->decay), take(p, n)), step), n);
}

static void lion(float *p, float *m, const float *g, int64_t n, const cpu_lion_factors *f)
{
    EACH_VECTOR(lion_at(p + i, m + i, g + i, left, f));
}

/* --- Ranger ----------------------------------------------------------------------------------- */

VEC_INLINE void ranger_at(float *p, float *m, float *v, float *slow, const float *g, int64_t n,
                          const cpu_ranger_factors *f)
{
    const vec c = vec_mul(vec_set(f->grad_scale), vec_sub(take(g, n), vec_set(f->mean)));
    const vec mi = mix(f->beta1, take(m, n), f->rest1, c);
    const vec vi = mix_square(f->beta2, take(v, n), f->rest2, c);
    const vec below = vec_fma(vec_sqrt(vi), vec_set(f->of_root), vec_set(f->below));
    vec pi = vec_fnma(vec_set(f->step), vec_div(mi, below), vec_mul(vec_set(f->decay), take(p, n)));

    if (f->sync) {
        const vec s0 = take(slow, n);
        pi = vec_fma(vec_set(f->alpha), vec_sub(pi, s0), s0);
        put(slow, pi, n);
    }
    put(m, mi, n);
    put(v, vi, n);
    put(p, pi, n);
}

static void ranger(float *p, float *m, float *v, float *slow, const float *g, int64_t n,
                   const cpu_ranger_factors *f)
{
    EACH_VECTOR(ranger_at(p + i, m + i, v + i, slow + i, g + i, left, f));
}

/* --- Prodigy ---------------------------------------------------------------------------------- */

typedef struct pair {
    vec dot, size;
} pair;

VEC_INLINE void prodigy_at(pair *sum, float *s, float *m, float *v, const float *p,
                           const float *p0, const float *g, int64_t n,
                           const cpu_prodigy_factors *f)
{
    const vec pi = take(p, n);
    const vec e = vec_fma(vec_set(f->coupled_decay), pi, vec_mul(vec_set(f->grad_scale), take(g, n)));
    const vec si = mix(f->beta3, take(s, n), f->into_s, e);

    sum->dot = vec_fma(e, vec_sub(take(p0, n), pi), sum->dot);
    sum->size = vec_add(sum->size, vec_abs(si));
    put(s, si, n);
    put(m, mix(f->beta1, take(m, n), f->into_m, e), n);
    put(v, mix_square(f->beta2, take(v, n), f->into_v, e), n);
}

static void prodigy_moments(double sums[2], float *s, float *m, float *v, const float *p,
                            const float *p0, const float *g, int64_t total,
                            const cpu_prodigy_factors *f)
{
    sums[0] = sums[1] = 0.0;
    for (int64_t k = 0; k < total; k += 64 * VEC_N) {
        const int64_t n = total - k < 64 * VEC_N ? total - k : 64 * VEC_N;
        pair sum = {vec_set(0.0f), vec_set(0.0f)};
        EACH_VECTOR(prodigy_at(&sum, s + k + i, m + k + i, v + k + i, p + k + i, p0 + k + i,
                               g + k + i, left, f));
        sums[0] += (double)vec_sum(sum.dot);
        sums[1] += (double)vec_sum(sum.size);
    }
}

VEC_INLINE void prodigy_step_at(float *p, const float *m, const float *v, int64_t n,
                                const cpu_prodigy_step_factors *f)
{
    const vec below = vec_add(vec_sqrt(take(v, n)), vec_set(f->eps));

    put(p,
        vec_fnma(vec_set(f->step), vec_div(take(m, n), below),
                 vec_mul(vec_set(f->decay), take(p, n))),
        n);
}

static void prodigy_step(float *p, const float *m, const float *v, int64_t n,
                         const cpu_prodigy_step_factors *f)
{
    EACH_VECTOR(prodigy_step_at(p + i, m + i, v + i, left, f));
}

/* --- Adafactor -------------------------------------------------------------------------------- */

static double add_squares_to_doubles(double *cols, const float *g, int64_t n, float scale)
{
    double lane[16] = {0}, total = 0.0;
    int64_t i = 0;

    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++) {
            const double x = (double)(scale * g[i + j]), q = x * x;
            cols[i + j] += q;
            lane[j] += q;
        }
    for (; i < n; i++) {
        const double x = (double)(scale * g[i]), q = x * x;
        cols[i] += q;
        lane[0] += q;
    }
    for (int j = 0; j < 16; j++)
        total += lane[j];
    return total;
}

static void add_squares(float *row, float *col, const float *g, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) {
        const float x = scale * g[i];
        row[i] += x * x;
        col[i] += x * x;
    }
}

static void keep_mean(float *state, const float *sum, int64_t n, float keep, float rest, float over,
                      float eps)
{
    for (int64_t i = 0; i < n; i++)
        state[i] = keep * state[i] + rest * (over * sum[i] + eps);
}

VEC_INLINE void row_factors_at(float *f, const float *state, int64_t n_rows, int64_t n,
                               int64_t step_f, int64_t step_state)
{
    vec mean = vec_set(0.0f);

    for (int64_t r = 0; r < n_rows; r++)
        mean = vec_add(mean, take(state + r * step_state, n));
    mean = vec_mul(mean, vec_set(1.0f / (float)n_rows));
    for (int64_t r = 0; r < n_rows; r++)
        put(f + r * step_f, vec_sqrt(vec_div(mean, take(state + r * step_state, n))), n);
}

static void row_factors(float *f, const float *state, int64_t n_rows, int64_t n, int64_t step_f,
                        int64_t step_state)
{
    EACH_VECTOR(row_factors_at(f + i, state + i, n_rows, left, step_f, step_state));
}

static void col_factors(float *f, const float *state, int64_t n)
{
    EACH_VECTOR(put(f + i, vec_div(vec_set(1.0f), vec_sqrt(take(state + i, left))), left));
}

/* scale g row col */
VEC_INLINE vec direction_at(const float *g, const float *row, const float *col, int64_t n,
                            float scale)
{
    const vec u = vec_mul(vec_mul(vec_set(scale), take(g, n)), take(col, n));

    return row ? vec_mul(u, take(row, n)) : u;
}

VEC_INLINE void add_scaled_square(vec *sum, const float *g, const float *row, const float *col,
                                  int64_t n, float scale)
{
    const vec u = direction_at(g, row, col, n, scale);

    *sum = vec_fma(u, u, *sum);
}

#define AT(pointer, k) ((pointer) ? (pointer) + (k) : NULL)

static double scaled_squares(const float *g, const float *row, const float *col, int64_t count,
                             float scale)
{
    double total = 0.0;

    for (int64_t k = 0; k < count; k += 64 * VEC_N) {
        const int64_t n = count - k < 64 * VEC_N ? count - k : 64 * VEC_N;
        vec sum = vec_set(0.0f);
        EACH_VECTOR(add_scaled_square(&sum, g + k + i, AT(row, k + i), col + k + i, left, scale));
        total += (double)vec_sum(sum);
    }
    return total;
}

VEC_INLINE void adafactor_step_at(float *p, float *m, const float *g, const float *row,
                                  const float *col, int64_t n, const cpu_adafactor_factors *f)
{
    vec u = vec_mul(vec_set(f->step), direction_at(g, row, col, n, f->grad_scale));

    if (m) {
        u = mix(f->beta1, take(m, n), f->rest1, u);
        put(m, u, n);
    }
    put(p, vec_sub(vec_mul(vec_set(f->decay), take(p, n)), u), n);
}

static void adafactor_step(float *p, float *m, const float *g, const float *row, const float *col,
                           int64_t n, const cpu_adafactor_factors *f)
{
    EACH_VECTOR(adafactor_step_at(p + i, AT(m, i), g + i, AT(row, i), col + i, left, f));
}

const cpu_optimizer_kernels VEC_NAME(cpu_optimizer) = {
    .adamw = adamw,
    .adamw8bit = adamw8bit,
    .sgd = sgd,
    .lion = lion,
    .ranger = ranger,
    .prodigy_moments = prodigy_moments,
    .prodigy_step = prodigy_step,
    .add_squares_to_doubles = add_squares_to_doubles,
    .add_squares = add_squares,
    .keep_mean = keep_mean,
    .row_factors = row_factors,
    .col_factors = col_factors,
    .scaled_squares = scaled_squares,
    .adafactor_step = adafactor_step,
};
