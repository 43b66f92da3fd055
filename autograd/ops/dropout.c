/* dropout.c - values set to zero at random, the others raised so that the mean stays.
 *
 *   y[e] = x[e] / (1 - p) when word e of the draw is at least 2^32 p, else 0
 *
 * Source  Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from
 *         overfitting"; inverted scaling as in PyTorch.
 * Shapes  any; y as x. Dtypes f32 or bf16, y as x.
 * Keeps   the step's tensor: the mask is a function of the draw, so the gradient draws it again.
 */
#include "autograd/cpu/elementwise.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status dropout_shape(ag_call *call)
{
    const op_dropout_attr *a = call->attr;

    if (op_check_floats(call, 1u << 1) != AG_OK)
        return ag_status_of(call->ctx);
    if (call->in[1] && (ag_dtype_of(call->in[1]) != AG_I64 || ag_numel(call->in[1]) != 1))
        return ag_fail(call->ctx, AG_ESHAPE, "dropout: want the step as one i64, got %s", OP_SHAPE(call->in[1]));
    if (!(a->p >= 0.0 && a->p < 1.0))
        return ag_fail(call->ctx, AG_EINVAL, "dropout: want a probability in [0,1), got %g", a->p);
    ag_out_like(call, call->in[0]);
    return AG_OK;
}

static ag_status dropout_kernel(ag_call *call, const op_floats *f)
{
    const op_dropout_attr *a = call->attr;
    ag_draw draw = a->draw;

    if (call->in[1])
        draw.step = (uint32_t)*(const int64_t *)ag_data(call->in[1]);
    cpu_dropout(f->out[0], f->in[0], a->p, &draw, ag_numel(call->in[0]), op_threads(call),
                op_isa(call));
    return AG_OK;
}

static ag_status dropout_cpu(ag_call *call)
{
    return op_run_f32(call, dropout_kernel);
}

static void dropout_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_dropout_attr *a = node->attr;

    grad[0] = ag_dropout(ctx, d[0], a->p, a->draw, node->in[1]);
}

static unsigned dropout_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(1);
}

const ag_op ag_op_dropout = {
    .name = "dropout",
    .n_in = 2,
    .optional = 1u << 1,
    .attr_size = sizeof(op_dropout_attr),
    .shape = dropout_shape,
    .run = {[AG_CPU] = dropout_cpu},
    .grad = dropout_grad,
    .saves = dropout_saves,
    .cost = op_cost_elements,
};

ag_tensor *ag_dropout(ag_ctx *ctx, ag_tensor *x, double p, ag_draw draw, ag_tensor *step)
{
    return ag_apply(ctx, &ag_op_dropout, (ag_tensor *[]){x, step}, &(op_dropout_attr){draw, p});
}
