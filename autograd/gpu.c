/* gpu.c - see gpu.h. */
#include "autograd/gpu.h"

#include <stdio.h>

#include "autograd/internal.h"

void ag_gpus_find(ag_gpus *out)
{
    const ag_cuda_api *api = ag_cuda_built();

    *out = (ag_gpus){0};
    if (api)
        api->describe(out);
    else
        snprintf(out->why, sizeof out->why, "this program was built without the CUDA toolkit");
}

bool ag_gpu_is_there(void)
{
    const ag_cuda_api *api = ag_cuda_built();

    return api && api->count() > 0;
}

size_t ag_gpu_staging(const ag_ctx *ctx)
{
    return ctx->cuda ? ctx->cuda_api->staged(ctx->cuda) : 0;
}

size_t ag_gpu_room(const ag_ctx *ctx)
{
    size_t bytes = ctx->cuda ? ctx->cuda_api->free_bytes(ctx->cuda) : 0;

    bytes += bytes ? ag_gpu_staging(ctx) : 0;
    for (int h = 0; bytes && h < AG_N_HEAPS; h++) {
        bytes += ag_heap_mapped(ctx->heap[h]);
        bytes += ctx->arena[h] ? ag_heap_mapped(ctx->arena[h]) : 0;
    }
    return bytes;
}
