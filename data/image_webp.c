/* image_webp.c - WebP in, through libwebp: lossy, lossless, with alpha (dropped, or taken alone).
 * Animations are refused: the library's plain decoder does not read them, and one frame is not what they say.
 */
#include "data/image_internal.h"

#include <string.h>

#include <webp/decode.h>

#include "data/exif.h"

static bool webp_knows(const uint8_t *bytes, size_t n)
{
    return n >= 12 && !memcmp(bytes, "RIFF", 4) && !memcmp(bytes + 8, "WEBP", 4);
}

static ag_status webp_features(WebPBitstreamFeatures *features, ag_ctx *ctx,
                               const image_source *src)
{
    const VP8StatusCode code = WebPGetFeatures(src->bytes, src->n, features);

    if (code == VP8_STATUS_NOT_ENOUGH_DATA)
        return ag_fail(ctx, AG_EDATA, "%s: damaged WebP: the file ends early", src->name);
    if (code != VP8_STATUS_OK)
        return ag_fail(ctx, AG_EDATA, "%s: damaged WebP: no picture header", src->name);
    return AG_OK;
}

static ag_status webp_size(int64_t *w, int64_t *h, ag_ctx *ctx, const image_source *src)
{
    WebPBitstreamFeatures features;
    const ag_status status = webp_features(&features, ctx, src);

    if (status == AG_OK) {
        *w = features.width;
        *h = features.height;
    }
    return status;
}

/* The EXIF chunk of the RIFF container: four letters, a length, and the data padded to even. */
static int webp_orientation(ag_ctx *ctx, const image_source *src)
{
    size_t at = 12;

    (void)ctx;
    while (src->n >= 8 && at <= src->n - 8) {
        const size_t n = image_le32(src->bytes + at + 4);

        if (n > src->n - at - 8)
            break;
        if (!memcmp(src->bytes + at, "EXIF", 4))
            return data_exif_orientation(src->bytes + at + 8, n);
        at += 8 + n + (n & 1);
    }
    return 1;
}

static bool webp_pixels(data_image *img, const image_source *src)
{
    return WebPDecodeRGBInto(src->bytes, src->n, img->pixels, (size_t)(img->w * img->h * 3),
                             (int)img->w * 3) != NULL;
}

static bool webp_alpha(data_image *img, ag_ctx *ctx, const image_source *src)
{
    const size_t n = (size_t)(img->w * img->h);
    uint8_t *rgba = ag_new(ctx, n, 4, "pixels of a WebP");
    const bool ok =
        rgba && WebPDecodeRGBAInto(src->bytes, src->n, rgba, 4 * n, (int)img->w * 4) != NULL;

    if (ok)
        image_take_alpha(img, rgba);
    ag_delete(rgba);
    return ok;
}

static ag_status webp_decode(data_image *img, ag_ctx *ctx, const image_source *src)
{
    WebPBitstreamFeatures features;
    data_image made = {0};
    ag_status status = webp_features(&features, ctx, src);

    if (status == AG_OK && (uint64_t)image_le32(src->bytes + 4) + 8 > src->n)
        status =
            ag_fail(ctx, AG_EDATA, "%s: damaged WebP: %llu bytes of %llu", src->name,
                    (unsigned long long)src->n, (unsigned long long)image_le32(src->bytes + 4) + 8);
    if (status == AG_OK && features.has_animation)
        status =
            ag_fail(ctx, AG_EUNSUPPORTED, "%s: an animated WebP, want a still picture", src->name);
    if (status == AG_OK)
        status = image_check_size(ctx, src, features.width, features.height);
    if (status == AG_OK)
        status = data_image_new(&made, ctx, features.width, features.height);
    if (status != AG_OK)
        return status;
    if (!(src->alpha ? webp_alpha(&made, ctx, src) : webp_pixels(&made, src))) {
        data_image_free(&made);
        if (ag_status_of(ctx) == AG_OK)
            ag_fail(ctx, AG_EDATA, "%s: damaged WebP: its pixels cannot be decoded", src->name);
        return ag_status_of(ctx);
    }
    made.had_alpha = features.has_alpha != 0;
    *img = made;
    return AG_OK;
}

const image_reader image_reader_webp = {.format = DATA_IMAGE_WEBP,
                                        .has_alpha = true,
                                        .knows = webp_knows,
                                        .size = webp_size,
                                        .orientation = webp_orientation,
                                        .decode = webp_decode};
