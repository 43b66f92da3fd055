/* test_bench_report.c - measurements of two sides become rows; what is none is refused by line. */
#include "tests/folder_check.h"

#include "cli/bench.h"
#include "data/json.h"
#include "data/text_file.h"

#define LINE(side, row, px, seconds, gb)                                                                     \
    "{\"side\": \"" side "\", \"row\": \"" row "\", \"px\": " px ", \"batch\": 1, \"threads\": 2, \"dtype\": " \
    "\"f32\", \"seconds\": " seconds ", \"gb\": " gb ", \"cpu_s\": 1.0}\n"

/* The same of row a at 512, with the slowest round. */
#define SPREAD(side, seconds, worst, gb)                                                                        \
    "{\"side\": \"" side "\", \"row\": \"a\", \"px\": 512, \"batch\": 1, \"threads\": 2, \"dtype\": "        \
    "\"f32\", \"seconds\": " seconds ", \"worst_s\": " worst ", \"gb\": " gb "}\n"

/* Two bars, as there are two pairs. */
static void check_picture(ag_ctx *ctx, const char *path)
{
    char *text = NULL;
    size_t size;
    int n = 0;

    check_ok(ctx, data_file_read(&text, &size, ctx, path, 1 << 20));
    for (const char *at = text; (at = strstr(at, "height=\"16\"")); at++)
        n++;
    assert_int_equal(n, 2);
    assert_non_null(strstr(text, "a 512 px, batch 1, 2 threads / Q 2"));
    assert_non_null(strstr(text, "</svg>"));
    ag_delete(text);
}

static void check_row(const json_t *rows, size_t i, const char *row, int px, double ours, const char *peer,
                      double peer_s, double peer_gb)
{
    const json_t *at = json_array_get(rows, i);

    assert_string_equal(json_string_value(json_object_get(at, "row")), row);
    assert_int_equal(json_integer_value(json_object_get(at, "px")), px);
    assert_int_equal(json_integer_value(json_object_get(at, "batch")), 1);
    assert_int_equal(json_integer_value(json_object_get(at, "threads")), 2);
    assert_string_equal(json_string_value(json_object_get(at, "dtype")), "f32");
    assert_true(json_real_value(json_object_get(at, "ours_s")) == ours);
    assert_true(json_real_value(json_object_get(at, "ours_gb")) == 4.5);
    if (!peer) {
        assert_true(json_is_null(json_object_get(at, "peer")));
        assert_true(json_is_null(json_object_get(at, "peer_s")));
        assert_true(json_is_null(json_object_get(at, "peer_gb")));
        return;
    }
    assert_string_equal(json_string_value(json_object_get(at, "peer")), peer);
    assert_true(json_real_value(json_object_get(at, "peer_s")) == peer_s);
    assert_true(json_real_value(json_object_get(at, "peer_gb")) == peer_gb);
}

static void test_pairs(void **state)
{
    const char *const lines = SPREAD("ours", "2.0", "3.0", "4.5") LINE("P 1", "a", "512", "3.0", "6.5")
                            SPREAD("Q 2", "4.0", "8.0", "7.5") LINE("ours", "a", "256", "1.0", "4.5")
                                LINE("P 1", "b", "512", "9.0", "9.5");
    char *folder = check_folder_new();
    const char *in = check_path(folder, "bench.jsonl"), *out = check_path(folder, "bench.json");
    ag_ctx *ctx = ag_ctx_new(NULL);
    json_t *rows = NULL;

    (void)state;
    check_write(ctx, folder, "bench.jsonl", lines);
    check_ok(ctx, bench_report(ctx, in, out));
    check_ok(ctx, data_json_read(&rows, ctx, out, 1 << 20));
    assert_int_equal(json_array_size(rows), 3);
    check_row(rows, 0, "a", 512, 2.0, "P 1", 3.0, 6.5); /* one row a peer */
    check_row(rows, 1, "a", 512, 2.0, "Q 2", 4.0, 7.5);
    check_row(rows, 2, "a", 256, 1.0, NULL, 0.0, 0.0); /* of another size: nobody's peer */
    assert_true(json_is_null(json_object_get(json_array_get(rows, 2), "ratio")));
    assert_true(json_real_value(json_object_get(json_array_get(rows, 1), "ratio")) == 0.5);
    assert_true(json_real_value(json_object_get(json_array_get(rows, 1), "ratio_low")) == 0.25);
    assert_true(json_real_value(json_object_get(json_array_get(rows, 1), "ratio_high")) == 0.75);
    check_picture(ctx, check_path(folder, "bench.svg"));
    json_decref(rows);
    ag_ctx_free(ctx);
    check_folder_remove(folder);
}

static void test_refused(void **state)
{
    static const char *const BAD[] = {
        "not JSON\n", "[1]\n", "{}\n", LINE("ours", "a", "512", "0.0", "4.5"), LINE("ours", "a", "512", "\"x\"", "4.5"),
    };

    char *folder = check_folder_new();
    const char *in = check_path(folder, "bench.jsonl"), *out = check_path(folder, "bench.json");
    ag_ctx *ctx = ag_ctx_new(NULL);
    struct stat info;

    (void)state;
    check_failed(ctx, bench_report(ctx, in, out), AG_EIO, "bench.jsonl");
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        check_write(ctx, folder, "bench.jsonl", BAD[i]);
        check_failed(ctx, bench_report(ctx, in, out), AG_EDATA, "bench.jsonl");
        assert_int_not_equal(stat(out, &info), 0); /* nothing was written */
    }
    ag_ctx_free(ctx);
    check_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
