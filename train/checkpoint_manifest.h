/* checkpoint_manifest.h - manifest.json: what a checkpoint's files must be, byte for byte.
 *
 *   format, format_version   "agewright-checkpoint", 1
 *   update, created          updates made; when, UTC
 *   configuration            the whole effective configuration of the run
 *   versions, machine        of the program, libhdf5 and oneDNN; instruction set, device, threads
 *   files                    [{name, size, sha256}]
 *   tensors                  [{name, file, dtype, shape, crc32c}], file: a number of the list above
 *   manifest_sha256          of this file's own bytes with these 64 digits taken as zeros
 *
 * So every byte of a checkpoint is under some sum. The sums find damage; they are no signature.
 * For files in train/, and for those who list checkpoints.
 */
#ifndef TRAIN_CHECKPOINT_MANIFEST_H
#define TRAIN_CHECKPOINT_MANIFEST_H

#include <jansson.h>

#include "autograd/tensor.h"
#include "data/checksum.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRAIN_MANIFEST_NAME "manifest.json"

typedef struct train_manifest_file {
    const char *name; /* inside the folder */
    int64_t size;
    const char *sha256;
} train_manifest_file;

typedef struct train_manifest_tensor {
    const char *name;
    int64_t file;
    ag_dtype dtype; /* f32, f64, i64 or u8 */
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
    uint32_t crc32c;
} train_manifest_tensor;

typedef struct train_manifest {
    char *folder;
    json_t *root; /* owns the texts */
    int64_t update;
    int64_t n_files, n_tensors;
    train_manifest_file *files;
    train_manifest_tensor *tensors;
} train_manifest;

/* Read a folder's manifest and check it against its own sum. AG_EIO when there is none, AG_EDATA
 * when it is damaged; the files are not looked at. */
ag_status train_manifest_open(train_manifest *out, ag_ctx *ctx, const char *folder);
void train_manifest_close(train_manifest *manifest); /* all zeros are fine */

/* Does the checkpoint hold a tensor of this name? */
bool train_manifest_has(const train_manifest *manifest, const char *name);

/* Check that every file is there with its size and sum. AG_EDATA or AG_EIO naming the first that
 * is not. Reads all of them, with the context's threads. */
ag_status train_manifest_check(ag_ctx *ctx, const train_manifest *manifest);

/* Write it: adds manifest_sha256 to root, then writes, flushes, renames. */
ag_status train_manifest_write(ag_ctx *ctx, const char *folder, json_t *root);

/* The size and SHA-256 of `n` files of a folder, with the context's threads. */
typedef struct train_sum {
    const char *name;
    int64_t size;
    char sha256[DATA_SHA256_TEXT];
    int error; /* an errno value; 0: size and sum are right */
} train_sum;
ag_status train_sum_files(ag_ctx *ctx, const char *folder, train_sum *sums, int64_t n);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_CHECKPOINT_MANIFEST_H */
