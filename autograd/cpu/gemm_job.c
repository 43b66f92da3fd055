/* gemm_job.c - one product divided into tasks, and a task into register tiles.
 *
 * A task is a range of rows times a range of columns of one product of the batch, over all of k.
 * Whoever runs it packs its own B, in blocks that fit the second-level cache, and reads or fills A
 * row block by row block. Threads share nothing and wait for nobody; tasks are handed out one by
 * one, so a thread that is held up does not hold up the others. A thread that gets a task with the
 * same columns as its last one finds B already packed when all of k fits (B_KEPT).
 *
 * How large tasks are is chosen by counting cycles for a few candidates; it changes no bits.
 */
#include "autograd/cpu/gemm_internal.h"

#include <omp.h>

enum {
    ROW_BLOCK_PANELS = 8, /* panels of A that are filled at a time */
    B_KEPT = 640 * 1024,  /* floats of B that a thread keeps packed */
    B_NEAR = 256 * 1024   /* of these stay in a second-level cache of 2 MB, A and C passing through it */
};

/* Cycles for one multiply-add column, and for bringing one float of A or B into place, in units of
 * the time of one vector operation; measured, and nothing depends on their being exact. */
static const double COST_FILL = 0.7;
static const double COST_READ = 0.25; /* of A that is read where it lies */
static const double COST_FAR = 0.1;   /* of kept B that does not stay near, for each block of rows */

typedef struct gemm_plan {
    int64_t kb, n_k;         /* block of k, how many */
    int64_t rows, columns;   /* of a task; columns is a multiple of nr */
    int64_t n_rows, n_columns;
    bool keep_b;
    size_t a_floats, b_floats; /* per thread */
} gemm_plan;

int64_t gemm_k_block(int64_t k)
{
    const int64_t n = (k + GEMM_MAX_K_BLOCK - 1) / GEMM_MAX_K_BLOCK;
    const int64_t block = n ? (k + n - 1) / n : 0;
    return (block + 7) / 8 * 8;
}

static int64_t at_most(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Cycles until the last thread is done, roughly. */
static double plan_cycles(const gemm_job *job, const gemm_plan *p, int n_threads)
{
    const double vector = job->kernels->nr / 2.0; /* floats in a vector */
    const double waves = (double)ceil_div(p->n_rows * p->n_columns * job->batch, n_threads);
    const double product = (double)p->rows * p->columns / vector / 2.0;
    const double fill_b = (double)p->columns * COST_FILL;
    const double fill_a = (double)p->rows * (job->rows_a ? COST_READ : COST_FILL);
    const bool far = p->keep_b && p->n_k * p->kb * p->columns > B_NEAR;
    const double blocks = (double)p->rows / (ROW_BLOCK_PANELS * job->kernels->mr);
    const double read_b = far ? blocks * (double)p->columns * COST_FAR : 0.0;
    double b_fills = waves; /* how often a thread fills B */

    if (p->keep_b) {
        const double distinct = (double)p->n_columns * (job->same_b ? 1 : (double)job->batch);
        b_fills = distinct < waves ? distinct : waves;
    }
    return (waves * (product + fill_a + read_b) + b_fills * fill_b) * (double)job->k + waves * 500.0;
}

static gemm_plan plan_of(const gemm_job *job, int n_threads)
{
    const gemm_kernels *kernels = job->kernels;
    const int64_t panels = ceil_div(job->n, kernels->nr);
    const int64_t most = at_most(panels, kernels->column_panels);
    gemm_plan best = {0};
    double best_cycles = 0.0;

    for (int64_t parts = ceil_div(panels, most); parts <= panels; parts += 1 + parts / 4) {
        const int64_t columns = ceil_div(panels, parts) * kernels->nr;
        for (int64_t row_parts = 1; row_parts <= 64; row_parts *= 2) {
            gemm_plan p = {.kb = gemm_k_block(job->k), .columns = columns};
            double cycles;
            p.n_k = ceil_div(job->k, p.kb);
            p.rows = ceil_div(ceil_div(job->m, row_parts), kernels->mr) * kernels->mr;
            p.n_rows = ceil_div(job->m, p.rows);
            p.n_columns = ceil_div(panels * kernels->nr, columns);
            p.keep_b = p.n_k * p.kb * columns <= B_KEPT;
            cycles = plan_cycles(job, &p, n_threads);
            if (best.rows == 0 || cycles < best_cycles) {
                best = p;
                best_cycles = cycles;
            }
            if (p.rows <= kernels->mr)
                break;
        }
        if (columns <= kernels->nr)
            break;
    }
    best.b_floats = (size_t)((best.keep_b ? best.n_k : 1) * best.kb * best.columns);
    best.a_floats = job->rows_a ? 0 : (size_t)(ROW_BLOCK_PANELS * kernels->a_step * (best.kb + 8));
    return best;
}

static size_t plan_bytes_per_thread(const gemm_plan *p)
{
    return gemm_round64(p->a_floats * sizeof(float)) + gemm_round64(p->b_floats * sizeof(float));
}

size_t gemm_job_scratch(const gemm_job *job, int n_threads)
{
    const gemm_plan p = plan_of(job, n_threads);
    return plan_bytes_per_thread(&p) * (size_t)n_threads;
}

/* What a thread holds while it works. */
typedef struct gemm_worker {
    const gemm_job *job;
    const gemm_plan *plan;
    float *a, *b;
    int64_t kept_batch, kept_column; /* what b holds; -1: nothing */
} gemm_worker;

/* A block of A as the tile wants it. */
typedef struct a_block {
    const float *data;
    int64_t ld;
    int64_t panel_size; /* floats from a panel to the next; of rows: mr rows */
} a_block;

static a_block block_of_a(gemm_worker *w, int64_t batch, int64_t row, int64_t n_rows, int64_t k0,
                          int64_t n_k)
{
    const gemm_job *job = w->job;
    const int mr = job->kernels->mr;
    const int64_t ld = w->plan->kb + 8; /* rows are not a power of two apart */

    if (job->rows_a)
        return (a_block){job->rows_a(job, batch) + row * job->lda + k0, job->lda, mr * job->lda};
    job->fill_a(job, batch, w->a, ld, row, n_rows, k0, n_k);
    if (job->a_is_panels)
        return (a_block){w->a, job->kernels->a_step, job->kernels->a_step * n_k};
    return (a_block){w->a, ld, mr * ld};
}

/* What tile t of n_tiles, n_k steps each, fetches ahead: its part of `bytes` from `from` on. */
static gemm_ahead part_ahead(uintptr_t from, int64_t bytes, int64_t t, int64_t n_tiles, int64_t n_k)
{
    const int64_t step = ceil_div(bytes, n_tiles * n_k);
    return (gemm_ahead){from + (uintptr_t)(t * n_k * step), step};
}

/* Rows row.. times columns col.. over one block of k, while the same number of rows that follow is fetched. */
static void run_block(gemm_worker *w, int64_t batch, int64_t row, int64_t n_rows, int64_t col,
                      int64_t n_cols, int64_t k0, int64_t n_k, const float *b)
{
    const gemm_job *job = w->job;
    const gemm_plan *p = w->plan;
    const int mr = job->kernels->mr, nr = job->kernels->nr;
    const a_block a = block_of_a(w, batch, row, n_rows, k0, n_k);
    const int64_t row_panels = ceil_div(n_rows, mr), col_panels = ceil_div(n_cols, nr);
    const int64_t n_tiles = row_panels * col_panels;
    const bool fetch = job->rows_a && p->keep_b && job->lda < 2 * job->k;
    const int64_t next_bytes = fetch ? n_rows * job->lda * (int64_t)sizeof(float) : 0;
    const uintptr_t next = (uintptr_t)(fetch ? a.data - k0 : a.data) + (uintptr_t)next_bytes;
    gemm_tile_fn *tile = job->a_is_panels ? job->kernels->tile_panels : job->kernels->tile_rows;
    float *rows[ROW_BLOCK_PANELS * GEMM_MAX_MR];

    for (int64_t i = 0; i < n_rows; i++)
        rows[i] = job->row_c(job, batch, row + i) + col;
    for (int64_t t = 0; t < n_tiles; t++) {
        const int64_t r = job->kernels->a_in_l1 ? t / col_panels : t % row_panels;
        const int64_t s = job->kernels->a_in_l1 ? t % col_panels : t / row_panels;
        const int m = (int)at_most(mr, n_rows - r * mr);
        float *c[GEMM_MAX_MR];

        for (int i = 0; i < m; i++)
            c[i] = rows[r * mr + i] + s * nr;
        tile(m, at_most(nr, n_cols - s * nr), n_k, a.data + r * a.panel_size, a.ld, b + s * nr * n_k, c,
             k0 == 0 ? job->to_old : 0, job->alpha, k0 == 0 ? job->beta : 1.0f,
             k0 == 0 && job->bias ? job->bias + col + s * nr : NULL,
             part_ahead(next, next_bytes, k0 / p->kb * n_tiles + t, p->n_k * n_tiles, n_k));
    }
}

static void run_task(gemm_worker *w, int64_t batch, int64_t row_part, int64_t col_part)
{
    const gemm_job *job = w->job;
    const gemm_plan *p = w->plan;
    const int64_t row_begin = row_part * p->rows, row_end = at_most(job->m, row_begin + p->rows);
    const int64_t col = col_part * p->columns, n_cols = at_most(p->columns, job->n - col);
    const int64_t row_step = ROW_BLOCK_PANELS * job->kernels->mr;

    if (p->keep_b) { /* all of k for a block of rows, then the next block: C stays near */
        const int64_t batch_of_b = job->same_b ? 0 : batch;
        if (w->kept_batch != batch_of_b || w->kept_column != col)
            for (int64_t k0 = 0; k0 < job->k; k0 += p->kb)
                job->fill_b(job, batch, w->b + k0 * p->columns, k0, at_most(p->kb, job->k - k0),
                            col, n_cols);
        w->kept_batch = batch_of_b;
        w->kept_column = col;
        for (int64_t row = row_begin; row < row_end; row += row_step)
            for (int64_t k0 = 0; k0 < job->k; k0 += p->kb)
                run_block(w, batch, row, at_most(row_step, row_end - row), col, n_cols, k0,
                          at_most(p->kb, job->k - k0), w->b + k0 * p->columns);
        return;
    }
    for (int64_t k0 = 0; k0 < job->k; k0 += p->kb) {
        const int64_t n_k = at_most(p->kb, job->k - k0);
        job->fill_b(job, batch, w->b, k0, n_k, col, n_cols);
        for (int64_t row = row_begin; row < row_end; row += row_step)
            run_block(w, batch, row, at_most(row_step, row_end - row), col, n_cols, k0, n_k, w->b);
    }
}

void gemm_job_run(const gemm_job *job, void *scratch, int n_threads)
{
    const gemm_plan p = plan_of(job, n_threads);
    const int64_t per_product = p.n_rows * p.n_columns;

#pragma omp parallel num_threads(n_threads)
    {
        char *own = (char *)scratch + plan_bytes_per_thread(&p) * (size_t)omp_get_thread_num();
        gemm_worker w = {.job = job,
                         .plan = &p,
                         .a = (float *)own,
                         .b = (float *)(own + gemm_round64(p.a_floats * sizeof(float))),
                         .kept_batch = -1,
                         .kept_column = -1};
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t t = 0; t < job->batch * per_product; t++)
            run_task(&w, t / per_product, t % p.n_rows, t % per_product / p.n_rows);
    }
}
