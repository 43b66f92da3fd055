/* adamw8bit.h - AdamW whose moments are kept in one byte each, on the CPU.
 *
 * Dettmers et al. 2022, arXiv:2110.02861, as bitsandbytes-foundation/bitsandbytes has it
 * (functional.py: create_dynamic_map; csrc/kernels.cu: kOptimizerStatic8bit2StateBlockwise):
 * values in blocks of 256, each block with one f32, its largest magnitude, and each value as the
 * nearest of 256 codes of value / largest. The codes are "dynamic": i = 0..6 stands for the decade
 * 10^(i-7) .. 10^(i-6), cut into 2^i equal parts (m: times both signs) or 2^(i+1) (v, which has no
 * sign), of which the middles are codes; 0 and 1 complete them.
 */
#ifndef AG_CPU_ADAMW8BIT_H
#define AG_CPU_ADAMW8BIT_H

#include <stdbool.h>
#include <stdint.h>

#include "autograd/cpu/optimizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CPU_ADAMW8BIT_BLOCK = 256,
    CPU_ADAMW8BIT_TAPS = 64 /* the most that `taps` may be */
};

/* One step, in bitsandbytes' order; scalars and the returned value as cpu_adamw's. With the
 * moments of a block taken out of their codes:
 *   m = beta1 m + (1 - beta1) g'              v = beta2 v + (1 - beta2) g'^2
 *   p -= lr sqrt(correction2) / correction1 * m / (sqrt(v) + eps sqrt(correction2))
 *   p *= 1 - lr wd                            m and v are put into codes again
 *
 * p, g           [n]
 * m, v           [n] codes; m_max, v_max [ceil(n / 256)]. All zero bytes are moments of zero.
 * channels,taps  blocks follow the order [n / (channels taps), channels, taps], in which m and v
 *                are kept; p and g are kept as [n / (channels taps), taps, channels]. taps 1: one
 *                order (channels is not read). */
bool cpu_adamw8bit(float *p, uint8_t *m, float *m_max, uint8_t *v, float *v_max, const float *g,
                   int64_t n, int64_t channels, int64_t taps, const double scalars[CPU_ADAMW_N],
                   int n_threads, int isa);

/* The 256 codes of m, rising, when with_sign, else of v. */
const float *cpu_adamw8bit_codes(bool with_sign);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_ADAMW8BIT_H */
