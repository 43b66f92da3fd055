/* lora_stack.c - see lora_stack.h. */
#include "pipeline/lora_stack.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "data/hub.h"
#include "pipeline/presets.h"

/* --- the names of a model --------------------------------------------------------------------- */

ag_status pipe_lora_base_of(pipe_lora_base *out, ag_ctx *ctx, const pipe_model *model)
{
    static const data_component which[] = {DATA_UNET, DATA_TEXT_ENCODER};

    for (int c = 0; c < 2; c++) {
        nn_params *params = pipe_params(model, which[c]);
        const int64_t n = params ? nn_params_count(params) : 0;
        data_named_shape *list = params ? ag_new(ctx, (size_t)n, sizeof *list, "names of a model") : NULL;

        if (!list)
            continue;
        for (int64_t i = 0; i < n; i++) {
            const nn_param *p = nn_params_at(params, i);
            list[i] = (data_named_shape){.name = p->name, .n_dims = p->n_dims, .dims = p->dims};
        }
        out->lists[out->n] = list;
        out->networks[out->n++] = (data_lora_names){
            .component = which[c],
            .list = list,
            .n = n,
            .unet = which[c] == DATA_UNET ? nn_unet_config_of(model->unet) : NULL};
    }
    return ag_status_of(ctx);
}

static ag_ctx *meta_of(ag_ctx *ctx)
{
    ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META, .n_threads = ag_ctx_threads(ctx)});

    if (!meta)
        ag_fail(ctx, AG_ENOMEM, "no memory for a context");
    return meta;
}

/* The names of the model that was opened on out->meta. */
static ag_status names_of_meta(pipe_lora_base *out, ag_ctx *ctx)
{
    if (ag_status_of(out->meta) != AG_OK)
        return ag_fail(ctx, ag_status_of(out->meta), "%s", ag_message(out->meta));
    return pipe_lora_base_of(out, ctx, out->model);
}

ag_status pipe_lora_base_open(pipe_lora_base *out, ag_ctx *ctx, const char *model)
{
    const pipe_source source = {.model = model};
    data_component only = DATA_N_COMPONENTS;
    unsigned parts = PIPE_UNET | PIPE_TEXT;
    char *path = NULL;
    data_place place;

    if (data_resolve_model(&path, ctx, model, NULL) == AG_OK &&
        data_place_of(&place, &only, ctx, path) == AG_OK && (out->meta = meta_of(ctx))) {
        if (place == DATA_PLACE_COMPONENT)
            parts &= 1u << only;
        if (parts)
            pipe_open(&out->model, out->meta, &source, parts);
        else
            ag_fail(ctx, AG_EDATA, "%s: is a %s, which no LoRA changes", path, data_component_name(only));
    }
    ag_delete(path);
    return ag_status_of(ctx) == AG_OK ? names_of_meta(out, ctx) : ag_status_of(ctx);
}

ag_status pipe_lora_base_preset(pipe_lora_base *out, ag_ctx *ctx, int number)
{
    pipe_preset preset;

    out->meta = meta_of(ctx);
    out->model = out->meta ? ag_new(ctx, 1, sizeof *out->model, "model") : NULL;
    if (!out->model)
        return ag_status_of(ctx);
    pipe_preset_get(&preset, number);
    nn_unet_new(&out->model->unet, out->meta, &preset.unet);
    nn_clip_text_new(&out->model->text, out->meta, &preset.text);
    return names_of_meta(out, ctx);
}

/* How many of the file's modules a preset has; -1: their shapes are of another. */
static int64_t try_preset(ag_ctx *ctx, data_lora *lora, int number)
{
    pipe_lora_base base = {0};
    data_lora_matched matched;
    int64_t n = -1;

    if (pipe_lora_base_preset(&base, ctx, number) == AG_OK &&
        data_lora_match(&matched, ctx, lora, base.networks, base.n) == AG_OK)
        n = data_lora_count(lora) - matched.n_missed;
    else if (ag_status_of(ctx) == AG_EDATA)
        ag_clear(ctx);
    pipe_lora_base_free(&base);
    return n;
}

ag_status pipe_lora_base_guess(pipe_lora_base *out, const char **name, ag_ctx *ctx, data_lora *lora)
{
    int best = -1;
    int64_t most = 0;

    for (int k = 0; pipe_preset_names[k] && ag_status_of(ctx) == AG_OK; k++) {
        const int64_t n = try_preset(ctx, lora, k);

        if (n > most) {
            most = n;
            best = k;
        }
    }
    if (ag_status_of(ctx) == AG_OK && best < 0)
        ag_fail(ctx, AG_EDATA, "%s: its modules are those of no published model; --model says whose they are",
                data_lora_path(lora));
    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    *name = pipe_preset_names[best];
    return pipe_lora_base_preset(out, ctx, best);
}

void pipe_lora_base_free(pipe_lora_base *base)
{
    ag_delete(base->lists[0]);
    ag_delete(base->lists[1]);
    pipe_close(base->model);
    ag_ctx_free(base->meta);
    *base = (pipe_lora_base){0};
}

/* --- files ------------------------------------------------------------------------------------ */

static void tell(const pipe_note *note, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void tell(const pipe_note *note, const char *format, ...)
{
    char text[2048];
    va_list args;

    if (!note || !note->say)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    note->say(note->user, text);
}

void pipe_lora_tell_alpha(const data_lora *lora, const pipe_note *note)
{
    const long long n = data_lora_n_without_alpha(lora);

    if (n > 0)
        tell(note, "%s: states no alpha for %lld of its modules; it is taken as the rank", data_lora_path(lora), n);
}

ag_status pipe_lora_fit(data_lora_matched *out, ag_ctx *ctx, data_lora *lora, const pipe_lora_base *base,
                        const pipe_note *note)
{
    const long long n = data_lora_count(lora);
    char *missed;
    int64_t found = 0;

    if (data_lora_match(out, ctx, lora, base->networks, base->n) != AG_OK)
        return ag_status_of(ctx);
    for (int c = 0; c < DATA_N_COMPONENTS; c++)
        found += out->n[c];
    if (found == 0 && out->n_missed == 0)
        return ag_fail(ctx, AG_EDATA, "%s: changes nothing of the %s", data_lora_path(lora),
                       base->n > 0 ? data_component_name(base->networks[0].component) : "model");
    missed = data_lora_missed_text(ctx, lora);
    if (missed && found == 0)
        ag_fail(ctx, AG_EDATA, "%s: the model has none of its %lld modules: %s", data_lora_path(lora), n, missed);
    else if (missed && out->n_missed > 0)
        tell(note, "%s: the model lacks %lld of its %lld modules, which change nothing: %s", data_lora_path(lora),
             (long long)out->n_missed, n, missed);
    ag_delete(missed);
    if (ag_status_of(ctx) == AG_OK)
        pipe_lora_tell_alpha(lora, note);
    return ag_status_of(ctx);
}

ag_status pipe_loras_open(pipe_loras *out, ag_ctx *ctx, const pipe_lora_spec *specs, int64_t n,
                          const pipe_lora_base *base, const pipe_note *note)
{
    data_lora_matched matched;

    out->files = ag_new(ctx, (size_t)n, sizeof(data_lora *), "LoRA files");
    out->weights = ag_new(ctx, (size_t)n, sizeof *out->weights, "LoRA files");
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
        out->weights[i] = specs[i].weight;
        if (data_lora_open(&out->files[i], ctx, specs[i].path) != AG_OK)
            break;
        out->n++;
        pipe_lora_fit(&matched, ctx, out->files[i], base, note);
    }
    return ag_status_of(ctx);
}

void pipe_loras_close(pipe_loras *loras)
{
    for (int64_t i = 0; i < loras->n; i++)
        data_lora_close(loras->files[i]);
    ag_delete(loras->files);
    ag_delete(loras->weights);
    *loras = (pipe_loras){0};
}

/* The module in a file that changes a parameter, and how: its weight or its bias. -1: none. */
static int64_t changes(const data_lora *lora, data_component component, const char *name, bool *is_bias)
{
    const char *dot = strrchr(name, '.');
    char module[DATA_KEY_MAX];
    int64_t i;

    *is_bias = dot && strcmp(dot, ".bias") == 0;
    if (!dot || (!*is_bias && strcmp(dot, ".weight") != 0) || dot - name >= DATA_KEY_MAX)
        return -1;
    snprintf(module, sizeof module, "%.*s", (int)(dot - name), name);
    i = data_lora_find(lora, component, module);
    if (i < 0)
        return -1;
    return (*is_bias ? data_lora_changes_bias : data_lora_changes_weight)(data_lora_at(lora, i)) ? i : -1;
}

bool pipe_loras_touch(const pipe_loras *loras, data_component component, const char *name)
{
    bool is_bias;

    for (int64_t i = 0; i < loras->n; i++)
        if (changes(loras->files[i], component, name, &is_bias) >= 0)
            return true;
    return false;
}

ag_status pipe_loras_apply(ag_ctx *ctx, const pipe_loras *loras, data_component component,
                           const data_named_shape *param, float *values)
{
    int64_t n = 1;
    double *sum;
    float *one;

    for (int d = 0; d < param->n_dims; d++)
        n *= param->dims[d];
    sum = ag_new(ctx, (size_t)n, sizeof *sum, param->name);
    one = ag_new(ctx, (size_t)n, sizeof *one, param->name);
    for (int64_t i = 0; i < loras->n && ag_status_of(ctx) == AG_OK; i++) {
        bool is_bias;
        const int64_t module = changes(loras->files[i], component, param->name, &is_bias);

        if (module < 0)
            continue;
        if (is_bias)
            data_lora_bias_change(ctx, loras->files[i], module, n, one);
        else
            data_lora_change(ctx, loras->files[i], module, param, values, one);
        for (int64_t k = 0; k < n && ag_status_of(ctx) == AG_OK; k++)
            sum[k] += loras->weights[i] * one[k];
    }
    for (int64_t k = 0; k < n && ag_status_of(ctx) == AG_OK; k++)
        values[k] = (float)(values[k] + sum[k]);
    ag_delete(one);
    ag_delete(sum);
    return ag_status_of(ctx);
}
