/* gemm.h - matrix products on the CPU.
 *
 *   C[b] = op(A[b]) op(B[b]) (+ bias)      b = 0..batch-1, row-major, f32 accumulation
 *
 * op(A) is [m,k], op(B) is [k,n], C is [m,n]; a transposed operand is stored [k,m] ([n,k]). Rows are
 * ld elements apart, matrices of a batch stride elements (0: the same one for all).
 * Elements are f32 or bf16; A and B may differ. Nothing is allocated but oneDNN's primitives, once
 * per shape: the caller brings `scratch`, 64-byte aligned, of the size that cpu_gemm_scratch tells.
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

typedef struct cpu_gemm {
    int64_t m, n, k, batch;
    bool transpose_a, transpose_b;
    ag_dtype a_dtype, b_dtype, c_dtype;
    int64_t ld_a, ld_b, ld_c;
    int64_t stride_a, stride_b, stride_c;
    const void *a, *b;
    void *c;
    const float *bias; /* [n], or NULL */
} cpu_gemm;

size_t cpu_gemm_scratch(cpu_state *state, const cpu_gemm *g);
/* AG_OK, or AG_EDEVICE when oneDNN refuses. */
ag_status cpu_gemm_run(cpu_state *state, const cpu_gemm *g, void *scratch);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_GEMM_H */
