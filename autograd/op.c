/* op.c - running an operation and recording it.
 *
 * ag_apply is the only door: it checks, runs the shape rule (which takes the outputs' memory),
 * calls the device's kernel, tells the observer, and records a node when a gradient may be asked
 * for later.
 */
#include "autograd/op.h"

#include <string.h>
#include <time.h>

#include "autograd/internal.h"

/* --- outputs ----------------------------------------------------------------------------------- */

void ag_out(ag_call *call, ag_dtype dtype, int n_dims, const int64_t *dims)
{
    call->out[call->n_out++] = ag_empty(call->ctx, AG_STEP, dtype, n_dims, dims);
}

void ag_out_like(ag_call *call, const ag_tensor *like)
{
    ag_out(call, like->dtype, like->n_dims, like->dims);
}

void ag_out_view(ag_call *call, int i, int64_t offset, int n_dims, const int64_t *dims)
{
    const ag_tensor *in = call->in[i];
    ag_tensor *t = NULL;

    if (call->ctx->status == AG_OK)
        t = ag_tensor_shell(call->ctx, in->dtype, n_dims, dims);
    if (t) {
        t->storage = in->storage;
        if (t->storage)
            t->storage->refs++;
        t->offset = in->offset + offset;
        t = ag_pool_add(call->ctx, t);
    }
    call->out[call->n_out++] = t;
}

/* --- recording ---------------------------------------------------------------------------------- */

bool ag_record(ag_ctx *ctx, bool on)
{
    const bool was = ctx->recording;

    ctx->recording = on;
    return was;
}

bool ag_recording(const ag_ctx *ctx)
{
    return ctx->recording;
}

static bool asks_for_gradient(const ag_call *call)
{
    for (int i = 0; i < call->op->n_in; i++)
        if (call->in[i] && call->in[i]->node)
            return true;
    return false;
}

static ag_status record(ag_call *call)
{
    ag_ctx *ctx = call->ctx;
    const ag_op *op = call->op;
    ag_gnode *node;
    unsigned saves;

    if (!op->grad)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s has no gradient", op->name);
    node = ag_gnode_new(ctx);
    if (!node)
        return ctx->status;
    node->call.op = op;
    node->n_out = call->n_out;
    if (op->attr_size)
        memcpy(node->attr, call->attr, op->attr_size);
    node->call.attr = node->attr;
    for (int i = 0; i < op->n_in; i++)
        node->call.wants[i] = call->in[i] && call->in[i]->node;
    /* the rule may look at shapes, so it sees the real tensors */
    memcpy(node->call.in, call->in, (size_t)op->n_in * sizeof *call->in);
    memcpy(node->call.out, call->out, sizeof call->out);
    saves = op->saves ? op->saves(&node->call) : 0;
    for (int i = 0; i < op->n_in; i++)
        if (!call->in[i])
            node->call.in[i] = NULL;
        else if (saves & AG_SAVE_IN(i))
            node->call.in[i] = ag_retain(call->in[i]);
        else
            node->call.in[i] = ag_tensor_stand_in(ctx, call->in[i], false, call->in[i]->node);
    for (int i = 0; i < call->n_out; i++)
        node->call.out[i] = ag_tensor_stand_in(ctx, call->out[i], saves & AG_SAVE_OUT(i), NULL);
    for (int i = 0; i < call->n_out; i++) {
        call->out[i]->node = node;
        call->out[i]->out_index = i;
        node->refs++;
    }
    ag_gnode_release(node); /* its outputs own it now */
    return ctx->status;
}

/* --- running ------------------------------------------------------------------------------------ */

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void default_cost(const ag_call *call, ag_cost *cost)
{
    *cost = (ag_cost){0};
    for (int i = 0; i < call->op->n_in; i++)
        if (call->in[i])
            cost->bytes += (double)ag_nbytes(call->in[i]);
    for (int i = 0; i < call->n_out; i++)
        cost->bytes += (double)ag_nbytes(call->out[i]);
}

static const char *const DEVICE_NAMES[AG_N_DEVICES] = {"cpu", "cuda", "meta"};

static ag_status run_kernel(ag_call *call)
{
    ag_ctx *ctx = call->ctx;
    const ag_cuda_kernel *on_cuda = ctx->cuda ? ctx->cuda_api->kernel(call->op) : NULL;
    const ag_kernel kernel = ctx->cuda ? NULL : call->op->run[ctx->options.device];
    ag_status status;

    if (!on_cuda && !kernel)
        return ag_fail(ctx, AG_EUNSUPPORTED, "%s: no kernel for %s", call->op->name, DEVICE_NAMES[ctx->options.device]);
    if (on_cuda && ag_bundle_put(call, on_cuda))
        return ctx->status;
    if (on_cuda && ag_bundle_run(ctx) != AG_OK)
        return ctx->status;
    status = kernel ? kernel(call) : on_cuda->each ? on_cuda->each(call, 1) : on_cuda->run(call);
    return status == AG_OK ? AG_OK : ag_fail(ctx, status, "%s failed", call->op->name);
}

/* What an observer, or AG_META, is told. The scratch of a cost rule is the CPU's. */
static ag_cost cost_of(const ag_call *call)
{
    const ag_ctx *ctx = call->ctx;
    const ag_cuda_kernel *on_cuda;
    ag_cost cost;

    default_cost(call, &cost);
    if (call->op->cost)
        call->op->cost(call, &cost);
    if (ag_ctx_target(ctx) == AG_CUDA) { /* foreseen by a program without such kernels: nothing is known */
        on_cuda = ctx->cuda_api ? ctx->cuda_api->kernel(call->op) : NULL;
        cost.scratch = on_cuda && on_cuda->scratch ? on_cuda->scratch(call) : 0;
    }
    return cost;
}

static ag_status run(ag_call *call)
{
    ag_ctx *ctx = call->ctx;
    const bool is_meta = ctx->options.device == AG_META, is_view = !call->op->run[AG_CPU];
    ag_cost cost = {0};
    double start = 0.0;

    if (is_view)
        return AG_OK;
    if (ctx->observer || is_meta)
        cost = cost_of(call);
    if (ctx->observer && !is_meta && ag_wait(ctx) == AG_OK)
        start = seconds();
    if (!is_meta)
        run_kernel(call);
    else if (cost.scratch)
        ag_scratch(ctx, cost.scratch);
    if (ctx->observer && !is_meta)
        ag_wait(ctx);
    ag_scratch_release(ctx);
    if (ctx->observer && ctx->status == AG_OK)
        ctx->observer(ctx->observer_user, call, &cost, is_meta ? 0.0 : seconds() - start);
    return ctx->status;
}

/* What a graph may read: tensors of its own arena, and those that outlive a step, whose addresses it holds. */
static ag_status hold(ag_ctx *ctx, const ag_tensor *t)
{
    ag_storage *s = t->storage;

    if (s->lifetime == AG_MODEL || s->lifetime == AG_OFFLOADED)
        s->is_held = true;
    else if (s->heap != ctx->heap[AG_HEAP_STEP] && s->heap != ctx->heap[AG_HEAP_STEP_SMALL])
        ag_check_recorded(ctx, "reads a tensor of another step");
    return ctx->status;
}

static ag_status apply(ag_call *call)
{
    ag_ctx *ctx = call->ctx;
    const ag_op *op = call->op;

    if (ctx->status != AG_OK)
        return ctx->status;
    for (int i = 0; i < op->n_in; i++) {
        if (!call->in[i] && !(op->optional >> i & 1))
            return ag_fail(ctx, AG_EINVAL, "%s: input %d is missing", op->name, i);
        if (call->in[i] && !call->in[i]->storage)
            return ag_fail(ctx, AG_EINVAL, "%s: input %d was not kept for the gradient", op->name, i);
        if (call->in[i])
            ag_capture_input(ctx, call->in[i]);
        if (call->in[i] && ctx->is_recorded && hold(ctx, call->in[i]) != AG_OK)
            return ctx->status;
    }
    if (op->shape(call) != AG_OK)
        return ctx->status != AG_OK ? ctx->status : ag_fail(ctx, AG_ESHAPE, "%s: shapes do not fit", op->name);
    for (int i = 0; i < call->n_out; i++)
        if (!call->out[i])
            return ctx->status;
    if (run(call) != AG_OK)
        return ctx->status;
    if (ctx->recording && asks_for_gradient(call))
        return record(call);
    return AG_OK;
}

ag_status ag_apply_all(ag_ctx *ctx, const ag_op *op, ag_tensor *const *in, const void *attr, ag_tensor **out)
{
    ag_call call = {.ctx = ctx, .op = op, .in = in, .attr = attr};
    const ag_status status = apply(&call);

    memset(out, 0, AG_MAX_OUT * sizeof *out);
    if (status == AG_OK)
        memcpy(out, call.out, (size_t)call.n_out * sizeof *out);
    return status;
}

ag_tensor *ag_apply(ag_ctx *ctx, const ag_op *op, ag_tensor *const *in, const void *attr)
{
    ag_call call = {.ctx = ctx, .op = op, .in = in, .attr = attr};

    if (apply(&call) != AG_OK)
        return NULL;
    return call.n_out ? call.out[0] : in[0];
}
