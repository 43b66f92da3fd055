/* test_schedule.c - learning rates against the values of huggingface/diffusers'
 * src/diffusers/optimization.py (scripts/golden_training.py writes more of them for whole runs).
 */
#include "tests/check.h"

#include "optim/schedule.h"
#include "train/options.h"

enum { N = 8 };
static const int64_t updates[N] = {0, 5, 10, 25, 40, 55, 99, 100};

static void test_factors(void **state)
{
    const struct {
        opt_schedule schedule;
        double want[N]; /* of the base rate, to 6 digits */
    } cases[] = {
        {{.kind = OPT_CONSTANT}, {1, 1, 1, 1, 1, 1, 1, 1}},
        {{.kind = OPT_CONSTANT_WITH_WARMUP}, {0, .5, 1, 1, 1, 1, 1, 1}},
        {{.kind = OPT_COSINE}, {0, .5, 1, .933013, .75, .5, .000305, 0}},
        {{.kind = OPT_LINEAR}, {0, .5, 1, .833333, .666667, .5, .011111, 0}},
        {{.kind = OPT_COSINE_WITH_RESTARTS, .cycles = 3}, {0, .5, 1, .5, 1, .5, .002739, 0}},
        {{.kind = OPT_POLYNOMIAL, .power = 2}, {0, .5, 1, .69475, .445, .25075, .001123, .001}},
        {{.kind = OPT_PIECEWISE_CONSTANT, .rules = "1:10,0.1:20,0.005"},
         {1, 1, .1, .005, .005, .005, .005, .005}},
    };
    ag_ctx *ctx = check_ctx();

    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        opt_schedule s = cases[c].schedule;
        s.lr = 1e-4;
        s.warmup = 10;
        s.total = 100;
        opt_schedule_check(ctx, &s);
        check_ok(ctx, opt_schedule_names[s.kind]);
        for (int i = 0; i < N; i++)
            check_close(opt_schedule_names[s.kind], updates[i],
                        opt_schedule_lr(&s, updates[i]) / s.lr, cases[c].want[i], 6e-7, 0.0);
    }
    ag_ctx_free(ctx);
}

/* After the end nothing rises again; no warm-up and no span divide by nothing. */
static void test_edges(void **state)
{
    opt_schedule s = {
        .lr = 1.0, .warmup = 0, .total = 4, .cycles = 1, .power = 1, .rules = "2:3,0.5"};

    (void)state;
    for (int kind = 0; kind < OPT_N_SCHEDULES; kind++) {
        s.kind = (opt_schedule_kind)kind;
        assert_true(opt_schedule_lr(&s, 0) == (kind == OPT_PIECEWISE_CONSTANT ? 2.0 : 1.0));
        s.total = 0; /* all of it is behind */
        assert_true(isfinite(opt_schedule_lr(&s, 0)) && isfinite(opt_schedule_lr(&s, 9)));
        s.total = 4;
    }
    s.kind = OPT_COSINE;
    check_close("cosine after the end", 8, opt_schedule_lr(&s, 8), 0.0, 0.0, 0.0);
    s.kind = OPT_LINEAR;
    check_close("linear after the end", 8, opt_schedule_lr(&s, 8), 0.0, 0.0, 0.0);
    s.kind = OPT_POLYNOMIAL;
    check_close("polynomial after the end", 8, opt_schedule_lr(&s, 8), 1e-7, 0.0, 0.0);
    s.kind = OPT_PIECEWISE_CONSTANT;
    check_close("rule", 2, opt_schedule_lr(&s, 2), 2.0, 0.0, 0.0);
    check_close("rule", 3, opt_schedule_lr(&s, 3), 0.5, 0.0, 0.0);
    s.rules = "0.25";
    check_close("one rule", 3, opt_schedule_lr(&s, 3), 0.25, 0.0, 0.0);
}

static void test_refusals(void **state)
{
    static const char *const bad[] = {"",         "1:10",  "1:10,",     "1:10,x",
                                      "x:10,1",   "1:0,1", "1:9,2:5,1", "-1:10,1",
                                      "nan:10,1", "1:x,1", "1:10;1",    "1:10,0.1 "};
    ag_ctx *ctx = check_ctx();
    opt_schedule s = {.kind = OPT_POLYNOMIAL, .lr = 1e-7, .total = 10};

    (void)state;
    opt_schedule_check(ctx, &s);
    check_failed(ctx, AG_EINVAL, "polynomial at its end");
    s = (opt_schedule){.kind = OPT_LINEAR, .lr = -1.0, .total = 10};
    opt_schedule_check(ctx, &s);
    check_failed(ctx, AG_EINVAL, "negative rate");
    s.lr = NAN;
    opt_schedule_check(ctx, &s);
    check_failed(ctx, AG_EINVAL, "no rate");
    s = (opt_schedule){.kind = OPT_LINEAR, .lr = 1.0, .warmup = -1};
    opt_schedule_check(ctx, &s);
    check_failed(ctx, AG_EINVAL, "negative warm-up");
    s = (opt_schedule){.kind = OPT_PIECEWISE_CONSTANT, .lr = 1.0};
    opt_schedule_check(ctx, &s);
    check_failed(ctx, AG_EINVAL, "no rules");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        s.rules = bad[i];
        if (opt_schedule_check(ctx, &s) == AG_OK)
            fail_msg("rules \"%s\" were taken", bad[i]);
        check_failed(ctx, AG_EINVAL, bad[i]);
    }
    ag_ctx_free(ctx);
}

/* The options' way into a schedule: --scale_lr. */
static void test_options(void **state)
{
    train_options o = {.learning_rate = 5e-6,
                       .train_batch_size = 3,
                       .gradient_accumulation_steps = 4,
                       .lr_scheduler = OPT_LINEAR,
                       .lr_warmup_steps = 2};
    opt_schedule s = train_schedule(&o, 150);

    (void)state;
    assert_true(s.lr == 5e-6 && s.kind == OPT_LINEAR && s.warmup == 2 && s.total == 150);
    o.scale_lr = true;
    check_close("scaled", 0, train_base_lr(&o), 6e-5, 0.0, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
