/* lora_check.c - agewright lora check: what a LoRA's file holds, and which model it fits. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/inspect.h"
#include "cli/lora.h"
#include "data/json.h"
#include "pipeline/lora_stack.h"

/* --- describing ------------------------------------------------------------------------------- */

/* Count a value in an object of counts. */
static void count(json_t *counts, const char *key)
{
    json_object_set_new(counts, key, json_integer(json_integer_value(json_object_get(counts, key)) + 1));
}

static void describe_modules(json_t *root, const data_lora *lora)
{
    json_t *kinds = json_object(), *ranks = json_object(), *alphas = json_object();
    int64_t n_dora = 0;
    char text[32];

    for (int64_t i = 0; i < data_lora_count(lora); i++) {
        const data_lora_module *m = data_lora_at(lora, i);

        count(kinds, data_lora_kind_name(m->kind));
        n_dora += m->tensor[DATA_LORA_MAGNITUDE] >= 0;
        if (m->rank == 0)
            continue;
        snprintf(text, sizeof text, "%lld", (long long)m->rank);
        count(ranks, text);
        snprintf(text, sizeof text, "%g%s", m->alpha, m->alpha_said ? "" : " (the rank)");
        count(alphas, text);
    }
    inspect_set(root, "modules", json_integer(data_lora_count(lora)));
    json_object_set(root, "kinds", kinds);
    json_object_set(root, "ranks", ranks);
    json_object_set(root, "alphas", alphas);
    if (n_dora > 0)
        inspect_set(root, "dora_modules", json_integer(n_dora));
    json_decref(kinds);
    json_decref(ranks);
    json_decref(alphas);
}

/* How large the changes are: the norm of all of a component's, and its module that changes most. */
static ag_status describe_norms(ag_ctx *ctx, json_t *root, const data_lora *lora, const data_lora_names *network)
{
    double total = 0.0, most = -1.0;
    const char *largest = NULL;
    json_t *one;

    for (int64_t k = 0; k < network->n && ag_status_of(ctx) == AG_OK; k++) {
        const data_named_shape *w = &network->list[k];
        const size_t n = strlen(w->name), end = strlen(".weight");
        char module[DATA_KEY_MAX];
        int64_t i, n_values = 1;
        float *change;
        double sum = 0.0;

        if (n <= end || n - end >= sizeof module || strcmp(w->name + n - end, ".weight") != 0)
            continue;
        snprintf(module, sizeof module, "%.*s", (int)(n - end), w->name);
        i = data_lora_find(lora, network->component, module);
        if (i < 0 || !data_lora_changes_weight(data_lora_at(lora, i)))
            continue;
        for (int d = 0; d < w->n_dims; d++)
            n_values *= w->dims[d];
        change = ag_new(ctx, (size_t)n_values, sizeof *change, w->name);
        if (change && data_lora_change(ctx, lora, i, w, NULL, change) == AG_OK)
            for (int64_t v = 0; v < n_values; v++)
                sum += (double)change[v] * change[v];
        ag_delete(change);
        total += sum;
        if (sum > most) {
            most = sum;
            largest = w->name;
        }
    }
    if (!largest || ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    one = json_object();
    inspect_set(one, "norm", json_real(sqrt(total)));
    inspect_set(one, "largest", json_real(sqrt(most)));
    inspect_set(one, "largest_of", json_string(largest));
    inspect_set(root, data_component_name(network->component), one);
    return AG_OK;
}

static ag_status describe_fit(ag_ctx *ctx, json_t *root, data_lora *lora, const pipe_lora_base *base, bool norms)
{
    json_t *found = json_object(), *changes = json_object();
    data_lora_matched matched;
    char *missed;

    if (data_lora_match(&matched, ctx, lora, base->networks, base->n) == AG_OK) {
        for (int c = 0; c < DATA_N_COMPONENTS; c++)
            if (matched.n[c] > 0)
                inspect_set(found, data_component_name((data_component)c), json_integer(matched.n[c]));
        json_object_set(root, "found", found);
        missed = matched.n_missed > 0 ? data_lora_missed_text(ctx, lora) : NULL;
        if (missed)
            inspect_set(root, "not_found", json_string(missed));
        ag_delete(missed);
        for (int k = 0; norms && k < base->n && ag_status_of(ctx) == AG_OK; k++)
            describe_norms(ctx, changes, lora, &base->networks[k]);
        if (norms)
            json_object_set(root, "changes", changes);
    }
    json_decref(found);
    json_decref(changes);
    return ag_status_of(ctx);
}

/* All but PEFT's configuration, which ranks and alphas come from. */
static void describe_metadata(json_t *root, const data_weights *w)
{
    json_t *metadata = json_object();

    for (int64_t i = 0; i < data_weights_n_metadata(w); i++) {
        const data_pair pair = data_weights_metadata_at(w, i);

        if (strcmp(pair.key, "lora_adapter_metadata") != 0)
            inspect_set(metadata, pair.key, json_string(pair.value));
    }
    json_object_set(root, "metadata", metadata);
    json_decref(metadata);
}

ag_status lora_describe(ag_ctx *ctx, json_t *root, const char *path, const char *model, bool norms)
{
    data_lora *lora = NULL;
    pipe_lora_base base = {0};
    const char *name = model;

    if (data_lora_open(&lora, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    inspect_set(root, "kind", json_string("LoRA"));
    inspect_set(root, "file", json_string(data_lora_path(lora)));
    inspect_set(root, "dialect", json_string(data_lora_dialect_name(data_lora_dialect_of(lora))));
    describe_modules(root, lora);
    if (model)
        pipe_lora_base_open(&base, ctx, model);
    else if (pipe_lora_base_guess(&base, &name, ctx, lora) == AG_EDATA) {
        ag_clear(ctx); /* of no published model: that is an answer */
        inspect_set(root, "fits", json_string("no published model"));
    }
    if (base.n > 0 && ag_status_of(ctx) == AG_OK) {
        inspect_set(root, "fits", json_string(name));
        describe_fit(ctx, root, lora, &base, norms);
    }
    describe_metadata(root, data_lora_weights(lora));
    pipe_lora_base_free(&base);
    data_lora_close(lora);
    return ag_status_of(ctx);
}

/* --- the command ------------------------------------------------------------------------------ */

typedef struct options {
    const char *model;
    bool json;
    cli_device device;
} options;

#define AT(field) offsetof(options, field)

static const cli_flag FLAGS[] = {
    {.name = "model", .kind = CLI_TEXT, .offset = AT(model), .value = "MODEL",
     .help = "say what of the file is in this model; without, the published model that fits is looked for"},
    {.name = "json", .kind = CLI_SWITCH, .offset = AT(json), .help = "print JSON"},
    {0},
};

static const cli_group GROUPS[] = {
    {"flags", FLAGS, 0}, {"the machine", cli_device_flags, offsetof(options, device)}, {0}};

static const cli_syntax SYNTAX = {
    .command = "lora check",
    .usage = "FILE [--model MODEL]",
    .summary = "Read a LoRA's file or folder whole, and say its dialect, kinds, ranks, alphas, how much it changes, "
               "which model it fits and what its metadata tell. What is wrong with it is the error.",
    .groups = GROUPS,
    .n_positional_max = 1,
};

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    const char *path = parsed->positional.n == 1 ? parsed->positional.items[0] : NULL;
    json_t *root = json_object();

    if (!path)
        ag_fail(ctx, AG_EINVAL, "check what? wanted a LoRA's file or folder");
    else if (lora_describe(ctx, root, path, o->model, true) == AG_OK)
        inspect_print(ctx, root, o->json);
    json_decref(root);
    return ag_status_of(ctx);
}

int lora_check(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), AT(device), argc, argv, body);
}
