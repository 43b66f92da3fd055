/* diffusion.c - see diffusion.h. */
#include "train/diffusion.h"

#include <float.h>
#include <math.h>

void train_diffusion_init(train_diffusion *out, const train_options *options, const nn_unet *unet,
                          const pipe_noise *noise)
{
    *out = (train_diffusion){.unet = unet,
                             .noise = noise,
                             .loss_kind = (ag_loss_kind)options->loss_type,
                             .huber_c = options->huber_c,
                             .snr_gamma = options->snr_gamma};
    out->unet_options.checkpointing = options->gradient_checkpointing;
}

/* sum(m e) / sum(m) of every row: a place is a row of its own until the weights are there. */
static ag_tensor *masked_loss(ag_ctx *ctx, const train_diffusion *d, ag_tensor *prediction, ag_tensor *target,
                              ag_tensor *mask, int64_t n)
{
    const int64_t places[] = {-1, mask ? ag_numel(mask) / n : 1};
    const int64_t channels[] = {-1, prediction ? ag_dim(prediction, -1) : 1};
    ag_tensor *errors = ag_row_loss(ctx, d->loss_kind, ag_reshape(ctx, prediction, 2, channels),
                                    ag_reshape(ctx, target, 2, channels), d->huber_c);
    ag_tensor *m = ag_reshape(ctx, mask, 2, places), *total = ag_sum(ctx, m, 1u << 1, true);

    m = ag_div(ctx, m, ag_clamp(ctx, total, FLT_MIN, INFINITY));
    return ag_sum(ctx, ag_mul(ctx, ag_reshape(ctx, errors, 2, places), m), 1u << 1, false);
}

ag_tensor *train_diffusion_loss(ag_ctx *ctx, const train_diffusion *diffusion, const train_rows *rows)
{
    float signal[TRAIN_MAX_ROWS], sigma[TRAIN_MAX_ROWS], times[TRAIN_MAX_ROWS], weights[TRAIN_MAX_ROWS];
    const int64_t n = rows->n;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *signal_t, *sigma_t, *t, *x, *target, *prediction, *loss;

    if (n < 1 || n > TRAIN_MAX_ROWS) {
        ag_fail(ctx, AG_EINVAL, "a batch of %lld rows: wanted 1 to %d", (long long)n, TRAIN_MAX_ROWS);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) {
        if (rows->timesteps[i] < 0 || rows->timesteps[i] >= diffusion->noise->n) {
            ag_fail(ctx, AG_EINVAL, "timestep %lld of row %lld: the schedule has 0 to %lld",
                    (long long)rows->timesteps[i], (long long)i, (long long)diffusion->noise->n - 1);
            return NULL;
        }
        times[i] = (float)rows->timesteps[i];
        weights[i] = diffusion->snr_gamma > 0.0
                         ? (float)pipe_noise_min_snr(diffusion->noise, rows->timesteps[i], diffusion->snr_gamma)
                         : 1.0f;
    }
    pipe_noise_rows(diffusion->noise, rows->timesteps, n, signal, sigma);
    signal_t = ag_from_f32(ctx, signal, 1, &n);
    sigma_t = ag_from_f32(ctx, sigma, 1, &n);
    t = ag_from_f32(ctx, times, 1, &n);

    x = pipe_noise_add(ctx, rows->latents, rows->noise, signal_t, sigma_t);
    target = pipe_noise_target(ctx, diffusion->noise, rows->latents, rows->noise, signal_t, sigma_t);
    prediction = nn_unet_forward(ctx, diffusion->unet, x, t, rows->context, &diffusion->unet_options);
    loss = rows->mask ? masked_loss(ctx, diffusion, prediction, target, rows->mask, n)
                      : ag_row_loss(ctx, diffusion->loss_kind, prediction, target, diffusion->huber_c);
    if (diffusion->snr_gamma > 0.0)
        loss = ag_mul(ctx, loss, ag_from_f32(ctx, weights, 1, &n));
    return ag_scope_close(ctx, scope, loss);
}
