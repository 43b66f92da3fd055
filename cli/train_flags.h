/* train_flags.h - the flags of diffusion training, shared by the commands that train or foresee training. */
#ifndef CLI_TRAIN_FLAGS_H
#define CLI_TRAIN_FLAGS_H

#include "cli/flags.h"
#include "train/options.h"

/* Each table fills a train_options. */
extern const cli_flag cli_model_flags[];        /* which model */
extern const cli_flag cli_model_detail_flags[]; /* revision, variant, tokenizer */
extern const cli_flag cli_data_flags[];         /* specialize's: pictures, ages, prompts */
extern const cli_flag cli_image_flags[];        /* size, crop, flip, order */
extern const cli_flag cli_picture_flags[];      /* shapes, captions, masks, colours, how often */
extern const cli_flag cli_word_flags[];         /* textual inversion */
extern const cli_flag cli_run_flags[];          /* output, length, batches, checkpoints, seed */
extern const cli_flag cli_objective_flags[];    /* what is trained, and the loss */
extern const cli_flag cli_prior_flags[];        /* prior preservation */
extern const cli_flag cli_contrast_flags[];     /* SelfAge's contrast */
extern const cli_flag cli_lora_flags[];         /* adapters (lora_flags.c) */
extern const cli_flag cli_validation_flags[];   /* pictures and losses during training */
extern const cli_flag cli_optimizer_flags[];    /* which, rate, schedule, clipping, their numbers */

/* Flags of the original programs that do nothing here. They are taken, so that published commands run,
 * and each one given is named in a notice. */
typedef struct cli_unused {
    const char *texts[16];
    bool switches[16];
} cli_unused;
extern const cli_flag cli_unused_flags[]; /* of specialize */

#define CLI_UNUSED_TITLE "taken for the sake of published commands, without effect"
#define CLI_UNUSED_TEXT(i, flag, why) \
    {.name = flag, .kind = CLI_TEXT, .offset = offsetof(cli_unused, texts[i]), .value = "X", .help = why}
#define CLI_UNUSED_SWITCH(i, flag, why) \
    {.name = flag, .kind = CLI_SWITCH, .offset = offsetof(cli_unused, switches[i]), .help = why}

/* Was one of LoRA's flags given? */
bool cli_lora_given(const cli_parsed *parsed);

/* Settle what was left open about the optimizer (train/options.h), and say which flags it does not hear. */
ag_status cli_check_optimizer(ag_ctx *ctx, train_options *options, const cli_parsed *parsed);

/* Values that no table can check, and the above; fills the seed from the clock when none was given, and tells of
 * flags without effect. */
ag_status cli_check_train(ag_ctx *ctx, train_options *options, const cli_parsed *parsed, const cli_flag *unused);

#endif /* CLI_TRAIN_FLAGS_H */
