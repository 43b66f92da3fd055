/* dnn.h - cuDNN's graphs: operations described once, an engine chosen once, run many times.
 *
 * A graph is operations on tensors that are known by a number (uid). For each graph cuDNN names engines, best
 * first; the first one that gives the same bits every time, sums in f32 and wants a bounded workspace is kept as the
 * plan of that key. That there is none is kept too: the caller then does it another way.
 *
 * For the files dnn*.c only; what others call is in dnn_conv.h and dnn_attention.h.
 */
#ifndef AG_CUDA_DNN_H
#define AG_CUDA_DNN_H

#include <cudnn_graph.h>

#include "autograd/cuda/conv.h"
#include "autograd/cuda/dnn_attention.h"
#include "autograd/cuda/dnn_conv.h"
#include "autograd/cuda/internal.h"
#include "autograd/cuda/plans.h"

/* --- the library ------------------------------------------------------------------------------ */

typedef struct dnn_library {
    size_t (*version)(void);
    cudnnStatus_t (*open)(cudnnHandle_t *);
    cudnnStatus_t (*close)(cudnnHandle_t);
    cudnnStatus_t (*set_stream)(cudnnHandle_t, cudaStream_t);
    void (*last_error)(char *, size_t);
    cudnnStatus_t (*create)(cudnnBackendDescriptorType_t, cudnnBackendDescriptor_t *);
    cudnnStatus_t (*destroy)(cudnnBackendDescriptor_t);
    cudnnStatus_t (*set)(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t,
                         const void *);
    cudnnStatus_t (*get)(cudnnBackendDescriptor_t, cudnnBackendAttributeName_t, cudnnBackendAttributeType_t, int64_t,
                         int64_t *, void *);
    cudnnStatus_t (*finalize)(cudnnBackendDescriptor_t);
    cudnnStatus_t (*execute)(cudnnHandle_t, cudnnBackendDescriptor_t, cudnnBackendDescriptor_t);
} dnn_library;

/* --- what a plan is for ----------------------------------------------------------------------- */

/* What tells one graph from another; compared as bytes, so it is zeroed first. */
typedef struct dnn_key {
    int32_t what;      /* a dnn_kind */
    int32_t version;   /* of cuDNN */
    int32_t type;      /* an ag_dtype */
    int32_t with_bias;
    int32_t tf32;      /* f32 may be multiplied so */
    int32_t any_order; /* sums may be added in another order each time */
    union {
        cuda_conv conv;
        cuda_heads heads;
    } of;
} dnn_key;

typedef enum dnn_kind { DNN_FORWARD, DNN_DATA, DNN_WEIGHTS, DNN_ATTENTION, DNN_ATTENTION_BACKWARD } dnn_kind;

/* --- describing a graph ----------------------------------------------------------------------- */

typedef cudnnBackendDescriptor_t dnn_part;

enum { DNN_MOST_PARTS = 80, DNN_MOST_OPERATIONS = 20 };

/* A graph being described. The first failure stays, and every later word does nothing. */
typedef struct dnn_graph {
    const dnn_library *lib;
    bool failed;
    dnn_part part[DNN_MOST_PARTS]; /* every descriptor that was made */
    dnn_part operation[DNN_MOST_OPERATIONS];
    int n_parts, n_operations;
} dnn_graph;

typedef struct dnn_tensor {
    int64_t uid; /* 0: it stays inside the graph */
    cudnnDataType_t type;
    int64_t dims[4], strides[4];
    int alignment;    /* of its address, in bytes; 0: 16 */
    bool is_by_value; /* one number, given from the host */
} dnn_tensor;

dnn_part dnn_make(dnn_graph *g, cudnnBackendDescriptorType_t type); /* the graph destroys it */
void dnn_keep(dnn_graph *g, dnn_part part);                         /* so it does with this one */
void dnn_set(dnn_graph *g, dnn_part part, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
             const void *values);
void dnn_set_part(dnn_graph *g, dnn_part part, cudnnBackendAttributeName_t name, dnn_part value);
void dnn_finish(dnn_graph *g, dnn_part part);

/* What an operation calls one of its parts. */
typedef struct dnn_named {
    cudnnBackendAttributeName_t name;
    dnn_part part; /* NULL: left out */
} dnn_named;

/* How an operation computes: a descriptor that says f32 under `name`, still to be finished. */
dnn_part dnn_make_f32(dnn_graph *g, cudnnBackendDescriptorType_t type, cudnnBackendAttributeName_t name);
/* An operation of n parts, still to be added. */
dnn_part dnn_make_operation(dnn_graph *g, cudnnBackendDescriptorType_t type, int n, const dnn_named *parts);
void dnn_add(dnn_graph *g, dnn_part operation); /* finish it and put it into the graph */

dnn_part dnn_make_tensor(dnn_graph *g, const dnn_tensor *t);
/* y = x and b by `mode` (b NULL: of x alone), computed in f32 */
void dnn_add_pointwise(dnn_graph *g, cudnnPointwiseMode_t mode, dnn_part x, dnn_part b, dnn_part y);

cudnnDataType_t dnn_type(ag_dtype type);

/* --- plans ------------------------------------------------------------------------------------ */

struct cuda_dnn_plan {
    dnn_key key;
    dnn_graph graph;  /* empty where there is no plan */
    dnn_part plan;    /* one of its parts; NULL: cuDNN has no engine that we want, or the run is foreseen */
    size_t workspace;
};

/* Describe the graph of `key` by dnn_make() and the others. */
typedef void (*dnn_describe)(dnn_graph *g, const dnn_key *key);

/* The key of a call, with sizes still to be filled in; false: cuDNN is not there. */
bool dnn_start_key(const ag_call *call, dnn_key *key, dnn_kind what, ag_dtype type);
/* The plan of a key, made at the first call, with no more than `most` bytes of workspace; with as many where a run is
 * foreseen. NULL: there is none, or the context failed for want of memory. */
const cuda_dnn_plan *dnn_plan_of(const ag_call *call, const dnn_key *key, dnn_describe describe, size_t most);
size_t dnn_scratch(size_t workspace); /* that dnn_run() wants for so much workspace, 64-byte aligned */
/* Queue it on n tensors by their uids. Device addresses are multiples of what the tensors said. */
ag_status dnn_run(const ag_call *call, const cuda_dnn_plan *plan, int n, const int64_t *uids,
                  const void *const *addresses, void *scratch);

#endif /* AG_CUDA_DNN_H */
