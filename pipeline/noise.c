/* noise.c - see noise.h. */
#include "pipeline/noise.h"

#include <math.h>

#include "autograd/ops.h"

/* beta_i in f32, as torch.linspace gives it: from both ends towards the middle. */
static float linspace(float first, float last, int64_t n, int64_t i)
{
    const float step = n > 1 ? (last - first) / (float)(n - 1) : 0.0f;

    return i < n / 2 ? first + step * (float)i : last - step * (float)(n - 1 - i);
}

static double cosine_bar(double t)
{
    const double c = cos((t + 0.008) / 1.008 * 3.14159265358979323846 / 2);

    return c * c;
}

static float beta(const data_schedule_config *c, int64_t i)
{
    const int64_t n = c->num_train_timesteps;
    float root;

    switch (c->beta_schedule) {
    case DATA_BETA_LINEAR:
        return linspace((float)c->beta_start, (float)c->beta_end, n, i);
    case DATA_BETA_COSINE: /* Nichol & Dhariwal 2021, eq. 17, cut at 0.999 */
        return (float)fmin(1.0 - cosine_bar((double)(i + 1) / (double)n) / cosine_bar((double)i / (double)n), 0.999);
    case DATA_BETA_SCALED_LINEAR:
        break;
    }
    root = linspace((float)sqrt(c->beta_start), (float)sqrt(c->beta_end), n, i);
    return root * root;
}

/* Shift and stretch sqrt(abar) so that the last one is zero (Lin et al. 2024, algorithm 1). */
static void rescale_to_zero_snr(float *abar, int64_t n)
{
    const float first = sqrtf(abar[0]), last = sqrtf(abar[n - 1]);

    for (int64_t i = 0; i < n; i++) {
        const float root = (sqrtf(abar[i]) - last) * first / (first - last);
        abar[i] = root * root;
    }
}

ag_status pipe_noise_init(pipe_noise *noise, ag_ctx *ctx, const data_schedule_config *config)
{
    double running = 1.0;

    if (config->num_train_timesteps < 1 || config->num_train_timesteps > PIPE_MAX_TIMESTEPS)
        return ag_fail(ctx, AG_EINVAL, "scheduler: num_train_timesteps %lld, wanted 1 to %d",
                       (long long)config->num_train_timesteps, PIPE_MAX_TIMESTEPS);
    noise->n = config->num_train_timesteps;
    noise->prediction = config->prediction_type;
    for (int64_t i = 0; i < noise->n; i++) {
        running *= (double)(1.0f - beta(config, i)); /* PyTorch's cumprod adds up in double */
        noise->abar[i] = (float)running;
    }
    if (config->rescale_betas_zero_snr && noise->n > 1)
        rescale_to_zero_snr(noise->abar, noise->n);
    return AG_OK;
}

double pipe_noise_snr(const pipe_noise *noise, int64_t t)
{
    return (double)noise->abar[t] / (1.0 - (double)noise->abar[t]);
}

double pipe_noise_min_snr(const pipe_noise *noise, int64_t t, double gamma)
{
    const double snr = pipe_noise_snr(noise, t);

    if (noise->prediction == DATA_V_PREDICTION)
        return fmin(snr, gamma) / (snr + 1.0);
    return snr > 0.0 ? fmin(snr, gamma) / snr : 1.0;
}

void pipe_noise_rows(const pipe_noise *noise, const int64_t *timesteps, int64_t n, float *signal, float *sigma)
{
    for (int64_t i = 0; i < n; i++) {
        signal[i] = sqrtf(noise->abar[timesteps[i]]);
        sigma[i] = sqrtf(1.0f - noise->abar[timesteps[i]]);
    }
}

/* [N] as [N,1,1,1], to stretch over a picture. */
static ag_tensor *per_row(ag_ctx *ctx, ag_tensor *v)
{
    return v ? ag_reshape(ctx, v, 4, (int64_t[]){ag_numel(v), 1, 1, 1}) : NULL;
}

ag_tensor *pipe_noise_add(ag_ctx *ctx, ag_tensor *z, ag_tensor *n, ag_tensor *signal, ag_tensor *sigma)
{
    return ag_add(ctx, ag_mul(ctx, z, per_row(ctx, signal)), ag_mul(ctx, n, per_row(ctx, sigma)));
}

ag_tensor *pipe_noise_target(ag_ctx *ctx, const pipe_noise *noise, ag_tensor *z, ag_tensor *n, ag_tensor *signal,
                             ag_tensor *sigma)
{
    if (noise->prediction == DATA_EPSILON)
        return n;
    return ag_sub(ctx, ag_mul(ctx, n, per_row(ctx, signal)), ag_mul(ctx, z, per_row(ctx, sigma)));
}
