/* single_file.h - checkpoints in one file ("original" names): whose tensor is whose, both ways.
 *
 * The original programs keep U-Net, VAE and text model in one flat dictionary, with names of
 * their own, the decoder's levels in reverse, the VAE's attention as 1x1 convolutions and
 * OpenCLIP's q, k, v in one matrix. This file maps names and shapes; it reads no tensor.
 *
 *   model.diffusion_model.input_blocks.1.0.in_layers.0.weight
 *       unet: down_blocks.0.resnets.0.norm1.weight
 *   first_stage_model.decoder.up.3.block.0.conv1.weight
 *       vae: decoder.up_blocks.0.resnets.0.conv1.weight
 *   cond_stage_model.model.ln_final.weight
 *       text_encoder: text_model.final_layer_norm.weight
 *
 * Any number of levels and layers maps, not only the published four and two.
 *
 * Sources  huggingface/diffusers: src/diffusers/loaders/single_file_utils.py,
 *          scripts/convert_diffusers_to_original_stable_diffusion.py;
 *          kohya-ss/sd-scripts: library/model_util.py.
 */
#ifndef DATA_SINGLE_FILE_H
#define DATA_SINGLE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "autograd/context.h"
#include "autograd/tensor.h"
#include "data/model_folder.h"
#include "nn/config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One entry of a file's table of contents. Borrowed from whoever listed the file. */
typedef struct data_named_shape {
    const char *name;
    int n_dims;
    const int64_t *dims;
} data_named_shape;

typedef enum data_family { DATA_FAMILY_SD1, DATA_FAMILY_SD2 } data_family;

/* What a file holds. Configs are filled for the components that `has` names. */
typedef struct data_single {
    data_family family; /* by its text model or context width; SD1 where neither says */
    bool has[DATA_N_COMPONENTS];
    bool has_ema;           /* an EMA copy of the U-Net (more than 100 such keys) */
    bool use_ema;           /* take it instead of the plain weights; set by the caller */
    bool open_clip;         /* the text model has OpenCLIP's names (SD2) */
    bool prediction_known;  /* the prediction type was stated, not assumed */
    nn_unet_config unet;
    nn_vae_config vae;
    nn_clip_config text;
    data_schedule_config schedule;
} data_single;

/* True when some name can only come from a single-file checkpoint (or a stand-alone VAE in the
 * original naming); false for a component's own file with published names. */
bool data_single_is(const data_named_shape *list, int64_t n);

/* Recognise the table of contents of the file `path`, and derive configs from the shapes. What
 * shapes cannot say (number of heads, groups, epsilons) is what the family's published models
 * have: 8 heads in SD1, heads of 64 channels in SD2, 32 groups; a sibling .yaml (the original
 * program's) and the texts in the safetensors header override it (see data_single_set_text).
 * An OpenCLIP text model that comes with text_projection is a whole one: its last layer is stored
 * and not used. (So a writer that wants other programs to read an SD2 file adds a copy of the last
 * layer, text_projection and logit_scale, as they expect them.)
 * SD2's prediction type: the sibling .yaml's parameterization, else global_step (875000: epsilon;
 * -1 when unknown), else v, as the library assumes; prediction_known is false in the last case.
 * AG_EUNSUPPORTED by name for inpainting, instruct-pix2pix and SDXL files; AG_EDATA when the keys
 * are none of ours or the shapes do not fit together. */
ag_status data_single_recognise(data_single *out, ag_ctx *ctx, const char *path,
                                const data_named_shape *list, int64_t n, int64_t global_step);

/* Our own single files carry their configs in the safetensors header's __metadata__ under the
 * keys "agewright.unet", "agewright.vae", "agewright.text_encoder", "agewright.scheduler"
 * (the text of the config file), so that any model comes back as it was. Returns AG_OK for keys
 * of others. */
ag_status data_single_set_text(data_single *single, ag_ctx *ctx, const char *path, const char *key,
                               const char *text);
/* Text for one such key, or NULL (context failed); the caller's. what: 0..2 a data_component,
 * 3 the scheduler; *key is a constant. */
enum { DATA_SINGLE_N_TEXTS = DATA_N_COMPONENTS + 1 };
char *data_single_text(const char **key, ag_ctx *ctx, const data_single *single, int what);

enum { DATA_KEY_MAX = 256 };

/* One tensor of a component that an entry of a single file gives, or the other way round:
 * rows part/n_parts of the file's tensor (n_parts is 3 for OpenCLIP's q, k, v, else 1). */
typedef struct data_key {
    data_component component;
    char name[DATA_KEY_MAX];
    int part, n_parts;
    int n_ones; /* the file's tensor has this many trailing dimensions of 1 that the other lacks */
} data_key;

/* Map a file's entry to published names. Returns how many of out[3] were filled: 1, 3 (q, k, v),
 * 0 for an entry that is knowingly left out (schedules' buffers, position ids, the EMA or plain
 * copy that was not asked for, the loss of a VAE, OpenCLIP's last layer), -1 for an unknown one.
 * n_dims is that of the file's tensor. */
int data_single_to_folder(data_key out[3], const data_single *single, const char *name, int n_dims);

/* Map a published name to the file's. False when the component has no such name (or it is too
 * long). out->name is the entry's name; q, k and v of an OpenCLIP file share one, by part.
 * n_dims is that of the component's tensor. */
bool data_single_from_folder(data_key *out, const data_single *single, data_component component,
                             const char *name, int n_dims);

/* Older published names to those of today, in place: query, key, value and proj_attn of the VAE's
 * attention, text names without text_model. . False when the tensor is to be ignored
 * (position_ids). name has DATA_KEY_MAX bytes. */
bool data_published_name(char *name, data_component component);

#ifdef __cplusplus
}
#endif

#endif /* DATA_SINGLE_FILE_H */
