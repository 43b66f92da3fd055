/* judge.c - agewright judge: who is in a drawn face, and how old, by a small network's estimate. */
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "data/dataset.h"
#include "data/file.h"
#include "data/resample.h"
#include "train/judge.h"

static const char *const GENDERS[] = {"female", "male", "any", NULL}; /* in the order of data_face_gender */

/* --- train ------------------------------------------------------------------------------------ */

typedef struct train_flags {
    const char *output;
    train_judge_options train;
    cli_device device;
} train_flags;

#define AT(field) offsetof(train_flags, field)

static const cli_flag TRAIN_FLAGS[] = {
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "FILE.safetensors", .required = true,
     .help = "where the network goes"},
    {.name = "model", .kind = CLI_TEXT, .offset = AT(train.model), .value = "MODEL",
     .help = "the model whose pictures it is to judge: it is measured, too, on faces that went through its VAE, and "
             "judges by the traits that it still sees then"},
    {.name = "seed", .kind = CLI_INT, .offset = AT(train.seed), .value = "N", .fallback = "0", .low = 0, .high = 9e18,
     .help = "of the people that it learns from and is measured on, and of first values"},
    {.name = "steps", .kind = CLI_INT, .offset = AT(train.steps), .value = "N", .fallback = "1500", .low = 1,
     .high = 1e6, .help = "updates"},
    {.name = "batch", .kind = CLI_INT, .offset = AT(train.batch), .value = "N", .fallback = "32", .low = 1,
     .high = 1024, .help = "faces of an update, each drawn for it"},
    {.name = "learning_rate", .kind = CLI_REAL, .offset = AT(train.learning_rate), .value = "LR", .fallback = "2e-3",
     .low = 0, .high = 1, .help = "at its highest; it falls along a cosine"},
    {.name = "held_out", .kind = CLI_INT, .offset = AT(train.held_out), .value = "N", .fallback = "1000", .low = 2,
     .high = 1e6, .help = "people to measure it on, none of them met in training"},
    {0},
};

static const cli_group TRAIN_GROUPS[] = {
    {"flags", TRAIN_FLAGS, 0}, {"the machine", cli_device_flags, AT(device)}, {0}};

static const cli_syntax TRAIN_SYNTAX = {
    .command = "judge train",
    .usage = "--output FILE.safetensors [flags]",
    .summary = "Train a small network to read from a drawn face of 64 pixels who it is (the painter's traits that "
               "stay the same over a life) and the age, and say how well it does on people it never saw.",
    .groups = TRAIN_GROUPS,
};

static void print_report(const train_judge *judge, const train_judge_report *drawn, const train_judge_report *through)
{
    printf("on people it never saw%s\n", through ? ": drawn faces, and after the model's VAE" : "");
    for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++) {
        printf("  R^2 %-14s %5.2f", train_judge_name(i), drawn->r2[i]);
        if (through)
            printf(" %5.2f", through->r2[i]);
        printf("%s\n", i == TRAIN_JUDGE_AGE || train_judge_counts(judge, i) ? "" : "  not judged");
    }
    printf("  mean error of the age   %5.2f", drawn->age_error);
    printf(through ? " %5.2f years\n" : " years\n", through ? through->age_error : 0.0);
    printf("  distance to the person  %5.2f", drawn->same);
    printf(through ? " %5.2f\n" : "\n", through ? through->same : 0.0);
    printf("  distance to another one %5.2f", drawn->other);
    printf(through ? " %5.2f\n" : "\n", through ? through->other : 0.0);
}

static ag_status train_body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const train_flags *o = memory;
    train_judge_report drawn, through;
    train_judge *judge = NULL;

    (void)parsed;
    if (cli_check_output(ctx, o->output) == AG_OK &&
        train_judge_train(&judge, &drawn, &through, ctx, &o->train) == AG_OK &&
        train_judge_save(ctx, judge, o->output) == AG_OK)
        print_report(judge, &drawn, o->train.model ? &through : NULL);
    train_judge_free(judge);
    return ag_status_of(ctx);
}

/* --- score ------------------------------------------------------------------------------------ */

typedef struct score_flags {
    const char *judge;
    cli_texts images, reference;
    int64_t identity;
    int gender;
    bool traits;
    cli_device device;
} score_flags;

#undef AT
#define AT(field) offsetof(score_flags, field)

static const cli_flag SCORE_FLAGS[] = {
    {.name = "judge", .kind = CLI_TEXT, .offset = AT(judge), .value = "FILE.safetensors", .required = true,
     .help = "what judge train wrote"},
    {.name = "images", .kind = CLI_TEXTS, .offset = AT(images), .value = "PATH", .required = true,
     .help = "pictures, or folders of them, to estimate"},
    {.name = "identity", .kind = CLI_INT, .offset = AT(identity), .value = "SEED", .fallback = "0", .low = 0,
     .high = 9e18, .help = "the distance to this person of the painter's, as in faces --identity"},
    {.name = "gender", .kind = CLI_CHOICE, .offset = AT(gender), .choices = GENDERS, .fallback = "any",
     .help = "of --identity; any: the seed's"},
    {.name = "reference", .kind = CLI_TEXTS, .offset = AT(reference), .value = "PATH",
     .help = "the distance to the person in these pictures or folders, by the mean of their estimates"},
    {.name = "traits", .kind = CLI_SWITCH, .offset = AT(traits), .help = "print every estimated trait"},
    {0},
};

static const cli_group SCORE_GROUPS[] = {
    {"flags", SCORE_FLAGS, 0}, {"the machine", cli_device_flags, AT(device)}, {0}};

static const cli_syntax SCORE_SYNTAX = {
    .command = "judge score",
    .usage = "--judge FILE.safetensors --images PATH ... [--identity SEED | --reference PATH ...]",
    .summary = "Print, for each picture, the distance between the face in it and a person, in deviations of the "
               "population, and the age it looks; then the means. Without a person, the age alone.",
    .groups = SCORE_GROUPS,
};

/* Paths of pictures, from files and folders in the order given. */
typedef struct paths {
    char **items;
    int64_t n;
} paths;

static void free_paths(paths *list)
{
    for (int64_t i = 0; i < list->n; i++)
        ag_delete(list->items[i]);
    ag_delete(list->items);
}

static ag_status add_path(ag_ctx *ctx, paths *list, const char *path)
{
    char **grown = ag_grow(ctx, list->items, (size_t)list->n + 1, sizeof *grown, "list of pictures");

    if (!grown)
        return ag_status_of(ctx);
    list->items = grown;
    list->items[list->n] = ag_strdup(ctx, path);
    list->n += list->items[list->n] != NULL;
    return ag_status_of(ctx);
}

static ag_status add_folder(ag_ctx *ctx, paths *list, const char *path)
{
    data_set set = {0};

    if (data_set_open(&set, ctx, path, NULL, DATA_CHECK_NAMES) == AG_OK)
        for (int64_t i = 0; i < set.n && ag_status_of(ctx) == AG_OK; i++)
            add_path(ctx, list, set.items[i].path);
    data_set_close(&set);
    return ag_status_of(ctx);
}

/* Estimates of the pictures in `texts`; *out is for ag_delete, list for free_paths. */
static ag_status look(train_judgement **out, paths *list, ag_ctx *ctx, const train_judge *judge, const cli_texts *texts)
{
    const int64_t values = TRAIN_JUDGE_SIDE * TRAIN_JUDGE_SIDE * 3;
    const data_size box = {TRAIN_JUDGE_SIDE, TRAIN_JUDGE_SIDE};
    float *pixels = NULL;

    for (int64_t i = 0; i < texts->n && ag_status_of(ctx) == AG_OK; i++)
        data_is_folder(texts->items[i]) ? add_folder(ctx, list, texts->items[i])
                                        : add_path(ctx, list, texts->items[i]);
    if (ag_status_of(ctx) == AG_OK) {
        pixels = ag_new(ctx, (size_t)(list->n * values), sizeof *pixels, "pictures");
        *out = ag_new(ctx, (size_t)list->n, sizeof **out, "judgements");
    }
    for (int64_t i = 0; i < list->n && ag_status_of(ctx) == AG_OK; i++) {
        data_image image = {0};

        if (data_image_load_training(&image, ctx, list->items[i], box, NULL, false, 0) == AG_OK)
            data_image_to_f32(pixels + i * values, &image);
        data_image_free(&image);
    }
    if (ag_status_of(ctx) == AG_OK)
        train_judge_estimate(*out, ctx, judge, pixels, list->n);
    ag_delete(pixels);
    return ag_status_of(ctx);
}

static train_judgement mean_of(const train_judgement *list, int64_t n)
{
    train_judgement mean = {{0}};

    for (int64_t k = 0; k < n; k++)
        for (int i = 0; i < TRAIN_JUDGE_OUTPUTS; i++)
            mean.values[i] += list[k].values[i] / (float)n;
    return mean;
}

static void print_traits(const train_judgement *j, bool names)
{
    for (int i = 0; i < TRAIN_JUDGE_TRAITS; i++)
        if (names)
            printf("%13s", train_judge_name(i));
        else
            printf("%13.3f", (double)j->values[i]);
}

/* person NULL: ages alone. */
static void print_table(const score_flags *o, const train_judge *judge, const train_judgement *seen, const paths *list,
                        const train_judgement *person)
{
    double distance = 0.0, age = 0.0;

    printf("%s     age", person ? "distance" : "");
    if (o->traits)
        print_traits(NULL, true);
    printf("  picture\n");
    for (int64_t k = 0; k < list->n; k++) {
        const double d = person ? train_judge_distance(judge, &seen[k], person) : 0.0;

        distance += d / (double)list->n;
        age += (double)seen[k].values[TRAIN_JUDGE_AGE] / (double)list->n;
        if (person)
            printf("%8.3f", d);
        printf("%8.1f", (double)seen[k].values[TRAIN_JUDGE_AGE]);
        if (o->traits)
            print_traits(&seen[k], false);
        printf("  %s\n", list->items[k]);
    }
    if (person)
        printf("%8.3f", distance);
    printf("%8.1f", age);
    if (o->traits) {
        const train_judgement mean = mean_of(seen, list->n);
        print_traits(&mean, false);
    }
    printf("  mean of %lld\n", (long long)list->n);
}

static ag_status score_body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const score_flags *o = memory;
    const bool by_seed = cli_given(parsed, "identity");
    train_judgement person, *seen = NULL, *known = NULL;
    paths list = {0}, known_list = {0};
    train_judge *judge = NULL;

    if (by_seed && o->reference.n)
        return ag_fail(ctx, AG_EINVAL, "--identity and --reference: wanted one person");
    if (by_seed) {
        const data_face_params face = data_face_draw((uint64_t)o->identity, 0.0f, (data_face_gender)o->gender, 0);
        person = train_judge_truth(&face);
    }
    if (train_judge_open(&judge, ctx, o->judge) == AG_OK && o->reference.n &&
        look(&known, &known_list, ctx, judge, &o->reference) == AG_OK)
        person = mean_of(known, known_list.n);
    if (ag_status_of(ctx) == AG_OK && look(&seen, &list, ctx, judge, &o->images) == AG_OK)
        print_table(o, judge, seen, &list, by_seed || o->reference.n ? &person : NULL);
    ag_delete(known);
    ag_delete(seen);
    free_paths(&known_list);
    free_paths(&list);
    train_judge_free(judge);
    return ag_status_of(ctx);
}

/* --- which of the two ------------------------------------------------------------------------- */

static int judge_train(int argc, char *const *argv)
{
    return cli_run(&TRAIN_SYNTAX, sizeof(train_flags), offsetof(train_flags, device), argc, argv, train_body);
}

static int judge_score(int argc, char *const *argv)
{
    return cli_run(&SCORE_SYNTAX, sizeof(score_flags), offsetof(score_flags, device), argc, argv, score_body);
}

static const cli_command COMMANDS[] = {
    {"train", "train the network that tells, and say how well it does", judge_train},
    {"score", "print distance and age of pictures", judge_score},
    {0},
};

static const cli_menu MENU = {
    .program = "agewright judge",
    .what = "command",
    .usage = "train|score [flags]",
    .summary = "Measures drawn faces, or pictures that a model made after them: who is it, and how old?",
    .notes = "agewright judge train --help and judge score --help list the flags.",
    .commands = COMMANDS,
};

int cli_judge(int argc, char *const *argv)
{
    return cli_choose(&MENU, argc, argv);
}
