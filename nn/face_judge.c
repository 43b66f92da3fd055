/* face_judge.c - see face_judge.h. */
#include "nn/face_judge.h"

#include <stdio.h>

#include "autograd/grad.h"
#include "nn/init.h"
#include "nn/layers.h"

enum { N_LEVELS = 4, MAX_SIDE = 1024, MAX_CHANNELS = 4096 };

static const double NORM_EPS = 1e-6;

struct nn_face_judge {
    nn_judge_config config;
    nn_params *params;
    nn_conv_layer conv_in, down[N_LEVELS - 1];
    nn_resnet resnet[N_LEVELS - 1];
    nn_norm_layer norm_out;
    nn_linear_layer fc1, fc2;
    nn_param *scale[NN_JUDGE_N_SCALES];
};

nn_judge_config nn_face_judge_defaults(int64_t n_outputs)
{
    return (nn_judge_config){.resolution = 64,
                             .n_outputs = n_outputs,
                             .channels = {16, 32, 64, 96},
                             .hidden = 128,
                             .norm_num_groups = 8};
}

static ag_status check_config(ag_ctx *ctx, const nn_judge_config *c)
{
    if (c->resolution < 16 || c->resolution > MAX_SIDE || c->resolution % 16)
        return ag_fail(ctx, AG_EINVAL, "face judge: want a resolution of 16..%d that 16 divides, got %lld", MAX_SIDE,
                       (long long)c->resolution);
    if (c->n_outputs < 1 || c->n_outputs > MAX_CHANNELS || c->hidden < 1 || c->hidden > MAX_CHANNELS)
        return ag_fail(ctx, AG_EINVAL, "face judge: want 1..%d outputs and hidden values, got %lld and %lld",
                       MAX_CHANNELS, (long long)c->n_outputs, (long long)c->hidden);
    for (int i = 0; i < N_LEVELS; i++)
        if (c->channels[i] < 1 || c->channels[i] > MAX_CHANNELS)
            return ag_fail(ctx, AG_EINVAL, "face judge: want channels of 1..%d, got %lld", MAX_CHANNELS,
                           (long long)c->channels[i]);
    return AG_OK;
}

static void declare(nn_face_judge *net)
{
    static const char *const scales[] = {"scale.mean", "scale.deviation", "scale.r2"};
    const nn_judge_config *c = &net->config;
    const int64_t side = c->resolution / 16, flat = side * side * c->channels[N_LEVELS - 1];
    const int groups = (int)c->norm_num_groups;

    nn_conv_declare(net->params, &net->conv_in, "conv_in", 3, c->channels[0], 3, 2, 1);
    for (int i = 0; i + 1 < N_LEVELS; i++) {
        nn_enter(net->params, "levels.%d", i);
        nn_conv_declare(net->params, &net->down[i], "down", c->channels[i], c->channels[i + 1], 3, 2, 1);
        nn_resnet_declare(net->params, &net->resnet[i], c->channels[i + 1], c->channels[i + 1], 0, groups, NORM_EPS,
                          1.0);
        nn_leave(net->params);
    }
    nn_group_norm_declare(net->params, &net->norm_out, "norm_out", c->channels[N_LEVELS - 1], groups, NORM_EPS);
    nn_linear_declare(net->params, &net->fc1, "fc1", flat, c->hidden, true, NN_AS_IS, false);
    nn_linear_declare(net->params, &net->fc2, "fc2", c->hidden, c->n_outputs, true, NN_AS_IS, false);
    for (int i = 0; i < NN_JUDGE_N_SCALES; i++)
        net->scale[i] = nn_declare(net->params, scales[i], NN_AS_IS, nn_first_constant(i == NN_JUDGE_DEVIATION), 1,
                                   &c->n_outputs);
}

ag_status nn_face_judge_new(nn_face_judge **out, ag_ctx *ctx, const nn_judge_config *config)
{
    nn_face_judge *net = ag_new(ctx, 1, sizeof *net, "face judge");

    if (!net)
        return ag_status_of(ctx);
    net->config = *config;
    if (check_config(ctx, config) == AG_OK && nn_params_new(&net->params, ctx) == AG_OK)
        declare(net);
    if (ag_status_of(ctx) != AG_OK) {
        nn_face_judge_free(net);
        return ag_status_of(ctx);
    }
    *out = net;
    return AG_OK;
}

void nn_face_judge_free(nn_face_judge *net)
{
    if (!net)
        return;
    nn_params_free(net->params);
    ag_delete(net);
}

nn_params *nn_face_judge_params(const nn_face_judge *net)
{
    return net->params;
}

const nn_judge_config *nn_face_judge_config_of(const nn_face_judge *net)
{
    return &net->config;
}

nn_param *nn_face_judge_scale(const nn_face_judge *net, nn_judge_scale which)
{
    return net->scale[which];
}

ag_status nn_face_judge_train(ag_ctx *ctx, nn_face_judge *net, bool on)
{
    nn_params_train(ctx, net->params, NULL, on);
    nn_params_train(ctx, net->params, "scale.*", false);
    return ag_status_of(ctx);
}

ag_tensor *nn_face_judge_forward(ag_ctx *ctx, const nn_face_judge *net, ag_tensor *pixels)
{
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *x = ag_silu(ctx, nn_conv(ctx, &net->conv_in, pixels));

    for (int i = 0; i + 1 < N_LEVELS; i++) {
        x = nn_conv(ctx, &net->down[i], x);
        x = nn_keep_only(ctx, scope, nn_resnet_forward(ctx, &net->resnet[i], x, NULL, NULL, false));
    }
    x = nn_group_norm(ctx, &net->norm_out, x, true);
    if (x)
        x = ag_reshape(ctx, x, 2, (int64_t[]){ag_dim(x, 0), -1});
    x = nn_linear(ctx, &net->fc2, ag_silu(ctx, nn_linear(ctx, &net->fc1, x)));
    return ag_scope_close(ctx, scope, x);
}
