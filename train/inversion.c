/* inversion.c - see inversion.h. */
#include "train/inversion.h"

#include "pipeline/words.h"

bool train_inversion_is_on(const train_options *o)
{
    return o->placeholder_token != NULL;
}

ag_status train_inversion_check(ag_ctx *ctx, const train_options *o)
{
    if (!train_inversion_is_on(o))
        return !o->only_embedding
                   ? AG_OK
                   : ag_fail(ctx, AG_EINVAL, "--only_embedding trains that of --placeholder_token, which is not given");
    if (o->only_embedding && o->train_text_encoder)
        return ag_fail(ctx, AG_EINVAL, "--only_embedding and --train_text_encoder: wanted one of them");
    if (o->embedding_lr > 0.0 && o->learning_rate == 0.0)
        return ag_fail(ctx, AG_EINVAL, "--embedding_lr %g with --learning_rate 0: the schedule is of the latter",
                       o->embedding_lr);
    return AG_OK;
}

ag_status train_inversion_open(ag_ctx *ctx, pipe_model *model, const train_options *o)
{
    if (!train_inversion_is_on(o))
        return ag_status_of(ctx);
    return pipe_words_add(ctx, model, o->placeholder_token, o->num_vectors > 0 ? o->num_vectors : 1,
                          o->initializer_token ? o->initializer_token : "person");
}

ag_status train_inversion_check_prompts(ag_ctx *ctx, const pipe_model *model, const train_prompts *prompts,
                                        const train_options *o)
{
    if (train_inversion_is_on(o) && train_prompts_largest_id(prompts) < data_tokenizer_size(model->tokenizer) - 1)
        return ag_fail(ctx, AG_EINVAL,
                       "--placeholder_token %s: no prompt has it, or not within its first tokens (the first is \"%s\")",
                       o->placeholder_token, train_prompts_text(prompts, 0));
    return AG_OK;
}

static opt_group group_of(void *user, const nn_param *param)
{
    const train_options *o = user;

    (void)param;
    return (opt_group){.lr_factor = o->embedding_lr > 0.0 ? o->embedding_lr / o->learning_rate : 1.0,
                       .decay_factor = 1.0};
}

int train_inversion_part(train_part *part, ag_ctx *ctx, const train_options *o, const pipe_model *model)
{
    if (!train_inversion_is_on(o))
        return 0;
    *part = (train_part){
        .params = pipe_words_params(model), .prefix = "embedding.", .group = group_of, .user = (void *)o};
    nn_params_train(ctx, part->params, NULL, true);
    return 1;
}

ag_status train_inversion_save(ag_ctx *ctx, const pipe_model *model, const train_options *o, const char *folder)
{
    char *path;

    if (!train_inversion_is_on(o))
        return ag_status_of(ctx);
    path = ag_printf(ctx, "%s/" TRAIN_INVERSION_FILE, folder);
    if (path)
        pipe_words_save(ctx, model, path);
    ag_delete(path);
    return ag_status_of(ctx);
}
