/* state.c - the CPU back end's state. */
#include "autograd/cpu/state.h"

#include <omp.h>
#include <stdlib.h>

#include "autograd/cpu/onednn.h"

struct cpu_state {
    int n_threads;
    cpu_isa isa;
    cpu_onednn *onednn;
};

cpu_state *cpu_state_new(int n_threads)
{
    cpu_state *state = calloc(1, sizeof *state);

    if (!state)
        return NULL;
    state->n_threads = n_threads >= 1 ? n_threads : omp_get_num_procs();
    state->isa = cpu_isa_here();
    state->onednn = cpu_onednn_new(state->n_threads);
    if (!state->onednn) {
        free(state);
        return NULL;
    }
    return state;
}

void cpu_state_free(cpu_state *state)
{
    if (!state)
        return;
    cpu_onednn_free(state->onednn);
    free(state);
}

void cpu_state_cap_isa(cpu_state *state, cpu_isa isa)
{
    if (state->isa > isa)
        state->isa = isa;
}

int cpu_state_threads(const cpu_state *state)
{
    return state->n_threads;
}

cpu_isa cpu_state_isa(const cpu_state *state)
{
    return state->isa;
}

cpu_onednn *cpu_state_onednn(cpu_state *state)
{
    return state->onednn;
}
