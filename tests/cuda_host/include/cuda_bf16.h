/* cuda_bf16.h - bf16 as autograd/cuda/ uses it; see cuda_runtime.h beside it. */
#ifndef CUDA_HOST_BF16_H
#define CUDA_HOST_BF16_H

#include "autograd/numbers.h"

typedef struct __nv_bfloat16 {
    unsigned short bits;
} __nv_bfloat16;

static inline float __bfloat162float(__nv_bfloat16 x) { return ag_f32_of_bf16(x.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {ag_bf16_of_f32(x)}; }
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return {x}; }

#endif /* CUDA_HOST_BF16_H */
