/* lora_write.c - see lora_write.h. */
#include "data/lora_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "data/lora_internal.h"

/* --- names ------------------------------------------------------------------------------------ */

char *data_lora_tensor_name(ag_ctx *ctx, data_lora_dialect dialect, data_component component, const char *module,
                            data_lora_kind kind, data_lora_role role)
{
    const char *ending = lora_ending(dialect, component, module, kind, role);
    char *name;
    size_t prefix;

    if (!ending) {
        ag_fail(ctx, AG_EUNSUPPORTED, "%s: is a %s, which %s's files cannot say; kohya's can", module,
                data_lora_kind_name(kind), data_lora_dialect_name(dialect));
        return NULL;
    }
    if (dialect != DATA_LORA_KOHYA)
        return ag_printf(ctx, "%s.%s%s", data_component_name(component), module, ending);
    name = ag_printf(ctx, "%s%s%s", component == DATA_UNET ? "lora_unet_" : "lora_te_", module, ending);
    prefix = name ? strlen(name) - strlen(ending) : 0;
    for (size_t i = 0; i < prefix; i++)
        if (name[i] == '.')
            name[i] = '_';
    return name;
}

char *data_lora_rename(ag_ctx *ctx, data_lora_dialect dialect, data_component component, const char *peft_name)
{
    lora_key key;

    if (!lora_take_apart(&key, peft_name)) {
        ag_fail(ctx, AG_EINVAL, "%s: is no name of an adapter's tensor", peft_name);
        return NULL;
    }
    return data_lora_tensor_name(ctx, dialect, component, key.stem, DATA_LORA_PLAIN, key.role);
}

/* --- what most modules have ------------------------------------------------------------------- */

static bool is_wide(const data_lora_part *part)
{
    const data_source *a = &part->tensor[DATA_LORA_A];

    return part->has[DATA_LORA_A] && a->n_dims == 4 && (a->dims[2] > 1 || a->dims[3] > 1);
}

static bool counts(const data_lora_part *part, int component, int wide)
{
    return part->rank > 0 && (component < 0 || (int)part->component == component) &&
           (wide < 0 || is_wide(part) == (wide == 1));
}

/* The rank and alpha that most parts have, of a component or all (-1), of convolutions wider than 1x1, the others, or
 * all (-1). NULL: there are none. */
static const data_lora_part *usual(const data_lora_part *parts, int64_t n, int component, int wide)
{
    const data_lora_part *best = NULL;
    int64_t most = 0;

    for (int64_t i = 0; i < n; i++) {
        int64_t same = 0;

        if (!counts(&parts[i], component, wide) ||
            (best && best->rank == parts[i].rank && best->alpha == parts[i].alpha))
            continue;
        for (int64_t k = 0; k < n; k++)
            same += counts(&parts[k], component, wide) && parts[k].rank == parts[i].rank &&
                    parts[k].alpha == parts[i].alpha;
        if (same > most) {
            most = same;
            best = &parts[i];
        }
    }
    return best;
}

/* --- lora_adapter_metadata -------------------------------------------------------------------- */

static json_t *number(double value)
{
    return value == floor(value) && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
}

/* The module as both older and newer text models end in: without the outer word. */
static const char *short_name(const data_lora_part *part)
{
    static const char outer[] = "text_model.";

    return strncmp(part->module, outer, strlen(outer)) == 0 ? part->module + strlen(outer) : part->module;
}

static void set(json_t *object, const char *component, const char *key, json_t *value)
{
    char full[64];

    snprintf(full, sizeof full, "%s.%s", component, key);
    (void)json_object_set_new(object, full, value);
}

static void describe_component(json_t *root, const data_lora_part *parts, int64_t n, data_component component)
{
    const data_lora_part *most = usual(parts, n, (int)component, -1);
    const char *name = data_component_name(component);
    json_t *ranks = json_object(), *alphas = json_object(), *targets = json_array();
    bool dora = false, bias = false;

    for (int64_t i = 0; most && i < n; i++) {
        const data_lora_part *p = &parts[i];

        if (!counts(p, (int)component, -1))
            continue;
        json_array_append_new(targets, json_string(short_name(p)));
        if (p->rank != most->rank)
            json_object_set_new(ranks, short_name(p), json_integer(p->rank));
        if (p->alpha != most->alpha)
            json_object_set_new(alphas, short_name(p), number(p->alpha));
        dora = dora || p->has[DATA_LORA_MAGNITUDE];
        bias = bias || p->has[DATA_LORA_B_BIAS];
    }
    if (most) {
        set(root, name, "r", json_integer(most->rank));
        set(root, name, "lora_alpha", number(most->alpha));
        set(root, name, "rank_pattern", json_incref(ranks));
        set(root, name, "alpha_pattern", json_incref(alphas));
        set(root, name, "target_modules", json_incref(targets));
        set(root, name, "use_dora", json_boolean(dora));
        set(root, name, "use_rslora", json_false());
        set(root, name, "lora_bias", json_boolean(bias));
    }
    json_decref(ranks);
    json_decref(alphas);
    json_decref(targets);
}

/* --- the header ------------------------------------------------------------------------------- */

typedef struct header {
    ag_ctx *ctx;
    const data_pair *given;
    int64_t n_given;
    data_pair *pairs;
    int64_t n;
    char **texts; /* the values that were made here */
} header;

enum { MOST_MADE = 16 };

/* Takes the value over. */
static void add(header *h, const char *key, char *value)
{
    bool said = !value;

    for (int64_t i = 0; i < h->n_given; i++)
        said = said || strcmp(h->given[i].key, key) == 0;
    if (said) {
        ag_delete(value);
        return;
    }
    h->texts[h->n - h->n_given] = value;
    h->pairs[h->n++] = (data_pair){key, value};
}

/* The text of a JSON value; ends the value. */
static char *dumped(ag_ctx *ctx, json_t *value, int indent)
{
    char *text = data_json_dump(ctx, value, indent);

    json_decref(value);
    return text;
}

/* Stable Diffusion 2 by the width of a text. */
static bool is_second(const data_lora_part *parts, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const data_lora_part *p = &parts[i];
        const data_source *a = p->has[DATA_LORA_A] ? &p->tensor[DATA_LORA_A] : &p->tensor[DATA_LORA_W1_B];
        const bool reads_text = p->component == DATA_TEXT_ENCODER
                                    ? strstr(p->module, ".q_proj") || strstr(p->module, ".fc1")
                                    : strstr(p->module, ".attn2.to_k") || strstr(p->module, ".attn2.to_v");

        if (reads_text && p->rank > 0 && a->n_dims > 1 && a->dims[1] == 1024)
            return true;
    }
    return false;
}

static const char *given(const header *h, const char *key, const char *otherwise)
{
    for (int64_t i = 0; i < h->n_given; i++)
        if (strcmp(h->given[i].key, key) == 0)
            return h->given[i].value;
    return otherwise;
}

static void describe_training(header *h, const data_lora_part *parts, int64_t n, bool second)
{
    const data_lora_part *most = usual(parts, n, -1, 0), *wide = usual(parts, n, -1, 1);
    const data_lora_part *any = most ? most : wide;
    const char *algorithm = NULL;

    for (int64_t i = 0; i < n && !algorithm; i++)
        if (parts[i].kind != DATA_LORA_PLAIN || parts[i].has[DATA_LORA_MAGNITUDE])
            algorithm = parts[i].kind == DATA_LORA_BIAS_ONLY || parts[i].kind == DATA_LORA_WHOLE
                            ? "full"
                            : data_lora_kind_name(parts[i].kind);
    if (any) {
        add(h, "ss_network_dim", ag_printf(h->ctx, "%lld", (long long)any->rank));
        add(h, "ss_network_alpha", ag_printf(h->ctx, "%.9g", any->alpha));
    }
    add(h, "ss_network_module", ag_strdup(h->ctx, algorithm ? "lycoris.kohya" : "networks.lora"));
    add(h, "ss_base_model_version", ag_strdup(h->ctx, second ? "sd_v2" : "sd_v1"));
    add(h, "ss_v2", ag_strdup(h->ctx, second ? "True" : "False"));
    if (wide || algorithm) {
        json_t *args = json_object();
        char text[32];

        if (algorithm)
            json_object_set_new(args, "algo", json_string(algorithm));
        if (wide) {
            snprintf(text, sizeof text, "%lld", (long long)wide->rank);
            json_object_set_new(args, "conv_dim", json_string(text));
            snprintf(text, sizeof text, "%.9g", wide->alpha);
            json_object_set_new(args, "conv_alpha", json_string(text));
        }
        add(h, "ss_network_args", dumped(h->ctx, args, 0));
    }
}

static void describe_model(header *h, const char *path, bool second)
{
    const char *version = given(h, "ss_base_model_version", second ? "sd_v2" : "sd_v1");
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');
    const bool v = strcmp(version, "sd_v2_v") == 0;

    add(h, "modelspec.sai_model_spec", ag_strdup(h->ctx, "1.0.1"));
    add(h, "modelspec.architecture",
        ag_strdup(h->ctx, v                                ? "stable-diffusion-v2-768-v/lora"
                          : strcmp(version, "sd_v2") == 0 ? "stable-diffusion-v2-512/lora"
                                                           : "stable-diffusion-v1/lora"));
    add(h, "modelspec.implementation", ag_strdup(h->ctx, "diffusers"));
    add(h, "modelspec.title", ag_printf(h->ctx, "%.*s", (int)(dot ? (size_t)(dot - name) : strlen(name)), name));
    add(h, "modelspec.resolution", ag_strdup(h->ctx, v ? "768x768" : "512x512"));
    add(h, "modelspec.prediction_type", ag_strdup(h->ctx, v ? "v" : "epsilon"));
}

static ag_status make_header(header *h, const char *path, data_lora_dialect dialect, const data_lora_part *parts,
                             int64_t n)
{
    const bool second = is_second(parts, n);

    h->pairs = ag_new(h->ctx, (size_t)h->n_given + MOST_MADE, sizeof *h->pairs, "metadata");
    h->texts = ag_new(h->ctx, MOST_MADE, sizeof *h->texts, "metadata");
    if (!h->pairs || !h->texts)
        return ag_status_of(h->ctx);
    for (; h->n < h->n_given; h->n++)
        h->pairs[h->n] = h->given[h->n];
    if (dialect == DATA_LORA_KOHYA) {
        describe_training(h, parts, n, second);
    } else {
        json_t *root = json_object();

        describe_component(root, parts, n, DATA_UNET);
        describe_component(root, parts, n, DATA_TEXT_ENCODER);
        add(h, "lora_adapter_metadata", dumped(h->ctx, root, 2));
    }
    describe_model(h, path, second);
    return ag_status_of(h->ctx);
}

static void free_header(header *h)
{
    for (int i = 0; h->texts && i < MOST_MADE; i++)
        ag_delete(h->texts[i]);
    ag_delete(h->texts);
    ag_delete(h->pairs);
}

/* --- the file --------------------------------------------------------------------------------- */

typedef struct file {
    data_source *sources;
    char **names;
    float *alphas;
    int64_t (*shapes)[LORA_MAX_DIMS]; /* of magnitudes */
    int64_t n;
} file;

/* The magnitude's values in the shape that the dialect's readers expect: n_dims is that of the weight's factors. */
static void shape_magnitude(data_source *s, int64_t *shape, data_lora_dialect dialect, const data_lora_part *part)
{
    const int n_dims = part->has[DATA_LORA_A] ? part->tensor[DATA_LORA_A].n_dims : 2;
    int64_t n = 1;
    int axis = 0;

    for (int d = 0; d < s->n_dims; d++)
        n *= s->dims[d];
    s->n_dims = n_dims;
    if (dialect == DATA_LORA_KOHYA)
        axis = part->norm_along_rows ? 1 : 0;
    else if (n_dims > 2)
        axis = 1;
    else
        s->n_dims = 1;
    for (int d = 0; d < s->n_dims; d++)
        shape[d] = d == axis ? n : 1;
    s->dims = shape;
}

static ag_status add_tensor(file *f, ag_ctx *ctx, data_lora_dialect dialect, const data_lora_part *part,
                            data_lora_role role)
{
    data_source *s = &f->sources[f->n];

    f->names[f->n] = data_lora_tensor_name(ctx, dialect, part->component, part->module, part->kind, role);
    if (!f->names[f->n])
        return ag_status_of(ctx);
    *s = part->tensor[role];
    if (role == DATA_LORA_ALPHA) {
        f->alphas[f->n] = (float)part->alpha;
        *s = (data_source){.dtype = DATA_F32, .values = &f->alphas[f->n], .dims = f->shapes[f->n]};
    } else if (role == DATA_LORA_MAGNITUDE) {
        shape_magnitude(s, f->shapes[f->n], dialect, part);
    }
    s->name = f->names[f->n++];
    return AG_OK;
}

static ag_status add_part(file *f, ag_ctx *ctx, data_lora_dialect dialect, const data_lora_part *part)
{
    if (part->norm_along_rows && dialect != DATA_LORA_KOHYA)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: its magnitudes are of inputs, which only kohya's files can say",
                       part->module);
    for (int role = 0; role < DATA_LORA_ALPHA; role++)
        if (part->has[role] && add_tensor(f, ctx, dialect, part, (data_lora_role)role) != AG_OK)
            return ag_status_of(ctx);
    if (dialect == DATA_LORA_KOHYA && part->rank > 0)
        return add_tensor(f, ctx, dialect, part, DATA_LORA_ALPHA);
    return AG_OK;
}

/* In diffusers' dialect, those with its own names come first: its loader takes the first name of the U-Net for a sign of
 * all, and would drop them behind one of PEFT's. (huggingface/diffusers: src/diffusers/loaders/peft.py,
 * load_lora_adapter) */
static ag_status add_parts(file *f, ag_ctx *ctx, data_lora_dialect dialect, const data_lora_part *parts, int64_t n)
{
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
            const char *ending = lora_ending(dialect, parts[i].component, parts[i].module, parts[i].kind, DATA_LORA_A);
            const bool is_second = dialect == DATA_LORA_DIFFUSERS && ending && strcmp(ending, ".lora_A.weight") == 0;

            if (is_second == (pass == 1))
                add_part(f, ctx, dialect, &parts[i]);
        }
    return ag_status_of(ctx);
}

ag_status data_lora_write(ag_ctx *ctx, const char *path, data_lora_dialect dialect, const data_lora_part *parts,
                          int64_t n, const data_pair *metadata, int64_t n_metadata)
{
    const size_t most = (size_t)n * DATA_LORA_N_ROLES;
    header h = {.ctx = ctx, .given = metadata, .n_given = n_metadata};
    file f = {0};

    f.sources = ag_new(ctx, most, sizeof *f.sources, "tensors of a LoRA");
    f.names = ag_new(ctx, most, sizeof *f.names, "tensors of a LoRA");
    f.alphas = ag_new(ctx, most, sizeof *f.alphas, "tensors of a LoRA");
    f.shapes = ag_new(ctx, most, sizeof *f.shapes, "tensors of a LoRA");
    if (ag_status_of(ctx) == AG_OK)
        make_header(&h, path, dialect, parts, n);
    if (ag_status_of(ctx) == AG_OK && add_parts(&f, ctx, dialect, parts, n) == AG_OK)
        data_safetensors_write(ctx, path, f.sources, f.n, h.pairs, h.n);
    free_header(&h);
    for (int64_t i = 0; i < f.n; i++)
        ag_delete(f.names[i]);
    ag_delete(f.shapes);
    ag_delete(f.alphas);
    ag_delete(f.names);
    ag_delete(f.sources);
    return ag_status_of(ctx);
}
