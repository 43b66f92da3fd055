/* probe_io.c - tensors in and out of `agewright probe`; see probe.h. */
#include "cli/probe.h"

#include <string.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/safetensors.h"

/* --- inputs ------------------------------------------------------------------------------------- */

ag_status probe_in_open(probe_in *in, ag_ctx *ctx, const char *path)
{
    *in = (probe_in){0};
    if (!path || data_weights_open(&in->file, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    in->used = ag_new(ctx, (size_t)data_weights_count(in->file), sizeof *in->used, "inputs");
    return ag_status_of(ctx);
}

void probe_in_close(probe_in *in)
{
    data_weights_close(in->file);
    ag_delete(in->used);
    *in = (probe_in){0};
}

static int64_t find(probe_in *in, ag_ctx *ctx, const char *name)
{
    const int64_t i = in->file ? data_weights_find(in->file, name) : -1;

    if (i < 0)
        ag_fail(ctx, AG_EDATA, "%s: wanted an input \"%s\"", in->file ? data_weights_path(in->file) : "--in", name);
    else
        in->used[i] = true;
    return i;
}

ag_status probe_in_shape(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, int64_t *dims)
{
    const int64_t i = find(in, ctx, name);
    const data_tensor *t;

    if (i < 0)
        return ag_status_of(ctx);
    t = data_weights_at(in->file, i);
    if (t->n_dims != n_dims)
        return ag_fail(ctx, AG_EDATA, "%s: \"%s\" has %d axes, wanted %d", data_weights_path(in->file), name,
                       t->n_dims, n_dims);
    for (int k = 0; k < n_dims; k++) {
        dims[k] = t->dims[k];
        if (dims[k] < 1)
            return ag_fail(ctx, AG_EDATA, "%s: \"%s\" is empty", data_weights_path(in->file), name);
    }
    return AG_OK;
}

static int64_t find_exact(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, const int64_t *dims)
{
    const int64_t i = find(in, ctx, name);
    const data_tensor *t = i >= 0 ? data_weights_at(in->file, i) : NULL;
    char got[128], want[128];

    if (!t)
        return -1;
    if (t->n_dims == n_dims && memcmp(t->dims, dims, (size_t)n_dims * sizeof *dims) == 0)
        return i;
    nn_shape_text(n_dims, dims, want, sizeof want);
    nn_shape_text(t->n_dims < AG_MAX_DIMS ? t->n_dims : AG_MAX_DIMS, t->dims, got, sizeof got);
    ag_fail(ctx, AG_EDATA, "%s: \"%s\" is %s, wanted %s", data_weights_path(in->file), name, got, want);
    return -1;
}

float *probe_in_floats(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, const int64_t *dims)
{
    const int64_t i = find_exact(in, ctx, name, n_dims, dims);
    float *values;

    if (i < 0)
        return NULL;
    values = ag_new(ctx, (size_t)data_weights_at(in->file, i)->n_values, sizeof *values, name);
    if (values && data_weights_read_f32(ctx, in->file, i, values) != AG_OK) {
        ag_delete(values);
        return NULL;
    }
    return values;
}

int64_t *probe_in_integers(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, const int64_t *dims)
{
    const int64_t i = find_exact(in, ctx, name, n_dims, dims);
    const data_tensor *t = i >= 0 ? data_weights_at(in->file, i) : NULL;
    int64_t *values;

    if (!t)
        return NULL;
    if (t->dtype != DATA_I64 && t->dtype != DATA_I32) {
        ag_fail(ctx, AG_EDATA, "%s: \"%s\" is %s, wanted I64 or I32", data_weights_path(in->file), name, t->dtype_name);
        return NULL;
    }
    values = ag_new(ctx, (size_t)t->n_values, sizeof *values, name);
    if (!values || data_weights_read(ctx, in->file, i, values) != AG_OK) {
        ag_delete(values);
        return NULL;
    }
    if (t->dtype == DATA_I32) /* widen in place, from the end */
        for (int64_t k = t->n_values; k-- > 0;) {
            int32_t narrow;
            memcpy(&narrow, (char *)values + (size_t)k * sizeof narrow, sizeof narrow);
            values[k] = narrow;
        }
    return values;
}

ag_tensor *probe_in_tensor(probe_in *in, ag_ctx *ctx, const char *name, int n_dims, const int64_t *dims)
{
    float *values = probe_in_floats(in, ctx, name, n_dims, dims);
    ag_tensor *t = values ? ag_from_f32(ctx, values, n_dims, dims) : NULL;

    ag_delete(values);
    return t && n_dims == 4 ? ag_permute(ctx, t, (int[]){0, 2, 3, 1}) : t;
}

ag_status probe_in_finish(const probe_in *in, ag_ctx *ctx)
{
    for (int64_t i = 0; in->file && i < data_weights_count(in->file); i++)
        if (!in->used[i])
            return ag_fail(ctx, AG_EDATA, "%s: \"%s\" is not an input of this part", data_weights_path(in->file),
                           data_weights_at(in->file, i)->name);
    return AG_OK;
}

/* --- outputs ------------------------------------------------------------------------------------ */

/* A new entry whose values are still to be filled. */
static probe_value *add(probe_out *out, ag_ctx *ctx, const char *prefix, const char *name, data_dtype dtype,
                        int n_dims, const int64_t *dims)
{
    probe_value *list = ag_grow(ctx, out->list, (size_t)out->n + 1, sizeof *list, "outputs");
    probe_value *v;
    size_t count = 1;

    if (!list)
        return NULL;
    out->list = list;
    v = &list[out->n];
    *v = (probe_value){.dtype = dtype, .n_dims = n_dims};
    for (int i = 0; i < n_dims; i++) {
        v->dims[i] = dims[i];
        count *= (size_t)dims[i];
    }
    v->name = ag_printf(ctx, "%s%s", prefix, name);
    v->values = ag_new(ctx, count, data_dtype_size(dtype), name);
    if (!v->name || !v->values) {
        ag_delete(v->name);
        ag_delete(v->values);
        return NULL;
    }
    out->n++;
    return v;
}

ag_status probe_out_add(probe_out *out, ag_ctx *ctx, const char *name, data_dtype dtype, int n_dims,
                        const int64_t *dims, const void *values)
{
    probe_value *v = add(out, ctx, "", name, dtype, n_dims, dims);
    size_t count = data_dtype_size(dtype);

    if (!v)
        return ag_status_of(ctx);
    for (int i = 0; i < n_dims; i++)
        count *= (size_t)dims[i];
    memcpy(v->values, values, count);
    return AG_OK;
}

ag_status probe_out_tensor(probe_out *out, ag_ctx *ctx, const char *name, ag_tensor *t)
{
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);
    probe_value *v;

    if (t && ag_dtype_of(t) != AG_F32)
        t = ag_cast(ctx, t, AG_F32);
    if (t && ag_ndim(t) == 4)
        t = ag_permute(ctx, t, (int[]){0, 3, 1, 2});
    v = t ? add(out, ctx, "", name, DATA_F32, ag_ndim(t), ag_dims(t)) : NULL;
    if (v)
        ag_read(ctx, t, v->values, ag_nbytes(t));
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

ag_status probe_out_param(probe_out *out, ag_ctx *ctx, const char *prefix, const char *name, const nn_param *param,
                          const ag_tensor *inner)
{
    probe_value *v = add(out, ctx, prefix, name, DATA_F32, param->n_dims, param->dims);

    return v ? nn_param_publish(ctx, param, inner, v->values) : ag_status_of(ctx);
}

ag_status probe_out_write(const probe_out *out, ag_ctx *ctx, const char *path)
{
    data_source *sources = ag_new(ctx, (size_t)out->n, sizeof *sources, "outputs");

    for (int64_t i = 0; sources && i < out->n; i++)
        sources[i] = (data_source){.name = out->list[i].name, .dtype = out->list[i].dtype,
                                   .n_dims = out->list[i].n_dims, .dims = out->list[i].dims,
                                   .values = out->list[i].values};
    if (sources)
        data_safetensors_write(ctx, path, sources, out->n, NULL, 0);
    ag_delete(sources);
    return ag_status_of(ctx);
}

void probe_out_free(probe_out *out)
{
    for (int64_t i = 0; i < out->n; i++) {
        ag_delete(out->list[i].name);
        ag_delete(out->list[i].values);
    }
    ag_delete(out->list);
    *out = (probe_out){0};
}

/* --- gradients ---------------------------------------------------------------------------------- */

ag_status probe_gradients(probe_out *out, ag_ctx *ctx, nn_params *params, const probe_wanted *inputs, int n_inputs,
                          ag_tensor *output, ag_tensor *cotangent)
{
    const int64_t n_params = nn_params_count(params), n = n_params + n_inputs;
    ag_tensor **wanted = ag_new(ctx, (size_t)n, sizeof *wanted, "gradients");
    ag_tensor **grads = ag_new(ctx, (size_t)n, sizeof *grads, "gradients");

    for (int64_t i = 0; wanted && i < n; i++)
        wanted[i] = i < n_params ? nn_params_at(params, i)->value : inputs[i - n_params].t;
    if (wanted && grads && ag_grad(ctx, &output, &cotangent, 1, wanted, grads, (int)n, 0) == AG_OK) {
        for (int64_t i = 0; i < n_params && ag_status_of(ctx) == AG_OK; i++)
            probe_out_param(out, ctx, "grad.", nn_params_at(params, i)->name, nn_params_at(params, i), grads[i]);
        for (int i = 0; i < n_inputs && ag_status_of(ctx) == AG_OK; i++) {
            char name[128] = "grad_in.";
            strncat(name, inputs[i].name, sizeof name - sizeof "grad_in.");
            probe_out_tensor(out, ctx, name, grads[n_params + i]);
        }
    }
    ag_delete(wanted);
    ag_delete(grads);
    return ag_status_of(ctx);
}
