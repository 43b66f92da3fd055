/* optimizer.cu - the CUDA twin of ops/optimizer.c: steps of many tensors by one kernel.
 *
 * The numbers of an update are read on the device, so that a captured update can be repeated with others. Rounding
 * happens at the places of the CPU's kernels (autograd/cpu/optimizer_kernel.inc.h).
 */
#include "autograd/cpu/optimizer.h"
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
    float grad_scale, decay, beta1, rest1, beta2, rest2, over_root2, eps, step_size;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_ADAMW_N];

        for (int i = 0; i < CPU_ADAMW_N; i++)
            s[i] = cuda_scalar(row.scalars, row.f64, i);
        grad_scale = (float)s[CPU_ADAMW_GRAD_SCALE];
        decay = (float)(1.0 - s[CPU_ADAMW_LR] * s[CPU_ADAMW_WEIGHT_DECAY]);
        beta1 = (float)s[CPU_ADAMW_BETA1];
        rest1 = (float)(1.0 - s[CPU_ADAMW_BETA1]);
        beta2 = (float)s[CPU_ADAMW_BETA2];
        rest2 = (float)(1.0 - s[CPU_ADAMW_BETA2]);
        over_root2 = (float)(1.0 / sqrt(s[CPU_ADAMW_CORRECTION2]));
        eps = (float)s[CPU_ADAMW_EPS];
        step_size = (float)(s[CPU_ADAMW_LR] / s[CPU_ADAMW_CORRECTION1]);
    }
    __device__ bool rests() const { return isnan(grad_scale); }
    __device__ void step(float *v, int64_t) const
    {
        const float g = grad_scale * v[3], to_g = g - v[1];

        v[1] = rest1 >= 0.5f ? fmaf(-beta1, to_g, g) : fmaf(rest1, to_g, v[1]); /* lerp, as PyTorch */
        v[2] = mix_square(beta2, v[2], rest2, g);
        v[0] = fmaf(-step_size, v[1] / fmaf(sqrtf(v[2]), over_root2, eps), decay * v[0]);
    }
};

ag_status cuda_adamw_each(const ag_call *calls, int n)
{
    return cuda_step_each<adamw_rule>(calls, n, fill_row<4>);
}

/* --- SGD -------------------------------------------------------------------------------------- */

struct sgd_rule {
    enum { N = 3, WRITES = 2 }; /* p, buffer or nothing; g */
    float grad_scale, decay, momentum, into_buffer, lr, of_gradient, of_buffer;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_SGD_N];
        const bool has_buffer = row.at[1].data != NULL;

        for (int i = 0; i < CPU_SGD_N; i++)
            s[i] = cuda_scalar(row.scalars, row.f64, i);
        grad_scale = (float)s[CPU_SGD_GRAD_SCALE];
        decay = (float)s[CPU_SGD_WEIGHT_DECAY];
        momentum = (float)s[CPU_SGD_MOMENTUM];
        into_buffer = (float)s[CPU_SGD_INTO_BUFFER];
        lr = (float)s[CPU_SGD_LR];
        of_gradient = !has_buffer || s[CPU_SGD_NESTEROV] != 0.0 ? 1.0f : 0.0f;
        of_buffer = !has_buffer ? 0.0f : s[CPU_SGD_NESTEROV] != 0.0 ? momentum : 1.0f;
    }
    __device__ bool rests() const { return isnan(grad_scale); }
    __device__ void step(float *v, int64_t) const
    {
        const float d = fmaf(decay, v[0], grad_scale * v[2]);

        v[1] = mix(momentum, v[1], into_buffer, d);
        v[0] = fmaf(-lr, mix(of_gradient, d, of_buffer, v[1]), v[0]);
    }
};

ag_status cuda_sgd_each(const ag_call *calls, int n)
{
    return cuda_step_each<sgd_rule>(calls, n, fill_row<3>);
}

/* --- Lion ------------------------------------------------------------------------------------- */

struct lion_rule {
    enum { N = 3, WRITES = 2 }; /* p, m; g */
    float grad_scale, decay, beta1, rest1, beta2, rest2, lr;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_LION_N];

        for (int i = 0; i < CPU_LION_N; i++)
            s[i] = cuda_scalar(row.scalars, row.f64, i);
        grad_scale = (float)s[CPU_LION_GRAD_SCALE];
        decay = (float)(1.0 - s[CPU_LION_LR] * s[CPU_LION_WEIGHT_DECAY]);
        beta1 = (float)s[CPU_LION_BETA1];
        rest1 = (float)(1.0 - s[CPU_LION_BETA1]);
        beta2 = (float)s[CPU_LION_BETA2];
        rest2 = (float)(1.0 - s[CPU_LION_BETA2]);
        lr = (float)s[CPU_LION_LR];
    }
    __device__ bool rests() const { return isnan(grad_scale); }
    __device__ void step(float *v, int64_t) const
    {
        const float g = grad_scale * v[2], c = mix(beta1, v[1], rest1, g);

        v[1] = mix(beta2, v[1], rest2, g);
        v[0] = decay * v[0] - (c > 0.0f ? lr : c < 0.0f ? -lr : 0.0f);
    }
};

ag_status cuda_lion_each(const ag_call *calls, int n)
{
    return cuda_step_each<lion_rule>(calls, n, fill_row<3>);
}

/* --- Ranger ----------------------------------------------------------------------------------- */

/* The mean of every row of g; a block for each. */
template <int ROOM>
static __global__ void row_means(const cuda_list<1, ROOM> __grid_constant__ list)
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
    float grad_scale, decay, beta1, rest1, beta2, rest2, step_size, alpha, of_root, below;
    int sync, unused;

    __device__ void begin(const cuda_row<N> &row)
    {
        double s[CPU_RANGER_N];
        bool rectified;

        for (int i = 0; i < CPU_RANGER_N; i++)
            s[i] = cuda_scalar(row.scalars, row.f64, i);
        rectified = s[CPU_RANGER_RECTIFIED] != 0.0;
        means = (const float *)row.more;
        cols = row.cols;
        grad_scale = (float)s[CPU_RANGER_GRAD_SCALE];
        decay = (float)(1.0 - s[CPU_RANGER_LR] * s[CPU_RANGER_WEIGHT_DECAY]);
        beta1 = (float)s[CPU_RANGER_BETA1];
        rest1 = (float)(1.0 - s[CPU_RANGER_BETA1]);
        beta2 = (float)s[CPU_RANGER_BETA2];
        rest2 = (float)(1.0 - s[CPU_RANGER_BETA2]);
        step_size = (float)(s[CPU_RANGER_LR] * s[CPU_RANGER_RATIO]);
        alpha = (float)s[CPU_RANGER_ALPHA];
        of_root = rectified ? 1.0f : 0.0f;
        below = rectified ? (float)s[CPU_RANGER_EPS] : 1.0f;
        sync = s[CPU_RANGER_SYNC] != 0.0;
    }
    __device__ bool rests() const { return isnan(grad_scale); }
    __device__ void step(float *v, int64_t i) const
    {
        int64_t at;
        const float mean = means ? means[cuda_divide(i, cols, &at)] : 0.0f, c = grad_scale * (v[4] - mean);

        v[1] = mix(beta1, v[1], rest1, c);
        v[2] = mix_square(beta2, v[2], rest2, c);
        v[0] = fmaf(-step_size, v[1] / fmaf(sqrtf(v[2]), of_root, below), decay * v[0]);
        if (sync)
            v[0] = v[3] = fmaf(alpha, v[0] - v[3], v[3]);
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
        status = cuda_each<1>(calls, n, fill_means, [](const cuda_row<1> &row) { return row.n; },
                              [calls](const auto &list) {
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

static __device__ void prodigy_begin(double *state, const double *s)
{
    const double next = state[CPU_PRODIGY_K] + 1.0;
    double correction = 1.0;

    if (s[CPU_PRODIGY_BIAS_CORRECTION] != 0.0)
        correction = sqrt(1.0 - pow(s[CPU_PRODIGY_BETA2], next)) / (1.0 - pow(s[CPU_PRODIGY_BETA1], next));
    state[CPU_PRODIGY_DLR] = state[CPU_PRODIGY_D] * s[CPU_PRODIGY_LR] * correction;
    state[CPU_PRODIGY_DOT] = 0.0;
    state[CPU_PRODIGY_DENOMINATOR] = 0.0;
    state[CPU_PRODIGY_MOVES] = 0.0;
}

static __device__ void prodigy_end(double *state, const double *s)
{
    const double d0 = s[CPU_PRODIGY_D0];
    double d = state[CPU_PRODIGY_D], estimate;

    if (state[CPU_PRODIGY_DENOMINATOR] == 0.0)
        return;
    state[CPU_PRODIGY_NUMERATOR] = s[CPU_PRODIGY_BETA3] * state[CPU_PRODIGY_NUMERATOR] +
                                   d / d0 * state[CPU_PRODIGY_DLR] * state[CPU_PRODIGY_DOT];
    estimate = s[CPU_PRODIGY_D_COEF] * state[CPU_PRODIGY_NUMERATOR] / state[CPU_PRODIGY_DENOMINATOR];
    if (d == d0)
        d = fmax(d, estimate);
    state[CPU_PRODIGY_D_MAX] = fmax(state[CPU_PRODIGY_D_MAX], estimate);
    state[CPU_PRODIGY_D] = fmin(state[CPU_PRODIGY_D_MAX], s[CPU_PRODIGY_GROWTH_RATE] * d);
    state[CPU_PRODIGY_K] += 1.0;
    state[CPU_PRODIGY_MOVES] = 1.0;
}

/* One thread. */
static __global__ void prodigy_d(double *state, const void *scalars, int f64, int is_end)
{
    double s[CPU_PRODIGY_N];

    for (int i = 0; i < CPU_PRODIGY_N; i++)
        s[i] = cuda_scalar(scalars, f64, i);
    if (is_end)
        prodigy_end(state, s);
    else
        prodigy_begin(state, s);
}

ag_status cuda_prodigy_d(ag_call *call)
{
    return cuda_launch(call, prodigy_d, 1, 1, 0, (double *)ag_data(call->in[0]), ag_data(call->in[1]),
                       ag_dtype_of(call->in[1]) == AG_F64, ((const op_prodigy_d_attr *)call->attr)->is_end);
}

struct prodigy_rule {
    enum { N = 6, WRITES = 3 }; /* s, m, v; p, p0, g */
    float grad_scale, coupled_decay, beta1, into_m, beta2, into_v, beta3, into_s;
    float dot, size; /* of the elements so far: sums of e (p0 - p) and of |s| */
    int is_resting;

    __device__ void begin(const cuda_row<N> &row)
    {
        const double *state = (const double *)row.more, d = state[CPU_PRODIGY_D];
        double s[CPU_PRODIGY_N];

        for (int i = 0; i < CPU_PRODIGY_N; i++)
            s[i] = cuda_scalar(row.scalars, row.f64, i);
        grad_scale = (float)s[CPU_PRODIGY_GRAD_SCALE];
        coupled_decay = s[CPU_PRODIGY_DECOUPLE] == 0.0 ? (float)s[CPU_PRODIGY_WEIGHT_DECAY] : 0.0f;
        beta1 = (float)s[CPU_PRODIGY_BETA1];
        into_m = (float)(d * (1.0 - s[CPU_PRODIGY_BETA1]));
        beta2 = (float)s[CPU_PRODIGY_BETA2];
        into_v = (float)(d * d * (1.0 - s[CPU_PRODIGY_BETA2]));
        beta3 = (float)s[CPU_PRODIGY_BETA3];
        into_s = (float)(d / s[CPU_PRODIGY_D0] *
                         (s[CPU_PRODIGY_SAFEGUARD_WARMUP] != 0.0 ? d : state[CPU_PRODIGY_DLR]));
        dot = size = 0.0f;
        is_resting = !(s[CPU_PRODIGY_LR] > 0.0) || isnan(s[CPU_PRODIGY_GRAD_SCALE]);
    }
    __device__ bool rests() const { return is_resting; }
    __device__ void step(float *v, int64_t)
    {
        const float e = fmaf(coupled_decay, v[3], grad_scale * v[5]);

        v[0] = mix(beta3, v[0], into_s, e);
        v[1] = mix(beta1, v[1], into_m, e);
        v[2] = mix_square(beta2, v[2], into_v, e);
        dot = fmaf(e, v[4] - v[3], dot);
        size += fabsf(v[0]);
    }
};

/* parts[unit] = its dot and size; a block for each unit. */
template <int ROOM>
static __global__ void prodigy_moments(double *parts, const cuda_list<6, ROOM> __grid_constant__ list)
{
    CUDA_SHARED(prodigy_rule, shared, [1]);
    int known = -1;

    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x) {
        const prodigy_rule rule = cuda_step_unit(list, unit, shared, &known);
        const double dot = cuda_block_sum((double)rule.dot), size = cuda_block_sum((double)rule.size);
        if (threadIdx.x == 0) {
            parts[2 * unit] = dot;
            parts[2 * unit + 1] = size;
        }
    }
}

/* One block. */
static __global__ void prodigy_add(double *state, const double *parts, int n_units)
{
    double dot = 0.0, size = 0.0;

    for (int i = threadIdx.x; i < n_units; i += blockDim.x) {
        dot += parts[2 * i];
        size += parts[2 * i + 1];
    }
    dot = cuda_block_sum(dot);
    size = cuda_block_sum(size);
    if (threadIdx.x == 0) {
        state[CPU_PRODIGY_DOT] += dot;
        state[CPU_PRODIGY_DENOMINATOR] += size;
    }
}

size_t cuda_prodigy_moments_scratch(const ag_call *call)
{
    return (size_t)((ag_numel(call->in[1]) + CUDA_UNIT - 1) / CUDA_UNIT) * 2 * sizeof(double);
}

template <int ROOM>
static ag_status prodigy_list(const ag_call *call, const cuda_list<6, ROOM> &list)
{
    double *parts;
    ag_status status;

    if (list.n_units == 0)
        return AG_OK;
    parts = (double *)ag_scratch(call->ctx, (size_t)list.n_units * 2 * sizeof(double));
    if (!parts)
        return ag_status_of(call->ctx);
    status = cuda_launch(call, prodigy_moments<ROOM>, cuda_unit_blocks(call, list.n_units), CUDA_THREADS, 0, parts,
                         list);
    if (status != AG_OK)
        return status;
    return cuda_launch(call, prodigy_add, 1, CUDA_THREADS, 0, (double *)list.row[0].more, (const double *)parts,
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
        status = cuda_each<6>(calls + i, next - i, fill, cuda_units_of<6>,
                              [calls](const auto &list) { return prodigy_list(calls, list); });
    }
    return status;
}

struct prodigy_step_rule {
    enum { N = 3, WRITES = 1 }; /* p; m, v */
    float decay, step_size, eps;
    int is_resting;

    __device__ void begin(const cuda_row<N> &row)
    {
        const double *state = (const double *)row.more, dlr = state[CPU_PRODIGY_DLR];
        double s[CPU_PRODIGY_N];

        for (int i = 0; i < CPU_PRODIGY_N; i++)
            s[i] = cuda_scalar(row.scalars, row.f64, i);
        decay = (float)(1.0 - (s[CPU_PRODIGY_DECOUPLE] != 0.0 ? s[CPU_PRODIGY_WEIGHT_DECAY] * dlr : 0.0));
        step_size = (float)dlr;
        eps = (float)(state[CPU_PRODIGY_D] * s[CPU_PRODIGY_EPS]);
        is_resting = !(s[CPU_PRODIGY_LR] > 0.0) || state[CPU_PRODIGY_MOVES] == 0.0;
    }
    __device__ bool rests() const { return is_resting; }
    __device__ void step(float *v, int64_t) const
    {
        v[0] = fmaf(-step_size, v[1] / (sqrtf(v[2]) + eps), decay * v[0]);
    }
};

ag_status cuda_prodigy_step_each(const ag_call *calls, int n)
{
    return cuda_step_each<prodigy_step_rule>(calls, n, [](cuda_row<3> *row, const ag_call *call) {
        fill_row<3>(row, call);
        row->more = ag_data(call->in[3]);
    });
}
