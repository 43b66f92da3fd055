/* ground.h - what the methods that teach Stable Diffusion from pictures stand on: the model, its noise
 * schedule, contexts, latents, loss and state, set up in the order that holds the least in memory; the run
 * and its forecast.
 *
 * A method is a recipe: it opens its pictures and lists its prompts, says what the rows of a micro-step
 * are, and saves. Its struct begins with a train_ground.
 */
#ifndef TRAIN_GROUND_H
#define TRAIN_GROUND_H

#include <jansson.h>

#include "pipeline/pipeline.h"
#include "train/draws.h"
#include "train/forecast.h"
#include "train/latents.h"
#include "train/objective.h"
#include "train/pictures.h"
#include "train/prompts.h"
#include "train/run.h"
#include "train/validation.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TRAIN_MAX_SETS = 2 };

typedef struct train_recipe {
    const char *name;
    size_t size;             /* of the method's struct */
    int64_t rows_per_sample; /* of a micro-step, at most */
    bool has_instances;      /* see train_method */
    bool has_ages;           /* every picture has one, held-out ones too */
    /* Values that no table can check, before anything is touched. */
    ag_status (*check)(ag_ctx *ctx, const train_options *options);
    /* Open the pictures (ground->sets, n_sets, samples; train_ground_assumes() where a forecast has none) and
     * list the prompts (train_prompts_add). */
    ag_status (*open)(ag_ctx *ctx, train_ground *ground);
    void (*close)(train_ground *ground); /* what open() left behind */
    /* The prompt of a held-out picture, for ag_delete(). */
    char *(*prompt_of)(ag_ctx *ctx, const train_options *options, const data_item *item);
    /* What n samples draw (h and w are filled in); user is the method's struct. */
    train_draw_counts (*counts)(const void *user, int64_t n);
    /* See train_method; user is the method's struct. Places of inputs: TRAIN_IN_... */
    ag_status (*inputs)(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, train_inputs *in);
    train_loss loss;
    void (*row_name)(void *user, const train_moment *moment, int64_t micro, int64_t row, char *text, size_t size);
} train_recipe;

/* Where a forecast on AG_META leaves what it sees. */
typedef struct train_foresight {
    train_forecast *forecast;
    train_work *work;   /* NULL: not counted */
    int64_t n_pictures; /* to assume where there are none */
    bool with_pictures; /* the run that passes the pictures, in a memory of its own: theirs is given back
                           before training begins */
} train_foresight;

struct train_ground {
    const train_recipe *recipe;
    const train_options *options;
    const train_foresight *foresight; /* NULL: a real run */
    uint64_t seed;

    /* from the recipe's open() */
    train_pictures *sets[TRAIN_MAX_SETS]; /* the method's */
    int n_sets;
    train_samples samples; /* what an epoch goes through; arrays are the method's */
    train_prompts *prompts;
    bool is_assumed; /* pictures are made up */

    train_held_out held_out;
    data_batches *batches;
    int64_t empty_prompt; /* for --caption_dropout */

    pipe_model *model;
    train_latents *latents[TRAIN_MAX_SETS];
    double scale; /* of latents */
    pipe_noise noise;
    train_diffusion diffusion;
    train_lora lora;
    train_objective objective;
    nn_clip_options text_options;
    train_drawer drawer;
    train_state *state;
    train_calendar calendar;
};

/* Train and save. `config` is the effective configuration (for the records). See train_run for the
 * statuses of an ended run. */
ag_status train_ground_run(ag_ctx *ctx, const train_recipe *recipe, const train_options *options, json_t *config,
                           train_foresee foresee);
/* A train_foresee for a recipe: what train_ground_run would take, from its own code on AG_META; ctx lends its
 * threads and takes errors. */
ag_status train_ground_forecast(train_forecast *out, ag_ctx *ctx, const train_recipe *recipe,
                                const train_options *options, int64_t n_pictures, train_work *work);

/* Set up without running: everything before the first update, the state excepted. ground_new makes the
 * recipe's struct; NULL when memory is refused. */
train_ground *train_ground_new(ag_ctx *ctx, const train_recipe *recipe, const train_options *options);
ag_status train_ground_set_up(ag_ctx *ctx, train_ground *ground);
ag_status train_ground_make_state(ag_ctx *ctx, train_ground *ground);
void train_ground_free(train_ground *ground);

/* --- for recipes ------------------------------------------------------------------------------------ */

/* Must a forecast make up its pictures, because this folder is not there? Then train_pictures_assume(). */
bool train_ground_assumes(train_ground *ground, const char *dir);

/* The samples of a micro-step. */
typedef struct train_batch {
    int64_t n;
    const data_pick *picks; /* [n]; an item is a sample's number; valid until another epoch is asked for */
    int64_t h, w;           /* of their latents */
} train_batch;
train_batch train_ground_batch(train_ground *ground, const train_moment *moment, int64_t micro);
/* Batch k of an epoch. */
train_batch train_ground_batch_at(train_ground *ground, int64_t epoch, int64_t k);

/* What a micro-step computes with. */
enum {
    TRAIN_IN_MOMENTS,       /* f32 [m,h,w,2L], mean and log-variance; the method says of which rows */
    TRAIN_IN_MASK,          /* f32 [m,h,w,1]; NULL: none */
    TRAIN_IN_POSTERIOR,     /* f32 [rows,h,w,L] */
    TRAIN_IN_NOISE,         /* f32 [noises,h,w,L] */
    TRAIN_IN_TIMES,         /* train_diffusion_times() of the rows */
    TRAIN_IN_CONTEXT,       /* train_prompts_given() of the rows */
    TRAIN_IN_CLASS_CONTEXT, /* of the second half, where the objective wants it */
};
/* The numbers of a micro-step, its dropout included: posterior, noise, times. */
ag_status train_ground_draw(train_inputs *in, ag_ctx *ctx, train_ground *ground, const train_moment *moment,
                            int64_t micro);
/* The prompts of n rows: context, class_context. */
ag_status train_ground_prompts(train_inputs *in, ag_ctx *ctx, train_ground *ground, const int64_t *prompts, int64_t n);
/* The prompt of row r of a micro-step: `prompt`, or with --caption_dropout now and then the empty one. */
int64_t train_ground_prompt(const train_ground *ground, const train_moment *moment, int64_t micro, int64_t r,
                            int64_t prompt);
/* What these are to the loss: the times, contexts, and those of the second half as the frozen text encoder sees it
 * where the objective wants that. */
void train_ground_rows(train_rows *batch, ag_ctx *ctx, const train_ground *ground, const train_inputs *in);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_GROUND_H */
