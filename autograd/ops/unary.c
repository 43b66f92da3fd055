/* unary.c - functions of one number, and their derivatives up to the third.
 *
 *   unary  y = d f^(order)(x)          affine  y = a x + b          clamp  y = min(max(x, lo), hi)
 *
 * One op serves every derivative: with D the gradient of y,
 *   dL/dx = D d f^(order+1)(x)         dL/dd = D f^(order)(x)
 * which are the same op again. At order 3 there is no next one, and the gradient by x is refused.
 *
 * Shapes  any; d as x. Dtypes  f32 or bf16; y as x.
 * Keeps   x, and d where x asks for a gradient.
 */
#include "autograd/cpu/elementwise.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

enum { ORDER_MAX = 3 };

static ag_status unary_shape(ag_call *call)
{
    const op_unary_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    if (a->kind < 0 || a->kind >= AG_N_UNARY)
        return ag_fail(call->ctx, AG_EINVAL, "unary: there is no function %d", a->kind);
    if (op_check_floats(call, 0) != AG_OK ||
        op_check_dims(call, 1, ag_ndim(x), ag_dims(x)) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out_like(call, x);
    return AG_OK;
}

static ag_status unary_kernel(ag_call *call, const op_floats *f)
{
    const op_unary_attr *a = call->attr;

    cpu_unary(f->out[0], (ag_unary_kind)a->kind, a->order, f->in[0], f->in[1],
              ag_numel(call->out[0]), a->parameter, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status unary_cpu(ag_call *call)
{
    return op_run_f32(call, unary_kernel);
}

static unsigned unary_saves(const ag_node *node)
{
    return AG_SAVE_IN(0) | (node->in[1] && node->wants[0] ? AG_SAVE_IN(1) : 0);
}

static void unary_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_unary_attr *a = node->attr;
    ag_tensor *x = node->in[0];

    if (node->wants[0]) {
        ag_tensor *both = node->in[1] ? ag_mul(ctx, d[0], node->in[1]) : d[0];
        if (a->order == ORDER_MAX)
            ag_fail(ctx, AG_EUNSUPPORTED,
                    "unary: the fourth derivative of function %d is not there", a->kind);
        else
            grad[0] = op_unary(ctx, (ag_unary_kind)a->kind, a->order + 1, x, both, a->parameter);
    }
    if (node->wants[1])
        grad[1] = op_unary(ctx, (ag_unary_kind)a->kind, a->order, x, d[0], a->parameter);
}

static void unary_cost(const ag_call *call, ag_cost *cost)
{
    op_cost_elements(call, cost);
    cost->flops *= 10; /* an exponential by polynomial, roughly */
}

const ag_op ag_op_unary = {
    .name = "unary",
    .n_in = 2,
    .optional = 1u << 1,
    .attr_size = sizeof(op_unary_attr),
    .shape = unary_shape,
    .run = {[AG_CPU] = unary_cpu},
    .grad = unary_grad,
    .saves = unary_saves,
    .cost = unary_cost,
};

ag_tensor *op_unary(ag_ctx *ctx, ag_unary_kind kind, int order, ag_tensor *x, ag_tensor *d,
                    double parameter)
{
    const op_unary_attr a = {.parameter = parameter, .kind = (int)kind, .order = order};

    return ag_apply(ctx, &ag_op_unary, (ag_tensor *[]){x, d}, &a);
}

ag_tensor *ag_unary(ag_ctx *ctx, ag_unary_kind kind, ag_tensor *x, double parameter)
{
    return op_unary(ctx, kind, 0, x, NULL, parameter);
}

/* --- affine ----------------------------------------------------------------------------------- */

static ag_status like_shape(ag_call *call)
{
    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out_like(call, call->in[0]);
    return AG_OK;
}

static ag_status affine_kernel(ag_call *call, const op_floats *f)
{
    const op_affine_attr *a = call->attr;

    cpu_affine(f->out[0], f->in[0], (float)a->a, (float)a->b, ag_numel(call->out[0]),
               op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status affine_cpu(ag_call *call)
{
    return op_run_f32(call, affine_kernel);
}

static void affine_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_affine_attr *a = node->attr;

    grad[0] = a->a == 1.0 ? d[0] : ag_scale(ctx, d[0], a->a);
}

const ag_op ag_op_affine = {
    .name = "affine",
    .n_in = 1,
    .attr_size = sizeof(op_affine_attr),
    .shape = like_shape,
    .run = {[AG_CPU] = affine_cpu},
    .grad = affine_grad,
    .cost = op_cost_elements,
};

ag_tensor *ag_affine(ag_ctx *ctx, ag_tensor *x, double a, double b)
{
    return ag_apply(ctx, &ag_op_affine, &x, &(op_affine_attr){a, b});
}

/* --- clamp ------------------------------------------------------------------------------------ */

static ag_status clamp_shape(ag_call *call)
{
    const op_clamp_attr *a = call->attr;

    if (!(a->low <= a->high))
        return ag_fail(call->ctx, AG_EINVAL, "clamp: the low end %g is above the high end %g",
                       a->low, a->high);
    return like_shape(call);
}

static ag_status clamp_kernel(ag_call *call, const op_floats *f)
{
    const op_clamp_attr *a = call->attr;

    cpu_clamp(f->out[0], f->in[0], (float)a->low, (float)a->high, ag_numel(call->out[0]),
              op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status clamp_cpu(ag_call *call)
{
    return op_run_f32(call, clamp_kernel);
}

/* dx = d where low <= x <= high, else 0. Constant in x between the ends, so x is detached. */
static void clamp_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    grad[0] = ag_apply(ctx, &ag_op_clamp_backward,
                       (ag_tensor *[]){ag_detach(ctx, node->in[0]), d[0]}, node->attr);
}

static unsigned clamp_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(0);
}

const ag_op ag_op_clamp = {
    .name = "clamp",
    .n_in = 1,
    .attr_size = sizeof(op_clamp_attr),
    .shape = clamp_shape,
    .run = {[AG_CPU] = clamp_cpu},
    .grad = clamp_grad,
    .saves = clamp_saves,
    .cost = op_cost_elements,
};

static ag_status clamp_backward_shape(ag_call *call)
{
    if (op_check_dims(call, 1, ag_ndim(call->in[0]), ag_dims(call->in[0])) != AG_OK)
        return ag_status_of(call->ctx);
    return like_shape(call);
}

static ag_status clamp_backward_kernel(ag_call *call, const op_floats *f)
{
    const op_clamp_attr *a = call->attr;

    cpu_clamp_grad(f->out[0], f->in[0], f->in[1], (float)a->low, (float)a->high,
                   ag_numel(call->out[0]), op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status clamp_backward_cpu(ag_call *call)
{
    return op_run_f32(call, clamp_backward_kernel);
}

/* Linear in d, and x never asks for a gradient here. */
static void clamp_backward_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    if (node->wants[1])
        grad[1] = ag_apply(ctx, &ag_op_clamp_backward, (ag_tensor *[]){node->in[0], d[0]},
                           node->attr);
}

const ag_op ag_op_clamp_backward = {
    .name = "clamp_backward",
    .n_in = 2,
    .attr_size = sizeof(op_clamp_attr),
    .shape = clamp_backward_shape,
    .run = {[AG_CPU] = clamp_backward_cpu},
    .grad = clamp_backward_grad,
    .saves = clamp_saves,
    .cost = op_cost_elements,
};

ag_tensor *ag_clamp(ag_ctx *ctx, ag_tensor *x, double low, double high)
{
    return ag_apply(ctx, &ag_op_clamp, &x, &(op_clamp_attr){low, high});
}
