/* gpu.h - the GPUs of this machine, and the libraries for them, as this program finds them. */
#ifndef AG_GPU_H
#define AG_GPU_H

#include <stdbool.h>
#include <stddef.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { AG_MAX_GPUS = 16, AG_GPU_TEXT = 128 };

typedef struct ag_gpu {
    char name[AG_GPU_TEXT];
    int major, minor; /* compute capability */
    int processors;   /* multiprocessors */
    size_t bytes;     /* memory */
} ag_gpu;

typedef struct ag_gpus {
    int n;                 /* in list; 0: none that can be used */
    char why[AG_GPU_TEXT]; /* there is none; "" when there is one */
    ag_gpu list[AG_MAX_GPUS];
    char driver[AG_GPU_TEXT], runtime[AG_GPU_TEXT]; /* CUDA's version of each, "13.0"; "" when not there */
    char cublaslt[AG_GPU_TEXT], cudnn[AG_GPU_TEXT];
} ag_gpus;

/* Is there one that this program could use? Opens no library. */
bool ag_gpu_is_there(void);

/* Look for them. Needs no context and takes no memory of a device. */
void ag_gpus_find(ag_gpus *out);

/* Values from the host pass through a ring of so many bytes on the device, and as many pinned ones of the host. A
 * context takes it piece by piece; who has written as much in all has all of it. */
enum { AG_GPU_STAGING_BYTES = 64 << 20 };

/* Bytes on the device that a context on AG_CUDA has of that ring; 0 on other devices. */
size_t ag_gpu_staging(const ag_ctx *ctx);

/* Bytes that a context on AG_CUDA may have in all for tensors and that ring: those that it has, and what is free on its
 * device. 0 on other devices, and when the device does not say. */
size_t ag_gpu_room(const ag_ctx *ctx);

#ifdef __cplusplus
}
#endif

#endif /* AG_GPU_H */
