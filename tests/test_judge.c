/* test_judge.c - the judge of drawn faces: learning, files, distances, refusals. */
#include "data/safetensors.h"
#include "data/weights.h"
#include "tests/train_check.h"
#include "train/judge.h"

enum { VALUES = TRAIN_JUDGE_SIDE * TRAIN_JUDGE_SIDE * 3, FACES = 3 };

static train_judge *trained(ag_ctx *ctx, train_judge_report *report, int64_t steps)
{
    const train_judge_options options = {
        .seed = 3, .steps = steps, .batch = 16, .learning_rate = 2e-3, .held_out = 64};
    train_judge *judge = NULL;

    if (train_judge_train(&judge, report, NULL, ctx, &options) != AG_OK)
        fail_msg("%s", ag_message(ctx));
    return judge;
}

/* Faces of ages 10, 40 and 70 of the person `identity`, and what is true of them. */
static void draw(ag_ctx *ctx, uint64_t identity, float *pixels, train_judgement *truth)
{
    data_canvas *canvas = NULL;

    assert_int_equal(data_canvas_new(&canvas, ctx, TRAIN_JUDGE_SIDE, TRAIN_JUDGE_SIDE), AG_OK);
    for (int k = 0; k < FACES; k++) {
        const data_face_params face = data_face_draw(identity, 10.0f + 30.0f * (float)k, DATA_FACE_ANY, 1);

        data_face_paint(canvas, &face);
        for (int i = 0; i < VALUES; i++)
            pixels[k * VALUES + i] = 2.0f * fminf(fmaxf(data_canvas_rgb(canvas)[i], 0.0f), 1.0f) - 1.0f;
        truth[k] = train_judge_truth(&face);
    }
    data_canvas_free(canvas);
}

/* Sixty updates are enough to tell ages and skins; the same run gives the same bits. */
static void test_learns(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_judge_report first, report, again;
    train_judge *judge;
    (void)state;

    train_judge_free(trained(ctx, &first, 1));
    judge = trained(ctx, &report, 60);
    assert_true(report.age_error < 0.6 * first.age_error);
    assert_true(report.r2[TRAIN_JUDGE_AGE] > 0.6 && first.r2[TRAIN_JUDGE_AGE] < 0.3);
    assert_true(report.r2[0] > 0.7); /* skin.r */
    assert_true(train_judge_counts(judge, 0) && !train_judge_counts(judge, TRAIN_JUDGE_AGE));
    assert_true(report.same < 0.75 * report.other);
    train_judge_free(judge);

    train_judge_free(trained(ctx, &again, 1));
    assert_memory_equal(&first, &again, sizeof first);
    assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    ag_ctx_free(ctx);
}

static void test_file(void **state)
{
    ag_ctx *ctx = check_ctx();
    static float pixels[FACES * VALUES];
    train_judgement truth[FACES], before[FACES], after[FACES];
    train_judge *judge = NULL, *read = NULL;
    train_judge_report report;
    char folder[256];
    const char *path = check_join(check_folder(folder), "judge.safetensors");
    (void)state;

    draw(ctx, 11, pixels, truth);
    judge = trained(ctx, &report, 4);
    assert_int_equal(train_judge_estimate(before, ctx, judge, pixels, FACES), AG_OK);
    assert_int_equal(train_judge_save(ctx, judge, path), AG_OK);
    assert_int_equal(train_judge_open(&read, ctx, path), AG_OK);
    assert_int_equal(train_judge_estimate(after, ctx, read, pixels, FACES), AG_OK);
    assert_memory_equal(before, after, sizeof before);
    for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++)
        assert_true(read->r2[i] == (float)report.r2[i] && read->deviation[i] == judge->deviation[i]);
    train_judge_free(read);
    train_judge_free(judge);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* The distance, by hand: two traits count, one of them 3 deviations off. */
static void test_distance(void **state)
{
    ag_ctx *ctx = check_ctx();
    static float pixels[FACES * VALUES];
    train_judgement truth[FACES], moved;
    train_judge judge = {0};
    (void)state;

    draw(ctx, 5, pixels, truth);
    assert_memory_equal(truth[0].values, truth[2].values, TRAIN_JUDGE_TRAITS * sizeof *truth[0].values);
    assert_true(truth[0].values[TRAIN_JUDGE_AGE] == 10.0f && truth[2].values[TRAIN_JUDGE_AGE] == 70.0f);
    for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++)
        judge.deviation[i] = 0.25f;
    assert_true(train_judge_distance(&judge, &truth[0], &truth[1]) == 0.0); /* nothing counts */
    judge.r2[2] = 0.9f;
    judge.r2[7] = 0.5f;
    judge.r2[8] = 0.49f;
    judge.r2[TRAIN_JUDGE_AGE] = 1.0f;
    moved = truth[0];
    moved.values[2] += 0.75f;
    moved.values[8] += 9.0f;
    moved.values[TRAIN_JUDGE_AGE] += 50.0f;
    check_close("distance", 0, train_judge_distance(&judge, &moved, &truth[0]), 3.0 / sqrt(2.0), 1e-5, 0.0);
    assert_string_equal(train_judge_name(0), "skin.r");
    assert_string_equal(train_judge_name(9), "gender");
    assert_string_equal(train_judge_name(TRAIN_JUDGE_AGE), "age");
    ag_ctx_free(ctx);
}

/* The files of a judge with one tensor fewer, and with a deviation of 0. */
static void spoil(ag_ctx *ctx, const char *from, const char *to, bool drop)
{
    data_weights *weights = NULL;
    data_source sources[64];
    float *values[64];
    int64_t n, kept = 0;

    assert_int_equal(data_weights_open(&weights, ctx, from), AG_OK);
    n = data_weights_count(weights);
    assert_in_range(n, 1, 64);
    for (int64_t i = 0; i < n; i++) {
        const data_tensor *t = data_weights_at(weights, i);

        if (drop && strcmp(t->name, "conv_in.bias") == 0)
            continue;
        values[kept] = malloc(t->n_bytes);
        assert_non_null(values[kept]);
        assert_int_equal(data_weights_read(ctx, weights, i, values[kept]), AG_OK);
        if (!drop && strcmp(t->name, "scale.deviation") == 0)
            values[kept][1] = 0.0f;
        sources[kept] = (data_source){
            .name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .dims = t->dims, .values = values[kept]};
        kept++;
    }
    assert_int_equal(data_safetensors_write(ctx, to, sources, kept, NULL, 0), AG_OK);
    for (int64_t i = 0; i < kept; i++)
        free(values[i]);
    data_weights_close(weights);
}

static void refused(ag_ctx *ctx, const char *path, ag_status want, const char *words)
{
    train_judge *judge = NULL;

    assert_int_equal(train_judge_open(&judge, ctx, path), want);
    assert_null(judge);
    if (!strstr(ag_message(ctx), words) || !strstr(ag_message(ctx), path))
        fail_msg("wanted \"%s\" and the path in: %s", words, ag_message(ctx));
    check_failed(ctx, want, path);
}

static void test_refusals(void **state)
{
    const train_judge_options good = {.steps = 1, .batch = 2, .learning_rate = 1e-3, .held_out = 2};
    train_judge_options bad[3] = {good, good, good};
    ag_ctx *ctx = check_ctx();
    train_judge_report report;
    train_judge *judge = NULL;
    char folder[256], path[300], spoiled[300];
    (void)state;

    bad[0].steps = 0;
    bad[1].batch = 5000;
    bad[2].held_out = 1;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(train_judge_train(&judge, &report, NULL, ctx, &bad[i]), AG_EINVAL);
        assert_null(judge);
        check_failed(ctx, AG_EINVAL, "options");
    }
    bad[0] = good;
    bad[0].model = "/no/such/model";
    assert_int_equal(train_judge_train(&judge, &report, &report, ctx, &bad[0]), AG_EIO);
    check_failed(ctx, AG_EIO, "a model that is not there");

    snprintf(path, sizeof path, "%s/judge.safetensors", check_folder(folder));
    snprintf(spoiled, sizeof spoiled, "%s/spoiled.safetensors", folder);
    refused(ctx, path, AG_EIO, "");
    judge = trained(ctx, &report, 1);
    assert_int_equal(train_judge_save(ctx, judge, path), AG_OK);
    spoil(ctx, path, spoiled, true);
    refused(ctx, spoiled, AG_EDATA, "conv_in.bias");
    spoil(ctx, path, spoiled, false);
    refused(ctx, spoiled, AG_EDATA, "scale of skin.g");
    train_judge_free(judge);
    check_remove(folder);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_distance),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
