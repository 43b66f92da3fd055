/* buckets.c - see buckets.h. */
#include "data/buckets.h"

#include <stdlib.h>

static int compare_boxes(const void *a, const void *b)
{
    const data_size *x = a, *y = b;

    return x->w != y->w ? (x->w > y->w) - (x->w < y->w) : (x->h > y->h) - (x->h < y->h);
}

static void add(data_buckets *b, int64_t w, int64_t h)
{
    for (int64_t i = 0; i < b->n; i++)
        if (b->boxes[i].w == w && b->boxes[i].h == h)
            return;
    b->boxes[b->n++] = (data_size){w, h};
}

ag_status data_buckets_make(data_buckets *out, ag_ctx *ctx, int64_t R, int64_t step, int64_t least, int64_t most)
{
    data_buckets made = {0};
    int64_t square;

    if (step < 1 || R < step || R > DATA_IMAGE_MAX_SIDE)
        return ag_fail(ctx, AG_EINVAL, "buckets of resolution %lld in steps of %lld: wanted a step of 1 to %lld",
                       (long long)R, (long long)step, (long long)R);
    least = (least ? least : R / 2) + step - 1;
    least -= least % step;
    most = most ? most : 2 * R;
    most = (most < DATA_IMAGE_MAX_SIDE ? most : DATA_IMAGE_MAX_SIDE) / step * step;
    square = R / step * step;
    if (least < step || least > square || most < square)
        return ag_fail(ctx, AG_EINVAL,
                       "buckets with sides of %lld to %lld in steps of %lld: the square of %lld is not one",
                       (long long)least, (long long)most, (long long)step, (long long)square);
    made.boxes = ag_new(ctx, (size_t)(2 * (most / step) + 1), sizeof *made.boxes, "buckets");
    if (!made.boxes)
        return AG_ENOMEM;
    add(&made, square, square);
    for (int64_t side = least; side <= most; side += step) {
        int64_t other = R * R / side / step * step;
        other = other < most ? other : most;
        if (other < least)
            break;
        add(&made, side, other);
        add(&made, other, side);
    }
    qsort(made.boxes, (size_t)made.n, sizeof *made.boxes, compare_boxes);
    *out = made;
    return AG_OK;
}

void data_buckets_close(data_buckets *buckets)
{
    if (!buckets)
        return;
    ag_delete(buckets->boxes);
    *buckets = (data_buckets){0};
}

/* The larger of the two aspect ratios over the smaller, as a fraction; whole numbers, so that equal
 * ones are equal. */
typedef struct ratio {
    int64_t over, under;
} ratio;

static ratio change_of(data_size p, data_size box)
{
    const int64_t a = p.w * box.h, b = p.h * box.w;

    return a > b ? (ratio){a, b} : (ratio){b, a};
}

/* Sides are 14 bits, so products of two sides are 28 and these fit. */
static bool is_less(ratio a, ratio b)
{
    return a.over * b.under < b.over * a.under;
}

static bool is_better(data_size a, data_size b, data_size p)
{
    const ratio x = change_of(p, a), y = change_of(p, b);

    if (is_less(x, y) || is_less(y, x))
        return is_less(x, y);
    return a.w * a.h != b.w * b.h ? a.w * a.h > b.w * b.h : a.w > b.w;
}

int64_t data_buckets_find(const data_buckets *buckets, data_size picture)
{
    int64_t best = 0;

    for (int64_t i = 1; i < buckets->n; i++)
        if (is_better(buckets->boxes[i], buckets->boxes[best], picture))
            best = i;
    return best;
}
