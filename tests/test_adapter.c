/* test_adapter.c - LoRA and DoRA beside linear layers and convolutions. */
#include "nn/adapter.h"
#include "nn/layers.h"
#include "tests/nn_cases.h"
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

/* Give the factors values of the rule, B a quarter of them so that W' is near W; magnitudes near one,
 * which is what the rule's rows have. As scripts/golden_lora.py does. */
static void fill(ag_ctx *ctx, nn_adapters *set)
{
    assert_int_equal(nn_params_rule(ctx, nn_adapters_params(set)), AG_OK);
    for (int64_t i = 0; i < nn_adapters_count(set); i++) {
        const nn_adapter_view v = nn_adapters_at(set, i);
        float *values = malloc((size_t)v.b->numel * sizeof *values);
        char name[NN_MAX_NAME + 8];

        assert_non_null(values);
        assert_int_equal(nn_param_get_published(ctx, v.b, values), AG_OK);
        for (int64_t k = 0; k < v.b->numel; k++)
            values[k] *= 0.25f;
        assert_int_equal(nn_param_set_published(ctx, v.b, values, v.b->n_dims, v.b->dims), AG_OK);
        if (v.magnitude) { /* fewer values than B */
            snprintf(name, sizeof name, "%s.weight", v.magnitude->name);
            nn_rule_param(name, 1, &v.magnitude->numel, values);
            assert_int_equal(nn_param_set_published(ctx, v.magnitude, values, v.magnitude->n_dims,
                                                    v.magnitude->dims), AG_OK);
        }
        free(values);
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

/* --- against peft: tests/golden/lora.safetensors ------------------------------------------------------ */

/* A tensor of the rule, NCHW turned to channels last. */
static ag_tensor *given(const golden *g, const char *name, int n_dims, const int64_t *dims)
{
    int64_t n = 1;
    char full[128];
    float *values, *last;
    ag_tensor *t;

    for (int i = 0; i < n_dims; i++)
        n *= dims[i];
    values = malloc((size_t)n * sizeof *values);
    last = malloc((size_t)n * sizeof *last);
    assert_true(values && last);
    snprintf(full, sizeof full, "%s.%s", g->test, name);
    nn_rule_input(full, sqrt(3.0), n, values);
    if (n_dims == 4) {
        check_reorder(values, last, dims, true);
        t = ag_from_f32(g->ctx, last, 4, (int64_t[]){dims[0], dims[2], dims[3], dims[1]});
    } else {
        t = ag_from_f32(g->ctx, values, n_dims, dims);
    }
    free(last);
    free(values);
    return t;
}

/* Compare values and all gradients; then once more with recomputed blocks, bit for bit. */
typedef ag_tensor *(*forward_fn)(ag_ctx *ctx, const void *net, ag_tensor **in, bool recompute);

static void check_peft(const golden *g, const nn_adapters *set, const nn_params *base, forward_fn forward,
                       const void *net, ag_tensor **in, int n_in)
{
    static const double TOLERANCE = 5e-5;
    const nn_params *factors = nn_adapters_params(set);
    const int64_t n = nn_params_count(factors);
    ag_tensor *y = forward(g->ctx, net, in, false), *cotangent, **grads, *again, **grads_again;
    const data_tensor *want = golden_at(g, "output");

    check_fine(g->ctx);
    golden_check(g, "output", y, TOLERANCE);
    cotangent = given(g, "cotangent", want->n_dims, want->dims);
    grads = check_grads(g->ctx, factors, &y, &cotangent, 1, in, n_in);
    golden_check_params(g, factors, grads, TOLERANCE);
    if (n_in) {
        golden_check(g, "grad_in.sample", grads[n], TOLERANCE);
        golden_check(g, "grad_in.context", grads[n + 1], TOLERANCE);
    }
    again = forward(g->ctx, net, in, true);
    check_same(g->ctx, "output, recomputed", y, again);
    grads_again = check_grads(g->ctx, factors, &again, &cotangent, 1, in, n_in);
    for (int64_t i = 0; i < n + n_in; i++)
        check_same(g->ctx, i < n ? nn_params_at(factors, i)->name : "an input", grads[i], grads_again[i]);
    for (int64_t i = 0; i < nn_params_count(base); i++)
        assert_false(ag_requires_grad(nn_params_at(base, i)->value));
    free(grads);
    free(grads_again);
}

static ag_tensor *unet_forward(ag_ctx *ctx, const void *net, ag_tensor **in, bool recompute)
{
    const nn_unet_options options = {.checkpointing = recompute};

    return nn_unet_forward(ctx, net, in[0], ag_from_f32(ctx, (float[]){10, 700}, 1, (int64_t[]){2}), in[1],
                           &options);
}

static void unet_case(const char *test, const nn_unet_config *config, int64_t h, int64_t w, nn_lora_config lora)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "lora", test);
    const ag_scope scope = ag_scope_open(ctx);
    nn_unet *net = NULL;
    nn_adapters *set;
    ag_tensor *in[2];

    assert_int_equal(nn_unet_new(&net, ctx, config), AG_OK);
    check_fill(ctx, nn_unet_params(net));
    set = adapters_new(ctx, nn_unet_params(net), lora);
    fill(ctx, set);
    in[0] = given(&g, "sample", 4, (int64_t[]){2, 4, h, w});
    in[1] = given(&g, "context", 3, (int64_t[]){2, 7, config->cross_attention_dim});
    ag_set_requires_grad(ctx, in[0], true);
    ag_set_requires_grad(ctx, in[1], true);
    check_peft(&g, set, nn_unet_params(net), unet_forward, net, in, 2);
    ag_scope_close(ctx, scope, NULL);
    nn_adapters_free(set);
    nn_unet_free(net);
    assert_int_equal(ag_bytes_now(ctx, AG_STEP), 0);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL), 0);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

#define ATTENTION "to_q", "to_k", "to_v", "to_out.0"
#define TRANSFORMER ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"
#define CONVOLUTION                                                                                \
    "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"
#define TARGETS(...)                                                                               \
    .targets = (const char *const[]){__VA_ARGS__},                                                 \
    .n_targets = sizeof (const char *const[]){__VA_ARGS__} / sizeof(char *)

static void test_peft_unet(void **state)
{
    const nn_unet_config tiny = case_unet_a(), linear = case_unet_b(), four = case_unet_c();

    (void)state;
    unet_case("attention", &tiny, 16, 16, (nn_lora_config){.rank = 4, TARGETS(ATTENTION)});
    unet_case("kohya", &four, 12, 20, (nn_lora_config){.rank = 3, .alpha = 1, TARGETS(TRANSFORMER)});
    unet_case("conv", &four, 12, 20,
              (nn_lora_config){.rank = 4, .conv_rank = 2, .conv_alpha = 3, TARGETS(TRANSFORMER, CONVOLUTION)});
    unet_case("rslora", &linear, 16, 16,
              (nn_lora_config){.rank = 5, .alpha = 3, .rslora = true, TARGETS(TRANSFORMER)});
    unet_case("dora", &four, 12, 20,
              (nn_lora_config){.rank = 4, .alpha = 6, .conv_rank = 2, .dora = true,
                               TARGETS(TRANSFORMER, CONVOLUTION)});
}

static ag_tensor *text_forward(ag_ctx *ctx, const void *net, ag_tensor **in, bool recompute)
{
    const nn_clip_options options = {.checkpointing = recompute};
    enum { ROWS = 2, TOKENS = 77 };
    int64_t ids[ROWS * TOKENS];

    (void)in;
    for (int i = 0; i < ROWS * TOKENS; i++)
        ids[i] = i * 7 % (nn_clip_text_config_of(net)->vocab_size - 10) + 3;
    return nn_clip_text_forward(ctx, net, ag_from_i64(ctx, ids, 2, (int64_t[]){ROWS, TOKENS}), &options);
}

static void text_case(const char *test, nn_lora_config lora)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "lora", test);
    const nn_clip_config config = case_clip(NN_QUICK_GELU);
    const ag_scope scope = ag_scope_open(ctx);
    nn_clip_text *net = NULL;
    nn_adapters *set;

    assert_int_equal(nn_clip_text_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_clip_text_params(net));
    set = adapters_new(ctx, nn_clip_text_params(net), lora);
    fill(ctx, set);
    check_peft(&g, set, nn_clip_text_params(net), text_forward, net, NULL, 0);
    ag_scope_close(ctx, scope, NULL);
    nn_adapters_free(set);
    nn_clip_text_free(net);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

#define TEXT "q_proj", "k_proj", "v_proj", "out_proj"

static void test_peft_text(void **state)
{
    (void)state;
    text_case("text", (nn_lora_config){.rank = 4, TARGETS(TEXT)});
    text_case("text_dora", (nn_lora_config){.rank = 6, .alpha = 3, .dora = true, TARGETS(TEXT, "fc1", "fc2")});
}

/* --- dropout ------------------------------------------------------------------------------------------ */

/* y and the gradient of A are those of an x with the mask that random.h says. */
static void test_dropout(void **state)
{
    enum { STEP = 5, SEED = 31 };
    static const double P = 0.25;
    ag_ctx *ctx = check_ctx();
    layers l = layers_new(ctx, AG_F32);
    nn_adapters *set = adapters_new(
        ctx, l.params, (nn_lora_config){.rank = 3, .conv_rank = 2, .dropout = P, .seed = SEED});
    ag_tensor *x = input(ctx), *quiet[N_LAYERS];
    float *values = values_of(ctx, x);

    (void)state;
    fill(ctx, set);
    for (int i = 0; i < N_LAYERS; i++)
        quiet[i] = run_layer(ctx, &l, i, x);
    nn_adapters_set_step(set, STEP, false);
    for (int i = 0; i < N_LAYERS; i++)
        check_same(ctx, "no dropout out of training", run_layer(ctx, &l, i, x), quiet[i]);
    nn_adapters_set_step(set, STEP, true);
    for (int i = 0; i < N_LAYERS; i++) {
        const nn_adapter_view v = nn_adapters_at(set, i);
        const ag_draw draw = {SEED, AG_DRAW_DROPOUT, STEP, ag_hash_name(v.module)};
        float masked[N * H * W * IN];
        ag_tensor *y = run_layer(ctx, &l, i, x), *want, *grad[2] = {NULL}, *sum;
        int n_dropped = 0;

        for (int k = 0; k < N * H * W * IN; k++) {
            const bool drops = ag_draw_u32(&draw, (uint64_t)k) * 0x1p-32 < P;

            masked[k] = drops ? 0.0f : values[k] / (float)(1.0 - P);
            n_dropped += drops;
        }
        assert_true(abs(n_dropped - (int)(P * N * H * W * IN)) < 40);
        /* W x + b + (adapted - bare)(masked x), all without dropout */
        nn_adapters_set_step(set, STEP, false);
        want = run_layer(ctx, &l, i, ag_from_f32(ctx, masked, 4, ag_dims(x)));
        sum = want;
        v.weight->adapter = NULL;
        want = ag_sub(ctx, want, run_layer(ctx, &l, i, ag_from_f32(ctx, masked, 4, ag_dims(x))));
        want = ag_add(ctx, want, run_layer(ctx, &l, i, x));
        nn_adapters_set_step(set, STEP, true);
        check_near(ctx, "dropout", y, want, 1e-5);
        ag_grad(ctx, &y, NULL, 1, &v.a->value, &grad[0], 1, 0);
        ag_grad(ctx, &sum, NULL, 1, &v.a->value, &grad[1], 1, 0);
        check_near(ctx, "gradient of A under dropout", grad[0], grad[1], 1e-5);
    }
    free(values);
    nn_adapters_free(set);
    nn_params_free(l.params);
    ag_ctx_free(ctx);
}

/* Masks change from step to step, and a block that is run again in the backward pass sees its own. */
static void test_dropout_in_net(void **state)
{
    ag_ctx *ctx = check_ctx();
    const golden g = golden_open(ctx, "lora", "attention");
    const nn_unet_config config = case_unet_a();
    nn_unet *net = NULL;
    nn_adapters *set;
    const nn_params *factors;
    ag_tensor *in[2], *y[3], *cotangent, **grads[2];

    (void)state;
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_unet_params(net));
    set = adapters_new(ctx, nn_unet_params(net), (nn_lora_config){.rank = 4, .dropout = 0.5, TARGETS(ATTENTION)});
    factors = nn_adapters_params(set);
    fill(ctx, set);
    in[0] = given(&g, "sample", 4, (int64_t[]){2, 4, 16, 16});
    in[1] = given(&g, "context", 3, (int64_t[]){2, 7, 32});
    cotangent = given(&g, "cotangent", 4, (int64_t[]){2, 4, 16, 16});
    for (int again = 0; again < 2; again++) {
        nn_adapters_set_step(set, 1, true);
        y[again] = unet_forward(ctx, net, in, again);
        check_fine(ctx);
        grads[again] = check_grads(ctx, factors, &y[again], &cotangent, 1, NULL, 0);
    }
    check_same(ctx, "the same step", y[0], y[1]);
    for (int64_t i = 0; i < nn_params_count(factors); i++)
        check_same(ctx, nn_params_at(factors, i)->name, grads[0][i], grads[1][i]);
    nn_adapters_set_step(set, 2, true);
    y[2] = unet_forward(ctx, net, in, false);
    assert_true(check_norm(ctx, ag_sub(ctx, y[2], y[0])) > 1e-3 * check_norm(ctx, y[0]));
    free(grads[0]);
    free(grads[1]);
    nn_adapters_free(set);
    nn_unet_free(net);
    data_weights_close(g.file);
    ag_ctx_free(ctx);
}

/* --- half precision ----------------------------------------------------------------------------------- */

typedef struct half_net {
    nn_unet *net;
    nn_adapters *set;
    ag_tensor *in[2], *cotangent, *y, **grads;
} half_net;

/* Round what has more than one axis to bf16, in place. */
static void round_weights(ag_ctx *ctx, nn_params *params)
{
    for (int64_t i = 0; i < nn_params_count(params); i++) {
        nn_param *p = nn_params_at(params, i);

        if (p->n_dims > 1)
            ag_copy(ctx, p->value, ag_cast(ctx, p->value, AG_BF16));
    }
}

/* The U-Net of the golden case with weights of `dtype` (f32: with the values of bf16), computing in
 * `compute`. */
static half_net half_run(const golden *g, ag_dtype dtype, ag_dtype compute, bool dora)
{
    const nn_unet_options options = {.compute = compute};
    const nn_unet_config config = case_unet_a();
    ag_ctx *ctx = g->ctx;
    half_net h = {.net = NULL};

    assert_int_equal(nn_unet_new(&h.net, ctx, &config), AG_OK);
    assert_int_equal(nn_params_alloc(ctx, nn_unet_params(h.net), dtype), AG_OK);
    assert_int_equal(nn_params_rule(ctx, nn_unet_params(h.net)), AG_OK);
    round_weights(ctx, nn_unet_params(h.net));
    h.set = adapters_new(ctx, nn_unet_params(h.net),
                         (nn_lora_config){.rank = 4, .conv_rank = dora ? 2 : 0, .dora = dora,
                                          TARGETS(ATTENTION, CONVOLUTION)});
    fill(ctx, h.set);
    h.in[0] = given(g, "sample", 4, (int64_t[]){2, 4, 16, 16});
    h.in[1] = given(g, "context", 3, (int64_t[]){2, 7, 32});
    h.cotangent = given(g, "cotangent", 4, (int64_t[]){2, 4, 16, 16});
    ag_set_requires_grad(ctx, h.in[0], true);
    ag_set_requires_grad(ctx, h.in[1], true);
    h.y = nn_unet_forward(ctx, h.net, h.in[0], ag_from_f32(ctx, (float[]){10, 700}, 1, (int64_t[]){2}),
                          h.in[1], &options);
    check_fine(ctx);
    h.grads = check_grads(ctx, nn_adapters_params(h.set), &h.y, &h.cotangent, 1, h.in, 2);
    return h;
}

static void half_free(half_net *h)
{
    free(h->grads);
    nn_adapters_free(h->set);
    nn_unet_free(h->net);
}

/* |a - b| / |b| over all gradients */
static double grads_apart(ag_ctx *ctx, const half_net *a, const half_net *b)
{
    const int64_t n = nn_params_count(nn_adapters_params(a->set));
    double off = 0.0, size = 0.0;

    for (int64_t i = 0; i < n; i++) {
        off += pow(check_norm(ctx, ag_sub(ctx, a->grads[i], b->grads[i])), 2.0);
        size += pow(check_norm(ctx, b->grads[i]), 2.0);
    }
    return sqrt(off / size);
}

/* Weights in bf16 give what the same values in f32 give; bf16 activations come near. Gradients of
 * factors are f32 always. */
static void test_half(void **state)
{
    (void)state;
    for (int dora = 0; dora < 2; dora++) {
        ag_ctx *ctx = check_ctx();
        const golden g = golden_open(ctx, "lora", "attention");
        half_net rounded, half, both;

        half = half_run(&g, AG_BF16, AG_F32, dora);
        rounded = half_run(&g, AG_F32, AG_F32, dora);
        for (int64_t i = 0; i < nn_params_count(nn_unet_params(half.net)); i++) {
            const nn_param *p = nn_params_at(nn_unet_params(half.net), i);

            assert_int_equal(ag_dtype_of(p->value), p->n_dims > 1 ? AG_BF16 : AG_F32);
        }
        /* f32 both; weights of another type go through other kernels, which add in another order */
        check_near(ctx, "weights in bf16", half.y, rounded.y, 3e-5);
        assert_true(grads_apart(ctx, &half, &rounded) < 1e-5);
        half_free(&rounded);
        both = half_run(&g, AG_BF16, AG_BF16, dora);
        assert_true(check_norm(ctx, ag_sub(ctx, both.y, half.y)) < 0.05 * check_norm(ctx, half.y));
        assert_true(grads_apart(ctx, &both, &half) < 0.1);
        for (int64_t i = 0; i < nn_params_count(nn_adapters_params(both.set)); i++)
            assert_int_equal(ag_dtype_of(both.grads[i]), AG_F32);
        half_free(&both);
        half_free(&half);
        data_weights_close(g.file);
        ag_ctx_free(ctx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),    cmocka_unit_test(test_merged),
        cmocka_unit_test(test_targets),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_first_values), cmocka_unit_test(test_peft_unet),
        cmocka_unit_test(test_peft_text), cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_dropout_in_net), cmocka_unit_test(test_half),
    };

    return cmocka_run_group_tests_name("adapter", tests, NULL, NULL);
}
