/* latents.h - the VAE's posterior of every picture and its mask, computed once and kept on disk.
 *
 * What is kept is the mean and the clamped log-variance, never a sample: each row of each step draws
 * its own. An entry's name is the SHA-256 of everything it depends on (the picture file's bytes, the
 * VAE's weights, the box, crop, flip, EXIF handling), so a changed picture or model is a different
 * entry, and any number of runs can share a folder.
 *
 * A picture whose crop is random, or whose colours change, has no fixed posterior: it is encoded each
 * time. Crop, flip and colours are functions of (seed, epoch, picture, which copy of it).
 */
#ifndef TRAIN_LATENTS_H
#define TRAIN_LATENTS_H

#include "data/batches.h"
#include "data/color.h"
#include "data/dataset.h"
#include "data/resample.h"
#include "nn/vae.h"
#include "train/log.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_latents_options {
    const char *folder;     /* of the entries; NULL: keep nothing, encode each time */
    const data_size *boxes; /* [set->n]: what each picture is resized and cropped to; borrowed */
    bool center_crop, random_flip, ignore_exif;
    data_jitter jitter;
    bool alpha_masks; /* a picture without a mask of its own has its alpha channel */
    double mask_min;  /* a place counts this much at least */
    uint64_t seed;    /* of crops, flips and colours */
    ag_dtype compute;
} train_latents_options;

typedef struct train_latents train_latents;

/* set is borrowed. vae may be let go after train_latents_fill says so. AG_EINVAL for a box that the VAE cannot
 * shrink. */
ag_status train_latents_new(train_latents **out, ag_ctx *ctx, const train_latents_options *options,
                            const data_set *set, const nn_vae *vae);
void train_latents_free(train_latents *latents); /* NULL is fine */

/* Must some picture be encoded at each use? */
bool train_latents_needs_vae(const train_latents *latents);
/* How many posteriors are kept when all are there. */
int64_t train_latents_kept(const train_latents *latents);
/* Compute what is missing, with progress. *needs_vae as above. On AG_META one picture, the largest, is encoded
 * for all; no file is read or written. */
ag_status train_latents_fill(ag_ctx *ctx, train_latents *latents, train_log *log, bool *needs_vae);

/* The posteriors of n pictures of one box, as an epoch sees them (crop, flip, colours): f32 [n,h,w,2L], means,
 * then clamped log-variances. A steady call takes no memory beyond tensors. */
ag_tensor *train_latents_moments(ag_ctx *ctx, train_latents *latents, const data_pick *picks, int64_t n, int64_t epoch);
/* Their masks, cropped and flipped likewise: f32 [n,h,w,1], each place the mean of its pixels, 0 to 1, at
 * least mask_min. NULL, which is no error, when no picture of the set has one. */
ag_tensor *train_latents_masks(ag_ctx *ctx, train_latents *latents, const data_pick *picks, int64_t n, int64_t epoch);
bool train_latents_has_masks(const train_latents *latents);

int64_t train_latents_channels(const train_latents *latents); /* L */
/* By how much the VAE shrinks a side: h and w of a latent are those of its box over this. */
int64_t train_latents_factor(const train_latents *latents);

/* mean + exp(logvar/2) noise, times scale: moments f32 [N,h,w,2L], noise [N,h,w,L]. */
ag_tensor *train_latents_sample(ag_ctx *ctx, ag_tensor *moments, ag_tensor *noise, double scale);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_LATENTS_H */
