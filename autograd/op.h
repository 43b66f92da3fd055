/* op.h - what an operation is; for those who write ops. Users include autograd/ops.h.
 *
 * An op is one table entry: how many inputs and outputs, the shape and dtype rule, one kernel per
 * device, the gradient written with ops, and what the gradient needs to be kept. ag_apply() runs
 * the rule, takes memory for the outputs, calls the device's kernel and, when recording is on and
 * an input asks for a gradient, adds a node to the tape.
 */
#ifndef AG_OP_H
#define AG_OP_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { AG_MAX_IN = 8, AG_MAX_OUT = 4, AG_MAX_ATTR = 128 };

typedef struct ag_op ag_op;

/* One call of an op: what a shape rule, a kernel and a cost rule see. */
typedef struct ag_call {
    ag_ctx *ctx;
    const ag_op *op;
    ag_tensor *const *in; /* op->n_in; NULL where an optional input is absent */
    ag_tensor *out[AG_MAX_OUT];
    int n_out;
    const void *attr;
} ag_call;

typedef ag_status (*ag_kernel)(ag_call *call);

/* A recorded call. Tensors whose data the gradient did not ask to keep have shape and dtype but no
 * data. */
typedef struct ag_node {
    const ag_op *op;
    ag_tensor *in[AG_MAX_IN];
    ag_tensor *out[AG_MAX_OUT];
    bool wants[AG_MAX_IN]; /* which inputs need a gradient in this pass */
    const void *attr;
} ag_node;

/* Operations counted on the meta device, by kind of work; see ag_cost_of(). */
typedef struct ag_cost {
    double flops;
    double bytes;   /* read and written; default: all inputs and outputs once */
    size_t scratch; /* workspace in bytes */
} ag_cost;

/* Bits for `saves`: which inputs and outputs a gradient reads. */
#define AG_SAVE_IN(i) (1u << (i))
#define AG_SAVE_OUT(i) (1u << (16 + (i)))

struct ag_op {
    const char *name;
    int n_in;
    unsigned optional; /* bit i: input i may be NULL */
    size_t attr_size;
    /* Check and declare outputs with ag_out(). Runs on every device; on AG_META it is all that runs. */
    ag_status (*shape)(ag_call *call);
    ag_kernel run[AG_N_DEVICES]; /* AG_CUDA's stand in autograd/cuda/kernels.c */
    /* d[k] is the gradient of output k (NULL: zero); set grad[i] for every i with node->wants[i].
     * Written with ops. May ask ag_recording(): a fused form without a gradient of its own is used only
     * when nothing is recorded, otherwise the composite. NULL: the op has no gradient. */
    void (*grad)(ag_ctx *ctx, const ag_node *node, ag_tensor **d, ag_tensor **grad);
    /* What grad reads, given which inputs ask for gradients now (wants). NULL: nothing. */
    unsigned (*saves)(const ag_node *node);
    void (*cost)(const ag_call *call, ag_cost *cost); /* NULL: no arithmetic, default bytes */
};

/* Declare the next output of a call (in a shape rule). */
void ag_out(ag_call *call, ag_dtype dtype, int n_dims, const int64_t *dims);
void ag_out_like(ag_call *call, const ag_tensor *like);

/* Declare the next output as another view of input i's storage (a reshape, an outer slice at
 * `offset` elements): no kernel runs for it. */
void ag_out_view(ag_call *call, int i, int64_t offset, int n_dims, const int64_t *dims);

/* Run an op; see the top. Returns output 0 (an op without outputs returns input 0), or NULL. */
ag_tensor *ag_apply(ag_ctx *ctx, const ag_op *op, ag_tensor *const *in, const void *attr);
/* The same with every output; out has room for AG_MAX_OUT. Returns the status of the context. */
ag_status ag_apply_all(ag_ctx *ctx, const ag_op *op, ag_tensor *const *in, const void *attr, ag_tensor **out);

/* Workspace until the running op returns; NULL (and failed) when refused. 64-byte aligned. */
void *ag_scratch(ag_ctx *ctx, size_t bytes);

/* The CPU back end's state (threads, primitive caches); on AG_META too, for what kernels would need; NULL where
 * ag_ctx_target() is AG_CUDA. */
struct cpu_state;
struct cpu_state *ag_cpu(ag_ctx *ctx);
/* The CUDA back end's state; on AG_META one without a device where that stands for CUDA; else NULL. */
struct ag_cuda;
struct ag_cuda *ag_cuda_of(ag_ctx *ctx);

/* Every op there is, NULL-terminated: what the tests walk. */
extern const ag_op *const ag_op_list[];

#ifdef __cplusplus
}
#endif

#endif /* AG_OP_H */
