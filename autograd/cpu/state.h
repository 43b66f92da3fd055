/* state.h - what the CPU back end keeps between calls: threads, instruction set, oneDNN's compiled
 * primitives by shape. Never weights or activations.
 *
 * A state belongs to one thread at a time; its kernels use `n_threads` OpenMP threads.
 */
#ifndef AG_CPU_STATE_H
#define AG_CPU_STATE_H

#include "autograd/cpu/isa.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cpu_state cpu_state;
struct cpu_onednn;

/* n_threads < 1 means every processor this process may run on. The instruction set is the
 * machine's (cpu_isa_here). NULL when memory is refused. */
cpu_state *cpu_state_new(int n_threads);
void cpu_state_free(cpu_state *state); /* NULL is fine */

/* Use no more than `isa` from now on (for tests; what the machine lacks is never used). */
void cpu_state_cap_isa(cpu_state *state, cpu_isa isa);

int cpu_state_threads(const cpu_state *state);
cpu_isa cpu_state_isa(const cpu_state *state);
struct cpu_onednn *cpu_state_onednn(cpu_state *state);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_STATE_H */
