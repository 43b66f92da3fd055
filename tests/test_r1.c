/* test_r1.c - an R1 penalty through a small discriminator against PyTorch's double backward.
 *
 * Values from scripts/golden_r1.py, which describes the network. Its 1e-8 under the root of the
 * standard deviation and its leaky ReLUs are where second derivatives go wrong first.
 */
#include "tests/check.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/weights.h"

enum { N_WEIGHTS = 14, MAX_NAME = 64 };

static const char *const NAMES[N_WEIGHTS] = {
    "first.weight",       "first.bias",         "block0.conv0.weight", "block0.conv0.bias",
    "block0.conv1.weight", "block0.conv1.bias", "block1.conv0.weight", "block1.conv0.bias",
    "block1.conv1.weight", "block1.conv1.bias", "head.conv.weight",    "head.conv.bias",
    "head.linear.weight", "head.linear.bias",
};

/* A step tensor from the file; *values, when not NULL, is for free(). */
static ag_tensor *golden(ag_ctx *ctx, data_weights *file, const char *name, float **values)
{
    const int64_t i = data_weights_find(file, name);
    const data_tensor *info;
    ag_tensor *t;
    float *v;

    if (i < 0)
        fail_msg("the golden file has no %s", name);
    info = data_weights_at(file, i);
    v = malloc((size_t)info->n_values * sizeof *v);
    assert_non_null(v);
    data_weights_read_f32(ctx, file, i, v);
    t = ag_from_f32(ctx, v, info->n_dims, info->dims);
    check_ok(ctx, name);
    if (values)
        *values = v;
    else
        free(v);
    return t;
}

static ag_tensor *reflect(ag_ctx *ctx, ag_tensor *x)
{
    return ag_pad2d(ctx, x, AG_PAD_REFLECT, 1, 1, 1, 1);
}

/* One more channel: the mean over everything of the standard deviation over the batch. */
static ag_tensor *minibatch_deviation(ag_ctx *ctx, ag_tensor *x)
{
    ag_tensor *centered = ag_sub(ctx, x, ag_mean(ctx, x, 1, true));
    ag_tensor *variance = ag_mean(ctx, ag_square(ctx, centered), 1, true);
    ag_tensor *deviation = ag_sqrt(ctx, ag_offset(ctx, variance, 1e-8));
    ag_tensor *channel = ag_broadcast(
        ctx, ag_mean(ctx, deviation, AG_ALL_AXES, false), 4,
        (int64_t[]){ag_dim(x, 0), ag_dim(x, 1), ag_dim(x, 2), 1});

    return ag_concat(ctx, x, channel, -1);
}

static ag_tensor *discriminator(ag_ctx *ctx, ag_tensor **w, ag_tensor *x)
{
    static const float BLUR[9] = {1 / 16.f, 2 / 16.f, 1 / 16.f, 2 / 16.f, 4 / 16.f,
                                  2 / 16.f, 1 / 16.f, 2 / 16.f, 1 / 16.f};
    const ag_conv_opts plain = {0};
    ag_tensor *blur = ag_from_f32(ctx, BLUR, 2, (int64_t[]){3, 3});

    x = ag_leaky_relu(ctx, ag_conv2d(ctx, x, w[0], w[1], plain), 0.2);
    for (int i = 0; i < 2; i++) {
        x = ag_conv2d(ctx, reflect(ctx, x), w[2 + 4 * i], w[3 + 4 * i], plain);
        x = ag_leaky_relu(ctx, x, 0.2);
        x = ag_upfirdn2d(ctx, x, blur, 1, 1, 1, 1, 1, 1);
        x = ag_conv2d(ctx, reflect(ctx, x), w[4 + 4 * i], w[5 + 4 * i], plain);
        x = ag_leaky_relu(ctx, ag_avg_pool2d(ctx, x, 2), 0.2);
    }
    x = minibatch_deviation(ctx, x);
    x = ag_leaky_relu(ctx, ag_conv2d(ctx, reflect(ctx, x), w[10], w[11], plain), 0.2);
    x = ag_reshape(ctx, x, 2, (int64_t[]){ag_dim(x, 0), -1});
    return ag_leaky_relu(ctx, ag_linear(ctx, x, w[12], w[13]), 0.2);
}

static void compare(ag_ctx *ctx, data_weights *file, const char *name, const ag_tensor *got)
{
    float *want, *values = check_values(ctx, got);
    double size = 0;

    assert_int_equal(ag_numel(golden(ctx, file, name, &want)), ag_numel(got));
    for (int64_t i = 0; i < ag_numel(got); i++)
        size = fmax(size, fabs((double)want[i]));
    for (int64_t i = 0; i < ag_numel(got); i++)
        check_close(name, i, values[i], want[i], 2e-5 * size, 2e-5); /* f32, whatever the order of sums */
    free(want);
    free(values);
}

static void test_r1(void **state)
{
    ag_ctx *ctx = check_ctx();
    data_weights *file = NULL;
    ag_tensor *w[N_WEIGHTS], *dw[N_WEIGHTS] = {NULL}, *x, *y, *mean, *g = NULL, *penalty;
    char name[MAX_NAME];

    (void)state;
    data_weights_open(&file, ctx, "tests/golden/r1.safetensors");
    check_ok(ctx, "the golden file");
    for (int i = 0; i < N_WEIGHTS; i++) {
        w[i] = golden(ctx, file, NAMES[i], NULL);
        ag_set_requires_grad(ctx, w[i], true);
    }
    x = golden(ctx, file, "x", NULL);
    ag_set_requires_grad(ctx, x, true);

    y = discriminator(ctx, w, x);
    check_ok(ctx, "the discriminator");
    compare(ctx, file, "y", y);
    mean = ag_mean(ctx, y, AG_ALL_AXES, false);
    ag_grad(ctx, &mean, NULL, 1, &x, &g, 1, AG_CREATE_GRAPH);
    check_ok(ctx, "the gradient by the pictures");
    compare(ctx, file, "g", g);
    penalty = ag_scale(ctx, ag_sum(ctx, ag_square(ctx, g), AG_ALL_AXES, false),
                       10.0 / (double)ag_dim(x, 0));
    compare(ctx, file, "penalty", penalty);
    ag_grad(ctx, &penalty, NULL, 1, w, dw, N_WEIGHTS, 0);
    check_ok(ctx, "the gradient of the penalty");
    for (int i = 0; i < N_WEIGHTS; i++) {
        snprintf(name, sizeof name, "grad.%s", NAMES[i]);
        compare(ctx, file, name, dw[i]);
    }
    data_weights_close(file);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_r1)};

    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
