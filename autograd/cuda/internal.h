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
    cudaStream_t stream;  /* all kernels and copies, in order; values from the host come by another */
    cuda_driver driver;
    size_t granularity;   /* of device memory behind addresses */
    cuda_trouble *trouble;      /* on the device */
    cuda_trouble *trouble_here; /* pinned, on the host */
    struct cuda_gemm_state *gemm; /* gemm.h; NULL before the first product */
    struct cuda_staging *staging; /* staging.c */
    bool is_recording;            /* what is queued goes into a graph */
    struct cuda_dnn *dnn;         /* dnn.c; NULL before it was asked for */
    const char *last_queued;    /* name of the op whose kernel was queued last */
};

/* Fail the context with what the library says about `error` during `what`; returns AG_EDEVICE. */
ag_status cuda_failed(ag_cuda *cuda, const char *what, cudaError_t error);

/* After a wait that ended with `error`: fail the context with what went wrong on the device, and what a kernel
 * complained of. */
ag_status cuda_check_done(ag_cuda *cuda, cudaError_t error, const cuda_trouble *trouble);

/* staging.c */
bool cuda_staging_open(ag_cuda *cuda);
void cuda_staging_close(ag_cuda *cuda);
size_t cuda_staged(const ag_cuda *cuda);
ag_status cuda_write(ag_cuda *cuda, void *to, const void *from, size_t bytes);
ag_status cuda_copy_bytes(ag_cuda *cuda, void *to, const void *from, size_t bytes);
ag_cuda_mail *cuda_mail_new(ag_cuda *cuda, size_t bytes);
void cuda_mail_free(ag_cuda_mail *mail);
ag_status cuda_mail_post(ag_cuda_mail *mail, size_t at, const void *from, size_t bytes);
ag_status cuda_mail_send(ag_cuda_mail *mail);
bool cuda_mail_is_here(ag_cuda_mail *mail);
const void *cuda_mail_open(ag_cuda_mail *mail);

/* graph.c */
ag_status cuda_record(ag_cuda *cuda);
ag_cuda_graph *cuda_recorded(ag_cuda *cuda, bool keep);
ag_status cuda_launch_graph(ag_cuda_graph *graph);
void cuda_graph_free(ag_cuda_graph *graph);

/* dnn.c */
const char *cuda_dnn_library(void);       /* the file name of cuDNN; NULL: built without it */
void cuda_dnn_free(struct cuda_dnn *dnn); /* NULL is fine */

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
