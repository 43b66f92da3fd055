/* sampler.h - how a run gets pictures out of a model.
 *
 * Who draws them (edit/) stands above train/, so a run is given a function.
 */
#ifndef TRAIN_SAMPLER_H
#define TRAIN_SAMPLER_H

#include "data/image.h"
#include "pipeline/pipeline.h"

#ifdef __cplusplus
extern "C" {
#endif

/* n pictures of one prompt, of the model's own size. Picture k has the draws of (seed, first + k), however
 * many are drawn at once. */
typedef struct train_sample_request {
    const char *prompt;
    int64_t n, first;
    int64_t n_steps;
    double guidance;
    uint64_t seed;
    ag_dtype compute, vae_compute;
} train_sample_request;

/* Fill images[n], the caller's afterwards (data_image_free). The model has all its parts. */
typedef ag_status (*train_sample_fn)(data_image *images, ag_ctx *ctx, pipe_model *model,
                                     const train_sample_request *request);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_SAMPLER_H */
