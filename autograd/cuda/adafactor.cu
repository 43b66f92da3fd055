/* adafactor.cu - Adafactor: second moments kept as those of rows and columns (../cpu/adafactor.h).
 *
 * A tensor is batches of matrices [rows, cols] with lanes; row sums are kept as [batches, rows, lanes], column sums as
 * [batches, cols, lanes]. With lanes the matrices are small, and a thread sums one side of one; without, a block sums
 * a row, and columns are cut into slabs of rows, added in their order.
 */
#include "autograd/cpu/adafactor.h"
#include "autograd/cuda/list.cuh"
#include "autograd/cuda/reduce.cuh"

enum { SLABS = 32, PIECE = 8192 }; /* elements of one block */

struct numbers {
    const void *scalars;
    int64_t f64;
};

static __device__ __forceinline__ double number(numbers a, int i)
{
    return cuda_scalar(a.scalars, (int)a.f64, i);
}

static __device__ __forceinline__ bool rests(numbers a)
{
    return isnan(number(a, CPU_ADAFACTOR_GRAD_SCALE));
}

static numbers numbers_of(const ag_tensor *t)
{
    return numbers{ag_data(t), ag_dtype_of(t) == AG_F64};
}

static ag_adafactor_shape shape_of(const ag_call *call)
{
    return *(const ag_adafactor_shape *)call->attr;
}

static bool has_lanes(ag_adafactor_shape s)
{
    return s.lanes > 1 || (s.rows == 1 && s.cols == 1);
}

static int64_t count(ag_adafactor_shape s)
{
    return s.batches * s.rows * s.cols * s.lanes;
}

/* Values that ag_call's input may not have. */
static float *values(const ag_call *call, int i)
{
    return call->in[i] ? (float *)ag_data(call->in[i]) : NULL;
}

/* --- moments ---------------------------------------------------------------------------------- */

/* state = keep state + (1 - keep) (mean of squares + eps), for all lanes of `outer` places: along a line of n values
 * `step` apart. outer = batches x places; the line of place k begins at k's batch + k step_place. */
struct lines {
    int64_t batches, places, lanes, n; /* lines of n values */
    int64_t step_batch, step_place, step;
};

static __global__ void lane_means(float *state, const float *g, lines l, numbers a)
{
    const float scale = (float)number(a, CPU_ADAFACTOR_GRAD_SCALE), keep = (float)number(a, CPU_ADAFACTOR_BETA2T);
    const float rest = (float)(1.0 - number(a, CPU_ADAFACTOR_BETA2T)), eps = (float)number(a, CPU_ADAFACTOR_EPS1);
    const float over = 1.0f / (float)l.n;

    if (rests(a))
        return;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < l.batches * l.places * l.lanes;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t lane, place;
        const int64_t outer = cuda_divide(i, l.lanes, &lane), batch = cuda_divide(outer, l.places, &place);
        const float *x = g + batch * l.step_batch + place * l.step_place + lane;
        float sum = 0.0f;
        for (int64_t k = 0; k < l.n; k++) {
            const float v = scale * x[k * l.step];
            sum += v * v;
        }
        state[i] = keep * state[i] + rest * (over * sum + eps);
    }
}

/* A block for each row of all matrices. */
static __global__ void row_means(float *row, const float *g, int64_t n_rows, int64_t cols, numbers a)
{
    const float scale = (float)number(a, CPU_ADAFACTOR_GRAD_SCALE);
    const double keep = number(a, CPU_ADAFACTOR_BETA2T), eps = number(a, CPU_ADAFACTOR_EPS1);

    if (rests(a))
        return;
    for (int64_t r = blockIdx.x; r < n_rows; r += gridDim.x) {
        double sum = 0.0;
        for (int64_t c = threadIdx.x; c < cols; c += blockDim.x) {
            const double x = (double)(scale * g[r * cols + c]);
            sum += x * x;
        }
        sum = cuda_block_sum(sum);
        if (threadIdx.x == 0)
            row[r] = (float)(keep * row[r] + (1.0 - keep) * (sum / (double)cols + eps));
    }
}

/* parts [SLABS, batches, cols]: squares of a column within a slab of rows. */
static __global__ void col_slabs(double *parts, const float *g, ag_adafactor_shape s, numbers a)
{
    const float scale = (float)number(a, CPU_ADAFACTOR_GRAD_SCALE);
    const int64_t each = (s.rows + SLABS - 1) / SLABS, n = s.batches * s.cols;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < SLABS * n;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t at, c;
        const int64_t slab = cuda_divide(i, n, &at), batch = cuda_divide(at, s.cols, &c);
        const int64_t end = (slab + 1) * each < s.rows ? (slab + 1) * each : s.rows;
        double sum = 0.0;
        for (int64_t r = slab * each; r < end; r++) {
            const double x = (double)(scale * g[(batch * s.rows + r) * s.cols + c]);
            sum += x * x;
        }
        parts[i] = sum;
    }
}

static __global__ void col_means(float *col, const double *parts, int64_t n, int64_t rows, numbers a)
{
    const double keep = number(a, CPU_ADAFACTOR_BETA2T), eps = number(a, CPU_ADAFACTOR_EPS1);

    if (rests(a))
        return;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        double sum = 0.0;
        for (int64_t slab = 0; slab < SLABS; slab++)
            sum += parts[slab * n + i];
        col[i] = (float)(keep * col[i] + (1.0 - keep) * (sum / (double)rows + eps));
    }
}

size_t cuda_adafactor_moments_scratch(const ag_call *call)
{
    const ag_adafactor_shape s = shape_of(call);

    return has_lanes(s) ? 0 : (size_t)(SLABS * s.batches * s.cols) * sizeof(double);
}

static ag_status lane_moments(const ag_call *call, float *col, float *row, const float *g, ag_adafactor_shape s)
{
    const int64_t matrix = s.rows * s.cols * s.lanes;
    const lines down = {s.batches, s.cols, s.lanes, s.rows, matrix, s.lanes, s.cols * s.lanes};
    const lines across = {s.batches, s.rows, s.lanes, s.cols, matrix, s.cols * s.lanes, s.lanes};
    ag_status status = cuda_launch_over(call, s.batches * s.cols * s.lanes, lane_means, col, g, down,
                                        numbers_of(call->in[3]));

    if (status == AG_OK && row)
        status = cuda_launch_over(call, s.batches * s.rows * s.lanes, lane_means, row, g, across,
                                  numbers_of(call->in[3]));
    return status;
}

ag_status cuda_adafactor_moments(ag_call *call)
{
    const ag_adafactor_shape s = shape_of(call);
    float *col = values(call, 0), *row = values(call, 1);
    const float *g = values(call, 2);
    const numbers a = numbers_of(call->in[3]);
    double *parts;
    ag_status status;

    if (has_lanes(s))
        return lane_moments(call, col, row, g, s);
    parts = (double *)ag_scratch(call->ctx, cuda_adafactor_moments_scratch(call));
    if (!parts)
        return ag_status_of(call->ctx);
    status = cuda_launch(call, row_means, cuda_unit_blocks(call, s.batches * s.rows), CUDA_THREADS, 0, row, g,
                         s.batches * s.rows, s.cols, a);
    if (status == AG_OK)
        status = cuda_launch_over(call, SLABS * s.batches * s.cols, col_slabs, parts, g, s, a);
    if (status == AG_OK)
        status = cuda_launch_over(call, s.batches * s.cols, col_means, col, (const double *)parts, s.batches * s.cols,
                                  s.rows, a);
    return status;
}

/* --- the direction ---------------------------------------------------------------------------- */

/* sqrt(mean over rows of row / row), in the places of row. With lanes a thread, without a block for each matrix. */
static __global__ void lane_factors(float *f, const float *row, ag_adafactor_shape s)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < s.batches * s.lanes;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t lane;
        const int64_t first = cuda_divide(i, s.lanes, &lane) * s.rows * s.lanes + lane;
        float mean = 0.0f;
        for (int64_t r = 0; r < s.rows; r++)
            mean += row[first + r * s.lanes];
        mean *= 1.0f / (float)s.rows;
        for (int64_t r = 0; r < s.rows; r++)
            f[first + r * s.lanes] = sqrtf(mean / row[first + r * s.lanes]);
    }
}

static __global__ void matrix_factors(float *f, const float *row, ag_adafactor_shape s)
{
    for (int64_t b = blockIdx.x; b < s.batches; b += gridDim.x) {
        double mean = 0.0;
        for (int64_t r = threadIdx.x; r < s.rows; r += blockDim.x)
            mean += (double)row[b * s.rows + r];
        mean = cuda_block_sum(mean) / (double)s.rows;
        for (int64_t r = threadIdx.x; r < s.rows; r += blockDim.x)
            f[b * s.rows + r] = (float)sqrt(mean / (double)row[b * s.rows + r]);
    }
}

static size_t factor_bytes(ag_adafactor_shape s)
{
    return (size_t)(s.batches * s.rows * s.lanes) * sizeof(float);
}

/* What every row is multiplied by, in scratch; NULL where there are no rows, or (and failed) no memory. */
static float *row_factors(const ag_call *call, const float *row, ag_adafactor_shape s)
{
    float *f = row ? (float *)ag_scratch(call->ctx, factor_bytes(s)) : NULL;

    if (!f)
        return NULL;
    if (has_lanes(s))
        cuda_launch_over(call, s.batches * s.lanes, lane_factors, f, row, s);
    else
        cuda_launch(call, matrix_factors, cuda_unit_blocks(call, s.batches), CUDA_THREADS, 0, f, row, s);
    return f;
}

/* scale g / sqrt(col) times the row's factor, at element i. */
static __device__ __forceinline__ float direction_at(int64_t i, const float *g, const float *rows, const float *col,
                                                     ag_adafactor_shape s, float scale)
{
    int64_t lane, c, r;
    const int64_t outer = cuda_divide(i, s.lanes, &lane), line = cuda_divide(outer, s.cols, &c);
    const int64_t batch = cuda_divide(line, s.rows, &r);
    const float u = scale * g[i] * (1.0f / sqrtf(col[(batch * s.cols + c) * s.lanes + lane]));

    return rows ? u * rows[line * s.lanes + lane] : u;
}

/* --- sums ------------------------------------------------------------------------------------- */

/* parts[2 piece] = sum of u^2, parts[2 piece + 1] = sum of p^2; a block for each. */
static __global__ void sum_pieces(double *parts, const float *p, const float *g, const float *rows, const float *col,
                                  ag_adafactor_shape s, int64_t n, numbers a)
{
    const float scale = (float)number(a, CPU_ADAFACTOR_GRAD_SCALE);

    for (int64_t piece = blockIdx.x; piece * PIECE < n; piece += gridDim.x) {
        const int64_t to = (piece + 1) * PIECE < n ? (piece + 1) * PIECE : n;
        double of_u = 0.0, of_p = 0.0;
        for (int64_t i = piece * PIECE + threadIdx.x; i < to; i += blockDim.x) {
            const double u = (double)direction_at(i, g, rows, col, s, scale);
            of_u += u * u;
            of_p += (double)p[i] * (double)p[i];
        }
        of_u = cuda_block_sum(of_u);
        of_p = cuda_block_sum(of_p);
        if (threadIdx.x == 0) {
            parts[2 * piece] = of_u;
            parts[2 * piece + 1] = of_p;
        }
    }
}

/* One block. */
static __global__ void sum_parts(double *sums, const double *parts, int64_t n_pieces)
{
    double of_u = 0.0, of_p = 0.0;

    for (int64_t i = threadIdx.x; i < n_pieces; i += blockDim.x) {
        of_u += parts[2 * i];
        of_p += parts[2 * i + 1];
    }
    of_u = cuda_block_sum(of_u);
    of_p = cuda_block_sum(of_p);
    if (threadIdx.x == 0) {
        sums[0] = of_u;
        sums[1] = of_p;
    }
}

static int64_t pieces_of(ag_adafactor_shape s)
{
    return (count(s) + PIECE - 1) / PIECE;
}

static size_t piece_bytes(ag_adafactor_shape s)
{
    return (size_t)pieces_of(s) * 2 * sizeof(double);
}

static size_t round_up(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

size_t cuda_adafactor_sums_scratch(const ag_call *call)
{
    const ag_adafactor_shape s = shape_of(call);

    return round_up(piece_bytes(s)) + (call->in[3] ? round_up(factor_bytes(s)) : 0);
}

ag_status cuda_adafactor_sums(ag_call *call)
{
    const ag_adafactor_shape s = shape_of(call);
    const float *row = values(call, 3), *rows = row_factors(call, row, s);
    double *parts = (double *)ag_scratch(call->ctx, piece_bytes(s));
    ag_status status;

    if (!parts || ag_status_of(call->ctx) != AG_OK)
        return ag_status_of(call->ctx);
    status = cuda_launch(call, sum_pieces, cuda_unit_blocks(call, pieces_of(s)), CUDA_THREADS, 0, parts,
                         values(call, 1), values(call, 4), rows, values(call, 2), s, count(s),
                         numbers_of(call->in[5]));
    if (status != AG_OK)
        return status;
    return cuda_launch(call, sum_parts, 1, CUDA_THREADS, 0, (double *)ag_data(call->in[0]), (const double *)parts,
                       pieces_of(s));
}

/* --- step ------------------------------------------------------------------------------------- */

struct factors {
    float grad_scale, step_size, decay, beta1, rest1;
    int is_resting;
};

static __device__ factors factors_of(const double *sums, int64_t n, numbers a)
{
    const double rms_u = sqrt(sums[0] / (double)n), rms_p = sqrt(sums[1] / (double)n);
    const bool scales = number(a, CPU_ADAFACTOR_SCALE_PARAMETER) != 0.0;
    const double rate = (scales ? fmax(number(a, CPU_ADAFACTOR_EPS2), rms_p) : 1.0) * number(a, CPU_ADAFACTOR_RATE);
    factors f;

    f.grad_scale = (float)number(a, CPU_ADAFACTOR_GRAD_SCALE);
    f.step_size = (float)(rate / fmax(1.0, rms_u / number(a, CPU_ADAFACTOR_CLIP_THRESHOLD)));
    f.decay = (float)(1.0 - rate * number(a, CPU_ADAFACTOR_WEIGHT_DECAY));
    f.beta1 = (float)number(a, CPU_ADAFACTOR_BETA1);
    f.rest1 = (float)(1.0 - number(a, CPU_ADAFACTOR_BETA1));
    f.is_resting = !isfinite(sums[0]);
    return f;
}

static __global__ void step(float *p, float *m, const float *g, const float *rows, const float *col,
                            const double *sums, ag_adafactor_shape s, int64_t n, numbers a)
{
    CUDA_SHARED(factors, shared, [1]);
    factors f;

    if (threadIdx.x == 0)
        shared[0] = factors_of(sums, n, a);
    __syncthreads();
    f = shared[0];
    if (f.is_resting)
        return;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        float u = f.step_size * direction_at(i, g, rows, col, s, f.grad_scale);
        if (m)
            u = m[i] = fmaf(f.rest1, u, f.beta1 * m[i]);
        p[i] = f.decay * p[i] - u;
    }
}

size_t cuda_adafactor_step_scratch(const ag_call *call)
{
    return call->in[3] ? factor_bytes(shape_of(call)) : 0;
}

ag_status cuda_adafactor_step(ag_call *call)
{
    const ag_adafactor_shape s = shape_of(call);
    const float *rows = row_factors(call, values(call, 3), s);

    if (ag_status_of(call->ctx) != AG_OK)
        return ag_status_of(call->ctx);
    return cuda_launch_over(call, count(s), step, values(call, 0), values(call, 1), values(call, 4), rows,
                            values(call, 2), (const double *)ag_data(call->in[5]), s, count(s),
                            numbers_of(call->in[6]));
}
