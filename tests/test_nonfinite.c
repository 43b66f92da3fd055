/* test_nonfinite.c - what ends a run early: numbers that are not finite, named by update, picture
 * and tensor; folders that cannot be written, found before anything is loaded. And what goes on:
 * the seed of a run that is resumed, checkpoints that only a run that really begins may clear.
 */
#include "tests/train_check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/faces.h"
#include "data/file.h"
#include "data/tokenizer.h"
#include "pipeline/pipeline.h"
#include "pipeline/presets.h"
#include "train/checkpoint.h"
#include "train/nonfinite.h"
#include "train/run.h"
#include "train/specialize.h"

enum { TINY = 3 }; /* in pipe_preset_names */

static char root[256];

static ag_ctx *one_thread(void) /* pictures so small are not worth two */
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});

    assert_non_null(ctx);
    check_ok(ctx, "a new context");
    return ctx;
}

/* The small model, with one weight of its U-Net set to `value`, as root/name. */
static void make_model(const char *name, const char *weight, float value)
{
    ag_ctx *ctx = one_thread();
    char tokenizer[300];
    pipe_preset preset;
    pipe_model *model = NULL;

    pipe_preset_get(&preset, TINY);
    assert_int_equal(pipe_new(&model, ctx, &preset.unet, &preset.vae, &preset.text, &preset.schedule, 7), AG_OK);
    if (weight) {
        const nn_param *param = nn_params_find(pipe_params(model, DATA_UNET), weight);
        assert_non_null(param);
        ((float *)ag_data(param->value))[1] = value;
    }
    snprintf(tokenizer, sizeof tokenizer, "%s/%s/tokenizer", root, name);
    data_folder_make(ctx, tokenizer);
    data_tokenizer_write_small(ctx, tokenizer);
    pipe_save(ctx, model, check_join(root, name), AG_F32);
    check_ok(ctx, "model");
    pipe_close(model);
    ag_ctx_free(ctx);
}

static int set_up(void **state)
{
    ag_ctx *ctx = one_thread();
    data_faces_options faces = data_faces_defaults();

    (void)state;
    check_folder(root);
    faces.count = 2;
    faces.resolution = 32;
    data_faces_write(ctx, check_join(root, "faces"), &faces, NULL, NULL);
    check_ok(ctx, "faces");
    ag_ctx_free(ctx);
    make_model("sound", NULL, 0.0f);
    make_model("broken", "down_blocks.1.resnets.0.conv1.weight", INFINITY);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_remove(root);
    return 0;
}

typedef struct texts {
    char model[300], images[300], ages[300], output[300], cache[300];
} texts;

static train_options options_of(texts *t, const char *model, const char *name)
{
    snprintf(t->model, sizeof t->model, "%s/%s", root, model);
    snprintf(t->images, sizeof t->images, "%s/faces/images", root);
    snprintf(t->ages, sizeof t->ages, "%s/faces/training_ages.npy", root);
    snprintf(t->output, sizeof t->output, "%s/%s", root, name);
    snprintf(t->cache, sizeof t->cache, "%s/cache", root); /* one for all runs */
    return (train_options){.pretrained_model_name_or_path = t->model,
                           .instance_data_dir = t->images,
                           .instance_age_path = t->ages,
                           .instance_prompt = "photo of a person",
                           .resolution = 32,
                           .no_shuffle = true,
                           .output_dir = t->output,
                           .logging_dir = "logs",
                           .report_to = "none",
                           .cache_dir = t->cache,
                           .train_batch_size = 1,
                           .gradient_accumulation_steps = 1,
                           .num_train_epochs = 1,
                           .max_train_steps = 1,
                           .mixed_precision = TRAIN_PRECISION_NO,
                           .huber_c = 0.1,
                           .learning_rate = 1e-5,
                           .lr_num_cycles = 1,
                           .lr_power = 1,
                           .adam_beta1 = 0.9,
                           .adam_beta2 = 0.999,
                           .adam_epsilon = 1e-8,
                           .max_grad_norm = 1.0};
}

/* Run in this process; `words` (NULL-terminated) all stand in the message of a failure. */
static void run(const train_options *options, ag_status want, const char *const *words)
{
    ag_ctx *ctx = one_thread();
    json_t *config = json_pack("{s:I}", "seed", (json_int_t)options->seed);
    const ag_status status = train_specialize(ctx, options, config);

    if (status != want)
        fail_msg("wanted %s, got %s: %s", ag_status_name(want), ag_status_name(status), ag_message(ctx));
    for (; words && *words; words++)
        if (!strstr(ag_message(ctx), *words))
            fail_msg("wanted \"%s\" in \"%s\"", *words, ag_message(ctx));
    assert_null(strchr(ag_message(ctx), '\n'));
    json_decref(config);
    ag_ctx_free(ctx);
}

static void run_words(const train_options *options, ag_status want, const char *a, const char *b)
{
    run(options, want, (const char *const[]){a, b, NULL});
}

/* --- numbers ---------------------------------------------------------------------------------- */

static void test_infinite_weight(void **state)
{
    static const char *const words[] = {"update 1:", "00000.png", "photo of a person", "conv2d",
                                        "down_blocks.1.resnets.0.conv1.weight (which is not finite itself)", NULL};
    texts t;
    train_options o = options_of(&t, "broken", "infinite");

    (void)state;
    run(&o, AG_ENUMERIC, words);
    o.mixed_precision = TRAIN_PRECISION_BF16;
    run(&o, AG_ENUMERIC, words);
    o.torch_rng = true; /* the search sees the draws of the step again */
    o.mixed_precision = TRAIN_PRECISION_NO;
    run(&o, AG_ENUMERIC, words);
    assert_false(check_exists(check_join(t.output, "unet")));
    assert_false(check_exists(check_join(t.output, "model_index.json")));
}

/* The op is named although all it was given is finite: bf16 and f32 alike. */
static ag_tensor *overflow(ag_ctx *ctx, void *user)
{
    ag_tensor *x = ag_cast(ctx, ag_full(ctx, AG_STEP, 1e30, 1, (int64_t[]){3}), *(const ag_dtype *)user);

    return ag_sum(ctx, ag_square(ctx, ag_neg(ctx, x)), AG_ALL_AXES, false);
}

static ag_tensor *nothing_wrong(ag_ctx *ctx, void *user)
{
    (void)user;
    return ag_scalar(ctx, 1.0);
}

static void test_which_op(void **state)
{
    ag_ctx *ctx = one_thread();
    char text[128];

    (void)state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        ag_dtype dtype = bf16 ? AG_BF16 : AG_F32;
        train_find_nonfinite(ctx, overflow, &dtype, text, sizeof text);
        assert_string_equal(text, "unary [3]");
    }
    train_find_nonfinite(ctx, nothing_wrong, NULL, text, sizeof text);
    assert_string_equal(text, "the loss");
    check_ok(ctx, "search");
    ag_ctx_free(ctx);
}

/* --- refused before anything is loaded -------------------------------------------------------- */

static void test_early(void **state)
{
    texts t;
    train_options o = options_of(&t, "nowhere", "early");
    char place[300];

    (void)state; /* the model is not there: whoever speaks of something else spoke earlier */
    o.lr_scheduler = OPT_PIECEWISE_CONSTANT;
    o.lr_step_rules = "1:10;0.1";
    run_words(&o, AG_EINVAL, "piecewise_constant", "1:10;0.1");
    o.lr_scheduler = OPT_CONSTANT;
    o.torch_rng = o.same_timestep = true;
    run_words(&o, AG_EINVAL, "--torch_rng", "same_timestep");
    o.torch_rng = o.same_timestep = false;
    run_words(&o, AG_EIO, "nowhere", "");

    o = options_of(&t, "sound", "early"); /* places, before a picture is encoded */
    o.report_to = "wandb";
    run_words(&o, AG_EINVAL, "--report_to wandb", "tensorboard");
    o.report_to = "tensorboard";
    snprintf(place, sizeof place, "%s/faces/training_ages.npy/logs", root);
    o.logging_dir = place;
    run_words(&o, AG_EIO, "training_ages.npy", "folder");
    o.logging_dir = "logs";
    o.cache_dir = place;
    run_words(&o, AG_EIO, "training_ages.npy", "folder");

    o = options_of(&t, "sound", "sound");
    run_words(&o, AG_EINVAL, "--output_dir", "the model's own folder");
}

/* --- going on --------------------------------------------------------------------------------- */

static void test_overwriting(void **state)
{
    texts t;
    train_options o = options_of(&t, "sound", "again");

    (void)state;
    o.checkpointing_steps = 1;
    o.max_train_steps = 2;
    o.seed = 41;
    run(&o, AG_OK, NULL);
    assert_int_equal(check_count(t.output, "checkpoint-"), 2);

    o.max_train_steps = 1; /* told to start anew, with a wrong path: nothing is lost */
    o.overwrite_output_dir = true;
    o.instance_data_dir = check_join(root, "nowhere");
    run(&o, AG_EIO, NULL);
    assert_int_equal(check_count(t.output, "checkpoint-"), 2);
    o.instance_data_dir = t.images;
    run(&o, AG_OK, NULL); /* or "latest" would be the older run's second */
    assert_int_equal(check_count(t.output, "checkpoint-"), 1);
    assert_true(check_exists(check_join(t.output, "checkpoint-1")));
}

static void test_seed_goes_on(void **state)
{
    ag_ctx *ctx = one_thread();
    texts t;
    train_options o = options_of(&t, "sound", "again"); /* of test_overwriting */

    (void)state;
    assert_int_equal(train_resumed_seed(ctx, &o), -1);
    o.resume_from_checkpoint = "latest";
    assert_int_equal(train_resumed_seed(ctx, &o), 41);
    o.resume_from_checkpoint = "checkpoint-1";
    assert_int_equal(train_resumed_seed(ctx, &o), 41);
    o.resume_from_checkpoint = check_join(t.output, "checkpoint-1");
    assert_int_equal(train_resumed_seed(ctx, &o), 41);
    o.resume_from_checkpoint = "checkpoint-9";
    assert_int_equal(train_resumed_seed(ctx, &o), -1);
    o.resume_from_checkpoint = "latest";
    o.output_dir = root;
    assert_int_equal(train_resumed_seed(ctx, &o), -1);
    check_ok(ctx, "questions");
    ag_ctx_free(ctx);
}

/* Ages from the names of the pictures, when the labels are a folder. */
static void test_ages_of_names(void **state)
{
    texts t;
    train_options o = options_of(&t, "sound", "names");
    char from[400], to[300];
    size_t size;
    char *bytes;
    ag_ctx *ctx = one_thread();

    (void)state;
    snprintf(to, sizeof to, "%s/named", root);
    data_folder_make(ctx, to);
    ag_ctx_free(ctx);
    snprintf(from, sizeof from, "%s/00000.png", t.images);
    bytes = check_file(&size, from);
    check_file_write(check_join(to, "34_001.png"), bytes, size);
    free(bytes);
    o.instance_data_dir = o.instance_age_path = to;
    run(&o, AG_OK, NULL);
    assert_true(check_exists(check_join(t.output, "model_index.json")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_infinite_weight), cmocka_unit_test(test_which_op),
        cmocka_unit_test(test_early),           cmocka_unit_test(test_overwriting),
        cmocka_unit_test(test_seed_goes_on),    cmocka_unit_test(test_ages_of_names),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
