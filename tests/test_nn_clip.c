/* test_nn_clip.c - the text model against transformers' CLIPTextModel. */
#include "tests/nn_cases.h"
#include "tests/nn_check.h"

/* The golden ids, as scripts/golden_networks.py makes them. */
static ag_tensor *golden_ids(const golden *g, int64_t vocabulary)
{
    const data_tensor *t = golden_at(g, "input_ids");
    int64_t *ids = malloc((size_t)t->n_values * sizeof *ids);
    ag_tensor *made;

    assert_non_null(ids);
    for (int64_t i = 0; i < t->n_values; i++)
        ids[i] = i * 7 % (vocabulary - 10) + 3;
    made = ag_from_i64(g->ctx, ids, t->n_dims, t->dims);
    free(ids);
    return made;
}

static void run_case(const char *test, const nn_clip_config *config, int clip_skip, bool masked)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "nn_clip", test);
    const ag_scope scope = ag_scope_open(ctx);
    nn_clip_text *net = NULL;
    nn_clip_options options = {.clip_skip = clip_skip};
    ag_tensor *ids, *cotangent, *y, *recomputed, **grads, **again;

    assert_int_equal(nn_clip_text_new(&net, ctx, config), AG_OK);
    check_fill(ctx, nn_clip_text_params(net));
    ids = golden_ids(&g, config->vocab_size);
    cotangent = golden_tensor(&g, "cotangent");
    options.mask = masked ? golden_tensor(&g, "mask") : NULL;
    y = nn_clip_text_forward(ctx, net, ids, &options);
    golden_check(&g, "output", y, NN_TOLERANCE);
    grads = check_grads(ctx, nn_clip_text_params(net), &y, &cotangent, 1, NULL, 0);
    golden_check_params(&g, nn_clip_text_params(net), grads, NN_TOLERANCE);

    options.checkpointing = true;
    recomputed = nn_clip_text_forward(ctx, net, ids, &options);
    check_same(ctx, "output, recomputed", y, recomputed);
    again = check_grads(ctx, nn_clip_text_params(net), &recomputed, &cotangent, 1, NULL, 0);
    for (int64_t i = 0; i < nn_params_count(nn_clip_text_params(net)); i++)
        check_same(ctx, nn_params_at(nn_clip_text_params(net), i)->name, grads[i], again[i]);

    free(again);
    free(grads);
    ag_scope_close(ctx, scope, NULL);
    nn_clip_text_free(net);
    assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

static void quick_gelu(void **state)
{
    const nn_clip_config config = case_clip(NN_QUICK_GELU);

    (void)state;
    run_case("quick", &config, 0, false);
}

static void gelu_and_clip_skip(void **state)
{
    const nn_clip_config config = case_clip(NN_GELU);

    (void)state;
    run_case("gelu", &config, 1, false);
}

static void padding_mask(void **state)
{
    const nn_clip_config config = case_clip_mask();

    (void)state;
    run_case("mask", &config, 0, true);
}

/* bf16 stays near f32, and its gradients too. */
static void bf16(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_clip_config config = case_clip(NN_QUICK_GELU);
    const golden g = golden_open(ctx, "nn_clip", "quick");
    nn_clip_text *net = NULL;
    ag_tensor *y;

    (void)state;
    assert_int_equal(nn_clip_text_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_clip_text_params(net));
    y = nn_clip_text_forward(ctx, net, golden_ids(&g, config.vocab_size),
                             &(nn_clip_options){.compute = AG_BF16});
    assert_int_equal(ag_dtype_of(y), AG_F32);
    golden_check(&g, "output", y, 0.15); /* the worst of 5000 values, of their mean size */
    nn_clip_text_free(net);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

static void wrong_inputs(void **state)
{
    ag_ctx *ctx = check_ctx();
    const nn_clip_config config = case_clip(NN_GELU);
    const int64_t values[78] = {1};
    nn_clip_text *net = NULL;
    ag_tensor *ids;

    (void)state;
    assert_int_equal(nn_clip_text_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_clip_text_params(net));
    ids = ag_from_i64(ctx, values, 2, (int64_t[]){1, 78});
    assert_null(nn_clip_text_forward(ctx, net, ids, NULL));
    assert_int_equal(ag_status_of(ctx), AG_ESHAPE);
    assert_null(nn_clip_text_forward(ctx, net, ids, NULL)); /* failure is sticky */
    ag_clear(ctx);
    ids = ag_from_i64(ctx, values, 2, (int64_t[]){1, 7});
    assert_null(nn_clip_text_forward(ctx, net, ids, &(nn_clip_options){.clip_skip = 5}));
    assert_int_equal(ag_status_of(ctx), AG_EINVAL);
    ag_clear(ctx);
    assert_null(nn_clip_text_forward(
        ctx, net, ids,
        &(nn_clip_options){.mask = ag_full(ctx, AG_STEP, 1.0, 2, (int64_t[]){7, 1})}));
    assert_int_equal(ag_status_of(ctx), AG_ESHAPE);
    ag_clear(ctx);
    nn_clip_text_free(net);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quick_gelu),   cmocka_unit_test(gelu_and_clip_skip),
        cmocka_unit_test(padding_mask), cmocka_unit_test(bf16),
        cmocka_unit_test(wrong_inputs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
