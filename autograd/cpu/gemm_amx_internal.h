/* gemm_amx_internal.h - one product of bf16 numbers on AMX tiles, its operands brought by callbacks. For
 * files in autograd/cpu only.
 *
 *   C [m,n] = A [m,k] B [k,n] + bias, or added to C
 *
 * k is cut into steps of 32. A is read where it lies when its rows are made of whole steps: step s of row
 * r stands at a + r * a_row + a_step[s], 64 bytes of it. So a convolution's patches are never gathered: a
 * step is 32 channels of one tap. What does not lie so is packed once, by pack_a. B is packed, and rounded
 * to bf16 on the way, in blocks that stay in the second-level cache; every element once for each range
 * of rows, which for few threads means once.
 *
 * A product of few rows and many weights is better turned: C^T = B^T A^T with the weights as A, which then
 * need no packing, and few columns to pack. `turned` stores C^T back as C.
 *
 * Bits: an element of C is summed over k in ascending order, and its partial sums wait in f32; so neither
 * how k is cut nor the number of threads changes anything.
 */
#ifndef AG_CPU_GEMM_AMX_INTERNAL_H
#define AG_CPU_GEMM_AMX_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/tensor.h"

enum {
    GEMM_AMX_ROWS = 32,        /* rows of a block of A */
    GEMM_AMX_STEP = 32,        /* of k */
    GEMM_AMX_TILE_BYTES = 1024
};

typedef struct gemm_amx_job gemm_amx_job;
struct gemm_amx_job {
    int64_t m, n, n_steps;

    /* Rows below direct_rows, a multiple of 32, are read where they lie. */
    const char *a;
    int64_t a_row, direct_rows;
    const int64_t *a_step; /* [n_steps] bytes; NULL: step s stands at 64 s */
    int64_t new_step; /* below this step rows hold what earlier rows did, so that nothing need be fetched */
    int64_t image_rows, image_bytes; /* rows start anew every image_rows, a multiple of 32; 0: never */
    /* The other rows: 32 of them from `row` on as [n_steps][2 tiles of 16 rows][16 rows of 32]. */
    void (*pack_a)(const gemm_amx_job *job, void *dst, int64_t row);

    /* Tiles [n_cols / 16 rounded up][n_steps] of pairs along k, zeros beyond n. col is a multiple of 16. */
    void (*pack_b)(const gemm_amx_job *job, void *dst, int64_t step, int64_t n_steps, int64_t col,
                   int64_t n_cols);
    bool b_along_n; /* what pack_b reads lies along n */

    char *c;
    int64_t c_row;          /* bytes to the next row */
    const int64_t *c_place; /* or where each row stands, in bytes; below 0: nobody wants it */
    ag_dtype c_type;
    const char *plus;  /* laid out as C, and may be C: added before the result is rounded; or NULL */
    const float *bias; /* [n] or NULL */
    bool turned;       /* C is stored as [n,m], its rows and their places those of B's columns; bias [m] */

    const void *user;
};

/* 64-byte aligned scratch, in bytes; pointers of the job are not looked at. */
size_t gemm_amx_scratch(const gemm_amx_job *job, int n_threads);
void gemm_amx_run(const gemm_amx_job *job, void *scratch, int n_threads);

/* --- tiles of stored matrices, for pack_a and pack_b ------------------------------------------------- */

/* A matrix in memory: element (i, j) at data + (i * ld + j) elements of `type`. */
typedef struct gemm_amx_source {
    const void *data;
    int64_t ld;
    ag_dtype type; /* AG_F32 or AG_BF16 */
} gemm_amx_source;

/* B's tile from rows that lie along k: src rows are columns of B. Of 16 columns and 32 k, n and k are
 * there. */
void gemm_amx_tile_across(void *dst, const gemm_amx_source *src, int64_t col, int64_t k0, int64_t n,
                          int64_t k);
/* B's tiles from rows that lie along n: of 32 rows k are there; n columns, a tile every `side` bytes. */
void gemm_amx_band_down(void *dst, int64_t side, const gemm_amx_source *src, int64_t k0, int64_t col,
                        int64_t k, int64_t n);
/* A's tile from rows that lie along k. Of 16 rows and 32 k, m and k are there. */
void gemm_amx_rows_across(void *dst, const gemm_amx_source *src, int64_t row, int64_t k0, int64_t m,
                          int64_t k);
/* A's tile from rows that lie along m. */
void gemm_amx_rows_down(void *dst, const gemm_amx_source *src, int64_t k0, int64_t row, int64_t k,
                        int64_t m);

#endif /* AG_CPU_GEMM_AMX_INTERNAL_H */
