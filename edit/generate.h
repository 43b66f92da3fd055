/* generate.h - pictures from prompts: latents, guided steps, decoding.
 *
 * (Ho & Salimans 2021, classifier-free guidance; huggingface/diffusers:
 * src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py)
 */
#ifndef EDIT_GENERATE_H
#define EDIT_GENERATE_H

#include "data/image.h"
#include "edit/sampler.h"
#include "pipeline/pipeline.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The predictions of a step, guided: e_u + g (e_c - e_u) from one pass over [uncond; cond].
 * x f32 [N,h,w,C]; cond, uncond f32 [N,T,D]; g <= 1: the conditional pass alone (uncond may be NULL). */
ag_tensor *edit_guided_prediction(ag_ctx *ctx, const nn_unet *unet, ag_tensor *x, double timestep, ag_tensor *cond,
                                  ag_tensor *uncond, double guidance, const nn_unet_options *options);

/* Told after each step with the latents there; for progress and trajectories. NULL: nobody. */
typedef void (*edit_step_fn)(void *user, int64_t step, int64_t n_steps, ag_tensor *x);

/* Every step of the sampler from latents x (unit normal). Returns the last latents. */
ag_tensor *edit_sample_latents(ag_ctx *ctx, const nn_unet *unet, const edit_sampler *sampler, ag_tensor *x,
                               ag_tensor *cond, ag_tensor *uncond, double guidance,
                               const nn_unet_options *options, edit_step_fn on_step, void *user);

typedef struct edit_generate_options {
    const char *const *prompts; /* n_prompts texts */
    int64_t n_prompts;
    const char *negative_prompt; /* NULL: empty */
    int64_t per_prompt;          /* pictures of each prompt, >= 1 */
    int64_t first;               /* number of the first picture: each has the draws of its number */
    int64_t height, width;       /* pixels; 0: the model's own size */
    uint64_t seed;
    bool torch_rng;              /* first latents as PyTorch's CPU generator draws them */
    bool same_latents;           /* picture k of every prompt begins from the same latents */
    edit_sampler_kind sampler;
    int64_t n_steps;
    double guidance;
    int64_t batch;               /* pictures at a time; 0: one */
    ag_dtype compute, vae_compute; /* of the U-Net; of the decoder */
    edit_step_fn on_step;
    void *user;
} edit_generate_options;

/* Fill images[n_prompts * per_prompt], prompt by prompt; each becomes the caller's (data_image_free). The
 * model needs all its parts. On failure images made so far stay. */
ag_status edit_generate(data_image *images, ag_ctx *ctx, pipe_model *model, const edit_generate_options *options);

/* Decode latents f32 [N,h,w,C] (scaled) into n images, rounding to nearest. */
ag_status edit_decode(data_image *images, ag_ctx *ctx, const pipe_model *model, ag_tensor *latents,
                      ag_dtype compute);

#ifdef __cplusplus
}
#endif

#endif /* EDIT_GENERATE_H */
