/* elementwise_kernel.inc.h - elementwise loops and scans, compiled once per instruction set.
 *
 * Functions with an exponential are written over vector.h; the others are plain loops that the
 * compiler turns into vectors of the file's instruction set.
 */
#include <math.h>

#include "autograd/cpu/elementwise_internal.h"
#include "autograd/cpu/vector.h"
#include "autograd/philox.h"

/* --- functions of one argument ---------------------------------------------------------------- */

VEC_INLINE vec quick_gelu_0(vec x)
{
    return vec_mul(x, vec_sigmoid(vec_mul(x, vec_set(1.702f))));
}
VEC_INLINE vec quick_gelu_1(vec x) /* silu'(1.702 x) */
{
    return vec_silu_slope(vec_mul(x, vec_set(1.702f)));
}
VEC_INLINE vec gelu_0(vec x)
{
    vec density;
    return vec_mul(x, vec_normal(x, &density));
}
VEC_INLINE vec gelu_1(vec x)
{
    vec density;
    const vec phi = vec_normal(x, &density);
    return vec_fma(x, density, phi);
}
VEC_INLINE vec sigmoid_1(vec x)
{
    vec rest;
    const vec s = vec_sigmoid_rest(x, &rest);
    return vec_mul(s, rest);
}

/* y = d f(x) for a whole piece. */
#define EACH_VECTOR(F)                                                                            \
    do {                                                                                          \
        for (int64_t i = 0; i < n; i += VEC_N) {                                                  \
            if (n - i >= VEC_N) {                                                                 \
                const vec f = F(vec_load(x + i));                                                 \
                vec_store(y + i, d ? vec_mul(f, vec_load(d + i)) : f);                            \
            } else {                                                                              \
                const vec f = F(vec_load_n(x + i, n - i));                                        \
                vec_store_n(y + i, d ? vec_mul(f, vec_load_n(d + i, n - i)) : f, n - i);          \
            }                                                                                     \
        }                                                                                         \
    } while (0)

#define EACH_ELEMENT(F)                                                                           \
    do {                                                                                          \
        if (d)                                                                                    \
            for (int64_t i = 0; i < n; i++)                                                       \
                y[i] = d[i] * (F);                                                                \
        else                                                                                      \
            for (int64_t i = 0; i < n; i++)                                                       \
                y[i] = (F);                                                                       \
    } while (0)

static bool unary(float *y, ag_unary_kind kind, int order, const float *x, const float *d,
                  int64_t n, float parameter)
{
    if (order == 0)
        switch (kind) {
        case AG_SILU: EACH_VECTOR(vec_silu); return true;
        case AG_GELU: EACH_VECTOR(gelu_0); return true;
        case AG_QUICK_GELU: EACH_VECTOR(quick_gelu_0); return true;
        case AG_SIGMOID: EACH_VECTOR(vec_sigmoid); return true;
        case AG_EXP: EACH_VECTOR(vec_exp); return true;
        case AG_SQRT: EACH_VECTOR(vec_sqrt); return true;
        case AG_RECIPROCAL: EACH_ELEMENT(1.0f / x[i]); return true;
        case AG_SQUARE: EACH_ELEMENT(x[i] * x[i]); return true;
        case AG_ABS: EACH_ELEMENT(fabsf(x[i])); return true;
        case AG_RELU: EACH_ELEMENT(x[i] < 0.0f ? 0.0f : x[i]); return true;
        case AG_LEAKY_RELU: EACH_ELEMENT(x[i] > 0.0f ? x[i] : parameter * x[i]); return true;
        default: return false;
        }
    if (order == 1)
        switch (kind) {
        case AG_SILU: EACH_VECTOR(vec_silu_slope); return true;
        case AG_GELU: EACH_VECTOR(gelu_1); return true;
        case AG_QUICK_GELU: EACH_VECTOR(quick_gelu_1); return true;
        case AG_SIGMOID: EACH_VECTOR(sigmoid_1); return true;
        case AG_EXP: EACH_VECTOR(vec_exp); return true;
        case AG_SOFTPLUS: EACH_VECTOR(vec_sigmoid); return true;
        case AG_SQUARE: EACH_ELEMENT(2.0f * x[i]); return true;
        case AG_RELU: EACH_ELEMENT(x[i] > 0.0f ? 1.0f : 0.0f); return true;
        case AG_LEAKY_RELU: EACH_ELEMENT(x[i] > 0.0f ? 1.0f : parameter); return true;
        default: return false;
        }
    return false;
}

/* --- one or two inputs ------------------------------------------------------------------------ */

static void stream(float *y, float value, int64_t n)
{
    int64_t i = 0;

    for (; i + VEC_N <= n; i += VEC_N)
        vec_stream(y + i, vec_set(value));
    for (; i < n; i++)
        y[i] = value;
    vec_stream_end();
}

static void affine(float *y, const float *x, float a, float b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = a * x[i] + b;
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void lerp(float *y, const float *x, float w, int64_t n)
{
    if (w < 0.5f)
        for (int64_t i = 0; i < n; i++)
            y[i] += w * (x[i] - y[i]);
    else
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] - (x[i] - y[i]) * (1.0f - w);
}

/* The four ways two inputs can stretch along a run; F sees p and q. */
#define EACH_PAIR(F)                                                                              \
    do {                                                                                          \
        if (step_a && step_b)                                                                     \
            for (int64_t i = 0; i < n; i++) {                                                     \
                const float p = a[i], q = b[i];                                                   \
                y[i] = (F);                                                                       \
            }                                                                                     \
        else if (step_a) {                                                                        \
            const float q = b[0];                                                                 \
            for (int64_t i = 0; i < n; i++) {                                                     \
                const float p = a[i];                                                             \
                y[i] = (F);                                                                       \
            }                                                                                     \
        } else if (step_b) {                                                                      \
            const float p = a[0];                                                                 \
            for (int64_t i = 0; i < n; i++) {                                                     \
                const float q = b[i];                                                             \
                y[i] = (F);                                                                       \
            }                                                                                     \
        } else {                                                                                  \
            const float p = a[0], q = b[0], f = (F);                                              \
            for (int64_t i = 0; i < n; i++)                                                       \
                y[i] = f;                                                                         \
        }                                                                                         \
    } while (0)

static void binary(float *y, cpu_binary_kind kind, const float *a, const float *b, int step_a,
                   int step_b, int64_t n)
{
    switch (kind) {
    case CPU_ADD: EACH_PAIR(p + q); break;
    case CPU_SUB: EACH_PAIR(p - q); break;
    case CPU_MUL: EACH_PAIR(p * q); break;
    case CPU_DIV: EACH_PAIR(p / q); break;
    case CPU_MAX: EACH_PAIR(p > q || p != p ? p : q); break;
    case CPU_MIN: EACH_PAIR(p < q || p != p ? p : q); break;
    case CPU_STEP: EACH_PAIR(p > q ? 1.0f : p == q ? 0.5f : 0.0f); break;
    case CPU_N_BINARY: break;
    }
}

/* a + b of bf16 numbers. */
static void add_bf16(uint16_t *y, const uint16_t *a, const uint16_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i += VEC_N) {
        vec_fetch_ahead(true, a, i);
        vec_fetch_ahead(true, b, i);
        vec_fetch_ahead(true, y, i);
        vec_put(true, y, i, n - i, vec_add(vec_get(true, a, i, n - i), vec_get(true, b, i, n - i)));
    }
}

VEC_INLINE void geglu_row_of(const bool bf16, void *y, const void *u, int64_t cols)
{
    for (int64_t i = 0; i < cols; i += VEC_N) {
        const vec g = vec_get(bf16, u, cols + i, cols - i);
        vec density;
        vec_fetch_ahead(bf16, u, i);
        vec_fetch_ahead(bf16, u, cols + i);
        vec_fetch_ahead(bf16, y, i);
        const vec gelu = vec_mul(g, vec_normal_of(bf16, g, &density));
        vec_put(bf16, y, i, cols - i, vec_mul(vec_get(bf16, u, i, cols - i), gelu));
    }
}

static void geglu_row(void *y, const void *u, int64_t cols, bool bf16)
{
    if (bf16)
        geglu_row_of(true, y, u, cols);
    else
        geglu_row_of(false, y, u, cols);
}

VEC_INLINE void geglu_grad_row_of(const bool bf16, void *du, const void *u, const void *dy, int64_t cols)
{
    for (int64_t i = 0; i < cols; i += VEC_N) {
        const int64_t n = cols - i;
        const vec a = vec_get(bf16, u, i, n), g = vec_get(bf16, u, cols + i, n);
        const vec d = vec_get(bf16, dy, i, n);
        vec density;
        const vec phi = vec_normal_of(bf16, g, &density);

        vec_fetch_ahead(bf16, u, i);
        vec_fetch_ahead(bf16, u, cols + i);
        vec_fetch_ahead(bf16, dy, i);
        vec_fetch_ahead(bf16, du, i);
        vec_fetch_ahead(bf16, du, cols + i);
        vec_put(bf16, du, i, n, vec_mul(d, vec_mul(g, phi)));
        vec_put(bf16, du, cols + i, n, vec_mul(vec_mul(d, a), vec_fma(g, density, phi)));
    }
}

static void geglu_grad_row(void *du, const void *u, const void *dy, int64_t cols, bool bf16)
{
    if (bf16)
        geglu_grad_row_of(true, du, u, dy, cols);
    else
        geglu_grad_row_of(false, du, u, dy, cols);
}

/* --- dropout ---------------------------------------------------------------------------------- */

static void dropout(float *y, const float *x, int64_t n, const ag_draw *draw, uint64_t first,
                    uint32_t smallest, float raise)
{
    enum { BLOCKS = 64 };

    for (int64_t at = 0; at < n; at += 4 * BLOCKS) {
        const int64_t here = n - at < 4 * BLOCKS ? n - at : 4 * BLOCKS;
        uint32_t words[BLOCKS][4];

        for (int b = 0; b < BLOCKS; b++)
            philox_block(draw, (first + (uint64_t)at) / 4 + (uint64_t)b, words[b]);
        for (int64_t i = 0; i < here; i++)
            y[at + i] = (&words[0][0])[i] >= smallest ? raise * x[at + i] : 0.0f;
    }
}

/* --- element types ---------------------------------------------------------------------------- */

static void to_bf16(uint16_t *y, const float *x, int64_t n)
{
    const int64_t whole = n / VEC_N * VEC_N;

    for (int64_t i = 0; i < whole; i += VEC_N)
        vec_store_bf16(y + i, vec_load(x + i));
    if (whole < n)
        vec_store_bf16_n(y + whole, vec_load_n(x + whole, n - whole), n - whole);
}

static void from_bf16(float *y, const uint16_t *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VEC_N)
        vec_put(false, y, i, n - i, vec_get(true, x, i, n - i));
}

static void to_f16(uint16_t *y, const float *x, int64_t n)
{
    int64_t i = 0;

#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(y + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < n; i++)
        y[i] = ag_f16_of_f32(x[i]);
}

static void from_f16(float *y, const uint16_t *x, int64_t n)
{
    int64_t i = 0;

#if defined(__F16C__)
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)
                                                                (x + i))));
#endif
    for (; i < n; i++)
        y[i] = ag_f32_of_f16(x[i]);
}

/* --- losses ----------------------------------------------------------------------------------- */

/* 2 (sqrt(e^2 + c^2) - c) = 2 e^2 / (sqrt(e^2 + c^2) + c), and times c for the Huber kind. */
VEC_INLINE vec loss_value(ag_loss_kind kind, vec e, vec c)
{
    const vec sq = vec_mul(e, e);
    vec root, f;

    if (kind == AG_LOSS_L2)
        return sq;
    root = vec_sqrt(vec_fma(c, c, sq));
    f = vec_div(vec_add(sq, sq), vec_max(vec_set(1e-38f), vec_add(root, c)));
    return kind == AG_LOSS_HUBER ? vec_mul(f, c) : f;
}

VEC_INLINE vec loss_slope(ag_loss_kind kind, vec e, vec c)
{
    const vec twice = vec_add(e, e);
    vec f;

    if (kind == AG_LOSS_L2)
        return twice;
    f = vec_div(twice, vec_max(vec_set(1e-38f), vec_sqrt(vec_fma(c, c, vec_mul(e, e)))));
    return kind == AG_LOSS_HUBER ? vec_mul(f, c) : f;
}

static double loss_row(ag_loss_kind kind, const float *p, const float *t, int64_t n, float c)
{
    double total = 0.0;

    for (int64_t i0 = 0; i0 < n; i0 += 64 * VEC_N) {
        const int64_t end = n - i0 < 64 * VEC_N ? n : i0 + 64 * VEC_N;
        vec sum = vec_set(0.0f);
        for (int64_t i = i0; i < end; i += VEC_N) {
            const bool whole = end - i >= VEC_N;
            const vec pi = whole ? vec_load(p + i) : vec_load_n(p + i, end - i);
            const vec ti = whole ? vec_load(t + i) : vec_load_n(t + i, end - i);
            sum = vec_add(sum, loss_value(kind, vec_sub(pi, ti), vec_set(c)));
        }
        total += (double)vec_sum(sum);
    }
    return total;
}

static void loss_grad_row(float *dp, ag_loss_kind kind, const float *p, const float *t, float d,
                          int64_t n, float c)
{
    for (int64_t i = 0; i < n; i += VEC_N) {
        const bool whole = n - i >= VEC_N;
        const vec pi = whole ? vec_load(p + i) : vec_load_n(p + i, n - i);
        const vec ti = whole ? vec_load(t + i) : vec_load_n(t + i, n - i);
        const vec f = vec_mul(vec_set(d), loss_slope(kind, vec_sub(pi, ti), vec_set(c)));
        if (whole)
            vec_store(dp + i, f);
        else
            vec_store_n(dp + i, f, n - i);
    }
}

/* --- scans ------------------------------------------------------------------------------------ */

static double sumsq(const float *x, int64_t n)
{
    double lane[16] = {0}, total = 0.0;
    int64_t i = 0;

    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++)
            lane[j] += (double)x[i + j] * (double)x[i + j];
    for (; i < n; i++)
        lane[0] += (double)x[i] * (double)x[i];
    for (int j = 0; j < 16; j++)
        total += lane[j];
    return total;
}

/* --- sums ------------------------------------------------------------------------------------- */

static double sum(const float *x, int64_t n)
{
    double lane[16] = {0}, total = 0.0;
    int64_t i = 0;

    for (; i + 16 <= n; i += 16)
        for (int j = 0; j < 16; j++)
            lane[j] += (double)x[i + j];
    for (; i < n; i++)
        lane[0] += (double)x[i];
    for (int j = 0; j < 16; j++)
        total += lane[j];
    return total;
}

static void add_to_doubles(double *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += (double)x[i];
}

const cpu_elementwise_kernels VEC_NAME(cpu_elementwise) = {
    .unary = unary,
    .stream = stream,
    .affine = affine,
    .axpy = axpy,
    .lerp = lerp,
    .binary = binary,
    .add_bf16 = add_bf16,
    .geglu_row = geglu_row,
    .geglu_grad_row = geglu_grad_row,
    .dropout = dropout,
    .to_bf16 = to_bf16,
    .from_bf16 = from_bf16,
    .to_f16 = to_f16,
    .from_f16 = from_f16,
    .loss_row = loss_row,
    .loss_grad_row = loss_grad_row,
    .sumsq = sumsq,
    .sum = sum,
    .add_to_doubles = add_to_doubles,
};
