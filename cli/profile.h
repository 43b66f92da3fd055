/* profile.h - where the time of a command goes: a table by operation and shape, and a trace.
 *
 * --profile and --trace FILE of any command that computes; cli_run() begins and ends both.
 */
#ifndef CLI_PROFILE_H
#define CLI_PROFILE_H

#include <stdio.h>

#include "autograd/context.h"

typedef struct cli_profile cli_profile;

/* Watch every operation of ctx from now on. Only one may watch a context at a time.
 *
 * trace  NULL, or a file that takes every operation as it happens, in the trace event format that
 *        chrome://tracing and Perfetto open: name, shape, begin and duration in microseconds.
 * NULL, and ctx failed, when memory is refused or the trace cannot be written. */
cli_profile *cli_profile_new(ag_ctx *ctx, const char *trace);
/* No longer watch, and finish the trace (AG_EIO when it could not all be written). NULL is fine. */
ag_status cli_profile_free(cli_profile *profile);

/* Forget what was seen so far: what follows is `n_rounds` times the same work, and the tables show one.
 * NULL is fine. */
void cli_profile_begin(cli_profile *profile, int n_rounds);

/* Two tables, the costliest lines first: operations, and operations by shape. Every line: calls,
 * milliseconds, share of the time, GF/s and GB/s over the operation's own arithmetic and traffic, and how near that
 * is to what this machine was measured to do just now, in arithmetic or in traffic, whichever is nearer:
 * the peak is a square product in f32, or in bf16 where the operation's inputs are, and a large copy. */
void cli_profile_print(const cli_profile *profile, FILE *to);

#endif /* CLI_PROFILE_H */
