/* lora.c - agewright lora COMMAND: which one is it? And what commands that take LoRA files share. */
#include "cli/lora.h"

#include <stdio.h>

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

static const cli_command COMMANDS[] = {
    {"check", "what a LoRA's file holds, and which model it fits", lora_check},
    {"convert", "between the dialects of diffusers, PEFT and kohya, between precisions", lora_convert},
    {"merge", "into a model's weights: a folder or a single file", lora_merge},
    {"extract", "the difference of two models as a LoRA", lora_extract},
    {"resize", "to another rank; LoHa, LoKr and differences become plain LoRA", lora_resize},
    {0},
};

static const cli_menu MENU = {
    .program = "agewright lora",
    .what = "command",
    .usage = "COMMAND [flags]",
    .summary = "Reads, rewrites and makes LoRA files.",
    .notes = "agewright lora COMMAND --help lists a command's flags.",
    .commands = COMMANDS,
};

int cli_lora(int argc, char *const *argv)
{
    return cli_choose(&MENU, argc, argv);
}
