/* optimizer.h - one step of an optimizer over one flat f32 range in place, on the CPU; sums of squares.
 *
 * p is the parameter and g its gradient, [n] each, like the states that a rule keeps; no two
 * overlap. The numbers of a step come as doubles in an array whose places are named here: they
 * live in a tensor, since they change from update to update, and 1 - beta2 of an f32 beta2 of
 * 0.999 would already be off by 1e-5. g' is grad_scale g everywhere.
 *
 * A step returns false, with everything untouched, when grad_scale is not a number (gradients of
 * which one is not finite); else true. Bits do not depend on the number of threads. isa is a
 * cpu_isa of autograd/cpu/isa.h.
 *
 * Rules with states of other shapes: autograd/cpu/adamw8bit.h, autograd/cpu/adafactor.h.
 */
#ifndef AG_CPU_OPTIMIZER_H
#define AG_CPU_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --- AdamW ------------------------------------------------------------------------------------ */

enum {
    CPU_ADAMW_LR,
    CPU_ADAMW_BETA1,
    CPU_ADAMW_BETA2,
    CPU_ADAMW_EPS,
    CPU_ADAMW_WEIGHT_DECAY,
    CPU_ADAMW_CORRECTION1, /* 1 - beta1^t */
    CPU_ADAMW_CORRECTION2, /* 1 - beta2^t */
    CPU_ADAMW_GRAD_SCALE,
    CPU_ADAMW_N
};

/* Loshchilov & Hutter 2019, arXiv:1711.05101, in the order of PyTorch's AdamW:
 *   p *= 1 - lr wd         m += (1 - beta1) (g' - m)         v = beta2 v + (1 - beta2) g'^2
 *   p -= lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps) */
bool cpu_adamw(float *p, float *m, float *v, const float *g, int64_t n,
               const double scalars[CPU_ADAMW_N], int n_threads, int isa);

/* --- SGD -------------------------------------------------------------------------------------- */

enum {
    CPU_SGD_LR,
    CPU_SGD_WEIGHT_DECAY,
    CPU_SGD_MOMENTUM,
    CPU_SGD_INTO_BUFFER, /* weight of the gradient in the buffer: 1 - dampening, 1 at first */
    CPU_SGD_NESTEROV,    /* 1 or 0 */
    CPU_SGD_GRAD_SCALE,
    CPU_SGD_N
};

/* As PyTorch's SGD; decay is a part of the gradient:
 *   d = g' + wd p          buffer = momentum buffer + into_buffer d
 *   p -= lr * (nesterov ? d + momentum buffer : buffer)
 * buffer NULL: no momentum, p -= lr d. */
bool cpu_sgd(float *p, float *buffer, const float *g, int64_t n, const double scalars[CPU_SGD_N],
             int n_threads, int isa);

/* --- Lion ------------------------------------------------------------------------------------- */

enum {
    CPU_LION_LR,
    CPU_LION_BETA1,
    CPU_LION_BETA2,
    CPU_LION_WEIGHT_DECAY,
    CPU_LION_GRAD_SCALE,
    CPU_LION_N
};

/* Chen et al. 2023, arXiv:2302.06675, algorithm 2 (google/automl: lion/lion_pytorch.py):
 *   p *= 1 - lr wd      p -= lr sign(beta1 m + (1 - beta1) g')      m = beta2 m + (1 - beta2) g' */
bool cpu_lion(float *p, float *m, const float *g, int64_t n, const double scalars[CPU_LION_N],
              int n_threads, int isa);

/* --- Ranger ----------------------------------------------------------------------------------- */

enum {
    CPU_RANGER_LR,
    CPU_RANGER_BETA1,
    CPU_RANGER_BETA2,
    CPU_RANGER_EPS,
    CPU_RANGER_WEIGHT_DECAY,
    CPU_RANGER_RATIO,     /* r of this update (optim/ranger.c) */
    CPU_RANGER_RECTIFIED, /* 1: divide by the root of v; 0: not yet */
    CPU_RANGER_ALPHA,
    CPU_RANGER_SYNC, /* 1: this update ends with the slow weights' step */
    CPU_RANGER_GRAD_SCALE,
    CPU_RANGER_N
};

/* RAdam with gradient centralisation and lookahead (lessw2020/Ranger-Deep-Learning-Optimizer:
 * ranger/ranger.py, 20.4.11), over n_rows rows of n / n_rows values:
 *   c = grad_scale (g - mean of g over its row); n_rows 0: c = g'
 *   v = beta2 v + (1 - beta2) c^2      m = beta1 m + (1 - beta1) c      p *= 1 - lr wd
 *   p -= lr ratio (rectified ? m / (sqrt(v) + eps) : m)
 *   sync: slow += alpha (p - slow), p = slow */
bool cpu_ranger(float *p, float *m, float *v, float *slow, const float *g, int64_t n,
                int64_t n_rows, const double scalars[CPU_RANGER_N], int n_threads, int isa);

/* --- Prodigy ---------------------------------------------------------------------------------- */

enum {
    CPU_PRODIGY_LR, /* 0: this tensor rests */
    CPU_PRODIGY_BETA1,
    CPU_PRODIGY_BETA2,
    CPU_PRODIGY_BETA3,
    CPU_PRODIGY_EPS,
    CPU_PRODIGY_WEIGHT_DECAY,
    CPU_PRODIGY_D0,
    CPU_PRODIGY_D_COEF,
    CPU_PRODIGY_GROWTH_RATE,
    CPU_PRODIGY_BIAS_CORRECTION, /* these three: 1 or 0 */
    CPU_PRODIGY_SAFEGUARD_WARMUP,
    CPU_PRODIGY_DECOUPLE,
    CPU_PRODIGY_GRAD_SCALE,
    CPU_PRODIGY_N
};

/* What is known of d, over all parameters together. The first four outlive an update. */
enum {
    CPU_PRODIGY_D,
    CPU_PRODIGY_D_MAX,
    CPU_PRODIGY_NUMERATOR,
    CPU_PRODIGY_K, /* updates that moved */
    CPU_PRODIGY_DLR,         /* d lr times the bias correction, with the d before this update */
    CPU_PRODIGY_DOT,         /* sum of g' (p0 - p) */
    CPU_PRODIGY_DENOMINATOR, /* sum of |s| */
    CPU_PRODIGY_MOVES,       /* 1: this update has a step */
    CPU_PRODIGY_STATES
};

/* Mishchenko & Defazio 2023, arXiv:2306.06101, as konstmish/prodigy: prodigyopt/prodigy.py. One
 * update is begin, moments of every tensor, end, step of every tensor.
 *   begin    dlr = d lr (bias_correction ? sqrt(1 - beta2^(k+1)) / (1 - beta1^(k+1)) : 1)
 *   moments  e = g' + (decouple ? 0 : wd p)         dot += <e, p0 - p>
 *            m = beta1 m + d (1 - beta1) e          v = beta2 v + d^2 (1 - beta2) e^2
 *            s = beta3 s + d/d0 (safeguard_warmup ? d : dlr) e        denominator += sum |s|
 *   end      without a denominator: no step. numerator = beta3 numerator + d/d0 dlr dot
 *            d^ = d_coef numerator / denominator    d = max(d, d^) if d is still d0
 *            d_max = max(d_max, d^)                 d = min(d_max, growth_rate d)      k += 1
 *   step     p -= (decouple ? wd dlr p : 0) + dlr m / (sqrt(v) + d eps), with the new d
 * begin and end are in autograd/cpu/optimizer_factors.h. */
size_t cpu_prodigy_scratch(int64_t n);
bool cpu_prodigy_moments(double state[CPU_PRODIGY_STATES], float *s, float *m, float *v,
                         const float *p, const float *p0, const float *g, int64_t n,
                         const double scalars[CPU_PRODIGY_N], void *scratch, int n_threads,
                         int isa);
void cpu_prodigy_step(float *p, const float *m, const float *v, int64_t n,
                      const double state[CPU_PRODIGY_STATES], const double scalars[CPU_PRODIGY_N],
                      int n_threads, int isa);

/* --- sums of squares -------------------------------------------------------------------------- */

/* Squares and their sum in double. */
size_t cpu_sumsq_scratch(int64_t n);
double cpu_sumsq(const float *x, int64_t n, void *scratch, int n_threads, int isa);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_OPTIMIZER_H */
