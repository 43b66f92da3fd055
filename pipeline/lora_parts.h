/* lora_parts.h - modules of a LoRA in the making, with their values. For files in pipeline/ only. */
#ifndef PIPE_LORA_PARTS_H
#define PIPE_LORA_PARTS_H

#include "data/lora_write.h"
#include "pipeline/lora_rank.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pipe_lora_parts {
    data_lora_part *list; /* names borrowed */
    int64_t n, room;
    void **memory; /* all that the list's tensors refer to */
    int64_t n_memory, room_memory;
} pipe_lora_parts;

/* A new empty part; NULL and a failed context when memory is refused. The list may move. */
data_lora_part *pipe_lora_parts_add(pipe_lora_parts *parts, ag_ctx *ctx);
/* Memory that ends with the parts. */
void *pipe_lora_parts_take(pipe_lora_parts *parts, ag_ctx *ctx, size_t count, size_t size);
void pipe_lora_parts_free(pipe_lora_parts *parts);

/* Give a part the two factors of `thin` (taken over), for a weight of this shape; f32. */
ag_status pipe_lora_part_thin(pipe_lora_parts *parts, ag_ctx *ctx, data_lora_part *part, pipe_thin *thin,
                              const data_named_shape *weight);
/* Write every tensor with another dtype: its values must lie in memory, f32. */
ag_status pipe_lora_parts_cast(pipe_lora_parts *parts, ag_ctx *ctx, data_dtype dtype);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_LORA_PARTS_H */
