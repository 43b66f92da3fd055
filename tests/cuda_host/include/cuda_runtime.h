/* cuda_runtime.h - CUDA C++ as plain C++: a kernel is a function, a thread of a block is a fiber.
 *
 * Stands in for the toolkit's header of that name when tests/cuda_host/ compiles autograd/cuda/ for a
 * machine without a GPU. tests/cuda_host/README.md says what is checked.
 */
#ifndef CUDA_HOST_RUNTIME_H
#define CUDA_HOST_RUNTIME_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>

#include "cuda_runtime_api.h"
#include "vector_types.h"

/* --- words of the language -------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
/* Stands before a parameter's name here: all threads read the one copy. */
#define __grid_constant__ &

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

/* Shared memory of the running block for one declaration, the same for all its threads; filled with
 * 0xff before each block, so that what nobody wrote reads as NaN. */
void *cuda_host_shared(const void *key, size_t bytes);
void *cuda_host_dynamic_shared(void);
#define CUDA_SHARED(type, name, dims)                                                              \
    static const char name##_key = 0;                                                              \
    type(&name) dims = *static_cast<type(*) dims>(cuda_host_shared(&name##_key, sizeof(type dims)))
#define CUDA_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(cuda_host_dynamic_shared())

/* --- threads that work together --------------------------------------------------------------- */

void __syncthreads(void);
void __syncwarp(unsigned mask = 0xffffffffu);
/* Every lane of mask gives `bytes` of `mine`; gets what lane `from` of its warp gave. `what` names the
 * collective: lanes that meet must be in the same one. */
void cuda_host_exchange(const char *what, unsigned mask, void *mine, size_t bytes, unsigned from);
unsigned cuda_host_lane(void);
unsigned __ballot_sync(unsigned mask, int predicate);

template <typename T>
static inline T __shfl_sync(unsigned mask, T v, int from, int width = 32)
{
    const unsigned lane = cuda_host_lane();
    cuda_host_exchange("__shfl_sync", mask, &v, sizeof v, (lane & ~(width - 1u)) + (from & (width - 1)));
    return v;
}

template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32)
{
    const unsigned lane = cuda_host_lane(), from = lane ^ with;
    cuda_host_exchange("__shfl_xor_sync", mask, &v, sizeof v,
                       (from & ~(width - 1u)) <= (lane & ~(width - 1u)) ? from : lane);
    return v;
}

template <typename T>
static inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32)
{
    const unsigned lane = cuda_host_lane();
    cuda_host_exchange("__shfl_down_sync", mask, &v, sizeof v,
                       (lane & (width - 1)) + by < (unsigned)width ? lane + by : lane);
    return v;
}

template <typename T>
static inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32)
{
    const unsigned lane = cuda_host_lane();
    cuda_host_exchange("__shfl_up_sync", mask, &v, sizeof v, (lane & (width - 1)) >= by ? lane - by : lane);
    return v;
}

static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

/* --- memory ----------------------------------------------------------------------------------- */

static inline void __threadfence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline int atomicAdd(int *at, int v) { return __atomic_fetch_add(at, v, __ATOMIC_RELAXED); }
static inline unsigned atomicAdd(unsigned *at, unsigned v) { return __atomic_fetch_add(at, v, __ATOMIC_RELAXED); }
static inline int atomicExch(int *at, int v) { return __atomic_exchange_n(at, v, __ATOMIC_RELAXED); }
static inline int atomicOr(int *at, int v) { return __atomic_fetch_or(at, v, __ATOMIC_RELAXED); }
static inline int atomicCAS(int *at, int old, int v)
{
    __atomic_compare_exchange_n(at, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return old;
}

template <typename T>
static inline T __ldg(const T *p) { return *p; }

/* --- numbers ---------------------------------------------------------------------------------- */

using std::isfinite;
using std::isnan;
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, sizeof f); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, sizeof u); return u; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }

/* --- launching -------------------------------------------------------------------------------- */

typedef struct cudaLaunchConfig_st {
    dim3 gridDim;
    dim3 blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
} cudaLaunchConfig_t;

/* `argument` and `size`: what the kernel is given, looked through for addresses of host memory, and those on the
 * device that a graph would know. */
void cuda_host_check_argument(cudaStream_t stream, const void *argument, size_t size);
cudaError_t cuda_host_launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> body);
cudaError_t cuda_host_func_set_attribute(const void *kernel, cudaFuncAttribute attr, int value);

template <typename... P, typename... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...given)
{
    static_assert((sizeof(std::decay_t<P>) + ... + 0) <= 32764, "a kernel is given more than 32764 bytes");
    std::tuple<std::decay_t<P>...> args(static_cast<P>(given)...);
    std::apply([config](const std::decay_t<P> &...p) { (cuda_host_check_argument(config->stream, &p, sizeof p), ...); }, args);
    return cuda_host_launch(config, reinterpret_cast<const void *>(kernel),
                            [kernel, args]() { std::apply(kernel, args); });
}

template <typename... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attr, int value)
{
    return cuda_host_func_set_attribute(reinterpret_cast<const void *>(kernel), attr, value);
}

#endif /* CUDA_HOST_RUNTIME_H */
