/* isa.h - which vector instructions the kernels may use.
 *
 * Each level contains the ones before it. A kernel takes a level as `int isa` and uses the best
 * form it has that is not above it.
 */
#ifndef AG_CPU_ISA_H
#define AG_CPU_ISA_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cpu_isa {
    CPU_ISA_PORTABLE, /* whatever the compiler assumes for this architecture */
    CPU_ISA_AVX2,     /* AVX2, FMA, F16C */
    CPU_ISA_AVX512,   /* and AVX-512 F, BW, VL, DQ */
    CPU_ISA_AMX,      /* and AVX512_BF16, AMX-TILE, AMX-BF16, with the kernel's permission */
    CPU_N_ISA
} cpu_isa;

/* The best level of this processor and operating system, not above AGEWRIGHT_MAX_ISA
 * (portable|avx2|avx512|amx) when that is set to one of these words. Found once per process: the
 * environment is read at the first call, later changes are not seen. From any thread. */
cpu_isa cpu_isa_here(void);

/* Does the processor have AVX512_BF16 and is the level AVX-512 or more? oneDNN's bf16 needs it. */
bool cpu_isa_has_bf16(void);

const char *cpu_isa_name(int isa); /* "portable", "avx2", "avx512", "amx" */

/* Read a name as above. False, with *out untouched, when it is none of them. */
bool cpu_isa_parse(cpu_isa *out, const char *name);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_ISA_H */
