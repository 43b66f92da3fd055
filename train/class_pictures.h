/* class_pictures.h - pictures of a class, drawn from the model before it learns: what prior preservation
 * holds on to when nobody has photographs (Ruiz et al. 2023, DreamBooth).
 */
#ifndef TRAIN_CLASS_PICTURES_H
#define TRAIN_CLASS_PICTURES_H

#include "train/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Fill options->class_data_dir, made when it is not there, up to options->num_class_images pictures of
 * options->class_prompt: 50 steps, guidance 7.5, options->sample_batch_size at a time, with the model's own
 * size and noise schedule. Picture k is "k-<SHA-1 of its RGB bytes>.png", written whole, and depends on the
 * seed and k alone, so a run that was killed goes on where it was. Nothing when there are enough.
 * AG_EINVAL when pictures are missing and options->sample is NULL; before drawing, the run's output is tried
 * (train_prepare_output). */
ag_status train_class_pictures(ag_ctx *ctx, const train_options *options);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_CLASS_PICTURES_H */
