/* norm_avx2.c - softmax and norms for AVX2 and FMA; see norm_kernel.inc.h. */
#include "autograd/cpu/norm_kernel.inc.h"
