/* faces_features.c - eyes, brows, nose, mouth, glasses. */
#include "data/faces_sketch.h"

/* The opening of an eye: almond, the outer end (side k) tilted, its upper lid hanging with age. */
static void eye_path(const sketch *s, data_path *path, float cx, float k)
{
    const float w = s->eye_half * (1.0f - 0.35f * k * s->yaw_sin), h = s->eye_open;
    const float tilt = (0.006f * s->p->eye_tilt + 0.002f - 0.008f * life(LID, s->age)),
                lid = life(LID, s->age);
    const float y = s->eye_y;

    data_path_reset(path);
    data_path_move(path, cx - k * w, y + 0.15f * h);
    data_path_curve(path, cx - k * 0.62f * w, y - 1.05f * h, cx + k * 0.30f * w,
                    y - (1.30f - 0.12f * lid) * h, cx + k * w,
                    y - tilt + (0.05f + 0.15f * lid) * h);
    data_path_curve(path, cx + k * 0.62f * w, y + 1.05f * h, cx - k * 0.45f * w, y + 1.10f * h,
                    cx - k * w, y + 0.15f * h);
}

void data_paint_eye(data_canvas *canvas, const sketch *s, float k)
{
    const float cx = face_x(s, k * s->eye_x, 0.0f), y = s->eye_y, w = s->eye_half, h = s->eye_open;
    const float r = life(IRIS, s->age) * s->p->eye_size, ix = cx + 0.012f * s->face->yaw,
                iy = y - 0.06f * h;
    const float lid = life(LID, s->age), tilt = 0.006f * s->p->eye_tilt + 0.002f - 0.008f * lid;
    const data_rgb white =
        data_rgb_mix((data_rgb){0.97f, 0.97f, 0.97f}, (data_rgb){0.88f, 0.84f, 0.76f}, lid);
    const data_rgb line = data_rgb_mix(data_rgb_scale(s->deep, 0.45f),
                                       (data_rgb){0.05f, 0.04f, 0.05f}, 0.5f * s->female);
    data_brush brush;
    data_path path, pupil;

    eye_path(s, &path, cx, k);
    data_sketch_fill(canvas, &path, white, 1.0f);
    data_canvas_clip(canvas, &path);
    data_path_reset(&pupil);
    data_path_ellipse(&pupil, ix, iy, 0.86f * r, 0.86f * r, false);
    brush = data_brush_radial(data_rgb_mix(s->p->eyes, (data_rgb){1, 1, 1}, 0.15f + 0.12f * lid),
                              data_rgb_scale(s->p->eyes, 0.55f), ix, iy + 0.3f * r, r, r);
    brush.clipped = true;
    data_canvas_fill(canvas, &pupil, &brush);
    data_path_reset(&pupil);
    data_path_ellipse(&pupil, ix, iy, 0.42f * r, 0.42f * r, false);
    brush = data_brush_solid((data_rgb){0.04f, 0.03f, 0.04f}, 1.0f);
    brush.clipped = true;
    data_canvas_fill(canvas, &pupil, &brush);
    data_canvas_spot(canvas, cx, y - 1.05f * h, 1.1f * w, 0.9f * h, data_rgb_scale(s->deep, 0.6f),
                     0.45f, true);
    data_path_reset(&pupil);
    data_path_ellipse(&pupil, ix - 0.26f * r, iy - 0.28f * r, 0.20f * r, 0.20f * r, false);
    data_sketch_fill(canvas, &pupil, (data_rgb){1.0f, 1.0f, 1.0f}, 0.92f);

    /* Lashes, the crease above, and, with age, the lid that hangs over it. */
    data_sketch_crease(canvas,
                       (const float[][2]){{cx - k * 1.02f * w, y + 0.18f * h},
                                          {cx - k * 0.45f * w, y - 0.70f * h},
                                          {cx + k * 0.12f * w, y - (0.98f - 0.08f * lid) * h},
                                          {cx + k * 0.66f * w, y - 0.62f * h},
                                          {cx + k * (1.06f + 0.10f * s->female) * w,
                                           y - tilt - 0.12f * s->female * h + 0.12f * lid * h}},
                       5, 0.0125f + 0.006f * s->female, line, 0.92f - 0.25f * lid, false);
    data_sketch_crease(canvas,
                       (const float[][2]){{cx - k * 0.85f * w, y - 0.75f * h},
                                          {cx, y - 1.50f * h},
                                          {cx + k * 1.05f * w, y - mix(0.72f, 0.20f, lid) * h}},
                       3, 0.0095f + 0.006f * lid, s->deep, 0.38f + 0.30f * lid, false);
    data_sketch_crease(canvas,
                       (const float[][2]){{cx - k * 0.7f * w, y + 0.66f * h},
                                          {cx, y + 0.90f * h},
                                          {cx + k * 0.9f * w, y + 0.34f * h}},
                       3, 0.007f, s->deep, 0.45f, false);
}

void data_paint_brow(data_canvas *canvas, const sketch *s, float k)
{
    const float y = s->eye_y - life(BROW_UP, s->age) + 0.006f * s->male - 0.003f * s->female;
    const float w = 1.22f * s->eye_half, thick = life(BROW_THICK, s->age) * s->p->brow_weight *
                                                 (1.0f + 0.25f * s->male - 0.22f * s->female);
    const float sag = 0.010f * life(LID, s->age), cx = s->eye_x;
    data_path line, path;

    data_path_reset(&line);
    data_path_reset(&path);
    data_path_spline(
        &line,
        (const float[][2]){{face_x(s, k * (cx - 0.92f * w), 0), y - 0.002f + 0.003f * s->male},
                           {face_x(s, k * (cx - 0.2f * w), 0), y - 0.007f},
                           {face_x(s, k * (cx + 0.45f * w), 0), y - 0.010f + 0.3f * sag},
                           {face_x(s, k * (cx + 1.02f * w), 0), y + 0.010f + sag}},
        4, false);
    data_path_stroke(&path, &line, 0.95f * thick, 1.1f * thick, 0.25f * thick);
    data_sketch_fill(canvas, &path, s->brow, 0.92f * life(BROW_SEEN, s->age));
}

void data_paint_nose(data_canvas *canvas, const sketch *s)
{
    const float w = s->nose_half, y = s->nose_y, tip = face_x(s, 0.0f, 0.030f),
                bridge = face_x(s, 0.0f, 0.0f);
    const float grown = smooth(2.0f, 18.0f, s->age), side = s->face->light > 0.0f ? -1.0f : 1.0f;

    /* The bridge: shaded on one side, lit in the middle; then wings, tip and nostrils. */
    data_sketch_crease(
        canvas,
        (const float[][2]){{bridge + side * 0.42f * w, s->eye_y + 0.004f},
                           {mix(bridge, tip, 0.5f) + side * 0.52f * w, mix(s->eye_y, y, 0.55f)},
                           {tip + side * 0.85f * w, y - 0.012f}},
        3, 0.030f, s->shade, 0.15f + 0.40f * grown, true);
    data_canvas_spot(canvas, mix(bridge, tip, 0.5f), mix(s->eye_y, y, 0.55f), 0.42f * w,
                     0.55f * (y - s->eye_y), s->light, 0.25f + 0.35f * grown, true);
    data_canvas_spot(canvas, tip, y + 0.006f, 1.35f * w, 0.034f, s->shade, 0.40f + 0.25f * grown,
                     true);
    data_canvas_spot(canvas, tip, y - 0.016f, 0.72f * w, 0.028f, s->light, 0.75f, true);
    for (int i = -1; i <= 1; i += 2) {
        const float k = (float)i;
        data_sketch_crease(canvas,
                           (const float[][2]){{tip + k * 0.92f * w, y - 0.020f},
                                              {tip + k * 1.06f * w, y - 0.004f},
                                              {tip + k * 0.72f * w, y + 0.008f}},
                           3, 0.011f, s->deep, 0.22f + 0.35f * grown, true);
        data_canvas_spot(canvas, tip + k * 0.44f * w, y + 0.006f, 0.42f * w, 0.012f,
                         data_rgb_scale(s->deep, 0.8f), 0.45f + 0.35f * grown, true);
    }
}

void data_paint_mouth(data_canvas *canvas, const sketch *s)
{
    const float w = s->mouth_half, lip = life(LIP, s->age) * s->p->lip_fullness *
                                         (1.0f + 0.15f * s->female - 0.08f * s->male);
    const float smile = 0.011f + 0.021f * s->face->smile - 0.006f * life(FOLD, s->age),
                y = s->mouth_y + 0.3f * smile;
    const float red = life(LIP_RED, s->age) * (1.0f + 0.15f * s->female - 0.18f * s->male);
    const data_rgb rose = {s->skin.r * 0.82f, s->skin.g * 0.42f, s->skin.b * 0.45f};
    const data_rgb upper = data_rgb_mix(s->shade, data_rgb_scale(rose, 0.86f), red);
    const data_rgb lower = data_rgb_mix(s->shade, rose, red);
    const float cx = face_x(s, 0.0f, 0.0f), l = face_x(s, -w, 0.0f), r = face_x(s, w, 0.0f);
    const float corner = y - smile;
    data_path path;

    data_path_reset(&path);
    data_path_move(&path, l, corner);
    data_path_curve(&path, mix(l, cx, 0.45f), y - 0.6f * smile - 1.15f * lip, mix(l, cx, 0.85f),
                    y - 1.45f * lip, cx, y - 0.80f * lip);
    data_path_curve(&path, mix(r, cx, 0.85f), y - 1.45f * lip, mix(r, cx, 0.45f),
                    y - 0.6f * smile - 1.15f * lip, r, corner);
    data_path_curve(&path, mix(r, cx, 0.4f), y + 0.2f * smile, mix(l, cx, 0.4f), y + 0.2f * smile,
                    l, corner);
    data_sketch_fill(canvas, &path, upper, 0.95f);
    data_path_reset(&path);
    data_path_move(&path, l, corner);
    data_path_curve(&path, mix(l, cx, 0.35f), y + 0.3f * smile + 2.3f * lip, mix(r, cx, 0.35f),
                    y + 0.3f * smile + 2.3f * lip, r, corner);
    data_path_curve(&path, mix(r, cx, 0.4f), y + 0.2f * smile, mix(l, cx, 0.4f), y + 0.2f * smile,
                    l, corner);
    data_sketch_fill(canvas, &path, lower, 0.95f);
    data_canvas_spot(canvas, cx, y + 0.95f * lip, 0.55f * w, 0.9f * lip, s->light, 0.45f * red,
                     false);
    data_sketch_crease(canvas,
                       (const float[][2]){{l - 0.004f, corner - 0.001f},
                                          {mix(l, cx, 0.5f), y - 0.22f * smile},
                                          {cx, y + 0.06f * smile},
                                          {mix(r, cx, 0.5f), y - 0.22f * smile},
                                          {r + 0.004f, corner - 0.001f}},
                       5, 0.0125f, data_rgb_scale(s->deep, 0.75f), 0.85f, false);
}

void data_paint_glasses(data_canvas *canvas, const sketch *s)
{
    const float rx = s->p->glasses_shape ? 0.083f : 0.070f,
                ry = s->p->glasses_shape ? 0.056f : 0.066f;
    const float y = s->eye_y + 0.006f, t = 0.013f, inner = face_x(s, 0.0f, 0.012f);
    data_path path;

    if (!data_face_has_glasses(s->face))
        return;
    for (int i = -1; i <= 1; i += 2) {
        const float k = (float)i, cx = face_x(s, k * mix(s->eye_x, 0.09f, 0.5f), 0.008f);
        data_path_reset(&path);
        data_path_ellipse(&path, cx, y, rx - 0.3f * t, ry - 0.3f * t, false);
        data_sketch_fill(canvas, &path, (data_rgb){0.92f, 0.96f, 1.0f}, 0.14f);
        data_path_reset(&path);
        data_path_ellipse(&path, cx, y, rx, ry, false);
        data_path_ellipse(&path, cx, y, rx - t, ry - t, true);
        data_sketch_fill(canvas, &path, s->p->glasses, 0.95f);
        data_sketch_crease(canvas,
                           (const float[][2]){{cx + k * (rx - 0.5f * t), y - 0.010f},
                                              {k * (s->half + 0.004f), y - 0.016f}},
                           2, 0.011f, s->p->glasses, 0.9f, false);
        data_sketch_crease(
            canvas, (const float[][2]){{cx - k * (rx - 0.4f * t), y - 0.006f}, {inner, y - 0.015f}},
            2, 0.014f, s->p->glasses, 0.95f, false);
    }
}
