/* elementwise_amx.c - elementwise kernels for AVX-512 with bf16; see elementwise_kernel.inc.h. */
#include "autograd/cpu/elementwise_kernel.inc.h"
