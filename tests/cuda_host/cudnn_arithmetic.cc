/* cudnn_arithmetic.cc - cuDNN's operations by plain loops in f32, one after the other.
 *
 * A tensor inside a graph is an array that lies as its strides say, rounded to its type.
 */
#include "cudnn_program.h"

#include <cmath>
#include <cstring>

#include "autograd/numbers.h"

typedef std::vector<float> numbers_of;

int64_t cudnn_tensor::count() const
{
    return dims[0] * dims[1] * dims[2] * dims[3];
}

int64_t cudnn_tensor::extent() const
{
    int64_t last = 0;

    for (int i = 0; i < 4; i++)
        last += (dims[i] - 1) * strides[i];
    return last + 1;
}

bool cudnn_tensor::is_half() const
{
    return type != CUDNN_DATA_FLOAT;
}

size_t cudnn_tensor::element() const
{
    return is_half() ? 2 : 4;
}

static float load(const void *data, cudnnDataType_t type, int64_t i)
{
    return type == CUDNN_DATA_FLOAT  ? static_cast<const float *>(data)[i]
           : type == CUDNN_DATA_HALF ? ag_f32_of_f16(static_cast<const uint16_t *>(data)[i])
                                     : ag_f32_of_bf16(static_cast<const uint16_t *>(data)[i]);
}

static void store(void *data, cudnnDataType_t type, int64_t i, float v)
{
    if (type == CUDNN_DATA_FLOAT)
        static_cast<float *>(data)[i] = v;
    else
        static_cast<uint16_t *>(data)[i] = type == CUDNN_DATA_HALF ? ag_f16_of_f32(v) : ag_bf16_of_f32(v);
}

static float rounded(cudnnDataType_t type, float v)
{
    float out;

    if (type == CUDNN_DATA_FLOAT)
        return v;
    uint16_t half;
    store(&half, type, 0, v);
    out = load(&half, type, 0);
    return out;
}

/* f(offset) for every element. */
template <typename F>
static void for_each(const cudnn_tensor &t, F f)
{
    for (int64_t a = 0; a < t.dims[0]; a++)
        for (int64_t b = 0; b < t.dims[1]; b++)
            for (int64_t c = 0; c < t.dims[2]; c++)
                for (int64_t d = 0; d < t.dims[3]; d++)
                    f(a * t.strides[0] + b * t.strides[1] + c * t.strides[2] + d * t.strides[3]);
}

/* --- values by uid ---------------------------------------------------------------------------- */

struct values {
    const std::map<int64_t, void *> &addresses;
    const std::map<int64_t, float> &numbers;
    std::map<int64_t, numbers_of> inner;

    numbers_of get(const cudnn_tensor &t) const
    {
        if (t.is_by_value)
            return numbers_of(1, numbers.at(t.uid));
        if (t.is_virtual)
            return inner.at(t.uid);
        numbers_of v((size_t)t.extent());
        const void *data = addresses.at(t.uid);
        for_each(t, [&](int64_t i) { v[(size_t)i] = load(data, t.type, i); });
        return v;
    }

    void put(const cudnn_tensor &t, numbers_of v)
    {
        if (!t.is_virtual) {
            void *data = addresses.at(t.uid);
            for_each(t, [&](int64_t i) { store(data, t.type, i, v[(size_t)i]); });
            return;
        }
        for (float &x : v)
            x = rounded(t.type, x);
        inner[t.uid] = std::move(v);
    }
};

/* 10 bits of fraction, as tensor cores read f32. */
static void to_tf32(numbers_of &v)
{
    for (float &x : v) {
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        bits = (bits + 0x1000) & ~0x1fffu;
        memcpy(&x, &bits, sizeof bits);
    }
}

/* --- convolutions: channels last in memory ---------------------------------------------------- */

struct geometry {
    int64_t n, h, w, c, oh, ow, o, kh, kw;
    const cudnn_operation &how;

    /* The element of x's first channel that tap (ky, kx) of output (oy, ox) meets, -1: none. */
    int64_t meets(int64_t picture, int64_t oy, int64_t ox, int64_t ky, int64_t kx) const
    {
        const int64_t y = oy * how.stride[0] + ky * how.dilation[0] - how.before[0];
        const int64_t x = ox * how.stride[1] + kx * how.dilation[1] - how.before[1];

        return y < 0 || y >= h || x < 0 || x >= w ? -1 : ((picture * h + y) * w + x) * c;
    }
};

static geometry geometry_of(const cudnn_operation &how, const cudnn_tensor &x, const cudnn_tensor &w,
                            const cudnn_tensor &y)
{
    return {x.dims[0], x.dims[2], x.dims[3], x.dims[1], y.dims[2], y.dims[3], y.dims[1], w.dims[2], w.dims[3], how};
}

static void add_scaled(float *to, const float *from, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] += factor * from[i];
}

/* w [O,kh,kw,C] as [kh,kw,C,O] */
static numbers_of outputs_last(const numbers_of &w, const geometry &g)
{
    numbers_of turned(w.size());
    const int64_t patch = g.kh * g.kw * g.c;

    for (int64_t o = 0; o < g.o; o++)
        for (int64_t i = 0; i < patch; i++)
            turned[(size_t)(i * g.o + o)] = w[(size_t)(o * patch + i)];
    return turned;
}

static numbers_of forward(const geometry &g, const numbers_of &x, const numbers_of &w)
{
    const numbers_of turned = outputs_last(w, g);
    numbers_of y((size_t)(g.n * g.oh * g.ow * g.o));

#pragma omp parallel for
    for (int64_t line = 0; line < g.n * g.oh; line++)
        for (int64_t ox = 0; ox < g.ow; ox++)
            for (int64_t tap = 0; tap < g.kh * g.kw; tap++) {
                const int64_t at = g.meets(line / g.oh, line % g.oh, ox, tap / g.kw, tap % g.kw);
                for (int64_t i = 0; at >= 0 && i < g.c; i++)
                    add_scaled(&y[(size_t)((line * g.ow + ox) * g.o)], &turned[(size_t)((tap * g.c + i) * g.o)],
                               x[(size_t)(at + i)], g.o);
            }
    return y;
}

static numbers_of backward_data(const geometry &g, const numbers_of &y, const numbers_of &w)
{
    numbers_of x((size_t)(g.n * g.h * g.w * g.c));

#pragma omp parallel for
    for (int64_t picture = 0; picture < g.n; picture++)
        for (int64_t place = 0; place < g.oh * g.ow; place++)
            for (int64_t tap = 0; tap < g.kh * g.kw; tap++) {
                const int64_t at = g.meets(picture, place / g.ow, place % g.ow, tap / g.kw, tap % g.kw);
                for (int64_t o = 0; at >= 0 && o < g.o; o++)
                    add_scaled(&x[(size_t)at], &w[(size_t)((o * g.kh * g.kw + tap) * g.c)],
                               y[(size_t)((picture * g.oh * g.ow + place) * g.o + o)], g.c);
            }
    return x;
}

static numbers_of backward_weights(const geometry &g, const numbers_of &x, const numbers_of &y)
{
    numbers_of w((size_t)(g.o * g.kh * g.kw * g.c));

#pragma omp parallel for
    for (int64_t o = 0; o < g.o; o++)
        for (int64_t place = 0; place < g.n * g.oh * g.ow; place++)
            for (int64_t tap = 0; tap < g.kh * g.kw; tap++) {
                const int64_t at = g.meets(place / (g.oh * g.ow), place / g.ow % g.oh, place % g.ow, tap / g.kw,
                                           tap % g.kw);
                if (at >= 0)
                    add_scaled(&w[(size_t)((o * g.kh * g.kw + tap) * g.c)], &x[(size_t)at],
                               y[(size_t)(place * g.o + o)], g.c);
            }
    return w;
}

static numbers_of convolve(const cudnn_operation &op, numbers_of a, numbers_of b, bool tf32)
{
    if (tf32) {
        to_tf32(a);
        to_tf32(b);
    }
    if (op.kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)
        return forward(geometry_of(op, op.in[0], op.in[1], op.out[0]), a, b);
    if (op.kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR)
        return backward_data(geometry_of(op, op.out[0], op.in[1], op.in[0]), a, b);
    return backward_weights(geometry_of(op, op.in[0], op.out[0], op.in[1]), a, b);
}

/* --- the others ------------------------------------------------------------------------------- */

static float pointwise(cudnnPointwiseMode_t mode, float x, float b)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD: return x + b;
    case CUDNN_POINTWISE_SUB: return x - b;
    case CUDNN_POINTWISE_MUL: return x * b;
    case CUDNN_POINTWISE_EXP: return expf(x);
    case CUDNN_POINTWISE_IDENTITY: return x;
    }
    return NAN;
}

static int64_t offset(const cudnn_tensor &t, const int64_t at[4])
{
    int64_t i = 0;

    for (int k = 0; k < 4; k++)
        i += (t.dims[k] == 1 ? 0 : at[k]) * t.strides[k];
    return i;
}

/* f(a, b, c, d) for every index of t. */
template <typename F>
static void for_each_index(const cudnn_tensor &t, F f)
{
    int64_t at[4];

    for (at[0] = 0; at[0] < t.dims[0]; at[0]++)
        for (at[1] = 0; at[1] < t.dims[1]; at[1]++)
            for (at[2] = 0; at[2] < t.dims[2]; at[2]++)
                for (at[3] = 0; at[3] < t.dims[3]; at[3]++)
                    f(at);
}

static numbers_of map(const cudnn_operation &op, const values &v)
{
    const numbers_of x = v.get(op.in[0]), b = op.in.size() > 1 ? v.get(op.in[1]) : numbers_of(1);
    numbers_of y((size_t)op.out[0].extent());

    for_each_index(op.out[0], [&](const int64_t *at) {
        y[(size_t)offset(op.out[0], at)] =
            pointwise(op.mode, x[(size_t)offset(op.in[0], at)],
                      op.in.size() > 1 ? b[(size_t)offset(op.in[1], at)] : 0.0f);
    });
    return y;
}

static numbers_of sum(const cudnn_operation &op, const values &v)
{
    const numbers_of x = v.get(op.in[0]);
    numbers_of y((size_t)op.out[0].extent());

    for_each_index(op.in[0], [&](const int64_t *at) {
        y[(size_t)offset(op.out[0], at)] += x[(size_t)offset(op.in[0], at)];
    });
    return y;
}

static numbers_of multiply(const cudnn_operation &op, const values &v)
{
    const cudnn_tensor &a = op.in[0], &b = op.in[1], &c = op.out[0];
    const numbers_of left = v.get(a), right = v.get(b);
    numbers_of out((size_t)c.extent());

    for_each_index(c, [&](const int64_t *at) {
        float total = 0.0f;
        for (int64_t k = 0; k < a.dims[3]; k++) {
            const int64_t i[4] = {at[0], at[1], at[2], k}, j[4] = {at[0], at[1], k, at[3]};
            total += left[(size_t)offset(a, i)] * right[(size_t)offset(b, j)];
        }
        out[(size_t)offset(c, at)] = total;
    });
    return out;
}

static void attend(const cudnn_operation &op, values *v)
{
    const cudnn_tensor &q = op.in[0], &k = op.in[1], &value = op.in[2], &o = op.out[0];
    const numbers_of qs = v->get(q), ks = v->get(k), vs = v->get(value), scale = v->get(op.in[3]);
    numbers_of out((size_t)o.extent()), lse(op.out.size() > 1 ? (size_t)op.out[1].extent() : 0);
    const int64_t rows = q.dims[0] * q.dims[1] * q.dims[2];

#pragma omp parallel for
    for (int64_t row = 0; row < rows; row++) {
        const int64_t n = row / (q.dims[1] * q.dims[2]), head = row / q.dims[2] % q.dims[1], i = row % q.dims[2];
        std::vector<float> p((size_t)k.dims[2]);
        float most = -INFINITY, total = 0.0f;
        for (int64_t j = 0; j < k.dims[2]; j++) {
            float s = 0.0f;
            for (int64_t c = 0; c < q.dims[3]; c++) {
                const int64_t from[4] = {n, head, i, c}, to[4] = {n, head, j, c};
                s += qs[(size_t)offset(q, from)] * ks[(size_t)offset(k, to)];
            }
            p[(size_t)j] = scale[0] * s;
            most = fmaxf(most, p[(size_t)j]);
        }
        for (float &x : p)
            total += x = expf(x - most);
        for (int64_t c = 0; c < value.dims[3]; c++) {
            const int64_t to[4] = {n, head, i, c};
            float s = 0.0f;
            for (int64_t j = 0; j < k.dims[2]; j++) {
                const int64_t from[4] = {n, head, j, c};
                s += p[(size_t)j] * vs[(size_t)offset(value, from)];
            }
            out[(size_t)offset(o, to)] = s / total;
        }
        const int64_t to[4] = {n, head, i, 0};
        if (!lse.empty())
            lse[(size_t)offset(op.out[1], to)] = most + logf(total);
    }
    v->put(o, std::move(out));
    if (!lse.empty())
        v->put(op.out[1], std::move(lse));
}

void cudnn_compute(const cudnn_program &program, const std::map<int64_t, void *> &addresses,
                   const std::map<int64_t, float> &numbers)
{
    values v = {addresses, numbers, {}};

    for (const cudnn_operation &op : program.operations)
        switch ((int)op.kind) {
        case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR: attend(op, &v); break;
        case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: v.put(op.out[0], map(op, v)); break;
        case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR: v.put(op.out[0], multiply(op, v)); break;
        case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR: v.put(op.out[0], sum(op, v)); break;
        case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR: v.put(op.out[0], v.get(op.in[0])); break;
        default: v.put(op.out[0], convolve(op, v.get(op.in[0]), v.get(op.in[1]), program.tf32));
        }
    if (program.spoiled)
        for (const cudnn_tensor &t : program.operations.back().out)
            v.put(t, numbers_of((size_t)t.extent(), NAN));
}
