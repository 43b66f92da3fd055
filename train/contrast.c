/* contrast.c - see contrast.h. */
#include "train/contrast.h"

#include <math.h>

#include "autograd/ops.h"

static const double SHORTEST = 1e-8; /* length of a vector */

/* [B,h,w,C] to [C,B,h*w]. */
static ag_tensor *by_channel(ag_ctx *ctx, ag_tensor *x)
{
    const int64_t B = ag_dim(x, 0), C = ag_dim(x, 3), dims[] = {B, ag_dim(x, 1) * ag_dim(x, 2), C};

    return ag_permute(ctx, ag_reshape(ctx, x, 3, dims), (int[]){2, 0, 1});
}

/* Vectors of length 1 along the last axis. */
static ag_tensor *directions(ag_ctx *ctx, ag_tensor *z)
{
    ag_tensor *squares = ag_sum(ctx, ag_square(ctx, z), 1u << 2, true);

    return ag_mul(ctx, z, ag_rsqrt(ctx, ag_clamp(ctx, squares, SHORTEST * SHORTEST, INFINITY)));
}

/* f32 [n,n]: 1 where (a, b) is a pair of one kind, else 0. */
typedef bool (*pair_kind)(int64_t a, int64_t b, int64_t n);

static bool is_other(int64_t a, int64_t b, int64_t n)
{
    (void)n;
    return a != b;
}

static bool is_positive(int64_t a, int64_t b, int64_t n)
{
    return b == (a + n / 2) % n;
}

static ag_tensor *pairs(ag_ctx *ctx, pair_kind kind, int64_t n)
{
    float *values = ag_new(ctx, (size_t)(n * n), sizeof *values, "pairs of rows");
    ag_tensor *t = NULL;

    if (values) {
        for (int64_t i = 0; i < n * n; i++)
            values[i] = kind(i / n, i % n, n) ? 1.0f : 0.0f;
        t = ag_from_f32(ctx, values, 2, (int64_t[]){n, n});
    }
    ag_delete(values);
    return t;
}

ag_tensor *train_contrast(ag_ctx *ctx, ag_tensor *prediction, ag_tensor *target, double tau)
{
    const ag_scope scope = ag_scope_open(ctx);
    int64_t n;
    ag_tensor *z, *s, *others, *positive;

    if (!prediction || !target)
        return NULL;
    n = 2 * ag_dim(prediction, 0);
    if (n == 2)
        return ag_scalar(ctx, 0.0);
    z = ag_concat(ctx, by_channel(ctx, prediction), by_channel(ctx, target), 1);
    z = directions(ctx, z);
    s = ag_scale(ctx, ag_matmul(ctx, z, z, false, true), 1.0 / tau); /* [C,n,n], at most 1/tau */
    others = ag_sum(ctx, ag_mul(ctx, ag_exp(ctx, s), pairs(ctx, is_other, n)), 1u << 2, false);
    positive = ag_sum(ctx, ag_mul(ctx, s, pairs(ctx, is_positive, n)), 1u << 2, false);
    return ag_scope_close(ctx, scope, ag_mean(ctx, ag_sub(ctx, ag_log(ctx, others), positive), AG_ALL_AXES, false));
}
