/* lora_extract.h - the difference of two models as a LoRA.
 *
 * Every linear layer and convolution of the U-Net and the text encoder that differs becomes a pair of factors, the best
 * of the rank asked for (pipeline/lora_rank.h), with alpha = rank. Values are read tensor by tensor; no network is in
 * memory.
 */
#ifndef PIPE_LORA_EXTRACT_H
#define PIPE_LORA_EXTRACT_H

#include "pipeline/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct pipe_lora_extract_options {
    const char *base, *tuned; /* models: folder, single file or hub id */
    const char *output;
    data_lora_dialect dialect;
    ag_dtype dtype;          /* AG_F32, AG_F16 or AG_BF16 */
    int64_t rank, conv_rank; /* conv_rank is for kernels of more than 1x1; 0: they are left out */
    double energy;           /* no more rank than keeps this share of the sum of squares; 0: all of it */
    /* Says how far it is: of n modules, i are done; may be NULL. */
    void (*progress)(void *user, int64_t i, int64_t n);
    void *progress_user;
    const pipe_note *note;
} pipe_lora_extract_options;

typedef struct pipe_lora_extracted {
    int64_t n_modules, n_left_out; /* tensors that differ and have no place in a LoRA, or are wide and not asked for */
    int64_t rank_high;
    double kept; /* share of the sum of squares of what was extracted */
} pipe_lora_extracted;

/* AG_EDATA when the models' tensors are not the same in name and shape, or nothing differs. */
ag_status pipe_lora_extract(pipe_lora_extracted *out, ag_ctx *ctx, const pipe_lora_extract_options *options);

#ifdef __cplusplus
}
#endif

#endif /* PIPE_LORA_EXTRACT_H */
