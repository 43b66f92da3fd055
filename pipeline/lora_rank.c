/* lora_rank.c - see lora_rank.h. */
#include "pipeline/lora_rank.h"

#include <math.h>

#include <lapacke.h>

/* A matrix of doubles, row-major. */
typedef struct matrix {
    int64_t rows, cols;
    double *at;
} matrix;

static matrix matrix_new(ag_ctx *ctx, int64_t rows, int64_t cols)
{
    return (matrix){rows, cols, ag_new(ctx, (size_t)rows * (size_t)cols, sizeof(double), "a matrix")};
}

/* --- products --------------------------------------------------------------------------------- */

enum { TILE_ROWS = 4, TILE_COLS = 512 };

/* Add the products of up to four rows of m, from row i, with row k over columns [from, to) to sums. */
static void add_products(double *sums, const matrix *m, int64_t i, int64_t n, int64_t k, int64_t from, int64_t to)
{
    const double *x = m->at + k * m->cols;

    for (int64_t r = 0; r < n; r++) {
        const double *y = m->at + (i + r) * m->cols;
        double sum = 0.0;

#pragma omp simd reduction(+ : sum)
        for (int64_t c = from; c < to; c++)
            sum += x[c] * y[c];
        sums[r] += sum;
    }
}

/* m m^T, the lower half: columns in tiles that stay near, so that m is read from memory few times. */
static matrix gram(ag_ctx *ctx, const matrix *m)
{
    matrix g = matrix_new(ctx, m->rows, m->rows);

    if (!g.at)
        return g;
#pragma omp parallel for schedule(dynamic) num_threads(ag_ctx_threads(ctx))
    for (int64_t i = 0; i < m->rows; i += TILE_ROWS) {
        const int64_t n = m->rows - i < TILE_ROWS ? m->rows - i : TILE_ROWS;

        for (int64_t from = 0; from < m->cols; from += TILE_COLS) {
            const int64_t to = m->cols - from < TILE_COLS ? m->cols : from + TILE_COLS;

            for (int64_t k = 0; k < i + n; k++) {
                double sums[TILE_ROWS] = {0};

                add_products(sums, m, i, n, k, from, to);
                for (int64_t r = 0; r < n; r++)
                    g.at[(i + r) * g.cols + k] += sums[r];
            }
        }
    }
    return g;
}

/* out = x y; x [rows,inner] by its steps, so that it may be a transposed one. */
static matrix multiply(ag_ctx *ctx, const double *x, int64_t step_row, int64_t step_inner, int64_t rows,
                       const matrix *y)
{
    matrix out = matrix_new(ctx, rows, y->cols);

    if (!out.at)
        return out;
#pragma omp parallel for num_threads(ag_ctx_threads(ctx))
    for (int64_t r = 0; r < rows; r++)
        for (int64_t q = 0; q < y->rows; q++) {
            const double v = x[r * step_row + q * step_inner];

            for (int64_t c = 0; c < y->cols; c++)
                out.at[r * y->cols + c] += v * y->at[q * y->cols + c];
        }
    return out;
}

/* --- eigenvectors ----------------------------------------------------------------------------- */

/* The largest eigenvalues of a symmetric matrix (its lower half is read and spoilt), and their vectors as columns. */
typedef struct eigen {
    double *values; /* n of them, from the largest */
    matrix vectors; /* [size,n] */
} eigen;

static void eigen_free(eigen *e)
{
    ag_delete(e->values);
    ag_delete(e->vectors.at);
}

static ag_status eigen_of(eigen *out, ag_ctx *ctx, matrix *g, int64_t n)
{
    const lapack_int size = (lapack_int)g->rows, wanted = (lapack_int)n;
    double *values = ag_new(ctx, (size_t)size, sizeof *values, "eigenvalues");
    double *vectors = ag_new(ctx, (size_t)size * (size_t)n, sizeof *vectors, "eigenvectors");
    lapack_int *support = ag_new(ctx, 2 * (size_t)n, sizeof *support, "eigenvectors");
    lapack_int found = 0, info = 0;

    out->values = ag_new(ctx, (size_t)n, sizeof *out->values, "eigenvalues");
    out->vectors = matrix_new(ctx, size, n);
    if (ag_status_of(ctx) == AG_OK) {
        /* row-major lower is column-major upper */
        info = LAPACKE_dsyevr(LAPACK_COL_MAJOR, 'V', 'I', 'U', size, g->at, size, 0.0, 0.0, size - wanted + 1, size,
                              0.0, &found, values, vectors, size, support);
        if (info != 0 || found != wanted)
            ag_fail(ctx, AG_ENUMERIC, "eigenvectors of a matrix of %lld rows: LAPACK says %d", (long long)size,
                    (int)info);
    }
    for (int64_t k = 0; k < n && ag_status_of(ctx) == AG_OK; k++) {
        const double *from = vectors + (n - 1 - k) * size;

        out->values[k] = values[n - 1 - k] > 0.0 ? values[n - 1 - k] : 0.0;
        for (int64_t i = 0; i < size; i++)
            out->vectors.at[i * n + k] = from[i];
    }
    ag_delete(support);
    ag_delete(vectors);
    ag_delete(values);
    return ag_status_of(ctx);
}

/* --- the approximation ------------------------------------------------------------------------ */

static double square_sum(const matrix *m)
{
    double sum = 0.0;

    for (int64_t i = 0; i < m->rows * m->cols; i++)
        sum += m->at[i] * m->at[i];
    return sum;
}

/* The rank that is enough. */
static int64_t enough(const eigen *e, int64_t n, double total, double energy)
{
    double sum = 0.0;
    int64_t rank = 0;

    if (energy <= 0.0)
        return n;
    while (rank < n && sum < energy * total)
        sum += e->values[rank++];
    return rank > 0 ? rank : 1;
}

/* D = q m, the columns of q orthonormal (NULL: the identity), m with no more rows than columns. With `turned` m is
 * D's transpose, and q the identity: A and B change places. */
static ag_status approximate(pipe_thin *out, ag_ctx *ctx, const matrix *q, const matrix *m, bool turned,
                             pipe_rank_choice choice)
{
    const int64_t most = choice.rank < m->rows ? choice.rank : m->rows;
    const double total = square_sum(m);
    matrix g = gram(ctx, m), along = {0}, left = {0};
    eigen e = {0};
    double kept = 0.0;

    if (!g.at || eigen_of(&e, ctx, &g, most) != AG_OK)
        goto out;
    out->rank = enough(&e, most, total, choice.energy);
    along = multiply(ctx, e.vectors.at, 1, most, out->rank, m); /* P^T m: [rank,cols] */
    left = q ? multiply(ctx, q->at, q->cols, 1, q->rows, &e.vectors) : e.vectors;
    out->b = ag_new(ctx, (size_t)(turned ? along.cols : left.rows) * (size_t)out->rank, sizeof(float), "LoRA's B");
    out->a = ag_new(ctx, (size_t)(turned ? left.rows : along.cols) * (size_t)out->rank, sizeof(float), "LoRA's A");
    if (ag_status_of(ctx) != AG_OK)
        goto out;
    for (int64_t k = 0; k < out->rank; k++) {
        const double *row = along.at + k * along.cols;
        double square = 0.0, root;

        for (int64_t c = 0; c < along.cols; c++)
            square += row[c] * row[c];
        kept += square;
        root = sqrt(sqrt(square)); /* of the singular value */
        for (int64_t c = 0; c < along.cols && root > 0.0; c++) {
            const float v = (float)(row[c] / root);
            if (turned)
                out->b[c * out->rank + k] = v;
            else
                out->a[k * along.cols + c] = v;
        }
        for (int64_t r = 0; r < left.rows; r++) {
            const float v = (float)(left.at[r * left.cols + k] * root);
            if (turned)
                out->a[k * left.rows + r] = v;
            else
                out->b[r * out->rank + k] = v;
        }
    }
    out->total = total;
    out->kept = kept;
out:
    ag_delete(along.at);
    if (q)
        ag_delete(left.at);
    eigen_free(&e);
    ag_delete(g.at);
    return ag_status_of(ctx);
}

void pipe_thin_free(pipe_thin *thin)
{
    ag_delete(thin->a);
    ag_delete(thin->b);
    *thin = (pipe_thin){0};
}

ag_status pipe_thin_of(pipe_thin *out, ag_ctx *ctx, const float *d, int64_t rows, int64_t cols,
                       pipe_rank_choice choice)
{
    const bool turned = rows > cols;
    matrix m = turned ? matrix_new(ctx, cols, rows) : matrix_new(ctx, rows, cols);

    *out = (pipe_thin){0};
    if (!m.at)
        return ag_status_of(ctx);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            m.at[turned ? c * rows + r : r * cols + c] = d[r * cols + c];
    if (approximate(out, ctx, NULL, &m, turned, choice) != AG_OK)
        pipe_thin_free(out);
    ag_delete(m.at);
    return ag_status_of(ctx);
}

/* An orthonormal basis of the columns of left [rows,inner] as q, with left = q r. Directions whose share is below the
 * rounding of f32 are left out. */
static ag_status split(matrix *q, matrix *r, ag_ctx *ctx, const float *left, int64_t rows, int64_t inner)
{
    matrix turned = matrix_new(ctx, inner, rows), g = {0}, scaled = {0};
    eigen e = {0};
    int64_t n = 0;

    for (int64_t k = 0; turned.at && k < inner; k++)
        for (int64_t i = 0; i < rows; i++)
            turned.at[k * rows + i] = left[i * inner + k];
    g = turned.at ? gram(ctx, &turned) : g;
    if (!g.at || eigen_of(&e, ctx, &g, inner) != AG_OK)
        goto out;
    while (n < inner && e.values[n] > 1e-15 * e.values[0])
        n++;
    n = n > 0 ? n : 1;
    scaled = matrix_new(ctx, inner, n); /* V / sqrt(lambda) */
    *r = matrix_new(ctx, n, inner);     /* sqrt(lambda) V^T */
    for (int64_t k = 0; scaled.at && r->at && k < n; k++)
        for (int64_t i = 0; i < inner; i++) {
            const double v = e.vectors.at[i * inner + k], root = sqrt(e.values[k]);
            scaled.at[i * n + k] = root > 0.0 ? v / root : 0.0;
            r->at[k * inner + i] = v * root;
        }
    if (ag_status_of(ctx) == AG_OK)
        *q = multiply(ctx, turned.at, 1, rows, rows, &scaled);
out:
    ag_delete(scaled.at);
    eigen_free(&e);
    ag_delete(g.at);
    ag_delete(turned.at);
    return ag_status_of(ctx);
}

ag_status pipe_thin_of_product(pipe_thin *out, ag_ctx *ctx, const float *left, const float *right, int64_t rows,
                               int64_t inner, int64_t cols, double scale, pipe_rank_choice choice)
{
    matrix q = {0}, r = {0}, wide = matrix_new(ctx, inner, cols), m = {0};

    *out = (pipe_thin){0};
    for (int64_t i = 0; wide.at && i < inner * cols; i++)
        wide.at[i] = scale * right[i];
    if (wide.at && split(&q, &r, ctx, left, rows, inner) == AG_OK)
        m = multiply(ctx, r.at, inner, 1, r.rows, &wide);
    if (m.at && approximate(out, ctx, &q, &m, false, choice) != AG_OK)
        pipe_thin_free(out);
    ag_delete(m.at);
    ag_delete(wide.at);
    ag_delete(r.at);
    ag_delete(q.at);
    return ag_status_of(ctx);
}
