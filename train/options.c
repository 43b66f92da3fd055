/* options.c - see options.h. */
#include "train/options.h"

double train_base_lr(const train_options *o)
{
    return o->scale_lr ? o->learning_rate * (double)(o->gradient_accumulation_steps * o->train_batch_size)
                       : o->learning_rate;
}

opt_config train_opt_config(const train_options *o)
{
    return (opt_config){.kind = (opt_kind)o->optimizer,
                        .beta1 = o->adam_beta1,
                        .beta2 = o->adam_beta2,
                        .eps = o->adam_epsilon,
                        .weight_decay = o->adam_weight_decay};
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
