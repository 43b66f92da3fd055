/* specialize.c - agewright specialize: FADING's fine-tuning. */
#include "cli/command.h"
#include "cli/train_flags.h"
#include "train/specialize.h"

typedef struct options {
    train_options train;
    cli_unused unused;
    cli_device device;
} options;

static const cli_group GROUPS[] = {
    {"the model", cli_model_flags, offsetof(options, train)},
    {"the data", cli_data_flags, offsetof(options, train)},
    {"its pictures and captions", cli_picture_flags, offsetof(options, train)},
    {"the run", cli_run_flags, offsetof(options, train)},
    {"what is learned", cli_objective_flags, offsetof(options, train)},
    {"the optimizer", cli_optimizer_flags, offsetof(options, train)},
    {"the machine", cli_device_flags, offsetof(options, device)},
    {"taken for the sake of published commands, without effect", cli_unused_flags, offsetof(options, unused)},
    {0},
};

static const cli_syntax SYNTAX = {
    .command = "specialize",
    .usage = "[--pretrained_model_name_or_path MODEL] --instance_data_dir DIR --instance_age_path FILE --output_dir DIR",
    .summary = "Fine-tune Stable Diffusion on faces of known age: each picture enters under a prompt without its age "
               "and one with it, so that the model learns what years do to a face. Writes a diffusers folder.",
    .groups = GROUPS,
};

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    options *o = memory;
    json_t *config;

    if (cli_check_train(ctx, &o->train, parsed) != AG_OK)
        return ag_status_of(ctx);
    config = cli_effective(&SYNTAX, o);
    if (!config)
        return ag_fail(ctx, AG_ENOMEM, "no memory for the configuration");
    json_object_del(config, "hub_token"); /* a secret: the configuration goes where the model goes */
    train_specialize(ctx, &o->train, config);
    json_decref(config);
    return ag_status_of(ctx);
}

int cli_specialize(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), offsetof(options, device), argc, argv, body);
}
