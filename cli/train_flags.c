/* train_flags.c - see train_flags.h. Defaults are those of MunchkinChen/FADING: specialize.py, unless the
 * help says otherwise. */
#include "cli/train_flags.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "train/run.h"

#define AT(field) offsetof(train_options, field)

static const char *const MODES[] = {"finetune_double_prompt", "finetune_single_prompt", NULL};
static const char *const PRECISIONS[] = {"auto", "no", "bf16", "fp16", NULL};
static const char *const VAE_PRECISIONS[] = {"auto", "no", "bf16", NULL};
static const char *const LOSSES[] = {"l2", "huber", "smooth_l1", NULL};
static const char *const PRIOR_TARGETS[] = {"noise", "model", NULL};
static const char *const AUTOMATIC[] = {"auto", "true", "false", NULL};
static const char *const PREDICTIONS[] = {"model", "epsilon", "v_prediction", NULL};

const cli_flag cli_model_flags[] = {
    {.name = "pretrained_model_name_or_path", .kind = CLI_TEXT, .offset = AT(pretrained_model_name_or_path),
     .value = "MODEL", .fallback = "runwayml/stable-diffusion-v1-5",
     .help = "a diffusers folder, a single-file checkpoint, or a hub id that lies in the local cache"},
    {0},
};

const cli_flag cli_model_detail_flags[] = {
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
     .fallback = "photo of a person",
     .help = "the age goes where it says \"{age}\" (\"a {age} year old man\"), else after its words \"a\""},
    {.name = "finetune_mode", .kind = CLI_CHOICE, .offset = AT(finetune_mode), .choices = MODES,
     .fallback = "finetune_double_prompt", .help = "with and without the age, or twice with it"},
    {.name = "same_timestep", .kind = CLI_SWITCH, .offset = AT(same_timestep),
     .help = "one timestep for both rows of a picture; the original draws two"},
    {0},
};

const cli_flag cli_image_flags[] = {
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

const cli_flag cli_picture_flags[] = {
    {.name = "aspect_ratio_buckets", .kind = CLI_SWITCH, .offset = AT(aspect_ratio_buckets),
     .help = "train on pictures of about resolution x resolution pixels in their own shapes: each is resized and "
             "cropped to the box whose aspect ratio is nearest; a batch holds one box"},
    {.name = "bucket_step", .kind = CLI_INT, .offset = AT(bucket_step), .value = "PX", .fallback = "64", .low = 1,
     .high = 8192, .help = "sides of the boxes are multiples of this"},
    {.name = "bucket_min", .kind = CLI_INT, .offset = AT(bucket_min), .value = "PX", .fallback = "0", .low = 0,
     .high = 16384, .help = "their shortest side; 0: half the resolution"},
    {.name = "bucket_max", .kind = CLI_INT, .offset = AT(bucket_max), .value = "PX", .fallback = "0", .low = 0,
     .high = 16384, .help = "their longest side; 0: twice the resolution"},
    {.name = "caption_extension", .kind = CLI_TEXT, .offset = AT(caption_extension), .value = "EXT",
     .help = "a picture's prompt is the text in the file beside it with this ending (txt), if there is one; \"{age}\" "
             "in it is the age"},
    {.name = "caption_dropout", .kind = CLI_REAL, .offset = AT(caption_dropout), .value = "P", .fallback = "0",
     .low = 0, .high = 1, .help = "the part of the rows that is trained under the empty prompt"},
    {.name = "mask_dir", .kind = CLI_TEXT, .offset = AT(mask_dir), .value = "DIR",
     .help = "masks, named as the pictures: white counts in the loss, black does not"},
    {.name = "alpha_mask", .kind = CLI_SWITCH, .offset = AT(alpha_mask),
     .help = "the alpha channel of a picture without a mask of its own is its mask (PNG, WebP)"},
    {.name = "mask_min", .kind = CLI_REAL, .offset = AT(mask_min), .value = "W", .fallback = "0", .low = 0, .high = 1,
     .help = "how much black counts"},
    {.name = "color_jitter", .kind = CLI_TEXT, .offset = AT(color_jitter), .value = "B,C,S,H",
     .help = "change brightness, contrast, saturation and hue by up to so much, drawn anew each time "
             "(0.1,0.1,0.1,0.02); pictures are then encoded at each use"},
    {.name = "repeats", .kind = CLI_INT, .offset = AT(repeats), .value = "N", .fallback = "1", .low = 1, .high = 1e6,
     .help = "how often an epoch shows each picture, times the number that its folder's name begins with (10_name)"},
    {.name = "balance_ages", .kind = CLI_SWITCH, .offset = AT(balance_ages),
     .help = "show FFHQ-Aging's age groups (0-2, 3-6, ... 70-120) equally often: pictures of the rare ones more often"},
    {0},
};

const cli_flag cli_word_flags[] = {
    {.name = "placeholder_token", .kind = CLI_TEXT, .offset = AT(placeholder_token), .value = "TOKEN",
     .help = "a new word that prompts or captions have (\"<sks>\"): its embedding is trained too, and written to "
             "learned_embeds.safetensors, which diffusers and sample --embedding load"},
    {.name = "initializer_token", .kind = CLI_TEXT, .offset = AT(initializer_token), .value = "WORD",
     .fallback = "person", .help = "what the embedding begins as"},
    {.name = "num_vectors", .kind = CLI_INT, .offset = AT(num_vectors), .value = "N", .fallback = "1", .low = 1,
     .high = 64, .help = "how many tokens the word stands for"},
    {.name = "embedding_lr", .kind = CLI_REAL, .offset = AT(embedding_lr), .value = "LR", .fallback = "0", .low = 0,
     .high = 1e6, .help = "its own base rate, with the schedule of the other; 0: --learning_rate"},
    {.name = "only_embedding", .kind = CLI_SWITCH, .offset = AT(only_embedding),
     .help = "train nothing else: textual inversion as published (5e-4 is usual)"},
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
    {.name = "offload_optimizer", .kind = CLI_SWITCH, .offset = AT(offload_optimizer),
     .help = "keep the optimizer's states and the average of --ema_decay in the host's memory, which a GPU reads and writes "
             "over the bus: less of its own, slower updates, the same bits"},
    {.name = "mixed_precision", .kind = CLI_CHOICE, .offset = AT(mixed_precision), .choices = PRECISIONS,
     .fallback = "auto", .help = "of activations; auto is bf16 on a GPU and where the CPU has AMX, else no (f32); fp16, with "
                                 "a loss scale that finds itself, is for --device cuda"},
    {.name = "vae_precision", .kind = CLI_CHOICE, .offset = AT(vae_precision), .choices = VAE_PRECISIONS,
     .fallback = "auto", .help = "of the VAE; auto: as --mixed_precision, but f32 (no) beside fp16"},
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
    {.name = "text_encoder_lr", .kind = CLI_REAL, .offset = AT(text_encoder_lr), .value = "LR", .fallback = "0", .low = 0,
     .high = 1e6, .help = "its own base rate, with the schedule of the other; 0: --learning_rate"},
    {.name = "prediction_type", .kind = CLI_CHOICE, .offset = AT(prediction_type), .choices = PREDICTIONS,
     .fallback = "model", .help = "what the U-Net predicts, when the model's scheduler file is wrong"},
    {.name = "min_timestep", .kind = CLI_INT, .offset = AT(min_timestep), .value = "T", .fallback = "0", .low = 0,
     .high = 1e6, .help = "train from this timestep on alone: where there is much noise, what a picture shows is decided "
                          "by the prompt, and where there is little, the details"},
    {.name = "max_timestep", .kind = CLI_INT, .offset = AT(max_timestep), .value = "T", .fallback = "0", .low = 0,
     .high = 1e6, .help = "train below this timestep alone; 0: all of the model's"},
    {.name = "snr_gamma", .kind = CLI_REAL, .offset = AT(snr_gamma), .value = "G", .fallback = "0", .low = 0,
     .high = 1e6, .help = "min-SNR weighting with this gamma (5 is usual); 0: none"},
    {.name = "noise_offset", .kind = CLI_REAL, .offset = AT(noise_offset), .value = "S", .fallback = "0", .low = 0,
     .high = 10, .help = "add S times one normal number per channel to the noise; 0: none"},
    {.name = "loss_type", .kind = CLI_CHOICE, .offset = AT(loss_type), .choices = LOSSES, .fallback = "l2",
     .help = "squared error, or pseudo-Huber"},
    {.name = "huber_c", .kind = CLI_REAL, .offset = AT(huber_c), .value = "C", .fallback = "0.1", .low = 1e-6,
     .high = 1e6, .help = "where the Huber losses turn from square to linear"},
    {.name = "ema_decay", .kind = CLI_REAL, .offset = AT(ema_decay), .value = "D", .fallback = "0", .low = 0,
     .high = 1, .help = "keep a moving average of the weights and save it (0.9999 is usual); 0: none"},
    {0},
};

const cli_flag cli_prior_flags[] = {
    {.name = "with_prior_preservation", .kind = CLI_SWITCH, .offset = AT(with_prior_preservation),
     .help = "learn from pictures of other people beside, so that not every face becomes this one"},
    {.name = "prior_loss_weight", .kind = CLI_REAL, .offset = AT(prior_loss_weight), .value = "W", .fallback = "1.0",
     .low = 0, .high = 1e6, .help = "of the other people's half of the loss"},
    {.name = "prior_target", .kind = CLI_CHOICE, .offset = AT(prior_target), .choices = PRIOR_TARGETS,
     .fallback = "noise", .help = "what the other people's half should predict: the noise, or what the frozen model does"},
    {0},
};

const cli_flag cli_contrast_flags[] = {
    {.name = "contrast_weight", .kind = CLI_REAL, .offset = AT(contrast_weight), .value = "W", .fallback = "0.1",
     .low = 0, .high = 1e6,
     .help = "of SelfAge's contrastive term, in each half; only with prior preservation, and nothing at batch size 1"},
    {0},
};

const cli_flag cli_validation_flags[] = {
    {.name = "validation_prompt", .kind = CLI_TEXT, .offset = AT(validation_prompt), .value = "TEXT",
     .help = "draw pictures of it during training, and at the end, into output_dir/validation; by DDIM, guidance 7.5"},
    {.name = "num_validation_images", .kind = CLI_INT, .offset = AT(num_validation_images), .value = "N", .fallback = "4",
     .low = 1, .high = 10000, .help = "how many, the same first latents each time"},
    {.name = "validation_inference_steps", .kind = CLI_INT, .offset = AT(validation_inference_steps), .value = "N",
     .fallback = "50", .low = 1, .high = 1000, .help = "their denoising steps; at the end 25 at most"},
    {.name = "validation_data_dir", .kind = CLI_TEXT, .offset = AT(validation_data_dir), .value = "DIR",
     .help = "pictures that are never trained on, for a loss whose noise and timesteps are always the same: "
             "validation.csv"},
    {.name = "validation_age_path", .kind = CLI_TEXT, .offset = AT(validation_age_path), .value = "FILE",
     .help = "their ages, when their names do not begin with them"},
    {.name = "num_validation_timesteps", .kind = CLI_INT, .offset = AT(num_validation_timesteps), .value = "N",
     .fallback = "8", .low = 1, .high = 1000, .help = "timesteps at which each of them is tried, spread evenly"},
    {.name = "validation_steps", .kind = CLI_INT, .offset = AT(validation_steps), .value = "N", .fallback = "0", .low = 0,
     .high = 1e9, .help = "updates between validations; 0: not by updates"},
    {.name = "validation_epochs", .kind = CLI_INT, .offset = AT(validation_epochs), .value = "N", .fallback = "50",
     .low = 0, .high = 1e9, .help = "validate after the epochs 0, N, 2 N, ...; 0: not by epochs"},
    {0},
};

const cli_flag cli_optimizer_flags[] = {
    {.name = "optimizer", .kind = CLI_CHOICE, .offset = AT(optimizer), .choices = opt_kind_names,
     .fallback = "adamw", .help = "which one; each with its published defaults. adamw8bit keeps moments in one byte"},
    {.name = "learning_rate", .kind = CLI_REAL, .offset = AT(learning_rate), .value = "LR", .fallback = "5e-6",
     .low = 0, .high = 1e6,
     .help = "the base rate, whatever the optimizer; prodigy wants 1.0, lion a third to a tenth of adamw's"},
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
    {.name = "use_8bit_adam", .kind = CLI_SWITCH, .offset = AT(use_8bit_adam), .help = "--optimizer adamw8bit"},
    {.name = "adam_beta1", .kind = CLI_REAL, .offset = AT(adam_beta1), .value = "B", .low = 0, .high = 0.9999999,
     .help = "memory of the first moment, of any optimizer that has one",
     .unset = "the optimizer's own: 0.9; ranger 0.95; adafactor no first moment"},
    {.name = "adam_beta2", .kind = CLI_REAL, .offset = AT(adam_beta2), .value = "B", .low = 0, .high = 0.9999999,
     .help = "memory of the second moment; of lion's only one", .unset = "the optimizer's own: 0.999; lion 0.99"},
    {.name = "adam_weight_decay", .kind = CLI_REAL, .offset = AT(adam_weight_decay), .value = "W", .low = 0,
     .high = 1e6, .help = "weight decay of any optimizer, on every trained tensor; decoupled, but sgd adds it to the gradient",
     .unset = "the optimizer's own: adamw and adamw8bit 1e-2, others 0"},
    {.name = "adam_epsilon", .kind = CLI_REAL, .offset = AT(adam_epsilon), .value = "E", .low = 0, .high = 1,
     .help = "added to the root of the second moment; by adafactor to squared gradients",
     .unset = "the optimizer's own: 1e-8; ranger 1e-5; adafactor 1e-30"},
    {.name = "max_grad_norm", .kind = CLI_REAL, .offset = AT(max_grad_norm), .value = "G", .fallback = "1.0",
     .low = 0, .high = 1e30, .help = "clip the joint gradient norm to this; 0: do not"},
    {.name = "sgd_momentum", .kind = CLI_REAL, .offset = AT(sgd_momentum), .value = "M", .fallback = "0", .low = 0,
     .high = 0.9999999, .help = "of sgd's buffer; 0: it keeps none"},
    {.name = "sgd_dampening", .kind = CLI_REAL, .offset = AT(sgd_dampening), .value = "D", .fallback = "0", .low = 0,
     .high = 1, .help = "of the gradients that enter the buffer"},
    {.name = "sgd_nesterov", .kind = CLI_SWITCH, .offset = AT(sgd_nesterov), .help = "Nesterov's momentum"},
    {.name = "ranger_alpha", .kind = CLI_REAL, .offset = AT(ranger_alpha), .value = "A", .fallback = "0.5", .low = 0,
     .high = 1, .help = "how far ranger's slow weights go towards the fast ones"},
    {.name = "ranger_k", .kind = CLI_INT, .offset = AT(ranger_k), .value = "N", .fallback = "6", .low = 1, .high = 1e9,
     .help = "updates between steps of the slow weights"},
    {.name = "ranger_use_gc", .kind = CLI_SWITCH, .offset = AT(ranger_use_gc), .fallback = "true",
     .help = "centre the gradient of every output row; on unless switched off (=false)"},
    {.name = "ranger_gc_conv_only", .kind = CLI_SWITCH, .offset = AT(ranger_gc_conv_only),
     .help = "of convolutions only, not of linear layers"},
    {.name = "adafactor_relative_step", .kind = CLI_CHOICE, .offset = AT(adafactor_relative_step),
     .choices = AUTOMATIC, .fallback = "auto",
     .help = "adafactor's rate is min(0.01, 1/sqrt(update)) instead of --learning_rate and its schedule; auto: unless "
             "--learning_rate is given"},
    {.name = "adafactor_scale_parameter", .kind = CLI_SWITCH, .offset = AT(adafactor_scale_parameter),
     .fallback = "true", .help = "multiply the rate by each tensor's root mean square; on unless switched off (=false)"},
    {.name = "adafactor_warmup_init", .kind = CLI_SWITCH, .offset = AT(adafactor_warmup_init),
     .help = "the relative step begins as update / 10^6"},
    {.name = "adafactor_clip_threshold", .kind = CLI_REAL, .offset = AT(adafactor_clip_threshold), .value = "R",
     .fallback = "1", .low = 1e-9, .high = 1e9, .help = "root mean square that a tensor's step may have, before the rate"},
    {.name = "adafactor_decay_rate", .kind = CLI_REAL, .offset = AT(adafactor_decay_rate), .value = "C",
     .fallback = "-0.8", .low = -100, .high = 0, .help = "the second moments' memory at update t is 1 - t^C"},
    {.name = "adafactor_scale_epsilon", .kind = CLI_REAL, .offset = AT(adafactor_scale_epsilon), .value = "E",
     .fallback = "1e-3", .low = 0, .high = 1e6, .help = "least root mean square of a tensor that scales the rate"},
    {.name = "prodigy_d0", .kind = CLI_REAL, .offset = AT(prodigy_d0), .value = "D", .fallback = "1e-6", .low = 1e-30,
     .high = 1e6, .help = "prodigy's first guess of its step size"},
    {.name = "prodigy_d_coef", .kind = CLI_REAL, .offset = AT(prodigy_d_coef), .value = "C", .fallback = "1",
     .low = 1e-9, .high = 1e9, .help = "times the estimate of the step size"},
    {.name = "prodigy_growth_rate", .kind = CLI_REAL, .offset = AT(prodigy_growth_rate), .value = "G", .fallback = "0",
     .low = 0, .high = 1e30, .help = "the step size grows by this factor an update at most; 0: no bound"},
    {.name = "prodigy_beta3", .kind = CLI_REAL, .offset = AT(prodigy_beta3), .value = "B", .low = 0, .high = 0.9999999,
     .help = "memory of the estimate of the step size", .unset = "the root of beta2"},
    {.name = "prodigy_use_bias_correction", .kind = CLI_SWITCH, .offset = AT(prodigy_use_bias_correction),
     .help = "Adam's corrections of the first updates"},
    {.name = "prodigy_safeguard_warmup", .kind = CLI_SWITCH, .offset = AT(prodigy_safeguard_warmup),
     .help = "leave the rate out of the estimate, when the schedule warms up"},
    {.name = "prodigy_decouple", .kind = CLI_SWITCH, .offset = AT(prodigy_decouple), .fallback = "true",
     .help = "decoupled weight decay; on unless switched off (=false), which adds it to the gradient"},
    {0},
};

const cli_flag cli_unused_flags[] = {
    CLI_UNUSED_TEXT(0, "sample_batch_size", "this recipe samples nothing"),
    CLI_UNUSED_TEXT(1, "prior_generation_precision", "this recipe samples nothing"),
    CLI_UNUSED_TEXT(2, "local_rank", "ranks come from the launcher"),
    CLI_UNUSED_TEXT(3, "dataloader_num_workers", "pictures are encoded once, by all threads"),
    CLI_UNUSED_TEXT(4, "hub_token", "nothing is uploaded"),
    CLI_UNUSED_TEXT(5, "hub_model_id", "nothing is uploaded"),
    CLI_UNUSED_SWITCH(0, "enable_xformers_memory_efficient_attention", "attention never materialises its scores here"),
    CLI_UNUSED_SWITCH(1, "push_to_hub", "nothing is uploaded"),
    {0},
};

static bool has_own_rate(const train_options *o)
{
    return o->optimizer == OPT_ADAFACTOR && o->adafactor_relative_step == TRAIN_TRUE;
}

/* Say which flags the chosen optimizer does not hear. */
static void note_unheard(const train_options *o, const cli_parsed *parsed)
{
    static const struct {
        const char *name;
        unsigned use;
    } shared[] = {{"adam_beta1", OPT_USES_BETA1}, {"adam_beta2", OPT_USES_BETA2}, {"adam_epsilon", OPT_USES_EPS}};
    static const char *const of_rate[] = {"learning_rate", "scale_lr", "lr_scheduler"};
    const opt_kind kind = (opt_kind)o->optimizer;
    const char *chosen = opt_kind_names[kind];

    for (const cli_flag *flag = cli_optimizer_flags; flag->name; flag++)
        for (int k = 0; k < OPT_N_KINDS; k++) {
            const size_t n = strlen(opt_kind_names[k]);
            if (k != (int)kind && strncmp(flag->name, opt_kind_names[k], n) == 0 && flag->name[n] == '_' &&
                cli_given(parsed, flag->name))
                fprintf(stderr, "--%s has no effect: the optimizer is %s\n", flag->name, chosen);
        }
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        if (!(opt_uses(kind) & shared[i].use) && cli_given(parsed, shared[i].name))
            fprintf(stderr, "--%s has no effect: %s has no such number\n", shared[i].name, chosen);
    for (size_t i = 0; i < sizeof of_rate / sizeof *of_rate; i++)
        if (has_own_rate(o) && cli_given(parsed, of_rate[i]))
            fprintf(stderr, "--%s has no effect: adafactor's relative step is its rate\n", of_rate[i]);
    if (kind == OPT_PRODIGY && o->learning_rate < 0.1)
        fprintf(stderr, "--learning_rate %g multiplies the step size that prodigy finds: it wants 1.0\n",
                o->learning_rate);
}

ag_status cli_check_optimizer(ag_ctx *ctx, train_options *o, const cli_parsed *parsed)
{
    if (o->use_8bit_adam && o->optimizer != OPT_ADAMW8BIT && o->optimizer != OPT_ADAMW)
        return ag_fail(ctx, AG_EINVAL, "--use_8bit_adam chooses adamw8bit, --optimizer %s another",
                       opt_kind_names[o->optimizer]);
    if (o->optimizer == OPT_ADAFACTOR && o->adafactor_relative_step == TRAIN_AUTO && cli_given(parsed, "learning_rate"))
        o->adafactor_relative_step = TRAIN_FALSE;
    train_settle_optimizer(o);
    note_unheard(o, parsed);
    return AG_OK;
}

/* Say which flags want prior preservation. */
static void note_prior(const train_options *o, const cli_parsed *parsed)
{
    static const char *const names[] = {"prior_loss_weight", "prior_target", "contrast_weight"};

    for (size_t i = 0; i < sizeof names / sizeof *names && !o->with_prior_preservation; i++)
        if (cli_given(parsed, names[i]))
            fprintf(stderr, "--%s has no effect without --with_prior_preservation\n", names[i]);
}

ag_status cli_check_train(ag_ctx *ctx, train_options *o, const cli_parsed *parsed, const cli_flag *unused)
{
    if (o->text_encoder_lr > 0.0 && o->learning_rate == 0.0)
        return ag_fail(ctx, AG_EINVAL, "--text_encoder_lr %g with --learning_rate 0: the schedule is of the latter",
                       o->text_encoder_lr);
    if (o->text_encoder_lr > 0.0 && !o->train_text_encoder)
        fprintf(stderr, "--text_encoder_lr has no effect without --train_text_encoder\n");
    note_prior(o, parsed);
    if (o->offload_optimizer && ag_ctx_target(ctx) != AG_CUDA)
        fprintf(stderr, "--offload_optimizer changes nothing: the CPU's memory is the host's\n");
    for (const cli_flag *flag = unused; flag->name; flag++)
        if (cli_given(parsed, flag->name))
            fprintf(stderr, "--%s has no effect: %s\n", flag->name, flag->help);
    if (cli_check_optimizer(ctx, o, parsed) != AG_OK)
        return ag_status_of(ctx);
    if (!has_own_rate(o) && o->lr_scheduler != OPT_CONSTANT && o->lr_scheduler != OPT_PIECEWISE_CONSTANT &&
        o->max_train_steps > 0 && o->lr_warmup_steps >= o->max_train_steps)
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
