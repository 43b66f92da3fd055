/* pipeline.h - a whole model: text encoder, U-Net, VAE, tokenizer, noise schedule.
 *
 * This is where networks meet files. A network declares names and layouts, a weight file lists names
 * and bytes; opening matches them strictly, whatever the file's dialect (a diffusers folder, one
 * component's folder, a single-file checkpoint).
 *
 * Ownership  A model owns its parts. A part can be let go early (pipe_drop) when a run no longer needs it.
 */
#ifndef PIPE_PIPELINE_H
#define PIPE_PIPELINE_H

#include "data/model_folder.h"
#include "data/tokenizer.h"
#include "nn/clip_text.h"
#include "nn/unet.h"
#include "nn/vae.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    PIPE_UNET = 1 << DATA_UNET,
    PIPE_VAE = 1 << DATA_VAE,
    PIPE_TEXT = 1 << DATA_TEXT_ENCODER,
    PIPE_TOKENIZER = 1 << DATA_N_COMPONENTS,
    PIPE_ALL = PIPE_UNET | PIPE_VAE | PIPE_TEXT | PIPE_TOKENIZER
};

typedef struct pipe_source {
    const char *model;          /* path or hub id */
    const char *revision;       /* hub revision; NULL: main */
    const char *variant;        /* weight files' variant; NULL: none */
    const char *tokenizer_name; /* another tokenizer's folder or hub id; NULL: the model's */
    bool use_ema;               /* single files: the averaged copy of the U-Net */
    unsigned half_parts;        /* PIPE_*: parts that stay frozen, their weights kept in half_dtype (nn_params_alloc) */
    ag_dtype half_dtype;        /* AG_BF16 or AG_F16 */
} pipe_source;

typedef struct pipe_model {
    pipe_source source; /* texts borrowed */
    char *path;         /* where it was found */
    nn_unet *unet;
    nn_vae *vae;
    nn_clip_text *text;
    data_tokenizer *tokenizer;
    struct pipe_words *words; /* tokens that files do not have (pipeline/words.h); NULL: none */
    data_schedule_config schedule;
    bool prediction_known; /* its prediction type was said by a file, not assumed */
    bool checks_files;     /* on AG_META: weight files are opened and matched all the same (pipe_check) */
} pipe_model;

/* Open the named parts. On AG_META configurations are read and no weights.
 * AG_EIO when nothing is there; AG_EDATA, AG_EUNSUPPORTED naming file and key; a list of names when
 * tensors are missing, extra or misshapen. */
ag_status pipe_open(pipe_model **out, ag_ctx *ctx, const pipe_source *source, unsigned parts);
/* Open more parts of a model that is open. Parts that are there already stay as they are. */
ag_status pipe_add(ag_ctx *ctx, pipe_model *model, unsigned parts);
/* Make a model of fresh random values from configurations; no tokenizer. */
ag_status pipe_new(pipe_model **out, ag_ctx *ctx, const nn_unet_config *unet, const nn_vae_config *vae,
                   const nn_clip_config *text, const data_schedule_config *schedule, uint64_t seed);
/* Do the files have every tensor of the parts, in its shape? Only tables of contents are read, so that a
 * run need not come to a network to find it damaged. Fails as pipe_open does. */
ag_status pipe_check(ag_ctx *ctx, const pipe_source *source, unsigned parts);
void pipe_drop(pipe_model *model, unsigned parts); /* let parts go */
void pipe_close(pipe_model *model);                /* NULL is fine */

nn_params *pipe_params(const pipe_model *model, data_component component); /* NULL: not open */

/* Write the model as a diffusers folder with safetensors of `dtype`: every file beside and renamed,
 * model_index.json last (an older one goes first, so that no mixture of two models has one). Parts that are not
 * in memory are read from where the model came from. */
ag_status pipe_save(ag_ctx *ctx, pipe_model *model, const char *folder, ag_dtype dtype);
/* Write one component's folder: config.json and weights. */
ag_status pipe_save_component(ag_ctx *ctx, const pipe_model *model, const char *folder, data_component component,
                              ag_dtype dtype);

/* A network of its own, in one safetensors file: fill every parameter, strictly, or write all of them. */
ag_status pipe_load_params(ag_ctx *ctx, nn_params *params, const char *path);
ag_status pipe_save_params(ag_ctx *ctx, nn_params *params, const char *path, ag_dtype dtype);

/* What diffusers' Stable Diffusion pipeline forces on any scheduler that says otherwise: steps_offset 1, no
 * clipping of samples. True when that changed something, for a notice. (huggingface/diffusers:
 * src/diffusers/pipelines/stable_diffusion/pipeline_stable_diffusion.py, __init__) */
bool pipe_settle_schedule(data_schedule_config *schedule);

/* Token ids of prompts, i64 [n, T]; T = max_length, or the tokenizer's own when 0. mask may be NULL. */
ag_status pipe_tokenize(ag_ctx *ctx, const pipe_model *model, const char *const *prompts, int64_t n,
                        int max_length, int64_t *ids, int64_t *mask);
int pipe_max_length(const pipe_model *model);
/* The text encoder on the ids of pipe_tokenize(), i64 [n,T] -> f32 [n,T,D], recorded if recording is on: new
 * tokens are looked up among the model's words. options->words is filled in here. */
ag_tensor *pipe_text_forward(ag_ctx *ctx, const pipe_model *model, const int64_t *ids, int64_t n, int64_t length,
                             const nn_clip_options *options);
/* The same in two steps, of which the second reads nothing from the host: ids as a tensor, i64 [n,T], or where the
 * model has words of its own [3,n,T] (ids of the table, rows of words, which of the two counts); the encoder on it. */
ag_tensor *pipe_text_ids(ag_ctx *ctx, const pipe_model *model, const int64_t *ids, int64_t n, int64_t length);
ag_tensor *pipe_text_encode(ag_ctx *ctx, const pipe_model *model, ag_tensor *ids, const nn_clip_options *options);
/* Texts to contexts, f32 [n, T, D], without recording. */
ag_tensor *pipe_encode_prompts(ag_ctx *ctx, const pipe_model *model, const char *const *prompts, int64_t n,
                               int max_length);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_PIPELINE_H */
