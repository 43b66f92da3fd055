/* shape.c - the same elements in another arrangement.
 *
 *   reshape    another view of the same memory
 *   permute    y axis j is x axis axes[j]; a copy
 *   slice      y = x[..., start : start + length, ...]; a view when the axes before it have size 1
 *   unslice    zeros with x at that place: the adjoint of slice
 *   concat     a then b along one axis
 *   broadcast  sizes of 1 and missing leading axes stretched
 *
 * Dtypes  any for reshape, slice, unslice and concat; f32 or bf16 for the others. y as x.
 * Keeps   nothing: the gradients are slice <-> unslice, permute by the inverse order, sums.
 */
#include <string.h>

#include "autograd/cpu/layout.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

/* --- reshape ---------------------------------------------------------------------------------- */

static ag_status reshape_shape(ag_call *call)
{
    const op_dims_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    int64_t dims[AG_MAX_DIMS], known = 1;
    int open = -1;

    for (int i = 0; i < a->n; i++) {
        dims[i] = a->dims[i];
        if (dims[i] == -1 && open < 0)
            open = i;
        else if (dims[i] < 0 || __builtin_mul_overflow(known, dims[i], &known))
            return ag_fail(call->ctx, AG_ESHAPE, "reshape: axis %d cannot have size %lld", i,
                           (long long)dims[i]);
    }
    if (open >= 0 && known > 0)
        dims[open] = ag_numel(x) / known;
    if ((open >= 0 && known == 0) || op_product(dims, 0, a->n) != ag_numel(x))
        return ag_fail(call->ctx, AG_ESHAPE,
                       "reshape: %s has %lld elements, the shape wanted %lld%s", OP_SHAPE(x),
                       (long long)ag_numel(x), (long long)known,
                       open >= 0 ? " times something" : "");
    ag_out_view(call, 0, 0, a->n, dims);
    return AG_OK;
}

static void reshape_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = op_reshape_like(ctx, d[0], node->in[0]);
}

const ag_op ag_op_reshape = {
    .name = "reshape",
    .n_in = 1,
    .attr_size = sizeof(op_dims_attr),
    .shape = reshape_shape,
    .grad = reshape_grad,
};

/* Returns false when n_dims cannot be; the context has then failed. */
static bool fill_dims(ag_ctx *ctx, op_dims_attr *a, const char *name, int n_dims, const int64_t *dims)
{
    if (n_dims < 0 || n_dims > AG_MAX_DIMS) {
        ag_fail(ctx, AG_ESHAPE, "%s: a tensor has 0 to %d axes, not %d", name, AG_MAX_DIMS, n_dims);
        return false;
    }
    *a = (op_dims_attr){.n = n_dims};
    if (n_dims)
        memcpy(a->dims, dims, (size_t)n_dims * sizeof *dims);
    return true;
}

ag_tensor *ag_reshape(ag_ctx *ctx, ag_tensor *x, int n_dims, const int64_t *dims)
{
    op_dims_attr a;

    if (!fill_dims(ctx, &a, "reshape", n_dims, dims))
        return NULL;
    return ag_apply(ctx, &ag_op_reshape, &x, &a);
}

/* --- permute ---------------------------------------------------------------------------------- */

static ag_status permute_shape(ag_call *call)
{
    const op_permute_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    int64_t dims[AG_MAX_DIMS];
    unsigned seen = 0;

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    for (int j = 0; j < ag_ndim(x); j++) {
        if (a->axes[j] < 0 || a->axes[j] >= ag_ndim(x) || seen >> a->axes[j] & 1)
            return ag_fail(call->ctx, AG_ESHAPE,
                           "permute: the axes of %s are not ordered by %d at %d", OP_SHAPE(x),
                           a->axes[j], j);
        seen |= 1u << a->axes[j];
        dims[j] = ag_dim(x, a->axes[j]);
    }
    ag_out(call, ag_dtype_of(x), ag_ndim(x), dims);
    return AG_OK;
}

static ag_status permute_kernel(ag_call *call, const op_floats *f)
{
    const op_permute_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    cpu_permute(f->out[0], f->in[0], ag_ndim(x), ag_dims(x), a->axes, op_threads(call));
    return AG_OK;
}

static ag_status permute_cpu(ag_call *call)
{
    return op_run_f32(call, permute_kernel);
}

static void permute_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_permute_attr *a = node->attr;
    int inverse[AG_MAX_DIMS] = {0};

    for (int j = 0; j < ag_ndim(node->in[0]); j++)
        inverse[a->axes[j]] = j;
    grad[0] = ag_permute(ctx, d[0], inverse);
}

static void move_cost(const ag_call *call, ag_cost *cost)
{
    cost->scratch = op_run_f32_scratch(call);
}

const ag_op ag_op_permute = {
    .name = "permute",
    .n_in = 1,
    .attr_size = sizeof(op_permute_attr),
    .shape = permute_shape,
    .run = {[AG_CPU] = permute_cpu},
    .grad = permute_grad,
    .cost = move_cost,
};

ag_tensor *ag_permute(ag_ctx *ctx, ag_tensor *x, const int *axes)
{
    op_permute_attr a = {{0}};

    if (x)
        memcpy(a.axes, axes, (size_t)ag_ndim(x) * sizeof *axes);
    return ag_apply(ctx, &ag_op_permute, &x, &a);
}

/* --- slice, unslice --------------------------------------------------------------------------- */

/* Elements before, along and after an axis. */
typedef struct split {
    int64_t outer, size, inner;
} split;

static split split_at(const ag_tensor *t, int axis)
{
    return (split){op_product(ag_dims(t), 0, axis), ag_dim(t, axis),
                   op_product(ag_dims(t), axis + 1, ag_ndim(t))};
}

static ag_status slice_shape(ag_call *call)
{
    const op_slice_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    int64_t dims[AG_MAX_DIMS];
    split s;

    if (a->axis < 0 || a->axis >= ag_ndim(x) || a->start < 0 || a->length < 0 ||
        a->start > ag_dim(x, a->axis) - a->length)
        return ag_fail(call->ctx, AG_ESHAPE, "slice: %s has no elements %lld to %lld on axis %d",
                       OP_SHAPE(x), (long long)a->start, (long long)(a->start + a->length),
                       a->axis);
    memcpy(dims, ag_dims(x), (size_t)ag_ndim(x) * sizeof *dims);
    dims[a->axis] = a->length;
    s = split_at(x, a->axis);
    if (s.outer == 1)
        ag_out_view(call, 0, a->start * s.inner, ag_ndim(x), dims);
    else
        ag_out(call, ag_dtype_of(x), ag_ndim(x), dims);
    return AG_OK;
}

static ag_status slice_cpu(ag_call *call)
{
    const op_slice_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    const split s = split_at(x, a->axis);
    const size_t size = ag_dtype_size(ag_dtype_of(x));

    if (s.outer != 1) /* else a view */
        cpu_copy_rows(ag_data(call->out[0]), a->length * s.inner,
                      (char *)ag_data(x) + (size_t)(a->start * s.inner) * size, s.size * s.inner,
                      s.outer, a->length * s.inner, size, op_threads(call));
    return AG_OK;
}

static void slice_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_slice_attr *a = node->attr;

    grad[0] = op_unslice(ctx, d[0], a->axis, a->start, ag_dim(node->in[0], a->axis));
}

static void slice_cost(const ag_call *call, ag_cost *cost)
{
    const op_slice_attr *a = call->attr;

    cost->bytes = 2.0 * (double)ag_nbytes(call->out[0]);
    if (split_at(call->in[0], a->axis).outer == 1)
        cost->bytes = 0;
}

const ag_op ag_op_slice = {
    .name = "slice",
    .n_in = 1,
    .attr_size = sizeof(op_slice_attr),
    .shape = slice_shape,
    .run = {[AG_CPU] = slice_cpu},
    .grad = slice_grad,
    .cost = slice_cost,
};

ag_tensor *ag_slice(ag_ctx *ctx, ag_tensor *x, int axis, int64_t start, int64_t length)
{
    op_slice_attr a = {.start = start, .length = length, .axis = axis};

    if (x && axis < 0)
        a.axis += ag_ndim(x);
    return ag_apply(ctx, &ag_op_slice, &x, &a);
}

static ag_status unslice_shape(ag_call *call)
{
    const op_slice_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    int64_t dims[AG_MAX_DIMS];

    if (a->axis < 0 || a->axis >= ag_ndim(x) || a->start < 0 ||
        a->start > a->length - ag_dim(x, a->axis))
        return ag_fail(call->ctx, AG_ESHAPE, "unslice: %s at %lld does not fit in %lld on axis %d",
                       OP_SHAPE(x), (long long)a->start, (long long)a->length, a->axis);
    memcpy(dims, ag_dims(x), (size_t)ag_ndim(x) * sizeof *dims);
    dims[a->axis] = a->length;
    ag_out(call, ag_dtype_of(x), ag_ndim(x), dims);
    return AG_OK;
}

static ag_status unslice_cpu(ag_call *call)
{
    const op_slice_attr *a = call->attr;
    const ag_tensor *x = call->in[0], *y = call->out[0];
    const split s = split_at(x, a->axis);
    const size_t size = ag_dtype_size(ag_dtype_of(x));

    memset(ag_data(y), 0, ag_nbytes(y));
    cpu_copy_rows((char *)ag_data(y) + (size_t)(a->start * s.inner) * size, a->length * s.inner,
                  ag_data(x), s.size * s.inner, s.outer, s.size * s.inner, size, op_threads(call));
    return AG_OK;
}

static void unslice_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_slice_attr *a = node->attr;

    grad[0] = ag_slice(ctx, d[0], a->axis, a->start, ag_dim(node->in[0], a->axis));
}

const ag_op ag_op_unslice = {
    .name = "unslice",
    .n_in = 1,
    .attr_size = sizeof(op_slice_attr),
    .shape = unslice_shape,
    .run = {[AG_CPU] = unslice_cpu},
    .grad = unslice_grad,
};

ag_tensor *op_unslice(ag_ctx *ctx, ag_tensor *x, int axis, int64_t start, int64_t length)
{
    const op_slice_attr a = {.start = start, .length = length, .axis = axis};

    return ag_apply(ctx, &ag_op_unslice, &x, &a);
}

/* --- concat ----------------------------------------------------------------------------------- */

static ag_status concat_shape(ag_call *call)
{
    const int axis = ((const op_concat_attr *)call->attr)->axis;
    const ag_tensor *a = call->in[0], *b = call->in[1];
    bool fits = ag_ndim(a) == ag_ndim(b) && axis >= 0 && axis < ag_ndim(a);
    int64_t dims[AG_MAX_DIMS];

    for (int i = 0; fits && i < ag_ndim(a); i++) {
        dims[i] = ag_dim(a, i);
        fits = i == axis || dims[i] == ag_dim(b, i);
    }
    if (!fits)
        return ag_fail(call->ctx, AG_ESHAPE, "concat: %s and %s do not fit together along axis %d",
                       OP_SHAPE(a), OP_SHAPE(b), axis);
    if (ag_dtype_of(a) != ag_dtype_of(b))
        return ag_fail(call->ctx, AG_EDTYPE, "concat: %s and %s differ in element type",
                       OP_SHAPE(a), OP_SHAPE(b));
    dims[axis] += ag_dim(b, axis);
    ag_out(call, ag_dtype_of(a), ag_ndim(a), dims);
    return AG_OK;
}

static ag_status concat_cpu(ag_call *call)
{
    const int axis = ((const op_concat_attr *)call->attr)->axis;
    const size_t size = ag_dtype_size(ag_dtype_of(call->in[0]));
    const split y = split_at(call->out[0], axis);
    char *at = ag_data(call->out[0]);

    for (int i = 0; i < 2; i++) {
        const split s = split_at(call->in[i], axis);
        const int64_t row = s.size * s.inner;
        cpu_copy_rows(at, y.size * y.inner, ag_data(call->in[i]), row, s.outer, row, size,
                      op_threads(call));
        at += (size_t)row * size;
    }
    return AG_OK;
}

static void concat_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const int axis = ((const op_concat_attr *)node->attr)->axis;
    const int64_t n_a = ag_dim(node->in[0], axis), n_b = ag_dim(node->in[1], axis);

    if (node->wants[0])
        grad[0] = ag_slice(ctx, d[0], axis, 0, n_a);
    if (node->wants[1])
        grad[1] = ag_slice(ctx, d[0], axis, n_a, n_b);
}

const ag_op ag_op_concat = {
    .name = "concat",
    .n_in = 2,
    .attr_size = sizeof(op_concat_attr),
    .shape = concat_shape,
    .run = {[AG_CPU] = concat_cpu},
    .grad = concat_grad,
};

ag_tensor *ag_concat(ag_ctx *ctx, ag_tensor *a, ag_tensor *b, int axis)
{
    const op_concat_attr attr = {a && axis < 0 ? axis + ag_ndim(a) : axis};

    return ag_apply(ctx, &ag_op_concat, (ag_tensor *[]){a, b}, &attr);
}

/* --- broadcast -------------------------------------------------------------------------------- */

/* Axis i of the result is axis i - lead of x; returns x's size there, 1 where it has none. */
static int64_t stretched(const ag_tensor *x, int n_dims, int i)
{
    const int at = i - (n_dims - ag_ndim(x));

    return at < 0 ? 1 : ag_dim(x, at);
}

static ag_status broadcast_shape(ag_call *call)
{
    const op_dims_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    bool fits = ag_ndim(x) <= a->n;

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    for (int i = 0; fits && i < a->n; i++)
        fits = stretched(x, a->n, i) == 1 || stretched(x, a->n, i) == a->dims[i];
    if (!fits)
        return ag_fail(call->ctx, AG_ESHAPE,
                       "broadcast: %s does not stretch to the %d axes wanted (last one %lld)",
                       OP_SHAPE(x), a->n, a->n ? (long long)a->dims[a->n - 1] : 1);
    ag_out(call, ag_dtype_of(x), a->n, a->dims);
    return AG_OK;
}

static ag_status broadcast_kernel(ag_call *call, const op_floats *f)
{
    const op_dims_attr *a = call->attr;
    int64_t x_dims[AG_MAX_DIMS];

    for (int i = 0; i < a->n; i++)
        x_dims[i] = stretched(call->in[0], a->n, i);
    cpu_broadcast(f->out[0], f->in[0], a->n, a->dims, x_dims, op_threads(call));
    return AG_OK;
}

static ag_status broadcast_cpu(ag_call *call)
{
    return op_run_f32(call, broadcast_kernel);
}

static void broadcast_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = op_sum_like(ctx, d[0], node->in[0]);
}

const ag_op ag_op_broadcast = {
    .name = "broadcast",
    .n_in = 1,
    .attr_size = sizeof(op_dims_attr),
    .shape = broadcast_shape,
    .run = {[AG_CPU] = broadcast_cpu},
    .grad = broadcast_grad,
    .cost = move_cost,
};

ag_tensor *ag_broadcast(ag_ctx *ctx, ag_tensor *x, int n_dims, const int64_t *dims)
{
    op_dims_attr a;

    if (!fill_dims(ctx, &a, "broadcast", n_dims, dims))
        return NULL;
    return ag_apply(ctx, &ag_op_broadcast, &x, &a);
}
