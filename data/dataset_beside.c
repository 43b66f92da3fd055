/* dataset_beside.c - what lies beside a picture: its caption, its mask. See dataset.h. */
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "data/file.h"
#include "data/tokenizer_internal.h"

enum { MAX_CAPTION = 64 << 10 };

/* Bytes of a name before its ending. */
static size_t stem_length(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot ? (size_t)(dot - name) : strlen(name);
}

/* --- captions --------------------------------------------------------------------------------- */

/* One line without blanks around it. */
static void straighten(char *text)
{
    static const char blanks[] = " \t\n\v\f\r";
    const size_t first = strspn(text, blanks);
    size_t n = strlen(text + first);

    memmove(text, text + first, n + 1);
    while (n > 0 && strchr(blanks, text[n - 1]))
        text[--n] = '\0';
    for (size_t i = 0; i < n; i++)
        if (text[i] == '\n' || text[i] == '\r')
            text[i] = ' ';
}

static ag_status read_caption(data_item *item, ag_ctx *ctx, const char *path)
{
    char *text = NULL;
    size_t size = 0;

    if (data_file_read(&text, &size, ctx, path, MAX_CAPTION) != AG_OK)
        return ag_status_of(ctx);
    if (strlen(text) != size || tok_bad_utf8(text, size) < size) {
        ag_fail(ctx, AG_EDATA, "%s: wanted a caption in UTF-8, byte %zu is none", path,
                strlen(text) != size ? strlen(text) : tok_bad_utf8(text, size));
        ag_delete(text);
        return AG_EDATA;
    }
    straighten(text);
    ag_delete(item->caption);
    item->caption = text;
    return AG_OK;
}

ag_status data_set_read_captions(data_set *set, ag_ctx *ctx, const char *extension, int64_t *n_without)
{
    const char *ending = extension + (extension[0] == '.');

    *n_without = 0;
    for (int64_t i = 0; i < set->n && ag_status_of(ctx) == AG_OK; i++) {
        data_item *item = &set->items[i];
        const size_t n_dir = (size_t)(item->name - item->path);
        char *path =
            ag_printf(ctx, "%.*s.%s", (int)(n_dir + stem_length(item->name)), item->path, ending);

        if (path && data_is_file(path))
            read_caption(item, ctx, path);
        else
            ++*n_without;
        ag_delete(path);
    }
    if (ag_status_of(ctx) == AG_OK && *n_without == set->n)
        return ag_fail(ctx, AG_EDATA, "%s: no caption beside this picture or any other (its name with the ending .%s)",
                       set->items[0].path, ending);
    return ag_status_of(ctx);
}

/* --- masks ------------------------------------------------------------------------------------ */

/* A name's part before its ending, compared with another's. */
static int compare_stems(const char *a, const char *b)
{
    const size_t n_a = stem_length(a), n_b = stem_length(b);
    const int sign = memcmp(a, b, n_a < n_b ? n_a : n_b);

    return sign ? sign : (n_a > n_b) - (n_a < n_b);
}

static int compare_name_stems(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    const int sign = compare_stems(x, y);

    return sign ? sign : strcmp(x, y);
}

static int compare_to_stem(const void *name, const void *element)
{
    return compare_stems(name, *(const char *const *)element);
}

/* The first of the sorted names with this stem, or NULL. */
static const char *find_stem(char *const *names, int64_t n, const char *name)
{
    char *const *at = bsearch(name, names, (size_t)n, sizeof *names, compare_to_stem);

    while (at && at > names && compare_stems(at[-1], name) == 0)
        at--;
    return at ? *at : NULL;
}

/* Both of one shape, give or take a part in a hundred of a side and a pixel of the smaller one. */
static ag_status check_shape(const data_item *item, ag_ctx *ctx, unsigned flags)
{
    int64_t w, h, mask_w, mask_h, off, allowed;

    if (data_image_size(&w, &h, ctx, item->path, flags) != AG_OK ||
        data_image_size(&mask_w, &mask_h, ctx, item->mask, flags) != AG_OK)
        return ag_status_of(ctx);
    off = llabs(w * mask_h - h * mask_w);
    allowed = w * mask_h / 100 + (w > h ? w : h);
    if (off > allowed)
        return ag_fail(ctx, AG_EDATA, "%s: a mask of %lld x %lld for a picture of %lld x %lld, wanted the same shape",
                       item->mask, (long long)mask_w, (long long)mask_h, (long long)w, (long long)h);
    return AG_OK;
}

ag_status data_set_find_masks(data_set *set, ag_ctx *ctx, const char *dir, unsigned flags, int64_t *n_without)
{
    char **names = NULL;
    int64_t n = 0, n_images = 0;

    *n_without = 0;
    if (data_folder_list(&names, &n, ctx, dir, NULL) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < n; i++)
        if (data_is_image_name(names[i]))
            names[n_images++] = names[i];
    if (n_images > 0)
        qsort(names, (size_t)n_images, sizeof *names, compare_name_stems);
    for (int64_t i = 0; i < set->n && ag_status_of(ctx) == AG_OK; i++) {
        data_item *item = &set->items[i];
        const char *name = find_stem(names, n_images, item->name);

        if (!name) {
            ++*n_without;
            continue;
        }
        ag_delete(item->mask);
        item->mask = ag_printf(ctx, "%s/%s", dir, name);
        if (item->mask)
            check_shape(item, ctx, flags);
    }
    ag_delete(names);
    if (ag_status_of(ctx) == AG_OK && *n_without == set->n)
        return ag_fail(ctx, AG_EDATA, "%s: no mask for any picture (%s, or the same name with another ending)", dir,
                       set->items[0].name);
    return ag_status_of(ctx);
}
