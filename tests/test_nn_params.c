/* test_nn_params.c - names, layouts, loading and first values. */
#include "tests/nn_cases.h"
#include "tests/nn_check.h"

#include <errno.h>

#include "autograd/numbers.h"
#include "autograd/random.h"

/* --- the real models, on the device that takes no memory ---------------------------------- */

static void expect_size(const nn_params *params, int64_t count, int64_t values)
{
    assert_int_equal(nn_params_count(params), count);
    assert_int_equal(nn_params_values(params), values);
}

static void expect_shape(const nn_params *params, const char *name, const char *shape)
{
    const nn_param *param = nn_params_find(params, name);
    char text[64];

    if (!param)
        fail_msg("there is no %s", name);
    assert_string_equal(nn_shape_text(param->n_dims, param->dims, text, sizeof text), shape);
}

static void full_size_unet(void **state)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_META});
    nn_unet_config config = case_unet_sd15();
    nn_unet *net = NULL;
    nn_params *p;

    (void)state;
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    p = nn_unet_params(net);
    expect_size(p, 686, 859520964);
    assert_int_equal(nn_unet_n_attentions(net), 32);
    expect_shape(p, "conv_in.weight", "[320,4,3,3]");
    expect_shape(p, "up_blocks.0.resnets.2.conv1.weight", "[1280,2560,3,3]");
    expect_shape(p, "up_blocks.2.resnets.2.conv_shortcut.weight", "[640,960,1,1]");
    expect_shape(p, "down_blocks.0.attentions.1.proj_in.weight", "[320,320,1,1]");
    expect_shape(p, "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", "[1280,768]");
    expect_shape(p, "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
                 "[2560,320]");
    assert_null(nn_params_find(p, "down_blocks.3.attentions.0.norm.weight"));
    assert_null(nn_params_find(p, "down_blocks.0.resnets.0.conv_shortcut.weight"));
    assert_int_equal(nn_params_alloc(ctx, p, AG_F32), AG_OK);
    assert_int_equal(ag_bytes_now(ctx, AG_MODEL) / 4 / 1000, 859520964 / 1000);
    nn_unet_free(net);

    config.cross_attention_dim = 1024;
    config.use_linear_projection = true;
    for (int i = 0; i < 4; i++)
        config.n_heads[i] = (int64_t[]){5, 10, 20, 20}[i];
    assert_int_equal(nn_unet_new(&net, ctx, &config), AG_OK);
    expect_size(nn_unet_params(net), 686, 865910724);
    expect_shape(nn_unet_params(net), "down_blocks.0.attentions.1.proj_in.weight", "[320,320]");
    nn_unet_free(net);
    ag_ctx_free(ctx);
}

static void full_size_others(void **state)
{
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_META});
    const nn_vae_config vae_config = case_vae_sd();
    nn_clip_config clip_config = case_clip_sd15();
    nn_vae *vae = NULL;
    nn_clip_text *clip = NULL;

    (void)state;
    assert_int_equal(nn_vae_new(&vae, ctx, &vae_config), AG_OK);
    expect_size(nn_vae_params(vae), 248, 83653863);
    assert_int_equal(nn_vae_factor(vae), 8);
    expect_shape(nn_vae_params(vae), "encoder.mid_block.attentions.0.to_q.weight", "[512,512]");
    expect_shape(nn_vae_params(vae), "decoder.up_blocks.2.resnets.0.conv_shortcut.weight",
                 "[256,512,1,1]");
    expect_shape(nn_vae_params(vae), "quant_conv.weight", "[8,8,1,1]");
    nn_vae_free(vae);

    assert_int_equal(nn_clip_text_new(&clip, ctx, &clip_config), AG_OK);
    expect_size(nn_clip_text_params(clip), 196, 123060480);
    nn_clip_text_free(clip);
    clip_config.hidden_size = 1024;
    clip_config.intermediate_size = 4096;
    clip_config.num_hidden_layers = 23;
    clip_config.num_attention_heads = 16;
    assert_int_equal(nn_clip_text_new(&clip, ctx, &clip_config), AG_OK);
    expect_size(nn_clip_text_params(clip), 372, 340387840);
    nn_clip_text_free(clip);
    ag_ctx_free(ctx);
}

/* --- a small registry --------------------------------------------------------------------- */

enum { CONV_VALUES = 5 * 3 * 3 * 3, LINEAR_VALUES = 7 * 4, VECTOR_VALUES = 6 };

static nn_params *small_registry(ag_ctx *ctx)
{
    nn_params *p = NULL;

    assert_int_equal(nn_params_new(&p, ctx), AG_OK);
    nn_enter(p, "block.%d", 0);
    nn_declare(p, "conv.weight", NN_OIHW, nn_first_uniform(27), 4, (int64_t[]){5, 3, 3, 3});
    nn_declare(p, "vector.bias", NN_AS_IS, nn_first_constant(0.5), 1, (int64_t[]){VECTOR_VALUES});
    nn_leave(p);
    nn_declare(p, "proj.weight", NN_LINEAR_1X1, nn_first_normal(0.1), 4, (int64_t[]){7, 4, 1, 1});
    check_fine(ctx);
    return p;
}

static void layouts(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_params *p = small_registry(ctx);
    nn_param *conv = nn_params_find(p, "block.0.conv.weight");
    nn_param *proj = nn_params_find(p, "proj.weight");
    float in[CONV_VALUES], back[CONV_VALUES], inside[CONV_VALUES];

    (void)state;
    assert_ptr_equal(conv, nn_params_at(p, 0));
    assert_null(nn_params_at(p, 3));
    assert_null(nn_params_find(p, "conv.weight"));
    assert_int_equal(nn_params_alloc(ctx, p, AG_F32), AG_OK);
    for (int i = 0; i < CONV_VALUES; i++)
        in[i] = (float)i;
    assert_int_equal(nn_param_set_published(ctx, conv, in, 4, (int64_t[]){5, 3, 3, 3}), AG_OK);
    assert_int_equal(ag_read(ctx, conv->value, inside, sizeof inside), AG_OK);
    for (int o = 0; o < 5; o++) {
        for (int k = 0; k < 9; k++) {
            for (int i = 0; i < 3; i++)
                assert_true(inside[(o * 9 + k) * 3 + i] == in[(o * 3 + i) * 9 + k]);
        }
    }
    assert_int_equal(nn_param_get_published(ctx, conv, back), AG_OK);
    assert_memory_equal(in, back, sizeof in);

    /* A 1x1 convolution is a linear layer inside, and takes three spellings of its shape. */
    assert_int_equal(ag_ndim(proj->value), 2);
    assert_int_equal(nn_param_set_published(ctx, proj, in, 4, (int64_t[]){7, 4, 1, 1}), AG_OK);
    assert_int_equal(nn_param_set_published(ctx, proj, in, 3, (int64_t[]){7, 4, 1}), AG_OK);
    assert_int_equal(nn_param_set_published(ctx, proj, in, 2, (int64_t[]){7, 4}), AG_OK);
    assert_int_equal(nn_param_set_published(ctx, proj, in, 2, (int64_t[]){4, 7}), AG_ESHAPE);
    assert_string_equal(ag_message(ctx), "proj.weight: want shape [7,4,1,1], got [4,7]");
    ag_clear(ctx);

    /* Weights that stay frozen may be stored narrow. */
    assert_int_equal(nn_params_alloc(ctx, p, AG_BF16), AG_OK);
    assert_int_equal(nn_param_set_published(ctx, conv, in, 4, (int64_t[]){5, 3, 3, 3}), AG_OK);
    assert_int_equal(nn_param_get_published(ctx, conv, back), AG_OK);
    assert_memory_equal(in, back, sizeof in); /* up to 134: exact in bf16 */
    assert_int_equal(nn_params_train(ctx, p, "block.*", true), 1);
    assert_int_equal(ag_status_of(ctx), AG_EDTYPE);
    ag_clear(ctx);
    nn_params_free(p);
    ag_ctx_free(ctx);
}

static void patterns(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_params *p = small_registry(ctx);
    ag_tensor *values[3];

    (void)state;
    assert_int_equal(nn_params_alloc(ctx, p, AG_F32), AG_OK);
    assert_int_equal(nn_params_train(ctx, p, "*.weight", true), 2);
    assert_int_equal(nn_params_trainable(p, values), 2);
    assert_ptr_equal(values[1], nn_params_find(p, "proj.weight")->value);
    assert_true(ag_requires_grad(values[0]));
    assert_int_equal(nn_params_train(ctx, p, "proj.weight", false), 1);
    assert_int_equal(nn_params_trainable(p, values), 1);
    assert_int_equal(nn_params_train(ctx, p, NULL, false), 3);
    assert_int_equal(nn_params_trainable(p, values), 0);
    nn_params_free(p);
    ag_ctx_free(ctx);
}

static void wrong_declarations(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_params *p = small_registry(ctx);
    char long_name[400];

    (void)state;
    assert_null(nn_declare(p, "proj.weight", NN_AS_IS, nn_first_constant(0), 1, (int64_t[]){1}));
    assert_string_equal(ag_message(ctx), "proj.weight: a parameter is declared twice");
    ag_clear(ctx);
    assert_null(nn_declare(p, "x", NN_OIHW, nn_first_constant(0), 2, (int64_t[]){1, 1}));
    assert_int_equal(ag_status_of(ctx), AG_ESHAPE);
    ag_clear(ctx);
    assert_null(nn_declare(p, "x", NN_AS_IS, nn_first_constant(0), 2,
                           (int64_t[]){INT64_C(1) << 40, INT64_C(1) << 40}));
    ag_clear(ctx);
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_null(nn_declare(p, long_name, NN_AS_IS, nn_first_constant(0), 1, (int64_t[]){1}));
    assert_int_equal(ag_status_of(ctx), AG_EINVAL);
    ag_clear(ctx);
    nn_enter(p, "%s", long_name);
    assert_int_equal(ag_status_of(ctx), AG_EINVAL);
    ag_clear(ctx);
    nn_leave(p);
    for (int i = 0; i < 40; i++)
        nn_enter(p, "m");
    assert_int_equal(ag_status_of(ctx), AG_EINVAL);
    ag_clear(ctx);
    for (int i = 0; i < 40; i++)
        nn_leave(p);
    assert_non_null(nn_declare(p, "x", NN_AS_IS, nn_first_constant(0), 1, (int64_t[]){1}));
    assert_non_null(nn_params_find(p, "x"));
    nn_params_free(p);
    ag_ctx_free(ctx);
}

/* --- loading ------------------------------------------------------------------------------ */

/* A weight file in memory. */
typedef struct shelf {
    int n;
    nn_stored stored[4];
    const void *bytes[4];
    int broken; /* tensor that cannot be read; -1: none */
} shelf;

static void shelf_describe(void *user, int64_t i, nn_stored *stored)
{
    *stored = ((const shelf *)user)->stored[i];
}

static int shelf_read(void *user, int64_t i, size_t offset, size_t bytes, void *to)
{
    const shelf *s = user;

    if (i == s->broken)
        return EIO;
    memcpy(to, (const char *)s->bytes[i] + offset, bytes);
    return 0;
}

static ag_status load(ag_ctx *ctx, nn_params *p, shelf *s)
{
    const nn_reader reader = {s, "shelf.safetensors", s->n, shelf_describe, shelf_read};

    return nn_params_load(ctx, p, &reader);
}

static void load_values(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_params *p = small_registry(ctx);
    static const ag_dtype dtypes[] = {AG_F32, AG_F16, AG_BF16, AG_F64};
    float values[CONV_VALUES], back[CONV_VALUES];
    double bytes[CONV_VALUES];

    (void)state;
    for (int i = 0; i < CONV_VALUES; i++)
        values[i] = (float)(i - 60) / 8.0f; /* exact in every format */
    for (int k = 0; k < 4; k++) {
        for (int wide = 0; wide < 2; wide++) {
            shelf s = {3,
                       {{"proj.weight", dtypes[k], 2, {7, 4}},
                        {"block.0.vector.bias", dtypes[k], 1, {VECTOR_VALUES}},
                        {"block.0.conv.weight", dtypes[k], 4, {5, 3, 3, 3}}},
                       {bytes, bytes, bytes},
                       -1};

            ag_narrow(bytes, dtypes[k], values, CONV_VALUES);
            assert_int_equal(nn_params_alloc(ctx, p, wide ? AG_F32 : AG_F16), AG_OK);
            assert_int_equal(load(ctx, p, &s), AG_OK);
            for (int i = 0; i < 3; i++) {
                const nn_param *param = nn_params_at(p, i);

                assert_int_equal(nn_param_get_published(ctx, param, back), AG_OK);
                assert_memory_equal(back, values, (size_t)param->numel * sizeof *back);
            }
        }
    }
    nn_params_free(p);
    ag_ctx_free(ctx);
}

static void load_refusals(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_params *p = small_registry(ctx);
    float bytes[CONV_VALUES] = {0};
    const shelf good = {3,
                        {{"proj.weight", AG_F32, 2, {7, 4}},
                         {"block.0.vector.bias", AG_F32, 1, {VECTOR_VALUES}},
                         {"block.0.conv.weight", AG_F32, 4, {5, 3, 3, 3}},
                         {"proj.weight", AG_F32, 2, {7, 4}}},
                        {bytes, bytes, bytes, bytes},
                        -1};
    shelf s = good;

    (void)state;
    assert_int_equal(load(ctx, p, &s), AG_EINVAL); /* no memory yet */
    ag_clear(ctx);
    assert_int_equal(nn_params_alloc(ctx, p, AG_F32), AG_OK);
    s.stored[0].name = "other.weight";
    s.stored[2].dims[1] = 4;
    assert_int_equal(load(ctx, p, &s), AG_EDATA);
    assert_string_equal(ag_message(ctx),
                        "shelf.safetensors: its tensors are not this network's: extra "
                        "other.weight, missing proj.weight, misshapen block.0.conv.weight (want "
                        "[5,3,3,3], got [5,4,3,3])");
    ag_clear(ctx);

    s = good;
    s.n = 4;
    assert_int_equal(load(ctx, p, &s), AG_EDATA);
    assert_string_equal(ag_message(ctx), "shelf.safetensors: its tensors are not this network's: "
                                         "twice proj.weight");
    ag_clear(ctx);

    s = good;
    s.stored[1].dtype = AG_I64;
    assert_int_equal(load(ctx, p, &s), AG_EDATA);
    ag_clear(ctx);

    s = good;
    s.broken = 2;
    assert_int_equal(load(ctx, p, &s), AG_EIO);
    assert_non_null(strstr(ag_message(ctx), "shelf.safetensors: reading block.0.conv.weight: "));
    ag_clear(ctx);
    nn_params_free(p);
    ag_ctx_free(ctx);
}

/* A list longer than the message says so instead of running over. */
static void long_list(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_params *p = NULL;
    shelf s = {0};

    (void)state;
    assert_int_equal(nn_params_new(&p, ctx), AG_OK);
    for (int i = 0; i < 200; i++) {
        char name[220];

        snprintf(name, sizeof name, "%d%0200d", i, 0);
        nn_declare(p, name, NN_AS_IS, nn_first_constant(0), 1, (int64_t[]){1});
    }
    assert_int_equal(nn_params_alloc(ctx, p, AG_F32), AG_OK);
    assert_int_equal(load(ctx, p, &s), AG_EDATA);
    assert_true(strlen(ag_message(ctx)) < 1024);
    ag_clear(ctx);
    nn_params_free(p);
    ag_ctx_free(ctx);
}

/* --- number formats ----------------------------------------------------------------------- */

static void half_precision(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        const uint16_t half = (uint16_t)bits;
        uint16_t back;
        _Float16 want;
        float got;

        memcpy(&want, &half, sizeof want);
        ag_widen(&got, AG_F16, &half, 1);
        if (isnan((float)want)) {
            assert_true(isnan(got));
            continue;
        }
        assert_true(got == (float)want && signbit(got) == signbit((float)want));
        ag_narrow(&back, AG_F16, &got, 1);
        assert_int_equal(back, half);
    }
    for (uint32_t i = 0; i < 2000000; i++) {
        const uint32_t bits = i * 2147u + (i << 20); /* all over the range */
        float value;
        uint16_t got, want;
        _Float16 half;

        memcpy(&value, &bits, sizeof value);
        if (isnan(value))
            continue;
        half = (_Float16)value;
        memcpy(&want, &half, sizeof want);
        ag_narrow(&got, AG_F16, &value, 1);
        assert_int_equal(got, want);
    }
}

static void brain_float(void **state)
{
    const float in[] = {1.0f, 1.00390625f, 1.01171875f, -3.4e38f, INFINITY, 1e-45f, -0.0f};
    const float want[] = {1.0f, 1.0f, 1.015625f, -INFINITY, INFINITY, 0.0f, -0.0f};
    const float not_a_number = NAN;
    uint16_t half[7];
    float out[7];

    (void)state;
    ag_narrow(half, AG_BF16, in, 7);
    ag_widen(out, AG_BF16, half, 7);
    for (int i = 0; i < 7; i++)
        assert_true(i == 3 ? out[i] < -3.38e38f : out[i] == want[i]);
    ag_narrow(half, AG_BF16, &not_a_number, 1);
    ag_widen(out, AG_BF16, half, 1);
    assert_true(isnan(out[0]));
}

/* --- first values ------------------------------------------------------------------------- */

static void first_values(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_params *p = small_registry(ctx), *other = NULL;
    const ag_draw draw = {11, AG_DRAW_INIT, 0, ag_hash_name("block.0.conv.weight")};
    const double bound = 1.0 / sqrt(27.0);
    float got[CONV_VALUES], again[CONV_VALUES], uniform[CONV_VALUES];

    (void)state;
    assert_int_equal(nn_params_alloc(ctx, p, AG_F32), AG_OK);
    assert_int_equal(nn_params_init(ctx, p, 11), AG_OK);
    assert_int_equal(nn_param_get_published(ctx, nn_params_at(p, 0), got), AG_OK);
    ag_draw_uniforms(&draw, uniform, CONV_VALUES);
    for (int i = 0; i < CONV_VALUES; i++)
        assert_true(got[i] == (float)(bound * (2.0 * uniform[i] - 1.0)));
    assert_int_equal(nn_param_get_published(ctx, nn_params_at(p, 1), got), AG_OK);
    assert_true(got[0] == 0.5f && got[5] == 0.5f);
    assert_int_equal(nn_param_get_published(ctx, nn_params_at(p, 2), got), AG_OK);
    for (int i = 0; i < LINEAR_VALUES; i++)
        assert_true(fabs((double)got[i]) < 0.6 && got[i] != 0.0f);

    /* The same name in another network, alone and in another layout: the same values. */
    assert_int_equal(nn_params_new(&other, ctx), AG_OK);
    nn_declare(other, "proj.weight", NN_AS_IS, nn_first_normal(0.1), 2, (int64_t[]){7, 4});
    assert_int_equal(nn_params_alloc(ctx, other, AG_F32), AG_OK);
    assert_int_equal(nn_params_init(ctx, other, 11), AG_OK);
    assert_int_equal(nn_param_get_published(ctx, nn_params_at(other, 0), again), AG_OK);
    assert_memory_equal(got, again, LINEAR_VALUES * sizeof *got);
    assert_int_equal(nn_params_init(ctx, other, 12), AG_OK);
    assert_int_equal(nn_param_get_published(ctx, nn_params_at(other, 0), again), AG_OK);
    assert_memory_not_equal(got, again, LINEAR_VALUES * sizeof *got);
    nn_params_free(other);
    nn_params_free(p);
    ag_ctx_free(ctx);
}

static void rule_values(void **state)
{
    const float want[] = {-0.14895162f, -0.80133273f, -0.95163339f, 0.54496658f};
    float got[4];

    (void)state;
    nn_rule_input("conv_in.weight", 1.0, 4, got);
    check_close("rule", got, want, 4, 1e-7, 0.0);
    nn_rule_param("conv_in.weight", 4, (int64_t[]){1, 1, 2, 2}, got); /* fan_in 4 */
    assert_true(fabs(got[0] - sqrt(0.75) * want[0]) < 1e-7);
    nn_rule_param("conv_in.weight", 1, (int64_t[]){4}, got);
    assert_true(fabs(got[0] - (1.0 + 0.1 * want[0])) < 1e-7);
}

/* --- configurations and memory that do not fit -------------------------------------------- */

static void wrong_configs(void **state)
{
    ag_ctx *ctx = check_ctx();
    nn_unet_config u = case_unet_c();
    nn_vae_config v = case_vae_c();
    nn_clip_config c = case_clip(NN_GELU);
    nn_unet *unet = NULL;
    nn_vae *vae = NULL;
    nn_clip_text *clip = NULL;

    (void)state;
    u.norm_num_groups = 5;
    assert_int_equal(nn_unet_new(&unet, ctx, &u), AG_EINVAL);
    assert_string_equal(ag_message(ctx),
                        "down_blocks.0.resnets.0.norm1: 16 channels do not make 5 groups");
    ag_clear(ctx);
    u = case_unet_c();
    u.n_heads[0] = 3;
    assert_int_equal(nn_unet_new(&unet, ctx, &u), AG_EINVAL);
    ag_clear(ctx);
    u = case_unet_c();
    u.n_levels = 9;
    assert_int_equal(nn_unet_new(&unet, ctx, &u), AG_EINVAL);
    ag_clear(ctx);
    u = case_unet_c();
    u.layers_per_block = 100000;
    assert_int_equal(nn_unet_new(&unet, ctx, &u), AG_EINVAL);
    ag_clear(ctx);
    v.norm_num_groups = 7;
    assert_int_equal(nn_vae_new(&vae, ctx, &v), AG_EINVAL);
    ag_clear(ctx);
    v = case_vae_c();
    v.block_out_channels[1] = 0;
    assert_int_equal(nn_vae_new(&vae, ctx, &v), AG_EINVAL);
    ag_clear(ctx);
    c.num_attention_heads = 5;
    assert_int_equal(nn_clip_text_new(&clip, ctx, &c), AG_EINVAL);
    ag_clear(ctx);
    assert_true(!unet && !vae && !clip);
    ag_ctx_free(ctx);
}

static void refused_memory(void **state)
{
    const nn_unet_config u = case_unet_a();
    const nn_clip_config c = case_clip(NN_GELU);
    int n_refused = 0;

    (void)state;
    for (int64_t n = 0;; n++) {
        ag_ctx *ctx = check_ctx();
        nn_unet *unet = NULL;
        nn_clip_text *clip = NULL;
        ag_status status;

        ag_refuse_allocation(ctx, n, false);
        status = nn_unet_new(&unet, ctx, &u);
        if (status == AG_OK)
            status = nn_clip_text_new(&clip, ctx, &c);
        if (status == AG_OK)
            status = nn_params_alloc(ctx, nn_clip_text_params(clip), AG_F32);
        if (status == AG_OK)
            status = nn_params_init(ctx, nn_clip_text_params(clip), 1);
        nn_clip_text_free(clip);
        nn_unet_free(unet);
        ag_ctx_free(ctx);
        if (status == AG_OK)
            break;
        assert_int_equal(status, AG_ENOMEM);
        n_refused++;
    }
    assert_true(n_refused > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_size_unet),
        cmocka_unit_test(full_size_others),
        cmocka_unit_test(layouts),
        cmocka_unit_test(patterns),
        cmocka_unit_test(wrong_declarations),
        cmocka_unit_test(load_values),
        cmocka_unit_test(load_refusals),
        cmocka_unit_test(long_list),
        cmocka_unit_test(half_precision),
        cmocka_unit_test(brain_float),
        cmocka_unit_test(first_values),
        cmocka_unit_test(rule_values),
        cmocka_unit_test(wrong_configs),
        cmocka_unit_test(refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
