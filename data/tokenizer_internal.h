/* tokenizer_internal.h - what the tokenizer's three files share; for data/tokenizer*.c only.
 *
 *   tokenizer_files.c  JSON and merges to the tables below
 *   tokenizer_text.c   Unicode: normal form, lower case, white space, the pattern of words
 *   tokenizer.c        tables, merging, the public functions
 */
#ifndef DATA_TOKENIZER_INTERNAL_H
#define DATA_TOKENIZER_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"
#include "data/tokenizer.h"

enum {
    TOK_MAX_TEXT_BYTES = 64 << 10, /* one prompt */
    TOK_MAX_FILE_BYTES = 64 << 20,
    TOK_MAX_ENTRIES = 1 << 22,
    TOK_MAX_ID = 1 << 24,
    TOK_MAX_ADDED = 1 << 16,
    TOK_ABSURD_LENGTH = 1 << 16 /* a model_max_length beyond it says "not stated" */
};

typedef struct tok_entry {
    char *token;
    int64_t id;
} tok_entry;

typedef struct tok_merge { /* left right -> result; lower rank first; left < 0: an empty slot */
    int32_t left, right, rank, result;
} tok_merge;

/* A token that is looked for in the text before anything else. */
typedef struct tok_added {
    char *content;
    char *pattern; /* what is looked for: content, normalized where `normalized` says so */
    size_t length; /* of pattern */
    int64_t id, n_more; /* stands for id .. id + n_more */
    bool special;
    bool listed;      /* described in a list of added tokens, not by a name like bos_token */
    bool normalized;  /* found in the normalized text instead of the raw one */
    bool single_word; /* only where no letter or digit stands beside it */
    bool lstrip, rstrip; /* takes the white space before, after it along */
    int32_t next;     /* the next one whose pattern begins with the same byte, -1 for none */
} tok_added;

struct data_tokenizer {
    char *folder;

    tok_entry *entries; /* sorted by id once reading is complete */
    int64_t n_entries, entries_room;
    int32_t *slots; /* hash of token -> entry number + 1 */
    int64_t n_slots;

    tok_merge *merges; /* hash of (left, right) */
    int64_t n_merge_slots;

    tok_added *added;
    int n_added, added_room;
    int32_t first_added[2][256]; /* [normalized][first byte] */

    int64_t byte_id[2][256]; /* [last of its word][byte] -> id, -1 for none */
    int64_t begin_id, end_id, pad_id, unknown_id;
    bool split_special; /* special tokens in the text are text */
    int max_length;
};

/* --- tables (tokenizer.c) -------------------------------------------------------------------- */

/* Take a copy of one vocabulary entry, before tok_index(). */
ag_status tok_add_entry(data_tokenizer *tok, ag_ctx *ctx, const char *token, int64_t id);
/* Make the hash of tokens; later lookups find the entries. */
ag_status tok_index(data_tokenizer *tok, ag_ctx *ctx);
/* The id of the token, -1 for none. */
int64_t tok_find(const data_tokenizer *tok, const char *token, size_t length);
/* Make room for n merges, then set them one by one; a later one of the same pair wins. */
ag_status tok_reserve_merges(data_tokenizer *tok, ag_ctx *ctx, int64_t n);
void tok_set_merge(data_tokenizer *tok, int32_t left, int32_t right, int32_t rank, int32_t result);
/* The symbol that stands for a byte: a code point of one or two bytes in UTF-8, and a zero. */
void tok_byte_symbol(char out[3], int byte);

/* --- reading (tokenizer_files.c) ------------------------------------------------------------- */

ag_status tok_read_files(data_tokenizer *tok, ag_ctx *ctx);
/* Add a token once all files are read: it stands for n ids from `id` on. */
ag_status tok_add_token(data_tokenizer *tok, ag_ctx *ctx, const char *content, int64_t id, int64_t n);
extern const char *const tok_file_names[]; /* every file of a tokenizer's folder; NULL ends it */

/* --- text (tokenizer_text.c) ----------------------------------------------------------------- */

/* The offset of the first byte that is not UTF-8, or size. */
size_t tok_bad_utf8(const char *text, size_t size);

/* NFC, runs of white space to one space, lower case. text is valid UTF-8; *out is the caller's. */
ag_status tok_normalize(char **out, size_t *out_size, ag_ctx *ctx, const char *text, size_t size);

/* The next match of the words' pattern at or after *begin: text[*begin .. return value). The
 * return value is 0 when there is none. With `names`, <|startoftext|> and <|endoftext|> match
 * as a whole. */
size_t tok_next_word(size_t *begin, const char *text, size_t size, bool names);

bool tok_is_space_before(const char *text, size_t at, size_t *from);          /* ends at `at` */
bool tok_is_space_after(const char *text, size_t size, size_t at, size_t *to); /* begins there */
bool tok_is_word_before(const char *text, size_t at); /* a letter, digit, mark or _ ends there */
bool tok_is_word_after(const char *text, size_t size, size_t at);

#endif /* DATA_TOKENIZER_INTERNAL_H */
