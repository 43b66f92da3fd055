/* personalize.h - a few pictures of one person (or thing), and prior preservation: SelfAge's training and
 * general DreamBooth, one loop.
 *
 *                personalize                                dreambooth
 *   instances    "photo of sks person as 34-year-old"       the instance prompt
 *   class        "photo of person as 27-year-old"           the class prompt
 *   ages         of every picture, from names or labels     none
 *
 * (SelfAge, The Visual Computer 41, 2025, shiiiijp/SelfAge: scripts/train.py; Ruiz et al. 2023,
 * huggingface/diffusers: examples/dreambooth/.) Sample i of an epoch is instance i mod n and, with prior
 * preservation, picture i mod m of the class; an epoch has max(n, m) samples. Rows of a batch of B are
 * [instances x B, class x B], each with a noise, a timestep and a posterior sample of its own.
 *
 * With options->rank adapters are trained and one LoRA file is written, without it the whole model is.
 */
#ifndef TRAIN_PERSONALIZE_H
#define TRAIN_PERSONALIZE_H

#include <jansson.h>

#include "train/forecast.h"
#include "train/options.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As train_specialize() and its forecast. The pictures of the person are options->instance_data_dir, the others
 * options->class_data_dir. */
ag_status train_personalize(ag_ctx *ctx, const train_options *options, json_t *config);
ag_status train_personalize_forecast(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                     int64_t n_pictures, train_work *work);

ag_status train_dreambooth(ag_ctx *ctx, const train_options *options, json_t *config);
ag_status train_dreambooth_forecast(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                    int64_t n_pictures, train_work *work);

/* The prompt with an age: in place of "{age}", else as " as 34-year-old" at its end. NULL when memory is
 * refused. */
char *train_prompt_as_age(ag_ctx *ctx, const char *prompt, int64_t age);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_PERSONALIZE_H */
