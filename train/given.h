/* given.h - updates whose every draw is given: what `agewright probe train` and tests compare with
 * other programs.
 *
 * The recipe is specialize's (train/specialize.h) or personalize's without its data: rows of latents,
 * noise, timesteps and token ids come from outside, one batch an update (with prior preservation the
 * instances, then as many rows of the class); everything after that (loss, gradients, clipping,
 * optimizer, schedule, average) is the code that a training run uses.
 */
#ifndef TRAIN_GIVEN_H
#define TRAIN_GIVEN_H

#include "pipeline/pipeline.h"
#include "train/lora.h"
#include "train/options.h"
#include "train/state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_given {
    int64_t n_updates, n_rows;       /* K, R */
    int64_t channels, height, width; /* of a latent: C, h, w */
    int64_t n_tokens;                /* T */
    const float *latents, *noise;    /* [K,R,C,h,w], in the published order; scaled, sampled */
    const int64_t *timesteps;        /* [K,R] */
    const int64_t *input_ids;        /* [K,R,T] */
} train_given;

/* Make K updates of the model's U-Net (and text encoder with options->train_text_encoder), or with
 * options->rank > 0 of adapters on them; both must be open. The schedule is that of a run of
 * max_train_steps updates, of K when that is 0; accumulation counts for --scale_lr only.
 *
 * loss, grad_norm, lr   [K] each: mean over rows; before clipping; the rate that the update used
 * state                 NULL, or takes the training state (names, averages), the caller's; the
 *                       trained values are the parameters of model or adapters
 * lora                  with state, takes the adapters, the caller's, to be freed after the state; else NULL
 * AG_ESHAPE when the rows do not fit the model, AG_ENUMERIC at the first loss that is not
 * finite. */
ag_status train_given_run(ag_ctx *ctx, pipe_model *model, const train_options *options,
                          const train_given *given, double *loss, double *grad_norm, double *lr,
                          train_state **state, train_lora *lora);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_GIVEN_H */
