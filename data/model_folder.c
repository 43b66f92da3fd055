/* model_folder.c - what lies at a path, where the components are, and the published models. */
#include "data/model_folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/json.h"
#include "data/text_file.h"

static const struct {
    const char *name, *class_name;
} components[DATA_N_COMPONENTS] = {[DATA_UNET] = {"unet", "UNet2DConditionModel"},
                                   [DATA_VAE] = {"vae", "AutoencoderKL"},
                                   [DATA_TEXT_ENCODER] = {"text_encoder", "CLIPTextModel"}};

const char *data_component_name(data_component component)
{
    return components[component].name;
}

const char *data_component_file_stem(data_component component, bool safetensors)
{
    if (component != DATA_TEXT_ENCODER)
        return "diffusion_pytorch_model";
    return safetensors ? "model" : "pytorch_model";
}

/* --- what lies at a path --------------------------------------------------------------------- */

typedef enum kind_of_path { NOTHING, A_FILE, A_FOLDER } kind_of_path;

static kind_of_path kind_of(const char *path)
{
    struct stat info;

    if (!path || stat(path, &info) != 0)
        return NOTHING;
    return S_ISDIR(info.st_mode) ? A_FOLDER : A_FILE;
}

static kind_of_path kind_below(ag_ctx *ctx, const char *folder, const char *name)
{
    char *path = ag_printf(ctx, "%s/%s", folder, name);
    const kind_of_path kind = kind_of(path);

    ag_delete(path);
    return kind;
}

/* Which component a config.json describes; false when it is none of ours. */
static bool component_of(data_component *out, const json_t *config)
{
    const char *class_name = json_string_value(json_object_get(config, "_class_name"));
    const char *model_type = json_string_value(json_object_get(config, "model_type"));

    for (int i = 0; class_name && i < DATA_N_COMPONENTS; i++) {
        if (strcmp(class_name, components[i].class_name) == 0) {
            *out = (data_component)i;
            return true;
        }
    }
    if (class_name)
        return false;
    if (model_type && strncmp(model_type, "clip", 4) == 0)
        *out = DATA_TEXT_ENCODER;
    else if (json_object_get(config, "cross_attention_dim"))
        *out = DATA_UNET;
    else if (json_object_get(config, "latent_channels"))
        *out = DATA_VAE;
    else if (json_object_get(config, "hidden_size"))
        *out = DATA_TEXT_ENCODER;
    else
        return false;
    return true;
}

ag_status data_place_of(data_place *out, data_component *component, ag_ctx *ctx, const char *path)
{
    char *file = NULL;
    json_t *config = NULL;
    ag_status status;

    switch (kind_of(path)) {
    case NOTHING:
        return ag_fail(ctx, AG_EIO, "%s: %s", path, strerror(errno));
    case A_FILE:
        *out = DATA_PLACE_SINGLE_FILE;
        return AG_OK;
    case A_FOLDER:
        break;
    }
    if (kind_below(ctx, path, "model_index.json") == A_FILE) {
        *out = DATA_PLACE_PIPELINE;
        return ag_status_of(ctx);
    }
    for (int i = 0; i < DATA_N_COMPONENTS; i++) {
        if (kind_below(ctx, path, components[i].name) == A_FOLDER) {
            *out = DATA_PLACE_PIPELINE;
            return ag_status_of(ctx);
        }
    }
    file = ag_printf(ctx, "%s/config.json", path);
    if (!file)
        return AG_ENOMEM;
    status = ag_status_of(ctx);
    if (kind_of(file) != A_FILE)
        status = ag_fail(ctx, AG_EDATA,
                         "%s: no model: wanted a pipeline's folder (unet/, vae/, text_encoder/), "
                         "a component's (config.json) or a checkpoint file",
                         path);
    else
        status = data_json_read(&config, ctx, file, DATA_JSON_CONFIG_BYTES);
    if (status == AG_OK && !component_of(component, config))
        status = ag_fail(ctx, AG_EUNSUPPORTED,
                         "%s: describes none of UNet2DConditionModel, AutoencoderKL, CLIPTextModel",
                         file);
    if (status == AG_OK)
        *out = DATA_PLACE_COMPONENT;
    json_decref(config);
    ag_delete(file);
    return status;
}

/* What model_index.json, where there is one, says of a component. */
static ag_status check_index(ag_ctx *ctx, const char *path, data_component component)
{
    char *file = ag_printf(ctx, "%s/model_index.json", path);
    json_t *index = NULL;
    const json_t *entry, *class_name;
    ag_status status = file ? AG_OK : AG_ENOMEM;

    if (status == AG_OK && kind_of(file) == A_FILE)
        status = data_json_read(&index, ctx, file, DATA_JSON_CONFIG_BYTES);
    entry = json_object_get(index, components[component].name);
    class_name = json_array_get(entry, 1);
    if (status == AG_OK && json_is_array(entry)) {
        if (json_is_null(class_name))
            status = ag_fail(ctx, AG_EDATA, "%s: the pipeline has no %s", file,
                             components[component].name);
        else if (!json_is_string(class_name) ||
                 strcmp(json_string_value(class_name), components[component].class_name) != 0)
            status = ag_fail(ctx, AG_EUNSUPPORTED, "%s: %s is a %.60s, possible: %s", file,
                             components[component].name,
                             json_is_string(class_name) ? json_string_value(class_name) : "?",
                             components[component].class_name);
    }
    json_decref(index);
    ag_delete(file);
    return status;
}

ag_status data_component_folder(char **out, ag_ctx *ctx, const char *path, data_component component)
{
    data_place place;
    data_component found = component;
    char *folder = NULL;
    ag_status status = data_place_of(&place, &found, ctx, path);

    if (status != AG_OK)
        return status;
    if (place == DATA_PLACE_SINGLE_FILE)
        return ag_fail(ctx, AG_EDATA, "%s: wanted a folder, this is a file", path);
    if (place == DATA_PLACE_COMPONENT && found != component)
        return ag_fail(ctx, AG_EDATA, "%s: wanted a %s, this is a %s", path,
                       components[component].class_name, components[found].class_name);
    if (place == DATA_PLACE_PIPELINE)
        status = check_index(ctx, path, component);
    if (status != AG_OK)
        return status;
    folder = place == DATA_PLACE_PIPELINE
                 ? ag_printf(ctx, "%s/%s", path, components[component].name)
                 : ag_strdup(ctx, path);
    if (!folder)
        return AG_ENOMEM;
    if (kind_of(folder) != A_FOLDER) {
        status = ag_fail(ctx, AG_EIO, "%s: the folder is missing", folder);
        ag_delete(folder);
        return status;
    }
    *out = folder;
    return AG_OK;
}

/* --- reading configs from folders ------------------------------------------------------------- */

/* The text of folder/config.json; *path and *text are the caller's. */
static ag_status read_config(char **path, char **text, size_t *size, ag_ctx *ctx,
                             const char *folder)
{
    *path = ag_printf(ctx, "%s/config.json", folder);
    if (!*path)
        return AG_ENOMEM;
    return data_file_read(text, size, ctx, *path, DATA_JSON_CONFIG_BYTES);
}

ag_status data_unet_config_read(nn_unet_config *out, ag_ctx *ctx, const char *folder)
{
    char *path = NULL, *text = NULL;
    size_t size = 0;
    ag_status status = read_config(&path, &text, &size, ctx, folder);

    if (status == AG_OK)
        status = data_unet_config_parse(out, ctx, path, text, size);
    ag_delete(path);
    ag_delete(text);
    return status;
}

ag_status data_vae_config_read(nn_vae_config *out, ag_ctx *ctx, const char *folder)
{
    char *path = NULL, *text = NULL;
    size_t size = 0;
    ag_status status = read_config(&path, &text, &size, ctx, folder);

    if (status == AG_OK)
        status = data_vae_config_parse(out, ctx, path, text, size);
    ag_delete(path);
    ag_delete(text);
    return status;
}

ag_status data_text_config_read(nn_clip_config *out, ag_ctx *ctx, const char *folder)
{
    char *path = NULL, *text = NULL;
    size_t size = 0;
    ag_status status = read_config(&path, &text, &size, ctx, folder);

    if (status == AG_OK)
        status = data_text_config_parse(out, ctx, path, text, size);
    ag_delete(path);
    ag_delete(text);
    return status;
}

void data_schedule_config_default(data_schedule_config *out)
{
    *out = (data_schedule_config){.class_name = "PNDMScheduler",
                                  .num_train_timesteps = 1000,
                                  .beta_start = 0.00085,
                                  .beta_end = 0.012,
                                  .beta_schedule = DATA_BETA_SCALED_LINEAR,
                                  .prediction_type = DATA_EPSILON,
                                  .timestep_spacing = DATA_SPACING_DEFAULT,
                                  .clip_sample = 0,
                                  .set_alpha_to_one = 0,
                                  .skip_prk_steps = 1,
                                  .steps_offset = 1};
}

ag_status data_schedule_config_read(data_schedule_config *out, bool *found, ag_ctx *ctx,
                                    const char *path)
{
    static const char *const places[] = {"scheduler/scheduler_config.json", "scheduler_config.json",
                                         "../scheduler/scheduler_config.json"};
    ag_status status = AG_OK;

    if (found)
        *found = false;
    data_schedule_config_default(out);
    if (kind_of(path) != A_FOLDER)
        return AG_OK;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *file = ag_printf(ctx, "%s/%s", path, places[i]), *text = NULL;
        size_t size = 0;
        const bool is_there = kind_of(file) == A_FILE;

        if (!file)
            return AG_ENOMEM;
        if (is_there) {
            status = data_file_read(&text, &size, ctx, file, DATA_JSON_CONFIG_BYTES);
            if (status == AG_OK)
                status = data_schedule_config_parse(out, ctx, file, text, size);
            if (found)
                *found = status == AG_OK;
        }
        ag_delete(text);
        ag_delete(file);
        if (is_there)
            break;
    }
    return status;
}

/* --- the published models --------------------------------------------------------------------- */

bool data_model_preset(const char *name, nn_unet_config *unet, nn_vae_config *vae,
                       nn_clip_config *text, data_schedule_config *schedule)
{
    const bool sd1 = strcmp(name, "sd15") == 0, sd2 = strcmp(name, "sd21") == 0;
    const bool sd2_base = strcmp(name, "sd21-base") == 0;
    nn_unet_config u = {.sample_size = sd2 ? 96 : 64,
                        .in_channels = 4,
                        .out_channels = 4,
                        .n_levels = 4,
                        .block_out_channels = {320, 640, 1280, 1280},
                        .down_attention = {true, true, true, false},
                        .up_attention = {false, true, true, true},
                        .n_heads = {8, 8, 8, 8},
                        .layers_per_block = 2,
                        .transformer_layers_per_block = 1,
                        .cross_attention_dim = sd1 ? 768 : 1024,
                        .norm_num_groups = 32,
                        .norm_eps = 1e-5,
                        .flip_sin_to_cos = true,
                        .mid_block_scale_factor = 1,
                        .use_linear_projection = !sd1,
                        .upcast_attention = sd2};

    if (!sd1 && !sd2 && !sd2_base)
        return false;
    for (int i = 0; !sd1 && i < 4; i++)
        u.n_heads[i] = u.block_out_channels[i] / 64;
    if (unet)
        *unet = u;
    if (vae)
        *vae = (nn_vae_config){.sample_size = sd2 ? 768 : 512,
                               .in_channels = 3,
                               .out_channels = 3,
                               .latent_channels = 4,
                               .n_levels = 4,
                               .block_out_channels = {128, 256, 512, 512},
                               .layers_per_block = 2,
                               .norm_num_groups = 32,
                               .scaling_factor = 0.18215,
                               .force_upcast = true};
    if (text && sd1)
        *text = (nn_clip_config){49408, 768, 3072, 12, 12, 77, 768, 1e-5, NN_QUICK_GELU};
    else if (text)
        *text = (nn_clip_config){49408, 1024, 4096, 23, 16, 77, 512, 1e-5, NN_GELU};
    if (schedule) {
        data_schedule_config_default(schedule);
        if (sd2) {
            snprintf(schedule->class_name, sizeof schedule->class_name, "DDIMScheduler");
            schedule->prediction_type = DATA_V_PREDICTION;
            schedule->skip_prk_steps = DATA_UNSAID;
        }
    }
    return true;
}
