/* test_replay.c - steps that are recorded once and repeated, and values between host and device without waiting.
 *
 * On the CPU every step runs as it is, and the results must be the same. What is counted (waits of the host,
 * memory that was taken) is counted by the stand-ins of tests/cuda_host/, where the program is linked with them.
 */
#include "tests/check.h"

#include "autograd/grad.h"
#include "autograd/mail.h"
#include "autograd/observe.h"
#include "autograd/ops.h"
#include "autograd/replay.h"
#include "tests/cuda_host/cuda_host.h"

#pragma weak cuda_host_count
#pragma weak cuda_host_fail_in

enum { WIDE = 12, STEPS = 9, MOST_ROWS = 8 };
#define DIMS(...) ((int64_t[]){__VA_ARGS__})

/* --- a small network that learns ----------------------------------------------------------------- */

enum { W1, W2, N_PARAMS };

typedef struct net {
    ag_ctx *ctx;
    ag_tensor *params[N_PARAMS], *grads[N_PARAMS];
    ag_tensor *step;  /* of the dropout */
    ag_tensor *rate;  /* 1 - rate is what lerp_ leaves of a parameter's way; f32 [] */
    ag_replay *replay;
} net;

static ag_tensor *model_tensor(ag_ctx *ctx, uint64_t *seed)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *t = ag_empty(ctx, AG_MODEL, AG_F32, 2, DIMS(WIDE, WIDE)), *values;

    values = check_random(ctx, seed, 2, DIMS(WIDE, WIDE));
    ag_copy(ctx, t, values);
    ag_scope_close(ctx, scope, NULL);
    return t;
}

static void net_new(net *n, ag_ctx *ctx, const ag_replay_options *options)
{
    uint64_t seed = 5;

    *n = (net){.ctx = ctx};
    for (int i = 0; i < N_PARAMS; i++) {
        n->params[i] = model_tensor(ctx, &seed);
        ag_set_requires_grad(ctx, n->params[i], true);
        n->grads[i] = ag_full(ctx, AG_MODEL, 0.0, 2, DIMS(WIDE, WIDE));
    }
    n->step = ag_empty(ctx, AG_MODEL, AG_I64, 0, NULL);
    n->rate = ag_empty(ctx, AG_MODEL, AG_F32, 0, NULL);
    ag_replay_new(&n->replay, ctx, options);
    check_ok(ctx, "a network");
}

static void net_free(net *n)
{
    ag_replay_free(n->replay);
    for (int i = 0; i < N_PARAMS; i++) {
        ag_release(n->params[i]);
        ag_release(n->grads[i]);
    }
    ag_release(n->step);
    ag_release(n->rate);
}

/* Gradients of one batch x, want [n, WIDE]. */
static void learn(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    net *n = user;
    const ag_draw draw = {.seed = 3, .purpose = AG_DRAW_TEST};
    ag_tensor *h = ag_silu(ctx, ag_linear(ctx, in[0], n->params[W1], NULL)), *loss;

    h = ag_linear(ctx, ag_dropout(ctx, h, 0.25, draw, n->step), n->params[W2], NULL);
    loss = ag_mean(ctx, ag_square(ctx, ag_sub(ctx, h, in[1])), AG_ALL_AXES, false);
    ag_grad(ctx, &loss, NULL, 1, n->params, n->grads, N_PARAMS, 0);
    out[0] = loss;
    out[1] = h;
}

/* p -= rate g, by lerp_ towards p - g. */
static void update(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    net *n = user;
    const bool was = ag_record(ctx, false);

    (void)in;
    (void)out;
    for (int i = 0; i < N_PARAMS; i++) {
        ag_lerp_(ctx, n->params[i], ag_sub(ctx, n->params[i], n->grads[i]), n->rate);
        ag_fill_(ctx, n->grads[i], 0.0);
    }
    ag_record(ctx, was);
}

/* Step k on rows_of(k) rows; the values of both outputs into mail. */
static int64_t rows_of(int64_t k, int n_shapes)
{
    return 3 + k % n_shapes;
}

static ag_tensor *batch(ag_ctx *ctx, uint64_t seed, int64_t rows)
{
    float values[MOST_ROWS * WIDE];

    for (int64_t i = 0; i < rows * WIDE; i++)
        values[i] = (float)check_uniform(&seed, -1, 1);
    return ag_from_f32(ctx, values, 2, DIMS(rows, WIDE));
}

static void one_step(net *n, int64_t k, int n_shapes, ag_mail *mail)
{
    ag_ctx *ctx = n->ctx;
    const ag_scope scope = ag_scope_open(ctx);
    const float rate = 0.1f + 0.01f * (float)k;
    const int64_t rows = rows_of(k, n_shapes);
    ag_tensor *in[] = {batch(ctx, (uint64_t)k + 1, rows), batch(ctx, (uint64_t)k + 1000, rows)}, *out[2];

    ag_write(ctx, n->step, &k, sizeof k);
    ag_write(ctx, n->rate, &rate, sizeof rate);
    ag_replay_run(n->replay, &(ag_replay_work){.kind = 0, .fn = learn, .user = n, .in = in, .n_in = 2, .n_out = 2},
                  out);
    ag_replay_run(n->replay, &(ag_replay_work){.kind = 1, .fn = update, .user = n}, NULL);
    if (mail && ag_status_of(ctx) == AG_OK) {
        ag_mail_post(mail, 0, out[0]);
        ag_mail_post(mail, sizeof(float), out[1]);
        ag_mail_send(mail);
    }
    ag_scope_close(ctx, scope, NULL);
}

enum { MAIL_BYTES = (1 + MOST_ROWS * WIDE) * sizeof(float) };

typedef struct trace {
    float seen[STEPS][MAIL_BYTES / sizeof(float)];
    float params[N_PARAMS][WIDE * WIDE];
    ag_replay_counts counts;
} trace;

/* STEPS steps of a new network. */
static void train(trace *t, const ag_replay_options *options, int n_shapes)
{
    ag_ctx *ctx = check_ctx();
    ag_mail *mail = NULL;
    net n;

    memset(t, 0, sizeof *t);
    net_new(&n, ctx, options);
    ag_mail_new(&mail, ctx, MAIL_BYTES);
    for (int64_t k = 0; k < STEPS; k++) {
        const void *values;
        one_step(&n, k, n_shapes, mail);
        values = ag_mail_open(mail);
        check_ok(ctx, "a step");
        memcpy(t->seen[k], values, (size_t)(1 + rows_of(k, n_shapes) * WIDE) * sizeof(float));
    }
    for (int i = 0; i < N_PARAMS; i++)
        ag_read(ctx, n.params[i], t->params[i], sizeof t->params[i]);
    t->counts = ag_replay_counted(n.replay);
    check_ok(ctx, "training");
    ag_mail_free(mail);
    net_free(&n);
    ag_ctx_free(ctx);
}

static bool on_device(void)
{
    ag_ctx *ctx = check_ctx();
    const bool is_cuda = ag_ctx_device(ctx) == AG_CUDA;

    ag_ctx_free(ctx);
    return is_cuda;
}

static void check_same(const trace *a, const trace *b)
{
    assert_memory_equal(a->seen, b->seen, sizeof a->seen);
    assert_memory_equal(a->params, b->params, sizeof a->params);
}

/* --- tests --------------------------------------------------------------------------------------- */

static void test_same_bits(void **state)
{
    static trace plain, repeated;
    const bool is_cuda = on_device();

    (void)state;
    for (int n_shapes = 1; n_shapes <= 3; n_shapes++) {
        train(&plain, &(ag_replay_options){.off = true}, n_shapes);
        train(&repeated, NULL, n_shapes);
        check_same(&plain, &repeated);
        assert_int_equal(plain.counts.plain, 2 * STEPS);
        /* each shape, and the update, once as it is and once recorded */
        assert_int_equal(repeated.counts.plain, is_cuda ? n_shapes + 1 : 2 * STEPS);
        assert_int_equal(repeated.counts.recorded, is_cuda ? n_shapes + 1 : 0);
        assert_int_equal(repeated.counts.repeated, is_cuda ? 2 * STEPS - 2 * (n_shapes + 1) : 0);
        assert_int_equal(repeated.counts.given_up, 0);
    }
    assert_true(plain.seen[STEPS - 1][0] < plain.seen[0][0]);
}

/* Three shapes and the update in room for three: who rested longest goes, and comes back with the same bits. */
static void test_least_recently_used_goes(void **state)
{
    static trace plain, repeated;

    (void)state;
    train(&plain, &(ag_replay_options){.off = true}, 3);
    train(&repeated, &(ag_replay_options){.n_graphs = 3}, 3);
    check_same(&plain, &repeated);
    if (on_device())
        assert_true(repeated.counts.plain > 4); /* the shapes push each other out */
    train(&plain, &(ag_replay_options){.off = true}, 2);
    train(&repeated, &(ag_replay_options){.n_graphs = 3}, 2);
    check_same(&plain, &repeated);
    assert_int_equal(repeated.counts.dropped, 0);
}

/* --- what cannot be recorded ---------------------------------------------------------------------- */

typedef enum fault { READS, WRITES, MAKES, LOOKS, WAITS, FOREIGN, N_FAULTS } fault;

typedef struct faulty {
    fault fault;
    ag_tensor *model, *foreign;
} faulty;

static void do_fault(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    faulty *f = user;
    float value = 2.0f;
    ag_tensor *t = ag_scale(ctx, in[0], 3.0);

    switch (f->fault) {
    case READS:
        if (t)
            ag_read(ctx, t, &value, sizeof value);
        break;
    case WRITES: ag_write(ctx, f->model, &value, sizeof value); break;
    case MAKES: t = ag_mul(ctx, t, ag_scalar(ctx, 1.0)); break;
    case LOOKS: ag_look_away(t, t ? ag_look(ctx, t) : NULL); break;
    case WAITS: ag_wait(ctx); break;
    case FOREIGN: t = ag_add(ctx, t, f->foreign); break;
    case N_FAULTS: break;
    }
    out[0] = t;
}

static void test_given_up(void **state)
{
    static const char *const REASONS[] = {"reads values back", "brings values", "brings values", "reads values back",
                                          "waits", "reads a tensor of another step"};
    ag_ctx *ctx = check_ctx();
    const bool is_cuda = ag_ctx_device(ctx) == AG_CUDA;

    (void)state;
    for (int k = 0; k < N_FAULTS; k++) {
        const ag_scope scope = ag_scope_open(ctx);
        faulty f = {.fault = (fault)k, .model = ag_full(ctx, AG_MODEL, 1.0, 0, NULL)};
        ag_replay *replay = NULL;
        f.foreign = ag_full(ctx, AG_STEP, 0.0, 0, NULL);
        ag_replay_new(&replay, ctx, NULL);
        for (int i = 0; i < 4; i++) {
            ag_tensor *in = ag_full(ctx, AG_STEP, i, 0, NULL), *out = NULL;
            float got = NAN;
            ag_replay_run(replay, &(ag_replay_work){.fn = do_fault, .user = &f, .in = &in, .n_in = 1, .n_out = 1},
                          &out);
            check_ok(ctx, "a step that cannot be recorded");
            ag_read(ctx, out, &got, sizeof got);
            assert_true(got == 3.0f * (float)i);
        }
        assert_int_equal(ag_replay_counted(replay).plain, 4);
        assert_int_equal(ag_replay_counted(replay).given_up, is_cuda);
        if (is_cuda && !strstr(ag_replay_reason(replay), REASONS[k]))
            fail_msg("fault %d: given up because \"%s\"", k, ag_replay_reason(replay));
        ag_replay_free(replay);
        ag_release(f.model);
        ag_scope_close(ctx, scope, NULL);
    }
    ag_ctx_free(ctx);
}

static void keep_one(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    out[0] = ag_scale(ctx, in[0], 2.0);
    *(ag_tensor **)user = ag_retain(out[0]);
}

static void test_kept_tensors_are_refused(void **state)
{
    ag_ctx *ctx = check_ctx();
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *in = ag_full(ctx, AG_STEP, 1.0, 0, NULL), *out, *kept = NULL;
    ag_replay *replay = NULL;

    (void)state;
    ag_replay_new(&replay, ctx, NULL);
    ag_replay_run(replay, &(ag_replay_work){.fn = keep_one, .user = &kept, .in = &in, .n_in = 1, .n_out = 1}, &out);
    if (ag_ctx_device(ctx) == AG_CUDA)
        check_failed(ctx, AG_EINVAL, "a tensor that is kept");
    check_ok(ctx, "a tensor that is kept");
    ag_release(kept);
    ag_scope_close(ctx, scope, NULL);
    ag_replay_free(replay);
    ag_ctx_free(ctx);
}

static void times_model(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    out[0] = ag_mul(ctx, in[0], *(ag_tensor **)user);
}

/* A tensor that a graph knows is let go, and another takes its place. */
static void test_stale_graphs_are_recorded_anew(void **state)
{
    ag_ctx *ctx = check_ctx();
    ag_tensor *model = ag_full(ctx, AG_MODEL, 2.0, 0, NULL), *between;
    ag_replay *replay = NULL;

    (void)state;
    ag_replay_new(&replay, ctx, NULL);
    for (int i = 0; i < 8; i++) {
        const ag_scope scope = ag_scope_open(ctx);
        ag_tensor *in = ag_full(ctx, AG_STEP, i, 0, NULL), *out = NULL;
        float got = NAN;
        if (i == 4) {
            ag_release(model);
            between = ag_full(ctx, AG_MODEL, 9.0, 0, NULL);
            model = ag_full(ctx, AG_MODEL, 5.0, 0, NULL);
            ag_release(between);
        }
        ag_replay_run(replay, &(ag_replay_work){.fn = times_model, .user = &model, .in = &in, .n_in = 1, .n_out = 1},
                      &out);
        check_ok(ctx, "a step");
        ag_read(ctx, out, &got, sizeof got);
        assert_true(got == (float)i * (i < 4 ? 2.0f : 5.0f));
        ag_scope_close(ctx, scope, NULL);
    }
    assert_int_equal(ag_replay_counted(replay).recorded, ag_ctx_device(ctx) == AG_CUDA ? 2 : 0);
    ag_release(model);
    ag_replay_free(replay);
    ag_ctx_free(ctx);
}

static void count_calls(void *user, const ag_call *call, const ag_cost *cost, double seconds)
{
    (void)call;
    (void)cost;
    (void)seconds;
    ++*(int *)user;
}

/* Who watches sees every op. */
static void test_observed_steps_run_as_they_are(void **state)
{
    ag_ctx *ctx = check_ctx();
    int first = 0, later = 0;
    net n;

    (void)state;
    net_new(&n, ctx, NULL);
    ag_observe(ctx, count_calls, &first);
    one_step(&n, 0, 1, NULL);
    ag_observe(ctx, NULL, NULL);
    for (int k = 0; k < 4; k++)
        one_step(&n, k, 1, NULL);
    ag_observe(ctx, count_calls, &later);
    one_step(&n, 0, 1, NULL);
    ag_observe(ctx, NULL, NULL);
    check_ok(ctx, "steps");
    assert_true(first > 10);
    assert_int_equal(first, later);
    net_free(&n);
    ag_ctx_free(ctx);
}

/* --- beside repeated steps ------------------------------------------------------------------------ */

enum { LARGE = 1 << 16 };

static ag_status beside(ag_ctx *ctx, void *user)
{
    float *sum = user;
    ag_tensor *t = ag_full(ctx, AG_STEP, 0.5, 1, DIMS(LARGE));

    for (int i = 0; i < 3; i++)
        t = ag_scale(ctx, t, 2.0);
    t = ag_mean(ctx, t, AG_ALL_AXES, false);
    return t ? ag_read(ctx, t, sum, sizeof *sum) : ag_status_of(ctx);
}

/* Of more memory than a device gives at a time. */
static void large(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out)
{
    ag_tensor *t = ag_broadcast(ctx, in[0], 1, DIMS(LARGE));

    (void)user;
    for (int i = 0; i < 3; i++)
        t = ag_scale(ctx, t, 2.0);
    out[0] = ag_mean(ctx, t, AG_ALL_AXES, false);
}

static void run_large(net *n, float value)
{
    const ag_scope scope = ag_scope_open(n->ctx);
    ag_tensor *in = ag_full(n->ctx, AG_STEP, value, 1, DIMS(1)), *out;
    float got = NAN;

    ag_replay_run(n->replay, &(ag_replay_work){.kind = 2, .fn = large, .in = &in, .n_in = 1, .n_out = 1}, &out);
    ag_read(n->ctx, out, &got, sizeof got);
    assert_true(got == 8.0f * value);
    ag_scope_close(n->ctx, scope, NULL);
}

static ag_status keeps(ag_ctx *ctx, void *user)
{
    *(ag_tensor **)user = ag_retain(ag_full(ctx, AG_STEP, 1.0, 0, NULL));
    return ag_status_of(ctx);
}

/* Other work between repeated steps, in their memory, and steps go on with the same bits. */
static void test_beside(void **state)
{
    static trace want;
    ag_ctx *ctx = check_ctx();
    float got[WIDE * WIDE];
    ag_tensor *kept = NULL;
    net n;

    (void)state;
    train(&want, NULL, 2);
    net_new(&n, ctx, NULL);
    for (int64_t k = 0; k < STEPS; k++) {
        float sum = 0.0f;
        one_step(&n, k, 2, NULL);
        run_large(&n, (float)k);
        ag_replay_beside(n.replay, beside, &sum);
        ag_trim(ctx);
        check_ok(ctx, "beside");
        assert_true(sum == 4.0f);
    }
    ag_read(ctx, n.params[0], got, sizeof got);
    check_ok(ctx, "reading");
    assert_memory_equal(got, want.params[0], sizeof got);
    ag_replay_beside(n.replay, keeps, &kept);
    if (ag_ctx_device(ctx) == AG_CUDA)
        check_failed(ctx, AG_EINVAL, "a tensor that is kept");
    check_ok(ctx, "a tensor that is kept");
    ag_release(kept);
    net_free(&n);
    ag_ctx_free(ctx);
}

/* --- waiting and taking -------------------------------------------------------------------------- */

static void test_steady_steps_wait_for_nothing(void **state)
{
    ag_ctx *ctx = check_ctx();
    long waits, event_waits, takes, kernels, graphs;
    ag_mail *mails[2];
    net n;

    (void)state;
    if (!cuda_host_count || ag_ctx_device(ctx) != AG_CUDA) {
        print_message("SKIP counting waits: the program is not linked with the stand-ins\n");
        ag_ctx_free(ctx);
        return;
    }
    net_new(&n, ctx, NULL);
    for (int i = 0; i < 2; i++)
        ag_mail_new(&mails[i], ctx, MAIL_BYTES);
    for (int64_t k = 0; k < 4; k++)
        one_step(&n, k, 2, mails[k % 2]);
    waits = cuda_host_count(CUDA_HOST_WAITS);
    event_waits = cuda_host_count(CUDA_HOST_EVENT_WAITS);
    takes = cuda_host_count(CUDA_HOST_TAKES);
    kernels = cuda_host_count(CUDA_HOST_KERNELS);
    graphs = cuda_host_count(CUDA_HOST_GRAPHS);
    for (int64_t k = 4; k < 10; k++) {
        one_step(&n, k, 2, mails[k % 2]);
        assert_non_null(ag_mail_open(mails[(k + 1) % 2])); /* of the step before */
    }
    check_ok(ctx, "steps");
    assert_int_equal(cuda_host_count(CUDA_HOST_WAITS), waits);
    assert_int_equal(cuda_host_count(CUDA_HOST_EVENT_WAITS), event_waits + 6);
    assert_int_equal(cuda_host_count(CUDA_HOST_TAKES), takes);
    assert_int_equal(cuda_host_count(CUDA_HOST_KERNELS), kernels);
    assert_int_equal(cuda_host_count(CUDA_HOST_GRAPHS), graphs + 12);
    for (int i = 0; i < 2; i++)
        ag_mail_free(mails[i]);
    net_free(&n);
    ag_ctx_free(ctx);
}

/* Writes go round the staging ring several times, while what was written before is still to be read. */
static void test_many_writes(void **state)
{
    enum { N = 40, FLOATS = 1 << 19 };
    ag_ctx *ctx = check_ctx();
    const ag_scope scope = ag_scope_open(ctx);
    float *values = malloc(FLOATS * sizeof *values), sums[N];
    ag_tensor *t = ag_empty(ctx, AG_STEP, AG_F32, 1, DIMS(FLOATS)), *sum[N];

    (void)state;
    assert_non_null(values);
    for (int k = 0; k < N; k++) { /* the same tensor every time: a copy that comes too early or late is seen */
        for (int i = 0; i < FLOATS; i++)
            values[i] = (float)(k + 1);
        ag_write(ctx, t, values, FLOATS * sizeof *values);
        sum[k] = ag_mean(ctx, t, AG_ALL_AXES, false);
    }
    for (int k = 0; k < N; k++) {
        ag_read(ctx, sum[k], &sums[k], sizeof sums[k]);
        assert_true(sums[k] == (float)(k + 1));
    }
    free(values);
    ag_scope_close(ctx, scope, NULL);
    ag_ctx_free(ctx);
}

static void test_mail(void **state)
{
    ag_ctx *ctx = check_ctx();
    const ag_scope scope = ag_scope_open(ctx);
    ag_mail *mail = NULL;
    const float *got;
    ag_tensor *t = ag_full(ctx, AG_STEP, 1.0, 0, NULL);

    (void)state;
    ag_mail_new(&mail, ctx, 2 * sizeof(float));
    ag_mail_post(mail, sizeof(float), t);
    ag_mail_post(mail, 0, ag_scale(ctx, t, 2.0));
    ag_mail_send(mail);
    ag_fill_(ctx, t, 7.0); /* later */
    got = ag_mail_open(mail);
    check_ok(ctx, "mail");
    assert_true(ag_mail_is_here(mail));
    assert_true(got[0] == 2.0f && got[1] == 1.0f);
    ag_mail_post(mail, 5, t);
    check_failed(ctx, AG_ESHAPE, "past the end");
    ag_mail_post(mail, 0, NULL);
    check_failed(ctx, AG_ESHAPE, "nothing");
    ag_mail_free(mail);
    ag_scope_close(ctx, scope, NULL);
    ag_ctx_free(ctx);
}

/* --- failures ------------------------------------------------------------------------------------ */

/* Four steps with the k-th allocation refused; returns whether one was. */
static bool refuse_one(int64_t k)
{
    ag_ctx *ctx = check_ctx();
    net n;
    bool refused;

    net_new(&n, ctx, NULL);
    ag_refuse_allocation(ctx, k, false);
    for (int64_t i = 0; i < 4; i++)
        one_step(&n, i, 1, NULL);
    refused = ag_status_of(ctx) != AG_OK;
    if (refused)
        check_failed(ctx, AG_ENOMEM, "a refused allocation");
    ag_refuse_allocation(ctx, -1, false);
    net_free(&n);
    ag_ctx_free(ctx);
    return refused;
}

static void test_memory_refused(void **state)
{
    int n_refused = 0;

    (void)state;
    for (int64_t k = 0; k < 400; k += 3)
        n_refused += refuse_one(k);
    assert_true(n_refused > 10);
}

/* Every call of the device fails in turn: a status, or the right values. */
static void test_failing_calls(void **state)
{
    static trace want;
    int n_failed = 0, n_passed = 0;

    (void)state;
    if (!cuda_host_fail_in || !on_device()) {
        print_message("SKIP failing calls: the program is not linked with the stand-ins\n");
        return;
    }
    train(&want, NULL, 1);
    for (long k = 0; k < 400; k += 7) {
        ag_ctx *ctx = check_ctx();
        float got[WIDE * WIDE];
        net n;
        net_new(&n, ctx, NULL);
        cuda_host_fail_in(k, false);
        for (int64_t i = 0; i < STEPS; i++)
            one_step(&n, i, 1, NULL);
        cuda_host_fail_in(-1, false);
        if (ag_status_of(ctx) == AG_OK) {
            ag_read(ctx, n.params[0], got, sizeof got);
            check_ok(ctx, "reading");
            for (int i = 0; i < WIDE * WIDE; i++) /* not the bits: products without a library are summed otherwise */
                check_close("parameter", i, got[i], want.params[0][i], 1e-6, 1e-5);
            n_passed++;
        } else {
            assert_true(ag_status_of(ctx) == AG_EDEVICE || ag_status_of(ctx) == AG_ENOMEM);
            check_failed(ctx, ag_status_of(ctx), "a failed call");
            n_failed++;
        }
        net_free(&n);
        ag_ctx_free(ctx);
    }
    assert_true(n_failed > 10);
    assert_true(n_passed > 0); /* a recording that failed is given up, and the step runs as it is */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_least_recently_used_goes),
        cmocka_unit_test(test_given_up),
        cmocka_unit_test(test_kept_tensors_are_refused),
        cmocka_unit_test(test_stale_graphs_are_recorded_anew),
        cmocka_unit_test(test_observed_steps_run_as_they_are),
        cmocka_unit_test(test_beside),
        cmocka_unit_test(test_steady_steps_wait_for_nothing),
        cmocka_unit_test(test_many_writes),
        cmocka_unit_test(test_mail),
        cmocka_unit_test(test_memory_refused),
        cmocka_unit_test(test_failing_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
