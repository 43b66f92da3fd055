/* test_gpu.c - what is a device's own: what is found of it, and products that it may round. On the CPU, that nothing
 * of this changes anything.
 */
#include "autograd/gpu.h"
#include "autograd/grad.h"
#include "autograd/ops.h"
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(found), cmocka_unit_test(tf32)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
