/* gemm.c - matrix products by cuBLASLt; see gemm.h.
 *
 * cuBLASLt thinks in columns: a row-major [M,N] is a column-major [N,M], so it is asked for c^T = op(b)^T op(a)^T,
 * and a bias [N] runs down its columns. Descriptors and the algorithm of each product are made once and kept.
 * Both factors must be of one type: the odd one is converted first, to the type of c.
 */
#include "autograd/cuda/gemm.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "autograd/cuda/internal.h"
#include "autograd/cuda/library.h"
#include "autograd/cuda/plans.h"

#define TEXT(x) #x
#define VALUE(x) TEXT(x)
#define LIBRARY "libcublasLt.so." VALUE(CUBLAS_VER_MAJOR)

enum { WORKSPACE_BYTES = 32 << 20, ALIGNMENT = 16, UNIT = 64 };

/* --- the library ------------------------------------------------------------------------------ */

typedef struct library {
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*layout_set)(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t, const void *, size_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*preference_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void *,
                                     size_t);
    cublasStatus_t (*preference_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *, cublasLtMatrixLayout_t,
                             const void *, cublasLtMatrixLayout_t, const void *, const void *, cublasLtMatrixLayout_t,
                             void *, cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,
                             cudaStream_t);
} library;

/* What tells one product from another; compared as bytes, so it is zeroed first. */
typedef struct plan_key {
    int64_t m, n, k, batch, ld_a, ld_b, ld_c, stride_a, stride_b, stride_c;
    int32_t transpose_a, transpose_b, type, c_type, has_bias, accumulate, alignment, tf32;
} plan_key;

typedef struct plan {
    plan_key key;
    bool is_possible; /* false: cuBLASLt has nothing for it */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t first, second, result; /* b, a and c as it sees them */
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
} plan;

struct cuda_gemm_state {
    library lib;
    cublasLtHandle_t handle; /* NULL: no library */
    cuda_plans plans;
};

const char *cuda_gemm_library(void)
{
    return LIBRARY;
}

static bool load(library *lib)
{
    const cuda_function functions[] = {
        {"cublasLtCreate", &lib->create},
        {"cublasLtDestroy", &lib->destroy},
        {"cublasLtMatmulDescCreate", &lib->desc_create},
        {"cublasLtMatmulDescSetAttribute", &lib->desc_set},
        {"cublasLtMatmulDescDestroy", &lib->desc_destroy},
        {"cublasLtMatrixLayoutCreate", &lib->layout_create},
        {"cublasLtMatrixLayoutSetAttribute", &lib->layout_set},
        {"cublasLtMatrixLayoutDestroy", &lib->layout_destroy},
        {"cublasLtMatmulPreferenceCreate", &lib->preference_create},
        {"cublasLtMatmulPreferenceSetAttribute", &lib->preference_set},
        {"cublasLtMatmulPreferenceDestroy", &lib->preference_destroy},
        {"cublasLtMatmulAlgoGetHeuristic", &lib->heuristic},
        {"cublasLtMatmul", &lib->matmul},
    };

    return cuda_library_load(LIBRARY, functions, sizeof functions / sizeof *functions);
}

/* The context's state, made at the first product; NULL with the context failed when memory is refused. */
static struct cuda_gemm_state *state_of(const ag_call *call)
{
    ag_cuda *cuda = ag_cuda_of(call->ctx);

    if (cuda->gemm)
        return cuda->gemm;
    cuda->gemm = calloc(1, sizeof *cuda->gemm);
    if (!cuda->gemm) {
        ag_fail(call->ctx, AG_ENOMEM, "no memory for matrix products");
        return NULL;
    }
    cuda->gemm->plans.key_bytes = sizeof(plan_key);
    if (!cuda->is_foreseen && load(&cuda->gemm->lib) && cuda->gemm->lib.create(&cuda->gemm->handle) != CUBLAS_STATUS_SUCCESS)
        cuda->gemm->handle = NULL;
    return cuda->gemm;
}

/* --- plans ------------------------------------------------------------------------------------ */

static void plan_free(void *user, void *record)
{
    const struct cuda_gemm_state *s = user;
    plan *p = record;

    if (p->desc)
        s->lib.desc_destroy(p->desc);
    if (p->first)
        s->lib.layout_destroy(p->first);
    if (p->second)
        s->lib.layout_destroy(p->second);
    if (p->result)
        s->lib.layout_destroy(p->result);
    free(p);
}

void cuda_gemm_state_free(struct cuda_gemm_state *state)
{
    if (!state)
        return;
    cuda_plans_free(&state->plans, plan_free, state);
    if (state->handle)
        state->lib.destroy(state->handle);
    free(state);
}

static cudaDataType_t library_type(int type)
{
    return type == AG_BF16 ? CUDA_R_16BF : type == AG_F16 ? CUDA_R_16F : CUDA_R_32F;
}

/* A column-major matrix of `rows` by `columns` as cuBLASLt sees it. */
static bool make_layout(struct cuda_gemm_state *s, cublasLtMatrixLayout_t *out, int type, int64_t rows, int64_t columns,
                        int64_t ld, const plan_key *k, int64_t stride)
{
    const int32_t batch = (int32_t)k->batch;

    if (s->lib.layout_create(out, library_type(type), (uint64_t)rows, (uint64_t)columns, ld) != CUBLAS_STATUS_SUCCESS)
        return false;
    return k->batch == 1 || (s->lib.layout_set(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch) ==
                                 CUBLAS_STATUS_SUCCESS &&
                             s->lib.layout_set(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                               sizeof stride) == CUBLAS_STATUS_SUCCESS);
}

static bool make_desc(struct cuda_gemm_state *s, plan *p)
{
    const plan_key *k = &p->key;
    const cublasOperation_t first = k->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = k->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = k->has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const cudaDataType_t bias_type = library_type(k->c_type);
    const cublasComputeType_t how = k->tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;

    return s->lib.desc_create(&p->desc, how, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           s->lib.desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first) == CUBLAS_STATUS_SUCCESS &&
           s->lib.desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second) == CUBLAS_STATUS_SUCCESS &&
           s->lib.desc_set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) ==
               CUBLAS_STATUS_SUCCESS &&
           (!k->has_bias || s->lib.desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type,
                                            sizeof bias_type) == CUBLAS_STATUS_SUCCESS);
}

static bool choose_algorithm(struct cuda_gemm_state *s, plan *p)
{
    static const cublasLtMatmulPreferenceAttributes_t ALIGNMENTS[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint64_t workspace = WORKSPACE_BYTES;
    const uint32_t alignment = (uint32_t)p->key.alignment;
    cublasLtMatmulHeuristicResult_t result;
    cublasLtMatmulPreference_t preference;
    bool fits;
    int n = 0;

    if (s->lib.preference_create(&preference) != CUBLAS_STATUS_SUCCESS)
        return false;
    fits = s->lib.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace) ==
           CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < 4; i++)
        fits = fits && s->lib.preference_set(preference, ALIGNMENTS[i], &alignment, sizeof alignment) ==
                           CUBLAS_STATUS_SUCCESS;
    fits = fits && s->lib.heuristic(s->handle, p->desc, p->first, p->second, p->result, p->result, preference, 1,
                                    &result, &n) == CUBLAS_STATUS_SUCCESS &&
           n == 1 && result.state == CUBLAS_STATUS_SUCCESS;
    s->lib.preference_destroy(preference);
    if (fits) {
        p->algo = result.algo;
        p->workspace = result.workspaceSize;
    }
    return fits;
}

static bool make_plan(struct cuda_gemm_state *s, plan *p)
{
    const plan_key *k = &p->key;
    const int64_t first_rows = k->transpose_b ? k->k : k->n, first_columns = k->transpose_b ? k->n : k->k;
    const int64_t second_rows = k->transpose_a ? k->m : k->k, second_columns = k->transpose_a ? k->k : k->m;

    return make_desc(s, p) &&
           make_layout(s, &p->first, k->type, first_rows, first_columns, k->ld_b, k, k->stride_b) &&
           make_layout(s, &p->second, k->type, second_rows, second_columns, k->ld_a, k, k->stride_a) &&
           make_layout(s, &p->result, k->c_type, k->n, k->m, k->ld_c, k, k->stride_c) && choose_algorithm(s, p);
}

/* NULL with the context failed when memory is refused. */
static plan *plan_of(const ag_call *call, const plan_key *key)
{
    struct cuda_gemm_state *s = state_of(call);
    plan *p;

    if (!s)
        return NULL;
    p = cuda_plans_find(&s->plans, key);
    if (p)
        return p;
    p = calloc(1, sizeof *p);
    if (p)
        p->key = *key;
    if (!p || !cuda_plans_add(&s->plans, p)) {
        free(p);
        ag_fail(call->ctx, AG_ENOMEM, "no memory for the plan of a product");
        return NULL;
    }
    p->is_possible = s->handle && make_plan(s, p);
    return p;
}

/* --- running ---------------------------------------------------------------------------------- */

/* A product as the library gets it: both factors of one type; where each is converted to, in scratch. */
typedef struct prepared {
    plan_key key;
    plan *plan;
    int64_t n_a, n_b;                     /* elements to convert; 0: none */
    size_t at_a, at_b, at_c, at_bias, at_workspace, bytes;
} prepared;

static int64_t or_else(int64_t x, int64_t otherwise)
{
    return x ? x : otherwise;
}

static size_t take(size_t *at, size_t bytes)
{
    const size_t here = *at;

    *at += (bytes + UNIT - 1) / UNIT * UNIT;
    return here;
}

static int alignment_of(const void *address, int most)
{
    while (most > 1 && (uintptr_t)address % (uintptr_t)most)
        most /= 2;
    return most;
}

static bool prepare(prepared *out, const ag_call *call, const cuda_product *p)
{
    const int64_t batch = or_else(p->batch, 1);
    const bool mixed = p->a_type != p->b_type;
    const int type = mixed ? (int)p->c_type : (int)p->a_type;
    const bool narrow_after = p->c_type != AG_F32 && type != (int)p->c_type;
    const bool is_foreseen = ag_cuda_of(call->ctx)->is_foreseen; /* then the largest workspace is counted */
    plan_key *k = &out->key;
    int alignment = ALIGNMENT;

    memset(out, 0, sizeof *out);
    k->m = p->m;
    k->n = p->n;
    k->k = p->k;
    k->batch = batch;
    k->ld_a = or_else(p->ld_a, p->transpose_a ? p->m : p->k);
    k->ld_b = or_else(p->ld_b, p->transpose_b ? p->k : p->n);
    k->ld_c = or_else(p->ld_c, p->n);
    k->stride_a = p->stride_a;
    k->stride_b = p->stride_b;
    k->stride_c = p->stride_c;
    k->transpose_a = p->transpose_a;
    k->transpose_b = p->transpose_b;
    k->type = type;
    k->c_type = narrow_after ? AG_F32 : (int)p->c_type;
    k->has_bias = p->bias != NULL;
    k->accumulate = p->accumulate;
    k->tf32 = type == AG_F32 && ag_ctx_allows_tf32(call->ctx);
    if ((int)p->a_type != type)
        out->n_a = (p->stride_a ? batch : 1) * p->m * p->k;
    else
        alignment = alignment_of(p->a, alignment);
    if ((int)p->b_type != type)
        out->n_b = (p->stride_b ? batch : 1) * p->k * p->n;
    else
        alignment = alignment_of(p->b, alignment);
    k->alignment = narrow_after ? alignment : alignment_of(p->c, alignment);
    out->plan = plan_of(call, k);
    if (!out->plan)
        return false;
    if (!out->plan->is_possible && !is_foreseen)
        return true;
    out->at_a = take(&out->bytes, (size_t)out->n_a * ag_dtype_size((ag_dtype)type));
    out->at_b = take(&out->bytes, (size_t)out->n_b * ag_dtype_size((ag_dtype)type));
    out->at_c = take(&out->bytes, narrow_after ? (size_t)(batch * p->m * p->n) * sizeof(float) : 0);
    out->at_bias = take(&out->bytes, p->bias && (int)p->bias_type != k->c_type ? (size_t)p->n * sizeof(float) : 0);
    out->at_workspace = take(&out->bytes, is_foreseen ? WORKSPACE_BYTES : out->plan->workspace);
    return true;
}

size_t cuda_gemm_scratch(const ag_call *call, const cuda_product *p)
{
    prepared q;

    return p->m && p->n && prepare(&q, call, p) ? q.bytes : 0;
}

static ag_status run_plan(const ag_call *call, const prepared *q, const void *a, const void *b, void *c,
                          const void *bias, void *workspace)
{
    const float one = 1.0f, beta = q->key.accumulate ? 1.0f : 0.0f;
    ag_cuda *cuda = ag_cuda_of(call->ctx);
    const library *lib = &cuda->gemm->lib;
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;

    cuda->last_queued = call->op->name;
    if (bias)
        status = lib->desc_set(q->plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = lib->matmul(cuda->gemm->handle, q->plan->desc, &one, b, q->plan->first, a, q->plan->second, &beta, c,
                             q->plan->result, c, q->plan->result, &q->plan->algo, workspace, q->plan->workspace,
                             cuda->stream);
    if (status != CUBLAS_STATUS_SUCCESS)
        return ag_fail(call->ctx, AG_EDEVICE, "%s: cuBLASLt refused a product of %lld x %lld x %lld (status %d)",
                       call->op->name, (long long)q->key.m, (long long)q->key.n, (long long)q->key.k, (int)status);
    return AG_OK;
}

ag_status cuda_gemm(const ag_call *call, const cuda_product *p, void *scratch)
{
    char *base = scratch;
    const void *a = p->a, *b = p->b, *bias = p->bias;
    void *c = p->c;
    ag_status status = AG_OK;
    ag_dtype type;
    prepared q;

    if (p->m == 0 || p->n == 0 || p->batch < 0)
        return AG_OK;
    if (p->k == 0)
        return cuda_gemm_tiled(call, p); /* nothing but the bias */
    if (!prepare(&q, call, p))
        return ag_status_of(call->ctx);
    if (!q.plan->is_possible)
        return cuda_gemm_tiled(call, p);
    type = (ag_dtype)q.key.type;
    if (q.n_a) {
        a = base + q.at_a;
        status = cuda_cast_values(call, base + q.at_a, type, p->a, p->a_type, q.n_a);
    }
    if (q.n_b && status == AG_OK) {
        b = base + q.at_b;
        status = cuda_cast_values(call, base + q.at_b, type, p->b, p->b_type, q.n_b);
    }
    if (bias && (int)p->bias_type != q.key.c_type && status == AG_OK) {
        bias = base + q.at_bias;
        status = cuda_cast_values(call, base + q.at_bias, (ag_dtype)q.key.c_type, p->bias, p->bias_type, p->n);
    }
    if (q.key.c_type != (int)p->c_type)
        c = base + q.at_c;
    if (status == AG_OK)
        status = run_plan(call, &q, a, b, c, bias, q.plan->workspace ? base + q.at_workspace : NULL);
    if (status == AG_OK && c != p->c)
        status = cuda_cast_values(call, p->c, p->c_type, c, AG_F32, q.key.batch * p->m * p->n);
    return status;
}
