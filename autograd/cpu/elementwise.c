/* elementwise.c - cuts elementwise work into pieces and threads; holds the portable kernels.
 *
 * Functions that no vector loop does are evaluated in double, one by one.
 */
#include "autograd/cpu/elementwise.h"

#include "autograd/cpu/elementwise_kernel.inc.h"
#include "autograd/cpu/isa.h"

const cpu_elementwise_kernels *cpu_elementwise_of(int isa)
{
    return isa >= CPU_ISA_AMX      ? &cpu_elementwise_amx
           : isa >= CPU_ISA_AVX512 ? &cpu_elementwise_avx512
           : isa >= CPU_ISA_AVX2   ? &cpu_elementwise_avx2
                                   : &cpu_elementwise_portable;
}

/* --- functions of one argument ---------------------------------------------------------------- */

/* (d/dx)^order of x^p. */
static double power(double x, double p, int order)
{
    double factor = 1.0;

    for (int i = 0; i < order; i++)
        factor *= p - i;
    return factor == 0.0 ? 0.0 : factor * pow(x, p - order);
}

/* (d/dx)^order of the logistic function. */
static double logistic(double x, int order)
{
    const double s = 1.0 / (1.0 + exp(-x)), t = s * (1.0 - s);
    return order == 0 ? s : order == 1 ? t : order == 2 ? t * (1.0 - 2.0 * s)
                                                        : t * (1.0 - 6.0 * t);
}

/* (d/dx)^order of x sigmoid(k x). */
static double gated(double x, double k, int order)
{
    const double outer = x * pow(k, order) * logistic(k * x, order);
    return order == 0 ? outer : outer + order * pow(k, order - 1) * logistic(k * x, order - 1);
}

static double gelu(double x, int order)
{
    const double cdf = 0.5 * erfc(-x * 0.70710678118654752), pdf = exp(-0.5 * x * x) *
                                                                   0.39894228040143268;
    return order == 0   ? x * cdf
           : order == 1 ? cdf + x * pdf
           : order == 2 ? pdf * (2.0 - x * x)
                        : pdf * (x * x - 4.0) * x;
}

static double function(ag_unary_kind kind, int order, double x, double parameter)
{
    switch (kind) {
    case AG_SILU: return gated(x, 1.0, order);
    case AG_QUICK_GELU: return gated(x, 1.702, order);
    case AG_GELU: return gelu(x, order);
    case AG_SIGMOID: return logistic(x, order);
    case AG_TANH: {
        const double t = tanh(x), u = 1.0 - t * t;
        return order == 0 ? t : order == 1 ? u : order == 2 ? -2.0 * t * u : u * (4.0 - 6.0 * u);
    }
    case AG_EXP: return exp(x);
    case AG_LOG: return order == 0 ? log(x) : power(x, -1.0, order - 1);
    case AG_SQRT: return power(x, 0.5, order);
    case AG_RSQRT: return power(x, -0.5, order);
    case AG_RECIPROCAL: return power(x, -1.0, order);
    case AG_SQUARE: return power(x, 2.0, order);
    case AG_POW: return power(x, parameter, order);
    case AG_ABS: return order == 0 ? fabs(x) : order > 1 ? 0.0 : x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : x;
    case AG_RELU: return order == 0 ? (x < 0.0 ? 0.0 : x) : order == 1 && x > 0.0;
    case AG_LEAKY_RELU:
        return order > 1 ? 0.0 : (x > 0.0 ? 1.0 : parameter) * (order == 0 ? x : 1.0);
    case AG_SIN: return sin(x + order * 1.57079632679489662);
    case AG_COS: return cos(x + order * 1.57079632679489662);
    case AG_SOFTPLUS:
        return order == 0 ? log1p(exp(-fabs(x))) + (x < 0.0 ? 0.0 : x) : logistic(x, order - 1);
    case AG_N_UNARY: break;
    }
    return NAN;
}

void cpu_unary(float *y, ag_unary_kind kind, int order, const float *x, const float *d, int64_t n,
               double parameter, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);

    CPU_EACH_PIECE({
        const float *dp = d ? d + i : NULL;
        if (!k->unary(y + i, kind, order, x + i, dp, len, (float)parameter))
            for (int64_t j = 0; j < len; j++)
                y[i + j] = (float)((dp ? dp[j] : 1.0) * function(kind, order, x[i + j], parameter));
    });
}

void cpu_affine(float *y, const float *x, float a, float b, int64_t n, int n_threads, int isa)
{
    CPU_EACH_PIECE(cpu_elementwise_of(isa)->affine(y + i, x + i, a, b, len));
}

void cpu_clamp(float *y, const float *x, float low, float high, int64_t n, int n_threads, int isa)
{
    (void)isa;
    CPU_EACH_PIECE(for (int64_t j = i; j < i + len; j++)
                       y[j] = x[j] < low ? low : x[j] > high ? high : x[j]);
}

void cpu_clamp_grad(float *dx, const float *x, const float *d, float low, float high, int64_t n,
                    int n_threads, int isa)
{
    (void)isa;
    CPU_EACH_PIECE(for (int64_t j = i; j < i + len; j++)
                       dx[j] = x[j] >= low && x[j] <= high ? d[j] : 0.0f);
}

/* Elements that no cache would keep (16 MiB): gradients being cleared take 2.7 ms instead of 6.9 for
 * 64 MiB on one thread, since a store past the caches need not read the line first. The updates of
 * optimizers gain nothing by it: they read what they write. */
enum { STREAMED = 4 << 20 };

void cpu_fill(float *y, float value, int64_t n, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);

    if (n >= STREAMED && (uintptr_t)y % 64 == 0)
        CPU_EACH_PIECE(k->stream(y + i, value, len));
    else
        CPU_EACH_PIECE(for (int64_t j = i; j < i + len; j++) y[j] = value);
}

void cpu_add_into(float *y, const float *x, int64_t n, int n_threads, int isa)
{
    CPU_EACH_PIECE(cpu_elementwise_of(isa)->binary(y + i, CPU_ADD, y + i, x + i, 1, 1, len));
}

void cpu_scale_into(float *y, float a, int64_t n, int n_threads, int isa)
{
    CPU_EACH_PIECE(cpu_elementwise_of(isa)->binary(y + i, CPU_MUL, y + i, &a, 1, 0, len));
}

void cpu_lerp_into(float *y, const float *x, float w, int64_t n, int n_threads, int isa)
{
    CPU_EACH_PIECE(cpu_elementwise_of(isa)->lerp(y + i, x + i, w, len));
}

void cpu_axpy(float *y, float a, const float *x, int64_t n, int n_threads, int isa)
{
    CPU_EACH_PIECE(cpu_elementwise_of(isa)->axpy(y + i, a, x + i, len));
}

void cpu_dropout(float *y, const float *x, double p, const ag_draw *draw, int64_t n, int n_threads,
                 int isa)
{
    const uint32_t smallest = (uint32_t)(p * 0x1p32);
    const float raise = (float)(1.0 / (1.0 - p));

    CPU_EACH_PIECE(
        cpu_elementwise_of(isa)->dropout(y + i, x + i, len, draw, (uint64_t)i, smallest, raise));
}

/* --- broadcasting ----------------------------------------------------------------------------- */

cpu_walk cpu_walk_of(int n_dims, const int64_t *dims, const int64_t *a_dims,
                     const int64_t *b_dims)
{
    cpu_walk w = {0};
    int64_t step_a = 1, step_b = 1;
    int at = AG_MAX_DIMS; /* filled from the back */

    for (int i = n_dims - 1; i >= 0; i--) {
        const int64_t sa = a_dims[i] == 1 ? 0 : step_a, sb = b_dims[i] == 1 ? 0 : step_b;

        step_a *= a_dims[i];
        step_b *= b_dims[i];
        if (dims[i] == 1)
            continue;
        if (at < AG_MAX_DIMS && sa == w.step_a[at] * w.size[at] &&
            sb == w.step_b[at] * w.size[at]) {
            w.size[at] *= dims[i];
            continue;
        }
        at--;
        w.size[at] = dims[i];
        w.step_a[at] = sa;
        w.step_b[at] = sb;
    }
    if (at == AG_MAX_DIMS) { /* one element */
        at--;
        w.size[at] = 1;
    }
    w.n_dims = AG_MAX_DIMS - at;
    for (int i = 0; i < w.n_dims; i++) {
        w.size[i] = w.size[at + i];
        w.step_a[i] = w.step_a[at + i];
        w.step_b[i] = w.step_b[at + i];
    }
    return w;
}

void cpu_binary(float *y, cpu_binary_kind kind, const float *a, const float *b, int n_dims,
                const int64_t *dims, const int64_t *a_dims, const int64_t *b_dims, int n_threads,
                int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    const cpu_walk w = cpu_walk_of(n_dims, dims, a_dims, b_dims);
    const int last = w.n_dims - 1;
    const int64_t run = w.size[last], pieces = (run + CPU_PIECE - 1) / CPU_PIECE;
    int64_t n = pieces, total = run;

    for (int i = 0; i < last; i++) {
        n *= w.size[i];
        total *= w.size[i];
    }
#pragma omp parallel for num_threads(cpu_team(total, n_threads)) schedule(static)
    for (int64_t t = 0; t < n; t++) {
        const int64_t first = t % pieces * CPU_PIECE;
        int64_t rest = t / pieces, at_a = first * w.step_a[last], at_b = first * w.step_b[last];

        for (int i = last - 1; i >= 0; i--) {
            at_a += rest % w.size[i] * w.step_a[i];
            at_b += rest % w.size[i] * w.step_b[i];
            rest /= w.size[i];
        }
        k->binary(y + t / pieces * run + first, kind, a + at_a, b + at_b, (int)w.step_a[last],
                  (int)w.step_b[last], cpu_least(CPU_PIECE, run - first));
    }
}

/* In bites that stay in the first-level cache as f32. */
static void binary_piece_bf16(const cpu_elementwise_kernels *k, uint16_t *y, cpu_binary_kind kind,
                              const uint16_t *a, const uint16_t *b, int64_t n)
{
    enum { BITE = 1024 };
    float wide_a[BITE], wide_b[BITE];

    if (kind == CPU_ADD) {
        k->add_bf16(y, a, b, n);
        return;
    }
    for (int64_t at = 0; at < n; at += BITE) {
        const int64_t here = cpu_least(BITE, n - at);

        k->from_bf16(wide_a, a + at, here);
        k->from_bf16(wide_b, b + at, here);
        k->binary(wide_a, kind, wide_a, wide_b, 1, 1, here);
        k->to_bf16(y + at, wide_a, here);
    }
}

void cpu_binary_bf16(uint16_t *y, cpu_binary_kind kind, const uint16_t *a, const uint16_t *b,
                     int64_t n, int n_threads, int isa)
{
    CPU_EACH_PIECE(binary_piece_bf16(cpu_elementwise_of(isa), y + i, kind, a + i, b + i, len));
}

/* --- rows ------------------------------------------------------------------------------------- */

void cpu_geglu(void *y, const void *u, ag_dtype type, int64_t rows, int64_t cols, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    const int64_t row = cols * (type == AG_BF16 ? 2 : 4);

#pragma omp parallel for num_threads(cpu_team(rows * cols, n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        k->geglu_row((char *)y + r * row, (const char *)u + r * 2 * row, cols, type == AG_BF16);
}

void cpu_geglu_grad(void *du, const void *u, const void *dy, ag_dtype type, int64_t rows, int64_t cols,
                    int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    const int64_t row = cols * (type == AG_BF16 ? 2 : 4);

#pragma omp parallel for num_threads(cpu_team(rows * cols, n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        k->geglu_grad_row((char *)du + r * 2 * row, (const char *)u + r * 2 * row,
                          (const char *)dy + r * row, cols, type == AG_BF16);
}

void cpu_row_loss(float *out, ag_loss_kind kind, const float *p, const float *t, int64_t rows,
                  int64_t cols, double c, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);

#pragma omp parallel for num_threads(cpu_team(rows * cols, n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        out[r] = (float)(k->loss_row(kind, p + r * cols, t + r * cols, cols, (float)c) /
                         (double)cols);
}

void cpu_row_loss_grad(float *dp, ag_loss_kind kind, const float *p, const float *t, const float *d,
                       int64_t rows, int64_t cols, double c, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);

#pragma omp parallel for num_threads(cpu_team(rows * cols, n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        k->loss_grad_row(dp + r * cols, kind, p + r * cols, t + r * cols, d[r] / (float)cols, cols,
                         (float)c);
}

/* --- element types ---------------------------------------------------------------------------- */

/* f64 to f32 so that rounding once more to fewer bits is right: truncated, and odd when inexact. */
static float round_to_odd(double x)
{
    union {
        float f;
        uint32_t u;
    } v = {(float)x};

    if (x == x && (double)v.f != x) {
        if (fabs((double)v.f) > fabs(x))
            v.u--;
        v.u |= 1u;
    }
    return v.f;
}

static double get(const void *x, ag_dtype dtype, int64_t i)
{
    switch (dtype) {
    case AG_F32: return ((const float *)x)[i];
    case AG_BF16: return ag_f32_of_bf16(((const uint16_t *)x)[i]);
    case AG_F16: return ag_f32_of_f16(((const uint16_t *)x)[i]);
    case AG_F64: return ((const double *)x)[i];
    case AG_I64: return (double)((const int64_t *)x)[i];
    case AG_I32: return ((const int32_t *)x)[i];
    case AG_U8: return ((const uint8_t *)x)[i];
    case AG_N_DTYPES: break;
    }
    return 0.0;
}

/* Truncated towards zero; NaN gives 0. high is the first double that is too large. */
static int64_t integer(double x, double low, double high, int64_t least_value, int64_t most_value)
{
    return x != x ? 0 : x <= low ? least_value : x >= high ? most_value : (int64_t)x;
}

static void put(void *y, ag_dtype dtype, int64_t i, double x)
{
    switch (dtype) {
    case AG_F32: ((float *)y)[i] = (float)x; break;
    case AG_BF16: ((uint16_t *)y)[i] = ag_bf16_of_f32(round_to_odd(x)); break;
    case AG_F16: ((uint16_t *)y)[i] = ag_f16_of_f32(round_to_odd(x)); break;
    case AG_F64: ((double *)y)[i] = x; break;
    case AG_I64:
        ((int64_t *)y)[i] = integer(x, -0x1p63, 0x1p63, INT64_MIN, INT64_MAX);
        break;
    case AG_I32:
        ((int32_t *)y)[i] = (int32_t)integer(x, -0x1p31, 0x1p31 - 1, INT32_MIN, INT32_MAX);
        break;
    case AG_U8: ((uint8_t *)y)[i] = (uint8_t)integer(x, 0, 255, 0, 255); break;
    case AG_N_DTYPES: break;
    }
}

static size_t size_of(ag_dtype dtype)
{
    static const size_t size[AG_N_DTYPES] = {[AG_F32] = 4, [AG_BF16] = 2, [AG_F16] = 2,
                                             [AG_F64] = 8, [AG_I64] = 8, [AG_I32] = 4, [AG_U8] = 1};
    return size[dtype];
}

/* One piece. 16-bit floats go through f32 (exact on the way in); the rest through double, which
 * holds every value of every type but integers beyond 2^53. */
static void cast_piece(const cpu_elementwise_kernels *k, char *y, ag_dtype to, const char *x,
                       ag_dtype from, int64_t n)
{
    if (to == from) {
        memcpy(y, x, (size_t)n * size_of(to));
    } else if (from == AG_F32 && to == AG_BF16) {
        k->to_bf16((uint16_t *)(void *)y, (const float *)(const void *)x, n);
    } else if (from == AG_F32 && to == AG_F16) {
        k->to_f16((uint16_t *)(void *)y, (const float *)(const void *)x, n);
    } else if (from == AG_BF16 && to == AG_F32) {
        k->from_bf16((float *)(void *)y, (const uint16_t *)(const void *)x, n);
    } else if (from == AG_F16 && to == AG_F32) {
        k->from_f16((float *)(void *)y, (const uint16_t *)(const void *)x, n);
    } else {
        for (int64_t i = 0; i < n; i++)
            put(y, to, i, get(x, from, i));
    }
}

void cpu_cast(void *y, ag_dtype to, const void *x, ag_dtype from, int64_t n, int n_threads,
              int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    const int64_t size_y = (int64_t)size_of(to), size_x = (int64_t)size_of(from);

    CPU_EACH_PIECE(cast_piece(k, (char *)y + i * size_y, to, (const char *)x + i * size_x, from, len));
}
