/* memory.h - a heap of tensor data: best fit with coalescing over one reserved range.
 *
 * The bookkeeping stands outside the memory it describes, so the same code serves host memory,
 * device memory and AG_META, where there is no memory at all: the touched size on AG_META is
 * exactly what a real run would touch. For files in autograd/ only.
 */
#ifndef AG_MEMORY_H
#define AG_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

#include "autograd/context.h"

/* Small and large step tensors live apart, so that a small one never splits a large hole. */
typedef enum ag_heap_kind { AG_HEAP_MODEL, AG_HEAP_STEP, AG_HEAP_STEP_SMALL, AG_HEAP_SCRATCH, AG_N_HEAPS } ag_heap_kind;

enum { AG_SMALL_BYTES = 1 << 17, AG_ALIGNMENT = 64 };

typedef struct ag_heap ag_heap;

typedef struct ag_block {
    size_t offset, size; /* within the range */
    bool is_free;
    bool is_cold;                        /* free, and its pages were given back */
    bool has_holes;                      /* some of the device's memory behind it was given back */
    struct ag_block *before, *after;     /* by address */
    struct ag_block *previous, *next;    /* in its bin, when free */
} ag_block;

/* A heap over the memory of the context's device; over nothing on AG_META. NULL when the range or a record is
 * refused. */
ag_heap *ag_heap_new(ag_ctx *ctx);
void ag_heap_free(ag_heap *heap);

/* `bytes` (0 counts as 1) at 64-byte alignment. NULL without a message when memory is refused. */
ag_block *ag_heap_take(ag_heap *heap, size_t bytes);
void ag_heap_give(ag_heap *heap, ag_block *block);
void *ag_heap_address(const ag_heap *heap, const ag_block *block); /* NULL on AG_META */

void ag_heap_trim(ag_heap *heap);
size_t ag_heap_mapped(const ag_heap *heap); /* a device's memory behind it now */
size_t ag_heap_touched_peak(const ag_heap *heap); /* most bytes resident at once, if all was written */

#endif /* AG_MEMORY_H */
