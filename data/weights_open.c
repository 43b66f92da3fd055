/* weights_open.c - opening weight files: by content, by an index, by the names in a folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/json.h"
#include "data/weights_internal.h"

enum { MAX_SHARDS = 512, MAX_INDEX_BYTES = 64 << 20 };

/* --- which file it is ------------------------------------------------------------------------- */

static bool begins(const char *bytes, size_t n, const char *with, size_t n_with)
{
    return n >= n_with && memcmp(bytes, with, n_with) == 0;
}

static bool ends(const char *text, const char *with)
{
    const size_t n = strlen(text), k = strlen(with);

    return n >= k && strcmp(text + n - k, with) == 0;
}

/* List the tensors of an open file, told by its first bytes. */
static ag_status scan(ag_ctx *ctx, data_weights *w, int64_t i)
{
    static const char lfs[] = "version https://git-lfs";
    static const char old_torch[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    const data_file *file = &w->files[i];
    char head[64];
    const size_t n = file->size < sizeof head ? (size_t)file->size : sizeof head;
    const ag_status status = data_file_get(ctx, file, 0, n, head);

    if (status != AG_OK)
        return status;
    if (n == 0)
        return ag_fail(ctx, AG_EDATA, "%s: the file is empty", file->path);
    if (begins(head, n, lfs, strlen(lfs)))
        return ag_fail(ctx, AG_EDATA,
                       "%s: a git-lfs pointer, not the weights; fetch them with git lfs pull",
                       file->path);
    if (begins(head, n, "PK\x03\x04", 4))
        return weights_scan_torch(ctx, w, i);
    if (begins(head, n, old_torch, sizeof old_torch - 1))
        return ag_fail(ctx, AG_EUNSUPPORTED,
                       "%s: a torch file older than version 1.6, which is not read; load it with "
                       "torch and save it again",
                       file->path);
    if (begins(head, n, "\x80", 1) && n > 1 && head[1] >= 2 && head[1] <= 5 &&
        !(n > 8 && head[8] == '{'))
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: a bare pickle, which is not read", file->path);
    return weights_scan_safetensors(ctx, w, i);
}

/* Open one file by its path, or, with fd >= 0, through somebody else's descriptor. */
static ag_status open_file(data_weights **out, ag_ctx *ctx, int fd, const char *path)
{
    data_weights *w = weights_new(ctx, path, 1);
    ag_status status;

    if (!w)
        return AG_ENOMEM;
    status = fd < 0 ? data_file_open(&w->files[0], ctx, path)
                    : data_file_borrow(&w->files[0], ctx, fd, path);
    if (status == AG_OK) {
        w->n_files = 1;
        status = scan(ctx, w, 0);
    }
    if (status == AG_OK)
        status = weights_index_names(ctx, w);
    if (status != AG_OK) {
        data_weights_close(w);
        return status;
    }
    *out = w;
    return AG_OK;
}

static ag_status open_shards(data_weights **out, ag_ctx *ctx, const char *path);

ag_status data_weights_open(data_weights **out, ag_ctx *ctx, const char *path)
{
    if (data_is_folder(path))
        return data_weights_open_folder(out, ctx, path, NULL);
    if (ends(path, ".json"))
        return open_shards(out, ctx, path);
    return open_file(out, ctx, -1, path);
}

ag_status data_weights_open_fd(data_weights **out, ag_ctx *ctx, int fd, const char *name)
{
    return open_file(out, ctx, fd, name);
}

/* --- shards ----------------------------------------------------------------------------------- */

/* A shard lies beside its index: a plain file name, nothing that leads elsewhere. */
static bool is_plain_name(const char *name)
{
    const size_t n = strlen(name);

    return n > 0 && n < 256 && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\');
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different file names of the map, sorted; they live as long as the map. */
static ag_status shard_names(const char ***names, int64_t *n_names, ag_ctx *ctx, const char *path,
                             json_t *map)
{
    const size_t n = json_object_size(map);
    const char **list, *key;
    char shown[WEIGHTS_SHOWN];
    json_t *value;
    size_t i = 0;
    int64_t n_kept = 0;

    if (n == 0 || n > DATA_TENSORS_PER_FILE)
        return ag_fail(ctx, AG_EDATA, "%s: weight_map names %zu tensors", path, n);
    list = ag_new(ctx, n, sizeof *list, path);
    if (!list)
        return AG_ENOMEM;
    json_object_foreach (map, key, value) {
        const char *name = json_string_value(value);

        if (!name || !is_plain_name(name)) {
            ag_delete(list);
            return ag_fail(ctx, AG_EDATA, "%s: tensor %s: wanted a plain file name, got \"%s\"",
                           path, weights_shown(shown, key, strlen(key)), name ? name : "no text");
        }
        list[i++] = name;
    }
    qsort(list, n, sizeof *list, compare_texts);
    for (i = 0; i < n; i++)
        if (n_kept == 0 || strcmp(list[n_kept - 1], list[i]) != 0)
            list[n_kept++] = list[i];
    if (n_kept > MAX_SHARDS) {
        ag_delete(list);
        return ag_fail(ctx, AG_EDATA, "%s: %lld shards, at most %d are taken", path,
                       (long long)n_kept, MAX_SHARDS);
    }
    *names = list;
    *n_names = n_kept;
    return AG_OK;
}

/* The index and the shards must tell the same story, tensor by tensor. */
static ag_status compare_with_index(ag_ctx *ctx, const data_weights *w, json_t *map)
{
    char shown[WEIGHTS_SHOWN];
    const char *key;
    json_t *value;

    json_object_foreach (map, key, value) {
        const int64_t i = data_weights_find(w, key);
        const char *name = json_string_value(value);
        const char *file = i < 0 ? NULL : w->files[w->records[i].file].path;

        if (!file || strcmp(strrchr(file, '/') ? strrchr(file, '/') + 1 : file, name) != 0)
            return ag_fail(ctx, AG_EDATA, "%s: tensor %s should be in %s, it is in %s", w->path,
                           weights_shown(shown, key, strlen(key)), name, file ? file : "no shard");
    }
    for (int64_t i = 0; i < w->n_records; i++) {
        const char *name = w->records[i].told.name;

        if (!json_object_get(map, name))
            return ag_fail(ctx, AG_EDATA, "%s: tensor %s is not in the index %s",
                           w->files[w->records[i].file].path,
                           weights_shown(shown, name, strlen(name)), w->path);
    }
    return AG_OK;
}

static ag_status open_shards(data_weights **out, ag_ctx *ctx, const char *path)
{
    const char *slash = strrchr(path, '/');
    const int n_folder = slash ? (int)(slash + 1 - path) : 0;
    json_t *index = NULL, *map;
    const char **names = NULL;
    int64_t n = 0;
    data_weights *w = NULL;
    ag_status status = data_json_read(&index, ctx, path, MAX_INDEX_BYTES);

    if (status != AG_OK)
        return status;
    map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) {
        status = ag_fail(ctx, AG_EDATA, "%s: no weight_map; this is not an index of shards", path);
        goto out;
    }
    status = shard_names(&names, &n, ctx, path, map);
    if (status != AG_OK)
        goto out;
    w = weights_new(ctx, path, n);
    status = w ? AG_OK : AG_ENOMEM;
    for (int64_t i = 0; i < n && status == AG_OK; i++) {
        char *shard = ag_printf(ctx, "%.*s%s", n_folder, path, names[i]);

        status = shard ? data_file_open(&w->files[i], ctx, shard) : AG_ENOMEM;
        ag_delete(shard);
        if (status == AG_OK) {
            w->n_files++;
            status = scan(ctx, w, i);
        }
    }
    if (status == AG_OK)
        status = weights_index_names(ctx, w);
    if (status == AG_OK)
        status = compare_with_index(ctx, w, map);
    if (status == AG_OK) {
        *out = w;
        w = NULL;
    }
out:
    data_weights_close(w);
    ag_delete(names);
    json_decref(index);
    return status;
}

/* --- folders ---------------------------------------------------------------------------------- */

/* The ways a component's file is called, best first. %1 the name, %2 the variant with its dot. */
typedef enum spelling {
    INDEX,           /* NAME.safetensors.index.V.json */
    INDEX_OLDER,     /* NAME.safetensors.V.index.json */
    SAFETENSORS,     /* NAME.V.safetensors */
    INDEX_BIN,       /* NAME.bin.index.V.json */
    INDEX_BIN_OLDER, /* NAME.bin.V.index.json */
    BIN,             /* NAME.V.bin */
    N_SPELLINGS
} spelling;

static char *spell(ag_ctx *ctx, const char *folder, const char *name, const char *variant,
                   spelling how)
{
    const char *dot = *variant ? "." : "";

    switch (how) {
    case INDEX:
        return ag_printf(ctx, "%s/%s.safetensors.index%s%s.json", folder, name, dot, variant);
    case INDEX_OLDER:
        return ag_printf(ctx, "%s/%s.safetensors%s%s.index.json", folder, name, dot, variant);
    case SAFETENSORS:
        return ag_printf(ctx, "%s/%s%s%s.safetensors", folder, name, dot, variant);
    case INDEX_BIN:
        return ag_printf(ctx, "%s/%s.bin.index%s%s.json", folder, name, dot, variant);
    case INDEX_BIN_OLDER:
        return ag_printf(ctx, "%s/%s.bin%s%s.index.json", folder, name, dot, variant);
    default:
        return ag_printf(ctx, "%s/%s%s%s.bin", folder, name, dot, variant);
    }
}

/* Nothing was found: say what is there. */
static ag_status say_what_is_there(ag_ctx *ctx, const char *folder, const char *variant)
{
    static const char *const endings[] = {".safetensors", ".bin", ".index.json", NULL};
    char **names = NULL, list[512] = "";
    int64_t n = 0;
    size_t used = 0;
    const ag_status status = data_folder_list(&names, &n, ctx, folder, endings);

    if (status != AG_OK)
        return status;
    for (int64_t i = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    ag_delete(names);
    return ag_fail(ctx, AG_EIO, "%s: no weights%s%s here; wanted "
                   "{diffusion_pytorch_model,model,pytorch_model}%s%s.{safetensors,bin}, found %s",
                   folder, *variant ? " of variant " : "", variant, *variant ? "." : "", variant,
                   n ? list : "none");
}

ag_status data_weights_open_folder(data_weights **out, ag_ctx *ctx, const char *folder,
                                   const char *variant)
{
    static const char *const names[] = {"diffusion_pytorch_model", "model", "pytorch_model"};

    variant = variant ? variant : "";
    if (strchr(variant, '/'))
        return ag_fail(ctx, AG_EINVAL, "variant \"%s\": wanted a word", variant);
    for (int how = 0; how < N_SPELLINGS; how++) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            char *path = spell(ctx, folder, names[i], variant, how);
            ag_status status;

            if (!path)
                return AG_ENOMEM;
            if (!data_is_file(path)) {
                ag_delete(path);
                continue;
            }
            status = data_weights_open(out, ctx, path);
            ag_delete(path);
            return status;
        }
    }
    return say_what_is_there(ctx, folder, variant);
}
