/* lora_internal.h - what data/lora_*.c share. For files in data/ only. */
#ifndef DATA_LORA_INTERNAL_H
#define DATA_LORA_INTERNAL_H

#include "data/json.h"
#include "data/lora_file.h"

enum {
    LORA_MAX_TENSORS = 1 << 17,
    LORA_MAX_RANK = 1 << 16,
    LORA_MAX_DIMS = 5,
    LORA_MAX_VALUES = 1 << 28, /* of one tensor */
    LORA_ANY_KIND = -1
};

/* A tensor's name taken apart. */
typedef struct lora_key {
    char stem[DATA_TENSOR_NAME]; /* the module, as spelled, without its tensor's ending */
    data_lora_role role;
    int kind; /* a data_lora_kind that the role belongs to; LORA_ANY_KIND */
    data_lora_dialect dialect;
} lora_key;

/* False for the name of no LoRA's tensor. */
bool lora_take_apart(lora_key *out, const char *name);
/* The component that a stem names, -1: none; *module is what follows its prefix. */
int lora_component_of(const char *stem, const char **module);

/* The ending with which a tensor of this role is written; NULL: the dialect has none for it. */
const char *lora_ending(data_lora_dialect dialect, data_component component, const char *module, data_lora_kind kind,
                        data_lora_role role);

/* What PEFT says of alpha, for one component or for all. */
typedef struct lora_config {
    json_t *root;       /* the object; NULL: nothing is said */
    const char *file;   /* for messages */
    const char *prefix; /* of the keys: "unet.", "text_encoder.", "" */
} lora_config;

/* alpha / rank of a module (its dotted name, prefix dropped) whose rank is known; *said is false where the
 * configuration has no alpha. AG_EUNSUPPORTED for what changes the result and is not read. */
ag_status lora_config_check(ag_ctx *ctx, const lora_config *config);
ag_status lora_config_scale(double *scale, bool *said, ag_ctx *ctx, const lora_config *config, const char *module,
                            int64_t rank);

/* A module found in a network. */
typedef struct lora_place {
    int64_t weight, bias; /* in data_lora_names.list; -1: none */
} lora_place;

struct data_lora {
    data_weights *weights;
    json_t *config; /* adapter_config.json, or lora_adapter_metadata */
    char *config_file;
    bool config_has_prefixes; /* it is lora_adapter_metadata */
    data_lora_module *modules;
    char **texts; /* spelled and name of each module, two a module */
    int64_t n;
    int64_t n_without_alpha;
    data_lora_dialect dialect;
    int64_t *by_name; /* matched modules by component and name */
    int64_t n_by_name;
};

/* Do the factors make a change of this shape? The message of a failure names both. */
ag_status lora_check_shape(ag_ctx *ctx, const data_lora *lora, const data_lora_module *module,
                           const data_named_shape *weight);
const data_tensor *lora_tensor(const data_lora *lora, const data_lora_module *module, data_lora_role role);

#endif /* DATA_LORA_INTERNAL_H */
