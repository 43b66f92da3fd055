/* numbers.h - floating numbers of 16, 32 and 64 bits, one into the other.
 *
 *   f16   sign, 5 bits of exponent (bias 15), 10 of fraction (IEEE 754 binary16)
 *   bf16  the upper half of an f32
 *
 * Rounding is to the nearest, ties to even; what is too large becomes infinite; a NaN stays a NaN.
 * Plain host memory, no context: files, networks and kernels all convert here.
 */
#ifndef AG_NUMBERS_H
#define AG_NUMBERS_H

#include <stdint.h>
#include <string.h>

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

bool ag_is_float(ag_dtype dtype); /* f32, f16, bf16 or f64: one that the next two take */

/* n numbers of a floating dtype to f32, and back. to and from do not overlap. */
void ag_widen(float *to, ag_dtype dtype, const void *from, int64_t n);
void ag_narrow(void *to, ag_dtype dtype, const float *from, int64_t n);

/* --- one at a time ---------------------------------------------------------------------------- */

static inline uint32_t ag_bits_of_f32(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float ag_f32_of_bits(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float ag_f32_of_bf16(uint16_t x)
{
    return ag_f32_of_bits((uint32_t)x << 16);
}

static inline uint16_t ag_bf16_of_f32(float x)
{
    const uint32_t bits = ag_bits_of_f32(x);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;

    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
}

static inline float ag_f32_of_f16(uint16_t x)
{
    const uint32_t sign = (uint32_t)(x & 0x8000u) << 16, rest = x & 0x7fffu;

    if (rest < 0x400u) /* zero and below 2^-14: fraction * 2^-24, exact in f32 */
        return ag_f32_of_bits(sign | ag_bits_of_f32((float)rest * 0x1p-24f));
    if (rest < 0x7c00u)
        return ag_f32_of_bits(sign | ((rest << 13) + 0x38000000u)); /* the bias: 15 to 127 */
    return ag_f32_of_bits(sign | 0x7f800000u | rest << 13 | (rest > 0x7c00u ? 0x400000u : 0u));
}

static inline uint16_t ag_f16_of_f32(float x)
{
    const uint32_t bits = ag_bits_of_f32(x), rest = bits & 0x7fffffffu;
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);

    if (rest > 0x7f800000u) /* NaN: quiet, the upper bits of its payload kept */
        return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x1ffu));
    if (rest >= 0x477ff000u) /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) /* below 2^-14: adding 1/2 puts units of 2^-24 into the low bits */
        return (uint16_t)(sign | (ag_bits_of_f32(ag_f32_of_bits(rest) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13);
}

#ifdef __cplusplus
}
#endif

#endif /* AG_NUMBERS_H */
