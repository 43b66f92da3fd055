/* optimizer_internal.h - the table that each instruction set's optimizer kernels fill.
 *
 * Each updates one piece of at most CPU_PIECE elements and knows no threads; optimizer.c,
 * adamw8bit.c and adafactor.c cut tensors into pieces. Factors are in the type of the update.
 * Private to autograd/cpu.
 */
#ifndef AG_CPU_OPTIMIZER_INTERNAL_H
#define AG_CPU_OPTIMIZER_INTERNAL_H

#include "autograd/cpu/adamw8bit.h"
#include "autograd/cpu/elementwise_internal.h"
#include "autograd/cpu/optimizer.h"
#include "autograd/cpu/optimizer_factors.h"

/* Codes, and how they are found: the upper bits of a magnitude (a cell) tell a code that is right or
 * one too low; `above` is where the next one begins. No cell has room for two beginnings. */
enum { CPU_CODE_BASE = (127 - 23) << 7, CPU_CODE_CELLS = (23 << 7) + 1, CPU_CODE_ZERO = 127 };
typedef struct cpu_code_book {
    float value[256];
    float above[256]; /* between the magnitudes i and i + 1; infinity behind the last */
    uint8_t code[CPU_CODE_CELLS + 3]; /* which are read four at a time */
} cpu_code_book;
typedef struct cpu_code_books {
    cpu_code_book m; /* `above` and `code` count magnitudes from CPU_CODE_ZERO */
    cpu_code_book v;
} cpu_code_books;

typedef struct cpu_optimizer_kernels {
    void (*adamw)(float *p, float *m, float *v, const float *g, int64_t n,
                  const cpu_adamw_factors *f);
    /* One block of at most CPU_ADAMW8BIT_BLOCK elements. */
    void (*adamw8bit)(float *p, uint8_t *m, float *m_max, uint8_t *v, float *v_max, const float *g,
                      int64_t n, const cpu_adamw_factors *f, const cpu_code_books *books);
    void (*sgd)(float *p, float *buffer, const float *g, int64_t n, const cpu_sgd_factors *f);
    void (*lion)(float *p, float *m, const float *g, int64_t n, const cpu_lion_factors *f);
    void (*ranger)(float *p, float *m, float *v, float *slow, const float *g, int64_t n,
                   const cpu_ranger_factors *f);
    /* sums[0] = sum of g' (p0 - p), sums[1] = sum of |s|. */
    void (*prodigy_moments)(double sums[2], float *s, float *m, float *v, const float *p,
                            const float *p0, const float *g, int64_t n,
                            const cpu_prodigy_factors *f);
    void (*prodigy_step)(float *p, const float *m, const float *v, int64_t n,
                         const cpu_prodigy_step_factors *f);
    /* cols += (scale g)^2; returns the sum of the same. */
    double (*add_squares_to_doubles)(double *cols, const float *g, int64_t n, float scale);
    /* row += (scale g)^2, col += the same. */
    void (*add_squares)(float *row, float *col, const float *g, int64_t n, float scale);
    /* state = keep state + rest (over sum + eps). */
    void (*keep_mean)(float *state, const float *sum, int64_t n, float keep, float rest, float over,
                      float eps);
    /* f[r] = sqrt(mean of state over r / state[r]), n_rows of n values; one row: 1. */
    void (*row_factors)(float *f, const float *state, int64_t n_rows, int64_t n, int64_t step_f,
                        int64_t step_state);
    void (*col_factors)(float *f, const float *state, int64_t n); /* 1 / sqrt(state) */
    /* Sum of (scale g row col)^2; row NULL: 1. */
    double (*scaled_squares)(const float *g, const float *row, const float *col, int64_t n,
                             float scale);
    void (*adafactor_step)(float *p, float *m, const float *g, const float *row, const float *col,
                           int64_t n, const cpu_adafactor_factors *f);
} cpu_optimizer_kernels;

extern const cpu_optimizer_kernels cpu_optimizer_portable, cpu_optimizer_avx2,
    cpu_optimizer_avx512;

const cpu_optimizer_kernels *cpu_optimizer_of(int isa);

#endif /* AG_CPU_OPTIMIZER_INTERNAL_H */
