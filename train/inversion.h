/* inversion.h - textual inversion as an option of any method: a new token, whose embedding is trained
 * with whatever else is, or alone.
 *
 * The token stands in prompts and captions ("photo of <sks> person"). Its rows begin as those of an ordinary
 * word; the text encoder computes every context anew, frozen or not, so that gradients reach them. (Gal et al.
 * 2022; huggingface/diffusers: examples/textual_inversion)
 */
#ifndef TRAIN_INVERSION_H
#define TRAIN_INVERSION_H

#include "pipeline/pipeline.h"
#include "train/options.h"
#include "train/prompts.h"
#include "train/state.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a run writes, as diffusers' program names it. */
#define TRAIN_INVERSION_FILE "learned_embeds.safetensors"

/* Do the options ask for it? The functions below do nothing when not. */
bool train_inversion_is_on(const train_options *options);
ag_status train_inversion_check(ag_ctx *ctx, const train_options *options);
/* Add the token to a model whose tokenizer and text encoder are open, before prompts are tokenized. */
ag_status train_inversion_open(ag_ctx *ctx, pipe_model *model, const train_options *options);
/* AG_EINVAL when no prompt has the token, once they are tokenized. */
ag_status train_inversion_check_prompts(ag_ctx *ctx, const pipe_model *model, const train_prompts *prompts,
                                        const train_options *options);
/* Its rows as a part of what is trained; 1 when there is one, else 0. */
int train_inversion_part(train_part *part, ag_ctx *ctx, const train_options *options, const pipe_model *model);
/* Write folder/TRAIN_INVERSION_FILE. */
ag_status train_inversion_save(ag_ctx *ctx, const pipe_model *model, const train_options *options, const char *folder);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_INVERSION_H */
