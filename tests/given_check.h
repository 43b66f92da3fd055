/* given_check.h - small models and given draws that follow the fill rule, and curves and values of
 * whole updates beside golden ones: what the tests of train/given.h share with
 * scripts/golden_training.py and scripts/golden_personalize.py.
 */
#ifndef TESTS_GIVEN_CHECK_H
#define TESTS_GIVEN_CHECK_H

#include "data/weights.h"
#include "nn/init.h"
#include "tests/train_check.h"
#include "train/given.h"

enum { GIVEN_TOKENS = 77 };

static inline ag_ctx *one_thread(void)
{
    return check_small_ctx(check_device());
}

typedef enum shape { SD1, SD2, FOUR } shape;

typedef struct given_case {
    const char *name;
    shape model;
    int64_t updates;             /* 0: 10 */
    int64_t rows, height, width; /* 0: 2, 6, 10 */
    data_prediction prediction;
    bool zero_snr;
    train_options options; /* fields that are 0 have the defaults of options_of() */
    bool no_clip;
    double way; /* how far a tensor's way may be off; 0: 2e-3 */
    bool on_host; /* differs from another case in what the host computes: run on the CPU alone */
} given_case;

static inline bool is_due(const given_case *c)
{
    return check_device() == AG_CPU || !c->on_host;
}

static inline train_options options_of(const given_case *c)
{
    train_options o = c->options;

    o.mixed_precision = o.mixed_precision ? o.mixed_precision : TRAIN_PRECISION_NO;
    o.learning_rate = o.learning_rate > 0 ? o.learning_rate : 1e-3;
    o.adam_beta1 = o.adam_beta1 > 0 ? o.adam_beta1 : NAN;
    o.adam_beta2 = o.adam_beta2 > 0 ? o.adam_beta2 : NAN;
    o.adam_weight_decay = o.adam_weight_decay > 0 ? o.adam_weight_decay : NAN;
    o.adam_epsilon = o.adam_epsilon > 0 ? o.adam_epsilon : NAN;
    o.ranger_alpha = 0.5;
    o.ranger_k = 6;
    o.ranger_use_gc = true;
    o.adafactor_scale_parameter = true;
    o.adafactor_clip_threshold = 1.0;
    o.adafactor_decay_rate = -0.8;
    o.adafactor_scale_epsilon = 1e-3;
    o.prodigy_d_coef = 1.0;
    o.prodigy_beta3 = NAN;
    o.prodigy_decouple = true;
    o.max_grad_norm = c->no_clip ? 0.0 : o.max_grad_norm > 0 ? o.max_grad_norm : 1.0;
    o.huber_c = o.huber_c > 0 ? o.huber_c : 0.1;
    o.lr_num_cycles = o.lr_num_cycles > 0 ? o.lr_num_cycles : 1.0;
    o.lr_power = o.lr_power > 0 ? o.lr_power : 1.0;
    return o;
}

static inline nn_unet_config unet_of(shape model)
{
    nn_unet_config c = {.sample_size = 8,
                        .in_channels = 4,
                        .out_channels = 4,
                        .n_levels = 2,
                        .block_out_channels = {16, 32},
                        .down_attention = {false, true},
                        .up_attention = {true, false},
                        .n_heads = {4, 4},
                        .layers_per_block = 1,
                        .transformer_layers_per_block = 1,
                        .cross_attention_dim = 16,
                        .norm_num_groups = 8,
                        .norm_eps = 1e-5,
                        .flip_sin_to_cos = true,
                        .mid_block_scale_factor = 1.0};

    if (model == SD2) {
        c.n_heads[0] = 2;
        c.use_linear_projection = true;
    }
    if (model == FOUR) {
        c.n_levels = 4;
        c.layers_per_block = 2;
        c.cross_attention_dim = 24;
        for (int i = 0; i < 4; i++) {
            c.block_out_channels[i] = (const int64_t[]){16, 32, 48, 48}[i];
            c.down_attention[i] = i < 3;
            c.up_attention[i] = i > 0;
            c.n_heads[i] = 4;
        }
    }
    return c;
}

static inline nn_clip_config text_of(shape model)
{
    return (nn_clip_config){.vocab_size = 100,
                            .hidden_size = model == FOUR ? 24 : 16,
                            .intermediate_size = 37,
                            .num_hidden_layers = 2,
                            .num_attention_heads = model == FOUR ? 3 : 2,
                            .max_position_embeddings = 77,
                            .layer_norm_eps = 1e-5,
                            .hidden_act = model == SD2 ? NN_GELU : NN_QUICK_GELU};
}

static inline pipe_model *model_of(ag_ctx *ctx, const given_case *c)
{
    const nn_unet_config unet = unet_of(c->model);
    const nn_clip_config text = text_of(c->model);
    data_schedule_config schedule;
    pipe_model *m = NULL;

    data_schedule_config_default(&schedule);
    schedule.prediction_type = c->prediction;
    schedule.rescale_betas_zero_snr = c->zero_snr;
    pipe_new(&m, ctx, &unet, NULL, &text, &schedule, 0);
    check_ok(ctx, "model");
    nn_params_rule(ctx, pipe_params(m, DATA_UNET));
    nn_params_rule(ctx, pipe_params(m, DATA_TEXT_ENCODER));
    check_ok(ctx, "weights");
    return m;
}

/* Everything given, by the rule; ends with free_given(). */
static inline train_given given_of(const given_case *c)
{
    train_given g = {.n_updates = c->updates ? c->updates : 10,
                     .n_rows = c->rows ? c->rows : 2,
                     .channels = 4,
                     .height = c->height ? c->height : 6,
                     .width = c->width ? c->width : 10,
                     .n_tokens = GIVEN_TOKENS};
    const int64_t rows = g.n_updates * g.n_rows, n = rows * g.channels * g.height * g.width;
    float *latents = malloc((size_t)n * sizeof *latents),
          *noise = malloc((size_t)n * sizeof *noise);
    int64_t *steps = malloc((size_t)rows * sizeof *steps);
    int64_t *ids = malloc((size_t)(rows * GIVEN_TOKENS) * sizeof *ids);
    char name[64];

    snprintf(name, sizeof name, "%s.latents", c->name);
    nn_rule_input(name, sqrt(3.0), n, latents);
    snprintf(name, sizeof name, "%s.noise", c->name);
    nn_rule_input(name, sqrt(3.0), n, noise);
    for (int64_t r = 0; r < rows; r++)
        steps[r] = (97 * r + 13) % 1000;
    for (int64_t i = 0; i < rows * GIVEN_TOKENS; i++)
        ids[i] = (7 * i + 3) % 89;
    g.latents = latents;
    g.noise = noise;
    g.timesteps = steps;
    g.input_ids = ids;
    return g;
}

static inline void free_given(train_given *g)
{
    free((void *)g->latents);
    free((void *)g->noise);
    free((void *)g->timesteps);
    free((void *)g->input_ids);
}

/* --- comparing --------------------------------------------------------------------------------- */

static data_weights *golden; /* the open file */

/* Golden values CASE.NAME as doubles, for free(). */
static inline double *want(ag_ctx *ctx, const char *name, const char *what, int64_t *n)
{
    char full[512];
    const data_tensor *t;
    double *values;
    int64_t i;

    snprintf(full, sizeof full, "%s.%s", name, what);
    i = data_weights_find(golden, full);
    if (i < 0)
        fail_msg("there is no golden %s", full);
    t = data_weights_at(golden, i);
    values = calloc((size_t)t->n_values + 1, sizeof *values);
    assert_non_null(values);
    if (t->dtype == DATA_F64) {
        data_weights_read(ctx, golden, i, values);
    } else {
        float *single = calloc((size_t)t->n_values + 1, sizeof *single);
        data_weights_read_f32(ctx, golden, i, single);
        for (int64_t k = 0; k < t->n_values; k++)
            values[k] = single[k];
        free(single);
    }
    check_ok(ctx, full);
    *n = t->n_values;
    return values;
}

static inline void compare_curve(ag_ctx *ctx, const char *name, const char *what, const double *got,
                                 int64_t n_got, double tolerance)
{
    int64_t n;
    double *values = want(ctx, name, what, &n);
    char full[128];

    assert_int_equal(n, n_got);
    snprintf(full, sizeof full, "%s.%s", name, what);
    for (int64_t k = 0; k < n; k++)
        check_close(full, k, got[k], values[k], 0.0, tolerance);
    free(values);
}

static const train_state *sorted_state; /* qsort has no argument of ours */

static inline int compare_names(const void *a, const void *b)
{
    return strcmp(sorted_state->names[*(const int64_t *)a],
                  sorted_state->names[*(const int64_t *)b]);
}

static inline double norm_of(const float *a, const float *b, int64_t n)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++)
        sum += ((double)a[i] - (b ? b[i] : 0.0)) * ((double)a[i] - (b ? b[i] : 0.0));
    return sqrt(sum);
}

/* The values of tensor i of a state, or of its average, in the published order; for free(). */
static inline float *published(ag_ctx *ctx, const train_state *s, int64_t i, bool average)
{
    float *values = malloc((size_t)s->published[i]->numel * sizeof *values);

    assert_non_null(values);
    nn_param_publish(ctx, s->published[i], average ? opt_ema_at(s->ema, i) : s->params[i], values);
    check_ok(ctx, s->names[i]);
    return values;
}

#endif /* TESTS_GIVEN_CHECK_H */
