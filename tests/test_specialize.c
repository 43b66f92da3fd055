/* test_specialize.c - FADING's specialisation from a folder of pictures to a model's folder, on a
 * tiny model and painted faces: a run that was stopped, killed or resumed gives the bits of an
 * unbroken one.
 *
 * Runs happen in child processes, as they do in life: each begins with nothing but its files.
 */
#include "tests/run_check.h"

#include <signal.h>

#include "train/checkpoint.h"
#include "train/specialize.h"

static pid_t start(const train_options *options)
{
    return start_with(train_specialize, options);
}

static void run_ok(const train_options *options)
{
    assert_int_equal(end(start(options)), AG_OK);
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

    /* the rest differs in what the host does */
    const size_t n = check_device() == AG_CPU ? sizeof variants / sizeof *variants : 3;

    (void)state;
    for (size_t i = 0; i < n; i++)
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

/* kill -9 anywhere, again and again, always going on from the latest. */
static void test_killed(void **state)
{
    texts whole_texts, parts_texts;
    train_options whole = options_of(&whole_texts, "long"),
                  parts = options_of(&parts_texts, "killed");
    uint64_t seed = 9;
    int n_kills = 0;

    (void)state;
    whole.max_train_steps = parts.max_train_steps = check_device() == AG_CPU ? 40 : 10;
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

/* A new word, alone or beside the U-Net: its file is the same from a resumed run; alone, nothing else is written. */
static void check_word(const char *name, bool alone)
{
    texts whole_texts, parts_texts;
    train_options whole = options_of(&whole_texts, name), parts;
    char other[64];

    snprintf(other, sizeof other, "%s-parts", name);
    whole.placeholder_token = "<her>";
    whole.num_vectors = 2;
    whole.instance_prompt = "photo of a <her> person";
    whole.only_embedding = alone;
    whole.embedding_lr = 0.01;
    parts = whole;
    parts.output_dir = options_of(&parts_texts, other).output_dir;
    run_ok(&whole);
    parts.checkpointing_steps = 2;
    run_ok(&parts);
    check_remove(check_join(parts.output_dir, "learned_embeds.safetensors"));
    parts.resume_from_checkpoint = "checkpoint-2";
    run_ok(&parts);
    same_file(whole.output_dir, parts.output_dir, "learned_embeds.safetensors");
    same_log(whole.output_dir, parts.output_dir);
    assert_int_equal(check_exists(check_join(whole.output_dir, "unet")), !alone);
    if (!alone) {
        same_model(whole.output_dir, parts.output_dir);
        same_file(whole.output_dir, check_join(root, "model"), "text_encoder/model.safetensors");
    }
}

static void test_word(void **state)
{
    texts t;
    train_options o = options_of(&t, "refused");

    (void)state;
    check_word("word", true);
    check_word("word-and-unet", false);
    o.only_embedding = true;
    refused(&o, AG_EINVAL, "--placeholder_token, which is not given");
    o.placeholder_token = "<her>";
    refused(&o, AG_EINVAL, "--placeholder_token <her>: no prompt has it");
    o.train_text_encoder = true;
    refused(&o, AG_EINVAL, "wanted one of them");
    o = options_of(&t, "refused");
    o.placeholder_token = "person</w>";
    refused(&o, AG_EINVAL, "is a token already");
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
        cmocka_unit_test(test_word),
        cmocka_unit_test(test_diverged),
        cmocka_unit_test(test_prompts),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
