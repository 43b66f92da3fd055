/* conv.h - two-dimensional convolution on the CPU, channels last: forward and both gradients.
 *
 *   y[n,oy,ox,o] = b[o] + sum over ky,kx,i of
 *                  x[n, oy s + ky d - top, ox s + kx d - left, i] w[o,ky,kx,i]
 *
 * x [N,H,W,I], w [O,kh,kw,I], b [O], y [N,OH,OW,O]; s stride, d dilation; x is 0 outside.
 * Which algorithm runs is decided by shape and instruction set (conv.c says how):
 *   direct     the obvious loops; reference and last resort      conv_direct.c
 *   gemm       1x1, stride 1: one matrix product                 gemm.c
 *   im2col     product with patches gathered on the fly          conv_im2col.c
 *   winograd   3x3, stride 1, f32: F(4x4,3x3) or F(2x2,3x3)      conv_winograd.c
 *   amx        bf16 on AMX tiles                                 conv_amx.c
 *   onednn     bf16 where the processor multiplies bf16          onednn.c
 *
 * Memory   Nothing is allocated: the caller brings `scratch`, 64-byte aligned, of the size that the
 *          scratch function tells for the same state and call.
 * Bits     As in gemm.h.
 */
#ifndef AG_CPU_CONV_H
#define AG_CPU_CONV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/cpu/state.h"
#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cpu_conv {
    int64_t n, h, w, c;   /* of x [N,H,W,I]: c is I */
    int64_t o, kh, kw;    /* of w [O,kh,kw,I] */
    int64_t stride;       /* >= 1, both axes */
    int64_t dilation;     /* >= 1, both axes */
    int64_t pad_top, pad_bottom, pad_left, pad_right; /* >= 0 */
    ag_dtype type;        /* of x, y and their gradients: AG_F32 or AG_BF16 */
    ag_dtype weight_type; /* of w: AG_F32 or AG_BF16; biases and weight gradients are f32 */
    bool enlarge;         /* forward: every pixel of x counts as 2x2; where cpu_conv2d_takes_enlarged() */
} cpu_conv;

/* floor((H + top + bottom - d (kh - 1) - 1) / s) + 1; below 1 when the kernel does not fit. */
int64_t cpu_conv_out_h(const cpu_conv *conv);
int64_t cpu_conv_out_w(const cpu_conv *conv);

/* Is there a form of this convolution that reads x enlarged, and is it worth it? */
bool cpu_conv2d_takes_enlarged(cpu_state *state, const cpu_conv *conv);

/* The functions below return false only when oneDNN failed (no memory); outputs are then undefined.
 * Outputs are overwritten and overlap no input. */

/* b may be NULL; so may plus, which is added (on AMX before rounding), as y */
size_t cpu_conv2d_forward_scratch(cpu_state *state, const cpu_conv *conv);
bool cpu_conv2d_forward(void *y, cpu_state *state, const cpu_conv *conv, const void *x,
                        const void *w, const float *b, const void *plus, void *scratch)
    __attribute__((warn_unused_result));

/* dx [N,H,W,I], the gradient of <dy, y> by x */
size_t cpu_conv2d_backward_data_scratch(cpu_state *state, const cpu_conv *conv);
bool cpu_conv2d_backward_data(void *dx, cpu_state *state, const cpu_conv *conv, const void *dy,
                              const void *w, void *scratch) __attribute__((warn_unused_result));

/* dw [O,kh,kw,I] and db [O], f32; db may be NULL */
size_t cpu_conv2d_backward_weights_scratch(cpu_state *state, const cpu_conv *conv);
bool cpu_conv2d_backward_weights(float *dw, float *db, cpu_state *state, const cpu_conv *conv,
                                 const void *x, const void *dy, void *scratch)
    __attribute__((warn_unused_result));

typedef enum cpu_conv_pass {
    CPU_CONV_FORWARD,
    CPU_CONV_BACKWARD_DATA,
    CPU_CONV_BACKWARD_WEIGHTS
} cpu_conv_pass;

/* What would run: "winograd 4x4 avx2", "im2col avx512", "onednn jit:avx2", ...; for tests and
 * profiles. The text lives as long as the state. */
const char *cpu_conv_kernel_name(cpu_state *state, const cpu_conv *conv, cpu_conv_pass pass);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_CONV_H */
