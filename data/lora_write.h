/* lora_write.h - LoRA files in the dialects that other programs read. Reading is data/lora_file.h.
 *
 *   diffusers, peft   alpha stands in the header's lora_adapter_metadata (no file of theirs has a tensor for it)
 *   kohya             alpha stands beside the factors; ss_network_dim, ss_network_alpha, ss_network_module,
 *                     ss_base_model_version, ss_v2
 * and in all of them the ModelSpec fields (modelspec.sai_model_spec, architecture, implementation, title,
 * resolution). What the caller gives under the same key stands instead.
 *
 * Sources  huggingface/diffusers: src/diffusers/loaders/lora_base.py; kohya-ss/sd-scripts: train_network.py,
 *          library/sai_model_spec.py.
 */
#ifndef DATA_LORA_WRITE_H
#define DATA_LORA_WRITE_H

#include "data/lora_file.h"
#include "data/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_lora_part {
    data_component component;
    const char *module; /* its published name */
    data_lora_kind kind;
    int64_t rank; /* of the factors; 0: there are none */
    double alpha; /* s = alpha / rank */
    bool norm_along_rows;
    bool has[DATA_LORA_N_ROLES];
    /* Shape, dtype and values of each tensor there is; names and alpha are the writer's. A magnitude's shape is
     * settled by the writer too. */
    data_source tensor[DATA_LORA_N_ROLES];
} data_lora_part;

/* Write the parts to a safetensors file. AG_EUNSUPPORTED naming a module of a kind that the dialect cannot say (only
 * kohya's has names for more than LoRA and DoRA); AG_EINVAL, AG_EIO as data_safetensors_write(). */
ag_status data_lora_write(ag_ctx *ctx, const char *path, data_lora_dialect dialect, const data_lora_part *parts,
                          int64_t n, const data_pair *metadata, int64_t n_metadata);

/* The name of a tensor in such a file; the caller's. */
char *data_lora_tensor_name(ag_ctx *ctx, data_lora_dialect dialect, data_component component, const char *module,
                            data_lora_kind kind, data_lora_role role);

/* The same for a tensor known by PEFT's name, "<module>.lora_A.weight". */
char *data_lora_rename(ag_ctx *ctx, data_lora_dialect dialect, data_component component, const char *peft_name);

#ifdef __cplusplus
}
#endif

#endif /* DATA_LORA_WRITE_H */
