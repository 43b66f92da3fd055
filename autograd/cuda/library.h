/* library.h - NVIDIA's libraries, opened when they are first needed: the program is not linked with them. */
#ifndef AG_CUDA_LIBRARY_H
#define AG_CUDA_LIBRARY_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "libcublasLt.so.13", looked for where the loader looks and in the toolkit's folder. NULL when it is not
 * there. It stays open until the program ends. */
void *cuda_library_open(const char *name);
void *cuda_library_find(void *library, const char *function); /* NULL when it has none of that name */

typedef struct cuda_function {
    const char *name;
    void *to; /* the function pointer that gets its address */
} cuda_function;

/* Open a library and find all n functions. False when it or one of them is not there. */
bool cuda_library_load(const char *library, const cuda_function *functions, int n);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_LIBRARY_H */
