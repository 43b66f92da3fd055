/* inspect_model.c - weight files, model folders and checkpoints; see inspect.h. */
#include <string.h>

#include "cli/inspect.h"
#include "cli/lora.h"
#include "data/file.h"
#include "data/json.h"
#include "data/single_file.h"
#include "data/tokenizer.h"
#include "data/weights.h"
#include "pipeline/weights_bridge.h"
#include "train/checkpoint.h"
#include "train/checkpoint_manifest.h"

/* --- weight files ----------------------------------------------------------------------------- */

static bool has(const data_weights *w, const char *name)
{
    return data_weights_find(w, name) >= 0;
}

/* What a file is, by the names of its tensors. */
static const char *kind_by_names(const data_weights *w)
{
    if (has(w, "time_embedding.linear_1.weight") && has(w, "conv_in.weight"))
        return "U-Net (diffusers names)";
    if (has(w, "encoder.conv_in.weight") && has(w, "decoder.conv_in.weight"))
        return "VAE (diffusers names)";
    if (has(w, "text_model.embeddings.token_embedding.weight") ||
        has(w, "embeddings.token_embedding.weight"))
        return "CLIP text model";
    return "weights of no model that is known here";
}

static bool is_checkpoint(ag_ctx *ctx, const data_weights *w)
{
    const int64_t n = data_weights_count(w);
    data_named_shape *list = ag_new(ctx, (size_t)n, sizeof *list, "list of tensors");
    bool yes;

    for (int64_t i = 0; list && i < n; i++) {
        const data_tensor *t = data_weights_at(w, i);

        list[i] = (data_named_shape){.name = t->name, .n_dims = t->n_dims, .dims = t->dims};
    }
    yes = list && data_single_is(list, n);
    ag_delete(list);
    return yes;
}

/* The text of a configuration as JSON; ends the text. */
static json_t *parsed(char *text)
{
    json_t *value = text ? json_loads(text, 0, NULL) : NULL;

    ag_delete(text);
    return value;
}

static ag_status describe_checkpoint(ag_ctx *ctx, json_t *root, data_weights *w)
{
    data_single *s = ag_new(ctx, 1, sizeof *s, "single file");
    json_t *parts = json_array(), *configs = json_object();

    if (s && pipe_recognise(s, ctx, w) == AG_OK) {
        const bool sd2 = s->family == DATA_FAMILY_SD2;

        inspect_set(root, "kind",
                    json_string(sd2 ? "single-file checkpoint, Stable Diffusion 2"
                                    : "single-file checkpoint, Stable Diffusion 1"));
        for (int c = 0; c < DATA_N_COMPONENTS; c++)
            if (s->has[c])
                json_array_append_new(parts, json_string(data_component_name((data_component)c)));
        if (s->has_ema)
            json_array_append_new(parts, json_string("averaged unet (EMA)"));
        if (s->has[DATA_UNET])
            inspect_set(configs, "unet", parsed(data_unet_config_text(ctx, &s->unet)));
        if (s->has[DATA_VAE])
            inspect_set(configs, "vae", parsed(data_vae_config_text(ctx, &s->vae)));
        if (s->has[DATA_TEXT_ENCODER])
            inspect_set(configs, "text_encoder",
                        parsed(data_text_config_text(ctx, &s->text, "float32")));
        if (s->has[DATA_UNET])
            inspect_set(configs, "scheduler", parsed(data_schedule_config_text(ctx, &s->schedule)));
        json_object_set(root, "parts", parts);
        json_object_set(root, "configurations", configs);
    }
    json_decref(configs);
    json_decref(parts);
    ag_delete(s);
    return ag_status_of(ctx);
}

static json_t *shape_of(const data_tensor *t)
{
    json_t *shape = json_array();

    for (int d = 0; d < t->n_dims; d++)
        json_array_append_new(shape, json_integer(t->dims[d]));
    return shape;
}

/* Counts, types, and with `with_list` every tensor. */
static void describe_tensors(json_t *root, const data_weights *w, bool with_list)
{
    json_t *list = json_array(), *types = json_object();
    int64_t values = 0, bytes = 0;

    for (int64_t i = 0; i < data_weights_count(w); i++) {
        const data_tensor *t = data_weights_at(w, i);
        json_t *one = json_object();
        const json_t *count = json_object_get(types, t->dtype_name);

        values += t->n_values;
        bytes += (int64_t)t->n_bytes;
        json_object_set_new(types, t->dtype_name, json_integer(json_integer_value(count) + 1));
        inspect_set(one, "name", json_string(t->name));
        inspect_set(one, "dtype", json_string(t->dtype_name));
        inspect_set(one, "shape", shape_of(t));
        json_array_append_new(list, one);
    }
    inspect_set(root, "n_tensors", json_integer(data_weights_count(w)));
    inspect_set(root, "n_values", json_integer(values));
    inspect_set(root, "bytes", json_integer(bytes));
    json_object_set(root, "dtypes", types);
    if (with_list)
        json_object_set(root, "tensors", list);
    json_decref(types);
    json_decref(list);
}

/* What is wrong with a LoRA is said there, not an end. */
static void describe_lora(ag_ctx *ctx, json_t *root, const char *path)
{
    if (lora_describe(ctx, root, path, NULL, false) == AG_OK || ag_status_of(ctx) == AG_ENOMEM)
        return;
    inspect_set(root, "kind", json_string("LoRA"));
    inspect_set(root, "problem", json_string(ag_message(ctx)));
    ag_clear(ctx);
}

ag_status inspect_weight_file(ag_ctx *ctx, json_t *root, const char *path)
{
    data_weights *w = NULL;
    json_t *metadata = json_object();

    if (data_weights_open(&w, ctx, path) == AG_OK) {
        if (is_checkpoint(ctx, w))
            describe_checkpoint(ctx, root, w);
        else if (data_lora_is(w))
            describe_lora(ctx, root, path);
        else
            inspect_set(root, "kind", json_string(kind_by_names(w)));
        for (int64_t i = 0; i < data_weights_n_metadata(w); i++) {
            const data_pair pair = data_weights_metadata_at(w, i);

            inspect_set(metadata, pair.key, json_string(pair.value));
        }
        json_object_set(root, "metadata", metadata);
        describe_tensors(root, w, true);
    }
    json_decref(metadata);
    data_weights_close(w);
    return ag_status_of(ctx);
}

/* --- model folders ---------------------------------------------------------------------------- */

/* Read the configuration strictly, as a run would, and give its text back. */
static json_t *component_config(ag_ctx *ctx, const char *folder, data_component component)
{
    nn_unet_config unet;
    nn_vae_config vae;
    nn_clip_config text;

    if (component == DATA_UNET && data_unet_config_read(&unet, ctx, folder) == AG_OK)
        return parsed(data_unet_config_text(ctx, &unet));
    if (component == DATA_VAE && data_vae_config_read(&vae, ctx, folder) == AG_OK)
        return parsed(data_vae_config_text(ctx, &vae));
    if (component == DATA_TEXT_ENCODER && data_text_config_read(&text, ctx, folder) == AG_OK)
        return parsed(data_text_config_text(ctx, &text, "float32"));
    return NULL;
}

/* What holds in one component's folder; what is wrong with it is said there, not an end. */
static void describe_component(ag_ctx *ctx, json_t *root, const char *path,
                               data_component component)
{
    json_t *one = json_object();
    data_weights *w = NULL;
    char *folder = NULL;

    if (data_component_folder(&folder, ctx, path, component) == AG_OK) {
        json_t *config = component_config(ctx, folder, component);

        if (config && data_weights_open_folder(&w, ctx, folder, NULL) == AG_OK) {
            inspect_set(one, "file", json_string(data_weights_path(w)));
            describe_tensors(one, w, false);
        }
        if (config)
            inspect_set(one, "configuration", config);
    }
    if (ag_status_of(ctx) != AG_OK && ag_status_of(ctx) != AG_ENOMEM) {
        inspect_set(one, "problem", json_string(ag_message(ctx)));
        ag_clear(ctx);
    }
    inspect_set(root, data_component_name(component), one);
    data_weights_close(w);
    ag_delete(folder);
}

static void describe_tokenizer(ag_ctx *ctx, json_t *root, const char *path)
{
    data_tokenizer *tokenizer = NULL;
    json_t *one = json_object();

    if (data_tokenizer_open(&tokenizer, ctx, path) == AG_OK) {
        inspect_set(one, "tokens", json_integer(data_tokenizer_size(tokenizer)));
        inspect_set(one, "max_length", json_integer(data_tokenizer_max_length(tokenizer)));
    } else if (ag_status_of(ctx) != AG_ENOMEM) {
        inspect_set(one, "problem", json_string(ag_message(ctx)));
        ag_clear(ctx);
    }
    inspect_set(root, "tokenizer", one);
    data_tokenizer_close(tokenizer);
}

/* Checkpoints of a training run that wrote into the folder. */
static ag_status describe_checkpoints(ag_ctx *ctx, json_t *root, const char *path)
{
    const int64_t newest = train_checkpoint_newest(ctx, path);

    if (newest >= 0)
        inspect_set(root, "newest_checkpoint", json_integer(newest));
    return ag_status_of(ctx);
}

ag_status inspect_model_folder(ag_ctx *ctx, json_t *root, const char *path)
{
    data_place place;
    data_component only = DATA_N_COMPONENTS;
    data_schedule_config schedule;
    bool found;

    if (data_place_of(&place, &only, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    if (place == DATA_PLACE_COMPONENT) {
        inspect_set(root, "kind", json_string("one component of a model, diffusers folder"));
        describe_component(ctx, root, path, only);
        return ag_status_of(ctx);
    }
    inspect_set(root, "kind", json_string("model, diffusers folder"));
    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++)
        describe_component(ctx, root, path, (data_component)c);
    if (ag_status_of(ctx) == AG_OK)
        describe_tokenizer(ctx, root, path);
    if (ag_status_of(ctx) == AG_OK &&
        data_schedule_config_read(&schedule, &found, ctx, path) == AG_OK && found)
        inspect_set(root, "scheduler", parsed(data_schedule_config_text(ctx, &schedule)));
    return ag_status_of(ctx) == AG_OK ? describe_checkpoints(ctx, root, path) : ag_status_of(ctx);
}

/* --- checkpoints ------------------------------------------------------------------------------ */

ag_status inspect_checkpoint(ag_ctx *ctx, json_t *root, const char *path)
{
    train_manifest m = {0};
    json_t *files = json_array(), *tensors = json_array();
    int64_t bytes = 0;

    inspect_set(root, "kind", json_string("checkpoint of a training run"));
    if (train_manifest_open(&m, ctx, path) != AG_OK)
        goto out;
    for (int64_t i = 0; i < m.n_files; i++) {
        json_t *one = json_object();

        bytes += m.files[i].size;
        inspect_set(one, "name", json_string(m.files[i].name));
        inspect_set(one, "bytes", json_integer(m.files[i].size));
        json_array_append_new(files, one);
    }
    for (int64_t i = 0; i < m.n_tensors; i++) {
        const train_manifest_tensor *t = &m.tensors[i];
        json_t *one = json_object(), *shape = json_array();

        for (int d = 0; d < t->n_dims; d++)
            json_array_append_new(shape, json_integer(t->dims[d]));
        inspect_set(one, "name", json_string(t->name));
        inspect_set(one, "dtype", json_string(ag_dtype_name(t->dtype)));
        inspect_set(one, "shape", shape);
        json_array_append_new(tensors, one);
    }
    inspect_set(root, "update", json_integer(m.update));
    for (int i = 0; i < 4; i++) {
        static const char *const keys[] = {"created", "versions", "machine", "configuration"};
        json_t *value = json_object_get(m.root, keys[i]);

        if (value)
            json_object_set(root, keys[i], value);
    }
    json_object_set(root, "files", files);
    inspect_set(root, "bytes", json_integer(bytes));
    inspect_set(root, "n_tensors", json_integer(m.n_tensors));
    json_object_set(root, "tensors", tensors);
    if (train_manifest_check(ctx, &m) == AG_OK) {
        inspect_set(root, "whole", json_true());
    } else if (ag_status_of(ctx) != AG_ENOMEM) {
        inspect_set(root, "whole", json_false());
        inspect_set(root, "problem", json_string(ag_message(ctx)));
        ag_clear(ctx);
    }
out:
    json_decref(files);
    json_decref(tensors);
    train_manifest_close(&m);
    return ag_status_of(ctx);
}
