/* test_lora_training.c - twenty updates of adapters against PyTorch, diffusers, transformers and peft
 * (scripts/golden_personalize.py, in double): personalize's loss on LoRA, rsLoRA, DoRA, convolutions.
 *
 * The adapters' first values come from a file, as --lora_init takes it.
 */
#include "tests/given_check.h"

#include "pipeline/lora.h"

enum { K = 20 };

static const given_case CASES[] = {
    {.name = "plain", .rows = 2, .options = {.rank = 4}},
    {.name = "prior", .on_host = true,
     .rows = 4,
     .options = {.rank = 4, .train_text_encoder = true, .with_prior_preservation = true, .prior_loss_weight = 0.7}},
    {.name = "selfage", .on_host = true,
     .rows = 6,
     .options = {.rank = 4, .train_text_encoder = true, .with_prior_preservation = true, .prior_loss_weight = 1.0,
                 .contrast_weight = 0.1}},
    {.name = "ranger",
     .rows = 4,
     .options = {.rank = 4, .train_text_encoder = true, .with_prior_preservation = true, .prior_loss_weight = 1.0,
                 .contrast_weight = 0.1, .optimizer = OPT_RANGER, .ranger_alpha = 0.5, .ranger_k = 6,
                 .ranger_use_gc = true, .adam_weight_decay = 1e-2, .adam_beta1 = 0.95, .adam_beta2 = 0.999,
                 .adam_epsilon = 1e-5}},
    {.name = "snr", .on_host = true,
     .rows = 4,
     .prediction = DATA_V_PREDICTION,
     .options = {.rank = 4, .train_text_encoder = true, .with_prior_preservation = true, .prior_loss_weight = 1.0,
                 .contrast_weight = 0.1, .snr_gamma = 5.0}},
    {.name = "frozen", .on_host = true,
     .rows = 4,
     .options = {.rank = 4, .train_text_encoder = true, .with_prior_preservation = true, .prior_loss_weight = 0.5,
                 .prior_target = TRAIN_PRIOR_MODEL}},
    {.name = "text_lr", .on_host = true,
     .rows = 4,
     .options = {.rank = 4, .train_text_encoder = true, .with_prior_preservation = true, .prior_loss_weight = 1.0,
                 .text_encoder_lr = 2e-4, .lr_scheduler = OPT_LINEAR}},
    {.name = "rslora", .on_host = true,
     .rows = 4,
     .options = {.rank = 3, .lora_alpha = 5, .use_rslora = true, .train_text_encoder = true,
                 .with_prior_preservation = true, .prior_loss_weight = 1.0, .lr_scheduler = OPT_COSINE,
                 .lr_warmup_steps = 3}},
    {.name = "conv",
     .rows = 4,
     .options = {.rank = 3, .lora_alpha = 2, .lora_conv = 2, .with_prior_preservation = true,
                 .prior_loss_weight = 1.0}},
    {.name = "dora",
     .rows = 4,
     .options = {.rank = 4, .lora_alpha = 6, .use_dora = true, .train_text_encoder = true,
                 .with_prior_preservation = true, .prior_loss_weight = 1.0, .contrast_weight = 0.1}},
};
enum { N_CASES = sizeof CASES / sizeof *CASES };

/* The values that scripts/golden_lora.py gives a factor, for free(). */
static float *first_values(const char *name, const nn_param *p)
{
    const bool is_magnitude = strstr(name, "lora_magnitude") != NULL;
    float *values = malloc((size_t)p->numel * sizeof *values);
    char full[NN_MAX_NAME + 8];

    assert_non_null(values);
    snprintf(full, sizeof full, "%s%s", name, is_magnitude ? ".weight" : "");
    nn_rule_param(full, is_magnitude ? 1 : p->n_dims, is_magnitude ? &p->numel : p->dims, values);
    for (int64_t k = 0; k < p->numel && strstr(name, "lora_B"); k++)
        values[k] *= 0.25f;
    return values;
}

static void fill(ag_ctx *ctx, nn_adapters *set)
{
    nn_params *params = set ? nn_adapters_params(set) : NULL;

    for (int64_t i = 0; set && i < nn_params_count(params); i++) {
        nn_param *p = nn_params_at(params, i);
        float *values = first_values(p->name, p);
        nn_param_set_published(ctx, p, values, p->n_dims, p->dims);
        check_ok(ctx, p->name);
        free(values);
    }
}

/* Adapters of a case, filled, into a file. */
static void write_first(ag_ctx *ctx, const pipe_model *model, const train_options *o, const char *path)
{
    train_lora lora;

    train_lora_new(&lora, ctx, o, model);
    check_ok(ctx, "adapters");
    fill(ctx, lora.unet);
    fill(ctx, lora.text);
    pipe_lora_save(ctx, path, lora.unet, lora.text, DATA_LORA_DIFFUSERS, NULL, 0);
    check_ok(ctx, path);
    train_lora_free(&lora);
}

static void compare_norms(ag_ctx *ctx, const char *name, const train_state *s)
{
    int64_t n, *order = malloc((size_t)s->n * sizeof *order);
    double *norms = want(ctx, name, "norms", &n), *moved = want(ctx, name, "moved", &n), worst = 0.0;

    assert_int_equal(n, s->n);
    for (int64_t i = 0; i < s->n; i++)
        order[i] = i;
    sorted_state = s;
    qsort(order, (size_t)s->n, sizeof *order, compare_names);
    for (int64_t k = 0; k < s->n; k++) {
        const int64_t i = order[k], numel = s->published[i]->numel;
        float *values = published(ctx, s, i, false), *first = first_values(s->published[i]->name, s->published[i]);
        const double way = norm_of(values, first, numel);
        check_close(s->names[i], k, norm_of(values, NULL, numel), norms[k], 0.0, 1e-5);
        check_close(s->names[i], k, way, moved[k], 1e-6 * norms[k], 1e-3);
        worst = fmax(worst, fabs(way - moved[k]) / moved[k]);
        free(values);
        free(first);
    }
    printf("%s: %lld tensors, their way off by %.1e at most\n", name, (long long)n, worst);
    free(order);
    free(norms);
    free(moved);
}

static void compare_values(ag_ctx *ctx, const char *name, const train_state *s, double lr)
{
    for (int64_t i = 0; i < s->n; i++) {
        char what[NN_MAX_NAME + 32], full[NN_MAX_NAME + 64];
        float *got;
        double *values;
        int64_t n;
        snprintf(what, sizeof what, "value.%s", s->names[i]);
        snprintf(full, sizeof full, "%s.%s", name, what);
        if (data_weights_find(golden, full) < 0)
            continue;
        values = want(ctx, name, what, &n);
        got = published(ctx, s, i, false);
        assert_int_equal(n, s->published[i]->numel);
        for (int64_t k = 0; k < n; k++)
            check_close(full, k, got[k], values[k], 1e-2 * lr, 1e-5);
        free(got);
        free(values);
    }
}

static void check_case(const given_case *shared, const char *folder)
{
    given_case c = *shared;
    ag_ctx *ctx = one_thread();
    pipe_model *model;
    train_given given;
    train_options options;
    double loss[K], grad_norm[K], lr[K];
    train_state *state = NULL;
    train_lora lora;

    c.updates = K;
    c.height = 4;
    c.width = 6;
    model = model_of(ctx, &c);
    given = given_of(&c);
    options = options_of(&c);
    options.lora_init = check_join(folder, c.name);
    write_first(ctx, model, &c.options, options.lora_init);
    train_given_run(ctx, model, &options, &given, loss, grad_norm, lr, &state, &lora);
    check_ok(ctx, c.name);
    compare_curve(ctx, c.name, "lr", lr, K, 1e-12);
    compare_curve(ctx, c.name, "loss", loss, K, 1e-5);
    compare_curve(ctx, c.name, "grad_norm", grad_norm, K, 5e-5);
    compare_norms(ctx, c.name, state);
    compare_values(ctx, c.name, state, options.learning_rate);
    train_state_free(state);
    train_lora_free(&lora);
    free_given(&given);
    pipe_close(model);
    ag_ctx_free(ctx);
}

static void test_trajectories(void **state)
{
    ag_ctx *ctx = one_thread();
    char folder[256];

    (void)state;
    check_folder(folder);
    data_weights_open(&golden, ctx, "tests/golden/personalize.safetensors");
    check_ok(ctx, "golden values");
    for (int i = 0; i < N_CASES; i++)
        if (is_due(&CASES[i]))
            check_case(&CASES[i], folder);
    data_weights_close(golden);
    check_remove(folder);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trajectories),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
