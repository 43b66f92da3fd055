/* dnn_attention.h - attention by cuDNN. For files in autograd/cuda/ only. */
#ifndef AG_CUDA_DNN_ATTENTION_H
#define AG_CUDA_DNN_ATTENTION_H

#include "autograd/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `heads` of the `beside` in q [n,tq,beside*d], k and v [n,tk,beside*d] */
typedef struct cuda_heads {
    int64_t n, heads, beside, tq, tk, d;
    int64_t with_lse; /* a flag */
} cuda_heads;

/* Scratch of the forward and backward pass by cuDNN; false: it has nothing for this call. */
bool cuda_dnn_attention_takes(const ag_call *call, size_t *scratch);
ag_status cuda_dnn_attention(const ag_call *call);
bool cuda_dnn_attention_backward_takes(const ag_call *call, size_t *scratch);
ag_status cuda_dnn_attention_backward(const ag_call *call);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_DNN_ATTENTION_H */
