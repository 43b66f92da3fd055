/* isa.c - see isa.h. */
#include "autograd/cpu/isa.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const NAMES[CPU_ISA_N] = {"portable", "avx2", "avx512", "amx"};

const char *cpu_isa_name(cpu_isa isa)
{
    return NAMES[isa];
}

#if defined(__x86_64__)
#include <cpuid.h>

/* The kernel hands out AMX's tile registers only to a process that asks. */
static int may_use_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

cpu_isa cpu_isa_machine(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    const unsigned amx_bits = 1u << 22 | 1u << 24; /* AMX-BF16, AMX-TILE */

    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return CPU_ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CPU_ISA_AVX2;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx_bits) == amx_bits && may_use_tiles())
        return CPU_ISA_AMX;
    return CPU_ISA_AVX512;
}
#else
cpu_isa cpu_isa_machine(void)
{
    return CPU_ISA_PORTABLE;
}
#endif

cpu_isa cpu_isa_here(void)
{
    const char *most = getenv("AGEWRIGHT_MAX_ISA");
    const cpu_isa machine = cpu_isa_machine();

    for (int isa = 0; most && isa < CPU_ISA_N; isa++)
        if (strcmp(most, NAMES[isa]) == 0 && isa < (int)machine)
            return (cpu_isa)isa;
    return machine;
}
