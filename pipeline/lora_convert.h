/* lora_convert.h - LoRA files rewritten: another dialect, another precision, another rank.
 *
 * Without a rank, tensors keep their values, and in the same dtype their bits. With one every module becomes a plain
 * pair of factors, the best of that rank (pipeline/lora_rank.h), whatever kind it was; alpha is then the rank.
 */
#ifndef PIPE_LORA_CONVERT_H
#define PIPE_LORA_CONVERT_H

#include "pipeline/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pipe_lora_convert_options {
    const char *input, *output;
    const char *model; /* whose names the modules have; NULL: those of the published model that fits */
    data_lora_dialect dialect;
    bool keep_dialect; /* as the input's; old diffusers becomes diffusers */
    bool keep_dtype;   /* as the input's, else: */
    ag_dtype dtype;    /* AG_F32, AG_F16 or AG_BF16 */
    int64_t rank;      /* 0: as it is */
    double energy;     /* with a rank: no more of it than keeps this share of the sum of squares; 0: all of it */
    const pipe_note *note;
} pipe_lora_convert_options;

typedef struct pipe_lora_converted {
    data_lora_dialect dialect;
    int64_t n_modules;
    int64_t rank_low, rank_high; /* 0: no module has factors */
    double kept;                 /* share of the sum of squares that is left, over all modules; 1 without a rank */
} pipe_lora_converted;

/* AG_EDATA when a module is in no model; AG_EUNSUPPORTED naming a module of a kind that the dialect cannot say. */
ag_status pipe_lora_convert(pipe_lora_converted *out, ag_ctx *ctx, const pipe_lora_convert_options *options);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_LORA_CONVERT_H */
