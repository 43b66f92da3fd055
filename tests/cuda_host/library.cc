/* library.cc - in the place of autograd/cuda/library.c: the libraries are part of the program.
 *
 * CUDA_HOST_WITHOUT=libcublasLt names one that is then not there.
 */
#include "autograd/cuda/library.h"

#include <cstdlib>
#include <cstring>

#include <cublasLt.h>
#include <cudnn_graph.h>

namespace {

struct entry {
    const char *library, *name;
    void *function;
};

#define ENTRY(library, name) {library, #name, reinterpret_cast<void *>(name)}
const entry ENTRIES[] = {
    ENTRY("libcublasLt.so.13", cublasLtGetVersion),
    ENTRY("libcublasLt.so.13", cublasLtCreate),
    ENTRY("libcublasLt.so.13", cublasLtDestroy),
    ENTRY("libcublasLt.so.13", cublasLtMatmulDescCreate),
    ENTRY("libcublasLt.so.13", cublasLtMatmulDescSetAttribute),
    ENTRY("libcublasLt.so.13", cublasLtMatmulDescDestroy),
    ENTRY("libcublasLt.so.13", cublasLtMatrixLayoutCreate),
    ENTRY("libcublasLt.so.13", cublasLtMatrixLayoutSetAttribute),
    ENTRY("libcublasLt.so.13", cublasLtMatrixLayoutDestroy),
    ENTRY("libcublasLt.so.13", cublasLtMatmulPreferenceCreate),
    ENTRY("libcublasLt.so.13", cublasLtMatmulPreferenceSetAttribute),
    ENTRY("libcublasLt.so.13", cublasLtMatmulPreferenceDestroy),
    ENTRY("libcublasLt.so.13", cublasLtMatmulAlgoGetHeuristic),
    ENTRY("libcublasLt.so.13", cublasLtMatmul),
    ENTRY("libcudnn.so.9", cudnnGetVersion),
    ENTRY("libcudnn.so.9", cudnnCreate),
    ENTRY("libcudnn.so.9", cudnnDestroy),
    ENTRY("libcudnn.so.9", cudnnSetStream),
    ENTRY("libcudnn.so.9", cudnnGetLastErrorString),
    ENTRY("libcudnn.so.9", cudnnBackendCreateDescriptor),
    ENTRY("libcudnn.so.9", cudnnBackendDestroyDescriptor),
    ENTRY("libcudnn.so.9", cudnnBackendSetAttribute),
    ENTRY("libcudnn.so.9", cudnnBackendGetAttribute),
    ENTRY("libcudnn.so.9", cudnnBackendFinalize),
    ENTRY("libcudnn.so.9", cudnnBackendExecute),
};

} // namespace

void *cuda_library_open(const char *name)
{
    const char *without = getenv("CUDA_HOST_WITHOUT");

    if (without && *without && strncmp(name, without, strlen(without)) == 0)
        return nullptr;
    for (const entry &e : ENTRIES)
        if (strcmp(e.library, name) == 0)
            return const_cast<char *>(e.library);
    return nullptr;
}

void *cuda_library_find(void *library, const char *function)
{
    for (const entry &e : ENTRIES)
        if (strcmp(e.library, static_cast<const char *>(library)) == 0 && strcmp(e.name, function) == 0)
            return e.function;
    return nullptr;
}
