/* draws.h - random numbers for the rows of a micro-step.
 *
 * Row r of a step is the draw (seed, purpose, step, r), whatever else is drawn: so a row keeps its
 * numbers when a run is resumed, spread over ranks or computed again. PyTorch's generator, for comparisons,
 * has a past instead: a run that is resumed goes through the draws before.
 */
#ifndef TRAIN_DRAWS_H
#define TRAIN_DRAWS_H

#include "autograd/random.h"
#include "autograd/tensor.h"
#include "train/clock.h"
#include "train/diffusion.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Normals for rows 0..n-1, f32 [n, dims...]; n is at most TRAIN_MAX_ROWS (AG_EINVAL beyond). */
ag_tensor *train_draw_normals(ag_ctx *ctx, uint64_t seed, ag_purpose purpose, uint32_t step, int64_t n, int n_dims,
                              const int64_t *dims);

/* A timestep for row r, low <= t < high. */
int64_t train_draw_timestep(uint64_t seed, uint32_t step, int64_t r, int64_t low, int64_t high);

/* How many numbers of a kind the rows of a micro-step take, and how large a latent is. */
typedef struct train_draw_counts {
    int64_t h, w;
    int64_t rows;   /* posterior samples */
    int64_t noises; /* distinct noises */
    int64_t times;  /* distinct timesteps: row r has the (r mod times)-th */
    int64_t thrown; /* PyTorch's generator: noises that the published program draws before and never uses */
} train_draw_counts;

typedef struct train_drawn {
    ag_tensor *posterior;              /* f32 [rows,h,w,L] */
    ag_tensor *noise;                  /* f32 [noises,h,w,L], offset included */
    int64_t timesteps[TRAIN_MAX_ROWS]; /* [rows] */
} train_drawn;

typedef struct train_drawer {
    uint64_t seed;
    double noise_offset; /* 0: none */
    int64_t first_timestep, n_timesteps; /* first <= t < n */
    int64_t channels;    /* L of a latent */
    bool torch;          /* PyTorch's generator; the rest is its */
    ag_torch_rng rng, before; /* before: as it was ahead of the micro-step of the next two */
    int64_t update, micro;
    float *values; /* one draw: room for the largest rows * h * w * L, from its owner */
} train_drawer;

/* The numbers of a micro-step. A micro-step that is drawn again gets the same. */
ag_status train_draw(train_drawn *out, ag_ctx *ctx, train_drawer *drawer, const train_calendar *calendar,
                     const train_moment *moment, int64_t micro, const train_draw_counts *counts);

/* To the place before update `update`. counts says what a micro-step takes. */
typedef train_draw_counts (*train_draw_counts_fn)(void *user, const train_moment *moment, int64_t micro);
ag_status train_drawer_begin(ag_ctx *ctx, train_drawer *drawer, const train_calendar *calendar, int64_t update,
                             train_draw_counts_fn counts, void *user);

/* Does row r of a step lose its prompt, when one in 1/p does? */
bool train_draw_drops(uint64_t seed, uint32_t step, int64_t r, double p);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_DRAWS_H */
