/* nn_cases.h - the small configurations that the tests of the networks use.
 *
 * A, B and C are those of the expected values in tests/test_nn_expected.c; the others vary every
 * option. The same stand in scripts/golden_networks.py.
 */
#ifndef TESTS_NN_CASES_H
#define TESTS_NN_CASES_H

#include "nn/config.h"

/* SD1-like: groups of one channel. */
static inline nn_unet_config case_unet_a(void)
{
    return (nn_unet_config){
        .sample_size = 32, .in_channels = 4, .out_channels = 4, .n_levels = 2,
        .block_out_channels = {32, 64}, .down_attention = {false, true},
        .up_attention = {true, false}, .n_heads = {8, 8}, .layers_per_block = 2,
        .transformer_layers_per_block = 1, .cross_attention_dim = 32, .norm_num_groups = 32,
        .norm_eps = 1e-5, .flip_sin_to_cos = true, .mid_block_scale_factor = 1.0,
    };
}

/* SD2-like: linear projections, heads per level. */
static inline nn_unet_config case_unet_b(void)
{
    nn_unet_config c = case_unet_a();

    c.n_heads[0] = 2;
    c.n_heads[1] = 4;
    c.use_linear_projection = true;
    return c;
}

/* The real four-level topology. */
static inline nn_unet_config case_unet_c(void)
{
    return (nn_unet_config){
        .sample_size = 16, .in_channels = 4, .out_channels = 4, .n_levels = 4,
        .block_out_channels = {16, 32, 48, 48}, .down_attention = {true, true, true, false},
        .up_attention = {false, true, true, true}, .n_heads = {4, 4, 4, 4}, .layers_per_block = 2,
        .transformer_layers_per_block = 1, .cross_attention_dim = 24, .norm_num_groups = 8,
        .norm_eps = 1e-5, .flip_sin_to_cos = true, .mid_block_scale_factor = 1.0,
    };
}

/* Every option away from its default; attention where SD has none and none where it has. */
static inline nn_unet_config case_unet_d(void)
{
    return (nn_unet_config){
        .sample_size = 16, .in_channels = 5, .out_channels = 3, .n_levels = 3,
        .block_out_channels = {16, 24, 32}, .down_attention = {true, false, true},
        .up_attention = {false, true, false}, .n_heads = {2, 3, 4}, .layers_per_block = 1,
        .transformer_layers_per_block = 2, .cross_attention_dim = 20, .norm_num_groups = 4,
        .norm_eps = 1e-3, .freq_shift = 1.0, .center_input_sample = true,
        .mid_block_scale_factor = 1.5, .use_linear_projection = true,
    };
}

/* One level, one head, one token. */
static inline nn_unet_config case_unet_e(void)
{
    return (nn_unet_config){
        .sample_size = 8, .in_channels = 4, .out_channels = 4, .n_levels = 1,
        .block_out_channels = {12}, .down_attention = {false}, .up_attention = {true},
        .n_heads = {1}, .layers_per_block = 3, .transformer_layers_per_block = 1,
        .cross_attention_dim = 5, .norm_num_groups = 6, .norm_eps = 1e-5, .flip_sin_to_cos = true,
        .mid_block_scale_factor = 1.0,
    };
}

static inline nn_vae_config case_vae_a(void)
{
    return (nn_vae_config){
        .sample_size = 32, .in_channels = 3, .out_channels = 3, .latent_channels = 4, .n_levels = 2,
        .block_out_channels = {32, 64}, .layers_per_block = 1, .norm_num_groups = 32,
        .scaling_factor = 0.18215,
    };
}

static inline nn_vae_config case_vae_c(void)
{
    return (nn_vae_config){
        .sample_size = 32, .in_channels = 3, .out_channels = 3, .latent_channels = 4, .n_levels = 3,
        .block_out_channels = {16, 32, 32}, .layers_per_block = 2, .norm_num_groups = 8,
        .scaling_factor = 0.18215,
    };
}

static inline nn_vae_config case_vae_d(void)
{
    return (nn_vae_config){
        .sample_size = 32, .in_channels = 3, .out_channels = 3, .latent_channels = 5, .n_levels = 3,
        .block_out_channels = {8, 12, 20}, .layers_per_block = 3, .norm_num_groups = 2,
        .scaling_factor = 0.18215,
    };
}

/* For weights so small that the norms' eps shows. */
static inline nn_vae_config case_vae_f(void)
{
    return (nn_vae_config){
        .sample_size = 32, .in_channels = 3, .out_channels = 3, .latent_channels = 4, .n_levels = 2,
        .block_out_channels = {8, 8}, .layers_per_block = 1, .norm_num_groups = 4,
        .scaling_factor = 0.18215,
    };
}

static inline nn_clip_config case_clip(nn_clip_act act)
{
    return (nn_clip_config){
        .vocab_size = 1000, .hidden_size = 32, .intermediate_size = 37, .num_hidden_layers = 5,
        .num_attention_heads = 4, .max_position_embeddings = 77, .layer_norm_eps = 1e-5,
        .hidden_act = act,
    };
}

/* For padding masks. */
static inline nn_clip_config case_clip_mask(void)
{
    return (nn_clip_config){
        .vocab_size = 100, .hidden_size = 24, .intermediate_size = 50, .num_hidden_layers = 3,
        .num_attention_heads = 3, .max_position_embeddings = 77, .layer_norm_eps = 1e-4,
        .hidden_act = NN_GELU,
    };
}

/* The full size of Stable Diffusion 1.5. */
static inline nn_unet_config case_unet_sd15(void)
{
    nn_unet_config c = case_unet_c();

    c.sample_size = 64;
    c.cross_attention_dim = 768;
    c.norm_num_groups = 32;
    for (int i = 0; i < 4; i++) {
        c.block_out_channels[i] = (int64_t[]){320, 640, 1280, 1280}[i];
        c.n_heads[i] = 8;
    }
    return c;
}

static inline nn_vae_config case_vae_sd(void)
{
    return (nn_vae_config){
        .sample_size = 512, .in_channels = 3, .out_channels = 3, .latent_channels = 4,
        .n_levels = 4,
        .block_out_channels = {128, 256, 512, 512}, .layers_per_block = 2, .norm_num_groups = 32,
        .scaling_factor = 0.18215,
    };
}

static inline nn_clip_config case_clip_sd15(void)
{
    return (nn_clip_config){
        .vocab_size = 49408, .hidden_size = 768, .intermediate_size = 3072, .num_hidden_layers = 12,
        .num_attention_heads = 12, .max_position_embeddings = 77, .layer_norm_eps = 1e-5,
        .hidden_act = NN_QUICK_GELU,
    };
}

#endif /* TESTS_NN_CASES_H */
