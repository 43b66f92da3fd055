/* test_json_yaml.c - JSON and YAML helpers: what is taken, what is refused, what is written. */
#include "tests/folder_check.h"

#include "data/json.h"
#include "data/yaml.h"

static ag_ctx *ctx;
static char *folder;

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *parse(const char *text)
{
    json_t *value = NULL;

    check_ok(ctx, data_json_parse(&value, ctx, "t.json", text, strlen(text)));
    return value;
}

static void refuse(const char *text, const char *words)
{
    json_t *value = NULL;

    check_failed(ctx, data_json_parse(&value, ctx, "t.json", text, strlen(text)), AG_EDATA, words);
    assert_null(value);
}

static void json_reads(void **state)
{
    json_t *node = parse("{\"i\": 3, \"r\": 0.5, \"w\": 2.0, \"b\": true, \"t\": \"x\", "
                         "\"n\": null}");

    (void)state;
    assert_int_equal(data_json_int(ctx, "t", node, "i", 9), 3);
    assert_int_equal(data_json_int(ctx, "t", node, "w", 9), 2);
    assert_int_equal(data_json_int(ctx, "t", node, "n", 9), 9);
    assert_int_equal(data_json_int(ctx, "t", node, "absent", 9), 9);
    assert_true(data_json_real(ctx, "t", node, "r", 0) == 0.5);
    assert_true(data_json_real(ctx, "t", node, "i", 0) == 3.0);
    assert_true(data_json_bool(ctx, "t", node, "b", false));
    assert_string_equal(data_json_text(ctx, "t", node, "t", ""), "x");
    check_ok(ctx, AG_OK);
    data_json_int(ctx, "file", node, "r", 0);
    check_failed(ctx, ag_status_of(ctx), AG_EDATA, "file: \"r\" must be a whole number, got 0.5");
    data_json_bool(ctx, "file", node, "i", 0);
    check_failed(ctx, ag_status_of(ctx), AG_EDATA, "\"i\" must be true or false, got 3");
    data_json_text(ctx, "file", node, "b", "");
    check_failed(ctx, ag_status_of(ctx), AG_EDATA, "\"b\" must be a string, got true");
    json_decref(node);
    /* transformers' way to say that a length has no limit */
    node = parse("{\"model_max_length\": 1000000000000000019884624838656, \"n\": 7}");
    assert_true(data_json_real(ctx, "t", node, "model_max_length", 0) > 1e29);
    assert_int_equal(data_json_int(ctx, "t", node, "n", 0), 7);
    json_decref(node);
}

static void json_refuses(void **state)
{
    char deep[200];

    (void)state;
    refuse("{\"a\": 1,\n \"a\": 2}", "t.json:2: not JSON: duplicate");
    refuse("{\"a\": 1,\n\n}", "t.json:3: not JSON");
    refuse("", "t.json:1: not JSON");
    refuse("[1] x", "not JSON");
    refuse("[NaN]", "not JSON");
    refuse("[\"\xff\"]", "not JSON");
    refuse("[1e999]", "not JSON");
    memset(deep, '[', 100);
    memset(deep + 100, ']', 100);
    deep[199] = 0;
    refuse(deep, "nested deeper than 64");
    refuse("{\"a\": \"[[[[\"", "not JSON");
}

static void json_writes_like_python(void **state)
{
    static const char text[] = "{\"b\": [1, 2.0, 0.00085, 1e-05, 1e+16, 123456.789, 0.1, -0.5], "
                               "\"a\": {\"z\": null, \"y\": []}, "
                               "\"c\": \"\xc3\xa9\xf0\x9f\x99\x82\\n\\\"\", "
                               "\"d\": {}, \"e\": false}";
    static const char wanted[] = "{\n"
                                 "  \"a\": {\n    \"y\": [],\n    \"z\": null\n  },\n"
                                 "  \"b\": [\n    1,\n    2.0,\n    0.00085,\n    1e-05,\n"
                                 "    1e+16,\n    123456.789,\n    0.1,\n    -0.5\n  ],\n"
                                 "  \"c\": \"\\u00e9\\ud83d\\ude42\\n\\\"\",\n"
                                 "  \"d\": {},\n  \"e\": false\n}";
    json_t *node = parse(text), *again;
    char *written = data_json_dump(ctx, node, 2);

    (void)state;
    assert_string_equal(written, wanted);
    again = parse(written);
    assert_true(json_equal(node, again));
    json_decref(again);
    ag_delete(written);
    check_ok(ctx, data_json_write(ctx, check_path(folder, "w.json"), node));
    again = NULL;
    check_ok(ctx, data_json_read(&again, ctx, check_path(folder, "w.json"), 4096));
    assert_true(json_equal(node, again));
    json_decref(again);
    check_failed(ctx, data_json_read(&again, ctx, check_path(folder, "w.json"), 10), AG_EDATA,
                 "at most 10 are taken");
    check_failed(ctx, data_json_read(&again, ctx, check_path(folder, "no.json"), 10), AG_EIO,
                 "No such file");
    check_failed(ctx, data_json_read(&again, ctx, folder, 10), AG_EIO, "this is a folder");
    check_failed(ctx, data_json_write(ctx, check_path(folder, "no/w.json"), node), AG_EIO,
                 "cannot be written");
    json_decref(node);
}

/* --- YAML ------------------------------------------------------------------------------------- */

static data_yaml *yaml(const char *text)
{
    data_yaml *out = NULL;

    check_ok(ctx, data_yaml_parse(&out, ctx, "t.yaml", text, strlen(text)));
    return out;
}

static void yaml_refuse(const char *text, const char *words)
{
    data_yaml *out = NULL;

    check_failed(ctx, data_yaml_parse(&out, ctx, "t.yaml", text, strlen(text)), AG_EDATA, words);
    assert_null(out);
}

static void yaml_reads(void **state)
{
    data_yaml *y = yaml("# a comment\nname: fast one\nsteps: 150\nrate: 1e-5\non: true\nno: no\n"
                        "text: '12'\nnothing:\nlist: [1, 2.5, x]\nmap:\n  inner: {deep: -3}\n");
    const data_yaml_node *root = data_yaml_root(y), *list = data_yaml_find(root, "list");
    int64_t whole = 0;
    double number = 0;
    bool flag = false;

    (void)state;
    assert_int_equal(data_yaml_kind_of(root), DATA_YAML_MAP);
    assert_int_equal(data_yaml_size(root), 9);
    assert_string_equal(data_yaml_key_at(root, 1), "steps");
    assert_int_equal(data_yaml_line(data_yaml_at(root, 1)), 3);
    assert_string_equal(data_yaml_text(data_yaml_find(root, "name")), "fast one");
    check_ok(ctx, data_yaml_get_int(&whole, ctx, data_yaml_find(root, "steps")));
    assert_int_equal(whole, 150);
    check_ok(ctx, data_yaml_get_real(&number, ctx, data_yaml_find(root, "rate")));
    assert_true(number == 1e-5);
    check_ok(ctx, data_yaml_get_bool(&flag, ctx, data_yaml_find(root, "on")));
    assert_true(flag);
    assert_true(data_yaml_is_null(data_yaml_find(root, "nothing")));
    assert_int_equal(data_yaml_size(list), 3);
    check_ok(ctx, data_yaml_get_real(&number, ctx, data_yaml_at(list, 1)));
    assert_true(number == 2.5);
    check_ok(ctx, data_yaml_get_int(&whole, ctx, data_yaml_find(root, "map.inner.deep")));
    assert_int_equal(whole, -3);
    assert_null(data_yaml_find(root, "map.other.deep"));
    assert_null(data_yaml_find(root, "steps.deep"));
    check_failed(ctx, data_yaml_get_bool(&flag, ctx, data_yaml_find(root, "no")), AG_EDATA,
                 "t.yaml:6: no must be true or false, got no");
    check_failed(ctx, data_yaml_get_int(&whole, ctx, data_yaml_find(root, "text")), AG_EDATA,
                 "t.yaml:7: text must be a whole number, got \"12\"");
    check_failed(ctx, data_yaml_get_int(&whole, ctx, data_yaml_find(root, "rate")), AG_EDATA,
                 "t.yaml:4: rate must be a whole number, got 1e-5");
    check_failed(ctx, data_yaml_get_real(&number, ctx, data_yaml_find(root, "nothing")), AG_EDATA,
                 "got nothing");
    check_failed(ctx, data_yaml_get_real(&number, ctx, list), AG_EDATA, "got a list");
    data_yaml_free(y);
    y = yaml("");
    assert_int_equal(data_yaml_size(data_yaml_root(y)), 0);
    data_yaml_free(y);
}

static void yaml_refuses(void **state)
{
    char *large = malloc(2 << 20), deep[200];

    (void)state;
    yaml_refuse("a: &x 1\nb: *x\n", "t.yaml:1: anchors are not taken");
    yaml_refuse("a: &x [1]\n", "anchors");
    yaml_refuse("b: *x\n", "t.yaml:1: aliases are not taken");
    yaml_refuse("a: !!int 3\n", "tags are not taken");
    yaml_refuse("%TAG ! tag:x,2000:\n---\na: 1\n", "tags are not taken");
    yaml_refuse("a: 1\n---\nb: 2\n", "a second document");
    yaml_refuse("a: 1\nb: 2\na: 3\n", "t.yaml:3: \"a\" is set twice");
    yaml_refuse("a: {b: 1, b: 2}\n", "\"b\" is set twice");
    yaml_refuse("[a]: 1\n", "a key must be a word");
    yaml_refuse("a: [1\nb: 2\n", "not YAML");
    yaml_refuse("a: \"\\0\"\n", "NUL");
    yaml_refuse("a: \xff\n", "not YAML");
    memset(deep, '[', 40);
    memset(deep + 40, ']', 40);
    deep[80] = 0;
    yaml_refuse(deep, "nested deeper than 32");
    memset(large, 'x', (2 << 20) - 1);
    large[(2 << 20) - 1] = 0;
    yaml_refuse(large, "at most 1048576");
    memcpy(large, "a: ", 3);
    large[70000] = 0;
    yaml_refuse(large, "at most 65536");
    free(large);
}

static void numbers_are_strict(void **state)
{
    static const char *const bad[] = {"",    "+",   "1_000", "0x10", "1 ",  " 1", "1e",  "inf",
                                      "nan", "1.2.3", ".",   "--1",  "1e999", "e5"};
    int64_t whole;
    double number;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_false(data_text_to_int(&whole, bad[i]));
        assert_false(data_text_to_real(&number, bad[i]));
    }
    assert_false(data_text_to_int(&whole, "99999999999999999999"));
    assert_false(data_text_to_int(&whole, "1.0"));
    assert_true(data_text_to_int(&whole, "-9223372036854775808") && whole == INT64_MIN);
    assert_true(data_text_to_real(&number, ".5e+1") && number == 5.0);
    assert_true(data_text_to_real(&number, "-3") && number == -3.0);
}

/* Every allocation refused once: an error each time, and nothing left behind. */
static void refused_memory(void **state)
{
    static const char text[] = "a: [1, 2]\nb: {c: d}\n";
    bool done = false;

    (void)state;
    for (int64_t n = 0; !done; n++) {
        data_yaml *y = NULL;

        ag_refuse_allocation(ctx, n, false);
        done = data_yaml_parse(&y, ctx, "t.yaml", text, sizeof text - 1) == AG_OK;
        ag_refuse_allocation(ctx, -1, false);
        assert_true(done || ag_status_of(ctx) == AG_ENOMEM);
        ag_clear(ctx);
        data_yaml_free(y);
        assert_true(n < 100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_reads),        cmocka_unit_test(json_refuses),
        cmocka_unit_test(json_writes_like_python), cmocka_unit_test(yaml_reads),
        cmocka_unit_test(yaml_refuses),      cmocka_unit_test(numbers_are_strict),
        cmocka_unit_test(refused_memory)};
    int failed;

    ctx = ag_ctx_new(NULL);
    folder = check_folder_new();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_folder_remove(folder);
    ag_ctx_free(ctx);
    return failed;
}
