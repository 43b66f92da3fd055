/* layout.c - the order of weights. See layout.h. */
#include "nn/layout.h"

#include <string.h>

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
