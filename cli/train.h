/* train.h - the commands that train on pictures: what they share, and what `plan` needs to foresee one. */
#ifndef CLI_TRAIN_H
#define CLI_TRAIN_H

#include "cli/command.h"
#include "cli/train_flags.h"
#include "train/forecast.h"

/* What each of them is told. */
typedef struct cli_train_options {
    train_options train;
    cli_unused unused;
    cli_device device;
} cli_train_options;

typedef struct cli_trainer {
    const cli_syntax *syntax; /* its groups fill a cli_train_options */
    const cli_flag *unused;   /* those of them without effect */
    /* Values that follow from others; NULL: none do. */
    void (*settle)(train_options *options, const cli_parsed *parsed);
    ag_status (*train)(ag_ctx *ctx, const train_options *options, json_t *config);
    train_foresee foresee;
} cli_trainer;

extern const cli_trainer cli_specializer, cli_personalizer, cli_dreamer;

/* A train_sample_fn, by edit/generate.h. */
ag_status cli_train_sample(data_image *images, ag_ctx *ctx, pipe_model *model, const train_sample_request *request);

/* The body of such a command (a cli_body with the trainer). */
ag_status cli_train_body(ag_ctx *ctx, void *options, const cli_parsed *parsed, const cli_trainer *trainer);
int cli_train_run(const cli_trainer *trainer, int argc, char *const *argv, cli_body body);

#endif /* CLI_TRAIN_H */
