/* products.h - the sizes of the products that a matmul is, for the kernels of every device. */
#ifndef AG_OPS_PRODUCTS_H
#define AG_OPS_PRODUCTS_H

#include <stdint.h>

#include "autograd/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* batch products of [m,k] and [k,n]; strides in elements, 0 for a factor that all share. */
typedef struct op_products {
    int64_t m, n, k, batch;
    int64_t stride_a, stride_b, stride_c;
} op_products;

/* Leading axes of a factor, and how many products they count. */
int op_n_lead(const ag_tensor *t);
int64_t op_n_products(const ag_tensor *t);

/* Of a call of matmul whose shapes fit. */
op_products op_matmul_products(const ag_call *call);

#ifdef __cplusplus
}
#endif

#endif /* AG_OPS_PRODUCTS_H */
