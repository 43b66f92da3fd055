/* gemm_portable.c - the register tiles for any machine. */
#include "autograd/cpu/gemm_kernel.inc.h"
