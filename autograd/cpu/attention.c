/* attention.c - chooses the attention kernels of an instruction set; holds the portable ones. */
#include "autograd/cpu/attention.h"

#include "autograd/cpu/attention_kernel.inc.h"
#include "autograd/cpu/isa.h"

static const cpu_attention_kernels *kernels_of(int isa)
{
    return isa >= CPU_ISA_AVX512 ? &cpu_attention_avx512
           : isa >= CPU_ISA_AVX2 ? &cpu_attention_avx2
                                 : &cpu_attention_portable;
}

size_t cpu_attention_forward_scratch(const cpu_attention *a, int n_threads, int isa)
{
    return kernels_of(isa)->forward_scratch(a, n_threads);
}

void cpu_attention_forward(float *out, int64_t ld_out, float *lse, const cpu_attention *a,
                           const float *q, int64_t ld_q, const float *k, int64_t ld_k,
                           const float *v, int64_t ld_v, void *scratch, int n_threads, int isa)
{
    const cpu_attention_forward_args io = {.out = out, .lse = lse, .q = q, .k = k, .v = v,
                                           .ld_out = ld_out, .ld_q = ld_q, .ld_k = ld_k,
                                           .ld_v = ld_v};
    kernels_of(isa)->forward(a, &io, scratch, n_threads);
}

size_t cpu_attention_backward_scratch(const cpu_attention *a, int n_threads, int isa)
{
    return kernels_of(isa)->backward_scratch(a, n_threads);
}

void cpu_attention_backward(const cpu_attention *a, const cpu_attention_grad *g, void *scratch,
                            int n_threads, int isa)
{
    kernels_of(isa)->backward(a, g, scratch, n_threads);
}

bool cpu_attention_takes_bf16(int isa)
{
    return isa >= CPU_ISA_AMX;
}

size_t cpu_attention_forward_bf16_scratch(const cpu_attention *a, int n_threads)
{
    return attention_amx_forward_scratch(a, n_threads);
}

void cpu_attention_forward_bf16(uint16_t *out, int64_t ld_out, float *lse, const cpu_attention *a,
                                const uint16_t *q, int64_t ld_q, const uint16_t *k, int64_t ld_k,
                                const uint16_t *v, int64_t ld_v, void *scratch, int n_threads)
{
    const cpu_attention_forward_bf16_args io = {.out = out, .lse = lse, .q = q, .k = k, .v = v,
                                                .ld_out = ld_out, .ld_q = ld_q, .ld_k = ld_k,
                                                .ld_v = ld_v};
    attention_amx_forward(a, &io, scratch, n_threads);
}

size_t cpu_attention_backward_bf16_scratch(const cpu_attention *a, int n_threads)
{
    return attention_amx_backward_scratch(a, n_threads);
}

void cpu_attention_backward_bf16(const cpu_attention *a, const cpu_attention_grad_bf16 *g,
                                 void *scratch, int n_threads)
{
    attention_amx_backward(a, g, scratch, n_threads);
}

void cpu_attention_probs(float *probs, const cpu_attention *a, const float *q, int64_t ld_q,
                         const float *k, int64_t ld_k, int n_threads, int isa)
{
    kernels_of(isa)->probs(probs, a, q, ld_q, k, ld_k, n_threads);
}
