/* ground.c - see ground.h. */
#include "train/ground.h"

#include <sys/stat.h>

#include "autograd/grad.h"
#include "data/file.h"
#include "pipeline/lora.h"
#include "train/inversion.h"
#include "train/precision.h"

/* --- for recipes -------------------------------------------------------------------------------------- */

bool train_ground_assumes(train_ground *g, const char *dir)
{
    if (g->foresight && !(dir && data_is_folder(dir)))
        g->is_assumed = true;
    return g->is_assumed;
}

train_batch train_ground_batch_at(train_ground *g, int64_t epoch, int64_t k)
{
    const int64_t R = g->options->resolution, factor = train_latents_factor(g->latents[0]);
    train_batch b = {0};
    data_size box = {R, R};

    b.picks = data_batches_at(g->batches, epoch, k, &b.n);
    if (g->samples.boxes)
        box = g->samples.boxes[b.picks[0].item];
    b.h = box.h / factor;
    b.w = box.w / factor;
    return b;
}

train_batch train_ground_batch(train_ground *g, const train_moment *moment, int64_t micro)
{
    return train_ground_batch_at(g, moment->epoch, train_batch_of(&g->calendar, moment, micro));
}

static train_draw_counts counts_at(void *user, const train_moment *moment, int64_t micro)
{
    train_ground *g = user;
    const train_batch b = train_ground_batch(g, moment, micro);
    train_draw_counts c = g->recipe->counts(g, b.n);

    c.h = b.h;
    c.w = b.w;
    return c;
}

int64_t train_ground_prompt(const train_ground *g, const train_moment *moment, int64_t micro, int64_t r, int64_t prompt)
{
    const uint32_t step = train_draw_step(&g->calendar, moment, micro);

    return train_draw_drops(g->seed, step, r, g->options->caption_dropout) ? g->empty_prompt : prompt;
}

ag_status train_ground_draw(train_inputs *in, ag_ctx *ctx, train_ground *g, const train_moment *moment, int64_t micro)
{
    const train_draw_counts counts = counts_at(g, moment, micro);
    train_drawn drawn;

    train_lora_set_step(&g->lora, train_draw_step(&g->calendar, moment, micro));
    if (train_draw(&drawn, ctx, &g->drawer, &g->calendar, moment, micro, &counts) == AG_OK) {
        in->at[TRAIN_IN_POSTERIOR] = drawn.posterior;
        in->at[TRAIN_IN_NOISE] = drawn.noise;
        in->at[TRAIN_IN_TIMES] = train_diffusion_times(ctx, &g->diffusion, drawn.timesteps, counts.rows);
    }
    return ag_status_of(ctx);
}

ag_status train_ground_prompts(train_inputs *in, ag_ctx *ctx, train_ground *g, const int64_t *prompts, int64_t n)
{
    const int64_t half = n / 2;

    in->at[TRAIN_IN_CONTEXT] = train_prompts_given(ctx, g->prompts, g->model, prompts, n);
    if (train_objective_wants_class_context(&g->objective))
        in->at[TRAIN_IN_CLASS_CONTEXT] = train_prompts_given(ctx, g->prompts, g->model, prompts + half, half);
    return ag_status_of(ctx);
}

void train_ground_rows(train_rows *batch, ag_ctx *ctx, const train_ground *g, const train_inputs *in)
{
    bool was;

    batch->times = in->at[TRAIN_IN_TIMES];
    batch->context =
        train_prompts_encode(ctx, g->prompts, g->model, in->at[TRAIN_IN_CONTEXT], &g->text_options);
    if (!in->at[TRAIN_IN_CLASS_CONTEXT])
        return;
    was = ag_record(ctx, false);
    train_lora_use(&g->lora, false);
    batch->class_context =
        train_prompts_encode(ctx, g->prompts, g->model, in->at[TRAIN_IN_CLASS_CONTEXT], &g->text_options);
    train_lora_use(&g->lora, true);
    ag_record(ctx, was);
}

/* --- setting up --------------------------------------------------------------------------------------- */

/* What is wrong with the words of the command alone, whatever the model and the data. */
static ag_status check_options(ag_ctx *ctx, const train_ground *g)
{
    const train_options *o = g->options;
    const int64_t most = TRAIN_MAX_ROWS / g->recipe->rows_per_sample;
    const opt_schedule schedule = train_schedule(o, 1);

    train_compute_dtype(ctx, o->mixed_precision);
    if (ag_status_of(ctx) != AG_OK || g->recipe->check(ctx, o) != AG_OK || train_inversion_check(ctx, o) != AG_OK)
        return ag_status_of(ctx);
    if (o->train_batch_size > most)
        return ag_fail(ctx, AG_EINVAL, "--train_batch_size %lld: wanted at most %lld", (long long)o->train_batch_size,
                       (long long)most);
    return opt_schedule_check(ctx, &schedule);
}

static ag_status make_calendar(ag_ctx *ctx, train_ground *g)
{
    const train_options *o = g->options;
    const data_batches_options order = {.seed = g->seed,
                                        .batch = o->train_batch_size,
                                        .shuffle = !o->no_shuffle,
                                        .repeats = g->samples.repeats,
                                        .buckets = g->samples.buckets,
                                        .groups = g->samples.groups};

    if (data_batches_new(&g->batches, ctx, g->samples.n, &order) != AG_OK)
        return ag_status_of(ctx);
    g->calendar = (train_calendar){.n_batches = data_batches_count(g->batches),
                                   .accumulation = o->gradient_accumulation_steps};
    return AG_OK;
}

/* Nothing in a real run. */
static void enter_phase(ag_ctx *ctx, const train_ground *g, int phase)
{
    const train_foresight *f = g->foresight;

    if (!f || !f->with_pictures)
        return;
    if (phase == TRAIN_PHASE_PICTURE)
        f->forecast->stage[TRAIN_STAGE_TEXT] = ag_bytes_touched(ctx);
    else if (phase < 0)
        f->forecast->stage[TRAIN_STAGE_PICTURES] = ag_bytes_touched(ctx);
    if (f->work)
        train_work_watch(f->work, ctx, phase);
}

/* Open the latents of set i, and compute what can be kept. */
static ag_status fill_latents(ag_ctx *ctx, train_ground *g, int i, train_latents_options options, bool *needs_vae)
{
    options.seed += (uint64_t)i << 32; /* sets draw crops and flips of their own */
    options.boxes = g->sets[i]->boxes;
    if (train_latents_new(&g->latents[i], ctx, &options, &g->sets[i]->set, g->model->vae) != AG_OK)
        return ag_status_of(ctx);
    *needs_vae = train_latents_needs_vae(g->latents[i]);
    if (g->foresight && (!g->foresight->with_pictures || i > 0)) /* one picture stands for all */
        return AG_OK;
    return train_latents_fill(ctx, g->latents[i], NULL, needs_vae);
}

/* Encode what stays the same, with only the network in memory that does it. */
static ag_status fill_caches(ag_ctx *ctx, train_ground *g, ag_dtype compute)
{
    const train_options *o = g->options;
    train_latents_options options = {.center_crop = o->center_crop || g->is_assumed,
                                     .random_flip = o->random_flip,
                                     .ignore_exif = o->ignore_exif,
                                     .alpha_masks = o->alpha_mask,
                                     .mask_min = o->mask_min,
                                     .seed = g->seed,
                                     .compute = compute};
    const bool keeps_contexts = !o->train_text_encoder && !train_inversion_is_on(o);
    char *folder = o->cache_dir ? ag_strdup(ctx, o->cache_dir) : ag_printf(ctx, "%s/cache", o->output_dir);
    bool needs_vae = false, held_out_needs = false;

    options.folder = o->no_cache ? NULL : folder;
    enter_phase(ctx, g, TRAIN_PHASE_TEXT);
    if (data_jitter_parse(&options.jitter, ctx, o->color_jitter) == AG_OK &&
        train_prompts_prepare(ctx, g->prompts, g->model, keeps_contexts ? TRAIN_MAX_CONTEXTS : 0) == AG_OK &&
        train_inversion_check_prompts(ctx, g->model, g->prompts, o) == AG_OK) {
        if (train_prompts_are_encoded(g->prompts))
            pipe_drop(g->model, PIPE_TEXT);
        enter_phase(ctx, g, TRAIN_PHASE_PICTURE);
        pipe_add(ctx, g->model, PIPE_VAE);
        for (int i = 0; i < g->n_sets && ag_status_of(ctx) == AG_OK; i++) {
            bool needs = true;
            fill_latents(ctx, g, i, options, &needs);
            needs_vae |= needs;
        }
        train_held_out_fill(ctx, g, options.folder, compute, &held_out_needs);
        enter_phase(ctx, g, -1);
        if (g->model->vae)
            g->scale = nn_vae_config_of(g->model->vae)->scaling_factor;
        if (!needs_vae && !held_out_needs)
            pipe_drop(g->model, PIPE_VAE);
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
static void settle_schedule(train_ground *g)
{
    data_schedule_config *schedule = &g->model->schedule;

    if (g->options->prediction_type != TRAIN_PREDICTION_OF_MODEL)
        schedule->prediction_type =
            g->options->prediction_type == TRAIN_PREDICTION_V ? DATA_V_PREDICTION : DATA_EPSILON;
    else if (!g->model->prediction_known)
        train_note(NULL, "%s does not say what its U-Net predicts; taken: %s (--prediction_type says otherwise)",
                   g->model->path, schedule->prediction_type == DATA_V_PREDICTION ? "v_prediction" : "epsilon");
    if (pipe_settle_schedule(schedule))
        train_note(NULL, "the scheduler's steps_offset becomes 1 and clip_sample false, as for every Stable Diffusion");
}

static int64_t end_of_timesteps(const train_ground *g)
{
    return g->options->max_timestep ? g->options->max_timestep : g->noise.n;
}

static ag_status check_timesteps(ag_ctx *ctx, const train_ground *g)
{
    const int64_t low = g->options->min_timestep, high = end_of_timesteps(g), all = g->noise.n;

    if (low < 0 || low >= high || high > all)
        return ag_fail(ctx, AG_EINVAL, "timesteps from %lld to %lld: wanted --min_timestep below --max_timestep, and "
                       "that at most the model's %lld", (long long)low, (long long)high, (long long)all);
    return AG_OK;
}

static ag_status make_drawer(ag_ctx *ctx, train_ground *g)
{
    const int64_t L = train_latents_channels(g->latents[0]);
    int64_t largest = 0;

    g->drawer = (train_drawer){.seed = g->seed,
                               .noise_offset = g->options->noise_offset,
                               .first_timestep = g->options->min_timestep,
                               .n_timesteps = end_of_timesteps(g),
                               .channels = L,
                               .torch = g->options->torch_rng};
    for (int64_t k = 0; k < g->calendar.n_batches; k++) { /* of any epoch: their shapes are the same */
        const train_batch b = train_ground_batch_at(g, 0, k);
        largest = b.n * b.h * b.w > largest ? b.n * b.h * b.w : largest;
    }
    if (g->drawer.torch)
        g->drawer.values = ag_new(ctx, (size_t)(g->recipe->rows_per_sample * largest * L), sizeof *g->drawer.values,
                                  "draws");
    return ag_status_of(ctx);
}

static pipe_source source_of(const train_options *o)
{
    return (pipe_source){.model = o->pretrained_model_name_or_path,
                         .revision = o->revision,
                         .variant = o->variant,
                         .tokenizer_name = o->tokenizer_name};
}

/* What can be known of the model from its configurations and tables of contents, before hours of encoding and
 * before anything is written. */
static ag_status check_model(ag_ctx *ctx, const train_ground *g)
{
    const train_options *o = g->options;
    const pipe_source source = source_of(o);
    ag_ctx *meta;
    pipe_model *model = NULL;
    train_lora lora = {0};

    if (g->foresight)
        return AG_OK;
    meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META});
    if (!meta)
        return ag_fail(ctx, AG_ENOMEM, "no memory for a context");
    if (pipe_open(&model, meta, &source, PIPE_UNET | PIPE_TEXT) == AG_OK && is_same_folder(model->path, o->output_dir))
        ag_fail(meta, AG_EINVAL, "--output_dir %s is the model's own folder, which a run that ends early would spoil",
                o->output_dir);
    if (ag_status_of(meta) == AG_OK)
        train_lora_new(&lora, meta, o, model);
    if (ag_status_of(meta) != AG_OK)
        ag_fail(ctx, ag_status_of(meta), "%s", ag_message(meta));
    train_lora_free(&lora);
    pipe_close(model);
    ag_ctx_free(meta);
    return ag_status_of(ctx) == AG_OK ? pipe_check(ctx, &source, PIPE_UNET | PIPE_VAE | PIPE_TEXT) : ag_status_of(ctx);
}

static ag_status open_model(ag_ctx *ctx, train_ground *g)
{
    const train_options *o = g->options;
    const ag_dtype compute = train_compute_dtype(ctx, o->mixed_precision);
    pipe_source source = source_of(o);

    source.half_dtype = compute;
    if (o->rank > 0 && compute != AG_F32) /* what adapters stand beside stays frozen */
        source.half_parts = PIPE_UNET | (o->train_text_encoder ? PIPE_TEXT : 0);
    if (ag_status_of(ctx) != AG_OK || pipe_open(&g->model, ctx, &source, PIPE_TEXT | PIPE_TOKENIZER) != AG_OK)
        return ag_status_of(ctx);
    settle_schedule(g);
    if (train_inversion_open(ctx, g->model, o) != AG_OK)
        return ag_status_of(ctx);
    if (pipe_noise_init(&g->noise, ctx, &g->model->schedule) != AG_OK || check_timesteps(ctx, g) != AG_OK ||
        fill_caches(ctx, g, train_vae_dtype(ctx, o->vae_precision, compute)) != AG_OK || /* which may take hours */
        pipe_add(ctx, g->model, PIPE_UNET) != AG_OK)
        return ag_status_of(ctx);
    if (train_lora_new(&g->lora, ctx, o, g->model) != AG_OK ||
        train_objective_init(&g->objective, ctx, o, &g->lora) != AG_OK)
        return ag_status_of(ctx);
    train_diffusion_init(&g->diffusion, o, g->model->unet, &g->noise);
    g->diffusion.unet_options.compute = compute;
    g->text_options = (nn_clip_options){.checkpointing = o->gradient_checkpointing, .compute = compute};
    return make_drawer(ctx, g);
}

train_ground *train_ground_new(ag_ctx *ctx, const train_recipe *recipe, const train_options *options)
{
    train_ground *g = ag_new(ctx, 1, recipe->size, recipe->name);

    if (!g)
        return NULL;
    g->recipe = recipe;
    g->options = options;
    g->seed = (uint64_t)options->seed;
    return g;
}

ag_status train_ground_set_up(ag_ctx *ctx, train_ground *g)
{
    if (check_options(ctx, g) == AG_OK &&
        train_prompts_new(&g->prompts, ctx, (int)g->options->tokenizer_max_length) == AG_OK &&
        check_model(ctx, g) == AG_OK && g->recipe->open(ctx, g) == AG_OK &&
        train_held_out_open(ctx, g) == AG_OK && make_calendar(ctx, g) == AG_OK &&
        train_prepare_output(ctx, g->options) == AG_OK) {
        if (g->options->caption_dropout > 0.0)
            g->empty_prompt = train_prompts_add(ctx, g->prompts, "");
        open_model(ctx, g);
    }
    return ag_status_of(ctx);
}

ag_status train_ground_make_state(ag_ctx *ctx, train_ground *g)
{
    const train_options *o = g->options;
    const opt_config config = train_opt_config(o);
    const opt_schedule schedule =
        train_schedule(o, train_total_updates(&g->calendar, o->max_train_steps, o->num_train_epochs));
    train_part parts[3];
    int n_parts = o->only_embedding ? 0 : train_parts(parts, ctx, o, &g->lora, g->model);

    n_parts += train_inversion_part(parts + n_parts, ctx, o, g->model);
    if (train_state_new(&g->state, ctx, parts, n_parts, &config, &schedule, o->max_grad_norm, o->ema_decay) == AG_OK &&
        g->diffusion.unet_options.compute == AG_F16)
        train_state_scale_loss(ctx, g->state);
    return ag_status_of(ctx);
}

void train_ground_free(train_ground *g)
{
    if (!g)
        return;
    train_state_free(g->state);
    for (int i = 0; i < TRAIN_MAX_SETS; i++)
        train_latents_free(g->latents[i]);
    train_held_out_close(&g->held_out);
    train_prompts_free(g->prompts);
    train_lora_free(&g->lora);
    pipe_close(g->model);
    g->recipe->close(g);
    data_batches_free(g->batches);
    ag_delete(g->drawer.values);
    ag_delete(g);
}

/* --- the run ------------------------------------------------------------------------------------------ */

static ag_status begin(ag_ctx *ctx, void *user, int64_t update)
{
    train_ground *g = user;

    return train_drawer_begin(ctx, &g->drawer, &g->calendar, update, counts_at, g);
}

static ag_status save_lora(ag_ctx *ctx, const train_ground *g, const char *folder)
{
    char *path = ag_printf(ctx, "%s/" TRAIN_LORA_FILE, folder);

    if (path)
        pipe_lora_save(ctx, path, g->lora.unet, g->lora.text, DATA_LORA_DIFFUSERS, NULL, 0);
    ag_delete(path);
    return ag_status_of(ctx);
}

static ag_status save(ag_ctx *ctx, void *user, const char *folder)
{
    train_ground *g = user;

    /* who asked for an average wants it in the model */
    for (int64_t i = 0; g->state->ema && i < g->state->n; i++)
        ag_copy(ctx, g->state->params[i], opt_ema_at(g->state->ema, i));
    if (g->lora.unet)
        save_lora(ctx, g, folder);
    else if (!g->options->only_embedding)
        pipe_save(ctx, g->model, folder, AG_F32);
    return train_inversion_save(ctx, g->model, g->options, folder);
}

ag_status train_ground_run(ag_ctx *ctx, const train_recipe *recipe, const train_options *options, json_t *config,
                           train_foresee foresee)
{
    train_ground *g = train_ground_new(ctx, recipe, options);
    train_method method = {.name = recipe->name, .user = g, .has_instances = recipe->has_instances,
                           .inputs = recipe->inputs, .loss = recipe->loss, .row_name = recipe->row_name, .begin = begin,
                           .validate = train_validate, .validates = train_validates, .save = save};

    if (!g)
        return ag_status_of(ctx);
    if (train_ground_set_up(ctx, g) == AG_OK && train_ground_make_state(ctx, g) == AG_OK) {
        method.calendar = g->calendar;
        train_run(ctx, options, &method, g->state, config);
    }
    train_ground_free(g);
    train_forecast_explain(ctx, options, foresee);
    return ag_status_of(ctx);
}
