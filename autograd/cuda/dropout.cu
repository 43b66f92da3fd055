/* dropout.cu - the CUDA twin of ops/dropout.c. */
#include "autograd/cuda/philox.cuh"

/* A thread does the four values of a block of words. now: in the place of `at`, if there is one. */
static __global__ void dropout(cuda_out y, cuda_floats x, int64_t n, uint64_t seed, unsigned purpose, unsigned at,
                               unsigned sample, const int64_t *now, unsigned least, float raise)
{
    const ag_draw draw = {seed, purpose, now ? (uint32_t)*now : at, sample};
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    for (int64_t block = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; 4 * block < n; block += step) {
        unsigned words[4];
        cuda_draw_block(draw, (uint64_t)block, words);
        for (int k = 0; k < 4 && 4 * block + k < n; k++)
            cuda_store(y, 4 * block + k, words[k] >= least ? raise * cuda_load(x, 4 * block + k) : 0.0f);
    }
}

ag_status cuda_dropout(ag_call *call)
{
    const op_dropout_attr *a = (const op_dropout_attr *)call->attr;
    const int64_t n = ag_numel(call->in[0]);
    const int64_t *now = call->in[1] ? (const int64_t *)ag_data(call->in[1]) : NULL;

    return cuda_launch_over(call, (n + 3) / 4, dropout, cuda_to(call->out[0]), cuda_in(call->in[0]), n, a->draw.seed,
                            a->draw.purpose, a->draw.step, a->draw.sample, now, (unsigned)(a->p * 4294967296.0),
                            (float)(1.0 / (1.0 - a->p)));
}
