/* adamw.c - AdamW, and AdamW with moments of one byte.
 *
 * AdamW  Loshchilov & Hutter 2019, arXiv:1711.05101, in the order and with the defaults of
 *        torch.optim.AdamW.
 * 8 bit  Dettmers et al. 2022, arXiv:2110.02861, as bitsandbytes-foundation/bitsandbytes: optim/adamw.py
 *        (AdamW8bit), functional.py (create_dynamic_map), csrc/kernels.cu: signed and unsigned dynamic
 *        codes, blocks of 256 in the published order, decay after the step; tensors under 4096
 *        values have AdamW's f32 step.
 */
#include <math.h>

#include "autograd/cpu/adamw8bit.h"
#include "autograd/cpu/optimizer.h"
#include "autograd/ops.h"
#include "optim/rules.h"

enum { MIN_8BIT = 4096 };

static void scalars(double *out, const opt_config *c, const opt_moment *now)
{
    out[CPU_ADAMW_LR] = now->lr;
    out[CPU_ADAMW_BETA1] = c->beta1;
    out[CPU_ADAMW_BETA2] = c->beta2;
    out[CPU_ADAMW_EPS] = c->eps;
    out[CPU_ADAMW_WEIGHT_DECAY] = c->weight_decay;
    out[CPU_ADAMW_CORRECTION1] = 1.0 - pow(c->beta1, now->t);
    out[CPU_ADAMW_CORRECTION2] = 1.0 - pow(c->beta2, now->t);
    out[CPU_ADAMW_GRAD_SCALE] = now->grad_scale;
}

enum { M, V, M_MAX, V_MAX };

static void make(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    opt_make_like(ctx, opt, M, i);
    opt_make_like(ctx, opt, V, i);
}

static void step(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_adamw_(ctx, opt->params[i], opt_slot(opt, M, i), opt_slot(opt, V, i), grad, opt_scalars_of(opt, i));
}

const opt_rule opt_adamw = {
    .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2,
    .uses = OPT_USES_BETA1 | OPT_USES_BETA2 | OPT_USES_EPS,
    .slots = {[M] = "exp_avg", [V] = "exp_avg_sq"},
    .n_scalars = CPU_ADAMW_N,
    .grad_scale = CPU_ADAMW_GRAD_SCALE,
    .make = make,
    .scalars = scalars,
    .steps = {step},
};

/* --- one byte a moment ---------------------------------------------------------------------------- */

static void make_8bit(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    const int64_t n = ag_numel(opt->params[i]);
    const int64_t blocks = (n + CPU_ADAMW8BIT_BLOCK - 1) / CPU_ADAMW8BIT_BLOCK;

    if (n < MIN_8BIT) {
        make(ctx, opt, i);
        return;
    }
    opt_make_list(ctx, opt, M, i, AG_U8, n);
    opt_make_list(ctx, opt, V, i, AG_U8, n);
    opt_make_list(ctx, opt, M_MAX, i, AG_F32, blocks);
    opt_make_list(ctx, opt, V_MAX, i, AG_F32, blocks);
}

static void step_8bit(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    const opt_layout *l = &opt->layouts[i];
    int64_t channels = 1, taps = 1;

    if (!opt_slot(opt, M_MAX, i)) {
        step(ctx, opt, i, grad);
        return;
    }
    if (l->channels_last) {
        channels = l->dims[l->n_dims - 3];
        taps = l->dims[l->n_dims - 2] * l->dims[l->n_dims - 1];
    }
    if (taps > CPU_ADAMW8BIT_TAPS) /* no such kernel in sight: blocks of the kept order */
        taps = 1;
    ag_adamw8bit_(ctx, opt->params[i], opt_slot(opt, M, i), opt_slot(opt, M_MAX, i), opt_slot(opt, V, i),
                  opt_slot(opt, V_MAX, i), grad, opt_scalars_of(opt, i), channels, taps);
}

const opt_rule opt_adamw8bit = {
    .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2,
    .uses = OPT_USES_BETA1 | OPT_USES_BETA2 | OPT_USES_EPS,
    .slots = {[M] = "exp_avg", [V] = "exp_avg_sq", [M_MAX] = "exp_avg_absmax", [V_MAX] = "exp_avg_sq_absmax"},
    .n_scalars = CPU_ADAMW_N,
    .grad_scale = CPU_ADAMW_GRAD_SCALE,
    .make = make_8bit,
    .scalars = scalars,
    .steps = {step_8bit},
};
