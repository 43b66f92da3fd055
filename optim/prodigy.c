/* prodigy.c - Prodigy: Adam that finds the size of its steps.
 *
 * Mishchenko & Defazio 2023, arXiv:2306.06101; konstmish/prodigy: prodigyopt/prodigy.py. d is one number
 * for all tensors: every gradient is seen before any parameter moves. The rate given multiplies d and
 * wants to be 1. An update with rate 0, and a tensor with factor 0, rest: nothing of theirs changes.
 */
#include <math.h>

#include "autograd/cpu/optimizer.h"
#include "autograd/ops.h"
#include "optim/rules.h"

enum { S, M, V, FIRST };

static ag_status check(ag_ctx *ctx, const opt_config *c)
{
    if (!(c->prodigy.d0 > 0.0 && isfinite(c->prodigy.d0)))
        return ag_fail(ctx, AG_EINVAL, "prodigy: d0 %g: wanted more than 0", c->prodigy.d0);
    if (!(c->prodigy.d_coef > 0.0 && isfinite(c->prodigy.d_coef)))
        return ag_fail(ctx, AG_EINVAL, "prodigy: d_coef %g: wanted more than 0", c->prodigy.d_coef);
    if (!(c->prodigy.growth_rate > 1.0))
        return ag_fail(ctx, AG_EINVAL, "prodigy: growth rate %g: wanted more than 1", c->prodigy.growth_rate);
    if (!isnan(c->prodigy.beta3) && !(c->prodigy.beta3 >= 0.0 && c->prodigy.beta3 < 1.0))
        return ag_fail(ctx, AG_EINVAL, "prodigy: beta3 %g: wanted 0 <= beta3 < 1", c->prodigy.beta3);
    return AG_OK;
}

static void begin_common(ag_ctx *ctx, opt_optimizer *opt)
{
    double d[CPU_PRODIGY_STATES] = {[CPU_PRODIGY_D] = opt->config.prodigy.d0,
                                    [CPU_PRODIGY_D_MAX] = opt->config.prodigy.d0};

    ag_write(ctx, opt->common, d, sizeof d);
}

static void make(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    for (int slot = S; slot <= FIRST; slot++)
        opt_make_like(ctx, opt, slot, i);
}

static void first(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    ag_copy(ctx, opt_slot(opt, FIRST, i), opt->params[i]);
}

static void scalars(double *out, const opt_config *c, const opt_moment *now)
{
    out[CPU_PRODIGY_LR] = now->lr;
    out[CPU_PRODIGY_BETA1] = c->beta1;
    out[CPU_PRODIGY_BETA2] = c->beta2;
    out[CPU_PRODIGY_BETA3] = isnan(c->prodigy.beta3) ? sqrt(c->beta2) : c->prodigy.beta3;
    out[CPU_PRODIGY_EPS] = c->eps;
    out[CPU_PRODIGY_WEIGHT_DECAY] = c->weight_decay;
    out[CPU_PRODIGY_D0] = c->prodigy.d0;
    out[CPU_PRODIGY_D_COEF] = c->prodigy.d_coef;
    out[CPU_PRODIGY_GROWTH_RATE] = c->prodigy.growth_rate;
    out[CPU_PRODIGY_BIAS_CORRECTION] = c->prodigy.use_bias_correction;
    out[CPU_PRODIGY_SAFEGUARD_WARMUP] = c->prodigy.safeguard_warmup;
    out[CPU_PRODIGY_DECOUPLE] = c->prodigy.decouple;
    out[CPU_PRODIGY_GRAD_SCALE] = now->grad_scale;
}

static void between(ag_ctx *ctx, opt_optimizer *opt, bool is_after)
{
    ag_prodigy_d_(ctx, opt->common, opt->scalars[0], is_after);
}

static void collect(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_prodigy_moments_(ctx, opt->common, opt_slot(opt, S, i), opt_slot(opt, M, i), opt_slot(opt, V, i),
                        opt->params[i], opt_slot(opt, FIRST, i), grad, opt_scalars_of(opt, i));
}

static void step(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    (void)grad;
    ag_prodigy_step_(ctx, opt->params[i], opt_slot(opt, M, i), opt_slot(opt, V, i), opt->common,
                     opt_scalars_of(opt, i));
}

const opt_rule opt_prodigy = {
    .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
    .uses = OPT_USES_BETA1 | OPT_USES_BETA2 | OPT_USES_EPS,
    .slots = {[S] = "s", [M] = "exp_avg", [V] = "exp_avg_sq", [FIRST] = "p0"},
    .common_name = "prodigy",
    .n_scalars = CPU_PRODIGY_N,
    .grad_scale = CPU_PRODIGY_GRAD_SCALE,
    .n_common = CPU_PRODIGY_STATES,
    .check = check,
    .begin_common = begin_common,
    .make = make,
    .scalars = scalars,
    .first = first,
    .collect = collect,
    .between = between,
    .steps = {step},
};
