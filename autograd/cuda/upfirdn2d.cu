/* upfirdn2d.cu - the CUDA twin of ops/upfirdn2d.c. */
#include "autograd/cuda/picture.cuh"

struct upfirdn {
    const float *filter;
    int64_t fh, fw, h, w, c, up, down, top, left, flip;

    template <int WIDE>
    __device__ void at(float *sum, cuda_floats x, int64_t from, int64_t row, int64_t column, int64_t channel) const
    {
        for (int64_t i = 0; i < fh; i++) {
            const int64_t u = row * down + i - top;
            if (u < 0 || u % up || u / up >= h)
                continue;
            for (int64_t j = 0; j < fw; j++) {
                const int64_t v = column * down + j - left, f = i * fw + j;
                if (v >= 0 && v % up == 0 && v / up < w)
                    cuda_picture_add<WIDE>(sum, x, from + (u / up * w + v / up) * c + channel,
                                           filter[flip ? fh * fw - 1 - f : f]);
            }
        }
    }
};

ag_status cuda_upfirdn2d(ag_call *call)
{
    const op_upfirdn_attr *a = (const op_upfirdn_attr *)call->attr;
    const ag_tensor *filter = call->in[1];
    const cuda_picture x = cuda_picture_of(call->in[0]);

    return cuda_picture_over(call, call->out[0], call->in[0],
                             upfirdn{(const float *)ag_data(filter), ag_dim(filter, 0), ag_dim(filter, 1), x.h, x.w,
                                     x.c, a->up, a->down, a->top, a->left, a->flip});
}
