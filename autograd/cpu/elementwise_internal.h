/* elementwise_internal.h - the table that each instruction set's elementwise kernels fill.
 *
 * Each works on one piece of at most CPU_PIECE elements (or on one row) and knows no threads;
 * elementwise.c and optimizer.c cut tensors into pieces. Private to autograd/cpu.
 */
#ifndef AG_CPU_ELEMENTWISE_INTERNAL_H
#define AG_CPU_ELEMENTWISE_INTERNAL_H

#include "autograd/cpu/elementwise.h"
#include "autograd/numbers.h"

enum { CPU_PIECE = 16384 }; /* elements; 64 KiB of f32 */

typedef struct cpu_elementwise_kernels {
    /* Does what is fast in vectors; false: this function and order are not among it. */
    bool (*unary)(float *y, ag_unary_kind kind, int order, const float *x, const float *d,
                  int64_t n, float parameter);
    void (*stream)(float *y, float value, int64_t n); /* fill past the caches; y 64-byte aligned */
    void (*affine)(float *y, const float *x, float a, float b, int64_t n);
    void (*axpy)(float *y, float a, const float *x, int64_t n);
    void (*lerp)(float *y, const float *x, float w, int64_t n);
    /* Steps of a and b are 0 or 1 elements. */
    void (*binary)(float *y, cpu_binary_kind kind, const float *a, const float *b, int step_a,
                   int step_b, int64_t n);
    /* The piece begins at element `first` of the tensor, a multiple of 4. */
    void (*dropout)(float *y, const float *x, int64_t n, const ag_draw *draw, uint64_t first,
                    uint32_t smallest, float raise);
    void (*add_bf16)(uint16_t *y, const uint16_t *a, const uint16_t *b, int64_t n);
    void (*geglu_row)(void *y, const void *u, int64_t cols, bool bf16);
    void (*geglu_grad_row)(void *du, const void *u, const void *dy, int64_t cols, bool bf16);
    void (*to_bf16)(uint16_t *y, const float *x, int64_t n);
    void (*from_bf16)(float *y, const uint16_t *x, int64_t n);
    void (*to_f16)(uint16_t *y, const float *x, int64_t n);
    void (*from_f16)(float *y, const uint16_t *x, int64_t n);
    double (*loss_row)(ag_loss_kind kind, const float *p, const float *t, int64_t n, float c);
    void (*loss_grad_row)(float *dp, ag_loss_kind kind, const float *p, const float *t, float d,
                          int64_t n, float c);
    double (*sumsq)(const float *x, int64_t n);
    double (*sum)(const float *x, int64_t n);
    void (*add_to_doubles)(double *y, const float *x, int64_t n);
} cpu_elementwise_kernels;

extern const cpu_elementwise_kernels cpu_elementwise_portable, cpu_elementwise_avx2,
    cpu_elementwise_avx512, cpu_elementwise_amx;

const cpu_elementwise_kernels *cpu_elementwise_of(int isa);

/* How two inputs of one broadcast shape walk through it. Axes that both walk through alike are one
 * axis; the last is a run of steps 0 or 1. */
typedef struct cpu_walk {
    int n_dims;
    int64_t size[AG_MAX_DIMS], step_a[AG_MAX_DIMS], step_b[AG_MAX_DIMS];
} cpu_walk;
cpu_walk cpu_walk_of(int n_dims, const int64_t *dims, const int64_t *a_dims,
                     const int64_t *b_dims);

/* Threads that `n` elements are worth: waking another costs some microseconds. */
static inline int cpu_team(int64_t n, int n_threads)
{
    const int64_t worth = 1 + n / 8192;
    return worth < n_threads ? (int)worth : n_threads;
}

static inline int64_t cpu_least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Run BODY for pieces [i, i + len) of n elements, on as many of n_threads threads as that is worth. */
#define CPU_EACH_PIECE(BODY)                                                                      \
    do {                                                                                          \
        _Pragma("omp parallel for num_threads(cpu_team(n, n_threads)) schedule(static)")          \
        for (int64_t i = 0; i < n; i += CPU_PIECE) {                                              \
            const int64_t len = cpu_least(CPU_PIECE, n - i);                                      \
            BODY;                                                                                 \
        }                                                                                         \
    } while (0)

#endif /* AG_CPU_ELEMENTWISE_INTERNAL_H */
