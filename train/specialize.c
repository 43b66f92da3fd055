/* specialize.c - see specialize.h. */
#include "train/specialize.h"

#include <stdio.h>
#include <string.h>

#include "autograd/ops.h"
#include "train/ground.h"

enum { ROWS_PER_PICTURE = 2 };

typedef struct specialize {
    train_ground ground;
    train_pictures pictures;
    int64_t *plain; /* [n], the prompt without an age */
    int64_t *aged;  /* [n], the prompt with it */
} specialize;

/* --- prompts ------------------------------------------------------------------------------------- */

static const char ARTICLE[] = " a ";

char *train_aged_prompt(ag_ctx *ctx, const char *prompt, int64_t age)
{
    char insert[64];
    const size_t n_insert = (size_t)snprintf(insert, sizeof insert, " a %lld year old ", (long long)age);
    size_t count = 0, at = 0;
    char *out;

    for (const char *p = prompt; (p = strstr(p, ARTICLE)); p += sizeof ARTICLE - 1)
        count++;
    out = ag_new(ctx, strlen(prompt) + count * n_insert + 1, 1, "prompt");
    if (!out)
        return NULL;
    for (const char *p = prompt; *p;) {
        if (strncmp(p, ARTICLE, sizeof ARTICLE - 1) == 0) {
            memcpy(out + at, insert, n_insert);
            at += n_insert;
            p += sizeof ARTICLE - 1;
        } else {
            out[at++] = *p++;
        }
    }
    return out;
}

/* Where a prompt's age goes: "{age}" says so, else it is after every word "a". */
static bool has_place(const char *prompt)
{
    return train_prompt_has_age(prompt) || strstr(prompt, ARTICLE);
}

static const char *prompt_of(const specialize *s, int64_t i)
{
    const char *caption = s->pictures.set.items[i].caption;

    return caption ? caption : s->ground.options->instance_prompt;
}

static char *aged_prompt(ag_ctx *ctx, const char *prompt, const data_item *item)
{
    const int64_t age = (int64_t)item->age;

    return train_prompt_has_age(prompt) ? train_prompt_with_age(ctx, prompt, age) : train_aged_prompt(ctx, prompt, age);
}

static char *held_out_prompt(ag_ctx *ctx, const train_options *o, const data_item *item)
{
    return aged_prompt(ctx, o->instance_prompt, item);
}

static ag_status add_prompts(ag_ctx *ctx, specialize *s, int64_t i)
{
    const char *prompt = prompt_of(s, i);
    char *aged = aged_prompt(ctx, prompt, &s->pictures.set.items[i]);
    char *plain = train_prompt_without_age(ctx, prompt);

    if (aged && plain) {
        s->plain[i] = train_prompts_add(ctx, s->ground.prompts, plain);
        s->aged[i] = train_prompts_add(ctx, s->ground.prompts, aged);
    }
    ag_delete(plain);
    ag_delete(aged);
    return ag_status_of(ctx);
}

/* A picture whose two prompts would be equal teaches no age. */
static ag_status check_captions(ag_ctx *ctx, const specialize *s)
{
    const data_set *set = &s->pictures.set;
    data_offenders without = {0};

    for (int64_t i = 0; i < set->n; i++)
        if (set->items[i].caption && !has_place(set->items[i].caption))
            data_offenders_add(&without, set->items[i].name, set->items[i].caption);
    if (without.n && s->ground.options->finetune_mode == TRAIN_DOUBLE_PROMPT)
        return ag_fail(ctx, AG_EINVAL,
                       "%lld captions have neither \"{age}\" nor the word \" a \", where the age goes (the two prompts "
                       "of finetune_double_prompt would be equal): %s",
                       (long long)without.n, data_offenders_end(&without));
    if (without.n && !s->ground.foresight)
        train_note(NULL, "%lld captions say no age: %s", (long long)without.n, data_offenders_end(&without));
    return AG_OK;
}

static ag_status make_prompts(ag_ctx *ctx, specialize *s)
{
    const int64_t n = s->pictures.set.n;

    if (check_captions(ctx, s) != AG_OK)
        return ag_status_of(ctx);
    s->plain = ag_new(ctx, (size_t)n, sizeof *s->plain, "prompts");
    s->aged = ag_new(ctx, (size_t)n, sizeof *s->aged, "prompts");
    for (int64_t i = 0; i < n && ag_status_of(ctx) == AG_OK; i++)
        add_prompts(ctx, s, i);
    return ag_status_of(ctx);
}

/* --- the rows of a micro-step ---------------------------------------------------------------------- */

/* One noise for both rows of a picture; the published program draws another first and throws it away. */
static train_draw_counts counts(const void *user, int64_t B)
{
    const train_ground *g = user;

    return (train_draw_counts){.rows = ROWS_PER_PICTURE * B,
                               .noises = B,
                               .times = g->options->same_timestep ? B : ROWS_PER_PICTURE * B,
                               .thrown = ROWS_PER_PICTURE * B};
}

static ag_tensor *twice(ag_ctx *ctx, ag_tensor *t)
{
    return ag_concat(ctx, t, t, 0);
}

/* The prompt of row r: without the age the first half, with it the second. */
static int64_t prompt_at(const specialize *s, const train_moment *moment, int64_t micro, const train_batch *batch,
                         int64_t r)
{
    const train_ground *g = &s->ground;
    const int64_t item = batch->picks[r % batch->n].item;
    const bool plain = r < batch->n && g->options->finetune_mode == TRAIN_DOUBLE_PROMPT;

    return train_ground_prompt(g, moment, micro, r, plain ? s->plain[item] : s->aged[item]);
}

static ag_status inputs(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, train_inputs *in)
{
    specialize *s = user;
    train_ground *g = &s->ground;
    const train_batch b = train_ground_batch(g, moment, micro);
    int64_t prompts[TRAIN_MAX_ROWS];

    for (int64_t r = 0; r < ROWS_PER_PICTURE * b.n; r++)
        prompts[r] = prompt_at(s, moment, micro, &b, r);
    if (train_ground_draw(in, ctx, g, moment, micro) != AG_OK)
        return ag_status_of(ctx);
    in->at[TRAIN_IN_MOMENTS] = train_latents_moments(ctx, g->latents[0], b.picks, b.n, moment->epoch);
    if (train_latents_has_masks(g->latents[0]))
        in->at[TRAIN_IN_MASK] = train_latents_masks(ctx, g->latents[0], b.picks, b.n, moment->epoch);
    return train_ground_prompts(in, ctx, g, prompts, ROWS_PER_PICTURE * b.n);
}

/* Of pictures: moments, mask, noise. */
static ag_tensor *loss(ag_ctx *ctx, void *user, const train_inputs *in, ag_tensor **rows)
{
    const train_ground *g = user;
    train_rows batch = {.n = ag_dim(in->at[TRAIN_IN_POSTERIOR], 0)};

    batch.latents =
        train_latents_sample(ctx, twice(ctx, in->at[TRAIN_IN_MOMENTS]), in->at[TRAIN_IN_POSTERIOR], g->scale);
    batch.noise = twice(ctx, in->at[TRAIN_IN_NOISE]);
    if (in->at[TRAIN_IN_MASK])
        batch.mask = twice(ctx, in->at[TRAIN_IN_MASK]);
    train_ground_rows(&batch, ctx, g, in);
    return train_objective_loss(ctx, &g->objective, &g->diffusion, &batch, rows);
}

static void row_name(void *user, const train_moment *moment, int64_t micro, int64_t row, char *text, size_t size)
{
    specialize *s = user;
    const train_batch b = train_ground_batch(&s->ground, moment, micro);

    snprintf(text, size, "%s with \"%s\"", s->pictures.set.items[b.picks[row % b.n].item].name,
             train_prompts_text(s->ground.prompts, prompt_at(s, moment, micro, &b, row)));
}

/* --- setting up ------------------------------------------------------------------------------------ */

static ag_status check_options(ag_ctx *ctx, const train_options *o)
{
    if (o->finetune_mode == TRAIN_DOUBLE_PROMPT && !has_place(o->instance_prompt))
        return ag_fail(ctx, AG_EINVAL,
                       "--instance_prompt \"%s\": wanted the word \" a \" or \"{age}\" in it, where the age goes (the "
                       "two prompts of finetune_double_prompt would be equal)",
                       o->instance_prompt);
    if (o->torch_rng && (o->noise_offset > 0.0 || o->same_timestep))
        return ag_fail(ctx, AG_EINVAL, "--torch_rng repeats the published program's draws, which has no --%s",
                       o->same_timestep ? "same_timestep" : "noise_offset");
    if (!has_place(o->instance_prompt))
        train_note(NULL, "--instance_prompt \"%s\": without the word \" a \" or \"{age}\" it says no age",
                   o->instance_prompt);
    return AG_OK;
}

static ag_status open_data(ag_ctx *ctx, train_ground *g)
{
    specialize *s = (specialize *)g;
    const train_options *o = g->options;
    const train_folder folder = {.dir = o->instance_data_dir, .has_ages = true, .age_path = o->instance_age_path};

    if (train_ground_assumes(g, o->instance_data_dir))
        train_pictures_assume(&s->pictures, ctx, o, g->foresight->n_pictures);
    else
        train_pictures_open(&s->pictures, ctx, o, &folder);
    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    g->sets[0] = &s->pictures;
    g->n_sets = 1;
    g->samples = train_pictures_samples(&s->pictures);
    return make_prompts(ctx, s);
}

static void close_data(train_ground *g)
{
    specialize *s = (specialize *)g;

    train_pictures_close(&s->pictures);
    ag_delete(s->plain);
    ag_delete(s->aged);
}

static const train_recipe RECIPE = {.name = "specialize",
                                    .size = sizeof(specialize),
                                    .rows_per_sample = ROWS_PER_PICTURE,
                                    .has_instances = true,
                                    .has_ages = true,
                                    .check = check_options,
                                    .open = open_data,
                                    .close = close_data,
                                    .prompt_of = held_out_prompt,
                                    .counts = counts,
                                    .inputs = inputs,
                                    .loss = loss,
                                    .row_name = row_name};

ag_status train_specialize(ag_ctx *ctx, const train_options *options, json_t *config)
{
    return train_ground_run(ctx, &RECIPE, options, config, train_specialize_forecast);
}

ag_status train_specialize_forecast(train_forecast *out, ag_ctx *ctx, const train_options *options,
                                    int64_t n_pictures, train_work *work)
{
    return train_ground_forecast(out, ctx, &RECIPE, options, n_pictures, work);
}
