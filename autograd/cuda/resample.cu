/* resample.cu - the CUDA twin of ops/resample.c. Adjoints gather too, so that nothing is added by chance of
 * order. */
#include "autograd/cuda/picture.cuh"

/* --- upsample_nearest ------------------------------------------------------------------------- */

struct nearest {
    int64_t h, w, c, oh, ow; /* of x, of y */
    template <int WIDE>
    __device__ void at(float *sum, cuda_floats x, int64_t from, int64_t row, int64_t column, int64_t channel) const
    {
        const int64_t y0 = row * h / oh, x0 = column * w / ow;

        cuda_load_n<WIDE>(sum, x, from + (y0 * w + x0) * c + channel);
    }
};

ag_status cuda_upsample_nearest(ag_call *call)
{
    const cuda_picture x = cuda_picture_of(call->in[0]), y = cuda_picture_of(call->out[0]);

    return cuda_picture_over(call, call->out[0], call->in[0], nearest{x.h, x.w, x.c, y.h, y.w});
}

/* Those of y that came from one place of x. */
struct nearest_adjoint {
    int64_t h, w, c, oh, ow;
    template <int WIDE>
    __device__ void at(float *sum, cuda_floats d, int64_t from, int64_t row, int64_t column, int64_t channel) const
    {
        const int64_t y0 = (row * oh + h - 1) / h, y1 = ((row + 1) * oh + h - 1) / h;
        const int64_t x0 = (column * ow + w - 1) / w, x1 = ((column + 1) * ow + w - 1) / w;

        for (int64_t i = y0; i < y1; i++)
            for (int64_t j = x0; j < x1; j++)
                cuda_picture_add<WIDE>(sum, d, from + (i * ow + j) * c + channel, 1.0f);
    }
};

ag_status cuda_upsample_nearest_backward(ag_call *call)
{
    const cuda_picture x = cuda_picture_of(call->out[0]), y = cuda_picture_of(call->in[0]);

    return cuda_picture_over(call, call->out[0], call->in[0], nearest_adjoint{x.h, x.w, x.c, y.h, y.w});
}

/* --- avg_pool2d ------------------------------------------------------------------------------- */

struct pool {
    int64_t w, c, k;
    template <int WIDE>
    __device__ void at(float *sum, cuda_floats x, int64_t from, int64_t row, int64_t column, int64_t channel) const
    {
        for (int64_t i = row * k; i < (row + 1) * k; i++)
            for (int64_t j = column * k; j < (column + 1) * k; j++)
                cuda_picture_add<WIDE>(sum, x, from + (i * w + j) * c + channel, 1.0f);
        for (int v = 0; v < WIDE; v++)
            sum[v] /= (float)(k * k);
    }
};

ag_status cuda_avg_pool2d(ag_call *call)
{
    const cuda_picture x = cuda_picture_of(call->in[0]);

    return cuda_picture_over(call, call->out[0], call->in[0],
                             pool{x.w, x.c, ((const op_picture_attr *)call->attr)->kernel});
}

struct pool_adjoint {
    int64_t oh, ow, c, k;
    template <int WIDE>
    __device__ void at(float *sum, cuda_floats d, int64_t from, int64_t row, int64_t column, int64_t channel) const
    {
        if (row / k < oh && column / k < ow)
            cuda_picture_add<WIDE>(sum, d, from + (row / k * ow + column / k) * c + channel, 1.0f / (float)(k * k));
    }
};

ag_status cuda_avg_pool2d_backward(ag_call *call)
{
    const cuda_picture y = cuda_picture_of(call->in[0]);

    return cuda_picture_over(call, call->out[0], call->in[0],
                             pool_adjoint{y.h, y.w, y.c, ((const op_picture_attr *)call->attr)->kernel});
}

/* --- pad2d ------------------------------------------------------------------------------------ */

/* Which of n is seen at place i of the padded axis, i counted from the first of n; -1: a zero. */
static __device__ __forceinline__ int64_t source(int64_t mode, int64_t i, int64_t n)
{
    if (i >= 0 && i < n)
        return i;
    if (mode == AG_PAD_ZERO)
        return -1;
    if (mode == AG_PAD_REPLICATE)
        return i < 0 ? 0 : n - 1;
    return i < 0 ? -i : 2 * (n - 1) - i;
}

struct pad {
    int64_t h, w, c, mode, top, left;
    template <int WIDE>
    __device__ void at(float *sum, cuda_floats x, int64_t from, int64_t row, int64_t column, int64_t channel) const
    {
        const int64_t i = source(mode, row - top, h), j = source(mode, column - left, w);

        if (i >= 0 && j >= 0)
            cuda_load_n<WIDE>(sum, x, from + (i * w + j) * c + channel);
    }
};

ag_status cuda_pad2d(ag_call *call)
{
    const op_picture_attr *a = (const op_picture_attr *)call->attr;
    const cuda_picture x = cuda_picture_of(call->in[0]);

    return cuda_picture_over(call, call->out[0], call->in[0], pad{x.h, x.w, x.c, a->mode, a->pads[0], a->pads[2]});
}

/* The places of a padded axis that see element i of n: [from, to), and what two mirrors show (-1: nothing). */
struct seen_at {
    int64_t from, to, mirror[2];
};

static __device__ __forceinline__ seen_at places(int64_t mode, int64_t i, int64_t n, int64_t before, int64_t after)
{
    seen_at s = {i + before, i + before + 1, {-1, -1}};

    if (mode == AG_PAD_REPLICATE) {
        if (i == 0)
            s.from = 0;
        if (i == n - 1)
            s.to = before + n + after;
    } else if (mode == AG_PAD_REFLECT) {
        if (i > 0 && i <= before)
            s.mirror[0] = before - i;
        if (i < n - 1 && n - 1 - i <= after)
            s.mirror[1] = before + 2 * (n - 1) - i;
    }
    return s;
}

struct pad_adjoint {
    int64_t h, w, c, ow, mode, top, bottom, left, right;

    template <int WIDE>
    __device__ void line(float *sum, cuda_floats d, int64_t from, const seen_at &columns) const
    {
        for (int64_t j = columns.from; j < columns.to; j++)
            cuda_picture_add<WIDE>(sum, d, from + j * c, 1.0f);
        for (int m = 0; m < 2; m++)
            if (columns.mirror[m] >= 0)
                cuda_picture_add<WIDE>(sum, d, from + columns.mirror[m] * c, 1.0f);
    }

    template <int WIDE>
    __device__ void at(float *sum, cuda_floats d, int64_t from, int64_t row, int64_t column, int64_t channel) const
    {
        const seen_at rows = places(mode, row, h, top, bottom), columns = places(mode, column, w, left, right);

        from += channel;
        for (int64_t i = rows.from; i < rows.to; i++)
            line<WIDE>(sum, d, from + i * ow * c, columns);
        for (int m = 0; m < 2; m++)
            if (rows.mirror[m] >= 0)
                line<WIDE>(sum, d, from + rows.mirror[m] * ow * c, columns);
    }
};

ag_status cuda_pad2d_backward(ag_call *call)
{
    const op_picture_attr *a = (const op_picture_attr *)call->attr;
    const cuda_picture x = cuda_picture_of(call->out[0]);

    return cuda_picture_over(call, call->out[0], call->in[0],
                             pad_adjoint{x.h, x.w, x.c, ag_dim(call->in[0], 2), a->mode, a->pads[0], a->pads[1],
                                         a->pads[2], a->pads[3]});
}
