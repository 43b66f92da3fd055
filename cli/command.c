/* command.c - see command.h. */
#include "cli/command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "autograd/gpu.h"
#include "cli/profile.h"
#include "data/file.h"

enum { MAX_COMMANDS = 64 };

/* In the order of ag_device; "auto" becomes one of the others before a command sees it. */
static const char *const DEVICES[] = {"cpu", "cuda", "auto", NULL};
enum { AUTO = 2 };

static const char *const OFF_ON[] = {"off", "on", NULL};

const cli_flag cli_device_flags[] = {
    {.name = "device", .kind = CLI_CHOICE, .offset = offsetof(cli_device, device), .fallback = "auto",
     .choices = DEVICES, .help = "where to compute; auto: on a GPU when there is one that can be used, else on the CPU"},
    {.name = "threads", .kind = CLI_INT, .offset = offsetof(cli_device, threads), .fallback = "0", .value = "N",
     .low = 0, .high = 1024, .help = "CPU threads; 0: every processor this process may use"},
    {.name = "allow_tf32", .kind = CLI_SWITCH, .offset = offsetof(cli_device, allow_tf32),
     .help = "let products of f32 round their factors to 10 bits of fraction (TF32), where --device is cuda"},
    {.name = "fast_nondeterministic", .kind = CLI_SWITCH, .offset = offsetof(cli_device, fast_nondeterministic),
     .help = "let cuDNN take engines that add in another order each time: the same run twice may differ in bits; where "
             "--device is cuda"},
    {.name = "cuda_graphs", .kind = CLI_CHOICE, .offset = offsetof(cli_device, cuda_graphs), .fallback = "on",
     .choices = OFF_ON, .help = "record each kind of training step once and repeat it as a whole (the same bits), where "
                                "--device is cuda; not while --profile or --trace watch"},
    {.name = "profile", .kind = CLI_SWITCH, .offset = offsetof(cli_device, profile),
     .help = "print where the time went, by operation and shape, on standard error"},
    {.name = "trace", .kind = CLI_TEXT, .offset = offsetof(cli_device, trace), .value = "FILE.json",
     .help = "write every operation with its time, for chrome://tracing or Perfetto"},
    {0},
};

int cli_exit_code(ag_status status)
{
    switch (status) {
    case AG_OK:
        return CLI_EXIT_OK;
    case AG_EINVAL:
    case AG_ESHAPE:
        return CLI_EXIT_USAGE;
    case AG_EIO:
    case AG_EDATA:
    case AG_EDTYPE:
    case AG_EUNSUPPORTED:
        return CLI_EXIT_DATA;
    case AG_ENOMEM:
        return CLI_EXIT_MEMORY;
    case AG_ENUMERIC:
        return CLI_EXIT_NOT_FINITE;
    case AG_EDEVICE:
        return CLI_EXIT_DEVICE;
    case AG_ESTOPPED:
        return CLI_EXIT_STOPPED;
    }
    return CLI_EXIT_FAILED;
}

/* Print the context's failure, if any; its exit code. */
static int finish(ag_ctx *ctx)
{
    const ag_status status = ag_status_of(ctx);

    if (status != AG_OK)
        fprintf(stderr, "agewright: %s\n", ag_message(ctx));
    ag_ctx_free(ctx);
    return cli_exit_code(status);
}

/* The work itself, where and as watched as `device` says (NULL: on the CPU, unwatched). */
static int work(const cli_syntax *syntax, const cli_device *device, void *options, cli_parsed *parsed, cli_body body)
{
    const ag_device target = device ? (ag_device)device->device : AG_CPU;
    const ag_ctx_options where = {.device = syntax->foresees && target == AG_CUDA ? AG_META : target,
                                  .stands_for = target,
                                  .n_threads = device ? (int)device->threads : 0,
                                  .allow_tf32 = device && device->allow_tf32,
                                  .any_order = device && device->fast_nondeterministic,
                                  .no_graphs = device && !device->cuda_graphs};
    const bool watches = device && (device->profile || device->trace);
    ag_ctx *ctx = ag_ctx_new(&where);

    if (!ctx) {
        fprintf(stderr, "agewright: out of memory\n");
        return CLI_EXIT_MEMORY;
    }
    if (where.allow_tf32 && target != AG_CUDA)
        fprintf(stderr, "--allow_tf32 has no effect: a GPU's matter\n");
    if (where.any_order && where.device != AG_CUDA)
        fprintf(stderr, "--fast_nondeterministic has no effect: a GPU's matter\n");
    if (watches && ag_status_of(ctx) == AG_OK)
        parsed->profile = cli_profile_new(ctx, device->trace);
    if (ag_status_of(ctx) == AG_OK)
        body(ctx, options, parsed);
    if (parsed->profile && device->profile)
        cli_profile_print(parsed->profile, stderr);
    cli_profile_free(parsed->profile);
    return finish(ctx);
}

ag_status cli_check_output(ag_ctx *ctx, const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? ag_strdup(ctx, path) : ag_strdup(ctx, ".");

    if (!folder)
        return ag_status_of(ctx);
    if (slash)
        folder[slash == path ? 1 : slash - path] = '\0';
    if (data_is_folder(path))
        ag_fail(ctx, AG_EIO, "%s: is a folder, wanted a file name", path);
    else if (access(folder, W_OK) != 0)
        ag_fail(ctx, AG_EIO, "%s: the folder %s is not there or cannot be written", path, folder);
    ag_delete(folder);
    return ag_status_of(ctx);
}

int cli_run(const cli_syntax *syntax, size_t options_size, size_t device_offset, int argc, char *const *argv,
            cli_body body)
{
    /* flags are read before it is known where to compute; AG_META opens nothing */
    ag_ctx *ctx = ag_ctx_new(&(ag_ctx_options){.device = AG_META});
    void *options = calloc(1, options_size);
    cli_parsed parsed = {0};
    int code;

    if (!ctx || !options) {
        fprintf(stderr, "agewright: out of memory\n");
        free(options);
        ag_ctx_free(ctx);
        return CLI_EXIT_MEMORY;
    }
    if (cli_parse(&parsed, options, ctx, syntax, argc - 1, argv + 1) != AG_OK) {
        fprintf(stderr, "agewright %s: %s\n", syntax->command, ag_message(ctx));
        code = cli_exit_code(ag_status_of(ctx));
        ag_ctx_free(ctx);
    } else if (parsed.help) {
        cli_print_help(syntax);
        ag_ctx_free(ctx);
        code = CLI_EXIT_OK;
    } else {
        cli_device *device = device_offset == CLI_NO_DEVICE ? NULL : (cli_device *)((char *)options + device_offset);
        ag_ctx_free(ctx);
        if (device && device->device == AUTO)
            device->device = ag_gpu_is_there() ? AG_CUDA : AG_CPU;
        code = work(syntax, device, options, &parsed, body);
    }
    cli_parsed_free(&parsed);
    free(options);
    if (fflush(stdout) != 0 && code == CLI_EXIT_OK)
        code = CLI_EXIT_DATA;
    return code;
}

/* --- one of several ------------------------------------------------------------------------------- */

static void print_menu(FILE *to, const cli_menu *menu)
{
    fprintf(to, "%s\n\nusage: %s %s\n\n", menu->summary, menu->program, menu->usage);
    for (const cli_command *c = menu->commands; c->name; c++)
        fprintf(to, "  %-14s %s\n", c->name, c->summary);
    fprintf(to, "\n%s\n", menu->notes);
}

int cli_choose(const cli_menu *menu, int argc, char *const *argv)
{
    const char *word = argc > 1 ? argv[1] : NULL, *names[MAX_COMMANDS], *near;
    int n = 0;

    if (!word || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_menu(word ? stdout : stderr, menu);
        return word ? CLI_EXIT_OK : CLI_EXIT_USAGE;
    }
    for (const cli_command *c = menu->commands; c->name && n < MAX_COMMANDS; c++) {
        if (strcmp(word, c->name) == 0)
            return c->run(argc - 1, argv + 1);
        names[n++] = c->name;
    }
    near = cli_nearest(word, names, n);
    fprintf(stderr, "%s: %s: no such %s%s%s; %s --help lists them\n", menu->program, word, menu->what,
            near ? "; did you mean " : "", near ? near : "", menu->program);
    return CLI_EXIT_USAGE;
}
