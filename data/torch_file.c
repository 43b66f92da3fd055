/* torch_file.c - listing the tensors of a torch file: an archive with a pickle and raw storages.
 *
 *   ROOT/data.pkl     the pickle (data/pickle.h)
 *   ROOT/byteorder    "little"; absent in older files
 *   ROOT/data/KEY     a storage's values
 *
 * What the pickle says of a tensor (offset, sizes, strides, count) is believed only after it is
 * compared with the bytes its storage really has.
 *
 * Source  pytorch/pytorch: torch/serialization.py (the archive's layout).
 */
#include <stdio.h>
#include <string.h>

#include "data/pickle.h"
#include "data/weights_internal.h"
#include "data/zip.h"

enum {
    ALWAYS_BYTES = 1 << 20, /* what repeated values may take, however small their storage */
    REPEATED = 16,          /* all tensors together may take this many times the file */
    MAX_VISITED = 4000000,  /* dictionary entries */
    MAX_NUMBERS = 64,       /* that are kept as metadata */
    MAX_NESTED = DATA_PICKLE_DEPTH
};

typedef struct torch_file {
    ag_ctx *ctx;
    data_weights *w;
    const data_file *file;
    int64_t file_index;
    data_zip zip;
    int64_t *member_of; /* of w->members, by archive member; -1: not listed yet */
    char root[DATA_ZIP_NAME + 1];
    size_t n_root;
    uint64_t n_bytes; /* of all tensors so far */
    int64_t n_listed, n_visited;
} torch_file;

/* --- one tensor ------------------------------------------------------------------------------- */

static ag_status bad_tensor(const torch_file *f, const char *name, size_t n_name, const char *what)
{
    char shown[WEIGHTS_SHOWN];

    return ag_fail(f->ctx, AG_EDATA, "%s: tensor %s: %s", f->file->path,
                   weights_shown(shown, name, n_name), what);
}

/* The entry of w->members for an archive member, made at its first use. */
static ag_status list_member(int64_t *out, torch_file *f, int64_t archive_member)
{
    data_weights *w = f->w;
    const data_zip_member *m = &f->zip.members[archive_member];
    const int64_t n = w->n_members;

    if (f->member_of[archive_member] < 0) {
        char *name = weights_text(f->ctx, w, m->name, strlen(m->name));

        if (!name)
            return AG_ENOMEM;
        if ((n & (n - 1)) == 0) { /* room doubles at the powers of two */
            weight_member *members =
                ag_grow(f->ctx, w->members, n ? 2 * (size_t)n : 1, sizeof *members, w->path);

            if (!members)
                return AG_ENOMEM;
            w->members = members;
        }
        w->members[n] = (weight_member){name, m->at, m->size, m->crc, f->file_index,
                                        WEIGHT_UNCHECKED};
        f->member_of[archive_member] = w->n_members++;
    }
    *out = f->member_of[archive_member];
    return AG_OK;
}

/* The archive member of a storage; -1: there is none. */
static int64_t find_storage(torch_file *f, const data_pickle_storage *s)
{
    char path[DATA_ZIP_NAME + 1];

    if (f->n_root + 5 + s->n_key >= sizeof path || memchr(s->key, 0, s->n_key) ||
        memchr(s->key, '/', s->n_key))
        return -1;
    memcpy(path, f->root, f->n_root);
    memcpy(path + f->n_root, "data/", 5);
    memcpy(path + f->n_root + 5, s->key, s->n_key);
    path[f->n_root + 5 + s->n_key] = 0;
    return data_zip_find(&f->zip, path);
}

/* Values and last storage index (-1: no values) of a view. False when 64 bits do not hold them. */
static bool measure(const data_pickle_tensor *t, int64_t *n_values, int64_t *last)
{
    *n_values = 1;
    *last = t->offset;
    for (int d = 0; d < t->n_dims; d++)
        if (__builtin_mul_overflow(*n_values, t->dims[d], n_values))
            return false;
    for (int d = 0; d < t->n_dims && *n_values > 0; d++) {
        int64_t reach;

        if (__builtin_mul_overflow(t->dims[d] - 1, t->strides[d], &reach) ||
            __builtin_add_overflow(*last, reach, last))
            return false;
    }
    if (*n_values == 0)
        *last = -1;
    return true;
}

static bool is_row_major(const data_pickle_tensor *t)
{
    int64_t step = 1;

    for (int d = t->n_dims - 1; d >= 0; d--) {
        if (t->dims[d] != 1 && t->strides[d] != step)
            return false;
        step *= t->dims[d];
    }
    return true;
}

static ag_status add_tensor(torch_file *f, const char *name, size_t n_name,
                            const data_pickle_tensor *t)
{
    const data_pickle_storage *s = t->storage;
    const int64_t size = (int64_t)data_dtype_size(s->dtype), archive = find_storage(f, s);
    const uint64_t total = f->file->size > UINT64_MAX / 2 / REPEATED
                               ? UINT64_MAX / 2
                               : REPEATED * f->file->size + ALWAYS_BYTES;
    int64_t n_values, last, n_bytes, member, *numbers;
    weight_record *r;
    uint64_t held;

    if (n_name > DATA_TENSOR_NAME || !weights_is_utf8(name, n_name))
        return bad_tensor(f, name, n_name, "a name that is too long or not UTF-8");
    if (archive < 0)
        return bad_tensor(f, name, n_name, "its storage is not in the archive");
    held = f->zip.members[archive].size;
    if ((uint64_t)s->numel > held / (uint64_t)size)
        return bad_tensor(f, name, n_name, "its storage is shorter than the pickle says");
    if (!measure(t, &n_values, &last) || __builtin_mul_overflow(n_values, size, &n_bytes) ||
        last >= s->numel)
        return bad_tensor(f, name, n_name, "reaches beyond its storage");
    if (f->n_listed++ == DATA_PICKLE_TENSORS)
        return bad_tensor(f, name, n_name, "too many tensors");
    f->n_bytes += (uint64_t)n_bytes;
    if (((uint64_t)n_bytes > held && n_bytes > ALWAYS_BYTES) || f->n_bytes > total)
        return bad_tensor(f, name, n_name, "its values repeat too often");
    r = weights_add(f->ctx, f->w);
    numbers = weights_take(f->ctx, f->w, 2 * (size_t)t->n_dims * sizeof *numbers);
    if (!r || !numbers || list_member(&member, f, archive) != AG_OK)
        return AG_ENOMEM;
    for (int d = 0; d < t->n_dims; d++) {
        numbers[d] = t->dims[d];
        numbers[t->n_dims + d] = t->strides[d];
    }
    r->told = (data_tensor){.name = weights_text(f->ctx, f->w, name, n_name),
                            .dtype = s->dtype,
                            .dtype_name = data_dtype_name(s->dtype),
                            .n_dims = t->n_dims,
                            .dims = numbers,
                            .n_values = n_values,
                            .n_bytes = (size_t)n_bytes};
    if (!r->told.name)
        return AG_ENOMEM;
    /* of no values, anything is row-major and stands anywhere */
    r->strides = n_values == 0 || is_row_major(t) ? NULL : numbers + t->n_dims;
    r->at = f->zip.members[archive].at + (n_values ? (uint64_t)t->offset * (uint64_t)size : 0);
    r->file = f->file_index;
    r->member = member;
    return AG_OK;
}

/* --- the dictionary --------------------------------------------------------------------------- */

/* One dictionary being walked. */
typedef struct level {
    const data_pickle_value *dict;
    const data_pickle_value *state_dict; /* what stands under that key, or NULL */
    int64_t i;                           /* -1 while state_dict is to come */
    size_t n_prefix;
} level;

static const data_pickle_value *state_dict_of(const data_pickle_value *dict)
{
    for (int64_t i = 0; i + 1 < data_pickle_length(dict); i += 2)
        if (data_pickle_is_text(data_pickle_item(dict, i), "state_dict") &&
            data_pickle_item(dict, i + 1)->kind == DATA_PICKLE_DICT)
            return data_pickle_item(dict, i + 1);
    return NULL;
}

static ag_status enter(torch_file *f, level *levels, int *depth, const data_pickle_value *dict,
                       size_t n_prefix)
{
    const data_pickle_value *inner;

    if (*depth == MAX_NESTED)
        return ag_fail(f->ctx, AG_EDATA, "%s: dictionaries nested too deep", f->file->path);
    f->n_visited += data_pickle_length(dict);
    if (f->n_visited > MAX_VISITED)
        return ag_fail(f->ctx, AG_EDATA, "%s: too many dictionary entries", f->file->path);
    inner = state_dict_of(dict);
    levels[(*depth)++] = (level){dict, inner, inner ? -1 : 0, n_prefix};
    return AG_OK;
}

/* A whole number beside a state_dict, such as global_step. */
static ag_status add_number(torch_file *f, const data_pickle_value *key, const data_pickle_value *v)
{
    char name[64], digits[32];

    if (key->n >= sizeof name || !weights_is_utf8(key->as.text, key->n) ||
        f->w->n_metadata >= MAX_NUMBERS)
        return AG_OK;
    memcpy(name, key->as.text, key->n);
    name[key->n] = 0;
    snprintf(digits, sizeof digits, "%lld", (long long)v->as.integer);
    return data_weights_metadata(f->w, name) ? AG_OK
                                             : weights_add_metadata(f->ctx, f->w, name, digits);
}

/* Add every tensor of the tree below `top`; see weights.h for which, and under which names. */
static ag_status walk(torch_file *f, const data_pickle_value *top)
{
    level levels[MAX_NESTED];
    char name[DATA_TENSOR_NAME + 1];
    int depth = 0;
    ag_status status = enter(f, levels, &depth, top, 0);

    while (status == AG_OK && depth > 0) {
        level *l = &levels[depth - 1];
        const data_pickle_value *key, *v;
        size_t n_name;

        if (l->i < 0) {
            l->i = 0;
            status = enter(f, levels, &depth, l->state_dict, l->n_prefix);
            continue;
        }
        if (l->i + 1 >= data_pickle_length(l->dict)) {
            depth--;
            continue;
        }
        key = data_pickle_item(l->dict, l->i);
        v = data_pickle_item(l->dict, l->i + 1);
        l->i += 2;
        if (key->kind == DATA_PICKLE_STRING && v->kind == DATA_PICKLE_INT && l->state_dict)
            status = add_number(f, key, v);
        if (key->kind != DATA_PICKLE_STRING ||
            (v->kind != DATA_PICKLE_TENSOR && (v->kind != DATA_PICKLE_DICT || l->state_dict)))
            continue;
        n_name = l->n_prefix + key->n;
        if (n_name >= DATA_TENSOR_NAME) {
            status = bad_tensor(f, key->as.text, key->n, "a name that is too long");
            continue;
        }
        memcpy(name + l->n_prefix, key->as.text, key->n);
        if (v->kind == DATA_PICKLE_TENSOR) {
            status = add_tensor(f, name, n_name, v->as.tensor);
        } else {
            name[n_name] = '.';
            status = enter(f, levels, &depth, v, n_name + 1);
        }
    }
    return status;
}

/* --- the archive ------------------------------------------------------------------------------ */

/* ROOT/data.pkl: one of them, its folder is the root. */
static ag_status find_root(torch_file *f, int64_t *pickle)
{
    static const char ending[] = "/data.pkl";
    const size_t n_ending = sizeof ending - 1;

    *pickle = -1;
    for (int64_t i = 0; i < f->zip.n_members; i++) {
        const char *name = f->zip.members[i].name;
        const char *slash = strchr(name, '/');

        if (!slash || strcmp(slash, ending) != 0)
            continue;
        if (*pickle >= 0)
            return ag_fail(f->ctx, AG_EDATA, "%s: the archive holds two data.pkl", f->file->path);
        *pickle = i;
        f->n_root = strlen(name) - n_ending + 1;
        memcpy(f->root, name, f->n_root);
    }
    if (*pickle < 0)
        return ag_fail(f->ctx, AG_EDATA, "%s: not a torch file: the archive holds no data.pkl",
                       f->file->path);
    return AG_OK;
}

/* A member of the root by its name; -1: there is none. */
static int64_t find_in_root(const torch_file *f, const char *name)
{
    char path[DATA_ZIP_NAME + 32];

    memcpy(path, f->root, f->n_root);
    memcpy(path + f->n_root, name, strlen(name) + 1);
    return data_zip_find(&f->zip, path);
}

static ag_status check_root(torch_file *f)
{
    const int64_t order = find_in_root(f, "byteorder");
    uint8_t *text = NULL;
    ag_status status = AG_OK;

    if (find_in_root(f, "constants.pkl") >= 0)
        return ag_fail(f->ctx, AG_EUNSUPPORTED,
                       "%s: a TorchScript program; wanted a dictionary of tensors", f->file->path);
    if (order < 0)
        return AG_OK;
    status = data_zip_read(&text, f->ctx, f->file, &f->zip.members[order], 16);
    if (status != AG_OK)
        return status;
    if (f->zip.members[order].size != 6 || memcmp(text, "little", 6) != 0)
        status = ag_fail(f->ctx, AG_EUNSUPPORTED,
                         "%s: values that are not little-endian are not read", f->file->path);
    ag_delete(text);
    return status;
}

ag_status weights_scan_torch(ag_ctx *ctx, data_weights *w, int64_t file_index)
{
    torch_file f = {.ctx = ctx, .w = w, .file = &w->files[file_index], .file_index = file_index};
    data_pickle *pickle = NULL;
    uint8_t *bytes = NULL;
    int64_t at = -1;
    ag_status status = data_zip_list(&f.zip, ctx, f.file);

    if (status != AG_OK)
        return status;
    status = find_root(&f, &at);
    if (status == AG_OK)
        status = check_root(&f);
    if (status == AG_OK)
        status = data_zip_read(&bytes, ctx, f.file, &f.zip.members[at], DATA_PICKLE_BYTES);
    if (status == AG_OK)
        status = data_pickle_read(&pickle, ctx, f.file->path, bytes,
                                  (size_t)f.zip.members[at].size);
    if (status == AG_OK && data_pickle_top(pickle)->kind != DATA_PICKLE_DICT)
        status = ag_fail(ctx, AG_EDATA, "%s: holds %s; wanted a dictionary of tensors",
                         f.file->path,
                         data_pickle_top(pickle)->kind == DATA_PICKLE_TENSOR ? "a single tensor"
                                                                             : "another object");
    if (status == AG_OK) {
        f.member_of = ag_new(ctx, (size_t)f.zip.n_members, sizeof *f.member_of, f.file->path);
        status = f.member_of ? AG_OK : AG_ENOMEM;
    }
    if (status == AG_OK) {
        memset(f.member_of, 0xFF, (size_t)f.zip.n_members * sizeof *f.member_of);
        status = walk(&f, data_pickle_top(pickle));
    }
    data_pickle_free(pickle);
    ag_delete(bytes);
    ag_delete(f.member_of);
    data_zip_free(&f.zip);
    return status;
}
