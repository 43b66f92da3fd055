/* hub.c - a model's name to a place on this disk.
 *
 * Source  huggingface/huggingface_hub: docs/source/en/guides/manage-cache.md (layout of the cache).
 */
#include "data/hub.h"

#include <ctype.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/text_file.h"

static bool is_there(const char *path)
{
    struct stat info;

    return path && stat(path, &info) == 0;
}

/* owner/name or name: letters, digits, '-', '_', '.', no part of dots only. */
static bool is_hub_id(const char *id)
{
    int n_slashes = 0;
    bool has_letter = false;

    for (const char *c = id; *c; c++) {
        if (*c == '/') {
            if (!has_letter || ++n_slashes > 1)
                return false;
            has_letter = false;
        } else if (isalnum((unsigned char)*c) || *c == '-' || *c == '_') {
            has_letter = true;
        } else if (*c != '.') {
            return false;
        }
    }
    return has_letter;
}

/* Give *out the path when it exists; it is freed otherwise. */
static bool take(char **out, char *path)
{
    if (is_there(path)) {
        *out = path;
        return true;
    }
    ag_delete(path);
    return false;
}

/* DIR/owner/name or DIR/name of every folder in $AGEWRIGHT_MODELS. */
static bool find_in_own(char **out, ag_ctx *ctx, const char *id)
{
    const char *folders = getenv("AGEWRIGHT_MODELS");
    const char *name = strchr(id, '/') ? strchr(id, '/') + 1 : id;

    while (folders && *folders) {
        const int n = (int)strcspn(folders, ":");

        if (n > 0 && (take(out, ag_printf(ctx, "%.*s/%s", n, folders, id)) ||
                      take(out, ag_printf(ctx, "%.*s/%s", n, folders, name))))
            return true;
        folders += n + (folders[n] == ':');
    }
    return false;
}

char *data_hub_cache(ag_ctx *ctx)
{
    static const struct {
        const char *variable, *below;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HUGGINGFACE_HUB_CACHE", ""},
                  {"HF_HOME", "/hub"},
                  {"XDG_CACHE_HOME", "/huggingface/hub"},
                  {"HOME", "/.cache/huggingface/hub"}};

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        const char *value = getenv(places[i].variable);

        if (value && *value)
            return ag_printf(ctx, "%s%s", value, places[i].below);
    }
    return NULL;
}

/* The snapshot whose name begins with `begin` (4 characters or more), or, with NULL, the newest. */
static char *find_snapshot(ag_ctx *ctx, const char *model, const char *begin)
{
    char *folder = ag_printf(ctx, "%s/snapshots", model), *best = NULL;
    DIR *listing = folder ? opendir(folder) : NULL;
    struct timespec newest = {0, 0};
    const struct dirent *entry;

    if (begin && strlen(begin) < 4)
        goto out;
    while (listing && (entry = readdir(listing))) {
        char *path;
        struct stat info;
        bool better;

        if (entry->d_name[0] == '.' || (begin && strncmp(entry->d_name, begin, strlen(begin)) != 0))
            continue;
        path = ag_printf(ctx, "%s/%s", folder, entry->d_name);
        if (!path || stat(path, &info) != 0 || !S_ISDIR(info.st_mode)) {
            ag_delete(path);
            continue;
        }
        better = !best || info.st_mtim.tv_sec > newest.tv_sec ||
                 (info.st_mtim.tv_sec == newest.tv_sec && strcmp(path, best) > 0);
        if (better)
            newest = info.st_mtim;
        ag_delete(better ? best : path);
        if (better)
            best = path;
    }
out:
    if (listing)
        closedir(listing);
    ag_delete(folder);
    return best;
}

/* Find the id below the cache folder: *model is its folder there, whether it exists or not. */
static bool find_in_cache(char **out, char **model, ag_ctx *ctx, const char *cache, const char *id,
                          const char *revision)
{
    const char *slash = strchr(id, '/');
    char *ref, *commit = NULL;
    size_t size = 0;

    *model = slash ? ag_printf(ctx, "%s/models--%.*s--%s", cache, (int)(slash - id), id, slash + 1)
                   : ag_printf(ctx, "%s/models--%s", cache, id);
    if (!*model || !is_there(*model))
        return false;
    ref = ag_printf(ctx, "%s/refs/%s", *model, revision ? revision : "main");
    if (is_there(ref) && data_file_read(&commit, &size, ctx, ref, 4096) == AG_OK) {
        commit[strcspn(commit, " \t\r\n")] = 0;
        if (commit[0] && !strchr(commit, '/'))
            take(out, ag_printf(ctx, "%s/snapshots/%s", *model, commit));
        ag_delete(commit);
    } else {
        *out = find_snapshot(ctx, *model, revision);
    }
    ag_delete(ref);
    return *out != NULL;
}

ag_status data_resolve_model(char **out, ag_ctx *ctx, const char *id_or_path, const char *revision)
{
    char *cache = NULL, *model = NULL, *found = NULL;
    ag_status status = AG_OK;

    if (is_there(id_or_path)) {
        *out = ag_strdup(ctx, id_or_path);
        return *out ? AG_OK : AG_ENOMEM;
    }
    if (!is_hub_id(id_or_path))
        return ag_fail(ctx, AG_EIO, "%s: there is no such file or folder", id_or_path);
    if (revision && (strstr(revision, "..") || revision[0] == '/'))
        return ag_fail(ctx, AG_EINVAL, "%s: not a revision's name", revision);
    cache = data_hub_cache(ctx);
    if (!find_in_own(&found, ctx, id_or_path) && cache)
        find_in_cache(&found, &model, ctx, cache, id_or_path, revision);
    if (ag_status_of(ctx) != AG_OK) {
        ag_delete(found);
        status = ag_status_of(ctx);
    } else if (found) {
        *out = found;
    } else if (model && is_there(model)) {
        status = ag_fail(ctx, AG_EIO, "%s: %s holds no snapshot of revision %s", id_or_path, model,
                         revision ? revision : "main");
    } else {
        status = ag_fail(ctx, AG_EIO,
                         "%s: no such path, and not in the hub's cache; put the model's folder at "
                         "%s/snapshots/<revision>, or at DIR/%s with AGEWRIGHT_MODELS=DIR",
                         id_or_path, model ? model : "models--owner--name", id_or_path);
    }
    ag_delete(cache);
    ag_delete(model);
    return status;
}
