/* unet.c - the U-Net. See unet.h for what it is, unet_blocks.c for what it is built of. */
#include "nn/unet.h"

#include "nn/unet_blocks.h"

enum { MAX_LAYERS = 16, MAX_TRANSFORMER_LAYERS = 64, MAX_CHANNELS = 1 << 20 };
enum { MAX_SKIPS = NN_MAX_LEVELS * (MAX_LAYERS + 1) + 1 };

struct nn_unet {
    nn_unet_config config;
    nn_params *params;
    int n_attentions;
    nn_conv_layer conv_in, conv_out;
    nn_linear_layer time_linear_1, time_linear_2;
    unet_level down[NN_MAX_LEVELS], mid, up[NN_MAX_LEVELS];
    nn_norm_layer conv_norm_out;
};

/* --- making ------------------------------------------------------------------------------- */

static ag_status check_config(ag_ctx *ctx, const nn_unet_config *c)
{
    if (c->n_levels < 1 || c->n_levels > NN_MAX_LEVELS)
        return ag_fail(ctx, AG_EINVAL, "U-Net: want 1..%d levels, got %d", NN_MAX_LEVELS,
                       c->n_levels);
    if (c->layers_per_block < 1 || c->layers_per_block >= MAX_LAYERS)
        return ag_fail(ctx, AG_EINVAL, "U-Net: want layers_per_block in 1..%d, got %lld",
                       MAX_LAYERS - 1, (long long)c->layers_per_block);
    if (c->transformer_layers_per_block < 1 ||
        c->transformer_layers_per_block > MAX_TRANSFORMER_LAYERS)
        return ag_fail(ctx, AG_EINVAL,
                       "U-Net: want transformer_layers_per_block in 1..%d, got %lld",
                       MAX_TRANSFORMER_LAYERS, (long long)c->transformer_layers_per_block);
    if (c->in_channels < 1 || c->out_channels < 1 || c->cross_attention_dim < 1 ||
        c->norm_num_groups < 1 || c->in_channels > MAX_CHANNELS || c->out_channels > MAX_CHANNELS ||
        c->cross_attention_dim > MAX_CHANNELS || c->norm_num_groups > MAX_CHANNELS)
        return ag_fail(ctx, AG_EINVAL, "U-Net: channels, widths and groups are in 1..%d",
                       MAX_CHANNELS);
    if (!(c->mid_block_scale_factor > 0.0))
        return ag_fail(ctx, AG_EINVAL, "U-Net: want mid_block_scale_factor > 0, got %g",
                       c->mid_block_scale_factor);
    for (int i = 0; i < c->n_levels; i++) {
        if (c->block_out_channels[i] < 1 || c->block_out_channels[i] > MAX_CHANNELS)
            return ag_fail(ctx, AG_EINVAL, "U-Net: block_out_channels are in 1..%d, got %lld",
                           MAX_CHANNELS, (long long)c->block_out_channels[i]);
    }
    if (c->freq_shift >= (double)c->block_out_channels[0] / 2.0)
        return ag_fail(ctx, AG_EINVAL, "U-Net: want freq_shift below half of %lld channels, got %g",
                       (long long)c->block_out_channels[0], c->freq_shift);
    return AG_OK;
}

static void declare_down(nn_unet *net, int i)
{
    const nn_unet_config *c = &net->config;
    const int64_t out = c->block_out_channels[i], in = i ? c->block_out_channels[i - 1] : out;
    unet_level *level = &net->down[i];

    if (!unet_level_alloc(nn_params_ctx(net->params), level, (int)c->layers_per_block,
                          c->down_attention[i]))
        return;
    nn_enter(net->params, "down_blocks.%d", i);
    for (int j = 0; j < level->n_layers; j++) {
        unet_resnet_declare(net->params, level, j, c, j ? out : in, out, 1.0);
        if (level->has_attention)
            unet_attention_declare(net->params, level, j, c, out, c->n_heads[i],
                                   &net->n_attentions);
    }
    level->has_resampler = i < c->n_levels - 1;
    if (level->has_resampler) {
        nn_enter(net->params, "downsamplers.0");
        nn_downsample_declare(net->params, &level->resampler, out, 1);
        nn_leave(net->params);
    }
    nn_leave(net->params);
}

/* Two residual blocks with one transformer between them. */
static void declare_mid(nn_unet *net)
{
    const nn_unet_config *c = &net->config;
    const int64_t channels = c->block_out_channels[c->n_levels - 1];

    if (!unet_level_alloc(nn_params_ctx(net->params), &net->mid, 2, true))
        return;
    nn_enter(net->params, "mid_block");
    for (int j = 0; j < 2; j++)
        unet_resnet_declare(net->params, &net->mid, j, c, channels, channels,
                            c->mid_block_scale_factor);
    unet_attention_declare(net->params, &net->mid, 0, c, channels, c->n_heads[c->n_levels - 1],
                           &net->n_attentions);
    nn_leave(net->params);
}

/* Up block i works at level `last - i`. Its layers read the block before (or their own output)
 * joined with a skip, which in the last layer comes from the level below. */
static void declare_up(nn_unet *net, int i)
{
    const nn_unet_config *c = &net->config;
    const int last = c->n_levels - 1, at = last - i;
    const int64_t out = c->block_out_channels[at], before = c->block_out_channels[i ? at + 1 : at];
    const int64_t below = c->block_out_channels[at ? at - 1 : 0];
    unet_level *level = &net->up[i];

    if (!unet_level_alloc(nn_params_ctx(net->params), level, (int)c->layers_per_block + 1,
                          c->up_attention[i]))
        return;
    nn_enter(net->params, "up_blocks.%d", i);
    for (int j = 0; j < level->n_layers; j++) {
        const int64_t skip = j == level->n_layers - 1 ? below : out;

        unet_resnet_declare(net->params, level, j, c, (j ? out : before) + skip, out, 1.0);
        if (level->has_attention)
            unet_attention_declare(net->params, level, j, c, out, c->n_heads[at],
                                   &net->n_attentions);
    }
    level->has_resampler = i < last;
    if (level->has_resampler) {
        nn_enter(net->params, "upsamplers.0");
        nn_upsample_declare(net->params, &level->resampler, out);
        nn_leave(net->params);
    }
    nn_leave(net->params);
}

/* In the order of a pass: it numbers the attentions. */
static void declare_net(nn_unet *net)
{
    const nn_unet_config *c = &net->config;
    const int64_t first = c->block_out_channels[0];

    nn_conv_declare(net->params, &net->conv_in, "conv_in", c->in_channels, first, 3, 1, 1);
    nn_enter(net->params, "time_embedding");
    nn_linear_declare(net->params, &net->time_linear_1, "linear_1", first, 4 * first, true,
                      NN_AS_IS, false);
    nn_linear_declare(net->params, &net->time_linear_2, "linear_2", 4 * first, 4 * first, true,
                      NN_AS_IS, false);
    nn_leave(net->params);
    for (int i = 0; i < c->n_levels; i++)
        declare_down(net, i);
    declare_mid(net);
    for (int i = 0; i < c->n_levels; i++)
        declare_up(net, i);
    nn_group_norm_declare(net->params, &net->conv_norm_out, "conv_norm_out", first,
                          (int)c->norm_num_groups, c->norm_eps);
    nn_conv_declare(net->params, &net->conv_out, "conv_out", first, c->out_channels, 3, 1, 1);
}

ag_status nn_unet_new(nn_unet **out, ag_ctx *ctx, const nn_unet_config *config)
{
    nn_unet *net = NULL;
    ag_status status = ag_status_of(ctx);

    if (status != AG_OK || (status = check_config(ctx, config)) != AG_OK)
        return status;
    net = ag_new(ctx, 1, sizeof *net, "a U-Net");
    if (!net)
        return ag_status_of(ctx);
    net->config = *config;
    if (nn_params_new(&net->params, ctx) == AG_OK)
        declare_net(net);
    status = ag_status_of(ctx);
    if (status == AG_OK) {
        *out = net;
        net = NULL;
    }
    nn_unet_free(net);
    return status;
}

void nn_unet_free(nn_unet *net)
{
    if (!net)
        return;
    for (int i = 0; i < net->config.n_levels; i++) {
        unet_level_free(&net->down[i]);
        unet_level_free(&net->up[i]);
    }
    unet_level_free(&net->mid);
    nn_params_free(net->params);
    ag_delete(net);
}

nn_params *nn_unet_params(const nn_unet *net)
{
    return net->params;
}

const nn_unet_config *nn_unet_config_of(const nn_unet *net)
{
    return &net->config;
}

int nn_unet_n_attentions(const nn_unet *net)
{
    return net->n_attentions;
}

/* --- running ------------------------------------------------------------------------------ */

/* The results of the way down that wait for the way up. Each opens a scope: what is made after it,
 * up to the layer that takes it back, lives inside, so that taking it back lets go of all of that
 * at once. */
typedef struct skip_stack {
    ag_tensor *tensor[MAX_SKIPS];
    ag_scope scope[MAX_SKIPS];
    int n;
} skip_stack;

/* SiLU(time_embedding(t)), f32 [N,4 L0]: the SiLU that every residual block applies, once. */
static ag_tensor *embed_time(ag_ctx *ctx, const nn_unet *net, ag_tensor *timesteps)
{
    const nn_unet_config *c = &net->config;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *e;

    e = ag_timestep_embedding(ctx, timesteps, c->block_out_channels[0], c->flip_sin_to_cos,
                              c->freq_shift);
    e = nn_linear(ctx, &net->time_linear_2, ag_silu(ctx, nn_linear(ctx, &net->time_linear_1, e)));
    return ag_scope_close(ctx, scope, ag_silu(ctx, e));
}

static ag_tensor *push(skip_stack *stack, ag_scope scope, ag_tensor *x)
{
    stack->scope[stack->n] = scope;
    stack->tensor[stack->n++] = x;
    return x;
}

static ag_tensor *go_down(ag_ctx *ctx, const unet_pass *pass, const unet_level *level,
                          skip_stack *stack, ag_tensor *x)
{
    for (int j = 0; j < level->n_layers; j++) {
        const ag_scope scope = ag_scope_open(ctx);

        x = push(stack, scope, unet_layer(ctx, pass, level, j, x, NULL));
    }
    if (level->has_resampler) {
        const ag_scope scope = ag_scope_open(ctx);

        x = push(stack, scope, nn_conv(ctx, &level->resampler, x));
    }
    return x;
}

static ag_tensor *go_through_mid(ag_ctx *ctx, const unet_pass *pass, const unet_level *mid,
                                 ag_tensor *x)
{
    const ag_scope scope = ag_scope_open(ctx);

    x = unet_resnet(ctx, pass, &mid->resnets[0], x, NULL);
    x = unet_transform(ctx, pass, &mid->attentions[0], x);
    x = unet_resnet(ctx, pass, &mid->resnets[1], x, NULL);
    return ag_scope_close(ctx, scope, x);
}

static ag_tensor *go_up(ag_ctx *ctx, const unet_pass *pass, const unet_level *level,
                        skip_stack *stack, ag_tensor *x)
{
    const ag_tensor *next;

    for (int j = 0; j < level->n_layers; j++) {
        const int top = --stack->n;

        x = unet_layer(ctx, pass, level, j, x, stack->tensor[top]);
        x = ag_scope_close(ctx, stack->scope[top], x);
    }
    if (!level->has_resampler || !x)
        return x;
    /* To the size of the next skip: twice ours, or one less where the way down rounded up. */
    next = stack->tensor[stack->n - 1];
    return nn_upsample(ctx, &level->resampler, x, ag_dim(next, 1), ag_dim(next, 2));
}

static ag_status check_inputs(ag_ctx *ctx, const nn_unet_config *c, const ag_tensor *sample,
                              const ag_tensor *timesteps, const ag_tensor *context)
{
    if (ag_dtype_of(sample) != AG_F32 || ag_ndim(sample) != 4 ||
        ag_dim(sample, 3) != c->in_channels)
        return ag_fail(ctx, AG_ESHAPE,
                       "U-Net: want sample f32 [N,H,W,%lld], got %s with %lld channels in %d axes",
                       (long long)c->in_channels, ag_dtype_name(ag_dtype_of(sample)),
                       (long long)(ag_ndim(sample) ? ag_dim(sample, -1) : 0), ag_ndim(sample));
    if (ag_dtype_of(timesteps) != AG_F32 || ag_ndim(timesteps) != 1 ||
        ag_dim(timesteps, 0) != ag_dim(sample, 0))
        return ag_fail(ctx, AG_ESHAPE,
                       "U-Net: want timesteps f32 [%lld], one for each row of sample",
                       (long long)ag_dim(sample, 0));
    if (ag_dtype_of(context) != AG_F32 || ag_ndim(context) != 3 ||
        ag_dim(context, 0) != ag_dim(sample, 0) || ag_dim(context, 2) != c->cross_attention_dim)
        return ag_fail(ctx, AG_ESHAPE,
                       "U-Net: want a context f32 [%lld,T,%lld], got %s of width %lld",
                       (long long)ag_dim(sample, 0), (long long)c->cross_attention_dim,
                       ag_dtype_name(ag_dtype_of(context)),
                       (long long)(ag_ndim(context) ? ag_dim(context, -1) : 0));
    return AG_OK;
}

ag_tensor *nn_unet_forward(ag_ctx *ctx, const nn_unet *net, ag_tensor *sample, ag_tensor *timesteps,
                           ag_tensor *context, const nn_unet_options *options)
{
    const nn_unet_config *c = &net->config;
    unet_pass pass = {.options = options ? *options : (nn_unet_options){0}};
    skip_stack stack = {.n = 0};
    ag_scope whole, first;
    ag_tensor *x = sample;

    if (!sample || !timesteps || !context || ag_status_of(ctx) != AG_OK ||
        check_inputs(ctx, c, sample, timesteps, context) != AG_OK)
        return NULL;
    whole = ag_scope_open(ctx);
    pass.time = nn_enter_compute(ctx, embed_time(ctx, net, timesteps), pass.options.compute);
    pass.context = nn_enter_compute(ctx, context, pass.options.compute);
    if (c->center_input_sample)
        x = ag_affine(ctx, x, 2.0, -1.0);
    x = nn_enter_compute(ctx, x, pass.options.compute);

    first = ag_scope_open(ctx);
    x = push(&stack, first, nn_conv(ctx, &net->conv_in, x));
    for (int i = 0; i < c->n_levels; i++)
        x = go_down(ctx, &pass, &net->down[i], &stack, x);
    x = go_through_mid(ctx, &pass, &net->mid, x);
    for (int i = 0; i < c->n_levels; i++)
        x = go_up(ctx, &pass, &net->up[i], &stack, x);

    x = nn_conv(ctx, &net->conv_out, nn_group_norm(ctx, &net->conv_norm_out, x, true));
    return ag_scope_close(ctx, whole, nn_enter_compute(ctx, x, AG_F32));
}
