/* state.h - what a run changes: the trained tensors, their gradients, the optimizer, the average.
 *
 * One update is: for each micro-step train_state_add(loss), then train_state_update(). The training
 * loop, `agewright probe train` and tests go through these two.
 */
#ifndef TRAIN_STATE_H
#define TRAIN_STATE_H

#include "nn/params.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A network whose trainable parameters take part, and what its names begin with ("unet."). group says
 * what a parameter's rate and decay are multiplied by; NULL: by 1. */
typedef struct train_part {
    nn_params *params;
    const char *prefix;
    opt_group (*group)(void *user, const nn_param *param);
    void *user;
} train_part;

typedef struct train_state {
    int64_t n;          /* trained tensors */
    ag_tensor **params; /* borrowed from the networks */
    ag_tensor **grads;  /* f32 buffers of the same shapes */
    char **names;       /* with prefix */
    const nn_param **published; /* the record of each, for its layout */
    opt_optimizer *opt;
    opt_ema *ema;       /* NULL: none */
    opt_schedule schedule;
    double max_grad_norm;
    int64_t update; /* updates made */
} train_state;

/* ema_decay 0: no average. The parts' networks must outlive the state.
 * AG_EINVAL when nothing is trainable. */
ag_status train_state_new(train_state **out, ag_ctx *ctx, const train_part *parts, int n_parts,
                          const opt_config *config, const opt_schedule *schedule, double max_grad_norm,
                          double ema_decay);
void train_state_free(train_state *state); /* NULL is fine */

/* Add the gradient of weight * loss (a scalar, f32 []) to what is there. */
ag_status train_state_add(ag_ctx *ctx, train_state *state, ag_tensor *loss, double weight);

typedef struct train_update {
    double lr;        /* the rate this update used */
    double grad_norm; /* before clipping */
    double d;         /* what Prodigy multiplies its next rate by; NAN with other optimizers */
} train_update;

/* Clip, step, average; then the gradients are zero again and state->update has grown by one.
 * AG_ENUMERIC naming the tensor when a gradient is not finite: nothing has changed then. */
ag_status train_state_update(train_update *out, ag_ctx *ctx, train_state *state);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_STATE_H */
