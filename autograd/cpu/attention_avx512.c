/* attention_avx512.c - attention kernels for AVX-512; see attention_kernel.inc.h. */
#include "autograd/cpu/attention_kernel.inc.h"
