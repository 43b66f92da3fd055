/* upfirdn2d.c - up-sample by zeros, pad or crop, filter, keep every down-th sample.
 *
 *   u[i up] = x[i], zero between       y[o] = sum_f filter[f] u[o down + f - before]
 *
 * on both axes, every channel alike. One op is its own gradient: the adjoint filters D with the
 * filter turned round, up and down exchanged, and pads
 *   before' = filter - 1 - before      after' = in up - out down + before - up + 1
 *
 * Source  NVlabs/stylegan2: dnnlib/tflib/ops/upfirdn_2d.py (the filter is not flipped); pads of the
 *         gradient: NVlabs/stylegan3: torch_utils/ops/upfirdn2d.py.
 * Shapes  x [N,H,W,C], filter f32 [fh,fw], a constant -> y [N,OH,OW,C]
 * Dtypes  x f32 or bf16; y as x. Keeps  the filter.
 */
#include "autograd/cpu/image.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static cpu_upfirdn settings(const ag_call *call)
{
    const op_upfirdn_attr *a = call->attr;
    const ag_tensor *filter = call->in[1];

    return (cpu_upfirdn){a->up,  a->down,   ag_dim(filter, 0), ag_dim(filter, 1),
                         a->top, a->bottom, a->left,           a->right};
}

static ag_status upfirdn_shape(ag_call *call)
{
    const op_upfirdn_attr *a = call->attr;
    const ag_tensor *x = call->in[0], *filter = call->in[1];
    int64_t h, w;

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(x) != 4 || ag_ndim(filter) != 2 || ag_numel(filter) < 1 ||
        ag_dtype_of(filter) != AG_F32 || a->up < 1 || a->down < 1)
        return ag_fail(call->ctx, AG_ESHAPE,
                       "upfirdn2d: want x [N,H,W,C], an f32 filter [fh,fw], up and down of 1 or "
                       "more; got %s, %s, %d and %d",
                       OP_SHAPE(x), OP_SHAPE(filter), a->up, a->down);
    h = cpu_upfirdn_size(ag_dim(x, 1), a->up, a->down, ag_dim(filter, 0), a->top, a->bottom);
    w = cpu_upfirdn_size(ag_dim(x, 2), a->up, a->down, ag_dim(filter, 1), a->left, a->right);
    if (h < 1 || w < 1)
        return ag_fail(call->ctx, AG_ESHAPE,
                       "upfirdn2d: the filter %s does not fit into %s with pads %d %d %d %d",
                       OP_SHAPE(filter), OP_SHAPE(x), a->top, a->bottom, a->left, a->right);
    ag_out(call, ag_dtype_of(x), 4, (int64_t[]){ag_dim(x, 0), h, w, ag_dim(x, 3)});
    return AG_OK;
}

static size_t flip_scratch(const ag_call *call)
{
    return ((const op_upfirdn_attr *)call->attr)->flip ? op_round_scratch(ag_nbytes(call->in[1])) : 0;
}

static ag_status upfirdn_kernel(ag_call *call, const op_floats *f)
{
    const ag_tensor *x = call->in[0];
    const float *filter = f->in[1];

    if (flip_scratch(call)) {
        const int64_t n = ag_numel(call->in[1]);
        float *turned = ag_scratch(call->ctx, flip_scratch(call));
        if (!turned)
            return ag_status_of(call->ctx);
        for (int64_t i = 0; i < n; i++)
            turned[i] = filter[n - 1 - i];
        filter = turned;
    }
    cpu_upfirdn2d(f->out[0], f->in[0], filter,
                  (cpu_picture){ag_dim(x, 0), ag_dim(x, 1), ag_dim(x, 2), ag_dim(x, 3)},
                  settings(call), op_threads(call));
    return AG_OK;
}

static ag_status upfirdn_cpu(ag_call *call)
{
    return op_run_f32(call, upfirdn_kernel);
}

static void upfirdn_cost(const ag_call *call, ag_cost *cost)
{
    const double up = ((const op_upfirdn_attr *)call->attr)->up;

    cost->flops = 2.0 * (double)ag_numel(call->out[0]) * (double)ag_numel(call->in[1]) / (up * up);
    cost->scratch = op_run_f32_scratch(call) + flip_scratch(call);
}

static void upfirdn_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_upfirdn_attr *a = node->attr;
    const ag_tensor *x = node->in[0], *filter = node->in[1], *y = node->out[0];
    op_upfirdn_attr adjoint = {.up = a->down, .down = a->up, .flip = !a->flip};

    if (node->wants[1]) {
        ag_fail(ctx, AG_EUNSUPPORTED, "upfirdn2d: the filter is a constant and has no gradient");
        return;
    }
    adjoint.top = (int)ag_dim(filter, 0) - 1 - a->top;
    adjoint.left = (int)ag_dim(filter, 1) - 1 - a->left;
    adjoint.bottom = (int)(ag_dim(x, 1) * a->up - ag_dim(y, 1) * a->down) + a->top - a->up + 1;
    adjoint.right = (int)(ag_dim(x, 2) * a->up - ag_dim(y, 2) * a->down) + a->left - a->up + 1;
    grad[0] = ag_apply(ctx, &ag_op_upfirdn2d, (ag_tensor *[]){d[0], node->in[1]}, &adjoint);
}

static unsigned upfirdn_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(1);
}

const ag_op ag_op_upfirdn2d = {
    .name = "upfirdn2d",
    .n_in = 2,
    .attr_size = sizeof(op_upfirdn_attr),
    .shape = upfirdn_shape,
    .run = {[AG_CPU] = upfirdn_cpu},
    .grad = upfirdn_grad,
    .saves = upfirdn_saves,
    .cost = upfirdn_cost,
};

ag_tensor *ag_upfirdn2d(ag_ctx *ctx, ag_tensor *x, ag_tensor *filter, int up, int down, int top,
                        int bottom, int left, int right)
{
    return ag_apply(ctx, &ag_op_upfirdn2d, (ag_tensor *[]){x, filter},
                    &(op_upfirdn_attr){.up = up, .down = down, .top = top, .bottom = bottom,
                                    .left = left, .right = right});
}
