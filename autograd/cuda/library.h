/* library.h - NVIDIA's libraries, opened when they are first needed: the program is not linked with them. */
#ifndef AG_CUDA_LIBRARY_H
#define AG_CUDA_LIBRARY_H

#ifdef __cplusplus
extern "C" {
#endif

/* "libcublasLt.so.13", looked for where the loader looks and in the toolkit's folder. NULL when it is not
 * there. It stays open until the program ends. */
void *cuda_library_open(const char *name);
void *cuda_library_find(void *library, const char *function); /* NULL when it has none of that name */

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_LIBRARY_H */
