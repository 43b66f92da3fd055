/* age_groups.h - FFHQ-Aging's ten groups of ages, and how a set of pictures spreads over them.
 *
 * The groups are those of the data set's labels (spec: ffhq-aging.md 2.1), by which sets are told
 * about and balanced: narrow where a face changes quickly, wide where it does not.
 */
#ifndef DATA_AGE_GROUPS_H
#define DATA_AGE_GROUPS_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATA_AGE_GROUPS = 10 };

const char *data_age_group_name(int group); /* "0-2", "3-6", ... "70-120" */
/* The group of an age in years: 0 to 9. Below 0 it is the first, above 120 the last. */
int data_age_group(float age);

/* The age that stands for a group by its name ("0-2" 1, "3-6" 5, ... "70-120" 80), or -1 for any
 * other text (source: MunchkinChen/FADING, first release). */
int data_age_of_group(const char *name);

/* Who is in a set. Begin with {0} and add. */
typedef struct data_age_stats {
    int64_t n, groups[DATA_AGE_GROUPS];
    int64_t n_female, n_male; /* the others are not known */
    double sum;
    float youngest, oldest;
} data_age_stats;

void data_age_stats_add(data_age_stats *stats, float age, char gender);

/* "12 pictures, ages 1 to 80, mean 34.5 (0-2: 3, 3-6: 0, ...), 5 female, 7 male" for
 * ag_delete(). */
char *data_age_stats_text(ag_ctx *ctx, const data_age_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* DATA_AGE_GROUPS_H */
