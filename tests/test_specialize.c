/* test_specialize.c - FADING's specialisation from a folder of pictures to a model's folder, on a
 * tiny model and painted faces: a run that was stopped, killed or resumed gives the bits of an
 * unbroken one.
 *
 * Runs happen in child processes, as they do in life: each begins with nothing but its files.
 */
#include "tests/train_check.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "data/faces.h"
#include "data/file.h"
#include "data/resample.h"
#include "data/tokenizer.h"
#include "pipeline/pipeline.h"
#include "train/checkpoint.h"
#include "train/specialize.h"

static char root[256]; /* holds model/, faces/ and a folder for every run */

/* --- the ground every run stands on ----------------------------------------------------------- */

static ag_ctx *one_thread(void)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});

    assert_non_null(ctx);
    check_ok(ctx, "a new context");
    return ctx;
}

static void make_model(ag_ctx *ctx)
{
    const nn_unet_config unet = {.sample_size = 8,
                                 .in_channels = 4,
                                 .out_channels = 4,
                                 .n_levels = 2,
                                 .block_out_channels = {8, 16},
                                 .down_attention = {false, true},
                                 .up_attention = {true, false},
                                 .n_heads = {2, 2},
                                 .layers_per_block = 1,
                                 .transformer_layers_per_block = 1,
                                 .cross_attention_dim = 8,
                                 .norm_num_groups = 4,
                                 .norm_eps = 1e-5,
                                 .flip_sin_to_cos = true,
                                 .mid_block_scale_factor = 1.0};
    const nn_vae_config vae = {.sample_size = 16,
                               .in_channels = 3,
                               .out_channels = 3,
                               .latent_channels = 4,
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
    pipe_model *model = NULL;

    data_schedule_config_default(&schedule);
    pipe_new(&model, ctx, &unet, &vae, &text, &schedule, 7);
    check_ok(ctx, "model");
    pipe_save(ctx, model, check_join(root, "model"), AG_F32);
    data_folder_make(ctx, check_join(root, "model/tokenizer"));
    data_tokenizer_write_small(ctx, check_join(root, "model/tokenizer"));
    check_ok(ctx, "model's folder");
    pipe_close(model);
}

/* The same faces in other shapes, in folders that repeat them, some with captions or masks. */
static void make_odd(ag_ctx *ctx)
{
    static const data_size sizes[] = {{32, 16}, {16, 24}, {20, 20}, {34, 17}, {16, 16}};
    static const char caption[] = "a drawing of a {age} year old face";

    data_folder_make(ctx, check_join(root, "odd/2_often"));
    data_folder_make(ctx, check_join(root, "odd/1_once"));
    data_folder_make(ctx, check_join(root, "masks"));
    for (int i = 0; i < 5; i++) {
        char name[64];
        data_image img = {0};

        snprintf(name, sizeof name, "faces/images/%05d.png", i);
        data_image_read(&img, ctx, check_join(root, name), 0);
        data_image_resize(&img, ctx, &img, sizes[i].w, sizes[i].h, DATA_BILINEAR);
        snprintf(name, sizeof name, "odd/%s/%05d.png", i % 2 ? "1_once" : "2_often", i);
        data_image_write_png(ctx, &img, check_join(root, name));
        check_ok(ctx, "odd pictures");
        if (i != 3) {
            memset(img.pixels, 255, (size_t)(3 * img.w * (img.h / 2)));
            snprintf(name, sizeof name, "masks/%05d.png", i);
            data_image_write_png(ctx, &img, check_join(root, name));
        }
        data_image_free(&img);
    }
    check_file_write(check_join(root, "odd/2_often/00002.txt"), caption, sizeof caption - 1);
    check_file_write(check_join(root, "odd/1_once/00001.txt"), caption, sizeof caption - 1);
}

static int set_up(void **state)
{
    ag_ctx *ctx = one_thread();
    data_faces_options faces = data_faces_defaults();

    (void)state;
    check_folder(root);
    make_model(ctx);
    faces.count = 5;
    faces.resolution = 16;
    data_faces_write(ctx, check_join(root, "faces"), &faces, NULL, NULL);
    check_ok(ctx, "faces");
    make_odd(ctx);
    ag_ctx_free(ctx);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_remove(root);
    return 0;
}

/* A run's options; its texts point into `texts`, its output is root/name. */
typedef struct texts {
    char model[300], images[300], ages[300], output[300];
} texts;

static train_options options_of(texts *t, const char *name)
{
    snprintf(t->model, sizeof t->model, "%s/model", root);
    snprintf(t->images, sizeof t->images, "%s/faces/images", root);
    snprintf(t->ages, sizeof t->ages, "%s/faces/training_ages.npy", root);
    snprintf(t->output, sizeof t->output, "%s/%s", root, name);
    return (train_options){.pretrained_model_name_or_path = t->model,
                           .instance_data_dir = t->images,
                           .instance_age_path = t->ages,
                           .instance_prompt = "photo of a person",
                           .resolution = 16,
                           .output_dir = t->output,
                           .logging_dir = "logs",
                           .report_to = "none",
                           .seed = 3,
                           .train_batch_size = 1,
                           .gradient_accumulation_steps = 1,
                           .num_train_epochs = 1,
                           .max_train_steps = 6,
                           .mixed_precision = TRAIN_PRECISION_NO,
                           .huber_c = 0.1,
                           .learning_rate = 1e-3,
                           .lr_num_cycles = 1,
                           .lr_power = 1,
                           .adam_beta1 = 0.9,
                           .adam_beta2 = 0.999,
                           .adam_weight_decay = 1e-2,
                           .adam_epsilon = 1e-8,
                           .max_grad_norm = 1.0};
}

/* --- runs in a child process ------------------------------------------------------------------ */

static pid_t start(const train_options *options)
{
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        ag_ctx *ctx = one_thread();
        json_t *config = json_pack("{s:I}", "seed", (json_int_t)options->seed);
        const ag_status status = train_specialize(ctx, options, config);
        if (status != AG_OK)
            fprintf(stderr, "%s\n", ag_message(ctx));
        json_decref(config);
        ag_ctx_free(ctx);
        _exit((int)status);
    }
    return child;
}

/* The status a run ended with; -1 when it was killed. */
static int end(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void run_ok(const train_options *options)
{
    assert_int_equal(end(start(options)), AG_OK);
}

static void same_file(const char *a, const char *b, const char *name)
{
    size_t n_a, n_b;
    char *bytes_a = check_file(&n_a, check_join(a, name));
    char *bytes_b = check_file(&n_b, check_join(b, name));

    if (n_a != n_b || memcmp(bytes_a, bytes_b, n_a) != 0)
        fail_msg("%s and %s differ in %s", a, b, name);
    free(bytes_a);
    free(bytes_b);
}

static void same_model(const char *a, const char *b)
{
    same_file(a, b, "unet/diffusion_pytorch_model.safetensors");
    same_file(a, b, "text_encoder/model.safetensors");
    same_file(a, b, "vae/diffusion_pytorch_model.safetensors");
}

/* Both logs have the same updates, losses and norms. */
static void same_log(const char *a, const char *b)
{
    size_t n;
    char *text_a = check_file(&n, check_join(a, "log.csv"));
    char *text_b = check_file(&n, check_join(b, "log.csv"));
    char *rest_a = text_a, *rest_b = text_b, *line_a, *line_b;

    while ((line_a = strsep(&rest_a, "\n")) && (line_b = strsep(&rest_b, "\n"))) {
        for (int comma = 0; comma < 5; comma++) { /* seconds and bytes may differ */
            const char *x = strsep(&line_a, ","), *y = strsep(&line_b, ",");
            if (!x || !y)
                break;
            assert_string_equal(x, y);
        }
    }
    assert_true(!rest_a && !rest_b);
    free(text_a);
    free(text_b);
}

/* --- resumed is unbroken ---------------------------------------------------------------------- */

typedef struct variant {
    const char *name;
    void (*change)(train_options *o);
} variant;

static void change_nothing(train_options *o)
{
    (void)o;
}

/* Short batches and short accumulations at the end of an epoch, everything that draws. */
static void change_much(train_options *o)
{
    o->train_batch_size = 2;
    o->gradient_accumulation_steps = 2;
    o->random_flip = true;
    o->noise_offset = 0.1;
    o->snr_gamma = 5.0;
    o->ema_decay = 0.9;
    o->lr_scheduler = OPT_COSINE;
    o->lr_warmup_steps = 2;
    o->loss_type = AG_LOSS_HUBER;
}

static void change_text(train_options *o)
{
    o->train_text_encoder = true;
    o->gradient_checkpointing = true;
    o->finetune_mode = TRAIN_SINGLE_PROMPT;
    o->prediction_type = TRAIN_PREDICTION_V;
}

static void change_torch(train_options *o)
{
    o->torch_rng = true;
    o->no_shuffle = true;
}

static const char *odd_folder(void)
{
    static char path[300];

    snprintf(path, sizeof path, "%s/odd", root);
    return path;
}

/* All that the data can be told, at once. */
static void change_data(train_options *o)
{
    static char masks[300];

    snprintf(masks, sizeof masks, "%s/masks", root);
    o->instance_data_dir = odd_folder();
    o->train_batch_size = 2;
    o->gradient_accumulation_steps = 3;
    o->random_flip = true;
    o->aspect_ratio_buckets = true;
    o->bucket_step = 4;
    o->repeats = 2;
    o->balance_ages = true;
    o->caption_extension = "txt";
    o->caption_dropout = 0.3;
    o->mask_dir = masks;
    o->mask_min = 0.1;
    o->color_jitter = "0.2,0.2,0.2,0.05";
}

/* What stays the same of it, with kept latents and masks. */
static void change_kept(train_options *o)
{
    change_data(o);
    o->center_crop = true;
    o->color_jitter = NULL;
    o->train_text_encoder = true;
}

/* PyTorch's draws have a past of batches of several shapes. */
static void change_torch_data(train_options *o)
{
    o->torch_rng = true;
    o->instance_data_dir = odd_folder();
    o->train_batch_size = 2;
    o->aspect_ratio_buckets = true;
    o->bucket_step = 4;
}

static void check_variant(const variant *v)
{
    texts whole_texts, parts_texts;
    train_options whole = options_of(&whole_texts, v->name), parts;
    char name[64];

    snprintf(name, sizeof name, "%s-parts", v->name);
    parts = options_of(&parts_texts, name);
    v->change(&whole);
    v->change(&parts);
    run_ok(&whole);
    parts.checkpointing_steps = 2;
    run_ok(&parts);
    same_model(whole.output_dir, parts.output_dir);
    assert_int_equal(check_count(parts.output_dir, "checkpoint-"), 3);

    parts.resume_from_checkpoint = "checkpoint-2";
    check_remove(check_join(parts.output_dir, "unet"));
    run_ok(&parts);
    same_model(whole.output_dir, parts.output_dir);
    same_log(whole.output_dir, parts.output_dir);

    check_remove(check_join(parts.output_dir, "checkpoint-6"));
    check_remove(check_join(parts.output_dir, "unet"));
    parts.resume_from_checkpoint = "latest";
    parts.no_cache = true; /* posteriors computed anew are the same */
    run_ok(&parts);
    same_model(whole.output_dir, parts.output_dir);
    same_log(whole.output_dir, parts.output_dir);
    assert_int_equal(check_count(parts.output_dir, "checkpoint-"), 3);
}

static void test_resume(void **state)
{
    const variant variants[] = {{"plain", change_nothing},
                                {"much", change_much},
                                {"text", change_text},
                                {"torch", change_torch},
                                {"data", change_data},
                                {"kept", change_kept},
                                {"torch-data", change_torch_data}};

    (void)state;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        check_variant(&variants[i]);
}

/* Training changes what it should and nothing else. */
static void test_what_changes(void **state)
{
    char trained[300], base[300];
    size_t n_a, n_b;
    char *a, *b;

    (void)state;
    snprintf(trained, sizeof trained, "%s/plain", root);
    snprintf(base, sizeof base, "%s/model", root);
    a = check_file(&n_a, check_join(trained, "unet/diffusion_pytorch_model.safetensors"));
    b = check_file(&n_b, check_join(base, "unet/diffusion_pytorch_model.safetensors"));
    assert_int_equal(n_a, n_b);
    assert_true(memcmp(a, b, n_a) != 0);
    same_file(trained, base, "text_encoder/model.safetensors");
    same_file(trained, base, "vae/diffusion_pytorch_model.safetensors");
    same_file(trained, base, "tokenizer/vocab.json");
    same_file(trained, base, "model_index.json");
    assert_true(check_exists(check_join(trained, "model_config.json")));
    free(a);
    free(b);
}

static int rows_logged(const char *output)
{
    char text[4096] = "";
    FILE *file = fopen(check_join(output, "log.csv"), "r");
    int n = 0;

    if (file) {
        const size_t got = fread(text, 1, sizeof text - 1, file);
        for (size_t i = 0; i < got; i++)
            n += text[i] == '\n';
        fclose(file);
    }
    return n > 0 ? n - 1 : 0;
}

/* kill -9 anywhere, again and again, always going on from the latest. */
static void test_killed(void **state)
{
    texts whole_texts, parts_texts;
    train_options whole = options_of(&whole_texts, "long"),
                  parts = options_of(&parts_texts, "killed");
    uint64_t seed = 9;
    int n_kills = 0;

    (void)state;
    whole.max_train_steps = parts.max_train_steps = 40;
    parts.checkpointing_steps = 1;
    parts.checkpoints_total_limit = 2;
    parts.resume_from_checkpoint = "latest";
    run_ok(&whole);
    for (int status = -1; status != AG_OK;) {
        const pid_t child = start(&parts);
        const long wait = n_kills < 15 ? (long)check_uniform(&seed, 1e6, 1.5e8) : 1000000000L * 60;
        if (n_kills < 15) {
            nanosleep(&(struct timespec){.tv_nsec = wait}, NULL);
            kill(child, SIGKILL);
        }
        status = end(child);
        assert_true(status == AG_OK || status == -1);
        n_kills += status == -1;
    }
    assert_true(n_kills > 2);
    same_model(whole.output_dir, parts.output_dir);
    same_log(whole.output_dir, parts.output_dir);
    assert_int_equal(check_count(parts.output_dir, "checkpoint-"), 2);
}

/* SIGTERM: the update in flight is finished, the state saved, the status says so. */
static void test_stopped(void **state)
{
    texts t;
    train_options o = options_of(&t, "stopped");
    int64_t newest;
    ag_ctx *ctx = one_thread();
    pid_t child;

    (void)state;
    o.max_train_steps = 100000;
    child = start(&o);
    for (int i = 0; i < 3000 && rows_logged(t.output) < 2; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    assert_int_equal(kill(child, SIGTERM), 0);
    assert_int_equal(end(child), AG_ESTOPPED);
    newest = train_checkpoint_newest(ctx, t.output);
    assert_true(newest >= 2 && newest == rows_logged(t.output));
    assert_false(check_exists(check_join(t.output, "unet")));

    assert_int_equal(end(start(&o)), AG_EINVAL); /* neither --resume nor --overwrite */
    o.max_train_steps = newest + 1;
    o.resume_from_checkpoint = "latest";
    run_ok(&o);
    assert_int_equal(rows_logged(t.output), newest + 1);
    assert_true(check_exists(check_join(t.output, "unet")));
    ag_ctx_free(ctx);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void refused(const train_options *options, ag_status status, const char *words)
{
    ag_ctx *ctx = one_thread();
    json_t *config = json_object();

    assert_int_equal(train_specialize(ctx, options, config), status);
    check_failed_with(ctx, status, words);
    json_decref(config);
    ag_ctx_free(ctx);
}

static void test_refusals(void **state)
{
    texts t;
    train_options o = options_of(&t, "refused");

    (void)state;
    o.instance_prompt = "photo of person";
    refused(&o, AG_EINVAL, "\" a \"");
    o = options_of(&t, "refused");
    o.train_batch_size = 513;
    refused(&o, AG_EINVAL, "--train_batch_size 513");
    o = options_of(&t, "faces/training_ages.npy/out");
    refused(&o, AG_EIO, "training_ages.npy");
    o = options_of(&t, "refused");
    o.instance_age_path = check_join(root, "nowhere.npy");
    refused(&o, AG_EIO, "nowhere.npy");
    o = options_of(&t, "refused");
    o.instance_data_dir = check_join(root, "model/unet");
    refused(&o, AG_EDATA, "model/unet");
    o = options_of(&t, "refused");
    o.pretrained_model_name_or_path = check_join(root, "nomodel");
    refused(&o, AG_EIO, "nomodel");
    o = options_of(&t, "refused");
    o.resolution = 17;
    refused(&o, AG_EINVAL, "resolution of 17 x 17");
    o = options_of(&t, "refused");
    o.resume_from_checkpoint = "checkpoint-77";
    refused(&o, AG_EIO, "checkpoint-77");
    assert_false(check_exists(check_join(root, "refused/unet")));
}

/* Flags of the data that cannot be. */
static void test_data_refusals(void **state)
{
    texts t;
    train_options o = options_of(&t, "refused");

    (void)state;
    o.aspect_ratio_buckets = true;
    o.bucket_step = 32;
    refused(&o, AG_EINVAL, "buckets of resolution 16 in steps of 32");
    o.bucket_step = 4;
    o.bucket_min = 20;
    refused(&o, AG_EINVAL, "sides of 20 to 32 in steps of 4: the square of 16 is not one");
    o.bucket_min = 0;
    o.bucket_step = 1; /* 15 x 17, and the VAE halves a side */
    o.instance_data_dir = odd_folder();
    refused(&o, AG_EINVAL, "wanted multiples of 2, by which the VAE shrinks");
    o = options_of(&t, "refused");
    o.caption_extension = "caption";
    refused(&o, AG_EDATA, "no caption beside this picture or any other");
    o = options_of(&t, "refused");
    o.mask_dir = check_join(root, "nomasks");
    refused(&o, AG_EIO, "nomasks");
    o = options_of(&t, "refused");
    o.color_jitter = "0.1,x";
    refused(&o, AG_EINVAL, "colour jitter \"0.1,x\"");
    o = options_of(&t, "refused");
    o.instance_data_dir = odd_folder();
    o.caption_extension = "txt";
    check_file_write(check_join(root, "odd/1_once/00003.txt"), "ageless", 7);
    refused(&o, AG_EINVAL, "1 captions have neither \"{age}\" nor the word \" a \"");
    remove(check_join(root, "odd/1_once/00003.txt"));
    assert_false(check_exists(check_join(root, "refused/unet")));
}

/* A rate that throws the weights out: the first loss that is not finite stops it, saying where. */
static void test_diverged(void **state)
{
    texts t;
    train_options o = options_of(&t, "diverged");

    (void)state;
    o.learning_rate = 1e30;
    o.max_train_steps = 5;
    refused(&o, AG_ENUMERIC, ".png with \"photo of a ");
    assert_false(check_exists(check_join(root, "diverged/unet")));
}

static void test_prompts(void **state)
{
    static const char *const cases[][2] = {
        {"photo of a person", "photo of a 35 year old person"},
        {"photo of a person in a garden", "photo of a 35 year old person in a 35 year old garden"},
        {"photo of person", "photo of person"},
        {" a  a ", " a 35 year old  a 35 year old "},
        {"", ""},
    };
    ag_ctx *ctx = one_thread();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = train_aged_prompt(ctx, cases[i][0], 35);
        assert_string_equal(text, cases[i][1]);
        ag_delete(text);
    }
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume),   cmocka_unit_test(test_what_changes),
        cmocka_unit_test(test_killed),   cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_data_refusals),
        cmocka_unit_test(test_diverged),
        cmocka_unit_test(test_prompts),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
