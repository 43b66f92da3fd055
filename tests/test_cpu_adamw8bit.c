/* test_cpu_adamw8bit.c - AdamW with one byte a moment: the codes against their published values, codes
 * of values against a search through all of them, steps against double loops, and blocks in
 * another order than the parameter's.
 */
#include "autograd/cpu/adamw8bit.h"

#include "tests/cpu_check.h"

/* --- codes ------------------------------------------------------------------------------------ */

/* Values of bitsandbytes' create_dynamic_map. */
static void test_codes(void **state)
{
    const float *m = cpu_adamw8bit_codes(true), *v = cpu_adamw8bit_codes(false);
    const double first_v[] = {0, 3.25e-7, 7.75e-7, 2.125e-6}, near_zero_m[] = {0, 5.5e-7, 3.25e-6, 7.75e-6};

    (void)state;
    for (int i = 0; i < 255; i++)
        assert_true(m[i] < m[i + 1] && v[i] < v[i + 1]);
    assert_true(m[0] == -0.99296875f && m[255] == 1.0f && v[255] == 1.0f);
    assert_true(fabs(v[254] - 0.99648438) < 5e-8 && fabs(m[254] - 0.99296875) < 5e-8);
    for (int i = 0; i < 4; i++) {
        assert_true(fabs(v[i] - first_v[i]) < 1e-13);
        assert_true(fabs(m[127 + i] - near_zero_m[i]) < 1e-12 && m[127 - i] == -m[127 + i]);
    }
    assert_false(signbit(m[127]) || signbit(v[0]));
}

/* The distance of x to the nearest code. */
static double nearest(double x, const float *codes)
{
    double best = INFINITY;

    for (int i = 0; i < 256; i++)
        best = fmin(best, fabs(x - codes[i]));
    return best;
}

static float next_of(float x, int steps)
{
    for (; steps > 0; steps--)
        x = nextafterf(x, INFINITY);
    for (; steps < 0; steps++)
        x = nextafterf(x, -INFINITY);
    return x;
}

/* Without memory (both betas 0) a moment is the gradient or its square: put x into codes by a step. */
static void check_nearest(int isa, const float *x, int64_t n)
{
    const double scalars[CPU_ADAMW_N] = {0, 0, 0, 1e-8, 0, 1, 1, 1};
    const float *codes_m = cpu_adamw8bit_codes(true), *codes_v = cpu_adamw8bit_codes(false);
    const int64_t blocks = (n + 255) / 256;
    float *p = check_floats(n), *m_max = check_floats(blocks), *v_max = check_floats(blocks);
    uint8_t *m = calloc((size_t)n, 1), *v = calloc((size_t)n, 1);

    memset(p, 0, (size_t)n * sizeof *p);
    memset(m_max, 0, (size_t)blocks * sizeof *m_max);
    memset(v_max, 0, (size_t)blocks * sizeof *v_max);
    cpu_adamw8bit(p, m, m_max, v, v_max, x, n, 1, 1, scalars, 2, isa);
    for (int64_t i = 0; i < n; i++) {
        const double xm = x[i] / m_max[i / 256], xv = x[i] * x[i] / v_max[i / 256];
        assert_true(fabs(xm - codes_m[m[i]]) <= nearest(xm, codes_m) + 2e-7 * fabs(xm));
        assert_true(fabs(xv - codes_v[v[i]]) <= nearest(xv, codes_v) + 2e-7 * xv);
    }
    free(p);
    free(m_max);
    free(v_max);
    free(m);
    free(v);
}

static void nearest_of(int isa)
{
    enum { N = 256 * 40 };
    float *x = check_floats(N);
    uint64_t seed = 4;

    /* blocks that begin with 1, their largest; all decades, both signs, zeros */
    for (int i = 0; i < N; i++)
        x[i] = i % 256 == 0 ? 1.0f : (float)(check_number(&seed) * pow(10.0, -8.0 * fabs(check_number(&seed))));
    x[3] = 0.0f;
    x[4] = -1.0f;
    check_nearest(isa, x, N);
    check_nearest(isa, x, 13);
    /* on both sides of every border between two codes */
    for (int i = 0; i < 255; i++) {
        const float *codes = cpu_adamw8bit_codes(true);
        for (int k = 0; k < 4; k++)
            x[256 * k + 1 + i] = next_of(0.5f * (codes[i] + codes[i + 1]), 2 * k - 3);
    }
    check_nearest(isa, x, 1024);
    for (int i = 0; i < 255; i++) {
        const float *codes = cpu_adamw8bit_codes(false);
        for (int k = 0; k < 4; k++)
            x[256 * k + 1 + i] = (float)sqrt(next_of(0.5f * (codes[i] + codes[i + 1]), 2 * k - 3));
    }
    check_nearest(isa, x, 1024);
    free(x);
}
static void test_nearest(void **state)
{
    (void)state;
    check_each_isa(nearest_of);
}

/* --- steps ------------------------------------------------------------------------------------ */

typedef struct moments {
    int64_t n, blocks;
    uint8_t *m, *v;
    float *m_max, *v_max;
} moments;

static moments moments_of(int64_t n)
{
    moments s = {.n = n, .blocks = (n + 255) / 256};

    s.m = calloc((size_t)n, 1);
    s.v = calloc((size_t)n, 1);
    s.m_max = calloc((size_t)s.blocks, sizeof *s.m_max);
    s.v_max = calloc((size_t)s.blocks, sizeof *s.v_max);
    return s;
}

static void moments_free(moments *s)
{
    free(s->m);
    free(s->v);
    free(s->m_max);
    free(s->v_max);
}

static bool moments_same(const moments *a, const moments *b)
{
    return memcmp(a->m, b->m, (size_t)a->n) == 0 && memcmp(a->v, b->v, (size_t)a->n) == 0 &&
           memcmp(a->m_max, b->m_max, (size_t)a->blocks * sizeof(float)) == 0 &&
           memcmp(a->v_max, b->v_max, (size_t)a->blocks * sizeof(float)) == 0;
}

static bool step(float *p, moments *s, const float *g, int64_t channels, int64_t taps,
                 const double *scalars, int threads, int isa)
{
    return cpu_adamw8bit(p, s->m, s->m_max, s->v, s->v_max, g, s->n, channels, taps, scalars, threads,
                         isa);
}

/* The moments before a step are those that the step before left in codes, so nothing adds up. */
static void steps_at(int isa, int64_t n)
{
    const float *codes_m = cpu_adamw8bit_codes(true), *codes_v = cpu_adamw8bit_codes(false);
    const double lr = 1e-2, b1 = 0.9, b2 = 0.99, eps = 1e-8, wd = 0.1, scale = 0.5;
    uint64_t seed = 6;
    float *p = check_random(n, &seed, 0, 1), *p2 = check_floats(n), *g = check_floats(n);
    double *want = check_doubles(NULL, n);
    moments s = moments_of(n), s2 = moments_of(n);

    memcpy(p2, p, (size_t)n * sizeof *p);
    for (int t = 1; t <= 8; t++) {
        const double c1 = 1 - pow(b1, t), c2 = 1 - pow(b2, t);
        const double scalars[CPU_ADAMW_N] = {lr, b1, b2, eps, wd, c1, c2, scale};
        double *m = check_doubles(NULL, n), *v = check_doubles(NULL, n);

        for (int64_t i = 0; i < n; i++) {
            g[i] = (float)(check_number(&seed) * (i % 5 ? 1.0 : 1e-3));
            m[i] = b1 * codes_m[s.m[i]] * s.m_max[i / 256] + (1 - b1) * scale * g[i];
            v[i] = b2 * codes_v[s.v[i]] * s.v_max[i / 256] + (1 - b2) * scale * g[i] * scale * g[i];
            want[i] = p[i] - lr * sqrt(c2) / c1 * m[i] / (sqrt(v[i]) + eps * sqrt(c2));
            want[i] *= 1 - lr * wd;
        }
        assert_true(step(p, &s, g, 1, 1, scalars, 2, isa));
        assert_true(step(p2, &s2, g, 1, 1, scalars, 1, isa));
        check_near("p", isa, p, want, n, 1e-6);
        check_same("threads", isa, p, p2, n);
        assert_true(moments_same(&s, &s2));
        for (int64_t b = 0; b < s.blocks; b++) {
            double m_max = 0.0, v_max = 0.0;
            for (int64_t i = 256 * b; i < n && i < 256 * (b + 1); i++) {
                m_max = fmax(m_max, fabs(m[i]));
                v_max = fmax(v_max, v[i]);
            }
            assert_true(fabs(s.m_max[b] - m_max) < 1e-7 && fabs(s.v_max[b] - v_max) < 1e-7);
            for (int64_t i = 256 * b; i < n && i < 256 * (b + 1); i++) {
                const double xm = m[i] / m_max, xv = v[i] / v_max;
                assert_true(fabs(xm - codes_m[s.m[i]]) <= nearest(xm, codes_m) + 1e-6);
                assert_true(fabs(xv - codes_v[s.v[i]]) <= nearest(xv, codes_v) + 1e-6);
            }
        }
        free(m);
        free(v);
    }
    free(p);
    free(p2);
    free(g);
    free(want);
    moments_free(&s);
    moments_free(&s2);
}
static void steps_of(int isa)
{
    static const int64_t SIZES[] = {1, 7, 255, 256, 257, 3001};

    for (size_t s = 0; s < sizeof SIZES / sizeof *SIZES; s++)
        steps_at(isa, SIZES[s]);
}
static void test_steps(void **state)
{
    (void)state;
    check_each_isa(steps_of);
}

/* --- order ------------------------------------------------------------------------------------ */

/* Kept as [rows, taps, channels], with blocks of [rows, channels, taps]: what the same step makes of the
 * same values kept in the blocks' order. */
static void order_at(int isa, int64_t rows, int64_t channels, int64_t taps)
{
    const int64_t n = rows * channels * taps;
    const double scalars[CPU_ADAMW_N] = {1e-2, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, 0.5};
    uint64_t seed = 8;
    float *p = check_random(n, &seed, 0, 1), *g = check_random(n, &seed, 0, 1);
    float *p2 = check_floats(n), *g2 = check_floats(n);
    moments s = moments_of(n), s2 = moments_of(n);

#define EACH_PLACE(DO)                                                                            \
    for (int64_t r = 0; r < rows; r++)                                                            \
        for (int64_t c = 0; c < channels; c++)                                                    \
            for (int64_t t = 0; t < taps; t++) {                                                  \
                const int64_t kept = (r * taps + t) * channels + c;                               \
                const int64_t block = (r * channels + c) * taps + t;                              \
                DO;                                                                               \
            }
    EACH_PLACE(p2[block] = p[kept])
    EACH_PLACE(g2[block] = g[kept])
    for (int k = 0; k < 3; k++) {
        assert_true(step(p, &s, g, channels, taps, scalars, 2, isa));
        assert_true(step(p2, &s2, g2, 1, 1, scalars, 2, isa));
        EACH_PLACE(assert_true(p2[block] == p[kept]))
        assert_true(moments_same(&s, &s2));
    }
    free(p);
    free(p2);
    free(g);
    free(g2);
    moments_free(&s);
    moments_free(&s2);
}
static void order_of(int isa)
{
    order_at(isa, 5, 33, 9);
    order_at(isa, 1, 1000, 4);
    order_at(isa, 40, 100, 9);
    order_at(isa, 3, 7, 49);
    order_at(isa, 30, 1, 64);
}
static void test_order(void **state)
{
    (void)state;
    check_each_isa(order_of);
}

/* A scale that is no number leaves everything alone. */
static void left_alone_of(int isa)
{
    double scalars[CPU_ADAMW_N] = {1e-2, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, NAN};
    float p[300] = {0}, g[300] = {[299] = 1.0f};
    moments s = moments_of(300), untouched = moments_of(300);

    assert_false(step(p, &s, g, 1, 1, scalars, 2, isa));
    assert_true(moments_same(&s, &untouched) && p[0] == 0.0f);
    scalars[CPU_ADAMW_GRAD_SCALE] = 0.0;
    assert_true(step(p, &s, g, 1, 1, scalars, 2, isa));
    moments_free(&s);
    moments_free(&untouched);
}
static void test_left_alone(void **state)
{
    (void)state;
    check_each_isa(left_alone_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes), cmocka_unit_test(test_nearest),  cmocka_unit_test(test_steps),
        cmocka_unit_test(test_order), cmocka_unit_test(test_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
