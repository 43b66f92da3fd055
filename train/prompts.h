/* prompts.h - the contexts of a run's prompts: encoded once, or anew when the text encoder learns. */
#ifndef TRAIN_PROMPTS_H
#define TRAIN_PROMPTS_H

#include "pipeline/pipeline.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_prompts train_prompts;

/* A growing list of distinct prompts. max_length 0: the tokenizer's own. */
ag_status train_prompts_new(train_prompts **out, ag_ctx *ctx, int max_length);
void train_prompts_free(train_prompts *prompts); /* NULL is fine */

/* The number of a prompt, adding it when it is new; -1 when memory is refused. The text is copied. */
int64_t train_prompts_add(ag_ctx *ctx, train_prompts *prompts, const char *text);
int64_t train_prompts_count(const train_prompts *prompts);
const char *train_prompts_text(const train_prompts *prompts, int64_t i);

/* Tokenize all of them; with `encode`, keep their contexts too, after which the model's text encoder
 * and tokenizer are no longer needed for them. */
ag_status train_prompts_prepare(ag_ctx *ctx, train_prompts *prompts, const pipe_model *model, bool encode);

/* Contexts of n rows by prompt number, f32 [n,T,D]. When they were not encoded: the text encoder's output,
 * recorded if recording is on. */
ag_tensor *train_prompts_context(ag_ctx *ctx, train_prompts *prompts, const pipe_model *model,
                                 const int64_t *rows, int64_t n, const nn_clip_options *options);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_PROMPTS_H */
