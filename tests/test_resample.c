/* test_resample.c - resizing, cropping, fitting: Pillow's bytes; and the values for networks. */
#include "tests/image_check.h"

#include "autograd/random.h"
#include "data/resample.h"

static void resizes_golden(ag_ctx *ctx, const char *rest)
{
    data_image img = {0}, out = {0};
    data_filter filter;
    char name[64], path[128], kind[16];
    long w, h;
    unsigned crc;

    assert_int_equal(sscanf(rest, "%63s %15s %ld %ld %x", name, kind, &w, &h, &crc), 5);
    snprintf(path, sizeof path, GOLDEN_IMAGES "%s", name);
    check_ok(ctx, data_filter_parse(&filter, ctx, kind));
    check_ok(ctx, data_image_read(&img, ctx, path, 0));
    check_ok(ctx, data_image_resize(&out, ctx, &img, w, h, filter));
    if (out.w != w || out.h != h || check_image_crc(&out) != crc)
        fail_msg("%s to %ld x %ld, %s: not Pillow's pixels", name, w, h, kind);
    data_image_free(&out);
    check_ok(ctx, data_image_resize(&img, ctx, &img, w, h, filter)); /* onto itself */
    assert_int_equal(check_image_crc(&img), crc);
    data_image_free(&img);
}

static void test_resize_goldens(void **state)
{
    (void)state;
    assert_true(check_index("resize", resizes_golden) > 100);
}

static void loads_golden(ag_ctx *ctx, const char *rest, bool training)
{
    data_image img = {0};
    char name[64], path[128];
    long R;
    unsigned crc;

    assert_int_equal(sscanf(rest, "%63s %ld %x", name, &R, &crc), 3);
    snprintf(path, sizeof path, GOLDEN_IMAGES "%s", name);
    if (training)
        check_ok(ctx, data_image_load_training(&img, ctx, path, (data_size){R, R}, NULL, false, 0));
    else
        check_ok(ctx, data_image_load_editing(&img, ctx, path, R, 0));
    if (img.w != R || img.h != R || check_image_crc(&img) != crc)
        fail_msg("%s to %ld for %s: not Pillow's pixels", name, R,
                 training ? "training" : "editing");
    data_image_free(&img);
}

static void covers_golden(ag_ctx *ctx, const char *rest)
{
    data_image img = {0};
    data_size box;
    char name[64], path[128];
    long w, h;
    unsigned crc;

    assert_int_equal(sscanf(rest, "%63s %ld %ld %x", name, &w, &h, &crc), 4);
    snprintf(path, sizeof path, GOLDEN_IMAGES "%s", name);
    box = (data_size){w, h};
    check_ok(ctx, data_image_load_training(&img, ctx, path, box, NULL, false, 0));
    if (img.w != w || img.h != h || check_image_crc(&img) != crc)
        fail_msg("%s to %ld x %ld: not Pillow's pixels", name, w, h);
    data_image_free(&img);
}

static void trains_golden(ag_ctx *ctx, const char *rest)
{
    loads_golden(ctx, rest, true);
}

static void edits_golden(ag_ctx *ctx, const char *rest)
{
    loads_golden(ctx, rest, false);
}

static void test_load_goldens(void **state)
{
    (void)state;
    assert_true(check_index("train", trains_golden) > 20);
    assert_true(check_index("edit", edits_golden) > 20);
    assert_true(check_index("cover", covers_golden) >= 20);
}

/* A picture whose pixel (x, y) is (x, y, 7). */
static void make_ramp(data_image *img, ag_ctx *ctx, int64_t w, int64_t h)
{
    check_ok(ctx, data_image_new(img, ctx, w, h));
    for (int64_t i = 0; i < w * h; i++) {
        img->pixels[3 * i] = (uint8_t)(i % w);
        img->pixels[3 * i + 1] = (uint8_t)(i / w);
        img->pixels[3 * i + 2] = 7;
    }
}

static void test_crop_and_flip(void **state)
{
    ag_ctx *ctx = check_context();
    data_image img = {0}, out = {0};

    (void)state;
    make_ramp(&img, ctx, 9, 6);
    check_ok(ctx, data_image_crop(&out, ctx, &img, 2, 1, 5, 4));
    assert_int_equal(out.pixels[0], 2);
    assert_int_equal(out.pixels[1], 1);
    assert_int_equal(out.pixels[3 * (5 * 4 - 1)], 6);
    assert_int_equal(out.pixels[3 * (5 * 4 - 1) + 1], 4);
    data_image_flip(&out);
    assert_int_equal(out.pixels[0], 6);
    assert_int_equal(out.pixels[2], 7);
    assert_int_equal(out.pixels[3 * 4], 2);
    data_image_free(&out);
    check_fails(ctx, data_image_crop(&out, ctx, &img, 5, 0, 5, 6), AG_EINVAL,
                "crop of 5 x 6 at (5, 0)");
    check_fails(ctx, data_image_crop(&out, ctx, &img, -1, 0, 5, 6), AG_EINVAL, "at (-1, 0)");
    check_fails(ctx, data_image_resize(&out, ctx, &img, 0, 6, DATA_BILINEAR), AG_EINVAL, "0 x 6");
    check_fails(ctx, data_image_resize(&out, ctx, &img, 1 << 20, 6, DATA_BILINEAR), AG_EINVAL,
                "at most");
    data_image_free(&img);
    ag_ctx_free(ctx);
}

/* Offsets of the centre are rounded half to even: 0.5, 1.5, 2.5, 3.5 -> 0, 2, 2, 4. */
static void test_fit_offsets(void **state)
{
    static const int want[] = {0, 0, 1, 2, 2, 2, 3, 4, 4};
    const data_size box = {8, 8};
    ag_ctx *ctx = check_context();

    (void)state;
    for (int extra = 0; extra < 9; extra++) {
        data_image img = {0}, out = {0};

        make_ramp(&img, ctx, 8 + extra, 8);
        check_ok(ctx, data_image_cover(&out, ctx, &img, box, DATA_BILINEAR, NULL));
        assert_int_equal(out.w, 8);
        assert_int_equal(out.pixels[0], want[extra]);
        data_image_free(&out);
        check_ok(ctx, data_image_cover(&out, ctx, &img, box, DATA_BILINEAR, (int64_t[]){0, extra}));
        assert_int_equal(out.pixels[0], extra);
        data_image_free(&out);
        check_fails(ctx,
                    data_image_cover(&out, ctx, &img, box, DATA_BILINEAR, (int64_t[]){0, extra + 1}),
                    AG_EINVAL, "crop");
        data_image_free(&img);
    }
    ag_ctx_free(ctx);
}

static void covers(int64_t w, int64_t h, int64_t box_w, int64_t box_h, int64_t want_w, int64_t want_h)
{
    const data_size got = data_cover_size((data_size){w, h}, (data_size){box_w, box_h});

    if (got.w != want_w || got.h != want_h)
        fail_msg("%d x %d over %d x %d: %d x %d", (int)w, (int)h, (int)box_w, (int)box_h, (int)got.w, (int)got.h);
}

static void test_cover_size(void **state)
{
    const ag_draw draw = {.seed = 5, .purpose = AG_DRAW_TEST};

    (void)state;
    covers(1024, 1024, 512, 512, 512, 512);
    covers(640, 427, 512, 512, 767, 512); /* 512 * 640 / 427 = 767.4 */
    covers(427, 640, 512, 512, 512, 767);
    covers(3, 7, 3, 3, 3, 7);
    covers(640, 480, 576, 448, 597, 448); /* 448 * 640 / 480 = 597.3 */
    covers(640, 480, 640, 384, 640, 480);
    for (uint64_t i = 0; i < 80000; i += 4) { /* no box is larger than what covers it, and one side fits */
        const data_size p = {1 + ag_draw_integer(&draw, i, 16384), 1 + ag_draw_integer(&draw, i + 1, 16384)};
        const data_size box = {1 + ag_draw_integer(&draw, i + 2, 2048), 1 + ag_draw_integer(&draw, i + 3, 2048)};
        const data_size s = data_cover_size(p, box);
        assert_true(s.w >= box.w && s.h >= box.h && (s.w == box.w || s.h == box.h));
    }
}

static void compares_floats(ag_ctx *ctx, const char *rest)
{
    data_image img = {0}, again = {0};
    float values[256 * 3], first[256];
    unsigned crc;

    assert_int_equal(sscanf(rest, "%x", &crc), 1);
    check_ok(ctx, data_image_new(&img, ctx, 256, 1));
    for (int i = 0; i < 256; i++)
        memset(img.pixels + 3 * i, i, 3);
    data_image_to_f32(values, &img);
    for (int i = 0; i < 256; i++)
        first[i] = values[3 * i];
    assert_int_equal(check_crc(first, sizeof first), crc);
    check_ok(ctx, data_image_from_f32(&again, ctx, values, 256, 1, false)); /* and back */
    assert_memory_equal(again.pixels, img.pixels, 256 * 3);
    data_image_free(&again);
    data_image_free(&img);
}

static void test_floats(void **state)
{
    static const float odd[12] = {-3.0f,  7.0f,    0.0f / 1.0f, 0.5f, -1.0f, 1.0f,
                                  0.999f, -0.999f, 0.1f,        0,    0,     0};
    ag_ctx *ctx = check_context();
    data_image img = {0};
    float nan_too[12];

    (void)state;
    assert_int_equal(check_index("float", compares_floats), 1);
    memcpy(nan_too, odd, sizeof odd);
    nan_too[11] = __builtin_nanf("");
    check_ok(ctx, data_image_from_f32(&img, ctx, nan_too, 2, 2, true));
    assert_int_equal(img.pixels[0], 0);
    assert_int_equal(img.pixels[1], 255);
    assert_int_equal(img.pixels[2], 127); /* 127.5 is cut off, */
    assert_int_equal(img.pixels[11], 0);
    data_image_free(&img);
    check_ok(ctx, data_image_from_f32(&img, ctx, nan_too, 2, 2, false));
    assert_int_equal(img.pixels[2], 128); /* or rounded to even */
    data_image_free(&img);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resize_goldens), cmocka_unit_test(test_load_goldens),
        cmocka_unit_test(test_crop_and_flip),  cmocka_unit_test(test_fit_offsets),
        cmocka_unit_test(test_cover_size),     cmocka_unit_test(test_floats),
    };

    return cmocka_run_group_tests_name("resample", tests, NULL, NULL);
}
