/* absent.c - stands in the place of backend.c where no CUDA toolkit was found. */
#include "autograd/cuda.h"

const ag_cuda_api *ag_cuda_built(void)
{
    return NULL;
}
