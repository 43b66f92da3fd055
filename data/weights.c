/* weights.c - the handle over weight files: which file it is, whose tensors, and reading them. */
#include "data/weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "data/weights_internal.h"

enum {
    BLOCK_BYTES = 1 << 14,
    CHECK_PIECE = 1 << 20,
    CONVERT_VALUES = 1 << 16
};

/* --- the handle ------------------------------------------------------------------------------- */

struct weight_block {
    weight_block *next;
    size_t used, room;
    _Alignas(16) char bytes[];
};

void *weights_take(ag_ctx *ctx, data_weights *w, size_t n_bytes)
{
    weight_block *block = w->blocks;
    const size_t n = (n_bytes + 7) & ~(size_t)7;
    char *taken;

    if (n < n_bytes || !block || block->room - block->used < n) {
        /* the first blocks are small: most files are */
        const size_t usual = block ? BLOCK_BYTES : BLOCK_BYTES / 16, room = n > usual ? n : usual;

        if (n < n_bytes || n > SIZE_MAX - BLOCK_BYTES) {
            ag_fail(ctx, AG_ENOMEM, "%s: no memory for %zu bytes", w->path, n_bytes);
            return NULL;
        }
        block = ag_grow(ctx, NULL, sizeof *block + room, 1, w->path);
        if (!block)
            return NULL;
        *block = (weight_block){.next = w->blocks, .room = room};
        w->blocks = block;
    }
    taken = block->bytes + block->used;
    block->used += n;
    memset(taken, 0, n);
    return taken;
}

char *weights_text(ag_ctx *ctx, data_weights *w, const char *text, size_t n_bytes)
{
    char *copy = weights_take(ctx, w, n_bytes + 1);

    if (copy && n_bytes > 0)
        memcpy(copy, text, n_bytes);
    return copy;
}

weight_record *weights_add(ag_ctx *ctx, data_weights *w)
{
    if (w->n_records == w->room_records) {
        const int64_t room = w->room_records + w->room_records / 2 + 16;
        weight_record *records = ag_grow(ctx, w->records, (size_t)room, sizeof *records, w->path);

        if (!records)
            return NULL;
        w->records = records;
        w->room_records = room;
    }
    memset(&w->records[w->n_records], 0, sizeof *w->records);
    w->records[w->n_records].member = -1;
    return &w->records[w->n_records++];
}

ag_status weights_add_metadata(ag_ctx *ctx, data_weights *w, const char *key, const char *value)
{
    const int64_t n = w->n_metadata;

    if ((n & (n - 1)) == 0) { /* room doubles at the powers of two */
        data_pair *pairs = ag_grow(ctx, w->metadata, n ? 2 * (size_t)n : 1, sizeof *pairs, w->path);

        if (!pairs)
            return AG_ENOMEM;
        w->metadata = pairs;
    }
    w->metadata[n].key = weights_text(ctx, w, key, strlen(key));
    w->metadata[n].value = weights_text(ctx, w, value, strlen(value));
    if (!w->metadata[n].key || !w->metadata[n].value)
        return AG_ENOMEM;
    w->n_metadata++;
    return AG_OK;
}

data_weights *weights_new(ag_ctx *ctx, const char *path, int64_t n_files)
{
    data_weights *w = ag_new(ctx, 1, sizeof *w, path);

    if (!w)
        return NULL;
    w->path = ag_strdup(ctx, path);
    w->files = w->path ? ag_new(ctx, (size_t)n_files, sizeof *w->files, path) : NULL;
    if (!w->files) {
        data_weights_close(w);
        return NULL;
    }
    return w;
}

void data_weights_close(data_weights *w)
{
    if (!w)
        return;
    for (int64_t i = 0; i < w->n_files; i++)
        data_file_close(&w->files[i]);
    while (w->blocks) {
        weight_block *next = w->blocks->next;

        ag_delete(w->blocks);
        w->blocks = next;
    }
    ag_delete(w->members);
    ag_delete(w->metadata);
    ag_delete(w->by_name);
    ag_delete(w->records);
    ag_delete(w->files);
    ag_delete(w->path);
    ag_delete(w);
}

static int compare_records(const void *a, const void *b, void *user)
{
    const weight_record *records = user;
    const int64_t i = *(const int64_t *)a, k = *(const int64_t *)b;
    const int order = strcmp(records[i].told.name, records[k].told.name);

    return order ? order : (i > k) - (i < k);
}

ag_status weights_index_names(ag_ctx *ctx, data_weights *w)
{
    w->by_name = ag_new(ctx, (size_t)w->n_records, sizeof *w->by_name, w->path);
    if (!w->by_name)
        return AG_ENOMEM;
    for (int64_t i = 0; i < w->n_records; i++)
        w->by_name[i] = i;
    if (w->n_records > 1)
        qsort_r(w->by_name, (size_t)w->n_records, sizeof *w->by_name, compare_records, w->records);
    for (int64_t i = 1; i < w->n_records; i++) {
        const weight_record *a = &w->records[w->by_name[i - 1]], *b = &w->records[w->by_name[i]];
        char shown[WEIGHTS_SHOWN];

        if (strcmp(a->told.name, b->told.name) == 0)
            return ag_fail(ctx, AG_EDATA, "%s: tensor %s stands twice%s%s", w->files[b->file].path,
                           weights_shown(shown, b->told.name, strlen(b->told.name)),
                           a->file != b->file ? ", also in " : "",
                           a->file != b->file ? w->files[a->file].path : "");
    }
    return AG_OK;
}

/* --- asking ----------------------------------------------------------------------------------- */

const char *data_weights_path(const data_weights *w)
{
    return w->path;
}

int64_t data_weights_count(const data_weights *w)
{
    return w->n_records;
}

const data_tensor *data_weights_at(const data_weights *w, int64_t i)
{
    return &w->records[i].told;
}

int64_t data_weights_find(const data_weights *w, const char *name)
{
    int64_t low = 0, high = w->n_records;

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const int order = strcmp(w->records[w->by_name[middle]].told.name, name);

        if (order == 0)
            return w->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

const char *data_weights_file_of(const data_weights *w, int64_t i)
{
    return w->files[w->records[i].file].path;
}

int64_t data_weights_n_metadata(const data_weights *w)
{
    return w->n_metadata;
}

data_pair data_weights_metadata_at(const data_weights *w, int64_t i)
{
    return w->metadata[i];
}

const char *data_weights_metadata(const data_weights *w, const char *key)
{
    for (int64_t i = 0; i < w->n_metadata; i++)
        if (strcmp(w->metadata[i].key, key) == 0)
            return w->metadata[i].value;
    return NULL;
}

/* --- reading ---------------------------------------------------------------------------------- */

static int thread_number(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Sum a member and compare. 0, an errno value, or EBADMSG for another sum. `piece` has CHECK_PIECE
 * bytes. */
static int check_member(const data_weights *w, weight_member *member, void *piece)
{
    uint32_t crc = 0;

    for (uint64_t done = 0; done < member->size;) {
        const uint64_t left = member->size - done;
        const size_t n = left < CHECK_PIECE ? (size_t)left : CHECK_PIECE;
        const int error = data_file_pread(&w->files[member->file], member->at + done, n, piece);

        if (error)
            return error;
        crc = data_crc32(crc, piece, n);
        done += n;
    }
    member->verdict = crc == member->crc ? WEIGHT_GOOD : WEIGHT_DAMAGED;
    return crc == member->crc ? 0 : EBADMSG;
}

static ag_status say_damaged(ag_ctx *ctx, const data_weights *w, const weight_member *member,
                             int error)
{
    const char *path = w->files[member->file].path;

    if (error == EBADMSG)
        return ag_fail(ctx, AG_EDATA, "%s: %s is damaged: its checksum is not the archive's", path,
                       member->name);
    return ag_fail(ctx, AG_EIO, "%s: reading %s: %s", path, member->name, strerror(error));
}

/* Check the members from `first` up to `end`. */
static ag_status check_members(ag_ctx *ctx, data_weights *w, int64_t first, int64_t end)
{
    const int64_t n_left = end - first;
    const int n_threads = n_left < ag_ctx_threads(ctx) ? (int)n_left : ag_ctx_threads(ctx);
    char *pieces;
    int64_t failed = -1;
    int error = 0;

    if (n_left <= 0)
        return AG_OK;
    pieces = ag_grow(ctx, NULL, (size_t)n_threads, CHECK_PIECE, w->path);
    if (!pieces)
        return AG_ENOMEM;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic)
    for (int64_t k = first; k < end; k++) {
        weight_member *member = &w->members[k];
        int bad = member->verdict == WEIGHT_DAMAGED ? EBADMSG : 0;

        if (member->verdict == WEIGHT_UNCHECKED)
            bad = check_member(w, member, pieces + (size_t)thread_number() * CHECK_PIECE);
        if (bad) {
#pragma omp critical(weights_damaged)
            if (failed < 0 || k < failed) {
                failed = k;
                error = bad;
            }
        }
    }
    ag_delete(pieces);
    return failed < 0 ? AG_OK : say_damaged(ctx, w, &w->members[failed], error);
}

ag_status data_weights_check(ag_ctx *ctx, data_weights *w)
{
    return check_members(ctx, w, 0, w->n_members);
}

int data_weights_pread(const data_weights *w, int64_t i, size_t offset, size_t n_bytes, void *to)
{
    const weight_record *r = &w->records[i];
    const data_file *file = &w->files[r->file];
    const size_t size = data_dtype_size(r->told.dtype);

    if (size == 0)
        return ENOTSUP;
    if (n_bytes > r->told.n_bytes || offset > r->told.n_bytes - n_bytes)
        return ERANGE;
    if (n_bytes == 0)
        return 0;
    if (!r->strides)
        return data_file_pread(file, r->at + offset, n_bytes, to);
    if (offset % size || n_bytes % size)
        return EINVAL;
    return weights_gather(file, r, (int64_t)(offset / size), (int64_t)(n_bytes / size), to);
}

static ag_status say_unread(ag_ctx *ctx, const data_weights *w, int64_t i, int error)
{
    const data_tensor *t = &w->records[i].told;
    char shown[WEIGHTS_SHOWN];

    weights_shown(shown, t->name, strlen(t->name));
    if (error == ENOTSUP)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: tensor %s: dtype %s is not read",
                       data_weights_file_of(w, i), shown, t->dtype_name);
    if (error == ENODATA)
        return ag_fail(ctx, AG_EIO, "%s: became shorter while tensor %s was read",
                       data_weights_file_of(w, i), shown);
    return ag_fail(ctx, error == ENOMEM ? AG_ENOMEM : AG_EIO, "%s: reading tensor %s: %s",
                   data_weights_file_of(w, i), shown, strerror(error));
}

/* The checks before tensor i is read. */
static ag_status ready(ag_ctx *ctx, data_weights *w, int64_t i)
{
    const int64_t member = w->records[i].member;

    if (w->records[i].told.dtype == DATA_OTHER_DTYPE)
        return say_unread(ctx, w, i, ENOTSUP);
    return member < 0 ? AG_OK : check_members(ctx, w, member, member + 1);
}

ag_status data_weights_read(ag_ctx *ctx, data_weights *w, int64_t i, void *to)
{
    const weight_record *r = &w->records[i];
    const size_t n = r->told.n_bytes;
    /* what is gathered reads its span once only when it is gathered at once */
    const size_t piece = r->strides ? n : (size_t)4 << 20;
    int error = 0;
    const ag_status status = ready(ctx, w, i);

    if (status != AG_OK || n == 0)
        return status;
#pragma omp parallel for num_threads(ag_ctx_threads(ctx)) schedule(dynamic) if (n > piece)
    for (size_t at = 0; at < n; at += piece) {
        const size_t here = n - at < piece ? n - at : piece;
        const int bad = data_weights_pread(w, i, at, here, (char *)to + at);

        if (bad) {
#pragma omp atomic write
            error = bad;
        }
    }
    return error ? say_unread(ctx, w, i, error) : AG_OK;
}

ag_status data_weights_read_f32(ag_ctx *ctx, data_weights *w, int64_t i, float *to)
{
    const weight_record *r = &w->records[i];
    const data_dtype dtype = r->told.dtype;
    const size_t size = data_dtype_size(dtype);
    const int64_t n = r->told.n_values, piece = r->strides ? n : CONVERT_VALUES;
    const int64_t n_pieces = piece > 0 ? (n + piece - 1) / piece : 0;
    const int n_threads = n_pieces < ag_ctx_threads(ctx) ? (int)n_pieces : ag_ctx_threads(ctx);
    char *raw, shown[WEIGHTS_SHOWN];
    int error = 0;
    ag_status status;

    if (!data_dtype_is_float(dtype))
        return ag_fail(ctx, AG_EDTYPE, "%s: tensor %s: wanted floating values, got %s",
                       data_weights_file_of(w, i),
                       weights_shown(shown, r->told.name, strlen(r->told.name)),
                       r->told.dtype_name);
    if (dtype == DATA_F32)
        return data_weights_read(ctx, w, i, to);
    status = ready(ctx, w, i);
    if (status != AG_OK || n == 0)
        return status;
    raw = ag_grow(ctx, NULL, (size_t)n_threads * (size_t)(piece < n ? piece : n), size, w->path);
    if (!raw)
        return AG_ENOMEM;
#pragma omp parallel for num_threads(n_threads) schedule(dynamic) if (n_pieces > 1)
    for (int64_t at = 0; at < n; at += piece) {
        const int64_t here = n - at < piece ? n - at : piece;
        char *mine = raw + (size_t)thread_number() * (size_t)piece * size;
        const int bad = data_weights_pread(w, i, (size_t)at * size, (size_t)here * size, mine);

        if (bad) {
#pragma omp atomic write
            error = bad;
        } else {
            data_to_f32(to + at, dtype, mine, here);
        }
    }
    ag_delete(raw);
    return error ? say_unread(ctx, w, i, error) : AG_OK;
}
