/* sampler.c - see sampler.h. */
#include "edit/sampler.h"

#include <math.h>

#include "autograd/ops.h"

const char *const edit_sampler_names[] = {[EDIT_DDIM] = "ddim", [EDIT_N_SAMPLERS] = NULL};

ag_status edit_sampler_init(edit_sampler *sampler, ag_ctx *ctx, edit_sampler_kind kind, const pipe_noise *noise,
                            const data_schedule_config *config, int64_t n_steps)
{
    const int64_t most = noise->n < EDIT_MAX_STEPS ? noise->n : EDIT_MAX_STEPS;
    const int64_t offset = config->steps_offset == DATA_UNSAID ? 1 : config->steps_offset;

    if (n_steps < 1 || n_steps > most)
        return ag_fail(ctx, AG_EINVAL, "num_inference_steps %lld: wanted 1 to %lld", (long long)n_steps,
                       (long long)most);
    sampler->kind = kind;
    sampler->noise = noise;
    sampler->n_steps = n_steps;
    sampler->final_abar = config->set_alpha_to_one == 1 ? 1.0 : (double)noise->abar[0];
    for (int64_t i = 0; i < n_steps; i++) {
        const double span = (double)noise->n;
        int64_t t;
        switch (config->timestep_spacing) {
        case DATA_SPACING_LINSPACE:
            t = (int64_t)nearbyint((span - 1.0) * (double)(n_steps - 1 - i) / (double)(n_steps > 1 ? n_steps - 1 : 1));
            break;
        case DATA_SPACING_TRAILING:
            t = (int64_t)nearbyint(span - (double)i * span / (double)n_steps) - 1;
            break;
        default: /* leading */
            t = (n_steps - 1 - i) * (noise->n / n_steps) + offset;
        }
        sampler->timesteps[i] = t < 0 ? 0 : t >= noise->n ? noise->n - 1 : t;
    }
    return AG_OK;
}

double edit_sampler_abar(const edit_sampler *sampler, int64_t s)
{
    return sampler->noise->abar[sampler->timesteps[s]];
}

double edit_sampler_abar_next(const edit_sampler *sampler, int64_t s)
{
    return s + 1 < sampler->n_steps ? (double)sampler->noise->abar[sampler->timesteps[s + 1]] : sampler->final_abar;
}

/* Both forms are a x + b prediction. With e = sqrt(from) v + sqrt(1-from) x and x0 = sqrt(from) x -
 * sqrt(1-from) v for velocities. */
ag_tensor *edit_ddim_move(ag_ctx *ctx, ag_tensor *x, ag_tensor *prediction, data_prediction kind, double from,
                          double to)
{
    const double sf = sqrt(from), nf = sqrt(1.0 - from), st = sqrt(to), nt = sqrt(1.0 - to);
    double a, b;

    if (kind == DATA_V_PREDICTION) {
        a = st * sf + nt * nf;
        b = nt * sf - st * nf;
    } else {
        a = st / sf;
        b = nt - st * nf / sf;
    }
    return ag_add(ctx, ag_scale(ctx, x, a), ag_scale(ctx, prediction, b));
}

ag_tensor *edit_sampler_step(ag_ctx *ctx, const edit_sampler *sampler, int64_t s, ag_tensor *x,
                             ag_tensor *prediction)
{
    return edit_ddim_move(ctx, x, prediction, sampler->noise->prediction, edit_sampler_abar(sampler, s),
                          edit_sampler_abar_next(sampler, s));
}
