/* picture.cuh - kernels that make each element of a picture from a neighbourhood of another one. */
#ifndef AG_CUDA_PICTURE_CUH
#define AG_CUDA_PICTURE_CUH

#include "autograd/cuda/device.cuh"

struct cuda_picture {
    int64_t n, h, w, c;
};

static inline cuda_picture cuda_picture_of(const ag_tensor *t)
{
    const cuda_picture p = {ag_dim(t, 0), ag_dim(t, 1), ag_dim(t, 2), ag_dim(t, 3)};

    return p;
}

/* f.at<WIDE>(sum, x, from, n, row, column, channel): WIDE channels of one place of y, given picture n, whose
 * x begins at element `from`. sum comes in as zeros. */
template <int WIDE, typename F>
static __global__ void cuda_picture_kernel(cuda_out y, cuda_picture size, cuda_floats x, int64_t x_size, F f)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x, total = size.n * size.h * size.w * size.c / WIDE;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        int64_t channel, column, row;
        float sum[WIDE] = {};
        const int64_t place = cuda_divide(i, size.c / WIDE, &channel);
        const int64_t line = cuda_divide(place, size.w, &column), n = cuda_divide(line, size.h, &row);
        f.template at<WIDE>(sum, x, n * x_size, row, column, channel * WIDE);
        cuda_store_n<WIDE>(y, i * WIDE, sum);
    }
}

/* Queue y from x. */
template <typename F>
static inline ag_status cuda_picture_over(const ag_call *call, const ag_tensor *y, const ag_tensor *x, F f)
{
    const cuda_picture size = cuda_picture_of(y);
    const int64_t x_size = ag_dim(x, 1) * ag_dim(x, 2) * ag_dim(x, 3);

    return size.c % CUDA_VEC == 0 && cuda_aligned(ag_data(y)) && cuda_aligned(ag_data(x))
               ? cuda_launch_over(call, ag_numel(y) / CUDA_VEC, cuda_picture_kernel<CUDA_VEC, F>, cuda_to(y), size,
                                  cuda_in(x), x_size, f)
               : cuda_launch_over(call, ag_numel(y), cuda_picture_kernel<1, F>, cuda_to(y), size, cuda_in(x), x_size, f);
}

/* sum += factor x at an element */
template <int WIDE>
static __device__ __forceinline__ void cuda_picture_add(float *sum, cuda_floats x, int64_t at, float factor)
{
    float v[WIDE];

    cuda_load_n<WIDE>(v, x, at);
    for (int k = 0; k < WIDE; k++)
        sum[k] = fmaf(factor, v[k], sum[k]);
}

#endif /* AG_CUDA_PICTURE_CUH */
