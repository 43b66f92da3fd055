/* lora_flags.c - the flags of LoRA, for every command that trains adapters. Defaults are those of
 * shiiiijp/SelfAge: scripts/train.py, where it has the flag.
 */
#include "cli/train_flags.h"
#include "train/lora.h"

#define AT(field) offsetof(train_options, field)

const cli_flag cli_lora_flags[] = {
    {.name = "rank", .kind = CLI_INT, .offset = AT(rank), .value = "R", .fallback = "4", .low = 1, .high = 65536,
     .help = "width of the thin product; the file holds about 0.27 million values times this"},
    {.name = "lora_alpha", .kind = CLI_REAL, .offset = AT(lora_alpha), .value = "A", .fallback = "0", .low = 0,
     .high = 1e6, .help = "the product counts alpha/rank; 0: the rank, as published"},
    {.name = "lora_dropout", .kind = CLI_REAL, .offset = AT(lora_dropout), .value = "P", .fallback = "0", .low = 0,
     .high = 0.99, .help = "drop values on their way into the thin product with this probability"},
    {.name = "use_rslora", .kind = CLI_SWITCH, .offset = AT(use_rslora),
     .help = "count alpha/sqrt(rank) instead (rank-stabilised)"},
    {.name = "use_dora", .kind = CLI_SWITCH, .offset = AT(use_dora),
     .help = "learn the length of each row of a weight too (DoRA)"},
    {.name = "lora_conv", .kind = CLI_INT, .offset = AT(lora_conv), .value = "R", .fallback = "0", .low = 0,
     .high = 65536, .help = "adapt convolutions too: 3x3 ones with this rank, 1x1 ones with --rank; 0: none"},
    {.name = "lora_targets", .kind = CLI_TEXT, .offset = AT(lora_targets), .value = "NAMES",
     .help = "layers of the U-Net to adapt, with commas: a name, its last parts, or a pattern with * "
             "(" TRAIN_LORA_UNET_TARGETS "; with --lora_conv also " TRAIN_LORA_CONV_TARGETS ")"},
    {.name = "lora_text_targets", .kind = CLI_TEXT, .offset = AT(lora_text_targets), .value = "NAMES",
     .help = "the same of the text encoder, with --train_text_encoder (" TRAIN_LORA_TEXT_TARGETS ")"},
    {.name = "lora_init", .kind = CLI_TEXT, .offset = AT(lora_init), .value = "gaussian|kaiming|FILE",
     .fallback = "gaussian",
     .help = "how the first factor is drawn (the second begins as 0), or a LoRA file to begin from"},
    {0},
};

bool cli_lora_given(const cli_parsed *parsed)
{
    for (const cli_flag *flag = cli_lora_flags; flag->name; flag++)
        if (cli_given(parsed, flag->name))
            return true;
    return false;
}
