/* single_file_keys.c - names of single-file checkpoints to published names and back.
 *
 * L is layers_per_block: an encoder level has L residual blocks and, but for the last, a
 * downsampler: L + 1 input blocks after the first, which is conv_in. A decoder level has L + 1
 * output blocks, the last of which also upsamples. Both directions are written side by side; the
 * test walks every name of several models through both.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/single_file.h"

/* --- pieces of names -------------------------------------------------------------------------- */

/* Step over "word." (or "word" at the end). */
static bool eat(const char **at, const char *word)
{
    const size_t n = strlen(word);

    if (strncmp(*at, word, n) != 0 || ((*at)[n] != '.' && (*at)[n] != 0))
        return false;
    *at += n + ((*at)[n] == '.');
    return true;
}

/* Step over "12." */
static bool eat_number(const char **at, int *number)
{
    const size_t n = strspn(*at, "0123456789");

    if (n < 1 || n > 4 || (*at)[n] != '.' || (n > 1 && **at == '0'))
        return false;
    *number = atoi(*at);
    *at += n + 1;
    return true;
}

typedef struct word_pair {
    const char *file, *published;
} word_pair;

/* Write prefix + the rest, whose beginning is exchanged by the table (file to published or back;
 * a name of the table stands for itself and everything below it). False when nothing fits. */
static bool exchange(char *out, const char *prefix, const char *rest, const word_pair *pairs,
                     bool to_published)
{
    for (; pairs->file; pairs++) {
        const char *from = to_published ? pairs->file : pairs->published;
        const char *to = to_published ? pairs->published : pairs->file;
        const char *at = rest;

        if (eat(&at, from))
            return snprintf(out, DATA_KEY_MAX, "%s%s%s%s", prefix, to, *at ? "." : "", at) <
                   DATA_KEY_MAX;
    }
    return false;
}

static bool join(char *out, const char *prefix, const char *rest)
{
    return *rest && snprintf(out, DATA_KEY_MAX, "%s%s", prefix, rest) < DATA_KEY_MAX;
}

/* --- U-Net ------------------------------------------------------------------------------------ */

static const char unet_prefix[] = "model.diffusion_model.";
static const word_pair unet_ends[] = {{"time_embed.0", "time_embedding.linear_1"},
                                      {"time_embed.2", "time_embedding.linear_2"},
                                      {"input_blocks.0.0", "conv_in"},
                                      {"out.0", "conv_norm_out"},
                                      {"out.2", "conv_out"},
                                      {"middle_block.1", "mid_block.attentions.0"},
                                      {NULL, NULL}};
static const word_pair unet_resnet[] = {{"in_layers.0", "norm1"},
                                        {"in_layers.2", "conv1"},
                                        {"emb_layers.1", "time_emb_proj"},
                                        {"out_layers.0", "norm2"},
                                        {"out_layers.3", "conv2"},
                                        {"skip_connection", "conv_shortcut"},
                                        {NULL, NULL}};

/* name has no prefix here. */
static bool unet_to_published(char *out, const nn_unet_config *u, const char *name)
{
    const int per_level = (int)u->layers_per_block + 1;
    const char *at = name;
    char prefix[64];
    int block, slot;

    if (exchange(out, "", name, unet_ends, true))
        return true;
    if (eat(&at, "middle_block") && eat_number(&at, &slot) && (slot == 0 || slot == 2)) {
        snprintf(prefix, sizeof prefix, "mid_block.resnets.%d.", slot / 2);
        return exchange(out, prefix, at, unet_resnet, true);
    }
    at = name;
    if (eat(&at, "input_blocks") && eat_number(&at, &block) && eat_number(&at, &slot) &&
        block > 0) {
        const int level = (block - 1) / per_level, layer = (block - 1) % per_level;

        if (level >= u->n_levels)
            return false;
        if (layer == per_level - 1) {
            snprintf(prefix, sizeof prefix, "down_blocks.%d.downsamplers.0.conv.", level);
            return slot == 0 && eat(&at, "op") && join(out, prefix, at);
        }
        snprintf(prefix, sizeof prefix, "down_blocks.%d.%s.%d.", level,
                 slot == 0 ? "resnets" : "attentions", layer);
        return slot == 0 ? exchange(out, prefix, at, unet_resnet, true)
                         : slot == 1 && join(out, prefix, at);
    }
    at = name;
    if (eat(&at, "output_blocks") && eat_number(&at, &block) && eat_number(&at, &slot)) {
        const int level = block / per_level, layer = block % per_level;

        if (level >= u->n_levels)
            return false;
        if (slot > 0 && eat(&at, "conv")) {
            snprintf(prefix, sizeof prefix, "up_blocks.%d.upsamplers.0.conv.", level);
            return slot <= 2 && layer == per_level - 1 && join(out, prefix, at);
        }
        snprintf(prefix, sizeof prefix, "up_blocks.%d.%s.%d.", level,
                 slot == 0 ? "resnets" : "attentions", layer);
        return slot == 0 ? exchange(out, prefix, at, unet_resnet, true)
                         : slot == 1 && join(out, prefix, at);
    }
    return false;
}

static bool unet_to_file(char *out, const nn_unet_config *u, const char *name)
{
    const int per_level = (int)u->layers_per_block + 1;
    const char *at = name;
    char prefix[96], file[DATA_KEY_MAX];
    bool down, resnet;
    int level, layer;

    if (exchange(file, "", name, unet_ends, false))
        return join(out, unet_prefix, file);
    if (eat(&at, "mid_block")) {
        if (!eat(&at, "resnets") || !eat_number(&at, &layer) || layer > 1)
            return false;
        snprintf(prefix, sizeof prefix, "%smiddle_block.%d.", unet_prefix, 2 * layer);
        return exchange(out, prefix, at, unet_resnet, false);
    }
    down = eat(&at, "down_blocks");
    if ((!down && !eat(&at, "up_blocks")) || !eat_number(&at, &level) || level >= u->n_levels)
        return false;
    if (eat(&at, down ? "downsamplers" : "upsamplers")) {
        if (!eat(&at, "0") || !eat(&at, "conv"))
            return false;
        if (down)
            snprintf(prefix, sizeof prefix, "%sinput_blocks.%d.0.op.", unet_prefix,
                     per_level * (level + 1));
        else
            snprintf(prefix, sizeof prefix, "%soutput_blocks.%d.%d.conv.", unet_prefix,
                     per_level * (level + 1) - 1, u->up_attention[level] ? 2 : 1);
        return join(out, prefix, at);
    }
    resnet = eat(&at, "resnets");
    if ((!resnet && !eat(&at, "attentions")) || !eat_number(&at, &layer) ||
        layer >= per_level - down)
        return false;
    snprintf(prefix, sizeof prefix, "%s%s.%d.%d.", unet_prefix,
             down ? "input_blocks" : "output_blocks", per_level * level + layer + down,
             resnet ? 0 : 1);
    return resnet ? exchange(out, prefix, at, unet_resnet, false) : join(out, prefix, at);
}

/* The EMA copy's names are the U-Net's with every dot removed: put the dots back. A number after
 * input_blocks and output_blocks is a block and one digit for the slot. */
static bool restore_dots(char *out, const char *name)
{
    static const char *const words[] = {
        "input_blocks", "output_blocks", "middle_block", "time_embed", "in_layers", "out_layers",
        "emb_layers",   "skip_connection", "transformer_blocks", "proj_in", "proj_out", "proj",
        "norm1",        "norm2",         "norm3",        "norm",       "attn1",     "attn2",
        "to_q",         "to_k",          "to_v",         "to_out",     "ff",        "net",
        "weight",       "bias",          "conv",         "op",         "out"};
    size_t used = 0;
    bool after_blocks = false;

    while (*name) {
        size_t n = strspn(name, "0123456789"), best = 0;
        const bool is_number = n > 0;

        for (size_t i = 0; !is_number && i < sizeof words / sizeof *words; i++)
            if (strlen(words[i]) > best && strncmp(name, words[i], strlen(words[i])) == 0)
                best = strlen(words[i]);
        if (!is_number)
            n = best;
        if (n == 0 || used + n + 3 >= DATA_KEY_MAX)
            return false;
        if (used > 0)
            out[used++] = '.';
        memcpy(out + used, name, n);
        used += n;
        if (is_number && after_blocks && n > 1) {
            out[used] = out[used - 1];
            out[used - 1] = '.';
            used++;
        }
        after_blocks = !is_number && (strncmp(name, "input_blocks", n) == 0 ||
                                      strncmp(name, "output_blocks", n) == 0);
        name += n;
    }
    out[used] = 0;
    return used > 0;
}

/* --- VAE -------------------------------------------------------------------------------------- */

static const char vae_prefix[] = "first_stage_model.";
static const word_pair vae_ends[] = {{"conv_in", "conv_in"},
                                     {"conv_out", "conv_out"},
                                     {"norm_out", "conv_norm_out"},
                                     {NULL, NULL}};
static const word_pair vae_mid[] = {{"block_1", "mid_block.resnets.0"},
                                    {"block_2", "mid_block.resnets.1"},
                                    {"attn_1", "mid_block.attentions.0"},
                                    {NULL, NULL}};
static const word_pair vae_resnet[] = {{"norm1", "norm1"},
                                       {"conv1", "conv1"},
                                       {"norm2", "norm2"},
                                       {"conv2", "conv2"},
                                       {"nin_shortcut", "conv_shortcut"},
                                       {NULL, NULL}};
static const word_pair vae_attention[] = {
    {"norm", "group_norm"}, {"q", "to_q"}, {"k", "to_k"},
    {"v", "to_v"},          {"proj_out", "to_out.0"}, {NULL, NULL}};

static bool vae_to_published(char *out, const nn_vae_config *v, const char *name)
{
    const char *at = name, *side = strncmp(name, "encoder.", 8) == 0 ? "encoder." : "decoder.";
    const bool encoder = side[0] == 'e';
    char prefix[96];
    int level, layer;

    if (eat(&at, "quant_conv") || eat(&at, "post_quant_conv"))
        return join(out, "", name);
    if (!eat(&at, "encoder") && !eat(&at, "decoder"))
        return false;
    if (exchange(out, side, at, vae_ends, true))
        return true;
    if (eat(&at, "mid")) {
        for (const word_pair *part = vae_mid; part->file; part++) {
            if (!eat(&at, part->file))
                continue;
            snprintf(prefix, sizeof prefix, "%s%s.", side, part->published);
            return exchange(out, prefix, at, part == &vae_mid[2] ? vae_attention : vae_resnet,
                            true);
        }
        return false;
    }
    if (!eat(&at, encoder ? "down" : "up") || !eat_number(&at, &level) || level >= v->n_levels)
        return false;
    snprintf(prefix, sizeof prefix, "%s%s.%d.", side, encoder ? "down_blocks" : "up_blocks",
             encoder ? level : v->n_levels - 1 - level);
    if (eat(&at, encoder ? "downsample" : "upsample")) {
        strcat(prefix, encoder ? "downsamplers.0.conv." : "upsamplers.0.conv.");
        return eat(&at, "conv") && join(out, prefix, at);
    }
    if (!eat(&at, "block") || !eat_number(&at, &layer))
        return false;
    sprintf(prefix + strlen(prefix), "resnets.%d.", layer);
    return exchange(out, prefix, at, vae_resnet, true);
}

static bool vae_to_file(char *out, const nn_vae_config *v, const char *name)
{
    const char *at = name, *side = strncmp(name, "encoder.", 8) == 0 ? "encoder." : "decoder.";
    const bool encoder = side[0] == 'e';
    char prefix[96];
    int level, layer;

    if (eat(&at, "quant_conv") || eat(&at, "post_quant_conv"))
        return join(out, vae_prefix, name);
    if (!eat(&at, "encoder") && !eat(&at, "decoder"))
        return false;
    snprintf(prefix, sizeof prefix, "%s%s", vae_prefix, side);
    if (exchange(out, prefix, at, vae_ends, false))
        return true;
    for (const word_pair *part = vae_mid; part->file; part++) {
        const char *rest = at;

        if (!eat(&rest, part->published))
            continue;
        snprintf(prefix, sizeof prefix, "%s%smid.%s.", vae_prefix, side, part->file);
        return exchange(out, prefix, rest, part == &vae_mid[2] ? vae_attention : vae_resnet,
                        false);
    }
    if (!eat(&at, encoder ? "down_blocks" : "up_blocks") || !eat_number(&at, &level) ||
        level >= v->n_levels)
        return false;
    snprintf(prefix, sizeof prefix, "%s%s%s.%d.", vae_prefix, side, encoder ? "down" : "up",
             encoder ? level : v->n_levels - 1 - level);
    if (eat(&at, encoder ? "downsamplers" : "upsamplers")) {
        strcat(prefix, encoder ? "downsample.conv." : "upsample.conv.");
        return eat(&at, "0") && eat(&at, "conv") && join(out, prefix, at);
    }
    if (!eat(&at, "resnets") || !eat_number(&at, &layer))
        return false;
    sprintf(prefix + strlen(prefix), "block.%d.", layer);
    return exchange(out, prefix, at, vae_resnet, false);
}

/* Is it one of the attention's weights, a 1x1 convolution in the file and a matrix elsewhere? */
static bool is_vae_attention_weight(const char *published)
{
    const char *found = strstr(published, ".mid_block.attentions.0.to_");

    return found && strcmp(published + strlen(published) - 7, ".weight") == 0;
}

/* --- text ------------------------------------------------------------------------------------- */

static const char text_prefix[] = "cond_stage_model.transformer.";
static const char clip_prefix[] = "cond_stage_model.model.";
static const word_pair clip_ends[] = {
    {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
    {"token_embedding", "text_model.embeddings.token_embedding"},
    {"ln_final", "text_model.final_layer_norm"},
    {NULL, NULL}};
static const word_pair clip_layer[] = {
    {"ln_1", "layer_norm1"}, {"ln_2", "layer_norm2"},  {"attn.out_proj", "self_attn.out_proj"},
    {"mlp.c_fc", "mlp.fc1"}, {"mlp.c_proj", "mlp.fc2"}, {NULL, NULL}};

/* OpenCLIP's names; the number of entries of out, -1 for an unknown name. */
static int clip_to_published(data_key out[3], const nn_clip_config *t, const char *name)
{
    const char *at = name;
    char prefix[64];
    int layer;

    if (strcmp(name, "text_projection") == 0 || strcmp(name, "logit_scale") == 0 ||
        strcmp(name, "attn_mask") == 0)
        return 0;
    if (exchange(out[0].name, "", name, clip_ends, true))
        return 1;
    if (!eat(&at, "transformer") || !eat(&at, "resblocks") || !eat_number(&at, &layer))
        return -1;
    if (layer >= t->num_hidden_layers)
        return 0;
    snprintf(prefix, sizeof prefix, "text_model.encoder.layers.%d.", layer);
    if (strcmp(at, "attn.in_proj_weight") == 0 || strcmp(at, "attn.in_proj_bias") == 0) {
        for (int part = 0; part < 3; part++) {
            snprintf(out[part].name, DATA_KEY_MAX, "%sself_attn.%c_proj.%s", prefix, "qkv"[part],
                     at + strlen("attn.in_proj_"));
            out[part].part = part;
            out[part].n_parts = 3;
        }
        return 3;
    }
    return exchange(out[0].name, prefix, at, clip_layer, true) ? 1 : -1;
}

static bool clip_to_file(data_key *out, const nn_clip_config *t, const char *name)
{
    const char *at = name;
    char prefix[96];
    int layer;

    if (exchange(out->name, clip_prefix, name, clip_ends, false))
        return true;
    if (!eat(&at, "text_model") || !eat(&at, "encoder") || !eat(&at, "layers") ||
        !eat_number(&at, &layer) || layer >= t->num_hidden_layers)
        return false;
    snprintf(prefix, sizeof prefix, "%stransformer.resblocks.%d.", clip_prefix, layer);
    for (int part = 0; part < 3; part++) {
        const char *rest = at, word[] = {"qkv"[part], '_', 'p', 'r', 'o', 'j', 0};

        if (!eat(&rest, "self_attn") || !eat(&rest, word))
            continue;
        if (strcmp(rest, "weight") != 0 && strcmp(rest, "bias") != 0)
            return false;
        snprintf(out->name, DATA_KEY_MAX, "%sattn.in_proj_%s", prefix, rest);
        out->part = part;
        out->n_parts = 3;
        return true;
    }
    return exchange(out->name, prefix, at, clip_layer, false);
}

/* --- public ----------------------------------------------------------------------------------- */

static bool begins(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

bool data_published_name(char *name, data_component component)
{
    static const word_pair old_vae[] = {{"query", "to_q"},
                                        {"key", "to_k"},
                                        {"value", "to_v"},
                                        {"proj_attn", "to_out.0"},
                                        {NULL, NULL}};
    static const char place[] = ".mid_block.attentions.0.";
    char changed[DATA_KEY_MAX], *found;

    if (component == DATA_VAE && (found = strstr(name, place))) {
        char *rest = found + strlen(place);

        if (exchange(changed, "", rest, old_vae, true) &&
            (size_t)(rest - name) + strlen(changed) < DATA_KEY_MAX)
            strcpy(rest, changed);
    }
    if (component != DATA_TEXT_ENCODER)
        return true;
    if ((begins(name, "embeddings.") || begins(name, "encoder.") ||
         begins(name, "final_layer_norm.")) &&
        join(changed, "text_model.", name))
        strcpy(name, changed);
    /* the last four stand beside a text model in a whole CLIP's file */
    return strcmp(name, "text_model.embeddings.position_ids") != 0 &&
           !begins(name, "vision_model.") && !begins(name, "visual_projection.") &&
           !begins(name, "text_projection.") && strcmp(name, "logit_scale") != 0;
}

static bool is_schedule_buffer(const char *name)
{
    static const char *const buffers[] = {"betas",
                                          "alphas_cumprod",
                                          "alphas_cumprod_prev",
                                          "sqrt_alphas_cumprod",
                                          "sqrt_one_minus_alphas_cumprod",
                                          "log_one_minus_alphas_cumprod",
                                          "sqrt_recip_alphas_cumprod",
                                          "sqrt_recipm1_alphas_cumprod",
                                          "posterior_variance",
                                          "posterior_log_variance_clipped",
                                          "posterior_mean_coef1",
                                          "posterior_mean_coef2",
                                          "logvar",
                                          "scale_factor",
                                          "global_step",
                                          "epoch",
                                          "model_ema.decay",
                                          "model_ema.num_updates"};

    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        if (strcmp(buffers[i], name) == 0)
            return true;
    return false;
}

static int give_one(data_key *out, data_component component, bool ok)
{
    out->component = component;
    return ok ? 1 : -1;
}

int data_single_to_folder(data_key out[3], const data_single *single, const char *name, int n_dims)
{
    char dotted[DATA_KEY_MAX];
    int n;

    for (int i = 0; i < 3; i++)
        out[i] = (data_key){.n_parts = 1};
    if (is_schedule_buffer(name))
        return 0;
    if (begins(name, "model_ema.")) {
        const char *rest = name + strlen("model_ema.");

        if (!single->use_ema || !begins(rest, "diffusion_model"))
            return 0;
        return give_one(&out[0], DATA_UNET,
                        restore_dots(dotted, rest + strlen("diffusion_model")) &&
                            unet_to_published(out[0].name, &single->unet, dotted));
    }
    if (begins(name, unet_prefix)) {
        if (single->use_ema)
            return 0;
        return give_one(&out[0], DATA_UNET,
                        unet_to_published(out[0].name, &single->unet,
                                          name + strlen(unet_prefix)));
    }
    if (begins(name, text_prefix)) {
        if (!join(out[0].name, "", name + strlen(text_prefix)))
            return -1;
        if (!data_published_name(out[0].name, DATA_TEXT_ENCODER))
            return 0;
        return give_one(&out[0], DATA_TEXT_ENCODER, begins(out[0].name, "text_model."));
    }
    if (begins(name, clip_prefix)) {
        n = clip_to_published(out, &single->text, name + strlen(clip_prefix));
        for (int i = 0; i < n; i++)
            out[i].component = DATA_TEXT_ENCODER;
        return n;
    }
    if (begins(name, vae_prefix))
        name += strlen(vae_prefix);
    else if (begins(name, "vae."))
        name += strlen("vae.");
    if (begins(name, "loss.") || begins(name, "model_ema."))
        return 0;
    n = give_one(&out[0], DATA_VAE, vae_to_published(out[0].name, &single->vae, name));
    if (n == 1 && n_dims > 2 && is_vae_attention_weight(out[0].name))
        out[0].n_ones = n_dims - 2;
    return n;
}

bool data_single_from_folder(data_key *out, const data_single *single, data_component component,
                             const char *name, int n_dims)
{
    *out = (data_key){.component = component, .n_parts = 1};
    switch (component) {
    case DATA_UNET:
        return unet_to_file(out->name, &single->unet, name);
    case DATA_VAE:
        if (n_dims == 2 && is_vae_attention_weight(name))
            out->n_ones = 2;
        return vae_to_file(out->name, &single->vae, name);
    default:
        break;
    }
    if (single->open_clip)
        return clip_to_file(out, &single->text, name);
    return begins(name, "text_model.") && join(out->name, text_prefix, name);
}
