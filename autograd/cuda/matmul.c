/* matmul.c - the CUDA twin of ops/matmul.c: the products by gemm.h. */
#include "autograd/cuda/gemm.h"
#include "autograd/cuda/kernels.h"
#include "autograd/ops/attrs.h"
#include "autograd/ops/products.h"

static ag_status run(ag_call *call, const cuda_product *p)
{
    const size_t bytes = cuda_gemm_scratch(call, p);
    void *scratch = bytes ? ag_scratch(call->ctx, bytes) : NULL;

    return bytes && !scratch ? ag_status_of(call->ctx) : cuda_gemm(call, p, scratch);
}

/* --- matmul ----------------------------------------------------------------------------------- */

static cuda_product matmul_product(const ag_call *call)
{
    const op_matmul_attr *attr = call->attr;
    const ag_tensor *a = call->in[0], *b = call->in[1], *y = call->out[0];
    const op_products p = op_matmul_products(call);

    return (cuda_product){
        .m = p.m,
        .n = p.n,
        .k = p.k,
        .a = ag_data(a),
        .b = ag_data(b),
        .c = ag_data(y),
        .transpose_a = attr->transpose_a,
        .transpose_b = attr->transpose_b,
        .a_type = ag_dtype_of(a),
        .b_type = ag_dtype_of(b),
        .c_type = ag_dtype_of(y),
        .batch = p.batch,
        .stride_a = p.stride_a,
        .stride_b = p.stride_b,
        .stride_c = p.stride_c,
    };
}

size_t cuda_matmul_scratch(const ag_call *call)
{
    const cuda_product p = matmul_product(call);

    return ag_numel(call->out[0]) ? cuda_gemm_scratch(call, &p) : 0;
}

ag_status cuda_matmul(ag_call *call)
{
    const cuda_product p = matmul_product(call);

    return ag_numel(call->out[0]) ? run(call, &p) : AG_OK;
}

/* --- linear ----------------------------------------------------------------------------------- */

static cuda_product linear_product(const ag_call *call)
{
    const ag_tensor *x = call->in[0], *w = call->in[1], *b = call->in[2];
    const int64_t n = ag_dim(w, 0);

    return (cuda_product){
        .m = n ? ag_numel(call->out[0]) / n : 0,
        .n = n,
        .k = ag_dim(w, 1),
        .a = ag_data(x),
        .b = ag_data(w),
        .c = ag_data(call->out[0]),
        .transpose_b = true,
        .a_type = ag_dtype_of(x),
        .b_type = ag_dtype_of(w),
        .c_type = ag_dtype_of(call->out[0]),
        .bias = b ? ag_data(b) : NULL,
        .bias_type = b ? ag_dtype_of(b) : AG_F32,
    };
}

size_t cuda_linear_scratch(const ag_call *call)
{
    const cuda_product p = linear_product(call);

    return cuda_gemm_scratch(call, &p);
}

ag_status cuda_linear(ag_call *call)
{
    const cuda_product p = linear_product(call);

    return run(call, &p);
}
