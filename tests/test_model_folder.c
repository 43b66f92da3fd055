/* test_model_folder.c - configuration files, places and names of models. */
#include "tests/folder_check.h"

#include "data/hub.h"
#include "data/json.h"
#include "data/model_folder.h"

static ag_ctx *ctx;

static nn_unet_config unet_of(const char *text)
{
    nn_unet_config out;

    check_ok(ctx, data_unet_config_parse(&out, ctx, "u.json", text, strlen(text)));
    return out;
}

static void unet_refuses(const char *text, ag_status status, const char *words)
{
    nn_unet_config out;

    check_failed(ctx, data_unet_config_parse(&out, ctx, "u.json", text, strlen(text)), status,
                 words);
}

static void defaults_are_the_libraries(void **state)
{
    const nn_unet_config u = unet_of("{}");
    data_schedule_config s;
    nn_vae_config v;
    nn_clip_config t;

    (void)state;
    assert_int_equal(u.n_levels, 4);
    assert_int_equal(u.block_out_channels[3], 1280);
    assert_int_equal(u.cross_attention_dim, 1280);
    assert_int_equal(u.n_heads[0], 8);
    assert_int_equal(u.layers_per_block, 2);
    assert_true(u.down_attention[0] && !u.down_attention[3]);
    assert_true(!u.up_attention[0] && u.up_attention[3]);
    assert_true(u.flip_sin_to_cos && u.freq_shift == 0 && u.norm_eps == 1e-5);
    assert_true(u.mid_block_scale_factor == 1 && !u.use_linear_projection);
    assert_int_equal(u.sample_size, 0);
    check_ok(ctx, data_vae_config_parse(&v, ctx, "v.json", "{}", 2));
    assert_int_equal(v.n_levels, 1);
    assert_int_equal(v.block_out_channels[0], 64);
    assert_int_equal(v.layers_per_block, 1);
    assert_true(v.scaling_factor == 0.18215);
    check_ok(ctx, data_text_config_parse(&t, ctx, "t.json", "{}", 2));
    assert_int_equal(t.hidden_size, 512);
    assert_int_equal(t.num_hidden_layers, 12);
    assert_int_equal(t.vocab_size, 49408);
    assert_int_equal(t.hidden_act, NN_QUICK_GELU);
    check_ok(ctx, data_schedule_config_parse(&s, ctx, "s.json", "{}", 2));
    assert_true(s.beta_start == 0.0001 && s.beta_end == 0.02);
    assert_int_equal(s.beta_schedule, DATA_BETA_LINEAR);
    assert_int_equal(s.clip_sample, DATA_UNSAID);
    assert_int_equal(s.steps_offset, DATA_UNSAID);
}

static void unet_keys_are_read(void **state)
{
    const nn_unet_config u = unet_of(
        "{\"_class_name\": \"UNet2DConditionModel\", \"_diffusers_version\": \"0.6.0\","
        " \"sample_size\": [24, 24], \"in_channels\": 5, \"out_channels\": 3,"
        " \"block_out_channels\": [32, 64], \"down_block_types\": [\"DownBlock2D\","
        " \"CrossAttnDownBlock2D\"], \"up_block_types\": [\"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
        " \"attention_head_dim\": [2, 4], \"layers_per_block\": [3, 3],"
        " \"cross_attention_dim\": 24, \"norm_num_groups\": 8, \"norm_eps\": 1e-6,"
        " \"freq_shift\": 1, \"flip_sin_to_cos\": false, \"center_input_sample\": true,"
        " \"mid_block_scale_factor\": 1.5, \"use_linear_projection\": true,"
        " \"upcast_attention\": true, \"act_fn\": \"swish\", \"dual_cross_attention\": false,"
        " \"resnet_out_scale_factor\": 1.0, \"new_key_that_is_off\": false, \"other\": null}");

    (void)state;
    assert_int_equal(u.sample_size, 24);
    assert_int_equal(u.in_channels, 5);
    assert_int_equal(u.out_channels, 3);
    assert_int_equal(u.n_levels, 2);
    assert_true(!u.down_attention[0] && u.down_attention[1]);
    assert_true(u.up_attention[0] && !u.up_attention[1]);
    assert_int_equal(u.n_heads[0], 2);
    assert_int_equal(u.n_heads[1], 4);
    assert_int_equal(u.layers_per_block, 3);
    assert_int_equal(u.cross_attention_dim, 24);
    assert_int_equal(u.norm_num_groups, 8);
    assert_true(u.norm_eps == 1e-6 && u.freq_shift == 1 && !u.flip_sin_to_cos);
    assert_true(u.center_input_sample && u.mid_block_scale_factor == 1.5);
    assert_true(u.use_linear_projection && u.upcast_attention);
}

static void what_we_do_not_do_is_refused(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"{\"_class_name\": \"UNet3DConditionModel\"}", "possible: UNet2DConditionModel"},
        {"{\"act_fn\": \"gelu\"}", "\"act_fn\" is \"gelu\"; possible: silu|swish"},
        {"{\"mid_block_type\": \"UNetMidBlock2DSimpleCrossAttn\"}", "mid_block_type"},
        {"{\"mid_block_type\": null}", "mid_block_type"},
        {"{\"norm_num_groups\": null}", "norm_num_groups"},
        {"{\"downsample_padding\": 0}", "downsample_padding"},
        {"{\"dropout\": 0.1}", "dropout"},
        {"{\"only_cross_attention\": true}", "only_cross_attention"},
        {"{\"only_cross_attention\": [true, true, true, false]}", "only_cross_attention"},
        {"{\"dual_cross_attention\": true}", "dual_cross_attention"},
        {"{\"class_embed_type\": \"timestep\"}", "class_embed_type"},
        {"{\"num_class_embeds\": 10}", "num_class_embeds"},
        {"{\"addition_embed_type\": \"text_time\"}", "addition_embed_type"},
        {"{\"encoder_hid_dim\": 4}", "encoder_hid_dim"},
        {"{\"time_cond_proj_dim\": 256}", "time_cond_proj_dim"},
        {"{\"resnet_time_scale_shift\": \"scale_shift\"}", "resnet_time_scale_shift"},
        {"{\"time_embedding_type\": \"fourier\"}", "time_embedding_type"},
        {"{\"conv_in_kernel\": 1}", "conv_in_kernel"},
        {"{\"conv_out_kernel\": 5}", "conv_out_kernel"},
        {"{\"attention_type\": \"gated\"}", "attention_type"},
        {"{\"num_attention_heads\": 8}", "num_attention_heads"},
        {"{\"timestep_post_act\": \"silu\"}", "timestep_post_act"},
        {"{\"transformer_layers_per_block\": [1, 2, 10]}", "transformer_layers_per_block"},
        {"{\"down_block_types\": [\"ResnetDownsampleBlock2D\", \"DownBlock2D\", \"DownBlock2D\","
         " \"DownBlock2D\"]}",
         "possible: CrossAttnDownBlock2D, DownBlock2D"}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        unet_refuses(cases[i].text, AG_EUNSUPPORTED, cases[i].words);
    unet_refuses("{\"block_out_channels\": [32]}", AG_EDATA, "\"down_block_types\" is missing");
    unet_refuses("{\"block_out_channels\": [30, 60, 120, 120]}", AG_EDATA, "does not divide 30");
    unet_refuses("{\"attention_head_dim\": 7}", AG_EDATA, "7 heads");
    unet_refuses("{\"attention_head_dim\": [5, 10]}", AG_EDATA, "one for each level");
    unet_refuses("{\"layers_per_block\": 0}", AG_EDATA, "\"layers_per_block\" is 0");
    unet_refuses("{\"in_channels\": \"4\"}", AG_EDATA, "must be a whole number");
    unet_refuses("{\"attention_head_dimm\": 7}", AG_EDATA, "unknown key \"attention_head_dimm\"");
    unet_refuses("[]", AG_EDATA, "wanted an object");
}

static void other_files_are_checked_too(void **state)
{
    data_schedule_config s;
    nn_vae_config v;
    nn_clip_config t;
    static const char clip[] = "{\"model_type\": \"clip\", \"text_config\": {\"hidden_size\": 64, "
                               "\"num_attention_heads\": 4}, \"vision_config\": {\"x\": 1}}";
    static const char other[] = "{\"_class_name\": \"XScheduler\", \"solver_order\": 2}";

    (void)state;
#define REFUSED(kind, out, text, status, words)                                                    \
    check_failed(ctx, data_##kind##_config_parse(out, ctx, "f", text, strlen(text)), status, words)
    REFUSED(vae, &v, "{\"shift_factor\": 0.1}", AG_EUNSUPPORTED, "shift_factor");
    REFUSED(vae, &v, "{\"use_quant_conv\": false}", AG_EUNSUPPORTED, "use_quant_conv");
    REFUSED(vae, &v, "{\"mid_block_add_attention\": false}", AG_EUNSUPPORTED, "mid_block");
    REFUSED(vae, &v, "{\"latents_mean\": [0]}", AG_EUNSUPPORTED, "latents_mean");
    REFUSED(vae, &v, "{\"block_out_channels\": [32, 64]}", AG_EDATA, "down_block_types");
    REFUSED(vae, &v, "{\"down_block_types\": [\"AttnDownEncoderBlock2D\"]}", AG_EUNSUPPORTED,
            "possible: DownEncoderBlock2D");
    REFUSED(text, &t, "{\"hidden_act\": \"relu\"}", AG_EUNSUPPORTED, "hidden_act");
    REFUSED(text, &t, "{\"attention_dropout\": 0.1}", AG_EUNSUPPORTED, "attention_dropout");
    REFUSED(text, &t, "{\"use_attention_mask\": true}", AG_EUNSUPPORTED, "use_attention_mask");
    REFUSED(text, &t, "{\"model_type\": \"bert\"}", AG_EUNSUPPORTED, "model_type");
    REFUSED(text, &t, "{\"num_attention_heads\": 7}", AG_EDATA, "7 heads");
    REFUSED(schedule, &s, "{\"prediction_type\": \"sample\"}", AG_EUNSUPPORTED,
            "possible: epsilon, v_prediction");
    REFUSED(schedule, &s, "{\"beta_schedule\": \"sigmoid\"}", AG_EUNSUPPORTED, "beta_schedule");
    REFUSED(schedule, &s, "{\"trained_betas\": [0.1]}", AG_EUNSUPPORTED, "trained_betas");
    REFUSED(schedule, &s, "{\"num_train_timesteps\": 0}", AG_EDATA, "num_train_timesteps");
#undef REFUSED
    check_ok(ctx, data_text_config_parse(&t, ctx, "f", clip, strlen(clip)));
    assert_int_equal(t.hidden_size, 64);
    /* each scheduler's class ignores the keys of the others */
    check_ok(ctx, data_schedule_config_parse(&s, ctx, "f", other, strlen(other)));
}

static void written_files_come_back(void **state)
{
    static const char *const names[] = {"sd15", "sd21", "sd21-base"};
    char *folder = check_folder_new();

    (void)state;
    for (int i = 0; i < 3; i++) {
        nn_unet_config unet, unet_again;
        nn_vae_config vae, vae_again;
        nn_clip_config text, text_again;
        data_schedule_config s, s_again;
        data_place place;
        data_component component;
        char *a, *b, *below = NULL;
        bool found = false;

        assert_true(data_model_preset(names[i], &unet, &vae, &text, &s));
        for (int c = 0; c < DATA_N_COMPONENTS; c++)
            check_ok(ctx, data_folder_make(
                              ctx, check_path(folder, data_component_name((data_component)c))));
        check_ok(ctx, data_folder_make(ctx, check_path(folder, "scheduler")));
        check_ok(ctx, data_unet_config_write(ctx, check_path(folder, "unet"), &unet));
        check_ok(ctx, data_vae_config_write(ctx, check_path(folder, "vae"), &vae));
        check_ok(ctx,
                 data_text_config_write(ctx, check_path(folder, "text_encoder"), &text, "float32"));
        check_ok(ctx, data_schedule_config_write(ctx, check_path(folder, "scheduler"), &s));
        check_ok(ctx, data_model_index_write(ctx, folder, &s));

        check_ok(ctx, data_unet_config_read(&unet_again, ctx, check_path(folder, "unet")));
        check_ok(ctx, data_vae_config_read(&vae_again, ctx, check_path(folder, "vae")));
        check_ok(ctx, data_text_config_read(&text_again, ctx, check_path(folder, "text_encoder")));
        check_ok(ctx, data_schedule_config_read(&s_again, &found, ctx, folder));
        assert_true(found);
        a = data_unet_config_text(ctx, &unet);
        b = data_unet_config_text(ctx, &unet_again);
        assert_string_equal(a, b);
        ag_delete(a);
        ag_delete(b);
        a = data_vae_config_text(ctx, &vae);
        b = data_vae_config_text(ctx, &vae_again);
        assert_string_equal(a, b);
        ag_delete(a);
        ag_delete(b);
        a = data_text_config_text(ctx, &text, "float32");
        b = data_text_config_text(ctx, &text_again, "float32");
        assert_string_equal(a, b);
        ag_delete(a);
        ag_delete(b);
        a = data_schedule_config_text(ctx, &s);
        b = data_schedule_config_text(ctx, &s_again);
        assert_string_equal(a, b);
        ag_delete(a);
        ag_delete(b);

        check_ok(ctx, data_place_of(&place, &component, ctx, folder));
        assert_int_equal(place, DATA_PLACE_PIPELINE);
        check_ok(ctx, data_place_of(&place, &component, ctx, check_path(folder, "vae")));
        assert_int_equal(place, DATA_PLACE_COMPONENT);
        assert_int_equal(component, DATA_VAE);
        check_ok(ctx, data_component_folder(&below, ctx, folder, DATA_TEXT_ENCODER));
        assert_string_equal(below, check_path(folder, "text_encoder"));
        ag_delete(below);
        check_ok(ctx, data_component_folder(&below, ctx, check_path(folder, "unet"), DATA_UNET));
        ag_delete(below);
        check_failed(ctx, data_component_folder(&below, ctx, check_path(folder, "unet"), DATA_VAE),
                     AG_EDATA, "wanted a AutoencoderKL, this is a UNet2DConditionModel");
        /* a component's folder finds the schedule beside it */
        check_ok(ctx, data_schedule_config_read(&s_again, &found, ctx, check_path(folder, "unet")));
        assert_true(found);
    }
    check_folder_remove(folder);
    assert_false(data_model_preset("sdxl", NULL, NULL, NULL, NULL));
}

static void places_that_are_none(void **state)
{
    char *folder = check_folder_new(), *below = NULL;
    data_schedule_config s;
    data_place place;
    data_component component;
    bool found = true;

    (void)state;
    check_failed(ctx, data_place_of(&place, &component, ctx, check_path(folder, "no")), AG_EIO,
                 "No such file");
    check_failed(ctx, data_place_of(&place, &component, ctx, folder), AG_EDATA, "no model");
    check_write(ctx, folder, "one.ckpt", "x");
    check_ok(ctx, data_place_of(&place, &component, ctx, check_path(folder, "one.ckpt")));
    assert_int_equal(place, DATA_PLACE_SINGLE_FILE);
    check_write(ctx, folder, "config.json", "{\"_class_name\": \"Transformer2DModel\"}");
    check_failed(ctx, data_place_of(&place, &component, ctx, folder), AG_EUNSUPPORTED,
                 "describes none of");
    check_write(ctx, folder, "model_index.json",
                "{\"vae\": [null, null], \"unet\": [\"a\", \"B\"]}");
    check_failed(ctx, data_component_folder(&below, ctx, folder, DATA_VAE), AG_EDATA,
                 "the pipeline has no vae");
    check_failed(ctx, data_component_folder(&below, ctx, folder, DATA_UNET), AG_EUNSUPPORTED,
                 "unet is a B");
    check_failed(ctx, data_component_folder(&below, ctx, folder, DATA_TEXT_ENCODER), AG_EIO,
                 "text_encoder: the folder is missing");
    check_ok(ctx, data_schedule_config_read(&s, &found, ctx, folder));
    assert_false(found);
    assert_true(s.beta_end == 0.012 && s.steps_offset == 1);
    check_folder_remove(folder);
}

static void resolved(const char *id, const char *revision, const char *wanted)
{
    char *path = NULL;

    check_ok(ctx, data_resolve_model(&path, ctx, id, revision));
    assert_string_equal(path, wanted);
    ag_delete(path);
}

#define MODEL "cache/models--owner--name"

static void models_are_found_on_this_disk(void **state)
{
    char *folder = check_folder_new(), *path = NULL;

    (void)state;
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("AGEWRIGHT_MODELS");
    setenv("HF_HUB_CACHE", check_path(folder, "cache"), 1);
    check_write(ctx, folder, "cache/models--owner--name/snapshots/0123456789/model_index.json", "");
    check_write(ctx, folder, "cache/models--owner--name/snapshots/abcdef0123/model_index.json", "");
    check_write(ctx, folder, "cache/models--owner--name/refs/main", "abcdef0123\n");
    check_write(ctx, folder, "cache/models--owner--name/refs/old", "0123456789");
    check_write(ctx, folder, "cache/models--gpt/snapshots/1111111111/x", "");
    check_write(ctx, folder, "own/name/x", "");
    resolved("owner/name", NULL, check_path(folder, MODEL "/snapshots/abcdef0123"));
    resolved("owner/name", "old", check_path(folder, MODEL "/snapshots/0123456789"));
    resolved("owner/name", "01234", check_path(folder, MODEL "/snapshots/0123456789"));
    resolved("gpt", NULL, check_path(folder, "cache/models--gpt/snapshots/1111111111"));
    resolved(folder, NULL, folder);
    check_failed(ctx, data_resolve_model(&path, ctx, "owner/name", "none"), AG_EIO,
                 "holds no snapshot of revision none");
    check_failed(ctx, data_resolve_model(&path, ctx, "owner/other", NULL), AG_EIO,
                 "cache/models--owner--other/snapshots/<revision>");
    check_failed(ctx, data_resolve_model(&path, ctx, "/no/such/path", NULL), AG_EIO,
                 "there is no such file or folder");
    check_failed(ctx, data_resolve_model(&path, ctx, "../up", NULL), AG_EIO, "no such file");
    check_failed(ctx, data_resolve_model(&path, ctx, "owner/name", "../../x"), AG_EINVAL,
                 "not a revision's name");
    setenv("AGEWRIGHT_MODELS", check_path(folder, "own"), 1);
    resolved("owner/name", NULL, check_path(folder, "own/name"));
    unsetenv("AGEWRIGHT_MODELS");
    unsetenv("HF_HUB_CACHE");
    setenv("HF_HOME", check_path(folder, "home"), 1);
    check_write(ctx, folder, "home/hub/models--a--b/snapshots/2222222222/x", "");
    resolved("a/b", NULL, check_path(folder, "home/hub/models--a--b/snapshots/2222222222"));
    check_folder_remove(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(defaults_are_the_libraries),
                                       cmocka_unit_test(unet_keys_are_read),
                                       cmocka_unit_test(what_we_do_not_do_is_refused),
                                       cmocka_unit_test(other_files_are_checked_too),
                                       cmocka_unit_test(written_files_come_back),
                                       cmocka_unit_test(places_that_are_none),
                                       cmocka_unit_test(models_are_found_on_this_disk)};
    int failed;

    ctx = ag_ctx_new(NULL);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    ag_ctx_free(ctx);
    return failed;
}
