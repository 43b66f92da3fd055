/* params.c - the registry of a network's parameters. See params.h.
 *
 * Records are taken one by one, so that pointers to them stay; a table of hashes finds names.
 * Values cross between layouts in nn/layout.c; loading is nn/params_load.c.
 */
#include "nn/params.h"

#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "autograd/numbers.h"
#include "autograd/random.h"
#include "nn/layout.h"

enum { MAX_NESTING = 16, FIRST_ROOM = 64, MIN_SHARED = 1 << 16 };

struct nn_params {
    ag_ctx *ctx;
    nn_param **list;
    int64_t n, room;
    int64_t *table; /* 2 * room slots: index into list, -1 when empty */
    char prefix[NN_MAX_NAME];
    size_t marks[MAX_NESTING]; /* length of the prefix before each nn_enter */
    int depth;
};

ag_status nn_params_new(nn_params **out, ag_ctx *ctx)
{
    nn_params *params = ag_new(ctx, 1, sizeof *params, "a list of parameters");

    if (!params)
        return ag_status_of(ctx);
    params->ctx = ctx;
    *out = params;
    return AG_OK;
}

void nn_params_free(nn_params *params)
{
    if (!params)
        return;
    for (int64_t i = 0; i < params->n; i++) {
        ag_release(params->list[i]->value);
        ag_delete(params->list[i]);
    }
    ag_delete(params->list);
    ag_delete(params->table);
    ag_delete(params);
}

/* --- names -------------------------------------------------------------------------------- */

void nn_enter(nn_params *params, const char *format, ...)
{
    const size_t length = strlen(params->prefix);
    va_list args;
    int n;

    if (params->depth >= MAX_NESTING) {
        ag_fail(params->ctx, AG_EINVAL, "%s: modules nest deeper than %d", params->prefix,
                MAX_NESTING);
        params->depth++;
        return;
    }
    params->marks[params->depth++] = length;
    va_start(args, format);
    n = vsnprintf(params->prefix + length, sizeof params->prefix - length, format, args);
    va_end(args);
    if (n < 0 || length + (size_t)n + 2 > sizeof params->prefix) {
        params->prefix[length] = '\0';
        ag_fail(params->ctx, AG_EINVAL, "%s: a name is longer than %d bytes", params->prefix,
                NN_MAX_NAME);
        return;
    }
    memcpy(params->prefix + length + n, ".", 2);
}

void nn_leave(nn_params *params)
{
    if (--params->depth < MAX_NESTING)
        params->prefix[params->marks[params->depth]] = '\0';
}

const char *nn_here(const nn_params *params, char *text, size_t size)
{
    const size_t length = strlen(params->prefix);

    snprintf(text, size, "%.*s", (int)(length ? length - 1 : 0), params->prefix);
    return text;
}

/* --- finding ------------------------------------------------------------------------------ */

/* The slot where `name` is, or the empty one where it would go. */
static int64_t *find_slot(const nn_params *params, const char *name)
{
    const uint64_t n_slots = 2 * (uint64_t)params->room;

    for (uint64_t at = ag_hash_name(name) % n_slots;; at = (at + 1) % n_slots) {
        int64_t *slot = &params->table[at];

        if (*slot < 0 || strcmp(params->list[*slot]->name, name) == 0)
            return slot;
    }
}

nn_param *nn_params_find(const nn_params *params, const char *name)
{
    const int64_t *slot = params->n ? find_slot(params, name) : NULL;

    return slot && *slot >= 0 ? params->list[*slot] : NULL;
}

static ag_status make_room(nn_params *params)
{
    const int64_t room = params->room ? 2 * params->room : FIRST_ROOM;
    nn_param **list;
    int64_t *table;

    if (params->n < params->room)
        return AG_OK;
    list = ag_grow(params->ctx, params->list, (size_t)room, sizeof *list, "a list of parameters");
    if (!list)
        return ag_status_of(params->ctx);
    params->list = list;
    table = ag_new(params->ctx, 2 * (size_t)room, sizeof *table, "a table of parameter names");
    if (!table)
        return ag_status_of(params->ctx);
    ag_delete(params->table);
    params->table = table;
    params->room = room;
    memset(table, 0xff, 2 * (size_t)room * sizeof *table); /* every slot -1 */
    for (int64_t i = 0; i < params->n; i++)
        *find_slot(params, params->list[i]->name) = i;
    return AG_OK;
}

/* --- declaring ---------------------------------------------------------------------------- */

/* Fill the internal shape from the published one; false when the layout does not take it. */
static bool set_inner(nn_param *param)
{
    const int64_t *d = param->dims;

    param->n_inner = param->n_dims;
    memcpy(param->inner, d, sizeof param->inner);
    switch (param->layout) {
    case NN_AS_IS:
        return true;
    case NN_OIHW:
        param->inner[1] = d[2];
        param->inner[2] = d[3];
        param->inner[3] = d[1];
        return param->n_dims == 4;
    case NN_LINEAR_1X1:
        for (int i = 2; i < param->n_dims; i++) {
            if (d[i] != 1)
                return false;
        }
        param->n_inner = 2;
        return param->n_dims >= 2 && param->n_dims <= 4;
    default:
        return false;
    }
}

static bool set_shape(nn_param *param, int n_dims, const int64_t *dims)
{
    if (n_dims < 0 || n_dims > NN_MAX_PARAM_DIMS)
        return false;
    param->n_dims = n_dims;
    param->numel = 1;
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] < 1 || param->numel > INT64_MAX / 8 / dims[i])
            return false;
        param->dims[i] = dims[i];
        param->numel *= dims[i];
    }
    return set_inner(param);
}

nn_param *nn_declare(nn_params *params, const char *name, nn_layout layout, nn_first first,
                     int n_dims, const int64_t *dims)
{
    char full[NN_MAX_NAME], *kept;
    nn_param *param = NULL;
    size_t size;

    if (ag_status_of(params->ctx) != AG_OK || make_room(params) != AG_OK)
        return NULL;
    size = (size_t)snprintf(full, sizeof full, "%s%s", params->prefix, name) + 1;
    if (size > sizeof full) {
        ag_fail(params->ctx, AG_EINVAL, "%s: a name is longer than %d bytes", full, NN_MAX_NAME);
        return NULL;
    }
    if (nn_params_find(params, full)) {
        ag_fail(params->ctx, AG_EINVAL, "%s: a parameter is declared twice", full);
        return NULL;
    }
    param = ag_new(params->ctx, 1, sizeof *param + size, "a parameter");
    if (!param)
        return NULL;
    kept = (char *)(param + 1);
    memcpy(kept, full, size);
    param->name = kept;
    param->layout = layout;
    param->first = first;
    param->index = params->n;
    if (!set_shape(param, n_dims, dims)) {
        ag_fail(params->ctx, AG_ESHAPE, "%s: its layout does not take a shape of %d axes like this",
                full, n_dims);
        ag_delete(param);
        return NULL;
    }
    *find_slot(params, full) = params->n;
    params->list[params->n++] = param;
    return param;
}

/* --- asking ------------------------------------------------------------------------------- */

ag_ctx *nn_params_ctx(const nn_params *params)
{
    return params->ctx;
}

int64_t nn_params_count(const nn_params *params)
{
    return params->n;
}

int64_t nn_params_values(const nn_params *params)
{
    int64_t total = 0;

    for (int64_t i = 0; i < params->n; i++)
        total += params->list[i]->numel;
    return total;
}

nn_param *nn_params_at(const nn_params *params, int64_t i)
{
    return i >= 0 && i < params->n ? params->list[i] : NULL;
}

const char *nn_shape_text(int n_dims, const int64_t *dims, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");

    for (int i = 0; i < n_dims && used < size; i++)
        used +=
            (size_t)snprintf(text + used, size - used, "%s%lld", i ? "," : "", (long long)dims[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
    return text;
}

/* --- memory and gradients ----------------------------------------------------------------- */

ag_status nn_param_alloc(ag_ctx *ctx, nn_param *param, ag_dtype dtype)
{
    ag_tensor *value;

    if (dtype != AG_F32 && dtype != AG_BF16 && dtype != AG_F16)
        return ag_fail(ctx, AG_EDTYPE, "parameters are f32, bf16 or f16, not %s",
                       ag_dtype_name(dtype));
    value = ag_empty(ctx, AG_MODEL, dtype, param->n_inner, param->inner);
    if (!value)
        return ag_status_of(ctx);
    ag_set_name(value, param->name);
    ag_release(param->value);
    param->value = value;
    param->trainable = false;
    return AG_OK;
}

ag_status nn_params_alloc(ag_ctx *ctx, nn_params *params, ag_dtype dtype)
{
    for (int64_t i = 0; i < params->n; i++) {
        const bool is_vector = params->list[i]->n_dims < 2;

        if (nn_param_alloc(ctx, params->list[i], is_vector ? AG_F32 : dtype) != AG_OK)
            return ag_status_of(ctx);
    }
    return ag_status_of(ctx);
}

int64_t nn_params_train(ag_ctx *ctx, nn_params *params, const char *pattern, bool on)
{
    int64_t n_matched = 0;

    for (int64_t i = 0; i < params->n; i++) {
        nn_param *param = params->list[i];

        if (pattern && fnmatch(pattern, param->name, 0) != 0)
            continue;
        n_matched++;
        if (!param->value || (on && ag_dtype_of(param->value) != AG_F32)) {
            ag_fail(ctx, AG_EDTYPE, "%s: only f32 values can be trained, got %s", param->name,
                    param->value ? ag_dtype_name(ag_dtype_of(param->value)) : "none");
            return n_matched;
        }
        param->trainable = on;
        ag_set_requires_grad(ctx, param->value, on);
    }
    return n_matched;
}

int64_t nn_params_trainable(const nn_params *params, ag_tensor **values)
{
    int64_t n = 0;

    for (int64_t i = 0; i < params->n; i++) {
        if (params->list[i]->trainable)
            values[n++] = params->list[i]->value;
    }
    return n;
}

/* --- values in the published layout ------------------------------------------------------- */

bool nn_param_takes_shape(const nn_param *param, int n_dims, const int64_t *dims)
{
    if (param->layout == NN_LINEAR_1X1) {
        if (n_dims < 2 || n_dims > 4 || dims[0] != param->dims[0] || dims[1] != param->dims[1])
            return false;
        return (n_dims < 3 || dims[2] == 1) && (n_dims < 4 || dims[3] == 1);
    }
    if (n_dims != param->n_dims)
        return false;
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] != param->dims[i])
            return false;
    }
    return true;
}

/* Does `inner` have the shape that the parameter has inside, and values to move? */
static ag_status check_inner(ag_ctx *ctx, const nn_param *param, const ag_tensor *inner)
{
    char want[96], got[96];

    if (!inner)
        return ag_fail(ctx, AG_EINVAL, "%s: it has no values yet", param->name);
    if (ag_ndim(inner) != param->n_inner ||
        memcmp(ag_dims(inner), param->inner, (size_t)param->n_inner * sizeof *param->inner) != 0)
        return ag_fail(ctx, AG_ESHAPE, "%s: want a tensor of %s, got %s", param->name,
                       nn_shape_text(param->n_inner, param->inner, want, sizeof want),
                       nn_shape_text(ag_ndim(inner), ag_dims(inner), got, sizeof got));
    if (!ag_is_float(ag_dtype_of(inner)))
        return ag_fail(ctx, AG_EDTYPE, "%s: want floating values, got %s", param->name,
                       ag_dtype_name(ag_dtype_of(inner)));
    return AG_OK;
}

/* Reorder all rows on the context's threads. */
static void reorder(ag_ctx *ctx, const nn_param *param, const float *in, float *out, bool to_inner)
{
    const int64_t n_rows = nn_rows(param), row = nn_row_values(param);
    const int64_t n_pieces = param->numel < MIN_SHARED ? 1 : (n_rows < 64 ? n_rows : 64);

#pragma omp parallel for schedule(static) num_threads(ag_ctx_threads(ctx)) if (n_pieces > 1)
    for (int64_t i = 0; i < n_pieces; i++) {
        const int64_t from = i * n_rows / n_pieces, n = (i + 1) * n_rows / n_pieces - from;

        if (to_inner)
            nn_rows_to_inner(param, n, in + from * row, out + from * row);
        else
            nn_rows_to_published(param, n, in + from * row, out + from * row);
    }
}

/* Are the tensor's values f32 in memory that we may touch? */
static bool is_at_hand(ag_ctx *ctx, const ag_tensor *t)
{
    return ag_ctx_device(ctx) == AG_CPU && ag_dtype_of(t) == AG_F32;
}

ag_status nn_param_unpublish(ag_ctx *ctx, const nn_param *param, ag_tensor *inner,
                             const float *values)
{
    ag_status status = ag_status_of(ctx);
    const bool is_f32 = inner && ag_dtype_of(inner) == AG_F32;
    float *ordered = NULL;
    void *narrow = NULL;

    if (status != AG_OK || (status = check_inner(ctx, param, inner)) != AG_OK)
        return status;
    if (ag_ctx_device(ctx) == AG_META)
        return AG_OK;
    if (is_at_hand(ctx, inner)) {
        reorder(ctx, param, values, ag_data(inner), true);
        return AG_OK;
    }
    ordered = ag_new(ctx, (size_t)param->numel, sizeof *ordered, param->name);
    narrow =
        is_f32 ? NULL
               : ag_new(ctx, (size_t)param->numel, ag_dtype_size(ag_dtype_of(inner)), param->name);
    if (!ordered || (!is_f32 && !narrow)) {
        status = ag_status_of(ctx);
        goto out;
    }
    reorder(ctx, param, values, ordered, true);
    if (!is_f32)
        ag_narrow(narrow, ag_dtype_of(inner), ordered, param->numel);
    status = ag_write(ctx, inner, is_f32 ? (void *)ordered : narrow, ag_nbytes(inner));
out:
    ag_delete(narrow);
    ag_delete(ordered);
    return status;
}

ag_status nn_param_publish(ag_ctx *ctx, const nn_param *param, const ag_tensor *inner,
                           float *values)
{
    ag_status status = ag_status_of(ctx);
    float *ordered = NULL;
    void *stored = NULL;

    if (status != AG_OK || (status = check_inner(ctx, param, inner)) != AG_OK)
        return status;
    if (is_at_hand(ctx, inner)) {
        reorder(ctx, param, ag_data(inner), values, false);
        return AG_OK;
    }
    stored = ag_new(ctx, 1, ag_nbytes(inner), param->name);
    ordered = ag_new(ctx, (size_t)param->numel, sizeof *ordered, param->name);
    if (!stored || !ordered) {
        status = ag_status_of(ctx);
        goto out;
    }
    status = ag_read(ctx, inner, stored, ag_nbytes(inner));
    if (status != AG_OK)
        goto out;
    ag_widen(ordered, ag_dtype_of(inner), stored, param->numel);
    reorder(ctx, param, ordered, values, false);
out:
    ag_delete(ordered);
    ag_delete(stored);
    return status;
}

ag_status nn_param_set_published(ag_ctx *ctx, nn_param *param, const float *values, int n_dims,
                                 const int64_t *dims)
{
    char want[96], got[96];

    if (!nn_param_takes_shape(param, n_dims, dims))
        return ag_fail(ctx, AG_ESHAPE, "%s: want shape %s, got %s", param->name,
                       nn_shape_text(param->n_dims, param->dims, want, sizeof want),
                       nn_shape_text(n_dims, dims, got, sizeof got));
    return nn_param_unpublish(ctx, param, param->value, values);
}

ag_status nn_param_get_published(ag_ctx *ctx, const nn_param *param, float *values)
{
    return nn_param_publish(ctx, param, param->value, values);
}
