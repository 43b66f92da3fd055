/* lora.c - agewright lora COMMAND: which one is it? And what commands that take LoRA files share. */
#include "cli/lora.h"

#include <stdio.h>
#include <string.h>

/* --- shared ----------------------------------------------------------------------------------- */

const char *const cli_lora_dialects[] = {"diffusers", "peft", "kohya", NULL};
const char *const cli_lora_dtypes[] = {"f32", "f16", "bf16", NULL};

ag_dtype cli_lora_dtype(int number)
{
    static const ag_dtype dtypes[] = {AG_F32, AG_F16, AG_BF16};

    return dtypes[number];
}

static void print_line(void *user, const char *text)
{
    (void)user;
    fprintf(stderr, "%s\n", text);
}

const pipe_note cli_note = {.say = print_line};

ag_status cli_lora_merge(ag_ctx *ctx, pipe_model *model, const cli_texts *loras)
{
    pipe_lora_spec *specs = NULL;

    if (loras->n > 0 && pipe_lora_parse_all(&specs, ctx, loras->items, loras->n) == AG_OK)
        pipe_lora_merge(ctx, model, specs, loras->n, &cli_note);
    pipe_lora_specs_free(specs, loras->n);
    return ag_status_of(ctx);
}

/* --- the command ------------------------------------------------------------------------------ */

static const struct {
    const char *name, *summary;
    int (*run)(int argc, char *const *argv);
} PARTS[] = {
    {"check", "what a LoRA's file holds, and which model it fits", lora_check},
    {"convert", "between the dialects of diffusers, PEFT and kohya, between precisions", lora_convert},
    {"merge", "into a model's weights: a folder or a single file", lora_merge},
    {"extract", "the difference of two models as a LoRA", lora_extract},
    {"resize", "to another rank; LoHa, LoKr and differences become plain LoRA", lora_resize},
};
enum { N_PARTS = sizeof PARTS / sizeof *PARTS };

static void print_usage(FILE *to)
{
    fprintf(to, "usage: agewright lora COMMAND [flags]\n\nReads, rewrites and makes LoRA files.\n\n");
    for (int i = 0; i < N_PARTS; i++)
        fprintf(to, "  %-14s %s\n", PARTS[i].name, PARTS[i].summary);
    fprintf(to, "\nagewright lora COMMAND --help lists a command's flags.\n");
}

int cli_lora(int argc, char *const *argv)
{
    const char *names[N_PARTS];
    const char *near;

    if (argc < 1 || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        print_usage(argc < 1 ? stderr : stdout);
        return argc < 1 ? CLI_EXIT_USAGE : CLI_EXIT_OK;
    }
    for (int i = 0; i < N_PARTS; i++) {
        if (strcmp(argv[0], PARTS[i].name) == 0)
            return PARTS[i].run(argc - 1, argv + 1);
        names[i] = PARTS[i].name;
    }
    near = cli_nearest(argv[0], names, N_PARTS);
    fprintf(stderr, "agewright lora: %s: no such command%s%s\n", argv[0], near ? "; did you mean " : "",
            near ? near : "");
    return CLI_EXIT_USAGE;
}
