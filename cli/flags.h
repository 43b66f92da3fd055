/* flags.h - command lines from tables.
 *
 * A command describes its flags once: name, kind, default, help, and the field of an options struct
 * that takes the value. From that come parsing, --help, --config FILE (YAML with the flags' names as
 * keys; flags on the command line win), the check of unknown names (the nearest one is named) and
 * the effective configuration as JSON.
 *
 * `--name value`, `--name=value`, and a bare `--name` for switches (`--name=false` switches off).
 * Hyphens in names count as underscores. A flag that takes several values takes all words up to the
 * next flag, and may be repeated.
 */
#ifndef CLI_FLAGS_H
#define CLI_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "autograd/context.h"

typedef enum cli_kind {
    CLI_TEXT,   /* const char *; NULL when not given and without default */
    CLI_INT,    /* int64_t */
    CLI_REAL,   /* double */
    CLI_SWITCH, /* bool */
    CLI_CHOICE, /* int: the index in choices */
    CLI_TEXTS,  /* cli_texts */
    CLI_INTS    /* cli_ints */
} cli_kind;

typedef struct cli_texts {
    int64_t n;
    const char **items;
} cli_texts;

typedef struct cli_ints {
    int64_t n;
    int64_t *items;
} cli_ints;

typedef struct cli_flag {
    const char *name;
    cli_kind kind;
    size_t offset;             /* of the field, in the group's struct */
    const char *fallback;      /* the default as it would be typed; NULL: none */
    const char *unset;         /* CLI_REAL without a default is NAN, and this is what --help says of it */
    const char *value;         /* what --help calls the value: "FILE"; NULL for switches */
    const char *help;          /* one line or a few; no line breaks */
    const char *const *choices; /* CLI_CHOICE: NULL-terminated */
    double low, high;          /* numbers: the bounds, when low < high */
    bool required;
} cli_flag;

/* Flags that belong together, filling one struct; commands share groups. */
typedef struct cli_group {
    const char *title;
    const cli_flag *flags; /* ends with a NULL name */
    size_t offset;         /* of the group's struct in the command's options */
} cli_group;

/* A default that a command has instead of a shared table's, and with it perhaps another help. A flag that gets one
 * is not required. */
typedef struct cli_default {
    const char *name, *fallback;
    const char *help; /* NULL: the table's */
} cli_default;

typedef struct cli_syntax {
    const char *command;     /* "specialize" */
    const char *usage;       /* "--pretrained_model_name_or_path MODEL ..." */
    const char *summary;     /* what it does, a few lines */
    const cli_group *groups; /* ends with a NULL title */
    const cli_default *defaults; /* ends with a NULL name; NULL: the tables' */
    int n_positional_max;
    bool foresees; /* nothing is computed on --device cuda: AG_META stands for it, and it need not be there */
    bool nothing_required; /* take required flags as optional: the groups are another command's */
} cli_syntax;

typedef struct cli_parsed {
    bool help;                /* --help was given: print it and stop */
    cli_texts positional;
    struct cli_profile *profile; /* what watches the command (cli/profile.h); NULL: nothing */
    void *memory;             /* what the values borrow from; ends with cli_parsed_free */
} cli_parsed;

/* Fill `options` (the struct that the groups' offsets refer to) from argv[0..argc), which begins
 * after the command's name. Values borrow from argv and from *parsed. */
ag_status cli_parse(cli_parsed *parsed, void *options, ag_ctx *ctx, const cli_syntax *syntax, int argc,
                    char *const *argv);
void cli_parsed_free(cli_parsed *parsed);

/* Was the flag given, on the command line or in the file? */
bool cli_given(const cli_parsed *parsed, const char *name);

/* Print what --help prints. */
void cli_print_help(const cli_syntax *syntax);

/* Every flag with its effective value; a new object, NULL when memory is refused. */
json_t *cli_effective(const cli_syntax *syntax, const void *options);

/* The name in `names` (NULL-terminated, n of them) nearest to `word`, or NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *names, int64_t n);

#endif /* CLI_FLAGS_H */
