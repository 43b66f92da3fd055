/* lora_extract.c - see lora_extract.h. */
#include "pipeline/lora_extract.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/file.h"
#include "data/hub.h"
#include "pipeline/convert_parts.h"
#include "pipeline/lora_parts.h"

/* --- the tensors of a model ------------------------------------------------------------------- */

typedef struct tensors {
    char *path;
    data_weights *single;
    pipe_parts parts;
} tensors;

static ag_status open_tensors(tensors *t, ag_ctx *ctx, const char *model)
{
    if (data_resolve_model(&t->path, ctx, model, NULL) != AG_OK)
        return ag_status_of(ctx);
    if (data_is_folder(t->path))
        return pipe_parts_from_folder(&t->parts, ctx, t->path, NULL);
    if (data_weights_open(&t->single, ctx, t->path) == AG_OK && data_weights_check(ctx, t->single) == AG_OK)
        pipe_parts_from_single(&t->parts, ctx, t->single, false);
    return ag_status_of(ctx);
}

static void close_tensors(tensors *t)
{
    pipe_parts_free(&t->parts);
    data_weights_close(t->single);
    ag_delete(t->path);
}

static int by_place(const void *a, const void *b)
{
    const pipe_part *x = a, *y = b;

    return x->component != y->component ? (x->component > y->component) - (x->component < y->component)
                                        : strcmp(x->name, y->name);
}

/* The tensors of a LoRA's components first in the list, sorted; returns how many. */
static int64_t sort_parts(pipe_parts *p)
{
    int64_t n = 0;

    for (int64_t i = 0; i < p->n; i++)
        if ((p->list[i].component == DATA_UNET || p->list[i].component == DATA_TEXT_ENCODER) &&
            data_dtype_is_float(p->list[i].dtype)) {
            const pipe_part moved = p->list[i];
            p->list[i] = p->list[n];
            p->list[n++] = moved;
        }
    if (n > 1)
        qsort(p->list, (size_t)n, sizeof *p->list, by_place);
    return n;
}

/* --- differences ------------------------------------------------------------------------------ */

typedef struct job {
    ag_ctx *ctx;
    const pipe_lora_extract_options *options;
    tensors base, tuned;
    pipe_lora_parts parts;
    double total, kept;
} job;

/* tuned - base, for the caller to end; NULL without a failure when they are equal. */
static float *difference(job *j, const pipe_part *base, const pipe_part *tuned)
{
    float *a = ag_new(j->ctx, (size_t)base->n, sizeof *a, base->name);
    float *b = ag_new(j->ctx, (size_t)base->n, sizeof *b, base->name);
    bool differs = false;

    if (a && b && pipe_part_read(j->ctx, base, a) == AG_OK && pipe_part_read(j->ctx, tuned, b) == AG_OK)
        for (int64_t i = 0; i < base->n; i++) {
            differs = differs || a[i] != b[i];
            a[i] = b[i] - a[i];
        }
    ag_delete(b);
    if (differs && ag_status_of(j->ctx) == AG_OK)
        return a;
    ag_delete(a);
    return NULL;
}

/* The rank for a tensor; 0: it has no place in the LoRA. */
static int64_t rank_for(const pipe_lora_extract_options *o, const pipe_part *part)
{
    const size_t n = strlen(part->name), end = strlen(".weight");
    bool wide = false;

    if (n <= end || strcmp(part->name + n - end, ".weight") != 0 || strstr(part->name, "embeddings.") ||
        (part->n_dims != 2 && part->n_dims != 4))
        return 0;
    for (int d = 2; d < part->n_dims; d++)
        wide = wide || part->dims[d] > 1;
    return wide ? o->conv_rank : o->rank;
}

static ag_status extract_one(job *j, pipe_lora_extracted *out, const pipe_part *base, const pipe_part *tuned)
{
    const pipe_rank_choice choice = {.rank = rank_for(j->options, base), .energy = j->options->energy};
    const data_named_shape shape = {.name = base->name, .n_dims = base->n_dims, .dims = base->dims};
    float *d = difference(j, base, tuned);
    data_lora_part *part;
    pipe_thin thin = {0};
    char *module;

    if (!d || choice.rank == 0) {
        out->n_left_out += d != NULL;
        ag_delete(d);
        return ag_status_of(j->ctx);
    }
    if (pipe_thin_of(&thin, j->ctx, d, base->dims[0], base->n / base->dims[0], choice) == AG_OK) {
        j->total += thin.total;
        j->kept += thin.kept;
        out->rank_high = thin.rank > out->rank_high ? thin.rank : out->rank_high;
        part = pipe_lora_parts_add(&j->parts, j->ctx);
        module = pipe_lora_parts_take(&j->parts, j->ctx, DATA_KEY_MAX, 1);
        if (part && module) {
            snprintf(module, DATA_KEY_MAX, "%.*s", (int)(strlen(base->name) - strlen(".weight")), base->name);
            part->component = base->component;
            part->module = module;
            pipe_lora_part_thin(&j->parts, j->ctx, part, &thin, &shape);
        }
    }
    pipe_thin_free(&thin);
    ag_delete(d);
    return ag_status_of(j->ctx);
}

static bool same_shape(const pipe_part *a, const pipe_part *b)
{
    return by_place(a, b) == 0 && a->n == b->n && a->n_dims > 0 && a->dims[0] == b->dims[0];
}

static ag_status extract_all(job *j, pipe_lora_extracted *out)
{
    const int64_t n = sort_parts(&j->base.parts), n_tuned = sort_parts(&j->tuned.parts);

    for (int64_t i = 0; i < n || i < n_tuned; i++) {
        const pipe_part *a = i < n ? &j->base.parts.list[i] : NULL, *b = i < n_tuned ? &j->tuned.parts.list[i] : NULL;

        if (!a || !b || !same_shape(a, b))
            return ag_fail(j->ctx, AG_EDATA, "%s and %s are not of one kind: one has %s.%s, the other not, or not so",
                           j->options->base, j->options->tuned, data_component_name(a ? a->component : b->component),
                           a ? a->name : b->name);
    }
    for (int64_t i = 0; i < n; i++) {
        if (extract_one(j, out, &j->base.parts.list[i], &j->tuned.parts.list[i]) != AG_OK)
            return ag_status_of(j->ctx);
        if (j->options->progress)
            j->options->progress(j->options->progress_user, i + 1, n);
    }
    if (j->parts.n == 0)
        return ag_fail(j->ctx, AG_EDATA, "%s and %s differ in nothing that a LoRA could change", j->options->base,
                       j->options->tuned);
    return AG_OK;
}

ag_status pipe_lora_extract(pipe_lora_extracted *out, ag_ctx *ctx, const pipe_lora_extract_options *options)
{
    job j = {.ctx = ctx, .options = options};
    data_dtype dtype = DATA_F32;

    *out = (pipe_lora_extracted){.kept = 1.0};
    data_dtype_from_ag(&dtype, options->dtype);
    if (open_tensors(&j.base, ctx, options->base) == AG_OK && open_tensors(&j.tuned, ctx, options->tuned) == AG_OK &&
        extract_all(&j, out) == AG_OK && pipe_lora_parts_cast(&j.parts, ctx, dtype) == AG_OK) {
        data_lora_write(ctx, options->output, options->dialect, j.parts.list, j.parts.n, NULL, 0);
        out->n_modules = j.parts.n;
        if (j.total > 0.0)
            out->kept = j.kept / j.total;
    }
    pipe_lora_parts_free(&j.parts);
    close_tensors(&j.tuned);
    close_tensors(&j.base);
    return ag_status_of(ctx);
}
