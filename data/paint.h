/* paint.h - a small anti-aliased painter: filled paths, strokes, gradients, soft spots, grain.
 *
 * A canvas holds float RGB in 0..1 as shown on a screen, row-major [H,W,3]. Everything is placed
 * in user units; data_canvas_place() maps them to pixels, so that one drawing serves every size.
 * A pixel's coverage is the exact area of the path inside it: no supersampling, the same picture
 * at any resolution, and a line thinner than a pixel fades instead of breaking up.
 *
 * Ownership  The canvas owns its memory; nothing is allocated after data_canvas_new(). A path
 *            lives in memory of the caller, usually on the stack (about 17 KB).
 * Threads    A canvas belongs to one thread at a time.
 */
#ifndef DATA_PAINT_H
#define DATA_PAINT_H

#include <stdbool.h>
#include <stdint.h>

#include "autograd/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- colours ------------------------------------------------------------------------------ */

typedef struct data_rgb {
    float r, g, b;
} data_rgb;

data_rgb data_rgb_mix(data_rgb a, data_rgb b, float t); /* (1-t) a + t b, t clamped to 0..1 */
data_rgb data_rgb_scale(data_rgb color, float factor);  /* not clamped */

/* --- paths -------------------------------------------------------------------------------- */

enum { DATA_PATH_POINTS = 2048, DATA_PATH_CONTOURS = 48 };

/* Closed contours, already flattened to points. Filling is by the absolute winding number, cut
 * at one: a contour of the other direction inside another one is a hole. More points or contours
 * than fit is a mistake in the program (assert). */
typedef struct data_path {
    int n_points;
    int n_contours;
    int first[DATA_PATH_CONTOURS]; /* index of each contour's first point */
    float x[DATA_PATH_POINTS], y[DATA_PATH_POINTS];
} data_path;

void data_path_reset(data_path *path);
void data_path_move(data_path *path, float x, float y); /* begins a contour */
void data_path_line(data_path *path, float x, float y);
/* A cubic Bezier curve from the last point. */
void data_path_curve(data_path *path, float x1, float y1, float x2, float y2, float x3, float y3);
/* A contour; clockwise on the screen, or, with `hole`, the other way. */
void data_path_ellipse(data_path *path, float cx, float cy, float rx, float ry, bool hole);
/* A smooth contour through n points [n,2] (a uniform Catmull-Rom spline): `closed`, or open, to
 * be used as the middle line of a stroke. */
void data_path_spline(data_path *path, const float (*points)[2], int n, bool closed);
/* Append to `path` the outline of a stroke along every contour of `line` (taken as open), whose
 * width goes from w0 by w1 (half way) to w2, in user units. The ends are cut straight. */
void data_path_stroke(data_path *path, const data_path *line, float w0, float w1, float w2);

/* --- canvas ------------------------------------------------------------------------------- */

typedef struct data_canvas data_canvas;

/* Make a black canvas whose user units are pixels. Sides of 1..8192, else AG_EINVAL; or AG_ENOMEM.
 * The caller frees *out. */
ag_status data_canvas_new(data_canvas **out, ag_ctx *ctx, int64_t width, int64_t height);
void data_canvas_free(data_canvas *canvas); /* NULL is fine */

int64_t data_canvas_width(const data_canvas *canvas);
int64_t data_canvas_height(const data_canvas *canvas);
const float *data_canvas_rgb(const data_canvas *canvas);         /* [H,W,3], may leave 0..1 */
void data_canvas_bytes(uint8_t *rgb, const data_canvas *canvas); /* [H,W,3], rounded, clamped */
void data_canvas_clear(data_canvas *canvas, data_rgb color);     /* also forgets the clip */

/* From now on user point (x,y) falls on pixel position
 * (dx + s (x cos - y sin), dy + s (x sin + y cos)), the angle in radians, clockwise on the
 * screen. Pixel (0,0) covers 0..1 by 0..1. */
void data_canvas_place(data_canvas *canvas, float dx, float dy, float scale, float angle);

/* Let painting with `clipped` brushes show only inside the path. */
void data_canvas_clip(data_canvas *canvas, const data_path *path);

typedef enum data_brush_kind { DATA_SOLID, DATA_LINEAR, DATA_RADIAL } data_brush_kind;

typedef struct data_brush {
    data_brush_kind kind;
    data_rgb color;    /* at the start (solid: everywhere) */
    data_rgb end;      /* at the end of a gradient */
    float opacity;     /* 0..1, at the start */
    float opacity_end; /* 0..1, at the end of a gradient */
    float x0, y0;      /* linear: where it starts; radial: the centre */
    float x1, y1;      /* linear: where it ends; radial: the two radii */
    float soft;        /* the edge is blurred with about this sigma, user units */
    bool clipped;
} data_brush;

data_brush data_brush_solid(data_rgb color, float opacity);
data_brush data_brush_linear(data_rgb from, data_rgb to, float x0, float y0, float x1, float y1);
data_brush data_brush_radial(data_rgb inside, data_rgb outside, float cx, float cy, float rx,
                             float ry);

void data_canvas_fill(data_canvas *canvas, const data_path *path, const data_brush *brush);

/* A soft elliptic spot: opacity (1 - d^2)^2 with d the distance from its centre in radii. */
void data_canvas_spot(data_canvas *canvas, float cx, float cy, float rx, float ry, data_rgb color,
                      float opacity, bool clipped);

/* Multiply the colours inside the clip by 1 + amount * n, where n is smooth noise of
 * about -1..1 whose grains are `cell` user units wide; a function of `seed` and position. */
void data_canvas_grain(data_canvas *canvas, uint32_t seed, float cell, float amount);

#ifdef __cplusplus
}
#endif

#endif /* DATA_PAINT_H */
