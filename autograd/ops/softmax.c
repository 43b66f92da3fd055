/* softmax.c - y = exp(x - max x) / sum exp(x - max x) over the last axis.
 *
 * Shapes  x [...,C] -> y as x. Dtypes  f32 or bf16; y as x; computed in f32.
 * Keeps   y.
 *
 * Gradient, with D = dL/dy:  dx = y (D - sum_c D y)
 */
#include "autograd/cpu/norm.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status softmax_shape(ag_call *call)
{
    const ag_tensor *x = call->in[0];

    if (op_check_floats(call, 0) != AG_OK ||
        op_check_dims(call, 1, ag_ndim(x), ag_dims(x)) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(x) < 1)
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want [...,C], got a scalar", call->op->name);
    ag_out_like(call, x);
    return AG_OK;
}

static int64_t rows_of(const ag_tensor *x)
{
    return op_product(ag_dims(x), 0, ag_ndim(x) - 1);
}

static ag_status softmax_kernel(ag_call *call, const op_floats *f)
{
    const ag_tensor *x = call->in[0];

    cpu_softmax(f->out[0], f->in[0], rows_of(x), ag_dim(x, -1), op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status softmax_cpu(ag_call *call)
{
    return op_run_f32(call, softmax_kernel);
}

ag_tensor *op_softmax_grad(ag_ctx *ctx, ag_tensor *y, ag_tensor *d)
{
    ag_tensor *dy;

    if (!ag_recording(ctx))
        return ag_apply(ctx, &ag_op_softmax_backward, (ag_tensor *[]){y, d}, NULL);
    dy = ag_mul(ctx, d, y);
    if (!dy)
        return NULL;
    return ag_mul(ctx, y, ag_sub(ctx, d, ag_sum(ctx, dy, 1u << (ag_ndim(dy) - 1), true)));
}

static void softmax_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = op_softmax_grad(ctx, node->out[0], d[0]);
}

static unsigned softmax_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_OUT(0);
}

static void softmax_cost(const ag_call *call, ag_cost *cost)
{
    op_cost_elements(call, cost);
    cost->flops *= 10;
}

const ag_op ag_op_softmax = {
    .name = "softmax",
    .n_in = 1,
    .shape = softmax_shape,
    .run = {[AG_CPU] = softmax_cpu},
    .grad = softmax_grad,
    .saves = softmax_saves,
    .cost = softmax_cost,
};

ag_tensor *ag_softmax(ag_ctx *ctx, ag_tensor *x)
{
    return ag_apply(ctx, &ag_op_softmax, &x, NULL);
}

/* --- the fused backward pass: inputs y, D ----------------------------------------------------- */

static ag_status softmax_backward_kernel(ag_call *call, const op_floats *f)
{
    const ag_tensor *y = call->in[0];

    cpu_softmax_grad(f->out[0], f->in[0], f->in[1], rows_of(y), ag_dim(y, -1), op_threads(call),
                     op_isa(call));
    return AG_OK;
}

static ag_status softmax_backward_cpu(ag_call *call)
{
    return op_run_f32(call, softmax_backward_kernel);
}

const ag_op ag_op_softmax_backward = {
    .name = "softmax_backward",
    .n_in = 2,
    .shape = softmax_shape,
    .run = {[AG_CPU] = softmax_backward_cpu},
    .cost = op_cost_elements,
};
