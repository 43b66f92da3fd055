/* optimizer.c - steps over one flat range and sums over it, cut into pieces and threads.
 *
 * The loops themselves are in optimizer_kernel.inc.h (the portable ones are built here) and
 * elementwise_kernel.inc.h, once per instruction set. A tensor is cut at the same places whatever
 * the number of threads, and sums over pieces are added in their order.
 */
#include "autograd/cpu/optimizer.h"

#include <math.h>

#include "autograd/cpu/isa.h"
#include "autograd/cpu/optimizer_kernel.inc.h"

const cpu_optimizer_kernels *cpu_optimizer_of(int isa)
{
    return isa >= CPU_ISA_AVX512 ? &cpu_optimizer_avx512
           : isa >= CPU_ISA_AVX2 ? &cpu_optimizer_avx2
                                 : &cpu_optimizer_portable;
}

bool cpu_adamw(float *p, float *m, float *v, const float *g, int64_t n,
               const double scalars[CPU_ADAMW_N], int n_threads, int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const cpu_adamw_factors f = cpu_adamw_factors_of(scalars);

    if (isnan(scalars[CPU_ADAMW_GRAD_SCALE]))
        return false;
    CPU_EACH_PIECE(k->adamw(p + i, m + i, v + i, g + i, len, &f));
    return true;
}

bool cpu_sgd(float *p, float *buffer, const float *g, int64_t n, const double scalars[CPU_SGD_N],
             int n_threads, int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const cpu_sgd_factors f = cpu_sgd_factors_of(scalars, buffer != NULL);

    if (isnan(scalars[CPU_SGD_GRAD_SCALE]))
        return false;
    CPU_EACH_PIECE(k->sgd(p + i, buffer ? buffer + i : NULL, g + i, len, &f));
    return true;
}

bool cpu_lion(float *p, float *m, const float *g, int64_t n, const double scalars[CPU_LION_N],
              int n_threads, int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const cpu_lion_factors f = cpu_lion_factors_of(scalars);

    if (isnan(scalars[CPU_LION_GRAD_SCALE]))
        return false;
    CPU_EACH_PIECE(k->lion(p + i, m + i, g + i, len, &f));
    return true;
}

/* --- Ranger ----------------------------------------------------------------------------------- */

typedef struct ranger_call {
    const cpu_optimizer_kernels *k;
    float *p, *m, *v, *slow;
    const float *g;
    int n_threads, isa;
} ranger_call;

/* Elements [from, from + n), of which the mean of g is taken away. */
static void ranger_range(const ranger_call *c, int64_t from, int64_t n, cpu_ranger_factors f,
                         double mean, int n_threads)
{
    f.mean = (float)mean;
#pragma omp parallel for num_threads(cpu_team(n, n_threads)) schedule(static)
    for (int64_t i = from; i < from + n; i += CPU_PIECE)
        c->k->ranger(c->p + i, c->m + i, c->v + i, c->slow + i, c->g + i,
                     cpu_least(CPU_PIECE, from + n - i), &f);
}

/* Row after row while it is in the cache; rows too few for the threads are shared among them. */
static void ranger_rows(const ranger_call *c, int64_t n, int64_t n_rows, const cpu_ranger_factors *f)
{
    const cpu_elementwise_kernels *e = cpu_elementwise_of(c->isa);
    const int64_t cols = n / n_rows;
    const int team = n_rows < c->n_threads ? 1 : cpu_team(n, c->n_threads);

#pragma omp parallel for num_threads(team) schedule(static)
    for (int64_t r = 0; r < n_rows; r++)
        ranger_range(c, r * cols, cols, *f, e->sum(c->g + r * cols, cols) / (double)cols,
                     team == 1 ? c->n_threads : 1);
}

bool cpu_ranger(float *p, float *m, float *v, float *slow, const float *g, int64_t n,
                int64_t n_rows, const double scalars[CPU_RANGER_N], int n_threads, int isa)
{
    const ranger_call c = {cpu_optimizer_of(isa), p, m, v, slow, g, n_threads, isa};
    const cpu_ranger_factors f = cpu_ranger_factors_of(scalars);

    if (isnan(scalars[CPU_RANGER_GRAD_SCALE]))
        return false;
    if (n_rows > 0)
        ranger_rows(&c, n, n_rows, &f);
    else
        ranger_range(&c, 0, n, f, 0.0, n_threads);
    return true;
}

/* --- Prodigy ---------------------------------------------------------------------------------- */

size_t cpu_prodigy_scratch(int64_t n)
{
    return 2 * cpu_sumsq_scratch(n);
}

bool cpu_prodigy_moments(double state[CPU_PRODIGY_STATES], float *s, float *m, float *v,
                         const float *p, const float *p0, const float *g, int64_t n,
                         const double scalars[CPU_PRODIGY_N], void *scratch, int n_threads,
                         int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const cpu_prodigy_factors f = cpu_prodigy_factors_of(state, scalars);
    double *sums = scratch; /* [pieces, 2] */

    if (scalars[CPU_PRODIGY_LR] <= 0.0 || isnan(scalars[CPU_PRODIGY_GRAD_SCALE]))
        return false;
    CPU_EACH_PIECE(k->prodigy_moments(sums + 2 * (i / CPU_PIECE), s + i, m + i, v + i, p + i, p0 + i,
                                  g + i, len, &f));
    for (int64_t i = 0; i < n; i += CPU_PIECE) {
        state[CPU_PRODIGY_DOT] += sums[2 * (i / CPU_PIECE)];
        state[CPU_PRODIGY_DENOMINATOR] += sums[2 * (i / CPU_PIECE) + 1];
    }
    return true;
}

void cpu_prodigy_step(float *p, const float *m, const float *v, int64_t n,
                      const double state[CPU_PRODIGY_STATES], const double scalars[CPU_PRODIGY_N],
                      int n_threads, int isa)
{
    const cpu_optimizer_kernels *k = cpu_optimizer_of(isa);
    const cpu_prodigy_step_factors f = cpu_prodigy_step_factors_of(state, scalars);

    if (scalars[CPU_PRODIGY_LR] > 0.0 && state[CPU_PRODIGY_MOVES] != 0.0)
        CPU_EACH_PIECE(k->prodigy_step(p + i, m + i, v + i, len, &f));
}

/* --- sums of squares -------------------------------------------------------------------------- */

size_t cpu_sumsq_scratch(int64_t n)
{
    return (size_t)((n + CPU_PIECE - 1) / CPU_PIECE) * sizeof(double);
}

double cpu_sumsq(const float *x, int64_t n, void *scratch, int n_threads, int isa)
{
    const cpu_elementwise_kernels *k = cpu_elementwise_of(isa);
    double *part = scratch, total = 0.0;

    CPU_EACH_PIECE(part[i / CPU_PIECE] = k->sumsq(x + i, len));
    for (int64_t i = 0; i < n; i += CPU_PIECE)
        total += part[i / CPU_PIECE];
    return total;
}
