/* gemm_amx.c - see gemm_amx_internal.h.
 *
 * A task is a range of rows times a range of columns. Whoever runs it packs its B block by block of k
 * and walks over its rows, 32 x 32 elements of C at a time, in four tiles. With more than one block of k
 * C waits in f32 in the thread's memory. A thread that gets a task with the columns of its last one finds
 * B packed when there is one block.
 */
#include "autograd/cpu/gemm_amx_internal.h"

#include <omp.h>

#include "autograd/cpu/amx_internal.h"

enum {
    BLOCK_STEPS = 144,        /* most steps of k in a block: 4608 */
    B_BYTES = 1 << 20,        /* packed B of a thread, about */
    C_BYTES = 512 << 10,      /* waiting C of a thread, about */
    MAX_COLUMNS = 512,
    TURNED_B_BYTES = 640 << 10, /* of a turned product, whose rows come from memory but once */
    TURNED_C_BYTES = 800 << 10,
    TURNED_TASKS = 2,           /* a thread, while B need not be packed again for each */
    STREAM_NUMBERS = 4 << 20,   /* of a C that no cache keeps for who reads it next */
    ARRIVAL_STEPS = 24,         /* with more, storing C hides behind the multiplications */
    SHORT_B_BYTES = 256 << 10, /* of few rows, where packing takes longer than multiplying */
    SHORT_ROWS = 512,
    SHORT_COLUMNS = 640,
    DOWN_AHEAD = 16, /* rows to fetch before they are packed */
    LINES_AHEAD = 8, /* the same, of whole lines */
    ACROSS_AHEAD = 64 /* numbers of each row */
};

/* Time of a step of one tile of C, and of packing a tile of B, in nanoseconds of one core; rough. */
static const double COST_STEP = 6.5, COST_PACK = 90.0, COST_TASK = 400.0;

typedef struct plan {
    int64_t block, n_blocks;   /* steps of k */
    int64_t rows, columns;     /* of a task; multiples of 32 and 16 */
    int64_t ld_c;              /* of waiting C */
    int64_t n_rows, n_columns; /* ranges */
    int64_t packed_rows;       /* rows of A that are not read directly */
    size_t a_bytes, b_bytes, c_bytes; /* shared; per thread; per thread */
} plan;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- how the work is cut ------------------------------------------------------------------------------ */

static double plan_cost(const gemm_amx_job *job, const plan *p, int n_threads)
{
    const double tasks = (double)(p->n_rows * p->n_columns);
    const double waves = (double)ceil_div(p->n_rows * p->n_columns, n_threads);
    const double steps = (double)(p->columns / AMX_SIDE * job->n_steps);
    /* with tasks of one column handed out in order, a thread seldom packs a column twice */
    const double packs = p->n_blocks > 1 || tasks < 2.0 * n_threads
                             ? waves
                             : (double)at_most((int64_t)waves, ceil_div(p->n_columns, n_threads) + 1);

    return waves * ((double)p->rows / AMX_SIDE * steps * COST_STEP + COST_TASK) + packs * steps * COST_PACK;
}

static int64_t round_to(int64_t a, int64_t unit) { return ceil_div(a, unit) * unit; }

/* Few rows and a B stored along n, of so many k that C waits anyway: blocks of few k and many columns, so that
 * stored rows are read in long pieces and packed B stays in the cache beside them. */
static bool is_short(const gemm_amx_job *job)
{
    return job->b_along_n && job->n_steps > BLOCK_STEPS && job->m <= SHORT_ROWS;
}

static void cut_steps(const gemm_amx_job *job, plan *p)
{
    const int64_t most = is_short(job) ? SHORT_B_BYTES / (p->columns * AMX_ROW_BYTES) : BLOCK_STEPS;

    p->n_blocks = ceil_div(job->n_steps, most);
    p->block = ceil_div(job->n_steps, p->n_blocks);
    p->n_blocks = ceil_div(job->n_steps, p->block);
}

/* The cheapest by plan_cost. */
static plan cheapest_plan(const gemm_amx_job *job, int n_threads)
{
    const int64_t tiles = ceil_div(job->n, AMX_SIDE), m = round_to(job->m, GEMM_AMX_ROWS);
    const int64_t most_columns = is_short(job) ? SHORT_COLUMNS : MAX_COLUMNS;
    plan best = {0};
    double best_cost = 0.0;

    for (int64_t pairs = 1; pairs <= most_columns / 32; pairs++) {
        plan p = {.columns = at_most(tiles, 2 * pairs) * AMX_SIDE};
        cut_steps(job, &p);
        if (pairs > 1 && p.columns * p.block * AMX_DEPTH * 2 > B_BYTES)
            break;
        p.n_columns = ceil_div(tiles * AMX_SIDE, p.columns);
        for (int64_t parts = 1; parts <= 64; parts = parts + (parts + 1) / 2) {
            double cost;
            p.rows = round_to(ceil_div(m, parts), GEMM_AMX_ROWS);
            p.n_rows = ceil_div(m, p.rows);
            if (p.n_blocks > 1 && p.rows > GEMM_AMX_ROWS && p.rows * p.columns * 4 > C_BYTES)
                continue;
            cost = plan_cost(job, &p, n_threads);
            if (best_cost == 0.0 || cost < best_cost) {
                best = p;
                best_cost = cost;
            }
            if (p.rows <= GEMM_AMX_ROWS)
                break;
        }
        if (p.columns >= tiles * AMX_SIDE)
            break;
    }
    if (best.rows == 0) { /* long k and very many rows */
        best.columns = at_most(tiles, 2) * AMX_SIDE;
        cut_steps(job, &best);
        best.n_columns = ceil_div(tiles * AMX_SIDE, best.columns);
        best.rows = C_BYTES / 4 / best.columns / GEMM_AMX_ROWS * GEMM_AMX_ROWS;
        best.n_rows = ceil_div(m, best.rows);
    }
    return best;
}

/* All columns at a time, as far as they go, so that rows of A are read but once. */
static plan turned_plan(const gemm_amx_job *job, int n_threads)
{
    const int64_t m = round_to(job->m, GEMM_AMX_ROWS), n = round_to(job->n, AMX_SIDE);
    plan p = {.n_columns = ceil_div(n, MAX_COLUMNS)};

    p.columns = round_to(ceil_div(n, p.n_columns), AMX_SIDE);
    p.n_columns = ceil_div(n, p.columns);
    p.n_blocks = ceil_div(p.columns * job->n_steps * AMX_ROW_BYTES, TURNED_B_BYTES);
    p.block = ceil_div(job->n_steps, p.n_blocks);
    p.n_blocks = ceil_div(job->n_steps, p.block);
    p.rows = round_to(ceil_div(m, n_threads * (p.n_blocks > 1 ? 1 : TURNED_TASKS)), GEMM_AMX_ROWS);
    if (p.n_blocks > 1 && p.rows * p.columns * 4 > TURNED_C_BYTES)
        p.rows = at_most(p.rows, round_to(TURNED_C_BYTES / 4 / p.columns, GEMM_AMX_ROWS));
    p.n_rows = ceil_div(m, p.rows);
    return p;
}

static plan plan_of(const gemm_amx_job *job, int n_threads)
{
    const int64_t m = round_to(job->m, GEMM_AMX_ROWS);
    plan best = job->turned ? turned_plan(job, n_threads) : cheapest_plan(job, n_threads);

    best.packed_rows = m - job->direct_rows;
    best.a_bytes = (size_t)(best.packed_rows * job->n_steps) * 64;
    best.ld_c = best.n_blocks > 1 ? ceil_div(best.columns, 32) * 32 : 32;
    best.b_bytes = (size_t)(best.columns * best.block) * 64;
    best.c_bytes = (size_t)((best.n_blocks > 1 ? best.rows : 2 * GEMM_AMX_ROWS) * best.ld_c * 4);
    return best;
}

size_t gemm_amx_scratch(const gemm_amx_job *job, int n_threads)
{
    const plan p = plan_of(job, n_threads);
    return p.a_bytes + (p.b_bytes + p.c_bytes) * (size_t)n_threads;
}

/* --- 32 x 32 elements --------------------------------------------------------------------------------- */

typedef struct operands {
    const char *a;         /* 32 rows */
    int64_t a_row, a_side; /* bytes to the next row; to row 16 */
    const int64_t *a_step; /* NULL: a_plain bytes a step */
    int64_t a_plain;
    const char *b;
    int64_t b_side; /* bytes to the next tile of columns */
    int64_t n_steps;
    const char *ahead;  /* rows of A to fetch meanwhile, as `a` */
    int64_t n_ahead, new_step;
} operands;

#define STEP_OF_A(s) (o->a_step ? o->a_step[s] : (s) * o->a_plain)

static __mmask16 first_of(int64_t n)
{
    return n >= AMX_SIDE ? (__mmask16)0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* One row of 32 sums, n of which are wanted, to C from column col on. */
AMX_INLINE void store_row(const gemm_amx_job *job, void *row, int64_t col, int64_t n, __m512 low,
                          __m512 high)
{
    const __mmask16 m0 = first_of(n), m1 = first_of(n - AMX_SIDE);
    const char *plus = job->plus ? job->plus + ((char *)row - job->c) : NULL;
    const bool stream = job->m * job->n > STREAM_NUMBERS;

    if (job->c_type == AG_F32) {
        float *dst = (float *)row + col;
        if (plus) {
            const float *from = (const float *)plus + col;
            low = _mm512_add_ps(low, _mm512_maskz_loadu_ps(m0, from));
            high = _mm512_add_ps(high, _mm512_maskz_loadu_ps(m1, from + AMX_SIDE));
        }
        _mm512_mask_storeu_ps(dst, m0, low);
        _mm512_mask_storeu_ps(dst + AMX_SIDE, m1, high);
    } else {
        uint16_t *dst = (uint16_t *)row + col;
        if (plus) {
            const uint16_t *from = (const uint16_t *)plus + col;
            low = _mm512_add_ps(low, amx_widen(_mm256_maskz_loadu_epi16(m0, from)));
            high = _mm512_add_ps(high, amx_widen(_mm256_maskz_loadu_epi16(m1, from + AMX_SIDE)));
        }
        if (stream && m1 == 0xffff && (uintptr_t)dst % 64 == 0)
            _mm512_stream_si512((void *)dst, amx_round_pair(low, high));
        else
            _mm512_mask_storeu_epi16(dst, (__mmask32)m1 << 16 | m0, amx_round_pair(low, high));
    }
}

/* A finished block of C on its way to its place: parts `next` to n_parts of it are still to go, rows or, of
 * a turned product, tiles. They go while the tiles multiply the next block. */
typedef struct departure {
    const float *c;
    int64_t ld, row, col;
    int64_t next, n_parts;
} departure;

static departure departure_of(const gemm_amx_job *job, const float *c, int64_t ld, int64_t row, int64_t col)
{
    return (departure){.c = c, .ld = ld, .row = row, .col = col,
                       .n_parts = job->turned ? 4 : at_most(GEMM_AMX_ROWS, job->m - row)};
}

static void store_one_row(const gemm_amx_job *job, const departure *d, int64_t i)
{
    const int64_t row = d->row + i, n = job->n - d->col;
    const int64_t place = job->c_place ? job->c_place[row] : row * job->c_row;
    __m512 low = _mm512_load_ps(d->c + i * d->ld), high = _mm512_load_ps(d->c + i * d->ld + AMX_SIDE);

    if (job->bias) {
        low = _mm512_add_ps(low, _mm512_maskz_loadu_ps(first_of(n), job->bias + d->col));
        high = _mm512_add_ps(high, _mm512_maskz_loadu_ps(first_of(n - AMX_SIDE), job->bias + d->col + AMX_SIDE));
    }
    if (place >= 0)
        store_row(job, job->c + place, d->col, n, low, high);
}

/* Tile i of four, its rows to columns. */
static void store_turned(const gemm_amx_job *job, const departure *d, int64_t i)
{
    const int64_t row = d->row + i / 2 * AMX_SIDE, col = d->col + i % 2 * AMX_SIDE, n = job->m - row;
    const float *c = d->c + i / 2 * AMX_SIDE * d->ld + i % 2 * AMX_SIDE;
    const __m512 bias = job->bias ? _mm512_maskz_loadu_ps(first_of(n), job->bias + row) : _mm512_setzero_ps();
    __m512i r[AMX_SIDE];

    if (n <= 0)
        return;
    for (int64_t j = 0; j < AMX_SIDE; j++)
        r[j] = _mm512_load_si512(c + j * d->ld);
    amx_transpose(r);
    for (int64_t j = 0; j < at_most(AMX_SIDE, job->n - col); j++) {
        const int64_t place = job->c_place ? job->c_place[col + j] : (col + j) * job->c_row;
        if (place >= 0)
            store_row(job, job->c + place, row, at_most(AMX_SIDE, n),
                      _mm512_add_ps(_mm512_castsi512_ps(r[j]), bias), _mm512_setzero_ps());
    }
}

static void store_parts(const gemm_amx_job *job, departure *d, int64_t count)
{
    const int64_t end = at_most(d->n_parts, d->next + count);

    for (; d->next < end; d->next++)
        if (job->turned)
            store_turned(job, d, d->next);
        else
            store_one_row(job, d, d->next);
}

static void store_rest(const gemm_amx_job *job, departure *d)
{
    store_parts(job, d, GEMM_AMX_ROWS);
}

/* A block of C that is being multiplied: rows `next` to n_rows of it, as C is stored, are still to be brought into
 * the first level, so that neither its departure nor what is added to it waits for memory. */
typedef struct arrival {
    int64_t row, col;
    int64_t next, n_rows;
} arrival;

static arrival arrival_of(const gemm_amx_job *job, int64_t row, int64_t col)
{
    if (job->m * job->n > STREAM_NUMBERS || job->n_steps > ARRIVAL_STEPS)
        return (arrival){.n_rows = 0};
    if (job->turned)
        return (arrival){.row = col, .col = row, .n_rows = at_most(GEMM_AMX_ROWS, job->n - col)};
    return (arrival){.row = row, .col = col, .n_rows = at_most(GEMM_AMX_ROWS, job->m - row)};
}

/* Every processor with tiles has this instruction. */
AMX_INLINE void fetch_to_write(uintptr_t at)
{
    __asm__ volatile("prefetchw (%0)" : : "r"(at));
}

AMX_INLINE void fetch_rows(const gemm_amx_job *job, arrival *e, int64_t count)
{
    const int64_t size = job->c_type == AG_F32 ? 4 : 2, end = at_most(e->n_rows, e->next + count);

    for (; e->next < end; e->next++) {
        const int64_t row = e->row + e->next, place = job->c_place ? job->c_place[row] : row * job->c_row;
        const uintptr_t at = (uintptr_t)(place + e->col * size);

        if (place < 0)
            continue;
        for (uintptr_t i = 0; i < (uintptr_t)(GEMM_AMX_ROWS * size); i += 64) {
            fetch_to_write((uintptr_t)job->c + at + i);
            if (job->plus)
                _mm_prefetch((const char *)((uintptr_t)job->plus + at + i), _MM_HINT_T0);
        }
    }
}

/* C [32][32] = or += A B; `two_m`, `two_n`: whether the second tiles are there. B comes from the second-level
 * cache and passes the first one by, where A stays for the next columns. */
static void multiply(const gemm_amx_job *job, float *c, int64_t ld, const operands *o, bool two_m,
                     bool two_n, bool add, departure *d, arrival e)
{
    char *c0 = (char *)c, *c1 = (char *)(c + AMX_SIDE * ld);
    const char *b0 = o->b, *b1 = b0 + o->b_side;
    const int64_t parts_of_step = ceil_div(d->n_parts, o->n_steps);
    const int64_t rows_of_step = ceil_div(e.n_rows, o->n_steps);

    ld *= 4;
    AMX_FENCE();
    if (add) {
        _tile_loadd(0, c0, ld);
        _tile_loadd(1, c0 + AMX_ROW_BYTES, ld);
        _tile_loadd(2, c1, ld);
        _tile_loadd(3, c1 + AMX_ROW_BYTES, ld);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    if (two_m && two_n) {
        for (int64_t s = 0; s < o->n_steps; s++, b0 += AMX_TILE_BYTES, b1 += AMX_TILE_BYTES) {
            const char *a = o->a + STEP_OF_A(s);
            _tile_stream_loadd(6, b0, AMX_ROW_BYTES);
            _tile_loadd(4, a, o->a_row);
            _tile_dpbf16ps(0, 4, 6);
            _tile_stream_loadd(7, b1, AMX_ROW_BYTES);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, a + o->a_side, o->a_row);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            if (d->next < d->n_parts)
                store_parts(job, d, parts_of_step);
            if (e.next < e.n_rows)
                fetch_rows(job, &e, rows_of_step);
            for (int64_t i = 0; s >= o->new_step && i < o->n_ahead; i++)
                _mm_prefetch(o->ahead + i * o->a_row + STEP_OF_A(s), _MM_HINT_T1);
        }
    } else {
        for (int64_t s = 0; s < o->n_steps; s++, b0 += AMX_TILE_BYTES, b1 += AMX_TILE_BYTES) {
            const char *a = o->a + STEP_OF_A(s);
            _tile_stream_loadd(6, b0, AMX_ROW_BYTES);
            _tile_loadd(4, a, o->a_row);
            _tile_dpbf16ps(0, 4, 6);
            if (two_n) {
                _tile_stream_loadd(7, b1, AMX_ROW_BYTES);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (two_m) {
                _tile_loadd(5, a + o->a_side, o->a_row);
                _tile_dpbf16ps(2, 5, 6);
            }
        }
    }
    store_rest(job, d);
    _tile_stored(0, c0, ld);
    _tile_stored(1, c0 + AMX_ROW_BYTES, ld);
    _tile_stored(2, c1, ld);
    _tile_stored(3, c1 + AMX_ROW_BYTES, ld);
    AMX_FENCE();
}

/* --- tasks ---------------------------------------------------------------------------------------------- */

typedef struct worker {
    const gemm_amx_job *job;
    const plan *p;
    const char *packed_a;
    char *b;
    float *c;
    int64_t kept; /* column range that b holds; -1: none */
} worker;

/* 32 rows from `row` on, steps from `step` on. */
static operands operands_at(const worker *w, int64_t row, int64_t step, int64_t n_steps)
{
    const gemm_amx_job *job = w->job;
    operands o = {.b = w->b, .b_side = n_steps * AMX_TILE_BYTES, .n_steps = n_steps};

    if (row < job->direct_rows) {
        o.a = job->image_rows ? job->a + row / job->image_rows * job->image_bytes +
                                    row % job->image_rows * job->a_row
                              : job->a + row * job->a_row;
        o.a_row = job->a_row;
        o.a_side = AMX_SIDE * job->a_row;
        o.a_plain = AMX_ROW_BYTES;
        if (job->a_step)
            o.a_step = job->a_step + step;
        else
            o.a += step * AMX_ROW_BYTES;
    } else {
        o.a = w->packed_a + ((row - job->direct_rows) * job->n_steps + step * GEMM_AMX_ROWS) * 64;
        o.a_row = AMX_ROW_BYTES;
        o.a_side = AMX_TILE_BYTES;
        o.a_plain = 2 * AMX_TILE_BYTES;
    }
    return o;
}

/* Where the 32 rows below are read next, every block of columns fetches its share of them. */
static void look_ahead(operands *o, const gemm_amx_job *job, int64_t row, int64_t step, int64_t col, int64_t n_cols)
{
    const int64_t first = col * GEMM_AMX_ROWS / n_cols, end = (col + 32) * GEMM_AMX_ROWS / n_cols;

    if (row + 2 * GEMM_AMX_ROWS > job->direct_rows)
        return;
    o->ahead = o->a + (GEMM_AMX_ROWS + first) * o->a_row;
    o->n_ahead = at_most(end, GEMM_AMX_ROWS) - first;
    o->new_step = job->new_step - step;
}

static void run_task(worker *w, int64_t row_range, int64_t column_range)
{
    const gemm_amx_job *job = w->job;
    const plan *p = w->p;
    const int64_t row0 = row_range * p->rows, row_end = at_most(job->m, row0 + p->rows);
    const int64_t col0 = column_range * p->columns, n_cols = at_most(p->columns, job->n - col0);
    departure leaving = {.n_parts = 0};
    int64_t turn = 0; /* of two blocks of C, when none waits for more of k */

    for (int64_t step = 0; step < job->n_steps; step += p->block) {
        const int64_t n_steps = at_most(p->block, job->n_steps - step);
        const bool last = step + n_steps == job->n_steps;

        if (p->n_blocks > 1 || w->kept != column_range)
            job->pack_b(job, w->b, step, n_steps, col0, n_cols);
        w->kept = column_range;
        for (int64_t row = row0; row < row_end; row += GEMM_AMX_ROWS) {
            operands o = operands_at(w, row, step, n_steps);
            for (int64_t col = 0; col < n_cols; col += 32, o.b += 2 * o.b_side) {
                float *c = w->c + (p->n_blocks > 1 ? (row - row0) * p->ld_c + col : turn * 32 * 32);
                look_ahead(&o, job, row, step, col, n_cols);
                multiply(job, c, p->ld_c, &o, row_end - row > AMX_SIDE, n_cols - col > AMX_SIDE, step > 0,
                         &leaving, last ? arrival_of(job, row, col0 + col) : (arrival){.n_rows = 0});
                if (last)
                    leaving = departure_of(job, c, p->ld_c, row, col0 + col);
                turn = 1 - turn;
            }
        }
    }
    store_rest(job, &leaving);
}

void gemm_amx_run(const gemm_amx_job *job, void *scratch, int n_threads)
{
    const plan p = plan_of(job, n_threads);
    const int64_t packed_blocks = p.packed_rows / GEMM_AMX_ROWS;

#pragma omp parallel num_threads(n_threads)
    {
        char *own = (char *)scratch + p.a_bytes + (p.b_bytes + p.c_bytes) * (size_t)omp_get_thread_num();
        worker w = {.job = job, .p = &p, .packed_a = scratch, .b = own, .c = (float *)(own + p.b_bytes),
                    .kept = -1};

        if (packed_blocks > 0) {
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < packed_blocks; i++)
                job->pack_a(job, (char *)scratch + i * GEMM_AMX_ROWS * job->n_steps * 64,
                            job->direct_rows + i * GEMM_AMX_ROWS);
        }
        amx_begin();
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t t = 0; t < p.n_rows * p.n_columns; t++)
            run_task(&w, t % p.n_rows, t / p.n_rows);
        amx_end();
        _mm_sfence();
    }
}

/* --- tiles of stored matrices ------------------------------------------------------------------------- */

/* n (at most 32) numbers from element (i, j) on, rounded to bf16; zeros after them. */
AMX_INLINE __m512i load_32(const gemm_amx_source *src, int64_t i, int64_t j, int64_t n)
{
    if (src->type == AG_BF16)
        return amx_load_row((const uint16_t *)src->data + i * src->ld + j, n);
    const float *at = (const float *)src->data + i * src->ld + j;
    return amx_round_pair(_mm512_maskz_loadu_ps(first_of(n), at),
                          _mm512_maskz_loadu_ps(first_of(n - AMX_SIDE), at + AMX_SIDE));
}

/* Numbers (i, j..) and (i + 1, j..), n (at most 16) each, in pairs; rows from n_rows on are zeros. */
AMX_INLINE __m512i load_pairs(const gemm_amx_source *src, int64_t i, int64_t j, int64_t n, int64_t n_rows)
{
    const __mmask16 even = i < n_rows ? first_of(n) : 0, odd = i + 1 < n_rows ? first_of(n) : 0;

    if (src->type == AG_BF16) {
        const uint16_t *at = (const uint16_t *)src->data + i * src->ld + j;
        return amx_pair_rows(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(even, at)),
                             _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(odd, at + src->ld)));
    }
    const float *at = (const float *)src->data + i * src->ld + j;
    const __m512i both = amx_round_pair(_mm512_maskz_loadu_ps(even, at),
                                        _mm512_maskz_loadu_ps(odd, at + src->ld));
    return amx_pair_rows(both, _mm512_castsi256_si512(_mm512_extracti64x4_epi64(both, 1)));
}

AMX_INLINE void fetch(const gemm_amx_source *src, int64_t i, int64_t j)
{
    const char *at = (const char *)src->data + (i * src->ld + j) * (src->type == AG_BF16 ? 2 : 4);
    _mm_prefetch(at, _MM_HINT_T0);
}

void gemm_amx_rows_across(void *dst, const gemm_amx_source *src, int64_t row, int64_t k0, int64_t m,
                          int64_t k)
{
    for (int64_t i = 0; i < AMX_SIDE; i++)
        _mm512_store_si512((char *)dst + i * AMX_ROW_BYTES,
                           i < m ? load_32(src, row + i, k0, k) : _mm512_setzero_si512());
}

void gemm_amx_tile_across(void *dst, const gemm_amx_source *src, int64_t col, int64_t k0, int64_t n,
                          int64_t k)
{
    __m512i r[AMX_SIDE];

    for (int64_t i = 0; i < AMX_SIDE; i++) {
        fetch(src, col + i, k0 + ACROSS_AHEAD);
        fetch(src, col + i, k0 + ACROSS_AHEAD + 16);
        r[i] = i < n ? load_32(src, col + i, k0, k) : _mm512_setzero_si512();
    }
    amx_transpose(r);
    amx_store_tile(dst, r);
}

/* Row `i` of each tile of a band, from two rows of n numbers, n a multiple of 32. */
static void pair_lines(char *to, int64_t side, const uint16_t *even, int64_t ld, int64_t n)
{
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    const uint16_t *odd = even + ld;
    const uintptr_t ahead = (uintptr_t)even + (uintptr_t)(LINES_AHEAD * ld * 2);

    for (int64_t j = 0; j < n; j += 2 * AMX_SIDE, to += 2 * side) {
        const __m512i x = _mm512_loadu_si512(even + j), y = _mm512_loadu_si512(odd + j);
        const __m512i low = _mm512_unpacklo_epi16(x, y), high = _mm512_unpackhi_epi16(x, y);

        _mm_prefetch((const char *)(ahead + 2 * (uintptr_t)j), _MM_HINT_T1);
        _mm_prefetch((const char *)(ahead + 2 * (uintptr_t)(j + ld)), _MM_HINT_T1);
        _mm512_store_si512(to, _mm512_permutex2var_epi64(low, first, high));
        _mm512_store_si512(to + side, _mm512_permutex2var_epi64(low, second, high));
    }
}

/* Row by row: the rows may be far apart, and each is walked along once. */
void gemm_amx_band_down(void *dst, int64_t side, const gemm_amx_source *src, int64_t k0, int64_t col,
                        int64_t k, int64_t n)
{
    const int64_t whole = src->type == AG_BF16 && k == AMX_DEPTH ? n / (2 * AMX_SIDE) * (2 * AMX_SIDE) : 0;

    for (int64_t i = 0; i < AMX_SIDE; i++) {
        char *to = (char *)dst + i * AMX_ROW_BYTES;
        if (whole > 0)
            pair_lines(to, side, (const uint16_t *)src->data + (k0 + 2 * i) * src->ld + col, src->ld, whole);
        to += whole / AMX_SIDE * side;
        for (int64_t j = whole; j < n; j += AMX_SIDE, to += side) {
            fetch(src, k0 + 2 * i + DOWN_AHEAD, col + j);
            fetch(src, k0 + 2 * i + DOWN_AHEAD + 1, col + j);
            _mm512_store_si512(to, load_pairs(src, k0 + 2 * i, col + j, n - j, k0 + k));
        }
    }
}

void gemm_amx_rows_down(void *dst, const gemm_amx_source *src, int64_t k0, int64_t row, int64_t k,
                        int64_t m)
{
    __m512i r[AMX_SIDE];

    for (int64_t i = 0; i < AMX_SIDE; i++)
        r[i] = load_pairs(src, k0 + 2 * i, row, m, k0 + k);
    amx_transpose(r);
    amx_store_tile(dst, r);
}
