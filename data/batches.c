/* batches.c - see batches.h. */
#include "data/batches.h"

#include <stdlib.h>
#include <string.h>

#include "autograd/random.h"

enum { MAX_KEY = 32767 }; /* of buckets and groups */
#define MAX_PICKS ((int64_t)1 << 28)

/* The pictures of one bucket and one group, each as often as it is repeated. */
typedef struct cell {
    int64_t bucket, group;
    int64_t first, n; /* in units */
    int64_t whole;    /* times all of it stands in an epoch */
    int64_t n_extra;  /* and how many of it once more */
} cell;

typedef struct cut {
    int64_t first, n; /* in picks */
} cut;

struct data_batches {
    uint64_t seed;
    int64_t batch;
    bool shuffle, has_buckets;
    int64_t n, n_units, n_cells, n_buckets, n_picks, n_cuts;
    int64_t *units;   /* [n_units]: the item of each repetition, cell by cell */
    cell *cells;      /* [n_cells], by bucket, then by group */
    int64_t *cell_of; /* [n] */
    int64_t *times;   /* [n]: in every epoch; extras come on top */
    cut *cuts;        /* [n_cuts], bucket by bucket: the same in every epoch */
    /* of epoch `epoch` */
    int64_t epoch;
    data_pick *listed, *picks; /* [n_picks]: in the order of the items; in that of the epoch */
    int64_t *cut_order;        /* [n_cuts] */
    /* while it is made */
    int64_t *order;  /* [n_picks] */
    int64_t *copies; /* [n] */
    int64_t *turn;   /* [n_units] */
    int64_t *places; /* [n_buckets] */
};

/* --- orders ----------------------------------------------------------------------------------- */

/* What an AG_DRAW_ORDER of an epoch or pass is for, as its sample. */
enum { ORDER_OF_PICTURES, ORDER_OF_BATCHES, ORDER_OF_CELLS };

static void permute(int64_t *order, uint64_t seed, int64_t step, int64_t sample, int64_t n, bool shuffle)
{
    const ag_draw draw = {
        .seed = seed, .purpose = AG_DRAW_ORDER, .step = (uint32_t)step, .sample = (uint32_t)sample};

    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = n - 1; shuffle && i > 0; i--) {
        const int64_t j = ag_draw_integer(&draw, (uint64_t)i, i + 1);
        const int64_t kept = order[i];

        order[i] = order[j];
        order[j] = kept;
    }
}

void data_order(int64_t *order, uint64_t seed, uint32_t epoch, int64_t n, bool shuffle)
{
    permute(order, seed, epoch, ORDER_OF_PICTURES, n, shuffle);
}

/* --- what every epoch holds ------------------------------------------------------------------- */

/* What an array of the options says of item i; `none` where there is no array. */
static int64_t said(const int64_t *array, int64_t i, int64_t none)
{
    return array ? array[i] : none;
}

static ag_status check(ag_ctx *ctx, int64_t n, const data_batches_options *o, int64_t *n_units)
{
    *n_units = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t repeats = said(o->repeats, i, 1), bucket = said(o->buckets, i, 0), group = said(o->groups, i, 0);

        if (repeats < 1 || bucket < 0 || bucket > MAX_KEY || group < 0 || group > MAX_KEY)
            return ag_fail(ctx, AG_EINVAL, "picture %lld of an epoch: repeated %lld times, bucket %lld, group %lld",
                           (long long)i, (long long)repeats, (long long)bucket, (long long)group);
        if (repeats > MAX_PICKS - *n_units)
            return ag_fail(ctx, AG_EINVAL, "an epoch of more than %lld pictures", (long long)MAX_PICKS);
        *n_units += repeats;
    }
    if (n < 1 || o->batch < 1)
        return ag_fail(ctx, AG_EINVAL, "batches of %lld out of %lld pictures", (long long)o->batch, (long long)n);
    return AG_OK;
}

typedef struct keyed {
    int64_t bucket, group, item;
} keyed;

static int compare_keyed(const void *a, const void *b)
{
    const keyed *x = a, *y = b;
    const int64_t d = x->bucket != y->bucket  ? x->bucket - y->bucket
                      : x->group != y->group ? x->group - y->group
                                             : x->item - y->item;

    return (d > 0) - (d < 0);
}

static void add_to_cells(data_batches *b, const keyed *k, int64_t repeats)
{
    cell *last = b->n_cells ? &b->cells[b->n_cells - 1] : NULL;

    if (!last || last->bucket != k->bucket || last->group != k->group) {
        last = &b->cells[b->n_cells++];
        *last = (cell){.bucket = k->bucket, .group = k->group, .first = b->n_units, .whole = 1};
    }
    b->cell_of[k->item] = b->n_cells - 1;
    for (int64_t r = 0; r < repeats; r++)
        b->units[b->n_units++] = k->item;
    last->n += repeats;
}

static ag_status make_cells(data_batches *b, ag_ctx *ctx, const data_batches_options *o, int64_t n_units)
{
    keyed *items = ag_new(ctx, (size_t)b->n, sizeof *items, "order of the pictures");

    b->units = ag_new(ctx, (size_t)n_units, sizeof *b->units, "order of the pictures");
    b->turn = ag_new(ctx, (size_t)n_units, sizeof *b->turn, "order of the pictures");
    b->cells = ag_new(ctx, (size_t)b->n, sizeof *b->cells, "order of the pictures");
    b->cell_of = ag_new(ctx, (size_t)b->n, sizeof *b->cell_of, "order of the pictures");
    if (ag_status_of(ctx) == AG_OK) {
        for (int64_t i = 0; i < b->n; i++)
            items[i] = (keyed){said(o->buckets, i, 0), said(o->groups, i, 0), i};
        qsort(items, (size_t)b->n, sizeof *items, compare_keyed);
        for (int64_t i = 0; i < b->n; i++)
            add_to_cells(b, &items[i], said(o->repeats, items[i].item, 1));
    }
    ag_delete(items);
    return ag_status_of(ctx);
}

/* Share `extra` pictures among the cells of a group of n_group in proportion to their size: the whole
 * parts, then one each to the largest remainders, of equals to the first. */
static void share_out(data_batches *b, int64_t group, int64_t n_group, int64_t extra)
{
    int64_t left = extra;

    for (int64_t i = 0; i < b->n_cells; i++)
        if (b->cells[i].group == group) {
            b->cells[i].n_extra = extra * b->cells[i].n / n_group;
            left -= b->cells[i].n_extra;
        }
    for (; left > 0; left--) {
        int64_t most = -n_group - 1;
        cell *best = NULL;
        for (int64_t i = 0; i < b->n_cells; i++) {
            cell *c = &b->cells[i];
            const int64_t remainder = extra * c->n - c->n_extra * n_group;
            if (c->group == group && remainder > most) {
                best = c;
                most = remainder;
            }
        }
        best->n_extra++;
    }
}

/* How often each cell stands in an epoch, so that its group is as frequent as the largest. */
static ag_status balance(data_batches *b, ag_ctx *ctx)
{
    int64_t *sizes = ag_new(ctx, MAX_KEY + 1, sizeof *sizes, "groups of pictures"), most = 0;

    for (int64_t i = 0; sizes && i < b->n_cells; i++) {
        int64_t *size = &sizes[b->cells[i].group];
        *size += b->cells[i].n;
        most = *size > most ? *size : most;
    }
    for (int64_t i = 0; sizes && i < b->n_cells; i++)
        b->cells[i].whole = most / sizes[b->cells[i].group];
    for (int64_t g = 0; sizes && g <= MAX_KEY; g++)
        if (sizes[g] > 0)
            share_out(b, g, sizes[g], most % sizes[g]);
    ag_delete(sizes);
    return ag_status_of(ctx);
}

static int64_t picks_of(const cell *c)
{
    return c->whole * c->n + c->n_extra;
}

/* Count what an epoch holds and take its memory. */
static ag_status make_room(data_batches *b, ag_ctx *ctx)
{
    int64_t in_bucket = 0;

    for (int64_t i = 0; i < b->n_cells; i++) {
        b->n_picks += picks_of(&b->cells[i]);
        in_bucket += picks_of(&b->cells[i]);
        if (b->n_picks > MAX_PICKS)
            return ag_fail(ctx, AG_EINVAL, "an epoch of more than %lld pictures", (long long)MAX_PICKS);
        if (i + 1 == b->n_cells || b->cells[i + 1].bucket != b->cells[i].bucket) {
            b->n_cuts += (in_bucket + b->batch - 1) / b->batch;
            in_bucket = 0;
        }
    }
    b->n_buckets = 1 + b->cells[b->n_cells - 1].bucket;
    b->times = ag_new(ctx, (size_t)b->n, sizeof *b->times, "order of the pictures");
    b->copies = ag_new(ctx, (size_t)b->n, sizeof *b->copies, "order of the pictures");
    b->places = ag_new(ctx, (size_t)b->n_buckets, sizeof *b->places, "order of the pictures");
    b->order = ag_new(ctx, (size_t)b->n_picks, sizeof *b->order, "order of the pictures");
    b->listed = ag_new(ctx, (size_t)b->n_picks, sizeof *b->listed, "order of the pictures");
    b->picks = ag_new(ctx, (size_t)b->n_picks, sizeof *b->picks, "order of the pictures");
    b->cuts = ag_new(ctx, (size_t)b->n_cuts, sizeof *b->cuts, "order of the pictures");
    b->cut_order = ag_new(ctx, (size_t)b->n_cuts, sizeof *b->cut_order, "order of the pictures");
    return ag_status_of(ctx);
}

/* Cut the picks of each bucket into batches. */
static void make_cuts(data_batches *b)
{
    int64_t first = 0, end = 0, n = 0;

    for (int64_t i = 0; i < b->n_cells; i++) {
        end += picks_of(&b->cells[i]);
        if (i + 1 < b->n_cells && b->cells[i + 1].bucket == b->cells[i].bucket)
            continue;
        for (; first < end; first += b->cuts[n++].n)
            b->cuts[n] = (cut){first, end - first < b->batch ? end - first : b->batch};
    }
}

ag_status data_batches_new(data_batches **out, ag_ctx *ctx, int64_t n, const data_batches_options *o)
{
    data_batches *b;
    int64_t n_units;

    if (check(ctx, n, o, &n_units) != AG_OK)
        return ag_status_of(ctx);
    b = ag_new(ctx, 1, sizeof *b, "order of the pictures");
    if (!b)
        return AG_ENOMEM;
    *b = (data_batches){.seed = o->seed,
                        .batch = o->batch,
                        .shuffle = o->shuffle,
                        .has_buckets = o->buckets != NULL,
                        .n = n,
                        .epoch = -1};
    if (make_cells(b, ctx, o, n_units) != AG_OK || (o->groups && balance(b, ctx) != AG_OK) ||
        make_room(b, ctx) != AG_OK) {
        data_batches_free(b);
        return ag_status_of(ctx);
    }
    for (int64_t i = 0; i < n; i++)
        b->times[i] = said(o->repeats, i, 1) * b->cells[b->cell_of[i]].whole;
    make_cuts(b);
    *out = b;
    return AG_OK;
}

void data_batches_free(data_batches *b)
{
    if (!b)
        return;
    ag_delete(b->units);
    ag_delete(b->turn);
    ag_delete(b->cells);
    ag_delete(b->cell_of);
    ag_delete(b->times);
    ag_delete(b->copies);
    ag_delete(b->places);
    ag_delete(b->order);
    ag_delete(b->listed);
    ag_delete(b->picks);
    ag_delete(b->cuts);
    ag_delete(b->cut_order);
    ag_delete(b);
}

/* --- one epoch -------------------------------------------------------------------------------- */

static void list_pick(data_batches *b, int64_t *at, int64_t item)
{
    b->listed[(*at)++] = (data_pick){item, b->copies[item]++};
}

/* The extras of a cell: its units in a new order in each pass, as many of them an epoch as it takes. */
static void list_extras(data_batches *b, int64_t *at, int64_t which, int64_t epoch)
{
    const cell *c = &b->cells[which];
    int64_t pass = -1;

    for (int64_t k = 0; k < c->n_extra; k++) {
        const int64_t place = epoch * c->n_extra + k;
        if (place / c->n != pass) {
            pass = place / c->n;
            permute(b->turn, b->seed, pass, ORDER_OF_CELLS + which, c->n, b->shuffle);
        }
        list_pick(b, at, b->units[c->first + b->turn[place % c->n]]);
    }
}

static void make_epoch(data_batches *b, int64_t epoch)
{
    int64_t at = 0;

    memset(b->copies, 0, (size_t)b->n * sizeof *b->copies);
    for (int64_t i = 0; i < b->n; i++)
        for (int64_t r = 0; r < b->times[i]; r++)
            list_pick(b, &at, i);
    for (int64_t i = 0; i < b->n_cells; i++)
        list_extras(b, &at, i, epoch);

    at = 0;
    for (int64_t i = 0; i < b->n_cells; i++) {
        if (i == 0 || b->cells[i].bucket != b->cells[i - 1].bucket)
            b->places[b->cells[i].bucket] = at;
        at += picks_of(&b->cells[i]);
    }
    permute(b->order, b->seed, epoch, ORDER_OF_PICTURES, b->n_picks, b->shuffle);
    for (int64_t i = 0; i < b->n_picks; i++) {
        const data_pick pick = b->listed[b->order[i]];
        b->picks[b->places[b->cells[b->cell_of[pick.item]].bucket]++] = pick;
    }
    permute(b->cut_order, b->seed, epoch, ORDER_OF_BATCHES, b->n_cuts, b->shuffle && b->has_buckets);
    b->epoch = epoch;
}

int64_t data_batches_count(const data_batches *b)
{
    return b->n_cuts;
}

int64_t data_batches_picks(const data_batches *b)
{
    return b->n_picks;
}

const data_pick *data_batches_at(data_batches *b, int64_t epoch, int64_t k, int64_t *n)
{
    const cut *c;

    if (epoch != b->epoch)
        make_epoch(b, epoch);
    c = &b->cuts[b->cut_order[k]];
    *n = c->n;
    return b->picks + c->first;
}
