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

VEC_INLINE double sum_row(const bool bf16, const void *x, int64_t at, int64_t n)
{
    double total = 0.0;

    for (int64_t i0 = 0; i0 < n; i0 += RUN) {
        const int64_t end = least(i0 + RUN, n);
        vec s0 = vec_set(0.0f), s1 = s0, s2 = s0, s3 = s0;
        int64_t i = i0;
        for (; i + 4 * VEC_N <= end; i += 4 * VEC_N) {
            for (int v = 0; v < 4; v++)
                vec_fetch_ahead(bf16, x, at + i + v * VEC_N);
            s0 = vec_add(s0, vec_get(bf16, x, at + i, VEC_N));
            s1 = vec_add(s1, vec_get(bf16, x, at + i + VEC_N, VEC_N));
            s2 = vec_add(s2, vec_get(bf16, x, at + i + 2 * VEC_N, VEC_N));
            s3 = vec_add(s3, vec_get(bf16, x, at + i + 3 * VEC_N, VEC_N));
        }
        for (; i + VEC_N <= end; i += VEC_N)
            s0 = vec_add(s0, vec_get(bf16, x, at + i, VEC_N));
        if (i < end)
            s1 = vec_add(s1, vec_get(bf16, x, at + i, end - i));
        total += (double)vec_sum(vec_add(vec_add(s0, s1), vec_add(s2, s3)));
    }
    return total;
}

/* Sums of d = x - shift and of d^2. */
VEC_INLINE void moments_row(const bool bf16, double *sum, double *sum_sq, const void *x, int64_t at,
                            int64_t n, float shift)
{
    const vec from = vec_set(shift);

    *sum = *sum_sq = 0.0;
    for (int64_t i0 = 0; i0 < n; i0 += RUN) {
        const int64_t end = least(i0 + RUN, n);
        vec s0 = vec_set(0.0f), s1 = s0, q0 = s0, q1 = s0;
        int64_t i = i0;
        for (; i + 2 * VEC_N <= end; i += 2 * VEC_N) {
            const vec d0 = vec_sub(vec_get(bf16, x, at + i, VEC_N), from);
            const vec d1 = vec_sub(vec_get(bf16, x, at + i + VEC_N, VEC_N), from);
            s0 = vec_add(s0, d0);
            q0 = vec_fma(d0, d0, q0);
            s1 = vec_add(s1, d1);
            q1 = vec_fma(d1, d1, q1);
        }
        for (; i < end; i += VEC_N) {
            const vec d = vec_sub(vec_fill_up(vec_get(bf16, x, at + i, end - i), end - i, shift), from);
            s0 = vec_add(s0, d);
            q0 = vec_fma(d, d, q0);
        }
        *sum += (double)vec_sum(vec_add(s0, s1));
        *sum_sq += (double)vec_sum(vec_add(q0, q1));
    }
}

/* y = ((x - shift) a + b) gamma + beta, n columns from i on of the row at element `at`. */
VEC_INLINE void layer_apply(const bool bf16, void *y, const void *x, int64_t at, int64_t i, int64_t n,
                            float shift, vec a, vec b, const float *gamma, const float *beta)
{
    vec z = vec_fma(vec_sub(vec_get(bf16, x, at + i, n), vec_set(shift)), a, b);

    vec_fetch_ahead(bf16, y, at + i);
    if (gamma)
        z = vec_mul(z, vec_get(false, gamma, i, n));
    if (beta)
        z = vec_add(z, vec_get(false, beta, i, n));
    vec_put(bf16, y, at + i, n, z);
}

VEC_INLINE void layer_forward_row(const bool bf16, void *y, float *mean, float *rstd, const void *x,
                                  int64_t at, const float *gamma, const float *beta, int64_t cols,
                                  double eps)
{
    const double n = (double)cols;
    const float shift = (float)(sum_row(bf16, x, at, cols) / n);
    double sum, sum_sq, inverse;

    moments_row(bf16, &sum, &sum_sq, x, at, cols, shift);
    inverse = 1.0 / sqrt(fmax(sum_sq / n - sum / n * (sum / n), 0.0) + eps);
    if (sum_sq != sum_sq) /* fmax drops a NaN */
        inverse = sum_sq;
    *mean = (float)(shift + sum / n);
    *rstd = (float)inverse;
    const vec a = vec_set((float)inverse), b = vec_set((float)(-sum / n * inverse));
    int64_t i = 0;
    for (; i + VEC_N <= cols; i += VEC_N)
        layer_apply(bf16, y, x, at, i, VEC_N, shift, a, b, gamma, beta);
    if (i < cols)
        layer_apply(bf16, y, x, at, i, cols - i, shift, a, b, gamma, beta);
}

static void layer_forward(void *y, float *mean, float *rstd, const void *x, bool bf16,
                          const float *gamma, const float *beta, int64_t rows, int64_t cols,
                          double eps, int n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (bf16)
            layer_forward_row(true, y, mean + r, rstd + r, x, r * cols, gamma, beta, cols, eps);
        else
            layer_forward_row(false, y, mean + r, rstd + r, x, r * cols, gamma, beta, cols, eps);
    }
}

/* One row of LayerNorm's gradient, from element `at` on; sums are [2][cols] of dy and dy xhat, or NULL. */
VEC_INLINE void layer_backward_row(const bool bf16, void *dx, float *sums, const void *x,
                                   const float *gamma, float mean, float rstd, const void *dy, int64_t at,
                                   int64_t cols)
{
    vec a = vec_set(0.0f), b = vec_set(0.0f);

    for (int64_t i = 0; i < cols; i += VEC_N) {
        const int64_t n = cols - i;
        vec_fetch_ahead(bf16, x, at + i);
        vec_fetch_ahead(bf16, dy, at + i);
        const vec xi = vec_fill_up(vec_get(bf16, x, at + i, n), n, mean);
        const vec d = vec_get(bf16, dy, at + i, n);
        const vec hat = vec_mul(vec_sub(xi, vec_set(mean)), vec_set(rstd));
        const vec gd = gamma ? vec_mul(d, vec_get(false, gamma, i, n)) : d;

        a = vec_add(a, gd);
        b = vec_fma(gd, hat, b);
        if (sums) {
            vec_put(false, sums, i, n, vec_add(vec_get(false, sums, i, n), d));
            vec_put(false, sums, cols + i, n, vec_fma(d, hat, vec_get(false, sums, cols + i, n)));
        }
    }
    if (!dx)
        return;
    const vec mean_a = vec_set(vec_sum(a) / (float)cols), mean_b = vec_set(vec_sum(b) / (float)cols);
    for (int64_t i = 0; i < cols; i += VEC_N) {
        const int64_t n = cols - i;
        const vec hat = vec_mul(vec_sub(vec_get(bf16, x, at + i, n), vec_set(mean)), vec_set(rstd));
        vec gd = vec_get(bf16, dy, at + i, n);
        vec_fetch_ahead(bf16, dx, at + i);
        if (gamma)
            gd = vec_mul(gd, vec_get(false, gamma, i, n));
        vec_put(bf16, dx, at + i, n,
                vec_mul(vec_set(rstd), vec_fnma(hat, mean_b, vec_sub(gd, mean_a))));
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

static void layer_backward(void *dx, float *dgamma, float *dbeta, const void *x, bool bf16,
                           const float *gamma, const float *mean, const float *rstd,
                           const void *dy, int64_t rows, int64_t cols, void *scratch,
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
            if (bf16)
                layer_backward_row(true, dx, sum, x, gamma, mean[r], rstd[r], dy, r * cols, cols);
            else
                layer_backward_row(false, dx, sum, x, gamma, mean[r], rstd[r], dy, r * cols, cols);
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

/* Column sums over rows [n_rows][cols] from element `at` on of d = x - shift, with shift [cols] or NULL
 * (zeros), and, when sum_sq is not NULL, of d^2; n (at most n_vec vectors) columns from c on. */
VEC_INLINE void column_strip(const bool bf16, const int n_vec, float *sum, float *sum_sq, const void *x,
                             int64_t at, const float *shift, int64_t n_rows, int64_t cols, int64_t n)
{
    vec from[STRIP], a[STRIP], q[STRIP];

#pragma GCC unroll 8
    for (int v = 0; v < n_vec; v++) {
        from[v] = shift ? vec_get(false, shift, v * VEC_N, n - v * VEC_N) : vec_set(0.0f);
        a[v] = q[v] = vec_set(0.0f);
    }
    for (int64_t r = 0; r < n_rows; r++)
#pragma GCC unroll 8
        for (int v = 0; v < n_vec; v++) {
            const vec d = vec_sub(vec_get(bf16, x, at + r * cols + v * VEC_N, n - v * VEC_N), from[v]);
            if (!sum_sq) /* the first to read these rows: the next ones */
                vec_fetch(bf16, x, at + (r + n_rows) * cols + v * VEC_N);
            a[v] = vec_add(a[v], d);
            if (sum_sq)
                q[v] = vec_fma(d, d, q[v]);
        }
#pragma GCC unroll 8
    for (int v = 0; v < n_vec; v++) {
        vec_put(false, sum, v * VEC_N, n - v * VEC_N, a[v]);
        if (sum_sq)
            vec_put(false, sum_sq, v * VEC_N, n - v * VEC_N, q[v]);
    }
}

VEC_INLINE void column_sums_of(const bool bf16, const bool squares, float *sum, float *sum_sq,
                               const void *x, int64_t at, const float *shift, int64_t n_rows, int64_t cols)
{
    int64_t c = 0;

    for (; c + STRIP * VEC_N <= cols; c += STRIP * VEC_N)
        column_strip(bf16, STRIP, sum + c, squares ? sum_sq + c : NULL, x, at + c,
                     squares ? shift + c : NULL, n_rows, cols, STRIP * VEC_N);
    for (; c + VEC_N <= cols; c += VEC_N)
        column_strip(bf16, 1, sum + c, squares ? sum_sq + c : NULL, x, at + c, squares ? shift + c : NULL,
                     n_rows, cols, VEC_N);
    if (c < cols)
        column_strip(bf16, 1, sum + c, squares ? sum_sq + c : NULL, x, at + c, squares ? shift + c : NULL,
                     n_rows, cols, cols - c);
}

static void column_sums(bool bf16, float *sum, const void *x, int64_t at, int64_t n_rows, int64_t cols)
{
    if (bf16)
        column_sums_of(true, false, sum, NULL, x, at, NULL, n_rows, cols);
    else
        column_sums_of(false, false, sum, NULL, x, at, NULL, n_rows, cols);
}

static void column_squares(bool bf16, float *sum, float *sum_sq, const void *x, int64_t at,
                           const float *shift, int64_t n_rows, int64_t cols)
{
    if (bf16)
        column_sums_of(true, true, sum, sum_sq, x, at, shift, n_rows, cols);
    else
        column_sums_of(false, true, sum, sum_sq, x, at, shift, n_rows, cols);
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

/* Moments of the groups over rows [n_rows][C] from element `at` on; work is [4][C]. */
static void chunk_moments(moments *out, const cpu_group_norm *s, const void *x, int64_t at,
                          int64_t n_rows, float *work)
{
    const bool bf16 = s->type == AG_BF16;
    const int64_t width = s->c / s->groups, block = cpu_norm_block_rows(s->c);
    float *sum = work, *sum_sq = work + s->c, *shift = work + 2 * s->c;

    for (int64_t g = 0; g < s->groups; g++)
        out[g] = (moments){0};
    for (int64_t r = 0; r < n_rows; r += block) {
        const int64_t rows = least(block, n_rows - r);
        const double n = (double)(rows * width);

        column_sums(bf16, sum, x, at + r * s->c, rows, s->c);
        for (int64_t g = 0; g < s->groups; g++) {
            const float mean = (float)(sum_doubles(sum + g * width, width) / n);
            for (int64_t i = 0; i < width; i++)
                shift[g * width + i] = mean;
        }
        column_squares(bf16, sum, sum_sq, x, at + r * s->c, shift, rows, s->c);
        for (int64_t g = 0; g < s->groups; g++) {
            const double d = sum_doubles(sum + g * width, width);
            const double q = sum_doubles(sum_sq + g * width, width);
            moments_join(&out[g], (moments){n, shift[g * width] + d / n, q - d * d / n});
        }
    }
}

/* y = (x - shift) a + b by channel, then SiLU; the row from element `at` on. */
VEC_INLINE void normalise_row_of(const bool bf16, const bool with_silu, void *y, const void *x, int64_t at,
                                 const float *shift, const float *a, const float *b, int64_t cols)
{
    for (int64_t c = 0; c < cols; c += VEC_N) {
        const int64_t n = cols - c;
        vec_fetch_ahead(bf16, x, at + c);
        vec_fetch_ahead(bf16, y, at + c);
        const vec z = vec_fma(vec_sub(vec_get(bf16, x, at + c, n), vec_get(false, shift, c, n)),
                              vec_get(false, a, c, n), vec_get(false, b, c, n));
        vec_put(bf16, y, at + c, n, with_silu ? vec_silu_of(bf16, z) : z);
    }
}

#define OF_TYPE_AND_SILU(f, s, ...)                                                               \
    do {                                                                                          \
        if ((s)->type == AG_BF16 && (s)->silu)                                                    \
            f(true, true, __VA_ARGS__);                                                           \
        else if ((s)->type == AG_BF16)                                                            \
            f(true, false, __VA_ARGS__);                                                          \
        else if ((s)->silu)                                                                       \
            f(false, true, __VA_ARGS__);                                                          \
        else                                                                                      \
            f(false, false, __VA_ARGS__);                                                         \
    } while (0)

static void normalise_row(const cpu_group_norm *s, void *y, const void *x, int64_t at, const float *shift,
                          const float *a, const float *b)
{
    OF_TYPE_AND_SILU(normalise_row_of, s, y, x, at, shift, a, b, s->c);
}

static void group_forward(void *y, float *mean, float *rstd, const cpu_group_norm *s,
                          const void *x, const float *gamma, const float *beta, void *scratch,
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
            chunk_moments(parts + t * s->groups, s, x, (t / plan.chunks * s->hw + r0) * s->c, r1 - r0,
                          work + t * plan.chunk_floats);
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

            for (int64_t g = 0; g < s->groups; g++) {
                const moments *m = &whole[sample * s->groups + g];
                for (int64_t c = g * width; c < (g + 1) * width; c++) {
                    const double slope = m->m2 * (gamma ? gamma[c] : 1.0);
                    shift[c] = (float)m->mean;
                    a[c] = (float)slope;
                    b[c] = (float)((beta ? beta[c] : 0.0) - (m->mean - shift[c]) * slope);
                }
            }
            for (int64_t r = sample * s->hw + r0; r < sample * s->hw + r1; r++)
                normalise_row(s, y, x, r * s->c, shift, a, b);
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

    for (int64_t g = 0; g < s->groups; g++)
        for (int64_t i = g * width; i < (g + 1) * width; i++) {
            t.mean[i] = mean[sample * s->groups + g];
            t.rstd[i] = rstd[sample * s->groups + g];
            t.gamma[i] = gamma ? gamma[i] : 1.0f;
            t.beta[i] = beta ? beta[i] : 0.0f;
        }
    return t;
}

/* xhat and the gradient by z = gamma xhat + beta of channels c.., n of them; element `at` on. */
VEC_INLINE vec z_gradient(const bool bf16, const bool with_silu, vec *hat, const void *x, const void *dy,
                          int64_t at, const channel_terms *t, int64_t c, int64_t n)
{
    vec_fetch_ahead(bf16, dy, at + c);
    vec_fetch_ahead(bf16, x, at + c);
    const vec d = vec_get(bf16, dy, at + c, n);
    const vec from_mean = vec_sub(vec_get(bf16, x, at + c, n), vec_get(false, t->mean, c, n));

    *hat = vec_mul(from_mean, vec_get(false, t->rstd, c, n));
    if (!with_silu)
        return d;
    return vec_mul(d, vec_silu_slope_of(bf16, vec_fma(*hat, vec_get(false, t->gamma, c, n),
                                                      vec_get(false, t->beta, c, n))));
}

/* Add dz and dz xhat of one row to sums [2][C]. In f32 dz waits in dx, when that is wanted: it costs an
 * exponential. */
VEC_INLINE void gradient_sums_of(const bool bf16, const bool with_silu, float *sums, void *dx,
                                 const void *x, const void *dy, int64_t at, const channel_terms *t,
                                 int64_t cols)
{
    for (int64_t c = 0; c < cols; c += VEC_N) {
        const int64_t n = cols - c;
        vec hat;
        const vec dz = z_gradient(bf16, with_silu, &hat, x, dy, at, t, c, n);
        vec_put(false, sums, c, n, vec_add(vec_get(false, sums, c, n), dz));
        vec_put(false, sums, cols + c, n, vec_fma(dz, hat, vec_get(false, sums, cols + c, n)));
        if (!bf16 && with_silu && dx)
            vec_put(false, dx, at + c, n, dz);
    }
}

/* dx = rstd (gamma dz - A - xhat B) = (rstd gamma) dz - a - xhat b for one row. */
VEC_INLINE void gradient_row_of(const bool bf16, const bool with_silu, void *dx, const void *x,
                                const void *dy, int64_t at, const channel_terms *t, int64_t cols)
{
    for (int64_t c = 0; c < cols; c += VEC_N) {
        const int64_t n = cols - c;
        vec hat;
        const bool kept = !bf16 && with_silu;
        const vec dz = z_gradient(bf16, bf16 && with_silu, &hat, x, kept ? dx : dy, at, t, c, n);
        const vec slope = vec_mul(vec_get(false, t->rstd, c, n), vec_get(false, t->gamma, c, n));
        vec_fetch_ahead(bf16, dx, at + c);
        vec_put(bf16, dx, at + c, n,
                vec_fnma(hat, vec_get(false, t->b, c, n),
                         vec_sub(vec_mul(slope, dz), vec_get(false, t->a, c, n))));
    }
}

static void add_gradient_sums(const cpu_group_norm *s, float *sums, void *dx, const void *x,
                              const void *dy, int64_t at, const channel_terms *t)
{
    OF_TYPE_AND_SILU(gradient_sums_of, s, sums, dx, x, dy, at, t, s->c);
}

static void gradient_row(const cpu_group_norm *s, void *dx, const void *x, const void *dy, int64_t at,
                         const channel_terms *t)
{
    OF_TYPE_AND_SILU(gradient_row_of, s, dx, x, dy, at, t, s->c);
}

/* The sums of one sample's chunks, `n` numbers from i on of each, go to the first chunk's. */
static void join_chunks(double *totals, int64_t step, int64_t chunks, int64_t i, int64_t n)
{
    for (int64_t k = 1; k < chunks; k++)
        for (int64_t j = i; j < i + n; j++)
            totals[j] += totals[k * step + j];
}

/* a and b of one sample from its sums. */
static void finish_terms(const channel_terms *t, const cpu_group_norm *s, const double *totals)
{
    const int64_t width = s->c / s->groups;
    const double m = (double)(s->hw * width);

    for (int64_t g = 0; g < s->groups; g++) {
        double a = 0.0, b = 0.0;
        for (int64_t c = g * width; c < (g + 1) * width; c++) {
            a += t->gamma[c] * totals[c];
            b += t->gamma[c] * totals[s->c + c];
        }
        for (int64_t c = g * width; c < (g + 1) * width; c++) {
            t->a[c] = (float)(t->rstd[c] * a / m);
            t->b[c] = (float)(t->rstd[c] * b / m);
        }
    }
}

enum { JOINED = 64 }; /* sums that a thread joins at a time */

static void group_backward(void *dx, float *dgamma, float *dbeta, const cpu_group_norm *s,
                           const void *x, const float *gamma, const float *beta,
                           const float *mean, const float *rstd, const void *dy, void *scratch,
                           int n_threads)
{
    const cpu_group_norm_plan plan = cpu_group_norm_plan_of(s, true);
    const int64_t tasks = s->n * plan.chunks, pieces = (2 * s->c + JOINED - 1) / JOINED;
    const int64_t to_sample = plan.chunks * plan.chunk_doubles;
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
                add_gradient_sums(s, t.sums, dx, x, dy, (sample * s->hw + r) * s->c, &t);
                if ((r - r0) % 128 == 127 || r == r1 - 1)
                    flush(total, t.sums, 2 * s->c);
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s->n * pieces; i++)
            join_chunks(totals + i / pieces * to_sample, plan.chunk_doubles, plan.chunks, i % pieces * JOINED,
                        least(JOINED, 2 * s->c - i % pieces * JOINED));
#pragma omp for schedule(static) nowait
        for (int64_t c = 0; c < s->c; c++) {
            double a = 0.0, b = 0.0;
            for (int64_t i = 0; i < s->n; i++) {
                a += totals[i * to_sample + c];
                b += totals[i * to_sample + s->c + c];
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

            finish_terms(&t, s, totals + sample * to_sample);
            for (int64_t r = sample * s->hw + r0; r < sample * s->hw + r1; r++)
                gradient_row(s, dx, x, dy, r * s->c, &t);
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
