/* layout.h - cases of ops that move and add up elements; see harness.h. */
#ifndef TESTS_OPS_LAYOUT_H
#define TESTS_OPS_LAYOUT_H

#include "tests/ops/harness.h"

/* Squared first in all of these, so that the second order is not zero everywhere. */

static ag_tensor *build_reshape(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_reshape(ctx, ag_square(ctx, in[0]), 3, (int64_t[]){3, -1, 2});
}

static void define_reshape(double *y, double *const *in, const op_case *c)
{
    for (int64_t i = 0; i < case_numel(&c->in[0]); i++)
        y[i] = in[0][i] * in[0][i];
}

static ag_tensor *refuse_reshape(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_reshape(ctx, in[0], 2, (int64_t[]){7, -1});
}

/* --- permute: c->i the axes ------------------------------------------------------------------- */

static ag_tensor *build_permute(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_permute(ctx, ag_square(ctx, in[0]), c->i);
}

static void define_permute(double *y, double *const *in, const op_case *c)
{
    const case_input *s = &c->in[0];

    for (int64_t at = 0; at < case_numel(s); at++) {
        int64_t index[AG_MAX_DIMS], rest = at, to = 0;
        for (int i = s->n_dims - 1; i >= 0; i--) {
            index[i] = rest % s->dims[i];
            rest /= s->dims[i];
        }
        for (int j = 0; j < s->n_dims; j++)
            to = to * s->dims[c->i[j]] + index[c->i[j]];
        y[to] = in[0][at] * in[0][at];
    }
}

static ag_tensor *refuse_permute(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_permute(ctx, in[0], (int[AG_MAX_DIMS]){0, 1, 1});
}

/* --- slice and its adjoint: c->i = {axis, start, length} -------------------------------------- */

static ag_tensor *build_slice(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_slice(ctx, ag_square(ctx, in[0]), c->i[0], c->i[1], c->i[2]);
}

/* [outer][size][inner] around axis c->i[0]. */
static void around(const case_input *s, int axis, int64_t *outer, int64_t *size, int64_t *inner)
{
    *outer = *inner = 1;
    *size = s->dims[axis];
    for (int i = 0; i < s->n_dims; i++)
        if (i != axis)
            *(i < axis ? outer : inner) *= s->dims[i];
}

static void define_slice(double *y, double *const *in, const op_case *c)
{
    int64_t outer, size, inner;

    around(&c->in[0], c->i[0] < 0 ? c->in[0].n_dims + c->i[0] : c->i[0], &outer, &size, &inner);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < c->i[2]; k++)
            for (int64_t i = 0; i < inner; i++) {
                const double x = in[0][(o * size + c->i[1] + k) * inner + i];
                *y++ = x * x;
            }
}

static ag_tensor *refuse_slice(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_slice(ctx, in[0], c->i[0], 2, 1000);
}

static ag_tensor *build_unslice(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_unslice(ctx, ag_square(ctx, in[0]), c->i[0], c->i[1], c->i[2]);
}

static void define_unslice(double *y, double *const *in, const op_case *c)
{
    int64_t outer, size, inner;

    around(&c->in[0], c->i[0], &outer, &size, &inner);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < c->i[2]; k++)
            for (int64_t i = 0; i < inner; i++) {
                const int64_t from = k - c->i[1];
                const bool inside = from >= 0 && from < size;
                const double x = inside ? in[0][(o * size + from) * inner + i] : 0;
                *y++ = x * x;
            }
}

static ag_tensor *refuse_unslice(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_unslice(ctx, in[0], c->i[0], 5, 5);
}

/* --- concat: c->i[0] the axis ----------------------------------------------------------------- */

static ag_tensor *build_concat(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_concat(ctx, ag_square(ctx, in[0]), ag_exp(ctx, in[1]), c->i[0]);
}

static void define_concat(double *y, double *const *in, const op_case *c)
{
    int64_t outer, n_a, n_b, inner;

    around(&c->in[1], c->i[0], &outer, &n_b, &inner);
    around(&c->in[0], c->i[0], &outer, &n_a, &inner);
    for (int64_t o = 0; o < outer; o++) {
        for (int64_t i = 0; i < n_a * inner; i++)
            *y++ = in[0][o * n_a * inner + i] * in[0][o * n_a * inner + i];
        for (int64_t i = 0; i < n_b * inner; i++)
            *y++ = exp(in[1][o * n_b * inner + i]);
    }
}

static ag_tensor *refuse_concat(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return ag_concat(ctx, in[0], in[1], c->i[0] ? 0 : 1);
}

/* --- broadcast: to [2,3,5] -------------------------------------------------------------------- */

static ag_tensor *build_broadcast(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_broadcast(ctx, ag_square(ctx, in[0]), 3, (int64_t[]){2, 3, 5});
}

static void define_broadcast(double *y, double *const *in, const op_case *c)
{
    const case_input *s = &c->in[0];
    const int64_t dims[3] = {2, 3, 5};

    for (int64_t at = 0; at < 30; at++) {
        const int64_t index[3] = {at / 15, at / 5 % 3, at % 5};
        int64_t from = 0;
        for (int i = 3 - s->n_dims; i < 3; i++) {
            const int64_t size = s->dims[i - (3 - s->n_dims)];
            from = from * size + (size == dims[i] ? index[i] : 0);
        }
        y[at] = in[0][from] * in[0][from];
    }
}

static ag_tensor *refuse_broadcast(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_broadcast(ctx, in[0], 3, (int64_t[]){2, 4, 7});
}

/* --- sum, mean: c->i = {axes, keep, is a mean} ------------------------------------------------ */

static ag_tensor *build_sum(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    ag_tensor *x = ag_square(ctx, in[0]);

    return c->i[2] ? ag_mean(ctx, x, (unsigned)c->i[0], c->i[1])
                   : ag_sum(ctx, x, (unsigned)c->i[0], c->i[1]);
}

static void define_sum(double *y, double *const *in, const op_case *c)
{
    const case_input *s = &c->in[0];
    int64_t n_out = 1;

    for (int i = 0; i < s->n_dims; i++)
        n_out *= (unsigned)c->i[0] >> i & 1 ? 1 : s->dims[i];
    for (int64_t i = 0; i < n_out; i++)
        y[i] = 0;
    for (int64_t at = 0; at < case_numel(s); at++) {
        int64_t index[AG_MAX_DIMS], rest = at, to = 0;
        for (int i = s->n_dims - 1; i >= 0; i--) {
            index[i] = rest % s->dims[i];
            rest /= s->dims[i];
        }
        for (int i = 0; i < s->n_dims; i++)
            if (!((unsigned)c->i[0] >> i & 1))
                to = to * s->dims[i] + index[i];
        y[to] += in[0][at] * in[0][at] * (c->i[2] ? (double)n_out / (double)case_numel(s) : 1.0);
    }
}

static ag_tensor *refuse_sum(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_sum(ctx, in[0], 1u << 7, false);
}

#define SUM(text, mean, axes, keep)                                                                \
    {.name = text, .in = {{4, {3, 2, 5, 7}}}, .build = build_sum, .define = define_sum,            \
     .refuse = refuse_sum, .i = {(int)(axes), keep, mean}}

/* --- embedding and its adjoint ---------------------------------------------------------------- */

static ag_tensor *build_embedding(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_embedding(ctx, ag_square(ctx, in[0]), in[1]);
}

static void define_embedding(double *y, double *const *in, const op_case *c)
{
    const int64_t d = c->in[0].dims[1];

    for (int64_t i = 0; i < case_numel(&c->in[1]); i++)
        for (int64_t k = 0; k < d; k++) {
            const double x = in[0][(int64_t)in[1][i] * d + k];
            *y++ = x * x;
        }
}

/* An id that is not in the table. */
static ag_tensor *refuse_embedding(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return ag_embedding(ctx, ag_slice(ctx, in[0], 0, 0, 1), in[1]);
}

static ag_tensor *build_embedding_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    return op_embedding_backward(ctx, ag_square(ctx, in[0]), in[1], c->i[0]);
}

static void define_embedding_backward(double *y, double *const *in, const op_case *c)
{
    const int64_t d = c->in[0].dims[c->in[0].n_dims - 1];

    memset(y, 0, (size_t)(c->i[0] * d) * sizeof *y);
    for (int64_t i = 0; i < case_numel(&c->in[1]); i++)
        for (int64_t k = 0; k < d; k++)
            y[(int64_t)in[1][i] * d + k] += in[0][i * d + k] * in[0][i * d + k];
}

static ag_tensor *refuse_embedding_backward(ag_ctx *ctx, ag_tensor **in, const op_case *c)
{
    (void)c;
    return op_embedding_backward(ctx, in[0], in[1], 1);
}

static const op_case layout_cases[] = {
    {.name = "reshape", .in = {{2, {5, 6}}}, .build = build_reshape, .define = define_reshape,
     .refuse = refuse_reshape},
    {.name = "permute 3", .in = {{3, {3, 5, 7}}}, .build = build_permute, .define = define_permute,
     .refuse = refuse_permute, .i = {2, 0, 1}},
    {.name = "permute heads", .in = {{4, {2, 3, 2, 5}}}, .build = build_permute,
     .define = define_permute, .i = {0, 2, 1, 3}},
    {.name = "slice outer", .in = {{3, {5, 3, 2}}}, .build = build_slice, .define = define_slice,
     .refuse = refuse_slice, .i = {0, 1, 3}},
    {.name = "slice middle", .in = {{3, {2, 5, 3}}}, .build = build_slice, .define = define_slice,
     .refuse = refuse_slice, .i = {1, 2, 2}},
    {.name = "slice last", .in = {{3, {2, 3, 7}}}, .build = build_slice, .define = define_slice,
     .refuse = refuse_slice, .i = {-1, 3, 4}},
    {.name = "unslice outer", .in = {{2, {3, 5}}}, .build = build_unslice, .define = define_unslice,
     .refuse = refuse_unslice, .i = {0, 2, 7}},
    {.name = "unslice last", .in = {{2, {3, 5}}}, .build = build_unslice, .define = define_unslice,
     .refuse = refuse_unslice, .i = {1, 1, 7}},
    {.name = "concat outer", .in = {{2, {2, 5}}, {2, {3, 5}}}, .build = build_concat,
     .define = define_concat, .refuse = refuse_concat, .i = {0}},
    {.name = "concat last", .in = {{3, {2, 3, 5}}, {3, {2, 3, 4}}}, .build = build_concat,
     .define = define_concat, .refuse = refuse_concat, .i = {2}},
    {.name = "broadcast same", .in = {{3, {2, 3, 5}}}, .build = build_broadcast,
     .define = define_broadcast, .refuse = refuse_broadcast},
    {.name = "broadcast row", .in = {{1, {5}}}, .build = build_broadcast,
     .define = define_broadcast, .refuse = refuse_broadcast},
    {.name = "broadcast middle", .in = {{3, {2, 1, 5}}}, .build = build_broadcast,
     .define = define_broadcast, .refuse = refuse_broadcast},
    {.name = "broadcast column", .in = {{2, {3, 1}}}, .build = build_broadcast,
     .define = define_broadcast, .refuse = refuse_broadcast},
    SUM("sum of all", 0, AG_ALL_AXES, 0),
    SUM("sum of rows", 0, 8, 0),
    SUM("sum of rows kept", 0, 8, 1),
    SUM("sum of leading axes", 0, 7, 0),
    SUM("sum of the middle", 0, 6, 1),
    SUM("sum of two apart", 0, 5, 0),
    SUM("sum of none", 0, 0, 0),
    SUM("mean of all", 1, AG_ALL_AXES, 0),
    SUM("mean of two apart", 1, 10, 1),
    {.name = "embedding", .in = {{2, {7, 5}}, {2, {2, 4}, 0, 7, .kind = IDS}},
     .build = build_embedding, .define = define_embedding, .refuse = refuse_embedding},
    {.name = "embedding repeated", .in = {{2, {2, 3}}, {1, {9}, 0, 2, .kind = IDS}},
     .build = build_embedding, .define = define_embedding, .refuse = refuse_embedding},
    {.name = "embedding_backward", .in = {{3, {2, 4, 5}}, {2, {2, 4}, 0, 7, .kind = IDS}},
     .build = build_embedding_backward, .define = define_embedding_backward,
     .refuse = refuse_embedding_backward, .i = {7}},
};

#endif /* TESTS_OPS_LAYOUT_H */
