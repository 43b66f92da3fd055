/* embedding.cu - the CUDA twin of ops/embedding.c.
 *
 * An id outside the table is found by the kernel, and told at the next wait; its row is left as it is.
 */
#include "autograd/cuda/device.cuh"

static __device__ bool is_row(cuda_trouble *trouble, int kernel, int64_t id, int64_t at, int64_t rows)
{
    if (id >= 0 && id < rows)
        return true;
    if (atomicCAS(&trouble->is_there, 0, 1) == 0) {
        trouble->kernel = kernel;
        trouble->id = id;
        trouble->at = at;
        trouble->rows = rows;
    }
    return false;
}

static __global__ void embedding(cuda_out y, cuda_floats table, const int64_t *ids, int64_t n, int64_t d, int64_t rows,
                                 cuda_trouble *trouble, int kernel)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < n * d; at += step) {
        int64_t i;
        const int64_t which = cuda_divide(at, d, &i), id = ids[which];
        if (is_row(trouble, kernel, id, which, rows))
            cuda_store(y, at, cuda_load(table, id * d + i));
    }
}

ag_status cuda_embedding(ag_call *call)
{
    const ag_tensor *table = call->in[0], *ids = call->in[1];

    return cuda_launch_over(call, ag_numel(call->out[0]), embedding, cuda_to(call->out[0]), cuda_in(table),
                            (const int64_t *)ag_data(ids), ag_numel(ids), ag_dim(table, 1), ag_dim(table, 0),
                            ag_cuda_of(call->ctx)->trouble, cuda_kernel_index(call->op));
}

/* A block for each id. The first place where an id stands adds the rows of all of them, in their order. */
static __global__ void embedding_backward(cuda_out table, cuda_floats dy, const int64_t *ids, int64_t n, int64_t d,
                                          int64_t rows, cuda_trouble *trouble, int kernel)
{
    CUDA_SHARED(int, earlier, [1]);

    for (int64_t at = blockIdx.x; at < n; at += gridDim.x) {
        const int64_t id = ids[at];
        __syncthreads();
        if (threadIdx.x == 0)
            earlier[0] = !is_row(trouble, kernel, id, at, rows);
        __syncthreads();
        for (int64_t k = threadIdx.x; k < at; k += blockDim.x)
            if (ids[k] == id)
                earlier[0] = 1;
        __syncthreads();
        if (earlier[0])
            continue;
        for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
            float total = 0.0f;
            for (int64_t k = at; k < n; k++)
                if (ids[k] == id)
                    total += cuda_load(dy, k * d + i);
            cuda_store(table, id * d + i, total);
        }
    }
}

ag_status cuda_embedding_backward(ag_call *call)
{
    const ag_tensor *dy = call->in[0], *ids = call->in[1], *table = call->out[0];
    const int64_t n = ag_numel(ids);
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    cudaError_t error;

    if (ag_numel(table) == 0)
        return AG_OK;
    error = cudaMemsetAsync(ag_data(table), 0, ag_nbytes(table), cuda->stream);
    if (error != cudaSuccess)
        return cuda_failed(cuda, call->op->name, error);
    if (n == 0)
        return AG_OK;
    return cuda_launch(call, embedding_backward, (unsigned)(n < 65535 ? n : 65535), CUDA_THREADS, 0, cuda_to(table),
                       cuda_in(dy), (const int64_t *)ag_data(ids), n, ag_dim(dy, -1), ag_dim(table, 0),
                       cuda->trouble, cuda_kernel_index(call->op));
}
