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

static ag_status check_timesteps(ag_ctx *ctx, const train_diffusion *d, const int64_t *timesteps, int64_t n)
{
    if (n < 1 || n > TRAIN_MAX_ROWS)
        return ag_fail(ctx, AG_EINVAL, "a batch of %lld rows: wanted 1 to %d", (long long)n, TRAIN_MAX_ROWS);
    for (int64_t i = 0; i < n; i++)
        if (timesteps[i] < 0 || timesteps[i] >= d->noise->n)
            return ag_fail(ctx, AG_EINVAL, "timestep %lld of row %lld: the schedule has 0 to %lld",
                           (long long)timesteps[i], (long long)i, (long long)d->noise->n - 1);
    return ag_status_of(ctx);
}

enum { T, SIGNAL, SIGMA, WEIGHT, N_KINDS };

ag_tensor *train_diffusion_times(ag_ctx *ctx, const train_diffusion *d, const int64_t *timesteps, int64_t n)
{
    float values[N_KINDS * TRAIN_MAX_ROWS];

    if (check_timesteps(ctx, d, timesteps, n) != AG_OK)
        return NULL;
    pipe_noise_rows(d->noise, timesteps, n, values + SIGNAL * n, values + SIGMA * n);
    for (int64_t i = 0; i < n; i++) {
        values[T * n + i] = (float)timesteps[i];
        values[WEIGHT * n + i] =
            d->snr_gamma > 0.0 ? (float)pipe_noise_min_snr(d->noise, timesteps[i], d->snr_gamma) : 1.0f;
    }
    return ag_from_f32(ctx, values, 2, (int64_t[]){N_KINDS, n});
}

static ag_tensor *times_of(ag_ctx *ctx, const train_diffusion *d, const train_rows *rows)
{
    return rows->times ? rows->times : train_diffusion_times(ctx, d, rows->timesteps, rows->n);
}

/* One kind of `times`, of the first n rows, f32 [n]. */
static ag_tensor *kind_of(ag_ctx *ctx, ag_tensor *times, int kind, int64_t n)
{
    return ag_slice(ctx, ag_reshape(ctx, ag_slice(ctx, times, 0, kind, 1), 1, (int64_t[]){-1}), 0, 0, n);
}

ag_status train_diffusion_predict(train_predicted *out, ag_ctx *ctx, const train_diffusion *d, const train_rows *rows)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *times = times_of(ctx, d, rows), *signal, *sigma, *x, *kept[2];

    if (!times)
        return ag_status_of(ctx);
    signal = kind_of(ctx, times, SIGNAL, rows->n);
    sigma = kind_of(ctx, times, SIGMA, rows->n);
    x = pipe_noise_add(ctx, rows->latents, rows->noise, signal, sigma);
    kept[1] = pipe_noise_target(ctx, d->noise, rows->latents, rows->noise, signal, sigma);
    kept[0] = nn_unet_forward(ctx, d->unet, x, kind_of(ctx, times, T, rows->n), rows->context, &d->unet_options);
    ag_scope_close_keep(ctx, scope, kept, 2);
    *out = (train_predicted){.prediction = kept[0], .target = kept[1]};
    return ag_status_of(ctx);
}

ag_tensor *train_diffusion_rows(ag_ctx *ctx, const train_diffusion *d, const train_rows *rows, const train_predicted *p,
                                int64_t n_snr)
{
    ag_tensor *loss = rows->mask ? masked_loss(ctx, d, p->prediction, p->target, rows->mask, rows->n)
                                 : ag_row_loss(ctx, d->loss_kind, p->prediction, p->target, d->huber_c);
    ag_tensor *weights;

    if (d->snr_gamma <= 0.0)
        return loss;
    weights = kind_of(ctx, times_of(ctx, d, rows), WEIGHT, n_snr);
    if (n_snr < rows->n)
        weights = ag_concat(ctx, weights, ag_full(ctx, AG_STEP, 1.0, 1, (int64_t[]){rows->n - n_snr}), 0);
    return ag_mul(ctx, loss, weights);
}

ag_tensor *train_diffusion_loss(ag_ctx *ctx, const train_diffusion *diffusion, const train_rows *rows)
{
    train_predicted predicted;

    if (train_diffusion_predict(&predicted, ctx, diffusion, rows) != AG_OK)
        return NULL;
    return train_diffusion_rows(ctx, diffusion, rows, &predicted, rows->n);
}
