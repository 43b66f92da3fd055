/* config.h - what a config.json says of a network, as plain numbers.
 *
 * data/ fills these from a model folder and refuses by name what we do not do; nn/ builds networks
 * from them. Fields carry the keys of the published files (huggingface/diffusers:
 * src/diffusers/models/unets/unet_2d_condition.py, models/autoencoders/autoencoder_kl.py;
 * huggingface/transformers: src/transformers/models/clip/configuration_clip.py). Plain data: copy it.
 */
#ifndef NN_CONFIG_H
#define NN_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NN_MAX_LEVELS = 8 };

typedef enum nn_block_type {
    NN_BLOCK_PLAIN,     /* DownBlock2D, UpBlock2D; DownEncoderBlock2D, UpDecoderBlock2D */
    NN_BLOCK_CROSS_ATTN /* CrossAttnDownBlock2D, CrossAttnUpBlock2D */
} nn_block_type;

/* unet/config.json. Lists of the file that give one value stand here once per level. */
typedef struct nn_unet_config {
    int sample_size; /* latent side the model was made for; 0: not said */
    int in_channels, out_channels;
    int n_levels;
    int block_out_channels[NN_MAX_LEVELS];
    nn_block_type down_block_types[NN_MAX_LEVELS];
    nn_block_type up_block_types[NN_MAX_LEVELS]; /* in the order of the file: deepest level first */
    int layers_per_block[NN_MAX_LEVELS];
    int num_attention_heads[NN_MAX_LEVELS]; /* the file calls it attention_head_dim */
    int transformer_layers_per_block[NN_MAX_LEVELS];
    int cross_attention_dim;
    bool use_linear_projection;
    bool upcast_attention; /* no effect: scores are always f32 */
    int norm_num_groups;
    double norm_eps;
    bool flip_sin_to_cos;
    double freq_shift;
    int downsample_padding;
    double mid_block_scale_factor;
    bool center_input_sample;
} nn_unet_config;

/* vae/config.json */
typedef struct nn_vae_config {
    int in_channels, out_channels;
    int n_levels;
    int block_out_channels[NN_MAX_LEVELS];
    int layers_per_block; /* of the encoder; the decoder has one more */
    int latent_channels;
    int norm_num_groups;
    int sample_size; /* 0: not said */
    double scaling_factor;
    bool use_quant_conv, use_post_quant_conv;
    bool mid_block_add_attention;
} nn_vae_config;

typedef enum nn_activation { NN_ACT_QUICK_GELU, NN_ACT_GELU } nn_activation;

/* text_encoder/config.json */
typedef struct nn_clip_config {
    int hidden_size, intermediate_size;
    int num_hidden_layers, num_attention_heads;
    nn_activation hidden_act;
    double layer_norm_eps;
    int max_position_embeddings, vocab_size;
    bool use_attention_mask; /* the pipeline passes a mask; not set in SD */
} nn_clip_config;

#ifdef __cplusplus
}
#endif

#endif /* NN_CONFIG_H */
