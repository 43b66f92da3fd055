/* tokenizer_files.c - vocab.json, merges.txt and the files of special tokens to tables.
 *
 * Who says what, as transformers 5.23 reads them:
 *   vocabulary     vocab.json + merges.txt; tokenizer.json's model where those are missing
 *   named tokens   tokenizer_config.json; unless it holds added_tokens_decoder,
 *                  special_tokens_map.json replaces its entries
 *   added tokens   tokenizer_config.json's added_tokens_decoder; without it added_tokens.json and
 *                  tokenizer.json's added_tokens together
 * Every named token is an added token too. One that the vocabulary has keeps its id there, the
 * others are numbered on from the vocabulary's size in the order of their ids.
 *
 * Source  huggingface/transformers: src/transformers/tokenization_utils_base.py,
 *         tokenization_utils_tokenizers.py; huggingface/tokenizers:
 *         tokenizers/src/tokenizer/added_vocabulary.rs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/json.h"
#include "data/text_file.h"
#include "data/tokenizer_internal.h"

const char *const tok_file_names[] = {"vocab.json",
                                      "merges.txt",
                                      "tokenizer_config.json",
                                      "special_tokens_map.json",
                                      "added_tokens.json",
                                      "tokenizer.json",
                                      NULL};

static const char *const named_tokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                           "pad_token", "cls_token", "mask_token"};
enum { N_NAMED = sizeof named_tokens / sizeof *named_tokens };

/* The path of a file of the folder, NULL when it is not there (or memory is refused). */
static char *existing(const data_tokenizer *tok, ag_ctx *ctx, const char *name)
{
    char *path = ag_printf(ctx, "%s/%s", tok->folder, name);
    struct stat info;

    if (path && stat(path, &info) != 0) {
        ag_delete(path);
        return NULL;
    }
    return path;
}

/* --- vocabulary ------------------------------------------------------------------------------ */

static ag_status read_vocabulary(data_tokenizer *tok, ag_ctx *ctx, const char *path,
                                 json_t *vocabulary)
{
    const char *token;
    json_t *id;

    if (!json_is_object(vocabulary))
        return ag_fail(ctx, AG_EDATA, "%s: wanted an object of tokens and their ids", path);
    if (json_object_size(vocabulary) == 0 || json_object_size(vocabulary) > TOK_MAX_ENTRIES)
        return ag_fail(ctx, AG_EDATA, "%s: %zu tokens, wanted 1 to %d", path,
                       json_object_size(vocabulary), TOK_MAX_ENTRIES);
    json_object_foreach (vocabulary, token, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TOK_MAX_ID)
            return ag_fail(ctx, AG_EDATA, "%s: token \"%.40s\": wanted an id of 0 to %d", path,
                           token, TOK_MAX_ID - 1);
        if (tok_add_entry(tok, ctx, token, json_integer_value(id)) != AG_OK)
            return AG_ENOMEM;
    }
    if (tok_index(tok, ctx) != AG_OK)
        return AG_ENOMEM;
    for (int byte = 0; byte < 256; byte++) {
        char symbol[8];

        tok_byte_symbol(symbol, byte);
        tok->byte_id[0][byte] = tok_find(tok, symbol, strlen(symbol));
        strcat(symbol, "</w>");
        tok->byte_id[1][byte] = tok_find(tok, symbol, strlen(symbol));
    }
    return AG_OK;
}

/* One merge: two symbols of the vocabulary whose concatenation is there too. */
static ag_status add_merge(data_tokenizer *tok, ag_ctx *ctx, const char *path, int64_t rank,
                           const char *left, size_t n_left, const char *right, size_t n_right)
{
    const int64_t left_id = tok_find(tok, left, n_left), right_id = tok_find(tok, right, n_right);
    char *joined = ag_printf(ctx, "%.*s%.*s", (int)n_left, left, (int)n_right, right);
    const int64_t id = joined ? tok_find(tok, joined, strlen(joined)) : -1;
    const char *missing = joined;
    size_t n_missing = joined ? strlen(joined) : 0;
    ag_status status = joined ? AG_OK : AG_ENOMEM;

    if (left_id < 0) {
        missing = left;
        n_missing = n_left;
    } else if (right_id < 0) {
        missing = right;
        n_missing = n_right;
    }
    if (status == AG_OK && (left_id < 0 || right_id < 0 || id < 0))
        status = ag_fail(ctx, AG_EDATA, "%s: merge %lld: \"%.*s\" is not in the vocabulary", path,
                         (long long)rank + 1, (int)(n_missing < 40 ? n_missing : 40), missing);
    if (status == AG_OK)
        tok_set_merge(tok, (int32_t)left_id, (int32_t)right_id, (int32_t)rank, (int32_t)id);
    ag_delete(joined);
    return status;
}

/* "left right", one space between. */
static ag_status add_merge_line(data_tokenizer *tok, ag_ctx *ctx, const char *path, int64_t rank,
                                const char *line, size_t size)
{
    const char *space = memchr(line, ' ', size);
    const size_t n_left = space ? (size_t)(space - line) : 0;

    if (!space || n_left == 0 || n_left + 1 == size || memchr(space + 1, ' ', size - n_left - 1) ||
        memchr(line, 0, size))
        return ag_fail(ctx, AG_EDATA, "%s: merge %lld: wanted two symbols and one space, got "
                                      "\"%.*s\"",
                       path, (long long)rank + 1, (int)(size < 40 ? size : 40), line);
    return add_merge(tok, ctx, path, rank, line, n_left, space + 1, size - n_left - 1);
}

static ag_status read_merges_text(data_tokenizer *tok, ag_ctx *ctx, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    int64_t n = 1, rank = 0;
    ag_status status = data_file_read(&text, &size, ctx, path, TOK_MAX_FILE_BYTES);

    if (status != AG_OK)
        return status;
    while (size > 0 && (text[size - 1] == '\n' || text[size - 1] == '\r'))
        size--;
    for (size_t i = 0; i < size; i++)
        n += text[i] == '\n';
    status = tok_reserve_merges(tok, ctx, n);
    for (size_t at = 0; at < size && status == AG_OK;) {
        const char *line = text + at;
        const char *end = memchr(line, '\n', size - at);
        size_t length = end ? (size_t)(end - line) : size - at;

        at += length + 1;
        if (length > 0 && line[length - 1] == '\r')
            length--;
        if (length >= 8 && memcmp(line, "#version", 8) == 0)
            continue;
        status = add_merge_line(tok, ctx, path, rank++, line, length);
    }
    ag_delete(text);
    return status;
}

static ag_status read_merges_json(data_tokenizer *tok, ag_ctx *ctx, const char *path,
                                  const json_t *merges)
{
    ag_status status;

    if (!json_is_array(merges) || json_array_size(merges) > TOK_MAX_ENTRIES)
        return ag_fail(ctx, AG_EDATA, "%s: model.merges: wanted a list of at most %d", path,
                       TOK_MAX_ENTRIES);
    status = tok_reserve_merges(tok, ctx, (int64_t)json_array_size(merges));
    for (size_t i = 0; i < json_array_size(merges) && status == AG_OK; i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *left = json_string_value(json_array_get(merge, 0));
        const char *right = json_string_value(json_array_get(merge, 1));

        if (json_is_string(merge))
            status = add_merge_line(tok, ctx, path, (int64_t)i, json_string_value(merge),
                                    json_string_length(merge));
        else if (json_array_size(merge) == 2 && left && right)
            status = add_merge(tok, ctx, path, (int64_t)i, left, strlen(left), right,
                               strlen(right));
        else
            status = ag_fail(ctx, AG_EDATA, "%s: merge %zu: wanted two symbols", path, i + 1);
    }
    return status;
}

/* The byte-level BPE of tokenizer.json; its options must be those of CLIP. */
static ag_status read_model(data_tokenizer *tok, ag_ctx *ctx, const char *path,
                            const json_t *document)
{
    json_t *model = json_object_get(document, "model");
    const char *type = data_json_text(ctx, path, model, "type", "BPE");
    ag_status status;

    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    if (!json_is_object(model) || strcmp(type, "BPE") != 0)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: wanted a model of type BPE", path);
    status = read_vocabulary(tok, ctx, path, json_object_get(model, "vocab"));
    return status == AG_OK ? read_merges_json(tok, ctx, path, json_object_get(model, "merges"))
                           : status;
}

/* --- added tokens ---------------------------------------------------------------------------- */

static tok_added *find_added(const data_tokenizer *tok, const char *content)
{
    for (int i = 0; i < tok->n_added; i++)
        if (strcmp(tok->added[i].content, content) == 0)
            return &tok->added[i];
    return NULL;
}

/* Add one token; a later description of the same content replaces the earlier one, unless that
 * came from a list of added tokens. */
static ag_status add_token(data_tokenizer *tok, ag_ctx *ctx, const tok_added *described)
{
    tok_added *added = find_added(tok, described->content);
    int64_t id;

    if (described->content[0] == 0 || (added && added->listed && !described->listed))
        return AG_OK;
    if (added) {
        char *content = added->content;

        id = added->id;
        *added = *described;
        added->content = content;
        added->id = id;
        return AG_OK;
    }
    if (tok->n_added == tok->added_room) {
        const int room = 2 * tok->added_room + 8;

        if (room > TOK_MAX_ADDED)
            return ag_fail(ctx, AG_EDATA, "%s: more than %d added tokens", tok->folder,
                           tok->added_room);
        added = ag_grow(ctx, tok->added, (size_t)room, sizeof *added, "added tokens");
        if (!added)
            return AG_ENOMEM;
        tok->added = added;
        tok->added_room = room;
    }
    id = tok_find(tok, described->content, strlen(described->content));
    if (id < 0) {
        id = tok->n_entries;
        for (int i = 0; i < tok->n_added; i++)
            if (tok->added[i].id >= id)
                id = tok->added[i].id + 1;
    }
    added = &tok->added[tok->n_added];
    *added = *described;
    added->id = id;
    added->content = ag_strdup(ctx, described->content);
    if (!added->content)
        return AG_ENOMEM;
    tok->n_added++;
    return AG_OK;
}

/* What is looked for in the text, and its place in the lists by first byte. */
static ag_status index_token(data_tokenizer *tok, ag_ctx *ctx, int i)
{
    tok_added *added = &tok->added[i];
    int32_t *first;
    size_t n = strlen(added->content);

    if (!added->normalized)
        added->pattern = ag_strdup(ctx, added->content);
    else if (tok_normalize(&added->pattern, &n, ctx, added->content, n) != AG_OK)
        return ag_status_of(ctx);
    if (!added->pattern)
        return AG_ENOMEM;
    added->length = n;
    added->next = -1;
    if (n == 0)
        return AG_OK;
    first = &tok->first_added[added->normalized][(unsigned char)added->pattern[0]];
    added->next = *first;
    *first = i;
    return AG_OK;
}

/* Once all are known. */
static ag_status index_added(data_tokenizer *tok, ag_ctx *ctx)
{
    for (int i = 0; i < tok->n_added && ag_status_of(ctx) == AG_OK; i++)
        index_token(tok, ctx, i);
    return ag_status_of(ctx);
}

ag_status tok_add_token(data_tokenizer *tok, ag_ctx *ctx, const char *content, int64_t id, int64_t n)
{
    const tok_added token = {.content = (char *)content, .normalized = true};

    if (add_token(tok, ctx, &token) != AG_OK)
        return ag_status_of(ctx);
    tok->added[tok->n_added - 1].id = id;
    tok->added[tok->n_added - 1].n_more = n - 1;
    return index_token(tok, ctx, tok->n_added - 1);
}

/* A token as files describe it: a string, or an object with `content`. A token that is named
 * (bos_token, ...) is special. `content` of *out is borrowed from value. */
static ag_status describe_token(tok_added *out, ag_ctx *ctx, const char *path, const char *what,
                                const json_t *value, bool named)
{
    *out = (tok_added){.special = named};
    if (json_is_string(value)) {
        out->content = (char *)json_string_value(value);
        out->special = true;
        return AG_OK;
    }
    if (!json_is_object(value) || !json_is_string(json_object_get(value, "content")))
        return ag_fail(ctx, AG_EDATA,
                       "%s: %.40s: wanted a token: a string, or an object with \"content\"", path,
                       what);
    out->content = (char *)json_string_value(json_object_get(value, "content"));
    out->special = named || data_json_bool(ctx, path, value, "special", false);
    out->normalized = data_json_bool(ctx, path, value, "normalized", !out->special);
    out->single_word = data_json_bool(ctx, path, value, "single_word", false);
    out->lstrip = data_json_bool(ctx, path, value, "lstrip", false);
    out->rstrip = data_json_bool(ctx, path, value, "rstrip", false);
    return ag_status_of(ctx);
}

static const char *token_text(const json_t *value)
{
    return json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
}

/* Is content the text of a named token of the settings, or, `with_more`, of a further one? */
static bool is_special_in(const json_t *settings, const char *content, bool with_more)
{
    const json_t *more = with_more ? json_object_get(settings, "extra_special_tokens") : NULL;
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)settings, key, value) {
        const size_t n = strlen(key);
        const char *text = n > 6 && strcmp(key + n - 6, "_token") == 0 ? token_text(value) : NULL;

        if (text && strcmp(text, content) == 0)
            return true;
    }
    for (size_t i = 0; i < json_array_size(more); i++) {
        const char *text = token_text(json_array_get(more, i));

        if (text && strcmp(text, content) == 0)
            return true;
    }
    return false;
}

/* A list of tokens with the ids that order them. */
typedef struct ordered {
    int64_t id;
    int64_t rank; /* order of reading, for equal ids */
    tok_added token;
} ordered;

typedef struct token_list {
    ordered *items;
    size_t n, room;
} token_list;

static ag_status append(token_list *list, ag_ctx *ctx, int64_t id, const tok_added *token)
{
    for (size_t i = 0; i < list->n; i++) {
        if (list->items[i].id == id) { /* a later description of an id replaces the first */
            list->items[i].token = *token;
            return AG_OK;
        }
    }
    if (list->n == list->room) {
        const size_t room = 2 * list->room + 16;
        ordered *items;

        if (room > TOK_MAX_ADDED)
            return ag_fail(ctx, AG_EDATA, "more than %d added tokens", TOK_MAX_ADDED / 2);
        items = ag_grow(ctx, list->items, room, sizeof *items, "added tokens");
        if (!items)
            return AG_ENOMEM;
        list->items = items;
        list->room = room;
    }
    list->items[list->n] = (ordered){id, (int64_t)list->n, *token};
    list->n++;
    return AG_OK;
}

static int compare_ordered(const void *a, const void *b)
{
    const ordered *left = a, *right = b;

    if (left->id != right->id)
        return left->id < right->id ? -1 : 1;
    return left->rank < right->rank ? -1 : left->rank > right->rank;
}

/* tokenizer_config.json's added_tokens_decoder: {"49406": {"content": ..., ...}, ...}. */
static ag_status list_decoder(token_list *list, ag_ctx *ctx, const char *path,
                              const json_t *settings)
{
    const char *key;
    json_t *value;
    ag_status status = AG_OK;

    json_object_foreach (json_object_get(settings, "added_tokens_decoder"), key, value) {
        char *end;
        const long long id = strtoll(key, &end, 10);
        tok_added token;

        if (*end || end == key || id < 0 || id >= TOK_MAX_ID || !json_is_object(value))
            return ag_fail(ctx, AG_EDATA, "%s: added_tokens_decoder: \"%.20s\": wanted an id of "
                                          "0 to %d and an object",
                           path, key, TOK_MAX_ID - 1);
        status = describe_token(&token, ctx, path, key, value,
                                token_text(value) &&
                                    is_special_in(settings, token_text(value), false));
        if (status == AG_OK)
            status = append(list, ctx, id, &token);
        if (status != AG_OK)
            break;
    }
    return status;
}

/* added_tokens.json: {"<token>": id, ...}. */
static ag_status list_added_file(token_list *list, ag_ctx *ctx, const char *path,
                                 const json_t *document, const json_t *settings)
{
    const char *key;
    json_t *value;

    if (!json_is_object(document))
        return ag_fail(ctx, AG_EDATA, "%s: wanted an object of tokens and their ids", path);
    json_object_foreach ((json_t *)document, key, value) {
        tok_added token = {.content = (char *)key, .special = is_special_in(settings, key, true)};

        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) >= TOK_MAX_ID)
            return ag_fail(ctx, AG_EDATA, "%s: token \"%.40s\": wanted an id of 0 to %d", path, key,
                           TOK_MAX_ID - 1);
        token.normalized = !token.special;
        if (append(list, ctx, json_integer_value(value), &token) != AG_OK)
            return ag_status_of(ctx);
    }
    return AG_OK;
}

/* tokenizer.json's added_tokens: [{"id": 49406, "content": ..., ...}, ...]. */
static ag_status list_json_added(token_list *list, ag_ctx *ctx, const char *path,
                                 const json_t *document)
{
    const json_t *added = json_object_get(document, "added_tokens");

    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *value = json_array_get(added, i);
        const json_t *id = json_object_get(value, "id");
        tok_added token;

        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= TOK_MAX_ID)
            return ag_fail(ctx, AG_EDATA, "%s: added_tokens: wanted an id of 0 to %d", path,
                           TOK_MAX_ID - 1);
        if (describe_token(&token, ctx, path, "added_tokens", value, false) != AG_OK ||
            append(list, ctx, json_integer_value(id), &token) != AG_OK)
            return ag_status_of(ctx);
    }
    return AG_OK;
}

static bool is_named(const char *key)
{
    for (int i = 0; i < N_NAMED; i++)
        if (strcmp(named_tokens[i], key) == 0)
            return true;
    return false;
}

/* Add the tokens of the list by id, then the named ones, then further special ones. */
static ag_status add_tokens(data_tokenizer *tok, ag_ctx *ctx, const char *path,
                            const json_t *settings, token_list *list)
{
    const json_t *more = json_object_get(settings, "extra_special_tokens");
    const char *key;
    json_t *value;
    tok_added token;

    if (list->n > 0)
        qsort(list->items, list->n, sizeof *list->items, compare_ordered);
    for (size_t i = 0; i < list->n; i++) {
        list->items[i].token.listed = true;
        if (add_token(tok, ctx, &list->items[i].token) != AG_OK)
            return ag_status_of(ctx);
    }
    for (int i = 0; i < N_NAMED; i++) {
        value = json_object_get(settings, named_tokens[i]);
        if (!value || json_is_null(value))
            continue;
        if (describe_token(&token, ctx, path, named_tokens[i], value, true) != AG_OK ||
            add_token(tok, ctx, &token) != AG_OK)
            return ag_status_of(ctx);
    }
    json_object_foreach ((json_t *)settings, key, value) { /* a model's own: "image_token", ... */
        const size_t n = strlen(key);

        if (n <= 6 || strcmp(key + n - 6, "_token") != 0 || !token_text(value) || is_named(key))
            continue;
        if (describe_token(&token, ctx, path, key, value, true) != AG_OK ||
            add_token(tok, ctx, &token) != AG_OK)
            return ag_status_of(ctx);
    }
    for (size_t i = 0; i < json_array_size(more); i++)
        if (describe_token(&token, ctx, path, "extra_special_tokens", json_array_get(more, i),
                           false) != AG_OK ||
            add_token(tok, ctx, &token) != AG_OK)
            return ag_status_of(ctx);
    return index_added(tok, ctx);
}

/* --- settings -------------------------------------------------------------------------------- */

/* The id of a named token after everything was added. */
static ag_status named_id(int64_t *out, const data_tokenizer *tok, ag_ctx *ctx, const char *path,
                          const json_t *settings, const char *name)
{
    const char *text = token_text(json_object_get(settings, name));
    const tok_added *added = text ? find_added(tok, text) : NULL;

    *out = added ? added->id : text ? tok_find(tok, text, strlen(text)) : -1;
    if (*out < 0)
        return ag_fail(ctx, AG_EDATA, "%s: %s names no token", path, name);
    return AG_OK;
}

static ag_status apply_settings(data_tokenizer *tok, ag_ctx *ctx, const char *path,
                                const json_t *settings)
{
    static const char *const sides[] = {"padding_side", "truncation_side"};
    const json_t *length = json_object_get(settings, "model_max_length");
    const char *unknown = token_text(json_object_get(settings, "unk_token"));
    ag_status status;

    for (int i = 0; i < 2; i++) {
        const char *side = data_json_text(ctx, path, settings, sides[i], "right");

        if (ag_status_of(ctx) != AG_OK)
            return ag_status_of(ctx);
        if (strcmp(side, "right") != 0)
            return ag_fail(ctx, AG_EUNSUPPORTED, "%s: %s \"%.20s\": only \"right\" is possible",
                           path, sides[i], side);
    }
    tok->split_special = data_json_bool(ctx, path, settings, "split_special_tokens", false);
    tok->max_length = 77;
    if (json_is_number(length) && json_number_value(length) >= 2 &&
        json_number_value(length) < TOK_ABSURD_LENGTH)
        tok->max_length = (int)json_number_value(length);
    status = named_id(&tok->begin_id, tok, ctx, path, settings, "bos_token");
    if (status == AG_OK)
        status = named_id(&tok->end_id, tok, ctx, path, settings, "eos_token");
    if (status == AG_OK && json_is_null(json_object_get(settings, "pad_token")))
        tok->pad_id = tok->end_id;
    else if (status == AG_OK)
        status = named_id(&tok->pad_id, tok, ctx, path, settings, "pad_token");
    tok->unknown_id = unknown ? tok_find(tok, unknown, strlen(unknown)) : -1;
    return status == AG_OK ? ag_status_of(ctx) : status;
}

static bool set_default(json_t *settings, const char *key, const char *token)
{
    return json_object_get(settings, key) ||
           json_object_set_new(settings, key, json_string(token)) == 0;
}

/* tokenizer_config.json, completed by special_tokens_map.json and the class's defaults. */
static ag_status read_settings(json_t **out, const data_tokenizer *tok, ag_ctx *ctx)
{
    char *config = existing(tok, ctx, "tokenizer_config.json");
    char *map = existing(tok, ctx, "special_tokens_map.json");
    json_t *settings = NULL, *special = NULL;
    bool ok;
    ag_status status = AG_OK;

    if (config)
        status = data_json_read(&settings, ctx, config, DATA_JSON_CONFIG_BYTES);
    else
        settings = json_object();
    if (status == AG_OK && !json_is_object(settings))
        status = ag_fail(ctx, settings ? AG_EDATA : AG_ENOMEM, "%s: wanted an object",
                         config ? config : tok->folder);
    if (status == AG_OK && map && !json_object_get(settings, "added_tokens_decoder")) {
        status = data_json_read(&special, ctx, map, DATA_JSON_CONFIG_BYTES);
        if (status == AG_OK && !json_is_object(special))
            status = ag_fail(ctx, AG_EDATA, "%s: wanted an object", map);
        if (status == AG_OK && json_object_update(settings, special) != 0)
            status = ag_fail(ctx, AG_ENOMEM, "%s: no memory", map);
    }
    if (status == AG_OK) {
        json_t *more = json_object_get(settings, "additional_special_tokens"); /* older name */

        ok = set_default(settings, "bos_token", "<|startoftext|>") &&
             set_default(settings, "eos_token", "<|endoftext|>") &&
             set_default(settings, "unk_token", "<|endoftext|>") &&
             set_default(settings, "pad_token", "<|endoftext|>") &&
             (!more || json_object_get(settings, "extra_special_tokens") ||
              json_object_set(settings, "extra_special_tokens", more) == 0);
        if (!ok)
            status = ag_fail(ctx, AG_ENOMEM, "%s: no memory", tok->folder);
    }
    if (status == AG_OK) {
        *out = settings;
        settings = NULL;
    }
    json_decref(settings);
    json_decref(special);
    ag_delete(config);
    ag_delete(map);
    return status;
}

ag_status tok_read_files(data_tokenizer *tok, ag_ctx *ctx)
{
    char *vocabulary = existing(tok, ctx, "vocab.json"), *merges = existing(tok, ctx, "merges.txt");
    char *added = existing(tok, ctx, "added_tokens.json");
    char *whole = existing(tok, ctx, "tokenizer.json");
    json_t *document = NULL, *entries = NULL, *added_document = NULL, *settings = NULL;
    token_list list = {0};
    bool by_decoder;
    ag_status status = ag_status_of(ctx);

    memset(tok->first_added, -1, sizeof tok->first_added);
    if (status == AG_OK && whole)
        status = data_json_read(&document, ctx, whole, TOK_MAX_FILE_BYTES);
    if (status != AG_OK)
        goto out;
    if (vocabulary && merges) {
        status = data_json_read(&entries, ctx, vocabulary, TOK_MAX_FILE_BYTES);
        if (status == AG_OK)
            status = read_vocabulary(tok, ctx, vocabulary, entries);
        if (status == AG_OK)
            status = read_merges_text(tok, ctx, merges);
    } else if (document) {
        status = read_model(tok, ctx, whole, document);
    } else {
        status = ag_fail(ctx, AG_EIO, "%s: %s is missing", tok->folder,
                         vocabulary ? "merges.txt" : "vocab.json");
    }
    if (status == AG_OK)
        status = read_settings(&settings, tok, ctx);
    if (status != AG_OK)
        goto out;
    by_decoder = json_object_get(settings, "added_tokens_decoder") != NULL;
    if (by_decoder)
        status = list_decoder(&list, ctx, tok->folder, settings);
    if (!by_decoder && added) {
        status = data_json_read(&added_document, ctx, added, DATA_JSON_CONFIG_BYTES);
        if (status == AG_OK)
            status = list_added_file(&list, ctx, added, added_document, settings);
    }
    if (!by_decoder && document && status == AG_OK)
        status = list_json_added(&list, ctx, whole, document);
    if (status == AG_OK)
        status = add_tokens(tok, ctx, tok->folder, settings, &list);
    if (status == AG_OK)
        status = apply_settings(tok, ctx, tok->folder, settings);
out:
    ag_delete(list.items);
    json_decref(document);
    json_decref(entries);
    json_decref(added_document);
    json_decref(settings);
    ag_delete(vocabulary);
    ag_delete(merges);
    ag_delete(added);
    ag_delete(whole);
    return status;
}
