/* geglu.c - u = (a, g) -> a gelu(g): the gated feed-forward of a transformer block.
 *
 * Source  Shazeer 2020, arXiv:2002.05202; gelu is the exact one, x Phi(x).
 * Shapes  u [...,2C] -> y [...,C]. Dtypes  f32 or bf16; y as u. Keeps  u.
 *
 * Gradient, with D = dL/dy:  du = (D gelu(g), D a gelu'(g))
 */
#include <string.h>

#include "autograd/cpu/elementwise.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status geglu_shape(ag_call *call)
{
    const ag_tensor *u = call->in[0];
    int64_t dims[AG_MAX_DIMS];

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(u) < 1 || ag_dim(u, -1) % 2)
        return ag_fail(call->ctx, AG_ESHAPE, "geglu: want [...,2C], got %s", OP_SHAPE(u));
    memcpy(dims, ag_dims(u), (size_t)ag_ndim(u) * sizeof *dims);
    dims[ag_ndim(u) - 1] /= 2;
    ag_out(call, ag_dtype_of(u), ag_ndim(u), dims);
    return AG_OK;
}

static ag_status geglu_cpu(ag_call *call)
{
    const ag_tensor *u = call->in[0];

    cpu_geglu(ag_data(call->out[0]), ag_data(u), ag_dtype_of(u), op_product(ag_dims(u), 0, ag_ndim(u) - 1),
              ag_dim(u, -1) / 2, op_threads(call), op_isa(call));
    return AG_OK;
}

static void geglu_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    ag_tensor *u = node->in[0];

    if (!ag_recording(ctx)) {
        grad[0] = ag_apply(ctx, &ag_op_geglu_backward, (ag_tensor *[]){u, d[0]}, NULL);
    } else {
        const int64_t c = ag_dim(u, -1) / 2;
        ag_tensor *a = ag_slice(ctx, u, -1, 0, c), *g = ag_slice(ctx, u, -1, c, c);
        grad[0] = ag_concat(ctx, ag_mul(ctx, d[0], ag_gelu(ctx, g)),
                            op_unary(ctx, AG_GELU, 1, g, ag_mul(ctx, d[0], a), 0), -1);
    }
}

static unsigned geglu_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(0);
}

static void geglu_cost(const ag_call *call, ag_cost *cost)
{
    cost->flops = 20.0 * (double)ag_numel(call->out[0]);
}

const ag_op ag_op_geglu = {
    .name = "geglu",
    .n_in = 1,
    .shape = geglu_shape,
    .run = {[AG_CPU] = geglu_cpu},
    .grad = geglu_grad,
    .saves = geglu_saves,
    .cost = geglu_cost,
};

ag_tensor *ag_geglu(ag_ctx *ctx, ag_tensor *u)
{
    return ag_apply(ctx, &ag_op_geglu, &u, NULL);
}

/* --- the fused backward pass: inputs u, D ----------------------------------------------------- */

static ag_status geglu_backward_shape(ag_call *call)
{
    const ag_tensor *u = call->in[0], *d = call->in[1];

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_numel(u) != 2 * ag_numel(d))
        return ag_fail(call->ctx, AG_ESHAPE, "geglu_backward: u is %s, the gradient %s",
                       OP_SHAPE(u), OP_SHAPE(d));
    ag_out_like(call, u);
    return AG_OK;
}

/* u and D of different types. */
static ag_status geglu_backward_kernel(ag_call *call, const op_floats *f)
{
    const ag_tensor *u = call->in[0];

    cpu_geglu_grad(f->out[0], f->in[0], f->in[1], AG_F32, op_product(ag_dims(u), 0, ag_ndim(u) - 1),
                   ag_dim(u, -1) / 2, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status geglu_backward_cpu(ag_call *call)
{
    const ag_tensor *u = call->in[0], *d = call->in[1];

    if (ag_dtype_of(u) != ag_dtype_of(d))
        return op_run_f32(call, geglu_backward_kernel);
    cpu_geglu_grad(ag_data(call->out[0]), ag_data(u), ag_data(d), ag_dtype_of(u),
                   op_product(ag_dims(u), 0, ag_ndim(u) - 1), ag_dim(u, -1) / 2, op_threads(call),
                   op_isa(call));
    return AG_OK;
}

static void geglu_backward_cost(const ag_call *call, ag_cost *cost)
{
    geglu_cost(call, cost);
    if (ag_dtype_of(call->in[0]) != ag_dtype_of(call->in[1]))
        cost->scratch = op_run_f32_scratch(call);
}

const ag_op ag_op_geglu_backward = {
    .name = "geglu_backward",
    .n_in = 2,
    .shape = geglu_backward_shape,
    .run = {[AG_CPU] = geglu_backward_cpu},
    .cost = geglu_backward_cost,
};
