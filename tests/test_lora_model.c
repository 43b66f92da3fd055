/* test_lora_model.c - LoRA files of every dialect against a small model: merged, loaded into adapters, written.
 *
 * The files and the merged weights that diffusers, peft and the formulas of LyCORIS' kinds give are made by
 * scripts/golden_lora_files.py.
 */
#include <math.h>

#include "tests/folder_check.h"

#include "data/lora_write.h"
#include "data/safetensors.h"
#include "nn/init.h"
#include "pipeline/lora.h"
#include "pipeline/presets.h"
#include "tests/nn_cases.h"

static const char GOLDEN[] = "tests/golden/lora_files";
static const double USER = 0.75; /* the weight of golden_lora_files.py */

static ag_ctx *ctx;
static char *folder;

static const data_component PARTS[] = {DATA_UNET, DATA_TEXT_ENCODER};

/* The base of the golden files. */
static pipe_model *make_model(void)
{
    const nn_unet_config unet = case_unet_e();
    const nn_clip_config text = case_clip(NN_QUICK_GELU);
    data_schedule_config schedule;
    pipe_model *model = NULL;

    data_schedule_config_default(&schedule);
    check_ok(ctx, pipe_new(&model, ctx, &unet, NULL, &text, &schedule, 1));
    for (int c = 0; c < 2; c++)
        check_ok(ctx, nn_params_rule(ctx, pipe_params(model, PARTS[c])));
    return model;
}

static float *published(const nn_param *param)
{
    float *values = malloc((size_t)param->numel * sizeof *values);

    assert_non_null(values);
    check_ok(ctx, nn_param_get_published(ctx, param, values));
    return values;
}

static void near(const char *what, const float *got, const float *want, int64_t n, double tolerance)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * (1.0 + fabs(want[i]))))
            fail_msg("%s[%lld] is %.9g, wanted %.9g", what, (long long)i, got[i], want[i]);
}

/* --- what was told ---------------------------------------------------------------------------- */

static char told[4096];

static void hear(void *user, const char *text)
{
    (void)user;
    assert_null(strchr(text, '\n'));
    snprintf(told, sizeof told, "%s", text);
}

static const pipe_note NOTE = {.say = hear};

/* --- merging ---------------------------------------------------------------------------------- */

static const char *const FILES[] = {"diffusers.safetensors",
                                    "diffusers_alpha.safetensors",
                                    "diffusers_dora.safetensors",
                                    "peft_unet",
                                    "peft_dora",
                                    "peft_dora/adapter_model.safetensors",
                                    "peft_text",
                                    "old.bin",
                                    "kohya.safetensors",
                                    "kohya_ldm.safetensors",
                                    "lycoris.safetensors"};
enum { N_FILES = sizeof FILES / sizeof *FILES };

/* Every parameter is as expected of `file`, and those that the file does not change are as they were. Returns how many
 * changed. */
static int64_t compare_model(data_weights *expected, const char *file, const pipe_model *model, const pipe_model *base)
{
    int64_t n = 0;

    for (int c = 0; c < 2; c++) {
        nn_params *params = pipe_params(model, PARTS[c]);

        for (int64_t i = 0; i < nn_params_count(params); i++) {
            const nn_param *p = nn_params_at(params, i);
            float *got = published(p), *want = published(nn_params_at(pipe_params(base, PARTS[c]), i));
            char name[512];
            int64_t k;

            snprintf(name, sizeof name, "%.*s/%s.%s", (int)strcspn(file, "/"), file, data_component_name(PARTS[c]),
                     p->name);
            k = data_weights_find(expected, name);
            if (k >= 0)
                check_ok(ctx, data_weights_read_f32(ctx, expected, k, want));
            else
                assert_memory_equal(got, want, (size_t)p->numel * sizeof *got);
            near(name, got, want, p->numel, 3e-7);
            n += k >= 0;
            free(got);
            free(want);
        }
    }
    return n;
}

static data_weights *open_expected(void)
{
    data_weights *expected = NULL;

    check_ok(ctx, data_weights_open(&expected, ctx, check_path(GOLDEN, "expected.safetensors")));
    return expected;
}

static void merges_as_others_do(void **state)
{
    data_weights *expected = open_expected();
    pipe_model *base = make_model();

    (void)state;
    for (int f = 0; f < N_FILES; f++) {
        pipe_model *model = make_model();
        const pipe_lora_spec spec = {.path = (char *)check_path(GOLDEN, FILES[f]), .weight = USER};
        int64_t n = 0;
        const size_t length = strcspn(FILES[f], "/");

        told[0] = '\0';
        check_ok(ctx, pipe_lora_merge(ctx, model, &spec, 1, &NOTE));
        for (int64_t i = 0; i < data_weights_count(expected); i++) {
            const char *name = data_weights_at(expected, i)->name;
            n += strncmp(name, FILES[f], length) == 0 && name[length] == '/';
        }
        assert_true(n > 0);
        assert_int_equal(compare_model(expected, FILES[f], model, base), n);
        /* only the file without an alpha is worth a word */
        if (strcmp(FILES[f], "kohya_ldm.safetensors") == 0)
            assert_non_null(strstr(told, "no alpha for 5"));
        else
            assert_string_equal(told, "");
        pipe_close(model);
    }
    pipe_close(base);
    data_weights_close(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_as_others_do),
    };
    int failed;

    ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_CPU, .n_threads = 2});
    assert_non_null(ctx);
    folder = check_folder_new();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_folder_remove(folder);
    ag_ctx_free(ctx);
    return failed;
}
