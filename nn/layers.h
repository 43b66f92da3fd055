/* layers.h - the small parts networks are made of: linear, convolution, norms, residual block.
 *
 * A layer is a plain struct of pointers into a parameter registry. `_declare` fills it and declares
 * its parameters under the open prefix plus `name`; the function without a verb runs it.
 * Activations are [N,H,W,C] or [N,T,C]. Whatever is given NULL returns NULL.
 *
 * Every linear map of every network runs through nn_linear() or nn_conv(), which is where adapters
 * (nn/adapter.h) come in.
 */
#ifndef NN_LAYERS_H
#define NN_LAYERS_H

#include "autograd/ops.h"
#include "nn/params.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nn_linear_layer {
    nn_param *weight, *bias; /* [O,I]; [O] or NULL */
} nn_linear_layer;

typedef struct nn_conv_layer {
    nn_param *weight, *bias; /* internal [O,kh,kw,I], or a linear [O,I] when pointwise; [O] */
    ag_conv_opts opts;
    bool pointwise; /* 1x1: the same product as a linear layer over pixels */
} nn_conv_layer;

typedef struct nn_norm_layer {
    nn_param *weight, *bias; /* [C] */
    int groups;              /* 0: layer norm */
    double eps;
} nn_norm_layer;

/* layout: NN_AS_IS, or NN_LINEAR_1X1 with `conv_shape` when it is published as [O,I,1,1]. */
void nn_linear_declare(nn_params *params, nn_linear_layer *layer, const char *name, int64_t in,
                       int64_t out, bool bias, nn_layout layout, bool conv_shape);
/* With bias and first values of its own. */
void nn_linear_declare_drawn(nn_params *params, nn_linear_layer *layer, const char *name,
                             int64_t in, int64_t out, nn_first weight, nn_first bias);
ag_tensor *nn_linear(ag_ctx *ctx, const nn_linear_layer *layer, ag_tensor *x);
/* plus + the layer of x; plus NULL: nothing */
ag_tensor *nn_linear_plus(ag_ctx *ctx, const nn_linear_layer *layer, ag_tensor *x, ag_tensor *plus);

/* A kernel x kernel convolution with bias, zeros around by `pad` on every side. */
void nn_conv_declare(nn_params *params, nn_conv_layer *layer, const char *name, int64_t in,
                     int64_t out, int kernel, int stride, int pad);
ag_tensor *nn_conv(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x);
ag_tensor *nn_conv_plus(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x, ag_tensor *plus);
/* shift [N,1,1,O] is added to every pixel of its image. That of one image joins the bias and costs no pass. */
ag_tensor *nn_conv_shifted(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x, ag_tensor *shift);

void nn_group_norm_declare(nn_params *params, nn_norm_layer *layer, const char *name,
                           int64_t channels, int groups, double eps);
ag_tensor *nn_group_norm(ag_ctx *ctx, const nn_norm_layer *layer, ag_tensor *x, bool silu);
void nn_layer_norm_declare(nn_params *params, nn_norm_layer *layer, const char *name,
                           int64_t channels, double eps);
ag_tensor *nn_layer_norm(ag_ctx *ctx, const nn_norm_layer *layer, ag_tensor *x);

/* --- residual block ------------------------------------------------------------------------------
 *
 *   h = conv1(SiLU(GN1(x)));  h += time_emb_proj(time) per channel;  h = conv2(SiLU(GN2(h)))
 *   y = (shortcut(x) + h) / scale        shortcut: 1x1 convolution where channels differ
 *
 * The U-Net's and, without the time branch, the VAE's. (huggingface/diffusers:
 * src/diffusers/models/resnet.py, ResnetBlock2D) */
typedef struct nn_resnet {
    nn_norm_layer norm1, norm2;
    nn_conv_layer conv1, conv2, conv_shortcut;
    nn_linear_layer time_emb_proj;
    bool has_shortcut, has_time;
    double scale; /* output_scale_factor */
} nn_resnet;

/* time_channels 0: no time branch. */
void nn_resnet_declare(nn_params *params, nn_resnet *block, int64_t in, int64_t out,
                       int64_t time_channels, int groups, double eps, double scale);
/* x [N,H,W,in], skip NULL or joined behind x along the channels, time [N,time_channels] (SiLU
 * already applied; NULL without a time branch) -> [N,H,W,out]. recompute: run it again in the
 * backward pass instead of keeping what is inside. */
ag_tensor *nn_resnet_forward(ag_ctx *ctx, const nn_resnet *block, ag_tensor *x, ag_tensor *skip,
                             ag_tensor *time, bool recompute);

/* --- resampling --------------------------------------------------------------------------- */

/* Convolution 3x3 of stride 2. pad 1: zeros on every side; pad 0: one row at the bottom and one
 * column at the right, the VAE's way. */
void nn_downsample_declare(nn_params *params, nn_conv_layer *layer, int64_t channels, int pad);
/* Nearest neighbour to h x w, then convolution 3x3 (layer from nn_upsample_declare). */
void nn_upsample_declare(nn_params *params, nn_conv_layer *layer, int64_t channels);
ag_tensor *nn_upsample(ag_ctx *ctx, const nn_conv_layer *layer, ag_tensor *x, int64_t h, int64_t w);

/* Let go of everything in the open scope `scope` but `keep`, and stay in it. For chains of blocks,
 * where each result dies once the next one stands. */
ag_tensor *nn_keep_only(ag_ctx *ctx, ag_scope scope, ag_tensor *keep);

/* What a network computes in: x itself, or x as bf16. compute is AG_F32 or AG_BF16. */
ag_tensor *nn_enter_compute(ag_ctx *ctx, ag_tensor *x, ag_dtype compute);

#ifdef __cplusplus
}
#endif

#endif /* NN_LAYERS_H */
