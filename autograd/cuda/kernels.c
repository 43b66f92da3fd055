/* kernels.c - which kernel runs which op. An op without a line has none, and says so when it is run. */
#include "autograd/cuda/kernels.h"

#include "autograd/cuda/internal.h"
#include "autograd/ops/list.h"

static const ag_cuda_kernel KERNELS[] = {
    {&ag_op_unary, .run = cuda_unary},
    {&ag_op_affine, .run = cuda_affine},
    {&ag_op_clamp, .run = cuda_clamp},
    {&ag_op_clamp_backward, .run = cuda_clamp_backward},
    {&ag_op_add, .run = cuda_add},
    {&ag_op_sub, .run = cuda_sub},
    {&ag_op_mul, .run = cuda_mul},
    {&ag_op_div, .run = cuda_div},
    {&ag_op_maximum, .run = cuda_maximum},
    {&ag_op_minimum, .run = cuda_minimum},
    {&ag_op_step, .run = cuda_step},
    {&ag_op_cast, .run = cuda_cast},
    {&ag_op_copy_, .run = cuda_copy},
    {&ag_op_permute, .run = cuda_permute},
    {&ag_op_slice, .run = cuda_slice},
    {&ag_op_unslice, .run = cuda_unslice},
    {&ag_op_concat, .run = cuda_concat},
    {&ag_op_broadcast, .run = cuda_broadcast},
    {&ag_op_sum, .run = cuda_sum, .scratch = cuda_sum_scratch},
    {&ag_op_matmul, .run = cuda_matmul, .scratch = cuda_matmul_scratch},
    {&ag_op_linear, .run = cuda_linear, .scratch = cuda_linear_scratch},
    {&ag_op_conv2d, .run = cuda_conv2d, .scratch = cuda_conv2d_scratch},
    {&ag_op_conv2d_backward_data, .run = cuda_conv2d_backward_data, .scratch = cuda_conv2d_backward_data_scratch},
    {&ag_op_conv2d_backward_weights, .run = cuda_conv2d_backward_weights, .scratch = cuda_conv2d_backward_weights_scratch},
    {&ag_op_attention, .run = cuda_attention, .scratch = cuda_attention_scratch},
    {&ag_op_attention_backward, .run = cuda_attention_backward, .scratch = cuda_attention_backward_scratch},
    {&ag_op_attention_probs, .run = cuda_attention_probs},
    {&ag_op_layer_norm, .run = cuda_layer_norm},
    {&ag_op_layer_norm_backward, .run = cuda_layer_norm_backward, .scratch = cuda_layer_norm_backward_scratch},
    {&ag_op_group_norm, .run = cuda_group_norm, .scratch = cuda_group_norm_scratch},
    {&ag_op_group_norm_backward, .run = cuda_group_norm_backward, .scratch = cuda_group_norm_backward_scratch},
    {&ag_op_softmax, .run = cuda_softmax},
    {&ag_op_softmax_backward, .run = cuda_softmax_backward},
    {&ag_op_geglu, .run = cuda_geglu},
    {&ag_op_geglu_backward, .run = cuda_geglu_backward},
    {&ag_op_upsample_nearest, .run = cuda_upsample_nearest},
    {&ag_op_upsample_nearest_backward, .run = cuda_upsample_nearest_backward},
    {&ag_op_avg_pool2d, .run = cuda_avg_pool2d},
    {&ag_op_avg_pool2d_backward, .run = cuda_avg_pool2d_backward},
    {&ag_op_pad2d, .run = cuda_pad2d},
    {&ag_op_pad2d_backward, .run = cuda_pad2d_backward},
    {&ag_op_upfirdn2d, .run = cuda_upfirdn2d},
    {&ag_op_embedding, .run = cuda_embedding},
    {&ag_op_embedding_backward, .run = cuda_embedding_backward},
    {&ag_op_timestep_embedding, .run = cuda_timestep_embedding},
    {&ag_op_normal, .run = cuda_normal},
    {&ag_op_dropout, .run = cuda_dropout},
    {&ag_op_row_loss, .run = cuda_row_loss, .scratch = cuda_row_loss_scratch},
    {&ag_op_row_loss_backward, .run = cuda_row_loss_backward},
    {&ag_op_add_, .run = cuda_add_into},
    {&ag_op_scale_, .run = cuda_scale_into},
    {&ag_op_fill_, .each = cuda_fill_each},
    {&ag_op_lerp_, .each = cuda_lerp_each},
    {&ag_op_sumsq_, .scratch = cuda_sumsq_scratch, .each = cuda_sumsq_each},
    {&ag_op_clip_, .run = cuda_clip},
    {&ag_op_loss_scale_, .run = cuda_loss_scale},
    {&ag_op_adamw_, .each = cuda_adamw_each},
    {&ag_op_sgd_, .each = cuda_sgd_each},
    {&ag_op_lion_, .each = cuda_lion_each},
    {&ag_op_ranger_, .scratch = cuda_ranger_scratch, .each = cuda_ranger_each},
    {&ag_op_prodigy_d_, .run = cuda_prodigy_d},
    {&ag_op_prodigy_moments_, .scratch = cuda_prodigy_moments_scratch, .each = cuda_prodigy_moments_each},
    {&ag_op_prodigy_step_, .each = cuda_prodigy_step_each},
    {&ag_op_adamw8bit_, .each = cuda_adamw8bit_each},
    {&ag_op_adafactor_moments_, .each = cuda_adafactor_moments_each},
    {&ag_op_adafactor_sums_, .scratch = cuda_adafactor_sums_scratch, .each = cuda_adafactor_sums_each},
    {&ag_op_adafactor_step_, .scratch = cuda_adafactor_step_scratch, .each = cuda_adafactor_step_each},
};

int cuda_kernel_index(const ag_op *op)
{
    const int n = (int)(sizeof KERNELS / sizeof *KERNELS);

    for (int i = 0; i < n; i++)
        if (KERNELS[i].op == op)
            return i;
    return -1;
}

const char *cuda_kernel_name(int index)
{
    return KERNELS[index].op->name;
}

const ag_cuda_kernel *cuda_kernel_of(const ag_op *op)
{
    const int index = cuda_kernel_index(op);

    return index < 0 ? NULL : &KERNELS[index];
}
