/* internal.h - a device as one context sees it. For files in autograd/cuda/ only. */
#ifndef AG_CUDA_INTERNAL_H
#define AG_CUDA_INTERNAL_H

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "autograd/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Driver calls that the runtime has no words for, asked for by name: the program itself is not linked
 * with the driver and starts on a machine without one. */
typedef struct cuda_driver {
    CUresult (*granularity)(size_t *, const CUmemAllocationProp *, CUmemAllocationGranularity_flags);
    CUresult (*reserve)(CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long);
    CUresult (*unreserve)(CUdeviceptr, size_t);
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long);
    CUresult (*destroy)(CUmemGenericAllocationHandle);
    CUresult (*map)(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long);
    CUresult (*unmap)(CUdeviceptr, size_t);
    CUresult (*access)(CUdeviceptr, size_t, const CUmemAccessDesc *, size_t);
} cuda_driver;

/* What a kernel found wrong in its input, for the next time the host waits. The first one stays. */
typedef struct cuda_trouble {
    int is_there;
    int kernel;             /* index of the one that found it, see cuda_kernel_name() */
    long long id, at, rows; /* an id that is not in a table */
} cuda_trouble;

struct ag_cuda {
    ag_ctx *ctx;
    bool is_foreseen;     /* there is no device: a run on AG_META */
    int device;
    int n_sm;             /* multiprocessors */
    cudaStream_t stream;  /* all kernels and copies, in order */
    cuda_driver driver;
    size_t granularity;   /* of device memory behind addresses */
    cuda_trouble *trouble;      /* on the device */
    cuda_trouble *trouble_here; /* pinned, on the host */
    struct cuda_gemm_state *gemm; /* gemm.h; NULL before the first product */
    const char *last_queued;    /* name of the op whose kernel was queued last */
};

/* Fail the context with what the library says about `error` during `what`; returns AG_EDEVICE. */
ag_status cuda_failed(ag_cuda *cuda, const char *what, cudaError_t error);

/* range.c */
ag_cuda_range *cuda_range_reserve(ag_cuda *cuda, size_t bytes);
void cuda_range_release(ag_cuda_range *range);
void *cuda_range_address(const ag_cuda_range *range);
bool cuda_range_map(ag_cuda_range *range, size_t from, size_t to);
void cuda_range_unmap(ag_cuda_range *range, size_t from, size_t to);
size_t cuda_range_mapped(const ag_cuda_range *range);

/* describe.c */
int cuda_count(void);
void cuda_describe(ag_gpus *out);

/* kernels.c */
const ag_cuda_kernel *cuda_kernel_of(const ag_op *op);
int cuda_kernel_index(const ag_op *op);
const char *cuda_kernel_name(int index);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_INTERNAL_H */
