/* draws.c - see draws.h. */
#include "train/draws.h"

#include "autograd/ops.h"
#include "train/diffusion.h"

ag_tensor *train_draw_normals(ag_ctx *ctx, uint64_t seed, ag_purpose purpose, uint32_t step, int64_t n, int n_dims,
                              const int64_t *dims)
{
    int64_t keys[TRAIN_MAX_ROWS][4];

    if (n < 0 || n > TRAIN_MAX_ROWS) {
        ag_fail(ctx, AG_EINVAL, "draws for %lld rows: wanted at most %d", (long long)n, TRAIN_MAX_ROWS);
        return NULL;
    }
    for (int64_t r = 0; r < n; r++) {
        keys[r][0] = (int64_t)seed;
        keys[r][1] = purpose;
        keys[r][2] = step;
        keys[r][3] = r;
    }
    return ag_normal(ctx, ag_from_i64(ctx, keys[0], 2, (int64_t[]){n, 4}), n_dims, dims);
}

int64_t train_draw_timestep(uint64_t seed, uint32_t step, int64_t r, int64_t n_timesteps)
{
    const ag_draw draw = {.seed = seed, .purpose = AG_DRAW_TIMESTEP, .step = step, .sample = (uint32_t)r};

    return ag_draw_integer(&draw, 0, n_timesteps);
}
