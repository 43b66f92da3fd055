/* image.h - pictures in files: read any usual format to 8-bit RGB, write PNG.
 *
 * The format is found from the first bytes, never from the name: PNG, JPEG, WebP, TIFF, BMP, and
 * the binary and ASCII netpbm formats (PBM, PGM, PPM). The pixels are those of Pillow's
 * Image.open(path).convert("RGB"), byte for byte (scripts/golden_images.py compares):
 *   alpha        is dropped, not blended; a transparent colour stays the colour it is
 *   grey         of 1, 2, 4, 8 bits is spread over 0..255 and copied to the three channels
 *   16-bit grey  is clipped at 255, not scaled (Pillow's mode I;16; a 16-bit photo becomes white)
 *   16-bit RGB, and grey with alpha: the high byte
 *   CMYK         R = (255-K)(255-C)/255, rounded; JPEG's CMYK is taken as inverted (Adobe)
 *   animations   the first picture of a PNG or TIFF; an animated WebP is refused
 * The EXIF orientation (JPEG APP1, PNG eXIf, WebP EXIF, TIFF tag) is applied to the pixels unless
 * DATA_IGNORE_EXIF is given.
 *
 * Limits: 16384 x 16384, 2^28 pixels, 1 GiB files, 100 scans of a progressive JPEG. A picture
 * that ends early, or whose checksums do not fit, is an error.
 *
 * Ownership  An image owns its pixels; data_image_free() ends it and takes a zeroed image.
 * Threads    Functions keep nothing between calls; a context belongs to one thread.
 */
#ifndef DATA_IMAGE_H
#define DATA_IMAGE_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATA_IMAGE_MAX_SIDE = 16384 };
#define DATA_IMAGE_MAX_PIXELS ((int64_t)1 << 28)
#define DATA_IMAGE_MAX_BYTES ((int64_t)1 << 30)

typedef enum data_image_format {
    DATA_IMAGE_UNKNOWN,
    DATA_IMAGE_PNG,
    DATA_IMAGE_JPEG,
    DATA_IMAGE_WEBP,
    DATA_IMAGE_TIFF,
    DATA_IMAGE_BMP,
    DATA_IMAGE_NETPBM,
    DATA_IMAGE_N_FORMATS
} data_image_format;

typedef struct data_image {
    int64_t w, h;
    uint8_t *pixels; /* [h, w, 3], red first */
    bool had_alpha;  /* the file had an alpha channel, which is not here */
} data_image;

enum {
    DATA_IGNORE_EXIF = 1, /* leave the picture as it is stored */
    DATA_ALPHA = 2        /* the alpha channel as grey, in place of the colours; white without one.
                           * AG_EUNSUPPORTED when there is one in another format than PNG and WebP */
};

/* Read a picture. `img` is written only on success and then belongs to the caller.
 * Returns AG_OK, AG_EIO (cannot be read), AG_EDATA (not a picture, damaged, truncated),
 * AG_EUNSUPPORTED (a variant that is not read, named in the message) or AG_ENOMEM. */
ag_status data_image_read(data_image *img, ag_ctx *ctx, const char *path, unsigned flags);

/* The same from memory; `name` stands for the file in messages. */
ag_status data_image_decode(data_image *img, ag_ctx *ctx, const void *bytes, size_t n_bytes,
                            const char *name, unsigned flags);

/* Format and size as stored (before orientation) from the first bytes of a file, without decoding
 * pixels. A format that is not known is an error. format, w, h may be NULL. */
ag_status data_image_probe(data_image_format *format, int64_t *w, int64_t *h, ag_ctx *ctx,
                           const char *path);

/* The size that data_image_read() would give with these flags, without decoding pixels: as stored,
 * or turned upright. Reads the whole file where a turn would change the size. */
ag_status data_image_size(int64_t *w, int64_t *h, ag_ctx *ctx, const char *path, unsigned flags);

const char *data_image_format_name(data_image_format format); /* "PNG", ... */

/* Make an image of w x h black pixels. */
ag_status data_image_new(data_image *img, ag_ctx *ctx, int64_t w, int64_t h);
void data_image_free(data_image *img); /* afterwards zeroed; NULL is fine */

/* Encode as an 8-bit RGB PNG. *bytes is for ag_delete(). */
ag_status data_image_encode_png(uint8_t **bytes, size_t *n_bytes, ag_ctx *ctx,
                                const data_image *img);
/* Write a PNG: beside, flushed, then renamed, so that `path` never holds half a picture. */
ag_status data_image_write_png(ag_ctx *ctx, const data_image *img, const char *path);

#ifdef __cplusplus
}
#endif

#endif /* DATA_IMAGE_H */
