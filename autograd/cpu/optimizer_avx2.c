/* optimizer_avx2.c - optimizer kernels for AVX2 and FMA; see optimizer_kernel.inc.h. */
#include "autograd/cpu/optimizer_kernel.inc.h"
