/* run.c - see run.h. */
#include "train/run.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/file.h"
#include "data/json.h"
#include "train/checkpoint.h"
#include "train/checkpoint_manifest.h"
#include "train/diffusion.h"
#include "train/nonfinite.h"

/* --- signals --------------------------------------------------------------------------------------- */

/* The one thing a signal handler may touch. */
static volatile sig_atomic_t stop_signal;

static void on_signal(int number)
{
    if (stop_signal)
        _exit(128 + number); /* asked twice: at once, and no file is touched */
    stop_signal = number;
}

static void catch_signals(void)
{
    const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
    struct sigaction action = {.sa_handler = on_signal};

    stop_signal = 0;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaction(numbers[i], &action, NULL);
}

bool train_stop_asked(void)
{
    return stop_signal != 0;
}

/* --- the output folder ------------------------------------------------------------------------------- */

/* Make a folder and try to write into it. */
static ag_status check_place(ag_ctx *ctx, const char *folder)
{
    char *probe;
    FILE *file;

    if (data_folder_make(ctx, folder) != AG_OK)
        return ag_status_of(ctx);
    probe = ag_printf(ctx, "%s/.write-test-%ld", folder, (long)getpid());
    if (!probe)
        return ag_status_of(ctx);
    file = fopen(probe, "wx");
    if (!file)
        ag_fail(ctx, AG_EIO, "%s: cannot be written: %s", folder, strerror(errno));
    else if (fclose(file) != 0 || remove(probe) != 0)
        ag_fail(ctx, AG_EIO, "%s: cannot be written: %s", probe, strerror(errno));
    ag_delete(probe);
    return ag_status_of(ctx);
}

/* Every folder that the run will write to. */
static ag_status check_places(ag_ctx *ctx, const train_options *o)
{
    char *logs = NULL;

    if (check_place(ctx, o->output_dir) == AG_OK && train_log_check(ctx, o->report_to) == AG_OK &&
        strcmp(o->report_to, "none") != 0) {
        logs = train_log_folder(ctx, o->output_dir, o->logging_dir);
        if (logs)
            check_place(ctx, logs);
    }
    ag_delete(logs);
    if (ag_status_of(ctx) == AG_OK && o->cache_dir && !o->no_cache)
        check_place(ctx, o->cache_dir);
    return ag_status_of(ctx);
}

ag_status train_prepare_output(ag_ctx *ctx, const train_options *o)
{
    int64_t newest;

    if (ag_ctx_device(ctx) == AG_META)
        return AG_OK;
    if (check_places(ctx, o) != AG_OK || o->resume_from_checkpoint || o->overwrite_output_dir)
        return ag_status_of(ctx);
    newest = train_checkpoint_newest(ctx, o->output_dir);
    if (newest >= 0)
        return ag_fail(ctx, AG_EINVAL,
                       "%s holds checkpoint-%lld of an earlier run: --resume_from_checkpoint latest goes on from it, "
                       "--overwrite_output_dir starts anew",
                       o->output_dir, (long long)newest);
    return ag_status_of(ctx);
}

/* --- what a checkpoint holds ---------------------------------------------------------------------------- */

static const char LOSS_SCALE[] = "loss_scale";

typedef struct run {
    ag_ctx *ctx;
    const train_options *options;
    const train_method *method;
    train_state *state;
    json_t *config;
    train_log *log;
    int64_t total;
    train_moment pending; /* of the update that has not ended */
    double since;         /* when the one before it ended */
    int64_t given_up;     /* recordings that were given up, and told */
    train_entry *entries;
    char **entry_names; /* those we made */
    int64_t n_entries, n_entry_names;
} run;

static void add_entry(run *r, const char *prefix, const char *name, ag_tensor *tensor)
{
    char *text = ag_printf(r->ctx, "%s%s", prefix, name);

    if (!text)
        return;
    r->entry_names[r->n_entry_names++] = text;
    r->entries[r->n_entries++] = (train_entry){.name = text, .tensor = tensor};
}

static ag_status list_entries(run *r)
{
    const train_state *s = r->state;
    const int64_t n_states = opt_state_count(s->opt), room = 2 * s->n + n_states + 1;
    char name[512];

    r->entries = ag_new(r->ctx, (size_t)room, sizeof *r->entries, "checkpoint");
    r->entry_names = ag_new(r->ctx, (size_t)room, sizeof *r->entry_names, "checkpoint");
    if (!r->entries || !r->entry_names)
        return ag_status_of(r->ctx);
    for (int64_t i = 0; i < s->n; i++)
        add_entry(r, "model.", s->names[i], s->params[i]);
    for (int64_t i = 0; i < n_states; i++) {
        ag_tensor *tensor = opt_state_at(s->opt, i, name, sizeof name);
        add_entry(r, "optimizer.", name, tensor);
    }
    for (int64_t i = 0; s->ema && i < s->n; i++)
        add_entry(r, "ema.", s->names[i], opt_ema_at(s->ema, i));
    if (s->loss_scale)
        add_entry(r, "", LOSS_SCALE, s->loss_scale->now); /* the last, see take_checkpoint() */
    return ag_status_of(r->ctx);
}

int64_t train_resumed_seed(ag_ctx *ctx, const train_options *o)
{
    const char *which = o->resume_from_checkpoint;
    train_manifest manifest = {0};
    char *folder = NULL;
    int64_t seed = -1, newest;

    if (!which || ag_status_of(ctx) != AG_OK)
        return -1;
    if (strcmp(which, "latest") == 0) {
        newest = train_checkpoint_newest(ctx, o->output_dir);
        if (newest >= 0)
            folder = ag_printf(ctx, "%s/checkpoint-%lld", o->output_dir, (long long)newest);
    } else {
        folder = ag_printf(ctx, "%s/%s", o->output_dir, which);
        if (folder && !data_is_folder(folder)) {
            ag_delete(folder);
            folder = ag_strdup(ctx, which);
        }
    }
    if (folder && train_manifest_open(&manifest, ctx, folder) == AG_OK) {
        const json_t *said = json_object_get(json_object_get(manifest.root, "configuration"), "seed");
        seed = json_is_integer(said) ? json_integer_value(said) : -1;
    }
    train_manifest_close(&manifest);
    ag_delete(folder);
    ag_clear(ctx); /* what is wrong with it is for the resuming to say */
    return seed;
}

/* The tensors of a checkpoint. It may be of a run in another precision, on another device: what was scaled goes on scaled,
 * for updates that were skipped count in the optimizer's steps, and a power of two changes no bit of an f32. What was not
 * begins with the first scale where f16 wants one. */
static ag_status take_checkpoint(run *r, const train_manifest *found, json_t **config)
{
    train_state *s = r->state;
    const bool is_scaled = train_manifest_has(found, LOSS_SCALE);
    int64_t n;

    if (is_scaled && !s->loss_scale && train_state_scale_loss(r->ctx, s) == AG_OK)
        add_entry(r, "", LOSS_SCALE, s->loss_scale->now);
    n = r->n_entries - (s->loss_scale && !is_scaled);
    if (ag_status_of(r->ctx) == AG_OK && train_checkpoint_take(r->ctx, found, r->entries, n, config) == AG_OK && is_scaled)
        train_loss_scale_read(r->ctx, s->loss_scale);
    return ag_status_of(r->ctx);
}

/* Take up where a checkpoint ends; or, when told to start anew, delete those of an earlier run, which
 * "latest" would find otherwise. Not before now: until here a wrong path could still end the run. */
static ag_status resume(run *r)
{
    ag_ctx *ctx = r->ctx;
    train_manifest found = {0};
    char *passed_over = NULL;
    const char *key;
    json_t *config = NULL;

    if (!r->options->resume_from_checkpoint)
        return r->options->overwrite_output_dir ? train_checkpoint_clear(ctx, r->options->output_dir) : AG_OK;
    if (train_checkpoint_find(&found, &passed_over, ctx, r->options->output_dir,
                              r->options->resume_from_checkpoint) == AG_OK) {
        if (passed_over)
            train_note(NULL, "not whole, passed over: %s", passed_over);
        if (!found.folder)
            train_note(NULL, "no checkpoint in %s: starting at update 0", r->options->output_dir);
        else if (take_checkpoint(r, &found, &config) == AG_OK) {
            r->state->update = found.update;
            train_note(NULL, "resumed from %s at update %lld", found.folder, (long long)found.update);
            key = train_checkpoint_difference(r->config, config);
            if (key)
                train_note(NULL, "its run had another %s: what follows is not what that run would have done", key);
        }
    }
    json_decref(config);
    train_manifest_close(&found);
    ag_delete(passed_over);
    return ag_status_of(ctx);
}

static ag_status checkpoint(run *r)
{
    return train_checkpoint_write(r->ctx, r->options->output_dir, r->state->update, r->entries, r->n_entries,
                                  r->config, r->options->checkpoints_total_limit);
}

/* --- one update -------------------------------------------------------------------------------------------- */

/* A micro-step that is computed once more. */
typedef struct again {
    const run *r;
    const train_moment *moment;
    int64_t micro;
    int64_t row; /* the first whose loss is not finite; -1: none */
    char what[512];
} again;

static ag_tensor *loss_again(ag_ctx *ctx, void *user)
{
    again *m = user;
    const train_method *method = m->r->method;
    train_inputs in = {{NULL}};
    float values[TRAIN_MAX_ROWS];
    ag_tensor *loss, *rows = NULL;

    if (method->inputs(ctx, method->user, m->moment, m->micro, &in) != AG_OK)
        return NULL;
    loss = method->loss(ctx, method->user, &in, &rows);
    if (loss && rows && ag_read(ctx, rows, values, ag_nbytes(rows)) == AG_OK)
        for (int64_t i = ag_numel(rows) - 1; i >= 0; i--)
            if (!isfinite(values[i]))
                m->row = i;
    return loss;
}

/* To where draws that have a past were before a micro-step. */
static void rewind_draws(const run *r, const train_moment *moment, int64_t micro)
{
    const train_method *m = r->method;

    if (!m->begin || m->begin(r->ctx, m->user, moment->update) != AG_OK)
        return;
    for (int64_t before = 0; before < micro; before++) {
        const ag_scope scope = ag_scope_open(r->ctx);
        train_inputs unused = {{NULL}};
        m->inputs(r->ctx, m->user, moment, before, &unused);
        ag_scope_close(r->ctx, scope, NULL);
    }
}

static ag_status find(ag_ctx *ctx, void *user)
{
    again *m = user;

    rewind_draws(m->r, m->moment, m->micro);
    train_find_nonfinite(ctx, loss_again, m, m->what, sizeof m->what);
    return ag_status_of(ctx);
}

/* Say which row and which tensor made a loss that is not finite. Nothing has changed since it was computed. */
static ag_status blame(const run *r, const train_moment *moment, int64_t micro)
{
    again m = {.r = r, .moment = moment, .micro = micro, .row = -1};
    char who[512] = "no single row";

    ag_replay_beside(r->state->replay, find, &m);
    if (m.row >= 0)
        r->method->row_name(r->method->user, moment, micro, m.row, who, sizeof who);
    return ag_fail(r->ctx, AG_ENUMERIC, "update %lld: the loss of %s is not finite; first seen in %s",
                   (long long)moment->update + 1, who, m.what);
}

/* A short tail of an epoch is divided by the full number all the same. */
static ag_status one_micro_step(const run *r, const train_moment *moment, int64_t micro)
{
    ag_ctx *ctx = r->ctx;
    const train_method *m = r->method;
    const ag_scope scope = ag_scope_open(ctx);
    train_inputs in = {{NULL}};

    if (m->inputs(ctx, m->user, moment, micro, &in) == AG_OK)
        train_state_micro(ctx, r->state, m->loss, m->user, &in,
                          1.0 / (double)r->options->gradient_accumulation_steps);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A shape that cannot be recorded is slower than it might be. */
static void tell_given_up(run *r)
{
    const ag_replay *replay = r->state->replay;

    if (ag_replay_counted(replay).given_up > r->given_up)
        train_note(r->log, "a step is not repeated as a graph but run as it is: %s", ag_replay_reason(replay));
    r->given_up = ag_replay_counted(replay).given_up;
}

/* Learn what came of the pending update, if there is one, and write it down. */
static ag_status finish(run *r)
{
    train_log_row row = {.update = r->pending.update + 1, .epoch = r->pending.epoch};
    train_outcome outcome;

    if (!r->state->is_pending || train_state_end(&outcome, r->ctx, r->state) != AG_OK)
        return ag_status_of(r->ctx);
    if (outcome.nonfinite >= 0)
        return blame(r, &r->pending, outcome.nonfinite);
    row.loss = outcome.loss;
    row.lr = outcome.update.lr;
    row.grad_norm = outcome.update.grad_norm;
    row.seconds = now() - r->since;
    r->since += row.seconds;
    row.loss_scale = r->state->loss_scale ? r->state->loss_scale->scale : 0.0;
    if (outcome.update.was_skipped)
        train_note(r->log, "update %lld: a gradient is not finite in f16, skipped; the loss scale is %g now",
                   (long long)row.update, row.loss_scale);
    tell_given_up(r);
    if (train_log_add(r->log, r->ctx, &row) == AG_OK && r->method->has_instances)
        train_log_scalar(r->log, r->ctx, "instance_loss", row.update, row.loss);
    if (!isnan(outcome.update.d))
        train_log_scalar(r->log, r->ctx, "prodigy_d", row.update, outcome.update.d);
    return ag_status_of(r->ctx);
}

/* Queue an update. The one before it ends when this one's micro-steps are queued, so that a GPU that works behind
 * has something to do; where nobody works behind, this one ends too. */
static ag_status one_update(run *r)
{
    const train_moment moment = train_moment_of(&r->method->calendar, r->state->update);

    for (int64_t micro = 0; micro < moment.n_micro; micro++)
        if (one_micro_step(r, &moment, micro) != AG_OK)
            return ag_status_of(r->ctx);
    if (finish(r) != AG_OK || train_state_begin(r->ctx, r->state) != AG_OK)
        return ag_status_of(r->ctx);
    r->pending = moment;
    return train_state_is_here(r->state) ? finish(r) : AG_OK;
}

static bool is_due(const run *r, int64_t every)
{
    return every > 0 && r->state->update % every == 0;
}

typedef struct validation {
    const run *r;
    bool is_end;
} validation;

static ag_status do_validate(ag_ctx *ctx, void *user)
{
    const validation *v = user;

    return v->r->method->validate(ctx, v->r->method->user, v->r->log, v->r->state->update, v->is_end);
}

static ag_status validate(run *r, bool is_end)
{
    validation v = {.r = r, .is_end = is_end};

    return r->method->validate ? ag_replay_beside(r->state->replay, do_validate, &v) : AG_OK;
}

/* With a checkpoint, unless it has just been written. */
static ag_status stop(run *r, bool is_saved)
{
    if (!is_saved && checkpoint(r) != AG_OK)
        return ag_status_of(r->ctx);
    return ag_fail(r->ctx, AG_ESTOPPED, "stopped by signal %d after update %lld; checkpoint-%lld is saved",
                   (int)stop_signal, (long long)r->state->update, (long long)r->state->update);
}

/* Is there something between this update and the next that must know how it ended? */
static bool is_pause(const run *r)
{
    const train_method *m = r->method;

    return stop_signal || r->state->update == r->total || is_due(r, r->options->checkpointing_steps) ||
           (m->validates && m->validates(m->user, r->state->update));
}

/* Checkpoint, validation, a signal. */
static ag_status pause_run(run *r)
{
    bool is_saved = false;

    if (finish(r) != AG_OK)
        return ag_status_of(r->ctx);
    if (!stop_signal && is_due(r, r->options->checkpointing_steps)) {
        if (checkpoint(r) != AG_OK)
            return ag_status_of(r->ctx);
        is_saved = true;
    }
    if (!stop_signal && validate(r, false) != AG_OK)
        return ag_status_of(r->ctx);
    r->since = now();
    return stop_signal ? stop(r, is_saved) : AG_OK;
}

static ag_status loop(run *r)
{
    if (r->state->update == 0 && validate(r, false) != AG_OK)
        return ag_status_of(r->ctx);
    r->since = now();
    while (r->state->update < r->total)
        if (one_update(r) != AG_OK || (is_pause(r) && pause_run(r) != AG_OK))
            return ag_status_of(r->ctx);
    return AG_OK;
}

static ag_status write_config(const run *r)
{
    char *path = ag_printf(r->ctx, "%s/model_config.json", r->options->output_dir);
    ag_status status = path ? data_json_write(r->ctx, path, r->config) : ag_status_of(r->ctx);

    ag_delete(path);
    return status;
}

ag_status train_run(ag_ctx *ctx, const train_options *options, const train_method *method, train_state *state,
                    json_t *config)
{
    run r = {.ctx = ctx, .options = options, .method = method, .state = state, .config = config};

    r.total = train_total_updates(&method->calendar, options->max_train_steps, options->num_train_epochs);
    catch_signals();
    if (write_config(&r) == AG_OK && list_entries(&r) == AG_OK && resume(&r) == AG_OK &&
        (!method->begin || method->begin(ctx, method->user, state->update) == AG_OK) &&
        train_state_expect(ctx, state, options->gradient_accumulation_steps) == AG_OK &&
        train_log_new(&r.log, ctx, options->output_dir, options->logging_dir, options->report_to, method->name,
                      state->update, r.total) == AG_OK &&
        loop(&r) == AG_OK && method->save(ctx, method->user, options->output_dir) == AG_OK)
        validate(&r, true);
    train_log_free(r.log);
    for (int64_t i = 0; i < r.n_entry_names; i++)
        ag_delete(r.entry_names[i]);
    ag_delete(r.entry_names);
    ag_delete(r.entries);
    return ag_status_of(ctx);
}
