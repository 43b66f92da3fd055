/* pictures.c - see pictures.h. */
#include "train/pictures.h"

#include <stdio.h>

#include "data/age_groups.h"
#include "data/buckets.h"
#include "data/file.h"
#include "train/log.h"

static bool is_told(const ag_ctx *ctx)
{
    return ag_ctx_device(ctx) != AG_META; /* a forecast looks twice */
}

static unsigned read_flags(const train_options *o)
{
    return o->ignore_exif ? DATA_IGNORE_EXIF : 0;
}

/* --- ages ------------------------------------------------------------------------------------------ */

/* What was left out, which is no error. */
static void tell_ages(const data_ages *ages, const data_set *set, const char *dir, const char *path)
{
    if (ages->n_bad)
        train_note(NULL, "%s: %lld rows are left out, the first at %s", path, (long long)ages->n_bad, ages->first_bad);
    if (ages->n_duplicates)
        train_note(NULL, "%s: %lld rows stand in place of earlier ones of the same picture", path,
                   (long long)ages->n_duplicates);
    if (set->n_no_file)
        train_note(NULL, "%s: %lld labels are of pictures that are not in %s", path, (long long)set->n_no_file, dir);
}

static ag_status tell_stats(ag_ctx *ctx, const data_set *set, const char *dir)
{
    data_age_stats stats = {0};
    char *text;

    for (int64_t i = 0; i < set->n; i++)
        data_age_stats_add(&stats, set->items[i].age, set->items[i].gender);
    text = data_age_stats_text(ctx, &stats);
    if (text)
        train_note(NULL, "%s: %s", dir, text);
    ag_delete(text);
    return ag_status_of(ctx);
}

static ag_status open_set(data_set *set, ag_ctx *ctx, const train_folder *f)
{
    const char *path = f->age_path ? f->age_path : f->dir;
    data_ages ages = {0};

    if (f->has_ages && data_is_folder(path))
        data_ages_from_names(&ages, ctx, path);
    else if (f->has_ages)
        data_ages_open(&ages, ctx, path);
    if (ag_status_of(ctx) == AG_OK)
        data_set_open(set, ctx, f->dir, f->has_ages ? &ages : NULL, DATA_CHECK_HEADERS);
    if (f->most > 0)
        data_set_keep(set, f->most);
    if (ag_status_of(ctx) == AG_OK && f->has_ages && is_told(ctx)) {
        tell_ages(&ages, set, f->dir, path);
        tell_stats(ctx, set, f->dir);
    }
    data_ages_close(&ages);
    return ag_status_of(ctx);
}

/* --- captions and masks ------------------------------------------------------------------------------ */

static ag_status open_captions(ag_ctx *ctx, data_set *set, const train_options *o)
{
    int64_t n_without = 0;

    if (!o->caption_extension || data_set_read_captions(set, ctx, o->caption_extension, &n_without) != AG_OK)
        return ag_status_of(ctx);
    if (n_without && is_told(ctx))
        train_note(NULL, "%lld of %lld pictures have no caption: the prompt of the run is theirs", (long long)n_without,
                   (long long)set->n);
    return AG_OK;
}

static ag_status open_masks(ag_ctx *ctx, data_set *set, const train_options *o)
{
    int64_t n_without = 0;

    if (!o->mask_dir || data_set_find_masks(set, ctx, o->mask_dir, read_flags(o), &n_without) != AG_OK)
        return ag_status_of(ctx);
    if (n_without && is_told(ctx))
        train_note(NULL, "%lld of %lld pictures have no mask in %s: all of them counts", (long long)n_without,
                   (long long)set->n, o->mask_dir);
    return AG_OK;
}

/* --- shapes ---------------------------------------------------------------------------------------- */

static ag_status tell_buckets(ag_ctx *ctx, const train_pictures *p, const data_buckets *b)
{
    int64_t *counts = ag_new(ctx, (size_t)b->n, sizeof *counts, "buckets");
    char text[600] = "";
    size_t used = 0;

    for (int64_t i = 0; counts && i < p->set.n; i++)
        counts[p->buckets[i]]++;
    for (int64_t k = 0; counts && k < b->n && used < sizeof text - 60; k++)
        if (counts[k])
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%lldx%lld: %lld", used ? ", " : "",
                                     (long long)b->boxes[k].w, (long long)b->boxes[k].h, (long long)counts[k]);
    if (counts)
        train_note(NULL, "buckets: %s", text);
    ag_delete(counts);
    return ag_status_of(ctx);
}

static ag_status find_buckets(ag_ctx *ctx, train_pictures *p, const train_options *o)
{
    data_buckets b = {0};

    p->buckets = ag_new(ctx, (size_t)p->set.n, sizeof *p->buckets, "buckets");
    if (!p->buckets || data_buckets_make(&b, ctx, o->resolution, o->bucket_step, o->bucket_min, o->bucket_max) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < p->set.n && ag_status_of(ctx) == AG_OK; i++) {
        data_size seen;
        if (data_image_size(&seen.w, &seen.h, ctx, p->set.items[i].path, read_flags(o)) == AG_OK) {
            p->buckets[i] = data_buckets_find(&b, seen);
            p->boxes[i] = b.boxes[p->buckets[i]];
        }
    }
    if (ag_status_of(ctx) == AG_OK && is_told(ctx))
        tell_buckets(ctx, p, &b);
    data_buckets_close(&b);
    return ag_status_of(ctx);
}

/* --- together ---------------------------------------------------------------------------------------- */

static ag_status describe(ag_ctx *ctx, train_pictures *p, const train_options *o, bool has_ages)
{
    const int64_t n = p->set.n;

    p->boxes = ag_new(ctx, (size_t)n, sizeof *p->boxes, "shapes of the pictures");
    p->repeats = ag_new(ctx, (size_t)n, sizeof *p->repeats, "repetitions of the pictures");
    if (o->balance_ages && has_ages)
        p->groups = ag_new(ctx, (size_t)n, sizeof *p->groups, "ages of the pictures");
    for (int64_t i = 0; ag_status_of(ctx) == AG_OK && i < n; i++) {
        p->boxes[i] = (data_size){o->resolution, o->resolution};
        p->repeats[i] = p->set.items[i].repeats * (o->repeats > 1 ? o->repeats : 1);
        if (p->groups)
            p->groups[i] = data_age_group(p->set.items[i].age);
    }
    return ag_status_of(ctx);
}

ag_status train_pictures_open(train_pictures *p, ag_ctx *ctx, const train_options *o, const train_folder *folder)
{
    if (o->balance_ages && !folder->has_ages)
        return ag_fail(ctx, AG_EINVAL, "--balance_ages: %s has no ages", folder->dir);
    if (open_set(&p->set, ctx, folder) == AG_OK && open_captions(ctx, &p->set, o) == AG_OK &&
        open_masks(ctx, &p->set, o) == AG_OK && describe(ctx, p, o, folder->has_ages) == AG_OK &&
        o->aspect_ratio_buckets)
        find_buckets(ctx, p, o);
    return ag_status_of(ctx);
}

ag_status train_pictures_assume(train_pictures *p, ag_ctx *ctx, const train_options *o, int64_t n)
{
    p->set.items = ag_new(ctx, (size_t)n, sizeof *p->set.items, "data set");
    for (int64_t i = 0; p->set.items && i < n && ag_status_of(ctx) == AG_OK; i++) {
        p->set.items[i] = (data_item){
            .path = ag_strdup(ctx, "picture"), .name = "picture", .age = (float)(1 + i % 80), .repeats = 1};
        p->set.n++;
    }
    return ag_status_of(ctx) == AG_OK ? describe(ctx, p, o, true) : ag_status_of(ctx);
}

void train_pictures_close(train_pictures *p)
{
    data_set_close(&p->set);
    ag_delete(p->boxes);
    ag_delete(p->repeats);
    ag_delete(p->buckets);
    ag_delete(p->groups);
    *p = (train_pictures){0};
}

train_samples train_pictures_samples(const train_pictures *p)
{
    return (train_samples){
        .n = p->set.n, .repeats = p->repeats, .buckets = p->buckets, .groups = p->groups, .boxes = p->boxes};
}
