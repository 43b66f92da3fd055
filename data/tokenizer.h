/* tokenizer.h - text to token ids: CLIP's byte-level BPE, for any vocabulary.
 *
 * Ids are those of transformers 5.23's CLIPTokenizer (the only CLIP tokenizer class left there):
 * NFC, each run of white space to one space, lower case code point by code point, the pattern of
 * contractions, letters, single digits and the rest, bytes, merges with </w> at the end of a word.
 * Special and added tokens found in the text become their ids directly. Every id comes from the
 * files; none is built in.
 *
 * Ownership  A tokenizer owns its tables and does not change once its tokens are added: any number of
 *            threads may encode with it, each with a context of its own.
 */
#ifndef DATA_TOKENIZER_H
#define DATA_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_tokenizer data_tokenizer;

/* Open `folder`: a tokenizer's folder, or a pipeline's that holds tokenizer/. It needs vocab.json
 * and merges.txt, or tokenizer.json where those are missing; tokenizer_config.json,
 * special_tokens_map.json and added_tokens.json are read when present. */
ag_status data_tokenizer_open(data_tokenizer **out, ag_ctx *ctx, const char *folder);
void data_tokenizer_close(data_tokenizer *tok); /* NULL is fine */

/* Add a token, found in texts as transformers' add_tokens() has it (anywhere, in lower case), which
 * becomes n ids of its own in a row; *first_id is after all that are there. AG_EINVAL when the
 * vocabulary has it. Nobody may encode meanwhile. */
ag_status data_tokenizer_add(data_tokenizer *tok, ag_ctx *ctx, const char *token, int64_t n, int64_t *first_id);

/* Encode one text: begin id, the text's ids cut to max_length - 2, end id, then the pad id up to
 * max_length. mask (may be NULL) is 1 up to and with the end id and 0 on the padding.
 *
 * ids, mask   max_length values each
 * utf8        `size` bytes, at most 65536; bytes that are not UTF-8 are AG_EDATA with their place
 * max_length  >= 2; data_tokenizer_max_length() is usual (77)
 */
ag_status data_tokenizer_encode(const data_tokenizer *tok, ag_ctx *ctx, const char *utf8,
                                int64_t *ids, int64_t *mask, int max_length);
ag_status data_tokenizer_encode_bytes(const data_tokenizer *tok, ag_ctx *ctx, const char *utf8,
                                      size_t size, int64_t *ids, int64_t *mask, int max_length);

/* The whole text's ids without begin, end or padding, whatever their number: *out belongs to the
 * caller (ag_delete). Optional word_of[i] is the number of the word (the match of the pattern, or
 * the special token) that id i came from, counted from 0; editing maps words by it. */
ag_status data_tokenizer_split(int64_t **out, int64_t **word_of, int64_t *out_n,
                               const data_tokenizer *tok, ag_ctx *ctx, const char *utf8,
                               size_t size);

int data_tokenizer_max_length(const data_tokenizer *tok); /* of the config; 77 when it has none */
int64_t data_tokenizer_size(const data_tokenizer *tok);   /* largest id + 1 */
int64_t data_tokenizer_begin_id(const data_tokenizer *tok);
int64_t data_tokenizer_end_id(const data_tokenizer *tok);
int64_t data_tokenizer_pad_id(const data_tokenizer *tok);
int64_t data_tokenizer_unknown_id(const data_tokenizer *tok); /* -1 when there is none */
/* The entry of the vocabulary (byte symbols, "</w>" at the end of words); NULL for no such id. */
const char *data_tokenizer_token(const data_tokenizer *tok, int64_t id);

/* Copy the tokenizer's files unchanged into the existing folder `to`. */
ag_status data_tokenizer_copy(const data_tokenizer *tok, ag_ctx *ctx, const char *to);

/* Learn a small vocabulary from a short built-in English text about faces and ages, and write its
 * four files into the existing folder `to`: 256 byte symbols, the same with </w>, the merges, and
 * <|startoftext|> and <|endoftext|> as the last two of exactly 1000 entries. The same bytes at
 * every call and on every machine. Digits stay single tokens; the words of prompts such as
 * "photo of a 70 year old person" are one token each. */
ag_status data_tokenizer_write_small(ag_ctx *ctx, const char *to);
enum { DATA_TOKENIZER_SMALL_SIZE = 1000 };

#ifdef __cplusplus
}
#endif

#endif /* DATA_TOKENIZER_H */
