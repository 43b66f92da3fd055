/* model_config_write.c - structs to the files that diffusers and transformers open. */
#include <stdlib.h>
#include <string.h>

#include "data/json.h"
#include "data/model_folder.h"
#include "data/text_file.h"

/* The versions whose keys these are; readers of other versions take the same files. */
static const char diffusers_version[] = "0.42.1";
static const char transformers_version[] = "5.23.0";

/* An object under construction; a failed jansson call is remembered and asked for once. */
typedef struct builder {
    json_t *node;
    bool failed;
} builder;

static void set(builder *b, const char *key, json_t *value)
{
    if (!value || json_object_set_new(b->node, key, value) != 0)
        b->failed = true;
}

static void set_int(builder *b, const char *key, int64_t value)
{
    set(b, key, json_integer(value));
}

static void set_real(builder *b, const char *key, double value)
{
    set(b, key, json_real(value));
}

/* A number that is usually whole and then written so (freq_shift 0, mid_block_scale_factor 1). */
static void set_number(builder *b, const char *key, double value)
{
    if (value == (double)(int64_t)value)
        set_int(b, key, (int64_t)value);
    else
        set_real(b, key, value);
}

static void set_bool(builder *b, const char *key, bool value)
{
    set(b, key, json_boolean(value));
}

static void set_text(builder *b, const char *key, const char *value)
{
    set(b, key, value ? json_string(value) : json_null());
}

static void set_ints(builder *b, const char *key, const int64_t *values, int n)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        if (json_array_append_new(list, json_integer(values[i])) != 0)
            b->failed = true;
    set(b, key, list);
}

/* One word per level: `with` where on[i] (or on is NULL), else `without`. */
static void set_words(builder *b, const char *key, const bool *on, int n, const char *with,
                      const char *without)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        if (json_array_append_new(list, json_string(!on || on[i] ? with : without)) != 0)
            b->failed = true;
    set(b, key, list);
}

/* The text of the finished object, with a final line break. */
static char *finish(builder *b, ag_ctx *ctx)
{
    char *text = NULL, *line = NULL;

    if (!b->node || b->failed)
        ag_fail(ctx, AG_ENOMEM, "no memory for a configuration");
    else
        text = data_json_dump(ctx, b->node, 2);
    if (text)
        line = ag_printf(ctx, "%s\n", text);
    ag_delete(text);
    json_decref(b->node);
    return line;
}

static builder start(const char *class_name)
{
    builder b = {.node = json_object()};

    if (class_name) {
        set_text(&b, "_class_name", class_name);
        set_text(&b, "_diffusers_version", diffusers_version);
    }
    return b;
}

char *data_unet_config_text(ag_ctx *ctx, const nn_unet_config *u)
{
    builder b = start("UNet2DConditionModel");
    bool one_number = true;

    set_text(&b, "act_fn", "silu");
    for (int i = 1; i < u->n_levels; i++)
        one_number &= u->n_heads[i] == u->n_heads[0];
    if (one_number)
        set_int(&b, "attention_head_dim", u->n_heads[0]);
    else
        set_ints(&b, "attention_head_dim", u->n_heads, u->n_levels);
    set_ints(&b, "block_out_channels", u->block_out_channels, u->n_levels);
    set_bool(&b, "center_input_sample", u->center_input_sample);
    set_text(&b, "class_embed_type", NULL);
    set_int(&b, "cross_attention_dim", u->cross_attention_dim);
    set_words(&b, "down_block_types", u->down_attention, u->n_levels, "CrossAttnDownBlock2D",
              "DownBlock2D");
    set_int(&b, "downsample_padding", 1);
    set_bool(&b, "dual_cross_attention", false);
    set_bool(&b, "flip_sin_to_cos", u->flip_sin_to_cos);
    set_number(&b, "freq_shift", u->freq_shift);
    set_int(&b, "in_channels", u->in_channels);
    set_int(&b, "layers_per_block", u->layers_per_block);
    set_number(&b, "mid_block_scale_factor", u->mid_block_scale_factor);
    set_text(&b, "mid_block_type", "UNetMidBlock2DCrossAttn");
    set_real(&b, "norm_eps", u->norm_eps);
    set_int(&b, "norm_num_groups", u->norm_num_groups);
    set_text(&b, "num_class_embeds", NULL);
    set_bool(&b, "only_cross_attention", false);
    set_int(&b, "out_channels", u->out_channels);
    set_text(&b, "resnet_time_scale_shift", "default");
    if (u->sample_size > 0)
        set_int(&b, "sample_size", u->sample_size);
    else
        set_text(&b, "sample_size", NULL);
    if (u->transformer_layers_per_block != 1)
        set_int(&b, "transformer_layers_per_block", u->transformer_layers_per_block);
    set_words(&b, "up_block_types", u->up_attention, u->n_levels, "CrossAttnUpBlock2D",
              "UpBlock2D");
    set_bool(&b, "upcast_attention", u->upcast_attention);
    set_bool(&b, "use_linear_projection", u->use_linear_projection);
    return finish(&b, ctx);
}

char *data_vae_config_text(ag_ctx *ctx, const nn_vae_config *v)
{
    builder b = start("AutoencoderKL");

    set_text(&b, "act_fn", "silu");
    set_ints(&b, "block_out_channels", v->block_out_channels, v->n_levels);
    set_words(&b, "down_block_types", NULL, v->n_levels, "DownEncoderBlock2D", NULL);
    set_bool(&b, "force_upcast", v->force_upcast);
    set_int(&b, "in_channels", v->in_channels);
    set_int(&b, "latent_channels", v->latent_channels);
    set_int(&b, "layers_per_block", v->layers_per_block);
    set_int(&b, "norm_num_groups", v->norm_num_groups);
    set_int(&b, "out_channels", v->out_channels);
    set_int(&b, "sample_size", v->sample_size > 0 ? v->sample_size : 32);
    set_real(&b, "scaling_factor", v->scaling_factor);
    set_words(&b, "up_block_types", NULL, v->n_levels, "UpDecoderBlock2D", NULL);
    return finish(&b, ctx);
}

char *data_text_config_text(ag_ctx *ctx, const nn_clip_config *t, const char *dtype)
{
    builder b = start(NULL);
    json_t *classes = json_array();

    if (json_array_append_new(classes, json_string("CLIPTextModel")) != 0)
        b.failed = true;
    set(&b, "architectures", classes);
    set_real(&b, "attention_dropout", 0.0);
    /* The historical values of the published files. With end id 2 transformers takes the place of
     * the largest id as the end of the text, which is right for every vocabulary of ours. */
    set_int(&b, "bos_token_id", 0);
    set_int(&b, "eos_token_id", 2);
    set_int(&b, "pad_token_id", 1);
    set_text(&b, "hidden_act", t->hidden_act == NN_GELU ? "gelu" : "quick_gelu");
    set_int(&b, "hidden_size", t->hidden_size);
    set_real(&b, "initializer_factor", 1.0);
    set_real(&b, "initializer_range", 0.02);
    set_int(&b, "intermediate_size", t->intermediate_size);
    set_real(&b, "layer_norm_eps", t->layer_norm_eps);
    set_int(&b, "max_position_embeddings", t->max_position_embeddings);
    set_text(&b, "model_type", "clip_text_model");
    set_int(&b, "num_attention_heads", t->num_attention_heads);
    set_int(&b, "num_hidden_layers", t->num_hidden_layers);
    set_int(&b, "projection_dim", t->projection_dim > 0 ? t->projection_dim : 512);
    set_text(&b, "torch_dtype", dtype);
    set_text(&b, "transformers_version", transformers_version);
    set_int(&b, "vocab_size", t->vocab_size);
    return finish(&b, ctx);
}

char *data_schedule_config_text(ag_ctx *ctx, const data_schedule_config *s)
{
    static const char *const betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2"};
    static const char *const spacings[] = {NULL, "leading", "linspace", "trailing"};
    builder b = start(s->class_name[0] ? s->class_name : "PNDMScheduler");

    set_real(&b, "beta_end", s->beta_end);
    set_text(&b, "beta_schedule", betas[s->beta_schedule]);
    set_real(&b, "beta_start", s->beta_start);
    if (s->clip_sample != DATA_UNSAID)
        set_bool(&b, "clip_sample", s->clip_sample);
    set_int(&b, "num_train_timesteps", s->num_train_timesteps);
    set_text(&b, "prediction_type",
             s->prediction_type == DATA_V_PREDICTION ? "v_prediction" : "epsilon");
    if (s->rescale_betas_zero_snr)
        set_bool(&b, "rescale_betas_zero_snr", true);
    if (s->set_alpha_to_one != DATA_UNSAID)
        set_bool(&b, "set_alpha_to_one", s->set_alpha_to_one);
    if (s->skip_prk_steps != DATA_UNSAID)
        set_bool(&b, "skip_prk_steps", s->skip_prk_steps);
    if (s->steps_offset != DATA_UNSAID)
        set_int(&b, "steps_offset", s->steps_offset);
    if (spacings[s->timestep_spacing])
        set_text(&b, "timestep_spacing", spacings[s->timestep_spacing]);
    set_text(&b, "trained_betas", NULL);
    return finish(&b, ctx);
}

/* Write text (which is freed) to folder/name. */
static ag_status write_text(ag_ctx *ctx, const char *folder, const char *name, char *text)
{
    char *path = text ? ag_printf(ctx, "%s/%s", folder, name) : NULL;
    ag_status status = ag_status_of(ctx);

    if (path)
        status = data_file_write(ctx, path, text, strlen(text));
    ag_delete(path);
    ag_delete(text);
    return status;
}

ag_status data_unet_config_write(ag_ctx *ctx, const char *folder, const nn_unet_config *config)
{
    return write_text(ctx, folder, "config.json", data_unet_config_text(ctx, config));
}

ag_status data_vae_config_write(ag_ctx *ctx, const char *folder, const nn_vae_config *config)
{
    return write_text(ctx, folder, "config.json", data_vae_config_text(ctx, config));
}

ag_status data_text_config_write(ag_ctx *ctx, const char *folder, const nn_clip_config *config,
                                 const char *dtype)
{
    return write_text(ctx, folder, "config.json", data_text_config_text(ctx, config, dtype));
}

ag_status data_schedule_config_write(ag_ctx *ctx, const char *folder,
                                     const data_schedule_config *config)
{
    return write_text(ctx, folder, "scheduler_config.json", data_schedule_config_text(ctx, config));
}

static void set_pair(builder *b, const char *key, const char *library, const char *class_name)
{
    json_t *pair = json_array();

    if (json_array_append_new(pair, library ? json_string(library) : json_null()) != 0 ||
        json_array_append_new(pair, class_name ? json_string(class_name) : json_null()) != 0)
        b->failed = true;
    set(b, key, pair);
}

ag_status data_model_index_write(ag_ctx *ctx, const char *folder,
                                 const data_schedule_config *schedule)
{
    builder b = start("StableDiffusionPipeline");

    set_pair(&b, "feature_extractor", NULL, NULL);
    set_bool(&b, "requires_safety_checker", false);
    set_pair(&b, "safety_checker", NULL, NULL);
    set_pair(&b, "scheduler", "diffusers",
             schedule->class_name[0] ? schedule->class_name : "PNDMScheduler");
    set_pair(&b, "text_encoder", "transformers", "CLIPTextModel");
    set_pair(&b, "tokenizer", "transformers", "CLIPTokenizer");
    set_pair(&b, "unet", "diffusers", "UNet2DConditionModel");
    set_pair(&b, "vae", "diffusers", "AutoencoderKL");
    return write_text(ctx, folder, "model_index.json", finish(&b, ctx));
}
