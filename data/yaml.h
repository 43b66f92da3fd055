/* yaml.h - configuration files: the harmless part of YAML as a tree of maps, lists and scalars.
 *
 * Refused, with file and line: anchors and aliases, tags, more than one document, a key that is
 * not a plain word or a string, duplicate keys, depth beyond 32, more than 1 MiB, a scalar beyond
 * 64 KiB, a NUL. So no file can grow in memory beyond a small multiple of its size.
 * Scalars keep their text; a typed getter decides what it means, strictly: integers are
 * [+-]digits, numbers are decimal with an optional exponent (1e-5 is a number), booleans are
 * `true` and `false` only (`no` is a word), null is `null`, `~` or nothing. Quoted text is text.
 *
 * Ownership  The tree owns every node and text; all die in data_yaml_free().
 */
#ifndef DATA_YAML_H
#define DATA_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_yaml data_yaml;           /* a document */
typedef struct data_yaml_node data_yaml_node; /* a place in it */
typedef enum data_yaml_kind { DATA_YAML_SCALAR, DATA_YAML_LIST, DATA_YAML_MAP } data_yaml_kind;

ag_status data_yaml_read(data_yaml **out, ag_ctx *ctx, const char *path);
/* The same from memory; `name` stands for the file in messages. */
ag_status data_yaml_parse(data_yaml **out, ag_ctx *ctx, const char *name, const char *text,
                          size_t size);
void data_yaml_free(data_yaml *yaml); /* NULL is fine */

/* The top node; a map with no entries for an empty document. */
const data_yaml_node *data_yaml_root(const data_yaml *yaml);

data_yaml_kind data_yaml_kind_of(const data_yaml_node *node);
int data_yaml_line(const data_yaml_node *node);        /* from 1 */
int64_t data_yaml_size(const data_yaml_node *node);    /* entries of a map or list, 0 of a scalar */
/* Entry i of a map or list, 0 <= i < size; of a map, in the file's order. */
const data_yaml_node *data_yaml_at(const data_yaml_node *node, int64_t i);
const char *data_yaml_key_at(const data_yaml_node *map, int64_t i);
/* The value under a key of a map, or of a dotted path of keys ("model.params.parameterization");
 * NULL when there is none or node is not a map. NULL in, NULL out. */
const data_yaml_node *data_yaml_find(const data_yaml_node *node, const char *path);

/* Scalars. text is "" for null; is_null says which. Getters fail with AG_EDATA, file:line, the
 * key and what was wanted, and leave *out alone. */
const char *data_yaml_text(const data_yaml_node *node); /* NULL unless a scalar */
bool data_yaml_is_null(const data_yaml_node *node);
ag_status data_yaml_get_int(int64_t *out, ag_ctx *ctx, const data_yaml_node *node);
ag_status data_yaml_get_real(double *out, ag_ctx *ctx, const data_yaml_node *node);
ag_status data_yaml_get_bool(bool *out, ag_ctx *ctx, const data_yaml_node *node);

/* The strict number grammar by itself, for flags: the whole text or nothing. Neither takes
 * underscores, hexadecimal, spaces, "inf" or "nan". */
bool data_text_to_int(int64_t *out, const char *text);
bool data_text_to_real(double *out, const char *text);

#ifdef __cplusplus
}
#endif

#endif /* DATA_YAML_H */
