/* pretrain.h - a small latent diffusion model of drawn faces, from nothing.
 *
 * Three steps: the VAE on freshly drawn faces; the scale of its latents; then U-Net and text encoder on
 * the latents of a set of drawn faces with captions that say everything but the age. The result knows
 * faces and not ages: what specialisation needs to begin with.
 * (Rombach et al. 2022, in small and without the adversarial loss.)
 */
#ifndef TRAIN_PRETRAIN_H
#define TRAIN_PRETRAIN_H

#include <jansson.h>

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_pretrain_options {
    const char *output_dir, *tokenizer; /* tokenizer: a folder; NULL: a small one is learned */
    int preset;                         /* of pipe_preset_names */
    int64_t seed;
    int64_t checkpointing_steps;
    const char *resume_from_checkpoint;
    bool overwrite_output_dir;
    int save_dtype; /* 0 f32, 1 f16, 2 bf16 */

    int64_t vae_steps, vae_batch;
    double vae_learning_rate, kl_weight;

    int64_t faces; /* of the U-Net's set */
    int64_t unet_steps, unet_batch;
    double unet_learning_rate, caption_dropout, ema_decay;
    int64_t lr_warmup_steps;
} train_pretrain_options;

/* Train and save a diffusers folder. Stages that output_dir holds already are not made again when
 * resuming. */
ag_status train_pretrain(ag_ctx *ctx, const train_pretrain_options *options, json_t *config);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_PRETRAIN_H */
