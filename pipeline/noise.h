/* noise.h - how much noise a timestep stands for: the table of cumulative alphas.
 *
 *   abar_t = prod_{i<=t} (1 - beta_i)      x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) n
 *
 * (Ho et al. 2020; huggingface/diffusers: src/diffusers/schedulers/scheduling_ddpm.py)
 */
#ifndef PIPE_NOISE_H
#define PIPE_NOISE_H

#include "autograd/tensor.h"
#include "data/model_folder.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { PIPE_MAX_TIMESTEPS = 10000 };

typedef struct pipe_noise {
    int64_t n;                       /* training timesteps */
    data_prediction prediction;
    float abar[PIPE_MAX_TIMESTEPS];  /* n of them, f32 as the original computes them */
} pipe_noise;

/* Fill the table. AG_EINVAL when the config asks for more than PIPE_MAX_TIMESTEPS. */
ag_status pipe_noise_init(pipe_noise *noise, ag_ctx *ctx, const data_schedule_config *config);

/* Signal-to-noise ratio abar / (1 - abar); infinite where abar is 1. */
double pipe_noise_snr(const pipe_noise *noise, int64_t t);

/* The weight min-SNR gives a row (Hang et al. 2023): min(SNR, gamma)/SNR for noise, min(SNR,
 * gamma)/(SNR + 1) for velocity; 1 where the SNR is 0 and noise is predicted. */
double pipe_noise_min_snr(const pipe_noise *noise, int64_t t, double gamma);

/* x_t for rows of their own timesteps. z, n f32 [N,h,w,C]; signal, sigma f32 [N] = sqrt(abar),
 * sqrt(1 - abar) of each row (pipe_noise_rows). */
ag_tensor *pipe_noise_add(ag_ctx *ctx, ag_tensor *z, ag_tensor *n, ag_tensor *signal, ag_tensor *sigma);
/* The target of training: n, or signal n - sigma z when the model predicts velocity. */
ag_tensor *pipe_noise_target(ag_ctx *ctx, const pipe_noise *noise, ag_tensor *z, ag_tensor *n, ag_tensor *signal,
                             ag_tensor *sigma);
/* signal and sigma of n rows, each into its f32 [N] array. */
void pipe_noise_rows(const pipe_noise *noise, const int64_t *timesteps, int64_t n, float *signal, float *sigma);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_NOISE_H */
