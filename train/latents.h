/* latents.h - the VAE's posterior of every picture, computed once and kept on disk.
 *
 * What is kept is the mean and the clamped log-variance, never a sample: each row of each step draws
 * its own. An entry's name is the SHA-256 of everything it depends on (the picture file's bytes, the
 * VAE's weights, resolution, crop, flip, EXIF handling), so a changed picture or model is a
 * different entry, and any number of runs can share a folder.
 *
 * A picture whose crop is random has no fixed posterior: it is encoded each time.
 */
#ifndef TRAIN_LATENTS_H
#define TRAIN_LATENTS_H

#include "data/dataset.h"
#include "nn/vae.h"
#include "train/log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_latents_options {
    const char *folder; /* of the entries; NULL: keep nothing, encode each time */
    int64_t resolution;
    bool center_crop, random_flip, ignore_exif;
    uint64_t seed; /* of crops and flips */
    ag_dtype compute;
} train_latents_options;

typedef struct train_latents train_latents;

/* set is borrowed. vae may be let go after train_latents_fill says so. */
ag_status train_latents_new(train_latents **out, ag_ctx *ctx, const train_latents_options *options,
                            const data_set *set, const nn_vae *vae);
void train_latents_free(train_latents *latents); /* NULL is fine */

/* Must some picture be encoded at each use? */
bool train_latents_needs_vae(const train_latents *latents);
/* Compute what is missing, with progress. *needs_vae as above. On AG_META one picture is encoded, for all;
 * no file is read or written. */
ag_status train_latents_fill(ag_ctx *ctx, train_latents *latents, train_log *log, bool *needs_vae);

/* The posterior of item i as epoch `epoch` sees it (its crop and flip): f32 [1,h,w,2L], means, then
 * clamped log-variances. */
ag_tensor *train_latents_moments(ag_ctx *ctx, train_latents *latents, int64_t i, int64_t epoch);

int64_t train_latents_channels(const train_latents *latents); /* L */
/* h and w of a latent. */
int64_t train_latents_side(const train_latents *latents);

/* mean + exp(logvar/2) noise, times scale: moments f32 [N,h,w,2L], noise [N,h,w,L]. */
ag_tensor *train_latents_sample(ag_ctx *ctx, ag_tensor *moments, ag_tensor *noise, double scale);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_LATENTS_H */
