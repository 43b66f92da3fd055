/* dreambooth.c - agewright dreambooth: one thing from a few pictures, whole weights or a LoRA. Flags and defaults
 * are those of huggingface/diffusers: examples/dreambooth/train_dreambooth.py and train_dreambooth_lora.py,
 * unless the help says otherwise.
 */
#include "cli/train.h"
#include "train/lora.h"
#include "train/personalize.h"

#define OF(field) offsetof(train_options, field)

static const char *const PRECISIONS[] = {"auto", "no", "bf16", "fp16", NULL};

static const cli_flag SUBJECT_FLAGS[] = {
    {.name = "instance_data_dir", .kind = CLI_TEXT, .offset = OF(instance_data_dir), .value = "DIR", .required = true,
     .help = "a few pictures of the person or thing"},
    {.name = "instance_prompt", .kind = CLI_TEXT, .offset = OF(instance_prompt), .value = "TEXT", .required = true,
     .help = "the prompt of all of them, with a word that means nothing yet (\"photo of sks dog\")"},
    {.name = "class_data_dir", .kind = CLI_TEXT, .offset = OF(class_data_dir), .value = "DIR",
     .help = "pictures of other things of the kind, for --with_prior_preservation; made when it is not there"},
    {.name = "class_prompt", .kind = CLI_TEXT, .offset = OF(class_prompt), .value = "TEXT",
     .help = "their prompt (\"photo of dog\")"},
    {.name = "num_class_images", .kind = CLI_INT, .offset = OF(num_class_images), .value = "N", .fallback = "100",
     .low = 1, .high = 1e8,
     .help = "how many there are; missing ones are drawn from the model before it learns (DDIM, 50 steps, PNG)"},
    {.name = "sample_batch_size", .kind = CLI_INT, .offset = OF(sample_batch_size), .value = "N", .fallback = "4",
     .low = 1, .high = 512, .help = "how many are drawn at a time"},
    {.name = "prior_generation_precision", .kind = CLI_CHOICE, .offset = OF(prior_generation_precision),
     .choices = PRECISIONS, .fallback = "auto", .help = "arithmetic of the drawing; auto: as --mixed_precision"},
    {.name = "offset_noise", .kind = CLI_SWITCH, .offset = OF(offset_noise), .help = "--noise_offset 0.1"},
    {0},
};

static const cli_flag UNUSED_FLAGS[] = {
    CLI_UNUSED_TEXT(0, "local_rank", "ranks come from the launcher"),
    CLI_UNUSED_TEXT(1, "dataloader_num_workers", "pictures are encoded once, by all threads"),
    CLI_UNUSED_TEXT(2, "hub_token", "nothing is uploaded"),
    CLI_UNUSED_TEXT(3, "hub_model_id", "nothing is uploaded"),
    CLI_UNUSED_TEXT(4, "validation_images", "Stable Diffusion 1 and 2 take no pictures"),
    CLI_UNUSED_TEXT(5, "class_labels_conditioning", "Stable Diffusion 1 and 2 take no class labels"),
    CLI_UNUSED_TEXT(6, "image_interpolation_mode", "pictures are resized bilinearly, as for whole weights"),
    CLI_UNUSED_TEXT(7, "validation_scheduler", "validation pictures are drawn by DDIM"),
    CLI_UNUSED_SWITCH(0, "enable_xformers_memory_efficient_attention", "attention never materialises its scores here"),
    CLI_UNUSED_SWITCH(1, "push_to_hub", "nothing is uploaded"),
    CLI_UNUSED_SWITCH(2, "pre_compute_text_embeddings",
                      "contexts of prompts are computed once anyway, unless the text encoder learns"),
    CLI_UNUSED_SWITCH(3, "text_encoder_use_attention_mask", "padding is seen, as by default in the published program"),
    CLI_UNUSED_SWITCH(4, "set_grads_to_none", "gradients are added into buffers that stay"),
    CLI_UNUSED_SWITCH(5, "skip_save_text_encoder", "a model is written whole"),
    {0},
};

#define AT(field) offsetof(cli_train_options, field)

static const cli_group GROUPS[] = {
    {"the model", cli_model_flags, AT(train)},
    {"its parts", cli_model_detail_flags, AT(train)},
    {"what it is taught", SUBJECT_FLAGS, AT(train)},
    {"pictures", cli_image_flags, AT(train)},
    {"shapes, captions, masks", cli_picture_flags, AT(train)},
    {"prior preservation", cli_prior_flags, AT(train)},
    {"adapters: with any of these a LoRA is trained, without them all weights", cli_lora_flags, AT(train)},
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
    {"output_dir", "dreambooth-model",
     "where the model or the LoRA, checkpoints and logs go; of a LoRA lora-dreambooth-model"},
    {"max_train_steps", "0", NULL},
    {"train_batch_size", "4", "instances in a micro-step; prior preservation puts as many of the class beside them"},
    {"checkpointing_steps", "500", NULL},
    {"validation_steps", "100", "updates between validations, of a LoRA 0; 0: not by updates"},
    {"validation_epochs", "0", "validate after the epochs 0, N, 2 N, ..., of a LoRA 50; 0: not by epochs"},
    {"learning_rate", "5e-6", "the base rate, whatever the optimizer; of a LoRA 5e-4"},
    {0},
};

static const cli_syntax SYNTAX = {
    .command = "dreambooth",
    .usage = "--instance_data_dir DIR --instance_prompt TEXT [--with_prior_preservation --class_data_dir DIR "
             "--class_prompt TEXT] [--rank R]",
    .summary = "Teach Stable Diffusion one person or thing from a few pictures of it, and keep what it knows of the "
               "others. Writes a diffusers folder or, with any of LoRA's flags, one small file.",
    .groups = GROUPS,
    .defaults = DEFAULTS,
};

static void settle(train_options *o, const cli_parsed *parsed)
{
    if (o->offset_noise && !cli_given(parsed, "noise_offset"))
        o->noise_offset = 0.1;
    if (!cli_lora_given(parsed)) {
        o->rank = 0;
        return;
    }
    if (!cli_given(parsed, "learning_rate"))
        o->learning_rate = 5e-4;
    if (!cli_given(parsed, "validation_steps") && !cli_given(parsed, "validation_epochs")) {
        o->validation_steps = 0;
        o->validation_epochs = 50;
    }
    if (!cli_given(parsed, "output_dir"))
        o->output_dir = "lora-dreambooth-model";
}

const cli_trainer cli_dreamer = {.syntax = &SYNTAX,
                                 .unused = UNUSED_FLAGS,
                                 .settle = settle,
                                 .train = train_dreambooth,
                                 .foresee = train_dreambooth_forecast};

static ag_status body(ag_ctx *ctx, void *options, const cli_parsed *parsed)
{
    return cli_train_body(ctx, options, parsed, &cli_dreamer);
}

int cli_dreambooth(int argc, char *const *argv)
{
    return cli_train_run(&cli_dreamer, argc, argv, body);
}
