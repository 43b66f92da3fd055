/* precision.h - in which precision a run computes. */
#ifndef TRAIN_PRECISION_H
#define TRAIN_PRECISION_H

#include "autograd/tensor.h"
#include "train/options.h"

/* The element type of activations for --mixed_precision: `auto` is bf16 where that is faster (a CPU with
 * AMX), f32 elsewhere. AG_EUNSUPPORTED for fp16 on a CPU. */
ag_dtype train_compute_dtype(ag_ctx *ctx, int mixed_precision);

#endif /* TRAIN_PRECISION_H */
