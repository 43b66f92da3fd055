/* text_file.h - whole small files in and out: bounded on the way in, never half on the way out. */
#ifndef DATA_TEXT_FILE_H
#define DATA_TEXT_FILE_H

#include <stddef.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Read a regular file of at most max_bytes. *out has one more byte than *out_size, a zero, and
 * belongs to the caller (ag_delete). AG_EIO when it cannot be opened or read or is no regular
 * file, AG_EDATA when it is larger. */
ag_status data_file_read(char **out, size_t *out_size, ag_ctx *ctx, const char *path,
                         size_t max_bytes);

/* Write beside the final name, flush to disk, rename, flush the folder: after a crash the old
 * file or the new one is there, whole. On failure nothing is left beside. */
ag_status data_file_write(ag_ctx *ctx, const char *path, const void *bytes, size_t size);

/* Make a folder, with its parents, where it does not exist. */
ag_status data_folder_make(ag_ctx *ctx, const char *path);

#ifdef __cplusplus
}
#endif

#endif /* DATA_TEXT_FILE_H */
