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
