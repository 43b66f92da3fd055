/* cuda.h - the seam between autograd and its CUDA back end. For files in autograd/ only.
 *
 * The back end (autograd/cuda/) is one table, so that the same objects can be linked with it, with
 * nothing, or with the stand-ins of tests/cuda_host/: a program decides at its last step. Kernels
 * stand in a table of their own there and not in ag_op.run for the same reason.
 */
#ifndef AG_CUDA_H
#define AG_CUDA_H

#include <stdbool.h>
#include <stddef.h>

#include "autograd/gpu.h"
#include "autograd/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ag_cuda ag_cuda;             /* a device as one context sees it: stream, libraries */
typedef struct ag_cuda_range ag_cuda_range; /* reserved device addresses */
typedef struct ag_cuda_graph ag_cuda_graph; /* recorded work */
typedef struct ag_cuda_mail ag_cuda_mail;   /* values on their way to the host */

/* run or each queues; neither waits. */
typedef struct ag_cuda_kernel {
    const ag_op *op;
    ag_kernel run;
    size_t (*scratch)(const ag_call *call); /* what a call takes by ag_scratch(); NULL: nothing */
    /* In the place of run: n >= 1 calls of the op that do not depend on each other, in as few launches as can be. */
    ag_status (*each)(const ag_call *calls, int n);
} ag_cuda_kernel;

typedef struct ag_cuda_api {
    int (*count)(void);             /* devices; 0 without a driver */
    void (*describe)(ag_gpus *out); /* zeroed before; see autograd/gpu.h */

    /* NULL with the context failed (AG_EDEVICE, AG_ENOMEM) when there is no usable device. */
    ag_cuda *(*open)(ag_ctx *ctx);
    /* One without a device, for AG_META: scratch rules can be asked. NULL with the context failed (AG_ENOMEM). */
    ag_cuda *(*foresee)(ag_ctx *ctx);
    void (*close)(ag_cuda *cuda); /* waits; NULL is fine */

    const ag_cuda_kernel *(*kernel)(const ag_op *op); /* NULL: none yet */

    /* In the order of the stream. `from` may be reused when write returns; read waits. copy: on the device. */
    ag_status (*write)(ag_cuda *cuda, void *to, const void *from, size_t bytes);
    ag_status (*read)(ag_cuda *cuda, void *to, const void *from, size_t bytes);
    ag_status (*copy)(ag_cuda *cuda, void *to, const void *from, size_t bytes);
    ag_status (*wait)(ag_cuda *cuda); /* until all that was queued is done; tells what failed in it */

    /* Values that the host gets later, up to `bytes` of them (pinned). post() queues a copy of some to place `at`, and
     * send() ends a letter: open() waits for the last one that was sent, tells what failed before it and returns the
     * values, is_here() asks without waiting. NULL with the context failed when refused. */
    ag_cuda_mail *(*mail_new)(ag_cuda *cuda, size_t bytes);
    void (*mail_free)(ag_cuda_mail *mail); /* NULL is fine */
    ag_status (*mail_post)(ag_cuda_mail *mail, size_t at, const void *from, size_t bytes);
    ag_status (*mail_send)(ag_cuda_mail *mail);
    bool (*mail_is_here)(ag_cuda_mail *mail);
    const void *(*mail_open)(ag_cuda_mail *mail);

    /* From record() on, what is queued goes into a graph and does not run; recorded() ends that, and returns the
     * graph, or NULL when it is not to be kept or the context failed. launch() queues a graph. */
    ag_status (*record)(ag_cuda *cuda);
    ag_cuda_graph *(*recorded)(ag_cuda *cuda, bool keep);
    ag_status (*launch)(ag_cuda_graph *graph);
    void (*graph_free)(ag_cuda_graph *graph); /* waits */

    /* Addresses without memory. NULL without a message when refused. */
    ag_cuda_range *(*reserve)(ag_cuda *cuda, size_t bytes);
    void (*release)(ag_cuda_range *range); /* NULL is fine */
    void *(*address)(const ag_cuda_range *range);
    /* Put memory behind [from, to) where there is none; false when the device has no more. */
    bool (*map)(ag_cuda_range *range, size_t from, size_t to);
    /* Give back what lies wholly inside [from, to). Waits for the stream. */
    void (*unmap)(ag_cuda_range *range, size_t from, size_t to);
    size_t (*mapped)(const ag_cuda_range *range); /* bytes of memory behind it */
    /* Host memory that kernels may read and write at the same address; NULL when refused. unpin waits. */
    void *(*pin)(ag_cuda *cuda, size_t bytes);
    void (*unpin)(ag_cuda *cuda, void *memory);
    size_t (*free_bytes)(ag_cuda *cuda); /* on the device; 0 when it does not say */
    size_t (*staged)(const ag_cuda *cuda); /* bytes there that write() has taken for itself */
} ag_cuda_api;

/* NULL in a program that was built without CUDA. */
const ag_cuda_api *ag_cuda_built(void);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_H */
