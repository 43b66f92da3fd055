/* validation.c - see validation.h. Guidance, and 25 steps for the last pictures, are those of huggingface/diffusers:
 * examples/dreambooth/train_dreambooth_lora.py.
 */
#include "train/validation.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/file.h"
#include "train/ground.h"
#include "train/precision.h"

enum { LAST_STEPS = 25 };
static const double GUIDANCE = 7.5;

/* --- held-out pictures -------------------------------------------------------------------------------- */

ag_status train_held_out_open(ag_ctx *ctx, train_ground *g)
{
    const train_options *o = g->options;
    const train_folder folder = {
        .dir = o->validation_data_dir, .has_ages = g->recipe->has_ages, .age_path = o->validation_age_path};
    train_options plain = *o;
    train_held_out *h = &g->held_out;

    if (o->validation_prompt && !o->sample && !g->foresight)
        return ag_fail(ctx, AG_EINVAL, "--validation_prompt: there is nobody to draw pictures");
    if (!o->validation_data_dir || g->foresight)
        return ag_status_of(ctx);
    plain.mask_dir = NULL;
    plain.balance_ages = false;
    plain.caption_extension = NULL;
    if (train_pictures_open(&h->pictures, ctx, &plain, &folder) != AG_OK)
        return ag_status_of(ctx);
    h->prompts = ag_new(ctx, (size_t)h->pictures.set.n, sizeof *h->prompts, "prompts");
    for (int64_t i = 0; i < h->pictures.set.n && ag_status_of(ctx) == AG_OK; i++) {
        char *text = g->recipe->prompt_of(ctx, o, &h->pictures.set.items[i]);
        if (text)
            h->prompts[i] = train_prompts_add(ctx, g->prompts, text);
        ag_delete(text);
    }
    return ag_status_of(ctx);
}

ag_status train_held_out_fill(ag_ctx *ctx, train_ground *g, const char *folder, ag_dtype compute, bool *needs_vae)
{
    train_held_out *h = &g->held_out;
    const train_latents_options options = {.folder = folder,
                                           .boxes = h->pictures.boxes,
                                           .center_crop = true,
                                           .ignore_exif = g->options->ignore_exif,
                                           .compute = compute};

    *needs_vae = false;
    if (h->pictures.set.n == 0 || ag_status_of(ctx) != AG_OK ||
        train_latents_new(&h->latents, ctx, &options, &h->pictures.set, g->model->vae) != AG_OK)
        return ag_status_of(ctx);
    return train_latents_fill(ctx, h->latents, NULL, needs_vae);
}

void train_held_out_close(train_held_out *h)
{
    train_latents_free(h->latents);
    train_pictures_close(&h->pictures);
    ag_delete(h->prompts);
    *h = (train_held_out){0};
}

/* --- the loss ----------------------------------------------------------------------------------------- */

/* Timesteps first .. first + n - 1 of picture i, as a batch; the sum of its rows into *sum. */
static ag_status add_rows(double *sum, ag_ctx *ctx, train_ground *g, int64_t i, int64_t first, int64_t n)
{
    const train_held_out *h = &g->held_out;
    const int64_t T = g->options->num_validation_timesteps;
    const data_pick pick = {.item = i};
    int64_t keys[TRAIN_MAX_ROWS][4], times[TRAIN_MAX_ROWS], prompts[TRAIN_MAX_ROWS], dims[4];
    float losses[TRAIN_MAX_ROWS];
    train_diffusion d = g->diffusion;
    train_rows rows = {.n = n, .timesteps = times};
    ag_tensor *moments, *mean, *loss;

    d.snr_gamma = 0.0;
    d.loss_kind = AG_LOSS_L2;
    for (int64_t r = 0; r < n; r++) {
        times[r] = (2 * (first + r) + 1) * g->noise.n / (2 * T);
        prompts[r] = h->prompts[i];
        keys[r][0] = 0; /* of every run, whatever its seed */
        keys[r][1] = AG_DRAW_VALIDATION;
        keys[r][2] = first + r;
        keys[r][3] = i;
    }
    moments = train_latents_moments(ctx, h->latents, &pick, 1, 0);
    if (!moments)
        return ag_status_of(ctx);
    mean = ag_scale(ctx, ag_slice(ctx, moments, 3, 0, ag_dim(moments, 3) / 2), g->scale);
    if (!mean)
        return ag_status_of(ctx);
    for (int k = 0; k < 4; k++)
        dims[k] = k ? ag_dim(mean, k) : n;
    rows.latents = ag_broadcast(ctx, mean, 4, dims);
    rows.noise = ag_normal(ctx, ag_from_i64(ctx, keys[0], 2, (int64_t[]){n, 4}), 3, dims + 1);
    rows.context = train_prompts_context(ctx, g->prompts, g->model, prompts, n, &g->text_options);
    loss = train_diffusion_loss(ctx, &d, &rows);
    if (loss && ag_read(ctx, loss, losses, (size_t)n * sizeof *losses) == AG_OK)
        for (int64_t r = 0; r < n; r++)
            *sum += losses[r];
    return ag_status_of(ctx);
}

static ag_status held_out_loss(double *out, ag_ctx *ctx, train_ground *g)
{
    const int64_t T = g->options->num_validation_timesteps, n = g->held_out.pictures.set.n;
    const int64_t step = g->options->train_batch_size < T ? g->options->train_batch_size : T;
    const bool was = ag_record(ctx, false);
    double sum = 0.0;

    train_lora_rest(&g->lora);
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < T && ag_status_of(ctx) == AG_OK; t += step) {
            const ag_scope scope = ag_scope_open(ctx);
            add_rows(&sum, ctx, g, i, t, T - t < step ? T - t : step);
            ag_scope_close(ctx, scope, NULL);
        }
    ag_record(ctx, was);
    *out = sum / (double)(n * T);
    return ag_status_of(ctx);
}

/* --- pictures ----------------------------------------------------------------------------------------- */

/* Picture i, under its name on disk and in the events. */
static ag_status keep_picture(ag_ctx *ctx, const train_ground *g, train_log *log, int64_t update, bool is_end,
                              int64_t i, const data_image *image)
{
    char *path = is_end ? ag_printf(ctx, "%s/validation/test-%lld.png", g->options->output_dir, (long long)i)
                        : ag_printf(ctx, "%s/validation/%lld-%lld.png", g->options->output_dir, (long long)update,
                                    (long long)i);
    char *tag = ag_printf(ctx, "%s/%lld", is_end ? "test" : "validation", (long long)i);
    uint8_t *png = NULL;
    size_t n = 0;

    if (path && tag && data_image_encode_png(&png, &n, ctx, image) == AG_OK &&
        data_file_write(ctx, path, png, n) == AG_OK)
        train_log_picture(log, ctx, tag, update, image->w, image->h, png, n);
    ag_delete(png);
    ag_delete(path);
    ag_delete(tag);
    return ag_status_of(ctx);
}

static ag_status draw_picture(data_image *image, ag_ctx *ctx, train_ground *g, int64_t i, int64_t n_steps)
{
    const ag_dtype compute = g->diffusion.unet_options.compute;
    const train_sample_request request = {.prompt = g->options->validation_prompt,
                                          .n = 1,
                                          .first = i,
                                          .n_steps = n_steps,
                                          .guidance = GUIDANCE,
                                          .seed = g->seed,
                                          .compute = compute,
                                          .vae_compute = train_vae_dtype(ctx, g->options->vae_precision, compute)};

    return g->options->sample(image, ctx, g->model, &request);
}

static ag_status draw_pictures(ag_ctx *ctx, train_ground *g, train_log *log, int64_t update, bool is_end)
{
    const train_options *o = g->options;
    const int64_t steps = o->validation_inference_steps;

    for (int64_t i = 0; i < o->num_validation_images && ag_status_of(ctx) == AG_OK && !train_stop_asked(); i++) {
        data_image image = {0};
        train_log_progress(log, "validation", i, o->num_validation_images);
        if (draw_picture(&image, ctx, g, i, is_end && steps > LAST_STEPS ? LAST_STEPS : steps) == AG_OK)
            keep_picture(ctx, g, log, update, is_end, i, &image);
        data_image_free(&image);
    }
    return ag_status_of(ctx);
}

/* The networks that drawing needs and training has let go. */
static unsigned absent_parts(const pipe_model *m)
{
    return (m->vae ? 0 : PIPE_VAE) | (m->text ? 0 : PIPE_TEXT);
}

static ag_status make_pictures(ag_ctx *ctx, train_ground *g, train_log *log, int64_t update, bool is_end)
{
    const unsigned absent = absent_parts(g->model);
    char *folder = ag_printf(ctx, "%s/validation", g->options->output_dir);

    train_lora_rest(&g->lora);
    if (folder && data_folder_make(ctx, folder) == AG_OK && pipe_add(ctx, g->model, absent) == AG_OK)
        draw_pictures(ctx, g, log, update, is_end);
    pipe_drop(g->model, absent);
    ag_delete(folder);
    ag_trim(ctx);
    return ag_status_of(ctx);
}

ag_status train_validation_foresee(ag_ctx *ctx, train_ground *g)
{
    const unsigned absent = absent_parts(g->model);
    data_image image = {0};

    if (!g->options->validation_prompt || !g->options->sample)
        return AG_OK;
    train_lora_rest(&g->lora);
    if (pipe_add(ctx, g->model, absent) == AG_OK)
        draw_picture(&image, ctx, g, 0, 1);
    data_image_free(&image);
    pipe_drop(g->model, absent);
    return ag_status_of(ctx);
}

/* --- when --------------------------------------------------------------------------------------------- */

/* After every so many updates, and after epochs 0, n, 2n, ... as the published programs count. */
static bool is_due(const train_ground *g, int64_t update)
{
    const train_options *o = g->options;
    const int64_t per_epoch = train_updates_per_epoch(&g->calendar);
    const bool ends_epoch = update > 0 && update % per_epoch == 0;

    return (o->validation_steps > 0 && update > 0 && update % o->validation_steps == 0) ||
           (o->validation_epochs > 0 && ends_epoch && (update / per_epoch - 1) % o->validation_epochs == 0);
}

/* The loss on held-out pictures: at the ends too. */
static bool measures(const train_ground *g, int64_t update)
{
    const train_options *o = g->options;

    return g->held_out.pictures.set.n > 0 &&
           (update == 0 || update == train_total_updates(&g->calendar, o->max_train_steps, o->num_train_epochs) ||
            is_due(g, update));
}

bool train_validates(void *user, int64_t update)
{
    const train_ground *g = user;

    return measures(g, update) || (g->options->validation_prompt && is_due(g, update));
}

ag_status train_validate(ag_ctx *ctx, void *user, train_log *log, int64_t update, bool is_end)
{
    train_ground *g = user;
    const train_options *o = g->options;
    double loss;

    if (!is_end && measures(g, update) && held_out_loss(&loss, ctx, g) == AG_OK)
        train_log_validation(log, ctx, update, loss);
    if (ag_status_of(ctx) == AG_OK && o->validation_prompt && (is_end || is_due(g, update)))
        make_pictures(ctx, g, log, update, is_end);
    return ag_status_of(ctx);
}
