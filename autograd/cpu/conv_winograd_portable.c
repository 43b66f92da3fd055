/* conv_winograd_portable.c - Winograd's transforms for any machine. */
#include "autograd/cpu/conv_winograd_kernel.inc.h"
#include "autograd/cpu/conv_winograd_fused.inc.h"
