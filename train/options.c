/* options.c - see options.h. */
#include "train/options.h"

#include <math.h>

double train_base_lr(const train_options *o)
{
    return o->scale_lr ? o->learning_rate * (double)(o->gradient_accumulation_steps * o->train_batch_size)
                       : o->learning_rate;
}

void train_settle_optimizer(train_options *o)
{
    opt_config own;
    unsigned uses;

    if (o->use_8bit_adam)
        o->optimizer = OPT_ADAMW8BIT;
    own = opt_defaults((opt_kind)o->optimizer);
    uses = opt_uses((opt_kind)o->optimizer);
    if (isnan(o->adam_beta1) && (uses & OPT_USES_BETA1))
        o->adam_beta1 = own.beta1;
    if (isnan(o->adam_beta2) && (uses & OPT_USES_BETA2))
        o->adam_beta2 = own.beta2;
    if (isnan(o->adam_epsilon) && (uses & OPT_USES_EPS))
        o->adam_epsilon = own.eps;
    if (isnan(o->adam_weight_decay))
        o->adam_weight_decay = own.weight_decay;
    if (isnan(o->prodigy_beta3) && o->optimizer == OPT_PRODIGY)
        o->prodigy_beta3 = sqrt(o->adam_beta2);
    if (o->adafactor_relative_step == TRAIN_AUTO && o->optimizer == OPT_ADAFACTOR)
        o->adafactor_relative_step = TRAIN_TRUE;
}

opt_config train_opt_config(const train_options *options)
{
    train_options o = *options;

    train_settle_optimizer(&o);
    return (opt_config){
        .kind = (opt_kind)o.optimizer,
        .offload = o.offload_optimizer,
        .beta1 = o.adam_beta1,
        .beta2 = o.adam_beta2,
        .eps = o.adam_epsilon,
        .weight_decay = o.adam_weight_decay,
        .sgd = {.momentum = o.sgd_momentum, .dampening = o.sgd_dampening, .nesterov = o.sgd_nesterov},
        .ranger = {.alpha = o.ranger_alpha,
                   .k = o.ranger_k,
                   .use_gc = o.ranger_use_gc,
                   .gc_conv_only = o.ranger_gc_conv_only},
        .adafactor = {.clip_threshold = o.adafactor_clip_threshold,
                      .decay_rate = o.adafactor_decay_rate,
                      .eps2 = o.adafactor_scale_epsilon,
                      .relative_step = o.adafactor_relative_step == TRAIN_TRUE,
                      .scale_parameter = o.adafactor_scale_parameter,
                      .warmup_init = o.adafactor_warmup_init},
        .prodigy = {.d0 = o.prodigy_d0,
                    .d_coef = o.prodigy_d_coef,
                    .growth_rate = o.prodigy_growth_rate > 0.0 ? o.prodigy_growth_rate : INFINITY,
                    .beta3 = o.prodigy_beta3,
                    .use_bias_correction = o.prodigy_use_bias_correction,
                    .safeguard_warmup = o.prodigy_safeguard_warmup,
                    .decouple = o.prodigy_decouple}};
}

opt_schedule train_schedule(const train_options *o, int64_t total)
{
    return (opt_schedule){.kind = (opt_schedule_kind)o->lr_scheduler,
                          .lr = train_base_lr(o),
                          .warmup = o->lr_warmup_steps,
                          .total = total,
                          .cycles = o->lr_num_cycles,
                          .power = o->lr_power,
                          .rules = o->lr_step_rules};
}
