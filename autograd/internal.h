/* internal.h - what a context, a tensor and a node are made of. For files in autograd/ only.
 *
 * Small host records (tensors, storages, nodes, heap blocks) come from free lists of the context,
 * so that a steady step calls no malloc; tensor data comes from one heap per lifetime.
 */
#ifndef AG_INTERNAL_H
#define AG_INTERNAL_H

#include "autograd/cuda.h"
#include "autograd/grad.h"
#include "autograd/memory.h"
#include "autograd/observe.h"
#include "autograd/op.h"

enum { AG_MESSAGE_SIZE = 16384, AG_MAX_SCRATCH = 16, AG_N_HOST_CLASSES = 16 };

typedef struct ag_storage {
    int refs;
    ag_lifetime lifetime;
    ag_heap *heap; /* NULL: pinned memory of the host */
    ag_block *block;
    size_t pinned; /* bytes of it */
    void *data;   /* NULL on AG_META */
    bool is_held; /* a graph knows its address */
} ag_storage;

typedef struct ag_gnode ag_gnode;
typedef struct ag_bundle ag_bundle;

struct ag_tensor {
    ag_ctx *ctx;
    int refs;
    ag_dtype dtype;
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
    int64_t numel;
    ag_storage *storage; /* NULL: a shell, shape and dtype only */
    int64_t offset;      /* in elements, from the start of the storage */
    ag_gnode *node;      /* who made it, or its leaf node; NULL: asks for no gradient */
    int out_index;       /* which output of node it is */
    uint64_t serial;     /* order of making, within the context */
    uint64_t capture;    /* the checkpoint that last captured it */
    const char *name;
};

/* A node of the tape. A leaf (op NULL) stands for a tensor that asks for gradients itself; a
 * checkpoint (fn set) has any number of inputs, in `captured`. */
struct ag_gnode {
    ag_node call;
    ag_ctx *ctx;
    int refs;
    uint64_t id; /* order of making: an input's node has a smaller id */
    int n_out;
    bool spent; /* a backward pass let go of what it needs */

    ag_block_fn fn;
    void *arg;
    size_t arg_size;
    ag_tensor **captured;
    int n_captured, captured_room;

    /* during a backward pass */
    uint64_t visited, needed, target; /* the pass that set it */
    ag_tensor *acc[AG_MAX_OUT];       /* the gradient so far */
    bool acc_is_buffer;               /* acc[0] belongs to the caller: always add in place */
    ag_gnode *next_dead;

    unsigned char attr[AG_MAX_ATTR] __attribute__((aligned(16)));
};

typedef struct ag_capture {
    uint64_t id;           /* of this capture */
    uint64_t start_serial; /* tensors made before this are outside */
    ag_gnode *node;        /* collects them */
} ag_capture;

struct ag_ctx {
    ag_ctx_options options;
    ag_status status;
    char message[AG_MESSAGE_SIZE];

    bool recording;
    uint64_t next_serial, next_node, next_pass, next_capture;
    ag_capture *capture;

    ag_tensor **pool; /* tensors owned by open scopes, in order of making */
    size_t n_pool, pool_room;

    ag_heap *heap[AG_N_HEAPS];
    size_t now[AG_N_LIFETIMES], peak[AG_N_LIFETIMES];
    ag_block *scratch[AG_MAX_SCRATCH]; /* of the running op */
    int n_scratch;

    void *host_free[AG_N_HOST_CLASSES]; /* free lists, class k holds 64 << k bytes */
    void *host_slabs;                   /* everything ever taken for them */
    int64_t refuse_in;                  /* allocations to let pass; < 0: no refusing */
    bool refuse_forever;

    ag_gnode *dead;
    bool burying;

    ag_gnode **walk; /* the nodes of a backward pass */
    size_t n_walk, walk_room;

    ag_observer observer;
    void *observer_user;
    struct cpu_state *cpu;
    const ag_cuda_api *cuda_api; /* of a context on AG_CUDA, or on AG_META in its stead */
    ag_cuda *cuda, *foreseen;    /* the device; on AG_META what stands for it; NULL: none */
    ag_bundle *bundle;           /* NULL on other devices */

    /* autograd/replay.c */
    ag_heap *arena[AG_N_HEAPS]; /* changed with heap[] while a repeated step is run or recorded */
    size_t arena_touched;       /* by arenas that are no more, at most */
    int n_replays, n_graphs;    /* that use the arena; that hold addresses in it */
    uint64_t n_stale;           /* tensors that a graph knew and that were let go */
    bool in_arena, is_recorded; /* they are changed; what is queued goes into a graph */
};

/* Host records; give() takes the size that take() was called with. */
void *ag_host_take(ag_ctx *ctx, size_t bytes);
void ag_host_give(ag_ctx *ctx, void *memory, size_t bytes);
/* True when a test wants this allocation refused. */
bool ag_is_refused(ag_ctx *ctx);

/* A tensor record without storage, in nobody's scope, with one reference. */
ag_tensor *ag_tensor_shell(ag_ctx *ctx, ag_dtype dtype, int n_dims, const int64_t *dims);
/* A tensor with t's shape, dtype and output index, made by `node` (NULL: by nobody), sharing t's data if
 * with_data; in nobody's scope. */
ag_tensor *ag_tensor_stand_in(ag_ctx *ctx, const ag_tensor *t, bool with_data, ag_gnode *node);
/* Hand a reference to the open scope. Returns t, or NULL (t released) when memory is refused. */
ag_tensor *ag_pool_add(ag_ctx *ctx, ag_tensor *t);
void ag_storage_release(ag_ctx *ctx, ag_storage *storage);
void ag_scratch_release(ag_ctx *ctx); /* everything the running op took */
/* AG_OK unless a step is being recorded, in which `what` has no place: then the context fails. */
ag_status ag_check_recorded(ag_ctx *ctx, const char *what);

/* bundle.c: calls that were put off (ag_bundle_begin). False when this one is not to be: run it now. */
ag_bundle *ag_bundle_new(void); /* NULL when memory is refused */
void ag_bundle_free(ag_ctx *ctx);
bool ag_bundle_put(const ag_call *call, const ag_cuda_kernel *kernel);
/* Run what was put off: before anything else is queued, and before the host looks. */
ag_status ag_bundle_run(ag_ctx *ctx);

ag_gnode *ag_gnode_new(ag_ctx *ctx);
void ag_gnode_release(ag_gnode *node);
void ag_gnode_spend(ag_gnode *node); /* let go of saved tensors and edges */
/* Add t to what the running checkpoint keeps, if it was made before the checkpoint began. */
void ag_capture_input(ag_ctx *ctx, ag_tensor *t);

#endif /* AG_INTERNAL_H */
