/* test_nn_vae.c - the autoencoder against diffusers' AutoencoderKL. */
#include "tests/nn_cases.h"
#include "tests/nn_check.h"

static nn_vae *make_vae(ag_ctx *ctx, const nn_vae_config *config, bool shrunk)
{
    nn_vae *net = NULL;

    if (nn_vae_new(&net, ctx, config) != AG_OK)
        fail_msg("%s", ag_message(ctx));
    check_fill(ctx, nn_vae_params(net));
    if (shrunk)
        check_shrink(ctx, nn_vae_params(net));
    return net;
}

static void run_encode(const char *test, const nn_vae_config *config, bool shrunk)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "nn_vae", test);
    const ag_scope scope = ag_scope_open(ctx);
    nn_vae *net = make_vae(ctx, config, shrunk);
    nn_params *params = nn_vae_params(net);
    const int64_t n = nn_params_count(params);
    ag_tensor *pixels = golden_tensor(&g, "pixels"), *y[2], *dy[2], **grads[2];

    ag_set_requires_grad(ctx, pixels, true);
    dy[0] = golden_tensor(&g, "cotangent_mean");
    dy[1] = golden_tensor(&g, "cotangent_logvar");
    for (int recompute = 0; recompute < 2; recompute++) {
        ag_tensor *moments =
            nn_vae_encode(ctx, net, pixels, &(nn_vae_options){.checkpointing = recompute == 1});

        y[0] = nn_vae_mean(ctx, net, moments);
        y[1] = nn_vae_logvar(ctx, net, moments);
        golden_check(&g, "mean", y[0], NN_TOLERANCE);
        golden_check(&g, "logvar", y[1], NN_TOLERANCE);
        golden_check(&g, "kl", nn_vae_kl(ctx, net, moments), NN_TOLERANCE);
        grads[recompute] = check_grads(ctx, params, y, dy, 2, &pixels, 1);
    }
    golden_check_params(&g, params, grads[0], NN_TOLERANCE);
    golden_check(&g, "grad_in.pixels", grads[0][n], NN_TOLERANCE);
    for (int64_t i = 0; i <= n; i++)
        check_same(ctx, i < n ? nn_params_at(params, i)->name : "pixels", grads[0][i], grads[1][i]);
    free(grads[0]);
    free(grads[1]);
    ag_scope_close(ctx, scope, NULL);
    nn_vae_free(net);
    assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

static void run_decode(const char *test, const nn_vae_config *config, bool shrunk)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "nn_vae", test);
    const ag_scope scope = ag_scope_open(ctx);
    nn_vae *net = make_vae(ctx, config, shrunk);
    nn_params *params = nn_vae_params(net);
    const int64_t n = nn_params_count(params);
    ag_tensor *latent = golden_tensor(&g, "latent"), *dy = golden_tensor(&g, "cotangent");
    ag_tensor **grads[2];

    ag_set_requires_grad(ctx, latent, true);
    for (int recompute = 0; recompute < 2; recompute++) {
        ag_tensor *y =
            nn_vae_decode(ctx, net, latent, &(nn_vae_options){.checkpointing = recompute == 1});

        golden_check(&g, "output", y, NN_TOLERANCE);
        grads[recompute] = check_grads(ctx, params, &y, &dy, 1, &latent, 1);
    }
    golden_check_params(&g, params, grads[0], NN_TOLERANCE);
    golden_check(&g, "grad_in.latent", grads[0][n], NN_TOLERANCE);
    for (int64_t i = 0; i <= n; i++)
        check_same(ctx, i < n ? nn_params_at(params, i)->name : "latent", grads[0][i], grads[1][i]);
    free(grads[0]);
    free(grads[1]);
    ag_scope_close(ctx, scope, NULL);
    nn_vae_free(net);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

static void two_levels(void **state)
{
    const nn_vae_config config = case_vae_a();

    (void)state;
    run_encode("a.encode", &config, false);
    run_decode("a.decode", &config, false);
}

static void three_levels(void **state)
{
    const nn_vae_config config = case_vae_c();

    (void)state;
    run_encode("c.encode", &config, false);
    run_decode("c.decode", &config, false);
}

static void odd_sizes(void **state)
{
    const nn_vae_config config = case_vae_d();

    (void)state;
    run_encode("d.encode", &config, false);
    run_decode("d.decode", &config, false);
}

static void small_activations(void **state)
{
    const nn_vae_config config = case_vae_f();

    (void)state;
    run_encode("f.encode", &config, true);
    run_decode("f.decode", &config, true);
}

/* mean + exp(logvar / 2) * noise, and the clamp of extreme log-variances. */
static void sampling(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_vae_config config = case_vae_a();
    nn_vae *net = make_vae(ctx, &config, false);
    const float moments[8] = {0.5f, -1.0f, 0.0f, 2.0f, 0.0f, -100.0f, 100.0f, 2.0f};
    const float noise[4] = {1.0f, 3.0f, 0.001f, -1.0f};
    const double logvar[4] = {0.0, -30.0, 20.0, 2.0};
    ag_tensor *m = ag_from_f32(ctx, moments, 4, (int64_t[]){1, 1, 1, 8});
    ag_tensor *n = ag_from_f32(ctx, noise, 4, (int64_t[]){1, 1, 1, 4});
    ag_tensor *z = nn_vae_sample(ctx, net, m, n), *kl = nn_vae_kl(ctx, net, m);
    double want_kl = 0.0;
    float got[4];

    (void)state;
    check_fine(ctx);
    assert_int_equal(ag_read(ctx, z, got, sizeof got), AG_OK);
    for (int i = 0; i < 4; i++) {
        const double want = moments[i] + exp(0.5 * logvar[i]) * noise[i];

        assert_true(fabs(got[i] - want) <= 1e-6 * (1.0 + fabs(want)));
        want_kl += 0.5 * (moments[i] * moments[i] + exp(logvar[i]) - 1.0 - logvar[i]);
    }
    assert_int_equal(ag_read(ctx, kl, got, sizeof *got), AG_OK);
    assert_true(fabs(got[0] / want_kl - 1.0) < 1e-6);
    nn_vae_free(net);
    ag_ctx_free(ctx);
}

static void bf16(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_vae_config config = case_vae_c();
    const golden e = golden_open(ctx, "nn_vae", "c.encode"),
                 d = golden_open(ctx, "nn_vae", "c.decode");
    nn_vae *net = make_vae(ctx, &config, false);
    const nn_vae_options options = {.compute = AG_BF16};
    ag_tensor *moments = nn_vae_encode(ctx, net, golden_tensor(&e, "pixels"), &options);

    (void)state;
    golden_check(&e, "mean", nn_vae_mean(ctx, net, moments), 0.15);
    golden_check(&d, "output", nn_vae_decode(ctx, net, golden_tensor(&d, "latent"), &options),
                 0.15);
    nn_vae_free(net);
    data_weights_close(e.file);
    data_weights_close(d.file);
    ag_ctx_free(ctx);
}

/* At 512 px the finest activations have 134 MB (268 MB between the last two levels of the decoder):
 * three of them and little else may be alive. */
static void memory(void **state)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_META});
    const nn_vae_config config = case_vae_sd();
    nn_vae *net = NULL;
    size_t peak[2];

    (void)state;
    assert_int_equal(nn_vae_new(&net, ctx, &config), AG_OK);
    assert_int_equal(nn_params_alloc(ctx, nn_vae_params(net), AG_F32), AG_OK);
    ag_record(ctx, false);
    for (int decode = 0; decode < 2; decode++) {
        const ag_scope scope = ag_scope_open(ctx);
        const int64_t side = decode ? 64 : 512;
        ag_tensor *x = ag_full(ctx, AG_STEP, 0.0, 4, (int64_t[]){1, side, side, decode ? 4 : 3}),
                  *y;

        ag_bytes_reset_peak(ctx);
        y = decode ? nn_vae_decode(ctx, net, x, NULL) : nn_vae_encode(ctx, net, x, NULL);
        check_fine(ctx);
        assert_int_equal(ag_dim(y, 1), decode ? 512 : 64);
        assert_int_equal(ag_dim(y, 3), decode ? 3 : 8);
        peak[decode] = ag_bytes_peak(ctx, AG_STEP);
        ag_scope_close(ctx, scope, NULL);
    }
    print_message("at 512 px: encode %.0f MB, decode %.0f MB\n", 1e-6 * (double)peak[0],
                  1e-6 * (double)peak[1]);
    assert_true(peak[0] < 3 * 134218000u + 10000000u);
    assert_true(peak[1] < 5 * 134218000u + 10000000u);
    nn_vae_free(net);
    ag_ctx_free(ctx);
}

static void wrong_inputs(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_vae_config config = case_vae_c();
    nn_vae *net = make_vae(ctx, &config, false);
    ag_tensor *x = ag_full(ctx, AG_STEP, 0.0, 4, (int64_t[]){1, 3, 4, 3});

    (void)state;
    assert_null(nn_vae_encode(ctx, net, x, NULL)); /* 3 rows, and the factor is 4 */
    assert_int_equal(ag_status_of(ctx), AG_ESHAPE);
    ag_clear(ctx);
    assert_null(nn_vae_decode(ctx, net, x, NULL));
    assert_int_equal(ag_status_of(ctx), AG_ESHAPE);
    assert_null(nn_vae_mean(ctx, net, NULL));
    ag_clear(ctx);
    nn_vae_free(net);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_levels), cmocka_unit_test(three_levels),
        cmocka_unit_test(odd_sizes),  cmocka_unit_test(small_activations),
        cmocka_unit_test(sampling),   cmocka_unit_test(bf16),
        cmocka_unit_test(memory),     cmocka_unit_test(wrong_inputs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
