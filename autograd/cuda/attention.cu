/* attention.cu - the CUDA twin of ops/attention.c: by cuDNN where it takes a call (dnn_attention.h), else flash
 * attention of our own, for any element type and heads of up to 512.
 *
 * A block has 32 x 8 threads and 32 rows (of queries, or of keys where their gradient is wanted): a warp has four
 * of them and a thread one column of the scores, and every 32nd column of the result. Rows of the other side come
 * by tiles of 32. Scores are never stored; the backward pass makes them again from the sums of the forward
 * pass, once for dq and once for dk and dv, so that nothing is added by several blocks.
 *
 * Source  Milakov & Gimelshein 2018, arXiv:1805.02867; Dao 2023, arXiv:2307.08691.
 */
#include "autograd/cuda/dnn_attention.h"
#include "autograd/cuda/reduce.cuh"

enum { TILE = 32, WARPS = 8, OWN = TILE / WARPS, MOST_CHUNKS = 16 };

struct attention_sizes {
    int64_t tq, tk, d, ld; /* ld: elements of a row, heads * d */
    float scale;
    int causal;
};

static attention_sizes sizes_of(const ag_call *call)
{
    const op_attention_attr *a = (const op_attention_attr *)call->attr;
    attention_sizes s = {};

    s.tq = ag_dim(call->in[0], 1);
    s.tk = ag_dim(call->in[1], 1);
    s.ld = ag_dim(call->in[0], 2);
    s.d = s.ld / a->heads;
    s.scale = (float)a->scale;
    s.causal = a->causal;
    return s;
}

typedef float tile[TILE][TILE + 1];

/* Rows [row0, row0 + 32) and columns [col0, col0 + 32) of one head, zeros outside. */
static __device__ __forceinline__ void load_tile(tile to, cuda_floats x, int64_t base, int64_t row0, int64_t rows,
                                                 int64_t col0, const attention_sizes &s)
{
    const int64_t column = col0 + threadIdx.x;

    for (int r = threadIdx.y; r < TILE; r += WARPS)
        to[r][threadIdx.x] =
            row0 + r < rows && column < s.d ? cuda_load(x, base + (row0 + r) * s.ld + column) : 0.0f;
}

/* sum[i] = <row threadIdx.y + 8 i of a, row threadIdx.x of b>, for 32 rows of each. */
static __device__ __forceinline__ void dots(float sum[OWN], tile left, tile right, cuda_floats a, int64_t base_a,
                                            int64_t a0, int64_t n_a, cuda_floats b, int64_t base_b, int64_t b0,
                                            int64_t n_b, const attention_sizes &s)
{
    for (int i = 0; i < OWN; i++)
        sum[i] = 0.0f;
    for (int64_t col0 = 0; col0 < s.d; col0 += TILE) {
        __syncthreads(); /* the tiles may still be read */
        load_tile(left, a, base_a, a0, n_a, col0, s);
        load_tile(right, b, base_b, b0, n_b, col0, s);
        __syncthreads();
        for (int k = 0; k < TILE; k++)
            for (int i = 0; i < OWN; i++)
                sum[i] = fmaf(left[threadIdx.y + i * WARPS][k], right[threadIdx.x][k], sum[i]);
    }
}

/* out[i][c] += sum over j of factor[own row i][j] x[x0 + j, threadIdx.x + 32 c] */
template <int CHUNKS>
static __device__ __forceinline__ void add_rows(float out[OWN][CHUNKS], tile factor, tile right, cuda_floats x,
                                                int64_t base, int64_t x0, int64_t n_x, const attention_sizes &s)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        if (c * TILE >= s.d)
            break;
        __syncthreads(); /* right may still be read; factor is there */
        load_tile(right, x, base, x0, n_x, c * TILE, s);
        __syncthreads();
        for (int j = 0; j < TILE; j++)
            for (int i = 0; i < OWN; i++)
                out[i][c] = fmaf(factor[threadIdx.y + i * WARPS][j], right[j][threadIdx.x], out[i][c]);
    }
}

/* Where the rows of one head of one sample begin. */
static __device__ __forceinline__ int64_t base_of(int64_t rows, const attention_sizes &s)
{
    return blockIdx.z * rows * s.ld + blockIdx.y * s.d;
}

/* Number of (sample, head) */
static __device__ __forceinline__ int64_t head_of(void)
{
    return (int64_t)blockIdx.z * gridDim.y + blockIdx.y;
}

static __device__ __forceinline__ bool is_seen(int64_t query, int64_t key, const attention_sizes &s)
{
    return key < s.tk && (!s.causal || key <= query);
}

/* One past the last key that a tile of queries sees. */
static __device__ __forceinline__ int64_t keys_seen(int64_t q0, const attention_sizes &s)
{
    return s.causal && q0 + TILE < s.tk ? q0 + TILE : s.tk;
}

template <int CHUNKS>
static __device__ __forceinline__ void write_rows(cuda_out to, float rows[OWN][CHUNKS], const float factor[OWN],
                                                  int64_t base, int64_t row0, int64_t n, const attention_sizes &s)
{
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        for (int i = 0; i < OWN; i++) {
            const int64_t row = row0 + threadIdx.y + i * WARPS, column = c * TILE + threadIdx.x;
            if (row < n && column < s.d)
                cuda_store(to, base + row * s.ld + column, rows[i][c] * factor[i]);
        }
}

/* --- forward ---------------------------------------------------------------------------------- */

/* Fold the scores of a tile into the largest and the sum so far; the scores become exp(score - largest).
 * shrink: what everything added so far is multiplied by. */
static __device__ __forceinline__ void fold(float score[OWN], float most[OWN], float total[OWN], float shrink[OWN])
{
    for (int i = 0; i < OWN; i++) {
        const float now = fmaxf(most[i], cuda_warp_max(score[i]));
        const float p = now == -INFINITY ? 0.0f : expf(score[i] - now);
        shrink[i] = most[i] == -INFINITY ? 0.0f : expf(most[i] - now);
        total[i] = total[i] * shrink[i] + cuda_warp_sum(p);
        most[i] = now;
        score[i] = p;
    }
}

/* Scaled and masked scores of a tile of queries with a tile of keys. */
static __device__ __forceinline__ void scores(float score[OWN], tile left, tile right, cuda_floats q, int64_t q0,
                                              cuda_floats k, int64_t k0, const attention_sizes &s)
{
    dots(score, left, right, q, base_of(s.tq, s), q0, s.tq, k, base_of(s.tk, s), k0, s.tk, s);
    for (int i = 0; i < OWN; i++)
        score[i] = is_seen(q0 + threadIdx.y + i * WARPS, k0 + threadIdx.x, s) ? s.scale * score[i] : -INFINITY;
}

template <int CHUNKS>
static __global__ void attention(cuda_out out, float *lse, cuda_floats q, cuda_floats k, cuda_floats v,
                                 attention_sizes s)
{
    CUDA_SHARED(float, left, [TILE][TILE + 1]);
    CUDA_SHARED(float, right, [TILE][TILE + 1]);
    CUDA_SHARED(float, p, [TILE][TILE + 1]);
    const int64_t q0 = (int64_t)blockIdx.x * TILE, end = keys_seen(q0, s);
    float sum[OWN][CHUNKS] = {}, most[OWN], total[OWN] = {}, score[OWN], shrink[OWN];

    for (int i = 0; i < OWN; i++)
        most[i] = -INFINITY;
    for (int64_t k0 = 0; k0 < end; k0 += TILE) {
        scores(score, left, right, q, q0, k, k0, s);
        fold(score, most, total, shrink);
        for (int i = 0; i < OWN; i++) {
            p[threadIdx.y + i * WARPS][threadIdx.x] = score[i];
            for (int c = 0; c < CHUNKS; c++)
                sum[i][c] *= shrink[i];
        }
        add_rows<CHUNKS>(sum, p, right, v, base_of(s.tk, s), k0, s.tk, s);
    }
    for (int i = 0; i < OWN; i++) {
        const int64_t row = q0 + threadIdx.y + i * WARPS;
        if (lse && threadIdx.x == 0 && row < s.tq)
            lse[head_of() * s.tq + row] = most[i] + logf(total[i]);
        total[i] = 1.0f / total[i];
    }
    write_rows<CHUNKS>(out, sum, total, base_of(s.tq, s), q0, s.tq, s);
}

/* --- the probabilities ------------------------------------------------------------------------ */

static __global__ void attention_probs(cuda_out probs, cuda_floats q, cuda_floats k, attention_sizes s)
{
    CUDA_SHARED(float, left, [TILE][TILE + 1]);
    CUDA_SHARED(float, right, [TILE][TILE + 1]);
    const int64_t q0 = (int64_t)blockIdx.x * TILE;
    float most[OWN], total[OWN] = {}, score[OWN], shrink[OWN];

    for (int i = 0; i < OWN; i++)
        most[i] = -INFINITY;
    for (int64_t k0 = 0; k0 < keys_seen(q0, s); k0 += TILE) {
        scores(score, left, right, q, q0, k, k0, s);
        fold(score, most, total, shrink);
    }
    for (int64_t k0 = 0; k0 < s.tk; k0 += TILE) {
        scores(score, left, right, q, q0, k, k0, s);
        for (int i = 0; i < OWN; i++) {
            const int64_t row = q0 + threadIdx.y + i * WARPS, key = k0 + threadIdx.x;
            if (row < s.tq && key < s.tk)
                cuda_store(probs, (head_of() * s.tq + row) * s.tk + key, expf(score[i] - most[i]) / total[i]);
        }
    }
}

/* --- backward --------------------------------------------------------------------------------- */

/* e [N,H,Tq] = <dout, out> by head; a warp for each. */
static __global__ void row_products(float *e, cuda_floats out, cuda_floats dout, int64_t n_rows, int64_t heads,
                                    attention_sizes s)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t w = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; w < n_rows * heads; w += n_warps) {
        const int64_t row = w / heads, head = w % heads, at = row * s.ld + head * s.d;
        float total = 0.0f;
        for (int64_t c = lane; c < s.d; c += CUDA_WARP)
            total = fmaf(cuda_load(out, at + c), cuda_load(dout, at + c), total);
        total = cuda_warp_sum(total);
        if (lane == 0)
            e[(row / s.tq * heads + head) * s.tq + row % s.tq] = total;
    }
}

struct backward_inputs {
    cuda_floats q, k, v, dout;
    const float *lse, *e;
};

template <int CHUNKS>
static __global__ void attention_dq(cuda_out dq, backward_inputs x, attention_sizes s)
{
    CUDA_SHARED(float, left, [TILE][TILE + 1]);
    CUDA_SHARED(float, right, [TILE][TILE + 1]);
    CUDA_SHARED(float, ds, [TILE][TILE + 1]);
    const int64_t q0 = (int64_t)blockIdx.x * TILE, end = keys_seen(q0, s);
    const int64_t base_q = base_of(s.tq, s), base_k = base_of(s.tk, s);
    float sum[OWN][CHUNKS] = {}, score[OWN], dp[OWN], factor[OWN];

    for (int64_t k0 = 0; k0 < end; k0 += TILE) {
        scores(score, left, right, x.q, q0, x.k, k0, s);
        dots(dp, left, right, x.dout, base_q, q0, s.tq, x.v, base_k, k0, s.tk, s);
        for (int i = 0; i < OWN; i++) {
            const int64_t row = q0 + threadIdx.y + i * WARPS, at = head_of() * s.tq + row;
            ds[threadIdx.y + i * WARPS][threadIdx.x] =
                row < s.tq ? expf(score[i] - x.lse[at]) * (dp[i] - x.e[at]) : 0.0f;
        }
        add_rows<CHUNKS>(sum, ds, right, x.k, base_k, k0, s.tk, s);
    }
    for (int i = 0; i < OWN; i++)
        factor[i] = s.scale;
    write_rows<CHUNKS>(dq, sum, factor, base_q, q0, s.tq, s);
}

/* Rows are keys here, columns queries. */
template <int CHUNKS>
static __global__ void attention_dkv(cuda_out dk, cuda_out dv, backward_inputs x, attention_sizes s)
{
    CUDA_SHARED(float, left, [TILE][TILE + 1]);
    CUDA_SHARED(float, right, [TILE][TILE + 1]);
    CUDA_SHARED(float, p, [TILE][TILE + 1]);
    CUDA_SHARED(float, ds, [TILE][TILE + 1]);
    const int64_t k0 = (int64_t)blockIdx.x * TILE, base_q = base_of(s.tq, s), base_k = base_of(s.tk, s);
    float sum_k[OWN][CHUNKS] = {}, sum_v[OWN][CHUNKS] = {}, score[OWN], dp[OWN], one[OWN], factor[OWN];

    for (int64_t q0 = s.causal ? k0 : 0; q0 < s.tq; q0 += TILE) {
        const int64_t query = q0 + threadIdx.x, at = head_of() * s.tq + query;
        dots(score, left, right, x.k, base_k, k0, s.tk, x.q, base_q, q0, s.tq, s);
        dots(dp, left, right, x.v, base_k, k0, s.tk, x.dout, base_q, q0, s.tq, s);
        for (int i = 0; i < OWN; i++) {
            const int row = threadIdx.y + i * WARPS;
            const bool seen = query < s.tq && is_seen(query, k0 + row, s);
            p[row][threadIdx.x] = seen ? expf(s.scale * score[i] - x.lse[at]) : 0.0f;
            ds[row][threadIdx.x] = seen ? p[row][threadIdx.x] * (dp[i] - x.e[at]) : 0.0f;
        }
        add_rows<CHUNKS>(sum_v, p, right, x.dout, base_q, q0, s.tq, s);
        add_rows<CHUNKS>(sum_k, ds, right, x.q, base_q, q0, s.tq, s);
    }
    for (int i = 0; i < OWN; i++) {
        one[i] = 1.0f;
        factor[i] = s.scale;
    }
    write_rows<CHUNKS>(dv, sum_v, one, base_k, k0, s.tk, s);
    write_rows<CHUNKS>(dk, sum_k, factor, base_k, k0, s.tk, s);
}

/* --- launching -------------------------------------------------------------------------------- */

/* A block for each tile of `rows`, head and sample. */
static dim3 blocks_of(const ag_call *call, int64_t rows)
{
    return dim3((unsigned)((rows + TILE - 1) / TILE), (unsigned)((const op_attention_attr *)call->attr)->heads,
                (unsigned)ag_dim(call->in[0], 0));
}

static ag_status too_wide(const ag_call *call, const attention_sizes &s)
{
    return ag_fail(call->ctx, AG_EUNSUPPORTED, "%s: heads of %lld on cuda, at most %d", call->op->name,
                   (long long)s.d, MOST_CHUNKS * TILE);
}

template <int CHUNKS>
static ag_status run_attention(const ag_call *call, const attention_sizes &s)
{
    float *lse = call->n_out > 1 ? (float *)ag_data(call->out[1]) : NULL;

    return cuda_launch(call, attention<CHUNKS>, blocks_of(call, s.tq), dim3(TILE, WARPS), 0, cuda_to(call->out[0]), lse,
                       cuda_in(call->in[0]), cuda_in(call->in[1]), cuda_in(call->in[2]), s);
}

size_t cuda_attention_scratch(const ag_call *call)
{
    size_t bytes;

    (void)cuda_dnn_attention_takes(call, &bytes);
    return bytes;
}

ag_status cuda_attention(ag_call *call)
{
    const attention_sizes s = sizes_of(call);
    size_t bytes;

    if (cuda_dnn_attention_takes(call, &bytes))
        return cuda_dnn_attention(call);
    return s.d <= 2 * TILE    ? run_attention<2>(call, s)
           : s.d <= 5 * TILE  ? run_attention<5>(call, s)
           : s.d <= 16 * TILE ? run_attention<16>(call, s)
                              : too_wide(call, s);
}

ag_status cuda_attention_probs(ag_call *call)
{
    const attention_sizes s = sizes_of(call);

    return cuda_launch(call, attention_probs, blocks_of(call, s.tq), dim3(TILE, WARPS), 0, cuda_to(call->out[0]),
                       cuda_in(call->in[0]), cuda_in(call->in[1]), s);
}

static size_t sums_bytes(const ag_call *call)
{
    return (size_t)ag_numel(call->in[4]) * sizeof(float);
}

size_t cuda_attention_backward_scratch(const ag_call *call)
{
    size_t bytes;

    return cuda_dnn_attention_backward_takes(call, &bytes) ? bytes : sums_bytes(call);
}

template <int CHUNKS>
static ag_status run_backward(const ag_call *call, const attention_sizes &s, const float *e)
{
    const backward_inputs x = {cuda_in(call->in[0]), cuda_in(call->in[1]), cuda_in(call->in[2]), cuda_in(call->in[5]),
                               (const float *)ag_data(call->in[4]), e};
    const ag_status status = cuda_launch(call, attention_dq<CHUNKS>, blocks_of(call, s.tq), dim3(TILE, WARPS), 0,
                                         cuda_to(call->out[0]), x, s);

    return status != AG_OK ? status
                           : cuda_launch(call, attention_dkv<CHUNKS>, blocks_of(call, s.tk), dim3(TILE, WARPS), 0,
                                         cuda_to(call->out[1]), cuda_to(call->out[2]), x, s);
}

ag_status cuda_attention_backward(ag_call *call)
{
    const attention_sizes s = sizes_of(call);
    const int64_t heads = s.ld / s.d, rows = ag_dim(call->in[0], 0) * s.tq;
    size_t bytes;
    ag_status status;
    float *e;

    if (cuda_dnn_attention_backward_takes(call, &bytes))
        return cuda_dnn_attention_backward(call);
    e = (float *)ag_scratch(call->ctx, sums_bytes(call));
    if (!e)
        return ag_status_of(call->ctx);
    status = cuda_launch_over(call, rows * heads * CUDA_WARP, row_products, e, cuda_in(call->in[3]),
                              cuda_in(call->in[5]), rows, heads, s);
    if (status != AG_OK)
        return status;
    return s.d <= 2 * TILE    ? run_backward<2>(call, s, e)
           : s.d <= 5 * TILE  ? run_backward<5>(call, s, e)
           : s.d <= 16 * TILE ? run_backward<16>(call, s, e)
                              : too_wide(call, s);
}
