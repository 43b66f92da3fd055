/* faces.c - agewright faces: draw a data set of faces whose ages are known. */
#include <stdio.h>
#include <unistd.h>

#include "cli/command.h"
#include "data/faces.h"

typedef struct options {
    const char *output;
    int64_t count, seed, resolution, people;
    double age_min, age_max;
    int layout;
} options;

#define AT(field) offsetof(options, field)

static const char *const LAYOUTS[] = {"ffhq-aging", "flat", NULL}; /* in the order of data_faces_layout */

static const cli_flag FLAGS[] = {
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "DIR", .required = true,
     .help = "the folder to write; it must not hold such a set yet"},
    {.name = "count", .kind = CLI_INT, .offset = AT(count), .value = "N", .fallback = "150", .low = 1, .high = 70000,
     .help = "pictures"},
    {.name = "seed", .kind = CLI_INT, .offset = AT(seed), .value = "N", .fallback = "0", .low = 0, .high = 9e18,
     .help = "of the people and their poses"},
    {.name = "resolution", .kind = CLI_INT, .offset = AT(resolution), .value = "PX", .fallback = "64", .low = 16,
     .high = 2048, .help = "side of a picture"},
    {.name = "layout", .kind = CLI_CHOICE, .offset = AT(layout), .choices = LAYOUTS, .fallback = "flat",
     .help = "flat: images/00000.png ...; ffhq-aging: 00000/00000.png ... in folders of a thousand"},
    {.name = "people", .kind = CLI_INT, .offset = AT(people), .value = "N", .fallback = "0", .low = 0, .high = 70000,
     .help = "identities that the pictures are shared by; 0: everybody once"},
    {.name = "age_min", .kind = CLI_REAL, .offset = AT(age_min), .value = "YEARS", .fallback = "0", .low = 0,
     .high = 90, .help = "youngest"},
    {.name = "age_max", .kind = CLI_REAL, .offset = AT(age_max), .value = "YEARS", .fallback = "0", .low = 0,
     .high = 90, .help = "oldest; 0: no limit"},
    {0},
};

static const cli_group GROUPS[] = {{"flags", FLAGS, 0}, {0}};

static const cli_syntax SYNTAX = {
    .command = "faces",
    .usage = "--output DIR [--count N] [--seed S] [--resolution PX]",
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
    const data_faces_options set = {.count = o->count, .seed = (uint64_t)o->seed, .resolution = (int)o->resolution,
                                    .layout = (data_faces_layout)o->layout, .people = o->people,
                                    .age_min = (float)o->age_min,
                                    .age_max = o->age_max > 0.0 ? (float)o->age_max : DATA_FACE_AGE_MAX};

    (void)parsed;
    return data_faces_write(ctx, o->output, &set, show, NULL);
}

int cli_faces(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), CLI_NO_DEVICE, argc, argv, body);
}
