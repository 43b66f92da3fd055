/* json.h - small bounded helpers over jansson: read, ask with a default, write.
 *
 * Reading refuses what is not plain JSON (jansson's strict mode), duplicate keys, a file beyond
 * the caller's size and nesting beyond 64. Every message is one line: file:line, what was wanted.
 * Writing gives what Python's json.dumps(indent=2, sort_keys=True) gives, so that files are equal
 * to those of the libraries that read them: shortest decimal that reads back, ASCII only.
 *
 * Ownership  A json_t made here belongs to the caller (json_decref). Getters return borrowed
 *            values that live as long as the object asked.
 */
#ifndef DATA_JSON_H
#define DATA_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DATA_JSON_CONFIG_BYTES = 16 << 20 }; /* usual limit for a configuration file */

/* Read a whole JSON file of at most max_bytes; the top must be an object or array.
 * AG_EIO when it cannot be read, AG_EDATA with file:line when it is not JSON. */
ag_status data_json_read(json_t **out, ag_ctx *ctx, const char *path, size_t max_bytes);

/* The same from memory; `name` stands for the file in messages. */
ag_status data_json_parse(json_t **out, ag_ctx *ctx, const char *name, const char *text,
                          size_t size);

/* Typed members of the object `node` that came from the file `name`. An absent key or a null
 * gives `otherwise`; another type is AG_EDATA naming file and key, and the context has failed:
 * ask once after reading all, with ag_status_of(). After a failure `otherwise` is returned. */
int64_t data_json_int(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                      int64_t otherwise);
double data_json_real(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                      double otherwise);
bool data_json_bool(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                    bool otherwise);
const char *data_json_text(ag_ctx *ctx, const char *name, const json_t *node, const char *key,
                           const char *otherwise);

/* The text of a value as it would be written (for messages and files): the caller's, to be given
 * to ag_delete. indent 0 gives one line, 2 the layout of configuration files. NULL and a failed
 * context when memory is refused or the value holds a number that is not finite. */
char *data_json_dump(ag_ctx *ctx, const json_t *value, int indent);

/* Write value to path with 2-space indent, sorted keys and a final line break. The file is
 * written beside, flushed to disk and renamed. */
ag_status data_json_write(ag_ctx *ctx, const char *path, const json_t *value);

#ifdef __cplusplus
}
#endif

#endif /* DATA_JSON_H */
