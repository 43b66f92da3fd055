/* pipeline.c - see pipeline.h. */
#include "pipeline/pipeline.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "autograd/grad.h"
#include "data/file.h"
#include "data/hub.h"
#include "nn/init.h"
#include "pipeline/weights_bridge.h"
#include "pipeline/words.h"

/* --- networks from configurations ------------------------------------------------------------ */

static ag_status make_network(pipe_model *m, ag_ctx *ctx, data_component component, const void *config)
{
    switch (component) {
    case DATA_UNET:
        nn_unet_new(&m->unet, ctx, config);
        break;
    case DATA_VAE:
        nn_vae_new(&m->vae, ctx, config);
        break;
    case DATA_TEXT_ENCODER:
        nn_clip_text_new(&m->text, ctx, config);
        break;
    case DATA_N_COMPONENTS:
        break;
    }
    if (ag_status_of(ctx) == AG_OK)
        nn_params_alloc(ctx, pipe_params(m, component),
                        m->source.half_parts >> component & 1 ? m->source.half_dtype : AG_F32);
    return ag_status_of(ctx);
}

nn_params *pipe_params(const pipe_model *m, data_component component)
{
    switch (component) {
    case DATA_UNET:
        return m->unet ? nn_unet_params(m->unet) : NULL;
    case DATA_VAE:
        return m->vae ? nn_vae_params(m->vae) : NULL;
    case DATA_TEXT_ENCODER:
        return m->text ? nn_clip_text_params(m->text) : NULL;
    case DATA_N_COMPONENTS:
        break;
    }
    return NULL;
}

/* --- opening ----------------------------------------------------------------------------------- */

static bool wants_weights(const ag_ctx *ctx, const pipe_model *m)
{
    return ag_ctx_device(ctx) != AG_META || m->checks_files;
}

static ag_status open_from_folder(pipe_model *m, ag_ctx *ctx, data_component component)
{
    union {
        nn_unet_config unet;
        nn_vae_config vae;
        nn_clip_config text;
    } config;
    char *folder = NULL;
    data_weights *weights = NULL;

    if (data_component_folder(&folder, ctx, m->path, component) != AG_OK)
        return ag_status_of(ctx);
    if (component == DATA_UNET)
        data_unet_config_read(&config.unet, ctx, folder);
    else if (component == DATA_VAE)
        data_vae_config_read(&config.vae, ctx, folder);
    else
        data_text_config_read(&config.text, ctx, folder);
    if (ag_status_of(ctx) == AG_OK && make_network(m, ctx, component, &config) == AG_OK &&
        wants_weights(ctx, m) && data_weights_open_folder(&weights, ctx, folder, m->source.variant) == AG_OK)
        pipe_load_component(ctx, pipe_params(m, component), weights, component);
    data_weights_close(weights);
    ag_delete(folder);
    return ag_status_of(ctx);
}

static ag_status open_from_single(pipe_model *m, ag_ctx *ctx, unsigned parts)
{
    data_weights *weights = NULL;
    data_single *single = ag_new(ctx, 1, sizeof *single, "single file");

    if (single && data_weights_open(&weights, ctx, m->path) == AG_OK &&
        pipe_recognise(single, ctx, weights) == AG_OK) {
        single->use_ema = m->source.use_ema;
        if (single->use_ema && !single->has_ema)
            ag_fail(ctx, AG_EDATA, "%s: holds no averaged (EMA) copy of the U-Net", m->path);
        m->schedule = single->schedule;
        m->prediction_known = single->prediction_known;
        for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++) {
            const void *configs[] = {
                [DATA_UNET] = &single->unet, [DATA_VAE] = &single->vae, [DATA_TEXT_ENCODER] = &single->text};
            if (!(parts >> c & 1) || pipe_params(m, (data_component)c))
                continue;
            if (!single->has[c])
                ag_fail(ctx, AG_EDATA, "%s: holds no %s", m->path, data_component_name((data_component)c));
            else if (make_network(m, ctx, (data_component)c, configs[c]) == AG_OK && wants_weights(ctx, m))
                pipe_load_single(ctx, pipe_params(m, (data_component)c), weights, single, (data_component)c);
        }
    }
    data_weights_close(weights);
    ag_delete(single);
    return ag_status_of(ctx);
}

static ag_status open_tokenizer(pipe_model *m, ag_ctx *ctx, data_place place)
{
    char *found = NULL;

    if (!m->source.tokenizer_name) {
        if (place == DATA_PLACE_SINGLE_FILE)
            return ag_fail(ctx, AG_EINVAL,
                           "%s: a single-file checkpoint has no tokenizer; give a folder with vocab.json and "
                           "merges.txt by --tokenizer_name",
                           m->path);
        return data_tokenizer_open(&m->tokenizer, ctx, m->path);
    }
    if (data_resolve_model(&found, ctx, m->source.tokenizer_name, NULL) == AG_OK)
        data_tokenizer_open(&m->tokenizer, ctx, found);
    ag_delete(found);
    return ag_status_of(ctx);
}

ag_status pipe_add(ag_ctx *ctx, pipe_model *m, unsigned parts)
{
    data_place place;
    data_component only;

    if (data_place_of(&place, &only, ctx, m->path) != AG_OK)
        return ag_status_of(ctx);
    if (place == DATA_PLACE_SINGLE_FILE)
        open_from_single(m, ctx, parts);
    else
        for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++)
            if ((parts >> c & 1) && !pipe_params(m, (data_component)c))
                open_from_folder(m, ctx, (data_component)c);
    if (ag_status_of(ctx) == AG_OK && (parts & PIPE_TOKENIZER) && !m->tokenizer)
        open_tokenizer(m, ctx, place);
    return ag_status_of(ctx);
}

static ag_status open_parts(pipe_model **out, ag_ctx *ctx, const pipe_source *source, unsigned parts, bool checks_files)
{
    pipe_model *m = ag_new(ctx, 1, sizeof *m, "model");

    if (!m)
        return ag_status_of(ctx);
    m->source = *source;
    m->checks_files = checks_files;
    data_schedule_config_default(&m->schedule);
    if (data_resolve_model(&m->path, ctx, source->model, source->revision) == AG_OK) {
        if (data_is_folder(m->path))
            data_schedule_config_read(&m->schedule, &m->prediction_known, ctx, m->path);
        if (ag_status_of(ctx) == AG_OK)
            pipe_add(ctx, m, parts);
    }
    if (ag_status_of(ctx) != AG_OK) {
        pipe_close(m);
        return ag_status_of(ctx);
    }
    *out = m;
    return AG_OK;
}

ag_status pipe_open(pipe_model **out, ag_ctx *ctx, const pipe_source *source, unsigned parts)
{
    return open_parts(out, ctx, source, parts, false);
}

ag_status pipe_check(ag_ctx *ctx, const pipe_source *source, unsigned parts)
{
    ag_ctx *meta = ag_status_of(ctx) == AG_OK ? ag_ctx_new(&(ag_ctx_options){.device = AG_META}) : NULL;
    pipe_model *m = NULL;

    if (meta && open_parts(&m, meta, source, parts, true) != AG_OK)
        ag_fail(ctx, ag_status_of(meta), "%s", ag_message(meta));
    else if (!meta)
        ag_fail(ctx, AG_ENOMEM, "no memory to look through the model's files");
    pipe_close(m);
    ag_ctx_free(meta);
    return ag_status_of(ctx);
}

ag_status pipe_new(pipe_model **out, ag_ctx *ctx, const nn_unet_config *unet, const nn_vae_config *vae,
                   const nn_clip_config *text, const data_schedule_config *schedule, uint64_t seed)
{
    const void *configs[] = {[DATA_UNET] = unet, [DATA_VAE] = vae, [DATA_TEXT_ENCODER] = text};
    pipe_model *m = ag_new(ctx, 1, sizeof *m, "model");

    if (!m)
        return ag_status_of(ctx);
    m->schedule = *schedule;
    m->prediction_known = true;
    for (int c = 0; c < DATA_N_COMPONENTS; c++)
        if (configs[c] && make_network(m, ctx, (data_component)c, configs[c]) == AG_OK)
            nn_params_init(ctx, pipe_params(m, (data_component)c), seed);
    if (ag_status_of(ctx) != AG_OK) {
        pipe_close(m);
        return ag_status_of(ctx);
    }
    *out = m;
    return AG_OK;
}

void pipe_drop(pipe_model *m, unsigned parts)
{
    if (parts & PIPE_UNET) {
        nn_unet_free(m->unet);
        m->unet = NULL;
    }
    if (parts & PIPE_VAE) {
        nn_vae_free(m->vae);
        m->vae = NULL;
    }
    if (parts & PIPE_TEXT) {
        nn_clip_text_free(m->text);
        m->text = NULL;
    }
    if (parts & PIPE_TOKENIZER) {
        data_tokenizer_close(m->tokenizer);
        m->tokenizer = NULL;
    }
}

void pipe_close(pipe_model *m)
{
    if (!m)
        return;
    pipe_drop(m, PIPE_ALL);
    pipe_words_free(m->words);
    ag_delete(m->path);
    ag_delete(m);
}

/* --- saving ------------------------------------------------------------------------------------ */

static const char *dtype_word(ag_dtype dtype)
{
    return dtype == AG_BF16 ? "bfloat16" : dtype == AG_F16 ? "float16" : "float32";
}

ag_status pipe_save_component(ag_ctx *ctx, const pipe_model *m, const char *folder, data_component component,
                              ag_dtype dtype)
{
    char *path = ag_printf(ctx, "%s/%s.safetensors", folder, data_component_file_stem(component, true));

    if (path && data_folder_make(ctx, folder) == AG_OK &&
        pipe_write_params(ctx, pipe_params(m, component), path, dtype) == AG_OK) {
        if (component == DATA_UNET)
            data_unet_config_write(ctx, folder, nn_unet_config_of(m->unet));
        else if (component == DATA_VAE)
            data_vae_config_write(ctx, folder, nn_vae_config_of(m->vae));
        else
            data_text_config_write(ctx, folder, nn_clip_text_config_of(m->text), dtype_word(dtype));
    }
    ag_delete(path);
    return ag_status_of(ctx);
}

ag_status pipe_load_params(ag_ctx *ctx, nn_params *params, const char *path)
{
    data_weights *weights = NULL;

    if (data_weights_open(&weights, ctx, path) == AG_OK)
        pipe_load_component(ctx, params, weights, DATA_UNET); /* whose names are taken as they stand */
    data_weights_close(weights);
    return ag_status_of(ctx);
}

ag_status pipe_save_params(ag_ctx *ctx, nn_params *params, const char *path, ag_dtype dtype)
{
    return pipe_write_params(ctx, params, path, dtype);
}

static ag_status save_tokenizer(ag_ctx *ctx, const pipe_model *m, const char *folder)
{
    char *path = ag_printf(ctx, "%s/tokenizer", folder);

    if (path && data_folder_make(ctx, path) == AG_OK)
        data_tokenizer_copy(m->tokenizer, ctx, path);
    ag_delete(path);
    return ag_status_of(ctx);
}

static ag_status save_scheduler(ag_ctx *ctx, const pipe_model *m, const char *folder)
{
    char *path = ag_printf(ctx, "%s/scheduler", folder);

    if (path && data_folder_make(ctx, path) == AG_OK)
        data_schedule_config_write(ctx, path, &m->schedule);
    ag_delete(path);
    return ag_status_of(ctx);
}

/* From here on until the new index is written the folder is no model. */
static ag_status remove_index(ag_ctx *ctx, const char *folder)
{
    char *path = ag_printf(ctx, "%s/model_index.json", folder);

    if (path && remove(path) != 0 && errno != ENOENT)
        ag_fail(ctx, AG_EIO, "%s: cannot be replaced: %s", path, strerror(errno));
    ag_delete(path);
    return ag_status_of(ctx);
}

ag_status pipe_save(ag_ctx *ctx, pipe_model *m, const char *folder, ag_dtype dtype)
{
    if (data_folder_make(ctx, folder) == AG_OK)
        remove_index(ctx, folder);
    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++) {
        const bool was_open = pipe_params(m, (data_component)c) != NULL;
        char *path = ag_printf(ctx, "%s/%s", folder, data_component_name((data_component)c));
        if (path && (was_open || pipe_add(ctx, m, 1u << c) == AG_OK))
            pipe_save_component(ctx, m, path, (data_component)c, dtype);
        if (!was_open)
            pipe_drop(m, 1u << c);
        ag_delete(path);
    }
    if (ag_status_of(ctx) == AG_OK && !m->tokenizer && m->path)
        pipe_add(ctx, m, PIPE_TOKENIZER);
    if (ag_status_of(ctx) == AG_OK && m->tokenizer)
        save_tokenizer(ctx, m, folder);
    if (ag_status_of(ctx) == AG_OK && save_scheduler(ctx, m, folder) == AG_OK)
        data_model_index_write(ctx, folder, &m->schedule);
    return ag_status_of(ctx);
}

bool pipe_settle_schedule(data_schedule_config *schedule)
{
    const bool changes = (schedule->steps_offset != DATA_UNSAID && schedule->steps_offset != 1) ||
                         schedule->clip_sample == 1;

    if (schedule->steps_offset != DATA_UNSAID)
        schedule->steps_offset = 1;
    if (schedule->clip_sample != DATA_UNSAID)
        schedule->clip_sample = 0;
    return changes;
}

/* --- text ---------------------------------------------------------------------------------------- */

int pipe_max_length(const pipe_model *m)
{
    const int most = data_tokenizer_max_length(m->tokenizer);
    const int64_t positions = m->text ? nn_clip_text_config_of(m->text)->max_position_embeddings : most;

    return positions < most ? (int)positions : most;
}

ag_status pipe_tokenize(ag_ctx *ctx, const pipe_model *m, const char *const *prompts, int64_t n, int max_length,
                        int64_t *ids, int64_t *mask)
{
    const int length = max_length > 0 ? max_length : pipe_max_length(m);

    for (int64_t i = 0; i < n; i++)
        if (data_tokenizer_encode(m->tokenizer, ctx, prompts[i], ids + i * length,
                                  mask ? mask + i * length : NULL, length) != AG_OK)
            break;
    return ag_status_of(ctx);
}

ag_tensor *pipe_encode_prompts(ag_ctx *ctx, const pipe_model *m, const char *const *prompts, int64_t n,
                               int max_length)
{
    const int length = max_length > 0 ? max_length : pipe_max_length(m);
    int64_t *ids = ag_new(ctx, (size_t)n * (size_t)length, sizeof *ids, "token ids");
    const bool was = ag_record(ctx, false);
    ag_tensor *context = NULL;

    if (ids && pipe_tokenize(ctx, m, prompts, n, length, ids, NULL) == AG_OK) {
        const ag_scope scope = ag_scope_open(ctx);
        context = ag_scope_close(ctx, scope, pipe_text_forward(ctx, m, ids, n, length, NULL));
    }
    ag_record(ctx, was);
    ag_delete(ids);
    return context;
}
