/* cublaslt.cc - cuBLASLt's matrix product by plain loops, as strict as the real one about what it is given.
 *
 * Column-major: D [m,n] = alpha op(A) op(B) + beta C, with a bias along the rows when asked. An algorithm is good for
 * the problem and alignment that it was chosen for, and wants its workspace, which is spoiled.
 */
#include <cublasLt.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "autograd/numbers.h"
#include "cuda_host.h"

struct cublasLtContext {
    int unused;
};
struct cuda_host_matmul_desc {
    cublasComputeType_t compute;
    cublasOperation_t op_a, op_b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    cudaDataType_t bias_type;
};
struct cuda_host_matrix_layout {
    cudaDataType type;
    int64_t rows, cols, ld, stride;
    int32_t batch;
};
struct cuda_host_preference {
    uint64_t workspace;
    uint32_t alignment[4];
};

static int n_left; /* handles, descriptors, layouts, preferences */

static void check_the_end()
{
    if (n_left)
        cuda_host_die("%d objects of cuBLASLt are left at the end", n_left);
}

#define MAY_FAIL(status)                                                                           \
    do {                                                                                           \
        if (cuda_host_fails())                                                                     \
            return status;                                                                         \
    } while (0)
#define WANT(condition)                                                                            \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return CUBLAS_STATUS_INVALID_VALUE;                                                    \
    } while (0)

template <typename T>
static cublasStatus_t destroy(T *object)
{
    WANT(object);
    delete object;
    n_left--;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return 10000 * CUBLAS_VER_MAJOR;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    static bool ready;

    MAY_FAIL(CUBLAS_STATUS_NOT_INITIALIZED);
    WANT(handle);
    if (!ready)
        atexit(check_the_end);
    ready = true;
    *handle = new cublasLtContext();
    n_left++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return destroy(handle);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute, cudaDataType_t scale)
{
    MAY_FAIL(CUBLAS_STATUS_ALLOC_FAILED);
    WANT(desc && (compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_FAST_TF32) && scale == CUDA_R_32F);
    *desc = new cuda_host_matmul_desc{compute, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, CUDA_R_32F};
    n_left++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy(desc);
}

template <typename T>
static cublasStatus_t set(T *to, const void *value, size_t bytes)
{
    WANT(value && bytes == sizeof *to);
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attr,
                                              const void *value, size_t bytes)
{
    MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    WANT(desc);
    switch (attr) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(&desc->op_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(&desc->op_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(&desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(&desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return set(&desc->bias_type, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld)
{
    MAY_FAIL(CUBLAS_STATUS_ALLOC_FAILED);
    WANT(layout && (type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF) && rows && cols && ld >= (int64_t)rows);
    *layout = new cuda_host_matrix_layout{type, (int64_t)rows, (int64_t)cols, ld, 0, 1};
    n_left++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy(layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attr,
                                                const void *value, size_t bytes)
{
    MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    WANT(layout);
    switch (attr) {
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return set(&layout->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return set(&layout->stride, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    MAY_FAIL(CUBLAS_STATUS_ALLOC_FAILED);
    WANT(preference);
    *preference = new cuda_host_preference{0, {256, 256, 256, 256}};
    n_left++;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return destroy(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attr, const void *value,
                                                    size_t bytes)
{
    MAY_FAIL(CUBLAS_STATUS_INVALID_VALUE);
    WANT(preference);
    if (attr == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return set(&preference->workspace, value, bytes);
    WANT(attr >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && attr <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
    return set(&preference->alignment[attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
}

/* --- the product ------------------------------------------------------------------------------ */

struct problem {
    cublasComputeType_t compute;
    cublasOperation_t op_a, op_b;
    cublasLtEpilogue_t epilogue;
    int64_t m, n, k;
    cuda_host_matrix_layout a, b, d;
};

static bool is_problem(problem *p, const cuda_host_matmul_desc *desc, const cuda_host_matrix_layout *a,
                       const cuda_host_matrix_layout *b, const cuda_host_matrix_layout *c,
                       const cuda_host_matrix_layout *d)
{
    const int64_t k_b = desc->op_b == CUBLAS_OP_N ? b->rows : b->cols;

    *p = {desc->compute, desc->op_a, desc->op_b, desc->epilogue, desc->op_a == CUBLAS_OP_N ? a->rows : a->cols,
          desc->op_b == CUBLAS_OP_N ? b->cols : b->rows, desc->op_a == CUBLAS_OP_N ? a->cols : a->rows, *a, *b, *d};
    return p->k == k_b && d->rows == p->m && d->cols == p->n && memcmp(c, d, sizeof *c) == 0 && a->type == b->type &&
           (a->type == d->type || d->type == CUDA_R_32F) && a->batch == d->batch && b->batch == d->batch &&
           d->batch >= 1 && (d->batch == 1 || d->stride >= d->ld * d->cols) &&
           (desc->epilogue == CUBLASLT_EPILOGUE_DEFAULT ||
            (desc->epilogue == CUBLASLT_EPILOGUE_BIAS && desc->bias_type == d->type));
}

static uint64_t sum_of(const problem &p)
{
    const int64_t numbers[] = {p.compute, p.op_a,  p.op_b, p.epilogue, p.m,        p.n,     p.k,       p.a.ld,   p.b.ld,
                               p.d.ld,  p.a.type, p.d.type, p.a.stride, p.b.stride, p.d.stride, p.d.batch};
    uint64_t h = 14695981039346656037u;

    for (int64_t x : numbers)
        h = (h ^ (uint64_t)x) * 1099511628211u;
    return h;
}

static size_t workspace_of(const problem &p)
{
    return p.k >= 64 ? 4096 : 0; /* some want none, some do */
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found)
{
    problem p;

    MAY_FAIL(CUBLAS_STATUS_NOT_SUPPORTED);
    WANT(handle && desc && a && b && c && d && preference && wanted == 1 && results && found);
    *found = 0;
    if (!is_problem(&p, desc, a, b, c, d) || workspace_of(p) > preference->workspace)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    *results = {};
    results->algo.data[0] = sum_of(p);
    for (int i = 0; i < 4; i++)
        results->algo.data[1 + i] = preference->alignment[i];
    results->workspaceSize = workspace_of(p);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static float get(const void *data, cudaDataType type, int64_t i)
{
    if (type == CUDA_R_32F)
        return static_cast<const float *>(data)[i];
    const uint16_t bits = static_cast<const uint16_t *>(data)[i];
    return type == CUDA_R_16BF ? ag_f32_of_bf16(bits) : ag_f32_of_f16(bits);
}

static void put(void *data, cudaDataType type, int64_t i, float v)
{
    if (type == CUDA_R_32F)
        static_cast<float *>(data)[i] = v;
    else
        static_cast<uint16_t *>(data)[i] = type == CUDA_R_16BF ? ag_bf16_of_f32(v) : ag_f16_of_f32(v);
}

/* A factor of a product: with TF32 an f32 of 10 bits of fraction. */
static float factor_of(const problem &p, const void *data, cudaDataType type, int64_t i)
{
    const float v = get(data, type, i);
    uint32_t bits = ag_bits_of_f32(v);

    if (p.compute != CUBLAS_COMPUTE_32F_FAST_TF32 || type != CUDA_R_32F || !std::isfinite(v))
        return v;
    bits += 0x1000u;
    return ag_f32_of_bits(bits & ~0x1fffu);
}

static void multiply(const problem &p, float alpha, const void *a, const void *b, float beta, void *d, const void *bias,
                     int64_t z)
{
    std::vector<float> left((size_t)(p.m * p.k)); /* [k][m] */
    const int64_t from_a = z * p.a.stride, from_b = z * p.b.stride, from_d = z * p.d.stride;

    for (int64_t k = 0; k < p.k; k++)
        for (int64_t i = 0; i < p.m; i++)
            left[(size_t)(k * p.m + i)] =
                factor_of(p, a, p.a.type, from_a + (p.op_a == CUBLAS_OP_N ? k * p.a.ld + i : i * p.a.ld + k));
#pragma omp parallel for if (p.m * p.n * p.k > 100000)
    for (int64_t j = 0; j < p.n; j++) {
        std::vector<float> sum((size_t)p.m);
        for (int64_t k = 0; k < p.k; k++) {
            const float *row = &left[(size_t)(k * p.m)];
            const float factor = factor_of(p, b, p.b.type, from_b + (p.op_b == CUBLAS_OP_N ? j * p.b.ld + k : k * p.b.ld + j));
            for (int64_t i = 0; i < p.m; i++)
                sum[(size_t)i] += factor * row[i];
        }
        for (int64_t i = 0; i < p.m; i++) {
            const int64_t at = from_d + j * p.d.ld + i;
            float v = alpha * sum[(size_t)i];
            if (beta != 0.0f)
                v += beta * get(d, p.d.type, at);
            if (bias)
                v += get(bias, p.d.type, i);
            put(d, p.d.type, at, v);
        }
    }
}

static size_t size_of(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static bool is_matrix(const void *data, const cuda_host_matrix_layout &l, uint64_t alignment)
{
    const int64_t n = (l.batch - 1) * l.stride + (l.cols - 1) * l.ld + l.rows;

    return cuda_host_is_device(data, (size_t)n * size_of(l.type)) && (uintptr_t)data % alignment == 0;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream)
{
    float scale, keep;
    problem p;

    MAY_FAIL(CUBLAS_STATUS_EXECUTION_FAILED);
    WANT(handle && desc && alpha && beta && a_layout && b_layout && c_layout && d_layout && algo && c == d);
    WANT(is_problem(&p, desc, a_layout, b_layout, c_layout, d_layout) && algo->data[0] == sum_of(p));
    WANT(is_matrix(a, p.a, algo->data[1]) && is_matrix(b, p.b, algo->data[2]) && is_matrix(d, p.d, algo->data[4]));
    WANT(workspace_bytes >= workspace_of(p));
    WANT(workspace_of(p) == 0 || (cuda_host_is_device(workspace, workspace_bytes) && (uintptr_t)workspace % 16 == 0));
    const void *bias = desc->epilogue == CUBLASLT_EPILOGUE_BIAS ? desc->bias : nullptr;
    WANT(desc->epilogue == CUBLASLT_EPILOGUE_DEFAULT || cuda_host_is_device(bias, (size_t)p.m * size_of(p.d.type)));
    memcpy(&scale, alpha, sizeof scale);
    memcpy(&keep, beta, sizeof keep);
    const cudaError_t error = cuda_host_queue(stream, [=]() {
        if (workspace_bytes)
            memset(workspace, 0xff, workspace_bytes);
        for (int64_t z = 0; z < p.d.batch; z++)
            multiply(p, scale, a, b, keep, d, bias, z);
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
