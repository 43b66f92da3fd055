/* checkpoint_hdf5.c - see checkpoint_hdf5.h. */
#include "train/checkpoint_hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <hdf5.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

enum { CHUNK_BYTES = 1 << 20, TENSOR_ROOM = 4096, CHUNK_ROOM = 64 };

/* libhdf5 keeps its state in the process, not in a handle; so does this lock on it. */
static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;

/* How libhdf5 reported errors before we came. */
typedef struct report {
    H5E_auto2_t fn;
    void *data;
} report;

static report enter(void)
{
    report r = {0};

    pthread_mutex_lock(&library);
    H5Eget_auto2(H5E_DEFAULT, &r.fn, &r.data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* it prints otherwise */
    H5PLset_loading_state(0);              /* no file may make it load a plugin */
    return r;
}

static void leave(report r)
{
    H5Eset_auto2(H5E_DEFAULT, r.fn, r.data);
    pthread_mutex_unlock(&library);
}

/* What the innermost function of libhdf5 said. */
static herr_t first_line(unsigned n, const H5E_error2_t *error, void *text)
{
    if (n == 0 && error->desc)
        snprintf(text, 200, "%s", error->desc);
    return 0;
}

static const char *library_says(char text[200])
{
    snprintf(text, 200, "refused by libhdf5");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_line, text);
    return text;
}

const char *train_h5_version(char *text, size_t size)
{
    unsigned major = 0, minor = 0, release = 0;

    H5get_libversion(&major, &minor, &release);
    snprintf(text, size, "%u.%u.%u", major, minor, release);
    return text;
}

/* --- types and chunks ------------------------------------------------------------------------- */

static bool types_of(hid_t *file, hid_t *memory, ag_dtype dtype)
{
    switch (dtype) {
    case AG_F32:
        *file = H5T_IEEE_F32LE;
        *memory = H5T_NATIVE_FLOAT;
        return true;
    case AG_F64:
        *file = H5T_IEEE_F64LE;
        *memory = H5T_NATIVE_DOUBLE;
        return true;
    case AG_I64:
        *file = H5T_STD_I64LE;
        *memory = H5T_NATIVE_INT64;
        return true;
    case AG_U8:
        *file = H5T_STD_U8LE;
        *memory = H5T_NATIVE_UINT8;
        return true;
    default:
        return false;
    }
}

/* The shape as HDF5 sees it: a scalar is one element of one axis, since only axes can be cut into
 * chunks. Returns the number of axes. */
static int file_shape(hsize_t shape[AG_MAX_DIMS], int n_dims, const int64_t *dims)
{
    shape[0] = 1;
    for (int i = 0; i < n_dims; i++)
        shape[i] = (hsize_t)dims[i];
    return n_dims > 0 ? n_dims : 1;
}

/* Whole inner axes up to a chunk's size, then equal pieces of the next axis. Returns how many
 * chunks there are. */
static uint64_t chunk_shape(hsize_t chunk[AG_MAX_DIMS], int n, const hsize_t *shape, size_t item)
{
    uint64_t bytes = item, count = 1;

    for (int i = n - 1; i >= 0; i--) {
        uint64_t pieces = 1;
        if (bytes * shape[i] > CHUNK_BYTES) {
            const uint64_t most = bytes >= CHUNK_BYTES ? 1 : CHUNK_BYTES / bytes;
            pieces = (shape[i] + most - 1) / most;
        }
        chunk[i] = (shape[i] + pieces - 1) / pieces;
        count *= (shape[i] + chunk[i] - 1) / chunk[i];
        bytes *= chunk[i];
    }
    return count;
}

uint64_t train_h5_room(ag_dtype dtype, int n_dims, const int64_t *dims)
{
    hsize_t shape[AG_MAX_DIMS], chunk[AG_MAX_DIMS];
    const int n = file_shape(shape, n_dims, dims);
    uint64_t bytes = ag_dtype_size(dtype);

    for (int i = 0; i < n; i++)
        if (shape[i] == 0)
            return TENSOR_ROOM;
    const uint64_t count = chunk_shape(chunk, n, shape, ag_dtype_size(dtype));
    for (int i = 0; i < n; i++)
        bytes *= chunk[i];
    return TENSOR_ROOM + count * (bytes + CHUNK_ROOM);
}

/* --- the driver that writes ------------------------------------------------------------------- */

/* A file being written. `base` comes first: libhdf5 knows it by that address. */
typedef struct sink {
    H5FD_t base;
    int fd;
    int error; /* the first errno; nothing is written any more */
    haddr_t eoa, eof;
    int64_t limit; /* < 0: none */
} sink;

typedef struct sink_info {
    sink *to;
} sink_info;

static H5FD_t *sink_open(const char *name, unsigned flags, hid_t access, haddr_t max)
{
    const sink_info *info = H5Pget_driver_info(access);

    (void)name;
    (void)flags;
    (void)max;
    return info ? &info->to->base : NULL;
}

static herr_t sink_close(H5FD_t *file)
{
    (void)file; /* the descriptor is the writer's */
    return 0;
}

static herr_t sink_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t sink_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const sink *)file)->eoa;
}

static herr_t sink_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t address)
{
    (void)type;
    ((sink *)file)->eoa = address;
    return 0;
}

static haddr_t sink_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const sink *)file)->eof;
}

/* libhdf5 reads back what it wrote; bytes that are not there are zeros. */
static herr_t sink_read(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t n,
                        void *to)
{
    sink *s = (sink *)file;
    char *p = to;

    (void)type;
    (void)transfer;
    while (n > 0) {
        const ssize_t got = pread(s->fd, p, n, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && !s->error)
            s->error = errno;
        if (got <= 0) {
            memset(p, 0, n);
            break;
        }
        p += got;
        at += (haddr_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static herr_t sink_write(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t n,
                         const void *from)
{
    sink *s = (sink *)file;
    const char *p = from;

    (void)type;
    (void)transfer;
    if (at + n > s->eof)
        s->eof = at + n;
    if (s->limit >= 0 && at + n > (haddr_t)s->limit && !s->error)
        s->error = ENOSPC;
    while (n > 0 && !s->error) {
        const ssize_t done = pwrite(s->fd, p, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            s->error = done < 0 ? errno : EIO;
            break;
        }
        p += done;
        at += (haddr_t)done;
        n -= (size_t)done;
    }
    return 0;
}

static herr_t sink_truncate(H5FD_t *file, hid_t transfer, hbool_t closing)
{
    sink *s = (sink *)file;

    (void)transfer;
    (void)closing;
    s->eof = s->eoa; /* the file itself is cut when it is finished */
    return 0;
}

static const H5FD_class_t sink_class = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)H5_VFD_RESERVED + 77,
#endif
    .name = "agewright-sink",
    .maxaddr = (haddr_t)INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(sink_info),
    .open = sink_open,
    .close = sink_close,
    .query = sink_query,
    .get_eoa = sink_get_eoa,
    .set_eoa = sink_set_eoa,
    .get_eof = sink_get_eof,
    .read = sink_read,
    .write = sink_write,
    .truncate = sink_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

/* --- writing ---------------------------------------------------------------------------------- */

struct train_h5_writer {
    ag_ctx *ctx;
    const char *path;
    sink to;
    hid_t driver, file;
};

/* Properties of access for a file that is written: checksummed metadata, and a metadata cache that
 * holds all of it, so that nothing has to be read back from a disk that failed. */
static hid_t access_for_writing(const train_h5_writer *w)
{
    const sink_info info = {(sink *)&w->to};
    const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5AC_cache_config_t cache = {.version = H5AC__CURR_CACHE_CONFIG_VERSION};

    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    H5Pset_driver(access, w->driver, &info);
    if (H5Pget_mdc_config(access, &cache) >= 0) {
        cache.set_initial_size = 1;
        cache.initial_size = 32 << 20;
        cache.decr_mode = H5C_decr__off;
        H5Pset_mdc_config(access, &cache);
    }
    return access;
}

static ag_status cannot_write(const train_h5_writer *w)
{
    return ag_fail(w->ctx, AG_EIO, "%s: cannot be written: %s", w->path, strerror(w->to.error));
}

/* Ask for the room. File systems that cannot promise it are taken at their word later. */
static ag_status reserve(train_h5_writer *w, uint64_t bytes)
{
    if (bytes > 0 && bytes <= INT64_MAX && fallocate(w->to.fd, 0, 0, (off_t)bytes) != 0 &&
        errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR) {
        w->to.error = errno;
        return cannot_write(w);
    }
    return AG_OK;
}

ag_status train_h5_create(train_h5_writer **out, ag_ctx *ctx, const char *path,
                          uint64_t expected_bytes)
{
    train_h5_writer *w = ag_new(ctx, 1, sizeof *w, path);
    char text[200];
    hid_t access, how;
    report r;

    if (!w)
        return AG_ENOMEM;
    *w = (train_h5_writer){.ctx = ctx, .path = path, .driver = -1, .file = -1};
    w->to.limit = -1;
    w->to.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->to.fd < 0) {
        w->to.error = errno;
        cannot_write(w);
    } else if (reserve(w, expected_bytes) == AG_OK) {
        r = enter();
        w->driver = H5FDregister(&sink_class);
        access = access_for_writing(w);
        how = H5Pcreate(H5P_FILE_CREATE);
        H5Pset_obj_track_times(how, false); /* of the root group */
        w->file = H5Fcreate(path, H5F_ACC_TRUNC, how, access);
        if (w->file < 0)
            ag_fail(ctx, AG_EIO, "%s: %s", path, library_says(text));
        H5Pclose(how);
        H5Pclose(access);
        leave(r);
    }
    if (ag_status_of(ctx) != AG_OK) {
        train_h5_finish(w);
        return ag_status_of(ctx);
    }
    *out = w;
    return AG_OK;
}

/* The dataset for a tensor; < 0 when libhdf5 refuses. */
static hid_t make_dataset(const train_h5_writer *w, const char *name, hid_t type, int n,
                          const hsize_t *shape, bool is_empty)
{
    const hid_t space = H5Screate_simple(n, shape, NULL), how = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[AG_MAX_DIMS];
    hid_t set = -1;

    H5Pset_obj_track_times(how, false); /* the same values give the same file */
    H5Pset_fill_time(how, H5D_FILL_TIME_NEVER);
    if (!is_empty) {
        chunk_shape(chunk, n, shape, H5Tget_size(type));
        H5Pset_chunk(how, n, chunk);
    }
    if (is_empty || H5Pset_fletcher32(how) >= 0)
        set = H5Dcreate2(w->file, name, type, space, H5P_DEFAULT, how, H5P_DEFAULT);
    H5Pclose(how);
    H5Sclose(space);
    return set;
}

static bool put_sum(hid_t set, uint32_t crc32c)
{
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute =
        H5Acreate2(set, "crc32c", H5T_STD_U32LE, space, H5P_DEFAULT, H5P_DEFAULT);
    const bool ok = attribute >= 0 && H5Awrite(attribute, H5T_NATIVE_UINT32, &crc32c) >= 0;

    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    return ok;
}

ag_status train_h5_put(train_h5_writer *w, const char *name, ag_dtype dtype, int n_dims,
                       const int64_t *dims, const void *values, uint32_t crc32c)
{
    hsize_t shape[AG_MAX_DIMS];
    const int n = file_shape(shape, n_dims, dims);
    hid_t file_type, memory_type, set;
    bool is_empty = false, ok;
    char text[200];
    report r;

    if (!name[0] || strchr(name, '/') || strcmp(name, ".") == 0)
        return ag_fail(w->ctx, AG_EINVAL, "%s: \"%s\" cannot be the name of a tensor here", w->path,
                       name);
    for (int i = 0; i < n; i++)
        is_empty |= shape[i] == 0;
    r = enter();
    if (!types_of(&file_type, &memory_type, dtype)) {
        leave(r);
        return ag_fail(w->ctx, AG_EDTYPE, "%s: %s is %s: a checkpoint keeps f32, f64, i64 and u8",
                       w->path, name, ag_dtype_name(dtype));
    }
    set = make_dataset(w, name, file_type, n, shape, is_empty);
    ok = set >= 0 &&
         (is_empty || H5Dwrite(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0) &&
         put_sum(set, crc32c);
    if (!ok)
        ag_fail(w->ctx, AG_EIO, "%s: %s: %s", w->path, name, library_says(text));
    if (set >= 0)
        H5Dclose(set);
    leave(r);
    return w->to.error ? cannot_write(w) : ag_status_of(w->ctx);
}

ag_status train_h5_finish(train_h5_writer *w)
{
    ag_status status;
    report r;
    bool closed = true;

    if (!w)
        return AG_OK;
    r = enter();
    if (w->file >= 0)
        closed = H5Fclose(w->file) >= 0;
    if (w->driver >= 0)
        H5FDunregister(w->driver);
    leave(r);
    /* a failed fsync is final: the pages may count as clean, so asking again proves nothing */
    if (!w->to.error && w->file >= 0 &&
        (ftruncate(w->to.fd, (off_t)w->to.eoa) != 0 || (fsync(w->to.fd) != 0 && errno != EINVAL)))
        w->to.error = errno;
    if (w->to.fd >= 0 && close(w->to.fd) != 0 && !w->to.error)
        w->to.error = errno;
    if (w->to.error)
        cannot_write(w);
    else if (!closed)
        ag_fail(w->ctx, AG_EIO, "%s: libhdf5 could not close it", w->path);
    status = ag_status_of(w->ctx);
    ag_delete(w);
    return status;
}

void train_h5_set_limit(train_h5_writer *w, int64_t bytes)
{
    w->to.limit = bytes;
}

/* --- reading ---------------------------------------------------------------------------------- */

struct train_h5_reader {
    ag_ctx *ctx;
    char *path;
    hid_t file;
};

ag_status train_h5_open(train_h5_reader **out, ag_ctx *ctx, const char *path)
{
    train_h5_reader *reader = ag_new(ctx, 1, sizeof *reader, path);
    char text[200];
    hid_t access;
    report r;

    if (!reader)
        return AG_ENOMEM;
    reader->ctx = ctx;
    reader->path = ag_strdup(ctx, path);
    r = enter();
    access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7) && !H5_VERSION_GE(1, 11, 0) || H5_VERSION_GE(1, 12, 1)
    H5Pset_file_locking(access, false,
                        true); /* nobody writes it any more; some NFS have no locks */
#endif
    reader->file = reader->path ? H5Fopen(path, H5F_ACC_RDONLY, access) : -1;
    if (reader->file < 0)
        ag_fail(ctx, AG_EDATA, "%s: not an HDF5 file: %s", path, library_says(text));
    H5Pclose(access);
    leave(r);
    if (ag_status_of(ctx) != AG_OK) {
        train_h5_close(reader);
        return ag_status_of(ctx);
    }
    *out = reader;
    return AG_OK;
}

void train_h5_close(train_h5_reader *reader)
{
    report r;

    if (!reader)
        return;
    r = enter();
    if (reader->file >= 0)
        H5Fclose(reader->file);
    leave(r);
    ag_delete(reader->path);
    ag_delete(reader);
}

/* Nothing but plain chunks with Fletcher32 inside this file. */
static bool is_plain(hid_t set, bool is_empty)
{
    const hid_t how = H5Dget_create_plist(set);
    const H5D_layout_t layout = H5Pget_layout(how);
    bool ok =
        layout == (is_empty ? H5D_CONTIGUOUS : H5D_CHUNKED) && H5Pget_external_count(how) == 0;

    for (int i = 0; ok && i < H5Pget_nfilters(how); i++) {
        unsigned flags, config;
        size_t n = 0;
        ok = H5Pget_filter2(how, (unsigned)i, &flags, &n, NULL, 0, NULL, &config) ==
             H5Z_FILTER_FLETCHER32;
    }
    H5Pclose(how);
    return ok;
}

static bool has_shape(hid_t set, int n, const hsize_t *shape)
{
    const hid_t space = H5Dget_space(set);
    hsize_t found[H5S_MAX_RANK];
    bool ok = H5Sget_simple_extent_type(space) == H5S_SIMPLE &&
              H5Sget_simple_extent_ndims(space) == n &&
              H5Sget_simple_extent_dims(space, found, NULL) == n;

    for (int i = 0; ok && i < n; i++)
        ok = found[i] == shape[i];
    H5Sclose(space);
    return ok;
}

static bool has_type(hid_t set, hid_t want)
{
    const hid_t type = H5Dget_type(set);
    const bool ok = H5Tequal(type, want) > 0;

    H5Tclose(type);
    return ok;
}

ag_status train_h5_get(train_h5_reader *reader, const char *name, ag_dtype dtype, int n_dims,
                       const int64_t *dims, void *values)
{
    hsize_t shape[AG_MAX_DIMS];
    const int n = file_shape(shape, n_dims, dims);
    hid_t file_type = -1, memory_type = -1, set = -1;
    ag_status status = AG_OK;
    H5L_info_t link;
    bool is_empty = false;
    char text[200];
    report r = enter();

    for (int i = 0; i < n; i++)
        is_empty |= shape[i] == 0;
    if (H5Lget_info(reader->file, name, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD)
        status = ag_fail(reader->ctx, AG_EDATA, "%s: holds no tensor %s", reader->path, name);
    else if ((set = H5Dopen2(reader->file, name, H5P_DEFAULT)) < 0)
        status =
            ag_fail(reader->ctx, AG_EDATA, "%s: %s: %s", reader->path, name, library_says(text));
    else if (!types_of(&file_type, &memory_type, dtype) || !has_type(set, file_type) ||
             !has_shape(set, n, shape) || !is_plain(set, is_empty))
        status = ag_fail(reader->ctx, AG_EDATA, "%s: %s is not stored as its manifest says",
                         reader->path, name);
    else if (!is_empty && H5Dread(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)
        status =
            ag_fail(reader->ctx, AG_EDATA, "%s: %s: %s", reader->path, name, library_says(text));
    if (set >= 0)
        H5Dclose(set);
    leave(r);
    return status;
}
