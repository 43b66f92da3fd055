/* csv.h - comma-separated values (RFC 4180), read whole.
 *
 * A UTF-8 byte order mark, LF or CRLF, quoted fields with doubled quotes and line breaks inside,
 * and blank lines (skipped) are understood. Every row must have as many fields as the first, which
 * is the header.
 *
 * Ownership  A data_csv owns its text; cells are borrowed. data_csv_free() ends it.
 */
#ifndef DATA_CSV_H
#define DATA_CSV_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATA_CSV_MAX_COLUMNS = 256, DATA_CSV_MAX_BYTES = 256 << 20 };

typedef struct data_csv {
    int n_cols;
    int64_t n_rows;      /* without the header */
    const char **header; /* [n_cols] */
    const char **cells;  /* [n_rows, n_cols] */
    int64_t *lines;      /* [n_rows]: the line a row begins on, from 1 */
    char *text;          /* what the cells point into */
} data_csv;

ag_status data_csv_read(data_csv *csv, ag_ctx *ctx, const char *path);
/* The same from memory; `name` stands for the file in messages. */
ag_status data_csv_decode(data_csv *csv, ag_ctx *ctx, const void *bytes, size_t n_bytes,
                          const char *name);
void data_csv_free(data_csv *csv); /* afterwards zeroed; NULL is fine */

int data_csv_column(const data_csv *csv, const char *name); /* -1 when there is none */

#ifdef __cplusplus
}
#endif

#endif /* DATA_CSV_H */
