/* unet.h - the U-Net of Stable Diffusion 1.x and 2.x: noisy latents, a time and a text in,
 * predicted noise (or velocity) out.
 *
 * Ronneberger et al. 2015 with the residual and attention blocks of Rombach et al. 2022; names and
 * details of huggingface/diffusers: src/diffusers/models/unets/unet_2d_condition.py.
 */
#ifndef NN_UNET_H
#define NN_UNET_H

#include "nn/config.h"
#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_unet nn_unet;

/* One attention of the network, as a callback sees it. */
typedef struct nn_attention_place {
    const char *name; /* "down_blocks.0.attentions.0.transformer_blocks.0.attn1" */
    int index;        /* in the order of a pass, from 0; self and cross alternate */
    bool is_cross;
    int heads;
    double scale;          /* of q k^T */
    int64_t height, width; /* of the map; height * width queries */
} nn_attention_place;

/* q [N,height*width,C], k and v [N,Tk,C], C = heads * head size -> [N,height*width,C]. Called
 * instead of the fused op; a default is ag_attention(ctx, q, k, v, heads, scale, false). With
 * checkpointing it is called again in the backward pass. */
typedef ag_tensor *(*nn_attention_fn)(ag_ctx *ctx, void *user, const nn_attention_place *place,
                                      ag_tensor *q, ag_tensor *k, ag_tensor *v);

typedef struct nn_unet_options {
    bool checkpointing;        /* run residual blocks and transformers again in the backward pass */
    ag_dtype compute;          /* AG_F32 (0) or AG_BF16 */
    nn_attention_fn attention; /* NULL: the fused op */
    void *attention_user;
} nn_unet_options;

/* Declare the network; values come later (nn/params.h). AG_EINVAL for a configuration that does not
 * fit together (channels not divisible by groups or heads, ...). */
ag_status nn_unet_new(nn_unet **out, ag_ctx *ctx, const nn_unet_config *config);
void nn_unet_free(nn_unet *net); /* NULL is fine */
nn_params *nn_unet_params(const nn_unet *net);
const nn_unet_config *nn_unet_config_of(const nn_unet *net);
int nn_unet_n_attentions(const nn_unet *net);

/* sample f32 [N,H,W,in_channels], timesteps f32 [N] (may be fractional), context f32
 * [N,T,cross_attention_dim] -> f32 [N,H,W,out_channels]. Any H, W >= 1. options may be NULL. */
ag_tensor *nn_unet_forward(ag_ctx *ctx, const nn_unet *net, ag_tensor *sample, ag_tensor *timesteps,
                           ag_tensor *context, const nn_unet_options *options);

#ifdef __cplusplus
}
#endif

#endif /* NN_UNET_H */
