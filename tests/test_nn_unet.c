/* test_nn_unet.c - the U-Net against diffusers' UNet2DConditionModel. */
#include "tests/nn_cases.h"
#include "tests/nn_check.h"

/* One case: outputs, gradients of everything, and the same bits with recomputed blocks. */
static void run_case(const char *test, const nn_unet_config *config, bool shrunk)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "nn_unet", test);
    const ag_scope scope = ag_scope_open(ctx);
    nn_unet *net = NULL;
    nn_params *params;
    ag_tensor *in[2], *timesteps, *cotangent, *y, *recomputed, **grads, **again;
    int64_t n;

    assert_int_equal(nn_unet_new(&net, ctx, config), AG_OK);
    params = nn_unet_params(net);
    n = nn_params_count(params);
    check_fill(ctx, params);
    if (shrunk)
        check_shrink(ctx, params);
    in[0] = golden_tensor(&g, "sample");
    in[1] = golden_tensor(&g, "context");
    ag_set_requires_grad(ctx, in[0], true);
    ag_set_requires_grad(ctx, in[1], true);
    timesteps = golden_tensor(&g, "timestep");
    cotangent = golden_tensor(&g, "cotangent");
    y = nn_unet_forward(ctx, net, in[0], timesteps, in[1], NULL);
    golden_check(&g, "output", y, NN_TOLERANCE);
    grads = check_grads(ctx, params, &y, &cotangent, 1, in, 2);
    golden_check_params(&g, params, grads, NN_TOLERANCE);
    golden_check(&g, "grad_in.sample", grads[n], NN_TOLERANCE);
    golden_check(&g, "grad_in.context", grads[n + 1], NN_TOLERANCE);

    recomputed = nn_unet_forward(ctx, net, in[0], timesteps, in[1],
                                 &(nn_unet_options){.checkpointing = true});
    check_same(ctx, "output, recomputed", y, recomputed);
    again = check_grads(ctx, params, &recomputed, &cotangent, 1, in, 2);
    for (int64_t i = 0; i < n; i++)
        check_same(ctx, nn_params_at(params, i)->name, grads[i], again[i]);
    check_same(ctx, "sample", grads[n], again[n]);
    check_same(ctx, "context", grads[n + 1], again[n + 1]);

    free(again);
    free(grads);
    ag_scope_close(ctx, scope, NULL);
    nn_unet_free(net);
    assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

static void sd1_like(void **state)
{
    const nn_unet_config config = case_unet_a();

    (void)state;
    run_case("a", &config, false);
}

static void sd2_like(void **state)
{
    const nn_unet_config config = case_unet_b();

    (void)state;
    run_case("b", &config, false);
}

static void odd_sizes_and_fractional_times(void **state)
{
    const nn_unet_config config = case_unet_c();

    (void)state;
    run_case("c", &config, false);
}

static void every_option(void **state)
{
    const nn_unet_config config = case_unet_d();

    (void)state;
    run_case("d", &config, false);
}

static void one_level(void **state)
{
    const nn_unet_config config = case_unet_e();

    (void)state;
    run_case("e", &config, false);
}

static void small_activations(void **state)
{
    const nn_unet_config config = case_unet_e();

    (void)state;
    run_case("f", &config, true);
}

/* --- attention seen from outside
 * ------------------------------------------------------------------ */

/* What a callback saw. */
typedef struct witness {
    int n_calls, n_cross;
    bool spell_out; /* by probabilities instead of the fused op */
} witness;

static ag_tensor *watch(ag_ctx *ctx, void *user, const nn_attention_place *place, ag_tensor *q,
                        ag_tensor *k, ag_tensor *v)
{
    witness *w = user;
    const int64_t d = ag_dim(q, 2) / place->heads;
    ag_tensor *p, *y;

    assert_int_equal(place->index, w->n_calls++);
    assert_int_equal(place->is_cross, place->index % 2);
    assert_non_null(strstr(place->name, place->is_cross ? ".attn2" : ".attn1"));
    assert_int_equal(place->height * place->width, ag_dim(q, 1));
    assert_int_equal(ag_dim(k, 1), place->is_cross ? 77 : ag_dim(q, 1));
    assert_true(fabs(place->scale - 1.0 / sqrt((double)d)) < 1e-12);
    w->n_cross += place->is_cross;
    if (place->index == 0)
        assert_string_equal(place->name, "down_blocks.0.attentions.0.transformer_blocks.0.attn1");
    if (place->index == 12)
        assert_string_equal(place->name, "mid_block.attentions.0.transformer_blocks.0.attn1");
    if (!w->spell_out)
        return ag_attention(ctx, q, k, v, place->heads, place->scale, false);
    p = ag_attention_probs(ctx, q, k, place->heads, place->scale, false);
    v = ag_reshape(ctx, v, 4, (int64_t[]){ag_dim(v, 0), ag_dim(v, 1), place->heads, d});
    y = ag_matmul(ctx, p, ag_permute(ctx, v, (int[]){0, 2, 1, 3}), false, false);
    return ag_reshape(ctx, ag_permute(ctx, y, (int[]){0, 2, 1, 3}), 3, ag_dims(q));
}

static void attention_callback(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_unet_config config = case_unet_c();
    const golden g = golden_open(ctx, "nn_unet", "c");
    nn_unet *net = NULL;
    ag_tensor *sample, *timesteps, *context, *plain, *seen;
    witness w = {0};
    nn_unet_options options = {.attention = watch, .attention_user = &w};

    (void)state;
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_unet_params(net));
    ag_record(ctx, false);
    sample = golden_tensor(&g, "sample");
    timesteps = golden_tensor(&g, "timestep");
    context = golden_tensor(&g, "context");
    plain = nn_unet_forward(ctx, net, sample, timesteps, context, NULL);
    seen = nn_unet_forward(ctx, net, sample, timesteps, context, &options);
    check_fine(ctx);
    assert_int_equal(w.n_calls, nn_unet_n_attentions(net));
    assert_int_equal(w.n_cross, 16);
    check_same(ctx, "with a callback", plain, seen);
    w = (witness){.spell_out = true};
    golden_check(&g, "output", nn_unet_forward(ctx, net, sample, timesteps, context, &options),
                 NN_TOLERANCE);
    nn_unet_free(net);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

/* --- memory and precision
 * -------------------------------------------------------------------------- */

/* Without recording, what is alive at once is the skips and one block; every size is known.
 * Recomputing blocks makes training far smaller. */
static void memory(void **state)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_META});
    const nn_unet_config config = case_unet_sd15();
    nn_unet *net = NULL;
    ag_tensor *sample, *timesteps, *context;
    size_t peak[3];

    (void)state;
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    assert_int_equal(nn_params_alloc(ctx, nn_unet_params(net), AG_F32), AG_OK);
    assert_int_equal(nn_params_train(ctx, nn_unet_params(net), NULL, true), 686);
    sample = ag_full(ctx, AG_STEP, 0.0, 4, (int64_t[]){1, 64, 64, 4});
    timesteps = ag_full(ctx, AG_STEP, 1.0, 1, (int64_t[]){1});
    context = ag_full(ctx, AG_STEP, 0.0, 3, (int64_t[]){1, 77, 768});
    for (int mode = 0; mode < 3; mode++) { /* no gradients, recomputed, kept */
        const ag_scope scope = ag_scope_open(ctx);
        const nn_unet_options options = {.checkpointing = mode == 1};

        ag_record(ctx, mode > 0);
        ag_bytes_reset_peak(ctx);
        nn_unet_forward(ctx, net, sample, timesteps, context, &options);
        check_fine(ctx);
        peak[mode] = ag_bytes_peak(ctx, AG_STEP);
        ag_scope_close(ctx, scope, NULL);
    }
    print_message("a forward pass at 512 px: %.0f MB, recording %.0f MB recomputed, %.0f MB kept\n",
                  1e-6 * (double)peak[0], 1e-6 * (double)peak[1], 1e-6 * (double)peak[2]);
    assert_true(peak[0] < 130e6); /* skips 34 MB; GEGLU's input 42 MB, its output 21 MB; x, h */
    assert_true(peak[1] < 330e6);
    assert_true(peak[2] > 2 * peak[1]);
    nn_unet_free(net);
    ag_ctx_free(ctx);
}

static void bf16(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_unet_config config = case_unet_c();
    const golden g = golden_open(ctx, "nn_unet", "c");
    nn_unet *net = NULL;
    nn_params *params;
    ag_tensor *in[2], *cotangent, *y, **grads;
    int64_t n;
    float *norms;
    double got = 0.0, want = 0.0;

    (void)state;
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    params = nn_unet_params(net);
    n = nn_params_count(params);
    check_fill(ctx, params);
    in[0] = golden_tensor(&g, "sample");
    in[1] = golden_tensor(&g, "context");
    ag_set_requires_grad(ctx, in[0], true);
    ag_set_requires_grad(ctx, in[1], true);
    cotangent = golden_tensor(&g, "cotangent");
    y = nn_unet_forward(ctx, net, in[0], golden_tensor(&g, "timestep"), in[1],
                        &(nn_unet_options){.compute = AG_BF16, .checkpointing = true});
    check_fine(ctx);
    assert_int_equal(ag_dtype_of(y), AG_F32);
    golden_check(&g, "output", y, 0.15);
    grads = check_grads(ctx, params, &y, &cotangent, 1, in, 2);
    assert_int_equal(ag_dtype_of(grads[0]), AG_F32);
    assert_int_equal(ag_dtype_of(grads[n]), AG_F32);
    norms = golden_values(&g, "norms");
    for (int64_t i = 0; i < n; i++) {
        const double one = check_norm(ctx, grads[i]);

        got += one * one;
        want += (double)norms[i] * norms[i];
    }
    assert_true(fabs(sqrt(got) / sqrt(want) - 1.0) < 1e-2);
    free(norms);
    free(grads);
    nn_unet_free(net);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

/* --- what is wrong is said
 * ------------------------------------------------------------------------- */

static void wrong_inputs(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_unet_config config = case_unet_e();
    nn_unet *net = NULL;
    ag_tensor *x, *t, *c;

    (void)state;
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_unet_params(net));
    x = ag_full(ctx, AG_STEP, 1.0, 4, (int64_t[]){2, 3, 3, 4});
    t = ag_full(ctx, AG_STEP, 1.0, 1, (int64_t[]){2});
    c = ag_full(ctx, AG_STEP, 1.0, 3, (int64_t[]){2, 1, 5});
    assert_null(nn_unet_forward(ctx, net, ag_slice(ctx, x, 3, 0, 3), t, c, NULL));
    assert_string_equal(ag_message(ctx),
                        "U-Net: want sample f32 [N,H,W,4], got f32 with 3 channels in 4 axes");
    assert_null(nn_unet_forward(ctx, net, x, t, c, NULL)); /* failure is sticky */
    ag_clear(ctx);
    assert_null(nn_unet_forward(ctx, net, x, ag_slice(ctx, t, 0, 0, 1), c, NULL));
    assert_int_equal(ag_status_of(ctx), AG_ESHAPE);
    ag_clear(ctx);
    assert_null(nn_unet_forward(ctx, net, x, t, ag_slice(ctx, c, 2, 0, 4), NULL));
    assert_int_equal(ag_status_of(ctx), AG_ESHAPE);
    ag_clear(ctx);
    assert_null(nn_unet_forward(ctx, net, NULL, t, c, NULL));
    assert_non_null(nn_unet_forward(ctx, net, x, t, c, NULL));
    nn_unet_free(net);
    ag_ctx_free(ctx);
}

/* Memory refused anywhere in a pass leaves one message and nothing behind. */
static void refused_memory(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_unet_config config = case_unet_e();
    nn_unet *net = NULL;
    ag_tensor *x, *t, *c;
    size_t before;
    int n_refused = 0;

    (void)state;
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_unet_params(net));
    x = ag_full(ctx, AG_STEP, 1.0, 4, (int64_t[]){1, 3, 2, 4});
    t = ag_full(ctx, AG_STEP, 1.0, 1, (int64_t[]){1});
    c = ag_full(ctx, AG_STEP, 1.0, 3, (int64_t[]){1, 1, 5});
    before = ag_bytes_now(ctx, AG_STEP);
    for (int64_t n = 0;; n += 3) {
        const ag_scope scope = ag_scope_open(ctx);
        ag_tensor *y;

        ag_refuse_allocation(ctx, n, false);
        y = nn_unet_forward(ctx, net, x, t, c, &(nn_unet_options){.checkpointing = n % 2 == 0});
        ag_refuse_allocation(ctx, -1, false);
        ag_scope_close(ctx, scope, NULL);
        assert_int_equal(ag_bytes_now(ctx, AG_STEP), before);
        if (y)
            break;
        assert_int_equal(ag_status_of(ctx), AG_ENOMEM);
        ag_clear(ctx);
        n_refused++;
    }
    assert_true(n_refused > 10);
    nn_unet_free(net);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sd1_like),
        cmocka_unit_test(sd2_like),
        cmocka_unit_test(odd_sizes_and_fractional_times),
        cmocka_unit_test(every_option),
        cmocka_unit_test(one_level),
        cmocka_unit_test(small_activations),
        cmocka_unit_test(attention_callback),
        cmocka_unit_test(memory),
        cmocka_unit_test(bf16),
        cmocka_unit_test(wrong_inputs),
        cmocka_unit_test(refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
