/* ranger.c - Ranger: rectified Adam, gradient centralisation and lookahead in one.
 *
 * Version 20.4.11, that of SAM: lessw2020/Ranger-Deep-Learning-Optimizer: ranger/ranger.py. RAdam: Liu et
 * al. 2020, arXiv:1908.03265; lookahead: Zhang et al. 2019, arXiv:1907.08610; centralisation: Yong et
 * al. 2020, arXiv:2004.01461. Per tensor, t from 1:
 *   N_max = 2/(1 - b2) - 1      N_t = N_max - 2 t b2^t / (1 - b2^t)
 *   N_t > 5:  r = sqrt((1 - b2^t) (N_t - 4)/(N_max - 4) (N_t - 2)/N_t N_max/(N_max - 2)) / (1 - b1^t)
 *   else      r = 1 / (1 - b1^t), and the step is lr r m, without the root of v
 * The root of v has no correction of its own (it is in r), so epsilon is compared with the plain one.
 * Slow weights begin as the parameters before the first update. use_gc = false is honoured here; that
 * version stores it and never looks.
 */
#include <math.h>

#include "autograd/cpu/optimizer.h"
#include "autograd/ops.h"
#include "optim/rules.h"

enum { M, V, SLOW };

static const double THRESHOLD = 5.0;

bool opt_ranger_ratio(double *length, double *ratio, double t, double beta1, double beta2)
{
    const double power = pow(beta2, t), most = 2.0 / (1.0 - beta2) - 1.0;
    const double n = most - 2.0 * t * power / (1.0 - power), correction1 = 1.0 - pow(beta1, t);

    *length = n;
    *ratio = 1.0 / correction1;
    if (n > THRESHOLD)
        *ratio *= sqrt((1.0 - power) * (n - 4.0) / (most - 4.0) * (n - 2.0) / n * most / (most - 2.0));
    return n > THRESHOLD;
}

static ag_status check(ag_ctx *ctx, const opt_config *c)
{
    if (!(c->ranger.alpha >= 0.0 && c->ranger.alpha <= 1.0))
        return ag_fail(ctx, AG_EINVAL, "ranger: alpha %g: wanted 0 to 1", c->ranger.alpha);
    if (c->ranger.k < 1)
        return ag_fail(ctx, AG_EINVAL, "ranger: k %lld: wanted 1 or more", (long long)c->ranger.k);
    return AG_OK;
}

static void make(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    for (int slot = M; slot <= SLOW; slot++)
        opt_make_like(ctx, opt, slot, i);
}

static void first(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    ag_copy(ctx, opt_slot(opt, SLOW, i), opt->params[i]);
}

static void scalars(double *out, const opt_config *c, const opt_moment *now)
{
    double length;

    out[CPU_RANGER_LR] = now->lr;
    out[CPU_RANGER_BETA1] = c->beta1;
    out[CPU_RANGER_BETA2] = c->beta2;
    out[CPU_RANGER_EPS] = c->eps;
    out[CPU_RANGER_WEIGHT_DECAY] = c->weight_decay;
    out[CPU_RANGER_RECTIFIED] = opt_ranger_ratio(&length, &out[CPU_RANGER_RATIO], now->t, c->beta1, c->beta2);
    out[CPU_RANGER_ALPHA] = c->ranger.alpha;
    out[CPU_RANGER_SYNC] = fmod(now->t, (double)c->ranger.k) == 0.0;
    out[CPU_RANGER_GRAD_SCALE] = now->grad_scale;
}

static void step(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    const opt_layout *l = &opt->layouts[i];
    const bool centred = opt->config.ranger.use_gc && l->n_dims > (opt->config.ranger.gc_conv_only ? 3 : 1);

    ag_ranger_(ctx, opt->params[i], opt_slot(opt, M, i), opt_slot(opt, V, i), opt_slot(opt, SLOW, i), grad,
               opt_scalars_of(opt, i), centred ? l->dims[0] : 0);
}

const opt_rule opt_ranger = {
    .beta1 = 0.95, .beta2 = 0.999, .eps = 1e-5,
    .uses = OPT_USES_BETA1 | OPT_USES_BETA2 | OPT_USES_EPS,
    .slots = {[M] = "exp_avg", [V] = "exp_avg_sq", [SLOW] = "slow_buffer"},
    .n_scalars = CPU_RANGER_N,
    .grad_scale = CPU_RANGER_GRAD_SCALE,
    .check = check,
    .make = make,
    .scalars = scalars,
    .first = first,
    .steps = {step},
};
