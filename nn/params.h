/* params.h - the parameters of a network: names, shapes, layouts, tensors.
 *
 * A network declares its parameters when it is made, under the names that the published
 * checkpoints use; memory comes afterwards (nn_params_alloc), values after that. Files and
 * comparisons speak the published layout, kernels the internal one; each parameter knows both, and
 * everything that crosses the border (loading, saving, first draws, gradients shown to others)
 * goes through the functions here, so nothing else reorders anything.
 *
 * Ownership  The registry owns the records, the names and the tensors. A network owns its registry.
 * Threads    One at a time; the functions that move many values use the context's threads inside.
 */
#ifndef NN_PARAMS_H
#define NN_PARAMS_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { NN_MAX_PARAM_DIMS = 5, NN_MAX_NAME = 256 };

/* How the published layout becomes the internal one. Others follow when a network needs them:
 * a linear after flattening C*H*W, 5-D modulated weights, NCHW constants. */
typedef enum nn_layout {
    NN_AS_IS,      /* the same order: vectors, tables, linear [O,I] */
    NN_OIHW,       /* convolution: [O,I,kh,kw] published, [O,kh,kw,I] inside */
    NN_LINEAR_1X1, /* inside a linear [O,I]; stored as [O,I], [O,I,1] or [O,I,1,1] */
    NN_N_LAYOUTS
} nn_layout;

/* How a fresh parameter is drawn (nn/init.h). */
typedef enum nn_draw {
    NN_DRAW_UNIFORM, /* in [-scale, scale) */
    NN_DRAW_NORMAL,  /* N(0, scale^2) */
    NN_DRAW_CONSTANT /* scale */
} nn_draw;

typedef struct nn_first {
    nn_draw draw;
    double scale;
} nn_first;

typedef struct nn_param {
    const char *name; /* "down_blocks.0.resnets.0.conv1.weight" */
    nn_layout layout;
    int n_dims; /* published */
    int64_t dims[NN_MAX_PARAM_DIMS];
    int n_inner; /* internal */
    int64_t inner[NN_MAX_PARAM_DIMS];
    int64_t numel;
    nn_first first;
    int64_t index; /* in its registry */
    bool trainable;
    bool is_map;                /* the weight of a linear layer or convolution: takes an adapter */
    struct nn_adapter *adapter; /* nn/adapter.h; NULL: none */
    ag_tensor *value;           /* NULL before nn_params_alloc */
} nn_param;

typedef struct nn_params nn_params;

/* --- declare (while a network is made) ---------------------------------------------------- */

ag_status nn_params_new(nn_params **out, ag_ctx *ctx);
void nn_params_free(nn_params *params); /* NULL is fine; releases the tensors */

/* Names are built as the modules nest: after nn_enter(ps, "resnets.%d", 1) every name declared
 * begins with what is open, joined by dots, until nn_leave(ps). */
void nn_enter(nn_params *params, const char *format, ...) __attribute__((format(printf, 2, 3)));
void nn_leave(nn_params *params);
/* The prefix that is open, without its last dot, into text. Returns text. */
const char *nn_here(const nn_params *params, char *text, size_t size);

/* A parameter of the published shape `dims`. NULL (and the context failed) for a name declared
 * twice, a name or shape too large, or memory refused; NULL once the context has failed. */
nn_param *nn_declare(nn_params *params, const char *name, nn_layout layout, nn_first first,
                     int n_dims, const int64_t *dims);

/* --- ask ---------------------------------------------------------------------------------- */

ag_ctx *nn_params_ctx(const nn_params *params);
int64_t nn_params_count(const nn_params *params);                    /* tensors */
int64_t nn_params_values(const nn_params *params);                   /* numbers in all of them */
nn_param *nn_params_at(const nn_params *params, int64_t i);          /* in order of declaration */
nn_param *nn_params_find(const nn_params *params, const char *name); /* NULL: there is none */
/* May a stored tensor of this shape be the parameter's value? */
bool nn_param_takes_shape(const nn_param *param, int n_dims, const int64_t *dims);
/* "[320,4,3,3]" into text; returns text. */
const char *nn_shape_text(int n_dims, const int64_t *dims, char *text, size_t size);

/* --- memory and gradients ----------------------------------------------------------------- */

/* Take memory for every value: AG_MODEL, of `dtype` (f32, or bf16/f16 for weights that stay
 * frozen). What has one axis, biases and norms, is f32 whatever dtype is: it is a thousandth of the
 * memory. Content is undefined until it is set, drawn or loaded. */
ag_status nn_params_alloc(ag_ctx *ctx, nn_params *params, ag_dtype dtype);
/* Memory for one, of exactly that type. */
ag_status nn_param_alloc(ag_ctx *ctx, nn_param *param, ag_dtype dtype);
/* Ask for gradients of the parameters whose name matches `pattern` (shell wildcards, NULL: all), or
 * no longer. Returns how many matched. Only f32 values can be trained (AG_EDTYPE otherwise). */
int64_t nn_params_train(ag_ctx *ctx, nn_params *params, const char *pattern, bool on);
/* The values of trainable parameters, in order of declaration; `values` has room for
 * nn_params_count() entries. Returns how many. */
int64_t nn_params_trainable(const nn_params *params, ag_tensor **values);

/* --- values in the published layout ------------------------------------------------------- */

/* Set a parameter from f32 values of the given shape (its own; NN_LINEAR_1X1 takes its three). */
ag_status nn_param_set_published(ag_ctx *ctx, nn_param *param, const float *values, int n_dims,
                                 const int64_t *dims);
/* Get it back: param->numel values. */
ag_status nn_param_get_published(ag_ctx *ctx, const nn_param *param, float *values);
/* The same for any tensor of the parameter's internal shape (a gradient, a moment, an average). */
ag_status nn_param_publish(ag_ctx *ctx, const nn_param *param, const ag_tensor *inner,
                           float *values);
/* Set a tensor of the parameter's internal shape from published values. */
ag_status nn_param_unpublish(ag_ctx *ctx, const nn_param *param, ag_tensor *inner,
                             const float *values);

/* --- loading ------------------------------------------------------------------------------ */

/* What a weight file says of one of its tensors, under this network's names (renaming old spellings
 * is the reader's part). */
typedef struct nn_stored {
    const char *name;
    ag_dtype dtype; /* f32, f16, bf16 or f64 */
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
} nn_stored;

/* Someone who can read weights. `read` copies `bytes` bytes from `offset` of tensor i's row-major
 * data into `to`; it is called from several threads at once and returns 0 or an errno value. */
typedef struct nn_reader {
    void *user;
    const char *path; /* for messages */
    int64_t n_tensors;
    void (*describe)(void *user, int64_t i, nn_stored *stored);
    int (*read)(void *user, int64_t i, size_t offset, size_t bytes, void *to);
} nn_reader;

/* Fill every parameter. Strict: tensors missing, extra or of another shape make one error that
 * lists the first few of each and counts the rest, and nothing is read then. */
ag_status nn_params_load(ag_ctx *ctx, nn_params *params, const nn_reader *reader);

#ifdef __cplusplus
}
#endif

#endif /* NN_PARAMS_H */
