/* layers.c - the small parts networks are made of. See layers.h. */
#include "nn/layers.h"

#include "autograd/grad.h"
#include "nn/adapter.h"
#include "nn/init.h"

/* --- linear, convolution, norms ----------------------------------------------------------- */

/* The weight of a linear map. */
static nn_param *declare_map(nn_params *params, nn_layout layout, nn_first first, int n_dims,
                             const int64_t *dims)
{
    nn_param *weight = nn_declare(params, "weight", layout, first, n_dims, dims);

    if (weight)
        weight->is_map = true;
    return weight;
}

void nn_linear_declare(nn_params *params, nn_linear_layer *layer, const char *name, int64_t in,
                       int64_t out, bool bias, nn_layout layout, bool conv_shape)
{
    const nn_first first = nn_first_uniform(in);

    nn_enter(params, "%s", name);
    layer->weight =
        declare_map(params, layout, first, conv_shape ? 4 : 2, (int64_t[]){out, in, 1, 1});
    layer->bias = bias ? nn_declare(params, "bias", NN_AS_IS, first, 1, &out) : NULL;
    nn_leave(params);
}

void nn_linear_declare_drawn(nn_params *params, nn_linear_layer *layer, const char *name,
                             int64_t in, int64_t out, nn_first weight, nn_first bias)
{
    nn_enter(params, "%s", name);
    layer->weight = declare_map(params, NN_AS_IS, weight, 2, (int64_t[]){out, in});
    layer->bias = nn_declare(params, "bias", NN_AS_IS, bias, 1, &out);
    nn_leave(params);
}

ag_tensor *nn_linear(ag_ctx *ctx, const nn_linear_layer *layer, ag_tensor *x)
{
    return nn_linear_plus(ctx, layer, x, NULL);
}

/* plus + y, or y. */
static ag_tensor *add_to(ag_ctx *ctx, ag_tensor *plus, ag_tensor *y)
{
    return plus ? ag_add(ctx, plus, y) : y;
}

ag_tensor *nn_linear_plus(ag_ctx *ctx, const nn_linear_layer *layer, ag_tensor *x, ag_tensor *plus)
{
    const nn_param *w = layer->weight;
    ag_tensor *bias = layer->bias ? layer->bias->value : NULL;

    return w->adapter ? add_to(ctx, plus, nn_adapter_linear(ctx, w->adapter, x, bias))
                      : ag_linear_plus(ctx, x, w->value, bias, plus);
}

void nn_conv_declare(nn_params *params, nn_conv_layer *layer, const char *name, int64_t in,
                     int64_t out, int kernel, int stride, int pad)
{
    const nn_first first = nn_first_uniform(in * kernel * kernel);

    layer->pointwise = kernel == 1 && stride == 1 && pad == 0;
    layer->opts = (ag_conv_opts){
        .stride = stride, .pad_top = pad, .pad_bottom = pad, .pad_left = pad, .pad_right = pad};
    nn_enter(params, "%s", name);
    layer->weight = declare_map(params, layer->pointwise ? NN_LINEAR_1X1 : NN_OIHW, first, 4,
                                (int64_t[]){out, in, kernel, kernel});
    layer->bias = nn_declare(params, "bias", NN_AS_IS, first, 1, &out);
    nn_leave(params);
}

ag_tensor *nn_conv(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x)
{
    return nn_conv_plus(ctx, layer, x, NULL);
}

ag_tensor *nn_conv_plus(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x, ag_tensor *plus)
{
    if (layer->pointwise)
        return nn_linear_plus(ctx, &(nn_linear_layer){layer->weight, layer->bias}, x, plus);
    if (layer->weight->adapter)
        return add_to(ctx, plus,
                      nn_adapter_conv(ctx, layer->weight->adapter, x, layer->bias->value, layer->opts));
    return ag_conv2d_plus(ctx, x, layer->weight->value, layer->bias->value, layer->opts, plus);
}

ag_tensor *nn_conv_shifted(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x, ag_tensor *shift)
{
    ag_tensor *bias = layer->bias->value;

    if (!shift || ag_dim(shift, 0) != 1 || layer->pointwise || layer->weight->adapter)
        return ag_add(ctx, nn_conv(ctx, layer, x), shift);
    shift = nn_enter_compute(ctx, ag_reshape(ctx, shift, 1, ag_dims(bias)), ag_dtype_of(bias));
    bias = ag_add(ctx, bias, shift);
    return ag_conv2d(ctx, x, layer->weight->value, bias, layer->opts);
}

static void norm_declare(nn_params *params, nn_norm_layer *layer, const char *name,
                         int64_t channels, int groups, double eps)
{
    layer->groups = groups;
    layer->eps = eps;
    nn_enter(params, "%s", name);
    layer->weight = nn_declare(params, "weight", NN_AS_IS, nn_first_constant(1.0), 1, &channels);
    layer->bias = nn_declare(params, "bias", NN_AS_IS, nn_first_constant(0.0), 1, &channels);
    nn_leave(params);
}

void nn_group_norm_declare(nn_params *params, nn_norm_layer *layer, const char *name,
                           int64_t channels, int groups, double eps)
{
    char here[NN_MAX_NAME];

    if (groups < 1 || channels % groups)
        ag_fail(nn_params_ctx(params), AG_EINVAL, "%s.%s: %lld channels do not make %d groups",
                nn_here(params, here, sizeof here), name, (long long)channels, groups);
    norm_declare(params, layer, name, channels, groups, eps);
}

ag_tensor *nn_group_norm(ag_ctx *ctx, const nn_norm_layer *layer, ag_tensor *x, bool silu)
{
    return ag_group_norm(ctx, x, layer->weight->value, layer->bias->value, layer->groups,
                         layer->eps, silu);
}

void nn_layer_norm_declare(nn_params *params, nn_norm_layer *layer, const char *name,
                           int64_t channels, double eps)
{
    norm_declare(params, layer, name, channels, 0, eps);
}

ag_tensor *nn_layer_norm(ag_ctx *ctx, const nn_norm_layer *layer, ag_tensor *x)
{
    return ag_layer_norm(ctx, x, layer->weight->value, layer->bias->value, layer->eps);
}

/* --- residual block ----------------------------------------------------------------------- */

void nn_resnet_declare(nn_params *params, nn_resnet *block, int64_t in, int64_t out,
                       int64_t time_channels, int groups, double eps, double scale)
{
    block->has_shortcut = in != out;
    block->has_time = time_channels > 0;
    block->scale = scale;
    nn_group_norm_declare(params, &block->norm1, "norm1", in, groups, eps);
    nn_conv_declare(params, &block->conv1, "conv1", in, out, 3, 1, 1);
    if (block->has_time)
        nn_linear_declare(params, &block->time_emb_proj, "time_emb_proj", time_channels, out, true,
                          NN_AS_IS, false);
    nn_group_norm_declare(params, &block->norm2, "norm2", out, groups, eps);
    nn_conv_declare(params, &block->conv2, "conv2", out, out, 3, 1, 1);
    if (block->has_shortcut)
        nn_conv_declare(params, &block->conv_shortcut, "conv_shortcut", in, out, 1, 1, 0);
}

/* The time's contribution, one number per picture and channel: [N,1,1,C]. */
static ag_tensor *time_shift(ag_ctx *ctx, const nn_resnet *block, ag_tensor *time)
{
    ag_tensor *shift = nn_linear(ctx, &block->time_emb_proj, time);

    if (!shift)
        return NULL;
    return ag_reshape(ctx, shift, 4, (int64_t[]){ag_dim(shift, 0), 1, 1, ag_dim(shift, 1)});
}

/* The branch of the two convolutions, and x beside it. Each step lets go of the one before, so that two tensors of
 * the block's size live beside x at any moment: at 512 pixels each takes an eighth of a gigabyte or
 * more. */
static ag_tensor *residual_branch(ag_ctx *ctx, const nn_resnet *block, ag_tensor *x,
                                  ag_tensor *time)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *h;

    h = nn_group_norm(ctx, &block->norm1, x, true);
    h = block->has_time ? nn_conv_shifted(ctx, &block->conv1, h, time_shift(ctx, block, time))
                        : nn_conv(ctx, &block->conv1, h);
    h = nn_keep_only(ctx, scope, h);
    h = nn_group_norm(ctx, &block->norm2, h, true);
    h = nn_keep_only(ctx, scope, h);
    h = nn_conv_plus(ctx, &block->conv2, h, block->has_shortcut ? nn_conv(ctx, &block->conv_shortcut, x) : x);
    return ag_scope_close(ctx, scope, h);
}

/* What a residual block is a function of; copied by a checkpoint. */
typedef struct resnet_call {
    const nn_resnet *block;
    ag_tensor *x, *skip, *time;
} resnet_call;

static ag_tensor *run_resnet(ag_ctx *ctx, const void *arg)
{
    const resnet_call *call = arg;
    const nn_resnet *block = call->block;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *x = call->skip ? ag_concat(ctx, call->x, call->skip, -1) : call->x;
    ag_tensor *y = residual_branch(ctx, block, x, call->time);

    if (block->scale != 1.0)
        y = ag_scale(ctx, y, 1.0 / block->scale);
    return ag_scope_close(ctx, scope, y);
}

ag_tensor *nn_resnet_forward(ag_ctx *ctx, const nn_resnet *block, ag_tensor *x, ag_tensor *skip,
                             ag_tensor *time, bool recompute)
{
    const resnet_call call = {block, x, skip, time};

    return recompute ? ag_checkpoint(ctx, run_resnet, &call, sizeof call) : run_resnet(ctx, &call);
}

/* --- resampling --------------------------------------------------------------------------- */

void nn_downsample_declare(nn_params *params, nn_conv_layer *layer, int64_t channels, int pad)
{
    nn_conv_declare(params, layer, "conv", channels, channels, 3, 2, pad);
    if (pad == 0)
        layer->opts.pad_bottom = layer->opts.pad_right = 1;
}

void nn_upsample_declare(nn_params *params, nn_conv_layer *layer, int64_t channels)
{
    nn_conv_declare(params, layer, "conv", channels, channels, 3, 1, 1);
}

ag_tensor *nn_upsample(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x, int64_t h, int64_t w)
{
    const ag_scope scope = ag_scope_open(ctx);
    nn_conv_layer enlarging = *layer;

    enlarging.opts.enlarge = x && !layer->weight->adapter && h == 2 * ag_dim(x, 1) && w == 2 * ag_dim(x, 2);
    if (!enlarging.opts.enlarge)
        x = ag_upsample_nearest(ctx, x, h, w);
    return ag_scope_close(ctx, scope, nn_conv(ctx, &enlarging, x));
}

/* --- lifetimes and number formats --------------------------------------------------------- */

ag_tensor *nn_keep_only(ag_ctx *ctx, ag_scope scope, ag_tensor *keep)
{
    return ag_scope_close(ctx, scope, keep); /* a scope is a mark: closed, it can be filled again */
}

ag_tensor *nn_enter_compute(ag_ctx *ctx, ag_tensor *x, ag_dtype compute)
{
    return x && ag_dtype_of(x) != compute ? ag_cast(ctx, x, compute) : x;
}
