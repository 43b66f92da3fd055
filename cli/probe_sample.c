/* probe_sample.c - agewright probe sample: every latent on the way from noise. */
#include <string.h>

#include "autograd/grad.h"
#include "cli/probe.h"
#include "edit/generate.h"
#include "train/options.h"
#include "train/precision.h"

typedef struct options {
    probe_common common;
    int sampler;
    int64_t steps;
    double guidance;
} options;

#define AT(field) offsetof(options, field)

static const cli_flag FLAGS[] = {
    {.name = "scheduler", .kind = CLI_CHOICE, .offset = AT(sampler), .choices = edit_sampler_names,
     .fallback = "ddim", .help = "the sampler"},
    {.name = "num_inference_steps", .kind = CLI_INT, .offset = AT(steps), .value = "N", .fallback = "50", .low = 1,
     .high = 1000, .help = "denoising steps"},
    {.name = "guidance_scale", .kind = CLI_REAL, .offset = AT(guidance), .value = "G", .fallback = "7.5", .low = 0,
     .high = 1000, .help = "up to 1: no guidance"},
    {0},
};

static const cli_group GROUPS[] = {{"files", probe_file_flags, 0},
                                   {"arithmetic", probe_precision_flags, 0},
                                   {"sampling", FLAGS, 0},
                                   {"the machine", cli_device_flags, offsetof(options, common.device)},
                                   {0}};

static const cli_syntax SYNTAX = {
    .command = "probe sample",
    .usage = "--model DIR --in IN --out OUT",
    .summary = "latents [N,4,h,w] (unit normal), cond and uncond [N,T,Dc] -> timesteps [S], trajectory [S+1,N,4,h,w]",
    .groups = GROUPS,
};

/* The latents after each step, gathered on the host as [S+1, N,4,h,w]. */
typedef struct trajectory {
    ag_ctx *ctx;
    float *values;
    int64_t n; /* values of one entry */
} trajectory;

static void keep(void *user, int64_t step, int64_t n_steps, ag_tensor *x)
{
    trajectory *t = user;
    const ag_scope scope = ag_scope_open(t->ctx);
    ag_tensor *published = ag_permute(t->ctx, x, (int[]){0, 3, 1, 2});

    (void)n_steps;
    ag_read(t->ctx, published, t->values + step * t->n, (size_t)t->n * sizeof *t->values);
    ag_scope_close(t->ctx, scope, NULL);
}

static ag_status sample(ag_ctx *ctx, const options *o, pipe_model *model, probe_in *in, probe_out *out)
{
    const nn_unet_options unet = {.compute = train_compute_dtype(ctx, o->common.mixed_precision)};
    const nn_unet_config *c = nn_unet_config_of(model->unet);
    pipe_noise *noise = ag_new(ctx, 1, sizeof *noise, "noise schedule");
    edit_sampler *sampler = ag_new(ctx, 1, sizeof *sampler, "sampler");
    trajectory t = {.ctx = ctx};
    int64_t x_dims[4], c_dims[3], dims[5];

    if (ag_status_of(ctx) == AG_OK && probe_in_shape(in, ctx, "latents", 4, x_dims) == AG_OK &&
        probe_in_shape(in, ctx, "cond", 3, c_dims) == AG_OK &&
        pipe_noise_init(noise, ctx, &model->schedule) == AG_OK &&
        edit_sampler_init(sampler, ctx, (edit_sampler_kind)o->sampler, noise, &model->schedule, o->steps) == AG_OK) {
        ag_tensor *x, *cond, *uncond;
        x_dims[1] = c->in_channels;
        c_dims[0] = x_dims[0];
        c_dims[2] = c->cross_attention_dim;
        x = probe_in_tensor(in, ctx, "latents", 4, x_dims);
        cond = probe_in_tensor(in, ctx, "cond", 3, c_dims);
        uncond = probe_in_tensor(in, ctx, "uncond", 3, c_dims);
        t.n = x ? ag_numel(x) : 0;
        t.values = ag_new(ctx, (size_t)((o->steps + 1) * t.n), sizeof *t.values, "trajectory");
        if (x && t.values && probe_in_finish(in, ctx) == AG_OK) {
            keep(&t, 0, o->steps, x);
            edit_sample_latents(ctx, model->unet, sampler, x, cond, uncond, o->guidance, &unet, keep, &t);
        }
        dims[0] = o->steps + 1;
        memcpy(dims + 1, x_dims, sizeof x_dims);
        if (ag_status_of(ctx) == AG_OK &&
            probe_out_add(out, ctx, "timesteps", DATA_I64, 1, &o->steps, sampler->timesteps) == AG_OK)
            probe_out_add(out, ctx, "trajectory", DATA_F32, 5, dims, t.values);
    }
    ag_delete(t.values);
    ag_delete(noise);
    ag_delete(sampler);
    return ag_status_of(ctx);
}

static ag_status body(ag_ctx *ctx, void *memory, const cli_parsed *parsed)
{
    const options *o = memory;
    const pipe_source source = {.model = o->common.model};
    pipe_model *model = NULL;
    probe_in in = {0};
    probe_out out = {0};

    (void)parsed;
    if (!o->common.model || !o->common.in)
        return ag_fail(ctx, AG_EINVAL, "--%s is required", o->common.model ? "in" : "model");
    if (o->common.grad)
        return ag_fail(ctx, AG_EINVAL, "--grad: this part has no gradients");
    ag_record(ctx, false);
    if (probe_in_open(&in, ctx, o->common.in) == AG_OK && pipe_open(&model, ctx, &source, PIPE_UNET) == AG_OK &&
        sample(ctx, o, model, &in, &out) == AG_OK)
        probe_out_write(&out, ctx, o->common.out);
    probe_in_close(&in);
    probe_out_free(&out);
    pipe_close(model);
    return ag_status_of(ctx);
}

int probe_sample(int argc, char *const *argv)
{
    return cli_run(&SYNTAX, sizeof(options), offsetof(options, common.device), argc, argv, body);
}
