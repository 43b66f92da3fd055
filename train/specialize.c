/* specialize.c - see specialize.h. */
#include "train/specialize.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "autograd/ops.h"
#include "data/dataset.h"
#include "data/file.h"
#include "pipeline/pipeline.h"
#include "train/diffusion.h"
#include "train/draws.h"
#include "train/latents.h"
#include "train/precision.h"
#include "train/prompts.h"
#include "train/run.h"

enum { ROWS_PER_PICTURE = 2 };

/* Where a run on AG_META leaves what it sees. It passes the pictures in a run of its own, because their
 * memory is given back before training begins. */
typedef struct foresight {
    train_forecast *forecast;
    train_work *work; /* NULL: not counted */
    int64_t n_pictures;
    bool with_pictures;
} foresight;

typedef struct specialize {
    const train_options *options;
    const foresight *foresight; /* NULL: a real run */
    uint64_t seed;
    data_ages ages;
    data_set set;
    pipe_model *model;
    train_prompts *prompts;
    int64_t plain;   /* the prompt without an age */
    int64_t *aged;   /* [set.n], the prompt with it */
    train_latents *latents;
    double scale; /* of latents */
    pipe_noise noise;
    train_diffusion diffusion;
    nn_clip_options text_options;
    train_state *state;
    train_calendar calendar;
    int64_t *order; /* [set.n], of epoch order_epoch */
    int64_t order_epoch;
    ag_torch_rng torch;  /* --torch_rng */
    ag_torch_rng torch_before; /* as it was before the micro-step of the next two */
    int64_t torch_update, torch_micro;
    float *torch_values; /* one draw of it */
} specialize;

/* --- prompts ------------------------------------------------------------------------------------- */

static const char ARTICLE[] = " a ";

char *train_aged_prompt(ag_ctx *ctx, const char *prompt, int64_t age)
{
    char insert[64];
    const size_t n_insert = (size_t)snprintf(insert, sizeof insert, " a %lld year old ", (long long)age);
    size_t count = 0, at = 0;
    char *out;

    for (const char *p = prompt; (p = strstr(p, ARTICLE)); p += sizeof ARTICLE - 1)
        count++;
    out = ag_new(ctx, strlen(prompt) + count * n_insert + 1, 1, "prompt");
    if (!out)
        return NULL;
    for (const char *p = prompt; *p;) {
        if (strncmp(p, ARTICLE, sizeof ARTICLE - 1) == 0) {
            memcpy(out + at, insert, n_insert);
            at += n_insert;
            p += sizeof ARTICLE - 1;
        } else {
            out[at++] = *p++;
        }
    }
    return out;
}

static ag_status make_prompts(ag_ctx *ctx, specialize *s)
{
    const train_options *o = s->options;

    s->aged = ag_new(ctx, (size_t)s->set.n, sizeof *s->aged, "prompts");
    if (!s->aged || train_prompts_new(&s->prompts, ctx, (int)o->tokenizer_max_length) != AG_OK)
        return ag_status_of(ctx);
    s->plain = train_prompts_add(ctx, s->prompts, o->instance_prompt);
    for (int64_t i = 0; i < s->set.n && ag_status_of(ctx) == AG_OK; i++) {
        char *text = train_aged_prompt(ctx, o->instance_prompt, (int64_t)s->set.items[i].age);
        if (text)
            s->aged[i] = train_prompts_add(ctx, s->prompts, text);
        ag_delete(text);
    }
    return ag_status_of(ctx);
}

/* --- the rows of a micro-step ---------------------------------------------------------------------- */

/* The item at a place of the epoch's order. */
static int64_t item_at(specialize *s, int64_t epoch, int64_t place)
{
    if (epoch != s->order_epoch) {
        data_order(s->order, s->seed, (uint32_t)epoch, s->set.n, !s->options->no_shuffle);
        s->order_epoch = epoch;
    }
    return s->order[place];
}

typedef struct draws {
    ag_tensor *posterior; /* [R,h,w,L] */
    ag_tensor *noise;     /* [B,h,w,L] */
    int64_t timesteps[TRAIN_MAX_ROWS];
} draws;

static void draw(ag_ctx *ctx, const specialize *s, uint32_t step, int64_t B, draws *d)
{
    const int64_t side = train_latents_side(s->latents), L = train_latents_channels(s->latents);
    const int64_t dims[] = {side, side, L}, channel[] = {1, 1, L};

    d->posterior = train_draw_normals(ctx, s->seed, AG_DRAW_POSTERIOR, step, ROWS_PER_PICTURE * B, 3, dims);
    d->noise = train_draw_normals(ctx, s->seed, AG_DRAW_NOISE, step, B, 3, dims);
    if (s->options->noise_offset > 0.0)
        d->noise = ag_add(ctx, d->noise,
                          ag_scale(ctx, train_draw_normals(ctx, s->seed, AG_DRAW_OFFSET, step, B, 3, channel),
                                   s->options->noise_offset));
    for (int64_t r = 0; r < ROWS_PER_PICTURE * B; r++)
        d->timesteps[r] = train_draw_timestep(s->seed, step, s->options->same_timestep ? r % B : r, s->noise.n);
}

/* The same from PyTorch's generator, in the published program's order: posterior noise, a noise that
 * is thrown away, the noise, the timesteps. Values come in NCHW order. */
static ag_tensor *torch_normals(ag_ctx *ctx, specialize *s, int64_t n)
{
    const int64_t side = train_latents_side(s->latents), L = train_latents_channels(s->latents);

    ag_torch_randn(&s->torch, s->torch_values, n * side * side * L);
    return ag_permute(ctx, ag_from_f32(ctx, s->torch_values, 4, (int64_t[]){n, L, side, side}), (int[]){0, 2, 3, 1});
}

/* A micro-step that is computed again (to find what made a NaN) sees the same numbers. */
static void rewind_torch(specialize *s, int64_t update, int64_t micro)
{
    if (s->torch_update == update && s->torch_micro == micro)
        s->torch = s->torch_before;
    s->torch_before = s->torch;
    s->torch_update = update;
    s->torch_micro = micro;
}

static void draw_torch(ag_ctx *ctx, specialize *s, int64_t B, draws *d)
{
    d->posterior = torch_normals(ctx, s, ROWS_PER_PICTURE * B);
    torch_normals(ctx, s, ROWS_PER_PICTURE * B);
    d->noise = torch_normals(ctx, s, B);
    ag_torch_randint(&s->torch, d->timesteps, ROWS_PER_PICTURE * B, 0, s->noise.n);
}

/* PyTorch's generator has a past: go through the draws of the updates before. */
static ag_status begin(ag_ctx *ctx, void *user, int64_t update)
{
    specialize *s = user;

    if (!s->options->torch_rng)
        return AG_OK;
    ag_torch_seed(&s->torch, s->seed);
    s->torch_update = -1;
    for (int64_t u = 0; u < update && ag_status_of(ctx) == AG_OK; u++) {
        const train_moment m = train_moment_of(&s->calendar, u);
        for (int64_t micro = 0; micro < m.n_micro; micro++) {
            const ag_scope scope = ag_scope_open(ctx);
            draws unused;
            draw_torch(ctx, s, train_slice_of(&s->calendar, &m, micro).n, &unused);
            ag_scope_close(ctx, scope, NULL);
        }
    }
    return ag_status_of(ctx);
}

static ag_tensor *twice(ag_ctx *ctx, ag_tensor *t)
{
    return ag_concat(ctx, t, t, 0);
}

static ag_tensor *loss(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, ag_tensor **rows)
{
    specialize *s = user;
    const train_slice slice = train_slice_of(&s->calendar, moment, micro);
    const int64_t B = slice.n;
    int64_t prompts[TRAIN_MAX_ROWS];
    ag_tensor *moments = NULL;
    train_rows batch = {.n = ROWS_PER_PICTURE * B};
    draws d;

    for (int64_t b = 0; b < B && ag_status_of(ctx) == AG_OK; b++) {
        const int64_t item = item_at(s, moment->epoch, slice.first + b);
        ag_tensor *one = train_latents_moments(ctx, s->latents, item, moment->epoch);
        moments = moments ? ag_concat(ctx, moments, one, 0) : one;
        prompts[b] = s->options->finetune_mode == TRAIN_DOUBLE_PROMPT ? s->plain : s->aged[item];
        prompts[B + b] = s->aged[item];
    }
    if (s->options->torch_rng) {
        rewind_torch(s, moment->update, micro);
        draw_torch(ctx, s, B, &d);
    } else
        draw(ctx, s, train_draw_step(&s->calendar, moment, micro), B, &d);
    batch.latents = train_latents_sample(ctx, twice(ctx, moments), d.posterior, s->scale);
    batch.noise = twice(ctx, d.noise);
    batch.timesteps = d.timesteps;
    batch.context = train_prompts_context(ctx, s->prompts, s->model, prompts, batch.n, &s->text_options);
    *rows = train_diffusion_loss(ctx, &s->diffusion, &batch);
    return ag_mean(ctx, *rows, AG_ALL_AXES, false);
}

static void row_name(void *user, const train_moment *moment, int64_t micro, int64_t row, char *text, size_t size)
{
    specialize *s = user;
    const train_slice slice = train_slice_of(&s->calendar, moment, micro);
    const int64_t item = item_at(s, moment->epoch, slice.first + row % slice.n);
    const bool plain = row < slice.n && s->options->finetune_mode == TRAIN_DOUBLE_PROMPT;

    snprintf(text, size, "%s with \"%s\"", s->set.items[item].name,
             train_prompts_text(s->prompts, plain ? s->plain : s->aged[item]));
}

static ag_status save(ag_ctx *ctx, void *user, const char *folder)
{
    specialize *s = user;

    /* who asked for an average wants it in the model */
    for (int64_t i = 0; s->state->ema && i < s->state->n; i++)
        ag_copy(ctx, s->state->params[i], opt_ema_at(s->state->ema, i));
    return pipe_save(ctx, s->model, folder, AG_F32);
}

/* --- setting up ------------------------------------------------------------------------------------ */

static ag_status check_options(ag_ctx *ctx, const train_options *o)
{
    if (o->finetune_mode == TRAIN_DOUBLE_PROMPT && !strstr(o->instance_prompt, ARTICLE))
        return ag_fail(ctx, AG_EINVAL,
                       "--instance_prompt \"%s\": wanted the word \" a \" in it, where the age goes (the two prompts of "
                       "finetune_double_prompt would be equal)",
                       o->instance_prompt);
    if (o->train_batch_size * ROWS_PER_PICTURE > TRAIN_MAX_ROWS)
        return ag_fail(ctx, AG_EINVAL, "--train_batch_size %lld: wanted at most %d", (long long)o->train_batch_size,
                       TRAIN_MAX_ROWS / ROWS_PER_PICTURE);
    if (o->torch_rng && (o->noise_offset > 0.0 || o->same_timestep))
        return ag_fail(ctx, AG_EINVAL, "--torch_rng repeats the published program's draws, which has no --%s",
                       o->same_timestep ? "same_timestep" : "noise_offset");
    if (!strstr(o->instance_prompt, ARTICLE))
        train_note(NULL, "--instance_prompt \"%s\": without the word \" a \" no prompt says an age", o->instance_prompt);
    return AG_OK;
}

/* A forecast's data set where there is none: every age from 1 to 80, round and round. */
static ag_status make_up_data(ag_ctx *ctx, specialize *s)
{
    const int64_t n = s->foresight->n_pictures;

    s->set.items = ag_new(ctx, (size_t)n, sizeof *s->set.items, "data set");
    for (int64_t i = 0; s->set.items && i < n && ag_status_of(ctx) == AG_OK; i++) {
        s->set.items[i] = (data_item){.path = ag_strdup(ctx, "picture"), .name = "picture", .age = (float)(1 + i % 80)};
        s->set.n++;
    }
    return ag_status_of(ctx);
}

static bool has_data(const specialize *s)
{
    return !s->foresight || (s->options->instance_data_dir && data_is_folder(s->options->instance_data_dir));
}

/* The labels; of a folder, the ages that its file names begin with. */
static ag_status open_ages(ag_ctx *ctx, specialize *s)
{
    const char *path = s->options->instance_age_path;

    return data_is_folder(path) ? data_ages_from_names(&s->ages, ctx, path) : data_ages_open(&s->ages, ctx, path);
}

/* What was left out, which is no error. */
static void tell_data(const specialize *s)
{
    if (s->ages.n_bad)
        train_note(NULL, "%s: %lld rows are left out, the first at %s", s->options->instance_age_path,
                   (long long)s->ages.n_bad, s->ages.first_bad);
    if (s->ages.n_duplicates)
        train_note(NULL, "%s: %lld rows stand in place of earlier ones of the same picture",
                   s->options->instance_age_path, (long long)s->ages.n_duplicates);
    if (s->set.n_no_file)
        train_note(NULL, "%s: %lld labels are of pictures that are not in %s", s->options->instance_age_path,
                   (long long)s->set.n_no_file, s->options->instance_data_dir);
}

static ag_status open_data(ag_ctx *ctx, specialize *s)
{
    const train_options *o = s->options;
    opt_schedule schedule;

    if (!has_data(s))
        make_up_data(ctx, s);
    else if (open_ages(ctx, s) == AG_OK)
        data_set_open(&s->set, ctx, o->instance_data_dir, &s->ages, DATA_CHECK_HEADERS);
    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    tell_data(s);
    s->order = ag_new(ctx, (size_t)s->set.n, sizeof *s->order, "order of the pictures");
    s->order_epoch = -1;
    s->calendar = (train_calendar){.n_samples = s->set.n,
                                   .batch = o->train_batch_size < s->set.n ? o->train_batch_size : s->set.n,
                                   .accumulation = o->gradient_accumulation_steps};
    schedule = train_schedule(o, train_total_updates(&s->calendar, o->max_train_steps, o->num_train_epochs));
    return opt_schedule_check(ctx, &schedule); /* now, and not after an hour of encoding */
}

/* Nothing in a real run. */
static void enter_phase(ag_ctx *ctx, const specialize *s, int phase)
{
    const foresight *f = s->foresight;

    if (!f || !f->with_pictures)
        return;
    if (phase == TRAIN_PHASE_PICTURE)
        f->forecast->stage[TRAIN_STAGE_TEXT] = ag_bytes_touched(ctx);
    else if (phase < 0)
        f->forecast->stage[TRAIN_STAGE_PICTURES] = ag_bytes_touched(ctx);
    if (f->work)
        train_work_watch(f->work, ctx, phase);
}

/* Encode what stays the same, with only the network in memory that does it. */
static ag_status fill_caches(ag_ctx *ctx, specialize *s, ag_dtype compute)
{
    const train_options *o = s->options;
    train_latents_options options = {.resolution = o->resolution,
                                     .center_crop = o->center_crop || !has_data(s),
                                     .random_flip = o->random_flip,
                                     .ignore_exif = o->ignore_exif,
                                     .seed = s->seed,
                                     .compute = compute};
    char *folder = o->cache_dir ? ag_strdup(ctx, o->cache_dir) : ag_printf(ctx, "%s/cache", o->output_dir);
    bool needs_vae = true;

    options.folder = o->no_cache ? NULL : folder;
    enter_phase(ctx, s, TRAIN_PHASE_TEXT);
    if (train_prompts_prepare(ctx, s->prompts, s->model, !o->train_text_encoder) == AG_OK) {
        if (!o->train_text_encoder)
            pipe_drop(s->model, PIPE_TEXT);
        enter_phase(ctx, s, TRAIN_PHASE_PICTURE);
        if (pipe_add(ctx, s->model, PIPE_VAE) == AG_OK &&
            train_latents_new(&s->latents, ctx, &options, &s->set, s->model->vae) == AG_OK) {
            needs_vae = train_latents_needs_vae(s->latents);
            if (!s->foresight || s->foresight->with_pictures)
                train_latents_fill(ctx, s->latents, NULL, &needs_vae);
        }
        enter_phase(ctx, s, -1);
        if (s->model->vae)
            s->scale = nn_vae_config_of(s->model->vae)->scaling_factor;
        if (!needs_vae)
            pipe_drop(s->model, PIPE_VAE);
    }
    ag_delete(folder);
    ag_trim(ctx);
    return ag_status_of(ctx);
}

static bool is_same_folder(const char *a, const char *b)
{
    struct stat one, other;

    return stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/* The noise schedule: as the model says, or as we are told; what is assumed or changed is said. */
static void settle_schedule(specialize *s)
{
    data_schedule_config *schedule = &s->model->schedule;

    if (s->options->prediction_type != TRAIN_PREDICTION_OF_MODEL)
        schedule->prediction_type =
            s->options->prediction_type == TRAIN_PREDICTION_V ? DATA_V_PREDICTION : DATA_EPSILON;
    else if (!s->model->prediction_known)
        train_note(NULL, "%s does not say what its U-Net predicts; taken: %s (--prediction_type says otherwise)",
                   s->model->path, schedule->prediction_type == DATA_V_PREDICTION ? "v_prediction" : "epsilon");
    if (pipe_settle_schedule(schedule))
        train_note(NULL, "the scheduler's steps_offset becomes 1 and clip_sample false, as for every Stable Diffusion");
}

static ag_status open_model(ag_ctx *ctx, specialize *s)
{
    const train_options *o = s->options;
    const pipe_source source = {.model = o->pretrained_model_name_or_path,
                                .revision = o->revision,
                                .variant = o->variant,
                                .tokenizer_name = o->tokenizer_name};
    const ag_dtype compute = train_compute_dtype(ctx, o->mixed_precision);
    int64_t values;

    if (ag_status_of(ctx) != AG_OK || pipe_open(&s->model, ctx, &source, PIPE_TEXT | PIPE_TOKENIZER) != AG_OK)
        return ag_status_of(ctx);
    if (is_same_folder(s->model->path, o->output_dir))
        return ag_fail(ctx, AG_EINVAL, "--output_dir %s is the model's own folder, which a run that ends early would spoil",
                       o->output_dir);
    settle_schedule(s);
    if (!s->foresight && pipe_check(ctx, &source, PIPE_UNET | PIPE_VAE) != AG_OK) /* before hours of encoding */
        return ag_status_of(ctx);
    if (pipe_noise_init(&s->noise, ctx, &s->model->schedule) != AG_OK || fill_caches(ctx, s, compute) != AG_OK ||
        pipe_add(ctx, s->model, PIPE_UNET) != AG_OK)
        return ag_status_of(ctx);
    nn_params_train(ctx, pipe_params(s->model, DATA_UNET), NULL, true);
    if (o->train_text_encoder)
        nn_params_train(ctx, pipe_params(s->model, DATA_TEXT_ENCODER), NULL, true);
    train_diffusion_init(&s->diffusion, o, s->model->unet, &s->noise);
    s->diffusion.unet_options.compute = compute;
    s->text_options = (nn_clip_options){.checkpointing = o->gradient_checkpointing, .compute = compute};
    values = ROWS_PER_PICTURE * s->calendar.batch * train_latents_side(s->latents) * train_latents_side(s->latents) *
             train_latents_channels(s->latents);
    if (o->torch_rng)
        s->torch_values = ag_new(ctx, (size_t)values, sizeof *s->torch_values, "draws");
    return ag_status_of(ctx);
}

static ag_status make_state(ag_ctx *ctx, specialize *s)
{
    const train_options *o = s->options;
    const opt_config config = train_opt_config(o);
    const opt_schedule schedule =
        train_schedule(o, train_total_updates(&s->calendar, o->max_train_steps, o->num_train_epochs));
    const train_part parts[] = {{pipe_params(s->model, DATA_UNET), "unet."},
                                {pipe_params(s->model, DATA_TEXT_ENCODER), "text_encoder."}};

    return train_state_new(&s->state, ctx, parts, o->train_text_encoder ? 2 : 1, &config, &schedule,
                           o->max_grad_norm, o->ema_decay);
}

static void close_all(specialize *s)
{
    train_state_free(s->state);
    train_latents_free(s->latents);
    train_prompts_free(s->prompts);
    pipe_close(s->model);
    data_set_close(&s->set);
    data_ages_close(&s->ages);
    ag_delete(s->aged);
    ag_delete(s->order);
    ag_delete(s->torch_values);
    ag_delete(s);
}

/* Everything before the first update. */
static ag_status set_up(ag_ctx *ctx, specialize *s, const train_options *options)
{
    s->options = options;
    s->seed = (uint64_t)options->seed;
    if (check_options(ctx, options) == AG_OK && train_prepare_output(ctx, options) == AG_OK &&
        open_data(ctx, s) == AG_OK && make_prompts(ctx, s) == AG_OK)
        open_model(ctx, s);
    return ag_status_of(ctx);
}

ag_status train_specialize(ag_ctx *ctx, const train_options *options, json_t *config)
{
    specialize *s = ag_new(ctx, 1, sizeof *s, "specialize");
    train_method method = {.name = "specialize", .user = s, .has_instances = true, .loss = loss, .row_name = row_name, .begin = begin,
                           .save = save};

    if (!s)
        return ag_status_of(ctx);
    if (set_up(ctx, s, options) == AG_OK && make_state(ctx, s) == AG_OK) {
        method.calendar = s->calendar;
        train_run(ctx, options, &method, s->state, config);
    }
    close_all(s);
    train_forecast_explain(ctx, options, train_specialize_forecast);
    return ag_status_of(ctx);
}

/* --- the forecast ---------------------------------------------------------------------------------- */

/* One micro-step and the update after it, watched or not. */
static ag_status foresee_update(ag_ctx *ctx, specialize *s, const train_moment *moment, int64_t micro, bool watched)
{
    train_work *work = watched ? s->foresight->work : NULL;
    const ag_scope scope = ag_scope_open(ctx);
    train_update unused;
    ag_tensor *rows;

    if (work)
        train_work_watch(work, ctx, TRAIN_PHASE_MICRO);
    train_state_add(ctx, s->state, loss(ctx, s, moment, micro, &rows), 1.0);
    ag_scope_close(ctx, scope, NULL);
    if (work)
        train_work_watch(work, ctx, TRAIN_PHASE_UPDATE);
    train_state_update(&unused, ctx, s->state);
    if (work)
        train_work_watch(work, ctx, -1);
    return ag_status_of(ctx);
}

/* The first batch twice, the last of an epoch, which may be short, and the first again: after that memory
 * has seen what it will see. */
static ag_status foresee_updates(ag_ctx *ctx, specialize *s)
{
    const train_moment first = train_moment_of(&s->calendar, 0);
    const train_moment last = train_moment_of(&s->calendar, train_updates_per_epoch(&s->calendar) - 1);

    for (int k = 0; k < 4 && ag_status_of(ctx) == AG_OK; k++)
        foresee_update(ctx, s, k == 2 ? &last : &first, k == 2 ? last.n_micro - 1 : 0, k == 1);
    return ag_status_of(ctx);
}

/* Parts that are not in memory pass through it to be saved (pipe_save). */
static ag_status foresee_saving(ag_ctx *ctx, specialize *s)
{
    int64_t largest = 0;

    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++) {
        const bool was_open = pipe_params(s->model, (data_component)c) != NULL;
        const nn_params *params;
        if (!was_open && pipe_add(ctx, s->model, 1u << c) != AG_OK)
            break;
        params = pipe_params(s->model, (data_component)c);
        for (int64_t i = 0; i < nn_params_count(params); i++)
            if (nn_params_at(params, i)->numel > largest)
                largest = nn_params_at(params, i)->numel;
        if (!was_open)
            pipe_drop(s->model, 1u << c);
    }
    s->foresight->forecast->stage[TRAIN_STAGE_SAVING] = ag_bytes_touched(ctx) + (size_t)largest * sizeof(float);
    return ag_status_of(ctx);
}

/* What there is to do, from a run that is set up. */
static void count_run(train_forecast *f, const specialize *s)
{
    const train_options *o = s->options;
    const train_calendar *c = &s->calendar;
    const int64_t updates = train_updates_per_epoch(c), micro = (c->n_samples + c->batch - 1) / c->batch;

    f->has_pictures = has_data(s);
    f->n_pictures = s->set.n;
    f->n_encodings = o->no_cache ? 0 : s->set.n * (o->random_flip ? 2 : 1);
    f->n_prompts = train_prompts_count(s->prompts);
    f->rows = ROWS_PER_PICTURE * c->batch;
    f->n_updates = train_total_updates(c, o->max_train_steps, o->num_train_epochs);
    f->n_micro = (int64_t)((double)f->n_updates * (double)micro / (double)updates + 0.5);
    if (o->checkpointing_steps > 0 && o->checkpointing_steps <= f->n_updates)
        f->base += TRAIN_CHECKPOINT_BYTES;
    if (!o->train_text_encoder) /* the contexts stay in host memory */
        f->base += (size_t)(f->n_prompts * pipe_max_length(s->model) *
                            nn_unet_config_of(s->model->unet)->cross_attention_dim) * sizeof(float);
}

static ag_status foresee(ag_ctx *ctx, specialize *s)
{
    train_forecast *f = s->foresight->forecast;

    if (set_up(ctx, s, s->options) != AG_OK || s->foresight->with_pictures)
        return ag_status_of(ctx);
    count_run(f, s);
    f->weights = ag_bytes_now(ctx, AG_MODEL);
    if (make_state(ctx, s) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < s->state->n; i++)
        f->gradients += ag_nbytes(s->state->grads[i]);
    f->moments = ag_bytes_now(ctx, AG_MODEL) - f->weights - f->gradients;
    ag_bytes_reset_peak(ctx);
    if (foresee_updates(ctx, s) != AG_OK)
        return ag_status_of(ctx);
    f->activations = ag_bytes_peak(ctx, AG_STEP);
    f->scratch = ag_bytes_peak(ctx, AG_SCRATCH);
    f->stage[TRAIN_STAGE_TRAINING] = ag_bytes_touched(ctx);
    return foresee_saving(ctx, s);
}

ag_status train_specialize_forecast(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                    int64_t n_pictures, train_work *work)
{
    *out = (train_forecast){.base = TRAIN_BASE_BYTES};
    for (int with_pictures = 1; with_pictures >= 0; with_pictures--) {
        const foresight f = {.forecast = out, .work = work, .n_pictures = n_pictures, .with_pictures = with_pictures};
        ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META, .n_threads = ag_ctx_threads(ctx)});
        specialize *s = meta ? ag_new(meta, 1, sizeof *s, "specialize") : NULL;
        if (s) {
            s->foresight = &f;
            s->options = options;
            foresee(meta, s);
            close_all(s);
        }
        if (!meta)
            ag_fail(ctx, AG_ENOMEM, "no memory for a context");
        else if (ag_status_of(meta) != AG_OK)
            ag_fail(ctx, ag_status_of(meta), "%s", ag_message(meta));
        ag_ctx_free(meta);
        if (ag_status_of(ctx) != AG_OK)
            return ag_status_of(ctx);
    }
    for (int i = 0; i < TRAIN_N_STAGES; i++) {
        out->stage[i] += out->base;
        out->peak = out->stage[i] > out->peak ? out->stage[i] : out->peak;
    }
    return AG_OK;
}
