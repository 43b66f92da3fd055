/* sgd.c - stochastic gradient descent with momentum, dampening and Nesterov's form, decay in the
 * gradient, as torch.optim.SGD; without momentum it keeps nothing.
 */
#include "autograd/cpu/optimizer.h"
#include "autograd/ops.h"
#include "optim/rules.h"

static ag_status check(ag_ctx *ctx, const opt_config *c)
{
    if (!(c->sgd.momentum >= 0.0 && c->sgd.momentum < 1.0))
        return ag_fail(ctx, AG_EINVAL, "sgd: momentum %g: wanted 0 <= momentum < 1", c->sgd.momentum);
    if (!(c->sgd.dampening >= 0.0 && c->sgd.dampening <= 1.0))
        return ag_fail(ctx, AG_EINVAL, "sgd: dampening %g: wanted 0 to 1", c->sgd.dampening);
    if (c->sgd.nesterov && (c->sgd.momentum == 0.0 || c->sgd.dampening != 0.0))
        return ag_fail(ctx, AG_EINVAL, "sgd: Nesterov's form wants a momentum and no dampening, got %g and %g",
                       c->sgd.momentum, c->sgd.dampening);
    return AG_OK;
}

static void make(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    if (opt->config.sgd.momentum > 0.0)
        opt_make_like(ctx, opt, 0, i);
}

static void scalars(double *out, const opt_config *c, const opt_moment *now)
{
    out[CPU_SGD_LR] = now->lr;
    out[CPU_SGD_WEIGHT_DECAY] = c->weight_decay;
    out[CPU_SGD_MOMENTUM] = c->sgd.momentum;
    out[CPU_SGD_INTO_BUFFER] = now->t == 1.0 ? 1.0 : 1.0 - c->sgd.dampening;
    out[CPU_SGD_NESTEROV] = c->sgd.nesterov;
    out[CPU_SGD_GRAD_SCALE] = now->grad_scale;
}

static void step(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_sgd_(ctx, opt->params[i], opt_slot(opt, 0, i), grad, opt_scalars_of(opt, i));
}

const opt_rule opt_sgd = {
    .slots = {"momentum_buffer"},
    .n_scalars = CPU_SGD_N,
    .grad_scale = CPU_SGD_GRAD_SCALE,
    .check = check,
    .make = make,
    .scalars = scalars,
    .steps = {step},
};
