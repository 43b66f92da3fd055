/* backend.c - opening a device, copies, waiting; the table that autograd/cuda.h promises. */
#include <stdlib.h>
#include <string.h>

#include "autograd/cuda/gemm.h"
#include "autograd/cuda/internal.h"

enum { FORESEEN_SM = 132 }; /* of a large device */

ag_status cuda_failed(ag_cuda *cuda, const char *what, cudaError_t error)
{
    (void)cudaGetLastError(); /* it has been told */
    return ag_fail(cuda->ctx, error == cudaErrorMemoryAllocation ? AG_ENOMEM : AG_EDEVICE, "cuda: %s: %s", what,
                   cudaGetErrorString(error));
}

/* --- opening ---------------------------------------------------------------------------------- */

static bool find(ag_cuda *cuda, const char *name, void *function)
{
    enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion(name, function, 12000, cudaEnableDefault, &result);

    if (error == cudaSuccess && result == cudaDriverEntryPointSuccess)
        return true;
    (void)cudaGetLastError();
    ag_fail(cuda->ctx, AG_EDEVICE, "cuda: the driver has no %s", name);
    return false;
}

static bool find_driver(ag_cuda *cuda)
{
    cuda_driver *d = &cuda->driver;
    const CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .location = {CU_MEM_LOCATION_TYPE_DEVICE, cuda->device}};

    if (!find(cuda, "cuMemGetAllocationGranularity", &d->granularity) ||
        !find(cuda, "cuMemAddressReserve", &d->reserve) || !find(cuda, "cuMemAddressFree", &d->unreserve) ||
        !find(cuda, "cuMemCreate", &d->create) || !find(cuda, "cuMemRelease", &d->destroy) ||
        !find(cuda, "cuMemMap", &d->map) || !find(cuda, "cuMemUnmap", &d->unmap) ||
        !find(cuda, "cuMemSetAccess", &d->access))
        return false;
    if (d->granularity(&cuda->granularity, &prop, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED) == CUDA_SUCCESS)
        return true;
    ag_fail(cuda->ctx, AG_EDEVICE, "cuda: the device does not tell how its memory is divided");
    return false;
}

static void close_device(ag_cuda *cuda)
{
    if (!cuda)
        return;
    if (cuda->stream) {
        cudaStreamSynchronize(cuda->stream);
        cudaStreamDestroy(cuda->stream);
    }
    cuda_staging_close(cuda);
    cuda_gemm_state_free(cuda->gemm);
    cuda_dnn_free(cuda->dnn);
    if (!cuda->is_foreseen) {
        cudaFree(cuda->trouble);
        cudaFreeHost(cuda->trouble_here);
        (void)cudaGetLastError(); /* nobody is left to tell */
    }
    free(cuda);
}

static bool ok(ag_cuda *cuda, const char *what, cudaError_t error)
{
    if (error != cudaSuccess)
        cuda_failed(cuda, what, error);
    return error == cudaSuccess;
}

static bool open_parts(ag_cuda *cuda)
{
    const size_t bytes = sizeof *cuda->trouble;

    return ok(cuda, "choosing the device", cudaSetDevice(cuda->device)) &&
           ok(cuda, "asking the device",
              cudaDeviceGetAttribute(&cuda->n_sm, cudaDevAttrMultiProcessorCount, cuda->device)) &&
           ok(cuda, "a stream", cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking)) &&
           ok(cuda, "memory", cudaMalloc((void **)&cuda->trouble, bytes)) &&
           ok(cuda, "pinned memory", cudaHostAlloc((void **)&cuda->trouble_here, bytes, cudaHostAllocDefault)) &&
           ok(cuda, "clearing memory", cudaMemsetAsync(cuda->trouble, 0, bytes, cuda->stream)) &&
           cuda_staging_open(cuda) && find_driver(cuda);
}

static ag_cuda *new_state(ag_ctx *ctx)
{
    ag_cuda *cuda = calloc(1, sizeof *cuda);

    if (!cuda) {
        ag_fail(ctx, AG_ENOMEM, "no memory for the CUDA back end");
        return NULL;
    }
    cuda->ctx = ctx;
    cuda->last_queued = "nothing";
    return cuda;
}

static ag_cuda *open_device(ag_ctx *ctx)
{
    int n = 0;
    const cudaError_t error = cudaGetDeviceCount(&n);
    ag_cuda *cuda;

    if (error != cudaSuccess || n < 1) {
        (void)cudaGetLastError();
        ag_fail(ctx, AG_EDEVICE, "device cuda: %s; use --device cpu",
                error == cudaSuccess ? "no device was found" : cudaGetErrorString(error));
        return NULL;
    }
    cuda = new_state(ctx);
    if (!cuda || open_parts(cuda))
        return cuda;
    close_device(cuda);
    return NULL;
}

/* Kernels ask for nothing of a device when they say what they will take, but its size here and there. */
static ag_cuda *foresee_device(ag_ctx *ctx)
{
    ag_cuda *cuda = new_state(ctx);

    if (cuda) {
        cuda->is_foreseen = true;
        cuda->n_sm = FORESEEN_SM;
    }
    return cuda;
}

/* --- copies and waiting ----------------------------------------------------------------------- */

ag_status cuda_check_done(ag_cuda *cuda, cudaError_t error, const cuda_trouble *t)
{
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return ag_fail(cuda->ctx, AG_EDEVICE, "cuda: %s, in what was queued up to %s", cudaGetErrorString(error),
                       cuda->last_queued);
    }
    if (!t->is_there)
        return AG_OK;
    cudaMemsetAsync(cuda->trouble, 0, sizeof *cuda->trouble, cuda->stream);
    return ag_fail(cuda->ctx, AG_EINVAL, "%s: id %lld at %lld is not in a table of %lld rows", cuda_kernel_name(t->kernel),
                   t->id, t->at, t->rows);
}

static ag_status wait_for(ag_cuda *cuda)
{
    cudaError_t error = cudaMemcpyAsync(cuda->trouble_here, cuda->trouble, sizeof *cuda->trouble,
                                        cudaMemcpyDeviceToHost, cuda->stream);

    if (error == cudaSuccess)
        error = cudaStreamSynchronize(cuda->stream);
    return cuda_check_done(cuda, error, cuda->trouble_here);
}

static ag_status read_from(ag_cuda *cuda, void *to, const void *from, size_t bytes)
{
    const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda->stream);

    if (error != cudaSuccess)
        return cuda_failed(cuda, "a copy from the device", error);
    return wait_for(cuda);
}

/* Addresses are the host's own: one address space holds what the runtime pinned. */
static void *pin(ag_cuda *cuda, size_t bytes)
{
    void *memory = NULL;

    (void)cuda;
    if (cudaHostAlloc(&memory, bytes, cudaHostAllocDefault) == cudaSuccess)
        return memory;
    (void)cudaGetLastError();
    return NULL;
}

static void unpin(ag_cuda *cuda, void *memory)
{
    cudaStreamSynchronize(cuda->stream); /* what is queued may still use it */
    cudaFreeHost(memory);
    (void)cudaGetLastError();
}

static size_t free_bytes(ag_cuda *cuda)
{
    size_t left = 0, total = 0;

    (void)cuda;
    if (cudaMemGetInfo(&left, &total) == cudaSuccess)
        return left;
    (void)cudaGetLastError();
    return 0;
}

const ag_cuda_api *ag_cuda_built(void)
{
    static const ag_cuda_api API = {
        .count = cuda_count, .describe = cuda_describe,
        .open = open_device,
        .foresee = foresee_device,
        .close = close_device,
        .kernel = cuda_kernel_of,
        .write = cuda_write,
        .read = read_from,
        .copy = cuda_copy_bytes,
        .wait = wait_for,
        .mail_new = cuda_mail_new,
        .mail_free = cuda_mail_free,
        .mail_post = cuda_mail_post,
        .mail_send = cuda_mail_send,
        .mail_is_here = cuda_mail_is_here,
        .mail_open = cuda_mail_open,
        .record = cuda_record,
        .recorded = cuda_recorded,
        .launch = cuda_launch_graph,
        .graph_free = cuda_graph_free,
        .reserve = cuda_range_reserve,
        .release = cuda_range_release,
        .address = cuda_range_address,
        .map = cuda_range_map,
        .unmap = cuda_range_unmap,
        .mapped = cuda_range_mapped,
        .pin = pin,
        .unpin = unpin,
        .free_bytes = free_bytes,
        .staged = cuda_staged,
    };

    return &API;
}
