/* image_jpeg.c - JPEG in, through libjpeg(-turbo).
 *
 * The accurate integer transform and the smooth chroma upsampling, which are the library's
 * defaults, give the bytes everybody gets. Grey becomes RGB; four components are taken as Adobe's
 * inverted CMYK (YCCK is converted to it by the library), as Pillow does.
 *
 * What counts as damage: the end before the last row or without the end marker, an entropy-coded
 * segment that stops early, codes that are in no table, lost restart markers. Extra bytes between
 * markers and odd version numbers, which cameras write, do not. More than 100 scans are refused
 * (progressive files can ask for hours).
 */
#include "data/image_internal.h"

#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h> /* after jpeglib.h: its codes depend on jconfig.h */

#include "data/exif.h"

enum { MAX_SCANS = 100 };
#define MAX_MEMORY (2L << 30)

typedef struct jpeg_job {
    struct jpeg_error_mgr errors; /* first: libjpeg hands back its address */
    jmp_buf way_out;
    struct jpeg_progress_mgr progress;
    struct jpeg_decompress_struct cinfo;
    ag_ctx *ctx;
    const image_source *src;
    data_image img;
    uint8_t *cmyk; /* one row [w,4]; NULL but for four components */
    ag_status status;
} jpeg_job;

static void jpeg_on_error(j_common_ptr cinfo)
{
    jpeg_job *job = (jpeg_job *)(void *)cinfo->err;
    char message[JMSG_LENGTH_MAX];

    cinfo->err->format_message(cinfo, message);
    job->status = ag_fail(job->ctx, AG_EDATA, "%s: damaged JPEG: %s", job->src->name, message);
    longjmp(job->way_out, 1);
}

static void jpeg_on_message(j_common_ptr cinfo, int level)
{
    if (level >= 0) /* a trace, not a warning */
        return;
    switch (cinfo->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_MUST_RESYNC:
    case JWRN_ARITH_BAD_CODE:
        jpeg_on_error(cinfo);
        break;
    default:
        break;
    }
}

static void jpeg_on_output(j_common_ptr cinfo)
{
    (void)cinfo;
}

static void jpeg_on_progress(j_common_ptr cinfo)
{
    jpeg_job *job = (jpeg_job *)(void *)cinfo->err;

    if (job->cinfo.input_scan_number > MAX_SCANS) {
        job->status = ag_fail(job->ctx, AG_EDATA, "%s: JPEG with more than %d scans",
                              job->src->name, MAX_SCANS);
        longjmp(job->way_out, 1);
    }
}

static void jpeg_stop(jpeg_job *job, ag_status status)
{
    job->status = status;
    longjmp(job->way_out, 1);
}

static void jpeg_start(jpeg_job *job)
{
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    ag_status status;

    jpeg_create_decompress(cinfo);
    cinfo->progress = &job->progress;
    cinfo->mem->max_memory_to_use = MAX_MEMORY;
    jpeg_mem_src(cinfo, job->src->bytes, (unsigned long)job->src->n);
    jpeg_read_header(cinfo, TRUE);
    status = image_check_size(job->ctx, job->src, cinfo->image_width, cinfo->image_height);
    if (status != AG_OK)
        jpeg_stop(job, status);
    if (cinfo->num_components != 1 && cinfo->num_components != 3 && cinfo->num_components != 4)
        jpeg_stop(job,
                  ag_fail(job->ctx, AG_EUNSUPPORTED, "%s: JPEG with %d components, not 1, 3 or 4",
                          job->src->name, cinfo->num_components));
    cinfo->out_color_space = cinfo->num_components == 4 ? JCS_CMYK : JCS_RGB;
    cinfo->dct_method = JDCT_ISLOW;
    cinfo->do_fancy_upsampling = TRUE;

    status = data_image_new(&job->img, job->ctx, cinfo->image_width, cinfo->image_height);
    if (status != AG_OK)
        jpeg_stop(job, status);
    if (cinfo->num_components == 4) {
        job->cmyk = ag_new(job->ctx, (size_t)job->img.w, 4, "a row of a JPEG");
        if (!job->cmyk)
            jpeg_stop(job, AG_ENOMEM);
    }
}

static ag_status jpeg_decode_job(jpeg_job *job)
{
    if (setjmp(job->way_out))
        return job->status;
    jpeg_start(job);
    jpeg_start_decompress(&job->cinfo);
    while (job->cinfo.output_scanline < job->cinfo.output_height) {
        uint8_t *rgb = job->img.pixels + (int64_t)job->cinfo.output_scanline * job->img.w * 3;
        JSAMPROW row = job->cmyk ? job->cmyk : rgb;

        jpeg_read_scanlines(&job->cinfo, &row, 1);
        if (!job->cmyk)
            continue;
        for (int64_t x = 0; x < job->img.w; x++) {
            uint8_t ink[4];
            for (int c = 0; c < 4; c++)
                ink[c] = (uint8_t)(255 - job->cmyk[4 * x + c]);
            image_cmyk_to_rgb(rgb + 3 * x, ink);
        }
    }
    jpeg_finish_decompress(&job->cinfo);
    return AG_OK;
}

static ag_status jpeg_decode(data_image *img, ag_ctx *ctx, const image_source *src)
{
    jpeg_job *job = ag_new(ctx, 1, sizeof *job, "the JPEG reader");
    ag_status status;

    if (!job)
        return AG_ENOMEM;
    job->ctx = ctx;
    job->src = src;
    job->cinfo.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = jpeg_on_error;
    job->errors.emit_message = jpeg_on_message;
    job->errors.output_message = jpeg_on_output;
    job->progress.progress_monitor = jpeg_on_progress;
    status = jpeg_decode_job(job);
    if (status == AG_OK) {
        *img = job->img;
        job->img = (data_image){0};
    }
    jpeg_destroy_decompress(&job->cinfo);
    data_image_free(&job->img);
    ag_delete(job->cmyk);
    ag_delete(job);
    return status;
}

static bool jpeg_knows(const uint8_t *bytes, size_t n)
{
    return n >= 3 && !memcmp(bytes, "\xff\xd8\xff", 3);
}

/* The next marker that has a body, from *at on (ITU T.81, B.1.1). NULL at the first scan, at the
 * end, or when the file ends early. The body is p + 4 ..., *n bytes of it are in the file. */
static const uint8_t *jpeg_marker(size_t *at, size_t *n, const image_source *src)
{
    while (*at + 4 <= src->n) {
        const uint8_t *p = src->bytes + *at;
        size_t length;

        if (p[0] != 0xff || p[1] == 0xff) { /* stray bytes and fill before a marker */
            ++*at;
            continue;
        }
        if (p[1] == 0x00 || p[1] == 0x01 || (p[1] >= 0xd0 && p[1] <= 0xd8)) {
            *at += 2; /* markers without a body */
            continue;
        }
        if (p[1] == 0xd9 || p[1] == 0xda)
            break;
        length = image_be16(p + 2);
        *n = src->n - *at - 4;
        if (length < 2)
            *n = 0;
        else if (*n > length - 2)
            *n = length - 2;
        *at += 2 + length;
        return p;
    }
    return NULL;
}

/* The frame header (B.2.2): length, precision, height, width. */
static ag_status jpeg_size(int64_t *w, int64_t *h, ag_ctx *ctx, const image_source *src)
{
    size_t at = 2, n = 0;
    const uint8_t *p;

    while ((p = jpeg_marker(&at, &n, src))) {
        if (p[1] < 0xc0 || p[1] > 0xcf || p[1] == 0xc4 || p[1] == 0xc8 || p[1] == 0xcc)
            continue;
        if (n < 5)
            break;
        *h = image_be16(p + 5);
        *w = image_be16(p + 7);
        return AG_OK;
    }
    return ag_fail(ctx, AG_EDATA, "%s: damaged JPEG: no frame header", src->name);
}

/* The first APP1 segment with EXIF in it tells. */
static int jpeg_orientation(ag_ctx *ctx, const image_source *src)
{
    size_t at = 2, n = 0;
    const uint8_t *p;

    (void)ctx;
    while ((p = jpeg_marker(&at, &n, src))) {
        if (p[1] == 0xe1 && n > 6 && !memcmp(p + 4, "Exif\0\0", 6))
            return data_exif_orientation(p + 4, n);
    }
    return 1;
}

const image_reader image_reader_jpeg = {.format = DATA_IMAGE_JPEG,
                                        .knows = jpeg_knows,
                                        .size = jpeg_size,
                                        .orientation = jpeg_orientation,
                                        .decode = jpeg_decode};
