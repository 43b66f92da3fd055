/* kernels.c - which kernel runs which op. An op without a line has none, and says so when it is run. */
#include "autograd/cuda/kernels.h"

#include "autograd/cuda/internal.h"
#include "autograd/ops/list.h"

static const ag_cuda_kernel KERNELS[] = {
    {&ag_op_unary, cuda_unary, NULL},
    {&ag_op_affine, cuda_affine, NULL},
    {&ag_op_clamp, cuda_clamp, NULL},
    {&ag_op_clamp_backward, cuda_clamp_backward, NULL},
    {&ag_op_add, cuda_add, NULL},
    {&ag_op_sub, cuda_sub, NULL},
    {&ag_op_mul, cuda_mul, NULL},
    {&ag_op_div, cuda_div, NULL},
    {&ag_op_maximum, cuda_maximum, NULL},
    {&ag_op_minimum, cuda_minimum, NULL},
    {&ag_op_step, cuda_step, NULL},
    {&ag_op_cast, cuda_cast, NULL},
    {&ag_op_copy_, cuda_copy, NULL},
    {&ag_op_permute, cuda_permute, NULL},
    {&ag_op_slice, cuda_slice, NULL},
    {&ag_op_unslice, cuda_unslice, NULL},
    {&ag_op_concat, cuda_concat, NULL},
    {&ag_op_broadcast, cuda_broadcast, NULL},
    {&ag_op_sum, cuda_sum, cuda_sum_scratch},
    {&ag_op_matmul, cuda_matmul, cuda_matmul_scratch},
    {&ag_op_linear, cuda_linear, cuda_linear_scratch},
    {&ag_op_conv2d, cuda_conv2d, cuda_conv2d_scratch},
    {&ag_op_conv2d_backward_data, cuda_conv2d_backward_data, cuda_conv2d_backward_data_scratch},
    {&ag_op_conv2d_backward_weights, cuda_conv2d_backward_weights, cuda_conv2d_backward_weights_scratch},
    {&ag_op_attention, cuda_attention, NULL},
    {&ag_op_attention_backward, cuda_attention_backward, cuda_attention_backward_scratch},
    {&ag_op_attention_probs, cuda_attention_probs, NULL},
    {&ag_op_layer_norm, cuda_layer_norm, NULL},
    {&ag_op_layer_norm_backward, cuda_layer_norm_backward, cuda_layer_norm_backward_scratch},
    {&ag_op_group_norm, cuda_group_norm, cuda_group_norm_scratch},
    {&ag_op_group_norm_backward, cuda_group_norm_backward, cuda_group_norm_backward_scratch},
    {&ag_op_softmax, cuda_softmax, NULL},
    {&ag_op_softmax_backward, cuda_softmax_backward, NULL},
    {&ag_op_geglu, cuda_geglu, NULL},
    {&ag_op_geglu_backward, cuda_geglu_backward, NULL},
    {&ag_op_upsample_nearest, cuda_upsample_nearest, NULL},
    {&ag_op_upsample_nearest_backward, cuda_upsample_nearest_backward, NULL},
    {&ag_op_avg_pool2d, cuda_avg_pool2d, NULL},
    {&ag_op_avg_pool2d_backward, cuda_avg_pool2d_backward, NULL},
    {&ag_op_pad2d, cuda_pad2d, NULL},
    {&ag_op_pad2d_backward, cuda_pad2d_backward, NULL},
    {&ag_op_upfirdn2d, cuda_upfirdn2d, NULL},
    {&ag_op_embedding, cuda_embedding, NULL},
    {&ag_op_embedding_backward, cuda_embedding_backward, NULL},
    {&ag_op_timestep_embedding, cuda_timestep_embedding, NULL},
    {&ag_op_normal, cuda_normal, NULL},
    {&ag_op_dropout, cuda_dropout, NULL},
    {&ag_op_row_loss, cuda_row_loss, cuda_row_loss_scratch},
    {&ag_op_row_loss_backward, cuda_row_loss_backward, NULL},
    {&ag_op_add_, cuda_add_into, NULL},
    {&ag_op_scale_, cuda_scale_into, NULL},
    {&ag_op_fill_, cuda_fill, NULL},
    {&ag_op_lerp_, cuda_lerp_into, NULL},
    {&ag_op_add_sumsq_, cuda_add_sumsq, cuda_add_sumsq_scratch},
    {&ag_op_adamw_, cuda_adamw, cuda_adamw_scratch},
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
