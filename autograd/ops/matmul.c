/* matmul.c - matrix products.
 *
 *   matmul  y = op(a) op(b), op the transpose when asked      linear  y = x w^T + b
 *
 * linear also adds what is given as `plus`, of y's shape and type; CUDA has no such kernel, there an ag_add
 * follows.
 *
 * Shapes  a [...,M,K], b [...,K,N] -> [...,M,N]; the leading axes are equal, or absent in one.
 *         x [...,I], w [O,I], b [O] or nothing -> [...,O]
 * Dtypes  f32 and bf16 in any mixture, sums in f32. matmul's result has the type of both inputs
 *         (f32 where they differ, and where it is the gradient of something f32); linear's is as x.
 * Keeps   for the gradient of one factor the other.
 *
 * Gradient, with D = dL/dy:
 *   matmul  da = D op(b)^T     db = op(a)^T D     (transposed back where op transposes)
 *   linear  dx = D w           dw = D^T x         db = sum of D over rows
 */
#include <string.h>

#include "autograd/cpu/gemm.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"
#include "autograd/ops/products.h"

/* Workspace of a product; the other devices' libraries keep their own. */
static size_t gemm_scratch(const ag_call *call, const cpu_gemm_call *g)
{
    cpu_state *state = ag_cpu(call->ctx);

    return state ? op_round_scratch(cpu_gemm_scratch(state, g)) : 0;
}

static ag_status gemm_run(ag_call *call, const cpu_gemm_call *g)
{
    const size_t bytes = gemm_scratch(call, g);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    if (!cpu_gemm(ag_cpu(call->ctx), g, scratch))
        return ag_fail(call->ctx, AG_ENOMEM, "%s: the matrix library refused a product of %lld x "
                       "%lld x %lld", call->op->name, (long long)g->m, (long long)g->n,
                       (long long)g->k);
    return AG_OK;
}

static double gemm_flops(const cpu_gemm_call *g)
{
    return 2.0 * (double)g->m * (double)g->n * (double)g->k * (double)(g->batch ? g->batch : 1);
}

/* --- matmul ----------------------------------------------------------------------------------- */

static ag_status matmul_shape(ag_call *call)
{
    const op_matmul_attr *attr = call->attr;
    const ag_tensor *a = call->in[0], *b = call->in[1];
    const ag_dtype dtype = attr->dtype < 0 ? op_join(a, b) : (ag_dtype)attr->dtype;
    const ag_tensor *lead = a;
    int64_t dims[AG_MAX_DIMS], inner_a, inner_b;
    bool fits = ag_ndim(a) >= 2 && ag_ndim(b) >= 2;

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (fits && op_n_lead(a) && op_n_lead(b))
        fits = op_n_lead(a) == op_n_lead(b) &&
               memcmp(ag_dims(a), ag_dims(b), (size_t)op_n_lead(a) * sizeof(int64_t)) == 0;
    if (fits) {
        inner_a = ag_dim(a, attr->transpose_a ? -2 : -1);
        inner_b = ag_dim(b, attr->transpose_b ? -1 : -2);
        fits = inner_a == inner_b;
    }
    if (!fits)
        return ag_fail(call->ctx, AG_ESHAPE, "matmul: %s%s and %s%s do not fit together",
                       OP_SHAPE(a), attr->transpose_a ? " transposed" : "", OP_SHAPE(b),
                       attr->transpose_b ? " transposed" : "");
    if (!op_is_float(call->ctx, dtype))
        return ag_fail(call->ctx, AG_EDTYPE, "matmul: no products in %s", ag_dtype_name(dtype));
    if (!op_n_lead(a))
        lead = b;
    memcpy(dims, ag_dims(lead), (size_t)op_n_lead(lead) * sizeof *dims);
    dims[op_n_lead(lead)] = ag_dim(a, attr->transpose_a ? -1 : -2);
    dims[op_n_lead(lead) + 1] = ag_dim(b, attr->transpose_b ? -2 : -1);
    ag_out(call, dtype, ag_ndim(lead), dims);
    return AG_OK;
}

static cpu_gemm_call matmul_gemm(const ag_call *call)
{
    const op_matmul_attr *attr = call->attr;
    const ag_tensor *a = call->in[0], *b = call->in[1], *y = call->out[0];
    const op_products p = op_matmul_products(call);

    return (cpu_gemm_call){
        .m = p.m,
        .n = p.n,
        .k = p.k,
        .a = ag_data(a),
        .b = ag_data(b),
        .c = ag_data(y),
        .transpose_a = attr->transpose_a,
        .transpose_b = attr->transpose_b,
        .a_type = ag_dtype_of(a),
        .b_type = ag_dtype_of(b),
        .c_type = ag_dtype_of(y),
        .batch = p.batch,
        .stride_a = p.stride_a,
        .stride_b = p.stride_b,
        .stride_c = p.stride_c,
        .alpha = 1.0f,
    };
}

static ag_status matmul_cpu(ag_call *call)
{
    const cpu_gemm_call g = matmul_gemm(call);

    if (ag_numel(call->out[0]) == 0)
        return AG_OK;
    return gemm_run(call, &g);
}

static void matmul_cost(const ag_call *call, ag_cost *cost)
{
    const cpu_gemm_call g = matmul_gemm(call);

    cost->flops = ag_numel(call->out[0]) ? gemm_flops(&g) : 0;
    cost->scratch = gemm_scratch(call, &g);
}

static void matmul_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_matmul_attr *attr = node->attr;
    const bool ta = attr->transpose_a, tb = attr->transpose_b;
    ag_tensor *a = node->in[0], *b = node->in[1];

    if (node->wants[0]) {
        const ag_dtype dtype = ag_dtype_of(a);
        ag_tensor *da = ta ? op_matmul_as(ctx, b, d[0], tb, true, dtype)
                           : op_matmul_as(ctx, d[0], b, false, !tb, dtype);
        grad[0] = op_sum_like(ctx, da, a);
    }
    if (node->wants[1]) {
        const ag_dtype dtype = ag_dtype_of(b);
        ag_tensor *rows = d[0], *db;
        if (!ta && !op_n_lead(b) && op_n_lead(a)) {
            /* one product over the rows of all, instead of many and a sum */
            a = ag_reshape(ctx, a, 2, (int64_t[]){op_n_products(a) * ag_dim(a, -2), ag_dim(a, -1)});
            rows = ag_reshape(ctx, rows, 2,
                              (int64_t[]){op_n_products(rows) * ag_dim(rows, -2), ag_dim(rows, -1)});
        }
        db = tb ? op_matmul_as(ctx, rows, a, true, ta, dtype)
                : op_matmul_as(ctx, a, rows, !ta, false, dtype);
        grad[1] = op_sum_like(ctx, db, b);
    }
}

static unsigned matmul_saves(const ag_node *node)
{
    return (node->wants[0] ? AG_SAVE_IN(1) : 0) | (node->wants[1] ? AG_SAVE_IN(0) : 0);
}

const ag_op ag_op_matmul = {
    .name = "matmul",
    .n_in = 2,
    .attr_size = sizeof(op_matmul_attr),
    .shape = matmul_shape,
    .run = {[AG_CPU] = matmul_cpu},
    .grad = matmul_grad,
    .saves = matmul_saves,
    .cost = matmul_cost,
};

ag_tensor *ag_matmul(ag_ctx *ctx, ag_tensor *a, ag_tensor *b, bool transpose_a, bool transpose_b)
{
    return ag_apply(ctx, &ag_op_matmul, (ag_tensor *[]){a, b},
                    &(op_matmul_attr){transpose_a, transpose_b, -1});
}

ag_tensor *op_matmul_as(ag_ctx *ctx, ag_tensor *a, ag_tensor *b, bool transpose_a, bool transpose_b,
                        ag_dtype dtype)
{
    return ag_apply(ctx, &ag_op_matmul, (ag_tensor *[]){a, b},
                    &(op_matmul_attr){transpose_a, transpose_b, (int)dtype});
}

/* --- linear ----------------------------------------------------------------------------------- */

static ag_status linear_shape(ag_call *call)
{
    const ag_tensor *x = call->in[0], *w = call->in[1], *b = call->in[2];
    int64_t dims[AG_MAX_DIMS];

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(x) < 1 || ag_ndim(w) != 2 || ag_dim(x, -1) != ag_dim(w, 1))
        return ag_fail(call->ctx, AG_ESHAPE,
                       "linear: want x [...,I] and w [O,I], got %s and %s%s%s", OP_SHAPE(x),
                       OP_SHAPE(w), *ag_name(w) ? " of " : "", ag_name(w));
    if (b && (ag_ndim(b) != 1 || ag_dim(b, 0) != ag_dim(w, 0)))
        return ag_fail(call->ctx, AG_ESHAPE, "linear: want a bias [%lld], got %s",
                       (long long)ag_dim(w, 0), OP_SHAPE(b));
    memcpy(dims, ag_dims(x), (size_t)ag_ndim(x) * sizeof *dims);
    dims[ag_ndim(x) - 1] = ag_dim(w, 0);
    ag_out(call, ag_dtype_of(x), ag_ndim(x), dims);
    return op_check_dims(call, 3, ag_ndim(x), dims);
}

static cpu_gemm_call linear_gemm(const ag_call *call)
{
    const ag_tensor *x = call->in[0], *w = call->in[1], *b = call->in[2], *plus = call->in[3], *y = call->out[0];

    return (cpu_gemm_call){
        .m = op_product(ag_dims(x), 0, ag_ndim(x) - 1),
        .n = ag_dim(w, 0),
        .k = ag_dim(w, 1),
        .a = ag_data(x),
        .b = ag_data(w),
        .c = ag_data(y),
        .transpose_b = true,
        .a_type = ag_dtype_of(x),
        .b_type = ag_dtype_of(w),
        .c_type = ag_dtype_of(y),
        .alpha = 1.0f,
        .bias = b ? ag_data(b) : NULL,
        .plus = plus ? ag_data(plus) : NULL,
    };
}

static ag_status linear_cpu(ag_call *call)
{
    const ag_tensor *b = call->in[2];
    cpu_gemm_call g = linear_gemm(call);

    if (ag_numel(call->out[0]) == 0)
        return AG_OK;
    if (op_f32_scratch(b)) {
        float *wide = ag_scratch(call->ctx, op_f32_scratch(b));
        if (!wide)
            return ag_status_of(call->ctx);
        g.bias = op_as_f32(call, b, wide);
    }
    return gemm_run(call, &g);
}

static void linear_cost(const ag_call *call, ag_cost *cost)
{
    const cpu_gemm_call g = linear_gemm(call);

    cost->flops = gemm_flops(&g);
    cost->scratch = gemm_scratch(call, &g) + op_f32_scratch(call->in[2]);
}

static void linear_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    ag_tensor *x = node->in[0], *w = node->in[1], *b = node->in[2];
    const int64_t n_in = ag_dim(w, 1), n_out = ag_dim(w, 0);
    const int64_t rows = op_product(ag_dims(x), 0, ag_ndim(x) - 1);
    ag_tensor *d2 = ag_reshape(ctx, d[0], 2, (int64_t[]){rows, n_out});

    if (node->wants[0])
        grad[0] = op_reshape_like(ctx, op_matmul_as(ctx, d2, w, false, false, ag_dtype_of(x)), x);
    if (node->wants[1])
        grad[1] = op_matmul_as(ctx, d2, ag_reshape(ctx, x, 2, (int64_t[]){rows, n_in}), true, false,
                               ag_dtype_of(w));
    if (node->wants[2])
        grad[2] = op_sum_like(ctx, d2, b);
    if (node->wants[3])
        grad[3] = op_sum_like(ctx, d[0], node->in[3]);
}

static unsigned linear_saves(const ag_node *node)
{
    return (node->wants[0] ? AG_SAVE_IN(1) : 0) | (node->wants[1] ? AG_SAVE_IN(0) : 0);
}

const ag_op ag_op_linear = {
    .name = "linear",
    .n_in = 4,
    .optional = 1u << 2 | 1u << 3,
    .shape = linear_shape,
    .run = {[AG_CPU] = linear_cpu},
    .grad = linear_grad,
    .saves = linear_saves,
    .cost = linear_cost,
};

ag_tensor *ag_linear(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b)
{
    return ag_linear_plus(ctx, x, w, b, NULL);
}

ag_tensor *ag_linear_plus(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b, ag_tensor *plus)
{
    if (plus && ag_cpu(ctx) && x && ag_dtype_of(plus) == ag_dtype_of(x))
        return ag_apply(ctx, &ag_op_linear, (ag_tensor *[]){x, w, b, plus}, NULL);
    x = ag_apply(ctx, &ag_op_linear, (ag_tensor *[]){x, w, b, NULL}, NULL);
    return plus ? ag_add(ctx, plus, x) : x;
}
