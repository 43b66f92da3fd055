/* gpu.c - see gpu.h. */
#include "autograd/gpu.h"

#include <stdio.h>

#include "autograd/cuda.h"

void ag_gpus_find(ag_gpus *out)
{
    const ag_cuda_api *api = ag_cuda_built();

    *out = (ag_gpus){0};
    if (api)
        api->describe(out);
    else
        snprintf(out->why, sizeof out->why, "this program was built without the CUDA toolkit");
}

bool ag_gpu_is_there(void)
{
    const ag_cuda_api *api = ag_cuda_built();

    return api && api->count() > 0;
}
