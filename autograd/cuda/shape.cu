/* shape.cu - the CUDA twin of ops/shape.c. */
#include "autograd/cuda/walk.cuh"

struct same {
    __device__ float operator()(float x, float) const { return x; }
};

static int64_t product(const int64_t *dims, int from, int to)
{
    int64_t n = 1;

    for (int i = from; i < to; i++)
        n *= dims[i];
    return n;
}

/* --- permute, broadcast ----------------------------------------------------------------------- */

static ag_status gather(const ag_call *call, const int64_t *steps)
{
    const ag_tensor *y = call->out[0];

    return cuda_walk_over(call, cuda_to(y), cuda_in(call->in[0]), cuda_in(NULL),
                          cuda_walk_of(ag_ndim(y), ag_dims(y), steps, NULL), ag_numel(y), same());
}

ag_status cuda_permute(ag_call *call)
{
    const int *axes = ((const op_permute_attr *)call->attr)->axes;
    const ag_tensor *x = call->in[0];
    int64_t steps[AG_MAX_DIMS];

    for (int j = 0; j < ag_ndim(x); j++)
        steps[j] = product(ag_dims(x), axes[j] + 1, ag_ndim(x));
    return gather(call, steps);
}

ag_status cuda_broadcast(ag_call *call)
{
    const ag_tensor *x = call->in[0];
    const int lead = ag_ndim(call->out[0]) - ag_ndim(x);
    int64_t steps[AG_MAX_DIMS] = {0};

    cuda_stretched_steps(steps + lead, ag_ndim(x), ag_dims(x));
    return gather(call, steps);
}

/* --- rows: slice, unslice, concat ------------------------------------------------------------- */

/* y[o * y_stride + i] = x[o * x_stride + i] for o < outer, i < inner */
template <typename T>
static __global__ void copy_rows(T *y, int64_t y_stride, const T *x, int64_t x_stride, int64_t outer, int64_t inner)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x, n = outer * inner;

    for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < n; at += step) {
        int64_t i;
        const int64_t o = cuda_divide(at, inner, &i);
        y[o * y_stride + i] = x[o * x_stride + i];
    }
}

/* All in bytes. Moves the largest pieces that fit all strides and addresses. */
template <typename T>
static bool fits(const void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t inner)
{
    return ((uintptr_t)y | (uintptr_t)x | (uintptr_t)y_stride | (uintptr_t)x_stride | (uintptr_t)inner) %
               sizeof(T) == 0;
}

template <typename T>
static ag_status run_rows(const ag_call *call, void *y, int64_t y_stride, const void *x, int64_t x_stride,
                          int64_t outer, int64_t inner)
{
    const int64_t size = sizeof(T);

    return cuda_launch_over(call, outer * inner / size, copy_rows<T>, (T *)y, y_stride / size, (const T *)x,
                            x_stride / size, outer, inner / size);
}

static ag_status rows(const ag_call *call, void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t outer,
                      int64_t inner)
{
    if (fits<uint4>(y, y_stride, x, x_stride, inner))
        return run_rows<uint4>(call, y, y_stride, x, x_stride, outer, inner);
    if (fits<unsigned>(y, y_stride, x, x_stride, inner))
        return run_rows<unsigned>(call, y, y_stride, x, x_stride, outer, inner);
    if (fits<unsigned short>(y, y_stride, x, x_stride, inner))
        return run_rows<unsigned short>(call, y, y_stride, x, x_stride, outer, inner);
    return run_rows<unsigned char>(call, y, y_stride, x, x_stride, outer, inner);
}

/* Rows before an axis, and bytes from one index of it to the next. */
static int64_t outer_of(const ag_tensor *t, int axis)
{
    return product(ag_dims(t), 0, axis);
}

static int64_t inner_bytes(const ag_tensor *t, int axis)
{
    return product(ag_dims(t), axis + 1, ag_ndim(t)) * (int64_t)ag_dtype_size(ag_dtype_of(t));
}

ag_status cuda_slice(ag_call *call)
{
    const op_slice_attr *a = (const op_slice_attr *)call->attr;
    const ag_tensor *x = call->in[0];
    const int64_t outer = outer_of(x, a->axis), unit = inner_bytes(x, a->axis);

    if (outer == 1) /* a view */
        return AG_OK;
    return rows(call, ag_data(call->out[0]), a->length * unit, (const char *)ag_data(x) + a->start * unit,
                ag_dim(x, a->axis) * unit, outer, a->length * unit);
}

ag_status cuda_unslice(ag_call *call)
{
    const op_slice_attr *a = (const op_slice_attr *)call->attr;
    const ag_tensor *x = call->in[0], *y = call->out[0];
    const int64_t unit = inner_bytes(x, a->axis), row = ag_dim(x, a->axis) * unit;
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    cudaError_t error;

    if (ag_numel(y) == 0)
        return AG_OK;
    error = cudaMemsetAsync(ag_data(y), 0, ag_nbytes(y), cuda->stream);
    if (error != cudaSuccess)
        return cuda_failed(cuda, call->op->name, error);
    return rows(call, (char *)ag_data(y) + a->start * unit, a->length * unit, ag_data(x), row,
                outer_of(x, a->axis), row);
}

ag_status cuda_concat(ag_call *call)
{
    const int axis = ((const op_concat_attr *)call->attr)->axis;
    const ag_tensor *y = call->out[0];
    const int64_t unit = inner_bytes(y, axis);
    char *at = (char *)ag_data(y);
    ag_status status = AG_OK;

    for (int i = 0; i < 2 && status == AG_OK; i++) {
        const int64_t row = ag_dim(call->in[i], axis) * unit;
        status = rows(call, at, ag_dim(y, axis) * unit, ag_data(call->in[i]), row, outer_of(y, axis), row);
        at += row;
    }
    return status;
}
