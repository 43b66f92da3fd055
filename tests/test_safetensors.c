/* test_safetensors.c - the safetensors format: a file the library wrote
 * (scripts/golden_weights.py), every rule broken once, and writing.
 */
#include "tests/weights_check.h"

#include <signal.h>
#include <sys/resource.h>

#include "data/json.h"

static ag_status open_bytes(data_weights **out, ag_ctx *ctx, const char *folder, bytes b)
{
    const char *path = check_write(folder, "made.safetensors", b.at, b.n);

    free(b.at);
    return data_weights_open(out, ctx, path);
}

static void test_golden(void **state)
{
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    const data_tensor *t;

    (void)state;
    check_ok(ctx, data_weights_open(&w, ctx, "tests/golden/weights/dtypes.safetensors"));
    check_against(ctx, w, "tests/golden/weights/dtypes.want", 2);
    assert_int_equal(data_weights_n_metadata(w), 3);
    assert_string_equal(data_weights_metadata(w, "format"), "pt");
    assert_string_equal(data_weights_metadata(w, "note"), "größe \"quoted\"\n");
    assert_string_equal(data_weights_metadata(w, "empty"), "");
    assert_null(data_weights_metadata(w, "absent"));
    assert_int_equal(data_weights_find(w, "absent"), -1);
    /* listed with its size, and refused only when it is read */
    t = data_weights_at(w, data_weights_find(w, "fp8"));
    assert_int_equal(t->dtype, DATA_OTHER_DTYPE);
    assert_string_equal(t->dtype_name, "F8_E4M3");
    assert_int_equal(t->n_bytes, 3);
    check_fails(ctx, data_weights_read(ctx, w, data_weights_find(w, "fp8"), NULL), AG_EUNSUPPORTED,
                "F8_E4M3");
    data_weights_close(w);
    ag_ctx_free(ctx);
}

#define ONE "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

/* Each is wrong in one way; the message must say so. */
static const struct {
    const char *header;
    size_t n_values;
    const char *word;
} broken[] = {
    {"{}", 1, "0 bytes, the file has 1"},
    {"{" ONE "}", 7, "8 bytes, the file has 7"},
    {"{" ONE "}", 9, "8 bytes, the file has 9"},
    {"{" ONE "}\n", 8, "after the end"},
    {"{" ONE "}x", 8, "after the end"},
    {"[" ONE "]", 8, "does not begin with '{'"},
    {" {" ONE "}", 8, "does not begin with '{'"},
    {"{" ONE, 8, "wanted ',' or '}'"},
    {"{" ONE ",}", 8, "wanted a name"},
    {"{," ONE "}", 8, "wanted a name"},
    {"{" ONE " " ONE "}", 8, "wanted ',' or '}'"},
    {"{" ONE "," ONE "}", 8, "shares bytes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
     "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "stands twice"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "duplicate"},
    {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "wanted dtype"},
    {"{\"a\":{\"dtype\":5,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "wanted dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "wanted dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "wanted dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "wanted dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2e0],\"data_offsets\":[0,8]}}", 8, "whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[02],\"data_offsets\":[0,8]}}", 8, "header byte"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8.0]}}", 8, "whole numbers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "outside"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "outside"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]}}", 8,
     "outside"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,18446744073709551624]}}", 8,
     "integer"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "do not take 8 bytes"},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "do not take 8 bytes"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "do not take 2 bytes"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0,
     "too large"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0,
     "do not take"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"
     "\"data_offsets\":[0,1]}}", 1, "axes"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "belong to no tensor"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[3,4]}}", 4, "belong to no tensor"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
     "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "shares bytes"},
    {"{\"a\":[]}", 0, "wanted '{'"},
    {"{\"a\":{}}", 0, "wanted dtype"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[[[[1]]]],\"data_offsets\":[0,1]}}", 1, "nested too deep"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "texts only"},
    {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "duplicate"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "twice"},
    {"{\"a\xff\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "decode byte 0xff"},
    {"{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "header byte"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}\xef\xbb\xbf}", 1,
     "wanted ','"},
};

static void test_broken(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    bytes b;

    (void)state;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        b = make_safetensors(broken[i].header, broken[i].n_values);
        check_fails(ctx, open_bytes(&w, ctx, folder, b), AG_EDATA, broken[i].word);
    }
    /* an entry that only takes memory */
    {
        char *header = malloc(40000), *at = header;

        at += sprintf(at, "{\"a\":{\"dtype\":\"F32\",\"shape\":[0");
        for (int i = 0; i < 10000; i++)
            at += sprintf(at, ",0");
        sprintf(at, "],\"data_offsets\":[0,0]}}");
        check_fails(ctx, open_bytes(&w, ctx, folder, make_safetensors(header, 0)), AG_EDATA,
                    "too long");
        free(header);
    }
    b = make_safetensors("{}", 0);
    b.at[0] = 3; /* a header longer than the file */
    check_fails(ctx, open_bytes(&w, ctx, folder, b), AG_EDATA, "a header of 3 bytes");
    b = make_safetensors("{}", 0);
    b.at[7] = 0x80;
    check_fails(ctx, open_bytes(&w, ctx, folder, b), AG_EDATA, "neither");
    b = make_safetensors("{}", 0);
    b.n = 7;
    check_fails(ctx, open_bytes(&w, ctx, folder, b), AG_EDATA, "7 bytes only");
    b.at = malloc(1);
    b.n = 0;
    check_fails(ctx, open_bytes(&w, ctx, folder, b), AG_EDATA, "empty");
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_borders(void **state)
{
    static const char *const good[] = {
        "{}", "{}   ", "{ }", "{\"__metadata__\":{}}",
        "{ \"a\" : { \"dtype\" : \"F32\" , \"shape\" : [ ] , \"data_offsets\" : [ 0 , 0 ] } }",
        "{\"\":{\"dtype\":\"NEW\",\"shape\":[3],\"data_offsets\":[0,0]}}",
        "{\"a\":{\"dtype\":\"I8\",\"shape\":[0,9223372036854775807],\"data_offsets\":[0,0],"
        "\"more\":1}}",
    };
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    float value[2];
    bytes b;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        b = make_safetensors(good[i], 0);
        if (i == 4) { /* no axes: one value */
            check_fails(ctx, open_bytes(&w, ctx, folder, b), AG_EDATA, "1 values of F32");
            continue;
        }
        check_ok(ctx, open_bytes(&w, ctx, folder, b));
        for (int64_t k = 0; k < data_weights_count(w); k++)
            assert_int_equal(data_weights_at(w, k)->n_bytes, 0);
        data_weights_close(w);
    }
    /* the order of the header is not the order of the values */
    b = make_safetensors("{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
                         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8);
    check_ok(ctx, open_bytes(&w, ctx, folder, b));
    assert_string_equal(data_weights_at(w, 0)->name, "a");
    assert_int_equal(data_weights_find(w, "b"), 1);
    check_ok(ctx, data_weights_read_f32(ctx, w, 1, value));
    assert_memory_equal(value, "\4\5\6\7", 4);
    assert_int_equal(data_weights_pread(w, 1, 1, 3, value), 0);
    assert_memory_equal(value, "\5\6\7", 3);
    assert_int_not_equal(data_weights_pread(w, 1, 1, 4, value), 0);
    assert_int_not_equal(data_weights_pread(w, 1, SIZE_MAX, 2, value), 0);
    data_weights_close(w);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* Every cut of a file is refused, and costs no memory. */
static void test_cuts(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    char *whole = NULL;
    size_t n = 0;

    (void)state;
    check_ok(ctx, data_file_read(&whole, &n, ctx, "tests/golden/weights/dtypes.safetensors",
                                 1 << 20));
    for (size_t cut = 0; cut < n; cut++) {
        data_weights *w = NULL;
        const char *path = check_write(folder, "cut.safetensors", whole, cut);

        assert_int_equal(data_weights_open(&w, ctx, path), AG_EDATA);
        ag_clear(ctx);
    }
    ag_delete(whole);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Gives bytes 0, 1, 2, ... modulo 251; fails at the offset *user when there is one. */
static ag_status give(ag_ctx *ctx, void *user, size_t offset, size_t n_bytes, void *to)
{
    const size_t *fail_at = user;

    if (fail_at && offset >= *fail_at)
        return ag_fail(ctx, AG_ENUMERIC, "as asked");
    for (size_t i = 0; i < n_bytes; i++)
        ((uint8_t *)to)[i] = (uint8_t)((offset + i) % 251);
    return AG_OK;
}

static void test_write(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    const int8_t narrow[3] = {1, 2, 3};
    const double wide[2] = {0.5, -0.5};
    const int64_t big[2] = {3000, 701}; /* more than a piece, and odd */
    const data_source sources[] = {
        {.name = "z narrow", .dtype = DATA_I8, .n_dims = 1, .dims = (int64_t[]){3},
         .values = narrow},
        {.name = "größe \"π\"\\\n\x7f", .dtype = DATA_F64, .n_dims = 2, .dims = (int64_t[]){1, 2},
         .values = wide},
        {.name = "given", .dtype = DATA_BF16, .n_dims = 2, .dims = big, .give = give},
        {.name = "no axes", .dtype = DATA_BOOL, .values = narrow},
        {.name = "nothing", .dtype = DATA_F32, .n_dims = 2, .dims = (int64_t[]){0, 7}},
    };
    const data_pair metadata[] = {{"zeta", "größe \"x\"\t"}, {"alpha", ""}};
    data_weights *w = NULL;
    char path[128], *text = NULL;
    uint8_t *values;
    size_t n = 0;

    (void)state;
    snprintf(path, sizeof path, "%s/out.safetensors", folder);
    for (int64_t i = 0; i < 2; i++) { /* once new, once over the old one */
        check_ok(ctx, data_safetensors_write(ctx, path, sources, 5, metadata, 2));
        check_ok(ctx, data_weights_open(&w, ctx, path));
        assert_int_equal(data_weights_count(w), 5);
        for (int64_t k = 0; k < 5; k++) {
            const data_tensor *t = data_weights_at(w, data_weights_find(w, sources[k].name));

            assert_string_equal(t->name, sources[k].name);
            assert_int_equal(t->dtype, sources[k].dtype);
            assert_int_equal(t->n_dims, sources[k].n_dims);
            if (t->n_dims)
                assert_memory_equal(t->dims, sources[k].dims, (size_t)t->n_dims * sizeof *t->dims);
            values = malloc(t->n_bytes + 1);
            check_ok(ctx, data_weights_read(ctx, w, data_weights_find(w, t->name), values));
            if (sources[k].values)
                assert_memory_equal(values, sources[k].values, t->n_bytes);
            else
                for (size_t at = 0; at < t->n_bytes; at++)
                    assert_int_equal(values[at], at % 251);
            free(values);
        }
        assert_int_equal(data_weights_n_metadata(w), 3);
        assert_string_equal(data_weights_metadata_at(w, 0).key, "alpha");
        assert_string_equal(data_weights_metadata_at(w, 1).key, "format");
        assert_string_equal(data_weights_metadata_at(w, 1).value, "pt");
        assert_string_equal(data_weights_metadata_at(w, 2).value, "größe \"x\"\t");
        data_weights_close(w);
    }
    /* aligned: the header fills whole eights, wide values stand first */
    check_ok(ctx, data_file_read(&text, &n, ctx, path, 16 << 20));
    assert_int_equal(text[0] & 7, 0);
    assert_memory_equal(text + 8 + (uint8_t)text[0] + 256 * (uint8_t)text[1], wide, sizeof wide);
    ag_delete(text);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static int64_t n_files(ag_ctx *ctx, const char *folder)
{
    char **names = NULL;
    int64_t n = 0;

    check_ok(ctx, data_folder_list(&names, &n, ctx, folder, NULL));
    ag_delete(names);
    return n;
}

static void test_write_fails(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    size_t fail_at = DATA_PIECE_BYTES;
    const int64_t dims[2] = {3, 400000}, huge[2] = {INT64_MAX, 2};
    const data_source good = {.name = "a", .dtype = DATA_F32, .n_dims = 2, .dims = dims,
                              .give = give};
    data_source s[2] = {good, good};
    const data_pair twice[2] = {{"k", "1"}, {"k", "2"}};
    struct rlimit before, small;
    char path[128], missing[160];

    (void)state;
    snprintf(path, sizeof path, "%s/out.safetensors", folder);
    snprintf(missing, sizeof missing, "%s/no/out.safetensors", folder);
    check_fails(ctx, data_safetensors_write(ctx, missing, s, 1, NULL, 0), AG_EIO,
                "cannot be written");
    check_fails(ctx, data_safetensors_write(ctx, folder, s, 1, NULL, 0), AG_EIO, "directory");
    check_fails(ctx, data_safetensors_write(ctx, path, s, 2, NULL, 0), AG_EINVAL, "twice");
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, twice, 2), AG_EINVAL, "twice");
    s[0].name = "a\xff";
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_EINVAL, "name");
    s[0].name = "__metadata__";
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_EINVAL, "name");
    s[0] = good;
    s[0].dims = huge;
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_EINVAL, "shape");
    s[0] = good;
    s[0].dtype = DATA_OTHER_DTYPE;
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_EINVAL, "dtype");
    s[0] = good;
    s[0].give = NULL;
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_EINVAL, "no values");
    s[0] = good;
    s[0].user = &fail_at;
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_ENUMERIC, "as asked");
    /* no room: a limit on the size of files stands in for a full disk */
    s[0] = good;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 1 << 20;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_EIO,
                "out.safetensors: cannot");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(n_files(ctx, folder), 0); /* nothing is left of any of them */
    check_ok(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0));
    /* a failure leaves the older file as it was */
    s[0].user = &fail_at;
    check_fails(ctx, data_safetensors_write(ctx, path, s, 1, NULL, 0), AG_ENUMERIC, "as asked");
    assert_int_equal(n_files(ctx, folder), 1);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* Refuse the n-th allocation, for every n, in reading and writing. */
static void test_refused_memory(void **state)
{
    const char *folder = check_folder();
    const int64_t dims[1] = {2};
    const data_source s = {.name = "a", .dtype = DATA_F32, .n_dims = 1, .dims = dims,
                           .values = "01234567"};
    int n_refused = 0;
    char path[128];

    (void)state;
    snprintf(path, sizeof path, "%s/out.safetensors", folder);
    for (int64_t n = 0;; n++) {
        ag_ctx *ctx = ag_ctx_new(NULL);
        data_weights *w = NULL;
        float values[2];
        ag_status status;

        ag_refuse_allocation(ctx, n, true);
        status = data_safetensors_write(ctx, path, &s, 1, NULL, 0);
        if (status == AG_OK)
            status = data_weights_open(&w, ctx, path);
        if (status == AG_OK)
            status = data_weights_read_f32(ctx, w, 0, values);
        data_weights_close(w);
        assert_int_equal(status, ag_status_of(ctx));
        ag_ctx_free(ctx);
        if (status == AG_OK)
            break;
        assert_int_equal(status, AG_ENOMEM);
        n_refused++;
    }
    assert_true(n_refused > 10);
    check_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_borders),       cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_write),         cmocka_unit_test(test_write_fails),
        cmocka_unit_test(test_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
