/* diffusion.h - the loss of one batch of noisy latents, which every diffusion method shares.
 *
 * Rows are given in full (latents, noise, timesteps, context), so the same function serves a
 * training loop, `agewright probe train` and a test.
 */
#ifndef TRAIN_DIFFUSION_H
#define TRAIN_DIFFUSION_H

#include "nn/unet.h"
#include "pipeline/noise.h"
#include "train/options.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TRAIN_MAX_ROWS = 1024 };

typedef struct train_rows {
    int64_t n;
    ag_tensor *latents;       /* f32 [n,h,w,C], scaled */
    ag_tensor *noise;         /* f32, the same shape; the offset is already in it */
    const int64_t *timesteps; /* [n], 0 <= t < the schedule's; not looked at where there is `times` */
    ag_tensor *times;         /* what train_diffusion_times() made of them; NULL: made when it is needed */
    ag_tensor *context;       /* f32 [n,T,D] */
    ag_tensor *mask;          /* f32 [n,h,w,1], >= 0: how much each place counts; NULL: all the same */
    ag_tensor *class_context; /* f32 [n/2,T,D]: what the frozen text encoder says of the second half; see
                                 train_objective.frozen */
} train_rows;

typedef struct train_diffusion {
    const nn_unet *unet;
    const pipe_noise *noise;
    nn_unet_options unet_options;
    ag_loss_kind loss_kind;
    double huber_c;
    double snr_gamma; /* 0: rows weigh the same */
} train_diffusion;

/* In f32; for another type of activations set unet_options.compute (train/precision.h) afterwards. */
void train_diffusion_init(train_diffusion *out, const train_options *options, const nn_unet *unet,
                          const pipe_noise *noise);

/* What the computation needs to know of timesteps, f32 [4,n]: t, sqrt(abar_t), sqrt(1-abar_t), min-SNR's weight (1
 * without --snr_gamma). With it the functions below read nothing from the host, so that they can be recorded once
 * and repeated with other values. AG_EINVAL for a timestep outside the schedule. */
ag_tensor *train_diffusion_times(ag_ctx *ctx, const train_diffusion *diffusion, const int64_t *timesteps, int64_t n);

/* What the network said of a batch and what it should have said, f32 [n,h,w,C]. */
typedef struct train_predicted {
    ag_tensor *prediction, *target;
} train_predicted;

/* Run the network on x_t = sqrt(abar_t) z + sqrt(1-abar_t) n. AG_EINVAL for a timestep outside the schedule. */
ag_status train_diffusion_predict(train_predicted *out, ag_ctx *ctx, const train_diffusion *diffusion,
                                  const train_rows *rows);
/* The loss of each row, f32 [n]; the first n_snr rows have min-SNR's weight. */
ag_tensor *train_diffusion_rows(ag_ctx *ctx, const train_diffusion *diffusion, const train_rows *rows,
                                const train_predicted *predicted, int64_t n_snr);

/* Both at once, the weighted loss of each row, f32 [n]:
 *   x_t = sqrt(abar_t) z + sqrt(1-abar_t) n;  w_t mean((U(x_t, t, c) - target)^2)
 * With a mask m the mean is sum(m e) / sum(m) over the places of a row, e a place's mean over channels: a
 * small face weighs as much as a large one. A row whose mask is 0 everywhere has the loss 0. AG_EINVAL for a
 * timestep outside the schedule. */
ag_tensor *train_diffusion_loss(ag_ctx *ctx, const train_diffusion *diffusion, const train_rows *rows);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_DIFFUSION_H */
