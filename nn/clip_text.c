/* clip_text.c - the CLIP text model. See clip_text.h. */
#include "nn/clip_text.h"

#include <math.h>
#include <string.h>

#include "autograd/grad.h"
#include "nn/init.h"
#include "nn/layers.h"

enum { MAX_LAYERS = 1024 };

typedef struct clip_layer {
    nn_norm_layer layer_norm1, layer_norm2;
    nn_linear_layer q_proj, k_proj, v_proj, out_proj;
    nn_linear_layer fc1, fc2;
} clip_layer;

struct nn_clip_text {
    nn_clip_config config;
    nn_params *params;
    nn_param *token_embedding, *position_embedding;
    clip_layer *layers;
    nn_norm_layer final_layer_norm;
};

/* --- making ------------------------------------------------------------------------------- */

/* A linear layer with weights drawn from N(0, deviation^2) and bias 0. */
static void declare_linear(nn_params *params, nn_linear_layer *layer, const char *name, int64_t in,
                           int64_t out, double deviation)
{
    nn_linear_declare_drawn(params, layer, name, in, out, nn_first_normal(deviation),
                            nn_first_constant(0.0));
}

static void declare_layer(nn_params *params, clip_layer *layer, const nn_clip_config *c)
{
    const int64_t d = c->hidden_size;
    const double narrow = pow((double)d, -0.5),
                 deep = narrow * pow(2.0 * (double)c->num_hidden_layers, -0.5);

    nn_enter(params, "self_attn");
    declare_linear(params, &layer->q_proj, "q_proj", d, d, deep);
    declare_linear(params, &layer->k_proj, "k_proj", d, d, deep);
    declare_linear(params, &layer->v_proj, "v_proj", d, d, deep);
    declare_linear(params, &layer->out_proj, "out_proj", d, d, narrow);
    nn_leave(params);
    nn_layer_norm_declare(params, &layer->layer_norm1, "layer_norm1", d, c->layer_norm_eps);
    nn_enter(params, "mlp");
    declare_linear(params, &layer->fc1, "fc1", d, c->intermediate_size, pow(2.0 * (double)d, -0.5));
    declare_linear(params, &layer->fc2, "fc2", c->intermediate_size, d, deep);
    nn_leave(params);
    nn_layer_norm_declare(params, &layer->layer_norm2, "layer_norm2", d, c->layer_norm_eps);
}

static nn_param *declare_embedding(nn_params *params, const char *name, int64_t rows,
                                   int64_t columns)
{
    nn_param *table;

    nn_enter(params, "%s", name);
    table = nn_declare(params, "weight", NN_AS_IS, nn_first_normal(0.02), 2,
                       (int64_t[]){rows, columns});
    nn_leave(params);
    return table;
}

static void declare_net(nn_clip_text *net)
{
    const nn_clip_config *c = &net->config;
    nn_params *params = net->params;

    nn_enter(params, "text_model");
    nn_enter(params, "embeddings");
    net->token_embedding =
        declare_embedding(params, "token_embedding", c->vocab_size, c->hidden_size);
    net->position_embedding =
        declare_embedding(params, "position_embedding", c->max_position_embeddings, c->hidden_size);
    nn_leave(params);
    for (int i = 0; i < c->num_hidden_layers; i++) {
        nn_enter(params, "encoder.layers.%d", i);
        declare_layer(params, &net->layers[i], c);
        nn_leave(params);
    }
    nn_layer_norm_declare(params, &net->final_layer_norm, "final_layer_norm", c->hidden_size,
                          c->layer_norm_eps);
    nn_leave(params);
}

static ag_status check_config(ag_ctx *ctx, const nn_clip_config *c)
{
    if (c->hidden_size < 1 || c->intermediate_size < 1 || c->num_hidden_layers < 1 ||
        c->num_hidden_layers > MAX_LAYERS || c->num_attention_heads < 1 ||
        c->max_position_embeddings < 1 || c->vocab_size < 1)
        return ag_fail(ctx, AG_EINVAL,
                       "text encoder: every size must be at least 1, layers at most %d",
                       MAX_LAYERS);
    if (c->hidden_size % c->num_attention_heads)
        return ag_fail(ctx, AG_EINVAL,
                       "text encoder: hidden_size %lld does not make num_attention_heads %lld",
                       (long long)c->hidden_size, (long long)c->num_attention_heads);
    return AG_OK;
}

ag_status nn_clip_text_new(nn_clip_text **out, ag_ctx *ctx, const nn_clip_config *config)
{
    nn_clip_text *net = NULL;
    ag_status status = ag_status_of(ctx);

    if (status != AG_OK || (status = check_config(ctx, config)) != AG_OK)
        return status;
    net = ag_new(ctx, 1, sizeof *net, "a text encoder");
    if (!net)
        return ag_status_of(ctx);
    net->config = *config;
    net->layers =
        ag_new(ctx, (size_t)config->num_hidden_layers, sizeof *net->layers, "a text encoder");
    if (net->layers && nn_params_new(&net->params, ctx) == AG_OK)
        declare_net(net);
    status = ag_status_of(ctx);
    if (status == AG_OK) {
        *out = net;
        net = NULL;
    }
    nn_clip_text_free(net);
    return status;
}

void nn_clip_text_free(nn_clip_text *net)
{
    if (!net)
        return;
    nn_params_free(net->params);
    ag_delete(net->layers);
    ag_delete(net);
}

nn_params *nn_clip_text_params(const nn_clip_text *net)
{
    return net->params;
}

const nn_clip_config *nn_clip_text_config_of(const nn_clip_text *net)
{
    return &net->config;
}

/* --- running ------------------------------------------------------------------------------ */

/* What a mask adds to the scores, [N,1,T,T]: far below any score for keys that are padding or come
 * after the query. Finite, so that a query that may see nothing still gives numbers. */
static ag_tensor *mask_bias(ag_ctx *ctx, ag_tensor *mask)
{
    const double far = 1e30;
    const int64_t n = ag_dim(mask, 0), t = ag_dim(mask, 1);
    ag_tensor *padding = ag_affine(ctx, mask, far, -far), *later;
    float *rows = ag_new(ctx, (size_t)(t * t), sizeof *rows, "a causal mask");

    if (!rows)
        return NULL;
    for (int64_t i = 0; i < t; i++) {
        for (int64_t j = i + 1; j < t; j++)
            rows[i * t + j] = (float)-far;
    }
    later = ag_from_f32(ctx, rows, 4, (int64_t[]){1, 1, t, t});
    ag_delete(rows);
    return ag_add(ctx, ag_reshape(ctx, padding, 4, (int64_t[]){n, 1, 1, t}), later);
}

/* [N,T,H*d] -> [N,H,T,d] */
static ag_tensor *split_heads(ag_ctx *ctx, ag_tensor *x, int heads)
{
    if (!x)
        return NULL;
    x = ag_reshape(ctx, x, 4, (int64_t[]){ag_dim(x, 0), ag_dim(x, 1), heads, ag_dim(x, 2) / heads});
    return ag_permute(ctx, x, (int[]){0, 2, 1, 3});
}

/* Attention with a bias on the scores, written out: only a mask over padding needs it. */
static ag_tensor *masked_attention(ag_ctx *ctx, ag_tensor *q, ag_tensor *k, ag_tensor *v, int heads,
                                   ag_tensor *bias)
{
    ag_tensor *scores, *y;

    if (!q)
        return NULL;
    scores = ag_matmul(ctx, split_heads(ctx, q, heads), split_heads(ctx, k, heads), false, true);
    scores = ag_scale(ctx, scores, 1.0 / sqrt((double)(ag_dim(q, 2) / heads)));
    scores = ag_add(ctx, nn_enter_compute(ctx, scores, AG_F32), bias);
    y = ag_matmul(ctx, nn_enter_compute(ctx, ag_softmax(ctx, scores), ag_dtype_of(q)),
                  split_heads(ctx, v, heads), false, false);
    y = ag_permute(ctx, y, (int[]){0, 2, 1, 3});
    return ag_reshape(ctx, y, 3, ag_dims(q));
}

/* What one layer is a function of. */
typedef struct layer_call {
    const clip_layer *layer;
    ag_tensor *x, *bias;
    int heads;
    nn_clip_act act;
} layer_call;

static ag_tensor *run_layer(ag_ctx *ctx, const void *arg)
{
    const layer_call *call = arg;
    const clip_layer *layer = call->layer;
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *x = call->x, *h, *q, *k, *v;

    h = nn_layer_norm(ctx, &layer->layer_norm1, x);
    q = nn_linear(ctx, &layer->q_proj, h);
    k = nn_linear(ctx, &layer->k_proj, h);
    v = nn_linear(ctx, &layer->v_proj, h);
    h = call->bias ? masked_attention(ctx, q, k, v, call->heads, call->bias)
                   : ag_attention(ctx, q, k, v, call->heads, 0.0, true);
    x = ag_add(ctx, x, nn_linear(ctx, &layer->out_proj, h));

    h = nn_layer_norm(ctx, &layer->layer_norm2, x);
    h = nn_linear(ctx, &layer->fc1, h);
    h = ag_unary(ctx, call->act == NN_GELU ? AG_GELU : AG_QUICK_GELU, h, 0.0);
    x = ag_add(ctx, x, nn_linear(ctx, &layer->fc2, h));
    return ag_scope_close(ctx, scope, x);
}

/* token_embedding[ids] + position_embedding[0..T-1], f32; of new tokens their own rows. Mask values are 0 and 1,
 * so each token keeps its bits. */
static ag_tensor *embed(ag_ctx *ctx, const nn_clip_text *net, ag_tensor *ids, const nn_clip_words *words)
{
    ag_tensor *places = ag_slice(ctx, net->position_embedding->value, 0, 0, ag_dim(ids, 1));
    ag_tensor *tokens = ag_cast(ctx, ag_embedding(ctx, net->token_embedding->value, ids), AG_F32);

    if (words) {
        tokens = ag_mul(ctx, tokens, ag_affine(ctx, words->mask, -1.0, 1.0));
        tokens = ag_add(ctx, tokens, ag_mul(ctx, ag_embedding(ctx, words->rows, words->ids), words->mask));
    }
    return ag_add(ctx, tokens, ag_cast(ctx, places, AG_F32));
}

static ag_status check_inputs(ag_ctx *ctx, const nn_clip_text *net, const ag_tensor *ids,
                              const nn_clip_options *o)
{
    const nn_clip_config *c = &net->config;

    if (ag_dtype_of(ids) != AG_I64 || ag_ndim(ids) != 2 ||
        ag_dim(ids, 1) > c->max_position_embeddings)
        return ag_fail(
            ctx, AG_ESHAPE, "text encoder: want ids i64 [N,T] with T <= %lld, got %s of %d axes",
            (long long)c->max_position_embeddings, ag_dtype_name(ag_dtype_of(ids)), ag_ndim(ids));
    if (o->clip_skip < 0 || o->clip_skip >= c->num_hidden_layers)
        return ag_fail(ctx, AG_EINVAL, "text encoder: want clip_skip in 0..%lld, got %d",
                       (long long)c->num_hidden_layers - 1, o->clip_skip);
    if (o->words && (ag_ndim(o->words->rows) != 2 || ag_dim(o->words->rows, 1) != c->hidden_size))
        return ag_fail(ctx, AG_ESHAPE, "text encoder: want rows of new tokens [m,%lld]", (long long)c->hidden_size);
    if (o->mask && (ag_dtype_of(o->mask) != AG_F32 || ag_ndim(o->mask) != 2 ||
                    memcmp(ag_dims(o->mask), ag_dims(ids), 2 * sizeof(int64_t)) != 0))
        return ag_fail(ctx, AG_ESHAPE,
                       "text encoder: want a mask f32 of the ids' shape [%lld,%lld]",
                       (long long)ag_dim(ids, 0), (long long)ag_dim(ids, 1));
    return AG_OK;
}

ag_tensor *nn_clip_text_forward(ag_ctx *ctx, const nn_clip_text *net, ag_tensor *ids,
                                const nn_clip_options *options)
{
    const nn_clip_options o = options ? *options : (nn_clip_options){0};
    layer_call call = {.heads = (int)net->config.num_attention_heads,
                       .act = net->config.hidden_act};
    ag_scope scope, chain;

    if (!ids || ag_status_of(ctx) != AG_OK || check_inputs(ctx, net, ids, &o) != AG_OK)
        return NULL;
    scope = ag_scope_open(ctx);
    call.bias = o.mask ? mask_bias(ctx, o.mask) : NULL;
    chain = ag_scope_open(ctx);
    call.x = nn_enter_compute(ctx, embed(ctx, net, ids, o.words), o.compute);
    for (int i = 0; i < (int)net->config.num_hidden_layers - o.clip_skip; i++) {
        call.layer = &net->layers[i];
        call.x = o.checkpointing ? ag_checkpoint(ctx, run_layer, &call, sizeof call)
                                 : run_layer(ctx, &call);
        call.x = nn_keep_only(ctx, chain, call.x);
    }
    call.x = nn_layer_norm(ctx, &net->final_layer_norm, call.x);
    return ag_scope_close(ctx, scope, nn_enter_compute(ctx, call.x, AG_F32));
}
