/* checkpoint_hdf5.h - HDF5 files of named tensors: written once and closed, read strictly.
 *
 * Every tensor is one dataset of the root group with the tensor's name and shape, little-endian,
 * in chunks of about a megabyte that carry Fletcher32 sums; its attribute "crc32c" is the CRC-32C
 * of all its values. Metadata is of the format that carries checksums (HDF5 1.10's). h5py reads the
 * files.
 *
 * libhdf5 1.10 crashes when the process ends if closing a file met a write error. So it writes
 * through a driver of ours that remembers the first error and reports none: libhdf5 always
 * closes cleanly, and train_h5_finish() tells.
 *
 * A reader is for files whose SHA-256 was found right (checkpoint_manifest.h): libhdf5 can be
 * crashed by damaged metadata. Links, virtual and external storage and filters other than
 * Fletcher32 are refused, so that a file cannot lead to another file or load code.
 *
 * Threads    libhdf5 is not built for threads everywhere; every call into it takes one lock.
 * For files in train/ only.
 */
#ifndef TRAIN_CHECKPOINT_HDF5_H
#define TRAIN_CHECKPOINT_HDF5_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The room a tensor takes in a file at most, without the file's own few kilobytes. */
uint64_t train_h5_room(ag_dtype dtype, int n_dims, const int64_t *dims);
enum { TRAIN_H5_FILE_ROOM = 1 << 16 };

/* --- writing ---------------------------------------------------------------------------------- */

typedef struct train_h5_writer train_h5_writer;

/* Make a new file (AG_EIO when there is one) and ask the file system for expected_bytes at once.
 * ctx and path must outlive the writer. */
ag_status train_h5_create(train_h5_writer **out, ag_ctx *ctx, const char *path,
                          uint64_t expected_bytes);

/* Add a tensor, f32, f64, i64 or u8, straight from its values in host memory.
 * AG_EDTYPE for other types; AG_EINVAL for a name that HDF5 cannot keep flat ('/', "", "."). */
ag_status train_h5_put(train_h5_writer *writer, const char *name, ag_dtype dtype, int n_dims,
                       const int64_t *dims, const void *values, uint32_t crc32c);

/* Close the file, flush it to disk, end the writer: AG_EIO when any byte of it could not be
 * written. NULL is AG_OK. The file itself stays, whole or not. */
ag_status train_h5_finish(train_h5_writer *writer);

/* Pretend that the disk is full after so many bytes. For tests. */
void train_h5_set_limit(train_h5_writer *writer, int64_t bytes);

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct train_h5_reader train_h5_reader;

ag_status train_h5_open(train_h5_reader **out, ag_ctx *ctx, const char *path);
void train_h5_close(train_h5_reader *reader); /* NULL is fine */

/* Read a dataset of exactly this type and shape into `values`. AG_EDATA naming it otherwise. */
ag_status train_h5_get(train_h5_reader *reader, const char *name, ag_dtype dtype, int n_dims,
                       const int64_t *dims, void *values);

const char *train_h5_version(char *text, size_t size); /* of libhdf5, "1.10.8" */

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_CHECKPOINT_HDF5_H */
