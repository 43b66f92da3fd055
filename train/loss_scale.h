/* loss_scale.h - what the loss of a run in f16 is multiplied by, so that its gradients stay inside f16's range.
 *
 * The rules and numbers are those of PyTorch's GradScaler (pytorch/pytorch: torch/amp/grad_scaler.py): 65536 at first;
 * doubled after 2000 good updates in a row; where a gradient is not finite the update is skipped and the scale
 * halved. The scale is on the device and follows by a kernel (ag_loss_scale_), since the next step's backward pass may
 * be queued before the host knows how this one ended; the host keeps the same numbers one step later.
 */
#ifndef TRAIN_LOSS_SCALE_H
#define TRAIN_LOSS_SCALE_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_loss_scale {
    ag_tensor *now; /* f64 [3]: scale, good updates in a row, skipped ones in all; a checkpoint keeps it */
    double scale;   /* the same, as far as the host knows */
    int64_t good, skipped;
} train_loss_scale;

ag_status train_loss_scale_new(train_loss_scale **out, ag_ctx *ctx);
void train_loss_scale_free(train_loss_scale *s); /* NULL is fine */

/* The scale as the device has it, f32 []. */
ag_tensor *train_loss_scale_factor(ag_ctx *ctx, const train_loss_scale *s);
/* Queue what follows on the optimizer's step; norm is what it saw (opt_norm). */
ag_status train_loss_scale_step(ag_ctx *ctx, train_loss_scale *s, ag_tensor *norm);
/* The host learns how that update ended. False: it was not finite at a scale of 1 or less, where a smaller one
 * does not help. */
bool train_loss_scale_learn(train_loss_scale *s, bool is_finite);
/* The host's numbers from the device's: after a checkpoint was taken. */
ag_status train_loss_scale_read(ag_ctx *ctx, train_loss_scale *s);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_LOSS_SCALE_H */
