/* lora.c - see lora.h. */
#include "train/lora.h"

#include <string.h>

#include "pipeline/lora.h"
#include "train/log.h"

/* --- lists of names -------------------------------------------------------------------------------- */

enum { MAX_TARGETS = 64 };

typedef struct names {
    char *text; /* what the names point into */
    const char *items[MAX_TARGETS];
    int64_t n;
} names;

/* Names between commas or blanks; `more` (may be NULL) follows. */
static ag_status split(names *out, ag_ctx *ctx, const char *list, const char *more)
{
    char *rest = NULL;

    *out = (names){.text = ag_printf(ctx, "%s,%s", list, more ? more : "")};
    for (char *name = out->text ? strtok_r(out->text, ", ", &rest) : NULL; name; name = strtok_r(NULL, ", ", &rest)) {
        if (out->n == MAX_TARGETS)
            return ag_fail(ctx, AG_EINVAL, "\"%s\": wanted at most %d names", list, MAX_TARGETS);
        out->items[out->n++] = name;
    }
    if (ag_status_of(ctx) == AG_OK && out->n == 0)
        return ag_fail(ctx, AG_EINVAL, "an empty list of layers to adapt");
    return ag_status_of(ctx);
}

/* --- first values -------------------------------------------------------------------------------------- */

static bool is_file(const char *init)
{
    return init && strcmp(init, "gaussian") != 0 && strcmp(init, "kaiming") != 0;
}

static void say(void *user, const char *text)
{
    if (ag_ctx_device(user) != AG_META)
        train_note(NULL, "%s", text);
}

/* --- adapters ------------------------------------------------------------------------------------------ */

static ag_status hang(nn_adapters **out, ag_ctx *ctx, const train_options *o, nn_params *base, const char *targets,
                      const char *more)
{
    names list;
    nn_lora_config config = {.rank = o->rank,
                             .conv_rank = o->lora_conv,
                             .alpha = o->lora_alpha,
                             .conv_alpha = o->lora_alpha,
                             .dropout = o->lora_dropout,
                             .rslora = o->use_rslora,
                             .dora = o->use_dora,
                             .seed = (uint64_t)o->seed};

    if (o->lora_init && strcmp(o->lora_init, "kaiming") == 0)
        config.init = NN_LORA_KAIMING;
    if (split(&list, ctx, targets, more) == AG_OK) {
        config.targets = list.items;
        config.n_targets = list.n;
        nn_adapters_new(out, ctx, base, &config);
    }
    ag_delete(list.text);
    return ag_status_of(ctx);
}

ag_status train_lora_new(train_lora *out, ag_ctx *ctx, const train_options *o, const pipe_model *model)
{
    const char *targets = o->lora_targets ? o->lora_targets : TRAIN_LORA_UNET_TARGETS;
    const char *more = o->lora_conv > 0 && !o->lora_targets ? TRAIN_LORA_CONV_TARGETS : NULL;
    const char *text_targets = o->lora_text_targets ? o->lora_text_targets : TRAIN_LORA_TEXT_TARGETS;

    *out = (train_lora){0};
    if (o->rank == 0 || o->only_embedding)
        return ag_status_of(ctx);
    if (hang(&out->unet, ctx, o, pipe_params(model, DATA_UNET), targets, more) == AG_OK && o->train_text_encoder)
        hang(&out->text, ctx, o, pipe_params(model, DATA_TEXT_ENCODER), text_targets, NULL);
    if (ag_status_of(ctx) == AG_OK && is_file(o->lora_init)) /* a forecast too: does the file fit? */
        pipe_lora_load(ctx, out->unet, out->text, o->lora_init, &(pipe_note){.say = say, .user = ctx});
    if (ag_status_of(ctx) != AG_OK)
        train_lora_free(out);
    return ag_status_of(ctx);
}

void train_lora_free(train_lora *lora)
{
    nn_adapters_free(lora->unet);
    nn_adapters_free(lora->text);
    *lora = (train_lora){0};
}

static void set_step(const train_lora *lora, uint32_t step, bool train)
{
    if (lora->unet)
        nn_adapters_set_step(lora->unet, step, train);
    if (lora->text)
        nn_adapters_set_step(lora->text, step, train);
}

void train_lora_set_step(const train_lora *lora, uint32_t step)
{
    set_step(lora, step, true);
}

void train_lora_rest(const train_lora *lora)
{
    set_step(lora, 0, false);
}

void train_lora_use(const train_lora *lora, bool on)
{
    if (lora->unet)
        nn_adapters_use(lora->unet, on);
    if (lora->text)
        nn_adapters_use(lora->text, on);
}

/* The text encoder's own rate. */
static opt_group text_group(void *user, const nn_param *param)
{
    const train_options *o = user;

    (void)param;
    return (opt_group){.lr_factor = o->text_encoder_lr / o->learning_rate, .decay_factor = 1.0};
}

int train_parts(train_part parts[2], ag_ctx *ctx, const train_options *o, const train_lora *lora,
                const pipe_model *model)
{
    parts[0] = (train_part){.params = lora->unet ? nn_adapters_params(lora->unet) : pipe_params(model, DATA_UNET),
                            .prefix = "unet."};
    parts[1] =
        (train_part){.params = lora->text ? nn_adapters_params(lora->text) : pipe_params(model, DATA_TEXT_ENCODER),
                     .prefix = "text_encoder."};
    if (o->text_encoder_lr > 0.0 && o->learning_rate > 0.0) {
        parts[1].group = text_group;
        parts[1].user = (void *)o;
    }
    for (int p = 0; p < 1 + o->train_text_encoder; p++)
        nn_params_train(ctx, parts[p].params, NULL, true);
    return 1 + o->train_text_encoder;
}
