/* test_npy.c - .npy files as NumPy writes them (scripts/golden_npy.py), the header's small grammar,
 * writing; and CSV. */
#include "tests/image_check.h"

#include "data/csv.h"
#include "data/npy.h"

static void test_npy_goldens(void **state)
{
    FILE *file = fopen("tests/golden/npy/index.txt", "r");
    ag_ctx *ctx = check_context();
    char line[512];
    int n_files = 0;

    (void)state;
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        char path[128], *rest = line, *word;
        data_npy npy = {0};
        int64_t n = 0;

        line[strcspn(line, "\n")] = 0;
        snprintf(path, sizeof path, "tests/golden/npy/%s", strsep(&rest, "\t"));
        check_ok(ctx, data_npy_read(&npy, ctx, path));
        assert_int_equal(npy.n_trailing, 0);
        for (; rest && (word = strsep(&rest, "\t")); n++) {
            assert_true(n < npy.n_items);
            if (npy.kind == 'U' || npy.kind == 'S') {
                char *text = data_npy_text(ctx, &npy, n, path);
                check_ok(ctx, ag_status_of(ctx));
                assert_string_equal(text, word);
                ag_delete(text);
            } else if (data_npy_number(&npy, n) != atof(word)) {
                fail_msg("%s: element %lld is %g, want %s", path, (long long)n,
                         data_npy_number(&npy, n), word);
            }
        }
        assert_int_equal(n, npy.n_items);
        data_npy_free(&npy);
        n_files++;
    }
    fclose(file);
    assert_true(n_files > 30);
    ag_ctx_free(ctx);
}

/* A version 1 file with this header and `n_data` zero bytes after it; freed by the caller. */
static uint8_t *make_npy(size_t *n, const char *header, size_t n_data)
{
    const size_t n_header = strlen(header);
    uint8_t *bytes = calloc(1, 10 + n_header + n_data);

    assert_non_null(bytes);
    memcpy(bytes, "\x93NUMPY\1\0", 8);
    bytes[8] = (uint8_t)n_header;
    bytes[9] = (uint8_t)(n_header >> 8);
    memcpy(bytes + 10, header, n_header);
    *n = 10 + n_header + n_data;
    return bytes;
}

static void test_npy_headers(void **state)
{
    static const char *const good[] = {
        "{'descr': '<U2', 'fortran_order': False, 'shape': (2, 2), }\n",
        "{\"shape\":(2,2,),\"fortran_order\":True,\"descr\":\">U2\"}",
        " { 'descr' : '=S8' , 'shape' : ( 2L , 2L ) , 'fortran_order' : False } ",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (32,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': ()}",
        "{'descr': '<U0', 'fortran_order': False, 'shape': (3, 2)}",
    };
    static const struct {
        const char *header, *words;
    } bad[] = {
        {"", "dictionary"},
        {"{}", "missing"},
        {"{'descr': '<U2', 'fortran_order': False}", "missing"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (2,), 'x': 1}", "key \"x\""},
        {"{'descr': '<U2', 'descr': '<U2', 'fortran_order': False, 'shape': (2,)}",
         "key \"descr\""},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", "dtype"},
        {"{'descr': '|O8', 'fortran_order': False, 'shape': (2,)}", "pickle"},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", "records"},
        {"{'descr': '<V8', 'fortran_order': False, 'shape': (2,)}", "\"<V8\" is not read"},
        {"{'descr': '<f3', 'fortran_order': False, 'shape': (2,)}", "\"<f3\" is not read"},
        {"{'descr': '<i0', 'fortran_order': False, 'shape': (2,)}", "\"<i0\" is not read"},
        {"{'descr': '<U99999999', 'fortran_order': False, 'shape': (2,)}", "too long"},
        {"{'descr': '<U2', 'fortran_order': Maybe, 'shape': (2,)}", "True or False"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (-2,)}", "whole number"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (2)}", "comma"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': [2]}", "parentheses"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (2,)", "comma or the end"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (2,)} or 1", "text after"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (9999999999, 9999999999, 9)}",
         "too large"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (99999999999999999999,)}", "too large"},
        {"{'descr': '<U2', 'fortran_order': False, 'shape': (1000000000,)}",
         "want 1000000000 elements of 8"},
        {"{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000,)}", "empty elements"},
        {"{'descr': '<U2, 'fortran_order': False, 'shape': (2,)}", "dtype"},
    };
    ag_ctx *ctx = check_context();
    data_npy npy = {0};
    size_t n;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint8_t *bytes = make_npy(&n, good[i], 32);
        check_ok(ctx, data_npy_decode(&npy, ctx, bytes, n, good[i]));
        data_npy_free(&npy);
        free(bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint8_t *bytes = make_npy(&n, bad[i].header, 32);
        check_fails(ctx, data_npy_decode(&npy, ctx, bytes, n, "a.npy"), AG_EDATA, bad[i].words);
        free(bytes);
    }
    assert_null(npy.items);
    ag_ctx_free(ctx);
}

static void test_npy_damage(void **state)
{
    ag_ctx *ctx = check_context();
    data_npy npy = {0};
    size_t n;
    uint8_t *bytes = check_load(&n, "tests/golden/npy/u21.npy");

    (void)state;
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *part = malloc(cut + !cut);
        memcpy(part, bytes, cut);
        check_fails(ctx, data_npy_decode(&npy, ctx, part, cut, "cut.npy"), AG_EDATA, "cut.npy: ");
        free(part);
    }
    memcpy(bytes + 128, "\0\xd8\0\0", 4); /* a surrogate */
    check_ok(ctx, data_npy_decode(&npy, ctx, bytes, n, "x"));
    assert_null(data_npy_text(ctx, &npy, 0, "x.npy"));
    check_fails(ctx, ag_status_of(ctx), AG_EDATA,
                "x.npy: element 0, character 0 is no text (0xd800)");
    data_npy_free(&npy);
    memcpy(bytes + 128, "\0\0\x11\0", 4);
    check_ok(ctx, data_npy_decode(&npy, ctx, bytes, n, "x"));
    assert_null(data_npy_text(ctx, &npy, 0, "x.npy"));
    check_fails(ctx, ag_status_of(ctx), AG_EDATA, "0x110000");
    data_npy_free(&npy);
    bytes[6] = 4;
    check_fails(ctx, data_npy_decode(&npy, ctx, bytes, n, "x"), AG_EDATA, "version 4.0");
    free(bytes);
    check_fails(ctx, data_npy_read(&npy, ctx, "no/such.npy"), AG_EIO, "no/such.npy");
    check_fails(ctx, data_npy_read(&npy, ctx, "tests/test_npy.c"), AG_EDATA, "not an npy file");
    ag_ctx_free(ctx);
}

/* What we write is what NumPy writes (spec/ffhq-aging.md 10.4), and is read again. */
static void test_npy_write(void **state)
{
    static const char *const cells[] = {"00007.jpg", "1", "00004.jpg", "35"};
    static const char *const wide[] = {"größe \xf0\x9d\x94\xb8 and more than twenty-one letters",
                                       "7"};
    static const char head[] =
        "\x93NUMPY\1\0v\0{'descr': '<U21', 'fortran_order': False, 'shape': (2, 2), }";
    static const char *const broken[] = {"\xff", "1"};
    ag_ctx *ctx = check_context();
    data_npy npy = {0};
    uint8_t *bytes = NULL;
    size_t n = 0;
    char path[64], *text;

    (void)state;
    check_ok(ctx, data_npy_encode_text2(&bytes, &n, ctx, cells, 2, 21));
    assert_int_equal(n, 464);
    assert_memory_equal(bytes, head, sizeof head - 1);
    assert_int_equal(bytes[127], '\n');
    assert_memory_equal(bytes + 128, "0\0\0\0000\0\0\0000\0\0\0000\0\0\0007\0\0\0.\0\0\0", 24);
    assert_int_equal(bytes[212], '1');
    check_ok(ctx, data_npy_decode(&npy, ctx, bytes, n, "memory"));
    for (int i = 0; i < 4; i++) {
        text = data_npy_text(ctx, &npy, i, "memory");
        assert_string_equal(text, cells[i]);
        ag_delete(text);
    }
    data_npy_free(&npy);
    ag_delete(bytes);

    snprintf(path, sizeof path, "/tmp/test_npy_%d.npy", (int)getpid());
    check_ok(ctx, data_npy_write_text2(ctx, path, wide, 1, 21));
    check_ok(ctx, data_npy_read(&npy, ctx, path));
    assert_int_equal(npy.item_size, 4 * 40);
    text = data_npy_text(ctx, &npy, 0, path);
    assert_string_equal(text, wide[0]);
    ag_delete(text);
    data_npy_free(&npy);
    unlink(path);
    check_fails(ctx, data_npy_write_text2(ctx, path, broken, 1, 1), AG_EDATA, "not UTF-8");
    check_fails(ctx, data_npy_write_text2(ctx, "/no/such.npy", wide, 1, 1), AG_EIO, "/no/such.npy");
    ag_ctx_free(ctx);
}

static void test_csv(void **state)
{
    static const char text[] =
        "\xef\xbb\xbf\"a\",b,c\r\n1,\"x \"\"y\"\", z\",\r\n\r\n  \n,\"two\nlines\",3\n4,5,6";
    static const char *const want[] = {"1", "x \"y\", z", "", "", "two\nlines", "3", "4", "5", "6"};
    ag_ctx *ctx = check_context();
    data_csv csv = {0};

    (void)state;
    check_ok(ctx, data_csv_decode(&csv, ctx, text, sizeof text - 1, "x.csv"));
    assert_int_equal(csv.n_cols, 3);
    assert_int_equal(csv.n_rows, 3);
    assert_int_equal(data_csv_column(&csv, "c"), 2);
    assert_int_equal(data_csv_column(&csv, "d"), -1);
    for (int i = 0; i < 9; i++)
        assert_string_equal(csv.cells[i], want[i]);
    assert_int_equal(csv.lines[0], 2);
    assert_int_equal(csv.lines[1], 5);
    assert_int_equal(csv.lines[2], 7);
    data_csv_free(&csv);
    check_fails(ctx, data_csv_decode(&csv, ctx, "a,b\n1\n", 6, "x"), AG_EDATA,
                "x: line 2: 1 fields, want 2");
    check_fails(ctx, data_csv_decode(&csv, ctx, "a\n\"1", 4, "x"), AG_EDATA,
                "line 2: a quoted field without");
    check_fails(ctx, data_csv_decode(&csv, ctx, "a\n\"1\"2\n", 7, "x"), AG_EDATA,
                "after the end of a quoted");
    check_fails(ctx, data_csv_decode(&csv, ctx, "a\n1\"2\n", 6, "x"), AG_EDATA, "inside a field");
    check_fails(ctx, data_csv_decode(&csv, ctx, "", 0, "x"), AG_EDATA, "empty");
    check_fails(ctx, data_csv_decode(&csv, ctx, "\n\n", 2, "x"), AG_EDATA, "empty");
    check_fails(ctx, data_csv_decode(&csv, ctx, "a\0b", 3, "x"), AG_EDATA, "zero byte");
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_npy_goldens), cmocka_unit_test(test_npy_headers),
        cmocka_unit_test(test_npy_damage),  cmocka_unit_test(test_npy_write),
        cmocka_unit_test(test_csv),
    };

    return cmocka_run_group_tests_name("npy", tests, NULL, NULL);
}
