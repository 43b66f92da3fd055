/* test_cpu_optimizer.c - AdamW, the sum of squares and the scan for non-finite numbers, against
 * double loops.
 */
#include "autograd/cpu/optimizer.h"

#include "tests/cpu_check.h"

static void adamw_of(int isa)
{
    enum { N = 40003 };
    uint64_t seed = 2;
    float *p = check_random(N, &seed, 0, 1), *m = check_floats(N), *v = check_floats(N);
    float *g = check_floats(N);
    double *pd = check_doubles(p, N), *md = check_doubles(NULL, N), *vd = check_doubles(NULL, N);
    const double lr = 1e-2, eps = 1e-8, wd = 1e-2, scale = 0.5;

    memset(m, 0, N * sizeof *m);
    memset(v, 0, N * sizeof *v);
    for (int t = 1; t <= 10; t++) {
        const double b1 = t < 8 ? 0.9 : 0.3, b2 = 0.999;
        const double c1 = 1 - pow(b1, t), c2 = 1 - pow(b2, t);
        const double scalars[CPU_ADAMW_N] = {lr, b1, b2, eps, wd, c1, c2, scale};

        for (int i = 0; i < N; i++)
            g[i] = (float)(check_number(&seed) * (i % 5 ? 1.0 : 1e-6));
        for (int i = 0; i < N; i++) {
            const double gi = scale * g[i];
            pd[i] *= 1 - lr * wd;
            md[i] += (1 - b1) * (gi - md[i]);
            vd[i] = b2 * vd[i] + (1 - b2) * gi * gi;
            pd[i] -= lr / c1 * md[i] / (sqrt(vd[i]) / sqrt(c2) + eps);
        }
        assert_true(cpu_adamw(p, m, v, g, N, scalars, 2, isa));
    }
    check_near("p", isa, p, pd, N, 1e-6);
    for (int i = 0; i < N; i++)
        assert_true(fabs(m[i] - md[i]) < 3e-7 * (i % 5 ? 1.0 : 1e-6) &&
                    fabs(v[i] - vd[i]) < 1e-6 * vd[i] + 1e-30);

    /* An overflowed norm: nothing moves when g is not finite; a zero scale alone is a step. */
    const double zero[CPU_ADAMW_N] = {lr, 0.9, 0.999, eps, wd, 0.1, 0.001, 0.0};
    float *p0 = check_floats(N);
    memcpy(p0, p, N * sizeof *p);
    g[N - 1] = INFINITY;
    assert_false(cpu_adamw(p, m, v, g, N, zero, 2, isa));
    assert_memory_equal(p, p0, N * sizeof *p);
    g[N - 1] = 0;
    assert_true(cpu_adamw(p, m, v, g, N, zero, 2, isa));
    assert_memory_not_equal(p, p0, N * sizeof *p);
    free(p);
    free(p0);
    free(m);
    free(v);
    free(g);
    free(pd);
    free(md);
    free(vd);
}
static void test_adamw(void **state)
{
    (void)state;
    check_each_isa(adamw_of);
}

static void scans_of(int isa)
{
    for (int64_t n = 0; n < 100000; n = n * 3 + 1) {
        uint64_t seed = (uint64_t)n + 1;
        float *x = check_random(n, &seed, 0, 3);
        void *scratch = check_scratch(cpu_sumsq_scratch(n));
        double want = 0.0;

        for (int64_t i = 0; i < n; i++)
            want += (double)x[i] * x[i];
        assert_true(fabs(cpu_sumsq(x, n, scratch, 2, isa) - want) <= 1e-12 * want);
        assert_true(cpu_sumsq(x, n, scratch, 1, isa) == cpu_sumsq(x, n, scratch, 3, isa));
        assert_false(cpu_has_nonfinite(x, n, 2, isa));
        assert_int_equal(cpu_first_nonfinite(x, n), -1);
        for (int64_t i = 0; i < n; i += n / 7 + 1) {
            const float x0 = x[i];
            x[i] = i % 2 ? NAN : -INFINITY;
            assert_true(cpu_has_nonfinite(x, n, 2, isa));
            assert_int_equal(cpu_first_nonfinite(x, n), i);
            x[i] = x0;
        }
        if (n > 1) {
            x[0] = 1e30f; /* its square is no f32 */
            assert_true(fabs(cpu_sumsq(x, n, scratch, 2, isa) / 1e60 - 1) < 1e-6);
        }
        free(x);
        free(scratch);
    }
}
static void test_scans(void **state)
{
    (void)state;
    check_each_isa(scans_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_scans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
