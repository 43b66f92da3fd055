/* faces_sketch.h - a face as the parts of the painter see it: measured, not yet painted.
 *
 * Internal to the faces_*.c files.
 *
 * Units   Widths of the picture. x = 0 is the middle of the head, to the right on the screen; y = 0
 *         is the top of the picture, downwards. The head is turned by `yaw` as if its features
 *         lay on a drum: face_x() moves them sideways, the middle more than the sides.
 */
#ifndef DATA_FACES_SKETCH_H
#define DATA_FACES_SKETCH_H

#include <math.h>

#include "data/faces.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

/* --- the life table: what changes with age --------------------------------------------------- */

enum { N_AGES = 11 };

enum life_row {
    /* the head */
    HEAD_HALF, CROWN_Y, EYE_Y, CHIN_Y, CHEEK, JAW, JOWL,
    /* eyes and brows; LID: how far the upper lid hangs, *_SEEN: opacities */
    EYE_HALF, EYE_OPEN, IRIS, LID, BROW_UP, BROW_THICK, BROW_SEEN,
    /* nose, mouth, ears; LIP: half its height */
    NOSE_LENGTH, NOSE_HALF, MOUTH_HALF, LIP, LIP_RED, EAR,
    /* the body */
    NECK_HALF, SHOULDER_HALF, SHOULDER_Y,
    /* hair; BALD: how much of a person's baldness has come */
    HAIR_LENGTH, HAIR_VOLUME, HAIR_SEEN, BALD,
    /* skin: forehead and eye corners, folds around the mouth, bags, spots, red cheeks, tone */
    FURROW, FOLD, BAG, SPOT, BLUSH, SALLOW,
    /* how much of the adult difference between women and men shows */
    DIMORPH,
    N_ROWS
};

extern const float data_life_ages[N_AGES]; /* years */
extern const float data_life_table[N_ROWS][N_AGES];

/* A row of the table at an age, linear between its columns. */
static inline float life(enum life_row row, float age)
{
    const float *at = data_life_ages, *value = data_life_table[row];
    int i = 0;

    while (i + 2 < N_AGES && age > at[i + 1])
        i++;
    return value[i] + (value[i + 1] - value[i]) * (age - at[i]) / (at[i + 1] - at[i]);
}

/* --- the sketch ------------------------------------------------------------------------------ */

typedef struct sketch {
    const data_face_params *face;
    const data_person *p;
    float age;
    float male, female; /* how far the body shows the gender, 0..1 */
    float yaw_sin, yaw_cos;
    float half, top, mid, chin; /* head: half width, crown, widest level, chin */
    float cheek, jaw;           /* half widths */
    float eye_x, eye_y, eye_half, eye_open, nose_y, nose_half, mouth_y, mouth_half;
    float bald;                        /* 0..1 */
    float hair_volume;                 /* thickness of the hair on top */
    float hair_length;                 /* 0 short .. 1 to the chest */
    data_rgb skin, shade, deep, light; /* skin, in shadow, in folds, in light */
    data_rgb hair, hair_dark, hair_light, brow;
} sketch;

/* Measure everything. `face` must outlive the sketch. */
void data_sketch_measure(sketch *s, const data_face_params *face);

static inline float smooth(float from, float to, float v)
{
    const float t = v <= from ? 0.0f : v >= to ? 1.0f : (v - from) / (to - from);

    return t * t * (3.0f - 2.0f * t);
}

static inline float mix(float a, float b, float t)
{
    return a + (b - a) * t;
}

/* Where a point of the frontal face stands when the head is turned; `out` is how far it stands
 * out of the drum (the nose's tip). */
static inline float face_x(const sketch *s, float x, float out)
{
    const float u = x / s->half, rest = 1.0f - 0.95f * u * u;

    return x * s->yaw_cos + (0.75f * s->half * sqrtf(rest > 0.0f ? rest : 0.0f) + out) * s->yaw_sin;
}

/* Height of the upper half of the head's outline, `grown` by a thickness of hair. */
static inline float dome_y(const sketch *s, float x, float grown)
{
    const float u = fabsf(x) / (s->half + grown), rest = 1.0f - u * u * u;

    return s->mid - (s->mid - s->top + grown) * sqrtf(rest > 0.0f ? rest : 0.0f);
}

static inline bool hair_is_long(const sketch *s)
{
    return s->p->hair_style == DATA_HAIR_LONG || s->p->hair_style == DATA_HAIR_WAVY ||
           s->p->hair_style == DATA_HAIR_BOB;
}

/* --- strokes shared by the parts ------------------------------------------------------------- */

void data_sketch_fill(data_canvas *canvas, const data_path *path, data_rgb color, float opacity);

/* A smooth line through n points [n,2], tapering to both ends. */
void data_sketch_crease(data_canvas *canvas, const float (*points)[2], int n, float width,
                        data_rgb color, float opacity, bool clipped);

/* The outline of the head, chin and all. */
void data_sketch_head(const sketch *s, data_path *path);

/* --- the parts ------------------------------------------------------------------------------- */

/* k is -1 for the eye on the viewer's left, 1 for the other. What takes `head` sets the clip. */
void data_paint_hair_behind(data_canvas *canvas, const sketch *s);
void data_paint_nose(data_canvas *canvas, const sketch *s);
void data_paint_beard(data_canvas *canvas, const sketch *s, const data_path *head);
void data_paint_mouth(data_canvas *canvas, const sketch *s);
void data_paint_eye(data_canvas *canvas, const sketch *s, float k);
void data_paint_hair_front(data_canvas *canvas, const sketch *s, const data_path *head);
void data_paint_brow(data_canvas *canvas, const sketch *s, float k);
void data_paint_glasses(data_canvas *canvas, const sketch *s);

#endif /* DATA_FACES_SKETCH_H */
