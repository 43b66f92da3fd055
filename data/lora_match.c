/* lora_match.c - the modules of a LoRA found in a model. See lora_file.h.
 *
 * Every spelling that a module of the network may have stands in one sorted table: its name, the name with '_' for '.',
 * without the text model's outer word, and both for the name it has in a single-file checkpoint. A module of a file is
 * looked up there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/lora_internal.h"

/* --- the table -------------------------------------------------------------------------------- */

typedef struct spelling {
    char *text;
    int64_t weight; /* in the network's list */
} spelling;

typedef struct table {
    const data_lora_names *network;
    spelling *list;
    int64_t n;
    int64_t *by_name; /* the network's parameters, sorted */
} table;

enum { SPELLINGS = 6 }; /* of one module, at most */

static int by_text(const void *a, const void *b)
{
    const spelling *x = a, *y = b;
    const int order = strcmp(x->text, y->text);

    return order ? order : (x->weight > y->weight) - (x->weight < y->weight);
}

static void add(ag_ctx *ctx, table *t, const char *text, int64_t weight, bool flat)
{
    char *copy = ag_strdup(ctx, text);

    for (char *at = copy; at && flat && *at; at++)
        if (*at == '.')
            *at = '_';
    if (copy)
        t->list[t->n++] = (spelling){copy, weight};
}

static void add_both(ag_ctx *ctx, table *t, const char *text, int64_t weight)
{
    add(ctx, t, text, weight, false);
    add(ctx, t, text, weight, true);
}

/* The name of a U-Net's module in a single-file checkpoint, without what stands before all of them. */
static bool name_in_checkpoint(char out[DATA_KEY_MAX], const nn_unet_config *unet, const char *parameter)
{
    static const char prefix[] = "model.diffusion_model.";
    const data_single single = {.unet = *unet};
    data_key key;

    if (!data_single_from_folder(&key, &single, DATA_UNET, parameter, 2) ||
        strncmp(key.name, prefix, strlen(prefix)) != 0)
        return false;
    snprintf(out, DATA_KEY_MAX, "%s", key.name + strlen(prefix));
    out[strlen(out) - strlen(".weight")] = '\0';
    return true;
}

static bool module_of(char out[DATA_KEY_MAX], const char *parameter)
{
    const size_t n = strlen(parameter), end = strlen(".weight");

    if (n <= end || n >= DATA_KEY_MAX || strcmp(parameter + n - end, ".weight") != 0)
        return false;
    snprintf(out, DATA_KEY_MAX, "%.*s", (int)(n - end), parameter);
    return true;
}

static ag_status make_table(table *t, ag_ctx *ctx, const data_lora_names *network)
{
    static const char outer[] = "text_model.";
    char module[DATA_KEY_MAX], other[DATA_KEY_MAX];

    t->network = network;
    t->list = ag_new(ctx, SPELLINGS * (size_t)network->n, sizeof *t->list, "names of modules");
    for (int64_t i = 0; i < network->n && ag_status_of(ctx) == AG_OK; i++) {
        const char *name = network->list[i].name;

        if (!module_of(module, name))
            continue;
        add_both(ctx, t, module, i);
        if (network->component == DATA_TEXT_ENCODER && strncmp(module, outer, strlen(outer)) == 0)
            add_both(ctx, t, module + strlen(outer), i);
        if (network->component == DATA_UNET && network->unet && name_in_checkpoint(other, network->unet, name))
            add_both(ctx, t, other, i);
    }
    if (ag_status_of(ctx) == AG_OK && t->n > 1)
        qsort(t->list, (size_t)t->n, sizeof *t->list, by_text);
    return ag_status_of(ctx);
}

static void free_table(table *t)
{
    for (int64_t i = 0; i < t->n; i++)
        ag_delete(t->list[i].text);
    ag_delete(t->list);
}

/* The parameter that a spelling stands for; -1: none, or more than one. */
static int64_t look_up(const table *t, const char *text)
{
    int64_t low = 0, high = t->n;

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;

        if (strcmp(t->list[middle].text, text) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == t->n || strcmp(t->list[low].text, text) != 0)
        return -1;
    for (int64_t k = low + 1; k < t->n && strcmp(t->list[k].text, text) == 0; k++)
        if (t->list[k].weight != t->list[low].weight)
            return -1;
    return t->list[low].weight;
}

/* --- shapes ----------------------------------------------------------------------------------- */

/* The axes O, I and kh*kw of a weight; 1 where there are fewer. */
typedef struct sides {
    int64_t o, i, k;
} sides;

static sides sides_of(int n_dims, const int64_t *dims)
{
    sides s = {.o = n_dims > 0 ? dims[0] : 1, .i = n_dims > 1 ? dims[1] : 1, .k = 1};

    for (int d = 2; d < n_dims; d++)
        s.k *= dims[d];
    return s;
}

/* What the module's tensors ask of the weight; i * k as one product where the file keeps them so (k = 0). */
static sides sides_wanted(const data_lora *lora, const data_lora_module *m)
{
    const data_tensor *a = lora_tensor(lora, m, DATA_LORA_A), *b = lora_tensor(lora, m, DATA_LORA_B);
    const data_tensor *mid = lora_tensor(lora, m, DATA_LORA_MID), *diff = lora_tensor(lora, m, DATA_LORA_DIFF);
    const data_tensor *w1a = lora_tensor(lora, m, DATA_LORA_W1_A), *w1b = lora_tensor(lora, m, DATA_LORA_W1_B);
    const data_tensor *w2a = lora_tensor(lora, m, DATA_LORA_W2_A), *w2b = lora_tensor(lora, m, DATA_LORA_W2_B);
    const data_tensor *t1 = lora_tensor(lora, m, DATA_LORA_T1), *t2 = lora_tensor(lora, m, DATA_LORA_T2);
    const data_tensor *w1 = lora_tensor(lora, m, DATA_LORA_W1), *w2 = lora_tensor(lora, m, DATA_LORA_W2);
    sides s = {0}, outer, inner;

    switch (m->kind) {
    case DATA_LORA_PLAIN:
        s = sides_of(a->n_dims, a->dims);
        s.o = b->dims[0];
        if (mid)
            s.k *= sides_of(mid->n_dims, mid->dims).k;
        break;
    case DATA_LORA_HADAMARD:
        s = (sides){.o = t1 ? w1a->n_values / w1a->dims[0] : w1a->dims[0], .i = w1b->n_values / w1b->dims[0]};
        if (t1)
            s.k = sides_of(t1->n_dims, t1->dims).k;
        break;
    case DATA_LORA_KRONECKER:
        outer = w1 ? sides_of(w1->n_dims, w1->dims)
                   : (sides){.o = w1a->dims[0], .i = w1b->n_values / w1b->dims[0], .k = 1};
        if (w2)
            inner = sides_of(w2->n_dims, w2->dims);
        else
            inner = (sides){.o = t2 ? w2a->n_values / w2a->dims[0] : w2a->dims[0],
                            .i = w2b->n_values / w2b->dims[0],
                            .k = t2 ? sides_of(t2->n_dims, t2->dims).k : 0};
        s = (sides){.o = outer.o * inner.o, .i = outer.i * inner.i, .k = outer.k * inner.k};
        break;
    default:
        s = sides_of(diff->n_dims, diff->dims);
    }
    return s;
}

/* Do the tensors of a module agree on the weight they ask for? (settle_rank() has seen to the ranks.) */
static bool pairs_agree(const data_lora *lora, const data_lora_module *m)
{
    const data_tensor *a = lora_tensor(lora, m, DATA_LORA_A), *w1 = lora_tensor(lora, m, DATA_LORA_W1);
    const data_tensor *w1a = lora_tensor(lora, m, DATA_LORA_W1_A), *w2a = lora_tensor(lora, m, DATA_LORA_W2_A);
    const data_tensor *w1b = lora_tensor(lora, m, DATA_LORA_W1_B), *w2b = lora_tensor(lora, m, DATA_LORA_W2_B);
    const data_tensor *t1 = lora_tensor(lora, m, DATA_LORA_T1), *t2 = lora_tensor(lora, m, DATA_LORA_T2);

    if (m->kind == DATA_LORA_PLAIN)
        return !lora_tensor(lora, m, DATA_LORA_MID) || sides_of(a->n_dims, a->dims).k == 1;
    if (m->kind == DATA_LORA_KRONECKER)
        return !w1 || sides_of(w1->n_dims, w1->dims).k == 1;
    if (m->kind != DATA_LORA_HADAMARD)
        return true;
    if (t1)
        return w1a->n_values / w1a->dims[0] == w2a->n_values / w2a->dims[0] &&
               w1b->n_values / w1b->dims[0] == w2b->n_values / w2b->dims[0] &&
               sides_of(t1->n_dims, t1->dims).k == sides_of(t2->n_dims, t2->dims).k;
    return w1a->dims[0] == w2a->dims[0] && w1b->n_values / w1b->dims[0] == w2b->n_values / w2b->dims[0];
}

/* Widths that tell the published models apart. */
static const char *model_of_width(int64_t width)
{
    return width == 768 ? " (Stable Diffusion 1)" : width == 1024 ? " (Stable Diffusion 2)" : "";
}

static ag_status say_misfit(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m,
                            const data_named_shape *weight, sides got, sides want)
{
    const char *path = data_lora_path(lora);

    if (got.o == want.o && got.i != want.i && strstr(weight->name, ".attn2.to_"))
        return ag_fail(ctx, AG_EDATA,
                       "%s: is for another base: %s takes a text %lld wide%s, this model's is %lld wide%s", path,
                       m->spelled, (long long)got.i, model_of_width(got.i), (long long)want.i, model_of_width(want.i));
    if (strncmp(weight->name, "text_model.", strlen("text_model.")) == 0 && got.i != want.i)
        return ag_fail(ctx, AG_EDATA,
                       "%s: is for another base: %s is of a text model %lld wide%s, this model's takes %lld%s", path,
                       m->spelled, (long long)got.i, model_of_width(got.i), (long long)want.i, model_of_width(want.i));
    return ag_fail(ctx, AG_EDATA, "%s: %s changes a weight of [%lld,%lld] x %lld, the model's is [%lld,%lld] x %lld",
                   path, m->spelled, (long long)got.o, (long long)got.i, (long long)(got.k ? got.k : 1),
                   (long long)want.o, (long long)want.i, (long long)want.k);
}

ag_status lora_check_shape(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m,
                           const data_named_shape *weight)
{
    const sides want = sides_of(weight->n_dims, weight->dims);
    const data_tensor *magnitude = lora_tensor(lora, m, DATA_LORA_MAGNITUDE);
    sides got;
    bool fits;

    if (!data_lora_changes_weight(m))
        return AG_OK;
    if (!pairs_agree(lora, m))
        return ag_fail(ctx, AG_EDATA, "%s: %s: its tensors do not make one weight", data_lora_path(lora),
                       m->spelled);
    got = sides_wanted(lora, m);
    fits = got.o == want.o && (got.k == 0 ? got.i == want.i * want.k : got.i == want.i && got.k == want.k);
    if (!fits)
        return say_misfit(ctx, lora, m, weight, got, want);
    if (magnitude && magnitude->n_values != (m->norm_along_rows ? want.i : want.o))
        return ag_fail(ctx, AG_EDATA, "%s: %s has %lld values, wanted %lld", data_lora_path(lora), magnitude->name,
                       (long long)magnitude->n_values, (long long)(m->norm_along_rows ? want.i : want.o));
    return AG_OK;
}

/* --- matching --------------------------------------------------------------------------------- */

static int64_t bias_of(const data_lora_names *network, const char *module)
{
    char name[DATA_KEY_MAX + 8];

    snprintf(name, sizeof name, "%s.bias", module);
    for (int64_t i = 0; i < network->n; i++)
        if (strcmp(network->list[i].name, name) == 0)
            return i;
    return -1;
}

static ag_status check_bias(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m,
                            const data_lora_names *network)
{
    const data_lora_role roles[] = {DATA_LORA_B_BIAS, DATA_LORA_DIFF_BIAS};
    const int64_t bias = data_lora_changes_bias(m) ? bias_of(network, m->name) : -1;

    for (int i = 0; i < 2; i++) {
        const data_tensor *t = lora_tensor(lora, m, roles[i]);

        if (t && bias < 0)
            return ag_fail(ctx, AG_EDATA, "%s: %s changes a bias, and the model's %s has none", data_lora_path(lora),
                           t->name, m->name);
        if (t && t->n_values != network->list[bias].dims[0])
            return ag_fail(ctx, AG_EDATA, "%s: %s has %lld values, the model's bias %lld", data_lora_path(lora),
                           t->name, (long long)t->n_values, (long long)network->list[bias].dims[0]);
    }
    return AG_OK;
}

static ag_status match_one(ag_ctx *ctx, data_lora *lora, int64_t i, const table *t, int64_t weight)
{
    data_lora_module *m = &lora->modules[i];
    char module[DATA_KEY_MAX];

    (void)module_of(module, t->network->list[weight].name);
    m->component = t->network->component;
    m->name = lora->texts[2 * i + 1] = ag_strdup(ctx, module);
    if (!m->name || lora_check_shape(ctx, lora, m, &t->network->list[weight]) != AG_OK)
        return ag_status_of(ctx);
    return check_bias(ctx, lora, m, t->network);
}

static int compare_modules(const data_lora_module *a, int component, const char *name)
{
    return a->component != component ? (a->component > component) - (a->component < component) : strcmp(a->name, name);
}

static int by_name(const void *a, const void *b, void *user)
{
    const data_lora *lora = user;
    const data_lora_module *x = &lora->modules[*(const int64_t *)a], *y = &lora->modules[*(const int64_t *)b];

    return compare_modules(x, y->component, y->name);
}

static ag_status sort_names(ag_ctx *ctx, data_lora *lora)
{
    ag_delete(lora->by_name);
    lora->n_by_name = 0;
    lora->by_name = ag_new(ctx, (size_t)lora->n, sizeof *lora->by_name, "modules of a LoRA");
    for (int64_t i = 0; lora->by_name && i < lora->n; i++)
        if (lora->modules[i].name)
            lora->by_name[lora->n_by_name++] = i;
    if (lora->n_by_name > 1)
        qsort_r(lora->by_name, (size_t)lora->n_by_name, sizeof *lora->by_name, by_name, lora);
    for (int64_t k = 1; k < lora->n_by_name; k++) {
        const data_lora_module *a = &lora->modules[lora->by_name[k - 1]], *b = &lora->modules[lora->by_name[k]];

        if (compare_modules(a, b->component, b->name) == 0)
            return ag_fail(ctx, AG_EDATA, "%s: %s and %s are the same module, %s", data_lora_path(lora), a->spelled,
                           b->spelled, a->name);
    }
    return ag_status_of(ctx);
}

/* Is the component of this module one that no network was given for? */
static bool is_elsewhere(int component, const data_lora_names *networks, int n)
{
    for (int k = 0; k < n; k++)
        if ((int)networks[k].component == component)
            return false;
    return component >= 0;
}

ag_status data_lora_match(data_lora_matched *out, ag_ctx *ctx, data_lora *lora, const data_lora_names *networks,
                          int n_networks)
{
    table tables[DATA_N_COMPONENTS] = {0};

    *out = (data_lora_matched){0};
    for (int k = 0; k < n_networks && ag_status_of(ctx) == AG_OK; k++)
        make_table(&tables[k], ctx, &networks[k]);
    for (int64_t i = 0; i < lora->n && ag_status_of(ctx) == AG_OK; i++) {
        data_lora_module *m = &lora->modules[i];
        const char *rest;
        const int said = lora_component_of(m->spelled, &rest);

        ag_delete(lora->texts[2 * i + 1]);
        m->name = lora->texts[2 * i + 1] = NULL;
        m->component = said;
        for (int k = 0; k < n_networks && !m->name && ag_status_of(ctx) == AG_OK; k++) {
            const bool may = said < 0 || said == (int)networks[k].component;
            const int64_t weight = may ? look_up(&tables[k], rest) : -1;

            if (weight >= 0 && match_one(ctx, lora, i, &tables[k], weight) == AG_OK)
                out->n[m->component]++;
        }
        m->is_missed = !m->name && !is_elsewhere(said, networks, n_networks);
        out->n_missed += m->is_missed;
        out->n_elsewhere += !m->name && !m->is_missed;
    }
    for (int k = 0; k < n_networks; k++)
        free_table(&tables[k]);
    return ag_status_of(ctx) == AG_OK ? sort_names(ctx, lora) : ag_status_of(ctx);
}

char *data_lora_missed_text(ag_ctx *ctx, const data_lora *lora)
{
    enum { SHOWN = 3 };
    char text[SHOWN * 160] = "";
    int64_t n = 0;

    for (int64_t i = 0; i < lora->n; i++) {
        const data_lora_module *m = &lora->modules[i];
        const size_t used = strlen(text);

        if (!m->is_missed)
            continue;
        if (n++ < SHOWN)
            snprintf(text + used, sizeof text - used, "%s%.150s", used ? ", " : "", m->spelled);
    }
    return n > SHOWN ? ag_printf(ctx, "%s and %lld more", text, (long long)(n - SHOWN)) : ag_strdup(ctx, text);
}

int64_t data_lora_find(const data_lora *lora, data_component component, const char *module)
{
    int64_t low = 0, high = lora->n_by_name;

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const int order = compare_modules(&lora->modules[lora->by_name[middle]], (int)component, module);

        if (order == 0)
            return lora->by_name[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}
