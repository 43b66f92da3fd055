/* faces_paint.c - a face from its parameters: background, body, head and folds, all in order.
 *
 * Order   Background, hair behind, neck, clothes, ears, head with its shading and folds, nose,
 *         beard, mouth, eyes, hair in front, brows, glasses.
 * Bold    Cues are sized for 64 pixels: a fold is about a pixel wide there and dark enough to be
 *         seen; texture carries little. Small networks learn what is bold and smooth.
 */
#include "data/faces_sketch.h"

#define VIEW_ZOOM 1.12f /* the head is drawn this much larger than the life table says, */
#define VIEW_Y 0.48f    /* about this height */

/* --- behind and below ------------------------------------------------------------------------ */

/* More than the picture, wherever the head is placed. */
static void everything(data_path *path)
{
    data_path_reset(path);
    data_path_move(path, -4.0f, -4.0f);
    data_path_line(path, 4.0f, -4.0f);
    data_path_line(path, 4.0f, 5.0f);
    data_path_line(path, -4.0f, 5.0f);
}

static void paint_background(data_canvas *canvas, const sketch *s)
{
    const data_rgb inside = data_rgb_mix(s->p->background, (data_rgb){1.0f, 1.0f, 1.0f}, 0.22f);
    const data_rgb outside = data_rgb_scale(s->p->background, 0.80f);
    const data_brush brush = data_brush_radial(inside, outside, -0.12f, 0.28f, 0.85f, 0.95f);
    data_path all;

    everything(&all);
    data_canvas_fill(canvas, &all, &brush);
}

static void paint_body(data_canvas *canvas, const sketch *s)
{
    const float neck = life(NECK_HALF, s->age) * (1.0f + 0.12f * s->male - 0.14f * s->female);
    const float wide = life(SHOULDER_HALF, s->age) * (1.0f + 0.08f * s->male - 0.12f * s->female);
    const float y = life(SHOULDER_Y, s->age), old = life(FOLD, s->age);
    const data_rgb cloth = s->p->clothes, cloth_dark = data_rgb_scale(cloth, 0.66f);
    const data_rgb cloth_light = data_rgb_mix(cloth, (data_rgb){1.0f, 1.0f, 1.0f}, 0.12f);
    const float neck_points[][2] = {
        {-neck, s->mouth_y},       {-0.96f * neck, y - 0.04f}, {-1.5f * neck, y + 0.035f},
        {-1.6f * neck, 1.1f},      {1.6f * neck, 1.1f},        {1.5f * neck, y + 0.035f},
        {0.96f * neck, y - 0.04f}, {neck, s->mouth_y},
    };
    data_path path;
    data_brush brush = data_brush_linear(s->deep, data_rgb_mix(s->shade, s->skin, 0.7f), 0.0f,
                                         s->chin - 0.03f, 0.0f, y + 0.05f);

    data_path_reset(&path);
    data_path_spline(&path, neck_points, COUNT(neck_points), true);
    brush.color = data_rgb_mix(s->shade, s->deep, 0.45f);
    data_canvas_fill(canvas, &path, &brush);
    if (old > 0.3f) /* cords and rings of an old neck */
        for (int i = -1; i <= 1; i += 2) {
            const float side = (float)i;
            data_sketch_crease(canvas,
                               (const float[][2]){{side * 0.45f * neck, s->chin + 0.01f},
                                                  {side * 0.28f * neck, y + 0.03f}},
                               2, 0.014f, s->deep, 0.55f * (old - 0.3f), false);
        }

    data_path_reset(&path);
    data_path_move(&path, -1.22f * neck, y - 0.012f);
    data_path_curve(&path, -1.5f * neck, y + 0.02f, -wide, y + 0.01f, -wide - 0.01f, y + 0.10f);
    data_path_line(&path, -wide - 0.05f, 1.15f);
    data_path_line(&path, wide + 0.05f, 1.15f);
    data_path_line(&path, wide + 0.01f, y + 0.10f);
    data_path_curve(&path, wide, y + 0.01f, 1.5f * neck, y + 0.02f, 1.22f * neck, y - 0.012f);
    if (s->p->collar == DATA_COLLAR_V) {
        data_path_line(&path, 0.0f, y + 0.12f);
    } else {
        const float drop = s->p->collar == DATA_COLLAR_SHIRT ? 0.075f : 0.05f;
        data_path_curve(&path, 0.9f * neck, y + drop, -0.9f * neck, y + drop, -1.22f * neck,
                        y - 0.012f);
    }
    brush = data_brush_linear(cloth_light, cloth_dark, 0.0f, y, 0.0f, 1.05f);
    data_canvas_fill(canvas, &path, &brush);
    if (s->p->collar == DATA_COLLAR_SHIRT)
        for (int i = -1; i <= 1; i += 2) {
            const float side = (float)i;
            data_path_reset(&path);
            data_path_move(&path, side * 1.25f * neck, y - 0.022f);
            data_path_line(&path, side * 1.55f * neck, y + 0.035f);
            data_path_line(&path, side * 0.62f * neck, y + 0.095f);
            data_path_line(&path, side * 0.05f * neck, y + 0.052f);
            data_sketch_fill(canvas, &path,
                             data_rgb_mix(cloth, (data_rgb){1.0f, 1.0f, 1.0f}, 0.35f), 1.0f);
        }
    else if (s->p->collar == DATA_COLLAR_ROUND)
        data_sketch_crease(canvas,
                           (const float[][2]){{-1.22f * neck, y - 0.008f},
                                              {-0.6f * neck, y + 0.036f},
                                              {0.0f, y + 0.043f},
                                              {0.6f * neck, y + 0.036f},
                                              {1.22f * neck, y - 0.008f}},
                           5, 0.016f, cloth_dark, 0.8f, false);
}

/* --- the head -------------------------------------------------------------------------------- */

static void paint_ears(data_canvas *canvas, const sketch *s)
{
    const float h = 0.5f * life(EAR, s->age) * s->p->ear_size, w = 0.46f * h;
    const float y = mix(s->eye_y, s->nose_y, 0.42f);

    if (hair_is_long(s) && s->hair_length > 0.3f) /* under the hair */
        return;
    for (int i = -1; i <= 1; i += 2) {
        const float side = (float)i,
                    x = side * (s->half + 0.35f * w) - 0.25f * s->half * s->yaw_sin;
        data_path path;
        data_brush brush =
            data_brush_radial(s->skin, s->shade, x, y - 0.2f * h, 1.3f * w, 1.2f * h);

        data_path_reset(&path);
        data_path_spline(&path,
                         (const float[][2]){{x, y - h},
                                            {x + side * w, y - 0.62f * h},
                                            {x + side * 0.80f * w, y + 0.25f * h},
                                            {x, y + h},
                                            {x - side * w, y + 0.5f * h},
                                            {x - side * w, y - 0.6f * h}},
                         6, true);
        data_canvas_fill(canvas, &path, &brush);
        data_canvas_spot(canvas, x + side * 0.1f * w, y - 0.15f * h, 0.62f * w, 0.62f * h, s->deep,
                         0.45f, false);
    }
}

static void paint_head(data_canvas *canvas, const sketch *s, data_path *head)
{
    const float age = s->age, w = s->half, side = s->face->light;
    const data_rgb red = {s->skin.r * 1.0f, s->skin.g * 0.62f, s->skin.b * 0.60f};
    const float blush = life(BLUSH, age), jowl = life(JOWL, age), bag = life(BAG, age);
    data_brush brush =
        data_brush_radial(s->skin, s->shade, face_x(s, side * 0.35f * w, 0.0f),
                          mix(s->eye_y, s->nose_y, 0.2f), 1.20f * w, 1.05f * (s->chin - s->eye_y));

    data_sketch_head(s, head);
    data_canvas_fill(canvas, head, &brush);
    data_canvas_clip(canvas, head);

    /* Light on forehead, cheek and chin; the side away from it in shadow. */
    data_canvas_spot(canvas, face_x(s, 0.25f * side * w, 0.0f), mix(s->top, s->eye_y, 0.55f),
                     0.80f * w, 0.17f, s->light, 0.60f, true);
    data_canvas_spot(canvas, face_x(s, -0.9f * side * w, 0.0f), s->mouth_y - 0.05f, 0.55f * w,
                     0.30f, s->shade, 0.55f * fabsf(side), true);
    data_canvas_spot(canvas, face_x(s, 0.0f, 0.0f), mix(s->mouth_y, s->chin, 0.66f), 0.30f * w,
                     0.035f, s->light, 0.45f, true);
    for (int i = -1; i <= 1; i += 2) {
        const float sign = (float)i, lit = 1.0f + 0.5f * sign * side;
        const float cheek_y = mix(s->eye_y, s->mouth_y, 0.60f);

        data_canvas_spot(canvas, face_x(s, 0.52f * sign * w, 0.0f), cheek_y - 0.025f, 0.36f * w,
                         0.075f, s->light, 0.42f * lit * (1.0f - 0.4f * jowl), true);
        data_canvas_spot(canvas, face_x(s, 0.60f * sign * w, 0.0f), cheek_y + 0.015f, 0.42f * w,
                         0.085f, red, 0.15f + 0.50f * blush, true);
        /* Eye sockets deepen, temples and cheeks sink. */
        data_canvas_spot(canvas, face_x(s, sign * s->eye_x, 0.0f), s->eye_y - 0.012f,
                         1.75f * s->eye_half, 0.075f, s->shade, 0.38f + 0.42f * bag, true);
        data_canvas_spot(canvas, face_x(s, 0.80f * sign * w, 0.0f), cheek_y + 0.055f, 0.30f * w,
                         0.11f, s->shade, 0.50f * jowl, true);
    }
    data_canvas_spot(canvas, face_x(s, 0.0f, 0.0f), mix(s->mouth_y, s->chin, 0.42f),
                     0.6f * s->mouth_half, 0.02f, s->shade, 0.60f, true);
}

/* Folds: forehead lines, crow's feet, bags, nose to mouth, mouth to chin, and spots. */
static void paint_folds(data_canvas *canvas, const sketch *s)
{
    const float furrow = life(FURROW, s->age), fold = life(FOLD, s->age), bag = life(BAG, s->age);
    const float spot = life(SPOT, s->age), w = s->half;
    const float top = mix(s->top, s->eye_y, 0.36f), low = s->eye_y - life(BROW_UP, s->age) - 0.028f;

    for (int i = 0; i < 3; i++) {
        const float y = mix(low, top, 0.46f * (float)i), span = w * (0.62f - 0.05f * (float)i);
        const float seen = smooth(0.18f * (float)i, 0.45f + 0.2f * (float)i, furrow) * furrow;

        data_sketch_crease(canvas,
                           (const float[][2]){{face_x(s, -span, 0), y + 0.006f},
                                              {face_x(s, -0.45f * span, 0), y - 0.006f},
                                              {face_x(s, 0, 0), y + 0.002f},
                                              {face_x(s, 0.45f * span, 0), y - 0.006f},
                                              {face_x(s, span, 0), y + 0.006f}},
                           5, 0.0135f, s->deep, 0.62f * seen, true);
    }
    for (int i = -1; i <= 1; i += 2) {
        const float k = (float)i, ex = s->eye_x, out = ex + 1.12f * s->eye_half;
        const float bag_y = s->eye_y + 0.95f * s->eye_open;

        for (int j = -1; j <= 1; j++) /* crow's feet */
            data_sketch_crease(
                canvas,
                (const float[][2]){
                    {face_x(s, k * out, 0), s->eye_y + 0.009f * (float)j + 0.004f},
                    {face_x(s, k * (out + 0.024f), 0), s->eye_y + 0.016f * (float)j + 0.004f},
                    {face_x(s, k * (out + 0.040f), 0), s->eye_y + 0.028f * (float)j + 0.006f}},
                3, 0.0095f, s->deep, 0.60f * furrow, true);
        data_sketch_crease(
            canvas,
            (const float[][2]){{face_x(s, k * (ex - 0.85f * s->eye_half), 0), bag_y + 0.004f},
                               {face_x(s, k * ex, 0), bag_y + 0.022f},
                               {face_x(s, k * (ex + 0.9f * s->eye_half), 0), bag_y + 0.008f}},
            3, 0.013f, s->deep, 0.50f * bag, true);
        data_canvas_spot(canvas, face_x(s, k * ex, 0), bag_y + 0.006f, 0.95f * s->eye_half, 0.022f,
                         s->shade, 0.75f * bag, true);
        /* Beside the nose down around the mouth, and from its corners down. */
        data_sketch_crease(
            canvas,
            (const float[][2]){
                {face_x(s, k * (s->nose_half + 0.006f), 0), s->nose_y - 0.022f},
                {face_x(s, k * (0.5f * s->nose_half + 0.62f * s->mouth_half + 0.012f), 0),
                 mix(s->nose_y, s->mouth_y, 0.40f)},
                {face_x(s, k * (1.22f * s->mouth_half), 0), s->mouth_y - 0.004f},
                {face_x(s, k * (1.20f * s->mouth_half), 0), s->mouth_y + 0.026f * fold}},
            4, 0.0160f, s->deep, 0.66f * fold, true);
        data_sketch_crease(
            canvas,
            (const float[][2]){
                {face_x(s, k * 1.00f * s->mouth_half, 0), s->mouth_y + 0.012f},
                {face_x(s, k * 0.98f * s->mouth_half, 0), mix(s->mouth_y, s->chin, 0.35f)},
                {face_x(s, k * 0.86f * s->mouth_half, 0), mix(s->mouth_y, s->chin, 0.62f)}},
            3, 0.0125f, s->deep, 0.60f * smooth(0.45f, 1.0f, fold), true);
        data_sketch_crease(canvas,
                           (const float[][2]){{face_x(s, k * 0.012f, 0), s->eye_y - 0.050f},
                                              {face_x(s, k * 0.010f, 0), s->eye_y - 0.025f}},
                           2, 0.0095f, s->deep, 0.50f * furrow, true);
    }
    if (spot > 0.0f) {
        static const float places[][3] = {{-0.66f, 0.10f, 1.0f},
                                          {0.55f, 0.86f, 0.8f},
                                          {0.30f, -0.55f, 0.9f},
                                          {-0.42f, -0.68f, 0.7f},
                                          {0.72f, 0.20f, 0.9f}};
        for (int i = 0; i < COUNT(places); i++)
            data_canvas_spot(canvas, face_x(s, places[i][0] * w, 0),
                             s->eye_y + places[i][1] * (places[i][1] > 0 ? s->mouth_y - s->eye_y
                                                                         : s->eye_y - s->top),
                             0.016f * places[i][2], 0.014f * places[i][2], s->deep, 0.55f * spot,
                             true);
        data_canvas_grain(canvas, (uint32_t)s->p->identity, 0.030f, 0.05f * spot);
    }
}

/* --- all of it ------------------------------------------------------------------------------- */

/* A little less or more light on all of it. */
static void paint_exposure(data_canvas *canvas, float brightness)
{
    const float white = brightness > 1.0f ? 1.0f : 0.0f;
    data_path all;

    everything(&all);
    data_sketch_fill(canvas, &all, (data_rgb){white, white, white}, fabsf(brightness - 1.0f));
}

void data_face_paint(data_canvas *canvas, const data_face_params *face)
{
    const float w = (float)data_canvas_width(canvas), h = (float)data_canvas_height(canvas);
    const float size = w < h ? w : h, left = 0.5f * w,
                top = 0.5f * (h - size) - size * (VIEW_ZOOM - 1.0f) * (VIEW_Y - 0.80f);
    const float pivot = 0.80f, zoom = size * face->zoom * VIEW_ZOOM;
    const data_rgb black = {0.0f, 0.0f, 0.0f};
    sketch s;
    data_path head;

    data_sketch_measure(&s, face);
    data_canvas_clear(canvas, black);
    data_canvas_place(canvas, left, 0.5f * (h - size), size, 0.0f);
    paint_background(canvas, &s);

    /* The head turns about a point in the neck; the body stays upright. */
    const float sn = face->roll - face->roll * face->roll * face->roll / 6.0f,
                cs = 1.0f - 0.5f * face->roll * face->roll;
    const float hx = left + size * face->shift_x + zoom * pivot * sn;
    const float hy = top + size * face->shift_y + size * pivot - zoom * pivot * cs;
    data_canvas_place(canvas, hx, hy, zoom, face->roll);
    data_paint_hair_behind(canvas, &s);
    data_canvas_place(canvas, left + size * face->shift_x,
                      top + size * face->shift_y + pivot * (size - zoom), zoom, 0.0f);
    paint_body(canvas, &s);
    data_canvas_place(canvas, hx, hy, zoom, face->roll);
    paint_ears(canvas, &s);
    paint_head(canvas, &s, &head);
    paint_folds(canvas, &s);
    data_paint_nose(canvas, &s);
    data_paint_beard(canvas, &s, &head);
    data_paint_mouth(canvas, &s);
    for (int i = -1; i <= 1; i += 2)
        data_paint_eye(canvas, &s, (float)i);
    data_paint_hair_front(canvas, &s, &head);
    for (int i = -1; i <= 1; i += 2)
        data_paint_brow(canvas, &s, (float)i);
    data_paint_glasses(canvas, &s);
    paint_exposure(canvas, face->brightness);
}
