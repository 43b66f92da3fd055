/* matmul.c - the CUDA twin of ops/matmul.c: the products by gemm.h. */
#include "autograd/cuda/gemm.h"
#include "autograd/cuda/kernels.h"
#include "autograd/ops/attrs.h"

static int n_lead(const ag_tensor *t)
{
    return ag_ndim(t) - 2;
}

/* Products in t's leading axes. */
static int64_t batch_of(const ag_tensor *t)
{
    int64_t n = 1;

    for (int i = 0; i < n_lead(t); i++)
        n *= ag_dim(t, i);
    return n;
}

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
    cuda_product p = {
        .m = ag_dim(y, -2),
        .n = ag_dim(y, -1),
        .k = ag_dim(a, attr->transpose_a ? -2 : -1),
        .a = ag_data(a),
        .b = ag_data(b),
        .c = ag_data(y),
        .transpose_a = attr->transpose_a,
        .transpose_b = attr->transpose_b,
        .a_type = ag_dtype_of(a),
        .b_type = ag_dtype_of(b),
        .c_type = ag_dtype_of(y),
    };

    if (!n_lead(b) && !attr->transpose_a) {
        p.m *= batch_of(a); /* rows of all products below each other: one product */
        return p;
    }
    p.batch = batch_of(y);
    p.stride_a = n_lead(a) ? p.m * p.k : 0;
    p.stride_b = n_lead(b) ? p.k * p.n : 0;
    p.stride_c = p.m * p.n;
    return p;
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
