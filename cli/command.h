/* command.h - what a command is, and what all of them share: devices, errors, exit codes. */
#ifndef CLI_COMMAND_H
#define CLI_COMMAND_H

#include "cli/flags.h"

/* Exit codes: one per kind of end, so that a script can tell them apart. */
enum {
    CLI_EXIT_OK = 0,
    CLI_EXIT_FAILED = 1,      /* anything without a code of its own */
    CLI_EXIT_USAGE = 2,       /* a flag, a configuration, shapes that do not fit together */
    CLI_EXIT_DATA = 3,        /* a file that cannot be read, written or believed */
    CLI_EXIT_MEMORY = 4,      /* out of memory */
    CLI_EXIT_NOT_FINITE = 5,  /* a loss or gradient that is not a finite number */
    CLI_EXIT_DEVICE = 6,      /* the device failed or is not there */
    CLI_EXIT_STOPPED = 8      /* ended by a signal, with a checkpoint */
};

typedef struct cli_command {
    const char *name, *summary; /* one line for the list of commands */
    int (*run)(int argc, char *const *argv); /* the words from the command's name on -> exit code */
} cli_command;

/* Commands to choose from, and what their list begins and ends with. */
typedef struct cli_menu {
    const char *program, *what; /* "agewright lora", "command" */
    const char *usage, *summary, *notes;
    const cli_command *commands; /* ends with {0} */
} cli_menu;

/* Run the command that argv[1] names, print the list for --help, or say what is wrong; the exit code. */
int cli_choose(const cli_menu *menu, int argc, char *const *argv);

/* Flags of every command that computes. */
typedef struct cli_device {
    int device;      /* an ag_device */
    int64_t threads; /* 0: all */
    bool allow_tf32, fast_nondeterministic;
    int cuda_graphs; /* 0: off */
    bool profile;
    const char *trace; /* a file; NULL: none */
} cli_device;
extern const cli_flag cli_device_flags[];

/* The usual life of a command: parse into a zeroed struct of options_size bytes, print help if asked, open a
 * context on the device that `device_offset` (of a cli_device in the options, or CLI_NO_DEVICE) says, run
 * body, watched where --profile or --trace asks for it, print the error line, return the exit code. argv[0] is the
 * command's own name. */
#define CLI_NO_DEVICE ((size_t)-1)
typedef ag_status (*cli_body)(ag_ctx *ctx, void *options, const cli_parsed *parsed);
int cli_run(const cli_syntax *syntax, size_t options_size, size_t device_offset, int argc, char *const *argv,
            cli_body body);

int cli_exit_code(ag_status status);

/* Can the file be made? Found before hours of work, not after. */
ag_status cli_check_output(ag_ctx *ctx, const char *path);

/* The commands, one file each. */
int cli_specialize(int argc, char *const *argv);
int cli_personalize(int argc, char *const *argv);
int cli_dreambooth(int argc, char *const *argv);
int cli_sample(int argc, char *const *argv);
int cli_convert(int argc, char *const *argv);
int cli_init(int argc, char *const *argv);
int cli_plan(int argc, char *const *argv);
int cli_inspect(int argc, char *const *argv);
int cli_doctor(int argc, char *const *argv);
int cli_probe(int argc, char *const *argv);
int cli_pretrain(int argc, char *const *argv);
int cli_faces(int argc, char *const *argv);
int cli_lora(int argc, char *const *argv);
int cli_sheet(int argc, char *const *argv);
int cli_judge(int argc, char *const *argv);
int cli_bench(int argc, char *const *argv);

#endif /* CLI_COMMAND_H */
