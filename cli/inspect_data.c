/* inspect_data.c - pictures and their ages; see inspect.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cli/inspect.h"
#include "data/age_groups.h"
#include "data/ages.h"
#include "data/dataset.h"
#include "data/npy.h"

/* --- ages ------------------------------------------------------------------------------------- */

static void describe_ages(json_t *root, const data_age_stats *stats)
{
    json_t *groups = json_object();

    for (int g = 0; g < DATA_AGE_GROUPS; g++)
        inspect_set(groups, data_age_group_name(g), json_integer(stats->groups[g]));
    if (stats->n > 0) {
        inspect_set(root, "youngest", json_real((double)stats->youngest));
        inspect_set(root, "oldest", json_real((double)stats->oldest));
        inspect_set(root, "mean_age", json_real(stats->sum / (double)stats->n));
    }
    inspect_set(root, "age_groups", groups);
    if (stats->n_female + stats->n_male > 0) {
        inspect_set(root, "female", json_integer(stats->n_female));
        inspect_set(root, "male", json_integer(stats->n_male));
    }
}

static const char *source_name(data_ages_source source)
{
    return source == DATA_AGES_NPY   ? "names and ages (.npy)"
           : source == DATA_AGES_CSV ? "FFHQ-Aging labels (.csv)"
                                     : "file names";
}

static void describe_table(json_t *root, const data_ages *ages)
{
    inspect_set(root, "labels", json_integer(ages->n));
    if (ages->n_bad)
        inspect_set(root, "rows_left_out", json_integer(ages->n_bad));
    if (ages->first_bad)
        inspect_set(root, "first_left_out", json_string(ages->first_bad));
    if (ages->n_duplicates)
        inspect_set(root, "rows_replaced", json_integer(ages->n_duplicates));
    if (ages->n_unreadable)
        inspect_set(root, "unreadable_ages", json_integer(ages->n_unreadable));
}

/* An array that holds no labels: what it is all the same. */
static ag_status describe_array(ag_ctx *ctx, json_t *root, const char *path)
{
    data_npy npy = {0};
    json_t *shape = json_array();
    char type[32];

    if (data_npy_read(&npy, ctx, path) == AG_OK) {
        for (int d = 0; d < npy.n_dims; d++)
            json_array_append_new(shape, json_integer(npy.dims[d]));
        snprintf(type, sizeof type, "%c%c%lld", npy.big_endian ? '>' : '<', npy.kind,
                 (long long)(npy.kind == 'U' ? npy.item_size / 4 : npy.item_size));
        inspect_set(root, "kind", json_string("NumPy array"));
        inspect_set(root, "type", json_string(type));
        json_object_set(root, "shape", shape);
    }
    json_decref(shape);
    data_npy_free(&npy);
    return ag_status_of(ctx);
}

ag_status inspect_labels(ag_ctx *ctx, json_t *root, const char *path)
{
    data_ages ages = {0};
    data_age_stats stats = {0};
    const char *dot = strrchr(path, '.');
    const bool is_csv = dot && strcasecmp(dot, ".csv") == 0;

    if (!is_csv && describe_array(ctx, root, path) != AG_OK)
        return ag_status_of(ctx);
    if (data_ages_open(&ages, ctx, path) == AG_OK) {
        inspect_set(root, "kind", json_string(source_name(ages.source)));
        describe_table(root, &ages);
        for (int64_t i = 0; i < ages.n; i++)
            if (!isnan(ages.ages[i]))
                data_age_stats_add(&stats, ages.ages[i], ages.genders[i]);
        describe_ages(root, &stats);
    } else if (!is_csv && ag_status_of(ctx) != AG_ENOMEM) { /* an array of something else */
        inspect_set(root, "no_labels", json_string(ag_message(ctx)));
        ag_clear(ctx);
    }
    data_ages_close(&ages);
    return ag_status_of(ctx);
}

/* --- pictures --------------------------------------------------------------------------------- */

ag_status inspect_picture(ag_ctx *ctx, json_t *root, const char *path)
{
    data_image_format format;
    int64_t w, h;
    data_image img = {0};

    if (data_image_probe(&format, &w, &h, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    inspect_set(root, "kind", json_string("picture"));
    inspect_set(root, "format", json_string(data_image_format_name(format)));
    inspect_set(root, "width", json_integer(w));
    inspect_set(root, "height", json_integer(h));
    if (data_image_read(&img, ctx, path, 0) == AG_OK && (img.w != w || img.h != h))
        inspect_set(root, "turned_by_exif", json_true());
    data_image_free(&img);
    return ag_status_of(ctx);
}

enum { MAX_PROBLEMS = 5 };

typedef struct look {
    int64_t formats[DATA_IMAGE_N_FORMATS], n_bad, n_square;
    int64_t least, most; /* of the shorter side */
    json_t *sizes, *problems;
} look;

static void look_at(look *l, ag_ctx *ctx, const data_item *item)
{
    data_image_format format;
    int64_t w, h, shorter;
    char size[64];

    if (data_image_probe(&format, &w, &h, ctx, item->path) != AG_OK) {
        if (ag_status_of(ctx) == AG_ENOMEM)
            return;
        if (l->n_bad++ < MAX_PROBLEMS)
            json_array_append_new(l->problems, json_string(ag_message(ctx)));
        ag_clear(ctx);
        return;
    }
    shorter = w < h ? w : h;
    l->formats[format]++;
    l->n_square += w == h;
    l->least = !l->least || shorter < l->least ? shorter : l->least;
    l->most = shorter > l->most ? shorter : l->most;
    snprintf(size, sizeof size, "%lldx%lld", (long long)w, (long long)h);
    json_object_set_new(l->sizes, size,
                        json_integer(json_integer_value(json_object_get(l->sizes, size)) + 1));
}

/* The ages of the pictures that have one; how many have none. */
static void join_ages(json_t *root, const data_set *set, const data_ages *ages)
{
    data_age_stats stats = {0};

    for (int64_t i = 0; i < set->n; i++) {
        const int64_t k = data_ages_find(ages, set->items[i].name);

        if (k >= 0 && !isnan(ages->ages[k]))
            data_age_stats_add(&stats, ages->ages[k], ages->genders[k]);
        else if (!json_object_get(root, "first_without_age"))
            inspect_set(root, "first_without_age", json_string(set->items[i].name));
    }
    inspect_set(root, "ages_from", json_string(source_name(ages->source)));
    describe_table(root, ages);
    inspect_set(root, "pictures_without_age", json_integer(set->n - stats.n));
    describe_ages(root, &stats);
}

static void describe_look(json_t *root, const look *l)
{
    json_t *formats = json_object();
    const size_t n_sizes = json_object_size(l->sizes);

    for (int f = 0; f < DATA_IMAGE_N_FORMATS; f++)
        if (l->formats[f])
            inspect_set(formats, data_image_format_name((data_image_format)f),
                        json_integer(l->formats[f]));
    inspect_set(root, "formats", formats);
    inspect_set(root, "square", json_integer(l->n_square));
    if (n_sizes <= 12)
        json_object_set(root, "sizes", l->sizes);
    else
        inspect_set(root, "n_sizes", json_integer((json_int_t)n_sizes));
    inspect_set(root, "shorter_side_least", json_integer(l->least));
    inspect_set(root, "shorter_side_most", json_integer(l->most));
    inspect_set(root, "unreadable", json_integer(l->n_bad));
    if (l->n_bad)
        json_object_set(root, "problems", l->problems);
}

ag_status inspect_pictures(ag_ctx *ctx, json_t *root, const char *path, const char *ages_path)
{
    data_set set = {0};
    data_ages ages = {0};
    look l = {.sizes = json_object(), .problems = json_array()};

    if (data_set_open(&set, ctx, path, NULL, DATA_CHECK_NAMES) != AG_OK)
        goto out;
    inspect_set(root, "kind", json_string("pictures"));
    inspect_set(root, "pictures", json_integer(set.n));
    for (int64_t i = 0; i < set.n && ag_status_of(ctx) == AG_OK; i++)
        look_at(&l, ctx, &set.items[i]);
    describe_look(root, &l);
    if (ages_path) {
        if (data_ages_open(&ages, ctx, ages_path) == AG_OK)
            join_ages(root, &set, &ages);
    } else if (data_ages_from_names(&ages, ctx, path) == AG_OK && ages.n_unreadable == 0) {
        join_ages(root, &set, &ages); /* names without ages are nothing wrong */
    }
out:
    data_ages_close(&ages);
    data_set_close(&set);
    json_decref(l.sizes);
    json_decref(l.problems);
    return ag_status_of(ctx);
}
