/* dropout.c - values set to zero at random, the others raised so that the mean stays.
 *
 *   y[e] = x[e] / (1 - p) when word e of the draw is at least 2^32 p, else 0
 *
 * Source  Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from
 *         overfitting"; inverted scaling as in PyTorch.
 * Shapes  any; y as x. Dtypes f32 or bf16, y as x.
 * Keeps   nothing: the mask is a function of the draw, so the gradient draws it again.
 */
#include "autograd/cpu/elementwise.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status dropout_shape(ag_call *call)
{
    const op_dropout_attr *a = call->attr;

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (!(a->p >= 0.0 && a->p < 1.0))
        return ag_fail(call->ctx, AG_EINVAL, "dropout: want a probability in [0,1), got %g", a->p);
    ag_out_like(call, call->in[0]);
    return AG_OK;
}

static ag_status dropout_kernel(ag_call *call, const op_floats *f)
{
    const op_dropout_attr *a = call->attr;

    cpu_dropout(f->out[0], f->in[0], a->p, &a->draw, ag_numel(call->in[0]), op_threads(call),
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

    grad[0] = ag_dropout(ctx, d[0], a->p, a->draw);
}

const ag_op ag_op_dropout = {
    .name = "dropout",
    .n_in = 1,
    .attr_size = sizeof(op_dropout_attr),
    .shape = dropout_shape,
    .run = {[AG_CPU] = dropout_cpu},
    .grad = dropout_grad,
    .cost = op_cost_elements,
};

ag_tensor *ag_dropout(ag_ctx *ctx, ag_tensor *x, double p, ag_draw draw)
{
    return ag_apply(ctx, &ag_op_dropout, &x, &(op_dropout_attr){draw, p});
}
