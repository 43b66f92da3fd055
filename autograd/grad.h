/* grad.h - gradients: recording, the backward pass, recompute.
 *
 * While recording is on, an op with an input that asks for gradients adds a node. ag_grad() walks
 * the nodes from the outputs back in the reverse order of their making and returns the gradients
 * of the tensors asked for, and only those. Gradients are made of ops, so with create_graph they
 * have gradients themselves.
 */
#ifndef AG_GRAD_H
#define AG_GRAD_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Switch recording; returns what it was. A new context records. */
bool ag_record(ag_ctx *ctx, bool on);
bool ag_recording(const ag_ctx *ctx);

enum {
    AG_CREATE_GRAPH = 1, /* record the backward pass, so that it can be differentiated */
    AG_RETAIN_GRAPH = 2  /* keep what was saved, for another ag_grad over the same nodes */
};

/* d(sum_k <outputs[k], cotangents[k]>) / d inputs[i].
 *
 * cotangents  NULL, or per output NULL (all ones) or a tensor of its shape
 * grads       n_inputs results. NULL at entry: the result is put there, belonging to the open
 *             scope (zeros where the outputs do not depend on the input). A tensor at entry (f32,
 *             the input's shape, not with AG_CREATE_GRAPH): the gradient is added into it.
 * Without AG_CREATE_GRAPH or AG_RETAIN_GRAPH the saved tensors are let go as the pass goes.
 * Returns AG_OK, or the context's failure; buffers given in grads then hold a partial sum. */
ag_status ag_grad(ag_ctx *ctx, ag_tensor *const *outputs, ag_tensor *const *cotangents, int n_outputs,
                  ag_tensor *const *inputs, ag_tensor **grads, int n_inputs, unsigned flags);

/* Run fn(ctx, arg) without keeping its intermediate results, and run it again when the backward
 * pass comes by. Gradients have the same bits as without. fn must be a function of *arg and of
 * tensors made before the call; arg (arg_size bytes) is copied. The tensors that fn reads are
 * found and kept. When recording is off this is just fn(ctx, arg). */
typedef ag_tensor *(*ag_block_fn)(ag_ctx *ctx, const void *arg);
ag_tensor *ag_checkpoint(ag_ctx *ctx, ag_block_fn fn, const void *arg, size_t arg_size);

#ifdef __cplusplus
}
#endif

#endif /* AG_GRAD_H */
