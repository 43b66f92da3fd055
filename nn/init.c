/* init.c - first values of a network. See init.h. */
#include "nn/init.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "autograd/numbers.h"
#include "autograd/random.h"
#include "nn/layout.h"

enum { MAX_DRAWERS = 4 }; /* threads that draw: each holds one whole parameter beside the network */

nn_first nn_first_uniform(int64_t fan_in)
{
    return (nn_first){NN_DRAW_UNIFORM, 1.0 / sqrt((double)fan_in)};
}

nn_first nn_first_normal(double deviation)
{
    return (nn_first){NN_DRAW_NORMAL, deviation};
}

nn_first nn_first_constant(double value)
{
    return (nn_first){NN_DRAW_CONSTANT, value};
}

/* The parameter's first values, in the published order. */
static void draw_param(const nn_param *param, uint64_t seed, float *values)
{
    const ag_draw draw = {seed, AG_DRAW_INIT, 0, ag_hash_name(param->name)};
    const double scale = param->first.scale;

    switch (param->first.draw) {
    case NN_DRAW_UNIFORM:
        ag_draw_uniforms(&draw, values, param->numel);
        for (int64_t i = 0; i < param->numel; i++)
            values[i] = (float)(scale * (2.0 * values[i] - 1.0));
        break;
    case NN_DRAW_NORMAL:
        ag_draw_normals(&draw, values, param->numel);
        for (int64_t i = 0; i < param->numel; i++)
            values[i] = (float)(scale * values[i]);
        break;
    case NN_DRAW_CONSTANT:
        for (int64_t i = 0; i < param->numel; i++)
            values[i] = (float)scale;
        break;
    }
}

/* Draw into host memory, parameter beside parameter. stage: n_threads times `most` values. */
static void draw_all_host(nn_params *params, uint64_t seed, float *stages, int64_t most,
                          int n_threads)
{
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < nn_params_count(params); i++) {
        const nn_param *param = nn_params_at(params, i);
        const bool in_place = param->layout != NN_OIHW && ag_dtype_of(param->value) == AG_F32;
        float *values = in_place ? ag_data(param->value) : stages + 2 * most * omp_get_thread_num();

        draw_param(param, seed, values);
        if (in_place)
            continue;
        if (ag_dtype_of(param->value) == AG_F32) {
            nn_rows_to_inner(param, nn_rows(param), values, ag_data(param->value));
        } else {
            nn_rows_to_inner(param, nn_rows(param), values, values + most);
            ag_narrow(ag_data(param->value), ag_dtype_of(param->value), values + most,
                      param->numel);
        }
    }
}

/* The largest parameter that cannot be drawn in place; AG_EINVAL when one has no memory. */
static ag_status largest(ag_ctx *ctx, const nn_params *params, int64_t *most)
{
    *most = 1;
    for (int64_t i = 0; i < nn_params_count(params); i++) {
        const nn_param *param = nn_params_at(params, i);

        if (!param->value)
            return ag_fail(ctx, AG_EINVAL, "%s: it has no memory to draw into", param->name);
        if (param->numel > *most &&
            (param->layout == NN_OIHW || ag_dtype_of(param->value) != AG_F32 ||
             ag_ctx_device(ctx) != AG_CPU))
            *most = param->numel;
    }
    return AG_OK;
}

ag_status nn_params_init(ag_ctx *ctx, nn_params *params, uint64_t seed)
{
    const int n_threads = ag_ctx_threads(ctx) < MAX_DRAWERS ? ag_ctx_threads(ctx) : MAX_DRAWERS;
    ag_status status = ag_status_of(ctx);
    int64_t most;
    float *stages;

    if (status != AG_OK || (status = largest(ctx, params, &most)) != AG_OK)
        return status;
    if (ag_ctx_device(ctx) == AG_META)
        return AG_OK;
    stages =
        ag_new(ctx, 2 * (size_t)most * (size_t)n_threads, sizeof *stages, "drawing parameters");
    if (!stages)
        return ag_status_of(ctx);
    if (ag_ctx_device(ctx) == AG_CPU) {
        draw_all_host(params, seed, stages, most, n_threads);
    } else {
        for (int64_t i = 0; i < nn_params_count(params) && status == AG_OK; i++) {
            nn_param *param = nn_params_at(params, i);

            draw_param(param, seed, stages);
            status = nn_param_unpublish(ctx, param, param->value, stages);
        }
    }
    ag_delete(stages);
    return status;
}

ag_status nn_param_init(ag_ctx *ctx, nn_param *param, uint64_t seed)
{
    float *values = ag_new(ctx, (size_t)param->numel, sizeof *values, param->name);
    ag_status status = ag_status_of(ctx);

    if (values) {
        draw_param(param, seed, values);
        status = nn_param_unpublish(ctx, param, param->value, values);
    }
    ag_delete(values);
    return status;
}

/* --- the test rule ------------------------------------------------------------------------ */

/* v of element i for a name's hash, in [-1,1). */
static double rule_value(uint32_t hash, int64_t i)
{
    uint32_t x = (uint32_t)(hash + (uint64_t)i * 2654435761u);

    x ^= x >> 16;
    x *= 0x85EBCA6B;
    x ^= x >> 13;
    x *= 0xC2B2AE35;
    x ^= x >> 16;
    return 2.0 * x / 4294967296.0 - 1.0;
}

void nn_rule_param(const char *name, int n_dims, const int64_t *dims, float *values)
{
    const uint32_t hash = ag_hash_name(name);
    const size_t length = strlen(name);
    const bool is_weight = length >= 7 && strcmp(name + length - 7, ".weight") == 0;
    int64_t numel = 1;
    double offset = 0.0, scale = 0.1;

    for (int i = 0; i < n_dims; i++)
        numel *= dims[i];
    if (n_dims > 1)
        scale = sqrt(3.0 / ((double)numel / (double)dims[0]));
    else if (is_weight)
        offset = 1.0;
    for (int64_t i = 0; i < numel; i++)
        values[i] = (float)(offset + scale * rule_value(hash, i));
}

void nn_rule_input(const char *name, double scale, int64_t n, float *values)
{
    const uint32_t hash = ag_hash_name(name);

    for (int64_t i = 0; i < n; i++)
        values[i] = (float)(scale * rule_value(hash, i));
}

ag_status nn_params_rule(ag_ctx *ctx, nn_params *params)
{
    ag_status status = ag_status_of(ctx);

    for (int64_t i = 0; i < nn_params_count(params) && status == AG_OK; i++) {
        nn_param *param = nn_params_at(params, i);
        float *values = ag_new(ctx, (size_t)param->numel, sizeof *values, param->name);

        if (!values)
            return ag_status_of(ctx);
        nn_rule_param(param->name, param->n_dims, param->dims, values);
        status = nn_param_set_published(ctx, param, values, param->n_dims, param->dims);
        ag_delete(values);
    }
    return status;
}
