/* memory.c - see memory.h.
 *
 * Free blocks sit in bins by the logarithm of their size. A request takes the smallest block that
 * fits in the lowest bin that has one; the rest of it goes back. Neighbouring free blocks always
 * join. When nothing fits, the used part of the range grows.
 *
 * The range is reserved once, without pages (MAP_NORESERVE); pages come when they are written.
 * Because the kernel would rather kill than refuse, growth asks first how much memory is
 * left (autograd/available.h). On a GPU the back end puts memory behind the range as it grows.
 */
#include "autograd/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "autograd/available.h"
#include "autograd/internal.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define HIDE(heap, at, n) \
    ((heap)->base && !(heap)->range ? __asan_poison_memory_region((heap)->base + (at), n) : (void)0)
#define SHOW(heap, at, n) \
    ((heap)->base && !(heap)->range ? __asan_unpoison_memory_region((heap)->base + (at), n) : (void)0)
#else
#define HIDE(heap, at, n) ((void)0)
#define SHOW(heap, at, n) ((void)0)
#endif

enum { N_BINS = 48, ASK_BYTES = 64 << 20 };
static const size_t RESERVED_BYTES = (size_t)1 << 40; /* address space; far more than any machine's memory */

struct ag_heap {
    ag_ctx *ctx;
    char *base;           /* NULL: on AG_META */
    ag_cuda_range *range; /* where it comes from; NULL: from mmap */
    size_t reserved, used;
    ag_block *last; /* by address */
    ag_block *bin[N_BINS];
    size_t touched, touched_peak;
    size_t asked; /* growth since the machine was last asked for its free memory */
};

static int bin_of(size_t size)
{
    const int log2 = 63 - __builtin_clzll(size | 1);
    return log2 < N_BINS ? log2 : N_BINS - 1;
}

static void bin_add(ag_heap *heap, ag_block *block)
{
    ag_block **head = &heap->bin[bin_of(block->size)];

    block->is_free = true;
    block->previous = NULL;
    block->next = *head;
    if (*head)
        (*head)->previous = block;
    *head = block;
}

static void bin_remove(ag_heap *heap, ag_block *block)
{
    if (block->previous)
        block->previous->next = block->next;
    else
        heap->bin[bin_of(block->size)] = block->next;
    if (block->next)
        block->next->previous = block->previous;
    block->is_free = false;
}

static void heat(ag_heap *heap, size_t bytes)
{
    heap->touched += bytes;
    if (heap->touched > heap->touched_peak)
        heap->touched_peak = heap->touched;
}

/* Reserve address space: as much of RESERVED_BYTES as one gets. */
static bool reserve(ag_heap *heap)
{
    const ag_cuda_api *api = heap->ctx->cuda_api;

    for (; heap->reserved >= (size_t)1 << 24; heap->reserved >>= 1) {
        void *range;
        if (api) {
            heap->range = api->reserve(heap->ctx->cuda, heap->reserved);
            if (heap->range) {
                heap->base = api->address(heap->range);
                return true;
            }
            continue;
        }
        range = mmap(NULL, heap->reserved, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (range != MAP_FAILED) {
            heap->base = range;
            /* A wish, not a need: large pages save page faults and table walks. */
            (void)madvise(range, heap->reserved, MADV_HUGEPAGE);
            return true;
        }
    }
    return false;
}

/* Memory behind [from, to) of a device's range; host memory comes when it is written. */
static bool back(ag_heap *heap, size_t from, size_t to)
{
    return !heap->range || heap->ctx->cuda_api->map(heap->range, from, to);
}

ag_heap *ag_heap_new(ag_ctx *ctx)
{
    ag_heap *heap = calloc(1, sizeof *heap);

    if (!heap)
        return NULL;
    heap->ctx = ctx;
    heap->reserved = RESERVED_BYTES;
    if (ctx->options.device == AG_META || reserve(heap))
        return heap;
    free(heap);
    return NULL;
}

void ag_heap_free(ag_heap *heap)
{
    if (!heap)
        return;
    for (ag_block *block = heap->last; block;) {
        ag_block *before = block->before;
        ag_host_give(heap->ctx, block, sizeof *block);
        block = before;
    }
    if (heap->range) {
        heap->ctx->cuda_api->release(heap->range);
    } else if (heap->base) {
        SHOW(heap, 0, heap->used);
        munmap(heap->base, heap->reserved);
    }
    free(heap);
}

/* Split `block` (not in a bin) so that it keeps `size`; the rest becomes free. */
static bool split(ag_heap *heap, ag_block *block, size_t size)
{
    ag_block *rest;

    if (block->size == size)
        return true;
    rest = ag_host_take(heap->ctx, sizeof *rest);
    if (!rest)
        return false;
    memset(rest, 0, sizeof *rest);
    rest->offset = block->offset + size;
    rest->size = block->size - size;
    rest->is_cold = block->is_cold;
    rest->has_holes = block->has_holes;
    rest->before = block;
    rest->after = block->after;
    if (rest->after)
        rest->after->before = rest;
    else
        heap->last = rest;
    block->after = rest;
    block->size = size;
    bin_add(heap, rest);
    return true;
}

static ag_block *find(ag_heap *heap, size_t size)
{
    for (int b = bin_of(size); b < N_BINS; b++) {
        ag_block *best = NULL;
        for (ag_block *block = heap->bin[b]; block; block = block->next)
            if (block->size >= size && (!best || block->size < best->size ||
                                        (block->size == best->size && block->offset < best->offset)))
                best = block;
        if (best)
            return best;
    }
    return NULL;
}

/* A block of `size` at the end of the used range, swallowing a free last block. */
static ag_block *grow(ag_heap *heap, size_t size)
{
    ag_block *block = heap->last && heap->last->is_free ? heap->last : NULL;
    const size_t more = size - (block ? block->size : 0);

    if (heap->reserved - heap->used < more)
        return NULL;
    if (!back(heap, block ? block->offset : heap->used, heap->used + more))
        return NULL;
    if (heap->base && !heap->range) {
        heap->asked += more;
        if (heap->asked >= ASK_BYTES) {
            if (ag_available_bytes() < heap->asked) {
                heap->asked -= more; /* a smaller wish may still be met */
                return NULL;
            }
            heap->asked = 0;
        }
    }
    if (block) {
        bin_remove(heap, block);
        if (block->is_cold)
            heat(heap, block->size);
        block->is_cold = block->has_holes = false;
        block->size = size;
    } else {
        block = ag_host_take(heap->ctx, sizeof *block);
        if (!block)
            return NULL;
        memset(block, 0, sizeof *block);
        block->offset = heap->used;
        block->size = size;
        block->before = heap->last;
        if (heap->last)
            heap->last->after = block;
        heap->last = block;
    }
    heap->used += more;
    heat(heap, more);
    return block;
}

ag_block *ag_heap_take(ag_heap *heap, size_t bytes)
{
    ag_block *block;
    size_t size;

    if (bytes > heap->reserved)
        return NULL;
    size = (bytes + (bytes == 0) + AG_ALIGNMENT - 1) / AG_ALIGNMENT * AG_ALIGNMENT;
    block = find(heap, size);
    if (block) {
        if (block->has_holes && !back(heap, block->offset, block->offset + size))
            return NULL;
        bin_remove(heap, block);
        if (!split(heap, block, size)) {
            bin_add(heap, block);
            return NULL;
        }
        if (block->is_cold)
            heat(heap, block->size);
        block->is_cold = block->has_holes = false;
    } else {
        block = grow(heap, size);
    }
    if (block)
        SHOW(heap, block->offset, block->size);
    return block;
}

/* Join `second`, which follows `first`; neither is in a bin. */
static ag_block *join(ag_heap *heap, ag_block *first, ag_block *second)
{
    if (first->is_cold != second->is_cold)
        heat(heap, first->is_cold ? first->size : second->size);
    first->is_cold = first->is_cold && second->is_cold;
    first->has_holes = first->has_holes || second->has_holes;
    first->size += second->size;
    first->after = second->after;
    if (first->after)
        first->after->before = first;
    else
        heap->last = first;
    ag_host_give(heap->ctx, second, sizeof *second);
    return first;
}

void ag_heap_give(ag_heap *heap, ag_block *block)
{
    HIDE(heap, block->offset, block->size);
    if (block->after && block->after->is_free) {
        bin_remove(heap, block->after);
        join(heap, block, block->after);
    }
    if (block->before && block->before->is_free) {
        bin_remove(heap, block->before);
        block = join(heap, block->before, block);
    }
    bin_add(heap, block);
}

void *ag_heap_address(const ag_heap *heap, const ag_block *block)
{
    return heap->base ? heap->base + block->offset : NULL;
}

void ag_heap_trim(ag_heap *heap)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);

    for (ag_block *block = heap->last; block; block = block->before) {
        size_t from, to;
        if (!block->is_free || block->is_cold)
            continue;
        from = (block->offset + page - 1) / page * page;
        to = (block->offset + block->size) / page * page;
        if (to <= from)
            continue;
        if (heap->range) {
            heap->ctx->cuda_api->unmap(heap->range, block->offset, block->offset + block->size);
            block->has_holes = true;
        } else if (heap->base && madvise(heap->base + from, to - from, MADV_DONTNEED) != 0) {
            continue;
        }
        block->is_cold = true;
        heap->touched -= block->size;
    }
}

size_t ag_heap_touched_peak(const ag_heap *heap)
{
    return heap->touched_peak;
}

size_t ag_heap_mapped(const ag_heap *heap)
{
    return heap->range ? heap->ctx->cuda_api->mapped(heap->range) : 0;
}
