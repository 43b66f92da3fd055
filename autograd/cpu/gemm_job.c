/* gemm_job.c - one product divided into tasks, and a task into register tiles.
 *
 * A task is a range of rows times a range of columns of one product of the batch, over all of k.
 * Whoever runs it packs its own B, in blocks that fit the second-level cache, and reads or fills A
 * row block by row block. Threads share nothing and wait for nobody; tasks are handed out one by
 * one, so a thread that is held up does not hold up the others. A thread that gets a task with the
 * same columns as its last one finds B already packed when all of k fits (B_KEPT).
 *
 * While tiles are multiplied they fetch what comes next from memory: rows of A, and the B of the task that is
 * likely to be next. Packing then finds it in the second-level cache.
 *
 * How large tasks are is chosen by counting cycles for a few candidates; it changes no bits.
 */
#include "autograd/cpu/gemm_internal.h"

#include <omp.h>

enum {
    ROW_BLOCK_PANELS = 8,  /* panels of A that are filled at a time */
    B_KEPT = 640 * 1024,   /* floats of B that a thread keeps packed */
    B_NEAR = 256 * 1024,   /* of these stay in a second-level cache of 2 MB, A and C passing through it */
    A_B_NEAR = 512 * 1024  /* floats of A, B and the next B that share it */
};

/* Cycles for one multiply-add column, and for bringing one float of A or B into place, in units of
 * the time of one vector operation; measured, and nothing depends on their being exact. */
static const double COST_FILL = 0.7;
static const double COST_FETCHED = 0.35; /* of B that the task before has fetched */
static const double COST_READ = 0.25;    /* of A that is read where it lies */
static const double COST_NEAR = 0.08;    /* of A that stays in the second-level cache from task to task */
static const double COST_FAR = 0.1;      /* of kept B that does not stay near, for each block of rows */

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

static int64_t at_least(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Whether a thread reads the same rows of A for every task, and they stay near beside B and the next B. */
static bool stays_near(const gemm_job *job, const gemm_plan *p)
{
    return job->rows_a && p->n_rows == 1 && job->batch == 1 && (job->m + 2 * p->columns) * job->k <= A_B_NEAR;
}

/* Cycles until the last thread is done, roughly. */
static double plan_cycles(const gemm_job *job, const gemm_plan *p, int n_threads)
{
    const double vector = job->kernels->nr / 2.0; /* floats in a vector */
    const double waves = (double)ceil_div(p->n_rows * p->n_columns * job->batch, n_threads);
    const double product = (double)p->rows * p->columns / vector / 2.0;
    const double cost_a = !job->rows_a ? COST_FILL : stays_near(job, p) ? COST_NEAR : COST_READ;
    const bool far = p->keep_b && p->n_k * p->kb * p->columns > B_NEAR;
    const double blocks = (double)p->rows / (ROW_BLOCK_PANELS * job->kernels->mr);
    const double read_b = far ? blocks * (double)p->columns * COST_FAR : 0.0;
    double b_fills = waves, fill_b; /* b_fills: how often a thread fills B */

    if (p->keep_b) {
        const double distinct = (double)p->n_columns * (job->same_b ? 1 : (double)job->batch);
        b_fills = distinct < waves ? distinct : waves;
    }
    fill_b = (double)p->columns * (COST_FILL + (b_fills - 1.0) * (job->place_b ? COST_FETCHED : COST_FILL));
    return (waves * (product + (double)p->rows * cost_a + read_b) + fill_b) * (double)job->k + waves * 500.0;
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

/* What tiles fetch, each the part that follows the last one's. */
typedef struct fetch_list {
    gemm_ahead part;   /* of the next tile */
    int64_t run, jump; /* of it, where a part is more than one run; run 0: it is one */
    int64_t to_next;   /* bytes */
    int64_t n_parts;   /* that are left */
} fetch_list;

/* What a thread holds while it works. */
typedef struct gemm_worker {
    const gemm_job *job;
    const gemm_plan *plan;
    float *a, *b;
    int64_t kept_batch, kept_column; /* what b holds; -1: nothing */
    fetch_list next_a, next_b;       /* what the tiles in hand fetch, in turns */
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

/* `place` in parts for n_tiles tiles of n_k steps of k: of a place of several runs, each gets whole ones. */
static fetch_list list_of(gemm_place place, int64_t n_tiles, int64_t n_k)
{
    static const char somewhere;
    const int64_t n_runs = ceil_div(place.n, n_tiles); /* of a tile */
    int64_t run, step;

    if (place.n == 0)
        return (fetch_list){.part = {(uintptr_t)&somewhere, 0}};
    if (place.bytes == place.stride) {
        step = ceil_div(place.n * place.bytes, n_tiles * n_k);
        return (fetch_list){.part = {place.at, step}, .to_next = step * n_k, .n_parts = n_tiles};
    }
    run = at_least(n_k / n_runs, 1);
    step = ceil_div(place.bytes, run);
    return (fetch_list){.part = {place.at, step}, .run = n_runs > 1 ? run : 0, .jump = place.stride - run * step,
                        .to_next = n_runs * place.stride, .n_parts = ceil_div(place.n, n_runs)};
}

/* Rows row.. times columns col.. over one block of k. Tiles take turns to fetch the next rows and the next B. */
static void run_block(gemm_worker *w, int64_t batch, int64_t row, int64_t n_rows, int64_t col,
                      int64_t n_cols, int64_t k0, int64_t n_k, const float *b)
{
    const gemm_job *job = w->job;
    const int mr = job->kernels->mr, nr = job->kernels->nr;
    const a_block a = block_of_a(w, batch, row, n_rows, k0, n_k);
    const int64_t row_panels = ceil_div(n_rows, mr), col_panels = ceil_div(n_cols, nr);
    const int64_t n_tiles = row_panels * col_panels;
    fetch_list *turns[2] = {w->next_a.n_parts > 0 ? &w->next_a : &w->next_b,
                            w->next_b.n_parts > 0 ? &w->next_b : &w->next_a};
    gemm_tile_fn *tile = job->a_is_panels ? job->kernels->tile_panels : job->kernels->tile_rows;
    const uintptr_t to_old = k0 == 0 ? job->to_old : 0;
    const float beta = k0 == 0 ? job->beta : 1.0f;
    float *rows[ROW_BLOCK_PANELS * GEMM_MAX_MR];

    for (int64_t i = 0; i < n_rows; i++)
        rows[i] = job->row_c(job, batch, row + i) + col;
    for (int64_t t = 0; t < n_tiles; t++) {
        const int64_t r = job->kernels->a_in_l1 ? t / col_panels : t % row_panels;
        const int64_t s = job->kernels->a_in_l1 ? t % col_panels : t / row_panels;
        const int m = (int)at_most(mr, n_rows - r * mr);
        const int64_t n = at_most(nr, n_cols - s * nr);
        const float *a_tile = a.data + r * a.panel_size, *b_tile = b + s * nr * n_k;
        const float *bias = k0 == 0 && job->bias ? job->bias + col + s * nr : NULL;
        fetch_list *ahead = turns[t % 2];
        float *c[GEMM_MAX_MR];

        for (int i = 0; i < m; i++)
            c[i] = rows[r * mr + i] + s * nr;
        if (ahead->run && m == mr && n == nr)
            job->kernels->rows_and_runs(n_k, a_tile, a.ld, b_tile, c, to_old, job->alpha, beta, bias, ahead->part,
                                        ahead->run, ahead->jump);
        else
            tile(m, n, n_k, a_tile, a.ld, b_tile, c, to_old, job->alpha, beta, bias, ahead->part);
        ahead->part.at += (uintptr_t)ahead->to_next;
        if (--ahead->n_parts == 0)
            *ahead = list_of((gemm_place){0}, 1, 1);
    }
}

typedef struct gemm_task {
    int64_t batch, row, n_rows, col, n_cols;
} gemm_task;

/* Task t; one beyond the last has no rows. */
static gemm_task task_of(const gemm_job *job, const gemm_plan *p, int64_t t)
{
    const int64_t per_product = p->n_rows * p->n_columns;
    const int64_t row = t % p->n_rows * p->rows, col = t % per_product / p->n_rows * p->columns;

    if (t >= job->batch * per_product)
        return (gemm_task){0};
    return (gemm_task){t / per_product, row, at_most(p->rows, job->m - row), col,
                       at_most(p->columns, job->n - col)};
}

/* A block of k. */
typedef struct k_range {
    int64_t k0, n_k;
} k_range;

/* While n_rows rows from `row` on of task t are multiplied over k_here, the ones that follow are fetched: the
 * task's, or over k_after the first of `after`. */
static void fetch_rows(gemm_worker *w, const gemm_task *t, const gemm_task *after, int64_t row, int64_t n_rows,
                       k_range k_here, k_range k_after)
{
    const gemm_job *job = w->job;
    const gemm_plan *p = w->plan;
    const int64_t next = row + n_rows, step = ROW_BLOCK_PANELS * job->kernels->mr, end = t->row + t->n_rows;
    const int64_t n_tiles = ceil_div(n_rows, job->kernels->mr) * ceil_div(t->n_cols, job->kernels->nr) *
                            ceil_div(k_here.n_k, p->kb);
    gemm_place place = {0};

    if (next < end)
        place = job->place_a(job, t->batch, next, at_most(step, end - next), k_here.k0, k_here.n_k);
    else if (after->n_rows > 0)
        place = job->place_a(job, after->batch, after->row, at_most(step, after->n_rows), k_after.k0, k_after.n_k);
    w->next_a = list_of(place, w->next_b.n_parts > 0 ? ceil_div(n_tiles, 2) : n_tiles, at_most(p->kb, k_here.n_k));
}

/* While task t is multiplied over n_k of k, B of `next` over k_next is fetched. */
static void fetch_b(gemm_worker *w, const gemm_task *t, int64_t n_k, const gemm_task *next, k_range k_next)
{
    const gemm_kernels *kernels = w->job->kernels;
    const int64_t blocks = ceil_div(n_k, w->plan->kb);
    const int64_t n_tiles = ceil_div(t->n_rows, kernels->mr) * ceil_div(t->n_cols, kernels->nr) * blocks;
    gemm_place place = {0};

    if (next->n_rows > 0)
        place = w->job->place_b(w->job, next->batch, k_next.k0, k_next.n_k, next->col, next->n_cols);
    w->next_b = list_of(place, at_least(n_tiles / 2, 1), at_most(w->plan->kb, n_k));
}

/* All of k for a block of rows, then the next block: C stays near. B is kept for the next task. */
static void run_task_kept(gemm_worker *w, const gemm_task *t, const gemm_task *next)
{
    const gemm_job *job = w->job;
    const gemm_plan *p = w->plan;
    const int64_t row_end = t->row + t->n_rows, row_step = ROW_BLOCK_PANELS * job->kernels->mr;
    const int64_t batch_of_b = job->same_b ? 0 : t->batch;
    const bool has_rows = stays_near(job, p) && w->kept_column >= 0;
    const k_range all = {0, job->k};

    if (w->kept_batch != batch_of_b || w->kept_column != t->col)
        for (int64_t k0 = 0; k0 < job->k; k0 += p->kb)
            job->fill_b(job, t->batch, w->b + k0 * p->columns, k0, at_most(p->kb, job->k - k0), t->col, t->n_cols);
    w->kept_batch = batch_of_b;
    w->kept_column = t->col;
    w->next_a = w->next_b = list_of((gemm_place){0}, 1, 1);
    if (job->place_b && (next->col != t->col || (!job->same_b && next->batch != t->batch)))
        fetch_b(w, t, job->k, next, all);
    for (int64_t row = t->row; row < row_end; row += row_step) {
        const int64_t n_rows = at_most(row_step, row_end - row);
        if (job->place_a && !has_rows)
            fetch_rows(w, t, next, row, n_rows, all, all);
        for (int64_t k0 = 0; k0 < job->k; k0 += p->kb)
            run_block(w, t->batch, row, n_rows, t->col, t->n_cols, k0, at_most(p->kb, job->k - k0),
                      w->b + k0 * p->columns);
    }
}

/* All rows for a block of k, then the next block. */
static void run_task_by_k(gemm_worker *w, const gemm_task *t, const gemm_task *next)
{
    const gemm_job *job = w->job;
    const int64_t kb = w->plan->kb, row_end = t->row + t->n_rows, row_step = ROW_BLOCK_PANELS * job->kernels->mr;

    for (int64_t k0 = 0; k0 < job->k; k0 += kb) {
        const k_range here = {k0, at_most(kb, job->k - k0)};
        const bool last = k0 + kb >= job->k;
        const int64_t k1 = last ? 0 : k0 + kb;
        const k_range then = {k1, at_most(kb, job->k - k1)};
        const gemm_task *after = last ? next : t;

        job->fill_b(job, t->batch, w->b, k0, here.n_k, t->col, t->n_cols);
        w->next_a = w->next_b = list_of((gemm_place){0}, 1, 1);
        if (job->place_b)
            fetch_b(w, t, here.n_k, after, then);
        for (int64_t row = t->row; row < row_end; row += row_step) {
            const int64_t n_rows = at_most(row_step, row_end - row);
            if (job->place_a)
                fetch_rows(w, t, after, row, n_rows, here, then);
            run_block(w, t->batch, row, n_rows, t->col, t->n_cols, k0, here.n_k, w->b);
        }
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
        for (int64_t t = 0; t < job->batch * per_product; t++) {
            const gemm_task task = task_of(job, &p, t), next = task_of(job, &p, t + n_threads); /* most likely */
            if (p.keep_b)
                run_task_kept(&w, &task, &next);
            else
                run_task_by_k(&w, &task, &next);
        }
    }
}
