/* norm_kernel.inc.h - softmax, GroupNorm and LayerNorm over vector.h, once per instruction set.
 *
 * Moments. Values are first averaged; then d = x - shift, with shift that average rounded to f32,
 * gives sum d and sum d^2; mean = shift + sum d / n and M2 = sum d^2 - (sum d)^2 / n then lose
 * nothing to cancellation. Blocks are joined in double (Chan, Golub & LeVeque 1983). The mean is
 * used as two floats, shift and the rest: for values near 10^4 half a unit in the last place of an
 * f32 mean can be a visible part of a small standard deviation.
 *
 * GroupNorm reads channels-last rows. Sums by channel stay in registers while a strip of channels
 * of one block of rows goes by.
 */
#include <math.h>
#include <stddef.h>

#include "autograd/cpu/norm_internal.h"
#include "autograd/cpu/vector.h"

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- softmax ---------------------------------------------------------------------------------- */

static void softmax_row(float *y, const float *x, int64_t n)
{
    const int64_t whole = n / VEC_N * VEC_N;
    vec top = vec_set(-INFINITY), sum = vec_set(0.0f);
    float largest;

    for (int64_t i = 0; i < whole; i += VEC_N)
        top = vec_max(vec_load(x + i), top);
    if (whole < n)
        top = vec_max(vec_load_or(x + whole, n - whole, -INFINITY), top);
    largest = vec_top(top); /* a NaN is not in it, but in the sum below */
    for (int64_t i = 0; i < whole; i += VEC_N) {
        const vec e = vec_exp_bounded(vec_sub(vec_load(x + i), vec_set(largest)));
        sum = vec_add(sum, e);
        vec_store(y + i, e);
    }
    if (whole < n) {
        const vec e = vec_exp_bounded(vec_sub(vec_load_or(x + whole, n - whole, -INFINITY),
                                              vec_set(largest)));
        sum = vec_add(sum, e);
        vec_store_n(y + whole, e, n - whole);
    }
    const vec inverse = vec_set(1.0f / vec_sum(sum));
    for (int64_t i = 0; i < whole; i += VEC_N)
        vec_store(y + i, vec_mul(vec_load(y + i), inverse));
    if (whole < n)
        vec_store_n(y + whole, vec_mul(vec_load_n(y + whole, n - whole), inverse), n - whole);
}

static void softmax(float *y, const float *x, int64_t rows, int64_t cols, int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t r = 0; r < rows; r++)
        softmax_row(y + r * cols, x + r * cols, cols);
}

static float dot(const float *a, const float *b, int64_t n)
{
    const int64_t whole = n / VEC_N * VEC_N;
    vec sum = vec_set(0.0f);

    for (int64_t i = 0; i < whole; i += VEC_N)
        sum = vec_fma(vec_load(a + i), vec_load(b + i), sum);
    if (whole < n)
        sum = vec_fma(vec_load_n(a + whole, n - whole), vec_load_n(b + whole, n - whole), sum);
    return vec_sum(sum);
}

static void softmax_grad(float *dx, const float *y, const float *dy, int64_t rows, int64_t cols,
                         int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *yr = y + r * cols, *dyr = dy + r * cols;
        const float mean = dot(yr, dyr, cols);
        for (int64_t i = 0; i < cols; i++)
            dx[r * cols + i] = yr[i] * (dyr[i] - mean);
    }
}

/* --- LayerNorm -------------------------------------------------------------------------------- */

enum { RUN = 64 * VEC_N }; /* values that are summed in f32 */

static double sum_row(const float *x, int64_t n)
{
    double total = 0.0;

    for (int64_t i0 = 0; i0 < n; i0 += RUN) {
        const int64_t end = least(i0 + RUN, n);
        vec s0 = vec_set(0.0f), s1 = s0, s2 = s0, s3 = s0;
        int64_t i = i0;
        for (; i + 4 * VEC_N <= end; i += 4 * VEC_N) {
            s0 = vec_add(s0, vec_load(x + i));
            s1 = vec_add(s1, vec_load(x + i + VEC_N));
            s2 = vec_add(s2, vec_load(x + i + 2 * VEC_N));
            s3 = vec_add(s3, vec_load(x + i + 3 * VEC_N));
        }
        for (; i + VEC_N <= end; i += VEC_N)
            s0 = vec_add(s0, vec_load(x + i));
        if (i < end)
            s1 = vec_add(s1, vec_load_n(x + i, end - i));
        total += (double)vec_sum(vec_add(vec_add(s0, s1), vec_add(s2, s3)));
    }
    return total;
}

/* Sums of d = x - shift and of d^2. */
static void moments_row(double *sum, double *sum_sq, const float *x, int64_t n, float shift)
{
    const vec from = vec_set(shift);

    *sum = *sum_sq = 0.0;
    for (int64_t i0 = 0; i0 < n; i0 += RUN) {
        const int64_t end = least(i0 + RUN, n);
        vec s0 = vec_set(0.0f), s1 = s0, q0 = s0, q1 = s0;
        int64_t i = i0;
        for (; i + 2 * VEC_N <= end; i += 2 * VEC_N) {
            const vec d0 = vec_sub(vec_load(x + i), from);
            const vec d1 = vec_sub(vec_load(x + i + VEC_N), from);
            s0 = vec_add(s0, d0);
            q0 = vec_fma(d0, d0, q0);
            s1 = vec_add(s1, d1);
            q1 = vec_fma(d1, d1, q1);
        }
        for (; i < end; i += VEC_N) {
            const vec d = vec_sub(end - i >= VEC_N ? vec_load(x + i)
                                                   : vec_load_or(x + i, end - i, shift), from);
            s0 = vec_add(s0, d);
            q0 = vec_fma(d, d, q0);
        }
        *sum += (double)vec_sum(vec_add(s0, s1));
        *sum_sq += (double)vec_sum(vec_add(q0, q1));
    }
}

static void layer_forward(float *y, float *mean, float *rstd, const float *x, const float *gamma,
                          const float *beta, int64_t rows, int64_t cols, double eps, int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *xr = x + r * cols;
        float *yr = y + r * cols;
        const double n = (double)cols;
        const float shift = (float)(sum_row(xr, cols) / n);
        double sum, sum_sq, inverse;

        moments_row(&sum, &sum_sq, xr, cols, shift);
        inverse = 1.0 / sqrt(fmax(sum_sq / n - sum / n * (sum / n), 0.0) + eps);
        if (sum_sq != sum_sq) /* fmax drops a NaN */
            inverse = sum_sq;
        mean[r] = (float)(shift + sum / n);
        rstd[r] = (float)inverse;
        const float a = (float)inverse, b = (float)(-sum / n * inverse);
        for (int64_t i = 0; i < cols; i++)
            yr[i] = ((xr[i] - shift) * a + b) * (gamma ? gamma[i] : 1.0f) + (beta ? beta[i] : 0.0f);
    }
}

/* One row of LayerNorm's gradient; sums are [2][cols] of dy and dy xhat, or NULL. */
static void layer_backward_row(float *dx, float *sums, const float *x, const float *gamma,
                               float mean, float rstd, const float *dy, int64_t cols)
{
    vec a = vec_set(0.0f), b = vec_set(0.0f);
    float mean_a, mean_b;

    for (int64_t i = 0; i < cols; i += VEC_N) {
        const int64_t n = least(VEC_N, cols - i);
        const bool whole = n == VEC_N;
        const vec xi = whole ? vec_load(x + i) : vec_load_or(x + i, n, mean);
        const vec d = whole ? vec_load(dy + i) : vec_load_n(dy + i, n);
        const vec hat = vec_mul(vec_sub(xi, vec_set(mean)), vec_set(rstd));
        vec gd = d;

        if (gamma)
            gd = vec_mul(d, whole ? vec_load(gamma + i) : vec_load_n(gamma + i, n));
        a = vec_add(a, gd);
        b = vec_fma(gd, hat, b);
        if (sums && whole) {
            vec_store(sums + i, vec_add(vec_load(sums + i), d));
            vec_store(sums + cols + i, vec_fma(d, hat, vec_load(sums + cols + i)));
        } else if (sums) {
            vec_store_n(sums + i, vec_add(vec_load_n(sums + i, n), d), n);
            vec_store_n(sums + cols + i, vec_fma(d, hat, vec_load_n(sums + cols + i, n)), n);
        }
    }
    if (!dx)
        return;
    mean_a = vec_sum(a) / (float)cols;
    mean_b = vec_sum(b) / (float)cols;
    for (int64_t i = 0; i < cols; i++) {
        const float hat = (x[i] - mean) * rstd;
        dx[i] = rstd * ((gamma ? gamma[i] : 1.0f) * dy[i] - mean_a - hat * mean_b);
    }
}

/* Add f32 sums to double ones and clear them. */
static void flush(double *total, float *sums, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        total[i] += (double)sums[i];
        sums[i] = 0.0f;
    }
}

static void layer_backward(float *dx, float *dgamma, float *dbeta, const float *x,
                           const float *gamma, const float *mean, const float *rstd,
                           const float *dy, int64_t rows, int64_t cols, void *scratch,
                           int n_threads)
{
    const int64_t chunks = cpu_norm_chunks(rows, cols);
    const bool want_sums = dgamma || dbeta;
    double *totals = scratch;
    float *sums = (float *)(totals + chunks * 2 * cols);

    if (want_sums)
        memset(scratch, 0, (size_t)(chunks * 2 * cols) * (sizeof(double) + sizeof(float)));
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t k = 0; k < chunks; k++) {
        double *total = totals + k * 2 * cols;
        float *sum = want_sums ? sums + k * 2 * cols : NULL;
        const int64_t r0 = k * rows / chunks, r1 = (k + 1) * rows / chunks;

        for (int64_t r = r0; r < r1; r++) {
            layer_backward_row(dx ? dx + r * cols : NULL, sum, x + r * cols, gamma, mean[r],
                               rstd[r], dy + r * cols, cols);
            if (sum && ((r - r0) % 128 == 127 || r == r1 - 1))
                flush(total, sum, 2 * cols);
        }
    }
    for (int64_t i = 0; i < 2 * cols && want_sums; i++) {
        float *to = i < cols ? dbeta : dgamma;
        double total = 0.0;
        for (int64_t k = 0; k < chunks; k++)
            total += totals[k * 2 * cols + i];
        if (to)
            to[i % cols] = (float)total;
    }
}

/* --- GroupNorm, forward ----------------------------------------------------------------------- */

enum { STRIP = 4 };

/* Column sums over rows [n_rows][cols] of d = x - shift, with shift [cols] or NULL (zeros), and,
 * when sum_sq is not NULL, of d^2. */
VEC_INLINE void column_strip(float *sum, float *sum_sq, const float *x, const float *shift,
                             int64_t n_rows, int64_t cols, const int n_vec, bool squares)
{
    vec from[STRIP], a[STRIP], q[STRIP];

#pragma GCC unroll 8
    for (int v = 0; v < n_vec; v++) {
        from[v] = shift ? vec_load(shift + v * VEC_N) : vec_set(0.0f);
        a[v] = q[v] = vec_set(0.0f);
    }
    for (int64_t r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n_vec; v++) {
            const vec d = vec_sub(vec_load(x + r * cols + v * VEC_N), from[v]);
            a[v] = vec_add(a[v], d);
            if (squares)
                q[v] = vec_fma(d, d, q[v]);
        }
#pragma GCC unroll 8
    for (int v = 0; v < n_vec; v++) {
        vec_store(sum + v * VEC_N, a[v]);
        if (squares)
            vec_store(sum_sq + v * VEC_N, q[v]);
    }
}

static void column_sums(float *sum, float *sum_sq, const float *x, const float *shift,
                        int64_t n_rows, int64_t cols)
{
    int64_t c = 0;

    for (; c + STRIP * VEC_N <= cols; c += STRIP * VEC_N)
        if (sum_sq)
            column_strip(sum + c, sum_sq + c, x + c, shift + c, n_rows, cols, STRIP, true);
        else
            column_strip(sum + c, NULL, x + c, NULL, n_rows, cols, STRIP, false);
    for (; c + VEC_N <= cols; c += VEC_N)
        if (sum_sq)
            column_strip(sum + c, sum_sq + c, x + c, shift + c, n_rows, cols, 1, true);
        else
            column_strip(sum + c, NULL, x + c, NULL, n_rows, cols, 1, false);
    for (; c < cols; c++) {
        float a = 0.0f, q = 0.0f;
        for (int64_t r = 0; r < n_rows; r++) {
            const float d = x[r * cols + c] - (shift ? shift[c] : 0.0f);
            a += d;
            q += d * d;
        }
        sum[c] = a;
        if (sum_sq)
            sum_sq[c] = q;
    }
}

static double sum_doubles(const float *x, int64_t n)
{
    double total = 0.0;
    for (int64_t i = 0; i < n; i++)
        total += (double)x[i];
    return total;
}

/* Count, mean and sum of squared deviations; add `more` to `into`. */
typedef struct moments {
    double n, mean, m2;
} moments;

static void moments_join(moments *into, moments more)
{
    const double n = into->n + more.n, delta = more.mean - into->mean;

    if (more.n == 0.0)
        return;
    into->mean += delta * more.n / n;
    into->m2 += more.m2 + delta * delta * into->n * more.n / n;
    into->n = n;
}

/* Moments of the groups over rows [n_rows][C]; work is [4][C]. */
static void chunk_moments(moments *out, const cpu_group_norm *s, const float *x, int64_t n_rows,
                          float *work)
{
    const int64_t width = s->c / s->groups, block = cpu_norm_block_rows(s->c);
    float *sum = work, *sum_sq = work + s->c, *shift = work + 2 * s->c;

    for (int64_t g = 0; g < s->groups; g++)
        out[g] = (moments){0};
    for (int64_t r = 0; r < n_rows; r += block) {
        const int64_t rows = least(block, n_rows - r);
        const double n = (double)(rows * width);

        column_sums(sum, NULL, x + r * s->c, NULL, rows, s->c);
        for (int64_t g = 0; g < s->groups; g++) {
            const float mean = (float)(sum_doubles(sum + g * width, width) / n);
            for (int64_t i = 0; i < width; i++)
                shift[g * width + i] = mean;
        }
        column_sums(sum, sum_sq, x + r * s->c, shift, rows, s->c);
        for (int64_t g = 0; g < s->groups; g++) {
            const double d = sum_doubles(sum + g * width, width);
            const double q = sum_doubles(sum_sq + g * width, width);
            moments_join(&out[g], (moments){n, shift[g * width] + d / n, q - d * d / n});
        }
    }
}

/* y = (x - shift) a + b by channel, then SiLU. */
static void normalise_row(float *y, const float *x, const float *shift, const float *a,
                          const float *b, int64_t cols, bool with_silu)
{
    for (int64_t c = 0; c < cols; c += VEC_N) {
        const int64_t n = cols - c;
        if (n >= VEC_N) {
            const vec z = vec_fma(vec_sub(vec_load(x + c), vec_load(shift + c)), vec_load(a + c),
                                  vec_load(b + c));
            vec_store(y + c, with_silu ? vec_silu(z) : z);
        } else {
            const vec z = vec_fma(vec_sub(vec_load_n(x + c, n), vec_load_n(shift + c, n)),
                                  vec_load_n(a + c, n), vec_load_n(b + c, n));
            vec_store_n(y + c, with_silu ? vec_silu(z) : z, n);
        }
    }
}

static void group_forward(float *y, float *mean, float *rstd, const cpu_group_norm *s,
                          const float *x, const float *gamma, const float *beta, void *scratch,
                          int n_threads)
{
    const cpu_group_norm_plan plan = cpu_group_norm_plan_of(s, false);
    const int64_t tasks = s->n * plan.chunks, width = s->c / s->groups;
    moments *parts = scratch, *whole = parts + tasks * s->groups;
    float *work = (float *)(whole + s->n * s->groups);

#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t k = t % plan.chunks;
            const int64_t r0 = k * s->hw / plan.chunks, r1 = (k + 1) * s->hw / plan.chunks;
            chunk_moments(parts + t * s->groups, s, x + (t / plan.chunks * s->hw + r0) * s->c,
                          r1 - r0, work + t * plan.chunk_floats);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s->n * s->groups; i++) {
            const int64_t sample = i / s->groups, g = i % s->groups;
            moments m = {0};
            double inverse;

            for (int64_t k = 0; k < plan.chunks; k++)
                moments_join(&m, parts[(sample * plan.chunks + k) * s->groups + g]);
            inverse = 1.0 / sqrt((m.m2 < 0.0 ? 0.0 : m.m2) / m.n + s->eps);
            whole[i] = (moments){.mean = m.mean, .m2 = inverse};
            mean[i] = (float)m.mean;
            rstd[i] = (float)inverse;
        }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tasks; t++) {
            const int64_t k = t % plan.chunks, sample = t / plan.chunks;
            const int64_t r0 = k * s->hw / plan.chunks, r1 = (k + 1) * s->hw / plan.chunks;
            float *shift = work + t * plan.chunk_floats, *a = shift + s->c, *b = a + s->c;

            for (int64_t c = 0; c < s->c; c++) {
                const moments *m = &whole[sample * s->groups + c / width];
                const double slope = m->m2 * (gamma ? gamma[c] : 1.0);
                shift[c] = (float)m->mean;
                a[c] = (float)slope;
                b[c] = (float)((beta ? beta[c] : 0.0) - (m->mean - shift[c]) * slope);
            }
            for (int64_t r = sample * s->hw + r0; r < sample * s->hw + r1; r++)
                normalise_row(y + r * s->c, x + r * s->c, shift, a, b, s->c, s->silu);
        }
    }
}

/* --- GroupNorm, backward ---------------------------------------------------------------------- */

/* What the gradient needs by channel; each [C], sums [2][C]. */
typedef struct channel_terms {
    float *mean, *rstd, *gamma, *beta, *a, *b, *sums;
} channel_terms;

static channel_terms terms_at(float *work, const cpu_group_norm *s, const float *gamma,
                              const float *beta, const float *mean, const float *rstd,
                              int64_t sample)
{
    const int64_t c = s->c, width = s->c / s->groups;
    channel_terms t = {work, work + c, work + 2 * c, work + 3 * c, work + 4 * c, work + 5 * c,
                       work + 6 * c};

    for (int64_t i = 0; i < c; i++) {
        t.mean[i] = mean[sample * s->groups + i / width];
        t.rstd[i] = rstd[sample * s->groups + i / width];
        t.gamma[i] = gamma ? gamma[i] : 1.0f;
        t.beta[i] = beta ? beta[i] : 0.0f;
    }
    return t;
}

/* xhat and the gradient by z = gamma xhat + beta. */
VEC_INLINE vec z_gradient(vec *hat, vec x, vec d, const channel_terms *t, int64_t c, bool with_silu)
{
    *hat = vec_mul(vec_sub(x, vec_load(t->mean + c)), vec_load(t->rstd + c));
    if (!with_silu)
        return d;
    return vec_mul(d, vec_silu_slope(vec_fma(*hat, vec_load(t->gamma + c),
                                             vec_load(t->beta + c))));
}

static float z_gradient_1(float *hat, float x, float d, const channel_terms *t, int64_t c,
                          bool with_silu)
{
    *hat = (x - t->mean[c]) * t->rstd[c];
    if (with_silu) {
        const float z = *hat * t->gamma[c] + t->beta[c], sig = 1.0f / (1.0f + expf(-z));
        d *= sig * (1.0f + z * (1.0f - sig));
    }
    return d;
}

/* Add dz and dz xhat of one row to sums [2][C]; keep dz unless `keep` is NULL. */
static void add_gradient_sums(float *sums, float *keep, const cpu_group_norm *s, const float *x,
                              const float *dy, const channel_terms *t)
{
    int64_t c = 0;

    for (; c + VEC_N <= s->c; c += VEC_N) {
        float *a = sums + c, *b = sums + s->c + c;
        vec hat;
        const vec dz = z_gradient(&hat, vec_load(x + c), vec_load(dy + c), t, c, s->silu);
        vec_store(a, vec_add(vec_load(a), dz));
        vec_store(b, vec_fma(dz, hat, vec_load(b)));
        if (keep)
            vec_store(keep + c, dz);
    }
    for (; c < s->c; c++) {
        float hat;
        const float dz = z_gradient_1(&hat, x[c], dy[c], t, c, s->silu);
        sums[c] += dz;
        sums[s->c + c] += dz * hat;
        if (keep)
            keep[c] = dz;
    }
}

/* dx = rstd (gamma dz - A - xhat B) = (rstd gamma) dz - a - xhat b for one row; dz may be dx. */
static void gradient_row(float *dx, const float *x, const float *dz, int64_t cols,
                         const channel_terms *t)
{
    int64_t c = 0;

    for (; c + VEC_N <= cols; c += VEC_N) {
        const vec rstd = vec_load(t->rstd + c);
        const vec hat = vec_mul(vec_sub(vec_load(x + c), vec_load(t->mean + c)), rstd);
        const vec slope = vec_mul(rstd, vec_load(t->gamma + c));
        vec_store(dx + c, vec_fnma(hat, vec_load(t->b + c),
                                   vec_sub(vec_mul(slope, vec_load(dz + c)),
                                           vec_load(t->a + c))));
    }
    for (; c < cols; c++) {
        const float hat = (x[c] - t->mean[c]) * t->rstd[c];
        dx[c] = t->rstd[c] * t->gamma[c] * dz[c] - t->a[c] - hat * t->b[c];
    }
}

/* a and b of one sample from the chunks' sums. */
static void finish_terms(const channel_terms *t, const cpu_group_norm *s, const double *totals,
                         int64_t chunks)
{
    const int64_t width = s->c / s->groups;
    const double m = (double)(s->hw * width);

    for (int64_t g = 0; g < s->groups; g++) {
        double a = 0.0, b = 0.0;
        for (int64_t c = g * width; c < (g + 1) * width; c++)
            for (int64_t k = 0; k < chunks; k++) {
                a += t->gamma[c] * totals[k * 2 * s->c + c];
                b += t->gamma[c] * totals[k * 2 * s->c + s->c + c];
            }
        for (int64_t c = g * width; c < (g + 1) * width; c++) {
            t->a[c] = (float)(t->rstd[c] * a / m);
            t->b[c] = (float)(t->rstd[c] * b / m);
        }
    }
}

static void group_backward(float *dx, float *dgamma, float *dbeta, const cpu_group_norm *s,
                           const float *x, const float *gamma, const float *beta,
                           const float *mean, const float *rstd, const float *dy, void *scratch,
                           int n_threads)
{
    const cpu_group_norm_plan plan = cpu_group_norm_plan_of(s, true);
    const int64_t tasks = s->n * plan.chunks;
    double *totals = scratch;
    float *work = (float *)(totals + tasks * plan.chunk_doubles);

#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < tasks; i++) {
            const int64_t k = i % plan.chunks, sample = i / plan.chunks;
            const int64_t r0 = k * s->hw / plan.chunks, r1 = (k + 1) * s->hw / plan.chunks;
            const channel_terms t = terms_at(work + i * plan.chunk_floats, s, gamma, beta, mean,
                                             rstd, sample);
            double *total = totals + i * plan.chunk_doubles;

            memset(total, 0, (size_t)plan.chunk_doubles * sizeof *total);
            memset(t.sums, 0, (size_t)(2 * s->c) * sizeof *t.sums);
            for (int64_t r = r0; r < r1; r++) {
                const int64_t at = (sample * s->hw + r) * s->c;
                add_gradient_sums(t.sums, s->silu && dx ? dx + at : NULL, s, x + at, dy + at, &t);
                if ((r - r0) % 128 == 127 || r == r1 - 1)
                    flush(total, t.sums, 2 * s->c);
            }
        }
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < s->c; c++) {
            double a = 0.0, b = 0.0;
            for (int64_t i = 0; i < tasks; i++) {
                a += totals[i * plan.chunk_doubles + c];
                b += totals[i * plan.chunk_doubles + s->c + c];
            }
            if (dbeta)
                dbeta[c] = (float)a;
            if (dgamma)
                dgamma[c] = (float)b;
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < (dx ? tasks : 0); i++) {
            const int64_t k = i % plan.chunks, sample = i / plan.chunks;
            const int64_t r0 = k * s->hw / plan.chunks, r1 = (k + 1) * s->hw / plan.chunks;
            const channel_terms t = terms_at(work + i * plan.chunk_floats, s, gamma, beta, mean,
                                             rstd, sample);

            finish_terms(&t, s, totals + sample * plan.chunks * plan.chunk_doubles, plan.chunks);
            for (int64_t r = sample * s->hw + r0; r < sample * s->hw + r1; r++)
                gradient_row(dx + r * s->c, x + r * s->c, (s->silu ? dx : dy) + r * s->c, s->c, &t);
        }
    }
}

const cpu_norm_kernels VEC_NAME(cpu_norm) = {
    .softmax = softmax,
    .softmax_grad = softmax_grad,
    .group_forward = group_forward,
    .group_backward = group_backward,
    .layer_forward = layer_forward,
    .layer_backward = layer_backward,
};
