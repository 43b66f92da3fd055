/* replay.h - work that is done again and again on other values: recorded once, then repeated.
 *
 * On a GPU the host may need longer to queue the thousands of kernels of a step than the device to run them. An
 * ag_replay runs a function of tensors: for each kind of work and each set of shapes of its inputs the first time as it
 * is (libraries make their plans), the second time recording it as a graph of the device, and from then on by
 * copying the inputs to where the graph reads them and launching it. The function is not called any more, and the bits
 * are the same. Activations and scratch of all such work lie in an arena that nobody else uses.
 *
 * What the function may do  Ops, ag_grad(), changing tensors of lifetime AG_MODEL in place. It must not keep what it
 * made. It must be a function of its inputs, of AG_MODEL tensors and of nothing else that changes: no values from
 * or to the host (ag_write, ag_read, ag_look, ag_wait, ag_from_...), no step tensor from before. Where it does so all
 * the same, the recording is given up and that kind of work runs as it is from then on.
 *
 * Not recorded and not repeated: on other devices than AG_CUDA, when switched off, and while an observer watches
 * (autograd/observe.h); then every time is like the first. More shapes than there is room for graphs: the one
 * that was not used for the longest time goes. When an AG_MODEL tensor that a graph knows is let go, graphs are
 * recorded anew.
 */
#ifndef AG_REPLAY_H
#define AG_REPLAY_H

#include "autograd/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { AG_REPLAY_IN = 8, AG_REPLAY_OUT = 4, AG_REPLAY_GRAPHS = 32 };

typedef struct ag_replay ag_replay;

typedef struct ag_replay_options {
    bool off;     /* run everything as it is; as does a context made with no_graphs */
    int n_graphs; /* room; 0: AG_REPLAY_GRAPHS */
} ag_replay_options;

/* options may be NULL. Must be freed before the context. */
ag_status ag_replay_new(ag_replay **out, ag_ctx *ctx, const ag_replay_options *options);
void ag_replay_free(ag_replay *replay); /* waits for the device; NULL is fine */

/* Fill out[0 .. n_out); a failure stays in the context. */
typedef void (*ag_replay_fn)(ag_ctx *ctx, void *user, ag_tensor *const *in, ag_tensor **out);

typedef struct ag_replay_work {
    int kind; /* works of one kind differ by the shapes of their inputs only */
    ag_replay_fn fn;
    void *user;
    ag_tensor *const *in; /* [n_in]; an input may be NULL */
    int n_in, n_out;
} ag_replay_work;

/* Do it. out[i] belongs to the open scope; it holds its values until the next run. */
ag_status ag_replay_run(ag_replay *replay, const ag_replay_work *work, ag_tensor **out);

/* Do work of another kind, run as it is, in the arena's memory, which is free between repeated steps: so a pass that
 * takes much needs none beside theirs. It may read and write as it likes, but not keep what it made (AG_EINVAL). */
ag_status ag_replay_beside(ag_replay *replay, ag_status (*fn)(ag_ctx *ctx, void *user), void *user);

/* How often work ran as it is, was recorded, repeated; graphs that went; recordings that were given up. */
typedef struct ag_replay_counts {
    int64_t plain, recorded, repeated, dropped, given_up;
} ag_replay_counts;
ag_replay_counts ag_replay_counted(const ag_replay *replay);
/* Why the last recording was given up, "" when none was. */
const char *ag_replay_reason(const ag_replay *replay);

#ifdef __cplusplus
}
#endif

#endif /* AG_REPLAY_H */
