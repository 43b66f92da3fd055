/* lora_stack.h - open LoRA files matched with a model's names, and what they do to a parameter together. */
#ifndef PIPE_LORA_STACK_H
#define PIPE_LORA_STACK_H

#include "pipeline/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- the names of a model --------------------------------------------------------------------- */

typedef struct pipe_lora_base {
    data_lora_names networks[2]; /* U-Net and text encoder, those that there are */
    int n;
    data_named_shape *lists[2];
    pipe_model *model; /* when it was opened here: names and shapes, no weights */
    ag_ctx *meta;
} pipe_lora_base;

/* Of a model's open parts; it must outlive the names. End each with pipe_lora_base_free, also after a failure. */
ag_status pipe_lora_base_of(pipe_lora_base *out, ag_ctx *ctx, const pipe_model *model);
/* Of a model on disk, or of a preset by its number in pipe_preset_names; no weight is read. */
ag_status pipe_lora_base_open(pipe_lora_base *out, ag_ctx *ctx, const char *model);
ag_status pipe_lora_base_preset(pipe_lora_base *out, ag_ctx *ctx, int number);
/* Of the published model that the file's modules fit best; *name is its preset's. AG_EDATA when they fit none. */
ag_status pipe_lora_base_guess(pipe_lora_base *out, const char **name, ag_ctx *ctx, data_lora *lora);
void pipe_lora_base_free(pipe_lora_base *base);

/* --- files ------------------------------------------------------------------------------------ */

/* Match one file, fail when nothing of it is in the model, tell what is not, and that alpha is not stated. */
ag_status pipe_lora_fit(data_lora_matched *out, ag_ctx *ctx, data_lora *lora, const pipe_lora_base *base,
                        const pipe_note *note);

/* Tell that a file states no alpha, where it ought to. */
void pipe_lora_tell_alpha(const data_lora *lora, const pipe_note *note);

typedef struct pipe_loras {
    data_lora **files;
    double *weights;
    int64_t n;
} pipe_loras;

/* Open and fit every file. End with pipe_loras_close, also after a failure. */
ag_status pipe_loras_open(pipe_loras *out, ag_ctx *ctx, const pipe_lora_spec *specs, int64_t n,
                          const pipe_lora_base *base, const pipe_note *note);
void pipe_loras_close(pipe_loras *loras);

/* Is a parameter, by its published name, changed? */
bool pipe_loras_touch(const pipe_loras *loras, data_component component, const char *name);
/* Change its values, in the published layout. */
ag_status pipe_loras_apply(ag_ctx *ctx, const pipe_loras *loras, data_component component,
                           const data_named_shape *param, float *values);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_LORA_STACK_H */
