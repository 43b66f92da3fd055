/* test_lora_model.c - LoRA files of every dialect against a small model: merged, loaded into adapters, written.
 *
 * The files and the merged weights that diffusers, peft and the formulas of LyCORIS' kinds give are made by
 * scripts/golden_lora_files.py.
 */
#include <math.h>

#include "tests/folder_check.h"

#include "data/file.h"
#include "data/lora_write.h"
#include "data/safetensors.h"
#include "nn/init.h"
#include "pipeline/convert.h"
#include "pipeline/lora.h"
#include "pipeline/lora_convert.h"
#include "pipeline/lora_extract.h"
#include "pipeline/lora_stack.h"
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
    const nn_vae_config vae = case_vae_f();
    data_schedule_config schedule;
    pipe_model *model = NULL;

    data_schedule_config_default(&schedule);
    check_ok(ctx, pipe_new(&model, ctx, &unet, &vae, &text, &schedule, 1));
    for (int c = 0; c < 2; c++)
        check_ok(ctx, nn_params_rule(ctx, pipe_params(model, PARTS[c])));
    return model;
}

/* The same, on disk; written once. */
static const char *base_folder(void)
{
    static char path[4096];
    pipe_model *model;

    if (!*path) {
        snprintf(path, sizeof path, "%s/base", folder);
        model = make_model();
        check_ok(ctx, pipe_save(ctx, model, path, AG_F32));
        pipe_close(model);
    }
    return path;
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

/* A path that stays: one of eight. */
static const char *kept_path(int which, const char *where, const char *name)
{
    static char paths[8][4096];

    snprintf(paths[which], sizeof paths[which], "%s/%s", where, name);
    return paths[which];
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

/* Both models have the same values, to a tolerance relative to 1 + |value|. */
static void same_models(const char *what, const pipe_model *one, const pipe_model *other, double tolerance)
{
    for (int c = 0; c < 2; c++)
        for (int64_t i = 0; i < nn_params_count(pipe_params(one, PARTS[c])); i++) {
            const nn_param *p = nn_params_at(pipe_params(one, PARTS[c]), i);
            float *got = published(p), *want = published(nn_params_at(pipe_params(other, PARTS[c]), i));
            char name[512];

            snprintf(name, sizeof name, "%s: %s", what, p->name);
            near(name, got, want, p->numel, tolerance);
            free(got);
            free(want);
        }
}

static pipe_model *merged(const pipe_lora_spec *specs, int64_t n)
{
    pipe_model *model = make_model();

    check_ok(ctx, pipe_lora_merge(ctx, model, specs, n, NULL));
    return model;
}

static pipe_model *merged_file(const char *path)
{
    return merged(&(pipe_lora_spec){.path = (char *)path, .weight = 1.0}, 1);
}

/* Several files are the sum of what each does alone, whatever their order: also DoRA, which is no sum. */
static void adds_up_in_any_order(void **state)
{
    char paths[3][256];
    pipe_lora_spec specs[3], turned[3];
    pipe_model *together, *other, *base = make_model();

    (void)state;
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"kohya.safetensors", "lycoris.safetensors", "peft_dora"};
        snprintf(paths[i], sizeof paths[i], "%s/%s", GOLDEN, names[i]);
        specs[i] = (pipe_lora_spec){.path = paths[i], .weight = 0.5 - 0.4 * i};
        turned[2 - i] = specs[i];
    }
    together = merged(specs, 3);
    other = merged(turned, 3);
    same_models("another order", other, together, 3e-7);
    for (int i = 0; i < 3; i++) {
        pipe_model *alone = merged(&specs[i], 1);

        for (int c = 0; c < 2; c++)
            for (int64_t k = 0; k < nn_params_count(pipe_params(base, PARTS[c])); k++) {
                nn_param *sum = nn_params_at(pipe_params(other, PARTS[c]), k);
                float *total = published(sum), *one = published(nn_params_at(pipe_params(alone, PARTS[c]), k));
                float *zero = published(nn_params_at(pipe_params(base, PARTS[c]), k));

                for (int64_t v = 0; v < sum->numel; v++)
                    total[v] -= one[v] - zero[v];
                check_ok(ctx, nn_param_set_published(ctx, sum, total, sum->n_dims, sum->dims));
                free(total);
                free(one);
                free(zero);
            }
        pipe_close(alone);
    }
    same_models("taken apart again", other, base, 3e-6);
    pipe_close(together);
    pipe_close(other);
    pipe_close(base);
}

/* --- what is refused, and what is told -------------------------------------------------------- */

static void write_pair(const char *path, const char *const *modules, int n, int64_t in)
{
    const int64_t down[] = {2, in}, up[] = {12, 2};
    float *values = calloc((size_t)(2 * in + 24), sizeof *values);
    data_source sources[8];
    char names[8][256];

    for (int i = 0; i < 2 * n; i++) {
        snprintf(names[i], sizeof names[i], "%s.lora_%s.weight", modules[i / 2], i % 2 ? "B" : "A");
        sources[i] = (data_source){.name = names[i], .dtype = DATA_F32, .n_dims = 2, .dims = i % 2 ? up : down,
                                   .values = values};
    }
    check_ok(ctx, data_safetensors_write(ctx, path, sources, 2 * n, NULL, 0));
    free(values);
}

#define HERE "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"

static void refuses_what_is_not_in_the_model(void **state)
{
    const char *path = kept_path(0, folder, "misfit.safetensors");
    const pipe_lora_spec specs[] = {{.path = (char *)kept_path(1, GOLDEN, "kohya.safetensors"), .weight = 1.0},
                                    {.path = (char *)path, .weight = 1.0}};
    pipe_model *model = make_model(), *base = make_model();

    (void)state;
    write_pair(path, (const char *const[]){"unet.nowhere.to_q", "unet.nowhere.to_k"}, 2, 12);
    check_failed(ctx, pipe_lora_merge(ctx, model, specs, 2, NULL), AG_EDATA, "the model has none of its 2 modules");
    same_models("after a refusal", model, base, 0.0);
    write_pair(path, (const char *const[]){HERE}, 1, 13);
    check_failed(ctx, pipe_lora_merge(ctx, model, specs, 2, NULL), AG_EDATA, "[12,13] x 1, the model's is [12,12] x 1");
    same_models("after a refusal", model, base, 0.0);

    told[0] = '\0';
    write_pair(path, (const char *const[]){HERE, "unet.nowhere.to_k"}, 2, 12);
    check_ok(ctx, pipe_lora_merge(ctx, model, specs + 1, 1, &NOTE));
    assert_non_null(strstr(told, "the model lacks 1 of its 2 modules, which change nothing: unet.nowhere.to_k"));

    pipe_drop(model, PIPE_UNET);
    check_failed(ctx, pipe_lora_merge(ctx, model, specs + 1, 1, NULL), AG_EDATA, "changes nothing of the text_encoder");
    pipe_close(model);
    pipe_close(base);
}

/* --- adapters --------------------------------------------------------------------------------- */

static const char *const TARGETS[] = {"to_q", "to_out.0", "proj_in", "conv1", "time_emb_proj", "q_proj", "fc2"};

static const nn_lora_config CONFIGS[] = {
    {.rank = 3, .alpha = 3},
    {.rank = 4, .alpha = 1, .conv_rank = 2, .conv_alpha = 5},
    {.rank = 2, .alpha = 3, .conv_rank = 2, .rslora = true},
    {.rank = 2, .alpha = 1, .conv_rank = 1, .dora = true},
};

typedef struct adapted {
    pipe_model *model;
    nn_adapters *sets[2];
} adapted;

static adapted adapt(nn_lora_config config)
{
    adapted a = {.model = make_model()};

    config.targets = TARGETS;
    config.n_targets = sizeof TARGETS / sizeof *TARGETS;
    for (int c = 0; c < 2; c++)
        check_ok(ctx, nn_adapters_new(&a.sets[c], ctx, pipe_params(a.model, PARTS[c]), &config));
    return a;
}

static void adapted_free(adapted *a)
{
    for (int c = 0; c < 2; c++)
        nn_adapters_free(a->sets[c]);
    pipe_close(a->model);
}

/* Values of the rule for all factors, as after some training. */
static void fill_factors(adapted *a)
{
    for (int c = 0; c < 2; c++)
        check_ok(ctx, nn_params_rule(ctx, nn_adapters_params(a->sets[c])));
}

static void save(const char *path, const adapted *a, data_lora_dialect dialect)
{
    check_ok(ctx, pipe_lora_save(ctx, path, a->sets[0], a->sets[1], dialect, NULL, 0));
}

/* What is written makes of the model what the adapters do, and comes back bit for bit; in every dialect. */
static void writes_what_it_reads(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof CONFIGS / sizeof *CONFIGS; k++)
        for (int d = 0; d <= DATA_LORA_KOHYA; d++) {
            adapted from = adapt(CONFIGS[k]), to = adapt(CONFIGS[k]);
            const char *path = kept_path(0, folder, "adapters.safetensors");
            pipe_model *model, *want = make_model();

            fill_factors(&from);
            save(path, &from, (data_lora_dialect)d);
            for (int c = 0; c < 2; c++)
                for (int64_t i = 0; i < nn_adapters_count(from.sets[c]); i++) {
                    const nn_adapter_view view = nn_adapters_at(from.sets[c], i);
                    nn_param *w = nn_params_find(pipe_params(want, PARTS[c]), view.weight->name);
                    float *values = published(w), *delta = malloc((size_t)w->numel * sizeof *delta);

                    check_ok(ctx, nn_adapter_delta(ctx, from.sets[c], i, 1.0, delta));
                    for (int64_t v = 0; v < w->numel; v++)
                        values[v] += delta[v];
                    check_ok(ctx, nn_param_set_published(ctx, w, values, w->n_dims, w->dims));
                    free(values);
                    free(delta);
                }
            model = merged_file(path);
            same_models(data_lora_dialect_name((data_lora_dialect)d), model, want, 1e-6);

            check_ok(ctx, pipe_lora_load(ctx, to.sets[0], to.sets[1], path, NULL));
            for (int c = 0; c < 2; c++)
                for (int64_t i = 0; i < nn_params_count(nn_adapters_params(from.sets[c])); i++) {
                    const nn_param *p = nn_params_at(nn_adapters_params(from.sets[c]), i);
                    float *a = published(p), *b = published(nn_params_at(nn_adapters_params(to.sets[c]), i));

                    assert_memory_equal(a, b, (size_t)p->numel * sizeof *a);
                    free(a);
                    free(b);
                }
            pipe_close(model);
            pipe_close(want);
            adapted_free(&from);
            adapted_free(&to);
        }
}

static void names_what_it_writes(void **state)
{
    adapted a = adapt(CONFIGS[3]);
    const char *path = kept_path(0, folder, "named.safetensors");
    data_weights *w = NULL;
    int64_t n = 0;

    (void)state;
    save(path, &a, DATA_LORA_DIFFUSERS);
    check_ok(ctx, data_weights_open(&w, ctx, path));
    for (int c = 0; c < 2; c++)
        for (int64_t i = 0; i < nn_params_count(nn_adapters_params(a.sets[c])); i++, n++) {
            char *name = pipe_lora_written_name(ctx, PARTS[c], nn_params_at(nn_adapters_params(a.sets[c]), i));

            assert_non_null(name);
            assert_true(data_weights_find(w, name) >= 0);
            ag_delete(name);
        }
    assert_int_equal(n, data_weights_count(w));
    assert_true(data_weights_find(w, HERE ".lora.down.weight") >= 0);
    assert_non_null(strstr(data_weights_at(w, 0)->name, ".lora.down.")); /* diffusers' own names come first */
    assert_true(data_weights_find(w, "unet.mid_block.resnets.0.conv1.lora_magnitude_vector") >= 0);
    assert_true(data_weights_find(w, "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
                                     ".lora_linear_layer.up.weight") >= 0);
    assert_true(data_weights_find(w, "text_encoder.text_model.encoder.layers.0.mlp.fc2.lora_B.weight") >= 0);
    data_weights_close(w);
    adapted_free(&a);
}

static void writes_metadata(void **state)
{
    static const char *const want[][2] = {{"format", "pt"},
                                          {"ss_network_dim", "4"},
                                          {"ss_network_alpha", "1"},
                                          {"ss_network_module", "networks.lora"},
                                          {"ss_base_model_version", "sd_v2_v"},
                                          {"ss_v2", "True"},
                                          {"ss_network_args", "{\"conv_alpha\": \"5\", \"conv_dim\": \"2\"}"},
                                          {"modelspec.sai_model_spec", "1.0.1"},
                                          {"modelspec.architecture", "stable-diffusion-v2-768-v/lora"},
                                          {"modelspec.implementation", "diffusers"},
                                          {"modelspec.title", "metadata"},
                                          {"modelspec.resolution", "768x768"},
                                          {"modelspec.prediction_type", "v"}};
    const data_pair given[] = {{"ss_base_model_version", "sd_v2_v"}, {"ss_v2", "True"}};
    const char *path = kept_path(0, folder, "metadata.safetensors");
    adapted a = adapt(CONFIGS[1]);
    data_weights *w = NULL;

    (void)state;
    check_ok(ctx, pipe_lora_save(ctx, path, a.sets[0], a.sets[1], DATA_LORA_KOHYA, given, 2));
    check_ok(ctx, data_weights_open(&w, ctx, path));
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const char *got = data_weights_metadata(w, want[i][0]);
        if (!got || strcmp(got, want[i][1]) != 0)
            fail_msg("%s is %s, wanted %s", want[i][0], got ? got : "not there", want[i][1]);
    }
    assert_int_equal(data_weights_n_metadata(w), (int64_t)(sizeof want / sizeof *want));
    data_weights_close(w);
    adapted_free(&a);
}

static void loads_strictly(void **state)
{
    const char *path = kept_path(0, folder, "strict.safetensors");
    adapted from = adapt(CONFIGS[0]), other = adapt((nn_lora_config){.rank = 2}),
            scaled = adapt((nn_lora_config){.rank = 3, .alpha = 6});
    adapted dora = adapt((nn_lora_config){.rank = 3, .dora = true});
    const char *const fewer[] = {"to_q"};
    nn_adapters *few = NULL;
    pipe_model *model = make_model();
    const nn_lora_config few_config = {.rank = 3, .targets = fewer, .n_targets = 1};

    (void)state;
    check_ok(ctx, nn_adapters_new(&few, ctx, pipe_params(model, DATA_UNET), &few_config));
    save(path, &from, DATA_LORA_KOHYA);
    check_ok(ctx, pipe_lora_load(ctx, from.sets[0], from.sets[1], path, NULL));
    check_failed(ctx, pipe_lora_load(ctx, from.sets[0], NULL, path, NULL), AG_EDATA, "a part that has no adapters");
    check_failed(ctx, pipe_lora_load(ctx, other.sets[0], other.sets[1], path, NULL), AG_EDATA,
                 "is of rank 3, wanted 2");
    check_failed(ctx, pipe_lora_load(ctx, scaled.sets[0], scaled.sets[1], path, NULL), AG_EDATA,
                 "has alpha 3 (scale 1), the adapter's scale is 2");
    check_failed(ctx, pipe_lora_load(ctx, dora.sets[0], dora.sets[1], path, NULL), AG_EDATA, "is no DoRA, wanted one");
    check_failed(ctx, pipe_lora_load(ctx, few, from.sets[1], path, NULL), AG_EDATA, "have no adapter: lora_unet_");
    check_ok(ctx, pipe_lora_save(ctx, path, few, NULL, DATA_LORA_KOHYA, NULL, 0));
    check_failed(ctx, pipe_lora_load(ctx, from.sets[0], NULL, path, NULL), AG_EDATA, "lacks unet.");
    check_failed(ctx, pipe_lora_load(ctx, from.sets[0], NULL, check_path(GOLDEN, "lycoris.safetensors"), NULL),
                 AG_EDATA, "have no adapter");
    nn_adapters_free(few);
    pipe_close(model);
    adapted_free(&from);
    adapted_free(&other);
    adapted_free(&scaled);
    adapted_free(&dora);
}

/* --- rewriting -------------------------------------------------------------------------------- */

static pipe_lora_converted convert(const char *input, const char *output, data_lora_dialect dialect, bool f16,
                                   int64_t rank, double energy)
{
    const pipe_lora_convert_options options = {.input = input,
                                               .output = output,
                                               .model = base_folder(),
                                               .dialect = dialect,
                                               .keep_dtype = !f16,
                                               .dtype = AG_F16,
                                               .rank = rank,
                                               .energy = energy};
    pipe_lora_converted done;

    check_ok(ctx, pipe_lora_convert(&done, ctx, &options));
    return done;
}

/* Every tensor of one file is in the other, with its type, shape and bits. */
static void same_files(const char *one, const char *other)
{
    data_weights *a = NULL, *b = NULL;

    check_ok(ctx, data_weights_open(&a, ctx, one));
    check_ok(ctx, data_weights_open(&b, ctx, other));
    assert_int_equal(data_weights_count(a), data_weights_count(b));
    for (int64_t i = 0; i < data_weights_count(a); i++) {
        const data_tensor *t = data_weights_at(a, i);
        const int64_t k = data_weights_find(b, t->name);
        const data_tensor *u = k < 0 ? NULL : data_weights_at(b, k);
        void *x = malloc(t->n_bytes + 1), *y = malloc(t->n_bytes + 1);

        if (!u || t->dtype != u->dtype || t->n_dims != u->n_dims ||
            memcmp(t->dims, u->dims, (size_t)t->n_dims * sizeof *t->dims) != 0)
            fail_msg("%s: %s is not what it was", other, t->name);
        check_ok(ctx, data_weights_read(ctx, a, i, x));
        check_ok(ctx, data_weights_read(ctx, b, k, y));
        assert_memory_equal(x, y, t->n_bytes);
        free(x);
        free(y);
    }
    data_weights_close(a);
    data_weights_close(b);
}

static void converts_there_and_back(void **state)
{
    static const char *const files[] = {"diffusers.safetensors", "diffusers_alpha.safetensors",
                                        "diffusers_dora.safetensors", "peft_unet", "peft_dora", "old.bin",
                                        "kohya.safetensors", "kohya_ldm.safetensors"};
    const char *own = kept_path(0, folder, "own.safetensors"), *back = kept_path(1, folder, "back.safetensors");

    (void)state;
    for (size_t f = 0; f < sizeof files / sizeof *files; f++)
        for (int d = 0; d <= DATA_LORA_KOHYA; d++)
            for (int over = 0; over <= DATA_LORA_KOHYA; over++) {
                const char *there = kept_path(2, folder, "there.safetensors"), *input = kept_path(3, GOLDEN, files[f]);
                pipe_model *a, *b;

                convert(input, own, (data_lora_dialect)d, false, 0, 0.0);
                convert(input, there, (data_lora_dialect)over, false, 0, 0.0);
                convert(there, back, (data_lora_dialect)d, false, 0, 0.0);
                same_files(own, back);
                if (over > 0)
                    continue;
                a = merged_file(input);
                b = merged_file(own);
                same_models(files[f], a, b, 3e-7);
                pipe_close(a);
                pipe_close(b);
            }
    /* kohya's own names and alphas are those of the file, but for an alpha of 0 */
    convert(kept_path(4, GOLDEN, "kohya.safetensors"), own, DATA_LORA_PEFT, false, 0, 0.0);
    convert(own, back, DATA_LORA_KOHYA, false, 0, 0.0);
    {
        data_weights *a = NULL, *b = NULL;

        check_ok(ctx, data_weights_open(&a, ctx, kept_path(4, GOLDEN, "kohya.safetensors")));
        check_ok(ctx, data_weights_open(&b, ctx, back));
        for (int64_t i = 0; i < data_weights_count(a); i++)
            assert_true(data_weights_find(b, data_weights_at(a, i)->name) >= 0);
        assert_string_equal(data_weights_metadata(b, "ss_network_module"), "networks.lora");
        data_weights_close(a);
        data_weights_close(b);
    }
}

static void refuses_what_a_dialect_cannot_say(void **state)
{
    const char *out = kept_path(0, folder, "none.safetensors");
    pipe_lora_convert_options options = {.input = kept_path(1, GOLDEN, "lycoris.safetensors"),
                                         .output = out,
                                         .model = base_folder(),
                                         .dialect = DATA_LORA_DIFFUSERS,
                                         .keep_dtype = true};
    pipe_lora_converted done;

    (void)state;
    check_failed(ctx, pipe_lora_convert(&done, ctx, &options), AG_EUNSUPPORTED, "kohya");
    assert_false(data_is_file(out));
    options.model = NULL;
    check_failed(ctx, pipe_lora_convert(&done, ctx, &options), AG_EDATA, "no published model");
    assert_false(data_is_file(out));
}

/* At the whole rank every kind becomes a LoRA that does the same; a smaller rank keeps the largest part. */
static void changes_ranks(void **state)
{
    const char *input = kept_path(0, GOLDEN, "lycoris.safetensors"), *plain = kept_path(1, folder, "plain.safetensors");
    const char *kohya = kept_path(4, GOLDEN, "kohya.safetensors");
    const char *few = kept_path(2, folder, "few.safetensors"), *half = kept_path(3, folder, "half.safetensors");
    pipe_model *a = merged_file(input), *b;
    pipe_lora_converted done;
    double last = 0.0;

    (void)state;
    done = convert(input, plain, DATA_LORA_KOHYA, false, 1000, 0.0);
    assert_true(done.kept > 0.9999999 && done.rank_high > 3);
    b = merged_file(plain);
    same_models("the whole rank", b, a, 2e-6);
    pipe_close(b);
    for (int rank = 1; rank <= 4; rank++) {
        done = convert(kohya, few, DATA_LORA_DIFFUSERS, false, rank, 0.0);
        assert_true(done.kept > last && done.rank_high == rank);
        last = done.kept;
    }
    assert_true(last > 0.9999999); /* four is the file's highest */
    pipe_close(a);
    a = merged_file(kohya);
    b = merged_file(few);
    same_models("the rank it has", b, a, 2e-6);
    pipe_close(a);
    pipe_close(b);
    done = convert(kohya, few, DATA_LORA_DIFFUSERS, false, 4, 0.5);
    assert_true(done.kept >= 0.5 && done.rank_low == 1);
    convert(kohya, half, DATA_LORA_KOHYA, true, 0, 0.0);
    a = merged_file(half);
    b = merged_file(kohya);
    same_models("half precision", a, b, 2e-3);
    pipe_close(a);
    pipe_close(b);
}

/* --- models on disk --------------------------------------------------------------------------- */

static bool touches(void *user, data_component component, const char *name)
{
    return pipe_loras_touch(user, component, name);
}

static ag_status apply(ag_ctx *c, void *user, data_component component, const data_named_shape *tensor, float *values)
{
    return pipe_loras_apply(c, user, component, tensor, values);
}

static void merge_on_disk(const char *input, const pipe_lora_spec *spec, const char *output)
{
    pipe_lora_base base = {0};
    pipe_loras loras = {0};
    const pipe_edit edit = {.touches = touches, .apply = apply, .user = &loras};
    const pipe_convert_options options = {.input = input, .output = output, .keep_dtype = true, .edit = &edit};
    pipe_converted done;

    check_ok(ctx, pipe_lora_base_open(&base, ctx, input));
    check_ok(ctx, pipe_loras_open(&loras, ctx, spec, 1, &base, NULL));
    check_ok(ctx, pipe_convert(&done, ctx, &options));
    pipe_loras_close(&loras);
    pipe_lora_base_free(&base);
}

static pipe_model *open_model(const char *path)
{
    pipe_model *model = NULL;

    check_ok(ctx, pipe_open(&model, ctx, &(pipe_source){.model = path}, PIPE_UNET | PIPE_TEXT));
    return model;
}

/* Folder to folder, folder to single file, and that file to another: what merging in memory gives, to the bit. */
static void merges_on_disk(void **state)
{
    const pipe_lora_spec spec = {.path = (char *)kept_path(0, GOLDEN, "lycoris.safetensors"), .weight = 0.5};
    char paths[3][4096];
    pipe_model *want = merged(&spec, 1);

    (void)state;
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"merged", "merged.safetensors", "merged twice.safetensors"};
        pipe_model *got;

        snprintf(paths[i], sizeof paths[i], "%s/%s", folder, names[i]);
        merge_on_disk(i < 2 ? base_folder() : paths[1], &spec, paths[i]);
        if (i == 2)
            check_ok(ctx, pipe_lora_merge(ctx, want, &spec, 1, NULL));
        got = open_model(paths[i]);
        same_models(names[i], got, want, 0.0);
        pipe_close(got);
    }
    pipe_close(want);
}

static pipe_lora_extracted extract(const char *tuned, const char *output, int64_t rank, int64_t conv_rank)
{
    const pipe_lora_extract_options options = {.base = base_folder(),
                                               .tuned = tuned,
                                               .output = output,
                                               .dialect = DATA_LORA_DIFFUSERS,
                                               .dtype = AG_F32,
                                               .rank = rank,
                                               .conv_rank = conv_rank};
    pipe_lora_extracted done;

    check_ok(ctx, pipe_lora_extract(&done, ctx, &options));
    return done;
}

/* The whole rank gives the weights back; a LoRA's own rank gives the LoRA back. */
static void extracts_what_was_merged(void **state)
{
    char tuned[4096], lora[4096];
    pipe_model *model = make_model(), *got;
    pipe_lora_extracted done;

    (void)state;
    snprintf(tuned, sizeof tuned, "%s/tuned", folder);
    snprintf(lora, sizeof lora, "%s/extracted.safetensors", folder);
    for (int c = 0; c < 2; c++) /* every matrix is another one: the draw of a seed */
        for (int64_t i = 0; i < nn_params_count(pipe_params(model, PARTS[c])); i++) {
            nn_param *p = nn_params_at(pipe_params(model, PARTS[c]), i);

            if (p->n_dims > 1 && !strstr(p->name, "embedding."))
                check_ok(ctx, nn_param_init(ctx, p, 99));
        }
    check_ok(ctx, pipe_save(ctx, model, tuned, AG_F32));
    done = extract(tuned, lora, 10000, 10000);
    assert_int_equal(done.n_left_out, 0);
    assert_true(done.kept > 0.9999999);
    got = merged_file(lora);
    same_models("the whole rank", got, model, 1e-6);
    pipe_close(got);
    done = extract(tuned, lora, 2, 0);
    assert_true(done.kept < 0.9 && done.rank_high == 2 && done.n_left_out > 0);
    pipe_close(model);

    model = merged_file(kept_path(0, GOLDEN, "kohya.safetensors"));
    snprintf(tuned, sizeof tuned, "%s/tuned2", folder);
    check_ok(ctx, pipe_save(ctx, model, tuned, AG_F32));
    done = extract(tuned, lora, 4, 2);
    assert_int_equal(done.n_modules, 8);
    assert_true(done.kept > 0.999999);
    got = merged_file(lora);
    same_models("its own rank", got, model, 1e-5);
    pipe_close(got);
    pipe_close(model);
}

static void refuses_models_of_two_kinds(void **state)
{
    const nn_unet_config unet = case_unet_b();
    const nn_clip_config text = case_clip(NN_GELU);
    const nn_vae_config vae = case_vae_f();
    pipe_lora_extract_options options = {.base = base_folder(), .rank = 2};
    char other[4096], out[4096];
    data_schedule_config schedule;
    pipe_lora_extracted done;
    pipe_model *model = NULL;

    (void)state;
    snprintf(other, sizeof other, "%s/other", folder);
    snprintf(out, sizeof out, "%s/none.safetensors", folder);
    data_schedule_config_default(&schedule);
    check_ok(ctx, pipe_new(&model, ctx, &unet, &vae, &text, &schedule, 1));
    check_ok(ctx, pipe_save(ctx, model, other, AG_F32));
    pipe_close(model);
    options.output = out;
    options.tuned = other;
    check_failed(ctx, pipe_lora_extract(&done, ctx, &options), AG_EDATA, "are not of one kind");
    options.tuned = options.base;
    check_failed(ctx, pipe_lora_extract(&done, ctx, &options), AG_EDATA, "differ in nothing");
    assert_false(data_is_file(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_as_others_do),
        cmocka_unit_test(adds_up_in_any_order),
        cmocka_unit_test(refuses_what_is_not_in_the_model),
        cmocka_unit_test(writes_what_it_reads),
        cmocka_unit_test(names_what_it_writes),
        cmocka_unit_test(writes_metadata),
        cmocka_unit_test(loads_strictly),
        cmocka_unit_test(converts_there_and_back),
        cmocka_unit_test(refuses_what_a_dialect_cannot_say),
        cmocka_unit_test(changes_ranks),
        cmocka_unit_test(merges_on_disk),
        cmocka_unit_test(extracts_what_was_merged),
        cmocka_unit_test(refuses_models_of_two_kinds),
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
