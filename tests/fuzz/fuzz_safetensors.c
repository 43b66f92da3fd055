/* fuzz_safetensors.c - any bytes as a safetensors file, or as the header of one. */
#include "tests/fuzz/weights_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    size_t n_file;
    uint8_t *file = fuzz_safetensors_file(bytes, n, 0, &n_file);

    if (file)
        fuzz_weights(file, n_file);
    free(file);
    return 0;
}
