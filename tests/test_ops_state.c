/* test_ops_state.c - ops that have no gradient: updates in place, casts, copies, time, noise; and
 * how ops refuse.
 *
 * What is expected comes from formulas in double, or from the definition of the draw.
 */
#include "tests/check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "autograd/ops/common.h"

static const int64_t DIMS[2] = {5, 7};
enum { N = 35 };

static void expect(ag_ctx *ctx, const char *what, const ag_tensor *t, const double *want,
                   double tolerance)
{
    float *got = check_values(ctx, t);

    for (int64_t i = 0; i < ag_numel(t); i++)
        check_close(what, i, got[i], want[i], tolerance, tolerance);
    free(got);
}

static void test_add_scale_fill_lerp(void **state)
{
    static const double WEIGHTS[] = {0.0, 0.1, 0.7, 1.0};
    ag_ctx *ctx = check_ctx();
    uint64_t seed = 3;
    ag_tensor *y = check_random(ctx, &seed, 2, DIMS), *x = check_random(ctx, &seed, 2, DIMS);
    ag_tensor *half = ag_cast(ctx, x, AG_BF16);
    float *a = check_values(ctx, y), *b = check_values(ctx, x), *h = check_values(ctx, half);
    double want[N];

    (void)state;
    assert_ptr_equal(ag_add_(ctx, y, x), y);
    ag_add_(ctx, y, half);
    for (int i = 0; i < N; i++)
        want[i] = (double)a[i] + b[i] + h[i];
    expect(ctx, "add_", y, want, 1e-6);
    ag_scale_(ctx, y, ag_scalar(ctx, -0.5));
    for (int i = 0; i < N; i++)
        want[i] *= -0.5;
    expect(ctx, "scale_", y, want, 1e-6);
    for (int k = 0; k < 4; k++) {
        ag_lerp_(ctx, y, x, ag_scalar(ctx, WEIGHTS[k]));
        for (int i = 0; i < N; i++)
            want[i] += WEIGHTS[k] * (b[i] - want[i]);
        expect(ctx, "lerp_", y, want, 1e-6);
    }
    ag_fill_(ctx, y, 2.5);
    for (int i = 0; i < N; i++)
        want[i] = 2.5;
    expect(ctx, "fill_", y, want, 0);
    check_ok(ctx, "in place");

    ag_add_(ctx, y, ag_slice(ctx, x, 0, 0, 2));
    check_failed(ctx, AG_ESHAPE, "add_ of another shape");
    ag_add_(ctx, half, x);
    check_failed(ctx, AG_EDTYPE, "add_ into bf16");
    ag_scale_(ctx, y, x);
    check_failed(ctx, AG_ESHAPE, "scale_ by many numbers");
    ag_lerp_(ctx, y, x, x);
    check_failed(ctx, AG_ESHAPE, "lerp_ by many numbers");
    free(a);
    free(b);
    free(h);
    ag_ctx_free(ctx);
}

static void test_sumsq(void **state)
{
    ag_ctx *ctx = check_ctx();
    uint64_t seed = 9;
    ag_tensor *sums = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){3});
    ag_tensor *x = check_random(ctx, &seed, 2, (int64_t[]){123, 457}), *half;
    double got[3] = {1, 2, 3}, want = 0, want_half = 0;
    float *values, *rounded;

    (void)state;
    ag_write(ctx, sums, got, sizeof got);
    half = ag_cast(ctx, x, AG_BF16);
    values = check_values(ctx, x);
    rounded = check_values(ctx, half);
    for (int64_t i = 0; i < ag_numel(x); i++) {
        want += (double)values[i] * values[i];
        want_half += (double)rounded[i] * rounded[i];
    }
    ag_sumsq_(ctx, sums, x, 1);
    ag_sumsq_(ctx, sums, half, 2);
    ag_read(ctx, sums, got, sizeof got);
    check_ok(ctx, "sumsq_");
    check_close("slot", 0, got[0], 1, 0, 0); /* nobody's */
    check_close("slot", 1, got[1], want, 0, 1e-7);
    check_close("slot", 2, got[2], want_half, 0, 1e-7);
    ag_sumsq_(ctx, sums, ag_slice(ctx, x, 0, 0, 0), 1);
    ag_read(ctx, sums, got, sizeof got);
    check_close("slot", 1, got[1], 0, 0, 0);
    ag_sumsq_(ctx, sums, x, 3);
    check_failed(ctx, AG_ESHAPE, "sumsq_ beyond the slots");
    free(values);
    free(rounded);
    ag_ctx_free(ctx);
}

/* Column 1 of two rows, by norms below, above and beyond what is wanted. */
static void test_clip(void **state)
{
    static const struct {
        double square, max_norm, norm, factor;
    } CASES[] = {{0.36, 1.0, 0.3, 1.0}, {64.0, 1.0, 4.0, 1.0 / 4.000001}, {64.0, 0.0, 4.0, 1.0},
                 {INFINITY, 1.0, INFINITY, NAN}, {NAN, 0.0, NAN, NAN}};
    ag_ctx *ctx = check_ctx();
    ag_tensor *scalars = ag_empty(ctx, AG_STEP, AG_F64, 2, (int64_t[]){2, 3});
    ag_tensor *norm = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){2});
    ag_tensor *sums = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){300});

    (void)state;
    for (int c = 0; c < (int)(sizeof CASES / sizeof *CASES); c++) {
        const double before[6] = {1, 0.5, 3, 4, 0.25, 6};
        double parts[300] = {[0] = CASES[c].square / 2, [298] = CASES[c].square / 2}, after[6], seen[2] = {0, 7};
        ag_write(ctx, scalars, before, sizeof before);
        ag_write(ctx, sums, parts, sizeof parts);
        ag_write(ctx, norm, seen, sizeof seen);
        ag_clip_(ctx, scalars, norm, sums, 1, CASES[c].max_norm);
        ag_read(ctx, scalars, after, sizeof after);
        ag_read(ctx, norm, seen, sizeof seen);
        check_ok(ctx, "clip_");
        assert_true(seen[1] == 7);
        if (isfinite(CASES[c].norm))
            check_close("norm", c, seen[0], CASES[c].norm, 0, 1e-15);
        else
            assert_false(isfinite(seen[0]));
        for (int i = 0; i < 6; i++) {
            if (i % 3 != 1)
                assert_true(after[i] == before[i]);
            else if (isnan(CASES[c].factor))
                assert_true(isnan(after[i]));
            else
                check_close("scale", i, after[i], before[i] * CASES[c].factor, 0, 1e-15);
        }
    }
    ag_clip_(ctx, scalars, norm, sums, 3, 1.0);
    check_failed(ctx, AG_ESHAPE, "clip_ of a column that is not there");
    ag_clip_(ctx, sums, norm, sums, 0, 1.0);
    check_failed(ctx, AG_ESHAPE, "clip_ of a list");
    ag_ctx_free(ctx);
}

/* The rules of PyTorch's GradScaler with an interval of 3: what the scale is after each norm. */
static void test_loss_scale(void **state)
{
    static const struct {
        double norm, scale, good, bad;
    } CASES[] = {{1.0, 8, 1, 0}, {2.0, 8, 2, 0}, {0.0, 16, 0, 0}, {1.0, 16, 1, 0}, {INFINITY, 8, 0, 1}, {NAN, 4, 0, 2},
                 {1.0, 4, 1, 2}, {1.0, 4, 2, 2}, {1.0, 8, 0, 2}};
    ag_ctx *ctx = check_ctx();
    ag_tensor *scale = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){3});
    ag_tensor *norm = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){2});
    double now[3] = {8.0, 0.0, 0.0};

    (void)state;
    ag_write(ctx, scale, now, sizeof now);
    for (int c = 0; c < (int)(sizeof CASES / sizeof *CASES); c++) {
        ag_write(ctx, norm, (double[]){CASES[c].norm, 7}, 2 * sizeof(double));
        ag_loss_scale_(ctx, scale, norm, 2.0, 0.5, 3);
        ag_read(ctx, scale, now, sizeof now);
        check_ok(ctx, "loss_scale_");
        if (now[0] != CASES[c].scale || now[1] != CASES[c].good || now[2] != CASES[c].bad)
            fail_msg("after norm %d: %g, %g good, %g bad", c, now[0], now[1], now[2]);
    }
    now[0] = 0x1p127; /* the largest power of two of an f32 */
    now[1] = 2.0;
    ag_write(ctx, scale, now, sizeof now);
    ag_write(ctx, norm, (double[]){1.0, 7}, 2 * sizeof(double));
    ag_loss_scale_(ctx, scale, norm, 2.0, 0.5, 3);
    ag_read(ctx, scale, now, sizeof now);
    assert_true(now[0] == 0x1p127 && now[1] == 0.0);
    ag_loss_scale_(ctx, norm, norm, 2.0, 0.5, 3);
    check_failed(ctx, AG_ESHAPE, "loss_scale_ of two numbers");
    ag_ctx_free(ctx);
}

/* Calls in a bundle, of several ops and more than a launch takes, do what they do one by one; what is read before the
 * end is what it would be without a bundle. */
static void test_bundle(void **state)
{
    enum { T = 1100, MOST = 9000 };
    ag_ctx *ctx = check_ctx();
    ag_tensor *y[T], *x[T], *sums = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){T}), *w = ag_scalar(ctx, 0.25);
    static float values[MOST];
    double got[T];

    (void)state;
    for (int t = 0; t < T; t++) {
        const int64_t n = t % 100 == 7 ? MOST - t : t % 13;
        for (int64_t i = 0; i < n; i++)
            values[i] = (float)(t + 1 + i % 3);
        y[t] = ag_full(ctx, AG_STEP, 1.0, 1, &n);
        x[t] = ag_from_f32(ctx, values, 1, &n);
    }
    ag_bundle_begin(ctx);
    for (int t = 0; t < T; t++) {
        ag_sumsq_(ctx, sums, x[t], t);
        if (t % 2)
            ag_lerp_(ctx, y[t], x[t], w);
        else
            ag_fill_(ctx, y[t], t);
        if (t == 40)
            ag_read(ctx, y[33], values, ag_nbytes(y[33]));
    }
    ag_bundle_end(ctx);
    check_ok(ctx, "a bundle");
    check_close("before the end", 0, values[0], 1.0 + 0.25 * 33.0, 0, 0);
    ag_read(ctx, sums, got, sizeof got);
    for (int t = 0; t < T; t++) {
        float *v = check_values(ctx, y[t]);
        double want = 0.0;
        for (int64_t i = 0; i < ag_numel(y[t]); i++) {
            const double at = (double)(t + 1 + i % 3);
            want += at * at;
            check_close("y", t, v[i], t % 2 ? 1.0 + 0.25 * (at - 1.0) : t, 0, 1e-6);
        }
        check_close("sum", t, got[t], want, 0, 1e-15);
        free(v);
    }
    ag_ctx_free(ctx);
}

/* Several steps with decay and a gradient scale, then one that must change nothing. */
static void test_adamw(void **state)
{
    ag_ctx *ctx = check_ctx();
    uint64_t seed = 5;
    ag_tensor *p = check_random(ctx, &seed, 2, DIMS), *g = check_random(ctx, &seed, 2, DIMS);
    ag_tensor *m = ag_full(ctx, AG_STEP, 0, 2, DIMS), *v = ag_full(ctx, AG_STEP, 0, 2, DIMS);
    ag_tensor *scalars = ag_empty(ctx, AG_STEP, AG_F32, 1, (int64_t[]){8});
    const double lr = 1e-2, b1 = 0.9, b2 = 0.99, eps = 1e-8, decay = 0.1, scale = 0.5;
    double wp[N], wm[N] = {0}, wv[N] = {0};
    float *pv = check_values(ctx, p), *gv = check_values(ctx, g);

    (void)state;
    for (int i = 0; i < N; i++)
        wp[i] = pv[i];
    for (int t = 1; t <= 3; t++) {
        const double c1 = 1 - pow(b1, t), c2 = 1 - pow(b2, t);
        const float s[8] = {(float)lr,    (float)b1, (float)b2, (float)eps,
                            (float)decay, (float)c1, (float)c2, (float)scale};
        ag_write(ctx, scalars, s, sizeof s);
        ag_adamw_(ctx, p, m, v, g, scalars);
        for (int i = 0; i < N; i++) {
            const double gi = scale * gv[i];
            wp[i] *= 1 - lr * decay;
            wm[i] += (1 - b1) * (gi - wm[i]);
            wv[i] = b2 * wv[i] + (1 - b2) * gi * gi;
            wp[i] -= lr / c1 * wm[i] / (sqrt(wv[i]) / sqrt(c2) + eps);
        }
    }
    expect(ctx, "adamw_ p", p, wp, 2e-6);
    expect(ctx, "adamw_ m", m, wm, 2e-6);
    expect(ctx, "adamw_ v", v, wv, 2e-6);

    ag_write(ctx, scalars, (float[8]){(float)lr, 0.9f, 0.99f, 1e-8f, 0.1f, 1, 1, NAN}, 32);
    ag_adamw_(ctx, p, m, v, g, scalars);
    check_ok(ctx, "adamw_");
    expect(ctx, "adamw_ skipped p", p, wp, 2e-6);
    expect(ctx, "adamw_ skipped m", m, wm, 2e-6);
    expect(ctx, "adamw_ skipped v", v, wv, 2e-6);

    ag_adamw_(ctx, p, m, v, g, g);
    check_failed(ctx, AG_ESHAPE, "adamw_ with other scalars");
    ag_adamw_(ctx, p, m, v, ag_cast(ctx, g, AG_BF16), scalars);
    check_failed(ctx, AG_EDTYPE, "adamw_ with a bf16 gradient");
    free(pv);
    free(gv);
    ag_ctx_free(ctx);
}

/* Shapes, types and scalars that an optimizer's op has no form for. */
static void test_optimizer_refusals(void **state)
{
    ag_ctx *ctx = check_ctx();
    const int64_t n = 24, one = 1, two = 2;
    ag_tensor *p = ag_full(ctx, AG_STEP, 1, 2, (int64_t[]){4, 6}), *g = ag_full(ctx, AG_STEP, 1, 2, (int64_t[]){4, 6});
    ag_tensor *turned = ag_full(ctx, AG_STEP, 1, 2, (int64_t[]){6, 4});
    ag_tensor *codes = ag_empty(ctx, AG_STEP, AG_U8, 1, &n), *largest = ag_full(ctx, AG_STEP, 0, 1, &one);
    ag_tensor *five = ag_full(ctx, AG_STEP, 0.5, 1, (int64_t[]){5});
    ag_tensor *eight = ag_full(ctx, AG_STEP, 0.5, 1, (int64_t[]){8});
    ag_tensor *nine = ag_full(ctx, AG_STEP, 0.5, 1, (int64_t[]){9});
    ag_tensor *ten = ag_full(ctx, AG_STEP, 0.5, 1, (int64_t[]){10});
    ag_tensor *row = ag_full(ctx, AG_STEP, 0, 1, (int64_t[]){4}), *col = ag_full(ctx, AG_STEP, 0, 1, (int64_t[]){6});
    ag_tensor *sums = ag_empty(ctx, AG_STEP, AG_F64, 1, &two);
    const ag_adafactor_shape matrix = {1, 4, 6, 1};

    (void)state;
    ag_lion_(ctx, p, turned, g, five);
    check_failed(ctx, AG_ESHAPE, "lion_ with a moment of another shape");
    ag_lion_(ctx, p, g, g, eight);
    check_failed(ctx, AG_ESHAPE, "lion_ with AdamW's scalars");
    ag_sgd_(ctx, ag_cast(ctx, p, AG_BF16), NULL, g, ag_full(ctx, AG_STEP, 0, 1, (int64_t[]){6}));
    check_failed(ctx, AG_EDTYPE, "sgd_ of a bf16 tensor");
    ag_ranger_(ctx, p, g, g, g, g, ten, 5);
    check_failed(ctx, AG_ESHAPE, "ranger_ with rows that do not cut");
    ag_adamw8bit_(ctx, p, codes, largest, p, largest, g, eight, 1, 1);
    check_failed(ctx, AG_ESHAPE, "adamw8bit_ with moments that are no codes");
    ag_adamw8bit_(ctx, p, codes, largest, codes, five, g, eight, 1, 1);
    check_failed(ctx, AG_ESHAPE, "adamw8bit_ with too many maxima");
    ag_adamw8bit_(ctx, p, codes, largest, codes, largest, g, eight, 5, 3);
    check_failed(ctx, AG_ESHAPE, "adamw8bit_ with channels that do not cut");
    ag_adafactor_moments_(ctx, col, NULL, g, nine, matrix);
    check_failed(ctx, AG_ESHAPE, "adafactor_moments_ of a matrix without rows");
    ag_adafactor_moments_(ctx, row, col, g, nine, matrix);
    check_failed(ctx, AG_ESHAPE, "adafactor_moments_ with rows for columns");
    ag_adafactor_sums_(ctx, sums, p, col, row, g, nine, (ag_adafactor_shape){1, 5, 5, 1});
    check_failed(ctx, AG_ESHAPE, "adafactor_sums_ of another shape");
    ag_adafactor_step_(ctx, p, NULL, col, row, g, five, nine, matrix);
    check_failed(ctx, AG_ESHAPE, "adafactor_step_ without sums");
    ag_prodigy_d_(ctx, five, ten, false);
    check_failed(ctx, AG_ESHAPE, "prodigy_d_ without a state of d");
    ag_ctx_free(ctx);
}

/* While recording, nothing that the tape may have kept is changed. */
static void test_recording_sees_no_change(void **state)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *x = ag_full(ctx, AG_STEP, 1, 2, DIMS), *y;
    bool was;

    (void)state;
    ag_set_requires_grad(ctx, x, true);
    y = ag_square(ctx, x);
    ag_fill_(ctx, x, 3);
    check_failed(ctx, AG_EINVAL, "fill_ of a leaf while recording");
    ag_add_(ctx, y, ag_full(ctx, AG_STEP, 1, 2, DIMS));
    check_failed(ctx, AG_EINVAL, "add_ to a result while recording");
    was = ag_record(ctx, false);
    ag_fill_(ctx, x, 3);
    check_ok(ctx, "fill_ of a leaf while not recording");
    ag_record(ctx, was);
    ag_ctx_free(ctx);
}

static void test_cast_and_copy(void **state)
{
    static const double VALUES[] = {0, -1.5, 2, 1e5, 300.7, -0.0001};
    static const ag_dtype TYPES[] = {AG_F32, AG_BF16, AG_F16, AG_F64, AG_I64, AG_I32, AG_U8};
    enum { COUNT = 6 };
    ag_ctx *ctx = check_ctx();
    float values[COUNT], *back;
    ag_tensor *x, *y, *z;

    (void)state;
    for (int i = 0; i < COUNT; i++)
        values[i] = (float)VALUES[i];
    x = ag_from_f32(ctx, values, 2, (int64_t[]){2, 3});
    for (size_t t = 0; t < sizeof TYPES / sizeof *TYPES; t++) {
        y = ag_cast(ctx, x, TYPES[t]);
        z = ag_cast(ctx, y, AG_F32);
        check_ok(ctx, ag_dtype_name(TYPES[t]));
        assert_int_equal(ag_dtype_of(y), TYPES[t]);
        back = check_values(ctx, z);
        for (int i = 0; i < COUNT; i++) {
            double want = VALUES[i], tolerance = 0;
            if (TYPES[t] == AG_BF16)
                tolerance = 1 / 256.0;
            else if (TYPES[t] == AG_F16)
                tolerance = 1 / 2048.0, want = want > 65520 ? INFINITY : want;
            else if (TYPES[t] == AG_F32 || TYPES[t] == AG_F64)
                tolerance = 1e-7;
            else
                want = trunc(TYPES[t] == AG_U8 ? fmin(fmax(want, 0), 255) : want);
            if (isinf(want))
                assert_true(isinf(back[i]));
            else
                check_close(ag_dtype_name(TYPES[t]), i, back[i], want, 1e-7, tolerance);
        }
        free(back);
    }
    y = ag_empty(ctx, AG_STEP, AG_BF16, 1, (int64_t[]){COUNT});
    ag_copy(ctx, y, x);
    back = check_values(ctx, y);
    for (int i = 0; i < COUNT; i++)
        check_close("copy", i, back[i], VALUES[i], 0, 1 / 256.0);
    free(back);
    ag_copy(ctx, ag_scalar(ctx, 0), x);
    check_failed(ctx, AG_ESHAPE, "a copy that does not fit");
    ag_ctx_free(ctx);
}

static void test_timestep_embedding(void **state)
{
    static const struct {
        int64_t dim;
        bool flip;
        double shift;
    } CASES[] = {{320, true, 0}, {16, false, 1}, {7, true, 0}};
    const float t[3] = {0, 17.25f, 999};
    ag_ctx *ctx = check_ctx();
    ag_tensor *times = ag_from_f32(ctx, t, 1, (int64_t[]){3});

    (void)state;
    for (int c = 0; c < 3; c++) {
        const int64_t dim = CASES[c].dim, half = dim / 2;
        ag_tensor *y = ag_timestep_embedding(ctx, times, dim, CASES[c].flip, CASES[c].shift);
        float *got;
        check_ok(ctx, "timestep_embedding");
        got = check_values(ctx, y);
        for (int64_t i = 0; i < 3; i++)
            for (int64_t k = 0; k < dim; k++) {
                const int64_t j = k % half;
                const double angle =
                    t[i] * pow(10000, -(double)j / ((double)half - CASES[c].shift));
                const bool cosine = (k < half) == CASES[c].flip;
                const double want = k >= 2 * half ? 0 : cosine ? cos(angle) : sin(angle);
                /* an angle of 999 in f32 is off by up to 6e-5 */
                check_close("embedding", i * dim + k, got[i * dim + k], want, 1e-4, 0);
            }
        free(got);
    }
    assert_null(ag_timestep_embedding(ctx, times, 1, true, 0));
    check_failed(ctx, AG_EINVAL, "an embedding of one number");
    ag_ctx_free(ctx);
}

static void test_normal(void **state)
{
    const int64_t keys[2][4] = {{42, AG_DRAW_NOISE, 7, 0}, {42, AG_DRAW_NOISE, 7, 1}};
    ag_ctx *ctx = check_ctx();
    ag_tensor *y = ag_normal(ctx, ag_from_i64(ctx, keys[0], 2, (int64_t[]){2, 4}), 2, DIMS);
    float want[N], *got;

    (void)state;
    check_ok(ctx, "normal");
    assert_int_equal(ag_ndim(y), 3);
    got = check_values(ctx, y);
    for (int r = 0; r < 2; r++) {
        ag_draw_normals(&(ag_draw){42, AG_DRAW_NOISE, 7, (uint32_t)r}, want, N);
        for (int i = 0; i < N; i++)
            check_close("normal", r * N + i, got[r * N + i], want[i], 0, 0);
    }
    free(got);
    assert_null(ag_normal(ctx, y, 2, DIMS));
    check_failed(ctx, AG_ESHAPE, "keys that are none");
    ag_ctx_free(ctx);
}

/* Ties of a maximum go half each way; the ends of a clamp count as inside. */
static void test_kinks(void **state)
{
    const float a[3] = {1, 2, 3}, b[3] = {2, 2, 2};
    const double da[3] = {0, 0.5, 1}, db[3] = {1, 0.5, 0}, dc[3] = {1, 1, 0};
    ag_ctx *ctx = check_ctx();
    ag_tensor *x[2], *g[2] = {NULL}, *y;

    (void)state;
    x[0] = ag_from_f32(ctx, a, 1, (int64_t[]){3});
    x[1] = ag_from_f32(ctx, b, 1, (int64_t[]){3});
    for (int i = 0; i < 2; i++)
        ag_set_requires_grad(ctx, x[i], true);
    y = ag_maximum(ctx, x[0], x[1]);
    ag_grad(ctx, &y, NULL, 1, x, g, 2, 0);
    expect(ctx, "maximum by a", g[0], da, 0);
    expect(ctx, "maximum by b", g[1], db, 0);
    g[0] = NULL;
    y = ag_clamp(ctx, x[0], 1, 2);
    ag_grad(ctx, &y, NULL, 1, x, g, 1, 0);
    expect(ctx, "clamp", g[0], dc, 0);
    ag_ctx_free(ctx);
}

/* Refusals by name, and that nothing follows after one. */
/* bf16, and large enough for the kernel that takes x as it is: what upsample_nearest before it gives; the
 * gradients to the bit. */
static void test_enlarged(void **state)
{
    static const int64_t x_dims[] = {1, 32, 33, 24}, w_dims[] = {16, 3, 3, 24}, d_dims[] = {1, 64, 66, 16};
    ag_conv_opts opts = {.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1};
    ag_ctx *ctx = check_ctx();
    uint64_t seed = 9;
    ag_tensor *x = ag_cast(ctx, check_random(ctx, &seed, 4, x_dims), AG_BF16);
    ag_tensor *in[] = {x, check_random(ctx, &seed, 4, w_dims)}, *g[2][2] = {{NULL}}, *y[2];
    ag_tensor *d = ag_cast(ctx, check_random(ctx, &seed, 4, d_dims), AG_BF16);

    (void)state;
    for (int k = 0; k < 2; k++)
        ag_set_requires_grad(ctx, in[k], true);
    y[0] = ag_conv2d(ctx, ag_upsample_nearest(ctx, in[0], 64, 66), in[1], NULL, opts);
    opts.enlarge = true;
    y[1] = ag_conv2d(ctx, in[0], in[1], NULL, opts);
    for (int k = 0; k < 2; k++)
        ag_grad(ctx, &y[k], &d, 1, in, g[k], 2, 0);
    check_ok(ctx, "enlarged");
    for (int k = 0; k < 3; k++) {
        ag_tensor *a = k < 2 ? g[0][k] : y[0], *b = k < 2 ? g[1][k] : y[1];
        float *want = check_values(ctx, a), *got = check_values(ctx, b);
        for (int64_t i = 0; i < ag_numel(a); i++)
            check_close("enlarged", i, got[i], want[i], k < 2 ? 0 : 0.2, 0);
        free(want);
        free(got);
    }
    ag_ctx_free(ctx);
}

static void test_refusals(void **state)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *x = ag_full(ctx, AG_STEP, 1, 2, DIMS), *y, *g = NULL;
    ag_tensor *ids = ag_from_i64(ctx, (int64_t[]){1, 2}, 1, (int64_t[]){2}), *filter;

    (void)state;
    ag_set_requires_grad(ctx, x, true);
    y = op_unary(ctx, AG_SILU, 3, x, NULL, 0);
    ag_grad(ctx, &y, NULL, 1, &x, &g, 1, 0);
    check_failed(ctx, AG_EUNSUPPORTED, "a fourth derivative");

    filter = ag_full(ctx, AG_STEP, 1, 2, (int64_t[]){2, 2});
    ag_set_requires_grad(ctx, filter, true);
    y = ag_upfirdn2d(ctx, ag_full(ctx, AG_STEP, 1, 4, (int64_t[]){1, 3, 3, 1}), filter, 1, 1, 0, 0,
                     0, 0);
    g = NULL;
    ag_grad(ctx, &y, NULL, 1, &filter, &g, 1, 0);
    check_failed(ctx, AG_EUNSUPPORTED, "a filter's gradient");

    assert_null(ag_add(ctx, x, ids));
    check_failed(ctx, AG_EDTYPE, "integers in a sum");
    assert_null(ag_embedding(ctx, x, x));
    check_failed(ctx, AG_EDTYPE, "ids that are not integers");
    assert_null(ag_reshape(ctx, x, 9, DIMS));
    check_failed(ctx, AG_ESHAPE, "nine axes");
    assert_null(ag_concat(ctx, x, ids, 0));
    check_failed(ctx, AG_ESHAPE, "concat of unlike tensors");
    assert_null(ag_group_norm(ctx, x, NULL, NULL, 0, 1e-5, false));
    check_failed(ctx, AG_EINVAL, "no groups");
    ag_ctx_free(ctx);
}

/* Every function, given nothing: NULL and a message at first, NULL and the first message after. */
static void test_nothing_in_nothing_out(void **state)
{
    ag_ctx *ctx = check_ctx();
    const int64_t one[2] = {1, 1};
    const int axes[2] = {0, 1};

    (void)state;
#define NOTHING(call)                                                                             \
    do {                                                                                          \
        assert_null(call);                                                                        \
        check_failed(ctx, AG_EINVAL, #call);                                                      \
        ag_fail(ctx, AG_EDATA, "an earlier failure");                                             \
        assert_null(call);                                                                        \
        check_failed(ctx, AG_EDATA, #call);                                                       \
    } while (0)
    NOTHING(ag_unary(ctx, AG_SILU, NULL, 0));
    NOTHING(ag_affine(ctx, NULL, 1, 1));
    NOTHING(ag_add(ctx, NULL, NULL));
    NOTHING(ag_sub(ctx, NULL, NULL));
    NOTHING(ag_mul(ctx, NULL, NULL));
    NOTHING(ag_div(ctx, NULL, NULL));
    NOTHING(ag_maximum(ctx, NULL, NULL));
    NOTHING(ag_minimum(ctx, NULL, NULL));
    NOTHING(ag_clamp(ctx, NULL, 0, 1));
    NOTHING(ag_cast(ctx, NULL, AG_BF16));
    NOTHING(ag_detach(ctx, NULL));
    NOTHING(ag_reshape(ctx, NULL, 2, one));
    NOTHING(ag_permute(ctx, NULL, axes));
    NOTHING(ag_slice(ctx, NULL, -1, 0, 1));
    NOTHING(ag_concat(ctx, NULL, NULL, -1));
    NOTHING(ag_broadcast(ctx, NULL, 2, one));
    NOTHING(ag_sum(ctx, NULL, AG_ALL_AXES, false));
    NOTHING(ag_mean(ctx, NULL, 1, false));
    NOTHING(ag_matmul(ctx, NULL, NULL, false, false));
    NOTHING(ag_linear(ctx, NULL, NULL, NULL));
    NOTHING(ag_conv2d(ctx, NULL, NULL, NULL, (ag_conv_opts){0}));
    NOTHING(ag_group_norm(ctx, NULL, NULL, NULL, 1, 1e-5, true));
    NOTHING(ag_layer_norm(ctx, NULL, NULL, NULL, 1e-5));
    NOTHING(ag_softmax(ctx, NULL));
    NOTHING(ag_attention(ctx, NULL, NULL, NULL, 1, 0, false));
    NOTHING(ag_attention_probs(ctx, NULL, NULL, 1, 0, false));
    NOTHING(ag_geglu(ctx, NULL));
    NOTHING(ag_pad2d(ctx, NULL, AG_PAD_ZERO, 1, 1, 1, 1));
    NOTHING(ag_upsample_nearest(ctx, NULL, 1, 1));
    NOTHING(ag_avg_pool2d(ctx, NULL, 2));
    NOTHING(ag_upfirdn2d(ctx, NULL, NULL, 1, 1, 0, 0, 0, 0));
    NOTHING(ag_embedding(ctx, NULL, NULL));
    NOTHING(ag_timestep_embedding(ctx, NULL, 4, true, 0));
    NOTHING(ag_row_loss(ctx, AG_LOSS_L2, NULL, NULL, 0));
    NOTHING(ag_normal(ctx, NULL, 2, one));
    NOTHING(ag_dropout(ctx, NULL, 0.5, (ag_draw){0}, NULL));
    NOTHING(ag_adamw_(ctx, NULL, NULL, NULL, NULL, NULL));
    NOTHING(ag_adamw8bit_(ctx, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 1, 1));
    NOTHING(ag_sgd_(ctx, NULL, NULL, NULL, NULL));
    NOTHING(ag_lion_(ctx, NULL, NULL, NULL, NULL));
    NOTHING(ag_ranger_(ctx, NULL, NULL, NULL, NULL, NULL, NULL, 0));
    NOTHING(ag_prodigy_d_(ctx, NULL, NULL, false));
    NOTHING(ag_prodigy_moments_(ctx, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL));
    NOTHING(ag_prodigy_step_(ctx, NULL, NULL, NULL, NULL, NULL));
    NOTHING(ag_adafactor_moments_(ctx, NULL, NULL, NULL, NULL, (ag_adafactor_shape){1, 1, 1, 1}));
    NOTHING(ag_adafactor_sums_(ctx, NULL, NULL, NULL, NULL, NULL, NULL, (ag_adafactor_shape){1, 1, 1, 1}));
    NOTHING(ag_adafactor_step_(ctx, NULL, NULL, NULL, NULL, NULL, NULL, NULL, (ag_adafactor_shape){1, 1, 1, 1}));
    NOTHING(ag_add_(ctx, NULL, NULL));
    NOTHING(ag_scale_(ctx, NULL, NULL));
    NOTHING(ag_fill_(ctx, NULL, 0));
    NOTHING(ag_lerp_(ctx, NULL, NULL, NULL));
    NOTHING(ag_sumsq_(ctx, NULL, NULL, 0));
    NOTHING(ag_clip_(ctx, NULL, NULL, NULL, 0, 1.0));
    NOTHING(ag_loss_scale_(ctx, NULL, NULL, 2.0, 0.5, 3));
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add_scale_fill_lerp),
        cmocka_unit_test(test_sumsq),
        cmocka_unit_test(test_clip),
        cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_bundle),
        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_optimizer_refusals),
        cmocka_unit_test(test_recording_sees_no_change),
        cmocka_unit_test(test_cast_and_copy),
        cmocka_unit_test(test_timestep_embedding),
        cmocka_unit_test(test_normal),
        cmocka_unit_test(test_kinks),
        cmocka_unit_test(test_enlarged),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_nothing_in_nothing_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
