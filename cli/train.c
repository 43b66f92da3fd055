/* train.c - see train.h. */
#include "cli/train.h"

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
    if (!trainer->prepare || trainer->prepare(ctx, &o->train) == AG_OK)
        trainer->train(ctx, &o->train, config);
    json_decref(config);
    return ag_status_of(ctx);
}

int cli_train_run(const cli_trainer *trainer, int argc, char *const *argv, cli_body body)
{
    return cli_run(trainer->syntax, sizeof(cli_train_options), offsetof(cli_train_options, device), argc, argv, body);
}
