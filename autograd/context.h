/* context.h - the one handle everything hangs on: device, memory, last message, recording.
 *
 * There are no globals. Two contexts live side by side in one process and do not see each other.
 * A context belongs to one thread at a time; a loader thread makes its own.
 */
#ifndef AG_CONTEXT_H
#define AG_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ag_device {
    AG_CPU,
    AG_CUDA,
    AG_META, /* computes nothing: counts bytes and operations */
    AG_N_DEVICES
} ag_device;

typedef enum ag_lifetime {
    AG_MODEL,   /* parameters, moments, gradients: until released by their owner */
    AG_STEP,    /* activations and what the tape keeps */
    AG_SCRATCH, /* workspace inside one op */
    AG_OFFLOADED, /* as AG_MODEL; AG_CUDA keeps it in the host's memory, which kernels read and write over the bus */
    AG_N_LIFETIMES
} ag_lifetime;

typedef struct ag_ctx_options {
    ag_device device;
    int n_threads;      /* 0: every processor this process may run on */
    size_t limit_bytes; /* refuse allocations beyond this total; 0: no limit of ours */
    ag_device stands_for; /* AG_META: whose run is foreseen, AG_CPU or AG_CUDA */
    bool allow_tf32;    /* AG_CUDA: products and convolutions of f32 may round their factors to 10 bits of fraction */
    bool any_order;     /* AG_CUDA: sums may be added in another order each time, where a library is faster so */
    bool no_graphs;     /* AG_CUDA: nothing is recorded and repeated (autograd/replay.h) */
} ag_ctx_options;

/* Make a context. `options` may be NULL (the CPU, all threads, no limit).
 * Returns NULL only when memory for the handle itself was refused. A device that cannot be used
 * leaves the context failed (AG_EDEVICE) with the reason. */
ag_ctx *ag_ctx_new(const ag_ctx_options *options);
void ag_ctx_free(ag_ctx *ctx); /* NULL is fine; every tensor of it is dead afterwards */

ag_device ag_ctx_device(const ag_ctx *ctx);
/* The device; on AG_META the one that it stands for. Element types and scratch follow from it. */
ag_device ag_ctx_target(const ag_ctx *ctx);
int ag_ctx_threads(const ag_ctx *ctx);
bool ag_ctx_allows_tf32(const ag_ctx *ctx);
bool ag_ctx_allows_any_order(const ag_ctx *ctx);

/* Host memory for the structures of readers and writers. ag_new zeroes and checks the product;
 * on refusal it records AG_ENOMEM naming `what` and returns NULL. ag_delete takes NULL.
 * This is the host seam: tests make the n-th allocation fail through ag_refuse_allocation(). */
void *ag_new(ag_ctx *ctx, size_t count, size_t size, const char *what);
void *ag_grow(ag_ctx *ctx, void *old, size_t count, size_t size, const char *what);
char *ag_strdup(ag_ctx *ctx, const char *text);
char *ag_printf(ag_ctx *ctx, const char *format, ...) __attribute__((format(printf, 2, 3)));
void ag_delete(void *memory);

/* From now on, let `n` more allocations pass and refuse the next (and, when `forever`, all after
 * it). n < 0 switches refusing off. For tests. Covers host and tensor memory of this context. */
void ag_refuse_allocation(ag_ctx *ctx, int64_t n, bool forever);

/* Bytes of tensor memory by lifetime: in use now, and the most that was in use at once. */
size_t ag_bytes_now(const ag_ctx *ctx, ag_lifetime lifetime);
size_t ag_bytes_peak(const ag_ctx *ctx, ag_lifetime lifetime);
/* Bytes of address space the allocator has ever touched, over all lifetimes: what the operating
 * system sees as resident (and, on AG_META, would see). */
size_t ag_bytes_touched(const ag_ctx *ctx);
void ag_bytes_reset_peak(ag_ctx *ctx);
/* Kernels of AG_CUDA run behind the program: wait for all of them. What failed in one that was queued
 * is told here and by every ag_read(). */
ag_status ag_wait(ag_ctx *ctx);
/* Give memory that is free inside the allocator back to the system; between phases of a run,
 * never inside a step. */
void ag_trim(ag_ctx *ctx);

#ifdef __cplusplus
}
#endif

#endif /* AG_CONTEXT_H */
