/* options.h - everything a diffusion training run can be told, as plain values.
 *
 * Field names are the flags' names (personalize says self_ref_* for instance_*, regularization_* for class_*,
 * as SelfAge does). The command line fills this struct from a table
 * (cli/train_flags.c) that holds each flag's default and help; nothing below the table knows about
 * text. Strings are borrowed from it.
 */
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "autograd/ops.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "train/sampler.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum train_finetune_mode { TRAIN_DOUBLE_PROMPT, TRAIN_SINGLE_PROMPT } train_finetune_mode;
typedef enum train_precision {
    TRAIN_PRECISION_AUTO,
    TRAIN_PRECISION_NO,
    TRAIN_PRECISION_BF16,
    TRAIN_PRECISION_FP16
} train_precision;

typedef enum train_choice { TRAIN_AUTO, TRAIN_TRUE, TRAIN_FALSE } train_choice;

typedef enum train_prediction {
    TRAIN_PREDICTION_OF_MODEL,
    TRAIN_PREDICTION_EPSILON,
    TRAIN_PREDICTION_V
} train_prediction;

/* What the class's rows should predict: the noise, or what the frozen model does. */
typedef enum train_prior_target { TRAIN_PRIOR_NOISE, TRAIN_PRIOR_MODEL } train_prior_target;

typedef struct train_options {
    /* the model */
    const char *pretrained_model_name_or_path, *revision, *variant, *tokenizer_name;
    int64_t tokenizer_max_length; /* 0: the tokenizer's own */

    /* the data */
    const char *instance_data_dir, *instance_age_path, *instance_prompt;
    int finetune_mode; /* a train_finetune_mode */
    int64_t resolution;
    bool center_crop, random_flip, ignore_exif, no_shuffle;

    /* personalize and dreambooth: the pictures above are the person's, these other people's */
    const char *class_data_dir, *class_age_path, *class_prompt;
    int64_t num_instance_images, num_class_images; /* how many are used; 0: all */
    int64_t sample_batch_size;      /* pictures of the class drawn at a time */
    int prior_generation_precision; /* a train_precision */
    train_sample_fn sample;         /* who draws pictures; NULL: nobody */

    /* more of the data: shapes, how often, captions, masks, colours */
    bool aspect_ratio_buckets;
    int64_t bucket_step, bucket_min, bucket_max; /* bounds 0: R / 2 and 2 R */
    int64_t repeats;                             /* 0 and 1: once */
    bool balance_ages;
    const char *caption_extension;
    double caption_dropout;
    const char *mask_dir;
    bool alpha_mask;
    double mask_min;
    const char *color_jitter;

    /* the run */
    const char *output_dir, *logging_dir, *report_to;
    int64_t seed; /* < 0: the clock chose it, and it was printed */
    int64_t train_batch_size, gradient_accumulation_steps;
    int64_t num_train_epochs, max_train_steps; /* steps 0: from epochs */
    int64_t checkpointing_steps, checkpoints_total_limit; /* 0: no limit */
    const char *resume_from_checkpoint;
    bool overwrite_output_dir;
    bool no_cache; /* compute latents and text anew each step */
    const char *cache_dir;

    /* validation (train/validation.h) */
    const char *validation_prompt, *validation_data_dir, *validation_age_path;
    int64_t num_validation_images, validation_inference_steps, num_validation_timesteps;
    int64_t validation_steps, validation_epochs; /* 0: not by these */

    /* memory and arithmetic */
    bool gradient_checkpointing, offload_optimizer;
    int mixed_precision, vae_precision; /* a train_precision; the VAE's own */

    /* what is trained, and towards what */
    bool train_text_encoder, torch_rng, same_timestep;
    int64_t min_timestep, max_timestep; /* drawn from [min, max); max 0: the schedule's end */
    double snr_gamma;    /* 0: off */
    double noise_offset; /* 0: off */
    bool offset_noise;   /* a noise_offset of 0.1, as dreambooth's program says it */
    int loss_type;       /* an ag_loss_kind */
    double huber_c;
    double ema_decay;    /* 0: off */
    int prediction_type; /* a train_prediction */
    bool with_prior_preservation;
    double prior_loss_weight, contrast_weight;
    int prior_target; /* a train_prior_target */

    /* LoRA */
    int64_t rank; /* 0: none, whole weights are trained */
    double lora_alpha; /* 0: the rank */
    double lora_dropout;
    bool use_rslora, use_dora;
    int64_t lora_conv; /* the rank of convolutions of more than 1x1; 0: they get none */
    const char *lora_targets, *lora_text_targets; /* names, with commas; NULL: the attention's */
    const char *lora_init; /* "gaussian" (NULL), "kaiming", or a file of first values */

    /* textual inversion */
    const char *placeholder_token, *initializer_token; /* NULL: none; "person" */
    int64_t num_vectors;  /* 0: 1 */
    bool only_embedding;  /* train nothing else */
    double embedding_lr;  /* 0: the learning rate */

    /* how */
    int optimizer; /* an opt_kind */
    double learning_rate;
    double text_encoder_lr; /* 0: the same */
    bool scale_lr;
    int lr_scheduler; /* an opt_schedule_kind */
    int64_t lr_warmup_steps;
    double lr_num_cycles, lr_power;
    const char *lr_step_rules;
    bool use_8bit_adam; /* chooses OPT_ADAMW8BIT */
    double adam_beta1, adam_beta2, adam_weight_decay, adam_epsilon; /* NAN: the optimizer's own */
    double sgd_momentum, sgd_dampening;
    bool sgd_nesterov;
    double ranger_alpha;
    int64_t ranger_k;
    bool ranger_use_gc, ranger_gc_conv_only;
    int adafactor_relative_step; /* a train_choice */
    bool adafactor_scale_parameter, adafactor_warmup_init;
    double adafactor_clip_threshold, adafactor_decay_rate, adafactor_scale_epsilon;
    double prodigy_d0, prodigy_d_coef;
    double prodigy_growth_rate; /* 0: no bound */
    double prodigy_beta3;       /* NAN: the root of beta2 */
    bool prodigy_use_bias_correction, prodigy_safeguard_warmup, prodigy_decouple;
    double max_grad_norm;
} train_options;

/* Put in what was left open about the chosen optimizer: its own numbers; Adafactor's relative step is on. */
void train_settle_optimizer(train_options *options);

/* The learning rate after --scale_lr (times accumulation and batch). */
double train_base_lr(const train_options *options);
opt_config train_opt_config(const train_options *options);
/* The schedule of a run of `total` updates. */
opt_schedule train_schedule(const train_options *options, int64_t total);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_OPTIONS_H */
