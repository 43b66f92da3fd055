/* presets.h - models by name, for `agewright init` and `agewright pretrain`. */
#ifndef PIPE_PRESETS_H
#define PIPE_PRESETS_H

#include "data/model_folder.h"

#ifdef __cplusplus
extern "C" {
#endif

/* "sd15", "sd21", "sd21-base", "tiny", NULL */
extern const char *const pipe_preset_names[];

typedef struct pipe_preset {
    nn_unet_config unet;
    nn_vae_config vae;
    nn_clip_config text;
    data_schedule_config schedule;
} pipe_preset;

/* Fill a preset by its number in pipe_preset_names. `tiny` paints faces of 64 px: a VAE that halves twice
 * (0.8 M parameters), a U-Net of three levels (2.6 M), a text model of two layers. */
void pipe_preset_get(pipe_preset *out, int number);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_PRESETS_H */
