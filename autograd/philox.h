/* philox.h - one block of a draw, inline: random.c makes one at a time, kernels many.
 *
 * For files in autograd/ only; random.h says what the words mean.
 */
#ifndef AG_PHILOX_H
#define AG_PHILOX_H

#include "autograd/random.h"

/* Ten rounds of Philox4x32 over the counter in `c`. */
static inline void philox_rounds(uint32_t c[4], uint32_t k0, uint32_t k1)
{
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];

        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

/* Words 4 block .. 4 block + 3 of the draw. */
static inline void philox_block(const ag_draw *draw, uint64_t block, uint32_t out[4])
{
    out[0] = (uint32_t)block;
    out[1] = draw->purpose << 16 | (uint32_t)(block >> 32 & 0xffff);
    out[2] = draw->step;
    out[3] = draw->sample;
    philox_rounds(out, (uint32_t)draw->seed, (uint32_t)(draw->seed >> 32));
}

#endif /* AG_PHILOX_H */
