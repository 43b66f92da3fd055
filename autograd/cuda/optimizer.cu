/* optimizer.cu - the CUDA twin of ops/optimizer.c: steps of many tensors by one kernel.
 *
 * The numbers of an update are read on the device, so that a captured update can be repeated with others. Rounding
 * happens at the places of the CPU's kernels (autograd/cpu/optimizer_kernel.inc.h).
 */
#include "autograd/cpu/optimizer_factors.h"
#include "autograd/cuda/list.cuh"
#include "autograd/cuda/reduce.cuh"

/* A row of the tensors [0, N) of a call, of which the last input holds the scalars. */
template <int N>
static void fill_row(cuda_row<N> *row, const ag_call *call)
{
    for (int i = 0; i < N; i++)
        row->at[i] = cuda_to(call->in[i]);
    row->n = ag_numel(call->in[0]);
    cuda_row_scalars(&row->scalars, &row->f64, call->in[call->op->n_in - 1]);
}

/* keep a + rest b, as the CPU's mix() */
static __device__ __forceinline__ float mix(float keep, float a, float rest, float b)
{
    return fmaf(rest, b, keep * a);
}

/* beta v + rest g^2 */
static __device__ __forceinline__ float mix_square(float beta, float v, float rest, float g)
{
    return fmaf(rest * g, g, beta * v);
}

/* --- AdamW ------------------------------------------------------------------------------------ */

struct adamw_rule {
    enum { N = 4, WRITES = 3 }; /* p, m, v; g */
    cpu_adamw_factors f;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_ADAMW_N];

        cuda_read_scalars(s, row.scalars, row.f64);
        f = cpu_adamw_factors_of(s);
    }
    __device__ bool rests() const { return isnan(f.grad_scale); }
    __device__ void step(float *v, int64_t) const
    {
        const float g = f.grad_scale * v[3], to_g = g - v[1];

        v[1] = f.rest1 >= 0.5f ? fmaf(-f.beta1, to_g, g) : fmaf(f.rest1, to_g, v[1]); /* lerp, as PyTorch */
        v[2] = mix_square(f.beta2, v[2], f.rest2, g);
        v[0] = fmaf(-f.step, v[1] / fmaf(sqrtf(v[2]), f.over_root2, f.eps), f.decay * v[0]);
    }
};

ag_status cuda_adamw_each(const ag_call *calls, int n)
{
    return cuda_step_each<adamw_rule>(calls, n, fill_row<4>);
}

/* --- SGD -------------------------------------------------------------------------------------- */

struct sgd_rule {
    enum { N = 3, WRITES = 2 }; /* p, buffer or nothing; g */
    cpu_sgd_factors f;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_SGD_N];

        cuda_read_scalars(s, row.scalars, row.f64);
        f = cpu_sgd_factors_of(s, row.at[1].data != NULL);
    }
    __device__ bool rests() const { return isnan(f.grad_scale); }
    __device__ void step(float *v, int64_t) const
    {
        const float d = fmaf(f.decay, v[0], f.grad_scale * v[2]);

        v[1] = mix(f.momentum, v[1], f.into_buffer, d);
        v[0] = fmaf(-f.lr, mix(f.of_gradient, d, f.of_buffer, v[1]), v[0]);
    }
};

ag_status cuda_sgd_each(const ag_call *calls, int n)
{
    return cuda_step_each<sgd_rule>(calls, n, fill_row<3>);
}

/* --- Lion ------------------------------------------------------------------------------------- */

struct lion_rule {
    enum { N = 3, WRITES = 2 }; /* p, m; g */
    cpu_lion_factors f;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_LION_N];

        cuda_read_scalars(s, row.scalars, row.f64);
        f = cpu_lion_factors_of(s);
    }
    __device__ bool rests() const { return isnan(f.grad_scale); }
    __device__ void step(float *v, int64_t) const
    {
        const float g = f.grad_scale * v[2], c = mix(f.beta1, v[1], f.rest1, g);

        v[1] = mix(f.beta2, v[1], f.rest2, g);
        v[0] = f.decay * v[0] - (c > 0.0f ? f.lr : c < 0.0f ? -f.lr : 0.0f);
    }
};

ag_status cuda_lion_each(const ag_call *calls, int n)
{
    return cuda_step_each<lion_rule>(calls, n, fill_row<3>);
}

/* --- Ranger ----------------------------------------------------------------------------------- */

/* The mean of every row of g; a block for each. */
template <int ROOM>
static __global__ void row_means(const cuda_list<cuda_row<1>, ROOM> __grid_constant__ list)
{
    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x) {
        const cuda_row<1> &row = list.row[cuda_row_at(list, unit)];
        const float *g = (const float *)row.at[0].data + (unit - row.first) * row.cols;
        double total = 0.0;
        for (int64_t i = threadIdx.x; i < row.cols; i += blockDim.x)
            total += (double)g[i];
        total = cuda_block_sum(total);
        if (threadIdx.x == 0)
            ((float *)row.more)[unit - row.first] = (float)(total / (double)row.cols);
    }
}

struct ranger_rule {
    enum { N = 5, WRITES = 4 }; /* p, m, v, slow; g */
    const float *means;         /* of each `cols` values of g; NULL: 0 */
    int64_t cols;
    cpu_ranger_factors f;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_RANGER_N];

        cuda_read_scalars(s, row.scalars, row.f64);
        f = cpu_ranger_factors_of(s);
        means = (const float *)row.more;
        cols = row.cols;
    }
    __device__ bool rests() const { return isnan(f.grad_scale); }
    __device__ void step(float *v, int64_t i) const
    {
        int64_t at;
        const float mean = means ? means[cuda_divide(i, cols, &at)] : 0.0f, c = f.grad_scale * (v[4] - mean);

        v[1] = mix(f.beta1, v[1], f.rest1, c);
        v[2] = mix_square(f.beta2, v[2], f.rest2, c);
        v[0] = fmaf(-f.step, v[1] / fmaf(sqrtf(v[2]), f.of_root, f.below), f.decay * v[0]);
        if (f.sync)
            v[0] = v[3] = fmaf(f.alpha, v[0] - v[3], v[3]);
    }
};

static int64_t centred_rows(const ag_call *call)
{
    return ag_numel(call->in[0]) ? ((const op_ranger_attr *)call->attr)->n_rows : 0;
}

size_t cuda_ranger_scratch(const ag_call *call)
{
    return (size_t)centred_rows(call) * sizeof(float);
}

ag_status cuda_ranger_each(const ag_call *calls, int n)
{
    int64_t n_means = 0, at = 0;
    float *means = NULL;
    ag_status status = AG_OK;
    const auto means_of = [&](const ag_call *call) {
        const int64_t first = at;
        at += centred_rows(call);
        return at > first ? means + first : NULL;
    };
    const auto fill_means = [&](cuda_row<1> *row, const ag_call *call) {
        row->at[0] = cuda_to(call->in[4]);
        row->n = centred_rows(call);
        row->cols = row->n ? ag_numel(call->in[0]) / row->n : 0;
        row->more = means_of(call);
    };
    const auto fill_step = [&](cuda_row<5> *row, const ag_call *call) {
        const int64_t n_rows = centred_rows(call);
        fill_row<5>(row, call);
        row->cols = n_rows ? row->n / n_rows : 0;
        row->more = means_of(call);
    };

    for (int i = 0; i < n; i++)
        n_means += centred_rows(&calls[i]);
    if (n_means) {
        means = (float *)ag_scratch(calls->ctx, (size_t)n_means * sizeof *means);
        if (!means)
            return ag_status_of(calls->ctx);
        const auto units = [](const cuda_row<1> &row) { return row.n; };
        status = cuda_each<cuda_row<1>>(calls, n, fill_means, units, [calls](const auto &list) {
            constexpr int room = sizeof list.row / sizeof *list.row;
            if (list.n_units == 0)
                return AG_OK;
            return cuda_launch(calls, row_means<room>, cuda_unit_blocks(calls, list.n_units), CUDA_THREADS, 0, list);
        });
    }
    at = 0;
    return status == AG_OK ? cuda_step_each<ranger_rule>(calls, n, fill_step) : status;
}

/* --- Prodigy ---------------------------------------------------------------------------------- */

/* One thread. */
static __global__ void prodigy_d(double *state, const void *scalars, int f64, int is_end)
{
    double s[CPU_PRODIGY_N];

    cuda_read_scalars(s, scalars, f64);
    if (is_end)
        cpu_prodigy_end(state, s);
    else
        cpu_prodigy_begin(state, s);
}

ag_status cuda_prodigy_d(ag_call *call)
{
    return cuda_launch(call, prodigy_d, 1, 1, 0, (double *)ag_data(call->in[0]), ag_data(call->in[1]),
                       ag_dtype_of(call->in[1]) == AG_F64, ((const op_prodigy_d_attr *)call->attr)->is_end);
}

struct prodigy_rule {
    enum { N = 6, WRITES = 3 }; /* s, m, v; p, p0, g */
    cpu_prodigy_factors f;
    float dot, size; /* of the elements so far: sums of e (p0 - p) and of |s| */
    int is_resting;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_PRODIGY_N];

        cuda_read_scalars(s, row.scalars, row.f64);
        f = cpu_prodigy_factors_of((const double *)row.more, s);
        dot = size = 0.0f;
        is_resting = !(s[CPU_PRODIGY_LR] > 0.0) || isnan(f.grad_scale);
    }
    __device__ bool rests() const { return is_resting; }
    __device__ void step(float *v, int64_t)
    {
        const float e = fmaf(f.coupled_decay, v[3], f.grad_scale * v[5]);

        v[0] = mix(f.beta3, v[0], f.into_s, e);
        v[1] = mix(f.beta1, v[1], f.into_m, e);
        v[2] = mix_square(f.beta2, v[2], f.into_v, e);
        dot = fmaf(e, v[4] - v[3], dot);
        size += fabsf(v[0]);
    }
};

/* The dot and size of each unit; a block for each. */
template <int ROOM>
static __global__ void prodigy_moments(cuda_pair *parts, const cuda_list<cuda_row<6>, ROOM> __grid_constant__ list)
{
    CUDA_SHARED(prodigy_rule, shared, [1]);
    int known = -1;

    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x) {
        const prodigy_rule rule = cuda_step_unit(list, unit, shared, &known);
        const cuda_pair part = cuda_block_sum_pair({(double)rule.dot, (double)rule.size});
        if (threadIdx.x == 0)
            parts[unit] = part;
    }
}

/* One block. */
static __global__ void prodigy_add(double *state, const cuda_pair *parts, int n_units)
{
    const cuda_pair sum = cuda_block_sum_pairs(parts, n_units);

    if (threadIdx.x == 0) {
        state[CPU_PRODIGY_DOT] += sum.a;
        state[CPU_PRODIGY_DENOMINATOR] += sum.b;
    }
}

size_t cuda_prodigy_moments_scratch(const ag_call *call)
{
    return (size_t)((ag_numel(call->in[1]) + CUDA_UNIT - 1) / CUDA_UNIT) * sizeof(cuda_pair);
}

template <int ROOM>
static ag_status prodigy_list(const ag_call *call, const cuda_list<cuda_row<6>, ROOM> &list)
{
    cuda_pair *parts;
    ag_status status;

    if (list.n_units == 0)
        return AG_OK;
    parts = (cuda_pair *)ag_scratch(call->ctx, (size_t)list.n_units * sizeof *parts);
    if (!parts)
        return ag_status_of(call->ctx);
    status = cuda_launch(call, prodigy_moments<ROOM>, cuda_unit_blocks(call, list.n_units), CUDA_THREADS, 0, parts,
                         list);
    if (status != AG_OK)
        return status;
    return cuda_launch(call, prodigy_add, 1, CUDA_THREADS, 0, (double *)list.row[0].more, (const cuda_pair *)parts,
                       list.n_units);
}

ag_status cuda_prodigy_moments_each(const ag_call *calls, int n)
{
    const auto fill = [](cuda_row<6> *row, const ag_call *call) {
        for (int i = 0; i < 6; i++)
            row->at[i] = cuda_to(call->in[1 + i]);
        row->n = ag_numel(call->in[1]);
        row->more = ag_data(call->in[0]);
        cuda_row_scalars(&row->scalars, &row->f64, call->in[7]);
    };
    ag_status status = AG_OK;

    for (int i = 0, next; i < n && status == AG_OK; i = next) { /* those with the same d */
        for (next = i + 1; next < n && calls[next].in[0] == calls[i].in[0];)
            next++;
        status = cuda_each<cuda_row<6>>(calls + i, next - i, fill, cuda_units_of<6>,
                              [calls](const auto &list) { return prodigy_list(calls, list); });
    }
    return status;
}

struct prodigy_step_rule {
    enum { N = 3, WRITES = 1 }; /* p; m, v */
    cpu_prodigy_step_factors f;
    int is_resting;

    __device__ void begin(const cuda_row<N> &row)
    {
        const double *state = (const double *)row.more;
        double s[CPU_PRODIGY_N];

        cuda_read_scalars(s, row.scalars, row.f64);
        f = cpu_prodigy_step_factors_of(state, s);
        is_resting = !(s[CPU_PRODIGY_LR] > 0.0) || state[CPU_PRODIGY_MOVES] == 0.0;
    }
    __device__ bool rests() const { return is_resting; }
    __device__ void step(float *v, int64_t) const
    {
        v[0] = fmaf(-f.step, v[1] / (sqrtf(v[2]) + f.eps), f.decay * v[0]);
    }
};

ag_status cuda_prodigy_step_each(const ag_call *calls, int n)
{
    return cuda_step_each<prodigy_step_rule>(calls, n, [](cuda_row<3> *row, const ag_call *call) {
        fill_row<3>(row, call);
        row->more = ag_data(call->in[3]);
    });
}
