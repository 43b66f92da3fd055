/* test_gpu.c - what is a device's own: what is found of it, and products that it may round. On the CPU, that nothing
 * of this changes anything.
 */
#include "autograd/gpu.h"
#include "autograd/grad.h"
#include "autograd/ops.h"
#include "optim/optimizer.h"
#include "tests/check.h"

static void found(void **state)
{
    ag_gpus gpus;

    (void)state;
    ag_gpus_find(&gpus);
    assert_true((gpus.n == 0) == (gpus.why[0] != '\0'));
    if (check_device() != AG_CUDA)
        return;
    assert_true(gpus.n >= 1);
    assert_true(gpus.list[0].name[0] && gpus.list[0].major >= 8 && gpus.list[0].processors > 0);
    assert_true(gpus.list[0].bytes > (size_t)1 << 20);
    assert_true(gpus.driver[0] && gpus.runtime[0] && gpus.cublaslt[0]);
}

enum { M = 40, K = 72, N = 24 };

/* x [M,K] times y [K,N]; the largest distance from the product in double. */
static double distance(float out[M * N], bool allow_tf32)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = check_device(), .n_threads = 2, .allow_tf32 = allow_tf32});
    uint64_t seed = 5;
    double most = 0.0;
    ag_tensor *x = check_random(ctx, &seed, 2, (int64_t[]){M, K}), *y = check_random(ctx, &seed, 2, (int64_t[]){K, N});
    float *a = check_values(ctx, x), *b = check_values(ctx, y);

    ag_read(ctx, ag_matmul(ctx, x, y, false, false), out, M * N * sizeof *out);
    check_ok(ctx, "a product");
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = 0.0;
            for (int k = 0; k < K; k++)
                sum += (double)a[m * K + k] * (double)b[k * N + n];
            most = fmax(most, fabs(sum - (double)out[m * N + n]));
        }
    free(a);
    free(b);
    ag_ctx_free(ctx);
    return most;
}

static void tf32(void **state)
{
    static float full[M * N], rounded[M * N];
    const double far = distance(rounded, true);

    ag_gpus gpus;

    (void)state;
    ag_gpus_find(&gpus);
    assert_true(distance(full, false) < 1e-5);
    assert_true(far < 1e-2); /* 10 bits of fraction, 72 terms */
    if (check_device() != AG_CUDA)
        assert_memory_equal(full, rounded, sizeof full);
    else if (strstr(gpus.list[0].name, "stand-in")) /* a library may do as it likes */
        assert_true(far > 1e-5);
}

/* Five updates of two tensors; their values, and one by one the states, into out. */
enum { P = 300, Q = 5000, MOST = 8 * (P + Q) };

static int64_t updates(double *out, opt_kind kind, bool offload)
{
    ag_ctx *ctx = check_ctx();
    opt_config config = opt_defaults(kind);
    ag_tensor *p[2], *g[2];
    opt_optimizer *opt = NULL;
    uint64_t seed = 9;
    char name[64];
    int64_t n = 0;

    config.offload = offload;
    config.sgd.momentum = 0.9;
    for (int i = 0; i < 2; i++) {
        const int64_t dims[] = {10, i ? Q / 10 : P / 10};
        ag_tensor *random = check_random(ctx, &seed, 2, dims);
        p[i] = ag_full(ctx, AG_MODEL, 0.0, 2, dims);
        ag_copy(ctx, p[i], random);
        g[i] = check_random(ctx, &seed, 2, dims);
    }
    opt_new(&opt, ctx, &config, &(opt_params){.n = 2, .tensors = p, .names = (const char *[]){"p", "q"}});
    check_ok(ctx, opt_kind_names[kind]);
    assert_true((ag_bytes_now(ctx, AG_OFFLOADED) > 0) == offload);
    for (int t = 1; t <= 5; t++)
        opt_update(ctx, opt, g, t, 1e-2, 1.0, 1.0);
    for (int64_t i = 0; i < 2 + opt_state_count(opt); i++) {
        const ag_tensor *x = i < 2 ? p[i] : opt_state_at(opt, i - 2, name, sizeof name);
        const void *values = ag_look(ctx, x);
        assert_non_null(values);
        memcpy((char *)out + n, values, ag_nbytes(x));
        n += (int64_t)ag_nbytes(x);
        ag_look_away(x, values);
    }
    check_ok(ctx, opt_kind_names[kind]);
    opt_free(opt);
    assert_int_equal(ag_bytes_now(ctx, AG_OFFLOADED), 0);
    ag_release(p[0]);
    ag_release(p[1]);
    ag_ctx_free(ctx);
    return n;
}

/* Where the states are kept makes no difference. */
static void offload(void **state)
{
    static double here[MOST], there[MOST];

    (void)state;
    for (int kind = 0; kind < OPT_N_KINDS; kind++) {
        const int64_t n = updates(here, (opt_kind)kind, false);
        assert_int_equal(updates(there, (opt_kind)kind, true), n);
        if (memcmp(here, there, (size_t)n) != 0)
            fail_msg("%s: other bits with its states on the host", opt_kind_names[kind]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(found), cmocka_unit_test(tf32), cmocka_unit_test(offload)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
