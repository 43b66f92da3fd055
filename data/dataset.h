/* dataset.h - a list of pictures and the ages of the people in them.
 *
 * A data set is what stands in a folder at the moment it is opened: picture files (png, jpg, jpeg,
 * webp, ppm, pgm, pbm, bmp, tif, tiff, in either case; names beginning with a dot are left out),
 * sorted by the bytes of their names. A folder without a picture of its own is looked into once more:
 *   FFHQ-Aging's folders of a thousand ("00000", "01000", ...)
 *   or folders that say how often an epoch shows their pictures ("10_sks", "1_person"; kohya's way).
 *
 * A data set never knows a network: it gives paths, names, ages, captions and masks.
 *
 * Ownership  A data_set owns its texts; data_set_close() ends it.
 */
#ifndef DATA_DATASET_H
#define DATA_DATASET_H

#include "data/ages.h"
#include "data/image.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_item {
    char *path;       /* dir/.../name */
    const char *name; /* inside path: what ages are looked up by */
    float age;        /* years; -1 when the set was opened without ages */
    char gender;      /* 'f', 'm', or 0: not known */
    int64_t repeats;  /* how often an epoch shows it; 1 unless its folder's name says more */
    char *caption;    /* NULL: none; see data_set_read_captions */
    char *mask;       /* the path of its mask; NULL: none; see data_set_find_masks */
} data_item;

typedef struct data_set {
    int64_t n;
    data_item *items;  /* sorted by path below the folder */
    int64_t n_no_file; /* labels whose picture is not in the folder */
} data_set;

/* How much of every picture is looked at before the first one is used. */
typedef enum data_check {
    DATA_CHECK_NAMES,   /* nothing */
    DATA_CHECK_HEADERS, /* format and size */
    DATA_CHECK_PIXELS   /* decode all of it */
} data_check;

/* List a folder. With `ages`, every picture must have one that can be read; the error names the
 * pictures that lack one, and how many they are. A folder without pictures is an error. Sets from
 * FFHQ-Aging folders keep the pictures that have a label, when there are labels. */
ag_status data_set_open(data_set *set, ag_ctx *ctx, const char *dir, const data_ages *ages,
                        data_check check);
void data_set_keep(data_set *set, int64_t n); /* of more than n pictures the first n */
void data_set_close(data_set *set); /* afterwards zeroed; NULL is fine */

/* --- what lies beside a picture (dataset_beside.c) ------------------------------------------- */

/* Read the captions of the pictures that have one: the text beside "00012.png" is in "00012.txt" for the
 * extension "txt" or ".txt". Blanks around it go, line breaks become blanks; an empty text is a caption
 * too. *n_without: pictures that have none. AG_EDATA for a file that is larger than 64 KiB or no UTF-8,
 * and when no picture has a caption. */
ag_status data_set_read_captions(data_set *set, ag_ctx *ctx, const char *extension, int64_t *n_without);

/* Find the masks of the pictures that have one: "00012.png" has "00012.png" in dir, or the same name with
 * any other picture's ending. *n_without as above; AG_EDATA when no picture has a mask, or when one has
 * another shape than its picture (a side that is off by more than a part in a hundred). flags as in
 * data_image_size. */
ag_status data_set_find_masks(data_set *set, ag_ctx *ctx, const char *dir, unsigned flags, int64_t *n_without);

/* Whether a file of this name is taken for a picture. */
bool data_is_image_name(const char *name);

#ifdef __cplusplus
}
#endif

#endif /* DATA_DATASET_H */
