/* gemm_tiled.cu - matrix products of any types by tiles in shared memory: for what cuBLASLt does not do. */
#include "autograd/cuda/device.cuh"
#include "autograd/cuda/gemm.h"

enum { TILE = 32, STEP = 32, ROWS = 8 }; /* a block of 32 x 8 threads makes 32 x 32 results, 4 a thread */

struct product {
    int64_t m, n, k, ld_a, ld_b, ld_c, stride_a, stride_b, stride_c;
    int transpose_a, transpose_b, accumulate, unused;
    cuda_floats a, b, bias;
    cuda_out c;
};

static __global__ void product_by_tiles(product p)
{
    CUDA_SHARED(float, left, [TILE][STEP + 1]);
    CUDA_SHARED(float, right, [STEP][TILE + 1]);
    const int64_t row0 = (int64_t)blockIdx.y * TILE, column = (int64_t)blockIdx.x * TILE + threadIdx.x;
    const int64_t from_a = blockIdx.z * p.stride_a, from_b = blockIdx.z * p.stride_b;
    float sum[TILE / ROWS] = {};

    for (int64_t k0 = 0; k0 < p.k; k0 += STEP) {
        for (int r = threadIdx.y; r < TILE; r += ROWS) {
            const int64_t row = row0 + r, ka = k0 + threadIdx.x, kb = k0 + r;
            left[r][threadIdx.x] =
                row < p.m && ka < p.k
                    ? cuda_load(p.a, from_a + (p.transpose_a ? ka * p.ld_a + row : row * p.ld_a + ka))
                    : 0.0f;
            right[r][threadIdx.x] =
                column < p.n && kb < p.k
                    ? cuda_load(p.b, from_b + (p.transpose_b ? column * p.ld_b + kb : kb * p.ld_b + column))
                    : 0.0f;
        }
        __syncthreads();
        for (int k = 0; k < STEP; k++)
            for (int i = 0; i < TILE / ROWS; i++)
                sum[i] = fmaf(left[threadIdx.y + i * ROWS][k], right[k][threadIdx.x], sum[i]);
        __syncthreads();
    }
    for (int i = 0; i < TILE / ROWS; i++) {
        const int64_t row = row0 + threadIdx.y + i * ROWS, at = blockIdx.z * p.stride_c + row * p.ld_c + column;
        if (row >= p.m || column >= p.n)
            continue;
        if (p.bias.data)
            sum[i] += cuda_load(p.bias, column);
        if (p.accumulate)
            sum[i] += ((const float *)p.c.data)[at];
        cuda_store(p.c, at, sum[i]);
    }
}

static cuda_floats floats(const void *data, ag_dtype type)
{
    cuda_floats f = {};

    f.data = data;
    f.type = type;
    return f;
}

ag_status cuda_gemm_tiled(const ag_call *call, const cuda_product *p)
{
    const int64_t batch = p->batch ? p->batch : 1;
    product q = {};

    q.m = p->m;
    q.n = p->n;
    q.k = p->k;
    q.ld_a = p->ld_a ? p->ld_a : p->transpose_a ? p->m : p->k;
    q.ld_b = p->ld_b ? p->ld_b : p->transpose_b ? p->k : p->n;
    q.ld_c = p->ld_c ? p->ld_c : p->n;
    q.stride_a = p->stride_a;
    q.stride_b = p->stride_b;
    q.stride_c = p->stride_c;
    q.transpose_a = p->transpose_a;
    q.transpose_b = p->transpose_b;
    q.accumulate = p->accumulate;
    q.a = floats(p->a, p->a_type);
    q.b = floats(p->b, p->b_type);
    q.bias = floats(p->bias, p->bias_type);
    q.c.data = p->c;
    q.c.type = p->c_type;
    if ((p->m + TILE - 1) / TILE > 65535 || batch > 65535)
        return ag_fail(call->ctx, AG_EUNSUPPORTED, "%s: a product of %lld x %lld x %lld, %lld times, is too large "
                       "without cuBLASLt", call->op->name, (long long)p->m, (long long)p->n, (long long)p->k,
                       (long long)batch);
    return cuda_launch(call, product_by_tiles,
                       dim3((unsigned)((p->n + TILE - 1) / TILE), (unsigned)((p->m + TILE - 1) / TILE), (unsigned)batch),
                       dim3(TILE, ROWS), 0, q);
}
