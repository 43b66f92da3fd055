/* pretrain.c - agewright pretrain: the small model of drawn faces, from nothing. */
#include <string.h>

#include "cli/command.h"
#include "pipeline/presets.h"
#include "train/pretrain.h"

typedef struct options {
    train_pretrain_options train;
    cli_device device;
} options;

#define AT(field) offsetof(train_pretrain_options, field)

static const char *const DTYPES[] = {"f32", "f16", "bf16", NULL};

static const cli_flag RUN[] = {
    {.name = "output_dir", .kind = CLI_TEXT, .offset = AT(output_dir), .value = "DIR", .required = true,
     .help = "where the model goes, and the logs and checkpoints of its two stages"},
    {.name = "preset", .kind = CLI_CHOICE, .offset = AT(preset), .choices = pipe_preset_names, .fallback = "tiny",
     .help = "the sizes of the networks"},
    {.name = "tokenizer", .kind = CLI_TEXT, .offset = AT(tokenizer), .value = "DIR",
     .help = "a tokenizer's folder; without, a small one is learned from a built-in text"},
    {.name = "seed", .kind = CLI_INT, .offset = AT(seed), .value = "N", .fallback = "0", .low = 0, .high = 9e18,
     .help = "of first values, faces and noise"},
    {.name = "save_dtype", .kind = CLI_CHOICE, .offset = AT(save_dtype), .choices = DTYPES, .fallback = "f32",
     .help = "of the weights on disk"},
    {.name = "checkpointing_steps", .kind = CLI_INT, .offset = AT(checkpointing_steps), .value = "N",
     .fallback = "500", .low = 0, .high = 1e9, .help = "updates between checkpoints"},
    {.name = "resume_from_checkpoint", .kind = CLI_TEXT, .offset = AT(resume_from_checkpoint), .value = "latest",
     .help = "go on where an earlier run of --output_dir ended"},
    {.name = "overwrite_output_dir", .kind = CLI_SWITCH, .offset = AT(overwrite_output_dir),
     .help = "start anew in a folder that holds an earlier run"},
    {.name = "lr_warmup_steps", .kind = CLI_INT, .offset = AT(lr_warmup_steps), .value = "N", .fallback = "100",
     .low = 0, .high = 1e9, .help = "of both stages; then the rate falls along a cosine"},
    {0},
};

static const cli_flag VAE[] = {
    {.name = "vae_steps", .kind = CLI_INT, .offset = AT(vae_steps), .value = "N", .fallback = "2000", .low = 1,
     .high = 1e8, .help = "updates"},
    {.name = "vae_batch", .kind = CLI_INT, .offset = AT(vae_batch), .value = "N", .fallback = "8", .low = 1,
     .high = 512, .help = "faces of an update, each drawn for it"},
    {.name = "vae_learning_rate", .kind = CLI_REAL, .offset = AT(vae_learning_rate), .value = "LR",
     .fallback = "1e-3", .low = 0, .high = 1, .help = "at its highest"},
    {.name = "kl_weight", .kind = CLI_REAL, .offset = AT(kl_weight), .value = "W", .fallback = "1e-3", .low = 0,
     .high = 1, .help = "of the divergence of a latent value from a normal one"},
    {0},
};

static const cli_flag UNET[] = {
    {.name = "faces", .kind = CLI_INT, .offset = AT(faces), .value = "N", .fallback = "16384", .low = 1,
     .high = 70000, .help = "size of the drawn set"},
    {.name = "unet_steps", .kind = CLI_INT, .offset = AT(unet_steps), .value = "N", .fallback = "4000", .low = 1,
     .high = 1e8, .help = "updates"},
    {.name = "unet_batch", .kind = CLI_INT, .offset = AT(unet_batch), .value = "N", .fallback = "32", .low = 1,
     .high = 1024, .help = "rows of an update"},
    {.name = "unet_learning_rate", .kind = CLI_REAL, .offset = AT(unet_learning_rate), .value = "LR",
     .fallback = "1e-3", .low = 0, .high = 1, .help = "at its highest"},
    {.name = "caption_dropout", .kind = CLI_REAL, .offset = AT(caption_dropout), .value = "P", .fallback = "0.1",
     .low = 0, .high = 1, .help = "how often a caption is left out, for guidance"},
    {.name = "ema_decay", .kind = CLI_REAL, .offset = AT(ema_decay), .value = "D", .fallback = "0.998", .low = 0,
     .high = 1, .help = "of the moving average that is saved; 0: none"},
    {0},
};

static const cli_group GROUPS[] = {{"the run", RUN, offsetof(options, train)},
                                   {"the VAE", VAE, offsetof(options, train)},
                                   {"U-Net and text encoder", UNET, offsetof(options, train)},
                                   {"the machine", cli_device_flags, offsetof(options, device)},
                                   {0}};

static const cli_syntax SYNTAX = {
    .command = "pretrain",
    .usage = "CONFIG.yaml [flags], or flags alone",
    .summary = "Train a small latent diffusion model from scratch on faces that the program draws: a VAE, then a U-Net "
               "with a text encoder. The result knows faces but not ages.",
    .groups = GROUPS,
};

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    options *o = memory;
    json_t *config = cli_effective(&SYNTAX, o);

    (void)parsed;
    if (!config)
        return ag_fail(ctx, AG_ENOMEM, "no memory for the configuration");
    train_pretrain(ctx, &o->train, config);
    json_decref(config);
    return ag_status_of(ctx);
}

int cli_pretrain(int argc, char *const *argv)
{
    char *words[256];
    int n = 0;

    /* `pretrain FILE ...` is `pretrain --config FILE ...` */
    words[n++] = argv[0];
    if (argc > 1 && argv[1][0] != '-')
        words[n++] = "--config";
    for (int i = 1; i < argc && n < 255; i++)
        words[n++] = argv[i];
    return cli_run(&SYNTAX, sizeof(options), offsetof(options, device), n, words, body);
}
