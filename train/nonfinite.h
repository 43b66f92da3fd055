/* nonfinite.h - who made the first number that is not finite. */
#ifndef TRAIN_NONFINITE_H
#define TRAIN_NONFINITE_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Run fn(ctx, user) once more, watching every op, and say in `text` which output was the first with a NaN
 * or an infinity ("conv2d with down_blocks.0.resnets.1.conv1.weight [2,64,64,320]"); "the loss" when
 * none is found. A failure of fn stays in the context. */
void train_find_nonfinite(ag_ctx *ctx, ag_tensor *(*fn)(ag_ctx *ctx, void *user), void *user, char *text,
                          size_t size);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_NONFINITE_H */
