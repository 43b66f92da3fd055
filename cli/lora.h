/* lora.h - what commands that take LoRA files share. */
#ifndef CLI_LORA_H
#define CLI_LORA_H

#include "cli/command.h"
#include "pipeline/lora.h"

/* The flag's help, wherever it stands. */
#define CLI_LORA_HELP "a LoRA's file or folder of any dialect, with its weight (1); several add up; repeatable"

/* Prints lines worth telling on standard error. */
extern const pipe_note cli_note;

/* Merge the files that --lora names into a model's open U-Net and text encoder. */
ag_status cli_lora_merge(ag_ctx *ctx, pipe_model *model, const cli_texts *loras);

#endif /* CLI_LORA_H */
