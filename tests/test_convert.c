/* test_convert.c - models between folders and single files: the same tensors, bit for bit.
 *
 * Small random models of both families, and of options that no published model has, go folder ->
 * single file -> folder; every tensor must come back with its name, dtype, shape and bits, and
 * every configuration with its text. The names themselves are compared with diffusers' in
 * test_single_file.c. Precisions are compared value by value with data_from_f32.
 */
#include "tests/folder_check.h"

#include "data/file.h"
#include "data/safetensors.h"
#include "pipeline/convert.h"
#include "pipeline/pipeline.h"
#include "pipeline/presets.h"
#include "tests/nn_cases.h"

static ag_ctx *ctx;
static char *folder;

/* --- models ----------------------------------------------------------------------------------- */

typedef enum kind { TINY, SD1_LIKE, SD2_LIKE, ODD, N_KINDS } kind;

/* Write a model of random weights to folder/name. */
static void make_model(kind k, const char *name, ag_dtype dtype)
{
    pipe_model *model = NULL;
    pipe_preset p;
    int tiny = 0;

    while (strcmp(pipe_preset_names[tiny], "tiny") != 0)
        tiny++;
    pipe_preset_get(&p, tiny);
    if (k == SD1_LIKE) {
        p.unet = case_unet_c();
        p.vae = case_vae_c();
        p.text = case_clip(NN_QUICK_GELU);
    } else if (k == SD2_LIKE) {
        p.unet = case_unet_b();
        p.vae = case_vae_a();
        p.text = case_clip(NN_GELU);
        data_model_preset("sd21", NULL, NULL, NULL, &p.schedule);
    } else if (k == ODD) {
        p.unet = case_unet_d();
        p.vae = case_vae_d();
        p.text = case_clip_mask();
    }
    check_ok(ctx, pipe_new(&model, ctx, &p.unet, &p.vae, &p.text, &p.schedule, 7 + (uint64_t)k));
    check_ok(ctx, pipe_save(ctx, model, check_path(folder, name), dtype));
    pipe_close(model);
}

static pipe_convert_options from_to(const char *input, const char *output)
{
    return (pipe_convert_options){.input = check_path(folder, input),
                                  .output = check_path(folder, output),
                                  .keep_dtype = true};
}

static void convert(const char *input, const char *output)
{
    const pipe_convert_options options = from_to(input, output);
    pipe_converted done;

    check_ok(ctx, pipe_convert(&done, ctx, &options));
    assert_true(done.n_tensors > 0 && done.n_bytes > 0);
}

/* --- comparing -------------------------------------------------------------------------------- */

static void same_weights(const char *one, const char *other)
{
    data_weights *a = NULL, *b = NULL;

    check_ok(ctx, data_weights_open(&a, ctx, one));
    check_ok(ctx, data_weights_open(&b, ctx, other));
    assert_int_equal(data_weights_count(a), data_weights_count(b));
    for (int64_t i = 0; i < data_weights_count(a); i++) {
        const data_tensor *t = data_weights_at(a, i);
        const int64_t k = data_weights_find(b, t->name);
        const data_tensor *u = k < 0 ? NULL : data_weights_at(b, k);
        char *x = malloc(t->n_bytes + 1), *y = malloc(t->n_bytes + 1);

        if (!u || t->dtype != u->dtype || t->n_dims != u->n_dims ||
            memcmp(t->dims, u->dims, (size_t)t->n_dims * sizeof *t->dims) != 0)
            fail_msg("%s: %s is not what it was", other, t->name);
        check_ok(ctx, data_weights_read(ctx, a, i, x));
        check_ok(ctx, data_weights_read(ctx, b, k, y));
        if (memcmp(x, y, t->n_bytes) != 0)
            fail_msg("%s: %s has other bits", other, t->name);
        free(x);
        free(y);
    }
    data_weights_close(a);
    data_weights_close(b);
}

static void same_file(const char *one, const char *other)
{
    char *a = NULL, *b = NULL;
    size_t n_a, n_b;

    check_ok(ctx, data_file_read(&a, &n_a, ctx, one, 1 << 20));
    check_ok(ctx, data_file_read(&b, &n_b, ctx, other, 1 << 20));
    assert_string_equal(a, b);
    ag_delete(a);
    ag_delete(b);
}

static const char *const WEIGHTS[] = {"unet/diffusion_pytorch_model.safetensors",
                                      "vae/diffusion_pytorch_model.safetensors",
                                      "text_encoder/model.safetensors"};
static const char *const TEXTS[] = {"unet/config.json", "vae/config.json",
                                    "text_encoder/config.json", "scheduler/scheduler_config.json",
                                    "model_index.json"};

static const char *in(const char *model, const char *file)
{
    char name[256];

    snprintf(name, sizeof name, "%s/%s", model, file);
    return check_path(folder, name);
}

static void same_model(const char *one, const char *other, bool with_dtype)
{
    for (size_t i = 0; i < sizeof WEIGHTS / sizeof *WEIGHTS; i++)
        same_weights(in(one, WEIGHTS[i]), in(other, WEIGHTS[i]));
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
        if (i != 2 || with_dtype)
            same_file(in(one, TEXTS[i]), in(other, TEXTS[i]));
}

/* --- round trips ------------------------------------------------------------------------------ */

static void there_and_back(void **state)
{
    static const ag_dtype dtypes[] = {AG_F32, AG_F16, AG_BF16, AG_F32};

    (void)state;
    for (int k = 0; k < N_KINDS; k++) {
        char a[16], b[32], c[16], d[32];

        snprintf(a, sizeof a, "a%d", k);
        snprintf(b, sizeof b, "b%d.safetensors", k);
        snprintf(c, sizeof c, "c%d", k);
        snprintf(d, sizeof d, "d%d.safetensors", k);
        make_model((kind)k, a, dtypes[k]);
        convert(a, b);
        convert(b, c);
        same_model(a, c, true);
        convert(c, d); /* and the file is a function of the folder */
        same_weights(check_path(folder, b), check_path(folder, d));
    }
}

/* The single file opens as a model, with the numbers that the folder has. */
static void a_single_file_is_a_model(void **state)
{
    pipe_model *one = NULL, *other = NULL;

    (void)state;
    check_ok(ctx, pipe_open(&one, ctx, &(pipe_source){.model = check_path(folder, "a2")},
                            PIPE_UNET | PIPE_VAE | PIPE_TEXT));
    check_ok(ctx,
             pipe_open(&other, ctx, &(pipe_source){.model = check_path(folder, "b2.safetensors")},
                       PIPE_UNET | PIPE_VAE | PIPE_TEXT));
    assert_int_equal(other->schedule.prediction_type, DATA_V_PREDICTION);
    assert_string_equal(other->schedule.class_name, one->schedule.class_name);
    for (int c = 0; c < DATA_N_COMPONENTS; c++) {
        nn_params *p = pipe_params(one, (data_component)c),
                  *q = pipe_params(other, (data_component)c);

        assert_int_equal(nn_params_count(p), nn_params_count(q));
        for (int64_t i = 0; i < nn_params_count(p); i++)
            assert_memory_equal(ag_data(nn_params_at(p, i)->value),
                                ag_data(nn_params_at(q, i)->value),
                                ag_nbytes(nn_params_at(p, i)->value));
    }
    pipe_close(one);
    pipe_close(other);
}

/* What other programs look for in an SD2 file: all of OpenCLIP. */
static void open_clip_is_complete(void **state)
{
    data_weights *w = NULL;
    const char *const names[] = {
        "cond_stage_model.model.transformer.resblocks.%d.attn.in_proj_weight",
        "cond_stage_model.model.transformer.resblocks.%d.mlp.c_fc.bias"};

    (void)state;
    check_ok(ctx, data_weights_open(&w, ctx, check_path(folder, "b2.safetensors")));
    for (int i = 0; i < 2; i++) {
        char last[128], extra[128], *x, *y;
        int64_t k, m;

        snprintf(last, sizeof last, names[i], 4);
        snprintf(extra, sizeof extra, names[i], 5);
        k = data_weights_find(w, last);
        m = data_weights_find(w, extra);
        assert_true(k >= 0 && m >= 0);
        assert_int_equal(data_weights_at(w, k)->n_bytes, data_weights_at(w, m)->n_bytes);
        assert_int_equal(data_weights_at(w, k)->dims[0], i == 0 ? 96 : 37);
        x = malloc(data_weights_at(w, k)->n_bytes);
        y = malloc(data_weights_at(w, k)->n_bytes);
        check_ok(ctx, data_weights_read(ctx, w, k, x));
        check_ok(ctx, data_weights_read(ctx, w, m, y));
        assert_memory_equal(x, y, data_weights_at(w, k)->n_bytes);
        free(x);
        free(y);
    }
    {
        float values[32 * 32];
        const int64_t k = data_weights_find(w, "cond_stage_model.model.text_projection");

        check_ok(ctx, data_weights_read_f32(ctx, w, k, values));
        for (int i = 0; i < 32 * 32; i++)
            assert_true(values[i] == 1.0f);
        assert_int_equal(
            data_weights_at(w, data_weights_find(w, "cond_stage_model.model.logit_scale"))->n_dims,
            0);
    }
    data_weights_close(w);
}

static void vae_attention_is_a_convolution_in_the_file(void **state)
{
    data_weights *w = NULL;
    int64_t i;

    (void)state;
    check_ok(ctx, data_weights_open(&w, ctx, check_path(folder, "b1.safetensors")));
    i = data_weights_find(w, "first_stage_model.encoder.mid.attn_1.q.weight");
    assert_true(i >= 0 && data_weights_at(w, i)->n_dims == 4 &&
                data_weights_at(w, i)->dims[3] == 1);
    assert_non_null(data_weights_metadata(w, "agewright.unet"));
    data_weights_close(w);
}

/* --- precisions ------------------------------------------------------------------------------- */

static void values_are_rounded_once(const char *wide, const char *narrow, data_dtype dtype)
{
    data_weights *a = NULL, *b = NULL;

    check_ok(ctx, data_weights_open(&a, ctx, wide));
    check_ok(ctx, data_weights_open(&b, ctx, narrow));
    assert_int_equal(data_weights_count(a), data_weights_count(b));
    for (int64_t i = 0; i < data_weights_count(a); i++) {
        const data_tensor *t = data_weights_at(a, i);
        const int64_t k = data_weights_find(b, t->name);
        float *x = malloc((size_t)t->n_values * sizeof *x + 1);
        uint16_t *want = malloc((size_t)t->n_values * sizeof *want + 1);
        uint16_t *got = malloc((size_t)t->n_values * sizeof *got + 1);

        assert_true(k >= 0);
        assert_int_equal(data_weights_at(b, k)->dtype, dtype);
        check_ok(ctx, data_weights_read_f32(ctx, a, i, x));
        check_ok(ctx, data_weights_read(ctx, b, k, got));
        data_from_f32(want, dtype, x, t->n_values);
        assert_memory_equal(got, want, (size_t)t->n_values * sizeof *want);
        free(x);
        free(want);
        free(got);
    }
    data_weights_close(a);
    data_weights_close(b);
}

static void precisions(void **state)
{
    pipe_convert_options options = from_to("a0", "half");
    pipe_converted done;
    data_weights *w = NULL;

    (void)state;
    options.keep_dtype = false;
    options.dtype = AG_BF16;
    check_ok(ctx, pipe_convert(&done, ctx, &options));
    for (size_t i = 0; i < sizeof WEIGHTS / sizeof *WEIGHTS; i++)
        values_are_rounded_once(in("a0", WEIGHTS[i]), in("half", WEIGHTS[i]), DATA_BF16);
    options = from_to("b0.safetensors", "half.safetensors");
    options.keep_dtype = false;
    options.dtype = AG_F16;
    check_ok(ctx, pipe_convert(&done, ctx, &options));
    values_are_rounded_once(check_path(folder, "b0.safetensors"),
                            check_path(folder, "half.safetensors"), DATA_F16);
    check_ok(ctx, data_weights_open(&w, ctx, check_path(folder, "half.safetensors")));
    assert_non_null(data_weights_metadata(w, "agewright.text_encoder"));
    data_weights_close(w);
    /* and a precision both ways between the two containers */
    options = from_to("a0", "bf16.safetensors");
    options.keep_dtype = false;
    options.dtype = AG_BF16;
    check_ok(ctx, pipe_convert(&done, ctx, &options));
    convert("bf16.safetensors", "bf16");
    same_model("half", "bf16", true);
}

/* --- older and odd inputs --------------------------------------------------------------------- */

/* Rewrite a weight file with one name changed, one tensor left out (NULL: none), one added. */
static void rewrite(const char *path, const char *from, const char *to, const char *without,
                    const data_source *extra)
{
    data_weights *w = NULL;
    data_source *list;
    data_pair pairs[8];
    void **values;
    int64_t n = 0, m = 0, n_pairs = 0;

    check_ok(ctx, data_weights_open(&w, ctx, path));
    list = calloc((size_t)data_weights_count(w) + 1, sizeof *list);
    values = calloc((size_t)data_weights_count(w), sizeof *values);
    for (int64_t i = 0; i < data_weights_count(w); i++) {
        const data_tensor *t = data_weights_at(w, i);

        if (without && strcmp(t->name, without) == 0)
            continue;
        values[m] = malloc(t->n_bytes + 1);
        check_ok(ctx, data_weights_read(ctx, w, i, values[m]));
        list[n++] = (data_source){.name = from && strcmp(t->name, from) == 0 ? to : t->name,
                                  .dtype = t->dtype,
                                  .n_dims = t->n_dims,
                                  .dims = t->dims,
                                  .values = values[m++]};
    }
    if (extra)
        list[n++] = *extra;
    for (int64_t i = 0; i < data_weights_n_metadata(w); i++)
        pairs[n_pairs++] = data_weights_metadata_at(w, i);
    check_ok(ctx, data_safetensors_write(ctx, path, list, n, pairs, n_pairs));
    data_weights_close(w);
    while (m > 0)
        free(values[--m]);
    free(values);
    free(list);
}

static void older_names_and_position_ids(void **state)
{
    static const int64_t ids[77] = {0, 1, 2}, dims[] = {1, 77};
    const data_source extra = {.name = "text_model.embeddings.position_ids",
                               .dtype = DATA_I64,
                               .n_dims = 2,
                               .dims = dims,
                               .values = ids};

    (void)state;
    make_model(SD1_LIKE, "old", AG_F32);
    rewrite(in("old", WEIGHTS[1]), "encoder.mid_block.attentions.0.to_q.weight",
            "encoder.mid_block.attentions.0.query.weight", NULL, NULL);
    rewrite(in("old", WEIGHTS[2]), NULL, NULL, NULL, &extra);
    convert("old", "old.safetensors");
    convert("old.safetensors", "new");
    same_weights(in("old", WEIGHTS[2]), in("new", WEIGHTS[2]));
    rewrite(in("old", WEIGHTS[1]), "encoder.mid_block.attentions.0.query.weight",
            "encoder.mid_block.attentions.0.to_q.weight", NULL, NULL);
    same_weights(in("old", WEIGHTS[1]), in("new", WEIGHTS[1]));
}

/* A file with an averaged copy of the U-Net: names without dots, other values. */
static void the_averaged_copy(void **state)
{
    data_weights *plain = NULL, *average = NULL;
    data_source *list;
    void **values;
    char(*names)[DATA_TENSOR_NAME];
    pipe_convert_options options;
    pipe_converted done;
    int64_t n = 0, m = 0;

    (void)state;
    check_ok(ctx, data_weights_open(&plain, ctx, check_path(folder, "b1.safetensors")));
    make_model(SD1_LIKE, "average", AG_F16); /* the same draws, rounded: other bits */
    convert("average", "average.safetensors");
    check_ok(ctx, data_weights_open(&average, ctx, check_path(folder, "average.safetensors")));
    list = calloc(2 * (size_t)data_weights_count(plain), sizeof *list);
    values = calloc(2 * (size_t)data_weights_count(plain), sizeof *values);
    names = calloc((size_t)data_weights_count(plain), sizeof *names);
    for (int64_t i = 0; i < data_weights_count(plain); i++) {
        const data_tensor *t = data_weights_at(plain, i);

        values[m] = malloc(t->n_bytes + 1);
        check_ok(ctx, data_weights_read(ctx, plain, i, values[m]));
        list[n++] = (data_source){.name = t->name,
                                  .dtype = t->dtype,
                                  .n_dims = t->n_dims,
                                  .dims = t->dims,
                                  .values = values[m++]};
        if (strncmp(t->name, "model.diffusion_model.", 22) == 0) {
            const int64_t k = data_weights_find(average, t->name);
            size_t used = (size_t)sprintf(names[i], "model_ema.");

            for (const char *c = t->name + strlen("model."); *c; c++)
                if (*c != '.')
                    names[i][used++] = *c;
            t = data_weights_at(average, k);
            values[m] = malloc(t->n_bytes + 1);
            check_ok(ctx, data_weights_read(ctx, average, k, values[m]));
            list[n++] = (data_source){.name = names[i],
                                      .dtype = t->dtype,
                                      .n_dims = t->n_dims,
                                      .dims = t->dims,
                                      .values = values[m++]};
        }
    }
    {
        data_pair pairs[8];
        int64_t n_pairs = 0;

        for (int64_t i = 0; i < data_weights_n_metadata(plain); i++)
            pairs[n_pairs++] = data_weights_metadata_at(plain, i);
        check_ok(ctx, data_safetensors_write(ctx, check_path(folder, "ema.safetensors"), list, n,
                                             pairs, n_pairs));
    }
    options = from_to("ema.safetensors", "averaged");
    options.use_ema = true;
    check_ok(ctx, pipe_convert(&done, ctx, &options));
    same_weights(in("average", WEIGHTS[0]), in("averaged", WEIGHTS[0]));
    same_weights(in("a1", WEIGHTS[1]), in("averaged", WEIGHTS[1]));
    convert("ema.safetensors", "plain"); /* without the flag: the plain copy */
    same_weights(in("a1", WEIGHTS[0]), in("plain", WEIGHTS[0]));
    options = from_to("ema.safetensors", "averaged.safetensors");
    options.use_ema = true;
    check_ok(ctx, pipe_convert(&done, ctx, &options));
    convert("averaged.safetensors", "averaged2");
    same_weights(in("average", WEIGHTS[0]), in("averaged2", WEIGHTS[0]));
    convert("ema.safetensors", "copy.safetensors"); /* a file to a file keeps everything */
    same_weights(check_path(folder, "ema.safetensors"), check_path(folder, "copy.safetensors"));
    data_weights_close(plain);
    data_weights_close(average);
    while (m > 0)
        free(values[--m]);
    free(values);
    free(names);
    free(list);
}

static void parts_alone(void **state)
{
    (void)state;
    convert("a1/vae", "vae.safetensors"); /* a component's folder, a stand-alone VAE, and back */
    convert("vae.safetensors", "vae_only");
    same_weights(in("a1", WEIGHTS[1]), in("vae_only", WEIGHTS[1]));
    assert_false(data_is_file(check_path(folder, "vae_only/model_index.json")));
    convert("a1/vae", "vae_folder");
    same_weights(in("a1", WEIGHTS[1]),
                 check_path(folder, "vae_folder/diffusion_pytorch_model.safetensors"));
    same_file(in("a1", TEXTS[1]), check_path(folder, "vae_folder/config.json"));
    convert("a1/unet/diffusion_pytorch_model.safetensors", "as_is.safetensors");
    same_weights(in("a1", WEIGHTS[0]), check_path(folder, "as_is.safetensors"));
}

static void torch_files(void **state)
{
    const pipe_convert_options options = {.input = "tests/golden/weights/lightning.pt",
                                          .output = check_path(folder, "lightning.safetensors"),
                                          .keep_dtype = true};
    pipe_converted done;

    (void)state;
    check_ok(ctx, pipe_convert(&done, ctx, &options));
    same_weights(options.input, options.output);
}

/* --- refusals --------------------------------------------------------------------------------- */

static void refuse(const pipe_convert_options *options, ag_status status, const char *words)
{
    pipe_converted done;
    const bool was = data_is_folder(options->output) || data_is_file(options->output);

    check_failed(ctx, pipe_convert(&done, ctx, options), status, words);
    if (!was && (data_is_folder(options->output) || data_is_file(options->output)))
        fail_msg("%s: a refused conversion left something", options->output);
}

static void refusals(void **state)
{
    pipe_convert_options o = from_to("a1", "c1");

    (void)state;
    refuse(&o, AG_EIO, "there already");
    o = from_to("a1", "b1.safetensors");
    refuse(&o, AG_EIO, "there already");
    o = from_to("a1", "no/such/folder.safetensors");
    refuse(&o, AG_EIO, "cannot be written");
    o = from_to("a1", "new.ckpt");
    refuse(&o, AG_EINVAL, "torch files are read, not written");
    o = from_to("nowhere", "x");
    refuse(&o, AG_EIO, "nowhere");
    o = from_to("a1", "x");
    o.use_ema = true;
    refuse(&o, AG_EINVAL, "--ema");
    o = from_to("b1.safetensors", "x");
    o.use_ema = true;
    refuse(&o, AG_EDATA, "EMA");
    o = from_to("a1/unet/diffusion_pytorch_model.safetensors", "x");
    refuse(&o, AG_EDATA, "no checkpoint of a whole model");
    o = from_to("a1", "x");
    o.variant = "fp16";
    refuse(&o, AG_EIO, "fp16");
    o = from_to("a1", "x");
    o.tokenizer = check_path(folder, "a1");
    refuse(&o, AG_EIO, "tokenizer");
}

static void what_does_not_fit_is_listed(void **state)
{
    const int64_t three[] = {3};
    const float values[3] = {0};
    const data_source extra = {.name = "down_blocks.9.weight",
                               .dtype = DATA_F32,
                               .n_dims = 1,
                               .dims = three,
                               .values = values};
    const data_source stranger = {.name = "model.diffusion_model.label_emb.weight",
                                  .dtype = DATA_F32,
                                  .n_dims = 1,
                                  .dims = three,
                                  .values = values};
    pipe_convert_options o;

    (void)state;
    make_model(SD1_LIKE, "bad", AG_F32);
    rewrite(in("bad", WEIGHTS[0]), NULL, NULL, "conv_in.bias", &extra);
    o = from_to("bad", "x.safetensors");
    refuse(&o, AG_EDATA, "missing conv_in.bias");
    o = from_to("bad", "x");
    refuse(&o, AG_EDATA, "extra down_blocks.9.weight");
    convert("a1", "strange.safetensors");
    rewrite(check_path(folder, "strange.safetensors"), NULL, NULL, NULL, &stranger);
    o = from_to("strange.safetensors", "x");
    refuse(&o, AG_EDATA, "label_emb");
}

static void refused_memory(void **state)
{
    const pipe_convert_options to_file = from_to("a0", "memory.safetensors");
    const pipe_convert_options to_folder = from_to("b0.safetensors", "memory");
    int n_refused = 0;

    (void)state;
    for (int64_t n = 0; n < 4000; n += 1 + n / 16) {
        const pipe_convert_options *o = n_refused % 2 ? &to_file : &to_folder;
        pipe_converted done;
        ag_status status;

        ag_refuse_allocation(ctx, n, true);
        status = pipe_convert(&done, ctx, o);
        ag_refuse_allocation(ctx, -1, false);
        if (status == AG_OK)
            break;
        assert_int_equal(status, AG_ENOMEM);
        ag_clear(ctx);
        if (data_is_folder(o->output) || data_is_file(o->output))
            fail_msg("%s: left behind after refusal %lld", o->output, (long long)n);
        n_refused++;
    }
    assert_true(n_refused > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),
        cmocka_unit_test(a_single_file_is_a_model),
        cmocka_unit_test(open_clip_is_complete),
        cmocka_unit_test(vae_attention_is_a_convolution_in_the_file),
        cmocka_unit_test(precisions),
        cmocka_unit_test(older_names_and_position_ids),
        cmocka_unit_test(the_averaged_copy),
        cmocka_unit_test(parts_alone),
        cmocka_unit_test(torch_files),
        cmocka_unit_test(refusals),
        cmocka_unit_test(what_does_not_fit_is_listed),
        cmocka_unit_test(refused_memory),
    };
    int failed;

    ctx = ag_ctx_new(&(ag_ctx_options){.n_threads = 2});
    folder = check_folder_new();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    check_folder_remove(folder);
    ag_ctx_free(ctx);
    return failed;
}
