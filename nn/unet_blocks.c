/* unet_blocks.c - what the U-Net is built of. See unet_blocks.h. */
#include "nn/unet_blocks.h"

#include <math.h>
#include <stdio.h>

#include "autograd/grad.h"

static const double TRANSFORMER_NORM_EPS = 1e-6, LAYER_NORM_EPS = 1e-5;

/* --- making ------------------------------------------------------------------------------- */

bool unet_level_alloc(ag_ctx *ctx, unet_level *level, int n_layers, bool has_attention)
{
    level->n_layers = n_layers;
    level->has_attention = has_attention;
    level->resnets = ag_new(ctx, (size_t)n_layers, sizeof *level->resnets, "a U-Net level");
    if (has_attention)
        level->attentions =
            ag_new(ctx, (size_t)n_layers, sizeof *level->attentions, "a U-Net level");
    return level->resnets && (level->attentions || !has_attention);
}

void unet_level_free(unet_level *level)
{
    for (int j = 0; level->attentions && j < level->n_layers; j++)
        ag_delete(level->attentions[j].blocks);
    ag_delete(level->attentions);
    ag_delete(level->resnets);
}

static void declare_attention(nn_params *params, unet_attention *a, const char *name,
                              int64_t channels, int64_t source, int64_t heads, int *next_index)
{
    nn_enter(params, "%s", name);
    nn_here(params, a->name, sizeof a->name);
    a->index = (*next_index)++;
    a->heads = (int)heads;
    a->is_cross = a->index % 2 == 1;
    a->scale = 1.0 / sqrt((double)(channels / heads));
    nn_linear_declare(params, &a->to_q, "to_q", channels, channels, false, NN_AS_IS, false);
    nn_linear_declare(params, &a->to_k, "to_k", source, channels, false, NN_AS_IS, false);
    nn_linear_declare(params, &a->to_v, "to_v", source, channels, false, NN_AS_IS, false);
    nn_linear_declare(params, &a->to_out, "to_out.0", channels, channels, true, NN_AS_IS, false);
    nn_leave(params);
}

static void declare_block(nn_params *params, unet_transformer_block *b,
                          const nn_unet_config *config, int64_t channels, int64_t heads,
                          int *next_index)
{
    nn_layer_norm_declare(params, &b->norm1, "norm1", channels, LAYER_NORM_EPS);
    declare_attention(params, &b->attn1, "attn1", channels, channels, heads, next_index);
    nn_layer_norm_declare(params, &b->norm2, "norm2", channels, LAYER_NORM_EPS);
    declare_attention(params, &b->attn2, "attn2", channels, config->cross_attention_dim, heads,
                      next_index);
    nn_layer_norm_declare(params, &b->norm3, "norm3", channels, LAYER_NORM_EPS);
    nn_linear_declare(params, &b->ff_in, "ff.net.0.proj", channels, 8 * channels, true, NN_AS_IS,
                      false);
    nn_linear_declare(params, &b->ff_out, "ff.net.2", 4 * channels, channels, true, NN_AS_IS,
                      false);
}

void unet_attention_declare(nn_params *params, unet_level *level, int j,
                            const nn_unet_config *config, int64_t channels, int64_t heads,
                            int *next_index)
{
    const bool as_conv = !config->use_linear_projection;
    unet_transformer *t = &level->attentions[j];
    ag_ctx *ctx = nn_params_ctx(params);

    if (heads < 1 || channels % heads) {
        ag_fail(ctx, AG_EINVAL, "U-Net: %lld channels do not make %lld heads", (long long)channels,
                (long long)heads);
        return;
    }
    t->n_blocks = (int)config->transformer_layers_per_block;
    t->blocks = ag_new(ctx, (size_t)t->n_blocks, sizeof *t->blocks, "a transformer");
    if (!t->blocks)
        return;
    nn_enter(params, "attentions.%d", j);
    nn_group_norm_declare(params, &t->norm, "norm", channels, (int)config->norm_num_groups,
                          TRANSFORMER_NORM_EPS);
    nn_linear_declare(params, &t->proj_in, "proj_in", channels, channels, true, NN_LINEAR_1X1,
                      as_conv);
    for (int i = 0; i < t->n_blocks; i++) {
        nn_enter(params, "transformer_blocks.%d", i);
        declare_block(params, &t->blocks[i], config, channels, heads, next_index);
        nn_leave(params);
    }
    nn_linear_declare(params, &t->proj_out, "proj_out", channels, channels, true, NN_LINEAR_1X1,
                      as_conv);
    nn_leave(params);
}

void unet_resnet_declare(nn_params *params, unet_level *level, int j, const nn_unet_config *config,
                         int64_t in, int64_t out, double scale)
{
    nn_enter(params, "resnets.%d", j);
    nn_resnet_declare(params, &level->resnets[j], in, out, 4 * config->block_out_channels[0],
                      (int)config->norm_num_groups, config->norm_eps, scale);
    nn_leave(params);
}

/* --- transformer -------------------------------------------------------------------------- */

/* What one transformer is a function of; copied by a checkpoint. */
typedef struct transformer_call {
    const unet_transformer *block;
    ag_tensor *x, *context;
    nn_unet_options options;
} transformer_call;

/* Where a transformer's tokens come from. */
typedef struct map_size {
    int64_t height, width;
} map_size;

/* x plus what tokens [N,H*W,C] see in source [N,T,*] -> [N,H*W,C] */
static ag_tensor *attend(ag_ctx *ctx, const unet_attention *a, const transformer_call *call, map_size size,
                         ag_tensor *x, ag_tensor *tokens, ag_tensor *source)
{
    ag_tensor *q = nn_linear(ctx, &a->to_q, tokens);
    ag_tensor *k = nn_linear(ctx, &a->to_k, source);
    ag_tensor *v = nn_linear(ctx, &a->to_v, source);
    ag_tensor *y;

    if (call->options.attention) {
        const nn_attention_place place = {
            .name = a->name,
            .index = a->index,
            .is_cross = a->is_cross,
            .heads = a->heads,
            .scale = a->scale,
            .height = size.height,
            .width = size.width,
        };

        if (!q || !k || !v)
            return NULL;
        y = call->options.attention(ctx, call->options.attention_user, &place, q, k, v);
    } else {
        y = ag_attention(ctx, q, k, v, a->heads, a->scale, false);
    }
    return nn_linear_plus(ctx, &a->to_out, y, x);
}

/* One transformer block; each of its three steps lets go of what it made. */
static ag_tensor *run_block(ag_ctx *ctx, const unet_transformer_block *b,
                            const transformer_call *call, map_size size, ag_tensor *x)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *h;

    h = nn_layer_norm(ctx, &b->norm1, x);
    x = attend(ctx, &b->attn1, call, size, x, h, h);
    x = nn_keep_only(ctx, scope, x);

    h = nn_layer_norm(ctx, &b->norm2, x);
    x = attend(ctx, &b->attn2, call, size, x, h, call->context);
    x = nn_keep_only(ctx, scope, x);

    h = nn_layer_norm(ctx, &b->norm3, x);
    h = ag_geglu(ctx, nn_linear(ctx, &b->ff_in, h));
    x = nn_linear_plus(ctx, &b->ff_out, h, x);
    return ag_scope_close(ctx, scope, x);
}

static ag_tensor *run_transformer(ag_ctx *ctx, const void *arg)
{
    const transformer_call *call = arg;
    const unet_transformer *t = call->block;
    ag_tensor *x = call->x, *h, *tokens;
    ag_scope scope, chain;
    map_size size;

    if (!x)
        return NULL;
    size = (map_size){ag_dim(x, 1), ag_dim(x, 2)};
    scope = ag_scope_open(ctx);
    chain = ag_scope_open(ctx);
    h = nn_group_norm(ctx, &t->norm, x, false);
    h = ag_reshape(ctx, h, 3, (int64_t[]){ag_dim(x, 0), size.height * size.width, ag_dim(x, 3)});
    h = nn_keep_only(ctx, chain, nn_linear(ctx, &t->proj_in, h));
    for (int i = 0; i < t->n_blocks; i++)
        h = nn_keep_only(ctx, chain, run_block(ctx, &t->blocks[i], call, size, h));
    tokens = ag_reshape(ctx, x, 3, (int64_t[]){ag_dim(x, 0), size.height * size.width, ag_dim(x, 3)});
    h = nn_linear_plus(ctx, &t->proj_out, h, tokens);
    return ag_scope_close(ctx, scope, ag_reshape(ctx, h, 4, ag_dims(x)));
}

ag_tensor *unet_transform(ag_ctx *ctx, const unet_pass *pass, const unet_transformer *block,
                          ag_tensor *x)
{
    const transformer_call call = {block, x, pass->context, pass->options};

    return pass->options.checkpointing ? ag_checkpoint(ctx, run_transformer, &call, sizeof call)
                                       : run_transformer(ctx, &call);
}

/* --- residual block, layer ---------------------------------------------------------------- */

ag_tensor *unet_resnet(ag_ctx *ctx, const unet_pass *pass, const nn_resnet *block, ag_tensor *x,
                       ag_tensor *skip)
{
    return nn_resnet_forward(ctx, block, x, skip, pass->time, pass->options.checkpointing);
}

ag_tensor *unet_layer(ag_ctx *ctx, const unet_pass *pass, const unet_level *level, int j,
                      ag_tensor *x, ag_tensor *skip)
{
    const ag_scope scope = ag_scope_open(ctx);

    x = unet_resnet(ctx, pass, &level->resnets[j], x, skip);
    if (level->has_attention)
        x = unet_transform(ctx, pass, &level->attentions[j], x);
    return ag_scope_close(ctx, scope, x);
}
