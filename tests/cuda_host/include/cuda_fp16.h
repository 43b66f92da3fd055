/* cuda_fp16.h - f16 as autograd/cuda/ uses it; see cuda_runtime.h beside it. */
#ifndef CUDA_HOST_FP16_H
#define CUDA_HOST_FP16_H

#include "autograd/numbers.h"

typedef struct __half {
    unsigned short bits;
} __half;

static inline float __half2float(__half x) { return ag_f32_of_f16(x.bits); }
static inline __half __float2half_rn(float x) { return {ag_f16_of_f32(x)}; }
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }
static inline __half __ushort_as_half(unsigned short x) { return {x}; }

#endif /* CUDA_HOST_FP16_H */
