/* elementwise.h - one output element from the elements at the same place, on the CPU.
 *
 * Tensors are contiguous f32 unless said otherwise. Where nothing else is said the output may be
 * one of the inputs (same start), and may not overlap them in any other way.
 * isa is a cpu_isa of autograd/cpu/isa.h. Bits do not depend on the number of threads.
 */
#ifndef AG_CPU_ELEMENTWISE_H
#define AG_CPU_ELEMENTWISE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = d[i] f^(order)(x[i]) with order 0 to 3; d NULL means 1. `parameter` is the slope of
 * AG_LEAKY_RELU and the exponent of AG_POW. At a kink the derivative is PyTorch's: 0 for AG_ABS and
 * AG_RELU, the slope for AG_LEAKY_RELU. */
void cpu_unary(float *y, ag_unary_kind kind, int order, const float *x, const float *d, int64_t n,
               double parameter, int n_threads, int isa);

/* y = a x + b */
void cpu_affine(float *y, const float *x, float a, float b, int64_t n, int n_threads, int isa);
/* y = min(max(x, low), high); a NaN stays. */
void cpu_clamp(float *y, const float *x, float low, float high, int64_t n, int n_threads, int isa);
/* dx = d where low <= x <= high, else 0. */
void cpu_clamp_grad(float *dx, const float *x, const float *d, float low, float high, int64_t n,
                    int n_threads, int isa);

void cpu_fill(float *y, float value, int64_t n, int n_threads, int isa);
void cpu_add_into(float *y, const float *x, int64_t n, int n_threads, int isa);   /* y += x */
void cpu_scale_into(float *y, float a, int64_t n, int n_threads, int isa);        /* y *= a */
/* y += w (x - y), as PyTorch's lerp: from the other end when w >= 1/2. */
void cpu_lerp_into(float *y, const float *x, float w, int64_t n, int n_threads, int isa);
/* y += a x */
void cpu_axpy(float *y, float a, const float *x, int64_t n, int n_threads, int isa);

typedef enum cpu_binary_kind {
    CPU_ADD,
    CPU_SUB,
    CPU_MUL,
    CPU_DIV,
    CPU_MAX,  /* NaN when either is */
    CPU_MIN,
    CPU_STEP, /* 1 where a > b, 1/2 where a == b, else 0: the gradient of CPU_MAX */
    CPU_N_BINARY
} cpu_binary_kind;

/* y = a op b with NumPy's broadcasting. dims are y's; a_dims and b_dims have the same n_dims (<= 8)
 * entries, each equal to dims or 1. y may be a or b when that one has y's shape. */
void cpu_binary(float *y, cpu_binary_kind kind, const float *a, const float *b, int n_dims,
                const int64_t *dims, const int64_t *a_dims, const int64_t *b_dims, int n_threads,
                int isa);
/* The same of n bf16 values each, without broadcasting: computed in f32 and rounded once. */
void cpu_binary_bf16(uint16_t *y, cpu_binary_kind kind, const uint16_t *a, const uint16_t *b,
                     int64_t n, int n_threads, int isa);

/* u [R,2C] = (a, g) -> y [R,C] = a gelu(g), gelu exact (erf). Shazeer 2020, arXiv:2002.05202. All of
 * `type`, AG_F32 or AG_BF16. */
void cpu_geglu(void *y, const void *u, ag_dtype type, int64_t rows, int64_t cols, int n_threads, int isa);
/* du [R,2C] = (dy gelu(g), dy a gelu'(g)); du may be u. */
void cpu_geglu_grad(void *du, const void *u, const void *dy, ag_dtype type, int64_t rows, int64_t cols,
                    int n_threads, int isa);

/* y[e] = x[e] / (1 - p) where word e of the draw is at least 2^32 p, else 0; 0 <= p < 1. y may be x. */
void cpu_dropout(float *y, const float *x, double p, const ag_draw *draw, int64_t n, int n_threads,
                 int isa);

/* Between element types. To the nearest, ties to even; a NaN stays a NaN; too large becomes
 * infinite. Integers are truncated towards zero, NaN gives 0, out of range saturates. Output and
 * input do not overlap. */
void cpu_cast(void *y, ag_dtype to, const void *x, ag_dtype from, int64_t n, int n_threads,
              int isa);

/* Loss of each row: out[r] = mean over C of f(p - t), see ag_row_loss. p, t [R,C]; out [R]. */
void cpu_row_loss(float *out, ag_loss_kind kind, const float *p, const float *t, int64_t rows,
                  int64_t cols, double c, int n_threads, int isa);
/* dp[r,i] = d[r] f'(p - t) / C. The gradient by t is its negative. */
void cpu_row_loss_grad(float *dp, ag_loss_kind kind, const float *p, const float *t, const float *d,
                       int64_t rows, int64_t cols, double c, int n_threads, int isa);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_ELEMENTWISE_H */
