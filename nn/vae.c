/* vae.c - the autoencoder between pixels and latents. See vae.h.
 *
 * At 512 pixels one activation of the finest level is 134 MB, so each block's result replaces the
 * one before (nn_keep_only) and nothing else waits.
 */
#include "nn/vae.h"

#include "autograd/grad.h"
#include "nn/layers.h"

enum { MAX_LAYERS = 16, MAX_CHANNELS = 1 << 20 };

static const double VAE_NORM_EPS = 1e-6;

/* y = x + to_out(attention of all pixels over all pixels, one head of all channels) */
typedef struct vae_attention {
    nn_norm_layer group_norm;
    nn_linear_layer to_q, to_k, to_v, to_out;
} vae_attention;

typedef struct vae_level {
    int n_resnets;
    nn_resnet resnets[MAX_LAYERS + 1];
    bool has_resampler;
    nn_conv_layer resampler; /* downsamplers.0.conv or upsamplers.0.conv */
} vae_level;

/* An encoder or a decoder: they differ in direction only. */
typedef struct vae_half {
    nn_conv_layer conv_in, conv_out;
    vae_level levels[NN_MAX_LEVELS]; /* in the order they run */
    nn_resnet mid_resnets[2];
    vae_attention mid_attention;
    nn_norm_layer conv_norm_out;
} vae_half;

struct nn_vae {
    nn_vae_config config;
    nn_params *params;
    vae_half encoder, decoder;
    nn_conv_layer quant_conv, post_quant_conv;
};

/* --- making ------------------------------------------------------------------------------- */

static ag_status check_config(ag_ctx *ctx, const nn_vae_config *c)
{
    if (c->n_levels < 1 || c->n_levels > NN_MAX_LEVELS)
        return ag_fail(ctx, AG_EINVAL, "VAE: want 1..%d levels, got %d", NN_MAX_LEVELS,
                       c->n_levels);
    if (c->layers_per_block < 1 || c->layers_per_block > MAX_LAYERS)
        return ag_fail(ctx, AG_EINVAL, "VAE: want layers_per_block in 1..%d, got %lld", MAX_LAYERS,
                       (long long)c->layers_per_block);
    if (c->in_channels < 1 || c->out_channels < 1 || c->latent_channels < 1 ||
        c->norm_num_groups < 1 || c->in_channels > MAX_CHANNELS || c->out_channels > MAX_CHANNELS ||
        c->latent_channels > MAX_CHANNELS || c->norm_num_groups > MAX_CHANNELS)
        return ag_fail(ctx, AG_EINVAL, "VAE: channels and groups are in 1..%d", MAX_CHANNELS);
    for (int i = 0; i < c->n_levels; i++) {
        if (c->block_out_channels[i] < 1 || c->block_out_channels[i] > MAX_CHANNELS)
            return ag_fail(ctx, AG_EINVAL, "VAE: block_out_channels are in 1..%d, got %lld",
                           MAX_CHANNELS, (long long)c->block_out_channels[i]);
    }
    return AG_OK;
}

static void declare_resnet(nn_vae *net, nn_resnet *block, int j, int64_t in, int64_t out)
{
    nn_enter(net->params, "resnets.%d", j);
    nn_resnet_declare(net->params, block, in, out, 0, (int)net->config.norm_num_groups,
                      VAE_NORM_EPS, 1.0);
    nn_leave(net->params);
}

static void declare_mid(nn_vae *net, vae_half *half, int64_t channels)
{
    vae_attention *a = &half->mid_attention;

    nn_enter(net->params, "mid_block");
    declare_resnet(net, &half->mid_resnets[0], 0, channels, channels);
    nn_enter(net->params, "attentions.0");
    nn_group_norm_declare(net->params, &a->group_norm, "group_norm", channels,
                          (int)net->config.norm_num_groups, VAE_NORM_EPS);
    nn_linear_declare(net->params, &a->to_q, "to_q", channels, channels, true, NN_LINEAR_1X1,
                      false);
    nn_linear_declare(net->params, &a->to_k, "to_k", channels, channels, true, NN_LINEAR_1X1,
                      false);
    nn_linear_declare(net->params, &a->to_v, "to_v", channels, channels, true, NN_LINEAR_1X1,
                      false);
    nn_linear_declare(net->params, &a->to_out, "to_out.0", channels, channels, true, NN_LINEAR_1X1,
                      false);
    nn_leave(net->params);
    declare_resnet(net, &half->mid_resnets[1], 1, channels, channels);
    nn_leave(net->params);
}

static void declare_encoder(nn_vae *net)
{
    const nn_vae_config *c = &net->config;
    vae_half *half = &net->encoder;
    int64_t in = c->block_out_channels[0];

    nn_enter(net->params, "encoder");
    nn_conv_declare(net->params, &half->conv_in, "conv_in", c->in_channels, in, 3, 1, 1);
    for (int i = 0; i < c->n_levels; i++) {
        vae_level *level = &half->levels[i];
        const int64_t out = c->block_out_channels[i];

        level->n_resnets = (int)c->layers_per_block;
        level->has_resampler = i < c->n_levels - 1;
        nn_enter(net->params, "down_blocks.%d", i);
        for (int j = 0; j < level->n_resnets; j++)
            declare_resnet(net, &level->resnets[j], j, j ? out : in, out);
        if (level->has_resampler) {
            nn_enter(net->params, "downsamplers.0");
            nn_downsample_declare(net->params, &level->resampler, out, 0);
            nn_leave(net->params);
        }
        nn_leave(net->params);
        in = out;
    }
    declare_mid(net, half, in);
    nn_group_norm_declare(net->params, &half->conv_norm_out, "conv_norm_out", in,
                          (int)c->norm_num_groups, VAE_NORM_EPS);
    nn_conv_declare(net->params, &half->conv_out, "conv_out", in, 2 * c->latent_channels, 3, 1, 1);
    nn_leave(net->params);
}

static void declare_decoder(nn_vae *net)
{
    const nn_vae_config *c = &net->config;
    vae_half *half = &net->decoder;
    int64_t in = c->block_out_channels[c->n_levels - 1];

    nn_enter(net->params, "decoder");
    nn_conv_declare(net->params, &half->conv_in, "conv_in", c->latent_channels, in, 3, 1, 1);
    declare_mid(net, half, in);
    for (int i = 0; i < c->n_levels; i++) {
        vae_level *level = &half->levels[i];
        const int64_t out = c->block_out_channels[c->n_levels - 1 - i];

        level->n_resnets = (int)c->layers_per_block + 1;
        level->has_resampler = i < c->n_levels - 1;
        nn_enter(net->params, "up_blocks.%d", i);
        for (int j = 0; j < level->n_resnets; j++)
            declare_resnet(net, &level->resnets[j], j, j ? out : in, out);
        if (level->has_resampler) {
            nn_enter(net->params, "upsamplers.0");
            nn_upsample_declare(net->params, &level->resampler, out);
            nn_leave(net->params);
        }
        nn_leave(net->params);
        in = out;
    }
    nn_group_norm_declare(net->params, &half->conv_norm_out, "conv_norm_out", in,
                          (int)c->norm_num_groups, VAE_NORM_EPS);
    nn_conv_declare(net->params, &half->conv_out, "conv_out", in, c->out_channels, 3, 1, 1);
    nn_leave(net->params);
}

ag_status nn_vae_new(nn_vae **out, ag_ctx *ctx, const nn_vae_config *config)
{
    nn_vae *net = NULL;
    ag_status status = ag_status_of(ctx);

    if (status != AG_OK || (status = check_config(ctx, config)) != AG_OK)
        return status;
    net = ag_new(ctx, 1, sizeof *net, "a VAE");
    if (!net)
        return ag_status_of(ctx);
    net->config = *config;
    if (nn_params_new(&net->params, ctx) == AG_OK) {
        const int64_t l = config->latent_channels;

        declare_encoder(net);
        nn_conv_declare(net->params, &net->quant_conv, "quant_conv", 2 * l, 2 * l, 1, 1, 0);
        nn_conv_declare(net->params, &net->post_quant_conv, "post_quant_conv", l, l, 1, 1, 0);
        declare_decoder(net);
    }
    status = ag_status_of(ctx);
    if (status == AG_OK) {
        *out = net;
        net = NULL;
    }
    nn_vae_free(net);
    return status;
}

void nn_vae_free(nn_vae *net)
{
    if (!net)
        return;
    nn_params_free(net->params);
    ag_delete(net);
}

nn_params *nn_vae_params(const nn_vae *net)
{
    return net->params;
}

const nn_vae_config *nn_vae_config_of(const nn_vae *net)
{
    return &net->config;
}

int nn_vae_factor(const nn_vae *net)
{
    return 1 << (net->config.n_levels - 1);
}

/* --- running ------------------------------------------------------------------------------ */

/* What the attention is a function of; copied by a checkpoint. */
typedef struct attention_call {
    const vae_attention *block;
    ag_tensor *x;
} attention_call;

static ag_tensor *run_attention(ag_ctx *ctx, const void *arg)
{
    const attention_call *call = arg;
    const vae_attention *a = call->block;
    ag_tensor *x = call->x, *h, *tokens;
    ag_scope scope;

    if (!x)
        return NULL;
    scope = ag_scope_open(ctx);
    h = nn_group_norm(ctx, &a->group_norm, x, false);
    h = ag_reshape(ctx, h, 3, (int64_t[]){ag_dim(x, 0), ag_dim(x, 1) * ag_dim(x, 2), ag_dim(x, 3)});
    h = ag_attention(ctx, nn_linear(ctx, &a->to_q, h), nn_linear(ctx, &a->to_k, h),
                     nn_linear(ctx, &a->to_v, h), 1, 0.0, false);
    tokens = ag_reshape(ctx, x, 3, (int64_t[]){ag_dim(x, 0), ag_dim(x, 1) * ag_dim(x, 2), ag_dim(x, 3)});
    h = nn_linear_plus(ctx, &a->to_out, h, tokens);
    return ag_scope_close(ctx, scope, ag_reshape(ctx, h, 4, ag_dims(x)));
}

/* The three blocks in the middle. `chain` is the scope in which one result replaces the other. */
static ag_tensor *run_mid(ag_ctx *ctx, const vae_half *half, ag_scope chain, ag_tensor *x,
                          bool recompute)
{
    attention_call call = {.block = &half->mid_attention};

    x = nn_keep_only(ctx, chain,
                     nn_resnet_forward(ctx, &half->mid_resnets[0], x, NULL, NULL, recompute));
    call.x = x;
    x = recompute ? ag_checkpoint(ctx, run_attention, &call, sizeof call)
                  : run_attention(ctx, &call);
    x = nn_keep_only(ctx, chain, x);
    return nn_keep_only(ctx, chain,
                        nn_resnet_forward(ctx, &half->mid_resnets[1], x, NULL, NULL, recompute));
}

static ag_tensor *run_level(ag_ctx *ctx, const vae_level *level, bool up, ag_scope chain,
                            ag_tensor *x, bool recompute)
{
    for (int j = 0; j < level->n_resnets; j++)
        x = nn_keep_only(ctx, chain,
                         nn_resnet_forward(ctx, &level->resnets[j], x, NULL, NULL, recompute));
    if (!level->has_resampler || !x)
        return x;
    x = up ? nn_upsample(ctx, &level->resampler, x, 2 * ag_dim(x, 1), 2 * ag_dim(x, 2))
           : nn_conv(ctx, &level->resampler, x);
    return nn_keep_only(ctx, chain, x);
}

ag_tensor *nn_vae_encode(ag_ctx *ctx, const nn_vae *net, ag_tensor *pixels,
                         const nn_vae_options *options)
{
    const nn_vae_options o = options ? *options : (nn_vae_options){0};
    const vae_half *half = &net->encoder;
    const int factor = nn_vae_factor(net);
    ag_tensor *x;
    ag_scope chain;

    if (!pixels || ag_status_of(ctx) != AG_OK)
        return NULL;
    if (ag_dtype_of(pixels) != AG_F32 || ag_ndim(pixels) != 4 ||
        ag_dim(pixels, 3) != net->config.in_channels || ag_dim(pixels, 1) < factor ||
        ag_dim(pixels, 2) < factor) {
        ag_fail(ctx, AG_ESHAPE, "VAE: want pixels f32 [N,H,W,%lld] of at least %d by %d",
                (long long)net->config.in_channels, factor, factor);
        return NULL;
    }
    chain = ag_scope_open(ctx);
    x = nn_keep_only(ctx, chain,
                     nn_conv(ctx, &half->conv_in, nn_enter_compute(ctx, pixels, o.compute)));
    for (int i = 0; i < net->config.n_levels; i++)
        x = run_level(ctx, &half->levels[i], false, chain, x, o.checkpointing);
    x = run_mid(ctx, half, chain, x, o.checkpointing);
    x = nn_conv(ctx, &half->conv_out, nn_group_norm(ctx, &half->conv_norm_out, x, true));
    x = nn_enter_compute(ctx, nn_conv(ctx, &net->quant_conv, x), AG_F32);
    return ag_scope_close(ctx, chain, x);
}

ag_tensor *nn_vae_decode(ag_ctx *ctx, const nn_vae *net, ag_tensor *latent,
                         const nn_vae_options *options)
{
    const nn_vae_options o = options ? *options : (nn_vae_options){0};
    const vae_half *half = &net->decoder;
    ag_tensor *x;
    ag_scope chain;

    if (!latent || ag_status_of(ctx) != AG_OK)
        return NULL;
    if (ag_dtype_of(latent) != AG_F32 || ag_ndim(latent) != 4 ||
        ag_dim(latent, 3) != net->config.latent_channels) {
        ag_fail(ctx, AG_ESHAPE, "VAE: want a latent f32 [N,h,w,%lld]",
                (long long)net->config.latent_channels);
        return NULL;
    }
    chain = ag_scope_open(ctx);
    x = nn_conv(ctx, &net->post_quant_conv, nn_enter_compute(ctx, latent, o.compute));
    x = nn_keep_only(ctx, chain, nn_conv(ctx, &half->conv_in, x));
    x = run_mid(ctx, half, chain, x, o.checkpointing);
    for (int i = 0; i < net->config.n_levels; i++)
        x = run_level(ctx, &half->levels[i], true, chain, x, o.checkpointing);
    x = nn_conv(ctx, &half->conv_out, nn_group_norm(ctx, &half->conv_norm_out, x, true));
    return ag_scope_close(ctx, chain, nn_enter_compute(ctx, x, AG_F32));
}

/* --- the distribution --------------------------------------------------------------------- */

ag_tensor *nn_vae_mean(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments)
{
    return ag_slice(ctx, moments, -1, 0, net->config.latent_channels);
}

ag_tensor *nn_vae_logvar(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments)
{
    const int64_t l = net->config.latent_channels;

    return ag_clamp(ctx, ag_slice(ctx, moments, -1, l, l), -30.0, 20.0);
}

ag_tensor *nn_vae_sample(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments, ag_tensor *noise)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *deviation = ag_exp(ctx, ag_scale(ctx, nn_vae_logvar(ctx, net, moments), 0.5));

    return ag_scope_close(
        ctx, scope, ag_add(ctx, nn_vae_mean(ctx, net, moments), ag_mul(ctx, deviation, noise)));
}

ag_tensor *nn_vae_kl(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *mean = nn_vae_mean(ctx, net, moments), *logvar = nn_vae_logvar(ctx, net, moments);
    ag_tensor *sum;

    sum = ag_add(ctx, ag_square(ctx, mean),
                 ag_sub(ctx, ag_exp(ctx, logvar), ag_offset(ctx, logvar, 1.0)));
    return ag_scope_close(ctx, scope, ag_scale(ctx, ag_sum(ctx, sum, 0xe, false), 0.5));
}
