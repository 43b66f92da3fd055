/* grad.c - the backward pass.
 *
 * One pass:  walk from the outputs to find the nodes that lead to a wanted tensor; go through them
 * from the youngest to the oldest; ask each for the gradients of its inputs; add those up in the
 * inputs' nodes. A node's id says when it was made, so descending ids are a topological order.
 *
 * A checkpoint node has no gradient rule: it runs its function again, recording, and the pass goes
 * on through the nodes that this made before it continues with older ones. Their gradients are
 * added to the same sums in the same order as without a checkpoint, hence the same bits.
 */
#include "autograd/grad.h"

#include <string.h>

#include "autograd/internal.h"
#include "autograd/ops.h"

typedef struct pass {
    ag_ctx *ctx;
    uint64_t id;
    bool create_graph, retain;
} pass;

static int n_edges(const ag_gnode *node)
{
    return node->fn ? node->n_captured : (node->call.op ? node->call.op->n_in : 0);
}

static ag_tensor *edge(const ag_gnode *node, int i)
{
    return node->fn ? node->captured[i] : node->call.in[i];
}

static ag_gnode *edge_node(const ag_gnode *node, int i)
{
    const ag_tensor *t = edge(node, i);

    return t ? t->node : NULL;
}

/* --- finding the nodes ----------------------------------------------------------------------- */

static bool walk_push(ag_ctx *ctx, ag_gnode *node)
{
    if (ctx->n_walk == ctx->walk_room) {
        const size_t room = ctx->walk_room ? 2 * ctx->walk_room : 4096;
        ag_gnode **walk = ag_grow(ctx, ctx->walk, room, sizeof *walk, "backward pass");
        if (!walk)
            return false;
        ctx->walk = walk;
        ctx->walk_room = room;
    }
    node->refs++; /* the pass lets go of younger nodes on its way, which may be all that owns this one */
    ctx->walk[ctx->n_walk++] = node;
    return true;
}

static void walk_pop(ag_ctx *ctx, size_t from)
{
    while (ctx->n_walk > from)
        ag_gnode_release(ctx->walk[--ctx->n_walk]);
}

/* Sort walk[from..) by descending id: heapsort, because qsort may allocate. */
static void sort_descending(ag_gnode **v, size_t n)
{
    for (size_t end = n, start = n / 2; end > 1;) {
        size_t root;
        if (start > 0) {
            start--;
        } else {
            end--;
            ag_gnode *swap = v[end];
            v[end] = v[0];
            v[0] = swap;
        }
        root = start;
        for (size_t child; (child = 2 * root + 1) < end; root = child) {
            ag_gnode *swap;
            if (child + 1 < end && v[child + 1]->id < v[child]->id)
                child++;
            if (v[root]->id <= v[child]->id)
                break;
            swap = v[root];
            v[root] = v[child];
            v[child] = swap;
        }
    }
}

/* Put every node that can be reached from what is in walk[from..) and is not older than min_id
 * there, sorted by descending id, and mark those that lead to a wanted tensor. */
static ag_status collect(pass *p, size_t from, uint64_t min_id)
{
    ag_ctx *ctx = p->ctx;

    for (size_t at = from; at < ctx->n_walk; at++) {
        ag_gnode *node = ctx->walk[at];
        if (node->spent)
            return ag_fail(ctx, AG_EINVAL,
                           "a second backward pass through %s: what it needs was let go by the first "
                           "(AG_RETAIN_GRAPH keeps it)",
                           node->call.op ? node->call.op->name : "a recomputed block");
        for (int i = 0; i < n_edges(node); i++) {
            ag_gnode *input = edge_node(node, i);
            if (!input || input->id < min_id || input->visited == p->id)
                continue;
            input->visited = p->id;
            if (!walk_push(ctx, input))
                return ctx->status;
        }
    }
    sort_descending(ctx->walk + from, ctx->n_walk - from);
    for (size_t at = ctx->n_walk; at-- > from;) {
        ag_gnode *node = ctx->walk[at];
        if (node->target == p->id)
            node->needed = p->id;
        for (int i = 0; i < n_edges(node) && node->needed != p->id; i++)
            if (edge_node(node, i) && edge_node(node, i)->needed == p->id)
                node->needed = p->id;
    }
    return AG_OK;
}

/* --- adding up -------------------------------------------------------------------------------- */

/* Is the sum's memory ours alone, so that we may add into it? */
static bool is_private(const ag_tensor *t)
{
    return t->refs == 1 && t->storage && t->storage->refs == 1 && t->dtype == AG_F32 &&
           t->storage->lifetime == AG_STEP;
}

static void accumulate(pass *p, ag_gnode *node, int index, ag_tensor *g)
{
    ag_ctx *ctx = p->ctx;
    ag_tensor **sum = &node->acc[index];

    if (!g)
        return;
    if (!*sum) {
        *sum = ag_retain(g);
    } else if (node->acc_is_buffer || (!p->create_graph && is_private(*sum))) {
        ag_add_(ctx, *sum, g);
    } else {
        ag_tensor *total = ag_retain(ag_add(ctx, *sum, g));
        ag_release(*sum);
        *sum = total;
    }
}

static ag_status check_gradient(ag_ctx *ctx, const ag_gnode *node, int i, const ag_tensor *g)
{
    const ag_tensor *in = node->call.in[i];

    if (g->n_dims == in->n_dims && memcmp(g->dims, in->dims, (size_t)g->n_dims * sizeof *g->dims) == 0)
        return AG_OK;
    return ag_fail(ctx, AG_ESHAPE, "%s: the gradient of input %d has another shape than the input",
                   node->call.op->name, i);
}

/* --- one node ---------------------------------------------------------------------------------- */

static void run_nodes(pass *p, size_t from);

static void backward_op(pass *p, ag_gnode *node)
{
    ag_ctx *ctx = p->ctx;
    const ag_op *op = node->call.op;
    ag_tensor *grad[AG_MAX_IN] = {NULL};
    ag_node call = node->call;
    bool any = false;
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, p->create_graph);

    for (int i = 0; i < op->n_in; i++) {
        const ag_gnode *input = edge_node(node, i);
        call.wants[i] = input && input->needed == p->id;
        any |= call.wants[i];
    }
    /* an output that the rule reads depends on this very node, which matters when it is recorded */
    for (int i = 0; i < node->n_out && p->create_graph; i++)
        if (call.out[i] && call.out[i]->storage) {
            ag_tensor *t = ag_tensor_stand_in(ctx, call.out[i], true, node);
            call.out[i] = t ? ag_pool_add(ctx, t) : NULL;
            if (call.out[i])
                call.out[i]->out_index = i;
        }
    if (any && ctx->status == AG_OK)
        op->grad(ctx, &call, node->acc, grad);
    for (int i = 0; i < op->n_in && ctx->status == AG_OK; i++) {
        if (!call.wants[i] || !grad[i] || check_gradient(ctx, node, i, grad[i]) != AG_OK)
            continue;
        if (grad[i]->dtype != node->call.in[i]->dtype)
            grad[i] = ag_cast(ctx, grad[i], node->call.in[i]->dtype);
        accumulate(p, edge_node(node, i), node->call.in[i]->out_index, grad[i]);
    }
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
}

static void backward_checkpoint(pass *p, ag_gnode *node)
{
    ag_ctx *ctx = p->ctx;
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, true);
    const uint64_t first_id = ctx->next_node;
    const size_t from = ctx->n_walk;
    ag_tensor *y = node->fn(ctx, node->arg);

    ag_record(ctx, was);
    if (y && y->node) {
        ag_gnode *top = y->node;
        if (top->id >= first_id && top->visited != p->id) {
            top->visited = p->id;
            if (walk_push(ctx, top) && collect(p, from, first_id) == AG_OK) {
                if (top->needed == p->id)
                    accumulate(p, top, y->out_index, node->acc[0]);
                run_nodes(p, from);
            }
            walk_pop(ctx, from);
        } else if (top->needed == p->id) {
            accumulate(p, top, y->out_index, node->acc[0]);
        }
    }
    ag_scope_close(ctx, scope, NULL);
}

/* Run the needed nodes in walk[from..), youngest first. */
static void run_nodes(pass *p, size_t from)
{
    ag_ctx *ctx = p->ctx;

    for (size_t at = from; at < ctx->n_walk && ctx->status == AG_OK; at++) {
        ag_gnode *node = ctx->walk[at];
        bool has_gradient = false;
        if (node->needed != p->id || (!node->call.op && !node->fn))
            continue;
        for (int i = 0; i < AG_MAX_OUT; i++)
            has_gradient |= node->acc[i] != NULL;
        if (!has_gradient)
            continue;
        if (node->fn)
            backward_checkpoint(p, node);
        else
            backward_op(p, node);
        if (node->target != p->id)
            for (int i = 0; i < AG_MAX_OUT; i++) {
                ag_release(node->acc[i]);
                node->acc[i] = NULL;
            }
        if (!p->retain)
            ag_gnode_spend(node);
    }
}

/* --- the pass ----------------------------------------------------------------------------------- */

static void seed(pass *p, ag_tensor *const *outputs, ag_tensor *const *cotangents, int n)
{
    for (int k = 0; k < n && p->ctx->status == AG_OK; k++) {
        ag_tensor *y = outputs[k], *d = cotangents ? cotangents[k] : NULL;
        if (!y) {
            ag_fail(p->ctx, AG_EINVAL, "ag_grad: output %d is missing", k);
            return;
        }
        if (!y->node || y->node->needed != p->id)
            continue;
        if (d && d->numel != y->numel) {
            ag_fail(p->ctx, AG_ESHAPE, "ag_grad: cotangent %d has %lld elements, the output %lld", k,
                    (long long)d->numel, (long long)y->numel);
            return;
        }
        if (!d)
            d = ag_full(p->ctx, AG_STEP, 1.0, y->n_dims, y->dims);
        if (d && d->dtype != y->dtype)
            d = ag_cast(p->ctx, d, y->dtype);
        accumulate(p, y->node, y->out_index, d);
    }
}

/* Take the sums out of the wanted tensors' nodes. */
static void harvest(pass *p, ag_tensor *const *inputs, ag_tensor **grads, int n)
{
    ag_ctx *ctx = p->ctx;

    for (int i = 0; i < n; i++) {
        ag_gnode *node = inputs[i]->node;
        ag_tensor *sum = node ? node->acc[inputs[i]->out_index] : NULL;
        if (ctx->status != AG_OK) {
            continue;
        } else if (grads[i]) {
            if (sum && !node->acc_is_buffer)
                ag_add_(ctx, grads[i], sum);
        } else if (sum) {
            grads[i] = ag_pool_add(ctx, ag_retain(sum));
        } else {
            grads[i] = ag_full(ctx, AG_STEP, 0.0, inputs[i]->n_dims, inputs[i]->dims);
        }
    }
    for (int i = 0; i < n; i++) {
        ag_gnode *node = inputs[i]->node;
        for (int k = 0; node && k < AG_MAX_OUT; k++) {
            ag_release(node->acc[k]);
            node->acc[k] = NULL;
        }
        if (node)
            node->acc_is_buffer = false;
    }
}

ag_status ag_grad(ag_ctx *ctx, ag_tensor *const *outputs, ag_tensor *const *cotangents, int n_outputs,
                  ag_tensor *const *inputs, ag_tensor **grads, int n_inputs, unsigned flags)
{
    pass p = {.ctx = ctx, .create_graph = flags & AG_CREATE_GRAPH, .retain = flags != 0};
    const size_t from = ctx->n_walk;
    bool was;

    if (ctx->status != AG_OK)
        return ctx->status;
    for (int i = 0; i < n_inputs; i++) { /* before anything is marked */
        if (!inputs[i])
            return ag_fail(ctx, AG_EINVAL, "ag_grad: input %d is missing", i);
        if (grads[i] && p.create_graph)
            return ag_fail(ctx, AG_EINVAL, "ag_grad: a buffer cannot take a gradient that is recorded");
    }
    p.id = ctx->next_pass++;
    for (int i = 0; i < n_inputs; i++) {
        ag_gnode *node = inputs[i]->node;
        if (!node)
            continue;
        node->target = p.id;
        if (grads[i] && !node->call.op && !node->fn && !node->acc[0]) {
            node->acc[0] = ag_retain(grads[i]);
            node->acc_is_buffer = true;
        }
    }
    for (int k = 0; k < n_outputs; k++) {
        ag_gnode *node = outputs[k] ? outputs[k]->node : NULL;
        if (!node || node->visited == p.id)
            continue;
        node->visited = p.id;
        if (!walk_push(ctx, node))
            break;
    }
    was = ag_record(ctx, p.create_graph);
    if (ctx->status == AG_OK && collect(&p, from, 0) == AG_OK) {
        seed(&p, outputs, cotangents, n_outputs);
        run_nodes(&p, from);
    }
    /* after a failure sums may be left in nodes that were not reached */
    for (size_t at = from; at < ctx->n_walk; at++)
        if (ctx->status != AG_OK && ctx->walk[at]->target != p.id)
            for (int k = 0; k < AG_MAX_OUT; k++) {
                ag_release(ctx->walk[at]->acc[k]);
                ctx->walk[at]->acc[k] = NULL;
            }
    walk_pop(ctx, from);
    harvest(&p, inputs, grads, n_inputs);
    ag_record(ctx, was);
    return ctx->status;
}

/* --- checkpoints --------------------------------------------------------------------------------- */

void ag_capture_input(ag_ctx *ctx, ag_tensor *t)
{
    ag_capture *capture = ctx->capture;
    ag_gnode *node;

    if (!capture || t->serial >= capture->start_serial || t->capture == capture->id)
        return;
    if (t->storage && t->storage->lifetime == AG_MODEL && !t->node)
        return; /* a frozen parameter outlives us anyway */
    node = capture->node;
    if (node->n_captured == node->captured_room) {
        const int room = node->captured_room ? 2 * node->captured_room : 16;
        ag_tensor **captured = ag_host_take(ctx, (size_t)room * sizeof *captured);
        if (!captured)
            return;
        if (node->n_captured)
            memcpy(captured, node->captured, (size_t)node->n_captured * sizeof *captured);
        ag_host_give(ctx, node->captured, (size_t)node->captured_room * sizeof *captured);
        node->captured = captured;
        node->captured_room = room;
    }
    t->capture = capture->id;
    node->captured[node->n_captured++] = ag_retain(t);
}

static bool captured_any_gradient(const ag_gnode *node)
{
    for (int i = 0; i < node->n_captured; i++)
        if (node->captured[i]->node)
            return true;
    return false;
}

ag_tensor *ag_checkpoint(ag_ctx *ctx, ag_block_fn fn, const void *arg, size_t arg_size)
{
    ag_capture capture;
    ag_tensor *y;

    if (ctx->status != AG_OK)
        return NULL;
    if (!ctx->recording)
        return fn(ctx, arg);
    capture.id = ctx->next_capture++;
    capture.start_serial = ctx->next_serial;
    capture.node = ag_gnode_new(ctx);
    if (!capture.node)
        return NULL;
    ctx->capture = &capture;
    ag_record(ctx, false);
    y = fn(ctx, arg);
    ag_record(ctx, true);
    ctx->capture = NULL;
    if (y && y->serial >= capture.start_serial && captured_any_gradient(capture.node)) {
        capture.node->arg = ag_host_take(ctx, arg_size);
        if (capture.node->arg) {
            memcpy(capture.node->arg, arg, arg_size);
            capture.node->arg_size = arg_size;
            capture.node->fn = fn;
            capture.node->n_out = 1;
            y->node = capture.node;
            y->out_index = 0;
            capture.node->refs++;
        }
    }
    ag_gnode_release(capture.node);
    return ctx->status == AG_OK ? y : NULL;
}
