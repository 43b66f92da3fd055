/* conv.h - 2-D convolutions on the CPU, channels last: forward and both gradients.
 *
 *   y[n,oy,ox,o] = b[o] + sum_{ky,kx,i} x[n, oy s + ky d - top, ox s + kx d - left, i] w[o,ky,kx,i]
 *
 * x [N,H,W,I], w [O,kh,kw,I], y [N,OH,OW,O]; s stride, d dilation; outside x is zero. x and y are
 * f32 or bf16, w, dw and the biases f32. Sums are f32.
 * Nothing is allocated but oneDNN's primitives, once per shape: the caller brings `scratch`, 64-byte
 * aligned, of the size that cpu_conv_scratch tells.
 */
#ifndef AG_CPU_CONV_H
#define AG_CPU_CONV_H

#include <stddef.h>
#include <stdint.h>

#include "autograd/cpu/state.h"
#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cpu_conv {
    int64_t n, h, w, in;   /* x */
    int64_t oh, ow, out;   /* y */
    int64_t kh, kw, stride, dilation;
    int64_t top, bottom, left, right;
    ag_dtype dtype; /* of x and y (dx and dy): f32 or bf16 */
} cpu_conv;

typedef enum cpu_conv_pass { CPU_CONV_FORWARD, CPU_CONV_BACKWARD_DATA, CPU_CONV_BACKWARD_WEIGHTS } cpu_conv_pass;

size_t cpu_conv_scratch(cpu_state *state, const cpu_conv *c, cpu_conv_pass pass);

/* y from x and w; bias [O] or NULL. */
ag_status cpu_conv_forward(cpu_state *state, const cpu_conv *c, void *y, const void *x, const float *w,
                           const float *bias, void *scratch);
/* dx from dy and w. */
ag_status cpu_conv_backward_data(cpu_state *state, const cpu_conv *c, void *dx, const void *dy, const float *w,
                                 void *scratch);
/* dw from x and dy. */
ag_status cpu_conv_backward_weights(cpu_state *state, const cpu_conv *c, float *dw, const void *x,
                                    const void *dy, void *scratch);

/* The name of what runs this pass ("brgconv:avx512_core", "direct", ...): for tests and profiles. */
const char *cpu_conv_implementation(cpu_state *state, const cpu_conv *c, cpu_conv_pass pass);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_CONV_H */
