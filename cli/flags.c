/* flags.c - see flags.h. */
#include "cli/flags.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/yaml.h"

enum { MAX_FLAGS = 256, MAX_WORD = 64 };

/* What was typed for one flag. */
typedef struct given {
    const cli_flag *flag;
    const char *fallback;
    bool required;
    void *field;
    const char *origin; /* "--name" or "FILE:LINE: name", for messages; NULL: not given */
    cli_texts words;
    bool from_file;
} given;

typedef struct memory {
    given entries[MAX_FLAGS];
    int n;
    data_yaml *config;
    const char *path; /* of the configuration */
    char **owned; /* origins and lists */
    int64_t n_owned;
} memory;

/* --- names ------------------------------------------------------------------------------------- */

static bool same_name(const char *typed, const char *name)
{
    for (; *typed && *name; typed++, name++)
        if (*typed != *name && !(*typed == '-' && *name == '_'))
            return false;
    return *typed == *name;
}

/* Letters to change, drop, add or swap to get from a to b (Damerau-Levenshtein, adjacent swaps). */
static int distance(const char *a, const char *b)
{
    int d[MAX_WORD + 1][MAX_WORD + 1];
    const int n = (int)strnlen(a, MAX_WORD), m = (int)strnlen(b, MAX_WORD);

    for (int i = 0; i <= n; i++)
        d[i][0] = i;
    for (int j = 0; j <= m; j++)
        d[0][j] = j;
    for (int i = 1; i <= n; i++)
        for (int j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best)
                best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best)
                best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

const char *cli_nearest(const char *word, const char *const *names, int64_t n)
{
    const char *best = NULL;
    int best_distance = (int)strnlen(word, MAX_WORD) / 3 + 2;

    for (int64_t i = 0; i < n && names[i]; i++) {
        const int d = distance(word, names[i]);
        if (d < best_distance) {
            best = names[i];
            best_distance = d;
        }
    }
    return best;
}

static given *find(memory *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (same_name(name, m->entries[i].flag->name))
            return &m->entries[i];
    return NULL;
}

static ag_status unknown(ag_ctx *ctx, memory *m, const char *where, const char *name)
{
    const char *names[MAX_FLAGS];
    const char *near;

    for (int i = 0; i < m->n; i++)
        names[i] = m->entries[i].flag->name;
    near = cli_nearest(name, names, m->n);
    if (near)
        return ag_fail(ctx, AG_EINVAL, "%s%s: unknown; did you mean %s?", where, name, near);
    return ag_fail(ctx, AG_EINVAL, "%s%s: unknown; --help lists what there is", where, name);
}

/* The default of a flag in this command, NULL when its table's holds. */
static const cli_default *default_of(const cli_syntax *syntax, const cli_flag *flag)
{
    for (const cli_default *d = syntax->defaults; d && d->name; d++)
        if (strcmp(d->name, flag->name) == 0)
            return d;
    return NULL;
}

/* --- collecting words ---------------------------------------------------------------------------- */

static void *own(ag_ctx *ctx, memory *m, void *pointer)
{
    char **owned;

    if (!pointer)
        return NULL;
    owned = ag_grow(ctx, m->owned, (size_t)m->n_owned + 1, sizeof *owned, "flags");
    if (!owned) {
        ag_delete(pointer);
        return NULL;
    }
    m->owned = owned;
    return m->owned[m->n_owned++] = pointer;
}

static ag_status add_word(ag_ctx *ctx, cli_texts *texts, const char *word)
{
    const char **items = ag_grow(ctx, texts->items, (size_t)texts->n + 1, sizeof *items, "flags");

    if (!items)
        return ag_status_of(ctx);
    texts->items = items;
    texts->items[texts->n++] = word;
    return AG_OK;
}

static bool takes_many(const cli_flag *flag)
{
    return flag->kind == CLI_TEXTS || flag->kind == CLI_INTS;
}

static bool is_flag(const char *word)
{
    return word[0] == '-' && word[1] == '-' && word[2] != '\0';
}

static ag_status read_arguments(cli_parsed *parsed, ag_ctx *ctx, memory *m, const cli_syntax *syntax, int argc,
                                char *const *argv)
{
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        const char *equals = strchr(word, '=');
        char *name;
        given *g;
        if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
            parsed->help = true;
            return AG_OK;
        }
        if (!is_flag(word)) {
            if (parsed->positional.n == syntax->n_positional_max)
                return ag_fail(ctx, AG_EINVAL, "\"%s\": a word that belongs to no flag; --help shows the usage", word);
            if (add_word(ctx, &parsed->positional, word) != AG_OK)
                return ag_status_of(ctx);
            continue;
        }
        name = own(ctx, m, ag_strdup(ctx, word + 2));
        if (!name)
            return ag_status_of(ctx);
        if (equals)
            name[equals - word - 2] = '\0';
        g = find(m, name);
        if (!g)
            return unknown(ctx, m, "--", name);
        if (g->origin && !takes_many(g->flag))
            g->words.n = 0; /* the last one counts */
        g->origin = own(ctx, m, ag_printf(ctx, "--%s", g->flag->name));
        if (equals) {
            add_word(ctx, &g->words, equals + 1);
        } else if (g->flag->kind == CLI_SWITCH) {
            add_word(ctx, &g->words, "true");
        } else {
            const int64_t before = g->words.n;
            while (i + 1 < argc && !is_flag(argv[i + 1]) && (takes_many(g->flag) || g->words.n == before))
                add_word(ctx, &g->words, argv[++i]);
            if (g->words.n == before)
                return ag_fail(ctx, AG_EINVAL, "--%s: wants a value (%s)", g->flag->name,
                               g->flag->value ? g->flag->value : "a word");
        }
        if (ag_status_of(ctx) != AG_OK)
            return ag_status_of(ctx);
    }
    return AG_OK;
}

static ag_status read_config(ag_ctx *ctx, memory *m, const char *path)
{
    const data_yaml_node *root;

    if (data_yaml_read(&m->config, ctx, path) != AG_OK)
        return ag_status_of(ctx);
    root = data_yaml_root(m->config);
    if (data_yaml_kind_of(root) != DATA_YAML_MAP)
        return ag_fail(ctx, AG_EDATA, "%s: wanted a map of flag names to values", path);
    for (int64_t i = 0; i < data_yaml_size(root); i++) {
        const char *key = data_yaml_key_at(root, i);
        const data_yaml_node *value = data_yaml_at(root, i);
        given *g = find(m, key);
        char where[512];
        snprintf(where, sizeof where, "%s:%d: ", path, data_yaml_line(value));
        if (!g)
            return unknown(ctx, m, where, key);
        if (strcmp(g->flag->name, "config") == 0)
            return ag_fail(ctx, AG_EINVAL, "%sconfig: a configuration cannot name another", where);
        if (g->origin)
            continue; /* the command line wins */
        if (data_yaml_kind_of(value) == DATA_YAML_SCALAR && data_yaml_is_null(value))
            continue;
        g->from_file = true;
        g->origin = own(ctx, m, ag_printf(ctx, "%s%s", where, key));
        if (!g->origin)
            return ag_status_of(ctx);
        if (data_yaml_kind_of(value) == DATA_YAML_SCALAR) {
            if (add_word(ctx, &g->words, data_yaml_text(value)) != AG_OK)
                return ag_status_of(ctx);
            continue;
        }
        if (data_yaml_kind_of(value) != DATA_YAML_LIST || !takes_many(g->flag))
            return ag_fail(ctx, AG_EINVAL, "%s: wanted one value", g->origin);
        for (int64_t k = 0; k < data_yaml_size(value); k++) {
            const data_yaml_node *item = data_yaml_at(value, k);
            if (data_yaml_kind_of(item) != DATA_YAML_SCALAR)
                return ag_fail(ctx, AG_EINVAL, "%s: wanted a list of plain values", g->origin);
            if (add_word(ctx, &g->words, data_yaml_text(item)) != AG_OK)
                return ag_status_of(ctx);
        }
    }
    return AG_OK;
}

/* --- values --------------------------------------------------------------------------------------- */

static ag_status check_bounds(ag_ctx *ctx, const cli_flag *flag, const char *origin, double value, const char *word)
{
    if (flag->low < flag->high && !(value >= flag->low && value <= flag->high))
        return ag_fail(ctx, AG_EINVAL, "%s: wanted a number from %g to %g, got %s", origin, flag->low, flag->high,
                       word);
    return AG_OK;
}

static ag_status to_int(int64_t *out, ag_ctx *ctx, const cli_flag *flag, const char *origin, const char *word)
{
    if (!data_text_to_int(out, word))
        return ag_fail(ctx, AG_EINVAL, "%s: wanted a whole number, got \"%s\"", origin, word);
    return check_bounds(ctx, flag, origin, (double)*out, word);
}

static ag_status choose(int *out, ag_ctx *ctx, const cli_flag *flag, const char *origin, const char *word)
{
    char list[512] = "";
    size_t at = 0;

    for (int i = 0; flag->choices[i]; i++) {
        if (strcmp(word, flag->choices[i]) == 0) {
            *out = i;
            return AG_OK;
        }
        if (at < sizeof list)
            at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", flag->choices[i]);
    }
    return ag_fail(ctx, AG_EINVAL, "%s: wanted one of %s, got \"%s\"", origin, list, word);
}

static ag_status store(ag_ctx *ctx, memory *m, const given *g, const char *origin, const cli_texts *words)
{
    const cli_flag *flag = g->flag;
    const char *word = words->n ? words->items[0] : NULL;

    switch (flag->kind) {
    case CLI_TEXT:
        *(const char **)g->field = word;
        return AG_OK;
    case CLI_INT:
        return to_int(g->field, ctx, flag, origin, word);
    case CLI_REAL:
        if (!data_text_to_real(g->field, word))
            return ag_fail(ctx, AG_EINVAL, "%s: wanted a number, got \"%s\"", origin, word);
        return check_bounds(ctx, flag, origin, *(double *)g->field, word);
    case CLI_SWITCH:
        if (strcmp(word, "true") != 0 && strcmp(word, "false") != 0)
            return ag_fail(ctx, AG_EINVAL, "%s: wanted true or false, got \"%s\"", origin, word);
        *(bool *)g->field = word[0] == 't';
        return AG_OK;
    case CLI_CHOICE:
        return choose(g->field, ctx, flag, origin, word);
    case CLI_TEXTS:
        *(cli_texts *)g->field = *words;
        return AG_OK;
    case CLI_INTS: {
        cli_ints *list = g->field;
        list->n = 0;
        list->items = own(ctx, m, ag_new(ctx, (size_t)words->n, sizeof *list->items, "flags"));
        for (int64_t i = 0; list->items && i < words->n; i++, list->n++)
            if (to_int(&list->items[i], ctx, flag, origin, words->items[i]) != AG_OK)
                return ag_status_of(ctx);
        return ag_status_of(ctx);
    }
    }
    return AG_OK;
}

/* The default of a flag, split at blanks for the kinds that take many. */
static ag_status store_fallback(ag_ctx *ctx, memory *m, given *g)
{
    const bool is_number = g->flag->kind != CLI_TEXT && g->flag->kind != CLI_TEXTS && g->flag->kind != CLI_INTS;
    char *copy;

    if (!g->fallback && g->flag->unset) {
        *(double *)g->field = NAN;
        return AG_OK;
    }
    if (!g->fallback)
        return is_number && g->flag->kind != CLI_SWITCH
                   ? ag_fail(ctx, AG_EINVAL, "--%s has no default in its table", g->flag->name)
                   : AG_OK;
    if (!takes_many(g->flag)) {
        if (add_word(ctx, &g->words, g->fallback) != AG_OK)
            return ag_status_of(ctx);
    } else {
        char *rest = NULL;
        copy = own(ctx, m, ag_strdup(ctx, g->fallback));
        for (char *word = copy ? strtok_r(copy, " ", &rest) : NULL; word; word = strtok_r(NULL, " ", &rest))
            if (add_word(ctx, &g->words, word) != AG_OK)
                return ag_status_of(ctx);
    }
    return store(ctx, m, g, "a default", &g->words);
}

static bool is_blank(const char *word)
{
    return word[strspn(word, " \t\r\n")] == '\0';
}

static ag_status fill(ag_ctx *ctx, memory *m, bool nothing_required)
{
    for (int i = 0; i < m->n; i++) {
        given *g = &m->entries[i];
        const ag_status status = g->origin ? store(ctx, m, g, g->origin, &g->words) : store_fallback(ctx, m, g);
        if (status != AG_OK)
            return status;
        if (g->required && !g->origin && !nothing_required)
            return ag_fail(ctx, AG_EINVAL, "--%s %s is required: %s", g->flag->name,
                           g->flag->value ? g->flag->value : "", g->flag->help);
        if (g->required && g->origin && is_blank(g->words.items[0]))
            return ag_fail(ctx, AG_EINVAL, "%s: wanted %s, got nothing but blanks", g->origin, g->flag->help);
    }
    return AG_OK;
}

/* --- public --------------------------------------------------------------------------------------- */

static const cli_flag CONFIG_FLAG = {.name = "config", .kind = CLI_TEXT, .value = "FILE",
                                     .help = "a YAML file with flag names as keys; flags given here win"};

static void add_flag(memory *m, const cli_flag *flag, const cli_default *instead, void *field)
{
    m->entries[m->n++] = (given){.flag = flag,
                                 .fallback = instead ? instead->fallback : flag->fallback,
                                 .required = flag->required && !instead,
                                 .field = field};
}

ag_status cli_parse(cli_parsed *parsed, void *options, ag_ctx *ctx, const cli_syntax *syntax, int argc,
                    char *const *argv)
{
    memory *m = ag_new(ctx, 1, sizeof *m, "flags");

    *parsed = (cli_parsed){.memory = m};
    if (!m)
        return ag_status_of(ctx);
    for (const cli_group *group = syntax->groups; group->title; group++)
        for (const cli_flag *flag = group->flags; flag->name; flag++) {
            if (m->n == MAX_FLAGS - 1)
                return ag_fail(ctx, AG_EINVAL, "%s has more than %d flags", syntax->command, MAX_FLAGS - 1);
            add_flag(m, flag, default_of(syntax, flag), (char *)options + group->offset + flag->offset);
        }
    add_flag(m, &CONFIG_FLAG, NULL, &m->path);
    if (read_arguments(parsed, ctx, m, syntax, argc, argv) != AG_OK || parsed->help)
        return ag_status_of(ctx);
    if (m->entries[m->n - 1].words.n && read_config(ctx, m, m->entries[m->n - 1].words.items[0]) != AG_OK)
        return ag_status_of(ctx);
    return fill(ctx, m, syntax->nothing_required);
}

void cli_parsed_free(cli_parsed *parsed)
{
    memory *m = parsed->memory;

    ag_delete(parsed->positional.items);
    if (m) {
        for (int i = 0; i < m->n; i++)
            ag_delete(m->entries[i].words.items);
        for (int64_t i = 0; i < m->n_owned; i++)
            ag_delete(m->owned[i]);
        ag_delete(m->owned);
        data_yaml_free(m->config);
        ag_delete(m);
    }
    *parsed = (cli_parsed){0};
}

bool cli_given(const cli_parsed *parsed, const char *name)
{
    given *g = find(parsed->memory, name);

    return g && g->origin;
}

static void print_wrapped(const char *text, int column, int width)
{
    int at = column;

    for (const char *word = text; *word;) {
        const int n = (int)strcspn(word, " ");
        if (at + n + 1 > width && at > column) {
            printf("\n%*s", column, "");
            at = column;
        }
        printf("%s%.*s", at > column ? " " : "", n, word);
        at += n + (at > column);
        word += n;
        word += strspn(word, " ");
    }
    printf("\n");
}

enum { HELP_COLUMN = 36, HELP_WIDTH = 110 };

static void print_flag(const cli_flag *flag, const cli_default *instead, bool nothing_required)
{
    const char *fallback = instead ? instead->fallback : flag->fallback;
    const char *about = instead && instead->help ? instead->help : flag->help;
    char left[256], help[1024];
    size_t at = (size_t)snprintf(left, sizeof left, "  --%s", flag->name);

    if (flag->choices) {
        at += (size_t)snprintf(left + at, sizeof left - at, " ");
        for (int i = 0; flag->choices[i] && at < sizeof left; i++)
            at += (size_t)snprintf(left + at, sizeof left - at, "%s%s", i ? "|" : "", flag->choices[i]);
    } else if (flag->kind != CLI_SWITCH) {
        snprintf(left + at, sizeof left - at, " %s%s", flag->value ? flag->value : "N", takes_many(flag) ? " ..." : "");
    }
    if (fallback && fallback[0] && flag->kind != CLI_SWITCH)
        snprintf(help, sizeof help, "%s (%s)", about, fallback);
    else if (flag->unset)
        snprintf(help, sizeof help, "%s (%s)", about, flag->unset);
    else
        snprintf(help, sizeof help, "%s%s", about,
                 flag->required && !nothing_required ? " (required)" : "");
    if (strlen(left) >= HELP_COLUMN)
        printf("%s\n%*s", left, HELP_COLUMN, "");
    else
        printf("%-*s", HELP_COLUMN, left);
    print_wrapped(help, HELP_COLUMN, HELP_WIDTH);
}

void cli_print_help(const cli_syntax *syntax)
{
    printf("usage: agewright %s %s\n\n", syntax->command, syntax->usage);
    print_wrapped(syntax->summary, 0, HELP_WIDTH);
    for (const cli_group *group = syntax->groups; group->title; group++) {
        if (group->flags->name)
            printf("\n%s\n", group->title);
        for (const cli_flag *flag = group->flags; flag->name; flag++)
            print_flag(flag, default_of(syntax, flag), syntax->nothing_required);
    }
    printf("\n");
    print_flag(&CONFIG_FLAG, NULL, false);
}

static json_t *value_of(const cli_flag *flag, const void *field)
{
    json_t *list;

    switch (flag->kind) {
    case CLI_TEXT: {
        const char *text = *(const char *const *)field;
        return text ? json_string(text) : json_null();
    }
    case CLI_INT:
        return json_integer(*(const int64_t *)field);
    case CLI_REAL:
        return isnan(*(const double *)field) ? json_null() : json_real(*(const double *)field);
    case CLI_SWITCH:
        return json_boolean(*(const bool *)field);
    case CLI_CHOICE:
        return json_string(flag->choices[*(const int *)field]);
    case CLI_TEXTS:
        list = json_array();
        for (int64_t i = 0; i < ((const cli_texts *)field)->n; i++)
            json_array_append_new(list, json_string(((const cli_texts *)field)->items[i]));
        return list;
    case CLI_INTS:
        list = json_array();
        for (int64_t i = 0; i < ((const cli_ints *)field)->n; i++)
            json_array_append_new(list, json_integer(((const cli_ints *)field)->items[i]));
        return list;
    }
    return NULL;
}

json_t *cli_effective(const cli_syntax *syntax, const void *options)
{
    json_t *object = json_object();

    for (const cli_group *group = syntax->groups; object && group->title; group++)
        for (const cli_flag *flag = group->flags; flag->name; flag++)
            if (json_object_set_new(object, flag->name,
                                    value_of(flag, (const char *)options + group->offset + flag->offset)) != 0) {
                json_decref(object);
                return NULL;
            }
    return object;
}
