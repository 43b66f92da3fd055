/* replay.c - see replay.h. */
#include "autograd/replay.h"

#include <stdio.h>
#include <string.h>

#include "autograd/internal.h"

/* What tells one work from another; compared as bytes, so it is zeroed first. */
typedef struct shape {
    int64_t is_there, dtype, n_dims, dims[AG_MAX_DIMS];
} shape;

typedef struct key {
    int64_t kind, n_in;
    shape in[AG_REPLAY_IN];
} key;

typedef struct entry {
    key key;
    int64_t last;                  /* the run that used it last; 0: none yet */
    bool given_up;                 /* it cannot be recorded */
    ag_tensor *in[AG_REPLAY_IN];   /* where a graph reads its inputs */
    ag_tensor *out[AG_REPLAY_OUT]; /* and leaves its outputs; made by the first run */
    int n_out;
    ag_cuda_graph *graph;
} entry;

struct ag_replay {
    ag_ctx *ctx;
    ag_replay_options options;
    ag_replay_counts counts;
    uint64_t n_stale; /* of the context, when the graphs were recorded */
    int64_t now;      /* number of this run */
    char reason[256];
    entry *entries; /* [options.n_graphs] */
};

/* --- the arena ---------------------------------------------------------------------------------- */

static bool is_arena(int heap)
{
    return heap != AG_HEAP_MODEL;
}

static ag_status open_arena(ag_ctx *ctx)
{
    for (int h = 0; h < AG_N_HEAPS && ctx->n_replays == 0; h++) {
        ctx->arena[h] = is_arena(h) ? ag_heap_new(ctx) : NULL;
        if (is_arena(h) && !ctx->arena[h])
            ag_fail(ctx, AG_ENOMEM, "no address space for the memory of recorded steps");
    }
    ctx->n_replays++;
    return ctx->status;
}

static void close_arena(ag_ctx *ctx)
{
    size_t touched = 0;

    if (--ctx->n_replays > 0)
        return;
    for (int h = 0; h < AG_N_HEAPS; h++) {
        touched += ctx->arena[h] ? ag_heap_touched_peak(ctx->arena[h]) : 0;
        ag_heap_free(ctx->arena[h]);
        ctx->arena[h] = NULL;
    }
    ctx->arena_touched = touched > ctx->arena_touched ? touched : ctx->arena_touched;
}

/* From here on memory of steps is taken from the arena; the same again: from where it was. */
static void swap_heaps(ag_ctx *ctx)
{
    for (int h = 0; h < AG_N_HEAPS; h++)
        if (is_arena(h)) {
            ag_heap *heap = ctx->heap[h];
            ctx->heap[h] = ctx->arena[h];
            ctx->arena[h] = heap;
        }
    ctx->in_arena = !ctx->in_arena;
}

/* Leave the arena, in which nothing may be left. `before`: bytes of steps in use when it was entered. */
static void leave_arena(ag_ctx *ctx, size_t before)
{
    swap_heaps(ctx);
    if (ctx->now[AG_STEP] != before)
        ag_fail(ctx, AG_EINVAL, "a repeated step kept %zu bytes of what it made", ctx->now[AG_STEP] - before);
}

/* --- entries ------------------------------------------------------------------------------------ */

static void forget_graph(ag_replay *r, entry *e)
{
    if (!e->graph)
        return;
    r->ctx->cuda_api->graph_free(e->graph);
    r->ctx->n_graphs--;
    r->counts.dropped++;
    e->graph = NULL;
}

/* Let go of a tensor of ours, of which the other graphs know nothing. */
static void let_go(ag_tensor *t)
{
    if (t)
        t->storage->is_held = false;
    ag_release(t);
}

static void clear_entry(ag_replay *r, entry *e)
{
    forget_graph(r, e);
    for (int i = 0; i < AG_REPLAY_IN; i++)
        let_go(e->in[i]);
    for (int i = 0; i < AG_REPLAY_OUT; i++)
        let_go(e->out[i]);
    *e = (entry){0};
}

static void make_key(key *k, const ag_replay_work *work)
{
    memset(k, 0, sizeof *k);
    k->kind = work->kind;
    k->n_in = work->n_in;
    for (int i = 0; i < work->n_in; i++) {
        const ag_tensor *t = work->in[i];
        if (!t)
            continue;
        k->in[i].is_there = 1;
        k->in[i].dtype = t->dtype;
        k->in[i].n_dims = t->n_dims;
        memcpy(k->in[i].dims, t->dims, (size_t)t->n_dims * sizeof *t->dims);
    }
}

/* The entry of a work; a new one takes the place of the one that rested longest. NULL with the context failed. */
static entry *entry_of(ag_replay *r, const ag_replay_work *work)
{
    entry *oldest = NULL; /* or an empty place */
    key k;

    make_key(&k, work);
    for (int i = 0; i < r->options.n_graphs; i++) {
        entry *e = &r->entries[i];
        if (e->last && memcmp(&e->key, &k, sizeof k) == 0)
            return e;
        if (!oldest || e->last < oldest->last)
            oldest = e;
    }
    clear_entry(r, oldest);
    for (int i = 0; i < work->n_in; i++)
        if (work->in[i])
            oldest->in[i] = ag_empty(r->ctx, AG_MODEL, work->in[i]->dtype, work->in[i]->n_dims, work->in[i]->dims);
    if (r->ctx->status != AG_OK) {
        clear_entry(r, oldest);
        return NULL;
    }
    oldest->key = k;
    return oldest;
}

/* A graph that knows a tensor which is no more must not run again. */
static void forget_stale(ag_replay *r)
{
    if (r->n_stale == r->ctx->n_stale)
        return;
    for (int i = 0; i < r->options.n_graphs; i++)
        forget_graph(r, &r->entries[i]);
    r->n_stale = r->ctx->n_stale;
}

/* --- running ------------------------------------------------------------------------------------ */

static ag_status copy(ag_ctx *ctx, ag_tensor *to, const ag_tensor *from)
{
    if (ctx->status == AG_OK && ag_nbytes(from))
        return ctx->cuda_api->copy(ctx->cuda, ag_data(to), ag_data(from), ag_nbytes(from));
    return ctx->status;
}

static bool is_like(const ag_tensor *a, const ag_tensor *b)
{
    return a->dtype == b->dtype && a->n_dims == b->n_dims &&
           memcmp(a->dims, b->dims, (size_t)a->n_dims * sizeof *a->dims) == 0;
}

/* The results to where they stay. */
static void keep_outputs(ag_ctx *ctx, entry *e, ag_tensor *const *made, int n)
{
    e->n_out = n;
    for (int i = 0; i < n && ctx->status == AG_OK; i++) {
        if (!made[i]) {
            ag_fail(ctx, AG_EINVAL, "output %d of a repeated step is missing", i);
            return;
        }
        if (!e->out[i] && !ctx->is_recorded)
            e->out[i] = ag_empty(ctx, AG_MODEL, made[i]->dtype, made[i]->n_dims, made[i]->dims);
        if (ctx->status == AG_OK && (!e->out[i] || !is_like(e->out[i], made[i])))
            ag_fail(ctx, AG_ESHAPE, "output %d of a repeated step has another shape than before", i);
        else
            copy(ctx, e->out[i], made[i]);
    }
}

/* The function, in the arena, which must be empty afterwards. */
static void call(ag_replay *r, entry *e, const ag_replay_work *work)
{
    ag_ctx *ctx = r->ctx;
    const size_t before = ctx->now[AG_STEP];
    const ag_scope scope = ag_scope_open(ctx);
    ag_tensor *made[AG_REPLAY_OUT] = {NULL};

    swap_heaps(ctx);
    work->fn(ctx, work->user, e->in, made);
    if (ctx->status == AG_OK)
        keep_outputs(ctx, e, made, work->n_out);
    ag_scope_close(ctx, scope, NULL);
    leave_arena(ctx, before);
}

/* Record the function; false, and nothing has failed, where that cannot be. */
static bool record(ag_replay *r, entry *e, const ag_replay_work *work)
{
    ag_ctx *ctx = r->ctx;

    if (ctx->cuda_api->record(ctx->cuda) == AG_OK) {
        ctx->is_recorded = true;
        call(r, e, work);
        ctx->is_recorded = false;
        e->graph = ctx->cuda_api->recorded(ctx->cuda, ctx->status == AG_OK);
    }
    if (e->graph) {
        ctx->n_graphs++;
        r->counts.recorded++;
        return true;
    }
    snprintf(r->reason, sizeof r->reason, "%.*s", (int)sizeof r->reason - 1, ctx->message);
    ag_clear(ctx);
    e->given_up = true;
    r->counts.given_up++;
    return false;
}

static ag_status run_entry(ag_replay *r, entry *e, const ag_replay_work *work)
{
    ag_ctx *ctx = r->ctx;
    const bool is_first = e->last == 0;

    e->last = ++r->now;
    for (int i = 0; i < work->n_in; i++)
        if (work->in[i] && copy(ctx, e->in[i], work->in[i]) != AG_OK)
            return ctx->status;
    if (e->graph)
        r->counts.repeated++;
    if (!e->graph && (is_first || e->given_up || !record(r, e, work))) {
        r->counts.plain++;
        call(r, e, work);
        return ctx->status;
    }
    return ctx->cuda_api->launch(e->graph);
}

ag_status ag_replay_run(ag_replay *r, const ag_replay_work *work, ag_tensor **out)
{
    ag_ctx *ctx = r->ctx;
    entry *e;

    if (work->n_out)
        memset(out, 0, (size_t)work->n_out * sizeof *out);
    if (ag_bundle_run(ctx) != AG_OK)
        return ctx->status;
    if (!r->entries || ctx->observer) {
        r->counts.plain++;
        work->fn(ctx, work->user, work->in, out);
        return ctx->status;
    }
    forget_stale(r);
    e = entry_of(r, work);
    if (!e || run_entry(r, e, work) != AG_OK)
        return ctx->status;
    for (int i = 0; i < work->n_out; i++)
        out[i] = ag_pool_add(ctx, ag_retain(e->out[i]));
    return ctx->status;
}

ag_status ag_replay_beside(ag_replay *r, ag_status (*fn)(ag_ctx *ctx, void *user), void *user)
{
    ag_ctx *ctx = r->ctx;
    const size_t before = ctx->now[AG_STEP];
    ag_scope scope;

    if (!r->entries || ctx->status != AG_OK)
        return ctx->status == AG_OK ? fn(ctx, user) : ctx->status;
    scope = ag_scope_open(ctx);
    swap_heaps(ctx);
    fn(ctx, user);
    ag_scope_close(ctx, scope, NULL);
    leave_arena(ctx, before);
    return ctx->status;
}

/* --- making ------------------------------------------------------------------------------------- */

ag_status ag_replay_new(ag_replay **out, ag_ctx *ctx, const ag_replay_options *options)
{
    ag_replay *r = ag_new(ctx, 1, sizeof *r, "repeated steps");

    if (!r)
        return ag_status_of(ctx);
    r->ctx = ctx;
    if (options)
        r->options = *options;
    if (r->options.n_graphs <= 0)
        r->options.n_graphs = AG_REPLAY_GRAPHS;
    if (ctx->cuda && !r->options.off && !ctx->options.no_graphs)
        r->entries = ag_new(ctx, (size_t)r->options.n_graphs, sizeof *r->entries, "repeated steps");
    if (r->entries)
        open_arena(ctx);
    if (ctx->status != AG_OK) {
        ag_replay_free(r);
        return ag_status_of(ctx);
    }
    *out = r;
    return AG_OK;
}

void ag_replay_free(ag_replay *r)
{
    if (!r)
        return;
    for (int i = 0; r->entries && i < r->options.n_graphs; i++)
        clear_entry(r, &r->entries[i]);
    if (r->entries)
        close_arena(r->ctx);
    ag_delete(r->entries);
    ag_delete(r);
}

ag_replay_counts ag_replay_counted(const ag_replay *r)
{
    return r->counts;
}

const char *ag_replay_reason(const ag_replay *r)
{
    return r->reason;
}
