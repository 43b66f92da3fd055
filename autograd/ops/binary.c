/* binary.c - a + b, a - b, a b, a / b, max, min with NumPy's broadcasting.
 *
 * Shapes  aligned at the last axis; sizes are equal or one of them is 1, which stretches.
 * Dtypes  f32 or bf16; the result has the type of both, f32 where they differ.
 * Keeps   mul: the other factor; div: b, and y where b asks; max, min: both.
 *
 * Gradient, with D = dL/dy, each summed down to its input's shape:
 *   mul  D b, D a       div  D / b, -(D / b) y       max  D step(a, b), D step(b, a)
 * where step(a,b) is 1 for a > b, 1/2 for a tie and else 0; it is constant between ties, so its own
 * derivative is zero and it is given detached inputs.
 */
#include <string.h>

#include "autograd/cpu/elementwise.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

typedef struct aligned_dims {
    int n;
    int64_t y[AG_MAX_DIMS], a[AG_MAX_DIMS], b[AG_MAX_DIMS];
} aligned_dims;

/* Returns false when the shapes do not fit. */
static bool align(aligned_dims *out, const ag_tensor *a, const ag_tensor *b)
{
    out->n = ag_ndim(a) > ag_ndim(b) ? ag_ndim(a) : ag_ndim(b);
    for (int i = 0; i < out->n; i++) {
        const int ia = i - (out->n - ag_ndim(a)), ib = i - (out->n - ag_ndim(b));
        out->a[i] = ia < 0 ? 1 : ag_dim(a, ia);
        out->b[i] = ib < 0 ? 1 : ag_dim(b, ib);
        if (out->a[i] != out->b[i] && out->a[i] != 1 && out->b[i] != 1)
            return false;
        out->y[i] = out->a[i] == 1 ? out->b[i] : out->a[i];
    }
    return true;
}

static ag_status binary_shape(ag_call *call)
{
    aligned_dims dims;

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (!align(&dims, call->in[0], call->in[1]))
        return ag_fail(call->ctx, AG_ESHAPE, "%s: %s and %s do not fit together", call->op->name,
                       OP_SHAPE(call->in[0]), OP_SHAPE(call->in[1]));
    ag_out(call, op_join(call->in[0], call->in[1]), dims.n, dims.y);
    return AG_OK;
}

static cpu_binary_kind kind_of(const ag_op *op)
{
    static const struct {
        const ag_op *op;
        cpu_binary_kind kind;
    } KINDS[] = {{&ag_op_add, CPU_ADD}, {&ag_op_sub, CPU_SUB},     {&ag_op_mul, CPU_MUL},
                 {&ag_op_div, CPU_DIV}, {&ag_op_maximum, CPU_MAX}, {&ag_op_minimum, CPU_MIN},
                 {&ag_op_step, CPU_STEP}};
    size_t k = 0;

    while (KINDS[k].op != op)
        k++;
    return KINDS[k].kind;
}

static ag_status binary_kernel(ag_call *call, const op_floats *f)
{
    aligned_dims dims;

    align(&dims, call->in[0], call->in[1]);
    cpu_binary(f->out[0], kind_of(call->op), f->in[0], f->in[1], dims.n, dims.y, dims.a, dims.b,
               op_threads(call), op_isa(call));
    return AG_OK;
}

/* Both bf16, of one shape: needs no scratch. */
static bool is_plain_bf16(const ag_call *call)
{
    const ag_tensor *a = call->in[0], *b = call->in[1];

    return ag_dtype_of(a) == AG_BF16 && ag_dtype_of(b) == AG_BF16 && op_same_dims(a, b);
}

static ag_status binary_cpu(ag_call *call)
{
    if (!is_plain_bf16(call))
        return op_run_f32(call, binary_kernel);
    cpu_binary_bf16(ag_data(call->out[0]), kind_of(call->op), ag_data(call->in[0]),
                    ag_data(call->in[1]), ag_numel(call->out[0]), op_threads(call), op_isa(call));
    return AG_OK;
}

static void binary_cost(const ag_call *call, ag_cost *cost)
{
    op_cost_elements(call, cost);
    if (is_plain_bf16(call))
        cost->scratch = 0;
}

/* --- add, sub --------------------------------------------------------------------------------- */

static void add_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    for (int i = 0; i < 2; i++)
        if (node->wants[i])
            grad[i] = op_sum_like(ctx, d[0], node->in[i]);
}

static void sub_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    if (node->wants[0])
        grad[0] = op_sum_like(ctx, d[0], node->in[0]);
    if (node->wants[1])
        grad[1] = ag_neg(ctx, op_sum_like(ctx, d[0], node->in[1]));
}

/* --- mul, div --------------------------------------------------------------------------------- */

static void mul_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    for (int i = 0; i < 2; i++)
        if (node->wants[i])
            grad[i] = op_sum_like(ctx, ag_mul(ctx, d[0], node->in[1 - i]), node->in[i]);
}

static unsigned mul_saves(const ag_node *node)
{
    return (node->wants[0] ? AG_SAVE_IN(1) : 0) | (node->wants[1] ? AG_SAVE_IN(0) : 0);
}

static void div_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    ag_tensor *db = ag_div(ctx, d[0], node->in[1]);

    if (node->wants[0])
        grad[0] = op_sum_like(ctx, db, node->in[0]);
    if (node->wants[1])
        grad[1] = op_sum_like(ctx, ag_neg(ctx, ag_mul(ctx, db, node->out[0])), node->in[1]);
}

static unsigned div_saves(const ag_node *node)
{
    return AG_SAVE_IN(1) | (node->wants[1] ? AG_SAVE_OUT(0) : 0);
}

/* --- maximum, minimum ------------------------------------------------------------------------- */

static unsigned both_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(0) | AG_SAVE_IN(1);
}

static void maximum_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    for (int i = 0; i < 2; i++)
        if (node->wants[i])
            grad[i] = op_sum_like(ctx,
                                  ag_mul(ctx, d[0], op_step(ctx, node->in[i], node->in[1 - i])),
                                  node->in[i]);
}

static void minimum_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    for (int i = 0; i < 2; i++)
        if (node->wants[i])
            grad[i] = op_sum_like(ctx,
                                  ag_mul(ctx, d[0], op_step(ctx, node->in[1 - i], node->in[i])),
                                  node->in[i]);
}

#define BINARY_OP(op_name, its_grad, its_saves)                                                   \
    const ag_op ag_op_##op_name = {                                                               \
        .name = #op_name,                                                                         \
        .n_in = 2,                                                                                \
        .shape = binary_shape,                                                                    \
        .run = {[AG_CPU] = binary_cpu},                                                           \
        .grad = its_grad,                                                                         \
        .saves = its_saves,                                                                       \
        .cost = binary_cost,                                                                      \
    }

BINARY_OP(add, add_grad, NULL);
BINARY_OP(sub, sub_grad, NULL);
BINARY_OP(mul, mul_grad, mul_saves);
BINARY_OP(div, div_grad, div_saves);
BINARY_OP(maximum, maximum_grad, both_saves);
BINARY_OP(minimum, minimum_grad, both_saves);
BINARY_OP(step, NULL, NULL);

ag_tensor *ag_add(ag_ctx *ctx, ag_tensor *a, ag_tensor *b)
{
    return ag_apply(ctx, &ag_op_add, (ag_tensor *[]){a, b}, NULL);
}

ag_tensor *ag_sub(ag_ctx *ctx, ag_tensor *a, ag_tensor *b)
{
    return ag_apply(ctx, &ag_op_sub, (ag_tensor *[]){a, b}, NULL);
}

ag_tensor *ag_mul(ag_ctx *ctx, ag_tensor *a, ag_tensor *b)
{
    return ag_apply(ctx, &ag_op_mul, (ag_tensor *[]){a, b}, NULL);
}

ag_tensor *ag_div(ag_ctx *ctx, ag_tensor *a, ag_tensor *b)
{
    return ag_apply(ctx, &ag_op_div, (ag_tensor *[]){a, b}, NULL);
}

ag_tensor *ag_maximum(ag_ctx *ctx, ag_tensor *a, ag_tensor *b)
{
    return ag_apply(ctx, &ag_op_maximum, (ag_tensor *[]){a, b}, NULL);
}

ag_tensor *ag_minimum(ag_ctx *ctx, ag_tensor *a, ag_tensor *b)
{
    return ag_apply(ctx, &ag_op_minimum, (ag_tensor *[]){a, b}, NULL);
}

ag_tensor *op_step(ag_ctx *ctx, ag_tensor *a, ag_tensor *b)
{
    return ag_apply(ctx, &ag_op_step, (ag_tensor *[]){ag_detach(ctx, a), ag_detach(ctx, b)}, NULL);
}
