/* attention_avx2.c - attention kernels for AVX2 and FMA; see attention_kernel.inc.h. */
#include "autograd/cpu/attention_kernel.inc.h"
