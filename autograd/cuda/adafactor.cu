/* adafactor.cu - Adafactor: second moments kept as those of rows and columns (../cpu/adafactor.h).
 *
 * A tensor is batches of matrices [rows, cols] with lanes; row sums are kept as [batches, rows, lanes], column sums as
 * [batches, cols, lanes]. With lanes the matrices are small: a thread takes one of a moment's values, or one lane with
 * all its rows and columns. Without, a block takes a row, or a stripe of columns, or so many elements. All tensors go
 * through each kernel at once.
 */
#include "autograd/cpu/optimizer_factors.h"
#include "autograd/cuda/list.cuh"
#include "autograd/cuda/reduce.cuh"

/* LANES: of one unit. STRIPE: columns of one unit, by so many threads each. */
enum { LANES = 1024, STRIPE = CUDA_WARP, DEPTH = CUDA_THREADS / STRIPE };

/* The tensors of one call; NULL where it has none. */
struct matrices {
    ag_adafactor_shape s;
    float *p, *m, *row, *col;
    const float *g;
    float *factors;   /* of rows, of a matrix without lanes: scratch */
    cuda_pair *parts; /* of sums, of each unit: scratch */
    double *sums;
    const void *scalars;
    int f64, first;
};

static __host__ __device__ __forceinline__ bool has_lanes(const ag_adafactor_shape &s)
{
    return s.lanes > 1 || (s.rows == 1 && s.cols == 1);
}

static __host__ __device__ __forceinline__ int64_t count(const ag_adafactor_shape &s)
{
    return s.batches * s.rows * s.cols * s.lanes;
}

static __host__ __device__ __forceinline__ int64_t pieces(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}

static int64_t factors_in(const matrices &t)
{
    return has_lanes(t.s) ? 0 : t.s.batches * t.s.rows;
}

/* Units of what wants u of every element. */
static __host__ __device__ __forceinline__ int64_t direction_units(const matrices &t)
{
    return has_lanes(t.s) ? pieces(t.s.batches * t.s.lanes, LANES) : pieces(count(t.s), CUDA_UNIT);
}

/* Where an op's inputs stand; NONE where it has none. */
struct places {
    int p, m, col, row, g, sums, scalars;
};

enum { NONE = -1 };
static const places OF_MOMENTS = {NONE, NONE, 0, 1, 2, NONE, 3};
static const places OF_SUMS = {1, NONE, 2, 3, 4, 0, 5};
static const places OF_STEP = {0, 1, 2, 3, 4, 5, 6};

static void *input(const ag_call *call, int i)
{
    return i != NONE && call->in[i] ? ag_data(call->in[i]) : NULL;
}

static matrices matrices_of(const ag_call *call, const places &at)
{
    matrices t = {};

    t.s = *(const ag_adafactor_shape *)call->attr;
    t.p = (float *)input(call, at.p);
    t.m = (float *)input(call, at.m);
    t.col = (float *)input(call, at.col);
    t.row = (float *)input(call, at.row);
    t.g = (const float *)input(call, at.g);
    t.sums = (double *)input(call, at.sums);
    cuda_row_scalars(&t.scalars, &t.f64, call->in[at.scalars]);
    return t;
}

/* Of call after call, each with its part of the scratch. */
struct filling {
    places at;
    float *factors;
    cuda_pair *parts;

    void operator()(matrices *t, const ag_call *call)
    {
        *t = matrices_of(call, at);
        t->factors = factors;
        t->parts = parts;
        if (factors)
            factors += factors_in(*t);
        if (parts)
            parts += direction_units(*t);
    }
};

/* Work in units: units(t), and run(t, unit) by a block. */
template <typename WORK, int ROOM>
static __global__ void work_on(const cuda_list<matrices, ROOM> __grid_constant__ list)
{
    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x) {
        const matrices &t = list.row[cuda_row_at(list, unit)];
        WORK::run(t, unit - t.first);
    }
}

template <typename WORK>
static ag_status work_each(const ag_call *calls, int n, filling fill)
{
    return cuda_each<matrices>(calls, n, fill, WORK::units, [calls](const auto &list) {
        constexpr int room = sizeof list.row / sizeof *list.row;
        if (list.n_units == 0)
            return AG_OK;
        return cuda_launch(calls, work_on<WORK, room>, cuda_unit_blocks(calls, list.n_units), CUDA_THREADS, 0, list);
    });
}

/* --- moments ---------------------------------------------------------------------------------- */

struct keeping {
    double keep, eps;
    float scale;
};

static __device__ keeping keeping_of(const matrices &t)
{
    keeping k;

    k.keep = cuda_scalar(t.scalars, t.f64, CPU_ADAFACTOR_BETA2T);
    k.eps = cuda_scalar(t.scalars, t.f64, CPU_ADAFACTOR_EPS1);
    k.scale = (float)cuda_scalar(t.scalars, t.f64, CPU_ADAFACTOR_GRAD_SCALE);
    return k;
}

/* state = keep state + (1 - keep) (mean of squares + eps) for LANES values of a state [batches, places, lanes]: each
 * of a line of n values `step` apart, of which the first lies at batch x matrix + place x step_place + lane. */
static __device__ void keep_lanes(float *state, const matrices &t, int unit, int64_t places, int64_t step_place,
                                  int64_t n, int64_t step)
{
    const keeping k = keeping_of(t);
    const float keep = (float)k.keep, rest = (float)(1.0 - k.keep), eps = (float)k.eps, over = 1.0f / (float)n;
    const int64_t all = t.s.batches * places * t.s.lanes, from = (int64_t)unit * LANES;
    const int64_t to = from + LANES < all ? from + LANES : all;

    if (isnan(k.scale))
        return;
    for (int64_t i = from + threadIdx.x; i < to; i += blockDim.x) {
        int64_t lane, place;
        const int64_t outer = cuda_divide(i, t.s.lanes, &lane), batch = cuda_divide(outer, places, &place);
        const float *x = t.g + batch * t.s.rows * t.s.cols * t.s.lanes + place * step_place + lane;
        float sum = 0.0f;
        for (int64_t j = 0; j < n; j++) {
            const float v = k.scale * x[j * step];
            sum += v * v;
        }
        state[i] = keep * state[i] + rest * (over * sum + eps);
    }
}

static __device__ __forceinline__ void keep_mean(float *state, const keeping &k, double sum, int64_t n)
{
    *state = (float)(k.keep * *state + (1.0 - k.keep) * (sum / (double)n + k.eps));
}

struct row_moments {
    static int64_t units(const matrices &t)
    {
        return !t.row ? 0 : has_lanes(t.s) ? pieces(t.s.batches * t.s.rows * t.s.lanes, LANES) : t.s.batches * t.s.rows;
    }

    static __device__ void run(const matrices &t, int unit)
    {
        const keeping k = keeping_of(t);
        const float *g = t.g + unit * t.s.cols;
        double sum = 0.0;

        if (has_lanes(t.s)) {
            keep_lanes(t.row, t, unit, t.s.rows, t.s.cols * t.s.lanes, t.s.cols, t.s.lanes);
            return;
        }
        for (int64_t c = threadIdx.x; c < t.s.cols; c += blockDim.x) {
            const double x = (double)(k.scale * g[c]);
            sum += x * x;
        }
        sum = cuda_block_sum(sum);
        if (threadIdx.x == 0 && !isnan(k.scale))
            keep_mean(&t.row[unit], k, sum, t.s.cols);
    }
};

struct col_moments {
    static int64_t units(const matrices &t)
    {
        return has_lanes(t.s) ? pieces(t.s.batches * t.s.cols * t.s.lanes, LANES)
                              : t.s.batches * pieces(t.s.cols, STRIPE);
    }

    static __device__ void run(const matrices &t, int unit)
    {
        CUDA_SHARED(double, part, [DEPTH][STRIPE]);
        const keeping k = keeping_of(t);
        const int at = threadIdx.x % STRIPE, depth = threadIdx.x / STRIPE;
        int64_t stripe;
        const int64_t batch = cuda_divide(unit, pieces(t.s.cols, STRIPE), &stripe), c = stripe * STRIPE + at;
        double sum = 0.0;

        if (has_lanes(t.s)) {
            keep_lanes(t.col, t, unit, t.s.cols, t.s.lanes, t.s.rows, t.s.cols * t.s.lanes);
            return;
        }
        for (int64_t r = depth; r < t.s.rows && c < t.s.cols; r += DEPTH) {
            const double x = (double)(k.scale * t.g[(batch * t.s.rows + r) * t.s.cols + c]);
            sum += x * x;
        }
        __syncthreads(); /* part may still be read of the unit before */
        part[depth][at] = sum;
        __syncthreads();
        if (depth > 0 || c >= t.s.cols || isnan(k.scale))
            return;
        for (int d = 1; d < DEPTH; d++)
            sum += part[d][at];
        keep_mean(&t.col[batch * t.s.cols + c], k, sum, t.s.rows);
    }
};

ag_status cuda_adafactor_moments_each(const ag_call *calls, int n)
{
    const filling fill = {OF_MOMENTS, NULL, NULL};
    const ag_status status = work_each<row_moments>(calls, n, fill);

    return status == AG_OK ? work_each<col_moments>(calls, n, fill) : status;
}

/* --- the direction ---------------------------------------------------------------------------- */

/* sqrt(mean over rows of row / row) of a matrix without lanes. */
struct row_factors {
    static int64_t units(const matrices &t) { return factors_in(t) ? t.s.batches : 0; }

    static __device__ void run(const matrices &t, int unit)
    {
        const float *row = t.row + unit * t.s.rows;
        double mean = 0.0;

        for (int64_t r = threadIdx.x; r < t.s.rows; r += blockDim.x)
            mean += (double)row[r];
        mean = cuda_block_sum(mean) / (double)t.s.rows;
        for (int64_t r = threadIdx.x; r < t.s.rows; r += blockDim.x)
            t.factors[unit * t.s.rows + r] = (float)sqrt(mean / (double)row[r]);
    }
};

/* f(i, u) for the elements of a lane with all its rows and columns: u = scale g / sqrt(col) times the row's factor. */
template <typename F>
static __device__ __forceinline__ void along_lane(const matrices &t, int64_t batch, int64_t lane, float scale, F f)
{
    const ag_adafactor_shape &s = t.s;
    const float *row = t.row + batch * s.rows * s.lanes + lane, *col = t.col + batch * s.cols * s.lanes + lane;
    float mean = 0.0f;

    for (int64_t r = 0; t.row && r < s.rows; r++)
        mean += row[r * s.lanes];
    mean *= 1.0f / (float)s.rows;
    for (int64_t r = 0; r < s.rows; r++) {
        const float of_row = t.row ? sqrtf(mean / row[r * s.lanes]) : 1.0f;
        for (int64_t c = 0; c < s.cols; c++) {
            const int64_t i = ((batch * s.rows + r) * s.cols + c) * s.lanes + lane;
            f(i, scale * t.g[i] * (1.0f / sqrtf(col[c * s.lanes])) * of_row);
        }
    }
}

/* The same for all elements of a unit. */
template <typename F>
static __device__ __forceinline__ void along_unit(const matrices &t, int unit, float scale, F f)
{
    const ag_adafactor_shape &s = t.s;
    const int64_t each = has_lanes(s) ? (int64_t)LANES : (int64_t)CUDA_UNIT;
    const int64_t all = has_lanes(s) ? s.batches * s.lanes : count(s);
    const int64_t from = unit * each, to = from + each < all ? from + each : all;

    for (int64_t i = from + threadIdx.x; i < to; i += blockDim.x) {
        int64_t rest, r;
        if (has_lanes(s)) {
            const int64_t batch = cuda_divide(i, s.lanes, &rest);
            along_lane(t, batch, rest, scale, f);
        } else {
            const int64_t line = cuda_divide(i, s.cols, &rest), batch = cuda_divide(line, s.rows, &r);
            f(i, scale * t.g[i] * (1.0f / sqrtf(t.col[batch * s.cols + rest])) * t.factors[line]);
        }
    }
}

/* --- sums ------------------------------------------------------------------------------------- */

/* Of u^2 and p^2 in each unit. */
struct unit_sums {
    static int64_t units(const matrices &t) { return direction_units(t); }

    static __device__ void run(const matrices &t, int unit)
    {
        cuda_pair sum = {};

        along_unit(t, unit, (float)cuda_scalar(t.scalars, t.f64, CPU_ADAFACTOR_GRAD_SCALE), [&](int64_t i, float u) {
            sum.a += (double)u * (double)u;
            sum.b += (double)t.p[i] * (double)t.p[i];
        });
        sum = cuda_block_sum_pair(sum);
        if (threadIdx.x == 0)
            t.parts[unit] = sum;
    }
};

struct whole_sums {
    static int64_t units(const matrices &) { return 1; }

    static __device__ void run(const matrices &t, int)
    {
        const cuda_pair sum = cuda_block_sum_pairs(t.parts, direction_units(t));

        if (threadIdx.x == 0) {
            t.sums[0] = sum.a;
            t.sums[1] = sum.b;
        }
    }
};

static size_t factor_bytes(int64_t n)
{
    return (size_t)n * sizeof(float);
}

static size_t part_bytes(int64_t n)
{
    return (size_t)n * sizeof(cuda_pair);
}

size_t cuda_adafactor_sums_scratch(const ag_call *call)
{
    const matrices t = matrices_of(call, OF_SUMS);

    return (factor_bytes(factors_in(t)) + 63) / 64 * 64 + part_bytes(direction_units(t));
}

size_t cuda_adafactor_step_scratch(const ag_call *call)
{
    return factor_bytes(factors_in(matrices_of(call, OF_STEP)));
}

/* Take scratch for all calls and find the factors of rows. */
static ag_status begin_directions(filling *fill, const ag_call *calls, int n, bool with_parts)
{
    int64_t n_factors = 0, n_parts = 0;

    for (int i = 0; i < n; i++) {
        const matrices t = matrices_of(&calls[i], fill->at);
        n_factors += factors_in(t);
        n_parts += direction_units(t);
    }
    if (with_parts)
        fill->parts = (cuda_pair *)ag_scratch(calls->ctx, part_bytes(n_parts));
    if (n_factors)
        fill->factors = (float *)ag_scratch(calls->ctx, factor_bytes(n_factors));
    if (ag_status_of(calls->ctx) != AG_OK)
        return ag_status_of(calls->ctx);
    return n_factors ? work_each<row_factors>(calls, n, *fill) : AG_OK;
}

ag_status cuda_adafactor_sums_each(const ag_call *calls, int n)
{
    filling fill = {OF_SUMS, NULL, NULL};
    ag_status status = begin_directions(&fill, calls, n, true);

    if (status == AG_OK)
        status = work_each<unit_sums>(calls, n, fill);
    return status == AG_OK ? work_each<whole_sums>(calls, n, fill) : status;
}

/* --- step ------------------------------------------------------------------------------------- */

struct stepping {
    static int64_t units(const matrices &t) { return direction_units(t); }

    static __device__ void run(const matrices &t, int unit)
    {
        CUDA_SHARED(cpu_adafactor_factors, shared, [1]);
        double s[CPU_ADAFACTOR_N];
        cpu_adafactor_factors f;

        if (!isfinite(t.sums[0]))
            return;
        __syncthreads(); /* those of the unit before may still be read */
        if (threadIdx.x == 0) {
            cuda_read_scalars(s, t.scalars, t.f64);
            shared[0] = cpu_adafactor_factors_of(t.sums, count(t.s), s);
        }
        __syncthreads();
        f = shared[0];
        along_unit(t, unit, f.grad_scale, [&](int64_t i, float u) {
            u *= f.step;
            if (t.m)
                u = t.m[i] = fmaf(f.rest1, u, f.beta1 * t.m[i]);
            t.p[i] = f.decay * t.p[i] - u;
        });
    }
};

ag_status cuda_adafactor_step_each(const ag_call *calls, int n)
{
    filling fill = {OF_STEP, NULL, NULL};
    const ag_status status = begin_directions(&fill, calls, n, false);

    return status == AG_OK ? work_each<stepping>(calls, n, fill) : status;
}
