/* lora_file.c - LoRA files opened: which file it is, its tensors by module, alpha. See lora_file.h. */
#include "data/lora_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/file.h"
#include "data/lora_internal.h"

/* --- which file ------------------------------------------------------------------------------- */

static const char ADAPTER_CONFIG[] = "adapter_config.json";
static const char METADATA_KEY[] = "lora_adapter_metadata";

bool data_lora_is(const data_weights *weights)
{
    lora_key key;

    for (int64_t i = 0; i < data_weights_count(weights); i++)
        if (lora_take_apart(&key, data_weights_at(weights, i)->name) && key.role != DATA_LORA_ALPHA)
            return true;
    return false;
}

/* folder/name, when such a file is there. */
static char *file_in(ag_ctx *ctx, const char *folder, const char *name)
{
    char *path = ag_printf(ctx, "%s/%s", folder, name);

    if (path && data_is_file(path))
        return path;
    ag_delete(path);
    return NULL;
}

bool data_lora_is_folder(const char *path)
{
    static const char *const names[] = {"adapter_config.json", "pytorch_lora_weights.safetensors",
                                        "pytorch_lora_weights.bin"};
    char full[4096];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (snprintf(full, sizeof full, "%s/%s", path, names[i]) < (int)sizeof full && data_is_file(full))
            return true;
    return false;
}

static bool counts(const char *name)
{
    return !strstr(name, "scheduler") && !strstr(name, "optimizer") && !strstr(name, "checkpoint");
}

/* The only file of that ending, or the one of the usual name. NULL without a failure: none. */
static char *choose_file(ag_ctx *ctx, const char *folder, const char *usual, const char *ending)
{
    char **names = NULL, *path = file_in(ctx, folder, usual), *only = NULL;
    int64_t n = 0;

    if (path || ag_status_of(ctx) != AG_OK ||
        data_folder_list(&names, &n, ctx, folder, (const char *const[]){ending, NULL}) != AG_OK)
        return path;
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
        if (!counts(names[i]))
            continue;
        if (only)
            ag_fail(ctx, AG_EDATA, "%s: holds %s and %s: name the file that is meant", folder, only, names[i]);
        else
            only = names[i];
    }
    if (only && ag_status_of(ctx) == AG_OK)
        path = ag_printf(ctx, "%s/%s", folder, only);
    ag_delete(names);
    return path;
}

static char *find_file(ag_ctx *ctx, const char *path)
{
    char *config, *found;

    if (!data_is_folder(path))
        return ag_strdup(ctx, path);
    config = file_in(ctx, path, ADAPTER_CONFIG);
    found = choose_file(ctx, path, config ? "adapter_model.safetensors" : "pytorch_lora_weights.safetensors",
                        ".safetensors");
    if (!found && ag_status_of(ctx) == AG_OK)
        found = choose_file(ctx, path, config ? "adapter_model.bin" : "pytorch_lora_weights.bin", ".bin");
    if (!found && ag_status_of(ctx) == AG_OK)
        ag_fail(ctx, AG_EIO, "%s: a folder without a LoRA, wanted %s in it", path,
                config ? "adapter_model.safetensors" : "pytorch_lora_weights.safetensors");
    ag_delete(config);
    return found;
}

/* --- its tensors by module -------------------------------------------------------------------- */

typedef struct listed {
    lora_key *key;
    int64_t tensor;
} listed;

static int by_stem(const void *a, const void *b)
{
    const listed *x = a, *y = b;
    const int order = strcmp(x->key->stem, y->key->stem);

    return order ? order : (x->tensor > y->tensor) - (x->tensor < y->tensor);
}

static ag_status unknown_tensor(ag_ctx *ctx, const data_weights *w, int64_t first)
{
    const char *name = data_weights_at(w, first)->name;
    lora_key key;
    int64_t more = 0;

    for (int64_t i = first + 1; i < data_weights_count(w); i++)
        more += !lora_take_apart(&key, data_weights_at(w, i)->name);
    return ag_fail(ctx, data_lora_is(w) ? AG_EUNSUPPORTED : AG_EDATA,
                   "%s: %.120s is no LoRA's tensor of a kind that is known here, nor are %lld more",
                   data_weights_path(w), name, (long long)more);
}

static ag_status start_module(ag_ctx *ctx, data_lora *lora, const char *stem)
{
    data_lora_module *m = &lora->modules[lora->n];
    const char *module;

    for (int role = 0; role < DATA_LORA_N_ROLES; role++)
        m->tensor[role] = -1;
    m->spelled = lora->texts[2 * lora->n] = ag_strdup(ctx, stem);
    m->component = lora_component_of(stem, &module);
    lora->n++;
    return ag_status_of(ctx);
}

static ag_status add_tensor(ag_ctx *ctx, data_lora *lora, const listed *l)
{
    data_lora_module *m = &lora->modules[lora->n - 1];
    const char *path = data_weights_path(lora->weights);

    if (m->tensor[l->key->role] >= 0)
        return ag_fail(ctx, AG_EDATA, "%s: %s and %s are the same of one module", path,
                       data_weights_at(lora->weights, m->tensor[l->key->role])->name,
                       data_weights_at(lora->weights, l->tensor)->name);
    m->tensor[l->key->role] = l->tensor;
    if (l->key->kind == LORA_ANY_KIND)
        return AG_OK;
    if (m->kind != DATA_LORA_BIAS_ONLY && m->kind != (data_lora_kind)l->key->kind)
        return ag_fail(ctx, AG_EDATA, "%s: %s has tensors of two kinds, %s and %s", path, m->spelled,
                       data_lora_kind_name(m->kind), data_lora_kind_name((data_lora_kind)l->key->kind));
    m->kind = (data_lora_kind)l->key->kind;
    return AG_OK;
}

/* The dialect of all: the most particular of the names. */
static data_lora_dialect common_dialect(const lora_key *keys, int64_t n)
{
    static const data_lora_dialect order[] = {DATA_LORA_KOHYA, DATA_LORA_OLD_DIFFUSERS, DATA_LORA_DIFFUSERS};

    for (size_t k = 0; k < sizeof order / sizeof *order; k++)
        for (int64_t i = 0; i < n; i++)
            if (keys[i].dialect == order[k])
                return order[k];
    return DATA_LORA_PEFT;
}

static ag_status group(ag_ctx *ctx, data_lora *lora)
{
    const data_weights *w = lora->weights;
    const int64_t n = data_weights_count(w);
    lora_key *keys;
    listed *list;

    if (n < 1 || n > LORA_MAX_TENSORS)
        return ag_fail(ctx, AG_EDATA, "%s: holds %lld tensors, a LoRA has 1 to %d", data_weights_path(w),
                       (long long)n, LORA_MAX_TENSORS);
    keys = ag_new(ctx, (size_t)n, sizeof *keys, "names of a LoRA");
    list = ag_new(ctx, (size_t)n, sizeof *list, "names of a LoRA");
    lora->modules = ag_new(ctx, (size_t)n, sizeof *lora->modules, "modules of a LoRA");
    lora->texts = ag_new(ctx, 2 * (size_t)n, sizeof *lora->texts, "modules of a LoRA");
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
        list[i] = (listed){.key = &keys[i], .tensor = i};
        if (!lora_take_apart(&keys[i], data_weights_at(w, i)->name))
            unknown_tensor(ctx, w, i);
    }
    if (ag_status_of(ctx) == AG_OK) {
        qsort(list, (size_t)n, sizeof *list, by_stem);
        lora->dialect = common_dialect(keys, n);
    }
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++)
        if ((i > 0 && strcmp(list[i - 1].key->stem, list[i].key->stem) == 0) ||
            start_module(ctx, lora, list[i].key->stem) == AG_OK)
            add_tensor(ctx, lora, &list[i]);
    ag_delete(list);
    ag_delete(keys);
    return ag_status_of(ctx);
}

/* --- shapes within a module ------------------------------------------------------------------- */

const data_tensor *lora_tensor(const data_lora *lora, const data_lora_module *m, data_lora_role role)
{
    return m->tensor[role] < 0 ? NULL : data_weights_at(lora->weights, m->tensor[role]);
}

typedef struct roles {
    data_lora_role role[4];
    int n;
} roles;

/* Every tensor of the list must be there, or the message names the half that is missing. */
static ag_status want(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m, roles wanted)
{
    static const char *const names[] = {
        [DATA_LORA_A] = "lora_down (lora_A)", [DATA_LORA_B] = "lora_up (lora_B)", [DATA_LORA_W1_A] = "w1_a",
        [DATA_LORA_W1_B] = "w1_b",            [DATA_LORA_W2_A] = "w2_a",          [DATA_LORA_W2_B] = "w2_b",
        [DATA_LORA_T1] = "t1",                [DATA_LORA_T2] = "t2"};

    for (int i = 0; i < wanted.n; i++)
        if (m->tensor[wanted.role[i]] < 0)
            return ag_fail(ctx, AG_EDATA, "%s: %s lacks its %s", data_weights_path(lora->weights), m->spelled,
                           names[wanted.role[i]]);
    return AG_OK;
}

static bool has(const data_lora_module *m, data_lora_role role)
{
    return m->tensor[role] >= 0;
}

static ag_status complete(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m)
{
    const bool core = has(m, DATA_LORA_T1) || has(m, DATA_LORA_T2);

    switch (m->kind) {
    case DATA_LORA_PLAIN:
        return want(ctx, lora, m, (roles){{DATA_LORA_A, DATA_LORA_B}, 2});
    case DATA_LORA_HADAMARD:
        if (core && want(ctx, lora, m, (roles){{DATA_LORA_T1, DATA_LORA_T2}, 2}) != AG_OK)
            return AG_EDATA;
        return want(ctx, lora, m, (roles){{DATA_LORA_W1_A, DATA_LORA_W1_B, DATA_LORA_W2_A, DATA_LORA_W2_B}, 4});
    case DATA_LORA_KRONECKER:
        if ((has(m, DATA_LORA_W1) && (has(m, DATA_LORA_W1_A) || has(m, DATA_LORA_W1_B))) ||
            (has(m, DATA_LORA_W2) && (has(m, DATA_LORA_W2_A) || has(m, DATA_LORA_W2_B) || core)))
            return ag_fail(ctx, AG_EDATA, "%s: %s has a factor both whole and taken apart",
                           data_weights_path(lora->weights), m->spelled);
        if (!has(m, DATA_LORA_W1) && want(ctx, lora, m, (roles){{DATA_LORA_W1_A, DATA_LORA_W1_B}, 2}) != AG_OK)
            return AG_EDATA;
        if (!has(m, DATA_LORA_W2) && want(ctx, lora, m, (roles){{DATA_LORA_W2_A, DATA_LORA_W2_B}, 2}) != AG_OK)
            return AG_EDATA;
        return AG_OK;
    default:
        if (!has(m, DATA_LORA_DIFF) && !has(m, DATA_LORA_DIFF_BIAS))
            return ag_fail(ctx, AG_EDATA, "%s: %s has an alpha or a magnitude and no factors",
                           data_weights_path(lora->weights), m->spelled);
        return AG_OK;
    }
}

static ag_status check_tensors(ag_ctx *ctx, const data_lora *lora, const data_lora_module *m)
{
    for (int role = 0; role < DATA_LORA_ALPHA; role++) {
        const data_tensor *t = lora_tensor(lora, m, (data_lora_role)role);

        if (!t)
            continue;
        if (!data_dtype_is_float(t->dtype))
            return ag_fail(ctx, AG_EDTYPE, "%s: %s is %s, wanted a floating type", data_weights_path(lora->weights),
                           t->name, t->dtype_name);
        if (t->n_dims < 1 || t->n_dims > LORA_MAX_DIMS || t->n_values < 1 || t->n_values > LORA_MAX_VALUES)
            return ag_fail(ctx, AG_EDATA, "%s: %s has a shape that is no LoRA's", data_weights_path(lora->weights),
                           t->name);
    }
    return AG_OK;
}

/* The rank: the first axis of the factor on the input's side, which must be the last of the other one's. */
static ag_status settle_rank(ag_ctx *ctx, const data_lora *lora, data_lora_module *m)
{
    static const struct {
        data_lora_role down, up, core;
    } PAIRS[] = {{DATA_LORA_A, DATA_LORA_B, DATA_LORA_MID},
                 {DATA_LORA_W1_B, DATA_LORA_W1_A, DATA_LORA_T1},
                 {DATA_LORA_W2_B, DATA_LORA_W2_A, DATA_LORA_T2}};

    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++) {
        const data_tensor *down = lora_tensor(lora, m, PAIRS[i].down), *up = lora_tensor(lora, m, PAIRS[i].up);
        const data_tensor *core = lora_tensor(lora, m, PAIRS[i].core);
        /* with a core the lists of LoHa and LoKr are [r,O], else [O,r] */
        const bool turned = core && PAIRS[i].core != DATA_LORA_MID;
        int64_t rank, up_rank;

        if (!down)
            continue;
        rank = down->dims[0];
        up_rank = turned ? up->dims[0] : up->n_values / up->dims[0];
        if (core && (core->n_dims < 3 || core->dims[0] != up_rank || core->dims[1] != rank))
            return ag_fail(ctx, AG_EDATA, "%s: %s: its factors have ranks %lld and %lld, what is between them another",
                           data_weights_path(lora->weights), m->spelled, (long long)up_rank, (long long)rank);
        if (!core && up_rank != rank)
            return ag_fail(ctx, AG_EDATA, "%s: %s: rank %lld on the input's side and %lld on the output's",
                           data_weights_path(lora->weights), m->spelled, (long long)rank, (long long)up_rank);
        if (rank > LORA_MAX_RANK)
            return ag_fail(ctx, AG_EDATA, "%s: %s: rank %lld, wanted at most %d", data_weights_path(lora->weights),
                           m->spelled, (long long)rank, LORA_MAX_RANK);
        m->rank = rank;
    }
    return AG_OK;
}

/* --- alpha ------------------------------------------------------------------------------------ */

static ag_status read_number(double *out, ag_ctx *ctx, const data_lora *lora, int64_t i)
{
    const data_tensor *t = data_weights_at(lora->weights, i);
    float real;
    union {
        int64_t i64;
        int32_t i32;
    } whole = {0};

    if (t->n_values != 1)
        return ag_fail(ctx, AG_EDATA, "%s: %s holds %lld values, wanted one", data_weights_path(lora->weights),
                       t->name, (long long)t->n_values);
    if (data_dtype_is_float(t->dtype)) {
        data_weights_read_f32(ctx, lora->weights, i, &real);
        *out = ag_status_of(ctx) == AG_OK ? real : 0.0;
    } else if (t->dtype == DATA_I64 || t->dtype == DATA_I32) {
        data_weights_read(ctx, lora->weights, i, &whole);
        *out = t->dtype == DATA_I64 ? (double)whole.i64 : (double)whole.i32;
    } else {
        ag_fail(ctx, AG_EDTYPE, "%s: %s is %s, wanted a number", data_weights_path(lora->weights), t->name,
                t->dtype_name);
    }
    if (ag_status_of(ctx) == AG_OK && !isfinite(*out))
        ag_fail(ctx, AG_EDATA, "%s: %s is not a finite number", data_weights_path(lora->weights), t->name);
    return ag_status_of(ctx);
}

/* The configuration that speaks of a component. */
static lora_config config_of(const data_lora *lora, int component)
{
    const char *prefix = "";

    if (lora->config_has_prefixes)
        prefix = component == DATA_TEXT_ENCODER ? "text_encoder." : "unet.";
    return (lora_config){.root = lora->config, .file = lora->config_file, .prefix = prefix};
}

static ag_status settle_scale(ag_ctx *ctx, data_lora *lora, data_lora_module *m)
{
    const lora_config config = config_of(lora, m->component);
    const char *module;

    m->scale = 1.0;
    if (m->tensor[DATA_LORA_ALPHA] >= 0) {
        if (read_number(&m->alpha, ctx, lora, m->tensor[DATA_LORA_ALPHA]) != AG_OK)
            return ag_status_of(ctx);
        m->alpha_said = true;
        if (m->alpha == 0.0) /* kohya: the rank */
            m->alpha = (double)m->rank;
    }
    if (m->rank == 0)
        return AG_OK; /* what is stored whole is taken whole */
    if (m->alpha_said) {
        m->scale = m->alpha / (double)m->rank;
    } else {
        (void)lora_component_of(m->spelled, &module);
        if (lora_config_scale(&m->scale, &m->alpha_said, ctx, &config, module, m->rank) != AG_OK)
            return ag_status_of(ctx);
        m->alpha = m->scale * (double)m->rank;
        lora->n_without_alpha += !m->alpha_said && lora->dialect == DATA_LORA_KOHYA;
    }
    return AG_OK;
}

/* dora_scale [1,I] with the norm along O; the usual [O], [O,1..], [1,O,1,1] of PEFT's convolutions without. Which of
 * the two a four-axis magnitude is, its name says. */
static ag_status settle_magnitude(ag_ctx *ctx, const data_lora *lora, data_lora_module *m)
{
    const data_tensor *t = lora_tensor(lora, m, DATA_LORA_MAGNITUDE);
    const size_t n = t ? strlen(t->name) : 0;
    const bool kohya = t && n > strlen("dora_scale") && strcmp(t->name + n - strlen("dora_scale"), "dora_scale") == 0;
    int64_t longest = 1;

    if (!t)
        return AG_OK;
    if (m->kind == DATA_LORA_BIAS_ONLY || m->kind == DATA_LORA_WHOLE)
        return ag_fail(ctx, AG_EDATA, "%s: %s has a magnitude and no factors", data_weights_path(lora->weights),
                       m->spelled);
    for (int d = 0; d < t->n_dims; d++)
        longest = t->dims[d] > longest ? t->dims[d] : longest;
    if (longest != t->n_values)
        return ag_fail(ctx, AG_EDATA, "%s: %s wants one axis that is not 1", data_weights_path(lora->weights),
                       t->name);
    m->norm_along_rows = kohya && t->n_dims > 1 && t->dims[0] == 1 && longest > 1;
    return AG_OK;
}

/* --- opening ---------------------------------------------------------------------------------- */

/* The adapter_config.json that belongs to a file of PEFT's; NULL: none. */
static char *config_beside(ag_ctx *ctx, const char *file)
{
    const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
    char *folder, *path;

    if (strncmp(name, "adapter_model.", strlen("adapter_model.")) != 0)
        return NULL;
    folder = slash ? ag_printf(ctx, "%.*s", (int)(slash - file), file) : ag_strdup(ctx, ".");
    path = folder ? file_in(ctx, folder, ADAPTER_CONFIG) : NULL;
    ag_delete(folder);
    return path;
}

static ag_status read_config(ag_ctx *ctx, data_lora *lora)
{
    char *path = config_beside(ctx, data_weights_path(lora->weights));
    const char *text = data_weights_metadata(lora->weights, METADATA_KEY);

    if (path && data_json_read(&lora->config, ctx, path, DATA_JSON_CONFIG_BYTES) == AG_OK)
        lora->config_file = ag_strdup(ctx, path);
    ag_delete(path);
    if (!lora->config && text && ag_status_of(ctx) == AG_OK) {
        lora->config_file = ag_printf(ctx, "%s: %s", data_weights_path(lora->weights), METADATA_KEY);
        lora->config_has_prefixes = true;
        if (lora->config_file)
            data_json_parse(&lora->config, ctx, lora->config_file, text, strlen(text));
    }
    for (int c = 0; c < DATA_N_COMPONENTS && ag_status_of(ctx) == AG_OK; c++) {
        const lora_config config = config_of(lora, c);

        lora_config_check(ctx, &config);
    }
    return ag_status_of(ctx);
}

ag_status data_lora_from_weights(data_lora **out, ag_ctx *ctx, data_weights *weights)
{
    data_lora *lora = ag_new(ctx, 1, sizeof *lora, "LoRA");

    if (!lora) {
        data_weights_close(weights);
        return ag_status_of(ctx);
    }
    lora->weights = weights;
    if (read_config(ctx, lora) == AG_OK)
        group(ctx, lora);
    for (int64_t i = 0; i < lora->n && ag_status_of(ctx) == AG_OK; i++) {
        data_lora_module *m = &lora->modules[i];

        if (check_tensors(ctx, lora, m) == AG_OK && complete(ctx, lora, m) == AG_OK &&
            settle_rank(ctx, lora, m) == AG_OK && settle_scale(ctx, lora, m) == AG_OK)
            settle_magnitude(ctx, lora, m);
    }
    if (ag_status_of(ctx) != AG_OK) {
        data_lora_close(lora);
        return ag_status_of(ctx);
    }
    *out = lora;
    return AG_OK;
}

ag_status data_lora_open(data_lora **out, ag_ctx *ctx, const char *path)
{
    char *file = find_file(ctx, path);
    data_weights *weights = NULL;

    if (file && data_weights_open(&weights, ctx, file) == AG_OK)
        data_lora_from_weights(out, ctx, weights);
    ag_delete(file);
    return ag_status_of(ctx);
}

void data_lora_close(data_lora *lora)
{
    if (!lora)
        return;
    for (int64_t i = 0; lora->texts && i < 2 * lora->n; i++)
        ag_delete(lora->texts[i]);
    ag_delete(lora->texts);
    ag_delete(lora->modules);
    ag_delete(lora->by_name);
    ag_delete(lora->config_file);
    json_decref(lora->config);
    data_weights_close(lora->weights);
    ag_delete(lora);
}

data_weights *data_lora_weights(const data_lora *lora)
{
    return lora->weights;
}

const char *data_lora_path(const data_lora *lora)
{
    return data_weights_path(lora->weights);
}

data_lora_dialect data_lora_dialect_of(const data_lora *lora)
{
    return lora->dialect;
}

int64_t data_lora_count(const data_lora *lora)
{
    return lora->n;
}

const data_lora_module *data_lora_at(const data_lora *lora, int64_t i)
{
    return &lora->modules[i];
}

int64_t data_lora_n_without_alpha(const data_lora *lora)
{
    return lora->n_without_alpha;
}
