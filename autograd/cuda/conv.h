/* conv.h - convolution on the device: sizes, and the two ways it is done. For files in autograd/cuda/ only.
 *
 *   y[n,oy,ox,o] = b[o] + sum over ky,kx,i of x[n, oy s + ky t - top, ox s + kx t - left, i] w[o,ky,kx,i]
 */
#ifndef AG_CUDA_CONV_H
#define AG_CUDA_CONV_H

#include "autograd/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cuda_conv {
    int64_t n, h, w, c;   /* of x */
    int64_t oh, ow, o;    /* of y */
    int64_t kh, kw, stride, dilation, top, left, bottom, right;
} cuda_conv;

/* conv_patches.cu. x, y, d are of `type`, f32, bf16 or f16. */

/* col [rows, kh kw c], the patches of output places from, from + 1, ... (counted over pictures, lines, columns) */
ag_status cuda_conv_patches(const ag_call *call, void *col, const void *x, ag_dtype type, const cuda_conv *s,
                            int64_t from, int64_t rows);
/* dx [pictures,h,w,c] f32 = or += what one tap (ky, kx) gives: part [pictures,oh,ow,c] f32 at its place */
ag_status cuda_conv_add_tap(const ag_call *call, float *dx, const float *part, const cuda_conv *s, int64_t pictures,
                            int64_t ky, int64_t kx, bool is_first);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_CONV_H */
