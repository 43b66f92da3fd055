/* device.cuh - what the kernels share: launching, and tensors of f32, bf16 or f16 as a kernel sees them.
 *
 * For the .cu files of this folder. Kernels compute in f32. A tensor comes as its address and element
 * type: eight elements are read and written at a time, 16 bytes a load, whatever the type is, and the
 * branch on the type is the same for every thread of a launch.
 */
#ifndef AG_CUDA_DEVICE_CUH
#define AG_CUDA_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "autograd/cuda/kernels.h"
#include "autograd/cuda/internal.h"
#include "autograd/ops/attrs.h"

/* Shared memory of a block: CUDA_SHARED(float, rows, [8][32]). The stand-ins of tests/cuda_host/ have
 * their own. */
#ifndef CUDA_SHARED
#define CUDA_SHARED(type, name, dims) __shared__ type name dims
#define CUDA_DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

/* --- launching -------------------------------------------------------------------------------- */

enum { CUDA_THREADS = 256, CUDA_WARP = 32 };

/* Blocks for n pieces of work of one thread each: enough to fill the device a few times; kernels stride
 * over the rest. At least 1. */
static inline unsigned cuda_blocks(const ag_call *call, int64_t n, int threads)
{
    const int64_t want = (n + threads - 1) / threads;
    const int64_t most = (int64_t)ag_cuda_of(call->ctx)->n_sm * (4096 / threads);

    return (unsigned)(want < 1 ? 1 : want < most ? want : most);
}

/* Queue kernel(args...); fails the context naming the op. */
template <typename... P, typename... A>
static inline ag_status cuda_launch(const ag_call *call, void (*kernel)(P...), dim3 blocks, dim3 threads,
                                    size_t shared, A... args)
{
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    cudaLaunchConfig_t config = {};
    cudaError_t error;

    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    config.stream = cuda->stream;
    cuda->last_queued = call->op->name;
    error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
    return error == cudaSuccess ? AG_OK : cuda_failed(cuda, call->op->name, error);
}

/* The usual: one thread for every one of n pieces of work. */
template <typename... P, typename... A>
static inline ag_status cuda_launch_over(const ag_call *call, int64_t n, void (*kernel)(P...), A... args)
{
    if (n == 0)
        return AG_OK;
    return cuda_launch(call, kernel, cuda_blocks(call, n, CUDA_THREADS), CUDA_THREADS, 0, args...);
}

/* --- tensors of f32, bf16 or f16 -------------------------------------------------------------- */

struct cuda_floats {
    const void *data; /* NULL: there is none */
    int type, aligned; /* an ag_dtype; no padding: the stand-ins look into what a kernel is given */
};

struct cuda_out {
    void *data;
    int type, aligned;
};

static inline bool cuda_aligned(const void *data)
{
    return ((uintptr_t)data & 15) == 0;
}

static inline cuda_floats cuda_in(const ag_tensor *t)
{
    cuda_floats f = {};

    if (t) {
        f.data = ag_data(t);
        f.type = ag_dtype_of(t);
        f.aligned = cuda_aligned(f.data);
    }
    return f;
}

static inline cuda_out cuda_to(const ag_tensor *t)
{
    cuda_out f = {};

    if (t) {
        f.data = ag_data(t);
        f.type = ag_dtype_of(t);
        f.aligned = cuda_aligned(f.data);
    }
    return f;
}

/* The part of a tensor from element `at`, on the host. */
static inline cuda_floats cuda_from(cuda_floats x, int64_t at)
{
    x.data = (const char *)x.data + at * (x.type == AG_F32 ? 4 : 2);
    x.aligned = cuda_aligned(x.data);
    return x;
}

/* bf16 is the upper half of an f32. */
static __device__ __forceinline__ float cuda_of_bf16(unsigned bits)
{
    return __uint_as_float(bits << 16);
}

static __device__ __forceinline__ unsigned cuda_to_bf16(float x)
{
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

static __device__ __forceinline__ float cuda_of_f16(unsigned bits)
{
    return __half2float(__ushort_as_half((unsigned short)bits));
}

static __device__ __forceinline__ unsigned cuda_to_f16(float x)
{
    return __half_as_ushort(__float2half_rn(x));
}

/* Two bytes as a number, and back; type is AG_BF16 or AG_F16. */
static __device__ __forceinline__ float cuda_of_half(int type, unsigned bits)
{
    return type == AG_BF16 ? cuda_of_bf16(bits) : cuda_of_f16(bits);
}

static __device__ __forceinline__ unsigned cuda_to_half(int type, float x)
{
    return type == AG_BF16 ? cuda_to_bf16(x) : cuda_to_f16(x);
}

static __device__ __forceinline__ float cuda_load(cuda_floats x, int64_t i)
{
    return x.type == AG_F32 ? ((const float *)x.data)[i] : cuda_of_half(x.type, ((const unsigned short *)x.data)[i]);
}

static __device__ __forceinline__ void cuda_store(cuda_out y, int64_t i, float v)
{
    if (y.type == AG_F32)
        ((float *)y.data)[i] = v;
    else
        ((unsigned short *)y.data)[i] = (unsigned short)cuda_to_half(y.type, v);
}

enum { CUDA_VEC = 8 };

/* Elements i to i + 7; i is a multiple of 8 from an aligned start, else they are read one by one. */
static __device__ __forceinline__ void cuda_load8(float v[CUDA_VEC], cuda_floats x, int64_t i)
{
    if (!x.aligned) {
        for (int k = 0; k < CUDA_VEC; k++)
            v[k] = cuda_load(x, i + k);
    } else if (x.type != AG_F32) {
        const uint4 u = *(const uint4 *)((const unsigned short *)x.data + i);
        const unsigned w[4] = {u.x, u.y, u.z, u.w};
        for (int k = 0; k < 4; k++) {
            v[2 * k] = cuda_of_half(x.type, w[k] & 0xffff);
            v[2 * k + 1] = cuda_of_half(x.type, w[k] >> 16);
        }
    } else {
        const float4 a = *(const float4 *)((const float *)x.data + i);
        const float4 b = *(const float4 *)((const float *)x.data + i + 4);
        v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
        v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
    }
}

static __device__ __forceinline__ void cuda_store8(cuda_out y, int64_t i, const float v[CUDA_VEC])
{
    if (!y.aligned) {
        for (int k = 0; k < CUDA_VEC; k++)
            cuda_store(y, i + k, v[k]);
    } else if (y.type != AG_F32) {
        unsigned w[4];
        for (int k = 0; k < 4; k++)
            w[k] = cuda_to_half(y.type, v[2 * k]) | cuda_to_half(y.type, v[2 * k + 1]) << 16;
        *(uint4 *)((unsigned short *)y.data + i) = make_uint4(w[0], w[1], w[2], w[3]);
    } else {
        *(float4 *)((float *)y.data + i) = make_float4(v[0], v[1], v[2], v[3]);
        *(float4 *)((float *)y.data + i + 4) = make_float4(v[4], v[5], v[6], v[7]);
    }
}

/* WIDE elements, 8 or 1: for kernels that are written once for both. */
template <int WIDE>
static __device__ __forceinline__ void cuda_load_n(float *v, cuda_floats x, int64_t i)
{
    if (WIDE == CUDA_VEC)
        cuda_load8(v, x, i);
    else
        v[0] = cuda_load(x, i);
}

template <int WIDE>
static __device__ __forceinline__ void cuda_store_n(cuda_out y, int64_t i, const float *v)
{
    if (WIDE == CUDA_VEC)
        cuda_store8(y, i, v);
    else
        cuda_store(y, i, v[0]);
}

/* Index and rest of i / n, by 32-bit numbers when both are small. */
static __device__ __forceinline__ int64_t cuda_divide(int64_t i, int64_t n, int64_t *rest)
{
    const int64_t above = ((i | n) >> 31) == 0 ? (int64_t)((unsigned)i / (unsigned)n) : i / n;

    *rest = i - above * n;
    return above;
}

/* --- a map over elements ---------------------------------------------------------------------- */

/* y[i] = f(a[i], b[i]); b may be absent, and is then 0 here. */
template <typename F>
static __global__ void cuda_map_kernel(cuda_out y, cuda_floats a, cuda_floats b, int64_t n, F f)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x, whole = n / CUDA_VEC;
    const int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;

    for (int64_t i = first; i < whole; i += step) {
        float p[CUDA_VEC], q[CUDA_VEC] = {};
        cuda_load8(p, a, i * CUDA_VEC);
        if (b.data)
            cuda_load8(q, b, i * CUDA_VEC);
        for (int k = 0; k < CUDA_VEC; k++)
            p[k] = f(p[k], q[k]);
        cuda_store8(y, i * CUDA_VEC, p);
    }
    for (int64_t i = whole * CUDA_VEC + first; i < n; i += step)
        cuda_store(y, i, f(cuda_load(a, i), b.data ? cuda_load(b, i) : 0.0f));
}

template <typename F>
static inline ag_status cuda_map(const ag_call *call, cuda_out y, cuda_floats a, cuda_floats b, int64_t n, F f)
{
    return cuda_launch_over(call, (n + CUDA_VEC - 1) / CUDA_VEC, cuda_map_kernel<F>, y, a, b, n, f);
}

#endif /* AG_CUDA_DEVICE_CUH */
