/* state.h - what the CPU back end keeps between calls: threads, instruction set, oneDNN's objects. */
#ifndef AG_CPU_STATE_H
#define AG_CPU_STATE_H

#include "autograd/cpu/isa.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cpu_state cpu_state;

cpu_state *cpu_state_new(int n_threads); /* NULL when memory is refused */
void cpu_state_free(cpu_state *state);   /* NULL is fine */

int cpu_state_threads(const cpu_state *state);
cpu_isa cpu_state_isa(const cpu_state *state);
/* For tests: use less than the machine has. */
void cpu_state_limit_isa(cpu_state *state, cpu_isa isa);

/* oneDNN's engine, stream and made primitives, made at the first use; NULL when it cannot be used
 * (autograd/cpu/onednn.h). */
struct cpu_onednn;
struct cpu_onednn *cpu_state_onednn(cpu_state *state);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_STATE_H */
