/* test_nn_judge.c - the face judge against the same network in PyTorch's layers. */
#include "nn/face_judge.h"
#include "tests/nn_check.h"

static nn_face_judge *make_judge(ag_ctx *ctx)
{
    const nn_judge_config config = {
        .resolution = 32, .n_outputs = 5, .channels = {8, 12, 16, 20}, .hidden = 14, .norm_num_groups = 4};
    nn_face_judge *net = NULL;

    if (nn_face_judge_new(&net, ctx, &config) != AG_OK)
        fail_msg("%s", ag_message(ctx));
    check_fill(ctx, nn_face_judge_params(net));
    return net;
}

static void test_golden(void **state)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "nn_judge", "a");
    const ag_scope scope = ag_scope_open(ctx);
    nn_face_judge *net = make_judge(ctx);
    nn_params *params = nn_face_judge_params(net);
    ag_tensor *pixels = golden_tensor(&g, "pixels"), *dy = golden_tensor(&g, "cotangent"), *y, **grads;
    (void)state;

    ag_set_requires_grad(ctx, pixels, true);
    y = nn_face_judge_forward(ctx, net, pixels);
    golden_check(&g, "output", y, NN_TOLERANCE);
    grads = check_grads(ctx, params, &y, &dy, 1, &pixels, 1);
    golden_check_params(&g, params, grads, NN_TOLERANCE);
    golden_check(&g, "grad_in.pixels", grads[nn_params_count(params)], NN_TOLERANCE);
    free(grads);
    ag_scope_close(ctx, scope, NULL);
    nn_face_judge_free(net);
    assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

/* What the network's outputs are worth is written beside its weights and never learned. */
static void test_scales(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_face_judge *net = make_judge(ctx);
    const nn_params *params = nn_face_judge_params(net);
    int64_t trained = 0;
    (void)state;

    assert_int_equal(nn_face_judge_train(ctx, net, true), AG_OK);
    for (int64_t i = 0; i < nn_params_count(params); i++)
        trained += nn_params_at(params, i)->trainable;
    assert_int_equal(trained, nn_params_count(params) - NN_JUDGE_N_SCALES);
    for (int i = 0; i < NN_JUDGE_N_SCALES; i++) {
        const nn_param *scale = nn_face_judge_scale(net, (nn_judge_scale)i);

        assert_false(scale->trainable);
        assert_int_equal(scale->numel, 5);
    }
    assert_int_equal(nn_face_judge_train(ctx, net, false), AG_OK);
    for (int64_t i = 0; i < nn_params_count(params); i++)
        assert_false(nn_params_at(params, i)->trainable);
    nn_face_judge_free(net);
    ag_ctx_free(ctx);
}

static void test_refusals(void **state)
{
    const nn_judge_config good = nn_face_judge_defaults(3);
    nn_judge_config bad[5] = {good, good, good, good, good};
    ag_ctx *ctx = check_ctx();
    nn_face_judge *net = NULL;
    (void)state;

    bad[0].resolution = 40;
    bad[1].n_outputs = 0;
    bad[2].channels[3] = 0;
    bad[3].norm_num_groups = 5;
    bad[4].hidden = 1 << 20;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(nn_face_judge_new(&net, ctx, &bad[i]), AG_EINVAL);
        assert_null(net);
        ag_clear(ctx);
    }
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
