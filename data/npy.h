/* npy.h - NumPy's .npy files: numbers and text, read by a parser that executes nothing.
 *
 * Format versions 1 to 3, either byte order, C and Fortran order (numpy/numpy:
 * numpy/lib/format.py). Objects (pickles), records and unnamed raw bytes are refused by name.
 *
 * Ownership  A data_npy owns its elements; data_npy_free() ends it.
 */
#ifndef DATA_NPY_H
#define DATA_NPY_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATA_NPY_MAX_DIMS = 32, DATA_NPY_MAX_HEADER = 10000 };

typedef struct data_npy {
    char kind;         /* 'b' bool, 'i', 'u', 'f', 'c' numbers, 'U' and 'S' text */
    bool big_endian;   /* of the elements as stored */
    bool fortran;      /* first index fastest */
    int64_t item_size; /* bytes of one element */
    int n_dims;
    int64_t dims[DATA_NPY_MAX_DIMS];
    int64_t n_items;    /* product of dims */
    uint8_t *items;     /* n_items * item_size bytes, as stored */
    int64_t n_trailing; /* bytes after the array, which were ignored */
} data_npy;

ag_status data_npy_read(data_npy *npy, ag_ctx *ctx, const char *path);
/* The same from memory; `name` stands for the file in messages. */
ag_status data_npy_decode(data_npy *npy, ag_ctx *ctx, const void *bytes, size_t n_bytes,
                          const char *name);
void data_npy_free(data_npy *npy); /* afterwards zeroed; NULL is fine */

/* Where element (i, j, ...) in reading order `index` (C order: last index fastest) is stored. */
int64_t data_npy_offset(const data_npy *npy, int64_t index);

/* Element `index` (C order) of a text array as UTF-8, for ag_delete(). Trailing zeros are
 * padding; U values beyond 0x10FFFF, surrogates and inner zeros are AG_EDATA, as are S elements
 * that are not UTF-8. NULL (and failed) otherwise; `name` stands for the file in messages. */
char *data_npy_text(ag_ctx *ctx, const data_npy *npy, int64_t index, const char *name);

/* Element `index` (C order) of a bool, integer or float array as double. */
double data_npy_number(const data_npy *npy, int64_t index);

/* Write a [n, 2] array of text, version 1.0, "<U" as wide as the longest element (at least
 * min_width; 21 is what NumPy gives for names beside ages). cells: n * 2 UTF-8 texts, row by row.
 */
ag_status data_npy_write_text2(ag_ctx *ctx, const char *path, const char *const *cells, int64_t n,
                               int64_t min_width);
/* The same into memory; *bytes is for ag_delete(). */
ag_status data_npy_encode_text2(uint8_t **bytes, size_t *n_bytes, ag_ctx *ctx,
                                const char *const *cells, int64_t n, int64_t min_width);

#ifdef __cplusplus
}
#endif

#endif /* DATA_NPY_H */
