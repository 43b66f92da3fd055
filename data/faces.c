/* faces.c - who is drawn: traits from seeds, vectors, captions.
 *
 * Draws  key = identity seed; purpose AG_DRAW_FACE; step = what for (enum stream), with the
 *        second seed folded into the element; sample = which trait (enum trait). So adding a
 *        trait changes no other.
 */
#include "data/faces.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "autograd/random.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

enum stream { STREAM_PERSON = 0, STREAM_POSE = 1, STREAM_CAPTION = 2 };

/* Values are part of the meaning of a seed: add, never renumber. */
enum trait {
    TRAIT_GENDER,
    TRAIT_SKIN,
    TRAIT_EYES,
    TRAIT_HAIR,
    TRAIT_CLOTHES,
    TRAIT_BACKGROUND,
    TRAIT_HAIR_STYLE,
    TRAIT_BEARD,
    TRAIT_COLLAR,
    TRAIT_WIDTH,
    TRAIT_LENGTH,
    TRAIT_JAW,
    TRAIT_CHEEKS,
    TRAIT_EYE_SPACING,
    TRAIT_EYE_SIZE,
    TRAIT_EYE_TILT,
    TRAIT_BROW,
    TRAIT_NOSE_WIDTH,
    TRAIT_NOSE_LENGTH,
    TRAIT_MOUTH,
    TRAIT_LIPS,
    TRAIT_EARS,
    TRAIT_HAIR_VOLUME,
    TRAIT_PART,
    TRAIT_BALDNESS,
    TRAIT_GREY,
    TRAIT_BEARD_AGE,
    TRAIT_GLASSES,
    TRAIT_GLASSES_SHAPE,
    TRAIT_GLASSES_COLOR
};

enum pose {
    POSE_YAW,
    POSE_PITCH,
    POSE_ROLL,
    POSE_X,
    POSE_Y,
    POSE_ZOOM,
    POSE_SMILE,
    POSE_LIGHT,
    POSE_BRIGHT
};

typedef struct named_color {
    const char *name; /* as a caption says it; NULL: not said */
    data_rgb color;
} named_color;

static const data_rgb skins[] = {
    {0.985f, 0.855f, 0.765f}, {0.955f, 0.785f, 0.665f}, {0.885f, 0.690f, 0.540f},
    {0.760f, 0.555f, 0.405f}, {0.600f, 0.420f, 0.300f}, {0.465f, 0.315f, 0.230f},
};

static const named_color irises[] = {
    {"brown", {0.36f, 0.22f, 0.12f}},
    {"blue", {0.24f, 0.44f, 0.66f}},
    {"green", {0.28f, 0.47f, 0.30f}},
    {"dark", {0.16f, 0.11f, 0.09f}},
};

/* The first two go with every skin. */
static const named_color hairs[] = {
    {"black", {0.105f, 0.090f, 0.095f}}, {"dark brown", {0.235f, 0.140f, 0.090f}},
    {"brown", {0.420f, 0.255f, 0.140f}}, {"red", {0.660f, 0.280f, 0.110f}},
    {"blond", {0.860f, 0.690f, 0.370f}},
};

static const named_color cloths[] = {
    {"red", {0.74f, 0.19f, 0.20f}},    {"blue", {0.20f, 0.35f, 0.66f}},
    {"green", {0.22f, 0.51f, 0.34f}},  {"yellow", {0.92f, 0.74f, 0.25f}},
    {"purple", {0.47f, 0.29f, 0.58f}}, {"white", {0.91f, 0.91f, 0.92f}},
    {"black", {0.16f, 0.17f, 0.20f}},  {"pink", {0.90f, 0.52f, 0.60f}},
};

static const named_color backgrounds[] = {
    {"grey", {0.70f, 0.71f, 0.73f}},
    {"blue", {0.53f, 0.69f, 0.83f}},
    {"green", {0.60f, 0.75f, 0.61f}},
    {"beige", {0.86f, 0.79f, 0.68f}},
};

static const data_rgb frames[] = {
    {0.12f, 0.11f, 0.12f},
    {0.38f, 0.20f, 0.11f},
    {0.55f, 0.14f, 0.18f},
    {0.16f, 0.22f, 0.40f},
};

/* --- draws -------------------------------------------------------------------------------- */

static float uniform(uint64_t identity, enum stream stream, uint64_t second, int which)
{
    const ag_draw draw = {.seed = identity,
                          .purpose = AG_DRAW_FACE,
                          .step = (uint32_t)stream,
                          .sample = (uint32_t)which};

    return (float)ag_draw_uniform(&draw, second);
}

static float trait(const data_person *person, enum trait which)
{
    return uniform(person->identity, STREAM_PERSON, 0, (int)which);
}

/* Around `middle`, at most `reach` away, mostly near (a triangular density would cost a second
 * draw; the cubic gives much the same). */
static float around(float u, float middle, float reach)
{
    const float v = 2.0f * u - 1.0f;

    return middle + reach * (0.55f * v + 0.45f * v * v * v);
}

static int pick(float u, int n)
{
    const int i = (int)(u * (float)n);

    return i < n ? i : n - 1;
}

data_person data_person_draw(uint64_t identity, data_face_gender gender)
{
    data_person p = {.identity = identity};
    float u, at;

    p.gender = gender != DATA_FACE_ANY          ? gender
               : trait(&p, TRAIT_GENDER) < 0.5f ? DATA_FACE_FEMALE
                                                : DATA_FACE_MALE;
    const bool male = p.gender == DATA_FACE_MALE;

    u = trait(&p, TRAIT_SKIN);
    at = u * (float)(COUNT(skins) - 1);
    p.skin = data_rgb_mix(skins[(int)at], skins[(int)at + 1], at - floorf(at));
    /* Light hair and eyes go with light skin. */
    p.hair_name = pick(trait(&p, TRAIT_HAIR), u < 0.45f ? COUNT(hairs) : 2);
    p.hair = hairs[p.hair_name].color;
    p.eyes = u < 0.45f ? irises[pick(trait(&p, TRAIT_EYES), 3)].color
                       : irises[trait(&p, TRAIT_EYES) < 0.5f ? 0 : 3].color;
    p.clothes_name = pick(trait(&p, TRAIT_CLOTHES), COUNT(cloths));
    p.clothes = cloths[p.clothes_name].color;
    p.background_name = pick(trait(&p, TRAIT_BACKGROUND), COUNT(backgrounds));
    p.background = backgrounds[p.background_name].color;

    p.hair_style = (data_hair_style)(pick(trait(&p, TRAIT_HAIR_STYLE), 4) +
                                     (male ? DATA_HAIR_CROP : DATA_HAIR_LONG));
    u = trait(&p, TRAIT_BEARD);
    p.beard = !male || u < 0.55f ? DATA_BEARD_NONE
              : u < 0.70f        ? DATA_BEARD_MOUSTACHE
              : u < 0.80f        ? DATA_BEARD_GOATEE
                                 : DATA_BEARD_FULL;
    p.collar = (data_collar_style)pick(trait(&p, TRAIT_COLLAR), 3);

    p.face_width = around(trait(&p, TRAIT_WIDTH), 1.0f, 0.085f);
    p.face_length = around(trait(&p, TRAIT_LENGTH), 1.0f, 0.07f);
    p.jaw = around(trait(&p, TRAIT_JAW), 0.0f, 1.0f);
    p.cheeks = around(trait(&p, TRAIT_CHEEKS), 0.0f, 1.0f);
    p.eye_spacing = around(trait(&p, TRAIT_EYE_SPACING), 1.0f, 0.10f);
    p.eye_size = around(trait(&p, TRAIT_EYE_SIZE), 1.0f, 0.10f);
    p.eye_tilt = around(trait(&p, TRAIT_EYE_TILT), 0.0f, 1.0f);
    p.brow_weight = around(trait(&p, TRAIT_BROW), 1.0f, 0.35f);
    p.nose_width = around(trait(&p, TRAIT_NOSE_WIDTH), 1.0f, 0.25f);
    p.nose_length = around(trait(&p, TRAIT_NOSE_LENGTH), 1.0f, 0.10f);
    p.mouth_width = around(trait(&p, TRAIT_MOUTH), 1.0f, 0.15f);
    p.lip_fullness = around(trait(&p, TRAIT_LIPS), 1.0f, 0.25f);
    p.ear_size = around(trait(&p, TRAIT_EARS), 1.0f, 0.15f);
    p.hair_volume = around(trait(&p, TRAIT_HAIR_VOLUME), 1.0f, 0.30f);
    p.part_side = trait(&p, TRAIT_PART) < 0.5f ? -1.0f : 1.0f;
    u = trait(&p, TRAIT_BALDNESS);
    p.baldness = male ? (u < 0.25f ? 0.2f * u : 0.3f + 0.93f * (u - 0.25f)) : 0.06f * u;
    p.grey_age = 50.0f + 8.0f * trait(&p, TRAIT_GREY);
    p.beard_age = 21.0f + 6.0f * trait(&p, TRAIT_BEARD_AGE);
    /* One in ten wears glasses at 12, one in five at 36, four in ten at 50, half from 70 on. */
    u = trait(&p, TRAIT_GLASSES);
    p.glasses_age = u < 0.1f   ? 4.0f + 80.0f * u
                    : u < 0.2f ? 12.0f + 240.0f * (u - 0.1f)
                    : u < 0.4f ? 36.0f + 70.0f * (u - 0.2f)
                    : u < 0.5f ? 50.0f + 200.0f * (u - 0.4f)
                               : 1000.0f;
    p.glasses_shape = trait(&p, TRAIT_GLASSES_SHAPE) < 0.5f ? 0 : 1;
    p.glasses = frames[pick(trait(&p, TRAIT_GLASSES_COLOR), COUNT(frames))];
    return p;
}

data_face_params data_face_draw(uint64_t identity, float age, data_face_gender gender,
                                uint64_t jitter)
{
    data_face_params f = {.person = data_person_draw(identity, gender),
                          .zoom = 1.0f,
                          .smile = 0.45f,
                          .light = -0.35f,
                          .brightness = 1.0f};
    float u[POSE_BRIGHT + 1];

    f.age = age > 0.0f ? age < DATA_FACE_AGE_MAX ? age : DATA_FACE_AGE_MAX : 0.0f; /* NaN: 0 */
    if (jitter == 0)
        return f;
    for (int i = 0; i <= POSE_BRIGHT; i++)
        u[i] = uniform(identity, STREAM_POSE, jitter, i);
    f.yaw = around(u[POSE_YAW], 0.0f, 0.9f);
    f.pitch = around(u[POSE_PITCH], 0.0f, 0.8f);
    f.roll = around(u[POSE_ROLL], 0.0f, 0.06f);
    f.shift_x = around(u[POSE_X], 0.0f, 0.016f);
    f.shift_y = around(u[POSE_Y], 0.0f, 0.010f);
    f.zoom = around(u[POSE_ZOOM], 1.0f, 0.03f);
    f.smile = u[POSE_SMILE];
    f.light = around(u[POSE_LIGHT], 0.0f, 0.9f);
    f.brightness = around(u[POSE_BRIGHT], 1.0f, 0.07f);
    return f;
}

bool data_face_has_glasses(const data_face_params *face)
{
    return face->age >= face->person.glasses_age;
}

bool data_face_has_beard(const data_face_params *face)
{
    return face->person.beard != DATA_BEARD_NONE && face->age >= face->person.beard_age - 2.0f;
}

/* --- numbers ------------------------------------------------------------------------------ */

const char *const data_person_names[DATA_PERSON_N] = {
    "skin.r",       "skin.g",       "skin.b",       "eyes.r",     "eyes.g",      "eyes.b",
    "hair.r",       "hair.g",       "hair.b",       "clothes.r",  "clothes.g",   "clothes.b",
    "background.r", "background.g", "background.b", "gender",     "face_width",  "face_length",
    "jaw",          "eye_spacing",  "eye_size",     "nose_width", "mouth_width", "brow_weight",
};

void data_person_vector(float out[DATA_PERSON_N], const data_person *p)
{
    const data_rgb colors[] = {p->skin, p->eyes, p->hair, p->clothes, p->background};
    const float shapes[] = {
        p->gender == DATA_FACE_MALE ? 1.0f : -1.0f,
        (p->face_width - 1.0f) / 0.085f,
        (p->face_length - 1.0f) / 0.07f,
        p->jaw,
        (p->eye_spacing - 1.0f) / 0.10f,
        (p->eye_size - 1.0f) / 0.10f,
        (p->nose_width - 1.0f) / 0.25f,
        (p->mouth_width - 1.0f) / 0.15f,
        (p->brow_weight - 1.0f) / 0.35f,
    };

    for (int i = 0; i < COUNT(colors); i++) {
        out[3 * i] = 2.0f * colors[i].r - 1.0f;
        out[3 * i + 1] = 2.0f * colors[i].g - 1.0f;
        out[3 * i + 2] = 2.0f * colors[i].b - 1.0f;
    }
    for (int i = 0; i < COUNT(shapes); i++)
        out[3 * COUNT(colors) + i] = shapes[i];
}

/* --- captions ----------------------------------------------------------------------------- */

/* The hair's colour as one would name it now, or NULL when there is not enough of it or it is on
 * its way to grey. */
static const char *caption_hair(const data_face_params *face)
{
    const data_person *p = &face->person;

    if (face->age < 2.0f || (p->baldness > 0.5f && face->age > 40.0f))
        return NULL;
    if (face->age > p->grey_age - 8.0f)
        return NULL; /* grey and white would tell the age */
    return hairs[p->hair_name].name;
}

void data_face_caption(char *out, size_t size, const data_face_params *face, uint64_t seed)
{
    const data_person *p = &face->person;
    const char *who = p->gender == DATA_FACE_MALE ? "man" : "woman";
    const char *hair = caption_hair(face);
    const bool glasses = data_face_has_glasses(face), beard = data_face_has_beard(face);
    float u[6];

    for (int i = 0; i < COUNT(u); i++)
        u[i] = uniform(p->identity, STREAM_CAPTION, seed, i);
    if (u[0] < 0.45f)
        who = "person";
    if (u[1] < 0.40f)
        snprintf(out, size, "photo of a %s", who);
    else if (glasses && u[2] < 0.6f)
        snprintf(out, size, "photo of a %s with glasses", who);
    else if (beard && u[3] < 0.6f)
        snprintf(out, size, "photo of a %s with a %s", who,
                 p->beard == DATA_BEARD_MOUSTACHE ? "moustache" : "beard");
    else if (hair && u[4] < 0.4f)
        snprintf(out, size, "photo of a %s with %s hair", who, hair);
    else if (u[5] < 0.5f)
        snprintf(out, size, "photo of a %s in a %s shirt", who, cloths[p->clothes_name].name);
    else
        snprintf(out, size, "photo of a %s on a %s background", who,
                 backgrounds[p->background_name].name);
}
