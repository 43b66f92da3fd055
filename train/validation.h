/* validation.h - what a model that learns is worth so far: pictures of one prompt, and a loss on pictures it
 * never trains on.
 *
 * The loss is the mean squared error of the prediction over the held-out pictures, each at the same few
 * timesteps, spread evenly over the schedule, with noise that is a function of picture and timestep alone:
 * a number that two updates, and two runs, can be compared by. A latent is the posterior's mean.
 *
 *   output_dir/validation.csv              update,loss; update 0 is the model before it learns
 *   output_dir/validation/<update>-<i>.png, at the end test-<i>.png
 * and the same as TensorBoard's "validation_loss", "validation/<i>" and "test/<i>".
 */
#ifndef TRAIN_VALIDATION_H
#define TRAIN_VALIDATION_H

#include "data/image.h"
#include "nn/vae.h"
#include "train/latents.h"
#include "train/pictures.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_ground train_ground;

/* The held-out pictures; all zero when there are none. */
typedef struct train_held_out {
    train_pictures pictures;
    int64_t *prompts; /* [pictures.set.n] */
    train_latents *latents;
} train_held_out;

/* Open the held-out pictures of a run, if it has some, and list their prompts. AG_EINVAL when pictures are wanted and
 * options->sample is NULL. */
ag_status train_held_out_open(ag_ctx *ctx, train_ground *ground);
/* Their latents; as train_latents_fill(). */
ag_status train_held_out_fill(ag_ctx *ctx, train_ground *ground, const char *folder, ag_dtype compute, bool *needs_vae);
void train_held_out_close(train_held_out *held_out);

/* A train_method's validate() and validates(); user is the ground. Adapters answer without dropout. Between pictures
 * it heeds train_stop_asked(). */
bool train_validates(void *user, int64_t update);
ag_status train_validate(ag_ctx *ctx, void *user, train_log *log, int64_t update, bool is_end);

/* What drawing takes, on AG_META. */
ag_status train_validation_foresee(ag_ctx *ctx, train_ground *ground);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_VALIDATION_H */
