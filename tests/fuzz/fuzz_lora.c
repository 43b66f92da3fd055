/* fuzz_lora.c - any bytes as a LoRA's file: opened, matched with a small model, its changes computed. */
#include <math.h>

#include "data/lora_file.h"
#include "tests/fuzz/weights_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

static const data_named_shape UNET[] = {
    {"down_blocks.0.attentions.0.proj_in.weight", 4, (int64_t[]){4, 4, 1, 1}},
    {"down_blocks.0.attentions.0.proj_in.bias", 1, (int64_t[]){4}},
    {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", 2, (int64_t[]){4, 6}},
    {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", 2, (int64_t[]){4, 5}},
    {"mid_block.resnets.0.conv1.weight", 4, (int64_t[]){4, 6, 3, 3}},
    {"mid_block.resnets.0.conv1.bias", 1, (int64_t[]){4}},
    {"conv_norm_out.weight", 1, (int64_t[]){4}},
};
static const data_named_shape TEXT[] = {
    {"text_model.encoder.layers.0.self_attn.q_proj.weight", 2, (int64_t[]){4, 4}},
    {"text_model.encoder.layers.0.self_attn.q_proj.bias", 1, (int64_t[]){4}},
};
enum { N_UNET = sizeof UNET / sizeof *UNET, MOST = 4 * 6 * 9 };

/* The change of one module's weight and bias; values are of the shape's count, or the call failed. */
static void change(ag_ctx *ctx, const data_lora *lora, int64_t i)
{
    const data_lora_module *m = data_lora_at(lora, i);
    const data_named_shape *list = m->component == DATA_UNET ? UNET : TEXT;
    const int n = m->component == DATA_UNET ? N_UNET : 2;
    float base[MOST], out[MOST];

    for (int k = 0; k < MOST; k++)
        base[k] = 1.0f;
    for (int k = 0; k < n; k++) {
        const size_t length = strlen(m->name);

        if (strncmp(list[k].name, m->name, length) != 0)
            continue;
        if (strcmp(list[k].name + length, ".weight") == 0 && data_lora_changes_weight(m))
            (void)data_lora_change(ctx, lora, i, &list[k], base, out);
        else if (strcmp(list[k].name + length, ".bias") == 0 && data_lora_changes_bias(m))
            (void)data_lora_bias_change(ctx, lora, i, list[k].dims[0], out);
        ag_clear(ctx);
    }
}

static void look_into(ag_ctx *ctx, data_lora *lora)
{
    const nn_unet_config unet = {.n_levels = 2, .layers_per_block = 1, .up_attention = {true}};
    const data_lora_names networks[] = {{DATA_UNET, UNET, N_UNET, &unet}, {DATA_TEXT_ENCODER, TEXT, 2, NULL}};
    data_lora_matched matched;
    char *missed;

    if (data_lora_count(lora) < 1)
        abort();
    for (int64_t i = 0; i < data_lora_count(lora); i++)
        if (data_lora_at(lora, i)->rank > 0 && !isfinite(data_lora_at(lora, i)->scale))
            abort();
    if (data_lora_match(&matched, ctx, lora, networks, 2) != AG_OK) {
        if (!*ag_message(ctx))
            abort();
        return;
    }
    if (matched.n[DATA_UNET] + matched.n[DATA_TEXT_ENCODER] + matched.n_missed + matched.n_elsewhere !=
        data_lora_count(lora))
        abort();
    missed = data_lora_missed_text(ctx, lora);
    if (!missed || (*missed == 0) != (matched.n_missed == 0))
        abort();
    ag_delete(missed);
    for (int64_t i = 0; i < data_lora_count(lora); i++) {
        const data_lora_module *m = data_lora_at(lora, i);

        if (m->name && data_lora_find(lora, (data_component)m->component, m->name) != i)
            abort();
        if (m->name)
            change(ctx, lora, i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    size_t n_file;
    uint8_t *file = fuzz_safetensors_file(bytes, n, 0x3c, &n_file); /* a small number, in any floating type */
    data_weights *w = NULL;
    data_lora *lora = NULL;
    ag_ctx *ctx;
    const int fd = fuzz_open(&ctx, file, file ? n_file : 0);

    if (data_weights_open_fd(&w, ctx, fd, "input") == AG_OK && data_lora_from_weights(&lora, ctx, w) == AG_OK)
        look_into(ctx, lora);
    else if (lora || ag_status_of(ctx) == AG_OK || !*ag_message(ctx))
        abort();
    data_lora_close(lora);
    ag_clear(ctx);
    free(file);
    return 0;
}
