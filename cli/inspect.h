/* inspect.h - what `agewright inspect` finds out, as JSON; printing is one function over it.
 *
 * Each function adds to `root`, an object, or fails the context.
 */
#ifndef CLI_INSPECT_H
#define CLI_INSPECT_H

#include <stdbool.h>

#include <jansson.h>

#include "autograd/context.h"

/* inspect_model.c */
ag_status inspect_weight_file(ag_ctx *ctx, json_t *root, const char *path);
ag_status inspect_model_folder(ag_ctx *ctx, json_t *root, const char *path);
ag_status inspect_checkpoint(ag_ctx *ctx, json_t *root, const char *path);

/* inspect_data.c */
ag_status inspect_pictures(ag_ctx *ctx, json_t *root, const char *path, const char *ages);
ag_status inspect_picture(ag_ctx *ctx, json_t *root, const char *path);
ag_status inspect_labels(ag_ctx *ctx, json_t *root, const char *path); /* .npy, .csv */

/* Print it, as lines or as JSON. */
ag_status inspect_print(ag_ctx *ctx, const json_t *root, bool as_json);

/* Set a member; a value that memory was refused for is left out. */
void inspect_set(json_t *object, const char *key, json_t *value);

#endif /* CLI_INSPECT_H */
