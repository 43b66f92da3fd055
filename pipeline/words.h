/* words.h - tokens that a model did not come with, and their embeddings: textual inversion (Gal et al. 2022).
 *
 * A word is a token of one vector or several. In a prompt it stands for so many tokens, whose rows are looked up
 * here instead of in the text encoder's table; so the table stays as it is, and the rows can be trained alone.
 *
 * Files. What diffusers' trainer writes: one tensor, named by the token, [vectors, width]. Read too: one vector
 * [width], and files that name their tensor otherwise ("emb_params", or "*" among an A1111 file's
 * "string_to_param"), whose token is then the file's name without its ending.
 */
#ifndef PIPE_WORDS_H
#define PIPE_WORDS_H

#include "pipeline/pipeline.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pipe_words pipe_words;

/* Add a word whose n rows begin as those of the tokens of `like`, round and round. Tokenizer and text encoder must
 * be open. AG_EINVAL for a token that the tokenizer has, or a `like` without tokens. */
ag_status pipe_words_add(ag_ctx *ctx, pipe_model *model, const char *token, int64_t n, const char *like);
/* Add the word of a file. AG_EDATA for a file of another width, or that holds something else. */
ag_status pipe_words_load(ag_ctx *ctx, pipe_model *model, const char *path);
/* Write the one word of a model: f32, in the format above. */
ag_status pipe_words_save(ag_ctx *ctx, const pipe_model *model, const char *path);

/* Their rows, one parameter a word ("0", "1", ...), in the order they were added; NULL: no words. */
nn_params *pipe_words_params(const pipe_model *model);
const char *pipe_words_token(const pipe_model *model, int64_t i);

void pipe_words_free(pipe_words *words); /* NULL is fine */

#ifdef __cplusplus
}
#endif

#endif /* PIPE_WORDS_H */
