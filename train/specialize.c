/* specialize.c - see specialize.h. */
#include "train/specialize.h"

#include <stdio.h>
#include <string.h>

#include "autograd/ops.h"
#include "data/file.h"
#include "train/ground.h"

enum { ROWS_PER_PICTURE = 2 };

typedef struct specialize {
    train_ground ground;
    data_ages ages;
    data_set set;
    int64_t plain; /* the prompt without an age */
    int64_t *aged; /* [set.n], the prompt with it */
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

static ag_status make_prompts(ag_ctx *ctx, specialize *s)
{
    const train_options *o = s->ground.options;
    train_prompts *prompts = s->ground.prompts;

    s->aged = ag_new(ctx, (size_t)s->set.n, sizeof *s->aged, "prompts");
    if (!s->aged)
        return ag_status_of(ctx);
    s->plain = train_prompts_add(ctx, prompts, o->instance_prompt);
    for (int64_t i = 0; i < s->set.n && ag_status_of(ctx) == AG_OK; i++) {
        char *text = train_aged_prompt(ctx, o->instance_prompt, (int64_t)s->set.items[i].age);
        if (text)
            s->aged[i] = train_prompts_add(ctx, prompts, text);
        ag_delete(text);
    }
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

static ag_tensor *loss(ag_ctx *ctx, void *user, const train_moment *moment, int64_t micro, ag_tensor **rows)
{
    specialize *s = user;
    train_ground *g = &s->ground;
    const train_slice slice = train_slice_of(&g->calendar, moment, micro);
    const int64_t B = slice.n;
    int64_t prompts[TRAIN_MAX_ROWS];
    ag_tensor *moments = NULL;
    train_rows batch = {.n = ROWS_PER_PICTURE * B};
    train_drawn d;

    for (int64_t b = 0; b < B && ag_status_of(ctx) == AG_OK; b++) {
        const int64_t item = train_sample_at(g, moment->epoch, slice.first + b);
        ag_tensor *one = train_latents_moments(ctx, g->latents[0], item, moment->epoch);
        moments = moments ? ag_concat(ctx, moments, one, 0) : one;
        prompts[b] = g->options->finetune_mode == TRAIN_DOUBLE_PROMPT ? s->plain : s->aged[item];
        prompts[B + b] = s->aged[item];
    }
    if (train_ground_draw(&d, ctx, g, moment, micro) != AG_OK)
        return NULL;
    batch.latents = train_latents_sample(ctx, twice(ctx, moments), d.posterior, g->scale);
    batch.noise = twice(ctx, d.noise);
    batch.timesteps = d.timesteps;
    train_ground_contexts(&batch, ctx, g, prompts);
    return train_objective_loss(ctx, &g->objective, &g->diffusion, &batch, rows);
}

static void row_name(void *user, const train_moment *moment, int64_t micro, int64_t row, char *text, size_t size)
{
    specialize *s = user;
    train_ground *g = &s->ground;
    const train_slice slice = train_slice_of(&g->calendar, moment, micro);
    const int64_t item = train_sample_at(g, moment->epoch, slice.first + row % slice.n);
    const bool plain = row < slice.n && g->options->finetune_mode == TRAIN_DOUBLE_PROMPT;

    snprintf(text, size, "%s with \"%s\"", s->set.items[item].name,
             train_prompts_text(g->prompts, plain ? s->plain : s->aged[item]));
}

/* --- setting up ------------------------------------------------------------------------------------ */

static ag_status check_options(ag_ctx *ctx, const train_options *o)
{
    if (o->finetune_mode == TRAIN_DOUBLE_PROMPT && !strstr(o->instance_prompt, ARTICLE))
        return ag_fail(ctx, AG_EINVAL,
                       "--instance_prompt \"%s\": wanted the word \" a \" in it, where the age goes (the two prompts of "
                       "finetune_double_prompt would be equal)",
                       o->instance_prompt);
    if (o->torch_rng && (o->noise_offset > 0.0 || o->same_timestep))
        return ag_fail(ctx, AG_EINVAL, "--torch_rng repeats the published program's draws, which has no --%s",
                       o->same_timestep ? "same_timestep" : "noise_offset");
    if (!strstr(o->instance_prompt, ARTICLE))
        train_note(NULL, "--instance_prompt \"%s\": without the word \" a \" no prompt says an age", o->instance_prompt);
    return AG_OK;
}

/* The labels; of a folder, the ages that its file names begin with. */
static ag_status open_ages(ag_ctx *ctx, specialize *s)
{
    const char *path = s->ground.options->instance_age_path;

    return data_is_folder(path) ? data_ages_from_names(&s->ages, ctx, path) : data_ages_open(&s->ages, ctx, path);
}

/* What was left out, which is no error. */
static void tell_data(const specialize *s)
{
    if (s->ages.n_bad)
        train_note(NULL, "%s: %lld rows are left out, the first at %s", s->ground.options->instance_age_path,
                   (long long)s->ages.n_bad, s->ages.first_bad);
    if (s->ages.n_duplicates)
        train_note(NULL, "%s: %lld rows stand in place of earlier ones of the same picture",
                   s->ground.options->instance_age_path, (long long)s->ages.n_duplicates);
    if (s->set.n_no_file)
        train_note(NULL, "%s: %lld labels are of pictures that are not in %s", s->ground.options->instance_age_path,
                   (long long)s->set.n_no_file, s->ground.options->instance_data_dir);
}

static bool has_data(const train_ground *g)
{
    return !g->foresight || (g->options->instance_data_dir && data_is_folder(g->options->instance_data_dir));
}

static ag_status open_data(ag_ctx *ctx, train_ground *g)
{
    specialize *s = (specialize *)g;
    const train_options *o = g->options;

    if (!has_data(g))
        train_assume_set(ctx, g, &s->set, g->foresight->n_pictures);
    else if (open_ages(ctx, s) == AG_OK)
        data_set_open(&s->set, ctx, o->instance_data_dir, &s->ages, DATA_CHECK_HEADERS);
    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    tell_data(s);
    g->sets[0] = &s->set;
    g->n_sets = 1;
    g->n_samples = s->set.n;
    return make_prompts(ctx, s);
}

static void close_data(train_ground *g)
{
    specialize *s = (specialize *)g;

    data_set_close(&s->set);
    data_ages_close(&s->ages);
    ag_delete(s->aged);
}

static const train_recipe RECIPE = {.name = "specialize",
                                    .size = sizeof(specialize),
                                    .rows_per_sample = ROWS_PER_PICTURE,
                                    .has_instances = true,
                                    .check = check_options,
                                    .open = open_data,
                                    .close = close_data,
                                    .counts = counts,
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
