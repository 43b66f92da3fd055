/* test_nn_expected.c - the networks against numbers on paper: no file, weights by the fill rule.
 *
 * The numbers were computed with PyTorch 2.15, diffusers 0.42.1 and transformers 5.23 in f32;
 * means, the first four values and the last one of each output in the order of [N,C,H,W].
 */
#include "tests/nn_cases.h"
#include "tests/nn_check.h"

typedef struct expected {
    double mean, mean_abs, first[4], last;
} expected;

/* values[n] in published order, against the six numbers, relative to their mean size. */
static void expect(const char *what, const float *values, int64_t n, expected want)
{
    const double room = NN_TOLERANCE * want.mean_abs;
    double sum = 0.0, sum_abs = 0.0;

    for (int64_t i = 0; i < n; i++) {
        sum += values[i];
        sum_abs += fabs((double)values[i]);
    }
    for (int i = 0; i < 5; i++) {
        const double got = values[i < 4 ? i : n - 1], wanted = i < 4 ? want.first[i] : want.last;

        if (!(fabs(got - wanted) <= room))
            fail_msg("%s: value %d is %.6f, want %.6f", what, i, got, wanted);
    }
    if (!(fabs(sum / (double)n - want.mean) <= room) ||
        !(fabs(sum_abs / (double)n - want.mean_abs) <= room))
        fail_msg("%s: mean %.6f and mean size %.6f, want %.6f and %.6f", what, sum / (double)n,
                 sum_abs / (double)n, want.mean, want.mean_abs);
}

/* The same for a tensor [N,H,W,C], or one whose order is the published one. */
static void expect_tensor(ag_ctx *ctx, const char *what, ag_tensor *t, expected want)
{
    float *got, *ordered;

    check_fine(ctx);
    got = malloc(ag_nbytes(t));
    ordered = malloc(ag_nbytes(t));
    assert_true(got && ordered);
    assert_int_equal(ag_read(ctx, t, got, ag_nbytes(t)), AG_OK);
    if (ag_ndim(t) == 4) {
        const int64_t *d = ag_dims(t);

        check_reorder(got, ordered, (int64_t[]){d[0], d[3], d[1], d[2]}, false);
        expect(what, ordered, ag_numel(t), want);
    } else {
        expect(what, got, ag_numel(t), want);
    }
    free(ordered);
    free(got);
}

/* An input of the rule; n_dims 4: published [N,C,H,W], given channels last. */
static ag_tensor *input(ag_ctx *ctx, const char *name, double scale, int n_dims,
                        const int64_t *dims)
{
    int64_t n = 1;
    float *values, *last;
    ag_tensor *made;

    for (int i = 0; i < n_dims; i++)
        n *= dims[i];
    values = malloc((size_t)n * sizeof *values);
    last = malloc((size_t)n * sizeof *last);
    assert_true(values && last);
    nn_rule_input(name, scale, n, values);
    if (n_dims == 4) {
        check_reorder(values, last, dims, true);
        made = ag_from_f32(ctx, last, 4, (int64_t[]){dims[0], dims[2], dims[3], dims[1]});
    } else {
        made = ag_from_f32(ctx, values, n_dims, dims);
    }
    free(last);
    free(values);
    check_fine(ctx);
    return made;
}

#define SQRT3 1.7320508075688772
#define DIMS(...) ((int64_t[]){__VA_ARGS__})

/* --- text ------------------------------------------------------------------------------------ */

static void text(nn_clip_act act, const expected *want)
{
    ag_ctx *ctx = check_ctx();
    const nn_clip_config config = case_clip(act);
    nn_clip_text *net = NULL;
    int64_t values[77];
    ag_tensor *ids;

    values[0] = 998;
    for (int i = 0; i < 76; i++)
        values[i + 1] = i < 20 ? (7 * i + 3) % 990 : 999;
    assert_int_equal(nn_clip_text_new(&net, ctx, &config), AG_OK);
    check_fill(ctx, nn_clip_text_params(net));
    assert_int_equal(nn_params_values(nn_clip_text_params(net)), 68473);
    ids = ag_from_i64(ctx, values, 2, DIMS(1, 77));
    for (int skip = 0; skip < 2; skip++)
        expect_tensor(ctx, skip ? "text, clip_skip 1" : "text",
                      nn_clip_text_forward(ctx, net, ids, &(nn_clip_options){.clip_skip = skip}),
                      want[skip]);
    nn_clip_text_free(net);
    ag_ctx_free(ctx);
}

static void text_quick_gelu(void **state)
{
    (void)state;
    text(NN_QUICK_GELU,
         (expected[]){
             {-0.011678, 0.784635, {-0.910343, 2.135730, -0.105980, -1.148333}, 1.366968},
             {-0.009969, 0.776468, {-0.828185, 1.802753, 0.438458, -0.675721}, 1.797957},
         });
}

static void text_gelu(void **state)
{
    (void)state;
    text(NN_GELU, (expected[]){
                      {-0.011670, 0.784811, {-0.936763, 2.129662, -0.100711, -1.145116}, 1.364772},
                      {-0.009922, 0.776383, {-0.844251, 1.798530, 0.444519, -0.667035}, 1.800246},
                  });
}

/* --- U-Net ----------------------------------------------------------------------------------- */

static nn_unet *make_unet(ag_ctx *ctx, const nn_unet_config *config)
{
    nn_unet *net = NULL;

    assert_int_equal(nn_unet_new(&net, ctx, config), AG_OK);
    check_fill(ctx, nn_unet_params(net));
    return net;
}

static void unet(const char *what, const nn_unet_config *config, int64_t h, int64_t w,
                 expected want)
{
    ag_ctx *ctx = check_ctx();
    nn_unet *net = make_unet(ctx, config);
    ag_tensor *sample = input(ctx, "in.sample", SQRT3, 4, DIMS(2, 4, h, w));
    ag_tensor *context =
        input(ctx, "in.context", SQRT3, 3, DIMS(2, 77, config->cross_attention_dim));
    ag_tensor *t = ag_from_f32(ctx, (float[]){10, 700}, 1, DIMS(2));

    expect_tensor(ctx, what, nn_unet_forward(ctx, net, sample, t, context, NULL), want);
    nn_unet_free(net);
    ag_ctx_free(ctx);
}

static void unets(void **state)
{
    const nn_unet_config a = case_unet_a(), b = case_unet_b(), c = case_unet_c();

    (void)state;
    unet("U-Net A", &a, 16, 16,
         (expected){0.043642, 0.488418, {0.215777, -0.106364, 0.508950, -0.256864}, 0.040261});
    unet("U-Net B", &b, 16, 16,
         (expected){0.043870, 0.490468, {0.153414, -0.206431, 0.565299, -0.279154}, -0.026856});
    unet("U-Net C", &c, 16, 16,
         (expected){0.154288, 0.527561, {-0.723181, -0.578256, 1.172519, 0.317902}, -0.068594});
    unet("U-Net C, odd sizes", &c, 12, 20,
         (expected){0.198385, 0.517550, {-0.327459, -0.223526, 0.806866, 0.980839}, 0.171379});
}

/* --- VAE ------------------------------------------------------------------------------------- */

static void vae(const nn_vae_config *config, int64_t latent, const expected *want)
{
    ag_ctx *ctx = check_ctx();
    nn_vae *net = NULL;
    ag_tensor *moments, *z;

    assert_int_equal(nn_vae_new(&net, ctx, config), AG_OK);
    check_fill(ctx, nn_vae_params(net));
    moments = nn_vae_encode(ctx, net, input(ctx, "in.image", 1.0, 4, DIMS(1, 3, 32, 32)), NULL);
    expect_tensor(ctx, "VAE mean", nn_vae_mean(ctx, net, moments), want[0]);
    expect_tensor(ctx, "VAE logvar", nn_vae_logvar(ctx, net, moments), want[1]);
    z = input(ctx, "in.latent", SQRT3, 4, DIMS(1, 4, latent, latent));
    expect_tensor(ctx, "VAE decode", nn_vae_decode(ctx, net, z, NULL), want[2]);
    nn_vae_free(net);
    ag_ctx_free(ctx);
}

static void vaes(void **state)
{
    const nn_vae_config a = case_vae_a(), c = case_vae_c();

    (void)state;
    vae(&a, 16,
        (expected[]){
            {-0.048306, 0.396209, {0.053689, 0.454577, -0.201827, 0.607534}, -0.089543},
            {-0.022916, 0.444925, {-0.205490, 0.162421, 0.097022, 0.005952}, 0.374008},
            {0.001597, 0.435400, {-0.149919, -0.211887, 0.026489, 0.038815}, 0.194277},
        });
    vae(&c, 8,
        (expected[]){
            {-0.140927, 0.461691, {-0.384913, 0.247828, -0.275974, 0.185741}, -0.213765},
            {-0.002953, 0.495903, {0.209758, 0.425125, 0.692569, 0.205135}, -0.514317},
            {0.094170, 0.472884, {0.226579, 0.268599, 0.239972, 0.048223}, -0.263539},
        });
}

/* --- one training step ----------------------------------------------------------------------- */

typedef struct row {
    const char *name;
    double norm, first, second;
} row;

typedef struct step_numbers {
    double loss, per_image[2], gradient_norm;
    row rows[5];
    double before[2], after[2], loss_after;
} step_numbers;

/* alpha-bar of step t: betas run from 0.00085 to 0.012, linear in their roots, over 1000 steps. */
static double alpha_bar(int t)
{
    double product = 1.0;

    for (int i = 0; i <= t; i++) {
        const double root = sqrt(0.00085) + (sqrt(0.012) - sqrt(0.00085)) * i / 999.0;

        product *= 1.0 - root * root;
    }
    return product;
}

static void near(const char *what, double got, double want, double room)
{
    if (!(fabs(got - want) <= room))
        fail_msg("%s is %.9g, want %.9g", what, got, want);
}

/* Mean squared error of the predicted noise, per image. */
static ag_tensor *loss_rows(ag_ctx *ctx, nn_unet *net, ag_tensor *noisy, ag_tensor *t,
                            ag_tensor *context, ag_tensor *noise)
{
    return ag_row_loss(ctx, AG_LOSS_L2, nn_unet_forward(ctx, net, noisy, t, context, NULL), noise,
                       0.0);
}

/* Clip to norm 1 and AdamW (lr 1e-3, weight decay 1e-2): every parameter, first step. */
static void update(ag_ctx *ctx, nn_params *params, ag_tensor **grads, double norm)
{
    const float scalars[8] = {1e-3f,
                              0.9f,
                              0.999f,
                              1e-8f,
                              1e-2f,
                              (float)(1.0 - 0.9),
                              (float)(1.0 - 0.999),
                              (float)fmin(1.0, 1.0 / (norm + 1e-6))};
    const bool recording = ag_record(ctx, false);

    for (int64_t i = 0; i < nn_params_count(params); i++) {
        ag_tensor *p = nn_params_at(params, i)->value;
        ag_tensor *m = ag_full(ctx, AG_STEP, 0.0, ag_ndim(p), ag_dims(p));
        ag_tensor *v = ag_full(ctx, AG_STEP, 0.0, ag_ndim(p), ag_dims(p));

        ag_adamw_(ctx, p, m, v, grads[i], ag_from_f32(ctx, scalars, 1, DIMS(8)));
    }
    ag_record(ctx, recording);
    check_fine(ctx);
}

static void training_step(const nn_unet_config *config, const step_numbers *want)
{
    ag_ctx *ctx = check_ctx();
    nn_unet *net = make_unet(ctx, config);
    nn_params *params = nn_unet_params(net);
    const int64_t n = nn_params_count(params);
    const double bar[2] = {alpha_bar(10), alpha_bar(700)};
    float keep[2], spoil[2], rows[2], loss, *values;
    ag_tensor *latents = input(ctx, "in.latents", SQRT3, 4, DIMS(2, 4, 16, 16));
    ag_tensor *noise = input(ctx, "in.noise", SQRT3, 4, DIMS(2, 4, 16, 16));
    ag_tensor *context =
        input(ctx, "in.context", SQRT3, 3, DIMS(2, 77, config->cross_attention_dim));
    ag_tensor *t = ag_from_f32(ctx, (float[]){10, 700}, 1, DIMS(2)), *noisy, *per_image, *mean;
    ag_tensor **grads;
    double sum = 0.0;

    for (int i = 0; i < 2; i++) {
        keep[i] = (float)sqrt(bar[i]);
        spoil[i] = (float)sqrt(1.0 - bar[i]);
    }
    noisy = ag_add(ctx, ag_mul(ctx, latents, ag_from_f32(ctx, keep, 4, DIMS(2, 1, 1, 1))),
                   ag_mul(ctx, noise, ag_from_f32(ctx, spoil, 4, DIMS(2, 1, 1, 1))));
    per_image = loss_rows(ctx, net, noisy, t, context, noise);
    mean = ag_mean(ctx, per_image, AG_ALL_AXES, false);
    check_fine(ctx);
    assert_int_equal(ag_read(ctx, mean, &loss, sizeof loss), AG_OK);
    assert_int_equal(ag_read(ctx, per_image, rows, sizeof rows), AG_OK);
    near("the loss", loss, want->loss, NN_TOLERANCE * want->loss);
    near("the loss of image 0", rows[0], want->per_image[0], NN_TOLERANCE * want->loss);
    near("the loss of image 1", rows[1], want->per_image[1], NN_TOLERANCE * want->loss);

    grads = check_grads(ctx, params, &mean, (ag_tensor *[]){NULL}, 1, NULL, 0);
    for (int64_t i = 0; i < n; i++)
        sum += pow(check_norm(ctx, grads[i]), 2.0);
    near("the gradient's norm", sqrt(sum), want->gradient_norm, NN_TOLERANCE * want->gradient_norm);
    for (int k = 0; k < 5; k++) {
        const row *r = &want->rows[k];
        const nn_param *param = nn_params_find(params, r->name);
        const double norm = check_norm(ctx, grads[param->index]);

        values = malloc((size_t)param->numel * sizeof *values);
        assert_non_null(values);
        assert_int_equal(nn_param_publish(ctx, param, grads[param->index], values), AG_OK);
        near(r->name, norm, r->norm, 2 * NN_TOLERANCE * r->norm + 1e-6);
        near(r->name, values[0], r->first, 2 * NN_TOLERANCE * r->norm);
        near(r->name, values[1], r->second, 2 * NN_TOLERANCE * r->norm);
        free(values);
    }

    values = malloc((size_t)nn_params_at(params, 0)->numel * sizeof *values);
    assert_non_null(values);
    assert_string_equal(nn_params_at(params, 0)->name, "conv_in.weight");
    assert_int_equal(nn_param_get_published(ctx, nn_params_at(params, 0), values), AG_OK);
    near("conv_in.weight[0] before", values[0], want->before[0], 1e-7);
    update(ctx, params, grads, sqrt(sum));
    assert_int_equal(nn_param_get_published(ctx, nn_params_at(params, 0), values), AG_OK);
    near("conv_in.weight[0] after", values[0], want->after[0], 1e-7);
    near("conv_in.weight[1] after", values[1], want->after[1], 1e-7);
    mean = ag_mean(ctx, loss_rows(ctx, net, noisy, t, context, noise), AG_ALL_AXES, false);
    check_fine(ctx);
    assert_int_equal(ag_read(ctx, mean, &loss, sizeof loss), AG_OK);
    near("the loss after the step", loss, want->loss_after, NN_TOLERANCE * want->loss_after);
    free(values);
    free(grads);
    nn_unet_free(net);
    ag_ctx_free(ctx);
}

#define TO_K "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
#define FF_BIAS "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.bias"

static void training_step_a(void **state)
{
    const nn_unet_config config = case_unet_a();

    (void)state;
    training_step(&config, &(step_numbers){1.413301,
                                           {1.409984, 1.416617},
                                           2.392649,
                                           {{"conv_in.weight", 0.327892, 7.689781e-3, 9.843810e-3},
                                            {"time_embedding.linear_1.weight", 0.030963,
                                             5.121148e-4, -4.122818e-4},
                                            {TO_K, 0.013017, -3.110697e-4, -7.003364e-5},
                                            {FF_BIAS, 0.006747, 1.152437e-4, -3.834334e-4},
                                            {"conv_out.bias", 0.290721, -2.064923e-2, -0.1487657}},
                                           {-0.04299863, -0.23132484},
                                           {-0.04399820, -0.23232253},
                                           0.948669});
}

static void training_step_c(void **state)
{
    const nn_unet_config config = case_unet_c();

    (void)state;
    training_step(&config, &(step_numbers){1.413113,
                                           {1.293412, 1.532814},
                                           3.056798,
                                           {{"conv_in.weight", 0.443133, 2.624410e-2, -1.006467e-2},
                                            {"time_embedding.linear_1.weight", 0.084937,
                                             -4.319446e-3, -4.463327e-3},
                                            {TO_K, 0.002191, 2.614473e-5, -3.726383e-5},
                                            {FF_BIAS, 0.001540, 3.592550e-4, -2.474120e-6},
                                            {"conv_out.bias", 0.305978, 0.2747036, -2.887917e-3}},
                                           {-0.04299863, -0.23132484},
                                           {-0.04399820, -0.23032252},
                                           1.147164});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_quick_gelu), cmocka_unit_test(text_gelu),
        cmocka_unit_test(unets),           cmocka_unit_test(vaes),
        cmocka_unit_test(training_step_a), cmocka_unit_test(training_step_c),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
