/* norm.c - layer normalisation and group normalisation, the latter with SiLU when asked.
 *
 *   n = (x - mean) rstd      z = gamma n + beta      y = z  or  silu(z)
 *
 * layer_norm  statistics over the last axis      (Ba et al. 2016, arXiv:1607.06450)
 * group_norm  over everything but the first axis within a group of C/groups channels, channels last
 *             (Wu & He 2018, arXiv:1803.08494)
 * Variances are biased, eps stands inside the root; gamma and beta may be absent (ones, zeros).
 *
 * Shapes  x [...,C], gamma, beta [C] -> y as x, mean and rstd [R] or [N,groups]
 * Dtypes  x, gamma, beta f32 or bf16; y as x; statistics f32.
 * Keeps   x, gamma, mean and rstd (and beta under SiLU); n and z are computed again.
 *
 * Gradient, with D = dL/dz (dL/dy silu'(z) under SiLU), g = gamma D, means over what shares a mean:
 *   dx = rstd (g - mean(g) - n mean(g n))     dgamma = sum D n     dbeta = sum D
 * One fused op computes them; when the backward pass is itself recorded the same lines are written
 * with primitive ops.
 */
#include <math.h>

#include "autograd/cpu/norm.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static bool is_group_norm(const op_norm_attr *a)
{
    return a->groups > 0;
}

static cpu_group_norm group_sizes(const op_norm_attr *a, const ag_tensor *x, ag_dtype type)
{
    return (cpu_group_norm){
        .n = ag_dim(x, 0),
        .hw = op_product(ag_dims(x), 1, ag_ndim(x) - 1),
        .c = ag_dim(x, -1),
        .groups = a->groups,
        .eps = a->eps,
        .silu = a->silu,
        .type = type,
    };
}

/* What kernels see of the call: x and what is of its shape as they are when all are bf16 and gamma and
 * beta f32, else all widened to f32 by op_run_f32. */
typedef struct norm_data {
    const void *x, *d;
    void *y; /* or dx */
    ag_dtype type;
} norm_data;

static bool runs_bf16(const ag_call *call)
{
    return ag_dtype_of(call->in[0]) == AG_BF16 && (call->op->n_in < 6 || ag_dtype_of(call->in[5]) == AG_BF16) &&
           (!call->in[1] || ag_dtype_of(call->in[1]) == AG_F32) &&
           (!call->in[2] || ag_dtype_of(call->in[2]) == AG_F32);
}

static size_t conversions(const ag_call *call)
{
    return runs_bf16(call) ? 0 : op_run_f32_scratch(call);
}

static int64_t rows_of(const ag_tensor *x)
{
    return op_product(ag_dims(x), 0, ag_ndim(x) - 1);
}

static ag_status check_inputs(const ag_call *call)
{
    const op_norm_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    const bool grouped = is_group_norm(a);

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(x) < (grouped ? 2 : 1))
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want x %s, got %s", call->op->name,
                       grouped ? "[N,...,C]" : "[...,C]", OP_SHAPE(x));
    if (grouped && ag_dim(x, -1) % a->groups)
        return ag_fail(call->ctx, AG_ESHAPE,
                       "%s: the %lld channels of %s are not %lld equal groups", call->op->name,
                       (long long)ag_dim(x, -1), OP_SHAPE(x), (long long)a->groups);
    for (int i = 1; i < 3; i++)
        if (op_check_dims(call, i, 1, &ag_dims(x)[ag_ndim(x) - 1]) != AG_OK)
            return ag_status_of(call->ctx);
    return AG_OK;
}

static ag_status norm_shape(ag_call *call)
{
    const op_norm_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    if (check_inputs(call) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out_like(call, x);
    for (int k = 0; k < 2; k++) {
        if (is_group_norm(a))
            ag_out(call, AG_F32, 2, (int64_t[]){ag_dim(x, 0), a->groups});
        else
            ag_out(call, AG_F32, 1, (int64_t[]){rows_of(x)});
    }
    return AG_OK;
}

static size_t forward_workspace(const ag_call *call)
{
    const op_norm_attr *a = call->attr;
    cpu_group_norm s;

    if (!is_group_norm(a))
        return 0;
    s = group_sizes(a, call->in[0], AG_F32);
    return op_round_scratch(cpu_group_norm_scratch(&s, op_threads(call)));
}

/* gamma, beta f32; f holds the statistics. */
static ag_status norm_run(ag_call *call, const norm_data *data, const op_floats *f)
{
    const op_norm_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    const size_t bytes = forward_workspace(call);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    if (is_group_norm(a)) {
        const cpu_group_norm s = group_sizes(a, x, data->type);
        cpu_group_norm_forward(data->y, f->out[1], f->out[2], &s, data->x, f->in[1], f->in[2], scratch,
                               op_threads(call), op_isa(call));
    } else {
        cpu_layer_norm_forward(data->y, f->out[1], f->out[2], data->x, data->type, f->in[1], f->in[2],
                               rows_of(x), ag_dim(x, -1), a->eps, op_threads(call), op_isa(call));
    }
    return AG_OK;
}

static ag_status norm_kernel(ag_call *call, const op_floats *f)
{
    return norm_run(call, &(norm_data){.x = f->in[0], .y = f->out[0], .type = AG_F32}, f);
}

/* The f32 tensors of a call that runs in bf16. */
static op_floats floats_of(const ag_call *call)
{
    op_floats f = {{NULL}, {NULL}};

    for (int i = 1; i < call->op->n_in; i++)
        f.in[i] = call->in[i] && ag_dtype_of(call->in[i]) == AG_F32 ? ag_data(call->in[i]) : NULL;
    for (int k = 0; k < call->n_out; k++)
        f.out[k] = ag_dtype_of(call->out[k]) == AG_F32 ? ag_data(call->out[k]) : NULL;
    return f;
}

static ag_status norm_cpu(ag_call *call)
{
    if (!runs_bf16(call))
        return op_run_f32(call, norm_kernel);
    const op_floats f = floats_of(call);
    return norm_run(call, &(norm_data){.x = ag_data(call->in[0]), .y = ag_data(call->out[0]), .type = AG_BF16},
                    &f);
}

static void norm_cost(const ag_call *call, ag_cost *cost)
{
    const op_norm_attr *a = call->attr;

    cost->flops = (a->silu ? 20.0 : 8.0) * (double)ag_numel(call->in[0]);
    cost->scratch = conversions(call) + forward_workspace(call);
}

/* --- gradient --------------------------------------------------------------------------------- */

static unsigned norm_saves(const ag_node *node)
{
    const op_norm_attr *a = node->attr;

    return AG_SAVE_IN(0) | (node->in[1] ? AG_SAVE_IN(1) : 0) |
           (node->in[2] && a->silu ? AG_SAVE_IN(2) : 0) | AG_SAVE_OUT(1) | AG_SAVE_OUT(2);
}

static void fused_grad(ag_ctx *ctx, const ag_node *node, ag_tensor *d, ag_tensor **grad)
{
    op_norm_attr a = *(const op_norm_attr *)node->attr;
    ag_tensor *out[AG_MAX_OUT];
    int k = 0;

    a.want_dx = node->wants[0];
    a.want_affine = node->wants[1] || node->wants[2];
    if (ag_apply_all(ctx,
                     is_group_norm(&a) ? &ag_op_group_norm_backward : &ag_op_layer_norm_backward,
                     (ag_tensor *[]){node->in[0], node->in[1], a.silu ? node->in[2] : NULL,
                                     node->out[1], node->out[2], d},
                     &a, out) != AG_OK)
        return;
    if (a.want_dx)
        grad[0] = out[k++];
    if (node->wants[1])
        grad[1] = out[k];
    if (node->wants[2])
        grad[2] = out[k + 1];
}

/* The same from primitive ops, in f32. Axes: x is seen as [N, P, G, E] with E channels in a group
 * (layer norm: N = rows, P = G = 1) and statistics run over P and E. */
static void composite_grad(ag_ctx *ctx, const ag_node *node, ag_tensor *d, ag_tensor **grad)
{
    const op_norm_attr *a = node->attr;
    const ag_tensor *x = node->in[0];
    const int64_t c = ag_dim(x, -1), n = is_group_norm(a) ? ag_dim(x, 0) : rows_of(x);
    const int64_t g = is_group_norm(a) ? a->groups : 1;
    const int64_t dims[4] = {n, n && c ? ag_numel(x) / n / c : 0, g, c / g};
    const int64_t c_dims[4] = {1, 1, g, c / g};
    const unsigned within = 1u << 1 | 1u << 3, across = 1u << 0 | 1u << 1;
    ag_tensor *x4 = ag_reshape(ctx, ag_cast(ctx, node->in[0], AG_F32), 4, dims);
    ag_tensor *d4 = ag_reshape(ctx, ag_cast(ctx, d, AG_F32), 4, dims);
    ag_tensor *gamma = node->in[1] ? ag_reshape(ctx, node->in[1], 4, c_dims) : NULL;
    ag_tensor *centered = ag_sub(ctx, x4, ag_mean(ctx, x4, within, true));
    ag_tensor *variance = ag_mean(ctx, ag_square(ctx, centered), within, true);
    ag_tensor *rstd = ag_rsqrt(ctx, ag_offset(ctx, variance, a->eps));
    ag_tensor *normal = ag_mul(ctx, centered, rstd);

    if (a->silu) {
        ag_tensor *z = gamma ? ag_mul(ctx, normal, gamma) : normal;
        if (node->in[2])
            z = ag_add(ctx, z, ag_reshape(ctx, node->in[2], 4, c_dims));
        d4 = op_unary(ctx, AG_SILU, 1, z, d4, 0);
    }
    if (node->wants[0]) {
        ag_tensor *gd = gamma ? ag_mul(ctx, d4, gamma) : d4;
        ag_tensor *m = ag_mean(ctx, ag_mul(ctx, gd, normal), within, true);
        ag_tensor *dx = ag_sub(ctx, ag_sub(ctx, gd, ag_mean(ctx, gd, within, true)),
                               ag_mul(ctx, normal, m));
        grad[0] = op_reshape_like(ctx, ag_mul(ctx, rstd, dx), x);
    }
    if (node->wants[1])
        grad[1] = op_reshape_like(ctx, ag_sum(ctx, ag_mul(ctx, d4, normal), across, true),
                                  node->in[1]);
    if (node->wants[2])
        grad[2] = op_reshape_like(ctx, ag_sum(ctx, d4, across, true), node->in[2]);
}

static void norm_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    if (!d[0])
        ag_fail(ctx, AG_EUNSUPPORTED, "%s has no gradient through its statistics", node->op->name);
    else if (ag_recording(ctx))
        composite_grad(ctx, node, d[0], grad);
    else
        fused_grad(ctx, node, d[0], grad);
}

#define NORM_OP(op_name)                                                                          \
    const ag_op ag_op_##op_name = {                                                               \
        .name = #op_name,                                                                         \
        .n_in = 3,                                                                                \
        .optional = 1u << 1 | 1u << 2,                                                            \
        .attr_size = sizeof(op_norm_attr),                                                           \
        .shape = norm_shape,                                                                      \
        .run = {[AG_CPU] = norm_cpu},                                                             \
        .grad = norm_grad,                                                                        \
        .saves = norm_saves,                                                                      \
        .cost = norm_cost,                                                                        \
    }

NORM_OP(layer_norm);
NORM_OP(group_norm);

ag_tensor *ag_layer_norm(ag_ctx *ctx, ag_tensor *x, ag_tensor *gamma, ag_tensor *beta, double eps)
{
    return ag_apply(ctx, &ag_op_layer_norm, (ag_tensor *[]){x, gamma, beta},
                    &(op_norm_attr){.eps = eps});
}

ag_tensor *ag_group_norm(ag_ctx *ctx, ag_tensor *x, ag_tensor *gamma, ag_tensor *beta, int groups,
                         double eps, bool silu)
{
    if (groups < 1) {
        ag_fail(ctx, AG_EINVAL, "group_norm: %d groups", groups);
        return NULL;
    }
    return ag_apply(ctx, &ag_op_group_norm, (ag_tensor *[]){x, gamma, beta},
                    &(op_norm_attr){.eps = eps, .groups = groups, .silu = silu});
}

/* --- the fused backward ops: x, gamma, beta, mean, rstd, D -> dx, dgamma, dbeta --------------- */

static ag_status backward_shape(ag_call *call)
{
    const op_norm_attr *a = call->attr;
    const ag_tensor *x = call->in[0];

    if (check_inputs(call) != AG_OK ||
        op_check_dims(call, 5, ag_ndim(x), ag_dims(x)) != AG_OK)
        return ag_status_of(call->ctx);
    if (a->want_dx)
        ag_out_like(call, x);
    for (int k = 0; k < 2 && a->want_affine; k++)
        ag_out(call, AG_F32, 1, (int64_t[]){ag_dim(x, -1)});
    return AG_OK;
}

static size_t backward_workspace(const ag_call *call)
{
    const op_norm_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    cpu_group_norm s;

    if (!is_group_norm(a))
        return op_round_scratch(
            cpu_layer_norm_grad_scratch(rows_of(x), ag_dim(x, -1), op_threads(call)));
    s = group_sizes(a, x, AG_F32);
    return op_round_scratch(cpu_group_norm_grad_scratch(&s, op_threads(call)));
}

static ag_status backward_run(ag_call *call, const norm_data *data, const op_floats *f)
{
    const op_norm_attr *a = call->attr;
    const ag_tensor *x = call->in[0];
    const size_t bytes = backward_workspace(call);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;
    float *dgamma = a->want_affine ? f->out[a->want_dx ? 1 : 0] : NULL;
    float *dbeta = a->want_affine ? f->out[a->want_dx ? 2 : 1] : NULL;

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    if (is_group_norm(a)) {
        const cpu_group_norm s = group_sizes(a, x, data->type);
        cpu_group_norm_backward(data->y, dgamma, dbeta, &s, data->x, f->in[1], f->in[2], f->in[3],
                                f->in[4], data->d, scratch, op_threads(call), op_isa(call));
    } else {
        cpu_layer_norm_backward(data->y, dgamma, dbeta, data->x, data->type, f->in[1], f->in[3], f->in[4],
                                data->d, rows_of(x), ag_dim(x, -1), scratch, op_threads(call),
                                op_isa(call));
    }
    return AG_OK;
}

static ag_status backward_kernel(ag_call *call, const op_floats *f)
{
    const op_norm_attr *a = call->attr;

    return backward_run(
        call, &(norm_data){.x = f->in[0], .d = f->in[5], .y = a->want_dx ? f->out[0] : NULL, .type = AG_F32},
        f);
}

static ag_status backward_cpu(ag_call *call)
{
    const op_norm_attr *a = call->attr;

    if (!runs_bf16(call))
        return op_run_f32(call, backward_kernel);
    const op_floats f = floats_of(call);
    return backward_run(call,
                        &(norm_data){.x = ag_data(call->in[0]), .d = ag_data(call->in[5]),
                                     .y = a->want_dx ? ag_data(call->out[0]) : NULL, .type = AG_BF16},
                        &f);
}

static void backward_cost(const ag_call *call, ag_cost *cost)
{
    const op_norm_attr *a = call->attr;

    cost->flops = (a->silu ? 40.0 : 15.0) * (double)ag_numel(call->in[0]);
    cost->scratch = conversions(call) + backward_workspace(call);
}

#define NORM_BACKWARD_OP(op_name)                                                                 \
    const ag_op ag_op_##op_name = {                                                               \
        .name = #op_name,                                                                         \
        .n_in = 6,                                                                                \
        .optional = 1u << 1 | 1u << 2,                                                            \
        .attr_size = sizeof(op_norm_attr),                                                           \
        .shape = backward_shape,                                                                  \
        .run = {[AG_CPU] = backward_cpu},                                                         \
        .cost = backward_cost,                                                                    \
    }

NORM_BACKWARD_OP(layer_norm_backward);
NORM_BACKWARD_OP(group_norm_backward);
