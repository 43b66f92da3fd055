/* test_cudnn.c - what of the work goes to cuDNN, and that it is planned once, on the stand-in of tests/cuda_host/.
 *
 * Values are those of the CPU. Which engine is chosen shows in them: results of the others are NaN.
 */
#include "tests/check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "tests/cuda_host/cuda_host.h"

enum { MOST_RESULTS = 4, MOST_FAILURES = 300 };

/* Everything that a case computes, as floats. */
typedef struct results {
    int n;
    float *values[MOST_RESULTS];
    int64_t count[MOST_RESULTS];
} results;

static void free_results(results *r)
{
    for (int i = 0; i < r->n; i++)
        free(r->values[i]);
    r->n = 0;
}

/* Keep y and its gradients by the inputs; on a failed context nothing. */
static void collect(ag_ctx *ctx, results *out, ag_tensor *y, ag_tensor *const *in, int n)
{
    ag_tensor *grad[MOST_RESULTS] = {NULL}, *all[MOST_RESULTS];
    ag_tensor *loss = ag_sum(ctx, ag_square(ctx, ag_cast(ctx, y, AG_F32)), AG_ALL_AXES, false);

    out->n = 0;
    if (ag_grad(ctx, &loss, NULL, 1, in, grad, n, 0) != AG_OK)
        return;
    all[0] = y;
    for (int i = 0; i < n; i++)
        all[1 + i] = grad[i];
    for (int i = 0; i <= n && ag_status_of(ctx) == AG_OK; i++) {
        out->values[out->n] = malloc((size_t)ag_numel(all[i]) * sizeof(float) + 1);
        out->count[out->n] = ag_numel(all[i]);
        assert_non_null(out->values[out->n]);
        all[i] = ag_cast(ctx, all[i], AG_F32);
        if (ag_read(ctx, all[i], out->values[out->n], (size_t)out->count[out->n] * sizeof(float)) == AG_OK)
            out->n++;
        else
            free(out->values[out->n]);
    }
}

/* Uniform values. The context may fail on the way: that is not a failure of the test. */
static ag_tensor *input(ag_ctx *ctx, uint64_t *seed, ag_dtype type, int n_dims, const int64_t *dims)
{
    float *values;
    ag_tensor *t;
    int64_t n = 1;

    for (int i = 0; i < n_dims; i++)
        n *= dims[i];
    values = malloc((size_t)n * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)check_uniform(seed, -1.0, 1.0);
    t = ag_from_f32(ctx, values, n_dims, dims);
    free(values);
    if (type != AG_F32)
        t = ag_cast(ctx, t, type);
    if (t)
        ag_set_requires_grad(ctx, t, true);
    return t;
}

/* --- what is computed ------------------------------------------------------------------------- */

typedef struct job {
    const char *name;
    ag_dtype type;
    int64_t c, o;            /* a convolution; c 0: attention */
    int64_t n, heads, t, d;
    bool causal;
} job;

static void convolve(ag_ctx *ctx, results *out, const job *j)
{
    const ag_conv_opts opts = {.stride = 2, .pad_top = 1, .pad_bottom = 2, .pad_left = 0, .pad_right = 1};
    ag_tensor *in[3];
    uint64_t seed = 7;

    in[0] = input(ctx, &seed, j->type, 4, (int64_t[]){2, 6, 7, j->c});
    in[1] = input(ctx, &seed, AG_F32, 4, (int64_t[]){j->o, 3, 3, j->c});
    in[2] = input(ctx, &seed, AG_F32, 1, (int64_t[]){j->o});
    collect(ctx, out, ag_conv2d(ctx, in[0], in[1], in[2], opts), in, 3);
}

static void attend(ag_ctx *ctx, results *out, const job *j)
{
    ag_tensor *in[3];
    uint64_t seed = 9;

    for (int i = 0; i < 3; i++)
        in[i] = input(ctx, &seed, j->type, 3, (int64_t[]){j->n, i ? j->t + j->t / 2 : j->t, j->heads * j->d});
    collect(ctx, out, ag_attention(ctx, in[0], in[1], in[2], j->heads, 0.0, j->causal), in, 3);
}

static void compute(ag_ctx *ctx, results *out, const job *j)
{
    const ag_scope scope = ag_scope_open(ctx);

    if (j->c)
        convolve(ctx, out, j);
    else
        attend(ctx, out, j);
    ag_scope_close(ctx, scope, NULL);
}

/* The same on the CPU, of f32 where the type is f16. */
static void expect(results *out, const job *j)
{
    ag_ctx *ctx = check_ctx_on(AG_CPU);
    job like = *j;

    if (j->type == AG_F16)
        like.type = AG_F32;
    compute(ctx, out, &like);
    check_ok(ctx, j->name);
    ag_ctx_free(ctx);
}

static void check_results(const job *j, const results *got, const results *want)
{
    const double tolerance = j->type == AG_F32 ? 2e-5 : j->type == AG_F16 ? 4e-3 : 3e-2;

    assert_int_equal(got->n, MOST_RESULTS);
    for (int k = 0; k < MOST_RESULTS; k++) {
        double most = 0.0;
        for (int64_t i = 0; i < want->count[k]; i++)
            most = fmax(most, fabs(want->values[k][i]));
        for (int64_t i = 0; i < want->count[k]; i++)
            check_close(j->name, i, got->values[k][i], want->values[k][i], tolerance * most, tolerance);
    }
}

/* --- what goes where -------------------------------------------------------------------------- */

/* Each job twice: its values, how many of its three or two parts cuDNN does, and that it plans once. */
static void check_job(const job *j, int runs)
{
    ag_ctx *ctx = check_ctx_on(AG_CUDA);
    long plans, taken, before = cuda_host_count(CUDA_HOST_PLAN_RUNS);
    results want, got;

    expect(&want, j);
    compute(ctx, &got, j);
    check_ok(ctx, j->name);
    check_results(j, &got, &want);
    if (cuda_host_count(CUDA_HOST_PLAN_RUNS) - before != runs)
        fail_msg("%s: cuDNN ran %ld times, not %d", j->name, cuda_host_count(CUDA_HOST_PLAN_RUNS) - before, runs);
    free_results(&got);

    plans = cuda_host_count(CUDA_HOST_PLANS);
    taken = cuda_host_count(CUDA_HOST_TAKES);
    compute(ctx, &got, j);
    check_results(j, &got, &want);
    assert_int_equal(cuda_host_count(CUDA_HOST_PLANS), plans);
    if (cuda_host_count(CUDA_HOST_TAKES) != taken && j->n * j->heads < 1 << 10) /* large heaps settle later */
        fail_msg("%s: memory was taken once more", j->name);
    assert_int_equal(cuda_host_count(CUDA_HOST_PLAN_RUNS) - before, 2 * runs);
    free_results(&got);
    free_results(&want);
    ag_ctx_free(ctx);
}

static void test_what_cudnn_does(void **state)
{
    static const struct {
        job job;
        int runs;
    } cases[] = {
        {{.name = "convolution f32", .type = AG_F32, .c = 8, .o = 16}, 3},
        {{.name = "convolution f32, odd", .type = AG_F32, .c = 3, .o = 5}, 3},
        {{.name = "convolution bf16", .type = AG_BF16, .c = 8, .o = 16}, 3},
        {{.name = "convolution f16", .type = AG_F16, .c = 8, .o = 16}, 3},
        {{.name = "convolution bf16, 4 channels", .type = AG_BF16, .c = 4, .o = 6}, 3},
        /* no engine for dw of odd channels */
        {{.name = "convolution bf16, odd", .type = AG_BF16, .c = 3, .o = 5}, 2},
        {{.name = "attention bf16", .type = AG_BF16, .n = 2, .heads = 3, .t = 22, .d = 40}, 2},
        {{.name = "attention f16", .type = AG_F16, .n = 2, .heads = 3, .t = 22, .d = 8}, 2},
        {{.name = "attention bf16 of 256", .type = AG_BF16, .n = 1, .heads = 2, .t = 6, .d = 256}, 2},
        /* these are our own kernel's */
        {{.name = "attention f32", .type = AG_F32, .n = 2, .heads = 3, .t = 22, .d = 40}, 0},
        {{.name = "attention bf16 of 12", .type = AG_BF16, .n = 2, .heads = 3, .t = 22, .d = 12}, 0},
        {{.name = "attention bf16 of 264", .type = AG_BF16, .n = 1, .heads = 2, .t = 6, .d = 264}, 0},
        {{.name = "attention bf16, causal", .type = AG_BF16, .n = 2, .heads = 3, .t = 22, .d = 40, .causal = true}, 0},
        /* ds of all these at once would be 512 MiB: a forward pass and two rounds */
        {{.name = "attention, samples in rounds", .type = AG_BF16, .n = 1 << 16, .heads = 1, .t = 2, .d = 8}, 3},
        {{.name = "attention, heads in rounds", .type = AG_BF16, .n = 1, .heads = 1 << 16, .t = 2, .d = 8}, 3},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_job(&cases[i].job, cases[i].runs);
}

static void test_older_libraries(void **state)
{
    const job conv = {.name = "convolution bf16", .type = AG_BF16, .c = 8, .o = 16};
    const job heads = {.name = "attention bf16", .type = AG_BF16, .n = 2, .heads = 3, .t = 22, .d = 40};

    (void)state;
    setenv("CUDA_HOST_CUDNN_VERSION", "91500", 1); /* its backward pass errs */
    check_job(&conv, 3);
    check_job(&heads, 1);
    setenv("CUDA_HOST_CUDNN_VERSION", "91200", 1); /* does not know attention by one word */
    check_job(&conv, 0);
    check_job(&heads, 0);
    unsetenv("CUDA_HOST_CUDNN_VERSION");
}

/* f32 is not rounded for tensor cores but by leave. */
static void test_tf32(void **state)
{
    const job j = {.name = "convolution f32", .type = AG_F32, .c = 8, .o = 16};
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CUDA, .allow_tf32 = true});
    results want, got;
    double most = 0.0, apart = 0.0;

    (void)state;
    expect(&want, &j);
    compute(ctx, &got, &j);
    check_ok(ctx, "with TF32");
    assert_int_equal(got.n, MOST_RESULTS);
    for (int64_t i = 0; i < want.count[0]; i++) {
        most = fmax(most, fabs(want.values[0][i]));
        apart = fmax(apart, fabs(want.values[0][i] - got.values[0][i]));
    }
    assert_true(apart > 1e-5 * most && apart < 2e-3 * most);
    free_results(&got);
    free_results(&want);
    ag_ctx_free(ctx);
}

/* An engine that adds in another order each time: with leave alone. */
static void test_any_order(void **state)
{
    const job j = {.name = "convolution bf16", .type = AG_BF16, .c = 8, .o = 16};

    (void)state;
    for (int leave = 0; leave < 2; leave++) {
        ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CUDA, .any_order = leave});
        const long before = cuda_host_count(CUDA_HOST_LOOSE_PLANS);
        results got;
        compute(ctx, &got, &j);
        check_ok(ctx, "in any order");
        assert_int_equal(cuda_host_count(CUDA_HOST_LOOSE_PLANS) > before, leave);
        free_results(&got);
        ag_ctx_free(ctx);
    }
}

/* --- failures --------------------------------------------------------------------------------- */

/* Fail call n of a job, or all from there on: the values are right, or the context says what went wrong. Returns
 * whether it computed. */
static bool fails_well(const job *j, const results *want, long n, bool forever)
{
    ag_ctx *ctx = check_ctx_on(AG_CUDA);
    results got = {0};
    bool ok;

    cuda_host_fail_in(n, forever);
    compute(ctx, &got, j);
    cuda_host_fail_in(-1, false);
    ok = ag_status_of(ctx) == AG_OK;
    if (ok)
        check_results(j, &got, want);
    else if (!*ag_message(ctx) || strchr(ag_message(ctx), '\n'))
        fail_msg("%s: call %ld failed with \"%s\"", j->name, n, ag_message(ctx));
    free_results(&got);
    ag_ctx_free(ctx);
    return ok;
}

static void test_failures(void **state)
{
    static const job jobs[] = {
        {.name = "convolution bf16", .type = AG_BF16, .c = 8, .o = 16},
        {.name = "attention bf16", .type = AG_BF16, .n = 1, .heads = 2, .t = 4, .d = 8},
    };

    (void)state;
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++) {
        results want;
        long n_calls = 64, fallen_back = 0;
        expect(&want, &jobs[i]);
        while (!fails_well(&jobs[i], &want, n_calls, true))
            n_calls *= 2;
        for (long n = 0; n < n_calls; n += 1 + n_calls / MOST_FAILURES)
            fallen_back += fails_well(&jobs[i], &want, n, false);
        assert_true(fallen_back > 0); /* what is no plan is done another way */
        free_results(&want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_cudnn_does),
        cmocka_unit_test(test_older_libraries),
        cmocka_unit_test(test_tf32),
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_failures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
