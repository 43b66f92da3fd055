/* test_adapter_memory.c - what a network with adapters takes and keeps.
 *
 * frozen     weights that are frozen keep no input and get no gradient
 * steady     an update's passes call no malloc and touch no new memory
 * forecast   on AG_META the same bytes, without values
 * refused    memory refused at any place gives an error, and nothing leaks
 */
#include "autograd/grad.h"
#include "nn/adapter.h"
#include "nn/init.h"
#include "nn/layers.h"
#include "nn/unet.h"
#include "tests/malloc_check.h"
#include "tests/nn_cases.h"

/* --- frozen --------------------------------------------------------------------------------------- */

enum { ROWS = 64, WIDTH = 256, RANK = 4 };

/* Bytes that are alive beside x and y once a layer has run and only its result is kept. */
static size_t kept_by_layer(ag_ctx *ctx, const nn_linear_layer *layer)
{
    const ag_scope whole = ag_scope_open(ctx);
    ag_tensor *x = ag_full(ctx, AG_STEP, 0.5, 2, (int64_t[]){ROWS, WIDTH}), *h, *y;
    size_t kept;
    ag_scope scope;

    ag_set_requires_grad(ctx, x, true);
    kept = ag_bytes_now(ctx, AG_STEP);
    scope = ag_scope_open(ctx);
    h = ag_scale(ctx, x, 2.0); /* lives on only if the layer keeps it */
    y = ag_scope_close(ctx, scope, nn_linear(ctx, layer, h));
    check_ok(ctx, "a layer");
    kept = ag_bytes_now(ctx, AG_STEP) - kept - ag_nbytes(y);
    ag_scope_close(ctx, whole, NULL);
    return kept;
}

static void test_frozen(void **state)
{
    static const char *const ALL[] = {"*"};
    const nn_lora_config lora = {.rank = RANK, .targets = ALL, .n_targets = 1};
    const size_t input = ROWS * WIDTH * sizeof(float), thin = ROWS * RANK * sizeof(float);
    ag_ctx *ctx = check_ctx();
    nn_params *params = NULL;
    nn_adapters *set = NULL;
    nn_linear_layer layer;

    (void)state;
    nn_params_new(&params, ctx);
    nn_linear_declare(params, &layer, "to_q", WIDTH, WIDTH, true, NN_AS_IS, false);
    nn_params_alloc(ctx, params, AG_F32);
    nn_params_rule(ctx, params);
    nn_params_train(ctx, params, NULL, true);
    assert_true(kept_by_layer(ctx, &layer) >= input);
    nn_params_train(ctx, params, NULL, false);
    assert_int_equal(kept_by_layer(ctx, &layer), 0);
    nn_adapters_new(&set, ctx, params, &lora);
    check_ok(ctx, "adapters");
    assert_in_range(kept_by_layer(ctx, &layer), input + thin, input + thin + 1024); /* A's x, B's u */
    nn_params_train(ctx, nn_adapters_params(set), NULL, false);
    assert_int_equal(kept_by_layer(ctx, &layer), 0);
    nn_adapters_free(set);
    nn_params_free(params);
    ag_ctx_free(ctx);
}

/* --- a small U-Net with everything on ---------------------------------------------------------------- */

typedef struct net {
    nn_unet *unet;
    nn_adapters *set;
    ag_tensor **factors, **grads;
    int64_t n;
} net;

static void net_new(net *n, ag_ctx *ctx)
{
    static const char *const ALL[] = {"*"};
    const nn_lora_config lora = {.rank = 1, .conv_rank = 2, .alpha = 0.5, .dropout = 0.25, .dora = true,
                                 .targets = ALL, .n_targets = 1, .seed = 3};
    const nn_unet_config config = case_unet_e();

    *n = (net){.unet = NULL};
    if (nn_unet_new(&n->unet, ctx, &config) != AG_OK ||
        nn_params_alloc(ctx, nn_unet_params(n->unet), AG_BF16) != AG_OK ||
        nn_params_rule(ctx, nn_unet_params(n->unet)) != AG_OK ||
        nn_adapters_new(&n->set, ctx, nn_unet_params(n->unet), &lora) != AG_OK ||
        !(n->factors = ag_new(ctx, (size_t)nn_params_count(nn_adapters_params(n->set)), sizeof *n->factors, "test")))
        return;
    n->n = nn_params_trainable(nn_adapters_params(n->set), n->factors);
    n->grads = ag_new(ctx, (size_t)n->n, sizeof *n->grads, "test");
    for (int64_t i = 0; n->grads && i < n->n; i++)
        n->grads[i] = ag_full(ctx, AG_MODEL, 0.0, ag_ndim(n->factors[i]), ag_dims(n->factors[i]));
}

static void net_free(net *n)
{
    for (int64_t i = 0; n->grads && i < n->n; i++)
        ag_release(n->grads[i]);
    ag_delete(n->grads);
    ag_delete(n->factors);
    nn_adapters_free(n->set);
    nn_unet_free(n->unet);
}

/* Forward and backward. */
static void step(ag_ctx *ctx, net *n, uint32_t at, bool recompute)
{
    const nn_unet_options options = {.checkpointing = recompute};
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *y;

    nn_adapters_set_step(n->set, at, true);
    y = nn_unet_forward(ctx, n->unet, ag_full(ctx, AG_STEP, 0.5, 4, (int64_t[]){1, 6, 5, 4}),
                        ag_full(ctx, AG_STEP, 42.0, 1, (int64_t[]){1}),
                        ag_full(ctx, AG_STEP, 0.25, 3, (int64_t[]){1, 3, 5}), &options);
    if (y)
        ag_grad(ctx, &y, NULL, 1, n->factors, n->grads, (int)n->n, 0);
    ag_scope_close(ctx, scope, NULL);
}

static void test_steady(void **state)
{
    ag_ctx *ctx = check_ctx();
    net n;

    (void)state;
    net_new(&n, ctx);
    check_ok(ctx, "a net with adapters");
    for (int recompute = 0; recompute < 2; recompute++) {
        size_t touched;

        for (uint32_t i = 0; i < 2; i++)
            step(ctx, &n, i, recompute);
        touched = ag_bytes_touched(ctx);
        check_malloc_begin();
        for (uint32_t i = 2; i < 6; i++)
            step(ctx, &n, i, recompute);
        check_malloc_end("four steady steps");
        check_ok(ctx, "steps");
        assert_int_equal(ag_bytes_touched(ctx), touched);
        assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
        assert_int_equal(ag_bytes_now(ctx, AG_SCRATCH), 0);
    }
    net_free(&n);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    ag_ctx_free(ctx);
}

static void test_forecast(void **state)
{
    size_t peak[2][AG_N_LIFETIMES];

    (void)state;
    for (int meta = 0; meta < 2; meta++) {
        ag_ctx *ctx = check_ctx_on(meta ? AG_META : AG_CPU);
        net n;

        net_new(&n, ctx);
        step(ctx, &n, 1, true);
        check_ok(ctx, meta ? "a step on meta" : "a step");
        for (int l = 0; l < AG_N_LIFETIMES; l++)
            peak[meta][l] = ag_bytes_peak(ctx, (ag_lifetime)l);
        net_free(&n);
        ag_ctx_free(ctx);
    }
    for (int l = 0; l < AG_N_LIFETIMES; l++)
        assert_int_equal(peak[0][l], peak[1][l]);
}

/* Refuse allocation k. Returns whether there was one. */
static bool refuse_one(int64_t k)
{
    ag_ctx *ctx = check_ctx();
    bool refused;
    net n;

    ag_refuse_allocation(ctx, k, k % 2);
    net_new(&n, ctx);
    if (ag_status_of(ctx) == AG_OK)
        step(ctx, &n, 0, k % 3 == 0);
    refused = ag_status_of(ctx) != AG_OK;
    ag_refuse_allocation(ctx, -1, false);
    if (refused)
        check_failed(ctx, AG_ENOMEM, "refused memory");
    net_free(&n);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    ag_ctx_free(ctx);
    return refused;
}

static void test_refused(void **state)
{
    int64_t k = 0;

    (void)state;
    for (; refuse_one(k); k += 1 + k / 64) /* every place at first, then a sample */
        continue;
    assert_true(k > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_steady),
        cmocka_unit_test(test_forecast),
        cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests_name("adapter memory", tests, NULL, NULL);
}
