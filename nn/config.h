/* config.h - the sizes and choices that describe a network, as plain numbers.
 *
 * One struct per network, with the names that its config.json uses where C allows it. A network
 * never reads a file: data/model_folder.h fills these from JSON, from a single-file checkpoint's
 * shapes, or a test writes them down. Nothing here owns memory; copy them freely.
 *
 * Only what a network can be built from stands here. Every other key of a config.json must hold
 * its inert value, or the reader refuses it by name.
 */
#ifndef NN_CONFIG_H
#define NN_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { NN_MAX_LEVELS = 8 };

/* UNet2DConditionModel of Stable Diffusion 1.x and 2.x.
 * Arrays hold n_levels values in the order of the config: index 0 is the finest level for
 * everything, except up_attention, whose index 0 is the first up block (the coarsest level). */
typedef struct nn_unet_config {
    int64_t sample_size; /* side of the latent the model was made for; 0 when the file has none */
    int64_t in_channels, out_channels;
    int n_levels;
    int64_t block_out_channels[NN_MAX_LEVELS];
    bool down_attention[NN_MAX_LEVELS]; /* CrossAttnDownBlock2D, else DownBlock2D */
    bool up_attention[NN_MAX_LEVELS];   /* CrossAttnUpBlock2D, else UpBlock2D */
    int64_t n_heads[NN_MAX_LEVELS];     /* the file's attention_head_dim: a number of heads */
    int64_t layers_per_block;
    int64_t transformer_layers_per_block;
    int64_t cross_attention_dim;
    int64_t norm_num_groups;
    double norm_eps;
    double freq_shift;             /* of the time embedding */
    bool flip_sin_to_cos;          /* cos before sin */
    bool center_input_sample;      /* x <- 2x - 1 first */
    double mid_block_scale_factor; /* the mid block's residual blocks divide by it */
    bool use_linear_projection;    /* proj_in and proj_out: [C,C] in the file, else [C,C,1,1] */
    bool upcast_attention;         /* scores in f32; ours always are */
} nn_unet_config;

/* AutoencoderKL. */
typedef struct nn_vae_config {
    int64_t sample_size; /* informative */
    int64_t in_channels, out_channels, latent_channels;
    int n_levels;
    int64_t block_out_channels[NN_MAX_LEVELS]; /* finest first */
    int64_t layers_per_block;                  /* of the encoder; the decoder has one more */
    int64_t norm_num_groups;
    double scaling_factor; /* latent for the U-Net = posterior sample * scaling_factor */
    bool force_upcast;     /* informative: fp16 overflows in the decoder of this model */
} nn_vae_config;

typedef enum nn_clip_act { NN_QUICK_GELU, NN_GELU } nn_clip_act;

/* CLIPTextModel. */
typedef struct nn_clip_config {
    int64_t vocab_size;
    int64_t hidden_size, intermediate_size;
    int64_t num_hidden_layers, num_attention_heads;
    int64_t max_position_embeddings;
    int64_t projection_dim; /* unused by the text model, kept for writing; 0 when absent */
    double layer_norm_eps;
    nn_clip_act hidden_act;
} nn_clip_config;

/* The face judge (nn/face_judge.h): our own, so no config.json; its files say nothing but weights. */
typedef struct nn_judge_config {
    int64_t resolution; /* side of its pictures: 16 times the last grid */
    int64_t n_outputs;
    int64_t channels[4]; /* at a half, a quarter, an eighth, a sixteenth of the resolution */
    int64_t hidden;
    int64_t norm_num_groups;
} nn_judge_config;

#ifdef __cplusplus
}
#endif

#endif /* NN_CONFIG_H */
