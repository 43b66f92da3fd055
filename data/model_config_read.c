/* model_config_read.c - config.json and scheduler_config.json to structs.
 *
 * Every component has a table of the keys that its network is built from, which the code below
 * reads one by one, and a table of inert keys with the only values we do. What stands in neither
 * is refused, unless it is switched off; see data/model_folder.h.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/json.h"
#include "data/model_folder.h"

enum { MAX_CHANNELS = 1 << 16, MAX_LAYERS = 256, MAX_IN_MESSAGE = 80 };

typedef struct inert_key {
    const char *key;
    const char *values; /* the possible ones, separated by '|', as JSON writes them without quotes;
                           NULL: any value, the network's result does not depend on it */
} inert_key;

typedef struct config {
    ag_ctx *ctx;
    const char *name; /* of the file, for messages */
    const json_t *node;
} config;

/* --- shared helpers -------------------------------------------------------------------------- */

static ag_status refuse(const config *c, ag_status status, const char *key, const char *possible)
{
    char *got = data_json_dump(c->ctx, json_object_get(c->node, key), 0);

    ag_fail(c->ctx, status, "%s: \"%s\" is %.*s%s; possible: %s", c->name, key, MAX_IN_MESSAGE,
            got ? got : "?", got && strlen(got) > MAX_IN_MESSAGE ? "..." : "", possible);
    ag_delete(got);
    return status;
}

/* Is value one of "a|b|c"? Numbers compare as numbers. */
static bool is_one_of(const json_t *value, const char *values)
{
    while (*values) {
        const size_t n = strcspn(values, "|");
        char text[64];

        snprintf(text, sizeof text, "%.*s", (int)n, values);
        if (json_is_string(value) && strcmp(json_string_value(value), text) == 0)
            return true;
        if (json_is_boolean(value) && strcmp(json_is_true(value) ? "true" : "false", text) == 0)
            return true;
        if (json_is_number(value)) {
            char *end;
            const double number = strtod(text, &end);

            if (end != text && *end == 0 && number == json_number_value(value))
                return true;
        }
        values += n + (values[n] == '|');
    }
    return false;
}

static bool is_known(const char *const *known, const char *key)
{
    for (; *known; known++)
        if (strcmp(*known, key) == 0)
            return true;
    return false;
}

/* Walk all keys: known ones pass, inert ones must hold a possible value, others must be off. */
static ag_status check_keys(const config *c, const char *const *known, const inert_key *inert)
{
    const char *key;
    json_t *value;

    json_object_foreach ((json_t *)c->node, key, value) {
        const inert_key *found = NULL;

        if (key[0] == '_' || json_is_null(value) || is_known(known, key))
            continue;
        for (const inert_key *entry = inert; entry->key && !found; entry++)
            if (strcmp(entry->key, key) == 0)
                found = entry;
        if (found && (!found->values || is_one_of(value, found->values)))
            continue;
        if (found)
            return refuse(c, AG_EUNSUPPORTED, key, found->values);
        if (!json_is_false(value))
            return ag_fail(c->ctx, AG_EDATA, "%s: unknown key \"%.*s\"", c->name, MAX_IN_MESSAGE,
                           key);
    }
    return AG_OK;
}

static ag_status check_class(const config *c, const char *wanted)
{
    const char *class_name = data_json_text(c->ctx, c->name, c->node, "_class_name", wanted);

    if (ag_status_of(c->ctx) != AG_OK)
        return ag_status_of(c->ctx);
    if (strcmp(class_name, wanted) != 0)
        return refuse(c, AG_EUNSUPPORTED, "_class_name", wanted);
    return AG_OK;
}

/* A whole number within bounds. */
static int64_t get_int(const config *c, const char *key, int64_t otherwise, int64_t low,
                       int64_t high)
{
    const int64_t value = data_json_int(c->ctx, c->name, c->node, key, otherwise);

    if (value < low || value > high)
        ag_fail(c->ctx, AG_EDATA, "%s: \"%s\" is %lld, wanted %lld to %lld", c->name, key,
                (long long)value, (long long)low, (long long)high);
    return value;
}

static double get_real(const config *c, const char *key, double otherwise, double low, double high)
{
    const double value = data_json_real(c->ctx, c->name, c->node, key, otherwise);

    if (!(value >= low && value <= high))
        ag_fail(c->ctx, AG_EDATA, "%s: \"%s\" is %g, wanted %g to %g", c->name, key, value, low,
                high);
    return value;
}

/* A number, or a list of n_levels equal ones: the per-level form of a single value. */
static int64_t get_one_int(const config *c, const char *key, int64_t otherwise, int64_t low,
                           int64_t high)
{
    const json_t *value = json_object_get(c->node, key);
    int64_t first;

    if (!json_is_array(value))
        return get_int(c, key, otherwise, low, high);
    first = json_integer_value(json_array_get(value, 0));
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!json_is_integer(json_array_get(value, i)) ||
            json_integer_value(json_array_get(value, i)) != first)
            refuse(c, AG_EUNSUPPORTED, key, "one value for all levels");
    if (first < low || first > high)
        refuse(c, AG_EDATA, key, "a positive number");
    return first;
}

/* The side of a sample: absent, a number, or [height, width]. */
static int64_t get_sample_size(const config *c, int64_t otherwise)
{
    const json_t *value = json_object_get(c->node, "sample_size");

    if (json_is_array(value)) {
        const int64_t side = json_integer_value(json_array_get(value, 0));

        if (side < 1 || side > MAX_CHANNELS)
            refuse(c, AG_EDATA, "sample_size", "1 to 65536");
        return side;
    }
    return get_int(c, "sample_size", otherwise, 0, MAX_CHANNELS);
}

/* block_out_channels: as many as there are levels. */
static void get_channels(const config *c, int64_t channels[NN_MAX_LEVELS], int *n_levels)
{
    const json_t *list = json_object_get(c->node, "block_out_channels");
    const size_t n = json_array_size(list);

    if (!list || json_is_null(list))
        return; /* the defaults stand */
    if (n < 1 || n > NN_MAX_LEVELS) {
        refuse(c, AG_EDATA, "block_out_channels", "a list of 1 to 8 numbers");
        return;
    }
    *n_levels = (int)n;
    for (size_t i = 0; i < n; i++) {
        channels[i] = json_integer_value(json_array_get(list, i));
        if (channels[i] < 1 || channels[i] > MAX_CHANNELS) {
            refuse(c, AG_EDATA, "block_out_channels", "numbers of 1 to 65536");
            return;
        }
    }
}

/* A list of block types, one per level: out[i] is whether entry i is `with` (else `without`,
 * which may be NULL). Absent: the defaults stand, which must be as many as there are levels. */
static void get_blocks(const config *c, const char *key, int n_levels, int n_default,
                       const char *with, const char *without, bool out[NN_MAX_LEVELS])
{
    const json_t *list = json_object_get(c->node, key);
    char possible[128];

    if (!list || json_is_null(list)) {
        if (n_levels != n_default)
            ag_fail(c->ctx, AG_EDATA, "%s: \"%s\" is missing, wanted %d entries", c->name, key,
                    n_levels);
        return;
    }
    snprintf(possible, sizeof possible, "%s%s%s", with, without ? ", " : "",
             without ? without : "");
    if (json_array_size(list) != (size_t)n_levels) {
        ag_fail(c->ctx, AG_EDATA, "%s: \"%s\" has %zu entries, wanted %d (as block_out_channels)",
                c->name, key, json_array_size(list), n_levels);
        return;
    }
    for (int i = 0; i < n_levels; i++) {
        const char *type = json_string_value(json_array_get(list, (size_t)i));

        out[i] = type && strcmp(type, with) == 0;
        if (!out[i] && (!type || !without || strcmp(type, without) != 0)) {
            refuse(c, AG_EUNSUPPORTED, key, possible);
            return;
        }
    }
}

static ag_status groups_fit(const config *c, int64_t groups, const int64_t *channels, int n_levels)
{
    for (int i = 0; i < n_levels && ag_status_of(c->ctx) == AG_OK; i++)
        if (channels[i] % groups != 0)
            ag_fail(c->ctx, AG_EDATA, "%s: norm_num_groups %lld does not divide %lld channels",
                    c->name, (long long)groups, (long long)channels[i]);
    return ag_status_of(c->ctx);
}

/* Open the text as an object; the caller's json_decref. */
static json_t *open_config(config *c, ag_ctx *ctx, const char *name, const char *text, size_t size)
{
    json_t *node = NULL;

    if (data_json_parse(&node, ctx, name, text, size) != AG_OK)
        return NULL;
    if (!json_is_object(node)) {
        ag_fail(ctx, AG_EDATA, "%s: wanted an object", name);
        json_decref(node);
        return NULL;
    }
    *c = (config){ctx, name, node};
    return node;
}

/* --- U-Net ----------------------------------------------------------------------------------- */

static const char *const unet_keys[] = {"sample_size",
                                        "in_channels",
                                        "out_channels",
                                        "block_out_channels",
                                        "down_block_types",
                                        "up_block_types",
                                        "attention_head_dim",
                                        "layers_per_block",
                                        "transformer_layers_per_block",
                                        "cross_attention_dim",
                                        "norm_num_groups",
                                        "norm_eps",
                                        "freq_shift",
                                        "flip_sin_to_cos",
                                        "center_input_sample",
                                        "mid_block_scale_factor",
                                        "use_linear_projection",
                                        "upcast_attention",
                                        NULL};
static const inert_key unet_inert[] = {
    {"act_fn", "silu|swish"},
    {"mid_block_type", "UNetMidBlock2DCrossAttn"},
    {"downsample_padding", "1"},
    {"dropout", "0"},
    {"only_cross_attention", "false"},
    {"dual_cross_attention", "false"},
    {"mid_block_only_cross_attention", "false"},
    {"conv_in_kernel", "3"},
    {"conv_out_kernel", "3"},
    {"resnet_time_scale_shift", "default"},
    {"resnet_skip_time_act", "false"},
    {"resnet_out_scale_factor", "1"},
    {"time_embedding_type", "positional"},
    {"attention_type", "default"},
    {"class_embeddings_concat", "false"},
    {"addition_embed_type_num_heads", NULL}, /* only used with addition_embed_type */
    {"num_attention_heads", "null"},
    {"class_embed_type", "null"},
    {"num_class_embeds", "null"},
    {"addition_embed_type", "null"},
    {"addition_time_embed_dim", "null"},
    {"projection_class_embeddings_input_dim", "null"},
    {"encoder_hid_dim", "null"},
    {"encoder_hid_dim_type", "null"},
    {"time_cond_proj_dim", "null"},
    {"time_embedding_dim", "null"},
    {"time_embedding_act_fn", "null"},
    {"timestep_post_act", "null"},
    {"cross_attention_norm", "null"},
    {"reverse_transformer_layers_per_block", "null"},
    /* what an EMA copy's config holds besides (diffusers: training_utils.py) */
    {"decay", NULL},
    {"inv_gamma", NULL},
    {"min_decay", NULL},
    {"optimization_step", NULL},
    {"power", NULL},
    {"update_after_step", NULL},
    {"use_ema_warmup", NULL},
    {NULL, NULL}};

/* One number of heads for all levels, or one per level. */
static void get_heads(const config *c, nn_unet_config *out)
{
    const json_t *value = json_object_get(c->node, "attention_head_dim");

    if (!json_is_array(value)) {
        const int64_t n = get_int(c, "attention_head_dim", 8, 1, MAX_CHANNELS);

        for (int i = 0; i < out->n_levels; i++)
            out->n_heads[i] = n;
        return;
    }
    if (json_array_size(value) != (size_t)out->n_levels) {
        refuse(c, AG_EDATA, "attention_head_dim", "one number, or one for each level");
        return;
    }
    for (int i = 0; i < out->n_levels; i++) {
        out->n_heads[i] = json_integer_value(json_array_get(value, (size_t)i));
        if (out->n_heads[i] < 1 || out->n_heads[i] > MAX_CHANNELS)
            refuse(c, AG_EDATA, "attention_head_dim", "positive numbers");
    }
}

static ag_status heads_fit(const config *c, const nn_unet_config *u)
{
    for (int i = 0; i < u->n_levels && ag_status_of(c->ctx) == AG_OK; i++) {
        const bool used = u->down_attention[i] || u->up_attention[u->n_levels - 1 - i] ||
                          i == u->n_levels - 1; /* the mid block's */

        if (used && u->block_out_channels[i] % u->n_heads[i] != 0)
            ag_fail(c->ctx, AG_EDATA,
                    "%s: %lld heads (attention_head_dim) do not divide %lld channels", c->name,
                    (long long)u->n_heads[i], (long long)u->block_out_channels[i]);
    }
    return ag_status_of(c->ctx);
}

ag_status data_unet_config_parse(nn_unet_config *out, ag_ctx *ctx, const char *name,
                                 const char *text, size_t size)
{
    nn_unet_config u = {.n_levels = 4,
                        .block_out_channels = {320, 640, 1280, 1280},
                        .down_attention = {true, true, true, false},
                        .up_attention = {false, true, true, true}};
    config c;
    json_t *node = open_config(&c, ctx, name, text, size);

    if (!node)
        return ag_status_of(ctx);
    if (check_class(&c, "UNet2DConditionModel") != AG_OK ||
        check_keys(&c, unet_keys, unet_inert) != AG_OK)
        goto out;
    if (json_is_null(json_object_get(node, "mid_block_type")))
        refuse(&c, AG_EUNSUPPORTED, "mid_block_type", "UNetMidBlock2DCrossAttn");
    if (json_is_null(json_object_get(node, "norm_num_groups")))
        refuse(&c, AG_EUNSUPPORTED, "norm_num_groups", "a number");
    u.sample_size = get_sample_size(&c, 0);
    u.in_channels = get_int(&c, "in_channels", 4, 1, MAX_CHANNELS);
    u.out_channels = get_int(&c, "out_channels", 4, 1, MAX_CHANNELS);
    get_channels(&c, u.block_out_channels, &u.n_levels);
    get_blocks(&c, "down_block_types", u.n_levels, 4, "CrossAttnDownBlock2D", "DownBlock2D",
               u.down_attention);
    get_blocks(&c, "up_block_types", u.n_levels, 4, "CrossAttnUpBlock2D", "UpBlock2D",
               u.up_attention);
    get_heads(&c, &u);
    u.layers_per_block = get_one_int(&c, "layers_per_block", 2, 1, MAX_LAYERS);
    u.transformer_layers_per_block =
        get_one_int(&c, "transformer_layers_per_block", 1, 1, MAX_LAYERS);
    u.cross_attention_dim = get_one_int(&c, "cross_attention_dim", 1280, 1, MAX_CHANNELS);
    u.norm_num_groups = get_int(&c, "norm_num_groups", 32, 1, MAX_CHANNELS);
    u.norm_eps = get_real(&c, "norm_eps", 1e-5, 0, 1);
    u.freq_shift = get_real(&c, "freq_shift", 0, -1e6, (double)u.block_out_channels[0] / 2 - 0.5);
    u.flip_sin_to_cos = data_json_bool(ctx, name, node, "flip_sin_to_cos", true);
    u.center_input_sample = data_json_bool(ctx, name, node, "center_input_sample", false);
    u.mid_block_scale_factor = get_real(&c, "mid_block_scale_factor", 1, 1e-6, 1e6);
    u.use_linear_projection = data_json_bool(ctx, name, node, "use_linear_projection", false);
    u.upcast_attention = data_json_bool(ctx, name, node, "upcast_attention", false);
    if (ag_status_of(ctx) == AG_OK &&
        groups_fit(&c, u.norm_num_groups, u.block_out_channels, u.n_levels) == AG_OK &&
        heads_fit(&c, &u) == AG_OK)
        *out = u;
out:
    json_decref(node);
    return ag_status_of(ctx);
}

/* --- VAE ------------------------------------------------------------------------------------- */

static const char *const vae_keys[] = {"sample_size",
                                       "in_channels",
                                       "out_channels",
                                       "latent_channels",
                                       "block_out_channels",
                                       "down_block_types",
                                       "up_block_types",
                                       "layers_per_block",
                                       "norm_num_groups",
                                       "scaling_factor",
                                       "force_upcast",
                                       NULL};
static const inert_key vae_inert[] = {{"act_fn", "silu|swish"},
                                      {"mid_block_add_attention", "true"},
                                      {"use_quant_conv", "true"},
                                      {"use_post_quant_conv", "true"},
                                      {"shift_factor", "null|0"},
                                      {"latents_mean", "null"},
                                      {"latents_std", "null"},
                                      {NULL, NULL}};

ag_status data_vae_config_parse(nn_vae_config *out, ag_ctx *ctx, const char *name,
                                const char *text, size_t size)
{
    nn_vae_config v = {.n_levels = 1, .block_out_channels = {64}};
    bool blocks[NN_MAX_LEVELS];
    config c;
    json_t *node = open_config(&c, ctx, name, text, size);

    if (!node)
        return ag_status_of(ctx);
    if (check_class(&c, "AutoencoderKL") != AG_OK || check_keys(&c, vae_keys, vae_inert) != AG_OK)
        goto out;
    v.sample_size = get_sample_size(&c, 32);
    v.in_channels = get_int(&c, "in_channels", 3, 1, MAX_CHANNELS);
    v.out_channels = get_int(&c, "out_channels", 3, 1, MAX_CHANNELS);
    v.latent_channels = get_int(&c, "latent_channels", 4, 1, MAX_CHANNELS);
    get_channels(&c, v.block_out_channels, &v.n_levels);
    get_blocks(&c, "down_block_types", v.n_levels, 1, "DownEncoderBlock2D", NULL, blocks);
    get_blocks(&c, "up_block_types", v.n_levels, 1, "UpDecoderBlock2D", NULL, blocks);
    v.layers_per_block = get_int(&c, "layers_per_block", 1, 1, MAX_LAYERS);
    v.norm_num_groups = get_int(&c, "norm_num_groups", 32, 1, MAX_CHANNELS);
    v.scaling_factor = get_real(&c, "scaling_factor", 0.18215, 1e-9, 1e9);
    v.force_upcast = data_json_bool(ctx, name, node, "force_upcast", true);
    if (ag_status_of(ctx) == AG_OK &&
        groups_fit(&c, v.norm_num_groups, v.block_out_channels, v.n_levels) == AG_OK)
        *out = v;
out:
    json_decref(node);
    return ag_status_of(ctx);
}

/* --- text model ------------------------------------------------------------------------------ */

static const char *const text_keys[] = {"vocab_size",
                                        "hidden_size",
                                        "intermediate_size",
                                        "num_hidden_layers",
                                        "num_attention_heads",
                                        "max_position_embeddings",
                                        "projection_dim",
                                        "layer_norm_eps",
                                        "hidden_act",
                                        NULL};
/* The second half is what every transformers configuration may hold: settings of training, of
 * outputs and of text generation that the encoder does not read. */
static const inert_key text_inert[] = {{"attention_dropout", "0"},
                                       {"dropout", "0"},
                                       {"use_attention_mask", "false"},
                                       {"model_type", "clip_text_model|clip"},
                                       {"architectures", NULL},
                                       {"bos_token_id", NULL},
                                       {"eos_token_id", NULL},
                                       {"pad_token_id", NULL},
                                       {"initializer_factor", NULL},
                                       {"initializer_range", NULL},
                                       {"torch_dtype", NULL},
                                       {"dtype", NULL},
                                       {"transformers_version", NULL},
                                       {"id2label", NULL},
                                       {"label2id", NULL},
                                       {"task_specific_params", NULL},
                                       {"return_dict", NULL},
                                       {"use_cache", NULL},
                                       {"use_bfloat16", NULL},
                                       {"tie_word_embeddings", NULL},
                                       {"tie_encoder_decoder", NULL},
                                       {"chunk_size_feed_forward", NULL},
                                       {"diversity_penalty", NULL},
                                       {"encoder_no_repeat_ngram_size", NULL},
                                       {"exponential_decay_length_penalty", NULL},
                                       {"length_penalty", NULL},
                                       {"max_length", NULL},
                                       {"min_length", NULL},
                                       {"no_repeat_ngram_size", NULL},
                                       {"num_beam_groups", NULL},
                                       {"num_beams", NULL},
                                       {"num_return_sequences", NULL},
                                       {"pruned_heads", NULL},
                                       {"repetition_penalty", NULL},
                                       {"temperature", NULL},
                                       {"top_k", NULL},
                                       {"top_p", NULL},
                                       {"typical_p", NULL},
                                       {NULL, NULL}};
/* Of a whole CLIP's configuration, whose text_config is ours. */
static const char *const clip_keys[] = {"text_config",
                                        "text_config_dict",
                                        "vision_config",
                                        "vision_config_dict",
                                        "logit_scale_init_value",
                                        "projection_dim",
                                        NULL};

ag_status data_text_config_parse(nn_clip_config *out, ag_ctx *ctx, const char *name,
                                 const char *text, size_t size)
{
    nn_clip_config t = {0};
    const char *act;
    config c;
    json_t *node = open_config(&c, ctx, name, text, size);

    if (!node)
        return ag_status_of(ctx);
    if (json_is_object(json_object_get(node, "text_config"))) {
        if (check_keys(&c, clip_keys, text_inert) != AG_OK)
            goto out;
        c.node = json_object_get(node, "text_config");
    }
    if (check_keys(&c, text_keys, text_inert) != AG_OK)
        goto out;
    t.vocab_size = get_int(&c, "vocab_size", 49408, 1, 1 << 24);
    t.hidden_size = get_int(&c, "hidden_size", 512, 1, MAX_CHANNELS);
    t.intermediate_size = get_int(&c, "intermediate_size", 2048, 1, 1 << 20);
    t.num_hidden_layers = get_int(&c, "num_hidden_layers", 12, 1, MAX_LAYERS);
    t.num_attention_heads = get_int(&c, "num_attention_heads", 8, 1, MAX_CHANNELS);
    t.max_position_embeddings = get_int(&c, "max_position_embeddings", 77, 1, 1 << 20);
    t.projection_dim = get_int(&c, "projection_dim", 512, 0, MAX_CHANNELS);
    t.layer_norm_eps = get_real(&c, "layer_norm_eps", 1e-5, 0, 1);
    act = data_json_text(ctx, name, c.node, "hidden_act", "quick_gelu");
    if (ag_status_of(ctx) != AG_OK)
        goto out;
    if (strcmp(act, "quick_gelu") != 0 && strcmp(act, "gelu") != 0)
        refuse(&c, AG_EUNSUPPORTED, "hidden_act", "quick_gelu, gelu");
    t.hidden_act = strcmp(act, "gelu") == 0 ? NN_GELU : NN_QUICK_GELU;
    if (t.hidden_size % t.num_attention_heads != 0)
        ag_fail(ctx, AG_EDATA, "%s: %lld heads do not divide hidden_size %lld", name,
                (long long)t.num_attention_heads, (long long)t.hidden_size);
    if (ag_status_of(ctx) == AG_OK)
        *out = t;
out:
    json_decref(node);
    return ag_status_of(ctx);
}

/* --- schedule -------------------------------------------------------------------------------- */

/* One of the words of a list that ends with NULL: its place. */
static int get_word(const config *c, const char *key, const char *const *words, int otherwise)
{
    const char *text = data_json_text(c->ctx, c->name, c->node, key, words[otherwise]);
    char possible[128] = "";

    for (int i = 0; words[i]; i++) {
        if (strcmp(words[i], text) == 0)
            return i;
        if (words[i][0])
            snprintf(possible + strlen(possible), sizeof possible - strlen(possible), "%s%s",
                     possible[0] ? ", " : "", words[i]);
    }
    refuse(c, AG_EUNSUPPORTED, key, possible);
    return otherwise;
}

static int get_switch(const config *c, const char *key)
{
    const json_t *value = json_object_get(c->node, key);

    if (!value || json_is_null(value))
        return DATA_UNSAID;
    return data_json_bool(c->ctx, c->name, c->node, key, false);
}

ag_status data_schedule_config_parse(data_schedule_config *out, ag_ctx *ctx, const char *name,
                                     const char *text, size_t size)
{
    static const char *const betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2", NULL};
    static const char *const predictions[] = {"epsilon", "v_prediction", NULL};
    static const char *const spacings[] = {"", "leading", "linspace", "trailing", NULL};
    data_schedule_config s = {0};
    const char *class_name;
    config c;
    json_t *node = open_config(&c, ctx, name, text, size);

    if (!node)
        return ag_status_of(ctx);
    class_name = data_json_text(ctx, name, node, "_class_name", "");
    if (strlen(class_name) < sizeof s.class_name)
        strcpy(s.class_name, class_name);
    else
        refuse(&c, AG_EDATA, "_class_name", "a name of at most 63 bytes");
    s.num_train_timesteps = get_int(&c, "num_train_timesteps", 1000, 1, 1000000);
    s.beta_start = get_real(&c, "beta_start", 0.0001, 0, 1);
    s.beta_end = get_real(&c, "beta_end", 0.02, 0, 1);
    s.beta_schedule = (data_beta_schedule)get_word(&c, "beta_schedule", betas, 0);
    s.prediction_type = (data_prediction)get_word(&c, "prediction_type", predictions, 0);
    s.timestep_spacing = (data_spacing)get_word(&c, "timestep_spacing", spacings, 0);
    s.rescale_betas_zero_snr = data_json_bool(ctx, name, node, "rescale_betas_zero_snr", false);
    s.clip_sample = get_switch(&c, "clip_sample");
    s.set_alpha_to_one = get_switch(&c, "set_alpha_to_one");
    s.skip_prk_steps = get_switch(&c, "skip_prk_steps");
    s.steps_offset = (int)get_int(&c, "steps_offset", DATA_UNSAID, DATA_UNSAID, 1000000);
    if (json_object_get(node, "trained_betas") &&
        !json_is_null(json_object_get(node, "trained_betas")))
        refuse(&c, AG_EUNSUPPORTED, "trained_betas", "null");
    if (json_is_true(json_object_get(node, "thresholding")))
        refuse(&c, AG_EUNSUPPORTED, "thresholding", "false");
    if (ag_status_of(ctx) == AG_OK)
        *out = s;
    json_decref(node);
    return ag_status_of(ctx);
}
