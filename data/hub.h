/* hub.h - where a model named on the command line lies on this disk. Nothing is ever downloaded. */
#ifndef DATA_HUB_H
#define DATA_HUB_H

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Find the model `id_or_path`. In this order:
 *   1. a path that exists (a folder or a file) is taken as it is;
 *   2. a hub id `owner/name` (or `name`) in the folders of our own, $AGEWRIGHT_MODELS
 *      (colon-separated): DIR/owner/name, DIR/name;
 *   3. in the local hub cache, $HF_HUB_CACHE (older: $HUGGINGFACE_HUB_CACHE), else $HF_HOME/hub,
 *      else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub:
 *      models--owner--name/snapshots/REV, where REV is what refs/REVISION holds, or a commit that
 *      is named by (the beginning of) its hash, or, without a revision and without refs/main, the
 *      newest snapshot.
 * revision  a branch, tag or commit; NULL means main
 * *out      belongs to the caller (ag_delete)
 * AG_EIO when it is nowhere: one line that says where to put it. */
ag_status data_resolve_model(char **out, ag_ctx *ctx, const char *id_or_path,
                             const char *revision);

/* The folder of place 3, by the environment, whether it is there or not: the caller's (ag_delete).
 * NULL without a home. */
char *data_hub_cache(ag_ctx *ctx);

#ifdef __cplusplus
}
#endif

#endif /* DATA_HUB_H */
