/* onednn.h - convolutions and matrix products by oneDNN, compiled once per shape.
 *
 * Activations stay as they are (channels last, any strides of a matrix). Weights are converted
 * into the layout that oneDNN picks, in the caller's scratch, at each call: with plain layouts it
 * silently falls to implementations ten to a thousand times slower, and a second copy of the
 * weights is more than we want to keep.
 *
 * A plan is what was compiled for one shape; it lives as long as the cpu_onednn. Private to
 * autograd/cpu.
 */
#ifndef AG_CPU_ONEDNN_H
#define AG_CPU_ONEDNN_H

#include "autograd/cpu/conv.h"
#include "autograd/cpu/gemm.h"

typedef struct cpu_onednn cpu_onednn;
typedef struct cpu_onednn_plan cpu_onednn_plan;

cpu_onednn *cpu_onednn_new(int n_threads); /* NULL when memory is refused */
void cpu_onednn_free(cpu_onednn *library); /* NULL is fine */

/* The plan of a shape, compiled at the first call. NULL when oneDNN has nothing but its reference
 * loops for it. *failed is set when it could not be compiled for another reason (no memory); the
 * answer is then not remembered. */
const cpu_onednn_plan *cpu_onednn_conv(cpu_onednn *library, const cpu_conv *conv,
                                       cpu_conv_pass pass, bool *failed);
/* Pointers, alpha and batch strides of 0 are not looked at: alpha is 1, beta 0 or 1, B shared by
 * all products when its stride is 0. `pack` lets oneDNN choose B's layout. */
const cpu_onednn_plan *cpu_onednn_gemm(cpu_onednn *library, const cpu_gemm_call *call, bool pack,
                                       bool *failed);

size_t cpu_onednn_scratch(const cpu_onednn_plan *plan); /* bytes */
const char *cpu_onednn_name(const cpu_onednn_plan *plan); /* "onednn " and oneDNN's own word */

/* out, in0, in1: y, x, w forward; dx, dy, w backward by data; dw, x, dy backward by weights;
 * C, A, B of a product. bias may be NULL. False when oneDNN failed. */
bool cpu_onednn_run(cpu_onednn *library, const cpu_onednn_plan *plan, void *out, const void *in0,
                    const void *in1, const float *bias, void *scratch);

#endif /* AG_CPU_ONEDNN_H */
