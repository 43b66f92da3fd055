/* resample.c - Pillow's resampling, and the two ways in which pictures reach a network.
 *
 * Per output index d, with scale = in / out, f = max(scale, 1), centre = (d + 1/2) scale:
 *   taps    from max(0, trunc(centre - a f + 1/2)) to before min(in, trunc(centre + a f + 1/2))
 *   weight  of tap t: k((t - centre + 1/2) / f), normalised to sum 1, then 22-bit fixed point
 *           rounded half away from zero
 *   value   clamp((2^21 + sum weight pixel) >> 22)
 *
 * a is the support of the filter k. The pass across goes first, unless the height loses more than
 * twice the pixels that the width loses (Pillow 13; older ones always begin across, and differ in a
 * last bit for pictures so tall). Doubles are formed in the order Pillow forms them, because a last
 * bit can move a weight.
 *
 * Source  python-pillow/Pillow: src/libImaging/Resample.c, Geometry.c (nearest), by behaviour
 *         (scripts/golden_images.py).
 */
#include "data/resample.h"

#include <math.h>
#include <string.h>

enum { WEIGHT_BITS = 22 };

/* --- filters -------------------------------------------------------------------------------- */

static double triangle(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double keys(double x)
{
    const double a = -0.5;

    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double sinc(double x)
{
    if (x == 0.0)
        return 1.0;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
}

static const struct {
    const char *name;
    double (*k)(double x);
    double support;
} filters[DATA_N_FILTERS] = {
    [DATA_NEAREST] = {"nearest", NULL, 0.0},
    [DATA_BILINEAR] = {"bilinear", triangle, 1.0},
    [DATA_BICUBIC] = {"bicubic", keys, 2.0},
    [DATA_LANCZOS] = {"lanczos", lanczos, 3.0},
};

ag_status data_filter_parse(data_filter *filter, ag_ctx *ctx, const char *name)
{
    for (int i = 0; i < DATA_N_FILTERS; i++) {
        if (!strcmp(filters[i].name, name)) {
            *filter = (data_filter)i;
            return AG_OK;
        }
    }
    return ag_fail(ctx, AG_EINVAL,
                   "interpolation is nearest, bilinear, bicubic or lanczos, not \"%s\"", name);
}

/* --- one axis ------------------------------------------------------------------------------- */

/* The taps of every output index along one axis. */
typedef struct axis_taps {
    int64_t n_out, most; /* room for taps of one output */
    int64_t *first;      /* [n_out] */
    int64_t *count;      /* [n_out] */
    int32_t *weights;    /* [n_out, most] */
} axis_taps;

static void axis_free(axis_taps *axis)
{
    ag_delete(axis->first);
    ag_delete(axis->count);
    ag_delete(axis->weights);
}

static ag_status axis_make(axis_taps *axis, ag_ctx *ctx, int64_t in, int64_t out,
                           data_filter filter)
{
    const double scale = (double)in / (double)out;
    const double f = scale < 1.0 ? 1.0 : scale;
    const double support = filters[filter].support * f, inverse = 1.0 / f;
    double *w = NULL;
    ag_status status = AG_OK;

    axis->n_out = out;
    axis->most = (int64_t)ceil(support) * 2 + 1;
    axis->first = ag_new(ctx, (size_t)out, sizeof *axis->first, "taps of a resize");
    axis->count = ag_new(ctx, (size_t)out, sizeof *axis->count, "taps of a resize");
    axis->weights =
        ag_new(ctx, (size_t)(out * axis->most), sizeof *axis->weights, "weights of a resize");
    w = ag_new(ctx, (size_t)axis->most, sizeof *w, "weights of a resize");
    if (!axis->first || !axis->count || !axis->weights || !w) {
        status = AG_ENOMEM;
        goto out;
    }
    for (int64_t d = 0; d < out; d++) {
        const double centre = ((double)d + 0.5) * scale;
        int64_t first = (int64_t)(centre - support + 0.5), last = (int64_t)(centre + support + 0.5);
        double sum = 0.0;

        first = first < 0 ? 0 : first;
        last = last > in ? in : last;
        for (int64_t t = first; t < last; t++) {
            w[t - first] = filters[filter].k(((double)t - centre + 0.5) * inverse);
            sum += w[t - first];
        }
        for (int64_t i = 0; i < last - first; i++) {
            const double v = (sum != 0.0 ? w[i] / sum : w[i]) * (1 << WEIGHT_BITS);
            axis->weights[d * axis->most + i] = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
        }
        axis->first[d] = first;
        axis->count[d] = last - first;
    }
out:
    ag_delete(w);
    return status;
}

static uint8_t clip(int32_t sum)
{
    const int32_t v = sum >> WEIGHT_BITS;

    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void resize_rows(data_image *out, const data_image *in, const axis_taps *axis)
{
    for (int64_t y = 0; y < out->h; y++) {
        const uint8_t *row = in->pixels + 3 * y * in->w;
        uint8_t *to = out->pixels + 3 * y * out->w;

        for (int64_t x = 0; x < out->w; x++, to += 3) {
            const uint8_t *p = row + 3 * axis->first[x];
            const int32_t *w = axis->weights + x * axis->most;
            int32_t r = 1 << (WEIGHT_BITS - 1), g = r, b = r;

            for (int64_t i = 0; i < axis->count[x]; i++, p += 3) {
                r += w[i] * p[0];
                g += w[i] * p[1];
                b += w[i] * p[2];
            }
            to[0] = clip(r);
            to[1] = clip(g);
            to[2] = clip(b);
        }
    }
}

/* Rows are summed whole, so that the inner loop runs along memory. sums: [3 w]. */
static void resize_columns(data_image *out, const data_image *in, const axis_taps *axis,
                           int32_t *sums)
{
    const int64_t n = 3 * out->w;

    for (int64_t y = 0; y < out->h; y++) {
        uint8_t *to = out->pixels + y * n;

        for (int64_t i = 0; i < n; i++)
            sums[i] = 1 << (WEIGHT_BITS - 1);
        for (int64_t t = 0; t < axis->count[y]; t++) {
            const uint8_t *from = in->pixels + (axis->first[y] + t) * n;
            const int32_t w = axis->weights[y * axis->most + t];

            for (int64_t i = 0; i < n; i++)
                sums[i] += w * from[i];
        }
        for (int64_t i = 0; i < n; i++)
            to[i] = clip(sums[i]);
    }
}

/* --- whole pictures ------------------------------------------------------------------------- */

/* Nearest: the source of x is trunc of 0.5 scale + x scale, summed up step by step as Pillow
 * does. */
static ag_status resize_nearest(data_image *out, ag_ctx *ctx, const data_image *in)
{
    const double sx = (double)in->w / (double)out->w, sy = (double)in->h / (double)out->h;
    int64_t *from_x = ag_new(ctx, (size_t)out->w, sizeof *from_x, "columns of a resize");
    double at = sx * 0.5;

    if (!from_x)
        return AG_ENOMEM;
    for (int64_t x = 0; x < out->w; x++, at += sx)
        from_x[x] = (int64_t)at < in->w ? (int64_t)at : in->w - 1;
    at = sy * 0.5;
    for (int64_t y = 0; y < out->h; y++, at += sy) {
        const int64_t from_y = (int64_t)at < in->h ? (int64_t)at : in->h - 1;

        for (int64_t x = 0; x < out->w; x++)
            memcpy(out->pixels + 3 * (y * out->w + x),
                   in->pixels + 3 * (from_y * in->w + from_x[x]), 3);
    }
    ag_delete(from_x);
    return AG_OK;
}

static ag_status resize_filtered(data_image *out, ag_ctx *ctx, const data_image *in,
                                 data_filter filter)
{
    const bool down_first = in->h > out->h && in->h - out->h > 2 * (in->w - out->w);
    axis_taps across = {0}, down = {0};
    data_image middle = {0}; /* between the passes */
    int32_t *sums = NULL;    /* [3 w] of the pass down */
    ag_status status = AG_OK;

    if (out->w != in->w)
        status = axis_make(&across, ctx, in->w, out->w, filter);
    if (status == AG_OK && out->h != in->h) {
        status = axis_make(&down, ctx, in->h, out->h, filter);
        sums = ag_new(ctx, (size_t)(down_first ? in->w : out->w) * 3, sizeof *sums,
                      "a row of a resize");
        if (!sums)
            status = AG_ENOMEM;
    }
    if (status == AG_OK && out->w != in->w && out->h != in->h)
        status = down_first ? data_image_new(&middle, ctx, in->w, out->h)
                            : data_image_new(&middle, ctx, out->w, in->h);
    if (status != AG_OK)
        goto out;

    if (out->h == in->h) {
        resize_rows(out, in, &across);
    } else if (out->w == in->w) {
        resize_columns(out, in, &down, sums);
    } else if (down_first) {
        resize_columns(&middle, in, &down, sums);
        resize_rows(out, &middle, &across);
    } else {
        resize_rows(&middle, in, &across);
        resize_columns(out, &middle, &down, sums);
    }
out:
    axis_free(&across);
    axis_free(&down);
    data_image_free(&middle);
    ag_delete(sums);
    return status;
}

/* Give `made` out in the place of what may be the input itself. */
static void hand_over(data_image *out, const data_image *in, data_image *made)
{
    made->had_alpha = in->had_alpha;
    if (out == in)
        data_image_free(out);
    *out = *made;
}

ag_status data_image_resize(data_image *out, ag_ctx *ctx, const data_image *in, int64_t w,
                            int64_t h, data_filter filter)
{
    data_image made = {0};
    ag_status status;

    if (w > 4 * DATA_IMAGE_MAX_SIDE || h > 4 * DATA_IMAGE_MAX_SIDE)
        return ag_fail(ctx, AG_EINVAL, "resize to %lld x %lld pixels, at most %d a side",
                       (long long)w, (long long)h, 4 * DATA_IMAGE_MAX_SIDE);
    if (out == in && w == in->w && h == in->h)
        return AG_OK;
    status = data_image_new(&made, ctx, w, h);
    if (status != AG_OK)
        return status;
    if (w == in->w && h == in->h)
        memcpy(made.pixels, in->pixels, (size_t)(w * h * 3));
    else if (filter == DATA_NEAREST)
        status = resize_nearest(&made, ctx, in);
    else
        status = resize_filtered(&made, ctx, in, filter);
    if (status == AG_OK)
        hand_over(out, in, &made);
    else
        data_image_free(&made);
    return status;
}

ag_status data_image_crop(data_image *out, ag_ctx *ctx, const data_image *in, int64_t left,
                          int64_t top, int64_t w, int64_t h)
{
    data_image made = {0};
    ag_status status;

    if (left < 0 || top < 0 || w < 1 || h < 1 || w > in->w || h > in->h || left > in->w - w ||
        top > in->h - h)
        return ag_fail(ctx, AG_EINVAL,
                       "crop of %lld x %lld at (%lld, %lld) out of a picture of %lld x %lld",
                       (long long)w, (long long)h, (long long)left, (long long)top,
                       (long long)in->w, (long long)in->h);
    if (out == in && w == in->w && h == in->h)
        return AG_OK;
    status = data_image_new(&made, ctx, w, h);
    if (status != AG_OK)
        return status;
    for (int64_t y = 0; y < h; y++)
        memcpy(made.pixels + 3 * y * w, in->pixels + 3 * ((top + y) * in->w + left),
               (size_t)(3 * w));
    hand_over(out, in, &made);
    return AG_OK;
}

void data_image_flip(data_image *img)
{
    for (int64_t y = 0; y < img->h; y++) {
        uint8_t *a = img->pixels + 3 * y * img->w, *b = a + 3 * (img->w - 1);

        for (; a < b; a += 3, b -= 3) {
            for (int c = 0; c < 3; c++) {
                const uint8_t t = a[c];
                a[c] = b[c];
                b[c] = t;
            }
        }
    }
}

data_size data_cover_size(data_size p, data_size box)
{
    data_size s = box;

    if (p.w * box.h <= p.h * box.w)
        s.h = (int64_t)((double)(box.w * p.h) / (double)p.w);
    else
        s.w = (int64_t)((double)(box.h * p.w) / (double)p.h);
    return s;
}

/* n / 2 rounded half to even, for n >= 0. */
static int64_t half_to_even(int64_t n)
{
    return n / 2 + (n % 4 == 3);
}

ag_status data_image_cover(data_image *out, ag_ctx *ctx, const data_image *in, data_size box,
                           data_filter filter, const int64_t *offset)
{
    data_image sized = {0};
    data_size fit;
    int64_t top, left;
    ag_status status;

    if (box.w < 1 || box.h < 1 || box.w > DATA_IMAGE_MAX_SIDE || box.h > DATA_IMAGE_MAX_SIDE)
        return ag_fail(ctx, AG_EINVAL, "a resolution of %lld x %lld, want 1 to %d a side",
                       (long long)box.w, (long long)box.h, DATA_IMAGE_MAX_SIDE);
    fit = data_cover_size((data_size){in->w, in->h}, box);
    top = offset ? offset[0] : half_to_even(fit.h - box.h);
    left = offset ? offset[1] : half_to_even(fit.w - box.w);
    if (fit.w == in->w && fit.h == in->h)
        return data_image_crop(out, ctx, in, left, top, box.w, box.h);
    status = data_image_resize(&sized, ctx, in, fit.w, fit.h, filter);
    if (status == AG_OK)
        status = data_image_crop(&sized, ctx, &sized, left, top, box.w, box.h);
    if (status == AG_OK)
        hand_over(out, in, &sized);
    else
        data_image_free(&sized);
    return status;
}

void data_image_to_f32(float *dst, const data_image *img)
{
    float table[256];

    for (int v = 0; v < 256; v++)
        table[v] = ((float)v / 255.0f - 0.5f) / 0.5f;
    for (int64_t i = 0; i < img->w * img->h * 3; i++)
        dst[i] = table[img->pixels[i]];
}

ag_status data_image_from_f32(data_image *img, ag_ctx *ctx, const float *src, int64_t w, int64_t h,
                              bool truncate)
{
    data_image made = {0};
    const ag_status status = data_image_new(&made, ctx, w, h);

    if (status != AG_OK)
        return status;
    for (int64_t i = 0; i < w * h * 3; i++) {
        float v = src[i] / 2.0f + 0.5f;

        v = v > 1.0f ? 1.0f : v > 0.0f ? v : 0.0f; /* NaN: 0 */
        v *= 255.0f;
        made.pixels[i] = (uint8_t)(truncate ? v : rintf(v));
    }
    *img = made;
    return AG_OK;
}

ag_status data_image_load_training(data_image *out, ag_ctx *ctx, const char *path, data_size box,
                                   const int64_t *offset, bool flip, unsigned flags)
{
    data_image img = {0};
    ag_status status = data_image_read(&img, ctx, path, flags);

    if (status == AG_OK)
        status = data_image_cover(&img, ctx, &img, box, DATA_BILINEAR, offset);
    if (status != AG_OK) {
        data_image_free(&img);
        return status;
    }
    if (flip)
        data_image_flip(&img);
    *out = img;
    return AG_OK;
}

ag_status data_image_load_editing(data_image *out, ag_ctx *ctx, const char *path, int64_t R,
                                  unsigned flags)
{
    data_image img = {0};
    ag_status status = data_image_read(&img, ctx, path, flags);

    if (status == AG_OK) {
        const int64_t side = img.w < img.h ? img.w : img.h;
        status =
            data_image_crop(&img, ctx, &img, (img.w - side) / 2, (img.h - side) / 2, side, side);
    }
    if (status == AG_OK)
        status = data_image_resize(&img, ctx, &img, R, R, DATA_BICUBIC);
    if (status != AG_OK) {
        data_image_free(&img);
        return status;
    }
    *out = img;
    return AG_OK;
}
