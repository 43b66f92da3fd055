/* sampler.h - the steps from noise to a latent.
 *
 * A sampler is a list of timesteps and a rule that takes (x, prediction) at one of them to x at the
 * next. It does not call the network: edit/generate.h does, and inversion and editing use the same
 * rule. (Song et al. 2021, DDIM; huggingface/diffusers: src/diffusers/schedulers/)
 */
#ifndef EDIT_SAMPLER_H
#define EDIT_SAMPLER_H

#include "pipeline/noise.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edit_sampler_kind { EDIT_DDIM, EDIT_N_SAMPLERS } edit_sampler_kind;
extern const char *const edit_sampler_names[]; /* "ddim", NULL */

enum { EDIT_MAX_STEPS = 1000 };

typedef struct edit_sampler {
    edit_sampler_kind kind;
    const pipe_noise *noise; /* borrowed */
    int64_t n_steps;
    int64_t timesteps[EDIT_MAX_STEPS]; /* descending */
    double final_abar;                 /* the level after the last step */
} edit_sampler;

/* n_steps timesteps of the schedule. Spacing and offset come from the config; what it leaves open is
 * `leading` with offset 1, and the last level is abar_0 unless set_alpha_to_one says 1.
 * AG_EINVAL for n_steps outside 1..min(training timesteps, EDIT_MAX_STEPS). */
ag_status edit_sampler_init(edit_sampler *sampler, ag_ctx *ctx, edit_sampler_kind kind, const pipe_noise *noise,
                            const data_schedule_config *config, int64_t n_steps);

/* The level of step s's input is abar[timesteps[s]], of its output the next list entry's, and
 * final_abar after the last. */
double edit_sampler_abar(const edit_sampler *sampler, int64_t s);
double edit_sampler_abar_next(const edit_sampler *sampler, int64_t s);

/* Move x from level `from` to level `to` with the model's prediction (noise or velocity):
 *   x0 = (x - sqrt(1-from) e)/sqrt(from)      x' = sqrt(to) x0 + sqrt(1-to) e
 * Denoising and inversion are both this. */
ag_tensor *edit_ddim_move(ag_ctx *ctx, ag_tensor *x, ag_tensor *prediction, data_prediction kind, double from,
                          double to);

/* Step s of the sampler: x at timesteps[s] to x at the next. */
ag_tensor *edit_sampler_step(ag_ctx *ctx, const edit_sampler *sampler, int64_t s, ag_tensor *x,
                             ag_tensor *prediction);

#ifdef __cplusplus
}
#endif

#endif /* EDIT_SAMPLER_H */
