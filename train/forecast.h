/* forecast.h - what a run would take, before it runs: memory to the byte of its allocator, time
 * from its own operations.
 *
 * A method foresees itself (train_specialize_forecast): its own code runs on AG_META, where
 * tensors have addresses in a heap that is not there. So the forecast of memory is the run's
 * memory, but for what the process needs besides tensors.
 */
#ifndef TRAIN_FORECAST_H
#define TRAIN_FORECAST_H

#include "train/options.h"
#include "train/work.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What is watched, and how often a run does it. */
typedef enum train_phase {
    TRAIN_PHASE_TEXT,    /* all prompts, once */
    TRAIN_PHASE_PICTURE, /* one picture through the VAE */
    TRAIN_PHASE_MICRO,   /* loss and gradients of one batch */
    TRAIN_PHASE_UPDATE,  /* clipping, optimizer, average */
    TRAIN_N_PHASES
} train_phase;
extern const char *const train_phase_names[];

/* When memory is looked at. */
typedef enum train_stage {
    TRAIN_STAGE_TEXT,
    TRAIN_STAGE_PICTURES,
    TRAIN_STAGE_TRAINING,
    TRAIN_STAGE_SAVING,
    TRAIN_N_STAGES
} train_stage;
extern const char *const train_stage_names[];

typedef struct train_forecast {
    /* the run */
    int64_t n_pictures, n_encodings, n_prompts, rows; /* rows: of a micro-step */
    int64_t n_updates, n_micro;                       /* micro-steps in all */
    bool has_pictures;                                /* they were found, not assumed */

    /* bytes, on the device */
    ag_device device;
    size_t base;                        /* the process without tensors; on AG_CUDA what values from the host pass through */
    size_t weights, gradients, moments; /* moments: and averages */
    size_t activations, scratch;        /* of a training step, at most */
    size_t stage[TRAIN_N_STAGES];       /* resident, with base */
    size_t peak;                        /* the largest of them */
    size_t host;                        /* AG_CUDA: host memory of the process, at least */

    /* seconds of each phase once; 0: not measured */
    double seconds[TRAIN_N_PHASES];
} train_forecast;

/* A method's own forecast, on ag_ctx_target(ctx). n_pictures: how many to assume where there are none. work may be NULL:
 * memory only. Fails as the run would: a bad configuration, a missing model. */
typedef ag_status (*train_foresee)(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                   int64_t n_pictures, train_work *work);

/* How often the run goes through each phase; the last of TRAIN_WORK_PHASES stay 0. */
void train_forecast_times(const train_forecast *forecast, double times[TRAIN_WORK_PHASES]);
/* Take the measured seconds over; ctx is the one to measure on. */
ag_status train_forecast_measure(train_forecast *forecast, train_work *work, ag_ctx *ctx,
                                 double seconds);
double train_forecast_total(const train_forecast *forecast); /* seconds of the whole run */

/* What to change so that the run fits into `room` bytes: "--gradient_checkpointing (12.3 GiB)",
 * into text; *peak is what it takes then, 0 when nothing helps ("" then). */
ag_status train_forecast_advise(char *text, size_t size, size_t *peak, ag_ctx *ctx,
                                const train_options *options, int64_t n_pictures, size_t room,
                                train_foresee foresee);

/* After a run that ended for want of memory: end its message with the forecast, what was in use at
 * most, and what would fit. Does nothing for other endings. */
void train_forecast_explain(ag_ctx *ctx, const train_options *options, train_foresee foresee);

/* Bytes that a run on ctx's device may take now, with what it has already; SIZE_MAX: not known. */
size_t train_room(const ag_ctx *ctx);
/* The same where ctx is on AG_META: of ag_ctx_target(); `given` bytes of a GPU that may not be there, 0: of this
 * machine's. */
size_t train_planned_room(const ag_ctx *ctx, size_t given);
/* What a GPU's driver and libraries take beside tensors (assumed, not measured); and its kernels, where the program has
 * none to ask: the patches of a convolution and the workspace of a product. */
enum { TRAIN_GPU_BASE_BYTES = 640 << 20, TRAIN_GPU_SCRATCH_BYTES = 288 << 20 };
/* Bytes of a process that does everything but hold tensors (code, libraries, threads), and what
 * writing checkpoints adds. Measured: peaks of nine small runs less their tensors were 17 to 22 MB. */
enum { TRAIN_BASE_BYTES = 20 << 20, TRAIN_CHECKPOINT_BYTES = 10 << 20 };

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_FORECAST_H */
