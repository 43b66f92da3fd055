/* gemm.c - matrix products: oneDNN where it has a kernel, plain loops where it has none. */
#include "autograd/cpu/gemm.h"

#include <string.h>

#include "autograd/cpu/onednn.h"

static const cpu_onednn_plan *gemm_plan(cpu_state *state, const cpu_gemm_call *c, bool *failed)
{
    const bool pack = c->stride_b == 0 && c->b_type == AG_F32 && c->a_type == AG_BF16;

    if (c->alpha != 1.0f || (c->beta != 0.0f && c->beta != 1.0f) || c->m < 1 || c->n < 1 ||
        c->k < 1 || (c->a_type != c->b_type && !pack))
        return NULL;
    return cpu_onednn_gemm(cpu_state_onednn(state), c, pack, failed);
}

size_t cpu_gemm_scratch(cpu_state *state, const cpu_gemm_call *c)
{
    bool failed = false;
    const cpu_onednn_plan *plan = gemm_plan(state, c, &failed);
    return plan ? cpu_onednn_scratch(plan) : 0;
}

static float load(const void *x, ag_dtype type, int64_t i)
{
    uint32_t bits;
    float value;

    if (type == AG_F32)
        return ((const float *)x)[i];
    bits = (uint32_t)((const uint16_t *)x)[i] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void store(void *x, ag_dtype type, int64_t i, float value)
{
    uint32_t bits;

    if (type == AG_F32) {
        ((float *)x)[i] = value;
        return;
    }
    memcpy(&bits, &value, sizeof bits);
    if (value == value)
        bits += 0x7fff + (bits >> 16 & 1);
    ((uint16_t *)x)[i] = (uint16_t)(bits >> 16);
}

bool cpu_gemm(cpu_state *state, const cpu_gemm_call *c, void *scratch)
{
    bool failed = false;
    const cpu_onednn_plan *plan = gemm_plan(state, c, &failed);
    const int64_t lda = c->lda ? c->lda : c->transpose_a ? c->m : c->k;
    const int64_t ldb = c->ldb ? c->ldb : c->transpose_b ? c->k : c->n;
    const int64_t ldc = c->ldc ? c->ldc : c->n, batch = c->batch ? c->batch : 1;

    if (failed)
        return false;
    if (plan)
        return cpu_onednn_run(cpu_state_onednn(state), plan, c->c, c->a, c->b, c->bias, scratch);
    for (int64_t s = 0; s < batch; s++)
        for (int64_t i = 0; i < c->m; i++)
            for (int64_t j = 0; j < c->n; j++) {
                const int64_t at = s * c->stride_c + i * ldc + j;
                double sum = 0.0;
                for (int64_t l = 0; l < c->k; l++)
                    sum += (double)load(c->a, c->a_type, s * c->stride_a +
                                        (c->transpose_a ? l * lda + i : i * lda + l)) *
                           load(c->b, c->b_type, s * c->stride_b +
                                (c->transpose_b ? j * ldb + l : l * ldb + j));
                sum = c->alpha * sum + (c->bias ? c->bias[j] : 0.0);
                if (c->beta != 0.0f)
                    sum += (double)c->beta * load(c->c, c->c_type, at);
                store(c->c, c->c_type, at, (float)sum);
            }
    return true;
}

const char *cpu_gemm_kernel_name(cpu_state *state, const cpu_gemm_call *c)
{
    bool failed = false;
    const cpu_onednn_plan *plan = gemm_plan(state, c, &failed);
    return plan ? cpu_onednn_name(plan) : "loops";
}
