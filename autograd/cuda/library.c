/* library.c - see library.h. */
#include "autograd/cuda/library.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

void *cuda_library_open(const char *name)
{
    const char *home = getenv("CUDA_HOME");
    char path[512];
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (library)
        return library;
    snprintf(path, sizeof path, "%s/lib64/%s", home && *home ? home : "/usr/local/cuda", name);
    return dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

void *cuda_library_find(void *library, const char *function)
{
    return dlsym(library, function);
}
