/* prompts.h - the contexts of a run's prompts: encoded once, or anew when the text encoder learns.
 *
 * An age in a prompt. "{age}" in a prompt or caption stands for the age in years, wherever it is:
 *   "a {age} year old man with a hat", "photo of sks person as {age}-year-old"
 * In the prompt without an age it goes, together with "-year-old", " year old" or " years old" behind it, one
 * blank, and one of two commas: "a man with a hat", "photo of sks person as". Where there is no "{age}", each
 * method has its own rule.
 */
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

/* Tokenize all of them; and keep their contexts, if these take at most so many bytes, after which the model's
 * text encoder and tokenizer are no longer needed for them. 0: keep none; else a line says when they are too many. */
ag_status train_prompts_prepare(ag_ctx *ctx, train_prompts *prompts, const pipe_model *model, size_t most);

/* The largest token id among the prepared prompts. */
int64_t train_prompts_largest_id(const train_prompts *prompts);
bool train_prompts_are_encoded(const train_prompts *prompts);
/* Bytes of kept contexts. */
size_t train_prompts_bytes(const train_prompts *prompts);
#define TRAIN_MAX_CONTEXTS ((size_t)1 << 30) /* a usual bound */

/* Contexts of n rows by prompt number, f32 [n,T,D]. When they were not encoded: the text encoder's output,
 * recorded if recording is on. */
ag_tensor *train_prompts_context(ag_ctx *ctx, train_prompts *prompts, const pipe_model *model,
                                 const int64_t *rows, int64_t n, const nn_clip_options *options);
/* The same in two steps, of which the second reads nothing from the host: kept contexts or token ids (pipe_text_ids)
 * of the rows; their contexts. */
ag_tensor *train_prompts_given(ag_ctx *ctx, train_prompts *prompts, const pipe_model *model, const int64_t *rows,
                               int64_t n);
ag_tensor *train_prompts_encode(ag_ctx *ctx, const train_prompts *prompts, const pipe_model *model, ag_tensor *given,
                                const nn_clip_options *options);

/* Give every entry of the vocabulary that stands in none of the (prepared) prompts the mean embedding of those
 * that do. What a text encoder trained on these prompts makes of a first embedding it never met is noise, and
 * whoever trains it on new words learns to shut it out before it learns what they mean. (Hewitt 2021,
 * "Initializing New Word Embeddings for Pretrained Language Models") */
ag_status train_prompts_average_unread(ag_ctx *ctx, const train_prompts *prompts, const pipe_model *model);

/* Does a prompt say where its age goes ("{age}")? */
bool train_prompt_has_age(const char *prompt);
/* The prompt with an age in place of each "{age}", or without: see the top. For ag_delete(); NULL when memory
 * is refused. */
char *train_prompt_with_age(ag_ctx *ctx, const char *prompt, int64_t age);
char *train_prompt_without_age(ag_ctx *ctx, const char *prompt);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_PROMPTS_H */
