/* loss.c - one number for each row: the mean over everything but the first axis of f(p - t).
 *
 *   L2         e^2                          f' = 2 e
 *   Huber      2c (sqrt(e^2 + c^2) - c)     f' = 2c e / sqrt(e^2 + c^2)
 *   smooth L1  2 (sqrt(e^2 + c^2) - c)      f' = 2 e / sqrt(e^2 + c^2)
 *
 * Source  kohya-ss/sd-scripts: library/train_util.py (pseudo-Huber; Charbonnier et al. 1994);
 *         huggingface/diffusers has the same.
 * Shapes  p, t [N,...] -> [N]. Dtypes  p, t f32 or bf16 each; the loss f32.
 * Keeps   p and t.
 *
 * Gradient, with D = dL/dy and M elements in a row:  dp = D f'(p - t) / M      dt = -dp
 */
#include "autograd/cpu/elementwise.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status check_inputs(const ag_call *call)
{
    const op_loss_attr *a = call->attr;
    const ag_tensor *p = call->in[0];

    if (a->kind < AG_LOSS_L2 || a->kind > AG_LOSS_SMOOTH_L1)
        return ag_fail(call->ctx, AG_EINVAL, "%s: there is no loss %d", call->op->name, a->kind);
    if (a->kind != AG_LOSS_L2 && !(a->c > 0))
        return ag_fail(call->ctx, AG_EINVAL, "%s: want c above 0, got %g", call->op->name, a->c);
    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(p) < 1 || (ag_numel(p) == 0 && ag_dim(p, 0) > 0))
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want rows [N,...], got %s", call->op->name,
                       OP_SHAPE(p));
    return op_check_dims(call, 1, ag_ndim(p), ag_dims(p));
}

static ag_status loss_shape(ag_call *call)
{
    if (check_inputs(call) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out(call, AG_F32, 1, (int64_t[]){ag_dim(call->in[0], 0)});
    return AG_OK;
}

static int64_t row_size(const ag_tensor *p)
{
    return op_product(ag_dims(p), 1, ag_ndim(p));
}

static ag_status loss_kernel(ag_call *call, const op_floats *f)
{
    const op_loss_attr *a = call->attr;
    const ag_tensor *p = call->in[0];

    cpu_row_loss(f->out[0], (ag_loss_kind)a->kind, f->in[0], f->in[1], ag_dim(p, 0), row_size(p),
                 a->c, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status loss_cpu(ag_call *call)
{
    return op_run_f32(call, loss_kernel);
}

static ag_tensor *composite_grad(ag_ctx *ctx, const ag_node *node, ag_tensor *d)
{
    const op_loss_attr *a = node->attr;
    ag_tensor *p = ag_cast(ctx, node->in[0], AG_F32), *t = ag_cast(ctx, node->in[1], AG_F32);
    ag_tensor *e = ag_sub(ctx, p, t);
    const double factor = a->kind == AG_LOSS_HUBER ? 2.0 * a->c : 2.0;
    int64_t dims[AG_MAX_DIMS] = {ag_dim(node->in[0], 0)};

    for (int i = 1; i < ag_ndim(node->in[0]); i++)
        dims[i] = 1;
    d = ag_reshape(ctx, ag_scale(ctx, d, factor / (double)row_size(node->in[0])),
                   ag_ndim(node->in[0]), dims);
    if (a->kind != AG_LOSS_L2)
        e = ag_mul(ctx, e, ag_rsqrt(ctx, ag_offset(ctx, ag_square(ctx, e), a->c * a->c)));
    return ag_mul(ctx, e, d);
}

static void loss_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    ag_tensor *dp = ag_recording(ctx)
                        ? composite_grad(ctx, node, d[0])
                        : ag_apply(ctx, &ag_op_row_loss_backward,
                                   (ag_tensor *[]){node->in[0], node->in[1], d[0]}, node->attr);

    if (node->wants[0])
        grad[0] = dp;
    if (node->wants[1])
        grad[1] = ag_neg(ctx, dp);
}

static unsigned loss_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(0) | AG_SAVE_IN(1);
}

static void loss_cost(const ag_call *call, ag_cost *cost)
{
    cost->flops = 5.0 * (double)ag_numel(call->in[0]);
    cost->scratch = op_run_f32_scratch(call);
}

const ag_op ag_op_row_loss = {
    .name = "row_loss",
    .n_in = 2,
    .attr_size = sizeof(op_loss_attr),
    .shape = loss_shape,
    .run = {[AG_CPU] = loss_cpu},
    .grad = loss_grad,
    .saves = loss_saves,
    .cost = loss_cost,
};

ag_tensor *ag_row_loss(ag_ctx *ctx, ag_loss_kind kind, ag_tensor *prediction, ag_tensor *target,
                       double c)
{
    return ag_apply(ctx, &ag_op_row_loss, (ag_tensor *[]){prediction, target},
                    &(op_loss_attr){c, (int)kind});
}

/* --- the fused backward pass: p, t, D -> dp --------------------------------------------------- */

static ag_status backward_shape(ag_call *call)
{
    const ag_tensor *p = call->in[0];

    if (check_inputs(call) != AG_OK || op_check_dims(call, 2, 1, ag_dims(p)) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out(call, op_join(p, call->in[1]), ag_ndim(p), ag_dims(p));
    return AG_OK;
}

static ag_status backward_kernel(ag_call *call, const op_floats *f)
{
    const op_loss_attr *a = call->attr;
    const ag_tensor *p = call->in[0];

    cpu_row_loss_grad(f->out[0], (ag_loss_kind)a->kind, f->in[0], f->in[1], f->in[2], ag_dim(p, 0),
                      row_size(p), a->c, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status backward_cpu(ag_call *call)
{
    return op_run_f32(call, backward_kernel);
}

const ag_op ag_op_row_loss_backward = {
    .name = "row_loss_backward",
    .n_in = 3,
    .attr_size = sizeof(op_loss_attr),
    .shape = backward_shape,
    .run = {[AG_CPU] = backward_cpu},
    .cost = loss_cost,
};
