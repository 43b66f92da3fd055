/* reduce.c - scaled sums over axes: sums and means.
 *
 *   y = scale * sum of x over the axes whose bits are set
 *
 * Shapes  the summed axes stay with size 1 (keep) or go.
 * Dtypes  f32 or bf16; y as x, or f32 where the sum is the gradient of something f32. Sums run in
 *         f32 and double whatever x is.
 * Keeps   nothing: the gradient is scale * D, broadcast.
 */
#include "autograd/cpu/layout.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status sum_shape(ag_call *call)
{
    const op_sum_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    int64_t dims[AG_MAX_DIMS];
    int n = 0;

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (!op_is_float(call->ctx, (ag_dtype)a->dtype))
        return ag_fail(call->ctx, AG_EDTYPE, "sum: no sums of element type %d", a->dtype);
    if (a->axes >> ag_ndim(x))
        return ag_fail(call->ctx, AG_ESHAPE, "sum: %s has no axes beyond %d, asked for bits %#x",
                       OP_SHAPE(x), ag_ndim(x) - 1, a->axes);
    for (int i = 0; i < ag_ndim(x); i++) {
        if (!(a->axes >> i & 1))
            dims[n++] = ag_dim(x, i);
        else if (a->keep)
            dims[n++] = 1;
    }
    ag_out(call, (ag_dtype)a->dtype, n, dims);
    return AG_OK;
}

static size_t sum_workspace(const ag_call *call)
{
    const op_sum_attr *a = call->attr;

    return op_round_scratch(
        cpu_sum_scratch(ag_ndim(call->in[0]), ag_dims(call->in[0]), a->axes));
}

static ag_status sum_kernel(ag_call *call, const op_floats *f)
{
    const op_sum_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    const size_t bytes = sum_workspace(call);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    cpu_sum(f->out[0], f->in[0], ag_ndim(x), ag_dims(x), a->axes, a->scale, scratch,
            op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status sum_cpu(ag_call *call)
{
    return op_run_f32(call, sum_kernel);
}

static void sum_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_sum_attr *a = node->attr;
    const ag_tensor *x = node->in[0];
    int64_t dims[AG_MAX_DIMS];
    ag_tensor *g = ag_cast(ctx, d[0], ag_dtype_of(x));

    if (a->scale != 1.0)
        g = ag_scale(ctx, g, a->scale);
    for (int i = 0; i < ag_ndim(x); i++)
        dims[i] = a->axes >> i & 1 ? 1 : ag_dim(x, i);
    if (!a->keep)
        g = ag_reshape(ctx, g, ag_ndim(x), dims);
    grad[0] = ag_broadcast(ctx, g, ag_ndim(x), ag_dims(x));
}

static void sum_cost(const ag_call *call, ag_cost *cost)
{
    cost->flops = (double)ag_numel(call->in[0]);
    cost->scratch = op_run_f32_scratch(call) + sum_workspace(call);
}

const ag_op ag_op_sum = {
    .name = "sum",
    .n_in = 1,
    .attr_size = sizeof(op_sum_attr),
    .shape = sum_shape,
    .run = {[AG_CPU] = sum_cpu},
    .grad = sum_grad,
    .cost = sum_cost,
};

ag_tensor *op_sum_as(ag_ctx *ctx, ag_tensor *x, unsigned axes, bool keep, double scale,
                     ag_dtype dtype)
{
    op_sum_attr a = {.scale = scale, .axes = axes, .keep = keep, .dtype = (int)dtype};

    if (x && axes == AG_ALL_AXES)
        a.axes = (1u << ag_ndim(x)) - 1;
    return ag_apply(ctx, &ag_op_sum, &x, &a);
}

ag_tensor *ag_sum(ag_ctx *ctx, ag_tensor *x, unsigned axes, bool keep)
{
    return op_sum_as(ctx, x, axes, keep, 1.0, x ? ag_dtype_of(x) : AG_F32);
}

/* The mean of nothing is NaN, as a quotient by zero. */
ag_tensor *ag_mean(ag_ctx *ctx, ag_tensor *x, unsigned axes, bool keep)
{
    double count = 1.0;

    for (int i = 0; x && i < ag_ndim(x); i++)
        if (axes >> i & 1)
            count *= (double)ag_dim(x, i);
    return op_sum_as(ctx, x, axes, keep, 1.0 / count, x ? ag_dtype_of(x) : AG_F32);
}

ag_tensor *op_sum_like(ag_ctx *ctx, ag_tensor *d, const ag_tensor *like)
{
    unsigned axes = 0;
    int lead;

    if (!d || op_same_dims(d, like))
        return d;
    lead = ag_ndim(d) - ag_ndim(like);
    for (int i = 0; i < ag_ndim(d); i++)
        if (i < lead || (ag_dim(like, i - lead) == 1 && ag_dim(d, i) != 1))
            axes |= 1u << i;
    if (axes)
        d = op_sum_as(ctx, d, axes, true, 1.0,
                      ag_dtype_of(like) == AG_F32 ? AG_F32 : ag_dtype_of(d));
    return op_reshape_like(ctx, d, like);
}
