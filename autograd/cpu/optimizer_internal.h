/* optimizer_internal.h - the table that each instruction set's optimizer kernels fill.
 *
 * Each updates one piece of at most CPU_PIECE elements and knows no threads; optimizer.c cuts
 * tensors into pieces. Private to autograd/cpu.
 */
#ifndef AG_CPU_OPTIMIZER_INTERNAL_H
#define AG_CPU_OPTIMIZER_INTERNAL_H

#include "autograd/cpu/elementwise_internal.h"
#include "autograd/cpu/optimizer.h"

/* The factors of one AdamW step, in the type of the update. */
typedef struct cpu_adamw_factors {
    float grad_scale, decay, beta1, rest1, beta2, rest2, over_root2, eps, step;
} cpu_adamw_factors;

typedef struct cpu_optimizer_kernels {
    void (*adamw)(float *p, float *m, float *v, const float *g, int64_t n,
                  const cpu_adamw_factors *f);
} cpu_optimizer_kernels;

extern const cpu_optimizer_kernels cpu_optimizer_portable, cpu_optimizer_avx2,
    cpu_optimizer_avx512;

#endif /* AG_CPU_OPTIMIZER_INTERNAL_H */
