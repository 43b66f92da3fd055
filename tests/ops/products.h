/* products.h - cases of matrix products and convolutions; see harness.h. */
#ifndef TESTS_OPS_PRODUCTS_H
#define TESTS_OPS_PRODUCTS_H

#include "tests/ops/harness.h"

/* --- matmul: c->i = {transpose_a, transpose_b} ------------------------------------------------ */

static ag_tensor *build_matmul(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_matmul(ctx, in[0], in[1], c->i[0], c->i[1]);
}

static void define_matmul(double *y, double *const *in, const op_case *c)
{
    const case_input *a = &c->in[0], *b = &c->in[1];
    const int64_t m = a->dims[a->n_dims - (c->i[0] ? 1 : 2)];
    const int64_t k = a->dims[a->n_dims - (c->i[0] ? 2 : 1)];
    const int64_t n = b->dims[b->n_dims - (c->i[1] ? 2 : 1)];
    const int64_t batch_a = case_numel(a) / (m * k), batch_b = case_numel(b) / (k * n);
    const int64_t batch = batch_a > batch_b ? batch_a : batch_b;

    for (int64_t l = 0; l < batch; l++)
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                const double *pa = in[0] + (batch_a > 1 ? l * m * k : 0);
                const double *pb = in[1] + (batch_b > 1 ? l * k * n : 0);
                double sum = 0;
                for (int64_t q = 0; q < k; q++)
                    sum += (c->i[0] ? pa[q * m + i] : pa[i * k + q]) *
                           (c->i[1] ? pb[j * k + q] : pb[q * n + j]);
                *y++ = sum;
            }
}

static ag_tensor *refuse_matmul(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_matmul(ctx, in[0], in[1], !c->i[0], c->i[1]);
}

#define MATMUL(text, ta, tb, ...)                                                                 \
    {.name = "matmul " text, .in = {__VA_ARGS__}, .build = build_matmul, .define = define_matmul, \
     .refuse = refuse_matmul, .i = {ta, tb}}

/* --- linear ----------------------------------------------------------------------------------- */

static ag_tensor *build_linear(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_linear(ctx, in[0], in[1], in[2]);
}

static void define_linear(double *y, double *const *in, const op_case *c)
{
    const int64_t n_in = c->in[1].dims[1], n_out = c->in[1].dims[0];
    const int64_t rows = case_numel(&c->in[0]) / n_in;

    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < n_out; o++) {
            double sum = in[2] ? in[2][o] : 0;
            for (int64_t i = 0; i < n_in; i++)
                sum += in[0][r * n_in + i] * in[1][o * n_in + i];
            *y++ = sum;
        }
}

static ag_tensor *refuse_linear(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_linear(ctx, in[1], in[0], NULL);
}

static ag_tensor *refuse_linear_bias(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_linear(ctx, in[0], in[1], in[0]);
}

static ag_tensor *build_linear_plus(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_linear_plus(ctx, in[0], in[1], in[2], in[3]);
}

static void define_linear_plus(double *y, double *const *in, const op_case *c)
{
    define_linear(y, in, c);
    for (int64_t k = 0; k < 2 * 3 * 5; k++)
        y[k] += in[3][k];
}

static ag_tensor *refuse_linear_plus(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_linear_plus(ctx, in[0], in[1], in[2], in[0]);
}

/* --- conv2d ----------------------------------------------------------------------------------- */

/* c->i = {stride, dilation, top, bottom, left, right, and of the adjoint's result height, width} */

static ag_conv_opts conv_opts(const op_case *c)
{
    return (ag_conv_opts){.stride = c->i[0], .dilation = c->i[1], .pad_top = c->i[2],
                          .pad_bottom = c->i[3], .pad_left = c->i[4], .pad_right = c->i[5]};
}

typedef struct conv_sizes {
    int64_t n, h, w, i, o, kh, kw, oh, ow, stride, dilation;
} conv_sizes;

static conv_sizes sizes(const op_case *c, int64_t n, int64_t h, int64_t w, int64_t i, int64_t o,
                        int64_t kh, int64_t kw)
{
    conv_sizes s = {n, h, w, i, o, kh, kw, 0, 0, c->i[0] ? c->i[0] : 1, c->i[1] ? c->i[1] : 1};

    s.oh = (h + c->i[2] + c->i[3] - s.dilation * (kh - 1) - 1) / s.stride + 1;
    s.ow = (w + c->i[4] + c->i[5] - s.dilation * (kw - 1) - 1) / s.stride + 1;
    return s;
}

/* The three-way sum <y, x * w>, one factor left out: mode 0 adds to y, 1 to x, 2 to w. */
static void conv_terms(const op_case *c, conv_sizes s, int mode, double *x, double *w, double *y)
{
    for (int64_t n = 0; n < s.n; n++)
        for (int64_t oy = 0; oy < s.oh; oy++)
            for (int64_t ox = 0; ox < s.ow; ox++)
                for (int64_t o = 0; o < s.o; o++)
                    for (int64_t ky = 0; ky < s.kh; ky++)
                        for (int64_t kx = 0; kx < s.kw; kx++) {
                            const int64_t iy = oy * s.stride + ky * s.dilation - c->i[2];
                            const int64_t ix = ox * s.stride + kx * s.dilation - c->i[4];
                            if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w)
                                continue;
                            for (int64_t i = 0; i < s.i; i++) {
                                double *px = x + ((n * s.h + iy) * s.w + ix) * s.i + i;
                                double *pw = w + ((o * s.kh + ky) * s.kw + kx) * s.i + i;
                                double *py = y + ((n * s.oh + oy) * s.ow + ox) * s.o + o;
                                if (mode == 0)
                                    *py += *px * *pw;
                                else if (mode == 1)
                                    *px += *py * *pw;
                                else
                                    *pw += *py * *px;
                            }
                        }
}

static ag_tensor *build_conv(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_conv2d(ctx, in[0], in[1], in[2], conv_opts(c));
}

static void define_conv(double *y, double *const *in, const op_case *c)
{
    const int64_t *x = c->in[0].dims, *w = c->in[1].dims;
    const conv_sizes s = sizes(c, x[0], x[1], x[2], x[3], w[0], w[1], w[2]);

    for (int64_t k = 0; k < s.n * s.oh * s.ow * s.o; k++)
        y[k] = in[2] ? in[2][k % s.o] : 0;
    conv_terms(c, s, 0, in[0], in[1], y);
}

static ag_tensor *build_conv_plus(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_conv2d_plus(ctx, in[0], in[1], in[2], conv_opts(c), in[3]);
}

static void define_conv_plus(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[3].dims;

    define_conv(y, in, c);
    for (int64_t k = 0; k < d[0] * d[1] * d[2] * d[3]; k++)
        y[k] += in[3][k];
}

static ag_tensor *refuse_conv_plus(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_conv2d_plus(ctx, in[0], in[1], in[2], conv_opts(c), in[0]);
}

static ag_tensor *build_enlarged(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    ag_conv_opts opts = conv_opts(c);

    opts.enlarge = true;
    return ag_conv2d(ctx, in[0], in[1], in[2], opts);
}

static void define_enlarged(double *y, double *const *in, const op_case *c)
{
    const int64_t *x = c->in[0].dims, *w = c->in[1].dims;
    const conv_sizes s = sizes(c, x[0], 2 * x[1], 2 * x[2], x[3], w[0], w[1], w[2]);
    double *large = new_doubles(s.n * s.h * s.w * s.i);

    for (int64_t k = 0; k < s.n * s.h * s.w * s.i; k++) {
        const int64_t i = k % s.i, ix = k / s.i % s.w, iy = k / s.i / s.w % s.h, n = k / s.i / s.w / s.h;
        large[k] = in[0][((n * x[1] + iy / 2) * x[2] + ix / 2) * s.i + i];
    }
    for (int64_t k = 0; k < s.n * s.oh * s.ow * s.o; k++)
        y[k] = in[2][k % s.o];
    conv_terms(c, s, 0, large, in[1], y);
    free(large);
}

static ag_tensor *refuse_conv(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_conv2d(ctx, in[0], ag_slice(ctx, in[1], 3, 0, 1), NULL, conv_opts(c));
}

static ag_tensor *refuse_conv_pads(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    ag_conv_opts opts = conv_opts(c);

    opts.pad_left = -1;
    return ag_conv2d(ctx, in[0], in[1], NULL, opts);
}

static ag_tensor *refuse_conv_kernel(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    ag_conv_opts opts = conv_opts(c);

    opts.dilation = 50;
    return ag_conv2d(ctx, in[0], in[1], NULL, opts);
}

static ag_tensor *like(ag_ctx *ctx, int64_t h, int64_t w)
{
    return ag_full(ctx, AG_STEP, 0, 4, (int64_t[]){1, h, w, 1});
}

static ag_tensor *build_conv_data(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_conv2d_backward_data(ctx, in[0], in[1], conv_opts(c), like(ctx, c->i[6], c->i[7]));
}

static void define_conv_data(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims, *w = c->in[1].dims;
    const conv_sizes s = sizes(c, d[0], c->i[6], c->i[7], w[3], w[0], w[1], w[2]);

    memset(y, 0, (size_t)(s.n * s.h * s.w * s.i) * sizeof *y);
    conv_terms(c, s, 1, y, in[1], in[0]);
}

static ag_tensor *refuse_conv_data(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_conv2d_backward_data(ctx, in[0], in[1], conv_opts(c), like(ctx, 50, 50));
}

static ag_tensor *build_conv_weights(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_conv2d_backward_weights(ctx, in[0], in[1], conv_opts(c), like(ctx, c->i[6], c->i[7]));
}

static void define_conv_weights(double *y, double *const *in, const op_case *c)
{
    const int64_t *d = c->in[0].dims, *x = c->in[1].dims;
    const conv_sizes s = sizes(c, x[0], x[1], x[2], x[3], d[3], c->i[6], c->i[7]);

    memset(y, 0, (size_t)(s.o * s.kh * s.kw * s.i) * sizeof *y);
    conv_terms(c, s, 2, in[1], y, in[0]);
}

static ag_tensor *refuse_conv_weights(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_conv2d_backward_weights(ctx, in[0], in[1], conv_opts(c), like(ctx, 50, 50));
}

#define CONV(text, x, w, ...)                                                                     \
    {.name = "conv2d " text, .in = {{4, x}, {4, w}}, .build = build_conv, .define = define_conv,  \
     .refuse = refuse_conv, .i = {__VA_ARGS__}}
#define DIMS(...) {__VA_ARGS__}

static const op_case product_cases[] = {
    MATMUL("", 0, 0, {2, {5, 7}}, {2, {7, 3}}),
    MATMUL("a transposed", 1, 0, {2, {7, 5}}, {2, {7, 3}}),
    MATMUL("b transposed", 0, 1, {2, {5, 7}}, {2, {3, 7}}),
    MATMUL("both transposed", 1, 1, {2, {7, 5}}, {2, {3, 7}}),
    MATMUL("batch", 0, 0, {3, {3, 5, 2}}, {3, {3, 2, 7}}),
    MATMUL("batch a transposed", 1, 0, {4, {2, 3, 2, 5}}, {4, {2, 3, 2, 7}}),
    MATMUL("batch b transposed", 0, 1, {4, {2, 3, 5, 2}}, {4, {2, 3, 7, 2}}),
    MATMUL("batch both transposed", 1, 1, {3, {3, 2, 5}}, {3, {3, 7, 2}}),
    MATMUL("batch by one", 0, 0, {3, {3, 5, 2}}, {2, {2, 7}}),
    MATMUL("batch by one transposed", 0, 1, {3, {3, 5, 2}}, {2, {7, 2}}),
    MATMUL("batch transposed by one", 1, 0, {3, {3, 2, 5}}, {2, {2, 7}}),
    MATMUL("batch transposed by one transposed", 1, 1, {3, {3, 2, 5}}, {2, {7, 2}}),
    MATMUL("one by batch", 0, 0, {2, {5, 2}}, {3, {3, 2, 7}}),
    MATMUL("one transposed by batch", 1, 1, {2, {2, 5}}, {3, {3, 7, 2}}),
    MATMUL("f32 by bf16", 0, 0, {2, {5, 7}}, {2, {7, 3}, .keep_f32 = true}),
    {.name = "linear", .in = {{3, {2, 3, 7}}, {2, {5, 7}}, {1, {5}}}, .build = build_linear,
     .define = define_linear, .refuse = refuse_linear},
    {.name = "linear plus", .in = {{3, {2, 3, 7}}, {2, {5, 7}}, {1, {5}}, {3, {2, 3, 5}}},
     .build = build_linear_plus, .define = define_linear_plus, .refuse = refuse_linear_plus},
    {.name = "linear without bias", .in = {{2, {3, 7}}, {2, {5, 7}}}, .build = build_linear,
     .define = define_linear, .refuse = refuse_linear_bias},
    {.name = "linear of one row", .in = {{1, {7}}, {2, {5, 7}}, {1, {5}}}, .build = build_linear,
     .define = define_linear},
    {.name = "linear with f32 weights",
     .in = {{3, {2, 3, 7}}, {2, {5, 7}, .keep_f32 = true}, {1, {5}, .keep_f32 = true}},
     .build = build_linear, .define = define_linear},
    {.name = "conv2d bias", .in = {{4, {2, 5, 4, 3}}, {4, {2, 3, 3, 3}}, {1, {2}}},
     .build = build_conv, .define = define_conv, .refuse = refuse_conv_pads,
     .i = {1, 1, 1, 1, 1, 1}},
    {.name = "conv2d with f32 weights",
     .in = {{4, {2, 5, 4, 3}}, {4, {2, 3, 3, 3}, .keep_f32 = true}, {1, {2}, .keep_f32 = true}},
     .build = build_conv, .define = define_conv, .refuse = refuse_conv_kernel,
     .i = {0, 0, 1, 1, 1, 1}},
    {.name = "conv2d plus", .in = {{4, {2, 5, 4, 3}}, {4, {2, 3, 3, 3}}, {1, {2}}, {4, {2, 5, 4, 2}}},
     .build = build_conv_plus, .define = define_conv_plus, .refuse = refuse_conv_plus, .i = {1, 1, 1, 1, 1, 1}},
    {.name = "conv2d enlarged", .in = {{4, {2, 5, 4, 3}}, {4, {2, 3, 2, 3}}, {1, {2}}},
     .build = build_enlarged, .define = define_enlarged, .i = {2, 1, 1, 1, 0, 1}},
    CONV("1x1", DIMS(2, 3, 5, 3), DIMS(4, 1, 1, 3), 1, 1),
    CONV("stride 2", DIMS(1, 7, 6, 2), DIMS(3, 3, 3, 2), 2, 1, 1, 1, 1, 1),
    CONV("stride 2 padded below", DIMS(2, 6, 5, 2), DIMS(2, 3, 3, 2), 2, 1, 0, 1, 0, 1),
    CONV("dilated", DIMS(1, 6, 7, 2), DIMS(2, 3, 2, 2), 1, 2, 2, 2, 1, 1),
    CONV("oblong", DIMS(1, 5, 6, 3), DIMS(2, 1, 4, 3), 1, 1, 0, 0, 3, 0),
    CONV("3x3 of 8 channels", DIMS(1, 5, 4, 8), DIMS(8, 3, 3, 8), 1, 1, 1, 1, 1, 1),
    {.name = "conv2d_backward_data", .in = {{4, {2, 5, 4, 2}}, {4, {2, 3, 3, 3}}},
     .build = build_conv_data, .define = define_conv_data, .refuse = refuse_conv_data,
     .i = {1, 1, 1, 1, 1, 1, 5, 4}},
    {.name = "conv2d_backward_data stride 2", .in = {{4, {1, 3, 3, 2}}, {4, {2, 3, 3, 3}}},
     .build = build_conv_data, .define = define_conv_data, .refuse = refuse_conv_data,
     .i = {2, 1, 1, 1, 1, 1, 6, 5}},
    {.name = "conv2d_backward_weights", .in = {{4, {2, 5, 4, 2}}, {4, {2, 5, 4, 3}}},
     .build = build_conv_weights, .define = define_conv_weights, .refuse = refuse_conv_weights,
     .i = {1, 1, 1, 1, 1, 1, 3, 3}},
    {.name = "conv2d_backward_weights stride 2", .in = {{4, {1, 3, 3, 2}}, {4, {1, 6, 5, 3}}},
     .build = build_conv_weights, .define = define_conv_weights, .refuse = refuse_conv_weights,
     .i = {2, 1, 1, 1, 1, 1, 3, 3}},
};

#endif /* TESTS_OPS_PRODUCTS_H */
