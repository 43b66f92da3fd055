/* safetensors.h - writing safetensors files. Reading is data/weights.h.
 *
 * The file: 8 bytes, the header's length N, little-endian; N bytes of JSON, name -> {dtype, shape,
 * data_offsets}, padded with spaces to a multiple of 8; the values.
 * Source  safetensors/safetensors: README.md.
 */
#ifndef DATA_SAFETENSORS_H
#define DATA_SAFETENSORS_H

#include "data/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One tensor to write: its values lie at `values`, or `give` is called for them piece by piece, in
 * order. give copies n_bytes bytes from byte `offset` of the row-major values to `to`; a piece is
 * whole elements and at most DATA_PIECE_BYTES. A failure it returns (with its message in the
 * context) ends the writing. */
typedef struct data_source {
    const char *name;
    data_dtype dtype;
    int n_dims;
    const int64_t *dims;
    const void *values; /* or NULL, and then: */
    ag_status (*give)(ag_ctx *ctx, void *user, size_t offset, size_t n_bytes, void *to);
    void *user;
} data_source;

enum { DATA_PIECE_BYTES = 4 << 20 };

/* Write n tensors to `path`: written beside, flushed, renamed; on failure nothing is left.
 *
 * Values are stored in the caller's order, wide elements before narrow ones so that each is
 * aligned to its size, which readers that view the file rely on. Readers address tensors by name.
 * metadata  n_metadata pairs, may be NULL; written with sorted keys. "format": "pt" is added where
 *           the caller gives no format: transformers refuses a file without.
 * AG_EINVAL for a name twice, too long or not UTF-8, a shape or dtype that cannot be written;
 * AG_EIO naming the file when it cannot be written. */
ag_status data_safetensors_write(ag_ctx *ctx, const char *path, const data_source *tensors,
                                 int64_t n, const data_pair *metadata, int64_t n_metadata);

#ifdef __cplusplus
}
#endif

#endif /* DATA_SAFETENSORS_H */
