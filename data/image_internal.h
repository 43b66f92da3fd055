/* image_internal.h - what the picture readers of this folder share. */
#ifndef DATA_IMAGE_INTERNAL_H
#define DATA_IMAGE_INTERNAL_H

#include "data/image.h"

/* A file in memory. */
typedef struct image_source {
    const uint8_t *bytes;
    size_t n;
    const char *name; /* stands for it in messages */
    bool alpha;       /* decode the alpha channel, as grey, in place of the colours */
} image_source;

/* Every reader has three parts: the size as stored, without decoding; how the picture is to be
 * turned (1..8, as EXIF counts; NULL: such files do not say), from the whole file; and the pixels
 * as stored. A reader of pixels checks the size itself. One that `has_alpha` honours src->alpha,
 * with white where the file has no alpha channel. */
typedef struct image_reader {
    data_image_format format;
    bool has_alpha;
    bool (*knows)(const uint8_t *bytes, size_t n); /* by the first bytes */
    ag_status (*size)(int64_t *w, int64_t *h, ag_ctx *ctx, const image_source *src);
    int (*orientation)(ag_ctx *ctx, const image_source *src);
    ag_status (*decode)(data_image *img, ag_ctx *ctx, const image_source *src);
} image_reader;

extern const image_reader image_reader_png, image_reader_jpeg, image_reader_webp, image_reader_tiff,
    image_reader_bmp, image_reader_netpbm;

/* Refuse sizes of 0 or beyond the limits of image.h, before memory is taken for them. */
ag_status image_check_size(ag_ctx *ctx, const image_source *src, int64_t w, int64_t h);

/* The fourth of every four bytes as the picture's grey. rgba: [h, w, 4]. */
void image_take_alpha(data_image *img, const uint8_t *rgba);

/* One pixel from CMYK with 0 = no ink, rounded as Pillow rounds it. */
void image_cmyk_to_rgb(uint8_t rgb[3], const uint8_t cmyk[4]);

/* Little- and big-endian fields; the caller has checked that they are inside. */
static inline uint32_t image_le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static inline uint32_t image_le32(const uint8_t *p)
{
    return image_le16(p) | image_le16(p + 2) << 16;
}
static inline uint32_t image_be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | (uint32_t)p[1];
}
static inline uint32_t image_be32(const uint8_t *p)
{
    return image_be16(p) << 16 | image_be16(p + 2);
}

#endif /* DATA_IMAGE_INTERNAL_H */
