/* conv_winograd_avx512.c - Winograd's transforms for AVX-512. */
#include "autograd/cpu/conv_winograd_kernel.inc.h"
#include "autograd/cpu/conv_winograd_fused.inc.h"
