/* describe.c - what GPUs and libraries there are; see autograd/gpu.h. */
#include <stdio.h>

#include "autograd/cuda/gemm.h"
#include "autograd/cuda/internal.h"
#include "autograd/cuda/library.h"

/* "13.0" of 13000 */
static void cuda_version(char *text, int version)
{
    if (version > 0)
        snprintf(text, AG_GPU_TEXT, "%d.%d", version / 1000, version % 1000 / 10);
}

/* "13.1.2" of 130102; what the library says that it is. name NULL: there is none. */
static void library_version(char *text, const char *name, const char *function)
{
    size_t (*version)(void) = NULL;
    size_t v;

    if (!name || !cuda_library_load(name, &(cuda_function){function, &version}, 1))
        return;
    v = version();
    snprintf(text, AG_GPU_TEXT, "%zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

static bool describe_one(ag_gpu *out, int device)
{
    struct cudaDeviceProp prop;

    if (cudaGetDeviceProperties(&prop, device) != cudaSuccess) {
        (void)cudaGetLastError();
        return false;
    }
    snprintf(out->name, sizeof out->name, "%.*s", AG_GPU_TEXT - 1, prop.name);
    out->major = prop.major;
    out->minor = prop.minor;
    out->processors = prop.multiProcessorCount;
    out->bytes = prop.totalGlobalMem;
    return true;
}

int cuda_count(void)
{
    int n = 0;

    if (cudaGetDeviceCount(&n) != cudaSuccess)
        n = 0;
    (void)cudaGetLastError();
    return n;
}

void cuda_describe(ag_gpus *out)
{
    int driver = 0, runtime = 0, n = 0;
    cudaError_t error;

    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    cuda_version(out->driver, driver);
    cuda_version(out->runtime, runtime);
    library_version(out->cublaslt, cuda_gemm_library(), "cublasLtGetVersion");
    library_version(out->cudnn, cuda_dnn_library(), "cudnnGetVersion");
    error = cudaGetDeviceCount(&n);
    (void)cudaGetLastError();
    if (error == cudaSuccess)
        for (int i = 0; i < n && out->n < AG_MAX_GPUS; i++)
            out->n += describe_one(&out->list[out->n], i);
    if (out->n == 0)
        snprintf(out->why, sizeof out->why, "%s",
                 driver == 0 ? "there is no NVIDIA driver"
                             : error == cudaSuccess ? "no device was found" : cudaGetErrorString(error));
}
