/* ground_forecast.c - the forecast of a recipe (train/ground.h): its own code on AG_META. */
#include "autograd/gpu.h"
#include "autograd/op.h"
#include "autograd/ops.h"
#include "train/ground.h"

/* One micro-step and the update after it, watched or not. */
static ag_status foresee_update(ag_ctx *ctx, train_ground *g, const train_moment *moment, int64_t micro, bool watched)
{
    train_work *work = watched ? g->foresight->work : NULL;
    const ag_scope scope = ag_scope_open(ctx);
    train_update unused;
    train_inputs in = {{NULL}};
    ag_tensor *rows;

    if (work)
        train_work_watch(work, ctx, TRAIN_PHASE_MICRO);
    if (g->recipe->inputs(ctx, g, moment, micro, &in) == AG_OK)
        train_state_add(ctx, g->state, g->recipe->loss(ctx, g, &in, &rows), 1.0);
    ag_scope_close(ctx, scope, NULL);
    if (work)
        train_work_watch(work, ctx, TRAIN_PHASE_UPDATE);
    train_state_update(&unused, ctx, g->state);
    if (work)
        train_work_watch(work, ctx, -1);
    return ag_status_of(ctx);
}

static bool same_shape(const train_batch *a, const train_batch *b)
{
    return a->n == b->n && a->h == b->h && a->w == b->w;
}

static ag_status foresee_batch(ag_ctx *ctx, train_ground *g, int64_t k, bool watched)
{
    const train_moment moment = train_moment_of(&g->calendar, k / g->calendar.accumulation);

    return foresee_update(ctx, g, &moment, k % g->calendar.accumulation, watched);
}

/* The largest batch twice, then every other shape that an epoch has (short batches, other buckets), and the
 * largest again: after that memory has seen what it will see. */
static ag_status foresee_updates(ag_ctx *ctx, train_ground *g)
{
    const int64_t n = g->calendar.n_batches;
    train_batch *seen = ag_new(ctx, (size_t)n, sizeof *seen, "batches");
    int64_t n_seen = 0, largest = 0;

    for (int64_t k = 0; seen && k < n; k++) {
        const train_batch b = train_ground_batch_at(g, 0, k), most = train_ground_batch_at(g, 0, largest);
        largest = b.n * b.h * b.w > most.n * most.h * most.w ? k : largest;
    }
    for (int i = 0; seen && i < 2 && ag_status_of(ctx) == AG_OK; i++)
        foresee_batch(ctx, g, largest, i == 1);
    if (seen)
        seen[n_seen++] = train_ground_batch_at(g, 0, largest);
    for (int64_t k = 0; seen && k < n && ag_status_of(ctx) == AG_OK; k++) {
        const train_batch b = train_ground_batch_at(g, 0, k);
        bool is_new = true;
        for (int64_t i = 0; i < n_seen && is_new; i++)
            is_new = !same_shape(&b, &seen[i]);
        if (is_new && foresee_batch(ctx, g, k, false) == AG_OK)
            seen[n_seen++] = b;
    }
    if (ag_status_of(ctx) == AG_OK)
        foresee_batch(ctx, g, largest, false);
    ag_delete(seen);
    return ag_status_of(ctx);
}

/* Parts that are not in memory pass through it to be saved (pipe_save); a LoRA file or an embedding needs none. */
static ag_status foresee_saving(ag_ctx *ctx, train_ground *g)
{
    const bool is_whole = !g->lora.unet && !g->options->only_embedding;
    train_forecast *f = g->foresight->forecast;
    size_t *outside = f->device == AG_CUDA ? &f->host : &f->stage[TRAIN_STAGE_SAVING];
    int64_t largest = 0;

    for (int c = 0; c < DATA_N_COMPONENTS && is_whole && ag_status_of(ctx) == AG_OK; c++) {
        const bool was_open = pipe_params(g->model, (data_component)c) != NULL;
        const nn_params *params;
        if (!was_open && pipe_add(ctx, g->model, 1u << c) != AG_OK)
            break;
        params = pipe_params(g->model, (data_component)c);
        for (int64_t i = 0; i < nn_params_count(params); i++)
            if (nn_params_at(params, i)->numel > largest)
                largest = nn_params_at(params, i)->numel;
        if (!was_open)
            pipe_drop(g->model, 1u << c);
    }
    f->stage[TRAIN_STAGE_SAVING] = ag_bytes_touched(ctx);
    *outside += (size_t)largest * sizeof(float);
    return ag_status_of(ctx);
}

/* What there is to do, from a run that is set up. */
static void count_run(train_forecast *f, train_ground *g)
{
    const train_options *o = g->options;
    const train_calendar *c = &g->calendar;
    const int64_t updates = train_updates_per_epoch(c), micro = c->n_batches;
    size_t *outside = f->device == AG_CUDA ? &f->host : &f->base;

    f->has_pictures = !g->is_assumed;
    for (int i = 0; i < g->n_sets; i++) {
        f->n_pictures += g->sets[i]->set.n;
        f->n_encodings += train_latents_kept(g->latents[i]);
    }
    f->n_prompts = train_prompts_count(g->prompts);
    for (int64_t k = 0; k < micro; k++) {
        const int64_t rows = g->recipe->counts(g, train_ground_batch_at(g, 0, k).n).rows;
        f->rows = rows > f->rows ? rows : f->rows;
    }
    f->n_updates = train_total_updates(c, o->max_train_steps, o->num_train_epochs);
    f->n_micro = (int64_t)((double)f->n_updates * (double)micro / (double)updates + 0.5);
    if (o->checkpointing_steps > 0 && o->checkpointing_steps <= f->n_updates)
        *outside += TRAIN_CHECKPOINT_BYTES;
    *outside += train_prompts_bytes(g->prompts); /* the contexts stay in host memory */
}

static ag_status foresee(ag_ctx *ctx, train_ground *g)
{
    train_forecast *f = g->foresight->forecast;

    if (train_ground_set_up(ctx, g) != AG_OK || g->foresight->with_pictures)
        return ag_status_of(ctx);
    count_run(f, g);
    f->weights = ag_bytes_now(ctx, AG_MODEL);
    if (train_ground_make_state(ctx, g) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < g->state->n; i++)
        f->gradients += ag_nbytes(g->state->grads[i]);
    f->moments = ag_bytes_now(ctx, AG_MODEL) - f->weights - f->gradients;
    if (f->device == AG_CUDA)
        f->host += ag_bytes_now(ctx, AG_OFFLOADED);
    else
        f->moments += ag_bytes_now(ctx, AG_OFFLOADED);
    ag_bytes_reset_peak(ctx);
    if (foresee_updates(ctx, g) != AG_OK)
        return ag_status_of(ctx);
    f->activations = ag_bytes_peak(ctx, AG_STEP);
    f->scratch = ag_bytes_peak(ctx, AG_SCRATCH);
    if (f->device == AG_CUDA && !ag_cuda_of(ctx))
        f->scratch = TRAIN_GPU_SCRATCH_BYTES;
    if (train_validation_foresee(ctx, g) != AG_OK)
        return ag_status_of(ctx);
    f->stage[TRAIN_STAGE_TRAINING] = ag_bytes_touched(ctx);
    return foresee_saving(ctx, g);
}

ag_status train_ground_forecast(train_forecast *out, ag_ctx *ctx, const train_recipe *recipe,
                                const train_options *options, int64_t n_pictures, train_work *work)
{
    const bool on_gpu = ag_ctx_target(ctx) == AG_CUDA;
    bool knows_kernels = false;

    *out = (train_forecast){.device = ag_ctx_target(ctx),
                            .base = on_gpu ? AG_GPU_STAGING_BYTES : TRAIN_BASE_BYTES,
                            .host = on_gpu ? TRAIN_BASE_BYTES + AG_GPU_STAGING_BYTES : 0};
    for (int with_pictures = 1; with_pictures >= 0; with_pictures--) {
        const train_foresight f = {
            .forecast = out, .work = work, .n_pictures = n_pictures, .with_pictures = with_pictures};
        ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){
            .device = AG_META, .stands_for = out->device, .n_threads = ag_ctx_threads(ctx)});
        train_ground *g = meta ? train_ground_new(meta, recipe, options) : NULL;
        knows_kernels = meta && ag_cuda_of(meta);
        if (g) {
            g->foresight = &f;
            foresee(meta, g);
            train_ground_free(g);
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
        if (on_gpu && !knows_kernels)
            out->stage[i] += TRAIN_GPU_SCRATCH_BYTES;
        out->peak = out->stage[i] > out->peak ? out->stage[i] : out->peak;
    }
    return AG_OK;
}
