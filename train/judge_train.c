/* judge_train.c - training a judge on faces drawn for it, and measuring it. See judge.h.
 *
 * Draws  AG_DRAW_FACE: step 5 for training, 6 for measuring; sample = number of the face; elements 0 and 1
 *        the identity, 2 the age. AG_DRAW_NOISE: step = update, sample = row of the batch; see blur().
 */
#include <math.h>
#include <string.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "nn/init.h"
#include "pipeline/pipeline.h"
#include "train/judge_internal.h"
#include "train/log.h"
#include "train/state.h"

enum { STEP_TRAINING = 5, STEP_MEASURING = 6, SIDE = TRAIN_JUDGE_SIDE };

static const double AGE_WEIGHT = 4.0;    /* beside a trait's 1 */
static const double NOISE_MAX = 0.06;    /* deviation of the noise on a picture in -1..1 */
static const double WEIGHT_DECAY = 1e-3;
static const int64_t WARMUP = 50;

typedef struct trainer {
    const train_judge_options *options;
    train_judge *judge;
    data_canvas *canvas;
    float *pixels, *row; /* of a batch; of one picture */
    train_judgement *truths;
    ag_tensor *weights; /* roots of the outputs' weights, [outputs] */
    train_state *state;
} trainer;

/* --- pictures --------------------------------------------------------------------------------- */

static data_face_params face_at(uint64_t seed, uint32_t step, int64_t index)
{
    const ag_draw draw = {.seed = seed, .purpose = AG_DRAW_FACE, .step = step, .sample = (uint32_t)index};
    const uint64_t identity = (uint64_t)ag_draw_u32(&draw, 0) << 32 | ag_draw_u32(&draw, 1);

    return data_face_draw(identity, DATA_FACE_AGE_MAX * (float)ag_draw_uniform(&draw, 4), DATA_FACE_ANY,
                          (uint64_t)index + 1);
}

static void paint(data_canvas *canvas, const data_face_params *face, float *to)
{
    const float *rgb;

    data_face_paint(canvas, face);
    rgb = data_canvas_rgb(canvas);
    for (int i = 0; i < TRAIN_JUDGE_VALUES; i++)
        to[i] = 2.0f * fminf(fmaxf(rgb[i], 0.0f), 1.0f) - 1.0f;
}

/* x <- (1 - 2a) x + a (its two neighbours along an axis); outside lies the border's value. */
static void blur_axis(float *x, float *copy, int stride, float a)
{
    const int other = stride == 3 ? SIDE * 3 : 3;

    memcpy(copy, x, TRAIN_JUDGE_VALUES * sizeof *copy);
    for (int line = 0; line < SIDE; line++)
        for (int i = 0; i < SIDE; i++)
            for (int c = 0; c < 3; c++) {
                const int at = line * other + i * stride + c;
                const float before = copy[i > 0 ? at - stride : at], after = copy[i + 1 < SIDE ? at + stride : at];

                x[at] += a * (before + after - 2.0f * copy[at]);
            }
}

/* What another model does to a picture, roughly: up to a pixel of blur, in two passes, and noise. */
static void blur(float *x, float *copy, uint64_t seed, uint32_t update, uint32_t row)
{
    const ag_draw draw = {.seed = seed, .purpose = AG_DRAW_NOISE, .step = update, .sample = row};
    const ag_draw how = {.seed = seed, .purpose = AG_DRAW_CAPTION, .step = update, .sample = row};
    float u[3];

    ag_draw_uniforms(&how, u, 3);
    for (int pass = 0; pass < 2; pass++) {
        blur_axis(x, copy, 3, 0.25f * u[pass]);
        blur_axis(x, copy, SIDE * 3, 0.25f * u[pass]);
    }
    ag_draw_normals(&draw, copy, TRAIN_JUDGE_VALUES);
    for (int i = 0; i < TRAIN_JUDGE_VALUES; i++)
        x[i] += (float)NOISE_MAX * u[2] * copy[i];
}

/* --- training --------------------------------------------------------------------------------- */

/* Mean and deviation of the people of the first updates. */
static void measure_population(trainer *t)
{
    enum { PEOPLE = 4096 };
    double sum[TRAIN_JUDGE_OUTPUTS] = {0}, squares[TRAIN_JUDGE_OUTPUTS] = {0};

    for (int k = 0; k < PEOPLE; k++) {
        const data_face_params face = face_at((uint64_t)t->options->seed, STEP_TRAINING, k);
        const train_judgement truth = train_judge_truth(&face);

        for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++) {
            sum[i] += truth.values[i];
            squares[i] += (double)truth.values[i] * truth.values[i];
        }
    }
    for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++) {
        const double mean = sum[i] / PEOPLE;

        t->judge->mean[i] = (float)mean;
        t->judge->deviation[i] = (float)sqrt(squares[i] / PEOPLE - mean * mean);
    }
}

/* weight (z - standardized truth)^2, mean over faces and outputs */
static ag_tensor *loss_of(ag_ctx *ctx, const trainer *t, ag_tensor *pixels, ag_tensor *want)
{
    ag_tensor *error = ag_sub(ctx, nn_face_judge_forward(ctx, t->judge->net, pixels), want);

    return ag_mean(ctx, ag_square(ctx, ag_mul(ctx, error, t->weights)), AG_ALL_AXES, false);
}

static ag_status one_update(ag_ctx *ctx, trainer *t, int64_t k, float *loss)
{
    const int64_t n = t->options->batch;
    const uint64_t seed = (uint64_t)t->options->seed;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *total;
    train_update update;

    for (int64_t r = 0; r < n; r++) {
        const data_face_params face = face_at(seed, STEP_TRAINING, k * n + r);

        paint(t->canvas, &face, t->pixels + r * TRAIN_JUDGE_VALUES);
        blur(t->pixels + r * TRAIN_JUDGE_VALUES, t->row, seed, (uint32_t)k, (uint32_t)r);
        t->truths[r] = train_judge_truth(&face);
        for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++)
            t->truths[r].values[i] = (t->truths[r].values[i] - t->judge->mean[i]) / t->judge->deviation[i];
    }
    total = loss_of(ctx, t, ag_from_f32(ctx, t->pixels, 4, (int64_t[]){n, SIDE, SIDE, 3}),
                    ag_from_f32(ctx, t->truths->values, 2, (int64_t[]){n, TRAIN_JUDGE_OUTPUTS}));
    if (total && ag_read(ctx, total, loss, sizeof *loss) == AG_OK && !isfinite(*loss))
        ag_fail(ctx, AG_ENUMERIC, "update %lld: the loss of the judge is not finite", (long long)k + 1);
    if (ag_status_of(ctx) == AG_OK)
        train_state_add(ctx, t->state, total, 1.0);
    ag_scope_close(ctx, scope, NULL);
    if (ag_status_of(ctx) == AG_OK)
        train_state_update(&update, ctx, t->state);
    return ag_status_of(ctx);
}

static ag_status begin(ag_ctx *ctx, trainer *t)
{
    const train_judge_options *o = t->options;
    opt_config optimizer = opt_defaults(OPT_ADAMW);
    const opt_schedule schedule = {.kind = OPT_COSINE, .lr = o->learning_rate, .warmup = WARMUP, .total = o->steps,
                                   .cycles = 0.5};
    const int64_t dims[] = {TRAIN_JUDGE_OUTPUTS};
    float roots[TRAIN_JUDGE_OUTPUTS];
    train_part part;

    if (train_judge_new(&t->judge, ctx) != AG_OK)
        return ag_status_of(ctx);
    part = (train_part){.params = nn_face_judge_params(t->judge->net), .prefix = ""};
    optimizer.beta2 = 0.99;
    optimizer.weight_decay = WEIGHT_DECAY;
    measure_population(t);
    for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++)
        roots[i] = i == TRAIN_JUDGE_AGE ? (float)sqrt(AGE_WEIGHT) : 1.0f;
    t->weights = ag_empty(ctx, AG_MODEL, AG_F32, 1, dims);
    if (t->weights)
        ag_write(ctx, t->weights, roots, sizeof roots);
    if (ag_status_of(ctx) == AG_OK && nn_params_init(ctx, part.params, (uint64_t)o->seed) == AG_OK &&
        nn_face_judge_train(ctx, t->judge->net, true) == AG_OK)
        train_state_new(&t->state, ctx, &part, 1, &optimizer, &schedule, 1.0, 0.0);
    return ag_status_of(ctx);
}

/* --- measuring -------------------------------------------------------------------------------- */

/* Encode and decode pictures in place, as a latent diffusion model's samples are decoded. */
static ag_status through_vae(ag_ctx *ctx, const pipe_model *model, float *pixels, int64_t n)
{
    const bool was = ag_record(ctx, false);

    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++) {
        const ag_scope scope = ag_scope_open(ctx);
        ag_tensor *x = ag_from_f32(ctx, pixels + i * TRAIN_JUDGE_VALUES, 4, (int64_t[]){1, SIDE, SIDE, 3});
        ag_tensor *mean = nn_vae_mean(ctx, model->vae, nn_vae_encode(ctx, model->vae, x, NULL));
        ag_tensor *y = ag_clamp(ctx, nn_vae_decode(ctx, model->vae, mean, NULL), -1.0, 1.0);

        if (y && ag_numel(y) != TRAIN_JUDGE_VALUES)
            ag_fail(ctx, AG_ESHAPE, "%s: its VAE makes pictures of %lld x %lld from %d x %d", model->path,
                    (long long)ag_dim(y, 2), (long long)ag_dim(y, 1), SIDE, SIDE);
        if (y)
            ag_read(ctx, y, pixels + i * TRAIN_JUDGE_VALUES, TRAIN_JUDGE_VALUES * sizeof *pixels);
        ag_scope_close(ctx, scope, NULL);
    }
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

/* How much of every output the judge explains. */
static void explained(train_judge_report *out, const train_judgement *seen, const train_judgement *truth, int64_t n)
{
    *out = (train_judge_report){0};
    for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++) {
        double sum = 0.0, squares = 0.0, errors = 0.0;

        for (int64_t k = 0; k < n; k++) {
            const double v = truth[k].values[i], e = seen[k].values[i] - v;

            sum += v;
            squares += v * v;
            errors += e * e;
            if (i == TRAIN_JUDGE_AGE)
                out->age_error += fabs(e) / (double)n;
        }
        out->r2[i] = 1.0 - errors / (squares - sum * sum / (double)n);
    }
}

static void distances(train_judge_report *out, const train_judge *judge, const train_judgement *seen,
                      const train_judgement *truth, int64_t n)
{
    for (int64_t k = 0; k < n; k++) {
        out->same += train_judge_distance(judge, &seen[k], &truth[k]) / (double)n;
        out->other += train_judge_distance(judge, &seen[k], &truth[(k + 1) % n]) / (double)n;
    }
}

static ag_status measure(train_judge_report *drawn, train_judge_report *through, ag_ctx *ctx, trainer *t,
                         const pipe_model *model)
{
    const int64_t n = t->options->held_out;
    float *pixels = ag_new(ctx, (size_t)n * TRAIN_JUDGE_VALUES, sizeof *pixels, "held-out faces");
    train_judgement *truth = ag_new(ctx, (size_t)n * 3, sizeof *truth, "judgements");
    train_judgement *seen = truth + n, *seen_through = truth + 2 * n;
    const train_judge_report *last = model ? through : drawn;

    for (int64_t k = 0; k < n && pixels && truth; k++) {
        const data_face_params face = face_at((uint64_t)t->options->seed, STEP_MEASURING, k);

        paint(t->canvas, &face, pixels + k * TRAIN_JUDGE_VALUES);
        truth[k] = train_judge_truth(&face);
    }
    if (ag_status_of(ctx) == AG_OK && train_judge_estimate(seen, ctx, t->judge, pixels, n) == AG_OK)
        explained(drawn, seen, truth, n);
    if (ag_status_of(ctx) == AG_OK && model && through_vae(ctx, model, pixels, n) == AG_OK &&
        train_judge_estimate(seen_through, ctx, t->judge, pixels, n) == AG_OK)
        explained(through, seen_through, truth, n);
    if (ag_status_of(ctx) == AG_OK) {
        for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++)
            t->judge->r2[i] = (float)last->r2[i];
        distances(drawn, t->judge, seen, truth, n);
        if (model)
            distances(through, t->judge, seen_through, truth, n);
    }
    ag_delete(truth);
    ag_delete(pixels);
    return ag_status_of(ctx);
}

/* --- all of it -------------------------------------------------------------------------------- */

static ag_status check_options(ag_ctx *ctx, const train_judge_options *o)
{
    enum { MOST = 1 << 20 };

    if (o->steps < 1 || o->batch < 1 || o->batch > 1024 || o->steps > MOST || o->held_out < 2 || o->held_out > MOST)
        return ag_fail(ctx, AG_EINVAL,
                       "a judge of %lld updates of %lld faces, measured on %lld: wanted 1..%d updates of 1..1024, "
                       "measured on 2..%d",
                       (long long)o->steps, (long long)o->batch, (long long)o->held_out, MOST, MOST);
    return AG_OK;
}

ag_status train_judge_train(train_judge **out, train_judge_report *drawn, train_judge_report *through, ag_ctx *ctx,
                            const train_judge_options *o)
{
    const pipe_source source = {.model = o->model};
    trainer t = {.options = o};
    pipe_model *model = NULL;
    double recent = 0.0;

    if (check_options(ctx, o) != AG_OK || (o->model && pipe_open(&model, ctx, &source, PIPE_VAE) != AG_OK))
        return ag_status_of(ctx);
    t.pixels = ag_new(ctx, (size_t)o->batch * TRAIN_JUDGE_VALUES, sizeof *t.pixels, "pictures");
    t.row = ag_new(ctx, TRAIN_JUDGE_VALUES, sizeof *t.row, "a picture");
    t.truths = ag_new(ctx, (size_t)o->batch, sizeof *t.truths, "judgements");
    if (ag_status_of(ctx) == AG_OK && data_canvas_new(&t.canvas, ctx, SIDE, SIDE) == AG_OK)
        begin(ctx, &t);
    for (int64_t k = 0; k < o->steps && ag_status_of(ctx) == AG_OK; k++) {
        float loss = 0.0f;

        one_update(ctx, &t, k, &loss);
        recent = k == 0 ? loss : recent + 0.02 * (loss - recent);
        if ((k + 1) % 250 == 0 || k + 1 == o->steps)
            train_note(NULL, "judge: update %lld of %lld, loss %.4f", (long long)k + 1, (long long)o->steps, recent);
    }
    if (ag_status_of(ctx) == AG_OK && measure(drawn, through, ctx, &t, model) == AG_OK)
        train_judge_settle(ctx, t.judge);
    train_state_free(t.state);
    ag_release(t.weights);
    data_canvas_free(t.canvas);
    ag_delete(t.truths);
    ag_delete(t.row);
    ag_delete(t.pixels);
    pipe_close(model);
    if (ag_status_of(ctx) != AG_OK) {
        train_judge_free(t.judge);
        return ag_status_of(ctx);
    }
    *out = t.judge;
    return AG_OK;
}
