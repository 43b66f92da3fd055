/* lora_convert.c - see lora_convert.h. */
#include "pipeline/lora_convert.h"

#include <string.h>

#include "pipeline/lora_parts.h"
#include "pipeline/lora_stack.h"

typedef struct job {
    ag_ctx *ctx;
    const pipe_lora_convert_options *options;
    data_lora *lora;
    pipe_lora_base base;
    pipe_lora_parts parts;
    double total, kept;
} job;

/* --- what is read ----------------------------------------------------------------------------- */

static ag_status open_input(job *j)
{
    ag_ctx *ctx = j->ctx;
    const pipe_lora_convert_options *o = j->options;
    data_lora_matched matched;
    const char *name;
    char *missed;

    if (data_lora_open(&j->lora, ctx, o->input) != AG_OK ||
        (o->model ? pipe_lora_base_open(&j->base, ctx, o->model)
                  : pipe_lora_base_guess(&j->base, &name, ctx, j->lora)) != AG_OK ||
        pipe_lora_fit(&matched, ctx, j->lora, &j->base, NULL) != AG_OK)
        return ag_status_of(ctx);
    pipe_lora_tell_alpha(j->lora, o->note);
    missed = matched.n_missed + matched.n_elsewhere > 0 ? data_lora_missed_text(ctx, j->lora) : NULL;
    if (missed)
        ag_fail(ctx, AG_EDATA, "%s: %lld of its %lld modules are not in %s, so that they have no name: %s", o->input,
                (long long)(matched.n_missed + matched.n_elsewhere), (long long)data_lora_count(j->lora),
                o->model ? o->model : "the published models", missed);
    ag_delete(missed);
    return ag_status_of(ctx);
}

/* Tensor `role` of a module into the part: its bytes, or f32 values times `scale`. */
static ag_status take_tensor(job *j, data_lora_part *part, const data_lora_module *m, data_lora_role role, bool raw,
                             double scale)
{
    const data_tensor *t = data_weights_at(data_lora_weights(j->lora), m->tensor[role]);
    const data_dtype dtype = raw ? t->dtype : DATA_F32;
    void *values = pipe_lora_parts_take(&j->parts, j->ctx, (size_t)t->n_values, data_dtype_size(dtype));

    if (!values)
        return ag_status_of(j->ctx);
    part->has[role] = true;
    part->tensor[role] = (data_source){.dtype = dtype, .n_dims = t->n_dims, .dims = t->dims, .values = values};
    if (raw)
        return data_weights_read(j->ctx, data_lora_weights(j->lora), m->tensor[role], values);
    if (data_weights_read_f32(j->ctx, data_lora_weights(j->lora), m->tensor[role], values) == AG_OK && scale != 1.0)
        for (int64_t i = 0; i < t->n_values; i++)
            ((float *)values)[i] *= (float)scale;
    return ag_status_of(j->ctx);
}

static ag_status take_module(job *j, data_lora_part *part, const data_lora_module *m)
{
    part->kind = m->kind;
    part->rank = m->rank;
    part->alpha = m->alpha;
    for (int role = 0; role < DATA_LORA_ALPHA; role++)
        if (m->tensor[role] >= 0 &&
            take_tensor(j, part, m, (data_lora_role)role, j->options->keep_dtype, 1.0) != AG_OK)
            return ag_status_of(j->ctx);
    return AG_OK;
}

/* --- another rank ----------------------------------------------------------------------------- */

static const data_named_shape *weight_of(const pipe_lora_base *base, const data_lora_module *m)
{
    const size_t n = strlen(m->name);

    for (int k = 0; k < base->n; k++)
        for (int64_t i = 0; (int)base->networks[k].component == m->component && i < base->networks[k].n; i++) {
            const data_named_shape *w = &base->networks[k].list[i];
            if (strncmp(w->name, m->name, n) == 0 && strcmp(w->name + n, ".weight") == 0)
                return w;
        }
    return NULL;
}

/* The module's change of the weight, as rows of inputs, made thin. */
static ag_status make_thin(job *j, pipe_thin *thin, int64_t i, const data_named_shape *weight)
{
    const data_lora_module *m = data_lora_at(j->lora, i);
    const pipe_rank_choice choice = {.rank = j->options->rank, .energy = j->options->energy};
    const int64_t rows = weight->dims[0];
    int64_t cols = 1;

    for (int d = 1; d < weight->n_dims; d++)
        cols *= weight->dims[d];
    if (m->kind == DATA_LORA_PLAIN && m->tensor[DATA_LORA_MID] < 0 && m->rank < rows && m->rank < cols) {
        data_weights *w = data_lora_weights(j->lora);
        float *a = ag_new(j->ctx, (size_t)(m->rank * cols), sizeof *a, "LoRA's A");
        float *b = ag_new(j->ctx, (size_t)(rows * m->rank), sizeof *b, "LoRA's B");

        if (a && b && data_weights_read_f32(j->ctx, w, m->tensor[DATA_LORA_A], a) == AG_OK &&
            data_weights_read_f32(j->ctx, w, m->tensor[DATA_LORA_B], b) == AG_OK)
            pipe_thin_of_product(thin, j->ctx, b, a, rows, m->rank, cols, m->scale, choice);
        ag_delete(b);
        ag_delete(a);
    } else {
        float *d = ag_new(j->ctx, (size_t)(rows * cols), sizeof *d, "a weight's change");

        if (d && data_lora_change(j->ctx, j->lora, i, weight, NULL, d) == AG_OK)
            pipe_thin_of(thin, j->ctx, d, rows, cols, choice);
        ag_delete(d);
    }
    return ag_status_of(j->ctx);
}

static ag_status resize_module(job *j, data_lora_part *part, int64_t i)
{
    const data_lora_module *m = data_lora_at(j->lora, i);
    const data_named_shape *weight = weight_of(&j->base, m);
    pipe_thin thin = {0};

    if (data_lora_changes_weight(m) && weight->n_dims < 2)
        return take_module(j, part, m); /* a norm's difference has no rank */
    if (data_lora_changes_weight(m)) {
        if (make_thin(j, &thin, i, weight) != AG_OK)
            return ag_status_of(j->ctx);
        j->total += thin.total;
        j->kept += thin.kept;
        if (pipe_lora_part_thin(&j->parts, j->ctx, part, &thin, weight) != AG_OK)
            return ag_status_of(j->ctx);
    }
    if (m->tensor[DATA_LORA_MAGNITUDE] >= 0)
        take_tensor(j, part, m, DATA_LORA_MAGNITUDE, false, 1.0);
    if (m->tensor[DATA_LORA_B_BIAS] >= 0)
        take_tensor(j, part, m, DATA_LORA_B_BIAS, false, m->scale);
    if (m->tensor[DATA_LORA_DIFF_BIAS] >= 0)
        take_tensor(j, part, m, DATA_LORA_DIFF_BIAS, false, 1.0);
    return ag_status_of(j->ctx);
}

/* --- the whole -------------------------------------------------------------------------------- */

/* The dtype in which a file without a rank of its own choice was: that of its first factor. */
static data_dtype dtype_of_input(const data_lora *lora)
{
    for (int64_t i = 0; i < data_weights_count(data_lora_weights(lora)); i++)
        if (data_weights_at(data_lora_weights(lora), i)->n_dims > 1)
            return data_weights_at(data_lora_weights(lora), i)->dtype;
    return DATA_F32;
}

static ag_status fill_parts(job *j, pipe_lora_converted *out)
{
    data_dtype dtype = dtype_of_input(j->lora);

    for (int64_t i = 0; i < data_lora_count(j->lora); i++) {
        const data_lora_module *m = data_lora_at(j->lora, i);
        data_lora_part *part = pipe_lora_parts_add(&j->parts, j->ctx);

        if (!part)
            return ag_status_of(j->ctx);
        part->component = (data_component)m->component;
        part->module = m->name;
        part->norm_along_rows = m->norm_along_rows;
        if ((j->options->rank > 0 ? resize_module(j, part, i) : take_module(j, part, m)) != AG_OK)
            return ag_status_of(j->ctx);
        if (part->rank > 0 && (out->rank_low == 0 || part->rank < out->rank_low))
            out->rank_low = part->rank;
        if (part->rank > out->rank_high)
            out->rank_high = part->rank;
    }
    if (!j->options->keep_dtype)
        data_dtype_from_ag(&dtype, j->options->dtype);
    if (!j->options->keep_dtype || j->options->rank > 0)
        pipe_lora_parts_cast(&j->parts, j->ctx, dtype);
    return ag_status_of(j->ctx);
}

/* The input's metadata stays, but for what is made anew. */
static bool stays(const char *key, bool resized)
{
    static const char *const made[] = {"ss_network_dim", "ss_network_alpha", "ss_network_module", "ss_network_args"};

    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        if (resized && strcmp(key, made[i]) == 0)
            return false;
    return strcmp(key, "lora_adapter_metadata") != 0;
}

static ag_status write_parts(job *j, data_lora_dialect dialect)
{
    const data_weights *w = data_lora_weights(j->lora);
    data_pair *pairs = ag_new(j->ctx, (size_t)data_weights_n_metadata(w), sizeof *pairs, "metadata");
    int64_t n = 0;

    for (int64_t i = 0; pairs && i < data_weights_n_metadata(w); i++)
        if (stays(data_weights_metadata_at(w, i).key, j->options->rank > 0))
            pairs[n++] = data_weights_metadata_at(w, i);
    if (pairs)
        data_lora_write(j->ctx, j->options->output, dialect, j->parts.list, j->parts.n, pairs, n);
    ag_delete(pairs);
    return ag_status_of(j->ctx);
}

ag_status pipe_lora_convert(pipe_lora_converted *out, ag_ctx *ctx, const pipe_lora_convert_options *options)
{
    job j = {.ctx = ctx, .options = options};

    *out = (pipe_lora_converted){.dialect = options->dialect, .kept = 1.0};
    if (open_input(&j) == AG_OK) {
        if (options->keep_dialect)
            out->dialect = data_lora_dialect_of(j.lora);
        if (out->dialect == DATA_LORA_OLD_DIFFUSERS)
            out->dialect = DATA_LORA_DIFFUSERS;
        if (fill_parts(&j, out) == AG_OK)
            write_parts(&j, out->dialect);
        out->n_modules = j.parts.n;
        if (j.total > 0.0)
            out->kept = j.kept / j.total;
    }
    pipe_lora_parts_free(&j.parts);
    pipe_lora_base_free(&j.base);
    data_lora_close(j.lora);
    return ag_status_of(ctx);
}
