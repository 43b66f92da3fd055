/* probe_data.c - agewright probe tokenizer|image|ages|weights. */
#include <stdio.h>
#include <string.h>

#include "cli/probe.h"
#include "data/ages.h"
#include "data/file.h"
#include "data/resample.h"
#include "data/safetensors.h"
#include "data/tokenizer.h"

typedef struct options {
    probe_common common;
    const char *prompts, *image, *ages, *image_dir;
    int64_t resolution;
    int interpolation;
    bool ignore_exif;
} options;

#define AT(field) offsetof(options, field)

/* --- tokenizer -------------------------------------------------------------------------------- */

static const cli_flag TOKENIZER[] = {
    {.name = "prompts", .kind = CLI_TEXT, .offset = AT(prompts), .value = "FILE", .required = true,
     .help = "UTF-8, one prompt a line"},
    {0},
};

static ag_status tokenizer(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    enum { MAX_BYTES = 256 << 20 };
    const options *o = memory;
    probe_out out = {0};
    data_tokenizer *tok = NULL;
    char *text = NULL;
    size_t size = 0;
    int64_t *ids = NULL, *mask = NULL, lines = 0, row = 0;

    (void)parsed;
    if (!o->common.model)
        return ag_fail(ctx, AG_EINVAL, "--model is required");
    if (data_tokenizer_open(&tok, ctx, o->common.model) == AG_OK &&
        data_file_read(&text, &size, ctx, o->prompts, MAX_BYTES) == AG_OK) {
        const int T = data_tokenizer_max_length(tok);
        for (size_t i = 0; i < size; i++)
            lines += text[i] == '\n';
        lines += size > 0 && text[size - 1] != '\n'; /* a final line break adds no prompt */
        ids = ag_new(ctx, (size_t)(lines * T), sizeof *ids, "token ids");
        mask = ag_new(ctx, (size_t)(lines * T), sizeof *mask, "attention mask");
        for (size_t at = 0; ids && mask && row < lines && ag_status_of(ctx) == AG_OK; row++) {
            const char *end = memchr(text + at, '\n', size - at);
            const size_t n = end ? (size_t)(end - (text + at)) : size - at;
            const size_t cr = end && n > 0 && text[at + n - 1] == '\r'; /* a line break of two characters */
            data_tokenizer_encode_bytes(tok, ctx, text + at, n - cr, ids + row * T, mask + row * T, T);
            at += n + 1;
        }
        if (ag_status_of(ctx) == AG_OK) {
            probe_out_add(&out, ctx, "input_ids", DATA_I64, 2, (int64_t[]){lines, T}, ids);
            probe_out_add(&out, ctx, "attention_mask", DATA_I64, 2, (int64_t[]){lines, T}, mask);
        }
        if (ag_status_of(ctx) == AG_OK)
            probe_out_write(&out, ctx, o->common.out);
    }
    probe_out_free(&out);
    data_tokenizer_close(tok);
    ag_delete(text);
    ag_delete(ids);
    ag_delete(mask);
    return ag_status_of(ctx);
}

/* --- image ------------------------------------------------------------------------------------- */

static const char *const INTERPOLATIONS[] = {"bilinear", "bicubic", NULL};

static const cli_flag IMAGE[] = {
    {.name = "image", .kind = CLI_TEXT, .offset = AT(image), .value = "FILE", .required = true, .help = "the picture"},
    {.name = "resolution", .kind = CLI_INT, .offset = AT(resolution), .value = "R", .fallback = "512", .low = 1,
     .high = 8192, .help = "side of the square"},
    {.name = "interpolation", .kind = CLI_CHOICE, .offset = AT(interpolation), .choices = INTERPOLATIONS,
     .fallback = "bilinear", .help = "bilinear as training does, bicubic as editing does"},
    {.name = "ignore_exif", .kind = CLI_SWITCH, .offset = AT(ignore_exif), .help = "leave the picture as stored"},
    {0},
};

static ag_status image(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    const int64_t R = o->resolution;
    const unsigned flags = o->ignore_exif ? DATA_IGNORE_EXIF : 0;
    const ag_scope scope = ag_scope_open(ctx);
    probe_out out = {0};
    data_image img = {0};
    float *pixels;

    (void)parsed;
    if (o->interpolation == 0)
        data_image_load_training(&img, ctx, o->image, (data_size){R, R}, NULL, false, flags);
    else
        data_image_load_editing(&img, ctx, o->image, R, flags);
    if (ag_status_of(ctx) != AG_OK)
        return ag_status_of(ctx);
    pixels = ag_new(ctx, (size_t)(R * R * 3), sizeof *pixels, "pixels");
    if (pixels) {
        data_image_to_f32(pixels, &img);
        if (probe_out_tensor(&out, ctx, "pixels", ag_from_f32(ctx, pixels, 4, (int64_t[]){1, R, R, 3})) == AG_OK)
            probe_out_write(&out, ctx, o->common.out);
    }
    ag_delete(pixels);
    data_image_free(&img);
    probe_out_free(&out);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

/* --- ages -------------------------------------------------------------------------------------- */

static const cli_flag AGES[] = {
    {.name = "ages", .kind = CLI_TEXT, .offset = AT(ages), .value = "FILE", .help = "a .npy or FFHQ-Aging's .csv"},
    {.name = "image_dir", .kind = CLI_TEXT, .offset = AT(image_dir), .value = "DIR", .help = "ages from file names"},
    {0},
};

static ag_status ages(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    probe_out out = {0};
    data_ages table = {0};

    (void)parsed;
    if (!o->ages == !o->image_dir)
        return ag_fail(ctx, AG_EINVAL, "one of --ages and --image_dir is required");
    if (o->ages)
        data_ages_open(&table, ctx, o->ages);
    else
        data_ages_from_names(&table, ctx, o->image_dir);
    if (ag_status_of(ctx) == AG_OK &&
        data_ages_check(&table, ctx, o->ages ? o->ages : o->image_dir) == AG_OK &&
        probe_out_add(&out, ctx, "age", DATA_F32, 1, &table.n, table.ages) == AG_OK &&
        probe_out_write(&out, ctx, o->common.out) == AG_OK)
        for (int64_t i = 0; i < table.n; i++)
            printf("%s\n", table.names[i]);
    data_ages_close(&table);
    probe_out_free(&out);
    return ag_status_of(ctx);
}

/* --- weights ------------------------------------------------------------------------------------- */

static const cli_flag WEIGHTS[] = {{0}};

typedef struct stored {
    data_weights *weights;
    int64_t i;
} stored;

static ag_status give(ag_ctx *ctx, void *user, size_t offset, size_t n_bytes, void *to)
{
    const stored *s = user;
    const int error = data_weights_pread(s->weights, s->i, offset, n_bytes, to);

    if (error)
        return ag_fail(ctx, AG_EIO, "%s: %s: %s", data_weights_file_of(s->weights, s->i),
                       data_weights_at(s->weights, s->i)->name, strerror(error));
    return AG_OK;
}

static ag_status weights(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    data_weights *file = NULL;
    data_source *sources = NULL;
    stored *users = NULL;
    int64_t n = 0;

    (void)parsed;
    if (!o->common.model)
        return ag_fail(ctx, AG_EINVAL, "--model is required");
    if (data_weights_open(&file, ctx, o->common.model) == AG_OK && data_weights_check(ctx, file) == AG_OK) {
        n = data_weights_count(file);
        sources = ag_new(ctx, (size_t)n, sizeof *sources, "tensors");
        users = ag_new(ctx, (size_t)n, sizeof *users, "tensors");
        for (int64_t i = 0; sources && users && i < n; i++) {
            const data_tensor *t = data_weights_at(file, i);
            users[i] = (stored){file, i};
            sources[i] = (data_source){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims, .dims = t->dims,
                                       .give = give, .user = &users[i]};
        }
        if (ag_status_of(ctx) == AG_OK)
            data_safetensors_write(ctx, o->common.out, sources, n, NULL, 0);
    }
    data_weights_close(file);
    ag_delete(sources);
    ag_delete(users);
    return ag_status_of(ctx);
}

/* --- which ---------------------------------------------------------------------------------------- */

int probe_data(int argc, char *const *argv)
{
    static const cli_group TOKENIZER_GROUPS[] = {{"files", probe_file_flags, 0}, {"text", TOKENIZER, 0}, {0}};
    static const cli_group IMAGE_GROUPS[] = {{"files", probe_file_flags, 0}, {"the picture", IMAGE, 0}, {0}};
    static const cli_group AGES_GROUPS[] = {{"files", probe_file_flags, 0}, {"the labels", AGES, 0}, {0}};
    static const cli_group WEIGHTS_GROUPS[] = {{"files", probe_file_flags, 0}, {"", WEIGHTS, 0}, {0}};
    static const struct {
        cli_syntax syntax;
        cli_body body;
    } PARTS[] = {
        {{.command = "probe tokenizer", .usage = "--model DIR --prompts FILE --out OUT",
          .summary = "input_ids and attention_mask [N,77] of the prompts in a file", .groups = TOKENIZER_GROUPS},
         tokenizer},
        {{.command = "probe image", .usage = "--image FILE --resolution R --interpolation bilinear|bicubic --out OUT",
          .summary = "pixels [1,3,R,R] in -1..1, exactly what training or editing feeds the VAE", .groups = IMAGE_GROUPS},
         image},
        {{.command = "probe ages", .usage = "--ages FILE | --image_dir DIR --out OUT",
          .summary = "age [N]; the names on standard output, in the same order", .groups = AGES_GROUPS},
         ages},
        {{.command = "probe weights", .usage = "--model FILE --out OUT",
          .summary = "every tensor of a weight file, unchanged in name, shape, dtype and bits", .groups = WEIGHTS_GROUPS},
         weights},
    };

    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        if (strcmp(PARTS[i].syntax.command + strlen("probe "), argv[0]) == 0)
            return cli_run(&PARTS[i].syntax, sizeof(options), CLI_NO_DEVICE, argc, argv, PARTS[i].body);
    return CLI_EXIT_USAGE;
}
