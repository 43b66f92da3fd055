/* yaml.c - libyaml's events to a tree, with everything refused that a configuration does not need.
 *
 * libyaml hands out events and expands nothing by itself, so refusing aliases and anchors where
 * they appear leaves no way to make a small file large. Nodes lie in one array and name each other
 * by index, so that the array may move while it grows.
 */
#include "data/yaml.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "data/text_file.h"

enum {
    MAX_BYTES = 1 << 20,
    MAX_SCALAR_BYTES = 64 << 10,
    MAX_DEPTH = 32,
    MAX_IN_MESSAGE = 60
};

struct data_yaml_node {
    data_yaml *yaml;
    data_yaml_kind kind;
    int line;
    bool quoted;
    char *key;        /* in a map: the key it stands under */
    char *text;       /* of a scalar */
    int64_t n;        /* entries */
    int64_t first;    /* node number of the first entry, -1 for none */
    int64_t last;     /* ... and of the last, while reading */
    int64_t next;     /* the next entry beside this one, -1 for none */
    int64_t *entries; /* node numbers, once the document is complete */
};

struct data_yaml {
    char *name;
    data_yaml_node *nodes;
    int64_t n_nodes, room;
};

/* --- building the tree ----------------------------------------------------------------------- */

typedef struct reader {
    ag_ctx *ctx;
    const char *name;
    data_yaml *yaml;
    int64_t open[MAX_DEPTH]; /* node numbers of the maps and lists we are inside of */
    int depth;
    char *key; /* read, and waiting for its value */
    int key_line;
} reader;

static int event_line(const yaml_event_t *event)
{
    return (int)event->start_mark.line + 1;
}

/* A new node below the innermost open one, under the waiting key where that is a map. */
static ag_status add_node(reader *r, data_yaml_kind kind, int line, int64_t *out)
{
    data_yaml *yaml = r->yaml;
    data_yaml_node *node;

    if (yaml->n_nodes == yaml->room) {
        const int64_t room = 2 * yaml->room + 16;
        data_yaml_node *nodes =
            ag_grow(r->ctx, yaml->nodes, (size_t)room, sizeof *nodes, "YAML nodes");

        if (!nodes)
            return AG_ENOMEM;
        yaml->nodes = nodes;
        yaml->room = room;
    }
    *out = yaml->n_nodes++;
    node = &yaml->nodes[*out];
    *node = (data_yaml_node){
        .yaml = yaml, .kind = kind, .line = line, .first = -1, .last = -1, .next = -1};
    if (r->depth > 0) {
        data_yaml_node *parent = &yaml->nodes[r->open[r->depth - 1]];

        if (parent->kind == DATA_YAML_MAP) {
            node->key = r->key;
            r->key = NULL;
        }
        if (parent->last >= 0)
            yaml->nodes[parent->last].next = *out;
        else
            parent->first = *out;
        parent->last = *out;
        parent->n++;
    }
    return AG_OK;
}

static bool wants_key(const reader *r)
{
    return r->depth > 0 && !r->key &&
           r->yaml->nodes[r->open[r->depth - 1]].kind == DATA_YAML_MAP;
}

static ag_status read_scalar(reader *r, const yaml_event_t *event)
{
    const char *value = (const char *)event->data.scalar.value;
    const size_t length = event->data.scalar.length;
    const bool quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    const int line = event_line(event);
    char *text;
    int64_t at;

    if (event->data.scalar.anchor)
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: anchors are not taken", r->name, line);
    if (event->data.scalar.tag)
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: tags are not taken", r->name, line);
    if (length > MAX_SCALAR_BYTES)
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: a value of %zu bytes, at most %d are taken",
                       r->name, line, length, MAX_SCALAR_BYTES);
    if (memchr(value, 0, length))
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: a value with a NUL in it", r->name, line);
    text = ag_strdup(r->ctx, value);
    if (!text)
        return AG_ENOMEM;
    if (wants_key(r)) {
        if (!quoted && length == 0) {
            ag_delete(text);
            return ag_fail(r->ctx, AG_EDATA, "%s:%d: a value without a key", r->name, line);
        }
        r->key = text;
        r->key_line = line;
        return AG_OK;
    }
    if (add_node(r, DATA_YAML_SCALAR, line, &at) != AG_OK) {
        ag_delete(text);
        return AG_ENOMEM;
    }
    r->yaml->nodes[at].text = text;
    r->yaml->nodes[at].quoted = quoted;
    return AG_OK;
}

static ag_status open_node(reader *r, data_yaml_kind kind, const yaml_event_t *event,
                           const yaml_char_t *anchor, const yaml_char_t *tag)
{
    const int line = event_line(event);
    int64_t at;

    if (anchor)
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: anchors are not taken", r->name, line);
    if (tag)
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: tags are not taken", r->name, line);
    if (wants_key(r))
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: a key must be a word", r->name, line);
    if (r->depth == MAX_DEPTH)
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: nested deeper than %d", r->name, line, MAX_DEPTH);
    if (add_node(r, kind, line, &at) != AG_OK)
        return AG_ENOMEM;
    r->open[r->depth++] = at;
    return AG_OK;
}

static ag_status read_event(reader *r, const yaml_event_t *event, int *n_documents)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++*n_documents > 1)
            return ag_fail(r->ctx, AG_EDATA, "%s:%d: a second document; one is taken", r->name,
                           event_line(event));
        if (event->data.document_start.tag_directives.start !=
            event->data.document_start.tag_directives.end)
            return ag_fail(r->ctx, AG_EDATA, "%s:%d: tags are not taken", r->name,
                           event_line(event));
        return AG_OK;
    case YAML_ALIAS_EVENT:
        return ag_fail(r->ctx, AG_EDATA, "%s:%d: aliases are not taken", r->name,
                       event_line(event));
    case YAML_SCALAR_EVENT:
        return read_scalar(r, event);
    case YAML_SEQUENCE_START_EVENT:
        return open_node(r, DATA_YAML_LIST, event, event->data.sequence_start.anchor,
                         event->data.sequence_start.tag);
    case YAML_MAPPING_START_EVENT:
        return open_node(r, DATA_YAML_MAP, event, event->data.mapping_start.anchor,
                         event->data.mapping_start.tag);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        r->depth--;
        return AG_OK;
    default:
        return AG_OK;
    }
}

static int compare_by_key(const void *a, const void *b)
{
    const data_yaml_node *left = *(const data_yaml_node *const *)a;
    const data_yaml_node *right = *(const data_yaml_node *const *)b;

    return strcmp(left->key, right->key);
}

/* Number the entries of every node, and refuse a key that a map holds twice. */
static ag_status finish(reader *r)
{
    data_yaml *yaml = r->yaml;
    const data_yaml_node **sorted = NULL;
    ag_status status = AG_OK;

    for (int64_t i = 0; i < yaml->n_nodes && status == AG_OK; i++) {
        data_yaml_node *node = &yaml->nodes[i];
        int64_t k = 0;

        if (node->n == 0)
            continue;
        node->entries = ag_new(r->ctx, (size_t)node->n, sizeof *node->entries, "YAML entries");
        sorted = ag_new(r->ctx, (size_t)node->n, sizeof *sorted, "YAML entries");
        if (!node->entries || !sorted) {
            status = AG_ENOMEM;
            break;
        }
        for (int64_t at = node->first; at >= 0; at = yaml->nodes[at].next) {
            sorted[k] = &yaml->nodes[at];
            node->entries[k++] = at;
        }
        if (node->kind == DATA_YAML_MAP) {
            qsort(sorted, (size_t)node->n, sizeof *sorted, compare_by_key);
            for (k = 1; k < node->n && status == AG_OK; k++)
                if (strcmp(sorted[k - 1]->key, sorted[k]->key) == 0)
                    status = ag_fail(r->ctx, AG_EDATA, "%s:%d: \"%.*s\" is set twice", r->name,
                                     sorted[k]->line > sorted[k - 1]->line ? sorted[k]->line
                                                                           : sorted[k - 1]->line,
                                     MAX_IN_MESSAGE, sorted[k]->key);
        }
        ag_delete(sorted);
        sorted = NULL;
    }
    ag_delete(sorted);
    return status;
}

ag_status data_yaml_parse(data_yaml **out, ag_ctx *ctx, const char *name, const char *text,
                          size_t size)
{
    reader r = {.ctx = ctx, .name = name};
    yaml_parser_t parser;
    bool parsing = false, ended = false;
    int n_documents = 0;
    ag_status status = AG_OK;

    if (size > MAX_BYTES)
        return ag_fail(ctx, AG_EDATA, "%s: %zu bytes, at most %d are taken", name, size, MAX_BYTES);
    r.yaml = ag_new(ctx, 1, sizeof *r.yaml, "YAML document");
    if (!r.yaml)
        return AG_ENOMEM;
    r.yaml->name = ag_strdup(ctx, name);
    parsing = r.yaml->name && yaml_parser_initialize(&parser);
    if (!parsing) {
        status = ag_fail(ctx, AG_ENOMEM, "%s: no memory to read it", name);
        goto out;
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    while (!ended && status == AG_OK) {
        yaml_event_t event;

        if (!yaml_parser_parse(&parser, &event)) {
            const size_t line = parser.error == YAML_READER_ERROR ? parser.mark.line
                                                                  : parser.problem_mark.line;

            status = ag_fail(ctx, parser.error == YAML_MEMORY_ERROR ? AG_ENOMEM : AG_EDATA,
                             "%s:%zu: not YAML: %s", name, line + 1,
                             parser.problem ? parser.problem : "no memory");
            break;
        }
        status = read_event(&r, &event, &n_documents);
        ended = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    if (status == AG_OK && r.yaml->n_nodes == 0) {
        int64_t at;

        status = add_node(&r, DATA_YAML_MAP, 1, &at);
    }
    if (status == AG_OK)
        status = finish(&r);
    if (status == AG_OK) {
        *out = r.yaml;
        r.yaml = NULL;
    }
out:
    if (parsing)
        yaml_parser_delete(&parser);
    ag_delete(r.key);
    data_yaml_free(r.yaml);
    return status;
}

ag_status data_yaml_read(data_yaml **out, ag_ctx *ctx, const char *path)
{
    char *text = NULL;
    size_t size = 0;
    ag_status status = data_file_read(&text, &size, ctx, path, MAX_BYTES);

    if (status == AG_OK)
        status = data_yaml_parse(out, ctx, path, text, size);
    ag_delete(text);
    return status;
}

void data_yaml_free(data_yaml *yaml)
{
    if (!yaml)
        return;
    for (int64_t i = 0; i < yaml->n_nodes; i++) {
        ag_delete(yaml->nodes[i].key);
        ag_delete(yaml->nodes[i].text);
        ag_delete(yaml->nodes[i].entries);
    }
    ag_delete(yaml->nodes);
    ag_delete(yaml->name);
    ag_delete(yaml);
}

/* --- walking it ------------------------------------------------------------------------------ */

const data_yaml_node *data_yaml_root(const data_yaml *yaml)
{
    return &yaml->nodes[0];
}

data_yaml_kind data_yaml_kind_of(const data_yaml_node *node)
{
    return node->kind;
}

int data_yaml_line(const data_yaml_node *node)
{
    return node->line;
}

int64_t data_yaml_size(const data_yaml_node *node)
{
    return node->n;
}

const data_yaml_node *data_yaml_at(const data_yaml_node *node, int64_t i)
{
    return &node->yaml->nodes[node->entries[i]];
}

const char *data_yaml_key_at(const data_yaml_node *map, int64_t i)
{
    return data_yaml_at(map, i)->key;
}

const data_yaml_node *data_yaml_find(const data_yaml_node *node, const char *path)
{
    while (node && *path) {
        const size_t length = strcspn(path, ".");
        const data_yaml_node *found = NULL;

        if (node->kind != DATA_YAML_MAP)
            return NULL;
        for (int64_t i = 0; i < node->n && !found; i++) {
            const data_yaml_node *entry = data_yaml_at(node, i);

            if (strlen(entry->key) == length && memcmp(entry->key, path, length) == 0)
                found = entry;
        }
        node = found;
        path += length + (path[length] == '.');
    }
    return node;
}

/* --- scalars --------------------------------------------------------------------------------- */

const char *data_yaml_text(const data_yaml_node *node)
{
    return node->kind == DATA_YAML_SCALAR ? node->text : NULL;
}

bool data_yaml_is_null(const data_yaml_node *node)
{
    return node->kind == DATA_YAML_SCALAR && !node->quoted &&
           (node->text[0] == 0 || strcmp(node->text, "~") == 0 || strcmp(node->text, "null") == 0);
}

static ag_status wrong_type(ag_ctx *ctx, const data_yaml_node *node, const char *wanted)
{
    const char *key = node->key ? node->key : "value";
    const char *quote = node->quoted ? "\"" : "";

    if (node->kind != DATA_YAML_SCALAR)
        return ag_fail(ctx, AG_EDATA, "%s:%d: %.*s must be %s, got a %s", node->yaml->name,
                       node->line, MAX_IN_MESSAGE, key, wanted,
                       node->kind == DATA_YAML_LIST ? "list" : "map");
    return ag_fail(ctx, AG_EDATA, "%s:%d: %.*s must be %s, got %s%.*s%s", node->yaml->name,
                   node->line, MAX_IN_MESSAGE, key, wanted, quote, MAX_IN_MESSAGE,
                   data_yaml_is_null(node) ? "nothing" : node->text, quote);
}

ag_status data_yaml_get_int(int64_t *out, ag_ctx *ctx, const data_yaml_node *node)
{
    if (node->kind != DATA_YAML_SCALAR || node->quoted || !data_text_to_int(out, node->text))
        return wrong_type(ctx, node, "a whole number");
    return AG_OK;
}

ag_status data_yaml_get_real(double *out, ag_ctx *ctx, const data_yaml_node *node)
{
    if (node->kind != DATA_YAML_SCALAR || node->quoted || !data_text_to_real(out, node->text))
        return wrong_type(ctx, node, "a number");
    return AG_OK;
}

ag_status data_yaml_get_bool(bool *out, ag_ctx *ctx, const data_yaml_node *node)
{
    if (node->kind == DATA_YAML_SCALAR && !node->quoted) {
        if (strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0) {
            *out = node->text[0] == 't';
            return AG_OK;
        }
    }
    return wrong_type(ctx, node, "true or false");
}

static const char *skip_digits(const char *text)
{
    return text + strspn(text, "0123456789");
}

bool data_text_to_int(int64_t *out, const char *text)
{
    const char *digits = text + (*text == '+' || *text == '-');
    const char *end = skip_digits(digits);
    long long value;

    if (end == digits || *end)
        return false;
    errno = 0;
    value = strtoll(text, NULL, 10);
    if (errno)
        return false;
    *out = value;
    return true;
}

bool data_text_to_real(double *out, const char *text)
{
    const char *at = text + (*text == '+' || *text == '-');
    const char *end = skip_digits(at);
    bool has_digits = end > at;
    double value;

    if (*end == '.') {
        at = end + 1;
        end = skip_digits(at);
        has_digits |= end > at;
    }
    if (!has_digits)
        return false;
    if (*end == 'e' || *end == 'E') {
        at = end + 1 + (end[1] == '+' || end[1] == '-');
        end = skip_digits(at);
        if (end == at)
            return false;
    }
    if (*end)
        return false;
    value = strtod(text, NULL);
    if (!isfinite(value))
        return false;
    *out = value;
    return true;
}
