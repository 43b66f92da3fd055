/* isa.h - which vector instructions the CPU kernels use.
 *
 * Each level includes those before it. The level is found once and can be lowered by the
 * environment variable AGEWRIGHT_MAX_ISA=portable|avx2|avx512|amx, so that every path can be run
 * on a machine that has more.
 */
#ifndef AG_CPU_ISA_H
#define AG_CPU_ISA_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum cpu_isa {
    CPU_ISA_PORTABLE,
    CPU_ISA_AVX2,   /* AVX2, FMA, F16C */
    CPU_ISA_AVX512, /* AVX-512 F, BW, VL, DQ */
    CPU_ISA_AMX,    /* AMX tiles for bf16, usable by this process */
    CPU_ISA_N
} cpu_isa;

cpu_isa cpu_isa_machine(void); /* what the machine and the system allow */
cpu_isa cpu_isa_here(void);    /* the same, lowered by AGEWRIGHT_MAX_ISA */
const char *cpu_isa_name(cpu_isa isa);

#ifdef __cplusplus
}
#endif

#endif /* AG_CPU_ISA_H */
