/* test_batches.c - what an epoch shows and in which batches, and the shapes of its pictures: against the rules
 * written out by brute force.
 */
#include "tests/check.h"

#include "autograd/random.h"
#include "data/batches.h"
#include "data/buckets.h"

/* --- the order of an epoch --------------------------------------------------------------------- */

static void test_order(void **state)
{
    int64_t order[101], again[101];
    int64_t moved = 0;

    (void)state;
    data_order(order, 42, 3, 101, false);
    for (int i = 0; i < 101; i++)
        assert_int_equal(order[i], i);
    for (int64_t n = 0; n <= 101; n++) {
        bool seen[101] = {false};

        data_order(order, 42, 3, n, true);
        for (int64_t i = 0; i < n; i++) {
            assert_true(order[i] >= 0 && order[i] < n && !seen[order[i]]);
            seen[order[i]] = true;
        }
    }
    data_order(again, 42, 3, 101, true);
    assert_memory_equal(order, again, sizeof order);
    data_order(again, 42, 4, 101, true); /* another epoch, another order */
    for (int i = 0; i < 101; i++)
        moved += order[i] != again[i];
    assert_true(moved > 90);
    data_order(again, 43, 3, 101, true);
    assert_memory_not_equal(order, again, sizeof order);
}

/* --- batches ----------------------------------------------------------------------------------- */

enum { MAX_N = 60, MAX_PICKS = 20000 };

/* A set: what its pictures say. */
typedef struct a_set {
    int64_t n, repeats[MAX_N], buckets[MAX_N], groups[MAX_N];
    data_batches_options options;
} a_set;

static a_set make_set(int64_t n, int64_t batch, bool repeats, int64_t n_buckets, int64_t n_groups, uint32_t seed)
{
    const ag_draw draw = {.seed = seed, .purpose = AG_DRAW_TEST};
    a_set s = {.n = n, .options = {.seed = seed, .batch = batch, .shuffle = true}};

    for (int64_t i = 0; i < n; i++) {
        const uint64_t e = (uint64_t)i * 4;
        s.repeats[i] = 1 + (repeats ? ag_draw_integer(&draw, e, 4) : 0);
        s.buckets[i] = n_buckets ? 3 * ag_draw_integer(&draw, e + 1, n_buckets) : 0;
        s.groups[i] = n_groups ? ag_draw_integer(&draw, e + 2, n_groups) * ag_draw_integer(&draw, e + 3, 3) : 0;
    }
    return s;
}

static data_batches *batches_of(ag_ctx *ctx, a_set *s, bool repeats, bool buckets, bool groups)
{
    data_batches *b = NULL;

    s->options.repeats = repeats ? s->repeats : NULL;
    s->options.buckets = buckets ? s->buckets : NULL;
    s->options.groups = groups ? s->groups : NULL;
    data_batches_new(&b, ctx, s->n, &s->options);
    check_ok(ctx, "batches");
    return b;
}

/* Read an epoch into picks; the number of them. Checks what holds of any epoch. */
static int64_t read_epoch(data_batches *b, const a_set *s, int64_t epoch, data_pick *picks)
{
    bool seen[MAX_N][256] = {{false}};
    int64_t n_picks = 0;

    for (int64_t k = 0; k < data_batches_count(b); k++) {
        int64_t n;
        const data_pick *at = data_batches_at(b, epoch, k, &n);
        assert_true(n >= 1 && n <= s->options.batch);
        for (int64_t i = 0; i < n; i++) {
            assert_true(at[i].item >= 0 && at[i].item < s->n && at[i].copy >= 0 && at[i].copy < 256);
            assert_false(seen[at[i].item][at[i].copy]);
            seen[at[i].item][at[i].copy] = true;
            if (s->options.buckets)
                assert_int_equal(s->buckets[at[i].item], s->buckets[at[0].item]); /* one bucket a batch */
            picks[n_picks++] = at[i];
        }
    }
    for (int64_t i = 0; i < s->n; i++) /* copies are counted without gaps */
        for (int c = 1; c < 256; c++)
            assert_true(!seen[i][c] || seen[i][c - 1]);
    assert_int_equal(n_picks, data_batches_picks(b));
    return n_picks;
}

static void count_items(int64_t counts[MAX_N], const data_pick *picks, int64_t n)
{
    memset(counts, 0, MAX_N * sizeof *counts);
    for (int64_t i = 0; i < n; i++)
        counts[picks[i].item]++;
}

/* Batches an epoch must have: in each bucket, its pictures by the batch, rounded up. */
static int64_t want_batches(const a_set *s, const int64_t counts[MAX_N])
{
    int64_t in_bucket[64] = {0}, n = 0;

    for (int64_t i = 0; i < s->n; i++)
        in_bucket[s->options.buckets ? s->buckets[i] : 0] += counts[i];
    for (int k = 0; k < 64; k++)
        n += (in_bucket[k] + s->options.batch - 1) / s->options.batch;
    return n;
}

/* How often each item must stand in an epoch at least, and what its group lacks then. */
static void want_counts(const a_set *s, int64_t least[MAX_N], int64_t lacks[MAX_N])
{
    int64_t sizes[64] = {0}, most = 0;

    for (int64_t i = 0; i < s->n; i++)
        sizes[s->groups[i]] += s->options.repeats ? s->repeats[i] : 1;
    for (int g = 0; g < 64; g++)
        most = sizes[g] > most ? sizes[g] : most;
    for (int64_t i = 0; i < s->n; i++) {
        const int64_t repeats = s->options.repeats ? s->repeats[i] : 1;
        least[i] = s->options.groups ? repeats * (most / sizes[s->groups[i]]) : repeats;
        lacks[i] = s->options.groups ? most % sizes[s->groups[i]] : 0;
    }
}

static void check_epochs(ag_ctx *ctx, a_set *s, bool repeats, bool buckets, bool groups)
{
    data_batches *b = batches_of(ctx, s, repeats, buckets, groups), *again;
    data_pick *picks = calloc(MAX_PICKS, sizeof *picks), *other = calloc(MAX_PICKS, sizeof *other);
    int64_t counts[MAX_N], least[MAX_N], lacks[MAX_N];

    assert_true(picks && other);
    want_counts(s, least, lacks);
    for (int64_t epoch = 0; epoch < 5; epoch++) {
        const int64_t n = read_epoch(b, s, epoch, picks);
        int64_t in_group[64] = {0}, any = 0;
        count_items(counts, picks, n);
        assert_int_equal(data_batches_count(b), want_batches(s, counts));
        for (int64_t i = 0; i < s->n; i++) {
            assert_true(counts[i] >= least[i] && counts[i] <= least[i] + lacks[i]);
            in_group[s->groups[i]] += counts[i];
            any = s->groups[i];
        }
        for (int64_t i = 0; groups && i < s->n; i++) /* all groups alike */
            assert_int_equal(in_group[s->groups[i]], in_group[any]);
    }
    /* a function of the epoch alone: asked for in another order by another, the same comes */
    again = batches_of(ctx, s, repeats, buckets, groups);
    for (int64_t epoch = 7; epoch >= 0; epoch -= 2) {
        const int64_t n = read_epoch(again, s, epoch, picks);
        assert_int_equal(read_epoch(b, s, epoch, other), n);
        assert_memory_equal(picks, other, (size_t)n * sizeof *picks);
    }
    data_batches_free(b);
    data_batches_free(again);
    free(picks);
    free(other);
}

static void test_epochs(void **state)
{
    static const int64_t sizes[] = {1, 2, 3, 7, 20, MAX_N};
    ag_ctx *ctx = check_ctx();

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int64_t batch = 1; batch <= 5; batch++)
            for (int what = 0; what < 8; what++) {
                a_set s = make_set(sizes[i], batch, what & 1, what & 2 ? 4 : 0, what & 4 ? 5 : 0, 10 + (uint32_t)i);
                check_epochs(ctx, &s, what & 1, what & 2, what & 4);
            }
    ag_ctx_free(ctx);
}

/* Without anything, data_order() in slices; and with one bucket only the batches move. */
static void test_plain(void **state)
{
    ag_ctx *ctx = check_ctx();
    a_set s = make_set(23, 4, false, 0, 0, 5);
    data_batches *b = batches_of(ctx, &s, false, false, false);
    int64_t order[23];

    (void)state;
    assert_int_equal(data_batches_count(b), 6);
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        data_order(order, 5, (uint32_t)epoch, 23, true);
        for (int64_t k = 0; k < 6; k++) {
            int64_t n;
            const data_pick *at = data_batches_at(b, epoch, k, &n);
            assert_int_equal(n, k < 5 ? 4 : 3);
            for (int64_t i = 0; i < n; i++)
                assert_true(at[i].item == order[4 * k + i] && at[i].copy == 0);
        }
    }
    data_batches_free(b);
    ag_ctx_free(ctx);
}

/* Without shuffle: names in order, repetitions one after the other. */
static void test_unshuffled(void **state)
{
    static const int64_t want[] = {0, 0, 1, 2, 2, 2};
    ag_ctx *ctx = check_ctx();
    a_set s = {.n = 3, .repeats = {2, 1, 3}, .options = {.batch = 2}};
    data_batches *b = batches_of(ctx, &s, true, false, false);

    (void)state;
    for (int64_t k = 0; k < 3; k++) {
        int64_t n;
        const data_pick *at = data_batches_at(b, 9, k, &n);
        assert_int_equal(n, 2);
        assert_true(at[0].item == want[2 * k] && at[1].item == want[2 * k + 1]);
    }
    data_batches_free(b);
    ag_ctx_free(ctx);
}

/* Over epochs, the extras of a group go round: after enough of them no picture is ahead by two. */
static void test_extras_go_round(void **state)
{
    ag_ctx *ctx = check_ctx();
    a_set s = {.n = 12,
               .groups = {0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2},
               .options = {.seed = 3, .batch = 3, .shuffle = true}};
    data_batches *b = batches_of(ctx, &s, false, false, true);
    data_pick picks[64];
    int64_t sums[MAX_N] = {0}, counts[MAX_N];

    (void)state;
    assert_int_equal(data_batches_picks(b), 21); /* 7, 4 + 3 more, 1 seven times */
    for (int64_t epoch = 0; epoch < 10; epoch++) {
        count_items(counts, picks, read_epoch(b, &s, epoch, picks));
        for (int64_t i = 0; i < 12; i++)
            sums[i] += counts[i];
        for (int64_t i = 7; i < 11; i++)
            for (int64_t j = 7; j < i; j++)
                assert_true(llabs(sums[i] - sums[j]) <= 1);
    }
    assert_true(sums[0] == 10 && sums[11] == 70);
    data_batches_free(b);
    ag_ctx_free(ctx);
}

/* An epoch is made without memory; each refusal while setting up is an error that leaves nothing. */
static void test_memory(void **state)
{
    ag_ctx *ctx = check_ctx();
    a_set s = make_set(40, 3, true, 3, 4, 8);
    data_batches *b = batches_of(ctx, &s, true, true, true), *other = NULL;
    int64_t n, n_refused = 0;

    (void)state;
    ag_refuse_allocation(ctx, 0, false);
    for (int64_t epoch = 0; epoch < 4; epoch++)
        assert_non_null(data_batches_at(b, epoch, 0, &n));
    ag_refuse_allocation(ctx, -1, false);
    check_ok(ctx, "epochs");
    for (;; n_refused++) {
        ag_refuse_allocation(ctx, n_refused, false);
        data_batches_new(&other, ctx, s.n, &s.options);
        ag_refuse_allocation(ctx, -1, false);
        if (other)
            break;
        check_failed(ctx, AG_ENOMEM, "batches");
    }
    assert_true(n_refused > 10);
    data_batches_free(other);
    data_batches_free(b);
    ag_ctx_free(ctx);
}

static void test_refusals(void **state)
{
    ag_ctx *ctx = check_ctx();
    data_batches *b = NULL;
    const int64_t zero[] = {1, 0}, many[] = {1 << 28, 1}, large[] = {0, 40000};

    (void)state;
    data_batches_new(&b, ctx, 0, &(data_batches_options){.batch = 1});
    check_failed(ctx, AG_EINVAL, "no pictures");
    data_batches_new(&b, ctx, 2, &(data_batches_options){.batch = 0});
    check_failed(ctx, AG_EINVAL, "no batch");
    data_batches_new(&b, ctx, 2, &(data_batches_options){.batch = 1, .repeats = zero});
    check_failed(ctx, AG_EINVAL, "no repeat");
    data_batches_new(&b, ctx, 2, &(data_batches_options){.batch = 1, .repeats = many});
    check_failed(ctx, AG_EINVAL, "many repeats");
    data_batches_new(&b, ctx, 2, &(data_batches_options){.batch = 1, .buckets = large});
    check_failed(ctx, AG_EINVAL, "a large bucket");
    data_batches_new(&b, ctx, 2, &(data_batches_options){.batch = 1, .groups = large});
    check_failed(ctx, AG_EINVAL, "a large group");
    assert_null(b);
    ag_ctx_free(ctx);
}

/* --- buckets ----------------------------------------------------------------------------------- */

/* Is this box in the list, by the words of buckets.h? */
static bool belongs(int64_t w, int64_t h, int64_t R, int64_t step, int64_t least, int64_t most)
{
    const bool fits = w % step == 0 && h % step == 0 && w >= least && h >= least && w <= most && h <= most &&
                      w * h <= R * R;
    const bool wider = w + step <= most && (w + step) * h <= R * R;
    const bool taller = h + step <= most && w * (h + step) <= R * R;

    return (fits && (!wider || !taller)) || (w == h && w == R / step * step);
}

static void check_buckets(ag_ctx *ctx, int64_t R, int64_t step, int64_t least, int64_t most)
{
    data_buckets b = {0};
    int64_t n = 0;
    const int64_t from = least ? least : R / 2, to = most ? most : 2 * R;

    data_buckets_make(&b, ctx, R, step, least, most);
    check_ok(ctx, "buckets");
    for (int64_t w = step; w <= to; w += step)
        for (int64_t h = step; h <= to; h += step) {
            bool found = false;
            for (int64_t i = 0; i < b.n; i++)
                found |= b.boxes[i].w == w && b.boxes[i].h == h;
            if (found != belongs(w, h, R, step, from, to))
                fail_msg("R %d step %d %d..%d: %d x %d is %sthere", (int)R, (int)step, (int)from, (int)to, (int)w,
                         (int)h, found ? "" : "not ");
            n += found;
        }
    assert_int_equal(n, b.n);
    data_buckets_close(&b);
}

static void test_boxes(void **state)
{
    ag_ctx *ctx = check_ctx();
    data_buckets b = {0};

    (void)state;
    check_buckets(ctx, 512, 64, 0, 0);
    check_buckets(ctx, 512, 64, 256, 1024);
    check_buckets(ctx, 768, 64, 320, 1280);
    check_buckets(ctx, 500, 64, 256, 900);
    check_buckets(ctx, 512, 8, 256, 1024);
    check_buckets(ctx, 16, 4, 0, 0);
    check_buckets(ctx, 64, 64, 0, 0);
    check_buckets(ctx, 512, 64, 512, 512);

    /* kohya's for 512: 17 of them, 256 x 1024 to 1024 x 256 */
    data_buckets_make(&b, ctx, 512, 64, 256, 1024);
    assert_int_equal(b.n, 17);
    assert_true(b.boxes[0].w == 256 && b.boxes[3].h == 1024 && b.boxes[16].w == 1024 && b.boxes[16].h == 256);
    data_buckets_close(&b);
    data_buckets_make(&b, ctx, 512, 1024, 0, 0);
    check_failed(ctx, AG_EINVAL, "a step above the resolution");
    data_buckets_make(&b, ctx, 512, 64, 600, 1024);
    check_failed(ctx, AG_EINVAL, "sides above the square");
    data_buckets_make(&b, ctx, 512, 64, 256, 500);
    check_failed(ctx, AG_EINVAL, "sides below the square");
    data_buckets_make(&b, ctx, 512, 0, 0, 0);
    check_failed(ctx, AG_EINVAL, "no step");
    ag_ctx_free(ctx);
}

static long double change(data_size p, data_size box)
{
    const long double a = (long double)p.w / p.h, b = (long double)box.w / box.h;

    return a > b ? a / b : b / a;
}

/* No box changes the aspect ratio less, and none as little is larger. */
static void test_find(void **state)
{
    const ag_draw draw = {.seed = 2, .purpose = AG_DRAW_TEST};
    ag_ctx *ctx = check_ctx();
    data_buckets b = {0};

    (void)state;
    data_buckets_make(&b, ctx, 512, 64, 0, 0);
    check_ok(ctx, "buckets");
    for (uint64_t i = 0; i < 20000; i += 2) {
        const int64_t most = i % 4 ? 16384 : 1200;
        const data_size p = {1 + ag_draw_integer(&draw, i, most), 1 + ag_draw_integer(&draw, i + 1, most)};
        const data_size got = b.boxes[data_buckets_find(&b, p)];
        for (int64_t k = 0; k < b.n; k++) {
            assert_true(change(p, got) <= change(p, b.boxes[k]) * (1.0L + 1e-15L));
            if (fabsl(change(p, got) - change(p, b.boxes[k])) < 1e-15L)
                assert_true(got.w * got.h >= b.boxes[k].w * b.boxes[k].h);
        }
    }
    for (int64_t k = 0; k < b.n; k++) /* a picture of a box's own shape */
        assert_int_equal(data_buckets_find(&b, (data_size){3 * b.boxes[k].w, 3 * b.boxes[k].h}), k);
    data_buckets_close(&b);
    ag_ctx_free(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),           cmocka_unit_test(test_epochs),   cmocka_unit_test(test_plain),
        cmocka_unit_test(test_unshuffled),      cmocka_unit_test(test_extras_go_round), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_refusals),        cmocka_unit_test(test_boxes),    cmocka_unit_test(test_find),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
