/* test_weights.c - what is common to weight files: which file a folder's weights are, shards,
 * pointers, number formats, checksums, and the files under it all.
 */
#include "tests/weights_check.h"

#include <math.h>
#include <sys/stat.h>

#define GOLDEN "tests/golden/weights/"

/* --- which file ------------------------------------------------------------------------------- */

/* Write a file of one U8 tensor called `tensor` of one value, 0. */
static void write_one(ag_ctx *ctx, const char *folder, const char *name, const char *tensor)
{
    const data_source s = {.name = tensor, .dtype = DATA_U8, .values = ""};
    char path[256];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    check_ok(ctx, data_safetensors_write(ctx, path, &s, 1, NULL, 0));
}

static void write_index(const char *folder, const char *name, const char *text)
{
    check_write(folder, name, text, strlen(text));
}

/* The folder's weights, told by the only tensor's name. */
static void check_found(ag_ctx *ctx, const char *folder, const char *variant, const char *tensor)
{
    data_weights *w = NULL;

    check_ok(ctx, data_weights_open_folder(&w, ctx, folder, variant));
    assert_string_equal(data_weights_at(w, 0)->name, tensor);
    data_weights_close(w);
}

static void test_folders(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    char path[256];

    (void)state;
    check_fails(ctx, data_weights_open_folder(&w, ctx, folder, NULL), AG_EIO, "found none");
    /* better files appear one after the other */
    write_one(ctx, folder, "pytorch_model.bin", "bin"); /* told by content, whatever it is called */
    check_found(ctx, folder, NULL, "bin");
    check_fails(ctx, data_weights_open_folder(&w, ctx, folder, "fp16"), AG_EIO,
                "pytorch_model.bin");
    write_one(ctx, folder, "model.safetensors", "plain");
    check_found(ctx, folder, "", "plain");
    write_one(ctx, folder, "shard", "sharded");
    write_index(folder, "model.safetensors.index.json", "{\"weight_map\":{\"sharded\":\"shard\"}}");
    check_found(ctx, folder, NULL, "sharded");
    /* variants, and both spellings of their indices */
    write_one(ctx, folder, "model.fp16.safetensors", "half");
    check_found(ctx, folder, "fp16", "half");
    write_one(ctx, folder, "shard.fp16", "older");
    write_index(folder, "model.safetensors.fp16.index.json",
                "{\"weight_map\":{\"older\":\"shard.fp16\"}}");
    check_found(ctx, folder, "fp16", "older");
    write_one(ctx, folder, "shard16", "newer");
    write_index(folder, "model.safetensors.index.fp16.json",
                "{\"weight_map\":{\"newer\":\"shard16\"}}");
    check_found(ctx, folder, "fp16", "newer");
    write_one(ctx, folder, "diffusion_pytorch_model.non_ema.bin", "non_ema");
    check_found(ctx, folder, "non_ema", "non_ema");
    check_fails(ctx, data_weights_open_folder(&w, ctx, folder, "../x"), AG_EINVAL, "word");
    check_ok(ctx, data_weights_open(&w, ctx, folder)); /* a folder by its path */
    assert_string_equal(data_weights_at(w, 0)->name, "sharded");
    data_weights_close(w);
    snprintf(path, sizeof path, "%s/absent", folder);
    check_fails(ctx, data_weights_open(&w, ctx, path), AG_EIO, "No such file");
    check_fails(ctx, data_weights_open_folder(&w, ctx, path, NULL), AG_EIO, "No such file");
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_shards(void **state)
{
    static const char *const bad[][2] = {
        {"{}", "no weight_map"},
        {"{\"weight_map\":{}}", "0 tensors"},
        {"{\"weight_map\":{\"a\":5}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"../one\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "plain file name"},
        {"{\"weight_map\":{\"a\":\"absent\"}}", "absent: No such file"},
        {"{\"weight_map\":{\"b\":\"one\"}}", "should be in one, it is in no shard"},
        {"{\"weight_map\":{\"a\":\"one\",\"b\":\"one\"}}", "should be in one, it is in no shard"},
        {"{\"weight_map\":{\"a\":\"one\",\"c\":\"two\"}}", "stands twice, also in"},
        {"{\"weight_map\":{\"a\":\"three\"}}", "tensor c is not in the index"},
        {"{\"weight_map\":{\"a\":\"one\",\"a\":\"one\"}}", "duplicate"},
        {"{\"weight_map\":", "not JSON"},
    };
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    const data_source two[2] = {
        {.name = "a", .dtype = DATA_U8, .values = ""},
        {.name = "c", .dtype = DATA_U8, .values = ""},
    };
    char path[256];

    (void)state;
    check_ok(ctx, data_weights_open(&w, ctx, GOLDEN "shards"));
    check_against(ctx, w, GOLDEN "shards.want", 0);
    assert_non_null(strstr(data_weights_file_of(w, data_weights_find(w, "c")), "00002-of-00002"));
    assert_non_null(strstr(data_weights_path(w), "index.json"));
    data_weights_close(w);

    write_one(ctx, folder, "one", "a");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, i ? "two" : "three");
        check_ok(ctx, data_safetensors_write(ctx, path, two, 2, NULL, 0));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ag_status status;

        write_index(folder, "model.safetensors.index.json", bad[i][0]);
        status = data_weights_open(&w, ctx, folder);
        check_fails(ctx, status, status == AG_EIO ? AG_EIO : AG_EDATA, bad[i][1]);
    }
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_other_files(void **state)
{
    static const struct {
        const char *text;
        size_t n;
        ag_status status;
        const char *word;
    } files[] = {
        {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", 60, AG_EDATA,
         "git-lfs"},
        {"\x89HDF\r\n\x1a\n and more", 16, AG_EDATA, "neither safetensors nor a torch file"},
        {"\x80\x04\x95\x10\0\0\0\0\0\0\0}", 12, AG_EUNSUPPORTED, "a bare pickle"},
        {"PK\3\4", 4, AG_EDATA, "cut short"},
        {"hello, world", 12, AG_EDATA, "neither"},
    };
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    char pipe[256];

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *path = check_write(folder, "file.bin", files[i].text, files[i].n);

        check_fails(ctx, data_weights_open(&w, ctx, path), files[i].status, files[i].word);
    }
    /* a pipe is no file, and nobody waits for its writer */
    snprintf(pipe, sizeof pipe, "%s/pipe", folder);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    check_fails(ctx, data_weights_open(&w, ctx, pipe), AG_EIO, "wanted a file");
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* A file cut short while it is open is an error of reading, not the end of the process. */
static void test_shrinking_file(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    char path[256];
    uint8_t value;

    (void)state;
    write_one(ctx, folder, "model.safetensors", "a");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    check_ok(ctx, data_weights_open(&w, ctx, path));
    assert_int_equal(truncate(path, 20), 0);
    check_fails(ctx, data_weights_read(ctx, w, 0, &value), AG_EIO, "became shorter");
    data_weights_close(w);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* The value of a half by its definition. */
static double half_value(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = h & 0x8000 ? -1.0 : 1.0;

    if (exponent == 31)
        return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, 4);
    return bits;
}

/* Every half there is, in runs (which take the wide path) and alone (which do not). */
static void test_halves(void **state)
{
    enum { N = 65536 };
    uint16_t *half = malloc(2 * N), *back = malloc(2 * N);
    float *value = malloc(4 * N), alone;

    (void)state;
    for (int i = 0; i < N; i++)
        half[i] = (uint16_t)i;
    data_to_f32(value, DATA_F16, half, N);
    data_from_f32(back, DATA_F16, value, N);
    for (int i = 0; i < N; i++) {
        const double want = half_value(half[i]);
        uint16_t narrow;

        data_to_f32(&alone, DATA_F16, &half[i], 1);
        data_from_f32(&narrow, DATA_F16, &alone, 1);
        if (isnan(want)) {
            assert_true(isnan(value[i]) && isnan(alone));
            assert_true(isnan(half_value(back[i])) && isnan(half_value(narrow)));
            continue;
        }
        assert_true(value[i] == want && bits_of(value[i]) == bits_of(alone));
        assert_int_equal(signbit(value[i]) != 0, i >> 15);
        assert_int_equal(back[i], i);
        assert_int_equal(narrow, i);
    }
    free(half);
    free(back);
    free(value);
}

/* Rounding to nearest even: around every border between two neighbours. */
static void test_rounding(void **state)
{
    (void)state;
    for (int i = 0; i < 0x7BFF; i++) {
        const double low = half_value((uint16_t)i), high = half_value((uint16_t)(i + 1));
        const float middle = (float)(0.5 * (low + high)); /* exact */
        float three[3] = {nextafterf(middle, 0.0f), middle, nextafterf(middle, INFINITY)};
        const uint16_t want[3] = {(uint16_t)i, (uint16_t)(i & 1 ? i + 1 : i), (uint16_t)(i + 1)};

        for (int wide = 0; wide < 2; wide++) {
            float in[8];
            uint16_t got[8];

            for (int k = 0; k < 8; k++)
                in[k] = k % 2 ? -three[k % 3] : three[k % 3];
            for (int k = 0; k < 8; k += wide ? 8 : 1)
                data_from_f32(got + k, DATA_F16, in + k, wide ? 8 : 1);
            for (int k = 0; k < 8; k++)
                assert_int_equal(got[k], want[k % 3] | (k % 2) << 15);
        }
    }
    for (uint32_t i = 0; i < 0x7F80; i++) {
        const uint32_t bits[3] = {i << 16 | 0x7FFF, i << 16 | 0x8000, i << 16 | 0x8001};
        const uint16_t want[3] = {(uint16_t)i, (uint16_t)(i & 1 ? i + 1 : i), (uint16_t)(i + 1)};

        for (int k = 0; k < 3; k++) {
            float value;
            uint16_t got;

            memcpy(&value, &bits[k], 4);
            data_from_f32(&got, DATA_BF16, &value, 1);
            assert_int_equal(got, want[k]);
        }
    }
    {
        const float odd[4] = {NAN, INFINITY, 65519.99f, 65520.0f};
        uint16_t half[4], bfloat[4];

        data_from_f32(half, DATA_F16, odd, 4);
        data_from_f32(bfloat, DATA_BF16, odd, 4);
        assert_true(isnan(half_value(half[0])) && (bfloat[0] & 0x7FFF) > 0x7F80);
        assert_int_equal(half[1], 0x7C00);
        assert_int_equal(bfloat[1], 0x7F80);
        assert_int_equal(half[2], 0x7BFF);
        assert_int_equal(half[3], 0x7C00);
    }
}

/* The same values through every floating dtype of a file, longer than one piece of reading. */
static void test_read_f32(void **state)
{
    enum { N = 70001 };
    static const data_dtype dtypes[] = {DATA_F64, DATA_F32, DATA_F16, DATA_BF16};
    const int64_t dims[1] = {N};
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    float *want = malloc(N * sizeof *want), *got = malloc(N * sizeof *got);
    data_source s[5] = {{0}};
    void *stored[4];
    data_weights *w = NULL;
    char path[256];

    (void)state;
    for (int i = 0; i < N; i++)
        want[i] = (float)(i % 127 - 63) / 8; /* exact in all of them */
    for (int k = 0; k < 4; k++) {
        stored[k] = malloc(N * data_dtype_size(dtypes[k]));
        data_from_f32(stored[k], dtypes[k], want, N);
        s[k] = (data_source){.name = data_dtype_name(dtypes[k]), .dtype = dtypes[k], .n_dims = 1,
                             .dims = dims, .values = stored[k]};
    }
    s[4] = (data_source){.name = "I8", .dtype = DATA_I8, .values = ""};
    snprintf(path, sizeof path, "%s/all.safetensors", folder);
    check_ok(ctx, data_safetensors_write(ctx, path, s, 5, NULL, 0));
    check_ok(ctx, data_weights_open(&w, ctx, path));
    for (int k = 0; k < 4; k++) {
        memset(got, 0xFF, N * sizeof *got);
        check_ok(ctx, data_weights_read_f32(ctx, w, data_weights_find(w, s[k].name), got));
        assert_memory_equal(got, want, N * sizeof *got);
        free(stored[k]);
    }
    check_fails(ctx, data_weights_read_f32(ctx, w, data_weights_find(w, "I8"), got), AG_EDTYPE,
                "I8");
    data_weights_close(w);
    /* and through the strides of a torch file */
    check_ok(ctx, data_weights_open(&w, ctx, GOLDEN "views.pt"));
    check_ok(ctx, data_weights_read_f32(ctx, w, data_weights_find(w, "expanded"), got));
    for (int i = 0; i < 18; i++)
        assert_true(got[i] == (float)(i % 6 + 6 - 24 / 3) / 4);
    data_weights_close(w);
    free(want);
    free(got);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_dtypes(void **state)
{
    (void)state;
    for (int d = 0; d < DATA_N_DTYPES; d++) {
        ag_dtype there;
        data_dtype back;

        assert_int_equal(data_dtype_is_float(d), d < DATA_I64);
        if (data_dtype_to_ag(&there, d)) {
            assert_int_equal(ag_dtype_size(there), data_dtype_size(d));
            assert_true(data_dtype_from_ag(&back, there));
            assert_int_equal(back, d);
        }
    }
}

/* --- checksums and files ---------------------------------------------------------------------- */

static void test_checksums(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    char sum[DATA_SHA256_TEXT], of_file[DATA_SHA256_TEXT];
    uint8_t *noise = malloc(3000);
    uint32_t seed = 1;

    (void)state;
    /* check values of the CRC catalogue; FIPS 180-2's example */
    assert_int_equal(data_crc32c(0, "123456789", 9), 0xE3069283);
    assert_int_equal(data_crc32(0, "123456789", 9), 0xCBF43926);
    check_ok(ctx, data_sha256(sum, ctx, "abc", 3));
    assert_string_equal(sum, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_ok(ctx, data_sha1(of_file, ctx, "abc", 3));
    assert_string_equal(of_file, "a9993e364706816aba3e25717850c26c9cd0d89d");
    check_ok(ctx, data_file_sha256(of_file, ctx, check_write(folder, "abc", "abc", 3)));
    assert_string_equal(of_file, sum);
    check_fails(ctx, data_file_sha256(of_file, ctx, folder), AG_EIO, "a folder");
    /* any length and alignment, in one go or in two: what this processor does, and plain C */
    for (int i = 0; i < 3000; i++)
        noise[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
    for (size_t n = 0; n < 2900; n = n < 300 ? n + 1 : n + 37) {
        const uint8_t *from = noise + n % 64;
        const size_t half = n / 3;
        const uint32_t c = data_crc_plain(0, from, n, true), z = data_crc_plain(0, from, n, false);

        assert_int_equal(data_crc32c(0, from, n), c);
        assert_int_equal(data_crc32(0, from, n), z);
        assert_int_equal(data_crc32c(data_crc32c(0, from, half), from + half, n - half), c);
        assert_int_equal(data_crc32(data_crc32(0, from, half), from + half, n - half), z);
        assert_int_equal(data_crc_plain(data_crc_plain(0, from, half, true), from + half, n - half,
                                        true), c);
    }
    free(noise);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_writer(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_writer *writer = NULL;
    char path[256], *text = NULL;
    size_t n = 0;

    (void)state;
    snprintf(path, sizeof path, "%s/file", folder);
    check_ok(ctx, data_writer_open(&writer, ctx, path, 1 << 16)); /* expects more than comes */
    check_ok(ctx, data_writer_put(writer, "one ", 4));
    assert_false(data_is_file(path));
    check_ok(ctx, data_writer_put(writer, "two", 3));
    assert_int_equal(data_writer_size(writer), 7);
    check_ok(ctx, data_writer_close(writer));
    check_ok(ctx, data_file_read(&text, &n, ctx, path, 100));
    assert_string_equal(text, "one two");
    ag_delete(text);
    check_ok(ctx, data_writer_open(&writer, ctx, path, 0));
    check_ok(ctx, data_writer_put(writer, "three", 5));
    data_writer_abandon(writer);
    check_ok(ctx, data_file_read(&text, &n, ctx, path, 100));
    assert_string_equal(text, "one two");
    ag_delete(text);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_folder_list(void **state)
{
    static const char *const made[] = {"b.png", "a.PNG", "c.jpg", ".png", ".hidden.png", "B.png",
                                       "png"};
    static const char *const pictures[] = {"B.png", "a.PNG", "b.png", "link.png"};
    static const char *const endings[] = {".gif", ".png", NULL};
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    char **names = NULL, path[256];
    int64_t n = 0;

    (void)state;
    check_ok(ctx, data_folder_list(&names, &n, ctx, folder, NULL));
    assert_int_equal(n, 0);
    ag_delete(names);
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        check_write(folder, made[i], "", 0);
    snprintf(path, sizeof path, "%s/folder.png", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(path, sizeof path, "%s/link.png", folder);
    assert_int_equal(symlink("c.jpg", path), 0);
    check_ok(ctx, data_folder_list(&names, &n, ctx, folder, endings));
    assert_int_equal(n, 4);
    for (int64_t i = 0; i < n; i++)
        assert_string_equal(names[i], pictures[i]);
    ag_delete(names);
    check_ok(ctx, data_folder_list(&names, &n, ctx, folder, NULL));
    assert_int_equal(n, 6);
    ag_delete(names);
    snprintf(path, sizeof path, "%s/absent", folder);
    check_fails(ctx, data_folder_list(&names, &n, ctx, path, NULL), AG_EIO, "absent");
    check_remove(folder);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders),        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_other_files),    cmocka_unit_test(test_shrinking_file),
        cmocka_unit_test(test_halves),         cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_read_f32),       cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_checksums),      cmocka_unit_test(test_writer),
        cmocka_unit_test(test_folder_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
