/* philox.cuh - autograd/random.h's counter-based generator in a kernel: the same words. */
#ifndef AG_CUDA_PHILOX_CUH
#define AG_CUDA_PHILOX_CUH

#include "autograd/cuda/device.cuh"

/* The four words of a block of a draw. */
static __device__ __forceinline__ void cuda_draw_block(const ag_draw &draw, uint64_t block, unsigned out[4])
{
    unsigned c0 = (unsigned)block, c1 = draw.purpose << 16 | (unsigned)(block >> 32 & 0xffff);
    unsigned c2 = draw.step, c3 = draw.sample, k0 = (unsigned)draw.seed, k1 = (unsigned)(draw.seed >> 32);

    for (int round = 0; round < 10; round++) {
        const unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

#endif /* AG_CUDA_PHILOX_CUH */
