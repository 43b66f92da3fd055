/* lion.c - Lion: the sign of a mixed momentum, decay decoupled.
 *
 * Chen et al. 2023, arXiv:2302.06675, algorithm 2; google/automl: lion/lion_pytorch.py. Its rates are 3 to
 * 10 times smaller than AdamW's, its decay as much larger.
 */
#include "autograd/cpu/optimizer.h"
#include "autograd/ops.h"
#include "optim/rules.h"

static void make(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    opt_make_like(ctx, opt, 0, i);
}

static void scalars(double *out, const opt_config *c, const opt_moment *now)
{
    out[CPU_LION_LR] = now->lr;
    out[CPU_LION_BETA1] = c->beta1;
    out[CPU_LION_BETA2] = c->beta2;
    out[CPU_LION_WEIGHT_DECAY] = c->weight_decay;
    out[CPU_LION_GRAD_SCALE] = now->grad_scale;
}

static void step(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_lion_(ctx, opt->params[i], opt_slot(opt, 0, i), grad, opt_scalars_of(opt, i));
}

const opt_rule opt_lion = {
    .beta1 = 0.9, .beta2 = 0.99,
    .uses = OPT_USES_BETA1 | OPT_USES_BETA2,
    .slots = {"exp_avg"},
    .n_scalars = CPU_LION_N,
    .grad_scale = CPU_LION_GRAD_SCALE,
    .make = make,
    .scalars = scalars,
    .steps = {step},
};
