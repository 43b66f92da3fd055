/* test_plan.c - the forecast of a training run, against the run.
 *
 * Runs happen in child processes, whose peak of resident memory the system tells. The forecast
 * must be within 10 % of it (the promise of `agewright plan`), and its tensors, without what a
 * process needs besides, within 1 % of what the run's own allocator has touched. Times depend on
 * what else the machine does; here they must only add up.
 */
#include "tests/train_check.h"

#include <sys/resource.h>
#include <sys/wait.h>

#include "cli/train.h"
#include "data/faces.h"
#include "data/file.h"
#include "data/resample.h"
#include "data/tokenizer.h"
#include "pipeline/pipeline.h"
#include "pipeline/presets.h"
#include "train/forecast.h"
#include "train/personalize.h"
#include "train/specialize.h"

#if defined(__SANITIZE_ADDRESS__)
enum { IS_SANITIZED = 1 }; /* its shadow is resident too */
#else
enum { IS_SANITIZED = 0 };
#endif

static char root[256]; /* holds model/, faces/, run/ */

/* --- the ground ------------------------------------------------------------------------------- */

/* OpenMP's threads do not survive a fork. */
static ag_ctx *one_thread(void)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.n_threads = 1});

    assert_non_null(ctx);
    check_ok(ctx, "a new context");
    return ctx;
}

/* The faces in three shapes. */
static void make_odd(ag_ctx *ctx)
{
    static const data_size sizes[] = {{64, 64}, {96, 60}, {50, 90}};

    data_folder_make(ctx, check_join(root, "odd"));
    for (int i = 0; i < 6; i++) {
        char name[64];
        data_image img = {0};

        snprintf(name, sizeof name, "faces/images/%05d.png", i);
        data_image_read(&img, ctx, check_join(root, name), 0);
        data_image_resize(&img, ctx, &img, sizes[i % 3].w, sizes[i % 3].h, DATA_BILINEAR);
        snprintf(name, sizeof name, "odd/%05d.png", i);
        data_image_write_png(ctx, &img, check_join(root, name));
        data_image_free(&img);
    }
}

static int set_up(void **state)
{
    ag_ctx *ctx = one_thread();
    data_faces_options faces = data_faces_defaults();
    pipe_model *model = NULL;
    pipe_preset p;
    int tiny = 0;

    (void)state;
    check_folder(root);
    while (strcmp(pipe_preset_names[tiny], "tiny") != 0)
        tiny++;
    pipe_preset_get(&p, tiny);
    pipe_new(&model, ctx, &p.unet, &p.vae, &p.text, &p.schedule, 7);
    check_ok(ctx, "model");
    pipe_save(ctx, model, check_join(root, "model"), AG_F32);
    data_folder_make(ctx, check_join(root, "model/tokenizer"));
    data_tokenizer_write_small(ctx, check_join(root, "model/tokenizer"));
    pipe_close(model);
    faces.count = 6;
    data_faces_write(ctx, check_join(root, "faces"), &faces, NULL, NULL);
    make_odd(ctx);
    check_ok(ctx, "files");
    ag_ctx_free(ctx);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    check_remove(root);
    return 0;
}

static train_options plain_options(void)
{
    static char model[512], pictures[512], ages[512], output[512];

    snprintf(model, sizeof model, "%s/model", root);
    snprintf(pictures, sizeof pictures, "%s/faces/images", root);
    snprintf(ages, sizeof ages, "%s/faces/training_ages.npy", root);
    snprintf(output, sizeof output, "%s/run", root);
    return (train_options){.pretrained_model_name_or_path = model,
                           .instance_data_dir = pictures,
                           .instance_age_path = ages,
                           .instance_prompt = "photo of a person",
                           .output_dir = output,
                           .logging_dir = "logs",
                           .report_to = "none",
                           .overwrite_output_dir = true,
                           .resolution = 64,
                           .seed = 1,
                           .train_batch_size = 1,
                           .gradient_accumulation_steps = 1,
                           .num_train_epochs = 1,
                           .max_train_steps = 3,
                           .mixed_precision = TRAIN_PRECISION_NO,
                           .learning_rate = 1e-4,
                           .adam_beta1 = 0.9,
                           .adam_beta2 = 0.999,
                           .adam_epsilon = 1e-8,
                           .max_grad_norm = 1.0};
}

/* --- memory ----------------------------------------------------------------------------------- */

/* A method and its forecast. */
typedef struct method {
    ag_status (*train)(ag_ctx *ctx, const train_options *options, json_t *config);
    train_foresee foresee;
    int64_t n_pictures; /* of plain_options() */
} method;

static const method SPECIALIZE = {train_specialize, train_specialize_forecast, 6};
static const method DREAMBOOTH = {train_dreambooth, train_dreambooth_forecast, 12};

/* Run in a child: the most that was resident, and what its allocator touched, in bytes. */
static void run_in_child(const method *m, const train_options *options, double *resident, double *touched)
{
    struct rusage usage;
    int ends[2], status;
    size_t bytes = 0;
    pid_t child;

    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        ag_ctx *ctx = one_thread();
        json_t *config = json_object();

        m->train(ctx, options, config);
        if (ag_status_of(ctx) != AG_OK)
            fprintf(stderr, "%s\n", ag_message(ctx));
        bytes = ag_bytes_touched(ctx);
        if (write(ends[1], &bytes, sizeof bytes) != sizeof bytes)
            _exit(1);
        _exit(ag_status_of(ctx) != AG_OK);
    }
    assert_int_equal(wait4(child, &status, 0, &usage), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(read(ends[0], &bytes, sizeof bytes), sizeof bytes);
    close(ends[0]);
    close(ends[1]);
    *resident = 1024.0 * (double)usage.ru_maxrss;
    *touched = (double)bytes;
}

static void memory_of(const method *m, const char *what, const train_options *options)
{
    ag_ctx *ctx = one_thread();
    double resident, touched, training, saving;
    train_forecast f;

    m->foresee(&f, ctx, options, 100, NULL);
    check_ok(ctx, what);
    ag_ctx_free(ctx);
    assert_true(f.has_pictures);
    assert_int_equal(f.n_pictures, m->n_pictures);
    run_in_child(m, options, &resident, &touched);
    training = (double)(f.stage[TRAIN_STAGE_TRAINING] - f.base);
    saving = (double)(f.stage[TRAIN_STAGE_SAVING] - f.base); /* and a buffer of the host's */
    if (touched < 0.99 * training || touched > 1.01 * saving)
        fail_msg("%s: %.1f to %.1f MB of tensors foreseen, %.1f taken", what, 1e-6 * training,
                 1e-6 * saving, 1e-6 * touched);
    if (options->mixed_precision == TRAIN_PRECISION_BF16) /* oneDNN has tens of megabytes of its own then */
        return;
    if (!IS_SANITIZED && fabs((double)f.peak - resident) > 0.1 * resident)
        fail_msg("%s: a peak of %.1f MB foreseen, %.1f seen", what, 1e-6 * (double)f.peak,
                 1e-6 * resident);
}

static void memory_is_as_foreseen(const char *what, const train_options *options)
{
    memory_of(&SPECIALIZE, what, options);
}

static void memory(void **state)
{
    train_options o = plain_options();

    (void)state;
    o.train_batch_size = 2;
    memory_is_as_foreseen("a batch of two", &o);
    o.train_batch_size = 5;
    memory_is_as_foreseen("a batch of five", &o);
    o.gradient_checkpointing = true;
    memory_is_as_foreseen("recompute", &o);
    o = plain_options();
    o.checkpointing_steps = 2;
    o.train_text_encoder = true;
    o.ema_decay = 0.99;
    o.no_cache = true;
    memory_is_as_foreseen("everything resident", &o);
    o = plain_options();
    o.instance_data_dir = check_join(root, "odd");
    o.aspect_ratio_buckets = true;
    o.bucket_step = 16;
    o.train_batch_size = 2;
    o.repeats = 2; /* two, or four in short batches, of each shape */
    o.max_train_steps = 0;
    o.alpha_mask = true;
    memory_is_as_foreseen("buckets", &o);
    o.color_jitter = "0.1";
    o.caption_dropout = 0.5;
    memory_is_as_foreseen("buckets, encoded each time", &o);
    o = plain_options();
    o.placeholder_token = "<her>";
    o.instance_prompt = "photo of a <her> person";
    o.only_embedding = true;
    o.train_batch_size = 6;
    memory_is_as_foreseen("a new word alone", &o);
    o = plain_options();
    o.class_data_dir = o.instance_data_dir;
    o.class_prompt = "photo of person";
    o.with_prior_preservation = true;
    o.prior_loss_weight = 1.0;
    memory_of(&DREAMBOOTH, "prior preservation", &o);
    o.rank = 4;
    o.train_batch_size = 4; /* so that tensors outweigh the process */
    o.train_text_encoder = true;
    o.prior_target = TRAIN_PRIOR_MODEL;
    memory_of(&DREAMBOOTH, "adapters", &o);
    o.mixed_precision = TRAIN_PRECISION_BF16;
    memory_of(&DREAMBOOTH, "adapters on halves", &o);
    o.validation_prompt = "photo of a person";
    o.num_validation_images = 1;
    o.validation_inference_steps = 2;
    o.validation_steps = 2;
    o.sample = cli_train_sample;
    o.train_text_encoder = false;
    memory_of(&DREAMBOOTH, "validation", &o);
    if (IS_SANITIZED)
        printf("SKIP resident memory: sanitizers have their own\n");
}

/* --- what is counted -------------------------------------------------------------------------- */

static void without_pictures(void **state)
{
    train_options o = plain_options();
    ag_ctx *ctx = one_thread();
    train_forecast f;

    (void)state;
    o.output_dir = check_join(root, "planned");
    o.instance_data_dir = "/nowhere";
    o.max_train_steps = 0;
    o.num_train_epochs = 2;
    o.train_batch_size = 4;
    o.gradient_accumulation_steps = 3;
    o.random_flip = true;
    train_specialize_forecast(&f, ctx, &o, 50, NULL);
    check_ok(ctx, "a forecast without pictures");
    assert_false(check_exists(o.output_dir)); /* nothing is written */
    assert_false(f.has_pictures);
    assert_int_equal(f.n_pictures, 50);
    assert_int_equal(f.n_encodings, 100);
    assert_int_equal(f.n_prompts, 51); /* 1 to 50 years, and none */
    assert_int_equal(f.rows, 8);
    assert_int_equal(f.n_updates, 10); /* 13 batches an epoch: 4 updates of 3, one of 1 */
    assert_int_equal(f.n_micro, 26);
    check_close("gradients", 0, (double)f.gradients, (double)f.weights, 0, 0.02);
    check_close("moments", 0, (double)f.moments, 2.0 * (double)f.gradients, 0, 0.02);
    assert_true(f.activations > 0 &&
                f.stage[TRAIN_STAGE_TRAINING] > f.weights + f.gradients + f.moments);
    ag_ctx_free(ctx);
}

static void times_add_up(void **state)
{
    train_options o = plain_options();
    ag_ctx *ctx = one_thread();
    train_work *work = NULL;
    train_work_kind kinds[TRAIN_WORK_KINDS];
    double by_kind = 0.0, by_phase = 0.0, flops = 0.0;
    train_forecast f;

    (void)state;
    train_work_new(&work, ctx);
    train_specialize_forecast(&f, ctx, &o, 10, work);
    train_forecast_measure(&f, work, ctx, 0.3);
    check_ok(ctx, "a measured forecast");
    for (int p = 0; p < TRAIN_N_PHASES; p++) {
        assert_true(f.seconds[p] > 0.0);
        by_phase += f.seconds[p]; /* kinds count every phase once */
    }
    train_work_kinds(work, kinds);
    for (int k = 0; k < TRAIN_WORK_KINDS; k++) {
        by_kind += kinds[k].seconds;
        flops += kinds[k].flops;
        assert_true(kinds[k].measured >= 0.0 && kinds[k].measured <= 1.0 + 1e-9);
    }
    check_close("kinds", 0, by_kind, by_phase, 0, 1e-9);
    assert_true(flops > 1e9);
    check_close("the whole run", 0, train_forecast_total(&f),
                f.seconds[TRAIN_PHASE_TEXT] + 6 * f.seconds[TRAIN_PHASE_PICTURE] +
                    3 * f.seconds[TRAIN_PHASE_MICRO] + 3 * f.seconds[TRAIN_PHASE_UPDATE],
                0, 1e-9);
    train_work_free(work);
    ag_ctx_free(ctx);
}

/* The work grows as the run's would. */
static void the_operations_are_the_runs(void **state)
{
    train_options o = plain_options();
    ag_ctx *ctx = one_thread();
    train_work *one = NULL, *four = NULL;
    train_work_kind a[TRAIN_WORK_KINDS], b[TRAIN_WORK_KINDS];
    train_forecast f;

    (void)state;
    train_work_new(&one, ctx);
    train_work_new(&four, ctx);
    train_specialize_forecast(&f, ctx, &o, 10, one);
    o.train_batch_size = 4;
    train_specialize_forecast(&f, ctx, &o, 10, four);
    check_ok(ctx, "two forecasts");
    train_work_kinds(one, a);
    train_work_kinds(four, b);
    /* a linear layer's arithmetic grows with the rows, the optimizer's does not; text and picture
     * passes are the same in both */
    assert_string_equal(a[2].name, "linear");
    assert_true(b[2].flops > 3.0 * a[2].flops && b[2].flops < 4.0 * a[2].flops);
    assert_string_equal(a[5].name, "optimizer");
    assert_true(b[5].flops == a[5].flops && a[5].flops > 0.0);
    train_work_free(one);
    train_work_free(four);
    ag_ctx_free(ctx);
}

/* --- advice ----------------------------------------------------------------------------------- */

static void advice(void **state)
{
    train_options o = plain_options();
    ag_ctx *ctx = one_thread();
    train_forecast f, less;
    char text[256];
    size_t peak;

    (void)state;
    o.train_batch_size = 6;
    train_specialize_forecast(&f, ctx, &o, 6, NULL);
    train_forecast_advise(text, sizeof text, &peak, ctx, &o, 6, f.peak - 1,
                          train_specialize_forecast);
    check_ok(ctx, "advice");
    assert_string_equal(text, "--gradient_checkpointing");
    o.gradient_checkpointing = true;
    train_specialize_forecast(&less, ctx, &o, 6, NULL);
    assert_int_equal(less.peak, peak);
    o.gradient_checkpointing = false;
    train_forecast_advise(text, sizeof text, &peak, ctx, &o, 6, peak - 1,
                          train_specialize_forecast);
    assert_string_equal(
        text, "--gradient_checkpointing --train_batch_size 1 --gradient_accumulation_steps 6");
    train_forecast_advise(text, sizeof text, &peak, ctx, &o, 6, 1, train_specialize_forecast);
    check_ok(ctx, "advice that there is none");
    assert_int_equal(peak, 0);
    assert_string_equal(text, "");
    ag_ctx_free(ctx);
}

static void a_run_without_memory_says_what_it_wants(void **state)
{
    train_options o = plain_options();
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.n_threads = 1, .limit_bytes = 30 << 20});

    (void)state;
    train_specialize(ctx, &o, NULL);
    check_failed_with(ctx, AG_ENOMEM, "; forecast of this run: 0.1 GiB, in use at most: 0.0");
    ag_ctx_free(ctx);
}

static void refusals(void **state)
{
    train_options o = plain_options();
    ag_ctx *ctx = one_thread();
    train_forecast f;

    (void)state;
    o.pretrained_model_name_or_path = "/nowhere/model";
    train_specialize_forecast(&f, ctx, &o, 6, NULL);
    check_failed_with(ctx, AG_EIO, "/nowhere/model");
    o = plain_options();
    o.instance_prompt = "portrait";
    train_specialize_forecast(&f, ctx, &o, 6, NULL);
    check_failed_with(ctx, AG_EINVAL, "--instance_prompt");
    o = plain_options();
    o.resolution = 65;
    train_specialize_forecast(&f, ctx, &o, 6, NULL);
    check_failed_with(ctx, AG_EINVAL, "resolution of 65 x 65");
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory),
        cmocka_unit_test(without_pictures),
        cmocka_unit_test(times_add_up),
        cmocka_unit_test(the_operations_are_the_runs),
        cmocka_unit_test(advice),
        cmocka_unit_test(a_run_without_memory_says_what_it_wants),
        cmocka_unit_test(refusals),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
