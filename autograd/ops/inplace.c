/* inplace.c - ops that change their first input: sums into a buffer, scaling, averages.
 *
 * They have no outputs and no gradient, and refuse an input that asks for gradients while recording
 * is on: the tape would not know that a value it keeps has changed. What changes from step to step
 * (rates, corrections, factors) comes in tensors, so that a recorded sequence of kernels can be
 * repeated.
 */
#include <math.h>

#include "autograd/cpu/elementwise.h"
#include "autograd/cpu/optimizer.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status check_scalar(const ag_call *call, int i)
{
    if (ag_numel(call->in[i]) != 1 || ag_dtype_of(call->in[i]) != AG_F32)
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want one f32 number, got %s", call->op->name,
                       OP_SHAPE(call->in[i]));
    return AG_OK;
}

/* In-place ops read and write input 0 once, and read the others. */
static void in_place_cost(const ag_call *call, ag_cost *cost)
{
    cost->bytes += (double)ag_nbytes(call->in[0]);
    cost->flops = (double)ag_numel(call->in[0]);
    cost->scratch = op_run_f32_scratch(call);
}

/* --- add_: y += x ----------------------------------------------------------------------------- */

static ag_status add_shape(ag_call *call)
{
    if (op_check_target(call) != AG_OK || op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    return op_check_dims(call, 1, ag_ndim(call->in[0]), ag_dims(call->in[0]));
}

static ag_status add_kernel(ag_call *call, const op_floats *f)
{
    cpu_add_into(ag_data(call->in[0]), f->in[1], ag_numel(call->in[0]), op_threads(call),
                 op_isa(call));
    return AG_OK;
}

static ag_status add_cpu(ag_call *call)
{
    return op_run_f32(call, add_kernel);
}

const ag_op ag_op_add_ = {
    .name = "add_",
    .n_in = 2,
    .shape = add_shape,
    .run = {[AG_CPU] = add_cpu},
    .cost = in_place_cost,
};

ag_tensor *ag_add_(ag_ctx *ctx, ag_tensor *y, ag_tensor *x)
{
    return ag_apply(ctx, &ag_op_add_, (ag_tensor *[]){y, x}, NULL);
}

/* --- scale_: y *= factor ---------------------------------------------------------------------- */

static ag_status scale_shape(ag_call *call)
{
    return op_check_target(call) == AG_OK ? check_scalar(call, 1) : ag_status_of(call->ctx);
}

static ag_status scale_cpu(ag_call *call)
{
    cpu_scale_into(ag_data(call->in[0]), *(const float *)ag_data(call->in[1]),
                   ag_numel(call->in[0]), op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_scale_ = {
    .name = "scale_",
    .n_in = 2,
    .shape = scale_shape,
    .run = {[AG_CPU] = scale_cpu},
    .cost = in_place_cost,
};

ag_tensor *ag_scale_(ag_ctx *ctx, ag_tensor *y, ag_tensor *factor)
{
    return ag_apply(ctx, &ag_op_scale_, (ag_tensor *[]){y, factor}, NULL);
}

/* --- fill_: y = value ------------------------------------------------------------------------- */

static ag_status fill_shape(ag_call *call)
{
    return op_check_target(call);
}

static ag_status fill_cpu(ag_call *call)
{
    const op_fill_attr *a = call->attr;

    cpu_fill(ag_data(call->in[0]), (float)a->value, ag_numel(call->in[0]), op_threads(call),
             op_isa(call));
    return AG_OK;
}

const ag_op ag_op_fill_ = {
    .name = "fill_",
    .n_in = 1,
    .attr_size = sizeof(op_fill_attr),
    .shape = fill_shape,
    .run = {[AG_CPU] = fill_cpu},
};

ag_tensor *ag_fill_(ag_ctx *ctx, ag_tensor *y, double value)
{
    return ag_apply(ctx, &ag_op_fill_, &y, &(op_fill_attr){value});
}

/* --- lerp_: y += weight (x - y) --------------------------------------------------------------- */

static ag_status lerp_shape(ag_call *call)
{
    const ag_tensor *y = call->in[0];

    if (op_check_target(call) != AG_OK || op_check_floats(call, 0) != AG_OK ||
        op_check_dims(call, 1, ag_ndim(y), ag_dims(y)) != AG_OK)
        return ag_status_of(call->ctx);
    return check_scalar(call, 2);
}

static ag_status lerp_kernel(ag_call *call, const op_floats *f)
{
    cpu_lerp_into(ag_data(call->in[0]), f->in[1], f->in[2][0], ag_numel(call->in[0]),
                  op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status lerp_cpu(ag_call *call)
{
    return op_run_f32(call, lerp_kernel);
}

const ag_op ag_op_lerp_ = {
    .name = "lerp_",
    .n_in = 3,
    .shape = lerp_shape,
    .run = {[AG_CPU] = lerp_cpu},
    .cost = in_place_cost,
};

ag_tensor *ag_lerp_(ag_ctx *ctx, ag_tensor *y, ag_tensor *x, ag_tensor *weight)
{
    return ag_apply(ctx, &ag_op_lerp_, (ag_tensor *[]){y, x, weight}, NULL);
}

/* --- sumsq_: sums[index] = sum of x^2 ----------------------------------------------------------- */

static ag_status check_doubles(const ag_call *call, int i, int n_dims)
{
    if (ag_dtype_of(call->in[i]) != AG_F64 || ag_ndim(call->in[i]) != n_dims || ag_numel(call->in[i]) < 1)
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want f64 numbers with %d axes for input %d, got %s", call->op->name,
                       n_dims, i, OP_SHAPE(call->in[i]));
    return AG_OK;
}

static ag_status sumsq_shape(ag_call *call)
{
    const op_sumsq_attr *a = call->attr;
    const ag_tensor *sums = call->in[0];

    if (op_check_in_place(call) != AG_OK || op_check_floats(call, 1u << 0) != AG_OK ||
        check_doubles(call, 0, 1) != AG_OK)
        return ag_status_of(call->ctx);
    if (a->index < 0 || a->index >= ag_dim(sums, 0))
        return ag_fail(call->ctx, AG_ESHAPE, "sumsq_: %s has no slot %lld", OP_SHAPE(sums), (long long)a->index);
    return AG_OK;
}

static size_t sumsq_workspace(const ag_call *call)
{
    return op_round_scratch(cpu_sumsq_scratch(ag_numel(call->in[1])));
}

static ag_status sumsq_kernel(ag_call *call, const op_floats *f)
{
    const op_sumsq_attr *a = call->attr;
    const size_t bytes = sumsq_workspace(call);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    ((double *)ag_data(call->in[0]))[a->index] =
        cpu_sumsq(f->in[1], ag_numel(call->in[1]), scratch, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status sumsq_cpu(ag_call *call)
{
    return op_run_f32(call, sumsq_kernel);
}

static void sumsq_cost(const ag_call *call, ag_cost *cost)
{
    cost->bytes = (double)ag_nbytes(call->in[1]);
    cost->flops = 2.0 * (double)ag_numel(call->in[1]);
    cost->scratch = op_run_f32_scratch(call) + sumsq_workspace(call);
}

const ag_op ag_op_sumsq_ = {
    .name = "sumsq_",
    .n_in = 2,
    .attr_size = sizeof(op_sumsq_attr),
    .shape = sumsq_shape,
    .run = {[AG_CPU] = sumsq_cpu},
    .cost = sumsq_cost,
};

ag_tensor *ag_sumsq_(ag_ctx *ctx, ag_tensor *sums, ag_tensor *x, int64_t index)
{
    return ag_apply(ctx, &ag_op_sumsq_, (ag_tensor *[]){sums, x}, &(op_sumsq_attr){index});
}

/* --- clip_: a column of scalars, by the norm ----------------------------------------------------- */

static ag_status clip_shape(ag_call *call)
{
    const op_clip_attr *a = call->attr;
    const ag_tensor *scalars = call->in[0];

    if (op_check_in_place(call) != AG_OK || check_doubles(call, 0, 2) != AG_OK || check_doubles(call, 1, 1) != AG_OK ||
        check_doubles(call, 2, 1) != AG_OK)
        return ag_status_of(call->ctx);
    if (a->column < 0 || a->column >= ag_dim(scalars, 1))
        return ag_fail(call->ctx, AG_ESHAPE, "clip_: %s has no column %lld", OP_SHAPE(scalars), (long long)a->column);
    return AG_OK;
}

static double clip_factor(double norm, double max_norm)
{
    if (!isfinite(norm))
        return NAN;
    return max_norm > 0.0 ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

static ag_status clip_cpu(ag_call *call)
{
    const op_clip_attr *a = call->attr;
    const double *sums = ag_data(call->in[2]);
    const int64_t columns = ag_dim(call->in[0], 1);
    double *scale = (double *)ag_data(call->in[0]) + a->column, *norm = ag_data(call->in[1]);
    double total = 0.0, factor;

    for (int64_t i = 0; i < ag_numel(call->in[2]); i++)
        total += sums[i];
    norm[0] = scale[0] * sqrt(total);
    factor = clip_factor(norm[0], a->max_norm);
    for (int64_t k = 0; k < ag_dim(call->in[0], 0); k++)
        scale[k * columns] *= factor;
    return AG_OK;
}

const ag_op ag_op_clip_ = {
    .name = "clip_",
    .n_in = 3,
    .attr_size = sizeof(op_clip_attr),
    .shape = clip_shape,
    .run = {[AG_CPU] = clip_cpu},
};

ag_tensor *ag_clip_(ag_ctx *ctx, ag_tensor *scalars, ag_tensor *norm, ag_tensor *sums, int64_t column,
                    double max_norm)
{
    return ag_apply(ctx, &ag_op_clip_, (ag_tensor *[]){scalars, norm, sums},
                    &(op_clip_attr){.column = column, .max_norm = max_norm});
}

/* --- loss_scale_: after an update ----------------------------------------------------------------- */

static ag_status loss_scale_shape(ag_call *call)
{
    if (op_check_in_place(call) != AG_OK || check_doubles(call, 0, 1) != AG_OK || check_doubles(call, 1, 1) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_numel(call->in[0]) != 3)
        return ag_fail(call->ctx, AG_ESHAPE, "loss_scale_: want scale, good and bad updates, got %s",
                       OP_SHAPE(call->in[0]));
    return AG_OK;
}

static ag_status loss_scale_cpu(ag_call *call)
{
    const op_loss_scale_attr *a = call->attr;
    const double *norm = ag_data(call->in[1]);
    double *s = ag_data(call->in[0]);

    if (!isfinite(norm[0])) {
        s[0] *= a->backoff;
        s[1] = 0.0;
        s[2] += 1.0;
    } else if ((s[1] += 1.0) >= (double)a->interval) {
        s[0] = isfinite((float)(s[0] * a->growth)) ? s[0] * a->growth : s[0];
        s[1] = 0.0;
    }
    return AG_OK;
}

const ag_op ag_op_loss_scale_ = {
    .name = "loss_scale_",
    .n_in = 2,
    .attr_size = sizeof(op_loss_scale_attr),
    .shape = loss_scale_shape,
    .run = {[AG_CPU] = loss_scale_cpu},
};

ag_tensor *ag_loss_scale_(ag_ctx *ctx, ag_tensor *scale, ag_tensor *norm, double growth, double backoff,
                          int64_t interval)
{
    return ag_apply(ctx, &ag_op_loss_scale_, (ag_tensor *[]){scale, norm},
                    &(op_loss_scale_attr){.growth = growth, .backoff = backoff, .interval = interval});
}
