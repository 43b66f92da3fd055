/* plans.h - what was prepared once for a shape and is found again. For files in autograd/cuda/ only. */
#ifndef AG_CUDA_PLANS_H
#define AG_CUDA_PLANS_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Records that begin with their key: key_bytes bytes, compared as bytes, so they are zeroed before they are filled. */
typedef struct cuda_plans {
    size_t key_bytes;
    void **at; /* by hash, open */
    size_t n, room;
} cuda_plans;

void *cuda_plans_find(const cuda_plans *plans, const void *key); /* NULL: not there */
bool cuda_plans_add(cuda_plans *plans, void *plan);              /* false: no memory */
/* Give every record to `destroy`, and the table back. */
void cuda_plans_free(cuda_plans *plans, void (*destroy)(void *user, void *plan), void *user);

#ifdef __cplusplus
}
#endif

#endif /* AG_CUDA_PLANS_H */
