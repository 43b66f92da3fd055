/* precision.c - see precision.h. */
#include "train/precision.h"

#include "autograd/cpu/state.h"
#include "autograd/op.h"

ag_dtype train_compute_dtype(ag_ctx *ctx, int mixed_precision)
{
    switch (mixed_precision) {
    case TRAIN_PRECISION_BF16:
        return AG_BF16;
    case TRAIN_PRECISION_FP16:
        if (ag_ctx_target(ctx) == AG_CUDA)
            return AG_F16;
        ag_fail(ctx, AG_EINVAL, "fp16 arithmetic wants --device cuda; on a CPU --mixed_precision is no or bf16");
        return AG_F32;
    case TRAIN_PRECISION_AUTO:
        if (ag_ctx_target(ctx) == AG_CUDA)
            return AG_BF16;
        return ag_cpu(ctx) && cpu_state_isa(ag_cpu(ctx)) == CPU_ISA_AMX ? AG_BF16 : AG_F32;
    default:
        return AG_F32;
    }
}

ag_dtype train_vae_dtype(ag_ctx *ctx, int vae_precision, ag_dtype compute)
{
    if (vae_precision == TRAIN_PRECISION_AUTO)
        return compute == AG_F16 ? AG_F32 : compute;
    return train_compute_dtype(ctx, vae_precision);
}
