/* vae.h - the autoencoder between pixels and latents (KL-f8 of Rombach et al. 2022).
 *
 * The encoder gives the mean and log-variance of a normal distribution per latent value; the
 * decoder paints pixels from a latent. Scaling by scaling_factor is the caller's. Names and details
 * of huggingface/diffusers: src/diffusers/models/autoencoders/{autoencoder_kl,vae}.py.
 */
#ifndef NN_VAE_H
#define NN_VAE_H

#include "nn/config.h"
#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_vae nn_vae;

typedef struct nn_vae_options {
    bool checkpointing; /* run blocks again in the backward pass instead of keeping them */
    ag_dtype compute;   /* AG_F32 (0) or AG_BF16 */
} nn_vae_options;

/* Declare the network; values come later (nn/params.h). AG_EINVAL for a configuration that does not
 * fit together. */
ag_status nn_vae_new(nn_vae **out, ag_ctx *ctx, const nn_vae_config *config);
void nn_vae_free(nn_vae *net); /* NULL is fine */
nn_params *nn_vae_params(const nn_vae *net);
const nn_vae_config *nn_vae_config_of(const nn_vae *net);
int nn_vae_factor(const nn_vae *net); /* pixels per latent along a side: 2^(levels-1) */

/* pixels f32 [N,H,W,3] in -1..1 -> moments f32 [N,h,w,2L], L = latent_channels: means, then
 * log-variances as computed. H and W >= factor; h = H / factor, rounded down at each halving. */
ag_tensor *nn_vae_encode(ag_ctx *ctx, const nn_vae *net, ag_tensor *pixels,
                         const nn_vae_options *options);
/* The halves of moments: mean [N,h,w,L], and logvar clamped to [-30, 20]. */
ag_tensor *nn_vae_mean(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments);
ag_tensor *nn_vae_logvar(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments);
/* mean + exp(logvar / 2) * noise, noise f32 [N,h,w,L]. */
ag_tensor *nn_vae_sample(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments, ag_tensor *noise);
/* KL to N(0,1) per picture, [N]: sum of (mean^2 + exp(logvar) - 1 - logvar) / 2. */
ag_tensor *nn_vae_kl(ag_ctx *ctx, const nn_vae *net, ag_tensor *moments);
/* latent f32 [N,h,w,L], unscaled -> pixels f32 [N,h*factor,w*factor,3], not clamped. */
ag_tensor *nn_vae_decode(ag_ctx *ctx, const nn_vae *net, ag_tensor *latent,
                         const nn_vae_options *options);

#ifdef __cplusplus
}
#endif

#endif /* NN_VAE_H */
