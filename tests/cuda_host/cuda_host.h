/* cuda_host.h - what the stand-ins share, and what tests ask of them. */
#ifndef CUDA_HOST_H
#define CUDA_HOST_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Let `n` more calls pass and fail the next one (and, when `forever`, all after it); n < 0: fail none. The
 * environment's CUDA_HOST_FAIL=n does so from the start of a program. */
void cuda_host_fail_in(long n, bool forever);
/* True when this call is to fail; every call that can fail asks once. */
bool cuda_host_fails(void);

/* How often something was done since the program began. */
enum cuda_host_event {
    CUDA_HOST_WAITS,       /* the host waited for all of a stream, or for a copy of memory that is not pinned */
    CUDA_HOST_EVENT_WAITS, /* the host waited for an event */
    CUDA_HOST_TAKES,       /* memory was taken, on the device, behind its addresses, or pinned */
    CUDA_HOST_KERNELS,     /* a kernel was launched, or put into a graph */
    CUDA_HOST_GRAPHS,      /* a graph was launched */
    CUDA_HOST_PLANS,       /* cuDNN finished a plan */
    CUDA_HOST_LOOSE_PLANS, /* one of an engine that adds in another order each time */
    CUDA_HOST_PLAN_RUNS,   /* a plan was queued, or put into a graph */
    CUDA_HOST_N_EVENTS
};
long cuda_host_count(enum cuda_host_event event);
void cuda_host_happened(enum cuda_host_event event);

/* [address, address + bytes) is device memory that was taken and not given back. */
bool cuda_host_is_device(const void *address, size_t bytes);
/* The same of host memory that was pinned, which kernels may use. */
bool cuda_host_is_pinned(const void *address, size_t bytes);

/* Say what is wrong and end the program: for what a real device would answer with wrong numbers. */
void cuda_host_die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#ifdef __cplusplus
}

#include <functional>

#include "cuda_runtime_api.h"

/* Put work behind what the stream holds (or into the graph that it records). */
cudaError_t cuda_host_queue(cudaStream_t stream, std::function<void()> work);
/* The work that is queued next on a stream that records knows this address on the device: the graph must not outlive
 * the memory behind it. */
void cuda_host_knows(cudaStream_t stream, const void *address);
/* Record an error for cudaGetLastError(); returns it. */
cudaError_t cuda_host_error(cudaError_t error);
#endif

#endif /* CUDA_HOST_H */
