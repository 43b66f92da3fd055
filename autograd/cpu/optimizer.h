/* optimizer.h - updates of one flat f32 range in place, on the CPU.
 *
 * Bits do not depend on the number of threads. isa is a cpu_isa of autograd/cpu/isa.h.
 */
#ifndef AG_CPU_OPTIMIZER_H
#define AG_CPU_OPTIMIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Places of the scalars of one AdamW step; they live in a tensor, since they change by step. */
enum {
    CPU_ADAMW_LR,
    CPU_ADAMW_BETA1,
    CPU_ADAMW_BETA2,
    CPU_ADAMW_EPS,
    CPU_ADAMW_WEIGHT_DECAY,
    CPU_ADAMW_CORRECTION1, /* 1 - beta1^t */
    CPU_ADAMW_CORRECTION2, /* 1 - beta2^t */
    CPU_ADAMW_GRAD_SCALE,  /* multiplies g first */
    CPU_ADAMW_N
};

/* One AdamW step (Loshchilov & Hutter 2019, arXiv:1711.05101), in the order of PyTorch's AdamW:
 *   g' = grad_scale g
 *   p *= 1 - lr wd         m += (1 - beta1) (g' - m)         v = beta2 v + (1 - beta2) g'^2
 *   p -= lr / correction1 * m / (sqrt(v) / sqrt(correction2) + eps)
 * p, m, v, g [n], no two overlapping. The scalars are double because 1 - beta2 of an f32 beta2 of
 * 0.999 is already off by 1e-5.
 * Returns false, with p, m and v untouched, when grad_scale is 0 and g has a non-finite element
 * (clipping to a norm that overflowed); else true. */
bool cpu_adamw(float *p, float *m, float *v, const float *g, int64_t n,
               const double scalars[CPU_ADAMW_N], int n_threads, int isa);

/* Sum of squares, in double from blocks of f32 products. */
size_t cpu_sumsq_scratch(int64_t n);
double cpu_sumsq(const float *x, int64_t n, void *scratch, int n_threads, int isa);

/* Is any element infinite or NaN? */
bool cpu_has_nonfinite(const float *x, int64_t n, int n_threads, int isa);
/* Index of the first one, or -1. */
int64_t cpu_first_nonfinite(const float *x, int64_t n);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_OPTIMIZER_H */
