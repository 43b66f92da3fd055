/* test_color.c - colours changed as torchvision changes them, to the byte
 * (scripts/golden_images.py), and drawn.
 */
#include "tests/image_check.h"

#include <math.h>

#include "data/color.h"

static void changes_golden(ag_ctx *ctx, const char *rest)
{
    static const struct {
        const char *name;
        void (*change)(data_image *img, double factor);
    } changes[] = {{"brightness", data_image_brightness},
                   {"contrast", data_image_contrast},
                   {"saturation", data_image_saturation},
                   {"hue", data_image_hue}};
    data_image img = {0};
    char name[64], path[128], what[16];
    double factor;
    unsigned crc;
    bool known = false;

    assert_int_equal(sscanf(rest, "%63s %15s %lf %x", name, what, &factor, &crc), 4);
    snprintf(path, sizeof path, GOLDEN_IMAGES "%s", name);
    check_ok(ctx, data_image_read(&img, ctx, path, 0));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        if (!strcmp(what, changes[i].name)) {
            changes[i].change(&img, factor);
            known = true;
        }
    assert_true(known);
    if (check_image_crc(&img) != crc)
        fail_msg("%s %g: not torchvision's pixels", what, factor);
    data_image_free(&img);
}

static void test_goldens(void **state)
{
    (void)state;
    assert_int_equal(check_index("color", changes_golden), 23);
}

static void parses(const char *text, double b, double c, double s, double h)
{
    ag_ctx *ctx = check_context();
    data_jitter j = {9, 9, 9, 9};

    check_ok(ctx, data_jitter_parse(&j, ctx, text));
    assert_true(j.brightness == b && j.contrast == c && j.saturation == s && j.hue == h);
    ag_ctx_free(ctx);
}

static void test_parse(void **state)
{
    static const char *const wrong[] = {
        ",", "0.1,", "0.1,,0.2", "-0.1",    "0.1;0.2", "x", "0.1,0.2,0.3,0.4,0.5",
        "nan", "0.1 0.2", "1e9"};
    ag_ctx *ctx = check_context();
    data_jitter j;

    (void)state;
    parses(NULL, 0, 0, 0, 0);
    parses("", 0, 0, 0, 0);
    parses("0.25", 0.25, 0, 0, 0);
    parses("0.5,0,1.5,0.5", 0.5, 0, 1.5, 0.5);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        check_fails(ctx, data_jitter_parse(&j, ctx, wrong[i]), AG_EINVAL, "one to four numbers");
    check_fails(ctx, data_jitter_parse(&j, ctx, "0,0,0,0.6"), AG_EINVAL, "hue");
    ag_ctx_free(ctx);
}

/* What a jitter of brightness alone makes of a grey pixel is its factor. */
static double drawn_factor(ag_ctx *ctx, const ag_draw *draw, int64_t copy)
{
    const data_jitter jitter = {.brightness = 0.4};
    data_image img = {0};
    double factor;

    check_ok(ctx, data_image_new(&img, ctx, 1, 1));
    memset(img.pixels, 100, 3);
    data_image_jitter(&img, &jitter, draw, copy);
    factor = img.pixels[0] / 100.0;
    data_image_free(&img);
    return factor;
}

/* Factors fill their range evenly, differ between copies, depend on nothing but the draw. */
static void test_drawn(void **state)
{
    enum { N = 4000 };
    const data_jitter all = {0.4, 0.4, 0.4, 0.1}, none = {0};
    ag_ctx *ctx = check_context();
    double sum = 0.0, least = 9.0, most = 0.0;
    data_image a = {0}, b = {0};

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        const ag_draw draw = {
            .seed = 1, .purpose = AG_DRAW_COLOR, .step = i / 100, .sample = i % 100};
        const double f = drawn_factor(ctx, &draw, 2);
        sum += f;
        least = f < least ? f : least;
        most = f > most ? f : most;
    }
    assert_true(fabs(sum / N - 1.0) < 0.02);
    assert_true(least < 0.62 && least >= 0.59 && most > 1.38 && most <= 1.4);

    check_ok(ctx, data_image_read(&a, ctx, GOLDEN_IMAGES "colours.png", 0));
    check_ok(ctx, data_image_read(&b, ctx, GOLDEN_IMAGES "colours.png", 0));
    data_image_jitter(&a, &none, &(ag_draw){.seed = 1}, 0);
    assert_int_equal(check_image_crc(&a), check_image_crc(&b));
    data_image_jitter(&a, &all, &(ag_draw){.seed = 1}, 0);
    data_image_jitter(&b, &all, &(ag_draw){.seed = 1}, 0);
    assert_int_equal(check_image_crc(&a), check_image_crc(&b));
    data_image_jitter(&a, &all, &(ag_draw){.seed = 1}, 1);
    data_image_jitter(&b, &all, &(ag_draw){.seed = 1}, 2);
    assert_int_not_equal(check_image_crc(&a), check_image_crc(&b));
    data_image_free(&a);
    data_image_free(&b);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_drawn),
    };

    return cmocka_run_group_tests_name("color", tests, NULL, NULL);
}
