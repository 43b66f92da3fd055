/* specialize.h - FADING's specialisation: fine-tune Stable Diffusion on faces of known age.
 *
 * Each picture enters twice, under a prompt without its age and one with it:
 *   "photo of a person"    "photo of a 35 year old person"
 * (Chen & Lathuiliere 2023, arXiv:2309.10810, section 3.1; MunchkinChen/FADING: specialize.py, whose published
 * loop lacks the backward pass.) Two rows a picture: one noise for both, posterior sample and timestep of
 * their own. Batches of B pictures give rows [agnostic x B, aware x B].
 */
#ifndef TRAIN_SPECIALIZE_H
#define TRAIN_SPECIALIZE_H

#include <jansson.h>

#include "train/forecast.h"
#include "train/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Train and save. `config` is the effective configuration (for the records). See train_run for the
 * statuses of an ended run. */
ag_status train_specialize(ag_ctx *ctx, const train_options *options, json_t *config);

/* What train_specialize would take, from its own code on AG_META; ctx lends its threads and takes errors (a
 * train_foresee). Without a folder of pictures, n_pictures square ones of various ages are assumed. */
ag_status train_specialize_forecast(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                    int64_t n_pictures, train_work *work);

/* The prompt with " a " replaced by " a <age> year old " everywhere. NULL when memory is refused. */
char *train_aged_prompt(ag_ctx *ctx, const char *prompt, int64_t age);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_SPECIALIZE_H */
