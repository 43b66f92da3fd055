/* dnn_graph.c - describing graphs to cuDNN; see dnn.h. */
#include "autograd/cuda/dnn.h"

#include <assert.h>

enum { FIRST_INNER = 1000 }; /* uids of tensors that stay inside */

dnn_part dnn_make(dnn_graph *g, cudnnBackendDescriptorType_t type)
{
    dnn_part part = NULL;

    if (g->failed)
        return NULL;
    if (g->lib->create(type, &part) != CUDNN_STATUS_SUCCESS) {
        g->failed = true;
        return NULL;
    }
    dnn_keep(g, part);
    return part;
}

void dnn_keep(dnn_graph *g, dnn_part part)
{
    assert(g->n_parts < DNN_MOST_PARTS);
    g->part[g->n_parts++] = part;
}

void dnn_set(dnn_graph *g, dnn_part part, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n,
             const void *values)
{
    g->failed = g->failed || g->lib->set(part, name, type, n, values) != CUDNN_STATUS_SUCCESS;
}

void dnn_set_part(dnn_graph *g, dnn_part part, cudnnBackendAttributeName_t name, dnn_part value)
{
    dnn_set(g, part, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

void dnn_finish(dnn_graph *g, dnn_part part)
{
    g->failed = g->failed || g->lib->finalize(part) != CUDNN_STATUS_SUCCESS;
}

dnn_part dnn_make_f32(dnn_graph *g, cudnnBackendDescriptorType_t type, cudnnBackendAttributeName_t name)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    dnn_part how = dnn_make(g, type);

    dnn_set(g, how, name, CUDNN_TYPE_DATA_TYPE, 1, &f32);
    return how;
}

dnn_part dnn_make_operation(dnn_graph *g, cudnnBackendDescriptorType_t type, int n, const dnn_named *parts)
{
    dnn_part operation = dnn_make(g, type);

    for (int i = 0; i < n; i++)
        if (parts[i].part)
            dnn_set_part(g, operation, parts[i].name, parts[i].part);
    return operation;
}

void dnn_add(dnn_graph *g, dnn_part operation)
{
    dnn_finish(g, operation);
    assert(g->n_operations < DNN_MOST_OPERATIONS);
    g->operation[g->n_operations++] = operation;
}

cudnnDataType_t dnn_type(ag_dtype type)
{
    return type == AG_BF16 ? CUDNN_DATA_BFLOAT16 : type == AG_F16 ? CUDNN_DATA_HALF : CUDNN_DATA_FLOAT;
}

dnn_part dnn_make_tensor(dnn_graph *g, const dnn_tensor *t)
{
    const int64_t alignment = t->alignment ? t->alignment : 16, uid = t->uid ? t->uid : FIRST_INNER + g->n_parts;
    const bool yes = true;
    dnn_part part = dnn_make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);

    dnn_set(g, part, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &t->type);
    dnn_set(g, part, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, t->dims);
    dnn_set(g, part, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, t->strides);
    dnn_set(g, part, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    dnn_set(g, part, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (!t->uid)
        dnn_set(g, part, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (t->is_by_value)
        dnn_set(g, part, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    dnn_finish(g, part);
    return part;
}

void dnn_add_pointwise(dnn_graph *g, cudnnPointwiseMode_t mode, dnn_part x, dnn_part b, dnn_part y)
{
    dnn_part how = dnn_make_f32(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, CUDNN_ATTR_POINTWISE_MATH_PREC);
    const dnn_named parts[] = {
        {CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how},
        {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x},
        {CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b},
        {CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y},
    };

    dnn_set(g, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    dnn_finish(g, how);
    dnn_add(g, dnn_make_operation(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, 4, parts));
}
