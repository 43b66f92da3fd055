/* faces_hair.c - hair behind and in front of the head, and beards. */
#include "data/faces_sketch.h"

void data_paint_hair_behind(data_canvas *canvas, const sketch *s)
{
    const float w = s->half, v = s->hair_volume;
    data_brush brush =
        data_brush_linear(s->hair_light, s->hair_dark, 0.0f, s->top - v, 0.0f, s->chin);
    data_path path;

    data_path_reset(&path);
    if (hair_is_long(s)) {
        const float reach = s->p->hair_style == DATA_HAIR_BOB ? 0.62f : 1.0f;
        const float wave = s->p->hair_style == DATA_HAIR_WAVY ? 0.035f * s->hair_length : 0.0f;
        const float end = mix(s->eye_y + 0.03f, mix(s->mouth_y + 0.02f, 0.94f, reach * reach),
                              smooth(0.0f, 1.0f, s->hair_length) * mix(1.0f, reach, 0.3f));
        const float side = w + 0.75f * v + 0.02f * s->hair_length;
        enum { N_SIDE = 7, N_TOP = 5 };
        float points[2 * N_SIDE + N_TOP][2];

        for (int i = 0; i < N_SIDE; i++) { /* down one side, up the other */
            const bool last = i == N_SIDE - 1;
            const float t = (float)i / (N_SIDE - 1);
            const float x =
                side * (1.0f + 0.10f * t - (last ? 0.25f : 0.0f)) + wave * (i % 2 ? 1.0f : -0.3f);
            const float y = last ? end + 0.006f : mix(s->mid - 0.06f, end, t);

            points[i][0] = x, points[i][1] = y;
            points[2 * N_SIDE - 1 - i][0] = -x, points[2 * N_SIDE - 1 - i][1] = y;
        }
        for (int i = 0; i < N_TOP; i++) { /* and over the crown, hidden by the head */
            const float x = 0.40f * (float)(i - N_TOP / 2) * s->half;

            points[2 * N_SIDE + i][0] = x;
            points[2 * N_SIDE + i][1] = dome_y(s, x, 0.0f) + 0.01f;
        }
        data_path_spline(&path, (const float(*)[2])points, COUNT(points), true);
    } else if (s->p->hair_style == DATA_HAIR_BUN) {
        const float r = 0.080f * mix(0.35f, 1.0f, s->hair_length);
        data_path_ellipse(&path, 0.0f, s->top - 0.35f * v - 0.20f * r, r, 0.68f * r, false);
    } else {
        return;
    }
    brush.opacity = brush.opacity_end =
        life(HAIR_SEEN, s->age) * smooth(0.05f, 0.25f, s->hair_length);
    data_canvas_fill(canvas, &path, &brush);
}

void data_paint_beard(data_canvas *canvas, const sketch *s, const data_path *head)
{
    const data_person *p = s->p;
    const float grown = smooth(p->beard_age - 5.0f, p->beard_age + 1.0f, s->age), w = s->mouth_half;
    const float lip = s->mouth_y - 0.018f, cx = face_x(s, 0.0f, 0.0f);
    const data_rgb color = data_rgb_mix(s->hair, s->hair_dark, 0.25f);
    data_brush brush =
        data_brush_linear(color, data_rgb_scale(color, 0.82f), 0.0f, s->nose_y, 0.0f, s->chin);
    data_path path;

    if (p->gender != DATA_FACE_MALE)
        return;
    /* The shadow of a shaved chin. */
    data_canvas_clip(canvas, head);
    data_canvas_spot(
        canvas, cx, mix(s->mouth_y, s->chin, 0.55f), 0.95f * s->jaw, 0.15f,
        data_rgb_mix(p->hair, s->deep, 0.6f),
        0.22f * smooth(16.0f, 24.0f, s->age) * (1.0f - 0.6f * smooth(50.0f, 75.0f, s->age)), true);
    if (p->beard == DATA_BEARD_NONE || grown <= 0.0f)
        return;
    brush.opacity = brush.opacity_end = 0.86f * grown;
    brush.clipped = true;
    brush.soft = 0.006f;
    data_path_reset(&path);
    if (p->beard == DATA_BEARD_FULL) {
        const float ear = mix(s->eye_y, s->mouth_y, 0.45f);
        const float points[][2] = {
            {-1.10f * s->half, ear},
            {-0.93f * s->half, ear + 0.01f},
            {face_x(s, -0.80f * s->cheek, 0), s->mouth_y - 0.045f},
            {face_x(s, -1.25f * w, 0), s->mouth_y - 0.035f},
            {face_x(s, -0.75f * w, 0), lip - 0.012f},
            {cx, mix(s->nose_y, s->mouth_y, 0.34f)},
            {face_x(s, 0.75f * w, 0), lip - 0.012f},
            {face_x(s, 1.25f * w, 0), s->mouth_y - 0.035f},
            {face_x(s, 0.80f * s->cheek, 0), s->mouth_y - 0.045f},
            {0.93f * s->half, ear + 0.01f},
            {1.10f * s->half, ear},
            {1.05f * s->half, s->chin},
            {0.0f, s->chin + 0.06f},
            {-1.05f * s->half, s->chin},
        };
        data_path_spline(&path, points, COUNT(points), true);
    } else {
        const float low = p->beard == DATA_BEARD_GOATEE ? 0.007f : 0.0f;
        const float points[][2] = {
            {cx, mix(s->nose_y, s->mouth_y, 0.36f)},
            {face_x(s, 0.6f * w, 0), lip - 0.008f},
            {face_x(s, 1.06f * w, 0), s->mouth_y + 0.004f + low},
            {face_x(s, 0.55f * w, 0), s->mouth_y - 0.010f},
            {cx, s->mouth_y - 0.012f},
            {face_x(s, -0.55f * w, 0), s->mouth_y - 0.010f},
            {face_x(s, -1.06f * w, 0), s->mouth_y + 0.004f + low},
            {face_x(s, -0.6f * w, 0), lip - 0.008f},
        };
        data_path_spline(&path, points, COUNT(points), true);
    }
    data_canvas_fill(canvas, &path, &brush);
    if (p->beard == DATA_BEARD_MOUSTACHE)
        return;
    data_path_reset(&path);
    if (p->beard == DATA_BEARD_FULL)
        data_path_ellipse(&path, cx, s->chin - 0.030f, 0.66f * s->jaw, 0.062f, false);
    else
        data_path_ellipse(&path, cx, mix(s->mouth_y, s->chin, 0.74f), 0.60f * w,
                          0.40f * (s->chin - s->mouth_y), false);
    brush.clipped = false;
    data_canvas_fill(canvas, &path, &brush);
}

/* --- hair in front --------------------------------------------------------------------------- */

enum { N_LINE = 9 };

/* The hairline, from the viewer's left sideburn over the forehead to the right one. */
typedef struct hairline {
    float x[N_LINE]; /* in half widths of the head; of a measured one in widths of the picture */
    float y[N_LINE]; /* from the crown (0) to the brows (1), the nose's tip (2), the chin (3) */
} hairline;

static const hairline hairlines[] = {
    [DATA_HAIR_CROP]  = {{-.97f, -.90f, -.80f, -.45f, 0, .45f, .80f, .90f, .97f},
                         {1.50f, 1.00f, .56f, .42f, .40f, .42f, .56f, 1.00f, 1.50f}},
    [DATA_HAIR_PART]  = {{-.97f, -.90f, -.78f, -.50f, -.10f, .38f, .76f, .90f, .97f},
                         {1.55f, 1.00f, .52f, .26f, .44f, .58f, .74f, 1.10f, 1.55f}},
    [DATA_HAIR_CURLY] = {{-1.0f, -.90f, -.76f, -.42f, 0, .42f, .76f, .90f, 1.0f},
                         {1.50f, 1.00f, .60f, .48f, .50f, .48f, .60f, 1.00f, 1.50f}},
    [DATA_HAIR_MOP]   = {{-1.0f, -.89f, -.80f, -.45f, 0, .45f, .80f, .89f, 1.0f},
                         {1.80f, 1.30f, .86f, .74f, .70f, .78f, .86f, 1.30f, 1.80f}},
    [DATA_HAIR_LONG]  = {{-1.0f, -.90f, -.84f, -.52f, 0, .52f, .84f, .90f, 1.0f},
                         {3.20f, 1.90f, .95f, .46f, .26f, .46f, .95f, 1.90f, 3.20f}},
    [DATA_HAIR_BOB]   = {{-1.0f, -.86f, -.83f, -.50f, 0, .50f, .83f, .86f, 1.0f},
                         {2.70f, 1.80f, 1.00f, .74f, .76f, .74f, 1.00f, 1.80f, 2.70f}},
    [DATA_HAIR_WAVY]  = {{-1.0f, -.92f, -.86f, -.60f, -.22f, .40f, .82f, .88f, 1.0f},
                         {3.00f, 1.80f, .95f, .42f, .26f, .50f, .90f, 1.80f, 3.00f}},
    [DATA_HAIR_BUN]   = {{-.98f, -.93f, -.86f, -.50f, 0, .50f, .86f, .93f, .98f},
                         {1.45f, 1.00f, .62f, .36f, .30f, .36f, .62f, 1.00f, 1.45f}},
};

/* The person's hairline at this age. */
static hairline hairline_measure(const sketch *s)
{
    const hairline *style = &hairlines[s->p->hair_style];
    const bool mirror = s->p->part_side > 0.0f;
    const float child = 1.0f - smooth(1.0f, 6.0f, s->age);
    const float brow_y = s->eye_y - life(BROW_UP, s->age);
    const float fallen = smooth(45.0f, 80.0f, s->age) * s->female;
    hairline line;

    for (int i = 0; i < N_LINE; i++) {
        const int j = mirror ? N_LINE - 1 - i : i;
        const float x = mirror ? -style->x[j] : style->x[j];
        const float middle = 1.0f - smooth(0.55f, 0.92f, fabsf(x));
        const float temple = smooth(0.15f, 0.5f, fabsf(x)) * middle;
        float down = style->y[j];

        if (down > 1.45f) /* young children and old women wear the sides shorter */
            down = mix(1.45f, down, smooth(0.15f, 0.75f, s->hair_length));
        down -= (0.22f * child + 0.12f * fallen) * middle;
        /* The temples recede first, then all of the top. */
        down -= s->bald * (0.75f * middle + 0.30f * temple + 0.12f);
        line.x[i] = x * s->half;
        line.y[i] = down <= 1.0f   ? mix(s->top, brow_y, down)
                    : down <= 2.0f ? mix(brow_y, s->nose_y, down - 1.0f)
                                   : mix(s->nose_y, s->chin, down - 2.0f);
    }
    return line;
}

/* How far the hair stands off the head at x: `side` at the ears, `top` on the crown, which
 * thins with baldness. */
static float hair_off(const sketch *s, float x, float side, float top, float thin)
{
    const float u = x / s->half, up = u * u < 1.0f ? 1.0f - u * u : 0.0f;

    return mix(side, top, up) * (0.35f + 0.65f * up) * (1.0f - thin * smooth(0.0f, 0.5f, up));
}

/* The hair seen from in front: clockwise from the left sideburn along its outside over the crown
 * to the right one, and back along the hairline. `thin` 0..1 takes the hair off the top. */
static void hair_front_path(const sketch *s, data_path *path, float thin, float thick)
{
    static const float around[] = {-1.0f, -0.93f, -0.75f, -0.42f, 0.0f, 0.42f, 0.75f, 0.93f, 1.0f};
    static const float curls[] = {-1.0f, -.96f, -.84f, -.64f, -.36f, 0,
                                  .36f,  .64f,  .84f,  .96f,  1.0f};
    const float side = thick * (hair_is_long(s) ? 0.72f : 0.42f) * (1.0f - 0.3f * thin);
    const hairline line = hairline_measure(s);
    const float low_left = line.y[0], low_right = line.y[N_LINE - 1];
    float points[COUNT(around) + 2 + N_LINE][2];
    int n = 0;

    if (low_left > s->mid + 0.02f)
        points[n][0] = -s->half - side, points[n][1] = mix(s->mid, low_left, 0.8f), n++;
    for (int i = 0; i < COUNT(around); i++, n++) {
        const float x = around[i] * s->half, up = 1.0f - around[i] * around[i];

        points[n][0] = x + around[i] * mix(side, thick, up) * (1.0f - thin * up);
        points[n][1] = up == 0.0f ? s->mid : dome_y(s, x, 0.0f) - hair_off(s, x, side, thick, thin);
    }
    if (low_right > s->mid + 0.02f)
        points[n][0] = s->half + side, points[n][1] = mix(s->mid, low_right, 0.8f), n++;
    for (int i = N_LINE - 1; i >= 0; i--, n++) {
        const float x = line.x[i], roof = dome_y(s, x, 0.0f) - hair_off(s, x, side, thick, thin);

        /* The line turns with the face, but not beyond the side of the head, and stays inside. */
        points[n][0] = mix(face_x(s, x, 0.0f), x, smooth(0.5f, 0.95f, fabsf(x) / s->half));
        points[n][1] = line.y[i] > roof ? line.y[i] : roof;
    }
    data_path_reset(path);
    data_path_spline(path, (const float(*)[2])points, n, true);
    if (s->p->hair_style != DATA_HAIR_CURLY || s->age <= 1.0f)
        return;
    for (int i = 0; i < COUNT(curls); i++) {
        const float x = curls[i], up = 1.0f - x * x, r = 0.85f * thick * (1.0f - thin * up);
        const float y = up == 0.0f ? s->mid - 0.02f : dome_y(s, x * s->half, 0.0f);

        data_path_ellipse(path, x * (s->half + 0.2f * thick), y - 0.35f * thick * up, r, r, false);
    }
}

void data_paint_hair_front(data_canvas *canvas, const sketch *s, const data_path *head)
{
    const float thin = smooth(0.25f, 0.75f, s->bald), seen = life(HAIR_SEEN, s->age);
    const float thick = s->hair_volume * (s->p->hair_style == DATA_HAIR_CURLY ? 1.25f
                                          : s->p->hair_style == DATA_HAIR_BUN ? 0.65f
                                                                              : 1.0f);
    const data_rgb shine = data_rgb_mix(s->hair, (data_rgb){1.0f, 1.0f, 1.0f}, 0.45f);
    data_brush shadow = data_brush_solid(s->deep, 0.45f * seen * (1.0f - 0.7f * thin));
    data_brush brush =
        data_brush_linear(s->hair_light, s->hair_dark, 0.0f, s->top - thick, 0.0f, s->chin);
    data_path path;

    hair_front_path(s, &path, thin, thick);
    /* A soft shadow on the skin, the hair, its shine. */
    shadow.soft = 0.014f;
    shadow.clipped = true;
    data_canvas_clip(canvas, head);
    data_canvas_fill(canvas, &path, &shadow);
    brush.opacity = brush.opacity_end = seen;
    brush.soft = s->age < 4.0f ? 0.006f : 0.0022f;
    data_canvas_fill(canvas, &path, &brush);
    data_canvas_clip(canvas, &path);
    data_canvas_spot(canvas, (0.30f * s->face->light - 0.08f) * s->half, s->top + 0.015f,
                     0.75f * s->half, 0.055f, shine, 0.50f * seen * (1.0f - thin), true);
}
