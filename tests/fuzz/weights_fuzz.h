/* weights_fuzz.h - what the fuzz targets of weight files share: open bytes, read what they hold. */
#ifndef TESTS_FUZZ_WEIGHTS_FUZZ_H
#define TESTS_FUZZ_WEIGHTS_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "data/weights.h"

enum { FUZZ_READ_BYTES = 1 << 16, FUZZ_MOST_VALUES = 4096 };

/* The largest whole number up to FUZZ_MOST_VALUES that stands before a ']'. */
static inline size_t fuzz_n_values(const uint8_t *header, size_t n)
{
    size_t most = 0, number = 0;

    for (size_t i = 0; i < n; i++) {
        if (header[i] >= '0' && header[i] <= '9' && number <= FUZZ_MOST_VALUES)
            number = 10 * number + header[i] - '0';
        else if (header[i] == ']' && number <= FUZZ_MOST_VALUES && number > most)
            most = number;
        if (header[i] < '0' || header[i] > '9')
            number = 0;
    }
    return most;
}

/* The safetensors file that an input stands for, for free(). An input that begins with '{' is a header only: its length
 * is put before it and as many values after it as its largest offset asks for, so that most inputs get past the first
 * checks. Any other input is a file as it is. NULL: no memory. */
static inline uint8_t *fuzz_safetensors_file(const uint8_t *bytes, size_t n, uint8_t value, size_t *n_file)
{
    const bool is_header = n > 0 && *bytes == '{';
    const size_t n_values = is_header ? fuzz_n_values(bytes, n) : 0, before = is_header ? 8 : 0;
    uint8_t *file = malloc(before + n + n_values + 1);

    *n_file = before + n + n_values;
    if (!file)
        return NULL;
    for (size_t i = 0; i < before; i++)
        file[i] = (uint8_t)(n >> 8 * i);
    if (n > 0)
        memcpy(file + before, bytes, n);
    memset(file + before + n, value, n_values);
    return file;
}

/* Everything a caller does with one tensor; abort() where the answers contradict each other. */
static inline void fuzz_tensor(ag_ctx *ctx, data_weights *w, int64_t i)
{
    const data_tensor *t = data_weights_at(w, i);
    const size_t size = data_dtype_size(t->dtype);
    int64_t n_values = 1;
    uint8_t *whole, *piece;

    if (data_weights_find(w, t->name) != i || t->n_dims < 0 || t->n_dims > DATA_TENSOR_DIMS)
        abort();
    for (int d = 0; d < t->n_dims; d++)
        n_values *= t->dims[d];
    if (n_values != t->n_values || (size > 0 && (size_t)n_values * size != t->n_bytes))
        abort();
    if (t->n_bytes > FUZZ_READ_BYTES)
        return;
    whole = malloc(t->n_bytes + 1);
    piece = malloc(4 * t->n_bytes + 1); /* as f32, at most 4 bytes for each one of an I8 */
    if (whole && piece && data_weights_read(ctx, w, i, whole) == AG_OK) {
        const size_t half = size ? t->n_bytes / size / 2 * size : 0;

        if (data_weights_pread(w, i, half, t->n_bytes - half, piece) != 0 ||
            memcmp(piece, whole + half, t->n_bytes - half) != 0)
            abort();
        (void)data_weights_read_f32(ctx, w, i, (float *)(void *)piece);
    }
    ag_clear(ctx);
    free(whole);
    free(piece);
}

/* The one context and the one file of all inputs (they cost more than an input does), with these bytes in it. */
static inline int fuzz_open(ag_ctx **out, const void *bytes, size_t n)
{
    static int fd = -1;
    static ag_ctx *ctx;

    if (!ctx) {
        ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
        fd = memfd_create("input", 0);
        if (!ctx || fd < 0)
            abort();
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, n, 0) != (ssize_t)n)
        abort();
    *out = ctx;
    return fd;
}

static inline void fuzz_weights(const void *bytes, size_t n)
{
    ag_ctx *ctx;
    const int fd = fuzz_open(&ctx, bytes, n);
    data_weights *w = NULL;

    if (data_weights_open_fd(&w, ctx, fd, "input") == AG_OK) {
        for (int64_t i = 0; i < data_weights_count(w); i++)
            fuzz_tensor(ctx, w, i);
        for (int64_t i = 0; i < data_weights_n_metadata(w); i++)
            if (!data_weights_metadata(w, data_weights_metadata_at(w, i).key))
                abort();
        data_weights_close(w);
    } else if (w || ag_status_of(ctx) == AG_OK || !*ag_message(ctx)) {
        abort();
    }
    ag_clear(ctx);
}

#endif /* TESTS_FUZZ_WEIGHTS_FUZZ_H */
