/* main.c - agewright COMMAND ... : the list of commands and nothing else. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "autograd/version.h"

static const cli_command COMMANDS[] = {
    {"specialize", "fine-tune Stable Diffusion on faces of known age (FADING)", cli_specialize},
    {"personalize", "teach it one person from a few dated pictures: a LoRA (SelfAge)", cli_personalize},
    {"dreambooth", "teach it one person or thing, whole weights or a LoRA", cli_dreambooth},
    {"sample", "pictures from prompts", cli_sample},
    {"sheet", "pictures side by side in one", cli_sheet},
    {"pretrain", "train a small model of drawn faces from scratch", cli_pretrain},
    {"init", "write a model folder with random weights", cli_init},
    {"convert", "between diffusers folders and single files, between precisions", cli_convert},
    {"lora", "check, convert, merge, extract and resize LoRA files", cli_lora},
    {"faces", "draw a data set of faces with ages", cli_faces},
    {"judge", "who is in a drawn face, and how old, by a small network's estimate", cli_judge},
    {"inspect", "what a weight file, checkpoint, model or data set holds", cli_inspect},
    {"plan", "memory and time of a command before it runs", cli_plan},
    {"bench", "time and memory of the full-size networks", cli_bench},
    {"probe", "run one part on given tensors, to compare it with anything", cli_probe},
    {"doctor", "what hardware and libraries are used", cli_doctor},
    {0},
};

/* OpenMP's threads wait for work by spinning, which on a machine with other work takes the processor from
 * those who have some, and ours wait for those. The runtime reads its setting before main() begins; hence the
 * second start. A setting of the user's own stays. */
static void calm_waiting_threads(char *const *argv)
{
    char path[4096];
    ssize_t n;

    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
        return;
    n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0 || setenv("GOMP_SPINCOUNT", "10000", 1) != 0)
        return;
    path[n] = '\0'; /* the real name, so that the process keeps it */
    execv(path, argv); /* when that fails, all is as it was, only busier */
}

static const cli_menu MENU = {
    .program = "agewright",
    .what = "command",
    .usage = "COMMAND [flags]",
    .summary = "agewright " AG_VERSION ": train and run models of how a face ages",
    .notes = "agewright COMMAND --help lists a command's flags. Exit codes: 0 done, 2 usage, 3 files, 4 memory,\n"
             "5 a number that is not finite, 6 device, 8 stopped by a signal with a checkpoint, 1 anything else.",
    .commands = COMMANDS,
};

int main(int argc, char **argv)
{
    calm_waiting_threads(argv);
    signal(SIGXFSZ, SIG_IGN); /* a file too large is an error of the write, told in one line */
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("agewright %s\n", AG_VERSION);
        return CLI_EXIT_OK;
    }
    return cli_choose(&MENU, argc, argv);
}
