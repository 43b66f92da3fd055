/* init.c - agewright init: a whole model folder with random weights. */
#include <string.h>

#include "cli/command.h"
#include "data/file.h"
#include "pipeline/pipeline.h"
#include "pipeline/presets.h"

typedef struct options {
    const char *output, *tokenizer;
    int64_t seed;
    int dtype;
} options;

#define AT(field) offsetof(options, field)

static const char *const DTYPES[] = {"f32", "f16", "bf16", NULL};

static const cli_flag FLAGS[] = {
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "DIR", .required = true,
     .help = "the folder to write; it must not hold a model yet"},
    {.name = "seed", .kind = CLI_INT, .offset = AT(seed), .value = "N", .fallback = "0", .low = 0, .high = 9e18,
     .help = "of the weights"},
    {.name = "tokenizer", .kind = CLI_TEXT, .offset = AT(tokenizer), .value = "DIR",
     .help = "the tokenizer to put in it; without, the small built-in one (1000 tokens)"},
    {.name = "dtype", .kind = CLI_CHOICE, .offset = AT(dtype), .choices = DTYPES, .fallback = "f32",
     .help = "of the weights on disk"},
    {0},
};

static const cli_group GROUPS[] = {{"flags", FLAGS, 0}, {0}};

static const cli_syntax SYNTAX = {
    .command = "init",
    .usage = "sd15|sd21|sd21-base|tiny --output DIR",
    .summary = "Write a model in diffusers layout with the published shapes and random weights, to measure speed and "
               "memory without a download. The pictures it makes are noise.",
    .groups = GROUPS,
    .n_positional_max = 1,
};

static ag_status find_preset(int *out, ag_ctx *ctx, const cli_parsed *parsed)
{
    const char *word = parsed->positional.n ? parsed->positional.items[0] : NULL;
    const char *near;
    int n = 0;

    if (!word)
        return ag_fail(ctx, AG_EINVAL, "which model? wanted one of sd15, sd21, sd21-base, tiny");
    for (; pipe_preset_names[n]; n++)
        if (strcmp(word, pipe_preset_names[n]) == 0) {
            *out = n;
            return AG_OK;
        }
    near = cli_nearest(word, pipe_preset_names, n);
    return ag_fail(ctx, AG_EINVAL, "%s: no such model; wanted one of sd15, sd21, sd21-base, tiny%s%s", word,
                   near ? "; did you mean " : "", near ? near : "");
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    static const ag_dtype TYPES[] = {AG_F32, AG_F16, AG_BF16};
    const options *o = memory;
    pipe_model *model = NULL;
    data_tokenizer *given = NULL;
    pipe_preset preset;
    char *folder = ag_printf(ctx, "%s/tokenizer", o->output), *index = ag_printf(ctx, "%s/model_index.json", o->output);
    int number = 0;

    if (ag_status_of(ctx) == AG_OK && find_preset(&number, ctx, parsed) == AG_OK && data_is_file(index))
        ag_fail(ctx, AG_EIO, "%s: holds a model already", o->output);
    if (ag_status_of(ctx) == AG_OK && data_folder_make(ctx, folder) == AG_OK) {
        pipe_preset_get(&preset, number);
        if (!o->tokenizer)
            data_tokenizer_write_small(ctx, folder);
        else if (data_tokenizer_open(&given, ctx, o->tokenizer) == AG_OK)
            data_tokenizer_copy(given, ctx, folder);
        if (ag_status_of(ctx) == AG_OK &&
            pipe_new(&model, ctx, &preset.unet, &preset.vae, &preset.text, &preset.schedule, (uint64_t)o->seed) == AG_OK)
            pipe_save(ctx, model, o->output, TYPES[o->dtype]);
    }
    data_tokenizer_close(given);
    pipe_close(model);
    ag_delete(folder);
    ag_delete(index);
    return ag_status_of(ctx);
}

int cli_init(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), CLI_NO_DEVICE, argc, argv, body);
}
