/* convert.c - agewright convert: models between folders, single files and precisions. */
#include <stdio.h>

#include "cli/command.h"
#include "pipeline/convert.h"

typedef struct options {
    const char *input, *output, *revision, *variant, *tokenizer;
    int to, dtype, format, prediction;
    bool ema;
} options;

#define AT(field) offsetof(options, field)

static const char *const FORMS[] = {"auto", "folder", "single", NULL};
static const char *const DTYPES[] = {"keep", "f32", "f16", "bf16", NULL};
static const char *const FORMATS[] = {"safetensors", NULL};
static const char *const PREDICTIONS[] = {"model", "epsilon", "v_prediction", NULL};

static const cli_flag FLAGS[] = {
    {.name = "input", .kind = CLI_TEXT, .offset = AT(input), .value = "MODEL", .required = true,
     .help = "a diffusers folder, one component's folder, a weight file (safetensors, ckpt, bin, "
             "pt), or a hub id"},
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "PATH", .required = true,
     .help = "what to write; it must not be there yet"},
    {.name = "to", .kind = CLI_CHOICE, .offset = AT(to), .choices = FORMS, .fallback = "auto",
     .help = "auto: a single file when --output ends in .safetensors, else a folder"},
    {.name = "dtype", .kind = CLI_CHOICE, .offset = AT(dtype), .choices = DTYPES,
     .fallback = "keep", .help = "of floating weights; keep: bit for bit"},
    {.name = "ema", .kind = CLI_SWITCH, .offset = AT(ema),
     .help = "take the averaged copy of the U-Net from a single file that has one"},
    {.name = "variant", .kind = CLI_TEXT, .offset = AT(variant), .value = "NAME",
     .help = "of a folder's weight files, e.g. fp16"},
    {.name = "revision", .kind = CLI_TEXT, .offset = AT(revision), .value = "REV",
     .help = "of a hub id"},
    {.name = "tokenizer", .kind = CLI_TEXT, .offset = AT(tokenizer), .value = "DIR",
     .help = "the tokenizer to put into a folder; without, the input's own"},
    {.name = "prediction_type", .kind = CLI_CHOICE, .offset = AT(prediction),
     .choices = PREDICTIONS, .fallback = "model",
     .help = "what the U-Net predicts, where a single file does not say"},
    {.name = "format", .kind = CLI_CHOICE, .offset = AT(format), .choices = FORMATS,
     .fallback = "safetensors", .help = "of the weights"},
    {0},
};

static const cli_group GROUPS[] = {{"flags", FLAGS, 0}, {0}};

static const cli_syntax SYNTAX = {
    .command = "convert",
    .usage = "--input MODEL --output PATH",
    .summary =
        "Rewrite a model: diffusers folder to single file and back, precision to precision, torch "
        "files to "
        "safetensors. Names and shapes are checked first; what keeps its precision keeps its bits.",
    .groups = GROUPS,
};

static void print_note(void *user, const char *text)
{
    (void)user;
    fprintf(stderr, "%s\n", text);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    static const ag_dtype TYPES[] = {AG_F32, AG_F32, AG_F16, AG_BF16};
    const options *o = memory;
    const pipe_convert_options convert = {.input = o->input,
                                          .revision = o->revision,
                                          .variant = o->variant,
                                          .tokenizer = o->tokenizer,
                                          .output = o->output,
                                          .form = (pipe_form)o->to,
                                          .keep_dtype = o->dtype == 0,
                                          .dtype = TYPES[o->dtype],
                                          .use_ema = o->ema,
                                          .prediction = (pipe_prediction_said)o->prediction,
                                          .note = print_note};
    pipe_converted done;

    (void)parsed;
    if (pipe_convert(&done, ctx, &convert) == AG_OK)
        printf("%s: %s of %lld tensors, %.1f MB\n", o->output,
               done.is_single ? "a file" : "a folder", (long long)done.n_tensors,
               (double)done.n_bytes / 1e6);
    return ag_status_of(ctx);
}

int cli_convert(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), CLI_NO_DEVICE, argc, argv, body);
}
