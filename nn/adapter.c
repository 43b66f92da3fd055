/* adapter.c - LoRA and DoRA. See adapter.h.
 *
 * The second factor of ||W + s B A||^2 by rows is never made:
 *   ||W + s B A||^2 = ||W||^2 + 2 s <B, W A^T> + s^2 <B, B (A A^T)>    row by row,
 * products of rank's width, and ||W||^2 is taken once because W is frozen.
 *
 * The thin products stand as they are written. At Stable Diffusion's attention with rank 16, two cores
 * with AMX, all six of a module take 1.2 ms of a 4096x320 map, forward and backward, beside 1.3 of W's
 * two, and 2 % of an update in all. Padding the rank to 32 takes as long or longer, and one product for
 * q, k and v would win less than 1 %.
 */
#include "nn/adapter.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

#include "autograd/grad.h"
#include "nn/init.h"

enum { FIRST_ROOM = 64 };

struct nn_adapter {
    const nn_adapters *set;
    char *module;
    nn_param *weight, *a, *b, *magnitude;
    int64_t rank;
    double alpha, scale;
    uint32_t hash;       /* of module: its dropout draws */
    ag_tensor *squares;  /* DoRA: ||W||^2 by rows, f32 [O] */
};

struct nn_adapters {
    nn_params *params;
    nn_adapter **list;
    int64_t n, room;
    nn_lora_config config; /* without its targets */
    ag_ctx *ctx;
    ag_tensor *step; /* of the dropout's draws, i64 []; NULL without dropout */
    bool train;
};

/* --- which modules -------------------------------------------------------------------------- */

/* "to_q" of "to_q.weight"; for ag_delete(). */
static char *module_of(ag_ctx *ctx, const nn_param *weight)
{
    const char *end = strrchr(weight->name, '.');

    return ag_printf(ctx, "%.*s", (int)(end ? end - weight->name : 0), weight->name);
}

static bool matches(const char *module, const char *pattern)
{
    const size_t n = strlen(module), m = strlen(pattern);

    if (n > m && module[n - m - 1] == '.' && strcmp(module + n - m, pattern) == 0)
        return true;
    return strcmp(module, pattern) == 0 || fnmatch(pattern, module, 0) == 0;
}

/* A convolution of more than one pixel. */
static bool is_wide_conv(const nn_param *weight)
{
    return weight->n_dims == 4 && weight->dims[2] * weight->dims[3] > 1;
}

static ag_status check_config(ag_ctx *ctx, const nn_lora_config *c)
{
    if (c->n_targets > 0 && c->rank < 1)
        return ag_fail(ctx, AG_EINVAL, "LoRA: want a rank of at least 1, got %lld",
                       (long long)c->rank);
    if (c->conv_rank < 0)
        return ag_fail(ctx, AG_EINVAL, "LoRA: want a rank of convolutions of at least 0, got %lld",
                       (long long)c->conv_rank);
    if (!(c->dropout >= 0.0 && c->dropout < 1.0))
        return ag_fail(ctx, AG_EINVAL, "LoRA: want a dropout in [0,1), got %g", c->dropout);
    return AG_OK;
}

static ag_status check_weight(ag_ctx *ctx, const char *module, const nn_param *w, int64_t rank)
{
    const int64_t in = w->numel / w->dims[0], least = in < w->dims[0] ? in : w->dims[0];

    if (!w->is_map)
        return ag_fail(ctx, AG_EINVAL, "%s: neither a linear layer nor a convolution: no adapter",
                       w->name);
    if (w->adapter)
        return ag_fail(ctx, AG_EINVAL, "%s: it has an adapter already", module);
    if (!w->value)
        return ag_fail(ctx, AG_EINVAL, "%s: it has no values yet", w->name);
    if (rank < 1 || rank > least)
        return ag_fail(ctx, AG_EINVAL, "%s maps %lld values to %lld: want a LoRA rank in 1..%lld, "
                       "got %lld", module, (long long)in, (long long)w->dims[0], (long long)least,
                       (long long)rank);
    return AG_OK;
}

/* --- making --------------------------------------------------------------------------------- */

/* ||W||^2 by rows, kept for good. */
static ag_tensor *row_squares(ag_ctx *ctx, const nn_param *weight)
{
    const int64_t rows = weight->dims[0];
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);
    ag_tensor *kept = ag_empty(ctx, AG_MODEL, AG_F32, 1, &rows);
    ag_tensor *w = ag_reshape(ctx, ag_cast(ctx, weight->value, AG_F32), 2, (int64_t[]){rows, -1});

    w = ag_sum(ctx, ag_square(ctx, w), 1u << 1, false);
    if (w && kept)
        ag_copy(ctx, kept, w);
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
    return kept;
}

/* m = ||W|| */
static ag_status begin_magnitude(ag_ctx *ctx, nn_adapter *x)
{
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);

    x->squares = row_squares(ctx, x->weight);
    if (x->squares && nn_param_alloc(ctx, x->magnitude, AG_F32) == AG_OK) {
        ag_tensor *norms = ag_sqrt(ctx, x->squares);

        if (norms)
            ag_copy(ctx, x->magnitude->value, norms);
    }
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

/* Factors of the weight's number of axes and layout, the second 1x1. */
static void declare(nn_params *params, nn_adapter *x, const nn_lora_config *c)
{
    const nn_param *w = x->weight;
    const int64_t *d = w->dims;
    const nn_first first = c->init == NN_LORA_GAUSSIAN ? nn_first_normal(1.0 / (double)x->rank)
                                                       : nn_first_uniform(w->numel / d[0]);

    nn_enter(params, "%s", x->module);
    x->a = nn_declare(params, "lora_A.weight", w->layout, first, w->n_dims,
                      (int64_t[]){x->rank, d[1], d[2], d[3]});
    x->b = nn_declare(params, "lora_B.weight", w->n_dims > 2 ? NN_LINEAR_1X1 : NN_AS_IS,
                      nn_first_constant(0.0), w->n_dims, (int64_t[]){d[0], x->rank, 1, 1});
    if (c->dora)
        x->magnitude = nn_declare(params, "lora_magnitude_vector", NN_AS_IS, nn_first_constant(1.0),
                                  w->n_dims > 2 ? 4 : 1,
                                  w->n_dims > 2 ? (int64_t[]){1, d[0], 1, 1} : (int64_t[]){d[0]});
    nn_leave(params);
}

static void set_trainable(ag_ctx *ctx, nn_param *param, bool on)
{
    param->trainable = on;
    ag_set_requires_grad(ctx, param->value, on);
}

static void adapter_free(nn_adapter *x)
{
    if (!x)
        return;
    ag_release(x->squares);
    ag_delete(x->module);
    ag_delete(x);
}

static ag_status make_room(ag_ctx *ctx, nn_adapters *set)
{
    const int64_t room = set->room ? 2 * set->room : FIRST_ROOM;
    nn_adapter **list;

    if (set->n < set->room)
        return AG_OK;
    list = ag_grow(ctx, set->list, (size_t)room, sizeof *list, "a list of adapters");
    if (!list)
        return ag_status_of(ctx);
    set->list = list;
    set->room = room;
    return AG_OK;
}

ag_status nn_adapters_add(ag_ctx *ctx, nn_adapters *set, nn_param *weight, int64_t rank,
                          double alpha)
{
    const nn_lora_config *c = &set->config;
    char *module = module_of(ctx, weight);
    nn_adapter *x = NULL;

    if (!module || check_weight(ctx, module, weight, rank) != AG_OK ||
        make_room(ctx, set) != AG_OK || !(x = ag_new(ctx, 1, sizeof *x, "an adapter"))) {
        ag_delete(module);
        return ag_status_of(ctx);
    }
    *x = (nn_adapter){.set = set, .module = module, .weight = weight, .rank = rank,
                      .alpha = alpha, .hash = ag_hash_name(module)};
    x->scale = alpha / (c->rslora ? sqrt((double)rank) : (double)rank);
    declare(set->params, x, c);
    if (ag_status_of(ctx) != AG_OK || nn_param_alloc(ctx, x->a, AG_F32) != AG_OK ||
        nn_param_alloc(ctx, x->b, AG_F32) != AG_OK || nn_param_init(ctx, x->a, c->seed) != AG_OK ||
        nn_param_init(ctx, x->b, c->seed) != AG_OK ||
        (c->dora && begin_magnitude(ctx, x) != AG_OK)) {
        adapter_free(x);
        return ag_status_of(ctx);
    }
    set_trainable(ctx, weight, false);
    set_trainable(ctx, x->a, true);
    set_trainable(ctx, x->b, true);
    if (x->magnitude)
        set_trainable(ctx, x->magnitude, true);
    weight->adapter = x;
    set->list[set->n++] = x;
    return ag_status_of(ctx);
}

/* The rank and alpha that the configuration gives a weight; false: none. */
static bool chosen(const nn_lora_config *c, const nn_param *weight, const char *module,
                   int64_t *rank, double *alpha)
{
    const bool is_wide = is_wide_conv(weight);
    bool is_chosen = false;

    *rank = is_wide ? c->conv_rank : c->rank;
    *alpha = is_wide ? c->conv_alpha : c->alpha;
    if (*alpha == 0.0)
        *alpha = (double)*rank;
    for (int64_t i = 0; i < c->n_targets && !is_chosen; i++)
        is_chosen = matches(module, c->targets[i]);
    return is_chosen && *rank > 0;
}

static ag_status add_chosen(ag_ctx *ctx, nn_adapters *set, nn_params *base,
                            const nn_lora_config *config)
{
    for (int64_t i = 0; i < nn_params_count(base); i++) {
        nn_param *weight = nn_params_at(base, i);
        char *module;
        int64_t rank;
        double alpha;

        if (!weight->is_map)
            continue;
        if (!(module = module_of(ctx, weight)))
            return ag_status_of(ctx);
        if (chosen(config, weight, module, &rank, &alpha))
            nn_adapters_add(ctx, set, weight, rank, alpha);
        ag_delete(module);
        if (ag_status_of(ctx) != AG_OK)
            return ag_status_of(ctx);
    }
    if (set->n == 0 && config->n_targets > 0)
        return ag_fail(ctx, AG_EINVAL, "LoRA: none of the %lld target names fits a linear layer%s "
                       "(the first is \"%s\")", (long long)config->n_targets,
                       config->conv_rank ? " or convolution" : "", config->targets[0]);
    return AG_OK;
}

ag_status nn_adapters_new(nn_adapters **out, ag_ctx *ctx, nn_params *base,
                          const nn_lora_config *config)
{
    nn_adapters *set;

    if (ag_status_of(ctx) != AG_OK || check_config(ctx, config) != AG_OK ||
        !(set = ag_new(ctx, 1, sizeof *set, "adapters")))
        return ag_status_of(ctx);
    set->config = *config;
    set->config.targets = NULL;
    set->ctx = ctx;
    if (config->dropout > 0.0)
        set->step = ag_empty(ctx, AG_MODEL, AG_I64, 0, NULL);
    nn_params_train(ctx, base, NULL, false);
    if (nn_params_new(&set->params, ctx) != AG_OK ||
        add_chosen(ctx, set, base, config) != AG_OK) {
        nn_adapters_free(set);
        return ag_status_of(ctx);
    }
    *out = set;
    return AG_OK;
}

void nn_adapters_free(nn_adapters *set)
{
    if (!set)
        return;
    for (int64_t i = 0; i < set->n; i++) {
        set->list[i]->weight->adapter = NULL;
        adapter_free(set->list[i]);
    }
    nn_params_free(set->params);
    ag_release(set->step);
    ag_delete(set->list);
    ag_delete(set);
}

/* --- asking --------------------------------------------------------------------------------- */

nn_params *nn_adapters_params(const nn_adapters *set)
{
    return set->params;
}

int64_t nn_adapters_count(const nn_adapters *set)
{
    return set->n;
}

nn_adapter_view nn_adapters_at(const nn_adapters *set, int64_t i)
{
    const nn_adapter *x = set->list[i];

    return (nn_adapter_view){x->module, x->weight, x->a,     x->b,
                             x->magnitude, x->rank,   x->alpha, x->scale};
}

void nn_adapters_set_step(nn_adapters *set, uint32_t step, bool train)
{
    const int64_t now = step;

    if (set->step && train)
        ag_write(set->ctx, set->step, &now, sizeof now);
    set->train = train;
}

void nn_adapters_use(nn_adapters *set, bool on)
{
    for (int64_t i = 0; i < set->n; i++)
        set->list[i]->weight->adapter = on ? set->list[i] : NULL;
}

/* --- running -------------------------------------------------------------------------------- */

/* x as [rows, the rest] */
static ag_tensor *as_rows(ag_ctx *ctx, ag_tensor *x)
{
    return x ? ag_reshape(ctx, x, 2, (int64_t[]){ag_dim(x, 0), -1}) : NULL;
}

/* y + s B (A drop(x)) */
static ag_tensor *plus_thin_product(ag_ctx *ctx, ag_tensor *y, const nn_adapter *x, ag_tensor *in,
                                    const ag_conv_opts *opts)
{
    const nn_adapters *set = x->set;
    ag_tensor *u;

    if (set->train && set->config.dropout > 0.0)
        in = ag_dropout(ctx, in, set->config.dropout,
                        (ag_draw){set->config.seed, AG_DRAW_DROPOUT, 0, x->hash}, set->step);
    u = opts ? ag_conv2d(ctx, in, x->a->value, NULL, *opts)
             : ag_linear(ctx, in, x->a->value, NULL);
    if (x->scale != 1.0)
        u = ag_scale(ctx, u, x->scale);
    return ag_linear_plus(ctx, u, x->b->value, NULL, y);
}

/* DoRA's g = m / ||W + s B A||, f32 [O]; only m has a gradient. */
static ag_tensor *row_gain(ag_ctx *ctx, const nn_adapter *x)
{
    const int64_t rows = x->weight->dims[0];
    const bool was = ag_record(ctx, false);
    ag_tensor *a = as_rows(ctx, x->a->value), *b = x->b->value, *wa, *ba, *squares;

    /* A first: a product whose first factor is bf16 rounds the second */
    wa = ag_permute(ctx, ag_linear(ctx, a, as_rows(ctx, x->weight->value), NULL), (int[]){1, 0});
    ba = ag_matmul(ctx, b, ag_matmul(ctx, a, a, false, true), false, false);
    squares = ag_add(ctx, ag_scale(ctx, wa, 2.0 * x->scale),
                     ag_scale(ctx, ba, x->scale * x->scale));
    squares = ag_sum(ctx, ag_mul(ctx, b, squares), 1u << 1, false);
    squares = ag_sqrt(ctx, ag_add(ctx, x->squares, squares));
    ag_record(ctx, was);
    return ag_div(ctx, ag_reshape(ctx, x->magnitude->value, 1, &rows), squares);
}

/* The layer; opts NULL: linear. */
static ag_tensor *run(ag_ctx *ctx, const nn_adapter *x, ag_tensor *in, ag_tensor *bias,
                      const ag_conv_opts *opts)
{
    ag_tensor *w = x->weight->value, *inside = x->magnitude ? NULL : bias, *y;

    if (!in)
        return NULL;
    y = opts ? ag_conv2d(ctx, in, w, inside, *opts) : ag_linear(ctx, in, w, inside);
    y = plus_thin_product(ctx, y, x, in, opts);
    if (!x->magnitude)
        return y;
    /* in f32: what m moves by is far below a bf16's last place */
    y = ag_mul(ctx, y, row_gain(ctx, x));
    return ag_cast(ctx, bias ? ag_add(ctx, y, bias) : y, ag_dtype_of(in));
}

ag_tensor *nn_adapter_linear(ag_ctx *ctx, const nn_adapter *adapter, ag_tensor *x, ag_tensor *bias)
{
    return run(ctx, adapter, x, bias, NULL);
}

ag_tensor *nn_adapter_conv(ag_ctx *ctx, const nn_adapter *adapter, ag_tensor *x, ag_tensor *bias,
                           ag_conv_opts opts)
{
    return run(ctx, adapter, x, bias, &opts);
}

/* --- merging -------------------------------------------------------------------------------- */

ag_status nn_adapter_delta(ag_ctx *ctx, const nn_adapters *set, int64_t i, double multiplier,
                           float *delta)
{
    const nn_adapter *x = set->list[i];
    const nn_param *weight = x->weight;
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);
    ag_tensor *w = as_rows(ctx, ag_cast(ctx, weight->value, AG_F32)), *d;

    d = ag_matmul(ctx, x->b->value, as_rows(ctx, x->a->value), false, false);
    d = ag_scale(ctx, d, x->scale);
    if (x->magnitude) {
        ag_tensor *gain = ag_reshape(ctx, row_gain(ctx, x), 2, (int64_t[]){weight->dims[0], 1});

        d = ag_sub(ctx, ag_mul(ctx, ag_add(ctx, w, d), gain), w);
    }
    d = ag_reshape(ctx, ag_scale(ctx, d, multiplier), weight->n_inner, weight->inner);
    if (d)
        nn_param_publish(ctx, weight, d, delta);
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}
