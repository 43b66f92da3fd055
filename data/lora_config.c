/* lora_config.c - alpha by PEFT's rules: adapter_config.json and lora_adapter_metadata. See lora_internal.h.
 *
 *   alpha = alpha_pattern's for the module, else lora_alpha;  s = alpha / rank, with use_rslora alpha / sqrt(rank)
 *
 * A key of a pattern stands for the module of that name and for those that end in "." and it. It is a regular
 * expression in PEFT; plain names, also with an anchor or escaped dots, are what its savers write and what is read.
 */
#include <math.h>
#include <string.h>

#include "data/lora_internal.h"

enum { MAX_KEY = 1100 };

static const json_t *value_of(const lora_config *config, const char *key)
{
    char full[64];

    snprintf(full, sizeof full, "%s%s", config->prefix, key);
    return json_object_get(config->root, full);
}

/* A switch of this component that is on and neither DoRA nor rsLoRA: another product than ours. NULL: none. */
static const char *other_switch(const lora_config *config)
{
    const size_t n = strlen(config->prefix);
    const char *key;
    json_t *value;

    json_object_foreach(config->root, key, value)
    {
        if (strncmp(key, config->prefix, n) == 0 && strncmp(key + n, "use_", 4) == 0 && json_is_true(value) &&
            strcmp(key + n, "use_dora") != 0 && strcmp(key + n, "use_rslora") != 0)
            return key;
    }
    return NULL;
}

static bool is_on(const lora_config *config, const char *key)
{
    return json_is_true(value_of(config, key));
}

ag_status lora_config_check(ag_ctx *ctx, const lora_config *config)
{
    const json_t *type = value_of(config, "peft_type");

    if (!config->root)
        return AG_OK;
    if (json_is_string(type) && strcmp(json_string_value(type), "LORA") != 0)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: %speft_type is %.40s, wanted LORA", config->file, config->prefix,
                       json_string_value(type));
    if (is_on(config, "fan_in_fan_out"))
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: %sfan_in_fan_out is true: no model here stores its weights so",
                       config->file, config->prefix);
    if (other_switch(config))
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: %.80s is on, which is not read", config->file, other_switch(config));
    return AG_OK;
}

/* A key of a pattern without anchors and escapes; false for an expression. */
static bool plain_key(char plain[MAX_KEY], const char *key)
{
    size_t n = 0;

    if (*key == '^')
        key++;
    for (; *key; key++) {
        if (*key == '\\' && key[1] == '.')
            key++;
        else if (*key == '$' && !key[1])
            break;
        else if (strchr("\\^$*+?{}[]()|", *key))
            return false;
        if (n + 1 >= MAX_KEY)
            return false;
        plain[n++] = *key;
    }
    plain[n] = '\0';
    return n > 0;
}

static bool stands_for(const char *key, const char *module)
{
    static const char outer[] = "text_model."; /* which transformers' newer text models lack */
    size_t n, m = strlen(module);

    if (strncmp(key, outer, strlen(outer)) == 0 && strncmp(module, outer, strlen(outer)) != 0)
        key += strlen(outer);
    n = strlen(key);

    if (n >= m)
        return strcmp(key, module) == 0;
    return module[m - n - 1] == '.' && strcmp(module + m - n, key) == 0;
}

/* The entry of a pattern for a module; NULL: none. */
static const json_t *pattern_value(ag_ctx *ctx, const lora_config *config, const char *which, const char *module)
{
    const json_t *patterns = value_of(config, which);
    const char *key;
    json_t *value;
    char plain[MAX_KEY];

    json_object_foreach((json_t *)patterns, key, value)
    {
        if (!plain_key(plain, key)) {
            ag_fail(ctx, AG_EUNSUPPORTED, "%s: %s%s: \"%.80s\" is an expression, wanted a module's name", config->file,
                    config->prefix, which, key);
            return NULL;
        }
        if (stands_for(plain, module))
            return value;
    }
    return NULL;
}

ag_status lora_config_scale(double *scale, bool *said, ag_ctx *ctx, const lora_config *config, const char *module,
                            int64_t rank)
{
    const json_t *value = config->root ? pattern_value(ctx, config, "alpha_pattern", module) : NULL;

    *scale = 1.0;
    *said = false;
    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    if (!value && config->root)
        value = value_of(config, "lora_alpha");
    if (!value || json_is_null(value))
        return AG_OK;
    if (!json_is_number(value) || !isfinite(json_number_value(value)))
        return ag_fail(ctx, AG_EDATA, "%s: %slora_alpha: wanted a number", config->file, config->prefix);
    *said = true;
    *scale = json_number_value(value) / (is_on(config, "use_rslora") ? sqrt((double)rank) : (double)rank);
    return AG_OK;
}
