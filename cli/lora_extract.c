/* lora_extract.c - agewright lora extract: the difference of two models as a LoRA. */
#include <stdio.h>
#include <unistd.h>

#include "cli/lora.h"
#include "pipeline/lora_extract.h"

typedef struct options {
    const char *model, *tuned, *output;
    int to, dtype;
    int64_t rank, conv_rank;
    double energy;
    cli_device device;
} options;

#define AT(field) offsetof(options, field)

static const cli_flag FLAGS[] = {
    {.name = "model", .kind = CLI_TEXT, .offset = AT(model), .value = "MODEL", .required = true,
     .help = "the base: a diffusers folder, a single-file checkpoint or a hub id"},
    {.name = "tuned", .kind = CLI_TEXT, .offset = AT(tuned), .value = "MODEL", .required = true,
     .help = "the same model after training"},
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "FILE.safetensors", .required = true,
     .help = "what to write"},
    {.name = "rank", .kind = CLI_INT, .offset = AT(rank), .value = "R", .fallback = "16", .low = 1, .high = 65536,
     .help = "of linear layers and 1x1 convolutions; at most what a weight has"},
    {.name = "conv_rank", .kind = CLI_INT, .offset = AT(conv_rank), .value = "R", .fallback = "0", .low = 0,
     .high = 65536, .help = "of wider convolutions; 0: they are left out"},
    {.name = "energy", .kind = CLI_REAL, .offset = AT(energy), .value = "E", .fallback = "0", .low = 0, .high = 1,
     .help = "no more rank than keeps this share of a weight's sum of squares, e.g. 0.99; 0: the whole rank"},
    {.name = "to", .kind = CLI_CHOICE, .offset = AT(to), .choices = cli_lora_dialects, .fallback = "diffusers",
     .help = "the dialect"},
    {.name = "dtype", .kind = CLI_CHOICE, .offset = AT(dtype), .choices = cli_lora_dtypes, .fallback = "f32",
     .help = "of the factors"},
    {0},
};

static const cli_group GROUPS[] = {
    {"flags", FLAGS, 0}, {"the machine", cli_device_flags, offsetof(options, device)}, {0}};

static const cli_syntax SYNTAX = {
    .command = "lora extract",
    .usage = "--model BASE --tuned MODEL --output FILE.safetensors --rank R",
    .summary = "Write what training changed in the U-Net's and the text encoder's layers as a LoRA: of every weight's "
               "difference the best approximation of a rank. The whole rank gives the weights back.",
    .groups = GROUPS,
};

static void show(void *user, int64_t i, int64_t n)
{
    (void)user;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, i < n ? "\rtensor %lld/%lld " : "\r                        \r", (long long)i, (long long)n);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    const pipe_lora_extract_options extract = {.base = o->model,
                                               .tuned = o->tuned,
                                               .output = o->output,
                                               .dialect = (data_lora_dialect)o->to,
                                               .dtype = cli_lora_dtype(o->dtype),
                                               .rank = o->rank,
                                               .conv_rank = o->conv_rank,
                                               .energy = o->energy,
                                               .progress = show};
    pipe_lora_extracted done;

    (void)parsed;
    if (pipe_lora_extract(&done, ctx, &extract) != AG_OK)
        return ag_status_of(ctx);
    if (done.n_left_out > 0)
        fprintf(stderr, "%lld other tensors differ and are left out%s\n", (long long)done.n_left_out,
                o->conv_rank ? "" : " (--conv_rank takes the wider convolutions)");
    printf("%s: %s, %lld modules, rank %lld at most, %.4f %% of the sum of squares kept\n", o->output,
           cli_lora_dialects[o->to], (long long)done.n_modules, (long long)done.rank_high, 100.0 * done.kept);
    return AG_OK;
}

int lora_extract(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), AT(device), argc, argv, body);
}
