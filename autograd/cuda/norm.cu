/* norm.cu - the CUDA twin of ops/norm.c: LayerNorm, and GroupNorm with SiLU, channels last.
 *
 * Layer norm goes by rows, a warp for each. Group norm goes by chunks of rows of one picture: a thread
 * keeps eight channels and walks down the rows of its chunk, so what belongs to a channel is loaded once.
 *   forward   mean and squared deviation of each channel in each chunk; joined to groups; applied
 *   backward  sums of D and D n of each channel in each chunk; joined to channels, then groups; applied
 * with n = (x - mean) rstd, z = gamma n + beta and D = dy, or dy silu'(z).
 * Sums run in f32 around a value of the channel inside a chunk, and in double between chunks.
 */
#include "autograd/cuda/reduce.cuh"

struct norm_sizes {
    int64_t n, hw, c, groups, rows; /* rows of a chunk */
    int64_t chunks;                 /* of one picture */
};

enum { MANY_ROWS = 1 << 16 };

static norm_sizes sizes_of(const ag_call *call)
{
    const op_norm_attr *a = (const op_norm_attr *)call->attr;
    const ag_tensor *x = call->in[0];
    norm_sizes s = {};
    int64_t rows;

    s.c = ag_dim(x, -1);
    rows = s.c ? ag_numel(x) / s.c : 0;
    s.groups = a->groups;
    s.n = a->groups ? ag_dim(x, 0) : 1;
    s.hw = s.n ? rows / s.n : 0;
    s.rows = rows < MANY_ROWS ? 32 : 128;
    s.chunks = (s.hw + s.rows - 1) / s.rows;
    return s;
}

/* What a kernel reads of the statistics and the affine part. */
struct norm_values {
    const float *mean, *rstd;
    cuda_floats gamma, beta;
    int64_t silu;
};

static norm_values values_of(const ag_call *call, const float *mean, const float *rstd)
{
    norm_values v = {};

    v.mean = mean;
    v.rstd = rstd;
    v.gamma = cuda_in(call->in[1]);
    v.beta = cuda_in(call->in[2]);
    v.silu = ((const op_norm_attr *)call->attr)->silu;
    return v;
}

/* --- pieces of kernels ------------------------------------------------------------------------ */

static __device__ __forceinline__ float silu(float z)
{
    return z / (1.0f + expf(-z));
}

static __device__ __forceinline__ float silu_slope(float z)
{
    const float s = 1.0f / (1.0f + expf(-z));

    return s * (1.0f + z * (1.0f - s));
}

template <int WIDE>
static __device__ __forceinline__ void load_or(float *v, cuda_floats x, int64_t i, float otherwise)
{
    if (x.data)
        cuda_load_n<WIDE>(v, x, i);
    else
        for (int k = 0; k < WIDE; k++)
            v[k] = otherwise;
}

/* A block of threads x.. (channels, WIDE each) by y.. (rows) over one chunk; grid: channels, chunks, pictures. */
struct place {
    int64_t channel, from, to, picture;
};

template <int WIDE>
static __device__ __forceinline__ place place_of(const norm_sizes &s)
{
    place p;

    p.channel = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * WIDE;
    p.picture = blockIdx.z;
    p.from = (int64_t)blockIdx.y * s.rows;
    p.to = p.from + s.rows < s.hw ? p.from + s.rows : s.hw;
    return p;
}

enum { LANES = 32, DEPTH = 8 };

/* Add `a` and `b` over the rows of threads of a block; row 0 has the sums. */
template <int WIDE>
static __device__ __forceinline__ void add_rows(float *a, float *b)
{
    CUDA_SHARED(float, sums, [DEPTH][2][LANES * WIDE + 1]);

    for (int k = 0; k < WIDE; k++) {
        sums[threadIdx.y][0][threadIdx.x * WIDE + k] = a[k];
        sums[threadIdx.y][1][threadIdx.x * WIDE + k] = b[k];
    }
    __syncthreads();
    for (int k = 0; k < WIDE && threadIdx.y == 0; k++)
        for (int r = 1; r < DEPTH; r++) {
            a[k] += sums[r][0][threadIdx.x * WIDE + k];
            b[k] += sums[r][1][threadIdx.x * WIDE + k];
        }
}

template <int WIDE>
static dim3 blocks_of(const norm_sizes &s)
{
    return dim3((unsigned)((s.c / WIDE + LANES - 1) / LANES), (unsigned)s.chunks, (unsigned)s.n);
}

/* --- group norm, forward ---------------------------------------------------------------------- */

/* part[picture][chunk][2][c]: mean and sum of squared deviations of the chunk's rows. */
template <int WIDE>
static __global__ void channel_moments(float *part, cuda_floats x, norm_sizes s)
{
    const place p = place_of<WIDE>(s);
    const bool inside = p.channel < s.c;
    float shift[WIDE] = {}, sum[WIDE] = {}, squares[WIDE] = {};

    if (inside) {
        const int64_t base = p.picture * s.hw * s.c + p.channel;
        cuda_load_n<WIDE>(shift, x, base + p.from * s.c);
        for (int64_t r = p.from + threadIdx.y; r < p.to; r += DEPTH) {
            float v[WIDE];
            cuda_load_n<WIDE>(v, x, base + r * s.c);
            for (int k = 0; k < WIDE; k++) {
                v[k] -= shift[k];
                sum[k] += v[k];
                squares[k] = fmaf(v[k], v[k], squares[k]);
            }
        }
    }
    add_rows<WIDE>(sum, squares);
    if (inside && threadIdx.y == 0) {
        float *to = part + ((p.picture * s.chunks + blockIdx.y) * 2) * s.c + p.channel;
        const float count = (float)(p.to - p.from);
        for (int k = 0; k < WIDE; k++) {
            const float mean = sum[k] / count;
            to[k] = shift[k] + mean;
            to[s.c + k] = fmaxf(squares[k] - mean * sum[k], 0.0f);
        }
    }
}

/* A warp for each group of each picture. */
static __global__ void join_moments(float *mean, float *rstd, const float *part, norm_sizes s, double eps)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP), wide = s.c / s.groups;
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t w = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; w < s.n * s.groups; w += n_warps) {
        const float *from = part + w / s.groups * s.chunks * 2 * s.c + w % s.groups * wide;
        const double total = (double)s.hw * (double)wide;
        double m = 0.0, squares = 0.0;
        for (int64_t i = lane; i < s.chunks * wide; i += CUDA_WARP) {
            const int64_t chunk = i / wide, rows = s.hw - chunk * s.rows;
            m += (double)(rows < s.rows ? rows : s.rows) * (double)from[chunk * 2 * s.c + i % wide];
        }
        m = cuda_warp_sum(m) / total;
        for (int64_t i = lane; i < s.chunks * wide; i += CUDA_WARP) {
            const int64_t chunk = i / wide, rows = s.hw - chunk * s.rows;
            const double off = (double)from[chunk * 2 * s.c + i % wide] - m;
            squares += (double)from[(chunk * 2 + 1) * s.c + i % wide] +
                       (double)(rows < s.rows ? rows : s.rows) * off * off;
        }
        squares = cuda_warp_sum(squares) / total;
        if (lane == 0) {
            mean[w] = (float)m;
            rstd[w] = (float)(1.0 / sqrt(squares + eps));
        }
    }
}

/* Statistics of WIDE channels of a picture. */
template <int WIDE>
static __device__ __forceinline__ void group_stats(float *mean, float *rstd, const norm_values &v,
                                                   const norm_sizes &s, const place &p)
{
    const int64_t wide = s.c / s.groups;

    for (int k = 0; k < WIDE; k++) {
        const int64_t group = p.picture * s.groups + (p.channel + k) / wide;
        mean[k] = v.mean[group];
        rstd[k] = v.rstd[group];
    }
}

template <int WIDE>
static __global__ void group_norm_apply(cuda_out y, cuda_floats x, norm_sizes s, norm_values v)
{
    const place p = place_of<WIDE>(s);
    const int64_t base = p.picture * s.hw * s.c + p.channel;
    float mean[WIDE], rstd[WIDE], gamma[WIDE], beta[WIDE];

    if (p.channel >= s.c)
        return;
    group_stats<WIDE>(mean, rstd, v, s, p);
    load_or<WIDE>(gamma, v.gamma, p.channel, 1.0f);
    load_or<WIDE>(beta, v.beta, p.channel, 0.0f);
    for (int64_t r = p.from + threadIdx.y; r < p.to; r += DEPTH) {
        float e[WIDE];
        cuda_load_n<WIDE>(e, x, base + r * s.c);
        for (int k = 0; k < WIDE; k++) {
            e[k] = fmaf((e[k] - mean[k]) * rstd[k], gamma[k], beta[k]);
            if (v.silu)
                e[k] = silu(e[k]);
        }
        cuda_store_n<WIDE>(y, base + r * s.c, e);
    }
}

static size_t part_bytes(const norm_sizes &s)
{
    return (size_t)(s.n * s.chunks * 2 * s.c) * sizeof(float);
}

size_t cuda_group_norm_scratch(const ag_call *call)
{
    return part_bytes(sizes_of(call));
}

template <int WIDE>
static ag_status run_group_norm(const ag_call *call, const norm_sizes &s, float *part)
{
    const cuda_floats x = cuda_in(call->in[0]);
    float *mean = (float *)ag_data(call->out[1]), *rstd = (float *)ag_data(call->out[2]);
    const dim3 blocks = blocks_of<WIDE>(s), threads(LANES, DEPTH);
    ag_status status;

    status = cuda_launch(call, channel_moments<WIDE>, blocks, threads, 0, part, x, s);
    if (status == AG_OK)
        status = cuda_launch_over(call, s.n * s.groups * CUDA_WARP, join_moments, mean, rstd, (const float *)part, s,
                                  ((const op_norm_attr *)call->attr)->eps);
    if (status == AG_OK)
        status = cuda_launch(call, group_norm_apply<WIDE>, blocks, threads, 0, cuda_to(call->out[0]), x, s,
                             values_of(call, mean, rstd));
    return status;
}

/* Eight channels at a time are possible. */
static bool is_wide(const ag_tensor *const *t, int n, int64_t c)
{
    bool fits = c % CUDA_VEC == 0;

    for (int i = 0; i < n; i++)
        fits = fits && (!t[i] || cuda_aligned(ag_data(t[i])));
    return fits;
}

ag_status cuda_group_norm(ag_call *call)
{
    const norm_sizes s = sizes_of(call);
    const ag_tensor *const all[] = {call->in[0], call->in[1], call->in[2], call->out[0]};
    float *part;

    if (ag_numel(call->in[0]) == 0)
        return AG_OK;
    part = (float *)ag_scratch(call->ctx, part_bytes(s));
    if (!part)
        return ag_status_of(call->ctx);
    return is_wide(all, 4, s.c) ? run_group_norm<CUDA_VEC>(call, s, part) : run_group_norm<1>(call, s, part);
}

/* --- backward, shared: sums over rows by channel ---------------------------------------------- */

/* D and n at one place */
static __device__ __forceinline__ void slope_at(float *d, float *n, float x, float mean, float rstd, float gamma,
                                                float beta, int64_t silu)
{
    *n = (x - mean) * rstd;
    if (silu)
        *d *= silu_slope(fmaf(*n, gamma, beta));
}

/* part[picture][chunk][2][c]: sums of D and of D n. Layer norm: statistics by row, one picture. */
template <int WIDE>
static __global__ void channel_slopes(float *part, cuda_floats x, cuda_floats dy, norm_sizes s, norm_values v)
{
    const place p = place_of<WIDE>(s);
    const bool inside = p.channel < s.c;
    float sum_d[WIDE] = {}, sum_dn[WIDE] = {};

    if (inside) {
        const int64_t base = p.picture * s.hw * s.c + p.channel;
        float mean[WIDE] = {}, rstd[WIDE] = {}, gamma[WIDE], beta[WIDE];
        if (s.groups)
            group_stats<WIDE>(mean, rstd, v, s, p);
        load_or<WIDE>(gamma, v.gamma, p.channel, 1.0f);
        load_or<WIDE>(beta, v.beta, p.channel, 0.0f);
        for (int64_t r = p.from + threadIdx.y; r < p.to; r += DEPTH) {
            float e[WIDE], d[WIDE], n;
            cuda_load_n<WIDE>(e, x, base + r * s.c);
            cuda_load_n<WIDE>(d, dy, base + r * s.c);
            for (int k = 0; k < WIDE; k++) {
                slope_at(&d[k], &n, e[k], s.groups ? mean[k] : v.mean[r], s.groups ? rstd[k] : v.rstd[r], gamma[k],
                         beta[k], v.silu);
                sum_d[k] += d[k];
                sum_dn[k] = fmaf(d[k], n, sum_dn[k]);
            }
        }
    }
    add_rows<WIDE>(sum_d, sum_dn);
    if (inside && threadIdx.y == 0) {
        float *to = part + ((p.picture * s.chunks + blockIdx.y) * 2) * s.c + p.channel;
        for (int k = 0; k < WIDE; k++) {
            to[k] = sum_d[k];
            to[s.c + k] = sum_dn[k];
        }
    }
}

/* first[b][i] for i < width and second[b][i - width] beyond: sums of part[b][0..n)[i], i < 2 width. */
static __global__ void add_chunks(float *first, float *second, const float *part, int64_t n, int64_t width)
{
    CUDA_SHARED(double, sums, [DEPTH][LANES]);
    const int64_t i = (int64_t)blockIdx.x * LANES + threadIdx.x, b = blockIdx.y;
    double total = 0.0;

    if (i < 2 * width)
        for (int64_t k = threadIdx.y; k < n; k += DEPTH)
            total += (double)part[(b * n + k) * 2 * width + i];
    sums[threadIdx.y][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.y || i >= 2 * width)
        return;
    for (int r = 1; r < DEPTH; r++)
        total += sums[r][threadIdx.x];
    if (i < width)
        first[b * width + i] = (float)total;
    else
        second[b * width + i - width] = (float)total;
}

static ag_status launch_add_chunks(const ag_call *call, float *first, float *second, const float *part, int64_t b,
                                   int64_t n, int64_t width)
{
    return cuda_launch(call, add_chunks, dim3((unsigned)((2 * width + LANES - 1) / LANES), (unsigned)b),
                       dim3(LANES, DEPTH), 0, first, second, part, n, width);
}

/* --- group norm, backward --------------------------------------------------------------------- */

/* mean_g and mean_gn [picture][group]: means of gamma D and gamma D n over what shares a mean. */
static __global__ void join_slopes(float *mean_g, float *mean_gn, const float *sum_d, const float *sum_dn,
                                   norm_sizes s, cuda_floats gamma)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP), wide = s.c / s.groups;
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t w = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; w < s.n * s.groups; w += n_warps) {
        const int64_t picture = w / s.groups, first = w % s.groups * wide;
        double g = 0.0, gn = 0.0;
        for (int64_t i = first + lane; i < first + wide; i += CUDA_WARP) {
            const double factor = gamma.data ? (double)cuda_load(gamma, i) : 1.0;
            g += factor * (double)sum_d[picture * s.c + i];
            gn += factor * (double)sum_dn[picture * s.c + i];
        }
        g = cuda_warp_sum(g);
        gn = cuda_warp_sum(gn);
        if (lane == 0) {
            mean_g[w] = (float)(g / ((double)s.hw * (double)wide));
            mean_gn[w] = (float)(gn / ((double)s.hw * (double)wide));
        }
    }
}

template <int WIDE>
static __global__ void group_norm_dx(cuda_out dx, cuda_floats x, cuda_floats dy, norm_sizes s, norm_values v,
                                     const float *mean_g, const float *mean_gn)
{
    const place p = place_of<WIDE>(s);
    const int64_t base = p.picture * s.hw * s.c + p.channel, wide = s.c / s.groups;
    float mean[WIDE], rstd[WIDE], gamma[WIDE], beta[WIDE], mg[WIDE], mgn[WIDE];

    if (p.channel >= s.c)
        return;
    group_stats<WIDE>(mean, rstd, v, s, p);
    load_or<WIDE>(gamma, v.gamma, p.channel, 1.0f);
    load_or<WIDE>(beta, v.beta, p.channel, 0.0f);
    for (int k = 0; k < WIDE; k++) {
        const int64_t group = p.picture * s.groups + (p.channel + k) / wide;
        mg[k] = mean_g[group];
        mgn[k] = mean_gn[group];
    }
    for (int64_t r = p.from + threadIdx.y; r < p.to; r += DEPTH) {
        float e[WIDE], d[WIDE], n;
        cuda_load_n<WIDE>(e, x, base + r * s.c);
        cuda_load_n<WIDE>(d, dy, base + r * s.c);
        for (int k = 0; k < WIDE; k++) {
            slope_at(&d[k], &n, e[k], mean[k], rstd[k], gamma[k], beta[k], v.silu);
            e[k] = rstd[k] * (fmaf(gamma[k], d[k], -mg[k]) - n * mgn[k]);
        }
        cuda_store_n<WIDE>(dx, base + r * s.c, e);
    }
}

struct backward_outputs {
    ag_tensor *dx, *dgamma, *dbeta; /* NULL: not wanted */
};

static backward_outputs outputs_of(const ag_call *call)
{
    const op_norm_attr *a = (const op_norm_attr *)call->attr;
    backward_outputs o = {};

    if (a->want_dx)
        o.dx = call->out[0];
    if (a->want_affine) {
        o.dgamma = call->out[a->want_dx ? 1 : 0];
        o.dbeta = call->out[a->want_dx ? 2 : 1];
    }
    return o;
}

/* Parts of each chunk, sums of each channel of each picture, means of each group. */
static size_t totals_bytes(const norm_sizes &s)
{
    return (size_t)(2 * s.n * s.c) * sizeof(float);
}

size_t cuda_group_norm_backward_scratch(const ag_call *call)
{
    const norm_sizes s = sizes_of(call);

    return part_bytes(s) + totals_bytes(s) + (size_t)(2 * s.n * s.groups) * sizeof(float);
}

template <int WIDE>
static ag_status run_group_norm_backward(const ag_call *call, const norm_sizes &s, float *part)
{
    const backward_outputs out = outputs_of(call);
    const cuda_floats x = cuda_in(call->in[0]), dy = cuda_in(call->in[5]);
    const norm_values v =
        values_of(call, (const float *)ag_data(call->in[3]), (const float *)ag_data(call->in[4]));
    float *sum_d = part + part_bytes(s) / sizeof(float), *sum_dn = sum_d + s.n * s.c;
    float *mean_g = sum_dn + s.n * s.c, *mean_gn = mean_g + s.n * s.groups;
    const dim3 blocks = blocks_of<WIDE>(s), threads(LANES, DEPTH);
    ag_status status;

    status = cuda_launch(call, channel_slopes<WIDE>, blocks, threads, 0, part, x, dy, s, v);
    if (status == AG_OK)
        status = launch_add_chunks(call, sum_d, sum_dn, part, s.n, s.chunks, s.c);
    if (status == AG_OK && out.dgamma) /* the same parts, over the pictures too */
        status = launch_add_chunks(call, (float *)ag_data(out.dbeta), (float *)ag_data(out.dgamma), part, 1,
                                   s.n * s.chunks, s.c);
    if (status == AG_OK && out.dx)
        status = cuda_launch_over(call, s.n * s.groups * CUDA_WARP, join_slopes, mean_g, mean_gn,
                                  (const float *)sum_d, (const float *)sum_dn, s, v.gamma);
    if (status == AG_OK && out.dx)
        status = cuda_launch(call, group_norm_dx<WIDE>, blocks, threads, 0, cuda_to(out.dx), x, dy, s, v,
                             (const float *)mean_g, (const float *)mean_gn);
    return status;
}

/* Nothing came in: sums of nothing. */
static ag_status clear_affine(const ag_call *call)
{
    const backward_outputs out = outputs_of(call);
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    cudaError_t error = cudaSuccess;

    if (out.dgamma && ag_numel(out.dgamma)) {
        error = cudaMemsetAsync(ag_data(out.dgamma), 0, ag_nbytes(out.dgamma), cuda->stream);
        if (error == cudaSuccess)
            error = cudaMemsetAsync(ag_data(out.dbeta), 0, ag_nbytes(out.dbeta), cuda->stream);
    }
    return error == cudaSuccess ? AG_OK : cuda_failed(cuda, call->op->name, error);
}

ag_status cuda_group_norm_backward(ag_call *call)
{
    const norm_sizes s = sizes_of(call);
    const ag_tensor *const all[] = {call->in[0], call->in[1], call->in[2], call->in[5], outputs_of(call).dx};
    float *part;

    if (ag_numel(call->in[0]) == 0)
        return clear_affine(call);
    part = (float *)ag_scratch(call->ctx, cuda_group_norm_backward_scratch(call));
    if (!part)
        return ag_status_of(call->ctx);
    return is_wide(all, 5, s.c) ? run_group_norm_backward<CUDA_VEC>(call, s, part)
                                : run_group_norm_backward<1>(call, s, part);
}

/* --- layer norm ------------------------------------------------------------------------------- */

template <int WIDE>
static __global__ void layer_norm_row_per_warp(cuda_out y, float *mean, float *rstd, cuda_floats x, int64_t rows,
                                               int64_t c, cuda_floats gamma, cuda_floats beta, float eps)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; r < rows; r += n_warps) {
        float m = 0.0f, squares = 0.0f, e[WIDE], g[WIDE], b[WIDE];
        for (int64_t i = lane * WIDE; i < c; i += CUDA_WARP * WIDE) {
            cuda_load_n<WIDE>(e, x, r * c + i);
            for (int k = 0; k < WIDE; k++)
                m += e[k];
        }
        m = cuda_warp_sum(m) / (float)c;
        for (int64_t i = lane * WIDE; i < c; i += CUDA_WARP * WIDE) {
            cuda_load_n<WIDE>(e, x, r * c + i);
            for (int k = 0; k < WIDE; k++)
                squares = fmaf(e[k] - m, e[k] - m, squares);
        }
        squares = 1.0f / sqrtf(cuda_warp_sum(squares) / (float)c + eps);
        for (int64_t i = lane * WIDE; i < c; i += CUDA_WARP * WIDE) {
            cuda_load_n<WIDE>(e, x, r * c + i);
            load_or<WIDE>(g, gamma, i, 1.0f);
            load_or<WIDE>(b, beta, i, 0.0f);
            for (int k = 0; k < WIDE; k++)
                e[k] = fmaf((e[k] - m) * squares, g[k], b[k]);
            cuda_store_n<WIDE>(y, r * c + i, e);
        }
        if (lane == 0) {
            mean[r] = m;
            rstd[r] = squares;
        }
    }
}

ag_status cuda_layer_norm(ag_call *call)
{
    const norm_sizes s = sizes_of(call);
    const ag_tensor *const all[] = {call->in[0], call->in[1], call->in[2], call->out[0]};
    const float eps = (float)((const op_norm_attr *)call->attr)->eps;

    return cuda_launch_over(call, s.hw * CUDA_WARP,
                            is_wide(all, 4, s.c) ? layer_norm_row_per_warp<CUDA_VEC> : layer_norm_row_per_warp<1>,
                            cuda_to(call->out[0]), (float *)ag_data(call->out[1]), (float *)ag_data(call->out[2]),
                            cuda_in(call->in[0]), s.hw, s.c, cuda_in(call->in[1]), cuda_in(call->in[2]), eps);
}

template <int WIDE>
static __global__ void layer_norm_dx_row_per_warp(cuda_out dx, cuda_floats x, cuda_floats dy, int64_t rows,
                                                  int64_t c, norm_values v)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; r < rows; r += n_warps) {
        const float mean = v.mean[r], rstd = v.rstd[r];
        float mg = 0.0f, mgn = 0.0f, e[WIDE], d[WIDE], g[WIDE];
        for (int64_t i = lane * WIDE; i < c; i += CUDA_WARP * WIDE) {
            cuda_load_n<WIDE>(e, x, r * c + i);
            cuda_load_n<WIDE>(d, dy, r * c + i);
            load_or<WIDE>(g, v.gamma, i, 1.0f);
            for (int k = 0; k < WIDE; k++) {
                mg = fmaf(g[k], d[k], mg);
                mgn = fmaf(g[k] * d[k], (e[k] - mean) * rstd, mgn);
            }
        }
        mg = cuda_warp_sum(mg) / (float)c;
        mgn = cuda_warp_sum(mgn) / (float)c;
        for (int64_t i = lane * WIDE; i < c; i += CUDA_WARP * WIDE) {
            cuda_load_n<WIDE>(e, x, r * c + i);
            cuda_load_n<WIDE>(d, dy, r * c + i);
            load_or<WIDE>(g, v.gamma, i, 1.0f);
            for (int k = 0; k < WIDE; k++)
                e[k] = rstd * (fmaf(g[k], d[k], -mg) - (e[k] - mean) * rstd * mgn);
            cuda_store_n<WIDE>(dx, r * c + i, e);
        }
    }
}

size_t cuda_layer_norm_backward_scratch(const ag_call *call)
{
    return ((const op_norm_attr *)call->attr)->want_affine ? part_bytes(sizes_of(call)) : 0;
}

template <int WIDE>
static ag_status run_layer_norm_backward(const ag_call *call, const norm_sizes &s)
{
    const backward_outputs out = outputs_of(call);
    const cuda_floats x = cuda_in(call->in[0]), dy = cuda_in(call->in[5]);
    const norm_values v =
        values_of(call, (const float *)ag_data(call->in[3]), (const float *)ag_data(call->in[4]));
    ag_status status = AG_OK;
    const dim3 blocks = blocks_of<WIDE>(s), threads(LANES, DEPTH);
    float *part;

    if (out.dx)
        status = cuda_launch_over(call, s.hw * CUDA_WARP, layer_norm_dx_row_per_warp<WIDE>, cuda_to(out.dx), x, dy,
                                  s.hw, s.c, v);
    if (status != AG_OK || !out.dgamma)
        return status;
    part = (float *)ag_scratch(call->ctx, part_bytes(s));
    if (!part)
        return ag_status_of(call->ctx);
    status = cuda_launch(call, channel_slopes<WIDE>, blocks, threads, 0, part, x, dy, s, v);
    if (status != AG_OK)
        return status;
    return launch_add_chunks(call, (float *)ag_data(out.dbeta), (float *)ag_data(out.dgamma), part, 1, s.chunks, s.c);
}

ag_status cuda_layer_norm_backward(ag_call *call)
{
    const norm_sizes s = sizes_of(call);
    const ag_tensor *const all[] = {call->in[0], call->in[1], call->in[5], outputs_of(call).dx};

    if (ag_numel(call->in[0]) == 0)
        return clear_affine(call);
    return is_wide(all, 4, s.c) ? run_layer_norm_backward<CUDA_VEC>(call, s) : run_layer_norm_backward<1>(call, s);
}
