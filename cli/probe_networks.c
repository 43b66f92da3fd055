/* probe_networks.c - agewright probe text_encoder|unet|vae_encode|vae_decode. */
#include <string.h>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "cli/lora.h"
#include "cli/probe.h"
#include "train/precision.h"

static const cli_group GROUPS[] = {{"files", probe_file_flags, 0},
                                   {"arithmetic", probe_precision_flags, 0},
                                   {"the machine", cli_device_flags, offsetof(probe_common, device)},
                                   {0}};

static const cli_flag LORA_FLAGS[] = {
    {.name = "lora", .kind = CLI_TEXTS, .offset = offsetof(probe_common, loras), .value = "FILE[:WEIGHT]",
     .help = CLI_LORA_HELP},
    {0},
};

static const cli_group LORA_GROUPS[] = {{"files", probe_file_flags, 0},
                                        {"what is merged into the weights", LORA_FLAGS, 0},
                                        {"arithmetic", probe_precision_flags, 0},
                                        {"the machine", cli_device_flags, offsetof(probe_common, device)},
                                        {0}};

/* One probe of a network, from inputs to the list of outputs. */
typedef struct probe {
    ag_ctx *ctx;
    const probe_common *o;
    pipe_model *model;
    probe_in in;
    probe_out out;
    ag_dtype compute;
} probe;

static ag_tensor *want_gradient(probe *p, ag_tensor *t)
{
    if (t && p->o->grad)
        ag_set_requires_grad(p->ctx, t, true);
    return t;
}

/* An input in our layout, as a leaf of its own. */
static ag_tensor *input(probe *p, const char *name, int n_dims, const int64_t *dims)
{
    return want_gradient(p, probe_in_tensor(&p->in, p->ctx, name, n_dims, dims));
}

static ag_status finish(probe *p, data_component component, const probe_wanted *wanted, int n, ag_tensor *output)
{
    ag_tensor *cotangent = NULL;
    int64_t dims[4];

    if (!output)
        return ag_status_of(p->ctx);
    if (p->o->grad) {
        const int n_dims = ag_ndim(output);
        for (int i = 0; i < n_dims; i++)
            dims[i] = ag_dim(output, i);
        if (n_dims == 4) { /* the file's is [N,C,H,W] */
            dims[1] = ag_dim(output, 3);
            dims[2] = ag_dim(output, 1);
            dims[3] = ag_dim(output, 2);
        }
        cotangent = probe_in_tensor(&p->in, p->ctx, "cotangent", n_dims, dims);
    }
    if (probe_in_finish(&p->in, p->ctx) != AG_OK || !p->o->grad)
        return ag_status_of(p->ctx);
    return probe_gradients(&p->out, p->ctx, pipe_params(p->model, component), wanted, n, output, cotangent);
}

static ag_status text_encoder(probe *p)
{
    const nn_clip_options options = {.checkpointing = p->o->gradient_checkpointing, .compute = p->compute};
    int64_t dims[2], *ids;
    ag_tensor *y = NULL;

    if (probe_in_shape(&p->in, p->ctx, "input_ids", 2, dims) != AG_OK)
        return ag_status_of(p->ctx);
    ids = probe_in_integers(&p->in, p->ctx, "input_ids", 2, dims);
    if (ids)
        y = nn_clip_text_forward(p->ctx, p->model->text, ag_from_i64(p->ctx, ids, 2, dims), &options);
    ag_delete(ids);
    if (y)
        probe_out_tensor(&p->out, p->ctx, "last_hidden_state", y);
    return finish(p, DATA_TEXT_ENCODER, NULL, 0, y);
}

/* timestep [N], integer or floating. */
static ag_tensor *read_timestep(probe *p, int64_t n)
{
    const int64_t i = p->in.file ? data_weights_find(p->in.file, "timestep") : -1;
    ag_tensor *t = NULL;
    float *values = NULL;

    if (i >= 0 && !data_dtype_is_float(data_weights_at(p->in.file, i)->dtype)) {
        int64_t *whole = probe_in_integers(&p->in, p->ctx, "timestep", 1, &n);
        values = whole ? ag_new(p->ctx, (size_t)n, sizeof *values, "timestep") : NULL;
        for (int64_t k = 0; values && k < n; k++)
            values[k] = (float)whole[k];
        ag_delete(whole);
    } else {
        values = probe_in_floats(&p->in, p->ctx, "timestep", 1, &n);
    }
    if (values)
        t = ag_from_f32(p->ctx, values, 1, &n);
    ag_delete(values);
    return t;
}

static ag_status unet(probe *p)
{
    const nn_unet_options options = {.checkpointing = p->o->gradient_checkpointing, .compute = p->compute};
    const nn_unet_config *c = nn_unet_config_of(p->model->unet);
    int64_t x_dims[4], c_dims[3];
    probe_wanted wanted[2];
    ag_tensor *t, *y;

    if (probe_in_shape(&p->in, p->ctx, "sample", 4, x_dims) != AG_OK ||
        probe_in_shape(&p->in, p->ctx, "encoder_hidden_states", 3, c_dims) != AG_OK)
        return ag_status_of(p->ctx);
    x_dims[1] = c->in_channels;
    c_dims[0] = x_dims[0];
    c_dims[2] = c->cross_attention_dim;
    wanted[0] = (probe_wanted){"sample", input(p, "sample", 4, x_dims)};
    wanted[1] = (probe_wanted){"encoder_hidden_states", input(p, "encoder_hidden_states", 3, c_dims)};
    t = read_timestep(p, x_dims[0]);
    y = nn_unet_forward(p->ctx, p->model->unet, wanted[0].t, t, wanted[1].t, &options);
    if (y)
        probe_out_tensor(&p->out, p->ctx, "sample", y);
    return finish(p, DATA_UNET, wanted, 2, y);
}

static ag_status vae_encode(probe *p)
{
    const nn_vae_options options = {.checkpointing = p->o->gradient_checkpointing, .compute = p->compute};
    int64_t dims[4];
    probe_wanted wanted;
    ag_tensor *moments, *mean, *logvar;

    if (probe_in_shape(&p->in, p->ctx, "pixels", 4, dims) != AG_OK)
        return ag_status_of(p->ctx);
    dims[1] = nn_vae_config_of(p->model->vae)->in_channels;
    wanted = (probe_wanted){"pixels", input(p, "pixels", 4, dims)};
    moments = nn_vae_encode(p->ctx, p->model->vae, wanted.t, &options);
    mean = nn_vae_mean(p->ctx, p->model->vae, moments);
    logvar = nn_vae_logvar(p->ctx, p->model->vae, moments);
    if (mean && logvar) {
        probe_out_tensor(&p->out, p->ctx, "mean", mean);
        probe_out_tensor(&p->out, p->ctx, "logvar", logvar);
    }
    return finish(p, DATA_VAE, &wanted, 1, mean);
}

static ag_status vae_decode(probe *p)
{
    const nn_vae_options options = {.checkpointing = p->o->gradient_checkpointing, .compute = p->compute};
    int64_t dims[4];
    probe_wanted wanted;
    ag_tensor *pixels;

    if (probe_in_shape(&p->in, p->ctx, "latent", 4, dims) != AG_OK)
        return ag_status_of(p->ctx);
    dims[1] = nn_vae_config_of(p->model->vae)->latent_channels;
    wanted = (probe_wanted){"latent", input(p, "latent", 4, dims)};
    pixels = nn_vae_decode(p->ctx, p->model->vae, wanted.t, &options);
    if (pixels)
        probe_out_tensor(&p->out, p->ctx, "pixels", pixels);
    return finish(p, DATA_VAE, &wanted, 1, pixels);
}

static ag_status run(ag_ctx *ctx, const probe_common *o, data_component component, ag_status (*network)(probe *p))
{
    const pipe_source source = {.model = o->model};
    probe p = {.ctx = ctx, .o = o};

    if (!o->model || !o->in)
        return ag_fail(ctx, AG_EINVAL, "--%s is required", o->model ? "in" : "model");
    p.compute = train_compute_dtype(ctx, o->mixed_precision);
    ag_record(ctx, o->grad);
    if (ag_status_of(ctx) == AG_OK && probe_in_open(&p.in, ctx, o->in) == AG_OK &&
        pipe_open(&p.model, ctx, &source, 1u << component) == AG_OK &&
        cli_lora_merge(ctx, p.model, &o->loras) == AG_OK) {
        if (o->grad)
            nn_params_train(ctx, pipe_params(p.model, component), NULL, true);
        if (network(&p) == AG_OK)
            probe_out_write(&p.out, ctx, o->out);
    }
    probe_out_free(&p.out);
    probe_in_close(&p.in);
    pipe_close(p.model);
    return ag_status_of(ctx);
}

static ag_status text_body(ag_ctx *ctx, void *o, const cli_parsed *parsed)
{
    (void)parsed;
    return run(ctx, o, DATA_TEXT_ENCODER, text_encoder);
}

static ag_status unet_body(ag_ctx *ctx, void *o, const cli_parsed *parsed)
{
    (void)parsed;
    return run(ctx, o, DATA_UNET, unet);
}

static ag_status encode_body(ag_ctx *ctx, void *o, const cli_parsed *parsed)
{
    (void)parsed;
    return run(ctx, o, DATA_VAE, vae_encode);
}

static ag_status decode_body(ag_ctx *ctx, void *o, const cli_parsed *parsed)
{
    (void)parsed;
    return run(ctx, o, DATA_VAE, vae_decode);
}

int probe_networks(int argc, char *const *argv)
{
    static const struct {
        cli_syntax syntax;
        cli_body body;
    } NETWORKS[] = {
        {{.command = "probe text_encoder", .usage = "--model DIR --in IN --out OUT",
          .summary = "input_ids [N,T] -> last_hidden_state [N,T,D], after the final layer norm",
          .groups = LORA_GROUPS},
         text_body},
        {{.command = "probe unet", .usage = "--model DIR --in IN --out OUT",
          .summary = "sample [N,C,H,W], timestep [N], encoder_hidden_states [N,T,Dc] -> sample [N,C,H,W]",
          .groups = LORA_GROUPS},
         unet_body},
        {{.command = "probe vae_encode", .usage = "--model DIR --in IN --out OUT",
          .summary = "pixels [N,3,H,W] in -1..1 -> mean, logvar (clamped) [N,4,h,w], unscaled; the cotangent is the "
                     "mean's", .groups = GROUPS},
         encode_body},
        {{.command = "probe vae_decode", .usage = "--model DIR --in IN --out OUT",
          .summary = "latent [N,4,h,w], unscaled -> pixels [N,3,H,W], not clamped", .groups = GROUPS},
         decode_body},
    };

    for (size_t i = 0; i < sizeof NETWORKS / sizeof *NETWORKS; i++)
        if (strcmp(NETWORKS[i].syntax.command + strlen("probe "), argv[0]) == 0)
            return cli_run(&NETWORKS[i].syntax, sizeof(probe_common), offsetof(probe_common, device), argc, argv,
                           NETWORKS[i].body);
    return CLI_EXIT_USAGE;
}
