/* reduce.cuh - one value of all in a warp or a block, always in the same order. For the .cu files. */
#ifndef AG_CUDA_REDUCE_CUH
#define AG_CUDA_REDUCE_CUH

#include "autograd/cuda/device.cuh"

enum { CUDA_ALL_LANES = -1 };

/* How two values become one. */
struct cuda_adding {
    template <typename T>
    static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};

struct cuda_larger {
    static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};

/* Over the lanes of a warp, in every lane. */
template <typename OP, typename T>
static __device__ __forceinline__ T cuda_over_warp(T v)
{
    for (int with = CUDA_WARP / 2; with; with /= 2)
        v = OP::of(v, __shfl_xor_sync((unsigned)CUDA_ALL_LANES, v, with));
    return v;
}

/* Over a block of one row of threads and 0, in every thread. Every thread must call it. */
template <typename OP, typename T>
static __device__ __forceinline__ T cuda_over_block(T v)
{
    CUDA_SHARED(T, part, [CUDA_WARP]);
    const int lane = threadIdx.x % CUDA_WARP, warp = threadIdx.x / CUDA_WARP;
    const int n_warps = (blockDim.x + CUDA_WARP - 1) / CUDA_WARP;
    T all = 0;

    v = cuda_over_warp<OP>(v);
    __syncthreads(); /* part may still be read by the call before */
    if (lane == 0)
        part[warp] = v;
    __syncthreads();
    for (int w = 0; w < n_warps; w++)
        all = OP::of(all, part[w]);
    return all;
}

template <typename T>
static __device__ __forceinline__ T cuda_warp_sum(T v)
{
    return cuda_over_warp<cuda_adding>(v);
}

template <typename T>
static __device__ __forceinline__ T cuda_block_sum(T v)
{
    return cuda_over_block<cuda_adding>(v);
}

static __device__ __forceinline__ float cuda_warp_max(float v)
{
    return cuda_over_warp<cuda_larger>(v);
}

/* The largest, which is 0 at least. */
static __device__ __forceinline__ float cuda_block_max(float v)
{
    return cuda_over_block<cuda_larger>(v);
}

/* --- two sums at once --------------------------------------------------------------------------- */

struct cuda_pair {
    double a, b;
};

static __device__ __forceinline__ cuda_pair cuda_block_sum_pair(cuda_pair v)
{
    v.a = cuda_block_sum(v.a);
    v.b = cuda_block_sum(v.b);
    return v;
}

/* The sum of n pairs in memory, by one block. */
static __device__ __forceinline__ cuda_pair cuda_block_sum_pairs(const cuda_pair *pairs, int64_t n)
{
    cuda_pair sum = {};

    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        sum.a += pairs[i].a;
        sum.b += pairs[i].b;
    }
    return cuda_block_sum_pair(sum);
}

#endif /* AG_CUDA_REDUCE_CUH */
