/* lora.h - LoRA files against a model: merged into its weights, loaded into adapters, written from them.
 *
 * Several files add up, each with the user's weight u: W + sum_k u_k (W'_k - W), where W'_k is what file k alone makes
 * of W. So their order does not matter, also where one is a DoRA (whose W' is no sum), as in PEFT.
 */
#ifndef PIPE_LORA_H
#define PIPE_LORA_H

#include "data/lora_file.h"
#include "nn/adapter.h"
#include "pipeline/pipeline.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A line worth telling that is no error: a kohya file without alpha, modules that the model lacks. A NULL note, or one
 * without `say`, is told nothing. */
typedef struct pipe_note {
    void (*say)(void *user, const char *text);
    void *user;
} pipe_note;

typedef struct pipe_lora_spec {
    char *path; /* the caller's, to be given to ag_delete */
    double weight;
} pipe_lora_spec;

/* "FILE" or "FILE:WEIGHT": the weight is what follows the last colon, where that is a number. */
ag_status pipe_lora_parse(pipe_lora_spec *out, ag_ctx *ctx, const char *text);
/* The same of n texts; *out is the caller's, to be ended with pipe_lora_specs_free(). */
ag_status pipe_lora_parse_all(pipe_lora_spec **out, ag_ctx *ctx, const char *const *texts, int64_t n);
void pipe_lora_specs_free(pipe_lora_spec *specs, int64_t n); /* NULL is fine */

/* Add what each file changes, times its weight, to the model's open U-Net and text encoder. A file for the other one
 * of them only, or for no module of the model, is AG_EDATA; modules that the model lacks are told. Nothing is changed
 * unless every file fits. */
ag_status pipe_lora_merge(ag_ctx *ctx, pipe_model *model, const pipe_lora_spec *specs, int64_t n,
                          const pipe_note *note);

/* Fill attached adapters (either may be NULL) from a file. Strict: the file has A and B of the same rank for every
 * adapter, a magnitude where the adapter has one, and nothing else; an alpha that it states makes the adapter's scale.
 * AG_EDATA listing names otherwise. */
ag_status pipe_lora_load(ag_ctx *ctx, nn_adapters *unet, nn_adapters *text, const char *path, const pipe_note *note);

/* Write adapters (either may be NULL) to one safetensors file: f32, with alpha and metadata; what the caller gives as
 * metadata stands before what data/lora_write.h makes up. */
ag_status pipe_lora_save(ag_ctx *ctx, const char *path, nn_adapters *unet, nn_adapters *text,
                         data_lora_dialect dialect, const data_pair *metadata, int64_t n_metadata);

/* The name of an adapter's parameter in a file of diffusers' dialect, with the component; the caller's. */
char *pipe_lora_written_name(ag_ctx *ctx, data_component component, const nn_param *param);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_LORA_H */
