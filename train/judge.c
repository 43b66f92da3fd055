/* judge.c - a trained judge: files, estimates, distances. See judge.h; training is judge_train.c. */
#include "train/judge.h"

#include <math.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "pipeline/pipeline.h"
#include "train/judge_internal.h"

/* Pictures seen at a time. */
enum { BATCH = 64 };

static const float COUNTS_FROM = 0.5f; /* R^2 */

/* Which numbers of data_person_vector are the person's: all but clothes (9..11) and background (12..14). */
static int vector_index(int output)
{
    return output < 9 ? output : output + 6;
}

const char *train_judge_name(int output)
{
    return output == TRAIN_JUDGE_AGE ? "age" : data_person_names[vector_index(output)];
}

train_judgement train_judge_truth(const data_face_params *face)
{
    train_judgement truth;
    float all[DATA_PERSON_N];

    data_person_vector(all, &face->person);
    for (int i = 0; i < TRAIN_JUDGE_TRAITS; i++)
        truth.values[i] = all[vector_index(i)];
    truth.values[TRAIN_JUDGE_AGE] = face->age;
    return truth;
}

ag_status train_judge_new(train_judge **out, ag_ctx *ctx)
{
    const nn_judge_config config = nn_face_judge_defaults(TRAIN_JUDGE_OUTPUTS);
    train_judge *judge = ag_new(ctx, 1, sizeof *judge, "judge");

    if (judge && nn_face_judge_new(&judge->net, ctx, &config) == AG_OK &&
        nn_params_alloc(ctx, nn_face_judge_params(judge->net), AG_F32) == AG_OK) {
        *out = judge;
        return AG_OK;
    }
    train_judge_free(judge);
    return ag_status_of(ctx);
}

void train_judge_free(train_judge *judge)
{
    if (!judge)
        return;
    nn_face_judge_free(judge->net);
    ag_delete(judge);
}

/* The three rows of numbers and the network's tensors that hold them. */
static float *scale_of(train_judge *judge, nn_judge_scale which)
{
    return which == NN_JUDGE_MEAN ? judge->mean : which == NN_JUDGE_DEVIATION ? judge->deviation : judge->r2;
}

ag_status train_judge_open(train_judge **out, ag_ctx *ctx, const char *path)
{
    train_judge *judge = NULL;

    if (train_judge_new(&judge, ctx) == AG_OK && pipe_load_params(ctx, nn_face_judge_params(judge->net), path) == AG_OK)
        for (int i = 0; i < NN_JUDGE_N_SCALES; i++)
            nn_param_get_published(ctx, nn_face_judge_scale(judge->net, (nn_judge_scale)i),
                                   scale_of(judge, (nn_judge_scale)i));
    for (int i = 0; i < TRAIN_JUDGE_OUTPUTS && ag_status_of(ctx) == AG_OK; i++)
        if (!isfinite(judge->mean[i]) || !isfinite(judge->r2[i]) || !(judge->deviation[i] > 0.0f))
            ag_fail(ctx, AG_EDATA, "%s: scale of %s: wanted finite numbers and a deviation above 0", path,
                    train_judge_name(i));
    if (ag_status_of(ctx) != AG_OK) {
        train_judge_free(judge);
        return ag_status_of(ctx);
    }
    *out = judge;
    return AG_OK;
}

ag_status train_judge_settle(ag_ctx *ctx, train_judge *judge)
{
    const int64_t dims[] = {TRAIN_JUDGE_OUTPUTS};

    for (int i = 0; i < NN_JUDGE_N_SCALES; i++)
        nn_param_set_published(ctx, nn_face_judge_scale(judge->net, (nn_judge_scale)i),
                               scale_of(judge, (nn_judge_scale)i), 1, dims);
    return ag_status_of(ctx);
}

ag_status train_judge_save(ag_ctx *ctx, const train_judge *judge, const char *path)
{
    return pipe_save_params(ctx, nn_face_judge_params(judge->net), path, AG_F32);
}

static ag_status estimate_batch(train_judgement *out, ag_ctx *ctx, const train_judge *judge, const float *pixels,
                                int64_t n)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *x = ag_from_f32(ctx, pixels, 4, (int64_t[]){n, TRAIN_JUDGE_SIDE, TRAIN_JUDGE_SIDE, 3});
    ag_tensor *z = nn_face_judge_forward(ctx, judge->net, x);

    if (z && ag_read(ctx, z, out, ag_nbytes(z)) == AG_OK)
        for (int64_t k = 0; k < n; k++)
            for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++)
                out[k].values[i] = judge->mean[i] + judge->deviation[i] * out[k].values[i];
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

ag_status train_judge_estimate(train_judgement *out, ag_ctx *ctx, const train_judge *judge, const float *pixels,
                               int64_t n)
{
    const bool was = ag_record(ctx, false);

    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i += BATCH)
        estimate_batch(out + i, ctx, judge, pixels + i * TRAIN_JUDGE_VALUES, n - i < BATCH ? n - i : BATCH);
    ag_record(ctx, was);
    return ag_status_of(ctx);
}

bool train_judge_counts(const train_judge *judge, int output)
{
    return output < TRAIN_JUDGE_TRAITS && judge->r2[output] >= COUNTS_FROM;
}

double train_judge_distance(const train_judge *judge, const train_judgement *estimate, const train_judgement *person)
{
    double sum = 0.0;
    int n = 0;

    for (int i = 0; i < TRAIN_JUDGE_TRAITS; i++) {
        const double d = ((double)estimate->values[i] - person->values[i]) / judge->deviation[i];

        if (!train_judge_counts(judge, i))
            continue;
        sum += d * d;
        n++;
    }
    return n ? sqrt(sum / n) : 0.0;
}
