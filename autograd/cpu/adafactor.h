/* adafactor.h - Adafactor's steps on the CPU: second moments kept as sums over rows and columns.
 *
 * Shazeer & Stern 2018, arXiv:1804.04235, as huggingface/transformers: optimization.py
 * (Adafactor). A tensor is `batches` matrices [rows, cols], each with `lanes` values at every
 * place that are matrices of their own: a linear weight [O,I] is one matrix without lanes, a
 * convolution kept as [O,kh,kw,I] is O matrices [kh,kw] with I lanes, and a vector is n lanes of
 * one 1x1 matrix, where nothing is factored.
 *
 * g' is grad_scale g. One update is moments, sums, step, in this order:
 *   moments  row = beta2t row + (1 - beta2t) mean over cols of (g'^2 + eps1), [batches,rows,lanes]
 *            col = beta2t col + (1 - beta2t) mean over rows of (g'^2 + eps1), [batches,cols,lanes]
 *            A 1x1 matrix has only col; row is NULL.
 *   u        = g' sqrt(mean over rows of row / row) / sqrt(col)
 *   sums     [0] = sum of u^2 over the tensor, [1] = sum of p^2
 *   step     a = rate (scale_parameter ? max(eps2, rms(p)) : 1)
 *            u *= a / max(1, rms(u) / clip_threshold)
 *            first moment m, when there is one: m = beta1 m + (1 - beta1) u, and u is m
 *            p -= a wd p + u
 *
 * Bits do not depend on the number of threads. isa is a cpu_isa of autograd/cpu/isa.h.
 */
#ifndef AG_CPU_ADAFACTOR_H
#define AG_CPU_ADAFACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CPU_ADAFACTOR_RATE,
    CPU_ADAFACTOR_BETA1,
    CPU_ADAFACTOR_BETA2T, /* 1 - t^decay_rate */
    CPU_ADAFACTOR_EPS1,
    CPU_ADAFACTOR_EPS2,
    CPU_ADAFACTOR_WEIGHT_DECAY,
    CPU_ADAFACTOR_CLIP_THRESHOLD,
    CPU_ADAFACTOR_SCALE_PARAMETER, /* 1 or 0 */
    CPU_ADAFACTOR_GRAD_SCALE,
    CPU_ADAFACTOR_N
};

typedef struct cpu_adafactor_shape {
    int64_t batches, rows, cols, lanes;
} cpu_adafactor_shape;

enum { CPU_ADAFACTOR_SIDE = 16 }; /* the most rows and columns that a shape with lanes may have */

/* What each of the three takes; 64-byte aligned. */
size_t cpu_adafactor_scratch(cpu_adafactor_shape shape);

/* false, with row and col untouched, as cpu_adamw; the sums are no numbers then, and a step with
 * such sums leaves p and m alone. */
bool cpu_adafactor_moments(float *row, float *col, const float *g, cpu_adafactor_shape shape,
                           const double scalars[CPU_ADAFACTOR_N], void *scratch, int n_threads,
                           int isa);
void cpu_adafactor_sums(double sums[2], const float *p, const float *row, const float *col,
                        const float *g, cpu_adafactor_shape shape,
                        const double scalars[CPU_ADAFACTOR_N], void *scratch, int n_threads,
                        int isa);
void cpu_adafactor_step(float *p, float *m, const float *row, const float *col, const float *g,
                        const double sums[2], cpu_adafactor_shape shape,
                        const double scalars[CPU_ADAFACTOR_N], void *scratch, int n_threads,
                        int isa);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_ADAFACTOR_H */
