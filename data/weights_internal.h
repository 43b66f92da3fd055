/* weights_internal.h - what the readers of the formats share with data/weights.c.
 *
 * A reader adds one record a tensor; data/weights.c sorts the names and serves the questions. For
 * files in data/ only.
 */
#ifndef DATA_WEIGHTS_INTERNAL_H
#define DATA_WEIGHTS_INTERNAL_H

#include "data/file.h"
#include "data/weights.h"

typedef struct weight_record {
    data_tensor told;
    const int64_t *strides; /* in elements; NULL where the values lie row-major */
    uint64_t at;            /* in its file: the first value */
    int64_t file;
    int64_t member; /* the archive member that holds it, or -1 */
} weight_record;

typedef enum weight_verdict { WEIGHT_UNCHECKED, WEIGHT_GOOD, WEIGHT_DAMAGED } weight_verdict;

typedef struct weight_member {
    const char *name;
    uint64_t at, size;
    uint32_t crc;
    int64_t file;
    weight_verdict verdict;
} weight_member;

typedef struct weight_block weight_block; /* small things, all freed together */

struct data_weights {
    char *path;
    data_file *files;
    int64_t n_files;
    weight_record *records;
    int64_t n_records, room_records;
    int64_t *by_name; /* record indices, sorted by name */
    data_pair *metadata;
    int64_t n_metadata;
    weight_member *members;
    int64_t n_members;
    weight_block *blocks;
};

/* A handle with room for n_files files, for data_weights_close(). NULL when memory is refused. */
data_weights *weights_new(ag_ctx *ctx, const char *path, int64_t n_files);
/* All tensors are known: sort their names, and refuse a name that stands for two. */
ag_status weights_index_names(ag_ctx *ctx, data_weights *w);

/* Memory that ends with the handle. NULL and a failed context when refused. */
void *weights_take(ag_ctx *ctx, data_weights *w, size_t n_bytes);
char *weights_text(ag_ctx *ctx, data_weights *w, const char *text, size_t n_bytes);

/* A new zeroed record; told.name, told.dims and strides are for the caller to take from above. */
weight_record *weights_add(ag_ctx *ctx, data_weights *w);
ag_status weights_add_metadata(ag_ctx *ctx, data_weights *w, const char *key, const char *value);

/* The dtype of safetensors' name for it and its bits an element (0: nobody knows it). */
data_dtype weights_dtype_of(const char *name, size_t n_bytes, int *bits);

/* A name from a file, made fit for a message: cut, and with '?' for what is not printable ASCII. */
enum { WEIGHTS_SHOWN = 120 };
const char *weights_shown(char shown[WEIGHTS_SHOWN], const char *name, size_t n_bytes);
bool weights_is_utf8(const char *text, size_t n_bytes); /* and without zeros */

/* The readers: list the tensors of w->files[file]. */
ag_status weights_scan_safetensors(ag_ctx *ctx, data_weights *w, int64_t file);
ag_status weights_scan_torch(ag_ctx *ctx, data_weights *w, int64_t file);

/* n elements of a record whose values do not lie row-major, from element `first`. 0 or errno. */
int weights_gather(const data_file *file, const weight_record *record, int64_t first, int64_t n,
                   void *to);

#endif /* DATA_WEIGHTS_INTERNAL_H */
