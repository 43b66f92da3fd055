/* gemm.h - matrix products on the device: cuBLASLt, and a kernel of our own where it has none.
 *
 *   c = op(a) op(b) + bias      or, accumulating, c += op(a) op(b)      a [M,K], b [K,N], row-major
 *
 * For files in autograd/cuda/ only.
 */
#ifndef AG_CUDA_GEMM_H
#define AG_CUDA_GEMM_H

#include "autograd/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cuda_product {
    int64_t m, n, k, batch;               /* batch: 0 means 1 */
    const void *a, *b;
    void *c;
    int64_t ld_a, ld_b, ld_c;             /* elements from one stored row to the next; 0: rows touch */
    int64_t stride_a, stride_b, stride_c; /* elements from one product of the batch to the next */
    bool transpose_a, transpose_b;        /* a is stored [K,M], b [N,K] */
    bool accumulate;                      /* c is f32 */
    ag_dtype a_type, b_type, c_type;      /* f32, bf16 or f16; one that is converted first has touching rows */
    const void *bias;                     /* [N] or NULL */
    ag_dtype bias_type;
} cuda_product;

/* Scratch for the product, and the product with it (64-byte aligned). */
size_t cuda_gemm_scratch(const ag_call *call, const cuda_product *p);
ag_status cuda_gemm(const ag_call *call, const cuda_product *p, void *scratch);

const char *cuda_gemm_library(void); /* the file name of cuBLASLt */

struct cuda_gemm_state;
void cuda_gemm_state_free(struct cuda_gemm_state *state);

/* gemm_tiled.cu: any types, no scratch. */
ag_status cuda_gemm_tiled(const ag_call *call, const cuda_product *p);

/* cast.cu: n numbers of any type into another one. */
ag_status cuda_cast_values(const ag_call *call, void *to, ag_dtype to_type, const void *from, ag_dtype from_type,
                           int64_t n);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_GEMM_H */
