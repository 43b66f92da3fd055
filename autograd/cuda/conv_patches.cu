/* conv_patches.cu - gathering the patches that a convolution multiplies, and putting gradients back; see conv.h. */
#include "autograd/cuda/conv.h"
#include "autograd/cuda/device.cuh"

template <int WIDE>
static __global__ void patches(cuda_out col, cuda_floats x, cuda_conv s, int64_t from, int64_t rows)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x, c = s.c / WIDE, n = rows * s.kh * s.kw * c;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        int64_t channel, kx, ky, column, line;
        const int64_t tap = cuda_divide(i, c, &channel), taps = cuda_divide(tap, s.kw, &kx);
        const int64_t row = cuda_divide(taps, s.kh, &ky) + from, lines = cuda_divide(row, s.ow, &column);
        const int64_t picture = cuda_divide(lines, s.oh, &line);
        const int64_t y = line * s.stride + ky * s.dilation - s.top, at = column * s.stride + kx * s.dilation - s.left;
        float v[WIDE] = {};

        if (y >= 0 && y < s.h && at >= 0 && at < s.w)
            cuda_load_n<WIDE>(v, x, ((picture * s.h + y) * s.w + at) * s.c + channel * WIDE);
        cuda_store_n<WIDE>(col, i * WIDE, v);
    }
}

ag_status cuda_conv_patches(const ag_call *call, void *col, const void *x, ag_dtype type, const cuda_conv *s,
                            int64_t from, int64_t rows)
{
    const cuda_out to = {col, type, cuda_aligned(col)};
    const cuda_floats of = {x, type, cuda_aligned(x)};
    const int64_t n = rows * s->kh * s->kw * s->c;

    return s->c % CUDA_VEC == 0 && to.aligned && of.aligned
               ? cuda_launch_over(call, n / CUDA_VEC, patches<CUDA_VEC>, to, of, *s, from, rows)
               : cuda_launch_over(call, n, patches<1>, to, of, *s, from, rows);
}

/* The output place that input place i meets through tap k; -1: none. */
static __device__ __forceinline__ int64_t output_place(int64_t i, int64_t before, int64_t k, const cuda_conv &s, int64_t n)
{
    const int64_t at = i + before - k * s.dilation;

    return at >= 0 && at % s.stride == 0 && at / s.stride < n ? at / s.stride : -1;
}

template <int WIDE>
static __global__ void add_tap(cuda_out dx, cuda_floats old, cuda_floats part, cuda_conv s, int64_t pictures, int64_t ky,
                               int64_t kx)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x, c = s.c / WIDE, n = pictures * s.h * s.w * c;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        int64_t channel, column, line;
        const int64_t place = cuda_divide(i, c, &channel), lines = cuda_divide(place, s.w, &column);
        const int64_t picture = cuda_divide(lines, s.h, &line);
        const int64_t oy = output_place(line, s.top, ky, s, s.oh), ox = output_place(column, s.left, kx, s, s.ow);
        float v[WIDE] = {}, before[WIDE];

        if (oy >= 0 && ox >= 0)
            cuda_load_n<WIDE>(v, part, ((picture * s.oh + oy) * s.ow + ox) * s.c + channel * WIDE);
        else if (old.data)
            continue;
        if (old.data) {
            cuda_load_n<WIDE>(before, old, i * WIDE);
            for (int k = 0; k < WIDE; k++)
                v[k] += before[k];
        }
        cuda_store_n<WIDE>(dx, i * WIDE, v);
    }
}

ag_status cuda_conv_add_tap(const ag_call *call, float *dx, const float *part, const cuda_conv *s, int64_t pictures,
                            int64_t ky, int64_t kx, bool is_first)
{
    const cuda_out to = {dx, AG_F32, cuda_aligned(dx)};
    const cuda_floats old = {is_first ? NULL : dx, AG_F32, cuda_aligned(dx)}, of = {part, AG_F32, cuda_aligned(part)};
    const int64_t n = pictures * s->h * s->w * s->c;

    return s->c % CUDA_VEC == 0 && to.aligned && of.aligned
               ? cuda_launch_over(call, n / CUDA_VEC, add_tap<CUDA_VEC>, to, old, of, *s, pictures, ky, kx)
               : cuda_launch_over(call, n, add_tap<1>, to, old, of, *s, pictures, ky, kx);
}
