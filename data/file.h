/* file.h - files too large to hold: read at a place, written as a stream, listed, summed.
 *
 * Whole small files are data/text_file.h; sums of bytes are data/checksum.h.
 */
#ifndef DATA_FILE_H
#define DATA_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"
#include "data/checksum.h"
#include "data/text_file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct data_file {
    int fd; /* -1: closed */
    uint64_t size;
    char *path; /* for messages */
    bool borrowed; /* fd is somebody else's */
} data_file;

/* Open a regular file for reading. AG_EIO naming path: cannot be opened, a folder, ... */
ag_status data_file_open(data_file *out, ag_ctx *ctx, const char *path);
/* The same over a descriptor that stays the caller's. */
ag_status data_file_borrow(data_file *out, ag_ctx *ctx, int fd, const char *name);
void data_file_close(data_file *file); /* a file full of zeros, or closed already, is fine */

/* Read exactly n bytes from byte `at`. Any number of threads at once. Returns 0 or an errno value;
 * ENODATA when the file ends before. */
int data_file_pread(const data_file *file, uint64_t at, size_t n, void *to);
/* The same with a message: AG_EIO naming the file. */
ag_status data_file_get(ag_ctx *ctx, const data_file *file, uint64_t at, size_t n, void *to);

/* Fill `to` from a file of exactly n bytes, taking no memory; false when there is none of that size. */
bool data_file_fetch(const char *path, size_t n, void *to);

/* --- writing ---------------------------------------------------------------------------------- */

/* A file that appears under its name whole or not at all: written beside, flushed, renamed, the
 * folder flushed. A crash leaves the old file or the new one. */
typedef struct data_writer data_writer;

/* Begin. expected_bytes > 0 asks the file system for that much at once, so that a full disk is
 * found before work is done. AG_EIO naming path. */
ag_status data_writer_open(data_writer **out, ag_ctx *ctx, const char *path,
                           uint64_t expected_bytes);
/* Append. After a failure the writer takes no more, and data_writer_close() fails too. */
ag_status data_writer_put(data_writer *writer, const void *bytes, size_t n);
/* Bytes appended so far. */
uint64_t data_writer_size(const data_writer *writer);
/* Finish and end the writer: flush and rename. On failure nothing is left beside and an older file
 * under the name is untouched. NULL is AG_OK. */
ag_status data_writer_close(data_writer *writer);
/* End the writer without a file. NULL is fine. */
void data_writer_abandon(data_writer *writer);

/* --- folders ---------------------------------------------------------------------------------- */

/* Names of the files in a folder (links to files count, folders do not, nor names that begin with
 * a dot), sorted by bytes.
 * endings  NULL for all, else a list ended by NULL, e.g. {".png", ".jpg", NULL}; letters' case is
 * ignored *names   *n names; the list and the names are one block: ag_delete(*names)
 * AG_EIO when the folder cannot be read. */
ag_status data_folder_list(char ***names, int64_t *n, ag_ctx *ctx, const char *path,
                           const char *const *endings);

bool data_is_folder(const char *path);
bool data_is_file(const char *path); /* a regular file, or a link to one */

#ifdef __cplusplus
}
#endif

#endif /* DATA_FILE_H */
