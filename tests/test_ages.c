/* test_ages.c - labels from .npy, CSV and file names; data sets; the order of an epoch. */
#include "tests/image_check.h"

#include <math.h>
#include <sys/stat.h>

#include "data/age_groups.h"
#include "data/ages.h"
#include "data/dataset.h"
#include "data/npy.h"

static char folder[64]; /* of this run; emptied at the end */

/* folder/name, in one of a few buffers that take turns. */
static const char *in_folder(const char *name)
{
    static char buffers[8][160];
    static int next;

    next = (next + 1) % 8;
    snprintf(buffers[next], sizeof buffers[next], "%s/%s", folder, name);
    return buffers[next];
}

static void put_file(const char *name, const void *bytes, size_t n)
{
    FILE *file = fopen(in_folder(name), "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
}

static void put_text(const char *name, const char *text)
{
    put_file(name, text, strlen(text));
}

static void put_picture(const char *name)
{
    put_text(name, "P2 1 1 255 7\n"); /* found by content, whatever the name */
}

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_ages_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    return system(command) ? -1 : 0;
}

static void test_npy(void **state)
{
    static const char *const cells[] = {"b.jpg", "35", "a.jpg", " +1 ",
                                        "b.jpg", "36", "c.jpg", "-2"};
    static const char *const point[] = {"a.jpg", "1", "b.jpg", "35.0"};
    static const char *const nothing[] = {"a.jpg", ""};
    ag_ctx *ctx = check_context();
    data_ages ages = {0};

    (void)state;
    check_ok(ctx, data_npy_write_text2(ctx, in_folder("ages.npy"), cells, 4, 21));
    check_ok(ctx, data_ages_open(&ages, ctx, in_folder("ages.npy")));
    assert_int_equal(ages.n, 4);
    assert_string_equal(ages.names[0], "b.jpg"); /* the order of the file is kept */
    assert_true(ages.ages[0] == 35 && ages.ages[1] == 1 && ages.ages[2] == 36 &&
                ages.ages[3] == -2);
    assert_int_equal(data_ages_find(&ages, "b.jpg"), 0); /* the first row wins */
    assert_int_equal(data_ages_find(&ages, "a.jpg"), 1);
    assert_int_equal(data_ages_find(&ages, "A.jpg"), -1);
    assert_int_equal(data_ages_find(&ages, "a.png"), -1);
    assert_int_equal(data_ages_find(&ages, ""), -1);
    data_ages_close(&ages);

    check_ok(ctx, data_npy_write_text2(ctx, in_folder("ages.npy"), point, 2, 21));
    check_ok(ctx, data_ages_open(&ages, ctx, in_folder("ages.npy")));
    assert_true(ages.n_unreadable == 1 && ages.ages[0] == 1 && isnan(ages.ages[1]));
    check_fails(ctx, data_ages_check(&ages, ctx, "ages.npy"), AG_EDATA,
                "ages.npy: 1 of 2 rows have an age that is not a whole number: b.jpg (\"35.0\")");
    data_ages_close(&ages);
    check_ok(ctx, data_npy_write_text2(ctx, in_folder("ages.npy"), nothing, 1, 21));
    check_ok(ctx, data_ages_open(&ages, ctx, in_folder("ages.npy")));
    check_fails(ctx, data_ages_check(&ages, ctx, "ages.npy"), AG_EDATA, "a.jpg (\"\")");
    data_ages_close(&ages);
    check_fails(ctx, data_ages_open(&ages, ctx, "tests/golden/npy/i4.npy"), AG_EDATA,
                "want text of shape (N, 2)");
    check_fails(ctx, data_ages_open(&ages, ctx, "tests/golden/npy/one_dim.npy"), AG_EDATA,
                "1 dimensions");
    check_fails(ctx, data_ages_open(&ages, ctx, in_folder("none.npy")), AG_EIO, "No such file");
    check_fails(ctx, data_ages_open(&ages, ctx, folder), AG_EIO, "a folder");
    put_text("fake.npy", "a,b\n");
    check_fails(ctx, data_ages_open(&ages, ctx, in_folder("fake.npy")), AG_EDATA,
                "not an npy file");
    check_ok(ctx, data_ages_open(&ages, ctx, "tests/golden/npy/u21_big.npy"));
    assert_string_equal(ages.names[2], "größe \xf0\x9d\x94\xb8.png");
    assert_true(ages.ages[2] == 8);
    data_ages_close(&ages);
    ag_ctx_free(ctx);
}

static void test_csv(void **state)
{
    /* made-up rows */
    static const char good[] = "\xef\xbb\xbfimage_number,extra,age_group,gender\r\n"
                               "7,x,0-2,male\r\n\r\n12345,\"x,y\",70-120,female\r\n3,,3-6,male\r\n"
                               "4,,Mar-06,male\r\n7,,50-69,male\r\n";
    ag_ctx *ctx = check_context();
    data_ages ages = {0};

    (void)state;
    put_text("labels.csv", good);
    check_ok(ctx, data_ages_open(&ages, ctx, in_folder("labels.csv")));
    assert_true(ages.genders[1] == 'f' && ages.genders[2] == 'm');
    assert_int_equal(ages.n, 3);
    assert_string_equal(ages.names[0], "00007.png");
    assert_string_equal(ages.names[1], "12345.png");
    assert_true(ages.ages[0] == 60 && ages.ages[1] == 80 &&
                ages.ages[2] == 5); /* the last 7 wins */
    assert_int_equal(ages.n_duplicates, 1);
    assert_int_equal(ages.n_bad, 1);
    assert_string_equal(ages.first_bad, "line 6: age_group \"Mar-06\"");
    assert_int_equal(data_ages_find(&ages, "00003.png"), 2);
    assert_int_equal(data_ages_find(&ages, "00003.jpg"), 2); /* FFHQ is also had as JPEG */
    assert_int_equal(data_ages_find(&ages, "3.png"), -1);
    data_ages_close(&ages);

    put_text("labels.csv", "image,age_group\n1,0-2\n");
    check_fails(ctx, data_ages_open(&ages, ctx, in_folder("labels.csv")), AG_EDATA,
                "no column \"image_number\"");
    put_text("labels.csv", "image_number,age_group\nx,0-2\n");
    check_fails(ctx, data_ages_open(&ages, ctx, in_folder("labels.csv")), AG_EDATA,
                "line 2: image_number \"x\"");
    put_text("labels.csv", "image_number,age_group\n1,0-3\n");
    check_fails(ctx, data_ages_open(&ages, ctx, in_folder("labels.csv")), AG_EDATA,
                "line 2: age_group \"0-3\"");
    ag_ctx_free(ctx);
}

static void test_groups(void **state)
{
    static const struct {
        const char *group;
        int age;
    } want[] = {{"0-2", 1},    {"3-6", 5},     {"7-9", 8},    {"10-14", 12},
                {"15-19", 17}, {"20-29", 25},  {"30-39", 35}, {"40-49", 45},
                {"50-69", 60}, {"70-120", 80}, {"", -1},      {"70+", -1}};

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(data_age_of_group(want[i].group), want[i].age);
}

static void test_names(void **state)
{
    ag_ctx *ctx = check_context();
    data_ages ages = {0};
    int64_t age = 0;

    (void)state;
    assert_true(data_age_of_name(&age, "34_001.jpg") && age == 34);
    assert_true(data_age_of_name(&age, "34.jpg") && age == 34);
    assert_true(data_age_of_name(&age, "07_x_9.png") && age == 7);
    assert_true(data_age_of_name(&age, "5") && age == 5);
    assert_false(data_age_of_name(&age, "x34_1.jpg"));
    assert_false(data_age_of_name(&age, "_1.jpg"));
    assert_false(data_age_of_name(&age, "34a_1.jpg"));
    assert_false(data_age_of_name(&age, "34-1.jpg"));
    assert_false(data_age_of_name(&age, "99999999999999999999_1.jpg"));

    assert_int_equal(mkdir(in_folder("named"), 0777), 0);
    put_picture("named/9_b.png");
    put_picture("named/10_a.png");
    put_picture("named/.hidden.png");
    put_text("named/notes.txt", "x");
    check_ok(ctx, data_ages_from_names(&ages, ctx, in_folder("named")));
    assert_int_equal(ages.n, 2);
    assert_string_equal(ages.names[0], "10_a.png"); /* sorted by bytes */
    assert_true(ages.ages[0] == 10 && ages.ages[1] == 9);
    assert_int_equal(data_ages_find(&ages, "9_b.png"), 1);
    data_ages_close(&ages);
    put_picture("named/x.png");
    put_picture("named/1a.png");
    check_ok(ctx, data_ages_from_names(&ages, ctx, in_folder("named")));
    assert_true(ages.n == 4 && ages.n_unreadable == 2);
    check_fails(ctx, data_ages_check(&ages, ctx, "named"), AG_EDATA,
                "named: 2 of 4 file names do not begin with an age, as 34_001.jpg or 34.jpg do: 1a.png (none), x.png "
                "(none)");
    data_ages_close(&ages);
    ag_ctx_free(ctx);
}

static void test_set(void **state)
{
    static const char *const cells[] = {"B.PNG", "2", "a.jpeg", "1", "gone.png", "3"};
    ag_ctx *ctx = check_context();
    data_ages ages = {0};
    data_set set = {0};

    (void)state;
    assert_int_equal(mkdir(in_folder("flat"), 0777), 0);
    check_fails(ctx, data_set_open(&set, ctx, in_folder("flat"), NULL, 0), AG_EDATA,
                "no picture in this folder");
    check_fails(ctx, data_set_open(&set, ctx, in_folder("nowhere"), NULL, 0), AG_EIO,
                "No such file");
    put_picture("flat/a.jpeg");
    put_picture("flat/B.PNG");
    put_text("flat/readme.md", "x");
    assert_int_equal(mkdir(in_folder("flat/sub.png"), 0777), 0); /* a folder is no picture */
    check_fails(ctx, data_set_open(&set, ctx, in_folder("flat/a.jpeg"), NULL, 0), AG_EIO,
                "this is a file");

    check_ok(ctx, data_npy_write_text2(ctx, in_folder("flat.npy"), cells, 3, 21));
    check_ok(ctx, data_ages_open(&ages, ctx, in_folder("flat.npy")));
    check_ok(ctx, data_set_open(&set, ctx, in_folder("flat/"), &ages, DATA_CHECK_PIXELS));
    assert_int_equal(set.n, 2);
    assert_string_equal(set.items[0].name, "B.PNG");
    assert_string_equal(set.items[0].path, in_folder("flat/B.PNG"));
    assert_true(set.items[0].age == 2 && set.items[1].age == 1);
    assert_int_equal(set.n_no_file, 1);
    data_set_close(&set);

    put_picture("flat/c.png"); /* has no label */
    check_fails(ctx, data_set_open(&set, ctx, in_folder("flat"), &ages, 0), AG_EDATA,
                "flat: 1 of 3 pictures have no age that is a whole number: c.png (none)");
    put_text("flat/c.png", "P2 1 1 255"); /* and is cut */
    check_fails(ctx, data_set_open(&set, ctx, in_folder("flat"), NULL, DATA_CHECK_PIXELS), AG_EDATA,
                "flat/c.png");
    put_text("flat/c.png", "hello");
    check_fails(ctx, data_set_open(&set, ctx, in_folder("flat"), NULL, DATA_CHECK_HEADERS),
                AG_EDATA, "flat/c.png");
    check_ok(ctx, data_set_open(&set, ctx, in_folder("flat"), NULL, DATA_CHECK_NAMES));
    assert_true(set.n == 3 && set.items[2].age == -1);
    data_set_close(&set);
    data_ages_close(&ages);
    ag_ctx_free(ctx);
}

/* Every picture that lacks an age or has one that cannot be read, in one line. */
static void test_offenders(void **state)
{
    static const char *const cells[] = {"a.png", "1", "b.png", "old", "c.png", "", "d.png", "3.5", "gone.png", "x"};
    ag_ctx *ctx = check_context();
    data_ages ages = {0};
    data_set set = {0};

    (void)state;
    assert_int_equal(mkdir(in_folder("offenders"), 0777), 0);
    for (char name[] = "offenders/a.png"; name[10] <= 'h'; name[10]++)
        put_picture(name);
    check_ok(ctx, data_npy_write_text2(ctx, in_folder("offenders.npy"), cells, 5, 21));
    check_ok(ctx, data_ages_open(&ages, ctx, in_folder("offenders.npy")));
    check_fails(ctx, data_set_open(&set, ctx, in_folder("offenders"), &ages, 0), AG_EDATA,
                "offenders: 7 of 8 pictures have no age that is a whole number: b.png (\"old\"), c.png (\"\"), "
                "d.png (\"3.5\"), e.png (none), f.png (none), g.png (none), h.png (none)");
    data_ages_close(&ages);
    ag_ctx_free(ctx);
}

/* What does not fit is counted, and what is there is whole. */
static void test_many_offenders(void **state)
{
    data_offenders list = {0};
    const char *text, *end;

    (void)state;
    for (int i = 0; i < 3000; i++)
        data_offenders_add(&list, "a-name-of-twenty.png", "x");
    text = data_offenders_end(&list);
    end = strstr(text, " and ");
    assert_non_null(end);
    assert_int_equal(list.n, 3000);
    assert_int_equal(atoi(end + 5), 3000 - list.n_named);
    assert_int_equal(end - text, 28 * list.n_named - 2); /* with ", " between */
    assert_true(strlen(text) < sizeof list.text);
}

/* Folders that say how often: ages by name in all of them, other folders passed over. */
static void test_repeats(void **state)
{
    ag_ctx *ctx = check_context();
    data_ages ages = {0};
    data_set set = {0};

    (void)state;
    assert_int_equal(mkdir(in_folder("kohya"), 0777), 0);
    assert_int_equal(mkdir(in_folder("kohya/10_sks person"), 0777), 0);
    assert_int_equal(mkdir(in_folder("kohya/1_person"), 0777), 0);
    assert_int_equal(mkdir(in_folder("kohya/0_none"), 0777), 0);
    assert_int_equal(mkdir(in_folder("kohya/_1"), 0777), 0);
    assert_int_equal(mkdir(in_folder("kohya/1234567_x"), 0777), 0);
    put_picture("kohya/10_sks person/34_a.png");
    put_picture("kohya/1_person/20_b.png");
    put_picture("kohya/1_person/7.png");
    put_picture("kohya/0_none/1_c.png");
    put_picture("kohya/_1/1_c.png");
    put_picture("kohya/1234567_x/1_c.png");
    check_ok(ctx, data_ages_from_names(&ages, ctx, in_folder("kohya")));
    check_ok(ctx, data_set_open(&set, ctx, in_folder("kohya"), &ages, DATA_CHECK_PIXELS));
    assert_int_equal(set.n, 3);
    assert_string_equal(set.items[0].name, "34_a.png");
    assert_true(set.items[0].repeats == 10 && set.items[1].repeats == 1 && set.items[2].repeats == 1);
    assert_true(set.items[0].age == 34 && set.items[1].age == 20 && set.items[2].age == 7);
    data_set_close(&set);
    data_ages_close(&ages);
    put_picture("kohya/own.png"); /* pictures of its own: then it is a plain folder */
    check_ok(ctx, data_set_open(&set, ctx, in_folder("kohya"), NULL, DATA_CHECK_PIXELS));
    assert_true(set.n == 1 && set.items[0].repeats == 1);
    data_set_close(&set);
    ag_ctx_free(ctx);
}

static void test_captions(void **state)
{
    ag_ctx *ctx = check_context();
    data_set set = {0};
    int64_t n_without = -1;

    (void)state;
    assert_int_equal(mkdir(in_folder("said"), 0777), 0);
    put_picture("said/a.b.png");
    put_picture("said/c.png");
    put_picture("said/d.png");
    check_ok(ctx, data_set_open(&set, ctx, in_folder("said"), NULL, 0));
    check_fails(ctx, data_set_read_captions(&set, ctx, ".txt", &n_without), AG_EDATA,
                "said/a.b.png: no caption beside this picture or any other");
    put_text("said/a.b.txt", "\r\n  a man,\nold \t\n");
    put_text("said/c.txt", "");
    check_ok(ctx, data_set_read_captions(&set, ctx, ".txt", &n_without));
    assert_int_equal(n_without, 1);
    assert_string_equal(set.items[0].caption, "a man, old");
    assert_string_equal(set.items[1].caption, "");
    assert_null(set.items[2].caption);
    put_text("said/d.caption", "gr\xc3\xb6\xc3\x9f" "er");
    check_ok(ctx, data_set_read_captions(&set, ctx, "caption", &n_without)); /* others keep what they have */
    assert_string_equal(set.items[2].caption, "gr\xc3\xb6\xc3\x9f" "er");
    assert_string_equal(set.items[0].caption, "a man, old");
    put_text("said/d.txt", "abc\xff");
    check_fails(ctx, data_set_read_captions(&set, ctx, "txt", &n_without), AG_EDATA,
                "said/d.txt: wanted a caption in UTF-8, byte 3");
    data_set_close(&set);
    ag_ctx_free(ctx);
}

static void test_masks(void **state)
{
    ag_ctx *ctx = check_context();
    data_set set = {0};
    int64_t n_without = -1;

    (void)state;
    assert_int_equal(mkdir(in_folder("faces"), 0777), 0);
    assert_int_equal(mkdir(in_folder("masks"), 0777), 0);
    put_picture("faces/a.jpg");
    put_picture("faces/ab.png");
    put_picture("faces/b.png");
    check_ok(ctx, data_set_open(&set, ctx, in_folder("faces"), NULL, 0));
    check_fails(ctx, data_set_find_masks(&set, ctx, in_folder("nowhere"), 0, &n_without), AG_EIO, "nowhere");
    check_fails(ctx, data_set_find_masks(&set, ctx, in_folder("masks"), 0, &n_without), AG_EDATA,
                "masks: no mask for any picture");
    put_picture("masks/a.webp");
    put_picture("masks/a.png");
    put_picture("masks/ab.png");
    put_text("masks/b.txt", "x");
    check_ok(ctx, data_set_find_masks(&set, ctx, in_folder("masks"), 0, &n_without));
    assert_int_equal(n_without, 1);
    assert_string_equal(set.items[0].mask, in_folder("masks/a.png")); /* the first by its bytes */
    assert_string_equal(set.items[1].mask, in_folder("masks/ab.png"));
    assert_null(set.items[2].mask);
    put_text("masks/ab.png", "P2 4 1 255 0 0 0 0");
    check_fails(ctx, data_set_find_masks(&set, ctx, in_folder("masks"), 0, &n_without), AG_EDATA,
                "masks/ab.png: a mask of 4 x 1 for a picture of 1 x 1");
    data_set_close(&set);
    ag_ctx_free(ctx);
}

static void test_stats(void **state)
{
    static const float ages[] = {0, 2, 3, 35, 120, 121, -1};
    ag_ctx *ctx = check_context();
    data_age_stats stats = {0};
    char *text = data_age_stats_text(ctx, &stats);

    (void)state;
    assert_string_equal(text, "no picture has an age");
    ag_delete(text);
    for (size_t i = 0; i < sizeof ages / sizeof *ages; i++)
        data_age_stats_add(&stats, ages[i], i < 2 ? 'f' : i == 2 ? 'm' : 0);
    text = data_age_stats_text(ctx, &stats);
    assert_string_equal(text, "7 pictures, ages -1 to 121, mean 40.0 (0-2: 3, 3-6: 1, 7-9: 0, 10-14: 0, 15-19: 0, "
                              "20-29: 0, 30-39: 1, 40-49: 0, 50-69: 0, 70-120: 2), 2 female, 1 male");
    ag_delete(text);
    for (int age = 0; age <= 120; age++) { /* the group whose bounds hold the age */
        int from, to;
        assert_int_equal(sscanf(data_age_group_name(data_age_group((float)age)), "%d-%d", &from, &to), 2);
        assert_true(from <= age && age <= to);
    }
    ag_ctx_free(ctx);
}

static void test_set_of_thousands(void **state)
{
    ag_ctx *ctx = check_context();
    data_ages ages = {0};
    data_set set = {0};

    (void)state;
    assert_int_equal(mkdir(in_folder("ffhq"), 0777), 0);
    assert_int_equal(mkdir(in_folder("ffhq/00000"), 0777), 0);
    assert_int_equal(mkdir(in_folder("ffhq/00000/parsings"), 0777), 0);
    assert_int_equal(mkdir(in_folder("ffhq/69000"), 0777), 0);
    assert_int_equal(mkdir(in_folder("ffhq/other"), 0777), 0);
    put_text("ffhq/LICENSE.txt", "x");
    put_picture("ffhq/69000/69001.png");
    put_picture("ffhq/00000/00007.png");
    put_picture("ffhq/00000/00003.png");
    put_picture("ffhq/00000/parsings/00003.png");
    put_picture("ffhq/other/00009.png");
    put_text("ffhq.csv", "image_number,age_group\n3,20-29\n69001,30-39\n8,30-39\n");
    check_ok(ctx, data_ages_open(&ages, ctx, in_folder("ffhq.csv")));
    check_ok(ctx, data_set_open(&set, ctx, in_folder("ffhq"), &ages, DATA_CHECK_HEADERS));
    assert_int_equal(set.n, 2); /* 7 has no label and is left out */
    assert_string_equal(set.items[0].path, in_folder("ffhq/00000/00003.png"));
    assert_string_equal(set.items[1].name, "69001.png");
    assert_true(set.items[0].age == 25 && set.items[1].age == 35);
    assert_int_equal(set.n_no_file, 1);
    data_set_close(&set);
    check_ok(ctx, data_set_open(&set, ctx, in_folder("ffhq"), NULL, DATA_CHECK_NAMES));
    assert_int_equal(set.n, 3);
    data_set_close(&set);
    data_ages_close(&ages);
    ag_ctx_free(ctx);
}

/* Every allocation refused once, along the whole way. */
static void test_no_memory(void **state)
{
    ag_ctx *ctx = check_context();
    int n_refused = 0;

    (void)state;
    for (;; n_refused++) {
        data_ages ages = {0};
        data_set set = {0};
        ag_status status;

        ag_refuse_allocation(ctx, n_refused, false);
        status = data_ages_open(&ages, ctx, in_folder("ffhq.csv"));
        if (status == AG_OK)
            status = data_set_open(&set, ctx, in_folder("ffhq"), &ages, DATA_CHECK_PIXELS);
        ag_refuse_allocation(ctx, -1, false);
        data_ages_close(&ages);
        data_set_close(&set);
        if (status == AG_OK)
            break;
        assert_int_equal(status, AG_ENOMEM);
        ag_clear(ctx);
    }
    assert_true(n_refused > 15);
    ag_ctx_free(ctx);
}

static void test_photos(void **state)
{
    ag_ctx *ctx = check_context();
    data_ages ages = {0};
    data_set set = {0};

    (void)state;
    if (access(PHOTOS "training_ages.npy", R_OK) != 0) {
        printf("SKIP test_ages: photos: no " PHOTOS "\n");
        ag_ctx_free(ctx);
        return;
    }
    check_ok(ctx, data_ages_open(&ages, ctx, PHOTOS "training_ages.npy"));
    check_ok(ctx, data_set_open(&set, ctx, PHOTOS "training_images", &ages, DATA_CHECK_HEADERS));
    assert_int_equal(set.n, 10);
    assert_string_equal(set.items[9].name, "00010.jpg");
    data_set_close(&set);
    data_ages_close(&ages);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_npy),       cmocka_unit_test(test_csv),
        cmocka_unit_test(test_groups),    cmocka_unit_test(test_names),
        cmocka_unit_test(test_set),       cmocka_unit_test(test_offenders),
        cmocka_unit_test(test_many_offenders),
        cmocka_unit_test(test_repeats),   cmocka_unit_test(test_captions),
        cmocka_unit_test(test_masks),     cmocka_unit_test(test_stats),
        cmocka_unit_test(test_set_of_thousands),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_photos),
    };

    return cmocka_run_group_tests_name("ages", tests, set_up, tear_down);
}
