/* pictures.h - cases of resampling and padding; see harness.h. */
#ifndef TESTS_OPS_PICTURES_H
#define TESTS_OPS_PICTURES_H

#include "tests/ops/harness.h"

/* Squared first, so that the second order is not zero everywhere. x [N,H,W,C]. */

static double at(const double *x, const int64_t *d, int64_t n, int64_t i, int64_t j, int64_t c)
{
    const double v = x[((n * d[1] + i) * d[2] + j) * d[3] + c];

    return v * v;
}

/* --- upsample_nearest: c->i = {h, w} ---------------------------------------------------------- */

static ag_tensor *build_upsample(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_upsample_nearest(ctx, ag_square(ctx, in[0]), c->i[0], c->i[1]);
}

static void define_upsample(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims;

    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t i = 0; i < c->i[0]; i++)
            for (int64_t j = 0; j < c->i[1]; j++)
                for (int64_t k = 0; k < d[3]; k++)
                    *y++ = at(in[0], d, n, i * d[1] / c->i[0], j * d[2] / c->i[1], k);
}

static ag_tensor *refuse_upsample(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_upsample_nearest(ctx, in[0], 0, 3);
}

static ag_tensor *build_upsample_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_upsample_backward(ctx, ag_square(ctx, in[0]), c->i[0], c->i[1]);
}

static void define_upsample_backward(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims, h = c->i[0], w = c->i[1];

    memset(y, 0, (size_t)(d[0] * h * w * d[3]) * sizeof *y);
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t i = 0; i < d[1]; i++)
            for (int64_t j = 0; j < d[2]; j++)
                for (int64_t k = 0; k < d[3]; k++)
                    y[((n * h + i * h / d[1]) * w + j * w / d[2]) * d[3] + k] +=
                        at(in[0], d, n, i, j, k);
}

static ag_tensor *refuse_upsample_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return op_upsample_backward(ctx, in[0], -1, 3);
}

/* --- avg_pool2d: c->i = {kernel, h, w (of the adjoint's result)} ------------------------------ */

static ag_tensor *build_pool(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_avg_pool2d(ctx, ag_square(ctx, in[0]), c->i[0]);
}

static void define_pool(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims, k = c->i[0];

    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t i = 0; i < d[1] / k; i++)
            for (int64_t j = 0; j < d[2] / k; j++)
                for (int64_t ch = 0; ch < d[3]; ch++) {
                    double sum = 0;
                    for (int64_t a = 0; a < k * k; a++)
                        sum += at(in[0], d, n, i * k + a / k, j * k + a % k, ch);
                    *y++ = sum / (double)(k * k);
                }
}

static ag_tensor *refuse_pool(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_avg_pool2d(ctx, in[0], 9);
}

static ag_tensor *build_pool_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_avg_pool_backward(ctx, ag_square(ctx, in[0]), c->i[0], c->i[1], c->i[2]);
}

static void define_pool_backward(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims, k = c->i[0];

    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t i = 0; i < c->i[1]; i++)
            for (int64_t j = 0; j < c->i[2]; j++)
                for (int64_t ch = 0; ch < d[3]; ch++)
                    *y++ = i / k < d[1] && j / k < d[2]
                               ? at(in[0], d, n, i / k, j / k, ch) / (double)(k * k)
                               : 0;
}

static ag_tensor *refuse_pool_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_avg_pool_backward(ctx, in[0], c->i[0], 50, 50);
}

/* --- pad2d: c->i = {mode, top, bottom, left, right} ------------------------------------------- */

static ag_tensor *build_pad(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_pad2d(ctx, ag_square(ctx, in[0]), (ag_pad_mode)c->i[0], c->i[1], c->i[2], c->i[3],
                    c->i[4]);
}

/* Where a padded index comes from; -1: nowhere. */
static int64_t source(int mode, int64_t i, int64_t size)
{
    if (i >= 0 && i < size)
        return i;
    if (mode == AG_PAD_REPLICATE)
        return i < 0 ? 0 : size - 1;
    if (mode == AG_PAD_REFLECT)
        return i < 0 ? -i : 2 * (size - 1) - i;
    return -1;
}

static void define_pad(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims;

    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t i = -c->i[1]; i < d[1] + c->i[2]; i++)
            for (int64_t j = -c->i[3]; j < d[2] + c->i[4]; j++)
                for (int64_t k = 0; k < d[3]; k++) {
                    const int64_t a = source(c->i[0], i, d[1]), b = source(c->i[0], j, d[2]);
                    *y++ = a < 0 || b < 0 ? 0 : at(in[0], d, n, a, b, k);
                }
}

static ag_tensor *refuse_pad(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_pad2d(ctx, in[0], AG_PAD_REFLECT, (int)ag_dim(in[0], 1), 0, 0, 0);
}

static ag_tensor *build_pad_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_pad2d_backward(ctx, ag_square(ctx, in[0]), (ag_pad_mode)c->i[0], c->i + 1);
}

static void define_pad_backward(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims;
    const int64_t h = d[1] - c->i[1] - c->i[2], w = d[2] - c->i[3] - c->i[4];

    memset(y, 0, (size_t)(d[0] * h * w * d[3]) * sizeof *y);
    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t i = 0; i < d[1]; i++)
            for (int64_t j = 0; j < d[2]; j++)
                for (int64_t k = 0; k < d[3]; k++) {
                    const int64_t a = source(c->i[0], i - c->i[1], h);
                    const int64_t b = source(c->i[0], j - c->i[3], w);
                    if (a >= 0 && b >= 0)
                        y[((n * h + a) * w + b) * d[3] + k] += at(in[0], d, n, i, j, k);
                }
}

static ag_tensor *refuse_pad_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_pad2d_backward(ctx, in[0], (ag_pad_mode)c->i[0], (int[]){9, 9, 9, 9});
}

#define PAD(text, ...)                                                                            \
    {.name = "pad2d " text, .in = {{4, {2, 4, 5, 3}}}, .build = build_pad, .define = define_pad,  \
     .refuse = refuse_pad, .i = {__VA_ARGS__}},                                                   \
    {.name = "pad2d_backward " text, .in = {{4, {1, 7, 9, 2}}}, .build = build_pad_backward,      \
     .define = define_pad_backward, .refuse = refuse_pad_backward, .i = {__VA_ARGS__}}

/* --- upfirdn2d: c->i = {up, down, top, bottom, left, right} ----------------------------------- */

static ag_tensor *build_upfirdn(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_upfirdn2d(ctx, ag_square(ctx, in[0]), in[1], c->i[0], c->i[1], c->i[2], c->i[3],
                        c->i[4], c->i[5]);
}

static void define_upfirdn(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims, fh = c->in[1].dims[0], fw = c->in[1].dims[1];
    const int up = c->i[0], down = c->i[1];
    const int64_t oh = (d[1] * up + c->i[2] + c->i[3] - fh) / down + 1;
    const int64_t ow = (d[2] * up + c->i[4] + c->i[5] - fw) / down + 1;

    for (int64_t n = 0; n < d[0]; n++)
        for (int64_t oy = 0; oy < oh; oy++)
            for (int64_t ox = 0; ox < ow; ox++)
                for (int64_t k = 0; k < d[3]; k++) {
                    double sum = 0;
                    for (int64_t a = 0; a < fh; a++)
                        for (int64_t b = 0; b < fw; b++) {
                            const int64_t i = oy * down + a - c->i[2], j = ox * down + b - c->i[4];
                            if (i >= 0 && j >= 0 && i < d[1] * up && j < d[2] * up && i % up == 0 &&
                                j % up == 0)
                                sum += in[1][a * fw + b] * at(in[0], d, n, i / up, j / up, k);
                        }
                    *y++ = sum;
                }
}

static ag_tensor *refuse_upfirdn(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_upfirdn2d(ctx, in[0], in[1], 1, 1, -20, 0, 0, 0);
}

#define UPFIRDN(text, fh, fw, ...)                                                                \
    {.name = "upfirdn2d " text, .in = {{4, {2, 5, 4, 3}}, {2, {fh, fw}, .kind = CONSTANT}},       \
     .build = build_upfirdn, .define = define_upfirdn, .refuse = refuse_upfirdn,                  \
     .i = {__VA_ARGS__}}

static const op_case picture_cases[] = {
    {.name = "upsample_nearest twice", .in = {{4, {2, 3, 2, 3}}}, .build = build_upsample,
     .define = define_upsample, .refuse = refuse_upsample, .i = {6, 4}},
    {.name = "upsample_nearest odd", .in = {{4, {1, 3, 4, 2}}}, .build = build_upsample,
     .define = define_upsample, .refuse = refuse_upsample, .i = {7, 5}},
    {.name = "upsample_nearest smaller", .in = {{4, {1, 5, 7, 2}}}, .build = build_upsample,
     .define = define_upsample, .refuse = refuse_upsample, .i = {3, 4}},
    {.name = "upsample_nearest_backward", .in = {{4, {2, 7, 5, 3}}},
     .build = build_upsample_backward, .define = define_upsample_backward,
     .refuse = refuse_upsample_backward, .i = {3, 4}},
    {.name = "avg_pool2d 2", .in = {{4, {2, 5, 4, 3}}}, .build = build_pool, .define = define_pool,
     .refuse = refuse_pool, .i = {2}},
    {.name = "avg_pool2d 3", .in = {{4, {1, 7, 6, 2}}}, .build = build_pool, .define = define_pool,
     .refuse = refuse_pool, .i = {3}},
    {.name = "avg_pool2d_backward", .in = {{4, {2, 2, 3, 3}}}, .build = build_pool_backward,
     .define = define_pool_backward, .refuse = refuse_pool_backward, .i = {2, 5, 6}},
    PAD("zero", AG_PAD_ZERO, 1, 2, 0, 3),
    PAD("reflect", AG_PAD_REFLECT, 2, 1, 3, 2),
    PAD("replicate", AG_PAD_REPLICATE, 1, 2, 3, 0),
    UPFIRDN("blur", 3, 4, 1, 1, 1, 1, 2, 1),
    UPFIRDN("up", 4, 3, 2, 1, 2, 1, 1, 1),
    UPFIRDN("down", 3, 3, 1, 2, 1, 1, 1, 1),
    UPFIRDN("down with a rest", 4, 2, 1, 3, 2, 1, 1, 0),
    UPFIRDN("up 3 down 2", 3, 5, 3, 2, 2, 1, 2, 3),
    UPFIRDN("cropped", 2, 3, 2, 1, -1, -2, 0, -1),
};

#endif /* TESTS_OPS_PICTURES_H */
