/* optimizer_factors.h - from the numbers of an update to those that every element wants, on any device.
 *
 * The numbers come as doubles (optimizer.h, adafactor.h) and are rounded to f32 once, here. For kernels on the CPU and,
 * compiled by nvcc, on a GPU.
 */
#ifndef AG_CPU_OPTIMIZER_FACTORS_H
#define AG_CPU_OPTIMIZER_FACTORS_H

#include <math.h>

#include "autograd/cpu/adafactor.h"
#include "autograd/cpu/optimizer.h"

#ifdef __CUDACC__
#define CPU_ANYWHERE static __host__ __device__ inline
#else
#define CPU_ANYWHERE static inline
#endif

/* --- AdamW ------------------------------------------------------------------------------------ */

typedef struct cpu_adamw_factors {
    float grad_scale, decay, beta1, rest1, beta2, rest2, over_root2, eps, step;
} cpu_adamw_factors;

CPU_ANYWHERE cpu_adamw_factors cpu_adamw_factors_of(const double s[CPU_ADAMW_N])
{
    cpu_adamw_factors f;

    f.grad_scale = (float)s[CPU_ADAMW_GRAD_SCALE];
    f.decay = (float)(1.0 - s[CPU_ADAMW_LR] * s[CPU_ADAMW_WEIGHT_DECAY]);
    f.beta1 = (float)s[CPU_ADAMW_BETA1];
    f.rest1 = (float)(1.0 - s[CPU_ADAMW_BETA1]);
    f.beta2 = (float)s[CPU_ADAMW_BETA2];
    f.rest2 = (float)(1.0 - s[CPU_ADAMW_BETA2]);
    f.over_root2 = (float)(1.0 / sqrt(s[CPU_ADAMW_CORRECTION2]));
    f.eps = (float)s[CPU_ADAMW_EPS];
    f.step = (float)(s[CPU_ADAMW_LR] / s[CPU_ADAMW_CORRECTION1]);
    return f;
}

/* Of AdamW in 8 bits, which puts the root of correction2 into the step and epsilon. */
CPU_ANYWHERE cpu_adamw_factors cpu_adamw8bit_factors_of(const double s[CPU_ADAMW_N])
{
    const double root2 = sqrt(s[CPU_ADAMW_CORRECTION2]);
    cpu_adamw_factors f = cpu_adamw_factors_of(s);

    f.over_root2 = 1.0f;
    f.eps = (float)(root2 * s[CPU_ADAMW_EPS]);
    f.step = (float)(s[CPU_ADAMW_LR] * root2 / s[CPU_ADAMW_CORRECTION1]);
    return f;
}

/* --- SGD -------------------------------------------------------------------------------------- */

typedef struct cpu_sgd_factors {
    float grad_scale, decay, momentum, into_buffer, lr;
    float of_gradient, of_buffer; /* what a step is made of */
} cpu_sgd_factors;

CPU_ANYWHERE cpu_sgd_factors cpu_sgd_factors_of(const double s[CPU_SGD_N], bool has_buffer)
{
    const bool nesterov = s[CPU_SGD_NESTEROV] != 0.0;
    cpu_sgd_factors f;

    f.grad_scale = (float)s[CPU_SGD_GRAD_SCALE];
    f.decay = (float)s[CPU_SGD_WEIGHT_DECAY];
    f.momentum = (float)s[CPU_SGD_MOMENTUM];
    f.into_buffer = (float)s[CPU_SGD_INTO_BUFFER];
    f.lr = (float)s[CPU_SGD_LR];
    f.of_gradient = !has_buffer || nesterov ? 1.0f : 0.0f;
    f.of_buffer = !has_buffer ? 0.0f : nesterov ? f.momentum : 1.0f;
    return f;
}

/* --- Lion ------------------------------------------------------------------------------------- */

typedef struct cpu_lion_factors {
    float grad_scale, decay, beta1, rest1, beta2, rest2, lr;
} cpu_lion_factors;

CPU_ANYWHERE cpu_lion_factors cpu_lion_factors_of(const double s[CPU_LION_N])
{
    cpu_lion_factors f;

    f.grad_scale = (float)s[CPU_LION_GRAD_SCALE];
    f.decay = (float)(1.0 - s[CPU_LION_LR] * s[CPU_LION_WEIGHT_DECAY]);
    f.beta1 = (float)s[CPU_LION_BETA1];
    f.rest1 = (float)(1.0 - s[CPU_LION_BETA1]);
    f.beta2 = (float)s[CPU_LION_BETA2];
    f.rest2 = (float)(1.0 - s[CPU_LION_BETA2]);
    f.lr = (float)s[CPU_LION_LR];
    return f;
}

/* --- Ranger ----------------------------------------------------------------------------------- */

typedef struct cpu_ranger_factors {
    float grad_scale, decay, beta1, rest1, beta2, rest2, step, alpha;
    float mean;           /* of a row of g, before its scale; 0 here */
    float of_root, below; /* the step is divided by of_root sqrt(v) + below */
    bool sync;
} cpu_ranger_factors;

CPU_ANYWHERE cpu_ranger_factors cpu_ranger_factors_of(const double s[CPU_RANGER_N])
{
    const bool rectified = s[CPU_RANGER_RECTIFIED] != 0.0;
    cpu_ranger_factors f;

    f.grad_scale = (float)s[CPU_RANGER_GRAD_SCALE];
    f.decay = (float)(1.0 - s[CPU_RANGER_LR] * s[CPU_RANGER_WEIGHT_DECAY]);
    f.beta1 = (float)s[CPU_RANGER_BETA1];
    f.rest1 = (float)(1.0 - s[CPU_RANGER_BETA1]);
    f.beta2 = (float)s[CPU_RANGER_BETA2];
    f.rest2 = (float)(1.0 - s[CPU_RANGER_BETA2]);
    f.step = (float)(s[CPU_RANGER_LR] * s[CPU_RANGER_RATIO]);
    f.alpha = (float)s[CPU_RANGER_ALPHA];
    f.mean = 0.0f;
    f.of_root = rectified ? 1.0f : 0.0f;
    f.below = rectified ? (float)s[CPU_RANGER_EPS] : 1.0f;
    f.sync = s[CPU_RANGER_SYNC] != 0.0;
    return f;
}

/* --- Prodigy ---------------------------------------------------------------------------------- */

typedef struct cpu_prodigy_factors {
    float grad_scale, coupled_decay, beta1, into_m, beta2, into_v, beta3, into_s;
} cpu_prodigy_factors;

typedef struct cpu_prodigy_step_factors {
    float decay, step, eps;
} cpu_prodigy_step_factors;

CPU_ANYWHERE void cpu_prodigy_begin(double state[CPU_PRODIGY_STATES], const double s[CPU_PRODIGY_N])
{
    const double next = state[CPU_PRODIGY_K] + 1.0;
    double correction = 1.0;

    if (s[CPU_PRODIGY_BIAS_CORRECTION] != 0.0)
        correction = sqrt(1.0 - pow(s[CPU_PRODIGY_BETA2], next)) / (1.0 - pow(s[CPU_PRODIGY_BETA1], next));
    state[CPU_PRODIGY_DLR] = state[CPU_PRODIGY_D] * s[CPU_PRODIGY_LR] * correction;
    state[CPU_PRODIGY_DOT] = 0.0;
    state[CPU_PRODIGY_DENOMINATOR] = 0.0;
    state[CPU_PRODIGY_MOVES] = 0.0;
}

CPU_ANYWHERE void cpu_prodigy_end(double state[CPU_PRODIGY_STATES], const double s[CPU_PRODIGY_N])
{
    const double d0 = s[CPU_PRODIGY_D0];
    double d = state[CPU_PRODIGY_D], estimate;

    if (state[CPU_PRODIGY_DENOMINATOR] == 0.0)
        return;
    state[CPU_PRODIGY_NUMERATOR] = s[CPU_PRODIGY_BETA3] * state[CPU_PRODIGY_NUMERATOR] +
                                   d / d0 * state[CPU_PRODIGY_DLR] * state[CPU_PRODIGY_DOT];
    estimate = s[CPU_PRODIGY_D_COEF] * state[CPU_PRODIGY_NUMERATOR] / state[CPU_PRODIGY_DENOMINATOR];
    if (d == d0)
        d = fmax(d, estimate);
    state[CPU_PRODIGY_D_MAX] = fmax(state[CPU_PRODIGY_D_MAX], estimate);
    state[CPU_PRODIGY_D] = fmin(state[CPU_PRODIGY_D_MAX], s[CPU_PRODIGY_GROWTH_RATE] * d);
    state[CPU_PRODIGY_K] += 1.0;
    state[CPU_PRODIGY_MOVES] = 1.0;
}

CPU_ANYWHERE cpu_prodigy_factors cpu_prodigy_factors_of(const double state[CPU_PRODIGY_STATES],
                                                        const double s[CPU_PRODIGY_N])
{
    const double d = state[CPU_PRODIGY_D];
    cpu_prodigy_factors f;

    f.grad_scale = (float)s[CPU_PRODIGY_GRAD_SCALE];
    f.coupled_decay = s[CPU_PRODIGY_DECOUPLE] == 0.0 ? (float)s[CPU_PRODIGY_WEIGHT_DECAY] : 0.0f;
    f.beta1 = (float)s[CPU_PRODIGY_BETA1];
    f.into_m = (float)(d * (1.0 - s[CPU_PRODIGY_BETA1]));
    f.beta2 = (float)s[CPU_PRODIGY_BETA2];
    f.into_v = (float)(d * d * (1.0 - s[CPU_PRODIGY_BETA2]));
    f.beta3 = (float)s[CPU_PRODIGY_BETA3];
    f.into_s = (float)(d / s[CPU_PRODIGY_D0] * (s[CPU_PRODIGY_SAFEGUARD_WARMUP] != 0.0 ? d : state[CPU_PRODIGY_DLR]));
    return f;
}

CPU_ANYWHERE cpu_prodigy_step_factors cpu_prodigy_step_factors_of(const double state[CPU_PRODIGY_STATES],
                                                                  const double s[CPU_PRODIGY_N])
{
    const double dlr = state[CPU_PRODIGY_DLR];
    cpu_prodigy_step_factors f;

    f.decay = (float)(1.0 - (s[CPU_PRODIGY_DECOUPLE] != 0.0 ? s[CPU_PRODIGY_WEIGHT_DECAY] * dlr : 0.0));
    f.step = (float)dlr;
    f.eps = (float)(state[CPU_PRODIGY_D] * s[CPU_PRODIGY_EPS]);
    return f;
}

/* --- Adafactor -------------------------------------------------------------------------------- */

typedef struct cpu_adafactor_factors {
    float grad_scale; /* and what belongs to a whole row */
    float step, decay, beta1, rest1;
} cpu_adafactor_factors;

/* sums of a tensor of n values */
CPU_ANYWHERE cpu_adafactor_factors cpu_adafactor_factors_of(const double sums[2], int64_t n,
                                                            const double s[CPU_ADAFACTOR_N])
{
    const double rms_u = sqrt(sums[0] / (double)n), rms_p = sqrt(sums[1] / (double)n);
    const double scale = s[CPU_ADAFACTOR_SCALE_PARAMETER] != 0.0 ? fmax(s[CPU_ADAFACTOR_EPS2], rms_p) : 1.0;
    const double a = scale * s[CPU_ADAFACTOR_RATE];
    cpu_adafactor_factors f;

    f.grad_scale = (float)s[CPU_ADAFACTOR_GRAD_SCALE];
    f.step = (float)(a / fmax(1.0, rms_u / s[CPU_ADAFACTOR_CLIP_THRESHOLD]));
    f.decay = (float)(1.0 - a * s[CPU_ADAFACTOR_WEIGHT_DECAY]);
    f.beta1 = (float)s[CPU_ADAFACTOR_BETA1];
    f.rest1 = (float)(1.0 - s[CPU_ADAFACTOR_BETA1]);
    return f;
}

#endif /* AG_CPU_OPTIMIZER_FACTORS_H */
