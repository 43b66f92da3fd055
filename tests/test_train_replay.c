/* test_train_replay.c - whole runs with recorded steps and without, on the device that AG_TEST_DEVICE names: the same
 * files and logs, resumed too; and what an update more costs in waits and memory.
 */
#include "tests/run_check.h"

#include "tests/cuda_host/cuda_host.h"
#include "train/lora.h"
#include "train/personalize.h"
#include "train/specialize.h"

#pragma weak cuda_host_count

/* --- runs in processes of their own ------------------------------------------------------------- */

typedef struct counts {
    long of[CUDA_HOST_N_EVENTS];
} counts;

/* Train; the message of a failure and what was counted go into files beside the output. */
static ag_status run(trainer train, const train_options *o, bool graphs)
{
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        ag_ctx *ctx = ag_ctx_new(
            &(ag_ctx_options){.device = check_device(), .n_threads = 1, .no_graphs = !graphs});
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

static void test_lora(void **state)
{
    texts t[3];
    const train_options plain = lora_options(&t[0], "lora"), repeated = lora_options(&t[1], "lora-graphs");
    train_options parts = lora_options(&t[2], "lora-parts");

    (void)state;
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
        cmocka_unit_test(test_whole_model_of_several_shapes),
        cmocka_unit_test(test_steady_updates_wait_for_nothing),
        cmocka_unit_test(test_nonfinite),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
