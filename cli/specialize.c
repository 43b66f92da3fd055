/* specialize.c - agewright specialize: FADING's fine-tuning. */
#include "cli/train.h"
#include "train/specialize.h"

#define AT(field) offsetof(cli_train_options, field)

static const cli_group GROUPS[] = {
    {"the model", cli_model_flags, AT(train)},
    {"its parts", cli_model_detail_flags, AT(train)},
    {"the data", cli_data_flags, AT(train)},
    {"its pictures", cli_image_flags, AT(train)},
    {"shapes, captions, masks", cli_picture_flags, AT(train)},
    {"a new word", cli_word_flags, AT(train)},
    {"the run", cli_run_flags, AT(train)},
    {"what is learned", cli_objective_flags, AT(train)},
    {"the optimizer", cli_optimizer_flags, AT(train)},
    {"validation", cli_validation_flags, AT(train)},
    {"the machine", cli_device_flags, AT(device)},
    {CLI_UNUSED_TITLE, cli_unused_flags, AT(unused)},
    {0},
};

static const cli_syntax SYNTAX = {
    .command = "specialize",
    .usage = "[--pretrained_model_name_or_path MODEL] --instance_data_dir DIR --instance_age_path FILE --output_dir DIR",
    .summary = "Fine-tune Stable Diffusion on faces of known age: each picture enters under a prompt without its age "
               "and one with it, so that the model learns what years do to a face. Writes a diffusers folder.",
    .groups = GROUPS,
};

const cli_trainer cli_specializer = {
    .syntax = &SYNTAX, .unused = cli_unused_flags, .train = train_specialize, .foresee = train_specialize_forecast};

static ag_status body(ag_ctx *ctx, void *options, const cli_parsed *parsed)
{
    return cli_train_body(ctx, options, parsed, &cli_specializer);
}

int cli_specialize(int argc, char *const *argv)
{
    return cli_train_run(&cli_specializer, argc, argv, body);
}
