/* test_tokenizer.c - token ids against transformers' CLIPTokenizer.
 *
 * The golden values (scripts/golden_tokenizer.py) hold texts of every kind under nine sets of token
 * files over the shipped small vocabulary, which this test learns itself, and under the real
 * vocabulary, which is optional (../shared/data/clip-vit-l-14-tokenizer).
 */
#include "tests/folder_check.h"

#include "data/json.h"
#include "data/tokenizer.h"

static const char real_folder[] = "../shared/data/clip-vit-l-14-tokenizer";
static ag_ctx *ctx;

static json_t *golden(const char *path)
{
    json_t *document = NULL;

    check_ok(ctx, data_json_read(&document, ctx, path, 1 << 20));
    return document;
}

/* The bytes of a text that the golden file writes in hexadecimal. */
static size_t bytes_of(char *out, const char *hex)
{
    size_t n = 0;

    for (; hex[0]; hex += 2) {
        const char pair[3] = {hex[0], hex[1], 0};

        out[n++] = (char)strtol(pair, NULL, 16);
    }
    out[n] = 0;
    return n;
}

/* Encode all texts of the document with the tokenizer and compare with one case's ids. */
static void compare(const data_tokenizer *tok, const json_t *document, const json_t *one)
{
    const json_t *texts = json_object_get(document, "texts");
    const int length = (int)json_integer_value(json_object_get(document, "length"));
    static char text[1 << 16];
    int64_t ids[77], mask[77];

    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *wanted = json_array_get(json_object_get(one, "ids"), i);
        const size_t n = bytes_of(text, json_string_value(json_array_get(texts, i)));
        int n_kept = 0;

        check_ok(ctx, data_tokenizer_encode_bytes(tok, ctx, text, n, ids, mask, length));
        for (int k = 0; k < length; k++) {
            if (ids[k] != json_integer_value(json_array_get(wanted, (size_t)k)))
                fail_msg("case %s, text \"%s\": id %d is %lld, wanted %lld",
                         json_string_value(json_object_get(one, "name")), text, k,
                         (long long)ids[k],
                         (long long)json_integer_value(json_array_get(wanted, (size_t)k)));
            n_kept += (int)mask[k];
            assert_true(mask[k] == (k < n_kept));
        }
        assert_int_equal(ids[n_kept - 1], data_tokenizer_end_id(tok));
    }
}

static void small_vocabulary_equals_transformers(void **state)
{
    json_t *document = golden("tests/golden/tokenizer_small.json");
    const json_t *cases = json_object_get(document, "cases");

    (void)state;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        char *folder = check_folder_new();
        data_tokenizer *tok = NULL;
        const char *name;
        json_t *content;
        size_t k;

        check_ok(ctx, data_tokenizer_write_small(ctx, folder));
        json_object_foreach (json_object_get(one, "files"), name, content) {
            if (json_is_null(content))
                assert_int_equal(remove(check_path(folder, name)), 0);
            else
                check_ok(ctx, data_json_write(ctx, check_path(folder, name), content));
        }
        check_ok(ctx, data_tokenizer_open(&tok, ctx, folder));
        json_array_foreach (json_object_get(one, "add"), k, content) {
            int64_t id = -1;
            check_ok(ctx, data_tokenizer_add(tok, ctx, json_string_value(content), 1, &id));
            assert_int_equal(id, DATA_TOKENIZER_SMALL_SIZE + (int64_t)k);
        }
        compare(tok, document, one);
        data_tokenizer_close(tok);
        check_folder_remove(folder);
    }
    json_decref(document);
}

/* A token of several ids stands for all of them; one that is there is refused. */
static void tokens_are_added(void **state)
{
    char *folder = check_folder_new();
    data_tokenizer *tok = NULL;
    int64_t ids[16], plain[16], id = -1, other = -1;

    (void)state;
    check_ok(ctx, data_tokenizer_write_small(ctx, folder));
    check_ok(ctx, data_tokenizer_open(&tok, ctx, folder));
    check_ok(ctx, data_tokenizer_encode(tok, ctx, "photo of person", plain, NULL, 16));
    check_ok(ctx, data_tokenizer_add(tok, ctx, "<Me>", 3, &id));
    check_ok(ctx, data_tokenizer_add(tok, ctx, "<you>", 1, &other));
    assert_true(id == 1000 && other == 1003);
    assert_int_equal(data_tokenizer_size(tok), 1004);
    check_ok(ctx, data_tokenizer_encode(tok, ctx, "photo of<me>person <YOU>", ids, NULL, 16));
    assert_true(ids[1] == plain[1] && ids[2] == plain[2] && ids[6] == plain[3] && ids[7] == 1003);
    for (int k = 0; k < 3; k++)
        assert_int_equal(ids[3 + k], 1000 + k);
    assert_string_equal(data_tokenizer_token(tok, 1001), "<Me>");
    check_failed(ctx, data_tokenizer_add(tok, ctx, "<Me>", 1, &id), AG_EINVAL, "\"<Me>\" is a token already");
    check_failed(ctx, data_tokenizer_add(tok, ctx, "person</w>", 1, &id), AG_EINVAL, "is a token already");
    check_failed(ctx, data_tokenizer_add(tok, ctx, "", 1, &id), AG_EINVAL, "\"\"");
    check_failed(ctx, data_tokenizer_add(tok, ctx, "a\xff", 1, &id), AG_EINVAL, "UTF-8");
    check_failed(ctx, data_tokenizer_add(tok, ctx, "<us>", 0, &id), AG_EINVAL, "0 ids");
    data_tokenizer_close(tok);
    check_folder_remove(folder);
}

static void real_vocabulary_equals_transformers(void **state)
{
    struct stat info;
    json_t *document;
    data_tokenizer *tok = NULL;

    (void)state;
    if (stat(real_folder, &info) != 0) {
        printf("SKIP test_tokenizer: no real vocabulary at %s\n", real_folder);
        return;
    }
    document = golden("tests/golden/tokenizer_clip.json");
    check_ok(ctx, data_tokenizer_open(&tok, ctx, real_folder));
    assert_int_equal(data_tokenizer_size(tok), 49408);
    assert_int_equal(data_tokenizer_max_length(tok), 77);
    compare(tok, document, json_array_get(json_object_get(document, "cases"), 0));
    data_tokenizer_close(tok);
    json_decref(document);
}

static void small_vocabulary_is_what_it_says(void **state)
{
    static const char *const words[] = {"photo</w>", "of</w>",    "a</w>",    "year</w>",
                                        "old</w>",   "person</w>", "man</w>",  "woman</w>",
                                        "boy</w>",   "girl</w>",  "face</w>", "7</w>"};
    static const char prompt[] = "photo of a 70 year old person man woman boy girl face";
    char *folder = check_folder_new(), *copy = check_folder_new();
    char *first = NULL, *second = NULL;
    data_tokenizer *tok = NULL, *again = NULL;
    int64_t *ids = NULL, *word_of = NULL, n = 0;
    size_t n_first = 0, n_second = 0;

    (void)state;
    check_ok(ctx, data_tokenizer_write_small(ctx, folder));
    check_ok(ctx, data_tokenizer_open(&tok, ctx, folder));
    assert_int_equal(data_tokenizer_size(tok), DATA_TOKENIZER_SMALL_SIZE);
    assert_int_equal(data_tokenizer_begin_id(tok), 998);
    assert_int_equal(data_tokenizer_end_id(tok), 999);
    assert_int_equal(data_tokenizer_pad_id(tok), 999);
    assert_string_equal(data_tokenizer_token(tok, 0), "!");
    assert_string_equal(data_tokenizer_token(tok, 256), "!</w>");
    assert_string_equal(data_tokenizer_token(tok, 998), "<|startoftext|>");
    assert_null(data_tokenizer_token(tok, 1000));
    check_ok(ctx, data_tokenizer_split(&ids, &word_of, &n, tok, ctx, prompt, sizeof prompt - 1));
    assert_int_equal(n, 13); /* one each, two digits */
    for (int64_t i = 0; i < n; i++) {
        bool found = strcmp(data_tokenizer_token(tok, ids[i]), "0</w>") == 0;

        assert_int_equal(word_of[i], i);
        for (size_t w = 0; w < sizeof words / sizeof *words; w++)
            found |= strcmp(data_tokenizer_token(tok, ids[i]), words[w]) == 0;
        assert_true(found);
    }
    ag_delete(ids);
    ag_delete(word_of);
    /* copied unchanged, and found inside a pipeline's folder */
    assert_int_equal(mkdir(check_path(copy, "tokenizer"), 0777), 0);
    check_ok(ctx, data_tokenizer_copy(tok, ctx, check_path(copy, "tokenizer")));
    check_ok(ctx, data_tokenizer_open(&again, ctx, copy));
    check_ok(ctx, data_file_read(&first, &n_first, ctx, check_path(folder, "vocab.json"), 1 << 20));
    check_ok(ctx, data_file_read(&second, &n_second, ctx,
                                 check_path(copy, "tokenizer/vocab.json"), 1 << 20));
    assert_int_equal(n_first, n_second);
    assert_memory_equal(first, second, n_first);
    ag_delete(first);
    ag_delete(second);
    data_tokenizer_close(tok);
    data_tokenizer_close(again);
    check_folder_remove(folder);
    check_folder_remove(copy);
}

/* Open a folder with these files (NULL: none) and check the failure. */
static void refuse(const char *vocabulary, const char *merges, const char *config,
                   ag_status status, const char *words)
{
    char *folder = check_folder_new();
    data_tokenizer *tok = NULL;

    if (vocabulary)
        check_write(ctx, folder, "vocab.json", vocabulary);
    if (merges)
        check_write(ctx, folder, "merges.txt", merges);
    if (config)
        check_write(ctx, folder, "tokenizer_config.json", config);
    check_failed(ctx, data_tokenizer_open(&tok, ctx, folder), status, words);
    assert_null(tok);
    check_folder_remove(folder);
}

static void bad_files_are_refused(void **state)
{
    static const char small[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|startoftext|>\": 3, "
                                "\"<|endoftext|>\": 4}";
    static const char head[] = "#version: 0.2\n";

    (void)state;
    refuse(NULL, NULL, NULL, AG_EIO, "no tokenizer here");
    refuse(small, NULL, NULL, AG_EIO, "merges.txt is missing");
    refuse(NULL, head, NULL, AG_EIO, "vocab.json is missing");
    refuse("[1]", head, NULL, AG_EDATA, "wanted an object");
    refuse("{}", head, NULL, AG_EDATA, "0 tokens");
    refuse("{\"a\": -1}", head, NULL, AG_EDATA, "token \"a\": wanted an id");
    refuse("{\"a\": 1e3}", head, NULL, AG_EDATA, "token \"a\": wanted an id");
    refuse("{\"a\": 99999999}", head, NULL, AG_EDATA, "wanted an id of 0 to");
    refuse("{\"a\": 0", head, NULL, AG_EDATA, "vocab.json:1: not JSON");
    refuse(small, "#version: 0.2\na b\nab a\n", NULL, AG_EDATA, "merge 2: \"aba\" is not in");
    refuse(small, "#version: 0.2\nab\n", NULL, AG_EDATA, "merge 1: wanted two symbols");
    refuse(small, "a  b\n", NULL, AG_EDATA, "wanted two symbols");
    refuse(small, "a c\n", NULL, AG_EDATA, "\"c\" is not in the vocabulary");
    refuse(small, head, "{\"bos_token\": 7}", AG_EDATA, "bos_token: wanted a token");
    refuse(small, head, "{\"padding_side\": \"left\"}", AG_EUNSUPPORTED, "padding_side");
    refuse(small, head, "{\"added_tokens_decoder\": {\"x\": {}}}", AG_EDATA, "wanted an id");
}

static void bad_text_is_refused(void **state)
{
    char *folder = check_folder_new(), *large = malloc(70000);
    data_tokenizer *tok = NULL;
    int64_t ids[77];

    (void)state;
    check_ok(ctx, data_tokenizer_write_small(ctx, folder));
    check_ok(ctx, data_tokenizer_open(&tok, ctx, folder));
    check_failed(ctx, data_tokenizer_encode(tok, ctx, "caf\xe9 x", ids, NULL, 77), AG_EDATA,
                 "byte 4 (0xe9) is not UTF-8");
    check_failed(ctx, data_tokenizer_encode(tok, ctx, "a", ids, NULL, 1), AG_EINVAL, "length of 1");
    memset(large, 'x', 69999);
    large[69999] = 0;
    check_failed(ctx, data_tokenizer_encode(tok, ctx, large, ids, NULL, 77), AG_EDATA, "at most");
    large[60000] = 0; /* one word of 60000 letters is only work */
    check_ok(ctx, data_tokenizer_encode(tok, ctx, large, ids, NULL, 77));
    free(large);
    data_tokenizer_close(tok);
    check_folder_remove(folder);
}

/* Every allocation of opening and encoding refused once. */
static void refused_memory(void **state)
{
    char *folder = check_folder_new();
    bool done = false;

    (void)state;
    check_write(ctx, folder, "vocab.json",
                "{\"a\": 0, \"b\": 1, \"b</w>\": 2, \"ab</w>\": 3, \"<|startoftext|>\": 4, "
                "\"<|endoftext|>\": 5}");
    check_write(ctx, folder, "merges.txt", "#version: 0.2\na b</w>\n");
    check_write(ctx, folder, "added_tokens.json", "{\"<x>\": 6}");
    for (int64_t n = 0; !done; n++) {
        data_tokenizer *tok = NULL;
        int64_t ids[8];

        ag_refuse_allocation(ctx, n, false);
        done = data_tokenizer_open(&tok, ctx, folder) == AG_OK &&
               data_tokenizer_encode(tok, ctx, "ab<x>ab", ids, NULL, 8) == AG_OK;
        ag_refuse_allocation(ctx, -1, false);
        assert_true(done || ag_status_of(ctx) == AG_ENOMEM);
        ag_clear(ctx);
        data_tokenizer_close(tok);
        assert_true(n < 1000);
        if (done) {
            const int64_t wanted[8] = {4, 3, 6, 3, 5, 5, 5, 5};

            assert_memory_equal(ids, wanted, sizeof wanted);
        }
    }
    check_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(small_vocabulary_equals_transformers),
                                       cmocka_unit_test(tokens_are_added),
                                       cmocka_unit_test(real_vocabulary_equals_transformers),
                                       cmocka_unit_test(small_vocabulary_is_what_it_says),
                                       cmocka_unit_test(bad_files_are_refused),
                                       cmocka_unit_test(bad_text_is_refused),
                                       cmocka_unit_test(refused_memory)};
    int failed;

    ctx = ag_ctx_new(NULL);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    ag_ctx_free(ctx);
    return failed;
}
