/* list.c - every op there is; see list.h. */
#include "autograd/ops/list.h"

#include <stddef.h>

const ag_op *const ag_op_list[] = {
    &ag_op_unary, &ag_op_affine, &ag_op_clamp, &ag_op_clamp_backward,
    &ag_op_add, &ag_op_sub, &ag_op_mul, &ag_op_div, &ag_op_maximum, &ag_op_minimum, &ag_op_step,
    &ag_op_cast, &ag_op_copy_,
    &ag_op_reshape, &ag_op_permute, &ag_op_slice, &ag_op_unslice, &ag_op_concat,
    &ag_op_broadcast,
    &ag_op_sum,
    &ag_op_matmul, &ag_op_linear,
    &ag_op_conv2d, &ag_op_conv2d_backward_data, &ag_op_conv2d_backward_weights,
    &ag_op_layer_norm, &ag_op_layer_norm_backward, &ag_op_group_norm,
    &ag_op_group_norm_backward,
    &ag_op_softmax, &ag_op_softmax_backward,
    &ag_op_attention, &ag_op_attention_backward, &ag_op_attention_probs,
    &ag_op_geglu, &ag_op_geglu_backward,
    &ag_op_upsample_nearest, &ag_op_upsample_nearest_backward, &ag_op_avg_pool2d,
    &ag_op_avg_pool2d_backward, &ag_op_pad2d, &ag_op_pad2d_backward,
    &ag_op_upfirdn2d,
    &ag_op_embedding, &ag_op_embedding_backward,
    &ag_op_row_loss, &ag_op_row_loss_backward,
    &ag_op_timestep_embedding, &ag_op_normal,
    &ag_op_dropout,
    &ag_op_add_, &ag_op_scale_, &ag_op_fill_, &ag_op_lerp_, &ag_op_sumsq_, &ag_op_clip_, &ag_op_loss_scale_,
    &ag_op_adamw_, &ag_op_adamw8bit_, &ag_op_sgd_, &ag_op_lion_, &ag_op_ranger_,
    &ag_op_prodigy_d_, &ag_op_prodigy_moments_, &ag_op_prodigy_step_,
    &ag_op_adafactor_moments_, &ag_op_adafactor_sums_, &ag_op_adafactor_step_,
    NULL,
};
