/* layout.h - moving and summing elements on the CPU: axes, slices, look-up.
 *
 * Tensors are contiguous f32, outputs never overlap inputs. Bits do not depend on the number of
 * threads. isa is a cpu_isa of autograd/cpu/isa.h.
 */
#ifndef AG_CPU_LAYOUT_H
#define AG_CPU_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y = scale * sum of x over the axes whose bits are set in `axes` (bit i: axis i); n_dims <= 8.
 * Sums run in double. An empty sum is 0. */
size_t cpu_sum_scratch(int n_dims, const int64_t *dims, unsigned axes);
void cpu_sum(float *y, const float *x, int n_dims, const int64_t *dims, unsigned axes,
             double scale, void *scratch, int n_threads, int isa);

/* Stretch x [x_dims] to y [dims]; both have n_dims (<= 8) entries, x_dims[i] is dims[i] or 1. */
void cpu_broadcast(float *y, const float *x, int n_dims, const int64_t *dims, const int64_t *x_dims,
                   int n_threads);

/* y[i_axes[0], i_axes[1], ...] = x[i_0, i_1, ...]: axis j of y is axis axes[j] of x; dims are of
 * x. */
void cpu_permute(float *y, const float *x, int n_dims, const int64_t *dims, const int *axes,
                 int n_threads);

/* y[o * y_stride + i] = x[o * x_stride + i] for o < outer, i < inner; strides in elements of `size`
 * bytes. A slice or one half of a concatenation. */
void cpu_copy_rows(void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t outer,
                   int64_t inner, size_t size, int n_threads);
/* The same with y += x, f32: the adjoint of a slice. */
void cpu_add_rows(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t outer,
                  int64_t inner, int n_threads);

/* y[i,:] = table[ids[i],:]; table [V,D]. Ids are checked by the caller. */
void cpu_embedding(float *y, const float *table, const int64_t *ids, int64_t n, int64_t d,
                   int n_threads);
/* dtable[ids[i],:] += dy[i,:] in the order of i; dtable [V,D] is set to zero first. */
void cpu_embedding_grad(float *dtable, const float *dy, const int64_t *ids, int64_t n, int64_t d,
                        int64_t vocabulary, int n_threads);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_LAYOUT_H */
