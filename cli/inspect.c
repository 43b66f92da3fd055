/* inspect.c - agewright inspect: what a file or folder holds. */
#include "cli/inspect.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cli/command.h"
#include "cli/lora.h"
#include "data/dataset.h"
#include "data/file.h"
#include "data/hub.h"
#include "data/json.h"
#include "train/checkpoint_manifest.h"

typedef struct options {
    const char *ages, *revision;
    bool json;
} options;

#define AT(field) offsetof(options, field)

static const cli_flag FLAGS[] = {
    {.name = "ages", .kind = CLI_TEXT, .offset = AT(ages), .value = "FILE",
     .help = "ages for a folder of pictures: .npy or FFHQ-Aging's .csv; without, their names are "
             "tried"},
    {.name = "revision", .kind = CLI_TEXT, .offset = AT(revision), .value = "REV",
     .help = "of a hub id"},
    {.name = "json", .kind = CLI_SWITCH, .offset = AT(json), .help = "print JSON"},
    {0},
};

static const cli_group GROUPS[] = {{"flags", FLAGS, 0}, {0}};

static const cli_syntax SYNTAX = {
    .command = "inspect",
    .usage = "PATH",
    .summary = "Say what a weight file, a model's folder, a checkpoint's folder, a folder of "
               "pictures or a file of ages holds, and whether it is whole.",
    .groups = GROUPS,
    .n_positional_max = 1,
};

void inspect_set(json_t *object, const char *key, json_t *value)
{
    (void)json_object_set_new(object, key, value);
}

/* --- as text ---------------------------------------------------------------------------------- */

enum { KEY_WIDTH = 26, BAR_WIDTH = 50 };

static void print_bytes(json_int_t n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)n;
    int unit = 0;

    for (; value >= 1024.0 && unit < 4; unit++)
        value /= 1024.0;
    printf("%lld", (long long)n);
    if (unit > 0)
        printf(" (%.1f %s)", value, units[unit]);
}

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);

    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A text of others' making: one line, no control characters; at least so wide. */
static void print_text(const char *text, int width)
{
    for (; *text; text++, width--)
        putchar((unsigned char)*text < ' ' || *text == 0x7f ? ' ' : *text);
    printf("%*s", width > 0 ? width : 0, "");
}

static void print_scalar(const char *key, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        print_text(json_string_value(value), 0);
        break;
    case JSON_INTEGER:
        if (ends_with(key, "bytes"))
            print_bytes(json_integer_value(value));
        else
            printf("%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        printf("%g", json_real_value(value));
        break;
    case JSON_TRUE:
        printf("yes");
        break;
    case JSON_FALSE:
        printf("no");
        break;
    default:
        printf("-");
    }
}

static void print_shape(const json_t *shape)
{
    for (size_t d = 0; d < json_array_size(shape); d++)
        printf("%s%lld", d ? "," : "[", (long long)json_integer_value(json_array_get(shape, d)));
    printf("%s", json_array_size(shape) ? "]" : "[]");
}

static void print_tensors(const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *t = json_array_get(list, i);

        printf("%-5s ", json_string_value(json_object_get(t, "dtype")));
        print_scalar("", json_object_get(t, "name"));
        printf(" ");
        print_shape(json_object_get(t, "shape"));
        printf("\n");
    }
}

static void print_bars(const json_t *groups)
{
    const char *key;
    json_t *value;
    json_int_t most = 1;

    json_object_foreach((json_t *)groups, key, value)
        most = json_integer_value(value) > most ? json_integer_value(value) : most;
    json_object_foreach((json_t *)groups, key, value)
    {
        const json_int_t n = json_integer_value(value);

        printf("  %6s %7lld ", key, (long long)n);
        for (json_int_t i = 0; i * most < n * BAR_WIDTH; i++)
            putchar('#');
        printf("\n");
    }
}

/* "key   value" lines; objects indented below their key. The long lists come last. */
static void print_object(const json_t *object, int indent)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)object, key, value)
    {
        if (strcmp(key, "tensors") == 0 || strncmp(key, "agewright.", 10) == 0)
            continue; /* last; or said already, as a configuration */
        printf("%*s", indent, "");
        print_text(key, KEY_WIDTH - indent);
        putchar(' ');
        if (strcmp(key, "age_groups") == 0) {
            printf("\n");
            print_bars(value);
        } else if (json_is_object(value)) {
            printf("\n");
            print_object(value, indent + 2);
        } else if (json_is_array(value)) {
            for (size_t i = 0; i < json_array_size(value); i++) {
                const json_t *item = json_array_get(value, i);

                if (i > 0)
                    printf(", ");
                if (json_is_object(item))
                    print_scalar("", json_object_get(item, "name"));
                else
                    print_scalar("", item);
            }
            printf("\n");
        } else {
            print_scalar(key, value);
            printf("\n");
        }
    }
    if (json_object_get(object, "tensors"))
        print_tensors(json_object_get(object, "tensors"));
}

ag_status inspect_print(ag_ctx *ctx, const json_t *root, bool as_json)
{
    char *text = as_json ? data_json_dump(ctx, root, 2) : NULL;

    if (text)
        puts(text);
    else if (!as_json)
        print_object(root, 0);
    ag_delete(text);
    return ag_status_of(ctx);
}

/* --- what lies there -------------------------------------------------------------------------- */

static bool is_there(ag_ctx *ctx, const char *folder, const char *name)
{
    char *path = ag_printf(ctx, "%s/%s", folder, name);
    const bool yes = path && (data_is_file(path) || data_is_folder(path));

    ag_delete(path);
    return yes;
}

static bool looks_like_a_model(ag_ctx *ctx, const char *path)
{
    static const char *const names[] = {"model_index.json", "config.json", "unet", "vae",
                                        "text_encoder"};
    bool yes = false;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        yes = yes || is_there(ctx, path, names[i]);
    return yes;
}

/* The first bytes of a file say NumPy's magic. */
static bool is_npy(ag_ctx *ctx, const char *path)
{
    data_file file = {.fd = -1};
    char magic[6] = "";

    if (data_file_open(&file, ctx, path) == AG_OK && file.size >= sizeof magic)
        (void)data_file_pread(&file, 0, sizeof magic, magic);
    data_file_close(&file);
    return memcmp(magic, "\x93NUMPY", sizeof magic) == 0;
}

static ag_status look_into(ag_ctx *ctx, json_t *root, const options *o, const char *path)
{
    const char *dot = strrchr(path, '.');

    if (data_is_folder(path)) {
        if (is_there(ctx, path, TRAIN_MANIFEST_NAME))
            return inspect_checkpoint(ctx, root, path);
        if (looks_like_a_model(ctx, path))
            return inspect_model_folder(ctx, root, path);
        if (data_lora_is_folder(path))
            return lora_describe(ctx, root, path, NULL, false);
        return inspect_pictures(ctx, root, path, o->ages);
    }
    if ((dot && strcasecmp(dot, ".csv") == 0) || is_npy(ctx, path))
        return inspect_labels(ctx, root, path);
    if (ag_status_of(ctx) == AG_OK && data_is_image_name(path))
        return inspect_picture(ctx, root, path);
    return ag_status_of(ctx) == AG_OK ? inspect_weight_file(ctx, root, path) : ag_status_of(ctx);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    char *path = NULL;
    json_t *root = json_object();

    if (parsed->positional.n != 1)
        ag_fail(ctx, AG_EINVAL, "inspect what? wanted a path");
    else if (data_resolve_model(&path, ctx, parsed->positional.items[0], o->revision) == AG_OK) {
        inspect_set(root, "path", json_string(path));
        if (look_into(ctx, root, o, path) == AG_OK)
            inspect_print(ctx, root, o->json);
    }
    ag_delete(path);
    json_decref(root);
    return ag_status_of(ctx);
}

int cli_inspect(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), CLI_NO_DEVICE, argc, argv, body);
}
