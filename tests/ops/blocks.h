/* blocks.h - cases of normalisation, softmax, attention, GEGLU and losses; see harness.h. */
#ifndef TESTS_OPS_BLOCKS_H
#define TESTS_OPS_BLOCKS_H

#include "tests/ops/harness.h"

/* --- softmax ---------------------------------------------------------------------------------- */

static ag_tensor *build_softmax(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_softmax(ctx, in[0]);
}

static void softmax_row(double *y, const double *x, int64_t n)
{
    double top = -INFINITY, sum = 0;

    for (int64_t i = 0; i < n; i++)
        top = fmax(top, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += y[i] = exp(x[i] - top);
    for (int64_t i = 0; i < n; i++)
        y[i] /= sum;
}

static void define_softmax(double *y, double *const *in, const op_case *c)
{
    const int64_t n = c->in[0].dims[c->in[0].n_dims - 1];

    for (int64_t at = 0; at < case_numel(&c->in[0]); at += n)
        softmax_row(y + at, in[0] + at, n);
}

static ag_tensor *refuse_softmax(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)in;
    (void)c;
    return ag_softmax(ctx, ag_scalar(ctx, 1));
}

/* --- layer_norm, group_norm: c->i = {groups (0: layer norm), silu, without affine} ------------ */

enum { EPS_MILLIONTHS = 1000 };

static ag_tensor *build_norm(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    const double eps = EPS_MILLIONTHS * 1e-6;

    if (c->i[0])
        return ag_group_norm(ctx, in[0], in[1], in[2], c->i[0], eps, c->i[1]);
    return ag_layer_norm(ctx, in[0], in[1], in[2], eps);
}

static void define_norm(double *y, double *const *in, const op_case *c)
{
    const case_input *s = &c->in[0];
    const int64_t ch = s->dims[s->n_dims - 1], groups = c->i[0] ? c->i[0] : 1, wide = ch / groups;
    const int64_t n = c->i[0] ? s->dims[0] : case_numel(s) / ch, rows = case_numel(s) / ch / n;

    for (int64_t k = 0; k < n; k++)
        for (int64_t g = 0; g < groups; g++) {
            double mean = 0, variance = 0;
            for (int64_t r = 0; r < rows; r++)
                for (int64_t e = 0; e < wide; e++)
                    mean += in[0][(k * rows + r) * ch + g * wide + e];
            mean /= (double)(rows * wide);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t e = 0; e < wide; e++) {
                    const double x = in[0][(k * rows + r) * ch + g * wide + e] - mean;
                    variance += x * x;
                }
            variance /= (double)(rows * wide);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t e = 0; e < wide; e++) {
                    const int64_t i = g * wide + e, at = (k * rows + r) * ch + i;
                    double z = (in[0][at] - mean) / sqrt(variance + EPS_MILLIONTHS * 1e-6);
                    z = z * (in[1] ? in[1][i] : 1) + (in[2] ? in[2][i] : 0);
                    y[at] = c->i[1] ? z / (1 + exp(-z)) : z;
                }
        }
}

static ag_tensor *refuse_layer_norm(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_layer_norm(ctx, in[0], in[0], NULL, 1e-5);
}

static ag_tensor *refuse_group_norm(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_group_norm(ctx, in[0], in[1], in[2], 5, 1e-5, false);
}

#define GROUP_NORM(text, groups, silu, ...)                                                       \
    {.name = "group_norm " text, .in = {__VA_ARGS__}, .build = build_norm, .define = define_norm, \
     .refuse = refuse_group_norm, .i = {groups, silu}, .tolerance = 2e-5}

/* --- attention: c->i = {heads, causal}, c->p[0] scale ----------------------------------------- */

static ag_tensor *build_attention(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_attention(ctx, in[0], in[1], in[2], c->i[0], c->p[0], c->i[1]);
}

static ag_tensor *build_probs(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_attention_probs(ctx, in[0], in[1], c->i[0], c->p[0], c->i[1]);
}

/* p [Tk] of one query. */
static void probs_row(double *p, double *const *in, const op_case *c, int64_t n, int64_t head,
                      int64_t query)
{
    const int64_t *q = c->in[0].dims, tk = c->in[1].dims[1], d = q[2] / c->i[0];
    const double scale = c->p[0] != 0 ? c->p[0] : 1 / sqrt((double)d);

    for (int64_t j = 0; j < tk; j++) {
        double dot = 0;
        for (int64_t e = 0; e < d; e++)
            dot += in[0][(n * q[1] + query) * q[2] + head * d + e] *
                   in[1][(n * tk + j) * q[2] + head * d + e];
        p[j] = c->i[1] && j > query ? -INFINITY : scale * dot;
    }
    softmax_row(p, p, tk);
}

static void define_attention(double *y, double *const *in, const op_case *c)
{
    const int64_t *q = c->in[0].dims, tk = c->in[1].dims[1], d = q[2] / c->i[0];
    double p[64];

    for (int64_t n = 0; n < q[0]; n++)
        for (int64_t h = 0; h < c->i[0]; h++)
            for (int64_t i = 0; i < q[1]; i++) {
                probs_row(p, in, c, n, h, i);
                for (int64_t e = 0; e < d; e++) {
                    double sum = 0;
                    for (int64_t j = 0; j < tk; j++)
                        sum += p[j] * in[2][(n * tk + j) * q[2] + h * d + e];
                    y[(n * q[1] + i) * q[2] + h * d + e] = sum;
                }
            }
}

static void define_probs(double *y, double *const *in, const op_case *c)
{
    const int64_t *q = c->in[0].dims, tk = c->in[1].dims[1];

    for (int64_t n = 0; n < q[0]; n++)
        for (int64_t h = 0; h < c->i[0]; h++)
            for (int64_t i = 0; i < q[1]; i++, y += tk)
                probs_row(y, in, c, n, h, i);
}

static ag_tensor *refuse_attention(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_attention(ctx, in[0], in[1], in[2], 1 + (int)ag_dim(in[0], 2), 0, false);
}

static ag_tensor *refuse_probs(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_attention_probs(ctx, in[0], ag_slice(ctx, in[1], 2, 0, 1), c->i[0], 0, false);
}

/* Wide queries and keys, so that the softmax is far from flat. In bf16 the gradient of the scores
 * is a difference of numbers that were rounded before. */
#define ATTENTION(text, heads, causal, scale, q, k)                                               \
    {.name = "attention " text, .in = {{3, q, -2, 2}, {3, k, -2, 2}, {3, k}},                     \
     .build = build_attention, .define = define_attention, .refuse = refuse_attention,            \
     .i = {heads, causal}, .p = {scale}, .tolerance = 2e-5, .bf16_tolerance = 5e-2},               \
    {.name = "attention_probs " text, .in = {{3, q, -2, 2}, {3, k, -2, 2}},                       \
     .build = build_probs, .define = define_probs, .refuse = refuse_probs, .i = {heads, causal},  \
     .p = {scale}, .tolerance = 2e-5, .bf16_tolerance = 5e-2}
#define TOKENS(...) {__VA_ARGS__}

/* --- geglu ------------------------------------------------------------------------------------ */

static ag_tensor *build_geglu(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_geglu(ctx, in[0]);
}

static void define_geglu(double *y, double *const *in, const op_case *c)
{
    const int64_t n = c->in[0].dims[c->in[0].n_dims - 1] / 2;

    for (int64_t r = 0; r < case_numel(&c->in[0]) / n / 2; r++)
        for (int64_t i = 0; i < n; i++) {
            const double a = in[0][r * 2 * n + i], g = in[0][r * 2 * n + n + i];
            *y++ = a * 0.5 * g * (1 + erf(g / sqrt(2.0)));
        }
}

static ag_tensor *refuse_geglu(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_geglu(ctx, ag_slice(ctx, in[0], -1, 0, 3));
}

/* --- row_loss: c->i[0] kind, c->p[0] c -------------------------------------------------------- */

static ag_tensor *build_loss(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_row_loss(ctx, (ag_loss_kind)c->i[0], in[0], in[1], c->p[0]);
}

static void define_loss(double *y, double *const *in, const op_case *c)
{
    const int64_t rows = c->in[0].dims[0], n = case_numel(&c->in[0]) / rows;
    const double k = c->p[0];

    for (int64_t r = 0; r < rows; r++) {
        y[r] = 0;
        for (int64_t i = r * n; i < (r + 1) * n; i++) {
            const double e = in[0][i] - in[1][i], root = sqrt(e * e + k * k) - k;
            y[r] += (c->i[0] == AG_LOSS_L2      ? e * e
                     : c->i[0] == AG_LOSS_HUBER ? 2 * k * root
                                                : 2 * root) / (double)n;
        }
    }
}

static ag_tensor *refuse_loss(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_row_loss(ctx, (ag_loss_kind)c->i[0], in[0], ag_slice(ctx, in[1], 0, 0, 1), c->p[0]);
}

static ag_tensor *refuse_loss_width(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_row_loss(ctx, (ag_loss_kind)c->i[0], in[0], in[1], 0);
}

static const op_case block_cases[] = {
    {.name = "softmax", .in = {{2, {5, 7}, -3, 3}}, .build = build_softmax,
     .define = define_softmax, .refuse = refuse_softmax},
    {.name = "softmax of one", .in = {{2, {3, 1}}}, .build = build_softmax,
     .define = define_softmax},
    {.name = "softmax of 37", .in = {{3, {2, 2, 37}, -3, 3}}, .build = build_softmax,
     .define = define_softmax},
    {.name = "softmax of large numbers", .in = {{2, {2, 5}, 500, 503}}, .build = build_softmax,
     .define = define_softmax, .flags = NO_BF16}, /* bf16 has steps of 2 there */
    {.name = "layer_norm", .in = {{3, {2, 3, 7}, -1, 3}, {1, {7}, 0.5, 2}, {1, {7}}},
     .build = build_norm, .define = define_norm, .refuse = refuse_layer_norm, .tolerance = 2e-5},
    {.name = "layer_norm bare", .in = {{2, {3, 19}, -1, 3}}, .build = build_norm,
     .define = define_norm, .tolerance = 2e-5},
    {.name = "layer_norm without beta", .in = {{2, {3, 19}, -1, 3}, {1, {19}, 0.5, 2}},
     .build = build_norm, .define = define_norm, .tolerance = 2e-5},
    {.name = "layer_norm with f32 gamma",
     .in = {{2, {3, 7}, -1, 3}, {1, {7}, 0.5, 2, .keep_f32 = true}, {1, {7}, .keep_f32 = true}},
     .build = build_norm, .define = define_norm, .tolerance = 2e-5},
    GROUP_NORM("of 2", 2, 0, {4, {2, 3, 2, 6}, -1, 3}, {1, {6}, 0.5, 2}, {1, {6}}),
    GROUP_NORM("of 2 silu", 2, 1, {4, {2, 3, 2, 6}, -1, 3}, {1, {6}, 0.5, 2}, {1, {6}}),
    GROUP_NORM("of 1 silu", 1, 1, {3, {2, 5, 3}, -1, 3}, {1, {3}, 0.5, 2}, {1, {3}}),
    GROUP_NORM("of every channel", 3, 0, {3, {2, 5, 3}, -1, 3}, {1, {3}, 0.5, 2}, {1, {3}}),
    GROUP_NORM("bare silu", 2, 1, {4, {2, 3, 2, 4}, -1, 3}),
    GROUP_NORM("f32 gamma", 2, 1, {4, {2, 3, 2, 6}, -1, 3}, {1, {6}, 0.5, 2, .keep_f32 = true},
               {1, {6}, .keep_f32 = true}),
    GROUP_NORM("of a vector", 2, 0, {2, {3, 8}, -1, 3}, {1, {8}, 0.5, 2}, {1, {8}}),
    ATTENTION("", 2, 0, 0, TOKENS(2, 5, 6), TOKENS(2, 7, 6)),
    ATTENTION("causal", 2, 1, 0, TOKENS(1, 7, 6), TOKENS(1, 7, 6)),
    ATTENTION("one head", 1, 0, 0.7, TOKENS(1, 3, 5), TOKENS(1, 4, 5)),
    ATTENTION("one key", 3, 0, 0, TOKENS(2, 3, 6), TOKENS(2, 1, 6)),
    ATTENTION("causal, fewer queries", 1, 1, 0, TOKENS(2, 3, 4), TOKENS(2, 5, 4)),
    ATTENTION("wide", 1, 0, 0, TOKENS(1, 2, 40), TOKENS(1, 3, 40)),
    {.name = "geglu", .in = {{3, {2, 3, 10}, -3, 3}}, .build = build_geglu, .define = define_geglu,
     .refuse = refuse_geglu},
    {.name = "row_loss l2", .in = {{3, {2, 3, 5}}, {3, {2, 3, 5}}}, .build = build_loss,
     .define = define_loss, .refuse = refuse_loss, .i = {AG_LOSS_L2}},
    {.name = "row_loss huber", .in = {{3, {2, 3, 5}}, {3, {2, 3, 5}}}, .build = build_loss,
     .define = define_loss, .refuse = refuse_loss_width, .i = {AG_LOSS_HUBER}, .p = {0.3}},
    {.name = "row_loss smooth l1", .in = {{4, {3, 2, 2, 3}}, {4, {3, 2, 2, 3}}},
     .build = build_loss, .define = define_loss, .refuse = refuse_loss,
     .i = {AG_LOSS_SMOOTH_L1}, .p = {0.1}},
    {.name = "row_loss of a constant", .in = {{2, {3, 5}}, {2, {3, 5}, .kind = CONSTANT}},
     .build = build_loss, .define = define_loss, .refuse = refuse_loss, .i = {AG_LOSS_L2}},
};

#endif /* TESTS_OPS_BLOCKS_H */
