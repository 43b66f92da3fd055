/* test_image.c - pictures from files: equal to Pillow's pixels, and every damaged file refused.
 *
 * The pictures and the CRCs of Pillow's pixels are in tests/golden/images
 * (scripts/golden_images.py).
 */
#include "tests/image_check.h"

#include "data/exif.h"
#include "data/resample.h"

static void reads_golden(ag_ctx *ctx, const char *rest)
{
    data_image img = {0};
    data_image_format format;
    char name[64], path[128];
    long w, h, w_upright;
    unsigned crc, crc_upright;
    int64_t got_w, got_h;

    assert_int_equal(
        sscanf(rest, "%63s %ld %ld %x %ld %x", name, &w, &h, &crc, &w_upright, &crc_upright), 6);
    snprintf(path, sizeof path, GOLDEN_IMAGES "%s", name);
    check_ok(ctx, data_image_read(&img, ctx, path, DATA_IGNORE_EXIF));
    if (img.w != w || img.h != h || check_image_crc(&img) != crc)
        fail_msg("%s: pixels are not Pillow's (%lld x %lld, want %ld x %ld)", name,
                 (long long)img.w, (long long)img.h, w, h);
    data_image_free(&img);
    check_ok(ctx, data_image_read(&img, ctx, path, 0));
    if (img.w != w_upright || check_image_crc(&img) != crc_upright)
        fail_msg("%s: upright pixels are not Pillow's", name);
    data_image_free(&img);

    check_ok(ctx, data_image_probe(&format, &got_w, &got_h, ctx, path));
    assert_int_equal(got_w, w);
    assert_int_equal(got_h, h);
    assert_int_not_equal(format, DATA_IMAGE_UNKNOWN);
    check_ok(ctx, data_image_size(&got_w, &got_h, ctx, path, DATA_IGNORE_EXIF));
    assert_true(got_w == w && got_h == h);
    check_ok(ctx, data_image_size(&got_w, &got_h, ctx, path, 0));
    assert_true(got_w == w_upright && got_h == (w_upright == w ? h : w));
}

static void test_read_goldens(void **state)
{
    (void)state;
    assert_true(check_index("read", reads_golden) > 100);
}

static void alpha_golden(ag_ctx *ctx, const char *rest)
{
    data_image img = {0};
    char name[64], path[128];
    unsigned crc;

    assert_int_equal(sscanf(rest, "%63s %x", name, &crc), 2);
    snprintf(path, sizeof path, GOLDEN_IMAGES "%s", name);
    check_ok(ctx, data_image_read(&img, ctx, path, DATA_ALPHA | DATA_IGNORE_EXIF));
    if (check_image_crc(&img) != crc)
        fail_msg("%s: not Pillow's alpha", name);
    data_image_free(&img);
}

/* PNG and WebP; where there is no alpha channel all is white, and other formats refuse theirs. */
static void test_alpha(void **state)
{
    ag_ctx *ctx = check_context();
    data_image img = {0};

    (void)state;
    assert_true(check_index("alpha", alpha_golden) > 30);
    check_ok(ctx, data_image_read(&img, ctx, GOLDEN_IMAGES "jpeg_0.jpg", DATA_ALPHA));
    for (int64_t i = 0; i < 3 * img.w * img.h; i++)
        assert_int_equal(img.pixels[i], 255);
    data_image_free(&img);
    check_fails(ctx, data_image_read(&img, ctx, GOLDEN_IMAGES "tiff_unassoc.tif", DATA_ALPHA), AG_EUNSUPPORTED,
                "the alpha channel of a TIFF");
    check_fails(ctx, data_image_size(&img.w, &img.h, ctx, GOLDEN_IMAGES "nothing.png", 0), AG_EIO, "nothing.png");
    ag_ctx_free(ctx);
}

static void reads_photo(ag_ctx *ctx, const char *rest)
{
    data_image img = {0};
    char name[64], path[128];
    unsigned crc, crc_train, crc_edit;

    assert_int_equal(sscanf(rest, "%63s %x %x %x", name, &crc, &crc_train, &crc_edit), 4);
    snprintf(path, sizeof path, PHOTOS "training_images/%s", name);
    check_ok(ctx, data_image_read(&img, ctx, path, 0));
    assert_int_equal(check_image_crc(&img), crc);
    data_image_free(&img);
    check_ok(ctx, data_image_load_training(&img, ctx, path, (data_size){512, 512}, NULL, false, 0));
    assert_int_equal(check_image_crc(&img), crc_train);
    data_image_free(&img);
    check_ok(ctx, data_image_load_editing(&img, ctx, path, 512, 0));
    assert_int_equal(check_image_crc(&img), crc_edit);
    data_image_free(&img);
}

static void test_read_photos(void **state)
{
    (void)state;
    if (access(PHOTOS "training_images", R_OK) != 0) {
        printf("SKIP test_image: photos: no " PHOTOS "\n");
        return;
    }
    assert_int_equal(check_index("photo", reads_photo), 10);
}

/* Cut anywhere, a file is an error or (when only padding or trailing data went) the same picture.
 * Of an ASCII picture the last digits can go unseen. */
static void test_truncated(void **state)
{
    static const char *const names[] = {"png2_8.png",
                                        "png3_4t.png",
                                        "png6_16i.png",
                                        "jpeg_2.jpg",
                                        "jpeg_1p.jpg",
                                        "jpeg_cmyk.jpg",
                                        "webp_lossy.webp",
                                        "webp_alpha_lossless.webp",
                                        "tiff_RGB.tif",
                                        "tiff_lzw.tif",
                                        "tiff_jpeg_ycbcr.tif",
                                        "tiff_tiled.tif",
                                        "p1.pbm",
                                        "p3.ppm",
                                        "p6.ppm",
                                        "bmp_RGB.bmp",
                                        "bmp_rle8.bmp",
                                        "bmp_p4.bmp"};
    ag_ctx *ctx = check_context();

    (void)state;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char path[128];
        size_t n;
        uint8_t *bytes;
        data_image whole = {0};

        snprintf(path, sizeof path, GOLDEN_IMAGES "%s", names[k]);
        bytes = check_load(&n, path);
        check_ok(ctx, data_image_decode(&whole, ctx, bytes, n, path, 0));
        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *part = malloc(cut + !cut); /* of its own size, for the address sanitizer */
            data_image img = {0};
            ag_status status;

            memcpy(part, bytes, cut);
            status = data_image_decode(&img, ctx, part, cut, path, 0);
            if (status == AG_OK) {
                if (strcmp(names[k], "p3.ppm") &&
                    (img.w != whole.w || img.h != whole.h ||
                     check_image_crc(&img) != check_image_crc(&whole)))
                    fail_msg("%s: cut to %zu of %zu bytes it is another picture", path, cut, n);
                if (n - cut > 4)
                    fail_msg("%s: cut to %zu of %zu bytes it is still read", path, cut, n);
                data_image_free(&img);
            } else {
                check_fails(ctx, status, AG_EDATA, path);
            }
            free(part);
        }
        data_image_free(&whole);
        free(bytes);
    }
    ag_ctx_free(ctx);
}

/* One flipped bit in the compressed data of a PNG is seen by its checksum. */
static void test_garbled(void **state)
{
    ag_ctx *ctx = check_context();
    data_image img = {0};
    size_t n;
    uint8_t *bytes = check_load(&n, GOLDEN_IMAGES "png2_8.png");

    (void)state;
    for (size_t at = 33; at + 12 < n; at += 7) {
        bytes[at] ^= 0x10;
        check_fails(ctx, data_image_decode(&img, ctx, bytes, n, "x.png", 0), AG_EDATA,
                    "x.png: damaged PNG");
        bytes[at] ^= 0x10;
    }
    free(bytes);
    ag_ctx_free(ctx);
}

static void test_refusals(void **state)
{
    static const uint8_t huge_png[33] =
        "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x40\1\0\0\0\1\x8\2\0\0\0\0\0\0";
    ag_ctx *ctx = check_context();
    data_image img = {0};

    (void)state;
    check_fails(ctx, data_image_read(&img, ctx, "no/such.png", 0), AG_EIO,
                "no/such.png: No such file");
    check_fails(ctx, data_image_read(&img, ctx, "tests", 0), AG_EIO, "a folder");
    check_fails(ctx, data_image_probe(NULL, NULL, NULL, ctx, "no/such.png"), AG_EIO,
                "No such file");
    check_fails(ctx, data_image_probe(NULL, NULL, NULL, ctx, "tests"), AG_EIO, "a folder");
    check_fails(ctx, data_image_read(&img, ctx, "tests/test_image.c", 0), AG_EDATA,
                "not a picture");
    check_fails(ctx, data_image_decode(&img, ctx, "", 0, "empty.png", 0), AG_EDATA,
                "empty.png: empty file");
    check_fails(ctx, data_image_decode(&img, ctx, huge_png, sizeof huge_png, "huge.png", 0),
                AG_EDATA, "huge.png");
    check_fails(ctx, data_image_decode(&img, ctx, "P6 20000 20000 255 ", 19, "p", 0), AG_EDATA,
                "p: 20000 x 20000 pixels, at most 16384 x 16384");
    check_fails(ctx, data_image_decode(&img, ctx, "P6 0 4 255 ", 11, "p", 0), AG_EDATA,
                "p: a picture of 0 x 4");
    check_fails(ctx, data_image_decode(&img, ctx, "P5 1 1 70000 a", 14, "p", 0), AG_EDATA,
                "maximum value 70000");
    check_fails(ctx, data_image_decode(&img, ctx, "P2 1 1 255 256", 14, "p", 0), AG_EDATA,
                "above its maximum 255");
    check_fails(ctx, data_image_decode(&img, ctx, "P3 1 1 255 1 x 3", 16, "p", 0), AG_EDATA,
                "byte 13");
    assert_null(img.pixels);
    ag_ctx_free(ctx);
}

/* Refuse every allocation once: an error each time, nothing leaked (the sanitizer looks). */
static void test_no_memory(void **state)
{
    static const char *const names[] = {"png3_4.png",      "png0_16.png",    "jpeg_cmyk.jpg",
                                        "webp_exif6.webp", "tiff_tiled.tif", "tiff_planar.tif",
                                        "bmp_p4.bmp",      "p3.ppm"};
    ag_ctx *ctx = check_context();

    (void)state;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        char path[128];
        data_image img = {0};
        int n_refused = 0;

        snprintf(path, sizeof path, GOLDEN_IMAGES "%s", names[k]);
        for (;; n_refused++) {
            ag_status status;

            ag_refuse_allocation(ctx, n_refused, false);
            status = data_image_load_training(&img, ctx, path, (data_size){8, 8}, NULL, true, 0);
            ag_refuse_allocation(ctx, -1, false);
            if (status == AG_OK)
                break;
            assert_int_equal(status, AG_ENOMEM);
            ag_clear(ctx);
        }
        assert_true(n_refused >= 3);
        data_image_free(&img);
    }
    ag_ctx_free(ctx);
}

static void test_write_png(void **state)
{
    ag_ctx *ctx = check_context();
    data_image img = {0}, again = {0};
    uint8_t *bytes = NULL;
    char path[64];
    size_t n = 0;

    (void)state;
    check_ok(ctx, data_image_read(&img, ctx, GOLDEN_IMAGES "jpeg_0.jpg", 0));
    check_ok(ctx, data_image_encode_png(&bytes, &n, ctx, &img));
    check_ok(ctx, data_image_decode(&again, ctx, bytes, n, "memory", 0));
    assert_int_equal(again.w, img.w);
    assert_int_equal(check_image_crc(&again), check_image_crc(&img));
    data_image_free(&again);
    ag_delete(bytes);

    snprintf(path, sizeof path, "/tmp/test_image_%d.png", (int)getpid());
    check_ok(ctx, data_image_write_png(ctx, &img, path));
    check_ok(ctx, data_image_read(&again, ctx, path, 0));
    assert_int_equal(check_image_crc(&again), check_image_crc(&img));
    data_image_free(&again);
    unlink(path);
    check_fails(ctx, data_image_write_png(ctx, &img, "/no/such/place.png"), AG_EIO,
                "/no/such/place.png");
    data_image_free(&img);
    ag_ctx_free(ctx);
}

/* EXIF that is damaged, or says nothing, leaves a picture as it is. */
static void test_exif(void **state)
{
    static const uint8_t good[] = "Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0";
    uint8_t spoilt[sizeof good];

    (void)state;
    assert_int_equal(data_exif_orientation(good, sizeof good - 1), 6);
    assert_int_equal(data_exif_orientation(good + 6, sizeof good - 7), 6);
    for (size_t n = 0; n < sizeof good - 1; n++) {
        uint8_t *part = malloc(n + !n);
        memcpy(part, good, n);
        assert_int_equal(data_exif_orientation(part, n), n >= 28 ? 6 : 1);
        free(part);
    }
    memcpy(spoilt, good, sizeof good);
    spoilt[25] = 9;
    assert_int_equal(data_exif_orientation(spoilt, sizeof good - 1), 1);
    spoilt[25] = 6;
    memset(spoilt + 10, 0xff, 4); /* the directory lies outside */
    assert_int_equal(data_exif_orientation(spoilt, sizeof good - 1), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_goldens), cmocka_unit_test(test_alpha),
        cmocka_unit_test(test_read_photos),  cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_garbled),      cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_write_png),
        cmocka_unit_test(test_exif),
    };

    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
