/* text_file.c - whole small files in and out. */
#include "data/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/file.h"

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

ag_status data_file_write(ag_ctx *ctx, const char *path, const void *bytes, size_t size)
{
    data_writer *writer = NULL;
    const ag_status status = data_writer_open(&writer, ctx, path, size);

    if (status != AG_OK)
        return status;
    (void)data_writer_put(writer, bytes, size); /* closing fails too, then */
    return data_writer_close(writer);
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
