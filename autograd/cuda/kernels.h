/* kernels.h - the kernel of each op on a CUDA device, by file. For files in autograd/cuda/ only.
 *
 * Each queues its work on the context's stream and returns; it never waits and never allocates but by
 * ag_scratch(). A function named *_scratch tells what that will be; one named *_each runs many calls.
 */
#ifndef AG_CUDA_KERNELS_H
#define AG_CUDA_KERNELS_H

#include "autograd/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* unary.cu */
ag_status cuda_unary(ag_call *call);
ag_status cuda_affine(ag_call *call);
ag_status cuda_clamp(ag_call *call);
ag_status cuda_clamp_backward(ag_call *call);

/* binary.cu */
ag_status cuda_add(ag_call *call);
ag_status cuda_sub(ag_call *call);
ag_status cuda_mul(ag_call *call);
ag_status cuda_div(ag_call *call);
ag_status cuda_maximum(ag_call *call);
ag_status cuda_minimum(ag_call *call);
ag_status cuda_step(ag_call *call);

/* cast.cu */
ag_status cuda_cast(ag_call *call);
ag_status cuda_copy(ag_call *call);

/* shape.cu */
ag_status cuda_permute(ag_call *call);
ag_status cuda_slice(ag_call *call);
ag_status cuda_unslice(ag_call *call);
ag_status cuda_concat(ag_call *call);
ag_status cuda_broadcast(ag_call *call);

/* reduce.cu */
ag_status cuda_sum(ag_call *call);
size_t cuda_sum_scratch(const ag_call *call);

/* matmul.c */
ag_status cuda_matmul(ag_call *call);
size_t cuda_matmul_scratch(const ag_call *call);
ag_status cuda_linear(ag_call *call);
size_t cuda_linear_scratch(const ag_call *call);

/* conv2d.c */
ag_status cuda_conv2d(ag_call *call);
size_t cuda_conv2d_scratch(const ag_call *call);
ag_status cuda_conv2d_backward_data(ag_call *call);
size_t cuda_conv2d_backward_data_scratch(const ag_call *call);
ag_status cuda_conv2d_backward_weights(ag_call *call);
size_t cuda_conv2d_backward_weights_scratch(const ag_call *call);

/* attention.cu */
ag_status cuda_attention(ag_call *call);
size_t cuda_attention_scratch(const ag_call *call);
ag_status cuda_attention_backward(ag_call *call);
size_t cuda_attention_backward_scratch(const ag_call *call);
ag_status cuda_attention_probs(ag_call *call);

/* norm.cu */
ag_status cuda_layer_norm(ag_call *call);
ag_status cuda_layer_norm_backward(ag_call *call);
size_t cuda_layer_norm_backward_scratch(const ag_call *call);
ag_status cuda_group_norm(ag_call *call);
size_t cuda_group_norm_scratch(const ag_call *call);
ag_status cuda_group_norm_backward(ag_call *call);
size_t cuda_group_norm_backward_scratch(const ag_call *call);

/* softmax.cu */
ag_status cuda_softmax(ag_call *call);
ag_status cuda_softmax_backward(ag_call *call);

/* geglu.cu */
ag_status cuda_geglu(ag_call *call);
ag_status cuda_geglu_backward(ag_call *call);

/* resample.cu */
ag_status cuda_upsample_nearest(ag_call *call);
ag_status cuda_upsample_nearest_backward(ag_call *call);
ag_status cuda_avg_pool2d(ag_call *call);
ag_status cuda_avg_pool2d_backward(ag_call *call);
ag_status cuda_pad2d(ag_call *call);
ag_status cuda_pad2d_backward(ag_call *call);

/* upfirdn2d.cu */
ag_status cuda_upfirdn2d(ag_call *call);

/* embedding.cu */
ag_status cuda_embedding(ag_call *call);
ag_status cuda_embedding_backward(ag_call *call);

/* source.cu */
ag_status cuda_timestep_embedding(ag_call *call);
ag_status cuda_normal(ag_call *call);

/* dropout.cu */
ag_status cuda_dropout(ag_call *call);

/* loss.cu */
ag_status cuda_row_loss(ag_call *call);
size_t cuda_row_loss_scratch(const ag_call *call);
ag_status cuda_row_loss_backward(ag_call *call);

/* inplace.cu */
ag_status cuda_add_into(ag_call *call);
ag_status cuda_scale_into(ag_call *call);
ag_status cuda_fill_each(const ag_call *calls, int n);
ag_status cuda_lerp_each(const ag_call *calls, int n);
ag_status cuda_sumsq_each(const ag_call *calls, int n);
size_t cuda_sumsq_scratch(const ag_call *call);
ag_status cuda_clip(ag_call *call);
ag_status cuda_loss_scale(ag_call *call);

/* optimizer.cu */
ag_status cuda_adamw_each(const ag_call *calls, int n);
ag_status cuda_sgd_each(const ag_call *calls, int n);
ag_status cuda_lion_each(const ag_call *calls, int n);
ag_status cuda_ranger_each(const ag_call *calls, int n);
size_t cuda_ranger_scratch(const ag_call *call);
ag_status cuda_prodigy_d(ag_call *call);
ag_status cuda_prodigy_moments_each(const ag_call *calls, int n);
size_t cuda_prodigy_moments_scratch(const ag_call *call);
ag_status cuda_prodigy_step_each(const ag_call *calls, int n);

/* adamw8bit.cu */
ag_status cuda_adamw8bit_each(const ag_call *calls, int n);

/* adafactor.cu */
ag_status cuda_adafactor_moments_each(const ag_call *calls, int n);
ag_status cuda_adafactor_sums_each(const ag_call *calls, int n);
size_t cuda_adafactor_sums_scratch(const ag_call *call);
ag_status cuda_adafactor_step_each(const ag_call *calls, int n);
size_t cuda_adafactor_step_scratch(const ag_call *call);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_KERNELS_H */
