/* probe_train.c - agewright probe train: whole updates whose every draw is given. */
#include <string.h>

#include "autograd/grad.h"
#include "cli/probe.h"
#include "cli/train_flags.h"
#include "pipeline/lora.h"
#include "train/given.h"

typedef struct options {
    probe_common common;
    train_options train;
    cli_unused unused;
    int recipe;
} options;

enum { SPECIALIZE, PERSONALIZE };
static const char *const RECIPES[] = {"specialize", "personalize", NULL};

static const cli_flag FLAGS[] = {
    {.name = "recipe", .kind = CLI_CHOICE, .offset = offsetof(options, recipe), .choices = RECIPES,
     .fallback = "specialize", .help = "whose loss: personalize has contrast with prior preservation, specialize has "
                                      "it when --contrast_weight is given"},
    {0},
};

static const cli_group GROUPS[] = {{"files", probe_file_flags, offsetof(options, common)},
                                   {"the recipe", FLAGS, 0},
                                   {"the model", cli_model_flags, offsetof(options, train)},
                                   {"its parts", cli_model_detail_flags, offsetof(options, train)},
                                   {"the data", cli_data_flags, offsetof(options, train)},
                                   {"its pictures", cli_image_flags, offsetof(options, train)},
                                   {"the run", cli_run_flags, offsetof(options, train)},
                                   {"what is learned", cli_objective_flags, offsetof(options, train)},
                                   {"prior preservation", cli_prior_flags, offsetof(options, train)},
                                   {"contrast", cli_contrast_flags, offsetof(options, train)},
                                   {"LoRA", cli_lora_flags, offsetof(options, train)},
                                   {"the optimizer", cli_optimizer_flags, offsetof(options, train)},
                                   {"the machine", cli_device_flags, offsetof(options, common.device)},
                                   {"without effect", cli_unused_flags, offsetof(options, unused)},
                                   {0}};

static const cli_syntax SYNTAX = {
    .command = "probe train",
    .usage = "--model DIR --in IN --out OUT [training flags]",
    .summary = "latents, noise [K,R,4,h,w], timesteps [K,R], input_ids [K,R,77] -> loss, grad_norm, lr [K] and the trained "
               "values after update K; with --with_prior_preservation the first R/2 rows are instances and the rest the "
               "class; with --ema_decay their averages too, as ema.<name>. Flags of data and output have "
               "no effect here; --max_train_steps is K when it is not given, --mixed_precision no.",
    .groups = GROUPS,
    .nothing_required = true,
};

static ag_status read_given(train_given *given, ag_ctx *ctx, probe_in *in)
{
    int64_t dims[5], id_dims[3], row_dims[2];

    if (probe_in_shape(in, ctx, "latents", 5, dims) != AG_OK ||
        probe_in_shape(in, ctx, "input_ids", 3, id_dims) != AG_OK)
        return ag_status_of(ctx);
    row_dims[0] = id_dims[0] = dims[0];
    row_dims[1] = id_dims[1] = dims[1];
    *given = (train_given){.n_updates = dims[0], .n_rows = dims[1], .channels = dims[2], .height = dims[3],
                           .width = dims[4], .n_tokens = id_dims[2]};
    given->latents = probe_in_floats(in, ctx, "latents", 5, dims);
    given->noise = probe_in_floats(in, ctx, "noise", 5, dims);
    given->timesteps = probe_in_integers(in, ctx, "timesteps", 2, row_dims);
    given->input_ids = probe_in_integers(in, ctx, "input_ids", 3, id_dims);
    return ag_status_of(ctx) == AG_OK ? probe_in_finish(in, ctx) : ag_status_of(ctx);
}

static void free_given(train_given *given)
{
    ag_delete((void *)given->latents);
    ag_delete((void *)given->noise);
    ag_delete((void *)given->timesteps);
    ag_delete((void *)given->input_ids);
}

static ag_status add_series(probe_out *out, ag_ctx *ctx, const char *name, const double *values, int64_t n)
{
    float *narrow = ag_new(ctx, (size_t)n, sizeof *narrow, name);

    for (int64_t i = 0; narrow && i < n; i++)
        narrow[i] = (float)values[i];
    if (narrow)
        probe_out_add(out, ctx, name, DATA_F32, 1, &n, narrow);
    ag_delete(narrow);
    return ag_status_of(ctx);
}

/* The name of trained tensor i in what a run writes, with its component; the caller's. */
static char *written_name(ag_ctx *ctx, const train_state *state, int64_t i, bool is_lora)
{
    const data_component component = strncmp(state->names[i], "unet.", 5) == 0 ? DATA_UNET : DATA_TEXT_ENCODER;

    return is_lora ? pipe_lora_written_name(ctx, component, state->published[i]) : ag_strdup(ctx, state->names[i]);
}

/* Trained values (and averages). */
static ag_status add_state(probe_out *out, ag_ctx *ctx, const train_state *state, bool is_lora)
{
    for (int64_t i = 0; i < state->n && ag_status_of(ctx) == AG_OK; i++) {
        char *name = written_name(ctx, state, i, is_lora);
        if (name && probe_out_param(out, ctx, "", name, state->published[i], state->params[i]) == AG_OK && state->ema)
            probe_out_param(out, ctx, "ema.", name, state->published[i], opt_ema_at(state->ema, i));
        ag_delete(name);
    }
    return ag_status_of(ctx);
}

static ag_status train(ag_ctx *ctx, const options *o, const train_options *how, pipe_model *model, probe_in *in)
{
    train_given given = {0};
    train_state *state = NULL;
    train_lora lora = {0};
    probe_out out = {0};
    double *loss = NULL, *norm = NULL, *lr = NULL;

    if (read_given(&given, ctx, in) == AG_OK) {
        const int64_t K = given.n_updates;
        loss = ag_new(ctx, (size_t)K, sizeof *loss, "losses");
        norm = ag_new(ctx, (size_t)K, sizeof *norm, "norms");
        lr = ag_new(ctx, (size_t)K, sizeof *lr, "rates");
        if (loss && norm && lr && train_given_run(ctx, model, how, &given, loss, norm, lr, &state, &lora) == AG_OK &&
            add_series(&out, ctx, "loss", loss, K) == AG_OK && add_series(&out, ctx, "grad_norm", norm, K) == AG_OK &&
            add_series(&out, ctx, "lr", lr, K) == AG_OK && add_state(&out, ctx, state, lora.unet != NULL) == AG_OK)
            probe_out_write(&out, ctx, o->common.out);
    }
    train_state_free(state);
    train_lora_free(&lora);
    probe_out_free(&out);
    free_given(&given);
    ag_delete(loss);
    ag_delete(norm);
    ag_delete(lr);
    return ag_status_of(ctx);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    options *o = memory;
    train_options how = o->train;
    const bool named = cli_given(parsed, "pretrained_model_name_or_path"); /* its default is no test's model */
    const char *path = o->common.model ? o->common.model : named ? how.pretrained_model_name_or_path : NULL;
    const pipe_source source = {.model = path, .revision = how.revision, .variant = how.variant};
    pipe_model *model = NULL;
    probe_in in = {0};

    if (!path || !o->common.in || !o->common.out)
        return ag_fail(ctx, AG_EINVAL, "--%s is required", !path ? "model" : !o->common.in ? "in" : "out");
    if (!cli_given(parsed, "max_train_steps"))
        how.max_train_steps = 0;
    if (o->recipe == SPECIALIZE && !cli_given(parsed, "contrast_weight"))
        how.contrast_weight = 0.0;
    if (o->recipe == SPECIALIZE && !cli_lora_given(parsed))
        how.rank = 0;
    if (!cli_given(parsed, "mixed_precision"))
        how.mixed_precision = TRAIN_PRECISION_NO;
    if (cli_check_optimizer(ctx, &how, parsed) == AG_OK && probe_in_open(&in, ctx, o->common.in) == AG_OK &&
        pipe_open(&model, ctx, &source, PIPE_UNET | PIPE_TEXT) == AG_OK)
        train(ctx, o, &how, model, &in);
    probe_in_close(&in);
    pipe_close(model);
    return ag_status_of(ctx);
}

int probe_train(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), offsetof(options, common.device), argc, argv, body);
}
