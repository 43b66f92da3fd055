/* source.cu - the CUDA twin of ops/source.c: time embeddings, normal noise. */
#include "autograd/cuda/philox.cuh"

/* Frequency and angle are rounded to f32 at the places where the CPU's are. */
static __global__ void time_embedding(float *y, const float *t, int64_t n, int64_t dim, int flip, float below)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x, half = dim / 2;

    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < n * dim; at += step) {
        int64_t i;
        const int64_t row = cuda_divide(at, dim, &i), k = i % half;
        const bool is_sine = (i < half) != (flip != 0);
        const float exponent = (float)(-9.210340371976184) * (float)k / below;
        const float angle = t[row] * (float)exp((double)exponent);
        y[at] = i >= 2 * half ? 0.0f : (float)(is_sine ? sin((double)angle) : cos((double)angle));
    }
}

ag_status cuda_timestep_embedding(ag_call *call)
{
    const op_time_attr *a = (const op_time_attr *)call->attr;
    const int64_t n = ag_dim(call->in[0], 0);

    return cuda_launch_over(call, n * a->dim, time_embedding, (float *)ag_data(call->out[0]),
                            (const float *)ag_data(call->in[0]), n, a->dim, a->flip,
                            (float)((double)(a->dim / 2) - a->shift));
}

/* Box and Muller: u1 in (0,1], so the logarithm is finite. A thread makes the four values of a block. */
static __global__ void normals(float *y, const int64_t *keys, int64_t rows, int64_t size)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x, blocks = (size + 3) / 4;
    const double turn = 6.283185307179586476925 / 4294967296.0;

    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < rows * blocks; at += step) {
        int64_t block;
        const int64_t row = cuda_divide(at, blocks, &block), *key = keys + 4 * row;
        const ag_draw draw = {(uint64_t)key[0], (uint32_t)key[1], (uint32_t)key[2], (uint32_t)key[3]};
        unsigned words[4];
        cuda_draw_block(draw, (uint64_t)block, words);
        for (int pair = 0; pair < 2; pair++) {
            const double u1 = ((double)words[2 * pair] + 1.0) / 4294967296.0;
            const double radius = sqrt(-2.0 * log(u1)), angle = turn * (double)words[2 * pair + 1];
            const int64_t i = 4 * block + 2 * pair;
            if (i < size)
                y[row * size + i] = (float)(radius * cos(angle));
            if (i + 1 < size)
                y[row * size + i + 1] = (float)(radius * sin(angle));
        }
    }
}

ag_status cuda_normal(ag_call *call)
{
    const int64_t rows = ag_dim(call->in[0], 0), n = ag_numel(call->out[0]), size = rows ? n / rows : 0;

    return cuda_launch_over(call, rows * ((size + 3) / 4), normals, (float *)ag_data(call->out[0]),
                            (const int64_t *)ag_data(call->in[0]), rows, size);
}
