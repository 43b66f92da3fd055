/* source.c - tensors made of numbers and not of other activations: time embeddings, normal noise.
 *
 * Neither has a gradient: their inputs are steps and keys.
 */
#include <math.h>
#include <string.h>

#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

/* --- timestep_embedding ----------------------------------------------------------------------- */

static ag_status time_shape(ag_call *call)
{
    const op_time_attr *a = call->attr;
    const ag_tensor *t = call->in[0];

    if (ag_ndim(t) != 1 || ag_dtype_of(t) != AG_F32)
        return ag_fail(call->ctx, AG_ESHAPE, "timestep_embedding: want t [N] f32, got %s",
                       OP_SHAPE(t));
    if (a->dim < 2 || (double)(a->dim / 2) <= a->shift)
        return ag_fail(call->ctx, AG_EINVAL, "timestep_embedding: %lld is too small a size",
                       (long long)a->dim);
    ag_out(call, AG_F32, 2, (int64_t[]){ag_dim(t, 0), a->dim});
    return AG_OK;
}

/* freq_k = 10000^(-k / (dim/2 - shift)). Frequency and angle are rounded to f32, as the published
 * programs have them: at t = 999 the angle's rounding is what one sees. An odd dim ends in 0. */
static ag_status time_cpu(ag_call *call)
{
    const op_time_attr *a = call->attr;
    const float *t = ag_data(call->in[0]);
    float *y = ag_data(call->out[0]);
    const int64_t n = ag_dim(call->in[0], 0), half = a->dim / 2;

    for (int64_t i = 0; i < n; i++, y += a->dim) {
        float *sine = y + (a->flip ? half : 0), *cosine = y + (a->flip ? 0 : half);
        for (int64_t k = 0; k < half; k++) {
            const float exponent =
                (float)(-log(10000.0)) * (float)k / (float)((double)half - a->shift);
            const float angle = t[i] * expf(exponent);
            sine[k] = (float)sin((double)angle);
            cosine[k] = (float)cos((double)angle);
        }
        if (a->dim % 2)
            y[a->dim - 1] = 0.0f;
    }
    return AG_OK;
}

const ag_op ag_op_timestep_embedding = {
    .name = "timestep_embedding",
    .n_in = 1,
    .attr_size = sizeof(op_time_attr),
    .shape = time_shape,
    .run = {[AG_CPU] = time_cpu},
};

ag_tensor *ag_timestep_embedding(ag_ctx *ctx, ag_tensor *t, int64_t dim, bool flip, double shift)
{
    return ag_apply(ctx, &ag_op_timestep_embedding, &t, &(op_time_attr){shift, dim, flip});
}

/* --- normal ----------------------------------------------------------------------------------- */

static ag_status normal_shape(ag_call *call)
{
    const op_normal_attr *a = call->attr;
    const ag_tensor *keys = call->in[0];
    int64_t dims[AG_MAX_DIMS];

    if (ag_ndim(keys) != 2 || ag_dim(keys, 1) != 4 || ag_dtype_of(keys) != AG_I64 ||
        a->n >= AG_MAX_DIMS)
        return ag_fail(call->ctx, AG_ESHAPE, "normal: want keys [N,4] i64 (seed, purpose, step, "
                       "sample), got %s", OP_SHAPE(keys));
    dims[0] = ag_dim(keys, 0);
    memcpy(dims + 1, a->dims, (size_t)a->n * sizeof *dims);
    ag_out(call, AG_F32, a->n + 1, dims);
    return AG_OK;
}

static ag_status normal_cpu(ag_call *call)
{
    const op_normal_attr *a = call->attr;
    const int64_t *key = ag_data(call->in[0]);
    const int64_t rows = ag_dim(call->in[0], 0), size = op_product(a->dims, 0, a->n);
    float *y = ag_data(call->out[0]);

    for (int64_t r = 0; r < rows; r++, key += 4) {
        const ag_draw draw = {(uint64_t)key[0], (uint32_t)key[1], (uint32_t)key[2],
                              (uint32_t)key[3]};
        ag_draw_normals(&draw, y + r * size, size);
    }
    return AG_OK;
}

static void normal_cost(const ag_call *call, ag_cost *cost)
{
    cost->flops = 50.0 * (double)ag_numel(call->out[0]);
}

const ag_op ag_op_normal = {
    .name = "normal",
    .n_in = 1,
    .attr_size = sizeof(op_normal_attr),
    .shape = normal_shape,
    .run = {[AG_CPU] = normal_cpu},
    .cost = normal_cost,
};

ag_tensor *ag_normal(ag_ctx *ctx, ag_tensor *keys, int n_dims, const int64_t *dims)
{
    op_normal_attr a = {.n = n_dims};

    if (n_dims < 0 || n_dims >= AG_MAX_DIMS) {
        ag_fail(ctx, AG_ESHAPE, "normal: a row has 0 to %d axes, not %d", AG_MAX_DIMS - 1, n_dims);
        return NULL;
    }
    if (n_dims)
        memcpy(a.dims, dims, (size_t)n_dims * sizeof *dims);
    return ag_apply(ctx, &ag_op_normal, &keys, &a);
}
