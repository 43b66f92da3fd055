/* test_torch_file.c - torch files: what PyTorch wrote (scripts/golden_weights.py), pickles and
 * archives made by hand to be wrong in one way each, every cut, and every byte changed.
 */
#include "tests/weights_check.h"

#include "data/pickle.h"
#include "data/zip.h"

#define GOLDEN "tests/golden/weights/"

static void test_goldens(void **state)
{
    static const char *const files[][2] = {
        {GOLDEN "dtypes_torch.pt", GOLDEN "dtypes_torch.want"},
        {GOLDEN "views.pt", GOLDEN "views.want"},
        {GOLDEN "repacked.pt", GOLDEN "views.want"},
        {GOLDEN "lightning.pt", GOLDEN "lightning.want"},
        {GOLDEN "nested.pt", GOLDEN "nested.want"},
    };
    ag_ctx *ctx = ag_ctx_new(NULL);

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        data_weights *w = NULL;

        check_ok(ctx, data_weights_open(&w, ctx, files[i][0]));
        check_ok(ctx, data_weights_check(ctx, w));
        check_against(ctx, w, files[i][1], 0);
        assert_int_equal(data_weights_n_metadata(w), i == 3 ? 2 : 0);
        if (i == 3) { /* the numbers beside lightning's state_dict */
            assert_string_equal(data_weights_metadata(w, "global_step"), "470000");
            assert_string_equal(data_weights_metadata(w, "epoch"), "3");
        }
        data_weights_close(w);
    }
    ag_ctx_free(ctx);
}

/* Any piece of a strided tensor is the same piece of the whole. */
static void test_pieces_of_views(void **state)
{
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;

    (void)state;
    check_ok(ctx, data_weights_open(&w, ctx, GOLDEN "views.pt"));
    for (int64_t i = 0; i < data_weights_count(w); i++) {
        const data_tensor *t = data_weights_at(w, i);
        const size_t size = data_dtype_size(t->dtype);
        uint8_t whole[1024], piece[1024];

        assert_true(t->n_bytes <= sizeof whole);
        check_ok(ctx, data_weights_read(ctx, w, i, whole));
        for (size_t from = 0; from <= t->n_bytes; from += size) {
            for (size_t to = from; to <= t->n_bytes; to += size) {
                assert_int_equal(data_weights_pread(w, i, from, to - from, piece), 0);
                assert_memory_equal(piece, whole + from, to - from);
            }
        }
    }
    data_weights_close(w);
    ag_ctx_free(ctx);
}

/* --- pickles made by hand --------------------------------------------------------------------- */

#define P "\x80\x02"
#define G_TENSOR "ctorch._utils\n_rebuild_tensor_v2\n"
#define G_DICT "ccollections\nOrderedDict\n"
#define STORAGE_OF(type, numel) "(U\7storage" "ctorch\n" type "\n" "U\1" "0" "U\3" "cpu" numel "tQ"
#define REST "\x89" G_DICT ")R"
/* {"a": tensor of 8 floats seen as offset, size, stride} */
#define TENSOR(numel, offset, size, stride) \
    P "}U\1a" G_TENSOR "(" STORAGE_OF("FloatStorage", numel) offset size stride REST "tRs."

typedef struct made {
    const char *pickle;
    size_t n;
    const char *word; /* of the refusal; NULL: it is taken */
    int64_t n_tensors;
} made;
#define MADE(text, word, n) {text, sizeof(text) - 1, word, n}

static const made pickles[] = {
    MADE(TENSOR("K\10", "K\0", "K\2K\4\x86", "K\4K\1\x86"), NULL, 1),
    MADE(TENSOR("K\10", "K\0", ")", ")"), NULL, 1),
    MADE(TENSOR("K\10", "K\7", "K\1\x85", "K\1\x85"), NULL, 1),
    MADE(TENSOR("K\10", "K\10", "K\0\x85", "K\1\x85"), NULL, 1),
    /* what the archive cannot hold */
    MADE(TENSOR("K\11", "K\0", "K\2\x85", "K\1\x85"), "shorter than the pickle says", 0),
    MADE(TENSOR("K\10", "K\1", "K\10\x85", "K\1\x85"), "beyond its storage", 0),
    MADE(TENSOR("K\4", "K\0", "K\10\x85", "K\1\x85"), "beyond its storage", 0),
    MADE(TENSOR("K\10", "K\0", "K\2K\4\x86", "K\5K\1\x86"), "beyond its storage", 0),
    MADE(TENSOR("K\10", "\x8a\10\xff\xff\xff\xff\xff\xff\xff\x7f", "K\2\x85", "K\1\x85"), "beyond",
         0),
    MADE(TENSOR("K\10", "K\0", "K\2\x85", "\x8a\10\xff\xff\xff\xff\xff\xff\xff\x7f\x85"), "beyond",
         0),
    MADE(TENSOR("K\10", "K\0", "\x8a\10\xff\xff\xff\xff\xff\xff\xff\x7f\x85", "K\0\x85"), "beyond",
         0),
    MADE(TENSOR("K\10", "K\0", "J\0\0\0\x40J\0\0\0\x40\x86", "K\0K\0\x86"), "repeat", 0),
    MADE(TENSOR("K\10", "J\xff\xff\xff\xff", "K\2\x85", "K\1\x85"), "not (storage, offset", 0),
    MADE(TENSOR("K\10", "K\0", "K\2\x85", "J\xff\xff\xff\xff\x85"), "not (storage, offset", 0),
    MADE(TENSOR("K\10", "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85"), "not (storage, offset", 0),
    MADE(TENSOR("K\10", "K\0", "K\2\x85", ")"), "not (storage, offset", 0),
    MADE(TENSOR("K\10", "N", "K\2\x85", "K\1\x85"), "not (storage, offset", 0),
    MADE(TENSOR("K\10", "G\0\0\0\0\0\0\0\0", "K\2\x85", "K\1\x85"), "not (storage, offset", 0),
    MADE(TENSOR("J\xff\xff\xff\xff", "K\0", "K\2\x85", "K\1\x85"), "not (type, key", 0),
    MADE(P "}U\1a" G_TENSOR "(" STORAGE_OF("FloatStorage", "K\10") "K\0K\2\x85K\1\x85tRs.",
         "number of parts", 0),
    MADE(P "}U\1a" G_TENSOR "(NK\0K\2\x85K\1\x85" REST "tRs.", "not (storage, offset", 0),
    /* names that mean nothing are inert, and so is what is made of them */
    MADE(P "}U\1acos\nsystem\nU\2ls\x85Rs.", NULL, 0),
    MADE(P "}U\1ac__builtin__\neval\nU\2ls\x85Rs.", NULL, 0),
    MADE(P "}U\1acx\ny\n)\x81}U\1bK\1sbs.", NULL, 0),
    MADE(P "}U\1acx\ny\n)R(K\1K\2eK\3aU\1kU\1vs(U\1kU\1vus.", NULL, 0),
    MADE(P "}U\1a" G_TENSOR "(" STORAGE_OF("QInt8Storage", "K\10") "K\0K\2\x85K\1\x85" REST "tRs.",
         NULL, 0),
    MADE(P G_DICT "]]U\1aK\1eaa\x85R.", "there is no mark", 0),
    MADE(P G_DICT "](](U\1aK\1ee\x85R.", NULL, 0),
    MADE(P G_DICT "](](U\1aK\1K\2ee\x85R.", "no pair", 0),
    MADE(P "}U\1a\x8a\0s.", NULL, 0),
    MADE(P "(}K\1K\2K\3\x87" "1}.", NULL, 0),
    MADE(P "}(K\1" "0" "0.", NULL, 0),
    /* not what torch.save writes */
    MADE(P "}(0}.", "more or less than one value", 0),
    MADE("}.", "does not begin with its protocol", 0),
    MADE("\x80\x04}.", "protocol 4", 0),
    MADE(P P "}.", "stands inside", 0),
    MADE(P "}", "cut short", 0),
    MADE(P "}..", "goes on after its end", 0),
    MADE(P ".", "more or less than one value", 0),
    MADE(P "}}.", "more or less than one value", 0),
    MADE(P "(}.", "more or less than one value", 0),
    MADE(P "K\1.", "another object", 0),
    MADE(P "(U\7storagectorch\nFloatStorage\nU\1" "0U\3" "cpuK\10tQ.", "another object", 0),
    MADE(P "0}.", "more than the stack holds", 0),
    MADE(P "}(R.", "more than the stack holds", 0),
    MADE(P "}U\1a(s.", "more than the stack holds", 0),
    MADE(P "s.", "more than the stack holds", 0),
    MADE(P "}\x87.", "more than the stack holds", 0),
    MADE(P "}t.", "there is no mark", 0),
    MADE(P "}h\1.", "never kept", 0),
    MADE(P "}j\0\0\0\x80.", "never kept", 0),
    MADE(P "}r\xff\xff\xff\xff.", "memo is too large", 0),
    MADE(P "}(K\1u.", "key without a value", 0),
    MADE(P "]K\1K\2s.", "no dictionary", 0),
    MADE(P "}K\1a.", "no list", 0),
    MADE(P "K\1}b.", "state of what has none", 0),
    MADE(P "}K\1)R.", "calls what is no name", 0),
    MADE(P "cx\ny\nK\1R.", "tuple of arguments", 0),
    MADE(P "K\1Q.", "no storage", 0),
    MADE(P "cx", "without an end", 0),
    MADE(P "X\xff\xff\xff\x7f", "too long", 0),
    MADE(P "X\x05\0\0\0abcd", "cut short", 0),
    MADE(P "I1\n.", "does not write", 0),
    MADE(P "\x93.", "does not write", 0),
    MADE(P "ios\nsystem\n.", "does not write", 0),
    MADE(P "(cos\nsystem\nU\2lso.", "does not write", 0),
    MADE(P "P1\n.", "does not write", 0),
    MADE(P "\x82\x01.", "does not write", 0),
    /* a dictionary in itself; a chain that doubles at every step */
    MADE(P "}q\0U\1ah\0s.", "nested too deep", 0),
};

static void test_pickles(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);

    (void)state;
    for (size_t i = 0; i < sizeof pickles / sizeof *pickles; i++) {
        bytes b = make_torch(pickles[i].pickle, pickles[i].n, 32);
        data_weights *w = NULL;
        const ag_status status = data_weights_open(&w, ctx, check_write(folder, "made.pt", b.at,
                                                                        b.n));

        free(b.at);
        if (pickles[i].word) {
            if (status == AG_OK || !strstr(ag_message(ctx), pickles[i].word))
                fail_msg("pickle %zu: wanted \"%s\", got %s: %s", i, pickles[i].word,
                         ag_status_name(status), ag_message(ctx));
            assert_true(status == AG_EDATA || status == AG_EUNSUPPORTED);
            ag_clear(ctx);
            continue;
        }
        if (status != AG_OK)
            fail_msg("pickle %zu: %s", i, ag_message(ctx));
        assert_int_equal(data_weights_count(w), pickles[i].n_tensors);
        data_weights_close(w);
    }
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* Pickles that want too much of something: longer than anybody would write them. */
static void test_limits(void **state)
{
    static const struct {
        const char *before, *unit;
        size_t n_times;
        const char *between, *again;
        size_t n_again;
        const char *word;
    } cases[] = {
        {P, "(", 65, "", "", 0, "nested too deep"},
        {P "K\1", "\x85", 65, "", "", 0, "nested too deep"},
        {P, "N", 1000001, "", "", 0, "stack is too deep"},
        {P, "]0", 2000001, "", "", 0, "too many values"},
        /* one list of pairs, made into a dictionary again and again */
        {P G_DICT "q\1](", "](K\1K\1e", 400, "eq\2", "h\1h\2\x85R0", 20000, "too many values"},
    };
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bytes p = {0}, b;
        data_weights *w = NULL;

        add(&p, cases[i].before, strlen(cases[i].before));
        for (size_t k = 0; k < cases[i].n_times; k++)
            add(&p, cases[i].unit, strlen(cases[i].unit));
        add(&p, cases[i].between, strlen(cases[i].between));
        for (size_t k = 0; k < cases[i].n_again; k++)
            add(&p, cases[i].again, strlen(cases[i].again));
        add(&p, ".", 1);
        b = make_torch(p.at, p.n, 32);
        check_fails(ctx, data_weights_open(&w, ctx, check_write(folder, "made.pt", b.at, b.n)),
                    AG_EDATA, cases[i].word);
        free(p.at);
        free(b.at);
    }
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* Dictionaries that hold the next one twice: 2^30 ways down, told by counting. */
static void test_doubling(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    bytes p = {0}, b;

    (void)state;
    add(&p, P "}q\0", 5);
    for (int i = 1; i <= 30; i++) {
        add(&p, "}q", 2);
        add_number(&p, (uint64_t)i, 1);
        add(&p, "(U\1ah", 5);
        add_number(&p, (uint64_t)i - 1, 1);
        add(&p, "U\1bh", 4);
        add_number(&p, (uint64_t)i - 1, 1);
        add(&p, "u", 1);
    }
    add(&p, "q\x64", 2);
    for (int i = 0; i <= 30; i++)
        add(&p, "0", 1);
    add(&p, "h\x64.", 3);
    b = make_torch(p.at, p.n, 32);
    check_fails(ctx, data_weights_open(&w, ctx, check_write(folder, "made.pt", b.at, b.n)),
                AG_EDATA, "too many dictionary entries");
    free(p.at);
    free(b.at);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* --- archives --------------------------------------------------------------------------------- */

static const char simple[] = TENSOR("K\10", "K\0", "K\2K\4\x86", "K\4K\1\x86");

/* The simple archive with one byte of its local header (where 0), directory (1) or end (2) set. */
static bytes with_byte(int where, size_t at, uint8_t byte)
{
    bytes b = make_torch(simple, sizeof simple - 1, 32);
    const size_t directory = b.n - 22 - (46 + 10) - (46 + 8);

    b.at[at + (where == 0 ? 0 : where == 1 ? directory : b.n - 22)] = byte;
    return b;
}

static void test_archives(void **state)
{
    static const struct {
        int where;
        size_t at;
        uint8_t byte;
        ag_status status;
        const char *word;
    } cases[] = {
        {0, 0, 'Q', AG_EDATA, "neither"},
        {0, 6, 1, AG_EDATA, "two headers differ"},
        {0, 8, 8, AG_EDATA, "two headers differ"},
        {0, 14, 1, AG_EDATA, "two headers differ"},
        {0, 18, 1, AG_EDATA, "two headers differ"},
        {0, 22, 1, AG_EDATA, "two headers differ"},
        {0, 26, 9, AG_EDATA, "two headers differ"},
        {0, 29, 9, AG_EDATA, "outside the archive"},
        {0, 31, 'x', AG_EDATA, "two headers differ"},
        {1, 8, 1, AG_EDATA, "is encrypted"},
        {1, 8, 8, AG_EDATA, "two headers differ"},
        {1, 10, 8, AG_EUNSUPPORTED, "is compressed"},
        {1, 20, 1, AG_EDATA, "contradicts itself"},
        {1, 34, 1, AG_EDATA, "contradicts itself"},
        {1, 42, 1, AG_EDATA, "two headers differ"},
        {1, 45, 1, AG_EDATA, "outside the archive"},
        {1, 46, '/', AG_EDATA, "plain name"},
        {1, 47, '\\', AG_EDATA, "plain name"},
        {1, 28, 200, AG_EDATA, "directory is damaged"},
        {2, 0, 'Q', AG_EDATA, "no end record"},
        {2, 4, 1, AG_EDATA, "contradict each other"},
        {2, 8, 1, AG_EDATA, "contradict each other"},
        {2, 12, 1, AG_EDATA, "not where"},
        {2, 16, 1, AG_EDATA, "not where"},
        {2, 20, 1, AG_EDATA, "no end record"},
    };
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    data_weights *w = NULL;
    bytes b;

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        b = with_byte(cases[i].where, cases[i].at, cases[i].byte);
        check_fails(ctx, data_weights_open(&w, ctx, check_write(folder, "made.pt", b.at, b.n)),
                    cases[i].status, cases[i].word);
        free(b.at);
    }
    /* something before, something after */
    b = make_torch(simple, sizeof simple - 1, 32);
    add(&b, "x", 1);
    check_fails(ctx, data_weights_open(&w, ctx, check_write(folder, "made.pt", b.at, b.n)),
                AG_EDATA,
                "no end record");
    free(b.at);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void open_members(ag_ctx *ctx, const char *folder, const char *const *names, int n,
                         ag_status status, const char *word)
{
    bytes zip = {0}, directory = {0};
    data_weights *w = NULL;

    for (int i = 0; i < n; i++) {
        const bool pickle = strstr(names[i], "data.pkl") != NULL;

        add_member(&zip, &directory, names[i], pickle ? simple : "big",
                   pickle ? sizeof simple - 1 : 3);
    }
    end_archive(&zip, &directory, n);
    check_fails(ctx, data_weights_open(&w, ctx, check_write(folder, "made.pt", zip.at, zip.n)),
                status, word);
    free(zip.at);
}

static void test_members(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);

    (void)state;
    open_members(ctx, folder, (const char *[]){"r/x"}, 1, AG_EDATA, "no data.pkl");
    open_members(ctx, folder, (const char *[]){"data.pkl"}, 1, AG_EDATA, "no data.pkl");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "b/data.pkl"}, 2, AG_EDATA,
                 "two data.pkl");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "a/data.pkl"}, 2, AG_EDATA,
                 "stands twice");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "../x"}, 2, AG_EDATA, "plain name");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "a/.."}, 2, AG_EDATA, "plain name");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "a/byteorder"}, 2, AG_EUNSUPPORTED,
                 "little-endian");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "a/constants.pkl"}, 2, AG_EUNSUPPORTED,
                 "TorchScript");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "b/data/0"}, 2, AG_EDATA,
                 "not in the archive");
    open_members(ctx, folder, (const char *[]){"a/data.pkl", "a/data/0"}, 2, AG_EDATA, "shorter");
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* Every cut is refused; every changed byte is refused, or found when the values are read, or
 * stands where nothing depends on it: then the values are the right ones. */
static void test_damage(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    const bytes b = make_torch(simple, sizeof simple - 1, 32);
    int n_taken = 0;

    (void)state;
    for (size_t cut = 0; cut < b.n; cut++) {
        data_weights *w = NULL;

        assert_int_equal(data_weights_open(&w, ctx, check_write(folder, "cut.pt", b.at, cut)),
                         AG_EDATA);
        ag_clear(ctx);
    }
    for (size_t i = 0; i < b.n; i++) {
        data_weights *w = NULL;
        uint8_t values[32], kept = b.at[i];

        b.at[i] ^= (uint8_t)(1 << i % 8);
        if (data_weights_open(&w, ctx, check_write(folder, "flip.pt", b.at, b.n)) == AG_OK &&
            data_weights_read(ctx, w, 0, values) == AG_OK) {
            for (int k = 0; k < 32; k++)
                assert_int_equal(values[k], k);
            n_taken++;
        }
        data_weights_close(w);
        ag_clear(ctx);
        b.at[i] = kept;
    }
    /* version numbers, times, attributes: 2 local and 2 central headers */
    assert_true(n_taken > 0 && n_taken < 60);
    free(b.at);
    check_remove(folder);
    ag_ctx_free(ctx);
}

static void test_damaged_values(void **state)
{
    const char *folder = check_folder();
    ag_ctx *ctx = ag_ctx_new(NULL);
    bytes b = make_torch(simple, sizeof simple - 1, 32);
    data_weights *w = NULL;
    float values[8];

    (void)state;
    b.at[b.n - 22 - (46 + 10) - (46 + 8) - 1] ^= 1; /* the last value */
    check_ok(ctx, data_weights_open(&w, ctx, check_write(folder, "bad.pt", b.at, b.n)));
    check_fails(ctx, data_weights_check(ctx, w), AG_EDATA, "r/data/0 is damaged");
    check_fails(ctx, data_weights_read(ctx, w, 0, values), AG_EDATA, "r/data/0 is damaged");
    check_fails(ctx, data_weights_read_f32(ctx, w, 0, values), AG_EDATA, "r/data/0 is damaged");
    data_weights_close(w);
    free(b.at);
    check_remove(folder);
    ag_ctx_free(ctx);
}

/* A file from before torch 1.6, when it is there: it says so. */
static void test_old_file(void **state)
{
    static const char path[] = "../shared/data/lpips/alex.pth";
    ag_ctx *ctx;
    data_weights *w = NULL;

    (void)state;
    if (!data_is_file(path)) {
        print_message("SKIP  test_old_file: no %s\n", path);
        return;
    }
    ctx = ag_ctx_new(NULL);
    check_fails(ctx, data_weights_open(&w, ctx, path), AG_EUNSUPPORTED, "older than version 1.6");
    ag_ctx_free(ctx);
}

static void test_refused_memory(void **state)
{
    int n_refused = 0;

    (void)state;
    for (int64_t n = 0;; n++) {
        ag_ctx *ctx = ag_ctx_new(NULL);
        data_weights *w = NULL;
        double values[8];
        ag_status status;

        ag_refuse_allocation(ctx, n, n % 2);
        status = data_weights_open(&w, ctx, GOLDEN "lightning.pt");
        if (status == AG_OK)
            status = data_weights_read(ctx, w, 0, values);
        data_weights_close(w);
        assert_int_equal(status, ag_status_of(ctx));
        ag_ctx_free(ctx);
        if (status == AG_OK)
            break;
        assert_int_equal(status, AG_ENOMEM);
        n_refused++;
    }
    assert_true(n_refused > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),   cmocka_unit_test(test_pieces_of_views),
        cmocka_unit_test(test_pickles),   cmocka_unit_test(test_limits),
        cmocka_unit_test(test_doubling),  cmocka_unit_test(test_archives),
        cmocka_unit_test(test_members),   cmocka_unit_test(test_damage),
        cmocka_unit_test(test_damaged_values), cmocka_unit_test(test_old_file),
        cmocka_unit_test(test_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
