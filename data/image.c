/* image.c - finding the format of a picture, its limits, its memory. The formats themselves are in
 * image_png.c, image_jpeg.c, image_webp.c, image_tiff.c and image_netpbm_bmp.c.
 */
#include "data/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/exif.h"
#include "data/image_internal.h"
#include "data/text_file.h"

/* Bytes of a file that are looked at before all of it is read, when only the size is wanted. */
enum { HEAD_BYTES = 64 << 10 };

static const image_reader *const readers[] = {
    &image_reader_png,  &image_reader_jpeg, &image_reader_webp,
    &image_reader_tiff, &image_reader_bmp,  &image_reader_netpbm,
};

const char *data_image_format_name(data_image_format format)
{
    static const char *const names[DATA_IMAGE_N_FORMATS] = {
        [DATA_IMAGE_UNKNOWN] = "unknown", [DATA_IMAGE_PNG] = "PNG",   [DATA_IMAGE_JPEG] = "JPEG",
        [DATA_IMAGE_WEBP] = "WebP",       [DATA_IMAGE_TIFF] = "TIFF", [DATA_IMAGE_BMP] = "BMP",
        [DATA_IMAGE_NETPBM] = "netpbm",
    };

    return format >= 0 && format < DATA_IMAGE_N_FORMATS ? names[format] : "unknown";
}

ag_status data_image_new(data_image *img, ag_ctx *ctx, int64_t w, int64_t h)
{
    uint8_t *pixels = NULL;

    if (w < 1 || h < 1 || h > DATA_IMAGE_MAX_PIXELS / w)
        return ag_fail(ctx, AG_EINVAL,
                       "a picture of %lld x %lld pixels, want 1 to %lld pixels in all",
                       (long long)w, (long long)h, (long long)DATA_IMAGE_MAX_PIXELS);
    pixels = ag_new(ctx, (size_t)(w * h), 3, "the pixels of a picture");
    if (!pixels)
        return AG_ENOMEM;
    *img = (data_image){.w = w, .h = h, .pixels = pixels};
    return AG_OK;
}

void data_image_free(data_image *img)
{
    if (!img)
        return;
    ag_delete(img->pixels);
    *img = (data_image){0};
}

ag_status image_check_size(ag_ctx *ctx, const image_source *src, int64_t w, int64_t h)
{
    if (w < 1 || h < 1)
        return ag_fail(ctx, AG_EDATA, "%s: a picture of %lld x %lld pixels", src->name,
                       (long long)w, (long long)h);
    if (w > DATA_IMAGE_MAX_SIDE || h > DATA_IMAGE_MAX_SIDE || w * h > DATA_IMAGE_MAX_PIXELS)
        return ag_fail(ctx, AG_EDATA, "%s: %lld x %lld pixels, at most %d x %d are read", src->name,
                       (long long)w, (long long)h, DATA_IMAGE_MAX_SIDE, DATA_IMAGE_MAX_SIDE);
    return AG_OK;
}

/* x y / 255 rounded, exact for bytes (Blinn 1995, "Three wrongs make a right"). */
static int mul_255(int x, int y)
{
    const int t = x * y + 128;

    return ((t >> 8) + t) >> 8;
}

void image_cmyk_to_rgb(uint8_t rgb[3], const uint8_t cmyk[4])
{
    const int light = 255 - cmyk[3];

    for (int c = 0; c < 3; c++) {
        const int v = light - mul_255(cmyk[c], light);
        rgb[c] = (uint8_t)(v < 0 ? 0 : v);
    }
}

void image_take_alpha(data_image *img, const uint8_t *rgba)
{
    for (int64_t i = 0; i < img->w * img->h; i++)
        memset(img->pixels + 3 * i, rgba[4 * i + 3], 3);
}

static const image_reader *image_find_reader(const image_source *src)
{
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        if (readers[i]->knows(src->bytes, src->n))
            return readers[i];
    }
    return NULL;
}

static ag_status image_not_known(ag_ctx *ctx, const image_source *src)
{
    if (src->n == 0)
        return ag_fail(ctx, AG_EDATA, "%s: empty file, want a picture", src->name);
    return ag_fail(ctx, AG_EDATA,
                   "%s: not a picture: want PNG, JPEG, WebP, TIFF, BMP, PPM, PGM or PBM",
                   src->name);
}

/* The alpha channel of a format whose reader does not keep one. */
static ag_status no_alpha(data_image *img, ag_ctx *ctx, const image_source *src, const image_reader *reader)
{
    if (img->had_alpha)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: the alpha channel of a %s is not read, of PNG and WebP it is",
                       src->name, data_image_format_name(reader->format));
    memset(img->pixels, 255, (size_t)(img->w * img->h * 3));
    return AG_OK;
}

ag_status data_image_decode(data_image *img, ag_ctx *ctx, const void *bytes, size_t n_bytes,
                            const char *name, unsigned flags)
{
    const image_source src = {
        .bytes = bytes, .n = n_bytes, .name = name, .alpha = (flags & DATA_ALPHA) != 0};
    const image_reader *reader = image_find_reader(&src);
    data_image made = {0};
    ag_status status;

    if (!reader)
        return image_not_known(ctx, &src);
    status = reader->decode(&made, ctx, &src);
    if (status == AG_OK && src.alpha && !reader->has_alpha)
        status = no_alpha(&made, ctx, &src, reader);
    if (status == AG_OK && !(flags & DATA_IGNORE_EXIF) && reader->orientation)
        status = data_image_orient(&made, ctx, reader->orientation(ctx, &src));
    if (status != AG_OK) {
        data_image_free(&made);
        return status;
    }
    *img = made;
    return AG_OK;
}

ag_status data_image_read(data_image *img, ag_ctx *ctx, const char *path, unsigned flags)
{
    char *bytes = NULL;
    size_t n = 0;
    ag_status status = data_file_read(&bytes, &n, ctx, path, (size_t)DATA_IMAGE_MAX_BYTES);

    if (status == AG_OK)
        status = data_image_decode(img, ctx, bytes, n, path, flags);
    ag_delete(bytes);
    return status;
}

/* --- the size alone ------------------------------------------------------------------------- */

/* The first n bytes of a file, or all of it when it is shorter; *whole tells which. */
static ag_status read_head(uint8_t *head, size_t *n, bool *whole, ag_ctx *ctx, const char *path)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const size_t room = *n;
    struct stat info;
    ag_status status = AG_OK;

    *n = 0;
    if (file < 0)
        return ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    if (fstat(file, &info) != 0)
        status = ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = ag_fail(ctx, AG_EIO, "%s: wanted a file, this is %s", path,
                         S_ISDIR(info.st_mode) ? "a folder" : "something else");
    while (status == AG_OK && *n < room) {
        const ssize_t got = read(file, head + *n, room - *n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            status = ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
        if (got <= 0)
            break;
        *n += (size_t)got;
    }
    *whole = *n < room || (uint64_t)info.st_size == room;
    close(file);
    return status;
}

static ag_status image_size_of(data_image_format *format, int64_t *w, int64_t *h, ag_ctx *ctx,
                               const image_source *src)
{
    const image_reader *reader = image_find_reader(src);
    ag_status status;

    if (!reader)
        return image_not_known(ctx, src);
    *format = reader->format;
    status = reader->size(w, h, ctx, src);
    if (status == AG_OK)
        status = image_check_size(ctx, src, *w, *h);
    return status;
}

/* The head of a file is enough for most formats. A TIFF keeps its directory anywhere, and a JPEG
 * may have long profiles before its size, so those two are read whole. */
ag_status data_image_probe(data_image_format *format, int64_t *w, int64_t *h, ag_ctx *ctx,
                           const char *path)
{
    data_image_format found = DATA_IMAGE_UNKNOWN;
    int64_t width = 0, height = 0;
    char *bytes = NULL;
    size_t n = HEAD_BYTES;
    bool whole = false;
    uint8_t *head = ag_new(ctx, HEAD_BYTES, 1, "the head of a picture");
    ag_status status = AG_ENOMEM;

    if (!head)
        return status;
    status = read_head(head, &n, &whole, ctx, path);
    if (status == AG_OK) {
        image_source src = {.bytes = head, .n = n, .name = path};
        const image_reader *reader = image_find_reader(&src);
        const bool late =
            reader && (reader->format == DATA_IMAGE_JPEG || reader->format == DATA_IMAGE_TIFF);

        if (late && !whole) {
            status = data_file_read(&bytes, &n, ctx, path, (size_t)DATA_IMAGE_MAX_BYTES);
            src = (image_source){.bytes = (uint8_t *)bytes, .n = n, .name = path};
        }
        if (status == AG_OK)
            status = image_size_of(&found, &width, &height, ctx, &src);
    }
    if (status == AG_OK && format)
        *format = found;
    if (status == AG_OK && w)
        *w = width;
    if (status == AG_OK && h)
        *h = height;
    ag_delete(head);
    ag_delete(bytes);
    return status;
}

/* How a file's picture is to be turned: its whole bytes tell. */
static ag_status read_turn(int *turn, ag_ctx *ctx, const char *path)
{
    char *bytes = NULL;
    size_t n = 0;

    if (data_file_read(&bytes, &n, ctx, path, (size_t)DATA_IMAGE_MAX_BYTES) == AG_OK) {
        const image_source src = {.bytes = (uint8_t *)bytes, .n = n, .name = path};
        const image_reader *reader = image_find_reader(&src);

        if (reader && reader->orientation)
            *turn = reader->orientation(ctx, &src);
    }
    ag_delete(bytes);
    return ag_status_of(ctx);
}

ag_status data_image_size(int64_t *w, int64_t *h, ag_ctx *ctx, const char *path, unsigned flags)
{
    int64_t width = 0, height = 0;
    int turn = 1;

    if (data_image_probe(NULL, &width, &height, ctx, path) != AG_OK ||
        (width != height && !(flags & DATA_IGNORE_EXIF) && read_turn(&turn, ctx, path) != AG_OK))
        return ag_status_of(ctx);
    *w = turn < 5 ? width : height;
    *h = turn < 5 ? height : width;
    return AG_OK;
}
