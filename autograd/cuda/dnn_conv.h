/* dnn_conv.h - convolutions by cuDNN. For files in autograd/cuda/ only. */
#ifndef AG_CUDA_DNN_CONV_H
#define AG_CUDA_DNN_CONV_H

#include "autograd/cuda/conv.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cuda_dnn_plan cuda_dnn_plan;

typedef enum cuda_conv_form { CUDA_CONV_FORWARD, CUDA_CONV_DATA, CUDA_CONV_WEIGHTS } cuda_conv_form;

/* A convolution as cuDNN gets it: x, w, y and the bias are of one type, but dw is f32. In an adjoint dx stands in the
 * place of x, dw of w and D of y. */
typedef struct cuda_dnn_conv {
    cuda_conv_form form;
    cuda_conv sizes;
    ag_dtype type;
    const void *x, *w, *y;
    const void *bias; /* [O], forward only, or NULL */
} cuda_dnn_conv;

/* The plan for it, NULL: do it another way. Of the addresses only the alignment matters here. */
const cuda_dnn_plan *cuda_dnn_conv_plan(const ag_call *call, const cuda_dnn_conv *c);
size_t cuda_dnn_conv_scratch(const cuda_dnn_plan *plan);
ag_status cuda_dnn_conv_run(const ag_call *call, const cuda_dnn_plan *plan, const cuda_dnn_conv *c, void *scratch);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_DNN_CONV_H */
