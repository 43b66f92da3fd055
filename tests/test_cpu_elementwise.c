/* test_cpu_elementwise.c - elementwise kernels against plain double loops.
 *
 * Derivatives of functions are compared with difference stencils of the function itself in long
 * double (error of order h^4), so no formula is shared with the kernels.
 */
#include "autograd/cpu/elementwise.h"
#include "autograd/numbers.h"

#include "tests/cpu_check.h"

/* --- functions of one argument ---------------------------------------------------------------- */

static long double define(ag_unary_kind kind, long double x, long double parameter)
{
    switch (kind) {
    case AG_SILU: return x / (1.0L + expl(-x));
    case AG_GELU: return 0.5L * x * erfcl(-x / sqrtl(2.0L));
    case AG_QUICK_GELU: return x / (1.0L + expl(-1.702L * x));
    case AG_SIGMOID: return 1.0L / (1.0L + expl(-x));
    case AG_TANH: return tanhl(x);
    case AG_EXP: return expl(x);
    case AG_LOG: return logl(x);
    case AG_SQRT: return sqrtl(x);
    case AG_RSQRT: return 1.0L / sqrtl(x);
    case AG_RECIPROCAL: return 1.0L / x;
    case AG_SQUARE: return x * x;
    case AG_ABS: return fabsl(x);
    case AG_RELU: return x > 0 ? x : 0;
    case AG_LEAKY_RELU: return x > 0 ? x : parameter * x;
    case AG_POW: return powl(x, parameter);
    case AG_SIN: return sinl(x);
    case AG_COS: return cosl(x);
    case AG_SOFTPLUS: return logl(1.0L + expl(x));
    case AG_N_UNARY: break;
    }
    return 0;
}

static double slope(ag_unary_kind kind, int order, double x, double parameter)
{
    static const int stencil[4][7] = {{0, 0, 0, 1, 0, 0, 0},
                                      {0, 1, -8, 0, 8, -1, 0},
                                      {0, -1, 16, -30, 16, -1, 0},
                                      {1, -8, 13, 0, -13, 8, -1}};
    static const int divisor[4] = {1, 12, 12, 8};
    const long double h = 1e-3L;
    long double sum = 0;

    for (int i = 0; i < 7; i++)
        if (stencil[order][i])
            sum += stencil[order][i] * define(kind, x + (i - 3) * h, parameter);
    return (double)(sum / divisor[order] / powl(h, order));
}

static bool positive_only(ag_unary_kind kind)
{
    return kind == AG_LOG || kind == AG_SQRT || kind == AG_RSQRT || kind == AG_POW ||
           kind == AG_RECIPROCAL;
}

static void unary_of(int isa)
{
    enum { N = 203 };
    uint64_t seed = 77;
    float *x = check_floats(N), *d = check_random(N, &seed, 0, 1), *y = check_floats(N);
    double want[N];

    for (int kind = 0; kind < AG_N_UNARY; kind++)
        for (int order = 0; order <= 3; order++)
            for (int with_d = 0; with_d < 2; with_d++) {
                const double parameter = kind == AG_POW ? 2.7 : 0.2;
                for (int i = 0; i < N; i++) {
                    const double u = check_number(&seed);
                    x[i] = (float)(positive_only(kind) ? 1.2 + 0.9 * u : 7.0 * u);
                    if (fabsf(x[i]) < 0.01f) /* a kink */
                        x[i] = 0.5f;
                    want[i] = slope(kind, order, x[i], parameter) * (with_d ? d[i] : 1.0);
                }
                cpu_unary(y, kind, order, x, with_d ? d : NULL, N, parameter, 2, isa);
                for (int i = 0; i < N; i++)
                    if (!(fabs(y[i] - want[i]) <= 4e-7 * (fabs(want[i]) + 0.5)))
                        fail_msg("unary %d order %d of %.9g (isa %d): %.9g, want %.9g", kind,
                                 order, (double)x[i], isa, (double)y[i], want[i]);
                cpu_unary(x, kind, order, x, with_d ? d : NULL, N, parameter, 1, isa);
                check_same("in place", isa, x, y, N);
            }
    free(x);
    free(d);
    free(y);
}
static void test_unary(void **state)
{
    (void)state;
    check_each_isa(unary_of);
}

/* Far out, the hot functions keep their relative accuracy, and a NaN stays. */
static void far_of(int isa)
{
    static const float at[] = {-12.0f, -9.0f, -5.5f, -30.0f, -80.0f, 11.0f, 40.0f, 85.0f, -87.0f};
    enum { N = sizeof at / sizeof *at };
    static const ag_unary_kind kinds[] = {AG_SILU, AG_GELU, AG_QUICK_GELU, AG_SIGMOID, AG_EXP};
    float y[N], extreme[] = {-200.0f, 200.0f, NAN, 0.0f, -0.0f, -100.0f, 88.72f, INFINITY}, z[8];

    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        cpu_unary(y, kinds[k], 0, at, NULL, N, 0, 1, isa);
        for (int i = 0; i < N; i++) {
            const double want = (double)define(kinds[k], at[i], 0);
            const double tolerance = 2e-5 * fabs(want) + 1e-38 * (1 + fabs(at[i]));
            if (!(fabs(y[i] - want) <= tolerance))
                fail_msg("unary %d of %g (isa %d): %.9g, want %.9g", (int)kinds[k],
                         (double)at[i], isa, (double)y[i], want);
        }
        for (int order = 0; order < 2; order++) {
            cpu_unary(z, kinds[k], order, extreme, NULL, 8, 0, 1, isa);
            assert_true(isnan(z[2]) && fabsf(z[0]) < 1e-35f);
            if (kinds[k] != AG_EXP)
                assert_true(isfinite(z[1]) && isfinite(z[3]) && isfinite(z[4]));
        }
    }
    cpu_unary(z, AG_EXP, 0, extreme, NULL, 8, 0, 1, isa);
    assert_true(z[0] == 0.0f && isinf(z[1]) && z[3] == 1.0f && isinf(z[7]));
    assert_true(fabs(z[5] - exp(-100.0)) < 3e-45 && fabs(z[6] / exp(88.72f) - 1) < 3e-7);
    for (int kind = 0; kind < AG_N_UNARY; kind++) {
        cpu_unary(z, kind, 0, extreme, NULL, 8, 2.0, 1, isa);
        assert_true(isnan(z[2]));
    }
}
static void test_far(void **state)
{
    (void)state;
    check_each_isa(far_of);
}

static void simple_of(int isa)
{
    enum { N = 40011 };
    uint64_t seed = 3;
    float *x = check_random(N, &seed, 0, 2), *y0 = check_random(N, &seed, 0, 2);
    float *y = check_floats(N);
    double *want = check_doubles(NULL, N);

    for (int test = 0; test < 9; test++) {
        for (int i = 0; i < N; i++) {
            const double a = x[i], b = y0[i];
            const double clamped = a < -0.5 ? -0.5 : a > 1.25 ? 1.25 : a;
            const double inside = a >= -0.5 && a <= 1.25 ? b : 0.0;
            const double all[] = {1.5 * a - 0.25, clamped, inside, 3.25, b + a, b * 0.3f,
                                  b + 0.1f * (a - b), b + 0.7f * (a - b), b - 0.7f * a};
            want[i] = all[test];
        }
        memcpy(y, y0, N * sizeof *y);
        switch (test) {
        case 0: cpu_affine(y, x, 1.5f, -0.25f, N, 2, isa); break;
        case 1: cpu_clamp(y, x, -0.5f, 1.25f, N, 2, isa); break;
        case 2: cpu_clamp_grad(y, x, y0, -0.5f, 1.25f, N, 2, isa); break;
        case 3: cpu_fill(y, 3.25f, N, 2, isa); break;
        case 4: cpu_add_into(y, x, N, 2, isa); break;
        case 5: cpu_scale_into(y, 0.3f, N, 2, isa); break;
        case 6: cpu_lerp_into(y, x, 0.1f, N, 2, isa); break;
        case 7: cpu_lerp_into(y, x, 0.7f, N, 2, isa); break;
        case 8: cpu_axpy(y, -0.7f, x, N, 2, isa); break;
        }
        check_near("simple", isa, y, want, N, 1.5e-7);
    }
    x[3] = NAN;
    cpu_clamp(y, x, 0, 1, N, 1, isa);
    assert_true(isnan(y[3]));
    free(x);
    free(y0);
    free(y);
    free(want);
}
static void test_simple(void **state)
{
    (void)state;
    check_each_isa(simple_of);
}

/* --- two arguments ---------------------------------------------------------------------------- */

static double binary_of_two(cpu_binary_kind kind, double a, double b)
{
    switch (kind) {
    case CPU_ADD: return a + b;
    case CPU_SUB: return a - b;
    case CPU_MUL: return a * b;
    case CPU_DIV: return a / b;
    case CPU_MAX: return a > b ? a : b;
    case CPU_MIN: return a < b ? a : b;
    default: return a > b ? 1.0 : a == b ? 0.5 : 0.0;
    }
}

static void binary_case(int n_dims, const int64_t *dims, unsigned ones_a, unsigned ones_b, int isa)
{
    int64_t a_dims[8], b_dims[8], n = 1, n_a = 1, n_b = 1;
    uint64_t seed = 17 + ones_a + 256 * ones_b;
    float *a, *b, *y;
    double *want;

    for (int i = 0; i < n_dims; i++) {
        a_dims[i] = ones_a >> i & 1 ? 1 : dims[i];
        b_dims[i] = ones_b >> i & 1 ? 1 : dims[i];
        n *= dims[i];
        n_a *= a_dims[i];
        n_b *= b_dims[i];
    }
    a = check_random(n_a, &seed, 2, 1);
    b = check_random(n_b, &seed, 2, 1);
    b[0] = a[0];
    y = check_floats(n);
    want = check_doubles(NULL, n);
    for (int kind = 0; kind < CPU_N_BINARY; kind++) {
        for (int64_t i = 0; i < n; i++) {
            int64_t rest = i, at_a = 0, at_b = 0, step_a = 1, step_b = 1;
            for (int k = n_dims - 1; k >= 0; k--) {
                at_a += a_dims[k] == 1 ? 0 : rest % dims[k] * step_a;
                at_b += b_dims[k] == 1 ? 0 : rest % dims[k] * step_b;
                step_a *= a_dims[k];
                step_b *= b_dims[k];
                rest /= dims[k];
            }
            want[i] = binary_of_two(kind, a[at_a], b[at_b]);
        }
        cpu_binary(y, kind, a, b, n_dims, dims, a_dims, b_dims, 2, isa);
        check_near("binary", isa, y, want, n, 1.2e-7);
        if (n_a == n) {
            memcpy(y, a, (size_t)n * sizeof *y);
            cpu_binary(y, kind, y, b, n_dims, dims, a_dims, b_dims, 1, isa);
            check_near("binary in place", isa, y, want, n, 1.2e-7);
        }
    }
    free(a);
    free(b);
    free(y);
    free(want);
}

static void binary_of(int isa)
{
    const int64_t small[] = {3, 1, 4, 5}, large[] = {2, 20000}, eight[] = {2, 1, 2, 3, 1, 2, 2, 3};
    float a[3] = {NAN, 1, 2}, b[3] = {1, NAN, 3}, y[3];

    for (unsigned ones_a = 0; ones_a < 16; ones_a++)
        for (unsigned ones_b = 0; ones_b < 16; ones_b++)
            binary_case(4, small, ones_a, ones_b, isa);
    for (unsigned ones = 0; ones < 16; ones++)
        binary_case(2, large, ones & 3, ones >> 2, isa);
    binary_case(8, eight, 0x55, 0x24, isa);
    binary_case(0, NULL, 0, 0, isa);
    for (int kind = CPU_MAX; kind <= CPU_MIN; kind++) {
        cpu_binary(y, kind, a, b, 1, (int64_t[]){3}, (int64_t[]){3}, (int64_t[]){3}, 1, isa);
        assert_true(isnan(y[0]) && isnan(y[1]) && !isnan(y[2]));
    }
}

/* In bf16: the f32 result of the same values, rounded. 20001 is two pieces and no multiple of a bite. */
static void binary_bf16_of(int isa)
{
    enum { MANY = 20001 };
    uint64_t seed = 23;
    uint16_t *half[3];
    float *wide[3];

    for (int i = 0; i < 3; i++) {
        half[i] = malloc(MANY * sizeof *half[i]);
        assert_non_null(half[i]);
        wide[i] = check_random(MANY, &seed, 2, 1);
        for (int64_t k = 0; k < MANY; k++) {
            half[i][k] = ag_bf16_of_f32(wide[i][k]);
            wide[i][k] = ag_f32_of_bf16(half[i][k]);
        }
    }
    for (int kind = 0; kind < CPU_N_BINARY; kind++) {
        cpu_binary(wide[2], kind, wide[0], wide[1], 1, (int64_t[]){MANY}, (int64_t[]){MANY}, (int64_t[]){MANY}, 1,
                   isa);
        cpu_binary_bf16(half[2], kind, half[0], half[1], MANY, 2, isa);
        for (int64_t k = 0; k < MANY; k++)
            assert_int_equal(half[2][k], ag_bf16_of_f32(wide[2][k]));
    }
    for (int i = 0; i < 3; i++) {
        free(half[i]);
        free(wide[i]);
    }
}

static void test_binary(void **state)
{
    (void)state;
    check_each_isa(binary_of);
    check_each_isa(binary_bf16_of);
}

/* Every element by its own word of the draw, pieces and ends included. */
static void dropout_of(int isa)
{
    enum { MANY = 33003 };
    const ag_draw draw = {0x123456789abcdefu, AG_DRAW_DROPOUT, 9, 0xfedcba98u};
    static const double P[] = {0.0, 0.1, 0.5, 0.999};
    uint64_t seed = 29;
    float *x = check_random(MANY, &seed, 2, 1), *y = check_floats(MANY);

    for (int k = 0; k < 4; k++) {
        cpu_dropout(y, x, P[k], &draw, MANY, 2, isa);
        for (int64_t i = 0; i < MANY; i++)
            assert_true(y[i] == (ag_draw_u32(&draw, (uint64_t)i) >= (uint32_t)(P[k] * 0x1p32)
                                     ? (float)(1.0 / (1.0 - P[k])) * x[i]
                                     : 0.0f));
        cpu_dropout(x, x, P[k], &draw, MANY, 1, isa);
        assert_memory_equal(x, y, MANY * sizeof *x);
    }
    free(x);
    free(y);
}

static void test_dropout(void **state)
{
    (void)state;
    check_each_isa(dropout_of);
}

static void geglu_of(int isa)
{
    for (int64_t cols = 1; cols < 40; cols += 6) {
        const int64_t rows = 5;
        uint64_t seed = (uint64_t)cols;
        float *u = check_random(rows * 2 * cols, &seed, 0, 4);
        float *dy = check_random(rows * cols, &seed, 0, 1), *y = check_floats(rows * cols);
        double *want = check_doubles(NULL, rows * cols);
        double *want_du = check_doubles(NULL, rows * 2 * cols);

        for (int64_t i = 0; i < rows * cols; i++) {
            const int64_t at = i / cols * 2 * cols + i % cols;
            const double g = u[at + cols];
            want[i] = u[at] * slope(AG_GELU, 0, g, 0);
            want_du[at] = dy[i] * slope(AG_GELU, 0, g, 0);
            want_du[at + cols] = dy[i] * u[at] * slope(AG_GELU, 1, g, 0);
        }
        cpu_geglu(y, u, AG_F32, rows, cols, 2, isa);
        check_near("geglu", isa, y, want, rows * cols, 2e-7);
        cpu_geglu_grad(u, u, dy, AG_F32, rows, cols, 2, isa);
        check_near("geglu gradient", isa, u, want_du, rows * 2 * cols, 3e-7);
        free(u);
        free(dy);
        free(y);
        free(want);
        free(want_du);
    }
}
/* In bf16: the f32 results of the same values, rounded; AVX-512 may be a last place beside them. */
static void geglu_bf16_of(int isa)
{
    enum { ROWS = 3, COLS = 37 };
    uint64_t seed = 8;
    float *wide = check_random(ROWS * COLS * 3, &seed, 0, 4), y[ROWS * COLS], du[ROWS * COLS * 2];
    uint16_t half[ROWS * COLS * 3], half_y[ROWS * COLS], half_du[ROWS * COLS * 2];

    for (int64_t i = 0; i < ROWS * COLS * 3; i++) {
        half[i] = ag_bf16_of_f32(wide[i]);
        wide[i] = ag_f32_of_bf16(half[i]);
    }
    cpu_geglu(y, wide, AG_F32, ROWS, COLS, 2, isa);
    cpu_geglu(half_y, half, AG_BF16, ROWS, COLS, 2, isa);
    cpu_geglu_grad(du, wide, wide + ROWS * COLS * 2, AG_F32, ROWS, COLS, 2, isa);
    cpu_geglu_grad(half_du, half, half + ROWS * COLS * 2, AG_BF16, ROWS, COLS, 2, isa);
    for (int64_t i = 0; i < ROWS * COLS; i++)
        assert_true(abs(half_y[i] - ag_bf16_of_f32(y[i])) <= 1);
    for (int64_t i = 0; i < ROWS * COLS * 2; i++)
        assert_true(abs(half_du[i] - ag_bf16_of_f32(du[i])) <= 1);
    free(wide);
}
static void test_geglu(void **state)
{
    (void)state;
    check_each_isa(geglu_of);
    check_each_isa(geglu_bf16_of);
}

/* --- element types ---------------------------------------------------------------------------- */

/* x rounded to `bits` bits of mantissa with smallest exponent `low`, ties to even, in double. */
static double rounded(double x, int bits, int low, double largest)
{
    int exponent;
    double unit, y;

    if (x == 0.0 || !isfinite(x))
        return x;
    frexp(x, &exponent);
    exponent = exponent - 1 < low ? low : exponent - 1;
    unit = ldexp(1.0, exponent - bits + 1);
    y = nearbyint(x / unit) * unit;
    return fabs(y) > largest ? copysign(INFINITY, x) : y;
}

static void cast_of(int isa)
{
    enum { N = 65536 + 7 };
    static uint16_t half[N], back[N];
    static float x[N], y[N];
    static double wide[N];
    uint64_t seed = 99;

    for (int dtype = AG_BF16; dtype <= AG_F16; dtype++) {
        const int bits = dtype == AG_BF16 ? 8 : 11, low = dtype == AG_BF16 ? -126 : -14;
        const double largest = dtype == AG_BF16 ? 0x1.fep127 : 65504.0;

        for (int i = 0; i < N; i++)
            half[i] = (uint16_t)i;
        cpu_cast(x, AG_F32, half, dtype, N, 2, isa);
        cpu_cast(back, dtype, x, AG_F32, N, 2, isa); /* every value and back */
        for (int i = 0; i < N; i++)
            assert_true(back[i] == half[i] || (isnan(x[i]) && (back[i] & 0x7fff) > 0x7c00));
        for (int i = 0; i < N; i++) {
            union {
                uint32_t u;
                float f;
            } v;
            v.u = (uint32_t)(check_number(&seed) * 0x1p31) ^ (uint32_t)(seed >> 40);
            if (i % 4 == 0) /* halfway between two values of the narrow type, and next to it */
                v.u = (v.u & 0xffffe000u) | 0x1000u;
            if (i % 8 == 4)
                v.u = (v.u & 0xffff0000u) | 0x8000u | (uint32_t)(i & 16);
            if (i % 3 == 0) /* the range of f16 with its denormals */
                v.u = (v.u & 0x80ffffffu) | (uint32_t)(0x33 + i % 20) << 24;
            x[i] = v.f;
            wide[i] = ldexp(v.f, -2) + (i % 2 ? 1e-9 * v.f : 0);
        }
        cpu_cast(half, dtype, x, AG_F32, N, 2, isa);
        cpu_cast(y, AG_F32, half, dtype, N, 1, isa);
        for (int i = 0; i < N; i++)
            if (isnan(x[i]) ? !isnan(y[i]) : y[i] != (float)rounded(x[i], bits, low, largest))
                fail_msg("f32 %.9g to %d (isa %d): %.9g", (double)x[i], dtype, isa, (double)y[i]);
        cpu_cast(half, dtype, wide, AG_F64, N, 2, isa); /* one rounding, not two */
        cpu_cast(y, AG_F32, half, dtype, N, 1, isa);
        for (int i = 0; i < N; i++)
            if (isnan(wide[i]) ? !isnan(y[i])
                               : y[i] != (float)rounded(wide[i], bits, low, largest))
                fail_msg("f64 %.17g to %d (isa %d): %.9g", wide[i], dtype, isa, (double)y[i]);
    }
    const float f[] = {1.9f, -1.9f, NAN, 1e30f, -1e30f, 255.0f, -3.0f};
    const int64_t want[] = {1, -1, 0, INT64_MAX, INT64_MIN, 255, -3};
    int64_t i64[7];
    int32_t i32[7];
    uint8_t u8[7];
    cpu_cast(i64, AG_I64, f, AG_F32, 7, 1, isa);
    cpu_cast(i32, AG_I32, f, AG_F32, 7, 1, isa);
    cpu_cast(u8, AG_U8, f, AG_F32, 7, 1, isa);
    for (int i = 0; i < 7; i++)
        assert_true(i64[i] == want[i]);
    assert_true(i32[3] == INT32_MAX && i32[4] == INT32_MIN && i32[1] == -1);
    assert_true(u8[0] == 1 && u8[3] == 255 && u8[4] == 0 && u8[5] == 255 && u8[6] == 0);
    cpu_cast(wide, AG_F64, i32, AG_I32, 7, 1, isa);
    assert_true(wide[3] == 2147483647.0);
    cpu_cast(y, AG_F32, i64, AG_I64, 7, 1, isa);
    assert_true(y[6] == -3.0f);
}
static void test_cast(void **state)
{
    (void)state;
    check_each_isa(cast_of);
}

/* --- losses ----------------------------------------------------------------------------------- */

static double loss_of(ag_loss_kind kind, double e, double c)
{
    return kind == AG_LOSS_L2      ? e * e
           : kind == AG_LOSS_HUBER ? 2 * c * (sqrt(e * e + c * c) - c)
                                   : 2 * (sqrt(e * e + c * c) - c);
}

static void row_loss_of(int isa)
{
    const int64_t rows = 3, cols = 1237;
    const double c = 0.1, h = 1e-6;
    uint64_t seed = 6;
    float *p = check_random(rows * cols, &seed, 0, 1), *t = check_random(rows * cols, &seed, 0, 1);
    float d[3] = {0.5f, -2.0f, 1.25f}, out[3], *dp = check_floats(rows * cols);
    double *want = check_doubles(NULL, rows), *want_dp = check_doubles(NULL, rows * cols);

    t[5] = p[5]; /* no error at all */
    for (int kind = AG_LOSS_L2; kind <= AG_LOSS_SMOOTH_L1; kind++) {
        memset(want, 0, (size_t)rows * sizeof *want);
        for (int64_t i = 0; i < rows * cols; i++) {
            const double e = (double)p[i] - t[i];
            want[i / cols] += loss_of(kind, e, c) / (double)cols;
            want_dp[i] = d[i / cols] * (loss_of(kind, e + h, c) - loss_of(kind, e - h, c)) /
                         (2 * h * (double)cols);
        }
        cpu_row_loss(out, kind, p, t, rows, cols, c, 2, isa);
        check_near("loss", isa, out, want, rows, 2e-7);
        cpu_row_loss_grad(dp, kind, p, t, d, rows, cols, c, 2, isa);
        check_near("loss gradient", isa, dp, want_dp, rows * cols, 1e-9);
        cpu_row_loss_grad(dp, kind, p, p, d, rows, cols, 0.0, 2, isa);
        assert_true(dp[7] == 0.0f);
    }
    free(p);
    free(t);
    free(dp);
    free(want);
    free(want_dp);
}
static void test_row_loss(void **state)
{
    (void)state;
    check_each_isa(row_loss_of);
}

/* Large enough to go past the caches; from an address that is aligned and from one that is not. */
static void fill_of(int isa)
{
    enum { LARGE = (4 << 20) + 37 };
    float *y = check_scratch((LARGE + 3) * sizeof *y);

    for (int from = 0; from < 2; from++) {
        cpu_fill(y + from, 3.25f + (float)from, LARGE, 2, isa);
        for (int i = from; i < LARGE + from; i++)
            if (y[i] != 3.25f + (float)from)
                fail_msg("fill (isa %d): [%d] is %g", isa, i, (double)y[i]);
        assert_true(isnan(y[LARGE + from]));
    }
    free(y);
}
static void test_fill(void **state)
{
    (void)state;
    check_each_isa(fill_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unary), cmocka_unit_test(test_far),   cmocka_unit_test(test_simple),
        cmocka_unit_test(test_dropout), cmocka_unit_test(test_binary), cmocka_unit_test(test_geglu),
        cmocka_unit_test(test_cast), cmocka_unit_test(test_row_loss), cmocka_unit_test(test_fill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
