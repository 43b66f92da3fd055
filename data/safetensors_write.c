/* safetensors_write.c - writing safetensors files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/json.h"
#include "data/safetensors.h"
#include "data/weights_internal.h"

typedef struct text {
    ag_ctx *ctx;
    const char *path;
    char *bytes;
    size_t size, room;
    ag_status status;
} text;

static void put(text *t, const char *bytes, size_t n)
{
    if (t->status == AG_OK && n > t->room - t->size) {
        const size_t room = 2 * t->room + n + 1024;
        char *more = ag_grow(t->ctx, t->bytes, room, 1, t->path);

        if (more) {
            t->bytes = more;
            t->room = room;
        } else {
            t->status = AG_ENOMEM;
        }
    }
    if (t->status != AG_OK)
        return;
    memcpy(t->bytes + t->size, bytes, n);
    t->size += n;
}

static void put_number(text *t, const char *before, uint64_t number)
{
    char digits[64];

    put(t, digits, (size_t)snprintf(digits, sizeof digits, "%s%llu", before,
                                    (unsigned long long)number));
}

/* A string in quotes, with what JSON wants escaped. */
static void put_string(text *t, const char *string)
{
    json_t *value = json_string(string);
    char *quoted = value ? data_json_dump(t->ctx, value, 0) : NULL;

    if (quoted)
        put(t, quoted, strlen(quoted));
    else
        t->status = ag_fail(t->ctx, AG_ENOMEM, "%s: no memory for its header", t->path);
    ag_delete(quoted);
    json_decref(value);
}

/* --- what is to be written -------------------------------------------------------------------- */

typedef struct item {
    const data_source *source;
    size_t n_bytes, size;
    int64_t position; /* in the caller's list */
} item;

static int compare_widths(const void *a, const void *b)
{
    const item *s = a, *t = b;

    if (s->size != t->size)
        return s->size > t->size ? -1 : 1;
    return (s->position > t->position) - (s->position < t->position);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Refuse a text that stands twice; sorts the list. */
static ag_status refuse_twice(ag_ctx *ctx, const char *path, const char **texts, int64_t n)
{
    char shown[WEIGHTS_SHOWN];

    if (n > 1)
        qsort(texts, (size_t)n, sizeof *texts, compare_texts);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(texts[i - 1], texts[i]) == 0)
            return ag_fail(ctx, AG_EINVAL, "%s: %s is to be written twice", path,
                           weights_shown(shown, texts[i], strlen(texts[i])));
    return AG_OK;
}

static ag_status plan_item(item *out, ag_ctx *ctx, const char *path, const data_source *source)
{
    const size_t size = data_dtype_size(source->dtype), n_name = strlen(source->name);
    char shown[WEIGHTS_SHOWN];
    int64_t bytes = (int64_t)size;
    bool fits = size > 0 && source->n_dims >= 0 && source->n_dims <= DATA_TENSOR_DIMS;

    weights_shown(shown, source->name, n_name);
    if (n_name > DATA_TENSOR_NAME || !weights_is_utf8(source->name, n_name) ||
        strcmp(source->name, "__metadata__") == 0)
        return ag_fail(ctx, AG_EINVAL, "%s: tensor %s: not a name that can be written", path,
                       shown);
    for (int d = 0; d < source->n_dims && fits; d++)
        fits = source->dims[d] >= 0 && !__builtin_mul_overflow(bytes, source->dims[d], &bytes);
    if (!fits)
        return ag_fail(ctx, AG_EINVAL, "%s: tensor %s: not a shape and dtype that can be written",
                       path, shown);
    if (bytes > 0 && !source->values && !source->give)
        return ag_fail(ctx, AG_EINVAL, "%s: tensor %s: no values", path, shown);
    *out = (item){.source = source, .n_bytes = (size_t)bytes, .size = size};
    return AG_OK;
}

static ag_status plan(item *items, uint64_t *n_bytes, ag_ctx *ctx, const char *path,
                      const data_source *tensors, int64_t n)
{
    const char **names = ag_new(ctx, (size_t)n, sizeof *names, path);
    ag_status status = names ? AG_OK : AG_ENOMEM;

    *n_bytes = 0;
    for (int64_t i = 0; i < n && status == AG_OK; i++) {
        status = plan_item(&items[i], ctx, path, &tensors[i]);
        items[i].position = i;
        names[i] = tensors[i].name;
        if (status == AG_OK && __builtin_add_overflow(*n_bytes, items[i].n_bytes, n_bytes))
            status = ag_fail(ctx, AG_EINVAL, "%s: more bytes than a file can have", path);
    }
    if (status == AG_OK)
        status = refuse_twice(ctx, path, names, n);
    if (status == AG_OK && n > 1)
        qsort(items, (size_t)n, sizeof *items, compare_widths);
    ag_delete(names);
    return status;
}

/* --- the header ------------------------------------------------------------------------------- */

static const char *value_of(const data_pair *pairs, int64_t n, const char *key)
{
    for (int64_t i = 0; i < n; i++)
        if (strcmp(pairs[i].key, key) == 0)
            return pairs[i].value;
    return "pt"; /* of the one key that may be missing, "format" */
}

static void put_metadata(text *t, const data_pair *pairs, int64_t n)
{
    const char **keys = ag_new(t->ctx, (size_t)n + 1, sizeof *keys, t->path);
    bool has_format = false;
    int64_t n_keys = n;

    t->status = keys ? t->status : AG_ENOMEM;
    for (int64_t i = 0; i < n && t->status == AG_OK; i++) {
        keys[i] = pairs[i].key;
        has_format = has_format || strcmp(keys[i], "format") == 0;
        if (!weights_is_utf8(keys[i], strlen(keys[i])) ||
            !weights_is_utf8(pairs[i].value, strlen(pairs[i].value)))
            t->status = ag_fail(t->ctx, AG_EINVAL, "%s: metadata that is not UTF-8", t->path);
    }
    if (t->status == AG_OK && !has_format)
        keys[n_keys++] = "format";
    if (t->status == AG_OK)
        t->status = refuse_twice(t->ctx, t->path, keys, n_keys);
    put(t, "{\"__metadata__\":{", 17);
    for (int64_t i = 0; i < n_keys && t->status == AG_OK; i++) {
        put(t, ",", i > 0);
        put_string(t, keys[i]);
        put(t, ":", 1);
        put_string(t, value_of(pairs, n, keys[i]));
    }
    put(t, "}", 1);
    ag_delete(keys);
}

static void put_header(text *t, const item *items, int64_t n, const data_pair *metadata,
                       int64_t n_metadata)
{
    static const char spaces[] = "       ";
    uint64_t at = 0;

    put(t, "\0\0\0\0\0\0\0\0", 8); /* its length, once it is known */
    put_metadata(t, metadata, n_metadata);
    for (int64_t i = 0; i < n && t->status == AG_OK; i++) {
        const data_source *s = items[i].source;

        put(t, ",", 1);
        put_string(t, s->name);
        put(t, ":{\"dtype\":\"", 11);
        put(t, data_dtype_name(s->dtype), strlen(data_dtype_name(s->dtype)));
        put(t, "\",\"shape\":[", 11);
        for (int d = 0; d < s->n_dims; d++)
            put_number(t, d ? "," : "", (uint64_t)s->dims[d]);
        put_number(t, "],\"data_offsets\":[", at);
        at += items[i].n_bytes;
        put_number(t, ",", at);
        put(t, "]}", 2);
    }
    put(t, "}", 1);
    put(t, spaces, (8 - t->size % 8) % 8);
    for (int i = 0; i < 8 && t->status == AG_OK; i++)
        t->bytes[i] = (char)(unsigned char)((uint64_t)(t->size - 8) >> 8 * i);
}

/* --- writing ---------------------------------------------------------------------------------- */

static ag_status write_item(ag_ctx *ctx, data_writer *writer, const item *it, void *piece)
{
    const data_source *s = it->source;
    ag_status status = AG_OK;

    if (s->values)
        return data_writer_put(writer, s->values, it->n_bytes);
    for (size_t at = 0; at < it->n_bytes && status == AG_OK; at += DATA_PIECE_BYTES) {
        const size_t left = it->n_bytes - at;
        const size_t here = left < DATA_PIECE_BYTES ? left : DATA_PIECE_BYTES;

        status = s->give(ctx, s->user, at, here, piece);
        if (status == AG_OK)
            status = data_writer_put(writer, piece, here);
    }
    return status;
}

ag_status data_safetensors_write(ag_ctx *ctx, const char *path, const data_source *tensors,
                                 int64_t n, const data_pair *metadata, int64_t n_metadata)
{
    item *items = ag_new(ctx, (size_t)n, sizeof *items, path);
    void *piece = ag_grow(ctx, NULL, DATA_PIECE_BYTES, 1, path);
    text header = {.ctx = ctx, .path = path};
    data_writer *writer = NULL;
    uint64_t n_bytes = 0;
    ag_status status = items && piece ? AG_OK : AG_ENOMEM;

    if (status == AG_OK)
        status = plan(items, &n_bytes, ctx, path, tensors, n);
    if (status == AG_OK) {
        put_header(&header, items, n, metadata, n_metadata);
        status = header.status;
    }
    if (status == AG_OK)
        status = data_writer_open(&writer, ctx, path, header.size + n_bytes);
    if (status == AG_OK)
        status = data_writer_put(writer, header.bytes, header.size);
    for (int64_t i = 0; i < n && status == AG_OK; i++)
        status = write_item(ctx, writer, &items[i], piece);
    if (status == AG_OK)
        status = data_writer_close(writer);
    else
        data_writer_abandon(writer);
    ag_delete(header.bytes);
    ag_delete(piece);
    ag_delete(items);
    return status;
}
