/* common.h - what the op files share: checks, element types, ops that gradients use.
 *
 * For files in autograd/ops/ and the tests of ops. Kernels see f32: an op that takes bf16 is run
 * through op_run_f32(), which widens the inputs into scratch and rounds the outputs back, so that
 * every op takes both. Matrix products and convolutions have bf16 kernels and do not pass here. The kernels
 * of autograd/cuda/ take f16 too.
 */
#ifndef AG_OPS_COMMON_H
#define AG_OPS_COMMON_H

#include "autograd/grad.h"
#include "autograd/op.h"
#include "autograd/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- words for messages ----------------------------------------------------------------------- */

enum { OP_TEXT = 112 };
/* "[2,3,4] f32" into buffer [OP_TEXT]; returns buffer. NULL is "nothing". */
const char *op_text(char *buffer, const ag_tensor *t);
#define OP_SHAPE(t) op_text((char[OP_TEXT]){0}, t)

/* --- checks of shape rules; each returns AG_OK or fails the context naming the op ------------- */

bool op_is_float(const ag_ctx *ctx, ag_dtype dtype); /* f32 or bf16, on AG_CUDA f16 too */
bool op_same_dims(const ag_tensor *a, const ag_tensor *b);
/* Every input that is there is op_is_float(), but those whose bit is set in `skip`. */
ag_status op_check_floats(const ag_call *call, unsigned skip);
/* Input i, when there is one, has these dims. */
ag_status op_check_dims(const ag_call *call, int i, int n_dims, const int64_t *dims);
/* For ops that change input 0 in place: nothing may be recorded that would miss it. */
ag_status op_check_in_place(const ag_call *call);
ag_status op_check_target(const ag_call *call); /* the same, and input 0 is f32 */
/* The element type of both when they have one, else f32. */
ag_dtype op_join(const ag_tensor *a, const ag_tensor *b);
/* Product of dims[from .. to). */
int64_t op_product(const int64_t *dims, int from, int to);

/* --- running ---------------------------------------------------------------------------------- */

int op_threads(const ag_call *call);
int op_isa(const ag_call *call); /* a cpu_isa */

/* Scratch to widen t into (0 unless it is bf16), and t's values as f32, there if need be. */
size_t op_f32_scratch(const ag_tensor *t);
const float *op_as_f32(const ag_call *call, const ag_tensor *t, void *scratch);

/* f32 views of a call's tensors; NULL for absent ones and for element types other than f32 and bf16
 * (read those with ag_data). */
typedef struct op_floats {
    const float *in[AG_MAX_IN];
    float *out[AG_MAX_OUT];
} op_floats;
typedef ag_status (*op_kernel)(ag_call *call, const op_floats *f);
ag_status op_run_f32(ag_call *call, op_kernel kernel);
size_t op_run_f32_scratch(const ag_call *call); /* what that takes */
/* A cost rule: the scratch of op_run_f32 and one operation for each element of output 0. */
void op_cost_elements(const ag_call *call, ag_cost *cost);
/* Scratch is handed out in pieces of a multiple of this. */
size_t op_round_scratch(size_t bytes);

/* --- ops that gradients use ------------------------------------------------------------------- */

/* Sum d down to the shape of `like` (the adjoint of broadcasting); f32 when like is. */
ag_tensor *op_sum_like(ag_ctx *ctx, ag_tensor *d, const ag_tensor *like);
/* d in the shape of `like`: same elements. */
ag_tensor *op_reshape_like(ag_ctx *ctx, ag_tensor *d, const ag_tensor *like);
/* scale * sum over axes, of element type dtype. */
ag_tensor *op_sum_as(ag_ctx *ctx, ag_tensor *x, unsigned axes, bool keep, double scale,
                     ag_dtype dtype);
/* Zeros with x at `start` along axis, `length` long in all: the adjoint of a slice. */
ag_tensor *op_unslice(ag_ctx *ctx, ag_tensor *x, int axis, int64_t start, int64_t length);
/* d f^(order)(x); d NULL: 1. order 0 to 3. */
ag_tensor *op_unary(ag_ctx *ctx, ag_unary_kind kind, int order, ag_tensor *x, ag_tensor *d,
                    double parameter);
/* 1 where a > b, 1/2 where equal, else 0. Its derivative is zero: neither input gets one. */
ag_tensor *op_step(ag_ctx *ctx, ag_tensor *a, ag_tensor *b);
/* Where the result is f32 although both inputs are bf16 (the gradient of an f32 weight). */
ag_tensor *op_matmul_as(ag_ctx *ctx, ag_tensor *a, ag_tensor *b, bool transpose_a, bool transpose_b,
                        ag_dtype dtype);
/* y (d - sum_c d y), fused or of primitive ops: the gradient of a softmax whose result is y. */
ag_tensor *op_softmax_grad(ag_ctx *ctx, ag_tensor *y, ag_tensor *d);
/* Gradients of a convolution, see conv2d.c. */
ag_tensor *op_conv2d_backward_data(ag_ctx *ctx, ag_tensor *d, ag_tensor *w, ag_conv_opts opts,
                                   const ag_tensor *x_like);
ag_tensor *op_conv2d_backward_weights(ag_ctx *ctx, ag_tensor *d, ag_tensor *x, ag_conv_opts opts,
                                      const ag_tensor *w_like);
/* dtable [V,D] = sum of the rows d[i,:] with ids[i] = v. */
ag_tensor *op_embedding_backward(ag_ctx *ctx, ag_tensor *d, ag_tensor *ids, int64_t vocabulary);
ag_tensor *op_upsample_backward(ag_ctx *ctx, ag_tensor *d, int64_t h, int64_t w);
ag_tensor *op_avg_pool_backward(ag_ctx *ctx, ag_tensor *d, int kernel, int64_t h, int64_t w);
ag_tensor *op_pad2d_backward(ag_ctx *ctx, ag_tensor *d, ag_pad_mode mode, const int pads[4]);

#ifdef __cplusplus
}
#endif

#endif /* AG_OPS_COMMON_H */
