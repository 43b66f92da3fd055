/* layout.c - sums over axes, stretching, permuting, strided copies, look-up.
 *
 * Axes of size 1 are dropped and neighbours that belong together are joined before anything runs,
 * so that the loops see few axes and long runs.
 */
#include "autograd/cpu/layout.h"

#include <string.h>

#include "autograd/cpu/elementwise_internal.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- sums ------------------------------------------------------------------------------------- */

/* The sum, cut into tasks by shape alone. Result k of part s gathers in scratch[s * kept + k]. */
typedef struct sum_plan {
    int n_dims;
    int64_t size[AG_MAX_DIMS], stride[AG_MAX_DIMS];
    bool reduced[AG_MAX_DIMS];
    int64_t kept;  /* results */
    int64_t run;   /* size of the last axis, which is contiguous */
    bool by_row;   /* the run is summed; else it is kept */
    int64_t units; /* pieces of runs (by row) or runs that are added up, per result */
    int64_t parts; /* the units are cut into parts */
} sum_plan;

static sum_plan sum_plan_of(int n_dims, const int64_t *dims, unsigned axes)
{
    sum_plan p = {.kept = 1, .units = 1};
    int64_t stride = 1;
    int at = AG_MAX_DIMS;

    for (int i = n_dims - 1; i >= 0; i--) {
        const bool reduced = axes >> i & 1u;

        if (reduced)
            p.units *= dims[i];
        else
            p.kept *= dims[i];
        if (dims[i] != 1) {
            if (at < AG_MAX_DIMS && p.reduced[at] == reduced) {
                p.size[at] *= dims[i];
            } else {
                at--;
                p.size[at] = dims[i];
                p.stride[at] = stride;
                p.reduced[at] = reduced;
            }
        }
        stride *= dims[i];
    }
    p.n_dims = AG_MAX_DIMS - at;
    memmove(p.size, p.size + at, (size_t)p.n_dims * sizeof *p.size);
    memmove(p.stride, p.stride + at, (size_t)p.n_dims * sizeof *p.stride);
    memmove(p.reduced, p.reduced + at, (size_t)p.n_dims * sizeof *p.reduced);
    p.by_row = p.n_dims > 0 && p.reduced[p.n_dims - 1];
    p.run = p.n_dims > 0 ? p.size[p.n_dims - 1] : 1;
    if (p.by_row && p.run > 0)
        p.units = p.units / p.run * ((p.run + CPU_PIECE - 1) / CPU_PIECE);
    p.parts = p.kept >= 16384 ? 1 : least(16, p.by_row ? p.units : p.units / 64);
    if (p.parts < 1)
        p.parts = 1;
    return p;
}

/* Offset in x of entry `index` of the kept (or reduced) axes but the last one. */
static int64_t sum_offset(const sum_plan *p, bool reduced, int64_t index)
{
    int64_t offset = 0;

    for (int i = p->n_dims - 2; i >= 0; i--)
        if (p->reduced[i] == reduced) {
            offset += index % p->size[i] * p->stride[i];
            index /= p->size[i];
        }
    return offset;
}

size_t cpu_sum_scratch(int n_dims, const int64_t *dims, unsigned axes)
{
    const sum_plan p = sum_plan_of(n_dims, dims, axes);
    return (size_t)(p.parts * p.kept) * sizeof(double);
}

/* Units [u0, u1) of results whose runs are summed: one result. */
static double sum_runs(const cpu_elementwise_kernels *k, const sum_plan *p, const float *x,
                       int64_t u0, int64_t u1)
{
    const int64_t pieces = (p->run + CPU_PIECE - 1) / CPU_PIECE;
    double total = 0.0;

    for (int64_t u = u0; u < u1; u++) {
        const int64_t first = u % pieces * CPU_PIECE;
        total += k->sum(x + sum_offset(p, true, u / pieces) + first,
                        least(CPU_PIECE, p->run - first));
    }
    return total;
}

/* Units [u0, u1) of results that lie side by side: `count` of them. */
static void add_runs(const cpu_elementwise_kernels *k, const sum_plan *p, double *to,
                     const float *x, int64_t count, int64_t u0, int64_t u1)
{
    memset(to, 0, (size_t)count * sizeof *to);
    for (int64_t u = u0; u < u1; u++)
        k->add_to_doubles(to, x + sum_offset(p, true, u), count);
}

void cpu_sum(float *y, const float *x, int n_dims, const int64_t *dims, unsigned axes,
             double scale, void *scratch, int n_threads, int isa)
{
    enum { STRIP = 1024 }; /* side by side results of one task */
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    const sum_plan p = sum_plan_of(n_dims, dims, axes);
    const int64_t strips = (p.run + STRIP - 1) / STRIP;
    const int64_t tasks = p.by_row ? p.kept : p.run ? p.kept / p.run * strips : 0;
    const int team = cpu_team(p.kept * (p.units + 1), n_threads);
    double *part = scratch;

#pragma omp parallel num_threads(p.by_row ? n_threads : team)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tasks * p.parts; t++) {
            const int64_t s = t % p.parts, task = t / p.parts;
            const int64_t u0 = s * p.units / p.parts, u1 = (s + 1) * p.units / p.parts;
            double *to = part + s * p.kept;

            if (p.by_row) {
                to[task] = sum_runs(k, &p, x + sum_offset(&p, false, task), u0, u1);
            } else {
                const int64_t first = task % strips * STRIP, row = task / strips;
                add_runs(k, &p, to + row * p.run + first, x + sum_offset(&p, false, row) + first,
                         least(STRIP, p.run - first), u0, u1);
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < p.kept; i++) {
            double total = 0.0;
            for (int64_t s = 0; s < p.parts; s++)
                total += part[s * p.kept + i];
            y[i] = (float)(scale * total);
        }
    }
}

/* --- stretching and permuting ----------------------------------------------------------------- */

void cpu_broadcast(float *y, const float *x, int n_dims, const int64_t *dims, const int64_t *x_dims,
                   int n_threads)
{
    const cpu_walk w = cpu_walk_of(n_dims, dims, x_dims, x_dims);
    const int last = w.n_dims - 1;
    const int64_t run = w.size[last];
    int64_t rows = 1;

    for (int i = 0; i < last; i++)
        rows *= w.size[i];
#pragma omp parallel for num_threads(cpu_team(rows * run, n_threads)) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        int64_t rest = r, at = 0;

        for (int i = last - 1; i >= 0; i--) {
            at += rest % w.size[i] * w.step_a[i];
            rest /= w.size[i];
        }
        for (int64_t j = 0; j < run; j++)
            y[r * run + j] = x[at + j * w.step_a[last]];
    }
}

/* A permutation after joining axes that stay neighbours; axes in the order of y. */
typedef struct permutation {
    int n_dims;
    int64_t size[AG_MAX_DIMS], x_stride[AG_MAX_DIMS], y_stride[AG_MAX_DIMS];
} permutation;

static permutation permutation_of(int n_dims, const int64_t *dims, const int *axes)
{
    permutation p = {0};
    int64_t stride[AG_MAX_DIMS], y_stride = 1;
    int n = 0;

    for (int64_t i = n_dims - 1, s = 1; i >= 0; i--) {
        stride[i] = s;
        s *= dims[i];
    }
    for (int j = 0; j < n_dims; j++) {
        const int64_t size = dims[axes[j]], xs = stride[axes[j]];
        if (size == 1)
            continue;
        if (n > 0 && p.x_stride[n - 1] == size * xs) {
            p.size[n - 1] *= size;
            p.x_stride[n - 1] = xs;
        } else {
            p.size[n] = size;
            p.x_stride[n++] = xs;
        }
    }
    if (n == 0)
        p.size[n] = p.x_stride[n] = 1, n++;
    for (int j = n - 1; j >= 0; j--) {
        p.y_stride[j] = y_stride;
        y_stride *= p.size[j];
    }
    p.n_dims = n;
    return p;
}

void cpu_permute(float *y, const float *x, int n_dims, const int64_t *dims, const int *axes,
                 int n_threads)
{
    enum { TILE = 32 };
    const permutation p = permutation_of(n_dims, dims, axes);
    const int last = p.n_dims - 1;
    int fast = last; /* the axis of y along which x is contiguous */
    int64_t n = 1, total = p.size[last];

    while (fast > 0 && p.x_stride[fast] != 1)
        fast--;
    /* One task: TILE entries of `fast` (all of the last axis), for one choice of the others. */
    const int64_t tiles = fast == last ? 1 : (p.size[fast] + TILE - 1) / TILE;
    for (int j = 0; j < last; j++) {
        n *= j == fast ? tiles : p.size[j];
        total *= p.size[j];
    }
#pragma omp parallel for num_threads(cpu_team(total, n_threads)) schedule(static)
    for (int64_t t = 0; t < n; t++) {
        int64_t rest = t, at_x = 0, at_y = 0, f0 = 0;

        for (int j = last - 1; j >= 0; j--) {
            const int64_t count = j == fast ? tiles : p.size[j];
            const int64_t i = rest % count * (j == fast ? TILE : 1);
            rest /= count;
            at_x += i * p.x_stride[j];
            at_y += i * p.y_stride[j];
            if (j == fast)
                f0 = i;
        }
        if (fast == last) {
            memcpy(y + at_y, x + at_x, (size_t)p.size[last] * sizeof *y);
            continue;
        }
        const int64_t wide = least(TILE, p.size[fast] - f0);
        for (int64_t l0 = 0; l0 < p.size[last]; l0 += TILE)
            for (int64_t f = 0; f < wide; f++)
                for (int64_t l = l0; l < least(l0 + TILE, p.size[last]); l++)
                    y[at_y + f * p.y_stride[fast] + l] = x[at_x + f + l * p.x_stride[last]];
    }
}

/* --- rows ------------------------------------------------------------------------------------- */

void cpu_copy_rows(void *y, int64_t y_stride, const void *x, int64_t x_stride, int64_t outer,
                   int64_t inner, size_t size, int n_threads)
{
    const int64_t bytes = (int64_t)size;

#pragma omp parallel for num_threads(cpu_team(outer * inner, n_threads)) schedule(static)
    for (int64_t o = 0; o < outer; o++)
        memcpy((char *)y + o * y_stride * bytes, (const char *)x + o * x_stride * bytes,
               (size_t)(inner * bytes));
}

void cpu_add_rows(float *y, int64_t y_stride, const float *x, int64_t x_stride, int64_t outer,
                  int64_t inner, int n_threads)
{
#pragma omp parallel for num_threads(cpu_team(outer * inner, n_threads)) schedule(static)
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++)
            y[o * y_stride + i] += x[o * x_stride + i];
}

void cpu_embedding(float *y, const float *table, const int64_t *ids, int64_t n, int64_t d,
                   int n_threads)
{
#pragma omp parallel for num_threads(cpu_team(n * d, n_threads)) schedule(static)
    for (int64_t i = 0; i < n; i++)
        memcpy(y + i * d, table + ids[i] * d, (size_t)d * sizeof *y);
}

void cpu_embedding_grad(float *dtable, const float *dy, const int64_t *ids, int64_t n, int64_t d,
                        int64_t vocabulary, int n_threads)
{
    enum { STRIP = 64 }; /* columns of one task: it adds all rows, in order */
    const int64_t strips = (d + STRIP - 1) / STRIP;

#pragma omp parallel num_threads(cpu_team(vocabulary * d, n_threads))
    {
#pragma omp for schedule(static)
        for (int64_t v = 0; v < vocabulary; v++)
            memset(dtable + v * d, 0, (size_t)d * sizeof *dtable);
#pragma omp for schedule(static)
        for (int64_t s = 0; s < strips; s++)
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = s * STRIP; j < least((s + 1) * STRIP, d); j++)
                    dtable[ids[i] * d + j] += dy[i * d + j];
    }
}
