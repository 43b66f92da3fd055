/* norm.h - softmax, GroupNorm and LayerNorm on the CPU, forward and backward.
 *
 * x, y and their gradients are f32, or for GroupNorm and LayerNorm bf16; statistics, gamma, beta and
 * their gradients are f32. Tensors are contiguous. Variances are biased, epsilon stands inside the root.
 * Sums run in f32 over a few hundred values around a shift near the mean, and in double beyond, so
 * that a large mean with a tiny variance loses nothing.
 *
 * Memory  Nothing is allocated: scratch comes from the caller, 64-byte aligned.
 * Bits    The same on every run and for every number of threads; they differ between instruction
 *         sets. isa is a cpu_isa of autograd/cpu/isa.h.
 */
#ifndef AG_CPU_NORM_H
#define AG_CPU_NORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[r,:] = softmax(x[r,:]); x [R,C]. y may be x. */
void cpu_softmax(float *y, const float *x, int64_t rows, int64_t cols, int n_threads, int isa);
/* dx = y (dy - <dy, y>) by row; dx may be dy. */
void cpu_softmax_grad(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols,
                      int n_threads, int isa);

/* x [N,HW,C] with C = groups * (C / groups). */
typedef struct cpu_group_norm {
    int64_t n, hw, c, groups;
    double eps;
    bool silu; /* y = silu(z) with z the normalised, scaled and shifted x */
    ag_dtype type; /* of x, y, dx, dy: AG_F32 or AG_BF16 */
} cpu_group_norm;

/* y = (x - mean) rstd gamma + beta, then SiLU when asked.
 * y           [N,HW,C]; may be x
 * mean, rstd  [N,G], for the backward pass
 * gamma, beta [C]; NULL means ones, zeros */
size_t cpu_group_norm_scratch(const cpu_group_norm *s, int n_threads);
void cpu_group_norm_forward(void *y, float *mean, float *rstd, const cpu_group_norm *s,
                            const void *x, const float *gamma, const float *beta, void *scratch,
                            int n_threads, int isa);

/* dx [N,HW,C], dgamma, dbeta [C]; each may be NULL when not wanted. dx may be dy. */
size_t cpu_group_norm_grad_scratch(const cpu_group_norm *s, int n_threads);
void cpu_group_norm_backward(void *dx, float *dgamma, float *dbeta, const cpu_group_norm *s,
                             const void *x, const float *gamma, const float *beta,
                             const float *mean, const float *rstd, const void *dy, void *scratch,
                             int n_threads, int isa);

/* x [R,C] of `type`; mean, rstd [R]; gamma, beta [C] or NULL. y may be x. */
void cpu_layer_norm_forward(void *y, float *mean, float *rstd, const void *x, ag_dtype type,
                            const float *gamma, const float *beta, int64_t rows, int64_t cols,
                            double eps, int n_threads, int isa);

/* dx [R,C], dgamma, dbeta [C]; each may be NULL when not wanted. dx may be dy. */
size_t cpu_layer_norm_grad_scratch(int64_t rows, int64_t cols, int n_threads);
void cpu_layer_norm_backward(void *dx, float *dgamma, float *dbeta, const void *x, ag_dtype type,
                             const float *gamma, const float *mean, const float *rstd,
                             const void *dy, int64_t rows, int64_t cols, void *scratch,
                             int n_threads, int isa);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_NORM_H */
