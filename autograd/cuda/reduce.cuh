/* reduce.cuh - adding up inside a warp and a block, always in the same order. For the .cu files. */
#ifndef AG_CUDA_REDUCE_CUH
#define AG_CUDA_REDUCE_CUH

#include "autograd/cuda/device.cuh"

enum { CUDA_ALL_LANES = -1 };

/* The sum over the lanes of a warp, in every lane. */
template <typename T>
static __device__ __forceinline__ T cuda_warp_sum(T v)
{
    for (int with = CUDA_WARP / 2; with; with /= 2)
        v += __shfl_xor_sync((unsigned)CUDA_ALL_LANES, v, with);
    return v;
}

static __device__ __forceinline__ float cuda_warp_max(float v)
{
    for (int with = CUDA_WARP / 2; with; with /= 2)
        v = fmaxf(v, __shfl_xor_sync((unsigned)CUDA_ALL_LANES, v, with));
    return v;
}

/* The sum over a block of one row of threads, in every thread. Every thread must call it. */
template <typename T>
static __device__ __forceinline__ T cuda_block_sum(T v)
{
    CUDA_SHARED(T, part, [CUDA_WARP]);
    const int lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const int n_warps = (blockDim.x + CUDA_WARP - 1) / CUDA_WARP;
    T total = 0;

    v = cuda_warp_sum(v);
    __syncthreads(); /* part may still be read by the call before */
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    for (int w = 0; w < n_warps; w++)
        total += part[w];
    return total;
}

/* The same of the largest, which is 0 at least. */
static __device__ __forceinline__ float cuda_block_max(float v)
{
    CUDA_SHARED(float, part, [CUDA_WARP]);
    const int lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const int n_warps = (blockDim.x + CUDA_WARP - 1) / CUDA_WARP;
    float top = 0.0f;

    v = cuda_warp_max(v);
    __syncthreads(); /* part may still be read by the call before */
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    for (int w = 0; w < n_warps; w++)
        top = fmaxf(top, part[w]);
    return top;
}

#endif /* AG_CUDA_REDUCE_CUH */
