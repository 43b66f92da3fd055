/* test_adapter.c - LoRA and DoRA beside linear layers and convolutions. */
#include "nn/adapter.h"
#include "nn/layers.h"
#include "tests/nn_check.h"

/* A registry of one layer of each kind, and an input of it. */
typedef struct layers {
    nn_params *params;
    nn_linear_layer query, proj;
    nn_conv_layer conv, down, point;
    nn_param *table; /* not a map */
} layers;

enum { N = 2, H = 6, W = 5, IN = 6, OUT = 7 };

static const char *const ALL[] = {"*"};

static layers layers_new(ag_ctx *ctx, ag_dtype dtype)
{
    layers l;

    assert_int_equal(nn_params_new(&l.params, ctx), AG_OK);
    nn_enter(l.params, "block.%d", 0);
    nn_linear_declare(l.params, &l.query, "to_q", IN, OUT, false, NN_AS_IS, false);
    nn_linear_declare(l.params, &l.proj, "proj_in", IN, OUT, true, NN_LINEAR_1X1, true);
    nn_conv_declare(l.params, &l.conv, "conv1", IN, OUT, 3, 1, 1);
    nn_downsample_declare(l.params, &l.down, IN, 0);
    nn_conv_declare(l.params, &l.point, "conv_shortcut", IN, OUT, 1, 1, 0);
    l.table = nn_declare(l.params, "table.weight", NN_AS_IS, nn_first_normal(1.0), 2,
                         (int64_t[]){IN, OUT});
    nn_leave(l.params);
    assert_int_equal(nn_params_alloc(ctx, l.params, dtype), AG_OK);
    assert_int_equal(nn_params_rule(ctx, l.params), AG_OK);
    return l;
}

enum { N_LAYERS = 5 };

static ag_tensor *run_layer(ag_ctx *ctx, const layers *l, int i, ag_tensor *x)
{
    return i == 0   ? nn_linear(ctx, &l->query, x)
           : i == 1 ? nn_linear(ctx, &l->proj, x)
           : i == 2 ? nn_conv(ctx, &l->conv, x)
           : i == 3 ? nn_conv(ctx, &l->down, x)
                    : nn_conv(ctx, &l->point, x);
}

static ag_tensor *input(ag_ctx *ctx)
{
    float values[N * H * W * IN];

    nn_rule_input("input", sqrt(3.0), N * H * W * IN, values);
    return ag_from_f32(ctx, values, 4, (int64_t[]){N, H, W, IN});
}

static nn_adapters *adapters_new(ag_ctx *ctx, nn_params *base, nn_lora_config config)
{
    nn_adapters *set = NULL;

    if (!config.targets) {
        config.targets = ALL;
        config.n_targets = 1;
    }
    nn_adapters_new(&set, ctx, base, &config);
    check_fine(ctx);
    return set;
}

/* Give the factors values of the rule; magnitudes near one, which is what the rule's rows have. */
static void fill(ag_ctx *ctx, nn_adapters *set)
{
    assert_int_equal(nn_params_rule(ctx, nn_adapters_params(set)), AG_OK);
    for (int64_t i = 0; i < nn_adapters_count(set); i++) {
        nn_param *m = nn_adapters_at(set, i).magnitude;
        char name[NN_MAX_NAME + 8];
        float values[64];

        if (!m)
            continue;
        assert_true(m->numel <= 64);
        snprintf(name, sizeof name, "%s.weight", m->name);
        nn_rule_param(name, 1, &m->numel, values);
        assert_int_equal(nn_param_set_published(ctx, m, values, m->n_dims, m->dims), AG_OK);
    }
}

static float *values_of(ag_ctx *ctx, ag_tensor *t)
{
    float *values = malloc((size_t)ag_numel(t) * sizeof *values);

    check_fine(ctx);
    t = ag_cast(ctx, t, AG_F32);
    assert_non_null(values);
    assert_int_equal(ag_read(ctx, t, values, ag_nbytes(t)), AG_OK);
    return values;
}

static void check_near(ag_ctx *ctx, const char *what, ag_tensor *a, ag_tensor *b, double tolerance)
{
    float *got = values_of(ctx, a), *want = values_of(ctx, b);

    check_close(what, got, want, ag_numel(a), tolerance, 0.0);
    free(got);
    free(want);
}

/* --- what a fresh set is ------------------------------------------------------------------------ */

static void test_start(void **state)
{
    (void)state;
    for (int dora = 0; dora < 2; dora++) {
        ag_ctx *ctx = check_ctx();
        layers l = layers_new(ctx, AG_F32);
        ag_tensor *x = input(ctx), *bare[N_LAYERS];
        nn_adapters *set;

        for (int i = 0; i < N_LAYERS; i++)
            bare[i] = run_layer(ctx, &l, i, x);
        nn_params_train(ctx, l.params, NULL, true);
        set = adapters_new(ctx, l.params, (nn_lora_config){.rank = 3, .conv_rank = 2, .dora = dora});
        assert_int_equal(nn_adapters_count(set), N_LAYERS);
        assert_int_equal(nn_params_count(nn_adapters_params(set)), (dora ? 3 : 2) * N_LAYERS);
        for (int i = 0; i < N_LAYERS; i++) {
            ag_tensor *y = run_layer(ctx, &l, i, x);

            assert_true(ag_requires_grad(y)); /* the adapter's */
            check_near(ctx, "a fresh adapter", y, bare[i], dora ? 1e-6 : 0.0);
            assert_false(ag_requires_grad(nn_adapters_at(set, i).weight->value));
            assert_false(nn_adapters_at(set, i).weight->trainable);
            assert_true(nn_adapters_at(set, i).a->trainable);
        }
        nn_adapters_free(set);
        for (int i = 0; i < N_LAYERS; i++)
            check_near(ctx, "bare again", run_layer(ctx, &l, i, x), bare[i], 0.0);
        nn_params_free(l.params);
        ag_ctx_free(ctx);
    }
}

/* --- a weight with W' in its place computes the same ------------------------------------------------ */

static void check_merged(nn_lora_config config)
{
    ag_ctx *ctx = check_ctx();
    layers l = layers_new(ctx, AG_F32);
    ag_tensor *x = input(ctx), *attached[N_LAYERS];
    nn_adapters *set = adapters_new(ctx, l.params, config);
    float *delta[N_LAYERS];

    fill(ctx, set);
    for (int i = 0; i < N_LAYERS; i++) {
        const nn_param *w = nn_adapters_at(set, i).weight;

        attached[i] = run_layer(ctx, &l, i, x);
        delta[i] = malloc((size_t)w->numel * sizeof *delta[i]);
        assert_non_null(delta[i]);
        assert_int_equal(nn_adapter_delta(ctx, set, i, 1.0, delta[i]), AG_OK);
    }
    for (int i = 0; i < N_LAYERS; i++) {
        nn_param *w = nn_adapters_at(set, i).weight;
        float *values = malloc((size_t)w->numel * sizeof *values);

        assert_non_null(values);
        assert_int_equal(nn_param_get_published(ctx, w, values), AG_OK);
        for (int64_t k = 0; k < w->numel; k++)
            values[k] += delta[i][k];
        assert_int_equal(nn_param_set_published(ctx, w, values, w->n_dims, w->dims), AG_OK);
        free(values);
        free(delta[i]);
    }
    nn_adapters_free(set);
    for (int i = 0; i < N_LAYERS; i++)
        check_near(ctx, "merged", run_layer(ctx, &l, i, x), attached[i], 1e-5);
    nn_params_free(l.params);
    ag_ctx_free(ctx);
}

static void test_merged(void **state)
{
    (void)state;
    check_merged((nn_lora_config){.rank = 4, .conv_rank = 3});
    check_merged((nn_lora_config){.rank = 2, .conv_rank = 5, .alpha = 1, .conv_alpha = 3});
    check_merged((nn_lora_config){.rank = 4, .conv_rank = 4, .alpha = 3, .rslora = true});
    check_merged((nn_lora_config){.rank = 4, .conv_rank = 3, .dora = true});
    check_merged((nn_lora_config){.rank = 4, .conv_rank = 3, .alpha = 7, .dora = true, .rslora = true});
}

/* --- which modules ---------------------------------------------------------------------------------- */

static void test_targets(void **state)
{
    static const struct {
        const char *pattern;
        int64_t conv_rank, n; /* n: how many modules it fits */
    } CASES[] = {{"to_q", 0, 1},     {"o_q", 0, 0},       {"block.0.to_q", 0, 1}, {"*", 0, 3},
                 {"*", 4, 5},        {"conv1", 0, 0},     {"conv1", 4, 1},        {"*.conv*", 4, 3},
                 {"table", 4, 0},    {"conv_short?ut", 0, 0}, {"*conv_short?ut", 0, 1}};
    ag_ctx *ctx = check_ctx();
    layers l = layers_new(ctx, AG_F32);

    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        nn_adapters *set = NULL;
        const ag_status status = nn_adapters_new(
            &set, ctx, l.params,
            &(nn_lora_config){.rank = 2, .conv_rank = CASES[i].conv_rank,
                              .targets = &CASES[i].pattern, .n_targets = 1});

        assert_int_equal(status, CASES[i].n ? AG_OK : AG_EINVAL);
        assert_int_equal(set ? nn_adapters_count(set) : 0, CASES[i].n);
        ag_clear(ctx);
        nn_adapters_free(set);
    }
    nn_params_free(l.params);
    ag_ctx_free(ctx);
}

static void test_refusals(void **state)
{
    static const char *const QUERY[] = {"to_q"};
    static const struct {
        nn_lora_config config;
        const char *names;
    } CASES[] = {
        {{.rank = 0, .targets = QUERY, .n_targets = 1}, "rank"},
        {{.rank = -1, .targets = QUERY, .n_targets = 1}, "rank"},
        {{.rank = IN + 1, .targets = QUERY, .n_targets = 1}, "block.0.to_q maps 6 values to 7"},
        {{.rank = 2, .conv_rank = -1, .targets = QUERY, .n_targets = 1}, "convolutions"},
        {{.rank = 2, .dropout = 1.0, .targets = QUERY, .n_targets = 1}, "dropout"},
        {{.rank = 2, .dropout = NAN, .targets = QUERY, .n_targets = 1}, "dropout"},
    };
    ag_ctx *ctx = check_ctx();
    layers l = layers_new(ctx, AG_F32);
    nn_adapters *set = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        assert_int_equal(nn_adapters_new(&set, ctx, l.params, &CASES[i].config), AG_EINVAL);
        if (!strstr(ag_message(ctx), CASES[i].names))
            fail_msg("case %zu: \"%s\"", i, ag_message(ctx));
        assert_null(l.query.weight->adapter);
        ag_clear(ctx);
    }
    set = adapters_new(ctx, l.params, (nn_lora_config){.rank = 2, .targets = QUERY, .n_targets = 1});
    assert_int_equal(nn_adapters_add(ctx, set, l.query.weight, 2, 2), AG_EINVAL);
    ag_clear(ctx);
    assert_int_equal(nn_adapters_add(ctx, set, l.table, 2, 2), AG_EINVAL);
    ag_clear(ctx);
    assert_int_equal(nn_adapters_add(ctx, set, l.proj.weight, 5, 10), AG_OK);
    assert_int_equal(nn_adapters_count(set), 2);
    assert_true(nn_adapters_at(set, 1).scale == 2.0);
    nn_adapters_free(set);
    nn_params_free(l.params);
    ag_ctx_free(ctx);
}

/* --- first values ------------------------------------------------------------------------------------- */

static void test_first_values(void **state)
{
    enum { WIDE = 512, RANK = 16 };
    ag_ctx *ctx = check_ctx();

    (void)state;
    for (int init = 0; init < 2; init++) {
        nn_linear_layer layer;
        nn_params *params;
        nn_adapters *set;
        float *a;
        double squares = 0.0, largest = 0.0;

        assert_int_equal(nn_params_new(&params, ctx), AG_OK);
        nn_linear_declare(params, &layer, "to_q", WIDE, WIDE, false, NN_AS_IS, false);
        assert_int_equal(nn_params_alloc(ctx, params, AG_F32), AG_OK);
        assert_int_equal(nn_params_init(ctx, params, 1), AG_OK);
        set = adapters_new(ctx, params, (nn_lora_config){.rank = RANK, .init = (nn_lora_init)init, .seed = 9});
        a = values_of(ctx, nn_adapters_at(set, 0).a->value);
        for (int i = 0; i < RANK * WIDE; i++) {
            squares += (double)a[i] * a[i] / (RANK * WIDE);
            largest = fmax(largest, fabs((double)a[i]));
        }
        if (init == NN_LORA_GAUSSIAN) {
            assert_true(fabs(sqrt(squares) * RANK - 1.0) < 0.03);
            assert_true(largest > 3.0 / RANK);
        } else {
            const double bound = 1.0 / sqrt((double)WIDE);

            assert_true(fabs(sqrt(3.0 * squares) / bound - 1.0) < 0.03);
            assert_true(largest <= bound);
        }
        free(a);
        nn_adapters_free(set);
        nn_params_free(params);
    }
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),    cmocka_unit_test(test_merged),
        cmocka_unit_test(test_targets),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_first_values),
    };

    return cmocka_run_group_tests_name("adapter", tests, NULL, NULL);
}
