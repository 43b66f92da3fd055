/* tokenizer.c - byte-level BPE: tables, merging and the public functions.
 *
 * A text is cut at special and added tokens; each piece is normalized, cut at the added tokens
 * that are looked for in normalized text, and the rest into words; a word's bytes become symbols,
 * the last of them with </w>, and neighbours are merged, lowest rank first, leftmost first.
 *
 * The merging uses a queue ordered by (rank, place), as huggingface/tokenizers: tokenizers/src/
 * models/bpe/word.rs describes it, including that an entry is stale only when the pair at its
 * place no longer gives the same result: for odd merge lists the order matters.
 */
#include "data/tokenizer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/text_file.h"
#include "data/tokenizer_internal.h"

/* --- tables ---------------------------------------------------------------------------------- */

/* FNV-1a, 64 bits. */
static uint64_t hash_bytes(const char *bytes, size_t n)
{
    uint64_t hash = 0xCBF29CE484222325u;

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001B3u;
    return hash;
}

static uint64_t hash_pair(int32_t left, int32_t right)
{
    uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;

    return hash ^ hash >> 29;
}

ag_status tok_add_entry(data_tokenizer *tok, ag_ctx *ctx, const char *token, int64_t id)
{
    if (tok->n_entries == tok->entries_room) {
        const int64_t room = 2 * tok->entries_room + 1024;
        tok_entry *entries =
            ag_grow(ctx, tok->entries, (size_t)room, sizeof *entries, "vocabulary");

        if (!entries)
            return AG_ENOMEM;
        tok->entries = entries;
        tok->entries_room = room;
    }
    tok->entries[tok->n_entries].token = ag_strdup(ctx, token);
    tok->entries[tok->n_entries].id = id;
    if (!tok->entries[tok->n_entries].token)
        return AG_ENOMEM;
    tok->n_entries++;
    return AG_OK;
}

static int compare_ids(const void *a, const void *b)
{
    const tok_entry *left = a, *right = b;

    if (left->id != right->id)
        return left->id < right->id ? -1 : 1;
    return strcmp(left->token, right->token);
}

ag_status tok_index(data_tokenizer *tok, ag_ctx *ctx)
{
    int64_t n = 16;

    while (n < 2 * tok->n_entries)
        n *= 2;
    if (tok->n_entries > 0)
        qsort(tok->entries, (size_t)tok->n_entries, sizeof *tok->entries, compare_ids);
    ag_delete(tok->slots);
    tok->n_slots = n;
    tok->slots = ag_new(ctx, (size_t)n, sizeof *tok->slots, "index of the vocabulary");
    if (!tok->slots)
        return AG_ENOMEM;
    for (int64_t i = 0; i < tok->n_entries; i++) {
        const char *token = tok->entries[i].token;
        uint64_t at = hash_bytes(token, strlen(token)) & (uint64_t)(n - 1);

        while (tok->slots[at])
            at = (at + 1) & (uint64_t)(n - 1);
        tok->slots[at] = (int32_t)(i + 1);
    }
    return AG_OK;
}

int64_t tok_find(const data_tokenizer *tok, const char *token, size_t length)
{
    uint64_t at = hash_bytes(token, length) & (uint64_t)(tok->n_slots - 1);

    for (; tok->slots[at]; at = (at + 1) & (uint64_t)(tok->n_slots - 1)) {
        const tok_entry *entry = &tok->entries[tok->slots[at] - 1];

        if (strncmp(entry->token, token, length) == 0 && entry->token[length] == 0)
            return entry->id;
    }
    return -1;
}

ag_status tok_reserve_merges(data_tokenizer *tok, ag_ctx *ctx, int64_t n)
{
    int64_t slots = 16;

    while (slots < 2 * n)
        slots *= 2;
    tok->merges = ag_new(ctx, (size_t)slots, sizeof *tok->merges, "merges");
    if (!tok->merges)
        return AG_ENOMEM;
    tok->n_merge_slots = slots;
    for (int64_t i = 0; i < slots; i++)
        tok->merges[i].left = -1;
    return AG_OK;
}

static tok_merge *merge_slot(const data_tokenizer *tok, int32_t left, int32_t right)
{
    const uint64_t mask = (uint64_t)(tok->n_merge_slots - 1);
    uint64_t at = hash_pair(left, right) & mask;

    while (tok->merges[at].left >= 0 &&
           (tok->merges[at].left != left || tok->merges[at].right != right))
        at = (at + 1) & mask;
    return &tok->merges[at];
}

void tok_set_merge(data_tokenizer *tok, int32_t left, int32_t right, int32_t rank, int32_t result)
{
    *merge_slot(tok, left, right) = (tok_merge){left, right, rank, result};
}

static const tok_merge *find_merge(const data_tokenizer *tok, int32_t left, int32_t right)
{
    const tok_merge *merge = merge_slot(tok, left, right);

    return merge->left >= 0 ? merge : NULL;
}

/* Printable bytes stand for themselves, the 68 others for U+0100, U+0101, ... in order. */
void tok_byte_symbol(char out[3], int byte)
{
    int code = byte;

    if (byte < 0x21)
        code = 0x100 + byte;
    else if (byte >= 0x7F && byte <= 0xA0)
        code = 0x100 + 0x21 + byte - 0x7F;
    else if (byte == 0xAD)
        code = 0x143;
    memset(out, 0, 3);
    if (code < 0x80) {
        out[0] = (char)code;
    } else {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
    }
}

/* --- opening --------------------------------------------------------------------------------- */

static bool is_file(ag_ctx *ctx, const char *folder, const char *name)
{
    char *path = ag_printf(ctx, "%s/%s", folder, name);
    struct stat info;
    const bool is = path && stat(path, &info) == 0 && S_ISREG(info.st_mode);

    ag_delete(path);
    return is;
}

static bool is_tokenizer_folder(ag_ctx *ctx, const char *folder)
{
    return is_file(ctx, folder, "vocab.json") || is_file(ctx, folder, "tokenizer.json") ||
           is_file(ctx, folder, "merges.txt");
}

ag_status data_tokenizer_open(data_tokenizer **out, ag_ctx *ctx, const char *folder)
{
    data_tokenizer *tok = ag_new(ctx, 1, sizeof *tok, "tokenizer");
    char *inside = ag_printf(ctx, "%s/tokenizer", folder);
    struct stat info;
    ag_status status = AG_OK;

    if (!tok || !inside) {
        status = AG_ENOMEM;
        goto out;
    }
    if (stat(folder, &info) != 0) {
        status = ag_fail(ctx, AG_EIO, "%s: %s", folder, strerror(errno));
        goto out;
    }
    tok->folder = ag_strdup(
        ctx, !is_tokenizer_folder(ctx, folder) && is_tokenizer_folder(ctx, inside) ? inside
                                                                                   : folder);
    status = tok->folder ? ag_status_of(ctx) : AG_ENOMEM;
    if (status != AG_OK)
        goto out;
    if (!is_tokenizer_folder(ctx, tok->folder)) {
        status = ag_fail(ctx, AG_EIO,
                         "%s: no tokenizer here: wanted vocab.json and merges.txt (or "
                         "tokenizer.json), in this folder or in its tokenizer/",
                         folder);
        goto out;
    }
    status = tok_read_files(tok, ctx);
    if (status == AG_OK) {
        *out = tok;
        tok = NULL;
    }
out:
    ag_delete(inside);
    data_tokenizer_close(tok);
    return status;
}

void data_tokenizer_close(data_tokenizer *tok)
{
    if (!tok)
        return;
    for (int64_t i = 0; i < tok->n_entries; i++)
        ag_delete(tok->entries[i].token);
    for (int i = 0; i < tok->n_added; i++) {
        ag_delete(tok->added[i].content);
        ag_delete(tok->added[i].pattern);
    }
    ag_delete(tok->entries);
    ag_delete(tok->slots);
    ag_delete(tok->merges);
    ag_delete(tok->added);
    ag_delete(tok->folder);
    ag_delete(tok);
}

/* --- merging a word -------------------------------------------------------------------------- */

typedef struct symbol {
    int32_t id, previous, next; /* neighbours by number, -1 at the ends */
    bool gone;                  /* merged into the one before it */
} symbol;

typedef struct candidate {
    int32_t rank, place, result;
} candidate;

/* What grows while one text is encoded. */
typedef struct encoder {
    const data_tokenizer *tok;
    ag_ctx *ctx;
    int64_t *ids, *words;
    int64_t n, room, n_words;
    symbol *symbols;
    candidate *queue; /* a binary heap, smallest (rank, place) first */
    int64_t n_queue, symbols_room, queue_room;
} encoder;

static bool is_before(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->place < b->place;
}

/* Room was made before: a word of n symbols queues at most n - 1 + 2 (n - 1) candidates. */
static void queue_push(encoder *e, candidate new)
{
    int64_t at = e->n_queue++;

    while (at > 0 && is_before(&new, &e->queue[(at - 1) / 2])) {
        e->queue[at] = e->queue[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    e->queue[at] = new;
}

static candidate queue_pop(encoder *e)
{
    const candidate top = e->queue[0], last = e->queue[--e->n_queue];
    int64_t at = 0;

    for (;;) {
        int64_t child = 2 * at + 1;

        if (child >= e->n_queue)
            break;
        if (child + 1 < e->n_queue && is_before(&e->queue[child + 1], &e->queue[child]))
            child++;
        if (!is_before(&e->queue[child], &last))
            break;
        e->queue[at] = e->queue[child];
        at = child;
    }
    e->queue[at] = last;
    return top;
}

static void queue_pair(encoder *e, int32_t place)
{
    const symbol *left = &e->symbols[place];
    const tok_merge *merge =
        left->next < 0 ? NULL : find_merge(e->tok, left->id, e->symbols[left->next].id);

    if (merge)
        queue_push(e, (candidate){merge->rank, place, merge->result});
}

static void merge_symbols(encoder *e, int32_t n)
{
    e->n_queue = 0;
    for (int32_t i = 0; i + 1 < n; i++)
        queue_pair(e, i);
    while (e->n_queue > 0) {
        const candidate top = queue_pop(e);
        symbol *left = &e->symbols[top.place], *right;
        const tok_merge *merge;

        if (left->gone || left->next < 0)
            continue;
        right = &e->symbols[left->next];
        merge = find_merge(e->tok, left->id, right->id);
        if (!merge || merge->result != top.result)
            continue;
        left->id = top.result;
        left->next = right->next;
        right->gone = true;
        if (left->next >= 0)
            e->symbols[left->next].previous = top.place;
        if (left->previous >= 0)
            queue_pair(e, left->previous);
        queue_pair(e, top.place);
    }
}

static ag_status emit(encoder *e, int64_t id)
{
    if (e->n == e->room) {
        const int64_t room = 2 * e->room + 128;
        int64_t *ids = ag_grow(e->ctx, e->ids, (size_t)room, sizeof *ids, "token ids");
        int64_t *words;

        if (!ids)
            return AG_ENOMEM;
        e->ids = ids;
        words = ag_grow(e->ctx, e->words, (size_t)room, sizeof *words, "token ids");
        if (!words)
            return AG_ENOMEM;
        e->words = words;
        e->room = room;
    }
    e->ids[e->n] = id;
    e->words[e->n++] = e->n_words;
    return AG_OK;
}

static ag_status encode_word(encoder *e, const char *bytes, size_t size)
{
    const int32_t n = (int32_t)size;
    ag_status status = AG_OK;

    if (n > e->symbols_room) {
        const int64_t room = 2 * (int64_t)n;

        ag_delete(e->symbols);
        ag_delete(e->queue);
        e->symbols_room = 0;
        e->symbols = ag_new(e->ctx, (size_t)room, sizeof *e->symbols, "symbols of a word");
        e->queue = ag_new(e->ctx, 3 * (size_t)room, sizeof *e->queue, "merges of a word");
        if (!e->symbols || !e->queue)
            return AG_ENOMEM;
        e->symbols_room = room;
    }
    for (int32_t i = 0; i < n; i++) {
        int64_t id = e->tok->byte_id[i == n - 1][(unsigned char)bytes[i]];

        if (id < 0)
            id = e->tok->unknown_id;
        if (id < 0)
            return ag_fail(e->ctx, AG_EDATA,
                           "%s: the vocabulary has neither byte 0x%02x nor an unknown token",
                           e->tok->folder, (unsigned char)bytes[i]);
        e->symbols[i] = (symbol){(int32_t)id, i - 1, i + 1 < n ? i + 1 : -1, false};
    }
    merge_symbols(e, n);
    for (int32_t i = 0; i >= 0 && i < n && status == AG_OK; i = e->symbols[i].next)
        status = emit(e, e->symbols[i].id);
    e->n_words++;
    return status;
}

static ag_status encode_words(encoder *e, const char *text, size_t size)
{
    size_t begin = 0, end;
    ag_status status = AG_OK;

    while (status == AG_OK && (end = tok_next_word(&begin, text, size, true)) > 0) {
        size_t part = begin, part_end;

        /* A match is matched again without the special names, which come apart there. */
        while (status == AG_OK && (part_end = tok_next_word(&part, text, end, false)) > 0) {
            status = encode_word(e, text + part, part_end - part);
            part = part_end;
        }
        begin = end;
    }
    return status;
}

/* --- added tokens ---------------------------------------------------------------------------- */

/* The longest added token that begins at text[at], NULL for none. */
static const tok_added *added_at(const data_tokenizer *tok, const char *text, size_t size,
                                 size_t at, bool normalized)
{
    const tok_added *best = NULL;

    for (int32_t i = tok->first_added[normalized][(unsigned char)text[at]]; i >= 0;
         i = tok->added[i].next) {
        const tok_added *added = &tok->added[i];

        if (added->length <= size - at && (!best || added->length > best->length) &&
            memcmp(text + at, added->pattern, added->length) == 0)
            best = added;
    }
    return best;
}

static ag_status encode_between(encoder *e, const char *text, size_t size, bool normalized);

static ag_status encode_piece(encoder *e, const char *text, size_t size, bool normalized)
{
    char *clean = NULL;
    size_t clean_size = 0;
    ag_status status;

    if (size == 0)
        return AG_OK;
    if (normalized)
        return encode_words(e, text, size);
    status = tok_normalize(&clean, &clean_size, e->ctx, text, size);
    if (status == AG_OK)
        status = encode_between(e, clean, clean_size, true);
    ag_delete(clean);
    return status;
}

/* Cut text at the added tokens of one kind and encode what lies between them. */
static ag_status encode_between(encoder *e, const char *text, size_t size, bool normalized)
{
    size_t done = 0, at = 0;
    ag_status status = AG_OK;

    while (at < size && status == AG_OK) {
        const tok_added *added = added_at(e->tok, text, size, at, normalized);
        size_t begin = at, end, further;

        if (!added) {
            at++;
            continue;
        }
        end = at = at + added->length;
        if (e->tok->split_special && added->special)
            continue;
        if (added->single_word &&
            (tok_is_word_before(text, begin) || tok_is_word_after(text, size, end)))
            continue;
        while (added->lstrip && begin > done && tok_is_space_before(text, begin, &further))
            begin = further;
        while (added->rstrip && tok_is_space_after(text, size, end, &further))
            end = further;
        if (begin < done)
            begin = done;
        status = encode_piece(e, text + done, begin - done, normalized);
        for (int64_t i = 0; i <= added->n_more && status == AG_OK; i++)
            status = emit(e, added->id + i);
        e->n_words++;
        done = end;
        if (at < end)
            at = end;
    }
    return status == AG_OK ? encode_piece(e, text + done, size - done, normalized) : status;
}

/* --- public ---------------------------------------------------------------------------------- */

ag_status data_tokenizer_split(int64_t **out, int64_t **word_of, int64_t *out_n,
                               const data_tokenizer *tok, ag_ctx *ctx, const char *utf8,
                               size_t size)
{
    encoder e = {.tok = tok, .ctx = ctx};
    ag_status status = AG_OK;

    if (size > TOK_MAX_TEXT_BYTES) {
        status = ag_fail(ctx, AG_EDATA, "a prompt of %zu bytes, at most %d are taken", size,
                         TOK_MAX_TEXT_BYTES);
    } else {
        const size_t bad = tok_bad_utf8(utf8, size);

        if (bad < size)
            status = ag_fail(ctx, AG_EDATA, "prompt \"%.*s...\": byte %zu (0x%02x) is not UTF-8",
                             (int)(bad < 40 ? bad : 40), utf8, bad + 1, (unsigned char)utf8[bad]);
    }
    if (status == AG_OK)
        status = encode_between(&e, utf8, size, false);
    ag_delete(e.symbols);
    ag_delete(e.queue);
    if (status == AG_OK && !e.ids) { /* nothing, and yet something to delete */
        e.ids = ag_new(ctx, 1, sizeof *e.ids, "token ids");
        e.words = ag_new(ctx, 1, sizeof *e.words, "token ids");
        status = e.ids && e.words ? AG_OK : AG_ENOMEM;
    }
    if (status == AG_OK) {
        *out = e.ids;
        *out_n = e.n;
        e.ids = NULL;
        if (word_of) {
            *word_of = e.words;
            e.words = NULL;
        }
    }
    ag_delete(e.ids);
    ag_delete(e.words);
    return status;
}

ag_status data_tokenizer_encode_bytes(const data_tokenizer *tok, ag_ctx *ctx, const char *utf8,
                                      size_t size, int64_t *ids, int64_t *mask, int max_length)
{
    int64_t *found = NULL, n_found = 0;
    int n = 0;
    ag_status status;

    if (max_length < 2)
        return ag_fail(ctx, AG_EINVAL, "tokens: a length of %d cannot hold begin and end",
                       max_length);
    status = data_tokenizer_split(&found, NULL, &n_found, tok, ctx, utf8, size);
    if (status != AG_OK)
        return status;
    if (n_found > max_length - 2)
        n_found = max_length - 2;
    ids[n++] = tok->begin_id;
    for (int64_t i = 0; i < n_found; i++)
        ids[n++] = found[i];
    ids[n++] = tok->end_id;
    for (int i = 0; i < max_length; i++) {
        if (i >= n)
            ids[i] = tok->pad_id;
        if (mask)
            mask[i] = i < n;
    }
    ag_delete(found);
    return AG_OK;
}

ag_status data_tokenizer_encode(const data_tokenizer *tok, ag_ctx *ctx, const char *utf8,
                                int64_t *ids, int64_t *mask, int max_length)
{
    return data_tokenizer_encode_bytes(tok, ctx, utf8, strlen(utf8), ids, mask, max_length);
}

ag_status data_tokenizer_add(data_tokenizer *tok, ag_ctx *ctx, const char *token, int64_t n, int64_t *first_id)
{
    const int64_t id = data_tokenizer_size(tok);
    const size_t size = strlen(token);
    bool is_known = tok_find(tok, token, size) >= 0;

    for (int i = 0; i < tok->n_added; i++)
        is_known |= strcmp(tok->added[i].content, token) == 0;
    if (is_known)
        return ag_fail(ctx, AG_EINVAL, "%s: \"%s\" is a token already: wanted a new one", tok->folder, token);
    if (size == 0 || size > TOK_MAX_TEXT_BYTES || tok_bad_utf8(token, size) < size)
        return ag_fail(ctx, AG_EINVAL, "a new token \"%.40s\": wanted text in UTF-8", token);
    if (n < 1 || n > TOK_MAX_ID - id)
        return ag_fail(ctx, AG_EINVAL, "a new token \"%.40s\" of %lld ids", token, (long long)n);
    *first_id = id;
    return tok_add_token(tok, ctx, token, id, n);
}

int data_tokenizer_max_length(const data_tokenizer *tok)
{
    return tok->max_length;
}

int64_t data_tokenizer_size(const data_tokenizer *tok)
{
    int64_t largest = tok->n_entries > 0 ? tok->entries[tok->n_entries - 1].id : -1;

    for (int i = 0; i < tok->n_added; i++)
        if (tok->added[i].id + tok->added[i].n_more > largest)
            largest = tok->added[i].id + tok->added[i].n_more;
    return largest + 1;
}

int64_t data_tokenizer_begin_id(const data_tokenizer *tok)
{
    return tok->begin_id;
}

int64_t data_tokenizer_end_id(const data_tokenizer *tok)
{
    return tok->end_id;
}

int64_t data_tokenizer_pad_id(const data_tokenizer *tok)
{
    return tok->pad_id;
}

int64_t data_tokenizer_unknown_id(const data_tokenizer *tok)
{
    return tok->unknown_id;
}

const char *data_tokenizer_token(const data_tokenizer *tok, int64_t id)
{
    int64_t low = 0, high = tok->n_entries;

    for (int i = 0; i < tok->n_added; i++)
        if (id >= tok->added[i].id && id - tok->added[i].id <= tok->added[i].n_more)
            return tok->added[i].content;
    while (low < high) {
        const int64_t middle = (low + high) / 2;

        if (tok->entries[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < tok->n_entries && tok->entries[low].id == id ? tok->entries[low].token : NULL;
}

ag_status data_tokenizer_copy(const data_tokenizer *tok, ag_ctx *ctx, const char *to)
{
    ag_status status = AG_OK;

    for (int i = 0; tok_file_names[i] && status == AG_OK; i++) {
        char *source, *target, *bytes = NULL;
        size_t size = 0;

        if (!is_file(ctx, tok->folder, tok_file_names[i]))
            continue;
        source = ag_printf(ctx, "%s/%s", tok->folder, tok_file_names[i]);
        target = ag_printf(ctx, "%s/%s", to, tok_file_names[i]);
        status = source && target
                     ? data_file_read(&bytes, &size, ctx, source, TOK_MAX_FILE_BYTES)
                     : AG_ENOMEM;
        if (status == AG_OK)
            status = data_file_write(ctx, target, bytes, size);
        ag_delete(source);
        ag_delete(target);
        ag_delete(bytes);
    }
    return status;
}
