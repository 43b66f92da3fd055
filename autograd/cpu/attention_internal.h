/* attention_internal.h - the table that each instruction set's attention kernels fill.
 *
 * Private to autograd/cpu/attention*.c; callers use autograd/cpu/attention.h.
 */
#ifndef AG_CPU_ATTENTION_INTERNAL_H
#define AG_CPU_ATTENTION_INTERNAL_H

#include "autograd/cpu/attention.h"

typedef struct cpu_attention_forward_args {
    float *out, *lse; /* lse may be NULL */
    const float *q, *k, *v;
    int64_t ld_out, ld_q, ld_k, ld_v;
} cpu_attention_forward_args;

typedef struct cpu_attention_kernels {
    size_t (*forward_scratch)(const cpu_attention *a, int n_threads);
    void (*forward)(const cpu_attention *a, const cpu_attention_forward_args *io, void *scratch,
                    int n_threads);
    size_t (*backward_scratch)(const cpu_attention *a, int n_threads);
    void (*backward)(const cpu_attention *a, const cpu_attention_grad *io, void *scratch,
                     int n_threads);
    void (*probs)(float *probs, const cpu_attention *a, const float *q, int64_t ld_q,
                  const float *k, int64_t ld_k, int n_threads);
} cpu_attention_kernels;

extern const cpu_attention_kernels cpu_attention_portable, cpu_attention_avx2,
    cpu_attention_avx512;

/* bf16 on AMX (attention_forward_amx.c, attention_backward_amx.c). */
typedef struct cpu_attention_forward_bf16_args {
    uint16_t *out;
    float *lse; /* may be NULL */
    const uint16_t *q, *k, *v;
    int64_t ld_out, ld_q, ld_k, ld_v;
} cpu_attention_forward_bf16_args;

size_t attention_amx_forward_scratch(const cpu_attention *a, int n_threads);
void attention_amx_forward(const cpu_attention *a, const cpu_attention_forward_bf16_args *io,
                           void *scratch, int n_threads);
size_t attention_amx_backward_scratch(const cpu_attention *a, int n_threads);
void attention_amx_backward(const cpu_attention *a, const cpu_attention_grad_bf16 *io, void *scratch,
                            int n_threads);

#endif /* AG_CPU_ATTENTION_INTERNAL_H */
