/* paint.c - paths, exact-area coverage, brushes.
 *
 * Coverage  Every edge of a contour adds, in each pixel row it crosses, its signed height to the
 *           pixel it is in (split between this pixel and the next by where in the pixel it runs).
 *           A running sum along the row then gives the area covered: the integral of the winding
 *           number over the pixel. Nothing is sampled, so the cost is edges plus the pixels of
 *           the bounding box.
 * Blur      Two box filters of fractional width in each direction, as running sums: the cost does
 *           not depend on the width, and the width may change smoothly.
 */
#include "data/paint.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "autograd/context.h"

enum {
    SIDE_MAX = 8192,
    CURVE_STEPS = 14, /* a quarter circle of 500 pixels is then off by less than 0.5 pixel */
    SPLINE_STEPS = 10,
};

struct data_canvas {
    int64_t width, height;
    int64_t stride; /* of cover, clip and row_sum: width + 2 */
    float *rgb;     /* [H,W,3] */
    float *cover;   /* [H,stride], of the path being painted */
    float *clip;    /* [H,stride], 0..1 */
    float *work;    /* [2,max(H,stride)] */
    float scale, cos, sin, dx, dy;
};

/* A rectangle of pixels, ends exclusive. */
typedef struct box {
    int64_t x0, y0, x1, y1;
} box;

static float clamp01(float v)
{
    return v < 0.0f ? 0.0f : v > 1.0f ? 1.0f : v;
}

/* --- colours ------------------------------------------------------------------------------ */

data_rgb data_rgb_mix(data_rgb a, data_rgb b, float t)
{
    const float u = clamp01(t);

    return (data_rgb){a.r + u * (b.r - a.r), a.g + u * (b.g - a.g), a.b + u * (b.b - a.b)};
}

data_rgb data_rgb_scale(data_rgb color, float factor)
{
    return (data_rgb){color.r * factor, color.g * factor, color.b * factor};
}

/* --- paths -------------------------------------------------------------------------------- */

void data_path_reset(data_path *path)
{
    path->n_points = 0;
    path->n_contours = 0;
}

static void path_point(data_path *path, float x, float y)
{
    assert(path->n_points < DATA_PATH_POINTS && path->n_contours > 0);
    path->x[path->n_points] = x;
    path->y[path->n_points] = y;
    path->n_points++;
}

/* One past the last point of contour c. */
static int path_end(const data_path *path, int c)
{
    return c + 1 < path->n_contours ? path->first[c + 1] : path->n_points;
}

void data_path_move(data_path *path, float x, float y)
{
    assert(path->n_contours < DATA_PATH_CONTOURS);
    path->first[path->n_contours++] = path->n_points;
    path_point(path, x, y);
}

void data_path_line(data_path *path, float x, float y)
{
    path_point(path, x, y);
}

void data_path_curve(data_path *path, float x1, float y1, float x2, float y2, float x3, float y3)
{
    assert(path->n_points > 0);
    const float x0 = path->x[path->n_points - 1], y0 = path->y[path->n_points - 1];

    for (int i = 1; i <= CURVE_STEPS; i++) {
        const float t = (float)i / CURVE_STEPS, u = 1.0f - t;
        const float a = u * u * u, b = 3.0f * u * u * t, c = 3.0f * u * t * t, d = t * t * t;
        path_point(path, a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3);
    }
}

void data_path_ellipse(data_path *path, float cx, float cy, float rx, float ry, bool hole)
{
    const float k = 0.5522847f; /* 4/3 (sqrt 2 - 1): a quarter circle as a cubic */
    const float s = hole ? -1.0f : 1.0f;

    data_path_move(path, cx + rx, cy);
    data_path_curve(path, cx + rx, cy + s * k * ry, cx + k * rx, cy + s * ry, cx, cy + s * ry);
    data_path_curve(path, cx - k * rx, cy + s * ry, cx - rx, cy + s * k * ry, cx - rx, cy);
    data_path_curve(path, cx - rx, cy - s * k * ry, cx - k * rx, cy - s * ry, cx, cy - s * ry);
    data_path_curve(path, cx + k * rx, cy - s * ry, cx + rx, cy - s * k * ry, cx + rx, cy);
}

void data_path_spline(data_path *path, const float (*points)[2], int n, bool closed)
{
    const int spans = closed ? n : n - 1;

    assert(n >= 2);
    data_path_move(path, points[0][0], points[0][1]);
    for (int i = 0; i < spans; i++) {
        /* The neighbours of an open end are the end itself. */
        const int before = i > 0 ? i - 1 : closed ? n - 1 : 0;
        const int after = closed ? (i + 2) % n : i + 2 < n ? i + 2 : n - 1;
        const float *p0 = points[before], *p1 = points[i], *p2 = points[(i + 1) % n];
        const float *p3 = points[after];

        for (int k = 1; k <= SPLINE_STEPS; k++) {
            const float t = (float)k / SPLINE_STEPS, t2 = t * t, t3 = t2 * t;
            const float a = -t + 2.0f * t2 - t3, b = 2.0f - 5.0f * t2 + 3.0f * t3;
            const float c = t + 4.0f * t2 - 3.0f * t3, d = -t2 + t3;
            path_point(path, 0.5f * (a * p0[0] + b * p1[0] + c * p2[0] + d * p3[0]),
                       0.5f * (a * p0[1] + b * p1[1] + c * p2[1] + d * p3[1]));
        }
    }
}

void data_path_stroke(data_path *path, const data_path *line, float w0, float w1, float w2)
{
    for (int c = 0; c < line->n_contours; c++) {
        const int first = line->first[c], end = path_end(line, c), n = end - first;

        if (n < 2)
            continue;
        for (int k = 0; k < 2 * n; k++) { /* forth on one side, back on the other */
            const int i = k < n ? first + k : end - 1 - (k - n);
            const int i0 = i > first ? i - 1 : i, i1 = i + 1 < end ? i + 1 : i;
            const float dx = line->x[i1] - line->x[i0], dy = line->y[i1] - line->y[i0];
            const float length = sqrtf(dx * dx + dy * dy);
            const float t = (float)(i - first) / (float)(n - 1);
            const float w =
                t < 0.5f ? w0 + 2.0f * t * (w1 - w0) : w1 + (2.0f * t - 1.0f) * (w2 - w1);
            const float side = (k < n ? 0.5f : -0.5f) * w / (length > 0.0f ? length : 1.0f);

            if (k == 0)
                data_path_move(path, line->x[i] + side * dy, line->y[i] - side * dx);
            else
                path_point(path, line->x[i] + side * dy, line->y[i] - side * dx);
        }
    }
}

/* --- canvas ------------------------------------------------------------------------------- */

ag_status data_canvas_new(data_canvas **out, ag_ctx *ctx, int64_t width, int64_t height)
{
    data_canvas *canvas;
    int64_t longest;

    if (width < 1 || height < 1 || width > SIDE_MAX || height > SIDE_MAX)
        return ag_fail(ctx, AG_EINVAL, "canvas: want sides of 1..%d pixels, got %lld x %lld",
                       SIDE_MAX, (long long)width, (long long)height);
    canvas = ag_new(ctx, 1, sizeof *canvas, "canvas");
    if (!canvas)
        return AG_ENOMEM;
    canvas->width = width;
    canvas->height = height;
    canvas->stride = width + 2;
    longest = canvas->stride > height ? canvas->stride : height;
    canvas->rgb = ag_new(ctx, (size_t)(width * height), 3 * sizeof *canvas->rgb, "canvas");
    canvas->cover = ag_new(ctx, (size_t)(canvas->stride * height), sizeof *canvas->cover, "canvas");
    canvas->clip = ag_new(ctx, (size_t)(canvas->stride * height), sizeof *canvas->clip, "canvas");
    canvas->work = ag_new(ctx, (size_t)(2 * longest), sizeof *canvas->work, "canvas");
    if (!canvas->rgb || !canvas->cover || !canvas->clip || !canvas->work) {
        data_canvas_free(canvas);
        return AG_ENOMEM;
    }
    data_canvas_clear(canvas, (data_rgb){0.0f, 0.0f, 0.0f});
    data_canvas_place(canvas, 0.0f, 0.0f, 1.0f, 0.0f);
    *out = canvas;
    return AG_OK;
}

void data_canvas_free(data_canvas *canvas)
{
    if (!canvas)
        return;
    ag_delete(canvas->rgb);
    ag_delete(canvas->cover);
    ag_delete(canvas->clip);
    ag_delete(canvas->work);
    ag_delete(canvas);
}

int64_t data_canvas_width(const data_canvas *canvas)
{
    return canvas->width;
}

int64_t data_canvas_height(const data_canvas *canvas)
{
    return canvas->height;
}

const float *data_canvas_rgb(const data_canvas *canvas)
{
    return canvas->rgb;
}

void data_canvas_bytes(uint8_t *rgb, const data_canvas *canvas)
{
    const int64_t n = canvas->width * canvas->height * 3;

    for (int64_t i = 0; i < n; i++)
        rgb[i] = (uint8_t)(clamp01(canvas->rgb[i]) * 255.0f + 0.5f);
}

void data_canvas_clear(data_canvas *canvas, data_rgb color)
{
    const int64_t n = canvas->width * canvas->height, n_clip = canvas->stride * canvas->height;

    for (int64_t i = 0; i < n; i++) {
        canvas->rgb[3 * i] = color.r;
        canvas->rgb[3 * i + 1] = color.g;
        canvas->rgb[3 * i + 2] = color.b;
    }
    for (int64_t i = 0; i < n_clip; i++)
        canvas->clip[i] = 1.0f;
}

void data_canvas_place(data_canvas *canvas, float dx, float dy, float scale, float angle)
{
    canvas->dx = dx;
    canvas->dy = dy;
    canvas->scale = scale;
    canvas->cos = cosf(angle);
    canvas->sin = sinf(angle);
}

/* User point to pixel position, and back. */
static void to_pixel(const data_canvas *canvas, float x, float y, float *px, float *py)
{
    *px = canvas->dx + canvas->scale * (x * canvas->cos - y * canvas->sin);
    *py = canvas->dy + canvas->scale * (x * canvas->sin + y * canvas->cos);
}

static void to_user(const data_canvas *canvas, float px, float py, float *x, float *y)
{
    const float u = (px - canvas->dx) / canvas->scale, v = (py - canvas->dy) / canvas->scale;

    *x = u * canvas->cos + v * canvas->sin;
    *y = v * canvas->cos - u * canvas->sin;
}

/* --- coverage ----------------------------------------------------------------------------- */

/* Add one edge to the signed heights: cover [H,stride], positions in pixels. */
static void cover_edge(data_canvas *canvas, float x0, float y0, float x1, float y1)
{
    const float height = (float)canvas->height, width = (float)canvas->width;
    float sign = 1.0f, slope, x, y, end;

    if (y0 == y1)
        return;
    if (y0 > y1) {
        const float tx = x0, ty = y0;
        x0 = x1, y0 = y1, x1 = tx, y1 = ty;
        sign = -1.0f;
    }
    slope = (x1 - x0) / (y1 - y0);
    y = y0 > 0.0f ? y0 : 0.0f;
    end = y1 < height ? y1 : height;
    x = x0 + (y - y0) * slope;
    for (int64_t row = (int64_t)y; (float)row < end; row++) {
        const float y_next = end < (float)(row + 1) ? end : (float)(row + 1);
        const float x_next = x + (y_next - y) * slope;
        float *line = canvas->cover + row * canvas->stride;
        float a = x < x_next ? x : x_next, b = x < x_next ? x_next : x;

        /* What runs left of the canvas covers all of it, what runs right of it nothing. */
        a = a < 0.0f ? 0.0f : a > width ? width : a;
        b = b < 0.0f ? 0.0f : b > width ? width : b;
        if (b - a < 1e-4f) {
            const int64_t c = (int64_t)a;
            const float part = a - (float)c, h = sign * (y_next - y);
            line[c] += h * (1.0f - part);
            line[c + 1] += h * part;
        } else {
            const float per_x = sign * (y_next - y) / (b - a);
            for (int64_t c = (int64_t)a; (float)c < b; c++) {
                const float l = a > (float)c ? a : (float)c;
                const float r = b < (float)(c + 1) ? b : (float)(c + 1);
                const float part = 0.5f * (l + r) - (float)c, h = (r - l) * per_x;
                line[c] += h * (1.0f - part);
                line[c + 1] += h * part;
            }
        }
        y = y_next;
        x = x_next;
    }
}

/* The pixels that hold user points (or positions) seen so far, grown by `margin`. */
static box box_around(const data_canvas *canvas, float x0, float y0, float x1, float y1,
                      float margin)
{
    const float w = (float)canvas->width, h = (float)canvas->height;
    const float l = floorf(x0 - margin), t = floorf(y0 - margin);
    const float r = ceilf(x1 + margin), b = ceilf(y1 + margin);
    box out = {0, 0, 0, 0};

    if (!(l < w && t < h && r > 0.0f && b > 0.0f))
        return out;
    out.x0 = l > 0.0f ? (int64_t)l : 0;
    out.y0 = t > 0.0f ? (int64_t)t : 0;
    out.x1 = r < w ? (int64_t)r : canvas->width;
    out.y1 = b < h ? (int64_t)b : canvas->height;
    return out;
}

/* One box filter of half width `half` (pixels) over n values `step` apart, from in to out. */
static void blur_line(float *out, const float *in, int64_t n, float half)
{
    const int64_t r = (int64_t)half;
    const float part = half - (float)r, norm = 1.0f / (2.0f * half + 1.0f);
    float sum = 0.0f;

    for (int64_t i = 0; i < r && i < n; i++)
        sum += in[i];
    for (int64_t i = 0; i < n; i++) {
        const float left = i - r - 1 >= 0 ? in[i - r - 1] : 0.0f;
        const float right = i + r + 1 < n ? in[i + r + 1] : 0.0f;

        sum += i + r < n ? in[i + r] : 0.0f;
        out[i] = (sum + part * (left + right)) * norm;
        sum -= i - r >= 0 ? in[i - r] : 0.0f;
    }
}

static void blur_cover(data_canvas *canvas, box b, float sigma)
{
    /* Two boxes of width w have variance (w^2 - 1) / 6. */
    const float half = 0.5f * (sqrtf(6.0f * sigma * sigma + 1.0f) - 1.0f);
    const int64_t w = b.x1 - b.x0, h = b.y1 - b.y0, stride = canvas->stride;
    float *first = canvas->work,
          *second = canvas->work + (stride > canvas->height ? stride : canvas->height);

    for (int64_t y = b.y0; y < b.y1; y++) {
        float *line = canvas->cover + y * stride + b.x0;
        blur_line(first, line, w, half);
        blur_line(line, first, w, half);
    }
    for (int64_t x = b.x0; x < b.x1; x++) {
        float *column = canvas->cover + b.y0 * stride + x;
        for (int64_t y = 0; y < h; y++)
            first[y] = column[y * stride];
        blur_line(second, first, h, half);
        blur_line(first, second, h, half);
        for (int64_t y = 0; y < h; y++)
            column[y * stride] = first[y];
    }
}

/* Fill canvas->cover with the coverage 0..1 of the path; returns where it can differ from zero. */
static box cover_path(data_canvas *canvas, const data_path *path, float soft)
{
    const float sigma = soft * canvas->scale, margin = sigma > 0.0f ? 2.5f * sigma + 1.0f : 0.0f;
    float x0 = INFINITY, y0 = INFINITY, x1 = -INFINITY, y1 = -INFINITY;
    box b;

    for (int i = 0; i < path->n_points; i++) {
        float x, y;
        to_pixel(canvas, path->x[i], path->y[i], &x, &y);
        x0 = fminf(x0, x), y0 = fminf(y0, y);
        x1 = fmaxf(x1, x), y1 = fmaxf(y1, y);
    }
    b = box_around(canvas, x0, y0, x1, y1, margin);
    for (int64_t y = b.y0; y < b.y1; y++)
        memset(canvas->cover + y * canvas->stride, 0,
               (size_t)canvas->stride * sizeof *canvas->cover);
    for (int c = 0; c < path->n_contours; c++) {
        const int end = path_end(path, c);
        float xa, ya, xb, yb;

        to_pixel(canvas, path->x[end - 1], path->y[end - 1], &xa, &ya);
        for (int i = path->first[c]; i < end; i++) {
            to_pixel(canvas, path->x[i], path->y[i], &xb, &yb);
            cover_edge(canvas, xa, ya, xb, yb);
            xa = xb, ya = yb;
        }
    }
    for (int64_t y = b.y0; y < b.y1; y++) {
        float *line = canvas->cover + y * canvas->stride;
        float sum = 0.0f;
        for (int64_t x = 0; x < b.x1; x++) {
            sum += line[x];
            line[x] = fminf(fabsf(sum), 1.0f);
        }
    }
    if (sigma > 0.05f)
        blur_cover(canvas, b, sigma);
    return b;
}

void data_canvas_clip(data_canvas *canvas, const data_path *path)
{
    const box b = cover_path(canvas, path, 0.0f);

    memset(canvas->clip, 0, (size_t)(canvas->stride * canvas->height) * sizeof *canvas->clip);
    for (int64_t y = b.y0; y < b.y1; y++)
        memcpy(canvas->clip + y * canvas->stride + b.x0, canvas->cover + y * canvas->stride + b.x0,
               (size_t)(b.x1 - b.x0) * sizeof *canvas->clip);
}

/* --- brushes ------------------------------------------------------------------------------ */

data_brush data_brush_solid(data_rgb color, float opacity)
{
    return (data_brush){.kind = DATA_SOLID,
                        .color = color,
                        .end = color,
                        .opacity = opacity,
                        .opacity_end = opacity};
}

data_brush data_brush_linear(data_rgb from, data_rgb to, float x0, float y0, float x1, float y1)
{
    return (data_brush){.kind = DATA_LINEAR,
                        .color = from,
                        .end = to,
                        .opacity = 1.0f,
                        .opacity_end = 1.0f,
                        .x0 = x0,
                        .y0 = y0,
                        .x1 = x1,
                        .y1 = y1};
}

data_brush data_brush_radial(data_rgb inside, data_rgb outside, float cx, float cy, float rx,
                             float ry)
{
    return (data_brush){.kind = DATA_RADIAL,
                        .color = inside,
                        .end = outside,
                        .opacity = 1.0f,
                        .opacity_end = 1.0f,
                        .x0 = cx,
                        .y0 = cy,
                        .x1 = rx,
                        .y1 = ry};
}

/* How far along its gradient the brush is at user point (x,y), 0..1, with soft ends. */
static float brush_place(const data_brush *brush, float x, float y)
{
    const float dx = x - brush->x0, dy = y - brush->y0;
    float t;

    if (brush->kind == DATA_LINEAR) {
        const float ax = brush->x1 - brush->x0, ay = brush->y1 - brush->y0;
        t = (dx * ax + dy * ay) / (ax * ax + ay * ay);
    } else {
        const float u = dx / brush->x1, v = dy / brush->y1;
        t = sqrtf(u * u + v * v);
    }
    t = clamp01(t);
    return t * t * (3.0f - 2.0f * t);
}

static void blend(float *pixel, data_rgb color, float alpha)
{
    pixel[0] += alpha * (color.r - pixel[0]);
    pixel[1] += alpha * (color.g - pixel[1]);
    pixel[2] += alpha * (color.b - pixel[2]);
}

void data_canvas_fill(data_canvas *canvas, const data_path *path, const data_brush *brush)
{
    const box b = cover_path(canvas, path, brush->soft);

    for (int64_t y = b.y0; y < b.y1; y++) {
        const float *cover = canvas->cover + y * canvas->stride;
        const float *clip = canvas->clip + y * canvas->stride;

        for (int64_t x = b.x0; x < b.x1; x++) {
            const float seen = brush->clipped ? cover[x] * clip[x] : cover[x];
            float *pixel = canvas->rgb + 3 * (y * canvas->width + x);
            float ux, uy, t;

            if (seen <= 0.0f)
                continue;
            if (brush->kind == DATA_SOLID) {
                blend(pixel, brush->color, seen * brush->opacity);
                continue;
            }
            to_user(canvas, (float)x + 0.5f, (float)y + 0.5f, &ux, &uy);
            t = brush_place(brush, ux, uy);
            blend(pixel, data_rgb_mix(brush->color, brush->end, t),
                  seen * (brush->opacity + t * (brush->opacity_end - brush->opacity)));
        }
    }
}

void data_canvas_spot(data_canvas *canvas, float cx, float cy, float rx, float ry, data_rgb color,
                      float opacity, bool clipped)
{
    const float reach = (rx > ry ? rx : ry) * canvas->scale;
    float px, py;
    box b;

    if (opacity <= 0.0f)
        return;
    to_pixel(canvas, cx, cy, &px, &py);
    b = box_around(canvas, px - reach, py - reach, px + reach, py + reach, 0.0f);
    for (int64_t y = b.y0; y < b.y1; y++) {
        const float *clip = canvas->clip + y * canvas->stride;

        for (int64_t x = b.x0; x < b.x1; x++) {
            float ux, uy, u, v, rest;

            to_user(canvas, (float)x + 0.5f, (float)y + 0.5f, &ux, &uy);
            u = (ux - cx) / rx, v = (uy - cy) / ry;
            rest = 1.0f - u * u - v * v;
            if (rest <= 0.0f)
                continue;
            blend(canvas->rgb + 3 * (y * canvas->width + x), color,
                  opacity * rest * rest * (clipped ? clip[x] : 1.0f));
        }
    }
}

/* A number in -1..1 for a lattice point: a multiply-and-shift hash, the same everywhere. */
static float lattice(uint32_t seed, int64_t x, int64_t y)
{
    uint32_t h = seed ^ ((uint32_t)x * 0x9E3779B1u) ^ ((uint32_t)y * 0x85EBCA77u);

    h ^= h >> 15;
    h *= 0x2C1B3C6Du;
    h ^= h >> 12;
    h *= 0x297A2D39u;
    h ^= h >> 15;
    return (float)(h >> 8) * (2.0f / 16777216.0f) - 1.0f;
}

void data_canvas_grain(data_canvas *canvas, uint32_t seed, float cell, float amount)
{
    for (int64_t y = 0; y < canvas->height; y++) {
        const float *clip = canvas->clip + y * canvas->stride;

        for (int64_t x = 0; x < canvas->width; x++) {
            float *pixel = canvas->rgb + 3 * (y * canvas->width + x);
            float ux, uy, fx, fy, top, bottom, factor;
            int64_t ix, iy;

            if (clip[x] <= 0.0f)
                continue;
            to_user(canvas, (float)x + 0.5f, (float)y + 0.5f, &ux, &uy);
            fx = ux / cell, fy = uy / cell;
            ix = (int64_t)floorf(fx), iy = (int64_t)floorf(fy);
            fx -= (float)ix, fy -= (float)iy;
            fx = fx * fx * (3.0f - 2.0f * fx), fy = fy * fy * (3.0f - 2.0f * fy);
            top = lattice(seed, ix, iy) * (1.0f - fx) + lattice(seed, ix + 1, iy) * fx;
            bottom = lattice(seed, ix, iy + 1) * (1.0f - fx) + lattice(seed, ix + 1, iy + 1) * fx;
            factor = 1.0f + amount * clip[x] * (top * (1.0f - fy) + bottom * fy);
            for (int c = 0; c < 3; c++)
                pixel[c] *= factor;
        }
    }
}
