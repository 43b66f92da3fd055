/* isa.c - asks the processor and the operating system, once.
 *
 * The answer is kept in two static variables: a property of the machine and of the process's
 * environment, not state. Two threads that ask at the same time find the same answer.
 */
#include "autograd/cpu/isa.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const isa_names[CPU_N_ISA] = {"portable", "avx2", "avx512", "amx"};

static pthread_once_t isa_once = PTHREAD_ONCE_INIT;
static cpu_isa isa_here;
static bool isa_bf16;

#if defined(__x86_64__)

/* The tile registers are 8 KiB that a thread has to ask the kernel for (Linux, arch_prctl(2),
 * Documentation/arch/x86/xstate.rst). The permission covers the whole process. */
static bool amx_is_granted(void)
{
    enum { ARCH_REQ_XCOMP_PERM_ = 0x1023, XFEATURE_XTILEDATA_ = 18 };
    unsigned eax, ebx, ecx, edx, low, high;

    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx))
        return false;
    if (!(edx >> 22 & 1) || !(edx >> 24 & 1)) /* AMX-BF16, AMX-TILE */
        return false;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx >> 27 & 1)) /* OSXSAVE */
        return false;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low >> 17 & 3) != 3)
        return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_, XFEATURE_XTILEDATA_) == 0;
}

static bool has_avx512_bf16(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 5 & 1);
}

static cpu_isa isa_of_machine(bool *bf16)
{
    __builtin_cpu_init();
    *bf16 = false;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("f16c"))
        return CPU_ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return CPU_ISA_AVX2;
    *bf16 = has_avx512_bf16();
    return *bf16 && amx_is_granted() ? CPU_ISA_AMX : CPU_ISA_AVX512;
}

#else

static cpu_isa isa_of_machine(bool *bf16)
{
    *bf16 = false;
    return CPU_ISA_PORTABLE;
}

#endif

static void isa_find(void)
{
    const char *cap_name = getenv("AGEWRIGHT_MAX_ISA");
    cpu_isa cap = CPU_ISA_AMX;

    isa_here = isa_of_machine(&isa_bf16);
    if (cap_name)
        cpu_isa_parse(&cap, cap_name);
    if (isa_here > cap)
        isa_here = cap;
    isa_bf16 = isa_bf16 && isa_here >= CPU_ISA_AVX512;
}

cpu_isa cpu_isa_here(void)
{
    pthread_once(&isa_once, isa_find);
    return isa_here;
}

bool cpu_isa_has_bf16(void)
{
    pthread_once(&isa_once, isa_find);
    return isa_bf16;
}

const char *cpu_isa_name(int isa)
{
    return isa >= 0 && isa < CPU_N_ISA ? isa_names[isa] : "unknown";
}

bool cpu_isa_parse(cpu_isa *out, const char *name)
{
    for (int i = 0; i < CPU_N_ISA; i++)
        if (strcmp(name, isa_names[i]) == 0) {
            *out = (cpu_isa)i;
            return true;
        }
    return false;
}
