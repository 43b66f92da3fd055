/* cast.c - the same numbers in another element type; detaching; copying.
 *
 * Between floating types the gradient is cast back. Casts from or to integers have none: an integer
 * never asks for a gradient.
 */
#include <string.h>

#include "autograd/cpu/elementwise.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status cast_shape(ag_call *call)
{
    const op_cast_attr *a = call->attr;

    if (a->dtype < 0 || a->dtype >= AG_N_DTYPES)
        return ag_fail(call->ctx, AG_EDTYPE, "cast: there is no element type %d", a->dtype);
    ag_out(call, (ag_dtype)a->dtype, ag_ndim(call->in[0]), ag_dims(call->in[0]));
    return AG_OK;
}

static ag_status cast_cpu(ag_call *call)
{
    const ag_tensor *x = call->in[0], *y = call->out[0];

    cpu_cast(ag_data(y), ag_dtype_of(y), ag_data(x), ag_dtype_of(x), ag_numel(x), op_threads(call),
             op_isa(call));
    return AG_OK;
}

static bool is_floating(ag_dtype dtype)
{
    return dtype == AG_F32 || dtype == AG_BF16 || dtype == AG_F16 || dtype == AG_F64;
}

static void cast_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_cast_attr *a = node->attr;

    if (is_floating((ag_dtype)a->dtype))
        grad[0] = ag_cast(ctx, d[0], ag_dtype_of(node->in[0]));
    else
        ag_fail(ctx, AG_EDTYPE, "cast: no gradient through %s", ag_dtype_name((ag_dtype)a->dtype));
}

const ag_op ag_op_cast = {
    .name = "cast",
    .n_in = 1,
    .attr_size = sizeof(op_cast_attr),
    .shape = cast_shape,
    .run = {[AG_CPU] = cast_cpu},
    .grad = cast_grad,
};

ag_tensor *ag_cast(ag_ctx *ctx, ag_tensor *x, ag_dtype dtype)
{
    if (x && ag_status_of(ctx) == AG_OK && ag_dtype_of(x) == dtype)
        return x;
    return ag_apply(ctx, &ag_op_cast, &x, &(op_cast_attr){(int)dtype});
}

ag_tensor *ag_detach(ag_ctx *ctx, ag_tensor *x)
{
    const bool was = ag_record(ctx, false);
    ag_tensor *y = x ? ag_reshape(ctx, x, ag_ndim(x), ag_dims(x))
                     : ag_apply(ctx, &ag_op_reshape, &x, NULL); /* fails, saying so */

    ag_record(ctx, was);
    return y;
}

/* --- copy ------------------------------------------------------------------------------------- */

/* Input 0 is written, input 1 read. */
static ag_status copy_shape(ag_call *call)
{
    if (op_check_in_place(call) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_numel(call->in[0]) != ag_numel(call->in[1]))
        return ag_fail(call->ctx, AG_ESHAPE, "copy_: %s cannot hold the values of %s",
                       OP_SHAPE(call->in[0]), OP_SHAPE(call->in[1]));
    return AG_OK;
}

static ag_status copy_cpu(ag_call *call)
{
    const ag_tensor *y = call->in[0], *x = call->in[1];

    if (ag_data(y) != ag_data(x))
        cpu_cast(ag_data(y), ag_dtype_of(y), ag_data(x), ag_dtype_of(x), ag_numel(x),
                 op_threads(call), op_isa(call));
    return AG_OK;
}

const ag_op ag_op_copy_ = {
    .name = "copy_",
    .n_in = 2,
    .shape = copy_shape,
    .run = {[AG_CPU] = copy_cpu},
};

ag_status ag_copy(ag_ctx *ctx, ag_tensor *dst, const ag_tensor *src)
{
    const bool was = ag_record(ctx, false);

    /* the op reads src and writes dst only */
    ag_apply(ctx, &ag_op_copy_, (ag_tensor *[]){dst, (ag_tensor *)src}, NULL);
    ag_record(ctx, was);
    return ag_status_of(ctx);
}
