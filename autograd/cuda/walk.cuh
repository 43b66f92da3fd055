/* walk.cuh - going through a tensor in another order: where element i of y lies in one or two others.
 *
 * Axes that lie in memory as one are one here; most walks have one to three. For the .cu files.
 */
#ifndef AG_CUDA_WALK_CUH
#define AG_CUDA_WALK_CUH

#include "autograd/cuda/device.cuh"

struct cuda_walk {
    int n;                    /* axes, outer to inner; at least 1 */
    int small;                /* every number fits into 32 bits */
    int64_t size[AG_MAX_DIMS];
    int64_t a[AG_MAX_DIMS], b[AG_MAX_DIMS]; /* steps, in elements */
};

/* Drop axes of size 1 and join those that both sides step over evenly. b may be NULL. */
static inline cuda_walk cuda_walk_of(int n_dims, const int64_t *dims, const int64_t *a, const int64_t *b)
{
    cuda_walk w = {};
    int64_t total = 1;

    for (int i = 0; i < n_dims; i++) {
        const int64_t step_b = b ? b[i] : 0;
        total *= dims[i];
        if (dims[i] == 1)
            continue;
        if (w.n && w.a[w.n - 1] == a[i] * dims[i] && w.b[w.n - 1] == step_b * dims[i]) {
            w.size[w.n - 1] *= dims[i];
            w.a[w.n - 1] = a[i];
            w.b[w.n - 1] = step_b;
            continue;
        }
        w.size[w.n] = dims[i];
        w.a[w.n] = a[i];
        w.b[w.n++] = step_b;
    }
    if (w.n == 0) {
        w.n = 1;
        w.size[0] = 1;
    }
    w.small = total < 0x7fffffff;
    return w;
}

/* Steps of a contiguous tensor whose axes of size 1 are stretched (step 0). */
static inline void cuda_stretched_steps(int64_t *steps, int n_dims, const int64_t *dims)
{
    int64_t step = 1;

    for (int i = n_dims - 1; i >= 0; i--) {
        steps[i] = dims[i] == 1 ? 0 : step;
        step *= dims[i];
    }
}

/* Eight elements of y along the last axis are eight of `side`, or one of it repeated. */
static inline bool cuda_walk_by_eight(const cuda_walk *w, const int64_t *side, const void *data)
{
    if (w->size[w->n - 1] % CUDA_VEC || side[w->n - 1] > 1 || side[w->n - 1] < 0)
        return false;
    if (side[w->n - 1] == 0)
        return true;
    for (int i = 0; i < w->n - 1; i++)
        if (side[i] % CUDA_VEC)
            return false;
    return cuda_aligned(data);
}

static __device__ __forceinline__ void cuda_walk_at(const cuda_walk &w, int64_t i, int64_t *a, int64_t *b)
{
    int64_t at_a = 0, at_b = 0;

    if (w.small) {
        unsigned rest = (unsigned)i;
        for (int k = w.n - 1; k > 0; k--) {
            const unsigned size = (unsigned)w.size[k], above = rest / size, index = rest - above * size;
            rest = above;
            at_a += index * w.a[k];
            at_b += index * w.b[k];
        }
        at_a += rest * w.a[0];
        at_b += rest * w.b[0];
    } else {
        for (int k = w.n - 1; k > 0; k--) {
            const int64_t above = i / w.size[k], index = i - above * w.size[k];
            i = above;
            at_a += index * w.a[k];
            at_b += index * w.b[k];
        }
        at_a += i * w.a[0];
        at_b += i * w.b[0];
    }
    *a = at_a;
    *b = at_b;
}

/* Eight elements from `at`, or one repeated where the last axis is stretched (step 0). */
static __device__ __forceinline__ void cuda_walk_load8(float v[CUDA_VEC], cuda_floats x, int64_t at, int64_t step)
{
    if (step) {
        cuda_load8(v, x, at);
    } else {
        const float one = cuda_load(x, at);
        for (int k = 0; k < CUDA_VEC; k++)
            v[k] = one;
    }
}

/* y[i] = f(a at its place, b at its place); b may be absent and is then 0. */
template <typename F>
static __global__ void cuda_walk_kernel(cuda_out y, cuda_floats a, cuda_floats b, cuda_walk w, int by_eight,
                                        int64_t n, F f)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    const int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t at_a, at_b;

    if (by_eight) {
        for (int64_t i = first * CUDA_VEC; i < n; i += step * CUDA_VEC) {
            float p[CUDA_VEC], q[CUDA_VEC] = {};
            cuda_walk_at(w, i, &at_a, &at_b);
            cuda_walk_load8(p, a, at_a, w.a[w.n - 1]);
            if (b.data)
                cuda_walk_load8(q, b, at_b, w.b[w.n - 1]);
            for (int k = 0; k < CUDA_VEC; k++)
                p[k] = f(p[k], q[k]);
            cuda_store8(y, i, p);
        }
        return;
    }
    for (int64_t i = first; i < n; i += step) {
        cuda_walk_at(w, i, &at_a, &at_b);
        cuda_store(y, i, f(cuda_load(a, at_a), b.data ? cuda_load(b, at_b) : 0.0f));
    }
}

template <typename F>
static inline ag_status cuda_walk_over(const ag_call *call, cuda_out y, cuda_floats a, cuda_floats b,
                                       const cuda_walk &w, int64_t n, F f)
{
    const int by_eight = y.aligned && cuda_walk_by_eight(&w, w.a, a.data) &&
                         (!b.data || cuda_walk_by_eight(&w, w.b, b.data));

    return cuda_launch_over(call, by_eight ? n / CUDA_VEC : n, cuda_walk_kernel<F>, y, a, b, w, by_eight, n, f);
}

#endif /* AG_CUDA_WALK_CUH */
