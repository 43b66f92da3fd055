/* judge.h - who is in a drawn face, and how old: a network's estimate, trained on the painter.
 *
 * The painter (data/faces.h) knows every person it draws by numbers. A small network learns to read from a
 * picture those that stay the same over a life, and the age; with it, pictures that another model made can be
 * measured: how far are they from a person, and how old do they look?
 *
 * The distance between an estimate and a person is the root of the mean over the judged traits of
 * ((estimate - person) / deviation of the population)^2. Judged are the traits of which the network explains
 * at least half on people it never saw (R^2 >= 0.5), after the VAE of the model whose pictures it is for.
 * Estimating nothing, the population's mean, is about 1 away from anybody. Clothes and background are left out: they are the picture's, not the person's.
 */
#ifndef TRAIN_JUDGE_H
#define TRAIN_JUDGE_H

#include "data/faces.h"
#include "nn/face_judge.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TRAIN_JUDGE_TRAITS = DATA_PERSON_N - 6, TRAIN_JUDGE_AGE = TRAIN_JUDGE_TRAITS, TRAIN_JUDGE_OUTPUTS,
       TRAIN_JUDGE_SIDE = 64 };

/* Traits and, at TRAIN_JUDGE_AGE, the age in years. */
typedef struct train_judgement {
    float values[TRAIN_JUDGE_OUTPUTS];
} train_judgement;

typedef struct train_judge_options {
    int64_t seed;
    int64_t steps, batch; /* updates, faces of each: each is drawn for it */
    double learning_rate; /* at its highest */
    int64_t held_out;     /* people, none of them met in training, to measure with */
    const char *model;    /* the model to be judged: measured, too, on faces that went through its VAE; NULL: none */
} train_judge_options;

/* What the network is worth on people it never saw. */
typedef struct train_judge_report {
    double r2[TRAIN_JUDGE_OUTPUTS]; /* 1 - squared error / variance */
    double age_error;               /* mean absolute error, years */
    double same, other;             /* mean distance to the person drawn, and to another one */
} train_judge_report;

/* A trained network and, in plain numbers, what its outputs are worth. */
typedef struct train_judge {
    nn_face_judge *net;
    float mean[TRAIN_JUDGE_OUTPUTS], deviation[TRAIN_JUDGE_OUTPUTS]; /* of the population */
    float r2[TRAIN_JUDGE_OUTPUTS];                                   /* on people it never saw */
} train_judge;

/* Train a judge from nothing. *drawn is what it is worth on drawn faces, and *through, with options->model, on
 * those that went through its VAE; which traits are judged follows from the last of the two. */
ag_status train_judge_train(train_judge **out, train_judge_report *drawn, train_judge_report *through, ag_ctx *ctx,
                            const train_judge_options *options);
/* Read one from a safetensors file; strict, AG_EIO or AG_EDATA naming the file. */
ag_status train_judge_open(train_judge **out, ag_ctx *ctx, const char *path);
ag_status train_judge_save(ag_ctx *ctx, const train_judge *judge, const char *path);
void train_judge_free(train_judge *judge); /* NULL is fine */

/* What it sees in n pictures, f32 [n,R,R,3] in -1..1, R = TRAIN_JUDGE_SIDE. */
ag_status train_judge_estimate(train_judgement *out, ag_ctx *ctx, const train_judge *judge, const float *pixels,
                               int64_t n);

const char *train_judge_name(int output); /* the trait's name, or "age" */
/* The truth about a drawn face. */
train_judgement train_judge_truth(const data_face_params *face);
/* Is this output a trait that the distance is made of? */
bool train_judge_counts(const train_judge *judge, int output);
/* As described above; 0 when no trait is judged. */
double train_judge_distance(const train_judge *judge, const train_judgement *estimate,
                            const train_judgement *person);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_JUDGE_H */
