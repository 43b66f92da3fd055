/* common.c - what the op files share; see common.h. */
#include "autograd/ops/common.h"

#include <stdio.h>
#include <string.h>

#include "autograd/cpu/elementwise.h"
#include "autograd/cpu/state.h"

/* --- words for messages ----------------------------------------------------------------------- */

const char *op_text(char *buffer, const ag_tensor *t)
{
    size_t at = 1;

    if (!t) {
        snprintf(buffer, OP_TEXT, "nothing");
        return buffer;
    }
    buffer[0] = '[';
    for (int i = 0; i < ag_ndim(t) && at < OP_TEXT - 32; i++)
        at += (size_t)snprintf(buffer + at, OP_TEXT - at, i ? ",%lld" : "%lld",
                               (long long)ag_dim(t, i));
    snprintf(buffer + at, OP_TEXT - at, "] %s", ag_dtype_name(ag_dtype_of(t)));
    return buffer;
}

/* --- checks ----------------------------------------------------------------------------------- */

bool op_is_float(const ag_ctx *ctx, ag_dtype dtype)
{
    return dtype == AG_F32 || dtype == AG_BF16 || (dtype == AG_F16 && ag_ctx_target(ctx) == AG_CUDA);
}

bool op_same_dims(const ag_tensor *a, const ag_tensor *b)
{
    return ag_ndim(a) == ag_ndim(b) &&
           memcmp(ag_dims(a), ag_dims(b), (size_t)ag_ndim(a) * sizeof(int64_t)) == 0;
}

ag_status op_check_floats(const ag_call *call, unsigned skip)
{
    for (int i = 0; i < call->op->n_in; i++)
        if (call->in[i] && !(skip >> i & 1) && !op_is_float(call->ctx, ag_dtype_of(call->in[i])))
            return ag_fail(call->ctx, AG_EDTYPE, "%s: input %d is %s, want f32 or bf16%s",
                           call->op->name, i, OP_SHAPE(call->in[i]),
                           ag_ctx_target(call->ctx) == AG_CUDA ? " or f16" : "");
    return AG_OK;
}

ag_status op_check_dims(const ag_call *call, int i, int n_dims, const int64_t *dims)
{
    const ag_tensor *t = i < call->op->n_in ? call->in[i] : NULL;
    char want[OP_TEXT] = "[";
    size_t at = 1;

    if (!t || (ag_ndim(t) == n_dims &&
               (n_dims == 0 || memcmp(ag_dims(t), dims, (size_t)n_dims * sizeof *dims) == 0)))
        return AG_OK;
    for (int k = 0; k < n_dims && at < OP_TEXT - 32; k++)
        at += (size_t)snprintf(want + at, sizeof want - at, k ? ",%lld" : "%lld",
                               (long long)dims[k]);
    return ag_fail(call->ctx, AG_ESHAPE, "%s: input %d is %s, want %s]", call->op->name, i,
                   OP_SHAPE(t), want);
}

ag_status op_check_in_place(const ag_call *call)
{
    for (int i = 0; i < call->op->n_in; i++)
        if (ag_recording(call->ctx) && call->in[i] && ag_requires_grad(call->in[i]))
            return ag_fail(call->ctx, AG_EINVAL,
                           "%s changes a tensor in place and has no gradient, but input %d "
                           "asks for one; switch recording off around it",
                           call->op->name, i);
    return AG_OK;
}

ag_status op_check_target(const ag_call *call)
{
    if (op_check_in_place(call) != AG_OK)
        return ag_status_of(call->ctx);
    if (ag_dtype_of(call->in[0]) != AG_F32)
        return ag_fail(call->ctx, AG_EDTYPE, "%s: want an f32 tensor to change, got %s",
                       call->op->name, OP_SHAPE(call->in[0]));
    return AG_OK;
}

ag_dtype op_join(const ag_tensor *a, const ag_tensor *b)
{
    return ag_dtype_of(a) == ag_dtype_of(b) ? ag_dtype_of(a) : AG_F32;
}

int64_t op_product(const int64_t *dims, int from, int to)
{
    int64_t product = 1;

    for (int i = from; i < to; i++)
        product *= dims[i];
    return product;
}

/* --- running ---------------------------------------------------------------------------------- */

int op_threads(const ag_call *call)
{
    return ag_ctx_threads(call->ctx);
}

int op_isa(const ag_call *call)
{
    return (int)cpu_state_isa(ag_cpu(call->ctx));
}

size_t op_round_scratch(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

size_t op_f32_scratch(const ag_tensor *t)
{
    return t && ag_dtype_of(t) == AG_BF16 ? op_round_scratch((size_t)ag_numel(t) * sizeof(float))
                                          : 0;
}

const float *op_as_f32(const ag_call *call, const ag_tensor *t, void *scratch)
{
    if (ag_dtype_of(t) != AG_BF16)
        return ag_data(t);
    cpu_cast(scratch, AG_F32, ag_data(t), AG_BF16, ag_numel(t), op_threads(call), op_isa(call));
    return scratch;
}

size_t op_run_f32_scratch(const ag_call *call)
{
    size_t bytes = 0;

    for (int i = 0; i < call->op->n_in; i++)
        bytes += op_f32_scratch(call->in[i]);
    for (int k = 0; k < call->n_out; k++)
        bytes += op_f32_scratch(call->out[k]);
    return bytes;
}

ag_status op_run_f32(ag_call *call, op_kernel kernel)
{
    ag_ctx *ctx = call->ctx;
    const size_t bytes = op_run_f32_scratch(call);
    op_floats f = {{NULL}, {NULL}};
    char *scratch = NULL;
    ag_status status;

    if (bytes && !(scratch = ag_scratch(ctx, bytes)))
        return ag_status_of(ctx);
    for (int i = 0; i < call->op->n_in; i++) {
        const ag_tensor *t = call->in[i];
        if (!t || !op_is_float(ctx, ag_dtype_of(t)))
            continue;
        f.in[i] = op_as_f32(call, t, scratch);
        scratch += op_f32_scratch(t);
    }
    for (int k = 0; k < call->n_out; k++) {
        if (ag_dtype_of(call->out[k]) == AG_F32) {
            f.out[k] = ag_data(call->out[k]);
        } else if (ag_dtype_of(call->out[k]) == AG_BF16) {
            f.out[k] = (float *)scratch;
            scratch += op_f32_scratch(call->out[k]);
        }
    }
    status = kernel(call, &f);
    for (int k = 0; k < call->n_out && status == AG_OK; k++)
        if (ag_dtype_of(call->out[k]) == AG_BF16)
            cpu_cast(ag_data(call->out[k]), AG_BF16, f.out[k], AG_F32, ag_numel(call->out[k]),
                     op_threads(call), op_isa(call));
    return status;
}

void op_cost_elements(const ag_call *call, ag_cost *cost)
{
    cost->flops = call->n_out ? (double)ag_numel(call->out[0]) : (double)ag_numel(call->in[0]);
    cost->scratch = op_run_f32_scratch(call);
}

/* --- small pieces of gradients ---------------------------------------------------------------- */

ag_tensor *op_reshape_like(ag_ctx *ctx, ag_tensor *d, const ag_tensor *like)
{
    if (!d || op_same_dims(d, like))
        return d;
    return ag_reshape(ctx, d, ag_ndim(like), ag_dims(like));
}
