/* test_device_errors.c - every call of the device fails in turn: while it is opened, and during a short training step.
 *
 * Each comes back as a status whose message names an op or what was being done, nothing is lost, and the context can
 * be used again. The stand-ins of tests/cuda_host/ fail calls on demand; what is left at the end of the program they
 * tell themselves.
 */
#include "tests/check.h"

#include "autograd/grad.h"
#include "autograd/op.h"
#include "autograd/ops.h"
#include "optim/optimizer.h"
#include "tests/cuda_host/cuda_host.h"

#pragma weak cuda_host_fail_in

enum { SIDE = 4, WIDE = 8, N_PARAMS = 6 };
enum { CONV, NORM_SCALE, NORM_SHIFT, TABLE, UP, DOWN };

/* A convolution, group norm, attention over words, GEGLU: what a block of a U-Net is made of. */
typedef struct net {
    ag_ctx *ctx;
    ag_tensor *params[N_PARAMS], *grads[N_PARAMS];
    opt_optimizer *opt;
} net;

static const struct {
    const char *name;
    int n_dims;
    int64_t dims[4];
} PARAMS[N_PARAMS] = {[CONV] = {"conv", 4, {WIDE, 3, 3, WIDE}}, [NORM_SCALE] = {"scale", 1, {WIDE}},
                      [NORM_SHIFT] = {"shift", 1, {WIDE}},      [TABLE] = {"table", 2, {5, WIDE}},
                      [UP] = {"up", 2, {2 * WIDE, WIDE}},       [DOWN] = {"down", 2, {WIDE, WIDE}}};
static const char *const NAMES[N_PARAMS] = {"conv", "scale", "shift", "table", "up", "down"};

static void net_new(net *n, ag_ctx *ctx)
{
    const opt_config config = opt_defaults(OPT_ADAMW);
    float values[WIDE * 3 * 3 * WIDE];
    uint64_t seed = 3;

    *n = (net){.ctx = ctx};
    for (int i = 0; i < N_PARAMS; i++) {
        n->params[i] = ag_full(ctx, AG_MODEL, 0.0, PARAMS[i].n_dims, PARAMS[i].dims);
        n->grads[i] = ag_full(ctx, AG_MODEL, 0.0, PARAMS[i].n_dims, PARAMS[i].dims);
        for (int64_t k = 0; k < ag_numel(n->params[i]); k++)
            values[k] = (float)check_uniform(&seed, -0.5, 0.5);
        ag_write(ctx, n->params[i], values, ag_nbytes(n->params[i]));
        ag_set_requires_grad(ctx, n->params[i], true);
    }
    opt_new(&n->opt, ctx, &config, &(opt_params){.n = N_PARAMS, .tensors = n->params, .names = NAMES});
    check_ok(ctx, "a network");
}

static void net_free(net *n)
{
    opt_free(n->opt);
    for (int i = 0; i < N_PARAMS; i++) {
        ag_release(n->params[i]);
        ag_release(n->grads[i]);
    }
}

static ag_tensor *loss_of(const net *n)
{
    static const int64_t IDS[] = {0, 3, 1, 4, 2, 2};
    ag_ctx *ctx = n->ctx;
    const int64_t rows[] = {2, SIDE * SIDE, WIDE};
    float values[2 * SIDE * SIDE * WIDE];
    uint64_t seed = 17;
    ag_tensor *words = ag_embedding(ctx, n->params[TABLE], ag_from_i64(ctx, IDS, 2, (int64_t[]){2, 3})), *x, *h;

    for (int i = 0; i < 2 * SIDE * SIDE * WIDE; i++)
        values[i] = (float)check_uniform(&seed, -1.0, 1.0);
    x = ag_from_f32(ctx, values, 4, (int64_t[]){2, SIDE, SIDE, WIDE});
    h = ag_conv2d(ctx, x, n->params[CONV], NULL,
                  (ag_conv_opts){.pad_top = 1, .pad_bottom = 1, .pad_left = 1, .pad_right = 1});
    h = ag_group_norm(ctx, h, n->params[NORM_SCALE], n->params[NORM_SHIFT], 2, 1e-5, true);
    h = ag_reshape(ctx, h, 3, rows);
    h = ag_add(ctx, h, ag_attention(ctx, h, words, words, 2, 0, false));
    h = ag_dropout(ctx, h, 0.1, (ag_draw){.seed = 5, .purpose = AG_DRAW_TEST}, NULL);
    h = ag_layer_norm(ctx, h, NULL, NULL, 1e-5);
    h = ag_linear(ctx, ag_geglu(ctx, ag_linear(ctx, h, n->params[UP], NULL)), n->params[DOWN], NULL);
    h = ag_row_loss(ctx, AG_LOSS_L2, h, ag_reshape(ctx, x, 3, rows), 0.0);
    return ag_mean(ctx, h, AG_ALL_AXES, false);
}

/* A step: loss, gradients, an update, and what it saw. NAN with the context failed. */
static double one_step(net *n)
{
    ag_ctx *ctx = n->ctx;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *loss = NULL;
    opt_sight seen = {.grad_norm = NAN};
    float value = NAN;

    loss = loss_of(n);
    ag_grad(ctx, &loss, NULL, 1, n->params, n->grads, N_PARAMS, 0);
    if (ag_status_of(ctx) == AG_OK)
        ag_read(ctx, loss, &value, sizeof value);
    if (ag_status_of(ctx) == AG_OK && opt_update(ctx, n->opt, n->grads, 1, 0.01, 1.0, 1.0) == AG_OK)
        opt_look(&seen, ctx, n->opt);
    ag_scope_close(ctx, scope, NULL);
    return (double)value + seen.grad_norm;
}

static bool names_a_place(const char *message)
{
    static const char *const OTHERS[] = {"a copy to the device", "a copy from the device", "memory", "a stream",
                                         "device cuda", "the device", "an event", "the driver", "queued up to"};

    for (int i = 0; ag_op_list[i]; i++)
        if (strstr(message, ag_op_list[i]->name))
            return true;
    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS; i++)
        if (strstr(message, OTHERS[i]))
            return true;
    return false;
}

static void check_message(ag_ctx *ctx, long call)
{
    if (ag_status_of(ctx) != AG_EDEVICE && ag_status_of(ctx) != AG_ENOMEM)
        fail_msg("call %ld: %s: %s", call, ag_status_name(ag_status_of(ctx)), ag_message(ctx));
    if (!names_a_place(ag_message(ctx)))
        fail_msg("call %ld: \"%s\" does not say where", call, ag_message(ctx));
    check_failed(ctx, ag_status_of(ctx), "a failed call");
}

static bool has_stand_ins(void)
{
    if (cuda_host_fail_in && check_device() == AG_CUDA)
        return true;
    print_message("SKIP failing calls: the program is not linked with the stand-ins\n");
    return false;
}

static void test_opening(void **state)
{
    bool is_open = false;

    (void)state;
    if (!has_stand_ins())
        return;
    for (long call = 0; !is_open; call++) {
        ag_ctx *ctx;
        cuda_host_fail_in(call, false);
        ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CUDA, .n_threads = 1});
        cuda_host_fail_in(-1, false);
        assert_non_null(ctx);
        is_open = ag_status_of(ctx) == AG_OK;
        if (!is_open)
            check_message(ctx, call);
        assert_true(!is_open || call > 5);
        ag_ctx_free(ctx);
    }
}

/* Call `call` of a step fails, and all behind it if `forever`. */
static void fail_one(long call, bool forever, double want, int *n_failed)
{
    ag_ctx *ctx = check_ctx();
    size_t before;
    double got;
    net n;

    net_new(&n, ctx);
    before = ag_bytes_now(ctx, AG_MODEL);
    assert_int_equal(ag_wait(ctx), AG_OK);
    cuda_host_fail_in(call, forever);
    got = one_step(&n);
    cuda_host_fail_in(-1, false);
    if (ag_status_of(ctx) == AG_OK) {
        check_close("loss and norm", call, got, want, 0.0, 1e-5); /* done in another way, or not reached */
    } else {
        check_message(ctx, call);
        *n_failed += 1;
    }
    assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_SCRATCH), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), before);
    assert_int_equal(ag_wait(ctx), AG_OK);
    net_free(&n);
    ag_ctx_free(ctx);
}

static void test_step(void **state)
{
    ag_ctx *ctx;
    double want;
    int n_failed = 0, n_silent = 0, n_calls;
    net n;

    (void)state;
    if (!has_stand_ins())
        return;
    ctx = check_ctx();
    net_new(&n, ctx);
    want = one_step(&n);
    check_ok(ctx, "a step");
    net_free(&n);
    ag_ctx_free(ctx);
    for (long call = 0; n_silent < 150; call++) { /* so many in a row that do not fail are behind the end */
        const int before = n_failed;
        fail_one(call, false, want, &n_failed);
        n_silent = n_failed > before ? 0 : n_silent + 1;
    }
    n_calls = n_failed;
    printf("%d calls of a step fail it\n", n_calls);
    assert_true(n_calls > 60);
    for (long call = 0; call < n_calls; call += 7)
        fail_one(call, true, want, &n_failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opening),
        cmocka_unit_test(test_step),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
