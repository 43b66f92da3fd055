/* objective.c - see objective.h. */
#include "train/objective.h"

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "train/contrast.h"

ag_status train_objective_init(train_objective *out, ag_ctx *ctx, const train_options *o, const train_lora *lora)
{
    const bool asks_model = o->with_prior_preservation && o->prior_target == TRAIN_PRIOR_MODEL;

    *out = (train_objective){.with_prior = o->with_prior_preservation,
                             .prior_loss_weight = o->prior_loss_weight,
                             .contrast_weight = o->contrast_weight,
                             .frozen = asks_model ? lora : NULL};
    if (asks_model && !lora->unet)
        return ag_fail(ctx, AG_EINVAL,
                       "--prior_target model wants adapters to leave out, and whole weights are trained");
    return ag_status_of(ctx);
}

bool train_objective_wants_class_context(const train_objective *o)
{
    return o->frozen != NULL;
}

/* Give the second half of the targets to the frozen model. */
static void ask_frozen(train_predicted *p, ag_ctx *ctx, const train_objective *o, const train_diffusion *d,
                       const train_rows *rows)
{
    const int64_t half = rows->n / 2;
    const train_rows classes = {.n = half,
                                .latents = ag_slice(ctx, rows->latents, 0, half, half),
                                .noise = ag_slice(ctx, rows->noise, 0, half, half),
                                .timesteps = rows->timesteps ? rows->timesteps + half : NULL,
                                .times = rows->times ? ag_slice(ctx, rows->times, 1, half, half) : NULL,
                                .context = rows->class_context};
    const bool was = ag_record(ctx, false);
    train_predicted answer = {0};

    train_lora_use(o->frozen, false);
    train_diffusion_predict(&answer, ctx, d, &classes);
    train_lora_use(o->frozen, true);
    p->target = ag_concat(ctx, ag_slice(ctx, p->target, 0, 0, half), answer.prediction, 0);
    ag_record(ctx, was);
}

/* Rows first .. first + n - 1. */
static ag_tensor *half_loss(ag_ctx *ctx, const train_objective *o, const train_predicted *p, ag_tensor *row_losses,
                            int64_t first, int64_t n)
{
    ag_tensor *loss = ag_mean(ctx, ag_slice(ctx, row_losses, 0, first, n), AG_ALL_AXES, false), *contrast;

    if (o->contrast_weight <= 0.0)
        return loss;
    contrast = train_contrast(ctx, ag_slice(ctx, p->prediction, 0, first, n), ag_slice(ctx, p->target, 0, first, n),
                              TRAIN_CONTRAST_TAU);
    return ag_add(ctx, loss, ag_scale(ctx, contrast, o->contrast_weight));
}

ag_tensor *train_objective_loss(ag_ctx *ctx, const train_objective *objective, const train_diffusion *diffusion,
                                const train_rows *rows, ag_tensor **row_losses)
{
    const int64_t half = rows->n / 2;
    train_predicted p;
    ag_tensor *instances, *classes;

    if (objective->with_prior && rows->n % 2) {
        ag_fail(ctx, AG_ESHAPE, "prior preservation: a batch of %lld rows has no halves", (long long)rows->n);
        return NULL;
    }
    if (train_diffusion_predict(&p, ctx, diffusion, rows) != AG_OK)
        return NULL;
    if (objective->frozen)
        ask_frozen(&p, ctx, objective, diffusion, rows);
    *row_losses = train_diffusion_rows(ctx, diffusion, rows, &p, objective->with_prior ? half : rows->n);
    if (!objective->with_prior)
        return ag_mean(ctx, *row_losses, AG_ALL_AXES, false);
    instances = half_loss(ctx, objective, &p, *row_losses, 0, half);
    classes = half_loss(ctx, objective, &p, *row_losses, half, half);
    return ag_add(ctx, instances, ag_scale(ctx, classes, objective->prior_loss_weight));
}
