/* layout.c - values between files and kernels. See layout.h. */
#include "nn/layout.h"

#include <string.h>

static uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static float f16_to_f32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7fff) << 13;
    const uint32_t exponent = rest & 0x0f800000;
    /* Normal: move the bias from 15 to 127. Infinity and NaN: once more, up to 255. */
    const uint32_t normal =
        rest + ((127u - 15u) << 23) + (exponent == 0x0f800000 ? (128u - 16u) << 23 : 0);
    /* Zero and subnormal: as a number with exponent 113, less that exponent's one. */
    const float tiny = float_of(rest + (113u << 23)) - float_of(113u << 23);

    return float_of(sign | (exponent ? normal : bits_of(tiny)));
}

static uint16_t f32_to_f16(float value)
{
    const uint32_t sign = bits_of(value) & 0x80000000u, x = bits_of(value) ^ sign;
    uint32_t half;

    if (x >= 0x47800000) /* 65536 and more, infinity, NaN */
        half = x > 0x7f800000 ? 0x7e00 : 0x7c00;
    else if (x < 0x38800000) /* below 2^-14: adding 1/2 rounds at 2^-24, the subnormals' step */
        half = bits_of(float_of(x) + 0.5f) - 0x3f000000;
    else /* 0xfff and the odd bit: to nearest, ties to even */
        half = (x - ((127u - 15u) << 23) + 0xfff + ((x >> 13) & 1)) >> 13;
    return (uint16_t)(half | sign >> 16);
}

static uint16_t f32_to_bf16(float value)
{
    const uint32_t x = bits_of(value);

    if ((x & 0x7fffffff) > 0x7f800000) /* a NaN must not round to infinity */
        return (uint16_t)(x >> 16 | 0x40);
    return (uint16_t)((x + 0x7fff + (x >> 16 & 1)) >> 16);
}

bool nn_is_float(ag_dtype dtype)
{
    return dtype == AG_F32 || dtype == AG_F16 || dtype == AG_BF16 || dtype == AG_F64;
}

void nn_to_f32(ag_dtype from, const void *values, int64_t n, float *out)
{
    const uint16_t *half = values;
    const double *wide = values;

    switch (from) {
    case AG_F32:
        memcpy(out, values, (size_t)n * sizeof *out);
        break;
    case AG_F16:
        for (int64_t i = 0; i < n; i++)
            out[i] = f16_to_f32(half[i]);
        break;
    case AG_BF16:
        for (int64_t i = 0; i < n; i++)
            out[i] = float_of((uint32_t)half[i] << 16);
        break;
    case AG_F64:
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)wide[i];
        break;
    default:
        break;
    }
}

void nn_from_f32(ag_dtype to, const float *values, int64_t n, void *out)
{
    uint16_t *half = out;
    double *wide = out;

    switch (to) {
    case AG_F32:
        memcpy(out, values, (size_t)n * sizeof *values);
        break;
    case AG_F16:
        for (int64_t i = 0; i < n; i++)
            half[i] = f32_to_f16(values[i]);
        break;
    case AG_BF16:
        for (int64_t i = 0; i < n; i++)
            half[i] = f32_to_bf16(values[i]);
        break;
    case AG_F64:
        for (int64_t i = 0; i < n; i++)
            wide[i] = values[i];
        break;
    default:
        break;
    }
}

int64_t nn_rows(const nn_param *param)
{
    return param->n_dims ? param->dims[0] : 1;
}

int64_t nn_row_values(const nn_param *param)
{
    return nn_rows(param) ? param->numel / nn_rows(param) : 0;
}

/* [A,B] -> [B,A]. The 3x3 kernel's nine columns are spelt out: read in order, nine streams out. */
static void transpose(int64_t a, int64_t b, const float *in, float *out)
{
    if (b == 9) {
        for (int64_t i = 0; i < a; i++) {
            for (int k = 0; k < 9; k++)
                out[k * a + i] = in[i * 9 + k];
        }
        return;
    }
    for (int64_t i = 0; i < a; i++) {
        for (int64_t k = 0; k < b; k++)
            out[k * a + i] = in[i * b + k];
    }
}

static void transpose_back(int64_t a, int64_t b, const float *in, float *out)
{
    if (b == 9) {
        for (int64_t i = 0; i < a; i++) {
            for (int k = 0; k < 9; k++)
                out[i * 9 + k] = in[k * a + i];
        }
        return;
    }
    for (int64_t i = 0; i < a; i++) {
        for (int64_t k = 0; k < b; k++)
            out[i * b + k] = in[k * a + i];
    }
}

void nn_rows_to_inner(const nn_param *param, int64_t n_rows, const float *in, float *out)
{
    const int64_t row = nn_row_values(param);

    if (param->layout != NN_OIHW) {
        memcpy(out, in, (size_t)(n_rows * row) * sizeof *out);
        return;
    }
    for (int64_t r = 0; r < n_rows; r++) /* [I, kh kw] -> [kh kw, I] */
        transpose(param->dims[1], param->dims[2] * param->dims[3], in + r * row, out + r * row);
}

void nn_rows_to_published(const nn_param *param, int64_t n_rows, const float *in, float *out)
{
    const int64_t row = nn_row_values(param);

    if (param->layout != NN_OIHW) {
        memcpy(out, in, (size_t)(n_rows * row) * sizeof *out);
        return;
    }
    for (int64_t r = 0; r < n_rows; r++)
        transpose_back(param->dims[1], param->dims[2] * param->dims[3], in + r * row,
                       out + r * row);
}
