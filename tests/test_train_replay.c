/* test_train_replay.c - whole runs with recorded steps and without, on the device that AG_TEST_DEVICE names: the same
 * files and logs, resumed too, in f16 and with states on the host; resumed on another device; and what an update more
 * costs in waits and memory.
 */
#include "tests/run_check.h"

#include "data/weights.h"
#include "tests/cuda_host/cuda_host.h"
#include "train/checkpoint_hdf5.h"
#include "train/lora.h"
#include "train/personalize.h"
#include "train/specialize.h"

#pragma weak cuda_host_count

/* --- runs in processes of their own ------------------------------------------------------------- */

typedef struct counts {
    long of[CUDA_HOST_N_EVENTS];
} counts;

/* Train; the message of a failure and what was counted go into files beside the output. */
static ag_status run_on(ag_device device, trainer train, const train_options *o, bool graphs)
{
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = device, .n_threads = 1, .no_graphs = !graphs});
        json_t *config = json_pack("{s:I}", "seed", (json_int_t)o->seed);
        const ag_status status = ag_status_of(ctx) == AG_OK ? train(ctx, o, config) : ag_status_of(ctx);
        counts seen = {{0}};
        char path[512];
        for (int i = 0; cuda_host_count && i < CUDA_HOST_N_EVENTS; i++)
            seen.of[i] = cuda_host_count((enum cuda_host_event)i);
        snprintf(path, sizeof path, "%s.counts", o->output_dir);
        check_file_write(path, &seen, sizeof seen);
        snprintf(path, sizeof path, "%s.message", o->output_dir);
        check_file_write(path, ag_message(ctx), strlen(ag_message(ctx)));
        if (status != AG_OK)
            fprintf(stderr, "%s\n", ag_message(ctx));
        json_decref(config);
        ag_ctx_free(ctx);
        _exit((int)status);
    }
    return (ag_status)end(child);
}

static ag_status run(trainer train, const train_options *o, bool graphs)
{
    return run_on(check_device(), train, o, graphs);
}

static counts counts_of(const train_options *o)
{
    char path[512];
    size_t n;
    char *bytes;
    counts seen;

    snprintf(path, sizeof path, "%s.counts", o->output_dir);
    bytes = check_file(&n, path);
    assert_int_equal(n, sizeof seen);
    memcpy(&seen, bytes, sizeof seen);
    free(bytes);
    return seen;
}

static bool on_stand_ins(void)
{
    if (cuda_host_count && check_device() == AG_CUDA)
        return true;
    print_message("SKIP counting waits: the program is not linked with the stand-ins\n");
    return false;
}

/* --- recipes -------------------------------------------------------------------------------------- */

/* A LoRA with its text encoder's, dropout, an average, recompute, accumulation with a short tail. */
static train_options lora_options(texts *t, const char *name)
{
    train_options o = options_of(t, name);

    o.rank = 2;
    o.lora_dropout = 0.3;
    o.train_text_encoder = true;
    o.train_batch_size = 2;
    o.gradient_accumulation_steps = 2;
    o.snr_gamma = 5.0;
    o.ema_decay = 0.9;
    o.gradient_checkpointing = true;
    o.lr_scheduler = OPT_COSINE;
    return o;
}

/* Whole weights on pictures of several shapes, with masks. */
static train_options whole_options(texts *t, const char *name)
{
    train_options o = options_of(t, name);

    change_data(&o);
    o.gradient_accumulation_steps = 1;
    o.color_jitter = NULL;
    o.max_train_steps = 10;
    return o;
}

/* --- tests -------------------------------------------------------------------------------------- */

/* A LoRA of a recipe without recorded steps, with them, and from checkpoint-4: the same file. */
static void check_unbroken(const char *name, void (*change)(train_options *o))
{
    char names[2][64];
    texts t[3];
    train_options plain = lora_options(&t[0], name), repeated, parts;

    snprintf(names[0], sizeof names[0], "%s-graphs", name);
    snprintf(names[1], sizeof names[1], "%s-parts", name);
    repeated = lora_options(&t[1], names[0]);
    parts = lora_options(&t[2], names[1]);
    change(&plain);
    change(&repeated);
    change(&parts);
    assert_int_equal(run(train_specialize, &plain, false), AG_OK);
    assert_int_equal(run(train_specialize, &repeated, true), AG_OK);
    same_file(plain.output_dir, repeated.output_dir, TRAIN_LORA_FILE);
    same_log(plain.output_dir, repeated.output_dir);
    parts.checkpointing_steps = 2;
    assert_int_equal(run(train_specialize, &parts, true), AG_OK);
    same_file(plain.output_dir, parts.output_dir, TRAIN_LORA_FILE);
    parts.resume_from_checkpoint = "checkpoint-4";
    assert_int_equal(run(train_specialize, &parts, true), AG_OK);
    same_file(plain.output_dir, parts.output_dir, TRAIN_LORA_FILE);
    same_log(plain.output_dir, parts.output_dir);
    if (on_stand_ins()) {
        assert_int_equal(counts_of(&plain).of[CUDA_HOST_GRAPHS], 0);
        assert_true(counts_of(&repeated).of[CUDA_HOST_GRAPHS] > 0);
    }
}

static void change_nothing(train_options *o)
{
    (void)o;
}

static void test_lora(void **state)
{
    (void)state;
    check_unbroken("lora", change_nothing);
}

/* --- f16, and states on the host ------------------------------------------------------------------ */

/* Noise of so many times its size that gradients leave f16's range until the loss scale is small. */
static void change_half(train_options *o)
{
    o->mixed_precision = TRAIN_PRECISION_FP16;
    o->noise_offset = 300.0;
}

static void change_offload(train_options *o)
{
    o->offload_optimizer = true;
}

enum { SCALE, GOOD, SKIPPED, N_NUMBERS };

/* What a checkpoint says of the loss scale. */
static void scale_in(double numbers[N_NUMBERS], const char *output, const char *checkpoint)
{
    char path[1024];
    train_h5_reader *file = NULL;
    ag_ctx *ctx = one_thread();

    snprintf(path, sizeof path, "%s/%s/tensors-000.h5", output, checkpoint);
    train_h5_open(&file, ctx, path);
    train_h5_get(file, "loss_scale", AG_F64, 1, (int64_t[]){N_NUMBERS}, numbers);
    check_ok(ctx, path);
    train_h5_close(file);
    ag_ctx_free(ctx);
}

static void test_half(void **state)
{
    double at_4[N_NUMBERS], at_6[N_NUMBERS];
    texts t;
    const train_options o = options_of(&t, "half-parts");

    (void)state;
    if (check_device() != AG_CUDA)
        return; /* the CPU's kernels have no f16 */
    check_unbroken("half", change_half);
    scale_in(at_4, o.output_dir, "checkpoint-4");
    scale_in(at_6, o.output_dir, "checkpoint-6");
    assert_true(at_4[SKIPPED] > 0.0 && at_4[GOOD] > 0.0); /* there was something to keep */
    assert_true(at_4[SCALE] == 65536.0 * exp2(-at_4[SKIPPED]));
    assert_true(at_6[SCALE] == at_4[SCALE] && at_6[GOOD] == at_4[GOOD] + 2.0 && at_6[SKIPPED] == at_4[SKIPPED]);
}

/* Where states are kept makes no difference; test_lora() has run. */
static void test_offloaded(void **state)
{
    texts t[2];
    const train_options here = options_of(&t[0], "lora"), there = options_of(&t[1], "offloaded");

    (void)state;
    if (check_device() != AG_CUDA)
        return;
    check_unbroken("offloaded", change_offload);
    same_file(here.output_dir, there.output_dir, TRAIN_LORA_FILE);
    same_log(here.output_dir, there.output_dir);
}

/* --- from one device to another ------------------------------------------------------------------- */

/* Both logs have the same updates; losses and norms are near. */
static void near_log(const char *a, const char *b, double tolerance)
{
    FILE *file_a = fopen(check_join(a, "log.csv"), "r"), *file_b = fopen(check_join(b, "log.csv"), "r");
    char line_a[512], line_b[512];
    double x[5], y[5];

    assert_true(file_a && file_b);
    while (fgets(line_a, sizeof line_a, file_a)) {
        assert_non_null(fgets(line_b, sizeof line_b, file_b));
        if (sscanf(line_a, "%lf,%lf,%lf,%lf,%lf", &x[0], &x[1], &x[2], &x[3], &x[4]) != 5)
            continue; /* the names of columns */
        assert_int_equal(sscanf(line_b, "%lf,%lf,%lf,%lf,%lf", &y[0], &y[1], &y[2], &y[3], &y[4]), 5);
        for (int k = 0; k < 5; k++)
            if (!isnan(x[k]) || !isnan(y[k])) /* the norm of an update that was skipped */
                check_close(a, (int64_t)x[0], y[k], x[k], 0.0, k == 2 || k == 4 ? tolerance : 0.0);
    }
    assert_null(fgets(line_b, sizeof line_b, file_b));
    fclose(file_a);
    fclose(file_b);
}

/* Two files of weights: the norm of what differs beside that of what is there. */
static void near_weights(const char *a, const char *b, double tolerance)
{
    double difference = 0.0, size = 0.0;
    data_weights *of_a = NULL, *of_b = NULL;
    ag_ctx *ctx = one_thread();

    data_weights_open(&of_a, ctx, check_join(a, TRAIN_LORA_FILE));
    data_weights_open(&of_b, ctx, check_join(b, TRAIN_LORA_FILE));
    check_ok(ctx, "two LoRA files");
    for (int64_t i = 0; i < data_weights_count(of_a); i++) {
        const data_tensor *t = data_weights_at(of_a, i);
        float *x = calloc((size_t)t->n_values + 1, sizeof *x), *y = calloc((size_t)t->n_values + 1, sizeof *y);
        assert_true(x && y);
        data_weights_read_f32(ctx, of_a, i, x);
        data_weights_read_f32(ctx, of_b, data_weights_find(of_b, t->name), y);
        check_ok(ctx, t->name);
        for (int64_t k = 0; k < t->n_values; k++) {
            difference += pow((double)x[k] - (double)y[k], 2.0);
            size += pow((double)x[k], 2.0);
        }
        free(x);
        free(y);
    }
    check_close("weights", 0, sqrt(difference / size), 0.0, tolerance, 0.0);
    data_weights_close(of_a);
    data_weights_close(of_b);
    ag_ctx_free(ctx);
}

/* What makes small moments of rounding make small steps. */
static train_options steady_options(texts *t, const char *name)
{
    train_options o = lora_options(t, name);

    o.adam_epsilon = 1e-3;
    o.checkpointing_steps = 2;
    return o;
}

/* Two updates on the device, two on the CPU, two on the device again, beside six on the device. */
static void check_moving(const char *name, void (*change)(train_options *o), double tolerance)
{
    char moved_name[64];
    texts t[2];
    train_options stays, moves;

    snprintf(moved_name, sizeof moved_name, "%s-moved", name);
    stays = steady_options(&t[0], name);
    moves = steady_options(&t[1], moved_name);
    change(&stays);
    change(&moves);
    assert_int_equal(run(train_specialize, &stays, true), AG_OK);
    assert_int_equal(run(train_specialize, &moves, true), AG_OK);
    moves.resume_from_checkpoint = "checkpoint-2";
    moves.mixed_precision = TRAIN_PRECISION_NO;
    assert_int_equal(run_on(AG_CPU, train_specialize, &moves, true), AG_OK);
    near_log(stays.output_dir, moves.output_dir, tolerance);
    near_weights(stays.output_dir, moves.output_dir, tolerance);
    moves.resume_from_checkpoint = "checkpoint-4";
    moves.mixed_precision = stays.mixed_precision;
    assert_int_equal(run(train_specialize, &moves, true), AG_OK);
    near_log(stays.output_dir, moves.output_dir, tolerance);
    near_weights(stays.output_dir, moves.output_dir, tolerance);
}

static void test_moving(void **state)
{
    (void)state;
    if (check_device() == AG_CUDA)
        check_moving("steady", change_offload, 1e-4);
}

/* The scale, its good and its skipped updates go along, though the CPU computes in f32. */
static void test_moving_half(void **state)
{
    double stayed[N_NUMBERS], moved[N_NUMBERS];
    texts t[2];
    const train_options stays = options_of(&t[0], "steady-half"), moves = options_of(&t[1], "steady-half-moved");

    (void)state;
    if (check_device() != AG_CUDA)
        return;
    check_moving("steady-half", change_half, 2e-2);
    scale_in(stayed, stays.output_dir, "checkpoint-6");
    scale_in(moved, moves.output_dir, "checkpoint-6");
    assert_memory_equal(stayed, moved, sizeof stayed);
}

static void test_whole_model_of_several_shapes(void **state)
{
    texts t[2];
    const train_options plain = whole_options(&t[0], "whole"), repeated = whole_options(&t[1], "whole-graphs");

    (void)state;
    assert_int_equal(run(train_specialize, &plain, false), AG_OK);
    assert_int_equal(run(train_specialize, &repeated, true), AG_OK);
    same_model(plain.output_dir, repeated.output_dir);
    same_log(plain.output_dir, repeated.output_dir);
}

/* Three updates more: no wait for the stream, none for an event but that of the update before, and no memory. */
static void test_steady_updates_wait_for_nothing(void **state)
{
    texts t[2];
    train_options few = lora_options(&t[0], "few"), more = lora_options(&t[1], "more");
    counts a, b;

    (void)state;
    if (!on_stand_ins())
        return;
    more.gradient_accumulation_steps = few.gradient_accumulation_steps = 1;
    more.lr_scheduler = few.lr_scheduler = OPT_CONSTANT;
    few.max_train_steps = 6; /* each of two shapes was recorded */
    more.max_train_steps = 9;
    assert_int_equal(run(train_specialize, &few, true), AG_OK);
    assert_int_equal(run(train_specialize, &more, true), AG_OK);
    a = counts_of(&few);
    b = counts_of(&more);
    assert_int_equal(b.of[CUDA_HOST_WAITS], a.of[CUDA_HOST_WAITS]);
    assert_int_equal(b.of[CUDA_HOST_EVENT_WAITS], a.of[CUDA_HOST_EVENT_WAITS] + 3);
    assert_int_equal(b.of[CUDA_HOST_TAKES], a.of[CUDA_HOST_TAKES]);
    assert_int_equal(b.of[CUDA_HOST_GRAPHS], a.of[CUDA_HOST_GRAPHS] + 3 * 3); /* micro-step, update, average */
}

static void same_message(const char *a, const char *b)
{
    char name_a[64], name_b[64], *text_a, *text_b;
    size_t n_a, n_b;

    snprintf(name_a, sizeof name_a, "%s.message", a);
    snprintf(name_b, sizeof name_b, "%s.message", b);
    text_a = check_file(&n_a, check_join(root, name_a));
    text_b = check_file(&n_b, check_join(root, name_b));
    if (n_a != n_b || memcmp(text_a, text_b, n_a) != 0)
        fail_msg("\"%.*s\" and \"%.*s\"", (int)n_a, text_a, (int)n_b, text_b);
    free(text_a);
    free(text_b);
}

/* A rate that ends in numbers that are not finite: the same message, the same log, and no file. */
static void test_nonfinite(void **state)
{
    texts t[2];
    train_options plain = lora_options(&t[0], "burst"), repeated = lora_options(&t[1], "burst-graphs");

    (void)state;
    plain.learning_rate = repeated.learning_rate = 1e25;
    plain.optimizer = repeated.optimizer = OPT_SGD;
    plain.lr_scheduler = repeated.lr_scheduler = OPT_CONSTANT;
    assert_int_equal(run(train_specialize, &plain, false), AG_ENUMERIC);
    assert_int_equal(run(train_specialize, &repeated, true), AG_ENUMERIC);
    same_message("burst", "burst-graphs");
    same_log(plain.output_dir, repeated.output_dir);
    assert_false(check_exists(check_join(repeated.output_dir, TRAIN_LORA_FILE)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lora),
        cmocka_unit_test(test_half),
        cmocka_unit_test(test_offloaded),
        cmocka_unit_test(test_moving),
        cmocka_unit_test(test_moving_half),
        cmocka_unit_test(test_whole_model_of_several_shapes),
        cmocka_unit_test(test_steady_updates_wait_for_nothing),
        cmocka_unit_test(test_nonfinite),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
