/* observe.h - be told of every operation: profiles, forecasts, the search for a first NaN. */
#ifndef AG_OBSERVE_H
#define AG_OBSERVE_H

#include "autograd/op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Called after each op. `seconds` is the kernel's wall time (0 on AG_META). The observer must not
 * call ops of the same context. */
typedef void (*ag_observer)(void *user, const ag_call *call, const ag_cost *cost, double seconds);

void ag_observe(ag_ctx *ctx, ag_observer observer, void *user); /* NULL: nobody */

#ifdef __cplusplus
}
#endif

#endif /* AG_OBSERVE_H */
