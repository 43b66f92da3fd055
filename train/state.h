/* state.h - what a run changes: the trained tensors, their gradients, the optimizer, the average.
 *
 * One update is: for each micro-step train_state_add(loss), then train_state_update(). `agewright probe train`
 * and tests go through these two. The training loop says the same as train_state_micro() and train_state_begin(),
 * which only queue and are repeated as recorded graphs on a GPU (autograd/replay.h), and train_state_end(), which
 * learns what came of it: best when the micro-steps of the next update are queued, so that the device never rests.
 */
#ifndef TRAIN_STATE_H
#define TRAIN_STATE_H

#include "autograd/mail.h"
#include "autograd/replay.h"
#include "nn/params.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/loss_scale.h"

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

/* What a micro-step computes with, in places that its maker chooses; NULL where there is nothing. */
enum { TRAIN_MAX_INPUTS = AG_REPLAY_IN };
typedef struct train_inputs {
    ag_tensor *at[TRAIN_MAX_INPUTS];
} train_inputs;

/* The loss on inputs, f32 []; *rows gets the per-row losses, f32 [R]. A function of the inputs and of what outlives
 * a step, with nothing read from or brought from the host: it may be recorded once for each shape of the inputs and
 * repeated. */
typedef ag_tensor *(*train_loss)(ag_ctx *ctx, void *user, const train_inputs *in, ag_tensor **rows);

typedef struct train_state {
    int64_t n;          /* trained tensors */
    ag_tensor **params; /* borrowed from the networks */
    ag_tensor **grads;  /* f32 buffers of the same shapes */
    char **names;       /* with prefix */
    const nn_param **published; /* the record of each, for its layout */
    opt_optimizer *opt;
    opt_ema *ema;       /* NULL: none */
    train_loss_scale *loss_scale; /* NULL: the loss is taken as it is */
    opt_schedule schedule;
    double max_grad_norm;
    int64_t update; /* updates made, the one that nobody knows the end of yet among them */

    ag_replay *replay;
    ag_mail *mail[2];        /* to the host: losses of micro-steps, what the optimizer saw; of updates by turns */
    int64_t n_micro;         /* room for losses */
    int64_t n_losses;        /* posted for the next update */
    int64_t n_losses_before; /* of the update that is pending */
    double lr_before;
    bool is_pending; /* there is an update that has not ended */
} train_state;

/* ema_decay 0: no average; it is where the optimizer's states are. The parts' networks must outlive the state.
 * AG_EINVAL when nothing is trainable. */
ag_status train_state_new(train_state **out, ag_ctx *ctx, const train_part *parts, int n_parts,
                          const opt_config *config, const opt_schedule *schedule, double max_grad_norm,
                          double ema_decay);
void train_state_free(train_state *state); /* NULL is fine */

/* Make room for so many micro-steps an update (1 at first). Before the first one. */
ag_status train_state_expect(ag_ctx *ctx, train_state *state, int64_t n_micro);

/* Add the gradient of weight * loss (a scalar, f32 []) to what is there. */
ag_status train_state_add(ag_ctx *ctx, train_state *state, ag_tensor *loss, double weight);

typedef struct train_update {
    double lr;        /* the rate this update used */
    double grad_norm; /* before clipping */
    double d;         /* what Prodigy multiplies its next rate by; NAN with other optimizers */
    bool was_skipped; /* a gradient was not finite, and the loss scale is smaller now */
} train_update;

/* From now on the loss is scaled: for activations in f16. Before the first micro-step. */
ag_status train_state_scale_loss(ag_ctx *ctx, train_state *state);

/* Queue a micro-step: add the gradient of weight * loss. A loss that is not finite makes a gradient that is not. */
ag_status train_state_micro(ag_ctx *ctx, train_state *state, train_loss loss, void *user, const train_inputs *in,
                            double weight);
/* Queue clipping and the optimizer's step, and gradients of zero; no update may be pending. */
ag_status train_state_begin(ag_ctx *ctx, train_state *state);
/* Is the outcome of the pending update known without waiting? On a CPU it always is. */
bool train_state_is_here(const train_state *state);

/* What came of an update. */
typedef struct train_outcome {
    double loss;       /* mean over its micro-steps */
    int64_t nonfinite; /* the first micro-step whose loss is not finite; -1: none */
    train_update update;
} train_outcome;

/* Wait for the pending update and, when it was one, take it into the average. Where a loss or gradient was not finite
 * nothing has changed but the gradients, and state->update is one less again: AG_ENUMERIC naming the tensor, or with
 * a loss that was not finite outcome->nonfinite, for the caller to say whose it was. */
ag_status train_state_end(train_outcome *outcome, ag_ctx *ctx, train_state *state);

/* Clip, step, average; then the gradients are zero again and state->update has grown by one.
 * AG_ENUMERIC naming the tensor when a gradient is not finite: nothing has changed then. With a loss scale it is the
 * scale that changes, until that is used up; the optimizer counts the updates that were made. */
ag_status train_state_update(train_update *out, ag_ctx *ctx, train_state *state);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_STATE_H */
