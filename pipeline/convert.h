/* convert.h - models from one container into another: diffusers folder, single file, precision.
 *
 * Works on the bytes of weight files, tensor by tensor; no network is in memory. What stays of the
 * same precision stays bit for bit, so folder -> single file -> folder gives back the same tensors.
 * Before anything is written, names and shapes are compared with what the configuration asks for.
 *
 *   folder    unet/, vae/, text_encoder/ (those that there are), scheduler/, tokenizer/,
 *             model_index.json; or one component's own folder
 *   single    one safetensors file in the original names (data/single_file.h), with the
 *             configurations in its metadata
 *
 * A weight file that is neither (a component's own file, a LoRA) is rewritten as it is: names stay.
 */
#ifndef PIPE_CONVERT_H
#define PIPE_CONVERT_H

#include <stdbool.h>
#include <stdint.h>

#include "autograd/tensor.h"
#include "data/single_file.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pipe_form {
    PIPE_FORM_AUTO, /* a single file when the output's name ends in .safetensors, else a folder */
    PIPE_FORM_FOLDER,
    PIPE_FORM_SINGLE
} pipe_form;

/* Something that changes values on their way, by published names and shapes. */
typedef struct pipe_edit {
    bool (*touches)(void *user, data_component component, const char *name);
    ag_status (*apply)(ag_ctx *ctx, void *user, data_component component, const data_named_shape *tensor,
                       float *values);
    void *user;
} pipe_edit;

typedef enum pipe_prediction_said {
    PIPE_PREDICTION_OF_MODEL,
    PIPE_PREDICTION_EPSILON,
    PIPE_PREDICTION_V
} pipe_prediction_said;

typedef struct pipe_convert_options {
    const char *input, *revision; /* a path or a hub id and its revision */
    const char *variant;          /* of a folder's weight files; NULL: none */
    const char *tokenizer;        /* a folder to take it from; NULL: the input's own */
    const char *output;
    pipe_form form;
    bool keep_dtype; /* leave every element type as it is, else: */
    ag_dtype dtype;  /* of the floating tensors: AG_F32, AG_F16 or AG_BF16 */
    bool use_ema;    /* single files: the averaged copy of the U-Net */
    pipe_prediction_said prediction;
    const pipe_edit *edit; /* NULL: values stay; with one, only what the model is made of is written */
    /* A line about what was left out or assumed; may be NULL. */
    void (*note)(void *user, const char *text);
    void *note_user;
} pipe_convert_options;

typedef struct pipe_converted {
    bool is_single;
    int64_t n_tensors;
    uint64_t n_bytes; /* of their values */
} pipe_converted;

/* Convert. The output appears under its name whole or not at all.
 * AG_EIO when the output exists already or cannot be written; AG_EDATA with a list of names when
 * tensors are missing, extra or misshapen. */
ag_status pipe_convert(pipe_converted *out, ag_ctx *ctx, const pipe_convert_options *options);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_CONVERT_H */
