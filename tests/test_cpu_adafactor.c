/* test_cpu_adafactor.c - Adafactor's three steps against double loops over every kind of shape.
 */
#include "autograd/cpu/adafactor.h"

#include "tests/cpu_check.h"

enum { STEPS = 6 };

typedef struct adafactor_case {
    cpu_adafactor_shape shape;
    bool scale_parameter, first_moment;
} adafactor_case;

/* The tensor with all it keeps, in f32, once more for one thread, and in double. */
typedef struct track {
    cpu_adafactor_shape s;
    int64_t n, n_row, n_col;
    float *p, *m, *row, *col, *g;
    double *pd, *md, *rowd, *cold, *u;
} track;

static float *zeros(int64_t n)
{
    float *x = check_floats(n);

    memset(x, 0, (size_t)n * sizeof *x);
    return x;
}

static track track_of(cpu_adafactor_shape s)
{
    const bool is_factored = s.rows > 1 || s.cols > 1;
    uint64_t seed = 3;
    track t = {.s = s, .n = s.batches * s.rows * s.cols * s.lanes};

    t.n_row = s.batches * s.rows * s.lanes;
    t.n_col = s.batches * s.cols * s.lanes;
    t.p = check_random(t.n, &seed, 0, 1);
    t.pd = check_doubles(t.p, t.n);
    t.m = zeros(t.n);
    t.row = is_factored ? zeros(t.n_row) : NULL;
    t.col = zeros(t.n_col);
    t.g = check_floats(t.n);
    t.md = check_doubles(NULL, t.n);
    t.rowd = check_doubles(NULL, t.n_row);
    t.cold = check_doubles(NULL, t.n_col);
    t.u = check_doubles(NULL, t.n);
    return t;
}

static void track_free(track *t)
{
    float *floats[] = {t->p, t->m, t->row, t->col, t->g};
    double *doubles[] = {t->pd, t->md, t->rowd, t->cold, t->u};

    for (int i = 0; i < 5; i++) {
        free(floats[i]);
        free(doubles[i]);
    }
}

static void update(track *t, const adafactor_case *c, const double *scalars, int threads, int isa)
{
    void *scratch = check_scratch(cpu_adafactor_scratch(t->s));
    double sums[2] = {NAN, NAN};

    assert_true(cpu_adafactor_moments(t->row, t->col, t->g, t->s, scalars, scratch, threads, isa));
    cpu_adafactor_sums(sums, t->p, t->row, t->col, t->g, t->s, scalars, scratch, threads, isa);
    cpu_adafactor_step(t->p, c->first_moment ? t->m : NULL, t->row, t->col, t->g, sums, t->s, scalars,
                       scratch, threads, isa);
    free(scratch);
}

/* The definition; a place is batch, row, column, lane. */
static void update_in_double(track *t, const adafactor_case *c, const double *scalars)
{
    const cpu_adafactor_shape s = t->s;
    const double keep = scalars[CPU_ADAFACTOR_BETA2T], eps1 = scalars[CPU_ADAFACTOR_EPS1];
    const double beta1 = scalars[CPU_ADAFACTOR_BETA1], scale = scalars[CPU_ADAFACTOR_GRAD_SCALE];
    double squares = 0.0, rms, size = 0.0, a;

#define ROW(b, r, v) t->rowd[((b)*s.rows + (r)) * s.lanes + (v)]
#define COL(b, c, v) t->cold[((b)*s.cols + (c)) * s.lanes + (v)]
#define AT(b, r, c, v) ((((b)*s.rows + (r)) * s.cols + (c)) * s.lanes + (v))
    for (int64_t i = 0; i < t->n_row; i++)
        t->rowd[i] *= keep;
    for (int64_t i = 0; i < t->n_col; i++)
        t->cold[i] *= keep;
    for (int64_t b = 0; b < s.batches; b++)
        for (int64_t r = 0; r < s.rows; r++)
            for (int64_t k = 0; k < s.cols; k++)
                for (int64_t v = 0; v < s.lanes; v++) {
                    const double g = scale * t->g[AT(b, r, k, v)], q = (1 - keep) * (g * g + eps1);
                    ROW(b, r, v) += q / (double)s.cols;
                    COL(b, k, v) += q / (double)s.rows;
                }
    for (int64_t b = 0; b < s.batches; b++)
        for (int64_t v = 0; v < s.lanes; v++) {
            double mean = 0.0;
            for (int64_t r = 0; r < s.rows; r++)
                mean += ROW(b, r, v) / (double)s.rows;
            for (int64_t r = 0; r < s.rows; r++)
                for (int64_t k = 0; k < s.cols; k++) {
                    const int64_t i = AT(b, r, k, v);
                    t->u[i] = scale * t->g[i] / sqrt(ROW(b, r, v) / mean) / sqrt(COL(b, k, v));
                }
        }
    for (int64_t i = 0; i < t->n; i++) {
        squares += t->u[i] * t->u[i];
        size += t->pd[i] * t->pd[i];
    }
    rms = sqrt(squares / (double)t->n) / scalars[CPU_ADAFACTOR_CLIP_THRESHOLD];
    a = scalars[CPU_ADAFACTOR_RATE];
    if (c->scale_parameter)
        a *= fmax(scalars[CPU_ADAFACTOR_EPS2], sqrt(size / (double)t->n));
    for (int64_t i = 0; i < t->n; i++) {
        double u = a * t->u[i] / fmax(1.0, rms);
        if (c->first_moment)
            u = t->md[i] = beta1 * t->md[i] + (1 - beta1) * u;
        t->pd[i] -= a * scalars[CPU_ADAFACTOR_WEIGHT_DECAY] * t->pd[i] + u;
    }
}

static void case_at(int isa, const adafactor_case *c)
{
    track t = track_of(c->shape), t2 = track_of(c->shape);
    uint64_t seed = 5;

    for (int k = 1; k <= STEPS; k++) {
        const double scalars[CPU_ADAFACTOR_N] = {
            0.05, 0.9, 1 - pow(k, -0.8), 1e-30, 1e-3, 0.1, k % 2 ? 1.0 : 0.5, c->scale_parameter, 0.7};
        for (int64_t i = 0; i < t.n; i++)
            t.g[i] = t2.g[i] = (float)(check_number(&seed) * (i % 5 ? 1.0 : 1e-3) * k);
        update_in_double(&t, c, scalars);
        update(&t, c, scalars, 2, isa);
        update(&t2, c, scalars, 1, isa);
    }
    check_near("p", isa, t.p, t.pd, t.n, 3e-6);
    check_near("m", isa, t.m, t.md, t.n, 3e-6);
    check_near("col", isa, t.col, t.cold, t.n_col, 1e-6);
    if (t.row)
        check_near("row", isa, t.row, t.rowd, t.n_row, 1e-6);
    check_same("threads", isa, t.p, t2.p, t.n);
    track_free(&t);
    track_free(&t2);
}

static void shapes_of(int isa)
{
    static const cpu_adafactor_shape SHAPES[] = {
        {1, 1, 1, 1},    {1, 1, 1, 333},  {1, 1, 1, 9001}, {7, 1, 1, 270}, {1, 17, 19, 1}, {1, 1, 40, 1},
        {1, 40, 1, 1},   {1, 203, 97, 1}, {3, 5, 7, 1},    {5, 3, 3, 70},  {6, 3, 3, 1},   {2, 1, 3, 300},
        {11, 3, 3, 259}, {1, 16, 2, 5},
    };

    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int k = 0; k < 3; k++)
            case_at(isa, &(adafactor_case){SHAPES[i], k < 2, k > 0});
}
static void test_shapes(void **state)
{
    (void)state;
    check_each_isa(shapes_of);
}

/* Gradients of zero divide by eps1 and move nothing; a scale that is no number leaves everything alone. */
static void edges_of(int isa)
{
    double scalars[CPU_ADAFACTOR_N] = {0.05, 0.9, 0.0, 1e-30, 1e-3, 0.0, 1.0, 1.0, 1.0};
    const adafactor_case c = {{1, 17, 19, 1}, true, true};
    track t = track_of(c.shape), before = track_of(c.shape);
    void *scratch = check_scratch(cpu_adafactor_scratch(c.shape));
    double sums[2];

    memset(t.g, 0, (size_t)t.n * sizeof *t.g);
    update(&t, &c, scalars, 2, isa);
    check_same("no gradient", isa, t.p, before.p, t.n);
    scalars[CPU_ADAFACTOR_GRAD_SCALE] = NAN;
    memcpy(before.row, t.row, (size_t)t.n_row * sizeof *t.row);
    assert_false(cpu_adafactor_moments(t.row, t.col, t.g, t.s, scalars, scratch, 2, isa));
    cpu_adafactor_sums(sums, t.p, t.row, t.col, t.g, t.s, scalars, scratch, 2, isa);
    cpu_adafactor_step(t.p, t.m, t.row, t.col, t.g, sums, t.s, scalars, scratch, 2, isa);
    check_same("row", isa, t.row, before.row, t.n_row);
    check_same("left alone", isa, t.p, before.p, t.n);
    free(scratch);
    track_free(&t);
    track_free(&before);
}
static void test_edges(void **state)
{
    (void)state;
    check_each_isa(edges_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_edges)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
