/* draws.h - random numbers for the rows of a micro-step.
 *
 * Row r of a step is the draw (seed, purpose, step, r), whatever else is drawn: so a row keeps its
 * numbers when a run is resumed, spread over ranks or computed again.
 */
#ifndef TRAIN_DRAWS_H
#define TRAIN_DRAWS_H

#include "autograd/random.h"
#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Normals for rows 0..n-1, f32 [n, dims...]; n is at most TRAIN_MAX_ROWS (AG_EINVAL beyond). */
ag_tensor *train_draw_normals(ag_ctx *ctx, uint64_t seed, ag_purpose purpose, uint32_t step, int64_t n, int n_dims,
                              const int64_t *dims);

/* A timestep of 0..n_timesteps-1 for row r. */
int64_t train_draw_timestep(uint64_t seed, uint32_t step, int64_t r, int64_t n_timesteps);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_DRAWS_H */
