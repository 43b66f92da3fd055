/* optimizer.c - what all optimizers share, and the moving average; see optimizer.h.
 *
 * The rules are in files of their own; rules.h says what a rule is.
 */
#include "optim/optimizer.h"

#include <math.h>
#include <stdio.h>

#include "autograd/cpu/optimizer.h"
#include "autograd/grad.h"
#include "autograd/ops.h"
#include "optim/rules.h"

const char *const opt_kind_names[] = {
    [OPT_ADAMW] = "adamw",         [OPT_ADAMW8BIT] = "adamw8bit", [OPT_RANGER] = "ranger",
    [OPT_LION] = "lion",           [OPT_ADAFACTOR] = "adafactor", [OPT_PRODIGY] = "prodigy",
    [OPT_SGD] = "sgd",             [OPT_N_KINDS] = NULL,
};

static const opt_rule *const rules[] = {
    [OPT_ADAMW] = &opt_adamw,         [OPT_ADAMW8BIT] = &opt_adamw8bit, [OPT_RANGER] = &opt_ranger,
    [OPT_LION] = &opt_lion,           [OPT_ADAFACTOR] = &opt_adafactor, [OPT_PRODIGY] = &opt_prodigy,
    [OPT_SGD] = &opt_sgd,
};

/* --- configurations ------------------------------------------------------------------------------- */

opt_config opt_defaults(opt_kind kind)
{
    opt_config c = {
        .kind = kind,
        .ranger = {.alpha = 0.5, .k = 6, .use_gc = true},
        .adafactor = {.clip_threshold = 1.0, .decay_rate = -0.8, .eps2 = 1e-3, .relative_step = true,
                      .scale_parameter = true},
        .prodigy = {.d0 = 1e-6, .d_coef = 1.0, .growth_rate = INFINITY, .beta3 = NAN, .decouple = true},
    };

    c.beta1 = rules[kind]->beta1;
    c.beta2 = rules[kind]->beta2;
    c.eps = rules[kind]->eps;
    c.weight_decay = rules[kind]->weight_decay;
    return c;
}

unsigned opt_uses(opt_kind kind)
{
    return rules[kind]->uses;
}

static ag_status check(ag_ctx *ctx, const opt_config *c)
{
    const opt_rule *rule = rules[c->kind];
    const char *name = opt_kind_names[c->kind];

    /* a NAN fails every comparison; only Adafactor's beta1 may be one */
    if ((rule->uses & OPT_USES_BETA1) && !(c->beta1 >= 0.0 && c->beta1 < 1.0) &&
        !(isnan(c->beta1) && isnan(rule->beta1)))
        return ag_fail(ctx, AG_EINVAL, "%s: beta1 %g: wanted 0 <= beta1 < 1", name, c->beta1);
    if ((rule->uses & OPT_USES_BETA2) && !(c->beta2 >= 0.0 && c->beta2 < 1.0))
        return ag_fail(ctx, AG_EINVAL, "%s: beta2 %g: wanted 0 <= beta2 < 1", name, c->beta2);
    if ((rule->uses & OPT_USES_EPS) && !(c->eps >= 0.0 && isfinite(c->eps)))
        return ag_fail(ctx, AG_EINVAL, "%s: epsilon %g: wanted 0 or more", name, c->eps);
    if (!(c->weight_decay >= 0.0 && isfinite(c->weight_decay)))
        return ag_fail(ctx, AG_EINVAL, "%s: weight decay %g: wanted 0 or more", name, c->weight_decay);
    return rule->check ? rule->check(ctx, c) : AG_OK;
}

/* --- make ----------------------------------------------------------------------------------------- */

/* n zeroed tensors of the shapes of `like`, into out. */
static ag_status zeros_like(ag_tensor **out, ag_ctx *ctx, ag_lifetime lifetime, ag_tensor *const *like, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = ag_full(ctx, lifetime, 0.0, ag_ndim(like[i]), ag_dims(like[i]));
        if (!out[i])
            return ag_status_of(ctx);
    }
    return AG_OK;
}

static ag_lifetime lifetime_of(bool offload)
{
    return offload ? AG_OFFLOADED : AG_MODEL;
}

void opt_make_like(ag_ctx *ctx, opt_optimizer *opt, int slot, int64_t i)
{
    zeros_like(&opt->slots[slot * opt->n + i], ctx, lifetime_of(opt->config.offload), &opt->params[i], 1);
}

void opt_make_list(ag_ctx *ctx, opt_optimizer *opt, int slot, int64_t i, ag_dtype dtype, int64_t n)
{
    ag_tensor *t = ag_empty(ctx, lifetime_of(opt->config.offload), dtype, 1, &n);
    void *zeros = t ? ag_new(ctx, ag_nbytes(t), 1, "optimizer") : NULL;

    opt->slots[slot * opt->n + i] = t;
    if (zeros)
        ag_write(ctx, t, zeros, ag_nbytes(t));
    ag_delete(zeros);
}

/* The number of the group with these factors, made when it is new. */
static int group_number(opt_optimizer *opt, opt_group g)
{
    for (int k = 0; k < opt->n_groups; k++)
        if (opt->groups[k].lr_factor == g.lr_factor && opt->groups[k].decay_factor == g.decay_factor)
            return k;
    opt->groups[opt->n_groups] = g;
    return opt->n_groups++;
}

static ag_status take_groups(ag_ctx *ctx, opt_optimizer *opt, const opt_params *params)
{
    opt->groups = ag_new(ctx, (size_t)opt->n + 1, sizeof *opt->groups, "optimizer");
    opt->group_of = ag_new(ctx, (size_t)opt->n + 1, sizeof *opt->group_of, "optimizer");
    if (!opt->groups || !opt->group_of)
        return ag_status_of(ctx);
    group_number(opt, (opt_group){1.0, 1.0}); /* number 0: what belongs to no tensor */
    for (int64_t i = 0; params->groups && i < opt->n; i++) {
        const opt_group g = params->groups[i];
        if (!(g.lr_factor >= 0.0 && g.decay_factor >= 0.0) || !isfinite(g.lr_factor * g.decay_factor))
            return ag_fail(ctx, AG_EINVAL, "%s: factors %g and %g of rate and decay: wanted 0 or more",
                           opt->names[i], g.lr_factor, g.decay_factor);
        if (opt->config.kind == OPT_PRODIGY && g.lr_factor != 0.0 && g.lr_factor != 1.0)
            return ag_fail(ctx, AG_EINVAL,
                           "%s: a rate of %g times the others': prodigy finds one rate for all", opt->names[i],
                           g.lr_factor);
        opt->group_of[i] = group_number(opt, g);
    }
    opt->scalars = ag_new(ctx, (size_t)opt->n_groups, sizeof *opt->scalars, "optimizer");
    return ag_status_of(ctx);
}

/* n values of a list from `first` on, the caller's. */
static ag_tensor *view_of(ag_ctx *ctx, ag_tensor *list, int64_t first, int64_t n)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *view = ag_retain(ag_slice(ctx, list, 0, first, n));

    ag_scope_close(ctx, scope, NULL);
    return view;
}

static ag_status take_numbers(ag_ctx *ctx, opt_optimizer *opt)
{
    const int64_t n_scalars = opt->rule->n_scalars, n_common = opt->rule->n_common;

    opt->host_scalars = ag_new(ctx, (size_t)(opt->n_groups * n_scalars), sizeof *opt->host_scalars, "optimizer");
    opt->all_scalars = ag_empty(ctx, AG_MODEL, AG_F64, 2, (int64_t[]){opt->n_groups, n_scalars});
    for (int k = 0; k < opt->n_groups; k++) {
        const ag_scope scope = ag_scope_open(ctx);
        ag_tensor *row = ag_slice(ctx, opt->all_scalars, 0, k, 1);
        opt->scalars[k] = ag_retain(ag_reshape(ctx, row, 1, &n_scalars));
        ag_scope_close(ctx, scope, NULL);
    }
    opt->sums = ag_empty(ctx, AG_MODEL, AG_F64, 1, (int64_t[]){opt->n});
    opt->seen = ag_empty(ctx, AG_MODEL, AG_F64, 1, (int64_t[]){1 + n_common});
    if (n_common)
        opt->common = view_of(ctx, opt->seen, 1, n_common);
    return ag_status_of(ctx);
}

static ag_status take_own(ag_ctx *ctx, opt_optimizer *opt)
{
    const int64_t each = opt->rule->n_own;

    if (!each)
        return AG_OK;
    opt->all_own = ag_empty(ctx, AG_MODEL, AG_F64, 1, (int64_t[]){opt->n * each});
    opt->own = ag_new(ctx, (size_t)opt->n + 1, sizeof *opt->own, "optimizer");
    for (int64_t i = 0; opt->own && i < opt->n; i++)
        opt->own[i] = view_of(ctx, opt->all_own, i * each, each);
    return ag_status_of(ctx);
}

static ag_status take_layouts(ag_ctx *ctx, opt_optimizer *opt, const opt_params *params)
{
    opt->layouts = ag_new(ctx, (size_t)opt->n + 1, sizeof *opt->layouts, "optimizer");
    for (int64_t i = 0; opt->layouts && i < opt->n; i++) {
        const ag_tensor *t = opt->params[i];
        if (params->layouts) {
            opt->layouts[i] = params->layouts[i];
            continue;
        }
        opt->layouts[i].n_dims = ag_ndim(t);
        for (int k = 0; k < ag_ndim(t); k++)
            opt->layouts[i].dims[k] = ag_dim(t, k);
    }
    return ag_status_of(ctx);
}

static ag_status take_states(ag_ctx *ctx, opt_optimizer *opt)
{
    opt->slots = ag_new(ctx, (size_t)(OPT_MAX_SLOTS * opt->n) + 1, sizeof *opt->slots, "optimizer");
    if (opt->slots && opt->rule->begin_common)
        opt->rule->begin_common(ctx, opt);
    for (int64_t i = 0; opt->slots && i < opt->n && ag_status_of(ctx) == AG_OK; i++)
        opt->rule->make(ctx, opt, i);
    return ag_status_of(ctx);
}

ag_status opt_new(opt_optimizer **out, ag_ctx *ctx, const opt_config *config, const opt_params *params)
{
    opt_optimizer *opt;

    if (check(ctx, config) != AG_OK)
        return ag_status_of(ctx);
    opt = ag_new(ctx, 1, sizeof *opt, "optimizer");
    if (!opt)
        return ag_status_of(ctx);
    opt->config = *config;
    opt->rule = rules[config->kind];
    opt->params = params->tensors;
    opt->names = params->names;
    opt->n = params->n;
    if (take_groups(ctx, opt, params) != AG_OK || take_layouts(ctx, opt, params) != AG_OK ||
        take_numbers(ctx, opt) != AG_OK || take_own(ctx, opt) != AG_OK || take_states(ctx, opt) != AG_OK) {
        opt_free(opt);
        return ag_status_of(ctx);
    }
    *out = opt;
    return AG_OK;
}

void opt_free(opt_optimizer *opt)
{
    if (!opt)
        return;
    for (int64_t i = 0; opt->slots && i < OPT_MAX_SLOTS * opt->n; i++)
        ag_release(opt->slots[i]);
    for (int k = 0; opt->scalars && k < opt->n_groups; k++)
        ag_release(opt->scalars[k]);
    for (int64_t i = 0; opt->own && i < opt->n; i++)
        ag_release(opt->own[i]);
    ag_release(opt->all_own);
    ag_delete(opt->own);
    ag_release(opt->common);
    ag_release(opt->seen);
    ag_release(opt->sums);
    ag_release(opt->all_scalars);
    ag_delete(opt->slots);
    ag_delete(opt->host_scalars);
    ag_delete(opt->scalars);
    ag_delete(opt->groups);
    ag_delete(opt->group_of);
    ag_delete(opt->layouts);
    ag_delete(opt);
}

/* --- use ------------------------------------------------------------------------------------------ */

double opt_rate(const opt_optimizer *opt, int64_t update, double lr)
{
    return opt->rule->rate ? opt->rule->rate(&opt->config, (double)update, lr) : lr;
}

ag_tensor *opt_slot(const opt_optimizer *opt, int slot, int64_t i)
{
    return opt->slots[slot * opt->n + i];
}

ag_tensor *opt_scalars_of(const opt_optimizer *opt, int64_t i)
{
    return opt->scalars[opt->group_of[i]];
}

ag_status opt_prepare(ag_ctx *ctx, opt_optimizer *opt, int64_t update, double lr, double grad_scale)
{
    const opt_moment now = {.t = (double)update, .lr = opt_rate(opt, update, lr), .grad_scale = grad_scale};
    const opt_rule *rule = opt->rule;
    const bool was = ag_record(ctx, false);

    for (int k = 0; k < opt->n_groups; k++) {
        opt_config c = opt->config;
        opt_moment here = now;
        here.lr *= opt->groups[k].lr_factor;
        c.weight_decay *= opt->groups[k].decay_factor;
        rule->scalars(opt->host_scalars + k * rule->n_scalars, &c, &here);
    }
    ag_write(ctx, opt->all_scalars, opt->host_scalars, ag_nbytes(opt->all_scalars));
    for (int64_t i = 0; update == 1 && rule->first && i < opt->n; i++)
        rule->first(ctx, opt, i);
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

typedef void one_of_them(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad);

/* One pass over parameters [from, to). */
static void pass(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, int64_t from, int64_t to, one_of_them *one)
{
    ag_bundle_begin(ctx);
    for (int64_t i = from; i < to; i++)
        one(ctx, opt, i, grads[i]);
    ag_bundle_end(ctx);
}

/* The steps of a rule: on a GPU each of all parameters at once, on the CPU all of one while it is in the cache. */
static void step_all(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads)
{
    const int64_t at_once = ag_ctx_device(ctx) == AG_CPU ? 1 : opt->n;

    for (int64_t i = 0; i < opt->n; i += at_once)
        for (int k = 0; k < OPT_MAX_STEPS && opt->rule->steps[k]; k++)
            pass(ctx, opt, grads, i, i + at_once, opt->rule->steps[k]);
}

static void measure(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_sumsq_(ctx, opt->sums, grad, i);
}

ag_status opt_step(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, double max_norm)
{
    const opt_rule *rule = opt->rule;
    const bool was = ag_record(ctx, false);

    pass(ctx, opt, grads, 0, opt->n, measure);
    ag_clip_(ctx, opt->all_scalars, opt->seen, opt->sums, rule->grad_scale, max_norm);
    if (rule->collect) {
        rule->between(ctx, opt, false);
        pass(ctx, opt, grads, 0, opt->n, rule->collect);
        rule->between(ctx, opt, true);
    }
    step_all(ctx, opt, grads);
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

ag_status opt_update(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, int64_t update, double lr,
                     double grad_scale, double max_norm)
{
    if (opt_prepare(ctx, opt, update, lr, grad_scale) == AG_OK)
        opt_step(ctx, opt, grads, max_norm);
    return ag_status_of(ctx);
}

ag_tensor *opt_norm(const opt_optimizer *opt)
{
    return opt->seen;
}

static const char *find_nonfinite(ag_ctx *ctx, const opt_optimizer *opt)
{
    const double *sums = ag_look(ctx, opt->sums);
    const char *name = "no single tensor";

    for (int64_t i = opt->n - 1; sums && i >= 0; i--)
        if (!isfinite(sums[i]))
            name = opt->names[i];
    ag_look_away(opt->sums, sums);
    return name;
}

ag_status opt_post(ag_mail *mail, size_t at, const opt_optimizer *opt)
{
    return ag_mail_post(mail, at, opt->seen);
}

ag_status opt_look_at(opt_sight *out, ag_ctx *ctx, const opt_optimizer *opt, const double *posted)
{
    *out = (opt_sight){.grad_norm = posted[0], .d = opt->config.kind == OPT_PRODIGY ? posted[1 + CPU_PRODIGY_D] : NAN};
    if (!isfinite(posted[0]))
        out->nonfinite = find_nonfinite(ctx, opt);
    return ag_status_of(ctx);
}

ag_status opt_look(opt_sight *out, ag_ctx *ctx, const opt_optimizer *opt)
{
    double seen[OPT_SIGHT_BYTES / sizeof(double)] = {0};

    *out = (opt_sight){.grad_norm = NAN, .d = NAN};
    if (ag_read(ctx, opt->seen, seen, ag_nbytes(opt->seen)) == AG_OK)
        opt_look_at(out, ctx, opt, seen);
    return ag_status_of(ctx);
}

/* --- the state ------------------------------------------------------------------------------------ */

int64_t opt_state_count(const opt_optimizer *opt)
{
    int64_t count = opt->rule->common_name != NULL;

    for (int64_t k = 0; k < OPT_MAX_SLOTS * opt->n; k++)
        count += opt->slots[k] != NULL;
    return count;
}

ag_tensor *opt_state_at(const opt_optimizer *opt, int64_t i, char *text, size_t size)
{
    for (int64_t k = 0; k < OPT_MAX_SLOTS * opt->n; k++)
        if (opt->slots[k] && i-- == 0) {
            snprintf(text, size, "%s.%s", opt->rule->slots[k / opt->n], opt->names[k % opt->n]);
            return opt->slots[k];
        }
    snprintf(text, size, "%s", opt->rule->common_name);
    return opt->common;
}

/* --- moving average --------------------------------------------------------------------------------- */

struct opt_ema {
    ag_tensor *const *params;
    ag_tensor **shadow;
    ag_tensor *weight; /* 1 - d, f32 [] */
    int64_t n;
    double decay;
};

ag_status opt_ema_new(opt_ema **out, ag_ctx *ctx, ag_tensor *const *params, int64_t n, double decay, bool offload)
{
    opt_ema *ema = ag_new(ctx, 1, sizeof *ema, "moving average");

    if (!ema)
        return ag_status_of(ctx);
    ema->params = params;
    ema->n = n;
    ema->decay = decay;
    ema->shadow = ag_new(ctx, (size_t)n, sizeof *ema->shadow, "moving average");
    ema->weight = ag_empty(ctx, AG_MODEL, AG_F32, 0, NULL);
    if (ema->shadow && ema->weight && zeros_like(ema->shadow, ctx, lifetime_of(offload), params, n) == AG_OK)
        for (int64_t i = 0; i < n; i++)
            ag_copy(ctx, ema->shadow[i], params[i]);
    if (ag_status_of(ctx) != AG_OK) {
        opt_ema_free(ema);
        return ag_status_of(ctx);
    }
    *out = ema;
    return AG_OK;
}

void opt_ema_free(opt_ema *ema)
{
    if (!ema)
        return;
    for (int64_t i = 0; ema->shadow && i < ema->n; i++)
        ag_release(ema->shadow[i]);
    ag_release(ema->weight);
    ag_delete(ema->shadow);
    ag_delete(ema);
}

double opt_ema_decay(double decay, int64_t update)
{
    const double j = (double)update - 1.0;

    return j <= 0.0 ? 0.0 : fmin(decay, (1.0 + j) / (10.0 + j));
}

ag_status opt_ema_prepare(ag_ctx *ctx, opt_ema *ema, int64_t update)
{
    const float weight = (float)(1.0 - opt_ema_decay(ema->decay, update));

    return ag_write(ctx, ema->weight, &weight, sizeof weight);
}

ag_status opt_ema_step(ag_ctx *ctx, opt_ema *ema)
{
    const bool was = ag_record(ctx, false);

    ag_bundle_begin(ctx);
    for (int64_t i = 0; i < ema->n; i++)
        ag_lerp_(ctx, ema->shadow[i], ema->params[i], ema->weight);
    ag_bundle_end(ctx);
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

ag_status opt_ema_update(ag_ctx *ctx, opt_ema *ema, int64_t update)
{
    return opt_ema_prepare(ctx, ema, update) == AG_OK ? opt_ema_step(ctx, ema) : ag_status_of(ctx);
}

ag_tensor *opt_ema_at(const opt_ema *ema, int64_t i)
{
    return ema->shadow[i];
}
