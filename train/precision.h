/* precision.h - in which precision a run computes. */
#ifndef TRAIN_PRECISION_H
#define TRAIN_PRECISION_H

#include "autograd/tensor.h"
#include "train/options.h"

/* The element type of activations for --mixed_precision: `auto` is bf16 where that is faster (a CPU with
 * AMX, any GPU that this program has kernels for), f32 elsewhere. AG_EINVAL for fp16 on a CPU. On AG_META as on
 * ag_ctx_target(). */
ag_dtype train_compute_dtype(ag_ctx *ctx, int mixed_precision);
/* That of the VAE for --vae_precision: `auto` is as the rest, which computes in `compute`, but f32 beside f16, whose
 * range a decoder may leave. */
ag_dtype train_vae_dtype(ag_ctx *ctx, int vae_precision, ag_dtype compute);

#endif /* TRAIN_PRECISION_H */
