/* ages.h - how old the person in each picture is.
 *
 * Three sources, told apart by content:
 *   .npy   a text array [N, >= 2] of (file name, age); age as Python's int() takes it (blanks
 *          around it and a sign allowed), so "35.0" is refused by name (spec: fading.md 2.2)
 *   .csv   FFHQ-Aging's labels, columns found by name; the age is the one of the age group (spec:
 *          ffhq-aging.md 9) and the name is the image number as five digits and ".png"
 *   names  of the files of a folder: the whole number before the first underscore
 *          (34_001.jpg and 34.jpg are 34)
 *
 * A row or name whose age is no whole number is kept, with the age NaN: it is wrong only when its
 * picture is used, and then data_set_open() names it with all others, or when data_ages_check()
 * is asked.
 *
 * Ownership  A table owns its names; data_ages_close() ends it.
 */
#ifndef DATA_AGES_H
#define DATA_AGES_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum data_ages_source { DATA_AGES_NPY, DATA_AGES_CSV, DATA_AGES_NAMES } data_ages_source;

typedef struct data_ages {
    data_ages_source source;
    int64_t n;
    char **names;         /* [n], in the order of the file (a folder: sorted by bytes) */
    float *ages;          /* [n], years; NaN: cannot be read */
    char **texts;         /* [n], what stood in place of an age that is NaN, else NULL */
    char *genders;        /* [n], 'f', 'm', or 0: not known. Of a CSV's column "gender" */
    int64_t *order;       /* [n]: indices sorted by name, then by place; for data_ages_find */
    int64_t n_unreadable; /* ages that are NaN */
    int64_t n_bad;        /* CSV: rows left out because their age group is unknown */
    int64_t n_duplicates; /* CSV: rows replaced by a later one with the same number */
    char *first_bad;      /* the line and text of the first such row; NULL when none */
} data_ages;

/* Read a label file. Rows of a CSV with an unknown age group are left out and counted (an error
 * when none is left); other nonsense in one is an error naming the row. */
ag_status data_ages_open(data_ages *ages, ag_ctx *ctx, const char *path);

/* Take the ages from the names of the pictures in a folder. */
ag_status data_ages_from_names(data_ages *ages, ag_ctx *ctx, const char *dir);

/* AG_EDATA naming the rows whose age cannot be read, when there are any; `path` is where the table
 * came from. */
ag_status data_ages_check(const data_ages *ages, ag_ctx *ctx, const char *path);

void data_ages_close(data_ages *ages); /* afterwards zeroed; NULL is fine */

/* Look up a file name (without folders). The text must be equal, and the first matching row wins;
 * in a CSV only the part before the extension counts. Returns the index, or -1. */
int64_t data_ages_find(const data_ages *ages, const char *name);

/* The age a file name begins with: see the top. False when it has none. */
bool data_age_of_name(int64_t *age, const char *name);

/* A list of wrong things for one message: "a.png (none), b.png (\"x\")". All are named, until the text is
 * full: some two hundred files; " and 3 more" counts the rest. */
typedef struct data_offenders {
    int64_t n, n_named;
    char text[12000];
} data_offenders;

/* Add one: its name, and what was found in place of an age; NULL: nothing. */
void data_offenders_add(data_offenders *list, const char *name, const char *found);
/* Write the end once all are added; returns list->text. */
const char *data_offenders_end(data_offenders *list);

#ifdef __cplusplus
}
#endif

#endif /* DATA_AGES_H */
