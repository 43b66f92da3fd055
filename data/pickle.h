/* pickle.h - the part of Python's pickle language that torch.save writes, read as plain data.
 *
 * Nothing is ever executed, imported or called. A pickle is a program for a stack machine; here its
 * instructions build a tree of plain values, a handful of global names stand for tensors, storages
 * and dictionaries, and every other global gives an opaque value: what is called on it, set on it
 * or appended to it disappears. Instructions that torch.save does not write are refused.
 *
 * Source  python/cpython: Lib/pickletools.py (the instructions); pytorch/pytorch:
 *         torch/_weights_only_unpickler.py (which of them), torch/_utils.py (_rebuild_tensor_v2).
 *
 * Ownership  A data_pickle owns every value; texts point into the bytes it was read from, which
 *            must outlive it.
 */
#ifndef DATA_PICKLE_H
#define DATA_PICKLE_H

#include "data/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    DATA_PICKLE_BYTES = 64 << 20,
    DATA_PICKLE_TEXT = 1 << 20,  /* longest text */
    DATA_PICKLE_STACK = 1000000, /* and memo */
    DATA_PICKLE_NODES = 2000000, /* lists, tuples, dictionaries, storages */
    DATA_PICKLE_VALUES = 8000000, /* in all of them */
    DATA_PICKLE_TENSORS = 100000,
    DATA_PICKLE_DEPTH = 64
};

typedef enum data_pickle_kind {
    DATA_PICKLE_NONE,
    DATA_PICKLE_BOOL,
    DATA_PICKLE_INT,
    DATA_PICKLE_REAL,
    DATA_PICKLE_STRING,
    DATA_PICKLE_TUPLE,
    DATA_PICKLE_LIST,
    DATA_PICKLE_DICT, /* items: key, value, key, value ... */
    DATA_PICKLE_GLOBAL,
    DATA_PICKLE_STORAGE,
    DATA_PICKLE_TENSOR,
    DATA_PICKLE_OPAQUE
} data_pickle_kind;

typedef struct data_pickle_value {
    data_pickle_kind kind;
    uint32_t n; /* bytes of a text */
    union {
        int64_t integer; /* and BOOL; of GLOBAL, which */
        double real;
        const char *text; /* no zero at its end */
        struct data_pickle_items *items; /* TUPLE, LIST, DICT; NULL when empty */
        const struct data_pickle_storage *storage;
        const struct data_pickle_tensor *tensor;
    } as;
} data_pickle_value;

typedef struct data_pickle_items {
    data_pickle_value *values;
    uint32_t n, room;
    int depth; /* 1 + the deepest of what it holds */
} data_pickle_items;

/* One storage: a run of numel values under a key of the archive. */
typedef struct data_pickle_storage {
    data_dtype dtype;
    const char *key; /* n_key bytes */
    uint32_t n_key;
    int64_t numel;
} data_pickle_storage;

/* A view of a storage. All numbers are >= 0; nothing is known yet of what lies in the storage. */
typedef struct data_pickle_tensor {
    const data_pickle_storage *storage;
    int64_t offset; /* in elements */
    int n_dims;
    int64_t dims[DATA_TENSOR_DIMS], strides[DATA_TENSOR_DIMS];
} data_pickle_tensor;

typedef struct data_pickle data_pickle;

/* Read a pickle that takes all of the n bytes. `name` stands for the file in messages.
 * AG_EDATA naming the byte where it goes wrong. */
ag_status data_pickle_read(data_pickle **out, ag_ctx *ctx, const char *name, const uint8_t *bytes,
                           size_t n);
void data_pickle_free(data_pickle *pickle); /* NULL is fine */

const data_pickle_value *data_pickle_top(const data_pickle *pickle);
int64_t data_pickle_length(const data_pickle_value *value); /* of items; pairs count as two */
const data_pickle_value *data_pickle_item(const data_pickle_value *value, int64_t i);
bool data_pickle_is_text(const data_pickle_value *value, const char *text);

#ifdef __cplusplus
}
#endif

#endif /* DATA_PICKLE_H */
