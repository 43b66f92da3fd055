/* image_check.h - what the picture tests share: CRC-32 of pixels, and the lines of
 * tests/golden/images/index.txt (written by scripts/golden_images.py).
 */
#ifndef IMAGE_CHECK_H
#define IMAGE_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "data/image.h"

#define GOLDEN_IMAGES "tests/golden/images/"
#define PHOTOS "../shared/data/photos/"

static inline uint32_t check_crc(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint32_t crc = 0xffffffffu;

    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static inline uint32_t check_image_crc(const data_image *img)
{
    return check_crc(img->pixels, (size_t)(img->w * img->h * 3));
}

/* A new context; the caller frees it. */
static inline ag_ctx *check_context(void)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});

    assert_non_null(ctx);
    assert_int_equal(ag_status_of(ctx), AG_OK);
    return ctx;
}

/* The call must have succeeded; says why not. */
static inline void check_ok(ag_ctx *ctx, ag_status status)
{
    if (status != AG_OK)
        fail_msg("%s: %s", ag_status_name(status), ag_message(ctx));
    assert_int_equal(ag_status_of(ctx), AG_OK);
}

/* The call must have failed so, with these words in its one line; which is then forgotten. */
static inline void check_fails(ag_ctx *ctx, ag_status status, ag_status want, const char *words)
{
    assert_int_equal(status, want);
    assert_int_equal(ag_status_of(ctx), want);
    if (!strstr(ag_message(ctx), words))
        fail_msg("wanted \"%s\" in \"%s\"", words, ag_message(ctx));
    assert_null(strchr(ag_message(ctx), '\n'));
    ag_clear(ctx);
}

/* Call fn with the words after `kind` of every such line; returns how many there were. */
static inline int check_index(const char *kind, void (*fn)(ag_ctx *ctx, const char *rest))
{
    FILE *file = fopen(GOLDEN_IMAGES "index.txt", "r");
    const size_t n = strlen(kind);
    ag_ctx *ctx = check_context();
    char line[256];
    int count = 0;

    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, kind, n) && line[n] == ' ') {
            fn(ctx, line + n + 1);
            count++;
        }
    }
    fclose(file);
    ag_ctx_free(ctx);
    return count;
}

static inline uint8_t *check_load(size_t *n, const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    long size;

    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    rewind(file);
    bytes = malloc((size_t)size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)size, file), size);
    fclose(file);
    *n = (size_t)size;
    return bytes;
}

#endif /* IMAGE_CHECK_H */
