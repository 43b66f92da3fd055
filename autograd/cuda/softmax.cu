/* softmax.cu - the CUDA twin of ops/softmax.c: a warp for each row. */
#include "autograd/cuda/reduce.cuh"

static __global__ void softmax_row_per_warp(cuda_out y, cuda_floats x, int64_t rows, int64_t cols)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; r < rows; r += n_warps) {
        const int64_t at = r * cols;
        float most = -INFINITY, total = 0.0f;
        for (int64_t i = lane; i < cols; i += CUDA_WARP)
            most = fmaxf(most, cuda_load(x, at + i));
        most = cuda_warp_max(most);
        for (int64_t i = lane; i < cols; i += CUDA_WARP)
            total += expf(cuda_load(x, at + i) - most);
        total = 1.0f / cuda_warp_sum(total);
        for (int64_t i = lane; i < cols; i += CUDA_WARP)
            cuda_store(y, at + i, expf(cuda_load(x, at + i) - most) * total);
    }
}

static __global__ void softmax_grad_row_per_warp(cuda_out dx, cuda_floats y, cuda_floats d, int64_t rows,
                                                 int64_t cols)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; r < rows; r += n_warps) {
        const int64_t at = r * cols;
        float dot = 0.0f;
        for (int64_t i = lane; i < cols; i += CUDA_WARP)
            dot += cuda_load(d, at + i) * cuda_load(y, at + i);
        dot = cuda_warp_sum(dot);
        for (int64_t i = lane; i < cols; i += CUDA_WARP)
            cuda_store(dx, at + i, cuda_load(y, at + i) * (cuda_load(d, at + i) - dot));
    }
}

static int64_t rows_of(const ag_tensor *x)
{
    const int64_t cols = ag_dim(x, -1);

    return cols ? ag_numel(x) / cols : 0;
}

ag_status cuda_softmax(ag_call *call)
{
    const ag_tensor *x = call->in[0];

    return cuda_launch_over(call, rows_of(x) * CUDA_WARP, softmax_row_per_warp, cuda_to(call->out[0]), cuda_in(x),
                            rows_of(x), ag_dim(x, -1));
}

ag_status cuda_softmax_backward(ag_call *call)
{
    const ag_tensor *y = call->in[0];

    return cuda_launch_over(call, rows_of(y) * CUDA_WARP, softmax_grad_row_per_warp, cuda_to(call->out[0]),
                            cuda_in(y), cuda_in(call->in[1]), rows_of(y), ag_dim(y, -1));
}
