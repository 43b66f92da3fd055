/* cudnn_program.h - a graph of cuDNN as it is run: between cudnn.cc, which checks it, and cudnn_arithmetic.cc. */
#ifndef CUDA_HOST_CUDNN_PROGRAM_H
#define CUDA_HOST_CUDNN_PROGRAM_H

#include <cudnn_graph.h>

#include <map>
#include <vector>

struct cudnn_tensor {
    int64_t uid, alignment;
    cudnnDataType_t type;
    int64_t dims[4], strides[4];
    bool is_virtual, is_by_value;

    int64_t count() const;  /* elements */
    int64_t extent() const; /* elements of memory from the first to the last one */
    size_t element() const; /* bytes */
    bool is_half() const;
};

/* What goes in and out, in this order: forward x, w -> y; data y, w -> x; weights x, y -> w; pointwise x, b -> y;
 * matmul a, b -> c; reduction and reshape x -> y; attention q, k, v, scale -> o, lse. */
struct cudnn_operation {
    cudnnBackendDescriptorType_t kind;
    cudnnPointwiseMode_t mode;
    int64_t before[2], after[2], stride[2], dilation[2];
    std::vector<cudnn_tensor> in, out;
};

struct cudnn_program {
    std::vector<cudnn_operation> operations;
    bool tf32;    /* products round their factors */
    bool spoiled; /* an engine that nobody should have chosen */
};

/* Compute it: addresses of tensors by uid, and numbers that came from the host. */
void cudnn_compute(const cudnn_program &program, const std::map<int64_t, void *> &addresses,
                   const std::map<int64_t, float> &numbers);

#endif /* CUDA_HOST_CUDNN_PROGRAM_H */
