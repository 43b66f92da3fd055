/* work.c - see work.h. */
#include "train/work.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "autograd/grad.h"
#include "autograd/observe.h"
#include "autograd/ops.h"

enum { MAX_SAMPLES = 9 };

/* A tensor's type and shape. */
typedef struct form {
    bool is_there;
    ag_dtype dtype;
    int n_dims;
    int64_t dims[AG_MAX_DIMS];
} form;

/* One operation on one list of shapes. */
typedef struct item {
    const ag_op *op;
    unsigned char attr[AG_MAX_ATTR];
    form in[AG_MAX_IN];
    ag_cost cost; /* of one call */
    double count[TRAIN_WORK_PHASES];
    double rank;    /* how much it may cost the run */
    double seconds; /* of one call: the middle of the samples, or an estimate when there is none */
    double samples[MAX_SAMPLES]; /* sorted */
    int n_samples;
} item;

struct train_work {
    ag_ctx *ctx;
    ag_ctx *watched;
    int phase;
    bool is_refused; /* an item had no room */
    item *items;
    int64_t n, room;
    int64_t *table; /* hash table of item numbers, -1: free */
    int64_t table_size;
};

/* What a call would take on some processor of today, to order calls before any is measured. */
static double guess(const ag_cost *cost)
{
    const double flops_per_second = 5e10, bytes_per_second = 1e10, call = 2e-6;

    return call + cost->flops / flops_per_second + cost->bytes / bytes_per_second;
}

/* --- counting --------------------------------------------------------------------------------- */

ag_status train_work_new(train_work **out, ag_ctx *ctx)
{
    train_work *w = ag_new(ctx, 1, sizeof *w, "list of operations");

    if (!w)
        return ag_status_of(ctx);
    w->ctx = ctx;
    *out = w;
    return AG_OK;
}

void train_work_free(train_work *w)
{
    if (!w)
        return;
    free(w->items);
    free(w->table);
    ag_delete(w);
}

static uint64_t hash_bytes(uint64_t h, const void *bytes, size_t n)
{
    const unsigned char *b = bytes;

    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 1099511628211u; /* FNV-1a */
    return h;
}

static uint64_t hash_item(const item *it)
{
    uint64_t h = hash_bytes(14695981039346656037u, &it->op, sizeof it->op);

    h = hash_bytes(h, it->attr, it->op->attr_size);
    for (int i = 0; i < it->op->n_in; i++) {
        const int64_t head[] = {it->in[i].is_there, it->in[i].dtype, it->in[i].n_dims};

        h = hash_bytes(h, head, sizeof head);
        h = hash_bytes(h, it->in[i].dims, (size_t)it->in[i].n_dims * sizeof(int64_t));
    }
    return h;
}

static bool same_item(const item *a, const item *b)
{
    bool same = a->op == b->op && memcmp(a->attr, b->attr, a->op->attr_size) == 0;

    for (int i = 0; i < a->op->n_in && same; i++)
        same = a->in[i].is_there == b->in[i].is_there && a->in[i].dtype == b->in[i].dtype &&
               a->in[i].n_dims == b->in[i].n_dims &&
               memcmp(a->in[i].dims, b->in[i].dims, sizeof a->in[i].dims) == 0;
    return same;
}

/* Twice the room, and every number to its new place. */
static bool grow(train_work *w)
{
    const int64_t room = w->room ? 2 * w->room : 1024, size = 4 * room;
    item *items = realloc(w->items, (size_t)room * sizeof *items);
    int64_t *table = malloc((size_t)size * sizeof *table);

    if (items)
        w->items = items;
    if (!items || !table) {
        free(table);
        return false;
    }
    memset(table, 0xff, (size_t)size * sizeof *table);
    for (int64_t i = 0; i < w->n; i++) {
        uint64_t at = hash_item(&w->items[i]) % (uint64_t)size;

        while (table[at] >= 0)
            at = (at + 1) % (uint64_t)size;
        table[at] = i;
    }
    free(w->table);
    w->table = table;
    w->table_size = size;
    w->room = room;
    return true;
}

/* The item equal to `wanted`, made when it is new; NULL when memory is refused. */
static item *find(train_work *w, const item *wanted)
{
    uint64_t at;

    if (w->n == w->room && !grow(w))
        return NULL;
    at = hash_item(wanted) % (uint64_t)w->table_size;
    for (; w->table[at] >= 0; at = (at + 1) % (uint64_t)w->table_size)
        if (same_item(&w->items[w->table[at]], wanted))
            return &w->items[w->table[at]];
    w->table[at] = w->n;
    w->items[w->n] = *wanted;
    return &w->items[w->n++];
}

static void count(void *user, const ag_call *call, const ag_cost *cost, double seconds)
{
    train_work *w = user;
    item wanted, *it;

    (void)seconds;
    memset(&wanted, 0, sizeof wanted);
    wanted.op = call->op;
    wanted.cost = *cost;
    if (call->op->attr_size)
        memcpy(wanted.attr, call->attr, call->op->attr_size);
    for (int i = 0; i < call->op->n_in; i++) {
        const ag_tensor *t = call->in[i];

        if (!t)
            continue;
        wanted.in[i] = (form){.is_there = true, .dtype = ag_dtype_of(t), .n_dims = ag_ndim(t)};
        memcpy(wanted.in[i].dims, ag_dims(t), (size_t)ag_ndim(t) * sizeof(int64_t));
    }
    it = find(w, &wanted);
    if (it)
        it->count[w->phase] += 1.0;
    else
        w->is_refused = true;
}

void train_work_watch(train_work *w, ag_ctx *watched, int phase)
{
    w->phase = phase;
    ag_observe(watched, phase < 0 ? NULL : count, w);
}

/* --- kinds ------------------------------------------------------------------------------------ */

/* The kind of an operation, for tables and for those that were not measured. */
typedef enum kind { CONV_3X3, CONV_1X1, LINEAR, ATTENTION, NORM, OPTIMIZER, REST } kind;

static bool begins(const char *name, const char *with)
{
    return strncmp(name, with, strlen(with)) == 0;
}

static int kind_of(const item *it)
{
    static const char *const of_updates[] = {"adamw", "sgd_", "lion_", "ranger_", "prodigy_",
                                             "adafactor_", "sumsq_", "clip_", "loss_scale_", "fill_", "lerp_"};
    const char *name = it->op->name;

    if (begins(name, "conv2d_backward_weights")) { /* D, x -> dw: the kernel is no input */
        const double taps = it->cost.flops /
                            (2.0 * (double)it->in[0].dims[0] * (double)it->in[0].dims[1] *
                             (double)it->in[0].dims[2] * (double)it->in[0].dims[3] *
                             (double)it->in[1].dims[3]);
        return taps > 1.5 ? CONV_3X3 : CONV_1X1;
    }
    if (begins(name, "conv2d"))
        return it->in[1].dims[1] > 1 ? CONV_3X3 : CONV_1X1;
    if (begins(name, "linear") || begins(name, "matmul"))
        return LINEAR;
    if (begins(name, "attention"))
        return ATTENTION;
    if (strstr(name, "norm") && !begins(name, "normal"))
        return NORM;
    for (size_t i = 0; i < sizeof of_updates / sizeof *of_updates; i++)
        if (begins(name, of_updates[i]))
            return OPTIMIZER;
    return REST;
}

/* --- measuring -------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double total_count(const item *it)
{
    double n = 0.0;

    for (int p = 0; p < TRAIN_WORK_PHASES; p++)
        n += it->count[p];
    return n;
}

/* A tensor of that form. Its values do not matter, but its pages must be its own. */
static ag_tensor *make_input(ag_ctx *ctx, const form *f)
{
    ag_tensor *t;

    if (f->dtype == AG_I64 || f->dtype == AG_I32 || f->dtype == AG_U8 || f->dtype == AG_F64) {
        size_t bytes;
        void *zeros;

        t = ag_empty(ctx, AG_STEP, f->dtype, f->n_dims, f->dims);
        bytes = t ? ag_nbytes(t) : 0;
        zeros = ag_new(ctx, bytes, 1, "values");
        if (t && zeros)
            ag_write(ctx, t, zeros, bytes);
        ag_delete(zeros);
        return t;
    }
    t = ag_empty(ctx, AG_STEP, AG_F32, f->n_dims, f->dims);
    ag_fill_(ctx, t, 0.25);
    return f->dtype == AG_F32 ? t : ag_cast(ctx, t, f->dtype);
}

static void add_sample(item *it, double seconds)
{
    int at = it->n_samples++;

    for (; at > 0 && it->samples[at - 1] > seconds; at--)
        it->samples[at] = it->samples[at - 1];
    it->samples[at] = seconds;
    it->seconds = it->samples[it->n_samples / 2];
}

/* Leave the caches as a run does: what the operation before wrote is in them, weights are not. */
static void cool(ag_ctx *ctx, ag_tensor *first)
{
    const int64_t values = 2 << 20; /* 8 MB, more than a core's own cache */

    ag_fill_(ctx, ag_empty(ctx, AG_STEP, AG_F32, 1, &values), 0.5);
    if (first && ag_dtype_of(first) == AG_F32)
        ag_fill_(ctx, first, 0.25);
}

/* Run one call. The first time twice, when it is short: then its memory and plans are ready. */
enum { LONG_MS = 50 };

static ag_status measure(item *it, ag_ctx *ctx)
{
    const ag_scope scope = ag_scope_open(ctx);
    const bool was = ag_record(ctx, false);
    ag_tensor *in[AG_MAX_IN] = {NULL};
    double start = 0.0, end = 0.0;

    for (int i = 0; i < it->op->n_in && ag_status_of(ctx) == AG_OK; i++)
        if (it->in[i].is_there)
            in[i] = make_input(ctx, &it->in[i]);
    for (int k = it->n_samples > 0; k < 2 && ag_status_of(ctx) == AG_OK; k++) {
        if (end - start > 1e-3 * LONG_MS)
            break;
        const ag_scope round = ag_scope_open(ctx);
        ag_tensor *out[AG_MAX_OUT];

        cool(ctx, in[0]);
        ag_wait(ctx);
        start = now();
        ag_apply_all(ctx, it->op, in, it->attr, out);
        ag_wait(ctx);
        end = now();
        ag_scope_close(ctx, round, NULL);
    }
    if (ag_status_of(ctx) == AG_OK)
        add_sample(it, end - start);
    ag_record(ctx, was);
    ag_scope_close(ctx, scope, NULL);
    return ag_status_of(ctx);
}

static int by_rank(const void *a, const void *b)
{
    const double x = (*(item *const *)a)->rank, y = (*(item *const *)b)->rank;

    return (x < y) - (x > y);
}

/* Put down what was not measured at the speed of its kind, or of everything. */
static void fill_gaps(train_work *w)
{
    double seconds[REST + 2] = {0}, guessed[REST + 2] = {0};

    for (int64_t i = 0; i < w->n; i++) {
        const item *it = &w->items[i];
        const int k = kind_of(it);

        if (!it->n_samples)
            continue;
        seconds[k] += it->seconds;
        guessed[k] += guess(&it->cost);
        seconds[REST + 1] += it->seconds;
        guessed[REST + 1] += guess(&it->cost);
    }
    for (int64_t i = 0; i < w->n; i++) {
        item *it = &w->items[i];
        const int k = guessed[kind_of(it)] > 0.0 ? kind_of(it) : REST + 1;

        if (!it->n_samples)
            it->seconds = guessed[k] > 0.0 ? guess(&it->cost) * seconds[k] / guessed[k] : 0.0;
    }
}

/* The items, the costliest of each kind first, then the others; costly ones first. */
static item **put_in_order(train_work *w, const double *times)
{
    item **order = ag_new(w->ctx, (size_t)w->n, sizeof *order, "list of operations");
    bool met[REST + 1] = {false};
    int64_t n_firsts = 0;

    if (!order)
        return NULL;
    for (int64_t i = 0; i < w->n; i++) {
        order[i] = &w->items[i];
        order[i]->rank = 0.0;
        for (int p = 0; p < TRAIN_WORK_PHASES; p++)
            order[i]->rank += times[p] * order[i]->count[p] * guess(&order[i]->cost);
    }
    qsort(order, (size_t)w->n, sizeof *order, by_rank);
    for (int64_t i = 0; i < w->n; i++) {
        item *it = order[i];

        if (met[kind_of(it)])
            continue;
        met[kind_of(it)] = true;
        memmove(order + n_firsts + 1, order + n_firsts, (size_t)(i - n_firsts) * sizeof *order);
        order[n_firsts++] = it;
    }
    return order;
}

ag_status train_work_measure(train_work *w, ag_ctx *where, const double *times, double seconds)
{
    const double end = now() + seconds;
    item **order;

    if (w->is_refused)
        return ag_fail(w->ctx, AG_ENOMEM, "no memory for the list of operations");
    order = put_in_order(w, times);
    if (!order)
        return ag_status_of(w->ctx);
    /* again and again while there is time: single samples may meet other programs */
    for (int round = 0; round < MAX_SAMPLES && ag_status_of(where) == AG_OK; round++)
        for (int64_t i = 0; i < w->n && now() < end; i++)
            if (measure(order[i], where) != AG_OK) {
                if (ag_status_of(where) != AG_ENOMEM)
                    break;
                ag_clear(where); /* it would not fit in the run either; the forecast says so */
            }
    ag_delete(order);
    fill_gaps(w);
    return ag_status_of(where);
}

double train_work_seconds(const train_work *w, int phase)
{
    double seconds = 0.0;

    for (int64_t i = 0; i < w->n; i++)
        seconds += w->items[i].count[phase] * w->items[i].seconds;
    return seconds;
}

void train_work_kinds(const train_work *w, train_work_kind kinds[TRAIN_WORK_KINDS])
{
    static const char *const names[] = {[CONV_3X3] = "convolution 3x3",
                                        [CONV_1X1] = "convolution 1x1",
                                        [LINEAR] = "linear",
                                        [ATTENTION] = "attention",
                                        [NORM] = "norms",
                                        [OPTIMIZER] = "optimizer",
                                        [REST] = "elementwise and the rest"};

    for (int k = 0; k < TRAIN_WORK_KINDS; k++)
        kinds[k] = (train_work_kind){.name = names[k]};
    for (int64_t i = 0; i < w->n; i++) {
        const item *it = &w->items[i];
        train_work_kind *k = &kinds[kind_of(it)];
        const double n = total_count(it);

        k->calls += n;
        k->flops += n * it->cost.flops;
        k->bytes += n * it->cost.bytes;
        k->seconds += n * it->seconds;
        k->measured += it->n_samples ? n * it->seconds : 0.0;
    }
    for (int k = 0; k < TRAIN_WORK_KINDS; k++)
        kinds[k].measured = kinds[k].seconds > 0.0 ? kinds[k].measured / kinds[k].seconds : 0.0;
}
