/* sheet.c - agewright sheet: pictures side by side in one. */
#include <string.h>

#include "cli/command.h"
#include "edit/sheet.h"

typedef struct options {
    cli_texts images;
    const char *output;
    int64_t columns, gap, zoom;
} options;

#define AT(field) offsetof(options, field)

static const cli_flag FLAGS[] = {
    {.name = "images", .kind = CLI_TEXTS, .offset = AT(images), .value = "FILE", .required = true,
     .help = "pictures of one size, row by row; the word none leaves a place empty"},
    {.name = "output", .kind = CLI_TEXT, .offset = AT(output), .value = "FILE.png", .required = true,
     .help = "where the sheet goes"},
    {.name = "columns", .kind = CLI_INT, .offset = AT(columns), .value = "N", .fallback = "0", .low = 0, .high = 1000,
     .help = "of the grid; 0: about as many as rows"},
    {.name = "gap", .kind = CLI_INT, .offset = AT(gap), .value = "PX", .fallback = "2", .low = 0, .high = 100,
     .help = "white between the pictures"},
    {.name = "zoom", .kind = CLI_INT, .offset = AT(zoom), .value = "N", .fallback = "1", .low = 1, .high = 16,
     .help = "enlarge the pictures"},
    {0},
};

static const cli_group GROUPS[] = {{"flags", FLAGS, 0}, {0}};

static const cli_syntax SYNTAX = {
    .command = "sheet",
    .usage = "--images FILE [FILE ...] --output FILE.png",
    .summary = "Put pictures into a grid, row by row, in one PNG.",
    .groups = GROUPS,
};

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    data_image *images, sheet = {0};

    (void)parsed;
    if (cli_check_output(ctx, o->output) != AG_OK)
        return ag_status_of(ctx);
    images = ag_new(ctx, (size_t)o->images.n, sizeof *images, "pictures");
    for (int64_t i = 0; i < o->images.n && ag_status_of(ctx) == AG_OK; i++)
        if (strcmp(o->images.items[i], "none") != 0)
            data_image_read(&images[i], ctx, o->images.items[i], 0);
    if (ag_status_of(ctx) == AG_OK && edit_sheet(&sheet, ctx, images, o->images.n, o->columns, o->gap, o->zoom) == AG_OK)
        data_image_write_png(ctx, &sheet, o->output);
    for (int64_t i = 0; images && i < o->images.n; i++)
        data_image_free(&images[i]);
    data_image_free(&sheet);
    ag_delete(images);
    return ag_status_of(ctx);
}

int cli_sheet(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), CLI_NO_DEVICE, argc, argv, body);
}
