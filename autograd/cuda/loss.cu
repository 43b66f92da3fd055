/* loss.cu - the CUDA twin of ops/loss.c. */
#include "autograd/cuda/reduce.cuh"

static __device__ __forceinline__ float loss_value(int kind, float e, float c)
{
    const float sq = e * e;
    float f;

    if (kind == AG_LOSS_L2)
        return sq;
    f = 2.0f * sq / fmaxf(1e-38f, sqrtf(fmaf(c, c, sq)) + c);
    return kind == AG_LOSS_HUBER ? f * c : f;
}

static __device__ __forceinline__ float loss_slope(int kind, float e, float c)
{
    float f;

    if (kind == AG_LOSS_L2)
        return 2.0f * e;
    f = 2.0f * e / fmaxf(1e-38f, sqrtf(fmaf(c, c, e * e)));
    return kind == AG_LOSS_HUBER ? f * c : f;
}

enum { LOSS_PIECE = 8192 }; /* elements of one block */

static int64_t row_size(const ag_tensor *p)
{
    return ag_dim(p, 0) ? ag_numel(p) / ag_dim(p, 0) : 0;
}

static int64_t pieces_of(const ag_call *call)
{
    return (row_size(call->in[0]) + LOSS_PIECE - 1) / LOSS_PIECE;
}

size_t cuda_row_loss_scratch(const ag_call *call)
{
    return (size_t)(ag_dim(call->in[0], 0) * pieces_of(call)) * sizeof(double);
}

/* part[row][piece]; a block for each. */
static __global__ void loss_pieces(double *part, cuda_floats p, cuda_floats t, int kind, float c, int64_t rows,
                                   int64_t cols, int64_t n_pieces)
{
    for (int64_t b = blockIdx.x; b < rows * n_pieces; b += gridDim.x) {
        const int64_t at = b / n_pieces * cols, from = b % n_pieces * LOSS_PIECE;
        const int64_t to = from + LOSS_PIECE < cols ? from + LOSS_PIECE : cols;
        double total = 0.0;
        for (int64_t i = from + threadIdx.x; i < to; i += blockDim.x)
            total += (double)loss_value(kind, cuda_load(p, at + i) - cuda_load(t, at + i), c);
        total = cuda_block_sum(total);
        if (threadIdx.x == 0)
            part[b] = total;
    }
}

/* One warp for each row. */
static __global__ void loss_rows(float *y, const double *part, int64_t rows, int64_t cols, int64_t n_pieces)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; r < rows; r += n_warps) {
        double total = 0.0;
        for (int64_t k = lane; k < n_pieces; k += CUDA_WARP)
            total += part[r * n_pieces + k];
        total = cuda_warp_sum(total);
        if (lane == 0)
            y[r] = (float)(total / (double)cols);
    }
}

ag_status cuda_row_loss(ag_call *call)
{
    const op_loss_attr *a = (const op_loss_attr *)call->attr;
    const ag_tensor *p = call->in[0];
    const int64_t rows = ag_dim(p, 0), n_pieces = pieces_of(call), n_blocks = rows * n_pieces;
    double *part;
    ag_status status;

    if (rows == 0)
        return AG_OK;
    part = (double *)ag_scratch(call->ctx, cuda_row_loss_scratch(call));
    if (!part)
        return ag_status_of(call->ctx);
    status = cuda_launch(call, loss_pieces, (unsigned)(n_blocks < 65535 ? n_blocks : 65535), CUDA_THREADS, 0, part,
                         cuda_in(p), cuda_in(call->in[1]), a->kind, (float)a->c, rows, row_size(p), n_pieces);
    if (status != AG_OK)
        return status;
    return cuda_launch_over(call, rows * CUDA_WARP, loss_rows, (float *)ag_data(call->out[0]), (const double *)part,
                            rows, row_size(p), n_pieces);
}

/* --- the gradient: dp[r,i] = d[r] f'(p - t) / C ------------------------------------------------ */

static __global__ void loss_grad(cuda_out dp, cuda_floats p, cuda_floats t, cuda_floats d, int kind, float c,
                                 int64_t n, int64_t cols)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const float factor = cuda_load(d, i / cols) / (float)cols;
        cuda_store(dp, i, factor * loss_slope(kind, cuda_load(p, i) - cuda_load(t, i), c));
    }
}

ag_status cuda_row_loss_backward(ag_call *call)
{
    const op_loss_attr *a = (const op_loss_attr *)call->attr;
    const ag_tensor *p = call->in[0];

    return cuda_launch_over(call, ag_numel(p), loss_grad, cuda_to(call->out[0]), cuda_in(p), cuda_in(call->in[1]),
                            cuda_in(call->in[2]), a->kind, (float)a->c, ag_numel(p), row_size(p));
}
