/* attention.c - softmax(scale q k^T) v by head, without ever storing the scores; and the
 * probabilities themselves, for maps small enough that somebody wants to see them.
 *
 *   p[n,h,i,j] = softmax_j(scale <q_i, k_j>)      o[n,i,h] = sum_j p v_j
 *
 * Source  Vaswani et al. 2017, arXiv:1706.03762, eq. 1; kernels: autograd/cpu/attention.h.
 * Shapes  q [N,Tq,H*d], k and v [N,Tk,H*d] -> o [N,Tq,H*d] and lse [N,H,Tq], the logarithms of the
 *         softmax's sums. lse is made only while recording. causal: j <= i only.
 * Dtypes  f32 or bf16, all alike; o as q; lse f32. bf16 is multiplied as it is on AMX, elsewhere as f32.
 * Keeps   q, k, v, o and lse: the probabilities are computed again, block by block.
 *
 * Gradient, with D = dL/do:
 *   dv = p^T D      ds = p (D v^T - <D, o>)      dq = scale ds k      dk = scale ds^T q
 * fused into attention_backward; when the backward pass is itself recorded, the same lines with
 * primitive ops, which does store p.
 */
#include <math.h>

#include "autograd/cpu/attention.h"
#include "autograd/cpu/isa.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

/* The sizes for the kernels; k from input 1. */
static cpu_attention sizes_of(const ag_call *call)
{
    const op_attention_attr *a = call->attr;
    const ag_tensor *q = call->in[0], *k = call->in[1];

    return (cpu_attention){
        .n = ag_dim(q, 0),
        .heads = a->heads,
        .d = ag_dim(q, 2) / a->heads,
        .tq = ag_dim(q, 1),
        .tk = ag_dim(k, 1),
        .scale = (float)a->scale,
        .causal = a->causal,
    };
}

static ag_status check_inputs(const ag_call *call, int n_keys)
{
    const op_attention_attr *a = call->attr;
    const ag_tensor *q = call->in[0], *k = call->in[1];

    if (op_check_floats(call, 0) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_ndim(q) != 3 || ag_ndim(k) != 3 || ag_dim(q, 0) != ag_dim(k, 0) ||
        ag_dim(q, 2) != ag_dim(k, 2) || ag_numel(q) == 0 || ag_numel(k) == 0)
        return ag_fail(call->ctx, AG_ESHAPE,
                       "%s: want q [N,Tq,H*d] and k [N,Tk,H*d], got %s and %s", call->op->name,
                       OP_SHAPE(q), OP_SHAPE(k));
    if (a->heads < 1 || ag_dim(q, 2) % a->heads)
        return ag_fail(call->ctx, AG_ESHAPE, "%s: %s does not divide into %d heads", call->op->name,
                       OP_SHAPE(q), a->heads);
    return n_keys > 1 ? op_check_dims(call, 2, 3, ag_dims(k)) : AG_OK;
}

static bool is_recorded(const ag_call *call)
{
    bool any = false;

    for (int i = 0; i < call->op->n_in; i++)
        any |= ag_requires_grad(call->in[i]);
    return any && ag_recording(call->ctx);
}

static ag_status attention_shape(ag_call *call)
{
    const op_attention_attr *a = call->attr;
    const ag_tensor *q = call->in[0];

    if (check_inputs(call, 2) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out_like(call, q);
    if (is_recorded(call))
        ag_out(call, AG_F32, 3, (int64_t[]){ag_dim(q, 0), a->heads, ag_dim(q, 1)});
    return AG_OK;
}

/* On AG_META the best instruction set of this machine is assumed. */
static int isa_of(const ag_call *call)
{
    return ag_cpu(call->ctx) ? op_isa(call) : (int)cpu_isa_here();
}

/* Do the kernels take the tensors as they are, in bf16? lse, the one f32 among them, is input 4. */
static bool runs_bf16(const ag_call *call)
{
    for (int i = 0; i < call->op->n_in; i++)
        if (i != 4 && ag_dtype_of(call->in[i]) != AG_BF16)
            return false;
    return cpu_attention_takes_bf16(isa_of(call));
}

static size_t forward_workspace(const ag_call *call)
{
    const cpu_attention s = sizes_of(call);

    return op_round_scratch(runs_bf16(call)
                                ? cpu_attention_forward_bf16_scratch(&s, op_threads(call))
                                : cpu_attention_forward_scratch(&s, op_threads(call), isa_of(call)));
}

static ag_status attention_kernel(ag_call *call, const op_floats *f)
{
    const cpu_attention s = sizes_of(call);
    const int64_t ld = s.heads * s.d;
    const size_t bytes = forward_workspace(call);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    cpu_attention_forward(f->out[0], ld, f->out[1], &s, f->in[0], ld, f->in[1], ld, f->in[2], ld,
                          scratch, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status attention_bf16(ag_call *call)
{
    const cpu_attention s = sizes_of(call);
    const int64_t ld = s.heads * s.d;
    void *scratch = ag_scratch(call->ctx, forward_workspace(call));

    if (!scratch)
        return ag_status_of(call->ctx);
    cpu_attention_forward_bf16(ag_data(call->out[0]), ld, call->n_out > 1 ? ag_data(call->out[1]) : NULL,
                               &s, ag_data(call->in[0]), ld, ag_data(call->in[1]), ld,
                               ag_data(call->in[2]), ld, scratch, op_threads(call));
    return AG_OK;
}

static ag_status attention_cpu(ag_call *call)
{
    return runs_bf16(call) ? attention_bf16(call) : op_run_f32(call, attention_kernel);
}

/* Scratch of op_run_f32, when that runs the call. */
static size_t conversions(const ag_call *call)
{
    return runs_bf16(call) ? 0 : op_run_f32_scratch(call);
}

static double scores_of(const ag_call *call)
{
    const cpu_attention s = sizes_of(call);

    return (double)s.n * (double)s.heads * (double)s.tq * (double)s.tk * (s.causal ? 0.5 : 1.0);
}

static void attention_cost(const ag_call *call, ag_cost *cost)
{
    const double d = (double)sizes_of(call).d;

    cost->flops = scores_of(call) * (4.0 * d + 10.0);
    cost->scratch = conversions(call) + forward_workspace(call);
}

/* --- gradient --------------------------------------------------------------------------------- */

/* [N,T,H*d] -> [N,H,T,d] */
static ag_tensor *split_heads(ag_ctx *ctx, ag_tensor *x, int heads)
{
    static const int order[] = {0, 2, 1, 3};

    if (!x)
        return NULL;
    x = ag_reshape(ctx, x, 4,
                   (int64_t[]){ag_dim(x, 0), ag_dim(x, 1), heads, ag_dim(x, 2) / heads});
    return ag_permute(ctx, x, order);
}

/* [N,H,T,d] -> [N,T,H*d] */
static ag_tensor *merge_heads(ag_ctx *ctx, ag_tensor *x)
{
    static const int order[] = {0, 2, 1, 3};

    if (!x)
        return NULL;
    x = ag_permute(ctx, x, order);
    if (!x)
        return NULL;
    return ag_reshape(ctx, x, 3,
                      (int64_t[]){ag_dim(x, 0), ag_dim(x, 1), ag_dim(x, 2) * ag_dim(x, 3)});
}

/* dq and dk from p and dp, its gradient. */
static void probs_to_inputs(ag_ctx *ctx, const ag_node *node, ag_tensor *p, ag_tensor *dp,
                            ag_tensor **grad)
{
    const op_attention_attr *a = node->attr;
    ag_tensor *ds = ag_scale(ctx, op_softmax_grad(ctx, p, dp), a->scale);

    if (node->wants[0])
        grad[0] = merge_heads(
            ctx, ag_matmul(ctx, ds, split_heads(ctx, node->in[1], a->heads), false, false));
    if (node->wants[1])
        grad[1] = merge_heads(
            ctx, ag_matmul(ctx, ds, split_heads(ctx, node->in[0], a->heads), true, false));
}

static void attention_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_attention_attr *a = node->attr;
    ag_tensor *q = node->in[0], *k = node->in[1], *v = node->in[2];

    if (!d[0]) {
        ag_fail(ctx, AG_EUNSUPPORTED, "attention has no gradient through its logarithms of sums");
    } else if (!ag_recording(ctx)) {
        ag_tensor *out[AG_MAX_OUT];
        if (ag_apply_all(ctx, &ag_op_attention_backward,
                         (ag_tensor *[]){q, k, v, node->out[0], node->out[1], d[0]}, a,
                         out) == AG_OK)
            for (int i = 0; i < 3; i++)
                grad[i] = out[i];
    } else {
        ag_tensor *p = ag_attention_probs(ctx, q, k, a->heads, a->scale, a->causal);
        ag_tensor *dh = split_heads(ctx, d[0], a->heads);
        if (node->wants[0] || node->wants[1])
            probs_to_inputs(ctx, node, p,
                            ag_matmul(ctx, dh, split_heads(ctx, v, a->heads), false, true), grad);
        if (node->wants[2])
            grad[2] = merge_heads(ctx, ag_matmul(ctx, p, dh, true, false));
    }
}

static unsigned attention_saves(const ag_node *node)
{
    (void)node;
    return AG_SAVE_IN(0) | AG_SAVE_IN(1) | AG_SAVE_IN(2) | AG_SAVE_OUT(0) | AG_SAVE_OUT(1);
}

const ag_op ag_op_attention = {
    .name = "attention",
    .n_in = 3,
    .attr_size = sizeof(op_attention_attr),
    .shape = attention_shape,
    .run = {[AG_CPU] = attention_cpu},
    .grad = attention_grad,
    .saves = attention_saves,
    .cost = attention_cost,
};

/* The default scale, 1/sqrt(d). */
static double scale_of(const ag_tensor *q, int heads, double scale)
{
    if (scale != 0 || !q || ag_ndim(q) != 3 || heads < 1 || ag_dim(q, 2) < heads)
        return scale;
    return 1.0 / sqrt((double)(ag_dim(q, 2) / heads));
}

ag_tensor *ag_attention(ag_ctx *ctx, ag_tensor *q, ag_tensor *k, ag_tensor *v, int heads,
                        double scale, bool causal)
{
    return ag_apply(ctx, &ag_op_attention, (ag_tensor *[]){q, k, v},
                    &(op_attention_attr){scale_of(q, heads, scale), heads, causal});
}

/* --- the fused backward pass: q, k, v, o, lse, D -> dq, dk, dv -------------------------------- */

static ag_status backward_shape(ag_call *call)
{
    const ag_tensor *q = call->in[0];

    if (check_inputs(call, 2) != AG_OK || op_check_dims(call, 3, 3, ag_dims(q)) != AG_OK ||
        op_check_dims(call, 5, 3, ag_dims(q)) != AG_OK)
        return ag_status_of(call->ctx);
    for (int i = 0; i < 3; i++)
        ag_out_like(call, call->in[i]);
    return AG_OK;
}

static size_t backward_workspace(const ag_call *call)
{
    const cpu_attention s = sizes_of(call);

    return op_round_scratch(runs_bf16(call)
                                ? cpu_attention_backward_bf16_scratch(&s, op_threads(call))
                                : cpu_attention_backward_scratch(&s, op_threads(call), isa_of(call)));
}

static ag_status backward_kernel(ag_call *call, const op_floats *f)
{
    const cpu_attention s = sizes_of(call);
    const int64_t ld = s.heads * s.d;
    const cpu_attention_grad g = {
        .q = f->in[0], .k = f->in[1], .v = f->in[2], .out = f->in[3], .lse = f->in[4],
        .dout = f->in[5], .dq = f->out[0], .dk = f->out[1], .dv = f->out[2],
        .ld_q = ld, .ld_k = ld, .ld_v = ld, .ld_out = ld, .ld_dout = ld,
        .ld_dq = ld, .ld_dk = ld, .ld_dv = ld,
    };
    const size_t bytes = backward_workspace(call);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    cpu_attention_backward(&s, &g, scratch, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status backward_bf16(ag_call *call)
{
    const cpu_attention s = sizes_of(call);
    const int64_t ld = s.heads * s.d;
    const cpu_attention_grad_bf16 g = {
        .q = ag_data(call->in[0]), .k = ag_data(call->in[1]), .v = ag_data(call->in[2]),
        .out = ag_data(call->in[3]), .lse = ag_data(call->in[4]), .dout = ag_data(call->in[5]),
        .dq = ag_data(call->out[0]), .dk = ag_data(call->out[1]), .dv = ag_data(call->out[2]),
        .ld_q = ld, .ld_k = ld, .ld_v = ld, .ld_out = ld, .ld_dout = ld,
        .ld_dq = ld, .ld_dk = ld, .ld_dv = ld,
    };
    void *scratch = ag_scratch(call->ctx, backward_workspace(call));

    if (!scratch)
        return ag_status_of(call->ctx);
    cpu_attention_backward_bf16(&s, &g, scratch, op_threads(call));
    return AG_OK;
}

static ag_status backward_cpu(ag_call *call)
{
    return runs_bf16(call) ? backward_bf16(call) : op_run_f32(call, backward_kernel);
}

static void backward_cost(const ag_call *call, ag_cost *cost)
{
    const double d = (double)sizes_of(call).d;

    cost->flops = scores_of(call) * (10.0 * d + 15.0);
    cost->scratch = conversions(call) + backward_workspace(call);
}

const ag_op ag_op_attention_backward = {
    .name = "attention_backward",
    .n_in = 6,
    .attr_size = sizeof(op_attention_attr),
    .shape = backward_shape,
    .run = {[AG_CPU] = backward_cpu},
    .cost = backward_cost,
};

/* --- the probabilities: q, k -> p [N,H,Tq,Tk] ------------------------------------------------- */

static ag_status probs_shape(ag_call *call)
{
    cpu_attention s;

    if (check_inputs(call, 1) != AG_OK)
        return ag_status_of(call->ctx);
    s = sizes_of(call);
    ag_out(call, ag_dtype_of(call->in[0]), 4, (int64_t[]){s.n, s.heads, s.tq, s.tk});
    return AG_OK;
}

static ag_status probs_kernel(ag_call *call, const op_floats *f)
{
    const cpu_attention s = sizes_of(call);
    const int64_t ld = s.heads * s.d;

    cpu_attention_probs(f->out[0], &s, f->in[0], ld, f->in[1], ld, op_threads(call), op_isa(call));
    return AG_OK;
}

static ag_status probs_cpu(ag_call *call)
{
    return op_run_f32(call, probs_kernel);
}

static void probs_cost(const ag_call *call, ag_cost *cost)
{
    const double d = (double)sizes_of(call).d;

    cost->flops = scores_of(call) * (2.0 * d + 10.0);
    cost->scratch = op_run_f32_scratch(call);
}

static void probs_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    probs_to_inputs(ctx, node, node->out[0], d[0], grad);
}

static unsigned probs_saves(const ag_node *node)
{
    return AG_SAVE_OUT(0) | (node->wants[0] ? AG_SAVE_IN(1) : 0) |
           (node->wants[1] ? AG_SAVE_IN(0) : 0);
}

const ag_op ag_op_attention_probs = {
    .name = "attention_probs",
    .n_in = 2,
    .attr_size = sizeof(op_attention_attr),
    .shape = probs_shape,
    .run = {[AG_CPU] = probs_cpu},
    .grad = probs_grad,
    .saves = probs_saves,
    .cost = probs_cost,
};

ag_tensor *ag_attention_probs(ag_ctx *ctx, ag_tensor *q, ag_tensor *k, int heads, double scale,
                              bool causal)
{
    return ag_apply(ctx, &ag_op_attention_probs, (ag_tensor *[]){q, k},
                    &(op_attention_attr){scale_of(q, heads, scale), heads, causal});
}
