/* fuzz_safetensors.c - any bytes as a safetensors file.
 *
 * An input that begins with '{' is a header only: its length is put before it and as many zeros
 * after it as its largest offset asks for, so that most inputs get past the first checks. Any
 * other input is a file as it is.
 */
#include "tests/fuzz/weights_fuzz.h"

enum { MOST_VALUES = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* The largest whole number up to MOST_VALUES that stands before a ']'. */
static size_t n_values_of(const uint8_t *header, size_t n)
{
    size_t most = 0, number = 0;

    for (size_t i = 0; i < n; i++) {
        if (header[i] >= '0' && header[i] <= '9' && number <= MOST_VALUES)
            number = 10 * number + header[i] - '0';
        else if (header[i] == ']' && number <= MOST_VALUES && number > most)
            most = number;
        if (header[i] < '0' || header[i] > '9')
            number = 0;
    }
    return most;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    const size_t n_values = n > 0 && *bytes == '{' ? n_values_of(bytes, n) : 0;
    uint8_t *file;

    if (n == 0 || *bytes != '{') {
        fuzz_weights(bytes, n);
        return 0;
    }
    file = calloc(1, 8 + n + n_values);
    if (!file)
        return 0;
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)(n >> 8 * i);
    memcpy(file + 8, bytes, n);
    fuzz_weights(file, 8 + n + n_values);
    free(file);
    return 0;
}
