/* faces_write.c - sets of drawn faces, in the shape of FFHQ-Aging or as a flat folder.
 *
 * Draws  key = the set's seed; purpose AG_DRAW_FACE, step 3 (0 to 2 are faces.c's); sample = number
 *        of the person (elements 0 and 1: the identity seed) or, with step 4, of the picture
 *        (element 0: the age inside its group).
 *
 * Source of the layout and of the label columns: royorel/FFHQ-Aging-Dataset: README.md; the
 * .npy of ages is what MunchkinChen/FADING: specialize.py reads.
 */
#include "data/faces.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "autograd/context.h"
#include "autograd/random.h"
#include "data/image.h"
#include "data/npy.h"
#include "data/text_file.h"

enum { N_GROUPS = 10, STEP_PERSON = 3, STEP_PICTURE = 4, COUNT_MAX = 70000, NAME_SIZE = 16 };

static const struct {
    const char *name;
    int from, to; /* years, inclusive */
} groups[N_GROUPS] = {
    {"0-2", 0, 2},     {"3-6", 3, 6},     {"7-9", 7, 9},     {"10-14", 10, 14}, {"15-19", 15, 19},
    {"20-29", 20, 29}, {"30-39", 30, 39}, {"40-49", 40, 49}, {"50-69", 50, 69}, {"70-120", 70, 120},
};

static const char *group_of(int age)
{
    for (int i = 0; i < N_GROUPS; i++)
        if (age <= groups[i].to)
            return groups[i].name;
    return groups[N_GROUPS - 1].name;
}

data_faces_options data_faces_defaults(void)
{
    return (data_faces_options){.count = 150, .resolution = 64, .layout = DATA_FACES_FLAT};
}

/* The ages asked for, whole years. */
static void age_range(const data_faces_options *options, int *from, int *to)
{
    const bool all = options->age_min == 0.0f && options->age_max == 0.0f;

    *from = (int)options->age_min;
    *to = all ? (int)DATA_FACE_AGE_MAX : (int)options->age_max;
}

/* Whole years, evenly over the groups. */
static int64_t spread_age(const data_faces_options *options, int64_t person, int64_t round, int64_t index)
{
    const ag_draw when = {.seed = options->seed,
                          .purpose = AG_DRAW_FACE,
                          .step = STEP_PICTURE,
                          .sample = (uint32_t)index};
    int from, to, met[N_GROUPS], n_met = 0, group, low, high;

    age_range(options, &from, &to);
    for (int i = 0; i < N_GROUPS; i++)
        if (groups[i].from <= to && groups[i].to >= from)
            met[n_met++] = i;
    group = n_met > 0 ? met[(person + round) % n_met] : 0;
    low = groups[group].from > from ? groups[group].from : from;
    high = groups[group].to < to ? groups[group].to : to;
    return low + ag_draw_integer(&when, 0, high - low + 1);
}

data_face_params data_faces_get(const data_faces_options *options, int64_t index)
{
    const int64_t person = options->people > 0 ? index % options->people : index;
    const int64_t round = options->people > 0 ? index / options->people : 0;
    const ag_draw who = {.seed = options->seed,
                         .purpose = AG_DRAW_FACE,
                         .step = STEP_PERSON,
                         .sample = (uint32_t)person};
    const uint64_t identity = (uint64_t)ag_draw_u32(&who, 0) << 32 | ag_draw_u32(&who, 1);
    const int64_t age =
        options->n_ages > 0 ? options->ages[index % options->n_ages] : spread_age(options, person, round, index);

    /* Poses are drawn by (identity, jitter): one person's sets differ by their seed. */
    if (options->one_person)
        return data_face_draw(options->identity, (float)age, DATA_FACE_ANY,
                              options->seed * 2 * COUNT_MAX + (uint64_t)index + 1);
    return data_face_draw(identity, (float)age, DATA_FACE_ANY, (uint64_t)index + 1);
}

/* --- writing ------------------------------------------------------------------------------ */

static ag_status check_options(ag_ctx *ctx, const data_faces_options *options)
{
    if (options->count < 1 || options->count > COUNT_MAX)
        return ag_fail(ctx, AG_EINVAL, "faces: want a count of 1..%d, got %lld", COUNT_MAX,
                       (long long)options->count);
    if (options->resolution < 16 || options->resolution > 2048)
        return ag_fail(ctx, AG_EINVAL, "faces: want a resolution of 16..2048 pixels, got %d",
                       options->resolution);
    if (options->people < 0)
        return ag_fail(ctx, AG_EINVAL, "faces: want 0 or more people, got %lld",
                       (long long)options->people);
    if (options->layout != DATA_FACES_FFHQ_AGING && options->layout != DATA_FACES_FLAT)
        return ag_fail(ctx, AG_EINVAL, "faces: no layout number %d", (int)options->layout);
    if (!(options->age_min >= 0.0f && options->age_min <= options->age_max &&
          options->age_max <= DATA_FACE_AGE_MAX))
        return ag_fail(ctx, AG_EINVAL, "faces: want ages within 0..%g, the least first, got %g..%g",
                       (double)DATA_FACE_AGE_MAX, (double)options->age_min,
                       (double)options->age_max);
    if (options->one_person && options->people > 0)
        return ag_fail(ctx, AG_EINVAL, "faces: one identity and %lld people: wanted one of the two",
                       (long long)options->people);
    for (int64_t i = 0; i < options->n_ages; i++)
        if (options->ages[i] < 0 || options->ages[i] > (int64_t)DATA_FACE_AGE_MAX)
            return ag_fail(ctx, AG_EINVAL, "faces: want ages within 0..%g, got %lld", (double)DATA_FACE_AGE_MAX,
                           (long long)options->ages[i]);
    return AG_OK;
}

/* Refuse a folder where one of our files stands already. */
static ag_status check_root(ag_ctx *ctx, const char *root)
{
    static const char *const ours[] = {"images", "00000", "training_ages.npy",
                                       "ffhq_aging_labels.csv"};
    ag_status status = AG_OK;

    for (size_t i = 0; i < sizeof ours / sizeof ours[0] && status == AG_OK; i++) {
        char *path = ag_printf(ctx, "%s/%s", root, ours[i]);
        struct stat info;

        if (!path)
            return AG_ENOMEM;
        if (stat(path, &info) == 0)
            status =
                ag_fail(ctx, AG_EIO, "%s: is there already; give a new folder or remove it", path);
        ag_delete(path);
    }
    return status;
}

static ag_status write_picture(ag_ctx *ctx, const char *root, const data_faces_options *options,
                               int64_t index, const data_canvas *canvas, data_image *image)
{
    const bool nested = options->layout == DATA_FACES_FFHQ_AGING;
    char folder[NAME_SIZE] = "images";
    char *dir, *path = NULL;
    ag_status status = AG_OK;

    if (nested)
        snprintf(folder, sizeof folder, "%05d", (int)(index / 1000 * 1000));
    dir = ag_printf(ctx, "%s/%s", root, folder);
    if (dir)
        path = ag_printf(ctx, "%s/%05d.png", dir, (int)index);
    if (!path)
        status = AG_ENOMEM;
    if (status == AG_OK && (nested ? index % 1000 == 0 : index == 0))
        status = data_folder_make(ctx, dir);
    if (status == AG_OK) {
        data_canvas_bytes(image->pixels, canvas);
        status = data_image_write_png(ctx, image, path);
    }
    ag_delete(path);
    ag_delete(dir);
    return status;
}

/* One line of labels; returns its length, or -1. */
static int label_line(char *out, size_t size, const data_face_params *face, int64_t index)
{
    const double degrees = 57.29577951308232;

    return snprintf(
        out, size, "%d,%s,1,%s,1,%.2f,%.2f,%.2f,0,0,%s\n", (int)index, group_of((int)face->age),
        face->person.gender == DATA_FACE_MALE ? "male" : "female", 12.0 * (double)face->pitch,
        degrees * (double)face->roll, degrees * 0.22 * (double)face->yaw,
        data_face_has_glasses(face) ? "Normal" : "None");
}

ag_status data_faces_write(ag_ctx *ctx, const char *root, const data_faces_options *options,
                           void (*progress)(void *arg, int64_t done, int64_t count), void *arg)
{
    static const char header[] =
        "image_number,age_group,age_group_confidence,gender,gender_confidence,"
        "head_pitch,head_roll,head_yaw,left_eye_occluded,right_eye_occluded,"
        "glasses\n";
    enum { LINE_SIZE = 128 };
    const int64_t n = options->count;
    data_canvas *canvas = NULL;
    data_image image = {0};
    char *labels = NULL, *texts = NULL, *ages_path = NULL, *labels_path = NULL;
    const char **cells = NULL; /* [n,2], into texts */
    size_t used = sizeof header - 1;
    ag_status status = check_options(ctx, options);

    if (status == AG_OK)
        status = check_root(ctx, root);
    if (status == AG_OK)
        status = data_folder_make(ctx, root);
    if (status == AG_OK)
        status = data_canvas_new(&canvas, ctx, options->resolution, options->resolution);
    if (status == AG_OK)
        status = data_image_new(&image, ctx, options->resolution, options->resolution);
    if (status != AG_OK)
        goto out;
    labels = ag_new(ctx, (size_t)n * LINE_SIZE + sizeof header, 1, "face labels");
    texts = ag_new(ctx, (size_t)n * 2, NAME_SIZE, "face ages");
    cells = ag_new(ctx, (size_t)n * 2, sizeof *cells, "face ages");
    ages_path = ag_printf(ctx, "%s/training_ages.npy", root);
    labels_path = ag_printf(ctx, "%s/ffhq_aging_labels.csv", root);
    if (!labels || !texts || !cells || !ages_path || !labels_path) {
        status = AG_ENOMEM;
        goto out;
    }

    memcpy(labels, header, used);
    for (int64_t i = 0; i < n; i++) {
        const data_face_params face = data_faces_get(options, i);
        char *name = texts + 2 * i * NAME_SIZE, *age = name + NAME_SIZE;

        data_face_paint(canvas, &face);
        status = write_picture(ctx, root, options, i, canvas, &image);
        if (status != AG_OK)
            goto out;
        snprintf(name, NAME_SIZE, "%05d.png", (int)i);
        snprintf(age, NAME_SIZE, "%d", (int)face.age);
        cells[2 * i] = name;
        cells[2 * i + 1] = age;
        used += (size_t)label_line(labels + used, LINE_SIZE, &face, i);
        if (progress)
            progress(arg, i + 1, n);
    }
    status = data_npy_write_text2(ctx, ages_path, cells, n, 21);
    if (status == AG_OK)
        status = data_file_write(ctx, labels_path, labels, used);
out:
    ag_delete(labels_path);
    ag_delete(ages_path);
    ag_delete(cells);
    ag_delete(texts);
    ag_delete(labels);
    data_image_free(&image);
    data_canvas_free(canvas);
    return status;
}
