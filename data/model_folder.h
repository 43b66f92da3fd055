/* model_folder.h - the diffusers folder: what is in it, and its config files as plain structs.
 *
 *   model_index.json                     optional here; written always
 *   unet/config.json, vae/config.json, text_encoder/config.json
 *   scheduler/scheduler_config.json      optional; Stable Diffusion 1's values without it
 *   tokenizer/...                        data/tokenizer.h
 *
 * Reading a component's config: a key the network is built from is read, with the library's own
 * default where it is absent. A key of the library that we do not implement must hold its inert
 * value, else AG_EUNSUPPORTED names file, key, value and what is possible. A key nobody knows is
 * refused too (AG_EDATA, naming it), unless it begins with '_' or is null or false: what we do
 * not know might change the result, and a switch that is off does not. Scheduler files are the
 * exception the library makes: each class ignores the keys of the others.
 *
 * Writing gives files that diffusers and transformers open, keys sorted, 2-space indent.
 *
 * Sources  huggingface/diffusers: src/diffusers/models/unets/unet_2d_condition.py,
 *          models/autoencoders/autoencoder_kl.py, configuration_utils.py,
 *          schedulers/scheduling_ddim.py (the constructors' defaults);
 *          huggingface/transformers: src/transformers/models/clip/configuration_clip.py.
 */
#ifndef DATA_MODEL_FOLDER_H
#define DATA_MODEL_FOLDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"
#include "nn/config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- what lies at a path --------------------------------------------------------------------- */

typedef enum data_component {
    DATA_UNET,
    DATA_VAE,
    DATA_TEXT_ENCODER,
    DATA_N_COMPONENTS
} data_component;

/* "unet", "vae", "text_encoder": the folder's name and the prefix of names in listings. */
const char *data_component_name(data_component component);
/* What weight files of the component are called before their ending and variant:
 * "diffusion_pytorch_model", for the text encoder "model" in safetensors and "pytorch_model" in
 * .bin files. */
const char *data_component_file_stem(data_component component, bool safetensors);

typedef enum data_place {
    DATA_PLACE_PIPELINE,   /* a folder with unet/, vae/, ... */
    DATA_PLACE_COMPONENT,  /* one component's folder */
    DATA_PLACE_SINGLE_FILE /* a checkpoint file; its layout is told by its keys */
} data_place;

/* Say what lies at path. *component is set for DATA_PLACE_COMPONENT.
 * AG_EIO when there is nothing, AG_EDATA when the folder is none of these. */
ag_status data_place_of(data_place *out, data_component *component, ag_ctx *ctx, const char *path);

/* The folder of one component below path (a pipeline's, or the component's own), for the caller
 * to ag_delete. AG_EIO naming the folder that is missing; AG_EDATA when path is another
 * component's folder or model_index.json says that the component is [null, null] or of a class
 * that we do not have. */
ag_status data_component_folder(char **out, ag_ctx *ctx, const char *path,
                                data_component component);

/* --- the noise schedule ---------------------------------------------------------------------- */

typedef enum data_prediction { DATA_EPSILON, DATA_V_PREDICTION } data_prediction;
typedef enum data_beta_schedule {
    DATA_BETA_LINEAR,
    DATA_BETA_SCALED_LINEAR,
    DATA_BETA_COSINE /* squaredcos_cap_v2 */
} data_beta_schedule;
typedef enum data_spacing {
    DATA_SPACING_DEFAULT, /* the file does not say: the sampler's own default holds */
    DATA_SPACING_LEADING,
    DATA_SPACING_LINSPACE,
    DATA_SPACING_TRAILING
} data_spacing;

enum { DATA_UNSAID = -1 }; /* the file does not say: the default of the sampler's class holds */

typedef struct data_schedule_config {
    char class_name[64]; /* "PNDMScheduler": the default sampler; "" when the file has none */
    int64_t num_train_timesteps;
    double beta_start, beta_end;
    data_beta_schedule beta_schedule;
    data_prediction prediction_type;
    data_spacing timestep_spacing;
    bool rescale_betas_zero_snr;
    int clip_sample;      /* 0, 1, DATA_UNSAID */
    int set_alpha_to_one; /* 0, 1, DATA_UNSAID */
    int skip_prk_steps;   /* 0, 1, DATA_UNSAID */
    int steps_offset;     /* >= 0, DATA_UNSAID */
} data_schedule_config;

/* Stable Diffusion 1's schedule (PNDM file): what holds when there is no scheduler folder. */
void data_schedule_config_default(data_schedule_config *out);

/* --- reading --------------------------------------------------------------------------------- */

/* `folder` is the component's own folder (data_component_folder). */
ag_status data_unet_config_read(nn_unet_config *out, ag_ctx *ctx, const char *folder);
ag_status data_vae_config_read(nn_vae_config *out, ag_ctx *ctx, const char *folder);
ag_status data_text_config_read(nn_clip_config *out, ag_ctx *ctx, const char *folder);

/* `path` is a pipeline's folder, a scheduler's folder or a component's folder inside a pipeline;
 * without a scheduler_config.json the default is given and *found (may be NULL) is false. */
ag_status data_schedule_config_read(data_schedule_config *out, bool *found, ag_ctx *ctx,
                                    const char *path);

/* The same from the text of a config.json; `name` stands for the file in messages. */
ag_status data_unet_config_parse(nn_unet_config *out, ag_ctx *ctx, const char *name,
                                 const char *text, size_t size);
ag_status data_vae_config_parse(nn_vae_config *out, ag_ctx *ctx, const char *name,
                                const char *text, size_t size);
ag_status data_text_config_parse(nn_clip_config *out, ag_ctx *ctx, const char *name,
                                 const char *text, size_t size);
ag_status data_schedule_config_parse(data_schedule_config *out, ag_ctx *ctx, const char *name,
                                     const char *text, size_t size);

/* --- writing --------------------------------------------------------------------------------- */

/* Write config.json (scheduler_config.json) into the existing folder. dtype is the weights'
 * ("float32", "bfloat16", "float16"), which transformers keeps in the text encoder's file. */
ag_status data_unet_config_write(ag_ctx *ctx, const char *folder, const nn_unet_config *config);
ag_status data_vae_config_write(ag_ctx *ctx, const char *folder, const nn_vae_config *config);
ag_status data_text_config_write(ag_ctx *ctx, const char *folder, const nn_clip_config *config,
                                 const char *dtype);
ag_status data_schedule_config_write(ag_ctx *ctx, const char *folder,
                                     const data_schedule_config *config);
/* Write model_index.json of a StableDiffusionPipeline (no safety checker) into folder. */
ag_status data_model_index_write(ag_ctx *ctx, const char *folder,
                                 const data_schedule_config *schedule);

/* The text that the writers write; the caller's (ag_delete), NULL when the context has failed. */
char *data_unet_config_text(ag_ctx *ctx, const nn_unet_config *config);
char *data_vae_config_text(ag_ctx *ctx, const nn_vae_config *config);
char *data_text_config_text(ag_ctx *ctx, const nn_clip_config *config, const char *dtype);
char *data_schedule_config_text(ag_ctx *ctx, const data_schedule_config *config);

/* --- the published configurations ------------------------------------------------------------- */

/* "sd15", "sd21" (768-v) or "sd21-base"; false for another name. Any out may be NULL. */
bool data_model_preset(const char *name, nn_unet_config *unet, nn_vae_config *vae,
                       nn_clip_config *text, data_schedule_config *schedule);

#ifdef __cplusplus
}
#endif

#endif /* DATA_MODEL_FOLDER_H */
