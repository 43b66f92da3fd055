/* contrast.h - NT-Xent between what a network predicted and what it should have (Chen et al. 2020,
 * SimCLR, as shiiiijp/SelfAge: criteria/SimCLRLoss.py applies it).
 *
 * For each latent channel, the rows' predictions z_1..z_B and targets z_B+1..z_2B as vectors:
 *   s(a,b) = cos(z_a, z_b) / tau       row loss: -s(a, pos(a)) + log sum_{b != a} exp s(a,b)
 * pos(a) is the same row's other vector. The result is the mean over the 2B rows and the channels.
 *
 * These vectors are drawn noise and predicted noise, independent from row to row: what the term does is match
 * directions channel by channel. A perfect prediction of B uncorrelated noises costs log(1 + (2B-2) e^-2);
 * a single row has no others and costs exactly 0.
 */
#ifndef TRAIN_CONTRAST_H
#define TRAIN_CONTRAST_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TRAIN_CONTRAST_TAU 0.5

/* prediction, target f32 [B,h,w,C] -> f32 []. Lengths below 1e-8 count as 1e-8 in the cosine. */
ag_tensor *train_contrast(ag_ctx *ctx, ag_tensor *prediction, ag_tensor *target, double tau);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_CONTRAST_H */
