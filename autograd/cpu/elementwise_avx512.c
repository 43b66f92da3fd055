/* elementwise_avx512.c - elementwise kernels for AVX-512; see elementwise_kernel.inc.h. */
#include "autograd/cpu/elementwise_kernel.inc.h"
