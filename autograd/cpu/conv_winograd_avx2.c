/* conv_winograd_avx2.c - Winograd's transforms for AVX2. */
#include "autograd/cpu/conv_winograd_kernel.inc.h"
#include "autograd/cpu/conv_winograd_fused.inc.h"
