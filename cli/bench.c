/* bench.c - agewright bench: time and memory of the full-size networks, one row a process.
 *
 * A row is a piece of work on random inputs, done once to warm up and then a few times; the best time
 * counts. scripts/bench.sh runs every row, then the same rows of the peers (scripts/bench_peer.py),
 * and has `agewright bench --report` put them side by side.
 *
 * A new row is one entry of ROWS and one function that does its work once.
 */
#include "cli/bench.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <jansson.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "autograd/random.h"
#include "cli/command.h"
#include "cli/profile.h"
#include "data/json.h"
#include "nn/adapter.h"
#include "pipeline/pipeline.h"
#include "train/diffusion.h"
#include "train/precision.h"
#include "train/state.h"

enum { MAX_BATCH = 64, MAX_REPEAT = 1000, TEXT_TOKENS = 77, UNET_FACTOR = 8, LORA_RANK = 16 };

typedef struct options {
    const char *model, *report, *output;
    int64_t px, batch, repeat;
    int row, precision, checkpointing, half;
    bool json;
    cli_device device;
} options;

/* A row at work. */
typedef struct bench {
    ag_ctx *ctx;
    cli_profile *profile; /* NULL: nobody asked */
    const options *o;
    int64_t batch, side; /* side of the latents */
    pipe_model *model;
    ag_dtype compute;
    bool checkpointing;
    ag_tensor *x, *context, *times, *cotangent, *noise, *tokens; /* inputs; those that the row needs */
    ag_tensor *update_times; /* of an update: train_diffusion_times() */
    ag_replay *replay;       /* of rows that are no updates */
    nn_adapters *unet_lora, *text_lora;
    train_state *state;
    pipe_noise schedule;
    train_diffusion diffusion;
} bench;

typedef struct row {
    const char *name;
    unsigned part;         /* the networks it needs */
    unsigned frozen;       /* of these, the ones that nothing updates */
    int64_t batch;         /* unless --batch says otherwise */
    bool checkpointing;    /* unless --gradient_checkpointing says otherwise */
    ag_status (*begin)(bench *b); /* inputs and state */
    ag_status (*once)(bench *b);  /* the work that is measured */
} row;

/* --- inputs ---------------------------------------------------------------------------------------- */

/* Normal values that stay for the whole run; `sample` tells draws apart. */
static ag_tensor *draw(bench *b, uint32_t sample, int n_dims, const int64_t *dims)
{
    const ag_draw of = {.purpose = AG_DRAW_TEST, .sample = sample};
    ag_tensor *t = ag_empty(b->ctx, AG_MODEL, AG_F32, n_dims, dims);
    float *values = t ? ag_new(b->ctx, (size_t)ag_numel(t), sizeof *values, "inputs") : NULL;

    if (values) {
        ag_draw_normals(&of, values, ag_numel(t));
        ag_write(b->ctx, t, values, ag_nbytes(t));
    }
    ag_delete(values);
    return t;
}

static void begin_unet(bench *b)
{
    const nn_unet_config *c = nn_unet_config_of(b->model->unet);
    float times[MAX_BATCH];

    b->side = b->o->px / UNET_FACTOR;
    b->x = draw(b, 0, 4, (int64_t[]){b->batch, b->side, b->side, c->in_channels});
    b->context = draw(b, 1, 3, (int64_t[]){b->batch, TEXT_TOKENS, c->cross_attention_dim});
    b->times = ag_empty(b->ctx, AG_MODEL, AG_F32, 1, &b->batch);
    for (int64_t i = 0; i < b->batch; i++)
        times[i] = 500.0f;
    if (b->times)
        ag_write(b->ctx, b->times, times, ag_nbytes(b->times));
}

/* --- the rows -------------------------------------------------------------------------------------- */

static ag_tensor *unet(bench *b)
{
    const nn_unet_options how = {.checkpointing = b->checkpointing, .compute = b->compute};

    return nn_unet_forward(b->ctx, b->model->unet, b->x, b->times, b->context, &how);
}

static ag_status forward_begin(bench *b)
{
    begin_unet(b);
    ag_record(b->ctx, false);
    return ag_status_of(b->ctx);
}

static ag_status forward_once(bench *b)
{
    unet(b);
    return ag_status_of(b->ctx);
}

/* Weights stay; the gradient goes to the latents and the text, as when either is optimised. */
static ag_status frozen_begin(bench *b)
{
    begin_unet(b);
    if (ag_status_of(b->ctx) != AG_OK)
        return ag_status_of(b->ctx);
    b->cotangent = draw(b, 2, 4, (int64_t[]){b->batch, b->side, b->side,
                                             nn_unet_config_of(b->model->unet)->out_channels});
    ag_set_requires_grad(b->ctx, b->x, true);
    ag_set_requires_grad(b->ctx, b->context, true);
    return ag_status_of(b->ctx);
}

static ag_status frozen_once(bench *b)
{
    ag_tensor *y = unet(b), *inputs[] = {b->x, b->context}, *grads[2] = {NULL, NULL};

    if (y)
        ag_grad(b->ctx, &y, &b->cotangent, 1, inputs, grads, 2, 0);
    return ag_status_of(b->ctx);
}

/* Timesteps that stay, as the latents do. */
static ag_status keep_times(bench *b)
{
    const ag_scope scope = ag_scope_open(b->ctx);
    int64_t times[MAX_BATCH];
    ag_tensor *t;

    for (int64_t i = 0; i < b->batch; i++)
        times[i] = 500;
    t = train_diffusion_times(b->ctx, &b->diffusion, times, b->batch);
    if (t)
        b->update_times = ag_empty(b->ctx, AG_MODEL, AG_F32, 2, ag_dims(t));
    if (b->update_times)
        ag_copy(b->ctx, b->update_times, t);
    ag_scope_close(b->ctx, scope, NULL);
    return ag_status_of(b->ctx);
}

/* What an update needs beside begin_unet(): noise, loss, clipping, AdamW. */
static ag_status begin_update(bench *b, const train_part *parts, int n_parts)
{
    const opt_config config = {.kind = OPT_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2};
    const opt_schedule schedule = {.kind = OPT_CONSTANT, .lr = 5e-6};

    if (ag_status_of(b->ctx) != AG_OK || pipe_noise_init(&b->schedule, b->ctx, &b->model->schedule) != AG_OK)
        return ag_status_of(b->ctx);
    b->noise = draw(b, 3, 4, ag_dims(b->x));
    b->diffusion = (train_diffusion){.unet = b->model->unet,
                                     .noise = &b->schedule,
                                     .unet_options = {.checkpointing = b->checkpointing, .compute = b->compute}};
    return keep_times(b) == AG_OK ? train_state_new(&b->state, b->ctx, parts, n_parts, &config, &schedule, 1.0, 0.0)
                                  : ag_status_of(b->ctx);
}

/* The mean loss of all rows; the text encoder says the context where its tokens are there. */
static ag_tensor *loss_of(ag_ctx *ctx, void *user, const train_inputs *in, ag_tensor **each)
{
    const bench *b = user;
    const nn_clip_options how = {.checkpointing = b->checkpointing, .compute = b->compute};
    const train_rows rows = {
        .n = b->batch,
        .latents = b->x,
        .noise = b->noise,
        .times = b->update_times,
        .context = b->tokens ? nn_clip_text_forward(ctx, b->model->text, b->tokens, &how) : b->context};

    (void)in;
    *each = train_diffusion_loss(ctx, &b->diffusion, &rows);
    return *each ? ag_mean(ctx, *each, AG_ALL_AXES, false) : NULL;
}

/* factor * the loss, its gradients, an update. */
static ag_status update(bench *b, double factor)
{
    const train_inputs none = {{NULL}};
    train_outcome done;

    if (train_state_micro(b->ctx, b->state, loss_of, b, &none, factor) == AG_OK &&
        train_state_begin(b->ctx, b->state) == AG_OK)
        train_state_end(&done, b->ctx, b->state);
    return ag_status_of(b->ctx);
}

/* One update of every weight of the U-Net, as `agewright specialize` makes it. */
static ag_status full_begin(bench *b)
{
    const train_part part = {.params = nn_unet_params(b->model->unet), .prefix = "unet."};

    begin_unet(b);
    nn_params_train(b->ctx, part.params, NULL, true);
    return begin_update(b, &part, 1);
}

static ag_status full_once(bench *b)
{
    return update(b, 1.0);
}

/* LoRA on every attention of a network; the rest is frozen. */
static ag_status adapt(bench *b, nn_adapters **set, nn_params *base, const char *const *targets, int64_t n)
{
    const nn_lora_config config = {.rank = LORA_RANK, .targets = targets, .n_targets = n};

    return nn_adapters_new(set, b->ctx, base, &config);
}

static ag_status adapt_unet(bench *b)
{
    static const char *const TARGETS[] = {"to_q", "to_k", "to_v", "to_out.0"};

    begin_unet(b);
    return adapt(b, &b->unet_lora, nn_unet_params(b->model->unet), TARGETS, 4);
}

static ag_status lora_begin(bench *b)
{
    if (adapt_unet(b) != AG_OK)
        return ag_status_of(b->ctx);
    return begin_update(b, &(train_part){.params = nn_adapters_params(b->unet_lora), .prefix = "unet."}, 1);
}

/* Pictures of a person and as many of others, whose loss is added; the text encoder learns too. */
static ag_status prior_begin(bench *b)
{
    static const char *const TARGETS[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    const int64_t vocabulary = nn_clip_text_config_of(b->model->text)->vocab_size;
    int64_t tokens[MAX_BATCH * TEXT_TOKENS];
    train_part parts[2];

    if (b->batch % 2)
        return ag_fail(b->ctx, AG_EINVAL, "this row takes pairs: want an even --batch, got %lld", (long long)b->batch);
    if (adapt_unet(b) != AG_OK ||
        adapt(b, &b->text_lora, nn_clip_text_params(b->model->text), TARGETS, 4) != AG_OK ||
        !(b->tokens = ag_empty(b->ctx, AG_MODEL, AG_I64, 2, (int64_t[]){b->batch, TEXT_TOKENS})))
        return ag_status_of(b->ctx);
    for (int64_t i = 0; i < b->batch * TEXT_TOKENS; i++)
        tokens[i] = i * 7 % vocabulary;
    ag_write(b->ctx, b->tokens, tokens, ag_nbytes(b->tokens));
    parts[0] = (train_part){.params = nn_adapters_params(b->unet_lora), .prefix = "unet."};
    parts[1] = (train_part){.params = nn_adapters_params(b->text_lora), .prefix = "text_encoder."};
    return begin_update(b, parts, 2);
}

static ag_status prior_once(bench *b)
{
    return update(b, 2.0); /* the mean of one half plus the mean of the other */
}

static ag_status encode_begin(bench *b)
{
    b->x = draw(b, 0, 4, (int64_t[]){b->batch, b->o->px, b->o->px, nn_vae_config_of(b->model->vae)->in_channels});
    ag_record(b->ctx, false);
    return ag_status_of(b->ctx);
}

static ag_status encode_once(bench *b)
{
    const nn_vae_options how = {.compute = b->compute};

    nn_vae_encode(b->ctx, b->model->vae, b->x, &how);
    return ag_status_of(b->ctx);
}

static ag_status decode_begin(bench *b)
{
    b->side = b->o->px / nn_vae_factor(b->model->vae);
    b->x = draw(b, 0, 4, (int64_t[]){b->batch, b->side, b->side, nn_vae_config_of(b->model->vae)->latent_channels});
    ag_record(b->ctx, false);
    return ag_status_of(b->ctx);
}

static ag_status decode_once(bench *b)
{
    const nn_vae_options how = {.compute = b->compute};

    nn_vae_decode(b->ctx, b->model->vae, b->x, &how);
    return ag_status_of(b->ctx);
}

static const row ROWS[] = {
    {"unet_forward", PIPE_UNET, PIPE_UNET, 1, false, forward_begin, forward_once},
    {"unet_frozen", PIPE_UNET, PIPE_UNET, 1, false, frozen_begin, frozen_once},
    {"unet_full", PIPE_UNET, 0, 2, false, full_begin, full_once},
    {"lora_step", PIPE_UNET, PIPE_UNET, 1, false, lora_begin, full_once},
    {"lora_prior_step", PIPE_UNET | PIPE_TEXT, PIPE_UNET | PIPE_TEXT, 2, false, prior_begin, prior_once},
    {"vae_encode", PIPE_VAE, PIPE_VAE, 1, false, encode_begin, encode_once},
    {"vae_decode", PIPE_VAE, PIPE_VAE, 1, false, decode_begin, decode_once},
};
/* In the order of ROWS. */
static const char *const ROW_NAMES[] = {"unet_forward",    "unet_frozen", "unet_full",  "lora_step",
                                        "lora_prior_step", "vae_encode",  "vae_decode", NULL};

/* --- measuring ------------------------------------------------------------------------------------- */

typedef struct measured {
    double open, best, worst, mean, cpu, gb;
} measured;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool is_on_gpu(const bench *b)
{
    return ag_ctx_device(b->ctx) == AG_CUDA;
}

/* Processor seconds of this process, all threads. */
static double cpu_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The most memory this process held: on a GPU, tensors there. */
static double peak_gb(const bench *b)
{
    struct rusage usage;

    if (is_on_gpu(b)) {
        size_t bytes = 0;
        for (int l = 0; l < AG_N_LIFETIMES; l++)
            bytes += ag_bytes_peak(b->ctx, (ag_lifetime)l);
        return 1e-9 * (double)bytes;
    }
    getrusage(RUSAGE_SELF, &usage);
    return 1e-9 * 1024.0 * (double)usage.ru_maxrss;
}

typedef struct one_of {
    bench *b;
    const row *r;
} one_of;

static void do_round(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    const one_of *u = user;

    (void)ctx;
    (void)in;
    (void)out;
    u->r->once(u->b);
}

/* An update is repeated by its state, in parts. */
static ag_status one_round(bench *b, const row *r)
{
    const ag_scope scope = ag_scope_open(b->ctx);
    const ag_replay_work work = {.fn = do_round, .user = &(one_of){b, r}};

    if (b->state)
        r->once(b);
    else
        ag_replay_run(b->replay, &work, NULL);
    ag_scope_close(b->ctx, scope, NULL);
    return ag_wait(b->ctx);
}

static ag_status measure(bench *b, const row *r, measured *m)
{
    const int64_t n = b->o->repeat;

    if (r->begin(b) != AG_OK || ag_replay_new(&b->replay, b->ctx, NULL) != AG_OK)
        return ag_status_of(b->ctx);
    for (int warm = 0; warm < (is_on_gpu(b) ? 2 : 1); warm++) /* on a GPU the second is recorded */
        if (one_round(b, r) != AG_OK)
            return ag_status_of(b->ctx);
    cli_profile_begin(b->profile, (int)n);
    for (int64_t i = 0; i < n && ag_status_of(b->ctx) == AG_OK; i++) {
        const double start = now(), cpu = cpu_now();
        one_round(b, r);
        const double time = now() - start;
        if (i == 0 || time < m->best) {
            m->best = time;
            m->cpu = cpu_now() - cpu;
        }
        m->worst = time > m->worst ? time : m->worst;
        m->mean += time / (double)n;
    }
    m->gb = peak_gb(b);
    return ag_status_of(b->ctx);
}

/* 0 threads: a GPU did the work. */
static ag_status print_json(const bench *b, const row *r, const measured *m)
{
    json_t *line = json_pack("{s:s, s:s, s:I, s:I, s:i, s:s, s:f, s:f, s:f, s:f, s:f, s:f}", "side", "ours",
                             "row", r->name, "px", (json_int_t)b->o->px, "batch", (json_int_t)b->batch,
                             "threads", is_on_gpu(b) ? 0 : ag_ctx_threads(b->ctx),
                             "dtype", ag_dtype_name(b->compute), "seconds", m->best, "gb", m->gb,
                             "mean_s", m->mean, "worst_s", m->worst, "cpu_s", m->cpu, "open_s", m->open);
    char *text = data_json_dump(b->ctx, line, 0);

    if (text)
        printf("%s\n", text);
    ag_delete(text);
    json_decref(line);
    return ag_status_of(b->ctx);
}

static void print_plain(const bench *b, const row *r, const measured *m)
{
    printf("%s  %lld px, batch %lld, %d threads, %s: %.3f s (best of %lld, mean %.3f, processor %.3f), at most %.2f GB, "
           "opened in %.2f s\n",
           r->name, (long long)b->o->px, (long long)b->batch, ag_ctx_threads(b->ctx), ag_dtype_name(b->compute),
           m->best, (long long)b->o->repeat, m->mean, m->cpu, m->gb, m->open);
    for (int l = 0; l < AG_N_LIFETIMES; l++) {
        static const char *const NAMES[] = {"parameters and their like", "activations", "workspace",
                                            "states in host memory"};
        printf("  %-26s %8.3f GB at most\n", NAMES[l], 1e-9 * (double)ag_bytes_peak(b->ctx, (ag_lifetime)l));
    }
}

/* --- the command ------------------------------------------------------------------------------------- */

#define AT(field) offsetof(options, field)

static const char *const PRECISIONS[] = {"auto", "no", "bf16", "fp16", NULL};
static const char *const AUTO[] = {"auto", "on", "off", NULL};

static const cli_flag FLAGS[] = {
    {.name = "row", .kind = CLI_CHOICE, .offset = AT(row), .choices = ROW_NAMES,
     .fallback = "unet_forward", .help = "what to measure"},
    {.name = "model", .kind = CLI_TEXT, .offset = AT(model), .value = "DIR",
     .help = "the model; agewright init writes one of random values"},
    {.name = "px", .kind = CLI_INT, .offset = AT(px), .value = "N", .fallback = "512", .low = 8, .high = 4096,
     .help = "side of the picture"},
    {.name = "batch", .kind = CLI_INT, .offset = AT(batch), .value = "N", .fallback = "0", .low = 0, .high = MAX_BATCH,
     .help = "pictures at a time; 0: 1, and 2 for unet_full (the double prompt) and lora_prior_step"},
    {.name = "repeat", .kind = CLI_INT, .offset = AT(repeat), .value = "N", .fallback = "3", .low = 1,
     .high = MAX_REPEAT, .help = "the best of so many counts, after one to warm up (two on a GPU)"},
    {.name = "mixed_precision", .kind = CLI_CHOICE, .offset = AT(precision), .choices = PRECISIONS,
     .fallback = "auto", .help = "auto is bf16 on a GPU and where the CPU has AMX, else f32"},
    {.name = "gradient_checkpointing", .kind = CLI_CHOICE, .offset = AT(checkpointing), .choices = AUTO,
     .fallback = "auto", .help = "compute activations again in the backward pass; auto: where the row needs it"},
    {.name = "half_weights", .kind = CLI_CHOICE, .offset = AT(half), .choices = AUTO, .fallback = "auto",
     .help = "keep weights that nothing updates in bf16; auto: where activations are bf16"},
    {.name = "json", .kind = CLI_SWITCH, .offset = AT(json), .help = "print one line of JSON, for --report"},
    {.name = "report", .kind = CLI_TEXT, .offset = AT(report), .value = "FILE",
     .help = "measure nothing: put the lines that --json and the peers' scripts wrote side by side"},
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "FILE.json",
     .help = "with --report: where the rows go"},
    {0},
};

static const cli_group GROUPS[] = {
    {"what to measure", FLAGS, 0}, {"the machine", cli_device_flags, offsetof(options, device)}, {0}};

static const cli_syntax SYNTAX = {
    .command = "bench",
    .usage = "--row ROW --model DIR | --report FILE --output FILE.json",
    .summary = "Measure one piece of work of a full-size model: seconds, and the most memory this process held. "
               "`make bench` runs all of them, beside PyTorch where it is installed.",
    .groups = GROUPS,
};

static ag_status run_row(ag_ctx *ctx, const options *o, cli_profile *profile)
{
    const row *r = &ROWS[o->row];
    pipe_source source = {.model = o->model};
    bench *b = ag_new(ctx, 1, sizeof *b, "bench");
    measured m = {0};

    if (!b)
        return ag_status_of(ctx);
    b->ctx = ctx;
    b->profile = profile;
    b->o = o;
    b->batch = o->batch ? o->batch : r->batch;
    b->checkpointing = o->checkpointing == 0 ? r->checkpointing : o->checkpointing == 1;
    b->compute = train_compute_dtype(ctx, o->precision);
    source.half_dtype = b->compute == AG_F16 ? AG_F16 : AG_BF16;
    if (o->half == 0 ? b->compute != AG_F32 : o->half == 1)
        source.half_parts = r->frozen;
    m.open = -now();
    if (ag_status_of(ctx) == AG_OK && pipe_open(&b->model, ctx, &source, r->part) == AG_OK) {
        m.open += now();
        if (measure(b, r, &m) == AG_OK && (!o->json || print_json(b, r, &m) != AG_OK))
            print_plain(b, r, &m);
    }
    ag_replay_free(b->replay);
    train_state_free(b->state);
    ag_release(b->update_times);
    ag_release(b->x);
    ag_release(b->context);
    ag_release(b->times);
    ag_release(b->cotangent);
    ag_release(b->noise);
    ag_release(b->tokens);
    nn_adapters_free(b->unet_lora);
    nn_adapters_free(b->text_lora);
    pipe_close(b->model);
    ag_delete(b);
    return ag_status_of(ctx);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;

    if (o->report) {
        if (!o->output)
            return ag_fail(ctx, AG_EINVAL, "--report needs --output");
        return bench_report(ctx, o->report, o->output);
    }
    if (!o->model)
        return ag_fail(ctx, AG_EINVAL, "--model is required");
    return run_row(ctx, o, parsed->profile);
}

int cli_bench(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), offsetof(options, device), argc, argv, body);
}
