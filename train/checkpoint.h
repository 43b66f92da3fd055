/* checkpoint.h - folders that hold everything a run needs to go on, bit for bit.
 *
 *   checkpoint-<update>/
 *     tensors-000.h5, ...   every tensor, each with its CRC-32C, chunked with Fletcher32
 *     manifest.json         written last: update, every file's size and SHA-256, the whole effective
 *                           configuration, versions, instruction set, device, threads
 *
 * A checkpoint is written as checkpoint-<update>.tmp-<pid>, each file flushed to disk, the folder
 * renamed, its parent flushed: a kill at any moment leaves it whole or not there. The manifest is
 * checked, and the files against it, before the HDF5 library sees a byte.
 */
#ifndef TRAIN_CHECKPOINT_H
#define TRAIN_CHECKPOINT_H

#include <jansson.h>

#include "autograd/tensor.h"
#include "train/checkpoint_manifest.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A named tensor of the run; names are unique. f32, f64, i64, u8. */
typedef struct train_entry {
    const char *name;
    ag_tensor *tensor;
} train_entry;

/* Write output_dir/checkpoint-<update>; then, when keep > 0, delete the oldest until `keep` are left
 * (never the one just written, never before it is whole). `config` goes into the manifest. An existing
 * folder of that name is replaced only when it holds the same update of the same run, or is
 * damaged. AG_EIO (disk full, ...) leaves nothing under the final name. */
ag_status train_checkpoint_write(ag_ctx *ctx, const char *output_dir, int64_t update, const train_entry *entries,
                                 int64_t n, json_t *config, int64_t keep);

/* Find what to resume from. which: "latest" is the newest whole checkpoint in output_dir (newer damaged
 * ones are passed over and named in *passed_over, for a notice); a path, or a name inside
 * output_dir, is that one, and must be whole. found->folder is NULL when "latest" finds none.
 * The caller ends *found (train_manifest_close) and *passed_over (ag_delete). */
ag_status train_checkpoint_find(train_manifest *found, char **passed_over, ag_ctx *ctx, const char *output_dir,
                                const char *which);

/* Read every entry's values back out of a checkpoint that was found, which checked its files. Strict: a tensor
 * missing, extra or misshapen is an error that names it. *config (may be NULL) is the configuration in the
 * manifest, a new reference. */
ag_status train_checkpoint_take(ag_ctx *ctx, const train_manifest *found, const train_entry *entries, int64_t n,
                                json_t **config);
/* Check a folder and take it. */
ag_status train_checkpoint_read(ag_ctx *ctx, const char *folder, const train_entry *entries, int64_t n,
                                json_t **config);

/* A key in which two configurations differ, of those that make a run what it is (not the number of
 * threads, say); NULL when they are of one run. */
const char *train_checkpoint_difference(json_t *a, const json_t *b);

/* Is this folder a whole checkpoint: manifest, sizes and sums? *update is its update then. */
ag_status train_checkpoint_check(int64_t *update, ag_ctx *ctx, const char *folder);

/* Delete every checkpoint in output_dir: for a run that was told to start anew. */
ag_status train_checkpoint_clear(ag_ctx *ctx, const char *output_dir);

/* The largest update among output_dir's checkpoints, whole or not; -1 when there is none. */
int64_t train_checkpoint_newest(ag_ctx *ctx, const char *output_dir);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_CHECKPOINT_H */
