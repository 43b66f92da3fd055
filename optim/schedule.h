/* schedule.h - the learning rate as a function of the update number.
 *
 * Nothing is stepped by hand: lr(k) is computed from k, so a resumed run needs no state.
 * (huggingface/diffusers: src/diffusers/optimization.py)
 */
#ifndef OPT_SCHEDULE_H
#define OPT_SCHEDULE_H

#include "autograd/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum opt_schedule_kind {
    OPT_CONSTANT,
    OPT_CONSTANT_WITH_WARMUP,
    OPT_LINEAR,
    OPT_COSINE,
    OPT_COSINE_WITH_RESTARTS,
    OPT_POLYNOMIAL,
    OPT_PIECEWISE_CONSTANT,
    OPT_N_SCHEDULES
} opt_schedule_kind;

typedef struct opt_schedule {
    opt_schedule_kind kind;
    double lr;             /* the base rate, > 0 */
    int64_t warmup, total; /* in updates */
    double cycles;         /* cosine_with_restarts: how many; cosine: half of it is 1/2 */
    double power;          /* polynomial */
    const char *rules;     /* piecewise_constant: "1:10,0.1:20,0.005"; borrowed */
} opt_schedule;

/* "constant", "cosine_with_restarts", ...: NULL-terminated, in the order of the enum. */
extern const char *const opt_schedule_names[];

/* Refuse what cannot work (a polynomial with lr <= 1e-7, rules that cannot be read). */
ag_status opt_schedule_check(ag_ctx *ctx, const opt_schedule *schedule);

/* The rate of update k = 0, 1, 2, ... With W = warmup, T = total, p = (k-W)/max(1,T-W):
 *   warm-up (k < W, not for constant and piecewise)  lr k/max(1,W)
 *   linear        lr max(0, (T-k)/max(1,T-W))
 *   cosine        lr max(0, (1 + cos(pi p))/2), p clamped to 1 (the original rises again after T)
 *   restarts      lr max(0, (1 + cos(pi frac(cycles p)))/2), 0 when p >= 1
 *   polynomial    (lr - e)(1-p)^power + e, e = 1e-7; e after T */
double opt_schedule_lr(const opt_schedule *schedule, int64_t k);

#ifdef __cplusplus
}
#endif

#endif /* OPT_SCHEDULE_H */
