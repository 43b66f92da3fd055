/* lora.h - what commands that take LoRA files share, and the parts of `agewright lora`. */
#ifndef CLI_LORA_H
#define CLI_LORA_H

#include <jansson.h>

#include "cli/command.h"
#include "pipeline/lora.h"

/* The flag's help, wherever it stands. */
#define CLI_LORA_HELP "a LoRA's file or folder of any dialect, with its weight (1); several add up; repeatable"

/* Prints lines worth telling on standard error. */
extern const pipe_note cli_note;

/* Merge the files that --lora names into a model's open U-Net and text encoder. */
ag_status cli_lora_merge(ag_ctx *ctx, pipe_model *model, const cli_texts *loras);

/* "diffusers", "peft", "kohya": the data_lora_dialects that are written, in their order; NULL-terminated. */
extern const char *const cli_lora_dialects[];
/* "f32", "f16", "bf16", NULL; and what they are. */
extern const char *const cli_lora_dtypes[];
ag_dtype cli_lora_dtype(int number);

/* The commands below `agewright lora`, one file each. */
int lora_check(int argc, char *const *argv);
int lora_convert(int argc, char *const *argv);
int lora_resize(int argc, char *const *argv);
int lora_merge(int argc, char *const *argv);
int lora_extract(int argc, char *const *argv);

/* What a LoRA file holds, into an object (lora_check.c). model: whose names; NULL: the published one that fits, if any.
 * norms: also read the values. */
ag_status lora_describe(ag_ctx *ctx, json_t *root, const char *path, const char *model, bool norms);

#endif /* CLI_LORA_H */
