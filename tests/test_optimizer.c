/* test_optimizer.c - AdamW, the gradient norm, clipping and the moving average against their
 * definitions in double and against numbers of PyTorch's and diffusers' own.
 */
#include "tests/check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "optim/optimizer.h"
#include "tests/cuda_host/cuda_host.h"

#pragma weak cuda_host_count

static ag_tensor *model_tensor(ag_ctx *ctx, int n_dims, const int64_t *dims, const float *values)
{
    ag_tensor *t = ag_empty(ctx, AG_MODEL, AG_F32, n_dims, dims);

    ag_write(ctx, t, values, ag_nbytes(t));
    check_ok(ctx, "tensor");
    return t;
}

/* torch.optim.AdamW on g = (p0, 10 p1) from p = (1, -2), lr 0.1, wd 0.01: three updates. */
static void test_adamw_numbers(void **state)
{
    const double want[3][2] = {
        {0.899000001, -1.898000000}, {0.798519028, -1.796272588}, {0.698911185, -1.694944514}};
    const opt_config config = opt_defaults(OPT_ADAMW);
    const char *const names[] = {"p"};
    ag_ctx *ctx = check_ctx();
    ag_tensor *p = model_tensor(ctx, 1, (int64_t[]){2}, (float[]){1.0f, -2.0f});
    ag_tensor *g = model_tensor(ctx, 1, (int64_t[]){2}, (float[]){0.0f, 0.0f});
    opt_optimizer *opt = NULL;
    char text[64];

    (void)state;
    opt_new(&opt, ctx, &config, &(opt_params){.n = 1, .tensors = &p, .names = names});
    for (int t = 1; t <= 3; t++) {
        float v[2];
        ag_read(ctx, p, v, sizeof v);
        v[1] *= 10.0f;
        ag_write(ctx, g, v, sizeof v);
        opt_update(ctx, opt, &g, t, 0.1, 1.0, 0.0);
        ag_read(ctx, p, v, sizeof v);
        check_ok(ctx, "update");
        for (int i = 0; i < 2; i++)
            check_close("p", 10 * t + i, v[i], want[t - 1][i], 0.0, 1e-7);
    }
    assert_int_equal(opt_state_count(opt), 2);
    opt_state_at(opt, 0, text, sizeof text);
    assert_string_equal(text, "exp_avg.p");
    opt_state_at(opt, 1, text, sizeof text);
    assert_string_equal(text, "exp_avg_sq.p");
    opt_free(opt);
    opt_free(NULL);
    ag_release(p);
    ag_release(g);
    ag_ctx_free(ctx);
}

static void put(ag_ctx *ctx, ag_tensor *t, int64_t i, float value)
{
    float *values = check_values(ctx, t);

    values[i] = value;
    ag_write(ctx, t, values, ag_nbytes(t));
    free(values);
}

/* Several tensors of odd sizes, a rate and a clip factor that change, against double. */
static void test_adamw_definition(void **state)
{
    enum { T = 3, MOST = 4099 };
    static double p[T][MOST], m[T][MOST], v[T][MOST];
    static const char *const names[T] = {"a", "b", "c"};
    const int64_t dims[T][2] = {{1, 1}, {17, 19}, {1, MOST}};
    const opt_config c = {.kind = OPT_ADAMW, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1};
    ag_ctx *ctx = check_ctx();
    ag_tensor *params[T], *grads[T];
    opt_optimizer *opt = NULL;
    static float values[MOST];
    uint64_t seed = 3;

    (void)state;
    for (int t = 0; t < T; t++) {
        params[t] = ag_full(ctx, AG_MODEL, 0.0, 2, dims[t]);
        grads[t] = ag_full(ctx, AG_MODEL, 0.0, 2, dims[t]);
        for (int64_t i = 0; i < ag_numel(params[t]); i++) {
            p[t][i] = check_uniform(&seed, -1.0, 1.0);
            values[i] = (float)p[t][i];
        }
        ag_write(ctx, params[t], values, ag_nbytes(params[t]));
    }
    opt_new(&opt, ctx, &c, &(opt_params){.n = T, .tensors = params, .names = names});
    for (int k = 1; k <= 6; k++) {
        const double lr = 0.01 * k, scale = k == 4 ? 1.0 : 0.3;
        for (int t = 0; t < T; t++) {
            for (int64_t i = 0; i < ag_numel(params[t]); i++) {
                const double g = check_uniform(&seed, -2.0, 2.0);
                values[i] = (float)g;
                p[t][i] *= 1.0 - lr * c.weight_decay;
                m[t][i] = c.beta1 * m[t][i] + (1.0 - c.beta1) * g * scale;
                v[t][i] = c.beta2 * v[t][i] + (1.0 - c.beta2) * g * scale * g * scale;
                p[t][i] -= lr / (1.0 - pow(c.beta1, k)) * m[t][i] /
                           (sqrt(v[t][i]) / sqrt(1.0 - pow(c.beta2, k)) + c.eps);
            }
            ag_write(ctx, grads[t], values, ag_nbytes(grads[t]));
        }
        opt_update(ctx, opt, grads, k, lr, scale, 0.0);
    }
    check_ok(ctx, "updates");
    for (int t = 0; t < T; t++) {
        float *got = check_values(ctx, params[t]);
        for (int64_t i = 0; i < ag_numel(params[t]); i++)
            check_close(names[t], i, got[i], p[t][i], 2e-6, 2e-6);
        free(got);
    }
    opt_free(opt);
    for (int t = 0; t < T; t++) {
        ag_release(params[t]);
        ag_release(grads[t]);
    }
    ag_ctx_free(ctx);
}

static const opt_config PLAIN = {.kind = OPT_SGD}; /* p -= lr g */

/* One update of tensors that are 0: p is -lr times what the gradient was multiplied by, times the gradient. */
static opt_sight look_at(ag_ctx *ctx, opt_optimizer *opt, ag_tensor *const *grads, double grad_scale, double max_norm)
{
    opt_sight seen;

    opt_update(ctx, opt, grads, 1, 1.0, grad_scale, max_norm);
    opt_look(&seen, ctx, opt);
    check_ok(ctx, "an update");
    return seen;
}

static void test_norm(void **state)
{
    enum { T = 300 }; /* more than one launch takes on a device */
    ag_ctx *ctx = check_ctx();
    ag_tensor *grads[T], *params[T];
    static char names[T][16];
    float values[130];
    const char *name_list[T];
    const opt_params all = {.n = T, .tensors = params, .names = name_list};
    opt_optimizer *opt = NULL;
    uint64_t seed = 11;
    double sum = 0.0, norm;
    opt_sight seen;

    (void)state;
    for (int t = 0; t < T; t++) {
        grads[t] = ag_full(ctx, AG_MODEL, 0.0, 1, (int64_t[]){1 + t * 7 % 129});
        params[t] = ag_full(ctx, AG_MODEL, 0.0, 1, (int64_t[]){1 + t * 7 % 129});
        snprintf(names[t], sizeof names[t], "g%d", t);
        name_list[t] = names[t];
        for (int64_t i = 0; i < ag_numel(grads[t]); i++) {
            const double g = check_uniform(&seed, -1.0, 1.0);
            values[i] = (float)g;
            sum += g * g;
        }
        ag_write(ctx, grads[t], values, ag_nbytes(grads[t]));
    }
    opt_new(&opt, ctx, &PLAIN, &all);
    check_ok(ctx, "optimizer");
    seen = look_at(ctx, opt, grads, 1.0, 0.0);
    norm = seen.grad_norm;
    check_close("norm", 0, norm, sqrt(sum), 0.0, 1e-12);
    assert_null(seen.nonfinite);
    assert_true(isnan(seen.d));
    assert_true(look_at(ctx, opt, grads, 1.0, 0.0).grad_norm == norm);
    check_close("half of it", 0, look_at(ctx, opt, grads, 0.5, 1.0).grad_norm, 0.5 * norm, 0.0, 1e-15);

    put(ctx, grads[270], 0, INFINITY);
    put(ctx, grads[299], 0, NAN);
    for (int t = 0; t < T; t++)
        ag_fill_(ctx, params[t], 3.0);
    seen = look_at(ctx, opt, grads, 1.0, 1.0);
    assert_string_equal(seen.nonfinite, "g270");
    for (int t = 0; t < T; t++) { /* nobody moved */
        float *p = check_values(ctx, params[t]);
        for (int64_t i = 0; i < ag_numel(params[t]); i++)
            assert_true(p[i] == 3.0f);
        free(p);
    }
    opt_free(opt);
    for (int t = 0; t < T; t++) {
        ag_release(grads[t]);
        ag_release(params[t]);
    }
    ag_ctx_free(ctx);
}

/* A million squares in float would be off by 4e-4. */
static void test_norm_of_equals(void **state)
{
    const char *const names[] = {"g"};
    const int64_t n = 1 << 20;
    ag_ctx *ctx = check_ctx();
    ag_tensor *p = ag_full(ctx, AG_MODEL, 0.0, 1, &n), *g = ag_full(ctx, AG_MODEL, 0.1, 1, &n);
    opt_optimizer *opt = NULL;

    (void)state;
    opt_new(&opt, ctx, &PLAIN, &(opt_params){.n = 1, .tensors = &p, .names = names});
    check_close("norm", 0, look_at(ctx, opt, &g, 1.0, 0.0).grad_norm, 1024.0 * (double)0.1f, 0.0, 1e-12);
    opt_free(opt);
    ag_release(p);
    ag_release(g);
    ag_ctx_free(ctx);
}

/* What gradients are multiplied by, in every group, for norms below and above the limit and without one. */
static void test_clipping(void **state)
{
    static const double CASES[][4] = {/* g, grad_scale, max_norm, want */
                                      {4.0, 1.0, 1.0, 1.0 / 4.000001}, {0.5, 1.0, 1.0, 1.0}, {0.0, 1.0, 1.0, 1.0},
                                      {1e9, 1.0, 0.0, 1.0}, {8.0, 0.5, 1.0, 0.5 / 4.000001}};
    const char *const names[] = {"a", "b"};
    const opt_group groups[] = {{1.0, 1.0}, {2.0, 1.0}};
    const int64_t one = 1;
    ag_ctx *ctx = check_ctx();

    (void)state;
    for (int c = 0; c < (int)(sizeof CASES / sizeof *CASES); c++) {
        ag_tensor *p[2], *g[2];
        opt_optimizer *opt = NULL;
        for (int t = 0; t < 2; t++) {
            p[t] = ag_full(ctx, AG_MODEL, 0.0, 1, &one);
            g[t] = ag_full(ctx, AG_MODEL, t ? 0.0 : CASES[c][0], 1, &one);
        }
        opt_new(&opt, ctx, &PLAIN, &(opt_params){.n = 2, .tensors = p, .names = names, .groups = groups});
        for (int t = 0; t < 2; t++) {
            float *v;
            look_at(ctx, opt, g, CASES[c][1], CASES[c][2]);
            v = check_values(ctx, p[t]);
            check_close("clip", c, v[0], -(t + 1.0) * CASES[c][0] * CASES[c][3], 0.0, 1e-6);
            free(v);
            ag_fill_(ctx, g[0], 0.0);
            ag_fill_(ctx, g[1], CASES[c][0]);
        }
        opt_free(opt);
        for (int t = 0; t < 2; t++) {
            ag_release(p[t]);
            ag_release(g[t]);
        }
    }
    ag_ctx_free(ctx);
}

/* However many tensors there are, an update is a few kernels and waits once, for what it saw. */
static void launches(opt_kind kind, long of_kind)
{
    enum { T = 200 };
    static const int64_t dims[] = {3, 7};
    const opt_config config = opt_defaults(kind);
    const char *names[T];
    ag_ctx *ctx = check_ctx();
    ag_tensor *params[T], *grads[T];
    opt_optimizer *opt = NULL;
    opt_ema *ema = NULL;
    long kernels, waits;

    for (int t = 0; t < T; t++) {
        params[t] = ag_full(ctx, AG_MODEL, 1.0, 2, dims);
        grads[t] = ag_full(ctx, AG_MODEL, 0.5, 2, dims);
        names[t] = "p";
    }
    opt_new(&opt, ctx, &config, &(opt_params){.n = T, .tensors = params, .names = names});
    opt_ema_new(&ema, ctx, params, T, 0.9, false);
    look_at(ctx, opt, grads, 1.0, 1.0);
    kernels = cuda_host_count(CUDA_HOST_KERNELS);
    waits = cuda_host_count(CUDA_HOST_WAITS);
    look_at(ctx, opt, grads, 1.0, 1.0);
    opt_ema_update(ctx, ema, 2);
    ag_bundle_begin(ctx);
    for (int t = 0; t < T; t++)
        ag_fill_(ctx, grads[t], 0.0);
    ag_bundle_end(ctx);
    kernels = cuda_host_count(CUDA_HOST_KERNELS) - kernels;
    assert_int_equal(kernels, of_kind + 5); /* squares, their sums, the factor; the average, zeros */
    assert_true(cuda_host_count(CUDA_HOST_WAITS) - waits <= 2); /* one read: its copy, and what went wrong */
    opt_ema_free(ema);
    opt_free(opt);
    for (int t = 0; t < T; t++) {
        ag_release(params[t]);
        ag_release(grads[t]);
    }
    ag_ctx_free(ctx);
}

static void test_launches(void **state)
{
    (void)state;
    if (!cuda_host_count || check_device() != AG_CUDA) {
        print_message("SKIP counting launches: there are no stand-ins to count them\n");
        return;
    }
    launches(OPT_ADAMW, 1);
    launches(OPT_ADAFACTOR, 7); /* rows, columns; factors, sums of units, of tensors; factors, steps */
}

static void test_average(void **state)
{
    const int64_t updates[] = {1, 2, 3, 10, 100, 1000};
    const double decays[] = {0, .181818, .25, .526316, .917431, .991080};
    ag_ctx *ctx = check_ctx();
    ag_tensor *p = ag_full(ctx, AG_MODEL, 2.0, 1, (int64_t[]){33});
    opt_ema *ema = NULL;
    float *shadow;
    double want = 2.0;

    (void)state;
    for (int i = 0; i < 6; i++)
        check_close("decay", updates[i], opt_ema_decay(0.9999, updates[i]), decays[i], 5e-7, 0.0);
    assert_true(opt_ema_decay(0.9, 1000) == 0.9);
    opt_ema_new(&ema, ctx, &p, 1, 0.5, false);
    shadow = check_values(ctx, opt_ema_at(ema, 0));
    check_close("at first", 0, shadow[0], 2.0, 0.0, 0.0);
    free(shadow);
    for (int k = 1; k <= 20; k++) {
        const double value = (float)(1.0 / k), d = opt_ema_decay(0.5, k);
        ag_fill_(ctx, p, value);
        opt_ema_update(ctx, ema, k);
        want -= (1.0 - d) * (want - value);
    }
    check_ok(ctx, "average");
    shadow = check_values(ctx, opt_ema_at(ema, 0));
    for (int i = 0; i < 33; i++)
        check_close("shadow", i, shadow[i], want, 0.0, 1e-7);
    free(shadow);
    opt_ema_free(ema);
    opt_ema_free(NULL);
    ag_release(p);
    ag_ctx_free(ctx);
}

/* Refused memory anywhere leaves nothing behind. */
static void test_refused_memory(void **state)
{
    const opt_config config = opt_defaults(OPT_ADAMW);
    const char *const names[] = {"a", "b"};
    ag_ctx *ctx = check_ctx();
    ag_tensor *params[2] = {ag_full(ctx, AG_MODEL, 1.0, 1, (int64_t[]){100}),
                            ag_full(ctx, AG_MODEL, 1.0, 1, (int64_t[]){100})};
    const size_t before = ag_bytes_now(ctx, AG_MODEL);
    const opt_params all = {.n = 2, .tensors = params, .names = names};
    int n_refused = 0;

    (void)state;
    for (int64_t n = 0;; n++) {
        opt_optimizer *opt = NULL;
        opt_ema *ema = NULL;
        ag_refuse_allocation(ctx, n, false);
        if (opt_new(&opt, ctx, &config, &all) == AG_OK)
            opt_ema_new(&ema, ctx, params, 2, 0.9, false);
        ag_refuse_allocation(ctx, -1, false);
        opt_free(opt);
        opt_ema_free(ema);
        assert_int_equal(ag_bytes_now(ctx, AG_MODEL), before);
        if (ag_status_of(ctx) == AG_OK)
            break;
        check_failed(ctx, AG_ENOMEM, "optimizer");
        n_refused++;
    }
    assert_true(n_refused > 8);
    ag_release(params[0]);
    ag_release(params[1]);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw_numbers), cmocka_unit_test(test_adamw_definition),
        cmocka_unit_test(test_norm),          cmocka_unit_test(test_norm_of_equals),
        cmocka_unit_test(test_clipping),
        cmocka_unit_test(test_launches),
        cmocka_unit_test(test_average),       cmocka_unit_test(test_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
