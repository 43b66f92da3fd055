/* products.c - see products.h. */
#include "autograd/ops/products.h"

#include "autograd/ops/attrs.h"

int op_n_lead(const ag_tensor *t)
{
    return ag_ndim(t) - 2;
}

int64_t op_n_products(const ag_tensor *t)
{
    int64_t n = 1;

    for (int i = 0; i < op_n_lead(t); i++)
        n *= ag_dim(t, i);
    return n;
}

op_products op_matmul_products(const ag_call *call)
{
    const op_matmul_attr *attr = call->attr;
    const ag_tensor *a = call->in[0], *b = call->in[1], *y = call->out[0];
    op_products p = {.m = ag_dim(y, -2), .n = ag_dim(y, -1), .k = ag_dim(a, attr->transpose_a ? -2 : -1),
                     .batch = op_n_products(y)};

    if (!op_n_lead(b) && !attr->transpose_a) {
        p.m *= op_n_products(a); /* rows of all products below each other: one product */
        p.batch = 1;
        return p;
    }
    p.stride_a = op_n_lead(a) ? p.m * p.k : 0;
    p.stride_b = op_n_lead(b) ? p.k * p.n : 0;
    p.stride_c = p.m * p.n;
    return p;
}
