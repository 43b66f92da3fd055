/* optimizer.c - one step of an optimizer over one tensor.
 *
 * Like the ops of inplace.c these change their inputs and have no gradient. What changes from
 * update to update comes in a tensor of scalars, ordered as in autograd/cpu/optimizer.h.
 */
#include "autograd/cpu/optimizer.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

/* --- adamw_ ----------------------------------------------------------------------------------- */

/* p, m, v, g f32 of one shape; scalars [8], f32 or f64, ordered as in autograd/cpu/optimizer.h. */
static ag_status adamw_shape(ag_call *call)
{
    const ag_tensor *p = call->in[0], *scalars = call->in[4];

    if (op_check_target(call) != AG_OK)
        return ag_status_of(call->ctx);
    for (int i = 1; i < 4; i++) {
        if (op_check_dims(call, i, ag_ndim(p), ag_dims(p)) != AG_OK)
            return ag_status_of(call->ctx);
        if (ag_dtype_of(call->in[i]) != AG_F32)
            return ag_fail(call->ctx, AG_EDTYPE, "adamw_: want f32, got %s for input %d",
                           OP_SHAPE(call->in[i]), i);
    }
    if (ag_ndim(scalars) != 1 || ag_dim(scalars, 0) != CPU_ADAMW_N ||
        (ag_dtype_of(scalars) != AG_F32 && ag_dtype_of(scalars) != AG_F64))
        return ag_fail(call->ctx, AG_ESHAPE, "adamw_: want scalars [%d], got %s", CPU_ADAMW_N,
                       OP_SHAPE(scalars));
    return AG_OK;
}

static ag_status adamw_cpu(ag_call *call)
{
    const ag_tensor *t = call->in[4];
    double scalars[CPU_ADAMW_N];

    for (int i = 0; i < CPU_ADAMW_N; i++)
        scalars[i] = ag_dtype_of(t) == AG_F64 ? ((const double *)ag_data(t))[i]
                                              : ((const float *)ag_data(t))[i];
    cpu_adamw(ag_data(call->in[0]), ag_data(call->in[1]), ag_data(call->in[2]),
              ag_data(call->in[3]), ag_numel(call->in[0]), scalars, op_threads(call), op_isa(call));
    return AG_OK;
}

static void adamw_cost(const ag_call *call, ag_cost *cost)
{
    cost->bytes = 7.0 * (double)ag_nbytes(call->in[0]); /* p, m, v twice, g once */
    cost->flops = 15.0 * (double)ag_numel(call->in[0]);
}

const ag_op ag_op_adamw_ = {
    .name = "adamw_",
    .n_in = 5,
    .shape = adamw_shape,
    .run = {[AG_CPU] = adamw_cpu},
    .cost = adamw_cost,
};

ag_tensor *ag_adamw_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *v, ag_tensor *g,
                     ag_tensor *scalars)
{
    return ag_apply(ctx, &ag_op_adamw_, (ag_tensor *[]){p, m, v, g, scalars}, NULL);
}
