/* plan.c - agewright plan: memory and time of a command before it runs. */
#include <stdio.h>
#include <string.h>

#include "autograd/gpu.h"
#include "cli/train.h"
#include "data/file.h"
#include "data/json.h"

typedef struct options {
    cli_train_options command; /* of the command that is foreseen, first: its groups fill it */
    const cli_trainer *trainer;
    int64_t pictures;
    double measure, gpu_memory;
    bool json;
} options;

#define AT(field) offsetof(options, field)

static const cli_flag PLAN_FLAGS[] = {
    {.name = "measure_seconds", .kind = CLI_REAL, .offset = AT(measure), .value = "S",
     .fallback = "10", .low = 0, .high = 3600,
     .help = "how long to measure this machine for the forecast of time; 0: memory only"},
    {.name = "pictures", .kind = CLI_INT, .offset = AT(pictures), .value = "N", .fallback = "150",
     .low = 1, .high = 1e8, .help = "how many to assume while --instance_data_dir is not there"},
    {.name = "gpu_memory", .kind = CLI_REAL, .offset = AT(gpu_memory), .value = "GIB", .fallback = "0", .low = 0,
     .high = 1e6, .help = "with --device cuda: the memory of the GPU, which need not be in this machine; 0: of the one that is"},
    {.name = "json", .kind = CLI_SWITCH, .offset = AT(json), .help = "print JSON"},
    {0},
};

/* The commands that can be foreseen. */
static const cli_trainer *const TRAINERS[] = {&cli_specializer, &cli_personalizer, &cli_dreamer};
enum { N_TRAINERS = sizeof TRAINERS / sizeof *TRAINERS, MAX_GROUPS = 24 };

static const double GIB = 1073741824.0;

/* --- as a table ------------------------------------------------------------------------------- */

static void print_time(double seconds)
{
    if (seconds < 1.0)
        printf("%.1f ms", 1e3 * seconds);
    else if (seconds < 120.0)
        printf("%.1f s", seconds);
    else if (seconds < 7200.0)
        printf("%.0f min", seconds / 60.0);
    else
        printf("%.1f h", seconds / 3600.0);
}

static size_t room_of(const ag_ctx *ctx, const options *o)
{
    return train_planned_room(ctx, (size_t)(o->gpu_memory * GIB));
}

static void print_memory(const train_forecast *f)
{
    printf("%-12s %10s\n", "stage", f->device == AG_CUDA ? "on the GPU" : "resident");
    for (int s = 0; s < TRAIN_N_STAGES; s++)
        printf("%-12s %6.2f GiB%s\n", train_stage_names[s], (double)f->stage[s] / GIB,
               f->stage[s] == f->peak ? "  <- peak" : "");
    printf("training holds: weights %.2f, gradients %.2f, moments %.2f, activations %.2f, scratch "
           "%.2f GiB; ",
           (double)f->weights / GIB, (double)f->gradients / GIB, (double)f->moments / GIB,
           (double)f->activations / GIB, (double)f->scratch / GIB);
    if (f->device == AG_CUDA)
        printf("copies pass through %.2f, in host memory at least %.2f\n", (double)f->base / GIB, (double)f->host / GIB);
    else
        printf("the process itself %.2f\n", (double)f->base / GIB);
}

static void print_kinds(const train_work *work)
{
    train_work_kind kinds[TRAIN_WORK_KINDS];
    double total = 0.0;

    train_work_kinds(work, kinds);
    for (int k = 0; k < TRAIN_WORK_KINDS; k++)
        total += kinds[k].seconds;
    printf("\n%-26s %7s %9s %9s %10s\n", "operations", "share", "GF/s", "GB/s", "measured");
    for (int k = 0; k < TRAIN_WORK_KINDS; k++)
        if (kinds[k].seconds > 0.0)
            printf("%-26s %6.1f%% %9.1f %9.1f %9.0f%%\n", kinds[k].name,
                   100.0 * kinds[k].seconds / total, 1e-9 * kinds[k].flops / kinds[k].seconds,
                   1e-9 * kinds[k].bytes / kinds[k].seconds, 100.0 * kinds[k].measured);
}

static void print_times(const train_forecast *f, const train_work *work)
{
    double times[TRAIN_WORK_PHASES];

    train_forecast_times(f, times);
    printf("\n%-12s %12s %10s\n", "work", "times", "each");
    for (int p = 0; p < TRAIN_N_PHASES; p++) {
        printf("%-12s %12.0f %10s", train_phase_names[p], times[p], "");
        print_time(f->seconds[p]);
        printf("\n");
    }
    printf("a step (update) takes ");
    print_time((double)f->n_micro / (double)f->n_updates * f->seconds[TRAIN_PHASE_MICRO] +
               f->seconds[TRAIN_PHASE_UPDATE]);
    printf(", the run ");
    print_time(train_forecast_total(f));
    printf(" (first run: no kept latents)\n");
    print_kinds(work);
}

static ag_status print_fit(ag_ctx *ctx, const options *o, const train_forecast *f)
{
    const size_t room = room_of(ctx, o);
    char advice[256];
    size_t peak = 0;

    if (room == SIZE_MAX)
        return AG_OK;
    printf("\npeak %.2f GiB, room on %s %.2f GiB: ", (double)f->peak / GIB,
           f->device == AG_CUDA ? "the GPU, beside its driver and libraries," : "this machine", (double)room / GIB);
    if (f->peak <= room) {
        printf("fits\n");
        return AG_OK;
    }
    if (train_forecast_advise(advice, sizeof advice, &peak, ctx, &o->command.train, o->pictures, room,
                              o->trainer->foresee) != AG_OK)
        return ag_status_of(ctx);
    if (peak)
        printf("does not fit; %s takes %.2f GiB\n", advice, (double)peak / GIB);
    else
        printf("does not fit, with no flags\n");
    return AG_OK;
}

/* --- as JSON ---------------------------------------------------------------------------------- */

static ag_status print_json(ag_ctx *ctx, const options *o, const train_forecast *f)
{
    const size_t room = room_of(ctx, o);
    json_t *root = json_object(), *stages = json_object(), *seconds = json_object();
    char advice[256] = "";
    size_t peak = 0;
    char *text = NULL;

    for (int s = 0; s < TRAIN_N_STAGES; s++)
        json_object_set_new(stages, train_stage_names[s], json_integer((json_int_t)f->stage[s]));
    for (int p = 0; p < TRAIN_N_PHASES && o->measure > 0.0; p++)
        json_object_set_new(seconds, train_phase_names[p], json_real(f->seconds[p]));
    if (o->measure > 0.0) {
        const double steps = (double)f->n_micro / (double)f->n_updates;

        json_object_set_new(seconds, "step",
                            json_real(steps * f->seconds[TRAIN_PHASE_MICRO] +
                                      f->seconds[TRAIN_PHASE_UPDATE]));
        json_object_set_new(seconds, "run", json_real(train_forecast_total(f)));
    }
    if (f->peak > room &&
        train_forecast_advise(advice, sizeof advice, &peak, ctx, &o->command.train, o->pictures, room,
                              o->trainer->foresee) != AG_OK)
        goto out;
    json_object_set_new(root, "pictures", json_integer(f->n_pictures));
    json_object_set_new(root, "pictures_found", json_boolean(f->has_pictures));
    json_object_set_new(root, "prompts", json_integer(f->n_prompts));
    json_object_set_new(root, "rows", json_integer(f->rows));
    json_object_set_new(root, "updates", json_integer(f->n_updates));
    json_object_set_new(root, "micro_steps", json_integer(f->n_micro));
    json_object_set_new(root, "weights_bytes", json_integer((json_int_t)f->weights));
    json_object_set_new(root, "gradients_bytes", json_integer((json_int_t)f->gradients));
    json_object_set_new(root, "moments_bytes", json_integer((json_int_t)f->moments));
    json_object_set_new(root, "activations_bytes", json_integer((json_int_t)f->activations));
    json_object_set_new(root, "scratch_bytes", json_integer((json_int_t)f->scratch));
    json_object_set_new(root, "device", json_string(f->device == AG_CUDA ? "cuda" : "cpu"));
    json_object_set_new(root, "base_bytes", json_integer((json_int_t)f->base));
    json_object_set_new(root, "host_bytes", json_integer((json_int_t)f->host));
    json_object_set_new(root, "peak_bytes", json_integer((json_int_t)f->peak));
    if (room != SIZE_MAX)
        json_object_set_new(root, "room_bytes", json_integer((json_int_t)room));
    json_object_set_new(root, "fits", json_boolean(f->peak <= room));
    if (peak)
        json_object_set_new(root, "would_fit", json_string(advice));
    json_object_set(root, "stages_bytes", stages);
    json_object_set(root, "seconds", seconds);
    text = data_json_dump(ctx, root, 2);
    if (text)
        puts(text);
out:
    ag_delete(text);
    json_decref(seconds);
    json_decref(stages);
    json_decref(root);
    return ag_status_of(ctx);
}

/* --- the command ------------------------------------------------------------------------------ */

static const cli_trainer *trainer_named(const char *word)
{
    for (int i = 0; i < N_TRAINERS; i++)
        if (strcmp(TRAINERS[i]->syntax->command, word) == 0)
            return TRAINERS[i];
    return NULL;
}

static const char WANTED[] = "wanted specialize, personalize or dreambooth and its flags";

static ag_status check(ag_ctx *ctx, options *o, const cli_parsed *parsed)
{
    train_options *t = &o->command.train;
    const char *command = parsed->positional.n ? parsed->positional.items[0] : NULL;

    if (!command)
        return ag_fail(ctx, AG_EINVAL, "plan: which command? %s", WANTED);
    o->trainer = trainer_named(command);
    if (!o->trainer)
        return ag_fail(ctx, AG_EINVAL, "plan: %s: %s", command, WANTED);
    if (!t->pretrained_model_name_or_path)
        return ag_fail(ctx, AG_EINVAL,
                       "--pretrained_model_name_or_path MODEL is required: its configuration says "
                       "what to foresee");
    if (o->trainer == &cli_specializer && t->instance_data_dir && data_is_folder(t->instance_data_dir) &&
        !t->instance_age_path)
        return ag_fail(ctx, AG_EINVAL, "--instance_age_path FILE is required: %s is there", t->instance_data_dir);
    if (t->seed < 0)
        t->seed = 0; /* no draw matters here */
    if (!t->output_dir)
        t->output_dir = ".";
    t->sample = cli_train_sample;
    if (!t->instance_prompt)
        t->instance_prompt = "photo of sks person";
    if (o->trainer->settle)
        o->trainer->settle(t, parsed);
    return cli_check_optimizer(ctx, t, parsed);
}

/* Where the run would compute. */
static ag_status measure_on_device(train_forecast *f, ag_ctx *ctx, train_work *work, const options *o)
{
    ag_ctx *gpu;

    if (ag_ctx_target(ctx) != AG_CUDA)
        return train_forecast_measure(f, work, ctx, o->measure);
    gpu = ag_ctx_new(&(ag_ctx_options){.device = AG_CUDA, .n_threads = ag_ctx_threads(ctx),
                                       .allow_tf32 = ag_ctx_allows_tf32(ctx)});
    if (!gpu)
        return ag_fail(ctx, AG_ENOMEM, "no memory for a context");
    if (ag_status_of(gpu) == AG_OK)
        train_forecast_measure(f, work, gpu, o->measure);
    if (ag_status_of(gpu) != AG_OK)
        ag_fail(ctx, ag_status_of(gpu), "%s", ag_message(gpu));
    ag_ctx_free(gpu);
    return ag_status_of(ctx);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    options *o = memory;
    train_forecast f;
    train_work *work = NULL;

    if (ag_ctx_target(ctx) == AG_CUDA && !ag_gpu_is_there())
        o->measure = 0.0; /* the time is the GPU's */
    if (check(ctx, o, parsed) != AG_OK ||
        (o->measure > 0.0 && train_work_new(&work, ctx) != AG_OK))
        return ag_status_of(ctx);
    if (o->trainer->foresee(&f, ctx, &o->command.train, o->pictures, work) == AG_OK &&
        (!work || measure_on_device(&f, ctx, work, o) == AG_OK)) {
        ag_trim(ctx);
        if (o->json) {
            print_json(ctx, o, &f);
        } else {
            printf("%lld pictures%s, %lld prompts, %lld updates of %.3g micro-steps of %lld "
                   "rows\n\n",
                   (long long)f.n_pictures, f.has_pictures ? "" : " (assumed)",
                   (long long)f.n_prompts, (long long)f.n_updates,
                   (double)f.n_micro / (double)f.n_updates, (long long)f.rows);
            print_memory(&f);
            if (work)
                print_times(&f, work);
            print_fit(ctx, o, &f);
        }
    }
    train_work_free(work);
    return ag_status_of(ctx);
}

/* The flags are those of the command that is named. */
int cli_plan(int argc, char *const *argv)
{
    cli_group groups[MAX_GROUPS] = {{"the forecast", PLAN_FLAGS, 0}};
    cli_syntax syntax = {
        .command = "plan",
        .usage = "specialize|personalize|dreambooth [the command's flags]",
        .summary = "Say what a training command would take, without running it: its memory, stage by "
                   "stage, and its time, after measuring its own operations on this machine. The "
                   "pictures need not be there yet; the model's configuration must.",
        .groups = groups,
        .n_positional_max = 1,
        .nothing_required = true,
        .foresees = true,
    };
    const cli_trainer *trainer = NULL;

    for (int i = 0; i < argc && !trainer; i++)
        trainer = trainer_named(argv[i]);
    trainer = trainer ? trainer : TRAINERS[0];
    for (int k = 0; k < MAX_GROUPS - 2 && trainer->syntax->groups[k].title; k++)
        groups[k + 1] = trainer->syntax->groups[k];
    syntax.defaults = trainer->syntax->defaults;
    return cli_run(&syntax, sizeof(options), offsetof(options, command.device), argc, argv, body);
}
