/* clock.h - where a run is, as a function of the update number.
 *
 * The update number is the clock: epoch, place in the epoch, which samples, which draws are computed
 * from it. A resumed run knows all of it from one integer.
 */
#ifndef TRAIN_CLOCK_H
#define TRAIN_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct train_calendar {
    int64_t n_batches;    /* micro-steps of an epoch, > 0 */
    int64_t accumulation; /* micro-steps in an update, > 0; the last update of an epoch may be short */
} train_calendar;

typedef struct train_moment {
    int64_t update;  /* from 0 */
    int64_t epoch;   /* from 0 */
    int64_t n_micro; /* micro-steps of this update */
} train_moment;

int64_t train_updates_per_epoch(const train_calendar *calendar);
/* Updates of a run: max_train_steps when > 0, else epochs times the updates of one. */
int64_t train_total_updates(const train_calendar *calendar, int64_t max_train_steps, int64_t epochs);
train_moment train_moment_of(const train_calendar *calendar, int64_t update);

/* Which batch of its epoch micro-step `micro` of an update is: 0 .. n_batches - 1. */
int64_t train_batch_of(const train_calendar *calendar, const train_moment *moment, int64_t micro);

/* The number that keys the draws of a micro-step: it never repeats in a run, and does not depend on
 * how many batches an epoch has. */
uint32_t train_draw_step(const train_calendar *calendar, const train_moment *moment, int64_t micro);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_CLOCK_H */
