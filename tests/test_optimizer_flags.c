/* test_optimizer_flags.c - the optimizer's flags: published defaults by optimizer, what is given wins, and
 * a line for every flag that the chosen one does not hear.
 */
#include "tests/train_check.h"

#include "cli/train_flags.h"

static const cli_group GROUPS[] = {{"the optimizer", cli_optimizer_flags, 0}, {0}};
static const cli_syntax SYNTAX = {.command = "test", .usage = "", .summary = "", .groups = GROUPS};

/* Parse words and settle what they leave open; what was said on standard error into text. */
static ag_status settle(train_options *o, ag_ctx *ctx, char *text, size_t size, int argc, const char **words)
{
    FILE *said = tmpfile();
    const int was = dup(STDERR_FILENO);
    cli_parsed parsed;

    memset(o, 0, sizeof *o);
    assert_non_null(said);
    fflush(stderr);
    dup2(fileno(said), STDERR_FILENO);
    if (cli_parse(&parsed, o, ctx, &SYNTAX, argc, (char *const *)words) == AG_OK)
        cli_check_optimizer(ctx, o, &parsed);
    fflush(stderr);
    dup2(was, STDERR_FILENO);
    close(was);
    rewind(said);
    text[fread(text, 1, size - 1, said)] = '\0';
    fclose(said);
    cli_parsed_free(&parsed);
    return ag_status_of(ctx);
}

#define SETTLE(...)                                                                               \
    settle(&o, ctx, text, sizeof text, (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), \
           (const char *[]){__VA_ARGS__})

static void test_defaults(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_options o;
    char text[2048];

    (void)state;
    for (int kind = 0; kind < OPT_N_KINDS; kind++) {
        const opt_config want = opt_defaults((opt_kind)kind);
        opt_config got;
        SETTLE("--optimizer", opt_kind_names[kind], "--learning_rate=1");
        check_ok(ctx, opt_kind_names[kind]);
        got = train_opt_config(&o);
        assert_string_equal(text, "");
        assert_int_equal(got.kind, kind);
        if (opt_uses((opt_kind)kind) & OPT_USES_BETA1)
            assert_true(got.beta1 == want.beta1 || (isnan(got.beta1) && isnan(want.beta1)));
        if (opt_uses((opt_kind)kind) & OPT_USES_BETA2)
            assert_true(got.beta2 == want.beta2);
        if (opt_uses((opt_kind)kind) & OPT_USES_EPS)
            assert_true(got.eps == want.eps);
        assert_true(got.weight_decay == want.weight_decay);
        assert_true(got.sgd.momentum == 0.0 && got.sgd.dampening == 0.0 && !got.sgd.nesterov);
        assert_true(got.ranger.alpha == want.ranger.alpha && got.ranger.k == want.ranger.k &&
                    got.ranger.use_gc == want.ranger.use_gc && !got.ranger.gc_conv_only);
        assert_true(got.adafactor.clip_threshold == want.adafactor.clip_threshold &&
                    got.adafactor.decay_rate == want.adafactor.decay_rate &&
                    got.adafactor.eps2 == want.adafactor.eps2 && got.adafactor.scale_parameter);
        assert_true(got.prodigy.d0 == want.prodigy.d0 && got.prodigy.d_coef == want.prodigy.d_coef &&
                    isinf(got.prodigy.growth_rate) && got.prodigy.decouple &&
                    !got.prodigy.use_bias_correction && !got.prodigy.safeguard_warmup);
    }
    ag_ctx_free(ctx);
}

static void test_given_wins(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_options o;
    opt_config c;
    char text[2048];

    (void)state;
    SETTLE("--optimizer=ranger", "--adam_beta1=0.5", "--adam_epsilon=1e-3", "--adam_weight_decay=0.2",
           "--ranger_k=3", "--ranger_use_gc=false");
    c = train_opt_config(&o);
    assert_true(c.beta1 == 0.5 && c.beta2 == 0.999 && c.eps == 1e-3 && c.weight_decay == 0.2);
    assert_true(c.ranger.k == 3 && !c.ranger.use_gc);
    SETTLE("--use_8bit_adam");
    assert_int_equal(train_opt_config(&o).kind, OPT_ADAMW8BIT);
    SETTLE("--optimizer=prodigy", "--learning_rate=1", "--prodigy_growth_rate=1.02", "--adam_beta2=0.81");
    c = train_opt_config(&o);
    assert_true(c.prodigy.growth_rate == 1.02 && fabs(c.prodigy.beta3 - 0.9) < 1e-15);
    /* Adafactor's rate is its own until one is given */
    SETTLE("--optimizer=adafactor");
    assert_true(train_opt_config(&o).adafactor.relative_step);
    SETTLE("--optimizer=adafactor", "--learning_rate=1e-3");
    assert_false(train_opt_config(&o).adafactor.relative_step);
    assert_string_equal(text, "");
    SETTLE("--optimizer=adafactor", "--adafactor_relative_step=false");
    assert_false(train_opt_config(&o).adafactor.relative_step);
    check_ok(ctx, "flags");
    SETTLE("--use_8bit_adam", "--optimizer=lion");
    check_failed_with(ctx, AG_EINVAL, "--use_8bit_adam chooses adamw8bit, --optimizer lion another");
    SETTLE("--adam_beta1=nan");
    check_failed(ctx, AG_EINVAL, "a number that is none");
    SETTLE("--optimizer=adam");
    check_failed_with(ctx, AG_EINVAL, "wanted one of adamw, adamw8bit, ranger, lion, adafactor, prodigy, sgd");
    ag_ctx_free(ctx);
}

static void test_unheard(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_options o;
    char text[2048];

    (void)state;
    SETTLE("--optimizer=sgd", "--ranger_k=3", "--adam_beta1=0.9", "--sgd_momentum=0.9", "--prodigy_decouple=false");
    assert_non_null(strstr(text, "--ranger_k has no effect: the optimizer is sgd\n"));
    assert_non_null(strstr(text, "--prodigy_decouple has no effect: the optimizer is sgd\n"));
    assert_non_null(strstr(text, "--adam_beta1 has no effect: sgd has no such number\n"));
    assert_null(strstr(text, "--sgd_momentum"));
    SETTLE("--optimizer=lion", "--adam_epsilon=1e-8", "--adam_beta2=0.9");
    assert_string_equal(text, "--adam_epsilon has no effect: lion has no such number\n");
    SETTLE("--optimizer=adafactor", "--adafactor_relative_step=true", "--learning_rate=1", "--lr_scheduler=cosine");
    assert_non_null(strstr(text, "--learning_rate has no effect: adafactor's relative step is its rate\n"));
    assert_non_null(strstr(text, "--lr_scheduler has no effect"));
    SETTLE("--optimizer=prodigy");
    assert_string_equal(text, "--learning_rate 5e-06 multiplies the step size that prodigy finds: it wants 1.0\n");
    check_ok(ctx, "flags");
    ag_ctx_free(ctx);
}

/* What the optimizer has no use for is null in the effective configuration. */
static void test_effective(void **state)
{
    ag_ctx *ctx = check_ctx();
    train_options o;
    char text[2048];
    json_t *config;

    (void)state;
    SETTLE("--optimizer=lion");
    config = cli_effective(&SYNTAX, &o);
    assert_true(json_real_value(json_object_get(config, "adam_beta2")) == 0.99);
    assert_true(json_is_null(json_object_get(config, "adam_epsilon")));
    assert_string_equal(json_string_value(json_object_get(config, "optimizer")), "lion");
    json_decref(config);
    SETTLE("--use_8bit_adam");
    config = cli_effective(&SYNTAX, &o);
    assert_string_equal(json_string_value(json_object_get(config, "optimizer")), "adamw8bit");
    json_decref(config);
    check_ok(ctx, "flags");
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_given_wins),
        cmocka_unit_test(test_unheard),
        cmocka_unit_test(test_effective),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
