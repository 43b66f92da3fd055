/* generate.c - see generate.h. */
#include "edit/generate.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/resample.h"

ag_tensor *edit_guided_prediction(ag_ctx *ctx, const nn_unet *unet, ag_tensor *x, double timestep, ag_tensor *cond,
                                  ag_tensor *uncond, double guidance, const nn_unet_options *options)
{
    const bool guided = guidance > 1.0;
    const ag_scope scope = ag_scope_open(ctx);
    int64_t n, rows;
    ag_tensor *t, *e;

    if (!x || !cond)
        return NULL;
    n = ag_dim(x, 0);
    rows = guided ? 2 * n : n;
    t = ag_full(ctx, AG_STEP, timestep, 1, &rows);
    if (!guided)
        return ag_scope_close(ctx, scope, nn_unet_forward(ctx, unet, x, t, cond, options));
    e = nn_unet_forward(ctx, unet, ag_concat(ctx, x, x, 0), t, ag_concat(ctx, uncond, cond, 0), options);
    if (e) {
        ag_tensor *e_u = ag_slice(ctx, e, 0, 0, n), *e_c = ag_slice(ctx, e, 0, n, n);
        e = ag_add(ctx, e_u, ag_scale(ctx, ag_sub(ctx, e_c, e_u), guidance));
    }
    return ag_scope_close(ctx, scope, e);
}

ag_tensor *edit_sample_latents(ag_ctx *ctx, const nn_unet *unet, const edit_sampler *sampler, ag_tensor *x,
                               ag_tensor *cond, ag_tensor *uncond, double guidance,
                               const nn_unet_options *options, edit_step_fn on_step, void *user)
{
    const bool was = ag_record(ctx, false);

    for (int64_t s = 0; s < sampler->n_steps && x; s++) {
        const ag_scope scope = ag_scope_open(ctx);
        ag_tensor *e = edit_guided_prediction(ctx, unet, x, (double)sampler->timesteps[s], cond, uncond, guidance,
                                              options);
        x = ag_scope_close(ctx, scope, edit_sampler_step(ctx, sampler, s, x, e));
        if (x && on_step)
            on_step(user, s + 1, sampler->n_steps, x);
    }
    ag_record(ctx, was);
    return x;
}

ag_status edit_decode(data_image *images, ag_ctx *ctx, const pipe_model *model, ag_tensor *latents,
                      ag_dtype compute)
{
    const double scale = nn_vae_config_of(model->vae)->scaling_factor;
    const nn_vae_options options = {.compute = compute};
    const bool was = ag_record(ctx, false);
    const int64_t n = latents ? ag_dim(latents, 0) : 0;

    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
        const ag_scope scope = ag_scope_open(ctx);
        ag_tensor *z = ag_scale(ctx, ag_slice(ctx, latents, 0, i, 1), 1.0 / scale);
        ag_tensor *pixels = nn_vae_decode(ctx, model->vae, z, &options);
        float *host = pixels ? ag_new(ctx, (size_t)ag_numel(pixels), sizeof *host, "picture") : NULL;
        if (host && ag_read(ctx, pixels, host, ag_nbytes(pixels)) == AG_OK)
            data_image_from_f32(&images[i], ctx, host, ag_dim(pixels, 2), ag_dim(pixels, 1), false);
        ag_delete(host);
        ag_scope_close(ctx, scope, NULL);
    }
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

/* First latents of pictures first .. first + n - 1, f32 [n,h,w,C]. PyTorch draws the whole set at once in
 * NCHW order, so its generator is run from the start. */
static ag_tensor *first_latents(ag_ctx *ctx, const edit_generate_options *o, int64_t first, int64_t n, int64_t h,
                                int64_t w, int64_t C)
{
    const size_t one = (size_t)(h * w * C);
    float *host = ag_new(ctx, one * (size_t)(o->torch_rng ? first + n : n), sizeof *host, "latents");
    ag_tensor *x = NULL;

    if (!host)
        return NULL;
    if (o->torch_rng) {
        ag_torch_rng rng;
        ag_torch_seed(&rng, o->seed);
        for (int64_t i = 0; i < first + n; i++) /* one call a picture, as separate generations would */
            ag_torch_randn(&rng, host + (size_t)i * one, (int64_t)one);
        x = ag_permute(ctx, ag_from_f32(ctx, host + (size_t)first * one, 4, (int64_t[]){n, C, h, w}),
                       (int[]){0, 2, 3, 1});
    } else {
        for (int64_t i = 0; i < n; i++) {
            const int64_t picture = first + i;
            const ag_draw draw = {.seed = o->seed, .purpose = AG_DRAW_LATENT,
                                  .sample = (uint32_t)(o->same_latents ? picture % o->per_prompt : picture)};
            ag_draw_normals(&draw, host + (size_t)i * one, (int64_t)one);
        }
        x = ag_from_f32(ctx, host, 4, (int64_t[]){n, h, w, C});
    }
    ag_delete(host);
    return x;
}

static ag_status generate_batch(data_image *images, ag_ctx *ctx, const pipe_model *m, const edit_generate_options *o,
                                const edit_sampler *sampler, int64_t first, int64_t n, int64_t h, int64_t w)
{
    const nn_unet_options options = {.compute = o->compute};
    const ag_scope scope = ag_scope_open(ctx);
    const char **prompts = ag_new(ctx, (size_t)n, sizeof *prompts, "prompts");
    ag_tensor *cond = NULL, *uncond = NULL, *x;

    for (int64_t i = 0; prompts && i < n; i++)
        prompts[i] = o->prompts[(first + i) / o->per_prompt];
    if (prompts)
        cond = pipe_encode_prompts(ctx, m, prompts, n, 0);
    for (int64_t i = 0; prompts && i < n; i++)
        prompts[i] = o->negative_prompt ? o->negative_prompt : "";
    if (prompts && o->guidance > 1.0)
        uncond = pipe_encode_prompts(ctx, m, prompts, n, 0);
    ag_delete(prompts);
    x = first_latents(ctx, o, o->first + first, n, h, w, nn_unet_config_of(m->unet)->in_channels);
    x = edit_sample_latents(ctx, m->unet, sampler, x, cond, uncond, o->guidance, &options, o->on_step, o->user);
    if (x)
        edit_decode(images, ctx, m, x, o->vae_compute);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

ag_status edit_generate(data_image *images, ag_ctx *ctx, pipe_model *model, const edit_generate_options *o)
{
    const int64_t factor = nn_vae_factor(model->vae), side = nn_unet_config_of(model->unet)->sample_size;
    const int64_t h = o->height ? o->height : side * factor, w = o->width ? o->width : side * factor;
    const int64_t total = o->n_prompts * o->per_prompt, batch = o->batch > 0 ? o->batch : 1;
    edit_sampler *sampler = ag_new(ctx, 1, sizeof *sampler, "sampler");
    pipe_noise *noise = ag_new(ctx, 1, sizeof *noise, "noise schedule");

    if (ag_status_of(ctx) == AG_OK && (h < factor || w < factor || h % factor || w % factor))
        ag_fail(ctx, AG_EINVAL, "a picture of %lldx%lld: wanted multiples of %lld", (long long)w, (long long)h,
                (long long)factor);
    if (ag_status_of(ctx) == AG_OK && pipe_noise_init(noise, ctx, &model->schedule) == AG_OK &&
        edit_sampler_init(sampler, ctx, o->sampler, noise, &model->schedule, o->n_steps) == AG_OK)
        for (int64_t first = 0; first < total && ag_status_of(ctx) == AG_OK; first += batch)
            generate_batch(images + first, ctx, model, o, sampler, first, total - first < batch ? total - first : batch,
                           h / factor, w / factor);
    ag_delete(sampler);
    ag_delete(noise);
    return ag_status_of(ctx);
}
