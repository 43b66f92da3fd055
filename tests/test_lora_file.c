/* test_lora_file.c - LoRA files: whose names they have, what they are refused for.
 *
 * The lists of names are made here from what the published trainers adapt (diffusers' DreamBooth script, kohya's
 * networks.lora); what files of others do to a model is in test_lora_model.c.
 */
#include <math.h>

#include "tests/folder_check.h"

#include "data/lora_file.h"
#include "data/safetensors.h"
#include "pipeline/lora.h"
#include "pipeline/lora_stack.h"
#include "pipeline/presets.h"

static ag_ctx *ctx;
static char *folder;

/* --- files made by hand ----------------------------------------------------------------------- */

/* A tensor from "NAME [2,320]", "NAME [2,320] I8", "NAME [] F32 0.5": its shape, its type (F32) and the value of every
 * element (0). Its memory is the test's (free). */
static data_source tensor(const char *line)
{
    const char *shape = strstr(line, " ["), *end = strchr(line, ']');
    char *name, type[8] = "F32";
    int64_t *dims = calloc(8, sizeof *dims), n = 1;
    data_source s = {.dtype = DATA_N_DTYPES};
    float value = 0.0f, *values;

    assert_true(shape && end && dims && asprintf(&name, "%.*s", (int)(shape - line), line) > 0);
    for (const char *at = shape + 2; at < end; at = strpbrk(at, ",]") + 1) {
        dims[s.n_dims] = atoi(at);
        n *= dims[s.n_dims++];
    }
    (void)sscanf(end + 1, " %7s %f", type, &value);
    for (int d = 0; d < DATA_N_DTYPES; d++)
        if (strcmp(data_dtype_name((data_dtype)d), type) == 0)
            s.dtype = (data_dtype)d;
    assert_true(s.dtype < DATA_N_DTYPES);
    values = calloc((size_t)n, sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < n && s.dtype == DATA_F32; i++)
        values[i] = value;
    s.name = name;
    s.dims = dims;
    s.values = values;
    return s;
}

enum { MOST_TENSORS = 16 };

/* Write folder/name.safetensors of these tensors, up to a NULL. */
static const char *write_file(const char *name, const char *const *lines, const data_pair *metadata)
{
    data_source sources[MOST_TENSORS];
    const char *path;
    char file[128];
    int n = 0;

    for (; lines[n]; n++)
        sources[n] = tensor(lines[n]);
    snprintf(file, sizeof file, "%s.safetensors", name);
    path = check_path(folder, file);
    check_ok(ctx, data_safetensors_write(ctx, path, sources, n, metadata, metadata ? 1 : 0));
    for (int i = 0; i < n; i++) {
        free((void *)sources[i].name);
        free((void *)sources[i].dims);
        free((void *)sources[i].values);
    }
    return path;
}

#define WRITE(name, ...) write_file(name, (const char *const[]){__VA_ARGS__, NULL}, NULL)

/* The base of the refusals: of every kind of weight one, as wide as Stable Diffusion 1. */
static const data_named_shape UNET[] = {
    {"a.attn1.to_q.weight", 2, (int64_t[]){320, 320}},
    {"a.attn2.to_k.weight", 2, (int64_t[]){320, 768}},
    {"a.conv1.weight", 4, (int64_t[]){8, 4, 3, 3}},
    {"a.conv1.bias", 1, (int64_t[]){8}},
    {"a.proj_in.weight", 4, (int64_t[]){8, 8, 1, 1}},
    {"a.proj.in.weight", 2, (int64_t[]){8, 8}}, /* whose flat name is that of the one before */
};
static const data_named_shape TEXT[] = {
    {"text_model.encoder.layers.0.self_attn.q_proj.weight", 2, (int64_t[]){768, 768}},
    {"text_model.encoder.layers.0.self_attn.q_proj.bias", 1, (int64_t[]){768}},
};
static const data_lora_names NETWORKS[] = {{DATA_UNET, UNET, 6, NULL}, {DATA_TEXT_ENCODER, TEXT, 2, NULL}};

/* Open and match; the status, with the handle ended. */
static ag_status try(const char *path, data_lora_matched *matched)
{
    data_lora_matched unused;
    data_lora *lora = NULL;

    if (data_lora_open(&lora, ctx, path) == AG_OK)
        data_lora_match(matched ? matched : &unused, ctx, lora, NETWORKS, 2);
    else
        assert_null(lora);
    data_lora_close(lora);
    return ag_status_of(ctx);
}

static void refused(const char *path, ag_status status, const char *words)
{
    check_failed(ctx, try(path, NULL), status, words);
}

/* --- the published trainers' lists ------------------------------------------------------------ */

static const char *const ATTENTION[] = {"attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                                        "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"};
static const char *const PLACES[] = {
    "down_blocks.0.attentions.0", "down_blocks.0.attentions.1", "down_blocks.1.attentions.0",
    "down_blocks.1.attentions.1", "down_blocks.2.attentions.0", "down_blocks.2.attentions.1",
    "mid_block.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2", "up_blocks.2.attentions.0", "up_blocks.2.attentions.1",
    "up_blocks.2.attentions.2", "up_blocks.3.attentions.0", "up_blocks.3.attentions.1",
    "up_blocks.3.attentions.2",
};

/* Write adapters of rank 1 on a preset's networks, without values. */
static void write_adapters(const char *path, const char *preset, data_lora_dialect dialect, const char *const *unet,
                           int64_t n_unet, const char *const *text, int64_t n_text)
{
    ag_ctx *meta = ag_ctx_new(&(ag_ctx_options){.device = AG_META});
    const nn_lora_config unet_config = {.rank = 1, .alpha = 4, .targets = unet, .n_targets = n_unet};
    const nn_lora_config text_config = {.rank = 1, .alpha = 4, .targets = text, .n_targets = n_text};
    nn_unet_config unet_sizes;
    nn_clip_config text_sizes;
    nn_unet *u = NULL;
    nn_clip_text *t = NULL;
    nn_adapters *ua = NULL, *ta = NULL;

    assert_non_null(meta);
    assert_true(data_model_preset(preset, &unet_sizes, NULL, &text_sizes, NULL));
    check_ok(meta, nn_unet_new(&u, meta, &unet_sizes));
    check_ok(meta, nn_clip_text_new(&t, meta, &text_sizes));
    check_ok(meta, nn_params_alloc(meta, nn_unet_params(u), AG_F32));
    check_ok(meta, nn_params_alloc(meta, nn_clip_text_params(t), AG_F32));
    check_ok(meta, nn_adapters_new(&ua, meta, nn_unet_params(u), &unet_config));
    check_ok(meta, nn_adapters_new(&ta, meta, nn_clip_text_params(t), &text_config));
    check_ok(meta, pipe_lora_save(meta, path, ua, ta, dialect, NULL, 0));
    nn_adapters_free(ua);
    nn_adapters_free(ta);
    nn_unet_free(u);
    nn_clip_text_free(t);
    ag_ctx_free(meta);
}

/* The file has tensors "prefix + module flat or not + ending" of two factors. Counts them. */
static void has_pair(const data_weights *w, const char *prefix, const char *module, const char *down, const char *up,
                     bool flat, int64_t *n, int64_t *n_values)
{
    const char *const endings[] = {down, up};

    for (int k = 0; k < 2; k++) {
        char name[512];
        int64_t i;

        snprintf(name, sizeof name, "%s%s", prefix, module);
        for (char *at = name; flat && *at; at++)
            *at = *at == '.' ? '_' : *at;
        strcat(name, endings[k]);
        i = data_weights_find(w, name);
        if (i < 0)
            fail_msg("%s: no %s", data_weights_path(w), name);
        *n_values += data_weights_at(w, i)->n_values;
    }
    ++*n;
}

static void trainers_lists(const char *preset, int n_layers, int64_t kohya_text, int64_t diffusers_values,
                           int64_t diffusers_text_values, int64_t kohya_values, int64_t kohya_text_values)
{
    static const char *const diffusers_text[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    static const char *const kohya_unet[] = {"to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out",
                                             "ff.net.0.proj", "ff.net.2"};
    static const char *const kohya_texts[] = {"q_proj", "k_proj", "v_proj", "out_proj", "mlp.fc1", "mlp.fc2"};
    const char *path = check_path(folder, "list.safetensors");
    int64_t n = 0, n_values = 0, n_text = 0, n_text_values = 0;
    data_weights *w = NULL;
    char module[256];

    write_adapters(path, preset, DATA_LORA_DIFFUSERS, kohya_unet, 4, diffusers_text, 4);
    check_ok(ctx, data_weights_open(&w, ctx, path));
    for (int p = 0; p < 16; p++)
        for (int a = 0; a < 8; a++) {
            snprintf(module, sizeof module, "%s.transformer_blocks.0.%s", PLACES[p], ATTENTION[a]);
            has_pair(w, "unet.", module, ".lora.down.weight", ".lora.up.weight", false, &n, &n_values);
        }
    for (int l = 0; l < n_layers; l++)
        for (int a = 0; a < 4; a++) {
            snprintf(module, sizeof module, "text_model.encoder.layers.%d.self_attn.%s", l, diffusers_text[a]);
            has_pair(w, "text_encoder.", module, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight",
                     false, &n_text, &n_text_values);
        }
    assert_int_equal(data_weights_count(w), 2 * (n + n_text));
    assert_int_equal(n, 128);
    assert_int_equal(n_text, 4 * n_layers);
    assert_int_equal(n_values, diffusers_values);
    assert_int_equal(n_text_values, diffusers_text_values);
    data_weights_close(w);

    n = n_values = n_text = n_text_values = 0;
    write_adapters(path, preset, DATA_LORA_KOHYA, kohya_unet, 8, kohya_texts, 6);
    check_ok(ctx, data_weights_open(&w, ctx, path));
    for (int p = 0; p < 16; p++) {
        static const char *const around[] = {"proj_in", "proj_out", "transformer_blocks.0.ff.net.0.proj",
                                             "transformer_blocks.0.ff.net.2"};
        for (int a = 0; a < 12; a++) {
            snprintf(module, sizeof module, "%s.%s%s", PLACES[p], a < 8 ? "transformer_blocks.0." : "",
                     a < 8 ? ATTENTION[a] : around[a - 8]);
            has_pair(w, "lora_unet_", module, ".lora_down.weight", ".lora_up.weight", true, &n, &n_values);
        }
    }
    for (int l = 0; l < n_layers; l++)
        for (int a = 0; a < 6; a++) {
            snprintf(module, sizeof module, "text_model.encoder.layers.%d.%s%s", l, a < 4 ? "self_attn." : "",
                     kohya_texts[a]);
            has_pair(w, "lora_te_", module, ".lora_down.weight", ".lora_up.weight", true, &n_text, &n_text_values);
        }
    assert_int_equal(n, 192);
    assert_int_equal(n_text, kohya_text);
    assert_int_equal(data_weights_count(w), 3 * (n + n_text)); /* and an alpha each */
    assert_true(data_weights_find(
                    w, "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj.alpha") >= 0);
    if (kohya_values)
        assert_int_equal(n_values, kohya_values);
    if (kohya_text_values)
        assert_int_equal(n_text_values, kohya_text_values);
    data_weights_close(w);
}

static void has_the_trainers_names(void **state)
{
    (void)state;
    trainers_lists("sd15", 12, 72, 199296, 73728, 423936, 165888);
    trainers_lists("sd21", 23, 138, 207488, 188416, 0, 0);
}

/* Every module of the full-size models is found by kohya's names, with the names of either layout. */
static void finds_flat_names(void **state)
{
    static const char *const pairs[][2] = {
        {"lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_out_0",
         "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0"},
        {"lora_unet_output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"},
        {"lora_unet_output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"},
        {"lora_unet_input_blocks_6_0_op", "down_blocks.1.downsamplers.0.conv"},
        {"lora_unet_middle_block_1_proj_in", "mid_block.attentions.0.proj_in"},
        {"lora_unet_middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"},
        {"lora_unet_time_embed_2", "time_embedding.linear_2"},
        {"lora_unet_up_blocks_3_resnets_2_conv_shortcut", "up_blocks.3.resnets.2.conv_shortcut"},
        {"lora_te_text_model_encoder_layers_11_mlp_fc1", "text_model.encoder.layers.11.mlp.fc1"},
        {"lora_te1_encoder_layers_3_self_attn_out_proj", "text_model.encoder.layers.3.self_attn.out_proj"},
        {"text_encoder.encoder.layers.3.self_attn.q_proj", "text_model.encoder.layers.3.self_attn.q_proj"},
        {"base_model.model.mid_block.resnets.0.conv1", "mid_block.resnets.0.conv1"},
        {"base_model.model.text_model.encoder.layers.0.mlp.fc2", "text_model.encoder.layers.0.mlp.fc2"},
    };
    enum { N = sizeof pairs / sizeof *pairs };
    pipe_lora_base base = {0};
    data_lora_matched matched;
    data_lora *lora = NULL;
    const char *path = check_path(folder, "flat.safetensors");
    data_source sources[N];
    char names[N][256];
    const float zeros[8192] = {0};

    (void)state;
    check_ok(ctx, pipe_lora_base_preset(&base, ctx, 0));
    for (int i = 0; i < N; i++) { /* differences of biases fit all */
        int64_t *dims = calloc(1, sizeof *dims);
        char bias[256];

        snprintf(bias, sizeof bias, "%s.bias", pairs[i][1]);
        for (int k = 0; k < base.n; k++)
            for (int64_t p = 0; p < base.networks[k].n; p++)
                if (strcmp(base.networks[k].list[p].name, bias) == 0)
                    *dims = base.networks[k].list[p].dims[0];
        assert_true(*dims > 0 && *dims < 8192);
        snprintf(names[i], sizeof names[i], "%s.diff_b", pairs[i][0]);
        sources[i] =
            (data_source){.name = names[i], .dtype = DATA_F32, .n_dims = 1, .dims = dims, .values = zeros};
    }
    check_ok(ctx, data_safetensors_write(ctx, path, sources, N, NULL, 0));
    check_ok(ctx, data_lora_open(&lora, ctx, path));
    check_ok(ctx, data_lora_match(&matched, ctx, lora, base.networks, base.n));
    assert_int_equal(matched.n_missed, 0);
    for (int i = 0; i < N; i++) {
        const data_component c = strncmp(pairs[i][1], "text_model.", 11) == 0 ? DATA_TEXT_ENCODER : DATA_UNET;
        const int64_t k = data_lora_find(lora, c, pairs[i][1]);

        if (k < 0 || strcmp(data_lora_at(lora, k)->spelled, pairs[i][0]) != 0)
            fail_msg("%s is not found as %s", pairs[i][1], pairs[i][0]);
        free((void *)sources[i].dims);
    }
    assert_int_equal(data_lora_find(lora, DATA_UNET, "conv_in"), -1);
    data_lora_close(lora);
    pipe_lora_base_free(&base);
}

/* --- refusals --------------------------------------------------------------------------------- */

#define Q "unet.a.attn1.to_q"
#define K "unet.a.attn2.to_k"
#define C "lora_unet_a_conv1"

static void refuses_what_does_not_fit_together(void **state)
{
    data_lora_matched matched;

    (void)state;
    check_ok(ctx, try(WRITE("good", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]",
                            Q ".alpha []", K ".lora_A.weight [1,768]", K ".lora_B.weight [320,1]",
                            C ".lora_down.weight [2,4,3,3]", C ".lora_up.weight [8,2,1,1]",
                            "lora_unet_a_gone.lora_down.weight [2,3]",
                            "lora_unet_a_gone.lora_up.weight [3,2]",
                            "text_encoder_2.x.lora_A.weight [2,3]", "text_encoder_2.x.lora_B.weight [3,2]"),
                      &matched));
    assert_int_equal(matched.n[DATA_UNET], 3);
    assert_int_equal(matched.n_missed, 2);
    assert_int_equal(matched.n_elsewhere, 0);

    /* half of a pair */
    refused(WRITE("x", Q ".lora.down.weight [2,320]"), AG_EDATA, "lacks its lora_up");
    refused(WRITE("x", C ".lora_up.weight [8,2,1,1]", C ".alpha []"), AG_EDATA, "lacks its lora_down");
    refused(WRITE("x", C ".hada_w1_a [8,2]", C ".hada_w1_b [2,36]", C ".hada_w2_a [8,2]"),
            AG_EDATA, "lacks its w2_b");
    refused(WRITE("x", C ".lokr_w1 [2,2]", C ".lokr_w2_a [4,2]"), AG_EDATA, "lacks its w2_b");
    refused(WRITE("x", C ".lokr_w1 [2,2]", C ".lokr_w1_a [2,2]", C ".lokr_w2 [4,2,3,3]"),
            AG_EDATA, "both whole and taken apart");
    refused(WRITE("x", Q ".alpha []", K ".lora_A.weight [1,768]", K ".lora_B.weight [320,1]"), AG_EDATA,
            "no factors");
    refused(WRITE("x", Q ".dora_scale [320,1]", Q ".diff [320,320]"), AG_EDATA, "magnitude and no factors");

    /* shapes that disagree */
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,4]"), AG_EDATA,
            "rank 2 on the input's side and 4 on the output's");
    refused(WRITE("x", Q ".lora.down.weight [2,640]", Q ".lora.up.weight [320,2]"), AG_EDATA,
            "[320,640] x 1, the model's is [320,320] x 1");
    refused(WRITE("x", C ".lora_down.weight [2,4,1,1]", C ".lora_up.weight [8,2,1,1]"), AG_EDATA,
            "[8,4] x 1, the model's is [8,4] x 9");
    refused(WRITE("x", C ".lora_down.weight [2,4,1,1]", C ".lora_mid.weight [2,3,3,3]",
                  C ".lora_up.weight [8,2,1,1]"),
            AG_EDATA, "what is between them another");
    refused(WRITE("x", C ".lora_down.weight [2,4,3,3]", C ".lora_mid.weight [2,2,3,3]",
                  C ".lora_up.weight [8,2,1,1]"),
            AG_EDATA, "do not make one weight");
    refused(WRITE("x", C ".hada_w1_a [8,2]", C ".hada_w1_b [2,36]", C ".hada_w2_a [8,2]",
                  C ".hada_w2_b [2,4]"),
            AG_EDATA, "do not make one weight");
    refused(WRITE("x", C ".lokr_w1 [2,2]", C ".lokr_w2 [4,4,3,3]"), AG_EDATA, "[8,8] x 9");
    refused(WRITE("x", C ".lora_down.weight [2,4,3,3]", C ".lora_up.weight [8,2,1,1]",
                  C ".dora_scale [1,8,1,1]"),
            AG_EDATA, "has 8 values, wanted 4");
    refused(WRITE("x", C ".lora_down.weight [2,4,3,3]", C ".lora_up.weight [8,2,1,1]",
                  C ".dora_scale [2,4]"),
            AG_EDATA, "one axis");
    refused(WRITE("x", C ".diff_b [7]"), AG_EDATA, "7 values, the model's bias 8");
    refused(WRITE("x", "lora_unet_a_attn1_to_q.diff_b [320]"), AG_EDATA, "has none");
    refused(WRITE("x", Q ".lora.down.weight [2,5,2,2,2,2]", Q ".lora.up.weight [320,2]"), AG_EDATA,
            "no LoRA's");
    refused(WRITE("x", Q ".lora.down.weight [70000,1]", Q ".lora.up.weight [1,70000]"), AG_EDATA,
            "rank 70000");

    /* types and values */
    refused(WRITE("x", Q ".lora.down.weight [2,4] I8", Q ".lora.up.weight [320,2]"), AG_EDTYPE,
            "wanted a floating type");
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]", Q ".alpha [2]"),
            AG_EDATA, "holds 2 values");
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]",
                  Q ".alpha [] F32 nan"),
            AG_EDATA, "not a finite number");
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]",
                  Q ".alpha [] U8"),
            AG_EDTYPE, "wanted a number");

    /* names */
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]",
                  Q ".lora_A.weight [2,320]"),
            AG_EDATA, "the same of one module");
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]",
                  Q ".diff [320,320]"),
            AG_EDATA, "two kinds");
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]",
                  "lora_unet_a_attn1_to_q.lora_down.weight [2,320]",
                  "lora_unet_a_attn1_to_q.lora_up.weight [320,2]"),
            AG_EDATA, "are the same module");
    refused(WRITE("x", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]", Q ".oft_blocks [3]"),
            AG_EUNSUPPORTED, "oft_blocks");
    refused(WRITE("x", "conv_in.weight [3]"), AG_EDATA, "is no LoRA's tensor");
    refused(WRITE("x", Q ".alpha []"), AG_EDATA, "no factors");
    refused(check_path(folder, "nowhere.safetensors"), AG_EIO, "nowhere.safetensors");
}

/* A file of Stable Diffusion 2's at full size against the names of 1, of either trainer. */
static void full_size_of_another_base(data_lora_dialect dialect)
{
    static const char *const unet[] = {"to_k"}, *const text[] = {"q_proj"};
    const char *path = check_path(folder, "sd21.safetensors");
    pipe_lora_base base = {0};
    data_lora_matched matched;
    data_lora *lora = NULL;

    write_adapters(path, "sd21", dialect, unet, 1, text, 1);
    check_ok(ctx, pipe_lora_base_preset(&base, ctx, 0));
    check_ok(ctx, data_lora_open(&lora, ctx, path));
    check_failed(ctx, pipe_lora_fit(&matched, ctx, lora, &base, NULL), AG_EDATA, "1024 wide (Stable Diffusion 2)");
    data_lora_close(lora);
    pipe_lora_base_free(&base);
}

static void tells_of_another_base(void **state)
{
    (void)state;
    full_size_of_another_base(DATA_LORA_DIFFUSERS);
    full_size_of_another_base(DATA_LORA_KOHYA);
    refused(WRITE("sd2", K ".lora.down.weight [2,1024]", K ".lora.up.weight [320,2]"), AG_EDATA,
            "another base: unet.a.attn2.to_k takes a text 1024 wide (Stable Diffusion 2), this model's is 768 wide "
            "(Stable Diffusion 1)");
    refused(WRITE("sd2", "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight [2,1024]",
                  "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight [1024,2]"),
            AG_EDATA, "a text model 1024 wide (Stable Diffusion 2), this model's takes 768 (Stable Diffusion 1)");
}

/* Two modules of one flat name: the dotted ones are told apart, the flat one is nobody's. */
static void does_not_guess(void **state)
{
    data_lora_matched matched;

    (void)state;
    check_ok(ctx, try(WRITE("x", "lora_unet_a_proj_in.lora_down.weight [2,8]",
                            "lora_unet_a_proj_in.lora_up.weight [8,2]"),
                      &matched));
    assert_int_equal(matched.n_missed, 1);
    check_ok(ctx, try(WRITE("x", "unet.a.proj_in.lora_A.weight [2,8]", "unet.a.proj_in.lora_B.weight [8,2]",
                            "unet.a.proj.in.lora_A.weight [2,8]", "unet.a.proj.in.lora_B.weight [8,2]"),
                      &matched));
    assert_int_equal(matched.n[DATA_UNET], 2);
}

static void refuses_values(void **state)
{
    const char *path = WRITE("nan", Q ".lora.down.weight [2,320] F32 inf",
                             Q ".lora.up.weight [320,2]");
    static float change[320 * 320];
    data_lora_matched matched;
    data_lora *lora = NULL;

    (void)state;
    check_ok(ctx, data_lora_open(&lora, ctx, path));
    check_ok(ctx, data_lora_match(&matched, ctx, lora, NETWORKS, 2));
    check_failed(ctx, data_lora_change(ctx, lora, 0, &UNET[0], NULL, change), AG_EDATA, "not finite");
    data_lora_close(lora);
}

/* --- alpha ------------------------------------------------------------------------------------ */

static double scale_of(const char *path, const char *spelled, bool *said)
{
    data_lora *lora = NULL;
    double scale = NAN;

    check_ok(ctx, data_lora_open(&lora, ctx, path));
    for (int64_t i = 0; i < data_lora_count(lora); i++)
        if (strcmp(data_lora_at(lora, i)->spelled, spelled) == 0) {
            scale = data_lora_at(lora, i)->scale;
            *said = data_lora_at(lora, i)->alpha_said;
        }
    data_lora_close(lora);
    return scale;
}

#define PAIR Q ".lora_A.weight [4,320]", Q ".lora_B.weight [320,4]"

static const char *with_metadata(const char *text)
{
    return write_file("meta", (const char *const[]){PAIR, NULL}, &(data_pair){"lora_adapter_metadata", text});
}

static void takes_alpha_from_where_it_is_said(void **state)
{
    bool said;

    (void)state;
    assert_true(scale_of(WRITE("x", PAIR), Q, &said) == 1.0 && !said);
    assert_true(scale_of(WRITE("x", PAIR, Q ".alpha [] F32 2"), Q, &said) == 0.5 && said);
    assert_true(scale_of(WRITE("x", PAIR, Q ".alpha []"), Q, &said) == 1.0 && said); /* 0: the rank */
    assert_true(scale_of(with_metadata("{\"unet.lora_alpha\": 2, \"text_encoder.lora_alpha\": 9}"), Q, &said) == 0.5);
    assert_true(scale_of(with_metadata("{\"unet.lora_alpha\": 2, \"unet.use_rslora\": true}"), Q, &said) == 1.0);
    assert_true(scale_of(with_metadata("{\"unet.lora_alpha\": 2, \"unet.alpha_pattern\": {\"to_q\": 12}}"), Q, &said) ==
                3.0);
    assert_true(
        scale_of(with_metadata("{\"unet.lora_alpha\": 2, \"unet.alpha_pattern\": {\"^a\\\\.attn1.to_q$\": 12}}"), Q,
                 &said) == 3.0);
    assert_true(scale_of(with_metadata("{\"unet.lora_alpha\": 2, \"unet.alpha_pattern\": {\"o_q\": 12}}"), Q, &said) ==
                0.5);
    refused(with_metadata("{\"unet.lora_alpha\": \"2\"}"), AG_EDATA, "wanted a number");
    refused(with_metadata("{\"unet.peft_type\": \"LOHA\"}"), AG_EUNSUPPORTED, "LOHA, wanted LORA");
    refused(with_metadata("{\"unet.use_qalora\": true}"), AG_EUNSUPPORTED, "use_qalora");
    refused(with_metadata("{\"unet.alpha_pattern\": {\"to_[qk]\": 12}}"), AG_EUNSUPPORTED, "expression");
    refused(with_metadata("{\"unet.lora_alpha\": 2"), AG_EDATA, "lora_adapter_metadata");
}

/* --- folders ---------------------------------------------------------------------------------- */

static void put(const char *name)
{
    WRITE(name, PAIR);
}

static void chooses_in_a_folder(void **state)
{
    const char *inside = check_path(folder, "chosen");
    data_lora *lora = NULL;

    (void)state;
    check_ok(ctx, data_folder_make(ctx, inside));
    refused(inside, AG_EIO, "wanted pytorch_lora_weights.safetensors in it");
    assert_false(data_lora_is_folder(inside));
    put("chosen/checkpoint-1");
    put("chosen/optimizer");
    refused(inside, AG_EIO, "wanted pytorch_lora_weights.safetensors in it");
    put("chosen/mine");
    check_ok(ctx, try(inside, NULL));
    put("chosen/yours");
    refused(inside, AG_EDATA, "mine.safetensors and yours.safetensors");
    put("chosen/pytorch_lora_weights");
    check_ok(ctx, data_lora_open(&lora, ctx, inside));
    assert_non_null(strstr(data_lora_path(lora), "/pytorch_lora_weights.safetensors"));
    data_lora_close(lora);
    assert_true(data_lora_is_folder(inside));
    /* an adapter's folder */
    check_write(ctx, folder, "chosen/adapter_config.json", "{\"lora_alpha\": 12}");
    put("chosen/adapter_model");
    lora = NULL;
    check_ok(ctx, data_lora_open(&lora, ctx, inside));
    assert_non_null(strstr(data_lora_path(lora), "/adapter_model.safetensors"));
    assert_true(data_lora_at(lora, 0)->scale == 3.0);
    data_lora_close(lora);
    check_write(ctx, folder, "chosen/adapter_config.json", "{\"peft_type\": \"IA3\"}");
    refused(inside, AG_EUNSUPPORTED, "IA3, wanted LORA");
}

/* --- FILE:WEIGHT ------------------------------------------------------------------------------ */

static void parses(const char *text, const char *path, double weight)
{
    pipe_lora_spec spec;

    check_ok(ctx, pipe_lora_parse(&spec, ctx, text));
    assert_string_equal(spec.path, path);
    assert_true(spec.weight == weight);
    ag_delete(spec.path);
}

static void parses_weights(void **state)
{
    pipe_lora_spec spec;

    (void)state;
    parses("a.safetensors", "a.safetensors", 1.0);
    parses("a.safetensors:0.5", "a.safetensors", 0.5);
    parses("a:b:-2e-1", "a:b", -0.2);
    parses("a:b", "a:b", 1.0);
    parses("a:", "a:", 1.0);
    parses("a:0.5x", "a:0.5x", 1.0);
    check_failed(ctx, pipe_lora_parse(&spec, ctx, "a:nan"), AG_EINVAL, "finite");
    check_failed(ctx, pipe_lora_parse(&spec, ctx, ":1"), AG_EINVAL, "wanted FILE");
    check_failed(ctx, pipe_lora_parse(&spec, ctx, ""), AG_EINVAL, "wanted FILE");
}

/* --- memory ----------------------------------------------------------------------------------- */

static ag_status whole_life(const char *path, float *change, const float *base)
{
    data_lora_matched matched;
    data_lora *lora = NULL;

    if (data_lora_open(&lora, ctx, path) == AG_OK && data_lora_match(&matched, ctx, lora, NETWORKS, 2) == AG_OK) {
        for (int64_t i = 0; i < data_lora_count(lora); i++)
            for (size_t k = 0; k < sizeof UNET / sizeof *UNET; k++)
                if (strncmp(UNET[k].name, data_lora_at(lora, i)->name, strlen(data_lora_at(lora, i)->name)) == 0 &&
                    UNET[k].n_dims > 1)
                    data_lora_change(ctx, lora, i, &UNET[k], base, change);
    }
    data_lora_close(lora);
    return ag_status_of(ctx);
}

static void survives_refused_memory(void **state)
{
    static float change[320 * 768], base[320 * 768];
    const char *path = WRITE(
        "memory", Q ".lora.down.weight [2,320]", Q ".lora.up.weight [320,2]",
        K ".lora_A.weight [1,768]", K ".lora_B.weight [320,1]", K ".dora_scale [1,768] F32 1",
        C ".hada_w1_a [2,8]", C ".hada_w1_b [2,4]", C ".hada_w2_a [2,8]", C ".hada_w2_b [2,4]",
        C ".hada_t1 [2,2,3,3]", C ".hada_t2 [2,2,3,3]");
    int64_t n = 0;

    (void)state;
    check_ok(ctx, whole_life(path, change, base));
    for (;; n++) {
        ag_status status;

        ag_refuse_allocation(ctx, n, false);
        status = whole_life(path, change, base);
        ag_refuse_allocation(ctx, -1, false);
        ag_clear(ctx);
        if (status == AG_OK)
            break;
        assert_int_equal(status, AG_ENOMEM);
    }
    assert_true(n > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(has_the_trainers_names),
        cmocka_unit_test(finds_flat_names),
        cmocka_unit_test(refuses_what_does_not_fit_together),
        cmocka_unit_test(tells_of_another_base),
        cmocka_unit_test(does_not_guess),
        cmocka_unit_test(refuses_values),
        cmocka_unit_test(takes_alpha_from_where_it_is_said),
        cmocka_unit_test(chooses_in_a_folder),
        cmocka_unit_test(parses_weights),
        cmocka_unit_test(survives_refused_memory),
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
