/* nn_check.h - what the tests of the networks share: golden files, layouts, comparison.
 *
 * Golden values come from scripts/golden_networks.py and lie in tests/golden; they are NCHW, as the
 * reference classes give them. Tests run from the root of the tree.
 */
#ifndef TESTS_NN_CHECK_H
#define TESTS_NN_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "data/weights.h"
#include "nn/clip_text.h"
#include "nn/init.h"
#include "nn/unet.h"
#include "nn/vae.h"

/* Agreement that the project promises in f32: relative to the mean size of what is compared. */
static const double NN_TOLERANCE = 1e-4;

/* On the device that AG_TEST_DEVICE names; see tests/check.h. */
static inline ag_ctx *check_ctx(void)
{
    const char *name = getenv("AG_TEST_DEVICE");
    const ag_device device = name && strcmp(name, "cuda") == 0 ? AG_CUDA : AG_CPU;
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = device, .n_threads = 2});

    assert_non_null(ctx);
    assert_string_equal(ag_message(ctx), "");
    return ctx;
}

/* Stop with the context's message unless all is well. */
static inline void check_fine(const ag_ctx *ctx)
{
    if (ag_status_of(ctx) != AG_OK)
        fail_msg("%s", ag_message(ctx));
}

/* --- one case of a golden file ------------------------------------------------------------ */

typedef struct golden {
    ag_ctx *ctx;
    data_weights *file;
    const char *test; /* "unet.c", the prefix of its tensors */
} golden;

static inline golden golden_open(ag_ctx *ctx, const char *name, const char *test)
{
    golden g = {.ctx = ctx, .test = test};
    char path[256];

    snprintf(path, sizeof path, "tests/golden/%s.safetensors", name);
    if (data_weights_open(&g.file, ctx, path) != AG_OK)
        fail_msg("%s", ag_message(ctx));
    return g;
}

static inline int64_t golden_find(const golden *g, const char *name)
{
    char full[512];

    snprintf(full, sizeof full, "%s.%s", g->test, name);
    return data_weights_find(g->file, full);
}

static inline const data_tensor *golden_at(const golden *g, const char *name)
{
    const int64_t i = golden_find(g, name);

    if (i < 0)
        fail_msg("golden values of %s have no %s", g->test, name);
    return data_weights_at(g->file, i);
}

/* The values of a floating tensor; free() them. */
static inline float *golden_values(const golden *g, const char *name)
{
    const data_tensor *t = golden_at(g, name);
    float *values = malloc((size_t)t->n_values * sizeof *values);

    assert_non_null(values);
    assert_int_equal(data_weights_read_f32(g->ctx, g->file, golden_find(g, name), values), AG_OK);
    return values;
}

/* [N,C,H,W] -> [N,H,W,C], or back. */
static inline void check_reorder(const float *in, float *out, const int64_t *nchw, bool to_last)
{
    const int64_t c = nchw[1], plane = nchw[2] * nchw[3];

    for (int64_t n = 0; n < nchw[0]; n++) {
        for (int64_t k = 0; k < c; k++) {
            for (int64_t p = 0; p < plane; p++) {
                const int64_t first = (n * c + k) * plane + p, last = (n * plane + p) * c + k;

                if (to_last)
                    out[last] = in[first];
                else
                    out[first] = in[last];
            }
        }
    }
}

/* A tensor with the golden values; four axes become channels last. */
static inline ag_tensor *golden_tensor(const golden *g, const char *name)
{
    const data_tensor *t = golden_at(g, name);
    float *values = golden_values(g, name);
    ag_tensor *made;

    if (t->n_dims == 4) {
        const int64_t *d = t->dims;
        float *last = malloc((size_t)t->n_values * sizeof *last);

        assert_non_null(last);
        check_reorder(values, last, d, true);
        made = ag_from_f32(g->ctx, last, 4, (int64_t[]){d[0], d[2], d[3], d[1]});
        free(last);
    } else {
        made = ag_from_f32(g->ctx, values, t->n_dims, t->dims);
    }
    free(values);
    check_fine(g->ctx);
    return made;
}

/* --- comparing ---------------------------------------------------------------------------- */

/* max |got - want| <= tolerance * mean |want| + floor */
static inline void check_close(const char *what, const float *got, const float *want, int64_t n,
                               double tolerance, double floor)
{
    double mean = 0.0, worst = 0.0;
    int64_t at = 0;

    for (int64_t i = 0; i < n; i++) {
        const double error = fabs((double)got[i] - want[i]);

        mean += fabs((double)want[i]) / (double)n;
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
    }
    if (!(worst <= tolerance * mean + floor))
        fail_msg("%s: value %lld is %.9g, want %.9g; off by %.3g of the mean size %.3g", what,
                 (long long)at, (double)got[at], (double)want[at], worst / mean, mean);
}

/* Compare a network's tensor, channels last when it has four axes, with golden values. */
static inline void golden_check(const golden *g, const char *name, ag_tensor *t, double tolerance)
{
    const data_tensor *want = golden_at(g, name);
    float *values = golden_values(g, name), *got, *ordered;
    char what[512];

    check_fine(g->ctx);
    assert_int_equal(ag_numel(t), want->n_values);
    got = malloc(ag_nbytes(t));
    ordered = malloc(ag_nbytes(t));
    assert_true(got && ordered);
    assert_int_equal(ag_read(g->ctx, t, got, ag_nbytes(t)), AG_OK);
    if (want->n_dims == 4) {
        assert_int_equal(ag_dim(t, 3), want->dims[1]);
        assert_int_equal(ag_dim(t, 1), want->dims[2]);
        check_reorder(got, ordered, want->dims, false);
    } else {
        memcpy(ordered, got, ag_nbytes(t));
    }
    snprintf(what, sizeof what, "%s.%s", g->test, name);
    check_close(what, ordered, values, want->n_values, tolerance, 0.0);
    free(ordered);
    free(got);
    free(values);
}

static inline int check_by_name(const void *a, const void *b)
{
    return strcmp((*(const nn_param *const *)a)->name, (*(const nn_param *const *)b)->name);
}

static inline double check_norm(ag_ctx *ctx, const ag_tensor *t)
{
    float *values = malloc(ag_nbytes(t));
    double sum = 0.0;

    assert_non_null(values);
    assert_int_equal(ag_read(ctx, t, values, ag_nbytes(t)), AG_OK);
    for (int64_t i = 0; i < ag_numel(t); i++)
        sum += (double)values[i] * values[i];
    free(values);
    return sqrt(sum);
}

/* Compare the gradients of all parameters, grads[i] belonging to parameter i of the registry: the
 * few that are stored value by value, all others by their norms. */
static inline void golden_check_params(const golden *g, const nn_params *params, ag_tensor **grads,
                                       double tolerance)
{
    const int64_t n = nn_params_count(params);
    const data_tensor *norms_at = golden_at(g, "norms");
    float *norms = golden_values(g, "norms"), biggest = 0.0f;
    nn_param **sorted = malloc((size_t)n * sizeof *sorted);
    int n_values = 0;

    assert_non_null(sorted);
    assert_int_equal(norms_at->n_values, n);
    for (int64_t i = 0; i < n; i++)
        sorted[i] = nn_params_at(params, i);
    qsort(sorted, (size_t)n, sizeof *sorted, check_by_name);
    for (int64_t i = 0; i < n; i++)
        biggest = fmaxf(biggest, norms[i]);
    for (int64_t i = 0; i < n; i++) {
        const double got = check_norm(g->ctx, grads[sorted[i]->index]), want = norms[i];

        /* A gradient that is zero but for rounding (a key's bias under softmax) has no size of its
         * own to be compared with: the network's largest gives the scale then. */
        if (!(fabs(got - want) <= tolerance * want + 1e-6 * biggest))
            fail_msg("%s: norm of the gradient of %s is %.9g, want %.9g", g->test, sorted[i]->name,
                     got, want);
    }
    for (int64_t i = 0; i < n; i++) {
        const nn_param *param = sorted[i];
        float *got, *want;
        char name[NN_MAX_NAME + 8];

        snprintf(name, sizeof name, "grad.%s", param->name);
        if (golden_find(g, name) < 0)
            continue;
        n_values++;
        want = golden_values(g, name);
        got = malloc((size_t)param->numel * sizeof *got);
        assert_non_null(got);
        assert_int_equal(nn_param_publish(g->ctx, param, grads[param->index], got), AG_OK);
        check_close(name, got, want, param->numel, tolerance, 1e-7 * biggest);
        free(got);
        free(want);
    }
    assert_true(n_values >= 4);
    free(sorted);
    free(norms);
}

/* Gradients of sum over k of <outputs[k], cotangents[k]> with respect to all parameters, then to
 * n_more tensors. Returns an array of nn_params_count() + n_more; free() it. */
static inline ag_tensor **check_grads(ag_ctx *ctx, const nn_params *params,
                                      ag_tensor *const *outputs, ag_tensor *const *cotangents,
                                      int n_outputs, ag_tensor *const *more, int n_more)
{
    const int64_t n = nn_params_count(params);
    ag_tensor **inputs = calloc((size_t)(n + n_more), sizeof *inputs);
    ag_tensor **grads = calloc((size_t)(n + n_more), sizeof *grads);

    assert_true(inputs && grads);
    for (int64_t i = 0; i < n; i++)
        inputs[i] = nn_params_at(params, i)->value;
    for (int i = 0; i < n_more; i++)
        inputs[n + i] = more[i];
    ag_grad(ctx, outputs, cotangents, n_outputs, inputs, grads, (int)n + n_more, 0);
    check_fine(ctx);
    free(inputs);
    return grads;
}

/* Memory, the rule's values, and gradients wanted. */
static inline void check_fill(ag_ctx *ctx, nn_params *params)
{
    assert_int_equal(nn_params_alloc(ctx, params, AG_F32), AG_OK);
    assert_int_equal(nn_params_rule(ctx, params), AG_OK);
    assert_int_equal(nn_params_train(ctx, params, NULL, true), nn_params_count(params));
}

/* Make the inputs of the norms so small that their eps shows, as scripts/golden_networks.py does.
 */
static inline void check_shrink(ag_ctx *ctx, nn_params *params)
{
    for (int64_t i = 0; i < nn_params_count(params); i++) {
        nn_param *param = nn_params_at(params, i);
        float *values;

        if (!strstr(param->name, "conv_in.") && !strstr(param->name, ".conv2.") &&
            !strstr(param->name, ".proj_in."))
            continue;
        values = malloc((size_t)param->numel * sizeof *values);
        assert_non_null(values);
        assert_int_equal(nn_param_get_published(ctx, param, values), AG_OK);
        for (int64_t k = 0; k < param->numel; k++)
            values[k] *= 0x1p-6f;
        assert_int_equal(nn_param_set_published(ctx, param, values, param->n_dims, param->dims),
                         AG_OK);
        free(values);
    }
}

/* The same bits? */
static inline void check_same(ag_ctx *ctx, const char *what, const ag_tensor *a, const ag_tensor *b)
{
    void *x = malloc(ag_nbytes(a)), *y = malloc(ag_nbytes(b));

    assert_true(x && y);
    assert_int_equal(ag_nbytes(a), ag_nbytes(b));
    assert_int_equal(ag_read(ctx, a, x, ag_nbytes(a)), AG_OK);
    assert_int_equal(ag_read(ctx, b, y, ag_nbytes(b)), AG_OK);
    if (memcmp(x, y, ag_nbytes(a)) != 0)
        fail_msg("%s: the bits differ", what);
    free(x);
    free(y);
}

#endif /* TESTS_NN_CHECK_H */
