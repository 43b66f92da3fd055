/* norm_avx512.c - softmax and norms for AVX-512; see norm_kernel.inc.h. */
#include "autograd/cpu/norm_kernel.inc.h"
