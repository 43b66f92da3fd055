/* weights_bridge.c - see weights_bridge.h. */
#include "pipeline/weights_bridge.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "data/safetensors.h"
#include "data/yaml.h"

/* --- reading ------------------------------------------------------------------------------------- */

/* One tensor of the network's component, as a stretch of a tensor in the file. */
typedef struct piece {
    char name[DATA_KEY_MAX];
    int64_t tensor;
    size_t offset; /* bytes before it in the file's tensor (rows of a merged q, k, v) */
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
} piece;

typedef struct pieces {
    const data_weights *weights;
    piece *list;
    int64_t n;
} pieces;

static void describe(void *user, int64_t i, nn_stored *stored)
{
    const pieces *p = user;
    const piece *at = &p->list[i];

    stored->name = at->name;
    data_dtype_to_ag(&stored->dtype, data_weights_at(p->weights, at->tensor)->dtype);
    stored->n_dims = at->n_dims;
    memcpy(stored->dims, at->dims, sizeof at->dims);
}

static int read_bytes(void *user, int64_t i, size_t offset, size_t bytes, void *to)
{
    const pieces *p = user;

    return data_weights_pread(p->weights, p->list[i].tensor, p->list[i].offset + offset, bytes, to);
}

static ag_status add_piece(pieces *p, ag_ctx *ctx, const data_weights *weights, int64_t i, const char *name,
                           int part, int n_parts)
{
    const data_tensor *t = data_weights_at(weights, i);
    piece *at = &p->list[p->n];

    if (!data_dtype_is_float(t->dtype))
        return ag_fail(ctx, AG_EDTYPE, "%s: %s is %s, wanted a floating type", data_weights_file_of(weights, i),
                       t->name, t->dtype_name);
    if (t->n_dims > AG_MAX_DIMS || strlen(name) >= DATA_KEY_MAX)
        return ag_fail(ctx, AG_EDATA, "%s: %s has a name or shape that is none of ours",
                       data_weights_file_of(weights, i), t->name);
    if (n_parts > 1 && (t->n_dims < 1 || t->dims[0] % n_parts))
        return ag_fail(ctx, AG_EDATA, "%s: %s: wanted rows for %d equal parts", data_weights_file_of(weights, i),
                       t->name, n_parts);
    snprintf(at->name, sizeof at->name, "%s", name);
    at->tensor = i;
    at->n_dims = t->n_dims;
    memcpy(at->dims, t->dims, (size_t)t->n_dims * sizeof *t->dims);
    at->offset = 0;
    if (n_parts > 1) {
        at->dims[0] /= n_parts;
        at->offset = t->n_bytes / (size_t)n_parts * (size_t)part;
    }
    p->n++;
    return AG_OK;
}

static ag_status load(ag_ctx *ctx, nn_params *params, data_weights *weights, pieces *p)
{
    const nn_reader reader = {.user = p,
                              .path = data_weights_path(weights),
                              .n_tensors = p->n,
                              .describe = describe,
                              .read = read_bytes};

    if (data_weights_check(ctx, weights) == AG_OK)
        nn_params_load(ctx, params, &reader);
    return ag_status_of(ctx);
}

ag_status pipe_load_component(ag_ctx *ctx, nn_params *params, data_weights *weights, data_component component)
{
    pieces p = {.weights = weights};
    ag_status status = AG_OK;

    p.list = ag_new(ctx, (size_t)data_weights_count(weights), sizeof *p.list, "list of tensors");
    if (!p.list)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < data_weights_count(weights) && status == AG_OK; i++) {
        char name[DATA_KEY_MAX];
        snprintf(name, sizeof name, "%s", data_weights_at(weights, i)->name);
        if (data_published_name(name, component))
            status = add_piece(&p, ctx, weights, i, name, 0, 1);
    }
    if (status == AG_OK)
        status = load(ctx, params, weights, &p);
    ag_delete(p.list);
    return status;
}

/* Name the first tensor that no component takes, and count the rest. */
static ag_status unknown_tensor(ag_ctx *ctx, const data_weights *weights, const data_single *single, int64_t first)
{
    int64_t more = 0;

    for (int64_t i = first + 1; i < data_weights_count(weights); i++) {
        const data_tensor *t = data_weights_at(weights, i);
        data_key keys[3];
        more += data_single_to_folder(keys, single, t->name, t->n_dims) < 0;
    }
    return ag_fail(ctx, AG_EDATA, "%s: %s belongs to no part of the model that we know, nor do %lld more",
                   data_weights_path(weights), data_weights_at(weights, first)->name, (long long)more);
}

ag_status pipe_load_single(ag_ctx *ctx, nn_params *params, data_weights *weights, const data_single *single,
                           data_component component)
{
    pieces p = {.weights = weights};
    ag_status status = AG_OK;

    p.list = ag_new(ctx, (size_t)data_weights_count(weights) * 3, sizeof *p.list, "list of tensors");
    if (!p.list)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < data_weights_count(weights) && status == AG_OK; i++) {
        const data_tensor *t = data_weights_at(weights, i);
        data_key keys[3];
        const int n = data_single_to_folder(keys, single, t->name, t->n_dims);
        if (n < 0)
            status = unknown_tensor(ctx, weights, single, i);
        for (int k = 0; k < n && status == AG_OK; k++)
            if (keys[k].component == component)
                status = add_piece(&p, ctx, weights, i, keys[k].name, keys[k].part, keys[k].n_parts);
    }
    if (status == AG_OK)
        status = load(ctx, params, weights, &p);
    ag_delete(p.list);
    return status;
}

/* global_step of a .ckpt, which stands as a number beside its state_dict; -1: not said. */
static int64_t global_step(const data_weights *weights)
{
    const char *text = data_weights_metadata(weights, "global_step");
    int64_t step;

    return text && data_text_to_int(&step, text) ? step : -1;
}

ag_status pipe_recognise(data_single *single, ag_ctx *ctx, data_weights *weights)
{
    const int64_t n = data_weights_count(weights);
    const char *path = data_weights_path(weights);
    data_named_shape *list = ag_new(ctx, (size_t)n, sizeof *list, "list of tensors");
    ag_status status;

    if (!list)
        return ag_status_of(ctx);
    for (int64_t i = 0; i < n; i++) {
        const data_tensor *t = data_weights_at(weights, i);
        list[i] = (data_named_shape){.name = t->name, .n_dims = t->n_dims, .dims = t->dims};
    }
    status = data_single_recognise(single, ctx, path, list, n, global_step(weights));
    for (int64_t i = 0; i < data_weights_n_metadata(weights) && status == AG_OK; i++) {
        const data_pair pair = data_weights_metadata_at(weights, i);
        status = data_single_set_text(single, ctx, path, pair.key, pair.value);
    }
    ag_delete(list);
    return status;
}

/* --- writing ------------------------------------------------------------------------------------- */

/* The values of one parameter at a time, in the published layout, served in pieces. */
typedef struct publisher {
    nn_params *params;
    int64_t current; /* whose values are in `values`; -1: nobody's */
    float *values;   /* room for the largest parameter */
} publisher;

typedef struct published {
    publisher *from;
    int64_t i;
    data_dtype dtype;
} published;

static ag_status give(ag_ctx *ctx, void *user, size_t offset, size_t n_bytes, void *to)
{
    const published *p = user;
    const size_t size = data_dtype_size(p->dtype);

    if (p->from->current != p->i) {
        if (nn_param_get_published(ctx, nn_params_at(p->from->params, p->i), p->from->values) != AG_OK)
            return ag_status_of(ctx);
        p->from->current = p->i;
    }
    data_from_f32(to, p->dtype, p->from->values + offset / size, (int64_t)(n_bytes / size));
    return AG_OK;
}

ag_status pipe_write_params(ag_ctx *ctx, nn_params *params, const char *path, ag_dtype dtype)
{
    const int64_t n = nn_params_count(params);
    publisher from = {.params = params, .current = -1};
    data_source *sources = ag_new(ctx, (size_t)n, sizeof *sources, "list of tensors");
    published *users = ag_new(ctx, (size_t)n, sizeof *users, "list of tensors");
    data_dtype stored = DATA_F32;
    int64_t largest = 0;

    data_dtype_from_ag(&stored, dtype);
    for (int64_t i = 0; i < n && sources && users; i++) {
        const nn_param *param = nn_params_at(params, i);
        users[i] = (published){.from = &from, .i = i, .dtype = stored};
        sources[i] = (data_source){.name = param->name, .dtype = stored, .n_dims = param->n_dims,
                                   .dims = param->dims, .give = give, .user = &users[i]};
        largest = param->numel > largest ? param->numel : largest;
    }
    from.values = ag_new(ctx, (size_t)largest, sizeof *from.values, "a parameter to write");
    if (ag_status_of(ctx) == AG_OK)
        data_safetensors_write(ctx, path, sources, n, NULL, 0);
    ag_delete(from.values);
    ag_delete(users);
    ag_delete(sources);
    return ag_status_of(ctx);
}
