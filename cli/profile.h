/* profile.h - where the time of a piece of work goes: a table by operation and shape. */
#ifndef CLI_PROFILE_H
#define CLI_PROFILE_H

#include <stdio.h>

#include "autograd/context.h"

typedef struct cli_profile cli_profile;

/* Watch every operation of ctx from now on, until cli_profile_free(). NULL when memory is refused.
 * Only one may watch a context at a time. */
cli_profile *cli_profile_new(ag_ctx *ctx);
void cli_profile_free(cli_profile *profile); /* NULL is fine */

void cli_profile_reset(cli_profile *profile); /* forget what was seen */

/* Two tables, the costliest lines first: operations, and operations by shape (at most n_lines). Every
 * line: calls, milliseconds, share, GF/s and GB/s over the operation's own arithmetic and traffic.
 * `n_rounds` divides calls and times: how often the work was done. */
void cli_profile_print(cli_profile *profile, FILE *to, int n_rounds, int n_lines);

#endif /* CLI_PROFILE_H */
