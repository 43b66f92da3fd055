/* conv2d.c - two-dimensional convolution, channels last, and its two adjoints.
 *
 *   conv2d                   y = x * w + b      y[n,oy,ox,o] = b[o] + sum_{ky,kx,i}
 *                              x[n, oy s + ky t - top, ox s + kx t - left, i] w[o,ky,kx,i]
 *   conv2d_backward_data     dx from D and w
 *   conv2d_backward_weights  dw from D and x
 *
 * s is the stride, t the dilation, x is zero outside. All three are bilinear forms of the same
 * three-way sum <D, x * w>, so each one's gradients are the other two, and second order needs
 * nothing new.
 *
 * conv2d also adds what is given as `plus`, of y's shape and type; CUDA has no such kernel, there an ag_add
 * follows.
 *
 * An enlarged x is x with each pixel four times (upsample_nearest). Where the kernels have a form that
 * multiplies less for it, conv2d takes x as it is; else the larger one is made first.
 *
 * Shapes  x [N,H,W,I], w [O,kh,kw,I], b [O] or nothing -> y [N,OH,OW,O]
 * Dtypes  x f32 or bf16, y and dx as x; w f32 or bf16, dw f32.
 * Keeps   for the gradient of one factor the other.
 */
#include "autograd/cpu/conv.h"

#include "autograd/ops/attrs.h"
#include "autograd/ops/common.h"
#include "autograd/ops/list.h"

static cpu_conv geometry(const op_conv_attr *a, int64_t n, int64_t h, int64_t w, int64_t c, int64_t o,
                         int64_t kh, int64_t kw)
{
    return (cpu_conv){
        .n = n,
        .h = h,
        .w = w,
        .c = c,
        .o = o,
        .kh = kh,
        .kw = kw,
        .stride = a->opts.stride ? a->opts.stride : 1,
        .dilation = a->opts.dilation ? a->opts.dilation : 1,
        .pad_top = a->opts.pad_top,
        .pad_bottom = a->opts.pad_bottom,
        .pad_left = a->opts.pad_left,
        .pad_right = a->opts.pad_right,
        .enlarge = a->opts.enlarge,
    };
}

static ag_status check_opts(const ag_call *call)
{
    const ag_conv_opts *o = &((const op_conv_attr *)call->attr)->opts;

    if (o->stride < 0 || o->dilation < 0 || o->pad_top < 0 || o->pad_bottom < 0 ||
        o->pad_left < 0 || o->pad_right < 0)
        return ag_fail(call->ctx, AG_EINVAL, "%s: stride %d, dilation %d and pads %d %d %d %d may "
                       "not be negative", call->op->name, o->stride, o->dilation, o->pad_top,
                       o->pad_bottom, o->pad_left, o->pad_right);
    return AG_OK;
}

static ag_status check_4d(const ag_call *call, int i, const char *what)
{
    if (ag_ndim(call->in[i]) != 4)
        return ag_fail(call->ctx, AG_ESHAPE, "%s: want %s, got %s", call->op->name, what,
                       OP_SHAPE(call->in[i]));
    return AG_OK;
}

static ag_status run_failed(const ag_call *call, const cpu_conv *c)
{
    return ag_fail(call->ctx, AG_ENOMEM, "%s: the matrix library refused %lldx%lld, %lld to %lld "
                   "channels", call->op->name, (long long)c->h, (long long)c->w, (long long)c->c,
                   (long long)c->o);
}

static double conv_flops(const cpu_conv *c)
{
    return 2.0 * (double)c->n * (double)cpu_conv_out_h(c) * (double)cpu_conv_out_w(c) *
           (double)c->o * (double)c->kh * (double)c->kw * (double)c->c;
}

/* --- conv2d ----------------------------------------------------------------------------------- */

static cpu_conv forward_geometry(const ag_call *call)
{
    const ag_tensor *x = call->in[0], *w = call->in[1];
    cpu_conv c = geometry(call->attr, ag_dim(x, 0), ag_dim(x, 1), ag_dim(x, 2), ag_dim(x, 3),
                          ag_dim(w, 0), ag_dim(w, 1), ag_dim(w, 2));

    c.type = ag_dtype_of(x);
    c.weight_type = ag_dtype_of(w);
    return c;
}

static ag_status conv_shape(ag_call *call)
{
    const ag_tensor *x = call->in[0], *w = call->in[1], *b = call->in[2];
    cpu_conv c;

    if (op_check_floats(call, 0) != AG_OK || check_opts(call) != AG_OK ||
        check_4d(call, 0, "x [N,H,W,I]") != AG_OK || check_4d(call, 1, "w [O,kh,kw,I]") != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_dim(x, 3) != ag_dim(w, 3))
        return ag_fail(call->ctx, AG_ESHAPE, "conv2d: x %s has %lld channels, w %s%s%s wants %lld",
                       OP_SHAPE(x), (long long)ag_dim(x, 3), OP_SHAPE(w),
                       *ag_name(w) ? " of " : "", ag_name(w), (long long)ag_dim(w, 3));
    if (b && (ag_ndim(b) != 1 || ag_dim(b, 0) != ag_dim(w, 0)))
        return ag_fail(call->ctx, AG_ESHAPE, "conv2d: want a bias [%lld], got %s",
                       (long long)ag_dim(w, 0), OP_SHAPE(b));
    c = forward_geometry(call);
    if (cpu_conv_out_h(&c) < 1 || cpu_conv_out_w(&c) < 1)
        return ag_fail(call->ctx, AG_ESHAPE, "conv2d: the kernel %s does not fit into %s",
                       OP_SHAPE(w), OP_SHAPE(x));
    const int64_t dims[] = {c.n, cpu_conv_out_h(&c), cpu_conv_out_w(&c), c.o};
    ag_out(call, c.type, 4, dims);
    return op_check_dims(call, 3, 4, dims);
}

static size_t forward_scratch(const ag_call *call, const cpu_conv *c)
{
    cpu_state *state = ag_cpu(call->ctx);

    return state ? op_round_scratch(cpu_conv2d_forward_scratch(state, c)) : 0;
}

static ag_status conv_cpu(ag_call *call)
{
    const cpu_conv c = forward_geometry(call);
    const ag_tensor *b = call->in[2];
    const size_t bytes = forward_scratch(call, &c) + op_f32_scratch(b);
    const float *bias = b ? ag_data(b) : NULL;
    char *scratch = NULL;

    if (ag_numel(call->out[0]) == 0)
        return AG_OK;
    if (bytes && !(scratch = ag_scratch(call->ctx, bytes)))
        return ag_status_of(call->ctx);
    if (op_f32_scratch(b)) {
        bias = op_as_f32(call, b, scratch);
        scratch += op_f32_scratch(b);
    }
    if (!cpu_conv2d_forward(ag_data(call->out[0]), ag_cpu(call->ctx), &c, ag_data(call->in[0]),
                            ag_data(call->in[1]), bias, call->in[3] ? ag_data(call->in[3]) : NULL, scratch))
        return run_failed(call, &c);
    return AG_OK;
}

static void conv_cost(const ag_call *call, ag_cost *cost)
{
    const cpu_conv c = forward_geometry(call);

    cost->flops = conv_flops(&c);
    cost->scratch = forward_scratch(call, &c) + op_f32_scratch(call->in[2]);
}

/* By x and w, through the enlarged x. */
static void enlarged_grad(ag_ctx *ctx, const ag_node *node, ag_tensor *d, ag_tensor **grad)
{
    op_conv_attr a = *(const op_conv_attr *)node->attr;
    ag_tensor *x = node->in[0], *w = node->in[1];

    a.opts.enlarge = false;
    a.h = 2 * ag_dim(x, 1);
    a.w = 2 * ag_dim(x, 2);
    if (node->wants[0])
        grad[0] = op_upsample_backward(ctx, ag_apply(ctx, &ag_op_conv2d_backward_data, (ag_tensor *[]){d, w}, &a),
                                       ag_dim(x, 1), ag_dim(x, 2));
    if (node->wants[1])
        grad[1] = op_conv2d_backward_weights(ctx, d, ag_upsample_nearest(ctx, x, a.h, a.w), a.opts, w);
}

static void conv_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_conv_attr *a = node->attr;
    ag_tensor *x = node->in[0], *w = node->in[1], *b = node->in[2];

    if (a->opts.enlarge)
        enlarged_grad(ctx, node, d[0], grad);
    else if (node->wants[0])
        grad[0] = op_conv2d_backward_data(ctx, d[0], w, a->opts, x);
    if (node->wants[1] && !a->opts.enlarge)
        grad[1] = op_conv2d_backward_weights(ctx, d[0], x, a->opts, w);
    if (node->wants[2])
        grad[2] = op_sum_like(ctx, d[0], b);
    if (node->wants[3])
        grad[3] = op_sum_like(ctx, d[0], node->in[3]);
}

static unsigned factor_saves(const ag_node *node)
{
    return (node->wants[0] ? AG_SAVE_IN(1) : 0) | (node->wants[1] ? AG_SAVE_IN(0) : 0);
}

const ag_op ag_op_conv2d = {
    .name = "conv2d",
    .n_in = 4,
    .optional = 1u << 2 | 1u << 3,
    .attr_size = sizeof(op_conv_attr),
    .shape = conv_shape,
    .run = {[AG_CPU] = conv_cpu},
    .grad = conv_grad,
    .saves = factor_saves,
    .cost = conv_cost,
};

/* Does conv2d itself take this x as if it were enlarged? */
static bool takes_enlarged(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, const op_conv_attr *a)
{
    cpu_state *state = ag_cpu(ctx);
    cpu_conv c;

    if (!state || !w || ag_ndim(w) != 4)
        return false;
    c = forward_geometry(&(ag_call){.ctx = ctx, .in = (ag_tensor *[]){x, w}, .attr = a});
    return cpu_conv2d_takes_enlarged(state, &c);
}

ag_tensor *ag_conv2d(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b, ag_conv_opts opts)
{
    return ag_conv2d_plus(ctx, x, w, b, opts, NULL);
}

ag_tensor *ag_conv2d_plus(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b, ag_conv_opts opts, ag_tensor *plus)
{
    op_conv_attr a = {.opts = opts};

    if (opts.enlarge && x && ag_ndim(x) == 4 && !takes_enlarged(ctx, x, w, &a)) {
        x = ag_upsample_nearest(ctx, x, 2 * ag_dim(x, 1), 2 * ag_dim(x, 2));
        a.opts.enlarge = false;
    }
    if (plus && ag_cpu(ctx) && x && ag_dtype_of(plus) == ag_dtype_of(x))
        return ag_apply(ctx, &ag_op_conv2d, (ag_tensor *[]){x, w, b, plus}, &a);
    x = ag_apply(ctx, &ag_op_conv2d, (ag_tensor *[]){x, w, b, NULL}, &a);
    return plus ? ag_add(ctx, plus, x) : x;
}

/* --- conv2d_backward_data: D, w -> dx --------------------------------------------------------- */

static cpu_conv data_geometry(const ag_call *call)
{
    const op_conv_attr *a = call->attr;
    const ag_tensor *d = call->in[0], *w = call->in[1];
    cpu_conv c = geometry(a, ag_dim(d, 0), a->h, a->w, ag_dim(w, 3), ag_dim(w, 0), ag_dim(w, 1),
                          ag_dim(w, 2));

    c.type = ag_dtype_of(d);
    c.weight_type = ag_dtype_of(w);
    return c;
}

/* D must be what the convolution of that geometry gives. */
static ag_status check_result(const ag_call *call, const cpu_conv *c)
{
    return op_check_dims(call, 0, 4,
                         (int64_t[]){c->n, cpu_conv_out_h(c), cpu_conv_out_w(c), c->o});
}

static ag_status data_shape(ag_call *call)
{
    cpu_conv c;

    if (op_check_floats(call, 0) != AG_OK || check_opts(call) != AG_OK ||
        check_4d(call, 0, "D [N,OH,OW,O]") != AG_OK || check_4d(call, 1, "w [O,kh,kw,I]") != AG_OK)
        return ag_status_of(call->ctx);
    c = data_geometry(call);
    if (check_result(call, &c) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out(call, c.type, 4, (int64_t[]){c.n, c.h, c.w, c.c});
    return AG_OK;
}

static size_t data_scratch(const ag_call *call, const cpu_conv *c)
{
    cpu_state *state = ag_cpu(call->ctx);

    return state ? op_round_scratch(cpu_conv2d_backward_data_scratch(state, c)) : 0;
}

static ag_status data_cpu(ag_call *call)
{
    const cpu_conv c = data_geometry(call);
    const size_t bytes = data_scratch(call, &c);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (ag_numel(call->out[0]) == 0)
        return AG_OK;
    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    if (!cpu_conv2d_backward_data(ag_data(call->out[0]), ag_cpu(call->ctx), &c,
                                  ag_data(call->in[0]), ag_data(call->in[1]), scratch))
        return run_failed(call, &c);
    return AG_OK;
}

static void data_cost(const ag_call *call, ag_cost *cost)
{
    const cpu_conv c = data_geometry(call);

    cost->flops = conv_flops(&c);
    cost->scratch = data_scratch(call, &c);
}

static void data_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_conv_attr *a = node->attr;

    if (node->wants[0])
        grad[0] = ag_conv2d(ctx, d[0], node->in[1], NULL, a->opts);
    if (node->wants[1])
        grad[1] = op_conv2d_backward_weights(ctx, node->in[0], d[0], a->opts, node->in[1]);
}

const ag_op ag_op_conv2d_backward_data = {
    .name = "conv2d_backward_data",
    .n_in = 2,
    .attr_size = sizeof(op_conv_attr),
    .shape = data_shape,
    .run = {[AG_CPU] = data_cpu},
    .grad = data_grad,
    .saves = factor_saves,
    .cost = data_cost,
};

ag_tensor *op_conv2d_backward_data(ag_ctx *ctx, ag_tensor *d, ag_tensor *w, ag_conv_opts opts,
                                   const ag_tensor *x_like)
{
    return ag_apply(ctx, &ag_op_conv2d_backward_data, (ag_tensor *[]){d, w},
                    &(op_conv_attr){.opts = opts, .h = ag_dim(x_like, 1), .w = ag_dim(x_like, 2)});
}

/* --- conv2d_backward_weights: D, x -> dw ------------------------------------------------------ */

static cpu_conv weights_geometry(const ag_call *call)
{
    const op_conv_attr *a = call->attr;
    const ag_tensor *d = call->in[0], *x = call->in[1];
    cpu_conv c = geometry(a, ag_dim(x, 0), ag_dim(x, 1), ag_dim(x, 2), ag_dim(x, 3), ag_dim(d, 3),
                          a->h, a->w);

    c.type = ag_dtype_of(x);
    c.weight_type = AG_F32;
    return c;
}

static ag_status weights_shape(ag_call *call)
{
    const ag_tensor *d = call->in[0], *x = call->in[1];
    cpu_conv c;

    if (op_check_floats(call, 0) != AG_OK || check_opts(call) != AG_OK ||
        check_4d(call, 0, "D [N,OH,OW,O]") != AG_OK || check_4d(call, 1, "x [N,H,W,I]") != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_dtype_of(d) != ag_dtype_of(x))
        return ag_fail(call->ctx, AG_EDTYPE, "conv2d_backward_weights: D %s and x %s differ in "
                       "element type", OP_SHAPE(d), OP_SHAPE(x));
    c = weights_geometry(call);
    if (check_result(call, &c) != AG_OK)
        return ag_status_of(call->ctx);
    ag_out(call, AG_F32, 4, (int64_t[]){c.o, c.kh, c.kw, c.c});
    return AG_OK;
}

static size_t weights_scratch(const ag_call *call, const cpu_conv *c)
{
    cpu_state *state = ag_cpu(call->ctx);

    return state ? op_round_scratch(cpu_conv2d_backward_weights_scratch(state, c)) : 0;
}

static ag_status weights_cpu(ag_call *call)
{
    const cpu_conv c = weights_geometry(call);
    const size_t bytes = weights_scratch(call, &c);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    if (ag_numel(call->out[0]) == 0)
        return AG_OK;
    if (bytes && !scratch)
        return ag_status_of(call->ctx);
    if (!cpu_conv2d_backward_weights(ag_data(call->out[0]), NULL, ag_cpu(call->ctx), &c,
                                     ag_data(call->in[1]), ag_data(call->in[0]), scratch))
        return run_failed(call, &c);
    return AG_OK;
}

static void weights_cost(const ag_call *call, ag_cost *cost)
{
    const cpu_conv c = weights_geometry(call);

    cost->flops = conv_flops(&c);
    cost->scratch = weights_scratch(call, &c);
}

static void weights_grad(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad)
{
    const op_conv_attr *a = node->attr;

    if (node->wants[0])
        grad[0] = ag_conv2d(ctx, node->in[1], d[0], NULL, a->opts);
    if (node->wants[1])
        grad[1] = op_conv2d_backward_data(ctx, node->in[0], d[0], a->opts, node->in[1]);
}

const ag_op ag_op_conv2d_backward_weights = {
    .name = "conv2d_backward_weights",
    .n_in = 2,
    .attr_size = sizeof(op_conv_attr),
    .shape = weights_shape,
    .run = {[AG_CPU] = weights_cpu},
    .grad = weights_grad,
    .saves = factor_saves,
    .cost = weights_cost,
};

ag_tensor *op_conv2d_backward_weights(ag_ctx *ctx, ag_tensor *d, ag_tensor *x, ag_conv_opts opts,
                                      const ag_tensor *w_like)
{
    return ag_apply(ctx, &ag_op_conv2d_backward_weights, (ag_tensor *[]){d, x},
                    &(op_conv_attr){.opts = opts, .h = ag_dim(w_like, 1), .w = ag_dim(w_like, 2)});
}
