/* lora_convert.c - agewright lora convert and resize: a LoRA's file rewritten. */
#include <stdio.h>

#include "cli/lora.h"
#include "pipeline/lora_convert.h"

typedef struct options {
    const char *input, *output, *model;
    int to, dtype;
    int64_t rank;
    double energy;
    cli_device device;
} options;

#define AT(field) offsetof(options, field)

static const char *const DIALECTS[] = {"keep", "diffusers", "peft", "kohya", NULL};
static const char *const DTYPES[] = {"keep", "f32", "f16", "bf16", NULL};

static const cli_flag RESIZE_FLAGS[] = {
    {.name = "rank", .kind = CLI_INT, .offset = AT(rank), .value = "R", .required = true, .low = 1, .high = 65536,
     .help = "of every module; at most what its weight has"},
    {.name = "energy", .kind = CLI_REAL, .offset = AT(energy), .value = "E", .fallback = "0", .low = 0, .high = 1,
     .help = "no more rank than keeps this share of a module's sum of squares, e.g. 0.99; 0: the whole rank"},
    {0},
};

static const cli_flag FLAGS[] = {
    {.name = "input", .kind = CLI_TEXT, .offset = AT(input), .value = "FILE", .required = true,
     .help = "a LoRA's file, or a folder that holds one"},
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "FILE.safetensors", .required = true,
     .help = "what to write"},
    {.name = "to", .kind = CLI_CHOICE, .offset = AT(to), .choices = DIALECTS, .fallback = "keep",
     .help = "the dialect; kohya's is what A1111 and most others read"},
    {.name = "dtype", .kind = CLI_CHOICE, .offset = AT(dtype), .choices = DTYPES, .fallback = "keep",
     .help = "of the factors; keep: bit for bit"},
    {.name = "model", .kind = CLI_TEXT, .offset = AT(model), .value = "MODEL",
     .help = "whose names the modules have; without, those of the published model that fits"},
    {0},
};

static const cli_group CONVERT_GROUPS[] = {
    {"flags", FLAGS, 0}, {"the machine", cli_device_flags, offsetof(options, device)}, {0}};
static const cli_group RESIZE_GROUPS[] = {{"the rank", RESIZE_FLAGS, 0},
                                          {"flags", FLAGS, 0},
                                          {"the machine", cli_device_flags, offsetof(options, device)},
                                          {0}};

static const cli_syntax CONVERT = {
    .command = "lora convert",
    .usage = "--input FILE --output FILE.safetensors --to DIALECT",
    .summary = "Rewrite a LoRA in another dialect or precision. There and back gives the same tensors.",
    .groups = CONVERT_GROUPS,
};

static const cli_syntax RESIZE = {
    .command = "lora resize",
    .usage = "--input FILE --output FILE.safetensors --rank R",
    .summary = "Rewrite a LoRA with another rank: the best approximation of every module's change. What is no plain "
               "LoRA (LoHa, LoKr, a middle, whole differences) becomes one.",
    .groups = RESIZE_GROUPS,
};

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    const pipe_lora_convert_options convert = {.input = o->input,
                                               .output = o->output,
                                               .model = o->model,
                                               .keep_dialect = o->to == 0,
                                               .dialect = (data_lora_dialect)(o->to ? o->to - 1 : 0),
                                               .keep_dtype = o->dtype == 0,
                                               .dtype = o->dtype ? cli_lora_dtype(o->dtype - 1) : AG_F32,
                                               .rank = o->rank,
                                               .energy = o->energy,
                                               .note = &cli_note};
    pipe_lora_converted done;

    (void)parsed;
    if (pipe_lora_convert(&done, ctx, &convert) != AG_OK)
        return ag_status_of(ctx);
    printf("%s: %s, %lld modules", o->output, data_lora_dialect_name(done.dialect), (long long)done.n_modules);
    if (done.rank_high > 0)
        printf(done.rank_low < done.rank_high ? ", ranks %lld to %lld" : ", rank %lld", (long long)done.rank_low,
               (long long)done.rank_high);
    if (o->rank > 0)
        printf(", %.4f %% of the sum of squares kept", 100.0 * done.kept);
    printf("\n");
    return AG_OK;
}

int lora_convert(int argc, char *const *argv)
{
    return cli_run(&CONVERT, sizeof(options), AT(device), argc, argv, body);
}

int lora_resize(int argc, char *const *argv)
{
    return cli_run(&RESIZE, sizeof(options), AT(device), argc, argv, body);
}
