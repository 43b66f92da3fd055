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

static ag_status check_rows(ag_ctx *ctx, const train_diffusion *d, const train_rows *rows)
{
    if (rows->n < 1 || rows->n > TRAIN_MAX_ROWS)
        return ag_fail(ctx, AG_EINVAL, "a batch of %lld rows: wanted 1 to %d", (long long)rows->n, TRAIN_MAX_ROWS);
    for (int64_t i = 0; i < rows->n; i++)
        if (rows->timesteps[i] < 0 || rows->timesteps[i] >= d->noise->n)
            return ag_fail(ctx, AG_EINVAL, "timestep %lld of row %lld: the schedule has 0 to %lld",
                           (long long)rows->timesteps[i], (long long)i, (long long)d->noise->n - 1);
    return ag_status_of(ctx);
}

ag_status train_diffusion_predict(train_predicted *out, ag_ctx *ctx, const train_diffusion *d, const train_rows *rows)
{
    float signal[TRAIN_MAX_ROWS], sigma[TRAIN_MAX_ROWS], times[TRAIN_MAX_ROWS];
    const int64_t n = rows->n;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *signal_t, *sigma_t, *t, *x, *kept[2];

    if (check_rows(ctx, d, rows) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < n; i++)
        times[i] = (float)rows->timesteps[i];
    pipe_noise_rows(d->noise, rows->timesteps, n, signal, sigma);
    signal_t = ag_from_f32(ctx, signal, 1, &n);
    sigma_t = ag_from_f32(ctx, sigma, 1, &n);
    t = ag_from_f32(ctx, times, 1, &n);

    x = pipe_noise_add(ctx, rows->latents, rows->noise, signal_t, sigma_t);
    kept[1] = pipe_noise_target(ctx, d->noise, rows->latents, rows->noise, signal_t, sigma_t);
    kept[0] = nn_unet_forward(ctx, d->unet, x, t, rows->context, &d->unet_options);
    ag_scope_close_keep(ctx, scope, kept, 2);
    *out = (train_predicted){.prediction = kept[0], .target = kept[1]};
    return ag_status_of(ctx);
}

ag_tensor *train_diffusion_rows(ag_ctx *ctx, const train_diffusion *d, const train_rows *rows, const train_predicted *p,
                                int64_t n_snr)
{
    float weights[TRAIN_MAX_ROWS];
    ag_tensor *loss = rows->mask ? masked_loss(ctx, d, p->prediction, p->target, rows->mask, rows->n)
                                 : ag_row_loss(ctx, d->loss_kind, p->prediction, p->target, d->huber_c);

    if (d->snr_gamma <= 0.0)
        return loss;
    for (int64_t i = 0; i < rows->n; i++)
        weights[i] = i < n_snr ? (float)pipe_noise_min_snr(d->noise, rows->timesteps[i], d->snr_gamma) : 1.0f;
    return ag_mul(ctx, loss, ag_from_f32(ctx, weights, 1, &rows->n));
}

ag_tensor *train_diffusion_loss(ag_ctx *ctx, const train_diffusion *diffusion, const train_rows *rows)
{
    train_predicted predicted;

    if (train_diffusion_predict(&predicted, ctx, diffusion, rows) != AG_OK)
        return NULL;
    return train_diffusion_rows(ctx, diffusion, rows, &predicted, rows->n);
}
