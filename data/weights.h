/* weights.h - tensors in weight files, whatever the file: one handle to list and read them.
 *
 * Opens
 *   a safetensors file;
 *   a torch file (.bin .pt .pth .ckpt), that is a zip archive with a pickle; nothing in it is ever
 *     executed. A nested `state_dict` is opened, repeatedly, and its prefix dropped. Tensors that
 *     stand directly beside one are kept (SAM's latent_avg), other nests beside one are left out
 *     (optimizers, callbacks). Where there is no state_dict, nested dictionaries give dotted names
 *     (g_ema.conv1.weight). What is no tensor is left out;
 *   an index of shards, *.index.json, with the shards it names;
 *   a folder of one component (diffusers, transformers): data_weights_open_folder().
 * A file is told by its content, an index by its ending. Everything is checked before it is
 * believed: after opening, every tensor lies inside its file, and shapes, sizes and offsets agree.
 *
 * Ownership  The handle owns everything it hands out and keeps its files open until it is closed.
 *            Files are read with pread into the caller's memory: no map (a file cut short while
 *            mapped would kill the process), no copy of the file.
 * Threads    Opening, checking and closing belong to one thread. data_weights_pread() may be
 *            called from any number of threads at once.
 */
#ifndef DATA_WEIGHTS_H
#define DATA_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    DATA_TENSOR_DIMS = 16,         /* most axes of a stored tensor */
    DATA_TENSOR_NAME = 1024,       /* longest name, in bytes */
    DATA_TENSORS_PER_FILE = 1000000
};

typedef enum data_dtype {
    DATA_F64,
    DATA_F32,
    DATA_F16,
    DATA_BF16,
    DATA_I64,
    DATA_I32,
    DATA_I16,
    DATA_I8,
    DATA_U8,
    DATA_BOOL,
    DATA_OTHER_DTYPE, /* F8_E4M3 and the like: listed, never read */
    DATA_N_DTYPES
} data_dtype;

size_t data_dtype_size(data_dtype dtype);      /* bytes of one element; 0 for DATA_OTHER_DTYPE */
const char *data_dtype_name(data_dtype dtype); /* as safetensors spells it: "F32", "BF16", ... */
bool data_dtype_is_float(data_dtype dtype);    /* F64, F32, F16 or BF16 */
/* Between the dtypes of files and those of tensors; false where there is no partner (I16, I8,
 * BOOL, other). */
bool data_dtype_to_ag(ag_dtype *out, data_dtype dtype);
bool data_dtype_from_ag(data_dtype *out, ag_dtype dtype);

/* What a file says of one tensor. */
typedef struct data_tensor {
    const char *name;
    data_dtype dtype;
    const char *dtype_name; /* as the file spells it; of a torch file, as safetensors would */
    int n_dims;
    const int64_t *dims;
    int64_t n_values; /* product of dims */
    size_t n_bytes;   /* of the row-major values */
} data_tensor;

typedef struct data_pair {
    const char *key, *value;
} data_pair;

typedef struct data_weights data_weights;

/* --- open ------------------------------------------------------------------------------------- */

/* Open a weight file or an index of shards; a folder is opened as by data_weights_open_folder()
 * without a variant. AG_EIO when it cannot be opened or read, AG_EDATA naming file and place when
 * it is not what it should be (a git-lfs pointer and a torch file older than 1.6 are told apart),
 * AG_EUNSUPPORTED for what is valid and not read (compressed archives, big-endian values). */
ag_status data_weights_open(data_weights **out, ag_ctx *ctx, const char *path);

/* Open the weights of one component's folder. In this order: an index, safetensors, torch; with
 * the names diffusion_pytorch_model, model, pytorch_model.
 * variant  NULL or "" for the plain files, else e.g. "fp16": NAME.fp16.safetensors, and for
 *          indices both NAME.safetensors.index.fp16.json and the older
 *          NAME.safetensors.fp16.index.json.
 * AG_EIO when there is no such file, naming the folder and the variants that are there. */
ag_status data_weights_open_folder(data_weights **out, ag_ctx *ctx, const char *folder,
                                   const char *variant);

/* Open what the descriptor `fd` reads (it stays the caller's and must outlive the handle); `name`
 * stands for the file in messages. */
ag_status data_weights_open_fd(data_weights **out, ag_ctx *ctx, int fd, const char *name);

void data_weights_close(data_weights *weights); /* NULL is fine */

/* --- ask -------------------------------------------------------------------------------------- */

const char *data_weights_path(const data_weights *weights); /* what was opened */
int64_t data_weights_count(const data_weights *weights);
/* Tensor i, in the file's order: of offsets in safetensors, of the dictionary in torch files. */
const data_tensor *data_weights_at(const data_weights *weights, int64_t i);
int64_t data_weights_find(const data_weights *weights, const char *name); /* -1: there is none */
/* The file that holds tensor i: a shard's path where there are shards. */
const char *data_weights_file_of(const data_weights *weights, int64_t i);
/* safetensors' __metadata__, in the order of the file; of a torch file, the whole numbers that
 * stand beside a state_dict, in decimal (global_step, epoch). */
int64_t data_weights_n_metadata(const data_weights *weights);
data_pair data_weights_metadata_at(const data_weights *weights, int64_t i);
/* NULL: not there */
const char *data_weights_metadata(const data_weights *weights, const char *key);

/* --- read ------------------------------------------------------------------------------------- */

/* Compare the archive members that hold tensors with their checksums, with all threads;
 * safetensors files have none and cost nothing. Reads each member once and keeps the verdict. Call
 * it before data_weights_pread() is used; the other readers check what they read by themselves.
 * AG_EDATA naming the member that is damaged, AG_EIO. */
ag_status data_weights_check(ag_ctx *ctx, data_weights *weights);

/* Copy the bytes of tensor i, row-major whatever its strides in the file, to `to` (n_bytes of it).
 * AG_EUNSUPPORTED for DATA_OTHER_DTYPE. */
ag_status data_weights_read(ag_ctx *ctx, data_weights *weights, int64_t i, void *to);

/* The values of a floating tensor as f32 (F64 is rounded to nearest even). AG_EDTYPE for others. */
ag_status data_weights_read_f32(ag_ctx *ctx, data_weights *weights, int64_t i, float *to);

/* Copy n_bytes bytes from byte `offset` of tensor i's row-major values. For several threads
 * at once. Returns 0 or an errno value: ERANGE beyond the tensor, ENODATA when the file became
 * shorter, ENOTSUP for DATA_OTHER_DTYPE. Whole elements are wanted where a torch file's strides
 * are not row-major (EINVAL). */
int data_weights_pread(const data_weights *weights, int64_t i, size_t offset, size_t n_bytes,
                       void *to);

/* n values of a floating dtype to f32 and back (rounding to nearest even). */
void data_to_f32(float *to, data_dtype dtype, const void *from, int64_t n);
void data_from_f32(void *to, data_dtype dtype, const float *from, int64_t n);

#ifdef __cplusplus
}
#endif

#endif /* DATA_WEIGHTS_H */
