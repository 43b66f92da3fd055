/* adapter.h - LoRA: a thin trained product beside a frozen weight.
 *
 *   y = W x + b + s B (A drop(x))       s = alpha / rank, with rslora alpha / sqrt(rank)
 *   DoRA: y = g (W x + s B (A drop(x))) + b,    g = m / ||W + s B A|| by rows of W
 *
 * W [O,I] with A [r,I], B [O,r]; a convolution's W [O,I,kh,kw] with A [r,I,kh,kw] of the layer's
 * stride and padding, and B [O,r,1,1]. DoRA's norm is a constant in the gradient; m begins as
 * ||W||. (Hu et al. 2021, arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732; Liu et al. 2024,
 * arXiv:2402.09353.) With dropout PEFT's DoRA also drops the x of (g - 1) W x, a second product
 * with W; here only A's x is dropped.
 *
 * An adapter hangs on the nn_param of a weight, where nn_linear() and nn_conv() find it; it is
 * chosen by name over a network's registry, and no network knows of it. A and B (and m) are f32,
 * in a registry of the set, under PEFT's names: "<module>.lora_A.weight", "<module>.lora_B.weight",
 * "<module>.lora_magnitude_vector" ([O], of a convolution [1,O,1,1]). The weight may be of half
 * precision.
 *
 * Ownership  The set owns adapters and registry. It refers to the base's registry and values: the
 *            base outlives it, and has its values before adapters are made: DoRA takes their norms.
 */
#ifndef NN_ADAPTER_H
#define NN_ADAPTER_H

#include "autograd/ops.h"
#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nn_lora_init {
    NN_LORA_GAUSSIAN, /* A ~ N(0, 1/r^2) */
    NN_LORA_KAIMING   /* A uniform in +-1/sqrt(fan_in) */
} nn_lora_init;           /* B = 0 either way: nothing changes at first */

typedef struct nn_lora_config {
    int64_t rank, conv_rank;  /* conv_rank is for kernels of more than 1x1; 0: they get none */
    double alpha, conv_alpha; /* 0: the rank */
    double dropout;           /* probability that a value of x is dropped on its way to A */
    bool rslora, dora;
    nn_lora_init init;
    /* A linear layer or convolution is adapted when its name equals a pattern, ends in "." and a
     * pattern, or matches one as shell wildcards. */
    const char *const *targets;
    int64_t n_targets; /* 0: an empty set, to be filled by nn_adapters_add() */
    uint64_t seed;     /* of A (by name, nn/init.h) and of dropout */
} nn_lora_config;

typedef struct nn_adapter nn_adapter;   /* one module's */
typedef struct nn_adapters nn_adapters; /* a network's */

/* Hang adapters on every module of `base` that the targets choose, and freeze base.
 * AG_EINVAL: nothing matched, a rank below 1 or above the narrower width of a layer (it is named),
 * dropout outside [0,1), a weight that has an adapter already. */
ag_status nn_adapters_new(nn_adapters **out, ag_ctx *ctx, nn_params *base,
                          const nn_lora_config *config);
/* One more, of its own rank and alpha; the rest as in the set's configuration. */
ag_status nn_adapters_add(ag_ctx *ctx, nn_adapters *set, nn_param *weight, int64_t rank,
                          double alpha);
void nn_adapters_free(nn_adapters *set); /* the weights are bare again; NULL is fine */

nn_params *nn_adapters_params(const nn_adapters *set); /* what is trained, all of it trainable */
int64_t nn_adapters_count(const nn_adapters *set);     /* modules */

typedef struct nn_adapter_view {
    const char *module; /* "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q" */
    nn_param *weight, *a, *b, *magnitude; /* magnitude NULL: no DoRA */
    int64_t rank;
    double alpha, scale; /* scale: s above */
} nn_adapter_view;
/* Adapter i, in the order of the base's registry and then of nn_adapters_add(). */
nn_adapter_view nn_adapters_at(const nn_adapters *set, int64_t i);

/* Before each forward pass of training: which micro-step's dropout masks are drawn. The mask of a
 * module is the draw (seed, AG_DRAW_DROPOUT, step, FNV-1a of its name), so a block that is run again
 * in the backward pass sees the same one. train false (and before any call): nothing is dropped. */
void nn_adapters_set_step(nn_adapters *set, uint32_t step, bool train);

/* Unhang the adapters for now, or hang them again: what the base computes alone. Adapters in use are needed where a
 * recorded pass is run again (ag_checkpoint). */
void nn_adapters_use(nn_adapters *set, bool on);

/* W' - W in the weight's published layout, f32, W' being the weight that computes what the adapter
 * does without dropout, moved by `multiplier` of the way. delta has room for weight->numel. */
ag_status nn_adapter_delta(ag_ctx *ctx, const nn_adapters *set, int64_t i, double multiplier,
                           float *delta);

/* --- for nn/layers.c ---------------------------------------------------------------------- */

/* The whole layer: x [...,I] -> [...,O], bias [O] or NULL. */
ag_tensor *nn_adapter_linear(ag_ctx *ctx, const nn_adapter *adapter, ag_tensor *x, ag_tensor *bias);
/* x [N,H,W,I] -> [N,OH,OW,O] */
ag_tensor *nn_adapter_conv(ag_ctx *ctx, const nn_adapter *adapter, ag_tensor *x, ag_tensor *bias,
                           ag_conv_opts opts);

#ifdef __cplusplus
}
#endif

#endif /* NN_ADAPTER_H */
