/* unary.cu - the CUDA twin of ops/unary.c. */
#include "autograd/cuda/device.cuh"

/* --- functions and their derivatives up to the third ------------------------------------------ */

static __device__ __forceinline__ float logistic(float x, int order)
{
    const float e = expf(-fabsf(x)), high = 1.0f / (1.0f + e), low = e * high; /* of |x| and of -|x| */
    const float s = x < 0.0f ? low : high, t = high * low;

    return order == 0 ? s : order == 1 ? t : order == 2 ? t * (1.0f - 2.0f * s) : t * (1.0f - 6.0f * t);
}

/* x sigmoid(k x) */
static __device__ __forceinline__ float gated(float x, float k, int order)
{
    const float below = order == 0 ? 0.0f : (float)order * logistic(k * x, order - 1);
    const float power = order < 2 ? 1.0f : order == 2 ? k : k * k; /* k^(order - 1) */

    return order == 0 ? x * logistic(k * x, 0) : power * (k * x * logistic(k * x, order) + below);
}

static __device__ __forceinline__ float gelu(float x, int order)
{
    const float cdf = 0.5f * erfcf(-x * 0.70710678f), pdf = expf(-0.5f * x * x) * 0.39894228f;

    return order == 0   ? x * cdf
           : order == 1 ? cdf + x * pdf
           : order == 2 ? pdf * (2.0f - x * x)
                        : pdf * (x * x - 4.0f) * x;
}

/* (d/dx)^order of x^p */
static __device__ __forceinline__ float power(float x, float p, int order)
{
    float factor = 1.0f;

    for (int i = 0; i < order; i++)
        factor *= p - (float)i;
    return factor == 0.0f ? 0.0f : factor * powf(x, p - (float)order);
}

static __device__ __forceinline__ float hyperbolic_tangent(float x, int order)
{
    const float t = tanhf(x), u = 1.0f - t * t;

    return order == 0 ? t : order == 1 ? u : order == 2 ? -2.0f * t * u : u * (4.0f - 6.0f * u);
}

static __device__ __forceinline__ float wave(float x, int quarter) /* sin(x + quarter pi / 2) */
{
    const float v = quarter & 1 ? cosf(x) : sinf(x);

    return quarter & 2 ? -v : v;
}

template <int KIND>
static __device__ __forceinline__ float value(float x, int order, float p)
{
    switch (KIND) {
    case AG_SILU: return gated(x, 1.0f, order);
    case AG_GELU: return gelu(x, order);
    case AG_QUICK_GELU: return gated(x, 1.702f, order);
    case AG_SIGMOID: return logistic(x, order);
    case AG_TANH: return hyperbolic_tangent(x, order);
    case AG_EXP: return expf(x);
    case AG_LOG: return order == 0 ? logf(x) : power(x, -1.0f, order - 1);
    case AG_SQRT: return order == 0 ? sqrtf(x) : power(x, 0.5f, order);
    case AG_RSQRT: return order == 0 ? 1.0f / sqrtf(x) : power(x, -0.5f, order);
    case AG_RECIPROCAL: return order == 0 ? 1.0f / x : power(x, -1.0f, order);
    case AG_SQUARE: return order == 0 ? x * x : order == 1 ? 2.0f * x : order == 2 ? 2.0f : 0.0f;
    case AG_ABS: return order == 0 ? fabsf(x) : order > 1 ? 0.0f : x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x;
    case AG_RELU: return order == 0 ? (x < 0.0f ? 0.0f : x) : order == 1 && x > 0.0f ? 1.0f : 0.0f;
    case AG_LEAKY_RELU: return order > 1 ? 0.0f : (x > 0.0f ? 1.0f : p) * (order == 0 ? x : 1.0f);
    case AG_POW: return power(x, p, order);
    case AG_SIN: return wave(x, order);
    case AG_COS: return wave(x, order + 1);
    case AG_SOFTPLUS:
        return order == 0 ? log1pf(expf(-fabsf(x))) + (x < 0.0f ? 0.0f : x) : logistic(x, order - 1);
    }
    return x;
}

/* --- unary ------------------------------------------------------------------------------------ */

template <int KIND>
struct unary_of {
    int order, times_d;
    float parameter;
    __device__ float operator()(float x, float d) const
    {
        const float f = value<KIND>(x, order, parameter);

        return times_d ? d * f : f;
    }
};

template <int KIND>
static ag_status run_unary(const ag_call *call)
{
    const op_unary_attr *a = (const op_unary_attr *)call->attr;
    const unary_of<KIND> f = {a->order, call->in[1] != NULL, (float)a->parameter};

    return cuda_map(call, cuda_to(call->out[0]), cuda_in(call->in[0]), cuda_in(call->in[1]),
                    ag_numel(call->out[0]), f);
}

ag_status cuda_unary(ag_call *call)
{
    static ag_status (*const RUN[AG_N_UNARY])(const ag_call *) = {
        run_unary<AG_SILU>, run_unary<AG_GELU>, run_unary<AG_QUICK_GELU>, run_unary<AG_SIGMOID>,
        run_unary<AG_TANH>, run_unary<AG_EXP>,  run_unary<AG_LOG>,        run_unary<AG_SQRT>,
        run_unary<AG_RSQRT>, run_unary<AG_RECIPROCAL>, run_unary<AG_SQUARE>, run_unary<AG_ABS>,
        run_unary<AG_RELU>, run_unary<AG_LEAKY_RELU>, run_unary<AG_POW>, run_unary<AG_SIN>,
        run_unary<AG_COS>, run_unary<AG_SOFTPLUS>,
    };

    return RUN[((const op_unary_attr *)call->attr)->kind](call);
}

/* --- affine, clamp ---------------------------------------------------------------------------- */

struct affine_of {
    float a, b;
    __device__ float operator()(float x, float) const { return a * x + b; }
};

ag_status cuda_affine(ag_call *call)
{
    const op_affine_attr *a = (const op_affine_attr *)call->attr;

    return cuda_map(call, cuda_to(call->out[0]), cuda_in(call->in[0]), cuda_in(NULL), ag_numel(call->out[0]),
                    affine_of{(float)a->a, (float)a->b});
}

struct clamp_of {
    float low, high;
    __device__ float operator()(float x, float) const { return x < low ? low : x > high ? high : x; }
};

ag_status cuda_clamp(ag_call *call)
{
    const op_clamp_attr *a = (const op_clamp_attr *)call->attr;

    return cuda_map(call, cuda_to(call->out[0]), cuda_in(call->in[0]), cuda_in(NULL), ag_numel(call->out[0]),
                    clamp_of{(float)a->low, (float)a->high});
}

struct inside {
    float low, high;
    __device__ float operator()(float x, float d) const { return x >= low && x <= high ? d : 0.0f; }
};

ag_status cuda_clamp_backward(ag_call *call)
{
    const op_clamp_attr *a = (const op_clamp_attr *)call->attr;

    return cuda_map(call, cuda_to(call->out[0]), cuda_in(call->in[0]), cuda_in(call->in[1]),
                    ag_numel(call->out[0]), inside{(float)a->low, (float)a->high});
}
