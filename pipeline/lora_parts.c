/* lora_parts.c - see lora_parts.h. */
#include "pipeline/lora_parts.h"

#include <string.h>

data_lora_part *pipe_lora_parts_add(pipe_lora_parts *p, ag_ctx *ctx)
{
    if (p->n == p->room) {
        const int64_t room = p->room + p->room / 2 + 64;
        data_lora_part *list = ag_grow(ctx, p->list, (size_t)room, sizeof *list, "modules of a LoRA");

        if (!list)
            return NULL;
        p->list = list;
        p->room = room;
    }
    memset(&p->list[p->n], 0, sizeof *p->list);
    return &p->list[p->n++];
}

/* Let the parts own a block. */
static ag_status keep(pipe_lora_parts *p, ag_ctx *ctx, void *block)
{
    if (p->n_memory == p->room_memory) {
        const int64_t room = p->room_memory + p->room_memory / 2 + 64;
        void **memory = ag_grow(ctx, p->memory, (size_t)room, sizeof *memory, "modules of a LoRA");

        if (!memory) {
            ag_delete(block);
            return ag_status_of(ctx);
        }
        p->memory = memory;
        p->room_memory = room;
    }
    p->memory[p->n_memory++] = block;
    return AG_OK;
}

void *pipe_lora_parts_take(pipe_lora_parts *p, ag_ctx *ctx, size_t count, size_t size)
{
    void *block = ag_new(ctx, count, size, "a LoRA's tensor");

    return block && keep(p, ctx, block) == AG_OK ? block : NULL;
}

void pipe_lora_parts_free(pipe_lora_parts *p)
{
    for (int64_t i = 0; i < p->n_memory; i++)
        ag_delete(p->memory[i]);
    ag_delete(p->memory);
    ag_delete(p->list);
    *p = (pipe_lora_parts){0};
}

ag_status pipe_lora_part_thin(pipe_lora_parts *p, ag_ctx *ctx, data_lora_part *part, pipe_thin *thin,
                              const data_named_shape *weight)
{
    const int n_dims = weight->n_dims;
    int64_t *dims = pipe_lora_parts_take(p, ctx, 2 * (size_t)n_dims, sizeof *dims);
    const pipe_thin taken = *thin;

    *thin = (pipe_thin){0};
    keep(p, ctx, taken.a);
    keep(p, ctx, taken.b);
    if (!dims || ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    for (int d = 0; d < n_dims; d++) {
        dims[d] = d == 0 ? taken.rank : weight->dims[d];
        dims[n_dims + d] = d == 0 ? weight->dims[0] : d == 1 ? taken.rank : 1;
    }
    part->kind = DATA_LORA_PLAIN;
    part->rank = taken.rank;
    part->alpha = (double)taken.rank;
    part->has[DATA_LORA_A] = part->has[DATA_LORA_B] = true;
    part->tensor[DATA_LORA_A] =
        (data_source){.dtype = DATA_F32, .n_dims = n_dims, .dims = dims, .values = taken.a};
    part->tensor[DATA_LORA_B] =
        (data_source){.dtype = DATA_F32, .n_dims = n_dims, .dims = dims + n_dims, .values = taken.b};
    return AG_OK;
}

static ag_status cast_one(pipe_lora_parts *p, ag_ctx *ctx, data_source *s, data_dtype dtype)
{
    int64_t n = 1;
    void *values;

    for (int d = 0; d < s->n_dims; d++)
        n *= s->dims[d];
    values = pipe_lora_parts_take(p, ctx, (size_t)n, data_dtype_size(dtype));
    if (!values)
        return ag_status_of(ctx);
    data_from_f32(values, dtype, s->values, n);
    s->values = values;
    s->dtype = dtype;
    return AG_OK;
}

ag_status pipe_lora_parts_cast(pipe_lora_parts *p, ag_ctx *ctx, data_dtype dtype)
{
    for (int64_t i = 0; i < p->n; i++)
        for (int role = 0; role < DATA_LORA_ALPHA; role++)
            if (p->list[i].has[role] && p->list[i].tensor[role].dtype != dtype &&
                cast_one(p, ctx, &p->list[i].tensor[role], dtype) != AG_OK)
                return ag_status_of(ctx);
    return ag_status_of(ctx);
}
