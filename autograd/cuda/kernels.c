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
    {&ag_op_softmax, cuda_softmax, NULL},
    {&ag_op_softmax_backward, cuda_softmax_backward, NULL},
    {&ag_op_geglu, cuda_geglu, NULL},
    {&ag_op_geglu_backward, cuda_geglu_backward, NULL},
    {&ag_op_row_loss, cuda_row_loss, cuda_row_loss_scratch},
    {&ag_op_row_loss_backward, cuda_row_loss_backward, NULL},
    {&ag_op_add_, cuda_add_into, NULL},
    {&ag_op_scale_, cuda_scale_into, NULL},
    {&ag_op_fill_, cuda_fill, NULL},
    {&ag_op_lerp_, cuda_lerp_into, NULL},
    {&ag_op_add_sumsq_, cuda_add_sumsq, cuda_add_sumsq_scratch},
    {&ag_op_adamw_, cuda_adamw, cuda_adamw_scratch},
};

const ag_cuda_kernel *cuda_kernel_of(const ag_op *op)
{
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (KERNELS[i].op == op)
            return &KERNELS[i];
    return NULL;
}
