/* dataset.c - what stands in a folder, sorted, joined with ages, checked before it is used. */
#include "data/dataset.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

bool data_is_image_name(const char *name)
{
    static const char *const endings[] = {".png", ".jpg", ".jpeg", ".webp", ".ppm",
                                          ".pgm", ".pbm", ".bmp",  ".tif",  ".tiff"};
    const char *dot = strrchr(name, '.');

    if (!dot || name[0] == '.')
        return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        if (!strcasecmp(dot, endings[i]))
            return true;
    }
    return false;
}

static void item_free(data_item *item)
{
    ag_delete(item->path);
    ag_delete(item->caption);
    ag_delete(item->mask);
}

void data_set_close(data_set *set)
{
    if (!set)
        return;
    for (int64_t i = 0; i < set->n; i++)
        item_free(&set->items[i]);
    ag_delete(set->items);
    *set = (data_set){0};
}

void data_set_keep(data_set *set, int64_t n)
{
    for (; set->n > n; set->n--)
        item_free(&set->items[set->n - 1]);
}

/* --- listing -------------------------------------------------------------------------------- */

static bool is_kind(const char *path, bool folder)
{
    struct stat info;

    return stat(path, &info) == 0 && (folder ? S_ISDIR(info.st_mode) : S_ISREG(info.st_mode));
}

static ag_status set_add(data_set *set, int64_t *room, ag_ctx *ctx, char *path, int64_t repeats)
{
    if (set->n == *room) {
        const int64_t more = *room ? 2 * *room : 64;
        data_item *items =
            ag_grow(ctx, set->items, (size_t)more, sizeof *items, "files of a data set");

        if (!items) {
            ag_delete(path);
            return AG_ENOMEM;
        }
        set->items = items;
        *room = more;
    }
    set->items[set->n++] =
        (data_item){.path = path, .name = strrchr(path, '/') + 1, .age = -1.0f, .repeats = repeats};
    return AG_OK;
}

/* What is looked for in a folder. */
typedef enum layout { PICTURES, THOUSANDS, REPEATED, N_LAYOUTS } layout;

/* How often the pictures of a folder of this name are shown; 0: not such a folder. */
static int64_t repeats_of(const char *name, layout what)
{
    const size_t n = strspn(name, "0123456789");

    if (what == THOUSANDS)
        return n == 5 && strlen(name) == 5 && !strcmp(name + 2, "000");
    return n >= 1 && n <= 6 && name[n] == '_' && name[n + 1] ? strtol(name, NULL, 10) : 0;
}

/* Add the pictures of a folder, shown `repeats` times; or those of its folders of another layout. */
static ag_status set_list(data_set *set, int64_t *room, ag_ctx *ctx, const char *dir, layout what,
                          int64_t repeats)
{
    const size_t n = strlen(dir);
    const char *slash = n && dir[n - 1] == '/' ? "" : "/";
    DIR *stream = opendir(dir);
    ag_status status = AG_OK;

    if (!stream)
        return ag_fail(ctx, AG_EIO, "%s: %s", dir,
                       errno == ENOTDIR ? "wanted a folder of pictures, this is a file"
                                        : strerror(errno));
    while (status == AG_OK) {
        const struct dirent *entry;
        char *path;

        errno = 0;
        entry = readdir(stream);
        if (!entry) {
            if (errno)
                status = ag_fail(ctx, AG_EIO, "%s: %s", dir, strerror(errno));
            break;
        }
        if (what == PICTURES ? !data_is_image_name(entry->d_name) : repeats_of(entry->d_name, what) == 0)
            continue;
        path = ag_printf(ctx, "%s%s%s", dir, slash, entry->d_name);
        if (!path) {
            status = AG_ENOMEM;
        } else if (!is_kind(path, what != PICTURES)) {
            ag_delete(path);
        } else if (what != PICTURES) {
            status = set_list(set, room, ctx, path, PICTURES, repeats_of(entry->d_name, what));
            ag_delete(path);
        } else {
            status = set_add(set, room, ctx, path, repeats);
        }
    }
    closedir(stream);
    return status;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(((const data_item *)a)->path, ((const data_item *)b)->path);
}

/* --- ages and checks ------------------------------------------------------------------------ */

/* Give every item its age. In a set of thousands those without a label are left out. */
static ag_status set_join(data_set *set, ag_ctx *ctx, const char *dir, const data_ages *ages,
                          bool leave_out)
{
    const int64_t n_files = set->n;
    int64_t n_missing = 0, n_kept = 0, n_used = 0;
    data_offenders without = {0};
    bool *used = ag_new(ctx, (size_t)ages->n + 1, sizeof *used, "labels of a data set");
    ag_status status = AG_OK;

    if (!used)
        return AG_ENOMEM;
    for (int64_t i = 0; i < n_files; i++) {
        const int64_t at = data_ages_find(ages, set->items[i].name);

        if (at < 0 || isnan(ages->ages[at]))
            data_offenders_add(&without, set->items[i].name, at < 0 ? NULL : ages->texts[at]);
        n_missing += at < 0;
        if (at < 0)
            continue;
        set->items[i].age = ages->ages[at];
        set->items[i].gender = ages->genders[at];
        n_used += !used[at];
        used[at] = true;
    }
    set->n_no_file = ages->n - n_used;
    if (without.n > n_missing || (n_missing && (!leave_out || n_missing == n_files))) {
        status = ag_fail(ctx, AG_EDATA, "%s: %lld of %lld pictures have no age that is a whole number: %s", dir,
                         (long long)without.n, (long long)n_files, data_offenders_end(&without));
    } else if (n_missing) {
        for (int64_t i = 0; i < n_files; i++) {
            if (data_ages_find(ages, set->items[i].name) >= 0)
                set->items[n_kept++] = set->items[i];
            else
                item_free(&set->items[i]);
        }
        set->n = n_kept;
    }
    ag_delete(used);
    return status;
}

static ag_status set_check(const data_set *set, ag_ctx *ctx, data_check check)
{
    ag_status status = AG_OK;

    for (int64_t i = 0; i < set->n && status == AG_OK && check != DATA_CHECK_NAMES; i++) {
        data_image img = {0};

        if (check == DATA_CHECK_HEADERS)
            status = data_image_probe(NULL, NULL, NULL, ctx, set->items[i].path);
        else
            status = data_image_read(&img, ctx, set->items[i].path, DATA_IGNORE_EXIF);
        data_image_free(&img);
    }
    return status;
}

ag_status data_set_open(data_set *set, ag_ctx *ctx, const char *dir, const data_ages *ages,
                        data_check check)
{
    data_set made = {0};
    int64_t room = 0;
    int what = PICTURES;
    ag_status status = set_list(&made, &room, ctx, dir, PICTURES, 1);

    while (status == AG_OK && made.n == 0 && ++what < N_LAYOUTS)
        status = set_list(&made, &room, ctx, dir, (layout)what, 1);
    if (status == AG_OK && made.n == 0)
        status = ag_fail(
            ctx, AG_EDATA,
            "%s: no picture in this folder (png, jpg, jpeg, webp, ppm, pgm, pbm, bmp, tif, tiff)",
            dir);
    if (status == AG_OK)
        qsort(made.items, (size_t)made.n, sizeof *made.items, compare_paths);
    if (status == AG_OK && ages)
        status = set_join(&made, ctx, dir, ages, what == THOUSANDS);
    if (status == AG_OK)
        status = set_check(&made, ctx, check);
    if (status != AG_OK) {
        data_set_close(&made);
        return status;
    }
    *set = made;
    return AG_OK;
}
