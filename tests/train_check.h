/* train_check.h - what the tests of train/ share: folders that come and go, bytes of files.
 */
#ifndef TESTS_TRAIN_CHECK_H
#define TESTS_TRAIN_CHECK_H

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/check.h"

static inline int check_remove_one(const char *path, const struct stat *info, int kind,
                                   struct FTW *ftw)
{
    (void)info;
    (void)kind;
    (void)ftw;
    return remove(path);
}

/* Delete a folder and all in it. */
static inline void check_remove(const char *path)
{
    nftw(path, check_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A new empty folder's name into `path` [256]; in memory where that is possible, since the tests
 * flush a lot. */
static inline const char *check_folder(char path[256])
{
    const char *tmp = getenv("TMPDIR");

    if (!tmp)
        tmp = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, 256, "%s/agewright-test-XXXXXX", tmp);
    assert_non_null(mkdtemp(path));
    return path;
}

/* "folder/name" into one of a few turning buffers. */
static inline const char *check_join(const char *folder, const char *name)
{
    static char text[8][1024];
    static int turn;
    char joined[1024];

    turn = (turn + 1) % 8;
    snprintf(joined, sizeof joined, "%s/%s", folder, name); /* folder may be a turn before */
    return memcpy(text[turn], joined, sizeof joined);
}

static inline bool check_exists(const char *path)
{
    struct stat info;

    return lstat(path, &info) == 0;
}

/* How many names in a folder begin with `prefix`. */
static inline int check_count(const char *folder, const char *prefix)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    int n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)))
        n += entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    closedir(dir);
    return n;
}

/* Open descriptors of this process. */
static inline int check_descriptors(void)
{
    return check_count("/proc/self/fd", "");
}

/* A file's bytes and a zero, for free(). */
static inline char *check_file(size_t *size, const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    char *bytes;

    if (!file || fstat(fileno(file), &info) != 0)
        fail_msg("%s: cannot be read", path);
    bytes = calloc(1, (size_t)info.st_size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)info.st_size, file), info.st_size);
    fclose(file);
    *size = (size_t)info.st_size;
    return bytes;
}

static inline void check_file_write(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* The context failed with this status and these words in its one line; forgotten then. */
static inline void check_failed_with(ag_ctx *ctx, ag_status want, const char *words)
{
    if (!strstr(ag_message(ctx), words))
        fail_msg("wanted \"%s\" in \"%s\"", words, ag_message(ctx));
    check_failed(ctx, want, words);
}

#endif /* TESTS_TRAIN_CHECK_H */
