/* list.cuh - the tensors of many calls of one op as a single kernel sees them.
 *
 * A launch is given a list of rows, one for each call, by value: nothing has to be brought to the device, and a
 * captured launch keeps its list. The work of a row is cut into units, and blocks take units in turn, wherever
 * the row of a unit begins. For the .cu files.
 */
#ifndef AG_CUDA_LIST_CUH
#define AG_CUDA_LIST_CUH

#include "autograd/cuda/device.cuh"

/* One call: N tensors of n elements, and what else its kernel wants. */
template <int N>
struct cuda_row {
    cuda_out at[N];      /* data NULL: there is none */
    int64_t n;
    const void *scalars; /* the numbers of an update, f64 or f32 */
    const void *more;
    int64_t cols;
    double value;
    int f64;             /* the type of scalars */
    int first;           /* unit, among those of all rows */
};

enum { CUDA_LIST_BYTES = 30000, CUDA_FEW = 4, CUDA_UNIT = 8192 };

/* Kernels may be given 32764 bytes, of which some are left for others. A short list serves single calls. Instead of
 * cuda_row any struct without padding may be a row, if it has a `first`. */
template <typename ROW, int ROOM>
struct cuda_list {
    ROW row[ROOM];
    int n, n_units;
};

template <typename ROW>
static inline constexpr int cuda_list_room()
{
    return (CUDA_LIST_BYTES - 8) / (int)sizeof(ROW);
}

/* Elementwise work: units of CUDA_UNIT elements. */
template <int N>
static inline int64_t cuda_units_of(const cuda_row<N> &row)
{
    return (row.n + CUDA_UNIT - 1) / CUDA_UNIT;
}

static inline void cuda_row_scalars(const void **scalars, int *f64, const ag_tensor *t)
{
    *scalars = ag_data(t);
    *f64 = ag_dtype_of(t) == AG_F64;
}

template <typename ROW, int ROOM, typename FILL, typename UNITS, typename LAUNCH>
static inline ag_status cuda_each_list(const ag_call *calls, int n, FILL fill, UNITS units, LAUNCH launch)
{
    ag_status status = AG_OK;

    for (int i = 0; i < n && status == AG_OK;) {
        cuda_list<ROW, ROOM> list = {};
        for (; i < n && list.n < ROOM; i++) {
            ROW *row = &list.row[list.n++];
            fill(row, &calls[i]);
            row->first = list.n_units;
            list.n_units += (int)units(*row);
        }
        status = launch(list);
    }
    return status;
}

/* fill(row, call) for each of n calls, and launch(list) for as many at once as a kernel may be given. units(row) says
 * into how many a row is cut. */
template <typename ROW, typename FILL, typename UNITS, typename LAUNCH>
static inline ag_status cuda_each(const ag_call *calls, int n, FILL fill, UNITS units, LAUNCH launch)
{
    if (n <= CUDA_FEW)
        return cuda_each_list<ROW, CUDA_FEW>(calls, n, fill, units, launch);
    return cuda_each_list<ROW, cuda_list_room<ROW>()>(calls, n, fill, units, launch);
}

/* A block for each unit, as many as fill the device; units beyond are taken in strides. */
static inline unsigned cuda_unit_blocks(const ag_call *call, int64_t n_units)
{
    return cuda_blocks(call, n_units * CUDA_THREADS, CUDA_THREADS);
}

/* The row that a unit belongs to. */
template <typename ROW, int ROOM>
static __device__ __forceinline__ int cuda_row_at(const cuda_list<ROW, ROOM> &list, int unit)
{
    int low = 0, high = list.n - 1;

    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (list.row[middle].first <= unit)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static __device__ __forceinline__ cuda_floats cuda_as_in(cuda_out y)
{
    cuda_floats x;

    x.data = y.data;
    x.type = y.type;
    x.aligned = y.aligned;
    return x;
}

static __device__ __forceinline__ double cuda_scalar(const void *scalars, int f64, int i)
{
    return f64 ? ((const double *)scalars)[i] : (double)((const float *)scalars)[i];
}

/* The numbers of an update. */
template <int K>
static __device__ __forceinline__ void cuda_read_scalars(double (&s)[K], const void *scalars, int f64)
{
    for (int i = 0; i < K; i++)
        s[i] = cuda_scalar(scalars, f64, i);
}

/* --- a rule for every element ------------------------------------------------------------------- */

/* A rule is a struct with
 *   N, WRITES        how many tensors a row has; the first WRITES are written
 *   begin(row)       read the numbers of a row, once for a block
 *   rests()          this row is left alone
 *   step(v, i)       one element: v[N] in and out; i, its index. Each thread has a rule of its own. */
template <typename R, int W>
static __device__ __forceinline__ void cuda_step_at(const cuda_row<R::N> &row, R &rule, int64_t i)
{
    float x[R::N][W], v[R::N];

    for (int j = 0; j < R::N; j++) {
        for (int k = 0; k < W; k++)
            x[j][k] = 0.0f;
        if (row.at[j].data)
            cuda_load_n<W>(x[j], cuda_as_in(row.at[j]), i);
    }
    for (int k = 0; k < W; k++) {
        for (int j = 0; j < R::N; j++)
            v[j] = x[j][k];
        rule.step(v, i + k);
        for (int j = 0; j < R::WRITES; j++)
            x[j][k] = v[j];
    }
    for (int j = 0; j < R::WRITES; j++)
        if (row.at[j].data)
            cuda_store_n<W>(row.at[j], i, x[j]);
}

/* A unit by all threads of a block. shared[1] has the rule of row *known, and is begun anew for another row. Returns
 * this thread's rule. */
template <typename R, int ROOM>
static __device__ __forceinline__ R cuda_step_unit(const cuda_list<cuda_row<R::N>, ROOM> &list, int unit, R *shared,
                                                   int *known)
{
    const int r = cuda_row_at(list, unit);
    const cuda_row<R::N> &row = list.row[r];
    const int64_t from = (int64_t)(unit - row.first) * CUDA_UNIT;
    const int64_t to = from + CUDA_UNIT < row.n ? from + CUDA_UNIT : row.n;
    const int64_t whole = from + (to - from) / CUDA_VEC * CUDA_VEC;
    R rule;

    if (r != *known) {
        __syncthreads(); /* the last row's numbers may still be read */
        if (threadIdx.x == 0)
            shared[0].begin(row);
        __syncthreads();
        *known = r;
    }
    rule = shared[0];
    if (rule.rests())
        return rule;
    for (int64_t i = from + threadIdx.x * CUDA_VEC; i < whole; i += (int64_t)blockDim.x * CUDA_VEC)
        cuda_step_at<R, CUDA_VEC>(row, rule, i);
    for (int64_t i = whole + threadIdx.x; i < to; i += blockDim.x)
        cuda_step_at<R, 1>(row, rule, i);
    return rule;
}

template <typename R, int ROOM>
static __global__ void cuda_step_kernel(const cuda_list<cuda_row<R::N>, ROOM> __grid_constant__ list)
{
    CUDA_SHARED(R, shared, [1]);
    int known = -1;

    for (int unit = blockIdx.x; unit < list.n_units; unit += gridDim.x)
        cuda_step_unit(list, unit, shared, &known);
}

/* One launch for as many calls as fit. fill(row, call) leaves a row's first alone. */
template <typename R, typename FILL>
static inline ag_status cuda_step_each(const ag_call *calls, int n, FILL fill)
{
    return cuda_each<cuda_row<R::N>>(calls, n, fill, cuda_units_of<R::N>, [calls](const auto &list) {
        constexpr int room = sizeof list.row / sizeof *list.row;
        if (list.n_units == 0)
            return AG_OK;
        return cuda_launch(calls, cuda_step_kernel<R, room>, cuda_unit_blocks(calls, list.n_units), CUDA_THREADS, 0,
                           list);
    });
}

#endif /* AG_CUDA_LIST_CUH */
