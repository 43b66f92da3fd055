/* pictures.h - the pictures of a run, as its options say: listed, with ages, captions and masks, and the shape
 * each of them gets. What was found is told before anything is computed.
 */
#ifndef TRAIN_PICTURES_H
#define TRAIN_PICTURES_H

#include "data/batches.h"
#include "data/dataset.h"
#include "data/resample.h"
#include "train/options.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_pictures {
    data_set set;
    data_size *boxes;  /* [set.n]: what each is resized and cropped to */
    int64_t *repeats;  /* [set.n] */
    int64_t *buckets;  /* [set.n]: whose box; NULL without --aspect_ratio_buckets */
    int64_t *groups;   /* [set.n]: of ages; NULL without --balance_ages */
} train_pictures;

/* Where pictures are, and their ages. */
typedef struct train_folder {
    const char *dir;
    bool has_ages;        /* every picture must have one */
    const char *age_path; /* labels, or a folder whose file names begin with ages; NULL: dir's own names do */
    int64_t most;         /* use the first so many by name; 0: all */
} train_folder;

/* Open a folder by the options' --resolution, --aspect_ratio_buckets, --caption_extension, --mask_dir,
 * --repeats and --balance_ages, and tell about it (not on AG_META). */
ag_status train_pictures_open(train_pictures *out, ag_ctx *ctx, const train_options *options,
                              const train_folder *folder);
/* n square pictures that are not there, of every age from 1 to 80, round and round: for a forecast. */
ag_status train_pictures_assume(train_pictures *out, ag_ctx *ctx, const train_options *options, int64_t n);
void train_pictures_close(train_pictures *pictures); /* afterwards zeroed */

/* What an epoch goes through; arrays are borrowed, each [n] or NULL (see data_batches_options). */
typedef struct train_samples {
    int64_t n;
    const int64_t *repeats, *buckets, *groups;
    const data_size *boxes; /* of the pictures in a sample; NULL: squares of --resolution */
} train_samples;

/* For a method whose samples are the pictures of one set. */
train_samples train_pictures_samples(const train_pictures *pictures);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_PICTURES_H */
