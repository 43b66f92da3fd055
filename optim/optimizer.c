/* optimizer.c - AdamW, the gradient norm and the moving average; see optimizer.h. */
#include "optim/optimizer.h"

#include <math.h>
#include <stdio.h>

#include "autograd/grad.h"
#include "autograd/ops.h"

const char *const opt_kind_names[] = {[OPT_ADAMW] = "adamw", [OPT_N_KINDS] = NULL};

/* What every kind keeps per parameter. */
static const char *const SLOT_NAMES[] = {"exp_avg", "exp_avg_sq"};
enum { N_SLOTS = 2, N_SCALARS = 8 };

struct opt_optimizer {
    opt_config config;
    ag_tensor *const *params;
    const char *const *names;
    int64_t n;
    ag_tensor **slots;  /* [N_SLOTS * n], slot-major */
    ag_tensor *scalars; /* see ag_adamw_ */
};

/* n zeroed tensors of the shapes of `like`, into out. */
static ag_status zeros_like(ag_tensor **out, ag_ctx *ctx, ag_tensor *const *like, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = ag_full(ctx, AG_MODEL, 0.0, ag_ndim(like[i]), ag_dims(like[i]));
        if (!out[i])
            return ag_status_of(ctx);
    }
    return AG_OK;
}

ag_status opt_new(opt_optimizer **out, ag_ctx *ctx, const opt_config *config, ag_tensor *const *params,
                  const char *const *names, int64_t n)
{
    opt_optimizer *opt = ag_new(ctx, 1, sizeof *opt, "optimizer");

    if (!opt)
        return ag_status_of(ctx);
    opt->config = *config;
    opt->params = params;
    opt->names = names;
    opt->n = n;
    opt->slots = ag_new(ctx, (size_t)(N_SLOTS * n), sizeof *opt->slots, "optimizer");
    opt->scalars = ag_empty(ctx, AG_MODEL, AG_F64, 1, (int64_t[]){N_SCALARS});
    for (int s = 0; s < N_SLOTS && opt->slots && opt->scalars; s++)
        if (zeros_like(opt->slots + s * n, ctx, params, n) != AG_OK)
            break;
    if (ag_status_of(ctx) != AG_OK) {
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
    for (int64_t i = 0; opt->slots && i < N_SLOTS * opt->n; i++)
        ag_release(opt->slots[i]);
    ag_release(opt->scalars);
    ag_delete(opt->slots);
    ag_delete(opt);
}

ag_status opt_update(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, int64_t update, double lr,
                     double grad_scale)
{
    const opt_config *c = &opt->config;
    const double t = (double)update;
    const double scalars[N_SCALARS] = {lr,        c->beta1,        c->beta2,        c->eps, c->weight_decay,
                                       1.0 - pow(c->beta1, t), 1.0 - pow(c->beta2, t), grad_scale};
    const bool was = ag_record(ctx, false);

    ag_write(ctx, opt->scalars, scalars, sizeof scalars);
    for (int64_t i = 0; i < opt->n; i++)
        ag_adamw_(ctx, opt->params[i], opt->slots[i], opt->slots[opt->n + i], grads[i], opt->scalars);
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

int64_t opt_state_count(const opt_optimizer *opt)
{
    return N_SLOTS * opt->n;
}

ag_tensor *opt_state_at(const opt_optimizer *opt, int64_t i, char *text, size_t size)
{
    snprintf(text, size, "%s.%s", SLOT_NAMES[i / opt->n], opt->names[i % opt->n]);
    return opt->slots[i];
}

/* --- gradients ------------------------------------------------------------------------------------ */

enum { NORM_CHUNK = 256 }; /* tensors summed between two looks at the result */

ag_status opt_grad_norm(double *norm, ag_ctx *ctx, ag_tensor *const *grads, const char *const *names, int64_t n)
{
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);
    ag_tensor *sums = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){NORM_CHUNK});
    double total = 0.0;

    for (int64_t from = 0; from < n && ag_status_of(ctx) == AG_OK; from += NORM_CHUNK) {
        const int64_t count = n - from < NORM_CHUNK ? n - from : NORM_CHUNK;
        double host[NORM_CHUNK] = {0};
        ag_write(ctx, sums, host, sizeof host);
        for (int64_t i = 0; i < count; i++)
            ag_add_sumsq_(ctx, sums, grads[from + i], i);
        ag_read(ctx, sums, host, sizeof host);
        for (int64_t i = 0; i < count && ag_status_of(ctx) == AG_OK; i++) {
            if (!isfinite(host[i]))
                ag_fail(ctx, AG_ENUMERIC, "the gradient of %s is not finite", names[from + i]);
            total += host[i];
        }
    }
    *norm = sqrt(total);
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

double opt_clip_factor(double norm, double max_norm)
{
    return max_norm > 0.0 ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

/* --- moving average --------------------------------------------------------------------------------- */

struct opt_ema {
    ag_tensor *const *params;
    ag_tensor **shadow;
    ag_tensor *weight; /* 1 - d, f32 [] */
    int64_t n;
    double decay;
};

ag_status opt_ema_new(opt_ema **out, ag_ctx *ctx, ag_tensor *const *params, int64_t n, double decay)
{
    opt_ema *ema = ag_new(ctx, 1, sizeof *ema, "moving average");

    if (!ema)
        return ag_status_of(ctx);
    ema->params = params;
    ema->n = n;
    ema->decay = decay;
    ema->shadow = ag_new(ctx, (size_t)n, sizeof *ema->shadow, "moving average");
    ema->weight = ag_empty(ctx, AG_MODEL, AG_F32, 0, NULL);
    if (ema->shadow && ema->weight && zeros_like(ema->shadow, ctx, params, n) == AG_OK)
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

ag_status opt_ema_update(ag_ctx *ctx, opt_ema *ema, int64_t update)
{
    const float weight = (float)(1.0 - opt_ema_decay(ema->decay, update));
    const bool was = ag_record(ctx, false);

    ag_write(ctx, ema->weight, &weight, sizeof weight);
    for (int64_t i = 0; i < ema->n; i++)
        ag_lerp_(ctx, ema->shadow[i], ema->params[i], ema->weight);
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

ag_tensor *opt_ema_at(const opt_ema *ema, int64_t i)
{
    return ema->shadow[i];
}
