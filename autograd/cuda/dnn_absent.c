/* dnn_absent.c - in the place of dnn*.c where cuDNN's headers were not found: nothing is done by it. */
#include "autograd/cuda/dnn_attention.h"
#include "autograd/cuda/dnn_conv.h"
#include "autograd/cuda/internal.h"

const char *cuda_dnn_library(void)
{
    return NULL;
}

void cuda_dnn_free(struct cuda_dnn *dnn)
{
    (void)dnn;
}

const cuda_dnn_plan *cuda_dnn_conv_plan(const ag_call *call, const cuda_dnn_conv *c)
{
    (void)call, (void)c;
    return NULL;
}

size_t cuda_dnn_conv_scratch(const cuda_dnn_plan *plan)
{
    (void)plan;
    return 0;
}

static ag_status not_here(const ag_call *call)
{
    return ag_fail(call->ctx, AG_EUNSUPPORTED, "%s: built without cuDNN", call->op->name);
}

ag_status cuda_dnn_conv_run(const ag_call *call, const cuda_dnn_plan *plan, const cuda_dnn_conv *c, void *scratch)
{
    (void)plan, (void)c, (void)scratch;
    return not_here(call);
}

bool cuda_dnn_attention_takes(const ag_call *call, size_t *scratch)
{
    (void)call;
    *scratch = 0;
    return false;
}

ag_status cuda_dnn_attention(const ag_call *call)
{
    return not_here(call);
}

bool cuda_dnn_attention_backward_takes(const ag_call *call, size_t *scratch)
{
    (void)call;
    *scratch = 0;
    return false;
}

ag_status cuda_dnn_attention_backward(const ag_call *call)
{
    return not_here(call);
}
