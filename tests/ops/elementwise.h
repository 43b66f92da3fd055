/* elementwise.h - unary, affine, clamp, binary and cast cases; see harness.h. */
#ifndef TESTS_OPS_ELEMENTWISE_H
#define TESTS_OPS_ELEMENTWISE_H

#include "tests/ops/harness.h"

/* --- unary: c->i = {kind, order, with d}, c->p[0] the parameter ------------------------------- */

static double function(ag_unary_kind kind, double x, double p)
{
    switch (kind) {
    case AG_SILU: return x / (1 + exp(-x));
    case AG_GELU: return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case AG_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    case AG_SIGMOID: return 1 / (1 + exp(-x));
    case AG_TANH: return tanh(x);
    case AG_EXP: return exp(x);
    case AG_LOG: return log(x);
    case AG_SQRT: return sqrt(x);
    case AG_RSQRT: return 1 / sqrt(x);
    case AG_RECIPROCAL: return 1 / x;
    case AG_SQUARE: return x * x;
    case AG_ABS: return fabs(x);
    case AG_RELU: return x > 0 ? x : 0;
    case AG_LEAKY_RELU: return x > 0 ? x : p * x;
    case AG_POW: return pow(x, p);
    case AG_SIN: return sin(x);
    case AG_COS: return cos(x);
    case AG_SOFTPLUS: return log1p(exp(-fabs(x))) + fmax(x, 0);
    case AG_N_UNARY: break;
    }
    return NAN;
}

/* The order-th derivative by a five-point difference of the one below; the step grows with the
 * order, since each difference divides the rounding of the one inside by it. */
static double derivative(ag_unary_kind kind, int order, double x, double p)
{
    static const double STEP[] = {0, 1e-3, 4e-3, 1e-2};
    const double h = STEP[order];

    if (order == 0)
        return function(kind, x, p);
    return (8 * (derivative(kind, order - 1, x + h, p) - derivative(kind, order - 1, x - h, p)) -
            (derivative(kind, order - 1, x + 2 * h, p) -
             derivative(kind, order - 1, x - 2 * h, p))) / (12 * h);
}

static ag_tensor *build_unary(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_unary(ctx, (ag_unary_kind)c->i[0], c->i[1], in[0], c->i[2] ? in[1] : NULL, c->p[0]);
}

static void define_unary(double *y, double *const *in, const op_case *c)
{
    for (int64_t i = 0; i < case_numel(&c->in[0]); i++)
        y[i] = (c->i[2] ? in[1][i] : 1.0) *
               derivative((ag_unary_kind)c->i[0], c->i[1], in[0][i], c->p[0]);
}

static ag_tensor *refuse_unary(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_unary(ctx, (ag_unary_kind)c->i[0], 0, in[0], ag_slice(ctx, in[0], 0, 0, 1), 0);
}

/* A range on one side of the kink, with room for the differences. */
#define UNARY(kind, lo, hi, ...)                                                                   \
    {.name = "unary " #kind, .in = {{2, {3, 7}, lo, hi}}, .build = build_unary,                    \
     .define = define_unary, .refuse = refuse_unary, .i = {AG_##kind}, __VA_ARGS__}
/* d f^(order)(x). Without second order where that needs the fourth derivative, or more digits than
 * differences of differences have; the next order's own case checks it. */
#define UNARY_ORDER(kind, order, lo, hi, ...)                                                      \
    {.name = "unary " #kind " order " #order, .in = {{2, {3, 5}, lo, hi}, {2, {3, 5}}},            \
     .build = build_unary, .define = define_unary, .i = {AG_##kind, order, 1},                     \
     .flags = NO_SECOND | (order == 3 ? NO_GRADIENT : 0), .tolerance = 1e-4, __VA_ARGS__}
#define UNARY_ORDERS(kind, lo, hi, ...)                                                            \
    UNARY_ORDER(kind, 1, lo, hi, __VA_ARGS__), UNARY_ORDER(kind, 2, lo, hi, __VA_ARGS__),          \
    UNARY_ORDER(kind, 3, lo, hi, __VA_ARGS__)

/* --- affine, clamp ---------------------------------------------------------------------------- */

static ag_tensor *build_affine(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_affine(ctx, in[0], c->p[0], c->p[1]);
}

static void define_affine(double *y, double *const *in, const op_case *c)
{
    for (int64_t i = 0; i < case_numel(&c->in[0]); i++)
        y[i] = c->p[0] * in[0][i] + c->p[1];
}

static ag_tensor *build_clamp(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_clamp(ctx, in[0], c->p[0], c->p[1]);
}

static void define_clamp(double *y, double *const *in, const op_case *c)
{
    for (int64_t i = 0; i < case_numel(&c->in[0]); i++)
        y[i] = fmin(fmax(in[0][i], c->p[0]), c->p[1]);
}

static ag_tensor *refuse_clamp(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_clamp(ctx, in[0], c->p[1], c->p[0]);
}

static ag_tensor *build_clamp_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_apply(ctx, &ag_op_clamp_backward, (ag_tensor *[]){in[1], in[0]},
                    (double[]){c->p[0], c->p[1]});
}

static void define_clamp_backward(double *y, double *const *in, const op_case *c)
{
    for (int64_t i = 0; i < case_numel(&c->in[0]); i++)
        y[i] = in[1][i] >= c->p[0] && in[1][i] <= c->p[1] ? in[0][i] : 0;
}

/* --- binary: c->i[0] = index into BINARY ------------------------------------------------------ */

typedef ag_tensor *(*binary_fn)(ag_ctx *, ag_tensor *, ag_tensor *);
static const binary_fn BINARY[] = {ag_add, ag_sub, ag_mul, ag_div, ag_maximum, ag_minimum};

static ag_tensor *build_binary(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return BINARY[c->i[0]](ctx, in[0], in[1]);
}

static double binary(int kind, double a, double b)
{
    switch (kind) {
    case 0: return a + b;
    case 1: return a - b;
    case 2: return a * b;
    case 3: return a / b;
    case 4: return fmax(a, b);
    default: return fmin(a, b);
    }
}

/* Broadcasting, one axis at a time from the last. */
static void define_binary(double *y, double *const *in, const op_case *c)
{
    const case_input *a = &c->in[0], *b = &c->in[1];
    const int n = a->n_dims > b->n_dims ? a->n_dims : b->n_dims;
    int64_t dims[AG_MAX_DIMS], total = 1;

    for (int i = 0; i < n; i++) {
        const int64_t da = i < n - a->n_dims ? 1 : a->dims[i - (n - a->n_dims)];
        const int64_t db = i < n - b->n_dims ? 1 : b->dims[i - (n - b->n_dims)];
        dims[i] = da > db ? da : db;
        total *= dims[i];
    }
    for (int64_t at = 0; at < total; at++) {
        int64_t rest = at, ia = 0, ib = 0, step_a = 1, step_b = 1;
        for (int i = n - 1; i >= 0; i--) {
            const int64_t k = rest % dims[i];
            const int ja = i - (n - a->n_dims), jb = i - (n - b->n_dims);
            rest /= dims[i];
            if (ja >= 0) {
                ia += a->dims[ja] == 1 ? 0 : k * step_a;
                step_a *= a->dims[ja];
            }
            if (jb >= 0) {
                ib += b->dims[jb] == 1 ? 0 : k * step_b;
                step_b *= b->dims[jb];
            }
        }
        y[at] = binary(c->i[0], in[0][ia], in[1][ib]);
    }
}

static ag_tensor *refuse_binary(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    ag_tensor *wrong = ag_full(ctx, AG_STEP, 1, 2, (int64_t[]){3, 11});

    return BINARY[c->i[0]](ctx, in[0], wrong);
}

#define BINARY_CASES(word, kind, lo, hi)                                                           \
    {.name = word, .in = {{2, {3, 7}}, {2, {3, 7}, lo, hi}}, .build = build_binary,                \
     .define = define_binary, .refuse = refuse_binary, .i = {kind}},                               \
    {.name = word " stretched", .in = {{3, {2, 1, 5}}, {2, {3, 1}, lo, hi}},                       \
     .build = build_binary, .define = define_binary, .i = {kind}},                                 \
    {.name = word " with a number", .in = {{1, {1}}, {3, {2, 3, 5}, lo, hi}},                      \
     .build = build_binary, .define = define_binary, .i = {kind}},                                 \
    {.name = word " f32 and bf16", .in = {{2, {4, 3}}, {1, {3}, lo, hi, .keep_f32 = true}},        \
     .build = build_binary, .define = define_binary, .i = {kind}}

/* --- cast ------------------------------------------------------------------------------------- */

static ag_tensor *build_cast(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_cast(ctx, ag_cast(ctx, ag_square(ctx, in[0]), (ag_dtype)c->i[0]), AG_F32);
}

static void define_square(double *y, double *const *in, const op_case *c)
{
    for (int64_t i = 0; i < case_numel(&c->in[0]); i++)
        y[i] = in[0][i] * in[0][i];
}

static ag_tensor *refuse_cast(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_cast(ctx, in[0], AG_N_DTYPES);
}

/* --- dropout: c->p[0] the probability, c->i = {step, sample} ------------------------------------ */

static ag_draw dropout_draw(const op_case *c)
{
    return (ag_draw){77, AG_DRAW_DROPOUT, (uint32_t)c->i[0], (uint32_t)c->i[1]};
}

static ag_tensor *build_dropout(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_dropout(ctx, in[0], c->p[0], dropout_draw(c), NULL);
}

/* The step from a tensor; the draw itself has another. */
static ag_tensor *build_dropout_of_step(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    const int64_t step = c->i[0];
    ag_draw draw = dropout_draw(c);

    draw.step = ~draw.step;
    return ag_dropout(ctx, in[0], c->p[0], draw, ag_from_i64(ctx, &step, 0, NULL));
}

static void define_dropout(double *y, double *const *in, const op_case *c)
{
    const ag_draw draw = dropout_draw(c);

    for (int64_t i = 0; i < case_numel(&c->in[0]); i++)
        y[i] = ag_draw_u32(&draw, (uint64_t)i) * 0x1p-32 < c->p[0] ? 0 : in[0][i] / (1 - c->p[0]);
}

static ag_tensor *refuse_dropout_step(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_dropout(ctx, in[0], 0.5, dropout_draw(c), in[0]);
}

static ag_tensor *refuse_dropout(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_dropout(ctx, in[0], 1.0, dropout_draw(c), NULL);
}

static const op_case elementwise_cases[] = {
    UNARY(SILU, -4, 4), UNARY_ORDERS(SILU, -4, 4),
    UNARY(GELU, -4, 4), UNARY_ORDERS(GELU, -4, 4),
    UNARY(QUICK_GELU, -4, 4), UNARY_ORDERS(QUICK_GELU, -4, 4),
    UNARY(SIGMOID, -4, 4), UNARY_ORDERS(SIGMOID, -4, 4),
    UNARY(TANH, -2, 2), UNARY_ORDERS(TANH, -2, 2),
    UNARY(EXP, -2, 2), UNARY_ORDERS(EXP, -2, 2),
    UNARY(LOG, 1, 4), UNARY_ORDERS(LOG, 1, 4),
    UNARY(SQRT, 1, 4), UNARY_ORDERS(SQRT, 1, 4),
    UNARY(RSQRT, 1, 4), UNARY_ORDERS(RSQRT, 1, 4),
    UNARY(RECIPROCAL, 1, 3), UNARY_ORDERS(RECIPROCAL, 1, 3),
    UNARY(SQUARE, -2, 2), UNARY_ORDERS(SQUARE, -2, 2),
    UNARY(ABS, 0.25, 2), UNARY(ABS, -2, -0.25), UNARY_ORDERS(ABS, -2, -0.25),
    UNARY(RELU, 0.25, 2), UNARY(RELU, -2, -0.25), UNARY_ORDERS(RELU, 0.25, 2),
    UNARY(LEAKY_RELU, 0.25, 2, .p = {0.2}), UNARY(LEAKY_RELU, -2, -0.25, .p = {0.2}),
    UNARY_ORDERS(LEAKY_RELU, -2, -0.25, .p = {0.2}),
    UNARY(POW, 1, 3, .p = {2.5}), UNARY_ORDERS(POW, 1, 3, .p = {2.5}),
    UNARY(POW, 1, 2, .p = {-3}),
    UNARY(SIN, -3, 3), UNARY_ORDERS(SIN, -3, 3),
    UNARY(COS, -3, 3), UNARY_ORDERS(COS, -3, 3),
    UNARY(SOFTPLUS, -4, 4), UNARY_ORDERS(SOFTPLUS, -4, 4),
    {.name = "unary SILU d asks", .in = {{2, {3, 5}, -4, 4}, {2, {3, 5}}}, .build = build_unary,
     .define = define_unary, .i = {AG_SILU, 0, 1}, .tolerance = 1e-5},
    {.name = "affine", .in = {{2, {3, 7}}}, .build = build_affine, .define = define_affine,
     .p = {-2.5, 0.75}},
    {.name = "affine offset", .in = {{1, {5}}}, .build = build_affine, .define = define_affine,
     .p = {1, 3}},
    {.name = "clamp inside", .in = {{2, {3, 7}, -0.4, 0.4}}, .build = build_clamp,
     .define = define_clamp, .refuse = refuse_clamp, .p = {-0.5, 0.5}},
    {.name = "clamp outside", .in = {{2, {3, 7}, 0.6, 2}}, .build = build_clamp,
     .define = define_clamp, .p = {-0.5, 0.5}},
    {.name = "clamp_backward", .in = {{2, {4, 9}}, {2, {4, 9}, .kind = CONSTANT}},
     .build = build_clamp_backward, .define = define_clamp_backward, .p = {-0.5, 0.5}},
    BINARY_CASES("add", 0, -1, 1),
    BINARY_CASES("sub", 1, -1, 1),
    BINARY_CASES("mul", 2, -1, 1),
    BINARY_CASES("div", 3, 1, 2),
    BINARY_CASES("maximum larger", 4, 1.5, 2),
    BINARY_CASES("maximum smaller", 4, -2, -1.5),
    BINARY_CASES("minimum larger", 5, 1.5, 2),
    BINARY_CASES("minimum smaller", 5, -2, -1.5),
    {.name = "cast to f32", .in = {{2, {3, 7}}}, .build = build_cast, .define = define_square,
     .refuse = refuse_cast, .i = {AG_F32}},
    {.name = "cast to bf16", .in = {{2, {3, 7}}}, .build = build_cast, .define = define_square,
     .i = {AG_BF16}, .tolerance = 1e-2},
    {.name = "dropout", .in = {{3, {3, 7, 5}}}, .build = build_dropout, .define = define_dropout,
     .refuse = refuse_dropout, .i = {3, 5}, .p = {0.3}},
    {.name = "dropout of a step", .in = {{3, {3, 7, 5}}}, .build = build_dropout_of_step,
     .define = define_dropout, .refuse = refuse_dropout_step, .i = {3, 5}, .p = {0.3}},
    {.name = "dropout in pieces", .in = {{2, {3, 701}}}, .build = build_dropout,
     .define = define_dropout, .i = {4, 1}, .p = {0.75}, .flags = NO_GRADIENT | NO_SECOND},
    {.name = "dropout of nothing", .in = {{1, {9}}}, .build = build_dropout,
     .define = define_dropout, .p = {0}},
};

#endif /* TESTS_OPS_ELEMENTWISE_H */
