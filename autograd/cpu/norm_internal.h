/* norm_internal.h - the table that each instruction set's norm kernels fill.
 *
 * Private to autograd/cpu/norm*.c; callers use autograd/cpu/norm.h. Signatures as there, without
 * the instruction set.
 */
#ifndef AG_CPU_NORM_INTERNAL_H
#define AG_CPU_NORM_INTERNAL_H

#include "autograd/cpu/norm.h"

typedef struct cpu_norm_kernels {
    void (*softmax)(float *y, const float *x, int64_t rows, int64_t cols, int n_threads);
    void (*softmax_grad)(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols,
                         int n_threads);
    void (*group_forward)(void *y, float *mean, float *rstd, const cpu_group_norm *s,
                          const void *x, const float *gamma, const float *beta, void *scratch,
                          int n_threads);
    void (*group_backward)(void *dx, float *dgamma, float *dbeta, const cpu_group_norm *s,
                           const void *x, const float *gamma, const float *beta,
                           const float *mean, const float *rstd, const void *dy, void *scratch,
                           int n_threads);
    void (*layer_forward)(void *y, float *mean, float *rstd, const void *x, bool bf16,
                          const float *gamma, const float *beta, int64_t rows, int64_t cols,
                          double eps, int n_threads);
    void (*layer_backward)(void *dx, float *dgamma, float *dbeta, const void *x, bool bf16,
                           const float *gamma, const float *mean, const float *rstd,
                           const void *dy, int64_t rows, int64_t cols, void *scratch,
                           int n_threads);
} cpu_norm_kernels;

extern const cpu_norm_kernels cpu_norm_portable, cpu_norm_avx2, cpu_norm_avx512, cpu_norm_amx;

/* How work is cut, by shape alone. A chunk is what one task does; its sums are added to the others'
 * in order. */
static inline int64_t cpu_norm_chunks(int64_t rows, int64_t cols)
{
    const int64_t chunks = rows * cols / 16384;
    return chunks < 1 ? 1 : chunks > 32 ? (rows < 32 ? rows : 32) : chunks < rows ? chunks : rows;
}

/* Rows that are summed in f32 before the sum goes to double; a block also stays in the L1 or L2
 * cache for its second reading. */
static inline int64_t cpu_norm_block_rows(int64_t cols)
{
    const int64_t rows = 16384 / cols;
    return rows < 1 ? 1 : rows > 128 ? 128 : rows;
}

/* Where the pieces of GroupNorm's scratch lie. */
typedef struct cpu_group_norm_plan {
    int64_t chunks;        /* of a sample's rows */
    int64_t chunk_doubles; /* sums of one chunk */
    int64_t chunk_floats;  /* work space of one chunk */
} cpu_group_norm_plan;

static inline cpu_group_norm_plan cpu_group_norm_plan_of(const cpu_group_norm *s, bool grad)
{
    return (cpu_group_norm_plan){.chunks = cpu_norm_chunks(s->hw, s->c),
                                 .chunk_doubles = grad ? 2 * s->c : 3 * s->groups,
                                 .chunk_floats = (grad ? 8 : 4) * s->c};
}

#endif /* AG_CPU_NORM_INTERNAL_H */
