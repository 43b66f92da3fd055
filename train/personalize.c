/* personalize.c - see personalize.h. */
#include "train/personalize.h"

#include <stdio.h>

#include "autograd/ops.h"
#include "train/class_pictures.h"
#include "train/ground.h"

enum { PERSON, OTHERS, N_SIDES }; /* the halves of a batch */

typedef struct side {
    train_pictures pictures;
    int64_t *prompts; /* [pictures.set.n] */
} side;

typedef struct personalize {
    train_ground ground;
    side sides[N_SIDES];
    int n_sides;
    int64_t *buckets; /* [samples], with --aspect_ratio_buckets */
    data_size *boxes; /* the same */
} personalize;

/* --- prompts ------------------------------------------------------------------------------------- */

char *train_prompt_as_age(ag_ctx *ctx, const char *prompt, int64_t age)
{
    return train_prompt_has_age(prompt) ? train_prompt_with_age(ctx, prompt, age)
                                        : ag_printf(ctx, "%s as %lld-year-old", prompt, (long long)age);
}

static char *prompt_with(ag_ctx *ctx, const char *prompt, const data_item *item, bool has_ages)
{
    return has_ages ? train_prompt_as_age(ctx, prompt, (int64_t)item->age) : ag_strdup(ctx, prompt);
}

static char *prompt_with_age(ag_ctx *ctx, const train_options *o, const data_item *item)
{
    return prompt_with(ctx, o->instance_prompt, item, true);
}

static char *prompt_without_age(ag_ctx *ctx, const train_options *o, const data_item *item)
{
    return prompt_with(ctx, o->instance_prompt, item, false);
}

static ag_status make_prompts(ag_ctx *ctx, personalize *p, side *s, const char *prompt)
{
    const bool has_ages = p->ground.recipe->has_ages;
    const data_set *set = &s->pictures.set;

    s->prompts = ag_new(ctx, (size_t)set->n, sizeof *s->prompts, "prompts");
    for (int64_t i = 0; i < set->n && ag_status_of(ctx) == AG_OK; i++) {
        const data_item *item = &set->items[i];
        char *text = prompt_with(ctx, item->caption ? item->caption : prompt, item, has_ages);
        if (text)
            s->prompts[i] = train_prompts_add(ctx, p->ground.prompts, text);
        ag_delete(text);
    }
    return ag_status_of(ctx);
}

/* --- the rows of a micro-step ---------------------------------------------------------------------- */

static train_draw_counts counts(const void *user, int64_t n)
{
    const personalize *p = user;
    const int64_t rows = p->n_sides * n;

    return (train_draw_counts){.rows = rows, .noises = rows, .times = rows};
}

/* Which picture of a side a sample shows, and which time in this epoch. */
static data_pick pick_of(const personalize *p, int s, const data_pick *sample)
{
    const int64_t n = p->sides[s].pictures.set.n, rounds = (p->ground.samples.n + n - 1) / n;

    return (data_pick){.item = sample->item % n, .copy = sample->copy * rounds + sample->item / n};
}

static int64_t prompt_at(const personalize *p, const train_moment *moment, int64_t micro, const train_batch *b,
                         int64_t r)
{
    const int s = (int)(r / b->n);
    const int64_t item = pick_of(p, s, &b->picks[r % b->n]).item;

    return train_ground_prompt(&p->ground, moment, micro, r, p->sides[s].prompts[item]);
}

static ag_tensor *joined(ag_ctx *ctx, ag_tensor *first, ag_tensor *second)
{
    return first ? ag_concat(ctx, first, second, 0) : second;
}

/* Posteriors and masks of one half, behind those of the other. */
static void add_side(ag_ctx *ctx, personalize *p, int s, const train_batch *b, int64_t epoch, bool masked,
                     train_inputs *in)
{
    ag_tensor **moments = &in->at[TRAIN_IN_MOMENTS], **masks = &in->at[TRAIN_IN_MASK];
    train_latents *l = p->ground.latents[s];
    data_pick picks[TRAIN_MAX_ROWS];
    ag_tensor *mask;

    for (int64_t i = 0; i < b->n; i++)
        picks[i] = pick_of(p, s, &b->picks[i]);
    *moments = joined(ctx, *moments, train_latents_moments(ctx, l, picks, b->n, epoch));
    if (!masked)
        return;
    mask = train_latents_has_masks(l) ? train_latents_masks(ctx, l, picks, b->n, epoch)
                                      : ag_full(ctx, AG_STEP, 1.0, 4, (int64_t[]){b->n, b->h, b->w, 1});
    *masks = joined(ctx, *masks, mask);
}

static ag_status inputs(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, train_inputs *in)
{
    personalize *p = user;
    train_ground *g = &p->ground;
    const train_batch b = train_ground_batch(g, moment, micro);
    int64_t prompts[TRAIN_MAX_ROWS];
    bool masked = false;

    for (int64_t r = 0; r < p->n_sides * b.n; r++)
        prompts[r] = prompt_at(p, moment, micro, &b, r);
    for (int s = 0; s < p->n_sides; s++)
        masked |= train_latents_has_masks(g->latents[s]);
    for (int s = 0; s < p->n_sides && ag_status_of(ctx) == AG_OK; s++)
        add_side(ctx, p, s, &b, moment->epoch, masked, in);
    if (ag_status_of(ctx) != AG_OK || train_ground_draw(in, ctx, g, moment, micro) != AG_OK)
        return ag_status_of(ctx);
    return train_ground_prompts(in, ctx, g, prompts, p->n_sides * b.n);
}

static ag_tensor *loss(ag_ctx *ctx, void *user, const train_inputs *in, ag_tensor **rows)
{
    const train_ground *g = user;
    train_rows batch = {.n = ag_dim(in->at[TRAIN_IN_POSTERIOR], 0),
                        .noise = in->at[TRAIN_IN_NOISE],
                        .mask = in->at[TRAIN_IN_MASK]};

    batch.latents = train_latents_sample(ctx, in->at[TRAIN_IN_MOMENTS], in->at[TRAIN_IN_POSTERIOR], g->scale);
    train_ground_rows(&batch, ctx, g, in);
    return train_objective_loss(ctx, &g->objective, &g->diffusion, &batch, rows);
}

static void row_name(void *user, const train_moment *moment, int64_t micro, int64_t row, char *text, size_t size)
{
    personalize *p = user;
    const train_batch b = train_ground_batch(&p->ground, moment, micro);
    const int s = (int)(row / b.n);
    const int64_t item = pick_of(p, s, &b.picks[row % b.n]).item;

    snprintf(text, size, "%s with \"%s\"", p->sides[s].pictures.set.items[item].name,
             train_prompts_text(p->ground.prompts, prompt_at(p, moment, micro, &b, row)));
}

/* --- setting up ------------------------------------------------------------------------------------ */

static ag_status check_options(ag_ctx *ctx, const train_options *o)
{
    if (o->with_prior_preservation && !o->class_data_dir)
        return ag_fail(ctx, AG_EINVAL, "prior preservation wants a folder of pictures of other people "
                                       "(personalize: --regularization_dir, dreambooth: --class_data_dir)");
    if (o->with_prior_preservation && !o->class_prompt)
        return ag_fail(ctx, AG_EINVAL, "prior preservation wants --class_prompt, what the other pictures show");
    if (o->rank == 0 && o->with_prior_preservation && o->prior_target == TRAIN_PRIOR_MODEL)
        return ag_fail(ctx, AG_EINVAL,
                       "--prior_target model: the frozen model answers without its adapters, and when whole weights are "
                       "trained there are none; train a LoRA (--rank)");
    if (o->torch_rng && o->noise_offset > 0.0)
        return ag_fail(ctx, AG_EINVAL,
                       "--torch_rng repeats the published program's draws, which has no --noise_offset");
    return AG_OK;
}

/* What a run should know about itself. */
static void tell(const personalize *p, const train_samples *samples)
{
    const train_options *o = p->ground.options;
    const int64_t batches = (samples->n + o->train_batch_size - 1) / o->train_batch_size;
    const int64_t per_epoch = (batches + o->gradient_accumulation_steps - 1) / o->gradient_accumulation_steps;
    const int64_t updates = o->max_train_steps > 0 ? o->max_train_steps : o->num_train_epochs * per_epoch;
    const double way = train_base_lr(o) * (double)updates;
    const bool is_adam = o->optimizer == OPT_ADAMW || o->optimizer == OPT_ADAMW8BIT;

    if (!o->with_prior_preservation && o->class_data_dir)
        train_note(NULL, "%s is not used: prior preservation is off", o->class_data_dir);
    if (o->with_prior_preservation && o->contrast_weight > 0.0 && (o->train_batch_size == 1 || samples->n == 1))
        train_note(NULL, "contrast: a row is compared with the others of its half, and at batch size 1 there are none: "
                         "the term is exactly 0");
    if (o->rank > 0 && is_adam && way < 5e-3)
        train_note(NULL, "--learning_rate %g for %lld updates: with %s no value moves further than about %.1e, and the "
                         "second factors begin at 0; expect hardly any change (800 updates at 5e-4 adapt)",
                   o->learning_rate, (long long)updates, opt_kind_names[o->optimizer], way);
}

/* The person's pictures, no more than are asked for. */
static ag_status open_person(ag_ctx *ctx, personalize *p)
{
    const train_options *o = p->ground.options;
    const train_folder folder = {.dir = o->instance_data_dir,
                                 .has_ages = p->ground.recipe->has_ages,
                                 .age_path = o->instance_age_path,
                                 .most = o->num_instance_images};
    train_pictures *pictures = &p->sides[PERSON].pictures;

    if (p->ground.is_assumed)
        return train_pictures_assume(pictures, ctx, o, o->num_instance_images > 0 ? o->num_instance_images : 5);
    if (train_pictures_open(pictures, ctx, o, &folder) == AG_OK && pictures->set.n < o->num_instance_images &&
        !p->ground.foresight)
        train_note(NULL, "%s has %lld pictures, fewer than --num_instance_images %lld: all are used", folder.dir,
                   (long long)pictures->set.n, (long long)o->num_instance_images);
    return ag_status_of(ctx);
}

/* Draw what is missing of the class, once nothing speaks against the run any more. */
static ag_status draw_others(ag_ctx *ctx, const personalize *p)
{
    const train_options *o = p->ground.options;

    if (p->ground.is_assumed || p->ground.foresight || p->n_sides == 1)
        return AG_OK;
    return train_class_pictures(ctx, o);
}

/* The others'; captions and masks are the person's. */
static ag_status open_others(ag_ctx *ctx, personalize *p)
{
    train_options o = *p->ground.options;
    const train_folder folder = {.dir = o.class_data_dir,
                                 .has_ages = p->ground.recipe->has_ages,
                                 .age_path = o.class_age_path,
                                 .most = o.num_class_images};
    train_pictures *pictures = &p->sides[OTHERS].pictures;
    const int64_t assumed = o.num_class_images > 0 ? o.num_class_images
                            : p->ground.foresight  ? p->ground.foresight->n_pictures
                                                   : 0;

    o.caption_extension = NULL;
    o.mask_dir = NULL;
    o.aspect_ratio_buckets = false; /* a picture has the box of the one beside it */
    return p->ground.is_assumed ? train_pictures_assume(pictures, ctx, &o, assumed)
                                : train_pictures_open(pictures, ctx, &o, &folder);
}

/* Samples of both halves go by the longer set; a sample has the person's box. */
static ag_status make_samples(ag_ctx *ctx, personalize *p)
{
    const train_pictures *person = &p->sides[PERSON].pictures, *others = &p->sides[OTHERS].pictures;
    train_samples *out = &p->ground.samples;

    *out = train_pictures_samples(person);
    if (p->n_sides == 1)
        return AG_OK;
    if (others->set.n >= person->set.n)
        *out = train_pictures_samples(others);
    out->buckets = NULL;
    out->boxes = NULL;
    if (!person->buckets)
        return AG_OK;
    if (others->set.n < person->set.n)
        return ag_fail(ctx, AG_EINVAL,
                       "--aspect_ratio_buckets: a picture of the class has the shape of the one beside it, and %lld of the "
                       "class would each have several beside %lld",
                       (long long)others->set.n, (long long)person->set.n);
    p->buckets = ag_new(ctx, (size_t)out->n, sizeof *p->buckets, "buckets");
    p->boxes = ag_new(ctx, (size_t)out->n, sizeof *p->boxes, "buckets");
    for (int64_t i = 0; i < out->n && ag_status_of(ctx) == AG_OK; i++) {
        p->buckets[i] = person->buckets[i % person->set.n];
        p->boxes[i] = others->boxes[i] = person->boxes[i % person->set.n];
    }
    out->buckets = p->buckets;
    out->boxes = p->boxes;
    return ag_status_of(ctx);
}

/* Without ages any picture will do for the class, also one of the model's. */
static ag_status open_data(ag_ctx *ctx, train_ground *g)
{
    personalize *p = (personalize *)g;
    const train_options *o = g->options;
    const bool has_ages = g->recipe->has_ages;

    p->n_sides = o->with_prior_preservation ? N_SIDES : 1;
    train_ground_assumes(g, o->instance_data_dir);
    if (p->n_sides > 1)
        train_ground_assumes(g, o->class_data_dir);
    if (open_person(ctx, p) != AG_OK ||
        make_prompts(ctx, p, &p->sides[PERSON], o->instance_prompt) != AG_OK)
        return ag_status_of(ctx);
    if (!has_ages && draw_others(ctx, p) != AG_OK)
        return ag_status_of(ctx);
    if (p->n_sides > 1 && (open_others(ctx, p) != AG_OK ||
                           make_prompts(ctx, p, &p->sides[OTHERS], o->class_prompt) != AG_OK))
        return ag_status_of(ctx);
    if (make_samples(ctx, p) != AG_OK)
        return ag_status_of(ctx);
    for (int s = 0; s < p->n_sides; s++)
        g->sets[s] = &p->sides[s].pictures;
    g->n_sets = p->n_sides;
    if (!g->foresight)
        tell(p, &g->samples);
    return ag_status_of(ctx);
}

static void close_data(train_ground *g)
{
    personalize *p = (personalize *)g;

    for (int s = 0; s < N_SIDES; s++) {
        train_pictures_close(&p->sides[s].pictures);
        ag_delete(p->sides[s].prompts);
    }
    ag_delete(p->buckets);
    ag_delete(p->boxes);
}

static const train_recipe PERSONALIZE = {.name = "personalize",
                                         .size = sizeof(personalize),
                                         .rows_per_sample = N_SIDES,
                                         .check = check_options,
                                         .has_ages = true,
                                         .open = open_data,
                                         .prompt_of = prompt_with_age,
                                         .close = close_data,
                                         .counts = counts,
                                         .inputs = inputs,
                                         .loss = loss,
                                         .row_name = row_name};
static const train_recipe DREAMBOOTH = {.name = "dreambooth",
                                        .size = sizeof(personalize),
                                        .rows_per_sample = N_SIDES,
                                        .check = check_options,
                                        .open = open_data,
                                        .prompt_of = prompt_without_age,
                                        .close = close_data,
                                        .counts = counts,
                                        .inputs = inputs,
                                        .loss = loss,
                                        .row_name = row_name};

ag_status train_personalize(ag_ctx *ctx, const train_options *options, json_t *config)
{
    return train_ground_run(ctx, &PERSONALIZE, options, config, train_personalize_forecast);
}

ag_status train_personalize_forecast(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                     int64_t n_pictures, train_work *work)
{
    return train_ground_forecast(out, ctx, &PERSONALIZE, options, n_pictures, work);
}

ag_status train_dreambooth(ag_ctx *ctx, const train_options *options, json_t *config)
{
    return train_ground_run(ctx, &DREAMBOOTH, options, config, train_dreambooth_forecast);
}

ag_status train_dreambooth_forecast(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                    int64_t n_pictures, train_work *work)
{
    return train_ground_forecast(out, ctx, &DREAMBOOTH, options, n_pictures, work);
}
