/* resample.c - pictures in another size: nearest-neighbour enlargement, average pooling, padding.
 *
 * Each is linear, so its gradient is its adjoint, an op of its own whose gradient is the op again.
 *
 * Shapes  x [N,H,W,C], channels last. Dtypes  f32 or bf16; y as x. Keeps  nothing.
 */
#include "autograd/cpu/image.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static cpu_picture picture(const ag_tensor *x)
{
    return (cpu_picture){ag_dim(x, 0), ag_dim(x, 1), ag_dim(x, 2), ag_dim(x, 3)};
}

static ag_status check_picture(const ag_call *call)
{
    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(call->in[0]) != 4)
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want [N,H,W,C], got %s", call->op->name,
                       OP_SHAPE(call->in[0]));
    return AG_OK;
}

/* Declare [N,h,w,C]. */
static void out_sized(ag_call *call, int64_t h, int64_t w)
{
    const ag_tensor *x = call->in[0];

    ag_out(call, ag_dtype_of(x), 4, (int64_t[]){ag_dim(x, 0), h, w, ag_dim(x, 3)});
}

static void picture_cost(const ag_call *call, ag_cost *cost)
{
    const double in = (double)ag_numel(call->in[0]), out = (double)ag_numel(call->out[0]);

    cost->flops = in > out ? in : out;
    cost->scratch = call->op == &ag_op_upsample_nearest ? 0 : op_run_f32_scratch(call);
}

/* --- upsample_nearest ------------------------------------------------------------------------- */

static ag_status upsample_shape(ag_call *call)
{
    const op_picture_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    if (check_picture(call) != AG_OK)
        return ag_status_of(call->ctx);
    if (a->h < 1 || a->w < 1 || ag_dim(x, 1) < 1 || ag_dim(x, 2) < 1)
        return ag_fail(call->ctx, AG_ESHAPE, "%s: from %s to %lld x %lld is not possible",
                       call->op->name, OP_SHAPE(x), (long long)a->h, (long long)a->w);
    out_sized(call, a->h, a->w);
    return AG_OK;
}

static ag_status upsample_cpu(ag_call *call)
{
    const op_picture_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    cpu_upsample_nearest(ag_data(call->out[0]), ag_data(x), ag_dtype_size(ag_dtype_of(x)), picture(x), a->h, a->w,
                         op_threads(call));
    return AG_OK;
}

static void upsample_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = op_upsample_backward(ctx, d[0], ag_dim(node->in[0], 1), ag_dim(node->in[0], 2));
}

static ag_status upsample_backward_kernel(ag_call *call, const op_floats *f)
{
    const ag_tensor *d = call->in[0];

    cpu_upsample_nearest_adjoint(f->out[0], f->in[0], picture(call->out[0]), ag_dim(d, 1),
                                 ag_dim(d, 2), op_threads(call));
    return AG_OK;
}

static ag_status upsample_backward_cpu(ag_call *call)
{
    return op_run_f32(call, upsample_backward_kernel);
}

static void upsample_backward_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d,
                                   ag_tensor **grad)
{
    grad[0] = ag_upsample_nearest(ctx, d[0], ag_dim(node->in[0], 1), ag_dim(node->in[0], 2));
}

/* --- avg_pool2d ------------------------------------------------------------------------------- */

static ag_status pool_shape(ag_call *call)
{
    const op_picture_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    if (check_picture(call) != AG_OK)
        return ag_status_of(call->ctx);
    if (a->kernel < 1 || ag_dim(x, 1) < a->kernel || ag_dim(x, 2) < a->kernel)
        return ag_fail(call->ctx, AG_ESHAPE, "avg_pool2d: a window of %d does not fit into %s",
                       a->kernel, OP_SHAPE(x));
    out_sized(call, ag_dim(x, 1) / a->kernel, ag_dim(x, 2) / a->kernel);
    return AG_OK;
}

static ag_status pool_kernel(ag_call *call, const op_floats *f)
{
    const op_picture_attr *a = call->attr;

    cpu_avg_pool(f->out[0], f->in[0], picture(call->in[0]), a->kernel, op_threads(call));
    return AG_OK;
}

static ag_status pool_cpu(ag_call *call)
{
    return op_run_f32(call, pool_kernel);
}

static void pool_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_picture_attr *a = node->attr;

    grad[0] = op_avg_pool_backward(ctx, d[0], a->kernel, ag_dim(node->in[0], 1),
                                   ag_dim(node->in[0], 2));
}

static ag_status pool_backward_shape(ag_call *call)
{
    const op_picture_attr *a = call->attr;
    const ag_tensor *d = call->in[0];

    if (check_picture(call) != AG_OK)
        return ag_status_of(call->ctx);
    if (a->kernel < 1 || a->h / a->kernel != ag_dim(d, 1) || a->w / a->kernel != ag_dim(d, 2))
        return ag_fail(call->ctx, AG_ESHAPE, "avg_pool2d_backward: %s is not %lld x %lld over %d",
                       OP_SHAPE(d), (long long)a->h, (long long)a->w, a->kernel);
    out_sized(call, a->h, a->w);
    return AG_OK;
}

static ag_status pool_backward_kernel(ag_call *call, const op_floats *f)
{
    const op_picture_attr *a = call->attr;

    cpu_avg_pool_adjoint(f->out[0], f->in[0], picture(call->out[0]), a->kernel, op_threads(call));
    return AG_OK;
}

static ag_status pool_backward_cpu(ag_call *call)
{
    return op_run_f32(call, pool_backward_kernel);
}

static void pool_backward_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_picture_attr *a = node->attr;

    grad[0] = ag_avg_pool2d(ctx, d[0], a->kernel);
}

/* --- pad2d ------------------------------------------------------------------------------------ */

static ag_status check_pads(const ag_call *call, int64_t h, int64_t w)
{
    const op_picture_attr *a = call->attr;
    const int *p = a->pads;
    const bool bad = p[0] < 0 || p[1] < 0 || p[2] < 0 || p[3] < 0 || a->mode < AG_PAD_ZERO ||
                     a->mode > AG_PAD_REPLICATE;
    const bool reaches = a->mode == AG_PAD_ZERO ||
                         (a->mode == AG_PAD_REPLICATE && h > 0 && w > 0) ||
                         (p[0] < h && p[1] < h && p[2] < w && p[3] < w);

    if (bad || !reaches)
        return ag_fail(call->ctx, AG_ESHAPE,
                       "%s: pads %d %d %d %d (mode %d) do not suit a picture of %lld x %lld",
                       call->op->name, p[0], p[1], p[2], p[3], a->mode, (long long)h, (long long)w);
    return AG_OK;
}

static ag_status pad_shape(ag_call *call)
{
    const op_picture_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    if (check_picture(call) != AG_OK || check_pads(call, ag_dim(x, 1), ag_dim(x, 2)) != AG_OK)
        return ag_status_of(call->ctx);
    out_sized(call, ag_dim(x, 1) + a->pads[0] + a->pads[1], ag_dim(x, 2) + a->pads[2] + a->pads[3]);
    return AG_OK;
}

static ag_status pad_kernel(ag_call *call, const op_floats *f)
{
    const op_picture_attr *a = call->attr;

    cpu_pad(f->out[0], f->in[0], picture(call->in[0]), (ag_pad_mode)a->mode, a->pads[0], a->pads[1],
            a->pads[2], a->pads[3], op_threads(call));
    return AG_OK;
}

static ag_status pad_cpu(ag_call *call)
{
    return op_run_f32(call, pad_kernel);
}

static void pad_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_picture_attr *a = node->attr;

    grad[0] = op_pad2d_backward(ctx, d[0], (ag_pad_mode)a->mode, a->pads);
}

static ag_status pad_backward_shape(ag_call *call)
{
    const op_picture_attr *a = call->attr;
    int64_t h, w;

    if (check_picture(call) != AG_OK)
        return ag_status_of(call->ctx);
    h = ag_dim(call->in[0], 1) - a->pads[0] - a->pads[1];
    w = ag_dim(call->in[0], 2) - a->pads[2] - a->pads[3];
    if (check_pads(call, h, w) != AG_OK)
        return ag_status_of(call->ctx);
    if (h < 0 || w < 0)
        return ag_fail(call->ctx, AG_ESHAPE, "pad2d_backward: %s is smaller than its pads",
                       OP_SHAPE(call->in[0]));
    out_sized(call, h, w);
    return AG_OK;
}

static ag_status pad_backward_kernel(ag_call *call, const op_floats *f)
{
    const op_picture_attr *a = call->attr;

    cpu_pad_adjoint(f->out[0], f->in[0], picture(call->out[0]), (ag_pad_mode)a->mode, a->pads[0],
                    a->pads[1], a->pads[2], a->pads[3], op_threads(call));
    return AG_OK;
}

static ag_status pad_backward_cpu(ag_call *call)
{
    return op_run_f32(call, pad_backward_kernel);
}

static void pad_backward_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = ag_apply(ctx, &ag_op_pad2d, d, node->attr);
}

/* --- the table -------------------------------------------------------------------------------- */

#define PICTURE_OP(op_name, its_shape, its_cpu, its_grad)                                         \
    const ag_op ag_op_##op_name = {                                                               \
        .name = #op_name,                                                                         \
        .n_in = 1,                                                                                \
        .attr_size = sizeof(op_picture_attr),                                                        \
        .shape = its_shape,                                                                       \
        .run = {[AG_CPU] = its_cpu},                                                              \
        .grad = its_grad,                                                                         \
        .cost = picture_cost,                                                                     \
    }

PICTURE_OP(upsample_nearest, upsample_shape, upsample_cpu, upsample_grad);
PICTURE_OP(upsample_nearest_backward, upsample_shape, upsample_backward_cpu,
           upsample_backward_grad);
PICTURE_OP(avg_pool2d, pool_shape, pool_cpu, pool_grad);
PICTURE_OP(avg_pool2d_backward, pool_backward_shape, pool_backward_cpu, pool_backward_grad);
PICTURE_OP(pad2d, pad_shape, pad_cpu, pad_grad);
PICTURE_OP(pad2d_backward, pad_backward_shape, pad_backward_cpu, pad_backward_grad);

ag_tensor *ag_upsample_nearest(ag_ctx *ctx, ag_tensor *x, int64_t h, int64_t w)
{
    return ag_apply(ctx, &ag_op_upsample_nearest, &x, &(op_picture_attr){.h = h, .w = w});
}

ag_tensor *op_upsample_backward(ag_ctx *ctx, ag_tensor *d, int64_t h, int64_t w)
{
    return ag_apply(ctx, &ag_op_upsample_nearest_backward, &d, &(op_picture_attr){.h = h, .w = w});
}

ag_tensor *ag_avg_pool2d(ag_ctx *ctx, ag_tensor *x, int kernel)
{
    return ag_apply(ctx, &ag_op_avg_pool2d, &x, &(op_picture_attr){.kernel = kernel});
}

ag_tensor *op_avg_pool_backward(ag_ctx *ctx, ag_tensor *d, int kernel, int64_t h, int64_t w)
{
    return ag_apply(ctx, &ag_op_avg_pool2d_backward, &d,
                    &(op_picture_attr){.h = h, .w = w, .kernel = kernel});
}

ag_tensor *ag_pad2d(ag_ctx *ctx, ag_tensor *x, ag_pad_mode mode, int top, int bottom, int left,
                    int right)
{
    return ag_apply(ctx, &ag_op_pad2d, &x,
                    &(op_picture_attr){.mode = (int)mode, .pads = {top, bottom, left, right}});
}

ag_tensor *op_pad2d_backward(ag_ctx *ctx, ag_tensor *d, ag_pad_mode mode, const int pads[4])
{
    return ag_apply(
        ctx, &ag_op_pad2d_backward, &d,
        &(op_picture_attr){.mode = (int)mode, .pads = {pads[0], pads[1], pads[2], pads[3]}});
}
