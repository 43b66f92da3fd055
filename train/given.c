/* given.c - see given.h. */
#include "train/given.h"

#include <math.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "train/nonfinite.h"
#include "train/objective.h"
#include "train/precision.h"

typedef struct run {
    const train_given *given;
    const pipe_model *model;
    bool trains_text;
    pipe_noise noise;
    train_diffusion diffusion;
    train_objective objective;
    nn_clip_options text_options;
    train_lora lora;
    train_state *state;
} run;

static ag_status check_shapes(ag_ctx *ctx, const pipe_model *m, const train_given *g)
{
    const int64_t channels = nn_unet_config_of(m->unet)->in_channels;
    const int64_t positions = nn_clip_text_config_of(m->text)->max_position_embeddings;

    if (g->n_rows < 1 || g->n_rows > TRAIN_MAX_ROWS || g->n_updates < 1)
        return ag_fail(ctx, AG_ESHAPE,
                       "%lld updates of %lld rows: wanted 1 to %d rows, 1 update or more",
                       (long long)g->n_updates, (long long)g->n_rows, TRAIN_MAX_ROWS);
    if (g->channels != channels)
        return ag_fail(ctx, AG_ESHAPE, "latents of %lld channels: the U-Net takes %lld",
                       (long long)g->channels, (long long)channels);
    if (g->n_tokens < 1 || g->n_tokens > positions)
        return ag_fail(ctx, AG_ESHAPE, "prompts of %lld tokens: the text encoder takes 1 to %lld",
                       (long long)g->n_tokens, (long long)positions);
    return AG_OK;
}

/* Rows of update k from [K,R,C,h,w] to [R,h,w,C]. */
static ag_tensor *rows_of(ag_ctx *ctx, const train_given *g, const float *values, int64_t k)
{
    const int64_t dims[] = {g->n_rows, g->channels, g->height, g->width};
    const int64_t n = g->n_rows * g->channels * g->height * g->width;

    return ag_permute(ctx, ag_from_f32(ctx, values + k * n, 4, dims), (int[]){0, 2, 3, 1});
}

/* Of rows first .. first + n - 1 of update k. */
static ag_tensor *contexts_of(ag_ctx *ctx, const run *r, int64_t k, int64_t first, int64_t n)
{
    const train_given *g = r->given;
    const int64_t dims[] = {n, g->n_tokens};
    const int64_t *ids = g->input_ids + (k * g->n_rows + first) * g->n_tokens;
    const bool was = ag_record(ctx, r->trains_text && ag_recording(ctx));
    ag_tensor *context =
        nn_clip_text_forward(ctx, r->model->text, ag_from_i64(ctx, ids, 2, dims), &r->text_options);

    ag_record(ctx, was);
    return context;
}

typedef struct one_loss {
    const run *r;
    int64_t k;
} one_loss;

static ag_tensor *loss_of(ag_ctx *ctx, void *user)
{
    const one_loss *u = user;
    const train_given *g = u->r->given;
    const int64_t half = g->n_rows / 2;
    train_rows rows = {.n = g->n_rows,
                       .latents = rows_of(ctx, g, g->latents, u->k),
                       .noise = rows_of(ctx, g, g->noise, u->k),
                       .timesteps = g->timesteps + u->k * g->n_rows,
                       .context = contexts_of(ctx, u->r, u->k, 0, g->n_rows)};
    ag_tensor *unused;

    if (train_objective_wants_class_context(&u->r->objective)) {
        const bool was = ag_record(ctx, false);
        train_lora_use(&u->r->lora, false);
        rows.class_context = contexts_of(ctx, u->r, u->k, half, half);
        train_lora_use(&u->r->lora, true);
        ag_record(ctx, was);
    }
    return train_objective_loss(ctx, &u->r->objective, &u->r->diffusion, &rows, &unused);
}

static ag_status one_update(ag_ctx *ctx, const run *r, int64_t k, double *loss, double *grad_norm,
                            double *lr)
{
    const ag_scope scope = ag_scope_open(ctx);
    one_loss user = {r, k};
    ag_tensor *t;
    train_update update;
    char what[512];
    float value = 0.0f;

    train_lora_set_step(&r->lora, (uint32_t)k);
    t = loss_of(ctx, &user);
    if (t && ag_read(ctx, t, &value, sizeof value) == AG_OK && !isfinite(value)) {
        train_find_nonfinite(ctx, loss_of, &user, what, sizeof what);
        ag_fail(ctx, AG_ENUMERIC, "update %lld: the loss is not finite; first seen in %s",
                (long long)k + 1, what);
    }
    if (ag_status_of(ctx) == AG_OK)
        train_state_add(ctx, r->state, t, 1.0);
    ag_scope_close(ctx, scope, NULL);
    if (ag_status_of(ctx) == AG_OK && train_state_update(&update, ctx, r->state) == AG_OK) {
        loss[k] = value;
        grad_norm[k] = update.grad_norm;
        lr[k] = update.lr;
    }
    return ag_status_of(ctx);
}

static ag_status make_state(ag_ctx *ctx, run *r, const train_options *o)
{
    const opt_config config = train_opt_config(o);
    const int64_t total = o->max_train_steps > 0 ? o->max_train_steps : r->given->n_updates;
    const opt_schedule schedule = train_schedule(o, total);
    train_part parts[2];
    const int n_parts = train_parts(parts, ctx, o, &r->lora, r->model);

    return train_state_new(&r->state, ctx, parts, n_parts, &config, &schedule, o->max_grad_norm, o->ema_decay);
}

ag_status train_given_run(ag_ctx *ctx, pipe_model *model, const train_options *options,
                          const train_given *given, double *loss, double *grad_norm, double *lr,
                          train_state **state, train_lora *lora)
{
    const ag_dtype compute = train_compute_dtype(ctx, options->mixed_precision);
    run *r = ag_new(ctx, 1, sizeof *r, "training");

    if (!r)
        return ag_status_of(ctx);
    r->given = given;
    r->model = model;
    r->trains_text = options->train_text_encoder;
    if (options->prediction_type != TRAIN_PREDICTION_OF_MODEL)
        model->schedule.prediction_type =
            options->prediction_type == TRAIN_PREDICTION_V ? DATA_V_PREDICTION : DATA_EPSILON;
    if (check_shapes(ctx, model, given) == AG_OK &&
        pipe_noise_init(&r->noise, ctx, &model->schedule) == AG_OK &&
        train_lora_new(&r->lora, ctx, options, model) == AG_OK &&
        train_objective_init(&r->objective, ctx, options, &r->lora) == AG_OK &&
        make_state(ctx, r, options) == AG_OK &&
        (compute != AG_F16 || train_state_scale_loss(ctx, r->state) == AG_OK)) {
        train_diffusion_init(&r->diffusion, options, model->unet, &r->noise);
        r->diffusion.unet_options.compute = compute;
        r->text_options =
            (nn_clip_options){.checkpointing = options->gradient_checkpointing, .compute = compute};
        for (int64_t k = 0; k < given->n_updates && ag_status_of(ctx) == AG_OK; k++)
            one_update(ctx, r, k, loss, grad_norm, lr);
    }
    if (state && ag_status_of(ctx) == AG_OK) {
        *state = r->state;
        *lora = r->lora;
    } else {
        train_state_free(r->state);
        train_lora_free(&r->lora);
    }
    ag_delete(r);
    return ag_status_of(ctx);
}
