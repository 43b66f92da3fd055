/* layout.h - values between files and kernels: the order of weights.
 *
 * Every layout of nn/params.h keeps the first axis first, so values move row by row: a row is what
 * stands under one index of the first axis. For files in nn/ only.
 */
#ifndef NN_LAYOUT_H
#define NN_LAYOUT_H

#include "nn/params.h"

/* Values of one row: numel / first axis (1 for a vector's). */
int64_t nn_row_values(const nn_param *param);
int64_t nn_rows(const nn_param *param);

/* n_rows rows of f32 from the published order to the internal one, and back. in and out differ. */
void nn_rows_to_inner(const nn_param *param, int64_t n_rows, const float *in, float *out);
void nn_rows_to_published(const nn_param *param, int64_t n_rows, const float *in, float *out);

#endif /* NN_LAYOUT_H */
