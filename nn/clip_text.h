/* clip_text.h - the CLIP text model: token ids in, one vector a token out.
 *
 *   x = token_embedding[ids] + position_embedding[0..T-1]
 *   per layer: x += attn(LN1(x)) (causal);  x += fc2(act(fc1(LN2(x))))
 *   y = final_layer_norm(x)
 *
 * SD 1.x: ViT-L/14, quick_gelu; SD 2.x: OpenCLIP ViT-H/14, exact gelu. (Radford et al. 2021;
 * huggingface/transformers: src/transformers/models/clip/modeling_clip.py)
 */
#ifndef NN_CLIP_TEXT_H
#define NN_CLIP_TEXT_H

#include "nn/config.h"
#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_clip_text nn_clip_text;

/* Tokens that the table does not have, with rows of their own (textual inversion, Gal et al. 2022). */
typedef struct nn_clip_words {
    ag_tensor *rows; /* f32 [m,D] */
    ag_tensor *ids;  /* i64 [N,T]: rows, 0..m-1, where the mask is 1; 0 elsewhere */
    ag_tensor *mask; /* f32 [N,T,1]: 1 where a token is one of them. The table's ids are 0 there */
} nn_clip_words;

typedef struct nn_clip_options {
    int clip_skip;      /* s: leave out the last s layers, keep the final norm; 0 is usual */
    bool checkpointing; /* run each layer again in the backward pass instead of keeping it */
    ag_dtype compute;   /* AG_F32 (0) or AG_BF16 */
    ag_tensor *mask;    /* NULL, or f32 [N,T]: 1 for tokens that may be seen, 0 for padding */
    const nn_clip_words *words; /* NULL: every token is in the table */
} nn_clip_options;

/* Declare the network; values come later (nn/params.h). AG_EINVAL for sizes that do not fit. */
ag_status nn_clip_text_new(nn_clip_text **out, ag_ctx *ctx, const nn_clip_config *config);
void nn_clip_text_free(nn_clip_text *net); /* NULL is fine */
nn_params *nn_clip_text_params(const nn_clip_text *net);
const nn_clip_config *nn_clip_text_config_of(const nn_clip_text *net);

/* ids i64 [N,T], T <= max_position_embeddings -> f32 [N,T,D]. options may be NULL. */
ag_tensor *nn_clip_text_forward(ag_ctx *ctx, const nn_clip_text *net, ag_tensor *ids,
                                const nn_clip_options *options);

#ifdef __cplusplus
}
#endif

#endif /* NN_CLIP_TEXT_H */
