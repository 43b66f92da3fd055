/* gemm_avx2.c - the register tiles for AVX2. */
#include "autograd/cpu/gemm_kernel.inc.h"
