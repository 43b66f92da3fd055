/* gemm.h - matrix products on the CPU.
 *
 *   C = alpha op(A) op(B) + beta C + bias        op(A) [M,K], op(B) [K,N], C [M,N], bias [N]
 *
 * Row-major with a row stride; one product or a batch of them. f32 and bf16 operands, sums in f32.
 *
 * Source   Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication"; Van Zee
 *          & van de Geijn 2015, "BLIS" (panels, register tile).
 * Memory   Nothing is allocated: the caller brings `scratch`, 64-byte aligned, of the size that
 *          cpu_gemm_scratch tells for the same state and call. (oneDNN's compiled primitives are
 *          made at the first call of a shape and kept in the state.)
 * Bits     f32: the same on every run and for every number of threads; they differ between
 *          instruction sets. bf16 on oneDNN: the same for the same number of threads.
 */
#ifndef AG_CPU_GEMM_H
#define AG_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/cpu/state.h"
#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cpu_gemm_call {
    int64_t m, n, k; /* >= 0; k == 0 gives beta C + bias */

    /* A is [M,K] with row stride lda, or [K,M] when transpose_a; B is [K,N], or [N,K] when
     * transpose_b. Strides in elements; 0 means contiguous. */
    const void *a, *b;
    void *c;
    int64_t lda, ldb, ldc;
    bool transpose_a, transpose_b;
    ag_dtype a_type, b_type, c_type; /* AG_F32 or AG_BF16 each */

    /* batch products; product i starts at a + i * stride_a elements, ... Stride 0 is the same
     * matrix for all (never for C). batch 0 means 1. */
    int64_t batch, stride_a, stride_b, stride_c;

    float alpha;       /* as given: 0 is zero */
    float beta;        /* 0: C is not read and may hold anything */
    const float *bias; /* [N], added to every row of every product; or NULL */
    const void *plus;  /* as C, added (in f32 and on AMX as C is written), with beta 0; or NULL */
} cpu_gemm_call;

size_t cpu_gemm_scratch(cpu_state *state, const cpu_gemm_call *call);
/* C must not overlap A, B or bias. Returns false only when oneDNN failed (no memory); C is then
 * undefined. */
bool cpu_gemm(cpu_state *state, const cpu_gemm_call *call, void *scratch)
    __attribute__((warn_unused_result));

/* What would run this call: "own avx2", "onednn brg:avx512_core_amx_bf16", ...; for tests and
 * profiles. The text lives as long as the state. */
const char *cpu_gemm_kernel_name(cpu_state *state, const cpu_gemm_call *call);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_GEMM_H */
