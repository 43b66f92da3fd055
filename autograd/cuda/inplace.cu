/* inplace.cu - the CUDA twin of ops/inplace.c.
 *
 * Rates and factors are read on the device, so that a captured step can be repeated with others.
 */
#include "autograd/cuda/list.cuh"
#include "autograd/cuda/reduce.cuh"

/* --- maps that write their first input -------------------------------------------------------- */

struct add_of {
    __device__ float operator()(float y, float x) const { return y + x; }
};

ag_status cuda_add_into(ag_call *call)
{
    return cuda_map(call, cuda_to(call->in[0]), cuda_in(call->in[0]), cuda_in(call->in[1]), ag_numel(call->in[0]),
                    add_of());
}

struct times {
    const float *factor;
    __device__ float operator()(float y, float) const { return y * *factor; }
};

ag_status cuda_scale_into(ag_call *call)
{
    return cuda_map(call, cuda_to(call->in[0]), cuda_in(call->in[0]), cuda_in(NULL), ag_numel(call->in[0]),
                    times{(const float *)ag_data(call->in[1])});
}

/* --- maps of many tensors at once --------------------------------------------------------------- */

/* y + w (x - y), as PyTorch's lerp: from the other end when w >= 1/2. */
struct lerp_rule {
    enum { N = 2, WRITES = 1 };
    float w;
    __device__ void begin(const cuda_row<N> &row) { w = *(const float *)row.scalars; }
    __device__ bool rests() const { return false; }
    __device__ void step(float *v, int64_t) const
    {
        v[0] = w < 0.5f ? v[0] + w * (v[1] - v[0]) : v[1] - (v[1] - v[0]) * (1.0f - w);
    }
};

ag_status cuda_lerp_each(const ag_call *calls, int n)
{
    return cuda_step_each<lerp_rule>(calls, n, [](cuda_row<2> *row, const ag_call *call) {
        row->at[0] = cuda_to(call->in[0]);
        row->at[1] = cuda_to(call->in[1]);
        row->n = ag_numel(call->in[0]);
        row->scalars = ag_data(call->in[2]);
    });
}

template <int ROOM>
static __global__ void fill(const cuda_list<cuda_row<1>, ROOM> __grid_constant__ list)
{
    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x) {
        const cuda_row<1> &row = list.row[cuda_row_at(list, unit)];
        const int64_t from = (int64_t)(unit - row.first) * CUDA_UNIT;
        const int64_t to = from + CUDA_UNIT < row.n ? from + CUDA_UNIT : row.n;
        const float value = (float)row.value;
        for (int64_t i = from + threadIdx.x; i < to; i += blockDim.x)
            ((float *)row.at[0].data)[i] = value;
    }
}

ag_status cuda_fill_each(const ag_call *calls, int n)
{
    const auto fill_row = [](cuda_row<1> *row, const ag_call *call) {
        row->at[0] = cuda_to(call->in[0]);
        row->n = ag_numel(call->in[0]);
        row->value = ((const op_fill_attr *)call->attr)->value;
    };

    return cuda_each<cuda_row<1>>(calls, n, fill_row, cuda_units_of<1>, [calls](const auto &list) {
        constexpr int room = sizeof list.row / sizeof *list.row;
        if (list.n_units == 0)
            return AG_OK;
        return cuda_launch(calls, fill<room>, cuda_unit_blocks(calls, list.n_units), CUDA_THREADS, 0, list);
    });
}

/* --- sums of squares -------------------------------------------------------------------------- */

/* part[unit]; a block for each unit. */
template <int ROOM>
static __global__ void squares(double *part, const cuda_list<cuda_row<1>, ROOM> __grid_constant__ list)
{
    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x) {
        const cuda_row<1> &row = list.row[cuda_row_at(list, unit)];
        const cuda_floats x = cuda_as_in(row.at[0]);
        const int64_t from = (int64_t)(unit - row.first) * CUDA_UNIT;
        const int64_t to = from + CUDA_UNIT < row.n ? from + CUDA_UNIT : row.n;
        const int64_t whole = from + (to - from) / CUDA_VEC * CUDA_VEC;
        double total = 0.0;
        for (int64_t i = from + threadIdx.x * CUDA_VEC; i < whole; i += (int64_t)blockDim.x * CUDA_VEC) {
            float v[CUDA_VEC];
            cuda_load8(v, x, i);
            for (int k = 0; k < CUDA_VEC; k++)
                total += (double)v[k] * (double)v[k];
        }
        for (int64_t i = whole + threadIdx.x; i < to; i += blockDim.x)
            total += (double)cuda_load(x, i) * (double)cuda_load(x, i);
        total = cuda_block_sum(total);
        if (threadIdx.x == 0)
            part[unit] = total;
    }
}

/* The units of a row into its slot; a block for each row. */
template <int ROOM>
static __global__ void add_units(const double *part, const cuda_list<cuda_row<1>, ROOM> __grid_constant__ list)
{
    for (int r = blockIdx.x; r < list.n; r += gridDim.x) {
        const int to = r + 1 < list.n ? list.row[r + 1].first : list.n_units;
        double total = 0.0;
        for (int unit = list.row[r].first + threadIdx.x; unit < to; unit += blockDim.x)
            total += part[unit];
        total = cuda_block_sum(total);
        if (threadIdx.x == 0)
            *(double *)list.row[r].more = total;
    }
}

size_t cuda_sumsq_scratch(const ag_call *call)
{
    return (size_t)((ag_numel(call->in[1]) + CUDA_UNIT - 1) / CUDA_UNIT) * sizeof(double);
}

template <int ROOM>
static ag_status sumsq_list(const ag_call *call, const cuda_list<cuda_row<1>, ROOM> &list)
{
    double *part = NULL;
    ag_status status = AG_OK;

    if (list.n_units > 0) {
        part = (double *)ag_scratch(call->ctx, (size_t)list.n_units * sizeof(double));
        if (!part)
            return ag_status_of(call->ctx);
        status = cuda_launch(call, squares<ROOM>, cuda_unit_blocks(call, list.n_units), CUDA_THREADS, 0, part, list);
    }
    if (status != AG_OK)
        return status;
    return cuda_launch(call, add_units<ROOM>, (unsigned)list.n, CUDA_WARP, 0, (const double *)part, list);
}

ag_status cuda_sumsq_each(const ag_call *calls, int n)
{
    const auto fill_row = [](cuda_row<1> *row, const ag_call *call) {
        row->at[0] = cuda_to(call->in[1]);
        row->n = ag_numel(call->in[1]);
        row->more = (double *)ag_data(call->in[0]) + ((const op_sumsq_attr *)call->attr)->index;
    };

    return cuda_each<cuda_row<1>>(calls, n, fill_row, cuda_units_of<1>,
                                  [calls](const auto &list) { return sumsq_list(calls, list); });
}

/* --- clipping --------------------------------------------------------------------------------- */

/* One block. */
static __global__ void clip(double *scale, int64_t groups, int64_t columns, double *norm, const double *sums,
                            int64_t n, double max_norm)
{
    double total = 0.0, factor = 1.0;

    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        total += sums[i];
    total = cuda_block_sum(total);
    if (threadIdx.x)
        return;
    total = scale[0] * sqrt(total);
    *norm = total;
    if (!isfinite(total))
        factor = total - total; /* NaN */
    else if (max_norm > 0.0)
        factor = fmin(1.0, max_norm / (total + 1e-6));
    for (int64_t k = 0; k < groups; k++)
        scale[k * columns] *= factor;
}

ag_status cuda_clip(ag_call *call)
{
    const op_clip_attr *a = (const op_clip_attr *)call->attr;
    const ag_tensor *scalars = call->in[0], *sums = call->in[2];

    return cuda_launch(call, clip, 1, CUDA_THREADS, 0, (double *)ag_data(scalars) + a->column, ag_dim(scalars, 0),
                       ag_dim(scalars, 1), (double *)ag_data(call->in[1]), (const double *)ag_data(sums),
                       ag_numel(sums), a->max_norm);
}

/* --- the scale of a loss ------------------------------------------------------------------------ */

/* One thread. */
static __global__ void loss_scale(double *s, const double *norm, double growth, double backoff, int64_t interval)
{
    if (!isfinite(*norm)) {
        s[0] *= backoff;
        s[1] = 0.0;
        s[2] += 1.0;
        return;
    }
    s[1] += 1.0;
    if (s[1] < (double)interval)
        return;
    if (isfinite((float)(s[0] * growth)))
        s[0] *= growth;
    s[1] = 0.0;
}

ag_status cuda_loss_scale(ag_call *call)
{
    const op_loss_scale_attr *a = (const op_loss_scale_attr *)call->attr;

    return cuda_launch(call, loss_scale, 1, 1, 0, (double *)ag_data(call->in[0]),
                       (const double *)ag_data(call->in[1]), a->growth, a->backoff, a->interval);
}
