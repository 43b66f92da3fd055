/* norm.c - chooses the norm kernels of an instruction set; holds the portable ones. */
#include "autograd/cpu/norm.h"

#include "autograd/cpu/isa.h"
#include "autograd/cpu/norm_kernel.inc.h"

static const cpu_norm_kernels *kernels_of(int isa)
{
    return isa >= CPU_ISA_AMX      ? &cpu_norm_amx
           : isa >= CPU_ISA_AVX512 ? &cpu_norm_avx512
           : isa >= CPU_ISA_AVX2   ? &cpu_norm_avx2
                                   : &cpu_norm_portable;
}

void cpu_softmax(float *y, const float *x, int64_t rows, int64_t cols, int n_threads, int isa)
{
    kernels_of(isa)->softmax(y, x, rows, cols, n_threads);
}

void cpu_softmax_grad(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols,
                      int n_threads, int isa)
{
    kernels_of(isa)->softmax_grad(dx, y, dy, rows, cols, n_threads);
}

size_t cpu_group_norm_scratch(const cpu_group_norm *s, int n_threads)
{
    const cpu_group_norm_plan plan = cpu_group_norm_plan_of(s, false);

    (void)n_threads; /* the chunks, not the threads, own the work space */
    return (size_t)(s->n * plan.chunks) * ((size_t)plan.chunk_doubles * sizeof(double) +
                                           (size_t)plan.chunk_floats * sizeof(float)) +
           (size_t)(s->n * s->groups) * sizeof(moments);
}

void cpu_group_norm_forward(void *y, float *mean, float *rstd, const cpu_group_norm *s,
                            const void *x, const float *gamma, const float *beta, void *scratch,
                            int n_threads, int isa)
{
    kernels_of(isa)->group_forward(y, mean, rstd, s, x, gamma, beta, scratch, n_threads);
}

size_t cpu_group_norm_grad_scratch(const cpu_group_norm *s, int n_threads)
{
    const cpu_group_norm_plan plan = cpu_group_norm_plan_of(s, true);

    (void)n_threads;
    return (size_t)(s->n * plan.chunks) * ((size_t)plan.chunk_doubles * sizeof(double) +
                                           (size_t)plan.chunk_floats * sizeof(float));
}

void cpu_group_norm_backward(void *dx, float *dgamma, float *dbeta, const cpu_group_norm *s,
                             const void *x, const float *gamma, const float *beta,
                             const float *mean, const float *rstd, const void *dy, void *scratch,
                             int n_threads, int isa)
{
    kernels_of(isa)->group_backward(dx, dgamma, dbeta, s, x, gamma, beta, mean, rstd, dy, scratch,
                                    n_threads);
}

void cpu_layer_norm_forward(void *y, float *mean, float *rstd, const void *x, ag_dtype type,
                            const float *gamma, const float *beta, int64_t rows, int64_t cols,
                            double eps, int n_threads, int isa)
{
    kernels_of(isa)->layer_forward(y, mean, rstd, x, type == AG_BF16, gamma, beta, rows, cols, eps,
                                   n_threads);
}

size_t cpu_layer_norm_grad_scratch(int64_t rows, int64_t cols, int n_threads)
{
    (void)n_threads;
    return (size_t)(cpu_norm_chunks(rows, cols) * 2 * cols) * (sizeof(double) + sizeof(float));
}

void cpu_layer_norm_backward(void *dx, float *dgamma, float *dbeta, const void *x, ag_dtype type,
                             const float *gamma, const float *mean, const float *rstd,
                             const void *dy, int64_t rows, int64_t cols, void *scratch,
                             int n_threads, int isa)
{
    kernels_of(isa)->layer_backward(dx, dgamma, dbeta, x, type == AG_BF16, gamma, mean, rstd, dy,
                                    rows, cols, scratch, n_threads);
}
