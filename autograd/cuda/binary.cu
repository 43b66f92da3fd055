/* binary.cu - the CUDA twin of ops/binary.c. */
#include "autograd/cuda/walk.cuh"
#include "autograd/ops/list.h"

struct add_of {
    __device__ float operator()(float p, float q) const { return p + q; }
};
struct sub_of {
    __device__ float operator()(float p, float q) const { return p - q; }
};
struct mul_of {
    __device__ float operator()(float p, float q) const { return p * q; }
};
struct div_of {
    __device__ float operator()(float p, float q) const { return p / q; }
};
struct max_of { /* NaN when either is */
    __device__ float operator()(float p, float q) const { return p > q || p != p ? p : q; }
};
struct min_of {
    __device__ float operator()(float p, float q) const { return p < q || p != p ? p : q; }
};
struct step_of {
    __device__ float operator()(float p, float q) const { return p > q ? 1.0f : p == q ? 0.5f : 0.0f; }
};

/* Steps of t as seen from y's axes, aligned at the last one. */
static void steps_of(int64_t steps[AG_MAX_DIMS], const ag_tensor *t, const ag_tensor *y)
{
    const int lead = ag_ndim(y) - ag_ndim(t);

    for (int i = 0; i < lead; i++)
        steps[i] = 0;
    cuda_stretched_steps(steps + lead, ag_ndim(t), ag_dims(t));
}

template <typename F>
static ag_status run_binary(const ag_call *call, F f)
{
    const ag_tensor *a = call->in[0], *b = call->in[1], *y = call->out[0];
    int64_t steps_a[AG_MAX_DIMS], steps_b[AG_MAX_DIMS];

    if (ag_numel(a) == ag_numel(y) && ag_numel(b) == ag_numel(y))
        return cuda_map(call, cuda_to(y), cuda_in(a), cuda_in(b), ag_numel(y), f);
    steps_of(steps_a, a, y);
    steps_of(steps_b, b, y);
    return cuda_walk_over(call, cuda_to(y), cuda_in(a), cuda_in(b),
                          cuda_walk_of(ag_ndim(y), ag_dims(y), steps_a, steps_b), ag_numel(y), f);
}

ag_status cuda_add(ag_call *call) { return run_binary(call, add_of()); }
ag_status cuda_sub(ag_call *call) { return run_binary(call, sub_of()); }
ag_status cuda_mul(ag_call *call) { return run_binary(call, mul_of()); }
ag_status cuda_div(ag_call *call) { return run_binary(call, div_of()); }
ag_status cuda_maximum(ag_call *call) { return run_binary(call, max_of()); }
ag_status cuda_minimum(ag_call *call) { return run_binary(call, min_of()); }
ag_status cuda_step(ag_call *call) { return run_binary(call, step_of()); }
