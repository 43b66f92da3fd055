/* image_netpbm_bmp.c - the two formats that need no library: netpbm (PBM, PGM, PPM) and BMP.
 *
 * netpbm (netpbm.sourceforge.net/doc): P1..P3 ASCII, P4..P6 binary, comments from '#' to the end of
 * a line. Samples are scaled from maxval to 255, rounded half to even; grey with maxval above 255
 * is scaled to 65535 and clipped at 255, as Pillow has it.
 *
 * BMP: headers of 12, 40, 52, 56, 64, 108 and 124 bytes; 1, 2, 4, 8 bits with a palette, plain or
 * RLE; 16 bits (555, 565), 24, 32 (alpha dropped); rows from below or from above.
 */
#include "data/image_internal.h"

#include <math.h>
#include <string.h>

/* --- netpbm --------------------------------------------------------------------------------- */

typedef struct pnm_job {
    ag_ctx *ctx;
    const image_source *src;
    size_t at;
    int kind; /* 1..6 */
    int64_t w, h, maxval;
} pnm_job;

static bool pnm_is_blank(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void pnm_skip_blanks(pnm_job *job)
{
    while (job->at < job->src->n) {
        const uint8_t c = job->src->bytes[job->at];

        if (c == '#') {
            while (job->at < job->src->n && job->src->bytes[job->at] != '\n' &&
                   job->src->bytes[job->at] != '\r')
                job->at++;
        } else if (!pnm_is_blank(c)) {
            return;
        } else {
            job->at++;
        }
    }
}

/* A number of up to ten digits. */
static ag_status pnm_number(int64_t *value, pnm_job *job, const char *what)
{
    int n_digits = 0;

    pnm_skip_blanks(job);
    *value = 0;
    while (job->at < job->src->n && job->src->bytes[job->at] >= '0' &&
           job->src->bytes[job->at] <= '9' && n_digits < 10) {
        *value = *value * 10 + (job->src->bytes[job->at++] - '0');
        n_digits++;
    }
    if (job->at >= job->src->n && !n_digits)
        return ag_fail(job->ctx, AG_EDATA, "%s: damaged P%d picture: the file ends before its %s",
                       job->src->name, job->kind, what);
    if (!n_digits || (job->at < job->src->n && !pnm_is_blank(job->src->bytes[job->at]) &&
                      job->src->bytes[job->at] != '#'))
        return ag_fail(job->ctx, AG_EDATA,
                       "%s: damaged P%d picture: byte %lld is no part of a number (%s)",
                       job->src->name, job->kind, (long long)job->at, what);
    return AG_OK;
}

static ag_status pnm_header(pnm_job *job)
{
    ag_status status;

    job->kind = job->src->bytes[1] - '0';
    job->at = 2;
    job->maxval = 1;
    status = pnm_number(&job->w, job, "width");
    if (status == AG_OK)
        status = pnm_number(&job->h, job, "height");
    if (status == AG_OK && job->kind != 1 && job->kind != 4)
        status = pnm_number(&job->maxval, job, "maximum value");
    if (status == AG_OK && (job->maxval < 1 || job->maxval > 65535))
        status =
            ag_fail(job->ctx, AG_EDATA, "%s: P%d picture with maximum value %lld, want 1..65535",
                    job->src->name, job->kind, (long long)job->maxval);
    return status;
}

/* A sample as a byte: see the top. rint rounds half to even in the default mode. */
static uint8_t pnm_scale(const pnm_job *job, int64_t value)
{
    const bool wide = job->maxval > 255 && (job->kind == 2 || job->kind == 5);
    const double v = rint((double)value / (double)job->maxval * (wide ? 65535.0 : 255.0));

    return v > 255.0 ? 255 : (uint8_t)v;
}

static ag_status pnm_read_ascii(data_image *img, pnm_job *job)
{
    const int n_chan = job->kind == 3 ? 3 : 1;
    const int64_t n = img->w * img->h;

    for (int64_t i = 0; i < n * n_chan; i++) {
        int64_t value;

        if (job->kind == 1) { /* bits may stand without blanks */
            pnm_skip_blanks(job);
            if (job->at >= job->src->n || (job->src->bytes[job->at] | 1) != '1')
                return ag_fail(job->ctx, AG_EDATA,
                               "%s: damaged P1 picture: no 0 or 1 for pixel %lld", job->src->name,
                               (long long)i);
            memset(img->pixels + 3 * i, job->src->bytes[job->at++] == '0' ? 255 : 0, 3);
            continue;
        }
        if (pnm_number(&value, job, "last sample") != AG_OK)
            return ag_status_of(job->ctx);
        if (value > job->maxval)
            return ag_fail(
                job->ctx, AG_EDATA, "%s: P%d picture: sample %lld is %lld, above its maximum %lld",
                job->src->name, job->kind, (long long)i, (long long)value, (long long)job->maxval);
        if (n_chan == 3)
            img->pixels[i] = pnm_scale(job, value);
        else
            memset(img->pixels + 3 * i, pnm_scale(job, value), 3);
    }
    return AG_OK;
}

static void pnm_read_binary(data_image *img, const pnm_job *job)
{
    const uint8_t *p = job->src->bytes + job->at;
    const int64_t n = img->w * img->h * (job->kind == 6 ? 3 : 1);
    const int width = job->maxval > 255 ? 2 : 1;

    if (job->kind == 4) {
        for (int64_t y = 0; y < img->h; y++, p += (img->w + 7) / 8) {
            for (int64_t x = 0; x < img->w; x++)
                memset(img->pixels + 3 * (y * img->w + x), p[x >> 3] >> (7 - (x & 7)) & 1 ? 0 : 255,
                       3);
        }
    } else if (job->kind == 6 && job->maxval == 255) {
        memcpy(img->pixels, p, (size_t)n);
    } else {
        for (int64_t i = 0; i < n; i++, p += width) {
            const uint8_t v = pnm_scale(job, width == 2 ? image_be16(p) : *p);
            if (job->kind == 6)
                img->pixels[i] = v;
            else
                memset(img->pixels + 3 * i, v, 3);
        }
    }
}

static ag_status pnm_decode(data_image *img, ag_ctx *ctx, const image_source *src)
{
    pnm_job job = {.ctx = ctx, .src = src};
    data_image made = {0};
    int64_t n_bytes;
    ag_status status = pnm_header(&job);

    if (status == AG_OK)
        status = image_check_size(ctx, src, job.w, job.h);
    if (status != AG_OK)
        return status;
    if (job.kind >= 4) {
        n_bytes = job.kind == 4
                      ? (job.w + 7) / 8 * job.h
                      : job.w * job.h * (job.kind == 6 ? 3 : 1) * (job.maxval > 255 ? 2 : 1);
        job.at++; /* one blank after the header */
    } else {
        n_bytes = job.w * job.h * (job.kind == 1 ? 1 : job.kind == 2 ? 2 : 6) - 1; /* at least */
    }
    if (job.at > src->n || n_bytes > (int64_t)(src->n - job.at))
        return ag_fail(ctx, AG_EDATA, "%s: damaged P%d picture: %lld bytes of pixels, want %lld",
                       src->name, job.kind, (long long)(job.at > src->n ? 0 : src->n - job.at),
                       (long long)n_bytes);
    status = data_image_new(&made, ctx, job.w, job.h);
    if (status == AG_OK && job.kind >= 4)
        pnm_read_binary(&made, &job);
    else if (status == AG_OK)
        status = pnm_read_ascii(&made, &job);
    if (status == AG_OK) {
        *img = made;
        made = (data_image){0};
    }
    data_image_free(&made);
    return status;
}

static bool pnm_knows(const uint8_t *bytes, size_t n)
{
    return n >= 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' &&
           (pnm_is_blank(bytes[2]) || bytes[2] == '#');
}

static ag_status pnm_size(int64_t *w, int64_t *h, ag_ctx *ctx, const image_source *src)
{
    pnm_job job = {.ctx = ctx, .src = src};
    const ag_status status = pnm_header(&job);

    *w = job.w;
    *h = job.h;
    return status;
}

const image_reader image_reader_netpbm = {.format = DATA_IMAGE_NETPBM,
                                          .knows = pnm_knows,
                                          .size = pnm_size,
                                          .decode = pnm_decode};

/* --- BMP ------------------------------------------------------------------------------------ */

enum { BMP_RAW = 0, BMP_RLE8 = 1, BMP_RLE4 = 2, BMP_BITFIELDS = 3, BMP_ALPHABITFIELDS = 6 };

typedef struct bmp_job {
    ag_ctx *ctx;
    const image_source *src;
    int64_t w, h;
    bool from_above;
    int bits, compression;
    uint32_t mask[4]; /* red, green, blue, alpha */
    int64_t n_colours;
    const uint8_t *palette;
    int entry; /* bytes of one palette entry, blue first */
    size_t at; /* of the pixels */
} bmp_job;

static ag_status bmp_damaged(const bmp_job *job, const char *what)
{
    return ag_fail(job->ctx, AG_EDATA, "%s: damaged BMP: %s", job->src->name, what);
}

/* File header: "BM", size, 4 reserved bytes, place of the pixels; then an info header that begins
 * with its own size. */
static ag_status bmp_header(bmp_job *job)
{
    const uint8_t *p = job->src->bytes;
    const size_t n = job->src->n;
    size_t n_head, end;
    uint32_t declared = 0;

    if (n < 26)
        return bmp_damaged(job, "the file ends inside its header");
    n_head = image_le32(p + 14);
    if (n_head != 12 && n_head != 40 && n_head != 52 && n_head != 56 && n_head != 64 &&
        n_head != 108 && n_head != 124)
        return bmp_damaged(job, "its header has an unknown size");
    if (n < 14 + n_head)
        return bmp_damaged(job, "the file ends inside its header");
    end = 14 + n_head;
    if (n_head == 12) {
        job->w = image_le16(p + 18);
        job->h = image_le16(p + 20);
        job->bits = (int)image_le16(p + 24);
        job->entry = 3;
    } else {
        job->w = (int32_t)image_le32(p + 18);
        job->h = (int32_t)image_le32(p + 22);
        job->from_above = job->h < 0;
        job->h = job->h < 0 ? -job->h : job->h;
        job->bits = (int)image_le16(p + 28);
        job->compression = (int)(image_le32(p + 30) & 0xffff);
        declared = image_le32(p + 46);
        job->entry = 4;
    }
    if (job->compression == BMP_BITFIELDS || job->compression == BMP_ALPHABITFIELDS) {
        const size_t n_masks =
            n_head == 40 ? (job->compression == BMP_BITFIELDS ? 3 : 4) : (n_head >= 56 ? 4 : 3);

        if (n < 54 + 4 * n_masks)
            return bmp_damaged(job, "the file ends inside its colour masks");
        for (size_t i = 0; i < n_masks; i++)
            job->mask[i] = image_le32(p + 54 + 4 * i);
        if (n_head == 40)
            end += 4 * n_masks;
        job->compression = BMP_BITFIELDS;
    }
    if (job->mask[0] | job->mask[1] | job->mask[2]) {
        /* the file has said which bits are which */
    } else if (job->bits == 16) {
        job->mask[0] = 0x7c00, job->mask[1] = 0x3e0, job->mask[2] = 0x1f;
    } else if (job->bits == 32) {
        job->mask[0] = 0xff0000, job->mask[1] = 0xff00, job->mask[2] = 0xff;
    }
    if (job->bits <= 8) {
        job->n_colours = declared ? declared : (int64_t)1 << job->bits;
        if (job->n_colours > 65536 || (int64_t)(n - end) < job->n_colours * job->entry)
            return bmp_damaged(job, "the file ends inside its palette");
        job->palette = p + end;
        end += (size_t)(job->n_colours * job->entry);
    }
    job->at = image_le32(p + 10);
    if (job->at < 26)
        job->at = end;
    return AG_OK;
}

/* The bits of v under a mask, spread over 0..255 with the fraction dropped (Pillow's tables for
 * five and six bits). */
static uint8_t bmp_field(uint32_t v, uint32_t mask)
{
    if (!mask)
        return 0;
    while (!(mask & 1)) {
        mask >>= 1;
        v >>= 1;
    }
    return (uint8_t)((uint64_t)(v & mask) * 255 / mask);
}

static void bmp_colour(const bmp_job *job, uint8_t *rgb, int64_t index)
{
    if (index >= job->n_colours || index > 255) {
        memset(rgb, 0, 3);
        return;
    }
    rgb[0] = job->palette[index * job->entry + 2];
    rgb[1] = job->palette[index * job->entry + 1];
    rgb[2] = job->palette[index * job->entry];
}

static ag_status bmp_read_rows(data_image *img, const bmp_job *job)
{
    const int64_t stride = (job->w * job->bits + 31) / 32 * 4;
    const int64_t used = (job->w * job->bits + 7) / 8; /* the last row may lack its padding */

    if (job->at > job->src->n || (int64_t)(job->src->n - job->at) < stride * (job->h - 1) + used)
        return bmp_damaged(job, "the file ends inside its pixels");
    for (int64_t y = 0; y < job->h; y++) {
        const uint8_t *row = job->src->bytes + job->at + y * stride;
        uint8_t *rgb = img->pixels + (job->from_above ? y : job->h - 1 - y) * job->w * 3;

        for (int64_t x = 0; x < job->w; x++, rgb += 3) {
            if (job->bits <= 8) {
                const int per_byte = 8 / job->bits;
                const int shift = 8 - job->bits * (int)(x % per_byte + 1);
                bmp_colour(job, rgb, row[x / per_byte] >> shift & ((1 << job->bits) - 1));
            } else if (job->bits == 24) {
                rgb[0] = row[3 * x + 2], rgb[1] = row[3 * x + 1], rgb[2] = row[3 * x];
            } else {
                const uint32_t v =
                    job->bits == 16 ? image_le16(row + 2 * x) : image_le32(row + 4 * x);
                for (int c = 0; c < 3; c++)
                    rgb[c] = bmp_field(v, job->mask[c]);
            }
        }
    }
    return AG_OK;
}

/* Run-length coding: pairs (count, value); (0,0) ends a line, (0,1) the picture, (0,2,dx,dy) moves,
 * (0,n) is followed by n plain pixels padded to two bytes. Pixels never named have colour 0. */
static ag_status bmp_read_rle(data_image *img, const bmp_job *job)
{
    const uint8_t *p = job->src->bytes;
    const bool four = job->compression == BMP_RLE4;
    const size_t n = job->src->n;
    size_t at = job->at;
    int64_t x = 0, y = 0;

    for (int64_t i = 0; i < img->w * img->h; i++)
        bmp_colour(job, img->pixels + 3 * i, 0);
    while (y < job->h) {
        int64_t count;
        bool plain;
        size_t n_plain;

        if (at + 2 > n)
            return bmp_damaged(job, "the file ends inside its pixels");
        count = p[at];
        plain = count == 0;
        at += 2;
        if (plain && p[at - 1] == 0) {
            x = 0;
            y++;
            continue;
        }
        if (plain && p[at - 1] == 1)
            return AG_OK;
        if (plain && p[at - 1] == 2) {
            if (at + 2 > n)
                return bmp_damaged(job, "the file ends inside its pixels");
            x += p[at];
            y += p[at + 1];
            at += 2;
            continue;
        }
        if (plain)
            count = p[at - 1];
        n_plain = (size_t)(four ? (count + 1) / 2 : count);
        if (plain && n_plain > n - at)
            return bmp_damaged(job, "the file ends inside its pixels");
        for (int64_t i = 0; i < count; i++, x++) {
            const uint8_t v = !plain ? p[at - 1] : four ? p[at + (size_t)i / 2] : p[at + (size_t)i];
            const int index = !four ? v : i & 1 ? v & 15 : v >> 4;

            if (x < job->w)
                bmp_colour(job, img->pixels + 3 * ((job->h - 1 - y) * job->w + x), index);
        }
        if (plain)
            at += n_plain + (n_plain & 1);
    }
    return AG_OK;
}

static ag_status bmp_decode(data_image *img, ag_ctx *ctx, const image_source *src)
{
    bmp_job job = {.ctx = ctx, .src = src};
    data_image made = {0};
    ag_status status = bmp_header(&job);
    bool known;

    if (status == AG_OK)
        status = image_check_size(ctx, src, job.w, job.h);
    if (status != AG_OK)
        return status;
    known = job.compression == BMP_RAW
                ? job.bits == 1 || job.bits == 2 || job.bits == 4 || job.bits == 8 ||
                      job.bits == 16 || job.bits == 24 || job.bits == 32
            : job.compression == BMP_BITFIELDS ? job.bits == 16 || job.bits == 32
            : job.compression == BMP_RLE8      ? job.bits == 8 && !job.from_above
            : job.compression == BMP_RLE4      ? job.bits == 4 && !job.from_above
                                               : false;
    if (!known)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: BMP of %d bits with compression %d is not read",
                       src->name, job.bits, job.compression);
    status = data_image_new(&made, ctx, job.w, job.h);
    if (status == AG_OK)
        status = job.compression == BMP_RLE8 || job.compression == BMP_RLE4
                     ? bmp_read_rle(&made, &job)
                     : bmp_read_rows(&made, &job);
    if (status == AG_OK) {
        made.had_alpha = job.mask[3] != 0;
        *img = made;
        made = (data_image){0};
    }
    data_image_free(&made);
    return status;
}

static bool bmp_knows(const uint8_t *bytes, size_t n)
{
    return n >= 2 && bytes[0] == 'B' && bytes[1] == 'M';
}

static ag_status bmp_size(int64_t *w, int64_t *h, ag_ctx *ctx, const image_source *src)
{
    bmp_job job = {.ctx = ctx, .src = src};
    const ag_status status = bmp_header(&job);

    *w = job.w;
    *h = job.h;
    return status;
}

const image_reader image_reader_bmp = {
    .format = DATA_IMAGE_BMP, .knows = bmp_knows, .size = bmp_size, .decode = bmp_decode};
