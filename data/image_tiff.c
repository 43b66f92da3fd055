/* image_tiff.c - TIFF in, through libtiff; the first picture of the file.
 *
 * libtiff decompresses strips or tiles; what their samples mean is done here, so that the bytes are
 * Pillow's:
 *   grey     1, 2, 4, 8 bits spread over 0..255 (inverted when 0 is white);
 *            16 and 32 bits, integers and floats: clipped to 0..255, fractions dropped,
 *            never inverted
 *   palette  1, 2, 4, 8 bits; the high bytes of the colour map
 *   RGB      8 bits, or the high bytes of 16; associated alpha is divided out
 *   CMYK     8 bits, or the high bytes of 16
 *   YCbCr    through libjpeg when JPEG-compressed, else through libtiff's RGBA reader (for
 *            uncompressed files Pillow has a conversion of its own, which may differ by one)
 *
 * Extra samples are dropped; samples may be interleaved or in planes. Anything else (Lab, LogLuv,
 * 12 bits) is refused by name.
 */
#include "data/image_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <tiffio.h>

enum { MAX_SAMPLES = 8, MAX_BLOCK_SIDE = DATA_IMAGE_MAX_SIDE + 4096 };
#define MAX_BLOCK_BYTES ((int64_t)1 << 30)

typedef struct tiff_job {
    ag_ctx *ctx;
    const image_source *src;
    uint64_t at;
    TIFF *tif;
    uint8_t *block; /* a decompressed strip or tile */
    uint16_t bits, samples, photometric, planar, format, compression;
    bool premultiplied;
    uint16_t *map[3]; /* the colour map: 2^bits entries each */
    data_image img;
    char message[200]; /* libtiff's first complaint */
} tiff_job;

/* --- libtiff's view of a file in memory ----------------------------------------------------- */

static tmsize_t tiff_on_read(thandle_t handle, void *to, tmsize_t n)
{
    tiff_job *job = handle;
    uint64_t left = job->at < job->src->n ? job->src->n - job->at : 0;

    if (n < 0)
        return 0;
    if (left > (uint64_t)n)
        left = (uint64_t)n;
    memcpy(to, job->src->bytes + (left ? job->at : 0), left);
    job->at += left;
    return (tmsize_t)left;
}

static tmsize_t tiff_on_write(thandle_t handle, void *from, tmsize_t n)
{
    (void)handle, (void)from, (void)n;
    return 0;
}

static toff_t tiff_on_seek(thandle_t handle, toff_t offset, int whence)
{
    tiff_job *job = handle;

    job->at = whence == SEEK_SET   ? offset
              : whence == SEEK_CUR ? job->at + offset
                                   : job->src->n + offset;
    return job->at;
}

static toff_t tiff_on_size(thandle_t handle)
{
    return ((tiff_job *)handle)->src->n;
}

static int tiff_on_close(thandle_t handle)
{
    (void)handle;
    return 0;
}

static int tiff_on_error(TIFF *tif, void *user, const char *module, const char *format,
                         va_list args)
{
    tiff_job *job = user;

    (void)tif, (void)module;
    if (!job->message[0])
        vsnprintf(job->message, sizeof job->message, format, args);
    return 1; /* said; nothing goes to the terminal */
}

static int tiff_on_warning(TIFF *tif, void *user, const char *module, const char *format,
                           va_list args)
{
    (void)tif, (void)user, (void)module, (void)format, (void)args;
    return 1;
}

static ag_status tiff_damaged(tiff_job *job, const char *what)
{
    return ag_fail(job->ctx, AG_EDATA, "%s: damaged TIFF: %s", job->src->name,
                   job->message[0] ? job->message : what);
}

static ag_status tiff_open(tiff_job *job)
{
    TIFFOpenOptions *options = TIFFOpenOptionsAlloc();

    if (!options)
        return ag_fail(job->ctx, AG_ENOMEM, "%s: no memory for the TIFF reader", job->src->name);
    TIFFOpenOptionsSetMaxSingleMemAlloc(options, MAX_BLOCK_BYTES);
    TIFFOpenOptionsSetErrorHandlerExtR(options, tiff_on_error, job);
    TIFFOpenOptionsSetWarningHandlerExtR(options, tiff_on_warning, job);
    /* m: no memory map; O: read strip places when they are needed */
    job->tif = TIFFClientOpenExt(job->src->name, "rmO", job, tiff_on_read, tiff_on_write,
                                 tiff_on_seek, tiff_on_close, tiff_on_size, NULL, NULL, options);
    TIFFOpenOptionsFree(options);
    if (!job->tif)
        return tiff_damaged(job, "no picture directory");
    return AG_OK;
}

static ag_status tiff_read_size(int64_t *w, int64_t *h, tiff_job *job)
{
    uint32_t width = 0, height = 0;

    if (!TIFFGetField(job->tif, TIFFTAG_IMAGEWIDTH, &width) ||
        !TIFFGetField(job->tif, TIFFTAG_IMAGELENGTH, &height))
        return tiff_damaged(job, "no width or height");
    *w = width;
    *h = height;
    return AG_OK;
}

/* --- from samples to RGB -------------------------------------------------------------------- */

/* A grey sample of 16 or 32 bits (native order) as 0..255: clipped, fraction dropped. */
static uint8_t tiff_clip(const tiff_job *job, const uint8_t *p)
{
    double v;

    if (job->bits == 16) {
        uint16_t u;
        memcpy(&u, p, 2);
        v = job->format == SAMPLEFORMAT_INT ? (double)(int16_t)u : (double)u;
    } else if (job->format == SAMPLEFORMAT_IEEEFP) {
        float f;
        memcpy(&f, p, 4);
        v = f;
    } else {
        int32_t i; /* unsigned ones too: Pillow's mode I is signed */
        memcpy(&i, p, 4);
        v = i;
    }
    return v >= 255.0 ? 255 : v > 0.0 ? (uint8_t)v : 0; /* NaN: 0 */
}

/* The sample at index i of a row as 8 bits: small ones spread, the high byte of 16. */
static uint8_t tiff_sample(const tiff_job *job, const uint8_t *row, int64_t i)
{
    uint16_t u;

    switch (job->bits) {
    case 1:
        return (uint8_t)((row[i >> 3] >> (7 - (i & 7)) & 1) * 255);
    case 2:
        return (uint8_t)((row[i >> 2] >> (6 - 2 * (i & 3)) & 3) * 85);
    case 4:
        return (uint8_t)((row[i >> 1] >> (4 - 4 * (i & 1)) & 15) * 17);
    case 8:
        return row[i];
    default:
        memcpy(&u, row + 2 * i, 2);
        return (uint8_t)(u >> 8);
    }
}

static int tiff_colour(const tiff_job *job)
{
    return job->photometric == PHOTOMETRIC_SEPARATED                                      ? 4
           : job->photometric == PHOTOMETRIC_RGB || job->photometric == PHOTOMETRIC_YCBCR ? 3
                                                                                          : 1;
}

/* One row of n pixels, samples interleaved, `in` samples a pixel, into rgb. */
static void tiff_row(const tiff_job *job, uint8_t *rgb, const uint8_t *row, int64_t n, int in)
{
    for (int64_t x = 0; x < n; x++, rgb += 3) {
        if (tiff_colour(job) == 4) {
            uint8_t ink[4];
            for (int c = 0; c < 4; c++)
                ink[c] = tiff_sample(job, row, x * in + c);
            image_cmyk_to_rgb(rgb, ink);
        } else if (tiff_colour(job) == 3) {
            for (int c = 0; c < 3; c++)
                rgb[c] = tiff_sample(job, row, x * in + c);
            if (job->premultiplied && in > 3) {
                const int alpha = tiff_sample(job, row, x * in + 3);
                for (int c = 0; c < 3 && alpha < 255; c++) {
                    const int v = alpha ? rgb[c] * 255 / alpha : 0;
                    rgb[c] = (uint8_t)(v > 255 ? 255 : v);
                }
            }
        } else if (job->photometric == PHOTOMETRIC_PALETTE) {
            const int scale = job->bits < 8 ? 255 / ((1 << job->bits) - 1) : 1;
            const int i = tiff_sample(job, row, x * in) / scale;
            for (int c = 0; c < 3; c++)
                rgb[c] = (uint8_t)(job->map[c][i] >> 8);
        } else {
            uint8_t v = job->bits > 8 ? tiff_clip(job, row + x * in * (job->bits / 8))
                                      : tiff_sample(job, row, x * in);
            if (job->photometric == PHOTOMETRIC_MINISWHITE && job->bits <= 8)
                v = (uint8_t)(255 - v);
            if (job->premultiplied && in > 1) {
                const int alpha = tiff_sample(job, row, x * in + 1);
                const int full = alpha ? v * 255 / alpha : 0;
                v = alpha == 255 ? v : (uint8_t)(full > 255 ? 255 : full);
            }
            memset(rgb, v, 3);
        }
    }
}

/* One row of n pixels of plane c (planes of RGB, CMYK or one of grey). CMYK planes gather their
 * four inks over four calls in `inks` [w,4], with the colour made after the last. */
static void tiff_plane_row(const tiff_job *job, uint8_t *rgb, uint8_t *inks, const uint8_t *row,
                           int64_t n, int c)
{
    if (tiff_colour(job) == 1) {
        if (c == 0)
            tiff_row(job, rgb, row, n, 1);
    } else if (tiff_colour(job) == 3) {
        for (int64_t x = 0; c < 3 && x < n; x++)
            rgb[3 * x + c] = tiff_sample(job, row, x);
    } else if (c < 4) {
        for (int64_t x = 0; x < n; x++) {
            inks[4 * x + c] = tiff_sample(job, row, x);
            if (c == 3)
                image_cmyk_to_rgb(rgb + 3 * x, inks + 4 * x);
        }
    }
}

/* --- strips and tiles ----------------------------------------------------------------------- */

typedef struct tiff_grid {
    bool tiled;
    int64_t w, h;      /* of a block in pixels */
    int64_t row_bytes; /* of a row of a block */
    int64_t bytes;     /* of a whole block */
    int n_planes;      /* 1 when interleaved */
    int in;            /* samples a pixel within a block */
} tiff_grid;

static ag_status tiff_find_grid(tiff_grid *grid, tiff_job *job)
{
    uint32_t w = 0, h = 0;

    grid->tiled = TIFFIsTiled(job->tif) != 0;
    if (grid->tiled) {
        TIFFGetField(job->tif, TIFFTAG_TILEWIDTH, &w);
        TIFFGetField(job->tif, TIFFTAG_TILELENGTH, &h);
    } else {
        w = (uint32_t)job->img.w;
        TIFFGetFieldDefaulted(job->tif, TIFFTAG_ROWSPERSTRIP, &h);
        if (h > job->img.h)
            h = (uint32_t)job->img.h;
    }
    if (w < 1 || h < 1 || w > MAX_BLOCK_SIDE || h > MAX_BLOCK_SIDE)
        return tiff_damaged(job, "strips or tiles of an impossible size");
    grid->w = w;
    grid->h = h;
    grid->n_planes = job->planar == PLANARCONFIG_SEPARATE ? job->samples : 1;
    grid->in = grid->n_planes > 1 ? 1 : job->samples;
    grid->row_bytes = grid->tiled ? TIFFTileRowSize(job->tif) : TIFFScanlineSize(job->tif);
    grid->bytes = grid->tiled ? TIFFTileSize(job->tif) : TIFFVStripSize(job->tif, h);
    if (grid->row_bytes < (grid->w * grid->in * job->bits + 7) / 8 ||
        grid->bytes < grid->row_bytes * grid->h || grid->bytes > MAX_BLOCK_BYTES)
        return tiff_damaged(job, "strips or tiles of an impossible size");
    return AG_OK;
}

static ag_status tiff_read_block(tiff_job *job, const tiff_grid *grid, int64_t x, int64_t y,
                                 int plane)
{
    tmsize_t got;

    if (grid->tiled)
        got = TIFFReadEncodedTile(
            job->tif, TIFFComputeTile(job->tif, (uint32_t)x, (uint32_t)y, 0, (uint16_t)plane),
            job->block, (tmsize_t)grid->bytes);
    else
        got =
            TIFFReadEncodedStrip(job->tif, TIFFComputeStrip(job->tif, (uint32_t)y, (uint16_t)plane),
                                 job->block, (tmsize_t)grid->bytes);
    if (got < 0 || job->message[0])
        return tiff_damaged(job, "a strip or tile cannot be read");
    if (!grid->tiled) { /* the last strip may be short */
        const int64_t rows = grid->h < job->img.h - y ? grid->h : job->img.h - y;
        if (got < rows * grid->row_bytes)
            return tiff_damaged(job, "a strip ends early");
    } else if (got < grid->bytes) {
        return tiff_damaged(job, "a tile ends early");
    }
    return AG_OK;
}

static ag_status tiff_read_blocks(tiff_job *job)
{
    tiff_grid grid = {0};
    uint8_t *inks = NULL;
    ag_status status = tiff_find_grid(&grid, job);

    if (status != AG_OK)
        return status;
    job->block = ag_new(job->ctx, (size_t)grid.bytes, 1, "a block of a TIFF");
    if (!job->block)
        return AG_ENOMEM;
    if (grid.n_planes > 1 && tiff_colour(job) == 4) {
        inks = ag_new(job->ctx, (size_t)(job->img.w * job->img.h), 4, "the planes of a TIFF");
        if (!inks)
            return AG_ENOMEM;
    }
    for (int plane = 0; plane < grid.n_planes && status == AG_OK; plane++) {
        for (int64_t y = 0; y < job->img.h && status == AG_OK; y += grid.h) {
            for (int64_t x = 0; x < job->img.w && status == AG_OK; x += grid.w) {
                const int64_t n = grid.w < job->img.w - x ? grid.w : job->img.w - x;

                status = tiff_read_block(job, &grid, x, y, plane);
                for (int64_t r = 0; status == AG_OK && r < grid.h && y + r < job->img.h; r++) {
                    const int64_t at = (y + r) * job->img.w + x;
                    const uint8_t *row = job->block + r * grid.row_bytes;

                    if (grid.n_planes > 1)
                        tiff_plane_row(job, job->img.pixels + 3 * at, inks ? inks + 4 * at : NULL,
                                       row, n, plane);
                    else
                        tiff_row(job, job->img.pixels + 3 * at, row, n, grid.in);
                }
            }
        }
    }
    ag_delete(inks);
    return status;
}

/* YCbCr without JPEG: chroma may be subsampled; libtiff knows how to put it together. */
static ag_status tiff_read_rgba(tiff_job *job)
{
    const int64_t n = job->img.w * job->img.h;
    uint32_t *raster = ag_new(job->ctx, (size_t)n, sizeof *raster, "pixels of a TIFF");

    if (!raster)
        return AG_ENOMEM;
    if (!TIFFReadRGBAImageOriented(job->tif, (uint32_t)job->img.w, (uint32_t)job->img.h, raster,
                                   ORIENTATION_TOPLEFT, 1) ||
        job->message[0]) {
        ag_delete(raster);
        return tiff_damaged(job, "its pixels cannot be read");
    }
    for (int64_t i = 0; i < n; i++) {
        job->img.pixels[3 * i] = (uint8_t)TIFFGetR(raster[i]);
        job->img.pixels[3 * i + 1] = (uint8_t)TIFFGetG(raster[i]);
        job->img.pixels[3 * i + 2] = (uint8_t)TIFFGetB(raster[i]);
    }
    ag_delete(raster);
    return AG_OK;
}

/* --- the whole ------------------------------------------------------------------------------ */

/* Which of the kinds in the top comment this is, or a refusal. */
static ag_status tiff_check_kind(tiff_job *job)
{
    const bool is_int = job->format == SAMPLEFORMAT_UINT || job->format == SAMPLEFORMAT_VOID;
    const bool small = is_int && (job->bits == 1 || job->bits == 2 || job->bits == 4);
    const bool wide = is_int && (job->bits == 8 || job->bits == 16);
    bool ok = false;

    switch (job->photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
        ok = (small && job->samples == 1) ||
             (job->bits == 8 && job->format != SAMPLEFORMAT_IEEEFP) ||
             ((job->bits == 16 || job->bits == 32) && job->samples == 1 &&
              !(job->bits == 16 && job->format == SAMPLEFORMAT_IEEEFP));
        break;
    case PHOTOMETRIC_PALETTE:
        ok = (small && job->samples == 1) || (is_int && job->bits == 8);
        break;
    case PHOTOMETRIC_RGB:
        ok = wide && job->samples >= 3;
        break;
    case PHOTOMETRIC_SEPARATED:
        ok = wide && job->samples >= 4;
        break;
    case PHOTOMETRIC_YCBCR:
        ok = is_int && job->bits == 8 && job->samples == 3;
        break;
    default:
        break;
    }
    if (!ok || job->samples < 1 || job->samples > MAX_SAMPLES)
        return ag_fail(job->ctx, AG_EUNSUPPORTED,
                       "%s: TIFF with photometric %d, %d samples of %d bits, format %d is not read",
                       job->src->name, job->photometric, job->samples, job->bits, job->format);
    if (job->photometric == PHOTOMETRIC_PALETTE &&
        !TIFFGetField(job->tif, TIFFTAG_COLORMAP, &job->map[0], &job->map[1], &job->map[2]))
        return tiff_damaged(job, "a palette picture without a colour map");
    return AG_OK;
}

static ag_status tiff_decode_job(tiff_job *job)
{
    uint16_t n_extra = 0, *extra = NULL;
    int64_t w = 0, h = 0;
    ag_status status = tiff_open(job);

    if (status == AG_OK)
        status = tiff_read_size(&w, &h, job);
    if (status == AG_OK)
        status = image_check_size(job->ctx, job->src, w, h);
    if (status != AG_OK)
        return status;
    TIFFGetFieldDefaulted(job->tif, TIFFTAG_BITSPERSAMPLE, &job->bits);
    TIFFGetFieldDefaulted(job->tif, TIFFTAG_SAMPLESPERPIXEL, &job->samples);
    TIFFGetFieldDefaulted(job->tif, TIFFTAG_PLANARCONFIG, &job->planar);
    TIFFGetFieldDefaulted(job->tif, TIFFTAG_SAMPLEFORMAT, &job->format);
    TIFFGetFieldDefaulted(job->tif, TIFFTAG_COMPRESSION, &job->compression);
    if (!TIFFGetField(job->tif, TIFFTAG_PHOTOMETRIC, &job->photometric))
        job->photometric = PHOTOMETRIC_MINISWHITE;
    TIFFGetFieldDefaulted(job->tif, TIFFTAG_EXTRASAMPLES, &n_extra, &extra);
    job->premultiplied = n_extra > 0 && extra[0] == EXTRASAMPLE_ASSOCALPHA;
    status = tiff_check_kind(job);
    if (status == AG_OK)
        status = data_image_new(&job->img, job->ctx, w, h);
    if (status != AG_OK)
        return status;
    job->img.had_alpha = n_extra > 0 && extra[0] != EXTRASAMPLE_UNSPECIFIED;

    if (job->photometric != PHOTOMETRIC_YCBCR)
        return tiff_read_blocks(job);
    if (job->compression != COMPRESSION_JPEG || job->planar == PLANARCONFIG_SEPARATE)
        return tiff_read_rgba(job);
    TIFFSetField(job->tif, TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
    return tiff_read_blocks(job);
}

static ag_status tiff_decode(data_image *img, ag_ctx *ctx, const image_source *src)
{
    tiff_job job = {.ctx = ctx, .src = src};
    ag_status status = tiff_decode_job(&job);

    if (status == AG_OK) {
        *img = job.img;
        job.img = (data_image){0};
    }
    if (job.tif)
        TIFFClose(job.tif);
    data_image_free(&job.img);
    ag_delete(job.block);
    return status;
}

static ag_status tiff_size(int64_t *w, int64_t *h, ag_ctx *ctx, const image_source *src)
{
    tiff_job job = {.ctx = ctx, .src = src};
    ag_status status = tiff_open(&job);

    if (status == AG_OK)
        status = tiff_read_size(w, h, &job);
    if (job.tif)
        TIFFClose(job.tif);
    return status;
}

static int tiff_orientation(ag_ctx *ctx, const image_source *src)
{
    tiff_job job = {.ctx = ctx, .src = src};
    uint16_t turn = 1;

    if (tiff_open(&job) != AG_OK || !TIFFGetField(job.tif, TIFFTAG_ORIENTATION, &turn) ||
        turn < 1 || turn > 8)
        turn = 1;
    if (job.tif)
        TIFFClose(job.tif);
    return turn;
}

static bool tiff_knows(const uint8_t *bytes, size_t n)
{
    return n >= 8 && (!memcmp(bytes, "II*\0", 4) || !memcmp(bytes, "MM\0*", 4) ||
                      !memcmp(bytes, "II+\0", 4) || !memcmp(bytes, "MM\0+", 4));
}

const image_reader image_reader_tiff = {.format = DATA_IMAGE_TIFF,
                                        .knows = tiff_knows,
                                        .size = tiff_size,
                                        .orientation = tiff_orientation,
                                        .decode = tiff_decode};
