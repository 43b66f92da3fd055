/* conv_direct.h - convolution by the obvious loops: what the other algorithms are tested against.
 *
 * f32 only; any size, stride, dilation and padding. Sums run in double, in the order of the
 * formula of conv.h. Private to autograd/cpu and its tests.
 */
#ifndef AG_CPU_CONV_DIRECT_H
#define AG_CPU_CONV_DIRECT_H

#include "autograd/cpu/conv.h"

void cpu_conv_direct_forward(float *y, const cpu_conv *conv, const float *x, const float *w,
                             const float *b, int n_threads);
void cpu_conv_direct_backward_data(float *dx, const cpu_conv *conv, const float *dy, const float *w,
                                   int n_threads);
void cpu_conv_direct_backward_weights(float *dw, float *db, const cpu_conv *conv, const float *x,
                                      const float *dy, int n_threads);

#endif /* AG_CPU_CONV_DIRECT_H */
