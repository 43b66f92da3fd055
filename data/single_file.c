/* single_file.c - what a single-file checkpoint is, from its table of contents.
 *
 * The order of the tests is the library's (spec of the layout: huggingface/diffusers:
 * src/diffusers/loaders/single_file_utils.py), but what it would take for Stable Diffusion 1
 * because it recognises nothing is refused here.
 */
#include "data/single_file.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "data/yaml.h"

enum { MIN_EMA_KEYS = 100, SD20_BASE_STEPS = 875000 };

typedef struct contents {
    ag_ctx *ctx;
    const char *path;
    const data_named_shape *list;
    int64_t n;
} contents;

/* --- asking the table of contents ------------------------------------------------------------- */

static const data_named_shape *find(const contents *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static const data_named_shape *find(const contents *c, const char *format, ...)
{
    char name[DATA_KEY_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    for (int64_t i = 0; i < c->n; i++)
        if (strcmp(c->list[i].name, name) == 0)
            return &c->list[i];
    return NULL;
}

static int64_t dim(const data_named_shape *entry, int axis)
{
    return entry && axis < entry->n_dims ? entry->dims[axis] : 0;
}

static int64_t count_beginning(const contents *c, const char *with)
{
    int64_t n = 0;

    for (int64_t i = 0; i < c->n; i++)
        n += strncmp(c->list[i].name, with, strlen(with)) == 0;
    return n;
}

static ag_status misfit(const contents *c, const char *what)
{
    return ag_fail(c->ctx, AG_EDATA, "%s: %s cannot be told from the shapes of its tensors",
                   c->path, what);
}

/* --- U-Net ------------------------------------------------------------------------------------ */

#define UNET "model.diffusion_model."
#define CONTEXT_KEY UNET "middle_block.1.transformer_blocks.0.attn2.to_k.weight"

static ag_status derive_unet(nn_unet_config *u, const contents *c, data_family family)
{
    const data_named_shape *first = find(c, UNET "input_blocks.0.0.weight");
    const data_named_shape *last = find(c, UNET "out.2.weight");
    const data_named_shape *key = find(c, CONTEXT_KEY);
    const data_named_shape *proj = find(c, UNET "middle_block.1.proj_in.weight");
    int layers = 0, levels = 1, per_level;

    data_model_preset(family == DATA_FAMILY_SD2 ? "sd21-base" : "sd15", u, NULL, NULL, NULL);
    if (!first || !last || !key || !proj)
        return misfit(c, "the U-Net");
    while (layers < 64 && find(c, UNET "input_blocks.%d.0.in_layers.2.weight", layers + 1))
        layers++;
    per_level = layers + 1;
    if (find(c, UNET "input_blocks.%d.0.op.weight", per_level))
        while (levels < NN_MAX_LEVELS &&
               find(c, UNET "input_blocks.%d.0.op.weight", levels * per_level))
            levels++;
    u->in_channels = dim(first, 1);
    u->out_channels = dim(last, 0);
    u->layers_per_block = layers;
    u->n_levels = levels;
    u->cross_attention_dim = dim(key, 1);
    u->use_linear_projection = proj->n_dims == 2;
    u->transformer_layers_per_block = 1;
    while (u->transformer_layers_per_block < 64 &&
           find(c, UNET "middle_block.1.transformer_blocks.%d.norm1.weight",
                (int)u->transformer_layers_per_block))
        u->transformer_layers_per_block++;
    for (int i = 0; i < levels; i++) {
        const int block = i * per_level;

        u->block_out_channels[i] =
            dim(find(c, UNET "input_blocks.%d.0.out_layers.3.weight", block + 1), 0);
        u->down_attention[i] = find(c, UNET "input_blocks.%d.1.norm.weight", block + 1) != NULL;
        u->up_attention[i] = find(c, UNET "output_blocks.%d.1.norm.weight", block) != NULL;
        if (u->block_out_channels[i] < 1)
            return misfit(c, "the number of the U-Net's channels");
        u->n_heads[i] = 8;
        if (family == DATA_FAMILY_SD2)
            u->n_heads[i] = u->block_out_channels[i] < 64 ? 1 : u->block_out_channels[i] / 64;
    }
    if (layers < 1 || u->in_channels < 1 || u->out_channels < 1 || u->cross_attention_dim < 1)
        return misfit(c, "the U-Net");
    return AG_OK;
}

/* --- VAE -------------------------------------------------------------------------------------- */

/* The prefix of the VAE's names in this file; NULL when it holds none. */
static const char *vae_prefix_of(const contents *c)
{
    static const char *const prefixes[] = {"first_stage_model.", "vae.", ""};

    for (int i = 0; i < 3; i++)
        if (find(c, "%sencoder.down.0.block.0.conv1.weight", prefixes[i]))
            return prefixes[i];
    return NULL;
}

static ag_status derive_vae(nn_vae_config *v, const contents *c, const char *prefix)
{
    data_model_preset("sd15", NULL, v, NULL, NULL);
    v->in_channels = dim(find(c, "%sencoder.conv_in.weight", prefix), 1);
    v->out_channels = dim(find(c, "%sdecoder.conv_out.weight", prefix), 0);
    v->latent_channels = dim(find(c, "%sdecoder.conv_in.weight", prefix), 1);
    v->n_levels = 0;
    v->layers_per_block = 0;
    while (v->n_levels < NN_MAX_LEVELS) {
        const data_named_shape *conv =
            find(c, "%sencoder.down.%d.block.0.conv1.weight", prefix, v->n_levels);

        if (!conv)
            break;
        v->block_out_channels[v->n_levels++] = dim(conv, 0);
    }
    while (v->layers_per_block < 64 && find(c, "%sencoder.down.0.block.%d.conv1.weight", prefix,
                                            (int)v->layers_per_block))
        v->layers_per_block++;
    if (v->in_channels < 1 || v->out_channels < 1 || v->latent_channels < 1)
        return misfit(c, "the VAE");
    return AG_OK;
}

/* --- text model ------------------------------------------------------------------------------- */

static ag_status derive_text(nn_clip_config *t, const contents *c, bool open_clip,
                             const char *prefix)
{
    const data_named_shape *tokens, *positions, *mlp;
    int layers = 0;

    data_model_preset(open_clip ? "sd21" : "sd15", NULL, NULL, t, NULL);
    if (open_clip) {
        tokens = find(c, "cond_stage_model.model.token_embedding.weight");
        positions = find(c, "cond_stage_model.model.positional_embedding");
        mlp = find(c, "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight");
        while (layers < 256 &&
               find(c, "cond_stage_model.model.transformer.resblocks.%d.ln_1.weight", layers))
            layers++;
        /* A whole OpenCLIP: its last layer is stored and not used. */
        if (find(c, "cond_stage_model.model.text_projection") && layers > 1)
            layers--;
    } else {
        tokens = find(c, "%sembeddings.token_embedding.weight", prefix);
        positions = find(c, "%sembeddings.position_embedding.weight", prefix);
        mlp = find(c, "%sencoder.layers.0.mlp.fc1.weight", prefix);
        while (layers < 256 && find(c, "%sencoder.layers.%d.layer_norm1.weight", prefix, layers))
            layers++;
    }
    t->vocab_size = dim(tokens, 0);
    t->hidden_size = dim(tokens, 1);
    t->intermediate_size = dim(mlp, 0);
    t->max_position_embeddings = dim(positions, 0);
    t->num_hidden_layers = layers;
    t->num_attention_heads = t->hidden_size < 64 ? 1 : t->hidden_size / 64;
    if (layers < 1 || t->vocab_size < 1 || t->hidden_size < 1 || t->intermediate_size < 1 ||
        t->max_position_embeddings < 1)
        return misfit(c, "the text model");
    return AG_OK;
}

/* --- the original program's yaml --------------------------------------------------------------- */

static ag_status apply_yaml(data_single *s, ag_ctx *ctx, const char *path)
{
    const char *dot = strrchr(path, '.'), *slash = strrchr(path, '/');
    const size_t stem = dot && (!slash || dot > slash) ? (size_t)(dot - path) : strlen(path);
    char *file = ag_printf(ctx, "%.*s.yaml", (int)stem, path);
    const data_yaml_node *params, *unet, *node;
    data_yaml *yaml = NULL;
    struct stat info;
    int64_t heads = -1, head_size = -1;
    ag_status status = file ? AG_OK : AG_ENOMEM;

    if (status == AG_OK && stat(file, &info) == 0)
        status = data_yaml_read(&yaml, ctx, file);
    if (status != AG_OK || !yaml)
        goto out;
    params = data_yaml_find(data_yaml_root(yaml), "model.params");
    unet = data_yaml_find(params, "unet_config.params");
    node = data_yaml_find(params, "parameterization");
    if (node && data_yaml_text(node)) {
        s->schedule.prediction_type =
            strcmp(data_yaml_text(node), "v") == 0 ? DATA_V_PREDICTION : DATA_EPSILON;
        s->prediction_known = true;
    } else if (params) { /* the original program's default */
        s->schedule.prediction_type = DATA_EPSILON;
        s->prediction_known = true;
    }
    if ((node = data_yaml_find(params, "linear_start")))
        status = data_yaml_get_real(&s->schedule.beta_start, ctx, node);
    if (status == AG_OK && (node = data_yaml_find(params, "linear_end")))
        status = data_yaml_get_real(&s->schedule.beta_end, ctx, node);
    if (status == AG_OK && (node = data_yaml_find(params, "scale_factor")))
        status = data_yaml_get_real(&s->vae.scaling_factor, ctx, node);
    if (status == AG_OK && (node = data_yaml_find(unet, "num_heads")))
        status = data_yaml_get_int(&heads, ctx, node);
    if (status == AG_OK && (node = data_yaml_find(unet, "num_head_channels")))
        status = data_yaml_get_int(&head_size, ctx, node);
    for (int i = 0; i < s->unet.n_levels && status == AG_OK; i++) {
        if (heads > 0)
            s->unet.n_heads[i] = heads;
        else if (head_size > 0 && s->unet.block_out_channels[i] >= head_size)
            s->unet.n_heads[i] = s->unet.block_out_channels[i] / head_size;
    }
out:
    data_yaml_free(yaml);
    ag_delete(file);
    return status;
}

/* --- public ----------------------------------------------------------------------------------- */

bool data_single_is(const data_named_shape *list, int64_t n)
{
    const contents c = {.list = list, .n = n};

    return count_beginning(&c, UNET) > 0 || count_beginning(&c, "cond_stage_model.") > 0 ||
           count_beginning(&c, "conditioner.") > 0 || vae_prefix_of(&c) != NULL;
}

/* Models of the same layout that are none of ours. */
static ag_status refuse_relatives(const contents *c)
{
    const int64_t in = dim(find(c, UNET "input_blocks.0.0.weight"), 1);

    if (in == 9)
        return ag_fail(c->ctx, AG_EUNSUPPORTED, "%s: an inpainting model (9 input channels)",
                       c->path);
    if (in == 8)
        return ag_fail(c->ctx, AG_EUNSUPPORTED, "%s: an instruct-pix2pix model (8 input channels)",
                       c->path);
    if (count_beginning(c, "conditioner.") > 0)
        return ag_fail(c->ctx, AG_EUNSUPPORTED,
                       "%s: a Stable Diffusion XL model; 1.x and 2.x are possible", c->path);
    return AG_OK;
}

ag_status data_single_recognise(data_single *out, ag_ctx *ctx, const char *path,
                                const data_named_shape *list, int64_t n, int64_t global_step)
{
    const contents c = {ctx, path, list, n};
    data_single s = {0};
    const char *vae = vae_prefix_of(&c), *text = NULL;
    const data_named_shape *cross = find(&c, CONTEXT_KEY);
    ag_status status = refuse_relatives(&c);

    if (status != AG_OK)
        return status;
    s.open_clip = find(&c, "cond_stage_model.model.token_embedding.weight") != NULL;
    if (find(&c, "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"))
        text = "cond_stage_model.transformer.text_model.";
    else if (find(&c, "cond_stage_model.transformer.embeddings.position_embedding.weight"))
        text = "cond_stage_model.transformer.";
    s.has[DATA_UNET] = find(&c, UNET "input_blocks.0.0.weight") != NULL;
    s.has[DATA_VAE] = vae != NULL;
    s.has[DATA_TEXT_ENCODER] = text || s.open_clip;
    s.has_ema = count_beginning(&c, "model_ema.") > MIN_EMA_KEYS;
    if (!s.has[DATA_UNET] && !s.has[DATA_VAE] && !s.has[DATA_TEXT_ENCODER])
        return ag_fail(ctx, AG_EDATA,
                       "%s: no Stable Diffusion checkpoint: no U-Net, VAE or text model by the "
                       "names of one (a component's own file is opened by its folder)",
                       path);
    s.family = s.open_clip || (!text && dim(cross, 1) == 1024) ? DATA_FAMILY_SD2 : DATA_FAMILY_SD1;
    data_model_preset(s.family == DATA_FAMILY_SD2 ? "sd21-base" : "sd15", &s.unet, &s.vae, &s.text,
                      &s.schedule);
    if (s.has[DATA_UNET])
        status = derive_unet(&s.unet, &c, s.family);
    if (status == AG_OK && s.has[DATA_VAE])
        status = derive_vae(&s.vae, &c, vae);
    if (status == AG_OK && s.has[DATA_TEXT_ENCODER])
        status = derive_text(&s.text, &c, s.open_clip, text);
    s.prediction_known = s.family == DATA_FAMILY_SD1 || global_step == SD20_BASE_STEPS;
    if (!s.prediction_known)
        s.schedule.prediction_type = DATA_V_PREDICTION;
    if (status == AG_OK)
        status = apply_yaml(&s, ctx, path);
    if (s.family == DATA_FAMILY_SD2 && s.schedule.prediction_type == DATA_V_PREDICTION) {
        snprintf(s.schedule.class_name, sizeof s.schedule.class_name, "DDIMScheduler");
        s.schedule.skip_prk_steps = DATA_UNSAID;
        s.unet.upcast_attention = true;
        s.unet.sample_size = 96;
        s.vae.sample_size = 768;
    }
    if (status == AG_OK)
        *out = s;
    return status;
}

static const char *const text_keys[DATA_SINGLE_N_TEXTS] = {
    [DATA_UNET] = "agewright.unet",
    [DATA_VAE] = "agewright.vae",
    [DATA_TEXT_ENCODER] = "agewright.text_encoder",
    [DATA_N_COMPONENTS] = "agewright.scheduler"};

ag_status data_single_set_text(data_single *single, ag_ctx *ctx, const char *path, const char *key,
                               const char *text)
{
    int what = 0;
    char *name;
    ag_status status = AG_OK;

    while (what < DATA_SINGLE_N_TEXTS && strcmp(text_keys[what], key) != 0)
        what++;
    if (what == DATA_SINGLE_N_TEXTS)
        return AG_OK;
    name = ag_printf(ctx, "%s: __metadata__ %s", path, key);
    if (!name)
        return AG_ENOMEM;
    switch (what) {
    case DATA_UNET:
        status = data_unet_config_parse(&single->unet, ctx, name, text, strlen(text));
        break;
    case DATA_VAE:
        status = data_vae_config_parse(&single->vae, ctx, name, text, strlen(text));
        break;
    case DATA_TEXT_ENCODER:
        status = data_text_config_parse(&single->text, ctx, name, text, strlen(text));
        break;
    default:
        status = data_schedule_config_parse(&single->schedule, ctx, name, text, strlen(text));
        single->prediction_known = true;
        break;
    }
    ag_delete(name);
    return status;
}

char *data_single_text(const char **key, ag_ctx *ctx, const data_single *single, int what)
{
    *key = text_keys[what];
    switch (what) {
    case DATA_UNET:
        return data_unet_config_text(ctx, &single->unet);
    case DATA_VAE:
        return data_vae_config_text(ctx, &single->vae);
    case DATA_TEXT_ENCODER:
        return data_text_config_text(ctx, &single->text, "float32");
    default:
        return data_schedule_config_text(ctx, &single->schedule);
    }
}
