/* lora.c - see lora.h. */
#include "pipeline/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/lora_write.h"
#include "pipeline/lora_stack.h"

/* --- FILE:WEIGHT ------------------------------------------------------------------------------ */

ag_status pipe_lora_parse(pipe_lora_spec *out, ag_ctx *ctx, const char *text)
{
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    double weight = 1.0;

    if (colon && colon[1]) {
        weight = strtod(colon + 1, &end);
        if (*end) {
            colon = NULL; /* a colon of the name's own */
            weight = 1.0;
        }
    } else {
        colon = NULL;
    }
    if (!isfinite(weight))
        return ag_fail(ctx, AG_EINVAL, "%s: the weight of a LoRA must be a finite number", text);
    if (colon == text || !*text)
        return ag_fail(ctx, AG_EINVAL, "\"%s\": wanted FILE or FILE:WEIGHT", text);
    out->weight = weight;
    out->path = colon ? ag_printf(ctx, "%.*s", (int)(colon - text), text) : ag_strdup(ctx, text);
    return ag_status_of(ctx);
}

ag_status pipe_lora_parse_all(pipe_lora_spec **out, ag_ctx *ctx, const char *const *texts, int64_t n)
{
    pipe_lora_spec *specs = ag_new(ctx, (size_t)n, sizeof *specs, "LoRA files");

    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++)
        pipe_lora_parse(&specs[i], ctx, texts[i]);
    if (ag_status_of(ctx) != AG_OK)
        pipe_lora_specs_free(specs, n);
    else
        *out = specs;
    return ag_status_of(ctx);
}

void pipe_lora_specs_free(pipe_lora_spec *specs, int64_t n)
{
    for (int64_t i = 0; specs && i < n; i++)
        ag_delete(specs[i].path);
    ag_delete(specs);
}

/* --- into weights ----------------------------------------------------------------------------- */

static ag_status merge_param(ag_ctx *ctx, const pipe_loras *loras, data_component component, nn_param *param)
{
    const data_named_shape shape = {.name = param->name, .n_dims = param->n_dims, .dims = param->dims};
    float *values = ag_new(ctx, (size_t)param->numel, sizeof *values, param->name);

    if (values && nn_param_get_published(ctx, param, values) == AG_OK &&
        pipe_loras_apply(ctx, loras, component, &shape, values) == AG_OK)
        nn_param_set_published(ctx, param, values, param->n_dims, param->dims);
    ag_delete(values);
    return ag_status_of(ctx);
}

ag_status pipe_lora_merge(ag_ctx *ctx, pipe_model *model, const pipe_lora_spec *specs, int64_t n, const pipe_note *note)
{
    pipe_lora_base base = {0};
    pipe_loras loras = {0};

    if (n > 0 && pipe_lora_base_of(&base, ctx, model) == AG_OK)
        pipe_loras_open(&loras, ctx, specs, n, &base, note);
    for (int k = 0; k < base.n && ag_status_of(ctx) == AG_OK; k++) {
        const data_component component = base.networks[k].component;
        nn_params *params = pipe_params(model, component);

        for (int64_t i = 0; i < nn_params_count(params) && ag_status_of(ctx) == AG_OK; i++)
            if (pipe_loras_touch(&loras, component, nn_params_at(params, i)->name))
                merge_param(ctx, &loras, component, nn_params_at(params, i));
    }
    pipe_loras_close(&loras);
    pipe_lora_base_free(&base);
    return ag_status_of(ctx);
}

/* --- into adapters ---------------------------------------------------------------------------- */

typedef struct attached {
    nn_adapters *set;
    data_component component;
    data_named_shape *weights; /* of each adapter */
} attached;

static ag_status list_weights(ag_ctx *ctx, attached *a)
{
    const int64_t n = nn_adapters_count(a->set);

    a->weights = ag_new(ctx, (size_t)n, sizeof *a->weights, "adapters");
    for (int64_t i = 0; a->weights && i < n; i++) {
        const nn_param *w = nn_adapters_at(a->set, i).weight;
        a->weights[i] = (data_named_shape){.name = w->name, .n_dims = w->n_dims, .dims = w->dims};
    }
    return ag_status_of(ctx);
}

static ag_status fill(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m, data_lora_role role,
                      nn_param *param)
{
    float *values = ag_new(ctx, (size_t)param->numel, sizeof *values, param->name);

    if (values && data_weights_read_f32(ctx, data_lora_weights(lora), m->tensor[role], values) == AG_OK)
        nn_param_set_published(ctx, param, values, param->n_dims, param->dims);
    ag_delete(values);
    return ag_status_of(ctx);
}

/* Is the file's module the adapter's like? */
static ag_status check_like(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m, const nn_adapter_view *view)
{
    const char *path = data_lora_path(lora);

    if (m->kind != DATA_LORA_PLAIN || m->tensor[DATA_LORA_MID] >= 0 || m->tensor[DATA_LORA_B_BIAS] >= 0)
        return ag_fail(ctx, AG_EDATA, "%s: %s is no plain pair of factors (%s), which an adapter is", path, m->spelled,
                       data_lora_kind_name(m->kind));
    if (m->rank != view->rank)
        return ag_fail(ctx, AG_EDATA, "%s: %s is of rank %lld, wanted %lld", path, m->spelled, (long long)m->rank,
                       (long long)view->rank);
    if (m->alpha_said && fabs(m->scale - view->scale) > 1e-5 * fabs(view->scale))
        return ag_fail(ctx, AG_EDATA, "%s: %s has alpha %g (scale %g), the adapter's scale is %g", path, m->spelled,
                       m->alpha, m->scale, view->scale);
    if ((m->tensor[DATA_LORA_MAGNITUDE] >= 0) != (view->magnitude != NULL) || m->norm_along_rows)
        return ag_fail(ctx, AG_EDATA, "%s: %s is %s DoRA, wanted one %s", path, m->spelled,
                       m->tensor[DATA_LORA_MAGNITUDE] >= 0 ? "a" : "no", view->magnitude ? "with" : "without");
    return AG_OK;
}

/* Check every adapter (fill_in false), or fill it. */
static ag_status walk(ag_ctx *ctx, const data_lora *lora, const attached *a, bool fill_in)
{
    for (int64_t i = 0; i < nn_adapters_count(a->set) && ag_status_of(ctx) == AG_OK; i++) {
        const nn_adapter_view view = nn_adapters_at(a->set, i);
        const int64_t k = data_lora_find(lora, a->component, view.module);
        const data_lora_module *m = k < 0 ? NULL : data_lora_at(lora, k);

        if (!m)
            return ag_fail(ctx, AG_EDATA, "%s: lacks %s.%s, one of %lld adapters", data_lora_path(lora),
                           data_component_name(a->component), view.module, (long long)nn_adapters_count(a->set));
        if (!fill_in) {
            check_like(ctx, lora, m, &view);
        } else if (fill(ctx, lora, m, DATA_LORA_A, view.a) == AG_OK &&
                   fill(ctx, lora, m, DATA_LORA_B, view.b) == AG_OK && view.magnitude) {
            fill(ctx, lora, m, DATA_LORA_MAGNITUDE, view.magnitude);
        }
    }
    return ag_status_of(ctx);
}

/* Every module of the file has an adapter. */
static ag_status match_all(ag_ctx *ctx, data_lora *lora, const data_lora_names *networks, int n)
{
    data_lora_matched matched;
    char *missed;

    if (data_lora_match(&matched, ctx, lora, networks, n) != AG_OK)
        return ag_status_of(ctx);
    missed = data_lora_missed_text(ctx, lora);
    if (missed && matched.n_missed > 0)
        ag_fail(ctx, AG_EDATA, "%s: %lld of its %lld modules have no adapter: %s", data_lora_path(lora),
                (long long)matched.n_missed, (long long)data_lora_count(lora), missed);
    else if (matched.n_elsewhere > 0)
        ag_fail(ctx, AG_EDATA, "%s: %lld of its %lld modules are of a part that has no adapters", data_lora_path(lora),
                (long long)matched.n_elsewhere, (long long)data_lora_count(lora));
    ag_delete(missed);
    return ag_status_of(ctx);
}

ag_status pipe_lora_load(ag_ctx *ctx, nn_adapters *unet, nn_adapters *text, const char *path, const pipe_note *note)
{
    nn_adapters *const sets[] = {unet, text};
    const data_component components[] = {DATA_UNET, DATA_TEXT_ENCODER};
    attached list[2];
    data_lora_names networks[2];
    data_lora *lora = NULL;
    int n = 0;

    for (int k = 0; k < 2; k++) {
        if (!sets[k])
            continue;
        list[n] = (attached){.set = sets[k], .component = components[k]};
        list_weights(ctx, &list[n]);
        networks[n] = (data_lora_names){
            .component = components[k], .list = list[n].weights, .n = nn_adapters_count(sets[k])};
        n++;
    }
    if (ag_status_of(ctx) == AG_OK && data_lora_open(&lora, ctx, path) == AG_OK)
        match_all(ctx, lora, networks, n);
    for (int pass = 0; pass < 2; pass++)
        for (int k = 0; k < n && ag_status_of(ctx) == AG_OK; k++)
            walk(ctx, lora, &list[k], pass == 1);
    if (ag_status_of(ctx) == AG_OK)
        pipe_lora_tell_alpha(lora, note);
    for (int k = 0; k < n; k++)
        ag_delete(list[k].weights);
    data_lora_close(lora);
    return ag_status_of(ctx);
}

/* --- out of adapters -------------------------------------------------------------------------- */

static ag_status take_out(ag_ctx *ctx, data_lora_part *part, data_lora_role role, const nn_param *param)
{
    float *values = ag_new(ctx, (size_t)param->numel, sizeof *values, param->name);

    part->has[role] = values != NULL;
    part->tensor[role] =
        (data_source){.dtype = DATA_F32, .n_dims = param->n_dims, .dims = param->dims, .values = values};
    return values ? nn_param_get_published(ctx, param, values) : ag_status_of(ctx);
}

static ag_status take_all(ag_ctx *ctx, data_lora_part *parts, nn_adapters *set, data_component component)
{
    for (int64_t i = 0; i < nn_adapters_count(set) && ag_status_of(ctx) == AG_OK; i++) {
        const nn_adapter_view view = nn_adapters_at(set, i);

        parts[i] = (data_lora_part){.component = component,
                                    .module = view.module,
                                    .kind = DATA_LORA_PLAIN,
                                    .rank = view.rank,
                                    .alpha = view.scale * (double)view.rank};
        if (take_out(ctx, &parts[i], DATA_LORA_A, view.a) == AG_OK &&
            take_out(ctx, &parts[i], DATA_LORA_B, view.b) == AG_OK && view.magnitude)
            take_out(ctx, &parts[i], DATA_LORA_MAGNITUDE, view.magnitude);
    }
    return ag_status_of(ctx);
}

ag_status pipe_lora_save(ag_ctx *ctx, const char *path, nn_adapters *unet, nn_adapters *text,
                         data_lora_dialect dialect, const data_pair *metadata, int64_t n_metadata)
{
    const int64_t n_unet = unet ? nn_adapters_count(unet) : 0, n = n_unet + (text ? nn_adapters_count(text) : 0);
    data_lora_part *parts = ag_new(ctx, (size_t)n, sizeof *parts, "adapters");

    if (parts && unet)
        take_all(ctx, parts, unet, DATA_UNET);
    if (parts && text && ag_status_of(ctx) == AG_OK)
        take_all(ctx, parts + n_unet, text, DATA_TEXT_ENCODER);
    if (ag_status_of(ctx) == AG_OK)
        data_lora_write(ctx, path, dialect, parts, n, metadata, n_metadata);
    for (int64_t i = 0; parts && i < n; i++)
        for (int role = 0; role < DATA_LORA_N_ROLES; role++)
            ag_delete((void *)parts[i].tensor[role].values);
    ag_delete(parts);
    return ag_status_of(ctx);
}

char *pipe_lora_written_name(ag_ctx *ctx, data_component component, const nn_param *param)
{
    return data_lora_rename(ctx, DATA_LORA_DIFFUSERS, component, param->name);
}
