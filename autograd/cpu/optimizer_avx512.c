/* optimizer_avx512.c - optimizer kernels for AVX-512; see optimizer_kernel.inc.h. */
#include "autograd/cpu/optimizer_kernel.inc.h"
