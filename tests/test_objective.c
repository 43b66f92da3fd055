/* test_objective.c - the loss of a batch: SelfAge's contrast with its published values and with plain loops
 * in double, its gradient with the formula, and how halves are put together.
 */
#include "tests/check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "nn/init.h"
#include "pipeline/pipeline.h"
#include "train/contrast.h"
#include "train/objective.h"

/* --- contrast, by definition ------------------------------------------------------------------ */

enum { MAX_B = 5, MAX_P = 64, C = 3 };

/* Cosine of two vectors with a stride of C. */
static double cosine(const float *u, const float *v, int64_t P)
{
    double uv = 0, uu = 0, vv = 0;

    for (int64_t p = 0; p < P; p++) {
        uv += (double)u[p * C] * v[p * C];
        uu += (double)u[p * C] * u[p * C];
        vv += (double)v[p * C] * v[p * C];
    }
    return uv / (fmax(sqrt(uu), 1e-8) * fmax(sqrt(vv), 1e-8));
}

static double contrast(const float *prediction, const float *target, int64_t B, int64_t P)
{
    double sum = 0;

    for (int c = 0; c < C; c++)
        for (int64_t a = 0; a < 2 * B; a++) {
            const float *za = (a < B ? prediction + a * P * C : target + (a - B) * P * C) + c;
            double others = 0, positive = 0;
            for (int64_t b = 0; b < 2 * B; b++) {
                const float *zb = (b < B ? prediction + b * P * C : target + (b - B) * P * C) + c;
                const double s = cosine(za, zb, P) / TRAIN_CONTRAST_TAU;
                if (b != a)
                    others += exp(s);
                if (b == (a + B) % (2 * B))
                    positive = s;
            }
            sum += (log(others) - positive) / (double)(2 * B * C);
        }
    return sum;
}

static double scalar(ag_ctx *ctx, const ag_tensor *t)
{
    float value = NAN;

    ag_read(ctx, t, &value, sizeof value);
    check_ok(ctx, "a scalar");
    return value;
}

/* Two samples of two values in one channel. */
static double published(ag_ctx *ctx, const float prediction[4], const float target[4])
{
    const int64_t dims[] = {2, 1, 2, 1};

    return scalar(ctx, train_contrast(ctx, ag_from_f32(ctx, prediction, 4, dims), ag_from_f32(ctx, target, 4, dims),
                                      TRAIN_CONTRAST_TAU));
}

/* Values of the published program's criterion. */
static void test_contrast_published(void **state)
{
    static const float eye[] = {1, 0, 0, 1};
    ag_ctx *ctx = check_ctx();
    float orthogonal[16] = {0};
    ag_tensor *z;

    (void)state;
    check_close("unit vectors", 0, published(ctx, eye, eye), 0.2395448, 1e-6, 0);
    check_close("four vectors", 0, published(ctx, (float[]){3, 4, 1, 0}, (float[]){4, 3, 0, 2}), 1.5107138, 1e-6, 0);
    for (int i = 0; i < 4; i++)
        orthogonal[5 * i] = (float)(i + 1);
    z = ag_from_f32(ctx, orthogonal, 4, (int64_t[]){4, 2, 2, 1});
    check_close("perfect", 0, scalar(ctx, train_contrast(ctx, z, z, TRAIN_CONTRAST_TAU)), 0.5944377, 1e-6, 0);
    z = ag_from_f32(ctx, orthogonal, 4, (int64_t[]){1, 2, 2, 4});
    assert_true(scalar(ctx, train_contrast(ctx, z, z, TRAIN_CONTRAST_TAU)) == 0.0);
    ag_ctx_free(ctx);
}

static void test_contrast_values(void **state)
{
    static const int64_t batches[] = {2, 3, 5};
    ag_ctx *ctx = check_ctx();
    uint64_t seed = 5;

    (void)state;
    for (int i = 0; i < 3; i++) {
        const int64_t B = batches[i], P = 4 * (6 + i);
        ag_tensor *p = check_random(ctx, &seed, 4, (int64_t[]){B, 4, 6 + i, C});
        ag_tensor *t = check_random(ctx, &seed, 4, (int64_t[]){B, 4, 6 + i, C});
        float *prediction = check_values(ctx, p), *target = check_values(ctx, t);
        check_close("contrast", B, scalar(ctx, train_contrast(ctx, p, t, TRAIN_CONTRAST_TAU)),
                    contrast(prediction, target, B, P), 1e-6, 1e-6);
        free(prediction);
        free(target);
    }
    ag_ctx_free(ctx);
}

/* By difference quotients of the double definition. A prediction of nothing but zeros has a length, the floor. */
static void test_contrast_gradient(void **state)
{
    const int64_t B = 3, P = 6, n = B * P * C, dims[] = {B, 2, 3, C};
    const double h = 1e-3;
    ag_ctx *ctx = check_ctx();
    uint64_t seed = 6;
    ag_tensor *p = check_random(ctx, &seed, 4, dims), *t = check_random(ctx, &seed, 4, dims), *loss, *slope = NULL;
    float *prediction = check_values(ctx, p), *target = check_values(ctx, t), *got;

    (void)state;
    ag_set_requires_grad(ctx, p, true);
    loss = train_contrast(ctx, p, t, TRAIN_CONTRAST_TAU);
    ag_grad(ctx, &loss, NULL, 1, &p, &slope, 1, 0);
    check_ok(ctx, "gradient of the contrast");
    got = check_values(ctx, slope);
    for (int64_t i = 0; i < n; i++) {
        const float was = prediction[i];
        double up, down, width;
        prediction[i] = (float)(was + h);
        width = prediction[i];
        up = contrast(prediction, target, B, P);
        prediction[i] = (float)(was - h);
        width -= prediction[i];
        down = contrast(prediction, target, B, P);
        prediction[i] = was;
        check_close("slope", i, got[i], (up - down) / width, 2e-6, 1e-4);
    }
    free(got);

    memset(prediction, 0, (size_t)n * sizeof *prediction);
    p = ag_from_f32(ctx, prediction, 4, dims);
    ag_set_requires_grad(ctx, p, true);
    loss = train_contrast(ctx, p, t, TRAIN_CONTRAST_TAU);
    slope = NULL;
    ag_grad(ctx, &loss, NULL, 1, &p, &slope, 1, 0);
    check_ok(ctx, "gradient at zero");
    got = check_values(ctx, slope);
    for (int64_t i = 0; i < n; i++)
        assert_true(isfinite(got[i]));
    free(got);
    free(prediction);
    free(target);
    ag_ctx_free(ctx);
}

/* --- halves ----------------------------------------------------------------------------------- */

enum { ROWS = 6, SIDE = 4, VALUES = SIDE * SIDE * 4 };

static pipe_model *small_model(ag_ctx *ctx)
{
    const nn_unet_config unet = {.sample_size = 4,
                                 .in_channels = 4,
                                 .out_channels = 4,
                                 .n_levels = 1,
                                 .block_out_channels = {8},
                                 .down_attention = {true},
                                 .up_attention = {true},
                                 .n_heads = {2},
                                 .layers_per_block = 1,
                                 .transformer_layers_per_block = 1,
                                 .cross_attention_dim = 8,
                                 .norm_num_groups = 4,
                                 .norm_eps = 1e-5,
                                 .flip_sin_to_cos = true,
                                 .mid_block_scale_factor = 1.0};
    data_schedule_config schedule;
    pipe_model *m = NULL;

    data_schedule_config_default(&schedule);
    pipe_new(&m, ctx, &unet, NULL, NULL, &schedule, 0);
    check_ok(ctx, "model");
    nn_params_rule(ctx, pipe_params(m, DATA_UNET));
    return m;
}

static double row_mean(const float *prediction, const float *target, int64_t row)
{
    double sum = 0;

    for (int64_t i = row * VALUES; i < (row + 1) * VALUES; i++)
        sum += ((double)prediction[i] - target[i]) * ((double)prediction[i] - target[i]) / VALUES;
    return sum;
}

static double half_contrast(ag_ctx *ctx, const train_predicted *p, int64_t first)
{
    return scalar(ctx, train_contrast(ctx, ag_slice(ctx, p->prediction, 0, first, ROWS / 2),
                                      ag_slice(ctx, p->target, 0, first, ROWS / 2), TRAIN_CONTRAST_TAU));
}

static void test_halves(void **state)
{
    static const int64_t timesteps[ROWS] = {10, 500, 990, 3, 250, 700};
    ag_ctx *ctx = check_ctx();
    pipe_model *m = small_model(ctx);
    pipe_noise *noise = calloc(1, sizeof *noise);
    train_diffusion d = {.unet = m->unet, .noise = noise};
    uint64_t seed = 7;
    const int64_t dims[] = {ROWS, SIDE, SIDE, 4};
    train_rows rows = {.n = ROWS, .timesteps = timesteps};
    train_predicted p;
    float *prediction, *target;

    (void)state;
    assert_non_null(noise);
    pipe_noise_init(noise, ctx, &m->schedule);
    rows.latents = check_random(ctx, &seed, 4, dims);
    rows.noise = check_random(ctx, &seed, 4, dims);
    rows.context = check_random(ctx, &seed, 3, (int64_t[]){ROWS, 5, 8});
    train_diffusion_predict(&p, ctx, &d, &rows);
    check_ok(ctx, "prediction");
    prediction = check_values(ctx, p.prediction);
    target = check_values(ctx, p.target);
    for (int kind = 0; kind < 8; kind++) { /* prior, contrast, min-SNR */
        const train_objective o = {.with_prior = kind & 1, .prior_loss_weight = 0.7,
                                   .contrast_weight = kind & 2 ? 0.3 : 0.0};
        double want = 0, row_want[ROWS];
        float row_got[ROWS];
        ag_tensor *row_losses, *loss;
        d.snr_gamma = kind & 4 ? 5.0 : 0.0;
        for (int64_t r = 0; r < ROWS; r++) {
            const bool is_class = o.with_prior && r >= ROWS / 2;
            row_want[r] = row_mean(prediction, target, r);
            if (d.snr_gamma > 0 && !is_class)
                row_want[r] *= pipe_noise_min_snr(noise, timesteps[r], d.snr_gamma);
            want += row_want[r] / (o.with_prior ? ROWS / 2 : ROWS) * (is_class ? o.prior_loss_weight : 1.0);
        }
        if (o.with_prior)
            want += o.contrast_weight * (half_contrast(ctx, &p, 0) + o.prior_loss_weight * half_contrast(ctx, &p, 3));
        loss = train_objective_loss(ctx, &o, &d, &rows, &row_losses);
        check_close("loss", kind, scalar(ctx, loss), want, 0, 1e-5);
        ag_read(ctx, row_losses, row_got, sizeof row_got);
        for (int64_t r = 0; r < ROWS; r++)
            check_close("row", r, row_got[r], row_want[r], 0, 1e-5);
    }
    rows.n = 5;
    assert_null(train_objective_loss(ctx, &(train_objective){.with_prior = true}, &d, &rows, &(ag_tensor *){NULL}));
    check_failed(ctx, AG_ESHAPE, "5 rows");
    free(prediction);
    free(target);
    free(noise);
    pipe_close(m);
    ag_ctx_free(ctx);
}

/* The class's half against what the model answers without its adapters, on another context; no gradient goes
 * there. */
static void test_frozen_target(void **state)
{
    static const int64_t timesteps[ROWS] = {10, 500, 990, 3, 250, 700};
    const int64_t dims[] = {ROWS, SIDE, SIDE, 4};
    const train_options options = {.rank = 2, .with_prior_preservation = true, .prior_loss_weight = 0.5,
                                   .prior_target = TRAIN_PRIOR_MODEL};
    ag_ctx *ctx = check_ctx();
    pipe_model *m = small_model(ctx);
    pipe_noise *noise = calloc(1, sizeof *noise);
    train_diffusion d = {.unet = m->unet, .noise = noise};
    train_objective o;
    train_lora lora;
    train_rows rows = {.n = ROWS, .timesteps = timesteps}, alone;
    train_predicted with, without;
    ag_tensor *row_losses, *loss;
    float *prediction, *target, *frozen;
    uint64_t seed = 8;
    double want = 0;

    (void)state;
    assert_non_null(noise);
    pipe_noise_init(noise, ctx, &m->schedule);
    rows.latents = check_random(ctx, &seed, 4, dims);
    rows.noise = check_random(ctx, &seed, 4, dims);
    rows.context = check_random(ctx, &seed, 3, (int64_t[]){ROWS, 5, 8});
    rows.class_context = check_random(ctx, &seed, 3, (int64_t[]){ROWS / 2, 5, 8});
    alone = rows;
    alone.context = ag_concat(ctx, ag_slice(ctx, rows.context, 0, 0, ROWS / 2), rows.class_context, 0);
    train_diffusion_predict(&without, ctx, &d, &alone);
    train_lora_new(&lora, ctx, &options, m);
    check_ok(ctx, "adapters");
    nn_params_rule(ctx, nn_adapters_params(lora.unet));
    train_objective_init(&o, ctx, &options, &lora);
    assert_true(train_objective_wants_class_context(&o));
    train_diffusion_predict(&with, ctx, &d, &rows);
    prediction = check_values(ctx, with.prediction);
    target = check_values(ctx, with.target);
    frozen = check_values(ctx, without.prediction);
    for (int64_t r = 0; r < ROWS; r++)
        want += row_mean(prediction, r < ROWS / 2 ? target : frozen, r) / (ROWS / 2) * (r < ROWS / 2 ? 1.0 : 0.5);
    loss = train_objective_loss(ctx, &o, &d, &rows, &row_losses);
    check_close("loss", 0, scalar(ctx, loss), want, 0, 1e-5);
    train_lora_free(&lora);

    train_objective_init(&o, ctx, &options, &lora);
    check_failed(ctx, AG_EINVAL, "--prior_target model");
    free(prediction);
    free(target);
    free(frozen);
    free(noise);
    pipe_close(m);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contrast_published),
        cmocka_unit_test(test_contrast_values),
        cmocka_unit_test(test_contrast_gradient),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_frozen_target),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
