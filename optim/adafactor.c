/* adafactor.c - Adafactor: second moments of a matrix kept as those of its rows and columns.
 *
 * Shazeer & Stern 2018, arXiv:1804.04235, as huggingface/transformers: optimization.py (Adafactor), with its
 * defaults. The last two published axes are a matrix: [O,I] of a linear layer, [kh,kw] of a convolution
 * (where that saves little); vectors and 1x1 kernels keep a moment for every value. With
 * relative_step the rate of update t is min(0.01, 1/sqrt(t)), or min(1e-6 t, 1/sqrt(t)) with warmup_init,
 * whatever rate is given.
 */
#include "autograd/cpu/adafactor.h"

#include <math.h>

#include "autograd/ops.h"
#include "optim/rules.h"

enum { COL, ROW, M };

static ag_status check(ag_ctx *ctx, const opt_config *c)
{
    if (!(c->adafactor.clip_threshold > 0.0 && isfinite(c->adafactor.clip_threshold)))
        return ag_fail(ctx, AG_EINVAL, "adafactor: clip threshold %g: wanted more than 0",
                       c->adafactor.clip_threshold);
    if (!(c->adafactor.decay_rate <= 0.0 && isfinite(c->adafactor.decay_rate)))
        return ag_fail(ctx, AG_EINVAL, "adafactor: decay rate %g: wanted 0 or less", c->adafactor.decay_rate);
    if (!(c->adafactor.eps2 >= 0.0 && isfinite(c->adafactor.eps2)) || c->eps == 0.0)
        return ag_fail(ctx, AG_EINVAL, "adafactor: epsilons %g and %g: wanted more than 0, and 0 or more", c->eps,
                       c->adafactor.eps2);
    if (c->adafactor.warmup_init && !c->adafactor.relative_step)
        return ag_fail(ctx, AG_EINVAL, "adafactor: warmup_init is a form of relative_step, which is off");
    return AG_OK;
}

static ag_adafactor_shape shape_of(const opt_optimizer *opt, int64_t i)
{
    const opt_layout *l = &opt->layouts[i];
    const int64_t n = ag_numel(opt->params[i]);
    const int64_t rows = l->n_dims > 1 ? l->dims[l->n_dims - 2] : 1, cols = l->n_dims > 1 ? l->dims[l->n_dims - 1] : 1;
    const int64_t lanes = l->channels_last ? l->dims[l->n_dims - 3] : 1;

    if (rows == 1 && cols == 1)
        return (ag_adafactor_shape){1, 1, 1, n};
    return (ag_adafactor_shape){n / (rows * cols * lanes), rows, cols, lanes};
}

static void make(ag_ctx *ctx, opt_optimizer *opt, int64_t i)
{
    const ag_adafactor_shape s = shape_of(opt, i);

    if (s.lanes > 1 && (s.rows > 1 || s.cols > 1) && (s.rows > CPU_ADAFACTOR_SIDE || s.cols > CPU_ADAFACTOR_SIDE))
        ag_fail(ctx, AG_ESHAPE, "%s: adafactor takes kernels of up to %d a side, not %lldx%lld", opt->names[i],
                CPU_ADAFACTOR_SIDE, (long long)s.rows, (long long)s.cols);
    if (s.rows > 1 || s.cols > 1)
        opt_make_list(ctx, opt, ROW, i, AG_F32, s.batches * s.rows * s.lanes);
    opt_make_list(ctx, opt, COL, i, AG_F32, s.batches * s.cols * s.lanes);
    if (!isnan(opt->config.beta1))
        opt_make_like(ctx, opt, M, i);
}

static double rate(const opt_config *c, double t, double lr)
{
    return c->adafactor.relative_step ? fmin(c->adafactor.warmup_init ? 1e-6 * t : 1e-2, 1.0 / sqrt(t)) : lr;
}

static void scalars(double *out, const opt_config *c, const opt_moment *now)
{
    out[CPU_ADAFACTOR_RATE] = now->lr;
    out[CPU_ADAFACTOR_BETA1] = isnan(c->beta1) ? 0.0 : c->beta1;
    out[CPU_ADAFACTOR_BETA2T] = 1.0 - pow(now->t, c->adafactor.decay_rate);
    out[CPU_ADAFACTOR_EPS1] = c->eps;
    out[CPU_ADAFACTOR_EPS2] = c->adafactor.eps2;
    out[CPU_ADAFACTOR_WEIGHT_DECAY] = c->weight_decay;
    out[CPU_ADAFACTOR_CLIP_THRESHOLD] = c->adafactor.clip_threshold;
    out[CPU_ADAFACTOR_SCALE_PARAMETER] = c->adafactor.scale_parameter;
    out[CPU_ADAFACTOR_GRAD_SCALE] = now->grad_scale;
}

static void moments(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_adafactor_moments_(ctx, opt_slot(opt, COL, i), opt_slot(opt, ROW, i), grad, opt_scalars_of(opt, i),
                          shape_of(opt, i));
}

static void sums(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_adafactor_sums_(ctx, opt->own[i], opt->params[i], opt_slot(opt, COL, i), opt_slot(opt, ROW, i), grad,
                       opt_scalars_of(opt, i), shape_of(opt, i));
}

static void step(ag_ctx *ctx, opt_optimizer *opt, int64_t i, ag_tensor *grad)
{
    ag_adafactor_step_(ctx, opt->params[i], opt_slot(opt, M, i), opt_slot(opt, COL, i), opt_slot(opt, ROW, i), grad,
                       opt->own[i], opt_scalars_of(opt, i), shape_of(opt, i));
}

const opt_rule opt_adafactor = {
    .beta1 = NAN, .eps = 1e-30,
    .uses = OPT_USES_BETA1 | OPT_USES_EPS,
    .slots = {[COL] = "exp_avg_sq_col", [ROW] = "exp_avg_sq_row", [M] = "exp_avg"},
    .n_scalars = CPU_ADAFACTOR_N,
    .grad_scale = CPU_ADAFACTOR_GRAD_SCALE,
    .n_own = 2,
    .check = check,
    .make = make,
    .rate = rate,
    .scalars = scalars,
    .steps = {moments, sums, step},
};
