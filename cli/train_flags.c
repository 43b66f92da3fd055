/* train_flags.c - see train_flags.h. Defaults are those of MunchkinChen/FADING: specialize.py, unless the
 * help says otherwise. */
#include "cli/train_flags.h"

#include <stdio.h>
#include <time.h>

#include "train/run.h"

#define AT(field) offsetof(train_options, field)

static const char *const MODES[] = {"finetune_double_prompt", "finetune_single_prompt", NULL};
static const char *const PRECISIONS[] = {"auto", "no", "bf16", "fp16", NULL};
static const char *const LOSSES[] = {"l2", "huber", "smooth_l1", NULL};
static const char *const PRIOR_TARGETS[] = {"noise", "model", NULL};
static const char *const PREDICTIONS[] = {"model", "epsilon", "v_prediction", NULL};

const cli_flag cli_model_flags[] = {
    {.name = "pretrained_model_name_or_path", .kind = CLI_TEXT, .offset = AT(pretrained_model_name_or_path),
     .value = "MODEL", .fallback = "runwayml/stable-diffusion-v1-5",
     .help = "a diffusers folder, a single-file checkpoint, or a hub id that lies in the local cache"},
    {.name = "revision", .kind = CLI_TEXT, .offset = AT(revision), .value = "REV",
     .help = "branch, tag or commit of a hub id"},
    {.name = "variant", .kind = CLI_TEXT, .offset = AT(variant), .value = "NAME",
     .help = "variant of the weight files, e.g. fp16"},
    {.name = "tokenizer_name", .kind = CLI_TEXT, .offset = AT(tokenizer_name), .value = "DIR",
     .help = "another tokenizer's folder"},
    {.name = "tokenizer_max_length", .kind = CLI_INT, .offset = AT(tokenizer_max_length), .value = "N",
     .fallback = "0", .low = 0, .high = 4096, .help = "tokens of a prompt; 0: as the tokenizer says"},
    {0},
};

const cli_flag cli_data_flags[] = {
    {.name = "instance_data_dir", .kind = CLI_TEXT, .offset = AT(instance_data_dir), .value = "DIR",
     .required = true, .help = "the folder of pictures (png, jpg, webp, ppm, bmp, tiff), or an FFHQ-Aging folder"},
    {.name = "instance_age_path", .kind = CLI_TEXT, .offset = AT(instance_age_path), .value = "FILE",
     .required = true,
     .help = "their ages: a .npy text array of [file name, age], FFHQ-Aging's labels .csv, or a folder of pictures "
             "whose names begin with the age (34_001.jpg)"},
    {.name = "instance_prompt", .kind = CLI_TEXT, .offset = AT(instance_prompt), .value = "TEXT",
     .fallback = "photo of a person", .help = "the age goes after its word \"a\""},
    {.name = "finetune_mode", .kind = CLI_CHOICE, .offset = AT(finetune_mode), .choices = MODES,
     .fallback = "finetune_double_prompt", .help = "with and without the age, or twice with it"},
    {.name = "resolution", .kind = CLI_INT, .offset = AT(resolution), .value = "PX", .fallback = "512", .low = 8,
     .high = 8192, .help = "side of the square each picture is resized and cropped to"},
    {.name = "center_crop", .kind = CLI_SWITCH, .offset = AT(center_crop),
     .help = "crop pictures that are not square from the middle; without, at random"},
    {.name = "random_flip", .kind = CLI_SWITCH, .offset = AT(random_flip),
     .help = "mirror each picture with probability 1/2, drawn anew each epoch"},
    {.name = "ignore_exif", .kind = CLI_SWITCH, .offset = AT(ignore_exif),
     .help = "leave pictures as they are stored, whatever their EXIF orientation"},
    {.name = "no_shuffle", .kind = CLI_SWITCH, .offset = AT(no_shuffle),
     .help = "take pictures in the order of their names"},
    {0},
};

const cli_flag cli_run_flags[] = {
    {.name = "output_dir", .kind = CLI_TEXT, .offset = AT(output_dir), .value = "DIR", .required = true,
     .help = "where the trained model, checkpoints and logs go"},
    {.name = "overwrite_output_dir", .kind = CLI_SWITCH, .offset = AT(overwrite_output_dir),
     .help = "start anew in a folder that holds an earlier run's checkpoints"},
    {.name = "seed", .kind = CLI_INT, .offset = AT(seed), .value = "N", .fallback = "-1", .low = -1, .high = 9e18,
     .help = "of every random draw; -1: that of the run which is resumed, else from the clock, and printed"},
    {.name = "torch_rng", .kind = CLI_SWITCH, .offset = AT(torch_rng),
     .help = "draw from PyTorch's CPU generator in the original's order, for comparisons"},
    {.name = "max_train_steps", .kind = CLI_INT, .offset = AT(max_train_steps), .value = "N", .fallback = "150",
     .low = 0, .high = 1e9, .help = "updates; 0: as many as --num_train_epochs make"},
    {.name = "num_train_epochs", .kind = CLI_INT, .offset = AT(num_train_epochs), .value = "N", .fallback = "1",
     .low = 1, .high = 1e6, .help = "passes over the data, when --max_train_steps is 0"},
    {.name = "train_batch_size", .kind = CLI_INT, .offset = AT(train_batch_size), .value = "N", .fallback = "1",
     .low = 1, .high = 512, .help = "pictures of a micro-step; each makes two rows"},
    {.name = "gradient_accumulation_steps", .kind = CLI_INT, .offset = AT(gradient_accumulation_steps),
     .value = "N", .fallback = "1", .low = 1, .high = 100000, .help = "micro-steps of an update"},
    {.name = "checkpointing_steps", .kind = CLI_INT, .offset = AT(checkpointing_steps), .value = "N",
     .fallback = "500", .low = 0, .high = 1e9, .help = "updates between checkpoints; 0: only when stopped"},
    {.name = "checkpoints_total_limit", .kind = CLI_INT, .offset = AT(checkpoints_total_limit), .value = "N",
     .fallback = "0", .low = 0, .high = 1e6, .help = "checkpoints to keep; 0: all"},
    {.name = "resume_from_checkpoint", .kind = CLI_TEXT, .offset = AT(resume_from_checkpoint),
     .value = "latest|DIR", .help = "go on from the newest whole checkpoint of --output_dir, or from one"},
    {.name = "gradient_checkpointing", .kind = CLI_SWITCH, .offset = AT(gradient_checkpointing),
     .help = "recompute blocks in the backward pass: less memory, about a third more time, the same bits"},
    {.name = "mixed_precision", .kind = CLI_CHOICE, .offset = AT(mixed_precision), .choices = PRECISIONS,
     .fallback = "auto", .help = "of activations; auto is bf16 where the CPU has AMX, else no (f32)"},
    {.name = "no_cache", .kind = CLI_SWITCH, .offset = AT(no_cache),
     .help = "encode pictures at each use instead of keeping the VAE's posteriors on disk"},
    {.name = "cache_dir", .kind = CLI_TEXT, .offset = AT(cache_dir), .value = "DIR",
     .help = "of kept posteriors; OUTPUT_DIR/cache when not given"},
    {.name = "logging_dir", .kind = CLI_TEXT, .offset = AT(logging_dir), .value = "DIR", .fallback = "logs",
     .help = "of TensorBoard events, inside --output_dir"},
    {.name = "report_to", .kind = CLI_TEXT, .offset = AT(report_to), .value = "tensorboard|none",
     .fallback = "tensorboard", .help = "who reads the events"},
    {0},
};

const cli_flag cli_objective_flags[] = {
    {.name = "train_text_encoder", .kind = CLI_SWITCH, .offset = AT(train_text_encoder),
     .help = "train the text encoder too"},
    {.name = "prediction_type", .kind = CLI_CHOICE, .offset = AT(prediction_type), .choices = PREDICTIONS,
     .fallback = "model", .help = "what the U-Net predicts, when the model's scheduler file is wrong"},
    {.name = "snr_gamma", .kind = CLI_REAL, .offset = AT(snr_gamma), .value = "G", .fallback = "0", .low = 0,
     .high = 1e6, .help = "min-SNR weighting with this gamma (5 is usual); 0: none"},
    {.name = "noise_offset", .kind = CLI_REAL, .offset = AT(noise_offset), .value = "S", .fallback = "0", .low = 0,
     .high = 10, .help = "add S times one normal number per channel to the noise; 0: none"},
    {.name = "loss_type", .kind = CLI_CHOICE, .offset = AT(loss_type), .choices = LOSSES, .fallback = "l2",
     .help = "squared error, or pseudo-Huber"},
    {.name = "huber_c", .kind = CLI_REAL, .offset = AT(huber_c), .value = "C", .fallback = "0.1", .low = 1e-6,
     .high = 1e6, .help = "where the Huber losses turn from square to linear"},
    {.name = "same_timestep", .kind = CLI_SWITCH, .offset = AT(same_timestep),
     .help = "one timestep for both rows of a picture; the original draws two"},
    {.name = "ema_decay", .kind = CLI_REAL, .offset = AT(ema_decay), .value = "D", .fallback = "0", .low = 0,
     .high = 1, .help = "keep a moving average of the weights and save it (0.9999 is usual); 0: none"},
    {0},
};

const cli_flag cli_prior_flags[] = {
    {.name = "with_prior_preservation", .kind = CLI_SWITCH, .offset = AT(with_prior_preservation),
     .help = "learn from pictures of other people beside, so that not every face becomes this one"},
    {.name = "prior_loss_weight", .kind = CLI_REAL, .offset = AT(prior_loss_weight), .value = "W", .fallback = "1.0",
     .low = 0, .high = 1e6, .help = "of the other people's half of the loss"},
    {.name = "contrast_weight", .kind = CLI_REAL, .offset = AT(contrast_weight), .value = "W", .fallback = "0.1",
     .low = 0, .high = 1e6,
     .help = "of SelfAge's contrastive term, in each half; only with prior preservation, and nothing at batch size 1"},
    {.name = "prior_target", .kind = CLI_CHOICE, .offset = AT(prior_target), .choices = PRIOR_TARGETS,
     .fallback = "noise", .help = "what the other people's half should predict: the noise, or what the frozen model does"},
    {0},
};

const cli_flag cli_optimizer_flags[] = {
    {.name = "optimizer", .kind = CLI_CHOICE, .offset = AT(optimizer), .choices = opt_kind_names,
     .fallback = "adamw", .help = "which one"},
    {.name = "learning_rate", .kind = CLI_REAL, .offset = AT(learning_rate), .value = "LR", .fallback = "5e-6",
     .low = 0, .high = 1e6, .help = "the base rate"},
    {.name = "scale_lr", .kind = CLI_SWITCH, .offset = AT(scale_lr),
     .help = "multiply the rate by batch size and accumulation"},
    {.name = "lr_scheduler", .kind = CLI_CHOICE, .offset = AT(lr_scheduler), .choices = opt_schedule_names,
     .fallback = "constant", .help = "how the rate changes; constant has no warm-up"},
    {.name = "lr_warmup_steps", .kind = CLI_INT, .offset = AT(lr_warmup_steps), .value = "N", .fallback = "500",
     .low = 0, .high = 1e9, .help = "updates over which it grows from 0"},
    {.name = "lr_num_cycles", .kind = CLI_REAL, .offset = AT(lr_num_cycles), .value = "N", .fallback = "1",
     .low = 0, .high = 1e6, .help = "of cosine_with_restarts"},
    {.name = "lr_power", .kind = CLI_REAL, .offset = AT(lr_power), .value = "P", .fallback = "1", .low = 0,
     .high = 100, .help = "of polynomial"},
    {.name = "lr_step_rules", .kind = CLI_TEXT, .offset = AT(lr_step_rules), .value = "RULES",
     .help = "of piecewise_constant: \"1:10,0.1:20,0.005\" is factor 1 to update 10, 0.1 to 20, then 0.005"},
    {.name = "adam_beta1", .kind = CLI_REAL, .offset = AT(adam_beta1), .value = "B", .fallback = "0.9", .low = 0,
     .high = 0.9999999, .help = "memory of the first moment"},
    {.name = "adam_beta2", .kind = CLI_REAL, .offset = AT(adam_beta2), .value = "B", .fallback = "0.999", .low = 0,
     .high = 0.9999999, .help = "memory of the second moment"},
    {.name = "adam_weight_decay", .kind = CLI_REAL, .offset = AT(adam_weight_decay), .value = "W",
     .fallback = "1e-2", .low = 0, .high = 1e6, .help = "decoupled weight decay, on every trained tensor"},
    {.name = "adam_epsilon", .kind = CLI_REAL, .offset = AT(adam_epsilon), .value = "E", .fallback = "1e-8",
     .low = 0, .high = 1, .help = "added to the root of the second moment"},
    {.name = "max_grad_norm", .kind = CLI_REAL, .offset = AT(max_grad_norm), .value = "G", .fallback = "1.0",
     .low = 0, .high = 1e30, .help = "clip the joint gradient norm to this; 0: do not"},
    {0},
};

#define UNUSED_TEXT(i, flag, why) \
    {.name = flag, .kind = CLI_TEXT, .offset = offsetof(cli_unused, texts[i]), .value = "X", .help = why}
#define UNUSED_SWITCH(i, flag, why) \
    {.name = flag, .kind = CLI_SWITCH, .offset = offsetof(cli_unused, switches[i]), .help = why}

const cli_flag cli_unused_flags[] = {
    UNUSED_TEXT(0, "sample_batch_size", "this recipe samples nothing"),
    UNUSED_TEXT(1, "prior_generation_precision", "this recipe samples nothing"),
    UNUSED_TEXT(2, "local_rank", "ranks come from the launcher"),
    UNUSED_TEXT(3, "dataloader_num_workers", "pictures are encoded once, by all threads"),
    UNUSED_TEXT(4, "hub_token", "nothing is uploaded"),
    UNUSED_TEXT(5, "hub_model_id", "nothing is uploaded"),
    UNUSED_SWITCH(0, "allow_tf32", "a GPU's matter"),
    UNUSED_SWITCH(1, "enable_xformers_memory_efficient_attention", "attention never materialises its scores here"),
    UNUSED_SWITCH(2, "push_to_hub", "nothing is uploaded"),
    UNUSED_SWITCH(3, "use_8bit_adam", "AdamW's moments are kept in f32"),
    {0},
};

ag_status cli_check_train(ag_ctx *ctx, train_options *o, const cli_parsed *parsed)
{
    for (const cli_flag *flag = cli_unused_flags; flag->name; flag++)
        if (cli_given(parsed, flag->name))
            fprintf(stderr, "--%s has no effect: %s\n", flag->name, flag->help);
    if (o->lr_scheduler != OPT_CONSTANT && o->lr_scheduler != OPT_PIECEWISE_CONSTANT && o->max_train_steps > 0 &&
        o->lr_warmup_steps >= o->max_train_steps)
        fprintf(stderr, "--lr_warmup_steps %lld: the run ends after %lld updates, before the rate has grown up\n",
                (long long)o->lr_warmup_steps, (long long)o->max_train_steps);
    if (o->seed < 0 && (o->seed = train_resumed_seed(ctx, o)) >= 0)
        fprintf(stderr, "--seed %lld, of the run that goes on\n", (long long)o->seed);
    if (o->seed < 0) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        o->seed = (int64_t)((uint64_t)t.tv_sec * 1000003u ^ (uint64_t)t.tv_nsec) & 0x7fffffff;
        fprintf(stderr, "--seed %lld\n", (long long)o->seed);
    }
    return ag_status_of(ctx);
}
