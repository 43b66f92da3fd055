/* elementwise_avx2.c - elementwise kernels for AVX2 and FMA; see elementwise_kernel.inc.h. */
#include "autograd/cpu/elementwise_kernel.inc.h"
