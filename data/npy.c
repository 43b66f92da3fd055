/* npy.c - the .npy format: magic, version, header length, a header like Python, the array.
 *
 *   93 'N' 'U' 'M' 'P' 'Y'  major minor  length (2 bytes in version 1, 4 after)
 *   {'descr': '<U21', 'fortran_order': False, 'shape': (2, 2), }   blanks, newline
 *
 * The header is parsed by hand as exactly that: three keys in any order, either quote, commas and
 * blanks. Nothing is evaluated. Source: numpy/numpy: numpy/lib/format.py.
 */
#include "data/npy.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "data/text_file.h"

#define MAX_FILE_BYTES ((size_t)1 << 30)

enum { MAX_EMPTY_ITEMS = 1 << 20 }; /* of no bytes each: nothing else bounds them */

/* --- the header ----------------------------------------------------------------------------- */

typedef struct npy_parser {
    ag_ctx *ctx;
    const char *name, *text, *end, *at;
} npy_parser;

static ag_status npy_wrong(const npy_parser *p, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static ag_status npy_wrong(const npy_parser *p, const char *format, ...)
{
    char what[160];
    va_list args;

    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return ag_fail(p->ctx, AG_EDATA, "%s: npy header, character %lld: %s", p->name,
                   (long long)(p->at - p->text), what);
}

static void npy_skip_blanks(npy_parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

/* Take one character if it is next. */
static bool npy_take(npy_parser *p, char c)
{
    npy_skip_blanks(p);
    if (p->at >= p->end || *p->at != c)
        return false;
    p->at++;
    return true;
}

static ag_status npy_string(const char **text, size_t *n, npy_parser *p)
{
    char quote;

    npy_skip_blanks(p);
    if (p->at >= p->end || (*p->at != '\'' && *p->at != '"'))
        return npy_wrong(p, "want a quoted text");
    quote = *p->at++;
    *text = p->at;
    while (p->at < p->end && *p->at != quote && *p->at != '\\')
        p->at++;
    if (p->at >= p->end || *p->at != quote)
        return npy_wrong(p, "a text without its end");
    *n = (size_t)(p->at++ - *text);
    return AG_OK;
}

static ag_status npy_whole(int64_t *value, npy_parser *p)
{
    npy_skip_blanks(p);
    if (p->at >= p->end || *p->at < '0' || *p->at > '9')
        return npy_wrong(p, "want a whole number");
    *value = 0;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9') {
        if (*value > (INT64_MAX - 9) / 10)
            return npy_wrong(p, "a number that is too large");
        *value = *value * 10 + (*p->at++ - '0');
    }
    return AG_OK;
}

/* Byte order, kind, size: '<U21', '|b1', '>f4'. */
static ag_status npy_descr(data_npy *npy, npy_parser *p)
{
    static const struct {
        char kind;
        int sizes[5];
    } known[] = {
        {'b', {1}}, {'i', {1, 2, 4, 8}}, {'u', {1, 2, 4, 8}}, {'f', {2, 4, 8}}, {'c', {8, 16}}};
    const uint16_t one = 1;
    const char *text;
    size_t n;
    int64_t size = 0;
    ag_status status;

    npy_skip_blanks(p);
    if (p->at < p->end && *p->at == '[')
        return npy_wrong(p, "an array of records, want text or numbers");
    status = npy_string(&text, &n, p);
    if (status != AG_OK)
        return status;
    if (n < 3 || n > 16 || !strchr("<>|=", text[0]))
        return npy_wrong(p, "dtype \"%.*s\", want one like \"<U21\" or \"<f4\"",
                         (int)(n > 40 ? 40 : n), text);
    if (text[1] == 'O')
        return npy_wrong(p,
                         "an array of objects (a pickle), which is never opened; save it as text");
    for (size_t i = 2; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return npy_wrong(p, "dtype \"%.*s\", want one like \"<U21\" or \"<f4\"", (int)n, text);
        size = size * 10 + (text[i] - '0');
        if (size > 1 << 24)
            return npy_wrong(p, "dtype \"%.*s\": elements that are too long", (int)n, text);
    }
    npy->kind = text[1];
    npy->big_endian = text[0] == '>' || (text[0] == '=' && *(const uint8_t *)&one == 0);
    npy->item_size = text[1] == 'U' ? 4 * size : size;
    if (text[1] == 'U' || text[1] == 'S')
        return AG_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        for (int s = 0; s < 5 && known[i].kind == text[1]; s++) {
            if (size && known[i].sizes[s] == size)
                return AG_OK;
        }
    }
    return npy_wrong(p, "dtype \"%.*s\" is not read; want text or numbers", (int)n, text);
}

static ag_status npy_order(data_npy *npy, npy_parser *p)
{
    npy_skip_blanks(p);
    if (p->end - p->at >= 4 && !memcmp(p->at, "True", 4)) {
        npy->fortran = true;
        p->at += 4;
        return AG_OK;
    }
    if (p->end - p->at >= 5 && !memcmp(p->at, "False", 5)) {
        npy->fortran = false;
        p->at += 5;
        return AG_OK;
    }
    return npy_wrong(p, "fortran_order is True or False");
}

/* (), (3,), (2, 2), (2, 2,); Python 2 wrote 2L. */
static ag_status npy_shape(data_npy *npy, npy_parser *p)
{
    bool comma = true;

    if (!npy_take(p, '('))
        return npy_wrong(p, "want a shape in parentheses");
    npy->n_items = 1;
    npy->n_dims = 0;
    while (!npy_take(p, ')')) {
        int64_t dim = 0;

        if (!comma)
            return npy_wrong(p, "want a comma or the end of the shape");
        if (npy->n_dims == DATA_NPY_MAX_DIMS)
            return npy_wrong(p, "more than %d dimensions", DATA_NPY_MAX_DIMS);
        if (npy_whole(&dim, p) != AG_OK)
            return ag_status_of(p->ctx);
        if (p->at < p->end && *p->at == 'L')
            p->at++;
        if (dim && npy->n_items > INT64_MAX / dim)
            return npy_wrong(p, "a shape that is too large");
        npy->dims[npy->n_dims++] = dim;
        npy->n_items *= dim;
        comma = npy_take(p, ',');
    }
    if (npy->n_dims == 1 && !comma)
        return npy_wrong(p, "a shape of one dimension needs its comma");
    return AG_OK;
}

static ag_status npy_header(data_npy *npy, npy_parser *p)
{
    enum { HAS_DESCR = 1, HAS_ORDER = 2, HAS_SHAPE = 4 };
    unsigned has = 0;
    bool comma = true;

    if (!npy_take(p, '{'))
        return npy_wrong(p, "want a dictionary in braces");
    while (!npy_take(p, '}')) {
        const char *key;
        size_t n;
        unsigned which;
        ag_status status;

        if (!comma)
            return npy_wrong(p, "want a comma or the end of the dictionary");
        status = npy_string(&key, &n, p);
        if (status != AG_OK)
            return status;
        which = n == 5 && !memcmp(key, "descr", n)            ? HAS_DESCR
                : n == 13 && !memcmp(key, "fortran_order", n) ? HAS_ORDER
                : n == 5 && !memcmp(key, "shape", n)          ? HAS_SHAPE
                                                              : 0;
        if (!which || (has & which))
            return npy_wrong(p, "key \"%.*s\", want descr, fortran_order and shape once each",
                             (int)(n > 40 ? 40 : n), key);
        has |= which;
        if (!npy_take(p, ':'))
            return npy_wrong(p, "want a colon after the key");
        status = which == HAS_DESCR   ? npy_descr(npy, p)
                 : which == HAS_ORDER ? npy_order(npy, p)
                                      : npy_shape(npy, p);
        if (status != AG_OK)
            return status;
        comma = npy_take(p, ',');
    }
    if (has != (HAS_DESCR | HAS_ORDER | HAS_SHAPE))
        return npy_wrong(p, "a key is missing, want descr, fortran_order and shape");
    npy_skip_blanks(p);
    if (p->at != p->end)
        return npy_wrong(p, "text after the dictionary");
    return AG_OK;
}

/* --- the array ------------------------------------------------------------------------------ */

ag_status data_npy_decode(data_npy *npy, ag_ctx *ctx, const void *bytes, size_t n_bytes,
                          const char *name)
{
    const uint8_t *b = bytes;
    data_npy made = {0};
    npy_parser p = {.ctx = ctx, .name = name};
    size_t start, n_header;
    int64_t left, n_items_bytes;

    if (n_bytes < 10 || memcmp(b, "\x93NUMPY", 6))
        return ag_fail(ctx, AG_EDATA, "%s: not an npy file (its first bytes are not \\x93NUMPY)",
                       name);
    if (b[6] < 1 || b[6] > 3)
        return ag_fail(ctx, AG_EDATA, "%s: npy version %d.%d, want 1 to 3", name, b[6], b[7]);
    start = b[6] == 1 ? 10 : 12;
    if (n_bytes < start)
        return ag_fail(ctx, AG_EDATA, "%s: the file ends inside its npy header", name);
    n_header = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1)
        n_header |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (n_header > DATA_NPY_MAX_HEADER)
        return ag_fail(ctx, AG_EDATA, "%s: npy header of %zu bytes, at most %d are read", name,
                       n_header, DATA_NPY_MAX_HEADER);
    if (n_header > n_bytes - start)
        return ag_fail(ctx, AG_EDATA, "%s: the file ends inside its npy header", name);
    p.text = p.at = (const char *)b + start;
    p.end = p.text + n_header;
    if (npy_header(&made, &p) != AG_OK)
        return ag_status_of(ctx);

    left = (int64_t)(n_bytes - start - n_header);
    if (made.item_size && made.n_items > left / made.item_size)
        return ag_fail(ctx, AG_EDATA,
                       "%s: %lld bytes after the npy header, want %lld elements of %lld bytes",
                       name, (long long)left, (long long)made.n_items, (long long)made.item_size);
    if (!made.item_size && made.n_items > MAX_EMPTY_ITEMS)
        return ag_fail(ctx, AG_EDATA, "%s: npy array of %lld empty elements", name,
                       (long long)made.n_items);
    n_items_bytes = made.n_items * made.item_size;
    made.items = ag_new(ctx, (size_t)n_items_bytes + 1, 1, "an npy array");
    if (!made.items)
        return AG_ENOMEM;
    memcpy(made.items, b + start + n_header, (size_t)n_items_bytes);
    made.n_trailing = left - n_items_bytes;
    *npy = made;
    return AG_OK;
}

ag_status data_npy_read(data_npy *npy, ag_ctx *ctx, const char *path)
{
    char *bytes = NULL;
    size_t n = 0;
    ag_status status = data_file_read(&bytes, &n, ctx, path, MAX_FILE_BYTES);

    if (status == AG_OK)
        status = data_npy_decode(npy, ctx, bytes, n, path);
    ag_delete(bytes);
    return status;
}

void data_npy_free(data_npy *npy)
{
    if (!npy)
        return;
    ag_delete(npy->items);
    *npy = (data_npy){0};
}

int64_t data_npy_offset(const data_npy *npy, int64_t index)
{
    int64_t at = 0, stride = npy->n_items;

    if (!npy->fortran)
        return index * npy->item_size;
    /* C order splits the index from the last axis; in Fortran order axis k steps dims[0..k-1]. */
    for (int k = npy->n_dims - 1; k >= 0; k--) {
        stride /= npy->dims[k];
        at += index % npy->dims[k] * stride;
        index /= npy->dims[k];
    }
    return at * npy->item_size;
}

/* Element at p as n raw bytes turned into the machine's order, low byte first in the result. */
static uint64_t npy_word(const data_npy *npy, const uint8_t *p, int n)
{
    uint64_t v = 0;

    for (int i = 0; i < n; i++)
        v |= (uint64_t)p[npy->big_endian ? n - 1 - i : i] << (8 * i);
    return v;
}

/* IEEE 754 binary16: sign, 5 bits of exponent (bias 15), 10 of fraction. */
static double half_to_double(uint32_t v)
{
    const int exponent = (int)(v >> 10 & 31);
    const double fraction = (double)(v & 1023);
    const double size = exponent == 31  ? (v & 1023 ? NAN : INFINITY)
                        : exponent == 0 ? ldexp(fraction, -24)
                                        : ldexp(1024.0 + fraction, exponent - 25);

    return v & 0x8000 ? -size : size;
}

double data_npy_number(const data_npy *npy, int64_t index)
{
    const uint64_t v = npy_word(npy, npy->items + data_npy_offset(npy, index), (int)npy->item_size);
    const int n_bits = 8 * (int)npy->item_size;
    const uint64_t sign = (uint64_t)1 << (n_bits - 1);
    float f4;
    double f8;

    switch (npy->kind) {
    case 'b':
        return v != 0;
    case 'u':
        return (double)v;
    case 'i':
        return v & sign ? -(double)((sign << 1) - v) : (double)v;
    case 'f':
        if (n_bits == 16)
            return half_to_double((uint32_t)v);
        if (n_bits == 32) {
            const uint32_t single = (uint32_t)v;
            memcpy(&f4, &single, sizeof f4);
            return f4;
        }
        memcpy(&f8, &v, sizeof f8);
        return f8;
    default:
        return 0.0;
    }
}

/* --- text ----------------------------------------------------------------------------------- */

static int utf8_encode(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* The code point at text (n bytes left): its length, or 0 when it is not well-formed (Unicode 15,
 * table 3-7). */
static int utf8_decode(uint32_t *c, const uint8_t *text, size_t n)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const int len = text[0] < 0x80             ? 1
                    : (text[0] & 0xe0) == 0xc0 ? 2
                    : (text[0] & 0xf0) == 0xe0 ? 3
                    : (text[0] & 0xf8) == 0xf0 ? 4
                                               : 0;

    if (!len || (size_t)len > n)
        return 0;
    *c = len == 1 ? text[0] : (uint32_t)(text[0] & (0xff >> (len + 1)));
    for (int i = 1; i < len; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        *c = *c << 6 | (text[i] & 63);
    }
    return *c < least[len] || *c > 0x10ffff || (*c >= 0xd800 && *c < 0xe000) ? 0 : len;
}

static bool code_is_text(uint32_t c)
{
    return c != 0 && c <= 0x10ffff && !(c >= 0xd800 && c < 0xe000);
}

char *data_npy_text(ag_ctx *ctx, const data_npy *npy, int64_t index, const char *name)
{
    const uint8_t *item = npy->items + data_npy_offset(npy, index);
    const bool wide = npy->kind == 'U';
    const int64_t step = wide ? 4 : 1;
    int64_t n = npy->item_size / step, at = 0;
    char *text;

    if (npy->kind != 'U' && npy->kind != 'S') {
        ag_fail(ctx, AG_EDATA, "%s: an array of kind '%c', want text", name, npy->kind);
        return NULL;
    }
    while (n > 0 && npy_word(npy, item + (n - 1) * step, (int)step) == 0)
        n--;
    text = ag_new(ctx, (size_t)(wide ? 4 * n : n) + 1, 1, "an element of an npy array");
    if (!text)
        return NULL;
    for (int64_t i = 0; i < n;) {
        uint32_t c = wide ? (uint32_t)npy_word(npy, item + 4 * i, 4) : 0;
        const int taken = wide ? 1 : utf8_decode(&c, item + i, (size_t)(n - i));

        if (!taken || !code_is_text(c)) {
            ag_fail(ctx, AG_EDATA, "%s: element %lld, character %lld is no text (0x%x)", name,
                    (long long)index, (long long)i, wide ? c : item[i]);
            ag_delete(text);
            return NULL;
        }
        at += utf8_encode(text + at, c);
        i += taken;
    }
    text[at] = 0;
    return text;
}

/* --- writing -------------------------------------------------------------------------------- */

ag_status data_npy_encode_text2(uint8_t **bytes, size_t *n_bytes, ag_ctx *ctx,
                                const char *const *cells, int64_t n, int64_t min_width)
{
    char head[128] = "\x93NUMPY\x01";
    int64_t width = min_width < 1 ? 1 : min_width;
    uint8_t *out;
    int length;

    for (int64_t i = 0; i < 2 * n; i++) {
        const size_t len = strlen(cells[i]);
        int64_t n_codes = 0;
        uint32_t c;
        int taken;

        for (size_t at = 0; at < len; at += (size_t)taken, n_codes++) {
            taken = utf8_decode(&c, (const uint8_t *)cells[i] + at, len - at);
            if (!taken)
                return ag_fail(ctx, AG_EDATA, "cannot write \"%s\" into an npy file: not UTF-8",
                               cells[i]);
        }
        width = n_codes > width ? n_codes : width;
    }
    length =
        snprintf(head + 10, sizeof head - 10,
                 "{'descr': '<U%" PRId64 "', 'fortran_order': False, 'shape': (%" PRId64 ", 2), }",
                 width, n);
    if (n < 0 || width > (1 << 24) || n > INT64_MAX / (8 * width) || length > (int)sizeof head - 11)
        return ag_fail(ctx, AG_EINVAL, "an npy file of %lld rows is too large", (long long)n);
    memset(head + 10 + length, ' ', sizeof head - 10 - (size_t)length);
    head[8] = (char)(sizeof head - 10);
    head[sizeof head - 1] = '\n';

    out = ag_new(ctx, sizeof head + (size_t)(8 * width * n), 1, "an npy file");
    if (!out)
        return AG_ENOMEM;
    memcpy(out, head, sizeof head);
    for (int64_t i = 0; i < 2 * n; i++) {
        const size_t len = strlen(cells[i]);
        uint8_t *item = out + sizeof head + 4 * width * i;
        uint32_t c = 0;

        for (size_t at = 0; at < len; item += 4) {
            at += (size_t)utf8_decode(&c, (const uint8_t *)cells[i] + at, len - at);
            for (int k = 0; k < 4; k++)
                item[k] = (uint8_t)(c >> (8 * k));
        }
    }
    *bytes = out;
    *n_bytes = sizeof head + (size_t)(8 * width * n);
    return AG_OK;
}

ag_status data_npy_write_text2(ag_ctx *ctx, const char *path, const char *const *cells, int64_t n,
                               int64_t min_width)
{
    uint8_t *bytes = NULL;
    size_t n_bytes = 0;
    ag_status status = data_npy_encode_text2(&bytes, &n_bytes, ctx, cells, n, min_width);

    if (status == AG_OK)
        status = data_file_write(ctx, path, bytes, n_bytes);
    ag_delete(bytes);
    return status;
}
