/* work.h - the operations of a run, counted by shape, and how long each takes on this machine.
 *
 * A pass on AG_META runs the code of the real pass and computes nothing. Watching it gives every
 * operation with its shapes. Then the costliest are run once here, alone, on made-up values, until
 * a given time is spent; what is left is put down at the speed of its measured relatives.
 */
#ifndef TRAIN_WORK_H
#define TRAIN_WORK_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TRAIN_WORK_PHASES = 8 };

typedef struct train_work train_work;

/* ctx keeps the host memory and must outlive the work. */
ag_status train_work_new(train_work **out, ag_ctx *ctx);
void train_work_free(train_work *work); /* NULL is fine */

/* From now on count the operations of `watched` (usually on AG_META) under phase 0 ..
 * TRAIN_WORK_PHASES-1; phase -1: no longer. */
void train_work_watch(train_work *work, ag_ctx *watched, int phase);

/* Measure there for about `seconds`, first what may cost the run most; times [TRAIN_WORK_PHASES]
 * says how often the run goes through each phase. Operations that memory does not suffice for are
 * passed over. */
ag_status train_work_measure(train_work *work, ag_ctx *where, const double *times, double seconds);

/* Time of all that was counted under a phase. Nothing measured: 0. */
double train_work_seconds(const train_work *work, int phase);

/* Kinds of work over all phases, as the table of `agewright plan` shows them. */
typedef struct train_work_kind {
    const char *name;                    /* "convolution 3x3" */
    double calls, flops, bytes, seconds; /* forecast */
    double measured; /* how much of the seconds was measured with its own shape, 0 .. 1 */
} train_work_kind;
enum { TRAIN_WORK_KINDS = 7 };
void train_work_kinds(const train_work *work, train_work_kind kinds[TRAIN_WORK_KINDS]);

#ifdef __cplusplus
}
#endif

#endif /* TRAIN_WORK_H */
