/* attention.h - softmax(scale q k^T) v on the CPU, forward and backward, scores never stored.
 *
 * Heads are contiguous slices of the channel axis: head h of row t of sample n of q starts at
 * q + (n * Tq + t) * ld_q + h * d. A row stride larger than heads * d lets q, k and v be slices of
 * one packed [N,T,3C] tensor.
 *
 * Source   Milakov & Gimelshein 2018, arXiv:1805.02867 (online softmax); Dao 2023,
 *          arXiv:2307.08691, algorithms 1 and 2 (blocks, the backward pass from log-sum-exp).
 * Memory   Nothing is allocated: the caller brings `scratch`, 64-byte aligned, of the size that the
 *          scratch function of the same name tells.
 * Bits     The same on every run and for every number of threads; they differ between instruction
 *          sets. A NaN or infinite score makes the rows it belongs to NaN, as in the definition.
 */
#ifndef AG_CPU_ATTENTION_H
#define AG_CPU_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cpu_attention {
    int64_t n, heads, d; /* batch, heads, size of a head (of q, k and v alike); all >= 1 */
    int64_t tq, tk;      /* queries and keys; >= 1 */
    float scale;         /* multiplies q k^T */
    bool causal;         /* query i sees key j only when j <= i */
} cpu_attention;

/* Forward.
 *
 * out  [N,Tq,H*d], row stride ld_out
 * lse  [N,H,Tq]: log sum_j exp(scale q k_j), natural logarithm; NULL when no gradient is wanted
 * q    [N,Tq,H*d], row stride ld_q; k and v [N,Tk,H*d], row strides ld_k and ld_v
 * isa  a cpu_isa of autograd/cpu/isa.h */
size_t cpu_attention_forward_scratch(const cpu_attention *a, int n_threads, int isa);
void cpu_attention_forward(float *out, int64_t ld_out, float *lse, const cpu_attention *a,
                           const float *q, int64_t ld_q, const float *k, int64_t ld_k,
                           const float *v, int64_t ld_v, void *scratch, int n_threads, int isa);

/* What the backward pass reads and writes. Row strides in floats. dq, dk and dv are overwritten;
 * they may be slices of one packed tensor, and none may overlap an input. */
typedef struct cpu_attention_grad {
    const float *q, *k, *v, *out, *dout;
    const float *lse; /* of the forward pass */
    float *dq, *dk, *dv;
    int64_t ld_q, ld_k, ld_v, ld_out, ld_dout, ld_dq, ld_dk, ld_dv;
} cpu_attention_grad;

/* Backward: with p = exp(scale q k^T - lse) and e_i = <dout_i, out_i>,
 *   dv = p^T dout      ds = p * (dout v^T - e)      dq = scale ds k      dk = scale ds^T q
 * p is computed again block by block. */
size_t cpu_attention_backward_scratch(const cpu_attention *a, int n_threads, int isa);
void cpu_attention_backward(const cpu_attention *a, const cpu_attention_grad *g, void *scratch,
                            int n_threads, int isa);

/* The same on bf16 tensors, where the processor multiplies bf16 tiles (CPU_ISA_AMX): products of bf16
 * numbers with sums in f32, maxima, sums and lse in f32. Probabilities and ds are rounded to bf16
 * before they are multiplied, so results carry errors of a bf16 rounding relative to the largest
 * terms of their sums. Strides in elements. */
bool cpu_attention_takes_bf16(int isa);
size_t cpu_attention_forward_bf16_scratch(const cpu_attention *a, int n_threads);
void cpu_attention_forward_bf16(uint16_t *out, int64_t ld_out, float *lse, const cpu_attention *a,
                                const uint16_t *q, int64_t ld_q, const uint16_t *k, int64_t ld_k,
                                const uint16_t *v, int64_t ld_v, void *scratch, int n_threads);

typedef struct cpu_attention_grad_bf16 {
    const uint16_t *q, *k, *v, *out, *dout;
    const float *lse;
    uint16_t *dq, *dk, *dv;
    int64_t ld_q, ld_k, ld_v, ld_out, ld_dout, ld_dq, ld_dk, ld_dv;
} cpu_attention_grad_bf16;

size_t cpu_attention_backward_bf16_scratch(const cpu_attention *a, int n_threads);
void cpu_attention_backward_bf16(const cpu_attention *a, const cpu_attention_grad_bf16 *g,
                                 void *scratch, int n_threads);

/* The probabilities themselves, [N,H,Tq,Tk], for small maps that somebody wants to look at; plain
 * loops. A masked key has probability 0. */
void cpu_attention_probs(float *probs, const cpu_attention *a, const float *q, int64_t ld_q,
                         const float *k, int64_t ld_k, int n_threads, int isa);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_ATTENTION_H */
