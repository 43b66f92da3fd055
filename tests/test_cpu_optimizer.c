/* test_cpu_optimizer.c - steps of the optimizers on flat ranges, the sum of squares and the scan for
 * non-finite numbers, against double loops. Ten steps each; each with another number of threads
 * gives the same bits.
 */
#include "autograd/cpu/optimizer_factors.h"

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

    /* A scale that is no number moves nothing; one of zero is a step. */
    double last[CPU_ADAMW_N] = {lr, 0.9, 0.999, eps, wd, 0.1, 0.001, NAN};
    float *p0 = check_floats(N);
    memcpy(p0, p, N * sizeof *p);
    assert_false(cpu_adamw(p, m, v, g, N, last, 2, isa));
    assert_memory_equal(p, p0, N * sizeof *p);
    last[CPU_ADAMW_GRAD_SCALE] = 0.0;
    assert_true(cpu_adamw(p, m, v, g, N, last, 2, isa));
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

/* --- the other rules -------------------------------------------------------------------------- */

/* A parameter, three states and a gradient: in f32, once more for the same steps on other threads,
 * and in double. */
enum { MOST = 20003, STATES = 3, STEPS = 10 };
typedef struct track {
    float *p, *state[STATES], *g;
    float *p2, *state2[STATES];
    double *pd, *sd[STATES];
    int64_t n;
    uint64_t seed;
} track;

static track track_of(int64_t n, uint64_t seed)
{
    track t = {.n = n, .seed = seed};

    t.p = check_random(n, &t.seed, 0, 1);
    t.p2 = check_floats(n);
    memcpy(t.p2, t.p, (size_t)n * sizeof *t.p);
    t.pd = check_doubles(t.p, n);
    t.g = check_floats(n);
    for (int s = 0; s < STATES; s++) {
        t.state[s] = check_floats(n);
        t.state2[s] = check_floats(n);
        memset(t.state[s], 0, (size_t)n * sizeof(float));
        memset(t.state2[s], 0, (size_t)n * sizeof(float));
        t.sd[s] = check_doubles(NULL, n);
    }
    return t;
}

static void track_free(track *t)
{
    free(t->p);
    free(t->p2);
    free(t->pd);
    free(t->g);
    for (int s = 0; s < STATES; s++) {
        free(t->state[s]);
        free(t->state2[s]);
        free(t->sd[s]);
    }
}

/* Another gradient; every fifth is tiny, every seventh zero. */
static void track_gradient(track *t)
{
    for (int64_t i = 0; i < t->n; i++)
        t->g[i] = (float)(check_number(&t->seed) * (i % 5 ? 1.0 : 1e-6) * (i % 7 ? 1.0 : 0.0));
}

static void track_check(const track *t, const char *what, int isa, double tolerance)
{
    check_near(what, isa, t->p, t->pd, t->n, tolerance);
    check_same(what, isa, t->p, t->p2, t->n);
    for (int s = 0; s < STATES; s++) {
        check_near(what, isa, t->state[s], t->sd[s], t->n, tolerance);
        check_same(what, isa, t->state[s], t->state2[s], t->n);
    }
}

static const int64_t SIZES[] = {1, 7, 16, 333, MOST};
enum { N_SIZES = sizeof SIZES / sizeof *SIZES };

static void sgd_at(int isa, int64_t n, double momentum, double dampening, bool nesterov)
{
    const double lr = 0.03, wd = 0.1, scale = 0.5;
    track t = track_of(n, 5);

    for (int k = 1; k <= STEPS; k++) {
        const double into = k == 1 ? 1.0 : 1.0 - dampening;
        const double scalars[CPU_SGD_N] = {lr, wd, momentum, into, nesterov, scale};
        track_gradient(&t);
        for (int64_t i = 0; i < n; i++) {
            const double d = scale * t.g[i] + wd * t.pd[i];
            if (momentum > 0.0)
                t.sd[0][i] = momentum * t.sd[0][i] + into * d;
            t.pd[i] -= lr * (momentum == 0.0 ? d : nesterov ? d + momentum * t.sd[0][i] : t.sd[0][i]);
        }
        assert_true(cpu_sgd(t.p, momentum > 0.0 ? t.state[0] : NULL, t.g, n, scalars, 2, isa));
        assert_true(cpu_sgd(t.p2, momentum > 0.0 ? t.state2[0] : NULL, t.g, n, scalars, 1, isa));
    }
    track_check(&t, "sgd", isa, 1e-6);
    track_free(&t);
}
static void sgd_of(int isa)
{
    for (int s = 0; s < N_SIZES; s++) {
        sgd_at(isa, SIZES[s], 0.0, 0.0, false);
        sgd_at(isa, SIZES[s], 0.9, 0.0, false);
        sgd_at(isa, SIZES[s], 0.8, 0.3, false);
        sgd_at(isa, SIZES[s], 0.9, 0.0, true);
    }
}
static void test_sgd(void **state)
{
    (void)state;
    check_each_isa(sgd_of);
}

static double sign(double x) { return (x > 0.0) - (x < 0.0); }

static void lion_of(int isa)
{
    const double lr = 0.01, b1 = 0.9, b2 = 0.99, wd = 0.2, scale = 0.5;
    const double scalars[CPU_LION_N] = {lr, b1, b2, wd, scale};

    for (int s = 0; s < N_SIZES; s++) {
        track t = track_of(SIZES[s], 6);
        for (int k = 0; k < STEPS; k++) {
            track_gradient(&t);
            for (int64_t i = 0; i < t.n; i++) {
                const double g = scale * t.g[i];
                t.pd[i] = t.pd[i] * (1 - lr * wd) - lr * sign(b1 * t.sd[0][i] + (1 - b1) * g);
                t.sd[0][i] = b2 * t.sd[0][i] + (1 - b2) * g;
            }
            assert_true(cpu_lion(t.p, t.state[0], t.g, t.n, scalars, 2, isa));
            assert_true(cpu_lion(t.p2, t.state2[0], t.g, t.n, scalars, 1, isa));
        }
        track_check(&t, "lion", isa, 1e-6);
        track_free(&t);
    }
}
static void test_lion(void **state)
{
    (void)state;
    check_each_isa(lion_of);
}

static void ranger_at(int isa, int64_t n, int64_t n_rows)
{
    const double lr = 0.02, b1 = 0.95, b2 = 0.999, eps = 1e-5, wd = 0.1, scale = 0.5, alpha = 0.4;
    track t = track_of(n, 7);

    memcpy(t.state[2], t.p, (size_t)n * sizeof *t.p);
    memcpy(t.state2[2], t.p, (size_t)n * sizeof *t.p);
    memcpy(t.sd[2], t.pd, (size_t)n * sizeof *t.pd);
    for (int k = 1; k <= STEPS; k++) {
        const double ratio = 0.01 * k, rectified = k > 4, sync = k % 3 == 0;
        const double scalars[CPU_RANGER_N] = {lr,    b1,        b2,    eps,  wd,
                                              ratio, rectified, alpha, sync, scale};
        const int64_t rows = n_rows ? n_rows : n, cols = n / rows;
        track_gradient(&t);
        for (int64_t r = 0; r < rows; r++) {
            double mean = 0.0;
            for (int64_t i = r * cols; n_rows && i < (r + 1) * cols; i++)
                mean += t.g[i] / (double)cols;
            for (int64_t i = r * cols; i < (r + 1) * cols; i++) {
                const double c = scale * (t.g[i] - mean);
                double *m = &t.sd[0][i], *v = &t.sd[1][i], *slow = &t.sd[2][i];
                *m = b1 * *m + (1 - b1) * c;
                *v = b2 * *v + (1 - b2) * c * c;
                t.pd[i] *= 1 - lr * wd;
                t.pd[i] -= lr * ratio * (rectified != 0.0 ? *m / (sqrt(*v) + eps) : *m);
                if (sync != 0.0)
                    t.pd[i] = *slow += alpha * (t.pd[i] - *slow);
            }
        }
        assert_true(cpu_ranger(t.p, t.state[0], t.state[1], t.state[2], t.g, n, n_rows, scalars, 2, isa));
        assert_true(
            cpu_ranger(t.p2, t.state2[0], t.state2[1], t.state2[2], t.g, n, n_rows, scalars, 1, isa));
    }
    track_check(&t, "ranger", isa, 1e-6);
    track_free(&t);
}
static void ranger_of(int isa)
{
    static const int64_t ROWS[][2] = {{1, 1}, {7, 7}, {7, 1}, {37 * 9, 37}, {MOST - 3, 40}, {MOST, 1}};

    for (int s = 0; s < N_SIZES; s++)
        ranger_at(isa, SIZES[s], 0);
    for (size_t s = 0; s < sizeof ROWS / sizeof *ROWS; s++)
        ranger_at(isa, ROWS[s][0], ROWS[s][1]);
}
static void test_ranger(void **state)
{
    (void)state;
    check_each_isa(ranger_of);
}

/* --- Prodigy: two tensors under one d --------------------------------------------------------- */

typedef struct prodigy_case {
    bool bias, safeguard, decouple;
    double growth;
} prodigy_case;

static void prodigy_at(int isa, const prodigy_case *c)
{
    enum { T = 2 };
    const double lr = 0.7, b1 = 0.9, b2 = 0.999, b3 = 0.995, eps = 1e-8, wd = 0.1, scale = 0.5;
    const double d0 = 1e-3, coef = 1.5;
    const double scalars[CPU_PRODIGY_N] = {lr,   b1,       b2,      b3,           eps,         wd,   d0,
                                           coef, c->growth, c->bias, c->safeguard, c->decouple, scale};
    track t[T] = {track_of(MOST, 8), track_of(19, 9)};
    double state[CPU_PRODIGY_STATES] = {d0, d0}, state2[CPU_PRODIGY_STATES] = {d0, d0};
    double d = d0, d_max = d0, numerator = 0.0;
    float *p0[T];
    double *p0d[T];

    for (int j = 0; j < T; j++) {
        p0[j] = check_floats(t[j].n);
        memcpy(p0[j], t[j].p, (size_t)t[j].n * sizeof(float));
        p0d[j] = check_doubles(t[j].p, t[j].n);
    }
    for (int k = 0; k < STEPS; k++) {
        const double correction = c->bias ? sqrt(1 - pow(b2, k + 1)) / (1 - pow(b1, k + 1)) : 1.0;
        const double dlr = d * lr * correction;
        double dot = 0.0, denominator = 0.0, estimate, next = d;
        cpu_prodigy_begin(state, scalars);
        cpu_prodigy_begin(state2, scalars);
        for (int j = 0; j < T; j++) {
            void *scratch = check_scratch(cpu_prodigy_scratch(t[j].n));
            float **f = t[j].state, **f2 = t[j].state2;
            for (int64_t i = 0; i < t[j].n; i++) /* a pull to a point nearby */
                t[j].g[i] = t[j].p[i] - p0[j][i] - 1.0f + 0.5f * (float)check_number(&t[j].seed);
            for (int64_t i = 0; i < t[j].n; i++) {
                const double g = scale * t[j].g[i] + (c->decouple ? 0.0 : wd * t[j].pd[i]);
                double **s = t[j].sd;
                dot += g * (p0d[j][i] - t[j].pd[i]);
                s[0][i] = b3 * s[0][i] + d / d0 * (c->safeguard ? d : dlr) * g;
                s[1][i] = b1 * s[1][i] + d * (1 - b1) * g;
                s[2][i] = b2 * s[2][i] + d * d * (1 - b2) * g * g;
                denominator += fabs(s[0][i]);
            }
            assert_true(cpu_prodigy_moments(state, f[0], f[1], f[2], t[j].p, p0[j], t[j].g, t[j].n,
                                            scalars, scratch, 2, isa));
            assert_true(cpu_prodigy_moments(state2, f2[0], f2[1], f2[2], t[j].p2, p0[j], t[j].g,
                                            t[j].n, scalars, scratch, 1, isa));
            free(scratch);
        }
        cpu_prodigy_end(state, scalars);
        cpu_prodigy_end(state2, scalars);
        numerator = b3 * numerator + d / d0 * dlr * dot;
        estimate = coef * numerator / denominator;
        next = d == d0 ? fmax(d, estimate) : d;
        d_max = fmax(d_max, estimate);
        d = fmin(d_max, next * c->growth);
        assert_true(fabs(state[CPU_PRODIGY_D] - d) < 1e-5 * d);
        assert_memory_equal(state, state2, sizeof state);
        for (int j = 0; j < T; j++) {
            for (int64_t i = 0; i < t[j].n; i++)
                t[j].pd[i] -= (c->decouple ? wd * dlr * t[j].pd[i] : 0.0) +
                              dlr * t[j].sd[1][i] / (sqrt(t[j].sd[2][i]) + d * eps);
            cpu_prodigy_step(t[j].p, t[j].state[1], t[j].state[2], t[j].n, state, scalars, 2, isa);
            cpu_prodigy_step(t[j].p2, t[j].state2[1], t[j].state2[2], t[j].n, state2, scalars, 1, isa);
        }
    }
    for (int j = 0; j < T; j++) {
        track_check(&t[j], "prodigy", isa, 1e-5);
        track_free(&t[j]);
        free(p0[j]);
        free(p0d[j]);
    }
}

/* Without a gradient there is no step, and a tensor whose rate is 0 rests. */
static void prodigy_rests(int isa)
{
    double scalars[CPU_PRODIGY_N] = {1.0, 0.9, 0.999, 0.999, 1e-8, 0.1, 1e-6, 1.0, INFINITY, 0, 0, 1, 1};
    double state[CPU_PRODIGY_STATES] = {1e-6, 1e-6};
    track t = track_of(33, 10);
    void *scratch = check_scratch(cpu_prodigy_scratch(t.n));

    memset(t.g, 0, (size_t)t.n * sizeof *t.g);
    for (int rests = 0; rests < 2; rests++) {
        scalars[CPU_PRODIGY_LR] = rests ? 0.0 : 1.0;
        cpu_prodigy_begin(state, scalars);
        assert_int_equal(cpu_prodigy_moments(state, t.state[0], t.state[1], t.state[2], t.p, t.p, t.g,
                                             t.n, scalars, scratch, 2, isa),
                         !rests);
        cpu_prodigy_end(state, scalars);
        cpu_prodigy_step(t.p, t.state[1], t.state[2], t.n, state, scalars, 2, isa);
        assert_true(state[CPU_PRODIGY_D] == 1e-6 && state[CPU_PRODIGY_K] == 0.0);
        check_same("at rest", isa, t.p, t.p2, t.n);
        for (int64_t i = 0; i < t.n; i++)
            t.g[i] = NAN; /* is not even read */
    }
    free(scratch);
    track_free(&t);
}

static void prodigy_of(int isa)
{
    prodigy_at(isa, &(prodigy_case){.decouple = true, .growth = INFINITY});
    prodigy_at(isa, &(prodigy_case){true, true, true, 1.02});
    prodigy_at(isa, &(prodigy_case){.growth = INFINITY});
    prodigy_rests(isa);
}
static void test_prodigy(void **state)
{
    (void)state;
    check_each_isa(prodigy_of);
}

/* A scale that is no number leaves everything alone, as AdamW's does. */
static void left_alone_of(int isa)
{
    const double ranger[CPU_RANGER_N] = {1, 0.9, 0.9, 1e-8, 0.1, 1, 1, 0.5, 1, NAN};
    track t = track_of(333, 11);

    track_gradient(&t);
    assert_false(cpu_sgd(t.p, t.state[0], t.g, t.n, (double[CPU_SGD_N]){1, 1, 1, 1, 0, NAN}, 2, isa));
    assert_false(cpu_lion(t.p, t.state[0], t.g, t.n, (double[CPU_LION_N]){1, 0.9, 0.9, 1, NAN}, 2, isa));
    assert_false(cpu_ranger(t.p, t.state[0], t.state[1], t.state[2], t.g, t.n, 37, ranger, 2, isa));
    track_check(&t, "left alone", isa, 0.0);
    track_free(&t);
}
static void test_left_alone(void **state)
{
    (void)state;
    check_each_isa(left_alone_of);
}

/* --- sums of squares -------------------------------------------------------------------------- */

static void sumsq_of(int isa)
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
        if (n > 1) {
            x[0] = 1e30f; /* its square is no f32 */
            assert_true(fabs(cpu_sumsq(x, n, scratch, 2, isa) / 1e60 - 1) < 1e-6);
        }
        free(x);
        free(scratch);
    }
}
static void test_sumsq(void **state)
{
    (void)state;
    check_each_isa(sumsq_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw),    cmocka_unit_test(test_sgd),     cmocka_unit_test(test_lion),
        cmocka_unit_test(test_ranger),   cmocka_unit_test(test_prodigy), cmocka_unit_test(test_left_alone),
        cmocka_unit_test(test_sumsq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
