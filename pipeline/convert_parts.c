/* convert_parts.c - see convert_parts.h. */
#include "pipeline/convert_parts.h"

#include <stdio.h>
#include <string.h>

#include "data/file.h"
#include "data/json.h"
#include "nn/clip_text.h"
#include "nn/unet.h"
#include "nn/vae.h"
#include "pipeline/weights_bridge.h"

/* --- what a configuration asks for ------------------------------------------------------------ */

/* Compare names and shapes with the network of the configuration, made on AG_META: declared, never
 * allocated. The weights are a single file's or the component's own. */
static ag_status compare(ag_ctx *ctx, data_weights *weights, const data_single *model,
                         data_component component, bool is_single)
{
    ag_ctx *meta = ag_ctx_new(
        &(ag_ctx_options){.device = AG_META, .n_threads = ag_ctx_threads(ctx)});
    nn_unet *unet = NULL;
    nn_vae *vae = NULL;
    nn_clip_text *text = NULL;
    nn_params *params = NULL;

    if (!meta)
        return ag_fail(ctx, AG_ENOMEM, "no memory for a context");
    if (component == DATA_UNET && nn_unet_new(&unet, meta, &model->unet) == AG_OK)
        params = nn_unet_params(unet);
    else if (component == DATA_VAE && nn_vae_new(&vae, meta, &model->vae) == AG_OK)
        params = nn_vae_params(vae);
    else if (component == DATA_TEXT_ENCODER && nn_clip_text_new(&text, meta, &model->text) == AG_OK)
        params = nn_clip_text_params(text);
    if (!params) {
        ag_fail(ctx, ag_status_of(meta), "%s: %s", data_weights_path(weights), ag_message(meta));
    } else {
        if (nn_params_alloc(meta, params, AG_F32) == AG_OK) {
            if (is_single)
                pipe_load_single(meta, params, weights, model, component);
            else
                pipe_load_component(meta, params, weights, component);
        }
        if (ag_status_of(meta) != AG_OK)
            ag_fail(ctx, ag_status_of(meta), "%s", ag_message(meta));
    }
    nn_unet_free(unet);
    nn_vae_free(vae);
    nn_clip_text_free(text);
    ag_ctx_free(meta);
    return ag_status_of(ctx);
}

/* --- listing ---------------------------------------------------------------------------------- */

static ag_status reserve(pipe_parts *p, ag_ctx *ctx, int64_t more)
{
    pipe_part *list = ag_grow(ctx, p->list, (size_t)(p->n + more), sizeof *list, "list of tensors");

    if (list)
        p->list = list;
    return ag_status_of(ctx);
}

/* Tensor i of weights, or the rows of it that `key` says, under key's name. */
static void add(pipe_parts *p, const data_weights *weights, int64_t i, const data_key *key)
{
    const data_tensor *t = data_weights_at(weights, i);
    pipe_part *part = &p->list[p->n++];

    *part = (pipe_part){.component = key->component,
                        .weights = weights,
                        .tensor = i,
                        .n = t->n_values / key->n_parts,
                        .dtype = t->dtype,
                        .n_dims = t->n_dims - key->n_ones};
    part->first = part->n * key->part;
    memcpy(part->name, key->name, sizeof part->name);
    memcpy(part->dims, t->dims, (size_t)part->n_dims * sizeof *t->dims);
    if (key->n_parts > 1)
        part->dims[0] /= key->n_parts;
}

/* Is it the text model's buffer of 0, 1, 2, ..., by the name that any of our files gives it? */
static bool is_position_ids(const char *name)
{
    static const char *const prefixes[] = {"cond_stage_model.transformer.", "text_model."};

    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            name += strlen(prefixes[i]);
    return strcmp(name, "embeddings.position_ids") == 0;
}

static ag_status add_component(pipe_parts *p, ag_ctx *ctx, data_weights *weights,
                               data_component component)
{
    if (compare(ctx, weights, &p->model, component, false) != AG_OK ||
        reserve(p, ctx, data_weights_count(weights)) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < data_weights_count(weights); i++) {
        const data_tensor *t = data_weights_at(weights, i);
        data_key key = {.component = component, .n_parts = 1};
        snprintf(key.name, sizeof key.name, "%s", t->name);
        if (component == DATA_TEXT_ENCODER && is_position_ids(t->name) && t->n_dims <= AG_MAX_DIMS)
            snprintf(key.name, sizeof key.name, PIPE_POSITION_IDS);
        else if (!data_published_name(key.name, component))
            continue;
        add(p, weights, i, &key);
    }
    return AG_OK;
}

static ag_status read_config(pipe_parts *p, ag_ctx *ctx, const char *folder,
                             data_component component)
{
    switch (component) {
    case DATA_UNET:
        return data_unet_config_read(&p->model.unet, ctx, folder);
    case DATA_VAE:
        return data_vae_config_read(&p->model.vae, ctx, folder);
    case DATA_TEXT_ENCODER:
        return data_text_config_read(&p->model.text, ctx, folder);
    case DATA_N_COMPONENTS:
        break;
    }
    return AG_OK;
}

/* Which components a pipeline's folder has: those with a folder, and those that its index
 * promises. */
static ag_status find_components(pipe_parts *p, ag_ctx *ctx, const char *path)
{
    char *file = ag_printf(ctx, "%s/model_index.json", path);
    json_t *index = NULL;

    if (file && data_is_file(file))
        data_json_read(&index, ctx, file, DATA_JSON_CONFIG_BYTES);
    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++) {
        const char *name = data_component_name((data_component)c);
        char *folder = ag_printf(ctx, "%s/%s", path, name);
        p->model.has[c] = (folder && data_is_folder(folder)) ||
                          json_is_string(json_array_get(json_object_get(index, name), 1));
        ag_delete(folder);
    }
    json_decref(index);
    ag_delete(file);
    return ag_status_of(ctx);
}

ag_status pipe_parts_from_folder(pipe_parts *p, ag_ctx *ctx, const char *path, const char *variant)
{
    data_place place;
    data_component only = DATA_N_COMPONENTS;

    if (data_place_of(&place, &only, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    p->is_component = place == DATA_PLACE_COMPONENT;
    if (p->is_component)
        p->model.has[only] = true;
    else if (find_components(p, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    data_schedule_config_read(&p->model.schedule, &p->has_schedule, ctx, path);
    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++) {
        char *folder = NULL;
        if (!p->model.has[c])
            continue;
        if (data_component_folder(&folder, ctx, path, (data_component)c) == AG_OK &&
            read_config(p, ctx, folder, (data_component)c) == AG_OK &&
            data_weights_open_folder(&p->weights[p->n_weights], ctx, folder, variant) == AG_OK)
            add_component(p, ctx, p->weights[p->n_weights++], (data_component)c);
        ag_delete(folder);
    }
    p->model.open_clip = p->model.has[DATA_TEXT_ENCODER] && p->model.text.hidden_act == NN_GELU;
    p->model.prediction_known = p->has_schedule;
    return ag_status_of(ctx);
}

ag_status pipe_parts_from_single(pipe_parts *p, ag_ctx *ctx, data_weights *weights, bool use_ema)
{
    const char *path = data_weights_path(weights);

    if (pipe_recognise(&p->model, ctx, weights) != AG_OK)
        return ag_status_of(ctx);
    p->has_schedule = p->model.has[DATA_UNET];
    p->model.use_ema = use_ema;
    if (use_ema && !p->model.has_ema)
        return ag_fail(ctx, AG_EDATA, "%s: holds no averaged (EMA) copy of the U-Net", path);
    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++)
        if (p->model.has[c])
            compare(ctx, weights, &p->model, (data_component)c, true);
    if (ag_status_of(ctx) != AG_OK ||
        reserve(p, ctx, PIPE_MAX_STACKED * data_weights_count(weights)) != AG_OK)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < data_weights_count(weights); i++) {
        const data_tensor *t = data_weights_at(weights, i);
        data_key keys[3];
        const int n = data_single_to_folder(keys, &p->model, t->name, t->n_dims);
        for (int k = 0; k < n; k++)
            add(p, weights, i, &keys[k]);
        if (n == 0 && is_position_ids(t->name) && t->n_dims <= AG_MAX_DIMS) {
            data_key key = {
                .component = DATA_TEXT_ENCODER, .name = PIPE_POSITION_IDS, .n_parts = 1};
            add(p, weights, i, &key);
        }
    }
    return AG_OK;
}

void pipe_parts_free(pipe_parts *p)
{
    for (int i = 0; i < p->n_weights; i++)
        data_weights_close(p->weights[i]);
    ag_delete(p->list);
    *p = (pipe_parts){0};
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Room to convert a piece in: the values as stored, and as f32; and the values of a whole part that
 * is changed, while it is written. */
typedef struct stage {
    char *raw;
    float *plain;
    const pipe_edit *edit;
    const pipe_part *changed_part;
    float *changed;
} stage;

typedef struct giver {
    const pipe_entry *entry;
    stage *stage;
} giver;

enum { STAGE_VALUES = DATA_PIECE_BYTES / 2 }; /* of a piece, two bytes each as written */

static ag_status read_values(ag_ctx *ctx, const pipe_part *part, int64_t first, int64_t n, void *to)
{
    const size_t size = data_dtype_size(part->dtype);
    const int error = data_weights_pread(
        part->weights, part->tensor, (size_t)(part->first + first) * size, (size_t)n * size, to);

    if (error)
        return ag_fail(ctx, AG_EIO, "%s: reading %s: %s",
                       data_weights_file_of(part->weights, part->tensor), part->name,
                       strerror(error));
    return AG_OK;
}

ag_status pipe_part_read(ag_ctx *ctx, const pipe_part *part, float *to)
{
    char *raw = ag_new(ctx, STAGE_VALUES, sizeof(double), "values to convert");

    for (int64_t first = 0; raw && first < part->n; first += STAGE_VALUES) {
        const int64_t n = part->n - first < STAGE_VALUES ? part->n - first : STAGE_VALUES;
        if (read_values(ctx, part, first, n, raw) != AG_OK)
            break;
        data_to_f32(to + first, part->dtype, raw, n);
    }
    ag_delete(raw);
    return ag_status_of(ctx);
}

/* The changed values of a part, which stay until those of another are asked for. */
static ag_status change_part(ag_ctx *ctx, stage *s, const pipe_part *part)
{
    const data_named_shape shape = {.name = part->name, .n_dims = part->n_dims, .dims = part->dims};

    if (s->changed_part == part)
        return AG_OK;
    ag_delete(s->changed);
    s->changed_part = NULL;
    s->changed = ag_new(ctx, (size_t)part->n, sizeof *s->changed, part->name);
    if (s->changed && pipe_part_read(ctx, part, s->changed) == AG_OK &&
        s->edit->apply(ctx, s->edit->user, part->component, &shape, s->changed) == AG_OK)
        s->changed_part = part;
    return ag_status_of(ctx);
}

/* n values of a part as `dtype`. */
static ag_status give_part(ag_ctx *ctx, const giver *g, const pipe_part *part, int64_t first,
                           int64_t n, char *to)
{
    const pipe_edit *edit = g->stage->edit;

    if (edit && edit->touches(edit->user, part->component, part->name)) {
        if (change_part(ctx, g->stage, part) == AG_OK)
            data_from_f32(to, g->entry->dtype, g->stage->changed + first, n);
        return ag_status_of(ctx);
    }
    if (part->dtype == g->entry->dtype)
        return read_values(ctx, part, first, n, to);
    if (read_values(ctx, part, first, n, g->stage->raw) != AG_OK)
        return ag_status_of(ctx);
    data_to_f32(g->stage->plain, part->dtype, g->stage->raw, n);
    data_from_f32(to, g->entry->dtype, g->stage->plain, n);
    return AG_OK;
}

static ag_status give_fill(const giver *g, int64_t n, char *to)
{
    for (int64_t i = 0; i < n; i++)
        g->stage->plain[i] = (float)g->entry->fill;
    data_from_f32(to, g->entry->dtype, g->stage->plain, n);
    return AG_OK;
}

static ag_status give(ag_ctx *ctx, void *user, size_t offset, size_t n_bytes, void *to)
{
    const giver *g = user;
    const size_t size = data_dtype_size(g->entry->dtype);
    int64_t first = (int64_t)(offset / size), left = (int64_t)(n_bytes / size);
    char *at = to;

    if (g->entry->n_parts == 0)
        return give_fill(g, left, at);
    for (int k = 0; k < g->entry->n_parts && left > 0; k++) {
        const pipe_part *part = g->entry->part[k];
        const int64_t here = part->n - first < left ? part->n - first : left;
        if (here > 0) {
            if (give_part(ctx, g, part, first, here, at) != AG_OK)
                return ag_status_of(ctx);
            at += (size_t)here * size;
            left -= here;
            first += here;
        }
        first -= part->n;
    }
    return AG_OK;
}

ag_status pipe_write_entries(uint64_t *n_bytes, ag_ctx *ctx, const char *path,
                             const pipe_entry *entries, int64_t n, const data_pair *metadata,
                             int64_t n_metadata, const pipe_edit *edit)
{
    data_source *sources = ag_new(ctx, (size_t)n, sizeof *sources, "list of tensors");
    giver *givers = ag_new(ctx, (size_t)n, sizeof *givers, "list of tensors");
    stage room = {.raw = ag_new(ctx, STAGE_VALUES, sizeof(double), "values to convert"),
                  .plain = ag_new(ctx, STAGE_VALUES, sizeof(float), "values to convert"),
                  .edit = edit};

    if (ag_status_of(ctx) != AG_OK)
        goto out;
    for (int64_t i = 0; i < n; i++) {
        uint64_t size = data_dtype_size(entries[i].dtype);
        for (int d = 0; d < entries[i].n_dims; d++)
            size *= (uint64_t)entries[i].dims[d];
        *n_bytes += size;
        givers[i] = (giver){.entry = &entries[i], .stage = &room};
        sources[i] = (data_source){.name = entries[i].long_name ? entries[i].long_name
                                                                : entries[i].name,
                                   .dtype = entries[i].dtype,
                                   .n_dims = entries[i].n_dims,
                                   .dims = entries[i].dims,
                                   .give = give,
                                   .user = &givers[i]};
    }
    data_safetensors_write(ctx, path, sources, n, metadata, n_metadata);
out:
    ag_delete(room.changed);
    ag_delete(room.plain);
    ag_delete(room.raw);
    ag_delete(givers);
    ag_delete(sources);
    return ag_status_of(ctx);
}
