/* functions.c - a library's functions, found by name into a table of pointers; see library.h. */
#include <string.h>

#include "autograd/cuda/library.h"

bool cuda_library_load(const char *library, const cuda_function *functions, int n)
{
    void *file = cuda_library_open(library);

    for (int i = 0; file && i < n; i++) {
        void *found = cuda_library_find(file, functions[i].name);
        if (!found)
            return false;
        memcpy(functions[i].to, &found, sizeof found);
    }
    return file != NULL;
}
