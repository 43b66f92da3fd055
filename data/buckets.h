/* buckets.h - shapes for pictures that are not square: about one area, many aspect ratios.
 *
 * For a resolution R the boxes are those whose sides are multiples of the step, lie within the
 * bounds, have an area of R x R at most, and where one side could not be a step longer; and the
 * largest square. A picture belongs to the box whose aspect ratio it has to change least, by the
 * ratio of the two ratios; of equals the larger box, then the wider.
 *
 * Source  kohya-ss/sd-scripts: library/model_util.py (make_bucket_resolutions), which has the same
 *         boxes for R = 512, step 64, sides 256 to 1024; it takes the difference of the ratios, which
 *         treats tall pictures otherwise than wide ones (NovelAI 2022, "aspect ratio bucketing").
 */
#ifndef DATA_BUCKETS_H
#define DATA_BUCKETS_H

#include "data/resample.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_buckets {
    int64_t n;
    data_size *boxes; /* [n], by width, then by height */
} data_buckets;

/* least 0: R / 2; most 0: 2 R. AG_EINVAL when no box fits. */
ag_status data_buckets_make(data_buckets *out, ag_ctx *ctx, int64_t R, int64_t step, int64_t least, int64_t most);
void data_buckets_close(data_buckets *buckets); /* afterwards zeroed; NULL is fine */

/* The box of a picture. */
int64_t data_buckets_find(const data_buckets *buckets, data_size picture);

#ifdef __cplusplus
}
#endif

#endif /* DATA_BUCKETS_H */
