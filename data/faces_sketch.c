/* faces_sketch.c - the life table, and a face measured from it. */
#include "data/faces_sketch.h"

const float data_life_ages[N_AGES] = {0, 3, 7, 12, 17, 25, 35, 45, 58, 72, 90};

/* Lengths in widths of the picture; CHEEK and JAW in half widths of the head; the rest 0..1. */
const float data_life_table[N_ROWS][N_AGES] = {
    /* age              0      3      7      12     17     25     35     45     58     72     90 */
    [HEAD_HALF]     = {.236,  .233,  .227,  .22,   .216,  .215,  .216,  .217,  .218,  .217,  .213},
    [CROWN_Y]       = {.225,  .205,  .19,   .178,  .168,  .163,  .162,  .162,  .164,  .17,   .184},
    [EYE_Y]         = {.535,  .518,  .5,    .483,  .47,   .463,  .461,  .461,  .462,  .464,  .468},
    [CHIN_Y]        = {.7,    .708,  .722,  .74,   .757,  .768,  .772,  .775,  .78,   .785,  .788},
    [CHEEK]         = {1,     .975,  .945,  .915,  .89,   .875,  .875,  .885,  .91,   .93,   .905},
    [JAW]           = {.8,    .765,  .73,   .7,    .69,   .7,    .715,  .735,  .775,  .81,   .8},
    [JOWL]          = {0,     0,     0,     0,     0,     .04,   .15,   .3,    .55,   .82,   1},
    [EYE_HALF]      = {.062,  .06,   .0575, .055,  .0525, .05,   .048,  .0463, .0443, .0425, .0408},
    [EYE_OPEN]      = {.048,  .0455, .0425, .039,  .036,  .0325, .0297, .0277, .0253, .023,  .0208},
    [IRIS]          = {.041,  .039,  .0365, .034,  .032,  .03,   .0287, .0278, .0268, .026,  .0253},
    [LID]           = {0,     0,     0,     0,     .02,   .06,   .15,   .3,    .55,   .82,   1},
    [BROW_UP]       = {.078,  .076,  .073,  .069,  .066,  .063,  .061,  .0595, .058,  .057,  .056},
    [BROW_THICK]    = {.007,  .009,  .012,  .014,  .016,  .0165, .016,  .0155, .014,  .0125, .011},
    [BROW_SEEN]     = {.35,   .6,    .8,    .92,   1,     1,     1,     .96,   .88,   .78,   .65},
    [NOSE_LENGTH]   = {.08,   .088,  .1,    .116,  .129,  .136,  .14,   .144,  .15,   .157,  .165},
    [NOSE_HALF]     = {.027,  .028,  .03,   .033,  .0355, .037,  .038,  .0395, .042,  .0455, .049},
    [MOUTH_HALF]    = {.043,  .049,  .057,  .064,  .069,  .072,  .073,  .0735, .074,  .073,  .07},
    [LIP]           = {.0115, .0135, .015,  .0162, .017,  .0168, .0158, .0143, .012,  .0094, .007},
    [LIP_RED]       = {.8,    .8,    .76,   .76,   .8,    .8,    .74,   .64,   .48,   .33,   .2},
    [EAR]           = {.056,  .06,   .065,  .07,   .074,  .077,  .079,  .082,  .088,  .095,  .102},
    [NECK_HALF]     = {.075,  .075,  .078,  .084,  .094,  .103,  .106,  .108,  .108,  .104,  .095},
    [SHOULDER_HALF] = {.215,  .25,   .29,   .335,  .385,  .42,   .43,   .435,  .43,   .41,   .38},
    [SHOULDER_Y]    = {.775,  .8,    .825,  .845,  .858,  .865,  .866,  .867,  .868,  .866,  .858},
    [HAIR_LENGTH]   = {0,     .3,    .7,    .95,   1,     1,     .98,   .9,    .72,   .5,    .36},
    [HAIR_VOLUME]   = {.1,    .65,   .95,   1,     1.05,  1.05,  1,     .97,   .88,   .72,   .52},
    [HAIR_SEEN]     = {.42,   .92,   1,     1,     1,     1,     1,     1,     .98,   .94,   .85},
    [BALD]          = {0,     0,     0,     0,     0,     .08,   .3,    .55,   .8,    .95,   1},
    [FURROW]        = {0,     0,     0,     0,     .01,   .09,   .28,   .48,   .68,   .86,   1},
    [FOLD]          = {0,     0,     0,     0,     .02,   .13,   .38,   .58,   .76,   .9,    1},
    [BAG]           = {0,     0,     0,     0,     .03,   .12,   .32,   .5,    .68,   .85,   1},
    [SPOT]          = {0,     0,     0,     0,     0,     0,     .02,   .08,   .25,   .6,    1},
    [BLUSH]         = {1,     .92,   .75,   .55,   .42,   .34,   .27,   .22,   .17,   .13,   .1},
    [SALLOW]        = {0,     .01,   .02,   .03,   .06,   .15,   .28,   .41,   .58,   .78,   1},
    [DIMORPH]       = {.05,   .12,   .18,   .35,   .8,    1,     1,     1,     1,     .92,   .85},
};

/* --- measuring ------------------------------------------------------------------------------ */

static void sketch_colors(sketch *s)
{
    static const data_rgb sallow = {0.80f, 0.70f, 0.58f}, warm = {1.0f, 0.97f, 0.91f};
    static const data_rgb grey = {0.58f, 0.575f, 0.57f}, white = {0.93f, 0.925f, 0.91f};
    const data_person *p = s->p;
    const float k = life(SALLOW, s->age),
                luma = 0.3f * p->skin.r + 0.6f * p->skin.g + 0.1f * p->skin.b;
    const data_rgb pale = data_rgb_scale(sallow, 0.35f + 0.8f * luma);
    float turned;

    s->skin = data_rgb_mix(p->skin, pale, 0.55f * k);
    s->skin = data_rgb_scale(s->skin, 1.0f - 0.05f * k);
    s->shade = (data_rgb){s->skin.r * 0.80f, s->skin.g * 0.70f, s->skin.b * 0.66f};
    s->deep = (data_rgb){s->skin.r * 0.52f, s->skin.g * 0.40f, s->skin.b * 0.36f};
    s->light = data_rgb_mix(s->skin, warm, 0.38f);

    turned = smooth(p->grey_age - 17.0f, p->grey_age + 17.0f, s->age);
    s->hair = data_rgb_mix(p->hair, grey, turned);
    s->hair = data_rgb_mix(s->hair, white, 0.9f * smooth(p->grey_age, p->grey_age + 26.0f, s->age));
    /* The finest hair of all is fair. */
    s->hair = data_rgb_mix(s->hair, data_rgb_mix(p->hair, s->light, 0.5f),
                           0.6f * (1.0f - smooth(0.0f, 4.0f, s->age)));
    s->hair_dark = data_rgb_scale(s->hair, 0.66f);
    s->hair_light = data_rgb_mix(s->hair, warm, 0.16f);
    s->brow = data_rgb_mix(data_rgb_scale(s->hair, 0.72f), s->deep, 0.25f * (1.0f - turned));
}

void data_sketch_measure(sketch *s, const data_face_params *face)
{
    const data_person *p = &face->person;
    const float a = 0.22f * face->yaw, age = face->age;
    float length, dimorph;

    s->face = face;
    s->p = p;
    s->age = age;
    dimorph = life(DIMORPH, age);
    s->male = p->gender == DATA_FACE_MALE ? dimorph : 0.0f;
    s->female = p->gender == DATA_FACE_MALE ? 0.0f : dimorph;
    s->yaw_sin = a - a * a * a / 6.0f;
    s->yaw_cos = 1.0f - 0.5f * a * a;

    s->half = life(HEAD_HALF, age) * p->face_width * (1.0f + 0.02f * s->male - 0.025f * s->female);
    s->top = life(CROWN_Y, age) + 0.004f * s->female;
    s->eye_y = life(EYE_Y, age) - 0.007f * face->pitch;
    length = (life(CHIN_Y, age) - life(EYE_Y, age)) * p->face_length *
             (1.0f + 0.015f * s->male - 0.025f * s->female);
    s->chin = life(EYE_Y, age) + length - 0.004f * face->pitch;
    s->mid = life(EYE_Y, age) + 0.01f;
    s->cheek = s->half * (life(CHEEK, age) + 0.035f * p->cheeks);
    s->jaw = s->half * (life(JAW, age) + 0.06f * p->jaw + 0.045f * s->male - 0.045f * s->female);

    s->eye_x = 0.445f * s->half * p->eye_spacing;
    s->eye_half = life(EYE_HALF, age) * p->eye_size * (1.0f + 0.04f * s->female - 0.02f * s->male);
    s->eye_open = life(EYE_OPEN, age) * p->eye_size * (1.0f + 0.08f * s->female - 0.05f * s->male) *
                  (1.0f - 0.10f * face->smile);
    s->nose_y =
        s->eye_y +
        life(NOSE_LENGTH, age) * p->nose_length * (1.0f + 0.03f * s->male - 0.02f * s->female) -
        0.004f * face->pitch;
    s->nose_half =
        life(NOSE_HALF, age) * p->nose_width * (1.0f + 0.06f * s->male - 0.06f * s->female);
    s->mouth_y = mix(s->nose_y, s->chin, 0.43f);
    s->mouth_half = life(MOUTH_HALF, age) * p->mouth_width * (0.94f + 0.14f * face->smile);

    s->bald = p->baldness * life(BALD, age);
    s->hair_volume = 0.052f * life(HAIR_VOLUME, age) * p->hair_volume * (1.0f + 0.15f * s->female);
    s->hair_length = life(HAIR_LENGTH, age);
    sketch_colors(s);
}

/* --- small helpers -------------------------------------------------------------------------- */

void data_sketch_fill(data_canvas *canvas, const data_path *path, data_rgb color, float opacity)
{
    const data_brush brush = data_brush_solid(color, opacity);

    data_canvas_fill(canvas, path, &brush);
}

void data_sketch_crease(data_canvas *canvas, const float (*points)[2], int n, float width,
                        data_rgb color, float opacity, bool clipped)
{
    data_path line, outline;
    data_brush brush = data_brush_solid(color, opacity);

    if (opacity <= 0.0f)
        return;
    data_path_reset(&line);
    data_path_reset(&outline);
    data_path_spline(&line, points, n, false);
    data_path_stroke(&outline, &line, 0.15f * width, width, 0.15f * width);
    brush.clipped = clipped;
    data_canvas_fill(canvas, &outline, &brush);
}

void data_sketch_head(const sketch *s, data_path *path)
{
    const float w = s->half, turn = 0.35f * w * s->yaw_sin;
    const float jaw_y = mix(s->mouth_y, s->chin, 0.15f), jowl = life(JOWL, s->age);
    const float chin_half = 0.34f * s->jaw * (1.0f + 0.25f * s->p->jaw + 0.2f * s->male);
    const float cheek_y = mix(s->eye_y, s->mouth_y, 0.55f);
    float right[12][2], points[22][2];
    int n = 0;

    /* From the crown down the right-hand side. */
    const float half[][2] = {
        {0.0f, s->top},
        {0.38f * w, dome_y(s, 0.38f * w, 0.0f)},
        {0.66f * w, dome_y(s, 0.66f * w, 0.0f)},
        {0.86f * w, dome_y(s, 0.86f * w, 0.0f)},
        {0.97f * w, dome_y(s, 0.97f * w, 0.0f)},
        {1.00f * w, s->mid},
        {mix(s->cheek, 0.99f * w, 0.15f), cheek_y},
        {mix(s->jaw, s->cheek, 0.35f + 0.1f * jowl), mix(cheek_y, jaw_y, 0.62f)},
        {s->jaw * (0.93f + 0.02f * jowl), jaw_y + 0.012f * jowl},
        {mix(chin_half, s->jaw, 0.42f + 0.10f * jowl), mix(jaw_y, s->chin, 0.60f + 0.05f * jowl)},
        {chin_half, s->chin - 0.008f},
        {0.0f, s->chin},
    };
    for (int i = 0; i < COUNT(half); i++) {
        right[i][0] = half[i][0];
        right[i][1] = half[i][1];
    }
    for (int i = 0; i < 12; i++, n++) {
        points[n][0] = right[i][0] + turn * (i > 6 ? 0.16f * (float)(i - 6) : 0.0f);
        points[n][1] = right[i][1];
    }
    for (int i = 10; i > 0; i--, n++) {
        points[n][0] = -right[i][0] + turn * (i > 6 ? 0.16f * (float)(i - 6) : 0.0f);
        points[n][1] = right[i][1];
    }
    data_path_reset(path);
    data_path_spline(path, (const float(*)[2])points, n, true);
}
