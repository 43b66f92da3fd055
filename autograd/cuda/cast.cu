/* cast.cu - the CUDA twin of ops/cast.c. */
#include "autograd/cuda/device.cuh"
#include "autograd/cuda/gemm.h"

struct same {
    __device__ float operator()(float x, float) const { return x; }
};

/* f64 to f32 so that rounding once more to fewer bits is right: truncated, and odd when inexact. */
static __device__ float round_to_odd(double x)
{
    float f = (float)x;

    if (x == x && (double)f != x) {
        unsigned bits = __float_as_uint(f);
        if (fabs((double)f) > fabs(x))
            bits--;
        f = __uint_as_float(bits | 1u);
    }
    return f;
}

static __device__ double get(const void *x, int dtype, int64_t i)
{
    switch (dtype) {
    case AG_F32: return ((const float *)x)[i];
    case AG_BF16: return cuda_of_bf16(((const unsigned short *)x)[i]);
    case AG_F16: return cuda_of_f16(((const unsigned short *)x)[i]);
    case AG_F64: return ((const double *)x)[i];
    case AG_I64: return (double)((const int64_t *)x)[i];
    case AG_I32: return ((const int32_t *)x)[i];
    default: return ((const uint8_t *)x)[i];
    }
}

/* Truncated towards zero; NaN gives 0. high is the first double that is too large. */
static __device__ int64_t integer(double x, double low, double high, int64_t least_value, int64_t most_value)
{
    return x != x ? 0 : x <= low ? least_value : x >= high ? most_value : (int64_t)x;
}

static __device__ void put(void *y, int dtype, int64_t i, double x)
{
    switch (dtype) {
    case AG_F32: ((float *)y)[i] = (float)x; break;
    case AG_BF16: ((unsigned short *)y)[i] = (unsigned short)cuda_to_bf16(round_to_odd(x)); break;
    case AG_F16: ((unsigned short *)y)[i] = (unsigned short)cuda_to_f16(round_to_odd(x)); break;
    case AG_F64: ((double *)y)[i] = x; break;
    case AG_I64:
        ((int64_t *)y)[i] = integer(x, -9223372036854775808.0, 9223372036854775808.0, INT64_MIN, INT64_MAX);
        break;
    case AG_I32:
        ((int32_t *)y)[i] = (int32_t)integer(x, -2147483648.0, 2147483647.0, INT32_MIN, INT32_MAX);
        break;
    default: ((uint8_t *)y)[i] = (uint8_t)integer(x, 0, 255, 0, 255); break;
    }
}

static __global__ void cast_any(void *y, int to, const void *x, int from, int64_t n)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        put(y, to, i, get(x, from, i));
}

static bool is_short(ag_dtype dtype) /* one that kernels read as f32 */
{
    return dtype == AG_F32 || dtype == AG_BF16 || dtype == AG_F16;
}

ag_status cuda_cast_values(const ag_call *call, void *to, ag_dtype to_type, const void *from, ag_dtype from_type,
                           int64_t n)
{
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    cudaError_t error;

    if (to == from || n == 0)
        return AG_OK;
    if (to_type == from_type) {
        error = cudaMemcpyAsync(to, from, (size_t)n * ag_dtype_size(to_type), cudaMemcpyDefault, cuda->stream);
        return error == cudaSuccess ? AG_OK : cuda_failed(cuda, call->op->name, error);
    }
    if (is_short(to_type) && is_short(from_type))
        return cuda_map(call, cuda_out{to, to_type, cuda_aligned(to)},
                        cuda_floats{from, from_type, cuda_aligned(from)}, cuda_floats{}, n, same());
    return cuda_launch_over(call, n, cast_any, to, (int)to_type, from, (int)from_type, n);
}

static ag_status copy_values(const ag_call *call, const ag_tensor *y, const ag_tensor *x)
{
    return cuda_cast_values(call, ag_data(y), ag_dtype_of(y), ag_data(x), ag_dtype_of(x), ag_numel(y));
}

ag_status cuda_cast(ag_call *call)
{
    return copy_values(call, call->out[0], call->in[0]);
}

ag_status cuda_copy(ag_call *call)
{
    return copy_values(call, call->in[0], call->in[1]);
}
