/* norm_amx.c - softmax and norms for AVX-512 with bf16; see norm_kernel.inc.h. */
#include "autograd/cpu/norm_kernel.inc.h"
