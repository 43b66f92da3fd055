/* lora.c - see lora.h. */
#include "cli/lora.h"

#include <stdio.h>

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
