/* bundle.c - calls that are put off, to be run as one: ag_bundle_begin() in ops.h.
 *
 * A call is put off when its kernel can do many at once. The tensors of such a call are retained until it has run.
 */
#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/ops.h"

enum { ROOM = 1024 };

typedef struct put_off {
    const ag_cuda_kernel *kernel; /* NULL: it has run */
    ag_tensor *in[AG_MAX_IN];
    unsigned char attr[AG_MAX_ATTR] __attribute__((aligned(16)));
} put_off;

struct ag_bundle {
    bool is_open;
    int n;
    put_off calls[ROOM];
    ag_call of_one_op[ROOM];
};

ag_bundle *ag_bundle_new(void)
{
    return calloc(1, sizeof(ag_bundle));
}

static void let_go(ag_bundle *b)
{
    for (int i = 0; i < b->n; i++)
        for (int k = 0; k < AG_MAX_IN; k++)
            ag_release(b->calls[i].in[k]);
    b->n = 0;
}

void ag_bundle_free(ag_ctx *ctx)
{
    if (ctx->bundle)
        let_go(ctx->bundle);
    free(ctx->bundle);
}

void ag_bundle_begin(ag_ctx *ctx)
{
    if (ctx->bundle)
        ctx->bundle->is_open = true;
}

ag_status ag_bundle_end(ag_ctx *ctx)
{
    if (ctx->bundle)
        ctx->bundle->is_open = false;
    return ag_bundle_run(ctx);
}

bool ag_bundle_put(const ag_call *call, const ag_cuda_kernel *kernel)
{
    ag_ctx *ctx = call->ctx;
    ag_bundle *b = ctx->bundle;
    put_off *p;

    if (!b->is_open || !kernel->each || ctx->observer)
        return false;
    if (b->n == ROOM && ag_bundle_run(ctx) != AG_OK)
        return false;
    p = &b->calls[b->n++];
    *p = (put_off){.kernel = kernel};
    for (int i = 0; i < call->op->n_in; i++)
        p->in[i] = ag_retain(call->in[i]);
    if (call->op->attr_size)
        memcpy(p->attr, call->attr, call->op->attr_size);
    return true;
}

/* All calls of the op of call `first`, which stands before them. */
static ag_status run_op(ag_ctx *ctx, ag_bundle *b, int first)
{
    const ag_cuda_kernel *kernel = b->calls[first].kernel;
    ag_status status;
    int n = 0;

    for (int i = first; i < b->n; i++)
        if (b->calls[i].kernel == kernel) {
            b->of_one_op[n++] =
                (ag_call){.ctx = ctx, .op = kernel->op, .in = b->calls[i].in, .attr = b->calls[i].attr};
            b->calls[i].kernel = NULL;
        }
    status = kernel->each(b->of_one_op, n);
    ag_scratch_release(ctx);
    return status == AG_OK ? AG_OK : ag_fail(ctx, status, "%s failed", kernel->op->name);
}

ag_status ag_bundle_run(ag_ctx *ctx)
{
    ag_bundle *b = ctx->bundle;

    if (!b || !b->n)
        return ctx->status;
    for (int i = 0; i < b->n && ctx->status == AG_OK; i++)
        if (b->calls[i].kernel)
            run_op(ctx, b, i);
    let_go(b);
    return ctx->status;
}
