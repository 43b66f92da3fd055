/* adamw8bit.cu - AdamW whose moments are codes: blocks of 256 values, one of threads for each (../cpu/adamw8bit.h). */
#include "autograd/cpu/adamw8bit.h"
#include "autograd/cpu/optimizer_factors.h"
#include "autograd/cuda/list.cuh"
#include "autograd/cuda/reduce.cuh"

enum { BLOCK = CPU_ADAMW8BIT_BLOCK, ZERO = 127 /* the code of 0 among those with a sign */ };

/* What each code stands for, rising. */
struct code_values {
    float m[256], v[256];
};

/* How many of n rising magnitudes lie below the nearest one to x. */
static __device__ int nearest(float x, const float *magnitude, int n)
{
    int low = 0, high = n - 1;

    while (low < high) {
        const int middle = (low + high) / 2;
        if (x > 0.5f * (magnitude[middle] + magnitude[middle + 1]))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static __device__ unsigned char signed_code(float x, const float *values)
{
    const int code = nearest(fabsf(x), values + ZERO, 256 - ZERO);

    return (unsigned char)(x < 0.0f ? ZERO - (code < ZERO ? code : ZERO) : ZERO + code);
}

static __device__ cpu_adamw_factors factors_of(const void *scalars, int f64)
{
    double s[CPU_ADAMW_N];

    cuda_read_scalars(s, scalars, f64);
    return cpu_adamw8bit_factors_of(s);
}

/* Where element i of the blocks' order [rows, channels, taps] is kept: [rows, taps, channels]. */
static __device__ int64_t kept_at(int64_t i, int64_t channels, int64_t taps)
{
    int64_t in_row, tap;
    const int64_t row = cuda_divide(i, channels * taps, &in_row), channel = cuda_divide(in_row, taps, &tap);

    return (row * taps + tap) * channels + channel;
}

/* The places of a call's tensors in its row. */
enum { P, G, M, M_MAX, V, V_MAX, N_TENSORS };

/* A block of values by a block of threads; lanes behind the end bring zeros. */
static __device__ void step_block(const cuda_row<N_TENSORS> &row, int block, const cpu_adamw_factors &f,
                                  const float *m_values, const float *v_values)
{
    const int64_t i = (int64_t)block * BLOCK + threadIdx.x, taps = (int64_t)row.value;
    const bool is_in = i < row.n;
    const int64_t at = !is_in ? 0 : taps > 1 ? kept_at(i, row.cols, taps) : i;
    float *p = (float *)row.at[P].data, *m_max = (float *)row.at[M_MAX].data, *v_max = (float *)row.at[V_MAX].data;
    const float *g = (const float *)row.at[G].data;
    unsigned char *m_code = (unsigned char *)row.at[M].data, *v_code = (unsigned char *)row.at[V].data;
    float m = 0.0f, v = 0.0f, m_top, v_top;

    if (is_in) {
        const float gi = f.grad_scale * g[at];
        m = fmaf(f.rest1, gi, f.beta1 * (m_values[m_code[i]] * m_max[block]));
        v = fmaf(f.rest2 * gi, gi, f.beta2 * (v_values[v_code[i]] * v_max[block]));
        p[at] = f.decay * fmaf(-f.step, m / (sqrtf(v) + f.eps), p[at]);
    }
    m_top = cuda_block_max(fabsf(m));
    v_top = cuda_block_max(fabsf(v));
    if (is_in) {
        m_code[i] = signed_code(m / (m_top > 0.0f ? m_top : 1.0f), m_values);
        v_code[i] = (unsigned char)nearest(v / (v_top > 0.0f ? v_top : 1.0f), v_values, 256);
    }
    if (threadIdx.x == 0) {
        m_max[block] = m_top;
        v_max[block] = v_top;
    }
}

template <int ROOM>
static __global__ void adamw8bit(const code_values __grid_constant__ codes,
                                 const cuda_list<cuda_row<N_TENSORS>, ROOM> __grid_constant__ list)
{
    CUDA_SHARED(float, m_values, [256]);
    CUDA_SHARED(float, v_values, [256]);
    CUDA_SHARED(cpu_adamw_factors, shared, [1]);
    int known = -1;

    m_values[threadIdx.x] = codes.m[threadIdx.x];
    v_values[threadIdx.x] = codes.v[threadIdx.x];
    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x) {
        const int r = cuda_row_at(list, unit);
        const cuda_row<N_TENSORS> &row = list.row[r];
        __syncthreads(); /* the last row's numbers may still be read */
        if (r != known && threadIdx.x == 0)
            shared[0] = factors_of(row.scalars, row.f64);
        __syncthreads();
        known = r;
        if (!isnan(shared[0].grad_scale))
            step_block(row, unit - row.first, shared[0], m_values, v_values);
    }
}

ag_status cuda_adamw8bit_each(const ag_call *calls, int n)
{
    static const int inputs[N_TENSORS] = {0, 5, 1, 2, 3, 4}; /* in the order P, G, M, M_MAX, V, V_MAX */
    const auto fill = [](cuda_row<N_TENSORS> *row, const ag_call *call) {
        const op_adamw8bit_attr *a = (const op_adamw8bit_attr *)call->attr;
        for (int i = 0; i < N_TENSORS; i++)
            row->at[i] = cuda_to(call->in[inputs[i]]);
        row->n = ag_numel(call->in[0]);
        row->cols = a->channels;
        row->value = (double)a->taps;
        cuda_row_scalars(&row->scalars, &row->f64, call->in[6]);
    };
    const auto units = [](const cuda_row<N_TENSORS> &row) { return (row.n + BLOCK - 1) / BLOCK; };
    code_values codes;

    memcpy(codes.m, cpu_adamw8bit_codes(true), sizeof codes.m);
    memcpy(codes.v, cpu_adamw8bit_codes(false), sizeof codes.v);
    return cuda_each<cuda_row<N_TENSORS>>(calls, n, fill, units, [&](const auto &list) {
        constexpr int room = sizeof list.row / sizeof *list.row;
        if (list.n_units == 0)
            return AG_OK;
        return cuda_launch(calls, adamw8bit<room>, cuda_blocks(calls, list.n_units * (int64_t)BLOCK, BLOCK), BLOCK, 0,
                           codes, list);
    });
}
