/* geglu.cu - the CUDA twin of ops/geglu.c. */
#include "autograd/cuda/device.cuh"

/* Phi(g) and the density of the normal distribution at g */
static __device__ __forceinline__ float normal(float g, float *density)
{
    *density = expf(-0.5f * g * g) * 0.39894228f;
    return 0.5f * erfcf(-g * 0.70710678f);
}

/* u [R,2C] -> y [R,C] */
template <int WIDE>
static __global__ void geglu(cuda_out y, cuda_floats u, int64_t n, int64_t cols)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x * WIDE;

    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDE; i < n; i += step) {
        int64_t rest;
        const int64_t at = i + cuda_divide(i, cols, &rest) * cols;
        float a[WIDE], g[WIDE], density;
        cuda_load_n<WIDE>(a, u, at);
        cuda_load_n<WIDE>(g, u, at + cols);
        for (int k = 0; k < WIDE; k++)
            a[k] *= g[k] * normal(g[k], &density);
        cuda_store_n<WIDE>(y, i, a);
    }
}

/* u [R,2C], d [R,C] -> du [R,2C] */
template <int WIDE>
static __global__ void geglu_backward(cuda_out du, cuda_floats u, cuda_floats d, int64_t n, int64_t cols)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x * WIDE;

    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDE; i < n; i += step) {
        int64_t rest;
        const int64_t at = i + cuda_divide(i, cols, &rest) * cols;
        float a[WIDE], g[WIDE], di[WIDE];
        cuda_load_n<WIDE>(a, u, at);
        cuda_load_n<WIDE>(g, u, at + cols);
        cuda_load_n<WIDE>(di, d, i);
        for (int k = 0; k < WIDE; k++) {
            float density;
            const float phi = normal(g[k], &density), slope = fmaf(g[k], density, phi);
            g[k] *= phi * di[k];    /* da */
            a[k] *= slope * di[k];  /* dg */
        }
        cuda_store_n<WIDE>(du, at, g);
        cuda_store_n<WIDE>(du, at + cols, a);
    }
}

ag_status cuda_geglu(ag_call *call)
{
    const cuda_out y = cuda_to(call->out[0]);
    const cuda_floats u = cuda_in(call->in[0]);
    const int64_t n = ag_numel(call->out[0]), cols = ag_dim(call->out[0], -1);

    return cols % CUDA_VEC == 0 && u.aligned && y.aligned
               ? cuda_launch_over(call, n / CUDA_VEC, geglu<CUDA_VEC>, y, u, n, cols)
               : cuda_launch_over(call, n, geglu<1>, y, u, n, cols);
}

ag_status cuda_geglu_backward(ag_call *call)
{
    const cuda_out du = cuda_to(call->out[0]);
    const cuda_floats u = cuda_in(call->in[0]), d = cuda_in(call->in[1]);
    const int64_t n = ag_numel(call->in[1]), cols = ag_dim(call->in[0], -1) / 2;

    return cols % CUDA_VEC == 0 && u.aligned && d.aligned && du.aligned
               ? cuda_launch_over(call, n / CUDA_VEC, geglu_backward<CUDA_VEC>, du, u, d, n, cols)
               : cuda_launch_over(call, n, geglu_backward<1>, du, u, d, n, cols);
}
