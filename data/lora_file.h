/* lora_file.h - LoRA files, whatever program wrote them: which modules they change, and how.
 *
 * Read
 *   diffusers      unet.<module>.lora.down.weight, text_encoder.<module>.lora_linear_layer.down.weight
 *   PEFT           [unet.|text_encoder.|base_model.model.]<module>.lora_A.weight; an adapter's folder with
 *                  adapter_config.json
 *   old diffusers  <attention>.processor.to_q_lora.down.weight
 *   kohya, A1111   lora_unet_<path>.lora_down.weight, path with '_' for '.', or with the names of single-file
 *                  checkpoints (input_blocks_4_1_...)
 *   with any name  LoCon's lora_mid, DoRA's dora_scale and lora_magnitude_vector, LoHa's hada_*, LoKr's lokr_*, whole
 *                  differences (diff, diff_b), alpha, lora_B.bias
 * A file is told by the endings of its names. A module in a file is then looked up among the names of a model
 * (data_lora_match): underscores cannot be turned back into dots by themselves.
 *
 * Alpha stands beside the factors (kohya), in adapter_config.json (PEFT) or in the header's lora_adapter_metadata
 * (diffusers); where nobody says, it is the rank.
 *
 * Ownership  The handle owns all it hands out; data_lora_match() copies the names it is given.
 * Sources    huggingface/diffusers: src/diffusers/utils/state_dict_utils.py, loaders/lora_base.py;
 *            huggingface/peft: src/peft/tuners/lora/layer.py; kohya-ss/sd-scripts: networks/lora.py;
 *            KohakuBlueleaf/LyCORIS: lycoris/modules, lycoris/functional.
 */
#ifndef DATA_LORA_FILE_H
#define DATA_LORA_FILE_H

#include "data/model_folder.h"
#include "data/single_file.h"
#include "data/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum data_lora_dialect {
    DATA_LORA_DIFFUSERS,
    DATA_LORA_PEFT,
    DATA_LORA_KOHYA,
    DATA_LORA_OLD_DIFFUSERS, /* read, not written */
    DATA_LORA_N_DIALECTS
} data_lora_dialect;

const char *data_lora_dialect_name(data_lora_dialect dialect); /* "diffusers", "peft", "kohya", "old diffusers" */

/* How a module's weight changes. s = alpha / rank. */
typedef enum data_lora_kind {
    DATA_LORA_BIAS_ONLY, /* the weight does not */
    DATA_LORA_PLAIN,     /* s B A; with a middle: s sum_pq B[o,p] mid[p,q,y,x] A[q,i] */
    DATA_LORA_HADAMARD,  /* LoHa: s (w1_a w1_b) * (w2_a w2_b) */
    DATA_LORA_KRONECKER, /* LoKr: s kron(w1, w2); s = 1 when both are stored whole */
    DATA_LORA_WHOLE,     /* the difference itself */
    DATA_LORA_N_KINDS
} data_lora_kind;

const char *data_lora_kind_name(data_lora_kind kind); /* "lora", "loha", ... */

/* What a tensor is to its module. O and I are the weight's first two axes, n = I * kh * kw, r the rank. */
typedef enum data_lora_role {
    DATA_LORA_A,         /* lora_down, lora_A [r,I] [r,I,kh,kw] */
    DATA_LORA_B,         /* lora_up, lora_B [O,r] [O,r,1,1] */
    DATA_LORA_MID,       /* lora_mid [r,r,kh,kw] */
    DATA_LORA_B_BIAS,    /* lora_B.bias [O] */
    DATA_LORA_MAGNITUDE, /* DoRA: [O], [1,O,1,1]; dora_scale [O,1..], or [1,I,..] when the norm runs along O */
    DATA_LORA_W1,        /* lokr_w1 */
    DATA_LORA_W1_A,      /* hada_w1_a [O,r], with hada_t1 [r,O]; lokr_w1_a */
    DATA_LORA_W1_B,      /* hada_w1_b [r,n], with hada_t1 [r,I]; lokr_w1_b */
    DATA_LORA_T1,        /* hada_t1 [r,r,kh,kw] */
    DATA_LORA_W2,        /* lokr_w2 */
    DATA_LORA_W2_A,
    DATA_LORA_W2_B,
    DATA_LORA_T2, /* hada_t2, lokr_t2 */
    DATA_LORA_DIFF,
    DATA_LORA_DIFF_BIAS, /* diff_b [O] */
    DATA_LORA_ALPHA,     /* one number */
    DATA_LORA_N_ROLES
} data_lora_role;

typedef struct data_lora_module {
    const char *spelled; /* as in the file, without its tensors' endings */
    int component;       /* a data_component; -1: the name does not tell, or tells of one that we do not have */
    const char *name;    /* the module in the model, "mid_block.attentions.0.proj_in"; NULL before data_lora_match()
                          * and when the model has none */
    bool is_missed; /* none of the networks given has it */
    data_lora_kind kind;
    int64_t rank; /* 0: there are no factors */
    double alpha; /* with scale = alpha / rank, whatever the file's own rule (rslora) */
    double scale;
    bool alpha_said; /* by the file, not taken from the rank */
    bool norm_along_rows; /* DoRA's norm is of each input's column: dora_scale [1,I] */
    int64_t tensor[DATA_LORA_N_ROLES]; /* in data_lora_weights(); -1: none */
} data_lora_module;

typedef struct data_lora data_lora;

/* Do the names of a weight file end as a LoRA's do? */
bool data_lora_is(const data_weights *weights);
/* May the folder hold one: an adapter_config.json, or a file of a LoRA's usual name? */
bool data_lora_is_folder(const char *path);

/* Open a file or a folder. Of a folder with adapter_config.json: adapter_model.safetensors (.bin). Of another:
 * pytorch_lora_weights.safetensors, else its only safetensors file, else its only .bin file; names with scheduler,
 * optimizer or checkpoint do not count.
 * AG_EIO when nothing is there; AG_EDATA naming file and module when half of a pair is missing, shapes disagree or
 * there is nothing of a LoRA in it; AG_EUNSUPPORTED naming a tensor of a kind that is not read. */
ag_status data_lora_open(data_lora **out, ag_ctx *ctx, const char *path);
/* The same over open weights, which the handle takes over, also on failure. */
ag_status data_lora_from_weights(data_lora **out, ag_ctx *ctx, data_weights *weights);
void data_lora_close(data_lora *lora); /* NULL is fine */

data_weights *data_lora_weights(const data_lora *lora);
const char *data_lora_path(const data_lora *lora);
data_lora_dialect data_lora_dialect_of(const data_lora *lora);
int64_t data_lora_count(const data_lora *lora);
const data_lora_module *data_lora_at(const data_lora *lora, int64_t i); /* by spelled name */
/* Modules of kohya's spelling with factors and no alpha: taken at alpha = rank, which others may take otherwise. */
int64_t data_lora_n_without_alpha(const data_lora *lora);

/* --- against a model -------------------------------------------------------------------------- */

/* A network's parameters. */
typedef struct data_lora_names {
    data_component component;
    const data_named_shape *list; /* published names and shapes */
    int64_t n;
    const nn_unet_config *unet; /* for the names of single-file checkpoints; may be NULL */
} data_lora_names;

typedef struct data_lora_matched {
    int64_t n[DATA_N_COMPONENTS]; /* modules found, by component */
    int64_t n_missed;             /* that the networks lack */
    int64_t n_elsewhere;          /* of a component that was not given */
} data_lora_matched;

/* Find every module among the networks' parameters, and compare shapes: fills name and component. It may be called
 * again with other networks. AG_EDATA naming file, module and both widths when a shape does not fit (another base), or
 * when two entries are of one module. */
ag_status data_lora_match(data_lora_matched *out, ag_ctx *ctx, data_lora *lora, const data_lora_names *networks,
                          int n_networks);
/* The first few modules that were missed, for a message: "a, b, c and 5 more". The caller's. */
char *data_lora_missed_text(ag_ctx *ctx, const data_lora *lora);
/* The module of that name; -1: the file does not change it. After data_lora_match(). */
int64_t data_lora_find(const data_lora *lora, data_component component, const char *module);

/* --- what it does to a weight ----------------------------------------------------------------- */

/* W' - W of a matched module in the weight's published layout, f32 from sums in double.
 * base    W, which only DoRA reads; NULL: the factors' part alone, without the magnitude
 * change  room for as many values as the weight has
 * AG_EDATA when a factor holds a value that is not finite. */
ag_status data_lora_change(ag_ctx *ctx, const data_lora *lora, int64_t i, const data_named_shape *weight,
                           const float *base, float *change);
bool data_lora_changes_weight(const data_lora_module *module);
bool data_lora_changes_bias(const data_lora_module *module);
ag_status data_lora_bias_change(ag_ctx *ctx, const data_lora *lora, int64_t i, int64_t n, float *change);

#ifdef __cplusplus
}
#endif

#endif /* DATA_LORA_FILE_H */
