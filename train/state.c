/* state.c - see state.h. */
#include "train/state.h"

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
        opt_ema_new(&s->ema, ctx, s->params, s->n, ema_decay);
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
    opt_free(s->opt);
    opt_ema_free(s->ema);
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

ag_status train_state_add(ag_ctx *ctx, train_state *s, ag_tensor *loss, double weight)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *cotangent = ag_full(ctx, AG_STEP, weight, 0, NULL);

    ag_grad(ctx, &loss, &cotangent, 1, s->params, s->grads, (int)s->n, 0);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

ag_status train_state_update(train_update *out, ag_ctx *ctx, train_state *s)
{
    const bool was = ag_record(ctx, false);
    const double lr = opt_schedule_lr(&s->schedule, s->update);
    opt_sight seen;

    out->lr = opt_rate(s->opt, s->update + 1, lr);
    if (opt_update(ctx, s->opt, s->grads, s->update + 1, lr, 1.0, s->max_grad_norm) == AG_OK &&
        opt_look(&seen, ctx, s->opt) == AG_OK && seen.nonfinite)
        ag_fail(ctx, AG_ENUMERIC, "the gradient of %s is not finite", seen.nonfinite);
    if (ag_status_of(ctx) == AG_OK) {
        s->update++;
        out->grad_norm = seen.grad_norm;
        out->d = seen.d;
        if (s->ema)
            opt_ema_update(ctx, s->ema, s->update);
        ag_bundle_begin(ctx);
        for (int64_t i = 0; i < s->n; i++)
            ag_fill_(ctx, s->grads[i], 0.0);
        ag_bundle_end(ctx);
    }
    ag_record(ctx, was);
    return ag_status_of(ctx);
}
