/* folder_check.h - a folder for a test's files: made, filled, removed. */
#ifndef TESTS_FOLDER_CHECK_H
#define TESTS_FOLDER_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <ftw.h>

#include "autograd/context.h"
#include "data/text_file.h"

/* A new empty folder below $TMPDIR or /tmp; the path is the caller's (free). */
static inline char *check_folder_new(void)
{
    const char *parent = getenv("TMPDIR");
    char *path = NULL;

    assert_true(asprintf(&path, "%s/agewright-test-XXXXXX", parent && *parent ? parent : "/tmp") >
                0);
    assert_non_null(mkdtemp(path));
    return path;
}

static inline int check_remove_one(const char *path, const struct stat *info, int kind,
                                   struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

static inline void check_folder_remove(char *path)
{
    assert_int_equal(nftw(path, check_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(path);
}

/* folder/name, in a buffer that the next call but seven overwrites. */
static inline const char *check_path(const char *folder, const char *name)
{
    static char paths[8][4096];
    static int next;

    next = (next + 1) % 8;
    snprintf(paths[next], sizeof paths[next], "%s/%s", folder, name);
    return paths[next];
}

/* Write folder/name, with the folders on the way. */
static inline void check_write(ag_ctx *ctx, const char *folder, const char *name, const char *text)
{
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    *strrchr(path, '/') = 0;
    assert_int_equal(data_folder_make(ctx, path), AG_OK);
    path[strlen(path)] = '/';
    assert_int_equal(data_file_write(ctx, path, text, strlen(text)), AG_OK);
}

/* Fail unless the call failed with `status` and a one-line message that contains `words`. */
static inline void check_failed(ag_ctx *ctx, ag_status got, ag_status status, const char *words)
{
    if (got != status || !strstr(ag_message(ctx), words) || strchr(ag_message(ctx), '\n'))
        fail_msg("wanted status %d and \"%s\", got %d: %s", status, words, got, ag_message(ctx));
    ag_clear(ctx);
}

static inline void check_ok(ag_ctx *ctx, ag_status got)
{
    if (got != AG_OK || ag_status_of(ctx) != AG_OK)
        fail_msg("failed (%d): %s", got, ag_message(ctx));
}

#endif /* TESTS_FOLDER_CHECK_H */
