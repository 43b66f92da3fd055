/* objective.h - one number for a batch: the mean over its rows, or with prior preservation the sum of its
 * halves, instances first, then pictures of the class (Ruiz et al. 2023, DreamBooth).
 *
 *   without   L = mean over rows
 *   with      L = (M_i + w_c C_i) + w_p (M_c + w_c C_c)
 *
 * M is a half's mean over rows, C its contrast (train/contrast.h). min-SNR weighs the instances alone
 * (huggingface/diffusers: examples/dreambooth/train_dreambooth.py). The class's target is the noise like everyone's,
 * or what the frozen model predicts from the same noisy latents.
 */
#ifndef TRAIN_OBJECTIVE_H
#define TRAIN_OBJECTIVE_H

#include "train/diffusion.h"
#include "train/lora.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_objective {
    bool with_prior;
    double prior_loss_weight; /* w_p */
    double contrast_weight;   /* w_c; 0: no contrast */
    const train_lora *frozen; /* without these the model answers for the class; NULL: the noise does */
} train_objective;

/* lora is borrowed. AG_EINVAL when the frozen model is asked for and there are no adapters to leave out. */
ag_status train_objective_init(train_objective *out, ag_ctx *ctx, const train_options *options, const train_lora *lora);

/* Must a batch bring class_context? */
bool train_objective_wants_class_context(const train_objective *objective);

/* The loss of a batch, f32 []; *row_losses gets its rows' own, f32 [n], before w_p. AG_ESHAPE for halves of an
 * odd number of rows. */
ag_tensor *train_objective_loss(ag_ctx *ctx, const train_objective *objective, const train_diffusion *diffusion,
                                const train_rows *rows, ag_tensor **row_losses);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_OBJECTIVE_H */
