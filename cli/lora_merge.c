/* lora_merge.c - agewright lora merge: LoRA files into a model's weights, on disk. */
#include <stdio.h>

#include "cli/lora.h"
#include "data/hub.h"
#include "pipeline/convert.h"
#include "pipeline/lora_stack.h"

typedef struct options {
    const char *model, *output, *variant;
    cli_texts loras;
    int to, dtype;
    cli_device device;
} options;

#define AT(field) offsetof(options, field)

static const char *const FORMS[] = {"auto", "folder", "single", NULL};
static const char *const DTYPES[] = {"keep", "f32", "f16", "bf16", NULL};

static const cli_flag FLAGS[] = {
    {.name = "model", .kind = CLI_TEXT, .offset = AT(model), .value = "MODEL", .required = true,
     .help = "a diffusers folder, a single-file checkpoint, or a hub id that lies in the local cache"},
    {.name = "lora", .kind = CLI_TEXTS, .offset = AT(loras), .value = "FILE[:WEIGHT]", .required = true,
     .help = CLI_LORA_HELP},
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "PATH", .required = true,
     .help = "what to write; it must not be there yet"},
    {.name = "to", .kind = CLI_CHOICE, .offset = AT(to), .choices = FORMS, .fallback = "auto",
     .help = "auto: a single file when --output ends in .safetensors, else a folder"},
    {.name = "dtype", .kind = CLI_CHOICE, .offset = AT(dtype), .choices = DTYPES, .fallback = "keep",
     .help = "of the weights; keep: as they are, and what no LoRA changes bit for bit"},
    {.name = "variant", .kind = CLI_TEXT, .offset = AT(variant), .value = "NAME",
     .help = "of a folder's weight files, e.g. fp16"},
    {0},
};

static const cli_group GROUPS[] = {
    {"flags", FLAGS, 0}, {"the machine", cli_device_flags, offsetof(options, device)}, {0}};

static const cli_syntax SYNTAX = {
    .command = "lora merge",
    .usage = "--model MODEL --lora FILE[:WEIGHT] ... --output PATH",
    .summary = "Write a model with LoRA files merged into its weights. Sums are made in f32 and more, and rounded once "
               "to the precision that is written.",
    .groups = GROUPS,
};

static bool touches(void *user, data_component component, const char *name)
{
    return pipe_loras_touch(user, component, name);
}

static ag_status apply(ag_ctx *ctx, void *user, data_component component, const data_named_shape *tensor,
                       float *values)
{
    return pipe_loras_apply(ctx, user, component, tensor, values);
}

static void print_note(void *user, const char *text)
{
    cli_note.say(user, text);
}

static ag_status write_merged(ag_ctx *ctx, const options *o, pipe_loras *loras)
{
    const pipe_edit edit = {.touches = touches, .apply = apply, .user = loras};
    const pipe_convert_options convert = {.input = o->model,
                                          .variant = o->variant,
                                          .output = o->output,
                                          .form = (pipe_form)o->to,
                                          .keep_dtype = o->dtype == 0,
                                          .dtype = o->dtype ? cli_lora_dtype(o->dtype - 1) : AG_F32,
                                          .edit = &edit,
                                          .note = print_note};
    pipe_converted done;

    if (pipe_convert(&done, ctx, &convert) == AG_OK)
        printf("%s: %s of %lld tensors, %.1f MB\n", o->output, done.is_single ? "a file" : "a folder",
               (long long)done.n_tensors, (double)done.n_bytes / 1e6);
    return ag_status_of(ctx);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    pipe_lora_base base = {0};
    pipe_lora_spec *specs = NULL;
    pipe_loras loras = {0};

    (void)parsed;
    if (pipe_lora_parse_all(&specs, ctx, o->loras.items, o->loras.n) == AG_OK &&
        pipe_lora_base_open(&base, ctx, o->model) == AG_OK &&
        pipe_loras_open(&loras, ctx, specs, o->loras.n, &base, &cli_note) == AG_OK)
        write_merged(ctx, o, &loras);
    pipe_loras_close(&loras);
    pipe_lora_base_free(&base);
    pipe_lora_specs_free(specs, o->loras.n);
    return ag_status_of(ctx);
}

int lora_merge(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), AT(device), argc, argv, body);
}
