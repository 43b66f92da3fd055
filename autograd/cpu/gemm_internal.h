/* gemm_internal.h - the pieces that products and convolutions are built of. For files in
 * autograd/cpu only.
 *
 * A register tile is mr rows by nr columns of C, summed over a block of k. Its operands:
 *   A, as rows    mr rows with k contiguous and any row stride: read where it lies
 *   A, as panels  [k][lda], the first mr of them used: one stream of memory instead of mr, and faster
 *   B, as panels  [k][nr], nr floats from a 64-byte boundary
 * An element of C is one chain of fused multiply-adds over k in ascending order, in every tile size
 * and for any division of the work; only the length of the blocks of k (gemm_k_block), which
 * depends on k alone, shapes its bits.
 */
#ifndef AG_CPU_GEMM_INTERNAL_H
#define AG_CPU_GEMM_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GEMM_MAX_MR = 14, GEMM_MAX_K_BLOCK = 384 };

/* What a tile fetches into the second-level cache for whoever comes after it: in each step of k the line at
 * `at`, which moves by `step` bytes. Operands come from main memory, a network's other layers having pushed
 * them out, and nothing else asks for them early enough. Any address will do, {(uintptr_t)a, 0} for nothing. */
typedef struct gemm_ahead {
    uintptr_t at;
    int64_t step;
} gemm_ahead;

/* c[i][j] = alpha sum_l a(i,l) b[l][j] + beta old[i][j] + bias[j] for i < m <= mr, j < n <= nr, where old
 * lies to_old bytes after c: 0, or from C to a matrix of the same strides. beta 0: old is not read. bias NULL:
 * none. */
typedef void gemm_tile_fn(int m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                          float *const *c, uintptr_t to_old, float alpha, float beta, const float *bias,
                          gemm_ahead ahead);
/* The same for a whole tile of mr x nr that fetches runs of memory: after every `run` steps of k, `jump` bytes are
 * skipped. */
typedef void gemm_runs_fn(int64_t k, const float *a, int64_t lda, const float *b, float *const *c, uintptr_t to_old,
                          float alpha, float beta, const float *bias, gemm_ahead ahead, int64_t run, int64_t jump);

typedef struct gemm_kernels {
    const char *name; /* "own avx2" */
    int mr, nr;
    int a_step;        /* mr rounded up to whole vectors */
    int column_panels; /* most panels of B in a task: what fits the second-level cache */
    bool a_in_l1;      /* a panel of A stays in the first level while B passes; else reverse */
    gemm_tile_fn *tile_rows, *tile_panels;
    gemm_runs_fn *rows_and_runs; /* of A as rows */

    /* Panels of B from b(l,j) = src[l * ld + j], or src[j * ld + l] (transposed), for l < k,
     * j < n. The last panel is filled up with zeros. */
    void (*pack_b)(float *dst, const float *src, int64_t ld, bool transposed, int64_t k, int64_t n);
    /* Panels of A from a(i,l) = src[l * ld + i], i < m. What fills up panels is undefined. */
    void (*pack_a)(float *dst, const float *src, int64_t ld, int64_t m, int64_t k);
    /* As a tile, with b(l,j) = b[j * ldb + l] as it lies: for m <= 4, where packing B would cost
     * more than the product. */
    void (*dots)(int m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                 int64_t ldb, float *const *c, float alpha, float beta, const float *bias);
} gemm_kernels;

extern const gemm_kernels gemm_kernels_portable, gemm_kernels_avx2, gemm_kernels_avx512;

const gemm_kernels *gemm_kernels_of(int isa);

/* Length of a block of k: at most GEMM_MAX_K_BLOCK, all blocks about equal. */
int64_t gemm_k_block(int64_t k);

/* --- one product, its operands brought by callbacks ----------------------------------------- */

/* Where an operand lies: n runs of `bytes`, `stride` bytes apart. n 0: not known. */
typedef struct gemm_place {
    uintptr_t at;
    int64_t n, bytes, stride;
} gemm_place;

typedef struct gemm_job gemm_job;
struct gemm_job {
    int64_t m, n, k, batch; /* batch products; callbacks get the index */
    float alpha, beta;
    uintptr_t to_old; /* bytes from C to what beta multiplies */
    const float *bias;

    /* place_a and place_b tell what will be read, so that it is fetched before; NULL: nothing is. Not for panels.
     *
     * A: at a(batch) with row stride lda (rows, k contiguous), or brought by fill_a */
    const float *(*rows_a)(const gemm_job *job, int64_t batch); /* NULL: fill_a */
    int64_t lda;
    bool a_is_panels; /* fill_a writes panels, not rows of stride ld */
    void (*fill_a)(const gemm_job *job, int64_t batch, float *dst, int64_t ld, int64_t row,
                   int64_t n_rows, int64_t k0, int64_t n_k);
    gemm_place (*place_a)(const gemm_job *job, int64_t batch, int64_t row, int64_t n_rows, int64_t k0,
                          int64_t n_k);
    /* B: panels of columns col.. (a multiple of nr) and k0.. */
    void (*fill_b)(const gemm_job *job, int64_t batch, float *dst, int64_t k0, int64_t n_k,
                   int64_t col, int64_t n_cols);
    gemm_place (*place_b)(const gemm_job *job, int64_t batch, int64_t k0, int64_t n_k, int64_t col,
                          int64_t n_cols);
    bool same_b; /* for all products */
    float *(*row_c)(const gemm_job *job, int64_t batch, int64_t row);

    const gemm_kernels *kernels;
    const void *user;
};

size_t gemm_job_scratch(const gemm_job *job, int n_threads);
void gemm_job_run(const gemm_job *job, void *scratch, int n_threads);

static inline size_t gemm_round64(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

#endif /* AG_CPU_GEMM_INTERNAL_H */
