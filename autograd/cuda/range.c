/* range.c - device addresses, and memory behind the part of them that is used.
 *
 * A range is reserved once and is large; memory comes in chunks at its end as the heap grows, so an
 * address never moves and there is nothing to fragment. (The driver's virtual memory calls; PyTorch calls
 * the same "expandable segments".)
 */
#include <stdlib.h>
#include <string.h>

#include "autograd/cuda/internal.h"

enum { AHEAD = 8 };                                    /* a chunk is an eighth of what there is, */
static const size_t CHUNK_MAX = (size_t)64 << 20;      /* and no more than this, unless more is wanted */

typedef struct chunk {
    size_t from, to;
    CUmemGenericAllocationHandle handle;
} chunk;

struct ag_cuda_range {
    ag_cuda *cuda;
    CUdeviceptr base;
    size_t reserved, mapped;
    chunk *chunks; /* by address, not touching */
    size_t n, room;
};

ag_cuda_range *cuda_range_reserve(ag_cuda *cuda, size_t bytes)
{
    ag_cuda_range *range = calloc(1, sizeof *range);

    if (!range)
        return NULL;
    range->cuda = cuda;
    range->reserved = bytes / cuda->granularity * cuda->granularity;
    if (range->reserved && cuda->driver.reserve(&range->base, range->reserved, 0, 0, 0) == CUDA_SUCCESS)
        return range;
    free(range);
    return NULL;
}

void cuda_range_release(ag_cuda_range *range)
{
    if (!range)
        return;
    cuda_range_unmap(range, 0, range->reserved);
    range->cuda->driver.unreserve(range->base, range->reserved);
    free(range->chunks);
    free(range);
}

void *cuda_range_address(const ag_cuda_range *range)
{
    return (void *)(uintptr_t)range->base;
}

size_t cuda_range_mapped(const ag_cuda_range *range)
{
    return range->mapped;
}

/* One chunk for [from, to), to stand at place `at`; both are multiples of the granularity. */
static bool add_chunk(ag_cuda_range *range, size_t at, size_t from, size_t to)
{
    const cuda_driver *d = &range->cuda->driver;
    const CUmemLocation here = {CU_MEM_LOCATION_TYPE_DEVICE, range->cuda->device};
    const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = here};
    const CUmemAccessDesc access = {here, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle;

    if (range->n == range->room) {
        const size_t room = range->room ? 2 * range->room : 16;
        chunk *chunks = realloc(range->chunks, room * sizeof *chunks);
        if (!chunks)
            return false;
        range->chunks = chunks;
        range->room = room;
    }
    if (d->create(&handle, to - from, &prop, 0) != CUDA_SUCCESS)
        return false;
    if (d->map(range->base + from, to - from, 0, handle, 0) != CUDA_SUCCESS) {
        d->destroy(handle);
        return false;
    }
    if (d->access(range->base + from, to - from, &access, 1) != CUDA_SUCCESS) {
        d->unmap(range->base + from, to - from);
        d->destroy(handle);
        return false;
    }
    memmove(range->chunks + at + 1, range->chunks + at, (range->n - at) * sizeof *range->chunks);
    range->chunks[at] = (chunk){from, to, handle};
    range->n++;
    range->mapped += to - from;
    return true;
}

/* The end of a chunk that must reach `to` and may reach `limit`: somewhat further, so that growing in
 * small steps does not make small chunks. */
static size_t generous(const ag_cuda_range *range, size_t to, size_t limit)
{
    const size_t unit = range->cuda->granularity;
    size_t ahead = range->mapped / AHEAD < CHUNK_MAX ? range->mapped / AHEAD : CHUNK_MAX;

    ahead = ahead / unit * unit;
    return limit - to < ahead ? limit : to + ahead;
}

static bool map_chunks(ag_cuda_range *range, size_t from, size_t to)
{
    const size_t unit = range->cuda->granularity;
    size_t at = 0;

    from = from / unit * unit;
    to = (to + unit - 1) / unit * unit;
    if (to > range->reserved)
        return false;
    while (at < range->n && range->chunks[at].to <= from)
        at++;
    for (; from < to; at++) {
        if (at == range->n || range->chunks[at].from > from) { /* a gap */
            const bool is_last = at == range->n;
            const size_t limit = is_last ? range->reserved : range->chunks[at].from;
            const size_t end = to < limit ? to : limit;
            if (!(is_last && add_chunk(range, at, from, generous(range, end, limit))) &&
                !add_chunk(range, at, from, end))
                return false;
        }
        from = range->chunks[at].to;
    }
    return true;
}

/* While a step is recorded, memory may be taken if one says that it is no part of the step. */
bool cuda_range_map(ag_cuda_range *range, size_t from, size_t to)
{
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    bool is_done;

    if (!range->cuda->is_recording)
        return map_chunks(range, from, to);
    if (cudaThreadExchangeStreamCaptureMode(&mode) != cudaSuccess)
        return false;
    is_done = map_chunks(range, from, to);
    return cudaThreadExchangeStreamCaptureMode(&mode) == cudaSuccess && is_done;
}

void cuda_range_unmap(ag_cuda_range *range, size_t from, size_t to)
{
    const cuda_driver *d = &range->cuda->driver;
    size_t kept = 0;

    if (range->n == 0)
        return;
    cudaStreamSynchronize(range->cuda->stream); /* what is queued may still use it */
    for (size_t i = 0; i < range->n; i++) {
        const chunk c = range->chunks[i];
        if (c.from < from || c.to > to) {
            range->chunks[kept++] = c;
            continue;
        }
        d->unmap(range->base + c.from, c.to - c.from);
        d->destroy(c.handle);
        range->mapped -= c.to - c.from;
    }
    range->n = kept;
}
