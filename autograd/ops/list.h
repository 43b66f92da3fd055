/* list.h - the table entry of every op, by file. For files in autograd/ops/ and the tests of ops.
 *
 * A new op gets its line here and in list.c; a test walks the list and names what an op lacks.
 */
#ifndef AG_OPS_LIST_H
#define AG_OPS_LIST_H

#include "autograd/op.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const ag_op ag_op_unary, ag_op_affine, ag_op_clamp, ag_op_clamp_backward;
extern const ag_op ag_op_add, ag_op_sub, ag_op_mul, ag_op_div, ag_op_maximum, ag_op_minimum,
    ag_op_step;
extern const ag_op ag_op_cast, ag_op_copy_;
extern const ag_op ag_op_reshape, ag_op_permute, ag_op_slice, ag_op_unslice, ag_op_concat,
    ag_op_broadcast;
extern const ag_op ag_op_sum;
extern const ag_op ag_op_matmul, ag_op_linear;
extern const ag_op ag_op_conv2d, ag_op_conv2d_backward_data, ag_op_conv2d_backward_weights;
extern const ag_op ag_op_layer_norm, ag_op_layer_norm_backward, ag_op_group_norm,
    ag_op_group_norm_backward;
extern const ag_op ag_op_softmax, ag_op_softmax_backward;
extern const ag_op ag_op_attention, ag_op_attention_backward, ag_op_attention_probs;
extern const ag_op ag_op_geglu, ag_op_geglu_backward;
extern const ag_op ag_op_upsample_nearest, ag_op_upsample_nearest_backward, ag_op_avg_pool2d,
    ag_op_avg_pool2d_backward, ag_op_pad2d, ag_op_pad2d_backward;
extern const ag_op ag_op_upfirdn2d;
extern const ag_op ag_op_embedding, ag_op_embedding_backward;
extern const ag_op ag_op_row_loss, ag_op_row_loss_backward;
extern const ag_op ag_op_timestep_embedding, ag_op_normal;
extern const ag_op ag_op_dropout;
extern const ag_op ag_op_add_, ag_op_scale_, ag_op_fill_, ag_op_lerp_, ag_op_sumsq_, ag_op_clip_, ag_op_loss_scale_;
extern const ag_op ag_op_adamw_, ag_op_adamw8bit_, ag_op_sgd_, ag_op_lion_, ag_op_ranger_,
    ag_op_prodigy_d_, ag_op_prodigy_moments_, ag_op_prodigy_step_, ag_op_adafactor_moments_,
    ag_op_adafactor_sums_, ag_op_adafactor_step_;

#ifdef __cplusplus
}
#endif

#endif /* AG_OPS_LIST_H */
