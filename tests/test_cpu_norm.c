/* test_cpu_norm.c - softmax, GroupNorm and LayerNorm kernels against their definitions in double.
 *
 * Gradients: the loss is sum(w * y) with random w, and the reference in double is differenced, not
 * the kernel. Hostile input: a large mean with a tiny spread, one row, one column, an outlier.
 */
#include "autograd/cpu/norm.h"

#include "autograd/numbers.h"

#include "tests/cpu_check.h"

/* GroupNorm over [N,HW,C]; LayerNorm is N = R, HW = 1, G = 1; w NULL: only y. Returns sum(w y). */
static double reference_norm(double *y, const cpu_group_norm *s, const double *x,
                             const double *gamma, const double *beta, const double *w)
{
    const int64_t width = s->c / s->groups;
    double loss = 0.0;

    for (int64_t n = 0; n < s->n; n++)
        for (int64_t g = 0; g < s->groups; g++) {
            const double count = (double)(s->hw * width);
            double mean = 0.0, var = 0.0;
            for (int64_t r = 0; r < s->hw; r++)
                for (int64_t c = g * width; c < (g + 1) * width; c++)
                    mean += x[(n * s->hw + r) * s->c + c] / count;
            for (int64_t r = 0; r < s->hw; r++)
                for (int64_t c = g * width; c < (g + 1) * width; c++) {
                    const double d = x[(n * s->hw + r) * s->c + c] - mean;
                    var += d * d / count;
                }
            for (int64_t r = 0; r < s->hw; r++)
                for (int64_t c = g * width; c < (g + 1) * width; c++) {
                    const int64_t i = (n * s->hw + r) * s->c + c;
                    const double z = (x[i] - mean) / sqrt(var + s->eps) * gamma[c] + beta[c];
                    const double out = s->silu ? z / (1.0 + exp(-z)) : z;
                    if (y)
                        y[i] = out;
                    if (w)
                        loss += w[i] * out;
                }
        }
    return loss;
}

/* Gradient by central differences of v[0..n), one of x, gamma, beta. */
static double *reference_slopes(double *v, int64_t n, const cpu_group_norm *s, const double *x,
                                const double *gamma, const double *beta, const double *w)
{
    double *slope = check_doubles(NULL, n);
    const double h = 1e-5;

    for (int64_t i = 0; i < n; i++) {
        const double v0 = v[i];
        double up, down;
        v[i] = v0 + h;
        up = reference_norm(NULL, s, x, gamma, beta, w);
        v[i] = v0 - h;
        down = reference_norm(NULL, s, x, gamma, beta, w);
        v[i] = v0;
        slope[i] = (up - down) / (2 * h);
    }
    return slope;
}

static void compare_norm(const cpu_group_norm *s, bool layer, bool affine, int isa)
{
    const int64_t total = s->n * s->hw * s->c, n_stats = s->n * s->groups;
    uint64_t seed = (uint64_t)(total + 1);
    float *x = check_random(total, &seed, 0.5, 1), *w = check_random(total, &seed, 0, 1);
    float *gamma = check_random(s->c, &seed, 1, 0.5), *beta = check_random(s->c, &seed, 0, 1);
    float *y = check_floats(total), *dx = check_floats(total);
    float *mean = check_floats(n_stats), *rstd = check_floats(n_stats);
    float *dgamma = check_floats(s->c), *dbeta = check_floats(s->c);
    double *xd = check_doubles(x, total), *wd = check_doubles(w, total);
    double *gd = check_doubles(gamma, s->c), *bd = check_doubles(beta, s->c);
    double *want = check_doubles(NULL, total), *want_dx, *want_dgamma, *want_dbeta;
    void *scratch;

    for (int64_t c = 0; c < s->c && !affine; c++) {
        gd[c] = 1.0;
        bd[c] = 0.0;
    }
    const float *g = affine ? gamma : NULL, *b = affine ? beta : NULL;
    reference_norm(want, s, xd, gd, bd, NULL);
    want_dx = reference_slopes(xd, total, s, xd, gd, bd, wd);
    want_dgamma = reference_slopes(gd, s->c, s, xd, gd, bd, wd);
    want_dbeta = reference_slopes(bd, s->c, s, xd, gd, bd, wd);
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        if (layer) {
            cpu_layer_norm_forward(y, mean, rstd, x, AG_F32, g, b, s->n, s->c, s->eps, n_threads, isa);
            scratch = check_scratch(cpu_layer_norm_grad_scratch(s->n, s->c, n_threads));
            cpu_layer_norm_backward(dx, dgamma, dbeta, x, AG_F32, g, mean, rstd, w, s->n, s->c, scratch,
                                    n_threads, isa);
        } else {
            scratch = check_scratch(cpu_group_norm_scratch(s, n_threads));
            cpu_group_norm_forward(y, mean, rstd, s, x, g, b, scratch, n_threads, isa);
            free(scratch);
            scratch = check_scratch(cpu_group_norm_grad_scratch(s, n_threads));
            cpu_group_norm_backward(dx, dgamma, dbeta, s, x, g, b, mean, rstd, w, scratch,
                                    n_threads, isa);
        }
        free(scratch);
        check_near("y", isa, y, want, total, 1e-6);
        check_near("dx", isa, dx, want_dx, total, 3e-6);
        check_near("dgamma", isa, dgamma, want_dgamma, s->c, 2e-6);
        check_near("dbeta", isa, dbeta, want_dbeta, s->c, 2e-6);
    }
    free(x);
    free(w);
    free(gamma);
    free(beta);
    free(y);
    free(dx);
    free(mean);
    free(rstd);
    free(dgamma);
    free(dbeta);
    free(xd);
    free(wd);
    free(gd);
    free(bd);
    free(want);
    free(want_dx);
    free(want_dgamma);
    free(want_dbeta);
}

/* In bf16: the f32 results of the same values, rounded; statistics and affine gradients the same bits. With
 * SiLU results are only as good as bf16 shows. */
static void norms_bf16_of(int isa)
{
    enum { N = 2, HW = 7, C = 84, TOTAL = N * HW * C };
    uint64_t seed = 77;
    float *x = check_random(TOTAL, &seed, 0.5, 1), *dy = check_random(TOTAL, &seed, 0, 1);
    float *gamma = check_random(C, &seed, 1, 0.5), *beta = check_random(C, &seed, 0, 1);
    uint16_t half_x[TOTAL], half_dy[TOTAL], half_y[TOTAL], half_dx[TOTAL];
    float y[TOTAL], dx[TOTAL], stats[2][2][N * HW], affine[2][2][C];

    for (int i = 0; i < TOTAL; i++) {
        x[i] = ag_f32_of_bf16(half_x[i] = ag_bf16_of_f32(x[i]));
        dy[i] = ag_f32_of_bf16(half_dy[i] = ag_bf16_of_f32(dy[i]));
    }
    for (int kind = 0; kind < 3; kind++) { /* GroupNorm, with SiLU, LayerNorm */
        cpu_group_norm s = {.n = N, .hw = HW, .c = C, .groups = 7, .eps = 1e-5, .silu = kind == 1};
        for (int half = 0; half < 2; half++) {
            void *scratch = check_scratch(cpu_group_norm_scratch(&s, 2) + cpu_group_norm_grad_scratch(&s, 2) +
                                          cpu_layer_norm_grad_scratch(N * HW, C, 2));
            const void *px = half ? (void *)half_x : x, *pdy = half ? (void *)half_dy : dy;
            void *py = half ? (void *)half_y : y, *pdx = half ? (void *)half_dx : dx;
            float *mean = stats[half][0], *rstd = stats[half][1];
            s.type = half ? AG_BF16 : AG_F32;
            if (kind < 2) {
                cpu_group_norm_forward(py, mean, rstd, &s, px, gamma, beta, scratch, 2, isa);
                cpu_group_norm_backward(pdx, affine[half][0], affine[half][1], &s, px, gamma, beta, mean,
                                        rstd, pdy, scratch, 2, isa);
            } else {
                cpu_layer_norm_forward(py, mean, rstd, px, s.type, gamma, beta, N * HW, C, 1e-5, 2, isa);
                cpu_layer_norm_backward(pdx, affine[half][0], affine[half][1], px, s.type, gamma, mean,
                                        rstd, pdy, N * HW, C, scratch, 2, isa);
            }
            free(scratch);
        }
        for (int i = 0; i < TOTAL; i++) {
            if (s.silu) {
                assert_true(fabsf(ag_f32_of_bf16(half_y[i]) - y[i]) <= 0.005f * fabsf(y[i]));
                assert_true(fabsf(ag_f32_of_bf16(half_dx[i]) - dx[i]) <= 0.005f * fabsf(dx[i]) + 1e-3f);
            } else {
                assert_int_equal(half_y[i], ag_bf16_of_f32(y[i]));
                assert_int_equal(half_dx[i], ag_bf16_of_f32(dx[i]));
            }
        }
        check_same("mean", isa, stats[0][0], stats[1][0], kind < 2 ? N * 7 : N * HW);
        check_same("rstd", isa, stats[0][1], stats[1][1], kind < 2 ? N * 7 : N * HW);
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < C; i++)
                assert_true(fabsf(affine[0][k][i] - affine[1][k][i]) <= (s.silu ? 1e-3f : 0.0f));
    }
    free(x);
    free(dy);
    free(gamma);
    free(beta);
}

static void norms_of(int isa)
{
    static const int64_t shape[][4] = {{1, 1, 1, 1}, {2, 5, 6, 3}, {1, 9, 21, 7},
                                       {2, 1, 36, 4}, {1, 3, 80, 2}};

    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int variant = 0; variant < 4; variant++) {
            const cpu_group_norm s = {.n = shape[i][0], .hw = shape[i][1], .c = shape[i][2],
                                      .groups = shape[i][3], .eps = 1e-3, .silu = variant & 1};
            compare_norm(&s, false, variant & 2, isa);
        }
    for (int64_t c = 1; c < 80; c += 13)
        for (int affine = 0; affine < 2; affine++) {
            const cpu_group_norm s = {.n = 4, .hw = 1, .c = c, .groups = 1, .eps = 1e-3};
            compare_norm(&s, true, affine, isa);
        }
}
static void test_norms(void **state)
{
    (void)state;
    check_each_isa(norms_of);
    check_each_isa(norms_bf16_of);
}

/* Many chunks and blocks, a mean of 10^4 with a spread of 10^-1, and an outlier: values only. */
static void hostile_of(int isa)
{
    const cpu_group_norm s = {.n = 2, .hw = 1111, .c = 96, .groups = 32, .eps = 1e-5};
    const int64_t total = s.n * s.hw * s.c;
    double *gamma = check_doubles(NULL, s.c), *beta = check_doubles(NULL, s.c);
    double *want = check_doubles(NULL, total);
    float *y = check_floats(total), *mean = check_floats(total), *rstd = check_floats(total);
    void *scratch = check_scratch(cpu_group_norm_scratch(&s, 2));

    for (int64_t c = 0; c < s.c; c++)
        gamma[c] = 1.0;
    for (int kind = 0; kind < 3; kind++) {
        uint64_t seed = 9;
        float *x = check_random(total, &seed, kind == 1 ? 0.0 : 1e4, 0.1);
        double *xd;

        if (kind == 1)
            x[5] = 1e5f;
        for (int64_t i = 0; i < total && kind == 2; i++)
            x[i] = 1e4f; /* no spread at all */
        xd = check_doubles(x, total);
        reference_norm(want, &s, xd, gamma, beta, NULL);
        cpu_group_norm_forward(y, mean, rstd, &s, x, NULL, NULL, scratch, 2, isa);
        check_near("hostile group norm", isa, y, want, total, kind == 1 ? 3e-6 : 1e-6);
        const cpu_group_norm rows = {.n = 2 * s.hw, .hw = 1, .c = s.c, .groups = 1, .eps = 1e-5};
        reference_norm(want, &rows, xd, gamma, beta, NULL);
        cpu_layer_norm_forward(y, mean, rstd, x, AG_F32, NULL, NULL, rows.n, s.c, 1e-5, 2, isa);
        check_near("hostile layer norm", isa, y, want, total, kind == 1 ? 3e-6 : 1e-6);
        x[77] = NAN;
        cpu_group_norm_forward(y, mean, rstd, &s, x, NULL, NULL, scratch, 2, isa);
        assert_true(isnan(y[77]) && isnan(y[76]) && !isnan(y[0]));
        cpu_layer_norm_forward(y, mean, rstd, x, AG_F32, NULL, NULL, rows.n, s.c, 1e-5, 2, isa);
        assert_true(isnan(y[77]) && isnan(y[0]) && !isnan(y[s.c]));
        free(x);
        free(xd);
    }
    free(gamma);
    free(beta);
    free(want);
    free(y);
    free(mean);
    free(rstd);
    free(scratch);
}
static void test_hostile(void **state)
{
    (void)state;
    check_each_isa(hostile_of);
}

/* Sums over many rows: dgamma and dbeta of large tensors against double sums; any thread count. */
static void sums_of(int isa)
{
    const cpu_group_norm s = {.n = 2, .hw = 700, .c = 72, .groups = 8, .eps = 1e-5};
    const int64_t total = s.n * s.hw * s.c;
    uint64_t seed = 21;
    float *x = check_random(total, &seed, 0, 1), *dy = check_random(total, &seed, 0.7, 1);
    float *y = check_floats(total), *dx = check_floats(total), *dx1 = check_floats(total);
    float *mean = check_floats(total), *rstd = check_floats(total), *d[4];
    double *want = check_doubles(NULL, 2 * s.c);
    void *scratch = check_scratch(cpu_group_norm_scratch(&s, 3) +
                                  cpu_group_norm_grad_scratch(&s, 3) +
                                  cpu_layer_norm_grad_scratch(s.n * s.hw, s.c, 3));

    for (int i = 0; i < 4; i++)
        d[i] = check_floats(s.c);
    for (int layer = 0; layer < 2; layer++) {
        if (layer)
            cpu_layer_norm_forward(y, mean, rstd, x, AG_F32, NULL, NULL, s.n * s.hw, s.c, 1e-5, 2, isa);
        else
            cpu_group_norm_forward(y, mean, rstd, &s, x, NULL, NULL, scratch, 2, isa);
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            float *dgamma = d[n_threads - 1], *dbeta = d[n_threads == 1 ? 1 : 3];
            float *to = n_threads == 1 ? dx1 : dx;
            if (layer)
                cpu_layer_norm_backward(to, dgamma, dbeta, x, AG_F32, NULL, mean, rstd, dy, s.n * s.hw,
                                        s.c, scratch, n_threads, isa);
            else
                cpu_group_norm_backward(to, dgamma, dbeta, &s, x, NULL, NULL, mean, rstd, dy,
                                        scratch, n_threads, isa);
        }
        check_same("dx", isa, dx, dx1, total);
        check_same("dgamma", isa, d[0], d[2], s.c);
        check_same("dbeta", isa, d[1], d[3], s.c);
        memset(want, 0, (size_t)(2 * s.c) * sizeof *want);
        for (int64_t i = 0; i < total; i++) {
            want[i % s.c] += (double)dy[i] * y[i];
            want[s.c + i % s.c] += dy[i];
        }
        check_near("dgamma", isa, d[0], want, s.c, 1e-6);
        check_near("dbeta", isa, d[1], want + s.c, s.c, 1e-6);
    }
    for (int i = 0; i < 4; i++)
        free(d[i]);
    free(x);
    free(dy);
    free(y);
    free(dx);
    free(dx1);
    free(mean);
    free(rstd);
    free(want);
    free(scratch);
}
static void test_sums(void **state)
{
    (void)state;
    check_each_isa(sums_of);
}

static void softmax_of(int isa)
{
    for (int64_t cols = 1; cols < 90; cols += cols < 20 ? 1 : 17)
        for (int kind = 0; kind < 3; kind++) {
            const int64_t rows = 3;
            uint64_t seed = (uint64_t)cols + 1;
            float *x = check_random(rows * cols, &seed, kind == 1 ? 1e30 : 0, kind ? 300 : 3);
            float *w = check_random(rows * cols, &seed, 0, 1);
            float *y = check_floats(rows * cols), *dx = check_floats(rows * cols);
            double *want = check_doubles(x, rows * cols), *want_dx = check_doubles(w, rows * cols);

            for (int64_t r = 0; r < rows; r++) {
                double top = -INFINITY, sum = 0.0, mean = 0.0, *p = want + r * cols;
                for (int64_t i = 0; i < cols; i++)
                    top = fmax(top, p[i]);
                for (int64_t i = 0; i < cols; i++)
                    sum += p[i] = exp(p[i] - top);
                for (int64_t i = 0; i < cols; i++)
                    mean += (p[i] /= sum) * w[r * cols + i];
                for (int64_t i = 0; i < cols; i++)
                    want_dx[r * cols + i] = p[i] * (want_dx[r * cols + i] - mean);
            }
            cpu_softmax(y, x, rows, cols, 2, isa);
            check_near("softmax", isa, y, want, rows * cols, 3e-7);
            cpu_softmax_grad(dx, y, w, rows, cols, 2, isa);
            check_near("softmax gradient", isa, dx, want_dx, rows * cols, 5e-7);
            x[cols - 1] = NAN;
            cpu_softmax(x, x, rows, cols, 1, isa);
            assert_true(isnan(x[0]) && !isnan(x[cols]));
            free(x);
            free(w);
            free(y);
            free(dx);
            free(want);
            free(want_dx);
        }
}
static void test_softmax(void **state)
{
    (void)state;
    check_each_isa(softmax_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_softmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
