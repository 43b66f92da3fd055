/* run.h - the loop that every method shares: updates, log, checkpoints, signals, the end.
 *
 * A method gives the loss of a micro-step and says how its model is saved. The loop owns the order
 * of things: resume, update, log, checkpoint, stop. SIGINT, SIGTERM, SIGHUP and SIGUSR1 end the run
 * after the update in flight, with a checkpoint; a second signal ends it at once.
 */
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

#include <jansson.h>

#include "train/clock.h"
#include "train/log.h"
#include "train/options.h"
#include "train/state.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_method {
    const char *name;
    void *user;
    bool has_instances; /* the loss is logged as "instance_loss" too, as the published programs do */
    train_calendar calendar;
    /* Bring what a micro-step computes with to the device: all that differs from step to step. Which micro-step is
     * prepared last is the one whose loss is asked for next. */
    ag_status (*inputs)(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, train_inputs *in);
    train_loss loss; /* on them */
    /* Where row r of a micro-step comes from ("00012.png, prompt 1"), into text. */
    void (*row_name)(void *user, const train_moment *moment, int64_t micro, int64_t row, char *text, size_t size);
    /* Called before update `update`, on a new run and after a resume alike; NULL: nothing to do. For draws that
     * have a past (--torch_rng). */
    ag_status (*begin)(ag_ctx *ctx, void *user, int64_t update);
    /* Called before the first update of a new run (update 0), after each, and once more at the end, when the model
     * is saved. Says itself when it is due; should look at train_stop_asked() if it takes long. NULL: nothing. */
    ag_status (*validate)(ag_ctx *ctx, void *user, train_log *log, int64_t update, bool is_end);
    /* Will validate() have something to do after this update? NULL: never. */
    bool (*validates)(void *user, int64_t update);
    /* Write the trained model into the folder. */
    ag_status (*save)(ag_ctx *ctx, void *user, const char *folder);
} train_method;

/* Has a signal asked the run to end? */
bool train_stop_asked(void);

/* Before anything is loaded: make the folders for output, logs and cache (AG_EIO when one cannot be
 * written), refuse an output that holds a newer state unless told to resume or overwrite. */
ag_status train_prepare_output(ag_ctx *ctx, const train_options *options);

/* The seed of the run that options->resume_from_checkpoint goes on with, from its manifest alone; -1 when
 * there is none. Never fails: what is wrong with a checkpoint is said when it is resumed from. */
int64_t train_resumed_seed(ag_ctx *ctx, const train_options *options);

/* Run to the last update and save. `config` is the effective configuration, for model_config.json and the
 * manifests. AG_ESTOPPED after a signal (the state is saved then); AG_ENUMERIC at the first loss
 * that is not finite, naming update, sample and tensor. */
ag_status train_run(ag_ctx *ctx, const train_options *options, const train_method *method, train_state *state,
                    json_t *config);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_RUN_H */
