/* image_png.c - PNG in and out, through libpng.
 *
 * Rows arrive in one of four forms: 8-bit RGB straight into the image; palette indices, looked up
 * here (an index beyond the palette is black, as in Pillow); 16-bit grey, clipped here; 8-bit RGBA,
 * of which the alpha is taken, when that is what is wanted. Colour
 * profiles, text and gamma are skipped: nobody else applies them either.
 *
 * libpng leaves by longjmp. So each function below has a twin: the outer one owns everything
 * through a struct that lives in its frame and calls setjmp once; locals of it are not changed
 * afterwards.
 */
#include "data/image_internal.h"

#include <png.h>
#include <setjmp.h>
#include <string.h>

#include "data/exif.h"
#include "data/text_file.h"

/* --- reading -------------------------------------------------------------------------------- */

typedef struct png_job {
    ag_ctx *ctx;
    const image_source *src;
    size_t at; /* next byte of src */
    png_structp png;
    png_infop info;
    data_image img;
    uint8_t *raw;    /* indices [h,w], 16-bit grey [h,w,2], RGBA [h,w,4]; NULL when rows go to img */
    png_bytep *rows; /* [h] */
    ag_status status;
} png_job;

static void png_on_error(png_structp png, png_const_charp message)
{
    png_job *job = png_get_error_ptr(png);

    job->status = ag_fail(job->ctx, AG_EDATA, "%s: damaged PNG: %s", job->src->name, message);
    longjmp(png_jmpbuf(png), 1);
}

static void png_on_warning(png_structp png, png_const_charp message)
{
    (void)png, (void)message;
}

static void png_on_read(png_structp png, png_bytep to, size_t n)
{
    png_job *job = png_get_io_ptr(png);

    if (n > job->src->n - job->at)
        png_error(png, "the file ends early");
    memcpy(to, job->src->bytes + job->at, n);
    job->at += n;
}

/* Status of a job that stops for a reason of ours: same way out as libpng's. */
static void png_stop(png_job *job, ag_status status)
{
    job->status = status;
    longjmp(png_jmpbuf(job->png), 1);
}

static void png_open(png_job *job)
{
    /* Chunks that we do not want are skipped unread: their decompression is where bombs hide, and
     * eXIf has been read in png_walk(). */
    static const png_byte skipped[] = "iCCP\0iTXt\0tEXt\0zTXt\0sPLT\0hIST\0pCAL\0sCAL\0tIME\0eXIf";

    png_set_read_fn(job->png, job, png_on_read);
    png_set_user_limits(job->png, DATA_IMAGE_MAX_SIDE, DATA_IMAGE_MAX_SIDE);
    png_set_chunk_cache_max(job->png, 128);
    png_set_chunk_malloc_max(job->png, 8 << 20);
    png_set_keep_unknown_chunks(job->png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_set_keep_unknown_chunks(job->png, PNG_HANDLE_CHUNK_NEVER, skipped,
                                (int)(sizeof skipped / 5));
    png_set_crc_action(job->png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_read_info(job->png, job->info);
}

/* Rows that are not the image's own: n bytes a pixel. */
static uint8_t *png_take_raw(png_job *job, int64_t n)
{
    job->raw = ag_new(job->ctx, (size_t)(job->img.w * job->img.h), (size_t)n, "samples of a PNG");
    if (!job->raw)
        png_stop(job, AG_ENOMEM);
    return job->raw;
}

/* Ask libpng for rows in one of the four forms and take memory for them. */
static void png_prepare(png_job *job)
{
    const int64_t w = png_get_image_width(job->png, job->info);
    const int64_t h = png_get_image_height(job->png, job->info);
    const int type = png_get_color_type(job->png, job->info);
    const int depth = png_get_bit_depth(job->png, job->info);
    ag_status status = image_check_size(job->ctx, job->src, w, h);
    uint8_t *first;
    size_t stride;

    if (status == AG_OK)
        status = data_image_new(&job->img, job->ctx, w, h);
    if (status != AG_OK)
        png_stop(job, status);
    job->img.had_alpha =
        (type & PNG_COLOR_MASK_ALPHA) || png_get_valid(job->png, job->info, PNG_INFO_tRNS);
    job->rows = ag_new(job->ctx, (size_t)h, sizeof *job->rows, "rows of a PNG");
    if (!job->rows)
        png_stop(job, AG_ENOMEM);

    first = job->img.pixels;
    stride = (size_t)w * 3;
    if (job->src->alpha) {
        stride = (size_t)w * 4;
        first = png_take_raw(job, 4);
        png_set_expand(job->png);
        png_set_strip_16(job->png);
        png_set_gray_to_rgb(job->png);
        png_set_add_alpha(job->png, 255, PNG_FILLER_AFTER);
    } else if (type == PNG_COLOR_TYPE_PALETTE || (type == PNG_COLOR_TYPE_GRAY && depth == 16)) {
        stride = (size_t)w * (type == PNG_COLOR_TYPE_PALETTE ? 1 : 2);
        first = png_take_raw(job, type == PNG_COLOR_TYPE_PALETTE ? 1 : 2);
        png_set_packing(job->png);
    } else {
        if (type == PNG_COLOR_TYPE_GRAY && depth < 8)
            png_set_expand_gray_1_2_4_to_8(job->png);
        if (depth == 16)
            png_set_strip_16(job->png);
        if (type & PNG_COLOR_MASK_ALPHA)
            png_set_strip_alpha(job->png);
        if (!(type & PNG_COLOR_MASK_COLOR))
            png_set_gray_to_rgb(job->png);
    }
    png_set_interlace_handling(job->png);
    png_read_update_info(job->png, job->info);
    if (png_get_rowbytes(job->png, job->info) != stride)
        png_error(job->png, "unexpected row size");
    for (int64_t y = 0; y < h; y++)
        job->rows[y] = first + (size_t)y * stride;
}

/* Turn what stands in raw into pixels. */
static void png_finish(png_job *job)
{
    const int64_t n = job->img.w * job->img.h;
    uint8_t *rgb = job->img.pixels;
    png_colorp palette = NULL;
    int n_colours = 0;

    if (!job->raw)
        return;
    if (job->src->alpha) {
        image_take_alpha(&job->img, job->raw);
        return;
    }
    if (png_get_color_type(job->png, job->info) == PNG_COLOR_TYPE_PALETTE) {
        png_get_PLTE(job->png, job->info, &palette, &n_colours);
        for (int64_t i = 0; i < n; i++) {
            if (job->raw[i] < n_colours) {
                rgb[3 * i] = palette[job->raw[i]].red;
                rgb[3 * i + 1] = palette[job->raw[i]].green;
                rgb[3 * i + 2] = palette[job->raw[i]].blue;
            }
        }
        return;
    }
    for (int64_t i = 0; i < n; i++)
        memset(rgb + 3 * i, job->raw[2 * i] ? 255 : job->raw[2 * i + 1], 3);
}

static ag_status png_decode_job(png_job *job)
{
    if (setjmp(png_jmpbuf(job->png)))
        return job->status;
    png_open(job);
    png_prepare(job);
    png_read_image(job->png, job->rows);
    png_read_end(job->png, job->info);
    png_finish(job);
    return AG_OK;
}

/* Walk the chunks (length, four letters, data, CRC) to the last; *end is where the walk stopped.
 * False when the file ends inside one. */
static bool png_walk(size_t *end, int *orientation, const image_source *src)
{
    size_t at = 8;
    bool whole = false;

    while (!whole && src->n - at >= 12) {
        const uint8_t *p = src->bytes + at;
        const size_t n = image_be32(p);

        if (n > src->n - at - 12)
            break;
        if (!memcmp(p + 4, "eXIf", 4))
            *orientation = data_exif_orientation(p + 8, n);
        whole = !memcmp(p + 4, "IEND", 4);
        at += whole ? 0 : 12 + n;
    }
    *end = at;
    return whole;
}

static int png_orientation(ag_ctx *ctx, const image_source *src)
{
    int orientation = 1;
    size_t end;

    (void)ctx;
    png_walk(&end, &orientation, src);
    return orientation;
}

static ag_status png_decode(data_image *img, ag_ctx *ctx, const image_source *src)
{
    png_job job = {.ctx = ctx, .src = src};
    ag_status status = AG_ENOMEM;
    int orientation;
    size_t end;

    /* libpng takes memory by a chunk's length before it reads the chunk */
    if (!png_walk(&end, &orientation, src))
        return ag_fail(ctx, AG_EDATA,
                       "%s: damaged PNG: the file ends early, in a chunk at byte %zu", src->name, end);
    job.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, png_on_error, png_on_warning);
    job.info = job.png ? png_create_info_struct(job.png) : NULL;
    if (job.info)
        status = png_decode_job(&job);
    else
        ag_fail(ctx, AG_ENOMEM, "%s: no memory for the PNG reader", src->name);
    if (status == AG_OK) {
        *img = job.img;
        job.img = (data_image){0};
    }
    png_destroy_read_struct(&job.png, &job.info, NULL);
    data_image_free(&job.img);
    ag_delete(job.raw);
    ag_delete(job.rows);
    return status;
}

static bool png_knows(const uint8_t *bytes, size_t n)
{
    return n >= 8 && !memcmp(bytes, "\x89PNG\r\n\x1a\n", 8);
}

static ag_status png_size(int64_t *w, int64_t *h, ag_ctx *ctx, const image_source *src)
{
    if (src->n < 33 || memcmp(src->bytes + 8, "\0\0\0\rIHDR", 8))
        return ag_fail(ctx, AG_EDATA, "%s: damaged PNG: no IHDR chunk after the signature",
                       src->name);
    *w = image_be32(src->bytes + 16);
    *h = image_be32(src->bytes + 20);
    return AG_OK;
}

const image_reader image_reader_png = {.format = DATA_IMAGE_PNG,
                                       .has_alpha = true,
                                       .knows = png_knows,
                                       .size = png_size,
                                       .orientation = png_orientation,
                                       .decode = png_decode};

/* --- writing -------------------------------------------------------------------------------- */

typedef struct png_out {
    ag_ctx *ctx;
    png_structp png;
    png_infop info;
    uint8_t *bytes;
    size_t n, room;
    ag_status status;
} png_out;

static void png_on_write_error(png_structp png, png_const_charp message)
{
    png_out *out = png_get_error_ptr(png);

    out->status = ag_fail(out->ctx, AG_EINVAL, "cannot make a PNG: %s", message);
    longjmp(png_jmpbuf(png), 1);
}

static void png_on_write(png_structp png, png_bytep from, size_t n)
{
    png_out *out = png_get_io_ptr(png);

    if (n > out->room - out->n) {
        const size_t room = 2 * out->room + n + 4096;
        uint8_t *bytes = ag_grow(out->ctx, out->bytes, room, 1, "a PNG file");
        if (!bytes)
            png_error(png, "no memory");
        out->bytes = bytes;
        out->room = room;
    }
    memcpy(out->bytes + out->n, from, n);
    out->n += n;
}

static void png_on_flush(png_structp png)
{
    (void)png;
}

static ag_status png_encode_job(png_out *out, const data_image *img)
{
    if (setjmp(png_jmpbuf(out->png)))
        return out->status;
    png_set_write_fn(out->png, out, png_on_write, png_on_flush);
    png_set_IHDR(out->png, out->info, (png_uint_32)img->w, (png_uint_32)img->h, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(out->png, out->info);
    for (int64_t y = 0; y < img->h; y++)
        png_write_row(out->png, img->pixels + y * img->w * 3);
    png_write_end(out->png, NULL);
    return AG_OK;
}

ag_status data_image_encode_png(uint8_t **bytes, size_t *n_bytes, ag_ctx *ctx,
                                const data_image *img)
{
    png_out out = {.ctx = ctx};
    ag_status status = AG_ENOMEM;

    if (img->w < 1 || img->h < 1 || img->w > 1000000 || img->h > 1000000)
        return ag_fail(ctx, AG_EINVAL, "cannot make a PNG of %lld x %lld pixels", (long long)img->w,
                       (long long)img->h);
    out.png =
        png_create_write_struct(PNG_LIBPNG_VER_STRING, &out, png_on_write_error, png_on_warning);
    out.info = out.png ? png_create_info_struct(out.png) : NULL;
    if (out.info)
        status = png_encode_job(&out, img);
    else
        ag_fail(ctx, AG_ENOMEM, "no memory for the PNG writer");
    if (status == AG_OK) {
        *bytes = out.bytes;
        *n_bytes = out.n;
        out.bytes = NULL;
    }
    png_destroy_write_struct(&out.png, &out.info);
    ag_delete(out.bytes);
    return status;
}

ag_status data_image_write_png(ag_ctx *ctx, const data_image *img, const char *path)
{
    uint8_t *bytes = NULL;
    size_t n = 0;
    ag_status status = data_image_encode_png(&bytes, &n, ctx, img);

    if (status == AG_OK)
        status = data_file_write(ctx, path, bytes, n);
    ag_delete(bytes);
    return status;
}
