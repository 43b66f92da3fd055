/* test_latents.c - what a picture becomes before a network sees it: crops, flips, colours, masks and their kept
 * entries; and what a prompt becomes. Against the steps one by one.
 */
#include "tests/malloc_check.h"
#include "tests/train_check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/file.h"
#include "data/tokenizer.h"
#include "pipeline/pipeline.h"
#include "train/latents.h"
#include "train/prompts.h"

enum { N = 4, FACTOR = 2, CHANNELS = 4 };

static char root[256];
static pipe_model *model;
static data_set set;

/* Shapes of the pictures, and of the boxes they go into. */
static const data_size SIZES[N] = {{24, 16}, {16, 24}, {40, 40}, {31, 17}};
static const data_size BOXES[N] = {{24, 16}, {12, 20}, {16, 16}, {24, 12}};

static ag_ctx *one_thread(void)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});

    assert_non_null(ctx);
    check_ok(ctx, "a new context");
    return ctx;
}

/* Noise, so that no two pixels, crops or masks are alike. */
static void make_picture(ag_ctx *ctx, const char *path, data_size size, uint64_t seed)
{
    data_image img = {0};

    assert_int_equal(data_image_new(&img, ctx, size.w, size.h), AG_OK);
    for (int64_t i = 0; i < 3 * size.w * size.h; i++)
        img.pixels[i] = (uint8_t)check_uniform(&seed, 0, 256);
    data_image_write_png(ctx, &img, path);
    check_ok(ctx, "a picture");
    data_image_free(&img);
}

static ag_ctx *shared; /* what the model lives in */

static int set_up(void **state)
{
    const nn_vae_config vae = {.sample_size = 16,
                               .in_channels = 3,
                               .out_channels = 3,
                               .latent_channels = CHANNELS,
                               .n_levels = 2,
                               .block_out_channels = {8, 8},
                               .layers_per_block = 1,
                               .norm_num_groups = 4,
                               .scaling_factor = 0.18215};
    const nn_clip_config text = {.vocab_size = DATA_TOKENIZER_SMALL_SIZE,
                                 .hidden_size = 8,
                                 .intermediate_size = 16,
                                 .num_hidden_layers = 1,
                                 .num_attention_heads = 2,
                                 .max_position_embeddings = 77,
                                 .layer_norm_eps = 1e-5,
                                 .hidden_act = NN_QUICK_GELU};
    data_schedule_config schedule;
    int64_t n_without;

    (void)state;
    check_folder(root);
    shared = one_thread();
    data_schedule_config_default(&schedule);
    pipe_new(&model, shared, NULL, &vae, &text, &schedule, 7);
    data_tokenizer_write_small(shared, root);
    data_tokenizer_open(&model->tokenizer, shared, root);
    data_folder_make(shared, check_join(root, "pictures"));
    data_folder_make(shared, check_join(root, "masks"));
    for (int i = 0; i < N; i++) {
        char name[32];
        snprintf(name, sizeof name, "pictures/%d.png", i);
        make_picture(shared, check_join(root, name), SIZES[i], 1 + (uint64_t)i);
        snprintf(name, sizeof name, "masks/%d.png", i);
        if (i != 2) /* one goes without; one is larger than its picture */
            make_picture(shared, check_join(root, name),
                         (data_size){SIZES[i].w * (i == 1 ? 2 : 1), SIZES[i].h * (i == 1 ? 2 : 1)}, 11 + (uint64_t)i);
    }
    data_set_open(&set, shared, check_join(root, "pictures"), NULL, DATA_CHECK_HEADERS);
    data_set_find_masks(&set, shared, check_join(root, "masks"), 0, &n_without);
    check_ok(shared, "the ground");
    assert_int_equal(n_without, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    data_set_close(&set);
    pipe_close(model);
    ag_ctx_free(shared);
    check_remove(root);
    return 0;
}

static train_latents *latents_of(train_latents_options o)
{
    train_latents *l = NULL;
    bool needs_vae;

    o.boxes = BOXES;
    o.compute = AG_F32;
    o.seed = 5;
    train_latents_new(&l, shared, &o, &set, model->vae);
    check_ok(shared, "latents");
    train_latents_fill(shared, l, NULL, &needs_vae);
    check_ok(shared, "filled");
    assert_int_equal(needs_vae, train_latents_needs_vae(l));
    return l;
}

/* --- posteriors -------------------------------------------------------------------------------------- */

static void same_values(const char *what, const ag_tensor *a, const ag_tensor *b)
{
    assert_true(a && b);
    assert_int_equal(ag_nbytes(a), ag_nbytes(b));
    if (memcmp(ag_data(a), ag_data(b), ag_nbytes(a)) != 0)
        fail_msg("%s: other values", what);
}

/* The posterior of a picture file after the given steps. */
static ag_tensor *posterior_of(int i, const int64_t *offset, bool flip)
{
    const data_size box = BOXES[i];
    float *pixels = calloc((size_t)(box.w * box.h * 3), sizeof *pixels);
    const bool was = ag_record(shared, false);
    data_image img = {0};
    ag_tensor *x, *both;

    assert_non_null(pixels);
    data_image_load_training(&img, shared, set.items[i].path, box, offset, flip, 0);
    check_ok(shared, "a picture");
    data_image_to_f32(pixels, &img);
    x = ag_from_f32(shared, pixels, 4, (int64_t[]){1, box.h, box.w, 3});
    both = nn_vae_encode(shared, model->vae, x, &(nn_vae_options){.compute = AG_F32});
    both = ag_concat(shared, nn_vae_mean(shared, model->vae, both), nn_vae_logvar(shared, model->vae, both), 3);
    ag_record(shared, was);
    data_image_free(&img);
    free(pixels);
    return both;
}

/* Kept or not, in the middle: the posterior of the crop, mirrored where the draw says so. */
static void test_posteriors(void **state)
{
    const ag_scope scope = ag_scope_open(shared);
    const char *folder = check_join(root, "kept");
    train_latents *kept =
        latents_of((train_latents_options){.folder = folder, .center_crop = true, .random_flip = true});
    train_latents *anew = latents_of((train_latents_options){.center_crop = true, .random_flip = true});
    int n_flipped = 0;

    (void)state;
    assert_false(train_latents_needs_vae(kept));
    assert_true(train_latents_needs_vae(anew));
    assert_true(train_latents_kept(kept) == 2 * N && train_latents_kept(anew) == 0);
    assert_int_equal(check_count(folder, ""), 2 * N + 2 * (N - 1)); /* and the masks */
    for (int64_t epoch = 0; epoch < 6; epoch++)
        for (int i = 0; i < N; i++) {
            const data_pick pick = {i, epoch % 3};
            const ag_draw draw = {.seed = 5, .purpose = AG_DRAW_FLIP, .step = (uint32_t)epoch, .sample = (uint32_t)i};
            const bool flip = ag_draw_integer(&draw, (uint64_t)pick.copy, 2) == 1;
            ag_tensor *got = train_latents_moments(shared, kept, &pick, 1, epoch);
            assert_true(ag_dim(got, 1) == BOXES[i].h / FACTOR && ag_dim(got, 2) == BOXES[i].w / FACTOR);
            same_values("kept", got, posterior_of(i, NULL, flip));
            same_values("anew", train_latents_moments(shared, anew, &pick, 1, epoch), got);
            n_flipped += flip;
        }
    check_ok(shared, "posteriors");
    assert_true(n_flipped > 4 && n_flipped < 20);
    train_latents_free(kept);
    train_latents_free(anew);
    ag_scope_close(shared, scope, NULL);
}

/* Random crops are where the draws say, inside, and differ between epochs and copies; a picture that just fits
 * its box is kept. */
static void test_crops(void **state)
{
    const ag_scope scope = ag_scope_open(shared);
    train_latents *l = latents_of((train_latents_options){.folder = check_join(root, "crops")});

    (void)state;
    assert_true(train_latents_needs_vae(l));
    assert_int_equal(train_latents_kept(l), 2); /* 24 x 16 and 40 x 40 into 16 x 16 */
    for (int64_t epoch = 0; epoch < 4; epoch++)
        for (int64_t copy = 0; copy < 2; copy++) {
            const data_pick pick = {3, copy};
            const ag_draw draw = {.seed = 5, .purpose = AG_DRAW_CROP, .step = (uint32_t)epoch, .sample = 3};
            const data_size fit = data_cover_size(SIZES[3], BOXES[3]);
            const int64_t offset[] = {ag_draw_integer(&draw, 2 * (uint64_t)copy, fit.h - BOXES[3].h + 1),
                                      ag_draw_integer(&draw, 2 * (uint64_t)copy + 1, fit.w - BOXES[3].w + 1)};
            same_values("a crop", train_latents_moments(shared, l, &pick, 1, epoch), posterior_of(3, offset, false));
        }
    check_ok(shared, "crops");
    train_latents_free(l);
    ag_scope_close(shared, scope, NULL);
}

/* Colours: nothing is kept, an epoch repeats itself, copies and epochs differ. */
static void test_colours(void **state)
{
    const ag_scope scope = ag_scope_open(shared);
    const char *folder = check_join(root, "colours");
    train_latents *l = latents_of((train_latents_options){
        .folder = folder, .center_crop = true, .jitter = {.brightness = 0.5, .hue = 0.2}});
    const data_pick a = {1, 0}, b = {1, 1};
    ag_tensor *first = train_latents_moments(shared, l, &a, 1, 3), *other;

    (void)state;
    assert_int_equal(train_latents_kept(l), 0);
    assert_int_equal(check_count(folder, ""), N - 1); /* masks do not change with colours */
    same_values("again", train_latents_moments(shared, l, &a, 1, 3), first);
    other = train_latents_moments(shared, l, &b, 1, 3);
    assert_memory_not_equal(ag_data(first), ag_data(other), ag_nbytes(first));
    other = train_latents_moments(shared, l, &a, 1, 4);
    assert_memory_not_equal(ag_data(first), ag_data(other), ag_nbytes(first));
    check_ok(shared, "colours");
    train_latents_free(l);
    ag_scope_close(shared, scope, NULL);
}

/* A picture that EXIF turns is cropped in the shape it is seen in. */
static void test_turned(void **state)
{
    const ag_scope scope = ag_scope_open(shared);
    const data_size box = {8, 8};
    data_item item = {.path = "tests/golden/images/jpeg_exif6.jpg", .name = "jpeg_exif6.jpg"};
    const data_set one = {.n = 1, .items = &item};
    train_latents *l = NULL;
    const train_latents_options o = {.boxes = &box, .compute = AG_F32, .seed = 1};
    const data_pick pick = {0, 0};

    (void)state;
    train_latents_new(&l, shared, &o, &one, model->vae);
    for (int64_t epoch = 0; epoch < 30; epoch++) /* 9 x 17, stored as 17 x 9 */
        assert_non_null(train_latents_moments(shared, l, &pick, 1, epoch));
    check_ok(shared, "turned pictures");
    train_latents_free(l);
    ag_scope_close(shared, scope, NULL);
}

/* What is kept is read without taking memory; what is gone is an error that names its picture. */
static void test_entries(void **state)
{
    const ag_scope scope = ag_scope_open(shared);
    const char *folder = check_join(root, "entries");
    train_latents *l = latents_of((train_latents_options){.folder = folder, .center_crop = true});
    const data_pick picks[] = {{0, 0}, {0, 1}};

    (void)state;
    for (int k = 0; k < 5; k++) {
        const ag_scope inner = ag_scope_open(shared);
        n_calls = 0;
        counting = true;
        train_latents_moments(shared, l, picks, 2, 0);
        train_latents_masks(shared, l, picks, 2, 0);
        counting = false;
        ag_scope_close(shared, inner, NULL);
        check_ok(shared, "a step");
    }
    assert_true(n_calls == 0);
    if (!COUNTS_MALLOC)
        print_message("SKIP counting malloc: the sanitizer owns it\n");
    check_remove(folder);
    assert_null(train_latents_moments(shared, l, picks, 2, 0));
    check_failed_with(shared, AG_EIO, "the posterior of 0.png was here and is gone");
    train_latents_free(l);
    ag_scope_close(shared, scope, NULL);
}

/* --- masks ------------------------------------------------------------------------------------------- */

/* The mask of picture i by its definition: as large as the picture in its box, each place the mean grey of its
 * pixels, at least `least`. */
static double mask_at(const data_image *mask, int64_t x, int64_t y, double least)
{
    double sum = 0.0;

    for (int64_t k = 0; k < FACTOR * FACTOR; k++) {
        const uint8_t *p = mask->pixels + 3 * ((y * FACTOR + k / FACTOR) * mask->w + x * FACTOR + k % FACTOR);
        sum += floor((19595.0 * p[0] + 38470.0 * p[1] + 7471.0 * p[2] + 32768.0) / 65536.0) / 255.0;
    }
    sum /= FACTOR * FACTOR;
    return sum > least ? sum : least;
}

static void check_mask(const float *got, int i, bool flip, double least)
{
    const data_size fit = data_cover_size(SIZES[i], BOXES[i]);
    data_image mask = {0};

    if (set.items[i].mask) {
        data_image_read(&mask, shared, set.items[i].mask, 0);
        data_image_resize(&mask, shared, &mask, fit.w, fit.h, DATA_BILINEAR);
        data_image_cover(&mask, shared, &mask, BOXES[i], DATA_BILINEAR, NULL);
        check_ok(shared, "a mask");
    }
    for (int64_t y = 0; y < BOXES[i].h / FACTOR; y++)
        for (int64_t x = 0; x < BOXES[i].w / FACTOR; x++) {
            const int64_t at = y * (BOXES[i].w / FACTOR) + (flip ? BOXES[i].w / FACTOR - 1 - x : x);
            check_close("mask", at, got[at], mask.pixels ? mask_at(&mask, x, y, least) : 1.0, 1e-6, 0);
        }
    data_image_free(&mask);
}

static void test_masks(void **state)
{
    const ag_scope scope = ag_scope_open(shared);
    train_latents *kept = latents_of((train_latents_options){
        .folder = check_join(root, "kept"), .center_crop = true, .random_flip = true, .mask_min = 0.45});
    train_latents *anew =
        latents_of((train_latents_options){.center_crop = true, .random_flip = true, .mask_min = 0.45});

    (void)state;
    assert_true(train_latents_has_masks(kept));
    for (int64_t epoch = 0; epoch < 4; epoch++)
        for (int i = 0; i < N; i++) {
            const data_pick pick = {i, 0};
            const ag_draw draw = {.seed = 5, .purpose = AG_DRAW_FLIP, .step = (uint32_t)epoch, .sample = (uint32_t)i};
            ag_tensor *got = train_latents_masks(shared, kept, &pick, 1, epoch);
            same_values("kept and anew", got, train_latents_masks(shared, anew, &pick, 1, epoch));
            check_mask(ag_data(got), i, ag_draw_integer(&draw, 0, 2) == 1, 0.45);
        }
    check_ok(shared, "masks");
    train_latents_free(kept);
    train_latents_free(anew);
    ag_scope_close(shared, scope, NULL);
}

/* Alpha channels are masks where nothing else is; without any mask there is no tensor. */
static void test_alpha_masks(void **state)
{
    const ag_scope scope = ag_scope_open(shared);
    const data_size boxes[] = {{12, 10}, {36, 28}};
    data_item items[] = {{.path = "tests/golden/images/webp_alpha_lossless.webp", .name = "a"},
                         {.path = "tests/golden/images/jpeg_0.jpg", .name = "b"}};
    const data_set two = {.n = 2, .items = items};
    train_latents_options o = {.boxes = boxes, .compute = AG_F32, .center_crop = true};
    const data_pick pick = {0, 0}, opaque = {1, 0};
    train_latents *l = NULL;
    data_image alpha = {0};
    const float *got;

    (void)state;
    train_latents_new(&l, shared, &o, &two, model->vae);
    check_ok(shared, "without masks");
    assert_null(train_latents_masks(shared, l, &pick, 1, 0));
    assert_false(train_latents_has_masks(l));
    train_latents_free(l);

    o.alpha_masks = true;
    train_latents_new(&l, shared, &o, &two, model->vae);
    check_ok(shared, "alpha masks");
    data_image_read(&alpha, shared, items[0].path, DATA_ALPHA); /* 13 x 11, to 12 x 10 */
    data_image_cover(&alpha, shared, &alpha, boxes[0], DATA_BILINEAR, NULL);
    got = ag_data(train_latents_masks(shared, l, &pick, 1, 0));
    for (int64_t k = 0; k < 30; k++)
        check_close("alpha", k, got[k], mask_at(&alpha, k % 6, k / 6, 0.0), 1e-6, 0);
    got = ag_data(train_latents_masks(shared, l, &opaque, 1, 0));
    for (int64_t k = 0; k < 18 * 14; k++)
        assert_true(got[k] == 1.0f);
    check_ok(shared, "alpha masks");
    data_image_free(&alpha);
    train_latents_free(l);
    ag_scope_close(shared, scope, NULL);
}

static void test_box_refused(void **state)
{
    const data_size boxes[N] = {{24, 16}, {12, 20}, {15, 16}, {24, 12}};
    const train_latents_options o = {.boxes = boxes, .compute = AG_F32};
    train_latents *l = NULL;

    (void)state;
    train_latents_new(&l, shared, &o, &set, model->vae);
    check_failed_with(shared, AG_EINVAL, "resolution of 15 x 16: wanted multiples of 2");
    assert_null(l);
}

/* --- prompts ----------------------------------------------------------------------------------------- */

static void test_ages_in_prompts(void **state)
{
    static const char *const cases[][3] = {
        {"a {age} year old man with a hat", "a 35 year old man with a hat", "a man with a hat"},
        {"photo of sks person as {age}-year-old", "photo of sks person as 35-year-old", "photo of sks person as"},
        {"a man, {age} years old, at sea", "a man, 35 years old, at sea", "a man, at sea"},
        {"{age}", "35", ""},
        {"{age} year old and {age}", "35 year old and 35", "and"},
        {"age {age}.", "age 35.", "age."},
        {"photo of a person", "photo of a person", "photo of a person"},
        {"", "", ""},
        {"{ag", "{ag", "{ag"},
    };
    ag_ctx *ctx = one_thread();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *with = train_prompt_with_age(ctx, cases[i][0], 35), *without = train_prompt_without_age(ctx, cases[i][0]);
        assert_string_equal(with, cases[i][1]);
        assert_string_equal(without, cases[i][2]);
        assert_int_equal(train_prompt_has_age(cases[i][0]), strcmp(cases[i][0], cases[i][1]) != 0);
        ag_delete(with);
        ag_delete(without);
    }
    ag_ctx_free(ctx);
}

/* Thousands of prompts, each once; and contexts are the same kept, or computed at each use for want of room. */
static void test_prompts(void **state)
{
    enum { MANY = 3000 };
    const ag_scope scope = ag_scope_open(shared);
    train_prompts *p = NULL, *q = NULL;
    const int64_t rows[] = {MANY - 1, 0, 7};
    const size_t bytes = (size_t)MANY * 16 * 8 * sizeof(float);
    char text[32];

    (void)state;
    train_prompts_new(&p, shared, 16);
    train_prompts_new(&q, shared, 16);
    for (int k = 0; k < 2 * MANY; k++) {
        snprintf(text, sizeof text, "face %d", k % MANY);
        assert_int_equal(train_prompts_add(shared, p, text), k % MANY);
        train_prompts_add(shared, q, text);
    }
    assert_int_equal(train_prompts_count(p), MANY);
    train_prompts_prepare(shared, p, model, bytes);
    train_prompts_prepare(shared, q, model, bytes - 1);
    check_ok(shared, "prompts");
    assert_true(train_prompts_are_encoded(p) && !train_prompts_are_encoded(q));
    assert_true(train_prompts_bytes(p) == bytes && train_prompts_bytes(q) == 0);
    for (int r = 0; r < 3; r++) /* alone, as they were encoded */
        same_values("contexts", train_prompts_context(shared, p, model, rows + r, 1, NULL),
                    train_prompts_context(shared, q, model, rows + r, 1, NULL));
    check_ok(shared, "contexts");
    train_prompts_free(p);
    train_prompts_free(q);
    ag_scope_close(shared, scope, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_posteriors),  cmocka_unit_test(test_crops),
        cmocka_unit_test(test_colours),     cmocka_unit_test(test_turned),
        cmocka_unit_test(test_masks),       cmocka_unit_test(test_alpha_masks),
        cmocka_unit_test(test_entries),     cmocka_unit_test(test_box_refused),
        cmocka_unit_test(test_ages_in_prompts), cmocka_unit_test(test_prompts),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
