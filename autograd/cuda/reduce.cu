/* reduce.cu - the CUDA twin of ops/reduce.c: scaled sums over axes.
 *
 * Axes that lie in memory as one are joined, so kept and summed ones take turns. What is summed for one
 * result is cut into pieces; each piece is added up in an order that depends on shapes alone, in f32 over
 * a few numbers and in double beyond, and a second kernel adds the pieces. So the bits are the same every time.
 *   rows     the last axis is summed: a warp for each result and piece
 *   columns  the last axis is kept: a thread for eight neighbouring results, rows of threads for pieces
 */
#include "autograd/cuda/reduce.cuh"

enum { ROW_PIECE = 4096, COLUMN_PIECE = 256, SHORT = 16 };

/* The axes of one kind, outer to inner. */
struct axes {
    int n;
    int64_t size[AG_MAX_DIMS], step[AG_MAX_DIMS], total;
};

static __host__ __device__ __forceinline__ int64_t place(const axes &x, int64_t i)
{
    int64_t at = 0;

    for (int k = x.n - 1; k > 0; k--) {
        const int64_t above = i / x.size[k];
        at += (i - above * x.size[k]) * x.step[k];
        i = above;
    }
    return x.n ? at + i * x.step[0] : 0;
}

struct plan {
    axes kept, summed;
    int is_rows;
    int64_t n_pieces, piece; /* of the summed elements of one result */
};

static plan plan_of(const ag_tensor *x, unsigned which)
{
    plan p = {};
    int64_t step = ag_numel(x);
    int last = -1; /* kind of the axis before: 1 summed, 0 kept */

    p.kept.total = p.summed.total = 1;
    for (int i = 0; i < ag_ndim(x); i++) {
        const int64_t size = ag_dim(x, i);
        const int kind = which >> i & 1;
        axes *to = kind ? &p.summed : &p.kept;
        step = size ? step / size : 0;
        to->total *= size;
        if (size == 1)
            continue;
        if (kind == last) {
            to->size[to->n - 1] *= size;
            to->step[to->n - 1] = step;
        } else {
            to->size[to->n] = size;
            to->step[to->n++] = step;
        }
        last = kind;
    }
    p.is_rows = last != 0;
    p.piece = p.is_rows ? ROW_PIECE : COLUMN_PIECE;
    p.n_pieces = (p.summed.total + p.piece - 1) / p.piece;
    if (p.n_pieces < 1)
        p.n_pieces = 1;
    return p;
}

size_t cuda_sum_scratch(const ag_call *call)
{
    const plan p = plan_of(call->in[0], ((const op_sum_attr *)call->attr)->axes);

    return (size_t)(p.kept.total * p.n_pieces) * sizeof(double);
}

/* part[piece][result]; one warp for each. */
static __global__ void sum_rows(double *part, cuda_floats x, plan p)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;
    const int64_t run = p.summed.n ? p.summed.size[p.summed.n - 1] : 1; /* neighbours in memory */

    for (int64_t w = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; w < p.kept.total * p.n_pieces;
         w += n_warps) {
        const int64_t result = w % p.kept.total, piece = w / p.kept.total;
        const int64_t from = piece * p.piece, base = place(p.kept, result);
        const int64_t to = from + p.piece < p.summed.total ? from + p.piece : p.summed.total;
        double total = 0.0;

        if (run % CUDA_VEC == 0 && x.aligned && base % CUDA_VEC == 0) {
            for (int64_t i = from + lane * CUDA_VEC; i < to; i += CUDA_WARP * CUDA_VEC) {
                float v[CUDA_VEC];
                cuda_load8(v, x, base + place(p.summed, i));
                total += (double)(((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])));
            }
        } else {
            for (int64_t i = from + lane; i < to; i += CUDA_WARP)
                total += (double)cuda_load(x, base + place(p.summed, i));
        }
        total = cuda_warp_sum(total);
        if (lane == 0)
            part[w] = total;
    }
}

/* part[piece][result]; blockIdx.x: columns, blockIdx.y: kept rows above them, blockIdx.z: pieces. The last kept
 * axis has `columns` results side by side. */
template <int WIDE>
static __global__ void sum_columns(double *part, cuda_floats x, plan p)
{
    CUDA_SHARED(double, sums, [8][32 * WIDE + 1]);
    const int64_t columns = p.kept.size[p.kept.n - 1];
    const int64_t column = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDE;

    for (int64_t outer = blockIdx.y; outer * columns < p.kept.total; outer += gridDim.y)
        for (int64_t piece = blockIdx.z; piece < p.n_pieces; piece += gridDim.z) {
            const int64_t from = piece * p.piece, base = place(p.kept, outer * columns) + column;
            const int64_t to = from + p.piece < p.summed.total ? from + p.piece : p.summed.total;
            double total[WIDE] = {};

            for (int64_t i0 = from + threadIdx.y; i0 < to && column < columns; i0 += SHORT * blockDim.y) {
                float few[WIDE] = {};
                for (int64_t i = i0; i < to && i < i0 + SHORT * blockDim.y; i += blockDim.y) {
                    const int64_t at = base + place(p.summed, i);
                    float v[CUDA_VEC];
                    if (WIDE == CUDA_VEC)
                        cuda_load8(v, x, at);
                    else
                        v[0] = cuda_load(x, at);
                    for (int k = 0; k < WIDE; k++)
                        few[k] += v[k];
                }
                for (int k = 0; k < WIDE; k++)
                    total[k] += (double)few[k];
            }
            __syncthreads(); /* sums may still be read */
            for (int k = 0; k < WIDE; k++)
                sums[threadIdx.y][threadIdx.x * WIDE + k] = total[k];
            __syncthreads();
            if (threadIdx.y == 0 && column < columns)
                for (int k = 0; k < WIDE; k++) {
                    double all = 0.0;
                    for (unsigned r = 0; r < blockDim.y; r++)
                        all += sums[r][threadIdx.x * WIDE + k];
                    part[piece * p.kept.total + outer * columns + column + k] = all;
                }
        }
}

/* y[i] = scale * sum of part[.][i]: a thread for each result, or a warp where there are few results. */
static __global__ void sum_pieces(cuda_out y, const double *part, int64_t n, int64_t n_pieces, double scale,
                                  int by_warp)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; t < (by_warp ? n * CUDA_WARP : n); t += step) {
        const int64_t i = by_warp ? t / CUDA_WARP : t;
        double total = 0.0;
        for (int64_t k = by_warp ? lane : 0; k < n_pieces; k += by_warp ? CUDA_WARP : 1)
            total += part[k * n + i];
        if (by_warp)
            total = cuda_warp_sum(total);
        if (!by_warp || lane == 0)
            cuda_store(y, i, (float)(scale * total));
    }
}

static ag_status launch_columns(const ag_call *call, double *part, cuda_floats x, const plan &p)
{
    const int64_t columns = p.kept.size[p.kept.n - 1], above = p.kept.total / columns;
    bool wide = x.aligned && columns % CUDA_VEC == 0;
    dim3 threads(32, 8), blocks;

    for (int i = 0; i < p.summed.n; i++)
        wide = wide && p.summed.step[i] % CUDA_VEC == 0;
    blocks.x = (unsigned)((columns / (wide ? CUDA_VEC : 1) + 31) / 32);
    blocks.y = (unsigned)(above < 65535 ? above : 65535);
    blocks.z = (unsigned)(p.n_pieces < 65535 ? p.n_pieces : 65535);
    return wide ? cuda_launch(call, sum_columns<CUDA_VEC>, blocks, threads, 0, part, x, p)
                : cuda_launch(call, sum_columns<1>, blocks, threads, 0, part, x, p);
}

ag_status cuda_sum(ag_call *call)
{
    const op_sum_attr *a = (const op_sum_attr *)call->attr;
    const cuda_floats x = cuda_in(call->in[0]);
    const plan p = plan_of(call->in[0], a->axes);
    const int64_t n = p.kept.total;
    const int by_warp = n < 1024 && p.n_pieces > 8;
    double *part;
    ag_status status;

    if (n == 0)
        return AG_OK;
    part = (double *)ag_scratch(call->ctx, cuda_sum_scratch(call));
    if (!part)
        return ag_status_of(call->ctx);
    status = p.is_rows ? cuda_launch_over(call, n * p.n_pieces * CUDA_WARP, sum_rows, part, x, p)
                       : launch_columns(call, part, x, p);
    if (status != AG_OK)
        return status;
    return cuda_launch_over(call, by_warp ? n * CUDA_WARP : n, sum_pieces, cuda_to(call->out[0]),
                            (const double *)part, n, p.n_pieces, a->scale, by_warp);
}
