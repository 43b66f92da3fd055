/* fuzz_tokenizer.c - any bytes as a prompt, and as a tokenizer's files. For libFuzzer (make fuzz).
 *
 * An input that begins with 't' is a text for the small vocabulary. Any other is up to seven
 * pieces separated by the byte 0xFF (which no UTF-8 text holds): the six files of a tokenizer's
 * folder, an empty piece being a file that is not there, and a text to encode.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/text_file.h"
#include "data/tokenizer.h"
#include "data/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum { LENGTH = 32 };

/* A folder in memory where there is one, made once and left to the system's cleaning. */
static const char *folder(void)
{
    static char path[64];

    if (!path[0]) {
        strcpy(path, access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzz-tokenizer-XXXXXX"
                                                   : "/tmp/fuzz-tokenizer-XXXXXX");
        if (!mkdtemp(path))
            abort();
    }
    return path;
}

static void encode(const data_tokenizer *tok, ag_ctx *ctx, const char *text, size_t n)
{
    int64_t ids[LENGTH], mask[LENGTH], *all = NULL, *word_of = NULL, n_all = 0;

    if (data_tokenizer_encode_bytes(tok, ctx, text, n, ids, mask, LENGTH) != AG_OK)
        return;
    if (ids[0] != data_tokenizer_begin_id(tok) || mask[0] != 1)
        abort();
    for (int i = 0; i < LENGTH; i++)
        if (ids[i] < 0 || ids[i] >= data_tokenizer_size(tok) || !data_tokenizer_token(tok, ids[i]))
            abort();
    if (data_tokenizer_split(&all, &word_of, &n_all, tok, ctx, text, n) != AG_OK)
        abort();
    for (int64_t i = 0; i < n_all; i++)
        if ((i < LENGTH - 2 && all[i] != ids[i + 1]) || (i > 0 && word_of[i] < word_of[i - 1]))
            abort();
    ag_delete(all);
    ag_delete(word_of);
}

static void write_piece(const char *name, const char *bytes, size_t n)
{
    char path[128];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder(), name);
    if (n == 0) {
        (void)unlink(path);
        return;
    }
    file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0)
        abort();
}

static data_tokenizer *open_small(ag_ctx *ctx)
{
    data_tokenizer *tok = NULL;

    for (int i = 0; tok_file_names[i]; i++) /* what an input before this one left */
        write_piece(tok_file_names[i], NULL, 0);
    if (data_tokenizer_write_small(ctx, folder()) != AG_OK ||
        data_tokenizer_open(&tok, ctx, folder()) != AG_OK)
        abort();
    return tok;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static data_tokenizer *small;
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 1});
    const char *at = (const char *)bytes, *end = at + n;
    data_tokenizer *tok = NULL;

    if (n > 0 && at[0] == 't') {
        if (!small)
            small = open_small(ctx);
        encode(small, ctx, at + 1, n - 1);
        ag_ctx_free(ctx);
        return 0;
    }
    for (int i = 0; tok_file_names[i]; i++) {
        const char *stop = at < end ? memchr(at, 0xFF, (size_t)(end - at)) : NULL;

        stop = stop ? stop : end;
        write_piece(tok_file_names[i], at, (size_t)(stop - at));
        at = stop < end ? stop + 1 : end;
    }
    if (data_tokenizer_open(&tok, ctx, folder()) == AG_OK)
        encode(tok, ctx, at, (size_t)(end - at));
    else if (tok || ag_status_of(ctx) == AG_OK || !ag_message(ctx)[0])
        abort();
    data_tokenizer_close(tok);
    ag_ctx_free(ctx);
    return 0;
}
