/* clock.c - see clock.h. */
#include "train/clock.h"

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int64_t train_updates_per_epoch(const train_calendar *c)
{
    return ceil_div(c->n_batches, c->accumulation);
}

int64_t train_total_updates(const train_calendar *c, int64_t max_train_steps, int64_t epochs)
{
    return max_train_steps > 0 ? max_train_steps : epochs * train_updates_per_epoch(c);
}

train_moment train_moment_of(const train_calendar *c, int64_t update)
{
    const int64_t per_epoch = train_updates_per_epoch(c);
    const int64_t batches_before = update % per_epoch * c->accumulation;
    train_moment m = {.update = update, .epoch = update / per_epoch};

    m.n_micro = c->n_batches - batches_before < c->accumulation ? c->n_batches - batches_before : c->accumulation;
    return m;
}

int64_t train_batch_of(const train_calendar *c, const train_moment *m, int64_t micro)
{
    return m->update % train_updates_per_epoch(c) * c->accumulation + micro;
}

uint32_t train_draw_step(const train_calendar *c, const train_moment *m, int64_t micro)
{
    return (uint32_t)(m->update * c->accumulation + micro);
}
