/* init.h - first values of a network: fresh draws, and a rule for tests.
 *
 * Fresh values are a function of (seed, name): parameter `name` is the draw (seed, AG_DRAW_INIT,
 * step 0, sample = FNV-1a of the name), its elements in the published order. So a layer keeps its
 * values whatever is declared around it and however it is laid out inside.
 */
#ifndef NN_INIT_H
#define NN_INIT_H

#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

/* PyTorch's default for linear layers and convolutions: weight and bias uniform in
 * +-1/sqrt(fan_in). (pytorch/pytorch: torch/nn/modules/linear.py, reset_parameters; kaiming_uniform
 * with a = sqrt 5) */
nn_first nn_first_uniform(int64_t fan_in);
nn_first nn_first_normal(double deviation);
nn_first nn_first_constant(double value);

/* Draw every parameter as it was declared. */
ag_status nn_params_init(ag_ctx *ctx, nn_params *params, uint64_t seed);
/* Draw one. */
ag_status nn_param_init(ag_ctx *ctx, nn_param *param, uint64_t seed);

/* The test rule: values that a few lines of any language can make, so that a test needs no file.
 * With h = FNV-1a(name), x = murmur3's 32-bit finalizer of (h + 2654435761 i), v = 2 x / 2^32 - 1
 *
 *   one axis, name ends in ".weight": 1 + v/10;  other one-axis: v/10;
 *   more axes: v sqrt(3 / fan_in) with fan_in = numel / dims[0].
 */
void nn_rule_param(const char *name, int n_dims, const int64_t *dims, float *values);
/* An input of that rule: v * scale; sqrt(3) gives unit variance. */
void nn_rule_input(const char *name, double scale, int64_t n, float *values);
/* Set every parameter by the rule. */
ag_status nn_params_rule(ag_ctx *ctx, nn_params *params);

#ifdef __cplusplus
}
#endif

#endif /* NN_INIT_H */
