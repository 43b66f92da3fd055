/* optimizer.c - updates of one flat range and scans over it, cut into pieces and threads.
 *
 * The loops themselves are in optimizer_kernel.inc.h (the portable ones are built here) and
 * elementwise_kernel.inc.h, once per instruction set.
 */
#include "autograd/cpu/optimizer.h"

#include <math.h>

#include "autograd/cpu/isa.h"
#include "autograd/cpu/optimizer_kernel.inc.h"

static const cpu_optimizer_kernels *kernels_of(int isa)
{
    return isa >= CPU_ISA_AVX512 ? &cpu_optimizer_avx512
           : isa >= CPU_ISA_AVX2 ? &cpu_optimizer_avx2
                                 : &cpu_optimizer_portable;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

bool cpu_adamw(float *p, float *m, float *v, const float *g, int64_t n,
               const double scalars[CPU_ADAMW_N], int n_threads, int isa)
{
    const cpu_optimizer_kernels *k = kernels_of(isa);
    const double lr = scalars[CPU_ADAMW_LR];
    const cpu_adamw_factors f = {
        .grad_scale = (float)scalars[CPU_ADAMW_GRAD_SCALE],
        .decay = (float)(1.0 - lr * scalars[CPU_ADAMW_WEIGHT_DECAY]),
        .beta1 = (float)scalars[CPU_ADAMW_BETA1],
        .rest1 = (float)(1.0 - scalars[CPU_ADAMW_BETA1]),
        .beta2 = (float)scalars[CPU_ADAMW_BETA2],
        .rest2 = (float)(1.0 - scalars[CPU_ADAMW_BETA2]),
        .over_root2 = (float)(1.0 / sqrt(scalars[CPU_ADAMW_CORRECTION2])),
        .eps = (float)scalars[CPU_ADAMW_EPS],
        .step = (float)(lr / scalars[CPU_ADAMW_CORRECTION1]),
    };

    if (f.grad_scale == 0.0f && cpu_has_nonfinite(g, n, n_threads, isa))
        return false;
#pragma omp parallel for num_threads(cpu_team(n, n_threads)) schedule(static)
    for (int64_t i = 0; i < n; i += CPU_PIECE)
        k->adamw(p + i, m + i, v + i, g + i, least(CPU_PIECE, n - i), &f);
    return true;
}

size_t cpu_sumsq_scratch(int64_t n)
{
    return (size_t)((n + CPU_PIECE - 1) / CPU_PIECE) * sizeof(double);
}

double cpu_sumsq(const float *x, int64_t n, void *scratch, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    double *part = scratch, total = 0.0;

#pragma omp parallel for num_threads(cpu_team(n, n_threads)) schedule(static)
    for (int64_t i = 0; i < n; i += CPU_PIECE)
        part[i / CPU_PIECE] = k->sumsq(x + i, least(CPU_PIECE, n - i));
    for (int64_t i = 0; i < n; i += CPU_PIECE)
        total += part[i / CPU_PIECE];
    return total;
}

bool cpu_has_nonfinite(const float *x, int64_t n, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    bool found = false;

#pragma omp parallel for num_threads(cpu_team(n, n_threads)) schedule(static) reduction(|| : found)
    for (int64_t i = 0; i < n; i += CPU_PIECE)
        found = found || k->has_nonfinite(x + i, least(CPU_PIECE, n - i));
    return found;
}

int64_t cpu_first_nonfinite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return i;
    return -1;
}
