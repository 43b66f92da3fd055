/* safetensors.c - listing the tensors of a safetensors file.
 *
 * The header is one JSON object. It is walked member by member here and each member's value is
 * given to the JSON library alone, so that a hostile header of 100 MB costs the memory of one
 * entry and not of a tree of all of them.
 *
 * A file is taken only when its tensors tile the values exactly: sorted by offset, the first
 * begins at 0, each begins where the one before ended, the last ends with the file. So there is
 * no room for anything hidden and no byte belongs to two tensors.
 *
 * Source  safetensors/safetensors: README.md, safetensors/src/tensor.rs (the rules).
 */
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "data/weights_internal.h"

enum {
    MAX_HEADER_BYTES = 100000000,
    MAX_ENTRY_BYTES = 1 << 14, /* of one tensor; 16 axes of 20 digits and some spaces */
    MAX_METADATA_BYTES = 16 << 20,
    MAX_DEPTH = 4
};

/* --- listing ---------------------------------------------------------------------------------- */

typedef struct header {
    ag_ctx *ctx;
    data_weights *w;
    const data_file *file;
    int64_t file_index;
    const char *at, *end, *begin;
    bool has_metadata;
} header;

static ag_status bad_place(const header *h, const char *what)
{
    return ag_fail(h->ctx, AG_EDATA, "%s: header byte %zu: %s", h->file->path,
                   (size_t)(h->at - h->begin), what);
}

static ag_status bad_tensor(const header *h, const char *name, const char *what)
{
    char shown[WEIGHTS_SHOWN];

    return ag_fail(h->ctx, AG_EDATA, "%s: tensor %s: %s", h->file->path,
                   weights_shown(shown, name, strlen(name)), what);
}

static void skip_space(header *h)
{
    while (h->at < h->end && (*h->at == ' ' || *h->at == '\t' || *h->at == '\n' || *h->at == '\r'))
        h->at++;
}

/* Take the one character `c`. */
static bool take(header *h, char c)
{
    skip_space(h);
    if (h->at == h->end || *h->at != c)
        return false;
    h->at++;
    return true;
}

/* Step over a string that begins here; its quotes are counted in *n. */
static bool string_extent(header *h, const char **text, size_t *n)
{
    skip_space(h);
    if (h->at == h->end || *h->at != '"')
        return false;
    *text = h->at;
    for (h->at++; h->at < h->end && *h->at != '"'; h->at++)
        if (*h->at == '\\' && ++h->at == h->end)
            return false;
    if (h->at == h->end)
        return false;
    h->at++;
    *n = (size_t)(h->at - *text);
    return true;
}

/* Step over an object that begins here, without looking at more than brackets and strings; the
 * JSON library judges the rest. */
static ag_status object_extent(header *h, const char **text, size_t *n)
{
    int depth = 1; /* the header itself */

    skip_space(h);
    if (h->at == h->end || *h->at != '{')
        return bad_place(h, "wanted '{'");
    *text = h->at;
    while (h->at < h->end) {
        const char *string;

        if (*h->at == '"') {
            size_t size;

            if (!string_extent(h, &string, &size))
                return bad_place(h, "a string without an end");
            continue;
        }
        if ((*h->at == '{' || *h->at == '[') && ++depth > MAX_DEPTH)
            return bad_place(h, "nested too deep");
        if (*h->at == '}' || *h->at == ']')
            depth--;
        h->at++;
        if (depth == 1) {
            *n = (size_t)(h->at - *text);
            return AG_OK;
        }
    }
    return bad_place(h, "an object without an end");
}

static ag_status parse(const header *h, json_t **out, const char *text, size_t n)
{
    json_error_t error;
    json_t *value = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);

    if (!value) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return ag_fail(h->ctx, AG_ENOMEM, "%s: no memory for its header", h->file->path);
        for (char *c = error.text; *c; c++)
            if (*c < ' ' || *c == 0x7F)
                *c = '?';
        return ag_fail(h->ctx, AG_EDATA, "%s: header byte %zu: %s", h->file->path,
                       (size_t)(text - h->begin), error.text);
    }
    *out = value;
    return AG_OK;
}

static ag_status read_metadata(header *h, json_t *object)
{
    const char *key;
    json_t *value;

    if (h->has_metadata)
        return bad_place(h, "__metadata__ stands twice");
    h->has_metadata = true;
    json_object_foreach (object, key, value) {
        ag_status status;

        if (!json_is_string(value))
            return bad_place(h, "__metadata__: wanted texts only");
        status = weights_add_metadata(h->ctx, h->w, key, json_string_value(value));
        if (status != AG_OK)
            return status;
    }
    return AG_OK;
}

/* One entry: {"dtype": text, "shape": [whole numbers], "data_offsets": [begin, end]}. On the way
 * out record->at is the begin, relative to the values. */
static ag_status read_entry(header *h, const char *name, size_t n_name, const json_t *object)
{
    const json_t *dtype = json_object_get(object, "dtype");
    const json_t *shape = json_object_get(object, "shape");
    const json_t *offsets = json_object_get(object, "data_offsets");
    const size_t n_dims = json_array_size(shape);
    int64_t begin, end, n_values = 1, n_bits, *dims;
    char shown[WEIGHTS_SHOWN];
    weight_record *r;
    int bits;

    if (!json_is_string(dtype) || !json_is_array(shape) || json_array_size(offsets) != 2)
        return bad_tensor(h, name, "wanted dtype, shape and two data_offsets");
    if (n_dims > DATA_TENSOR_DIMS)
        return bad_tensor(h, name, "has too many axes, at most 16 are taken");
    for (size_t d = 0; d < n_dims; d++) {
        const json_t *dim = json_array_get(shape, d);

        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return bad_tensor(h, name, "its shape must be of whole numbers");
        if (__builtin_mul_overflow(n_values, json_integer_value(dim), &n_values))
            return bad_tensor(h, name, "its shape is too large");
    }
    if (!json_is_integer(json_array_get(offsets, 0)) ||
        !json_is_integer(json_array_get(offsets, 1)))
        return bad_tensor(h, name, "its data_offsets must be whole numbers");
    begin = json_integer_value(json_array_get(offsets, 0));
    end = json_integer_value(json_array_get(offsets, 1));
    if (begin < 0 || end < begin || (uint64_t)end > h->file->size)
        return bad_tensor(h, name, "its data_offsets lie outside the file");
    r = h->w->n_records < DATA_TENSORS_PER_FILE ? weights_add(h->ctx, h->w) : NULL;
    if (!r)
        return h->w->n_records < DATA_TENSORS_PER_FILE
                   ? AG_ENOMEM
                   : ag_fail(h->ctx, AG_EDATA, "%s: more than %d tensors", h->file->path,
                             DATA_TENSORS_PER_FILE);
    r->told.dtype = weights_dtype_of(json_string_value(dtype), json_string_length(dtype), &bits);
    /* bits 0: a dtype nobody here knows; whatever size it has must only tile */
    if (bits > 0 &&
        (__builtin_mul_overflow(n_values, (int64_t)bits, &n_bits) || n_bits % 8 != 0 ||
         n_bits / 8 != end - begin))
        return ag_fail(h->ctx, AG_EDATA, "%s: tensor %s: %lld values of %s do not take %lld bytes",
                       h->file->path, weights_shown(shown, name, n_name), (long long)n_values,
                       json_string_value(dtype), (long long)(end - begin));
    dims = weights_take(h->ctx, h->w, n_dims * sizeof *dims);
    r->told.name = dims ? weights_text(h->ctx, h->w, name, n_name) : NULL;
    if (!r->told.name)
        return AG_ENOMEM;
    r->told.dtype_name = data_dtype_name(r->told.dtype);
    if (r->told.dtype == DATA_OTHER_DTYPE) {
        weights_shown(shown, json_string_value(dtype), json_string_length(dtype));
        r->told.dtype_name = weights_text(h->ctx, h->w, shown, strlen(shown));
        if (!r->told.dtype_name)
            return AG_ENOMEM;
    }
    for (size_t d = 0; d < n_dims; d++)
        dims[d] = json_integer_value(json_array_get(shape, d));
    r->told.n_dims = (int)n_dims;
    r->told.dims = dims;
    r->told.n_values = n_values;
    r->told.n_bytes = (size_t)(end - begin);
    r->at = (uint64_t)begin;
    r->file = h->file_index;
    return AG_OK;
}

/* One member of the header: a name and its object. */
static ag_status read_member(header *h)
{
    const char *key_text, *text = NULL;
    size_t n_key, n = 0;
    bool is_metadata = false;
    json_t *key = NULL, *value = NULL;
    ag_status status;

    if (!string_extent(h, &key_text, &n_key))
        return bad_place(h, "wanted a name in quotes");
    if (n_key > 6 * DATA_TENSOR_NAME + 2)
        return bad_place(h, "a name that is too long");
    if (!take(h, ':'))
        return bad_place(h, "wanted ':'");
    status = object_extent(h, &text, &n);
    if (status == AG_OK)
        status = parse(h, &key, key_text, n_key);
    if (status == AG_OK && json_string_length(key) > DATA_TENSOR_NAME)
        status = bad_place(h, "a name that is too long");
    if (status == AG_OK)
        is_metadata = strcmp(json_string_value(key), "__metadata__") == 0;
    if (status == AG_OK && n > (is_metadata ? MAX_METADATA_BYTES : MAX_ENTRY_BYTES))
        status = bad_place(h, "an entry that is too long");
    if (status == AG_OK)
        status = parse(h, &value, text, n);
    if (status == AG_OK && is_metadata)
        status = read_metadata(h, value);
    else if (status == AG_OK)
        status = read_entry(h, json_string_value(key), json_string_length(key), value);
    json_decref(value);
    json_decref(key);
    return status;
}

static int compare_places(const void *a, const void *b)
{
    const weight_record *r = a, *s = b;

    if (r->at != s->at)
        return r->at < s->at ? -1 : 1;
    if (r->told.n_bytes != s->told.n_bytes)
        return r->told.n_bytes < s->told.n_bytes ? -1 : 1;
    return strcmp(r->told.name, s->told.name);
}

/* Sort the file's records by offset, see that they tile its values, make the offsets absolute. */
static ag_status tile(const header *h, int64_t first, uint64_t values_at)
{
    weight_record *r = h->w->n_records ? h->w->records + first : NULL;
    const int64_t n = h->w->n_records - first;
    const uint64_t n_bytes = h->file->size - values_at;
    uint64_t reached = 0;

    if (n > 1)
        qsort(r, (size_t)n, sizeof *r, compare_places);
    for (int64_t i = 0; i < n; i++) {
        if (r[i].at != reached)
            return bad_tensor(h, r[i].told.name,
                              r[i].at < reached ? "shares bytes with another tensor"
                                                : "follows bytes that belong to no tensor");
        reached += r[i].told.n_bytes;
        r[i].at += values_at;
    }
    if (reached != n_bytes)
        return ag_fail(h->ctx, AG_EDATA, "%s: the header tells of %llu bytes, the file has %llu",
                       h->file->path, (unsigned long long)reached, (unsigned long long)n_bytes);
    return AG_OK;
}

ag_status weights_scan_safetensors(ag_ctx *ctx, data_weights *w, int64_t file_index)
{
    const data_file *file = &w->files[file_index];
    const int64_t first = w->n_records;
    header h = {.ctx = ctx, .w = w, .file = file, .file_index = file_index};
    unsigned char size_bytes[8];
    uint64_t size = 0;
    char *text = NULL;
    ag_status status;

    if (file->size < 8)
        return ag_fail(ctx, AG_EDATA, "%s: neither safetensors nor a torch file: %llu bytes only",
                       file->path, (unsigned long long)file->size);
    status = data_file_get(ctx, file, 0, 8, size_bytes);
    if (status != AG_OK)
        return status;
    for (int i = 7; i >= 0; i--)
        size = size << 8 | size_bytes[i];
    if (size < 2 || size > MAX_HEADER_BYTES || size > file->size - 8)
        return ag_fail(ctx, AG_EDATA,
                       "%s: neither safetensors nor a torch file (a header of %llu bytes in a file "
                       "of %llu)",
                       file->path, (unsigned long long)size, (unsigned long long)file->size);
    text = ag_grow(ctx, NULL, (size_t)size, 1, file->path);
    if (!text)
        return AG_ENOMEM;
    status = data_file_get(ctx, file, 8, (size_t)size, text);
    if (status != AG_OK)
        goto out;
    h.begin = h.at = text;
    h.end = text + size;
    if (*text != '{') {
        status = ag_fail(ctx, AG_EDATA, "%s: neither safetensors nor a torch file: the header does "
                         "not begin with '{'", file->path);
        goto out;
    }
    h.at++;
    if (!take(&h, '}')) {
        do
            status = read_member(&h);
        while (status == AG_OK && take(&h, ','));
        if (status == AG_OK && !take(&h, '}'))
            status = bad_place(&h, "wanted ',' or '}'");
    }
    while (status == AG_OK && h.at < h.end)
        if (*h.at++ != ' ')
            status = bad_place(&h, "something after the end of the header");
    if (status == AG_OK)
        status = tile(&h, first, 8 + size);
out:
    ag_delete(text);
    return status;
}
