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

#include "autograd/gpu.h"
#include "cli/command.h"
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
    check_failed_with(ctx, AG_ENOMEM, "; forecast of this run: ");
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

/* --- on a GPU ----------------------------------------------------------------------------------- */

/* The forecast of AG_META in a GPU's stead, against a run there: tensors, and no less than the run's scratch. Engines of
 * the stand-ins want less workspace than a library may: 32 MiB for a product, 36 and a bit for a convolution. */
static void memory_of_gpu(const char *what, const train_options *options)
{
    ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META, .stands_for = AG_CUDA, .n_threads = 1});
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CUDA, .n_threads = 1});
    json_t *config = json_object();
    train_forecast f;
    double taken, most, open;

    train_specialize_forecast(&f, meta, options, 100, NULL);
    check_ok(meta, what);
    train_specialize(ctx, options, config);
    check_ok(ctx, what);
    taken = (double)(ag_bytes_touched(ctx) + ag_gpu_staging(ctx));
    most = (double)f.peak;
    open = (double)((40 << 20) + AG_GPU_STAGING_BYTES - ag_gpu_staging(ctx)); /* a long run takes all of the ring */
    if (f.device != AG_CUDA || f.host <= AG_GPU_STAGING_BYTES || taken > 1.01 * most || taken < most - open)
        fail_msg("%s: %.1f MB on the GPU foreseen, %.1f taken", what, 1e-6 * most, 1e-6 * taken);
    json_decref(config);
    ag_ctx_free(ctx);
    ag_ctx_free(meta);
}

static void memory_on_gpu(void **state)
{
    train_options o = plain_options();

    (void)state;
    memory_of_gpu("f32", &o);
    o.mixed_precision = TRAIN_PRECISION_FP16;
    o.gradient_checkpointing = true;
    o.train_batch_size = 2;
    memory_of_gpu("f16", &o);
    o.offload_optimizer = true;
    o.mixed_precision = TRAIN_PRECISION_AUTO;
    memory_of_gpu("states on the host", &o);
}

/* Where the states and the average are: not on the GPU. */
static void offloaded(void **state)
{
    ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META, .stands_for = AG_CUDA, .n_threads = 1});
    train_options o = plain_options();
    train_forecast here, there;

    (void)state;
    o.ema_decay = 0.99;
    train_specialize_forecast(&here, meta, &o, 6, NULL);
    o.offload_optimizer = true;
    train_specialize_forecast(&there, meta, &o, 6, NULL);
    check_ok(meta, "two forecasts");
    assert_true(here.moments > 0 && there.moments < here.moments / 100);
    assert_true(there.host >= here.host + here.moments - here.moments / 100 && there.peak < here.peak);
    ag_ctx_free(meta);
}

/* What a GPU gives room for is known without it. */
static void advice_for_gpu(void **state)
{
    ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META, .stands_for = AG_CUDA, .n_threads = 1});
    train_options o = plain_options();
    char text[256];
    train_forecast f;
    size_t peak;

    (void)state;
    o.gradient_checkpointing = true;
    train_specialize_forecast(&f, meta, &o, 6, NULL);
    train_forecast_advise(text, sizeof text, &peak, meta, &o, 6, f.peak - 1, train_specialize_forecast);
    check_ok(meta, "advice");
    assert_string_equal(text, "--offload_optimizer");
    assert_true(peak > 0 && peak < f.peak);
    assert_int_equal(train_planned_room(meta, (size_t)80 << 30), ((size_t)80 << 30) - TRAIN_GPU_BASE_BYTES);
    ag_ctx_free(meta);
}

/* This program again, as a run on a device of too few MiB: it ends with one line that says what would fit. */
static void a_gpu_without_memory_says_what_it_wants(void **state)
{
    ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META, .stands_for = AG_CUDA, .n_threads = 1});
    train_options o = plain_options();
    char command[1024], program[512], line[2048] = "", more[64];
    train_forecast f;
    ssize_t n;
    FILE *child;
    int code;

    (void)state;
    train_specialize_forecast(&f, meta, &o, 6, NULL);
    check_ok(meta, "a forecast");
    ag_ctx_free(meta);
    n = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(n > 0);
    program[n] = '\0';
    /* far below the forecast, which counts workspaces that the stand-ins do not take */
    snprintf(command, sizeof command, "CUDA_HOST_MIB=%zu '%s' starve '%s' 2>/dev/null", f.peak / 8 >> 20, program, root);
    child = popen(command, "r");
    assert_non_null(child);
    assert_non_null(fgets(line, sizeof line, child));
    assert_null(fgets(more, sizeof more, child));
    code = pclose(child);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 4);
    if (!strstr(line, "; forecast of this run on the GPU: ") || !strstr(line, "there is room for"))
        fail_msg("%s", line);
}

static int starve(const char *folder)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CUDA, .n_threads = 1});
    json_t *config = json_object();
    train_options o;
    int code;

    snprintf(root, sizeof root, "%s", folder);
    o = plain_options();
    train_specialize(ctx, &o, config);
    puts(ag_message(ctx));
    code = cli_exit_code(ag_status_of(ctx));
    json_decref(config);
    ag_ctx_free(ctx);
    return code;
}

static bool is_stand_in(void)
{
    ag_gpus gpus;

    ag_gpus_find(&gpus);
    return gpus.n > 0 && strstr(gpus.list[0].name, "stand-in");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory),
        cmocka_unit_test(without_pictures),
        cmocka_unit_test(times_add_up),
        cmocka_unit_test(the_operations_are_the_runs),
        cmocka_unit_test(advice),
        cmocka_unit_test(a_run_without_memory_says_what_it_wants),
        cmocka_unit_test(refusals),
        cmocka_unit_test(offloaded),
        cmocka_unit_test(advice_for_gpu),
    };
    const struct CMUnitTest on_gpu[] = {
        cmocka_unit_test(memory_on_gpu),
        cmocka_unit_test(offloaded),
        cmocka_unit_test(advice_for_gpu),
        cmocka_unit_test(a_gpu_without_memory_says_what_it_wants), /* last: only stand-ins can be made small */
    };

    if (argc == 3 && strcmp(argv[1], "starve") == 0)
        return starve(argv[2]);
    if (check_device() == AG_CUDA)
        return _cmocka_run_group_tests("plan on a GPU", on_gpu, is_stand_in() ? 4 : 3, set_up, tear_down);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
