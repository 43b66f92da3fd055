/* embedding.c - rows of a table by number.
 *
 *   embedding           y[i,:] = table[ids[i],:]
 *   embedding_backward  dtable[v,:] = sum_{ids[i] = v} D[i,:]
 *
 * Shapes  table [V,D], ids i64 [...] -> [...,D]. Dtypes  table f32 or bf16; y as table.
 * An id outside 0..V-1 is refused, naming it. The sum runs in the order of i: same bits every time.
 * Keeps   ids. The two ops are each other's gradient.
 */
#include <string.h>

#include "autograd/cpu/layout.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static ag_status check_ids(const ag_call *call)
{
    if (ag_dtype_of(call->in[1]) != AG_I64)
        return ag_fail(call->ctx, AG_EDTYPE, "%s: want ids of type i64, got %s", call->op->name,
                       OP_SHAPE(call->in[1]));
    return op_check_floats(call, 1u << 1);
}

static ag_status embedding_shape(ag_call *call)
{
    const ag_tensor *table = call->in[0], *ids = call->in[1];
    int64_t dims[AG_MAX_DIMS];

    if (check_ids(call) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(table) != 2 || ag_ndim(ids) >= AG_MAX_DIMS)
        return ag_fail(call->ctx, AG_ESHAPE, "embedding: want a table [V,D], got %s",
                       OP_SHAPE(table));
    memcpy(dims, ag_dims(ids), (size_t)ag_ndim(ids) * sizeof *dims);
    dims[ag_ndim(ids)] = ag_dim(table, 1);
    ag_out(call, ag_dtype_of(table), ag_ndim(ids) + 1, dims);
    return AG_OK;
}

static ag_status check_range(const ag_call *call, int64_t vocabulary)
{
    const int64_t *ids = ag_data(call->in[1]), n = ag_numel(call->in[1]);

    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocabulary)
            return ag_fail(call->ctx, AG_EINVAL,
                           "%s: id %lld at %lld is not in a table of %lld rows", call->op->name,
                           (long long)ids[i], (long long)i, (long long)vocabulary);
    return AG_OK;
}

static ag_status embedding_kernel(ag_call *call, const op_floats *f)
{
    const ag_tensor *table = call->in[0], *ids = call->in[1];

    if (check_range(call, ag_dim(table, 0)) == AG_OK)
        cpu_embedding(f->out[0], f->in[0], ag_data(ids), ag_numel(ids), ag_dim(table, 1),
                      op_threads(call));
    return ag_status_of(call->ctx);
}

static ag_status embedding_cpu(ag_call *call)
{
    return op_run_f32(call, embedding_kernel);
}

static unsigned ids_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(1);
}

static void embedding_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = op_embedding_backward(ctx, d[0], node->in[1], ag_dim(node->in[0], 0));
}

static void embedding_cost(const ag_call *call, ag_cost *cost)
{
    cost->bytes = 2.0 * (double)ag_nbytes(call->out[0]);
    cost->scratch = op_run_f32_scratch(call);
}

const ag_op ag_op_embedding = {
    .name = "embedding",
    .n_in = 2,
    .shape = embedding_shape,
    .run = {[AG_CPU] = embedding_cpu},
    .grad = embedding_grad,
    .saves = ids_saves,
    .cost = embedding_cost,
};

ag_tensor *ag_embedding(ag_ctx *ctx, ag_tensor *table, ag_tensor *ids)
{
    return ag_apply(ctx, &ag_op_embedding, (ag_tensor *[]){table, ids}, NULL);
}

/* --- the adjoint: D, ids -> dtable ------------------------------------------------------------ */

static ag_status backward_shape(ag_call *call)
{
    const op_embedding_attr *a = call->attr;
    const ag_tensor *d = call->in[0], *ids = call->in[1];

    if (check_ids(call) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(d) != ag_ndim(ids) + 1 ||
        op_product(ag_dims(d), 0, ag_ndim(ids)) != ag_numel(ids))
        return ag_fail(call->ctx, AG_ESHAPE, "embedding_backward: %s does not belong to ids %s",
                       OP_SHAPE(d), OP_SHAPE(ids));
    ag_out(call, ag_dtype_of(d), 2, (int64_t[]){a->vocabulary, ag_dim(d, -1)});
    return AG_OK;
}

static ag_status backward_kernel(ag_call *call, const op_floats *f)
{
    const op_embedding_attr *a = call->attr;
    const ag_tensor *d = call->in[0], *ids = call->in[1];

    if (check_range(call, a->vocabulary) == AG_OK)
        cpu_embedding_grad(f->out[0], f->in[0], ag_data(ids), ag_numel(ids), ag_dim(d, -1),
                           a->vocabulary, op_threads(call));
    return ag_status_of(call->ctx);
}

static ag_status backward_cpu(ag_call *call)
{
    return op_run_f32(call, backward_kernel);
}

static void backward_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = ag_embedding(ctx, d[0], node->in[1]);
}

const ag_op ag_op_embedding_backward = {
    .name = "embedding_backward",
    .n_in = 2,
    .attr_size = sizeof(op_embedding_attr),
    .shape = backward_shape,
    .run = {[AG_CPU] = backward_cpu},
    .grad = backward_grad,
    .saves = ids_saves,
    .cost = op_cost_elements,
};

ag_tensor *op_embedding_backward(ag_ctx *ctx, ag_tensor *d, ag_tensor *ids, int64_t vocabulary)
{
    return ag_apply(ctx, &ag_op_embedding_backward, (ag_tensor *[]){d, ids},
                    &(op_embedding_attr){vocabulary});
}
