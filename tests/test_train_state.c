/* test_train_state.c - whole updates: ten-step trajectories of small models against PyTorch,
 * diffusers and transformers (scripts/golden_training.py, in double), and what an update promises.
 *
 * K biases of CLIP's attention have a gradient of exactly zero (softmax does not see a shift), so
 * AdamW makes steps of rounding noise there; they are left out of the comparison, here and in any
 * other that is to mean something.
 */
#include "tests/given_check.h"

#include <jansson.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "train/diffusion.h"

enum { K = 10 };

/* --- the cases of scripts/golden_training.py -------------------------------------------------- */

static const given_case CASES[] = {
    {.name = "sd1"},
    {.name = "sd2_v", .model = SD2, .prediction = DATA_V_PREDICTION},
    {.name = "sd1_text", .on_host = true, .options = {.train_text_encoder = true, .learning_rate = 3e-4}},
    {.name = "sd2_v_text",
     .model = SD2,
     .prediction = DATA_V_PREDICTION,
     .options = {.train_text_encoder = true, .learning_rate = 3e-4}},
    {.name = "four", .on_host = true,
     .model = FOUR,
     .rows = 3,
     .height = 9,
     .width = 6,
     .options = {.learning_rate = 1e-4}},
    {.name = "snr", .on_host = true, .rows = 3, .options = {.snr_gamma = 5.0}},
    {.name = "snr_v", .on_host = true,
     .rows = 3,
     .options = {.snr_gamma = 5.0, .prediction_type = TRAIN_PREDICTION_V}},
    {.name = "zero_snr_v", .on_host = true,
     .prediction = DATA_V_PREDICTION,
     .zero_snr = true,
     .options = {.snr_gamma = 5.0}},
    {.name = "huber", .options = {.loss_type = AG_LOSS_HUBER}},
    {.name = "smooth_l1", .on_host = true, .options = {.loss_type = AG_LOSS_SMOOTH_L1, .huber_c = 0.5}},
    {.name = "ema", .options = {.ema_decay = 0.6}},
    {.name = "warmup", .on_host = true, .options = {.lr_scheduler = OPT_CONSTANT_WITH_WARMUP, .lr_warmup_steps = 4}},
    {.name = "linear", .on_host = true,
     .options = {.lr_scheduler = OPT_LINEAR, .lr_warmup_steps = 3, .max_train_steps = 8}},
    {.name = "cosine", .on_host = true, .options = {.lr_scheduler = OPT_COSINE, .lr_warmup_steps = 2}},
    {.name = "restarts", .on_host = true,
     .options = {.lr_scheduler = OPT_COSINE_WITH_RESTARTS,
                 .lr_warmup_steps = 1,
                 .lr_num_cycles = 3}},
    {.name = "polynomial", .on_host = true,
     .options = {.lr_scheduler = OPT_POLYNOMIAL,
                 .lr_warmup_steps = 2,
                 .max_train_steps = 7,
                 .lr_power = 2.0}},
    {.name = "piecewise", .on_host = true,
     .options = {.lr_scheduler = OPT_PIECEWISE_CONSTANT, .lr_step_rules = "1:3,0.1:6,0.01"}},
    {.name = "clip", .options = {.max_grad_norm = 0.1, .adam_epsilon = 1e-3}},
    {.name = "no_clip", .on_host = true, .options = {.adam_epsilon = 1e-3}, .no_clip = true},
    {.name = "adam", .on_host = true,
     .options =
         {.adam_weight_decay = 0.5, .adam_beta1 = 0.8, .adam_beta2 = 0.95, .adam_epsilon = 1e-4}},
    {.name = "one_row", .on_host = true, .rows = 1},
    {.name = "adamw8bit", .options = {.use_8bit_adam = true}},
    {.name = "ranger", .options = {.optimizer = OPT_RANGER}},
    /* whole steps of a sign, which rounding turns where a gradient is nearly 0 */
    {.name = "lion",
     .way = 2e-2,
     .options = {.optimizer = OPT_LION, .learning_rate = 1e-4, .adam_weight_decay = 0.3}},
    {.name = "adafactor", .options = {.optimizer = OPT_ADAFACTOR}},
    {.name = "adafactor_lr",
     .options = {.optimizer = OPT_ADAFACTOR,
                 .adafactor_relative_step = TRAIN_FALSE,
                 .adam_beta1 = 0.8,
                 .train_text_encoder = true}},
    {.name = "prodigy",
     .options = {.optimizer = OPT_PRODIGY,
                 .learning_rate = 1.0,
                 .prodigy_d0 = 1e-4,
                 .prodigy_use_bias_correction = true,
                 .prodigy_safeguard_warmup = true}},
    {.name = "sgd",
     .options = {.optimizer = OPT_SGD,
                 .learning_rate = 0.1,
                 .sgd_momentum = 0.9,
                 .sgd_nesterov = true,
                 .adam_weight_decay = 0.1}},
    {.name = "prior",
     .on_host = true,
     .rows = 4,
     .options = {.with_prior_preservation = true, .prior_loss_weight = 0.7}},
    {.name = "prior_snr", .on_host = true,
     .rows = 4,
     .options = {.with_prior_preservation = true, .prior_loss_weight = 0.7, .snr_gamma = 5.0}},
    {.name = "prior_contrast",
     .rows = 6,
     .options = {.with_prior_preservation = true, .prior_loss_weight = 1.0, .contrast_weight = 0.1}},
};
enum { N_CASES = sizeof CASES / sizeof *CASES };

/* --- comparing -------------------------------------------------------------------------------- */

/* What a parameter was filled with at first, for free(). */
static float *first_values(const nn_param *p)
{
    float *values = malloc((size_t)p->numel * sizeof *values);

    assert_non_null(values);
    nn_rule_param(p->name, p->n_dims, p->dims, values);
    return values;
}

static bool is_noise(const char *name)
{
    return strstr(name, "k_proj.bias") != NULL;
}

static void compare_norms(ag_ctx *ctx, const given_case *c, const train_state *s, const char *what,
                          bool average)
{
    const char *name = c->name;
    int64_t n, *order = malloc((size_t)s->n * sizeof *order);
    double *norms = want(ctx, name, what, &n), *moved = NULL, worst = 0.0;

    if (!average)
        moved = want(ctx, name, "moved", &n);
    assert_int_equal(n, s->n);
    for (int64_t i = 0; i < s->n; i++)
        order[i] = i;
    sorted_state = s;
    qsort(order, (size_t)s->n, sizeof *order, compare_names);
    for (int64_t k = 0; k < s->n; k++) {
        const int64_t i = order[k], numel = s->published[i]->numel;
        float *values = published(ctx, s, i, average), *first = first_values(s->published[i]);
        if (!is_noise(s->names[i])) {
            check_close(s->names[i], k, norm_of(values, NULL, numel), norms[k], 0.0, 1e-5);
            if (moved) {
                /* what moves of rounding alone is small beside the tensor */
                const double got = norm_of(values, first, numel);
                check_close(s->names[i], k, got, moved[k], 1e-6 * norms[k], c->way > 0 ? c->way : 2e-3);
                worst = fmax(worst, fabs(got - moved[k]) / moved[k]);
            }
        }
        free(values);
        free(first);
    }
    if (moved)
        printf("%s: way of a tensor off by %.1e at most\n", name, worst);
    free(order);
    free(norms);
    free(moved);
}

/* Stored values CASE.PREFIX.NAME. */
static void compare_values(ag_ctx *ctx, const char *name, const train_state *s, const char *prefix,
                           double lr)
{
    for (int64_t i = 0; i < s->n; i++) {
        char what[256], full[300];
        float *got;
        double *values;
        int64_t n;
        snprintf(what, sizeof what, "%s.%s", prefix, s->names[i]);
        snprintf(full, sizeof full, "%s.%s", name, what);
        if (data_weights_find(golden, full) < 0)
            continue;
        values = want(ctx, name, what, &n);
        got = published(ctx, s, i, strcmp(prefix, "ema") == 0);
        assert_int_equal(n, s->published[i]->numel);
        for (int64_t k = 0; k < n; k++)
            check_close(full, k, got[k], values[k], 1e-2 * lr, 1e-5);
        free(got);
        free(values);
    }
}

static void check_case(const given_case *c)
{
    ag_ctx *ctx = one_thread();
    pipe_model *model = model_of(ctx, c);
    train_given given = given_of(c);
    const train_options options = options_of(c);
    double loss[K], grad_norm[K], lr[K];
    train_state *state = NULL;
    train_lora lora;

    train_given_run(ctx, model, &options, &given, loss, grad_norm, lr, &state, &lora);
    check_ok(ctx, c->name);
    compare_curve(ctx, c->name, "lr", lr, K, 1e-12);
    compare_curve(ctx, c->name, "loss", loss, K, 1e-5);
    compare_curve(ctx, c->name, "grad_norm", grad_norm, K, 5e-5);
    compare_norms(ctx, c, state, "norms", false);
    compare_values(ctx, c->name, state, "value", options.learning_rate);
    if (state->ema) {
        compare_norms(ctx, c, state, "ema_norms", true);
        compare_values(ctx, c->name, state, "ema", options.learning_rate);
    }
    train_state_free(state);
    free_given(&given);
    pipe_close(model);
    ag_ctx_free(ctx);
}

static void test_trajectories(void **state)
{
    ag_ctx *ctx = one_thread();

    (void)state;
    data_weights_open(&golden, ctx, "tests/golden/train_given.safetensors");
    check_ok(ctx, "golden values");
    for (int i = 0; i < N_CASES; i++)
        if (is_due(&CASES[i]))
            check_case(&CASES[i]);
    data_weights_close(golden);
    ag_ctx_free(ctx);
}

/* The same with activations of 8 bits, or 11 and a loss scale: values, moments and sums stay f32. */
static void trajectory_in(int precision)
{
    ag_ctx *ctx = one_thread();
    const double most = precision == TRAIN_PRECISION_FP16 ? 2e-3 : 1e-2;

    data_weights_open(&golden, ctx, "tests/golden/train_given.safetensors");
    check_ok(ctx, "golden values");
    for (int i = 0; i < 5; i++) {
        const given_case *c = &CASES[i];
        pipe_model *model = model_of(ctx, c);
        train_given given = given_of(c);
        train_options options = options_of(c);
        double loss[K], grad_norm[K], lr[K];
        options.mixed_precision = precision;
        train_given_run(ctx, model, &options, &given, loss, grad_norm, lr, NULL, NULL);
        check_ok(ctx, c->name);
        compare_curve(ctx, c->name, "loss", loss, K, most);
        compare_curve(ctx, c->name, "grad_norm", grad_norm, K, 2 * most);
        free_given(&given);
        pipe_close(model);
    }
    data_weights_close(golden);
    ag_ctx_free(ctx);
}

static void test_trajectory_bf16(void **state)
{
    (void)state;
    trajectory_in(TRAIN_PRECISION_BF16);
}

static void test_trajectory_fp16(void **state)
{
    (void)state;
    if (check_device() == AG_CUDA) /* the CPU's kernels have no f16 */
        trajectory_in(TRAIN_PRECISION_FP16);
}

/* --- what an update promises ------------------------------------------------------------------ */

typedef struct small {
    ag_ctx *ctx;
    pipe_model *model;
    train_state *state;
    train_given given;
    pipe_noise noise;
    train_diffusion diffusion;
    ag_tensor *context; /* AG_MODEL */
} small;

static void make_small(small *s, bool checkpointing)
{
    static const given_case c = {.name = "sd1", .rows = 3};
    const train_options o = options_of(&c);
    const opt_config config = train_opt_config(&o);
    const opt_schedule schedule = train_schedule(&o, K);
    train_part part;
    float *values;

    *s = (small){.ctx = one_thread()};
    s->model = model_of(s->ctx, &c);
    s->given = given_of(&c);
    part = (train_part){.params = pipe_params(s->model, DATA_UNET), .prefix = "unet."};
    nn_params_train(s->ctx, part.params, NULL, true);
    train_state_new(&s->state, s->ctx, &part, 1, &config, &schedule, o.max_grad_norm, 0.9);
    pipe_noise_init(&s->noise, s->ctx, &s->model->schedule);
    train_diffusion_init(&s->diffusion, &o, s->model->unet, &s->noise);
    s->diffusion.unet_options.checkpointing = checkpointing;
    s->context = ag_full(s->ctx, AG_MODEL, 0.0, 3, (int64_t[]){1, GIVEN_TOKENS, 16});
    values = check_values(s->ctx, s->context);
    nn_rule_input("context", 1.0, ag_numel(s->context), values);
    ag_write(s->ctx, s->context, values, ag_nbytes(s->context));
    free(values);
    check_ok(s->ctx, "a small run");
}

static void free_small(small *s)
{
    train_state_free(s->state);
    ag_release(s->context);
    free_given(&s->given);
    pipe_close(s->model);
    ag_ctx_free(s->ctx);
}

/* The loss of n rows from `first` of update k, times weight, into the gradients. */
static ag_status add_rows(small *s, int64_t k, int64_t first, int64_t n, double weight)
{
    const train_given *g = &s->given;
    const int64_t size = g->channels * g->height * g->width, at = (k * g->n_rows + first) * size;
    const int64_t dims[] = {n, g->height, g->width, g->channels};
    const ag_scope scope = ag_scope_open(s->ctx);
    ag_tensor *context = ag_broadcast(s->ctx, s->context, 3, (int64_t[]){n, GIVEN_TOKENS, 16});
    const train_rows rows = {.n = n,
                             .latents = ag_from_f32(s->ctx, g->latents + at, 4, dims),
                             .noise = ag_from_f32(s->ctx, g->noise + at, 4, dims),
                             .timesteps = g->timesteps + k * g->n_rows + first,
                             .context = context};
    ag_tensor *losses = train_diffusion_loss(s->ctx, &s->diffusion, &rows);

    if (losses)
        train_state_add(s->ctx, s->state, ag_mean(s->ctx, losses, AG_ALL_AXES, false), weight);
    ag_scope_close(s->ctx, scope, NULL);
    return ag_status_of(s->ctx);
}

static void same_state(const small *a, const small *b)
{
    for (int64_t i = 0; i < a->state->n; i++) {
        float *x = check_values(a->ctx, a->state->params[i]), *y = check_values(b->ctx, b->state->params[i]);
        assert_memory_equal(x, y, ag_nbytes(a->state->params[i]));
        free(x);
        free(y);
    }
}

/* Gradients, not values after an update: AdamW makes whole steps of the rounding of small ones. */
static void near_gradients(const small *a, const small *b)
{
    for (int64_t i = 0; i < a->state->n; i++) {
        float *x = check_values(a->ctx, a->state->grads[i]), *y = check_values(b->ctx, b->state->grads[i]);
        for (int64_t k = 0; k < ag_numel(a->state->grads[i]); k++)
            check_close(a->state->names[i], k, x[k], y[k], 1e-6, 1e-5);
        free(x);
        free(y);
    }
}

/* A gradient beyond f32: that update is left out, and what follows is bit for bit what it is without it. The scale
 * is used up when every gradient is so. */
static void test_loss_scale(void **state)
{
    small a, b;
    train_update update;

    (void)state;
    make_small(&a, false);
    make_small(&b, false);
    train_state_scale_loss(b.ctx, b.state);
    add_rows(&b, 0, 0, 3, 1e38);
    train_state_update(&update, b.ctx, b.state);
    check_ok(b.ctx, "an update that is skipped");
    assert_true(update.was_skipped && b.state->loss_scale->scale == 32768.0);
    same_state(&a, &b);
    for (int64_t k = 0; k < 3; k++) {
        add_rows(&a, k, 0, 3, 1.0);
        train_state_update(&update, a.ctx, a.state);
        check_ok(a.ctx, "as it is");
        add_rows(&b, k, 0, 3, 1.0);
        train_state_update(&update, b.ctx, b.state);
        check_ok(b.ctx, "scaled");
        assert_false(update.was_skipped);
    }
    same_state(&a, &b);
    assert_int_equal(b.state->update, 4);
    assert_int_equal(b.state->loss_scale->good, 3);
    train_loss_scale_read(b.ctx, b.state->loss_scale); /* the device has the same numbers */
    assert_true(b.state->loss_scale->scale == 32768.0 && b.state->loss_scale->good == 3);
    assert_int_equal(b.state->loss_scale->skipped, 1);
    for (int k = 0; k < 16; k++) {
        check_ok(b.ctx, "a smaller scale");
        add_rows(&b, 0, 0, 3, INFINITY);
        train_state_update(&update, b.ctx, b.state);
    }
    check_failed(b.ctx, AG_ENUMERIC, "a scale that is used up");
    free_small(&a);
    free_small(&b);
}

/* A scale of PyTorch's at `step`, the last change of [[step, scale], ...] until then. */
static double scale_at(const json_t *changes, int64_t step, double first, size_t *next)
{
    const json_t *change = json_array_get(changes, *next);

    if (json_integer_value(json_array_get(change, 0)) == step && change)
        (*next)++;
    return *next ? json_number_value(json_array_get(json_array_get(changes, *next - 1), 1)) : first;
}

/* A case's steps by the op and, where its numbers are a run's own, by what a run does on the device and on the host. */
static void follow_torch(ag_ctx *ctx, const char *name, const json_t *c)
{
    const double first = json_number_value(json_object_get(c, "first"));
    const double growth = json_number_value(json_object_get(c, "growth"));
    const double backoff = json_number_value(json_object_get(c, "backoff"));
    const int64_t interval = json_integer_value(json_object_get(c, "interval"));
    const json_t *runs = json_object_get(c, "runs"), *good = json_object_get(c, "good");
    const bool is_own = strcmp(name, "run") == 0;
    ag_tensor *now = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){3}), *norm[2];
    double numbers[3] = {first, 0.0, 0.0};
    train_loss_scale *own = NULL;
    int64_t step = 0;
    size_t next = 0;

    train_loss_scale_new(&own, ctx);
    ag_write(ctx, now, numbers, sizeof numbers);
    for (int k = 0; k < 2; k++) {
        norm[k] = ag_empty(ctx, AG_STEP, AG_F64, 1, (int64_t[]){1});
        ag_write(ctx, norm[k], &(double){k ? INFINITY : 0.5}, sizeof(double));
    }
    for (size_t r = 0; r < json_array_size(runs); r++) {
        for (int64_t n = json_integer_value(json_array_get(runs, r)); n > 0; n--, step++) {
            const double scale = scale_at(json_object_get(c, "scale"), step, first, &next);
            ag_loss_scale_(ctx, now, norm[r % 2], growth, backoff, interval);
            ag_read(ctx, now, numbers, sizeof numbers);
            check_close(name, step, numbers[0], scale, 0.0, 0.0);
            if (!is_own)
                continue;
            train_loss_scale_step(ctx, own, norm[r % 2]);
            assert_int_equal(train_loss_scale_learn(own, r % 2 == 0), r % 2 == 0 || scale >= 1.0);
            check_close("on the host", step, own->scale, scale, 0.0, 0.0);
        }
        check_close("good steps", (int64_t)r, numbers[1], json_number_value(json_array_get(good, r)), 0.0, 0.0);
        assert_true(!is_own || own->good == (int64_t)numbers[1]);
    }
    assert_int_equal(step - (int64_t)numbers[2], json_integer_value(json_object_get(c, "made")));
    if (is_own) {
        const int64_t skipped = own->skipped;
        assert_true(skipped == (int64_t)numbers[2] && own->scale == numbers[0]);
        train_loss_scale_read(ctx, own); /* the device has the same */
        assert_true(own->skipped == skipped && own->scale == numbers[0] && own->good == (int64_t)numbers[1]);
    }
    check_ok(ctx, name);
    train_loss_scale_free(own);
}

/* Step by step what torch.amp.GradScaler does (scripts/golden_loss_scale.py). */
static void test_loss_scale_of_torch(void **state)
{
    json_t *root = json_load_file("tests/golden/loss_scale.json", 0, NULL), *c;
    ag_ctx *ctx = one_thread();
    const char *name;
    int n = 0;

    (void)state;
    assert_non_null(root);
    json_object_foreach(json_object_get(root, "cases"), name, c) {
        const ag_scope scope = ag_scope_open(ctx);
        follow_torch(ctx, name, c);
        ag_scope_close(ctx, scope, NULL);
        n++;
    }
    assert_int_equal(n, 4);
    json_decref(root);
    ag_ctx_free(ctx);
}

/* Three rows at once, or two and then one with their shares: the same gradients but for rounding.
 * With blocks computed again in the backward pass: the same bits. */
static void test_accumulation_and_recompute(void **state)
{
    small a, b, c;
    train_update update;

    (void)state;
    make_small(&a, false);
    make_small(&b, false);
    make_small(&c, true);
    for (int64_t k = 0; k < 3; k++) {
        add_rows(&a, k, 0, 3, 1.0);
        if (k == 0) {
            add_rows(&b, k, 0, 2, 2.0 / 3.0);
            add_rows(&b, k, 2, 1, 1.0 / 3.0);
            check_ok(b.ctx, "in two parts");
            near_gradients(&a, &b);
        }
        train_state_update(&update, a.ctx, a.state);
        check_ok(a.ctx, "at once");
        add_rows(&c, k, 0, 3, 1.0);
        train_state_update(&update, c.ctx, c.state);
        check_ok(c.ctx, "computed again");
    }
    assert_int_equal(a.state->update, 3);
    same_state(&a, &c);
    free_small(&a);
    free_small(&b);
    free_small(&c);
}

/* Three masks of a row's places: all the same, a few places, none. */
static void fill_mask(float *mask, int64_t n_places)
{
    uint64_t seed = 77;

    for (int64_t i = 0; i < n_places; i++) {
        mask[i] = 0.25f;
        mask[n_places + i] = i % 5 == 1 ? (float)check_uniform(&seed, 0, 1) : 0.0f;
        mask[2 * n_places + i] = 0.0f;
    }
}

static double error_of(const train_diffusion *d, double e)
{
    return d->loss_kind == AG_LOSS_L2 ? e * e : 2.0 * d->huber_c * (sqrt(e * e + d->huber_c * d->huber_c) - d->huber_c);
}

/* The loss of three masked rows, against its definition on the U-Net's own output. */
static void masked_rows(small *s, ag_loss_kind kind)
{
    const train_given *g = &s->given;
    const int64_t dims[] = {3, g->height, g->width, g->channels}, n_places = g->height * g->width;
    const ag_scope scope = ag_scope_open(s->ctx);
    float signal[3], sigma[3], times[3], *mask = calloc((size_t)(3 * n_places), sizeof *mask), *losses, *p, *t;
    train_rows rows = {.n = 3,
                       .latents = ag_from_f32(s->ctx, g->latents, 4, dims),
                       .noise = ag_from_f32(s->ctx, g->noise, 4, dims),
                       .timesteps = g->timesteps,
                       .context = ag_broadcast(s->ctx, s->context, 3, (int64_t[]){3, GIVEN_TOKENS, 16})};
    ag_tensor *x, *prediction;

    assert_non_null(mask);
    fill_mask(mask, n_places);
    rows.mask = ag_from_f32(s->ctx, mask, 4, (int64_t[]){3, g->height, g->width, 1});
    s->diffusion.loss_kind = kind;
    losses = check_values(s->ctx, train_diffusion_loss(s->ctx, &s->diffusion, &rows));

    pipe_noise_rows(&s->noise, rows.timesteps, 3, signal, sigma);
    for (int r = 0; r < 3; r++)
        times[r] = (float)rows.timesteps[r];
    x = pipe_noise_add(s->ctx, rows.latents, rows.noise, ag_from_f32(s->ctx, signal, 1, (int64_t[]){3}),
                       ag_from_f32(s->ctx, sigma, 1, (int64_t[]){3}));
    prediction = nn_unet_forward(s->ctx, s->model->unet, x, ag_from_f32(s->ctx, times, 1, (int64_t[]){3}),
                                 rows.context, NULL);
    p = check_values(s->ctx, prediction);
    t = check_values(s->ctx, rows.noise);
    for (int64_t r = 0; r < 3; r++) {
        double sum = 0.0, total = 0.0;
        for (int64_t i = 0; i < n_places; i++) {
            const double m = mask[r * n_places + i];
            total += m;
            for (int64_t c = 0; c < g->channels; c++) {
                const int64_t at = (r * n_places + i) * g->channels + c;
                sum += m * error_of(&s->diffusion, (double)p[at] - t[at]) / (double)g->channels;
            }
        }
        check_close("masked loss", r, losses[r], total > 0.0 ? sum / total : 0.0, 1e-7, 1e-5);
    }
    ag_scope_close(s->ctx, scope, NULL);
    free(mask);
    free(losses);
    free(p);
    free(t);
}

static void test_masks(void **state)
{
    small s;

    (void)state;
    make_small(&s, false);
    masked_rows(&s, AG_LOSS_L2);
    masked_rows(&s, AG_LOSS_HUBER);
    check_ok(s.ctx, "masked rows");
    free_small(&s);
}

/* A gradient that is not finite changes nothing and names its tensor. */
static void test_nonfinite_gradient(void **state)
{
    small a, b;
    train_update update;
    float *values;

    (void)state;
    make_small(&a, false);
    make_small(&b, false);
    add_rows(&a, 0, 0, 3, 1.0);
    values = check_values(a.ctx, a.state->grads[5]);
    values[2] = NAN;
    ag_write(a.ctx, a.state->grads[5], values, ag_nbytes(a.state->grads[5]));
    free(values);
    train_state_update(&update, a.ctx, a.state);
    assert_non_null(strstr(ag_message(a.ctx), a.state->names[5]));
    check_failed(a.ctx, AG_ENUMERIC, "update");
    assert_int_equal(a.state->update, 0);
    same_state(&a, &b);
    free_small(&a);
    free_small(&b);
}

/* Nothing to train, and a schedule that cannot be, are refused. */
static void test_refusals(void **state)
{
    small a;
    train_part part;
    const opt_config config = opt_defaults(OPT_ADAMW);
    opt_schedule schedule = {.kind = OPT_CONSTANT, .lr = 1e-3};
    train_state *other = NULL;
    double loss[K], norm[K], lr[K];
    static const given_case c = {.name = "sd1"};
    const train_options options = options_of(&c);

    (void)state;
    make_small(&a, false);
    part = (train_part){.params = pipe_params(a.model, DATA_TEXT_ENCODER), .prefix = "text_encoder."};
    train_state_new(&other, a.ctx, &part, 1, &config, &schedule, 1.0, 0.0);
    check_failed_with(a.ctx, AG_EINVAL, "nothing to train");
    schedule.lr = NAN;
    train_state_new(&other, a.ctx, &part, 1, &config, &schedule, 1.0, 0.0);
    check_failed_with(a.ctx, AG_EINVAL, "learning rate");
    assert_null(other);
    a.given.channels = 3;
    train_given_run(a.ctx, a.model, &options, &a.given, loss, norm, lr, NULL, NULL);
    check_failed_with(a.ctx, AG_ESHAPE, "3 channels");
    a.given.channels = 4;
    ((int64_t *)a.given.timesteps)[4] = 1000;
    train_given_run(a.ctx, a.model, &options, &a.given, loss, norm, lr, NULL, NULL);
    check_failed_with(a.ctx, AG_EINVAL, "timestep 1000");
    ((int64_t *)a.given.timesteps)[4] = 1;
    ((float *)a.given.latents)[700] = INFINITY; /* of update 1 */
    train_given_run(a.ctx, a.model, &options, &a.given, loss, norm, lr, NULL, NULL);
    check_failed_with(a.ctx, AG_ENUMERIC, "update 1");
    free_small(&a);
}

/* Memory refused anywhere in an update: an error, nothing lost, and the next update can be made. */
static void test_refused_memory(void **state)
{
    small a;
    train_update update;
    size_t before;
    int64_t n_refused = 0;

    (void)state;
    make_small(&a, false);
    add_rows(&a, 0, 0, 2, 1.0);
    train_state_update(&update, a.ctx, a.state);
    check_ok(a.ctx, "one update");
    before = ag_bytes_now(a.ctx, AG_MODEL);
    for (int64_t n = 0;; n += 1 + n / 8) {
        ag_refuse_allocation(a.ctx, n, false);
        if (add_rows(&a, 0, 0, 2, 1.0) == AG_OK)
            train_state_update(&update, a.ctx, a.state);
        ag_refuse_allocation(a.ctx, -1, false);
        assert_int_equal(ag_bytes_now(a.ctx, AG_STEP), 0);
        assert_int_equal(ag_bytes_now(a.ctx, AG_SCRATCH), 0);
        if (ag_status_of(a.ctx) == AG_OK)
            break;
        check_failed(a.ctx, AG_ENOMEM, "an update");
        n_refused++;
    }
    assert_true(n_refused > 20);
    assert_int_equal(ag_bytes_now(a.ctx, AG_MODEL), before);
    free_small(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trajectories),
        cmocka_unit_test(test_trajectory_bf16),
        cmocka_unit_test(test_trajectory_fp16),
        cmocka_unit_test(test_loss_scale),
        cmocka_unit_test(test_loss_scale_of_torch),
        cmocka_unit_test(test_accumulation_and_recompute),
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_nonfinite_gradient),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refused_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
