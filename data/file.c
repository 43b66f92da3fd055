/* file.c - positioned reads, whole-or-nothing streamed writes, folder listings. */
#include "data/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_CALL_BYTES = 1 << 30 }; /* Linux moves at most 2 GiB a call */

/* --- reading ---------------------------------------------------------------------------------- */

/* Take fd into *out once it is known to be a regular file. */
static ag_status adopt(data_file *out, ag_ctx *ctx, int fd, const char *path, bool borrowed)
{
    struct stat info;

    if (fstat(fd, &info) != 0)
        return ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return ag_fail(ctx, AG_EIO, "%s: wanted a file, this is %s", path,
                       S_ISDIR(info.st_mode) ? "a folder" : "something else");
    out->path = ag_strdup(ctx, path);
    if (!out->path)
        return AG_ENOMEM;
    out->fd = fd;
    out->size = (uint64_t)info.st_size;
    out->borrowed = borrowed;
    return AG_OK;
}

ag_status data_file_open(data_file *out, ag_ctx *ctx, const char *path)
{
    /* without O_NONBLOCK, opening a named pipe would wait for its writer */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ag_status status;

    if (fd < 0)
        return ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    status = adopt(out, ctx, fd, path, false);
    if (status != AG_OK)
        close(fd);
    return status;
}

ag_status data_file_borrow(data_file *out, ag_ctx *ctx, int fd, const char *name)
{
    return adopt(out, ctx, fd, name, true);
}

void data_file_close(data_file *file)
{
    if (file->path && file->fd >= 0 && !file->borrowed)
        close(file->fd);
    ag_delete(file->path);
    *file = (data_file){.fd = -1};
}

int data_file_pread(const data_file *file, uint64_t at, size_t n, void *to)
{
    char *p = to;

    if (n > file->size || at > file->size - n)
        return ENODATA;
    while (n > 0) {
        const size_t want = n < MAX_CALL_BYTES ? n : MAX_CALL_BYTES;
        const ssize_t got = pread(file->fd, p, want, (off_t)at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno;
        if (got == 0)
            return ENODATA;
        p += got;
        at += (uint64_t)got;
        n -= (size_t)got;
    }
    return 0;
}

ag_status data_file_get(ag_ctx *ctx, const data_file *file, uint64_t at, size_t n, void *to)
{
    const int error = data_file_pread(file, at, n, to);

    if (error == ENODATA)
        return ag_fail(ctx, AG_EIO, "%s: ends before byte %llu + %zu", file->path,
                       (unsigned long long)at, n);
    if (error)
        return ag_fail(ctx, AG_EIO, "%s: %s", file->path, strerror(error));
    return AG_OK;
}

bool data_file_fetch(const char *path, size_t n, void *to)
{
    data_file file = {.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    struct stat info;
    bool ok = file.fd >= 0 && fstat(file.fd, &info) == 0 && S_ISREG(info.st_mode) && (uint64_t)info.st_size == n;

    file.size = n;
    ok = ok && data_file_pread(&file, 0, n, to) == 0;
    if (file.fd >= 0)
        close(file.fd);
    return ok;
}

/* --- writing ---------------------------------------------------------------------------------- */

struct data_writer {
    ag_ctx *ctx;
    char *path, *beside;
    int fd;
    uint64_t size, reserved;
    ag_status status;
};

static ag_status cannot_write(data_writer *w, int error)
{
    w->status = ag_fail(w->ctx, AG_EIO, "%s: cannot be written: %s", w->path, strerror(error));
    return w->status;
}

ag_status data_writer_open(data_writer **out, ag_ctx *ctx, const char *path,
                           uint64_t expected_bytes)
{
    data_writer *w = ag_new(ctx, 1, sizeof *w, path);
    char *beside = NULL;
    mode_t mask;

    if (!w)
        return AG_ENOMEM;
    w->ctx = ctx;
    w->fd = -1;
    w->path = ag_strdup(ctx, path);
    beside = w->path ? ag_printf(ctx, "%s.XXXXXX", path) : NULL;
    if (!beside) {
        w->status = AG_ENOMEM;
        goto out;
    }
    if (data_is_folder(path)) {
        cannot_write(w, EISDIR);
        goto out;
    }
    w->fd = mkostemp(beside, O_CLOEXEC);
    if (w->fd < 0) {
        cannot_write(w, errno);
        goto out;
    }
    w->beside = beside; /* from here on it exists and is removed on failure */
    beside = NULL;
    mask = umask(0);
    (void)umask(mask);
    if (fchmod(w->fd, 0666 & ~mask) != 0) {
        cannot_write(w, errno);
        goto out;
    }
    if (expected_bytes > 0 && expected_bytes <= INT64_MAX) {
        if (fallocate(w->fd, 0, 0, (off_t)expected_bytes) == 0)
            w->reserved = expected_bytes;
        else if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
            cannot_write(w, errno);
    }
out:
    ag_delete(beside);
    if (w->status != AG_OK) {
        const ag_status status = w->status;

        data_writer_abandon(w);
        return status;
    }
    *out = w;
    return AG_OK;
}

ag_status data_writer_put(data_writer *w, const void *bytes, size_t n)
{
    const char *p = bytes;

    if (w->status != AG_OK)
        return w->status;
    while (n > 0) {
        const ssize_t done = write(w->fd, p, n < MAX_CALL_BYTES ? n : MAX_CALL_BYTES);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return cannot_write(w, errno);
        p += done;
        w->size += (uint64_t)done;
        n -= (size_t)done;
    }
    return AG_OK;
}

uint64_t data_writer_size(const data_writer *w)
{
    return w->size;
}

/* Flush the folder that holds path, so that the new name itself is on disk. Cuts path short. */
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

ag_status data_writer_close(data_writer *w)
{
    ag_status status;
    int error = 0;

    if (!w)
        return AG_OK;
    if (w->status == AG_OK) {
        if (w->reserved > w->size && ftruncate(w->fd, (off_t)w->size) != 0)
            error = errno;
        /* a failed fsync is final: the pages may count as clean, so asking again proves nothing */
        if (!error && fsync(w->fd) != 0 && errno != EINVAL)
            error = errno;
        if (close(w->fd) != 0 && !error)
            error = errno;
        w->fd = -1;
        if (!error && rename(w->beside, w->path) != 0)
            error = errno;
        if (error) {
            cannot_write(w, error);
        } else {
            ag_delete(w->beside);
            w->beside = NULL;
            flush_folder_of(w->path);
        }
    }
    status = w->status;
    data_writer_abandon(w);
    return status;
}

void data_writer_abandon(data_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (w->beside)
        (void)unlink(w->beside);
    ag_delete(w->beside);
    ag_delete(w->path);
    ag_delete(w);
}

/* --- folders ---------------------------------------------------------------------------------- */

bool data_is_folder(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool data_is_file(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

static bool has_ending(const char *name, const char *const *endings)
{
    const size_t n = strlen(name);

    if (!endings)
        return true;
    for (; *endings; endings++) {
        const size_t k = strlen(*endings);

        if (n > k && strcasecmp(name + n - k, *endings) == 0)
            return true;
    }
    return false;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* One pass over the folder: the matching names, one after the other with their zeros, into
 * *text. */
static ag_status gather_names(char **text, size_t *size, int64_t *n, ag_ctx *ctx, const char *path,
                              const char *const *endings)
{
    DIR *folder = opendir(path);
    size_t room = 0;
    ag_status status = AG_OK;

    if (!folder)
        return ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    for (;;) {
        struct stat info;
        struct dirent *entry;
        size_t bytes;

        errno = 0;
        entry = readdir(folder);
        if (!entry) {
            if (errno)
                status = ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
            break;
        }
        if (entry->d_name[0] == '.' || !has_ending(entry->d_name, endings))
            continue;
        if (entry->d_type != DT_REG &&
            (fstatat(dirfd(folder), entry->d_name, &info, 0) != 0 || !S_ISREG(info.st_mode)))
            continue;
        bytes = strlen(entry->d_name) + 1;
        if (bytes > room - *size) {
            char *more = ag_grow(ctx, *text, 2 * room + 4096, 1, path);

            if (!more) {
                status = AG_ENOMEM;
                break;
            }
            *text = more;
            room = 2 * room + 4096;
        }
        memcpy(*text + *size, entry->d_name, bytes);
        *size += bytes;
        ++*n;
    }
    closedir(folder);
    return status;
}

ag_status data_folder_list(char ***names, int64_t *n, ag_ctx *ctx, const char *path,
                           const char *const *endings)
{
    char *text = NULL, **list = NULL, *at;
    size_t size = 0;
    int64_t count = 0;
    ag_status status = gather_names(&text, &size, &count, ctx, path, endings);

    if (status != AG_OK)
        goto out;
    list = ag_new(ctx, (size_t)count * sizeof *list + size, 1, path);
    if (!list) {
        status = AG_ENOMEM;
        goto out;
    }
    at = (char *)(list + count);
    if (size > 0)
        memcpy(at, text, size);
    for (int64_t i = 0; i < count; i++, at += strlen(at) + 1)
        list[i] = at;
    if (count > 1)
        qsort(list, (size_t)count, sizeof *list, compare_names);
    *names = list;
    *n = count;
out:
    ag_delete(text);
    return status;
}
