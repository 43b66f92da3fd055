/* weights_check.h - what the tests of weight files share: contexts, scratch folders, made files. */
#ifndef TESTS_WEIGHTS_CHECK_H
#define TESTS_WEIGHTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "data/file.h"
#include "data/safetensors.h"
#include "data/weights.h"

static inline void check_ok(ag_ctx *ctx, ag_status status)
{
    if (status != AG_OK)
        fail_msg("%s: %s", ag_status_name(status), ag_message(ctx));
}

/* The call failed with `status`, and its message holds `word`. Forgets the failure. */
static inline void check_fails(ag_ctx *ctx, ag_status got, ag_status status, const char *word)
{
    if (got != status || !strstr(ag_message(ctx), word))
        fail_msg("wanted %s and \"%s\", got %s: %s", ag_status_name(status), word,
                 ag_status_name(got), ag_message(ctx));
    ag_clear(ctx);
}

/* A new folder of its own; its name ends with the process. */
static inline const char *check_folder(void)
{
    static char folder[64];

    snprintf(folder, sizeof folder, "/tmp/agewright-weights-XXXXXX");
    assert_non_null(mkdtemp(folder));
    return folder;
}

static inline void check_remove(const char *folder)
{
    char command[128];

    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
}

/* A growing run of bytes, for files made by hand. */
typedef struct bytes {
    uint8_t *at;
    size_t n, room;
} bytes;

static inline void add(bytes *b, const void *from, size_t n)
{
    if (b->room < b->n + n + 1) {
        b->room = 2 * (b->n + n + 1);
        b->at = realloc(b->at, b->room);
        assert_non_null(b->at);
    }
    if (n > 0)
        memcpy(b->at + b->n, from, n);
    b->n += n;
}

static inline void add_number(bytes *b, uint64_t number, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++)
        add(b, &(uint8_t){(uint8_t)(number >> 8 * i)}, 1);
}

/* A safetensors file of this header and n_values bytes 0, 1, 2, ... */
static inline bytes make_safetensors(const char *header, size_t n_values)
{
    bytes b = {0};

    add_number(&b, strlen(header), 8);
    add(&b, header, strlen(header));
    for (size_t i = 0; i < n_values; i++)
        add_number(&b, i, 1);
    return b;
}

/* One stored member of an archive and its entry of the directory. */
static inline void add_member(bytes *zip, bytes *directory, const char *name, const void *from,
                              size_t n)
{
    const uint32_t crc = data_crc32(0, from, n);
    const size_t at = zip->n;

    for (int central = 0; central < 2; central++) {
        bytes *b = central ? directory : zip;

        add(b, central ? "PK\1\2" : "PK\3\4", 4);
        if (central)
            add_number(b, 20, 2);
        add_number(b, 20, 2);
        add_number(b, 0, 2 + 2 + 2 + 2);
        add_number(b, crc, 4);
        add_number(b, n, 4);
        add_number(b, n, 4);
        add_number(b, strlen(name), 2);
        add_number(b, 0, 2);
        if (central) {
            add_number(b, 0, 8);
            add_number(b, 0, 2);
            add_number(b, at, 4);
        }
        add(b, name, strlen(name));
    }
    add(zip, from, n);
}

/* Close the archive; the directory's bytes are freed. */
static inline void end_archive(bytes *zip, bytes *directory, int n_members)
{
    const size_t at = zip->n;

    add(zip, directory->at, directory->n);
    add(zip, "PK\5\6", 4);
    add_number(zip, 0, 4);
    add_number(zip, (uint64_t)n_members, 2);
    add_number(zip, (uint64_t)n_members, 2);
    add_number(zip, directory->n, 4);
    add_number(zip, at, 4);
    add_number(zip, 0, 2);
    free(directory->at);
    *directory = (bytes){0};
}

/* A torch file of this pickle with one storage, "0", of n_values bytes 0, 1, 2, ... */
static inline bytes make_torch(const void *pickle, size_t n_pickle, size_t n_values)
{
    bytes zip = {0}, directory = {0}, values = {0};

    for (size_t i = 0; i < n_values; i++)
        add_number(&values, i, 1);
    add_member(&zip, &directory, "r/data.pkl", pickle, n_pickle);
    add_member(&zip, &directory, "r/data/0", values.at, values.n);
    end_archive(&zip, &directory, 2);
    free(values.at);
    return zip;
}

static inline const char *check_write(const char *folder, const char *name, const void *from,
                                      size_t n)
{
    static char path[256];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(from, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
    return path;
}

/* Compare a file with its .want (scripts/golden_weights.py): every tensor listed is there with its
 * dtype, shape and bytes, and nothing else but n_others. */
static inline void check_against(ag_ctx *ctx, data_weights *w, const char *want, int64_t n_others)
{
    static char line[16384];
    FILE *file = fopen(want, "r");
    int64_t n = 0;

    assert_non_null(file);
    for (; fgets(line, sizeof line, file); n++) {
        char *rest = line, *name = strsep(&rest, "\t"), *dtype = strsep(&rest, "\t"), *dims, *hex;
        const int64_t i = data_weights_find(w, name);
        const data_tensor *t;
        uint8_t *got;
        char shape[128] = "";

        dims = strsep(&rest, "\t");
        hex = strsep(&rest, "\n");
        if (i < 0)
            fail_msg("%s: there is no %s", want, name);
        t = data_weights_at(w, i);
        assert_string_equal(t->name, name);
        assert_string_equal(t->dtype_name, dtype);
        for (int d = 0; d < t->n_dims; d++)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), "%s%lld", d ? "," : "",
                     (long long)t->dims[d]);
        assert_string_equal(shape, dims);
        assert_int_equal(2 * t->n_bytes, strlen(hex));
        got = malloc(t->n_bytes + 1);
        assert_non_null(got);
        check_ok(ctx, data_weights_read(ctx, w, i, got));
        for (size_t k = 0; k < t->n_bytes; k++) {
            unsigned byte;

            assert_int_equal(sscanf(hex + 2 * k, "%2x", &byte), 1);
            if (got[k] != byte)
                fail_msg("%s: %s: byte %zu is %02x, want %02x", want, name, k, got[k], byte);
        }
        free(got);
    }
    fclose(file);
    assert_int_equal(n + n_others, data_weights_count(w));
}

#endif /* TESTS_WEIGHTS_CHECK_H */
