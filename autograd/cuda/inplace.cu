/* inplace.cu - the CUDA twin of ops/inplace.c.
 *
 * Rates and factors are read on the device, so that a captured step can be repeated with others.
 */
#include "autograd/cpu/optimizer.h"
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

/* y + w (x - y), as PyTorch's lerp: from the other end when w >= 1/2. */
struct lerp_of {
    cuda_floats weight;
    __device__ float operator()(float y, float x) const
    {
        const float w = cuda_load(weight, 0);

        return w < 0.5f ? y + w * (x - y) : x - (x - y) * (1.0f - w);
    }
};

ag_status cuda_lerp_into(ag_call *call)
{
    return cuda_map(call, cuda_to(call->in[0]), cuda_in(call->in[0]), cuda_in(call->in[1]), ag_numel(call->in[0]),
                    lerp_of{cuda_in(call->in[2])});
}

static __global__ void fill(float *y, float value, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        y[i] = value;
}

ag_status cuda_fill(ag_call *call)
{
    return cuda_launch_over(call, ag_numel(call->in[0]), fill, (float *)ag_data(call->in[0]),
                            (float)((const op_fill_attr *)call->attr)->value, ag_numel(call->in[0]));
}

/* --- sums of squares -------------------------------------------------------------------------- */

enum { SQUARE_PIECE = 4096 }; /* elements of one warp */

static int64_t square_pieces(const ag_call *call)
{
    return (ag_numel(call->in[1]) + SQUARE_PIECE - 1) / SQUARE_PIECE;
}

size_t cuda_add_sumsq_scratch(const ag_call *call)
{
    return (size_t)square_pieces(call) * sizeof(double);
}

static __global__ void squares(double *part, cuda_floats x, int64_t n, int64_t n_pieces)
{
    const int64_t n_warps = (int64_t)gridDim.x * (blockDim.x / CUDA_WARP);
    const int lane = threadIdx.x % CUDA_WARP;

    for (int64_t w = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / CUDA_WARP; w < n_pieces; w += n_warps) {
        const int64_t from = w * SQUARE_PIECE, to = from + SQUARE_PIECE < n ? from + SQUARE_PIECE : n;
        double total = 0.0;
        for (int64_t i = from + lane * CUDA_VEC; i < to; i += CUDA_WARP * CUDA_VEC) {
            float v[CUDA_VEC];
            if (i + CUDA_VEC <= n)
                cuda_load8(v, x, i);
            else
                for (int k = 0; k < CUDA_VEC; k++)
                    v[k] = i + k < n ? cuda_load(x, i + k) : 0.0f;
            for (int k = 0; k < CUDA_VEC; k++)
                total += (double)v[k] * (double)v[k];
        }
        total = cuda_warp_sum(total);
        if (lane == 0)
            part[w] = total;
    }
}

/* One block. */
static __global__ void add_pieces(double *sum, const double *part, int64_t n_pieces)
{
    double total = 0.0;

    for (int64_t i = threadIdx.x; i < n_pieces; i += blockDim.x)
        total += part[i];
    total = cuda_block_sum(total);
    if (threadIdx.x == 0)
        *sum += total;
}

ag_status cuda_add_sumsq(ag_call *call)
{
    double *sum = (double *)ag_data(call->in[0]) + ((const op_sumsq_attr *)call->attr)->index;
    const int64_t n_pieces = square_pieces(call);
    double *part;
    ag_status status;

    if (n_pieces == 0)
        return AG_OK;
    part = (double *)ag_scratch(call->ctx, cuda_add_sumsq_scratch(call));
    if (!part)
        return ag_status_of(call->ctx);
    status = cuda_launch_over(call, n_pieces * CUDA_WARP, squares, part, cuda_in(call->in[1]),
                              ag_numel(call->in[1]), n_pieces);
    if (status != AG_OK)
        return status;
    return cuda_launch(call, add_pieces, 1, CUDA_THREADS, 0, sum, (const double *)part, n_pieces);
}

/* --- AdamW ------------------------------------------------------------------------------------ */

struct adamw_factors {
    float grad_scale, decay, beta1, rest1, beta2, rest2, over_root2, eps, step;
};

static __device__ adamw_factors factors_of(const void *scalars, int f64)
{
    double s[CPU_ADAMW_N];
    adamw_factors f;

    for (int i = 0; i < CPU_ADAMW_N; i++)
        s[i] = f64 ? ((const double *)scalars)[i] : (double)((const float *)scalars)[i];
    f.grad_scale = (float)s[CPU_ADAMW_GRAD_SCALE];
    f.decay = (float)(1.0 - s[CPU_ADAMW_LR] * s[CPU_ADAMW_WEIGHT_DECAY]);
    f.beta1 = (float)s[CPU_ADAMW_BETA1];
    f.rest1 = (float)(1.0 - s[CPU_ADAMW_BETA1]);
    f.beta2 = (float)s[CPU_ADAMW_BETA2];
    f.rest2 = (float)(1.0 - s[CPU_ADAMW_BETA2]);
    f.over_root2 = (float)(1.0 / sqrt(s[CPU_ADAMW_CORRECTION2]));
    f.eps = (float)s[CPU_ADAMW_EPS];
    f.step = (float)(s[CPU_ADAMW_LR] / s[CPU_ADAMW_CORRECTION1]);
    return f;
}

/* Only under a scale of 0 (clipping to a norm that overflowed) does g decide whether there is an update. */
static __global__ void find_nonfinite(int *found, const float *g, int64_t n, const void *scalars, int f64)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    if (factors_of(scalars, f64).grad_scale != 0.0f)
        return;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        if ((__float_as_uint(g[i]) & 0x7f800000u) == 0x7f800000u)
            *found = 1;
}

static __device__ __forceinline__ void adamw_one(float *p, float *m, float *v, float g, const adamw_factors &f)
{
    const float gi = f.grad_scale * g, to_g = gi - *m;

    *m = f.rest1 >= 0.5f ? fmaf(-f.beta1, to_g, gi) : fmaf(f.rest1, to_g, *m); /* lerp, as PyTorch */
    *v = fmaf(f.rest2 * gi, gi, f.beta2 * *v);
    *p = fmaf(-f.step, *m / fmaf(sqrtf(*v), f.over_root2, f.eps), f.decay * *p);
}

static __global__ void adamw(float *p, float *m, float *v, const float *g, int64_t n, const void *scalars, int f64,
                             const int *nonfinite, int aligned)
{
    CUDA_SHARED(adamw_factors, shared, [1]);
    const int64_t step = (int64_t)gridDim.x * blockDim.x, whole = aligned ? n / 4 : 0;
    const int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    adamw_factors f;

    if (*nonfinite)
        return;
    if (threadIdx.x == 0)
        shared[0] = factors_of(scalars, f64);
    __syncthreads();
    f = shared[0];
    for (int64_t i = first; i < whole; i += step) {
        float4 pi = ((float4 *)p)[i], mi = ((float4 *)m)[i], vi = ((float4 *)v)[i];
        const float4 gi = ((const float4 *)g)[i];
        adamw_one(&pi.x, &mi.x, &vi.x, gi.x, f);
        adamw_one(&pi.y, &mi.y, &vi.y, gi.y, f);
        adamw_one(&pi.z, &mi.z, &vi.z, gi.z, f);
        adamw_one(&pi.w, &mi.w, &vi.w, gi.w, f);
        ((float4 *)p)[i] = pi;
        ((float4 *)m)[i] = mi;
        ((float4 *)v)[i] = vi;
    }
    for (int64_t i = 4 * whole + first; i < n; i += step)
        adamw_one(p + i, m + i, v + i, g[i], f);
}

size_t cuda_adamw_scratch(const ag_call *call)
{
    (void)call;
    return sizeof(int);
}

ag_status cuda_adamw(ag_call *call)
{
    float *p = (float *)ag_data(call->in[0]), *m = (float *)ag_data(call->in[1]);
    float *v = (float *)ag_data(call->in[2]);
    const float *g = (const float *)ag_data(call->in[3]);
    const void *scalars = ag_data(call->in[4]);
    const int f64 = ag_dtype_of(call->in[4]) == AG_F64;
    const int aligned = cuda_aligned(p) && cuda_aligned(m) && cuda_aligned(v) && cuda_aligned(g);
    const int64_t n = ag_numel(call->in[0]);
    int *found = (int *)ag_scratch(call->ctx, cuda_adamw_scratch(call));
    cudaError_t error;
    ag_status status;

    if (!found)
        return ag_status_of(call->ctx);
    error = cudaMemsetAsync(found, 0, sizeof *found, ag_cuda_of(call->ctx)->stream);
    if (error != cudaSuccess)
        return cuda_failed(ag_cuda_of(call->ctx), call->op->name, error);
    status = cuda_launch_over(call, n, find_nonfinite, found, g, n, scalars, f64);
    if (status != AG_OK)
        return status;
    return cuda_launch_over(call, (n + 3) / 4, adamw, p, m, v, g, n, scalars, f64, (const int *)found, aligned);
}
