/* lora.h - the adapters of a run: which layers of which network get one, as the options say.
 */
#ifndef TRAIN_LORA_H
#define TRAIN_LORA_H

#include "nn/adapter.h"
#include "pipeline/pipeline.h"
#include "train/options.h"
#include "train/state.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a run writes, as diffusers' programs name it. */
#define TRAIN_LORA_FILE "pytorch_lora_weights.safetensors"

/* The layers that SelfAge and diffusers' trainers adapt, and those that --lora_conv adds. */
#define TRAIN_LORA_UNET_TARGETS "to_q,to_k,to_v,to_out.0"
#define TRAIN_LORA_TEXT_TARGETS "q_proj,k_proj,v_proj,out_proj"
#define TRAIN_LORA_CONV_TARGETS "conv1,conv2,conv_shortcut,conv,proj_in,proj_out"

typedef struct train_lora {
    nn_adapters *unet; /* NULL: whole weights are trained */
    nn_adapters *text; /* NULL: the text encoder is not trained, or whole */
} train_lora;

/* Hang adapters on the model's U-Net and, with options->train_text_encoder, its text encoder; both must be open.
 * Nothing when options->rank is 0, or an embedding alone is trained. AG_EINVAL naming the layer for a rank above its
 * width, or the targets that fit nothing. */
ag_status train_lora_new(train_lora *out, ag_ctx *ctx, const train_options *options, const pipe_model *model);
void train_lora_free(train_lora *lora); /* before the model; zeroed afterwards */

/* Before each forward pass of training: the micro-step whose dropout is drawn. */
void train_lora_set_step(const train_lora *lora, uint32_t step);
/* And before each other one: nothing is dropped until then. */
void train_lora_rest(const train_lora *lora);
/* Let the frozen model answer alone, or the adapters with it again. */
void train_lora_use(const train_lora *lora, bool on);

/* What a run trains: adapters, or whole networks with `lora` empty. Marks it as trainable. Returns how many parts
 * of the two there is room for. */
int train_parts(train_part parts[2], ag_ctx *ctx, const train_options *options, const train_lora *lora,
                const pipe_model *model);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_LORA_H */
