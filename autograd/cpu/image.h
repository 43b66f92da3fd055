/* image.h - resampling and padding of channels-last pictures on the CPU.
 *
 * x [N,H,W,C], contiguous f32; outputs never overlap inputs; adjoints overwrite dx. Bits do not
 * depend on the number of threads.
 */
#ifndef AG_CPU_IMAGE_H
#define AG_CPU_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "autograd/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cpu_picture {
    int64_t n, h, w, c;
} cpu_picture;

/* y [N,oh,ow,C]: source index floor(dst * in / out). Elements of `size` bytes. */
void cpu_upsample_nearest(void *y, const void *x, size_t size, cpu_picture in, int64_t oh, int64_t ow,
                          int n_threads);
void cpu_upsample_nearest_adjoint(float *dx, const float *dy, cpu_picture in, int64_t oh,
                                  int64_t ow, int n_threads);

/* y [N,H/k,W/k,C]: mean of k x k windows at stride k; trailing rows and columns are dropped. */
void cpu_avg_pool(float *y, const float *x, cpu_picture in, int64_t k, int n_threads);
void cpu_avg_pool_adjoint(float *dx, const float *dy, cpu_picture in, int64_t k, int n_threads);

/* y [N,top+H+bottom,left+W+right,C]. Pads >= 0; when reflecting at most H-1, W-1. */
void cpu_pad(float *y, const float *x, cpu_picture in, ag_pad_mode mode, int64_t top,
             int64_t bottom, int64_t left, int64_t right, int n_threads);
void cpu_pad_adjoint(float *dx, const float *dy, cpu_picture in, ag_pad_mode mode, int64_t top,
                     int64_t bottom, int64_t left, int64_t right, int n_threads);

/* Up-sampling by zeros, padding (negative: cropping), a filter, keeping every down-th sample:
 *   u[i*up] = x[i]     y[o] = sum_f filter[f] u[o*down + f - top]
 * on both axes; the filter [fh,fw] is not flipped and is shared by the channels.
 * (NVlabs/stylegan2: dnnlib/tflib/ops/upfirdn_2d.py) */
typedef struct cpu_upfirdn {
    int64_t up, down, fh, fw, top, bottom, left, right;
} cpu_upfirdn;
/* Output size of one axis: (in * up + before + after - filter) / down + 1. */
int64_t cpu_upfirdn_size(int64_t in, int64_t up, int64_t down, int64_t filter, int64_t before,
                         int64_t after);
void cpu_upfirdn2d(float *y, const float *x, const float *filter, cpu_picture in, cpu_upfirdn s,
                   int n_threads);
void cpu_upfirdn2d_adjoint(float *dx, const float *dy, const float *filter, cpu_picture in,
                           cpu_upfirdn s, int n_threads);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_IMAGE_H */
