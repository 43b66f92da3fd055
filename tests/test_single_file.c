/* test_single_file.c - names of single-file checkpoints, against diffusers' own converters.
 *
 * tests/golden/single_file_names.txt (scripts/golden_single_file.py) lists every name of three
 * U-Nets and VAEs of different depth, and of OpenCLIP's text model, with the name that diffusers
 * gives it. Both directions are compared, and the EMA copy's names without dots.
 */
#include "tests/folder_check.h"

#include "data/single_file.h"

static ag_ctx *ctx;

typedef struct name_pair {
    char model[16], component[16], file[DATA_KEY_MAX], published[DATA_KEY_MAX];
    int part, n_parts;
} name_pair;

static name_pair *pairs;
static int n_pairs;

static void read_pairs(void)
{
    FILE *file = fopen("tests/golden/single_file_names.txt", "r");
    name_pair one;

    assert_non_null(file);
    pairs = calloc(4096, sizeof *pairs);
    while (n_pairs < 4096 && fscanf(file, "%15s %15s %255s %255s %d %d", one.model, one.component,
                                    one.file, one.published, &one.part, &one.n_parts) == 6)
        pairs[n_pairs++] = one;
    fclose(file);
    assert_int_equal(n_pairs, 2040);
}

/* The configs of the golden file's cases; only what names depend on matters. */
static data_single single_of(const char *model)
{
    data_single s = {0};

    data_model_preset("sd15", &s.unet, &s.vae, &s.text, &s.schedule);
    if (strcmp(model, "three") == 0) {
        s.unet.n_levels = s.vae.n_levels = 3;
        s.unet.layers_per_block = s.vae.layers_per_block = 1;
        memcpy(s.unet.down_attention, (bool[]){false, true, true}, 3);
        memcpy(s.unet.up_attention, (bool[]){true, true, false}, 3);
    } else if (strcmp(model, "two") == 0) {
        s.unet.n_levels = s.vae.n_levels = 2;
        s.unet.layers_per_block = s.vae.layers_per_block = 3;
        memcpy(s.unet.down_attention, (bool[]){false, true}, 2);
        memcpy(s.unet.up_attention, (bool[]){true, false}, 2);
    } else if (strcmp(model, "clip") == 0) {
        s.open_clip = true;
        s.text.num_hidden_layers = 2;
    }
    return s;
}

/* Structs compared by what would be written of them (padding is nobody's). */
static void same_text(char *a, char *b)
{
    assert_string_equal(a, b);
    ag_delete(a);
    ag_delete(b);
}

static void same_unet(const nn_unet_config *a, const nn_unet_config *b)
{
    same_text(data_unet_config_text(ctx, a), data_unet_config_text(ctx, b));
}

static void same_vae(const nn_vae_config *a, const nn_vae_config *b)
{
    same_text(data_vae_config_text(ctx, a), data_vae_config_text(ctx, b));
}

static void same_text_model(const nn_clip_config *a, const nn_clip_config *b)
{
    same_text(data_text_config_text(ctx, a, "float32"), data_text_config_text(ctx, b, "float32"));
}

static data_component component_of(const char *name)
{
    for (int i = 0; i < DATA_N_COMPONENTS; i++)
        if (strcmp(name, data_component_name((data_component)i)) == 0)
            return (data_component)i;
    fail_msg("no component %s", name);
    return DATA_UNET;
}

static void names_equal_diffusers(void **state)
{
    (void)state;
    for (int i = 0; i < n_pairs; i++) {
        const name_pair *pair = &pairs[i];
        const data_component component = component_of(pair->component);
        const data_single s = single_of(pair->model);
        const bool matrix = strstr(pair->published, "mid_block.attentions.0.to_") &&
                            component == DATA_VAE && strstr(pair->published, "weight");
        data_key keys[3], back;
        int n = data_single_to_folder(keys, &s, pair->file, matrix ? 4 : 1);

        assert_int_equal(n, pair->n_parts);
        if (strcmp(keys[pair->part].name, pair->published) != 0)
            fail_msg("%s gives %s, wanted %s", pair->file, keys[pair->part].name, pair->published);
        assert_int_equal(keys[pair->part].component, component);
        assert_int_equal(keys[pair->part].part, pair->part);
        assert_int_equal(keys[pair->part].n_parts, pair->n_parts);
        assert_int_equal(keys[pair->part].n_ones, matrix ? 2 : 0);
        assert_true(data_single_from_folder(&back, &s, component, pair->published, matrix ? 2 : 1));
        if (strcmp(back.name, pair->file) != 0)
            fail_msg("%s gives %s, wanted %s", pair->published, back.name, pair->file);
        assert_int_equal(back.part, pair->part);
        assert_int_equal(back.n_parts, pair->n_parts);
        assert_int_equal(back.n_ones, matrix ? 2 : 0);
    }
}

static void ema_names_get_their_dots_back(void **state)
{
    (void)state;
    for (int i = 0; i < n_pairs; i++) {
        data_single s = single_of(pairs[i].model);
        char name[DATA_KEY_MAX] = "model_ema.";
        size_t used = strlen(name);
        data_key keys[3];

        if (strcmp(pairs[i].component, "unet") != 0)
            continue;
        for (const char *c = pairs[i].file + strlen("model."); *c; c++)
            if (*c != '.')
                name[used++] = *c;
        name[used] = 0;
        assert_int_equal(data_single_to_folder(keys, &s, name, 1), 0);
        s.use_ema = true;
        assert_int_equal(data_single_to_folder(keys, &s, name, 1), 1);
        assert_string_equal(keys[0].name, pairs[i].published);
        assert_int_equal(data_single_to_folder(keys, &s, pairs[i].file, 1), 0);
    }
}

static void other_names(void **state)
{
    static const char *const ignored[] = {
        "betas", "posterior_mean_coef2", "model_ema.decay", "model_ema.num_updates", "global_step",
        "cond_stage_model.transformer.text_model.embeddings.position_ids",
        "cond_stage_model.model.logit_scale", "cond_stage_model.model.text_projection",
        "cond_stage_model.model.transformer.resblocks.23.ln_1.weight",
        "first_stage_model.loss.discriminator.main.0.weight"};
    static const char *const unknown[] = {
        "model.diffusion_model.label_emb.0.0.weight", "model.diffusion_model.input_blocks.99.0.op",
        "model.diffusion_model.input_blocks.01.0.in_layers.0.weight",
        "model.diffusion_model.output_blocks.2.3.conv.weight", "model.diffusion_model.",
        "first_stage_model.encoder.down.7.block.0.conv1.weight", "something", "",
        "cond_stage_model.transformer.vision.weight", "cond_stage_model.model.visual.proj"};
    data_single s = single_of("sd1");
    data_key keys[3];

    (void)state;
    s.text.num_hidden_layers = 23;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
        assert_int_equal(data_single_to_folder(keys, &s, ignored[i], 1), 0);
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        assert_int_equal(data_single_to_folder(keys, &s, unknown[i], 1), -1);
    /* text names with and without text_model., stand-alone VAE files with either prefix */
    assert_int_equal(data_single_to_folder(
                         keys, &s, "cond_stage_model.transformer.final_layer_norm.bias", 1), 1);
    assert_string_equal(keys[0].name, "text_model.final_layer_norm.bias");
    assert_int_equal(data_single_to_folder(keys, &s, "encoder.norm_out.bias", 1), 1);
    assert_string_equal(keys[0].name, "encoder.conv_norm_out.bias");
    assert_int_equal(data_single_to_folder(keys, &s, "vae.decoder.mid.attn_1.q.bias", 1), 1);
    assert_string_equal(keys[0].name, "decoder.mid_block.attentions.0.to_q.bias");
    assert_true(data_single_from_folder(&keys[0], &s, DATA_TEXT_ENCODER,
                                        "text_model.final_layer_norm.bias", 1));
    assert_string_equal(keys[0].name,
                        "cond_stage_model.transformer.text_model.final_layer_norm.bias");
    assert_false(data_single_from_folder(&keys[0], &s, DATA_UNET, "down_blocks.9.x", 1));
    assert_false(data_single_from_folder(&keys[0], &s, DATA_VAE, "encoder.x", 1));
}

static void older_published_names(void **state)
{
    static const struct {
        data_component component;
        const char *old, *new;
    } cases[] = {
        {DATA_VAE, "encoder.mid_block.attentions.0.query.weight",
         "encoder.mid_block.attentions.0.to_q.weight"},
        {DATA_VAE, "decoder.mid_block.attentions.0.proj_attn.bias",
         "decoder.mid_block.attentions.0.to_out.0.bias"},
        {DATA_VAE, "decoder.mid_block.attentions.0.group_norm.bias",
         "decoder.mid_block.attentions.0.group_norm.bias"},
        {DATA_TEXT_ENCODER, "encoder.layers.0.mlp.fc1.weight",
         "text_model.encoder.layers.0.mlp.fc1.weight"},
        {DATA_TEXT_ENCODER, "text_model.embeddings.position_ids", NULL},
        {DATA_TEXT_ENCODER, "embeddings.position_ids", NULL},
        {DATA_TEXT_ENCODER, "vision_model.x", NULL},
        {DATA_UNET, "conv_in.weight", "conv_in.weight"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[DATA_KEY_MAX];

        strcpy(name, cases[i].old);
        assert_int_equal(data_published_name(name, cases[i].component), cases[i].new != NULL);
        if (cases[i].new)
            assert_string_equal(name, cases[i].new);
    }
}

/* --- recognising ------------------------------------------------------------------------------ */

/* A table of contents made of the golden names with the shapes that are looked at. */
typedef struct contents {
    data_named_shape list[4096];
    int64_t dims[4096][4];
    char names[4096][DATA_KEY_MAX];
    int n;
} contents;

static void add(contents *c, const char *name, int n_dims, int64_t d0, int64_t d1)
{
    for (int i = 0; i < c->n; i++) { /* a later shape of a name replaces the first */
        if (strcmp(c->names[i], name) == 0) {
            c->dims[i][0] = d0;
            c->dims[i][1] = d1;
            c->list[i].n_dims = n_dims;
            return;
        }
    }
    strcpy(c->names[c->n], name);
    memcpy(c->dims[c->n], (int64_t[]){d0, d1, 1, 1}, sizeof c->dims[0]);
    c->list[c->n] = (data_named_shape){c->names[c->n], n_dims, c->dims[c->n]};
    c->n++;
}

#define UNET "model.diffusion_model."
#define VAE "first_stage_model."
#define TEXT "cond_stage_model.transformer.text_model."
#define CLIP "cond_stage_model.model."

static contents *like(const char *model, int64_t width, bool linear)
{
    contents *c = calloc(1, sizeof *c);
    const data_single s = single_of(model);
    char name[DATA_KEY_MAX];

    for (int i = 0; i < n_pairs; i++)
        if (strcmp(pairs[i].model, model) == 0)
            add(c, pairs[i].file, 1, 1, 0);
    add(c, UNET "input_blocks.0.0.weight", 4, 320, 4);
    add(c, UNET "out.2.weight", 4, 4, 320);
    add(c, UNET "middle_block.1.proj_in.weight", linear ? 2 : 4, 1280, 1280);
    add(c, UNET "middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2, 1280, width);
    add(c, VAE "encoder.conv_in.weight", 4, 128, 3);
    add(c, VAE "decoder.conv_in.weight", 4, 512, 4);
    add(c, VAE "decoder.conv_out.weight", 4, 3, 128);
    for (int i = 0; i < s.unet.n_levels; i++) {
        snprintf(name, sizeof name, UNET "input_blocks.%d.0.out_layers.3.weight",
                 i * ((int)s.unet.layers_per_block + 1) + 1);
        add(c, name, 4, s.unet.block_out_channels[i], 1);
        snprintf(name, sizeof name, VAE "encoder.down.%d.block.0.conv1.weight", i);
        add(c, name, 4, s.vae.block_out_channels[i], 1);
    }
    return c;
}

static void add_sd1_text(contents *c)
{
    char name[DATA_KEY_MAX];

    add(c, TEXT "embeddings.token_embedding.weight", 2, 49408, 768);
    add(c, TEXT "embeddings.position_embedding.weight", 2, 77, 768);
    add(c, TEXT "encoder.layers.0.mlp.fc1.weight", 2, 3072, 768);
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof name, TEXT "encoder.layers.%d.layer_norm1.weight", i);
        add(c, name, 1, 768, 0);
    }
}

static void add_sd2_text(contents *c)
{
    char name[DATA_KEY_MAX];

    add(c, CLIP "token_embedding.weight", 2, 49408, 1024);
    add(c, CLIP "positional_embedding", 2, 77, 1024);
    add(c, CLIP "transformer.resblocks.0.mlp.c_fc.weight", 2, 4096, 1024);
    add(c, CLIP "text_projection", 2, 1024, 1024);
    for (int i = 0; i < 24; i++) {
        snprintf(name, sizeof name, CLIP "transformer.resblocks.%d.ln_1.weight", i);
        add(c, name, 1, 1024, 0);
    }
}

static data_single recognise(const contents *c, const char *path, int64_t global_step)
{
    data_single s;

    assert_true(data_single_is(c->list, c->n));
    check_ok(ctx, data_single_recognise(&s, ctx, path, c->list, c->n, global_step));
    return s;
}

static void published_models_are_recognised(void **state)
{
    contents *c = like("sd1", 768, false);
    nn_unet_config unet;
    nn_vae_config vae;
    nn_clip_config text;
    data_single s;

    (void)state;
    add_sd1_text(c);
    s = recognise(c, "v1.ckpt", -1);
    data_model_preset("sd15", &unet, &vae, &text, NULL);
    assert_int_equal(s.family, DATA_FAMILY_SD1);
    same_unet(&s.unet, &unet);
    same_vae(&s.vae, &vae);
    same_text_model(&s.text, &text);
    assert_true(s.prediction_known && s.schedule.prediction_type == DATA_EPSILON);
    assert_false(s.has_ema || s.open_clip);
    free(c);

    c = like("sd1", 1024, true);
    add_sd2_text(c);
    s = recognise(c, "v2.ckpt", 875000);
    data_model_preset("sd21-base", &unet, &vae, &text, NULL);
    assert_int_equal(s.family, DATA_FAMILY_SD2);
    same_unet(&s.unet, &unet);
    same_text_model(&s.text, &text);
    assert_true(s.prediction_known && s.schedule.prediction_type == DATA_EPSILON);
    s = recognise(c, "v2.ckpt", -1);
    data_model_preset("sd21", &unet, &vae, NULL, NULL);
    same_unet(&s.unet, &unet);
    same_vae(&s.vae, &vae);
    assert_true(!s.prediction_known && s.schedule.prediction_type == DATA_V_PREDICTION);
    assert_true(s.open_clip && s.schedule.beta_end == 0.012);
    free(c);
}

static void smaller_models_are_recognised(void **state)
{
    contents *c = like("three", 24, false);
    data_single s = recognise(c, "three.safetensors", -1);

    (void)state;
    assert_true(s.has[DATA_UNET] && s.has[DATA_VAE] && !s.has[DATA_TEXT_ENCODER]);
    assert_int_equal(s.unet.n_levels, 3);
    assert_int_equal(s.unet.layers_per_block, 1);
    assert_int_equal(s.unet.cross_attention_dim, 24);
    assert_true(!s.unet.down_attention[0] && s.unet.down_attention[2]);
    assert_true(s.unet.up_attention[0] && !s.unet.up_attention[2]);
    assert_int_equal(s.vae.n_levels, 3);
    assert_int_equal(s.vae.layers_per_block, 1);
    free(c);
}

static void sibling_yaml_and_texts_are_believed(void **state)
{
    char *folder = check_folder_new();
    contents *c = like("sd1", 1024, true);
    data_single s, again;

    (void)state;
    add_sd2_text(c);
    check_write(ctx, folder, "m.yaml",
                "model:\n  params:\n    linear_start: 0.001\n    unet_config:\n      params:\n"
                "        num_head_channels: 32\n");
    s = recognise(c, check_path(folder, "m.safetensors"), -1);
    assert_true(s.prediction_known && s.schedule.prediction_type == DATA_EPSILON);
    assert_true(s.schedule.beta_start == 0.001);
    assert_int_equal(s.unet.n_heads[3], 40);
    check_write(ctx, folder, "m.yaml", "model:\n  params:\n    parameterization: v\n");
    s = recognise(c, check_path(folder, "m.safetensors"), 875000);
    assert_int_equal(s.schedule.prediction_type, DATA_V_PREDICTION);
    s.unet.norm_num_groups = 8;
    s.unet.n_heads[2] = 5;
    s.vae.scaling_factor = 0.25;
    s.text.hidden_act = NN_QUICK_GELU;
    s.schedule.prediction_type = DATA_EPSILON;
    again = recognise(c, check_path(folder, "m.safetensors"), -1);
    for (int what = 0; what < DATA_SINGLE_N_TEXTS; what++) {
        const char *key;
        char *text = data_single_text(&key, ctx, &s, what);

        assert_non_null(text);
        check_ok(ctx, data_single_set_text(&again, ctx, "m", key, text));
        ag_delete(text);
    }
    same_unet(&again.unet, &s.unet);
    same_vae(&again.vae, &s.vae);
    same_text_model(&again.text, &s.text);
    assert_int_equal(again.schedule.prediction_type, DATA_EPSILON);
    check_ok(ctx, data_single_set_text(&again, ctx, "m", "format", "pt"));
    check_failed(ctx, data_single_set_text(&again, ctx, "m", "agewright.unet", "{\"x\": 1}"),
                 AG_EDATA, "m: __metadata__ agewright.unet: unknown key \"x\"");
    check_folder_remove(folder);
    free(c);
}

static void relatives_are_refused(void **state)
{
    contents *c = like("sd1", 768, false);
    data_single s;

    (void)state;
    add(c, UNET "input_blocks.0.0.weight", 4, 320, 9);
    check_failed(ctx, data_single_recognise(&s, ctx, "m", c->list, c->n, -1), AG_EUNSUPPORTED,
                 "inpainting");
    add(c, UNET "input_blocks.0.0.weight", 4, 320, 8);
    check_failed(ctx, data_single_recognise(&s, ctx, "m", c->list, c->n, -1), AG_EUNSUPPORTED,
                 "instruct-pix2pix");
    add(c, UNET "input_blocks.0.0.weight", 4, 320, 4);
    add(c, "conditioner.embedders.0.transformer.x", 1, 1, 0);
    check_failed(ctx, data_single_recognise(&s, ctx, "m", c->list, c->n, -1), AG_EUNSUPPORTED,
                 "XL");
    c->n = 0;
    add(c, "conv_in.weight", 4, 1, 1);
    assert_false(data_single_is(c->list, c->n));
    check_failed(ctx, data_single_recognise(&s, ctx, "m", c->list, c->n, -1), AG_EDATA,
                 "no Stable Diffusion checkpoint");
    add(c, UNET "input_blocks.0.0.weight", 4, 320, 4);
    check_failed(ctx, data_single_recognise(&s, ctx, "m", c->list, c->n, -1), AG_EDATA,
                 "the U-Net cannot be told");
    free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(names_equal_diffusers),
                                       cmocka_unit_test(ema_names_get_their_dots_back),
                                       cmocka_unit_test(other_names),
                                       cmocka_unit_test(older_published_names),
                                       cmocka_unit_test(published_models_are_recognised),
                                       cmocka_unit_test(smaller_models_are_recognised),
                                       cmocka_unit_test(sibling_yaml_and_texts_are_believed),
                                       cmocka_unit_test(relatives_are_refused)};
    int failed;

    ctx = ag_ctx_new(NULL);
    read_pairs();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(pairs);
    ag_ctx_free(ctx);
    return failed;
}
