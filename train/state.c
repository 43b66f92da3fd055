/* state.c - see state.h. */
#include "train/state.h"

#include <math.h>

#include "autograd/grad.h"
#include "autograd/ops.h"

/* What the optimizer is told beside tensors and names. */
typedef struct told {
    opt_group *groups;
    opt_layout *layouts;
} told;

static opt_layout layout_of(const nn_param *param)
{
    opt_layout l = {.n_dims = param->n_dims, .channels_last = param->layout == NN_OIHW};

    for (int i = 0; i < param->n_dims; i++)
        l.dims[i] = param->dims[i];
    return l;
}

static void add_param(train_state *s, ag_ctx *ctx, const train_part *part, const nn_param *param, told *more)
{
    s->params[s->n] = param->value;
    s->published[s->n] = param;
    s->names[s->n] = ag_printf(ctx, "%s%s", part->prefix, param->name);
    s->grads[s->n] = ag_full(ctx, AG_MODEL, 0.0, ag_ndim(param->value), ag_dims(param->value));
    more->groups[s->n] = part->group ? part->group(part->user, param) : (opt_group){1.0, 1.0};
    more->layouts[s->n] = layout_of(param);
    s->n++;
}

static ag_status gather(train_state *s, ag_ctx *ctx, const train_part *parts, int n_parts, told *more)
{
    int64_t room = 0;

    for (int p = 0; p < n_parts; p++)
        room += nn_params_count(parts[p].params);
    s->params = ag_new(ctx, (size_t)room, sizeof *s->params, "training state");
    s->grads = ag_new(ctx, (size_t)room, sizeof *s->grads, "training state");
    s->names = ag_new(ctx, (size_t)room, sizeof *s->names, "training state");
    s->published = ag_new(ctx, (size_t)room, sizeof *s->published, "training state");
    more->groups = ag_new(ctx, (size_t)room, sizeof *more->groups, "training state");
    more->layouts = ag_new(ctx, (size_t)room, sizeof *more->layouts, "training state");
    for (int p = 0; p < n_parts && ag_status_of(ctx) == AG_OK; p++)
        for (int64_t i = 0; i < nn_params_count(parts[p].params) && ag_status_of(ctx) == AG_OK; i++) {
            const nn_param *param = nn_params_at(parts[p].params, i);
            if (param->trainable)
                add_param(s, ctx, &parts[p], param, more);
        }
    if (ag_status_of(ctx) == AG_OK && s->n == 0)
        return ag_fail(ctx, AG_EINVAL, "nothing to train: no parameter is trainable");
    return ag_status_of(ctx);
}

static ag_status make_optimizer(train_state *s, ag_ctx *ctx, const train_part *parts, int n_parts,
                                const opt_config *config)
{
    told more = {NULL, NULL};

    if (gather(s, ctx, parts, n_parts, &more) == AG_OK) {
        const opt_params params = {.n = s->n,
                                   .tensors = s->params,
                                   .names = (const char *const *)s->names,
                                   .groups = more.groups,
                                   .layouts = more.layouts};
        opt_new(&s->opt, ctx, config, &params);
    }
    ag_delete(more.groups);
    ag_delete(more.layouts);
    return ag_status_of(ctx);
}

/* Mail: what the optimizer saw, then the losses. */
static ag_status make_mail(ag_ctx *ctx, train_state *s, int64_t n_micro)
{
    for (int i = 0; i < 2 && ag_status_of(ctx) == AG_OK; i++) {
        ag_mail_free(s->mail[i]);
        s->mail[i] = NULL;
        ag_mail_new(&s->mail[i], ctx, OPT_SIGHT_BYTES + (size_t)n_micro * sizeof(float));
    }
    s->n_micro = n_micro;
    return ag_status_of(ctx);
}

ag_status train_state_new(train_state **out, ag_ctx *ctx, const train_part *parts, int n_parts,
                          const opt_config *config, const opt_schedule *schedule, double max_grad_norm,
                          double ema_decay)
{
    train_state *s = ag_new(ctx, 1, sizeof *s, "training state");

    if (!s)
        return ag_status_of(ctx);
    s->schedule = *schedule;
    s->max_grad_norm = max_grad_norm;
    if (opt_schedule_check(ctx, schedule) == AG_OK && make_optimizer(s, ctx, parts, n_parts, config) == AG_OK &&
        ema_decay > 0.0)
        opt_ema_new(&s->ema, ctx, s->params, s->n, ema_decay, config->offload);
    if (ag_status_of(ctx) == AG_OK && make_mail(ctx, s, 1) == AG_OK)
        ag_replay_new(&s->replay, ctx, NULL);
    if (ag_status_of(ctx) != AG_OK) {
        train_state_free(s);
        return ag_status_of(ctx);
    }
    *out = s;
    return AG_OK;
}

void train_state_free(train_state *s)
{
    if (!s)
        return;
    ag_replay_free(s->replay);
    for (int i = 0; i < 2; i++)
        ag_mail_free(s->mail[i]);
    opt_free(s->opt);
    opt_ema_free(s->ema);
    train_loss_scale_free(s->loss_scale);
    for (int64_t i = 0; i < s->n; i++) {
        ag_release(s->grads[i]);
        ag_delete(s->names[i]);
    }
    ag_delete(s->params);
    ag_delete(s->grads);
    ag_delete(s->names);
    ag_delete(s->published);
    ag_delete(s);
}

/* weight + 0 loss: a loss that is not finite leaves no gradient finite, whatever the chain behind it does. */
static ag_tensor *cotangent_of(ag_ctx *ctx, const train_state *s, ag_tensor *loss, double weight)
{
    const bool was = ag_record(ctx, false);
    ag_tensor *cotangent = ag_affine(ctx, loss, 0.0, weight);

    if (s->loss_scale)
        cotangent = ag_mul(ctx, cotangent, train_loss_scale_factor(ctx, s->loss_scale));
    ag_record(ctx, was);
    return cotangent;
}

ag_status train_state_add(ag_ctx *ctx, train_state *s, ag_tensor *loss, double weight)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *cotangent = cotangent_of(ctx, s, loss, weight);

    ag_grad(ctx, &loss, &cotangent, 1, s->params, s->grads, (int)s->n, 0);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

/* --- what is repeated ------------------------------------------------------------------------------ */

enum { MICRO_STEP, UPDATE, AVERAGE }; /* kinds of work */

typedef struct micro_step {
    train_state *state;
    train_loss loss;
    void *user;
    double weight;
} micro_step;

static void do_micro_step(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    const micro_step *m = user;
    train_inputs inputs;
    ag_tensor *rows = NULL;

    for (int i = 0; i < TRAIN_MAX_INPUTS; i++)
        inputs.at[i] = in[i];
    out[0] = m->loss(ctx, m->user, &inputs, &rows);
    if (out[0])
        train_state_add(ctx, m->state, out[0], m->weight);
}

static void do_update(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    train_state *s = user;

    (void)in;
    (void)out;
    opt_step(ctx, s->opt, s->grads, s->max_grad_norm);
    if (s->loss_scale)
        train_loss_scale_step(ctx, s->loss_scale, opt_norm(s->opt));
    ag_bundle_begin(ctx);
    for (int64_t i = 0; i < s->n; i++)
        ag_fill_(ctx, s->grads[i], 0.0);
    ag_bundle_end(ctx);
}

static void do_average(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    train_state *s = user;

    (void)in;
    (void)out;
    opt_ema_step(ctx, s->ema);
}

ag_status train_state_scale_loss(ag_ctx *ctx, train_state *s)
{
    return train_loss_scale_new(&s->loss_scale, ctx);
}

/* --- updates --------------------------------------------------------------------------------------- */

ag_status train_state_expect(ag_ctx *ctx, train_state *s, int64_t n_micro)
{
    return n_micro > s->n_micro ? make_mail(ctx, s, n_micro) : ag_status_of(ctx);
}

/* The mail of the update that is being made: its number decides. */
static ag_mail *mail_of(const train_state *s, int64_t update)
{
    return s->mail[update % 2];
}

ag_status train_state_micro(ag_ctx *ctx, train_state *s, train_loss loss, void *user, const train_inputs *in,
                            double weight)
{
    micro_step m = {.state = s, .loss = loss, .user = user, .weight = weight};
    const ag_replay_work work = {.kind = MICRO_STEP, .fn = do_micro_step, .user = &m,
                                 .in = in->at, .n_in = TRAIN_MAX_INPUTS, .n_out = 1};
    ag_tensor *out[1];

    if (s->n_losses == s->n_micro)
        return ag_fail(ctx, AG_EINVAL, "more than %lld micro-steps of an update", (long long)s->n_micro);
    if (ag_replay_run(s->replay, &work, out) == AG_OK)
        ag_mail_post(mail_of(s, s->update), OPT_SIGHT_BYTES + (size_t)s->n_losses * sizeof(float), out[0]);
    s->n_losses += ag_status_of(ctx) == AG_OK;
    return ag_status_of(ctx);
}

ag_status train_state_begin(ag_ctx *ctx, train_state *s)
{
    const ag_replay_work work = {.kind = UPDATE, .fn = do_update, .user = s};
    const double lr = opt_schedule_lr(&s->schedule, s->update);
    const bool was = ag_record(ctx, false);
    const train_loss_scale *scale = s->loss_scale;
    const int64_t number = s->update + 1 - (scale ? scale->skipped : 0); /* of the updates that were made */
    ag_mail *mail = mail_of(s, s->update);

    if (s->is_pending)
        return ag_fail(ctx, AG_EINVAL, "an update that begins before the one before it ended");
    s->lr_before = opt_rate(s->opt, number, lr);
    if (opt_prepare(ctx, s->opt, number, lr, scale ? 1.0 / scale->scale : 1.0) == AG_OK &&
        ag_replay_run(s->replay, &work, NULL) == AG_OK &&
        opt_post(mail, 0, s->opt) == AG_OK && ag_mail_send(mail) == AG_OK) {
        s->is_pending = true;
        s->n_losses_before = s->n_losses;
        s->update++;
    }
    s->n_losses = 0;
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

bool train_state_is_here(const train_state *s)
{
    return s->is_pending && ag_mail_is_here(mail_of(s, s->update - 1));
}

static ag_status average(ag_ctx *ctx, train_state *s)
{
    const ag_replay_work work = {.kind = AVERAGE, .fn = do_average, .user = s};

    if (s->ema && opt_ema_prepare(ctx, s->ema, s->update) == AG_OK)
        ag_replay_run(s->replay, &work, NULL);
    return ag_status_of(ctx);
}

/* nonfinite names a gradient that is not; NULL: all are. True: that is no failure, the update is skipped. */
static bool learn(ag_ctx *ctx, train_state *s, const char *nonfinite)
{
    const bool goes_on = s->loss_scale ? train_loss_scale_learn(s->loss_scale, !nonfinite) : !nonfinite;

    if (!goes_on)
        ag_fail(ctx, AG_ENUMERIC, "the gradient of %s is not finite%s", nonfinite,
                s->loss_scale ? ", whatever the loss scale" : "");
    return nonfinite && goes_on;
}

ag_status train_state_end(train_outcome *out, ag_ctx *ctx, train_state *s)
{
    const char *mail = ag_mail_open(mail_of(s, s->update - 1));
    const float *losses = (const float *)(mail + OPT_SIGHT_BYTES);
    opt_sight seen = {0};

    *out = (train_outcome){.nonfinite = -1, .update.lr = s->lr_before};
    s->is_pending = false;
    for (int64_t i = s->n_losses_before - 1; mail && i >= 0; i--)
        if (!isfinite(losses[i]))
            out->nonfinite = i;
    if (mail && out->nonfinite < 0 && opt_look_at(&seen, ctx, s->opt, (const double *)mail) == AG_OK)
        out->update.was_skipped = learn(ctx, s, seen.nonfinite);
    if (ag_status_of(ctx) != AG_OK || out->nonfinite >= 0) {
        s->update--;
        return ag_status_of(ctx);
    }
    for (int64_t i = 0; i < s->n_losses_before; i++)
        out->loss += losses[i];
    out->loss /= (double)(s->n_losses_before ? s->n_losses_before : 1);
    out->update.grad_norm = seen.grad_norm;
    out->update.d = seen.d;
    return average(ctx, s);
}

ag_status train_state_update(train_update *out, ag_ctx *ctx, train_state *s)
{
    train_outcome outcome;

    if (train_state_begin(ctx, s) == AG_OK && train_state_end(&outcome, ctx, s) == AG_OK)
        *out = outcome.update;
    return ag_status_of(ctx);
}
