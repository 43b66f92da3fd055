/* tensor.c - tensor records, their storage, and the scopes that own them. */
#include "autograd/tensor.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/internal.h"
#include "autograd/ops.h"

static const struct {
    const char *name;
    size_t size;
} DTYPES[AG_N_DTYPES] = {
    [AG_F32] = {"f32", 4}, [AG_BF16] = {"bf16", 2}, [AG_F16] = {"f16", 2}, [AG_F64] = {"f64", 8},
    [AG_I64] = {"i64", 8}, [AG_I32] = {"i32", 4},   [AG_U8] = {"u8", 1},
};

size_t ag_dtype_size(ag_dtype dtype)
{
    return DTYPES[dtype].size;
}

const char *ag_dtype_name(ag_dtype dtype)
{
    return DTYPES[dtype].name;
}

/* --- storage ---------------------------------------------------------------------------------- */

static ag_heap *heap_for(ag_ctx *ctx, ag_lifetime lifetime, size_t bytes)
{
    if (lifetime == AG_MODEL || lifetime == AG_OFFLOADED)
        return ctx->heap[AG_HEAP_MODEL];
    if (lifetime == AG_SCRATCH)
        return ctx->heap[AG_HEAP_SCRATCH];
    return ctx->heap[bytes < AG_SMALL_BYTES ? AG_HEAP_STEP_SMALL : AG_HEAP_STEP];
}

static const char *LIFETIME_NAMES[AG_N_LIFETIMES] = {"model", "step", "scratch", "offloaded"};

static void count(ag_ctx *ctx, ag_lifetime lifetime, size_t bytes)
{
    ctx->now[lifetime] += bytes;
    if (ctx->now[lifetime] > ctx->peak[lifetime])
        ctx->peak[lifetime] = ctx->now[lifetime];
}

/* Take a block and count it; fails the context when refused. */
static ag_block *take_block(ag_ctx *ctx, ag_lifetime lifetime, ag_heap *heap, size_t bytes)
{
    size_t total = 0;
    ag_block *block = NULL;

    for (int l = 0; l < AG_N_LIFETIMES; l++)
        total += ctx->now[l];
    if (!ag_is_refused(ctx) &&
        (!ctx->options.limit_bytes || total + bytes <= ctx->options.limit_bytes))
        block = ag_heap_take(heap, bytes);
    if (!block) {
        ag_fail(ctx, AG_ENOMEM,
                "out of memory: %.1f MiB of %s memory wanted; in use: model %.1f, step %.1f MiB",
                (double)bytes / 1048576, LIFETIME_NAMES[lifetime],
                (double)ctx->now[AG_MODEL] / 1048576, (double)ctx->now[AG_STEP] / 1048576);
        return NULL;
    }
    count(ctx, lifetime, block->size);
    return block;
}

static void give_block(ag_ctx *ctx, ag_lifetime lifetime, ag_heap *heap, ag_block *block)
{
    ctx->now[lifetime] -= block->size;
    ag_heap_give(heap, block);
}

/* Memory of the host that the device sees, at the same address; on AG_META none, but counted. */
static bool take_pinned(ag_ctx *ctx, ag_storage *storage, size_t bytes)
{
    storage->pinned = bytes ? bytes : 1;
    storage->data = ctx->cuda && !ag_is_refused(ctx) ? ctx->cuda_api->pin(ctx->cuda, storage->pinned) : NULL;
    if (ctx->cuda && !storage->data) {
        ag_fail(ctx, AG_ENOMEM, "out of memory: %.1f MiB of the host's memory wanted for the device, %.1f in use so",
                (double)bytes / 1048576, (double)ctx->now[AG_OFFLOADED] / 1048576);
        return false;
    }
    count(ctx, AG_OFFLOADED, storage->pinned);
    return true;
}

static ag_storage *storage_new(ag_ctx *ctx, ag_lifetime lifetime, size_t bytes)
{
    ag_storage *storage = ag_host_take(ctx, sizeof *storage);

    if (!storage)
        return NULL;
    memset(storage, 0, sizeof *storage);
    storage->refs = 1;
    storage->lifetime = lifetime;
    if (lifetime == AG_OFFLOADED && ag_ctx_target(ctx) == AG_CUDA) {
        if (take_pinned(ctx, storage, bytes))
            return storage;
        ag_host_give(ctx, storage, sizeof *storage);
        return NULL;
    }
    storage->heap = heap_for(ctx, lifetime, bytes);
    storage->block = take_block(ctx, lifetime, storage->heap, bytes);
    if (!storage->block) {
        ag_host_give(ctx, storage, sizeof *storage);
        return NULL;
    }
    storage->data = ag_heap_address(storage->heap, storage->block);
    return storage;
}

void ag_storage_release(ag_ctx *ctx, ag_storage *storage)
{
    if (!storage || --storage->refs > 0)
        return;
    ctx->n_stale += storage->is_held;
    if (storage->pinned) {
        ctx->now[storage->lifetime] -= storage->pinned;
        if (storage->data)
            ctx->cuda_api->unpin(ctx->cuda, storage->data);
    } else {
        give_block(ctx, storage->lifetime, storage->heap, storage->block);
    }
    ag_host_give(ctx, storage, sizeof *storage);
}

void *ag_scratch(ag_ctx *ctx, size_t bytes)
{
    ag_block *block;

    if (ctx->n_scratch == AG_MAX_SCRATCH) {
        ag_fail(ctx, AG_ENOMEM, "an op takes more than %d pieces of scratch", AG_MAX_SCRATCH);
        return NULL;
    }
    block = take_block(ctx, AG_SCRATCH, ctx->heap[AG_HEAP_SCRATCH], bytes);
    if (!block)
        return NULL;
    ctx->scratch[ctx->n_scratch++] = block;
    return ag_heap_address(ctx->heap[AG_HEAP_SCRATCH], block);
}

void ag_scratch_release(ag_ctx *ctx)
{
    while (ctx->n_scratch > 0)
        give_block(ctx, AG_SCRATCH, ctx->heap[AG_HEAP_SCRATCH], ctx->scratch[--ctx->n_scratch]);
}

/* --- tensors ---------------------------------------------------------------------------------- */

ag_tensor *ag_tensor_shell(ag_ctx *ctx, ag_dtype dtype, int n_dims, const int64_t *dims)
{
    ag_tensor *t;
    int64_t numel = 1;

    if (n_dims < 0 || n_dims > AG_MAX_DIMS) {
        ag_fail(ctx, AG_ESHAPE, "a tensor has 0 to %d axes, not %d", AG_MAX_DIMS, n_dims);
        return NULL;
    }
    for (int i = 0; i < n_dims; i++)
        if (dims[i] < 0 || __builtin_mul_overflow(numel, dims[i], &numel) ||
            numel > INT64_MAX / 64) {
            ag_fail(ctx, AG_ESHAPE, "a tensor with axis %d of size %lld is not possible", i,
                    (long long)dims[i]);
            return NULL;
        }
    t = ag_host_take(ctx, sizeof *t);
    if (!t)
        return NULL;
    memset(t, 0, sizeof *t);
    t->ctx = ctx;
    t->refs = 1;
    t->dtype = dtype;
    t->n_dims = n_dims;
    t->numel = numel;
    if (n_dims)
        memcpy(t->dims, dims, (size_t)n_dims * sizeof *dims);
    t->serial = ctx->next_serial++;
    return t;
}

ag_tensor *ag_tensor_stand_in(ag_ctx *ctx, const ag_tensor *t, bool with_data, ag_gnode *node)
{
    ag_tensor *s = ag_tensor_shell(ctx, t->dtype, t->n_dims, t->dims);

    if (!s)
        return NULL;
    s->name = t->name;
    s->out_index = t->out_index;
    if (with_data && t->storage) {
        s->storage = t->storage;
        s->storage->refs++;
        s->offset = t->offset;
    }
    if (node) {
        s->node = node;
        node->refs++;
    }
    return s;
}

ag_tensor *ag_pool_add(ag_ctx *ctx, ag_tensor *t)
{
    if (ctx->n_pool == ctx->pool_room) {
        const size_t room = ctx->pool_room ? 2 * ctx->pool_room : 1024;
        ag_tensor **pool = ag_grow(ctx, ctx->pool, room, sizeof *pool, "scopes");
        if (!pool) {
            ag_release(t);
            return NULL;
        }
        ctx->pool = pool;
        ctx->pool_room = room;
    }
    return ctx->pool[ctx->n_pool++] = t;
}

static bool belongs_to_caller(ag_lifetime lifetime)
{
    return lifetime == AG_MODEL || lifetime == AG_OFFLOADED;
}

ag_tensor *ag_empty(ag_ctx *ctx, ag_lifetime lifetime, ag_dtype dtype, int n_dims, const int64_t *dims)
{
    ag_tensor *t;

    if (ctx->status != AG_OK)
        return NULL;
    t = ag_tensor_shell(ctx, dtype, n_dims, dims);
    if (!t)
        return NULL;
    t->storage = storage_new(ctx, lifetime, (size_t)t->numel * ag_dtype_size(dtype));
    if (!t->storage) {
        ag_release(t);
        return NULL;
    }
    return belongs_to_caller(lifetime) ? t : ag_pool_add(ctx, t);
}

ag_tensor *ag_full(ag_ctx *ctx, ag_lifetime lifetime, double value, int n_dims, const int64_t *dims)
{
    ag_tensor *t = ag_empty(ctx, lifetime, AG_F32, n_dims, dims);

    if (t && !ag_fill_(ctx, t, value)) {
        if (belongs_to_caller(lifetime))
            ag_release(t);
        return NULL;
    }
    return t;
}

static ag_tensor *from_host(ag_ctx *ctx, ag_dtype dtype, const void *values, int n_dims,
                            const int64_t *dims)
{
    ag_tensor *t = ag_empty(ctx, AG_STEP, dtype, n_dims, dims);

    if (t)
        ag_write(ctx, t, values, ag_nbytes(t));
    return t;
}

ag_tensor *ag_from_f32(ag_ctx *ctx, const float *values, int n_dims, const int64_t *dims)
{
    return from_host(ctx, AG_F32, values, n_dims, dims);
}

ag_tensor *ag_from_i64(ag_ctx *ctx, const int64_t *values, int n_dims, const int64_t *dims)
{
    return from_host(ctx, AG_I64, values, n_dims, dims);
}

ag_tensor *ag_scalar(ag_ctx *ctx, double value)
{
    const float f = (float)value;

    return from_host(ctx, AG_F32, &f, 0, NULL);
}

static ag_status check_bytes(ag_ctx *ctx, const ag_tensor *t, size_t bytes, const char *what)
{
    if (ctx->status != AG_OK)
        return ctx->status;
    if (!t || bytes != ag_nbytes(t))
        return ag_fail(ctx, AG_ESHAPE, "%s %s: %zu bytes for a tensor of %zu", what,
                       t ? ag_name(t) : "nothing", bytes, t ? ag_nbytes(t) : 0);
    return AG_OK;
}

static bool is_pinned(const ag_tensor *t)
{
    return t->storage && t->storage->pinned;
}

ag_status ag_write(ag_ctx *ctx, ag_tensor *t, const void *host, size_t bytes)
{
    const ag_status status = check_bytes(ctx, t, bytes, "write to");

    if (status != AG_OK || !bytes || !ag_data(t))
        return status;
    if (ag_check_recorded(ctx, "brings values from the host") != AG_OK)
        return ctx->status;
    if (is_pinned(t) && ag_wait(ctx) != AG_OK)
        return ctx->status;
    if (ctx->cuda && !is_pinned(t))
        return ag_bundle_run(ctx) != AG_OK ? ctx->status : ctx->cuda_api->write(ctx->cuda, ag_data(t), host, bytes);
    memcpy(ag_data(t), host, bytes);
    return AG_OK;
}

ag_status ag_read(ag_ctx *ctx, const ag_tensor *t, void *host, size_t bytes)
{
    const ag_status status = check_bytes(ctx, t, bytes, "read from");

    if (status != AG_OK || !bytes)
        return status;
    if (ag_check_recorded(ctx, "reads values back to the host") != AG_OK)
        return ctx->status;
    if (is_pinned(t) && ag_wait(ctx) != AG_OK)
        return ctx->status;
    if (ctx->cuda && !is_pinned(t))
        return ag_bundle_run(ctx) != AG_OK ? ctx->status : ctx->cuda_api->read(ctx->cuda, host, ag_data(t), bytes);
    if (ag_data(t))
        memcpy(host, ag_data(t), bytes);
    else
        memset(host, 0, bytes);
    return AG_OK;
}

const void *ag_look(ag_ctx *ctx, const ag_tensor *t)
{
    void *copy;

    if (!ctx->cuda)
        return ag_data(t);
    if (is_pinned(t))
        return ag_wait(ctx) == AG_OK ? ag_data(t) : NULL;
    copy = ag_new(ctx, ag_nbytes(t), 1, "a tensor on the host");
    if (copy && ag_read(ctx, t, copy, ag_nbytes(t)) == AG_OK)
        return copy;
    ag_delete(copy);
    return NULL;
}

void ag_look_away(const ag_tensor *t, const void *values)
{
    if (values && values != ag_data(t))
        ag_delete((void *)values);
}

void ag_set_requires_grad(ag_ctx *ctx, ag_tensor *t, bool on)
{
    if (!t || ctx->status != AG_OK)
        return;
    if (t->node && t->node->call.op) {
        ag_fail(ctx, AG_EINVAL, "%s: only a leaf can be told to ask for gradients, this is the result of %s",
                ag_name(t), t->node->call.op->name);
        return;
    }
    if (on == (t->node != NULL))
        return;
    if (on) {
        t->node = ag_gnode_new(ctx);
        t->out_index = 0;
    } else {
        ag_gnode_release(t->node);
        t->node = NULL;
    }
}

int ag_ndim(const ag_tensor *t)
{
    return t->n_dims;
}

int64_t ag_dim(const ag_tensor *t, int axis)
{
    return t->dims[axis < 0 ? axis + t->n_dims : axis];
}

const int64_t *ag_dims(const ag_tensor *t)
{
    return t->dims;
}

int64_t ag_numel(const ag_tensor *t)
{
    return t->numel;
}

size_t ag_nbytes(const ag_tensor *t)
{
    return (size_t)t->numel * ag_dtype_size(t->dtype);
}

ag_dtype ag_dtype_of(const ag_tensor *t)
{
    return t->dtype;
}

bool ag_requires_grad(const ag_tensor *t)
{
    return t->node != NULL;
}

void *ag_data(const ag_tensor *t)
{
    if (!t->storage || !t->storage->data)
        return NULL;
    return (char *)t->storage->data + (size_t)t->offset * ag_dtype_size(t->dtype);
}

void ag_set_name(ag_tensor *t, const char *name)
{
    if (t)
        t->name = name;
}

const char *ag_name(const ag_tensor *t)
{
    return t->name ? t->name : "";
}

ag_tensor *ag_retain(ag_tensor *t)
{
    if (t)
        t->refs++;
    return t;
}

void ag_release(ag_tensor *t)
{
    if (!t || --t->refs > 0)
        return;
    ag_storage_release(t->ctx, t->storage);
    if (t->node)
        ag_gnode_release(t->node);
    ag_host_give(t->ctx, t, sizeof *t);
}

/* --- scopes ----------------------------------------------------------------------------------- */

ag_scope ag_scope_open(ag_ctx *ctx)
{
    return (ag_scope){ctx->n_pool};
}

void ag_scope_close_keep(ag_ctx *ctx, ag_scope scope, ag_tensor **keep, int n_keep)
{
    for (int i = 0; i < n_keep; i++)
        ag_retain(keep[i]);
    while (ctx->n_pool > scope.mark)
        ag_release(ctx->pool[--ctx->n_pool]);
    for (int i = 0; i < n_keep; i++)
        if (keep[i])
            keep[i] = ag_pool_add(ctx, keep[i]);
}

ag_tensor *ag_scope_close(ag_ctx *ctx, ag_scope scope, ag_tensor *keep)
{
    ag_scope_close_keep(ctx, scope, &keep, 1);
    return keep;
}
