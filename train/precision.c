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
        ag_fail(ctx, AG_EUNSUPPORTED, "--mixed_precision fp16: a GPU's matter; on a CPU use no or bf16");
        return AG_F32;
    case TRAIN_PRECISION_AUTO:
        return ag_cpu(ctx) && cpu_state_isa(ag_cpu(ctx)) == CPU_ISA_AMX ? AG_BF16 : AG_F32;
    default:
        return AG_F32;
    }
}
