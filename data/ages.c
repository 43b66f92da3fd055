/* ages.c - the three sources of ages, and the look-up by file name. */
#include "data/ages.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/age_groups.h"
#include "data/csv.h"
#include "data/dataset.h"
#include "data/npy.h"

/* Beyond this an age is a typing error; floats hold all below exactly. */
enum { MAX_AGE = 1000000 };

/* A whole number as Python's int() takes it: blanks around, one sign, digits. */
static bool parse_int(int64_t *value, const char *text)
{
    static const char blanks[] = " \t\n\v\f\r";
    bool negative;
    const char *digits;

    text += strspn(text, blanks);
    negative = *text == '-';
    text += *text == '-' || *text == '+';
    digits = text;
    for (*value = 0; *text >= '0' && *text <= '9'; text++) {
        if (*value > MAX_AGE)
            return false;
        *value = *value * 10 + (*text - '0');
    }
    if (text == digits || text[strspn(text, blanks)] || *value > MAX_AGE)
        return false;
    *value = negative ? -*value : *value;
    return true;
}

bool data_age_of_name(int64_t *age, const char *name)
{
    const size_t n = strcspn(name, "_.");
    char digits[16];

    if (n == 0 || n >= sizeof digits || strspn(name, "0123456789") != n)
        return false;
    memcpy(digits, name, n);
    digits[n] = 0;
    return parse_int(age, digits);
}

/* --- the table ------------------------------------------------------------------------------ */

void data_ages_close(data_ages *ages)
{
    if (!ages)
        return;
    for (int64_t i = 0; ages->names && i < ages->n; i++)
        ag_delete(ages->names[i]);
    for (int64_t i = 0; ages->texts && i < ages->n; i++)
        ag_delete(ages->texts[i]);
    ag_delete(ages->names);
    ag_delete(ages->ages);
    ag_delete(ages->texts);
    ag_delete(ages->genders);
    ag_delete(ages->order);
    ag_delete(ages->first_bad);
    *ages = (data_ages){0};
}

static ag_status ages_room(data_ages *ages, ag_ctx *ctx, int64_t n)
{
    ages->names = ag_new(ctx, (size_t)n + 1, sizeof *ages->names, "names of a label table");
    ages->ages = ag_new(ctx, (size_t)n + 1, sizeof *ages->ages, "ages of a label table");
    ages->texts = ag_new(ctx, (size_t)n + 1, sizeof *ages->texts, "ages of a label table");
    ages->genders = ag_new(ctx, (size_t)n + 1, sizeof *ages->genders, "genders of a label table");
    ages->order = ag_new(ctx, (size_t)n + 1, sizeof *ages->order, "order of a label table");
    return ag_status_of(ctx);
}

/* Row i has no age but this text; NULL: nothing at all. */
static ag_status ages_unreadable(data_ages *ages, ag_ctx *ctx, int64_t i, const char *text)
{
    ages->ages[i] = NAN;
    ages->n_unreadable++;
    ages->texts[i] = text ? ag_strdup(ctx, text) : NULL;
    return ag_status_of(ctx);
}

/* --- what is wrong with it ------------------------------------------------------------------- */

enum { MAX_OFFENDER = 110, MAX_REST = 40 }; /* bytes: of one, and of " and N more" */

void data_offenders_add(data_offenders *list, const char *name, const char *found)
{
    const size_t used = strlen(list->text), room = sizeof list->text - used;
    const char *comma = used ? ", " : "";

    list->n++;
    if (room < MAX_OFFENDER + MAX_REST)
        return;
    list->n_named++;
    if (found)
        snprintf(list->text + used, room, "%s%.60s (\"%.30s\")", comma, name, found);
    else
        snprintf(list->text + used, room, "%s%.60s (none)", comma, name);
}

const char *data_offenders_end(data_offenders *list)
{
    const size_t used = strlen(list->text);

    if (list->n > list->n_named)
        snprintf(list->text + used, sizeof list->text - used, " and %lld more", (long long)(list->n - list->n_named));
    return list->text;
}

ag_status data_ages_check(const data_ages *ages, ag_ctx *ctx, const char *path)
{
    data_offenders list = {0};

    for (int64_t i = 0; i < ages->n; i++)
        if (isnan(ages->ages[i]))
            data_offenders_add(&list, ages->names[i], ages->texts[i]);
    if (list.n == 0)
        return AG_OK;
    if (ages->source == DATA_AGES_NAMES)
        return ag_fail(ctx, AG_EDATA,
                       "%s: %lld of %lld file names do not begin with an age, as 34_001.jpg or 34.jpg do: %s", path,
                       (long long)list.n, (long long)ages->n, data_offenders_end(&list));
    return ag_fail(ctx, AG_EDATA, "%s: %lld of %lld rows have an age that is not a whole number: %s", path,
                   (long long)list.n, (long long)ages->n, data_offenders_end(&list));
}

/* Bytes of a name that count in a look-up. */
static size_t key_length(const data_ages *ages, const char *name)
{
    const char *dot = strrchr(name, '.');

    return ages->source == DATA_AGES_CSV && dot ? (size_t)(dot - name) : strlen(name);
}

static int compare_keys(const data_ages *ages, const char *a, const char *b)
{
    const size_t n_a = key_length(ages, a), n_b = key_length(ages, b);
    const int sign = memcmp(a, b, n_a < n_b ? n_a : n_b);

    return sign ? sign : (n_a > n_b) - (n_a < n_b);
}

static int compare_places(const void *a, const void *b, void *table)
{
    const data_ages *ages = table;
    const int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    const int sign = compare_keys(ages, ages->names[i], ages->names[j]);

    return sign ? sign : (i > j) - (i < j);
}

static void ages_sort(data_ages *ages)
{
    for (int64_t i = 0; i < ages->n; i++)
        ages->order[i] = i;
    qsort_r(ages->order, (size_t)ages->n, sizeof *ages->order, compare_places, ages);
}

int64_t data_ages_find(const data_ages *ages, const char *name)
{
    int64_t low = 0, high = ages->n; /* the first place that is not before name */

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;

        if (compare_keys(ages, ages->names[ages->order[middle]], name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == ages->n || compare_keys(ages, ages->names[ages->order[low]], name) != 0)
        return -1;
    return ages->order[low];
}

/* --- .npy ----------------------------------------------------------------------------------- */

static ag_status ages_from_npy(data_ages *ages, ag_ctx *ctx, const char *path)
{
    data_npy npy = {0};
    char *text = NULL;
    int64_t n, n_cols;
    ag_status status = data_npy_read(&npy, ctx, path);

    if (status != AG_OK)
        return status;
    if (npy.n_dims != 2 || npy.dims[1] < 2 || (npy.kind != 'U' && npy.kind != 'S')) {
        status = ag_fail(ctx, AG_EDATA,
                         "%s: an array of kind '%c' with %d dimensions, want text of shape "
                         "(N, 2): file name, age",
                         path, npy.kind, npy.n_dims);
        goto out;
    }
    n = npy.dims[0];
    n_cols = npy.dims[1];
    status = ages_room(ages, ctx, n);
    for (int64_t i = 0; i < n && status == AG_OK; i++) {
        int64_t age = 0;

        ages->names[i] = data_npy_text(ctx, &npy, i * n_cols, path);
        ages->n = i + 1;
        ag_delete(text);
        text = data_npy_text(ctx, &npy, i * n_cols + 1, path);
        if (!ages->names[i] || !text)
            status = ag_status_of(ctx);
        else if (!parse_int(&age, text))
            status = ages_unreadable(ages, ctx, i, text);
        else
            ages->ages[i] = (float)age;
    }
out:
    ag_delete(text);
    data_npy_free(&npy);
    return status;
}

/* --- .csv ----------------------------------------------------------------------------------- */

typedef struct csv_row {
    const char *number, *group, *gender;
    int64_t line;
} csv_row;

/* A row is found again by its number when a later one has the same: place[] has an entry for each
 * number there can be. */
static ag_status ages_add_row(data_ages *ages, int64_t *place, ag_ctx *ctx, const char *path,
                              const csv_row *row)
{
    const int age = data_age_of_group(row->group);
    const char gender = !strcmp(row->gender, "female") ? 'f' : !strcmp(row->gender, "male") ? 'm' : 0;
    int64_t image;

    if (!parse_int(&image, row->number) || image < 0)
        return ag_fail(ctx, AG_EDATA,
                       "%s: line %lld: image_number \"%s\", want a whole number of 0 to %d", path,
                       (long long)row->line, row->number, MAX_AGE);
    if (age < 0) {
        ages->n_bad++;
        if (!ages->first_bad) {
            ages->first_bad = ag_printf(ctx, "line %" PRId64 ": age_group \"%.40s\"", row->line, row->group);
            if (!ages->first_bad)
                return AG_ENOMEM;
        }
        return AG_OK;
    }
    if (place[image]) {
        ages->ages[place[image] - 1] = (float)age;
        ages->genders[place[image] - 1] = gender;
        ages->n_duplicates++;
        return AG_OK;
    }
    ages->names[ages->n] = ag_printf(ctx, "%05" PRId64 ".png", image);
    if (!ages->names[ages->n])
        return AG_ENOMEM;
    ages->ages[ages->n] = (float)age;
    ages->genders[ages->n] = gender;
    place[image] = ++ages->n;
    return AG_OK;
}

static ag_status ages_from_csv(data_ages *ages, ag_ctx *ctx, const char *path)
{
    data_csv csv = {0};
    int64_t *place = NULL; /* image number -> 1 + row of the table, 0: not there */
    int col_number, col_group, col_gender;
    ag_status status = data_csv_read(&csv, ctx, path);

    if (status != AG_OK)
        return status;
    col_number = data_csv_column(&csv, "image_number");
    col_group = data_csv_column(&csv, "age_group");
    col_gender = data_csv_column(&csv, "gender");
    if (col_number < 0 || col_group < 0) {
        status = ag_fail(
            ctx, AG_EDATA,
            "%s: no column \"%s\" in its header, want the labels of FFHQ-Aging (image_number, "
            "age_group, ...) or an .npy file",
            path, col_number < 0 ? "image_number" : "age_group");
        goto out;
    }
    place = ag_new(ctx, MAX_AGE + 1, sizeof *place, "image numbers of a label table");
    status = place ? ages_room(ages, ctx, csv.n_rows) : AG_ENOMEM;
    for (int64_t i = 0; i < csv.n_rows && status == AG_OK; i++) {
        const char *const *cells = csv.cells + i * csv.n_cols;
        const csv_row row = {.number = cells[col_number],
                             .group = cells[col_group],
                             .gender = col_gender >= 0 ? cells[col_gender] : "",
                             .line = csv.lines[i]};
        status = ages_add_row(ages, place, ctx, path, &row);
    }
    if (status == AG_OK && ages->n == 0 && ages->n_bad)
        status =
            ag_fail(ctx, AG_EDATA, "%s: %s, want 0-2, 3-6, 7-9, 10-14, ... 70-120; no row is left",
                    path, ages->first_bad);
out:
    ag_delete(place);
    data_csv_free(&csv);
    return status;
}

ag_status data_ages_open(data_ages *ages, ag_ctx *ctx, const char *path)
{
    data_ages made = {0};
    uint8_t head[6] = {0};
    struct stat info;
    FILE *file = fopen(path, "rbe");
    ag_status status;

    if (!file)
        return ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    if (fstat(fileno(file), &info) == 0 && S_ISDIR(info.st_mode)) {
        fclose(file);
        return ag_fail(ctx, AG_EIO, "%s: wanted a label file (.npy or .csv), this is a folder",
                       path);
    }
    made.source = fread(head, 1, sizeof head, file) == sizeof head && !memcmp(head, "\x93NUMPY", 6)
                      ? DATA_AGES_NPY
                      : DATA_AGES_CSV;
    fclose(file);
    if (made.source == DATA_AGES_CSV && strlen(path) > 4 &&
        !strcmp(path + strlen(path) - 4, ".npy"))
        return ag_fail(ctx, AG_EDATA, "%s: not an npy file (its first bytes are not \\x93NUMPY)",
                       path);
    status = made.source == DATA_AGES_NPY ? ages_from_npy(&made, ctx, path)
                                          : ages_from_csv(&made, ctx, path);
    if (status != AG_OK) {
        data_ages_close(&made);
        return status;
    }
    ages_sort(&made);
    *ages = made;
    return AG_OK;
}

/* --- file names ----------------------------------------------------------------------------- */

ag_status data_ages_from_names(data_ages *ages, ag_ctx *ctx, const char *dir)
{
    data_ages made = {.source = DATA_AGES_NAMES};
    data_set set = {0};
    ag_status status = data_set_open(&set, ctx, dir, NULL, DATA_CHECK_NAMES);

    if (status != AG_OK)
        return status;
    status = ages_room(&made, ctx, set.n);
    for (int64_t i = 0; i < set.n && status == AG_OK; i++) {
        const char *name = set.items[i].name;
        int64_t age = 0;

        made.names[i] = ag_strdup(ctx, name);
        made.n = i + 1;
        if (!made.names[i])
            status = AG_ENOMEM;
        else if (data_age_of_name(&age, name))
            made.ages[i] = (float)age;
        else
            status = ages_unreadable(&made, ctx, i, NULL);
    }
    data_set_close(&set);
    if (status != AG_OK) {
        data_ages_close(&made);
        return status;
    }
    ages_sort(&made);
    *ages = made;
    return AG_OK;
}
