/* probe.c - agewright probe PART: which part is it? The flags that parts share. */
#include "cli/probe.h"

#include "train/options.h"

#define AT(field) offsetof(probe_common, field)

const cli_flag probe_file_flags[] = {
    {.name = "model", .kind = CLI_TEXT, .offset = AT(model), .value = "DIR",
     .help = "a diffusers folder, a single-file checkpoint or one component's folder; for weights: a file"},
    {.name = "in", .kind = CLI_TEXT, .offset = AT(in), .value = "FILE", .help = "the inputs, safetensors"},
    {.name = "out", .kind = CLI_TEXT, .offset = AT(out), .value = "FILE", .required = true,
     .help = "where the outputs go, safetensors"},
    {0},
};

static const char *const PRECISIONS[] = {"auto", "no", "bf16", "fp16", NULL};

const cli_flag probe_precision_flags[] = {
    {.name = "mixed_precision", .kind = CLI_CHOICE, .offset = AT(mixed_precision), .choices = PRECISIONS,
     .fallback = "no", .help = "of activations"},
    {.name = "grad", .kind = CLI_SWITCH, .offset = AT(grad),
     .help = "write gradients of sum(output * cotangent), for the cotangent among the inputs"},
    {.name = "gradient_checkpointing", .kind = CLI_SWITCH, .offset = AT(gradient_checkpointing),
     .help = "recompute blocks in the backward pass"},
    {0},
};

static const cli_command PARTS[] = {
    {"text_encoder", "input_ids -> last_hidden_state", probe_networks},
    {"unet", "sample, timestep, encoder_hidden_states -> sample", probe_networks},
    {"vae_encode", "pixels -> mean, logvar", probe_networks},
    {"vae_decode", "latent -> pixels", probe_networks},
    {"tokenizer", "--prompts FILE -> input_ids, attention_mask", probe_data},
    {"image", "--image FILE -> pixels", probe_data},
    {"ages", "--ages FILE or --image_dir DIR -> age", probe_data},
    {"weights", "every tensor of a weight file, unchanged", probe_data},
    {"train", "latents, noise, timesteps, input_ids -> loss, grad_norm, lr, trained values", probe_train},
    {"sample", "latents, cond, uncond -> timesteps, trajectory", probe_sample},
    {0},
};

static const cli_menu MENU = {
    .program = "agewright probe",
    .what = "part",
    .usage = "PART [--model DIR] [--in IN.safetensors] --out OUT.safetensors [flags]",
    .summary = "Runs one part of the program on given tensors, in published layouts and names, so that it can be compared\n"
               "with anything.",
    .notes = "agewright probe PART --help lists a part's flags.",
    .commands = PARTS,
};

int cli_probe(int argc, char *const *argv)
{
    return cli_choose(&MENU, argc, argv);
}
