/* gemm_avx512.c - the register tiles for AVX-512. */
#include "autograd/cpu/gemm_kernel.inc.h"
