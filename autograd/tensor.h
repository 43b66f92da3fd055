/* tensor.h - an n-dimensional array on a device.
 *
 * Tensors are row-major and contiguous; activations are channels last ([N,H,W,C], [N,T,C]).
 * A tensor shares its storage with the reshapes and outer slices made of it.
 *
 * Ownership  Tensors are counted. What an op returns belongs to the innermost open scope and dies
 *            with it unless it is kept (ag_scope_close) or retained. A tensor of lifetime AG_MODEL
 *            belongs to whoever made it and ends with ag_release(). The tape keeps what a
 *            gradient needs, whatever scopes do.
 */
#ifndef AG_TENSOR_H
#define AG_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "autograd/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { AG_MAX_DIMS = 8 };

typedef enum ag_dtype { AG_F32, AG_BF16, AG_F16, AG_F64, AG_I64, AG_I32, AG_U8, AG_N_DTYPES } ag_dtype;

typedef struct ag_tensor ag_tensor;

size_t ag_dtype_size(ag_dtype dtype); /* bytes of one element */
const char *ag_dtype_name(ag_dtype dtype);

/* --- make -------------------------------------------------------------------------------- */

/* A new tensor with undefined content. With AG_STEP it belongs to the open scope, with AG_MODEL
 * and AG_OFFLOADED to the caller. NULL (and the context failed) when memory is refused or a dimension is < 0. */
ag_tensor *ag_empty(ag_ctx *ctx, ag_lifetime lifetime, ag_dtype dtype, int n_dims, const int64_t *dims);
ag_tensor *ag_full(ag_ctx *ctx, ag_lifetime lifetime, double value, int n_dims, const int64_t *dims); /* f32 */
/* A step tensor with values copied from the host. */
ag_tensor *ag_from_f32(ag_ctx *ctx, const float *values, int n_dims, const int64_t *dims);
ag_tensor *ag_from_i64(ag_ctx *ctx, const int64_t *values, int n_dims, const int64_t *dims);
ag_tensor *ag_scalar(ag_ctx *ctx, double value); /* f32, shape [] */

/* Copy between a tensor and host memory; `bytes` must equal ag_nbytes(t). On AG_META nothing is
 * copied (reads give zeros). */
ag_status ag_write(ag_ctx *ctx, ag_tensor *t, const void *host, size_t bytes);
ag_status ag_read(ag_ctx *ctx, const ag_tensor *t, void *host, size_t bytes);
/* The values where the host can look at them: the tensor's own memory on the CPU, a copy of it on another
 * device. NULL after a failure, and on AG_META. To be let go of with the same tensor. */
const void *ag_look(ag_ctx *ctx, const ag_tensor *t);
void ag_look_away(const ag_tensor *t, const void *values); /* NULL is fine */
/* Copy the values of src into dst: same number of elements, dtypes converted. */
ag_status ag_copy(ag_ctx *ctx, ag_tensor *dst, const ag_tensor *src);

/* Ask for gradients with respect to t (a leaf: not the result of a recorded op). */
void ag_set_requires_grad(ag_ctx *ctx, ag_tensor *t, bool on);

/* --- ask ---------------------------------------------------------------------------------- */

int ag_ndim(const ag_tensor *t);
int64_t ag_dim(const ag_tensor *t, int axis); /* axis < 0 counts from the end */
const int64_t *ag_dims(const ag_tensor *t);
int64_t ag_numel(const ag_tensor *t);
size_t ag_nbytes(const ag_tensor *t);
ag_dtype ag_dtype_of(const ag_tensor *t);
bool ag_requires_grad(const ag_tensor *t);
void *ag_data(const ag_tensor *t); /* device address; NULL on AG_META */
void ag_set_name(ag_tensor *t, const char *name); /* kept by reference; for messages */
const char *ag_name(const ag_tensor *t);          /* "" when it has none */

/* --- keep and let go ---------------------------------------------------------------------- */

ag_tensor *ag_retain(ag_tensor *t); /* returns t; NULL is fine */
void ag_release(ag_tensor *t);      /* NULL is fine */

/* A scope frees the intermediate results of a piece of a model:
 *     ag_scope s = ag_scope_open(ctx);
 *     ... ops ...
 *     return ag_scope_close(ctx, s, y);   // y moves to the enclosing scope, the rest is let go
 *
 * A scope is a mark in the list of living results, and closing it lets go of what was made since.
 * So a function that returns early after a failure need not close its own: whoever opened one
 * around it does. And a scope may be closed with a tensor kept and used on: the kept one is then
 * the first thing behind the mark, and goes at the next close (nn_keep_only in nn/layers.h walks a
 * chain of blocks that way). */
typedef struct ag_scope {
    size_t mark;
} ag_scope;
ag_scope ag_scope_open(ag_ctx *ctx);
ag_tensor *ag_scope_close(ag_ctx *ctx, ag_scope scope, ag_tensor *keep);
void ag_scope_close_keep(ag_ctx *ctx, ag_scope scope, ag_tensor **keep, int n_keep);

#ifdef __cplusplus
}
#endif

#endif /* AG_TENSOR_H */
