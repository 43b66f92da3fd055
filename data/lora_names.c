/* lora_names.c - the names of LoRA tensors taken apart: module, role, dialect. See lora_internal.h. */
#include <stdio.h>
#include <string.h>

#include "data/lora_internal.h"

const char *data_lora_dialect_name(data_lora_dialect dialect)
{
    static const char *const names[] = {"diffusers", "peft", "kohya", "old diffusers"};

    return names[dialect];
}

const char *data_lora_kind_name(data_lora_kind kind)
{
    static const char *const names[] = {"bias", "lora", "loha", "lokr", "diff"};

    return names[kind];
}

typedef struct ending {
    const char *text;
    data_lora_role role;
    int kind;
    data_lora_dialect dialect; /* where the prefix does not say kohya */
} ending;

static const ending ENDINGS[] = {
    {".lora_down.weight", DATA_LORA_A, DATA_LORA_PLAIN, DATA_LORA_KOHYA},
    {".lora_up.weight", DATA_LORA_B, DATA_LORA_PLAIN, DATA_LORA_KOHYA},
    {".lora_mid.weight", DATA_LORA_MID, DATA_LORA_PLAIN, DATA_LORA_KOHYA},
    {".lora.down.weight", DATA_LORA_A, DATA_LORA_PLAIN, DATA_LORA_DIFFUSERS},
    {".lora.up.weight", DATA_LORA_B, DATA_LORA_PLAIN, DATA_LORA_DIFFUSERS},
    {".lora_linear_layer.down.weight", DATA_LORA_A, DATA_LORA_PLAIN, DATA_LORA_DIFFUSERS},
    {".lora_linear_layer.up.weight", DATA_LORA_B, DATA_LORA_PLAIN, DATA_LORA_DIFFUSERS},
    {".lora_A.weight", DATA_LORA_A, DATA_LORA_PLAIN, DATA_LORA_PEFT},
    {".lora_B.weight", DATA_LORA_B, DATA_LORA_PLAIN, DATA_LORA_PEFT},
    {".lora_B.bias", DATA_LORA_B_BIAS, DATA_LORA_PLAIN, DATA_LORA_PEFT},
    {"_lora.down.weight", DATA_LORA_A, DATA_LORA_PLAIN, DATA_LORA_OLD_DIFFUSERS},
    {"_lora.up.weight", DATA_LORA_B, DATA_LORA_PLAIN, DATA_LORA_OLD_DIFFUSERS},
    {".lora_magnitude_vector", DATA_LORA_MAGNITUDE, LORA_ANY_KIND, DATA_LORA_PEFT},
    {".lora_magnitude_vector.weight", DATA_LORA_MAGNITUDE, LORA_ANY_KIND, DATA_LORA_PEFT},
    {".dora_scale", DATA_LORA_MAGNITUDE, LORA_ANY_KIND, DATA_LORA_KOHYA},
    {".hada_w1_a", DATA_LORA_W1_A, DATA_LORA_HADAMARD, DATA_LORA_KOHYA},
    {".hada_w1_b", DATA_LORA_W1_B, DATA_LORA_HADAMARD, DATA_LORA_KOHYA},
    {".hada_t1", DATA_LORA_T1, DATA_LORA_HADAMARD, DATA_LORA_KOHYA},
    {".hada_w2_a", DATA_LORA_W2_A, DATA_LORA_HADAMARD, DATA_LORA_KOHYA},
    {".hada_w2_b", DATA_LORA_W2_B, DATA_LORA_HADAMARD, DATA_LORA_KOHYA},
    {".hada_t2", DATA_LORA_T2, DATA_LORA_HADAMARD, DATA_LORA_KOHYA},
    {".lokr_w1", DATA_LORA_W1, DATA_LORA_KRONECKER, DATA_LORA_KOHYA},
    {".lokr_w1_a", DATA_LORA_W1_A, DATA_LORA_KRONECKER, DATA_LORA_KOHYA},
    {".lokr_w1_b", DATA_LORA_W1_B, DATA_LORA_KRONECKER, DATA_LORA_KOHYA},
    {".lokr_w2", DATA_LORA_W2, DATA_LORA_KRONECKER, DATA_LORA_KOHYA},
    {".lokr_w2_a", DATA_LORA_W2_A, DATA_LORA_KRONECKER, DATA_LORA_KOHYA},
    {".lokr_w2_b", DATA_LORA_W2_B, DATA_LORA_KRONECKER, DATA_LORA_KOHYA},
    {".lokr_t2", DATA_LORA_T2, DATA_LORA_KRONECKER, DATA_LORA_KOHYA},
    {".diff", DATA_LORA_DIFF, DATA_LORA_WHOLE, DATA_LORA_KOHYA},
    {".diff_b", DATA_LORA_DIFF_BIAS, LORA_ANY_KIND, DATA_LORA_KOHYA},
    /* whose dialect is that of its neighbours */
    {".lora.alpha", DATA_LORA_ALPHA, LORA_ANY_KIND, DATA_LORA_N_DIALECTS},
    {".lora_linear_layer.alpha", DATA_LORA_ALPHA, LORA_ANY_KIND, DATA_LORA_N_DIALECTS},
    {"_lora.alpha", DATA_LORA_ALPHA, LORA_ANY_KIND, DATA_LORA_N_DIALECTS},
    {".alpha", DATA_LORA_ALPHA, LORA_ANY_KIND, DATA_LORA_N_DIALECTS},
};

static bool begins(const char *text, const char *with)
{
    return strncmp(text, with, strlen(with)) == 0;
}

/* Cut `end` off the text. */
static bool cut(char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);

    if (n <= m || strcmp(text + n - m, end) != 0)
        return false;
    text[n - m] = '\0';
    return true;
}

/* to_q, to_k, to_v, to_out at the end of an old name, as the module is called: to_out.0; in the text model q_proj. */
static bool rename_old(char *stem, size_t size)
{
    static const struct {
        const char *old, *unet, *text;
    } WORDS[] = {{".to_q", ".to_q", ".q_proj"},
                 {".to_k", ".to_k", ".k_proj"},
                 {".to_v", ".to_v", ".v_proj"},
                 {".to_out", ".to_out.0", ".out_proj"}};
    const size_t room = strlen(".to_out.0") + 1;

    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
        if (!cut(stem, WORDS[i].old))
            continue;
        (void)cut(stem, ".processor");
        if (strlen(stem) + room > size)
            return false;
        strcat(stem, strstr(stem, ".self_attn") ? WORDS[i].text : WORDS[i].unet);
        return true;
    }
    return false;
}

bool lora_take_apart(lora_key *out, const char *name)
{
    const ending *found = NULL;
    char *processor;

    if (strlen(name) >= sizeof out->stem)
        return false;
    strcpy(out->stem, name);
    if (strstr(name, ".lora_")) { /* the adapter's name, in a state dictionary of PEFT's */
        if (cut(out->stem, ".default.weight"))
            strcat(out->stem, ".weight");
        else if (cut(out->stem, ".default.bias"))
            strcat(out->stem, ".bias");
    }
    for (size_t i = 0; i < sizeof ENDINGS / sizeof *ENDINGS && !found; i++)
        if (cut(out->stem, ENDINGS[i].text))
            found = &ENDINGS[i];
    if (!found)
        return false;
    out->role = found->role;
    out->kind = found->kind;
    out->dialect = begins(out->stem, "lora_") ? DATA_LORA_KOHYA : found->dialect;
    if (found->text[0] == '_')
        return rename_old(out->stem, sizeof out->stem);
    processor = strstr(out->stem, ".processor."); /* in the newest of the old names */
    if (processor)
        memmove(processor, processor + strlen(".processor"), strlen(processor + strlen(".processor")) + 1);
    return true;
}

int lora_component_of(const char *stem, const char **module)
{
    static const struct {
        const char *prefix;
        int component;
    } PREFIXES[] = {
        {"unet.base_model.model.", DATA_UNET}, {"text_encoder.base_model.model.", DATA_TEXT_ENCODER},
        {"unet.", DATA_UNET},                  {"text_encoder.", DATA_TEXT_ENCODER},
        {"lora_unet_", DATA_UNET},             {"lora_te_", DATA_TEXT_ENCODER},
        {"lora_te1_", DATA_TEXT_ENCODER},      {"base_model.model.", -1},
    };

    for (size_t i = 0; i < sizeof PREFIXES / sizeof *PREFIXES; i++)
        if (begins(stem, PREFIXES[i].prefix)) {
            *module = stem + strlen(PREFIXES[i].prefix);
            return PREFIXES[i].component;
        }
    *module = stem;
    return -1;
}

/* --- names to write --------------------------------------------------------------------------- */

static bool ends_in_one_of(const char *module, const char *const *words)
{
    for (; *words; words++) {
        const size_t n = strlen(module), m = strlen(*words);

        if (n > m && module[n - m - 1] == '.' && strcmp(module + n - m, *words) == 0)
            return true;
    }
    return false;
}

/* Only attention has names of diffusers' own; what else is adapted keeps PEFT's in the same file. */
static const char *diffusers_ending(data_component component, const char *module, bool down)
{
    static const char *const unet[] = {"to_q", "to_k", "to_v", "to_out.0", NULL};
    static const char *const text[] = {"q_proj", "k_proj", "v_proj", "out_proj", NULL};

    if (component == DATA_UNET && ends_in_one_of(module, unet))
        return down ? ".lora.down.weight" : ".lora.up.weight";
    if (component == DATA_TEXT_ENCODER && ends_in_one_of(module, text))
        return down ? ".lora_linear_layer.down.weight" : ".lora_linear_layer.up.weight";
    return down ? ".lora_A.weight" : ".lora_B.weight";
}

const char *lora_ending(data_lora_dialect dialect, data_component component, const char *module, data_lora_kind kind,
                        data_lora_role role)
{
    if (dialect == DATA_LORA_KOHYA && role == DATA_LORA_ALPHA)
        return ".alpha";
    if (dialect == DATA_LORA_DIFFUSERS && (role == DATA_LORA_A || role == DATA_LORA_B))
        return diffusers_ending(component, module, role == DATA_LORA_A);
    if (dialect == DATA_LORA_DIFFUSERS)
        dialect = DATA_LORA_PEFT;
    for (size_t i = 0; i < sizeof ENDINGS / sizeof *ENDINGS; i++)
        if (ENDINGS[i].dialect == dialect && ENDINGS[i].role == role &&
            (ENDINGS[i].kind == LORA_ANY_KIND || ENDINGS[i].kind == (int)kind))
            return ENDINGS[i].text;
    return NULL;
}
