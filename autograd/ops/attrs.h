/* attrs.h - what stands in the attributes of each op, for the files that read them: the op's own and its
 * CUDA twin. By family, as the files of this folder.
 */
#ifndef AG_OPS_ATTRS_H
#define AG_OPS_ATTRS_H

#include "autograd/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- unary.c --------------------------------------------------------------------------------- */

typedef struct op_unary_attr {
    double parameter;
    int kind; /* an ag_unary_kind */
    int order;
} op_unary_attr;

typedef struct op_affine_attr {
    double a, b;
} op_affine_attr;

typedef struct op_clamp_attr {
    double low, high;
} op_clamp_attr;

/* --- cast.c ---------------------------------------------------------------------------------- */

typedef struct op_cast_attr {
    int dtype; /* an ag_dtype */
} op_cast_attr;

/* --- shape.c --------------------------------------------------------------------------------- */

typedef struct op_dims_attr {
    int n;
    int64_t dims[AG_MAX_DIMS];
} op_dims_attr;

typedef struct op_permute_attr {
    int axes[AG_MAX_DIMS];
} op_permute_attr;

typedef struct op_slice_attr {
    int64_t start, length; /* unslice: length is that of the result */
    int axis;
} op_slice_attr;

typedef struct op_concat_attr {
    int axis;
} op_concat_attr;

/* --- reduce.c -------------------------------------------------------------------------------- */

typedef struct op_sum_attr {
    double scale;
    unsigned axes;
    int keep;
    int dtype; /* of y, an ag_dtype */
} op_sum_attr;

/* --- matmul.c -------------------------------------------------------------------------------- */

typedef struct op_matmul_attr {
    int transpose_a, transpose_b;
    int dtype; /* of y, an ag_dtype; -1: as the inputs say */
} op_matmul_attr;

/* --- conv2d.c -------------------------------------------------------------------------------- */

typedef struct op_conv_attr {
    ag_conv_opts opts;
    int64_t h, w; /* backward_data: of x; backward_weights: of the kernel; conv2d: unused */
} op_conv_attr;

/* --- norm.c ---------------------------------------------------------------------------------- */

typedef struct op_norm_attr {
    double eps;
    int64_t groups; /* 0: layer norm */
    int silu;
    int want_dx, want_affine; /* of the backward ops */
} op_norm_attr;

/* --- attention.c ----------------------------------------------------------------------------- */

typedef struct op_attention_attr {
    double scale;
    int heads, causal;
} op_attention_attr;

/* --- resample.c ------------------------------------------------------------------------------ */

typedef struct op_picture_attr {
    int64_t h, w;  /* of the result: upsample y, every adjoint dx */
    int kernel;    /* avg_pool2d */
    int mode;      /* pad2d, an ag_pad_mode */
    int pads[4];   /* pad2d: top, bottom, left, right */
} op_picture_attr;

/* --- upfirdn2d.c ----------------------------------------------------------------------------- */

typedef struct op_upfirdn_attr {
    int up, down, top, bottom, left, right;
    int flip; /* use the filter turned round */
} op_upfirdn_attr;

/* --- embedding.c ----------------------------------------------------------------------------- */

typedef struct op_embedding_attr {
    int64_t vocabulary; /* of embedding_backward's result */
} op_embedding_attr;

/* --- source.c -------------------------------------------------------------------------------- */

typedef struct op_time_attr {
    double shift;
    int64_t dim;
    int flip;
} op_time_attr;

typedef struct op_normal_attr {
    int n;
    int64_t dims[AG_MAX_DIMS]; /* of one row */
} op_normal_attr;

/* --- dropout.c ------------------------------------------------------------------------------- */

typedef struct op_dropout_attr {
    ag_draw draw;
    double p;
} op_dropout_attr;

/* --- loss.c ---------------------------------------------------------------------------------- */

typedef struct op_loss_attr {
    double c;
    int kind; /* an ag_loss_kind */
} op_loss_attr;

/* --- inplace.c ------------------------------------------------------------------------------- */

typedef struct op_fill_attr {
    double value;
} op_fill_attr;

typedef struct op_sumsq_attr {
    int64_t index;
} op_sumsq_attr;

typedef struct op_loss_scale_attr {
    double growth, backoff;
    int64_t interval;
} op_loss_scale_attr;

typedef struct op_clip_attr {
    int64_t column;
    double max_norm;
} op_clip_attr;

/* --- optimizer.c: Adafactor's ops have an ag_adafactor_shape ------------------------------------- */

typedef struct op_adamw8bit_attr {
    int64_t channels, taps;
} op_adamw8bit_attr;

typedef struct op_ranger_attr {
    int64_t n_rows;
} op_ranger_attr;

typedef struct op_prodigy_d_attr {
    int is_end; /* int, so that no byte of it is undefined */
} op_prodigy_d_attr;

#ifdef __cplusplus
}
#endif

#endif /* AG_OPS_ATTRS_H */
