/* checkpoint.c - see checkpoint.h; what a folder must hold is checkpoint_manifest.h, the tensors'
 * files are checkpoint_hdf5.h.
 *
 * Order of a write: room asked for; checkpoint-N.tmp-PID made; tensors written, each file flushed;
 * their sums taken from what can be read back; manifest written and flushed; the folder flushed;
 * renamed; the parent flushed. Only then are old ones deleted, and those are renamed to .tmp names
 * first, so that a half-deleted one never has a checkpoint's name. Leftover .tmp folders of killed
 * runs are deleted by the next write; a lock on output_dir makes sure that their writer is dead.
 */
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <oneapi/dnnl/dnnl.h>

#include "autograd/cpu/isa.h"
#include "autograd/version.h"
#include "data/checksum.h"
#include "data/file.h"
#include "train/checkpoint_hdf5.h"
#include "train/checkpoint_manifest.h"
#include "train/log.h"

static const uint64_t FILE_BYTES = (uint64_t)2 << 30; /* begin another file beyond this */
static const uint64_t MANIFEST_ROOM = 1 << 20;
static const char PREFIX[] = "checkpoint-", TEMPORARY[] = ".tmp-";
enum { MAX_NAMED = 4 }; /* tensors named in one message */

/* --- names of folders ------------------------------------------------------------------------- */

/* The N of "checkpoint-N", *rest behind it; -1 for another name. */
static int64_t number_of(const char *name, const char **rest)
{
    const size_t n = sizeof PREFIX - 1;
    const char *p = name + n;
    int64_t value = 0;

    if (strncmp(name, PREFIX, n) != 0 || *p < '0' || *p > '9' ||
        (*p == '0' && p[1] >= '0' && p[1] <= '9'))
        return -1;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (p - name - (ptrdiff_t)n >= 18)
            return -1;
        value = 10 * value + (*p - '0');
    }
    *rest = p;
    return value;
}

static int compare_numbers(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

/* The updates of the checkpoints in a folder, whole or not, rising; none without a folder. */
static ag_status list_updates(int64_t **out, int64_t *n, ag_ctx *ctx, const char *output_dir)
{
    DIR *dir = opendir(output_dir);
    const struct dirent *entry;
    int64_t *list = NULL;

    *out = NULL;
    *n = 0;
    if (!dir)
        return errno == ENOENT ? AG_OK
                               : ag_fail(ctx, AG_EIO, "%s: %s", output_dir, strerror(errno));
    while ((entry = readdir(dir))) {
        const char *rest;
        const int64_t update = number_of(entry->d_name, &rest);
        int64_t *more;
        if (update < 0 || *rest)
            continue;
        more = ag_grow(ctx, list, (size_t)*n + 1, sizeof *list, "list of checkpoints");
        if (!more)
            break;
        list = more;
        list[(*n)++] = update;
    }
    closedir(dir);
    if (ag_status_of(ctx) != AG_OK) {
        ag_delete(list);
        return ag_status_of(ctx);
    }
    if (list)
        qsort(list, (size_t)*n, sizeof *list, compare_numbers);
    *out = list;
    return AG_OK;
}

static char *folder_of(ag_ctx *ctx, const char *output_dir, int64_t update)
{
    return ag_printf(ctx, "%s/%s%lld", output_dir, PREFIX, (long long)update);
}

int64_t train_checkpoint_newest(ag_ctx *ctx, const char *output_dir)
{
    int64_t *list, n, newest = -1;

    if (list_updates(&list, &n, ctx, output_dir) == AG_OK && n > 0)
        newest = list[n - 1];
    ag_delete(list);
    return newest;
}

/* --- deleting --------------------------------------------------------------------------------- */

/* Delete a folder and the files in it; returns 0 or an errno value. Folders inside are not ours. */
static int remove_folder(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;

    if (!dir)
        return errno;
    while ((entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            (void)unlinkat(dirfd(dir), entry->d_name, 0); /* rmdir tells what could not be */
    closedir(dir);
    return rmdir(path) == 0 ? 0 : errno;
}

/* Delete checkpoint-N so that no moment sees half of it under that name. */
static ag_status discard(ag_ctx *ctx, const char *output_dir, int64_t update)
{
    char *path = folder_of(ctx, output_dir, update);
    char *aside = path ? ag_printf(ctx, "%s%s%ld-old", path, TEMPORARY, (long)getpid()) : NULL;
    int error = 0;

    if (aside) {
        error = rename(path, aside) == 0 ? remove_folder(aside) : errno;
        if (error)
            train_note(NULL, "%s: an old checkpoint that cannot be deleted: %s", path,
                       strerror(error));
    }
    ag_delete(aside);
    ag_delete(path);
    return ag_status_of(ctx);
}

/* Delete what killed runs left behind. */
static ag_status remove_leftovers(ag_ctx *ctx, const char *output_dir)
{
    DIR *dir = opendir(output_dir);
    const struct dirent *entry;

    if (!dir)
        return ag_fail(ctx, AG_EIO, "%s: %s", output_dir, strerror(errno));
    while (ag_status_of(ctx) == AG_OK && (entry = readdir(dir))) {
        const char *rest;
        char *path;
        if (number_of(entry->d_name, &rest) < 0 ||
            strncmp(rest, TEMPORARY, sizeof TEMPORARY - 1) != 0)
            continue;
        path = ag_printf(ctx, "%s/%s", output_dir, entry->d_name);
        if (path)
            (void)remove_folder(path);
        ag_delete(path);
    }
    closedir(dir);
    return ag_status_of(ctx);
}

ag_status train_checkpoint_clear(ag_ctx *ctx, const char *output_dir)
{
    int64_t *list, n;

    if (list_updates(&list, &n, ctx, output_dir) == AG_OK)
        for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++)
            discard(ctx, output_dir, list[i]);
    ag_delete(list);
    return ag_status_of(ctx);
}

static ag_status keep_newest(ag_ctx *ctx, const char *output_dir, int64_t keep, int64_t written)
{
    int64_t *list, n, left;

    if (keep <= 0 || list_updates(&list, &n, ctx, output_dir) != AG_OK)
        return ag_status_of(ctx);
    left = n;
    for (int64_t i = 0; i < n && left > keep && ag_status_of(ctx) == AG_OK; i++)
        if (list[i] != written) {
            discard(ctx, output_dir, list[i]);
            left--;
        }
    ag_delete(list);
    return ag_status_of(ctx);
}

/* --- writing ---------------------------------------------------------------------------------- */

typedef struct writing {
    ag_ctx *ctx;
    const char *output_dir;
    char *folder, *beside; /* final name, and the one until then */
    int64_t update;
    const train_entry *entries;
    int64_t n;
    int64_t *file_of; /* [n] */
    uint32_t *crcs;   /* [n] */
    train_sum *files; /* with names of ours */
    int64_t n_files;
    int lock; /* output_dir, open; -1 */
} writing;

static uint64_t room_of(const train_entry *e)
{
    return train_h5_room(ag_dtype_of(e->tensor), ag_ndim(e->tensor), ag_dims(e->tensor));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Everything that can be refused before work is done. */
static ag_status check_entries(const writing *w)
{
    const char **names = ag_new(w->ctx, (size_t)w->n + 1, sizeof *names, "names of tensors");

    for (int64_t i = 0; names && i < w->n; i++) {
        const ag_dtype dtype = ag_dtype_of(w->entries[i].tensor);
        names[i] = w->entries[i].name;
        if (!ag_data(w->entries[i].tensor))
            ag_fail(w->ctx, AG_EINVAL, "%s has no values to keep", names[i]);
        if (dtype != AG_F32 && dtype != AG_F64 && dtype != AG_I64 && dtype != AG_U8)
            ag_fail(w->ctx, AG_EDTYPE, "%s is %s: a checkpoint keeps f32, f64, i64 and u8", names[i],
                    ag_dtype_name(dtype));
    }
    if (names && w->n > 0)
        qsort(names, (size_t)w->n, sizeof *names, compare_names);
    for (int64_t i = 1; names && i < w->n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            ag_fail(w->ctx, AG_EINVAL, "two tensors of a checkpoint are called %s", names[i]);
    ag_delete(names);
    return ag_status_of(w->ctx);
}

/* One writer at a time. Where folders cannot be locked, nobody is kept away, nothing is cleaned. */
static ag_status lock_output(writing *w)
{
    w->lock = open(w->output_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->lock < 0)
        return ag_fail(w->ctx, AG_EIO, "%s: %s", w->output_dir, strerror(errno));
    if (flock(w->lock, LOCK_EX | LOCK_NB) == 0)
        return remove_leftovers(w->ctx, w->output_dir);
    if (errno == EWOULDBLOCK)
        return ag_fail(w->ctx, AG_EIO, "%s: another process is writing a checkpoint here",
                       w->output_dir);
    return AG_OK;
}

static ag_status check_room(const writing *w)
{
    uint64_t need = MANIFEST_ROOM, there;
    struct statvfs fs;

    for (int64_t i = 0; i < w->n; i++)
        need += room_of(&w->entries[i]);
    if (statvfs(w->output_dir, &fs) != 0)
        return AG_OK; /* the writes will tell */
    there = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (need > there)
        return ag_fail(w->ctx, AG_EIO, "%s: a checkpoint takes %.2f GB, %.2f GB are free",
                       w->folder, (double)need * 1e-9, (double)there * 1e-9);
    return AG_OK;
}

/* Spread the tensors over files, in order. */
static ag_status plan_files(writing *w)
{
    uint64_t bytes = 0;

    w->file_of = ag_new(w->ctx, (size_t)w->n + 1, sizeof *w->file_of, "checkpoint");
    w->crcs = ag_new(w->ctx, (size_t)w->n + 1, sizeof *w->crcs, "checkpoint");
    for (int64_t i = 0; w->file_of && i < w->n; i++) {
        const uint64_t room = room_of(&w->entries[i]);
        if (i == 0 || (bytes > 0 && bytes + room > FILE_BYTES)) {
            w->n_files++;
            bytes = 0;
        }
        bytes += room;
        w->file_of[i] = w->n_files - 1;
    }
    w->files = ag_new(w->ctx, (size_t)w->n_files + 1, sizeof *w->files, "checkpoint");
    for (int64_t f = 0; w->files && f < w->n_files && ag_status_of(w->ctx) == AG_OK; f++)
        w->files[f].name = ag_printf(w->ctx, "tensors-%03lld.h5", (long long)f);
    return ag_status_of(w->ctx);
}

static ag_status write_file(writing *w, int64_t f)
{
    char *path = ag_printf(w->ctx, "%s/%s", w->beside, w->files[f].name);
    train_h5_writer *file = NULL;
    uint64_t room = TRAIN_H5_FILE_ROOM;

    for (int64_t i = 0; i < w->n; i++)
        room += w->file_of[i] == f ? room_of(&w->entries[i]) : 0;
    if (path && train_h5_create(&file, w->ctx, path, room) == AG_OK)
        for (int64_t i = 0; i < w->n && ag_status_of(w->ctx) == AG_OK; i++) {
            const ag_tensor *t = w->entries[i].tensor;
            const void *values = w->file_of[i] == f ? ag_look(w->ctx, t) : NULL;
            if (!values)
                continue;
            w->crcs[i] = data_crc32c(0, values, ag_nbytes(t));
            train_h5_put(file, w->entries[i].name, ag_dtype_of(t), ag_ndim(t), ag_dims(t), values, w->crcs[i]);
            ag_look_away(t, values);
        }
    train_h5_finish(file);
    ag_delete(path);
    return ag_status_of(w->ctx);
}

static json_t *describe_tensor(const writing *w, int64_t i)
{
    const ag_tensor *t = w->entries[i].tensor;
    json_t *shape = json_array();

    for (int k = 0; k < ag_ndim(t); k++)
        json_array_append_new(shape, json_integer(ag_dim(t, k)));
    return json_pack("{s:s, s:I, s:s, s:o, s:I}", "name", w->entries[i].name, "file",
                     (json_int_t)w->file_of[i], "dtype", ag_dtype_name(ag_dtype_of(t)), "shape",
                     shape, "crc32c", (json_int_t)w->crcs[i]);
}

static const char *device_name(ag_device device)
{
    return device == AG_CPU ? "cpu" : device == AG_CUDA ? "cuda" : "meta";
}

static json_t *describe_machine(const ag_ctx *ctx)
{
    return json_pack("{s:s, s:s, s:i}", "isa", cpu_isa_name(cpu_isa_here()), "device",
                     device_name(ag_ctx_device(ctx)), "threads", ag_ctx_threads(ctx));
}

static json_t *describe_versions(void)
{
    const dnnl_version_t *dnnl = dnnl_version();
    char onednn[64], hdf5[64];

    snprintf(onednn, sizeof onednn, "%d.%d.%d", dnnl->major, dnnl->minor, dnnl->patch);
    return json_pack("{s:s, s:s, s:s}", "agewright", AG_VERSION, "hdf5",
                     train_h5_version(hdf5, sizeof hdf5), "onednn", onednn);
}

static ag_status write_manifest(writing *w, json_t *config)
{
    json_t *root = json_object(), *files = json_array(), *tensors = json_array();
    const time_t now = time(NULL);
    char created[32] = "";
    struct tm utc;
    int bad = 0;

    if (gmtime_r(&now, &utc))
        strftime(created, sizeof created, "%Y-%m-%dT%H:%M:%SZ", &utc);
    for (int64_t f = 0; f < w->n_files; f++)
        bad |= json_array_append_new(files, json_pack("{s:s, s:I, s:s}", "name", w->files[f].name,
                                                      "size", (json_int_t)w->files[f].size,
                                                      "sha256", w->files[f].sha256));
    for (int64_t i = 0; i < w->n; i++)
        bad |= json_array_append_new(tensors, describe_tensor(w, i));
    bad |= json_object_set_new(root, "files", files);
    bad |= json_object_set_new(root, "tensors", tensors);
    bad |= json_object_set_new(root, "update", json_integer(w->update));
    bad |= json_object_set_new(root, "created", json_string(created));
    bad |= json_object_set_new(root, "versions", describe_versions());
    bad |= json_object_set_new(root, "machine", describe_machine(w->ctx));
    bad |= json_object_set(root, "configuration", config ? config : json_null());
    if (bad)
        ag_fail(w->ctx, AG_ENOMEM, "%s: no memory for the manifest", w->beside);
    else
        train_manifest_write(w->ctx, w->beside, root);
    json_decref(root);
    return ag_status_of(w->ctx);
}

/* Flush a folder, so that the names in it are on disk. Some file systems cannot. */
static ag_status flush_folder(ag_ctx *ctx, const char *path)
{
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        ag_fail(ctx, AG_EIO, "%s: cannot be flushed to disk: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return ag_status_of(ctx);
}

static ag_status write_beside(writing *w, json_t *config)
{
    if (mkdir(w->beside, 0777) != 0)
        return ag_fail(w->ctx, AG_EIO, "%s: %s", w->beside, strerror(errno));
    for (int64_t f = 0; f < w->n_files && ag_status_of(w->ctx) == AG_OK; f++)
        write_file(w, f);
    if (ag_status_of(w->ctx) != AG_OK ||
        train_sum_files(w->ctx, w->beside, w->files, w->n_files) != AG_OK)
        return ag_status_of(w->ctx);
    for (int64_t f = 0; f < w->n_files; f++)
        if (w->files[f].error)
            return ag_fail(w->ctx, AG_EIO, "%s/%s: cannot be read back: %s", w->beside,
                           w->files[f].name, strerror(w->files[f].error));
    if (write_manifest(w, config) == AG_OK)
        flush_folder(w->ctx, w->beside);
    return ag_status_of(w->ctx);
}

/* What a run's configuration may differ in and still be the same run. */
static bool is_free_to_change(const char *key)
{
    static const char *const keys[] = {"resume_from_checkpoint",
                                       "overwrite_output_dir",
                                       "config",
                                       "max_train_steps",
                                       "num_train_epochs",
                                       "threads",
                                       "gradient_checkpointing",
                                       "offload_optimizer",
                                       "no_cache",
                                       "checkpointing_steps",
                                       "checkpoints_total_limit",
                                       "logging_dir",
                                       "report_to",
                                       "output_dir",
                                       "cache_dir",
                                       NULL};

    for (int i = 0; keys[i]; i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

const char *train_checkpoint_difference(json_t *a, const json_t *b)
{
    const char *key;
    json_t *value;

    if (!json_is_object(a) || !json_is_object(b))
        return json_equal(a, b) ? NULL : "configuration";
    json_object_foreach(a, key, value)
        if (!is_free_to_change(key) && !json_equal(value, json_object_get(b, key)))
            return key;
    return NULL;
}

/* May the folder that has the final name be replaced? It may when it is damaged, of the same run,
 * or the run was told to overwrite. */
static ag_status check_replaceable(const writing *w, json_t *config)
{
    train_manifest old = {0};
    const char *key = NULL;

    if (json_is_true(json_object_get(config, "overwrite_output_dir")))
        return AG_OK;
    if (train_manifest_open(&old, w->ctx, w->folder) != AG_OK ||
        train_manifest_check(w->ctx, &old) != AG_OK) {
        if (ag_status_of(w->ctx) != AG_ENOMEM)
            ag_clear(w->ctx); /* damaged */
    } else {
        key = train_checkpoint_difference(config ? config : json_null(), json_object_get(old.root, "configuration"));
        if (key)
            ag_fail(w->ctx, AG_EINVAL,
                    "%s is of another run (its %s differs): move it away, or give "
                    "--overwrite_output_dir",
                    w->folder, key);
    }
    train_manifest_close(&old);
    return ag_status_of(w->ctx);
}

/* Give the finished folder its name. */
static ag_status publish(const writing *w)
{
    char *aside = NULL;

    if (rename(w->beside, w->folder) == 0)
        return flush_folder(w->ctx, w->output_dir);
    if (errno != ENOTEMPTY && errno != EEXIST)
        return ag_fail(w->ctx, AG_EIO, "%s: %s", w->folder, strerror(errno));
    /* swap the two; where the file system cannot, there is a moment without either */
    if (renameat2(AT_FDCWD, w->beside, AT_FDCWD, w->folder, RENAME_EXCHANGE) == 0) {
        if (flush_folder(w->ctx, w->output_dir) == AG_OK)
            (void)remove_folder(w->beside);
        return ag_status_of(w->ctx);
    }
    aside = ag_printf(w->ctx, "%s-old", w->beside);
    if (aside && (rename(w->folder, aside) != 0 || rename(w->beside, w->folder) != 0))
        ag_fail(w->ctx, AG_EIO, "%s: %s", w->folder, strerror(errno));
    if (ag_status_of(w->ctx) == AG_OK && flush_folder(w->ctx, w->output_dir) == AG_OK)
        (void)remove_folder(aside);
    ag_delete(aside);
    return ag_status_of(w->ctx);
}

ag_status train_checkpoint_write(ag_ctx *ctx, const char *output_dir, int64_t update,
                                 const train_entry *entries, int64_t n, json_t *config,
                                 int64_t keep)
{
    writing w = {.ctx = ctx,
                 .output_dir = output_dir,
                 .update = update,
                 .entries = entries,
                 .n = n,
                 .lock = -1};

    w.folder = folder_of(ctx, output_dir, update);
    w.beside = w.folder ? ag_printf(ctx, "%s%s%ld", w.folder, TEMPORARY, (long)getpid()) : NULL;
    if (w.beside && check_entries(&w) == AG_OK && lock_output(&w) == AG_OK &&
        check_room(&w) == AG_OK && plan_files(&w) == AG_OK &&
        (!data_is_folder(w.folder) || check_replaceable(&w, config) == AG_OK)) {
        if (write_beside(&w, config) == AG_OK)
            publish(&w);
        if (ag_status_of(ctx) != AG_OK)
            (void)remove_folder(w.beside);
        else
            keep_newest(ctx, output_dir, keep, update);
    }
    if (w.lock >= 0)
        close(w.lock);
    for (int64_t f = 0; w.files && f < w.n_files; f++)
        ag_delete((char *)w.files[f].name);
    ag_delete(w.files);
    ag_delete(w.file_of);
    ag_delete(w.crcs);
    ag_delete(w.beside);
    ag_delete(w.folder);
    return ag_status_of(ctx);
}

/* --- finding ---------------------------------------------------------------------------------- */

/* A whole checkpoint's manifest. */
static ag_status open_checked(train_manifest *out, ag_ctx *ctx, const char *folder)
{
    train_manifest m = {0};

    if (train_manifest_open(&m, ctx, folder) == AG_OK && train_manifest_check(ctx, &m) == AG_OK)
        *out = m;
    else
        train_manifest_close(&m);
    return ag_status_of(ctx);
}

ag_status train_checkpoint_check(int64_t *update, ag_ctx *ctx, const char *folder)
{
    train_manifest m = {0};

    if (open_checked(&m, ctx, folder) == AG_OK)
        *update = m.update;
    train_manifest_close(&m);
    return ag_status_of(ctx);
}

static ag_status add_text(ag_ctx *ctx, char **list, const char *text)
{
    char *longer = *list ? ag_printf(ctx, "%s; %s", *list, text) : ag_strdup(ctx, text);

    if (longer) {
        ag_delete(*list);
        *list = longer;
    }
    return ag_status_of(ctx);
}

static ag_status find_latest(train_manifest *found, char **passed_over, ag_ctx *ctx, const char *output_dir)
{
    int64_t *list, n;

    if (list_updates(&list, &n, ctx, output_dir) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = n - 1; i >= 0 && ag_status_of(ctx) == AG_OK; i--) {
        char *path = folder_of(ctx, output_dir, list[i]);
        if (path)
            open_checked(found, ctx, path);
        ag_delete(path);
        if (found->folder)
            break;
        if (ag_status_of(ctx) != AG_ENOMEM) {
            char why[1024];
            snprintf(why, sizeof why, "%s", ag_message(ctx));
            ag_clear(ctx);
            add_text(ctx, passed_over, why);
        }
    }
    ag_delete(list);
    return ag_status_of(ctx);
}

ag_status train_checkpoint_find(train_manifest *found, char **passed_over, ag_ctx *ctx, const char *output_dir,
                                const char *which)
{
    char *path;

    *found = (train_manifest){0};
    *passed_over = NULL;
    if (strcmp(which, "latest") == 0)
        return find_latest(found, passed_over, ctx, output_dir);
    path = ag_printf(ctx, "%s/%s", output_dir, which);
    if (path && !data_is_folder(path)) {
        ag_delete(path);
        path = ag_strdup(ctx, which);
    }
    if (path)
        open_checked(found, ctx, path);
    ag_delete(path);
    return ag_status_of(ctx);
}

/* --- reading ---------------------------------------------------------------------------------- */

static int compare_entries(const void *a, const void *b)
{
    return strcmp((*(const train_entry *const *)a)->name, (*(const train_entry *const *)b)->name);
}

static int compare_to_entry(const void *name, const void *entry)
{
    return strcmp(name, (*(const train_entry *const *)entry)->name);
}

static bool fits(const train_manifest_tensor *t, const ag_tensor *want)
{
    bool same = t->dtype == ag_dtype_of(want) && t->n_dims == ag_ndim(want);

    for (int i = 0; same && i < t->n_dims; i++)
        same = t->dims[i] == ag_dim(want, i);
    return same;
}

/* The first few names of a kind, and how many there are. */
typedef struct name_list {
    char text[512];
    int64_t n;
} name_list;

static void add_name(name_list *list, const char *name)
{
    const size_t used = strlen(list->text);

    if (list->n++ < MAX_NAMED)
        snprintf(list->text + used, sizeof list->text - used, "%s%.100s", used ? ", " : "", name);
}

/* Pair the manifest's tensors with the entries: to[i] is where tensor i goes. */
static ag_status match(ag_ctx *ctx, ag_tensor **to, const train_manifest *m,
                       const train_entry *entries, int64_t n)
{
    const train_entry **sorted = ag_new(ctx, (size_t)n + 1, sizeof *sorted, "names of tensors");
    bool *met = ag_new(ctx, (size_t)n + 1, sizeof *met, "names of tensors");
    name_list missing = {0}, extra = {0}, other = {0};

    for (int64_t i = 0; sorted && i < n; i++)
        sorted[i] = &entries[i];
    if (sorted && n > 0)
        qsort(sorted, (size_t)n, sizeof *sorted, compare_entries);
    for (int64_t i = 0; sorted && met && i < m->n_tensors; i++) {
        const train_manifest_tensor *t = &m->tensors[i];
        const train_entry **at =
            bsearch(t->name, sorted, (size_t)n, sizeof *sorted, compare_to_entry);
        if (!at || met[at - sorted])
            add_name(&extra, t->name);
        else if (!fits(t, (*at)->tensor))
            add_name(&other, t->name);
        else
            to[i] = (*at)->tensor;
        if (at)
            met[at - sorted] = true;
    }
    for (int64_t i = 0; sorted && met && i < n; i++)
        if (!met[i])
            add_name(&missing, sorted[i]->name);
    if (missing.n + extra.n + other.n > 0)
        ag_fail(ctx, AG_EDATA,
                "%s: of another model: %lld tensors missing (%s), %lld extra (%s), %lld of "
                "another shape (%s)",
                m->folder, (long long)missing.n, missing.text, (long long)extra.n, extra.text,
                (long long)other.n, other.text);
    ag_delete(met);
    ag_delete(sorted);
    return ag_status_of(ctx);
}

/* The tensor at `path` in its memory, by way of the host's where that is another. */
static ag_status read_tensor(ag_ctx *ctx, train_h5_reader *file, const char *path, const train_manifest_tensor *t,
                             ag_tensor *to)
{
    const bool here = ag_ctx_device(ctx) == AG_CPU;
    void *values = here ? ag_data(to) : ag_new(ctx, ag_nbytes(to), 1, path);

    if (values && train_h5_get(file, t->name, t->dtype, t->n_dims, t->dims, values) == AG_OK) {
        if (data_crc32c(0, values, ag_nbytes(to)) != t->crc32c)
            ag_fail(ctx, AG_EDATA, "%s: %s: damaged: its CRC-32C is not the manifest's", path, t->name);
        else if (!here)
            ag_write(ctx, to, values, ag_nbytes(to));
    }
    if (!here)
        ag_delete(values);
    return ag_status_of(ctx);
}

static ag_status read_file(ag_ctx *ctx, const train_manifest *m, ag_tensor *const *to, int64_t f)
{
    char *path = ag_printf(ctx, "%s/%s", m->folder, m->files[f].name);
    train_h5_reader *file = NULL;

    if (path && train_h5_open(&file, ctx, path) == AG_OK)
        for (int64_t i = 0; i < m->n_tensors && ag_status_of(ctx) == AG_OK; i++)
            if (m->tensors[i].file == f)
                read_tensor(ctx, file, path, &m->tensors[i], to[i]);
    train_h5_close(file);
    ag_delete(path);
    return ag_status_of(ctx);
}

/* The same bits are promised on the same kind of machine only. */
static void note_machine(ag_ctx *ctx, const train_manifest *m)
{
    json_t *here = describe_machine(ctx);
    const json_t *there = json_object_get(m->root, "machine");

    if (here && json_is_object(there) && !json_equal(here, there)) {
        const char *isa = json_string_value(json_object_get(there, "isa"));
        const char *device = json_string_value(json_object_get(there, "device"));
        train_note(
            NULL,
            "%s was written with %s, %s, %lld threads; here it is %s, %s, %d: results agree within "
            "rounding, not bit for bit",
            m->folder, device ? device : "?", isa ? isa : "?",
            (long long)json_integer_value(json_object_get(there, "threads")),
            device_name(ag_ctx_device(ctx)), cpu_isa_name(cpu_isa_here()), ag_ctx_threads(ctx));
    }
    json_decref(here);
}

ag_status train_checkpoint_take(ag_ctx *ctx, const train_manifest *m, const train_entry *entries, int64_t n,
                                json_t **config)
{
    ag_tensor **to = ag_new(ctx, (size_t)m->n_tensors + 1, sizeof *to, m->folder);

    if (to && match(ctx, to, m, entries, n) == AG_OK)
        for (int64_t f = 0; f < m->n_files && ag_status_of(ctx) == AG_OK; f++)
            read_file(ctx, m, to, f);
    if (ag_status_of(ctx) == AG_OK) {
        note_machine(ctx, m);
        if (config)
            *config = json_incref(json_object_get(m->root, "configuration"));
    }
    ag_delete(to);
    return ag_status_of(ctx);
}

ag_status train_checkpoint_read(ag_ctx *ctx, const char *folder, const train_entry *entries,
                                int64_t n, json_t **config)
{
    train_manifest m = {0};

    if (open_checked(&m, ctx, folder) == AG_OK)
        train_checkpoint_take(ctx, &m, entries, n, config);
    train_manifest_close(&m);
    return ag_status_of(ctx);
}
