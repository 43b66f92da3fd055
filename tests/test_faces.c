/* test_faces.c - the painter against areas known by arithmetic; faces against what they promise.
 *
 * Age is "clearly visible" when a linear regression on an 8 x 8 miniature of the face (192 numbers)
 * tells the age of people it has never seen, and puts the ages of one person in order.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "autograd/context.h"
#include "data/ages.h"
#include "data/csv.h"
#include "data/dataset.h"
#include "data/faces.h"
#include "data/image.h"
#include "data/paint.h"

enum { SIDE = 32, MINI = 8, N_FEATURES = MINI * MINI * 3 + 1, N_AGES = 10 };

static const data_rgb white = {1.0f, 1.0f, 1.0f};
static const data_rgb black = {0.0f, 0.0f, 0.0f};

static ag_ctx *make_ctx(void)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.n_threads = 1});

    assert_non_null(ctx);
    return ctx;
}

static data_canvas *make_canvas(ag_ctx *ctx, int64_t w, int64_t h)
{
    data_canvas *canvas = NULL;

    assert_int_equal(data_canvas_new(&canvas, ctx, w, h), AG_OK);
    return canvas;
}

/* --- the painter --------------------------------------------------------------------------- */

/* White paint on the canvas, in pixels. */
static double painted(const data_canvas *canvas)
{
    const int64_t n = data_canvas_width(canvas) * data_canvas_height(canvas);
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)data_canvas_rgb(canvas)[3 * i];
    return sum;
}

static void rectangle(data_path *path, float x0, float y0, float x1, float y1)
{
    data_path_reset(path);
    data_path_move(path, x0, y0);
    data_path_line(path, x1, y0);
    data_path_line(path, x1, y1);
    data_path_line(path, x0, y1);
}

static double fill_white(data_canvas *canvas, const data_path *path, float soft, bool clipped)
{
    data_brush brush = data_brush_solid(white, 1.0f);

    brush.soft = soft;
    brush.clipped = clipped;
    data_canvas_fill(canvas, path, &brush);
    return painted(canvas);
}

static void test_coverage_is_area(void **state)
{
    ag_ctx *ctx = make_ctx();
    data_canvas *canvas = make_canvas(ctx, 37, 23);
    data_path path, line;
    const float *rgb = data_canvas_rgb(canvas);
    (void)state;

    rectangle(&path, 3.25f, 4.5f, 9.75f, 7.25f);
    assert_true(fabs(fill_white(canvas, &path, 0.0f, false) - 6.5 * 2.75) < 1e-4);
    assert_true(fabsf(rgb[3 * (4 * 37 + 3)] - 0.75f * 0.5f) < 1e-5f); /* a corner */
    assert_true(fabsf(rgb[3 * (5 * 37 + 5)] - 1.0f) < 1e-6f);
    assert_true(rgb[3 * (5 * 37 + 11)] == 0.0f);

    /* Over every edge of the canvas only what is inside counts. */
    data_canvas_clear(canvas, black);
    rectangle(&path, -5.0f, -3.0f, 2.5f, 40.0f);
    assert_true(fabs(fill_white(canvas, &path, 0.0f, false) - 2.5 * 23.0) < 1e-3);
    data_canvas_clear(canvas, black);
    rectangle(&path, 30.5f, -3.0f, 99.0f, 1.5f);
    assert_true(fabs(fill_white(canvas, &path, 0.0f, false) - 6.5 * 1.5) < 1e-3);
    data_canvas_clear(canvas, black);
    rectangle(&path, 100.0f, 100.0f, 120.0f, 120.0f);
    assert_true(fill_white(canvas, &path, 1.0f, false) == 0.0);

    /* A ring; the other direction gives the same. */
    for (int hole = 0; hole < 2; hole++) {
        data_canvas_clear(canvas, black);
        data_path_reset(&path);
        data_path_ellipse(&path, 18.0f, 11.0f, 9.0f, 7.0f, hole);
        data_path_ellipse(&path, 18.0f, 11.0f, 4.0f, 3.0f, !hole);
        assert_true(fabs(fill_white(canvas, &path, 0.0f, false) - M_PI * (63.0 - 12.0)) < 0.4);
    }

    /* A stroke is as wide as asked, also turned and scaled. */
    data_canvas_clear(canvas, black);
    data_canvas_place(canvas, 6.0f, 3.0f, 2.0f, 0.5f);
    data_path_reset(&line);
    data_path_reset(&path);
    data_path_move(&line, 0.0f, 0.0f);
    data_path_line(&line, 5.0f, 0.0f);
    data_path_line(&line, 10.0f, 0.0f);
    data_path_stroke(&path, &line, 0.5f, 1.5f, 0.5f);
    assert_true(fabs(fill_white(canvas, &path, 0.0f, false) - 4.0 * 10.0) < 1e-2);

    /* A soft edge moves paint, it makes none. */
    data_canvas_clear(canvas, black);
    data_canvas_place(canvas, 0.0f, 0.0f, 1.0f, 0.0f);
    rectangle(&path, 14.0f, 9.0f, 20.0f, 13.0f);
    assert_true(fabs(fill_white(canvas, &path, 1.5f, false) - 24.0) < 0.05);
    assert_true(rgb[3 * (11 * 37 + 12)] > 0.02f && rgb[3 * (11 * 37 + 12)] < 0.5f);

    /* Inside the clip only. */
    data_canvas_clear(canvas, black);
    rectangle(&path, 0.0f, 0.0f, 10.0f, 10.0f);
    data_canvas_clip(canvas, &path);
    rectangle(&path, 5.0f, 5.0f, 30.0f, 20.0f);
    assert_true(fabs(fill_white(canvas, &path, 0.0f, true) - 25.0) < 1e-3);

    data_canvas_free(canvas);
    assert_int_equal(data_canvas_new(&canvas, ctx, 0, 5), AG_EINVAL);
    ag_clear(ctx);
    assert_int_equal(data_canvas_new(&canvas, ctx, 5, 100000), AG_EINVAL);
    ag_ctx_free(ctx);
}

/* --- faces ---------------------------------------------------------------------------------- */

static void paint_bytes(uint8_t *rgb, data_canvas *canvas, uint64_t identity, float age,
                        uint64_t jitter)
{
    const data_face_params face = data_face_draw(identity, age, DATA_FACE_ANY, jitter);

    data_face_paint(canvas, &face);
    data_canvas_bytes(rgb, canvas);
}

static void test_same_seed_same_face(void **state)
{
    ag_ctx *ctx = make_ctx();
    data_canvas *canvas = make_canvas(ctx, SIDE, SIDE);
    data_canvas *large = make_canvas(ctx, 4 * SIDE, 4 * SIDE);
    uint8_t a[SIDE * SIDE * 3], b[SIDE * SIDE * 3];
    static uint8_t big[16 * SIDE * SIDE * 3];
    double off = 0.0;
    (void)state;

    paint_bytes(a, canvas, 7, 33.0f, 5);
    paint_bytes(b, canvas, 8, 70.0f, 0);
    assert_memory_not_equal(a, b, sizeof a);
    paint_bytes(b, canvas, 7, 33.0f, 5);
    assert_memory_equal(a, b, sizeof a);

    /* The same drawing at four times the size. */
    paint_bytes(big, large, 7, 33.0f, 5);
    for (int i = 0; i < SIDE * SIDE * 3; i++) {
        const int c = i % 3, x = i / 3 % SIDE, y = i / 3 / SIDE;
        double sum = 0.0;
        for (int k = 0; k < 16; k++)
            sum += big[3 * ((4 * y + k / 4) * 4 * SIDE + 4 * x + k % 4) + c];
        off += fabs(sum / 16.0 - a[i]);
    }
    assert_true(off / (SIDE * SIDE * 3) < 1.5);

    /* Out-of-range ages are drawn at the ends; nothing is ever not a number. */
    paint_bytes(a, canvas, 9, 90.0f, 1);
    paint_bytes(b, canvas, 9, 400.0f, 1);
    assert_memory_equal(a, b, sizeof a);
    paint_bytes(a, canvas, 9, 0.0f, 1);
    paint_bytes(b, canvas, 9, NAN, 1);
    assert_memory_equal(a, b, sizeof a);
    for (uint64_t seed = 0; seed < 60; seed++) {
        const data_face_params face = data_face_draw(seed, 1.5f * (float)seed, DATA_FACE_ANY, seed);
        data_face_paint(canvas, &face);
        for (int i = 0; i < SIDE * SIDE * 3; i++)
            assert_true(data_canvas_rgb(canvas)[i] >= -0.01f && data_canvas_rgb(canvas)[i] <= 1.1f);
    }
    data_canvas_free(large);
    data_canvas_free(canvas);
    ag_ctx_free(ctx);
}

static void test_person_stays(void **state)
{
    ag_ctx *ctx = make_ctx();
    data_canvas *canvas = make_canvas(ctx, SIDE, SIDE);
    uint8_t young[SIDE * SIDE * 3], old[SIDE * SIDE * 3];
    float a[DATA_PERSON_N], b[DATA_PERSON_N];
    int n_male = 0, n_glasses[3] = {0, 0, 0}, n_beards = 0;
    (void)state;

    for (uint64_t seed = 0; seed < 400; seed++) {
        const data_person p = data_person_draw(seed, DATA_FACE_ANY);
        const float ages[3] = {10.0f, 40.0f, 80.0f};

        n_male += p.gender == DATA_FACE_MALE;
        data_person_vector(a, &p);
        for (int i = 0; i < DATA_PERSON_N; i++)
            assert_true(fabsf(a[i]) <= 1.0001f);
        for (int i = 0; i < 3; i++) {
            const data_face_params face = data_face_draw(seed, ages[i], DATA_FACE_ANY, i + 1);
            data_person_vector(b, &face.person);
            assert_memory_equal(a, b, sizeof a);
            n_glasses[i] += data_face_has_glasses(&face);
            assert_false(data_face_has_beard(&face) && (i == 0 || p.gender != DATA_FACE_MALE));
            n_beards += data_face_has_beard(&face) && i == 1;
        }
    }
    assert_in_range(n_male, 160, 240);
    assert_true(n_glasses[0] < n_glasses[1] && n_glasses[1] < n_glasses[2]);
    assert_in_range(n_beards, 50, 140);

    /* The corner behind the head never changes; the face does. */
    paint_bytes(young, canvas, 3, 8.0f, 0);
    paint_bytes(old, canvas, 3, 80.0f, 0);
    assert_memory_equal(young, old, 3 * 3);
    assert_memory_not_equal(young, old, sizeof old);

    /* A gender that is asked for is given, and changes no other colour of the person. */
    const data_person f = data_person_draw(11, DATA_FACE_FEMALE);
    const data_person m = data_person_draw(11, DATA_FACE_MALE);
    assert_true(f.gender == DATA_FACE_FEMALE && m.gender == DATA_FACE_MALE);
    assert_memory_equal(&f.skin, &m.skin, sizeof f.skin);
    data_canvas_free(canvas);
    ag_ctx_free(ctx);
}

/* The miniature of a face: means over squares, and a one. */
static void features(double out[N_FEATURES], data_canvas *canvas, uint64_t identity, float age)
{
    const data_face_params face =
        data_face_draw(identity, age, DATA_FACE_ANY, identity * 100 + (uint64_t)age);
    const float *rgb;

    data_face_paint(canvas, &face);
    rgb = data_canvas_rgb(canvas);
    memset(out, 0, N_FEATURES * sizeof *out);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++)
            for (int c = 0; c < 3; c++)
                out[3 * (y * MINI / SIDE * MINI + x * MINI / SIDE) + c] +=
                    (double)rgb[3 * (y * SIDE + x) + c] * MINI * MINI / (SIDE * SIDE);
    out[N_FEATURES - 1] = 1.0;
}

/* Solve the positive definite system a x = b in place (Cholesky); x is left in b. */
static void solve(double (*a)[N_FEATURES], double *b)
{
    for (int i = 0; i < N_FEATURES; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = a[i][j];
            for (int k = 0; k < j; k++)
                sum -= a[i][k] * a[j][k];
            a[i][j] = i == j ? sqrt(sum) : sum / a[j][j];
        }
        for (int k = 0; k < i; k++)
            b[i] -= a[i][k] * b[k];
        b[i] /= a[i][i];
    }
    for (int i = N_FEATURES - 1; i >= 0; i--) {
        for (int k = i + 1; k < N_FEATURES; k++)
            b[i] -= a[k][i] * b[k];
        b[i] /= a[i][i];
    }
}

static void test_age_is_visible(void **state)
{
    static const float ages[N_AGES] = {1, 5, 8, 12, 17, 25, 35, 45, 60, 80};
    enum { N_TRAIN = 150, N_TEST = 20 };
    static double a[N_FEATURES][N_FEATURES], w[N_FEATURES], x[N_FEATURES];
    ag_ctx *ctx = make_ctx();
    data_canvas *canvas = make_canvas(ctx, SIDE, SIDE);
    double off = 0.0;
    int in_order = 0, pairs = 0;
    (void)state;

    memset(a, 0, sizeof a);
    memset(w, 0, sizeof w);
    for (int p = 0; p < N_TRAIN; p++)
        for (int k = 0; k < N_AGES; k++) {
            features(x, canvas, 1000 + (uint64_t)p, ages[k]);
            for (int i = 0; i < N_FEATURES; i++) {
                w[i] += x[i] * (double)ages[k];
                for (int j = 0; j <= i; j++)
                    a[i][j] += x[i] * x[j];
            }
        }
    for (int i = 0; i < N_FEATURES; i++)
        a[i][i] += 0.05;
    solve(a, w);
    for (int p = 0; p < N_TEST; p++) {
        double told[N_AGES];
        for (int k = 0; k < N_AGES; k++) {
            features(x, canvas, 2000 + (uint64_t)p, ages[k]);
            told[k] = 0.0;
            for (int i = 0; i < N_FEATURES; i++)
                told[k] += x[i] * w[i];
            off += fabs(told[k] - (double)ages[k]) / (N_TEST * N_AGES);
        }
        for (int k = 0; k + 2 < N_AGES; k++, pairs++)
            in_order += told[k + 2] > told[k];
    }
    print_message("ages told from 8 x 8 pixels: %.1f years off, %d of %d pairs in order\n", off,
                  in_order, pairs);
    assert_true(off < 8.0);
    assert_true(in_order >= pairs * 92 / 100);
    data_canvas_free(canvas);
    ag_ctx_free(ctx);
}

static void test_captions(void **state)
{
    static const char *const forbidden[] = {"old",   "year", "young", "boy",   "girl",      "baby",
                                            "child", "kid",  "teen",  "elder", "grey h", "white h"};
    char text[DATA_CAPTION_MAX], same[DATA_CAPTION_MAX], tiny[9];
    int n_plain = 0, n_glasses = 0;
    (void)state;

    for (uint64_t i = 0; i < 3000; i++) {
        const data_face_params face = data_face_draw(i, (float)(i % 90), DATA_FACE_ANY, i);

        data_face_caption(text, sizeof text, &face, i);
        data_face_caption(same, sizeof same, &face, i);
        assert_string_equal(text, same);
        assert_true(strncmp(text, "photo of a ", 11) == 0);
        assert_null(strpbrk(text, "0123456789"));
        for (size_t k = 0; k < sizeof forbidden / sizeof *forbidden; k++)
            assert_null(strstr(text, forbidden[k]));
        assert_false(strstr(text, "glasses") && !data_face_has_glasses(&face));
        n_plain += strcmp(text, "photo of a person") == 0;
        n_glasses += strstr(text, "glasses") != NULL;
    }
    assert_in_range(n_plain, 300, 1200);
    assert_true(n_glasses > 100);
    const data_face_params face = data_face_draw(1, 30.0f, DATA_FACE_ANY, 0);
    data_face_caption(tiny, sizeof tiny, &face, 1);
    assert_string_equal(tiny, "photo of");
}

/* --- sets ----------------------------------------------------------------------------------- */

static void test_sets_cover_the_groups(void **state)
{
    data_faces_options options = data_faces_defaults();
    int seen[10] = {0};
    static const int upper[10] = {2, 6, 9, 14, 19, 29, 39, 49, 69, 120};
    (void)state;

    options.count = 1000;
    for (int64_t i = 0; i < options.count; i++) {
        const data_face_params face = data_faces_get(&options, i);
        int group = 0;
        assert_true(face.age == floorf(face.age) && face.age <= DATA_FACE_AGE_MAX);
        while (face.age > (float)upper[group])
            group++;
        seen[group]++;
    }
    for (int i = 0; i < 10; i++)
        assert_int_equal(seen[i], 100);

    options.people = 4; /* pictures 1 and 5 are one person at two ages */
    options.age_min = 20.0f;
    options.age_max = 45.0f;
    const data_face_params a = data_faces_get(&options, 1), b = data_faces_get(&options, 5);
    assert_true(a.person.identity == b.person.identity && a.age != b.age);
    for (int64_t i = 0; i < 50; i++)
        assert_in_range((int)data_faces_get(&options, i).age, 20, 45);
}

/* One person at given ages: the person of the seed, faces that differ, and every age in turn. */
static void test_one_person(void **state)
{
    static const int64_t years[] = {8, 21, 40, 64};
    data_faces_options options = data_faces_defaults(), other;
    const data_person person = data_person_draw(77, DATA_FACE_ANY);
    float a[DATA_PERSON_N], b[DATA_PERSON_N];
    (void)state;

    options.one_person = true;
    options.identity = 77;
    options.n_ages = 4;
    options.ages = years;
    options.count = 6;
    other = options;
    other.seed = 1;
    data_person_vector(a, &person);
    for (int64_t i = 0; i < 6; i++) {
        const data_face_params face = data_faces_get(&options, i), posed = data_faces_get(&other, i);

        assert_int_equal(face.person.identity, 77);
        data_person_vector(b, &face.person);
        assert_memory_equal(a, b, sizeof a);
        assert_true(face.age == (float)years[i % 4] && posed.age == face.age);
        assert_true(face.yaw != posed.yaw && (i == 0 || face.yaw != data_faces_get(&options, i - 1).yaw));
    }

    /* Given ages alone: everybody once; the person alone: ages over all groups. */
    other = options;
    other.one_person = false;
    assert_true(data_faces_get(&other, 1).age == 21.0f);
    assert_true(data_faces_get(&other, 1).person.identity != data_faces_get(&other, 2).person.identity);
    options.n_ages = 0;
    assert_true(data_faces_get(&options, 0).age <= 2.0f && data_faces_get(&options, 9).age >= 70.0f);
}

static void remove_folder(const char *dir)
{
    char command[600];

    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
}

static void test_write(void **state)
{
    static const char *const images[] = {"", "/images"};
    (void)state;

    for (int layout = DATA_FACES_FFHQ_AGING; layout <= DATA_FACES_FLAT; layout++) {
        ag_ctx *ctx = make_ctx();
        data_faces_options options = data_faces_defaults();
        char root[] = "/tmp/agewright-faces-XXXXXX", sub[100], path[200];
        data_ages ages, groups;
        data_set set;
        data_csv csv;

        assert_non_null(mkdtemp(root));
        snprintf(sub, sizeof sub, "%s/deep/set", root);
        options.count = 12;
        options.resolution = 24;
        options.seed = 5;
        options.layout = (data_faces_layout)layout;
        assert_int_equal(data_faces_write(ctx, sub, &options, NULL, NULL), AG_OK);

        snprintf(path, sizeof path, "%s/training_ages.npy", sub);
        assert_int_equal(data_ages_open(&ages, ctx, path), AG_OK);
        assert_int_equal(ages.n, 12);
        assert_string_equal(ages.names[11], "00011.png");
        snprintf(path, sizeof path, "%s/ffhq_aging_labels.csv", sub);
        assert_int_equal(data_ages_open(&groups, ctx, path), AG_OK);
        assert_int_equal(groups.n, 12);
        assert_int_equal(data_csv_read(&csv, ctx, path), AG_OK);
        assert_int_equal(csv.n_cols, 11);
        snprintf(path, sizeof path, "%s%s", sub, images[layout]);
        assert_int_equal(data_set_open(&set, ctx, path, &ages, DATA_CHECK_PIXELS), AG_OK);
        assert_int_equal(set.n, 12);
        for (int64_t i = 0; i < 12; i++) {
            const data_face_params face = data_faces_get(&options, i);
            const char *gender = csv.cells[i * 11 + data_csv_column(&csv, "gender")];
            assert_true(ages.ages[i] == face.age && set.items[i].age == face.age);
            assert_true(fabsf(groups.ages[i] - face.age) <= 10.0f);
            assert_string_equal(gender, face.person.gender == DATA_FACE_MALE ? "male" : "female");
        }
        data_set_close(&set);
        data_csv_free(&csv);
        data_ages_close(&groups);
        data_ages_close(&ages);

        /* Never over a set that stands there. */
        assert_int_equal(data_faces_write(ctx, sub, &options, NULL, NULL), AG_EIO);
        assert_non_null(strstr(ag_message(ctx), "is there already"));
        remove_folder(root);
        ag_ctx_free(ctx);
    }
}

static void test_write_refusals(void **state)
{
    static const int64_t too_old = 91;
    ag_ctx *ctx = make_ctx();
    data_faces_options options = data_faces_defaults();
    char root[] = "/tmp/agewright-faces-XXXXXX", sub[100];
    ag_status status = AG_ENOMEM;
    (void)state;

    assert_non_null(mkdtemp(root));
    snprintf(sub, sizeof sub, "%s/set", root);
    options.count = 0;
    assert_int_equal(data_faces_write(ctx, sub, &options, NULL, NULL), AG_EINVAL);
    ag_clear(ctx);
    options = data_faces_defaults();
    options.resolution = 4;
    assert_int_equal(data_faces_write(ctx, sub, &options, NULL, NULL), AG_EINVAL);
    ag_clear(ctx);
    options = data_faces_defaults();
    options.age_min = 60.0f;
    options.age_max = 20.0f;
    assert_int_equal(data_faces_write(ctx, sub, &options, NULL, NULL), AG_EINVAL);
    ag_clear(ctx);
    options = data_faces_defaults();
    options.n_ages = 1;
    options.ages = &too_old;
    assert_int_equal(data_faces_write(ctx, sub, &options, NULL, NULL), AG_EINVAL);
    assert_non_null(strstr(ag_message(ctx), "91"));
    ag_clear(ctx);
    options = data_faces_defaults();
    options.one_person = true;
    options.people = 3;
    assert_int_equal(data_faces_write(ctx, sub, &options, NULL, NULL), AG_EINVAL);
    ag_clear(ctx);
    assert_int_not_equal(access(sub, F_OK), 0); /* nothing was made */

    options = data_faces_defaults();
    options.count = 2;
    options.resolution = 16;
    for (int64_t n = 0; status != AG_OK; n++) { /* every allocation refused once */
        remove_folder(sub);
        ag_clear(ctx);
        ag_refuse_allocation(ctx, n, true);
        status = data_faces_write(ctx, sub, &options, NULL, NULL);
        ag_refuse_allocation(ctx, -1, false);
        assert_true(status == AG_OK || ag_status_of(ctx) == AG_ENOMEM);
        assert_true(status == AG_OK || ag_message(ctx)[0] != '\0');
        assert_true(n < 500);
    }
    remove_folder(root);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_coverage_is_area),      cmocka_unit_test(test_same_seed_same_face),
        cmocka_unit_test(test_person_stays),          cmocka_unit_test(test_age_is_visible),
        cmocka_unit_test(test_captions),              cmocka_unit_test(test_sets_cover_the_groups),
        cmocka_unit_test(test_one_person),            cmocka_unit_test(test_write),
        cmocka_unit_test(test_write_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
