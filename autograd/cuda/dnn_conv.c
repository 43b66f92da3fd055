/* dnn_conv.c - the three convolutions as cuDNN's graphs; see dnn_conv.h.
 *
 * cuDNN names axes N, C, H, W and is told by strides that channels come last. Sums are f32 inside a graph: the bias
 * is added to them before they are rounded, and dw leaves them as they are.
 */
#include "autograd/cuda/dnn.h"

enum { X = 1, W, Y, BIAS };
enum { MOST_WORKSPACE = 256 << 20, SLACK_BYTES = 4 << 20, PARTS_BYTES = 32 << 20, UNIT = 8 };

/* [a,b,c,d] that lies as [a,c,d,b] */
static dnn_tensor channels_last(int64_t uid, ag_dtype type, const int64_t dims[4])
{
    return (dnn_tensor){
        .uid = uid,
        .type = dnn_type(type),
        .dims = {dims[0], dims[1], dims[2], dims[3]},
        .strides = {dims[1] * dims[2] * dims[3], 1, dims[3] * dims[1], dims[1]},
    };
}

/* x, w or y, or the sums of one of them where uid is 0 */
static dnn_part place(dnn_graph *g, const dnn_key *key, int64_t uid, ag_dtype type, int like)
{
    const cuda_conv *s = &key->of.conv;
    const int64_t dims[][4] = {
        [X] = {s->n, s->c, s->h, s->w}, [W] = {s->o, s->c, s->kh, s->kw}, [Y] = {s->n, s->o, s->oh, s->ow},
        [BIAS] = {1, s->o, 1, 1}};
    const dnn_tensor t = channels_last(uid, type, dims[like]);

    return dnn_make_tensor(g, &t);
}

static dnn_part geometry(dnn_graph *g, const cuda_conv *s)
{
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const int64_t n = 2, stride[] = {s->stride, s->stride}, dilation[] = {s->dilation, s->dilation};
    const int64_t before[] = {s->top, s->left}, after[] = {s->bottom, s->right};
    dnn_part how = dnn_make_f32(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR, CUDNN_ATTR_CONVOLUTION_COMP_TYPE);

    dnn_set(g, how, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    dnn_set(g, how, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &n);
    dnn_set(g, how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, stride);
    dnn_set(g, how, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilation);
    dnn_set(g, how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, before);
    dnn_set(g, how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, after);
    dnn_finish(g, how);
    return how;
}

/* What the three operations call the same things. */
typedef struct words {
    cudnnBackendDescriptorType_t operation;
    cudnnBackendAttributeName_t geometry, x, w, y, alpha, beta;
} words;

static const words WORDS[] = {
    [DNN_FORWARD] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
    [DNN_DATA] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                  CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
    [DNN_WEIGHTS] = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
};

static void add_convolution(dnn_graph *g, const dnn_key *key, dnn_part x, dnn_part w, dnn_part y)
{
    const words *name = &WORDS[key->what];
    const float one = 1.0f, zero = 0.0f;
    const dnn_named parts[] = {{name->geometry, geometry(g, &key->of.conv)}, {name->x, x}, {name->w, w}, {name->y, y}};
    dnn_part operation = dnn_make_operation(g, name->operation, 4, parts);

    dnn_set(g, operation, name->alpha, CUDNN_TYPE_FLOAT, 1, &one);
    dnn_set(g, operation, name->beta, CUDNN_TYPE_FLOAT, 1, &zero);
    dnn_add(g, operation);
}

static void describe(dnn_graph *g, const dnn_key *key)
{
    const ag_dtype type = (ag_dtype)key->type;
    const bool sums_w = key->what == DNN_WEIGHTS && type != AG_F32;
    dnn_part x = place(g, key, X, type, X), y = place(g, key, Y, type, Y), sums;
    dnn_part w = place(g, key, W, key->what == DNN_WEIGHTS ? AG_F32 : type, W);

    if (key->with_bias) {
        sums = place(g, key, 0, AG_F32, Y);
        add_convolution(g, key, x, w, sums);
        dnn_add_pointwise(g, CUDNN_POINTWISE_ADD, sums, place(g, key, BIAS, type, BIAS), y);
    } else if (sums_w) { /* no engine has f32 for dw alone of two halves */
        sums = place(g, key, 0, AG_F32, W);
        add_convolution(g, key, x, sums, y);
        dnn_add_pointwise(g, CUDNN_POINTWISE_IDENTITY, sums, NULL, w);
    } else {
        add_convolution(g, key, x, w, y);
    }
}

/* --- what conv2d.c asks for ------------------------------------------------------------------- */

static bool is_aligned(const void *address)
{
    return (uintptr_t)address % 16 == 0;
}

static int64_t in_units(int64_t channels)
{
    return (channels + UNIT - 1) / UNIT * UNIT;
}

/* Workspace that an engine may want. cuDNN 9.19 was asked without a device, by descriptions of sm_80 and sm_90, for 600
 * convolutions of the U-Net's and the VAE's shapes at batches of 1 to 64. The first engine that will do within
 * MOST_WORKSPACE wants: of halves, copies of what has channels in no eights, and partial sums of less than 32 MiB; of f32,
 * copies of x and y in another layout, and up to four times w. So a smaller bound changes no choice, and a forecast
 * can count it. */
static size_t most_workspace(const cuda_conv *s, ag_dtype type)
{
    const int64_t places = s->n * s->h * s->w, results = s->n * s->oh * s->ow, taps = s->kh * s->kw;
    const bool in_eights = s->c % UNIT == 0 && s->o % UNIT == 0;
    int64_t bytes = SLACK_BYTES;

    if (type == AG_F32)
        bytes += 4 * (places * s->c + results * s->o + 4 * s->o * s->c * taps);
    else
        bytes += PARTS_BYTES + (in_eights ? 0 : 2 * (places * in_units(s->c) + results * in_units(s->o) +
                                                     in_units(s->o) * in_units(s->c) * taps));
    return bytes < MOST_WORKSPACE ? (size_t)bytes : MOST_WORKSPACE;
}

const cuda_dnn_plan *cuda_dnn_conv_plan(const ag_call *call, const cuda_dnn_conv *c)
{
    static const dnn_kind KINDS[] = {
        [CUDA_CONV_FORWARD] = DNN_FORWARD, [CUDA_CONV_DATA] = DNN_DATA, [CUDA_CONV_WEIGHTS] = DNN_WEIGHTS};
    dnn_key key;

    if (c->form == CUDA_CONV_WEIGHTS && c->type != AG_F32 && (c->sizes.c % 2 || c->sizes.o % 2))
        return NULL; /* no engine has f32 for dw of an odd number of channels */
    if (!is_aligned(c->x) || !is_aligned(c->w) || !is_aligned(c->y) || !is_aligned(c->bias) ||
        !dnn_start_key(call, &key, KINDS[c->form], c->type))
        return NULL;
    key.of.conv = c->sizes;
    key.with_bias = c->bias != NULL;
    return dnn_plan_of(call, &key, describe, most_workspace(&c->sizes, c->type));
}

size_t cuda_dnn_conv_scratch(const cuda_dnn_plan *plan)
{
    return dnn_scratch(plan->workspace);
}

ag_status cuda_dnn_conv_run(const ag_call *call, const cuda_dnn_plan *plan, const cuda_dnn_conv *c, void *scratch)
{
    const int64_t uids[] = {X, W, Y, BIAS};
    const void *const addresses[] = {c->x, c->w, c->y, c->bias};

    return dnn_run(call, plan, c->bias ? 4 : 3, uids, addresses, scratch);
}
