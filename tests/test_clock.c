/* test_clock.c - every batch of an epoch is met once, in order, whatever the sizes: against a
 * plain walk over all micro-steps.
 */
#include "tests/check.h"

#include "train/clock.h"
#include "train/draws.h"

/* Walk through epochs as a loader would, and compare. */
static void walk(int64_t n_batches, int64_t accumulation)
{
    const train_calendar c = {n_batches, accumulation};
    const int64_t per_epoch = train_updates_per_epoch(&c);
    int64_t update = 0;
    uint32_t last_key = 0;

    for (int64_t epoch = 0; epoch < 3; epoch++) {
        int64_t batch = 0, updates = 0;
        while (batch < n_batches) {
            const train_moment m = train_moment_of(&c, update);
            int64_t micro = 0;
            assert_int_equal(m.update, update);
            assert_int_equal(m.epoch, epoch);
            for (; micro < accumulation && batch < n_batches; micro++) {
                const uint32_t key = train_draw_step(&c, &m, micro);
                assert_int_equal(train_batch_of(&c, &m, micro), batch++);
                assert_true((update == 0 && micro == 0) || key > last_key); /* never twice */
                last_key = key;
            }
            assert_int_equal(m.n_micro, micro); /* short at the end of an epoch */
            update++;
            updates++;
        }
        assert_int_equal(updates, per_epoch);
    }
    assert_int_equal(train_total_updates(&c, 0, 3), update);
    assert_int_equal(train_total_updates(&c, 17, 3), 17);
}

static void test_walks(void **state)
{
    (void)state;
    for (int64_t n = 1; n <= 13; n++)
        for (int64_t accumulation = 1; accumulation <= 5; accumulation++)
            walk(n, accumulation);
    walk(150, 4);
    walk(70000, 3);
}

/* Draws do not depend on how long an epoch is. */
static void test_draw_steps(void **state)
{
    const train_calendar a = {150, 2}, b = {10, 2};
    const train_moment m = train_moment_of(&a, 33), n = train_moment_of(&b, 33);

    (void)state;
    assert_int_equal(train_draw_step(&a, &m, 1), train_draw_step(&b, &n, 1));
    assert_int_equal(train_draw_step(&a, &m, 1), 67);
    assert_int_equal(n.epoch, 6);
}

/* Every timestep of [low, high) is drawn and no other; the same place gives the same one. */
static void test_timesteps(void **state)
{
    enum { LOW = 7, HIGH = 19, N = 2000 };
    int seen[HIGH] = {0};
    (void)state;

    for (int r = 0; r < N; r++) {
        const int64_t t = train_draw_timestep(3, 5, r, LOW, HIGH);

        assert_in_range(t, LOW, HIGH - 1);
        assert_int_equal(t, train_draw_timestep(3, 5, r, LOW, HIGH));
        seen[t]++;
    }
    for (int t = LOW; t < HIGH; t++)
        assert_in_range(seen[t], N / (HIGH - LOW) / 2, 2 * N / (HIGH - LOW));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walks),
        cmocka_unit_test(test_draw_steps),
        cmocka_unit_test(test_timesteps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
