/* train.c - see train.h. */
#include "cli/train.h"

#include "edit/generate.h"

/* By DDIM; the published programs use DPM-Solver++ here. */
ag_status cli_train_sample(data_image *images, ag_ctx *ctx, pipe_model *model, const train_sample_request *r)
{
    const edit_generate_options options = {.prompts = &r->prompt,
                                           .n_prompts = 1,
                                           .per_prompt = r->n,
                                           .first = r->first,
                                           .seed = r->seed,
                                           .sampler = EDIT_DDIM,
                                           .n_steps = r->n_steps,
                                           .guidance = r->guidance,
                                           .batch = r->n,
                                           .compute = r->compute,
                                           .vae_compute = r->vae_compute};

    return edit_generate(images, ctx, model, &options);
}

ag_status cli_train_body(ag_ctx *ctx, void *options, const cli_parsed *parsed, const cli_trainer *trainer)
{
    cli_train_options *o = options;
    json_t *config;

    if (trainer->settle)
        trainer->settle(&o->train, parsed);
    if (cli_check_train(ctx, &o->train, parsed, trainer->unused) != AG_OK)
        return ag_status_of(ctx);
    config = cli_effective(trainer->syntax, o);
    if (!config)
        return ag_fail(ctx, AG_ENOMEM, "no memory for the configuration");
    json_object_del(config, "hub_token"); /* a secret: the configuration goes where the model goes */
    o->train.sample = cli_train_sample;
    trainer->train(ctx, &o->train, config);
    json_decref(config);
    return ag_status_of(ctx);
}

int cli_train_run(const cli_trainer *trainer, int argc, char *const *argv, cli_body body)
{
    return cli_run(trainer->syntax, sizeof(cli_train_options), offsetof(cli_train_options, device), argc, argv, body);
}
