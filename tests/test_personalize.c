/* test_personalize.c - SelfAge's training and DreamBooth from folders of pictures to a file: what is written
 * and what is not, resumed is unbroken, which picture stands beside which, what is refused.
 */
#include "tests/run_check.h"

#include <signal.h>

#include "data/weights.h"
#include "train/checkpoint.h"
#include "train/lora.h"
#include "train/personalize.h"

static const char LORA_FILE[] = TRAIN_LORA_FILE;

/* --- the ground: a person of 3 pictures, 5 others, all named by age ------------------------------ */

static void copy_picture(const char *folder, int from, const char *name)
{
    char source[64], to[512];
    size_t n;
    char *bytes;

    snprintf(source, sizeof source, "faces/images/%05d.png", from);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    bytes = check_file(&n, check_join(root, source));
    check_file_write(check_join(root, to), bytes, n);
    free(bytes);
}

static int set_up_folders(void **state)
{
    static const char *const person[] = {"34_001.png", "7.png", "61_x.png"};
    static const char *const others[] = {"27_a.png", "30_b.png", "45.png", "5_5.png", "80_.png"};
    ag_ctx *ctx;

    set_up(state);
    ctx = one_thread();
    data_folder_make(ctx, check_join(root, "person"));
    data_folder_make(ctx, check_join(root, "others"));
    check_ok(ctx, "folders");
    for (int i = 0; i < 3; i++)
        copy_picture("person", i, person[i]);
    for (int i = 0; i < 5; i++)
        copy_picture("others", 4 - i, others[i]);
    ag_ctx_free(ctx);
    return 0;
}

static train_options personal_options(texts *t, const char *name)
{
    train_options o = options_of(t, name);

    snprintf(t->images, sizeof t->images, "%s/person", root);
    snprintf(t->ages, sizeof t->ages, "%s/others", root);
    o.instance_age_path = NULL;
    o.class_data_dir = t->ages;
    o.instance_prompt = "photo of sks person";
    o.class_prompt = "photo of person";
    o.num_instance_images = 5;
    o.with_prior_preservation = true;
    o.prior_loss_weight = 1.0;
    o.contrast_weight = 0.1;
    o.train_batch_size = 2;
    o.rank = 2;
    return o;
}

static void run_ok(trainer train, const train_options *options)
{
    assert_int_equal(end(start_with(train, options)), AG_OK);
}

/* --- resumed is unbroken ---------------------------------------------------------------------- */

typedef struct variant {
    const char *name;
    trainer train;
    void (*change)(train_options *o);
} variant;

static void change_nothing(train_options *o)
{
    (void)o;
}

/* The text encoder, another rate for it, dropout, short batches and accumulations, everything that draws. */
static void change_much(train_options *o)
{
    o->train_text_encoder = true;
    o->text_encoder_lr = 5e-4;
    o->lora_dropout = 0.3;
    o->gradient_accumulation_steps = 2;
    o->random_flip = true;
    o->noise_offset = 0.1;
    o->snr_gamma = 5.0;
    o->ema_decay = 0.9;
    o->lr_scheduler = OPT_COSINE;
    o->gradient_checkpointing = true;
    o->caption_dropout = 0.3;
}

static void change_dora(train_options *o)
{
    o->use_dora = true;
    o->lora_conv = 2;
    o->train_text_encoder = true;
    o->prior_target = TRAIN_PRIOR_MODEL;
    o->optimizer = OPT_RANGER;
    o->ranger_alpha = 0.5;
    o->ranger_k = 2;
}

/* The frozen weights stay in bf16, adapters and moments in f32. */
static void change_half(train_options *o)
{
    o->mixed_precision = TRAIN_PRECISION_BF16;
    o->train_text_encoder = true;
    o->use_dora = true;
}

static void change_torch(train_options *o)
{
    o->torch_rng = true;
    o->no_shuffle = true;
    o->with_prior_preservation = false;
}

/* Shapes, repetitions, captions, masks, colours and balanced ages. */
static void change_pictures(train_options *o)
{
    static char ages[300];

    change_data(o);
    snprintf(ages, sizeof ages, "%s/faces/training_ages.npy", root);
    o->instance_age_path = ages;
}

/* Whole weights, prompts without ages. */
static void change_whole(train_options *o)
{
    o->rank = 0;
    o->train_text_encoder = true;
}

static void same_result(const train_options *a, const train_options *b)
{
    if (a->rank > 0)
        same_file(a->output_dir, b->output_dir, LORA_FILE);
    else
        same_model(a->output_dir, b->output_dir);
    same_log(a->output_dir, b->output_dir);
}

static void check_variant(const variant *v)
{
    texts whole_texts, parts_texts;
    train_options whole = personal_options(&whole_texts, v->name), parts;
    char name[64];

    snprintf(name, sizeof name, "%s-parts", v->name);
    parts = personal_options(&parts_texts, name);
    v->change(&whole);
    v->change(&parts);
    run_ok(v->train, &whole);
    parts.checkpointing_steps = 2;
    run_ok(v->train, &parts);
    same_result(&whole, &parts);
    parts.resume_from_checkpoint = "checkpoint-2"; /* in the middle of an epoch */
    run_ok(v->train, &parts);
    same_result(&whole, &parts);
    check_remove(check_join(parts.output_dir, "checkpoint-6"));
    parts.resume_from_checkpoint = "latest";
    parts.no_cache = true; /* posteriors computed anew are the same */
    run_ok(v->train, &parts);
    same_result(&whole, &parts);
}

static void test_resume(void **state)
{
    const variant variants[] = {{"plain", train_personalize, change_nothing},
                                {"much", train_personalize, change_much},
                                {"dora", train_personalize, change_dora},
                                {"half", train_personalize, change_half},
                                {"torch", train_personalize, change_torch},
                                {"data", train_personalize, change_pictures},
                                {"dream", train_dreambooth, change_nothing},
                                {"whole", train_dreambooth, change_whole}};

    /* the rest differs in what the host does */
    const size_t n = check_device() == AG_CPU ? sizeof variants / sizeof *variants : 4;

    (void)state;
    for (size_t i = 0; i < n; i++)
        check_variant(&variants[i]);
}

/* SIGTERM: a checkpoint and no file; the rest of the run gives the file of an unbroken one. */
static void test_stopped(void **state)
{
    texts t, whole_texts;
    train_options o = personal_options(&t, "stopped"), whole = personal_options(&whole_texts, "unbroken");
    ag_ctx *ctx = one_thread();
    pid_t child;

    (void)state;
    o.max_train_steps = 100000;
    child = start_with(train_personalize, &o);
    for (int i = 0; i < 3000 && rows_logged(t.output) < 2; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_int_equal(kill(child, SIGTERM), 0);
    assert_int_equal(end(child), AG_ESTOPPED);
    assert_false(check_exists(check_join(t.output, LORA_FILE)));
    o.max_train_steps = whole.max_train_steps = train_checkpoint_newest(ctx, t.output) + 2;
    o.resume_from_checkpoint = "latest";
    run_ok(train_personalize, &o);
    run_ok(train_personalize, &whole);
    same_result(&o, &whole);
    ag_ctx_free(ctx);
}

/* --- what is written -------------------------------------------------------------------------- */

/* Every name has its component and "lora", every value is f32, and only the adapters are there. */
static void test_file(void **state)
{
    ag_ctx *ctx = one_thread();
    data_weights *w = NULL;
    char folder[300];
    int64_t n_text = 0;

    (void)state;
    snprintf(folder, sizeof folder, "%s/much", root);
    assert_false(check_exists(check_join(folder, "unet")));
    assert_false(check_exists(check_join(folder, "model_index.json")));
    data_weights_open(&w, ctx, check_join(folder, LORA_FILE));
    check_ok(ctx, LORA_FILE);
    for (int64_t i = 0; i < data_weights_count(w); i++) {
        const data_tensor *t = data_weights_at(w, i);
        assert_true(strncmp(t->name, "unet.", 5) == 0 || strncmp(t->name, "text_encoder.", 13) == 0);
        assert_non_null(strstr(t->name, "lora"));
        assert_int_equal(t->dtype, DATA_F32);
        n_text += t->name[0] == 't';
    }
    assert_int_equal(n_text, 1 * 4 * 2); /* layers, projections, factors */
    assert_true(
        data_weights_find(w, "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora.down.weight") >= 0);
    assert_true(data_weights_find(
                    w, "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.lora_linear_layer.up.weight") >= 0);
    data_weights_close(w);
    ag_ctx_free(ctx);
}

/* The rate decides how far values go: at 1e-6 nowhere, at 5e-4 they do. */
static double way_of_b(const char *name, double rate)
{
    ag_ctx *ctx = one_thread();
    data_weights *w = NULL;
    texts t;
    train_options o = personal_options(&t, name);
    double most = 0.0;

    o.learning_rate = rate;
    o.max_train_steps = 20;
    run_ok(train_personalize, &o);
    data_weights_open(&w, ctx, check_join(t.output, LORA_FILE));
    check_ok(ctx, LORA_FILE);
    for (int64_t i = 0; i < data_weights_count(w); i++) {
        const data_tensor *tensor = data_weights_at(w, i);
        float *values = calloc((size_t)tensor->n_values, sizeof *values);
        data_weights_read_f32(ctx, w, i, values);
        check_ok(ctx, tensor->name);
        for (int64_t k = 0; strstr(tensor->name, ".up.") && k < tensor->n_values; k++)
            most = fmax(most, fabs((double)values[k]));
        free(values);
    }
    data_weights_close(w);
    ag_ctx_free(ctx);
    return most;
}

static void test_rates(void **state)
{
    const double faint = way_of_b("faint", 1e-6), strong = way_of_b("strong", 5e-4);

    (void)state;
    assert_true(faint > 1e-6 && faint <= 20 * 1e-6 * 1.01);
    assert_true(strong > 5e-4 && strong <= 20 * 5e-4 * 1.01);
}

static void refused(trainer train, const train_options *options, ag_status status, const char *words)
{
    ag_ctx *ctx = one_thread();
    json_t *config = json_object();

    assert_int_equal(train(ctx, options, config), status);
    check_failed_with(ctx, status, words);
    assert_false(check_exists(options->output_dir)); /* before anything is written */
    json_decref(config);
    ag_ctx_free(ctx);
}

/* --- pictures of the class -------------------------------------------------------------------- */

/* Stands for a sampler: picture k has the grey of k, the seed and the prompt's length. */
static ag_status draw(data_image *images, ag_ctx *ctx, pipe_model *model, const train_sample_request *r)
{
    assert_true(model->unet && model->vae && model->text && model->tokenizer);
    assert_true(r->n >= 1 && r->n <= 2 && r->n_steps > 0);
    for (int64_t i = 0; i < r->n && data_image_new(&images[i], ctx, 16, 16) == AG_OK; i++) {
        const int64_t grey = 40 * (r->first + i) + (int64_t)r->seed + (int64_t)strlen(r->prompt);
        memset(images[i].pixels, (int)grey, 16 * 16 * 3);
    }
    return ag_status_of(ctx);
}

/* What is missing is drawn; what a run before this one drew, or a person put there, stays. */
static void test_class_pictures(void **state)
{
    texts t, again_texts;
    char drawn[420], half[420];
    train_options o = personal_options(&t, "drawing"), again = personal_options(&again_texts, "drawing-again");

    (void)state;
    snprintf(drawn, sizeof drawn, "%s/drawn", root);
    snprintf(half, sizeof half, "%s/drawn-half", root);
    o.class_data_dir = drawn;
    o.num_class_images = 5;
    o.sample_batch_size = 2;
    refused(train_dreambooth, &o, AG_EINVAL, "nobody to draw");
    o.sample = draw;
    run_ok(train_dreambooth, &o);
    assert_int_equal(check_count(drawn, ""), 5);
    assert_int_equal(check_count(drawn, "4-"), 1);

    again = o;
    again.output_dir = again_texts.output;
    again.class_data_dir = half;
    again.num_class_images = 3;
    run_ok(train_dreambooth, &again);
    assert_int_equal(check_count(half, ""), 3);
    again.num_class_images = 5;
    run_ok(train_dreambooth, &again);
    assert_int_equal(check_count(half, ""), 5);
    same_result(&o, &again);
}

/* --- validation ------------------------------------------------------------------------------- */

static train_options watched_options(texts *t, const char *name)
{
    train_options o = personal_options(t, name);

    o.validation_data_dir = o.class_data_dir;
    o.num_validation_timesteps = 3;
    o.validation_steps = 2;
    o.validation_prompt = "photo of sks person";
    o.num_validation_images = 2;
    o.validation_inference_steps = 30;
    o.sample = draw;
    o.lora_dropout = 0.3;
    o.caption_dropout = 0.2;
    return o;
}

static double first_loss(const char *folder)
{
    size_t n;
    char *text = check_file(&n, check_join(folder, "validation.csv"));
    double loss;

    assert_memory_equal(text, "update,loss\n0,", 14);
    loss = strtod(text + 14, NULL);
    free(text);
    return loss;
}

/* Looking on changes nothing; what is seen does not depend on the seed, nor on where a run was interrupted. */
static void test_validation(void **state)
{
    texts t, blind_texts, other_texts;
    train_options o = watched_options(&t, "watched"), blind = watched_options(&blind_texts, "blind"),
                  other = watched_options(&other_texts, "other");
    char whole[256], *text;
    size_t n;

    (void)state;
    o.report_to = "tensorboard";
    o.checkpointing_steps = 3;
    run_ok(train_personalize, &o);
    assert_int_equal(check_count(check_join(t.output, "validation"), "2-"), 2);
    assert_int_equal(check_count(check_join(t.output, "validation"), "4-"), 2);
    assert_int_equal(check_count(check_join(t.output, "validation"), "6-"), 2);
    assert_int_equal(check_count(check_join(t.output, "validation"), "test-"), 2);
    blind.validation_data_dir = blind.validation_prompt = NULL;
    run_ok(train_personalize, &blind);
    same_result(&o, &blind);

    text = check_file(&n, check_join(t.output, "validation.csv"));
    assert_true(n < sizeof whole && strstr(text, "\n2,") && strstr(text, "\n4,") && strstr(text, "\n6,"));
    snprintf(whole, sizeof whole, "%s", text);
    free(text);
    o.resume_from_checkpoint = "checkpoint-3";
    run_ok(train_personalize, &o);
    text = check_file(&n, check_join(t.output, "validation.csv"));
    assert_string_equal(text, whole);
    free(text);
    same_result(&o, &blind);

    other.seed = 4;
    other.lora_init = "kaiming";
    other.max_train_steps = 1;
    run_ok(train_personalize, &other);
    assert_true(first_loss(t.output) > 0.0 && first_loss(t.output) == first_loss(other_texts.output));
    other.sample = NULL;
    other.output_dir = check_join(root, "unseen");
    refused(train_personalize, &other, AG_EINVAL, "nobody to draw");
}

/* --- prompts ---------------------------------------------------------------------------------- */

static void test_prompts(void **state)
{
    static const char *const cases[][2] = {
        {"photo of sks person", "photo of sks person as 34-year-old"},
        {"photo of a {age} year old sks person", "photo of a 34 year old sks person"},
        {"", " as 34-year-old"},
    };
    ag_ctx *ctx = one_thread();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = train_prompt_as_age(ctx, cases[i][0], 34);
        assert_string_equal(text, cases[i][1]);
        ag_delete(text);
    }
    ag_ctx_free(ctx);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    ag_ctx *ctx = one_thread();
    texts t;
    train_options o;

    (void)state;
    data_folder_make(ctx, check_join(root, "unnamed"));
    data_folder_make(ctx, check_join(root, "nobody"));
    check_ok(ctx, "folders");
    ag_ctx_free(ctx);
    copy_picture("unnamed", 0, "20_a.png");
    copy_picture("unnamed", 1, "me.png");
    copy_picture("unnamed", 2, "x_21.png");

    o = personal_options(&t, "refused");
    o.instance_data_dir = check_join(root, "unnamed");
    refused(train_personalize, &o, AG_EDATA, "me.png (none), x_21.png (none)");
    o = personal_options(&t, "refused");
    o.class_data_dir = check_join(root, "unnamed");
    refused(train_personalize, &o, AG_EDATA, "me.png (none), x_21.png (none)");
    o = personal_options(&t, "refused");
    o.instance_data_dir = check_join(root, "nobody");
    refused(train_personalize, &o, AG_EDATA, "nobody: no picture");
    o = personal_options(&t, "refused");
    o.class_data_dir = check_join(root, "nowhere");
    refused(train_personalize, &o, AG_EIO, "nowhere");
    o = personal_options(&t, "refused");
    o.class_data_dir = NULL;
    refused(train_personalize, &o, AG_EINVAL, "--regularization_dir");
    o = personal_options(&t, "refused");
    o.instance_age_path = check_join(root, "faces/training_ages.npy");
    refused(train_personalize, &o, AG_EDATA, "34_001.png");
    o = personal_options(&t, "refused");
    o.rank = 9;
    refused(train_personalize, &o, AG_EINVAL, "in 1..8, got 9");
    o = personal_options(&t, "refused");
    o.lora_targets = "to_x";
    refused(train_personalize, &o, AG_EINVAL, "to_x");
    o = personal_options(&t, "refused");
    o.lora_init = check_join(root, "model/unet/config.json");
    refused(train_personalize, &o, AG_EDATA, "config.json");
    o = personal_options(&t, "refused");
    o.rank = 0;
    o.prior_target = TRAIN_PRIOR_MODEL;
    refused(train_dreambooth, &o, AG_EINVAL, "--prior_target model");
    o = personal_options(&t, "refused");
    o.class_prompt = NULL;
    refused(train_dreambooth, &o, AG_EINVAL, "--class_prompt");
    o = personal_options(&t, "refused");
    o.pretrained_model_name_or_path = check_join(root, "nomodel");
    refused(train_personalize, &o, AG_EIO, "nomodel");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume), cmocka_unit_test(test_stopped), cmocka_unit_test(test_file),
        cmocka_unit_test(test_rates),  cmocka_unit_test(test_class_pictures), cmocka_unit_test(test_validation),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, set_up_folders, tear_down);
}
