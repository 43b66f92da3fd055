/* draws.c - see draws.h. */
#include "train/draws.h"

#include "autograd/ops.h"

ag_tensor *train_draw_normals(ag_ctx *ctx, uint64_t seed, ag_purpose purpose, uint32_t step, int64_t n, int n_dims,
                              const int64_t *dims)
{
    int64_t keys[TRAIN_MAX_ROWS][4];

    if (n < 0 || n > TRAIN_MAX_ROWS) {
        ag_fail(ctx, AG_EINVAL, "draws for %lld rows: wanted at most %d", (long long)n, TRAIN_MAX_ROWS);
        return NULL;
    }
    for (int64_t r = 0; r < n; r++) {
        keys[r][0] = (int64_t)seed;
        keys[r][1] = purpose;
        keys[r][2] = step;
        keys[r][3] = r;
    }
    return ag_normal(ctx, ag_from_i64(ctx, keys[0], 2, (int64_t[]){n, 4}), n_dims, dims);
}

int64_t train_draw_timestep(uint64_t seed, uint32_t step, int64_t r, int64_t low, int64_t high)
{
    const ag_draw draw = {.seed = seed, .purpose = AG_DRAW_TIMESTEP, .step = step, .sample = (uint32_t)r};

    return low + ag_draw_integer(&draw, 0, high - low);
}

bool train_draw_drops(uint64_t seed, uint32_t step, int64_t r, double p)
{
    const ag_draw draw = {.seed = seed, .purpose = AG_DRAW_CAPTION, .step = step, .sample = (uint32_t)r};

    return ag_draw_uniform(&draw, 0) < p;
}

static void draw_philox(train_drawn *out, ag_ctx *ctx, const train_drawer *d, uint32_t step, const train_draw_counts *c)
{
    const int64_t dims[] = {c->h, c->w, d->channels}, channel[] = {1, 1, d->channels};

    out->posterior = train_draw_normals(ctx, d->seed, AG_DRAW_POSTERIOR, step, c->rows, 3, dims);
    out->noise = train_draw_normals(ctx, d->seed, AG_DRAW_NOISE, step, c->noises, 3, dims);
    if (d->noise_offset > 0.0)
        out->noise = ag_add(ctx, out->noise,
                            ag_scale(ctx, train_draw_normals(ctx, d->seed, AG_DRAW_OFFSET, step, c->noises, 3, channel),
                                     d->noise_offset));
    for (int64_t r = 0; r < c->rows; r++)
        out->timesteps[r] = train_draw_timestep(d->seed, step, r % c->times, d->first_timestep, d->n_timesteps);
}

/* --- PyTorch's generator: values come in NCHW order ---------------------------------------------------- */

static ag_tensor *torch_normals(ag_ctx *ctx, train_drawer *d, const train_draw_counts *c, int64_t n)
{
    const int64_t dims[] = {n, d->channels, c->h, c->w};

    ag_torch_randn(&d->rng, d->values, n * d->channels * c->h * c->w);
    return ag_permute(ctx, ag_from_f32(ctx, d->values, 4, dims), (int[]){0, 2, 3, 1});
}

/* In the published programs' order: posterior noise, what is thrown away, the noise, the timesteps. */
static void draw_torch(train_drawn *out, ag_ctx *ctx, train_drawer *d, const train_draw_counts *c)
{
    out->posterior = torch_normals(ctx, d, c, c->rows);
    if (c->thrown)
        torch_normals(ctx, d, c, c->thrown);
    out->noise = torch_normals(ctx, d, c, c->noises);
    ag_torch_randint(&d->rng, out->timesteps, c->rows, d->first_timestep, d->n_timesteps);
}

/* A micro-step that is computed again (to find what made a NaN) sees the same numbers. */
static void rewind_torch(train_drawer *d, int64_t update, int64_t micro)
{
    if (d->update == update && d->micro == micro)
        d->rng = d->before;
    d->before = d->rng;
    d->update = update;
    d->micro = micro;
}

ag_status train_draw(train_drawn *out, ag_ctx *ctx, train_drawer *d, const train_calendar *calendar,
                     const train_moment *moment, int64_t micro, const train_draw_counts *counts)
{
    if (d->torch) {
        rewind_torch(d, moment->update, micro);
        draw_torch(out, ctx, d, counts);
    } else {
        draw_philox(out, ctx, d, train_draw_step(calendar, moment, micro), counts);
    }
    return ag_status_of(ctx);
}

ag_status train_drawer_begin(ag_ctx *ctx, train_drawer *d, const train_calendar *calendar, int64_t update,
                             train_draw_counts_fn counts, void *user)
{
    if (!d->torch)
        return AG_OK;
    ag_torch_seed(&d->rng, d->seed);
    d->update = -1;
    for (int64_t u = 0; u < update && ag_status_of(ctx) == AG_OK; u++) {
        const train_moment m = train_moment_of(calendar, u);
        for (int64_t micro = 0; micro < m.n_micro; micro++) {
            const train_draw_counts c = counts(user, &m, micro);
            const ag_scope scope = ag_scope_open(ctx);
            train_drawn unused;
            draw_torch(&unused, ctx, d, &c);
            ag_scope_close(ctx, scope, NULL);
        }
    }
    return ag_status_of(ctx);
}
