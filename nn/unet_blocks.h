/* unet_blocks.h - what the U-Net is built of: spatial transformers, and levels of the way down and
 * up.
 *
 * For files in nn/ only; the network's face is nn/unet.h. A level owns the arrays it points to.
 */
#ifndef NN_UNET_BLOCKS_H
#define NN_UNET_BLOCKS_H

#include "nn/layers.h"
#include "nn/unet.h"

/* softmax(q k^T / sqrt(head size)) v with heads as contiguous slices of the channels. */
typedef struct unet_attention {
    nn_linear_layer to_q, to_k, to_v, to_out; /* the first three without bias */
    char name[NN_MAX_NAME];
    int index, heads;
    bool is_cross;
    double scale;
} unet_attention;

/* x += attn1(LN1(x)); x += attn2(LN2(x), context); x += ff(LN3(x)), ff with GEGLU.
 * (huggingface/diffusers: src/diffusers/models/attention.py, BasicTransformerBlock) */
typedef struct unet_transformer_block {
    nn_norm_layer norm1, norm2, norm3;
    unet_attention attn1, attn2;
    nn_linear_layer ff_in, ff_out;
} unet_transformer_block;

/* y = x + proj_out(blocks(proj_in(GN(x)))), pixels as tokens in between.
 * (huggingface/diffusers: src/diffusers/models/transformers/transformer_2d.py) */
typedef struct unet_transformer {
    nn_norm_layer norm; /* eps 1e-6, whatever norm_eps is */
    nn_linear_layer proj_in, proj_out;
    unet_transformer_block *blocks;
    int n_blocks;
} unet_transformer;

/* One entry of down_blocks or up_blocks, or the mid block. */
typedef struct unet_level {
    int n_layers; /* residual blocks, each followed by a transformer where has_attention */
    nn_resnet *resnets;
    unet_transformer *attentions;
    bool has_attention, has_resampler;
    nn_conv_layer resampler; /* downsamplers.0.conv or upsamplers.0.conv */
} unet_level;

/* What is the same for all blocks of one pass. */
typedef struct unet_pass {
    ag_tensor *time;    /* [N,4 L0], SiLU applied */
    ag_tensor *context; /* [N,T,Dc] */
    nn_unet_options options;
} unet_pass;

/* Take memory for a level of n_layers; false when refused. */
bool unet_level_alloc(ag_ctx *ctx, unet_level *level, int n_layers, bool has_attention);
void unet_level_free(unet_level *level);

/* Declare resnets.j, and attentions.j, under the open prefix. next_index counts the network's
 * attentions. */
void unet_resnet_declare(nn_params *params, unet_level *level, int j, const nn_unet_config *config,
                         int64_t in, int64_t out, double scale);
void unet_attention_declare(nn_params *params, unet_level *level, int j,
                            const nn_unet_config *config, int64_t channels, int64_t heads,
                            int *next_index);

/* Residual block j, then transformer j where the level has one. skip as in nn_resnet_forward(). */
ag_tensor *unet_layer(ag_ctx *ctx, const unet_pass *pass, const unet_level *level, int j,
                      ag_tensor *x, ag_tensor *skip);
/* The same without the transformer; the transformer alone. */
ag_tensor *unet_resnet(ag_ctx *ctx, const unet_pass *pass, const nn_resnet *block, ag_tensor *x,
                       ag_tensor *skip);
ag_tensor *unet_transform(ag_ctx *ctx, const unet_pass *pass, const unet_transformer *block,
                          ag_tensor *x);

#endif /* NN_UNET_BLOCKS_H */
