/* geglu.cu - the CUDA twin of ops/geglu.c. */
#include "autograd/cuda/device.cuh"

/* Phi(g) and the density of the normal distribution at g */
static __device__ __forceinline__ float normal(float g, float *density)
{
    *density = expf(-0.5f * g * g) * 0.39894228f;
    return 0.5f * erfcf(-g * 0.70710678f);
}

/* WIDE elements at a time; cols is a multiple of it and, when it is 8, all addresses are aligned. */
template <int WIDE>
static __device__ __forceinline__ void load(float *v, cuda_floats x, int64_t i)
{
    if (WIDE == CUDA_VEC)
        cuda_load8(v, x, i);
    else
        v[0] = cuda_load(x, i);
}

template <int WIDE>
static __device__ __forceinline__ void store(cuda_out y, int64_t i, const float *v)
{
    if (WIDE == CUDA_VEC)
        cuda_store8(y, i, v);
    else
        cuda_store(y, i, v[0]);
}

/* u [R,2C] -> y [R,C] */
template <int WIDE>
static __global__ void geglu(cuda_out y, cuda_floats u, int64_t n, int64_t cols)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x * WIDE;

    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDE; i < n; i += step) {
        const int64_t r = n < 0x7fffffff ? (unsigned)i / (unsigned)cols : i / cols, at = i + r * cols;
        float a[WIDE], g[WIDE], density;
        load<WIDE>(a, u, at);
        load<WIDE>(g, u, at + cols);
        for (int k = 0; k < WIDE; k++)
            a[k] *= g[k] * normal(g[k], &density);
        store<WIDE>(y, i, a);
    }
}

/* u [R,2C], d [R,C] -> du [R,2C] */
template <int WIDE>
static __global__ void geglu_backward(cuda_out du, cuda_floats u, cuda_floats d, int64_t n, int64_t cols)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x * WIDE;

    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDE; i < n; i += step) {
        const int64_t r = n < 0x7fffffff ? (unsigned)i / (unsigned)cols : i / cols, at = i + r * cols;
        float a[WIDE], g[WIDE], di[WIDE];
        load<WIDE>(a, u, at);
        load<WIDE>(g, u, at + cols);
        load<WIDE>(di, d, i);
        for (int k = 0; k < WIDE; k++) {
            float density;
            const float phi = normal(g[k], &density), slope = fmaf(g[k], density, phi);
            g[k] *= phi * di[k];    /* da */
            a[k] *= slope * di[k];  /* dg */
        }
        store<WIDE>(du, at, g);
        store<WIDE>(du, at + cols, a);
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
