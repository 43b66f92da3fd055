/* pretrain.c - see pretrain.h. */
#include "train/pretrain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/faces.h"
#include "data/file.h"
#include "pipeline/pipeline.h"
#include "pipeline/presets.h"
#include "train/diffusion.h"
#include "train/draws.h"
#include "train/latents.h"
#include "train/prompts.h"
#include "train/run.h"

/* A linear-near-zero error is quadratic below this difference: the VAE's loss. */
static const double VAE_LOSS_C = 0.02;

typedef struct pretrain {
    const train_pretrain_options *options;
    uint64_t seed;
    int64_t resolution;
    pipe_model *model;
    data_canvas *canvas;
    float *pixels; /* of a batch */
    train_state *state;
    train_calendar calendar;
    int64_t batch; /* faces of a micro-step */

    /* the U-Net's set */
    float *moments; /* [faces, h, w, 2L] */
    int64_t side, channels;
    int64_t *captions; /* [faces] */
    int64_t empty;     /* the prompt "" */
    train_prompts *prompts;
    pipe_noise noise;
    train_diffusion diffusion;
} pretrain;

/* Draw face `index` of the set into one picture of [R,R,3] in -1..1. */
static void draw_face(const pretrain *p, int64_t index, float *to)
{
    data_faces_options set = data_faces_defaults();
    data_face_params face;
    const float *rgb;

    set.seed = p->seed;
    set.count = index + 1;
    face = data_faces_get(&set, index);
    data_face_paint(p->canvas, &face);
    rgb = data_canvas_rgb(p->canvas);
    for (int64_t i = 0; i < p->resolution * p->resolution * 3; i++)
        to[i] = 2.0f * fminf(fmaxf(rgb[i], 0.0f), 1.0f) - 1.0f;
}

static ag_tensor *draw_faces(ag_ctx *ctx, const pretrain *p, int64_t first, int64_t n)
{
    const int64_t R = p->resolution;

    for (int64_t i = 0; i < n; i++)
        draw_face(p, first + i, p->pixels + i * R * R * 3);
    return ag_from_f32(ctx, p->pixels, 4, (int64_t[]){n, R, R, 3});
}

/* The first face of a micro-step; each shows new ones. */
static int64_t first_face(const pretrain *p, const train_moment *moment, int64_t micro)
{
    return (moment->epoch * p->calendar.n_batches + train_batch_of(&p->calendar, moment, micro)) * p->batch;
}

static void row_name(void *user, const train_moment *moment, int64_t micro, int64_t row, char *text, size_t size)
{
    const pretrain *p = user;

    snprintf(text, size, "face %lld", (long long)(first_face(p, moment, micro) + row));
}

/* The options of a stage, which is an ordinary run in a folder of its own. */
static train_options stage_options(const train_pretrain_options *o, const char *folder, int64_t steps, double lr)
{
    return (train_options){.output_dir = folder, .logging_dir = "logs", .report_to = "tensorboard", .seed = o->seed,
                           .max_train_steps = steps, .num_train_epochs = 1, .gradient_accumulation_steps = 1,
                           .checkpointing_steps = o->checkpointing_steps, .checkpoints_total_limit = 2,
                           .resume_from_checkpoint = o->resume_from_checkpoint,
                           .overwrite_output_dir = o->overwrite_output_dir, .learning_rate = lr,
                           .lr_scheduler = OPT_COSINE, .lr_warmup_steps = o->lr_warmup_steps, .lr_num_cycles = 1,
                           .lr_power = 1, .adam_beta1 = 0.9, .adam_beta2 = 0.99, .adam_weight_decay = 1e-3,
                           .adam_epsilon = 1e-8, .max_grad_norm = 1.0, .loss_type = AG_LOSS_L2};
}

static ag_status run_stage(ag_ctx *ctx, pretrain *p, const char *name, const train_part *parts, int n_parts,
                           int64_t steps, double lr, double ema_decay, const train_method *method, json_t *config)
{
    char *folder = ag_printf(ctx, "%s/%s", p->options->output_dir, name);
    const train_options o = stage_options(p->options, folder, steps, lr);
    const opt_config optimizer = train_opt_config(&o);
    const opt_schedule schedule = train_schedule(&o, steps);

    for (int i = 0; i < n_parts && folder; i++)
        nn_params_train(ctx, parts[i].params, NULL, true);
    if (folder && train_prepare_output(ctx, &o) == AG_OK &&
        train_state_new(&p->state, ctx, parts, n_parts, &optimizer, &schedule, o.max_grad_norm, ema_decay) == AG_OK) {
        p->calendar = method->calendar;
        train_run(ctx, &o, method, p->state, config);
    }
    train_state_free(p->state);
    p->state = NULL;
    ag_delete(folder);
    return ag_status_of(ctx);
}

/* --- the VAE ---------------------------------------------------------------------------------------- */

enum { IN_PIXELS, IN_VAE_NOISE };

static ag_status vae_inputs(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, train_inputs *in)
{
    pretrain *p = user;
    const int64_t dims[] = {p->side, p->side, p->channels};

    in->at[IN_PIXELS] = draw_faces(ctx, p, first_face(p, moment, micro), p->batch);
    in->at[IN_VAE_NOISE] = train_draw_normals(ctx, p->seed, AG_DRAW_POSTERIOR,
                                              train_draw_step(&p->calendar, moment, micro), p->batch, 3, dims);
    return ag_status_of(ctx);
}

static ag_tensor *vae_loss(ag_ctx *ctx, void *user, const train_inputs *in, ag_tensor **rows)
{
    const pretrain *p = user;
    const double latents = (double)(p->side * p->side * p->channels);
    ag_tensor *x = in->at[IN_PIXELS];
    ag_tensor *moments = nn_vae_encode(ctx, p->model->vae, x, NULL);
    ag_tensor *z = nn_vae_sample(ctx, p->model->vae, moments, in->at[IN_VAE_NOISE]);
    ag_tensor *error = ag_row_loss(ctx, AG_LOSS_SMOOTH_L1, nn_vae_decode(ctx, p->model->vae, z, NULL), x, VAE_LOSS_C);
    ag_tensor *kl = ag_scale(ctx, nn_vae_kl(ctx, p->model->vae, moments), p->options->kl_weight / latents);

    *rows = ag_add(ctx, error, kl);
    return ag_mean(ctx, *rows, AG_ALL_AXES, false);
}

static char *vae_folder(ag_ctx *ctx, const pretrain *p)
{
    return ag_printf(ctx, "%s/vae", p->options->output_dir);
}

/* Nothing: the folder is written once the scale of the latents is known. */
static ag_status save_nothing(ag_ctx *ctx, void *user, const char *folder)
{
    (void)user;
    (void)folder;
    return ag_status_of(ctx);
}

/* 1 / standard deviation of sampled latents of a few hundred faces. */
static ag_status measure_scale(double *scale, ag_ctx *ctx, pretrain *p)
{
    enum { FACES = 512 };
    const int64_t values = p->side * p->side * p->channels;
    float *mean = ag_new(ctx, (size_t)(2 * values), sizeof *mean, "latents");
    double sum = 0.0, squares = 0.0;
    const bool was = ag_record(ctx, false);

    for (int64_t f = 0; f < FACES && mean && ag_status_of(ctx) == AG_OK; f++) {
        const ag_scope scope = ag_scope_open(ctx);
        ag_tensor *moments = nn_vae_encode(ctx, p->model->vae, draw_faces(ctx, p, f, 1), NULL);
        if (moments && ag_read(ctx, moments, mean, ag_nbytes(moments)) == AG_OK)
            for (int64_t i = 0; i < p->side * p->side; i++)
                for (int64_t c = 0; c < p->channels; c++) {
                    const double m = mean[i * 2 * p->channels + c], v = exp(mean[i * 2 * p->channels + p->channels + c]);
                    sum += m;
                    squares += m * m + v;
                }
        ag_scope_close(ctx, scope, NULL);
    }
    ag_record(ctx, was);
    ag_delete(mean);
    sum /= (double)(FACES * values);
    squares /= (double)(FACES * values);
    *scale = 1.0 / sqrt(squares - sum * sum);
    return ag_status_of(ctx);
}

static ag_status train_vae(ag_ctx *ctx, pretrain *p, const pipe_preset *preset, json_t *config)
{
    const train_pretrain_options *o = p->options;
    const train_method method = {.name = "vae", .user = p, .inputs = vae_inputs, .loss = vae_loss,
                                 .row_name = row_name, .save = save_nothing,
                                 .calendar = {.n_batches = o->vae_steps, .accumulation = 1}};
    nn_vae_config vae = preset->vae;
    char *folder = vae_folder(ctx, p);
    train_part part;

    if (!folder || pipe_new(&p->model, ctx, NULL, &vae, NULL, &preset->schedule, p->seed) != AG_OK) {
        ag_delete(folder);
        return ag_status_of(ctx);
    }
    p->batch = o->vae_batch;
    part = (train_part){.params = pipe_params(p->model, DATA_VAE), .prefix = "vae."};
    if (run_stage(ctx, p, "stage-vae", &part, 1, o->vae_steps, o->vae_learning_rate, 0.0, &method, config) == AG_OK &&
        measure_scale(&vae.scaling_factor, ctx, p) == AG_OK &&
        pipe_save_component(ctx, p->model, folder, DATA_VAE, AG_F32) == AG_OK) {
        train_note(NULL, "latents are scaled by %.5f", vae.scaling_factor);
        data_vae_config_write(ctx, folder, &vae);
    }
    pipe_close(p->model);
    p->model = NULL;
    ag_delete(folder);
    return ag_status_of(ctx);
}

/* --- U-Net and text encoder --------------------------------------------------------------------------- */

enum { IN_MOMENTS, IN_POSTERIOR, IN_NOISE, IN_TIMES, IN_PROMPTS };

static ag_status unet_inputs(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, train_inputs *in)
{
    pretrain *p = user;
    const uint32_t step = train_draw_step(&p->calendar, moment, micro);
    const int64_t dims[] = {p->side, p->side, p->channels}, values = p->side * p->side * 2 * p->channels;
    int64_t timesteps[TRAIN_MAX_ROWS], prompts[TRAIN_MAX_ROWS];
    float *host = p->pixels; /* large enough: a picture has more values than its latents */

    for (int64_t r = 0; r < p->batch; r++) {
        const ag_draw which = {.seed = p->seed, .purpose = AG_DRAW_ORDER, .step = step, .sample = (uint32_t)r};
        const int64_t face = ag_draw_integer(&which, 0, p->options->faces);
        memcpy(host + r * values, p->moments + face * values, (size_t)values * sizeof *host);
        timesteps[r] = train_draw_timestep(p->seed, step, r, 0, p->noise.n);
        prompts[r] = train_draw_drops(p->seed, step, r, p->options->caption_dropout) ? p->empty : p->captions[face];
    }
    in->at[IN_MOMENTS] = ag_from_f32(ctx, host, 4, (int64_t[]){p->batch, p->side, p->side, 2 * p->channels});
    in->at[IN_POSTERIOR] = train_draw_normals(ctx, p->seed, AG_DRAW_POSTERIOR, step, p->batch, 3, dims);
    in->at[IN_NOISE] = train_draw_normals(ctx, p->seed, AG_DRAW_NOISE, step, p->batch, 3, dims);
    in->at[IN_TIMES] = train_diffusion_times(ctx, &p->diffusion, timesteps, p->batch);
    in->at[IN_PROMPTS] = train_prompts_given(ctx, p->prompts, p->model, prompts, p->batch);
    return ag_status_of(ctx);
}

static ag_tensor *unet_loss(ag_ctx *ctx, void *user, const train_inputs *in, ag_tensor **rows)
{
    const pretrain *p = user;
    const double scale = nn_vae_config_of(p->model->vae)->scaling_factor;
    const train_rows batch = {
        .n = p->batch,
        .latents = train_latents_sample(ctx, in->at[IN_MOMENTS], in->at[IN_POSTERIOR], scale),
        .noise = in->at[IN_NOISE],
        .times = in->at[IN_TIMES],
        .context = train_prompts_encode(ctx, p->prompts, p->model, in->at[IN_PROMPTS], NULL),
    };

    *rows = train_diffusion_loss(ctx, &p->diffusion, &batch);
    return ag_mean(ctx, *rows, AG_ALL_AXES, false);
}

/* The averaged weights become the model's, and its vocabulary is made ready for words it has not read. */
static ag_status finish_unet(ag_ctx *ctx, void *user, const char *folder)
{
    pretrain *p = user;

    (void)folder;
    for (int64_t i = 0; p->state->ema && i < p->state->n; i++)
        ag_copy(ctx, p->state->params[i], opt_ema_at(p->state->ema, i));
    return train_prompts_average_unread(ctx, p->prompts, p->model);
}

/* Draw the set once, keep posteriors and captions. */
static ag_status make_set(ag_ctx *ctx, pretrain *p)
{
    const int64_t n = p->options->faces, values = p->side * p->side * 2 * p->channels;
    const bool was = ag_record(ctx, false);

    p->moments = ag_new(ctx, (size_t)(n * values), sizeof *p->moments, "latents of the set");
    p->captions = ag_new(ctx, (size_t)n, sizeof *p->captions, "captions");
    if (p->moments && p->captions && train_prompts_new(&p->prompts, ctx, 0) == AG_OK)
        p->empty = train_prompts_add(ctx, p->prompts, "");
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
        const ag_scope scope = ag_scope_open(ctx);
        data_faces_options set = data_faces_defaults();
        char caption[DATA_CAPTION_MAX];
        ag_tensor *both;
        data_face_params face;
        set.seed = p->seed;
        set.count = i + 1;
        face = data_faces_get(&set, i);
        data_face_caption(caption, sizeof caption, &face, p->seed + (uint64_t)i);
        p->captions[i] = train_prompts_add(ctx, p->prompts, caption);
        both = nn_vae_encode(ctx, p->model->vae, draw_faces(ctx, p, i, 1), NULL);
        both = ag_concat(ctx, nn_vae_mean(ctx, p->model->vae, both), nn_vae_logvar(ctx, p->model->vae, both), 3);
        ag_read(ctx, both, p->moments + i * values, (size_t)values * sizeof *p->moments);
        ag_scope_close(ctx, scope, NULL);
    }
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

/* A fresh U-Net and text encoder beside the trained VAE and a tokenizer. */
static ag_status open_for_unet(ag_ctx *ctx, pretrain *p, const pipe_preset *preset)
{
    const pipe_source source = {.model = p->options->output_dir};
    pipe_model *trained = NULL;
    char *folder = ag_printf(ctx, "%s/tokenizer", p->options->output_dir);

    if (folder && data_folder_make(ctx, folder) == AG_OK) {
        data_tokenizer *given = NULL;
        if (!p->options->tokenizer)
            data_tokenizer_write_small(ctx, folder);
        else if (data_tokenizer_open(&given, ctx, p->options->tokenizer) == AG_OK)
            data_tokenizer_copy(given, ctx, folder);
        data_tokenizer_close(given);
    }
    if (ag_status_of(ctx) == AG_OK &&
        pipe_new(&p->model, ctx, &preset->unet, NULL, &preset->text, &preset->schedule, p->seed) == AG_OK &&
        pipe_open(&trained, ctx, &source, PIPE_VAE) == AG_OK) {
        p->model->vae = trained->vae;
        trained->vae = NULL;
        data_tokenizer_open(&p->model->tokenizer, ctx, folder);
    }
    pipe_close(trained);
    ag_delete(folder);
    return ag_status_of(ctx);
}

static ag_status train_unet(ag_ctx *ctx, pretrain *p, const pipe_preset *preset, json_t *config)
{
    const train_pretrain_options *o = p->options;
    const train_options plain = {.loss_type = AG_LOSS_L2};
    const train_method method = {.name = "unet", .user = p, .inputs = unet_inputs, .loss = unet_loss,
                                 .row_name = row_name, .save = finish_unet,
                                 .calendar = {.n_batches = o->unet_steps, .accumulation = 1}};
    train_part parts[2];

    if (open_for_unet(ctx, p, preset) != AG_OK || pipe_noise_init(&p->noise, ctx, &preset->schedule) != AG_OK ||
        make_set(ctx, p) != AG_OK || train_prompts_prepare(ctx, p->prompts, p->model, 0) != AG_OK)
        return ag_status_of(ctx);
    p->batch = o->unet_batch;
    train_diffusion_init(&p->diffusion, &plain, p->model->unet, &p->noise);
    parts[0] = (train_part){.params = pipe_params(p->model, DATA_UNET), .prefix = "unet."};
    parts[1] = (train_part){.params = pipe_params(p->model, DATA_TEXT_ENCODER), .prefix = "text_encoder."};
    return run_stage(ctx, p, "stage-unet", parts, 2, o->unet_steps, o->unet_learning_rate, o->ema_decay, &method, config);
}

ag_status train_pretrain(ag_ctx *ctx, const train_pretrain_options *o, json_t *config)
{
    static const ag_dtype DTYPES[] = {AG_F32, AG_F16, AG_BF16};
    const int64_t batch = o->vae_batch > o->unet_batch ? o->vae_batch : o->unet_batch;
    pretrain *p = ag_new(ctx, 1, sizeof *p, "pretrain");
    char *done = NULL;
    pipe_preset preset;

    if (!p)
        return ag_status_of(ctx);
    pipe_preset_get(&preset, o->preset);
    p->options = o;
    p->seed = (uint64_t)o->seed;
    p->side = preset.unet.sample_size;
    p->channels = preset.vae.latent_channels;
    p->resolution = p->side << (preset.vae.n_levels - 1);
    p->pixels = ag_new(ctx, (size_t)(batch * p->resolution * p->resolution * 3), sizeof *p->pixels, "pictures");
    done = ag_printf(ctx, "%s/vae/config.json", o->output_dir);
    if (batch > TRAIN_MAX_ROWS)
        ag_fail(ctx, AG_EINVAL, "a batch of %lld: wanted at most %d", (long long)batch, TRAIN_MAX_ROWS);
    if (ag_status_of(ctx) == AG_OK && data_canvas_new(&p->canvas, ctx, p->resolution, p->resolution) == AG_OK) {
        if (!(o->resume_from_checkpoint && data_is_file(done)))
            train_vae(ctx, p, &preset, config);
        if (ag_status_of(ctx) == AG_OK && train_unet(ctx, p, &preset, config) == AG_OK)
            pipe_save(ctx, p->model, o->output_dir, DTYPES[o->save_dtype]);
    }
    train_prompts_free(p->prompts);
    pipe_close(p->model);
    data_canvas_free(p->canvas);
    ag_delete(p->moments);
    ag_delete(p->captions);
    ag_delete(p->pixels);
    ag_delete(done);
    ag_delete(p);
    return ag_status_of(ctx);
}
