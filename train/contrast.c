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

/* f32 [n,n], 1 on the diagonal, by ops alone: rows of n + 1 values that begin with a 1, read as rows of n. */
static ag_tensor *identity(ag_ctx *ctx, int64_t n)
{
    ag_tensor *ones = ag_full(ctx, AG_STEP, 1.0, 2, (int64_t[]){n, 1});
    ag_tensor *rows = ag_concat(ctx, ones, ag_full(ctx, AG_STEP, 0.0, 2, (int64_t[]){n, n}), 1);

    rows = ag_slice(ctx, ag_reshape(ctx, rows, 1, (int64_t[]){-1}), 0, 0, n * n);
    return ag_reshape(ctx, rows, 2, (int64_t[]){n, n});
}

ag_tensor *train_contrast(ag_ctx *ctx, ag_tensor *prediction, ag_tensor *target, double tau)
{
    const ag_scope scope = ag_scope_open(ctx);
    int64_t n;
    ag_tensor *z, *s, *same, *others, *positive;

    if (!prediction || !target)
        return NULL;
    n = 2 * ag_dim(prediction, 0);
    if (n == 2)
        return ag_full(ctx, AG_STEP, 0.0, 0, NULL);
    z = ag_concat(ctx, by_channel(ctx, prediction), by_channel(ctx, target), 1);
    z = directions(ctx, z);
    s = ag_scale(ctx, ag_matmul(ctx, z, z, false, true), 1.0 / tau); /* [C,n,n], at most 1/tau */
    same = identity(ctx, n);
    others = ag_sum(ctx, ag_mul(ctx, ag_exp(ctx, s), ag_affine(ctx, same, -1.0, 1.0)), 1u << 2, false);
    same = ag_concat(ctx, ag_slice(ctx, same, 0, n / 2, n / 2), ag_slice(ctx, same, 0, 0, n / 2), 0); /* the partner */
    positive = ag_sum(ctx, ag_mul(ctx, s, same), 1u << 2, false);
    return ag_scope_close(ctx, scope, ag_mean(ctx, ag_sub(ctx, ag_log(ctx, others), positive), AG_ALL_AXES, false));
}
