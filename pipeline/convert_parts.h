/* convert_parts.h - the tensors of a model under their published names, wherever they lie. For
 * files in pipeline/ only.
 */
#ifndef PIPE_CONVERT_PARTS_H
#define PIPE_CONVERT_PARTS_H

#include "data/safetensors.h"
#include "data/single_file.h"
#include "data/weights.h"
#include "pipeline/convert.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A published tensor: a stretch of values of a tensor in a file. */
typedef struct pipe_part {
    data_component component;
    char name[DATA_KEY_MAX];
    const data_weights *weights;
    int64_t tensor, first, n; /* n values of that tensor, from value `first` */
    data_dtype dtype;
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
} pipe_part;

typedef struct pipe_parts {
    data_single model; /* configurations; has[] says which components there are */
    bool is_component; /* the input is one component's folder */
    bool has_schedule; /* the schedule was stated, not assumed */
    data_weights *weights[DATA_N_COMPONENTS];
    int n_weights;
    pipe_part *list;
    int64_t n;
} pipe_parts;

/* List a model's tensors from its folder or from an open single file (which stays the caller's),
 * and compare names and shapes with what the configuration asks for. Position ids, an integer
 * buffer of older files, are listed too. Zeros first; end with pipe_parts_free in any case. */
ag_status pipe_parts_from_folder(pipe_parts *parts, ag_ctx *ctx, const char *path,
                                 const char *variant);
ag_status pipe_parts_from_single(pipe_parts *parts, ag_ctx *ctx, data_weights *weights,
                                 bool use_ema);
void pipe_parts_free(pipe_parts *parts);

/* A part's values as f32; room for part->n. */
ag_status pipe_part_read(ag_ctx *ctx, const pipe_part *part, float *to);

#define PIPE_POSITION_IDS "text_model.embeddings.position_ids"

/* One tensor to write: up to three parts, one after the other. */
enum { PIPE_MAX_STACKED = 3 };
typedef struct pipe_entry {
    char name[DATA_KEY_MAX];
    const char *long_name; /* instead of name, when not NULL; borrowed */
    const pipe_part *part[PIPE_MAX_STACKED];
    int n_parts; /* 0: every value is `fill` */
    double fill;
    data_dtype dtype; /* as written */
    int n_dims;
    int64_t dims[DATA_TENSOR_DIMS];
} pipe_entry;

/* Write n entries to a safetensors file; *n_bytes counts them. edit may be NULL. */
ag_status pipe_write_entries(uint64_t *n_bytes, ag_ctx *ctx, const char *path,
                             const pipe_entry *entries, int64_t n, const data_pair *metadata,
                             int64_t n_metadata, const pipe_edit *edit);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_CONVERT_PARTS_H */
