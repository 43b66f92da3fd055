/* text_file.c - whole small files in and out. The order of a safe write is: write beside, flush
 * the file, rename, flush the folder (tests kill it in between; one of the two files is whole). */
#include "data/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ag_status data_file_read(char **out, size_t *out_size, ag_ctx *ctx, const char *path,
                         size_t max_bytes)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info;
    char *text = NULL;
    size_t size = 0, done = 0;
    ag_status status = AG_OK;

    if (file < 0)
        return ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    if (fstat(file, &info) != 0) {
        status = ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(info.st_mode)) {
        status = ag_fail(ctx, AG_EIO, "%s: wanted a file, this is %s", path,
                         S_ISDIR(info.st_mode) ? "a folder" : "something else");
        goto out;
    }
    if ((uint64_t)info.st_size > max_bytes) {
        status = ag_fail(ctx, AG_EDATA, "%s: %lld bytes, at most %zu are taken", path,
                         (long long)info.st_size, max_bytes);
        goto out;
    }
    size = (size_t)info.st_size;
    text = ag_new(ctx, size + 1, 1, path);
    if (!text) {
        status = AG_ENOMEM;
        goto out;
    }
    while (done < size) {
        const ssize_t n = read(file, text + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            status = ag_fail(ctx, AG_EIO, "%s: %s", path,
                             n < 0 ? strerror(errno) : "became shorter while it was read");
            goto out;
        }
        done += (size_t)n;
    }
    *out = text;
    *out_size = size;
    text = NULL;
out:
    close(file);
    ag_delete(text);
    return status;
}

/* Flush the folder that holds path, so that the new name itself is on disk. */
static void flush_folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    int folder;

    if (slash)
        slash[slash == path] = 0;
    folder = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return;
    (void)fsync(folder); /* some file systems cannot; the rename has happened all the same */
    close(folder);
}

ag_status data_file_write(ag_ctx *ctx, const char *path, const void *bytes, size_t size)
{
    char *beside = ag_printf(ctx, "%s.XXXXXX", path);
    const char *at = bytes;
    size_t left = size;
    mode_t mask;
    int file = -1;
    ag_status status = AG_OK;

    if (!beside)
        return AG_ENOMEM;
    file = mkostemp(beside, O_CLOEXEC);
    if (file < 0) {
        status = ag_fail(ctx, AG_EIO, "%s: cannot be written: %s", path, strerror(errno));
        goto out;
    }
    mask = umask(0);
    (void)umask(mask);
    if (fchmod(file, 0666 & ~mask) != 0)
        goto failed;
    while (left > 0) {
        const ssize_t n = write(file, at, left);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            goto failed;
        at += n;
        left -= (size_t)n;
    }
    if (fsync(file) != 0 && errno != EINVAL)
        goto failed;
    if (close(file) != 0) {
        file = -1;
        goto failed;
    }
    file = -1;
    if (rename(beside, path) != 0)
        goto failed;
    flush_folder_of(beside);
    goto out;
failed:
    status = ag_fail(ctx, AG_EIO, "%s: cannot be written: %s", path, strerror(errno));
    if (file >= 0)
        close(file);
    (void)unlink(beside);
out:
    ag_delete(beside);
    return status;
}

ag_status data_folder_make(ag_ctx *ctx, const char *path)
{
    char *part = ag_strdup(ctx, path);
    ag_status status = AG_OK;

    if (!part)
        return AG_ENOMEM;
    for (char *at = part + 1; *part; at++) {
        struct stat info;
        const char kept = *at;

        if (kept != '/' && kept != 0)
            continue;
        *at = 0;
        if (mkdir(part, 0777) != 0 &&
            (errno != EEXIST || stat(part, &info) != 0 || !S_ISDIR(info.st_mode))) {
            status = ag_fail(ctx, AG_EIO, "%s: cannot make the folder: %s", part,
                             errno == EEXIST ? "a file stands there" : strerror(errno));
            break;
        }
        *at = kept;
        if (!kept)
            break;
    }
    ag_delete(part);
    return status;
}
