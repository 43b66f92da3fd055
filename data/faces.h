/* faces.h - drawn faces whose age, person and gender are known.
 *
 * A face is a person (traits drawn from an identity seed, constant over a life), an age in years,
 * and a pose (drawn from a jitter seed). Every trait is a function of (seed, trait), so the same
 * numbers give the same picture in any order, on any machine, at any size.
 *
 * What age changes: the size and proportions of the head (forehead, eyes, jaw, nose, ears,
 * shoulders), skin colour and folds, jowls, hair length, colour and hairline, brows, lips, beard,
 * glasses. What it leaves: skin tone, shape of face and nose, eyes, natural hair colour and
 * style, clothes, background.
 *
 * Nothing here is fitted to data: the curves are the painter's, following common drawing lore on
 * proportions (eyes below the middle of a child's head, at the middle of an adult's).
 */
#ifndef DATA_FACES_H
#define DATA_FACES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/status.h"
#include "data/paint.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DATA_FACE_AGE_MAX 90.0f /* years; older is drawn as 90 */

typedef enum data_face_gender {
    DATA_FACE_FEMALE,
    DATA_FACE_MALE,
    DATA_FACE_ANY /* to be drawn from the seed; a person is never ANY */
} data_face_gender;

typedef enum data_hair_style {
    DATA_HAIR_CROP, /* men's */
    DATA_HAIR_PART,
    DATA_HAIR_CURLY,
    DATA_HAIR_MOP,
    DATA_HAIR_LONG, /* women's */
    DATA_HAIR_BOB,
    DATA_HAIR_WAVY,
    DATA_HAIR_BUN
} data_hair_style;

typedef enum data_beard_style {
    DATA_BEARD_NONE,
    DATA_BEARD_MOUSTACHE,
    DATA_BEARD_GOATEE,
    DATA_BEARD_FULL
} data_beard_style;

typedef enum data_collar_style {
    DATA_COLLAR_ROUND,
    DATA_COLLAR_V,
    DATA_COLLAR_SHIRT
} data_collar_style;

/* What stays the same from the cradle on. Lengths are in widths of the picture. */
typedef struct data_person {
    uint64_t identity;
    data_face_gender gender;
    data_rgb skin, eyes, hair, clothes, background; /* hair: before it turns grey */
    int hair_name, clothes_name, background_name;   /* palette entries, for captions */
    data_hair_style hair_style;
    data_beard_style beard;
    data_collar_style collar;
    float face_width;   /* factor of the half width of the head, about 1 */
    float face_length;  /* factor of the height below the eyes, about 1 */
    float jaw;          /* -1 pointed .. 1 square */
    float cheeks;       /* -1 hollow .. 1 round */
    float eye_spacing;  /* factor, about 1 */
    float eye_size;     /* factor, about 1 */
    float eye_tilt;     /* -1 outer corner low .. 1 high */
    float brow_weight;  /* factor, about 1 */
    float nose_width;   /* factor, about 1 */
    float nose_length;  /* factor, about 1 */
    float mouth_width;  /* factor, about 1 */
    float lip_fullness; /* factor, about 1 */
    float ear_size;     /* factor, about 1 */
    float hair_volume;  /* factor, about 1 */
    float part_side;    /* -1 parted on the viewer's left, 1 on the right */
    float baldness;     /* 0 keeps the hair .. 1 loses the top of it */
    float grey_age;     /* years: half of the hair is grey */
    float beard_age;    /* years: the beard is grown */
    float glasses_age;  /* years: wears glasses from then on; may be beyond any age */
    int glasses_shape;  /* 0 round, 1 wide */
    data_rgb glasses;   /* colour of the frame */
} data_person;

/* One picture of a person. */
typedef struct data_face_params {
    data_person person;
    float age;                    /* years, 0..DATA_FACE_AGE_MAX */
    float yaw;                    /* -1..1, about 15 degrees to the picture's left or right */
    float pitch;                  /* -1..1, looking down or up */
    float roll;                   /* radians, clockwise on the screen */
    float shift_x, shift_y, zoom; /* of the head; zoom is a factor about 1 */
    float smile;                  /* 0..1 */
    float light;                  /* -1 from the left .. 1 from the right */
    float brightness;             /* factor about 1 */
} data_face_params;

/* Draw a person from the identity seed. With a given gender the other traits stay those of the
 * seed where they can. */
data_person data_person_draw(uint64_t identity, data_face_gender gender);

/* A picture of the person of that seed at that age. jitter 0: facing the viewer, evenly lit;
 * else the pose, light and smile are drawn from (identity, jitter). age is clamped. */
data_face_params data_face_draw(uint64_t identity, float age, data_face_gender gender,
                                uint64_t jitter);

bool data_face_has_glasses(const data_face_params *face);
bool data_face_has_beard(const data_face_params *face); /* any facial hair that shows */

/* Paint the face over the whole canvas (the shorter side counts when it is not square). */
void data_face_paint(data_canvas *canvas, const data_face_params *face);

/* What can be measured of a person in a picture, as numbers: colours first, then shapes, each
 * about -1..1. For networks that estimate it, and for the distance between two people. */
enum { DATA_PERSON_N = 24 };
void data_person_vector(float out[DATA_PERSON_N], const data_person *person);
extern const char *const data_person_names[DATA_PERSON_N];

/* Write a caption without a word on age ("photo of a man with glasses"), chosen by `seed` among
 * those true of the face; always starts with "photo of a". Cut to `size`, NUL-terminated. */
enum { DATA_CAPTION_MAX = 128 };
void data_face_caption(char *out, size_t size, const data_face_params *face, uint64_t seed);

/* --- sets of pictures --------------------------------------------------------------------- */

typedef enum data_faces_layout {
    DATA_FACES_FFHQ_AGING, /* 00000/00000.png ..., training_ages.npy, ffhq_aging_labels.csv */
    DATA_FACES_FLAT        /* images/00000.png ..., training_ages.npy, ffhq_aging_labels.csv */
} data_faces_layout;

typedef struct data_faces_options {
    int64_t count; /* pictures, 1..70000 */
    uint64_t seed;
    int resolution; /* pixels, 16..2048 */
    data_faces_layout layout;
    int64_t people;         /* identities the pictures are shared by; 0: each its own */
    float age_min, age_max; /* years, inclusive; both 0: 0..DATA_FACE_AGE_MAX */
    bool one_person;        /* every picture is of `identity`; the seed chooses ages and poses */
    uint64_t identity;
    int64_t n_ages;         /* > 0: the ages are these, in turn */
    const int64_t *ages;    /* [n_ages], whole years, 0..DATA_FACE_AGE_MAX; borrowed */
} data_faces_options;

data_faces_options data_faces_defaults(void); /* 150, seed 0, 64 px, flat, each its own */

/* Picture `index` of the set: ages, where none are given, go evenly over the ten groups of
 * FFHQ-Aging (those that meet age_min..age_max), whole years; a function of (options, index). */
data_face_params data_faces_get(const data_faces_options *options, int64_t index);

/* Write the set under `root`, which is made, and must not hold such a set yet (AG_EIO). The label
 * file is written last: a set without it was cut short. progress may be NULL. */
ag_status data_faces_write(ag_ctx *ctx, const char *root, const data_faces_options *options,
                           void (*progress)(void *arg, int64_t done, int64_t count), void *arg);

#ifdef __cplusplus
}
#endif

#endif /* DATA_FACES_H */
