/* resample.h - resize, crop, flip pictures, and turn them into what a network eats.
 *
 * Resizing gives Pillow's bytes: two passes with 8 bits between them, weights in 22-bit fixed
 * point, widened by the scale when shrinking (antialiasing). A pass whose size does not change is
 * skipped. Which pass is first follows Pillow 13 (see resample.c).
 *
 * Ownership  Results are new images of the caller (data_image_free); inputs are only read. `out`
 *            may be the address of the input: the old pixels are freed after success.
 */
#ifndef DATA_RESAMPLE_H
#define DATA_RESAMPLE_H

#include "data/image.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum data_filter {
    DATA_NEAREST,
    DATA_BILINEAR, /* triangle, support 1 */
    DATA_BICUBIC,  /* Keys 1981, a = -0.5, support 2 */
    DATA_LANCZOS,  /* sinc(x) sinc(x/3), support 3 */
    DATA_N_FILTERS
} data_filter;

/* "nearest", "bilinear", "bicubic", "lanczos"; AG_EINVAL names the nearest known word. */
ag_status data_filter_parse(data_filter *filter, ag_ctx *ctx, const char *name);

ag_status data_image_resize(data_image *out, ag_ctx *ctx, const data_image *in, int64_t w,
                            int64_t h, data_filter filter);

/* The rectangle of w x h pixels whose upper left corner is (left, top); it must lie inside. */
ag_status data_image_crop(data_image *out, ag_ctx *ctx, const data_image *in, int64_t left,
                          int64_t top, int64_t w, int64_t h);

/* Mirror left and right, in place. */
void data_image_flip(data_image *img);

/* Width and height of a picture. */
typedef struct data_size {
    int64_t w, h;
} data_size;

/* The size of a picture once it just covers a box: one side is the box's, the other is
 * trunc(side other / one), which for a square box is what torchvision's Resize makes of the
 * shorter side. */
data_size data_cover_size(data_size picture, data_size box);

/* Resize to cover the box, then crop to it. offset: {top, left} of the crop in the resized
 * picture, or NULL for the centre (round-half-even((h - box.h) / 2), likewise the other axis, as
 * torchvision's CenterCrop). */
ag_status data_image_cover(data_image *out, ag_ctx *ctx, const data_image *in, data_size box,
                           data_filter filter, const int64_t *offset);

/* dst[i] = (pixels[i] / 255 - 0.5) / 0.5 in single precision; dst is [h, w, 3], channels last. The
 * roundings are those of torchvision's ToTensor and Normalize. */
void data_image_to_f32(float *dst, const data_image *img);
/* The way back: clamp((x / 2 + 0.5), 0, 1) 255, rounded half to even (diffusers' numpy_to_pil)
 * or truncated (the original editing program). src is [h, w, 3]; img is made w x h. */
ag_status data_image_from_f32(data_image *img, ag_ctx *ctx, const float *src, int64_t w, int64_t h,
                              bool truncate);

/* A file as training sees it (fading.md 2.4): resized to cover the box with a bilinear filter,
 * cropped to it (offset as in data_image_cover), mirrored when `flip`. */
ag_status data_image_load_training(data_image *out, ag_ctx *ctx, const char *path, data_size box,
                                   const int64_t *offset, bool flip, unsigned flags);
/* A file as editing sees it (fading.md 3.4): the square of the shorter side from the middle
 * (offset floor((long - short) / 2)), then a bicubic resize to R x R. */
ag_status data_image_load_editing(data_image *out, ag_ctx *ctx, const char *path, int64_t R,
                                  unsigned flags);

#ifdef __cplusplus
}
#endif

#endif /* DATA_RESAMPLE_H */
