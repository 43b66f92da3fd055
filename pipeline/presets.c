/* presets.c - see presets.h. */
#include "pipeline/presets.h"

#include <string.h>

#include "data/tokenizer.h"

const char *const pipe_preset_names[] = {"sd15", "sd21", "sd21-base", "tiny", NULL};

static void tiny(pipe_preset *p)
{
    const int64_t unet[] = {48, 80, 112}, heads[] = {3, 5, 7}, vae[] = {32, 48, 64};

    data_model_preset("sd15", &p->unet, &p->vae, &p->text, &p->schedule);
    p->unet.sample_size = 16;
    p->unet.n_levels = p->vae.n_levels = 3;
    for (int i = 0; i < 3; i++) {
        p->unet.block_out_channels[i] = unet[i];
        p->unet.n_heads[i] = heads[i]; /* of 16 channels each */
        p->unet.down_attention[i] = i < 2;
        p->unet.up_attention[i] = i > 0;
        p->vae.block_out_channels[i] = vae[i];
    }
    p->unet.layers_per_block = p->vae.layers_per_block = 1;
    p->unet.cross_attention_dim = p->text.hidden_size = 64;
    p->unet.norm_num_groups = p->vae.norm_num_groups = 16;
    p->vae.sample_size = 64;
    p->text.vocab_size = DATA_TOKENIZER_SMALL_SIZE;
    p->text.intermediate_size = 256;
    p->text.num_hidden_layers = 2;
    p->text.num_attention_heads = 4;
    p->text.projection_dim = 64;
}

void pipe_preset_get(pipe_preset *out, int number)
{
    const char *name = pipe_preset_names[number];

    memset(out, 0, sizeof *out);
    if (strcmp(name, "tiny") == 0)
        tiny(out);
    else
        data_model_preset(name, &out->unet, &out->vae, &out->text, &out->schedule);
}
