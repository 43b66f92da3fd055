/* json.c - bounded helpers over jansson.
 *
 * A whole number beyond 64 bits (transformers writes model_max_length as 10^30 for "none") makes
 * all numbers of its file real ones; the getters take whole real numbers as integers.
 *
 * The writer is our own because jansson prints 0.00085 as 0.00084999999999999995: files should
 * read as people and Python write them. It prints the shortest decimal that reads back.
 */
#include "data/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/text_file.h"

enum { MAX_DEPTH = 64, MAX_VALUE_IN_MESSAGE = 60 };

/* --- reading --------------------------------------------------------------------------------- */

/* The deepest nesting of a text, strings skipped; jansson's own limit (2048) costs stack. On
 * return *line is where `limit` was passed. */
static bool is_deeper_than(const char *text, size_t size, int limit, int *line)
{
    bool in_string = false;
    int depth = 0;

    *line = 1;
    for (size_t i = 0; i < size; i++) {
        const char c = text[i];

        if (c == '\n')
            ++*line;
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > limit)
                return true;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return false;
}

ag_status data_json_parse(json_t **out, ag_ctx *ctx, const char *name, const char *text,
                          size_t size)
{
    json_error_t error;
    json_t *value;
    int line;

    if (is_deeper_than(text, size, MAX_DEPTH, &line))
        return ag_fail(ctx, AG_EDATA, "%s:%d: nested deeper than %d", name, line, MAX_DEPTH);
    value = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!value && json_error_code(&error) == json_error_numeric_overflow)
        value = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
    if (!value) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return ag_fail(ctx, AG_ENOMEM, "%s: no memory to read it", name);
        for (char *c = error.text; *c; c++)
            if ((unsigned char)*c < ' ')
                *c = ' ';
        return ag_fail(ctx, AG_EDATA, "%s:%d: not JSON: %s", name, error.line > 0 ? error.line : 1,
                       error.text);
    }
    *out = value;
    return AG_OK;
}

ag_status data_json_read(json_t **out, ag_ctx *ctx, const char *path, size_t max_bytes)
{
    char *text = NULL;
    size_t size = 0;
    ag_status status = data_file_read(&text, &size, ctx, path, max_bytes);

    if (status == AG_OK)
        status = data_json_parse(out, ctx, path, text, size);
    ag_delete(text);
    return status;
}

/* --- asking ---------------------------------------------------------------------------------- */

static void wrong_type(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                       const char *wanted)
{
    char *got = data_json_dump(ctx, json_object_get(node, key), 0);

    ag_fail(ctx, AG_EDATA, "%s: \"%s\" must be %s, got %.*s%s", name, key, wanted,
            MAX_VALUE_IN_MESSAGE, got ? got : "another",
            got && strlen(got) > MAX_VALUE_IN_MESSAGE ? "..." : "");
    ag_delete(got);
}

int64_t data_json_int(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                      int64_t otherwise)
{
    const json_t *value = json_object_get(node, key);

    if (!value || json_is_null(value))
        return otherwise;
    if (json_is_integer(value))
        return json_integer_value(value);
    /* 1.0 is an integer to the programs that wrote such files */
    if (json_is_real(value) && fabs(json_real_value(value)) < 9e15 &&
        floor(json_real_value(value)) == json_real_value(value))
        return (int64_t)json_real_value(value);
    wrong_type(ctx, name, node, key, "a whole number");
    return otherwise;
}

double data_json_real(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                      double otherwise)
{
    const json_t *value = json_object_get(node, key);

    if (!value || json_is_null(value))
        return otherwise;
    if (json_is_number(value))
        return json_number_value(value);
    wrong_type(ctx, name, node, key, "a number");
    return otherwise;
}

bool data_json_bool(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                    bool otherwise)
{
    const json_t *value = json_object_get(node, key);

    if (!value || json_is_null(value))
        return otherwise;
    if (json_is_boolean(value))
        return json_is_true(value);
    wrong_type(ctx, name, node, key, "true or false");
    return otherwise;
}

const char *data_json_text(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                           const char *otherwise)
{
    const json_t *value = json_object_get(node, key);

    if (!value || json_is_null(value))
        return otherwise;
    if (json_is_string(value))
        return json_string_value(value);
    wrong_type(ctx, name, node, key, "a string");
    return otherwise;
}

/* --- writing --------------------------------------------------------------------------------- */

typedef struct writer {
    ag_ctx *ctx;
    char *text;
    size_t size, room;
    bool failed;
} writer;

static void put(writer *w, const char *bytes, size_t n)
{
    if (w->failed)
        return;
    if (n >= w->room - w->size) {
        const size_t room = 2 * (w->room + n) + 64;
        char *text = ag_grow(w->ctx, w->text, room, 1, "JSON text");

        if (!text) {
            w->failed = true;
            return;
        }
        w->text = text;
        w->room = room;
    }
    memcpy(w->text + w->size, bytes, n);
    w->size += n;
    w->text[w->size] = 0;
}

static void put_text(writer *w, const char *text)
{
    put(w, text, strlen(text));
}

/* One code point of valid UTF-8 (jansson keeps nothing else); returns its length. */
static int decode(const unsigned char *s, uint32_t *code)
{
    if (s[0] < 0x80) {
        *code = s[0];
        return 1;
    }
    if (s[0] < 0xE0) {
        *code = (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F);
        return 2;
    }
    if (s[0] < 0xF0) {
        *code = (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
        return 3;
    }
    *code = (uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3F) << 12 |
            (uint32_t)(s[2] & 0x3F) << 6 | (s[3] & 0x3F);
    return 4;
}

static void put_string(writer *w, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;

    put_text(w, "\"");
    while (*s) {
        static const char named[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
        const char *which = strchr(named, *s);
        char escape[16];

        if (which) {
            put(w, (char[]){'\\', letter[which - named]}, 2);
            s++;
        } else if (*s >= ' ' && *s < 0x7F) {
            put(w, (const char *)s, 1);
            s++;
        } else {
            uint32_t code;

            s += decode(s, &code);
            if (code >= 0x10000)
                snprintf(escape, sizeof escape, "\\u%04x\\u%04x",
                         (unsigned)(0xD800 + ((code - 0x10000) >> 10)),
                         (unsigned)(0xDC00 + ((code - 0x10000) & 0x3FF)));
            else
                snprintf(escape, sizeof escape, code == 0x7F ? "%c" : "\\u%04x", (unsigned)code);
            put_text(w, escape);
        }
    }
    put_text(w, "\"");
}

/* The shortest decimal that reads back to value, in Python's form: 1.0, 1e-05, 0.00085. */
static void put_real(writer *w, double value)
{
    char digits[40], text[64];
    int exponent, precision = 0;

    if (!isfinite(value)) {
        ag_fail(w->ctx, AG_ENUMERIC, "JSON cannot hold a number that is not finite");
        w->failed = true;
        return;
    }
    do
        snprintf(digits, sizeof digits, "%.*e", precision++, value);
    while (precision < 17 && strtod(digits, NULL) != value);
    exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        put_text(w, digits);
        return;
    }
    precision = precision - 1 - exponent;
    snprintf(text, sizeof text, "%.*f", precision > 1 ? precision : 1, value);
    put_text(w, text);
}

static void put_line(writer *w, int indent, int depth)
{
    if (indent == 0)
        return;
    put_text(w, "\n");
    for (int i = 0; i < indent * depth; i++)
        put_text(w, " ");
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void put_value(writer *w, const json_t *value, int indent, int depth);

static void put_object(writer *w, json_t *object, int indent, int depth)
{
    const size_t n = json_object_size(object);
    const char **keys, *key;
    json_t *value;
    size_t i = 0;

    if (n == 0) {
        put_text(w, "{}");
        return;
    }
    keys = ag_new(w->ctx, n, sizeof *keys, "JSON keys");
    if (!keys) {
        w->failed = true;
        return;
    }
    json_object_foreach (object, key, value)
        keys[i++] = key;
    qsort(keys, n, sizeof *keys, compare_keys);
    put_text(w, "{");
    for (i = 0; i < n && !w->failed; i++) {
        put_text(w, i == 0 ? "" : indent ? "," : ", ");
        put_line(w, indent, depth + 1);
        put_string(w, keys[i]);
        put_text(w, ": ");
        put_value(w, json_object_get(object, keys[i]), indent, depth + 1);
    }
    put_line(w, indent, depth);
    put_text(w, "}");
    ag_delete(keys);
}

static void put_value(writer *w, const json_t *value, int indent, int depth)
{
    char text[32];

    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT:
        put_object(w, (json_t *)value, indent, depth);
        break;
    case JSON_ARRAY:
        put_text(w, "[");
        for (size_t i = 0; i < json_array_size(value) && !w->failed; i++) {
            put_text(w, i == 0 ? "" : indent ? "," : ", ");
            put_line(w, indent, depth + 1);
            put_value(w, json_array_get(value, i), indent, depth + 1);
        }
        if (json_array_size(value) > 0)
            put_line(w, indent, depth);
        put_text(w, "]");
        break;
    case JSON_STRING:
        put_string(w, json_string_value(value));
        break;
    case JSON_INTEGER:
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
        put_text(w, text);
        break;
    case JSON_REAL:
        put_real(w, json_real_value(value));
        break;
    case JSON_TRUE:
        put_text(w, "true");
        break;
    case JSON_FALSE:
        put_text(w, "false");
        break;
    case JSON_NULL:
        put_text(w, "null");
        break;
    }
}

char *data_json_dump(ag_ctx *ctx, const json_t *value, int indent)
{
    writer w = {.ctx = ctx};

    put_value(&w, value, indent, 0);
    if (w.failed) {
        ag_delete(w.text);
        return NULL;
    }
    return w.text;
}

ag_status data_json_write(ag_ctx *ctx, const char *path, const json_t *value)
{
    writer w = {.ctx = ctx};
    ag_status status;

    put_value(&w, value, 2, 0);
    put_text(&w, "\n");
    status = w.failed ? ag_status_of(ctx) : data_file_write(ctx, path, w.text, w.size);
    ag_delete(w.text);
    return status;
}
