/* adafactor.c - Adafactor's steps, cut into threads; see adafactor.h.
 *
 * With lanes, a unit of work is up to LANES lanes of one batch, with all its rows and columns. A
 * matrix without lanes is cut into SLABS slabs of rows, whose sums over rows are added in their
 * order. Neither depends on the number of threads.
 */
#include "autograd/cpu/adafactor.h"

#include <math.h>
#include <string.h>

#include "autograd/cpu/optimizer_internal.h"

enum { LANES = 256, SLABS = 32, SIDE = CPU_ADAFACTOR_SIDE };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static bool is_factored(cpu_adafactor_shape s)
{
    return s.rows > 1 || s.cols > 1;
}

static bool has_lanes(cpu_adafactor_shape s)
{
    return s.lanes > 1 || !is_factored(s);
}

static int64_t count(cpu_adafactor_shape s)
{
    return s.batches * s.rows * s.cols * s.lanes;
}

static int64_t n_units(cpu_adafactor_shape s)
{
    return has_lanes(s) ? s.batches * ((s.lanes + LANES - 1) / LANES) : SLABS;
}

/* Scratch: sums of units; sums over rows of slabs, or the factors of rows and columns; and what the
 * sum of squares takes. */
static size_t slab_bytes(cpu_adafactor_shape s)
{
    const size_t sums = (size_t)(SLABS * s.cols) * sizeof(double);
    const size_t factors = (size_t)(s.rows + s.cols) * sizeof(float);

    return has_lanes(s) ? 0 : sums > factors ? sums : factors;
}

size_t cpu_adafactor_scratch(cpu_adafactor_shape s)
{
    const size_t squares = cpu_sumsq_scratch(count(s));
    const size_t parts = (size_t)n_units(s) * sizeof(double) + slab_bytes(s);

    return squares > parts ? squares : parts;
}

/* --- lanes ------------------------------------------------------------------------------------ */

typedef struct unit {
    int64_t n; /* lanes */
    int64_t row, col, at; /* its first values in the states and in the tensor */
} unit;

static unit unit_of(cpu_adafactor_shape s, int64_t u)
{
    const int64_t a_batch = (s.lanes + LANES - 1) / LANES, b = u / a_batch, v = u % a_batch * LANES;

    return (unit){.n = least(LANES, s.lanes - v),
                  .row = b * s.rows * s.lanes + v,
                  .col = b * s.cols * s.lanes + v,
                  .at = b * s.rows * s.cols * s.lanes + v};
}

static void lane_moments(const cpu_optimizer_kernels *k, float *row, float *col, const float *g,
                         cpu_adafactor_shape s, unit u, const double *scalars)
{
    float rows[SIDE][LANES], cols[SIDE][LANES];
    const float scale = (float)scalars[CPU_ADAFACTOR_GRAD_SCALE];
    const float keep = (float)scalars[CPU_ADAFACTOR_BETA2T], eps = (float)scalars[CPU_ADAFACTOR_EPS1];
    const float rest = (float)(1.0 - scalars[CPU_ADAFACTOR_BETA2T]);

    memset(rows, 0, (size_t)s.rows * sizeof *rows);
    memset(cols, 0, (size_t)s.cols * sizeof *cols);
    for (int64_t r = 0; r < s.rows; r++)
        for (int64_t c = 0; c < s.cols; c++)
            k->add_squares(rows[r], cols[c], g + u.at + (r * s.cols + c) * s.lanes, u.n, scale);
    for (int64_t r = 0; row && r < s.rows; r++)
        k->keep_mean(row + u.row + r * s.lanes, rows[r], u.n, keep, rest, 1.0f / (float)s.cols, eps);
    for (int64_t c = 0; c < s.cols; c++)
        k->keep_mean(col + u.col + c * s.lanes, cols[c], u.n, keep, rest, 1.0f / (float)s.rows, eps);
}

typedef struct lane_factors {
    float rows[SIDE][LANES], cols[SIDE][LANES];
} lane_factors;

static void make_lane_factors(lane_factors *f, const cpu_optimizer_kernels *k, const float *row,
                              const float *col, cpu_adafactor_shape s, unit u)
{
    if (row)
        k->row_factors(f->rows[0], row + u.row, s.rows, u.n, LANES, s.lanes);
    for (int64_t c = 0; c < s.cols; c++)
        k->col_factors(f->cols[c], col + u.col + c * s.lanes, u.n);
}

static double lane_squares(const cpu_optimizer_kernels *k, const float *row, const float *col,
                           const float *g, cpu_adafactor_shape s, unit u, float scale)
{
    lane_factors f;
    double sum = 0.0;

    make_lane_factors(&f, k, row, col, s, u);
    for (int64_t r = 0; r < s.rows; r++)
        for (int64_t c = 0; c < s.cols; c++)
            sum += k->scaled_squares(g + u.at + (r * s.cols + c) * s.lanes, row ? f.rows[r] : NULL,
                                     f.cols[c], u.n, scale);
    return sum;
}

static void lane_step(const cpu_optimizer_kernels *k, float *p, float *m, const float *row,
                      const float *col, const float *g, cpu_adafactor_shape s, unit u,
                      const cpu_adafactor_factors *factors)
{
    lane_factors f;

    make_lane_factors(&f, k, row, col, s, u);
    for (int64_t r = 0; r < s.rows; r++)
        for (int64_t c = 0; c < s.cols; c++) {
            const int64_t at = u.at + (r * s.cols + c) * s.lanes;
            k->adafactor_step(p + at, m ? m + at : NULL, g + at, row ? f.rows[r] : NULL, f.cols[c],
                              u.n, factors);
        }
}

/* --- a matrix --------------------------------------------------------------------------------- */

typedef struct slab {
    int64_t first, end; /* rows */
} slab;

static slab slab_of(int64_t rows, int64_t i)
{
    const int64_t each = (rows + SLABS - 1) / SLABS;

    return (slab){least(i * each, rows), least((i + 1) * each, rows)};
}

static void matrix_moments(const cpu_optimizer_kernels *k, float *row, float *col, const float *g,
                           int64_t rows, int64_t cols, const double *scalars, double *sums,
                           int team)
{
    const float scale = (float)scalars[CPU_ADAFACTOR_GRAD_SCALE];
    const double keep = scalars[CPU_ADAFACTOR_BETA2T], eps = scalars[CPU_ADAFACTOR_EPS1];

    memset(sums, 0, (size_t)(SLABS * cols) * sizeof *sums);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t i = 0; i < SLABS; i++) {
        const slab b = slab_of(rows, i);
        for (int64_t r = b.first; r < b.end; r++) {
            const double sum = k->add_squares_to_doubles(sums + i * cols, g + r * cols, cols, scale);
            row[r] = (float)(keep * row[r] + (1.0 - keep) * (sum / (double)cols + eps));
        }
    }
    for (int64_t i = 1; i < SLABS; i++)
        for (int64_t c = 0; c < cols; c++)
            sums[c] += sums[i * cols + c];
    for (int64_t c = 0; c < cols; c++)
        col[c] = (float)(keep * col[c] + (1.0 - keep) * (sums[c] / (double)rows + eps));
}

static void matrix_factors(const cpu_optimizer_kernels *k, float *f, const float *row,
                           const float *col, int64_t rows, int64_t cols)
{
    double mean = 0.0;

    for (int64_t r = 0; r < rows; r++)
        mean += (double)row[r];
    mean /= (double)rows;
    for (int64_t r = 0; r < rows; r++)
        f[r] = (float)sqrt(mean / (double)row[r]);
    k->col_factors(f + rows, col, cols);
}

static double matrix_squares(const cpu_optimizer_kernels *k, const float *f, const float *g,
                             int64_t rows, int64_t cols, float scale, double *parts, int team)
{
    double total = 0.0;

#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t i = 0; i < SLABS; i++) {
        const slab b = slab_of(rows, i);
        parts[i] = 0.0;
        for (int64_t r = b.first; r < b.end; r++)
            parts[i] += k->scaled_squares(g + r * cols, NULL, f + rows, cols, scale * f[r]);
    }
    for (int64_t i = 0; i < SLABS; i++)
        total += parts[i];
    return total;
}

static void matrix_step(const cpu_optimizer_kernels *k, float *p, float *m, const float *f,
                        const float *g, int64_t rows, int64_t cols,
                        const cpu_adafactor_factors *factors, int team)
{
#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        cpu_adafactor_factors here = *factors;
        here.grad_scale *= f[r];
        k->adafactor_step(p + r * cols, m ? m + r * cols : NULL, g + r * cols, NULL, f + rows, cols,
                          &here);
    }
}

/* --- public ----------------------------------------------------------------------------------- */

bool cpu_adafactor_moments(float *row, float *col, const float *g, cpu_adafactor_shape s,
                           const double scalars[CPU_ADAFACTOR_N], void *scratch, int n_threads,
                           int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const int team = cpu_team(count(s), n_threads);

    if (isnan(scalars[CPU_ADAFACTOR_GRAD_SCALE]))
        return false;
    if (!has_lanes(s)) {
        for (int64_t b = 0; b < s.batches; b++)
            matrix_moments(k, row + b * s.rows, col + b * s.cols, g + b * s.rows * s.cols, s.rows,
                           s.cols, scalars, scratch, team);
        return true;
    }
#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t u = 0; u < n_units(s); u++)
        lane_moments(k, row, col, g, s, unit_of(s, u), scalars);
    return true;
}

void cpu_adafactor_sums(double sums[2], const float *p, const float *row, const float *col,
                        const float *g, cpu_adafactor_shape s,
                        const double scalars[CPU_ADAFACTOR_N], void *scratch, int n_threads,
                        int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const float scale = (float)scalars[CPU_ADAFACTOR_GRAD_SCALE];
    const int team = cpu_team(count(s), n_threads);
    double *parts = scratch;
    float *f = (float *)(parts + n_units(s));

    sums[0] = 0.0;
    sums[1] = cpu_sumsq(p, count(s), scratch, n_threads, isa);
    if (!has_lanes(s)) {
        for (int64_t b = 0; b < s.batches; b++) {
            matrix_factors(k, f, row + b * s.rows, col + b * s.cols, s.rows, s.cols);
            sums[0] += matrix_squares(k, f, g + b * s.rows * s.cols, s.rows, s.cols, scale, parts,
                                      team);
        }
        return;
    }
#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t u = 0; u < n_units(s); u++)
        parts[u] = lane_squares(k, row, col, g, s, unit_of(s, u), scale);
    for (int64_t u = 0; u < n_units(s); u++)
        sums[0] += parts[u];
}

void cpu_adafactor_step(float *p, float *m, const float *row, const float *col, const float *g,
                        const double sums[2], cpu_adafactor_shape s,
                        const double scalars[CPU_ADAFACTOR_N], void *scratch, int n_threads,
                        int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const int team = cpu_team(count(s), n_threads);
    const cpu_adafactor_factors f = cpu_adafactor_factors_of(sums, count(s), scalars);

    if (!isfinite(sums[0]))
        return;
    if (!has_lanes(s)) {
        for (int64_t b = 0; b < s.batches; b++) {
            const int64_t at = b * s.rows * s.cols;
            matrix_factors(k, scratch, row + b * s.rows, col + b * s.cols, s.rows, s.cols);
            matrix_step(k, p + at, m ? m + at : NULL, scratch, g + at, s.rows, s.cols, &f, team);
        }
        return;
    }
#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t u = 0; u < n_units(s); u++)
        lane_step(k, p, m, row, col, g, s, unit_of(s, u), &f);
}
