/* personalize.c - agewright personalize: SelfAge's training. Flags and defaults are those of shiiiijp/SelfAge:
 * scripts/train.py, unless the help says otherwise.
 */
#include "cli/train.h"
#include "train/lora.h"
#include "train/personalize.h"

#define OF(field) offsetof(train_options, field)

static const cli_flag MODEL_FLAGS[] = {
    {.name = "base_model", .kind = CLI_TEXT, .offset = OF(pretrained_model_name_or_path), .value = "MODEL",
     .fallback = "runwayml/stable-diffusion-v1-5",
     .help = "a diffusers folder, a single-file checkpoint, or a hub id that lies in the local cache"},
    {0},
};

static const cli_flag PERSON_FLAGS[] = {
    {.name = "self_ref_data_dir", .kind = CLI_TEXT, .offset = OF(instance_data_dir), .value = "DIR", .required = true,
     .help = "3 to 5 pictures of the person, named by age (34_001.jpg)"},
    {.name = "self_ref_age_path", .kind = CLI_TEXT, .offset = OF(instance_age_path), .value = "FILE",
     .help = "their ages, when their names do not begin with them: a .npy text array of [file name, age], or "
             "FFHQ-Aging's labels .csv"},
    {.name = "num_instance_images", .kind = CLI_INT, .offset = OF(num_instance_images), .value = "N", .fallback = "5",
     .low = 1, .high = 1e6, .help = "how many of them are used, the first by name; fewer are no error"},
    {.name = "instance_prompt", .kind = CLI_TEXT, .offset = OF(instance_prompt), .value = "TEXT", .required = true,
     .help = "with a word that means nothing yet (\"photo of sks person\"); \" as 34-year-old\" is added, or the age "
             "goes where it says \"{age}\""},
    {.name = "regularization_dir", .kind = CLI_TEXT, .offset = OF(class_data_dir), .value = "DIR",
     .help = "other people's pictures, named by age too; for --with_prior_preservation"},
    {.name = "regularization_age_path", .kind = CLI_TEXT, .offset = OF(class_age_path), .value = "FILE",
     .help = "their ages, as --self_ref_age_path"},
    {.name = "class_prompt", .kind = CLI_TEXT, .offset = OF(class_prompt), .value = "TEXT",
     .fallback = "photo of person", .help = "their prompt; the age follows likewise"},
    {0},
};

static const cli_flag UNUSED_FLAGS[] = {
    CLI_UNUSED_TEXT(0, "sample_batch_size", "no pictures of the class are sampled"),
    CLI_UNUSED_TEXT(1, "prior_generation_precision", "no pictures of the class are sampled"),
    CLI_UNUSED_TEXT(2, "local_rank", "ranks come from the launcher"),
    CLI_UNUSED_TEXT(3, "dataloader_num_workers", "pictures are encoded once, by all threads"),
    CLI_UNUSED_TEXT(4, "hub_token", "nothing is uploaded"),
    CLI_UNUSED_TEXT(5, "hub_model_id", "nothing is uploaded"),
    CLI_UNUSED_TEXT(6, "validation_images", "Stable Diffusion 1 and 2 take no pictures"),
    CLI_UNUSED_TEXT(7, "class_labels_conditioning", "Stable Diffusion 1 and 2 take no class labels"),
    CLI_UNUSED_SWITCH(0, "enable_xformers_memory_efficient_attention", "attention never materialises its scores here"),
    CLI_UNUSED_SWITCH(1, "push_to_hub", "nothing is uploaded"),
    CLI_UNUSED_SWITCH(2, "pre_compute_text_embeddings",
                      "contexts of prompts are computed once anyway, unless the text encoder learns"),
    CLI_UNUSED_SWITCH(3, "text_encoder_use_attention_mask",
                      "padding is seen, as in every published run: with the flag the published program ends at once"),
    {0},
};

#define AT(field) offsetof(cli_train_options, field)

static const cli_group GROUPS[] = {
    {"the model", MODEL_FLAGS, AT(train)},
    {"its parts", cli_model_detail_flags, AT(train)},
    {"the person and the others", PERSON_FLAGS, AT(train)},
    {"their pictures", cli_image_flags, AT(train)},
    {"shapes, captions, masks", cli_picture_flags, AT(train)},
    {"prior preservation", cli_prior_flags, AT(train)},
    {"and contrast", cli_contrast_flags, AT(train)},
    {"the adapters", cli_lora_flags, AT(train)},
    {"a new word", cli_word_flags, AT(train)},
    {"the run", cli_run_flags, AT(train)},
    {"what is learned", cli_objective_flags, AT(train)},
    {"the optimizer", cli_optimizer_flags, AT(train)},
    {"validation", cli_validation_flags, AT(train)},
    {"the machine", cli_device_flags, AT(device)},
    {CLI_UNUSED_TITLE, UNUSED_FLAGS, AT(unused)},
    {0},
};

static const cli_default DEFAULTS[] = {
    {"output_dir", "lora-dreambooth-model", "where " TRAIN_LORA_FILE ", checkpoints and logs go"},
    {"seed", "42", NULL},
    {"max_train_steps", "800", NULL},
    {"train_batch_size", "4",
     "pictures of the person in a micro-step; prior preservation puts as many others beside them"},
    {"checkpointing_steps", "1000", NULL},
    {"learning_rate", "5e-4",
     "the base rate, whatever the optimizer; the 1e-6 of SelfAge's README hardly moves a value in 800 updates"},
    {0},
};

static const cli_syntax SYNTAX = {
    .command = "personalize",
    .usage = "--self_ref_data_dir DIR --instance_prompt TEXT [--with_prior_preservation --regularization_dir DIR]",
    .summary = "Teach Stable Diffusion one person from a few dated pictures of her, so that it can show her at any "
               "age: SelfAge's training. Only thin adapters (LoRA) are trained; they are written to one small file that "
               "diffusers, ComfyUI and others load.",
    .groups = GROUPS,
    .defaults = DEFAULTS,
};

const cli_trainer cli_personalizer = {
    .syntax = &SYNTAX, .unused = UNUSED_FLAGS, .train = train_personalize, .foresee = train_personalize_forecast};

static ag_status body(ag_ctx *ctx, void *options, const cli_parsed *parsed)
{
    return cli_train_body(ctx, options, parsed, &cli_personalizer);
}

int cli_personalize(int argc, char *const *argv)
{
    return cli_train_run(&cli_personalizer, argc, argv, body);
}
