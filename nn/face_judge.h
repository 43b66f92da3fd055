/* face_judge.h - a small convolutional network that reads numbers off a picture of a face.
 *
 *   x = SiLU(conv 3x3, stride 2 (picture))
 *   three times: x = conv 3x3, stride 2 (x);  x = residual block(x)
 *   z = fc2(SiLU(fc1(flatten(SiLU(norm(x))))))           y = mean + deviation * z
 *
 * The last grid is flattened, not averaged: where something stands is what proportions are read from.
 * `scale.*` are no weights: mean and deviation of every output over the population, which keep z of size 1,
 * and how much of it the network explains (R^2 on faces it never saw), so that a file says what its numbers
 * are worth. Whoever trains the network sets them.
 */
#ifndef NN_FACE_JUDGE_H
#define NN_FACE_JUDGE_H

#include "nn/config.h"
#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_face_judge nn_face_judge;

/* About 0.6 million values, for pictures of 64 pixels. */
nn_judge_config nn_face_judge_defaults(int64_t n_outputs);

/* Declare the network; values come later (nn/params.h). AG_EINVAL for sizes that do not fit together. */
ag_status nn_face_judge_new(nn_face_judge **out, ag_ctx *ctx, const nn_judge_config *config);
void nn_face_judge_free(nn_face_judge *net); /* NULL is fine */
nn_params *nn_face_judge_params(const nn_face_judge *net);
const nn_judge_config *nn_face_judge_config_of(const nn_face_judge *net);

typedef enum nn_judge_scale { NN_JUDGE_MEAN, NN_JUDGE_DEVIATION, NN_JUDGE_R2, NN_JUDGE_N_SCALES } nn_judge_scale;
/* [n_outputs], f32, never trained. */
nn_param *nn_face_judge_scale(const nn_face_judge *net, nn_judge_scale which);

/* Ask for gradients of all weights, or no longer. */
ag_status nn_face_judge_train(ag_ctx *ctx, nn_face_judge *net, bool on);

/* pixels f32 [N,R,R,3] in -1..1 -> z, f32 [N,n_outputs]. */
ag_tensor *nn_face_judge_forward(ag_ctx *ctx, const nn_face_judge *net, ag_tensor *pixels);

#ifdef __cplusplus
}
#endif

#endif /* NN_FACE_JUDGE_H */
