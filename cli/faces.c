/* faces.c - agewright faces: draw a data set of faces whose ages are known. */
#include <stdio.h>
#include <unistd.h>

#include "cli/command.h"
#include "data/faces.h"

typedef struct options {
    const char *output;
    int64_t count, seed, resolution, people, identity;
    cli_ints ages;
    double age_min, age_max;
    int layout;
} options;

#define AT(field) offsetof(options, field)

static const char *const LAYOUTS[] = {"ffhq-aging", "flat", NULL}; /* in the order of data_faces_layout */

static const cli_flag FLAGS[] = {
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "DIR", .required = true,
     .help = "the folder to write; it must not hold such a set yet"},
    {.name = "count", .kind = CLI_INT, .offset = AT(count), .value = "N", .fallback = "0", .low = 0, .high = 70000,
     .help = "pictures; 0: one for each of --ages, or 150"},
    {.name = "seed", .kind = CLI_INT, .offset = AT(seed), .value = "N", .fallback = "0", .low = 0, .high = 9e18,
     .help = "of the people and their poses"},
    {.name = "resolution", .kind = CLI_INT, .offset = AT(resolution), .value = "PX", .fallback = "64", .low = 16,
     .high = 2048, .help = "side of a picture"},
    {.name = "layout", .kind = CLI_CHOICE, .offset = AT(layout), .choices = LAYOUTS, .fallback = "flat",
     .help = "flat: images/00000.png ...; ffhq-aging: 00000/00000.png ... in folders of a thousand"},
    {.name = "people", .kind = CLI_INT, .offset = AT(people), .value = "N", .fallback = "0", .low = 0, .high = 70000,
     .help = "identities that the pictures are shared by; 0: everybody once"},
    {.name = "identity", .kind = CLI_INT, .offset = AT(identity), .value = "SEED", .fallback = "0", .low = 0,
     .high = 9e18, .help = "when given, every picture shows this one person; --seed then chooses poses"},
    {.name = "ages", .kind = CLI_INTS, .offset = AT(ages), .value = "YEARS",
     .help = "the ages of the pictures, in turn; without: spread over FFHQ-Aging's ten groups"},
    {.name = "age_min", .kind = CLI_REAL, .offset = AT(age_min), .value = "YEARS", .fallback = "0", .low = 0,
     .high = 90, .help = "youngest"},
    {.name = "age_max", .kind = CLI_REAL, .offset = AT(age_max), .value = "YEARS", .fallback = "0", .low = 0,
     .high = 90, .help = "oldest; 0: no limit"},
    {0},
};

static const cli_group GROUPS[] = {{"flags", FLAGS, 0}, {0}};

static const cli_syntax SYNTAX = {
    .command = "faces",
    .usage = "--output DIR [--count N] [--seed S] [--identity SEED] [--ages YEARS ...]",
    .summary = "Draw faces whose age, person and gender are known, and write them as FFHQ-Aging is written: PNG files, "
               "training_ages.npy and ffhq_aging_labels.csv. No download, no photograph.",
    .groups = GROUPS,
};

static void show(void *arg, int64_t done, int64_t count)
{
    (void)arg;
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%lld/%lld faces%s", (long long)done, (long long)count, done == count ? "\n" : "");
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    const int64_t count = o->count > 0 ? o->count : o->ages.n > 0 ? o->ages.n : data_faces_defaults().count;
    const data_faces_options set = {.count = count, .seed = (uint64_t)o->seed, .resolution = (int)o->resolution,
                                    .layout = (data_faces_layout)o->layout, .people = o->people,
                                    .age_min = (float)o->age_min,
                                    .age_max = o->age_max > 0.0 ? (float)o->age_max : DATA_FACE_AGE_MAX,
                                    .one_person = cli_given(parsed, "identity"), .identity = (uint64_t)o->identity,
                                    .n_ages = o->ages.n, .ages = o->ages.items};

    if (o->ages.n > 0 && (cli_given(parsed, "age_min") || cli_given(parsed, "age_max")))
        return ag_fail(ctx, AG_EINVAL, "--ages and --age_min or --age_max: wanted one of the two");
    return data_faces_write(ctx, o->output, &set, show, NULL);
}

int cli_faces(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), CLI_NO_DEVICE, argc, argv, body);
}
