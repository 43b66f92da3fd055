/* cudnn.cc - cuDNN's graphs without a GPU: as strict as the real one about how they are described and run.
 *
 * What an engine takes and refuses here is what cuDNN 9.19's engines for sm_90 were found to take and refuse. Each
 * graph is offered engines that nobody should choose beside one that will do; results of the former are NaN.
 */
#include <cudnn_graph.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>

#include "cuda_host.h"
#include "cudnn_program.h"

struct cudnnContext {
    cudaStream_t stream;
    void *memory; /* of the device, as the real one takes some */
};

namespace {

/* --- saying what is wrong --------------------------------------------------------------------- */

char message[256];

cudnnStatus_t fail(cudnnStatus_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

cudnnStatus_t fail(cudnnStatus_t status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return status;
}

#define MAY_FAIL(status)                                                                           \
    do {                                                                                           \
        if (cuda_host_fails())                                                                     \
            return fail(status, "made to fail in %s", __func__);                                   \
    } while (0)
#define WANT(condition, status)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return fail(status, "%s", #condition);                                                 \
    } while (0)
#define PASS(call)                                                                                 \
    do {                                                                                           \
        const cudnnStatus_t passed = (call);                                                       \
        if (passed != CUDNN_STATUS_SUCCESS)                                                        \
            return passed;                                                                         \
    } while (0)

/* --- descriptors ------------------------------------------------------------------------------ */

struct engine {
    std::vector<cudnnBackendNumericalNote_t> notes;
    int64_t workspace;
    bool refuses; /* is offered, and then does not take the graph */
};

struct value {
    int64_t n;
    std::vector<unsigned char> bytes;
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool is_final;
    std::map<int, value> values;
    std::shared_ptr<cudnn_program> program; /* of a graph and of what is made for it */
    engine chosen;                          /* of a configuration, an engine, a plan */
    std::vector<engine> offers;             /* of a question */
    void *memory;                           /* of a plan: its kernels */
};

std::set<descriptor *> &alive()
{
    static std::set<descriptor *> all;

    return all;
}

int n_handles;

void check_the_end()
{
    if (!alive().empty() || n_handles)
        cuda_host_die("%zu descriptors and %d handles of cuDNN are left at the end", alive().size(), n_handles);
}

/* What may be set, of which type and how many; what must be; and of what type a descriptor in it is. */
struct rule {
    cudnnBackendDescriptorType_t of;
    cudnnBackendAttributeName_t name;
    cudnnBackendAttributeType_t type;
    int64_t least, most;
    bool is_required;
    int refers;
};

const rule RULES[] = {
#define ONE(of, name, type) {CUDNN_BACKEND_##of##_DESCRIPTOR, CUDNN_ATTR_##name, CUDNN_TYPE_##type, 1, 1, true, -1}
#define MAYBE(of, name, type) {CUDNN_BACKEND_##of##_DESCRIPTOR, CUDNN_ATTR_##name, CUDNN_TYPE_##type, 1, 1, false, -1}
#define SOME(of, name, type, least, most)                                                          \
    {CUDNN_BACKEND_##of##_DESCRIPTOR, CUDNN_ATTR_##name, CUDNN_TYPE_##type, least, most, true, -1}
#define PART(of, name, refers)                                                                     \
    {CUDNN_BACKEND_##of##_DESCRIPTOR, CUDNN_ATTR_##name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, true,  \
     CUDNN_BACKEND_##refers##_DESCRIPTOR}
#define MAYBE_PART(of, name, refers)                                                               \
    {CUDNN_BACKEND_##of##_DESCRIPTOR, CUDNN_ATTR_##name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, 1, false, \
     CUDNN_BACKEND_##refers##_DESCRIPTOR}
#define CONVOLVES(of, name, x, w, y)                                                               \
    PART(of, name##_CONV_DESC, CONVOLUTION), PART(of, name##_##x, TENSOR), PART(of, name##_##w, TENSOR), \
        PART(of, name##_##y, TENSOR), ONE(of, name##_ALPHA, FLOAT), ONE(of, name##_BETA, FLOAT)
    ONE(TENSOR, TENSOR_DATA_TYPE, DATA_TYPE),
    SOME(TENSOR, TENSOR_DIMENSIONS, INT64, 4, 4),
    SOME(TENSOR, TENSOR_STRIDES, INT64, 4, 4),
    ONE(TENSOR, TENSOR_UNIQUE_ID, INT64),
    ONE(TENSOR, TENSOR_BYTE_ALIGNMENT, INT64),
    MAYBE(TENSOR, TENSOR_IS_VIRTUAL, BOOLEAN),
    MAYBE(TENSOR, TENSOR_IS_BY_VALUE, BOOLEAN),
    ONE(CONVOLUTION, CONVOLUTION_COMP_TYPE, DATA_TYPE),
    ONE(CONVOLUTION, CONVOLUTION_CONV_MODE, CONVOLUTION_MODE),
    ONE(CONVOLUTION, CONVOLUTION_SPATIAL_DIMS, INT64),
    SOME(CONVOLUTION, CONVOLUTION_DILATIONS, INT64, 2, 2),
    SOME(CONVOLUTION, CONVOLUTION_FILTER_STRIDES, INT64, 2, 2),
    SOME(CONVOLUTION, CONVOLUTION_PRE_PADDINGS, INT64, 2, 2),
    SOME(CONVOLUTION, CONVOLUTION_POST_PADDINGS, INT64, 2, 2),
    CONVOLVES(OPERATION_CONVOLUTION_FORWARD, OPERATION_CONVOLUTION_FORWARD, X, W, Y),
    CONVOLVES(OPERATION_CONVOLUTION_BACKWARD_DATA, OPERATION_CONVOLUTION_BWD_DATA, DX, W, DY),
    CONVOLVES(OPERATION_CONVOLUTION_BACKWARD_FILTER, OPERATION_CONVOLUTION_BWD_FILTER, X, DW, DY),
    ONE(POINTWISE, POINTWISE_MODE, POINTWISE_MODE),
    ONE(POINTWISE, POINTWISE_MATH_PREC, DATA_TYPE),
    PART(OPERATION_POINTWISE, OPERATION_POINTWISE_PW_DESCRIPTOR, POINTWISE),
    PART(OPERATION_POINTWISE, OPERATION_POINTWISE_XDESC, TENSOR),
    MAYBE_PART(OPERATION_POINTWISE, OPERATION_POINTWISE_BDESC, TENSOR),
    PART(OPERATION_POINTWISE, OPERATION_POINTWISE_YDESC, TENSOR),
    ONE(MATMUL, MATMUL_COMP_TYPE, DATA_TYPE),
    PART(OPERATION_MATMUL, OPERATION_MATMUL_DESC, MATMUL),
    PART(OPERATION_MATMUL, OPERATION_MATMUL_ADESC, TENSOR),
    PART(OPERATION_MATMUL, OPERATION_MATMUL_BDESC, TENSOR),
    PART(OPERATION_MATMUL, OPERATION_MATMUL_CDESC, TENSOR),
    ONE(REDUCTION, REDUCTION_OPERATOR, REDUCTION_OPERATOR_TYPE),
    ONE(REDUCTION, REDUCTION_COMP_TYPE, DATA_TYPE),
    PART(OPERATION_REDUCTION, OPERATION_REDUCTION_DESC, REDUCTION),
    PART(OPERATION_REDUCTION, OPERATION_REDUCTION_XDESC, TENSOR),
    PART(OPERATION_REDUCTION, OPERATION_REDUCTION_YDESC, TENSOR),
    PART(OPERATION_RESHAPE, OPERATION_RESHAPE_XDESC, TENSOR),
    PART(OPERATION_RESHAPE, OPERATION_RESHAPE_YDESC, TENSOR),
    PART(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_QDESC, TENSOR),
    PART(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_KDESC, TENSOR),
    PART(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_VDESC, TENSOR),
    PART(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_ODESC, TENSOR),
    PART(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_SCALEDESC, TENSOR),
    MAYBE_PART(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_STATSDESC, TENSOR),
    ONE(OPERATIONGRAPH, OPERATIONGRAPH_HANDLE, HANDLE),
    SOME(OPERATIONGRAPH, OPERATIONGRAPH_OPS, BACKEND_DESCRIPTOR, 1, 50),
    ONE(ENGINEHEUR, ENGINEHEUR_MODE, HEUR_MODE),
    PART(ENGINEHEUR, ENGINEHEUR_OPERATION_GRAPH, OPERATIONGRAPH),
    ONE(EXECUTION_PLAN, EXECUTION_PLAN_HANDLE, HANDLE),
    PART(EXECUTION_PLAN, EXECUTION_PLAN_ENGINE_CONFIG, ENGINECFG),
    SOME(VARIANT_PACK, VARIANT_PACK_UNIQUE_IDS, INT64, 1, 64),
    SOME(VARIANT_PACK, VARIANT_PACK_DATA_POINTERS, VOID_PTR, 1, 64),
    ONE(VARIANT_PACK, VARIANT_PACK_WORKSPACE, VOID_PTR),
};

size_t size_of(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN: return sizeof(bool);
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR: return sizeof(void *);
    case CUDNN_TYPE_INT64: return sizeof(int64_t);
    case CUDNN_TYPE_FLOAT: return sizeof(float);
    default: return sizeof(int);
    }
}

descriptor *known(cudnnBackendDescriptor_t d)
{
    descriptor *one = static_cast<descriptor *>(d);

    return alive().count(one) ? one : nullptr;
}

template <typename T>
T get(const descriptor *d, cudnnBackendAttributeName_t name, int64_t i = 0)
{
    T out;

    memcpy(&out, d->values.at(name).bytes.data() + (size_t)i * sizeof out, sizeof out);
    return out;
}

template <typename T>
T get_or(const descriptor *d, cudnnBackendAttributeName_t name, T otherwise)
{
    return d->values.count(name) ? get<T>(d, name) : otherwise;
}

descriptor *part(const descriptor *d, cudnnBackendAttributeName_t name, int64_t i = 0)
{
    return get<descriptor *>(d, name, i);
}

/* A descriptor that another one is told of: alive, finished, of this type (-1: any operation). */
cudnnStatus_t check_part(const descriptor *d, int type)
{
    WANT(alive().count(const_cast<descriptor *>(d)), CUDNN_STATUS_BAD_PARAM);
    WANT(type < 0 || d->type == type, CUDNN_STATUS_BAD_PARAM);
    WANT(d->is_final, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
    return CUDNN_STATUS_SUCCESS;
}

/* --- finishing a descriptor ------------------------------------------------------------------- */

cudnn_tensor tensor_of(const descriptor *d)
{
    cudnn_tensor t = {};

    t.uid = get<int64_t>(d, CUDNN_ATTR_TENSOR_UNIQUE_ID);
    t.alignment = get<int64_t>(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    t.type = get<cudnnDataType_t>(d, CUDNN_ATTR_TENSOR_DATA_TYPE);
    for (int i = 0; i < 4; i++) {
        t.dims[i] = get<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS, i);
        t.strides[i] = get<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES, i);
    }
    t.is_virtual = get_or(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, false);
    t.is_by_value = get_or(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, false);
    return t;
}

cudnnStatus_t finish_tensor(const descriptor *d)
{
    const cudnn_tensor t = tensor_of(d);

    WANT(t.type == CUDNN_DATA_FLOAT || t.type == CUDNN_DATA_HALF || t.type == CUDNN_DATA_BFLOAT16,
         CUDNN_STATUS_NOT_SUPPORTED);
    for (int i = 0; i < 4; i++)
        WANT(t.dims[i] > 0 && t.strides[i] > 0, CUDNN_STATUS_BAD_PARAM);
    WANT(t.extent() >= t.count(), CUDNN_STATUS_BAD_PARAM); /* no element lies on another one */
    WANT(t.alignment >= (int64_t)t.element() && (t.alignment & (t.alignment - 1)) == 0, CUDNN_STATUS_BAD_PARAM);
    WANT(!t.is_by_value || (t.count() == 1 && !t.is_virtual), CUDNN_STATUS_BAD_PARAM);
    return CUDNN_STATUS_SUCCESS;
}

/* What is computed in f32, as everything here is. */
cudnnStatus_t check_f32(const descriptor *d, cudnnBackendAttributeName_t name)
{
    WANT(get<cudnnDataType_t>(d, name) == CUDNN_DATA_FLOAT, CUDNN_STATUS_NOT_SUPPORTED);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_convolution(const descriptor *d)
{
    PASS(check_f32(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE));
    WANT(get<cudnnConvolutionMode_t>(d, CUDNN_ATTR_CONVOLUTION_CONV_MODE) == CUDNN_CROSS_CORRELATION,
         CUDNN_STATUS_NOT_SUPPORTED);
    WANT(get<int64_t>(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) == 2, CUDNN_STATUS_BAD_PARAM);
    for (int i = 0; i < 2; i++) {
        WANT(get<int64_t>(d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i) > 0, CUDNN_STATUS_BAD_PARAM);
        WANT(get<int64_t>(d, CUDNN_ATTR_CONVOLUTION_DILATIONS, i) > 0, CUDNN_STATUS_BAD_PARAM);
        WANT(get<int64_t>(d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i) >= 0, CUDNN_STATUS_BAD_PARAM);
        WANT(get<int64_t>(d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i) >= 0, CUDNN_STATUS_BAD_PARAM);
    }
    return CUDNN_STATUS_SUCCESS;
}

/* The tensors of an operation, in the order of cudnn_program.h. */
struct places {
    cudnnBackendDescriptorType_t kind;
    std::vector<cudnnBackendAttributeName_t> in, out;
    cudnnBackendAttributeName_t how;
};

const places PLACES[] = {
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W},
     {CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
     CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W},
     {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX},
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC},
    {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY},
     {CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW},
     CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC},
    {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC},
     {CUDNN_ATTR_OPERATION_POINTWISE_YDESC},
     CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR},
    {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC},
     {CUDNN_ATTR_OPERATION_MATMUL_CDESC},
     CUDNN_ATTR_OPERATION_MATMUL_DESC},
    {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_REDUCTION_XDESC},
     {CUDNN_ATTR_OPERATION_REDUCTION_YDESC},
     CUDNN_ATTR_OPERATION_REDUCTION_DESC},
    {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_RESHAPE_XDESC},
     {CUDNN_ATTR_OPERATION_RESHAPE_YDESC},
     CUDNN_ATTR_OPERATION_RESHAPE_XDESC},
    {CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR,
     {CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC,
      CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC},
     {CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC},
     CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC},
};

const places *places_of(const descriptor *d)
{
    for (const places &p : PLACES)
        if (p.kind == d->type)
            return &p;
    return nullptr;
}

bool is_convolution(cudnnBackendDescriptorType_t kind)
{
    return kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR ||
           kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ||
           kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR;
}

cudnn_operation operation_of(const descriptor *d)
{
    const places *p = places_of(d);
    const descriptor *how = part(d, p->how);
    cudnn_operation op = {};

    op.kind = d->type;
    for (cudnnBackendAttributeName_t name : p->in)
        if (d->values.count(name))
            op.in.push_back(tensor_of(part(d, name)));
    for (cudnnBackendAttributeName_t name : p->out)
        if (d->values.count(name))
            op.out.push_back(tensor_of(part(d, name)));
    if (how->type == CUDNN_BACKEND_POINTWISE_DESCRIPTOR)
        op.mode = get<cudnnPointwiseMode_t>(how, CUDNN_ATTR_POINTWISE_MODE);
    for (int i = 0; i < 2 && is_convolution(d->type); i++) {
        op.before[i] = get<int64_t>(how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i);
        op.after[i] = get<int64_t>(how, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i);
        op.stride[i] = get<int64_t>(how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i);
        op.dilation[i] = get<int64_t>(how, CUDNN_ATTR_CONVOLUTION_DILATIONS, i);
    }
    return op;
}

bool channels_last(const cudnn_tensor &t)
{
    return t.strides[1] == 1 && t.strides[3] == t.dims[1] && t.strides[2] == t.dims[1] * t.dims[3] &&
           t.strides[0] == t.dims[1] * t.dims[3] * t.dims[2];
}

cudnnStatus_t check_convolution(const descriptor *d, const cudnn_operation &op)
{
    const bool data = op.kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR;
    const bool weights = op.kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR;
    const cudnn_tensor &x = data ? op.out[0] : op.in[0], &w = weights ? op.out[0] : op.in[1];
    const cudnn_tensor &y = data ? op.in[0] : weights ? op.in[1] : op.out[0];
    std::vector<float> factors;

    for (const rule &r : RULES)
        if (r.of == d->type && r.type == CUDNN_TYPE_FLOAT) /* alpha stands before beta */
            factors.push_back(get<float>(d, r.name));
    WANT(factors[0] == 1.0f && factors[1] == 0.0f, CUDNN_STATUS_NOT_SUPPORTED);
    WANT(x.dims[0] == y.dims[0] && x.dims[1] == w.dims[1] && y.dims[1] == w.dims[0],
         CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
    for (int i = 0; i < 2; i++) {
        const int64_t reach = (w.dims[2 + i] - 1) * op.dilation[i] + 1;
        WANT(y.dims[2 + i] == (x.dims[2 + i] + op.before[i] + op.after[i] - reach) / op.stride[i] + 1,
             CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
    }
    WANT(channels_last(x) && channels_last(w) && channels_last(y), CUDNN_STATUS_NOT_SUPPORTED);
    return CUDNN_STATUS_SUCCESS;
}

bool same_dims(const cudnn_tensor &a, const cudnn_tensor &b, int from, int to)
{
    for (int i = from; i < to; i++)
        if (a.dims[i] != b.dims[i])
            return false;
    return true;
}

/* b is a's shape with some axes of length 1. */
bool spreads_to(const cudnn_tensor &b, const cudnn_tensor &a)
{
    for (int i = 0; i < 4; i++)
        if (b.dims[i] != a.dims[i] && b.dims[i] != 1)
            return false;
    return true;
}

cudnnStatus_t check_operation(const descriptor *d)
{
    const cudnn_operation op = operation_of(d);
    const cudnn_tensor &x = op.in[0], &y = op.out[0];

    switch ((int)op.kind) {
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        WANT(op.in.size() == (op.mode == CUDNN_POINTWISE_EXP || op.mode == CUDNN_POINTWISE_IDENTITY ? 1 : 2),
             CUDNN_STATUS_BAD_PARAM);
        WANT(same_dims(x, y, 0, 4) && (op.in.size() == 1 || spreads_to(op.in[1], y)),
             CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        WANT(same_dims(x, op.in[1], 0, 2) && same_dims(x, y, 0, 3) && x.dims[3] == op.in[1].dims[2] &&
                 y.dims[3] == op.in[1].dims[3],
             CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        WANT(spreads_to(y, x), CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        WANT(x.count() == y.count() && x.extent() == y.extent(), CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR: {
        const cudnn_tensor &k = op.in[1];
        WANT(same_dims(x, k, 0, 2) && x.dims[3] == k.dims[3] && same_dims(k, op.in[2], 0, 4) && same_dims(x, y, 0, 4),
             CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        WANT(op.in[3].is_by_value && op.in[3].type == CUDNN_DATA_FLOAT, CUDNN_STATUS_NOT_SUPPORTED);
        WANT(op.out.size() == 1 || (same_dims(op.out[1], x, 0, 3) && op.out[1].dims[3] == 1 &&
                                    op.out[1].type == CUDNN_DATA_FLOAT),
             CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH);
        return CUDNN_STATUS_SUCCESS;
    }
    default: return check_convolution(d, op);
    }
}

cudnnStatus_t finish_graph(descriptor *d)
{
    std::map<int64_t, const descriptor *> by_uid;
    std::set<int64_t> made, used;

    d->program = std::make_shared<cudnn_program>();
    for (int64_t i = 0; i < d->values.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).n; i++) {
        const descriptor *op = part(d, CUDNN_ATTR_OPERATIONGRAPH_OPS, i);
        PASS(check_part(op, -1));
        const places *p = places_of(op);
        WANT(p, CUDNN_STATUS_BAD_PARAM);
        for (const auto *names : {&p->in, &p->out})
            for (cudnnBackendAttributeName_t name : *names)
                if (op->values.count(name)) {
                    const descriptor *t = part(op, name);
                    const auto other = by_uid.insert({get<int64_t>(t, CUDNN_ATTR_TENSOR_UNIQUE_ID), t});
                    WANT(other.first->second == t, CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES);
                }
        d->program->operations.push_back(operation_of(op));
        for (const cudnn_tensor &t : d->program->operations.back().in) {
            WANT(!t.is_virtual || made.count(t.uid), CUDNN_STATUS_BAD_PARAM); /* made before it is used */
            used.insert(t.uid);
        }
        for (const cudnn_tensor &t : d->program->operations.back().out)
            WANT(!t.is_by_value && made.insert(t.uid).second, CUDNN_STATUS_BAD_PARAM); /* made once */
    }
    for (const cudnn_operation &op : d->program->operations)
        for (const cudnn_tensor &t : op.out)
            WANT(!t.is_virtual || used.count(t.uid), CUDNN_STATUS_BAD_PARAM);
    return CUDNN_STATUS_SUCCESS;
}

/* --- engines ---------------------------------------------------------------------------------- */

bool all_of(const std::vector<cudnn_tensor> &tensors, cudnnDataType_t type)
{
    for (const cudnn_tensor &t : tensors)
        if (t.type != type)
            return false;
    return true;
}

/* A convolution alone, one with a bias, or dw of halves as f32. */
bool takes_convolution(const std::vector<cudnn_operation> &ops)
{
    const cudnn_operation &conv = ops[0];
    const cudnnDataType_t type = conv.in[0].type;

    if (!all_of(conv.in, type) || ops.size() > 2)
        return false;
    if (ops.size() == 1)
        return conv.out[0].type == type;
    if (conv.out[0].type != CUDNN_DATA_FLOAT || !conv.out[0].is_virtual || ops[1].in[0].uid != conv.out[0].uid)
        return false;
    if (conv.kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) /* f32 beside halves: only if compiled */
        return ops[1].mode == CUDNN_POINTWISE_ADD && ops[1].in[1].type == type && ops[1].out[0].type == type &&
               ops[1].in[1].count() == ops[1].in[1].dims[1];
    return conv.kind == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR && conv.in[0].is_half() &&
           ops[1].mode == CUDNN_POINTWISE_IDENTITY && ops[1].out[0].type == CUDNN_DATA_FLOAT &&
           conv.out[0].dims[0] % 2 == 0 && conv.out[0].dims[1] % 2 == 0; /* 4 bytes at a time */
}

bool takes_heads(const cudnn_tensor &t)
{
    return t.is_half() && t.dims[3] % 8 == 0 && t.dims[3] <= 256 && t.strides[3] == 1;
}

/* The only order and kind of operations that are known as attention's backward pass. */
bool takes_backward(const std::vector<cudnn_operation> &ops)
{
    static const struct {
        cudnnBackendDescriptorType_t kind;
        int mode;
    } PATTERN[] = {
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_MUL},
        {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_MUL},
        {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_MUL},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_SUB},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_EXP},
        {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_SUB},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_MUL},
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, CUDNN_POINTWISE_MUL},
        {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, 0},
        {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, 0},
    };

    if (ops.size() != sizeof PATTERN / sizeof *PATTERN)
        return false;
    for (size_t i = 0; i < ops.size(); i++)
        if (ops[i].kind != PATTERN[i].kind || (int)ops[i].mode != PATTERN[i].mode)
            return false;
    return takes_heads(ops[3].in[0]) && takes_heads(ops[16].out[0]) && ops[8].in[0].is_half() &&
           ops[14].in[0].is_half() && !ops[2].out[0].is_virtual;
}

bool takes_attention(const std::vector<cudnn_operation> &ops)
{
    if (ops[0].kind != CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR)
        return takes_backward(ops);
    return ops.size() == 1 && takes_heads(ops[0].in[0]) && takes_heads(ops[0].in[1]) && takes_heads(ops[0].in[2]) &&
           takes_heads(ops[0].out[0]);
}

int64_t up(int64_t n)
{
    return (n + 63) / 64 * 64;
}

/* ds of every head, two bytes each */
int64_t backward_workspace(const cudnn_operation &product)
{
    const cudnn_tensor &s = product.out[0];

    return 2 * s.dims[0] * s.dims[1] * up(s.dims[2]) * up(s.dims[3]) + 256;
}

std::vector<engine> engines_of(const cudnn_program &program, cudnnBackendHeurMode_t mode)
{
    const std::vector<cudnn_operation> &ops = program.operations;
    const bool conv = is_convolution(ops[0].kind), half = ops[0].in[0].is_half();
    const cudnnBackendNumericalNote_t core = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;

    if (conv ? !takes_convolution(ops) : !takes_attention(ops))
        return {};
    if (!conv && mode == CUDNN_HEUR_MODE_FALLBACK)
        return {};
    if (!conv)
        return {{{core}, ops.size() == 1 ? 256 : backward_workspace(ops[3]), false}};
    if (!half && mode == CUDNN_HEUR_MODE_FALLBACK)
        return {{{}, 45640, false}};
    return {{{core, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}, 0, false},
            {{core, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS}, 0, false},
            {{core, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION}, 0, false},
            {{core}, (int64_t)1 << 40, false},
            {{core}, 0, true},
            {{core}, ops[0].in[0].dims[1] % 8 ? 308240 : 131, false}};
}

/* --- plans and packs -------------------------------------------------------------------------- */

cudnnStatus_t finish_plan(descriptor *d)
{
    const descriptor *config = part(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    bool half;

    d->program = std::make_shared<cudnn_program>(*config->program);
    d->chosen = config->chosen;
    WANT(!d->chosen.refuses, CUDNN_STATUS_NOT_SUPPORTED);
    if (cudaMalloc(&d->memory, 4096) != cudaSuccess) /* kernels are loaded: not while a stream records */
        return fail(CUDNN_STATUS_INTERNAL_ERROR, "no memory for a plan");
    half = d->program->operations[0].in[0].is_half();
    for (cudnnBackendNumericalNote_t note : d->chosen.notes) {
        d->program->tf32 |= note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE && !half;
        if (note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)
            cuda_host_happened(CUDA_HOST_LOOSE_PLANS);
        else
            d->program->spoiled |= note != CUDNN_NUMERICAL_NOTE_TENSOR_CORE;
    }
    cuda_host_happened(CUDA_HOST_PLANS);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish_pack(const descriptor *d)
{
    const value &uids = d->values.at(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    std::set<int64_t> known_uids;

    WANT(uids.n == d->values.at(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).n, CUDNN_STATUS_BAD_PARAM);
    for (int64_t i = 0; i < uids.n; i++)
        WANT(known_uids.insert(get<int64_t>(d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, i)).second,
             CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finish(descriptor *d)
{
    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR: return finish_tensor(d);
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR: return finish_convolution(d);
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR: return check_f32(d, CUDNN_ATTR_POINTWISE_MATH_PREC);
    case CUDNN_BACKEND_MATMUL_DESCRIPTOR: return check_f32(d, CUDNN_ATTR_MATMUL_COMP_TYPE);
    case CUDNN_BACKEND_REDUCTION_DESCRIPTOR:
        WANT(get<cudnnReduceTensorOp_t>(d, CUDNN_ATTR_REDUCTION_OPERATOR) == CUDNN_REDUCE_TENSOR_ADD,
             CUDNN_STATUS_NOT_SUPPORTED);
        return check_f32(d, CUDNN_ATTR_REDUCTION_COMP_TYPE);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: return finish_graph(d);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR:
        d->program = part(d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)->program;
        d->offers = engines_of(*d->program, get<cudnnBackendHeurMode_t>(d, CUDNN_ATTR_ENGINEHEUR_MODE));
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return finish_plan(d);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR: return finish_pack(d);
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR:
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR: return fail(CUDNN_STATUS_BAD_PARAM, "what cuDNN fills is finished");
    default: return check_operation(d);
    }
}

} // namespace

/* --- the calls -------------------------------------------------------------------------------- */

size_t cudnnGetVersion(void)
{
    const char *version = getenv("CUDA_HOST_CUDNN_VERSION");

    return version ? strtoul(version, nullptr, 10) : CUDNN_VERSION;
}

void cudnnGetLastErrorString(char *to, size_t size)
{
    snprintf(to, size, "%s", message);
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    static bool ready;

    MAY_FAIL(CUDNN_STATUS_NOT_INITIALIZED);
    WANT(handle, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    if (!ready)
        atexit(check_the_end);
    ready = true;
    *handle = new cudnnContext();
    if (cudaMalloc(&(*handle)->memory, 4096) != cudaSuccess) {
        delete *handle;
        return fail(CUDNN_STATUS_INTERNAL_ERROR, "no memory for a handle");
    }
    n_handles++;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    WANT(handle, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    cudaFree(handle->memory);
    delete handle;
    n_handles--;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    MAY_FAIL(CUDNN_STATUS_BAD_PARAM);
    WANT(handle, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *d)
{
    bool is_known = type == CUDNN_BACKEND_ENGINE_DESCRIPTOR || type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;

    MAY_FAIL(CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED);
    WANT(d, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    for (const rule &r : RULES)
        is_known |= r.of == type;
    WANT(is_known, CUDNN_STATUS_NOT_SUPPORTED);
    descriptor *made = new descriptor();
    made->type = type;
    alive().insert(made);
    *d = made;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    descriptor *one = known(d);

    if (!one)
        cuda_host_die("a descriptor of cuDNN that is not alive is destroyed");
    alive().erase(one);
    cudaFree(one->memory);
    delete one;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    descriptor *one = known(d);

    MAY_FAIL(CUDNN_STATUS_BAD_PARAM);
    WANT(one && values, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    WANT(!one->is_final, CUDNN_STATUS_BAD_PARAM);
    for (const rule &r : RULES)
        if (r.of == one->type && r.name == name) {
            WANT(r.type == type, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
            WANT(count >= r.least && count <= r.most, CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND);
            if (r.refers == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR) /* it is cuDNN that fills it */
                WANT(known(*static_cast<void *const *>(values)) &&
                         known(*static_cast<void *const *>(values))->program,
                     CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
            else if (r.refers >= 0)
                PASS(check_part(*static_cast<descriptor *const *>(values), r.refers));
            const unsigned char *bytes = static_cast<const unsigned char *>(values);
            one->values[name] = {count, {bytes, bytes + (size_t)count * size_of(type)}};
            return CUDNN_STATUS_SUCCESS;
        }
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "a descriptor of type %d has no attribute %d", (int)one->type, (int)name);
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d)
{
    descriptor *one = known(d);

    MAY_FAIL(CUDNN_STATUS_INTERNAL_ERROR);
    WANT(one, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    WANT(!one->is_final, CUDNN_STATUS_BAD_PARAM);
    for (const rule &r : RULES)
        if (r.of == one->type && r.is_required && !one->values.count(r.name))
            return fail(CUDNN_STATUS_BAD_PARAM, "attribute %d is not set", (int)r.name);
    PASS(finish(one));
    one->is_final = true;
    return CUDNN_STATUS_SUCCESS;
}

/* The engines that a question was answered with, into descriptors of configurations. */
static cudnnStatus_t answer(const descriptor *question, int64_t room, int64_t *count, descriptor *const *to)
{
    const int64_t n = (int64_t)question->offers.size();

    *count = n;
    for (int64_t i = 0; i < n && i < room; i++) {
        WANT(known(to[i]) && to[i]->type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR && !to[i]->program,
             CUDNN_STATUS_BAD_PARAM);
        to[i]->program = question->program;
        to[i]->chosen = question->offers[(size_t)i];
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t room, int64_t *count, void *values)
{
    descriptor *one = known(d);

    MAY_FAIL(CUDNN_STATUS_BAD_PARAM);
    WANT(one && count && values, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    if (one->type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR && name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {
        WANT(type == CUDNN_TYPE_BACKEND_DESCRIPTOR, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
        WANT(one->is_final, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
        return answer(one, room, count, static_cast<descriptor *const *>(values));
    }
    if (one->type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR && name == CUDNN_ATTR_ENGINECFG_ENGINE) {
        descriptor *to = known(*static_cast<void **>(values));
        WANT(type == CUDNN_TYPE_BACKEND_DESCRIPTOR, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
        WANT(room == 1 && one->program && to && to->type == CUDNN_BACKEND_ENGINE_DESCRIPTOR && !to->program,
             CUDNN_STATUS_BAD_PARAM);
        to->program = one->program;
        to->chosen = one->chosen;
        *count = 1;
        return CUDNN_STATUS_SUCCESS;
    }
    if (one->type == CUDNN_BACKEND_ENGINE_DESCRIPTOR && name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE) {
        WANT(type == CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
        WANT(one->program, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
        *count = (int64_t)one->chosen.notes.size();
        for (int64_t i = 0; i < *count && i < room; i++)
            static_cast<cudnnBackendNumericalNote_t *>(values)[i] = one->chosen.notes[(size_t)i];
        return CUDNN_STATUS_SUCCESS;
    }
    if (one->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        WANT(type == CUDNN_TYPE_INT64, CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE);
        WANT(one->is_final && room == 1, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
        *count = 1;
        memcpy(values, &one->chosen.workspace, sizeof one->chosen.workspace);
        return CUDNN_STATUS_SUCCESS;
    }
    return fail(CUDNN_STATUS_NOT_SUPPORTED, "attribute %d of type %d is not asked for", (int)name, (int)one->type);
}

/* Every tensor of a graph that is given from outside, each once. */
static std::map<int64_t, cudnn_tensor> outer_tensors(const cudnn_program &program)
{
    std::map<int64_t, cudnn_tensor> outer;

    for (const cudnn_operation &op : program.operations)
        for (const auto *tensors : {&op.in, &op.out})
            for (const cudnn_tensor &t : *tensors)
                if (!t.is_virtual)
                    outer[t.uid] = t;
    return outer;
}

/* What a result lies in is nothing that another tensor lies in. */
static bool is_apart(const cudnn_program &program, const std::map<int64_t, cudnn_tensor> &outer,
                     const std::map<int64_t, void *> &addresses)
{
    for (const cudnn_operation &op : program.operations)
        for (const cudnn_tensor &y : op.out)
            for (const auto &other : outer) {
                const cudnn_tensor &t = other.second;
                if (y.is_virtual || t.is_by_value || t.uid == y.uid)
                    continue;
                const char *a = static_cast<char *>(addresses.at(y.uid)), *b = static_cast<char *>(addresses.at(t.uid));
                if (a < b + (size_t)t.extent() * t.element() && b < a + (size_t)y.extent() * y.element())
                    return false;
            }
    return true;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_, cudnnBackendDescriptor_t pack_)
{
    const descriptor *plan = known(plan_), *pack = known(pack_);
    std::map<int64_t, void *> addresses;
    std::map<int64_t, float> numbers;

    MAY_FAIL(CUDNN_STATUS_EXECUTION_FAILED);
    WANT(handle && plan && pack, CUDNN_STATUS_BAD_PARAM_NULL_POINTER);
    WANT(plan->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && pack->type == CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR,
         CUDNN_STATUS_BAD_PARAM);
    WANT(plan->is_final && pack->is_final, CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED);
    WANT(get<cudnnHandle_t>(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE) == handle, CUDNN_STATUS_BAD_PARAM);

    const std::map<int64_t, cudnn_tensor> outer = outer_tensors(*plan->program);
    WANT(pack->values.at(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS).n == (int64_t)outer.size(), CUDNN_STATUS_BAD_PARAM);
    for (int64_t i = 0; i < (int64_t)outer.size(); i++) {
        const auto at = outer.find(get<int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, i));
        void *address = get<void *>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, i);
        WANT(at != outer.end() && address, CUDNN_STATUS_BAD_PARAM);
        const cudnn_tensor &t = at->second;
        if (t.is_by_value) {
            WANT(!cuda_host_is_device(address, 1), CUDNN_STATUS_BAD_PARAM);
            numbers[t.uid] = *static_cast<float *>(address);
            continue;
        }
        WANT(cuda_host_is_device(address, (size_t)t.extent() * t.element()), CUDNN_STATUS_BAD_PARAM);
        WANT((uintptr_t)address % (uintptr_t)t.alignment == 0, CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER);
        addresses[t.uid] = address;
    }
    WANT(is_apart(*plan->program, outer, addresses), CUDNN_STATUS_BAD_PARAM);

    const size_t bytes = (size_t)plan->chosen.workspace;
    void *workspace = get<void *>(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    WANT(bytes == 0 || cuda_host_is_device(workspace, bytes), CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT);
    WANT((uintptr_t)workspace % 256 == 0, CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER); /* as cudaMalloc gives it */
    for (const auto &at : addresses) {
        const char *from = static_cast<char *>(at.second), *work = static_cast<char *>(workspace);
        const cudnn_tensor &t = outer.at(at.first);
        WANT(from + (size_t)t.extent() * t.element() <= work || work + bytes <= from, CUDNN_STATUS_BAD_PARAM);
    }
    const size_t ends = bytes < 65536 ? bytes : 65536;
    const std::shared_ptr<cudnn_program> program = plan->program;
    for (const auto &at : addresses)
        cuda_host_knows(handle->stream, at.second);
    if (bytes)
        cuda_host_knows(handle->stream, workspace);
    const cudaError_t error = cuda_host_queue(handle->stream, [=]() {
        if (ends) { /* a large one is spoiled at its ends */
            memset(workspace, 0xff, ends);
            memset(static_cast<char *>(workspace) + bytes - ends, 0xff, ends);
        }
        cudnn_compute(*program, addresses, numbers);
    });
    cuda_host_happened(CUDA_HOST_PLAN_RUNS);
    return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : fail(CUDNN_STATUS_EXECUTION_FAILED, "the stream refused it");
}
