/* ops.h - the operations.
 *
 * Every function computes at once and returns a tensor of the open scope, or NULL after a failure
 * (autograd/status.h). Unless said otherwise: f32 or bf16 (on AG_CUDA f16 too) in, the same out, gradients of any order.
 * Activations are channels last. Shapes are written outer to inner.
 */
#ifndef AG_OPS_H
#define AG_OPS_H

#include "autograd/random.h"
#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- elementwise (autograd/ops/unary.c, binary.c, cast.c) ------------------------------------ */

typedef enum ag_unary_kind {
    AG_SILU,        /* x sigmoid(x) */
    AG_GELU,        /* x Phi(x), exact (erf) */
    AG_QUICK_GELU,  /* x sigmoid(1.702 x) */
    AG_SIGMOID,
    AG_TANH,
    AG_EXP,
    AG_LOG,
    AG_SQRT,
    AG_RSQRT,
    AG_RECIPROCAL,
    AG_SQUARE,
    AG_ABS,
    AG_RELU,
    AG_LEAKY_RELU,  /* parameter: slope */
    AG_POW,         /* parameter: exponent */
    AG_SIN,
    AG_COS,
    AG_SOFTPLUS,
    AG_N_UNARY
} ag_unary_kind;

ag_tensor *ag_unary(ag_ctx *ctx, ag_unary_kind kind, ag_tensor *x, double parameter);
#define ag_silu(ctx, x) ag_unary(ctx, AG_SILU, x, 0)
#define ag_gelu(ctx, x) ag_unary(ctx, AG_GELU, x, 0)
#define ag_quick_gelu(ctx, x) ag_unary(ctx, AG_QUICK_GELU, x, 0)
#define ag_sigmoid(ctx, x) ag_unary(ctx, AG_SIGMOID, x, 0)
#define ag_tanh(ctx, x) ag_unary(ctx, AG_TANH, x, 0)
#define ag_exp(ctx, x) ag_unary(ctx, AG_EXP, x, 0)
#define ag_log(ctx, x) ag_unary(ctx, AG_LOG, x, 0)
#define ag_sqrt(ctx, x) ag_unary(ctx, AG_SQRT, x, 0)
#define ag_rsqrt(ctx, x) ag_unary(ctx, AG_RSQRT, x, 0)
#define ag_reciprocal(ctx, x) ag_unary(ctx, AG_RECIPROCAL, x, 0)
#define ag_square(ctx, x) ag_unary(ctx, AG_SQUARE, x, 0)
#define ag_abs(ctx, x) ag_unary(ctx, AG_ABS, x, 0)
#define ag_relu(ctx, x) ag_unary(ctx, AG_RELU, x, 0)
#define ag_leaky_relu(ctx, x, slope) ag_unary(ctx, AG_LEAKY_RELU, x, slope)
#define ag_pow(ctx, x, exponent) ag_unary(ctx, AG_POW, x, exponent)
#define ag_softplus(ctx, x) ag_unary(ctx, AG_SOFTPLUS, x, 0)

/* a x + b */
ag_tensor *ag_affine(ag_ctx *ctx, ag_tensor *x, double a, double b);
#define ag_scale(ctx, x, a) ag_affine(ctx, x, a, 0)
#define ag_offset(ctx, x, b) ag_affine(ctx, x, 1, b)
#define ag_neg(ctx, x) ag_affine(ctx, x, -1, 0)

/* Broadcasting as in NumPy: shapes are aligned at their last axis, a size of 1 stretches. */
ag_tensor *ag_add(ag_ctx *ctx, ag_tensor *a, ag_tensor *b);
ag_tensor *ag_sub(ag_ctx *ctx, ag_tensor *a, ag_tensor *b);
ag_tensor *ag_mul(ag_ctx *ctx, ag_tensor *a, ag_tensor *b);
ag_tensor *ag_div(ag_ctx *ctx, ag_tensor *a, ag_tensor *b);
ag_tensor *ag_maximum(ag_ctx *ctx, ag_tensor *a, ag_tensor *b); /* ties: the gradient goes half each way */
ag_tensor *ag_minimum(ag_ctx *ctx, ag_tensor *a, ag_tensor *b);
ag_tensor *ag_clamp(ag_ctx *ctx, ag_tensor *x, double low, double high); /* gradient 1 inside and at the ends */

ag_tensor *ag_cast(ag_ctx *ctx, ag_tensor *x, ag_dtype dtype);
ag_tensor *ag_detach(ag_ctx *ctx, ag_tensor *x); /* the same values, no gradient */

/* --- shape (autograd/ops/shape.c, reduce.c) ------------------------------------------------- */

ag_tensor *ag_reshape(ag_ctx *ctx, ag_tensor *x, int n_dims, const int64_t *dims); /* one may be -1 */
ag_tensor *ag_permute(ag_ctx *ctx, ag_tensor *x, const int *axes); /* a copy; axes has ag_ndim(x) entries */
ag_tensor *ag_slice(ag_ctx *ctx, ag_tensor *x, int axis, int64_t start, int64_t length);
ag_tensor *ag_concat(ag_ctx *ctx, ag_tensor *a, ag_tensor *b, int axis);
ag_tensor *ag_broadcast(ag_ctx *ctx, ag_tensor *x, int n_dims, const int64_t *dims);
/* Sum or mean over the axes whose bits are set in `axes` (bit i: axis i); keep: they stay with size 1. */
ag_tensor *ag_sum(ag_ctx *ctx, ag_tensor *x, unsigned axes, bool keep);
ag_tensor *ag_mean(ag_ctx *ctx, ag_tensor *x, unsigned axes, bool keep);
#define AG_ALL_AXES 0xffffffffu

/* --- products (autograd/ops/matmul.c, conv2d.c) ----------------------------------------------- */

/* a [..., M, K] b [..., K, N] -> [..., M, N]; transpose_a: a is [..., K, M]; likewise b. The leading
 * axes are equal, or absent in b. */
ag_tensor *ag_matmul(ag_ctx *ctx, ag_tensor *a, ag_tensor *b, bool transpose_a, bool transpose_b);
/* x [..., I], w [O, I], b [O] or NULL -> [..., O]. w may be f32 where x is bf16. */
ag_tensor *ag_linear(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b);

typedef struct ag_conv_opts {
    int stride;               /* 0 means 1 */
    int pad_top, pad_bottom, pad_left, pad_right; /* zeros */
    int dilation;             /* 0 means 1 */
    bool enlarge;             /* every pixel of x counts as 2x2 of them, before the padding */
} ag_conv_opts;
/* x [N,H,W,I], w [O,kh,kw,I], b [O] or NULL -> [N,OH,OW,O]. w may be f32 where x is bf16. */
ag_tensor *ag_conv2d(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b, ag_conv_opts opts);
/* The same plus a tensor of the result's shape (NULL: nothing), added as the result is written where the device
 * can. */
ag_tensor *ag_linear_plus(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b, ag_tensor *plus);
ag_tensor *ag_conv2d_plus(ag_ctx *ctx, ag_tensor *x, ag_tensor *w, ag_tensor *b, ag_conv_opts opts, ag_tensor *plus);

/* --- normalisation, attention, activations with two halves ------------------------------------ */

/* x [N,...,C]; statistics over everything but N within a group of C/groups channels, biased
 * variance; then gamma, beta [C]; then SiLU when asked. */
ag_tensor *ag_group_norm(ag_ctx *ctx, ag_tensor *x, ag_tensor *gamma, ag_tensor *beta, int groups,
                         double eps, bool silu);
ag_tensor *ag_layer_norm(ag_ctx *ctx, ag_tensor *x, ag_tensor *gamma, ag_tensor *beta, double eps);
ag_tensor *ag_softmax(ag_ctx *ctx, ag_tensor *x); /* over the last axis */
/* q [N,Tq,H*d], k and v [N,Tk,H*d] -> [N,Tq,H*d]: softmax(scale q k^T) v by head. Scores are never
 * materialised. causal: key j is seen by query i only when j <= i. scale 0 means 1/sqrt(d). */
ag_tensor *ag_attention(ag_ctx *ctx, ag_tensor *q, ag_tensor *k, ag_tensor *v, int heads, double scale,
                        bool causal);
/* The probabilities themselves, [N,H,Tq,Tk]: for small maps that a control must see. */
ag_tensor *ag_attention_probs(ag_ctx *ctx, ag_tensor *q, ag_tensor *k, int heads, double scale, bool causal);
ag_tensor *ag_geglu(ag_ctx *ctx, ag_tensor *u); /* [..., 2C] = (a, g) -> a gelu(g) */

/* --- images ----------------------------------------------------------------------------------- */

typedef enum ag_pad_mode { AG_PAD_ZERO, AG_PAD_REFLECT, AG_PAD_REPLICATE } ag_pad_mode;
/* x [N,H,W,C]; pads may not exceed H-1, W-1 when reflecting. */
ag_tensor *ag_pad2d(ag_ctx *ctx, ag_tensor *x, ag_pad_mode mode, int top, int bottom, int left, int right);
/* Nearest neighbour: source index floor(dst * in / out). */
ag_tensor *ag_upsample_nearest(ag_ctx *ctx, ag_tensor *x, int64_t h, int64_t w);
ag_tensor *ag_avg_pool2d(ag_ctx *ctx, ag_tensor *x, int kernel); /* stride = kernel; trailing rows dropped */
/* Up-sample by zeros, pad (negative crops), correlate every channel with filter [fh,fw] (constant) and
 * keep every down-th sample. (NVlabs/stylegan2: dnnlib/tflib/ops/upfirdn_2d.py; filter not flipped.) */
ag_tensor *ag_upfirdn2d(ag_ctx *ctx, ag_tensor *x, ag_tensor *filter, int up, int down, int top, int bottom,
                        int left, int right);

/* --- look-up, time, losses, noise ------------------------------------------------------------- */

ag_tensor *ag_embedding(ag_ctx *ctx, ag_tensor *table, ag_tensor *ids); /* [V,D], i64 [...] -> [...,D] */
/* t [N] f32 -> [N,dim]: [cos, sin] when flip, else [sin, cos]; freq_k = 10000^(-k/(dim/2 - shift)). No
 * gradient. (Vaswani et al. 2017; huggingface/diffusers: src/diffusers/models/embeddings.py) */
ag_tensor *ag_timestep_embedding(ag_ctx *ctx, ag_tensor *t, int64_t dim, bool flip, double shift);

typedef enum ag_loss_kind {
    AG_LOSS_L2,           /* (p-t)^2 */
    AG_LOSS_HUBER,        /* 2c (sqrt((p-t)^2 + c^2) - c): kohya's and diffusers' pseudo-Huber */
    AG_LOSS_SMOOTH_L1     /* 2 (sqrt((p-t)^2 + c^2) - c) */
} ag_loss_kind;
/* Mean over everything but the first axis -> [N], always f32. c is used by the Huber kinds. */
ag_tensor *ag_row_loss(ag_ctx *ctx, ag_loss_kind kind, ag_tensor *prediction, ag_tensor *target, double c);

/* keys: i64 [N,4] = (seed, purpose, step, sample) a row; the row's values are elements 0.. of that
 * draw. Results are f32 [N, dims...]. */
ag_tensor *ag_normal(ag_ctx *ctx, ag_tensor *keys, int n_dims, const int64_t *dims);

/* Each value is 0 with probability p, else x / (1 - p). Which ones is a function of (draw, element)
 * alone: element e goes when word e of the draw is below 2^32 p. 0 <= p < 1. step: one i64 in the place of draw.step,
 * for a step that is recorded once and repeated; it must not change before the gradient was taken. NULL: draw's. */
ag_tensor *ag_dropout(ag_ctx *ctx, ag_tensor *x, double p, ag_draw draw, ag_tensor *step);

/* --- changing tensors in place: no gradient, recording must not see them ------------------------ */

/* Calls of ops of this and the next section that stand between the two do not depend on each other, so a device may
 * put them off and run those of one op as one (AG_CUDA: adamw_, fill_, ... of all parameters at once). Whatever else
 * is done, reading too, comes after what was put off. A bundle does not stand inside another. */
void ag_bundle_begin(ag_ctx *ctx);
ag_status ag_bundle_end(ag_ctx *ctx);

ag_tensor *ag_add_(ag_ctx *ctx, ag_tensor *y, ag_tensor *x);      /* y += x, y f32 */
ag_tensor *ag_scale_(ag_ctx *ctx, ag_tensor *y, ag_tensor *factor); /* y *= factor[] */
ag_tensor *ag_fill_(ag_ctx *ctx, ag_tensor *y, double value);
ag_tensor *ag_lerp_(ag_ctx *ctx, ag_tensor *y, ag_tensor *x, ag_tensor *weight); /* y += weight[] (x - y): EMA */
/* Sum of squares of x, in double, into slot `index` of `sums` (f64 [n]). */
ag_tensor *ag_sumsq_(ag_ctx *ctx, ag_tensor *sums, ag_tensor *x, int64_t index);
/* Clipping by a joint norm (Pascanu et al. 2013), as PyTorch's clip_grad_norm_. scalars is f64 [groups, n], and s
 * what stands in row 0 of its `column`, the scale of the gradients so far:
 *   norm[0] = s sqrt(sum of sums)      every row's scale *= min(1, max_norm / (norm[0] + 1e-6))
 * or, without a max_norm above 0, 1; or NaN where the norm is not finite, which no optimizer's step follows. norm and
 * sums are f64 [any]. */
ag_tensor *ag_clip_(ag_ctx *ctx, ag_tensor *scalars, ag_tensor *norm, ag_tensor *sums, int64_t column,
                    double max_norm);
/* The scale of a loss in f16 after an update, by the norm of its gradients (f64, the first number), as PyTorch's
 * GradScaler: scale is f64 [3], what the loss is multiplied by, the good updates in a row and the bad ones in all.
 * A norm that is not finite: scale[0] *= backoff, the row begins anew; the last of `interval` good ones:
 * scale[0] *= growth, unless no f32 can hold that, and the row begins anew. */
ag_tensor *ag_loss_scale_(ag_ctx *ctx, ag_tensor *scale, ag_tensor *norm, double growth, double backoff,
                          int64_t interval);

/* --- optimizers (autograd/ops/optimizer.c): as above ------------------------------------------- */

/* Each changes the parameter p and its states by one update with the gradient g; all are f32 of one
 * shape unless said otherwise. `scalars` [n], f64 (or f32), are the numbers of the update; their places,
 * and every rule, stand in autograd/cpu/optimizer.h, adamw8bit.h and adafactor.h. The scalar grad_scale
 * multiplies g first (clipping); one that is not a number leaves the tensors alone. */
ag_tensor *ag_adamw_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *v, ag_tensor *g, ag_tensor *scalars);
/* m and v are u8 [numel], their maxima f32 [ceil(numel / 256)]. Blocks follow the order of p, with taps 1;
 * or that of [.., channels, taps] where p is kept as [.., taps, channels]. */
ag_tensor *ag_adamw8bit_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *m_max, ag_tensor *v,
                         ag_tensor *v_max, ag_tensor *g, ag_tensor *scalars, int64_t channels, int64_t taps);
ag_tensor *ag_sgd_(ag_ctx *ctx, ag_tensor *p, ag_tensor *buffer, ag_tensor *g, ag_tensor *scalars); /* or NULL */
ag_tensor *ag_lion_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *g, ag_tensor *scalars);
/* Gradients are centred over each of n_rows rows; 0: they are not. */
ag_tensor *ag_ranger_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *v, ag_tensor *slow, ag_tensor *g,
                      ag_tensor *scalars, int64_t n_rows);

/* Prodigy: prodigy_d_ begins an update, the moments of every tensor add to d (f64 [8], zeros but for its
 * first two, which begin as d0), prodigy_d_ with is_end finds the new d, and every tensor makes its step. */
ag_tensor *ag_prodigy_d_(ag_ctx *ctx, ag_tensor *d, ag_tensor *scalars, bool is_end);
ag_tensor *ag_prodigy_moments_(ag_ctx *ctx, ag_tensor *d, ag_tensor *s, ag_tensor *m, ag_tensor *v,
                               ag_tensor *p, ag_tensor *p0, ag_tensor *g, ag_tensor *scalars);
ag_tensor *ag_prodigy_step_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *v, ag_tensor *d,
                            ag_tensor *scalars);

/* Adafactor: moments, sums, step. A tensor kept as [batches, rows, cols, lanes] has second moments col
 * [batches cols lanes] and row [batches rows lanes], which is NULL where rows and cols are 1. sums is f64
 * [2] and is overwritten; m may be NULL. */
typedef struct ag_adafactor_shape {
    int64_t batches, rows, cols, lanes;
} ag_adafactor_shape;
ag_tensor *ag_adafactor_moments_(ag_ctx *ctx, ag_tensor *col, ag_tensor *row, ag_tensor *g, ag_tensor *scalars,
                                 ag_adafactor_shape shape);
ag_tensor *ag_adafactor_sums_(ag_ctx *ctx, ag_tensor *sums, ag_tensor *p, ag_tensor *col, ag_tensor *row,
                              ag_tensor *g, ag_tensor *scalars, ag_adafactor_shape shape);
ag_tensor *ag_adafactor_step_(ag_ctx *ctx, ag_tensor *p, ag_tensor *m, ag_tensor *col, ag_tensor *row,
                              ag_tensor *g, ag_tensor *sums, ag_tensor *scalars, ag_adafactor_shape shape);

#ifdef __cplusplus
}
#endif

#endif /* AG_OPS_H */
