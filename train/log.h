/* log.h - what a run tells: a line for people, a CSV and TensorBoard events for programs.
 *
 *   notices        lines on standard error
 *   progress       one line rewritten in place, when standard error is a terminal; silent otherwise
 *   log.csv        update,epoch,loss,lr,grad_norm,seconds,step_bytes,peak_bytes
 *   logging_dir/   TensorBoard events (loss, lr, grad_norm, loss_scale in f16), when report_to is "tensorboard"
 *
 * After a resume the CSV and the events go on; rows of updates that are made again are cut off the
 * CSV first.
 */
#ifndef TRAIN_LOG_H
#define TRAIN_LOG_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_log train_log;

typedef struct train_log_row {
    int64_t update; /* from 1: updates made */
    int64_t epoch;
    double loss, lr, grad_norm;
    double seconds; /* of this update */
    double loss_scale; /* 0: none */
} train_log_row;

/* AG_EINVAL unless report_to is "tensorboard" or "none". */
ag_status train_log_check(ag_ctx *ctx, const char *report_to);
/* The folder of the events, for the caller to ag_delete. */
char *train_log_folder(ag_ctx *ctx, const char *output_dir, const char *logging_dir);

/* output_dir exists. logging_dir is relative to it unless it begins with '/'. report_to: "tensorboard" or
 * "none". first: updates made already; total: of the run. */
ag_status train_log_new(train_log **out, ag_ctx *ctx, const char *output_dir, const char *logging_dir,
                        const char *report_to, const char *what, int64_t first, int64_t total);
void train_log_free(train_log *log); /* ends the progress line; NULL is fine */

/* One line for people. log may be NULL (before a run has one). */
void train_note(train_log *log, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Progress of work outside the updates ("latents 12/150"); the same line in place. */
void train_log_progress(train_log *log, const char *what, int64_t done, int64_t total);
ag_status train_log_add(train_log *log, ag_ctx *ctx, const train_log_row *row);
/* The loss on held-out pictures: a line, a row of output_dir/validation.csv, TensorBoard's "validation_loss". */
ag_status train_log_validation(train_log *log, ag_ctx *ctx, int64_t update, double loss);
/* A picture for TensorBoard only; png is a whole file. */
ag_status train_log_picture(train_log *log, ag_ctx *ctx, const char *tag, int64_t update, int64_t width,
                            int64_t height, const void *png, size_t size);
/* Additional scalar for TensorBoard only ("instance_loss"). */
ag_status train_log_scalar(train_log *log, ag_ctx *ctx, const char *tag, int64_t update, double value);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_LOG_H */
